"""Runs under attack, with real processes: pipes that break, terminals that close, two at once, a mistake beside somebody else's run.

What must never happen: work that is lost, a file of somebody else's that is gone, a traceback.
"""
import argparse, json, os, re, signal, subprocess, sys, time
from pathlib import Path
import pytest
from harness import BIN, Popen, wait_for

SMALL = ('--n_layer 1 --n_head 2 --n_embd 32 --block_size 32 --batch_size 4 --device cpu --num_threads 1 --tokenizer char --log_interval 1 '
         '--eval_interval 0 --checkpoint_interval -1').split()
LONG = ['--max_steps', '1000000']

@pytest.fixture
def home(tmp_path):
    (tmp_path/'text.txt').write_text(Path(argparse.__file__).read_text(encoding='utf-8')[:20_000], encoding='utf-8')
    return tmp_path

def words(*more, command='nanogpt-train'): return [str(BIN/command), '--input', 'text.txt', *SMALL, *map(str, more)]

def start(argv, home, **kw):
    pipes = dict(stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE) | kw
    return Popen(argv, cwd=home, text=True, errors='replace', **pipes)

def run(argv, home, **kw):
    p = start(argv, home, **kw)
    out, err = p.communicate(timeout=120)
    assert 'Traceback' not in f'{out}{err}' and 'fault of nanogpt_lit' not in f'{out}{err}', (out, err)
    return p.returncode, out, err

def steps(run): return [json.loads(o)['step'] for o in (run/'metrics.jsonl').read_text().splitlines()]
def in_training(run): return lambda: (run/'metrics.jsonl').exists() and len((run/'metrics.jsonl').read_text().splitlines()) > 3
def saved(run): return sorted(int(re.findall(r'\d+', p.name)[0]) for p in run.glob('model_*.pt'))

# --- output that breaks ------------------------------------------------------------------------------------------

def test_ctrl_c_reaches_a_training_and_the_program_behind_its_pipe(home):
    "`nanogpt-train … 2>&1 | cat > log`, Ctrl-C to both: the pipe is broken before anything is saved"
    p = start(words('--out_dir', 'run', *LONG), home, stderr=subprocess.STDOUT, process_group=0)
    with open(home/'log', 'w') as log: behind = subprocess.Popen(['cat'], stdin=p.stdout, stdout=log, process_group=p.pid)
    p.stdout.close()
    wait_for(in_training(home/'run'))
    os.killpg(p.pid, signal.SIGINT)
    assert behind.wait(60) == -signal.SIGINT
    p.wait(60)
    wait_for(lambda: saved(home/'run') and not (home/'run'/'.lock').exists())
    assert saved(home/'run') == [steps(home/'run')[-1]]
    assert 'Traceback' not in (home/'log').read_text()

@pytest.mark.parametrize('target', ['| head -n 2', '>&- 2>&-', '> /dev/full', '> /dev/full 2>&1', '| true'])
def test_a_training_outlives_whoever_listens(target, home):
    argv = words('--out_dir', 'run', '--max_steps', 30)
    if target.startswith('|'):
        p = start(argv, home)
        listener = subprocess.Popen(target.split()[1:], stdin=p.stdout, stdout=subprocess.DEVNULL)
        p.stdout.close()
        err = p.stderr.read()
        assert listener.wait(60) == 0
    elif 'full' in target:
        with open('/dev/full', 'w') as full: p = start(argv, home, stdout=full, **dict(stderr=full) if '2>' in target else {})
        err = p.communicate(timeout=90)[1] or ''
    else:                                                      # only a shell closes them
        p = start(['bash', '-c', f'{" ".join(argv)} {target}'], home)
        err = p.communicate(timeout=90)[1]
    p.wait(90)
    assert (home/'run'/'report.html').exists() and saved(home/'run') == [30] and 'Traceback' not in err and 'Exception ignored' not in err, err

SIGHUP = '''
import signal, sys
from nanogpt_lit.config import nanogpt_train
signal.signal(signal.SIGHUP, getattr(signal, sys.argv.pop(1)))
sys.exit(nanogpt_train())
'''

@pytest.mark.parametrize('ignored', [False, True], ids=['closed', 'nohup'])
def test_a_terminal_that_is_closed(ignored, home):
    "SIGHUP saves; under nohup it means nothing"
    argv = [sys.executable, '-c', SIGHUP, 'SIG_IGN' if ignored else 'SIG_DFL', *words('--out_dir', 'run', *LONG)[1:]]
    p = start(argv, home, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(in_training(home/'run'))
    p.send_signal(signal.SIGHUP)
    if ignored:
        n = len(steps(home/'run'))
        wait_for(lambda: len(steps(home/'run')) > n + 3)
        p.send_signal(signal.SIGTERM)
    assert p.wait(60) == 128 + (signal.SIGTERM if ignored else signal.SIGHUP)
    assert saved(home/'run') == [steps(home/'run')[-1]]

@pytest.mark.parametrize('encoding', ['ascii', 'cp1252', 'latin-1'])
def test_text_that_a_terminal_cannot_show(encoding, home):
    "Chinese samples, ✓ and ░ and … on a terminal that knows none of them: a training that prints is a training that goes on"
    (home/'text.txt').write_text('皇马今日获胜，球迷庆祝。\n'*800, encoding='utf-8')
    env = os.environ | dict(PYTHONIOENCODING=encoding)
    code, out, err = run(words('--out_dir', 'run', '--max_steps', 6, '--generate_interval', 2), home, env=env)
    assert code == 0 and saved(home/'run') == [6] and 'sample at step 2' in out, err
    for command in (['sample', 'run', '--num_samples', '1', '--max_new_tokens', '20'], ['monitor', 'run', '--once'], ['plot', 'run'], ['plan', 'run/config.toml', '--no-measure'],
                    ['tokenizer', 'inspect', 'run/tokenizer', '皇马'], ['train', '--help'], ['eval', 'run', '--tasks', 'loss']):
        code, out, err = run([str(BIN/f'nanogpt-{command[0]}'), *command[1:]], home, env=env)
        assert code == 0 and out, (command, err)

def test_nothing_from_a_text_steers_the_terminal(home):
    evil = '\x1b]0;owned\x07\x1b[2J\x9b31m'
    (home/'text.txt').write_text(f'def f(): return "{evil}"\n'*400, encoding='utf-8')
    (home/f'a{evil}b.txt').write_text('hello world\n'*50, encoding='utf-8')
    code, out, err = run(words('--out_dir', 'run', '--max_steps', 4, '--generate_interval', 2), home)
    assert code == 0, err
    said = [out, err]
    (name,) = (p.name for p in home.glob('a*'))
    for command in (['sample', 'run', '--start', evil, '--num_samples', '2', '--max_new_tokens', '40'], ['prepare', name, '--out_dir', 'p', '--tokenizer', 'char'],
                    ['prepare', f'missing{evil}'], ['train', f'--{evil}'], ['monitor', 'run', '--once'], ['tokenizer', 'encode', evil, '--tokenizer', 'run/tokenizer'],
                    ['tokenizer', 'inspect', 'run/tokenizer', evil], ['plot', 'run', '--output', f'{evil}.png']):
        said += run([str(BIN/f'nanogpt-{command[0]}'), *command[1:]], home)[1:]
    for text in said: assert not re.search('[\x00-\x08\x0b-\x1f\x7f-\x9f]', text.replace('\x0c', '')), text
    assert any('␛]0;owned␇' in text for text in said)

@pytest.mark.parametrize('after', [.02, .1, .2, .4, .7, 1.])
def test_ctrl_c_while_a_command_is_starting(after, home):
    p = start([str(BIN/'nanogpt-eval'), 'nowhere'], home, fresh=True)
    time.sleep(after)
    p.send_signal(signal.SIGINT)
    out, err = p.communicate(timeout=60)
    assert p.returncode in (1, 130, -2), (p.returncode, err)
    assert ', in run_command' not in err, err                 # before that, Python itself is starting

# --- one folder, one run -----------------------------------------------------------------------------------------

@pytest.mark.parametrize('more', [[], ['--disable-monitoring']], ids=['monitored', 'unmonitored'])
def test_two_trainings_started_together_in_one_folder(more, home):
    both = [start(words('--out_dir', 'run', '--max_steps', 150, *more), home) for _ in range(2)]
    said = [p.communicate(timeout=120) for p in both]
    codes = sorted(p.returncode for p in both)
    refused = [err for p, (_, err) in zip(both, said) if p.returncode == 1]
    if codes == [0, 0]:                                        # one was slow to start, and came when the other had finished
        assert (home/'run'/'previous-1').exists()
    else: assert codes == [0, 1] and re.search(r'error: process \d+ is training in run at this moment', refused[0]), said
    assert steps(home/'run') == [*range(1, 151)]

@pytest.mark.parametrize('more', [[], ['--disable-monitoring']], ids=['monitored', 'unmonitored'])
def test_a_second_one_is_refused_before_it_touches_anything(more, home):
    first = start(words('--out_dir', 'run', *LONG, *more), home, stdout=subprocess.DEVNULL)
    try:
        wait_for(in_training(home/'run'))
        before = sorted(p.name for p in (home/'run').rglob('*'))
        for resume in ([], ['--auto_resume']):
            code, out, err = run(words('--out_dir', 'run', '--max_steps', 5, *resume, *more), home)
            assert code == 1 and f'process {first.pid} is training in run at this moment' in err, err
        assert sorted(p.name for p in (home/'run').rglob('*') if '.part' not in p.name) == [o for o in before if '.part' not in o]
    finally: first.kill(); first.communicate()
    code, out, err = run(words('--out_dir', 'run', '--max_steps', 5, *more), home)
    assert code == 0 and not (home/'run'/'.lock').exists(), err          # the lock has died with its process

def test_one_mistake_does_not_delete_another_run(home):
    "A makes `runs`, B begins in it, A fails: B is still there"
    code = ('import sys, pathlib\nfrom nanogpt_lit import pretrain\nfrom nanogpt_lit.config import nanogpt_train\nreal = pretrain.open_data\n'
            'def beside(d, folder, *more):\n b = folder.parent/"b"; b.mkdir(); (b/"model_00100.pt").write_bytes(b"x"); return real(d, folder, *more)\n'
            'pretrain.open_data = beside\nsys.exit(nanogpt_train(sys.argv[1:]))')
    (home/'text.txt').write_text('short')
    returned, out, err = run([sys.executable, '-c', code, *words('--out_dir', 'runs/a')[1:]], home)
    assert returned == 1 and 'error: ' in err
    assert (home/'runs'/'b'/'model_00100.pt').exists() and not (home/'runs'/'a').exists(), err

def test_a_mistake_takes_back_what_it_made_and_nothing_else(home):
    code, out, err = run(words('--out_dir', 'runs/deep/a', '--vocab_size', 3), home)
    assert code == 1 and 'vocab_size=3' in err and not (home/'runs').exists(), err
    (home/'runs'/'a'/'data').mkdir(parents=True)
    (home/'runs'/'a'/'notes.txt').write_text('mine')
    code, out, err = run(words('--out_dir', 'runs/a', '--vocab_size', 3), home)
    assert code == 1 and (home/'runs'/'a'/'notes.txt').read_text() == 'mine', err

def test_metrics_of_runs_without_checkpoints_are_all_kept(home):
    for n in (1, 2, 3):
        p = start(words('--out_dir', 'run', *LONG), home, stdout=subprocess.DEVNULL)
        kept = lambda: [*(home/'run').rglob('metrics*.jsonl')]
        wait_for(lambda: len(kept()) == n and in_training(home/'run')())
        p.kill(); p.communicate()
