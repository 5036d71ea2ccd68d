"""nanoGPT, tuned: how soon can its own network and optimiser reach a loss, if rate, schedule and batch are searched for?

    python bench/tune_peer.py --peer PATH_TO_A_NANOGPT_CHECKOUT --input tinyshakespeare.txt --log runs/logs/nanogpt_tuned.jsonl [--iters 500 1000 --lr 1e-3 2e-3 …]

Every combination of the values given is one training with the checkout's `model.py` and `configure_optimizers`, in the loop of its `train.py` (random windows, clipping at 1,
warm-up and cosine), one seed each unless `--seed` names others; combinations that the log has are not run again. The validation text is cut in two: a search may look
at the first half only, and the second belongs to the verdict. The log has both, and the CPU seconds of the steps alone.
"""
import argparse, itertools, json, math, time
from pathlib import Path
import numpy as np
import torch
from step import peer_module

def rate(step, o):
    "train.py's `get_lr`"
    floor = o['lr']*o['min_share']
    if step < o['warmup']: return o['lr']*(step + 1)/(o['warmup'] + 1)
    share = (step - o['warmup'])/(o['iters'] - o['warmup'])
    return floor + .5*(1 + math.cos(math.pi*share))*(o['lr'] - floor)

def loss_on(model, ids, T):
    "Mean loss on consecutive windows"
    n = (len(ids) - 1)//T
    x, y = ids[:n*T].view(n, T), ids[1:n*T + 1].view(n, T)
    model.eval()
    with torch.no_grad(): total = sum(model(a, b)[1].item()*len(a) for a, b in zip(x.split(64), y.split(64)))
    model.train()
    return total/n

def trained(peer, train, o, shape):
    "A model trained as `o` says, and the CPU seconds of its steps"
    torch.manual_seed(o['seed'])
    model, T = peer.GPT(peer.GPTConfig(**shape)), shape['block_size']
    optimizer = model.configure_optimizers(.1, o['lr'], (.9, o['beta2']), 'cpu')
    begin = time.process_time()
    for step in range(o['iters']):
        for group in optimizer.param_groups: group['lr'] = rate(step, o)
        at = torch.randint(len(train) - T, (o['batch'],)).tolist()
        x, y = (torch.stack([train[i + k:i + k + T] for i in at]) for k in (0, 1))
        model(x, y)[1].backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return model, time.process_time() - begin

def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument('--peer', type=Path, required=True)
    ap.add_argument('--input', type=Path, required=True)
    ap.add_argument('--log', type=Path, required=True)
    searched = dict(lr=[1e-3, 2e-3, 4e-3, 8e-3], iters=[500, 1000], batch=[12], warmup=[100], min_share=[.1], beta2=[.99], seed=[1])
    for name, values in searched.items(): ap.add_argument(f'--{name}', type=type(values[0]), nargs='*', default=values)
    args = ap.parse_args()
    torch.set_num_threads(1)
    text = args.input.read_text(encoding='utf-8')
    letters = sorted(set(text))
    number = {c: i for i, c in enumerate(letters)}
    ids = torch.from_numpy(np.array([number[c] for c in text]))
    cut = int(.9*len(ids))
    train, held_out = ids[:cut], ids[cut:]
    halves = held_out[:len(held_out)//2], held_out[len(held_out)//2:]
    shape = dict(n_layer=4, n_head=4, n_embd=128, block_size=64, vocab_size=len(letters), dropout=0., bias=False)
    peer = peer_module(args.peer)
    known = [json.loads(line) for line in args.log.read_text().splitlines()] if args.log.exists() else []
    for values in itertools.product(*(getattr(args, name) for name in searched)):
        o = dict(zip(searched, values))
        if any(o.items() <= row.items() for row in known): continue
        model, seconds = trained(peer, train, o, shape)
        row = o | {name: round(loss_on(model, half, 64), 4) for name, half in zip(('search_loss', 'verdict_loss'), halves)} | dict(cpu_s=round(seconds, 1))
        print(row, flush=True)
        with open(args.log, 'a', encoding='utf-8') as f: f.write(json.dumps(row) + '\n')

if __name__ == '__main__': main()
