"Evaluation and fine-tuning as a user meets them: real data, interruptions, several processes, other people's packages."
import json, signal, subprocess, sys, time
from pathlib import Path
from types import SimpleNamespace
import numpy as np
import pytest
import torch
import harness
from harness import BIN, ENV, Popen, run_argv

def run(*words, cwd, code=0, **kw):
    r = harness.run(*words, cwd=cwd, env=ENV, **kw)
    assert r.returncode == code, r.stdout[-2000:] + r.stderr[-3000:]
    return r.stdout + r.stderr

@pytest.fixture(scope='module')
def base(tmp_path_factory, shared_data):
    "A folder with a small pretrained run in runs/base"
    home = tmp_path_factory.mktemp('tune')
    (home/'text.txt').write_text((shared_data/'tinyshakespeare.txt').read_text(encoding='utf-8')[:100_000], encoding='utf-8')
    run('nanogpt-train', 'tiny', '--input', 'text.txt', '--tokenizer', 'bpe', '--tokenizer_vocab_size', 512, '--block_size', 128, '--max_steps', 20, '--device', 'cpu', '--eval_interval', 20,
        '--num_threads', 1, '--out_dir', 'runs/base', cwd=home)
    return home

# every flag of build-nanogpt's fine-tuning and its guide, but for those that say how to resume
FLAGS = ('--checkpoint_interval', 2, '--keep_last_n_checkpoints', 3, '--eval_interval', -1, '--eval_iters', 2, '--generate_interval', 2,
         '--pretrained_checkpoint', 'runs/base', '--batch_size', 8, '--max_lr', '1e-3', '--warmup_steps', 1, '--max_steps', 14,
         '--device', 'cpu', '--num_threads', 1, '--max_new_tokens', 20)

def weights(home, folder): return torch.load(home/folder/'model_00014.pt', weights_only=True)['model']

def hit(signum, at, *words, cwd):
    "A run that gets a signal once a line begins with `at`: its exit code and what it said afterwards"
    p = Popen([str(BIN/words[0]), *map(str, words[1:])], cwd=cwd, env=ENV, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    for line in p.stdout:
        if line.startswith(at): break
    p.send_signal(signum)
    rest = p.stdout.read()
    return p.wait(60), rest

def test_alpaca_interrupted_and_resumed(base, shared_data):
    "The records of Alpaca, from a pretrained run, stopped with Ctrl-C, continued, killed, continued: the same weights as without"
    data = ('--data_dir', shared_data/'instructions_alpaca.json')
    said = run('nanogpt-finetune', *data, *FLAGS, '--out_dir', 'whole', cwd=base)
    assert 'Alpaca' in said and 'loss on held-out answers' in said and 'forgotten' in said
    torn = ('nanogpt-finetune', *data, *FLAGS, '--out_dir', 'torn')
    code, rest = hit(signal.SIGINT, 'iter 3:', *torn, cwd=base)
    assert code == 130 and 'Traceback' not in rest, rest[-2000:]
    assert not (base/'torn'/'model_00014.pt').exists()
    assert hit(signal.SIGKILL, 'iter 9:', *torn, '--auto_resume', cwd=base)[0] == -signal.SIGKILL
    assert 'resuming' in run(*torn, '--auto_resume', cwd=base)
    for (k, a), b in zip(weights(base, 'whole').items(), weights(base, 'torn').values()): assert torch.equal(a, b), k
    steps = [json.loads(o)['step'] for o in (base/'torn'/'metrics.jsonl').read_text().splitlines()]
    assert steps == [*range(15)]
    assert sorted(p.name for p in (base/'torn').glob('model_*.pt')) == ['model_00010.pt', 'model_00012.pt', 'model_00014.pt']
    f = json.loads((base/'torn'/'tuning.json').read_text())['figures']
    assert f['response_after'] < f['response_before'] - .2
    assert 'before: it continues' in (base/'torn'/'report.html').read_text(encoding='utf-8')
    answer = run_argv([str(BIN/'nanogpt-chat'), 'torn', '--device', 'cpu', '--max_new_tokens', '10'], input='Name a fruit.\n', cwd=base, env=ENV, capture_output=True, text=True, timeout=120)
    assert answer.returncode == 0 and answer.stderr == '', answer.stderr

# --- the rest in this process: a shell would take five seconds per line ------------------------------------------------

@pytest.fixture
def tune(base, shared_data, tmp_path, monkeypatch, capsys):
    "`nanogpt-finetune` beside the base: exit code, what it printed, what it warned of"
    from nanogpt_lit.config import nanogpt_finetune
    monkeypatch.chdir(base)
    few = json.loads((shared_data/'instructions_alpaca.json').read_text(encoding='utf-8'))[:60]
    (tmp_path/'few.json').write_text(json.dumps(few), encoding='utf-8')
    def call(*words, max_steps=2):
        code = nanogpt_finetune([str(o) for o in ('--input', tmp_path/'few.json', '--pretrained_checkpoint', 'runs/base', '--device', 'cpu', '--num_threads', 1,
                                '--max_steps', max_steps, '--batch_size', 4, '--max_new_tokens', 5, '--generate_interval', 0, '--out_dir', tmp_path/'out', *words)])
        return code, *capsys.readouterr()
    call.out = tmp_path/'out'
    return call

@pytest.mark.parametrize('words', [
    '--checkpoint_interval -1 --keep_last_n_checkpoints -1 --eval_interval -1 --generate_interval 2', '--checkpoint-interval=-1 --eval-interval=-1',
    '--max_lr 1e-6 --warmup_steps 1 --max_steps 3 --batch_size 16 --keep_last_n_checkpoints 3', '--learning_rate 6e-5 --grad_accumulation_steps 2',
    '--pretrained_checkpoint=log/model_19072.pt --data_dir=dolly15k --auto_resume', '--resume --checkpoint_path logs_finetune/model_00100.pt --max_lr 1e-5'])
def test_flags_as_build_nanogpt_spells_them(words):
    from nanogpt_lit.config import FinetuneConfig
    from nanogpt_lit.config import resolve
    from nanogpt_lit.finetune import loop_configs
    cfg, _ = resolve(FinetuneConfig, words.split())
    optim, loop = loop_configs(cfg.__class__(**{**vars(cfg), 'max_steps': cfg.max_steps or 1, 'learning_rate': cfg.learning_rate or 1e-6}))
    assert optim.weight_decay == .01 and loop.eval_interval == 1 and loop.checkpoint_interval == -1

def test_names_that_others_rely_on():
    "Their homes may move; the paths by which they are imported may not"
    from nanogpt_lit import finetune, lora
    assert finetune.add_lora is lora.add_lora and finetune.merge_lora is lora.merge_lora and callable(finetune.finetune)

def test_presets_are_build_nanogpts_own():
    from nanogpt_lit.config import FINETUNE_PRESETS, FinetuneConfig
    from nanogpt_lit.config import resolve
    for name, want in dict(dolly=(1e-6, 3, -1, -1), guide=(6e-5, 6, 2, 2)).items():
        cfg, _ = resolve(FinetuneConfig, [name], FINETUNE_PRESETS)
        assert (cfg.learning_rate, cfg.max_steps, cfg.checkpoint_interval, cfg.eval_interval) == want
        assert (cfg.batch_size, cfg.warmup_steps, cfg.weight_decay, cfg.generate_interval, cfg.keep_last_n_checkpoints) == (16, 1, .01, 2, 3)
        assert (cfg.pretrained_checkpoint, cfg.data_dir) == ('log/model_19072.pt', 'dolly15k')

def test_recovery_order(tune):
    "Checkpoint, then pretrained model, then random weights, each step said; loudest the last"
    code, out, err = tune('--resume', '--checkpoint_path', 'nowhere.pt')
    assert code == 0 and 'cannot resume' in err and 'from the pretrained model runs/base' in err and 'RANDOM' not in err
    code, out, err = tune('--resume', '--checkpoint_path', tune.out/'model_00002.pt', '--max_lr', '1e-5', max_steps=3)
    assert code == 0 and 'at step 2' in out and '-> 1e-05' in out and 'cannot resume' not in err
    code, out, err = tune('--resume', '--checkpoint_path', 'nowhere.pt', '--pretrained_checkpoint', 'gone', '--fallback', 'tiny')
    assert code == 0 and 'cannot resume' in err and err.count('RANDOM weights') == 2 and err.count('!'*70) == 4   # at the beginning and at the end
    assert 'RANDOM weights' in (tune.out/'report.html').read_text(encoding='utf-8')
    code, out, err = tune('--pretrained_checkpoint', 'gone', '--no-random_init')
    assert code == 1 and err.startswith('error: gone does not exist')

def test_another_strategy_on_resume_is_counted_anew(tune):
    from nanogpt_lit.finetune import strategy_steps
    tune()
    code, out, err = tune('--resume', '--checkpoint_path', tune.out/'model_00002.pt')
    assert code == 0, err
    from nanogpt_lit.config import nanogpt_finetune
    words = ['--resume', '--checkpoint_path', str(tune.out/'model_00002.pt'), '--strategy', 'deep', '--out_dir', str(tune.out)]
    assert nanogpt_finetune(words) == 0
    steps = json.loads((tune.out/'tuning.json').read_text())['figures']['step']
    assert steps > 4, steps

def test_adapters_half_way(tune):
    "A checkpoint of adapters can be sampled and tuned further; its shape stays on resume"
    from nanogpt_lit.interop import load_run
    code, out, err = tune('--lora_rank', 2, '--checkpoint_interval', 2, max_steps=4)
    assert code == 0, err
    half, best = load_run(tune.out/'model_00002.pt', 'cpu'), load_run(tune.out, 'cpu')
    assert half.tokenizer.hash == best.tokenizer.hash and half.model.state_dict().keys() == best.model.state_dict().keys()
    code, out, err = tune('--resume', '--checkpoint_path', tune.out/'model_00002.pt', '--lora_rank', 4)
    assert code == 1 and 'lora_rank was 2 then and is 4 now' in err
    code, out, err = tune('--pretrained_checkpoint', tune.out/'model_00002.pt', '--out_dir', tune.out.parent/'on')
    assert code == 0 and 'RANDOM' not in err

def test_its_own_checkpoint_comes_before_a_named_one(tune):
    "As with nanogpt-train: a job that begins with --resume and is started again goes on, not back"
    from nanogpt_lit.config import nanogpt_finetune
    assert tune()[0] == 0
    there = tune.out.parent/'there'
    words = ['--resume', '--checkpoint_path', tune.out/'model_00002.pt', '--auto_resume', '--out_dir', there]
    code, out, err = tune(*words, max_steps=4)
    assert code == 0 and f'resuming {tune.out}/model_00002.pt at step 2' in out and not err, err
    code, out, err = tune(*words, max_steps=6)
    assert code == 0 and f'resuming {there}/model_00004.pt at step 4' in out and 'has checkpoints of its own' in err, err

def test_a_new_run_moves_all_of_the_old_one(tune):
    "No adapter of an earlier run beside the weights of the next one"
    assert tune('--lora_rank', 2)[0] == 0 and (tune.out/'adapter').is_dir()
    code, out, err = tune()
    assert code == 0 and 'was moved to' in out and not (tune.out/'adapter').exists(), err
    assert {p.name for p in (tune.out/'previous-1').iterdir()} >= {'adapter', 'tuning.json', 'before.json', 'model_00002.pt'}

def test_where_another_process_trains(tune):
    "Two runs in one folder would overwrite each other's checkpoints"
    from psutil import Process
    from nanogpt_lit.watch import myself
    assert tune()[0] == 0
    note = json.loads((tune.out/'status.json').read_text())
    assert note['state'] == 'finished'
    waiting = Popen([sys.executable, '-c', 'input()'], stdin=subprocess.PIPE)
    try:
        who = myself() | dict(pid=waiting.pid, started=Process(waiting.pid).create_time())
        (tune.out/'status.json').write_text(json.dumps(note | who | dict(state='running')))
        code, out, err = tune('--auto_resume', max_steps=3)
        assert code == 1 and f'process {waiting.pid} is training' in err, err
    finally: waiting.communicate()

@pytest.mark.parametrize('more', [(), ('--lora_rank', 2)], ids=['all weights', 'adapters'])
def test_two_processes_tune_like_one(base, shared_data, more):
    "Counted tokens differ from process to process; the step must not. They share the evaluation and the answers"
    data = ('--input', shared_data/'instructions_alpaca.json', '--max_data_size', 200, *FLAGS[:-6], '--eval_iters', 3, '--max_steps', 3, '--device', 'cpu', '--num_threads', 1,
            '--generate_interval', 3, '--max_new_tokens', 5, '--prompts', 'Name a fruit.', 'Who are you?', 'Why?', '--grad_accum_steps', 2, '--batch_size', 4, *more)
    run('nanogpt-finetune', *data, '--out_dir', 'one', cwd=base)
    said = run('torchrun', '--standalone', '--nproc_per_node=2', '--no-python', BIN/'nanogpt-finetune', *data, '--out_dir', 'two', cwd=base)
    assert said.count('report:') == said.count('answer at step 3') == 1
    one, two = ([json.loads(o) for o in (base/name/'metrics.jsonl').read_text().splitlines()] for name in ('one', 'two'))
    np.testing.assert_allclose([r['loss'] for r in one if 'loss' in r], [r['loss'] for r in two if 'loss' in r], rtol=1e-4)
    np.testing.assert_allclose([r['val_loss'] for r in one], [r['val_loss'] for r in two], rtol=1e-4)
    one, two = (json.loads((base/name/'tuning.json').read_text()) for name in ('one', 'two'))
    assert one['samples'] == two['samples'] and [q for q, *_ in two['samples']] == ['Name a fruit.', 'Who are you?', 'Why?']
    assert one['figures'] == pytest.approx(two['figures'], rel=1e-4)
    answers = [(base/name/'samples'/'step_00003.txt').read_text() for name in ('one', 'two')]
    assert answers[0] == answers[1] and answers[0].count('>>> ') == 3

def test_killed_evaluation_goes_on_with_other_processes(base):
    "Half of the questions by process 0 of 2, the rest by a single one"
    first = run_argv([str(BIN/'nanogpt-eval'), 'runs/base', '--device', 'cpu', '--out_dir', 'exam'], cwd=base, env={**ENV, 'RANK': '0', 'WORLD_SIZE': '2'}, capture_output=True, text=True, timeout=120)
    assert first.returncode == 0 and not (base/'exam'/'results.json').exists(), first.stderr
    assert 'were answered before' in run('nanogpt-eval', 'runs/base', '--device', 'cpu', '--out_dir', 'exam', cwd=base)
    run('nanogpt-eval', 'runs/base', '--device', 'cpu', '--out_dir', 'exam1', cwd=base)
    both, one = (json.loads((base/o/'results.json').read_text())['results'] for o in ('exam', 'exam1'))
    assert both['cloze'] == one['cloze']
    assert abs(both['loss']['loss'] - one['loss']['loss']) < 1e-5

# --- against other packages ----------------------------------------------------------------------------------------

@pytest.fixture(scope='module')
def prose(tmp_path_factory):
    "Sentences that every machine has: the docstrings and comments of a few modules of Python's own library"
    import argparse, ast, inspect, logging, subprocess as sub, textwrap, threading
    words = ' '.join(ast.get_docstring(o) or '' for m in (argparse, inspect, logging, sub, textwrap, threading) for o in ast.walk(ast.parse(inspect.getsource(m)))
                     if isinstance(o, (ast.Module, ast.ClassDef, ast.FunctionDef))).split()
    path = tmp_path_factory.mktemp('prose')/'prose.txt'
    path.write_text('\n'.join(textwrap.wrap(' '.join(words), 60)), encoding='utf-8')
    return path

def gpt2_folder(folder, prose):
    "A random-weight GPT-2 of transformers, with a vocabulary of its kind, trained on the spot so that no network is needed"
    transformers = pytest.importorskip('transformers')
    from nanogpt_lit.tokenizer import Tokenizer
    tok = Tokenizer.train(prose, 1000, progress=False)
    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=tok.vocab_size, n_layer=2, n_head=4, n_embd=64, n_positions=128, initializer_range=.15,
                                                                 bos_token_id=tok.eot_id, eos_token_id=tok.eot_id)).eval()
    model.save_pretrained(folder)
    tok.save(folder)
    return model, tok

def hellaswag_like(prose, n=120):
    "Questions in HellaSwag's original format, made from neighbouring lines; every fifth is too long for the model"
    lines = [o for o in prose.read_text(encoding='utf-8').splitlines() if 25 < len(o) < 70]
    rng = np.random.default_rng(0)
    for i in range(n):
        k, others = int(rng.integers(len(lines) - 4)), [lines[j].lower() for j in rng.integers(0, len(lines), 3)]
        label = int(rng.integers(4))
        a, b = ' '.join(lines[k:k + 2])*(1 if i % 5 else 6), lines[k + 2]
        yield dict(ind=i, activity_label='Reading', ctx_a=a, ctx_b=b, ctx=f'{a} {b}', split='val', split_type='indomain', label=label,
                   endings=others[:label] + [lines[k + 3].lower()] + others[label:], source_id=f'prose~{i}')

def test_hellaswag_equals_transformers(tmp_path, prose):
    "Every answer to every question, by all three rules, as one row at a time through transformers"
    model = gpt2_folder(tmp_path/'hf', prose)[0]
    questions, theirs = [*hellaswag_like(prose)], __import__('transformers').AutoTokenizer.from_pretrained(tmp_path/'hf')
    (tmp_path/'hellaswag_val.jsonl').write_text('\n'.join(map(json.dumps, questions)))
    run('nanogpt-eval', 'hf', '--tasks', 'hellaswag', '--hellaswag', 'hellaswag_val.jsonl', '--device', 'cpu', '--num_threads', 1, cwd=tmp_path)
    ours = {r['index']: r for r in map(json.loads, (tmp_path/'hf'/'eval'/'hellaswag.0.jsonl').read_text().splitlines()[1:])}
    results, right = json.loads((tmp_path/'hf'/'eval'/'results.json').read_text())['results']['hellaswag'], np.zeros(3)
    from nanogpt_lit.evaluate import RULES, answer
    for i, q in enumerate(questions):
        sums, means, chars = [], [], []
        for ending in q['endings']:
            ctx, end = theirs.encode(q['ctx']), theirs.encode(' ' + ending)
            ids = torch.tensor([(ctx + end)[-129:]])
            with torch.no_grad(): logp = model(ids[:, :-1]).logits[0, -len(end):].log_softmax(-1).gather(1, ids[0, -len(end):, None])
            sums.append(logp.sum().item()), means.append(logp.mean().item()), chars.append(logp.sum().item()/len(ending))
        np.testing.assert_allclose(ours[i]['logprob'], sums, rtol=1e-5)
        best = [int(np.argmax(o)) for o in (sums, means, chars)]
        assert [answer(ours[i], rule) for rule in RULES] == best, i
        right += np.array(best) == q['label']
    assert [results[rule] for rule in RULES] == pytest.approx(list(right/len(questions)), abs=0)

def test_lm_evaluation_harness(tmp_path, prose):
    "The real harness, where it is installed, gets the same log-probabilities as from its own transformers backend"
    pytest.importorskip('lm_eval')
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoTokenizer
    from nanogpt_lit.benchmarks import harness_lm
    from nanogpt_lit.interop import load_run
    gpt2_folder(tmp_path/'hf', prose)
    run_ = load_run(tmp_path/'hf', 'cpu')
    ours = harness_lm(run_.model, run_.tokenizer)
    theirs = HFLM(pretrained=str(tmp_path/'hf'), tokenizer=AutoTokenizer.from_pretrained(str(tmp_path/'hf')), device='cpu', batch_size=4, max_length=128)
    pairs = [(q['ctx'], ' ' + e) for q in hellaswag_like(prose, 10) for e in q['endings']] + [('', 'To be'), ('To be ', 'or not')]
    asked = [SimpleNamespace(args=p, arguments=p, doc_id=i, task_name='t', request_type='loglikelihood') for i, p in enumerate(pairs)]
    for a, b in zip(ours.loglikelihood(asked), theirs.loglikelihood(asked)):
        assert a[0] == pytest.approx(b[0], rel=1e-4) and a[1] == b[1]
    texts = [(' '.join(q['ctx'] for q in hellaswag_like(prose, 12)),), ('To be or not to be',)]
    asked = [SimpleNamespace(args=t, arguments=t, doc_id=i, task_name='t', request_type='loglikelihood_rolling') for i, t in enumerate(texts)]
    assert ours.loglikelihood_rolling(asked) == pytest.approx(theirs.loglikelihood_rolling(asked), rel=1e-4)
