"""The ledger of the book: how well each step of the story predicts the held-out bytes of `pystdlib`.

    nanogpt-quickstart                                    # or any other way to get data/pystdlib: the book's text, in its vocabulary
    python scripts/ledger.py count                        # uniform, unigram, bigram, gzip, xz, and a bigram of tokens: seconds
    python scripts/ledger.py train head block ...         # small trainings, three seeds each; without names, all of them (an hour)
    python scripts/ledger.py measure runs/book            # the running model, on everything held out

Each writes its rows into runs/book/ledger.jsonl (in the order of the story, each replacing the row of the same name), and `train` leaves the losses of
every tenth step in runs/book/logs. All trainings see the same text, vocabulary and order of batches: `STEPS` steps of 8 windows of 128 tokens, in float32 on one
thread, the learning rate falling to zero over the last 60 % of the steps. They differ in the model, in the optimiser, and in nothing else but the learning
rate, which is each one's best of a few: `python scripts/ledger.py rates head --rate 1e-3 4e-3` tries some for a quarter as long and writes nothing.
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
STEPS, BATCH, SEEDS = 500, 8, (1, 2, 3)
STORY = ['uniform', 'unigram', 'bigram', 'gzip', 'xz', 'bigram of tokens', 'one attention head', 'one block', 'classic GPT', 'modern GPT', 'modern GPT, Muon',
         'the book\'s model: eight times the steps']

CLASSIC = dict(vocab_size=2048, block_size=128, n_embd=128, n_head=2, n_layer=4)    # the sizes of the quickstart, the rest as in GPT-2
MODERN = {key: PRESETS['quickstart'][key] for key in GPTConfig.__dataclass_fields__ if key in PRESETS['quickstart']} | dict(vocab_size=2048)
MUON = {key: PRESETS['quickstart'][key] for key in OptimConfig.__dataclass_fields__ if key in PRESETS['quickstart']}
ADAMW = MUON | dict(optimizer='adamw', beta1=.9, grad_clip=1.)

class Nothing(nn.Module):
    "Stands where an MLP was"
    def forward(self, x_BTC): return torch.zeros_like(x_BTC)

def make_model(name):
    if name == 'head':
        model = GPT(GPTConfig(**CLASSIC | dict(n_layer=1, n_head=1)))
        model.blocks[0].mlp, model.blocks[0].norm2 = Nothing(), nn.Identity()
        return model
    return GPT(GPTConfig(**{'block': CLASSIC | dict(n_layer=1), 'classic': CLASSIC, 'adamw': MODERN, 'muon': MODERN}[name]))

WHAT = dict(head=('20_attention', 'one attention head', 4e-3), block=('21_model', 'one block', 4e-3), classic=('21_model', 'classic GPT', 2e-3),
            adamw=('21_model', 'modern GPT', 4e-3), muon=('40_optim', 'modern GPT, Muon', MUON['learning_rate']))

class Log(Callback):
    "Every tenth step's loss"
    def __init__(self): self.losses = {}
    def on_step_end(self, t):
        if t.step % 10 == 0: self.losses[t.step] = round(t.loss.item(), 4)

def train(name, seed, data, steps, rate=None):
    "A short training: the model, its losses, CPU seconds"
    optim = OptimConfig(**(MUON if name == 'muon' else ADAMW | dict(learning_rate=rate or WHAT[name][2])))
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

def trained(name, data):
    "The row of a small training, over several seeds"
    text, val, found = TokenData(data, split='train'), TokenData(data, split='val'), []
    page, what, rate = WHAT[name]
    log = BOOK/'logs'/f'{name}.jsonl'
    log.parent.mkdir(parents=True, exist_ok=True)
    lines = []
    for seed in SEEDS:
        model, losses, seconds = train(name, seed, text, STEPS)
        measured = evaluate_loss(model, val)
        found.append((measured.bits_per_byte, seconds))
        lines.append(json.dumps(dict(seed=seed, bits_per_byte=measured.bits_per_byte, nats_per_token=measured.nats_per_token, seconds=round(seconds, 1),
                                     steps=STEPS, learning_rate=rate, losses=losses)))
        atomic_write(log, '\n'.join(lines) + '\n')
        print(f'{name} seed {seed}: {measured.bits_per_byte:.4f} bits per byte, {seconds:.0f} s', flush=True)
    bits, seconds = zip(*found)
    put(LedgerRow(page, what, statistics.mean(bits), model.num_params(), round(statistics.mean(seconds), 1), f'python scripts/ledger.py train {name}', PYTHON,
                  len(bits), statistics.stdev(bits), f'logs/{name}.jsonl'))

def rates(name, data, asked, steps=STEPS//4):
    "How a quarter of the training ends at several learning rates, measured on a sixteenth of the held-out text"
    text, val = TokenData(data, split='train'), TokenData(data, split='val')
    for rate in asked:
        model, losses, seconds = train(name, 0, text, steps, rate)
        print(f'{name} {rate:g}: {evaluate_loss(model, val, max_batches=6).nats_per_token:.4f} nats per token, {seconds:.0f} s', flush=True)

def measure(run):
    "The row of the running model: a run folder, on everything that its data folder holds out"
    import nanogpt_lit.interop
    model = GPT.from_pretrained(run)
    records = [json.loads(line) for line in (Path(run)/'metrics.jsonl').read_text().splitlines()]
    val = TokenData('data/pystdlib', split='val')
    measured = evaluate_loss(model, val)
    seconds = max(o.get('elapsed_s', 0) for o in records)
    put(LedgerRow('41_trainer', STORY[-1], measured.bits_per_byte, model.num_params(), seconds, 'runs/book', PYTHON, log='metrics.jsonl'))

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('job', choices=['count', 'train', 'rates', 'measure'])
    p.add_argument('names', nargs='*', help='for train and rates: ' + ', '.join(WHAT) + '; for measure: a run folder')
    p.add_argument('--data', default='data/pystdlib', help='the prepared folder')
    p.add_argument('--rate', type=float, nargs='+', default=[1e-3, 2e-3, 4e-3])
    a = p.parse_args()
    torch.set_num_threads(1)
    if a.job == 'count': count(a.data)
    if a.job == 'train':
        for name in a.names or WHAT: trained(name, a.data)
    if a.job == 'rates':
        for name in a.names: rates(name, a.data, a.rate)
    if a.job == 'measure': measure(a.names[0])

if __name__ == '__main__': main()
