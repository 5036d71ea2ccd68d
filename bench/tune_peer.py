"""nanoGPT, tuned: how soon can its own network and optimiser reach a loss, if rate, schedule and batch are searched for?

    python bench/tune_peer.py --peer PATH_TO_A_NANOGPT_CHECKOUT --input tinyshakespeare.txt --log runs/logs/nanogpt_tuned.jsonl [--iters 500 1000 --lr 1e-3 2e-3 …]

Every combination of the values given is one training with the checkout's `model.py` and `configure_optimizers`, in the loop of its `train.py` (random windows, clipping at 1,
warm-up and cosine), one seed each unless `--seed` names others; combinations that the log has are not run again. The validation text is cut in two: a search may look
at the first half only, and the second belongs to the verdict. The log has both, and the CPU seconds of the steps alone.

    python bench/tune_peer.py --peer … --input … --log runs/logs/nanogpt_tuned/verdict.jsonl --verdict 3 --lr 4e-3 --iters 700

The verdict: fresh seeds, in turn the one combination given and `nanogpt-train speedrun`, each in a process of its own. CPU seconds are those of the whole process until the
weights are there (ours also evaluates and writes a report by then), losses those of the second half.
"""
import argparse, itertools, json, math, os, secrets, subprocess, sys, tempfile, time
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

class Text:
    "Ids of a text's characters: nine tenths to train on, and the two halves of the rest"
    def __init__(self, path):
        text = path.read_text(encoding='utf-8')
        self.letters = sorted(set(text))
        number = {c: i for i, c in enumerate(self.letters)}
        ids = torch.from_numpy(np.array([number[c] for c in text]))
        cut = int(.9*len(ids))
        middle = cut + (len(ids) - cut)//2
        self.train, self.search_half, self.verdict_half = ids[:cut], ids[cut:middle], ids[middle:]

def peers_run(args, text, o):
    "Train the peer's model as `o` says: a row of the log"
    shape = dict(n_layer=4, n_head=4, n_embd=128, block_size=64, vocab_size=len(text.letters), dropout=0., bias=False)
    model, seconds = trained(peer_module(args.peer), text.train, o, shape)
    process_s = time.process_time()
    losses = {name: round(loss_on(model, half, 64), 4) for name, half in (('search_loss', text.search_half), ('verdict_loss', text.verdict_half))}
    return o | losses | dict(cpu_s=round(seconds, 1), process_s=round(process_s, 2))

def told(args, row):
    print(row, flush=True)
    with open(args.log, 'a', encoding='utf-8') as f: f.write(json.dumps(row) + '\n')

def child(words, folder):
    "CPU seconds of a process with one thread"
    before = os.times()
    subprocess.run([str(word) for word in words], cwd=folder, env=os.environ | dict(OMP_NUM_THREADS='1'), check=True, stdout=subprocess.DEVNULL)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system

def our_run(args, text, seed):
    "`nanogpt-train speedrun`: a row of the log"
    from nanogpt_lit import GPT
    with tempfile.TemporaryDirectory() as folder:
        words = ['speedrun', '--input', args.input.resolve(), '--device', 'cpu', '--num_threads', 1, '--seed', seed, '--out_dir', 'run']
        seconds = child([Path(sys.executable).parent/'nanogpt-train', *words], folder)
        model = GPT.from_pretrained(Path(folder)/'run')
        return dict(who='ours', seed=seed, process_s=round(seconds, 2), verdict_loss=round(loss_on(model, text.verdict_half, 64), 4))

def their_run(args, seed, o):
    "The combination `o` in a process of its own: a row of the log"
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder)/'log.jsonl'
        words = [sys.executable, Path(__file__).resolve(), '--peer', args.peer.resolve(), '--input', args.input.resolve(), '--log', log]
        for name, value in (o | dict(seed=seed)).items(): words += [f'--{name}', value]
        child(words, folder)
        return dict(who='nanoGPT tuned') | json.loads(log.read_text())

def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument('--peer', type=Path, required=True)
    ap.add_argument('--input', type=Path, required=True)
    ap.add_argument('--log', type=Path, required=True)
    ap.add_argument('--verdict', type=int, default=0, help='rounds, each with a fresh seed')
    searched = dict(lr=[1e-3, 2e-3, 4e-3, 8e-3], iters=[500, 1000], batch=[12], warmup=[100], min_share=[.1], beta2=[.99], seed=[1])
    for name, values in searched.items(): ap.add_argument(f'--{name}', type=type(values[0]), nargs='*', default=values)
    args = ap.parse_args()
    torch.set_num_threads(1)
    text = Text(args.input)
    known = [json.loads(line) for line in args.log.read_text().splitlines()] if args.log.exists() else []
    combinations = [dict(zip(searched, values)) for values in itertools.product(*(getattr(args, name) for name in searched))]
    if args.verdict and len(combinations) > 1: raise SystemExit('a verdict is about one combination: give one value each')
    for _ in range(args.verdict):
        seed = secrets.randbelow(2**31)
        told(args, our_run(args, text, seed))
        told(args, their_run(args, seed, combinations[0]))
    if args.verdict: return
    for o in combinations:
        if not any(o.items() <= row.items() for row in known): told(args, peers_run(args, text, o))

if __name__ == '__main__': main()
