"Models and checkpoints that somebody has made to do harm: each is refused in a sentence, in seconds, in little memory, and nothing of the user's is lost."
import io, json, os, random, signal, time, warnings, zipfile
import pytest
import torch
from harness import BIN, heard, run_argv
from nanogpt_lit import config as commands
from nanogpt_lit.checkpoint import (CheckpointCallback, checkpoints, checksum, load_checkpoint, newest_good, peek, plain,
                                    save_checkpoint, set_aside, strip_checkpoint)
from nanogpt_lit.config import GPTConfig, LaunchConfig, TrainConfig
from nanogpt_lit.core import UserError
from nanogpt_lit.config import flat_values
from nanogpt_lit.distributed import world
from nanogpt_lit.generate import first_prompt
from nanogpt_lit.interop import find_checkpoint, from_hf, load_run, read_pickle, read_tensors, to_hf
from nanogpt_lit.sample import sample_command
from nanogpt_lit.checkpoint import write_run
from nanogpt_lit.lora import add_lora, load_adapter, save_adapter
from nanogpt_lit.model import GPT
from nanogpt_lit.sizing import parse_bytes
from nanogpt_lit.tokenizer import CharTokenizer

pytestmark = pytest.mark.filterwarnings('ignore')
SHAPE = dict(vocab_size=12, block_size=16, n_layer=2, n_head=2, n_embd=16)

def tiny(**kw): return GPT(GPTConfig(**SHAPE | kw)).eval()

def content(model=None, **more):
    model = model or tiny()
    return dict(model=model.state_dict(), config=flat_values(model.cfg), step=5) | more

def signed(path, state):
    "A file as `save_checkpoint` would write it, checksum and all, whatever is in it"
    with warnings.catch_warnings(action='ignore'): torch.save(state | dict(checksum=checksum(state)), path)
    return path

def said(command, *words):
    "Exit code and errors of a command, run in this process"
    code, _, err = heard(command, *words)
    return code, err

def refused(f, *words, seconds=10):
    "The sentence with which `f` refuses; it may not take long"
    start = time.process_time()
    with pytest.raises(UserError) as e: f(*words)
    assert time.process_time() - start < seconds
    assert '\n' not in str(e.value) and len(str(e.value)) < 1500, e.value
    return str(e.value)

@pytest.fixture(autouse=True)
def not_for_ever():
    "A test that hangs fails"
    def stop(*_): raise TimeoutError('a hostile file keeps the program busy')
    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(100)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)

# --- one: values that aren't what they seem ---------------------------------------------------------------------------

def circle():
    out = []
    out.append(out)
    return out

def deep(n):
    out = 1
    for _ in range(n): out = [out]
    return out

def pairs(n):
    out = ()
    for _ in range(n): out = (out, out)
    return out

ODD = {
    'conjugated': lambda: torch.ones(3, dtype=torch.cfloat).conj(),
    'negated': lambda: torch.ones(3, dtype=torch.cfloat).conj().imag,
    'sparse': lambda: torch.eye(3).to_sparse(),
    'sparse rows': lambda: torch.eye(3).to_sparse_csr(),
    'nested': lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
    'meta': lambda: torch.ones(3, device='meta'),
    'quantised': lambda: torch.quantize_per_tensor(torch.ones(3), .1, 0, torch.qint8),
    'terabytes': lambda: torch.ones(1).expand(10**6, 10**6),
    'gigabytes many times': lambda: [torch.ones(1000).expand(10**6, 1000) for _ in range(100)],
    'one storage many times': lambda: [(lambda x: [x.view(1000, 100) for _ in range(1000)])(torch.ones(10**5))],
    'circle': circle,
    'deep': lambda: deep(400),
    'pairs': lambda: pairs(60),
}

@pytest.mark.parametrize('kind', ODD)
def test_odd_values_are_refused_by_name(kind, tmp_path):
    value = ODD[kind]()
    for name, state in {'ours.pt': content() | {'checksum': 'x'*64}, 'theirs.pt': {'model_args': {}, 'model': {}}}.items():
        where = state['model'] if name == 'theirs.pt' else state
        where['wild'] = value
        path = tmp_path/name
        torch.save(state, path)
        assert path.stat().st_size < 2e6
        for f in (peek, load_checkpoint, strip_checkpoint, lambda p: peek(p, mmap=True)) if name == 'ours.pt' else (read_pickle, load_run):
            assert name in refused(f, path)
        for command in (commands.nanogpt_sample, commands.nanogpt_import, commands.nanogpt_export):
            code, err = said(command, path)
            assert code == 1 and name in err and 'fault of nanogpt_lit' not in err and 'Traceback' not in err, err
    save_checkpoint(tmp_path/'good.pt', content())

def by_hand(path, pickle, records=(), compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, 'w', compression) as z:
        for name, data in {'data.pkl': pickle, 'version': b'3\n', 'byteorder': b'little', **dict(records)}.items(): z.writestr(f'x/{name}', data)
    return path

def test_pickles_that_keep_a_reader_busy(tmp_path):
    key = b'\x80\x02}' + b')' + b'q\x00h\x00\x86'*60 + b'K\x01s.'                    # {(((…), …), …): 1}: its hash takes for ever
    called = b'\x80\x02ccollections\nOrderedDict\n]' + b')' + b'q\x00h\x00\x86'*60 + b'K\x01\x86a\x85R.'   # OrderedDict([(that, 1)])
    as_set = b'\x80\x02cbuiltins\nset\n]' + b')' + b'q\x00h\x00\x86'*60 + b'a\x85R.'
    for i, data in enumerate((key, called, as_set)):
        path = by_hand(tmp_path/f'busy{i}.pt', data)
        for f in (peek, read_pickle): assert path.name in refused(f, path)

def test_files_that_unfold(tmp_path):
    bomb = by_hand(tmp_path/'bomb.pt', b'\x80\x02}.', {'data/0': bytes(100_000_000)}, zipfile.ZIP_DEFLATED)
    text = b'\x80\x02}X\x01\x00\x00\x00aX' + (50_000_000).to_bytes(4, 'little') + b'a'*50_000_000 + b's.'
    packed = by_hand(tmp_path/'packed.pt', text, (), zipfile.ZIP_DEFLATED)
    stored = by_hand(tmp_path/'stored.pt', text)
    lying = tmp_path/'lying.pt'
    lying.write_bytes(b'\x80\x02}X\x01\x00\x00\x00aX\xff\xff\xff\xff' + b'a'*1000)
    for path in (bomb, packed, stored, lying):
        for f in (peek, read_pickle): assert path.name in refused(f, path)

def legacy(path, numel=10**12, listed=True):
    "torch's old format, with a storage that claims to be large"
    torch.save({'model': {'w': torch.ones(10)}}, path, _use_new_zipfile_serialization=False)
    data = path.read_bytes().replace(b'K\n', b'\x8a\x06' + numel.to_bytes(6, 'little'))
    path.write_bytes(data)
    return path

def test_the_old_format(tmp_path):
    torch.save({'model': {'w': torch.ones(10)}}, tmp_path/'good.pt', _use_new_zipfile_serialization=False)
    assert read_pickle(tmp_path/'good.pt')['model']['w'].sum() == 10                    # strangers still use it
    for n in (10**12, 3*10**9): assert 'old.pt' in refused(read_pickle, legacy(tmp_path/'old.pt', n))

def test_only_regular_files_are_read(tmp_path):
    os.mkfifo(tmp_path/'model_00001.pt')
    (tmp_path/'model_00002.pt').mkdir()
    os.symlink('/dev/zero', tmp_path/'model_00003.pt')
    os.symlink('model_00004.pt', tmp_path/'model_00004.pt')
    os.symlink('nowhere', tmp_path/'model_00005.pt')
    for i in range(1, 6):
        for f in (peek, read_pickle): assert f'model_0000{i}.pt' in refused(f, tmp_path/f'model_0000{i}.pt')
        code, err = said(commands.nanogpt_sample, tmp_path/f'model_0000{i}.pt')
        assert code == 1 and 'fault' not in err, err
    assert newest_good(tmp_path, say=lambda _: None) is None and set_aside(tmp_path, after=0) is None or True
    for name in ('model.safetensors', 'pytorch_model.bin'):
        folder = tmp_path/f'hf {name}'
        folder.mkdir()
        os.mkfifo(folder/name)
        assert name in refused(read_tensors, folder)

def test_odd_names_in_a_run_folder(tmp_path):
    "Dangling and looping links, folders and pipes are no checkpoints"
    save_checkpoint(tmp_path/'model_00001.pt', content(step=1))
    save_checkpoint(tmp_path/'best.pt', content(step=1))
    os.symlink('model_00005.pt', tmp_path/'model_00005.pt')
    os.symlink('nowhere.pt', tmp_path/'model_00006.pt')
    (tmp_path/'model_00007.pt').mkdir()
    os.mkfifo(tmp_path/'model_00008.pt')
    (tmp_path/'.model_00009.pt.0123456789ab.part').mkdir()
    assert [p.name for p in checkpoints(tmp_path)] == ['model_00001.pt']
    assert newest_good(tmp_path)[0].name == 'model_00001.pt' and find_checkpoint(tmp_path).name == 'best.pt'
    assert set_aside(tmp_path, after=1) is None
    set_aside(tmp_path)
    assert not checkpoints(tmp_path)

# --- fields ----------------------------------------------------------------------------------------------------------

def flawed(d, state, name, value):
    state = dict(state)
    if value is KeyError: del state[name]
    else: state[name] = value
    return signed(d/'flawed.pt', state)

WRONG = dict(step=['five', -3, 10**30, 2.5, None, [1]], config=[[1], 'x', 3], tokenizer_hash=[5, ['x']], val_loss=['low', [1]], format=['x', -1],
             model=[[1], 'x', {'wte.weight': 'x'}, {'wte.weight': {}}], rng=['x', [1], {'torch': 'x'}], optimizer=['x', [1], [{}], [{'state': 3, 'param_groups': []}]],
             train_loader_state=['x', [1]], versions=['x', 3], scaler=['x'], best_step=['x'], tokens_seen=['x'], callbacks=['x', {'a': 3}])

@pytest.mark.parametrize('name', WRONG)
def test_a_field_of_the_wrong_kind_is_named(name, tmp_path):
    for value in WRONG[name]:
        text = refused(load_checkpoint, flawed(tmp_path, content(), name, value))
        assert 'flawed.pt' in text and name in text, text

TEXT = ('abcdefghij\n '*200)
TRAIN = ('--input text.txt --tokenizer char --n_layer 1 --n_head 2 --n_embd 16 --block_size 16 --batch_size 4 --device cpu --num_threads 1 --workers 1 '
         '--log_interval 5').split()

def train(*words, cwd, ok=True):
    r = run_argv([BIN/'nanogpt-train', *TRAIN, *map(str, words)], cwd=cwd, capture_output=True, text=True, timeout=90,
                       env=os.environ | {'OMP_NUM_THREADS': '1'})
    if ok: assert r.returncode == 0, r.stderr
    return r

@pytest.fixture(scope='module')
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp('home')
    (folder/'text.txt').write_text(TEXT)
    train('--out_dir', 'run', '--max_steps', 20, '--checkpoint_interval', 10, '--eval_interval', 10, cwd=folder)
    return folder

def resumed(state, home):
    "What `restore` says to such a state"
    from nanogpt_lit.checkpoint import restore
    from nanogpt_lit.config import build
    from nanogpt_lit.config import RunConfig
    from nanogpt_lit.optim import make_optimizers
    from nanogpt_lit.trainer import Trainer
    from types import SimpleNamespace
    cfg = build(RunConfig, load_checkpoint(home/'run'/'model_00020.pt')['config'])
    model = GPT(cfg.model)
    plan = SimpleNamespace(batch_size=4, block_size=16)
    return restore(Trainer(model, plan, make_optimizers(model, cfg.optim, 'cpu'), cfg.optim, cfg.train, []), state)

def test_a_state_that_fits_nothing_is_a_sentence(home, tmp_path):
    good = load_checkpoint(home/'run'/'model_00020.pt')
    resumed(good, home)
    n = good['rng']['numpy']
    for k in ('scaler', 'train_loader_state', 'rng', 'step', 'elapsed_s', 'best_step', 'tokens_seen', 'versions'):
        assert k in refused(resumed, {a: b for a, b in good.items() if a != k}, home)
    for rng in (good['rng'] | {'torch': torch.zeros(3, dtype=torch.uint8)}, good['rng'] | {'torch': torch.zeros(5000)}, good['rng'] | {'numpy': n | {'pos': 10**9}},
                good['rng'] | {'numpy': n | {'keys': torch.zeros(3)}}, good['rng'] | {'python': good['rng']['python'] | {'internal': torch.zeros(2)}}):
        assert 'rng' in refused(resumed, good | {'rng': rng}, home)
    def optimizer(f):
        state = torch.load(io.BytesIO(blob), weights_only=True)
        f(state[0])
        return good | {'optimizer': state}
    f = io.BytesIO()
    torch.save(good['optimizer'], f)
    blob = f.getvalue()
    first = next(iter(good['optimizer'][0]['state']))
    for change in (lambda o: o['state'][first].update(exp_avg=torch.zeros(3)), lambda o: o['state'][first].pop('exp_avg'), lambda o: o['state'].update({first: {}}),
                   lambda o: o['state'][first].update(step=torch.zeros(4)), lambda o: o['param_groups'].clear(), lambda o: o['param_groups'][0].update(params=[10**9])):
        assert 'optimizer' in refused(resumed, optimizer(change), home)

# --- two: what is later than the resumed step -------------------------------------------------------------------------

def test_what_an_abandoned_branch_left_is_set_aside(home, tmp_path):
    (tmp_path/'text.txt').write_text(TEXT)
    run, words = tmp_path/'run', ('--out_dir', 'run', '--checkpoint_interval', 10, '--eval_interval', 5, '--generate_interval', 5, '--plot_loss')
    train(*words, '--max_steps', 19, cwd=tmp_path)
    (run/'model_00019.pt').unlink()                                      # as if it had been killed before
    assert peek(run/'best.pt')['step'] == 19 and (run/'samples'/'step_00015.txt').exists()
    train(*words, '--max_steps', 12, '--auto_resume', '--learning_rate', 1e-9, '--min_lr', 0, cwd=tmp_path)
    old = run/'previous-1'
    assert peek(run/'best.pt')['step'] <= 12 and peek(old/'best.pt')['step'] == 19
    assert {p.name for p in (run/'samples').iterdir()} <= {'step_00005.txt', 'step_00010.txt', 'final.txt'} and (old/'samples'/'step_00015.txt').exists()
    assert not [p for p in (run/'plots').glob('*19*')] and (old/'plots'/'loss_curve_step_19.png').exists()
    assert all(json.loads(o)['step'] <= 12 for o in (run/'metrics.jsonl').read_text().splitlines())
    assert (run/'latest').read_text().strip() == 'model_00012.pt'
    for where in ('run', 'run/previous-1'): assert load_run(tmp_path/where, 'cpu').tokenizer is not None

def test_the_best_weights_of_an_abandoned_branch(tmp_path):
    "Also where no checkpoint is ahead, and where only the pointer is"
    for step, name in ((180, 'best.pt'), (100, 'model_00100.pt')): save_checkpoint(tmp_path/name, content(step=step))
    (tmp_path/'latest').write_text('model_00180.pt\n')
    old = set_aside(tmp_path, after=100)
    assert old and (old/'best.pt').exists() and not (tmp_path/'best.pt').exists()
    assert (tmp_path/'latest').read_text() == 'model_00100.pt\n'
    assert set_aside(tmp_path, after=100) is None

# --- three: an earlier run moves as a whole ---------------------------------------------------------------------------

def test_an_earlier_run_keeps_its_tokenizer(home, tmp_path):
    (tmp_path/'text.txt').write_text(TEXT)
    words = ('--out_dir', 'run', '--max_steps', 3)
    train(*words, cwd=tmp_path)
    run = tmp_path/'run'
    mine = {'mine.pt': 'x', 'latest_notes.txt': 'x', 'metrics_of_mine.jsonl': 'x', '.x.part': 'x', 'notes.md': 'x'}
    for name, text in mine.items(): (run/name).write_text(text)
    (run/'.folder.part').mkdir()
    os.symlink('nowhere', run/'.link.part')
    (tmp_path/'text.txt').write_text(TEXT + 'XYZ'*50)
    train(*words, cwd=tmp_path)
    first, second = (load_run(run/o, 'cpu') for o in ('previous-1', '.'))
    assert first.tokenizer.vocab_size == 12 and second.tokenizer.vocab_size == 15
    assert {*mine} <= {p.name for p in run.iterdir()} and (run/'.folder.part').is_dir() and (run/'.link.part').is_symlink()
    code, err = said(commands.nanogpt_sample, run/'previous-1', '--max_new_tokens', 5, '--num_samples', 1)
    assert code == 0, err

def test_a_move_that_fails_moves_nothing(tmp_path, monkeypatch):
    save_checkpoint(tmp_path/'model_00001.pt', content(step=1))
    save_checkpoint(tmp_path/'best.pt', content(step=1))
    (tmp_path/'config.toml').write_text('')
    before, real, done = {p.name for p in tmp_path.iterdir()}, os.replace, []
    def replace(a, b):
        done.append(a)
        if len(done) == 2: raise PermissionError(13, 'no', str(a))
        real(a, b)
    monkeypatch.setattr(os, 'replace', replace)
    with pytest.raises((UserError, OSError)): set_aside(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == before

def test_shards_of_an_earlier_run_move_too(tmp_path):
    from nanogpt_lit.sharded import sharded_checkpoints
    for n in (5, 15): shards(tmp_path/f'model_{n:05d}.dcp')
    (tmp_path/'model_00020.dcp').mkdir()                                  # somebody else's
    (tmp_path/'model_00020.dcp'/'thesis.txt').write_text('x')
    assert [p.name for p in sharded_checkpoints(tmp_path)] == ['model_00005.dcp', 'model_00015.dcp']
    assert {p.name for p in set_aside(tmp_path, after=10).iterdir()} == {'model_00015.dcp'}
    assert {p.name for p in set_aside(tmp_path).iterdir()} == {'model_00005.dcp'}
    assert (tmp_path/'model_00020.dcp'/'thesis.txt').exists()

def shards(path):
    path.mkdir()
    for name in ('state.pt', '.metadata', '__0_0.distcp'): (path/name).write_bytes(b'x')

# --- four: what belongs to the user stays ----------------------------------------------------------------------------

def test_an_export_leaves_files_of_others_alone(tmp_path):
    mine = ('model_mine.safetensors', 'model-final.safetensors', 'modelling.safetensors.txt', '.model.safetensors.part', 'model-00001-of-00002.safetensors.bak')
    for name in mine: (tmp_path/name).write_text('mine')
    model = tiny()
    to_hf(model, tmp_path, max_bytes=3000)
    pieces = sorted(p.name for p in tmp_path.glob('model-0*-of-0*.safetensors'))
    assert len(pieces) > 1 and (tmp_path/'model.safetensors.index.json').exists()
    to_hf(model, tmp_path)
    assert not any((tmp_path/o).exists() for o in (*pieces, 'model.safetensors.index.json')) and (tmp_path/'model.safetensors').exists()
    assert all((tmp_path/o).read_text() == 'mine' for o in mine)
    from_hf(tmp_path)

def test_an_export_that_fails_keeps_the_earlier_one(tmp_path, monkeypatch):
    model = tiny()
    to_hf(model, tmp_path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    def full(*a, **kw): raise OSError(28, 'No space left on device')
    monkeypatch.setattr('nanogpt_lit.interop.save_file', full)
    assert 'model.safetensors' in refused(to_hf, tiny(), tmp_path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before

def test_an_import_over_another_deletes_only_what_it_wrote(tmp_path):
    to_hf(tiny(), tmp_path/'hf')
    run = tmp_path/'run'
    assert said(commands.nanogpt_import, tmp_path/'hf', '--out_dir', run)[0] == 0
    for name in ('mine.pt', 'thesis.pt', 'final_model.pt'): (run/name).write_text('mine')
    assert said(commands.nanogpt_import, tmp_path/'hf', '--out_dir', run, '--overwrite')[0] == 0
    assert all((run/o).read_text() == 'mine' for o in ('mine.pt', 'thesis.pt', 'final_model.pt'))

def test_weights_can_be_read_by_those_whom_the_mask_lets(tmp_path):
    before = os.umask(0o022)
    try:
        to_hf(tiny(), tmp_path/'hf')
        save_adapter(add_lora(tiny(), 2), tmp_path/'adapter')
    finally: os.umask(before)
    for p in (tmp_path/'hf'/'model.safetensors', tmp_path/'adapter'/'adapter.safetensors'): assert p.stat().st_mode & 0o777 == 0o644, p

def test_a_name_that_would_destroy_something():
    for name in ('metrics.jsonl', 'config.toml', 'best.pt', 'latest', 'status.json', 'report.html', 'x', '.pt', '-x.pt', 'tokenizer'):
        assert 'final_name' in refused(lambda: TrainConfig(final_name=name))
    for name in ('', 'final_model.pt', 'ckpt.pt', 'model_{index}.pt', 'last-{step:07d}.pt'): TrainConfig(final_name=name)

# --- five: folders of others ------------------------------------------------------------------------------------------

GOOD = dict(model_type='gpt2', vocab_size=12, n_positions=16, n_layer=2, n_head=2, n_embd=16)
CONFIGS = [
    *({k: v} for k in ('n_layer', 'vocab_size', 'n_embd', 'n_head', 'n_positions') for v in (10**6*(10**6 if k != 'n_layer' else 1), -1, 0, 'x', None, [3], {}, 1e400, float('nan'), 2.5, True)),
    {'layer_norm_epsilon': 'x'}, {'layer_norm_epsilon': float('nan')}, {'n_inner': 'x'}, {'n_inner': 10**30}, {'activation_function': ['gelu']}, {'activation_function': 7},
    {'tie_word_embeddings': 'x'}, {'tie_word_embeddings': [1]}, {'model_type': ['gpt2']}, {'model_type': 7}, {'n_layer': 2048, 'n_embd': 2**20},
    {'rope_scaling': [1]}, {'rope_scaling': {'type': 7}}, {'rope_parameters': {'rope_theta': 'x'}}, {'rope_theta': 'x'}, {'architectures': 7},
    {'n_layer': 40, 'n_embd': 16384}]
LLAMA = dict(model_type='llama', vocab_size=12, max_position_embeddings=16, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, hidden_size=16,
             intermediate_size=32, rms_norm_eps=1e-5)
LLAMAS = [{'rope_theta': 'x'}, {'rope_theta': [1]}, {'rope_theta': 10**400}, {'rope_parameters': {'rope_theta': None}}, {'rope_scaling': {'rope_type': ['x']}}, {'rope_scaling': {'factor': {'a': 1}}},
          {'head_dim': 'x'}, {'head_dim': 10**12}, {'num_key_value_heads': 0}, {'model_type': 'mistral', 'sliding_window': 'x'}, {'model_type': 'mistral', 'sliding_window': -4},
          {'model_type': 'qwen3', 'use_sliding_window': True, 'sliding_window': 4, 'layer_types': 7}, {'model_type': 'qwen3', 'use_sliding_window': True, 'sliding_window': 4, 'max_window_layers': 'x'},
          {'model_type': 'qwen3', 'use_sliding_window': True, 'sliding_window': 4, 'num_hidden_layers': 10**9}, {'model_type': 'qwen3', 'use_sliding_window': True, 'sliding_window': 4, 'layer_types': [[1], 2]}]

def test_settings_of_others_that_make_no_sense(tmp_path):
    to_hf(tiny(act='gelu_tanh'), tmp_path/'hf')
    file, start = tmp_path/'hf'/'config.json', time.process_time()
    for base, change in [(GOOD, o) for o in CONFIGS] + [(LLAMA, o) for o in LLAMAS]:
        file.write_text(json.dumps(base | change))
        begin = time.process_time()
        try: from_hf(tmp_path/'hf')
        except UserError as e: assert len(str(e)) < 1500
        else: assert base is GOOD and {*change} & {'rope_scaling', 'rope_parameters', 'rope_theta', 'architectures', 'tie_word_embeddings'}, change
        assert time.process_time() - begin < 3, change
    for text in ('{"n_layer": ' + '9'*5000 + ', "model_type": "gpt2"}', '['*100_000, '{"a":'*100_000, '[]', '7', '', '\ud800'.encode('utf-8', 'surrogatepass'), b'\xff\xfe'):
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        assert 'config.json' in refused(from_hf, tmp_path/'hf', seconds=3)

def test_indexes_that_lead_elsewhere(tmp_path):
    to_hf(tiny(), tmp_path, max_bytes=3000)
    index = tmp_path/'model.safetensors.index.json'
    first = next(tmp_path.glob('model-*.safetensors')).name
    for names in ({'a': '../x'}, {'a': '/etc/passwd'}, {'a': '..'}, {'a': ''}, {'a': '.'}, {'a': 7}, {'a': ['x']}, {'a': None}, {'a': {}}, 7, [first], None, {'a': 'x\0y'}, {'a': 'C:\\x'}):
        for text in (json.dumps({'weight_map': names}), json.dumps(names)):
            index.write_text(text)
            assert 'index.json' in refused(read_tensors, tmp_path)

def test_headers_that_lie(tmp_path):
    to_hf(tiny(), tmp_path)
    file = tmp_path/'model.safetensors'
    good = file.read_bytes()
    n = int.from_bytes(good[:8], 'little')
    def with_header(text): return len(text).to_bytes(8, 'little') + text.encode() + good[8 + n:]
    for data in (b'', b'\xff'*8, b'\xff'*7 + b'\x7f' + good[8:], (10**9).to_bytes(8, 'little') + good[8:], with_header('[]'), with_header('{' + '"a":{'*5000),
                 with_header('{"w":{"dtype":"F32","shape":[1000000,1000000],"data_offsets":[0,4]}}'), with_header('{"w":{"dtype":"X","shape":[],"data_offsets":[0,4]}}'),
                 with_header('{"w":{"dtype":"F32","shape":[-1],"data_offsets":[9,4]}}'), with_header('{"w":7}')):
        file.write_bytes(data)
        assert 'model.safetensors' in refused(read_tensors, tmp_path)

def test_adapters_with_nonsense(tmp_path):
    torch.manual_seed(0)
    model = tiny()
    save_adapter(add_lora(model, 2), tmp_path)
    def base():
        torch.manual_seed(0)
        return tiny()
    load_adapter(base(), tmp_path)
    told = json.loads((tmp_path/'adapter.json').read_text())
    for change in ({'rank': 'x'}, {'rank': 10**9}, {'rank': 2.5}, {'rank': True}, {'alpha': 'x'}, {'alpha': 10**400}, {'alpha': [1]}, {'dropout': 'x'}, {'dropout': None}, {'targets': 7},
                   {'targets': [[1]]}, {'targets': 'qkv'}, {'new_ids': 'x'}, {'new_ids': [-5]}, {'new_ids': [1.5]}, {'new_ids': [10**12]}, {'new_ids': 7}, {'new_ids': [{}]},
                   {'base': 7}, {'base': None}, {'more': 1}, {'new_ids': [*range(12, 10_000)]}):
        (tmp_path/'adapter.json').write_text(json.dumps(told | change))
        assert 'adapter' in refused(load_adapter, base(), tmp_path), change
    for text in ('[]', '7', '', '['*100_000, '{}'):
        (tmp_path/'adapter.json').write_text(text)
        assert 'adapter.json' in refused(load_adapter, base(), tmp_path)

def test_a_model_isn_t_built_before_it_is_known_to_fit(tmp_path):
    "Settings of a hundred billion parameters beside weights of a few bytes"
    state = content()
    state['config'] = state['config'] | dict(n_layer=96, n_embd=12288, n_head=96, vocab_size=50257)
    path = signed(tmp_path/'big.pt', state)
    assert 'big.pt' in refused(load_run, path, 'cpu')
    torch.save({'model': {'transformer.wte.weight': torch.ones(1, 2**20), 'transformer.wpe.weight': torch.ones(1, 2**20),
                          **{f'transformer.h.{i}.ln_2.weight': torch.ones(1) for i in range(2000)}}, 'model_args': {'n_head': 1}}, tmp_path/'foreign.pt')
    assert 'foreign.pt' in refused(load_run, tmp_path/'foreign.pt', 'cpu')

# --- six to nine -----------------------------------------------------------------------------------------------------

def test_a_vocabulary_without_newline_can_be_sampled(tmp_path, capsys):
    tok = CharTokenizer([*'abcdefghijkl'])
    assert first_prompt(tok) == 'a' and first_prompt(CharTokenizer([*'ab\n'])) == '\n'
    write_run(tiny(), tok, tmp_path)
    code, err = said(commands.nanogpt_sample, tmp_path, '--num_samples', 1, '--max_new_tokens', 5)
    assert code == 0, err
    code, err = said(commands.nanogpt_sample, tmp_path, '--num_samples', 1, '--max_new_tokens', 5, '--start', '\n')
    assert code == 1 and 'fault' not in err                              # who asks for it is told
    for words in (['--start', 'FILE:'], ['--start', 'FILE:nowhere'], ['--start', f'FILE:{tmp_path}'], ['--prompts', tmp_path], ['--prompts', tmp_path/'no'], ['--start', ''],
                  ['--temperature', 'nan'], ['--top_k', 0], ['--top_p', -1], ['--min_p', 7], ['--stop', ''], ['--repetition_penalty', 'inf']):
        code, err = said(commands.nanogpt_sample, tmp_path, '--num_samples', 1, '--max_new_tokens', 2, *words)
        assert 'fault' not in err and 'Traceback' not in err and (code == 1 or words[0] == '--stop'), (words, err)
    (tmp_path/'none.txt').write_text('\n\n')
    code, err = said(commands.nanogpt_sample, tmp_path, '--prompts', tmp_path/'none.txt')
    assert code == 1 and 'none.txt' in err, err

def test_an_environment_that_makes_no_sense():
    good = dict(RANK='1', WORLD_SIZE='2', LOCAL_RANK='1', LOCAL_WORLD_SIZE='2', GROUP_RANK='0')
    assert world(good).rank == 1 and world({}).world_size == 1
    for k, v in [('RANK', o) for o in ('x', '', '-1', '2', '1.5', '9'*5000, '١')] + [('WORLD_SIZE', o) for o in ('0', '-2', 'x', '')] + [('LOCAL_RANK', o) for o in ('x', '5', '-1')] + \
                [('LOCAL_WORLD_SIZE', o) for o in ('0', 'x', '-1')] + [('GROUP_RANK', o) for o in ('x', '-1')]:
        assert k in refused(world, good | {k: v})
    for k in ('WORLD_SIZE', 'LOCAL_RANK'): assert k in refused(world, {a: b for a, b in good.items() if a != k})

def test_a_note_of_an_earlier_launch(tmp_path, monkeypatch):
    from nanogpt_lit.distributed import restarted
    monkeypatch.setenv('TORCHELASTIC_RUN_ID', 'x')
    for count in ('0', '1', 'x', '-1'):
        monkeypatch.setenv('TORCHELASTIC_RESTART_COUNT', count)
        (tmp_path/'.launch').write_bytes(b'\xff\xfe\0')
        assert restarted(tmp_path) is False
        (tmp_path/'.launch').unlink(missing_ok=True)
        (tmp_path/'.launch').mkdir()
        assert restarted(tmp_path) is False and (tmp_path/'.launch').is_dir()
        (tmp_path/'.launch').rmdir()
        os.mkfifo(tmp_path/'.launch')
        assert restarted(tmp_path) is False
        (tmp_path/'.launch').unlink(missing_ok=True)

def test_launches_that_make_no_sense(tmp_path):
    for words in (['x'], ['--nproc', 'x', 'train'], ['--nproc', '0', 'train'], ['--nproc', '-1', 'train'], ['--nnodes', '0', 'train'], ['--nnodes', '2', '--node_rank', '5', 'train'],
                  ['--nnodes', '2', '--node_rank', '-1', 'train'], ['--master_port', '99999999', 'train'], ['--max_restarts', '-1', 'train'], ['--shutdown_timeout', '-1', 'train'], ['launch'], [],
                  ['--nnodes', '2', '--master_addr', '', 'train'], ['--nnodes', '2', '--master_addr', 'a b;c', 'train'], ['--sbatch', tmp_path, 'train']):
        code, err = said(commands.nanogpt_launch, '--dry_run', *words)
        assert code in (1, 2) and 'fault' not in err and 'Traceback' not in err and err.startswith('error: '), (words, code, err)

def test_plans_of_the_impossible():
    for text in ('-5GB', 'nan', '1e400GB', '', ' ', 'GB', '5GBGB', '0', 'inf', '-inf', '1e-5', 'x', '5 5GB', '٣GB', '9'*5000, '1_000GB', '1e30GB', '5bB', '5iB'):
        assert 'memory' in refused(parse_bytes, text), text
    assert parse_bytes('16 GiB') == 16*2**30
    for words in (['--n_layer', 10**6], ['--n_layer', 2048, '--n_embd', 2**20, '--n_head', 2**10], ['--n_layer', '1e9'], ['--batch_size', 10**9], ['--batch_size', 2**31, '--grad_accum_steps', 2**31],
                  ['--vocab_size', 2**31, '--n_embd', 2**20, '--n_head', 1], ['--block_size', 2**31, '--batch_size', 2**20], ['--memory', '-5GB'], ['--memory', ''], ['--n_layer', 1024],
                  ['--n_layer', 300, '--batch_size', 2**31, '--block_size', 2**31], ['--memory', '1e300GB', '--grad_accum_steps', 2**31, '--batch_size', 2**31], ['--dataset', '/dev/null'],
                  ['--max_steps', 2**52, '--batch_size', 2**30], ['--window', 3, '--window_pattern', 'LG'*1000, '--n_layer', 500]):
        start = time.process_time()
        code, err = said(commands.nanogpt_plan, '--no-measure', '--device', 'cpu', *words)
        assert 'fault' not in err and 'Traceback' not in err, (words, err)
        assert time.process_time() - start < 8, (words, time.process_time() - start)

def test_a_checkpoint_is_saved_though_nobody_listens(tmp_path):
    "What wants to be said waits until the state is on the disk"
    from types import SimpleNamespace
    c = CheckpointCallback(tmp_path/'run')
    (tmp_path/'run').mkdir()
    order = []
    c._write = lambda t: order.append('saved')
    t = SimpleNamespace(step=3, cfg=TrainConfig(), strategy=SimpleNamespace(is_main=True), check_finite=lambda: None, stop_reason='x', elapsed_s=1., say=lambda _: order.append('said'), fire=lambda _: None)
    c.save_s = 1e9
    c.on_fit_end(t)
    assert order == ['saved', 'said']

# --- whatever else ---------------------------------------------------------------------------------------------------

N = 2000 if os.environ.get('NANOGPT_LIT_SLOW') else 60
VALUES = [None, True, -1, 0, 2**70, 1.5, float('nan'), 'x', '', '\0', [], [1, [2]], {}, {'a': 1}, {3: 4}, (), torch.zeros(0), torch.ones(3), torch.ones(2, 2, dtype=torch.int64), torch.ones(1).expand(10**5, 10**5)]

def mutate(rng, value, depth=0):
    "Nested content with one place changed"
    if depth > 3 or not isinstance(value, (dict, list)) or not len(value) or rng.random() < .15: return rng.choice(VALUES)
    if isinstance(value, list):
        i = rng.randrange(len(value))
        return value[:i] + [mutate(rng, value[i], depth + 1)] + value[i + 1:]
    k = rng.choice([*value])
    kind = rng.random()
    if kind < .2: return {a: b for a, b in value.items() if a is not k}
    if kind < .3: return value | {rng.choice(['x', 7, '']): rng.choice(VALUES)}
    return value | {k: mutate(rng, value[k], depth + 1)}

def cautiously_signed(path, state):
    try: return signed(path, state)
    except Exception: torch.save(state | dict(checksum='0'*64) if isinstance(state, dict) else state, path)

def judge(command, *words):
    start = time.process_time()
    code, err = said(command, *words)
    assert code in (0, 1) and 'fault of nanogpt_lit' not in err and 'Traceback' not in err, err
    assert time.process_time() - start < 10
    return code

def test_fuzzed_checkpoints(home, tmp_path):
    rng, refused = random.Random(7), 0
    good = load_checkpoint(home/'run'/'model_00020.pt')
    good.pop('checksum')
    run = tmp_path/'run'
    run.mkdir()
    import shutil
    shutil.copytree(home/'run'/'tokenizer', run/'tokenizer')
    for i in range(N):
        state = mutate(rng, good)
        if isinstance(state, dict) and rng.random() < .3: state = mutate(rng, state)
        cautiously_signed(run/'model_00020.pt', state)
        command = rng.choice([(commands.nanogpt_sample, run, '--max_new_tokens', 2, '--num_samples', 1, '--start', 'a'), (commands.nanogpt_export, run, '--out_dir', tmp_path/'out', '--overwrite'),
                              (commands.nanogpt_import, run/'model_00020.pt', '--out_dir', tmp_path/'in', '--overwrite')])
        refused += judge(*command)
        state = mutate(rng, good)
        if isinstance(state, dict) and 'model' in state:
            cautiously_signed(run/'model_00020.pt', state)
            try: resumed(load_checkpoint(run/'model_00020.pt'), home)
            except UserError: pass
    assert refused > N//5

def test_fuzzed_bytes(home, tmp_path):
    rng, good = random.Random(8), (home/'run'/'model_00020.pt').read_bytes()
    with zipfile.ZipFile(home/'run'/'model_00020.pt') as z: table = z.getinfo(next(o for o in z.namelist() if o.endswith('data.pkl')))
    for i in range(2*N):
        x = bytearray(good)
        for _ in range(rng.randrange(1, 4)):
            at = rng.choice([rng.randrange(len(x)), table.header_offset + rng.randrange(table.file_size), len(x) - 1 - rng.randrange(2000)])
            x[at] = rng.randrange(256)
        (tmp_path/'x.pt').write_bytes(x)
        judge(rng.choice([commands.nanogpt_sample, commands.nanogpt_export, commands.nanogpt_import]), tmp_path/'x.pt', '--out_dir', tmp_path/'out') if i % 4 == 0 else None
        for f in (read_pickle, load_checkpoint):
            try: f(tmp_path/'x.pt')
            except UserError: pass

def test_fuzzed_folders(tmp_path):
    rng = random.Random(9)
    for name, model in {'gpt2': tiny(act='gelu_tanh'), 'qwen3': tiny(pos='rotary', norm='rmsnorm', act='swiglu', bias=False, qk_norm=True)}.items():
        tok = CharTokenizer([*'abcdefghijkl'])
        to_hf(model, tmp_path/name, tok, max_bytes=3000)
        files = {p: p.read_bytes() for p in (tmp_path/name).iterdir() if p.name != 'tokenizer.json'}
        plain_values = [o for o in VALUES if not isinstance(o, torch.Tensor)]
        for i in range(N):
            p = rng.choice([*files])
            x = bytearray(files[p])
            if p.suffix == '.json' and rng.random() < .7: x = json.dumps(json_mutated(rng, json.loads(files[p]), plain_values)).encode()
            else:
                at = rng.randrange(len(x))
                x[at:at + rng.randrange(1, 9)] = rng.randbytes(rng.randrange(8))
            p.write_bytes(x)
            judge(*rng.choice([(commands.nanogpt_sample, tmp_path/name, '--max_new_tokens', 2, '--num_samples', 1), (commands.nanogpt_import, tmp_path/name, '--out_dir', tmp_path/'in', '--overwrite')]))
            p.write_bytes(files[p])

def json_mutated(rng, value, values):
    if not isinstance(value, dict) or not value or rng.random() < .1: return rng.choice(values)
    k = rng.choice([*value])
    return value | {k: json_mutated(rng, value[k], values) if isinstance(value[k], dict) else rng.choice(values)}

def test_consolidating_nonsense(tmp_path):
    rng = random.Random(5)
    for i in range(30):
        folder = tmp_path/f'model_{i:05d}.dcp'
        folder.mkdir()
        (folder/'.metadata').write_bytes(rng.randbytes(200))
        state = mutate(rng, content(files={'.metadata': [200, 'x']}, tied={}, param_groups=[], order=[], numbers={})) if i % 2 else content()
        cautiously_signed(folder/'state.pt', state)
        code, err = said(commands.nanogpt_consolidate, folder)
        assert code == 1 and 'fault' not in err, err
