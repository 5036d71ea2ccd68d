"""The training loop as its users meet it: `nanogpt-train` with the settings that change how a run goes or ends.

Commands run inside this process, which is quicker than starting Python for each; test_runs.py starts real ones.
"""
import argparse, importlib.util, math, shutil, sys
from pathlib import Path
from types import SimpleNamespace
import numpy as np
import pytest, torch
from nanogpt_lit import config
from nanogpt_lit.checkpoint import load_checkpoint
from nanogpt_lit.monitor import read_metrics
from nanogpt_lit.trainer import TIMINGS
from nanogpt_lit.callbacks import TensorBoard, Tracker

SMALL = ['--n_layer', '2', '--n_head', '2', '--n_embd', '32', '--block_size', '32', '--batch_size', '4', '--device', 'cpu', '--num_threads', '1',
         '--tokenizer', 'char', '--log_interval', '1', '--eval_interval', '5', '--checkpoint_interval', '0', '--learning_rate', '1e-2']

@pytest.fixture
def train(tmp_path, monkeypatch, capsys):
    "Train on 20,000 characters: `train('--max_steps', 5, out='a')` gives (exit code, output, run folder)"
    monkeypatch.chdir(tmp_path)
    Path('text.txt').write_text(Path(argparse.__file__).read_text(encoding='utf-8')[:20_000], encoding='utf-8')
    def go(*words, out='run', preset=(), small=SMALL):
        capsys.readouterr()
        code = config.nanogpt_train([*preset, '--input', 'text.txt', '--out_dir', out, *small, *map(str, words)])
        said = capsys.readouterr()
        return code, said.out + said.err, tmp_path/out
    yield go
    torch.use_deterministic_algorithms(False)

def column(run, key): return [r[key] for r in read_metrics(run) if r.get(key) is not None]
def weights(run):
    newest = max(run.glob('model_*.pt'), key=lambda p: int(p.stem[6:]))
    return load_checkpoint(newest)['model']
def equal(a, b): return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)

def test_first_loss_is_a_uniform_guess(train):
    _, _, run = train('--max_steps', 1)
    vocab = load_checkpoint(run/'model_00001.pt')['config']['vocab_size']
    assert abs(column(run, 'loss')[0] - math.log(vocab)) < .2

def test_accumulated_steps_are_the_same_steps(train):
    common = ['--max_steps', 10, '--dropout', 0, '--optimizer', 'muon']
    one, many = (train(*common, *o, out=out)[2] for out, o in (('one', ['--batch_size', 32]), ('many', ['--batch_size', 4, '--grad_accum_steps', 8])))
    for key in ('loss', 'val_loss', 'grad_norm'): assert column(one, key) == pytest.approx(column(many, key), rel=2e-3), key
    assert column(one, 'loss')[-1] < column(one, 'loss')[0]

@pytest.mark.skipif(not (shutil.which('c++') or shutil.which('g++') or shutil.which('clang++')), reason='torch.compile needs a C++ compiler, and there is none')
def test_compiled_and_not_agree_and_continue_each_other(train):
    small = ['--n_layer', 1]                                                 # the compiler takes most of the time
    plain, compiled = (train('--max_steps', 10, *small, *o, out=out)[2] for out, o in (('plain', []), ('compiled', ['--compile'])))
    assert column(plain, 'loss') == pytest.approx(column(compiled, 'loss'), abs=2e-3)
    assert weights(plain).keys() == weights(compiled).keys()                 # nothing of the compiler in the files
    for start, then in ((compiled, []), (plain, ['--compile'])):
        code, said, run = train('--max_steps', 12, *small, '--auto_resume', *then, out=start.name)
        assert code == 0 and [r['step'] for r in read_metrics(run)] == [*range(13)], said

def test_compile_that_fails_costs_one_line(train, monkeypatch):
    monkeypatch.setattr(torch, 'compile', lambda *a, **k: (_ for _ in ()).throw(RuntimeError('no compiler\nwith a long story')))
    code, said, run = train('--max_steps', 3, '--compile')
    assert code == 0 and len([o for o in said.splitlines() if 'going on without it' in o]) == 1 and len(column(run, 'loss')) == 3

@pytest.mark.parametrize('dtype', ['float16', 'bfloat16'])
def test_sixteen_bits_learn_and_resume_exactly(train, dtype):
    options = ['--dtype', dtype, '--dropout', .1, '--lr_decay_steps', 12]
    _, _, whole = train('--max_steps', 12, *options, out='whole')
    train('--max_steps', 6, *options, out='parts')
    code, said, parts = train('--max_steps', 12, *options, '--auto_resume', out='parts')
    assert code == 0 and equal(weights(whole), weights(parts)), said
    strip = lambda run: [{k: v for k, v in r.items() if k not in TIMINGS} for r in read_metrics(run) if r['step'] != 6]
    assert strip(whole) == strip(parts)
    assert column(whole, 'loss')[-1] < column(whole, 'loss')[0] - .3
    scales = column(whole, 'loss_scale')
    assert scales == ([] if dtype == 'bfloat16' else [65536.]*len(scales)) and bool(scales) == (dtype == 'float16')

def test_length_in_tokens_and_epochs(train):
    _, _, run = train('--max_tokens', 1000, '--warmup_tokens', 500, '--schedule', 'constant', out='tokens')
    assert column(run, 'tokens')[-1] == 1024 and column(run, 'lr') == pytest.approx([.01*min(1, (i + 1)/5) for i in range(8)])
    _, said, run = train('--max_epochs', .5, '--log_interval', 100, '--eval_interval', 0, out='epochs')
    assert read_metrics(run)[-1]['tokens'] == pytest.approx(.5*.9*20_000, abs=4*32) and 'steps' in said
    code, said, _ = train('--max_epochs', 1, '--auto_resume', '--eval_interval', 0, '--log_interval', 100, out='epochs')
    assert code == 0 and read_metrics(run)[-1]['tokens'] == pytest.approx(.9*20_000, abs=4*32), said

def test_patience_ends_a_run_that_gets_no_better(train):
    options = ['--max_steps', 100, '--patience', 2, '--min_delta', 9]
    code, said, run = train(*options)
    assert code == 0 and read_metrics(run)[-1]['step'] == 10 and 'done early' in said and (run/'model_00010.pt').exists()
    code, said, _ = train(*options, '--auto_resume')
    assert code == 0 and read_metrics(run)[-1]['step'] == 10                # it was over, and still is
    code, said, _ = train('--max_steps', 12, '--patience', 20, '--min_delta', 9, '--auto_resume')
    assert code == 0 and read_metrics(run)[-1]['step'] == 12

@pytest.mark.parametrize('clip', [0, 1])
def test_the_guilty_gradient_is_named(train, clip, monkeypatch):
    "Clipping divides all gradients by a norm that is NaN: it must not make them all look guilty"
    from nanogpt_lit import trainer
    name, update = 'blocks.0.mlp.up.weight', trainer.Trainer._update
    def damaged(self):
        if self.step == 2: self.raw_model.get_parameter(name).grad[0, 0] = math.nan
        update(self)
    monkeypatch.setattr(trainer.Trainer, '_update', damaged)
    code, said, run = train('--max_steps', 5, '--grad_clip', clip)
    assert code == 1 and 'at step 3' in said and f'have damaged gradients, the first is {name} (1 of' in said and '\n1 of ' in said, said

def test_one_batch_is_learned_by_heart(train):
    code, said, run = train('--overfit_batch', '--max_steps', 1000, '--log_interval', 20)
    assert code == 0 and column(run, 'loss')[-1] < .1 and 'work together' in said
    code, said, run = train('--overfit_batch', '--max_steps', 5, out='short')
    assert code == 0 and 'NOT known by heart' in said

def test_deterministic_runs_are_equal(train):
    a, b = (train('--max_steps', 6, '--deterministic', '--dropout', .1, '--seed', 7, out=o)[2] for o in 'ab')
    assert equal(weights(a), weights(b))
    assert not equal(weights(a), weights(train('--max_steps', 6, '--deterministic', '--dropout', .1, '--seed', 8, out='c')[2]))

def test_record_has_everything(train):
    _, said, run = train('--max_steps', 10)
    wanted = {'step', 'loss', 'val_loss', 'bits_per_byte', 'lr', 'grad_norm', 'update_ratio', 'tokens_per_s', 'mfu', 'memory_gb', 'eta_s', 'dt_ms'}
    last = read_metrics(run)[-1]
    assert wanted <= last.keys(), wanted - last.keys()
    assert last['bits_per_byte'] == pytest.approx(last['val_loss']/math.log(2), rel=1e-2)  # characters here are bytes
    assert .01 < last['memory_gb'] < 64 and last['eta_s'] == 0 and 1e-4 < last['update_ratio'] < 1
    assert 'number of parameters' in said and 'tokens per iteration: 128' in said

@pytest.mark.skipif(importlib.util.find_spec('tensorboard') is None, reason='the extra track is not installed')
def test_tensorboard_continues_a_curve(train):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    train('--max_steps', 6, '--track', 'tensorboard')
    _, _, run = train('--max_steps', 9, '--track', 'tensorboard', '--auto_resume')
    acc = EventAccumulator(str(run/'tensorboard')).Reload()
    assert [(e.step, pytest.approx(e.value, rel=1e-6)) for e in acc.Scalars('loss')] == [(r['step'], r['loss']) for r in read_metrics(run) if 'loss' in r]
    train('--max_steps', 3, '--track', 'tensorboard', '--seed', 5)             # a new run in the same folder: the old curve goes along with the old run
    assert [*(run/'previous-1/tensorboard').iterdir()]
    assert [e.step for e in EventAccumulator(str(run/'tensorboard')).Reload().Scalars('loss')] == [r['step'] for r in read_metrics(run) if 'loss' in r]

@pytest.mark.skipif(importlib.util.find_spec('wandb') is None, reason='the extra track is not installed')
def test_wandb_offline(train, monkeypatch):
    monkeypatch.setenv('WANDB_SILENT', 'true')
    code, said, run = train('--max_steps', 4, '--track', 'wandb', '--track_offline')
    written = [p for p in (run/'wandb').glob('offline-run-*/*.wandb')]
    assert code == 0 and len(written) == 1 and b'grad_norm' in written[0].read_bytes(), said

@pytest.mark.parametrize('name, module', [('tensorboard', 'torch.utils.tensorboard'), ('wandb', 'wandb')])
def test_tracker_that_is_not_installed(train, monkeypatch, name, module):
    monkeypatch.setitem(sys.modules, module, None)
    code, said, run = train('--max_steps', 2, '--track', name)
    assert code == 1 and f'error: --track {name} needs the package {name}: pip install {name}' in said and not [*run.glob('model_*.pt')]

@pytest.mark.parametrize('words, hints', [
    (['--max_tokens', '-1'], ['max_tokens=-1']), (['--max_tokens', 'many'], ['max_tokens', 'whole number']), (['--max_epochs', 'nan'], ['max_epochs']),
    (['--max_epochs', '1', '--max_tokens', '9'], ['--max_tokens or --max_epochs']), (['--patience', '-2'], ['patience=-2']),
    (['--patience', '2', '--eval_interval', '0'], ['--patience', 'eval_interval']), (['--min_delta', 'inf'], ['min_delta']),
    (['--track', 'mlflow'], ['tensorboard', 'wandb']), (['--compile_mode', 'turbo'], ['max-autotune']), (['--muon_polynomial', 'cubic'], ['jordan', 'polar']),
    (['--muon_scale', '3'], ['match_rms_adamw']), (['--warmup_tokens', '1', '--warmup_epochs', '1'], ['--warmup_tokens or --warmup_epochs']),
    (['--overfit_batch=7'], ['overfit_batch', 'True or False']), (['--cooldown_fraction', '2'], ['cooldown_fraction=2']), (['--muon_steps', '0'], ['muon_steps=0']),
    (['--learning_rate', 'nan'], ['learning_rate']), (['--lr_decay_steps', '0'], ['lr_decay_steps=0']), (['--schedule', 'sine'], ['cosine', 'wsd']),
    (['--seed', '-1'], ['seed=-1']), (['--seed', str(2**70)], ['seed='])],
    ids=lambda o: ' '.join(o) if o[0].startswith('--') else '')
def test_nonsense_gets_one_sentence(train, words, hints):
    code, said, run = train('--max_steps', 2, *words)
    errors = [o for o in said.splitlines() if o.startswith('error: ')]
    assert code == 1 and len(errors) == 1 and all(h in errors[0] for h in hints) and 'Traceback' not in said, said
    assert not [*run.glob('model_*.pt')]

# --- trackers ------------------------------------------------------------------------------------------------------

ODD_RECORD = {'step': 3, 'loss': 1.5, 'lr': None, 'norms': {'wte': .5, 'layers': {'0': 2, 'deep': {}}, 'name': 'x', 4: True}, 'by_layer': [1., 2.], 'said': 'a text',
              'tensor': torch.tensor(4.), 'histogram': torch.ones(3), 'fine': np.float32(.25), 'huge': 10**400, 'nan': math.nan, 'imaginary': 1j, 'own': object()}
NUMBERS = {'loss': 1.5, 'norms/wte': .5, 'norms/layers/0': 2, 'norms/4': 1, 'tensor': 4, 'fine': .25}

def test_a_tracker_gets_every_number_of_a_record_and_nothing_else():
    class Told(Tracker):
        writer = told = ()
        def write(self, record, step): self.told = record, step
    t, tracker, said = SimpleNamespace(record=ODD_RECORD, step=3), Told(), []
    t.say = said.append
    tracker.on_log(t)
    record, step = tracker.told
    assert math.isnan(record.pop('nan')) and (record, step, said) == (NUMBERS, 3, [])
    assert {type(v) for v in record.values()} == {float}

def test_tensorboard_goes_on_after_a_record_of_every_kind(tmp_path):
    pytest.importorskip('tensorboard', reason='the package tensorboard is not installed')
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter
    tracker, said = TensorBoard(), []
    tracker.writer = SummaryWriter(tmp_path)
    for step in (1, 2): tracker.on_log(SimpleNamespace(record=ODD_RECORD | {'step': step}, step=step, say=said.append))
    tracker.on_fit_end(SimpleNamespace(say=said.append))
    shown = EventAccumulator(str(tmp_path)).Reload()
    assert {*shown.Tags()['scalars']} == {*NUMBERS, 'nan'} and [e.step for e in shown.Scalars('norms/wte')] == [1, 2] and not said

def test_a_tensor_in_the_record_is_a_number_in_the_file(tmp_path):
    from nanogpt_lit.callbacks import MetricsFile
    t = SimpleNamespace(strategy=SimpleNamespace(is_main=True), record=dict(step=1, loss=torch.tensor(2.5), norm=np.float32(1), shape=torch.zeros(3)))
    MetricsFile(tmp_path/'metrics.jsonl').on_log(t)
    row = read_metrics(tmp_path/'metrics.jsonl')[0]
    assert (row['loss'], row['norm']) == (2.5, 1) and 'tensor' in row['shape']

def test_before_the_first_step_the_losses_are_said_once(train):
    code, said, _ = train('--max_steps', 5, '--eval_train', '--eval_iters', 1)
    assert code in (0, None) and said.count('step 0:') == 1 and 'iter 0:' not in said and 'iter 5:' in said

def test_a_preparation_that_was_cut_short_is_no_data_set(tmp_path, monkeypatch):
    from nanogpt_lit.data import prepared_home
    monkeypatch.chdir(tmp_path)
    Path('data/TH').mkdir(parents=True)
    Path('data/TH/train.bin').write_bytes(bytes(4))
    assert prepared_home('TH') == Path('data/TH')
    Path('data/TH/.unfinished').touch()
    assert prepared_home('TH') is None
