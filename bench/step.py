"""Time of one training step beside nanoGPT's and Hugging Face's.

    python bench/step.py --peer PATH_TO_A_NANOGPT_CHECKOUT [--rounds 15] [--threads 1]
    python bench/step.py --preset gpt2 --batch 4 --block 64 --peer PATH_TO_A_NANOGPT_CHECKOUT --hf

The first form is nanoGPT's small CPU model: 4 layers, 4 heads, width 128, context 64, batch 12, 65 characters, AdamW, clipping at 1. Both run
in this process, in turn. An iteration is what each code base does for one: fetch a batch at random, forward, backward, clip, update.

The second form takes the shape of one of our presets. Every engine has a process of its own, so that each has its own memory, and they take
turns step by step: nanoGPT (its `model.py`, its `configure_optimizers`), Hugging Face (`GPT2LMHeadModel`, `torch.optim.AdamW`), and our `Trainer`
in float32 and in bfloat16, as `nanogpt-train` sets them up (ours keeps freed memory for the next step, which is faster and holds more; the last line
does without). The same batches for all: the words of the standard library's sources, each one id. If the preset is a GPT-2, all start from the same
weights too, so that their losses may differ by rounding only. Prints medians of wall and CPU time, peak memory, and the mean loss of the last steps,
which says whether they learn alike. A peer is always GPT-2 with the preset's sizes, whatever else the preset asks for. Both forms promise nothing.
`--before OLD` (another checkout of this project) lets its `Trainer` take turns too; `--log FILE` adds what was measured to a file, a line of JSON a run.
"""
import argparse, importlib.util, json, os, platform, re, statistics, subprocess, sys, tempfile, time, zlib
from pathlib import Path
import numpy as np
import torch
from nanogpt_lit.core import keep_memory, seed_everything
from nanogpt_lit.config import PRESETS, OptimConfig, TrainConfig
from nanogpt_lit.loader import BatchPlan, TokenData
from nanogpt_lit.model import GPT
from nanogpt_lit.config import GPTConfig
from nanogpt_lit.optim import make_optimizers
from nanogpt_lit.trainer import Trainer
from nanogpt_lit.translate import GPT2_HF, NANOGPT, family_of, to_theirs

B, T, V = 12, 64, 65
SHAPE = dict(n_layer=4, n_head=4, n_embd=128, block_size=T, vocab_size=V, dropout=0., bias=False)

def peer_module(path):
    spec = importlib.util.spec_from_file_location('peer_model', Path(path)/'model.py')
    peer = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(peer)
    return peer

def peer_iteration(path, data):
    "One iteration with the peer's model and optimizer, and a batch fetched its way: a random window at a time from a memory map"
    peer = peer_module(path)
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

def bench_small(args):
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
            for _ in range(args.rounds or 15):
                for name, step in both.items():
                    w, c = time.perf_counter(), time.process_time()
                    for _ in range(args.steps or 10): step()
                    wall[name].append(1000*(time.perf_counter() - w)/(args.steps or 10))
                    cpu[name].append(1000*(time.process_time() - c)/(args.steps or 10))
            ratio = statistics.median(b/a for a, b in zip(wall['nanoGPT'], wall['ours']))
            print(f'memory {memory}: ' + ', '.join(f'{k} {statistics.median(wall[k]):.1f} ms (CPU {statistics.median(cpu[k]):.1f})' for k in both)
                  + f'; ours / nanoGPT {ratio:.3f}', flush=True)

def words(folder, vocab_size):
    "The standard library's top-level modules as one id per word, written as TokenData"
    text = '\n'.join(f.read_text(encoding='utf-8') for f in sorted(Path(argparse.__file__).parent.glob('*.py')))
    ids = [zlib.crc32(w.encode())%vocab_size for w in re.findall(r'\w+|\n\s*| ?[^\w\s]', text)]
    np.array(ids, dtype=np.uint16).tofile(folder/'words.bin')
    return folder/'words.bin'

def start_alike(model, ours, layout):
    "Give a peer the weights that ours begins with, where both are the same network"
    weights = to_theirs(ours.state_dict(), ours.cfg, layout)
    missing, extra = model.load_state_dict(weights, strict=False)
    assert not extra and set(missing) <= {'lm_head.weight'}, (missing, extra)

def engine(args, data):
    "One step of `args.engine`, as a function that returns the loss"
    flat = PRESETS[args.preset] | dict(block_size=args.block, vocab_size=args.vocab_size, dropout=0.)
    cfg = GPTConfig(**{k: v for k, v in flat.items() if k in GPTConfig.__dataclass_fields__})
    optim, plan = OptimConfig(weight_decay=.1, learning_rate=6e-4, schedule='constant'), BatchPlan(TokenData(data), args.batch, args.block, seed=0)
    seed_everything(0)
    model = GPT(cfg)
    if args.engine.startswith('ours'):
        if not args.engine.endswith('lean'): keep_memory()
        trainer = Trainer(model, plan, make_optimizers(model, optim, 'cpu'), optim, TrainConfig(batch_size=args.batch, device='cpu', dtype=args.engine.split()[1]))
        trainer._prepare()
        def step():
            trainer.train_step()
            return trainer.loss.item()
        return step
    ours, alike = model, cfg.pos == 'learned' and family_of(cfg) == 'gpt2'
    if args.engine == 'nanoGPT':
        peer = peer_module(args.peer)
        model = peer.GPT(peer.GPTConfig(**{k: getattr(cfg, k) for k in SHAPE}))
        if alike: start_alike(model, ours, NANOGPT)
        opt = model.configure_optimizers(optim.weight_decay, optim.learning_rate, (optim.beta1, optim.beta2), 'cpu')
        loss_of = lambda x, y: model(x, y)[1]
    else:
        from transformers import GPT2Config, GPT2LMHeadModel
        shape = dict(n_layer=cfg.n_layer, n_head=cfg.n_head, n_embd=cfg.n_embd, n_positions=cfg.block_size, vocab_size=cfg.vocab_size)
        model = GPT2LMHeadModel(GPT2Config(**shape, resid_pdrop=0., embd_pdrop=0., attn_pdrop=0., use_cache=False)).train()
        if alike: start_alike(model, ours, GPT2_HF)
        opt = torch.optim.AdamW(model.parameters(), lr=optim.learning_rate, betas=(optim.beta1, optim.beta2), weight_decay=optim.weight_decay)
        loss_of = lambda x, y: torch.nn.functional.cross_entropy(model(x).logits.flatten(0, 1), y.flatten())
    del ours
    steps = iter(range(10**9))
    def step():
        loss = loss_of(*plan.batch(next(steps)))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), optim.grad_clip)
        opt.step()
        opt.zero_grad(set_to_none=True)
        return loss.item()
    return step

def peak_gib():
    "The largest resident memory of this process so far"
    return int(re.search(r'VmHWM:\s+(\d+)', Path('/proc/self/status').read_text())[1])/2**20

def serve(args):
    "The engine's own process: a line on standard input asks for one step, a line of JSON answers"
    torch.set_num_threads(args.threads)
    step = engine(args, args.data)
    for _ in sys.stdin:
        w, c = time.perf_counter(), time.process_time()
        loss = step()
        print(json.dumps(dict(wall=time.perf_counter() - w, cpu=time.process_time() - c, loss=loss, peak=peak_gib())), flush=True)

def bench_preset(args):
    names = ['nanoGPT']*bool(args.peer) + ['Hugging Face']*args.hf + ['ours float32', 'ours float32 lean', 'ours bfloat16', 'ours bfloat16 lean']
    if args.before: names += ['before float32', 'before float32 lean', 'before bfloat16', 'before bfloat16 lean']
    if args.only: names = [n for n in names if n in args.only]
    rounds, seen = args.rounds or 15, {n: [] for n in names}
    with tempfile.TemporaryDirectory() as d:
        data = words(Path(d), args.vocab_size)
        def start(name):
            words, here = [*sys.argv[1:], '--engine', name.replace('before', 'ours'), '--data', str(data)], dict(os.environ)
            if 'before' in name: here['PYTHONPATH'] = args.before
            return subprocess.Popen([sys.executable, __file__, *words], text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=here)
        running = {n: start(n) for n in names}
        try:
            for _ in range(rounds):
                for n, p in running.items():
                    p.stdin.write('step\n'); p.stdin.flush()
                    seen[n].append(json.loads(next(o for o in p.stdout if o.startswith('{'))))
        finally:
            for p in running.values(): p.stdin.close(); p.wait()
    print(f'{args.preset}, batch {args.batch}, context {args.block}, {args.threads} thread(s), median of {rounds - 3} steps after 3 of warm-up')
    print('| engine | wall, ms | CPU, ms | wall, times faster than the first | CPU, likewise | peak memory, GiB | mean loss of the last 5 steps |\n|---|---|---|---|---|---|---|')
    middle = lambda n, k: statistics.median(o[k] for o in seen[n][3:])
    for n in names:
        faster = [statistics.median(a[k]/b[k] for a, b in zip(seen[names[0]][3:], seen[n][3:])) for k in ('wall', 'cpu')]
        print(f'| {n} | {1e3*middle(n, "wall"):.0f} | {1e3*middle(n, "cpu"):.0f} | {faster[0]:.2f} | {faster[1]:.2f} | {seen[n][-1]["peak"]:.2f} | '
              f'{statistics.mean(o["loss"] for o in seen[n][-5:]):.3f} |')
    if not args.log: return
    about = dict(preset=args.preset, batch=args.batch, block=args.block, vocab_size=args.vocab_size, threads=args.threads,
                 torch=torch.__version__, machine=platform.machine())
    with open(args.log, 'a', encoding='utf-8') as f: f.write(json.dumps(about | dict(seen=seen)) + '\n')

def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument('--peer', help='a nanoGPT checkout (its model.py is run)')
    ap.add_argument('--hf', action='store_true', help='with --preset: Hugging Face too (needs transformers)')
    ap.add_argument('--preset', choices=list(PRESETS), help='take the shape of this preset')
    ap.add_argument('--batch', type=int, default=4, help='with --preset: sequences in a batch')
    ap.add_argument('--block', type=int, default=64, help='with --preset: tokens in a sequence')
    ap.add_argument('--vocab_size', type=int, default=50257, help='with --preset: as it says')
    ap.add_argument('--rounds', type=int, help='default 15')
    ap.add_argument('--steps', type=int, help='without --preset: iterations per round, default 10')
    ap.add_argument('--threads', type=int, default=1)
    ap.add_argument('--only', nargs='+', help='with --preset: just these engines')
    ap.add_argument('--before', help='with --preset: another checkout of this project, to be compared with this one')
    ap.add_argument('--log', help='with --preset: a file that gets a line of JSON for this run')
    ap.add_argument('--engine', help=argparse.SUPPRESS)
    ap.add_argument('--data', help=argparse.SUPPRESS)
    args = ap.parse_args()
    if args.engine: return serve(args)
    if args.preset: return bench_preset(args)
    if not args.peer: ap.error('--peer is needed: the path of a nanoGPT checkout')
    bench_small(args)

if __name__ == '__main__': main()
