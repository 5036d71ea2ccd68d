"Looking inside a model that trains: nothing is disturbed, a resumed run looks the same, what is sick is said and what is healthy isn't; bad input."
import json, math
import numpy as np
import pytest, torch
from contextlib import chdir
from harness import SLOW, heard, spoken
from nanogpt_lit.config import GPTConfig, OptimConfig, RunConfig, TrainConfig, nanogpt_plot, nanogpt_train, resolve
from nanogpt_lit.core import UserError, seed_everything
from nanogpt_lit.inside import HIGHEST, LOWEST, Inside, draw_inside, evenness, find_rate, findings, logit_lens, look, magnitudes, probe_batch, read_inside
from nanogpt_lit.loader import BatchPlan, TokenData
from nanogpt_lit.model import GPT
from nanogpt_lit.optim import make_optimizers
from nanogpt_lit.trainer import Trainer

SHAPE = dict(vocab_size=40, block_size=16, n_layer=2, n_head=2, n_embd=16)

@pytest.fixture(scope='module')
def data(tmp_path_factory):
    home = tmp_path_factory.mktemp('tokens')
    (np.random.default_rng(0).zipf(1.5, 4000) % 40).astype(np.uint16).tofile(home/'train.bin')
    (np.random.default_rng(1).zipf(1.5, 400) % 40).astype(np.uint16).tofile(home/'val.bin')
    return home

def trainer(data, out, tcfg={}, ocfg={}, callbacks=(), val='val.bin', **shape):
    usual = dict(out_dir=str(out), max_steps=6, batch_size=4, grad_accum_steps=2, device='cpu', dtype='float32', num_threads=1, eval_interval=0, plot_loss=False)
    tcfg, ocfg = TrainConfig(**usual | tcfg), OptimConfig(**dict(learning_rate=3e-3, warmup_steps=2) | ocfg)
    seed_everything(1)
    model = GPT(GPTConfig(**SHAPE | shape))
    plan = BatchPlan(TokenData(data/'train.bin'), 8, 16, seed=1)
    return Trainer(model, plan, make_optimizers(model, ocfg), ocfg, tcfg, callbacks, val and TokenData(data/val))

def weights(t): return torch.cat([p.detach().flatten() for p in t.raw_model.parameters()])

@pytest.mark.parametrize('tcfg, shape', [(dict(), dict(dropout=.2)), (dict(dtype='bfloat16'), dict(act='swiglu', tie_embeddings=True)), *[(dict(compile=True), dict())]*SLOW])
def test_training_doesnt_notice(data, tmp_path, tcfg, shape):
    "The same weights to the last bit, and the same dice, with dropout, accumulation, 16 bits, the compiler"
    quiet = trainer(data, tmp_path/'a', tcfg, **shape).fit()
    dice = torch.get_rng_state()
    watched = trainer(data, tmp_path/'b', tcfg | dict(inside=1), dict(), **shape).fit()
    assert torch.equal(weights(quiet), weights(watched)) and torch.equal(dice, torch.get_rng_state())
    assert [r['step'] for r in read_inside(tmp_path/'b')] == [*range(7)] and watched.raw_model.training
    assert not any(p.grad is not None for p in watched.params) and not (tmp_path/'a').exists()

def test_what_a_look_says_is_so(data, tmp_path):
    "Loss and gradients as the model itself gives them; updates as the optimiser makes them"
    t = trainer(data, tmp_path, dict(inside=2, max_steps=2), callbacks=[])
    x, y, mask = probe_batch(t)
    t.fit()
    before = [o for o in read_inside(tmp_path)]
    t.raw_model.eval()
    loss = t.raw_model(x, y, mask)[1]
    loss.backward()
    last = before[-1]
    assert last['loss'] == pytest.approx(loss.item(), rel=1e-3)
    for name, p in t.raw_model.named_parameters():
        if p.ndim > 1: assert last['grads'][name] == pytest.approx(p.grad.norm().item(), rel=1e-3)
    assert 0 < last['updates']['wte.weight'] < .5 and not before[0]['updates']
    assert sum(last['layers'][0]['counts']['stream']) == x.numel()*16

def test_magnitudes_and_evenness_by_hand():
    counts = magnitudes(torch.tensor([0., 1., -1.5, 2., 2.**-40, 2.**30, math.inf]))
    assert (counts[0], counts[1 - LOWEST], counts[2 - LOWEST], counts[-1], len(counts)) == (2, 2, 1, 2, HIGHEST - LOWEST + 1)
    w = torch.tensor([[1., 0, 0], [.5, .5, 0], [0, 0, 1.]])[None, None]
    assert evenness(w, torch.ones(3, 3, dtype=torch.bool).tril()).item() == pytest.approx(.5)     # one row of all, one of nothing

def test_resumed_as_if_never_interrupted(data, tmp_path):
    "inside.jsonl, byte for byte; records after the checkpoint are cut off"
    words = ['--train_data', data/'train.bin', '--val_data', data/'val.bin', *'--vocab_size 40 --block_size 16 --n_layer 2 --n_head 2 --n_embd 16 --batch_size 4 --device cpu '
             '--num_threads 1 --eval_interval 0 --no-plot_loss --inside 2 --max_steps 9 --checkpoint_interval 5 --schedule constant --auto_resume --out_dir'.split()]
    assert spoken(nanogpt_train, *words, tmp_path/'whole')[0] == 0
    assert spoken(nanogpt_train, *words, tmp_path/'parts')[0] == 0
    whole, parts = (tmp_path/o/'inside.jsonl' for o in ('whole', 'parts'))
    assert [r['step'] for r in read_inside(whole)] == [0, 2, 4, 6, 8, 9] and whole.read_bytes() == parts.read_bytes()
    for name in ('model_00009.pt',): (tmp_path/'parts'/name).unlink()          # as if killed after step 9, saved at 5
    code, said = spoken(nanogpt_train, *words, tmp_path/'parts')
    assert code == 0 and 'at step 5' in said and 'not bit for bit' not in said
    assert whole.read_bytes() == parts.read_bytes()

def sick(**how):
    "A healthy record of three layers, with something else"
    layer = dict(stream=1., attn=.1, mlp=.2, silent=.02, entropy=[.8, .6], grad=.5, counts={})
    record = dict(step=100, loss=3., uniform=7.6, logits=dict(rms=2., largest=9.), embedding=.1, layers=[dict(layer) for _ in range(3)], grads={}, updates=dict(a=.01, b=.02, c=.03))
    record['layers'][1] |= {k: v for k, v in how.items() if k in layer}
    return record | {k: v for k, v in how.items() if k not in layer}

@pytest.mark.parametrize('how, words', [
    (dict(silent=.9), ['layer 1 is dead: 90%']), (dict(mlp=9.), ['layer 1 drowns the others: its mlp adds 9']), (dict(grad=6.), ['gradients differ through depth: 6 in layer 1']),
    (dict(grad=0.), ['gradients differ']), (dict(loss=8.), ['guessing evenly']), (dict(updates=dict(a=.3, b=.4, c=0.)), ['by 30% of its length']),
    (dict(logits=dict(rms=11., largest=50.)), ['sure of everything']), (dict(entropy=[.01, 0.]), ['one token at a time']),
    (dict(), []), (dict(step=2, updates=dict(a=.9)), []), (dict(silent=None, entropy=[], grad=None, mlp=None, updates={}), []), (dict(entropy=[0., .5]), [])])
def test_findings(how, words):
    found = findings(sick(**how))
    assert len(found) == len(words) and all(o in found[0] for o in words), found

OTHERS = [dict(taps=2, pos='rotary', norm_embed=True), dict(grams=2, gram_rows=50), dict(window=4, window_pattern='LG'), dict(act='gelu', norm='layernorm', bias=True, pos='learned'),
          dict(n_kv_head=1, qk_norm=True, logit_softcap=5., tie_embeddings=True)]

@pytest.mark.parametrize('shape', OTHERS)
def test_the_lens_ends_at_the_models_own_words(shape):
    seed_everything(3)
    model = GPT(GPTConfig(**SHAPE | shape))
    ids = torch.arange(12)
    lens = logit_lens(model, ids)
    assert lens.shape == (3, 12, 40) and torch.equal(lens[-1], model.eval()(ids[None])[0][0])
    record = look(model, ids[None, :-1], ids[None, 1:])
    assert len(record['layers'][1]['entropy']) == 2 and record['layers'][1]['counts'].keys() == {'stream', 'hidden', 'grad'}

def test_a_layer_without_attention(data, tmp_path):
    "It is looked at as far as it goes, and drawn"
    t = trainer(data, tmp_path, dict(inside=1, max_steps=2))
    class Nothing(torch.nn.Module):
        def forward(self, x, *more): return 0*x
    t.raw_model.blocks[0].attn = Nothing()
    t.params = [p for p in t.raw_model.parameters()]
    t.fit()
    layers = read_inside(tmp_path)[-1]['layers']
    assert 'entropy' not in layers[0] and len(layers[1]['entropy']) == 2
    assert len(draw_inside(tmp_path)) == 6

def test_bad_input(data, tmp_path):
    for value, words in ((-1, 'inside=-1: expected 0 or more'), ('often', "inside='often': expected a whole number"), (1.5, 'expected a whole number')):
        with pytest.raises(UserError, match=words): resolve(RunConfig, ['--inside', str(value)])
    assert [resolve(RunConfig, o)[0].train.inside for o in ([], ['--inside'], ['--inside', '7'], ['--inside', '--no-compile'])] == [0, 100, 7, 100]
    with pytest.raises(UserError, match='inside=0: expected at least 1'): Inside(0, tmp_path)
    t = trainer(data, tmp_path, dict(inside=1))
    t.raw_model = torch.nn.Linear(2, 2)
    with pytest.raises(UserError, match='a Linear has none'): t.callbacks[0].on_fit_start(t)
    t.strategy.sliced = True
    with pytest.raises(UserError, match='--strategy fsdp'): t.callbacks[0].on_fit_start(t)
    with pytest.raises(UserError, match='has no blocks'): logit_lens(torch.nn.Linear(2, 2), torch.arange(3))
    t = trainer(data, tmp_path, dict(inside=1), val=None)
    assert len(probe_batch(t)[0]) > 1                                       # of the training data
    with pytest.raises(UserError, match='at least 20'): find_rate(t, 3)

def test_a_damaged_file(data, tmp_path):
    t = trainer(data, tmp_path, dict(inside=3)).fit()
    path = tmp_path/'inside.jsonl'
    good = path.read_text().splitlines()
    record = json.loads(good[-1])
    for part in ('layers', 'logits', 'step'):
        path.write_text('\n'.join([*good, json.dumps(record | {part: 'x'}), 'oops', '']))
        assert len(read_inside(tmp_path)) == len(good)
    record['layers'][0]['counts']['stream'].pop()
    path.write_text(json.dumps(record) + '\n')
    with pytest.raises(UserError, match='no record'): read_inside(tmp_path)
    code, _, err = heard(nanogpt_plot, tmp_path, '--inside')
    assert code == 1 and 'no record of a look' in err and err.count('\n') <= 2
    code, _, err = heard(nanogpt_plot, tmp_path/'nowhere', '--inside')
    assert code == 1 and 'nowhere is not a run folder' in err

def test_the_command_finds_a_rate_and_keeps_no_weights(data, tmp_path):
    words = ['--train_data', data/'train.bin', '--val_data', data/'val.bin', *'--vocab_size 40 --block_size 16 --n_layer 1 --n_head 2 --n_embd 16 --batch_size 4 --device cpu '
             '--num_threads 1 --learning_rate 1e-2 --find_rate 60 --out_dir'.split(), tmp_path/'run']
    code, said = spoken(nanogpt_train, *words)
    assert code == 0 and 'falls fastest at --learning_rate' in said and 'no weights were kept' in said, said
    assert [p.name for p in (tmp_path/'run').iterdir() if not p.name.startswith('.')] == ['rates.png']
    t = trainer(data, tmp_path/'x', ocfg=dict(learning_rate=3e-3))
    sweep = find_rate(t, 60)
    assert 3e-4 < sweep.best*sweep.rate < .3 and (sweep.diverged or len(sweep.losses) == 60)
