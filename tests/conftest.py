"""What the tests share. `pytest tests` runs all of them; `--flags "slow network"` adds the notebook cells so flagged.

The tests of the code are in the notebooks, beside what they test. Here is only what cannot live there: running the
notebooks, the rules of the book, the commands as a shell sees them, and packaging.
"""
import gc, os, signal, sys
from pathlib import Path
import nanogpt_lit  # before all else: like every command, it says how long torch's threads wait for each other
import pytest
from nbdev.config import get_config

gc.disable()    # until all is collected: what is imported stays, and a search for garbage in it takes a quarter of the time
ROOT = Path(__file__).parent.parent
if not any('network' in word for word in sys.argv): os.environ.setdefault('HF_HUB_OFFLINE', '1')  # read once, by whoever loads it first: nobody waits for a hub
sys.path.insert(0, str(ROOT/'scripts'))
os.environ.setdefault('OMP_NUM_THREADS', '1') # many small matrices: one thread is faster, and two tests may run side by side
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN: # a shell's background jobs ignore Ctrl-C, and so would every command that a test sends it to
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Left out of `-m quick`: whole commands in processes of their own (each loads torch), kills, random calls, the site, archives, GPUs
SLOW = '''
    test_commands test_data test_distributed test_evaluate test_faults test_finetune test_first_commands test_five_guides test_fuzz test_gpu_check test_gpu_model test_gpu_ready
    test_hostile_data test_hostile_models test_hostile_runs test_hostile_tuning test_hostile_watching test_interop test_kills test_live test_loader test_memory test_nursery test_packaging test_right_values
    test_reference test_runs test_search test_serve test_site test_speedrun test_tokenizer_commands test_watching'''.split()

LONG = {'test_wrong_value_anywhere', 'test_merges_of_tinyshakespeare', 'test_gpt2_ids', 'test_many_special_tokens', 'test_a_token_of_a_hundred_thousand_bytes', # half a minute to a few seconds each
        'test_loop_benchmark_does_the_same_updates', 'test_loader_benchmark_takes_only_the_function', 'test_tokenizer_benchmark_compares_the_merges', 'test_step_benchmark_explains_itself'}

def pytest_configure(config):
    config.addinivalue_line('markers', 'quick: rules, tests in this process, pages that differ from main')

def is_quick(item, changed):
    "Does a test belong to `-m quick`?"
    name = Path(str(item.fspath)).stem
    if name == 'test_notebooks': return item.callspec.params['nb'] in changed
    return name not in SLOW and item.originalname not in LONG

@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    "Marks what is quick. Pages, then slow files, then the rest: where several run at a time, the last minutes belong to short tests"
    from prepare import differing
    changed = {*differing(get_config())} if config.getoption('markexpr') else set()
    for item in items:
        if is_quick(item, changed): item.add_marker('quick')
    if parallel(config): items.sort(key=lambda item: (Path(str(item.fspath)).stem != 'test_notebooks', Path(str(item.fspath)).stem not in SLOW))

def parallel(config): return bool(getattr(config.option, 'numprocesses', None)) or 'PYTEST_XDIST_WORKER' in os.environ

def pytest_collection_finish(session):
    "What is there now is no garbage, and nobody looks there again. One process at a time: the pages begin now, beside the tests that come before theirs"
    gc.freeze()
    gc.enable()
    pages = [i for i in session.items if Path(str(i.fspath)).stem == 'test_notebooks' and hasattr(i, 'callspec')]
    if pages and not parallel(session.config) and not session.config.option.collectonly:
        import test_notebooks
        test_notebooks.begin([i.callspec.params['nb'] for i in pages], session.config.getoption('--flags'))
        session.items[:] = [i for i in session.items if i not in pages] + pages[::-1]

def pytest_sessionfinish(session):
    "Pages that nobody waits for any more aren't started"
    import test_notebooks
    test_notebooks.end()

def pytest_addoption(parser):
    parser.addoption('--flags', default='', help='notebook flags to run as well, e.g. --flags "slow cuda"')

@pytest.fixture(autouse=True)
def surroundings():
    "What a test leaves behind in the environment would be there for all that follow, and many of their processes couldn't come from the nursery"
    from nursery import same_environment
    with same_environment(): yield

@pytest.fixture(scope='session')
def shared(tmp_path_factory):
    "A folder that all processes of a test run have in common"
    base = tmp_path_factory.getbasetemp()
    return base.parent if 'PYTEST_XDIST_WORKER' in os.environ else base

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
