"Generation on random configurations: the same tokens with and without a cache, alone and in company, in one go and in two"
import pytest
import torch
from hypothesis import given, settings, strategies as st
from nanogpt_lit.config import GPTConfig
from nanogpt_lit.core import UserError
from nanogpt_lit.decode import DecodeStep, Predictor, is_plain
from nanogpt_lit.generate import generate, row_seeds
from nanogpt_lit.model import GPT

V = 40

@st.composite
def models(draw):
    "A small model of any kind, its weights large enough that every token matters"
    heads = draw(st.sampled_from([(1, 1), (2, 1), (4, 2), (3, 3)]))
    cfg = GPTConfig(vocab_size=V, block_size=draw(st.integers(1, 20)), n_layer=draw(st.integers(1, 3)), n_head=heads[0], n_kv_head=heads[1],
                    n_embd=12*heads[0], pos=draw(st.sampled_from(['learned', 'rotary', 'none'])), norm=draw(st.sampled_from(['layernorm', 'rmsnorm'])),
                    norm_affine=draw(st.booleans()), bias=draw(st.booleans()), act=draw(st.sampled_from(['gelu', 'gelu_tanh', 'relu2', 'swiglu'])),
                    qk_norm=draw(st.booleans()), qk_norm_kind=draw(st.sampled_from(['rmsnorm', 'layernorm'])), tie_embeddings=draw(st.booleans()),
                    window=draw(st.sampled_from([None, 1, 3, 8])), window_pattern=draw(st.sampled_from(['L', 'LG', 'GL'])),
                    taps=draw(st.integers(0, 2)), taps_at=draw(st.sampled_from(['all', 'embedding', 'sublayers'])), norm_embed=draw(st.booleans()),
                    logit_softcap=draw(st.sampled_from([0., 10.])), dropout=.5)
    torch.manual_seed(draw(st.integers(0, 9)))
    model = GPT(cfg)
    for p in model.parameters(): torch.nn.init.normal_(p, std=.3)
    return model.double()      # so that rounding decides nothing

prompts = st.lists(st.lists(st.integers(0, V - 1), min_size=1, max_size=30), min_size=1, max_size=4)
knobs = st.fixed_dictionaries(dict(temperature=st.sampled_from([0., .7, 1.5])), optional=dict(
    top_k=st.integers(1, 50), top_p=st.floats(.1, 1.), min_p=st.floats(0., .5), repetition_penalty=st.floats(.7, 2.), slide=st.integers(1, 20)))
few = settings(max_examples=60, deadline=None)

def fit(kw, model): return kw | {k: min(v, model.cfg.block_size) for k, v in kw.items() if k == 'slide'}

@few
@given(models(), prompts, knobs, st.integers(0, 30), st.sets(st.integers(0, V - 1), max_size=3))
def test_the_cache_changes_nothing(model, rows, kw, n, stop):
    assert is_plain(model)
    kw = fit(kw, model)
    assert generate(model, rows, n, seed=5, stop=stop, **kw) == generate(model, rows, n, seed=5, stop=stop, use_cache=False, **kw)
    assert model.training

@few
@given(models(), prompts, knobs, st.integers(0, 30))
def test_a_row_does_not_notice_its_neighbours(model, rows, kw, n):
    kw = fit(kw, model)
    alone = [generate(model, [row], n, seed=s, **kw)[0] for row, s in zip(rows, row_seeds(11, len(rows)))]
    assert generate(model, rows, n, seed=11, **kw) == alone

@few
@given(models(), prompts, st.integers(0, 15), st.integers(0, 15))
def test_two_helpings_are_as_good_as_one(model, rows, a, b):
    assert generate(model, generate(model, rows, a, 0), b, 0) == generate(model, rows, a + b, 0)

@few
@given(models(), prompts)
def test_the_step_gives_the_scores_of_the_module(model, rows):
    texts, fast, slow = [list(r) for r in rows], Predictor(model), Predictor(model, use_cache=False)
    for i in range(25):
        torch.testing.assert_close(fast(texts), slow(texts), rtol=1e-6, atol=1e-6)
        assert isinstance(fast.step, DecodeStep)
        for t in texts: t.append((7*i + len(t)) % V)

# --- the compiled step ----------------------------------------------------------------------------------------------

KINDS = dict(classic=dict(), modern=dict(pos='rotary', norm='rmsnorm', act='swiglu', qk_norm=True, n_kv_head=2, window=5, window_pattern='LG', taps=2),
             odd=dict(pos='none', act='relu2', window=4, n_kv_head=1, taps=1, taps_at='embedding', norm_embed=True, logit_softcap=10., norm_affine=False))

def kind_of(kind, dtype=torch.float32):
    torch.manual_seed(1)
    model = GPT(GPTConfig(vocab_size=V, block_size=16, n_layer=2, n_head=4, n_embd=32, **KINDS[kind])).to(dtype)
    for p in model.parameters(): torch.nn.init.normal_(p, std=.2)
    return model.eval()

@pytest.mark.parametrize('backend, kind', [('eager', 'classic'), *(('aot_eager', kind) for kind in KINDS)])
def test_the_compiled_step_writes_the_same_tokens(kind, backend, capsys):
    "Alone, together, with padding, beyond the context, with a window that moves by one; likeliest and drawn"
    torch._dynamo.reset()
    model = kind_of(kind)
    for rows in ([[7]], [[1, 2, 3], [4], [5]*20], [[1, 2], [3, 4], [5, 6]]):
        for kw in (dict(temperature=0.), dict(temperature=1., top_k=20, seed=3), dict(temperature=1., seed=4, slide=1, logprobs=1)):
            compiled, plain = (generate(model, rows, 30, **kw, compile=o) for o in (dict(backend=backend), False))
            if 'logprobs' not in kw: assert compiled == plain
            else:
                assert compiled.ids == plain.ids
                assert all(a == pytest.approx(b, abs=1e-4) for a, b in zip(compiled.logprobs, plain.logprobs))
    assert capsys.readouterr() == ('', '')

@pytest.mark.parametrize('dtype', [torch.float64, torch.bfloat16], ids=str)
def test_the_compiled_step_takes_other_number_types(dtype):
    torch._dynamo.reset()
    model, texts = kind_of('modern', dtype), [[1, 2, 3], [4, 5]]
    fast, plain = Predictor(model, compile=dict(backend='eager')), Predictor(model)
    for i in range(25):
        a, b = (way([list(t) for t in texts]) for way in (fast, plain))
        assert a.dtype == b.dtype == dtype
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9 if dtype == torch.float64 else .3)
        for t in texts: t.append((7*i + len(t)) % V)

def test_where_nothing_compiles_one_line_says_so_and_the_text_is_the_same(capsys):
    torch._dynamo.reset()
    tried = []
    def broken(graph, inputs):
        tried.append(1)
        raise RuntimeError('no compiler\nand a long story')
    model = kind_of('classic')
    for _ in range(2): assert generate(model, [[1, 2]], 30, seed=5, compile=dict(backend=broken)) == generate(model, [[1, 2]], 30, seed=5)
    out, err = capsys.readouterr()
    assert not out and err.count('\n') == 1 and 'torch.compile does not work here (' in err and 'no compiler' in err, err
    assert len(tried) == 1                                            # not once more for every text
    hooked = kind_of('classic')
    hooked.blocks[0].mlp.register_forward_hook(lambda m, args, y: 2*y)
    assert not is_plain(hooked)
    assert generate(hooked, [[1, 2]], 30, seed=5, compile=True) == generate(hooked, [[1, 2]], 30, seed=5)
    err = capsys.readouterr().err
    assert err.count('\n') == 1 and 'of its own' in err
    with pytest.raises(UserError, match='use_cache=False'): generate(model, [[1]], 3, use_cache=False, compile=True)


def test_weights_in_eight_bits_write_nearly_the_same_and_leave_the_model_alone():
    from nanogpt_lit.decode import Int8Linear, in_int8
    torch.manual_seed(0)
    for kw in ({}, dict(tie_embeddings=False, bias=False, act='swiglu', norm='rmsnorm', pos='rotary', n_kv_head=1), dict(n_embd=24, d_ff=33)):
        model = GPT(GPTConfig(**dict(vocab_size=51, block_size=32, n_layer=2, n_head=2, n_embd=32) | kw)).eval()
        for p in model.parameters(): torch.nn.init.normal_(p, std=.2)
        small, before = in_int8(model), {k: v.clone() for k, v in model.state_dict().items()}
        assert sum(isinstance(m, Int8Linear) for m in small.modules()) == sum(type(m) is torch.nn.Linear for m in model.modules())
        assert small.wte.weight is model.wte.weight
        ids = torch.randint(51, (3, 20))
        with torch.no_grad(): want, got = model(ids)[0], small(ids)[0]
        assert (want - got).norm() < .03*want.norm()
        with torch.no_grad(): few = small(ids[:1, :2])[0]                 # two vectors at a time: the other way to multiply
        assert (few - got[:1, :2]).norm() < 1e-3*few.norm()
        generate(small, ids, 20, seed=0)
        torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


def test_weights_in_eight_bits_are_refused_in_a_sentence_where_they_cannot_be(monkeypatch):
    from nanogpt_lit.decode import in_int8
    model = GPT(GPTConfig(vocab_size=51, block_size=32, n_layer=1, n_head=2, n_embd=32))
    with pytest.raises(UserError, match='dtype=int8 on meta: .* --device cpu'): in_int8(model.to('meta'))
    monkeypatch.setattr(torch.backends.mkldnn, 'is_available', lambda: False)
    with pytest.raises(UserError, match='no product of eight-bit numbers here: take --dtype'): in_int8(GPT(model.cfg))
