"What several test files need: our commands, here and in a process of their own; a small home; bytes with something wrong in them."
import io, json, os, random, re, shutil, subprocess, sys, time
from contextlib import chdir, redirect_stderr, redirect_stdout
from importlib import import_module
from pathlib import Path
from nursery import BIN, Popen, run_argv

# --- commands --------------------------------------------------------------------------------------------------------

SLOW = bool(os.environ.get('NANOGPT_LIT_SLOW'))      # whole products and long texts, of which the suite takes a sample otherwise
ENV = {**os.environ, 'PYTHONUTF8': '1', 'OMP_NUM_THREADS': '1'}

def run(*words, cwd, **kw):
    "A command of ours in a process of its own, until it ends: what `subprocess.run` returns. It comes from the nursery, unless `fresh=True`"
    usual = dict(capture_output=True, text=True, timeout=300, stdin=subprocess.DEVNULL)
    return run_argv([str(BIN/words[0]), *map(str, words[1:])], cwd=cwd, **usual | kw)

def start(*words, cwd, env=None, **kw):
    "A command of ours (or any other, by its path) in a process of its own, running: its `Popen`; `env` is added to the usual surroundings. `fresh` as above"
    usual = dict(stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors='replace')
    program = BIN/words[0] if (BIN/words[0]).exists() else words[0]
    return Popen([*map(str, (program, *words[1:]))], cwd=cwd, env=ENV | (env or {}), **usual | kw)

def finish(process, limit_s=150):
    "`(exit code, output, errors)` of what was started; it and its children are ended if they take too long"
    try: out, err = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        import psutil
        for o in [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]: o.kill()
        out, err = process.communicate()
        raise AssertionError(f'not over after {limit_s} s\n{out[-2000:]}\n{(err or "")[-4000:]}') from None
    return process.returncode, out, err

def wait_for(happened, process=None, limit_s=120, may_end=False):
    "Until `happened()`; an error if `process` ends before that (unless it may) or the time is over"
    end = time.monotonic() + limit_s
    while not happened():
        if process is not None and process.poll() is not None:
            assert may_end or happened(), f'it ended with {process.returncode}: {(process.communicate()[1] or "")[-3000:]}'
            return
        assert time.monotonic() < end, f'it did not happen in {limit_s} s'
        time.sleep(.005)

def steps(run):
    "The steps in a run's metrics so far; a line that is being written doesn't count"
    try: lines = (run/'metrics.jsonl').read_text(encoding='utf-8').splitlines()
    except OSError: return []
    out = []
    for line in lines:
        try: out.append(json.loads(line)['step'])
        except (ValueError, KeyError): pass
    return out

def heard(command, *words):
    "`(exit code, what it printed, its errors)` of a command in this process: much quicker than one of its own"
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err): code = _code(command, words)
    return code, out.getvalue(), err.getvalue()

def spoken(command, *words):
    "`(exit code, everything that it said)` of a command in this process"
    with redirect_stdout(io.StringIO()) as said, redirect_stderr(said): code = _code(command, words)
    return code, said.getvalue()

def _code(command, words):
    try: return command([str(o) for o in words])
    except SystemExit as e: return e.code

# --- a small home ----------------------------------------------------------------------------------------------------

WORDS = 'the cat sat on mat and a dog ran to red house where it saw small bird in tall green tree'.split()

def small_home(folder, pairs):
    "`text.txt`, as many words' `pairs.jsonl` with themselves, and `base`, a model of three steps; returns the folder"
    from nanogpt_lit.config import nanogpt_train
    draw = random.Random(0)
    with chdir(folder):
        Path('text.txt').write_text('\n'.join(' '.join(draw.choices(WORDS, k=8)) for _ in range(2000)))
        Path('pairs.jsonl').write_text('\n'.join(json.dumps(dict(prompt=f'the {a}?', completion=f'a {b}.')) for a in WORDS[:pairs] for b in WORDS[:pairs]))
        code, said = spoken(nanogpt_train, *'tiny --input text.txt --tokenizer bpe --tokenizer_vocab_size 300 --block_size 64 --n_layer 1 --n_head 2 --n_embd 32 --max_steps 3 '
                            '--device cpu --num_threads 1 --no-plot_loss --out_dir base'.split())
        assert code == 0, said[-2000:]
    return folder

QUICKSTART = '''
import sys, types
import nanogpt_lit.guess, nanogpt_lit.quickstart
from nanogpt_lit.config import PRESETS, nanogpt_quickstart
library = sys.argv.pop(1)
nanogpt_lit.guess.sysconfig = types.SimpleNamespace(get_paths=lambda: dict(stdlib=library))
nanogpt_lit.quickstart.fastest_setting = lambda cfg: ('float32', 1, 1.)      # it tries them all, for seconds
PRESETS['quickstart'] |= dict(n_layer=1, n_embd=32, block_size=64, tokenizer_vocab_size=400, eval_iters=2)
sys.exit(nanogpt_quickstart())
'''

def quickstart_words(folder):
    "`nanogpt-quickstart` with a small model, on a part of Python's library, a copy in `folder`"
    for name in 'email json logging unittest'.split():
        import_module(name)
        shutil.copytree(Path(sys.modules[name].__file__).parent, folder/'library'/name, ignore=shutil.ignore_patterns('__pycache__'))
    return [sys.executable, '-c', QUICKSTART, str(folder/'library'), '--device', 'cpu', '--num_threads', '1']

# --- damage ----------------------------------------------------------------------------------------------------------

def mutated(data, rng, numbers, texts, number=rb'\d+', text=rb'"[^"]{1,9}"', often=.02):
    "Bytes cut off, changed, doubled or taken out, or some numbers or texts of a file made absurd: one of `numbers`, one of `texts`"
    bad, i, n = bytearray(data), rng.randrange(max(1, len(data))), rng.choice([1, 1, 4, 40])
    def swapped(what, ways): return re.sub(what, lambda m: rng.choice(ways) if rng.random() < often else m[0], bytes(bad))
    match rng.randrange(6):
        case 0: del bad[i:]
        case 1: bad[i:i + n] = rng.randbytes(n)
        case 2: bad[i:i] = bad[i:i + n]*rng.choice([1, 3, 200])
        case 3: del bad[i:i + n]
        case 4: bad = swapped(number, numbers)
        case 5: bad = swapped(text, texts)
    return bytes(bad)
