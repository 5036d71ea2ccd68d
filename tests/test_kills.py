"""A real training or tuning, killed at random moments again and again, ends like one that was left alone: bit for bit.

Every attempt is `nanogpt-train … --auto_resume` (or `nanogpt-finetune`) in a process of its own, or in two that train together, out of the
nursery (so that fifty attempts are a minute and not five). Some kills come after a random time, others in the middle
of a save. The short form runs always; the long one with as many SIGKILLs as you like, and fifty each of SIGTERM and Ctrl-C:

    NANOGPT_LIT_KILLS=500 python -m pytest -q -s tests/test_kills.py
"""
import argparse, json, os, random, signal, subprocess, sys, time
from pathlib import Path
import pytest
from harness import SLOW, Popen
from together import free_port

MANY = int(os.environ.get('NANOGPT_LIT_KILLS') or 50*SLOW)
KILLS = {signal.SIGKILL: MANY or 9, signal.SIGTERM: min(50, MANY) or 3, signal.SIGINT: min(50, MANY) or 3}
pytestmark = pytest.mark.skipif(not hasattr(os, 'fork'), reason='needs fork')

BASE = ('--n_layer 2 --n_head 2 --n_embd 64 --block_size 32 --batch_size 4 --max_steps 40 --lr_decay_steps 40 --device cpu --num_threads 1 '
        '--tokenizer char --log_interval 1 --eval_interval 5 --eval_iters 4 --dropout 0.1 --workers 1 --auto_resume --input text.txt --out_dir run')
TUNE = ('--pretrained_checkpoint base --input chats.jsonl --batch_size 4 --max_steps 40 --learning_rate 1e-3 --eval_interval 5 --eval_iters 2 --device cpu '
        '--num_threads 1 --log_interval 1 --generate_interval 0 --max_new_tokens 2 --auto_resume --out_dir run')
SETTINGS = [ # (command, processes, flags); each has a reference of its own
    ('train', 1, f'{BASE} --checkpoint_interval 3'),
    ('train', 1, f'{BASE} --checkpoint_interval 4 --async_save --keep_last_n_checkpoints 1 --optimizer muon --grad_accum_steps 2 --eval_iters 3'),
    ('finetune', 1, f'{TUNE} --lora_rank 2 --checkpoint_interval 3'),
    ('train', 2, f'{BASE} --checkpoint_interval 3 --optimizer muon --dist_timeout 20'),
    ('train', 1, f'{BASE} --checkpoint_interval 2 --async_save --strip_checkpoints --sampling random --dataloader_workers 1 --schedule wsd --final_name final_model.pt'),
    ('train', 1, f'{BASE} --checkpoint_interval 7 --keep_last_n_checkpoints 2 --pos rotary --norm rmsnorm --act swiglu --generate_interval 10 --dtype bfloat16'),
    ('finetune', 1, f'{TUNE} --checkpoint_interval 2 --keep_last_n_checkpoints 1')]

PROGRAM = '''
import sys
from nanogpt_lit.config import nanogpt_finetune, nanogpt_train
from nanogpt_lit.monitor import PlotLoss
PlotLoss.draw = lambda *args, **kw: None      # or nearly all kills would come while a picture is drawn
sys.exit(dict(train=nanogpt_train, finetune=nanogpt_finetune)[sys.argv[1]](sys.argv[2:]))
'''

def start(setting, folder):
    "The processes of a training"
    command, n, flags = setting
    port, common = str(free_port()), dict(OMP_NUM_THREADS='1', MPLBACKEND='agg')
    ranks = [dict(RANK=str(r), LOCAL_RANK=str(r), WORLD_SIZE=str(n), LOCAL_WORLD_SIZE=str(n), MASTER_ADDR='127.0.0.1', MASTER_PORT=port) for r in range(n)]
    with open(folder/'log.txt', 'a') as log:
        return [Popen([sys.executable, '-c', PROGRAM, command, *flags.split()], cwd=folder, env=os.environ | common | env, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
                for env in (ranks if n > 1 else [{}])]

def run(setting, folder): return [p.wait() for p in start(setting, folder)]

@pytest.fixture(scope='module')
def base(tmp_path_factory):
    "A folder with a text, some chats, and a model to tune"
    home = tmp_path_factory.mktemp('base')/'home'
    home.mkdir()
    text = Path(argparse.__file__).read_text(encoding='utf-8')
    (home/'text.txt').write_text(text[:20_000], encoding='utf-8')
    lines = [o.strip() for o in text.splitlines() if 20 < len(o.strip()) < 60][:120]
    chats = [dict(instruction=a, output=b) for a, b in zip(lines[::2], lines[1::2])]
    (home/'chats.jsonl').write_text(''.join(json.dumps(o) + '\n' for o in chats), encoding='utf-8')
    flags = ('--n_layer 2 --n_head 2 --n_embd 32 --block_size 128 --batch_size 4 --max_steps 5 --device cpu --num_threads 1 --tokenizer bpe --tokenizer_vocab_size 300 '
             '--eval_interval 0 --workers 1 --input text.txt --out_dir base')
    assert run(('train', 1, flags), home) == [0], (home/'log.txt').read_text()[-3000:]
    (home/'log.txt').unlink()
    return home

def new_folder(path, base):
    "A folder like `base`, whose files are only read"
    path.mkdir()
    for p in base.iterdir(): (path/p.name).symlink_to(p)
    return path

@pytest.fixture(scope='module')
def references(base, tmp_path_factory):
    "`setting -> (folder, seconds)` of a run that nobody disturbed"
    done = {}
    def get(setting):
        if setting not in done:
            folder, begin = new_folder(tmp_path_factory.mktemp('left_alone')/'run', base), time.monotonic()
            assert {*run(setting, folder)} == {0}, (folder/'log.txt').read_text()[-3000:]
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
    best = folder/'run'/'best.pt'
    return dict(state=state, best=best.exists() and checksum(load_checkpoint(best)['model']),
                metrics=[{k: v for k, v in r.items() if k not in TIMINGS} for r in rows],
                files=sorted(p.name for p in (folder/'run').glob('*.pt')))

def kill_during(folder, processes, how, rng, span):
    "Send `how` at a random moment of a training, or, one time in three, as soon as a save has begun. Was there still somebody?"
    run = folder/'run'
    saving = lambda: next(run.glob('.*.pt.*.part'), None)
    end = time.monotonic() + rng.uniform(0, span/2)           # the second half is the evaluation and the report
    while time.monotonic() < end: time.sleep(.001)
    if rng.random() < 1/3:
        end = time.monotonic() + 1
        while time.monotonic() < end and not saving(): pass
    there = 0
    for p in rng.sample(processes, len(processes)):
        there += p.poll() is None                             # or it had finished
        p.send_signal(how)
        if len(processes) > 1: time.sleep(rng.choice([0, .002, .02]))
    return there == len(processes)

@pytest.mark.parametrize('how', KILLS, ids=lambda s: s.name)
def test_killed_at_random_moments(how, base, references, tmp_path):
    rng, kills, in_saves, attempts, runs, seen, by_setting = random.Random(how), 0, 0, 0, 0, set(), {}
    while kills < KILLS[how] or MANY and runs < len(SETTINGS):
        setting = SETTINGS[runs % len(SETTINGS)]
        reference, seconds = references(setting)
        folder, codes, mine = new_folder(tmp_path/f'run{runs}', base), None, 0
        while codes is None or {*codes} != {0}:
            processes = start(setting, folder)
            attempts += 1
            hit = mine < (12 if MANY else 3) and kills < KILLS[how] and kill_during(folder, processes, how, rng, seconds)
            codes = [p.wait() for p in processes]
            # −n: before the training had begun to listen; 1 and 75: of two processes one has lost the other
            allowed = {0, -how} | ({128 + how} if how != signal.SIGKILL else set()) | ({1, 75} if len(processes) > 1 else set())
            assert {*codes} <= allowed, (codes, (folder/'log.txt').read_text()[-3000:])
            if hit and {*codes} != {0}:
                kills, mine, seen = kills + 1, mine + 1, seen | {*codes}
                in_saves += any((folder/'run').glob('.*.pt.*.part'))
                by_setting[setting] = by_setting.get(setting, 0) + 1
        got, want = outcome(folder), outcome(reference)
        logged = [r['step'] for r in got['metrics'] if 'loss' in r]
        assert logged == [*range(1, 41)], f'a step is missing or double: {logged}'
        if how != signal.SIGKILL: del got['files'], want['files']      # the steps at which it was asked to stop were saved too
        assert got == want, (setting, {k: 'differs' for k in want if got[k] != want[k]})
        said = (folder/'log.txt').read_text()
        assert 'Traceback' not in said and 'fault of nanogpt_lit' not in said, said[-3000:]
        runs += 1
    print(f'\n{how.name}: {kills} kills ({in_saves} left half a checkpoint) over {runs} runs and {attempts} processes, exit codes {sorted(seen)}')
    for (command, n, flags), count in by_setting.items(): print(f'  {count:4} {command}, {n} process{"es"*(n > 1)}: {flags.partition("--auto_resume")[2]}')
    if how == signal.SIGKILL: assert not MANY or in_saves >= MANY//10, 'hardly a kill was in a save: they should be'
    else: assert not in_saves, 'a polite stop left half a file'
