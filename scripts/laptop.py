"""The runs behind the page of the laptop's minutes (nbs/85_laptop): the preset `laptop` on Tiny Shakespeare, three fresh seeds, and what got it there.

    python scripts/laptop.py seeds --input tinyshakespeare.txt              # the recipe with seeds 12, 13, 14; one thread, as the loss doesn't depend on it
    python scripts/laptop.py ablation --input tinyshakespeare.txt           # one ingredient changed at a time, in short runs
    python scripts/laptop.py readings --input tinyshakespeare.txt           # likewise, in whole ones: what matters when a text is read more than once
    python scripts/laptop.py clock --input tinyshakespeare.txt --threads 2  # the recipe again, for the wall time of an idle machine

Each run is one line of runs/logs/laptop/NAME.jsonl: what was set, what came out. A run that is in the log already is not made again,
so this may be stopped and started. The clocks run while it trains, validation stands them still. The loss is that of the whole validation
split (the last tenth of the text, as in nanoGPT), each character predicted once, in windows of the model's context that don't overlap.
"""
import argparse, json, statistics, time
from pathlib import Path
import numpy as np
import torch
from nanogpt_lit.config import PRESETS, RunConfig, build
from nanogpt_lit.core import pick_dtype, seed_everything
from nanogpt_lit.loader import TokenData, make_plan
from nanogpt_lit.model import GPT
from nanogpt_lit.optim import make_optimizers
from nanogpt_lit.trainer import Callback, Trainer, mean_loss

SEEDS = 12, 13, 14              # others were used to choose the number of steps
WHOLE = 1/4, 1/2, 3/4, 1        # shares of a run after which the whole validation split is looked at
SHORT = dict(max_steps=200, n_embd=192, muon_beta2=0.)   # the ablation's runs are short and around the width that the search began with; they cool down to zero all the same
CHANGES = {                     # what is different from the recipe; other sizes get as many steps as take about the same time
    'recipe': {}, 'no tables': dict(grams=0), 'a table of pairs only': dict(grams=2), 'groups of up to four': dict(grams=4),
    'a width of 128, for as long': dict(n_embd=128, max_steps=380), 'a width of 256, for as long': dict(n_embd=256, max_steps=127),
    'a context of 128, in training and validation': dict(block_size=128, batch_size=16),
    'half the batch, for as long': dict(batch_size=4, max_steps=320)}
READINGS = {                    # in whole runs, beside those in seeds.jsonl
    'no weight decay': dict(weight_decay=0.), 'three times the decay': dict(weight_decay=.3), 'dropout of 0.1': dict(dropout=.1),
    'the mean of the last tenth, cooled down to a quarter': dict(min_lr=.0025, average=.1), "Muon's rows as they come": dict(muon_beta2=0.)}
RECIPE = {'recipe': {}}
LOGS = dict(seeds=RECIPE, ablation={what: SHORT | changes for what, changes in CHANGES.items()}, readings=READINGS, clock=RECIPE)   # of each log, its runs

def halves(path):
    "Characters as ids: the first nine tenths to train on, the rest to be judged by; and how many different ones there are"
    text = Path(path).read_text(encoding='utf-8')
    letters = sorted(set(text))
    place = {letter: i for i, letter in enumerate(letters)}
    ids = np.array([place[letter] for letter in text], dtype=np.uint16)
    cut = int(.9*len(ids))
    return TokenData.from_arrays([ids[:cut]]), TokenData.from_arrays([ids[cut:]]), len(letters)

class Watch(Callback):
    "Clocks, training losses, and the loss of the whole validation split now and then"
    def __init__(self, val, block_size, at, average):
        self.val, self.block_size, self.at, self.average = val, block_size, at, average
        self.losses, self.vals, self.cpu, self.wall = [], [], 0., 0.
        self.total, self.count = None, 0
    def on_fit_start(self, t): self.start()
    def start(self): self.began = time.process_time(), time.perf_counter()
    def rest(self):
        self.cpu += time.process_time() - self.began[0]
        self.wall += time.perf_counter() - self.began[1]
    def on_step_end(self, t):
        self.losses.append(float(t.loss))
        if self.average and t.step > (1 - self.average)*t.cfg.max_steps: self.add(t.params)
        if self.total and t.step == t.cfg.max_steps: self.put_mean(t.params)
        if t.step not in self.at: return
        self.rest()
        mean = statistics.mean(self.losses[-100:])
        loss = mean_loss(t.raw_model, self.val, 8192//self.block_size, self.block_size)
        self.vals.append([t.step, round(self.cpu, 1), round(mean, 4), round(loss, 5)])
        print(*self.vals[-1], flush=True)
        self.start()

    def add(self, params):
        weights = [p.detach().clone() for p in params]
        if self.total is None: self.total = weights
        else: torch._foreach_add_(self.total, weights)
        self.count += 1
    @torch.no_grad()
    def put_mean(self, params):
        "The weights give way to the mean of those that were added up"
        for p, total in zip(params, self.total): p.copy_(total/self.count)

def train(changes, seed, threads, dtype, data, val, vocab_size):
    "One run: what goes into the log"
    changes = dict(changes)
    average = changes.pop('average', 0.)
    cfg = build(RunConfig, PRESETS['laptop'] | changes | dict(vocab_size=vocab_size, seed=seed, num_threads=threads, device='cpu', dtype=dtype,
                                                              eval_interval=0, log_interval=10**6))
    steps, T = cfg.train.max_steps, cfg.model.block_size
    seed_everything(seed)
    net = GPT(cfg.model)
    plan = make_plan(data, cfg.train.batch_size, T, seed=seed)
    watch = Watch(val, T, {round(share*steps) for share in WHOLE}, average)
    trainer = Trainer(net, plan, make_optimizers(net, cfg.optim), cfg.optim, cfg.train, [watch])
    trainer.fit()
    if trainer.stop_reason: raise SystemExit(f'stopped by {trainer.stop_reason}; what is in the log counts')
    tokens = steps*cfg.train.batch_size*T
    tables = net.num_params() - net.num_params(non_embedding=True)
    return dict(seed=seed, threads=threads, dtype=pick_dtype('cpu', dtype), steps=steps, tokens=tokens, epochs=round(tokens/len(data), 3), parameters=net.num_params(), tables=tables,
                cpu_s=round(watch.cpu, 1), wall_s=round(watch.wall, 1), loss=watch.vals[-1][-1], points=watch.vals,
                curve=[round(statistics.mean(watch.losses[i:i + 25]), 4) for i in range(0, steps, 25)])

def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('name', choices=LOGS)
    parser.add_argument('--input', required=True, help='tinyshakespeare.txt')
    parser.add_argument('--output', default='runs/logs/laptop', help='folder of the logs')
    parser.add_argument('--threads', type=int, default=1)
    parser.add_argument('--seeds', type=int, nargs='+', default=SEEDS)
    parser.add_argument('--only', nargs='+', help='of ablation and readings, these')
    parser.add_argument('--dtype', default='fast', help='fast is bfloat16 where the processor is quicker with it')
    args = parser.parse_args()
    data, val, vocab_size = halves(args.input)
    log = Path(args.output)/f'{args.name}.jsonl'
    log.parent.mkdir(parents=True, exist_ok=True)
    done = {(row['what'], row['seed']) for row in map(json.loads, log.read_text(encoding='utf-8').splitlines())} if log.exists() else set()
    for seed in args.seeds:
        for what, changes in LOGS[args.name].items():
            if (what, seed) in done or args.only and what not in args.only: continue
            row = dict(what=what, changes=changes) | train(changes, seed, args.threads, args.dtype, data, val, vocab_size)
            with open(log, 'a', encoding='utf-8') as f: f.write(json.dumps(row) + '\n')
            print({k: v for k, v in row.items() if k not in ('curve', 'points')}, flush=True)

if __name__ == '__main__': main()
