"""Processes that begin with their imports done.

A command of ours as a process of its own spends two seconds on `import torch`, and the suite starts hundreds of them. So each pytest process
keeps one Python that has imported what the commands need and has run nothing, the nursery. `Popen` here is `subprocess.Popen` except for how
the process comes into the world: the nursery forks it. It is a child of the tests as any other, with the arguments, folder, surroundings,
files, group and signals that were asked for. It ends as Python ends, up to the point where modules are taken apart: that would copy all the
memory that it shares with the nursery, and takes a quarter of a second. tests/test_nursery.py compares it with an ordinary one.

What remains different: all children of one nursery hash strings alike (PYTHONHASHSEED, if given, starts afresh), `ps` shows the nursery's command
line and surroundings for them, and they hold the memory of all its imports from their first moment.

Whatever the nursery can't give starts in the ordinary way: other programs, options of the interpreter, a `preexec_fn`, variables that
matter while Python or its libraries start, any system but Linux; so does everything with `fresh=True`, which a test asks for where the
start itself is its subject: what is imported, how long that takes, how much memory it needs.
"""
import atexit, codecs, ctypes, gc, inspect, io, json, locale, os, signal, socket, subprocess, sys, threading, time, types, warnings
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path

BIN = Path(sys.executable).parent
START = dict(os.environ)        # what the nursery starts with
SUBREAPER = 36                  # of prctl(2): who becomes the parent of a process whose own has ended
NEW_NET = 0x40000000            # of setns(2)
# beginnings of the names that Python, torch and their libraries read while they start; those of them that are read again in the child
AT_START = ('PYTHON', 'LC_', 'LANG', 'LD_', 'MALLOC_', 'GLIBC_', 'OMP_', 'KMP_', 'GOMP_', 'MKL_', 'OPENBLAS_', 'ONEDNN_', 'DNNL_', 'ATEN_', 'TORCH_', 'PYTORCH_')
# (the last two when a GPU is touched for the first time: whoever picks a device sets one of them, and a page's later processes came afresh)
SEEN_TO = {'PYTHONPATH', 'PYTHONUNBUFFERED', 'PYTHONIOENCODING', 'TORCH_CPP_LOG_LEVEL', 'TORCH_NCCL_ASYNC_ERROR_HANDLING',
           'PYTORCH_CUDA_ALLOC_CONF', 'PYTORCH_ALLOC_CONF'}
NEVER = sys.platform != 'linux' or bool(os.environ.get('NANOGPT_LIT_FRESH'))     # to compare, or where a test fails for reasons unknown
QUIET = ('PYTHONWARNINGS', 'ignore')            # this one, too
SURE = dict(PYTHONUTF8='1') if sys.flags.utf8_mode or locale.getencoding().lower() in ('utf-8', 'utf8') else {}    # the same, said or not
# what starts processes that import as much as it does itself: each has a nursery of its own
LAUNCHERS = {'torchrun', 'torch.distributed.run', 'nanogpt-launch', 'nanogpt-bench', 'nbdev_test'}
# pages whose processes train, talk or are killed: how such a process starts, and what memory it needs for that, isn't their subject
PAGES_WITH_PROCESSES = {'25a_estimates', '33_factory', '43_checkpoint', '60_distributed', '61_sharded', '61a_slices', '62_launch', '63_fleet', 'resume', 'two_gpus'}
TIMED_PAGES = {'82b_stopwatch'}     # its races, too; but what it gives as `-c code` starts afresh: how long that takes is asked

# --- in the tests ----------------------------------------------------------------------------------------------------

def channel():
    "Two ends, for messages of up to a megabyte"
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in ends: end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    return ends

class Nursery:
    "The process that forks others, through our end of its channel"
    def __init__(self, ours): self.ours = ours

    def fork(self, request, files):
        "The process id of a new child of this process"
        with STARTING:
            adopt(True)
            try:
                socket.send_fds(self.ours, [json.dumps(request).encode()], files)
                reply = json.loads(self.ours.recv(1 << 16) or '"the nursery has died"')
            finally: adopt(False)
        if not isinstance(reply, int): raise RuntimeError(reply)
        return reply

STARTING = threading.RLock()    # one at a time: whether orphans are adopted holds for the whole process

def adopt(yes):
    "Orphans among our descendants become our children, for this moment"
    if ctypes.CDLL(None, use_errno=True).prctl(SUBREAPER, int(yes), 0, 0, 0): raise OSError(ctypes.get_errno(), 'prctl')

NURSERIES = {} # (process id, kind) -> its nursery: a fork of the tests has none

def nursery(kind='commands'):
    "The nursery of this process for commands or pages; it begins when it's needed first, and ends with this process. The one for pages is a fork of the other"
    if (os.getpid(), kind) not in NURSERIES:
        ours, theirs = channel()
        own = Nursery(ours)
        with theirs:
            fd = theirs.fileno()
            if kind == 'commands': own.process = subprocess.Popen([sys.executable, __file__, str(fd)], env=START | SURE, pass_fds=[fd], stdin=subprocess.DEVNULL)
            else: nursery().fork(dict(become=kind), [fd])
        NURSERIES[os.getpid(), kind] = own
    return NURSERIES[os.getpid(), kind]

def is_ours(program):
    "A script that Python's installer wrote beside this Python, by whichever of its names (python, python3, …)"
    path = Path(program)
    if path.parent != BIN: return False
    try:
        with path.open('rb') as f: mark, interpreter = f.read(2), os.fsdecode(f.readline().rstrip())
        return mark == b'#!' and Path(interpreter).parent == BIN and os.path.samefile(interpreter, sys.executable)
    except OSError: return False

def begins_alike(env):
    "Are the variables that matter at the start those that the nursery started with?"
    def relevant(variables): return {k: v for k, v in (SURE | dict(variables)).items() if k.startswith(AT_START) and k not in SEEN_TO and (k, v) != QUIET}
    return relevant(env) == relevant(START) and not any(map(replaces, entries(env)))

@contextmanager
def same_environment():
    "What is set, changed or deleted in this block is afterwards as before, but for pytest's own note of where it is"
    before = {**os.environ}
    try: yield
    finally:
        for name in {k for k, _ in before.items() ^ os.environ.items()} - {'PYTEST_CURRENT_TEST'}:
            if name in before: os.environ[name] = before[name]
            else: del os.environ[name]

def entries(env): return [o for o in env.get('PYTHONPATH', '').split(os.pathsep) if o]

PLACED = entries(START) # those in sys.path now

def replaces(folder):
    "Does this folder hold what Python reads at its start, or another copy of what the nursery has imported?"
    folder = Path(folder)
    if any((folder/f'{o}.py').exists() for o in ('sitecustomize', 'usercustomize')): return True
    return (folder/'nanogpt_lit').exists() and not (folder/'nanogpt_lit').samefile(Path(__file__).parent.parent/'nanogpt_lit')

def what_to_run(argv):
    "`(how, what, arguments, unbuffered?)` of a command line that the nursery can run; None for others"
    program, *words = [os.fsdecode(o) for o in argv]
    if is_ours(program): return 'file', program, words, False
    unbuffered = words[:1] == ['-u']
    if unbuffered: words = words[1:]
    if program != sys.executable or not words: return None
    if words[0] in ('-c', '-m') and len(words) > 1: return words[0], words[1], words[2:], unbuffered
    return None if words[0].startswith('-') else ('file', words[0], words[1:], unbuffered)

ASKED = inspect.signature(subprocess.Popen._execute_child)

class Popen(subprocess.Popen):
    "`subprocess.Popen`; what is our own Python comes from the nursery, unless `fresh`. `net` is the file of a network namespace to run in"
    def __init__(self, args, *more, fresh=False, net=None, **kw):
        self.fresh, self.net = fresh or NEVER, net and str(net)
        if net and self.fresh: args = ['nsenter', f'--net={net}', *args]
        super().__init__(args, *more, **kw)

    def _execute_child(self, *args):
        asked = ASKED.bind(self, *args).arguments
        request = None if self.fresh else self._request(asked)
        if self.net and not request and not self.fresh: raise ValueError('this cannot come from the nursery, so with net=… it needs fresh=True as well')
        self.fresh = request is None
        if self.fresh: return super()._execute_child(*args)
        ends = ['p2cread', 'p2cwrite', 'c2pread', 'c2pwrite', 'errread', 'errwrite']
        files = [asked[name] if asked[name] != -1 else i for i, name in enumerate(['p2cread', 'c2pwrite', 'errwrite'])]
        kind = 'pages' if Path(request['run'][1]).name == 'nbdev_test' else 'commands'
        with STARTING: own = nursery(kind)
        self.pid = own.fork(request, files)
        self._child_created = True
        self._close_pipe_fds(*(asked[name] for name in ends))

    def _request(self, asked):
        usual = dict(executable=None, preexec_fn=None, close_fds=True, pass_fds=(), shell=False, restore_signals=True, gid=None, gids=None, uid=None, umask=-1)
        if any(asked[k] != v for k, v in usual.items()) or isinstance(asked['args'], (str, bytes)): return None
        env, cwd = os.environ if asked['env'] is None else asked['env'], os.fsdecode(asked['cwd'] or os.getcwd())
        run = what_to_run(asked['args'])
        if run is None or not os.path.isdir(cwd) or not begins_alike(env): return None
        return dict(run=run, cwd=cwd, env={os.fsdecode(k): os.fsdecode(v) for k, v in env.items()}, net=self.net, session=asked['start_new_session'], group=asked['process_group'])

def run_argv(argv, input=None, capture_output=False, timeout=None, check=False, **kw):
    "`subprocess.run` with the `Popen` above"
    if input is not None: kw['stdin'] = subprocess.PIPE
    if capture_output: kw |= dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    with Popen(argv, **kw) as process:
        try: out, err = process.communicate(input, timeout=timeout)
        except BaseException:
            process.kill()
            raise
    done = subprocess.CompletedProcess(process.args, process.returncode, out, err)
    if check: done.check_returncode()
    return done

# --- in the nursery --------------------------------------------------------------------------------------------------

TORCH = 'torch torch.distributed.checkpoint torch.distributed.run torch._dynamo numpy matplotlib.figure matplotlib.backends.backend_agg psutil'.split()  # an optimiser imports _dynamo
OURS = [f'nanogpt_lit.{o}' for o in 'pretrain finetune sample chat grading benchmarks interop launch speedrun quickstart report watch data tokenizer'.split()]
IMPORTED = dict(
    commands=TORCH + OURS + 'torch.profiler tiktoken.load tqdm.auto PIL.PngImagePlugin'.split(),
    pages=TORCH + OURS + 'matplotlib.pyplot matplotlib_inline.backend_inline IPython ipywidgets nbdev.test nbdev.showdoc execnb.shell'.split())

def load(kind):
    "What commands, or pages, import. torch computes nothing: no thread may have begun"
    for name in IMPORTED[kind]: import_module(name)
    if kind == 'commands': rehearse()
    if kind == 'pages': draw_plainly()
    gc.collect()
    gc.freeze()                 # children share these objects' memory with the nursery

def rehearse():
    "What each command would find out anew and keep: the comments of the settings, the fonts and marks of a picture of losses. Python alone does that"
    from nanogpt_lit.config import FinetuneConfig, RunConfig, flat_fields
    from nanogpt_lit.monitor import plot_losses
    for cls in (RunConfig, FinetuneConfig): flat_fields(cls)
    plot_losses([dict(step=i, loss=3. - i, val_loss=3.) for i in (1, 2)]).savefig(io.BytesIO(), format='png')

def draw_plainly():
    "Pages' pictures are drawn for nobody here: all of each, but with a quarter of the pixels of nbdev's own way, and once: what is cut to its ink is drawn twice"
    import nbdev.test
    from matplotlib_inline.config import InlineBackend
    InlineBackend.instance().print_figure_kwargs = dict(bbox_inches=None)
    nbdev.test.CaptureShell = partial(nbdev.test.CaptureShell, mpl_format='png')

def serve(theirs):
    "Forks as asked; returns in each child, with what it is to run"
    signal.signal(signal.SIGINT, signal.SIG_IGN)                 # Ctrl-C in a terminal is for the tests
    while True:
        message, files, *_ = socket.recv_fds(theirs, 1 << 20, 3)
        if not message: os._exit(0)                              # the tests have ended
        if not (middle := os.fork()):
            between = os.getpid()
            if os.fork(): os._exit(0)                            # now the child is an orphan, and the tests take it
            while os.getppid() == between: time.sleep(.0005)
            request = json.loads(message)
            return become(request['become'], *files, theirs) if 'become' in request else begin(request, files, theirs)
        for fd in files: os.close(fd)
        os.waitpid(middle, 0)

def become(kind, fd, theirs):
    "Be a nursery of another kind, which imports more"
    theirs.send(json.dumps(os.getpid()).encode())
    theirs.close()
    load(kind)
    return serve(socket.socket(fileno=fd))

def begin(request, files, theirs):
    "Become the process that was asked for: what it is to run"
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if request['session']: os.setsid()
        if request['group'] not in (None, -1): os.setpgid(0, request['group'])
        if request['net']: enter(request['net'])
        os.chdir(request['cwd'])
        os.environ.clear()
        os.environ.update(request['env'])
        time.tzset()
        for i, fd in enumerate(files): os.dup2(fd, i)
        reply = json.dumps(os.getpid()).encode()
    except Exception as e: reply = json.dumps(f'the nursery could not begin: {e!r}').encode()
    theirs.send(reply)
    if not reply.isdigit(): os._exit(1)
    os.closerange(3, os.sysconf('SC_OPEN_MAX') if os.sysconf('SC_OPEN_MAX') < 1 << 16 else 1 << 16)
    theirs.detach()
    *run, unbuffered = request['run']
    open_streams(unbuffered or bool(os.environ.get('PYTHONUNBUFFERED')))
    begin_afresh()
    return branch(run) if is_launcher(run) else run

def is_launcher(run):
    "Does this command start others?"
    how, what, words, *_ = run
    return Path(what).name in LAUNCHERS or (how, what, words[:1]) == ('-m', 'nanogpt_lit', ['launch'])

def enter(net):
    "Have the network of this namespace from now on"
    with open(net) as f:
        if ctypes.CDLL(None, use_errno=True).setns(f.fileno(), NEW_NET): raise OSError(ctypes.get_errno(), 'setns', net)

class LauncherPopen(Popen):
    "For pages: what measures its own start is often their subject, so only launchers come from the nursery"
    def _request(self, asked):
        request = super()._request(asked)
        return request if request and is_launcher(request['run']) else None

class RacePopen(Popen):
    "For a page that races programs, and also measures the starts of short ones"
    def _request(self, asked):
        request = super()._request(asked)
        return request if request and request['run'][0] != '-c' else None

def popen_for(run):
    "What a launcher or a page starts its processes with"
    how, what, words = run
    if Path(what).name != 'nbdev_test': return Popen
    pages = {Path(word).stem for word in words}
    if pages & TIMED_PAGES: return RacePopen
    return Popen if pages & PAGES_WITH_PROCESSES else LauncherPopen

def branch(run):
    "A launcher keeps a nursery of its own, a fork of what it is now; so does a page, for the launchers that it starts"
    ours, theirs = channel()
    if not os.fork():
        ours.close()
        nothing = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1, 2): os.dup2(nothing, fd)           # nobody waits for the end of what this process might still write
        return serve(theirs)
    theirs.close()
    NURSERIES[os.getpid(), 'commands'] = Nursery(ours)
    from torch.distributed.elastic.multiprocessing.subprocess_handler import subprocess_handler
    subprocess.Popen = subprocess_handler.Popen = popen_for(run)
    return run

def open_streams(plain):
    "sys.stdin, sys.stdout and sys.stderr, as Python opens them"
    encoding, _, errors = os.environ.get('PYTHONIOENCODING', '').partition(':')
    if encoding: encoding, errors = codecs.lookup(encoding).name, errors or 'strict'
    for fd, name, mode in ((0, 'stdin', 'r'), (1, 'stdout', 'w'), (2, 'stderr', 'w')):
        before = getattr(sys, f'__{name}__')
        unbuffered = plain and mode == 'w'
        by_lines = not plain and (name == 'stderr' or os.isatty(fd))
        binary = open(fd, mode + 'b', buffering=0 if unbuffered else -1, closefd=False)
        (binary if unbuffered else binary.raw).name = f'<{name}>'
        stream = io.TextIOWrapper(binary, encoding or before.encoding, before.errors if name == 'stderr' else errors or before.errors, '\n',
                                  line_buffering=by_lines, write_through=plain)
        stream.mode = mode
        setattr(sys, name, stream)
        setattr(sys, f'__{name}__', stream)

def begin_afresh():
    "What has been drawn or read at import is drawn or read again"
    import matplotlib, numpy, torch
    numpy.random.seed()                     # `random` does so by itself
    torch.seed()
    if QUIET in os.environ.items(): warnings.simplefilter('ignore')
    sys.path[1:1 + len(PLACED)] = entries(os.environ)
    PLACED[:] = entries(os.environ)
    if os.environ.get('MPLBACKEND'): matplotlib.rcParams['backend'] = os.environ['MPLBACKEND']

def perform(how, what, arguments):
    "Run a script, `-c code` or `-m module` as Python itself does"
    main = types.ModuleType('__main__')
    sys.modules['__main__'] = main
    sys.argv = [what if how == 'file' else how, *arguments]
    sys.orig_argv = [sys.executable, *([] if how == 'file' else [how]), what, *arguments]
    sys.path[0] = {'file': os.path.dirname(os.path.abspath(what)), '-m': os.getcwd(), '-c': ''}[how]
    if how == '-m':
        import runpy
        sys.modules.pop(what, None)         # or it would exist twice, and runpy says so
        return runpy._run_module_as_main(what)
    if how == 'file': main.__file__ = os.path.abspath(what)
    source = what if how == '-c' else Path(what).read_bytes()
    exec(compile(source, '<string>' if how == '-c' else what, 'exec'), main.__dict__)

END = dict(code=0, process=None)

def told_code(error):
    "The exit code that Python gives for what a program ended with; negative for a signal"
    if error is None: return 0
    if isinstance(error, KeyboardInterrupt): return -signal.SIGINT
    if not isinstance(error, SystemExit): return 1
    return error.code & 0xff if isinstance(error.code, int) else int(error.code is not None)

def leave():
    "The last of the functions that run at exit: what is in the program's own variables is closed, what was printed is written"
    if END['process'] != os.getpid(): return    # a fork of the program ends by itself
    sys.modules['__main__'].__dict__.clear()
    gc.collect()
    try: sys.stdout.flush(); sys.stderr.flush()
    except Exception: return                # Python's own shutdown fails in the same way, and says so
    if END['code'] >= 0: os._exit(END['code'])
    signal.signal(-END['code'], signal.SIG_DFL)
    os.kill(os.getpid(), -END['code'])

if __name__ == '__main__':
    atexit.register(leave)                  # first, so it runs last
    load('commands')
    request = serve(socket.socket(fileno=int(sys.argv[1])))
    END['process'] = os.getpid()
    try: perform(*request)
    except BaseException as error:
        END['code'] = told_code(error)
        if isinstance(error, SystemExit): raise
        own = error.with_traceback(error.__traceback__.tb_next.tb_next)             # without these lines here
        sys.excepthook(type(own), own, own.__traceback__)
        raise SystemExit(1) from None
