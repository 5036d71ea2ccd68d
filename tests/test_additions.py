"""An addition is one row: an activation, a position scheme, a schedule and an optimiser, added and removed at run time, each in one place.

Each is trained with, writes the same tokens with a cache and without, is counted by sizing, and is refused by the exporter with the reason.
`PLACES` is the table of nbs/21a_options.ipynb, 'The words of a setting': all that had to be touched.
"""
import json
from contextlib import contextmanager
from dataclasses import replace
import pytest
import torch
from torch import nn
from nanogpt_lit.attention import POSITIONS, Learned, Positions, Rotary
from nanogpt_lit.config import COMMANDS, GATED, STATE_BYTES, GPTConfig, OptimConfig, RunConfig, build, flat_values, help_text, resolve
from nanogpt_lit.core import UserError
from nanogpt_lit.decode import DecodeStep, Predictor, is_plain
from nanogpt_lit.generate import darts, draw_ids, generate
from nanogpt_lit.interop import to_hf
from nanogpt_lit.model import ACTIVATIONS, GPT, NORMS, Activation
from nanogpt_lit.optim import OPTIMIZERS, SCHEDULES, OptimizerKind, lr_at, lr_factor, make_optimizers, odd_schedule, set_lr
from nanogpt_lit.sizing import check_weights_fit, flops_table, forecast, inference_memory, param_table, rehearse, too_large
from nanogpt_lit.translate import FAMILIES, cannot, hf_config

@contextmanager
def added(table, word, meaning):
    "Within this block there is one more row"
    table[word] = meaning
    try: yield
    finally: del table[word]

class FromTheEnd(Positions):
    "A vector for each position, and queries and keys that grow with theirs: nothing like the schemes that there are"
    def prepare(self, model): model.wpe = nn.Embedding(model.cfg.block_size, model.cfg.n_embd)
    def embed(self, model, x_BTC, pos): return x_BTC + model.wpe(model.cfg.block_size - 1 - pos)
    def tables(self, model, pos): return (1 + pos/10)[:, None] if pos.ndim == 1 else (1 + pos/10)[:, None, :, None]
    def turn(self, q_BHTD, k_BKTD, where): return q_BHTD*where.to(q_BHTD.dtype), k_BKTD/where.to(k_BKTD.dtype)

class CentreNorm(nn.Module):
    "Subtracts the mean, and no more"
    def __init__(self, n): super().__init__(); self.gain = nn.Parameter(torch.ones(n))
    def forward(self, x): return (x - x.mean(-1, keepdim=True))*self.gain

# what is added → the table, the word, the row: the only place that is touched
PLACES = {
    'activation': (ACTIVATIONS, 'sine', Activation(torch.sin)),
    'gated activation': (ACTIVATIONS, 'sineglu', Activation(torch.sin, gated=True)),
    'position': (POSITIONS, 'from_the_end', FromTheEnd()),
    'norm': (NORMS, 'centre', lambda cfg: CentreNorm(cfg.n_embd)),
    'schedule': (SCHEDULES, 'stairs', lambda at, cfg: 1 - .25*int(4*at.run)),
    'optimiser': (OPTIMIZERS, 'sgd', OptimizerKind(lambda groups, cfg, device: [torch.optim.SGD(sum(groups.values(), []), lr=cfg.learning_rate)], state_bytes=0))}
OF_THE_MODEL = ['activation', 'gated activation', 'position', 'norm']

def small(**kw): return GPTConfig(**dict(vocab_size=40, block_size=16, n_layer=2, n_head=4, n_embd=32, bias=False) | kw)

def loud(cfg):
    "A model whose weights are so large that every token matters"
    torch.manual_seed(1)
    model = GPT(cfg).double()
    for p in model.parameters(): nn.init.normal_(p, std=.3)
    return model.eval()

def field_of(what): return PLACES[what][0].field

@pytest.mark.parametrize('what', PLACES)
def test_a_setting_takes_the_word_while_there_is_a_row_and_no_longer(what):
    table, word, _ = PLACES[what]
    kind, before = (GPTConfig if what in OF_THE_MODEL else OptimConfig), help_text(COMMANDS['nanogpt-train'])
    with pytest.raises(UserError, match=f"{table.field}='{word}': expected"): kind(**{table.field: word})
    with added(*PLACES[what]):
        cfg = kind(**{table.field: word})
        assert build(kind, flat_values(cfg)) == cfg                                                       # as a checkpoint is read
        assert getattr(resolve(kind, [f'--{table.field}', word])[0], table.field) == word                 # as a flag
        assert word in help_text(COMMANDS['nanogpt-train'])
    with pytest.raises(UserError, match=f"{table.field}='{word}': expected"): kind(**{table.field: word})
    with pytest.raises(UserError, match='is unknown'): table.of(word)
    assert help_text(COMMANDS['nanogpt-train']) == before
    assert (GATED, STATE_BYTES) == ({k: o.gated for k, o in ACTIVATIONS.items()}, {k: o.state_bytes for k, o in OPTIMIZERS.items()})

@pytest.mark.parametrize('what', OF_THE_MODEL)
def test_it_writes_the_same_tokens_cached_and_uncached(what):
    "In company, with padding, beyond the context; the lean step, compiled or not, leaves what it doesn't know to the model"
    table, word, _ = PLACES[what]
    rows = [[1, 2, 3], [4], [5]*20]
    with added(*PLACES[what]):
        model, usual = loud(small(**{table.field: word})), loud(small())
        for kw in (dict(temperature=0), dict(seed=3), dict(seed=4, slide=1)):
            want = generate(model, rows, 30, use_cache=False, **kw)
            assert generate(model, rows, 30, **kw) == want
            assert generate(model, rows, 30, compile=dict(backend='eager'), **kw) == want
        assert generate(model, rows, 30, temperature=0) != generate(usual, rows, 30, temperature=0)       # it does something
        assert not is_plain(model) and is_plain(usual)

def test_a_known_word_with_another_meaning_takes_the_plain_way():
    "The step looks at what the model holds, not at what that is called"
    class Backwards(Rotary):
        def turn(self, q, k, where): return super().turn(q.flip(-1), k, where)
    class Halved(Learned):
        def embed(self, model, x, pos): return super().embed(model, x, pos//2)
    for table, word, row in ((POSITIONS, 'rotary', Backwards()), (POSITIONS, 'learned', Halved()), (ACTIVATIONS, 'gelu', Activation(torch.cos)),
                             (NORMS, 'layernorm', lambda cfg: CentreNorm(cfg.n_embd))):
        usual = table[word]
        table[word] = row
        try: model = loud(small(**{table.field: word}))
        finally: table[word] = usual
        assert not is_plain(model), word
        assert generate(model, [[1, 2], [3]], 30, seed=1) == generate(model, [[1, 2], [3]], 30, seed=1, use_cache=False), word

def test_a_gate_for_a_bend_that_is_known_is_decoded_the_quick_way():
    with added(ACTIVATIONS, 'geglu', Activation(torch.nn.functional.gelu, gated=True)):
        model = loud(small(act='geglu'))
        predict = Predictor(model)
        predict([[1, 2, 3]])
        assert is_plain(model) and isinstance(predict.step, DecodeStep)
        assert generate(model, [[1, 2], [3]], 30, seed=1) == generate(model, [[1, 2], [3]], 30, seed=1, use_cache=False)

@pytest.mark.parametrize('what', OF_THE_MODEL)
def test_it_is_sized(what):
    table, word, _ = PLACES[what]
    with added(*PLACES[what]):
        cfg = small(**{table.field: word})
        model = GPT(cfg)
        held = sum(p.numel() for p in model.parameters())
        assert sum(param_table(cfg).values()) == held == model.num_params()
        assert flops_table(cfg)['MLP'] == 2*param_table(cfg)['MLP'] == 2*sum(p.numel() for b in model.blocks for p in b.mlp.parameters())
        looked_up = sum(p.numel() for n, p in model.named_parameters() if n == 'wpe.weight')
        assert model.num_params(non_embedding=True) == held - looked_up
        whole = rehearse(cfg, 4)
        assert whole.parts['gradients'] >= 4*held and whole.peak == forecast(cfg, 4).peak
        deep = replace(cfg, n_layer=9)
        assert forecast(deep, 4).peak == rehearse(deep, 4).peak                                           # the line through shallow ones
        assert inference_memory(cfg)['weights'] == sum(o.nbytes for o in (*model.parameters(), *model.buffers()))
    with pytest.raises(UserError, match='is unknown'): flops_table(cfg) if table is ACTIVATIONS else GPT(cfg)

def test_an_optimiser_is_sized_by_what_it_says_it_remembers():
    run = RunConfig(model=small())
    weights = 4*sum(param_table(run.model).values())
    def least(name):
        "Bytes that a run needs at least"
        run.optim.optimizer = name
        for each in range(8, 30):
            try: check_weights_fit(run, each*weights//4)
            except UserError: continue
            return each
    assert [least(o) for o in ('adamw', 'muon')] == [16, 14]
    with added(*PLACES['optimiser']):
        assert least('sgd') == 8
        run.optim = OptimConfig(optimizer='sgd')
        made = lambda model, cfg, device: make_optimizers(model, cfg, device)
        assert rehearse(run.model, 2, optim_cfg=run.optim, optimizers=made).parts['optimiser states'] == 0
        assert f'({2*weights/1e3:.0f} kB of it' in too_large(run, 10**9, 10**5, optimizers=made).replace('.0 kB', ' kB')
    run.optim.optimizer = 'nobody knows'
    assert least('nobody knows') == 8                                                                     # refuses nothing that might fit

@pytest.mark.parametrize('what', OF_THE_MODEL)
def test_it_is_refused_by_export_with_the_reason(what, tmp_path):
    table, word, _ = PLACES[what]
    with added(*PLACES[what]):
        cfg = small(**{table.field: word})
        for family in FAMILIES: assert any(o.startswith(f'{table.field}={word} ') for o in cannot(cfg, family)), family
        with pytest.raises(UserError, match=f'{table.field}={word}'): hf_config(cfg)
        with pytest.raises(UserError, match=f'{table.field}={word}'): to_hf(GPT(cfg), tmp_path/'hf')
        assert not (tmp_path/'hf').exists()

def test_a_schedule_says_what_its_row_says():
    with added(*PLACES['schedule']):
        cfg = OptimConfig(schedule='stairs', learning_rate=1., warmup_steps=10)
        assert [lr_at(s, cfg, 100) for s in (10, 24, 25, 50, 99)] == [1., 1., .75, .5, .25]
        assert lr_factor(4, cfg, 100) == 5/11 and odd_schedule(cfg, 100) == ''
        assert 'in one step' in odd_schedule(replace(cfg, lr_decay_steps=5), 100)                        # found by its values
    for use in (lambda: lr_factor(50, cfg, 100), lambda: lr_factor(0, cfg, 100)):
        with pytest.raises(UserError, match="schedule='stairs' is unknown"): use()

def test_an_optimiser_makes_the_steps_that_its_row_makes():
    with added(*PLACES['optimiser']):
        cfg, model = OptimConfig(optimizer='sgd', learning_rate=.5), GPT(small())
        opts, before = make_optimizers(model, cfg), {n: p.detach().clone() for n, p in model.named_parameters()}
        for p in model.parameters(): p.grad = torch.ones_like(p)
        set_lr(opts, .5)
        for o in opts: o.step()
        for n, p in model.named_parameters(): torch.testing.assert_close(p.detach(), before[n] - .25)
    with pytest.raises(UserError, match="optimizer='sgd' is unknown"): make_optimizers(model, cfg)

def test_all_of_them_together_in_a_run_that_is_interrupted_and_goes_on(tmp_path):
    "Settings, trainer, checkpoint, resuming, a loaded run: everything that lies between a word and its row"
    from nanogpt_lit.interop import load_run
    from nanogpt_lit.pretrain import pretrain
    text = tmp_path/'t.txt'
    text.write_text('a line of text, and another one; then a third.\n'*300)
    words = {field_of(what): PLACES[what][1] for what in ('activation', 'position', 'schedule', 'optimiser', 'norm')}
    settings = words | dict(tokenizer='char', input=[str(text)], n_layer=1, n_head=2, n_embd=16, block_size=16, batch_size=4, eval_interval=4, checkpoint_interval=4,
                            device='cpu', dtype='float32', num_threads=1, monitoring=False, learning_rate=.3, dropout=0., log_interval=1)
    def run(name, steps, **kw): return pretrain(build(RunConfig, settings | dict(out_dir=str(tmp_path/name), max_steps=8, **kw) | steps), quiet=True)
    for what in ('activation', 'position', 'schedule', 'optimiser', 'norm'): PLACES[what][0][PLACES[what][1]] = PLACES[what][2]
    try:
        whole = run('whole', {})
        run('parts', dict(max_steps=4, lr_decay_steps=8))
        parts = run('parts', dict(lr_decay_steps=8, auto_resume=True))
        for n, p in whole.model.state_dict().items(): assert torch.equal(p, parts.model.state_dict()[n]), n
        logged = [json.loads(line) for line in (tmp_path/'whole'/'metrics.jsonl').read_text().splitlines()]
        rates = {o['step']: o['lr'] for o in logged if 'lr' in o}
        assert {round(o, 9) for o in rates.values()} <= {.3, .225, .15, .075} and len({*rates.values()}) > 1, rates
        losses = [o['val_loss'] for o in logged if 'val_loss' in o]
        assert losses[-1] < losses[0], losses
        loaded = load_run(tmp_path/'whole', 'cpu')
        assert {k: flat_values(loaded.model.cfg)[k] for k in ('act', 'pos', 'norm')} == {k: words[k] for k in ('act', 'pos', 'norm')}
        prompt = [loaded.tokenizer.encode('a line')]
        assert generate(loaded.model, prompt, 40, seed=1) == generate(loaded.model, prompt, 40, seed=1, use_cache=False)
        with pytest.raises(UserError, match='act=sine .*pos=from_the_end|pos=from_the_end .*act=sine'): to_hf(loaded, tmp_path/'hf')
    finally:
        for what in ('activation', 'position', 'schedule', 'optimiser', 'norm'): del PLACES[what][0][PLACES[what][1]]
    with pytest.raises(UserError, match='sine|from_the_end|centre'): load_run(tmp_path/'whole', 'cpu')     # nobody guesses what is missing

# --- a dart that lands on the end of the stick ---

@pytest.mark.parametrize('dtype', [torch.float32, torch.float64], ids=str)
def test_no_dart_flies_past_the_last_token(dtype, monkeypatch):
    "Where there is no float64 a number just below 1 is rounded to 1, and the id was one too many"
    largest = 1 - 2**-53
    monkeypatch.setattr(torch, 'rand', lambda *shape, **kw: torch.full(shape, largest, dtype=torch.float64))
    u_B = next(darts([7], dtype=dtype))
    assert u_B.dtype == dtype and u_B.item() < 1
    for total in (.1, 1/3, 1., 1 + 2**-23, 1.5, 2 - 2**-22, 1000.):                  # of whatever the probabilities sum to
        probs_BV = torch.tensor([[.2, .5, .3, 0., 0.]], dtype=dtype)*total
        assert draw_ids(probs_BV, u_B).item() == 2, total
