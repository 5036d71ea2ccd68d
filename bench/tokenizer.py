"""Trains the same vocabulary with Hugging Face `tokenizers`, with rustbpe (if installed) and with this project, and encodes.

    python bench/tokenizer.py --quick                     # 1 and 12 MB, one round: a few minutes
    python bench/tokenizer.py --mb 1 12 100 --vocab 1k 10k 32k --rounds 3
    python bench/tokenizer.py --file my.txt --vocab 10k --no-encode
    python bench/tokenizer.py --mb 12 --pattern gpt4      # or llama3, qwen2, o200k

Every training is a process of its own, and the engines take turns, so that a busy machine disturbs all alike. All get the
same list of files, one document each, and read them within the time measured; imports are outside. Reported are medians:
wall time; CPU time (user + system, children included), which other programs disturb less; and peak memory: the sum of the
peaks of the process and its children, interpreter and imports included. Nothing is downloaded.

The texts: `pystdlib`, the standard library's sources (12 MB), and a piece of it (1 MB); for more, all other .py, .pyi,
.txt, .rst and .md files below the interpreter's site-packages, sorted by path, until the size is reached.

The engines break ties differently, so vocabularies agree only up to the first tie. There the script counts the pairs itself:
the first token that differs must have been exactly as frequent as ours.
"""
import argparse, json, os, random, statistics, subprocess, sys, sysconfig, tempfile, time
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

ENGINES = {'hf': 'tokenizers', 'rustbpe': 'rustbpe', 'ours': 'nanogpt_lit'}

# ---- the texts
def site_files():
    "Text files below site-packages that are UTF-8"
    root = Path(sysconfig.get_paths()['purelib'])
    for suffix in ('.py', '.pyi', '.txt', '.rst', '.md'):
        for path in sorted(root.rglob('*' + suffix)):
            try:
                if path.stat().st_size and path.read_text(encoding='utf-8'): yield path
            except (OSError, UnicodeDecodeError): pass

def corpus(mb, file, folder):
    "A name and the list of files: about `mb` million bytes of text, or `file` cut where no token changes"
    from nanogpt_lit.bpe import chunks, file_blocks
    from nanogpt_lit.corpus import pystdlib_files
    if file:
        paths = []
        for i, text in enumerate(chunks(file_blocks(file))):
            paths.append(folder/f'{i:05}.txt')
            paths[-1].write_bytes(text.encode())
        return Path(file).name, paths
    files, size, out = [p for p in pystdlib_files() if p.stat().st_size], 0, []
    if mb < 12: random.Random(0).shuffle(files)       # a piece with something of everything
    for path in files if mb <= 12 else (p for group in (files, site_files()) for p in group):
        size += path.stat().st_size
        out.append(path)
        if size >= mb*1e6: break
    return 'part of pystdlib' if mb < 12 else 'pystdlib' if mb == 12 else 'pystdlib, packages', out

# ---- one measurement, in a process of its own
def read(paths): return (Path(p).read_bytes().decode('utf-8-sig') for p in paths)

def ours(pattern):
    from nanogpt_lit.bpe import PATTERNS, count_pretokens, train_bpe
    def train(paths, vocab): return train_bpe(count_pretokens(map(Path, paths), PATTERNS[pattern]), vocab - 256)
    return train, lambda merges: [a + b for a, b in merges]

def hf(pattern):
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers
    from nanogpt_lit.bpe import PATTERNS
    from nanogpt_lit.tokenizer import from_printable
    def splitter():
        if pattern == 'gpt2': return pre_tokenizers.ByteLevel(add_prefix_space=False)  # it knows this pattern, and is faster so
        split = pre_tokenizers.Split(Regex(PATTERNS['llama3' if pattern == 'gpt4' else pattern]), 'isolated')
        return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    def train(paths, vocab):
        tok = Tokenizer(models.BPE())
        tok.pre_tokenizer = splitter()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        tok.train_from_iterator(read(paths), trainers.BpeTrainer(vocab_size=vocab, initial_alphabet=alphabet, show_progress=False))
        return tok
    def tokens(tok): return [from_printable(''.join(pair)) for pair in json.loads(tok.to_str())['model']['merges']]
    return train, tokens

def rustbpe(pattern):
    import rustbpe
    from nanogpt_lit.bpe import PATTERNS
    def train(paths, vocab):
        tok = rustbpe.Tokenizer()
        tok.train_from_iterator(read(paths), vocab, pattern=PATTERNS[pattern])
        return tok
    return train, lambda tok: [t for t, i in sorted(tok.get_mergeable_ranks(), key=lambda r: r[1])[256:]]

TRAINERS = dict(ours=ours, hf=hf, rustbpe=rustbpe)

def clock():
    "Seconds by the clock, and of CPU time. `getrusage` where there is one: `os.times` counts hundredths of a second"
    return time.perf_counter(), cpu_seconds()

def cpu_seconds():
    try: from resource import RUSAGE_CHILDREN, RUSAGE_SELF, getrusage
    except ImportError: return sum(os.times()[:4])
    return sum(u.ru_utime + u.ru_stime for u in map(getrusage, (RUSAGE_SELF, RUSAGE_CHILDREN)))

def child_train(engine, paths, vocab, pattern):
    train, tokens = TRAINERS[engine](pattern)
    start = clock()
    result = train(paths, vocab)
    wall, cpu = (b - a for a, b in zip(start, clock()))
    return dict(wall=wall, cpu=cpu, peak=peak_of('self'), tokens=[t.hex() for t in tokens(result)])

def child_encode(engine, paths, folder):
    "Encodes all documents; `wall` without reading and loading"
    import hashlib
    import numpy as np
    texts = [*read(paths)]
    if engine.startswith('hf'):
        from tokenizers import Tokenizer
        tok = Tokenizer.from_file(f'{folder}/tokenizer.json')
        def run(): return [np.array(e.ids) for e in tok.encode_batch(texts)]
    else:
        from nanogpt_lit.tokenizer import load_tokenizer
        tok = load_tokenizer(folder)
        core = tok.engine
        calls = {'tiktoken': lambda: [core.encode_ordinary(t) for t in texts], 'tiktoken, batch': lambda: core.encode_ordinary_batch(texts),
                 'tiktoken, numpy': lambda: [core.encode_to_numpy(t, disallowed_special=()) for t in texts], 'ours': lambda: tok.encode_arrays(texts)}
        run = calls[engine]
    start = clock()
    ids = run()
    wall, cpu = (b - a for a, b in zip(start, clock()))
    digest = hashlib.sha256(np.concatenate(ids).astype('<u4').tobytes()).hexdigest()
    return dict(wall=wall, cpu=cpu, peak=peak_of('self'), hash=digest)

# ---- running it
def peak_of(pid):
    "Peak resident memory of a process in MB. VmHWM, since `ru_maxrss` would include what the parent had before"
    try: return next(int(line.split()[1])/1024 for line in open(f'/proc/{pid}/status') if line.startswith('VmHWM'))
    except (OSError, StopIteration): pass
    if pid != 'self': return 0
    import resource
    unit = 2**20 if sys.platform == 'darwin' else 2**10
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss + resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)/unit

def family(pid):
    "A process's children and their children"
    for path in Path(f'/proc/{pid}/task').glob('*/children'):
        try: kids = path.read_text().split()
        except OSError: continue
        for kid in kids: yield kid; yield from family(kid)

def measure(*task):
    "Run a `child_` function in a new process, and watch the memory of its children"
    with tempfile.TemporaryFile('w+') as out:
        p = subprocess.Popen([sys.executable, __file__, '--child'], stdin=subprocess.PIPE, stdout=out, text=True)
        p.stdin.write(json.dumps(task)); p.stdin.close()
        helpers = {}
        while p.poll() is None:
            for kid in family(p.pid): helpers[kid] = max(helpers.get(kid, 0), peak_of(kid))
            time.sleep(.03)
        if p.returncode: sys.exit(f'error: {task[:2]} failed with status {p.returncode}')
        out.seek(0)
        r = json.load(out)
    r['peak'] += sum(helpers.values())
    return r

def median(rows, key): return statistics.median(r[key] for r in rows)

def table(rows, head):
    rows = [head, *rows]
    widths = [max(len(r[i]) for r in rows) for i in range(len(head))]
    for r in rows: print('  '.join(c.ljust(w) if not i else c.rjust(w) for i, (c, w) in enumerate(zip(r, widths))))

# ---- do the vocabularies agree?
def first_difference(words, ours, theirs):
    "A sentence about the first token that differs, with both counts at that moment, by tiktoken's merge loop"
    import tiktoken
    n = min(len(ours), len(theirs))
    k = next((i for i in range(n) if ours[i] != theirs[i]), None)
    if k is None: return f'all {n:,} merges are the same' + (f'; then one has {abs(len(ours) - len(theirs))} more' if len(ours) != len(theirs) else '')
    tokens = [bytes([i]) for i in range(256)] + ours[:k]
    engine = tiktoken.Encoding('so far', pat_str='(?s).+', mergeable_ranks={t: i for i, t in enumerate(tokens)}, special_tokens={})
    pairs = Counter()
    for word, times in words.items():
        ids = engine._core_bpe.encode_single_piece(word)
        for a, b in zip(ids, ids[1:]): pairs[tokens[a], tokens[b]] += times
    count = {}
    for pair, times in pairs.items(): count[b''.join(pair)] = max(times, count.get(b''.join(pair), 0))
    a, b = count.get(ours[k], 0), count.get(theirs[k], 0)
    verdict = 'a tie' if a == b else 'NOT a tie'
    shared = len(set(ours) & set(theirs))/len(ours)
    return (f'the first {k:,} merges are the same; then {verdict}: {ours[k]!r} (ours) {a:,} times, {theirs[k]!r} {b:,} times; '
            f'{shared:.1%} of all tokens in common')

# ---- the two benchmarks
def bench_training(name, paths, vocabs, rounds, engines, pattern, log):
    size = sum(Path(p).stat().st_size for p in paths)
    print(f'\n## Training on {name}: {len(paths):,} files, {size/1e6:.1f} MB, split pattern {pattern}')
    rows, tokens = [], {}
    for vocab in vocabs:
        results = {e: [] for e in engines}
        for i in range(rounds):
            for e in engines[i % len(engines):] + engines[:i % len(engines)]:
                results[e].append(measure('train', e, [*map(str, paths)], vocab, pattern))
        keep(log, dict(kind='training', text=name, mb=size/1e6, files=len(paths), vocab=vocab, pattern=pattern), results)
        tokens[vocab] = {e: [bytes.fromhex(t) for t in r[0]['tokens']] for e, r in results.items()}
        wall, cpu = ({e: median(r, key) for e, r in results.items()} for key in ('wall', 'cpu'))
        rows += [[f'{vocab:,} {ENGINES[e]}', f'{wall[e]:.2f}', f'{cpu[e]:.2f}', f'{wall[e]/wall["ours"]:.1f}', f'{cpu[e]/cpu["ours"]:.1f}',
                  f'{median(results[e], "peak"):.0f}'] for e in engines]
    table(rows, ['vocabulary, trainer', 'wall s', 'CPU s', 'wall / ours', 'CPU / ours', 'peak MB'])
    from nanogpt_lit.bpe import PATTERNS, count_pretokens
    words = count_pretokens(map(Path, paths), PATTERNS[pattern])
    for vocab in vocabs:
        for e in engines:
            if e != 'ours': print(f'{vocab:,}, {ENGINES[e]}:', first_difference(words, tokens[vocab]['ours'], tokens[vocab][e]))

def bench_encoding(name, paths, vocab, rounds, folder, log):
    from nanogpt_lit.tokenizer import Tokenizer
    Tokenizer.train([*paths], vocab, progress=False).save(folder)
    size = sum(Path(p).stat().st_size for p in paths)/1e6
    engines = ['ours', 'tiktoken', 'tiktoken, numpy', 'tiktoken, batch'] + ['hf, batch']*bool(find_spec('tokenizers') and size < 15)   # it takes minutes for more
    print(f'\n## Encoding {name}, {size:.1f} MB, vocabulary {vocab:,}')
    results = {e: [] for e in engines}
    for i in range(rounds):
        for e in engines[i % len(engines):] + engines[:i % len(engines)]: results[e].append(measure('encode', e, [*map(str, paths)], str(folder)))
    rows = [[e.replace('hf', 'tokenizers'), f'{size/median(r, "wall"):.1f}', f'{size/median(r, "cpu"):.1f}', f'{ratio(results, e, "cpu", "tiktoken"):.2f}', f'{median(r, "peak"):.0f}'] for e, r in results.items()]
    table(rows, ['encoder', 'MB/s wall', 'MB/s CPU', 'CPU, tiktoken = 1', 'peak MB'])
    same = len({r[0]['hash'] for r in results.values()}) == 1
    print('ids: the same from all' if same else 'ids: NOT the same from all')
    keep(log, dict(kind='encoding', text=name, mb=size, files=len(paths), vocab=vocab, same=same), results)

def ratio(results, engine, key, peer):
    "The median over the rounds of how many times faster than `peer` an engine was"
    return statistics.median(theirs[key]/ours[key] for theirs, ours in zip(results[peer], results[engine]))

def keep(log, about, results):
    "Add a line to the log, if there is one"
    if not log: return
    row = about | {key: {e: [round(r[key], 3) for r in rs] for e, rs in results.items()} for key in ('wall', 'cpu', 'peak')}
    with open(log, 'a', encoding='utf-8') as f: f.write(json.dumps(row) + '\n')

def number(text): return int(float(text[:-1])*1000 + .5) if text[-1:] in 'kK' else int(text)

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--mb', type=float, nargs='+', default=[1, 12, 100], help='sizes of text in million bytes')
    p.add_argument('--file', help='a UTF-8 text to use instead')
    p.add_argument('--vocab', type=number, nargs='+', default=[1000, 10000, 32000], help='vocabulary sizes')
    p.add_argument('--rounds', type=int, default=3, help='trainings of each kind; medians are shown')
    p.add_argument('--engines', nargs='+', choices=[*ENGINES], default=[*ENGINES], help='trainers')
    p.add_argument('--pattern', choices=['gpt2', 'gpt4', 'llama3', 'qwen2', 'o200k'], default='gpt2', help='how text is split')
    p.add_argument('--train', action=argparse.BooleanOptionalAction, default=True, help='measure training')
    p.add_argument('--log', help='a file of JSON lines: each result is added to it')
    p.add_argument('--encode', action=argparse.BooleanOptionalAction, default=True, help='measure encoding too')
    p.add_argument('--quick', action='store_true', help='1 and 12 MB, vocabulary 10k, one round')
    p.add_argument('--child', action='store_true', help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.child:
        kind, *task = json.load(sys.stdin)
        return print(json.dumps((child_train if kind == 'train' else child_encode)(*task)))
    if a.quick: a.mb, a.vocab, a.rounds = [1, 12], [10000], 1
    engines = ['ours'] + [e for e in a.engines if e != 'ours' and find_spec(ENGINES[e])]
    print('not installed, left out:', ', '.join(ENGINES[e] for e in a.engines if not find_spec(ENGINES[e])) or 'nothing')
    with tempfile.TemporaryDirectory() as tmp:
        for mb in [0] if a.file else a.mb:
            name, paths = corpus(mb, a.file, Path(tmp))
            if a.train: bench_training(name, paths, a.vocab, a.rounds, engines, a.pattern, a.log)
            if a.encode and mb <= 40 and a.pattern == 'gpt2': bench_encoding(name, paths, min(a.vocab, key=lambda v: abs(v - 10000)), a.rounds, Path(tmp)/'tok', a.log)

if __name__ == '__main__': main()
