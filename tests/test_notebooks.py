"""Every notebook runs from top to bottom through nbdev's own tester; pytest reports and counts them.

With -n, several run at a time. Without it they begin when the tests have been collected (conftest.py), in the background.
"""
import os, subprocess, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import pytest
from nbdev.config import get_config
from book_stats import notebooks
from harness import run_argv

CFG = get_config()
NOTEBOOKS = notebooks(CFG.nbs_path)
TIMEOUT_S = 900

def run(path, flags):
    "Test one notebook in a process of its own, out of the pages' nursery: (exit code, what it wrote)"
    cmd = [str(Path(sys.executable).parent/'nbdev_test'), '--path', str(path), '--n_workers', '0']
    if flags: cmd += ['--flags', flags]
    env = {**os.environ, 'OMP_NUM_THREADS': '1', 'MPLBACKEND': 'agg'}
    try: r = run_argv(cmd, capture_output=True, text=True, cwd=CFG.config_path, env=env, timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired: return 1, f'{path.name} took longer than {TIMEOUT_S} s'
    return r.returncode, r.stdout + r.stderr

BEGUN, POOL = {}, ThreadPoolExecutor(max(1, len(os.sched_getaffinity(0)) - 1 if hasattr(os, 'sched_getaffinity') else 1))

def begin(paths, flags):
    "Run these notebooks in the background, as many at a time as there are other processors"
    for path in paths: BEGUN[path] = POOL.submit(run, path, flags)

def end(): POOL.shutdown(wait=False, cancel_futures=True)

@pytest.mark.parametrize('nb', NOTEBOOKS, ids=lambda p: p.relative_to(CFG.nbs_path).as_posix())
def test_notebook(nb, request):
    # without -n: the tests get here when all others are done, and take the pages from the last one on; what has not begun, they run themselves
    begun = BEGUN.get(nb)
    code, text = begun.result() if begun and not begun.cancel() else run(nb, request.config.getoption('--flags'))
    assert code == 0, text[-6000:]
