"The wheel and the source archive hold what they should, say what they should, and work when installed."
import email, os, subprocess, sys, tarfile, zipfile
import pytest
from nbdev.config import get_config

CFG = get_config()

def requirements(key): return CFG.d.get(key).split()

@pytest.fixture(scope='session')
def built(tmp_path_factory, root):
    "The archives, built from a copy of the project without what git ignores"
    src, out = tmp_path_factory.mktemp('src')/'project', tmp_path_factory.mktemp('dist')
    files = subprocess.run(['git', 'ls-files', '-z', '--cached', '--others', '--exclude-standard'], cwd=root, capture_output=True, text=True)
    if files.returncode: pytest.skip('not a git checkout')
    for name in filter(None, files.stdout.split('\0')):
        if not (root/name).exists(): continue
        (src/name).parent.mkdir(parents=True, exist_ok=True)
        (src/name).write_bytes((root/name).read_bytes())
    r = subprocess.run([sys.executable, '-m', 'build', '--no-isolation', '--outdir', str(out), str(src)], capture_output=True, text=True)
    assert r.returncode == 0, r.stdout[-3000:] + r.stderr[-3000:]
    (wheel,), (sdist,) = out.glob('*.whl'), out.glob('*.tar.gz')
    return wheel, sdist

def test_wheel_holds_the_package_and_nothing_else(built):
    names = zipfile.ZipFile(built[0]).namelist()
    inside = {n for n in names if '.dist-info/' not in n}
    files = (*CFG.lib_path.glob('*.py'), CFG.lib_path/'py.typed', *(CFG.lib_path/'figures').iterdir(), *(CFG.lib_path/'web').iterdir())
    assert inside == {f'{CFG.lib_name}/{p.relative_to(CFG.lib_path).as_posix()}' for p in files if p.stem != 'speedrun'}   # the race's stopwatch stays in the clone
    assert any(n.endswith('licenses/LICENSE') for n in names)

def test_metadata(built):
    z = zipfile.ZipFile(built[0])
    def read(name): return z.read(next(n for n in z.namelist() if n.endswith(f'.dist-info/{name}'))).decode()
    meta = email.message_from_string(read('METADATA'))
    assert (meta['Name'], meta['Version'], meta['License-Expression']) == (CFG.lib_name, CFG.version, 'Apache-2.0')
    assert meta['Requires-Python'] == '>=3.11' and meta['Summary'] == CFG.description
    assert sorted(meta.get_all('Provides-Extra')) == ['dev', 'hf', 'serve', 'track']
    core = [r for r in meta.get_all('Requires-Dist') if 'extra ==' not in r]
    assert len(core) == len(requirements('requirements')) and any(r.startswith('torch') for r in core)
    assert not any(r.startswith(('nbdev', 'sphinx', 'transformers', 'wandb', 'starlette', 'uvicorn')) for r in core)
    assert 'console_scripts' in read('entry_points.txt') and 'nanogpt-train = nanogpt_lit.config:nanogpt_train' in read('entry_points.txt')
    assert '# nanogpt_lit' in meta.get_payload()

def test_sdist_holds_all_that_tests_and_docs_need(built):
    names = {n.partition('/')[2] for n in tarfile.open(built[1]).getnames()}
    need = {'settings.ini', 'setup.py', 'pyproject.toml', 'README.md', 'LICENSE', 'nbs/00_core.ipynb', 'nbs/index.ipynb', 'docs/conf.py',
            'docs/sidebar.toml', 'docs/_static/site.css', 'scripts/build_docs.py', 'tests/conftest.py', f'{CFG.lib_name}/core.py', f'{CFG.lib_name}/figures/shared.js', f'{CFG.lib_name}/web/chat.html'}
    assert not need - names
    assert not [n for n in names if n.endswith(('.pyc', '.pt', '.bin')) or '.ipynb_checkpoints' in n or n.startswith(('runs/', '_docs/', '_proc/'))]

@pytest.fixture(scope='module')
def installed(built, tmp_path_factory):
    "A folder with the wheel in it, as pip puts it there"
    site = tmp_path_factory.mktemp('installed')/'site'
    pip = [sys.executable, '-m', 'pip', 'install', '-q', '--no-deps', '--no-index', '--target', str(site), str(built[0])]
    r = subprocess.run(pip, capture_output=True, text=True)
    assert r.returncode == 0, r.stderr
    return site

def test_wheel_works_when_installed(installed, tmp_path):
    code = (f'import sys; sys.path.insert(0, {str(installed)!r}); import nanogpt_lit, nanogpt_lit.config as c\n'
            'print(nanogpt_lit.__file__); sys.exit(c.nanogpt_train(["--help"]))')
    r = subprocess.run([sys.executable, '-I', '-c', code], capture_output=True, text=True, cwd=tmp_path)
    assert r.returncode == 0 and r.stdout.startswith(str(installed)), r.stdout + r.stderr

def test_the_stopwatch_stays_in_the_clone(installed, tmp_path):
    "`nanogpt-bench` explains itself everywhere, and runs where its module and its peer are"
    for words, code, said in ((['--help'], 0, '--peer'), (['--only'], 1, 'clone the repository')):
        alone = f'import sys; sys.meta_path[:] = [o for o in sys.meta_path if "editable" not in str(o)]; sys.path.insert(0, {str(installed)!r})'
        run = f'{alone}; import nanogpt_lit.config as c; sys.exit(c.nanogpt_bench({words!r}))'
        r = subprocess.run([sys.executable, '-I', '-c', run], capture_output=True, text=True, cwd=tmp_path)
        assert r.returncode == code and said in r.stdout + r.stderr and 'Traceback' not in r.stderr, r.stdout + r.stderr

WITH_NEWEST = """
import importlib, pathlib, pkgutil, fastcore, nanogpt_lit
print('fastcore', fastcore.__version__, fastcore.__file__)
for m in pkgutil.iter_modules(nanogpt_lit.__path__): importlib.import_module(f'nanogpt_lit.{m.name}')
from nanogpt_lit.config import nanogpt_train
assert nanogpt_train(['--help']) == 0
pathlib.Path('a.txt').write_text('To be, or not to be, that is the question. '*50)
small = '--n_layer 1 --n_head 1 --n_embd 8 --block_size 8 --batch_size 2 --tokenizer char --device cpu --num_threads 1'
assert nanogpt_train(['--input', 'a.txt', '--out_dir', 'run', '--max_steps', '3', *small.split()]) == 0
assert pathlib.Path('run/model_00003.pt').is_file()
"""

def test_with_the_newest_fastcore(tmp_path, root):
    "Users get the newest one; here an older one is installed, because nbdev needs it (settings.ini)"
    pip = [sys.executable, '-m', 'pip', 'install', '-q', '--no-deps', '--retries', '1', '--disable-pip-version-check', '--target', str(tmp_path/'newest'), 'fastcore']
    r = subprocess.run(pip, capture_output=True, text=True, timeout=120)
    if r.returncode: pytest.skip(f'the newest fastcore could not be installed beside this one ({r.stderr.strip().splitlines()[-1]})')
    env = os.environ | {'PYTHONPATH': os.pathsep.join([str(tmp_path/'newest'), str(root)])}
    r = subprocess.run([sys.executable, '-c', WITH_NEWEST], capture_output=True, text=True, cwd=tmp_path, env=env, timeout=120)
    assert r.returncode == 0 and f'{tmp_path}/newest' in r.stdout.splitlines()[0], r.stdout[-3000:] + r.stderr[-3000:]
    assert int(r.stdout.split()[1].partition('.')[0]) >= 2
