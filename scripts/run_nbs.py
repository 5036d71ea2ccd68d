"""Run notebooks with a real kernel, store their outputs, and clean them.

    python scripts/run_nbs.py                       # every notebook, in reading order
    python scripts/run_nbs.py 20_attention 04       # those whose path begins so
    python scripts/run_nbs.py 09 --flags "slow"     # with the cells that are flagged slow
    python scripts/run_nbs.py --tidy                # run nothing: only clean what is stored

Progress bars and other live widgets are not stored: nobody can move them, and they change with every run.
Cells marked `#| eval: false`, and those flagged slow, cuda or network that --flags doesn't name, are skipped and
keep the output they have. The first error stops the run, and the notebook on disk stays as it was.
"""
import argparse, os, sys, time
from pathlib import Path

# one thread, no terminal progress bars or notices, before any kernel starts: stored outputs should not depend on the machine
os.environ.setdefault('OMP_NUM_THREADS', '1')
os.environ.setdefault('PYTHONWARNINGS', 'ignore')

import nbformat
from execnb.nbio import NbCell
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbdev.clean import nbdev_clean
from nbdev.config import get_config
from nbdev.process import extract_directives

class Client(NotebookClient):
    "A notebook client that passes over the cells in `skip`"
    skip = frozenset()
    async def async_execute_cell(self, cell, cell_index, **kw):
        marks = extract_directives(NbCell(0, dict(cell)), remove=False) if cell.cell_type == 'code' else {}
        if marks.get('eval:', [''])[0].lower() == 'false' or self.skip & marks.keys(): return cell
        return await super().async_execute_cell(cell, cell_index, **kw)

def run(path, skip, timeout=900):
    "Execute the notebook at `path`, and store it there; returns the seconds it took"
    start, nb = time.perf_counter(), nbformat.read(path, as_version=4)
    client = Client(nb, timeout=timeout, kernel_name='python3', coalesce_streams=True, store_widget_state=False,
                    resources={'metadata': {'path': str(path.parent)}})
    client.skip = skip
    client.execute()
    store(nb, path)
    return time.perf_counter() - start

def store(nb, path):
    "Write the notebook `nb` to `path` with what a reader needs of its outputs"
    for c in nb.cells: # each part of a cell's printed text becomes one output, however it was buffered
        if c.cell_type == 'code': c.outputs = merged(without_widgets(c.outputs))
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
    ap.add_argument('--tidy', action='store_true', help='run nothing: only clean what is stored')
    args = ap.parse_args()
    cfg = get_config()
    skip = {*cfg.tst_flags.split()} - {*args.flags.split()}
    paths = chosen(cfg.nbs_path, args.names)
    if not paths: sys.exit(f'no notebook begins with {" or ".join(args.names)}')
    for p in paths:
        if args.tidy: store(nbformat.read(p, as_version=4), p); continue
        try: print(f'{p.relative_to(cfg.config_path)}  {run(p, skip):.0f} s', flush=True)
        except CellExecutionError as e: sys.exit(f'{p.relative_to(cfg.config_path)}: {e}')

if __name__ == '__main__': main()
