"""Several processes as a shell sees them: the same numbers as one, a worker killed, a mistake said once, two machines.

Processes talk through gloo on the CPU. Two machines are two network namespaces, where the test may create them.
"""
import argparse, json, os, shutil, signal, socket, subprocess, sys, time
from contextlib import ExitStack
from pathlib import Path
import psutil
import pytest
import harness
from harness import finish, steps
from nanogpt_lit.config import LaunchConfig
from nanogpt_lit.launch import sbatch_script
try: import fcntl
except ImportError: fcntl = None    # Windows

BIN = Path(sys.executable).parent
LIMIT = 150 # seconds for anything here; usually it is five
FLAGS = ['--n_layer', '2', '--n_head', '2', '--n_embd', '32', '--block_size', '32', '--batch_size', '4', '--grad_accum_steps', '2', '--device', 'cpu',
         '--num_threads', '1', '--tokenizer', 'char', '--log_interval', '1', '--eval_interval', '25', '--checkpoint_interval', '10', '--max_steps', '50',
         '--learning_rate', '1e-3', '--lr_decay_steps', '50', '--dist_timeout', '60']
slow = pytest.mark.skipif(not harness.SLOW, reason='takes long: set NANOGPT_LIT_SLOW=1')
TORCHRUN = [str(BIN/'torchrun'), '--standalone']

def start(words, cwd, net=None, fresh=False, **env): return harness.start(*words, cwd=cwd, env={'PATH': f'{BIN}:{os.environ["PATH"]}', **env}, net=net, fresh=fresh)

def run(*words, cwd, **env): return finish(start(words, cwd, **env))

def good(result):
    assert result[0] == 0, result[1][-1500:] + result[2][-4000:]
    return result[1]

ONLY = '''
import sys
from nanogpt_lit.config import PRESETS, RunConfig, resolve
from nanogpt_lit.distributed import as_one
from nanogpt_lit.pretrain import pretrain
with as_one(): pretrain(*resolve(RunConfig, sys.argv[1:], PRESETS))
'''

def train(n, out_dir, *more, cwd, text, only=False):
    "nanogpt-train in `n` processes; `only` what trains, without the long sample and the report at the end"
    (cwd/'only.py').write_text(ONLY)
    command = [*(['only.py'] if only else ['-m', 'nanogpt_lit.pretrain']), '--input', text, '--out_dir', out_dir, *FLAGS, *more]
    start = [sys.executable] if n == 1 else [*TORCHRUN, f'--nproc_per_node={n}']
    return finish(harness.start(*start, *command, cwd=cwd))

def rows(folder): return [r for r in map(json.loads, (folder/'metrics.jsonl').read_text().splitlines()) if 'loss' in r]
def numbers(folder): return [(r['step'], r['tokens'], r['loss']) for r in rows(folder)]

def close(a, b, limit=1e-5):
    assert [(r['step'], r['tokens'], r['lr']) for r in a] == [(r['step'], r['tokens'], r['lr']) for r in b]
    assert max(abs(x['loss'] - y['loss'])/x['loss'] for x, y in zip(a, b)) < limit

def weights(folder):
    from nanogpt_lit.checkpoint import checksum, latest_checkpoint, load_checkpoint
    return checksum(load_checkpoint(latest_checkpoint(folder))['model'])

@pytest.fixture(scope='module')
def text(shared, tmp_path_factory):
    "One for all processes of the tests, as what is `made` of it is"
    mine, path = tmp_path_factory.mktemp('text')/'text.txt', shared/'distributed.txt'
    mine.write_text(Path(argparse.__file__).read_text(encoding='utf-8')[:20_000], encoding='utf-8')
    if not path.exists(): mine.replace(path)
    return path

@pytest.fixture(scope='module')
def made(shared):
    "`made(name, fill)` is a folder with a run; whichever process of the tests comes first fills it, the others wait"
    def once(name, fill):
        home = shared/f'distributed {name}'
        with open(shared/f'distributed {name}.lock', 'w') as f:
            if fcntl: fcntl.flock(f, fcntl.LOCK_EX)
            if not (home/'whole').exists():
                shutil.rmtree(home, ignore_errors=True)
                home.mkdir()
                fill(home)
                (home/'whole').touch()
        return home/'run'
    return once

@pytest.fixture(scope='module')
def one(text, made):
    "A run of 50 steps in one process"
    return made('one', lambda home: good(train(1, 'run', cwd=home, text=text)))

@pytest.fixture(scope='module')
def two(text, made):
    "The same in two"
    def fill(home):
        out = good(train(2, 'run', cwd=home, text=text))
        assert out.count('iter 50:') == 1 and out.count('number of parameters') == 1, 'only rank 0 is to be heard'
    return made('two', fill)

# --- the same numbers ----------------------------------------------------------------------------------------------

def test_two_processes_compute_what_one_does(one, two):
    assert len(rows(one)) == 50
    close(rows(one), rows(two))

WEIGHTS = '''
import sys
from nanogpt_lit.checkpoint import checksum
from nanogpt_lit.config import PRESETS, RunConfig, resolve
from nanogpt_lit.pretrain import pretrain
run = pretrain(*resolve(RunConfig, sys.argv[1:], PRESETS))
s = run.trainer.strategy
sums = s.gather(checksum(run.model.state_dict()))
if s.is_main: print('weights', s.world_size, len({*sums}), run.evaluation.nats_per_token)
'''

def test_four_processes_too_and_all_end_with_the_same_bits(one, text, tmp_path):
    (tmp_path/'job.py').write_text(WEIGHTS)
    out = good(run(*TORCHRUN, '--nproc_per_node=4', 'job.py', '--input', text, '--out_dir', 'run', *FLAGS, cwd=tmp_path))
    close(rows(one), rows(tmp_path/'run'))
    said = next(line.split() for line in out.splitlines() if line.startswith('weights'))
    assert said[1:3] == ['4', '1'], said
    single = [r['val_loss'] for r in map(json.loads, (one/'metrics.jsonl').read_text().splitlines()) if 'val_loss' in r]
    assert abs(float(said[3]) - single[-1]) < 1e-4

@pytest.mark.parametrize('n', [2, pytest.param(4, marks=slow)])
def test_resumed_with_another_number_of_processes(n, one, text, tmp_path):
    (tmp_path/'run').mkdir()
    for name in ('model_00010.pt', 'metrics.jsonl', 'config.toml'): shutil.copy(one/name, tmp_path/'run'/name)
    shutil.copytree(one/'tokenizer', tmp_path/'run'/'tokenizer')
    out = good(train(n, 'run', '--auto_resume', '--max_steps', 16, cwd=tmp_path, text=text, only=True))
    assert out.count('at step 10') == 1
    close(rows(one)[:16], rows(tmp_path/'run'))

@pytest.mark.parametrize('optimizer, limit', [('adamw', 1e-5), pytest.param('muon', 5e-3, marks=slow)])
def test_loss_masks(optimizer, limit, text, tmp_path):
    "Documents kept apart have masks, with other counts on every rank. Muon's rounding in bfloat16 is coarse, hence the limit"
    path = tmp_path/'text.txt'
    path.write_text('<|endoftext|>'.join(text.read_text()[i:i + 90 + i % 37] for i in range(0, 12000, 130)))
    more = ['--tokenizer', 'bpe', '--tokenizer_vocab_size', '300', '--separator', '<|endoftext|>', '--align_documents', '--max_steps', '12']
    for n in (1, 2): good(train(n, f'run{n}', *more, '--optimizer', optimizer, cwd=tmp_path, text=path, only=True))
    close(rows(tmp_path/'run1'), rows(tmp_path/'run2'), limit)

def test_evened_rows_are_remembered_in_slices_too(text, tmp_path):
    "What NorMuon remembers of each row goes from two processes with slices to one, and from one to two"
    def steps_of(n, name, steps, *more):
        options = ['--optimizer', 'muon', '--muon_beta2', '.95', '--schedule', 'constant', '--max_steps', str(steps), '--dtype', 'float32', *more]
        good(train(n, name, *options, cwd=tmp_path, text=text, only=True))
        return rows(tmp_path/name)
    whole = steps_of(1, 'one', 20)
    steps_of(2, 'slices', 10, '--strategy', 'fsdp')
    steps_of(1, 'file', 10)
    close(whole, steps_of(1, 'slices', 20, '--auto_resume', '--strategy', 'auto'), 1e-4)
    close(whole, steps_of(2, 'file', 20, '--auto_resume', '--strategy', 'fsdp'), 1e-4)

def test_console_script_and_a_time_budget(text, tmp_path):
    "Clocks differ, the learning rate must not: rank 0's counts. Everything is started as a shell starts it, without the nursery"
    command = ['--no-python', 'nanogpt-train', '--input', text, '--out_dir', 'run', *FLAGS, '--minutes', '.005', '--max_steps', '100000', '--schedule', 'linear']
    good(finish(start([*TORCHRUN, '--nproc_per_node=2', *command], tmp_path, fresh=True)))
    last = rows(tmp_path/'run')[-1]
    assert .27 < last['elapsed_s'] < 30 and last['lr'] < 3e-4

# --- slices --------------------------------------------------------------------------------------------------------

@pytest.fixture(scope='module')
def sharded(text, made):
    "The same run on two processes, sharded"
    def fill(home):
        exam(home/'exam.jsonl')
        more = ['--activation_checkpointing', '--generate_interval', '40', '--hellaswag', home/'exam.jsonl', '--hellaswag_interval', '25']
        code, out, err = train(2, 'run', '--strategy', 'fsdp', *more, cwd=home, text=text)
        good((code, out, err))
        assert 'Warning' not in err, err
    return made('sharded', fill)

def exam(path, n=21):
    "Questions about the text, of many lengths; no multiple of anything"
    words = Path(argparse.__file__).read_text(encoding='utf-8')[:8000].split()
    rows = [dict(ctx=' '.join(words[i:i + 1 + i % 5]), endings=[' '.join(words[i + k:i + k + 2 + k*i % 4]) for k in (5, 90, 170, 240)], label=0) for i in range(40, 40 + 23*n, 23)]
    path.write_text(''.join(json.dumps(o) + '\n' for o in rows))

def test_sharded_equals_one_process(one, sharded):
    close(rows(one), rows(sharded))
    assert (sharded/'samples'/'step_00040.txt').exists() and (sharded/'model_00050.pt').exists(), 'the last checkpoint is put together'
    r = run(BIN/'nanogpt-sample', sharded, '--max_new_tokens', '5', '--num_samples', '1', cwd=sharded)
    assert r[0] == 0, r[2]

def test_processes_write_and_answer_in_shares_also_with_slices(one, sharded):
    "What two processes answer together, with slices, is what one answers; and each wrote a text of its own"
    from nanogpt_lit.evaluate import hellaswag
    from nanogpt_lit.interop import load_run
    texts = (sharded/'samples'/'step_00040.txt').read_text().split('\n\n--- and another process ---\n\n')
    assert len(texts) == 2 and texts[0] != texts[1] and all(len(o) > 50 for o in texts)
    told = [json.loads(o) for o in (sharded/'hellaswag.jsonl').read_text().splitlines()]
    alone = load_run(one)
    want = hellaswag(alone.model, alone.tokenizer, sharded.parent/'exam.jsonl')
    assert [o['step'] for o in told] == [25, 50] and told[-1]['n'] == 21
    assert abs(told[-1]['acc'] - want['acc']) < 1e-9, (told, want)

def test_processes_on_one_machine_share_its_memory():
    from types import SimpleNamespace
    from nanogpt_lit.pretrain import _room
    from nanogpt_lit.sharded import Sharded
    def room(kind, **kw):
        s = kind.__new__(kind)
        s.device, s.world_size, s.world, s.gather = 'cpu', 4, SimpleNamespace(local_world_size=2), lambda n: [n, 10**6*4 if n > 4*10**6 else n]
        return _room(s)
    from nanogpt_lit.distributed import DataParallel
    assert room(DataParallel) == (4*10**6, 4*10**6) and room(Sharded) == (16*10**6, 4*10**6)

@pytest.mark.parametrize('n, more', [(1, []), (4, ['--strategy', 'fsdp']), pytest.param(2, [], marks=slow)], ids=['one', 'four, sharded', 'two, whole'])
def test_sharded_checkpoints_resume_on_any_number(n, more, one, sharded, text, tmp_path):
    (tmp_path/'run').mkdir()
    for name in ('metrics.jsonl', 'config.toml'): shutil.copy(sharded/name, tmp_path/'run'/name)
    for name in ('tokenizer', 'model_00010.dcp'): shutil.copytree(sharded/name, tmp_path/'run'/name)
    out = good(train(n, 'run', '--auto_resume', *more, '--max_steps', 16, cwd=tmp_path, text=text, only=True))
    assert out.count('at step 10') == 1
    close(rows(one)[:16], rows(tmp_path/'run'))

def test_the_note_of_an_earlier_launch_is_forgotten_by_whoever_is_first(tmp_path, monkeypatch):
    "All processes of a launch look for the note at once; the others find it gone between the look and the deed"
    from nanogpt_lit.distributed import restarted
    monkeypatch.setenv('TORCHELASTIC_RUN_ID', '7f3a')
    monkeypatch.setenv('TORCHELASTIC_RESTART_COUNT', '0')
    monkeypatch.setattr(Path, 'is_file', lambda self: True)
    assert not restarted(tmp_path)

def test_a_torn_slice_is_passed_over_and_a_shot_worker_replaced(one, sharded, text, tmp_path):
    shutil.copytree(sharded, tmp_path/'run')
    for p in (tmp_path/'run').glob('*.pt'): p.unlink()
    shutil.rmtree(tmp_path/'run'/'model_00050.dcp')
    torn = next((tmp_path/'run'/'model_00040.dcp').glob('__1*.distcp'))
    torn.write_bytes(torn.read_bytes()[:-100])
    code, out, err = train(2, 'run', '--auto_resume', '--strategy', 'fsdp', '--max_steps', 38, cwd=tmp_path, text=text, only=True)
    assert code == 0 and 'model_00040.dcp' in err and 'is torn, corrupt or missing' in err and 'at step 30' in out, out[-1000:] + err[:9000]
    close(rows(one)[:38], rows(tmp_path/'run'))

COMPILED = WEIGHTS + """
from torch._dynamo.utils import counters
made = s.gather([counters['stats']['unique_graphs'], counters['inductor']['fxgraph_cache_miss'] + counters['inductor']['fxgraph_cache_hit']])
if s.is_main: print('graphs', *sum(made, []))
"""

@slow
@pytest.mark.parametrize('strategy', ['auto', 'fsdp'])
def test_compiled_in_two_processes(strategy, one, text, tmp_path):
    "Graphs are really made, and the numbers are those of the uncompiled run"
    (tmp_path/'job.py').write_text(COMPILED.replace("sums = s.gather(checksum(run.model.state_dict()))", "sums = ['']"))
    out = good(run(*TORCHRUN, '--nproc_per_node=2', 'job.py', '--input', text, '--out_dir', 'run', *FLAGS, '--compile', '--strategy', strategy, cwd=tmp_path))
    graphs = next(line.split()[1:] for line in out.splitlines() if line.startswith('graphs'))
    assert len(graphs) == 4 and all(int(o) >= 1 for o in graphs), graphs
    assert 'going on without it' not in out
    close(rows(one), rows(tmp_path/'run'), 1e-4)

# --- slices, resumed ------------------------------------------------------------------------------------------------

HELD = """
import sys, weakref
import torch
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from nanogpt_lit import pretrain
from nanogpt_lit.config import PRESETS, RunConfig, resolve
from nanogpt_lit.distributed import as_one

class Held(TorchDispatchMode):
    "Counts the bytes of all tensors that exist at the same time: `now`, and `most` at any time"
    def __init__(self):
        super().__init__()
        self.now, self.most, self.known = 0, 0, set()
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if DTensor in types: return NotImplemented           # what it does inside is counted
        made = func(*args, **(kwargs or {}))
        tree_map_only(torch.Tensor, self.count, made)
        return made
    def count(self, tensor):
        if isinstance(tensor, DTensor): tensor = tensor.to_local()
        if tensor.is_meta: return
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self.known: return
        self.known.add(key)
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self.gone, key, size)
    def gone(self, key, size):
        self.known.discard(key)
        self.now -= size

restore_any = pretrain.restore_any
def restored(t, ckpt):
    notes = restore_any(t, ckpt)
    seen.append([t.step, held.most])                          # from the search for a checkpoint on
    return notes

def local(t): return t.to_local() if hasattr(t, 'to_local') else t

def bytes_of(t, of):
    states = [v for o in t.optimizers for s in o.state.values() for v in s.values() if isinstance(v, torch.Tensor)]
    return sum(of(v).numel()*v.element_size() for v in [*t.params, *states])

flags, seen = resolve(RunConfig, sys.argv[1:], PRESETS), []
with as_one():
    t = pretrain.pretrain(*flags).trainer
    flags[0].train.auto_resume = True
    pretrain.restore_any = restored
    with Held() as held: pretrain.pretrain(*flags)
    said = t.strategy.gather([*seen[0], bytes_of(t, local), bytes_of(t, lambda v: v)])
    if t.strategy.is_main: print('told', said, flush=True)
"""

def test_an_ended_run_in_slices_is_resumed_in_slices(text, tmp_path):
    "Beside the last checkpoint lies a copy of it as a single file. Nobody reads that: a process holds its slice, and for a moment a tensor"
    (tmp_path/'job.py').write_text(HELD)
    size = ['--n_embd', '128', '--max_steps', '2', '--lr_decay_steps', '2', '--eval_interval', '0', '--strategy', 'fsdp']
    out = good(run(*TORCHRUN, '--nproc_per_node=2', 'job.py', '--input', text, '--out_dir', 'run', *FLAGS, *size, cwd=tmp_path))
    assert (tmp_path/'run'/'model_00002.dcp').is_dir() and (tmp_path/'run'/'model_00002.pt').is_file()
    for step, most, slice_, whole in json.loads(next(o for o in out.splitlines() if o.startswith('told'))[5:]):
        assert step == 2 and .45*whole < slice_ < .55*whole
        assert slice_ <= most < .75*whole, f'{most:,} bytes at most, of {whole:,} in all and {slice_:,} in a slice'

# --- slices, written by a thread -------------------------------------------------------------------------------------

ASIDE = '''
import json, os, resource, sys, time
from pathlib import Path
import torch
from nanogpt_lit import sharded
from nanogpt_lit.checkpoint import checksum
from nanogpt_lit.config import GPTConfig, OptimConfig, TrainConfig
from nanogpt_lit.core import UserError, seed_everything
from nanogpt_lit.distributed import as_one
from nanogpt_lit.loader import BatchPlan, TokenData
from nanogpt_lit.model import GPT
from nanogpt_lit.optim import make_optimizers
from nanogpt_lit.sharded import Sharded, ShardedCheckpoint, gather_sharded, newest_of_any, restore_any
from nanogpt_lit.trainer import Callback, Trainer

class Watch(Callback):
    "When is a checkpoint whole, and what happens at the end of a step?"
    order = 99                                              # after the checkpoint
    def __init__(self, at_end=None): self.at, self.at_end = [], at_end
    def on_checkpoint(self, t): self.at.append((t.saved_step, t.step))
    def on_step_end(self, t):
        if self.at_end: self.at_end(t)

def trainer(run, watch=None, **kw):
    seed_everything(1337)
    s = Sharded('cpu', 'float32', 60.)
    model = s.prepare(GPT(GPTConfig(vocab_size=256, block_size=32, n_layer=2, n_head=2, n_embd=32, dropout=.1)))
    ocfg = OptimConfig(learning_rate=3e-3, warmup_steps=5)
    tcfg = TrainConfig(**dict(max_steps=12, batch_size=4, grad_accum_steps=2, device='cpu', eval_interval=0, num_threads=1,
                              checkpoint_interval=5, dist_timeout=60.) | kw)
    plan = BatchPlan(TokenData('train.bin'), 8, 32, seed=1337)
    return Trainer(model, plan, make_optimizers(model, ocfg), ocfg, tcfg, [ShardedCheckpoint(run), *([watch] if watch else [])], strategy=s)

def local(t): return t.to_local() if hasattr(t, 'to_local') else t
def mine(t):
    "A checksum of what this process has of weights and optimiser"
    states = [{k: v for k, v in s.items()} for o in t.optimizers for s in o.state.values()]
    return checksum({'p': [local(p) for p in t.raw_model.parameters()], 'o': [{k: local(v) for k, v in s.items()} for s in states]})
def content(folder):
    whole = gather_sharded(folder)
    return {k: checksum({'': whole[k]}) for k in ('model', 'optimizer', 'rng', 'step')}
def tell(name, value):
    said = s.gather(value)
    if s.is_main: print('told', json.dumps([name, said]), flush=True)
'''

EQUAL = ASIDE + '''
whole = sharded._write_folder
def slowly(*args):
    time.sleep(.1 + .1*args[0].rank)                        # while the training goes on, and not at the same step everywhere
    whole(*args)

plain = trainer('plain', keep_last_n_checkpoints=2, final_name='final_model.pt').fit()
s = plain.strategy
sharded._write_folder, watch = slowly, Watch(lambda t: time.sleep(.06))
aside = trainer('aside', watch, async_save=True, keep_last_n_checkpoints=2, final_name='final_model.pt').fit()
sharded._write_folder = whole
tell('weights', [mine(plain), mine(aside)])
if s.is_main:
    folders = [sorted(p.name for p in Path(o).iterdir()) for o in ('plain', 'aside')]
    assert folders[0] == folders[1], folders
    for name in ('model_00010.dcp', 'model_00012.dcp'): assert content(Path('plain')/name) == content(Path('aside')/name), name
tell('files', [sorted(p.name for p in Path('aside').iterdir()), Path('aside/latest').read_text(), watch.at])

# goes on from what the thread has written
s.gather('all have looked')
if s.is_main:
    Path('again').mkdir()
    Path('aside/model_00010.dcp').rename('again/model_00010.dcp')
s.gather('moved')
again = trainer('again', async_save=True)
restore_any(again, newest_of_any('again')[1])
again.fit()
tell('resumed', [again.step, mine(again)])
'''

def told(out): return {k: v for k, v in (json.loads(o[5:]) for o in out.splitlines() if o.startswith('told '))}

@pytest.fixture
def home(text, tmp_path):
    import numpy as np
    np.frombuffer(text.read_bytes(), dtype=np.uint8).astype(np.uint16).tofile(tmp_path/'train.bin')
    return tmp_path

def job(home, code, *torchrun):
    (home/'job.py').write_text(code)
    return start([*TORCHRUN, '--nproc_per_node=2', *torchrun, 'job.py'], home)

def test_slices_written_by_a_thread_are_those_that_the_training_writes(home):
    seen = told(good(finish(job(home, EQUAL))))
    assert all(plain == aside for plain, aside in seen['weights']), 'the training itself was changed'
    names, latest, passed = seen['files'][0]
    assert names == ['final_model.pt', 'latest', 'model_00010.dcp', 'model_00012.dcp', 'model_00012.pt'] and latest == 'model_00012.dcp\n'
    assert [o[0] for o in passed] == [5, 10, 12] and passed[0][1] > 5, f'the training waited: {passed}'
    assert seen['resumed'] == [[12, o[0]] for o in seen['weights']], 'a resumed run is another one'

# the disk is full on rank 1, for whatever it writes after the first checkpoint
FULL = ASIDE + '''
whole = sharded._write_folder
def late(s, *args):
    try: whole(s, *args)
    except UserError:
        if s.rank == 0: time.sleep(.3)                      # rank 1 hears of it some steps earlier
        raise
sharded._write_folder = late
def fill(t):
    time.sleep(.03)
    if t.step != 6 or t.strategy.rank != 1: return
    while not Path('run/model_00005.dcp').exists(): time.sleep(.01)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
with as_one(): trainer('run', Watch(fill), async_save=sys.argv[1] == 'aside', max_steps=40).fit()
'''

@pytest.mark.parametrize('how', ['aside', 'plain'])
def test_a_disk_that_is_full_on_one_rank_stops_all_in_one_sentence(how, home):
    code, out, err = finish(job(home, FULL.replace('sys.argv[1]', repr(how))))
    assert code == 1, err[-3000:]
    last = [o for o in err.splitlines() if 'nanogpt_lit.core.UserError: ' in o]
    assert len(last) == 1 and 'model_00010.dcp could not be written (rank 1: File too large): make room' in last[0], err[-3000:]
    assert sorted(p.name for p in (home/'run').iterdir()) == ['latest', 'model_00005.dcp']
    assert (home/'run'/'latest').read_text() == 'model_00005.dcp\n'

def test_files_and_folders_are_forgotten_alike(home):
    "A run that goes on in slices leaves nothing behind of the files from before"
    from nanogpt_lit.checkpoint import CheckpointCallback
    from nanogpt_lit.config import GPTConfig, OptimConfig, TrainConfig
    from nanogpt_lit.distributed import OneProcess
    from nanogpt_lit.loader import BatchPlan, TokenData
    from nanogpt_lit.model import GPT
    from nanogpt_lit.optim import make_optimizers
    from nanogpt_lit.sharded import ShardedCheckpoint, newest_of_any, restore_any
    from nanogpt_lit.trainer import Trainer
    run, plan, ocfg = home/'run', BatchPlan(TokenData(home/'train.bin'), 4, 32, seed=1), OptimConfig(warmup_steps=0)
    (run/'model_00001.dcp').mkdir(parents=True)
    (run/'model_00001.dcp'/'mine.txt').touch()
    def go(keeper, until):
        model = GPT(GPTConfig(vocab_size=256, block_size=32, n_layer=1, n_head=1, n_embd=8))
        tcfg = TrainConfig(max_steps=until, batch_size=4, device='cpu', eval_interval=0, checkpoint_interval=1, keep_last_n_checkpoints=2)
        t = Trainer(model, plan, make_optimizers(model, ocfg), ocfg, tcfg, [keeper(run)], strategy=OneProcess('cpu'))
        if found := newest_of_any(run): restore_any(t, found[1])
        t.fit()
        return sorted(p.name for p in run.iterdir() if p.name != 'latest')
    assert go(CheckpointCallback, 2) == ['model_00001.dcp', 'model_00001.pt', 'model_00002.pt']
    assert go(ShardedCheckpoint, 3) == ['model_00001.dcp', 'model_00002.pt', 'model_00003.dcp', 'model_00003.pt']
    assert go(CheckpointCallback, 5) == ['model_00001.dcp', 'model_00004.pt', 'model_00005.pt'], 'or what holds something else was deleted'

# rank 1 is killed when it has written its slices of step 10 and said nothing of it yet; torchrun starts both again
KILLED = ASIDE + '''
whole, sums = sharded._write_folder, sharded._sums
def killed(part, s):
    if s.rank == 1 and 'model_00010' in part.name and os.environ['TORCHELASTIC_RESTART_COUNT'] == '0':
        time.sleep(.5)                                      # what rank 0 does by itself, it has done
        Path('left.json').write_text(json.dumps(sorted(p.name for p in Path('run').glob('*'))))
        os.kill(os.getpid(), 9)
    return sums(part, s)
sharded._sums = killed
with as_one():
    t = trainer('run', async_save=True)
    s, found = t.strategy, newest_of_any('run')
    begun = found[1]['step'] if found else 0
    if found: restore_any(t, found[1])
    t.fit()
    if s.is_main: assert not [*Path('run').glob('.*.part')], 'the remains are still there'
    if begun:
        sharded._write_folder = whole
        plain = trainer('plain').fit()
        if s.is_main: assert content('plain/model_00012.dcp') == content('run/model_00012.dcp')
        tell('killed', [begun, mine(t) == mine(plain), json.loads(Path('left.json').read_text())])
'''

def test_a_rank_killed_in_mid_save_leaves_the_one_before(home):
    seen = told(good(finish(job(home, KILLED, '--max-restarts=1'))))
    assert [o[:2] for o in seen['killed']] == [[5, True]]*2, seen
    hidden, *left = seen['killed'][0][2]
    assert hidden.startswith('.model_00010.dcp.') and left == ['latest', 'model_00005.dcp'], (hidden, left)

# --- death and signals ---------------------------------------------------------------------------------------------

def worker(p, home, rank):
    "The process with this rank below torchrun, which has written down its number"
    found = psutil.Process(int((home/f'rank{rank}').read_text()))
    assert found in psutil.Process(p.pid).children(recursive=True)
    return found

def wait_for(step, folder, p): harness.wait_for(lambda: max(steps(folder), default=0) >= step, p, LIMIT)

SLOWLY = '''
import os, sys, time
from pathlib import Path
from nanogpt_lit.config import PRESETS, RunConfig, resolve
from nanogpt_lit.distributed import as_one
from nanogpt_lit.pretrain import pretrain
from nanogpt_lit.trainer import Callback
Path(f'rank{os.environ["RANK"]}').write_text(str(os.getpid()))
class Slowly(Callback):
    def on_step_end(self, t): time.sleep(.03)
with as_one(): pretrain(*resolve(RunConfig, sys.argv[1:], PRESETS), callbacks=[Slowly()])
'''

def slowly(home, text, *torchrun):
    (home/'job.py').write_text(SLOWLY)
    return start([*TORCHRUN, '--nproc_per_node=2', *torchrun, 'job.py', '--input', text, '--out_dir', 'run', *FLAGS], home)

@pytest.mark.parametrize('rank', [1, pytest.param(0, marks=slow)])
def test_a_killed_worker_costs_nothing_but_time(rank, two, text, tmp_path):
    p = slowly(tmp_path, text, '--max-restarts=1')
    wait_for(24, tmp_path/'run', p)
    worker(p, tmp_path, rank).kill()
    out = good(finish(p))
    assert 'at step 20' in out or 'at step 30' in out
    assert numbers(tmp_path/'run') == numbers(two) and weights(tmp_path/'run') == weights(two)

def test_a_signal_to_one_stops_all_at_the_same_step(two, text, tmp_path):
    p = slowly(tmp_path, text)
    wait_for(13, tmp_path/'run', p)
    worker(p, tmp_path, 1).send_signal(signal.SIGTERM)
    out = good(finish(p))
    assert 'stopped by SIGTERM after step' in out
    good(train(2, 'run', '--auto_resume', cwd=tmp_path, text=text, only=True))
    assert numbers(tmp_path/'run') == numbers(two) and weights(tmp_path/'run') == weights(two)

NAN = SLOWLY.replace('time.sleep(.03)', "t.step == 7 and t.strategy.rank == 1 and t.params[0].data.fill_(float('nan'))")

def test_nan_on_one_rank_stops_all(text, tmp_path):
    (tmp_path/'job.py').write_text(NAN)
    code, out, err = run(*TORCHRUN, '--nproc_per_node=2', 'job.py', '--input', text, '--out_dir', 'run', *FLAGS, cwd=tmp_path)
    assert code and err.count('UserError: the loss or its gradient stopped being a finite number at step 8') == 1, err
    assert max(r['step'] for r in rows(tmp_path/'run')) == 7 and not [*(tmp_path/'run').glob('model_*.pt')]

# --- mistakes ------------------------------------------------------------------------------------------------------

def one_line(result, *parts):
    code, out, err = result
    lines = err.strip().splitlines()
    assert code == 1 and len(lines) == 1 and lines[0].startswith('error: '), (code, out[-500:], err[-3000:])
    for part in parts: assert part in lines[0], lines[0]

def launch(*words, cwd, **env): return run(BIN/'nanogpt-launch', *words, cwd=cwd, **env)

def test_who_failed_of_itself_is_named(capsys):
    "The launcher ends the others by SIGTERM, and sometimes hears of that within the same second"
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
    from nanogpt_lit.launch import _worst
    def failed(codes):
        failures = {rank: ProcessFailure(rank, 1000 + rank, code, '<N/A>') for rank, code in codes.items()}
        for failure in failures.values(): failure.timestamp = 1000                # whatever the clock says
        return ChildFailedError('job', failures)
    assert _worst(failed({2: -signal.SIGTERM, 0: 3})) == 3 and not capsys.readouterr().err
    assert _worst(failed({2: -signal.SIGTERM, 1: -signal.SIGKILL})) == 1 and capsys.readouterr().err == 'error: rank 1 was ended by SIGKILL\n'
    assert _worst(failed({0: 1, 1: -signal.SIGKILL})) == 1 and 'rank 1 was ended by SIGKILL' in capsys.readouterr().err    # 0 only lost its peer
    assert _worst(failed({1: -signal.SIGTERM})) == 1 and 'rank 1 was ended by SIGTERM' in capsys.readouterr().err
    late = failed({0: -signal.SIGTERM, 1: -signal.SIGKILL})
    late.failures[1].timestamp += 120                # torchrun lost its patience with the other
    assert _worst(late) == 1 and 'rank 0 was ended by SIGTERM' in capsys.readouterr().err

def test_a_step_that_cannot_be_divided(text, tmp_path):
    one_line(launch('--nproc', 3, 'train', '--input', text, '--out_dir', 'run', *FLAGS, cwd=tmp_path), 'a step of 8 sequences', '3 processes')
    assert not (tmp_path/'run').exists()

def test_a_flag_that_does_not_exist_and_a_run_that_does_not(tmp_path):
    "Mistakes that are found before the processes have met are said once, too"
    one_line(launch('--nproc', 3, 'train', '--bogus', '3', cwd=tmp_path), 'unknown flag --bogus')
    one_line(launch('--nproc', 2, 'sample', 'nowhere', cwd=tmp_path), 'nowhere does not exist')

def test_torchrun_itself_says_it_once(text, tmp_path):
    code, out, err = train(3, 'run', cwd=tmp_path, text=text)
    assert code == 1 and sum(line.startswith('error: ') for line in err.splitlines()) == 1, err
    assert 'a step of 8 sequences' in err.split('FAILED')[1], 'torchrun reports the same sentence as the cause'

PATCHED = '''#!{python}
import sys, os
{patch}
from nanogpt_lit.config import nanogpt_train
sys.exit(nanogpt_train(sys.argv[1:]))
'''

@pytest.fixture
def patched(tmp_path):
    "A training program with a patch before it"
    def make(patch):
        path = tmp_path/'job.py'
        path.write_text(PATCHED.format(python=sys.executable, patch=patch))
        return path
    return make

def said_once(result, *parts):
    code, out, err = result
    lines = [line for line in err.splitlines() if line.startswith('error: ')]
    assert code == 1 and len(lines) == 1 and err.count('Traceback') <= 1, (code, out[-500:], err[-3000:])   # torchrun's own
    for part in parts: assert part in lines[0], lines[0]

def test_other_settings_on_one_rank(text, tmp_path, patched):
    job = patched("if os.environ['RANK'] == '1': sys.argv += ['--learning_rate', '0.5']")
    said_once(run(*TORCHRUN, '--nproc_per_node=2', job, '--input', text, '--out_dir', 'run', *FLAGS, cwd=tmp_path),
              'rank 1 was started with other settings', 'learning_rate is 0.5 there')
    assert not (tmp_path/'run').exists()

def test_who_has_something_to_say_is_not_ended_first(text, tmp_path, patched):
    "torchrun ends all processes when the first has gone; here rank 0 needs a second for its sentence"
    job = patched("import builtins, time; say = print\nif os.environ['RANK'] == '0': builtins.print = lambda *a, **kw: (time.sleep(1.), say(*a, **kw))")
    said_once(run(*TORCHRUN, '--nproc_per_node=2', job, '--input', 'nowhere.txt', '--out_dir', 'run', *FLAGS, cwd=tmp_path), 'nowhere.txt does not exist')

@pytest.fixture
def strangers(text, tmp_path):
    "Two machines without a common disk, as two folders on this one: training that begins with what `make` put there, started"
    def begin(name, make, *more):
        home = tmp_path/name
        for k in (0, 1): (home/str(k)).mkdir(parents=True); shutil.copy(text, home/str(k)/'text.txt'); make(k, home/str(k))
        command = ['-m', 'nanogpt_lit.pretrain', '--input', 'text.txt', '--out_dir', 'run', *FLAGS, *more]
        where = ['--nnodes=2', '--nproc_per_node=1', '--master_addr=127.0.0.1', f'--master_port={ports.pop()}']
        return [start([BIN/'torchrun', *where, f'--node_rank={k}', *command], home/str(k)) for k in (0, 1)]
    with ExitStack() as held:
        taken = [held.enter_context(socket.socket()) for _ in range(3)]
        for s in taken: s.bind(('127.0.0.1', 0))
        ports = [s.getsockname()[1] for s in taken]
    return begin

def test_machines_that_do_not_fit_together(one, strangers, tmp_path, cut):
    """Rank 0 has the checkpoints of steps 10 and 20, the other only that of 10; half of a checkpoint in slices on each machine would be none, and nobody
    would know before it is needed; different texts. All three are started before the first is looked at (and the cable below is cut): they mostly wait"""
    def checkpoints(k, home):
        (home/'run').mkdir()
        for name in ['model_00010.pt', 'model_00020.pt'][:2 - k] + ['metrics.jsonl', 'config.toml']: shutil.copy(one/name, home/'run'/name)
    def texts(k, home):
        if k: (home/'text.txt').write_text((home/'text.txt').read_text().replace('parser', 'prasre', 1))
    begun = [strangers('checkpoints', checkpoints, '--auto_resume'), strangers('disk', lambda k, home: None, '--strategy', 'fsdp'), strangers('texts', texts)]
    said = [[finish(p) for p in pair] for pair in begun]
    said_once(said[0][0], 'rank 1 has another checkpoint than rank 0 (step 10', 'step 20')
    assert (tmp_path/'checkpoints'/'0'/'run'/'metrics.jsonl').read_bytes() == (one/'metrics.jsonl').read_bytes()
    said_once(said[1][0], 'rank 1 does not see the folder', 'put --out_dir on a disk that all machines see')
    said_once(said[2][0], 'rank 1 has another train split than rank 0')
    assert not (tmp_path/'texts'/'0'/'run'/'config.toml').exists()
    for _, (code, _, err) in said: assert code == 1 and '\nerror: ' not in err

def test_more_processes_than_devices(text, tmp_path, patched):
    job = patched('import torch; torch.cuda.is_available, torch.cuda.device_count = lambda: True, lambda: 1')
    said_once(run(*TORCHRUN, '--nproc_per_node=2', job, '--input', text, '--out_dir', 'run', *FLAGS, '--device', 'cuda', cwd=tmp_path),
              '2 processes were started on this machine, which has 1 CUDA device:')

def test_no_nccl(text, tmp_path, patched):
    job = patched('import torch; torch.cuda.is_available, torch.cuda.device_count, torch.cuda.get_device_capability = lambda: True, lambda: 2, lambda device: (9, 0)')
    said_once(run(*TORCHRUN, '--nproc_per_node=2', job, '--input', text, '--out_dir', 'run', *FLAGS, '--device', 'cuda', cwd=tmp_path), 'NCCL')

def test_port_in_use(text, tmp_path):
    with socket.socket() as s:
        s.bind(('', 0)); s.listen()
        port = s.getsockname()[1]
        one_line(launch('--nproc', 1, '--nnodes', 2, '--node_rank', 0, '--master_addr', '127.0.0.1', '--master_port', port, 'train', 'tiny', cwd=tmp_path),
                 f'port {port} is in use')
        env = dict(RANK='0', WORLD_SIZE='2', LOCAL_RANK='0', LOCAL_WORLD_SIZE='2', MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port), TORCH_CPP_LOG_LEVEL='FATAL')
        one_line(run(BIN/'nanogpt-train', '--input', text, *FLAGS, cwd=tmp_path, **env), 'is in use by another program')

def test_the_slurm_script_in_the_repository_is_what_the_command_writes(root):
    command = ['train', 'gpt2', '--dataset', 'data/mine']
    want = sbatch_script(LaunchConfig(nproc=8, nnodes=2, sbatch='x', max_restarts=3, command=command))
    assert (root/'scripts'/'train.sbatch').read_text(encoding='utf-8') == want

# --- two machines --------------------------------------------------------------------------------------------------

class Hosts:
    "Two network namespaces with a cable between them"
    made = 0
    def __init__(self):
        Hosts.made += 1
        n = (os.getpid() + 101*Hosts.made) % 250        # two of these may be there at the same time
        self.names, self.address, self.links = [f'nanogpt{n}a', f'nanogpt{n}b'], [f'10.213.{n}.1', f'10.213.{n}.2'], [f'ngv{n}a', f'ngv{n}b']
    def ip(self, *words, check=True): return subprocess.run(['ip', *words], capture_output=True, text=True, check=check, timeout=20)
    def net(self, k): return f'/var/run/netns/{self.names[k]}'
    def inside(self, k): return ['nsenter', f'--net={self.net(k)}']
    def __enter__(self):
        self.ip('link', 'add', self.links[0], 'type', 'veth', 'peer', 'name', self.links[1])
        for name, address, link in zip(self.names, self.address, self.links):
            self.ip('netns', 'add', name)
            self.ip('link', 'set', link, 'netns', name)
            for words in (['addr', 'add', f'{address}/24', 'dev', link], ['link', 'set', link, 'up'], ['link', 'set', 'lo', 'up']): self.ip('-n', name, *words)
        subprocess.run([*self.inside(0), 'ping', '-c', '1', self.address[1]] if shutil.which('ping') else [*self.inside(0), 'true'], check=True, capture_output=True, timeout=20)
        return self
    def __exit__(self, *error):
        for name in self.names: self.ip('netns', 'del', name, check=False)
        self.ip('link', 'del', self.links[0], check=False)
    def cut(self): self.ip('-n', self.names[0], 'link', 'set', self.links[0], 'down')
    def torchrun(self, k, *command, cwd, port=29611, how=None):
        "One machine's torchrun: number k of two"
        how = how or [f'--node_rank={k}', f'--master_addr={self.address[0]}', f'--master_port={port}']
        return start([BIN/'torchrun', '--nnodes=2', '--nproc_per_node=1', *how, *command], cwd, net=self.net(k))

def new_hosts():
    "`Hosts`, or in words why they can't be had"
    if not (shutil.which('ip') and shutil.which('nsenter')): return 'two machines are simulated with `ip netns` and `nsenter`, which are not here'
    h = Hosts()
    try: return h.__enter__()
    except (subprocess.SubprocessError, OSError) as e:
        h.__exit__()
        return f'network namespaces may not be created here ({getattr(e, "stderr", "") or e})'.replace('\n', ' ')

@pytest.fixture
def hosts():
    if isinstance(h := new_hosts(), str): pytest.skip(h)
    try: yield h
    finally: h.__exit__()

@pytest.fixture(scope='module')
def cut(text, tmp_path_factory):
    "Two machines in training whose cable has been cut: `(their torchruns, folder)`. What they notice takes them some seconds, for other tests"
    if isinstance(h := new_hosts(), str): return (yield h)
    home = tmp_path_factory.mktemp('cut')
    (home/'job.py').write_text(SLOWLY)
    command = ['job.py', '--input', text, '--out_dir', 'run', *FLAGS, '--max_steps', '100000', '--dist_timeout', '6']
    machines = [h.torchrun(k, *command, cwd=home) for k in (0, 1)]
    try:
        wait_for(12, home/'run', machines[0])
        h.cut()
        yield machines, home
    finally:
        for p in machines:
            if p.poll() is None: finish(p)
        h.__exit__()

def test_two_machines(hosts, two, text, tmp_path):
    "One started by nanogpt-launch, the other by the line for torchrun that stands in the page"
    flags = ['--input', text, '--out_dir', 'run', *FLAGS]
    where = ['--nproc', 1, '--nnodes', 2, '--node_rank', 0, '--master_addr', hosts.address[0], '--master_port', 29611]
    machines = [start([BIN/'nanogpt-launch', *where, 'train', *flags], tmp_path, net=hosts.net(0)),
                hosts.torchrun(1, '-m', 'nanogpt_lit.pretrain', *flags, cwd=tmp_path)]
    said = [good(finish(p)) for p in machines]
    assert said[0].count('iter 50:') == 1 and 'iter' not in said[1]
    assert numbers(tmp_path/'run') == numbers(two)

@slow
def test_two_machines_that_agree_who_is_first(hosts, two, text, tmp_path):
    how = ['--rdzv_backend=c10d', f'--rdzv_endpoint={hosts.address[0]}:29612', '--rdzv_id=x'] # both have one host name here, so is_host says who is meant
    command = ['-m', 'nanogpt_lit.pretrain', '--input', text, '--out_dir', 'run', *FLAGS]
    machines = [hosts.torchrun(k, *command, cwd=tmp_path, how=[*how, f'--local_addr={hosts.address[k]}', f'--rdzv_conf=is_host={1 - k}']) for k in (0, 1)]
    for p in machines: good(finish(p))
    close(rows(tmp_path/'run'), rows(two))

def test_a_cut_cable_is_an_error_and_not_a_hang(cut):
    if isinstance(cut, str): pytest.skip(cut)
    machines, home = cut
    for code, out, err in [finish(p, 100) for p in machines]: assert code and 'lost contact with another process' in err, err[-3000:]
    assert [*(home/'run').glob('model_*.pt')]
