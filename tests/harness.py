"What several test files need: our commands, here and in a process of their own; a small home; bytes with something wrong in them."
import io, json, os, random, re, subprocess, sys
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path

# --- commands --------------------------------------------------------------------------------------------------------

BIN = Path(sys.executable).parent
ENV = {**os.environ, 'PYTHONUTF8': '1', 'OMP_NUM_THREADS': '1'}

def run(*words, cwd, **kw):
    "A command of ours in a process of its own, until it ends: what `subprocess.run` returns"
    usual = dict(capture_output=True, text=True, timeout=300, stdin=subprocess.DEVNULL)
    return subprocess.run([str(BIN/words[0]), *map(str, words[1:])], cwd=cwd, **usual | kw)

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
