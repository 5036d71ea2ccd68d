"""The ledger of the book: how well each step of the story predicts the held-out bytes of `pystdlib`.

    nanogpt-quickstart                                    # or any other way to get data/pystdlib: the book's text, in its vocabulary
    python scripts/ledger.py count                        # uniform, unigram, bigram, gzip, xz, and a bigram of tokens: seconds
    python scripts/ledger.py train head block ...         # small trainings, three seeds each; without names, all of them (an hour)
    python scripts/ledger.py measure runs/book            # the running model, on everything held out

Each writes its rows into runs/book/ledger.jsonl (in the order of the story, each replacing the row of the same name), and `train` leaves the losses of
every tenth step in runs/book/logs. All trainings see the same text, vocabulary and order of batches: `STEPS` steps of 8 windows of 128 tokens, in float32 on one
thread, the learning rate falling to zero over the last 60 % of the steps. They differ in the model, in the optimiser, and in nothing else but the learning
rate of AdamW, which is each model's best of `RATES`, tried for a quarter as long with a seed of its own. (Muon has the preset's rates.)
"""
import argparse, json, platform, statistics, time
from dataclasses import asdict
from pathlib import Path
import numpy as np
import torch
from torch import nn
from nanogpt_lit.config import PRESETS, GPTConfig, OptimConfig, TrainConfig, build
from nanogpt_lit.core import atomic_write, seed_everything
from nanogpt_lit.evaluate import evaluate_loss
from nanogpt_lit.guess import LedgerRow, bigram_nats, bits_per_byte, packed_size, pystdlib_split, read_ledger, unigram_nats
from nanogpt_lit.loader import BatchPlan, TokenData
from nanogpt_lit.model import GPT
from nanogpt_lit.optim import make_optimizers
from nanogpt_lit.trainer import Callback, Trainer

BOOK = Path(__file__).parent.parent/'runs'/'book'
PYTHON = '.'.join(platform.python_version_tuple()[:2])
STEPS, BATCH = 500, 8
RATES = (1e-3, 2e-3, 4e-3)
STORY = ['uniform', 'unigram', 'bigram', 'gzip', 'xz', 'bigram of tokens', 'one attention head', 'one block', 'classic GPT', 'modern GPT', 'modern GPT, Muon',
         'the book\'s model, 4,000 steps']

CLASSIC = dict(vocab_size=2048, block_size=128, n_embd=128, n_head=2, n_layer=4)    # the sizes of the quickstart, the rest as in GPT-2
MODERN = {key: PRESETS['quickstart'][key] for key in GPTConfig.__dataclass_fields__ if key in PRESETS['quickstart']} | dict(vocab_size=2048)
MUON = {key: PRESETS['quickstart'][key] for key in OptimConfig.__dataclass_fields__ if key in PRESETS['quickstart']}
ADAMW = MUON | dict(optimizer='adamw', beta1=.9, grad_clip=1., warmup_steps=50)

class Nothing(nn.Module):
    "Stands where an MLP was"
    def forward(self, x_BTC): return torch.zeros_like(x_BTC)

def make_model(name):
    if name == 'head':
        model = GPT(GPTConfig(**CLASSIC | dict(n_layer=1, n_head=1)))
        model.blocks[0].mlp, model.blocks[0].norm2 = Nothing(), nn.Identity()
        return model
    return GPT(GPTConfig(**{'block': CLASSIC | dict(n_layer=1), 'classic': CLASSIC, 'adamw': MODERN, 'muon': MODERN}[name]))

WHAT = dict(head=('20_attention', 'one attention head'), block=('21_model', 'one block'), classic=('21_model', 'classic GPT'),
            adamw=('21_model', 'modern GPT'), muon=('40_optim', 'modern GPT, Muon'))

class Log(Callback):
    "Every tenth step's loss"
    def __init__(self): self.losses = {}
    def on_step_end(self, t):
        if t.step % 10 == 0: self.losses[t.step] = round(t.loss.item(), 4)

def train(name, seed, data, steps, rate):
    "A short training: the model, its losses, CPU seconds"
    optim = OptimConfig(**(MUON if name == 'muon' else ADAMW | dict(learning_rate=rate)))
    loop = TrainConfig(max_steps=steps, device='cpu', dtype='float32', num_threads=1, eval_interval=0, log_interval=10**9)
    seed_everything(seed)
    model, log, start = make_model(name), Log(), time.process_time()
    Trainer(model, BatchPlan(data, BATCH, 128, seed=seed), make_optimizers(model, optim, 'cpu'), optim, loop, [log]).fit()
    return model, log.losses, time.process_time() - start

def put(*rows):
    "Write rows into the ledger, in the order of the story"
    path = BOOK/'ledger.jsonl'
    known = {row.what: row for row in (read_ledger(path) if path.exists() else [])} | {row.what: row for row in rows}
    lines = [json.dumps({k: v for k, v in asdict(known[what]).items() if v != LedgerRow.__dataclass_fields__[k].default}) for what in STORY if what in known]
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, '\n'.join(lines) + '\n')
    for row in rows: print(f'{row.what:45} {row.bits_per_byte:.4f} ± {row.std:.4f} bits per byte, {row.parameters:,} parameters, {row.seconds:.0f} s')

def count(data):
    "The rows that need no training"
    train, val = (np.frombuffer(''.join(part).encode(), np.uint8) for part in pystdlib_split())
    page = dict(page='10_guess', how='the cells of page 10', python=PYTHON)
    put(LedgerRow(what='uniform', bits_per_byte=8., parameters=0, seconds=0., **page))
    for what, nats, parameters in (('unigram', unigram_nats, 256), ('bigram', bigram_nats, 256**2)):
        start = time.process_time()
        bits = bits_per_byte(nats(train, val, 256), 1, 1)
        put(LedgerRow(what=what, bits_per_byte=bits, parameters=parameters, seconds=round(time.process_time() - start, 1), **page))
    start = time.process_time()
    for what, bits in packed_size(val.tobytes()).items():
        put(LedgerRow(what=what, bits_per_byte=bits, parameters=0, seconds=round(time.process_time() - start, 1), **page))
    train, val = (TokenData(data, split=part) for part in ('train', 'val'))
    start = time.process_time()
    nats = bigram_nats(train[0:len(train)], val[0:len(val)], 2048)
    put(LedgerRow(page='16_tokens', what='bigram of tokens', bits_per_byte=bits_per_byte(nats, len(val), val.n_bytes), parameters=2048**2,
                  seconds=round(time.process_time() - start, 1), how='the cells of page 16', python=PYTHON))

def best_rate(name, text, val):
    "The learning rate that is best after a quarter of the steps, and the losses by which it was chosen, on a sixteenth of the held-out text"
    if name == 'muon': return MUON['learning_rate'], {}
    tried = {}
    for rate in RATES:
        model, _, _ = train(name, 0, text, STEPS//4, rate)
        tried[rate] = round(evaluate_loss(model, val, max_batches=6).nats_per_token, 4)
    print(name, tried, flush=True)
    return min(tried, key=tried.get), tried

def trained(name, data, seeds):
    "Train for some seeds; the row is made from all that the log has"
    text, val = TokenData(data, split='train'), TokenData(data, split='val')
    page, what = WHAT[name]
    log = BOOK/'logs'/f'{name}.jsonl'
    log.parent.mkdir(parents=True, exist_ok=True)
    runs = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    rate, tried = (runs[0]['learning_rate'], runs[0]['tried']) if runs else best_rate(name, text, val)
    for seed in seeds:
        model, losses, seconds = train(name, seed, text, STEPS)
        measured = evaluate_loss(model, val)
        run = dict(seed=seed, bits_per_byte=measured.bits_per_byte, nats_per_token=measured.nats_per_token, parameters=model.num_params(),
                   seconds=round(seconds, 1), steps=STEPS, learning_rate=rate, tried=tried, losses=losses)
        runs = sorted([o for o in runs if o['seed'] != seed] + [run], key=lambda o: o['seed'])
        atomic_write(log, ''.join(json.dumps(o) + '\n' for o in runs))
        print(f'{name} seed {seed}: {measured.bits_per_byte:.4f} bits per byte, {seconds:.0f} s', flush=True)
    bits = [o['bits_per_byte'] for o in runs]
    put(LedgerRow(page, what, statistics.mean(bits), runs[0]['parameters'], round(statistics.mean(o['seconds'] for o in runs), 1),
                  f'python scripts/ledger.py train {name}', PYTHON, len(bits), statistics.stdev(bits) if len(bits) > 1 else 0., f'logs/{name}.jsonl'))

def measure(run):
    "The row of the running model, on everything held out"
    model = GPT.from_pretrained(run)
    measured = evaluate_loss(model, TokenData('data/pystdlib', split='val'))
    steps = json.loads((Path(run)/'metrics.jsonl').read_text().splitlines()[-1])['step']
    short = next((row for row in read_ledger(BOOK/'ledger.jsonl') if row.log == 'logs/muon.jsonl'), None)
    if short is None: raise SystemExit('train muon first: its seconds per step are wanted')
    seconds = round(short.seconds*steps/STEPS, 1)       # the same steps; its own clock ran on a machine that others were using
    put(LedgerRow('41_trainer', STORY[-1], measured.bits_per_byte, model.num_params(), seconds,
                  'the command in runs/book/README.md', PYTHON, log='metrics.jsonl'))

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('job', choices=['count', 'train', 'measure'])
    p.add_argument('names', nargs='*', help='for train: ' + ', '.join(WHAT) + '; for measure: a run folder')
    p.add_argument('--data', default='data/pystdlib', help='the prepared folder')
    p.add_argument('--seeds', type=int, nargs='+', default=[1, 2, 3])
    a = p.parse_args()
    torch.set_num_threads(1)
    if a.job == 'count': count(a.data)
    if a.job == 'train':
        for name in a.names or WHAT: trained(name, a.data, a.seeds)
    if a.job == 'measure': measure(a.names[0])

if __name__ == '__main__': main()
