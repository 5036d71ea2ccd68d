"""A run whose disk fills up, whose folder is read-only, vanishes or moves to another place: one clear sentence, and what was saved stays good."""
import argparse, os, shutil, signal, subprocess, sys, time
from pathlib import Path
import pytest
import harness
from harness import BIN, Popen, run_argv, wait_for

TINY = ('--input text.txt --tokenizer char --n_layer 2 --n_head 2 --n_embd 64 --block_size 32 --batch_size 4 --device cpu --num_threads 1 --workers 1 '
        '--log_interval 1 --eval_interval 0 --checkpoint_interval 2').split()

@pytest.fixture
def here(tmp_path):
    (tmp_path/'text.txt').write_text(Path(argparse.__file__).read_text(encoding='utf-8')[:8000], encoding='utf-8')
    return tmp_path

def start(*words, cwd, **kw): return harness.start('nanogpt-train', *TINY, *words, cwd=cwd, **kw)

def train(*words, cwd, **kw):
    return harness.finish(start(*words, cwd=cwd, **kw), 300)

def error_line(err):
    assert 'Traceback' not in err, err
    (line,) = [o for o in err.splitlines() if o.startswith('error: ')]
    return line

@pytest.fixture
def disk(tmp_path):
    "A file system of six megabytes, or one that can't be written to: `disk(remount)`"
    folder = tmp_path/'disk'
    folder.mkdir()
    if subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=6m', 'tmpfs', folder], capture_output=True).returncode: pytest.skip('may not mount a file system')
    yield folder
    subprocess.run(['umount', '-l', folder], check=True)

def test_a_disk_that_is_full(here, disk):
    code, out, err = train('--out_dir', disk/'run', '--max_steps', 40, cwd=here)
    line = error_line(err)
    assert code == 1 and 'needs 1.' in line and 'MB and could not be written' in line and 'free' in line, line
    from nanogpt_lit.checkpoint import checkpoints, load_checkpoint
    saved = checkpoints(disk/'run')
    assert saved and [load_checkpoint(p)['step'] for p in saved] == [2*i + 2 for i in range(len(saved))]
    assert not [*(disk/'run').glob('.*')], 'half a file was left'
    for p in saved[:-1]: p.unlink()                                              # somebody makes room
    code, out, err = train('--out_dir', disk/'run', '--max_steps', 40, '--auto_resume', '--keep_last_n_checkpoints', 1, cwd=here)
    assert code == 0 and f'at step {2*len(saved)}' in out, err

def test_a_disk_that_cannot_be_written_to(here, disk):
    assert train('--out_dir', disk/'run', '--max_steps', 4, cwd=here)[0] == 0
    subprocess.run(['mount', '-o', 'remount,ro', disk], check=True)
    before = {p: p.read_bytes() for p in disk.rglob('*') if p.is_file()}
    code, out, err = train('--out_dir', disk/'run', '--max_steps', 8, '--auto_resume', cwd=here)
    assert code == 1 and 'cannot be written (Read-only file system)' in error_line(err)
    assert before == {p: p.read_bytes() for p in disk.rglob('*') if p.is_file()}

SHORT_FILES = '''
import resource, signal, sys
from nanogpt_lit.config import nanogpt_train
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))
sys.exit(nanogpt_train())
'''

@pytest.mark.skipif(os.name == 'nt', reason='POSIX limits')
def test_a_file_that_may_not_grow(here):
    "A quota, as far as a process can set one: files end at 400 kB, and a checkpoint needs more"
    code, out, err = harness.finish(harness.start(sys.executable, '-c', SHORT_FILES, *TINY, '--out_dir', 'run', '--max_steps', 4, cwd=here))
    assert code == 1 and 'MB and could not be written' in error_line(err), err
    assert not [*(here/'run').glob('*.pt')] and not [*(here/'run').glob('.*.part')]

def test_a_folder_that_is_moved_while_it_trains(here):
    p = start('--out_dir', 'run', '--max_steps', 100_000, '--keep_last_n_checkpoints', 2, cwd=here)
    wait_for((here/'run'/'model_00006.pt').exists, p)
    (here/'run').rename(here/'moved')
    out, err = p.communicate(timeout=120)
    line = error_line(err)
    assert p.returncode == 1 and 'has vanished' in line and '--auto_resume' in line, line
    from nanogpt_lit.checkpoint import latest_checkpoint, load_checkpoint, newest_good
    old, new = load_checkpoint(latest_checkpoint(here/'moved')), newest_good(here/'run')[1]
    assert new['step'] >= old['step'] >= 6
    last = new['step'] + 2
    code, out, err = train('--out_dir', 'run', '--auto_resume', '--max_steps', last, cwd=here)
    assert code == 0 and f'at step {new["step"]}' in out, err

def test_a_folder_that_is_gone_when_old_checkpoints_would_be_forgotten(tmp_path):
    "The instant after a save: the next one reports it"
    from types import SimpleNamespace
    from nanogpt_lit.checkpoint import CheckpointCallback
    from nanogpt_lit.config import TrainConfig
    c = CheckpointCallback(tmp_path/'run')
    (tmp_path/'run').rmdir() if (tmp_path/'run').exists() else None
    c._forget(SimpleNamespace(cfg=TrainConfig(keep_last_n_checkpoints=2)))

def test_a_run_continues_in_another_place_without_its_text(here):
    "Copied to another machine: `nanogpt-train RUN/config.toml --auto_resume` means the folder of that file"
    assert train('--out_dir', 'run', '--max_steps', 4, cwd=here)[0] == 0
    (here/'there').mkdir()
    shutil.copytree(here/'run', here/'there'/'copy')
    r = run_argv([str(BIN/'nanogpt-train'), 'copy/config.toml', '--auto_resume', '--max_steps', '6'], cwd=here/'there', capture_output=True, text=True, timeout=300)
    assert r.returncode == 0 and 'resuming copy/model_00004.pt' in r.stdout, r.stderr
    assert (here/'there'/'copy'/'model_00006.pt').exists() and not (here/'there'/'run').exists()

SLOW_STEPS = '''
import sys, time
from pathlib import Path
from nanogpt_lit.config import nanogpt_train
from nanogpt_lit.trainer import Trainer
step = Trainer.train_step
def slowly(self):
    step(self)
    Path('in a step').touch()
    time.sleep(60)
Trainer.train_step = slowly
sys.exit(nanogpt_train())
'''

def test_second_ctrl_c_stops_at_once(here):
    "In the middle of a step of a minute, that is: the first Ctrl-C would wait for its end"
    p = harness.start(sys.executable, '-c', SLOW_STEPS, *TINY, '--out_dir', 'run', '--max_steps', 100_000, '--checkpoint_interval', -1, cwd=here)
    wait_for((here/'in a step').exists, p)
    p.send_signal(signal.SIGINT)
    told = next(line for line in p.stderr if 'once more: stop at once' in line)     # it has arrived
    assert p.poll() is None
    p.send_signal(signal.SIGINT)
    code, out, err = harness.finish(p, 60)
    assert code == 130 and told and 'Traceback' not in err, (code, err)
    assert not [*(here/'run').glob('.*.part')]

def test_a_warning_and_then_sigterm_still_saves(here):
    "SLURM sends USR1 and then TERM; only a second Ctrl-C means hurry"
    p = start('--out_dir', 'run', '--max_steps', 100_000, '--checkpoint_interval', -1, cwd=here)
    wait_for((here/'run'/'metrics.jsonl').exists, p)
    while not (here/'run'/'metrics.jsonl').stat().st_size: time.sleep(.01)                   # a step has been done
    for s in (signal.SIGUSR1, signal.SIGTERM, signal.SIGTERM): p.send_signal(s)
    out, err = p.communicate(timeout=60)
    assert p.returncode in (138, 143) and 'Traceback' not in err and [*(here/'run').glob('model_*.pt')], (p.returncode, err)

def test_a_folder_where_somebody_trains(here):
    "Neither joined nor moved away from under it; when its process is gone, the folder is free"
    p = start('--out_dir', 'run', '--max_steps', 100_000, '--keep_last_n_checkpoints', 2, cwd=here)
    try:
        wait_for((here/'run'/'latest').exists, p)
        for more in ([], ['--auto_resume']):
            code, out, err = train('--out_dir', 'run', '--max_steps', 9, *more, cwd=here)
            assert code == 1 and f'process {p.pid} is training in run at this moment' in error_line(err), err
        assert p.poll() is None and not (here/'run'/'previous-1').exists()
    finally:
        p.kill()
        p.communicate()
    code, out, err = train('--out_dir', 'run', '--max_steps', 3, '--auto_resume', cwd=here)
    assert code == 0 and 'resuming run/model_' in out, err

def test_nonsense_for_a_checkpoint(here):
    (here/'bad.pt').write_bytes(os.urandom(5000))
    for name, said in (('bad.pt', 'torn, corrupt or not a checkpoint'), ('no.pt', 'there is no checkpoint'), ('.', 'no good checkpoint')):
        code, out, err = train('--out_dir', 'run', '--load_checkpoint', name, cwd=here)
        assert code == 1 and said in error_line(err), err
    assert not (here/'run').exists()

def test_other_settings_for_a_checkpoint(here):
    "--n_head of the checkpoint and --n_embd of the user meet before either is judged"
    assert train('--out_dir', 'run', '--max_steps', 2, cwd=here)[0] == 0
    r = run_argv([str(BIN/'nanogpt-train'), '--input', 'text.txt', '--tokenizer', 'char', '--load_checkpoint', 'run/model_00002.pt', '--n_embd', '32',
                        '--out_dir', 'other'], cwd=here, capture_output=True, text=True, timeout=120)
    assert r.returncode == 1 and 'n_embd is 64 there and 32 here' in r.stderr and not (here/'other').exists(), r.stderr

# --- damaged files ---------------------------------------------------------------------------------------------------

N_DAMAGED = 2000 if os.environ.get('NANOGPT_LIT_SLOW') else 150  # of each kind; 2,000 take two minutes

@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('kind', ['cut', 'bit', 'bit near an end', 'zeros', 'stretch doubled'])
def test_a_damaged_checkpoint_is_refused_by_name_or_equal(kind, tmp_path):
    import random, torch
    from nanogpt_lit.checkpoint import load_checkpoint, save_checkpoint
    from nanogpt_lit.core import UserError
    torch.manual_seed(0)
    state = dict(model={f'blocks.{i}.w': torch.randn(20, 30) for i in range(6)}, step=5, config={'n_layer': 6}, rng={'torch': torch.get_rng_state()},
                 optimizer=[{'state': {0: {'step': torch.tensor(3.)}}, 'param_groups': [{'lr': 1e-3}]}])
    path, bad, rng = save_checkpoint(tmp_path/'model_00005.pt', state), tmp_path/'bad.pt', random.Random(1)
    good, want = path.read_bytes(), load_checkpoint(path)['checksum']
    N = len(good)
    cuts = [*range(0, N, 1024), *range(100), *range(N - 100, N)] if kind == 'cut' else []
    refused = 0
    for n in cuts or range(N_DAMAGED):
        x, at, size = bytearray(good), rng.randrange(N), rng.randrange(1, 600)
        if kind == 'cut': del x[n:]
        elif kind == 'zeros': x[at:at + size] = bytes(len(x[at:at + size]))
        elif kind == 'stretch doubled': x[at:at] = good[at:at + size]
        else: x[at if kind == 'bit' else rng.choice([at % 3000, N - 1 - at % 5000])] ^= 1 << rng.randrange(8)
        bad.write_bytes(x)
        try: assert load_checkpoint(bad)['checksum'] == want                          # a bit in the padding
        except UserError as e: assert 'bad.pt' in str(e); refused += 1
    assert refused > .7*len(cuts or range(N_DAMAGED)), refused
