"""Run notebooks with a real kernel, store their outputs, and clean them.

    python scripts/run_nbs.py                       # every notebook, in reading order
    python scripts/run_nbs.py 20_attention 04       # those whose path begins so
    python scripts/run_nbs.py 09 --flags "slow"     # with the cells that are flagged slow
    python scripts/run_nbs.py 20 --times            # then prints the cells that took longest
    python scripts/run_nbs.py 20 --cell ac3f00e7    # one cell, after those that define what it uses; prints and stores its output
    python scripts/run_nbs.py --tidy                # run nothing: only clean what is stored

Plots are stored as SVG, whose bytes are the same in each run; as PNG where an SVG would be large (many points), and in both forms on
the home page, which README.md is made from.

Progress bars and other live widgets are not stored: nobody can move them, and they change with every run.
Cells marked `#| eval: false`, and those flagged slow, cuda or network that --flags doesn't name, are skipped and
keep the output they have. The first error stops the run, and the notebook on disk stays as it was.

What a cell needs is read from the code: cells that bind or change a name that it uses, and those that these need. Cells
that only print, check or measure are passed over, so it takes seconds. What depends on the state of a random generator
that such a cell has moved comes out otherwise than in a whole run: run the page before you commit.
"""
import argparse, ast, builtins, os, symtable, sys, time
from pathlib import Path
import nbformat, psutil
from execnb.nbio import NbCell
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbdev.clean import nbdev_clean
from nbdev.config import get_config
from nbdev.process import extract_directives
from book_stats import root
from figures import one_picture

PLOTS = ['--InlineBackend.figure_formats=svg', '--InlineBackend.figure_formats=png',
         '--InlineBackend.rc=svg.fonttype=none', '--InlineBackend.rc=svg.hashsalt=nanogpt_lit']

class Client(NotebookClient):
    "A notebook client that passes over the cells in `skip`, and gets plots as SVG and PNG (`store` chooses); `took` gets the CPU seconds of each of the others"
    skip = frozenset()
    def __init__(self, nb, path, timeout):
        super().__init__(nb, timeout=timeout, kernel_name='python3', coalesce_streams=True, store_widget_state=False,
                         extra_arguments=PLOTS, resources={'metadata': {'path': str(path.parent)}})
        self.took = []
    def used_s(self):
        "CPU seconds of the kernel and its children so far"
        return sum(psutil.Process(self.km.provisioner.pid).cpu_times()[:4])
    async def async_execute_cell(self, cell, cell_index, **kw):
        marks = extract_directives(NbCell(0, dict(cell)), remove=False) if cell.cell_type == 'code' else {}
        if marks.get('eval:', [''])[0].lower() == 'false' or self.skip & marks.keys(): return cell
        before = self.used_s()
        done = await super().async_execute_cell(cell, cell_index, **kw)
        if cell.cell_type == 'code': self.took.append((self.used_s() - before, cell))
        return done

def run(path, skip, timeout=900):
    "Execute the notebook at `path`, and store it there; returns the seconds it took, and the CPU seconds of its cells"
    start, nb = time.perf_counter(), nbformat.read(path, as_version=4)
    client = Client(nb, path, timeout)
    client.skip = skip
    client.execute()
    store(nb, path)
    return time.perf_counter() - start, client.took

def slowest(took, n=8):
    "The `n` cells that took longest, a line each"
    ranked = sorted(took, key=lambda o: -o[0])[:n]
    return '\n'.join(f'  {seconds:6.1f} s CPU  {cell.id}  {" ".join(cell.source.split())[:80]}' for seconds, cell in ranked)

# --- one cell and what it needs ----------------------------------------------------------------------------------------

def scopes(table):
    yield table
    for o in table.get_children(): yield from scopes(o)

def outside(node):
    "The nodes of a cell that are run when it is run: not those inside of functions"
    yield node
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)): return
    for o in ast.iter_child_nodes(node): yield from outside(o)

def names(src):
    "`(used, bound, changed)`: the names that a cell takes from others, those that it makes, and those that it changes (`x.y = 1`, `x.update()`, `@patch` on a class)"
    used, bound = set(), set()
    for o in ast.parse(src).body:
        top, *inner = scopes(symtable.symtable(ast.unparse(o), 'statement', 'exec'))
        makes = {s.get_name() for s in top.get_symbols() if s.is_assigned() or s.is_imported()}
        takes = {s.get_name() for s in top.get_symbols() if s.is_referenced()} | {s.get_name() for i in inner for s in i.get_symbols() if s.is_global() and s.is_referenced()}
        if not isinstance(o, (ast.Assign, ast.AugAssign, ast.AnnAssign)): takes -= makes # `for x in …: x` makes first
        used |= takes - bound
        bound |= makes
    changed = set()
    for o in outside(ast.parse(src)):
        if isinstance(o, (ast.Attribute, ast.Subscript)) and isinstance(o.ctx, (ast.Store, ast.Del)): changed.add(root(o))
        if isinstance(o, ast.AugAssign): changed.add(root(o.target))
        if isinstance(o, ast.Expr) and isinstance(o.value, ast.Call) and isinstance(o.value.func, ast.Attribute): changed.add(root(o.value.func))
        if isinstance(o, ast.FunctionDef) and 'patch' in map(root, o.decorator_list): changed |= {root(a.annotation) for a in o.args.args[:1] if a.annotation}; bound.discard(o.name)
    return used - {*dir(builtins)}, bound - changed, changed - {None}

def needed(sources, last):
    "The indices of the cells, among `sources[:last]`, that make or change what cell `last` uses, directly or by others; the source of a cell that isn't run is None"
    asked, out = names(sources[last])[0], None
    while True: # again, for a function may use what a later cell makes, before it is called
        wanted, found, ever = {*asked}, [], set()
        for i in reversed(range(last)):
            if sources[i] is None: continue
            used, bound, changed = names(sources[i])
            if not (bound | changed) & wanted: continue
            wanted = wanted - bound | used
            ever |= used
            found.insert(0, i)
        if found == out: return found
        asked, out = asked | ever, found

def plain_source(cell, skip):
    "The code of a cell that can be run, without magics; None for any other"
    if cell.cell_type != 'code': return None
    marks = extract_directives(NbCell(0, dict(cell)), remove=False)
    if marks.get('eval:', [''])[0].lower() == 'false' or skip & marks.keys(): return None
    return '\n'.join(o for o in cell.source.splitlines() if not o.lstrip().startswith(('%', '!')))

def run_cell(path, id, skip, timeout=900):
    "Execute the cell `id` of the notebook at `path` after those that it needs, and store its output; returns (how many those were, its output)"
    nb = nbformat.read(path, as_version=4)
    last = next((i for i, c in enumerate(nb.cells) if c.cell_type == 'code' and c.id.startswith(id)), None)
    if last is None: sys.exit(f'{path.name} has no code cell {id}: the ids stand in the exported module, behind "# %%"')
    before = needed([plain_source(c, skip) for c in nb.cells[:last]] + [plain_source(nb.cells[last], frozenset()) or ''], last)
    few = nbformat.v4.new_notebook(cells=[nb.cells[i] for i in [*before, last]], metadata=nb.metadata)
    outputs = [c.outputs for c in few.cells]
    Client(few, path, timeout).execute()
    for cell, old in zip(few.cells[:-1], outputs): cell.outputs = old
    store(nb, path)
    return len(before), nb.cells[last].outputs

def shown(outputs):
    "Outputs as a terminal shows them"
    return '\n'.join(o.get('text') or o.get('data', {}).get('text/plain', '') for o in outputs).rstrip()

HOME = 'index.ipynb' # README.md is made from it, with PNG pictures

def store(nb, path):
    "Write the notebook `nb` to `path` with what a reader needs of its outputs"
    for c in nb.cells: # each part of a cell's printed text becomes one output, however it was buffered
        if c.cell_type != 'code': continue
        c.outputs = merged(without_widgets(c.outputs))
        for o in c.outputs:
            if 'data' in o: o.data = one_picture(o.data, both=path.name == HOME)
    nb.metadata.pop('widgets', None)
    part = path.with_suffix('.part')
    nbformat.write(nb, part)
    os.replace(part, path)
    getattr(nbdev_clean, '__wrapped__', nbdev_clean)(str(path))

def without_widgets(outputs):
    "`outputs` without live widgets. One that has a picture or HTML beside its widget keeps that; of a bar nothing is left"
    out = []
    for o in outputs:
        data = o.get('data', {})
        live = [kind for kind in data if 'jupyter.widget' in kind]
        for kind in live: del data[kind]
        if not live or data.keys() - {'text/plain'}: out.append(o)
    return out

def merged(outputs):
    "`outputs` with neighbouring pieces of the same stream joined"
    out = []
    for o in outputs:
        if out and o.output_type == 'stream' == out[-1].output_type and o.name == out[-1].name: out[-1].text += o.text
        else: out.append(o)
    return out

def chosen(nbs, names):
    "The notebooks whose path under `nbs` begins with one of `names`; all of them when there are no names"
    every = sorted(p for p in nbs.rglob('*.ipynb') if not any(o[0] in '._' for o in p.relative_to(nbs).parts))
    names = [Path(n).as_posix().removeprefix(f'{nbs.name}/').removesuffix('.ipynb') for n in names]
    return [p for p in every if not names or any(p.relative_to(nbs).as_posix().startswith(n) for n in names)]

def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument('names', nargs='*', help='beginnings of notebook paths')
    ap.add_argument('--flags', default='', help='flags whose cells run too, space-separated')
    ap.add_argument('--cell', default='', help='id of a cell, or its beginning: run it alone, after those that it needs')
    ap.add_argument('--times', action='store_true', help='print the cells that took longest')
    ap.add_argument('--tidy', action='store_true', help='run nothing: only clean what is stored')
    args = ap.parse_args()
    # one thread, no terminal progress bars or notices, before any kernel starts: stored outputs should not depend on the machine
    os.environ.setdefault('OMP_NUM_THREADS', '1')
    os.environ.setdefault('PYTHONWARNINGS', 'ignore')
    cfg = get_config()
    skip = {*cfg.tst_flags.split()} - {*args.flags.split()}
    paths = chosen(cfg.nbs_path, args.names)
    if not paths: sys.exit(f'no notebook begins with {" or ".join(args.names)}')
    if args.cell:
        if len(paths) != 1: sys.exit(f'--cell runs a cell of one page: {" ".join(args.names) or "no name"} means {len(paths)}')
        start = time.perf_counter()
        try: count, outputs = run_cell(paths[0], args.cell, skip)
        except CellExecutionError as e: sys.exit(f'{paths[0].relative_to(cfg.config_path)}: {e}')
        return print(f'{shown(outputs)}\n{paths[0].name} {args.cell}: after {count} other cells, {time.perf_counter() - start:.0f} s')
    for p in paths:
        if args.tidy: store(nbformat.read(p, as_version=4), p); continue
        try: seconds, took = run(p, skip)
        except CellExecutionError as e: sys.exit(f'{p.relative_to(cfg.config_path)}: {e}')
        print(f'{p.relative_to(cfg.config_path)}  {seconds:.0f} s', flush=True)
        if args.times: print(slowest(took), flush=True)

if __name__ == '__main__': main()
