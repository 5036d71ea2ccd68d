"""A process from the nursery is an ordinary one in all that a test can see of it, but for its start: what it is given, how it ends, what signals do.

Each program here runs twice, from the nursery and in a Python that starts afresh; what both say and leave is compared.
"""
import json, logging, os, signal, subprocess, sys, threading
import pytest
from harness import BIN, finish, run, run_argv, start, wait_for
from nursery import NEVER, Popen, begins_alike, is_ours, nursery, same_environment

pytestmark = pytest.mark.skipif(NEVER, reason='there is no nursery here: all processes start afresh')
PIPES = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

def both(program, *words, **kw):
    "`Popen`s of one program: from the nursery, and afresh"
    usual = [sys.executable, '-c', program, *words] if isinstance(program, str) else [*program, *words]
    pair = [Popen(usual, **PIPES | kw, fresh=fresh) for fresh in (False, True)]
    assert [p.fresh for p in pair] == [False, True]
    return pair

def ended(pair, said=None):
    "What both have said, and how they ended"
    out = []
    for p in pair:
        words = p.communicate(said, timeout=60)
        out.append((p.returncode, *words))
    return out

FACTS = '''
import json, locale, os, resource, signal, sys, threading
stream = lambda f: [f.name, f.mode, f.encoding, f.errors, f.line_buffering, f.write_through, f.isatty(), f.newlines, type(f.buffer).__name__]
handlers = {int(s): repr(signal.getsignal(s)).split(' at ')[0] for s in signal.valid_signals() if s < 32}
files = sorted(int(o) for o in os.listdir('/proc/self/fd') if os.path.exists(f'/proc/self/fd/{o}'))
print(json.dumps(dict(
    argv=sys.argv, path=sys.path, cwd=os.getcwd(), env=dict(os.environ), name=__name__, main=sorted(vars(sys.modules['__main__'])), said=sys.stdin.read(),
    streams=[stream(o) for o in (sys.stdin, sys.stdout, sys.stderr, sys.__stdin__, sys.__stdout__, sys.__stderr__)], handlers=handlers, files=files,
    blocked=[int(o) for o in signal.pthread_sigmask(signal.SIG_BLOCK, [])], parent=os.getppid(), group=os.getpgid(0) == os.getpid() or os.getpgid(0),
    session=os.getsid(0) == os.getpid() or os.getsid(0), umask=os.umask(0), nice=os.nice(0), limits=[resource.getrlimit(o) for o in range(10)],
    threads=[threading.active_count(), threading.current_thread().name], python=[sys.executable, sys.prefix, sys.version], orig=sys.orig_argv[-2:],
    encoding=[sys.getfilesystemencoding(), locale.getencoding()], recursion=sys.getrecursionlimit(), hooks=[sys.excepthook is sys.__excepthook__], trace=repr(sys.gettrace()))))
'''

@pytest.mark.parametrize('how', [{}, dict(start_new_session=True), dict(process_group=0), dict(env={**os.environ, 'PYTHONUNBUFFERED': '1', 'PYTHONIOENCODING': 'latin-1', 'MY OWN': 'ä'}),
                                 dict(cwd='/')], ids=['plain', 'session', 'group', 'env', 'folder'])
def test_what_a_process_is_given(how, tmp_path):
    kw = dict(cwd=tmp_path, stdin=subprocess.PIPE, env={**os.environ, 'PYTHONUTF8': '1'}) | how
    for program in (FACTS, [sys.executable, str(tmp_path/'facts.py')], [sys.executable, '-u', 'facts.py']):
        if not isinstance(program, str):
            (tmp_path/'facts.py').write_text(FACTS)
            kw = kw | dict(cwd=tmp_path)
        (code, out, err), afresh = ended(both(program, 'a', '', 'b c', **kw), 'two\r\nlines\rand\n')
        assert (code, err) == (0, '')
        ours, theirs = json.loads(out), json.loads(afresh[1])
        for facts in (ours, theirs): assert facts['parent'] == os.getpid() and facts.pop('main')
        assert ours == theirs, {k: (ours[k], theirs[k]) for k in ours if ours[k] != theirs[k]}

def test_a_module(tmp_path):
    (tmp_path/'mine.py').write_text('import sys\nprint(__name__, __file__, sys.argv, sys.path[0])')
    ours, theirs = ended(both([sys.executable, '-m', 'mine'], 'x', cwd=tmp_path))
    assert ours == theirs and ours[0] == 0 and 'mine.py' in ours[1]

ENDS = {
    'at its end': 'print("all", end="")', 'a number': 'raise SystemExit(3)', 'more than a byte': 'raise SystemExit(263)', 'negative': 'raise SystemExit(-1)',
    'none': 'raise SystemExit', 'words': 'raise SystemExit("no")', 'an object': 'raise SystemExit([1])', 'at once': 'import os; print("lost"); os._exit(5)',
    'Ctrl-C': 'print("said"); raise KeyboardInterrupt', 'killed': 'import os; print("said", flush=True); os.kill(os.getpid(), 9)', 'terminated': 'import os; os.kill(os.getpid(), 15)',
    'aborted': 'import os; os.abort()', 'at exit': 'import atexit; atexit.register(print, "bye"); print("so")',
    'a thread': 'import threading, time; threading.Thread(target=lambda: (time.sleep(.05), print("late"))).start(); print("soon")',
    'a daemon': 'import threading, time; threading.Thread(target=time.sleep, args=[60], daemon=True).start(); print("over")',
    'an open file': 'f = open("left.txt", "w"); f.write("written")', 'in a circle': 'class O:\n def __del__(self): print("gone")\no = O(); o.o = o',
    'no reader': 'import sys; print("x"*9); sys.stdout.flush(); print("y")', 'no output': 'import sys; sys.stdout = None',
    'a fork': 'import atexit, os\nif not os.fork(): atexit._run_exitfuncs(); os._exit(3)\nprint(os.waitstatus_to_exitcode(os.wait()[1]))'}

@pytest.mark.parametrize('how', ENDS)
def test_how_a_process_ends(how, tmp_path):
    said = dict(stdout=open('/dev/full', 'w')) if how == 'no reader' else {}
    ours, theirs = ended(both(ENDS[how], cwd=tmp_path, **said))
    assert ours == theirs
    assert how != 'an open file' or (tmp_path/'left.txt').read_text() == 'written'

def test_an_error_that_nobody_catches(tmp_path):
    (code, out, err), theirs = ended(both('def f(): raise ValueError("so\\nit is")\nf()', cwd=tmp_path))
    assert (code, out) == theirs[:2] == (1, '')
    assert err.startswith('Traceback') and err.splitlines()[-2:] == theirs[2].splitlines()[-2:] == ['ValueError: so', 'it is']

WAITS = '''
import sys, time
try:
    print("ready", flush=True)
    time.sleep(60)
finally: print("last words", file=sys.stderr)
'''

@pytest.mark.parametrize('how', [signal.SIGINT, signal.SIGTERM, signal.SIGKILL, signal.SIGHUP], ids=lambda s: s.name)
def test_a_signal(how):
    if signal.getsignal(how) is signal.SIG_IGN: pytest.skip('ignored here, as under nohup, and so by every child')
    pair = both(WAITS)
    for p in pair:
        assert p.stdout.readline() == 'ready\n' and p.poll() is None
        p.send_signal(how)
    ours, theirs = ended(pair)
    assert ours[:2] == theirs[:2] == (-how, '')
    assert ('last words' in ours[2]) == ('last words' in theirs[2]) == (how == signal.SIGINT)

def test_nobody_waits_for_it_longer_than_asked():
    p = both('import time; time.sleep(60)')
    for o in p:
        with pytest.raises(subprocess.TimeoutExpired): o.wait(.2)
        o.kill()
    assert [o.wait(10) for o in p] == [-9, -9]
    with pytest.raises(ChildProcessError): os.waitpid(p[0].pid, 0)              # it was our child, and has been buried

def test_no_lock_and_no_thread_comes_along():
    "The tests may have threads that hold locks; a process doesn't fork from them"
    def hold():
        with logging._lock: held.set(); over.wait()
    held, over = threading.Event(), threading.Event()
    threading.Thread(target=hold).start()
    held.wait()
    try: assert ended(both('import logging; logging.error("heard")'))[0][::2] == (0, 'ERROR:root:heard\n')
    finally: over.set()
    with open(f'/proc/{nursery().process.pid}/status') as f: assert 'Threads:\t1\n' in f.read()

DRAWS = 'import numpy, os, random, torch, uuid\nprint(torch.initial_seed(), torch.rand(3), numpy.random.rand(), random.random(), uuid.uuid4(), sep="|")'

def test_chance_is_new_each_time():
    "As in processes that start afresh; none has the same numbers as the one before"
    a, b = (run_argv([sys.executable, '-c', DRAWS], **PIPES).stdout.split('|') for _ in range(2))
    assert len(a) == 5 and not {*a} & {*b}

FLAGS = '--input text.txt --tokenizer char --n_layer 1 --n_head 2 --n_embd 16 --block_size 16 --batch_size 4 --max_steps 4 --dropout .1 --device cpu --num_threads 1 --log_interval 1'.split()

def test_a_training_is_the_same_to_the_last_bit(tmp_path):
    from nanogpt_lit.checkpoint import checksum, load_checkpoint
    (tmp_path/'text.txt').write_text('It was a bright cold day in April, and the clocks were striking thirteen.\n'*40)
    said, sums = [], []
    for fresh in (False, True):
        r = run('nanogpt-train', *FLAGS, '--out_dir', 'run', cwd=tmp_path, fresh=fresh)
        assert r.returncode == 0 and r.stderr == '', r.stderr
        said.append([o.partition(', loss')[2][:8] for o in r.stdout.splitlines()])
        state = load_checkpoint(tmp_path/'run'/'model_00004.pt')
        sums.append({k: checksum({'': v}) for k, v in state.items() if k not in ('checksum', 'elapsed_s')})
        (tmp_path/'run').rename(tmp_path/f'run {fresh}')
    assert said[0] == said[1] and sums[0] == sums[1]

def test_what_a_test_leaves_in_the_environment_does_not_last(monkeypatch):
    "All later processes would import everything anew. But not for torch's option that is set wherever a device is picked: a GPU's first touch reads it"
    monkeypatch.setenv('MINE', 'a')
    monkeypatch.setenv('OTHER', 'b')
    before = {**os.environ}
    with pytest.raises(ZeroDivisionError), same_environment():
        os.environ['PYTORCH_CUDA_ALLOC_CONF'] = 'expandable_segments:True'
        assert begins_alike(os.environ)
        os.environ['MALLOC_ARENA_MAX'] = '1'
        os.environ['MINE'] = 'changed'
        del os.environ['OTHER']
        assert not begins_alike(os.environ)
        1/0
    assert os.environ == before and begins_alike(os.environ)

def test_who_starts_afresh(tmp_path):
    "What the nursery can't give is given in the ordinary way, and other programs are none of its business"
    ok = [sys.executable, '-c', 'import sys; print(sys.flags.isolated, sys.flags.hash_randomization)']
    for argv, kw in ((['true'], {}), ([*ok[:1], '-I', *ok[1:]], {}), (ok, dict(preexec_fn=lambda: None)), (ok, dict(env={**os.environ, 'PYTHONHASHSEED': '0'})),
                     (ok, dict(env={**os.environ, 'OMP_NUM_THREADS': '3'})), (ok, dict(env={**os.environ, 'LC_ALL': 'POSIX'})), (ok, dict(pass_fds=[0])), (ok, dict(umask=0o77))):
        p = Popen(argv, **PIPES, **kw)
        assert finish(p)[0] == 0 and p.fresh, argv
    with pytest.raises(FileNotFoundError): Popen(ok, cwd=tmp_path/'nowhere')
    p = start('nanogpt-train', '--help', cwd=tmp_path)
    assert finish(p)[0] == 0 and not p.fresh
    assert BIN.samefile(os.path.dirname(sys.executable)) and wait_for(lambda: True) is None

def test_a_script_is_ours_by_every_name_of_this_python(tmp_path, monkeypatch):
    "`python3 -m venv` writes python3 into its scripts, and the tests may be run by python"
    (tmp_path/'python').symlink_to(os.path.realpath(sys.executable))
    (tmp_path/'python3').symlink_to('python')
    (tmp_path/'other').touch()
    monkeypatch.setattr(sys.modules['nursery'], 'BIN', tmp_path)
    monkeypatch.setattr(sys, 'executable', str(tmp_path/'python'))
    def ours(first_line):
        (tmp_path/'script').write_text(first_line + '\n')
        return is_ours(tmp_path/'script')
    assert ours(f'#!{tmp_path}/python') and ours(f'#!{tmp_path}/python3')
    assert not any(map(ours, (f'#!{tmp_path}/other', f'#!{tmp_path}/none', '#!/usr/bin/env python3', 'import sys', '')))
