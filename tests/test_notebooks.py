"Every notebook runs from top to bottom through nbdev's own tester; pytest reports and counts them, and runs several at a time with -n."
import os, subprocess, sys
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

@pytest.mark.parametrize('nb', NOTEBOOKS, ids=lambda p: p.relative_to(CFG.nbs_path).as_posix())
def test_notebook(nb, request):
    code, text = run(nb, request.config.getoption('--flags'))
    assert code == 0, text[-6000:]
