"What the model, attention and decoding must do on devices that aren't here, tested on a CPU"
from contextlib import ExitStack
from dataclasses import fields
from typing import Literal, get_args, get_origin, get_type_hints
import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary
import nanogpt_lit.attention as attention_module
import nanogpt_lit.generate as generate_module
import nanogpt_lit.model as model_module
from nanogpt_lit.attention import attend, causal_mask, rotary_tables
from nanogpt_lit.benchmarks import read_windows, tokens_of
from nanogpt_lit.config import GPTConfig, OptimConfig
from nanogpt_lit.core import UserError, fast_bfloat16, pick_dtype
from nanogpt_lit.evaluate import score_rows
from nanogpt_lit.decode import Predictor, is_plain
from nanogpt_lit.generate import generate, stream
from nanogpt_lit.finetune import response_loss
from nanogpt_lit.lora import add_lora
from nanogpt_lit.model import GPT, loss_alone
from nanogpt_lit.optim import lr_factor, make_optimizers
from nanogpt_lit.sizing import flops_table, param_table
from nanogpt_lit.trainer import SingleDevice, mean_loss
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


LARGE = dict(vocab_size=8192, block_size=32, n_layer=1, n_head=2, n_embd=16)


def plain_and_lean(monkeypatch, model, *batch, autocast=False, scale=1.):
    "(loss, gradients) of a model by all scores at once, and within `loss_alone`"
    out = []
    for large in (2**60, 2**13):
        monkeypatch.setattr(model_module, 'LARGE_VOCABULARY', large)
        with torch.autocast('cpu', torch.bfloat16, enabled=autocast), loss_alone(): loss = model(*batch)[1]
        loss.mul(scale).backward()
        out.append((loss.detach(), {n: p.grad for n, p in model.named_parameters()}))
        for p in model.parameters(): p.grad = None
    return out


@pytest.mark.parametrize('kw', [{}, dict(tie_embeddings=False), dict(logit_softcap=2.)], ids=str)
@pytest.mark.parametrize('masked', [False, True])
@pytest.mark.parametrize('dtype, tolerance', [(torch.float64, 1e-12), (torch.float32, 1e-6), (torch.bfloat16, 1e-2)], ids=str)
def test_a_large_vocabulary_has_the_loss_and_the_gradients_of_all_scores_at_once(monkeypatch, dtype, tolerance, masked, kw):
    torch.manual_seed(0)
    model = GPT(GPTConfig(**LARGE | kw)).to(torch.float32 if dtype == torch.bfloat16 else dtype)
    ids, targets = torch.randint(8192, (2, 4, 32))
    batch = (ids, targets, (torch.rand(4, 32) < .4).float()) if masked else (ids, targets)
    (loss, grads), (lean_loss, lean_grads) = plain_and_lean(monkeypatch, model, *batch, autocast=dtype == torch.bfloat16, scale=3.)
    assert loss.dtype == lean_loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(lean_loss, loss, rtol=1e-5 if dtype == torch.bfloat16 else tolerance, atol=0)
    for name, g in grads.items():
        assert lean_grads[name].layout == torch.strided
        assert (g - lean_grads[name]).norm() <= tolerance*g.norm(), name


def test_a_target_of_minus_100_counts_nowhere(monkeypatch):
    torch.manual_seed(0)
    model = GPT(GPTConfig(**LARGE))
    model._check_ids = lambda *args, **kw: None          # on a CPU whoever calls the model is told of such a target
    ids, targets = torch.randint(8192, (2, 4, 32))
    targets[1, :20] = -100
    (loss, grads), (lean_loss, lean_grads) = plain_and_lean(monkeypatch, model, ids, targets)
    torch.testing.assert_close(lean_loss, loss)
    torch.testing.assert_close(lean_grads, grads, rtol=1e-4, atol=1e-7)


def test_gradients_are_added_up_asked_for_twice_and_one_matrix_has_one_gradient(monkeypatch):
    torch.manual_seed(0)
    model = GPT(GPTConfig(**LARGE))
    batches = [torch.randint(8192, (2, 4, 32)) for _ in range(2)]
    for ids, targets in batches: model(ids, targets)[1].div(2).backward()
    want = {n: p.grad for n, p in model.named_parameters()}
    for p in model.parameters(): p.grad = None
    made = []
    class Made(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            new = isinstance(out, torch.Tensor) and out.shape == (8192, 16) and all(out is not o for o in args) and not func.is_view
            if new: made.append(str(func))
            return out
    for i, (ids, targets) in enumerate(batches):
        with loss_alone(): loss = model(ids, targets)[1].div(2)
        if i:                                            # looked at before they are wanted: the graph is kept
            shown = torch.autograd.grad(loss, [*model.parameters()], retain_graph=True)
            again = torch.autograd.grad(loss, [*model.parameters()], retain_graph=True)
            for a, b in zip(shown, again): torch.testing.assert_close(a, b, rtol=0, atol=0)
        with Made(): loss.backward()
        if not i: assert len(made) <= 1, f'no further matrix as large as the embedding is needed, got {made}'
    torch.testing.assert_close({n: p.grad for n, p in model.named_parameters()}, want, rtol=1e-4, atol=1e-7)
    with torch.no_grad(), loss_alone(): alone = model(*batches[0])[1]
    torch.testing.assert_close(alone, model(*batches[0])[1].detach())
    assert model.wte.sparse is False


class OnAccelerator(TorchFunctionMode):
    "Pretends that some tensors, and all that is computed with them, are on a device that has no float64, as Apple's"
    def __init__(self, tensors):
        super().__init__()
        self.there, self.results = WeakTensorKeyDictionary(), 0
        for t in tensors: self.there[t] = True

    def __torch_function__(self, func, types, args=(), kwargs=None):
        from_there = any(isinstance(o, torch.Tensor) and o in self.there for o in tree_leaves((args, kwargs)))
        out = func(*args, **(kwargs or {}))
        if not from_there: return out
        if func is torch.Tensor.cpu: return out.view_as(out)          # another tensor, which is here
        for o in tree_leaves(out):
            if not isinstance(o, torch.Tensor): continue
            if o.dtype == torch.float64: raise TypeError(f'{func.__name__} makes a float64 tensor on a device that has none')
            self.there[o], self.results = True, self.results + 1
        return out


def use_generate(model): generate(model, [[1, 2, 3], [4]], 20, seed=1, repetition_penalty=1.1, logprobs=2, top_p=.9)
def use_hellaswag(model): score_rows(model, [([1, 2, 3, 4], 2), ([5, 6, 7], 1)])
def use_windows(model): [*read_windows(model, tokens_in_memory([*range(40)]*3))]


def tokens_in_memory(ids):
    class Characters:
        eot_id, vocab_size, hash = None, 50, 'none'
        def encode_to_numpy(self, text): return np.array(ids)
    return tokens_of(['text'], Characters())


USES = [use_generate, use_hellaswag, use_windows]


def use_validation(model):
    class Tokens:
        documents = False
        def __len__(self): return 100
        def gather(self, starts, length): return np.ones((len(starts), length), dtype=np.int64)
    assert mean_loss(model, Tokens(), 2, 16, max_tokens=64, rows=1) > 0


def use_answers(model):
    class Rows:
        n_windows = 3
        def fetch(self, which):
            ids = torch.ones(len(which), 16, dtype=torch.int64)
            return ids, ids, torch.ones(len(which), 16)
    assert response_loss(model, Rows(), 2) > 0


@pytest.mark.parametrize('use', [*USES, use_validation, use_answers], ids=lambda f: f.__name__)
def test_nothing_is_made_in_float64_on_a_device(monkeypatch, use):
    darts = generate_module.darts
    monkeypatch.setattr(generate_module, 'darts', lambda *args: (u.float() for u in darts(*args)))     # as on that device
    model = small_model(pos='rotary')
    with OnAccelerator([*model.parameters(), *model.buffers()]) as device: use(model)
    assert device.results > 20


def test_the_pretended_device_notices_float64():
    weight = torch.ones(3)
    with OnAccelerator([weight]):
        (weight*2).cpu().double()
        with pytest.raises(TypeError, match='float64'): (weight*2).double().cpu()


class NoFloat64(TorchDispatchMode):
    "Refuses tensors of float64 that aren't on the CPU"
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for o in tree_leaves(out):
            if isinstance(o, torch.Tensor) and o.dtype == torch.float64 and o.device.type != 'cpu':
                raise TypeError(f'{func} makes a float64 tensor on {o.device}')
        return out


def test_rotary_tables_are_made_for_a_device_without_float64(monkeypatch):
    real = torch.Tensor.to
    def to(self, *args):                                               # this torch can't copy to a device that it hasn't got
        return torch.empty_like(self, device=args[0]) if isinstance(args[0], torch.device) else real(self, *args)
    monkeypatch.setattr(torch.Tensor, 'to', to)
    with FakeTensorMode(), NoFloat64():
        with torch.device('mps'): by_default = rotary_tables(8, 4)
        for table in (*by_default, *rotary_tables(8, 4, device='mps')):
            assert table.device.type == 'mps' and table.dtype == torch.float32 and table.shape == (4, 8)
        with pytest.raises(TypeError, match='float64'): torch.ones(2, device='mps').double()


def test_darts_are_thrown_in_a_number_type_that_the_device_has(monkeypatch):
    real = torch.Tensor.to
    def to(self, *args, **kw):                                         # this torch can't copy to a device that it hasn't got
        asked = {torch.device(o).type for o in (*args, kw.get('device')) if isinstance(o, (str, torch.device))}
        if 'mps' not in asked: return real(self, *args, **kw)
        dtypes = [o for o in (*args, *kw.values()) if isinstance(o, torch.dtype)]
        assert (dtypes or [self.dtype])[0] != torch.float64, 'float64 on its way to a device that has none'
        return real(self, (dtypes or [self.dtype])[0])
    monkeypatch.setattr(torch.Tensor, 'to', to)
    first = {device: next(iter(generate_module.darts([1, 2], device))) for device in ('cpu', 'mps')}
    assert first['mps'].dtype == torch.float32
    torch.testing.assert_close(first['mps'].double(), first['cpu'].double(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize('use', USES, ids=lambda f: f.__name__)
def test_decoding_and_scoring_do_without_the_kernel_that_plans_for_each_length(monkeypatch, use):
    seen, attention = [], torch.nn.functional.scaled_dot_product_attention
    def watched(*args, **kw):
        seen.append(torch.backends.cuda.cudnn_sdp_enabled())
        return attention(*args, **kw)
    monkeypatch.setattr(torch.nn.functional, 'scaled_dot_product_attention', watched)
    for before in (True, False):
        torch.backends.cuda.enable_cudnn_sdp(before)
        try:
            use(small_model())
            assert torch.backends.cuda.cudnn_sdp_enabled() is before
        finally: torch.backends.cuda.enable_cudnn_sdp(True)
    assert seen and not any(seen)


def test_between_two_tokens_attention_is_as_it_was():
    assert torch.backends.cuda.cudnn_sdp_enabled()
    for _ in stream(small_model(), [[1, 2]], 3): assert torch.backends.cuda.cudnn_sdp_enabled()
    with pytest.raises(IndexError): Predictor(small_model())([[99]])
    assert torch.backends.cuda.cudnn_sdp_enabled()


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize('T, S, own_mask, masked', [(8, 8, False, False), (1, 8, False, False), (3, 8, False, True), (8, 8, True, True)])
def test_on_a_gpu_shared_keys_are_repeated_where_only_the_slow_path_could_share_them(monkeypatch, dtype, T, S, own_mask, masked):
    calls = []
    def watched(q, k, v, attn_mask=None, dropout_p=0., is_causal=False, enable_gqa=False):
        calls.append((k.shape[1], v.shape[1], attn_mask is not None, enable_gqa))
        return torch.empty_like(q)
    monkeypatch.setattr(torch.nn.functional, 'scaled_dot_product_attention', watched)
    with FakeTensorMode():
        q, k, v = (torch.empty(2, heads, n, 16, dtype=dtype, device='cuda') for heads, n in ((8, T), (2, S), (2, S)))
        attend(q, k, v, causal_mask(T, S, 'cuda', window=3) if own_mask else None)
        attend(q, q, q)                                                # nothing to share, nothing to repeat
    flash = dtype != torch.float32 and not masked
    assert calls[0] == ((2, 2, masked, True) if flash else (8, 8, masked, False))
    assert calls[1][0] == 8 and not calls[1][3]


@pytest.mark.parametrize('T, window', [(9, None), (4, None), (9, 3), (1, None)])
def test_repeated_keys_give_what_shared_ones_give(monkeypatch, T, window):
    torch.manual_seed(0)
    args = [torch.randn(2, heads, n, 8, requires_grad=True) for heads, n in ((4, T), (2, 9), (2, 9))]
    mask = causal_mask(T, 9, window=window) if window else None
    def run(): return [y := attend(*args, mask), *torch.autograd.grad(y.cos().sum(), args)]
    shared = run()
    monkeypatch.setattr(attention_module, 'must_repeat', lambda *args: True)
    for a, b in zip(run(), shared): torch.testing.assert_close(a, b)


MODERN = dict(pos='rotary', norm='rmsnorm', act='swiglu', qk_norm=True, n_kv_head=2, bias=False, tie_embeddings=False, logit_softcap=15.)
KINDS = {'classic': {}, 'modern': MODERN, 'race': dict(pos='none', act='relu2', taps=2, norm_embed=True, window=5, window_pattern='LG'),
         'documents': MODERN, 'lora': {}, 'large vocabulary': {}}


@pytest.mark.parametrize('kind, dtype', [('classic', 'float32'), *((kind, 'bfloat16') for kind in KINDS)])
def test_one_graph_and_no_breaks_over_thirty_steps_with_evaluation_and_sampling_between(monkeypatch, kind, dtype):
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    graphs = []
    def count(graph, inputs): graphs.append(graph); return graph.forward
    model = GPT(GPTConfig(**dict(vocab_size=50, block_size=16, n_layer=2, n_head=4, n_embd=32) | KINDS[kind]))
    if kind == 'lora': add_lora(model, rank=2)
    if kind == 'large vocabulary': monkeypatch.setattr(model_module, 'SCORES_AT_ONCE', 1000)
    s, luck = SingleDevice('cpu', dtype), torch.Generator().manual_seed(0)
    def batch():
        ids = (torch.randint(50, (4, 1), generator=luck) + torch.arange(17)) % 50           # after n comes n + 1
        if kind != 'documents': return ids[:, :-1], ids[:, 1:]
        return ids[:, :-1], ids[:, 1:], (torch.rand(4, 16, generator=luck) < .8).float(), (ids[:, :-1] < 9).cumsum(1)
    compiled = torch.compile(model, backend=count)
    opts, losses = make_optimizers(model, OptimConfig(learning_rate=1e-2)), []
    for step in range(30):
        with s.autocast(): loss = compiled(*batch())[1]
        loss.backward()
        losses.append(loss.detach())
        for o in opts: o.step(); o.zero_grad()
        if step % 10: continue
        with torch.no_grad(), s.autocast(): model.eval()(*batch())
        generate(model, [[1, 2, 3]], 20, seed=1)
        score_rows(model, [([1, 2, 3, 4], 2)], dtype=dtype)
        model.train()
    assert len(graphs) == 1 and not torch._dynamo.utils.counters['graph_break']
    assert torch.stack(losses).isfinite().all() and losses[-1] < losses[0]


@pytest.fixture
def alone_in_a_group():
    "A process group of one process"
    dist.init_process_group('gloo', store=dist.HashStore(), rank=0, world_size=1)
    yield dist.init_device_mesh('cpu', (1,))
    dist.destroy_process_group()


@pytest.mark.parametrize('kw', [{}, dict(tie_embeddings=False)], ids=str)
@pytest.mark.parametrize('kind', ['ddp', 'fsdp'])
def test_pieces_under_ddp_and_with_sharded_weights(monkeypatch, alone_in_a_group, kind, kw):
    monkeypatch.setattr(model_module, 'SCORES_AT_ONCE', 7000)
    def fresh():
        torch.manual_seed(0)
        return GPT(GPTConfig(**WIDE | kw))
    alone, shared, (ids, targets) = fresh(), fresh(), torch.randint(1000, (2, 4, 32))
    whole = alone(ids, targets)[1]
    whole.backward()
    if kind == 'ddp': wrapped = DistributedDataParallel(shared)
    else:
        for part in (*shared.blocks, shared): fully_shard(part, mesh=alone_in_a_group)
        wrapped = shared
    with loss_alone(): logits, loss = wrapped(ids, targets)
    loss.backward()
    assert logits is None
    torch.testing.assert_close(loss.detach(), whole.detach())
    for (name, p), q in zip(shared.named_parameters(), alone.parameters()):
        grad = p.grad.full_tensor() if hasattr(p.grad, 'full_tensor') else p.grad
        torch.testing.assert_close(grad, q.grad, rtol=1e-4, atol=1e-6, msg=name)
