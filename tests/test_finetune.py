"Evaluation and fine-tuning as a user meets them: real data, interruptions, several processes, other people's packages."
import json, os, signal, subprocess, sys, time
from pathlib import Path
from types import SimpleNamespace
import numpy as np
import pytest
import torch

BIN = Path(sys.executable).parent
ENV = {**os.environ, 'PYTHONUTF8': '1', 'OMP_NUM_THREADS': '1'}

def run(*words, cwd, code=0, **kw):
    r = subprocess.run([str(BIN/words[0]), *map(str, words[1:])], cwd=cwd, env=ENV, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=300, **kw)
    assert r.returncode == code, r.stdout[-2000:] + r.stderr[-3000:]
    return r.stdout + r.stderr

@pytest.fixture(scope='module')
def base(tmp_path_factory, shared_data):
    "A folder with a small pretrained run in runs/base"
    home = tmp_path_factory.mktemp('tune')
    (home/'text.txt').write_text((shared_data/'tinyshakespeare.txt').read_text(encoding='utf-8')[:300_000], encoding='utf-8')
    run('nanogpt-train', 'tiny', '--input', 'text.txt', '--tokenizer', 'bpe', '--tokenizer_vocab_size', 512, '--block_size', 128, '--max_steps', 60, '--device', 'cpu', '--eval_interval', 60,
        '--num_threads', 1, '--out_dir', 'runs/base', cwd=home)
    return home

# every flag of build-nanogpt's fine-tuning and its guide, but for those that say how to resume
FLAGS = ('--checkpoint_interval', 2, '--keep_last_n_checkpoints', 3, '--eval_interval', -1, '--eval_iters', 2, '--generate_interval', 2, '--pretrained_checkpoint', 'runs/base', '--batch_size', 8,
         '--max_lr', '1e-3', '--warmup_steps', 1, '--max_steps', 14, '--device', 'cpu', '--num_threads', 1, '--max_new_tokens', 20)

def weights(home, folder): return torch.load(home/folder/'model_00014.pt', weights_only=True)['model']

def test_alpaca_interrupted_and_resumed(base, shared_data):
    "The records of Alpaca, from a pretrained run, stopped with Ctrl-C and continued: the same weights as without"
    data = ('--data_dir', shared_data/'instructions_alpaca.json')
    said = run('nanogpt-finetune', *data, *FLAGS, '--out_dir', 'whole', cwd=base)
    assert 'Alpaca' in said and 'loss on held-out answers' in said and 'forgotten' in said
    p = subprocess.Popen([str(BIN/'nanogpt-finetune'), *map(str, [*data, *FLAGS, '--out_dir', 'torn'])], cwd=base, env=ENV, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    for line in p.stdout:
        if line.startswith('iter 3:'): break
    p.send_signal(signal.SIGINT)
    rest = p.stdout.read()
    assert p.wait(60) == 130 and 'Traceback' not in rest, rest[-2000:]
    assert not (base/'torn'/'model_00014.pt').exists()
    assert 'resuming' in run('nanogpt-finetune', *data, *FLAGS, '--auto_resume', '--out_dir', 'torn', cwd=base)
    for (k, a), b in zip(weights(base, 'whole').items(), weights(base, 'torn').values()): assert torch.equal(a, b), k
    steps = [json.loads(o)['step'] for o in (base/'torn'/'metrics.jsonl').read_text().splitlines()]
    assert steps == [*range(15)]
    f = json.loads((base/'torn'/'tuning.json').read_text())['figures']
    assert f['response_after'] < f['response_before'] - .2
    assert 'before: it continues' in (base/'torn'/'report.html').read_text(encoding='utf-8')
    answer = subprocess.run([str(BIN/'nanogpt-chat'), 'torn', '--device', 'cpu', '--max_new_tokens', '10'], input='Name a fruit.\n', cwd=base, env=ENV, capture_output=True, text=True, timeout=120)
    assert answer.returncode == 0 and answer.stderr == '', answer.stderr

def test_two_processes_tune_like_one(base, shared_data):
    "Counted tokens differ from process to process; the step must not"
    data = ('--input', shared_data/'instructions_alpaca.json', '--max_data_size', 200, *FLAGS[:-6], '--max_steps', 3, '--device', 'cpu', '--num_threads', 1, '--generate_interval', 0, '--max_new_tokens', 5)
    run('nanogpt-finetune', *data, '--grad_accum_steps', 2, '--batch_size', 4, '--out_dir', 'one', cwd=base)
    run('torchrun', '--standalone', '--nproc_per_node=2', '--no-python', BIN/'nanogpt-finetune', *data, '--grad_accum_steps', 2, '--batch_size', 4, '--out_dir', 'two', cwd=base)
    one, two = ([json.loads(o) for o in (base/name/'metrics.jsonl').read_text().splitlines()] for name in ('one', 'two'))
    np.testing.assert_allclose([r['loss'] for r in one if 'loss' in r], [r['loss'] for r in two if 'loss' in r], rtol=1e-4)
    np.testing.assert_allclose([r['val_loss'] for r in one], [r['val_loss'] for r in two], rtol=1e-4)

def test_killed_evaluation_goes_on_with_other_processes(base):
    "Half of the questions by process 0 of 2, the rest by a single one"
    first = subprocess.run([str(BIN/'nanogpt-eval'), 'runs/base', '--device', 'cpu', '--out_dir', 'exam'], cwd=base, env={**ENV, 'RANK': '0', 'WORLD_SIZE': '2'}, capture_output=True, text=True, timeout=120)
    assert first.returncode == 0 and not (base/'exam'/'results.json').exists(), first.stderr
    assert 'were answered before' in run('nanogpt-eval', 'runs/base', '--device', 'cpu', '--out_dir', 'exam', cwd=base)
    run('nanogpt-eval', 'runs/base', '--device', 'cpu', '--out_dir', 'exam1', cwd=base)
    both, one = (json.loads((base/o/'results.json').read_text())['results'] for o in ('exam', 'exam1'))
    assert both['cloze'] == one['cloze']
    assert abs(both['loss']['loss'] - one['loss']['loss']) < 1e-5

# --- against other packages ----------------------------------------------------------------------------------------

def gpt2_folder(folder, shared_data):
    "A random-weight GPT-2 of transformers, with a vocabulary of its kind, trained on the spot so that no network is needed"
    transformers = pytest.importorskip('transformers')
    from nanogpt_lit.tokenizer import Tokenizer
    tok = Tokenizer.train(shared_data/'tinyshakespeare.txt', 1500, progress=False)
    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=tok.vocab_size, n_layer=2, n_head=4, n_embd=64, n_positions=128, initializer_range=.15,
                                                                 bos_token_id=tok.eot_id, eos_token_id=tok.eot_id)).eval()
    model.save_pretrained(folder)
    tok.save(folder)
    return model, tok

def hellaswag_like(shared_data, n=120):
    "Questions in HellaSwag's original format, made from Shakespeare's lines"
    lines = [o for o in (shared_data/'tinyshakespeare.txt').read_text(encoding='utf-8').splitlines() if 25 < len(o) < 70]
    rng = np.random.default_rng(0)
    for i in range(n):
        k, others = int(rng.integers(len(lines) - 4)), [lines[j].lower() for j in rng.integers(0, len(lines), 3)]
        label = int(rng.integers(4))
        a, b = lines[k] + ' ' + lines[k + 1], lines[k + 2]
        yield dict(ind=i, activity_label='Theatre', ctx_a=a, ctx_b=b, ctx=f'{a} {b}', split='val', split_type='indomain', label=label,
                   endings=others[:label] + [lines[k + 3].lower()] + others[label:], source_id=f'play~{i}')

def test_hellaswag_equals_transformers(tmp_path, shared_data):
    "Every answer to every question, by all three rules, as one row at a time through transformers"
    model, tok = gpt2_folder(tmp_path/'hf', shared_data)
    questions = [*hellaswag_like(shared_data)]
    (tmp_path/'hellaswag_val.jsonl').write_text('\n'.join(map(json.dumps, questions)))
    run('nanogpt-eval', 'hf', '--tasks', 'hellaswag', '--hellaswag', 'hellaswag_val.jsonl', '--device', 'cpu', '--num_threads', 1, cwd=tmp_path)
    ours = {r['index']: r for r in map(json.loads, (tmp_path/'hf'/'eval'/'hellaswag.0.jsonl').read_text().splitlines()[1:])}
    results, right = json.loads((tmp_path/'hf'/'eval'/'results.json').read_text())['results']['hellaswag'], np.zeros(3)
    from nanogpt_lit.evaluate import RULES, answer
    for i, q in enumerate(questions):
        sums, means, chars = [], [], []
        for ending in q['endings']:
            ctx, end = tok.encode(q['ctx']), tok.encode(' ' + ending)
            ids = torch.tensor([(ctx + end)[-129:]])
            with torch.no_grad(): logp = model(ids[:, :-1]).logits[0, -len(end):].log_softmax(-1).gather(1, ids[0, -len(end):, None])
            sums.append(logp.sum().item()), means.append(logp.mean().item()), chars.append(logp.sum().item()/len(ending))
        np.testing.assert_allclose(ours[i]['logprob'], sums, rtol=1e-5)
        theirs = [int(np.argmax(o)) for o in (sums, means, chars)]
        assert [answer(ours[i], rule) for rule in RULES] == theirs, i
        right += np.array(theirs) == q['label']
    assert [results[rule] for rule in RULES] == pytest.approx(list(right/len(questions)), abs=0)

def test_lm_evaluation_harness(tmp_path, shared_data):
    "The real harness, where it is installed, gets the same log-probabilities as from its own transformers backend"
    pytest.importorskip('lm_eval')
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoTokenizer
    from nanogpt_lit.benchmarks import harness_lm
    from nanogpt_lit.interop import load_run
    gpt2_folder(tmp_path/'hf', shared_data)
    run_ = load_run(tmp_path/'hf', 'cpu')
    ours = harness_lm(run_.model, run_.tokenizer)
    theirs = HFLM(pretrained=str(tmp_path/'hf'), tokenizer=AutoTokenizer.from_pretrained(str(tmp_path/'hf')), device='cpu', batch_size=4, max_length=128)
    pairs = [(q['ctx'], ' ' + e) for q in hellaswag_like(shared_data, 10) for e in q['endings']] + [('', 'To be'), ('To be ', 'or not')]
    asked = [SimpleNamespace(args=p, arguments=p, doc_id=i, task_name='t', request_type='loglikelihood') for i, p in enumerate(pairs)]
    for a, b in zip(ours.loglikelihood(asked), theirs.loglikelihood(asked)):
        assert a[0] == pytest.approx(b[0], rel=1e-4) and a[1] == b[1]
    texts = [(' '.join(q['ctx'] for q in hellaswag_like(shared_data, 12)),), ('To be or not to be',)]
    asked = [SimpleNamespace(args=t, arguments=t, doc_id=i, task_name='t', request_type='loglikelihood_rolling') for i, t in enumerate(texts)]
    assert ours.loglikelihood_rolling(asked) == pytest.approx(theirs.loglikelihood_rolling(asked), rel=1e-4)
