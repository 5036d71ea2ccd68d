"""Time of one training iteration beside nanoGPT's, on the classic small model, both in this process, in turn.

    python scripts/bench_step.py --peer PATH_TO_A_NANOGPT_CHECKOUT [--rounds 15] [--threads 1]

nanoGPT's CPU settings: 4 layers, 4 heads, width 128, context 64, batch 12, 65 characters, AdamW, clipping at 1. An iteration is what each
code base does for one: fetch a batch at random, forward, backward, clip, update. Prints medians and the ratio; promises nothing.
"""
import argparse, importlib.util, statistics, tempfile, time
from pathlib import Path
import numpy as np
import torch
from nanogpt_lit.core import keep_memory
from nanogpt_lit.config import OptimConfig, TrainConfig
from nanogpt_lit.loader import BatchPlan, TokenData
from nanogpt_lit.model import GPT, GPTConfig
from nanogpt_lit.optim import make_optimizers
from nanogpt_lit.trainer import Trainer

B, T, V = 12, 64, 65
SHAPE = dict(n_layer=4, n_head=4, n_embd=128, block_size=T, vocab_size=V, dropout=0., bias=False)

def peer_iteration(path, data):
    "One iteration with the peer's model and optimizer, and a batch fetched its way: a random window at a time from a memory map"
    spec = importlib.util.spec_from_file_location('peer_model', Path(path)/'model.py')
    peer = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(peer)
    model = peer.GPT(peer.GPTConfig(**SHAPE))
    opt = model.configure_optimizers(.1, 1e-3, (.9, .99), 'cpu')
    def step():
        ids = np.memmap(data, dtype=np.uint16, mode='r')
        at = torch.randint(len(ids) - T, (B,)).tolist()
        x, y = (torch.stack([torch.from_numpy(ids[i + o:i + o + T].astype(np.int64)) for i in at]) for o in (0, 1))
        model(x, y)[1].backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.)
        opt.step()
        opt.zero_grad(set_to_none=True)
    return step

def our_iteration(data):
    "One `Trainer.train_step` with the same settings"
    model = GPT(GPTConfig(**SHAPE))
    optim = OptimConfig(learning_rate=1e-3, beta2=.99, weight_decay=.1)
    plan = BatchPlan(TokenData(data), B, T, seed=0, sampling='random')
    return Trainer(model, plan, make_optimizers(model, optim, 'cpu'), optim, TrainConfig(batch_size=B, device='cpu')).train_step

def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument('--peer', required=True, help='a nanoGPT checkout (its model.py is run)')
    ap.add_argument('--rounds', type=int, default=15)
    ap.add_argument('--steps', type=int, default=10, help='iterations per round')
    ap.add_argument('--threads', type=int, default=1)
    args = ap.parse_args()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as d:
        data = Path(d)/'train.bin'
        np.random.default_rng(0).integers(0, V, 1_000_000, dtype=np.uint16).tofile(data)
        both = {'nanoGPT': peer_iteration(args.peer, data), 'ours': our_iteration(data)}
        for step in both.values():
            for _ in range(5): step()
        for memory in ('as it is', 'kept by the C library'):
            if memory != 'as it is' and not keep_memory(): break
            wall, cpu = ({k: [] for k in both} for _ in range(2))
            for _ in range(args.rounds):
                for name, step in both.items():
                    w, c = time.perf_counter(), time.process_time()
                    for _ in range(args.steps): step()
                    wall[name].append(1000*(time.perf_counter() - w)/args.steps)
                    cpu[name].append(1000*(time.process_time() - c)/args.steps)
            ratio = statistics.median(b/a for a, b in zip(wall['nanoGPT'], wall['ours']))
            print(f'memory {memory}: ' + ', '.join(f'{k} {statistics.median(wall[k]):.1f} ms (CPU {statistics.median(cpu[k]):.1f})' for k in both)
                  + f'; ours / nanoGPT {ratio:.3f}', flush=True)

if __name__ == '__main__': main()
