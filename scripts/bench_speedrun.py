"""The race: `speedrun` against nanoGPT's CPU recipe, by the loss on the whole validation split.

    python scripts/bench_speedrun.py --input tinyshakespeare.txt --peer PATH_TO_A_NANOGPT_CHECKOUT [--seeds 101 102 103]
    python scripts/bench_speedrun.py --input tinyshakespeare.txt --only --steps 180 --set muon_polynomial=jordan

Every run is a process of its own with one thread, and they take turns. A clock starts before the process does, so that imports
and the preparation of our data count; it stops after the last step, and the loss is then measured in float32, off the clock. The peer is
its own `train.py` (4 layers, width 128, context 64, batch 12, 2000 iterations), whose clock stops when it ends: its two
evaluations are one batch each, its data are prepared beforehand, and its seed is fixed. CPU seconds are given as well, since others may use the machine.
`--only` leaves the peer out, `--set NAME=VALUE` changes the recipe. One JSON line per run; `--output` appends them to a file.
"""
import argparse, json, os, resource, subprocess, sys, tempfile, time
from pathlib import Path

PEER = dict(device='cpu', compile=False, eval_iters=1, log_interval=100, block_size=64, batch_size=12, n_layer=4, n_head=4, n_embd=128,
            max_iters=2000, lr_decay_iters=2000, dropout=0.0, eval_interval=2000, always_save_checkpoint=True)

def ours(args, out):
    "In the child: train, say when the last step was done, then measure"
    from nanogpt_lit.config import PRESETS, RunConfig
    from nanogpt_lit.core import resolve
    from nanogpt_lit.evaluate import evaluate_loss
    from nanogpt_lit.pretrain import pretrain
    from nanogpt_lit.trainer import Callback
    words = ['speedrun', '--input', args.input, '--seed', str(args.seeds[0]), '--max_steps', str(args.steps), '--dtype', args.dtype, '--num_threads', '1',
             '--out_dir', out, '--eval_iters', '1', '--eval_interval', str(args.steps), '--checkpoint_interval', str(args.steps)]
    for o in args.set: words += ['--' + o.split('=')[0], o.split('=')[1]]
    cfg, origin = resolve(RunConfig, words, presets=PRESETS)
    class Stop(Callback):
        order = -10**6
        def on_fit_end(self, t): self.wall, self.cpu = time.time(), time.process_time()
    stop = Stop()
    run = pretrain(cfg, origin, [stop], quiet=True)
    print('RESULT ' + json.dumps(dict(end=stop.wall, cpu_s=stop.cpu, loss=evaluate_loss(run.model, run.val).nats_per_token,
                                      params=run.model.num_params(), memory_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss//1024)))

def peer_loss(ckpt, args):
    "In a child: whole-validation loss of the peer's checkpoint, with the peer's own model"
    import numpy as np, torch
    sys.path.insert(0, args.peer)
    from model import GPT, GPTConfig
    c = torch.load(ckpt, map_location='cpu', weights_only=True)
    model = GPT(GPTConfig(**c['model_args'])).eval()
    model.load_state_dict(c['model'])
    ids = torch.from_numpy(np.fromfile(Path(args.peer)/'data/shakespeare_char/val.bin', dtype=np.uint16).astype(np.int64))
    total, n = 0., 0
    with torch.no_grad():
        for i in range(0, len(ids) - 1, 64*64):
            x, y = ids[i:i + 64*64], ids[i + 1:i + 64*64 + 1]
            x = x[:len(y)]
            rows = len(y)//64*64
            for a, b in ((x[:rows].view(-1, 64), y[:rows].view(-1, 64)), (x[rows:][None], y[rows:][None])):
                if b.numel(): total += model(a, b)[1].item()*b.numel(); n += b.numel()
    print('RESULT ' + json.dumps(dict(loss=total/n, targets=n)))

def child(words, cwd=None):
    "Run it; its wall and CPU seconds, peak memory, and what it said"
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.time()
    env = os.environ | dict(OMP_NUM_THREADS='1', PYTHONWARNINGS='ignore', TQDM_DISABLE='1')
    done = subprocess.run([sys.executable, *words], cwd=cwd, env=env, capture_output=True, text=True)
    if done.returncode: raise SystemExit(done.stderr[-2000:])
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    found = [json.loads(o[7:]) for o in done.stdout.splitlines() if o.startswith('RESULT ')]
    return start, time.time() - start, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, found

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--input', required=True, help='the text; the peer must have prepared the same one')
    p.add_argument('--peer', help='a nanoGPT checkout with data/shakespeare_char prepared')
    p.add_argument('--seeds', type=int, nargs='+', default=[101, 102, 103])
    p.add_argument('--steps', type=int, default=210)
    p.add_argument('--dtype', default='bfloat16')
    p.add_argument('--set', action='append', default=[], metavar='NAME=VALUE')
    p.add_argument('--only', action='store_true', help='without the peer')
    p.add_argument('--output', help='file that JSON lines are appended to')
    p.add_argument('--role', help=argparse.SUPPRESS)
    p.add_argument('--out', help=argparse.SUPPRESS)
    args = p.parse_args()
    if args.role == 'ours': return ours(args, args.out)
    if args.role == 'peer': return peer_loss(args.out, args)
    if not (args.only or args.peer): p.error('expected --peer PATH, or --only')
    me, args.input = str(Path(__file__).resolve()), str(Path(args.input).resolve())
    def note(**row):
        print(json.dumps(row), flush=True)
        if args.output:
            with open(args.output, 'a') as f: f.write(json.dumps(row) + '\n')
    for seed in args.seeds:
        with tempfile.TemporaryDirectory() as tmp:
            words = [me, '--role', 'ours', '--input', args.input, '--seeds', str(seed), '--steps', str(args.steps), '--dtype', args.dtype, '--out', f'{tmp}/ours']
            start, _, _, [r] = child([*words, *(w for o in args.set for w in ('--set', o))])
            note(who='speedrun', seed=seed, steps=args.steps, dtype=args.dtype, changed=args.set, wall_s=r.pop('end') - start, **r)
            if args.only: continue
            peer = str(Path(args.peer).resolve())
            flags = [f'--{k}={v}' for k, v in PEER.items()]
            _, wall, cpu, _ = child(['train.py', 'config/train_shakespeare_char.py', *flags, f'--out_dir={tmp}/peer'], cwd=peer)
            _, _, _, [q] = child([me, '--role', 'peer', '--input', args.input, '--peer', peer, '--out', f'{tmp}/peer/ckpt.pt'])
            note(who='nanoGPT', seed=1337, steps=2000, wall_s=wall, cpu_s=cpu, loss=q['loss'])
            print(f"seed {seed}: CPU time ratio {cpu/r['cpu_s']:.1f}, loss {r['loss']:.3f} and {q['loss']:.3f}", flush=True)

if __name__ == '__main__': main()
