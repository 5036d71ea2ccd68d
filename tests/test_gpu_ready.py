"What long runs on a GPU rely on, as far as a CPU can tell: what is evaluated, compiled, kept and counted"
import sys, time
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace
import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary
from nanogpt_lit import checkpoint, trainer
from nanogpt_lit.config import PRESETS, GPTConfig, OptimConfig, RunConfig, TrainConfig
from nanogpt_lit.core import UserError
from nanogpt_lit.config import build
from nanogpt_lit.distributed import DataParallel
from nanogpt_lit.generate import generate
from nanogpt_lit.loader import BatchPlan, TokenData, make_plan
from nanogpt_lit.lora import add_lora
from nanogpt_lit.model import GPT
from nanogpt_lit.optim import make_optimizers
from nanogpt_lit.trainer import SingleDevice, Trainer, try_compile

SMALL = GPTConfig(vocab_size=64, block_size=16, n_layer=1, n_head=2, n_embd=16)

@pytest.fixture
def tokens(tmp_path):
    np.random.default_rng(0).integers(0, 64, 5000).astype(np.uint16).tofile(tmp_path/'t.bin')
    return TokenData(tmp_path/'t.bin')

@pytest.fixture(scope='module')
def billion(tmp_path_factory):
    "A billion tokens that take no room on the disk"
    path = tmp_path_factory.mktemp('large')/'val.bin'
    with open(path, 'wb') as f: f.truncate(2*10**9)
    return TokenData(path, 'val', dtype='uint16')

class Counting(nn.Module):
    "A model that does nothing but count"
    def __init__(self):
        super().__init__()
        self.w, self.calls, self.tokens, self.rows = nn.Parameter(torch.zeros(())), 0, 0, set()
    def forward(self, x_BT, y_BT, *rest):
        self.calls, self.tokens = self.calls + 1, self.tokens + x_BT.numel()
        self.rows.add(len(x_BT))
        return None, self.w + 1.

def trainer_of(model, data, cfg, val=None, strategy=None, **kw):
    rows = cfg.batch_size*cfg.grad_accum_steps
    T = model.cfg.block_size if hasattr(model, 'cfg') else kw.pop('block_size', 1024)
    optim = OptimConfig(learning_rate=1e-2, warmup_steps=0)
    return Trainer(model, BatchPlan(data, rows, T), make_optimizers(model, optim), optim, cfg, val_data=val, strategy=strategy, **kw)

# --- validation -----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('preset', ['gpt2', 'gpt2-xl', 'build-nanogpt'])
def test_validation_on_a_billion_tokens_has_a_budget(billion, preset):
    cfg = replace(build(RunConfig, PRESETS[preset]).train, device='cpu', dtype='float32', max_steps=1)
    model, start = Counting(), time.process_time()
    t = trainer_of(model, billion, cfg, billion)
    t.evaluate()
    assert 9_900_000 < model.tokens <= 10_000_000 and model.calls == -(-(10**7//1024)//cfg.batch_size), (model.tokens, model.calls)
    assert time.process_time() - start < 20

def test_the_budget_buys_the_same_windows_for_every_batch_size_and_process(billion):
    def starts(**kw): return [o[0].shape for o in trainer.eval_pieces(billion, block_size=1024, max_tokens=50_000, **kw)]
    assert sum(o[0] for o in starts(batch_size=7)) == sum(o[0] for o in starts(batch_size=64, rows=5)) == 50_000//1024
    class Seen(TokenData):
        def __init__(self, data): vars(self).update(vars(data)); self.seen = []
        def gather(self, starts, length): self.seen += [*map(int, starts)]; return super().gather(starts, length)
    seen = []
    for batch_size in (3, 16):
        seen.append(Seen(billion))
        for _ in trainer.eval_pieces(seen[-1], batch_size, 1024, max_tokens=50_000): pass
    first, gaps = seen[0].seen, np.diff(seen[0].seen)
    assert first == seen[1].seen and first[0] == 0 and gaps.max() - gaps.min() <= 1024 and first[-1] > .97e9

def test_the_plan_says_what_validation_costs(capsys):
    from nanogpt_lit.config import nanogpt_plan
    assert nanogpt_plan(['tiny', '--vocab_size', '64', '--max_steps', '1000', '--eval_tokens', '51200', '--device', 'cpu']) in (0, None)
    assert 'validation takes about 41.2% of the run: 51.2k tokens every 50 steps' in capsys.readouterr().out

def test_a_small_split_is_read_whole_and_known_afterwards(tokens):
    cfg = TrainConfig(batch_size=4, device='cpu', dtype='float32', max_steps=2, eval_interval=2, eval_tokens=10**7)
    t = trainer_of(GPT(SMALL), tokens, cfg, tokens)
    t.say = lambda text: None
    t.fit()
    whole = trainer.mean_loss(t.raw_model, tokens, 4, 16)
    assert t.val_loss == pytest.approx(whole, abs=1e-6) and t.whole_val_s() == 0. and t.whole_val_loss() == t.val_loss
    t.step += 1
    assert t.whole_val_s() > 0.

def test_validation_that_takes_much_of_the_run_is_announced_and_measured(billion, tokens, monkeypatch):
    said, cfg = [], TrainConfig(batch_size=8, device='cpu', dtype='float32', max_steps=1000, eval_interval=100)
    t = trainer_of(Counting(), billion, cfg, billion)
    t.say = said.append
    t._prepare()
    assert any('validation will take about 100% of the run' in o and '--eval_tokens' in o for o in said), said
    said.clear()
    t.cfg = replace(cfg, eval_tokens=1_200_000, eval_interval=1000)
    t._foresee_share()
    assert said == []
    monkeypatch.setattr(Trainer, 'elapsed_s', property(lambda self: self.clock))
    for t.step, t.clock, t._evaluating_s in ((0, 100, 100), (1000, 1000, 130), (2000, 1080, 150), (3000, 1160, 170)):
        t._watch_share()          # the first has nothing to be compared with; then 30 of 900 s, 20 of 80 s, and that again
    assert len(said) == 1 and 'validation took' in said[0] and '25%' in said[0], said

def run_small(tmp_path, text, **kw):
    from nanogpt_lit.pretrain import pretrain
    settings = dict(tokenizer='char', input=[str(text)], out_dir=str(tmp_path/'run'), n_layer=1, n_head=2, n_embd=16, block_size=16, batch_size=4, max_steps=4,
                    eval_interval=2, device='cpu', dtype='float32', num_threads=1, monitoring=False)
    return pretrain(build(RunConfig, settings | kw), quiet=True)

@pytest.fixture
def text(tmp_path):
    (tmp_path/'t.txt').write_text('a line of text, and another one; then a third.\n'*300)
    return tmp_path/'t.txt'

def test_the_last_evaluation_takes_the_micro_batch_and_is_not_done_twice(tmp_path, text, monkeypatch):
    rows, read, real = set(), [], GPT.forward
    def forward(self, ids_BT, *args, **kw):
        rows.add(len(ids_BT))
        if args and not torch.is_grad_enabled(): read.append(ids_BT.numel())
        return real(self, ids_BT, *args, **kw)
    monkeypatch.setattr(GPT, 'forward', forward)
    run = run_small(tmp_path, text)
    assert max(rows) <= 4
    assert run.evaluation.nats_per_token == run.metrics[-1]['val_loss']
    each = sum(read)/3                                                # before the first step, after the second, after the last
    assert len(run.val) - 1 <= each < len(run.val) + 4*16
    read.clear()
    other = run_small(tmp_path/'other', text, eval_iters=2)           # two batches now and then, all of them at the end
    assert other.evaluation.nats_per_token != other.metrics[-1]['val_loss'] and sum(read) >= len(other.val) - 1 and max(rows) <= 4

def test_out_of_memory_in_the_last_evaluation_is_one_sentence(tmp_path, text, monkeypatch):
    def full(self): raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 12 GiB')
    monkeypatch.setattr(Trainer, 'whole_val_loss', full)
    with pytest.raises(UserError, match='out of memory on cpu: .*model_00004.pt is saved'): run_small(tmp_path, text)

# --- compiling ------------------------------------------------------------------------------------------------------

class Cuda(str):
    "A CPU that calls itself a GPU"
    def startswith(self, what): return what == 'cuda'

@pytest.fixture
def pretended(monkeypatch):
    "A strategy whose device is a GPU by name only"
    s = SingleDevice('cpu', 'float32')
    s.device, s.put = Cuda('cpu'), lambda batch: batch
    monkeypatch.setattr(torch.cuda, 'current_device', lambda: 0)
    monkeypatch.setattr(torch.random, 'fork_rng', lambda devices: nullcontext())
    monkeypatch.setattr(torch, 'set_float32_matmul_precision', lambda how: None)
    monkeypatch.setattr(trainer, 'peak_flops', lambda *a: 1e12)
    return s

def test_compiling_is_the_rule_on_cuda_and_never_a_must(pretended, tokens, monkeypatch):
    asked = []
    def compile(model, **how):
        asked.append(how['mode'])
        if len(asked) > 1: raise RuntimeError('no compiler')
        return model
    monkeypatch.setattr(torch, 'compile', compile)
    for cfg, n in ((TrainConfig(), 1), (TrainConfig(compile=False), 1), (TrainConfig(), 2)):
        said = []
        t = trainer_of(GPT(SMALL), tokens, replace(cfg, batch_size=4, max_steps=1, eval_interval=0), strategy=pretended)
        t.say = said.append
        t.fit()
        assert len(asked) == n and t.step == 1
    assert asked == ['default']*2 and sum('going on without it' in o for o in said) == 1

class _Replay(torch.autograd.Function):
    @staticmethod
    def forward(ctx, graph, *params):
        ctx.graph = graph
        return graph.loss.view(())
    @staticmethod
    def backward(ctx, g):
        for place, new in zip(ctx.graph.places, ctx.graph.grads): torch.mul(new, g, out=place)
        return None, *(o.detach() for o in ctx.graph.places)

class Replayed(nn.Module):
    "A model as a recorded graph is: losses and gradients always come in the same memory"
    def __init__(self, model):
        super().__init__()
        self.inner, self.params, self.loss = model, [*model.parameters()], torch.zeros(())
        self.places = [torch.zeros_like(p) for p in self.params]
    def forward(self, *batch):
        if not torch.is_grad_enabled():
            self.loss.copy_(self.inner(*batch)[1])
            return None, self.loss.view(())
        loss = self.inner(*batch)[1]
        self.grads = torch.autograd.grad(loss, self.params)
        self.loss.copy_(loss.detach())
        return None, _Replay.apply(self, *self.params)

@pytest.mark.parametrize('n_micro', [1, 2, 3])
def test_recorded_graphs_may_overwrite_what_they_returned(pretended, tokens, monkeypatch, n_micro):
    marks = []
    monkeypatch.setattr(torch.compiler, 'cudagraph_mark_step_begin', lambda: marks.append(1))
    weights = []
    for recorded in (False, True):
        monkeypatch.setattr(torch, 'compile', lambda model, mode: Replayed(model) if recorded else model)
        torch.manual_seed(0)
        cfg = TrainConfig(batch_size=4, grad_accum_steps=n_micro, max_steps=4, eval_interval=2, log_interval=1, compile_mode='reduce-overhead')
        t = trainer_of(GPT(SMALL), tokens, cfg, tokens, pretended)
        t.say, t.seen = lambda text: None, []
        monkeypatch.setattr(trainer.Callback, 'on_log', lambda self, t: t.seen.append([t.record.get('loss', 0.), t.val_loss]))
        t.callbacks = [trainer.Callback()]
        t.fit()
        weights.append((torch.cat([p.detach().flatten() for p in t.params]), t.seen))
    assert torch.allclose(weights[0][0], weights[1][0], atol=1e-5)
    assert np.allclose(*(seen for _, seen in weights), atol=1e-5)
    assert len(marks) >= 4*n_micro

def test_recorded_graphs_and_slices_are_refused_before_compiling(pretended, tokens, monkeypatch):
    def compile(*a, **k): raise AssertionError('compiled')
    monkeypatch.setattr(torch, 'compile', compile)
    pretended.records = False
    t = trainer_of(GPT(SMALL), tokens, TrainConfig(batch_size=4, compile_mode='max-autotune'), strategy=pretended)
    with pytest.raises(UserError, match='--compile_mode max-autotune records CUDA graphs.*--compile_mode default'): t._prepare()

def test_slow_modes_say_what_they_cost():
    assert 'many minutes' in trainer.compiling_line('max-autotune-no-cudagraphs') and 'many minutes' not in trainer.compiling_line('auto')

@pytest.fixture
def alone():
    "A process group of one"
    dist.init_process_group('gloo', store=dist.HashStore(), rank=0, world_size=1)
    s = DataParallel.__new__(DataParallel)
    s.device, s.dtype, s.rank, s.world_size, s.is_main, s.queued = 'cpu', 'float32', 0, 1, True, False
    yield s
    dist.destroy_process_group()

def counted_graphs():
    "A list that grows with every graph that is compiled, and the backend that notes them there; earlier ones are forgotten"
    torch._dynamo.reset()
    graphs = []
    def backend(graph, inputs):
        graphs.append(1)
        return graph.forward
    return graphs, backend

@pytest.mark.parametrize('checkpointing', [False, True])
def test_the_compiled_graph_is_cut_where_gradients_travel(alone, checkpointing):
    "One piece per bucket: only then can a bucket travel while the rest is computed"
    from nanogpt_lit.sharded import checkpoint_activations
    graphs, backend = counted_graphs()
    torch.manual_seed(0)
    model = GPT(GPTConfig(vocab_size=64, block_size=8, n_layer=3, n_head=2, n_embd=512))
    if checkpointing: checkpoint_activations(model)
    batch = torch.zeros(2, 8, dtype=torch.int64), torch.ones(2, 8, dtype=torch.int64)
    before = torch.get_rng_state()
    wrapped = try_compile(model, batch, alone, print, backend=backend)
    assert alone.inside(wrapped) is not model
    n = len(graphs)
    assert n >= 2, graphs
    assert torch.equal(before, torch.get_rng_state()) and all(p.grad is None for p in model.parameters())
    with alone.autocast(): loss = wrapped(*batch)[1]
    loss.backward()
    assert len(graphs) == n                                           # nothing is compiled again in training
    again = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    model(*batch)[1].backward()
    assert all(torch.allclose(a, p.grad, atol=1e-5) for a, p in zip(again, model.parameters()))

class Writes(trainer.Callback):
    "A text now and then"
    def on_step_end(self, t):
        if t.step % 7 == 3: generate(t.raw_model.eval(), [[1, 2, 3]], 20, seed=t.step); t.raw_model.train()

MODERN = dict(pos='rotary', norm='rmsnorm', act='relu2', bias=False, qk_norm=True, tie_embeddings=False)

@pytest.mark.parametrize('kind', ['classic', 'modern', 'documents', 'lora'])
def test_thirty_steps_with_evaluation_are_two_graphs(tokens, monkeypatch, kind):
    "One for training, one for evaluation; nothing breaks them, nothing is compiled again, and each evaluation goes through its own"
    graphs, _ = counted_graphs()
    torch._dynamo.utils.counters.clear()
    uses, real = [], torch.compile
    def backend(graph, inputs):
        number = len(graphs)
        graphs.append(1)
        def run(*args):
            uses.append(number)
            return graph.forward(*args)
        return run
    monkeypatch.setattr(torch, 'compile', lambda model, mode: real(model, backend=backend))
    model = GPT(replace(SMALL, **(MODERN if kind == 'modern' else {})))
    if kind == 'lora': add_lora(model, rank=2)
    if kind == 'documents':
        tokens = TokenData(tokens.path, documents=True)
        tokens.eot_id = 0
    cfg = TrainConfig(batch_size=4, max_steps=30, eval_interval=7, eval_tokens=1000, device='cpu', dtype='float32', compile=True)
    optim = OptimConfig(learning_rate=1e-2, warmup_steps=0)
    t = Trainer(model, make_plan(tokens, 4, 16), make_optimizers(model, optim), optim, cfg, [Writes()], val_data=tokens)
    t.say = lambda text: None
    t.fit()
    assert len(graphs) == 2 and not torch._dynamo.utils.counters['graph_break'] and t.compiled is not None
    assert uses.count(0) == 1 + 30 and uses.count(1) >= 1 + 6*(1000//16//4), (uses.count(0), uses.count(1))

def test_what_was_not_proven_is_not_relied_on(tokens, monkeypatch):
    "Without evaluations on the way, the last one takes the model as it is"
    monkeypatch.setattr(torch, 'compile', lambda model, mode: Replayed(model))
    cfg = TrainConfig(batch_size=4, max_steps=1, eval_interval=0, device='cpu', dtype='float32', compile=True)
    t = trainer_of(GPT(SMALL), tokens, cfg, tokens)
    t.say = lambda text: None
    t.fit()
    assert isinstance(t.model, Replayed) and t.compiled is None and t.whole_val_loss() > 0

# --- writing text ---------------------------------------------------------------------------------------------------

MODERN = dict(pos='rotary', norm='rmsnorm', act='swiglu', qk_norm=True, n_kv_head=1, window=4, window_pattern='LG', taps=2)

@pytest.mark.parametrize('options', [dict(), MODERN], ids=['classic', 'modern'])
def test_sampling_compiles_one_step_and_nothing_again(options, tmp_path, capsys, monkeypatch):
    "Forty tokens, of which the context holds sixteen; then other texts, whose lengths and number may cost two graphs more, and no more"
    from nanogpt_lit.config import nanogpt_sample
    from nanogpt_lit.generate import generate
    from nanogpt_lit.checkpoint import write_run
    from nanogpt_lit.tokenizer import Tokenizer
    graphs, backend = counted_graphs()
    real = torch.compile
    monkeypatch.setattr(torch, 'compile', lambda model, **how: real(model, **how | dict(backend=backend)))
    tok = Tokenizer.train(['the cat sat on the mat '*20], 265, ['<|endoftext|>'], progress=False)
    torch.manual_seed(0)
    model = GPT(replace(SMALL, vocab_size=tok.vocab_size, **options)).eval()
    for p in model.parameters(): nn.init.normal_(p, std=.2)
    (tmp_path/'run').mkdir()
    write_run(model, tok, tmp_path/'run', 1)
    texts = []
    for compile in ('--no-compile', '--compile'):
        nanogpt_sample([str(tmp_path/'run'), '--max_new_tokens', '40', '--num_samples', '2', '--device', 'cpu', '--dtype', 'float32', compile])
        texts.append(capsys.readouterr())
        assert len(graphs) == (compile == '--compile')
    assert texts[0].out == texts[1].out and texts[1].err.startswith('torch.compile begins') and texts[1].err.count('\n') == 1
    for rows in ([[1]], [[1, 2, 3]], [[1, 2], [3]], [[1]*9], [[4], [5, 6], [7]]):
        for n in (5, 12): assert generate(model, rows, n, seed=1, compile=True) == generate(model, rows, n, seed=1)
    assert len(graphs) <= 4

@pytest.mark.parametrize('before', [True, False])
def test_answers_of_all_lengths_are_scored_without_the_kernel_that_plans_for_each(before, monkeypatch):
    "Also while preferences are learned, and it stays as it was for everybody else"
    from nanogpt_lit.preference import answer_logprobs
    seen, attention = [], nn.functional.scaled_dot_product_attention
    def watched(*args, **kw):
        seen.append(torch.backends.cuda.cudnn_sdp_enabled())
        return attention(*args, **kw)
    monkeypatch.setattr(nn.functional, 'scaled_dot_product_attention', watched)
    model = GPT(SMALL)
    torch.backends.cuda.enable_cudnn_sdp(before)
    try:
        for n in (3, 5): answer_logprobs(model, [([1]*n, [0, 1] + [1]*(n - 2)), ([2, 3], [0, 1])]).sum().backward()
        assert torch.backends.cuda.cudnn_sdp_enabled() is before
    finally: torch.backends.cuda.enable_cudnn_sdp(True)
    assert len(seen) == 2 and not any(seen)

# --- speed against the peak -----------------------------------------------------------------------------------------

@pytest.mark.parametrize('name, bf16, tf32, half', [
    ('NVIDIA L40', 181, 90.5, 181), ('NVIDIA L4', 121, 60, 121), ('NVIDIA L40S', 362, 183, 362), ('NVIDIA H100 PCIe', 756, 378, 756),
    ('NVIDIA H100 NVL', 835, 417, 835), ('NVIDIA H100 80GB HBM3', 989, 494, 989), ('NVIDIA H200', 989, 494, 989), ('NVIDIA H200 NVL', 835, 417, 835),
    ('NVIDIA GH200 480GB', 990, 494, 990), ('NVIDIA GH200 144G HBM3e', 990, 494, 990), ('NVIDIA B200', 2250, 1125, 2250), ('NVIDIA GB200', 2500, 1250, 2500),
    ('NVIDIA A100-SXM4-40GB', 312, 156, 312), ('NVIDIA A100-PCIE-40GB', 312, 156, 312), ('NVIDIA A100 80GB PCIe', 312, 156, 312), ('A100-SXM4-40GB', 312, 156, 312),
    ('NVIDIA A10', 125, 62.5, 125), ('NVIDIA A10G', 70, 35, 70), ('NVIDIA A40', 149.7, 74.8, 149.7), ('NVIDIA A30', 165, 82, 165),
    ('Tesla T4', None, 8.1, 65), ('Tesla V100-SXM2-16GB', None, 15.7, 125), ('Tesla V100-PCIE-32GB', None, 14, 112), ('Tesla V100S-PCIE-32GB', None, 16.4, 130),
    ('NVIDIA GeForce RTX 3090', 71, 35.6, 71), ('NVIDIA GeForce RTX 4090', 165.2, 82.6, 165.2), ('NVIDIA GeForce RTX 5090', 209.5, 104.8, 209.5),
    ('NVIDIA RTX A6000', 154.8, 77.4, 154.8), ('NVIDIA RTX 6000 Ada Generation', 364, 182, 364),
    *((o, None, None, None) for o in ('NVIDIA GeForce RTX 4090 Laptop GPU', 'NVIDIA GeForce RTX 4090 D', 'NVIDIA A100-SXM4-40GB MIG 1g.5gb', 'GRID A100-10C', 'NVIDIA A1000',
                                      'NVIDIA L400', 'NVIDIA H1000', 'NVIDIA GeForce RTX 3090 Laptop GPU', 'Quadro RTX 6000', 'NVIDIA H100 80GB HBM2e', 'AMD Instinct MI300X', ''))])
def test_peaks_are_those_of_exactly_this_card(name, bf16, tf32, half):
    from nanogpt_lit.sizing import known_peak
    found = [known_peak(name, 'bfloat16'), known_peak(name, 'float32', tf32=True), known_peak(name, 'float16')]
    assert found == [o and pytest.approx(o*1e12) for o in (bf16, tf32, half)]

def test_an_unknown_card_multiplies_large_matrices(monkeypatch):
    from nanogpt_lit import sizing
    asked = []
    monkeypatch.setattr(torch.cuda, 'get_device_name', lambda device: 'NVIDIA GeForce RTX 4090 Laptop GPU')
    monkeypatch.setattr(sizing, 'measured_flops', lambda *a: asked.append(a) or 1e14)
    assert sizing.peak_flops('cuda:1', 'bfloat16') == 1e14 and asked == [('cuda:1', 'bfloat16', 8192)]
    monkeypatch.setattr(torch.cuda, 'get_device_name', lambda device: 'NVIDIA L4')
    monkeypatch.setattr(torch, 'get_float32_matmul_precision', lambda: 'high')
    assert sizing.peak_flops('cuda', 'float32') == 60e12 and sizing.peak_flops('cuda', 'bfloat16') == 121e12 and len(asked) == 1

def test_no_mfu_where_the_peak_is_not_known(pretended, tokens, monkeypatch):
    def full(*a): raise torch.OutOfMemoryError('CUDA out of memory')
    monkeypatch.setattr(trainer, 'peak_flops', full)
    t = trainer_of(GPT(SMALL), tokens, TrainConfig(batch_size=4, max_steps=1, compile=False), strategy=pretended)
    t.say = lambda text: None
    t.fit()
    assert 'tokens_per_s' in t.record and 'mfu' not in t.record

# --- whose GPU ------------------------------------------------------------------------------------------------------

@pytest.fixture
def four_gpus(monkeypatch):
    chosen = []
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 4)
    monkeypatch.setattr(torch.cuda, 'set_device', chosen.append)
    monkeypatch.setattr(torch.backends.cuda, 'is_built', lambda: True)
    for k in ('RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'PYTORCH_CUDA_ALLOC_CONF', 'PYTORCH_ALLOC_CONF'): monkeypatch.delenv(k, raising=False)
    return chosen

def test_a_process_has_a_gpu_of_its_own(four_gpus, monkeypatch):
    from nanogpt_lit.core import pick_device
    from nanogpt_lit.distributed import World, device_of
    assert (pick_device('auto'), pick_device('cuda'), four_gpus) == ('cuda', 'cuda', [])
    assert (pick_device('cuda:1'), four_gpus) == ('cuda:1', [1])
    with pytest.raises(UserError, match='has 4 CUDA devices'): pick_device('cuda:4')
    assert (device_of(World(5, 8, 1, 4)), four_gpus[1:]) == ('cuda:1', [1])
    for k, v in dict(RANK='6', WORLD_SIZE='8', LOCAL_RANK='2').items(): monkeypatch.setenv(k, v)
    for device in ('auto', 'cuda', 'cuda:0'): assert pick_device(device) == 'cuda:2'     # as nanogpt-eval asks, and each of its parts
    assert four_gpus[2:] == [2]*3 and pick_device('cpu') == 'cpu'
    monkeypatch.setenv('LOCAL_RANK', '4')
    with pytest.raises(UserError, match='has 4 CUDA devices'): pick_device('auto')
    monkeypatch.setenv('WORLD_SIZE', '1')
    assert pick_device('cuda:3') == 'cuda:3'

@pytest.mark.skipif(sys.platform != 'linux', reason='torch has expandable segments on Linux')
def test_memory_grows_in_place_unless_somebody_says_otherwise(four_gpus, monkeypatch):
    import os
    from nanogpt_lit.core import pick_device
    pick_device('cpu')
    assert 'PYTORCH_CUDA_ALLOC_CONF' not in os.environ
    pick_device('auto')
    assert os.environ['PYTORCH_CUDA_ALLOC_CONF'] == 'expandable_segments:True'
    for k in ('PYTORCH_CUDA_ALLOC_CONF', 'PYTORCH_ALLOC_CONF'):
        monkeypatch.delenv('PYTORCH_CUDA_ALLOC_CONF', raising=False)
        monkeypatch.setenv(k, 'max_split_size_mb:64')
        pick_device('auto')
        assert os.environ[k] == 'max_split_size_mb:64' and 'expandable' not in os.environ.get('PYTORCH_CUDA_ALLOC_CONF', '')
        monkeypatch.delenv(k)

def test_busy_is_the_gpu_that_the_run_sees(monkeypatch):
    import subprocess
    from nanogpt_lit import watch
    asked, seen = [], {}
    def nvidia_smi(question, **kw):
        asked.append(question[2])
        return subprocess.CompletedProcess(question, 0, stdout='87\n')
    class Process:
        def __init__(self, pid): pass
        def environ(self): return seen
    monkeypatch.setattr(watch.shutil, 'which', lambda name: name)
    monkeypatch.setattr(watch.subprocess, 'run', nvidia_smi)
    monkeypatch.setattr(watch, 'alive', lambda note: True)
    monkeypatch.setattr(watch.psutil, 'Process', Process)
    me = dict(host=watch.socket.gethostname(), pid=1)
    for visible, device, want in ((None, 'cuda:1', '1'), (None, 'cuda', '0'), ('3', 'cuda', '3'), ('2, 5', 'cuda:1', '5'), ('GPU-8932f937-d72c', 'cuda:0', 'GPU-8932f937-d72c'),
                                  ('2', 'cuda:1', None), ('', 'cuda', None), ('--help', 'cuda', None), ('MIG-GPU-1/2/3', 'cuda', None)):
        seen.clear()
        if visible is not None: seen['CUDA_VISIBLE_DEVICES'] = visible
        asked.clear()
        assert watch.gpu_busy(me | dict(device=device)) == ('87' if want else '') and asked == [want]*bool(want), (visible, device, asked)

# --- float16 --------------------------------------------------------------------------------------------------------

def test_float16_never_waits_to_hear_whether_to_step(tokens, monkeypatch):
    "An overflow leaves weights, averages and counts alone; and nobody asks the device for a number"
    optim = OptimConfig(optimizer='muon', warmup_steps=0, weight_decay=.1)
    torch.manual_seed(0)
    model = GPT(SMALL)
    together = trainer.Together(make_optimizers(model, optim))
    scaler = torch.amp.GradScaler('cpu', init_scale=2.)
    def step(overflow):
        for p in model.parameters(): p.grad = torch.full_like(p, 1e-2)
        if overflow: model.wte.weight.grad[0, 0] = torch.inf
        scaler.scale(torch.ones(()))                             # it makes its own tensors at first use
        scaler.unscale_(together)
        monkeypatch.setattr(torch.Tensor, 'item', None)
        try: scaler.step(together)
        finally: monkeypatch.undo()
        scaler.update()
    def everything():
        states = [v.clone() for o in together.optimizers for s in o.state.values() for v in s.values()]
        return [*(p.detach().clone() for p in model.parameters()), *states]
    fresh = everything()
    step(False)
    before = everything()
    assert not torch.equal(fresh[0], before[0]) and scaler.get_scale() == 2.
    step(True)
    assert all(torch.equal(a, b) for a, b in zip(before, everything())) and scaler.get_scale() == 1.
    step(False)
    after = everything()
    assert all(torch.isfinite(o).all() for o in after) and not torch.equal(before[0], after[0])

def test_an_optimiser_that_cannot_leave_out_a_step_is_waited_for():
    p = nn.Parameter(torch.ones(2))
    assert not trainer.Together([torch.optim.SGD([p], lr=1.), torch.optim.AdamW([p], fused=True)])._step_supports_amp_scaling

# --- saving ---------------------------------------------------------------------------------------------------------

class Far(TorchFunctionMode):
    "Some tensors say that they are on a GPU; every copy of one to here is noted under its first number's address"
    def __init__(self, tensors):
        super().__init__()
        self.far, self.copies = WeakTensorKeyDictionary(), []
        for t in tensors: self.far[t] = t.data_ptr()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        there = [o for o in args if isinstance(o, torch.Tensor) and o in self.far]
        if func is torch.empty: kwargs.pop('pin_memory', None)         # there is no GPU for which it could be pinned
        out = func(*args, **kwargs)
        if func == torch.Tensor.device.__get__: return torch.device('cuda') if there else out
        if func in (torch.Tensor.cpu, torch.Tensor.copy_):
            self.copies += [self.far[o] for o in there]
            return out
        if there and isinstance(out, torch.Tensor): self.far[out] = self.far[there[0]]
        return out

def test_a_save_copies_each_tensor_from_the_device_once(tokens, tmp_path, monkeypatch):
    "Checksum and file are made of one copy; tied weights are copied once, too"
    t = trainer_of(GPT(SMALL), tokens, TrainConfig(batch_size=4, max_steps=2, device='cpu', dtype='float32'))
    t.train_step()
    there = [*t.params, *(v for o in t.optimizers for s in o.state.values() for v in s.values())]
    write, far = checkpoint._torch_save, Far(there)
    def watched(state, f):
        far.copies += [far.far[v] for _, v in checkpoint._leaves(state) if isinstance(v, torch.Tensor) and v in far.far]
        with torch._C.DisableTorchFunctionSubclass(): write(state, f)
    monkeypatch.setattr(checkpoint, '_torch_save', watched)
    with far: path = checkpoint.save_checkpoint(tmp_path/'one.pt', t)
    assert sorted(far.copies) == sorted(o.data_ptr() for o in there), (len(far.copies), len(there))
    assert torch.equal(checkpoint.load_checkpoint(path)['model']['wte.weight'], t.raw_model.wte.weight)

def test_saves_in_a_thread_wait_for_each_other_and_keep_their_own_numbers(tokens, tmp_path, monkeypatch):
    "The training goes on meanwhile; no two are written at a time; the files are those of a run that waits"
    writing, most, passed, write = [], [], [], checkpoint._torch_save
    def slowly(state, f):
        writing.append(1)
        time.sleep(.03)
        most.append(len(writing))
        write(state, f)
        writing.pop()
    class Seen(trainer.Callback):
        def on_step_end(self, t): passed.append(bool(writing))
    monkeypatch.setattr(checkpoint, '_torch_save', slowly)
    sums = []
    for aside in (False, True):
        torch.manual_seed(0)
        (out := tmp_path/str(aside)).mkdir()
        cfg = TrainConfig(batch_size=4, max_steps=6, eval_interval=0, checkpoint_interval=2, async_save=aside, device='cpu', dtype='float32')
        t = trainer_of(GPT(SMALL), tokens, cfg, callbacks=[checkpoint.CheckpointCallback(out), Seen()])
        t.say = lambda text: None
        t.fit()
        files = checkpoint.checkpoints(out)
        assert [p.name for p in files] == [f'model_{n:05d}.pt' for n in (2, 4, 6)] and t.saved_step == 6
        sums.append([checkpoint.checksum(checkpoint.load_checkpoint(p)[k]) for p in files for k in ('model', 'optimizer')])
        assert any(passed) is aside
    assert sums[0] == sums[1] and {*most} == {1}

@pytest.mark.parametrize('device, asked, aside', [('cuda', None, True), ('cuda:1', None, True), ('cpu', None, False), ('cuda', False, False), ('cpu', True, True)])
def test_saves_go_to_a_thread_on_a_gpu_unless_somebody_says_otherwise(device, asked, aside):
    t = SimpleNamespace(cfg=SimpleNamespace(async_save=asked), strategy=SimpleNamespace(device=device))
    assert checkpoint.writes_aside(t) is aside

# --- slices ---------------------------------------------------------------------------------------------------------

def sharded_alone():
    "The strategy of slices, with all of them here"
    from torch.distributed.device_mesh import init_device_mesh
    from nanogpt_lit.sharded import Sharded
    s = Sharded.__new__(Sharded)
    s.device, s.dtype, s.rank, s.world_size, s.is_main, s.queued = 'cpu', 'bfloat16', 0, 1, True, False
    s.mesh = init_device_mesh('cpu', (1,))
    return s

@pytest.mark.parametrize('options', [dict(), dict(norm='rmsnorm', pos='rotary', qk_norm=True, act='swiglu', tie_embeddings=False, bias=False)], ids=['classic', 'modern'])
@pytest.mark.parametrize('checkpointing', [False, True])
def test_slices_compute_in_the_number_types_of_the_whole(alone, options, checkpointing):
    "The residual stream is float32 in both; what differs is that gains and biases travel in 16 bits"
    from nanogpt_lit.sharded import checkpoint_activations
    s, cfg = sharded_alone(), GPTConfig(vocab_size=64, block_size=16, n_layer=2, n_head=2, n_embd=32, **options)
    ids_BT = torch.randint(64, (2, 16), generator=torch.Generator().manual_seed(0))
    for spread, limit in ((0., 3e-4 if options else 1e-6), (.2, 5e-3)):
        models, losses, streams = [], [], []
        for cut in (False, True):
            torch.manual_seed(0)
            model = GPT(cfg)
            with torch.no_grad():
                for p in model.parameters():
                    if p.ndim == 1: p.add_(spread*torch.randn(p.shape, generator=torch.Generator().manual_seed(len(p))))
            if checkpointing: checkpoint_activations(model)
            if cut: model = s.prepare(model)
            for b in model.blocks: b.register_forward_pre_hook(lambda block, args: streams.append(args[0].dtype))
            with s.autocast(): loss = model(ids_BT, ids_BT.roll(-1, 1))[1]
            loss.backward()
            losses.append(loss.item())
            models.append({n: (p.grad.full_tensor() if cut else p.grad) for n, p in model.named_parameters()})
        assert {*streams} == {torch.float32}
        assert abs(losses[0] - losses[1]) <= limit
        for n, g in models[0].items(): assert (g - models[1][n]).norm() <= (.1 if g.ndim == 1 else .02)*g.norm() + 1e-6, n

def test_slices_write_in_the_same_number_types(alone):
    "Sampling goes through the same conversions as training"
    s = sharded_alone()
    s.any = lambda flag: False
    model = s.prepare(GPT(SMALL))
    with s.joined(model) as m, torch.no_grad():
        cache = m.new_cache()
        for ids in (torch.zeros(1, 5, dtype=torch.int64), torch.ones(1, 1, dtype=torch.int64)): scores = m.hidden(ids, cache)
    assert torch.isfinite(scores).all() and scores.shape == (1, 1, 64)

def run_config(**kw):
    settings = dict(vocab_size=512, block_size=64, n_layer=6, n_head=2, n_embd=64, batch_size=64, device='cpu', dtype='float32')
    return build(RunConfig, settings | kw)

def test_auto_batch_counts_forgotten_activations_and_slices(monkeypatch):
    from nanogpt_lit.pretrain import auto_batch
    from nanogpt_lit.sharded import checkpoint_activations
    from nanogpt_lit.sizing import Ledger, forecast, rehearse, step_peak
    plain, forgetful = run_config(), run_config(activation_checkpointing=True)
    assert forecast(forgetful.model, 5, checkpointing=True).peak == rehearse(forgetful.model, 5, accumulate=False, checkpointing=True).peak
    assert step_peak(forgetful, 'cpu')(16) < .6*step_peak(plain, 'cpu')(16)
    model, ids_BT = GPT(plain.model), torch.zeros(4, 64, dtype=torch.int64)
    checkpoint_activations(model)
    with Ledger([*model.parameters(), *model.buffers(), ids_BT]) as real: model(ids_BT, ids_BT)[1].backward()
    foretold = rehearse(plain.model, 4, checkpointing=True)
    assert max(map(max, foretold.passes)) - sum(foretold.parts[k] for k in ('weights', 'optimiser states')) == pytest.approx(real.peak, rel=.02)
    memory, found = int(step_peak(plain, 'cpu')(8)), []
    for cfg, shards in ((plain, 1), (plain, 8), (forgetful, 1), (forgetful, 8)):
        cfg = replace(cfg, train=replace(cfg.train))
        auto_batch(cfg, memory, shards)
        found.append(cfg.train.batch_size)
    assert found[0] == 8 and found[0] <= found[1] < found[2] <= found[3], found

def test_slices_are_a_share_of_what_lasts():
    from nanogpt_lit.sizing import forecast, in_slices
    cfg = GPTConfig(vocab_size=512, block_size=64, n_layer=40, n_head=2, n_embd=64)
    r = forecast(cfg, 2)
    lasting = sum(r.parts[k] for k in ('weights', 'gradients', 'optimiser states'))
    assert in_slices(r, cfg, 1) == r.peak and .7*lasting < r.peak - in_slices(r, cfg, 8) < 7/8*lasting

# --- a vocabulary that GPUs like -----------------------------------------------------------------------------------

def test_the_vocabulary_is_padded_on_cuda_unless_it_was_given(capsys):
    from nanogpt_lit.config import RunConfig
    from nanogpt_lit.pretrain import fit_vocabulary
    gpt2 = SimpleNamespace(vocab_size=50257)
    def size(origin, device):
        cfg = RunConfig()
        fit_vocabulary(cfg, gpt2, origin, device)
        return cfg.model.vocab_size
    assert size({}, 'cuda:1') == 50304 and '50,257 ids, padded to 50,304' in capsys.readouterr().out
    assert size({}, 'cpu') == size({'vocab_size': 'flag'}, 'cuda') == 50257 and not capsys.readouterr().out

def test_padded_ids_are_never_drawn_and_not_exported(tmp_path):
    from transformers import AutoModelForCausalLM
    from nanogpt_lit.config import nanogpt_export, nanogpt_sample
    from nanogpt_lit.interop import load_run
    from nanogpt_lit.checkpoint import write_run
    from nanogpt_lit.tokenizer import Tokenizer
    tok = Tokenizer.train(['the cat sat on the mat '*20], 265, ['<|endoftext|>'], progress=False)
    torch.manual_seed(0)
    model = GPT(GPTConfig(vocab_size=320, block_size=32, n_layer=1, n_head=2, n_embd=16, act='gelu_tanh')).eval()
    assert tok.vocab_size < 320
    with torch.no_grad(): model.wte.weight[tok.vocab_size:] = 9*model.wte.weight[:50].sum(0)   # what they would say would be likely
    (tmp_path/'run').mkdir()
    write_run(model, tok, tmp_path/'run', 1)
    run = load_run(tmp_path/'run', 'cpu')
    ids = torch.tensor([tok.encode('the cat')])
    out = generate(run.model, ids, 50, seed=1, tokenizer=run.tokenizer)
    assert int(torch.as_tensor(out).max()) < tok.vocab_size
    assert nanogpt_sample([str(tmp_path/'run'), '--max_new_tokens', '20', '--num_samples', '1', '--device', 'cpu']) in (0, None)
    assert nanogpt_export([str(tmp_path/'run'), '--out_dir', str(tmp_path/'hf')]) in (0, None)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path/'hf')
    assert theirs.config.vocab_size == tok.vocab_size
    with torch.no_grad(): assert torch.allclose(theirs(ids).logits, model(ids)[0][..., :tok.vocab_size], atol=1e-4)

def test_bfloat16_is_timed_on_real_products(monkeypatch):
    "Also where it is asked for in a rehearsal first, whose own products are fakes and take no time that means anything"
    from torch._subclasses.fake_tensor import FakeTensorMode
    from nanogpt_lit import core
    real, kinds = torch.Tensor.__matmul__, []
    monkeypatch.setattr(torch.cpu, '_is_avx512_bf16_supported', lambda: True, raising=False)
    monkeypatch.setattr(torch.Tensor, '__matmul__', lambda a, b: kinds.append(type(a).__name__) or real(a, b))
    core._bfloat16_pays.cache_clear()
    with FakeTensorMode(): core.fast_bfloat16('cpu')
    core._bfloat16_pays.cache_clear()
    assert kinds and {*kinds} == {'Tensor'}, kinds
