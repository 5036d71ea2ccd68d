"What the model, attention and decoding must do on devices that aren't here, tested on a CPU"
from contextlib import ExitStack
from dataclasses import fields
from typing import Literal, get_args, get_origin, get_type_hints
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
import nanogpt_lit.model as model_module
from nanogpt_lit.config import GPTConfig, OptimConfig
from nanogpt_lit.core import UserError, fast_bfloat16, pick_dtype
from nanogpt_lit.generate import Predictor, is_plain
from nanogpt_lit.model import GPT, loss_alone
from nanogpt_lit.optim import coefficients, lr_factor, make_optimizers, muon_scale
from nanogpt_lit.sizing import flops_table, param_table
from nanogpt_lit.trainer import SingleDevice
from nanogpt_lit.translate import hf_config

# attention, model, decoding


def choices(cls):
    "The fields of a configuration that are one of several words, with the words: from the annotations, so that new ones are met"
    return {name: get_args(kind) for name, kind in get_type_hints(cls).items() if get_origin(kind) is Literal}


SMALL = dict(vocab_size=50, block_size=16, n_layer=2, n_head=4, n_embd=32, qk_norm=True, taps=1, norm_embed=True)
OPTIONS = choices(GPTConfig)


def small_model(**kw):
    torch.manual_seed(0)
    model = GPT(GPTConfig(**SMALL | kw)).eval()
    for p in model.parameters(): nn.init.normal_(p, std=.2)
    return model


@pytest.mark.parametrize('option, value', [(o, v) for o, values in OPTIONS.items() for v in values])
def test_every_value_of_every_option_decodes_as_it_reads(option, value):
    model, text = small_model(**{option: value}), [[1, 2, 3]]
    ways = [Predictor(model, use_cache=o) for o in (True, False)]
    for i in (7, 8, 9, 7, 3):
        quick, slow = (way(text) for way in ways)
        torch.testing.assert_close(quick, slow, rtol=1e-4, atol=1e-4)
        text[0].append(i)


@pytest.mark.parametrize('option', OPTIONS)
def test_a_value_that_the_fast_path_does_not_know_goes_the_slow_way(option):
    model = small_model()
    assert is_plain(model)
    setattr(model.cfg, option, 'tomorrow')
    assert not is_plain(model)


def test_an_option_that_has_become_a_word_goes_the_slow_way():
    for f in fields(GPTConfig):
        model = small_model()
        setattr(model.cfg, f.name, 'tomorrow')
        assert not is_plain(model), f.name


@pytest.mark.parametrize('option', OPTIONS)
def test_a_value_that_nobody_knows_is_refused_when_the_model_is_built(option):
    cfg = GPTConfig(**SMALL)
    setattr(cfg, option, 'tomorrow')
    with pytest.raises(UserError, match=f"{option}='tomorrow' is unknown"): GPT(cfg)
    with pytest.raises(UserError, match=option): hf_config(cfg)


def test_the_operations_of_every_activation_are_those_of_its_matrices():
    for act in OPTIONS['act']:
        cfg = GPTConfig(**SMALL | dict(act=act, bias=False, taps=0))
        assert flops_table(cfg)['MLP'] == 2*param_table(cfg)['MLP'], act
    cfg.act = 'tomorrow'
    with pytest.raises(UserError, match="act='tomorrow' is unknown"): flops_table(cfg)


def test_every_word_of_the_optimiser_is_known_and_no_other():
    for option, values in choices(OptimConfig).items():
        for value in (*values, 'tomorrow'):
            cfg = OptimConfig(learning_rate=1e-3, warmup_steps=5)
            cfg.optimizer = 'muon'
            setattr(cfg, option, value)
            def use():
                opts = make_optimizers(small_model(), cfg)
                assert all(0 < lr_factor(step, cfg, 20) <= 1 for step in (1, 10))
                for p in (p for o in opts for g in o.param_groups for p in g['params']): p.grad = torch.ones_like(p)
                for o in opts: o.step()
            if value != 'tomorrow': use()
            else:
                with pytest.raises(UserError, match=f"{option}='tomorrow' is unknown"): use()


def fake_cards(monkeypatch, *majors):
    "torch.cuda as on a machine with cards of these generations; like the real one it counts emulated bfloat16 as supported"
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: len(majors))
    monkeypatch.setattr(torch.cuda, 'is_bf16_supported', lambda including_emulation=True: including_emulation or majors[0] >= 8)
    monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda device=None: (majors[torch.device(device or 'cuda').index or 0], 0))


@pytest.mark.parametrize('major, dtype', [(7, 'float16'), (8, 'bfloat16'), (9, 'bfloat16')])
def test_bfloat16_is_taken_where_the_hardware_has_it_and_not_where_it_is_emulated(monkeypatch, major, dtype):
    fake_cards(monkeypatch, major)
    assert [pick_dtype('cuda', asked) for asked in ('auto', 'fast', 'bfloat16')] == [dtype, dtype, 'bfloat16']
    assert SingleDevice('cuda', 'auto').scaler.is_enabled() is (dtype == 'float16')


def test_bfloat16_is_asked_of_the_card_that_is_meant(monkeypatch):
    fake_cards(monkeypatch, 9, 7)
    assert [fast_bfloat16(o) for o in ('cuda', 'cuda:0', 'cuda:1')] == [True, True, False]
    assert pick_dtype('cuda:1') == 'float16'


WIDE = dict(vocab_size=1000, block_size=32, n_layer=1, n_head=2, n_embd=32)


def both_ways(monkeypatch, dtype, limit=7000, mask=None, scale=1., **kw):
    "Loss and gradients of a small model by the plain way and in chunks of at most `limit` scores"
    torch.manual_seed(0)
    model = GPT(GPTConfig(**WIDE | kw))
    ids, targets = torch.randint(1000, (2, 4, 32))
    out = []
    for most in (2**27, limit):
        monkeypatch.setattr(model_module, 'SCORES_AT_ONCE', most)
        with torch.autocast('cpu', dtype, enabled=dtype != torch.float32), loss_alone(): logits, loss = model(ids, targets, mask)
        assert logits is None
        loss.mul(scale).backward()
        out.append((loss.detach(), {n: p.grad/scale for n, p in model.named_parameters()}))
        model.zero_grad()
    return out


@pytest.mark.parametrize('kw', [{}, dict(tie_embeddings=False), dict(logit_softcap=2.)], ids=str)
@pytest.mark.parametrize('masked', [False, True])
@pytest.mark.parametrize('dtype, tolerance', [(torch.float32, 1e-6), (torch.bfloat16, 2e-2), (torch.float16, 4e-3)], ids=str)
def test_loss_and_gradients_in_chunks_are_those_of_all_scores_at_once(monkeypatch, dtype, tolerance, masked, kw):
    mask = (torch.rand(4, 32, generator=torch.Generator().manual_seed(1)) < .4).float() if masked else None
    scale = 2.**14 if dtype == torch.float16 else 1.
    (loss, grads), (loss_chunked, grads_chunked) = both_ways(monkeypatch, dtype, mask=mask, scale=scale, **kw)
    torch.testing.assert_close(loss_chunked, loss, rtol=1e-6 if dtype == torch.float32 else 1e-3, atol=0)
    for name, g in grads.items():
        assert (g - grads_chunked[name]).norm() <= tolerance*g.norm(), name


def test_never_all_scores_at_once_neither_forward_nor_backward(monkeypatch):
    torch.manual_seed(0)
    model = GPT(GPTConfig(**WIDE | dict(n_embd=8)))
    ids, targets = torch.randint(1000, (2, 4, 32))
    monkeypatch.setattr(model_module, 'SCORES_AT_ONCE', 16_000)
    class Largest(TorchDispatchMode):
        most = 0
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            self.most = max([self.most] + [o.numel() for o in tree_leaves(out) if isinstance(o, torch.Tensor) and o.shape[-1:] == (1000,)])
            return out
    def largest(*contexts):
        with ExitStack() as stack:
            for o in contexts: stack.enter_context(o)
            with Largest() as mode: model(ids, targets)[1].backward()
        return mode.most
    assert largest() == 4*32*1000
    assert largest(loss_alone()) == 16_000


def test_whoever_wants_scores_gets_them_and_altered_heads_go_the_plain_way(monkeypatch):
    model = GPT(GPTConfig(**WIDE))
    ids, targets = torch.randint(1000, (2, 4, 32))
    monkeypatch.setattr(model_module, 'SCORES_AT_ONCE', 5000)
    want, loss = model(ids, targets)
    assert want.shape == (4, 32, 1000)
    with pytest.raises(ZeroDivisionError), loss_alone(): 1/0
    with loss_alone():
        assert model(ids)[0].shape == want.shape, 'without targets the scores are all there is'
        with loss_alone(): pass
        assert model(ids, targets)[0] is None
    torch.testing.assert_close(model(ids, targets)[0], want)
    seen = []
    model.head.register_forward_hook(lambda m, args, y: seen.append(y.shape))
    with loss_alone(): torch.testing.assert_close(model(ids, targets)[1], loss)
    assert seen, 'a hook on the head sees its scores'


def test_frozen_weights_cost_no_gradient_in_chunks(monkeypatch):
    model = GPT(GPTConfig(**WIDE, tie_embeddings=False))
    ids, targets = torch.randint(1000, (2, 4, 32))
    monkeypatch.setattr(model_module, 'SCORES_AT_ONCE', 5000)
    model.head.weight.requires_grad_(False)
    with loss_alone(): model(ids, targets)[1].backward()
    assert model.head.weight.grad is None and model.wte.weight.grad.any()
    with loss_alone(), torch.no_grad(): assert not model(ids, targets)[1].requires_grad
