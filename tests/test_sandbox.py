"Programs that try to get out: what they are told, and what is unchanged afterwards."
import ast, doctest, json, os, platform, resource, signal, socket, subprocess, sys, time
import psutil, pytest
from concurrent.futures import ThreadPoolExecutor
from nanogpt_lit import sandbox
from nanogpt_lit.core import UserError
from nanogpt_lit.sandbox import Problem, Sandbox, doctest_problems, first_line, grade

def available():
    try: Sandbox().close()
    except UserError: return False
    return True

needed = pytest.mark.skipif(not available(), reason='no seccomp filter here, so no sandbox')

@pytest.fixture(scope='module')
def box():
    with Sandbox(cpu_s=.2, wall_s=4) as box: yield box

WROTE = Problem('string', 'f', 'def f(x):\n    return', ' x', (doctest.Example('f(1)', '1\n'), doctest.Example('f(2)', '2\n')), 0)

# --- programs: (what, program, how it may end). 'fault' = it gets an exception, and the child ends by itself
FREE = "import _socket\n"
LIBC = """import ctypes
libc = ctypes.CDLL(None)
libc.mmap.restype, libc.mmap.argtypes = ctypes.c_void_p, [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int]*3 + [ctypes.c_long]
def pages(n): return libc.mmap(None, n, 3, 0x22, -1, 0)
"""
TRIES = [
    ('read', "open('/etc/passwd').read()", 'fault'), ('write', "open(CANARY, 'w').write('x')", 'fault'),
    ('append_by_os', "import os; os.open(CANARY, os.O_WRONLY | os.O_APPEND)", 'fault'), ('unlink', "import os; os.unlink(CANARY)", 'SIGSYS'),
    ('rename', "import os; os.rename(CANARY, CANARY + 'x')", 'SIGSYS'), ('mkdir', "import os; os.mkdir('here')", 'SIGSYS'), ('chmod', "import os; os.chmod(CANARY, 0)", 'SIGSYS'),
    ('list', "import os; os.listdir('/')", 'fault'), ('chdir', "import os; os.chdir('/')", 'SIGSYS'), ('own_memory', "open('/proc/self/mem', 'rb')", 'fault'),
    ('parent_memory', "import os; open(f'/proc/{os.getpid() - 1}/mem', 'r+b')", 'fault'), ('parents_files', "open('/proc/PARENT/environ', 'rb').read()", 'fault'),
    ('system', "import os; os.system('true')", 'SIGSYS'), ('exec', "import os; os.execv('/bin/true', ['true'])", 'SIGSYS'), ('spawn', "import os; os.posix_spawn('/bin/true', ['true'], {})", 'SIGSYS'),
    ('fork', "import os; os.fork()", 'SIGSYS'), ('bomb', "import os\nwhile True: os.fork()", 'SIGSYS'), ('background', "import os\nif not os.fork(): os.setsid()\nwhile True: pass", 'SIGSYS'),
    ('thread', "import _thread; _thread.start_new_thread(print, ())", 'SIGSYS'), ('inet', FREE + "_socket.socket(_socket.AF_INET)", 'SIGSYS'), ('unix', FREE + "_socket.socket(_socket.AF_UNIX)", 'SIGSYS'),
    ('pair', FREE + "_socket.socketpair()", 'SIGSYS'), ('resolve', FREE + "_socket.getaddrinfo('localhost', 80)", 'any'),
    ('kill_parent', "import os; os.kill(os.getppid(), 9)", 'any'), ('kill_that', "import os; os.kill(PARENT, 9)", 'SIGSYS'), ('kill_all', "import os; os.kill(-1, 9)", 'SIGSYS'), ('killpg', "import os; os.killpg(0, 9)", 'SIGSYS'),
    ('ptrace', "import ctypes; ctypes.CDLL(None).ptrace(16, PARENT, 0, 0)", 'SIGSYS'), ('vm_writev', "import ctypes; ctypes.CDLL(None).process_vm_writev(PARENT, 0, 0, 0, 0, 0)", 'SIGSYS'),
    ('uring', "import ctypes; ctypes.CDLL(None).syscall(425, 8, 0)", 'SIGSYS'), ('unshare', "import ctypes; ctypes.CDLL(None).syscall(435, 0, 0)", 'SIGSYS'),
    ('prctl', "import ctypes; ctypes.CDLL(None).prctl(22, 0, 0)", 'SIGSYS'), ('unlimit', "import resource; resource.setrlimit(resource.RLIMIT_AS, (-1, -1))", 'SIGSYS'),
    ('setuid', "import os; os.setuid(0)", 'SIGSYS'), ('dup', "import os; os.dup(1)", 'any'), ('pipe', "import os; os.pipe()", 'SIGSYS'), ('memfd', "import os; os.memfd_create('x')", 'SIGSYS'),
    ('mmap_file', "import mmap; mmap.mmap(1, 4096)", 'fault'), ('shared', "from multiprocessing import shared_memory; shared_memory.SharedMemory(create=True, size=9)", 'fault'),
    ('read_fds', "import os\nfor fd in range(2, 500):\n    try: os.write(fd, b'x')\n    except OSError: continue\n    else: raise SystemExit(0)\nraise ValueError('closed')", 'fault'),
    ('stdin', "input()", 'fault'), ('null', "import ctypes; ctypes.string_at(0)", 'SIGSEGV'), ('abort', "import os; os.abort()", 'any'),
    ('import', "import tkinter", 'fault'), ('modules', "import sys; sys.modules.clear(); sys.path.append('/tmp'); import tkinter", 'fault'),
    ('undo', "import sys, importlib.machinery as m\nsys.meta_path.append(m.PathFinder); sys.path.append('/usr/lib/python3')\nimport tkinter", 'fault'),
    ('jump', "import sys; sys._getframe(3).f_globals['_lock_up'] = None; raise ValueError", 'fault'), ('memory', "'x'*10**11", 'fault'),
    ('map', "import mmap; mmap.mmap(-1, 10**12)", 'fault'), ('recursion', "def g(n): return g(n + 1)\ng(0)", 'fault'), ('deep', "import sys; sys.setrecursionlimit(10**9)\ng = lambda n: [*map(g, [n])]\ng(0)", 'any'),
    ('loop', "while True: pass", 'late'), ('power', "9**9**9", 'late'), ('regex', "import re; re.match('(a*)*b', 'a'*40)", 'late'), ('wait', "import time; time.sleep(99)", 'fault'),
    ('deaf', "import signal\nfor n in range(1, 65):\n    try: signal.signal(n, signal.SIG_IGN)\n    except (OSError, ValueError): pass\nwhile True: pass", 'late'),
    ('blocked', "import signal; signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))\nwhile True: pass", 'late'), ('alarm', "import signal; signal.alarm(1)", 'SIGSYS'), ('closed', "import os; os.close(1)\nwhile True: pass", 'SIGKILL'),
    ('catch_all', "while True:\n    try:\n        while True: pass\n    except BaseException: pass", 'late'), ('flood', "import os\nwhile True: os.write(1, bytes(4096))", 'flood'), ('prints', "while True: print('x'*10**4)", 'any'),
    ('exit', "raise SystemExit(0)", 'fault'), ('at_exit', "import atexit; atexit.register(lambda: open(CANARY, 'w')); raise ValueError", 'fault'),
    ('del', "class A:\n    def __del__(self): open(CANARY, 'w')\na = A(); raise ValueError", 'fault'), ('str', "class A(Exception):\n    def __str__(self): return open(CANARY).read()\nraise A", 'any'),
    ('map_by_libc', LIBC + "if pages(1 << 40) in (None, 2**64 - 1): raise ValueError('refused')", 'fault'),      # `mmap` itself is not importable
    ('in_pieces', LIBC + "n = 0\nwhile pages(1 << 16) not in (None, 2**64 - 1): n += 1\nif n < 2100: raise ValueError('an end')", 'fault'),
    ('poison', LIBC + "if libc.madvise(ctypes.c_void_p(pages(4096)), 4096, 100): raise ValueError('refused')", 'fault'),
    ('nul', "x = '\0'", 'any'), ('surrogate', "x = '\ud800'", 'any'), ('nested', '('*10**4 + ')'*10**4, 'any'), ('long', 'x = ' + '-'*10**5 + '1', 'any'), ('empty', 'raise ValueError', 'fault')]

@needed
def test_memory_has_an_end():
    "Filling it up to the limit takes a busy machine longer than the others' fifth of a second"
    with Sandbox(cpu_s=10, wall_s=60) as box: ran = box.run("a = []\nwhile True: a.append(bytearray(10**6))", ['1 + 1'])
    assert ran.end == 'exit 0' and 'MemoryError' in str(ran.outputs[0]), ran

@needed
@pytest.mark.parametrize('what, program, end', TRIES, ids=[o[0] for o in TRIES])
def test_nothing_gets_out(box, tmp_path, what, program, end):
    canary = tmp_path/'canary'
    canary.write_text('as it was')
    mine, before = os.getpid(), {p.pid for p in psutil.Process().children(recursive=True)}
    folder = sorted(os.listdir('.'))
    began = time.process_time()
    ran = box.run(program.replace('CANARY', repr(str(canary))).replace('PARENT', str(mine)), ['1 + 1'])
    assert time.process_time() - began < 1
    if end == 'fault': assert ran.end == 'exit 0' and ran.outputs[0][1], ran
    elif end != 'any': assert ran.end == end, ran
    assert not ran.outputs or ran.outputs[0][1] or what in ('resolve', 'deep'), f'it got away with it: {ran}'
    assert canary.read_text() == 'as it was' and [p.name for p in tmp_path.iterdir()] == ['canary'] and sorted(os.listdir('.')) == folder
    assert {p.pid for p in psutil.Process().children(recursive=True)} == before, 'a process is left, or the server is another one'
    assert grade(WROTE, ' x', box).said == 'passed' and grade(WROTE, ' 1', box).said == 'failed'

@needed
def test_nothing_is_inherited(box, tmp_path):
    "Not even what this process left open on purpose"
    with open(tmp_path/'open', 'w') as file, socket.socket() as other:
        for fd in (file.fileno(), other.fileno()): os.set_inheritable(fd, True)
        with Sandbox() as fresh:
            ran = fresh.run("import os\ndef alive(fd):\n    try: os.read(fd, 0)\n    except OSError: return False\n    return True", ['[fd for fd in range(300) if alive(fd)]'])
    assert ran.outputs == [['[]\n', '']]
    env = box.run('import os', ['sorted(os.environ)']).outputs[0][0]
    assert not {*ast.literal_eval(env)} - {'PYTHONHASHSEED', 'TZ', 'LC_CTYPE'}

FORGED = json.dumps([['1\n', ''], ['2\n', '']])
SAYS_SO = Problem('string', 'f', 'def f(x):\n    return', '', (doctest.Example('f(1)', '731\n'), doctest.Example('f(2)', '952\n')), 0)

@needed
@pytest.mark.parametrize('completion', [
    " __import__('os').write(1, b'passed')", " [__import__('os').write(1, b'parsed\\n' + %r.encode()), __import__('os')._exit(0)]" % FORGED, " __import__('os')._exit(0)", " exit(0)",
    " setattr(__import__('json'), 'dumps', lambda o: %r)" % FORGED, " type('', (str,), dict(__eq__=lambda s, o: True))()", " [o for o in __import__('gc').get_objects() if type(o) is dict and 'want' in o]",
    " __import__('sys')._getframe(2).f_locals", " setattr(__import__('doctest').OutputChecker, 'check_output', lambda *o: True)", " __import__('sys').modules.clear()",
    " setattr(__import__('sys'), 'displayhook', lambda o: None)", " __import__('os').write(1, b'[' * 60000)", " __import__('os').write(1, b'9' * 60000)", " print('731') or 952"])
def test_no_verdict_is_forged(box, completion):
    verdict = grade(SAYS_SO, completion, box)
    assert (verdict.passed, verdict.tests) == (0, 2) and verdict.said != 'passed'

@needed
def test_each_verdict(box):
    said = {c: grade(WROTE, c, box).said for c in (' x', ' 1', ' (', ' 9**9**9', ' [x]*10**12', ' __import__("os").fork()', ' open("x")', ' x\n\nthis is not looked at', ' __import__("os")._exit(1)')}
    assert [*said.values()] == ['passed', 'failed', 'syntax', 'timeout', 'memory', 'forbidden', 'forbidden', 'passed', 'failed']
    assert first_line('a\nb') == 'a' and first_line('a') == 'a'

@needed
def test_a_server_that_dies_is_replaced(box):
    old = box.server.pid
    os.kill(old, 9)
    assert box.run('x = 1', ['x']).outputs == []
    assert box.run('x = 1', ['x']).outputs == [['1\n', '']] and box.server.pid != old

@needed
def test_a_sandbox_cleans_up():
    before = {p.pid for p in psutil.Process().children(recursive=True)}
    with Sandbox() as box: folder = os.readlink(f'/proc/{box.server.pid}/cwd')
    assert not os.path.exists(folder) and {p.pid for p in psutil.Process().children(recursive=True)} == before
    with pytest.raises(UserError, match='closed'): box.run('1', [])

# --- what outlives a program: nothing of the one before, and no answer that belongs to another

REMNANTS = r'''
import ctypes, gc, re
libc = ctypes.CDLL(None)
libc.syscall.restype = ctypes.c_long
def f(x):
    "All that this process has in its memory"
    gc.unfreeze()
    end, found = libc.syscall(BRK, 0), set()
    areas = [(end - 2000*4096, end)] + [(o << 18, (o + 1) << 18) for o in {id(o) >> 18 for o in gc.get_objects()}]
    for first, last in areas:
        for at in range(first & ~4095, last, 4096):
            if libc.madvise(ctypes.c_void_p(at), 4096, 22) == 0: found |= {*re.findall(b'TOKEN' + b'-[0-9]+', ctypes.string_at(at, 4096))}
    return len(found)
'''.replace('BRK', str(sandbox.ALLOWED['brk'][platform.machine() == 'aarch64']))

@needed
def test_nothing_of_an_earlier_program_is_left():
    "Neither its text nor what it said can be found in the memory of the next one, where a right answer could be copied from"
    with Sandbox(cpu_s=2) as box:
        seen = box.run('held = "TOKEN" + "-1"\nwatched = "".join(["TOKEN", "-", "2"])\n' + REMNANTS, ['f(1)']).outputs     # it would find something, if there were something
        assert int(seen[0][0]) > 0, seen
        for n in range(3): box.run(f'def f(x): return "TOKEN-%d" % (x + {n})', [f'f({x})' for x in range(70, 78)])
        assert box.run(REMNANTS, ['f(1)']).outputs == [['0\n', '']]

@needed
def test_an_interrupted_question_gets_no_late_answer(box):
    "Whoever presses Ctrl-C doesn't get that answer to the next question"
    def stop(*_): raise KeyboardInterrupt
    before = signal.signal(signal.SIGALRM, stop)
    try:
        signal.setitimer(signal.ITIMER_REAL, .1)
        with pytest.raises(KeyboardInterrupt): box.run('while True: pass', ['0'])
    finally: signal.signal(signal.SIGALRM, before)
    assert [box.run('x = 1', [f'{n}']).outputs for n in range(3)] == [[[f'{n}\n', '']] for n in range(3)]

@needed
def test_threads_take_turns(box):
    def ask(n): return box.run('x = 1', [f'{n}']).outputs == [[f'{n}\n', '']]
    with ThreadPoolExecutor(4) as pool: assert all(pool.map(ask, range(40)))

@needed
def test_a_copy_of_the_process_leaves_it_alone(box):
    "One that is forked neither ends the server when it ends, nor asks it something"
    server, pid = box.server.pid, os.fork()
    if not pid:
        try: box.run('x = 1', ['x'])
        except UserError as e: told = 'another process' in str(e)
        else: told = False
        box.close()
        os._exit(0 if told else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert box.run('x = 1', ['x']).outputs == [['1\n', '']] and box.server.pid == server

@needed
def test_more_open_files_than_select_counts():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 1200: pytest.skip('so many files cannot be opened here')
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 1200), hard))
    files = [os.open(os.devnull, os.O_RDONLY) for _ in range(1050)]
    try:
        with Sandbox() as box: assert box.run('x = 1', ['x']).outputs == [['1\n', '']]
    finally:
        for fd in files: os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

@needed
def test_a_killed_parent_leaves_nothing(tmp_path):
    "Neither a process nor a folder"
    source = 'import sys\nfrom nanogpt_lit.sandbox import Sandbox\nbox = Sandbox(cpu_s=60, wall_s=1)\nprint(box.server.pid, flush=True)\nbox.run("import _thread; a = _thread.allocate_lock(); a.acquire(); a.acquire()", [])'
    parent = subprocess.Popen([sys.executable, '-c', source], stdout=subprocess.PIPE, text=True, env=os.environ | dict(TMPDIR=str(tmp_path)))
    server = psutil.Process(int(parent.stdout.readline()))
    waited = time.monotonic() + 30
    while not server.children() and time.monotonic() < waited: time.sleep(.02)
    started = server.children(recursive=True)
    parent.kill()
    parent.communicate()
    assert started and not psutil.wait_procs([server, *started], timeout=30)[1]
    assert not [*tmp_path.iterdir()]

@needed
def test_narrower_limits_stay():
    "Whoever started us under a limit of memory (`ulimit -v`) may be bound by it, but isn't told that the kernel is too old"
    source = 'import resource\nresource.setrlimit(resource.RLIMIT_AS, (3*2**30,)*2)\nfrom nanogpt_lit.sandbox import Sandbox\nwith Sandbox(memory_mb=9000) as box: print(box.run("x = 1", ["x"]).outputs)'
    assert subprocess.run([sys.executable, '-c', source], capture_output=True, text=True).stdout == "[['1\\n', '']]\n"

@needed
def test_an_open_lock_is_noticed(monkeypatch):
    "A filter that lets everything through: the server tries it, and nothing is run"
    monkeypatch.setattr(sandbox, 'filter_program', lambda machine: sandbox.struct.pack('HBBI', 6, 0, 0, sandbox.ALLOW))
    with pytest.raises(UserError, match='does not let a process give up its rights'): Sandbox()

@pytest.mark.parametrize('system, machine', [('Darwin', 'arm64'), ('Windows', 'AMD64'), ('Linux', 'riscv64')])
def test_elsewhere_it_refuses(monkeypatch, system, machine):
    monkeypatch.setattr(platform, 'system', lambda: system)
    monkeypatch.setattr(platform, 'machine', lambda: machine)
    with pytest.raises(UserError, match=f'this is {system}'): Sandbox()

@needed
def test_problems_are_sound(box):
    "References pass, nothing at all fails, and the same problems are found again"
    problems = doctest_problems(held_out=True)
    assert len(problems) > 5
    for p in problems:
        assert grade(p, p.reference, box).said == 'passed' and grade(p, '', box).said != 'passed', p
        assert '\n' not in p.reference and p.prompt == p.prompt.rstrip(' \n') and len({o.want for o in p.examples[p.shown:]}) > 1
    doctest_problems.cache_clear()
    again = doctest_problems(held_out=True)
    def text(p): return p.prompt, p.reference, [(o.source, o.want) for o in p.examples]
    assert [*map(text, again)] == [*map(text, problems)]
