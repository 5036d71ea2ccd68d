"""How well does the book read? One line of numbers per notebook, and a total.

    python scripts/book_stats.py           # counts only: instant
    python scripts/book_stats.py --time    # also run each notebook, and give the seconds it took

cells     Markdown and code cells
words     words of prose
prose     share of words that are prose rather than code
exported  lines of code that go into the package
median    lines of the median exported cell; `max`: of the longest
w/line    words of prose per exported line
public    public functions and classes; `tested`: the share that is run and asserted within three code cells of its
          definition (of a class grown with `@patch`: of its last method)
outputs   share of the live cells (not exported, hidden, flagged, imports only, or the solution and check of an exercise) that have a stored output
checks    assertions: `assert` statements and calls of test_* functions
"""
import argparse, ast, os, re, subprocess, sys, time
from functools import cache
from pathlib import Path
from statistics import median
from execnb.nbio import read_nb
from nbdev.config import get_config
from nbdev.process import extract_directives
from api_tables import parsed

EXPORT, QUIET = {'export', 'exports', 'exporti'}, {'hide', 'default_exp', 'slow', 'cuda', 'network', 'solution', 'check'}

def notebooks(nbs):
    "Every notebook, in reading order"
    return sorted(p for p in nbs.rglob('*.ipynb') if not any(o[0] in '._' for o in p.relative_to(nbs).parts))

def python_of(source):
    "A cell's code without IPython's own commands, which aren't Python"
    return re.sub(r'^[ \t]*[%!].*$', '', source, flags=re.M)

def root(node):
    "The name at the beginning of `a.b[c].d`, or None"
    while isinstance(node, (ast.Attribute, ast.Subscript, ast.Starred, ast.Call)): node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else None

def code_cells(path):
    "`[(directives, source without them, syntax tree, outputs)]` of the code cells that hold Python. To read only: a page is parsed once, until it changes"
    return _code_cells(path, os.stat(path).st_mtime_ns)

@cache
def _code_cells(path, changed):
    out = []
    for c in read_nb(path).cells:
        if c.cell_type != 'code': continue
        marks = extract_directives(c)
        src = python_of(c.source).strip()
        if src or marks: out.append((marks, src, parsed(src), c.get('outputs', [])))
    return out

def patched_class(node):
    "The class that a function with fastcore's `@patch` becomes a method of"
    if isinstance(node, ast.ClassDef) or not any('patch' in ast.unparse(d) for d in node.decorator_list): return ''
    args = node.args.posonlyargs + node.args.args
    return ast.unparse(args[0].annotation) if args and args[0].annotation else ''

def public(tree):
    "Names of the functions and classes that a cell defines for others to use"
    return [o.name for o in tree.body if isinstance(o, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) and o.name[0] != '_' and not patched_class(o)]

def checks(tree):
    "How many assertions a cell makes"
    def is_test(f): return (getattr(f, 'id', None) or getattr(f, 'attr', '')).startswith('test_')
    return sum(isinstance(o, ast.Assert) or isinstance(o, ast.Call) and is_test(o.func) for o in ast.walk(tree))

def names(tree): return {o.id for o in ast.walk(tree) if isinstance(o, ast.Name)} | {o.attr for o in ast.walk(tree) if isinstance(o, ast.Attribute)}

def untested(path):
    "Public names of a notebook that no cell among the three behind them runs and asserts"
    cells, place = code_cells(path), {}
    for i, (marks, _, tree, _) in enumerate(cells):
        if not EXPORT & marks.keys(): continue
        place |= dict.fromkeys(public(tree), i)
        place |= {c: i for o in tree.body if isinstance(o, (ast.FunctionDef, ast.AsyncFunctionDef)) and (c := patched_class(o)) in place}
    def tested(name, i):
        track = {name} # the name, and what was made with it in the meantime: run = pretrain(…), then assert run.finished
        for marks, _, tree, _ in cells[i + 1:i + 4]:
            if EXPORT & marks.keys() or not track & names(tree): continue
            if checks(tree): return True
            track |= {o.id for o in ast.walk(tree) if isinstance(o, ast.Name) and isinstance(o.ctx, ast.Store)} | {o.name for o in tree.body if isinstance(o, ast.FunctionDef)}
    return [name for name, i in place.items() if not tested(name, i)]

def words(s): return len(re.findall(r"\w[\w'’-]*", s))

def stats(path):
    "The numbers of one notebook"
    nb, code = read_nb(path), code_cells(path)
    prose = sum(words(c.source) for c in nb.cells if c.cell_type == 'markdown')
    exported = [(src, tree) for marks, src, tree, _ in code if EXPORT & marks.keys()]
    sizes = [n for src, tree in exported if (n := sum(bool(l.strip()) for l in src.splitlines())) and not only_imports(tree)]
    live = [out for marks, src, tree, out in code if src and not (EXPORT | QUIET) & marks.keys() and marks.get('eval:') != ['false'] and not only_imports(tree)]
    return dict(cells=len(nb.cells), words=prose, code_words=sum(words(src) for _, src, _, _ in code), sizes=sizes,
                public=sum(len(public(tree)) for _, tree in exported), untested=untested(path),
                live=len(live), shown=sum(bool(o) for o in live), checks=sum(checks(tree) for _, _, tree, _ in code))

def only_imports(tree): return all(isinstance(o, (ast.Import, ast.ImportFrom)) for o in tree.body)

def seconds(path, cfg):
    "How long nbdev's tester needs for the notebook; exits if it fails"
    start = time.perf_counter()
    cmd = [str(Path(sys.executable).parent/'nbdev_test'), '--path', str(path), '--n_workers', '0']
    r = subprocess.run(cmd, capture_output=True, text=True, cwd=cfg.config_path, env={'OMP_NUM_THREADS': '1', **os.environ})
    if r.returncode: sys.exit(r.stderr[-3000:])
    return time.perf_counter() - start

def row(name, s, secs):
    lines = sum(s['sizes'])
    def share(a, b): return f'{a/b:.0%}' if b else '–'
    cells = [name, s['cells'], f"{s['words']:,}", share(s['words'], s['words'] + s['code_words']), f'{lines:,}',
             f"{median(s['sizes']):.0f}" if lines else '–', max(s['sizes']) if lines else '–', f"{s['words']/lines:.1f}" if lines else '–',
             s['public'], share(s['public'] - len(s['untested']), s['public']), share(s['shown'], s['live']), f"{s['checks']:,}"]
    return [str(o) for o in cells] + ([f'{secs:.0f}'] if secs is not None else [])

def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument('--time', action='store_true', help='run each notebook and print its seconds')
    ap.add_argument('--untested', action='store_true', help='also list the public names that no cell near them asserts')
    args = ap.parse_args()
    cfg = get_config()
    head = ['notebook', 'cells', 'words', 'prose', 'exported', 'median', 'max', 'w/line', 'public', 'tested', 'outputs', 'checks']
    rows, all_stats, total = [head + ['seconds']*args.time], [], 0.
    for p in notebooks(cfg.nbs_path):
        all_stats.append(s := stats(p))
        secs = seconds(p, cfg) if args.time else None
        total += secs or 0
        rows.append(row(p.relative_to(cfg.nbs_path).with_suffix('').as_posix(), s, secs))
    rows.append(row(f'{len(all_stats)} notebooks', {k: sum((s[k] for s in all_stats), type(all_stats[0][k])()) for k in all_stats[0]}, total if args.time else None))
    wide = [max(len(r[i]) for r in rows) for i in range(len(rows[0]))]
    for i, r in enumerate(rows):
        if i in (1, len(rows) - 1): print('─'*(sum(wide) + 2*(len(wide) - 1)))
        print('  '.join(o.ljust(w) if j == 0 else o.rjust(w) for j, (o, w) in enumerate(zip(r, wide))))
    if args.untested:
        for p, s in zip(notebooks(cfg.nbs_path), all_stats):
            if s['untested']: print(f'{p.stem}: {", ".join(s["untested"])}')

if __name__ == '__main__': main()
