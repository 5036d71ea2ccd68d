"The rules of the book that a reader never sees broken: outputs are there and portable, README and versions agree."
import ast, json, re
import pytest
import nanogpt_lit
from execnb.nbio import read_nb
from nbdev.config import get_config
from book_stats import code_cells, notebooks, stats
from build_docs import HEAD, head, sections
from build_readme import readme

CFG = get_config()
NOTEBOOKS = notebooks(CFG.nbs_path)
each = pytest.mark.parametrize('nb', NOTEBOOKS, ids=lambda p: p.stem)

# a path of the machine that ran the notebook; /usr/lib/python3.11/… in a traceback would be one too
MACHINE = re.compile(r'(?<![\w.])(?:/(?:work|root|home|Users|tmp|var|opt|usr/l\w+)/[\w.]|[A-Z]:\\+Users)')
SKIPPED = {'slow', 'cuda', 'network', 'hide', 'default_exp', 'export', 'exporti', 'exports'}

def output_texts(nb):
    "Every text in a notebook's stored outputs"
    for c in nb['cells']:
        for o in c.get('outputs', []):
            data = {k: v for k, v in o.get('data', {}).items() if not k.startswith('image/')}
            yield ''.join(o.get('text', [])) + '\n'.join(''.join(v) if isinstance(v, list) else str(v) for v in data.values())

@each
def test_outputs_are_portable(nb):
    raw = json.loads(nb.read_text(encoding='utf-8'))
    assert not [o for c in raw['cells'] for o in c.get('outputs', []) if o['output_type'] == 'error'], 'a cell stored an error'
    found = [text[max(0, m.start() - 60):m.end() + 40] for text in output_texts(raw) for m in MACHINE.finditer(text)]
    assert not found, f'a path of the machine that ran it: {found}'
    assert not (raw['metadata'].keys() - {'kernelspec', 'language_info', 'widgets'}), 'run nbdev_clean'

@each
def test_outputs_are_stored(nb):
    for marks, src, tree, outputs in code_cells(nb):
        if SKIPPED & marks.keys() or marks.get('eval:') == ['false'] or not tree.body: continue
        last = tree.body[-1]
        silent = not isinstance(last, ast.Expr) or isinstance(last.value, (ast.Call, ast.Constant)) or src.rstrip().endswith(';')
        assert outputs or silent, f'this cell ends on a value but stores no output (scripts/run_nbs.py {nb.stem}):\n{src[-300:]}'
    s = stats(nb)
    assert s['live'] < 8 or s['shown'] >= .3*s['live'], f'only {s["shown"]} of {s["live"]} live cells show an output'

@each
def test_title_cell_stands_alone(nb):
    first, title, sub = read_nb(nb).cells[0], *head(read_nb(nb))
    assert title and sub, 'a page starts with a `# title` and a `> subtitle`'
    rest = HEAD.sub('', first.source).strip() if first.cell_type == 'markdown' else ''
    assert not rest, 'nbdev turns the first cell into front matter and drops all else in it: start another'

@each
def test_cells_have_distinct_ids_and_no_cell_mixes_imports_with_code(nb):
    ids = [c['id'] for c in json.loads(nb.read_text(encoding='utf-8'))['cells']]
    assert len(ids) == len({*ids})
    for _, src, tree, _ in code_cells(nb): # nbdev runs cells with imports alone when it builds documentation
        kinds = {isinstance(o, (ast.Import, ast.ImportFrom)) for o in tree.body}
        assert len(kinds) < 2, f'imports and other code in one cell:\n{src[:200]}'

def test_sidebar_names_every_page():
    placed = [p for _, pages in sections(CFG) for p in pages]
    assert len(placed) == len({*placed}) and {*placed} == {*NOTEBOOKS} - {CFG.nbs_path/'index.ipynb'}

def test_readme_is_current(root):
    text, images = readme(CFG)
    assert (root/'README.md').read_text(encoding='utf-8') == text, 'run python scripts/build_readme.py'
    assert all((root/name).read_bytes() == data for name, data in images.items())

def test_readme_links_exist(root):
    text = (root/'README.md').read_text(encoding='utf-8')
    targets = [t for t in re.findall(r'\]\(([^)#\s]+)[^)]*\)', text) if '://' not in t and not t.startswith('mailto:')]
    assert not [t for t in targets if not (root/t).exists()]

def test_versions_agree(): assert nanogpt_lit.__version__ == CFG.version

def test_expected_files(root):
    for name in 'LICENSE README.md CHANGELOG.md CONTRIBUTING.md data/README.md .ci/run'.split(): assert (root/name).is_file(), f'{name} is missing'
    assert 'Apache License' in (root/'LICENSE').read_text(encoding='utf-8')
