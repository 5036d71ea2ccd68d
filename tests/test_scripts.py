"The scripts still do their work: what benchmarks print is for people, but a script that nobody starts rots."
import json, os, re, shutil, subprocess, sys
from pathlib import Path
import nbformat, pytest
import run_nbs, sweep
from harness import run_argv
from nanogpt_lit.data import prepare

SCRIPTS = Path(__file__).parent.parent/'scripts'
BENCH = Path(__file__).parent.parent/'bench'

def test_tokenizer_benchmark_compares_the_merges():
    pytest.importorskip('tokenizers', reason='the extra hf is not installed')
    r = run_argv([sys.executable, str(BENCH/'tokenizer.py'), '--mb', '1', '--vocab', '1k', '--rounds', '1', '--no-encode',
                        '--engines', 'hf', 'ours'], capture_output=True, text=True, timeout=300)
    assert r.returncode == 0, r.stderr[-3000:]
    agreement = [line for line in r.stdout.splitlines() if 'merges are the same' in line]
    assert agreement and not [line for line in agreement if 'NOT a tie' in line], r.stdout

def test_loader_benchmark_takes_only_the_function(tmp_path):
    (tmp_path/'train.py').write_text("raise SystemExit('never run')\ndef get_batch(split):\n    data = np.memmap(os.path.join(data_dir, 'train.bin'), np.uint16, 'r')\n"
                                     "    return torch.from_numpy(data[:block_size].astype(np.int64))\n")
    r = run_argv([sys.executable, str(BENCH/'loader.py'), '--peer', str(tmp_path), '--rounds', '1', '--mb', '1'], capture_output=True, text=True, timeout=120)
    assert r.returncode == 0 and r.stdout.count('four shards') == 3, r.stderr[-2000:]

def test_step_benchmark_explains_itself():
    r = run_argv([sys.executable, str(BENCH/'step.py'), '--help'], capture_output=True, text=True, timeout=120)
    assert r.returncode == 0 and '--peer' in r.stdout, r.stderr[-2000:]

def test_loop_benchmark_does_the_same_updates():
    r = run_argv([sys.executable, str(BENCH/'loop.py'), '--steps', '20', '--chunk', '5', '--layers', '1', '--width', '32'], capture_output=True, text=True, timeout=120)
    assert r.returncode == 0 and 'the same weights at the end: True' in r.stdout, r.stderr[-2000:]

def test_a_sweep_goes_on_where_it_was_stopped(tmp_path, monkeypatch):
    prepare(['To be or not to be. '*200], tmp_path/'data', tokenizer='char', progress=False)
    few = [sweep.settings(width=16, batch=4, tokens=1024, rate=rate) for rate in (1e-3, 1e-2)]
    monkeypatch.setattr(sweep, 'sweeps', lambda: {'rates': few})
    monkeypatch.setattr(sys, 'argv', ['sweep.py', 'rates', '--data', str(tmp_path/'data'), '--output', str(tmp_path)])
    def log(): return [json.loads(line) for line in (tmp_path/'rates.jsonl').read_text().splitlines()]
    sweep.main()
    whole = log()
    assert [(row['seed'], row['rate'], row['steps']) for row in whole] == [(seed, rate, 4) for seed in sweep.SEEDS for rate in (1e-3, 1e-2)]
    (tmp_path/'rates.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in whole[:4]))
    sweep.main()
    assert [row['loss'] for row in log()] == [row['loss'] for row in whole]          # the same losses, and no run twice

def displayed(**data):
    "An output of a cell; `widget` and the like stand for their long names"
    names = dict(widget='application/vnd.jupyter.widget-view+json', html='text/html', plain='text/plain', png='image/png')
    return nbformat.v4.new_output('display_data', {names[k]: v for k, v in data.items()})

def test_no_live_widget_is_stored(tmp_path, monkeypatch):
    cells = [nbformat.v4.new_code_cell('for i in tqdm(range(9)): print(i)'), nbformat.v4.new_markdown_cell('Prose.'), nbformat.v4.new_code_cell('explore(tok)')]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path := tmp_path/'page.ipynb')
    said = [nbformat.v4.new_output('stream', name='stdout', text=o) for o in ('0', '1')]
    def bar(): return displayed(widget={'model_id': 'x'}, plain='  0%|')
    def execute(self): # what a kernel would answer
        self.nb.cells[0].outputs = [bar(), said[0], bar(), said[1], displayed(png='iVBO')]
        self.nb.cells[2].outputs = [displayed(widget={'model_id': 'y'}, html='<b>1</b>', plain='Explorer')]
        self.nb.metadata['widgets'] = {'application/vnd.jupyter.widget-state+json': {'state': {}}}
    monkeypatch.setattr(run_nbs.Client, 'execute', execute)
    run_nbs.run(path, frozenset())
    stored = nbformat.read(path, as_version=4)
    first, _, last = stored.cells
    assert 'widgets' not in stored.metadata
    assert [o.get('text') or [*o.data] for o in first.outputs] == ['01', ['image/png']] # what was printed around a bar is one text again
    assert [{*o.data} for o in last.outputs] == [{'text/html', 'text/plain'}]           # a widget that can be shown without a kernel

def test_tidying_runs_nothing(tmp_path, monkeypatch):
    cell = nbformat.v4.new_code_cell('1/0', outputs=[displayed(widget={'model_id': 'x'}, plain='0%|'), displayed(plain='kept')])
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), path := tmp_path/'page.ipynb')
    monkeypatch.setattr(run_nbs, 'chosen', lambda nbs, names: [path])
    monkeypatch.setattr(sys, 'argv', ['run_nbs.py', '--tidy'])
    run_nbs.main()
    assert [o.data for o in nbformat.read(path, as_version=4).cells[0].outputs] == [{'text/plain': 'kept'}]

def test_what_a_cell_needs():
    "Cells that make or change what it uses, and no others: not one that only prints, not an older meaning of a name, not a local name that is called alike"
    sources = ['import os', 'x = 1', 'x = 2', 'class A: pass', '@patch\ndef f(self: A): return y', 'y = 3', 'print(x)', 'def g():\n    x = y\n    return os', 'A.z = 1', 'w = [x for x in (1, 2)]', None, 'A().f(), x']
    assert run_nbs.needed(sources, 11) == [2, 3, 4, 5, 8]
    assert run_nbs.needed([*sources[:11], 'g()'], 11) == [0, 5, 7]
    assert run_nbs.needed(['d = {}', "d['a'] = 1", 'd.update(b=2)', 'd |= {}', 'd'], 4) == [0, 1, 2, 3]
    assert run_nbs.needed(['class T: pass', 'x = T()', '@patch\ndef m(self: T): pass', 'x.m()'], 3) == [0, 1, 2] # a class that grows after something was made of it

def test_one_cell_alone(tmp_path, monkeypatch):
    cells = [nbformat.v4.new_code_cell(o) for o in ('a = 1', '1/0', 'b = a + 1', 'a, b')]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path := tmp_path/'page.ipynb')
    ran = []
    def execute(self):
        ran.extend(c.source for c in self.nb.cells)
        self.nb.cells[-1].outputs = [displayed(plain='(1, 2)')]
    monkeypatch.setattr(run_nbs.Client, 'execute', execute)
    count, outputs = run_nbs.run_cell(path, cells[-1].id[:6], frozenset())
    assert ran == ['a = 1', 'b = a + 1', 'a, b'] and count == 2 and run_nbs.shown(outputs) == '(1, 2)'
    assert [o.data for o in nbformat.read(path, as_version=4).cells[-1].outputs] == [{'text/plain': '(1, 2)'}]

def test_prepare_knows_the_tests_of_a_page(root):
    import prepare
    nbs = prepare.get_config().nbs_path
    assert prepare.modules(nbs/'20_attention.ipynb') == {'attention'} and prepare.modules(nbs/'98_commands.ipynb') == {'__main__', 'config'}
    assert 'test_generate.py' in prepare.tests_of([nbs/'23_generate.ipynb'], root/'tests') and prepare.tests_of([nbs/'98_commands.ipynb'], root/'tests') == []

# a setting of one's own, as CONTRIBUTING.md tells it ("Adding an option"): its two blocks of code are run here, in a copy
OPTION = re.compile(r'## Adding an option\n(.*?)(?=\n## )', re.S)

def test_adding_an_option(root, tmp_path):
    "The new line in a copy of a page, the export, and the flag on the help page, with its default and its limits"
    text = OPTION.search((root/'CONTRIBUTING.md').read_text(encoding='utf-8'))[1]
    before, after = re.findall(r'```python\n(.*?)```', text, re.S)[:2]
    for name in ('nbs', 'nanogpt_lit'): shutil.copytree(root/name, tmp_path/name, ignore=shutil.ignore_patterns('__pycache__', '.*'))
    for name in ('settings.ini', 'setup.py', 'pyproject.toml'): shutil.copy(root/name, tmp_path/name)
    nb = nbformat.read(page := tmp_path/'nbs'/'40a_groups.ipynb', as_version=4)
    places = [c for c in nb.cells if c.cell_type == 'code' and before.strip('\n') in c.source]
    assert len(places) == 1, f'CONTRIBUTING.md quotes a line that is not on the page: {before}'
    places[0].source = places[0].source.replace(before.strip('\n'), after.strip('\n'))
    nbformat.write(nb, page)
    env = {k: v for k, v in os.environ.items() if k != 'PYTHONPATH'} | {'PYTHONPATH': str(tmp_path), 'PYTHONDONTWRITEBYTECODE': '1'}
    def shell(*words): return subprocess.run([*words], capture_output=True, text=True, cwd=tmp_path, env=env, timeout=120)
    r = shell(str(Path(sys.executable).parent/'nbdev_export'))
    assert r.returncode == 0, r.stderr[-2000:]
    help_page = shell(sys.executable, '-m', 'nanogpt_lit', 'train', '--help').stdout
    assert '--warmup_power' in help_page and '[1.0]' in next(o for o in help_page.splitlines() if '--warmup_power' in o), help_page[-3000:]
    r = shell(sys.executable, '-m', 'nanogpt_lit', 'train', '--warmup_power', 'steep')
    assert r.returncode == 1 and "warmup_power='steep': expected a number" in r.stderr, r.stderr
