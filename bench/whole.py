"""The whole command, from the first key to the prompt's return, beside nanoGPT's two.

    python bench/whole.py --peer PATH_TO_A_NANOGPT_CHECKOUT --input tinyshakespeare.txt [--rounds 5] [--log runs/logs/whole.jsonl]

Ours: `nanogpt-train speedrun --input FILE`, which reads and splits the text, trains, measures the loss on the whole validation split, writes checkpoint, sample and report. Theirs:
`data/shakespeare_char/prepare.py`, then `train.py` with its README's settings for a CPU, 2000 iterations, and the evaluations that these ask for. One thread each, in turn, every
process from nothing; ours with a fresh seed a round (theirs is fixed). Python may keep the bytecode of what it imports, ours and theirs, as it does wherever people use it (each is imported
once before). Seconds by the clock and of CPU time, children included. At the end the median of the ratios, and the worst loss.

    python bench/whole.py --commands        # seconds outside the work: our commands with next to nothing to do, beside an empty Python and `import torch`
"""
import argparse, json, os, re, secrets, shutil, statistics, subprocess, sys, tempfile, time
from pathlib import Path

THEIRS = ('config/train_shakespeare_char.py --device=cpu --compile=False --eval_iters=20 --log_interval=1 --block_size=64 --batch_size=12 '
          '--n_layer=4 --n_head=4 --n_embd=128 --max_iters=2000 --lr_decay_iters=2000 --dropout=0.0').split()
BIN = Path(sys.executable).parent

def timed(words, cwd):
    "What a process said, its seconds by the clock and of CPU time"
    env = {name: value for name, value in os.environ.items() if name != 'PYTHONDONTWRITEBYTECODE'} | dict(OMP_NUM_THREADS='1')
    before, start = os.times(), time.perf_counter()
    done = subprocess.run([str(o) for o in words], cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    wall, after = time.perf_counter() - start, os.times()
    if done.returncode: raise SystemExit(f'{words[0]} ended with {done.returncode}: {done.stdout[-2000:]}')
    return done.stdout, wall, after.children_user + after.children_system - before.children_user - before.children_system

def ours(folder, text, seed, more=()):
    words = [BIN/'nanogpt-train', 'speedrun', '--input', text, '--device', 'cpu', '--num_threads', 1, '--seed', seed, '--out_dir', folder/f'run{seed}', *more]
    said, wall, cpu = timed(words, folder)
    loss = float(re.search(r'whole validation split: ([\d.]+) nats', said)[1])
    return dict(who='ours', seed=seed, wall_s=round(wall, 2), cpu_s=round(cpu, 2), loss=loss)

def theirs(peer, seed):
    _, wall, cpu = timed([sys.executable, 'prepare.py'], peer/'data'/'shakespeare_char')
    said, wall2, cpu2 = timed([sys.executable, 'train.py', *THEIRS, f'--out_dir=out{seed}'], peer)
    loss = float(re.findall(r'val loss ([\d.]+)', said)[-1])                  # of 20 random batches, as it reports it
    return dict(who='nanoGPT', seed=seed, wall_s=round(wall + wall2, 2), cpu_s=round(cpu + cpu2, 2), prepare_s=round(wall, 2), loss=loss)

def race(args):
    with tempfile.TemporaryDirectory() as d:
        folder, rows = Path(d), []
        text = Path(args.input).resolve()
        peer = folder/'nanoGPT'
        timed([sys.executable, '-c', 'import nanogpt_lit.pretrain'], folder)
        if not args.only:
            shutil.copytree(args.peer, peer, ignore=shutil.ignore_patterns('.git', 'out*', '*.bin'))
            shutil.copy(text, peer/'data'/'shakespeare_char'/'input.txt')
            timed([sys.executable, '-c', 'import model'], peer)
        for _ in range(args.rounds):
            seed = secrets.randbelow(2**31)
            for row in (ours(folder, text, seed), *([] if args.only else [theirs(peer, seed)])):
                rows.append(row)
                print(row, flush=True)
                if args.log:
                    with open(args.log, 'a', encoding='utf-8') as f: f.write(json.dumps(row) + '\n')
    mine = [row for row in rows if row['who'] == 'ours']
    print(f'worst loss {max(row["loss"] for row in mine):.4f}')
    for key in ('wall_s', 'cpu_s'):
        pairs = [(b[key]/a[key]) for a, b in zip(mine, [row for row in rows if row['who'] != 'ours'])]
        said = f'; the other side takes {statistics.median(pairs):.1f} times as long (at least {min(pairs):.1f})' if pairs else ''
        print(f'{key}: ours {statistics.median(row[key] for row in mine):.2f}{said}')

def commands(args):
    "A tiny base, then each command with next to nothing to do"
    with tempfile.TemporaryDirectory() as d:
        folder = Path(d)
        (folder/'text.txt').write_text('the cat sat on the mat and the dog ran to the red house\n'*400)
        (folder/'pairs.jsonl').write_text(''.join(json.dumps(dict(prompt=f'{i}?', completion=f'{i}.')) + '\n' for i in range(64)))
        tiny = '--device cpu --num_threads 1 --n_layer 1 --n_head 2 --n_embd 32 --block_size 64'.split()
        quick = [BIN/'nanogpt-quickstart', *'--minutes .033 --tune_minutes .033 --device cpu --num_threads 1'.split()]
        todo = {
            'python, nothing': [sys.executable, '-c', 'pass'],
            'import torch': [sys.executable, '-c', 'import torch'],
            'train --help': [BIN/'nanogpt-train', '--help'],
            'train, 2 steps': [BIN/'nanogpt-train', 'tiny', '--input', 'text.txt', *tiny, '--max_steps', 2, '--out_dir', 'base'],
            'sample, 1 token': [BIN/'nanogpt-sample', 'base', '--max_new_tokens', 1, '--num_samples', 1, '--device', 'cpu'],
            'eval, 1 KB': [BIN/'nanogpt-eval', 'base', '--tasks', 'loss', '--device', 'cpu'],
            'finetune, 2 steps': [BIN/'nanogpt-finetune', '--input', 'pairs.jsonl', '--pretrained_checkpoint', 'base', '--out_dir', 'tuned', '--max_steps', 2, '--device', 'cpu', '--num_threads', 1],
            'plan': [BIN/'nanogpt-plan', 'tiny'],
            'monitor --once': [BIN/'nanogpt-monitor', 'base', '--once'],
            'quickstart, 2 s': quick,
            'quickstart, again': quick}
        timed([sys.executable, '-c', 'import nanogpt_lit.pretrain, nanogpt_lit.finetune'], folder)      # bytecode
        seen = {name: [] for name in todo}
        for _ in range(args.rounds):
            shutil.rmtree(folder/'runs', ignore_errors=True)             # the quickstart's two runs; its corpus stays
            for name, words in todo.items():
                _, wall, cpu = timed(words, folder)
                seen[name].append((wall, cpu))
        for name, times in seen.items():
            wall, cpu = (statistics.median(o[i] for o in times) for i in (0, 1))
            print(f'{name:20} {wall:6.2f} s, CPU {cpu:6.2f} s', flush=True)
            if args.log:
                with open(args.log, 'a', encoding='utf-8') as f: f.write(json.dumps(dict(command=name, wall_s=round(wall, 3), cpu_s=round(cpu, 3))) + '\n')

def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument('--peer', type=Path)
    ap.add_argument('--input', type=Path)
    ap.add_argument('--rounds', type=int, default=5)
    ap.add_argument('--only', action='store_true', help='without the other side')
    ap.add_argument('--commands', action='store_true')
    ap.add_argument('--log', type=Path)
    args = ap.parse_args()
    if args.commands: return commands(args)
    if not args.input or not (args.peer or args.only): ap.error('--input and --peer are needed')
    race(args)

if __name__ == '__main__': main()
