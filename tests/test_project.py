"The rules of the book that a reader never sees broken: outputs are there and portable, README and versions agree."
import ast, json, re
import pytest
import nanogpt_lit
from execnb.nbio import read_nb
from nbdev.config import get_config
from book_stats import code_cells, notebooks, stats
from build_docs import HEAD, head, page_name, sections
from build_readme import readme

CFG = get_config()
NOTEBOOKS = notebooks(CFG.nbs_path)
each = pytest.mark.parametrize('nb', NOTEBOOKS, ids=lambda p: p.stem)

# a path of the machine that ran the notebook; /usr/lib/python3.11/… in a traceback would be one too
MACHINE = re.compile(r'(?<![\w.])(?:/(?:work|root|home|Users|tmp|var|opt|usr/l\w+)/[\w.]|[A-Z]:\\+Users)')
SKIPPED = {'slow', 'cuda', 'network', 'hide', 'default_exp', 'export', 'exporti', 'exports', 'solution', 'check'}

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
    assert not (raw['metadata'].keys() - {'kernelspec', 'language_info'}), 'run nbdev_clean'

@each
def test_no_live_widget_is_stored(nb):
    live = [c['id'] for c in json.loads(nb.read_text(encoding='utf-8'))['cells'] for o in c.get('outputs', []) if any('jupyter.widget' in k for k in o.get('data', {}))]
    assert not live, f'progress bars or other widgets are stored in the cells {live}: run python scripts/run_nbs.py --tidy'

TRAINS = {'fit', 'pretrain', 'finetune', 'make_trainer', 'quickstart', 'quickstart_report', 'tune_quickstart', 'quickstart_command',
          'nanogpt_quickstart', 'nanogpt_train', 'nanogpt_finetune', 'train_command', 'finetune_command'}
CLOCK = 'elapsed_s' # what the trainer goes by: a page that replaces it counts steps

def minutes_given(tree):
    "The lengths by the clock in a cell: `minutes=.1`, `{'minutes': .1}`, `'--minutes', '.1'` and `'… --minutes .1 …'`"
    def value(o): return o.value if isinstance(o, ast.Constant) else str(ast.unparse(o))
    for o in ast.walk(tree):
        if isinstance(o, ast.keyword) and o.arg and o.arg.endswith('minutes'): yield value(o.value)
        if isinstance(o, ast.Dict): yield from (value(v) for k, v in zip(o.keys, o.values) if isinstance(k, ast.Constant) and str(k.value).endswith('minutes'))
        if isinstance(o, (ast.List, ast.Tuple)): yield from (value(b) for a, b in zip(o.elts, o.elts[1:]) if isinstance(a, ast.Constant) and str(a.value).endswith('minutes'))
        if isinstance(o, ast.Constant) and isinstance(o.value, str): yield from re.findall(r'--\w*minutes[ =](\S+)', o.value)

def by_the_clock(cells):
    "The live cells whose trainings end by the clock of the machine that ran them"
    live = [(src, tree) for marks, src, tree in cells if not marks.keys() & {'export', 'exporti', 'exports', 'slow', 'cuda', 'network'}]
    steady = {CLOCK} | {t.id for _, tree in live for o in tree.body if isinstance(o, ast.Assign) and CLOCK in ast.unparse(o.value) for t in o.targets if isinstance(t, ast.Name)}
    for src, tree in live:
        called = {getattr(o.func, 'id', None) or getattr(o.func, 'attr', None) for o in ast.walk(tree) if isinstance(o, ast.Call)}
        timed = [o for o in minutes_given(tree) if str(o) not in ('0', '0.0', 'None')]
        if called & TRAINS and timed and not any(s in ast.unparse(o) for o in tree.body for s in steady if isinstance(o, ast.With)): yield src

def test_what_counts_as_by_the_clock():
    def found(src): return [*by_the_clock([({}, src, ast.parse(src))])]
    for src in ("quickstart_report(QuickstartConfig(minutes=.1))", "t = make_trainer({'minutes': .05}).fit()", "nanogpt_train(['x', '--minutes', '1'])", "nanogpt_train('x --minutes 1'.split())"):
        assert found(src), src
        assert not found(f"with patch.object(Trainer, 'elapsed_s', steps):\n    {src}") and not found(f"steady = patch.object(Trainer, 'elapsed_s', steps)\nwith steady: {src}")
    for src in ("pretrain(RunConfig(minutes=0, max_steps=9))", "nanogpt_train(['x', '--minutes', '0'])", "QuickstartConfig(minutes=.1)", "print('--minutes 3')"): assert not found(src), src

@each
def test_demonstrations_count_steps(nb):
    found = [*by_the_clock([o[:3] for o in code_cells(nb)])]
    assert not found, f'on a slower machine this trains fewer steps, and stores another picture (let the trainer\'s {CLOCK} count steps):\n{found[0][:400]}'

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
def test_cells_have_distinct_ids(nb):
    ids = [c['id'] for c in json.loads(nb.read_text(encoding='utf-8'))['cells']]
    assert len(ids) == len({*ids})

IMPORTS, EXPORTS = (ast.Import, ast.ImportFrom), {'export', 'exports', 'exporti'}

def mixed(tree, exported=False):
    "Does a cell do more than import? nbdev runs every cell with an `import` anywhere in it alone, when it makes the documentation"
    if len({isinstance(o, IMPORTS) for o in tree.body}) > 1: return True
    def attempt(o): return isinstance(o, ast.Try) and all(isinstance(p, IMPORTS) for p in o.body) # and a stand-in if that fails
    alone = all(isinstance(o, (*IMPORTS, ast.FunctionDef, ast.ClassDef)) or attempt(o) for o in tree.body)
    return not (exported or alone) and any(isinstance(o, IMPORTS) for o in ast.walk(tree)) # exported cells run in their module's order

def test_what_counts_as_mixed():
    for src in ('import os\nx = 1', 'x = 1\nfrom os import path', '"A text"\nimport os', 'if x: import os', 'y = f(x)\nif y:\n    import os', 'def f():\n    import os\nf()'): assert mixed(ast.parse(src)), src
    for src in ('import os\nimport re', 'x = 1', 'def f():\n    import os', 'try: import os\nexcept ImportError: os = None'): assert not mixed(ast.parse(src)), src
    assert not mixed(ast.parse('def f():\n    import os\nx = f'), exported=True) and mixed(ast.parse('import os\nx = 1'), exported=True)

@each
def test_no_cell_mixes_imports_with_code(nb):
    for marks, src, tree, _ in code_cells(nb): # all of them: hidden, exported and flagged ones too
        assert not mixed(tree, bool(marks.keys() & EXPORTS)), f'imports and other code in one cell (importlib.import_module is a way out):\n{src[:400]}'

def test_sidebar_names_every_page():
    placed = [p for _, pages in sections(CFG) for p in pages]
    assert len(placed) == len({*placed}) and {*placed} == {*NOTEBOOKS} - {CFG.nbs_path/'index.ipynb'}

def test_pages_have_names_of_their_own():
    "Without their numbers, which their addresses on the site don't have"
    taken = [page_name(p, CFG.nbs_path) for p in NOTEBOOKS]
    assert len(taken) == len({*taken}), [o for o in taken if taken.count(o) > 1]

def rows_of_the_map():
    "The home page's tables: heading of a part → {page: (its name in the row, whether a ◇ stands behind it)}"
    text = '\n'.join(c.source for c in read_nb(CFG.nbs_path/'index.ipynb').cells if c.cell_type == 'markdown')
    parts = dict(zip(*[iter(re.split(r'^### (.+)$', text.partition('## The map')[2].partition('\n## ')[0], flags=re.M)[1:])]*2))
    return {part: {page: (name, bool(mark)) for name, page, mark in re.findall(r'^\| \[(.+?)\]\((\S+?)\.ipynb\)( ◇)? \|', rows, re.M)} for part, rows in parts.items()}

def test_the_map_names_every_page():
    "In the parts and the order of the sidebar, by its title, workshop pages with their ◇: a new page is one row there and one word in docs/sidebar.toml"
    rows = rows_of_the_map()
    assert [*rows] == [title for title, _ in sections(CFG)]
    for part, pages in sections(CFG):
        wanted = {}
        for p in pages:
            title = head(read_nb(p))[0]
            wanted[p.relative_to(CFG.nbs_path).with_suffix('').as_posix()] = title.removesuffix(' ◇'), title.endswith('◇')
        assert [*rows[part].items()] == [*wanted.items()], f'the map of the home page, part {part}'

def test_readme_is_current(root):
    text, images = readme(CFG)
    assert (root/'README.md').read_text(encoding='utf-8') == text, 'run python scripts/build_readme.py'
    assert all((root/name).read_bytes() == data for name, data in images.items())

def test_readme_links_exist(root):
    text = (root/'README.md').read_text(encoding='utf-8')
    targets = [t for t in re.findall(r'\]\(([^)#\s]+)[^)]*\)', text) if '://' not in t and not t.startswith('mailto:')]
    assert not [t for t in targets if not (root/t).exists()]

def test_requirements_are_read_as_they_are_meant():
    "They are separated by spaces (setup.py and nbdev split there), so a specifier with a space would become two"
    from packaging.requirements import Requirement
    for key in ('requirements', 'hf_requirements', 'gguf_requirements', 'track_requirements', 'serve_requirements', 'dev_requirements'):
        for o in CFG.d.get(key).split(): Requirement(o)
    assert {'jupytext', 'nbdev', 'pytest'} <= {Requirement(o).name for o in CFG.d.get('dev_requirements').split()}

def test_contributing_says_what_not_to_run(root):
    text = (root/'CONTRIBUTING.md').read_text(encoding='utf-8')
    for word in ('nbdev_docs', 'nbdev_preview', 'nbdev_prepare', 'nbdev_readme', 'jupytext --update', 'scripts/build_docs.py', 'run_nbs.py --tidy'): assert word in text, word
    assert not [o for o in re.findall(r'python (scripts/[\w.]+)', text) if not (root/o).is_file()]

def test_versions_agree(): assert nanogpt_lit.__version__ == CFG.version

def test_expected_files(root):
    for name in 'LICENSE README.md CHANGELOG.md CONTRIBUTING.md data/README.md .ci/run'.split(): assert (root/name).is_file(), f'{name} is missing'
    assert 'Apache License' in (root/'LICENSE').read_text(encoding='utf-8')
