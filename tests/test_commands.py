"""The commands of five other trainers, with only the program's name changed and the sizes made small: they start, train, and write
what their users look for.

`python train.py` is `nanogpt-train` here, `python -m cs336_basics.data2token` is `nanogpt-tokenizer encode`, and so on: the table is in
the tutorials.
"""
import argparse, json, os, re, shlex
from pathlib import Path
import numpy as np
import pytest
import harness

def run(line, cwd, code=0):
    "A command line as it would be typed; its output"
    words = shlex.split(line)
    r = harness.run(*words, cwd=cwd, env=os.environ | {'OMP_NUM_THREADS': '1'})
    assert r.returncode == code, (r.returncode, r.stdout[-2000:], r.stderr[-3000:])
    assert 'Traceback' not in r.stderr, r.stderr
    return r.stdout + r.stderr

def source(n=30_000): return Path(argparse.__file__).read_text(encoding='utf-8')[:n]

def steps(run): return [json.loads(o)['step'] for o in (run/'metrics.jsonl').read_text(encoding='utf-8').splitlines()]

def config(run):
    import tomllib
    return {k: v for section in tomllib.loads((run/'config.toml').read_text(encoding='utf-8')).values() for k, v in section.items()}

# --- A: build-nanogpt ------------------------------------------------------------------------------------------------

def test_build_nanogpt(tmp_path):
    "Shards of .npy, the first of them to validate on; its last file is counted from 0"
    (tmp_path/'edu').mkdir()
    ids = np.random.default_rng(0).integers(0, 50257, 3000).astype(np.uint16)
    for name in ('val_000000', 'train_000001', 'train_000002'): np.save(tmp_path/'edu'/f'edufineweb_{name}.npy', ids)
    line = ('nanogpt-train build-nanogpt --train_data edu --val_data edu --tokenizer None --n_layer 1 --n_head 2 --n_embd 16 --block_size 16 '
            '--batch_size 2 --grad_accum_steps 2 --device cpu --checkpoint_interval 2 --keep_last_n_checkpoints -1 --eval_interval 2 --eval_iters 1 '
            '--generate_interval 2 --out_dir log')
    run(f'{line} --max_steps 5', tmp_path)
    assert {'model_00002.pt', 'model_00004.pt', 'model_00005.pt'} <= {p.name for p in (tmp_path/'log').iterdir()}   # 4 is itself, not 5
    out = run(f'{line} --max_steps 7 --resume --checkpoint_path log/model_00004.pt', tmp_path)
    assert 'resuming log/model_00004.pt at step 4' in out and (tmp_path/'log'/'model_00006.pt').exists()
    out = run(f'{line} --max_steps 10 --auto_resume --max_lr 1e-5', tmp_path)
    assert 'changed: learning_rate 0.0006 -> 1e-05' in out and 'not bit for bit' in out and (tmp_path/'log'/'model_00009.pt').samefile(tmp_path/'log'/'model_00010.pt')

# --- C: nanoGPT on Chinese news --------------------------------------------------------------------------------------

CONFIG_TH = """# train a character-level model on Chinese sports news
out_dir = 'TH_out'
eval_interval = 2  # keep frequent because we'll overfit
eval_iters = 200
log_interval = 10
always_save_checkpoint = False
wandb_log = False
wandb_project = 'TH'
wandb_run_name = 'mini-gpt'
dataset = 'TH'
gradient_accumulation_steps = 1
batch_size = 64
block_size = 256
n_layer = 6
n_head = 6
n_embd = 384
dropout = 0.2
learning_rate = 2e-5
max_iters = 5000
lr_decay_iters = 5000
min_lr = 1e-6
beta2 = 0.99
warmup_iters = 1
"""

def test_nanogpt(tmp_path):
    (tmp_path/'config').mkdir()
    (tmp_path/'config'/'train_TH.py').write_text(CONFIG_TH, encoding='utf-8')
    (tmp_path/'input.txt').write_text('皇马在主场以三比一战胜了巴萨，梅西打进一球。\n湖人客场取胜。\n'*60, encoding='utf-8')
    run('nanogpt-prepare input.txt --tokenizer char --out_dir data/TH', tmp_path)
    run('nanogpt-train config/train_TH.py --device=cpu --compile=False --eval_iters=2 --log_interval=1 --block_size=16 --batch_size=4 '
        '--n_layer=2 --n_head=2 --n_embd=16 --max_iters=4 --lr_decay_iters=4 --dropout=0.4', tmp_path)
    out, c = tmp_path/'TH_out', config(tmp_path/'TH_out')
    assert (c['max_steps'], c['lr_decay_steps'], c['dropout'], c['learning_rate'], c['warmup_steps']) == (4, 4, .4, 2e-5, 1)
    assert (out/'ckpt.pt').exists() and steps(out)[-1] == 4
    texts = run('nanogpt-sample --out_dir=TH_out --start=皇马 --device=cpu --max_new_tokens=20', tmp_path)
    assert texts.count('皇马') >= 10
    out = run('nanogpt-train config/train_TH.py --device=cpu --compile=False --init_from=resume --max_iters=6', tmp_path)
    assert 'at step 4' in out                              # nanoGPT's own way to resume

# --- D: the course ---------------------------------------------------------------------------------------------------

@pytest.fixture(scope='module')
def course(tmp_path_factory):
    "vocab, merges and token files as its users have them"
    d = tmp_path_factory.mktemp('course')
    (d/'raw_text.txt').write_text(source(), encoding='utf-8')
    from nanogpt_lit.tokenizer import Tokenizer
    tok = Tokenizer.train([source()], 300, progress=False)
    from tokenizers import Tokenizer as HF                  # writes GPT-2's pair of files
    tok.save(d/'tok')
    model = json.loads((d/'tok'/'tokenizer.json').read_text(encoding='utf-8'))['model']
    assert HF.from_file(str(d/'tok'/'tokenizer.json')).get_vocab_size() == 300
    (d/'tokenizer.vocab').write_text(json.dumps(model['vocab']), encoding='utf-8')
    (d/'tokenizer.merges').write_text('\n'.join(m if isinstance(m, str) else ' '.join(m) for m in model['merges']) + '\n', encoding='utf-8')
    for name in ('train', 'val'):
        run(f'nanogpt-tokenizer encode --data_path raw_text.txt --vocab_path tokenizer.vocab --merges_path tokenizer.merges --output_path {name}_data.npy '
            '--method streaming', d)
    return d

def test_data2token(course):
    ids = np.load(course/'train_data.npy')
    assert ids.ndim == 1 and 0 <= ids.min() and ids.max() < 300

def test_cs336_train(course):
    "Every flag of the course's trainer, the device left to the machine; its defaults, its architecture, its file names"
    line = ('nanogpt-train --vocab_path tokenizer.vocab --merges_path tokenizer.merges --train_data train_data.npy --val_data val_data.npy '
            '--vocab_size 320 --d_model 16 --n_layers 2 --n_heads 2 --batch_size 4 --context_length 16 --max_seq_len 64 --rope_theta 10000.0 --d_ff 32 '
            '--learning_rate 3e-4 --weight_decay 0.01 --beta1 0.9 --beta2 0.999 --max_grad_norm 1.0 --log_interval 1 --eval_interval 2 --save_interval 2 '
            '--num_eval_batches 2 --checkpoint_dir ./checkpoints')
    out = run(f'{line} --max_iters 4', course)
    c = config(course/'checkpoints')
    assert (c['pos'], c['norm'], c['act'], c['block_size'], c['vocab_size'], c['d_ff']) == ('rotary', 'rmsnorm', 'swiglu', 16, 320, 32)
    assert {'checkpoint_2.pt', 'checkpoint_4.pt', 'best.pt', 'config.toml'} <= {p.name for p in (course/'checkpoints').iterdir()}
    assert 'number of parameters' in out and re.search(r'iter 2: loss [\d.]+, .*time [\d.]+ms, .*lr [\d.e-]+', out)
    out = run(f'{line} --max_iters 6 --load_checkpoint checkpoints/checkpoint_4.pt', course)
    assert 'checkpoint_4.pt at step 4' in out and (course/'checkpoints'/'checkpoint_6.pt').exists() and steps(course/'checkpoints') == [*range(7)]

def test_cs336_defaults(course):
    "What isn't said is as in its table of defaults"
    run('nanogpt-train --train_data train_data.npy --checkpoint_dir d --max_iters 1 --d_model 24 --n_layers 1 --d_ff 16 --batch_size 1 --context_length 8 --vocab_size 300', course)
    c = config(course/'d')
    want = dict(n_head=12, learning_rate=3e-4, weight_decay=.01, beta1=.9, beta2=.999, grad_clip=1., log_interval=100, eval_interval=1000,
                checkpoint_interval=5000, eval_iters=100, rope_theta=1e4, device='auto')
    assert {k: c[k] for k in want} == want

# --- E: MiniGPT ------------------------------------------------------------------------------------------------------

@pytest.fixture(scope='module')
def minigpt(tmp_path_factory):
    d = tmp_path_factory.mktemp('minigpt')
    (d/'data').mkdir()
    parts = source().split('\n\n')
    plain = ''.join(json.dumps({'text': t}) + '\n' for t in parts)
    chats = ''.join(json.dumps({'conversations': [{'role': 'user', 'content': 'Go on'}, {'role': 'assistant', 'content': t}]}) + '\n' for t in parts)
    for name in ('pretrain_hq', 'pretrain_200'): (d/'data'/f'{name}.jsonl').write_text(plain, encoding='utf-8')
    for name in ('sft_1024', 'sft_512', 'r1_mix_1024', 'sft_mini_512'): (d/'data'/f'{name}.jsonl').write_text(chats, encoding='utf-8')
    return d

TINY = ' --n_layer 1 --n_embd 32 --n_head 2 --n_kv_head 1 --block_size 16 --d_ff 32 --device cpu --eval_iters 1'

def what_minigpt_writes(run, step, every):
    for name in ('final_model.pt', f'checkpoint_step_{every}.pt', f'checkpoint_step_{step}.pt', 'tokenizer/tokenizer.json', 'plots/loss_curve_latest.png',
                 f'plots/loss_curve_step_{every}.png', f'plots/loss_curve_final_step_{step}.png'):
        assert (run/name).is_file(), (name, sorted(p.relative_to(run).as_posix() for p in run.rglob('*')))

def test_minigpt_everything(minigpt, monkeypatch):
    "--use-full-data is four files; the tokenizer is learned again; compiling is tried, and left out with a line where it doesn't work, as here"
    monkeypatch.setenv('CXX', str(minigpt/'no compiler'))
    monkeypatch.setenv('TORCHINDUCTOR_CACHE_DIR', str(minigpt/'nothing compiled before'))
    said = run('nanogpt-train --config medium --use-full-data --retrain-tokenizer --tokenizer-vocab-size 300 --tokenizer-samples 50 --learning-rate 3e-5 --max-steps 4 '
        '--batch-size 2 --warmup-steps 2 --save-steps 2 --plot-loss --output-dir checkpoints/mac_medium_v2 --num-threads 1 '
        '--dataloader-workers 2 --enable-compile' + TINY, minigpt)
    out = minigpt/'checkpoints'/'mac_medium_v2'
    what_minigpt_writes(out, 4, 2)
    c = config(out)
    assert (c['learning_rate'], c['warmup_steps'], c['compile'], c['dataloader_workers'], len(c['input'])) == (3e-5, 2, True, 2, 4)
    assert said.count('torch.compile does not work here') == 1, said

def test_minigpt_some_files(minigpt):
    run('nanogpt-train --config small --data-files pretrain_200.jsonl --max-data-size 100 --max-steps 4 --save-steps 2 --batch-size 2 --tokenizer-vocab-size 300 '
        '--plot-loss --output-dir checkpoints/test_run' + TINY, minigpt)
    what_minigpt_writes(minigpt/'checkpoints'/'test_run', 4, 2)
    run('nanogpt-plot --checkpoint-dir checkpoints/test_run', minigpt)

def test_minigpt_limits(minigpt):
    "The third command has no --output-dir, and limits for the machine"
    run('nanogpt-train --config small --data-files sft_mini_512.jsonl --max-data-size 100 --batch-size 2 --max-steps 3 --max-cpu 100 --max-memory 100 --plot-loss '
        '--tokenizer-vocab-size 300 --disable-optimizations' + TINY, minigpt)
    assert (minigpt/'runs'/'minigpt-small'/'final_model.pt').is_file()
    run('nanogpt-monitor --once runs/minigpt-small', minigpt)
