"""What the tests share. `pytest tests` runs all of them; `--flags "slow network"` adds the notebook cells so flagged.

The tests of the code are in the notebooks, beside what they test. Here is only what cannot live there: running the
notebooks, the rules of the book, the commands as a shell sees them, and packaging.
"""
import os, signal, sys
from pathlib import Path
import pytest
from nbdev.config import get_config

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT/'scripts'))
os.environ.setdefault('OMP_NUM_THREADS', '1') # many small matrices: one thread is faster, and two tests may run side by side
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN: # a shell's background jobs ignore Ctrl-C, and so would every command that a test sends it to
    signal.signal(signal.SIGINT, signal.default_int_handler)

def pytest_addoption(parser):
    parser.addoption('--flags', default='', help='notebook flags to run as well, e.g. --flags "slow cuda"')

@pytest.fixture(scope='session')
def cfg(): return get_config()

@pytest.fixture(scope='session')
def root(): return ROOT

@pytest.fixture(scope='session')
def shared_data():
    "Folder with larger texts than the repository holds (tinyshakespeare.txt, …): beside the checkout, or NANOGPT_LIT_SHARED"
    for folder in (os.environ.get('NANOGPT_LIT_SHARED'), ROOT/'shared', ROOT.parent/'shared'):
        if folder and (Path(folder)/'data').is_dir(): return Path(folder)/'data'
    pytest.skip('no folder shared/data beside the checkout (or set NANOGPT_LIT_SHARED)')

def pytest_terminal_summary(terminalreporter):
    "Count the checks inside the notebooks, which pytest can't see"
    from book_stats import notebooks, stats
    passed = {r.nodeid.partition('[')[2].rstrip(']') for r in terminalreporter.stats.get('passed', []) if 'test_notebook[' in r.nodeid}
    if not passed: return
    done = [stats(p) for p in notebooks(get_config().nbs_path) if p.relative_to(get_config().nbs_path).as_posix() in passed]
    terminalreporter.write_line(f"notebooks: {len(done)} run, {sum(s['cells'] for s in done):,} cells, {sum(s['checks'] for s in done):,} checks in them")
