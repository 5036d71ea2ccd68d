"""Whole runs as a shell sees them: bad input, a run killed at any instant, a run asked to stop, a full disk.

What these tests train is tiny; what they look at is whether a command does what it says and leaves nothing half-written.
"""
import argparse, json, os, re, signal, subprocess, time
from pathlib import Path
import pytest
import harness
from harness import BIN, SLOW, Popen, quickstart_words, run, run_argv, steps

TINY = ['--n_layer', '1', '--n_head', '2', '--n_embd', '32', '--block_size', '32', '--batch_size', '4', '--device', 'cpu', '--num_threads', '1',
        '--tokenizer', 'char', '--log_interval', '1', '--eval_interval', '10', '--checkpoint_interval', '5', '--dropout', '0.1', '--lr_decay_steps', '60']

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

@pytest.mark.parametrize('command', [['nanogpt-train', '--out_dir', 'run', '--max_steps', '2', *TINY, '--input'],
                                     ['nanogpt-prepare', '--out_dir', 'data', '--tokenizer', 'char', '--input']], ids=lambda c: c[0])
@pytest.mark.parametrize('name, content, hints', [
    ('missing.txt', None, ['missing.txt', 'does not exist']),
    ('empty.txt', b'', ['empty.txt', 'is empty']),
    ('gbk.txt', 'a line\nand \u7687\u9a6c'.encode('gbk'), ['gbk.txt', 'not UTF-8', 'offset 11', 'line 2']),
], ids=lambda o: o if isinstance(o, str) else '')
def test_bad_text(command, name, content, hints, tmp_path):
    if content is not None: (tmp_path/name).write_bytes(content)
    one_line(run(*command, name, cwd=tmp_path), *hints)
    assert not leftovers(tmp_path) and not [*tmp_path.rglob('meta.json')]

def test_text_shorter_than_a_block(tmp_path):
    (tmp_path/'short.txt').write_text('To be')
    one_line(train('--input', 'short.txt', '--out_dir', 'run', *TINY, cwd=tmp_path), 'block_size')

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
    return Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=folder.parent)

def wait_for(step, folder, process, limit_s=120): harness.wait_for(lambda: max(steps(folder), default=0) >= step, process, limit_s, may_end=True)

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
    assert newest.name in p.stderr.read(), 'the torn file was passed over without a word'
    assert same(folder, undisturbed)

# --- going on with another length, elsewhere, or not at all -------------------------------------------------------

@pytest.fixture
def here(text, tmp_path, monkeypatch, capsys):
    """`here('--max_steps', 20, out='a')` trains in this process, which is quicker than starting one: (exit code, words, run folder)"""
    from nanogpt_lit.config import nanogpt_train
    monkeypatch.chdir(tmp_path)
    small = ['--n_layer', '1', '--n_head', '2', '--n_embd', '16', '--block_size', '16', '--batch_size', '4', '--device', 'cpu', '--num_threads', '1',
             '--tokenizer', 'char', '--log_interval', '5', '--eval_interval', '20', '--eval_iters', '2']
    def go(*words, out='run', new=True, source=text):
        capsys.readouterr()
        code = nanogpt_train([*([*small, '--input', str(source)] if new else []), '--out_dir', out, *map(str, words)])
        said = capsys.readouterr()
        return code, said.out + said.err, tmp_path/out
    return go

def rows(run): return [json.loads(line) for line in (run/'metrics.jsonl').read_text(encoding='utf-8').splitlines()]
def names(run): return sorted(p.name for p in run.glob('model_*.pt'))

def test_length_in_tokens_on_resume(here):
    "The length is kept in its own unit with another batch size, and a length in another unit takes its place"
    _, _, run = here('--max_tokens', 6400)
    assert rows(run)[-1]['step'] == 100 and '--max_tokens 12800' in (run/'report.html').read_text(encoding='utf-8')
    code, said, _ = here('--auto_resume', '--max_tokens', 12_800, '--batch_size', 8, new=False)
    assert code == 0 and (rows(run)[-1]['step'], rows(run)[-1]['tokens']) == (150, 12_800), said
    code, said, _ = here('--auto_resume', '--max_steps', 180, new=False)
    assert code == 0 and rows(run)[-1]['step'] == 180 and '--max_steps 360' in (run/'report.html').read_text(encoding='utf-8'), said

def test_epochs_in_the_advice(here):
    _, _, run = here('--max_epochs', .1)
    assert '--max_epochs 0.2' in (run/'report.html').read_text(encoding='utf-8')

def test_a_checkpoint_from_elsewhere_does_not_mix_with_the_run_in_the_folder(here):
    _, _, a = here('--max_steps', 20, '--checkpoint_interval', 10, out='a')
    _, _, b = here('--max_steps', 30, '--seed', 7, '--checkpoint_interval', 5, out='b')
    code, said, _ = here('--load_checkpoint', 'a/model_00020.pt', '--max_steps', 40, out='b', new=False)
    assert code == 0 and 'was moved to' in said and names(b) == ['model_00030.pt', 'model_00040.pt'], said
    assert [r['step'] for r in rows(b)] == [25, 30, 35, 40] and names(b/'previous-1')[-1] == 'model_00030.pt'
    code, said, _ = here('--load_checkpoint', 'a/model_00010.pt', '--max_steps', 40, out='a', new=False)    # its own folder
    assert code == 0 and [r['step'] for r in rows(a)] == [0, 1, *range(5, 41, 5)], said

def test_a_lower_learning_rate_on_resume_takes_its_end_along(here):
    "min_lr was a tenth of the old rate, and would be above the new one: the rate would rise"
    here('--max_steps', 10)
    code, said, run = here('--auto_resume', '--max_steps', 20, '--max_lr', '1e-5', '--log_interval', 1, new=False)
    lrs = [r['lr'] for r in rows(run) if r['step'] > 10]
    assert code == 0 and max(lrs) <= 1e-5 and lrs == sorted(lrs, reverse=True) and lrs[-1] > 1e-6, (said, lrs)
    assert re.search(r'changed: .*min_lr 6e-05 -> 1e-06', said), said

def test_a_model_to_start_from_and_auto_resume(here):
    "The command of a job that a cluster starts again and again: the second start goes on, it doesn't begin again"
    here('--max_steps', 20, out='a')
    again = ('--load_checkpoint', 'a/model_00020.pt', '--auto_resume', '--checkpoint_interval', 5)
    code, said, b = here(*again, '--max_steps', 30, out='b', new=False)
    assert code == 0 and 'resuming a/model_00020.pt at step 20' in said and names(b) == ['model_00025.pt', 'model_00030.pt'], said
    code, said, b = here(*again, '--max_steps', 40, out='b', new=False)
    assert code == 0 and 'resuming b/model_00030.pt at step 30' in said and 'not from a/model_00020.pt' in said, said
    assert not (b/'previous-1').exists() and names(b) == [f'model_000{n}.pt' for n in (25, 30, 35, 40)]

def test_a_checkpoint_named_in_vain(here):
    "Forgetting --resume must not mean training from scratch; two names contradict each other"
    here('--max_steps', 5, out='a')
    code, said, c = here('--checkpoint_path', 'a/model_00005.pt', '--max_steps', 9, out='c')
    assert code == 1 and 'add --resume' in said and not c.exists(), said
    code, said, c = here('--resume', '--checkpoint_path', 'a/best.pt', '--load_checkpoint', 'a/model_00005.pt', out='c', new=False)
    assert code == 1 and 'two checkpoints' in said and not c.exists(), said

def test_metrics_that_a_crash_left_as_rubbish(here):
    "After a power cut a file may end in anything; what can't be read belongs to no step"
    _, _, run = here('--max_steps', 10)
    with open(run/'metrics.jsonl', 'ab') as f: f.write(b'\xff\xfe\x00\x00\n{"step": "x"}\n{"step": null}\n[1]\n{"step": 9, "lo')
    code, said, _ = here('--auto_resume', '--max_steps', 20, new=False)
    assert code == 0 and [r['step'] for r in rows(run)] == [0, 1, 5, 10, 15, 20], said

def test_a_run_that_is_over_says_what_ended_it(here):
    "More steps are no remedy where patience, or a time, has run out"
    _, said, _ = here('--max_steps', 90, '--eval_interval', 5, '--patience', 1, '--min_delta', 5, out='patience')
    assert 'done early' in said
    assert 'nothing is left to do after step 5: no better validation loss' in here('--auto_resume', out='patience', new=False)[1]
    here('--minutes', .002, '--max_steps', 10**6, out='clock')
    assert 'a larger --minutes would go on' in here('--auto_resume', out='clock', new=False)[1]

def test_only_checkpoints_of_the_run_are_forgotten(here):
    "Somebody's own files lie in the run folder, with numbers in their names"
    _, _, run = here('--max_steps', 10, '--checkpoint_interval', 5)
    for name in ('base_3.pt', 'good_5.pt'): (run/name).write_bytes((run/'model_00005.pt').read_bytes())
    here('--auto_resume', '--max_steps', 30, '--keep_last_n_checkpoints', 1, new=False)
    assert names(run) == ['model_00030.pt'] and (run/'base_3.pt').exists() and (run/'good_5.pt').exists()

def test_patience_without_anything_to_watch(here):
    _, _, run = here('--max_steps', 2)
    shard = next((run/'data').glob('train*.bin'))
    code, said, bare = here('tiny', '--train_data', shard, '--patience', 2, '--max_steps', 5, out='bare', new=False)
    assert code == 1 and '--patience needs a validation loss' in said and said.count('error:') == 1 and not bare.exists()

def test_a_finished_run_stays_as_it_is(here):
    _, _, run = here('--max_steps', 10)
    def kept(): return {p.name: p.read_bytes() for p in [run/'metrics.jsonl', *run.glob('*.pt')]}
    before = kept()
    code, said, _ = here('--auto_resume', new=False)
    assert code == 0 and 'nothing is left to do after step 10' in said and kept() == before, said

def test_an_interruption_does_not_reset_the_overfitting_watch(here, text):
    Path('few.txt').write_text(text.read_text(encoding='utf-8')[:3000], encoding='utf-8')
    words = ['--n_embd', 64, '--block_size', 32, '--batch_size', 8, '--learning_rate', 3e-3, '--log_interval', 10, '--eval_interval', 10,
             '--eval_iters', 20, '--val_fraction', .3, '--dropout', 0, '--stop_on_overfit', 3, '--lr_decay_steps', 400]
    _, said, whole = here(*words, '--max_steps', 400, out='whole', source='few.txt')
    end = rows(whole)[-1]['step']
    assert 'done early (overfitting: 3 evaluations above' in said and 40 < end < 400, said
    _, _, parts = here(*words, '--max_steps', end - 10, out='parts', source='few.txt')     # two of the three are counted when it stops
    _, said, _ = here('--auto_resume', '--max_steps', 400, out='parts', new=False)
    assert 'done early (overfitting' in said and [r.get('loss') for r in rows(parts)] == [r.get('loss') for r in rows(whole)], said

def test_a_file_of_metrics_with_numbers_that_are_none(here, capsys):
    "Other programs write NaN and Infinity; a curve has a gap there"
    from nanogpt_lit.config import nanogpt_monitor, nanogpt_plot
    from nanogpt_lit.monitor import read_metrics, series
    Path('m').mkdir()
    Path('m/metrics.jsonl').write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "loss": NaN, "val_loss": Infinity}\n{"step": 3, "loss": 1.5}\n')
    assert [*series(read_metrics('m'), 'loss')[0]] == [1, 3]
    assert nanogpt_monitor(['m', '--once']) == 0 and nanogpt_plot(['m', '--panels', '--output', 'm.svg']) == 0 and Path('m.svg').exists(), capsys.readouterr().err

def test_metrics_of_a_run_that_blows_up_are_json(here):
    def no_constant(name): raise AssertionError(f'{name} is not JSON')
    code, said, run = here('--max_steps', 40, '--learning_rate', '1e30', '--grad_clip', 0, '--checkpoint_interval', 1)
    assert code == 1 and 'error: ' in said
    for line in (run/'metrics.jsonl').read_text(encoding='utf-8').splitlines(): json.loads(line, parse_constant=no_constant)

def test_the_curve_lives_under_the_cell(tmp_path):
    "A picture, in a notebook that never used pyplot; and the last picture is in the place of the first"
    nbformat, nbclient = pytest.importorskip('nbformat'), pytest.importorskip('nbclient')
    cell = nbformat.v4.new_code_cell('''
from types import SimpleNamespace as Some
from nanogpt_lit.monitor import LiveCurve
curve, t = LiveCurve(every=0.), Some(strategy=Some(is_main=True))
curve.on_fit_start(t)
for step in range(1, 4):
    t.record = dict(step=step, loss=3./step)
    curve.on_log(t)
curve.on_fit_end(t)''')
    nbclient.NotebookClient(nbformat.v4.new_notebook(cells=[cell]), kernel_name='python3', resources={'metadata': {'path': str(tmp_path)}}).execute()
    assert [o.output_type for o in cell.outputs] == ['display_data'] and 'image/svg+xml' in cell.outputs[0].data, cell.outputs

# --- the two main jobs ---------------------------------------------------------------------------------------------

def test_quickstart_killed_stopped_and_finished(tmp_path):
    "Killed while it prepares, stopped while it trains, then run to its end: one run, complete. (On all of Python's library with NANOGPT_LIT_SLOW=1, else on a part)"
    words = [str(BIN/'nanogpt-quickstart'), '--num_threads', '1'] if SLOW else quickstart_words(tmp_path)
    words += ['--minutes', '0.2' if SLOW else '0.05']
    metrics = tmp_path/'runs'/'quickstart'
    p = Popen(words, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    harness.wait_for((tmp_path/'data').exists, p)
    time.sleep(.02)
    assert p.poll() is None and not metrics.exists()
    p.kill()
    p.wait()
    p = Popen(words, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    wait_for(2, metrics, p, 300)
    p.send_signal(signal.SIGINT)
    p.wait(120)
    assert 'Traceback' not in p.stderr.read()
    r = run_argv(words, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert r.returncode == 0, r.stderr[-3000:]
    for name in ('uniform', 'unigram', 'bigram', 'gzip', 'xz', 'GPT', 'bits/byte', 'next:', 'nanogpt-sample'): assert name in r.stdout, name
    for name in ('config.toml', 'metrics.jsonl', 'tokenizer/tokenizer.json', 'report.html', 'plots/loss_curve_latest.png', 'latest'):
        assert (metrics/name).is_file(), name
    got = [s for s in steps(metrics) if s]
    assert got and len(got) == len({*got}), 'a step was logged twice'

def test_nanogpt_shakespeare(shared_data, tmp_path):
    """nanoGPT's CPU recipe, with its own flag names, reaches nanoGPT's loss over the whole validation split (1.905; its README's 1.88 is from 20 batches).

    That is with NANOGPT_LIT_SLOW=1; else it is a twentieth of the recipe's steps on an eighth of the text, and the loss that they reach.

    The luck of the seed is worth ±0.006: seeds 1, 2, 3, 1337 and the preset's 42 ended at 1.902, 1.901, 1.896, 1.911 and 1.901 (mean 1.902).
    """
    recipe = ('--device=cpu --compile=False --eval_iters=20 --log_interval=100 --block_size=64 --batch_size=12 --n_layer=4 --n_head=4 --n_embd=128 '
              f'--max_iters={2000 if SLOW else 100} --lr_decay_iters={2000 if SLOW else 100} --dropout=0.0 --num_threads=1')
    text = (shared_data/'tinyshakespeare.txt').read_text(encoding='utf-8')
    (tmp_path/'text.txt').write_text(text if SLOW else text[:150_000], encoding='utf-8')
    words = ['nanogpt-train', 'shakespeare_char', '--input', 'text.txt', '--out_dir', 'run', *recipe.split()]
    r = run_argv([str(BIN/words[0]), *words[1:]], capture_output=True, text=True, cwd=tmp_path, timeout=1800)
    assert r.returncode == 0, r.stderr[-3000:]
    from nanogpt_lit.evaluate import evaluate_loss
    from nanogpt_lit.interop import load_run
    from nanogpt_lit.loader import TokenData
    loss = evaluate_loss(load_run(tmp_path/'run').model, TokenData(tmp_path/'run'/'data', 'val')).nats_per_token
    assert loss <= (1.91 if SLOW else 2.7), loss                             # 2.678 of the short form
    r = run('nanogpt-sample', 'run', '--num_samples', '1', '--max_new_tokens', '100', cwd=tmp_path)
    assert r.returncode == 0 and len(r.stdout) >= 100, r.stderr[-2000:]
