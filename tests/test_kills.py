"""A real training, killed at random moments again and again, ends like one that was left alone: bit for bit.

Every attempt is `nanogpt-train … --auto_resume` in a process of its own, forked from one that has the imports done (so that fifty
attempts are a minute and not five). Some kills come after a random time, others in the middle of a save. The short form
runs always; all of it (at least fifty each of SIGKILL, SIGTERM and Ctrl-C):

    NANOGPT_LIT_SLOW=1 python -m pytest -q -s tests/test_kills.py
"""
import argparse, json, os, random, signal, subprocess, sys, time
from pathlib import Path
import pytest

SLOW = bool(os.environ.get('NANOGPT_LIT_SLOW'))
KILLS = {s: (50 if SLOW else n) for s, n in ((signal.SIGKILL, 10), (signal.SIGTERM, 3), (signal.SIGINT, 3))}
pytestmark = pytest.mark.skipif(not hasattr(os, 'fork'), reason='needs fork')

BASE = ('--n_layer 2 --n_head 2 --n_embd 128 --block_size 32 --batch_size 4 --max_steps 40 --lr_decay_steps 40 --device cpu --num_threads 1 '
        '--tokenizer char --log_interval 1 --eval_interval 5 --dropout 0.1 --workers 1 --auto_resume')
SETTINGS = [ # what a run may be like; each has a reference of its own
    '--checkpoint_interval 3',
    '--checkpoint_interval 4 --keep_last_n_checkpoints 1 --optimizer muon --grad_accum_steps 2 --eval_iters 3',
    '--checkpoint_interval 2 --strip_checkpoints --sampling random --dataloader_workers 1 --schedule wsd --final_name final_model.pt',
    '--checkpoint_interval 7 --keep_last_n_checkpoints 2 --pos rotary --norm rmsnorm --act swiglu --generate_interval 10 --dtype bfloat16']

NURSERY = '''
import json, os, sys
from nanogpt_lit.config import nanogpt_train
import matplotlib.figure, nanogpt_lit.pretrain
from nanogpt_lit.monitor import PlotLoss
PlotLoss.draw = lambda *args, **kw: None      # or nearly all kills would come while a picture is drawn
for line in sys.stdin:
    words, folder = json.loads(line)
    if not (pid := os.fork()):
        os.chdir(folder)
        log = os.open('log.txt', os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for fd in (1, 2): os.dup2(log, fd)
        code = 99
        try: code = nanogpt_train(words)
        except SystemExit as e: code = e.code or 0
        except KeyboardInterrupt: code = 130                  # outside of the command itself
        finally:
            sys.stdout.flush(); sys.stderr.flush()
            os._exit(code)
    print(pid, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
'''

class Nursery:
    "Starts trainings quickly: one process with the imports done, which forks"
    def __init__(self):
        self.p = subprocess.Popen([sys.executable, '-c', NURSERY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
                                  env=os.environ | {'OMP_NUM_THREADS': '1', 'MPLBACKEND': 'agg'})
    def start(self, words, folder):
        print(json.dumps([words, str(folder)]), file=self.p.stdin, flush=True)
        return int(self.p.stdout.readline())
    def wait(self): return int(self.p.stdout.readline())
    def run(self, words, folder): self.start(words, folder); return self.wait()

@pytest.fixture(scope='module')
def nursery():
    n = Nursery()
    yield n
    n.p.stdin.close()
    n.p.wait(60)

def words_for(setting): return ['--input', 'text.txt', '--out_dir', 'run', *BASE.split(), *setting.split()]

def new_folder(path):
    path.mkdir()
    (path/'text.txt').write_text(Path(argparse.__file__).read_text(encoding='utf-8')[:20_000], encoding='utf-8')
    return path

@pytest.fixture(scope='module')
def references(nursery, tmp_path_factory):
    "`setting -> (folder, seconds)` of a run that nobody disturbed"
    done = {}
    def get(setting):
        if setting not in done:
            folder, begin = new_folder(tmp_path_factory.mktemp('left_alone')/'run'), time.monotonic()
            assert nursery.run(words_for(setting), folder) == 0, (folder/'log.txt').read_text()[-3000:]
            done[setting] = folder, time.monotonic() - begin
        return done[setting]
    return get

def outcome(folder):
    "All that must be equal at the end: the state, the best weights, the metrics without their timings"
    from nanogpt_lit.checkpoint import checkpoints, checksum, load_checkpoint
    from nanogpt_lit.trainer import TIMINGS
    last = load_checkpoint(checkpoints(folder/'run')[-1])
    state = {k: checksum({'': v}) for k, v in last.items() if k not in ('checksum', 'elapsed_s')}
    rows = [json.loads(line) for line in (folder/'run'/'metrics.jsonl').read_text(encoding='utf-8').splitlines()]
    return dict(state=state, best=checksum(load_checkpoint(folder/'run'/'best.pt')['model']),
                metrics=[{k: v for k, v in r.items() if k not in TIMINGS} for r in rows],
                files=sorted(p.name for p in (folder/'run').glob('*.pt')))

def kill_during(folder, pid, how, rng, span):
    "Send `how` at a random moment of a training, or, one time in three, as soon as a save has begun. Was there still somebody?"
    run = folder/'run'
    saving = lambda: next(run.glob('.*.pt.*.part'), None)
    end = time.monotonic() + rng.uniform(0, span/2)           # the second half is the evaluation and the report
    while time.monotonic() < end: time.sleep(.001)
    if rng.random() < 1/3:
        end = time.monotonic() + 1
        while time.monotonic() < end and not saving(): pass
    try: os.kill(pid, how)
    except ProcessLookupError: return False                   # it had finished
    return True

@pytest.mark.parametrize('how', KILLS, ids=lambda s: s.name)
def test_killed_at_random_moments(how, nursery, references, tmp_path):
    rng, kills, in_saves, attempts, runs, codes = random.Random(how), 0, 0, 0, 0, set()
    while kills < KILLS[how] or SLOW and runs < len(SETTINGS):
        setting = SETTINGS[runs % len(SETTINGS)]
        reference, seconds = references(setting)
        folder, code, mine = new_folder(tmp_path/f'run{runs}'), None, 0
        while code != 0:
            pid = nursery.start(words_for(setting), folder)
            attempts += 1
            hit = mine < 12 and kills < KILLS[how] and kill_during(folder, pid, how, rng, seconds)
            code = nursery.wait()
            allowed = {0, -how, 128 + how} if how != signal.SIGKILL else {0, -how}  # −n: before the training had begun to listen
            assert code in allowed, (code, (folder/'log.txt').read_text()[-3000:])
            if hit and code != 0: kills += 1; mine += 1; in_saves += any((folder/'run').glob('.*.pt.*.part')); codes.add(code)
        got, want = outcome(folder), outcome(reference)
        logged = [r['step'] for r in got['metrics'] if 'loss' in r]
        assert logged == [*range(1, 41)], f'a step is missing or double: {logged}'
        if how != signal.SIGKILL: del got['files'], want['files']      # the steps at which it was asked to stop were saved too
        assert got == want, {k: 'differs' for k in want if got[k] != want[k]}
        assert 'Traceback' not in (folder/'log.txt').read_text(), (folder/'log.txt').read_text()[-3000:]
        runs += 1
    print(f'\n{how.name}: {kills} kills ({in_saves} left half a checkpoint) over {runs} runs and {attempts} processes, exit codes {sorted(codes)}')
    if how == signal.SIGKILL: assert in_saves >= KILLS[how]//10, 'hardly a kill was in a save: they should be'
    else: assert not in_saves, 'a polite stop left half a file'
