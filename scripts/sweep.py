"""Sweeps for the recipe page (nbs/81_pretrain): learning rate and batch, and the horizon, three seeds each, on the book's own corpus.

    nanogpt-prepare pystdlib                    # once: data/pystdlib, 3.5 million tokens, a vocabulary of 2,048
    python scripts/sweep.py rates               # learning rate × batch at equal tokens
    python scripts/sweep.py horizon             # length of the run, each with a schedule of its own

Each run is one line of runs/logs/recipe/NAME.jsonl: what was set, what came out. A run that is in the log already is not made again,
so a sweep may be stopped and started. One thread; the loss is taken over the same held-out windows for all of them, in float32.
"""
import argparse, json, statistics, time
from pathlib import Path
from nanogpt_lit.config import GPTConfig, OptimConfig, TrainConfig
from nanogpt_lit.core import seed_everything
from nanogpt_lit.evaluate import evaluate_loss
from nanogpt_lit.loader import TokenData, make_plan
from nanogpt_lit.model import GPT
from nanogpt_lit.optim import make_optimizers
from nanogpt_lit.sizing import flops_per_token
from nanogpt_lit.trainer import Callback, Trainer

MODEL = dict(vocab_size=2048, block_size=64, n_layer=2, n_head=2, pos='rotary', norm='rmsnorm', act='relu2', bias=False,
             qk_norm=True, tie_embeddings=False, zero_init=True)
BASE = dict(width=64, batch=16, rate=2e-3, tokens=262_144, warmup=.05)
SEEDS = 1, 2, 3
RATES = {16: (5e-4, 1e-3, 2e-3, 4e-3, 8e-3), 64: (1e-3, 2e-3, 4e-3, 8e-3, 16e-3), 4: (2.5e-4, 5e-4, 1e-3, 2e-3, 4e-3)}   # by batch

def settings(**changes):
    "All settings of one run"
    return BASE | changes

def sweeps():
    "What each sweep consists of, in the order in which it is run: all settings with the first seed, then with the next"
    return {'rates': [settings(batch=b, rate=r) for b, rates in RATES.items() for r in rates],
            'horizon': [settings(tokens=BASE['tokens']*k//4) for k in (1, 2, 4, 8)]}

class Losses(Callback):
    "The training loss of each step, of a batch that the model hasn't seen before"
    def __init__(self): self.losses = []
    def on_step_end(self, t): self.losses.append(float(t.loss))
    def means(self, n=16):
        "Averaged over each n-th part of the run"
        n = min(n, len(self.losses))
        every = len(self.losses)//n
        return [round(statistics.mean(self.losses[i*every:(i + 1)*every]), 4) for i in range(n)]

def train(setting, seed, data, val, max_batches):
    "One run: what goes into the log"
    steps = setting['tokens']//(setting['batch']*MODEL['block_size'])
    seed_everything(seed)
    net = GPT(GPTConfig(**MODEL, n_embd=setting['width']))
    optim = OptimConfig(learning_rate=setting['rate'], min_lr=0., schedule='wsd', cooldown_fraction=.6,
                        warmup_steps=round(setting['warmup']*steps), weight_decay=0.)
    loop = TrainConfig(max_steps=steps, batch_size=setting['batch'], device='cpu', num_threads=1, eval_interval=0,
                       log_interval=10**6, seed=seed)
    plan = make_plan(data, setting['batch'], MODEL['block_size'], seed=seed)
    losses = Losses()
    trainer = Trainer(net, plan, make_optimizers(net, optim), optim, loop, [losses])
    start = time.process_time()
    trainer.fit()
    if trainer.stop_reason: raise SystemExit(f'stopped by {trainer.stop_reason}; what is in the log counts')
    seconds = time.process_time() - start
    loss = evaluate_loss(net, val, max_batches=max_batches).nats_per_token
    return dict(setting, seed=seed, steps=steps, loss=round(loss, 5), cpu_s=round(seconds, 2),
                parameters=sum(p.numel() for p in net.parameters()), flops=setting['tokens']*flops_per_token(net.cfg),
                curve=losses.means())

def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('name', choices=sweeps())
    parser.add_argument('--data', default='data/pystdlib')
    parser.add_argument('--output', default='runs/logs/recipe', help='folder of the logs')
    parser.add_argument('--minutes', type=float, default=30., help='begin no further run after so many CPU minutes')
    parser.add_argument('--max_batches', type=int, default=60, help='held-out batches of 32 windows; 0 = all')
    args = parser.parse_args()
    data, val = TokenData(args.data, 'train'), TokenData(args.data, 'val')
    log = Path(args.output)/f'{args.name}.jsonl'
    log.parent.mkdir(parents=True, exist_ok=True)
    rows = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    done = {(*(row[k] for k in BASE), row['seed']) for row in rows}
    for seed in SEEDS:
        for setting in sweeps()[args.name]:
            if (*(setting[k] for k in BASE), seed) in done: continue
            if time.process_time() > 60*args.minutes: return
            row = train(setting, seed, data, val, args.max_batches)
            with open(log, 'a') as f: f.write(json.dumps(row) + '\n')
            print(row, flush=True)

if __name__ == '__main__': main()
