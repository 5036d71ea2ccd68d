"""One training step on a machine that others use too: threads, and how long they wait for each other, under more and more neighbours.

    python bench/busy.py [--neighbours 0 1 2 5] [--rounds 9] [--log runs/logs/busy.jsonl]

torch's CPU threads belong to OpenMP. A thread that is done with its part of a product waits for the others by asking again and again (it spins), by default
some 300,000 times before it sleeps. Alone that is fastest. Where another program needs the core, the thread that is still to finish may be the one that doesn't run, and
the others keep it from running by waiting for it. `OMP_WAIT_POLICY=PASSIVE` sleeps at once, and pays for waking up; `GOMP_SPINCOUNT` says how often to ask.

Each way to wait has a process of its own, as the count is read once, while torch is loaded. They take turns step by step, beside 0, 1, … neighbours: processes that
only count. A step is that of a model of 2.7 million parameters on 2,048 tokens. Prints medians and writes them as a log; promises nothing.
"""
import argparse, json, os, statistics, subprocess, sys, tempfile, time
from pathlib import Path

SHAPE = dict(n_layer=6, n_head=6, n_embd=192, block_size=128, vocab_size=512)
FREE = ('OMP_WAIT_POLICY', 'GOMP_SPINCOUNT', 'OMP_NUM_THREADS')

def worker(threads):
    "A step for each line that comes in: its milliseconds, by the clock and of CPU time"
    import torch                                     # before us, or we would say how often to ask
    from nanogpt_lit.config import GPTConfig, OptimConfig, RunConfig, TrainConfig, DataConfig
    from nanogpt_lit.core import set_threads
    from nanogpt_lit.speedrun import bare_trainer
    set_threads(threads)
    cfg = RunConfig(GPTConfig(**SHAPE), DataConfig(), OptimConfig(), TrainConfig(batch_size=16, device='cpu', num_threads=threads))
    with tempfile.TemporaryDirectory() as folder:
        trainer = bare_trainer(cfg, folder)
        for _ in range(3): trainer.train_step()
        print('ready', flush=True)
        for _ in sys.stdin:
            wall, cpu = time.perf_counter(), time.process_time()
            trainer.train_step()
            print(json.dumps([1e3*(time.perf_counter() - wall), 1e3*(time.process_time() - cpu)]), flush=True)

def begin(threads, env):
    "The process of one way to wait"
    free = {name: value for name, value in os.environ.items() if name not in FREE}
    return subprocess.Popen([sys.executable, __file__, '--worker', str(threads)], env=free | env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

def step(process):
    process.stdin.write('go\n')
    process.stdin.flush()
    return json.loads(process.stdout.readline())

def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument('--neighbours', type=int, nargs='*', default=[0, 1, 2, 5])
    ap.add_argument('--spins', type=int, nargs='*', default=[0, 1000, 3000, 10000, 30000, 100000])
    ap.add_argument('--threads', type=int, default=2)
    ap.add_argument('--rounds', type=int, default=9)
    ap.add_argument('--log', type=Path)
    ap.add_argument('--worker', type=int, help=argparse.SUPPRESS)
    args = ap.parse_args()
    if args.worker: return worker(args.worker)
    ways = {'one thread': (1, {}), 'as it is': (args.threads, {}), 'OMP_WAIT_POLICY=PASSIVE': (args.threads, dict(OMP_WAIT_POLICY='PASSIVE'))}
    ways |= {f'GOMP_SPINCOUNT={n}': (args.threads, dict(GOMP_SPINCOUNT=str(n))) for n in args.spins}
    running = {name: begin(*way) for name, way in ways.items()}
    for process in running.values(): assert process.stdout.readline() == 'ready\n'
    rows, counting = [], []
    for n in args.neighbours:
        while len(counting) < n: counting.append(subprocess.Popen([sys.executable, '-c', 'while True: pass']))
        seen = {name: [] for name in ways}
        for _ in range(args.rounds):
            for name, process in running.items(): seen[name].append(step(process))
        for name, times in seen.items():
            wall, cpu = ([o[i] for o in times] for i in (0, 1))
            row = dict(neighbours=n, way=name, threads=ways[name][0], wall_ms=round(statistics.median(wall), 1), worst_ms=round(max(wall), 1), cpu_ms=round(statistics.median(cpu), 1))
            rows.append(row)
            print(f'{n} neighbours, {name:26} {row["wall_ms"]:8.1f} ms (worst {row["worst_ms"]:8.1f}), CPU {row["cpu_ms"]:8.1f} ms', flush=True)
    for process in [*running.values(), *counting]: process.kill()
    if args.log: args.log.write_text(''.join(json.dumps(row) + '\n' for row in rows))

if __name__ == '__main__': main()
