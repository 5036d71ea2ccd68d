"""Is everything right on a GPU, and how quick is it? One script, at most nine minutes, no network.

    python bench/gpu_check.py --out FOLDER [--peer PATH_TO_A_NANOGPT_CHECKOUT] [--only PART ...]
    python bench/gpu_check.py --out FOLDER --small      # the same parts on a CPU, with models of a few thousand parameters

Every part runs in a process of its own with a limit of its own, and writes FOLDER/PART.json: what it measured, or what went wrong. So a part that
hangs or dies costs only itself. What matters most comes first: when the time is over, the parts that are left are written down as not run.
FOLDER/summary.json has one line for each. Token files hold random ids, or the sources of the standard library; nothing is downloaded, and what is
compiled is compiled from nothing, in a cache that is thrown away.

The exit code is 0 if every part that ran found what it expected. Speeds are never a reason to fail: they are only written down, as is that a slow
way of compiling was not over in its time.
"""
import argparse, contextlib, dataclasses, gc, json, math, os, platform, re, shutil, signal, statistics, subprocess, sys, tempfile, time, traceback
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from pathlib import Path
from unittest import mock
import numpy as np
import torch
from nanogpt_lit.checkpoint import checksum, load_checkpoint, latest_checkpoint
from nanogpt_lit.config import GPTConfig, OptimConfig, RunConfig, TrainConfig
from nanogpt_lit.core import UserError, seed_everything
from nanogpt_lit.generate import generate
from nanogpt_lit.loader import BatchPlan, TokenData
from nanogpt_lit.model import GPT
from nanogpt_lit.optim import make_optimizers
from nanogpt_lit.sizing import flops_per_token, forecast, known_peak, peak_flops
from nanogpt_lit.trainer import SLOW_MODES, OneBatch, Trainer

PARTS = {}                                                    # name → (function, limit in seconds)
SHARING = set()                                               # parts that need no device of their own, as they take no times
LONG = set()                                                  # parts of which nobody knows how long they take
TOTAL_S = 540

def part(limit_s, *variants, sharing=False, long=()):
    "Register a function as a part, or as one part for each of its variants; `long` are the beginnings of those that may take very long"
    def register(f):
        base = f.__name__.replace('_', '-')
        for v in variants or [()]:
            name = '-'.join((base, *map(str, v)))
            PARTS[name] = (lambda c, v=v: f(c, *v)), limit_s
            if sharing: SHARING.add(name)
            if v and str(v[0]).startswith(tuple(long)): LONG.add(name)
        return f
    return register

class Expected(Exception):
    "Something was found that should not be so"
    def __init__(self, what, found=None):
        super().__init__(what)
        self.found = found

def expect(true, what, found=None):
    "Go on if it is `true`; otherwise `what` is wrong, and `found` is what was measured until then"
    if not true: raise Expected(what, found)

# --- what all parts use --------------------------------------------------------------------------------------------

def wait(device):
    if device.startswith('cuda'): torch.cuda.synchronize()

def peak_gb(device):
    return torch.cuda.max_memory_allocated()/1e9 if device.startswith('cuda') else None

def tokens(folder, n, vocab_size, name='ids.bin'):
    "A token file of random ids"
    path = Path(folder)/name
    np.random.default_rng(0).integers(0, vocab_size, n, dtype=np.uint16).tofile(path)
    return path

def sources(folder, n_chars=400_000):
    "A text file: some of the standard library's own sources"
    text = '\n'.join(p.read_text(encoding='utf-8') for p in sorted(Path(argparse.__file__).parent.glob('*.py')))
    path = Path(folder)/'text.txt'
    path.write_text(text[:n_chars], encoding='utf-8')
    return path

def gpt2(c, **kw):
    "GPT-2 124M, or something very small"
    shape = dict(n_layer=2, n_head=2, n_embd=32, block_size=32, vocab_size=128) if c.small else dict(vocab_size=50304)
    return GPTConfig(**{**shape, 'act': 'gelu_tanh', **kw})

def batch_size(c): return 2 if c.small else 64

def trainer(c, folder, cfg, batch_size, dtype='bfloat16', accumulate=1, strategy=None, **kw):
    "A trainer on random ids"
    data = TokenData(tokens(folder, 40*batch_size*accumulate*cfg.block_size, min(cfg.vocab_size, 50257)))
    plan = BatchPlan(data, batch_size*accumulate, cfg.block_size, seed=0)
    optim = OptimConfig(learning_rate=6e-4, weight_decay=.1, warmup_steps=0, schedule='constant')
    train = TrainConfig(batch_size=batch_size, grad_accum_steps=accumulate, device=c.device, dtype='float32' if c.small and dtype == 'bfloat16' else dtype,
                        max_steps=10**6, eval_iters=2, **dict(compile=False) | kw)
    seed_everything(0)
    torch.set_float32_matmul_precision('high' if train.tf32 else 'highest')       # as `fit` does
    model = GPT(cfg).to(c.device) if strategy is None else strategy.prepare(strategy.new_model(cfg))
    return Trainer(model, plan, make_optimizers(model, optim, c.device), optim, train, val_data=data, strategy=strategy)

def ms_per_step(c, step, warm=5, n=20):
    "Median milliseconds of a step, after some that don't count"
    if c.small: warm, n = 1, 2
    for _ in range(warm): step()
    wait(c.device)
    times = []
    for _ in range(n):
        start = time.perf_counter()
        step()
        wait(c.device)
        times.append(1000*(time.perf_counter() - start))
    return statistics.median(times)

def speed(c, t, cfg, batch_size, **kw):
    "Tokens per second, share of the peak, and peak memory of a trainer's step"
    if c.device.startswith('cuda'): torch.cuda.reset_peak_memory_stats()
    ms = ms_per_step(c, t.train_step, **kw)
    per_s = batch_size*t.cfg.grad_accum_steps*cfg.block_size/ms*1000
    peak = peak_flops(c.device, t.strategy.dtype) if c.device.startswith('cuda') else None
    return dict(ms_per_step=ms, tokens_per_s=per_s, mfu=per_s*flops_per_token(cfg)/peak if peak else None, peak_gb=peak_gb(c.device),
                loss=float(t.loss))

@contextlib.contextmanager
def no_waiting(c):
    "Whoever waits for the device in this block gets an error"
    if c.device.startswith('cuda'): torch.cuda.set_sync_debug_mode('error')
    try: yield
    finally:
        if c.device.startswith('cuda'): torch.cuda.set_sync_debug_mode('default')

def ten_steps(c, t):
    "Ten steps of training without waiting, after some that may"
    for _ in range(3): t.train_step()
    with no_waiting(c):
        for _ in range(10): t.train_step()
    return float(t.loss)

def command(c, *flags, device=None):
    "nanogpt-train as a shell would start it"
    return [sys.executable, '-m', 'nanogpt_lit.pretrain', *map(str, flags), '--device', device or c.device]

def run_to_end(c, *flags, device=None):
    "A run from its beginning to its end"
    r = subprocess.run(command(c, *flags, device=device), capture_output=True, text=True, cwd=c.work)
    expect(r.returncode == 0, f'{" ".join(map(str, flags))}: {r.stderr[-800:]}')

def at_once(*jobs):
    "The answers of all jobs, which run at the same time"
    with ThreadPoolExecutor() as pool: return [o.result() for o in [pool.submit(job) for job in jobs]]

def losses(folder, key='loss'):
    rows = map(json.loads, (Path(folder)/'metrics.jsonl').read_text().splitlines())
    return {r['step']: r[key] for r in rows if key in r}

# --- right? --------------------------------------------------------------------------------------------------------

@part(60)
def machine(c):
    "What there is, and what a product of two 8192 × 8192 matrices reaches"
    about = dict(torch=torch.__version__, python=platform.python_version(), cuda=torch.version.cuda, cpus=os.cpu_count(), device=c.device)
    if c.device.startswith('cuda'):
        p = torch.cuda.get_device_properties(0)
        about |= dict(name=p.name, capability=[p.major, p.minor], memory_gb=p.total_memory/1e9, multiprocessors=p.multi_processor_count)
    n, flops = 256 if c.small else 8192, {}
    for dtype in ('bfloat16', 'float16', 'float32'):
        for tf32 in (False, True)[:1 + (dtype == 'float32')]:
            torch.set_float32_matmul_precision('high' if tf32 else 'highest')
            a = torch.randn(n, n, device=c.device, dtype=getattr(torch, dtype))
            flops[dtype + ', tf32'*tf32] = 2*n**3/ms_per_step(c, lambda: a @ a, 5, 20)*1000/1e12
    about['product_tflops'] = flops
    if not c.small: about['peak_by_table'] = {d: known_peak(about['name'], d, tf32=True) for d in ('bfloat16', 'float16', 'float32')}
    return about

SHAPES = dict(classic=dict(act='gelu_tanh'), modern=dict(pos='rotary', norm='rmsnorm', act='relu2', bias=False, qk_norm=True, tie_embeddings=False),
              grouped=dict(pos='rotary', norm='rmsnorm', act='swiglu', bias=False, n_kv_head=2, window=24), documents=dict(pos='rotary', norm='rmsnorm'))

@part(60, sharing=True)
def same_as_cpu(c):
    "Scores and gradients in float32 are those of the CPU to 1e-4, for four kinds of model"
    torch.set_float32_matmul_precision('highest')
    found = {}
    for name, options in SHAPES.items():
        cfg = GPTConfig(vocab_size=512, block_size=64, n_layer=4, n_head=4, n_embd=128, **options)
        seed_everything(1)
        model, ids = GPT(cfg), torch.randint(512, (4, 65))
        segments = torch.arange(64).expand(4, -1)//20 if name == 'documents' else None
        answers = []
        for device in ('cpu', c.device):
            m = GPT(cfg).to(device)
            m.load_state_dict(model.state_dict())
            x, y, s = (None if o is None else o.to(device) for o in (ids[:, :-1].contiguous(), ids[:, 1:].contiguous(), segments))
            logits, loss = m(x, y, segments_BT=s)
            loss.backward()
            answers.append((logits.detach().cpu(), {k: p.grad.cpu() for k, p in m.named_parameters()}))
        (a, g), (b, h) = answers
        scale = max(float(o.abs().max()) for o in g.values())
        found[name] = dict(logits=float((a - b).abs().max()), gradients=max(float((g[k] - h[k]).abs().max()) for k in g)/scale)
    for name, o in found.items(): expect(max(o.values()) < 1e-4, f'{name}: {o}')
    return found

@part(100, sharing=True)
def small_runs(c):
    "`tiny` and `speedrun` end within 2 % of the same run on a CPU"
    text, steps, found = sources(c.work, 40_000 if c.small else 400_000), 6 if c.small else 300, {}
    def run(preset, device, out):
        run_to_end(c, preset, '--input', text, '--out_dir', out, '--max_steps', steps, '--eval_interval', steps, '--dtype', 'float32', '--no-compile', device=device)
        return [*losses(c.work/out, 'val_loss').values()][-1]
    def job(preset, device, name): return lambda: run(preset, device, f'{preset}-{name}')
    jobs = [job(preset, *where) for preset in ('tiny', 'speedrun') for where in (('cpu', 'cpu'), (c.device, 'device'))]
    ends = at_once(*jobs)
    for preset, cpu, device in zip(('tiny', 'speedrun'), ends[::2], ends[1::2]): found[preset] = dict(cpu=cpu, device=device, off_by=device/cpu - 1)
    for preset, o in found.items(): expect(abs(o['off_by']) < .02, f'{preset}: {o}', found)
    return found

@part(70, sharing=True)
def killed_and_resumed(c):
    "A run that was killed ends with the weights of one that was not, bit for bit, in deterministic mode"
    steps, every = (40, 10) if c.small else (200, 20)
    flags = ['tiny', '--input', sources(c.work, 40_000), '--max_steps', steps, '--checkpoint_interval', every, '--eval_interval', steps, '--deterministic', '--no-compile']
    p = subprocess.Popen(command(c, *flags, '--out_dir', 'killed'), cwd=c.work, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while p.poll() is None and not (c.work/'killed'/f'model_{every:05}.pt').exists(): time.sleep(.002)
    p.send_signal(signal.SIGKILL)
    p.wait()
    begun = max((int(o.stem[-5:]) for o in (c.work/'killed').glob('model_*.pt')), default=None)
    expect(begun is not None and begun < steps, f'the run could not be killed in time: its last checkpoint is {begun}')
    at_once(lambda: run_to_end(c, *flags, '--out_dir', 'whole'), lambda: run_to_end(c, *flags, '--out_dir', 'killed', '--auto_resume'))
    sums = [checksum(load_checkpoint(latest_checkpoint(c.work/o))['model']) for o in ('whole', 'killed')]
    expect(sums[0] == sums[1], 'the weights differ')
    return dict(equal=True, killed_after=begun)

@part(40, sharing=True)
def deterministic_twice(c):
    "Two deterministic runs have the same weights"
    flags = ['tiny', '--input', sources(c.work, 40_000), '--max_steps', 8 if c.small else 50, '--deterministic', '--no-compile']
    at_once(lambda: run_to_end(c, *flags, '--out_dir', 'first'), lambda: run_to_end(c, *flags, '--out_dir', 'second'))
    sums = [checksum(load_checkpoint(latest_checkpoint(c.work/o))['model']) for o in ('first', 'second')]
    expect(sums[0] == sums[1], 'the weights differ')
    return dict(equal=True)

@part(40, sharing=True)
def nothing_waits(c):
    "Ten steps of training never make the program wait for the device, be they in one piece or in two"
    return {f'{n} micro-steps': ten_steps(c, trainer(c, c.work, gpt2(c), 2 if c.small else 8, accumulate=n)) for n in (1, 2)}

@part(40, sharing=True)
def half_precision(c):
    "Two hundred steps in float16 with loss scaling stay finite and learn, and ten more wait for nothing"
    cfg = gpt2(c, n_layer=2, n_head=2, n_embd=128, block_size=128, vocab_size=512)
    t = trainer(c, c.work, cfg, 8, 'float16' if c.device.startswith('cuda') else 'float32')
    t.plan = OneBatch(t.plan)                                 # random ids can only be learned by heart
    seen = []
    for i in range(20 if c.small else 200):
        t.train_step()
        if i % 10 == 9: seen.append(float(t.loss))
    found = dict(losses=seen, scale=t.strategy.scaler.get_scale())
    expect(all(map(math.isfinite, seen)) and seen[-1] < seen[0], f'losses {seen}', found)
    ten_steps(c, t)
    return found

@part(60, sharing=True)
def one_process_strategies(c):
    "DDP and FSDP with a single process: the same losses, and a sharded checkpoint that continues exactly"
    os.environ |= dict(RANK='0', WORLD_SIZE='1', LOCAL_RANK='0', LOCAL_WORLD_SIZE='1', MASTER_ADDR='127.0.0.1', MASTER_PORT='29533')
    from nanogpt_lit.distributed import DataParallel, leave
    from nanogpt_lit.sharded import Sharded, look_sharded, restore_any, save_sharded
    found, cfg = {}, gpt2(c, n_layer=2, block_size=32)
    for kind in (DataParallel, Sharded):
        s = kind(c.device, 'float32')
        t = trainer(c, c.work, cfg, 2, 'float32', strategy=s)
        for _ in range(5): t.train_step()
        found[kind.__name__] = float(t.loss)
        if kind is Sharded:
            place = save_sharded(t, c.work/'model_00005.dcp')
            again = trainer(c, c.work, cfg, 2, 'float32', strategy=s)
            restore_any(again, look_sharded(place))
            for o in (t, again): o.train_step()
            expect(float(t.loss) == float(again.loss), f'after reloading {float(again.loss)}, expected {float(t.loss)}')
    leave()
    expect(abs(found['Sharded']/found['DataParallel'] - 1) < 1e-5, found)
    return found

@part(60, sharing=True)
def little_memory(c):
    "With 12 GB: one sentence for what doesn't fit, and a finished run with its evaluation for what does"
    if c.device.startswith('cuda'): torch.cuda.set_per_process_memory_fraction(12e9/torch.cuda.get_device_properties(0).total_memory)
    from nanogpt_lit.pretrain import pretrain
    flat = dict(act='gelu_tanh', vocab_size=50304, block_size=1024, device=c.device, compile=False, max_steps=4, eval_interval=4, warmup_steps=0, learning_rate=1e-4)
    flat |= dict(n_layer=2, n_head=2, n_embd=32, block_size=32, vocab_size=128) if c.small else {}
    data = tokens(c.work, 2_000_000 if not c.small else 20_000, 128 if c.small else 50257)
    def run(**kw):
        return pretrain(made(RunConfig, flat | kw | dict(train_data=str(data), val_data=str(data))), quiet=True)
    said = None
    if not c.small:
        try: run(batch_size=256, out_dir=str(c.work/'large'))
        except UserError as e: said = str(e)
        expect(said and 'out of memory' in said and '\n' not in said, f'expected a sentence about memory, got {said}')
    gc.collect()                                              # what the first run had
    r = run(batch_size=2 if c.small else 4, out_dir=str(c.work/'fits'))
    expect(r.finished and r.evaluation, 'the run has no evaluation')
    return dict(said=said, evaluation=r.evaluation.nats_per_token, peak_gb=peak_gb(c.device))

def made(kind, values):
    "A configuration from flat values"
    parts = {}
    for f in dataclasses.fields(kind):
        inner = f.default_factory
        parts[f.name] = inner(**{k: v for k, v in values.items() if k in inner.__dataclass_fields__}) if hasattr(inner, '__dataclass_fields__') else f.default
    return kind(**parts)

# --- quick? --------------------------------------------------------------------------------------------------------

@part(80, ('compiled', 50304), ('eager', 50304), ('compiled', 50257), ('eager', 50257), ('compiled', 50304, 'whole-head'))
def gpt2_step(c, how, vocab_size, head='in-pieces'):
    "GPT-2 124M, 64 sequences of 1,024 tokens, bfloat16: tokens per second, share of the peak, memory beside what the rehearsal foretold"
    cfg, B = gpt2(c, **(dict(n_layer=1) if c.small else dict(vocab_size=vocab_size))), batch_size(c)
    if head == 'in-pieces': return measured_step(c, cfg, B, how)
    with mock.patch('nanogpt_lit.model.SCORES_AT_ONCE', 2**60):
        try: return measured_step(c, cfg, B, how)
        except torch.OutOfMemoryError: return dict(out_of_memory=True)

def measured_step(c, cfg, B, how):
    "What `gpt2_step` finds"
    t = trainer(c, c.work, cfg, B)
    start = time.perf_counter()
    if how == 'compiled': t._compile()
    compiled = t.model is not t.raw_model
    t.train_step()
    wait(c.device)
    found = dict(first_step_s=time.perf_counter() - start, compiled=compiled) | speed(c, t, cfg, B)
    ten_steps(c, t)
    if how == 'compiled': expect(compiled or c.small, 'the model was not compiled', found)
    if how == 'eager' and c.device.startswith('cuda'):
        found['foretold_gb'] = forecast(cfg, B, 'bfloat16', c.device).peak/1e9
        found['foretold_off_by'] = found['foretold_gb']/found['peak_gb'] - 1
        expect(abs(found['foretold_off_by']) < .05, f'the rehearsal foretold {found["foretold_gb"]:.2f} GB, it took {found["peak_gb"]:.2f}', found)
    return found

@part(75)
def peer_train(c):
    "nanoGPT's own train.py with the same model, batch and compiling"
    if not c.peer: return dict(skipped='no --peer')
    home, T = c.work/'peer', 32 if c.small else 1024
    shutil.copytree(c.peer, home, ignore=shutil.ignore_patterns('.git'))
    (home/'data'/'random').mkdir(parents=True)
    for name in ('train.bin', 'val.bin'): tokens(home/'data'/'random', 100_000 if c.small else 10_000_000, 128 if c.small else 50257, name)
    # each iteration is timed and waited for, as ours is: with a longer log_interval, the one that waits would be charged for those before it
    options = dict(dataset='random', batch_size=batch_size(c), gradient_accumulation_steps=1, block_size=T, max_iters=8 if c.small else 40, eval_interval=100_000,
                   eval_iters=1, log_interval=1, device=c.device, compile=not c.small, bias=True)
    if c.small: options |= dict(n_layer=2, n_head=2, n_embd=32, dtype='float32')
    r = subprocess.run([sys.executable, 'train.py', *(f'--{k}={v}' for k, v in options.items())], cwd=home, capture_output=True, text=True)
    expect(r.returncode == 0, r.stderr[-800:])
    ms = [float(o) for o in re.findall(r'time ([\d.]+)ms', r.stdout)]
    expect(len(ms) > options['max_iters']//2, f'train.py said no times: {r.stdout[-800:]}')
    usual = statistics.median(ms[len(ms)//4:])
    return dict(ms_per_step=usual, tokens_per_s=batch_size(c)*T/usual*1000)

@part(75, ('default', 1), ('reduce-overhead', 1), ('reduce-overhead', 2), ('max-autotune', 1), ('max-autotune', 2), ('max-autotune-no-cudagraphs', 1), long=SLOW_MODES)
def compile_mode(c, mode, accumulate):
    "By mode of compiling, with four layers of GPT-2: seconds until the first step, milliseconds of a step; the loss is that of the uncompiled model"
    if c.small and mode in SLOW_MODES: return dict(skipped='on a CPU it is the default, slower')
    cfg, B, ends = gpt2(c, **({} if c.small else dict(n_layer=4))), 2 if c.small else 16, []
    for how in ('eager', mode):
        t = trainer(c, c.work, cfg, B, accumulate=accumulate, compile_mode=mode)
        t.plan = OneBatch(t.plan)                             # a loss that falls says more
        start = time.perf_counter()
        if how == mode: t._compile()
        for i in range(10):
            t.train_step()
            if i == 0: wait(c.device); first_s = time.perf_counter() - start
            if i == 5: t.evaluate()
        ends.append(dict(loss=float(t.loss), val_loss=t.val_loss))
    found = dict(compiled=t.model is not t.raw_model, recorded=t.recorded, first_step_s=first_s, ms_per_step=ms_per_step(c, t.train_step), eager=ends[0], compiled_ends=ends[1])
    expect(found['compiled'] or c.small, 'the model was not compiled', found)
    for k in ends[0]: expect(abs(ends[1][k]/ends[0][k] - 1) < .02, f'{k}: {ends[1][k]}, and {ends[0][k]} uncompiled', found)
    return found

@part(60)
def decoding(c):
    "Two hundred tokens in bfloat16, alone and ten at a time; and nanoGPT's own sampling, if it is here"
    cfg = gpt2(c)
    model = GPT(cfg).to(c.device, torch.float32 if c.small else torch.bfloat16).eval()
    n, found = 20 if c.small else 200, {}
    for B in (1, 10):
        ids = torch.zeros(B, 4, dtype=torch.long, device=c.device)
        found[f'batch {B}'] = B*n/ms_per_step(c, lambda: generate(model, ids, n, top_k=200, seed=1), 1, 3)*1000
        # what it would be if cuDNN were asked too, which plans anew for each length
        with mock.patch('nanogpt_lit.decode.AnyLength', contextlib.nullcontext):
            found[f'batch {B}, cuDNN allowed'] = B*n/ms_per_step(c, lambda: generate(model, ids, n, top_k=200, seed=1), 1, 3)*1000
    if c.peer:
        sys.path.insert(0, str(c.peer))
        from model import GPT as Theirs, GPTConfig as TheirConfig
        theirs = Theirs(TheirConfig(**{k: getattr(cfg, k) for k in ('n_layer', 'n_head', 'n_embd', 'block_size', 'vocab_size')})).to(c.device).eval()
        cast = contextlib.nullcontext() if c.small else torch.autocast('cuda', torch.bfloat16)
        with torch.no_grad(), cast:
            for B in (1, 10):
                ids = torch.zeros(B, 4, dtype=torch.long, device=c.device)
                found[f'nanoGPT, batch {B}'] = B*n/ms_per_step(c, lambda: theirs.generate(ids, n, top_k=200), 1, 3)*1000
    return found

@part(60)
def masks(c):
    "A step with documents kept apart, and with windows, beside a plain one"
    found, B = {}, 2 if c.small else 16
    for name, options in dict(plain={}, windows=dict(window=8 if c.small else 256), documents={}).items():
        cfg = gpt2(c, **options)
        t = trainer(c, c.work, cfg, B)
        if name == 'documents':
            T, plain = cfg.block_size, t.plan.batch
            segments = torch.arange(T).expand(B, -1)//(T//4)
            def with_documents(step, *share): return *plain(step, *share)[:2], torch.ones(B, T), segments
            t.plan.batch = with_documents
        found[name] = ms_per_step(c, t.train_step, 3, 10)
        del t
    return found

FIRST = ('machine', 'gpt2-step-compiled-50304', 'peer-train', 'decoding', 'gpt2-step-eager-50304')

def in_order(names):
    "What matters most comes first, then what is right, then what is quick, and last what may take very long"
    def rank(name): return FIRST.index(name) if name in FIRST else len(FIRST) + 2*(name in LONG) + (name not in SHARING)
    return sorted(names, key=rank)

# --- one after the other -------------------------------------------------------------------------------------------

def run_part(name, c):
    "The part in this process; its result goes into a file"
    begin, out = time.perf_counter(), dict(part=name, ok=True)
    with tempfile.TemporaryDirectory() as d:
        c.work = Path(d)
        try: out['found'] = PARTS[name][0](c)
        except Expected as e: out |= dict(ok=False, error=str(e)) | ({} if e.found is None else dict(found=e.found))
        except Exception as e: out |= dict(ok=False, error=f'{type(e).__name__}: {e}'[:600], where=traceback.format_exc()[-3000:])
    out['seconds'] = time.perf_counter() - begin
    (c.out/f'{name}.json').write_text(json.dumps(out, indent=1))
    return out

def start_part(name, args, limit_s, cache=None):
    "The part in a process of its own, which is ended when its time is over; what it compiles goes to `cache`"
    file = args.out/f'{name}.json'
    file.unlink(missing_ok=True)                              # of an earlier day
    words = [sys.executable, __file__, '--part', name, '--out', str(args.out)] + ['--small']*args.small + (['--peer', str(args.peer)] if args.peer else [])
    env = os.environ | (dict(TORCHINDUCTOR_CACHE_DIR=str(cache)) if cache else {})
    p = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True, env=env)
    try: said = p.communicate(timeout=limit_s)[0]
    except subprocess.TimeoutExpired:
        os.killpg(p.pid, signal.SIGKILL)
        excused = name in LONG or limit_s < PARTS[name][1]    # a share of its time says nothing about it
        return dict(part=name, ok=None if excused else False, error=f'not over after {limit_s:.0f} s', said=p.communicate()[0][-1500:])
    if not file.exists(): return dict(part=name, ok=False, error=f'ended with {p.returncode}', said=said[-1500:])
    return json.loads(file.read_text())

def run_all(args):
    "The parts one after the other, as far as the time goes, those that take no times a few at once; prints a line for each"
    end, results = time.monotonic() + TOTAL_S, []
    def run(name, cache):
        begin = time.monotonic()
        left = end - begin
        o = start_part(name, args, min(left, PARTS[name][1]), cache) if left > 10 else dict(part=name, ok=None, error='not run: the time is over')
        o['with_start_s'] = time.monotonic() - begin
        (args.out/f'{name}.json').write_text(json.dumps(o, indent=1))
        word = {True: 'ok', False: 'WRONG', None: 'no result'}[o['ok']]
        print(f'{name:36} {o["with_start_s"]:4.0f} s  {word}  {json.dumps(o.get("error") or o.get("found"))[:200]}', flush=True)
        results.append(o)
    with tempfile.TemporaryDirectory() as cache:
        for sharing, names in groupby(in_order(args.only or PARTS), SHARING.__contains__):
            with ThreadPoolExecutor(max(1, min(4, os.cpu_count()//4)) if sharing else 1) as pool: [*pool.map(lambda name: run(name, cache), names)]
    (args.out/'summary.json').write_text(json.dumps([dict(part=o['part'], ok=o['ok']) for o in results], indent=1))
    return any(o['ok'] is False for o in results)

def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument('--out', type=Path, required=True, help='folder for the results')
    a.add_argument('--peer', type=Path, help='a nanoGPT checkout')
    a.add_argument('--only', nargs='+', choices=PARTS, metavar='PART', help=f'only these: {", ".join(PARTS)}')
    a.add_argument('--small', action='store_true', help='on a CPU, very small')
    a.add_argument('--part', choices=PARTS, help=argparse.SUPPRESS)
    args = a.parse_args()
    if not args.small and not torch.cuda.is_available(): sys.exit('there is no CUDA device here: --small tries the script itself on a CPU')
    args.device = 'cpu' if args.small else 'cuda'
    args.out, args.peer = args.out.resolve(), args.peer and args.peer.resolve()
    args.out.mkdir(parents=True, exist_ok=True)
    if args.part: return run_part(args.part, args)
    sys.exit(run_all(args))

if __name__ == '__main__': main()
