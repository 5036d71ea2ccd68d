"""What the trainer costs beyond the training: the loop with all of a run's callbacks beside a bare loop, in one process, in turn.

    python bench/loop.py [--steps 1000] [--chunk 20] [--layers 4] [--width 128] [--without NAME …]

The model is that of nanoGPT's small CPU recipe. Both loops see the same batches and do the same updates: the bare one is
the ten lines of the trainer's page plus clipping and a schedule, the other is a run as `nanogpt-train` sets it up, with a log line
every ten steps. They take turns, `--chunk` steps each, inside one run: the bare loop goes on whenever the run has done its chunk,
in a callback that comes after all others. Evaluations, checkpoints and samples are work that a bare loop doesn't do, and
are switched off; what each of them takes when it is due is said at the end. Prints medians over chunks; promises nothing.
"""
import argparse, contextlib, io, statistics, tempfile, time
from pathlib import Path
import numpy as np
import torch
from nanogpt_lit.config import DataConfig, OptimConfig, RunConfig, TrainConfig
from nanogpt_lit.core import keep_memory, seed_everything
from nanogpt_lit.loader import BatchPlan, TokenData
from nanogpt_lit.model import GPT
from nanogpt_lit.config import GPTConfig
from nanogpt_lit.optim import clip_grad_norm, lr_factor, make_optimizers, set_lr
from nanogpt_lit.pretrain import make_trainer
from nanogpt_lit.tokenizer import CharTokenizer
from nanogpt_lit.trainer import Callback

B, T, V = 12, 64, 65

def bare_loop(model, plan, optim, max_steps):
    "A generator that does one step at a time"
    opts = make_optimizers(model, optim)
    for step in range(max_steps):
        set_lr(opts, lr_factor(step, optim, max_steps))
        x_BT, y_BT = plan.batch(step)
        model(x_BT, y_BT)[1].backward()
        clip_grad_norm(model.parameters(), optim.grad_clip)
        for o in opts: o.step(); o.zero_grad(set_to_none=True)
        yield

class Turns(Callback):
    "After every `chunk` steps of the run, as many of the bare loop"
    order = 10**6
    def __init__(self, bare, chunk): self.bare, self.chunk, self.times = bare, chunk, []
    def clock(self): return time.perf_counter(), time.process_time()
    def on_fit_start(self, t): self.began = self.clock()
    def on_step_end(self, t):
        if t.step % self.chunk: return
        middle = self.clock()
        for _ in range(self.chunk): next(self.bare)
        end = self.clock()
        self.times.append([(b - a)/self.chunk*1e3 for pair in ((self.began, middle), (middle, end)) for a, b in zip(*pair)])
        self.began = self.clock()

def timed(f, n=5):
    "Median CPU milliseconds of a call"
    times = []
    for _ in range(n):
        start = time.process_time()
        f()
        times.append(1e3*(time.process_time() - start))
    return statistics.median(times)

def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in dict(steps=1000, chunk=20, layers=4, width=128, log_interval=10).items(): ap.add_argument(f'--{name}', type=int, default=default)
    ap.add_argument('--without', nargs='*', default=[], help='classes of callbacks to leave out, to see which one costs what')
    args = ap.parse_args()
    torch.set_num_threads(1)
    keep_memory()
    with tempfile.TemporaryDirectory() as d:
        folder = Path(d)
        rng = np.random.default_rng(0)
        for split, n in (('train', 10**6), ('val', 10**5)): rng.integers(V, size=n, dtype=np.uint16).tofile(folder/f'{split}.bin')
        train, val = TokenData(folder/'train.bin', vocab_size=V), TokenData(folder/'val.bin', vocab_size=V)
        tok = CharTokenizer([chr(33 + i) for i in range(V)])
        cfg = RunConfig(GPTConfig(n_layer=args.layers, n_head=4, n_embd=args.width, block_size=T, vocab_size=V, bias=False), DataConfig(), OptimConfig(learning_rate=1e-3, warmup_steps=100),
                        TrainConfig(out_dir=d, max_steps=args.steps, batch_size=B, device='cpu', num_threads=1, log_interval=args.log_interval, eval_interval=0, checkpoint_interval=0))
        plan = lambda: BatchPlan(train, B, T, seed=0)
        seed_everything(cfg.train.seed)
        turns = Turns(bare_loop(model := GPT(cfg.model), plan(), cfg.optim, args.steps), args.chunk)
        t = make_trainer(cfg, plan(), val, tok, folder, [turns])
        t.callbacks = [o for o in t.callbacks if type(o).__name__ not in args.without]
        names = [type(o).__name__ for o in t.callbacks if o is not turns]
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()): t.fit()
        same = all(torch.equal(p, q) for p, q in zip(model.parameters(), t.raw_model.parameters()))
        print(f'{args.layers} layers, width {args.width}, batch {B}x{T}; callbacks: {", ".join(names)}')
        wall_full, cpu_full, wall_bare, cpu_bare = (np.array(o) for o in zip(*turns.times[1:]))
        for name, bare, full in (('wall', wall_bare, wall_full), ('CPU', cpu_bare, cpu_full)):
            low, mid, high = np.percentile(full/bare, [25, 50, 75])
            print(f'{name:<5} bare {np.median(bare):7.3f} ms, full {np.median(full):7.3f} ms per step, ratio {mid:.4f} (quartiles {low:.4f} - {high:.4f}, {len(bare)} chunks)')
        print(f'the same weights at the end: {same}')
        saver = next(o for o in t.callbacks if type(o).__name__ == 'CheckpointCallback')
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation, saving = timed(t.evaluate, 3), timed(lambda: saver.save(t))
            t.callbacks = [saver]
            alone = timed(lambda: saver.save(t))
        default, step = TrainConfig(), np.median(cpu_bare)
        extra = np.median(cpu_full/cpu_bare) - 1
        print(f'a checkpoint: {alone:.0f} ms, with the pictures that are drawn then {saving:.0f} ms; the whole validation split (100k tokens): {evaluation:.0f} ms')
        print(f'overhead of the loop {extra:.2%}; with a checkpoint every {default.checkpoint_interval} steps {extra + saving/default.checkpoint_interval/step:.2%}')

if __name__ == '__main__': main()
