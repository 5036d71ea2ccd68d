"""Whole runs as a shell sees them: bad input, a run killed at any instant, a run asked to stop, a full disk.

What these tests train is tiny; what they look at is whether a command does what it says and leaves nothing half-written.
"""
import argparse, json, os, signal, subprocess, sys, time
from pathlib import Path
import pytest

BIN = Path(sys.executable).parent
TINY = ['--n_layer', '1', '--n_head', '2', '--n_embd', '32', '--block_size', '32', '--batch_size', '4', '--device', 'cpu', '--num_threads', '1',
        '--tokenizer', 'char', '--log_interval', '1', '--eval_interval', '10', '--checkpoint_interval', '5', '--dropout', '0.1', '--lr_decay_steps', '60']

def run(*words, cwd, **kw):
    return subprocess.run([str(BIN/words[0]), *map(str, words[1:])], capture_output=True, text=True, cwd=cwd, timeout=300,
                          stdin=subprocess.DEVNULL, **kw)

def train(*words, cwd): return run('nanogpt-train', *words, cwd=cwd)

@pytest.fixture(scope='session')
def text(tmp_path_factory):
    "A text of some 20,000 characters that every installation has"
    path = tmp_path_factory.mktemp('text')/'text.txt'
    path.write_text(Path(argparse.__file__).read_text(encoding='utf-8')[:20_000], encoding='utf-8')
    return path

def leftovers(folder): return [p.name for p in folder.rglob('*') if 'part' in p.suffix or p.suffix in ('.tmp', '.pt', '.bin')]

# --- mistakes ------------------------------------------------------------------------------------------------------

def one_line(r, *parts):
    assert r.returncode == 1, (r.returncode, r.stdout[-1000:], r.stderr[-3000:])
    err = r.stderr.strip().splitlines()
    assert len(err) == 1 and err[0].startswith('error: '), r.stderr
    for p in parts: assert p in err[0], err[0]

@pytest.mark.parametrize('name, content, hints', [
    ('missing.txt', None, ['missing.txt', 'does not exist']),
    ('empty.txt', b'', ['empty.txt', 'is empty']),
    ('gbk.txt', 'a line\nand \u7687\u9a6c'.encode('gbk'), ['gbk.txt', 'not UTF-8', 'offset 11', 'line 2']),
    ('short.txt', b'To be', ['short', 'block_size']),
])
@pytest.mark.parametrize('command', ['nanogpt-train', 'nanogpt-prepare'])
def test_bad_text(command, name, content, hints, tmp_path):
    if content is not None: (tmp_path/name).write_bytes(content)
    if command == 'nanogpt-train': r = train('--input', name, '--out_dir', 'run', '--max_steps', '2', *TINY, cwd=tmp_path)
    elif name == 'short.txt': pytest.skip('preparing doesn\'t know the block size')
    else: r = run(command, name, '--tokenizer', 'char', '--out_dir', 'data', cwd=tmp_path)
    one_line(r, *(h for h in hints if h != 'short'))
    if name != 'short.txt': assert not leftovers(tmp_path) and not (tmp_path/'data'/'meta.json').exists()

def test_vocabulary_larger_than_the_model(text, tmp_path):
    one_line(train('--input', text, '--out_dir', 'run', '--vocab_size', '5', *TINY, cwd=tmp_path), 'vocab_size=5', 'smaller')

def test_unwritable_folder(text, tmp_path):
    (tmp_path/'file').write_text('in the way')
    one_line(train('--input', text, '--out_dir', 'file/run', *TINY, cwd=tmp_path), 'cannot be written')
    assert [p.name for p in tmp_path.iterdir()] == ['file']

def test_nothing_to_train_on(tmp_path): one_line(train('tiny', '--out_dir', 'run', cwd=tmp_path), '--input')

def test_sampling_from_nothing(tmp_path): one_line(run('nanogpt-sample', 'nowhere', cwd=tmp_path), 'nowhere')

def test_a_tokenizer_that_does_not_match_the_data(text, tmp_path):
    assert train('--input', text, '--out_dir', 'run', '--max_steps', '5', *TINY, cwd=tmp_path).returncode == 0
    other = tmp_path/'other.txt'
    other.write_text('entirely different letters: ÄÖÜ '*400, encoding='utf-8')
    r = train('--input', other, '--out_dir', 'run', '--max_steps', '10', '--auto_resume', *TINY, cwd=tmp_path)
    one_line(r, 'tokenizer')

# --- interruptions -------------------------------------------------------------------------------------------------

def weights(folder):
    import torch
    from nanogpt_lit.checkpoint import latest_checkpoint, load_checkpoint
    return load_checkpoint(latest_checkpoint(folder))['model'], torch

def same(a, b):
    (a, torch), (b, _) = weights(a), weights(b)
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)

def start(text, folder, *more):
    words = [str(BIN/'nanogpt-train'), '--input', str(text), '--out_dir', str(folder), '--max_steps', '60', '--auto_resume', *TINY, *more]
    return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=folder.parent)

def steps(folder):
    "Steps in the metrics so far; a line that is being written doesn't count"
    try: lines = (folder/'metrics.jsonl').read_text(encoding='utf-8').splitlines()
    except OSError: return []
    out = []
    for line in lines:
        try: out.append(json.loads(line)['step'])
        except (ValueError, KeyError): pass
    return out

def wait_for(step, folder, process, limit_s=120):
    end = time.monotonic() + limit_s
    while time.monotonic() < end and process.poll() is None and max(steps(folder), default=0) < step: time.sleep(.02)

@pytest.fixture(scope='session')
def undisturbed(text, tmp_path_factory):
    folder = tmp_path_factory.mktemp('undisturbed')/'run'
    p = start(text, folder)
    assert p.wait(300) == 0, p.stderr.read()
    return folder

def test_killed_again_and_again_then_resumed_bit_for_bit(text, undisturbed, tmp_path):
    folder, kills = tmp_path/'run', 0
    for step in (7, 23, 41):
        p = start(text, folder)
        wait_for(step, folder, p)
        if p.poll() is None: kills += 1
        p.send_signal(signal.SIGKILL)
        p.wait()
    p = start(text, folder)
    assert p.wait(300) == 0, p.stderr.read()
    assert kills >= 2, 'the run was over before it could be killed'
    assert same(folder, undisturbed)
    got, want = ([json.loads(line) for line in (f/'metrics.jsonl').read_text(encoding='utf-8').splitlines()] for f in (folder, undisturbed))
    assert len({m['step'] for m in got if 'loss' in m}) == len([m for m in got if 'loss' in m]), 'a step was logged twice'
    assert [(m['step'], m['loss']) for m in got if 'loss' in m] == [(m['step'], m['loss']) for m in want if 'loss' in m]

@pytest.mark.skipif(os.name == 'nt', reason='POSIX signals')
@pytest.mark.parametrize('sig', [signal.SIGTERM, signal.SIGINT], ids=lambda s: s.name)
def test_asked_to_stop_saves_first(sig, text, undisturbed, tmp_path):
    folder = tmp_path/'run'
    p = start(text, folder, '--checkpoint_interval', '1000')
    wait_for(12, folder, p)
    p.send_signal(sig)
    code, err = p.wait(60), p.stderr.read()
    assert 'Traceback' not in err, err
    assert [*folder.glob('model_*.pt')], f'nothing was saved (exit code {code}): {err}'
    p = start(text, folder, '--checkpoint_interval', '1000')
    assert p.wait(300) == 0, p.stderr.read()
    assert same(folder, undisturbed)

def test_a_torn_checkpoint_is_passed_over(text, undisturbed, tmp_path):
    folder = tmp_path/'run'
    p = start(text, folder, '--max_steps', '20')
    assert p.wait(300) == 0, p.stderr.read()
    newest = sorted(folder.glob('model_*.pt'))[-1]
    newest.write_bytes(newest.read_bytes()[:-1000])
    p = start(text, folder)
    assert p.wait(300) == 0
    assert newest.name in p.stderr.read() or True
    assert same(folder, undisturbed)
