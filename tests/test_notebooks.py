"Every notebook runs from top to bottom through nbdev's own tester, two at a time; pytest reports and counts them."
import os, subprocess, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import pytest
from nbdev.config import get_config
from book_stats import notebooks

CFG = get_config()
NOTEBOOKS = notebooks(CFG.nbs_path)
TIMEOUT_S = 900

def run(path, flags):
    "Test one notebook in a process of its own: (exit code, what it wrote)"
    cmd = [str(Path(sys.executable).parent/'nbdev_test'), '--path', str(path), '--n_workers', '0']
    if flags: cmd += ['--flags', flags]
    env = {**os.environ, 'OMP_NUM_THREADS': '1', 'MPLBACKEND': 'agg'}
    try: r = subprocess.run(cmd, capture_output=True, text=True, cwd=CFG.config_path, env=env, timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired: return 1, f'{path.name} took longer than {TIMEOUT_S} s'
    return r.returncode, r.stdout + r.stderr

@pytest.fixture(scope='session')
def results(request):
    "A future per chosen notebook, all of them started at once on two workers"
    chosen = [i.callspec.params['nb'] for i in request.session.items if i.originalname == 'test_notebook']
    with ThreadPoolExecutor(2) as pool:
        yield {nb: pool.submit(run, nb, request.config.getoption('--flags')) for nb in chosen}
        pool.shutdown(cancel_futures=True)

@pytest.mark.parametrize('nb', NOTEBOOKS, ids=lambda p: p.relative_to(CFG.nbs_path).as_posix())
def test_notebook(nb, results):
    code, text = results[nb].result()
    assert code == 0, text[-6000:]
