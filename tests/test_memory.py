"""Memory as a shell sees it: a run under a hard limit, a model that no machine can hold, a batch size left to the machine, a plan."""
import argparse, os, sys
from pathlib import Path
import pytest
import harness
from harness import run_argv

SMALL = ['tiny', '--tokenizer', 'char', '--device', 'cpu', '--num_threads', '1', '--eval_interval', '0', '--out_dir', 'run']

@pytest.fixture
def here(tmp_path):
    (tmp_path/'text.txt').write_text(Path(argparse.__file__).read_text(encoding='utf-8')[:20_000], encoding='utf-8')
    return tmp_path

def run(*words, cwd): return harness.run(*words, cwd=cwd, env=os.environ | {'OMP_NUM_THREADS': '1'})

LIMITED = '''
import resource, sys
from nanogpt_lit.config import nanogpt_train
with open('/proc/self/statm') as f: used = int(f.read().split()[0])*resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 6*10**8,)*2)
sys.exit(nanogpt_train())
'''

def train_in_little(*words, cwd):
    "`nanogpt-train` that may have 600 MB of addresses more than its imports take"
    return run_argv([sys.executable, '-c', LIMITED, *words], cwd=cwd, capture_output=True, text=True, timeout=300)

@pytest.mark.skipif(sys.platform != 'linux', reason='needs a limit on the address space')
def test_out_of_memory_is_one_sentence_and_what_was_saved_is_good(here):
    words = [*SMALL, '--input', 'text.txt', '--checkpoint_interval', '5', '--n_layer', '4']
    r = run('nanogpt-train', *words, '--max_steps', '10', cwd=here)
    assert r.returncode == 0, r.stderr
    r = train_in_little(*words, '--auto_resume', '--max_steps', '20', '--batch_size', '1000', cwd=here)
    assert r.returncode == 1, (r.returncode, r.stderr[-2000:])
    err = r.stderr.strip().splitlines()[-1]
    assert err.startswith('error: out of memory on cpu') and 'Traceback' not in r.stderr
    for part in ('activations', '--batch_size 500 --grad_accum_steps 2', 'model_00010.pt'): assert part in err, err
    r = run('nanogpt-train', *words, '--auto_resume', '--max_steps', '20', '--batch_size', '8', cwd=here)
    assert r.returncode == 0 and (here/'run'/'model_00020.pt').exists(), r.stderr

@pytest.mark.parametrize('more', [[], ['--batch_size', 'auto']], ids=['given', 'auto'])
def test_a_model_that_no_machine_holds_is_refused_at_once(here, more):
    r = run('nanogpt-train', *SMALL, '--input', 'text.txt', '--n_embd', '65536', '--n_layer', '64', *more, cwd=here)
    assert r.returncode == 1 and r.stderr.startswith('error: weights, gradients and optimiser states of the model need') and 'too much' in r.stderr, r.stderr
    assert not (here/'run').exists()

def test_the_batch_that_was_found_is_in_the_settings_of_the_run(here):
    r = run('nanogpt-train', *SMALL, '--input', 'text.txt', '--batch_size=auto', '--max_steps', '2', cwd=here)
    assert r.returncode == 0 and 'batch size: a step of 8 sequences as 1 x 8' in r.stdout, (r.stdout[-1000:], r.stderr)
    saved = (here/'run'/'config.toml').read_text(encoding='utf-8')
    assert 'batch_size = 8' in saved and 'auto_batch = true' not in saved

@pytest.mark.parametrize('words, said', [(['--memory', 'plenty'], 'expected a size such as 24GB'), (['--memory', '1MB', '--n_embd', '256'], 'too much'), (['--dropout', '2'], 'dropout')])
def test_a_plan_that_cannot_be(here, words, said):
    r = run('nanogpt-plan', 'tiny', '--device', 'cpu', '--no-measure', *words, cwd=here)
    assert r.returncode == 1 and said in r.stderr and len(r.stderr.strip().splitlines()) == 1, r.stderr

def test_a_plan_leaves_nothing_behind(here):
    before = sorted(here.iterdir())
    r = run('nanogpt-plan', 'tiny', '--device', 'cpu', cwd=here)
    assert r.returncode == 0 and 'tokens/s' in r.stdout and 'parameters' in r.stdout, r.stderr
    assert sorted(here.iterdir()) == before
