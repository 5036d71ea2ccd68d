"""Time of one batch beside nanoGPT's `get_batch`, taken from its own `train.py`, both in this process, in turn.

    python bench/loader.py --peer PATH_TO_A_NANOGPT_CHECKOUT [--rounds 30] [--mb 20]

Random windows from one uint16 file, on the CPU; ours also in shuffled epochs, from four shards, with documents kept apart, and mixed from two
sources. Prints the best time of each and ratios; promises nothing. Only the function is taken from the peer's file: nothing else in it is executed.
"""
import argparse, ast, os, tempfile, time
from pathlib import Path
import numpy as np
import torch
from nanogpt_lit.loader import TokenData, make_plan, mix

def peer_get_batch(path, data_dir, B, T):
    "The function of the peer's train.py, with the names that it uses"
    tree = ast.parse((Path(path)/'train.py').read_text(encoding='utf-8'))
    tree.body = [o for o in tree.body if isinstance(o, ast.FunctionDef) and o.name == 'get_batch']
    names = dict(np=np, torch=torch, os=os, data_dir=str(data_dir), batch_size=B, block_size=T, device_type='cpu', device='cpu')
    exec(compile(tree, 'train.py', 'exec'), names)
    return lambda step: names['get_batch']('train')

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--peer', required=True, help='folder with nanoGPT\'s train.py')
    p.add_argument('--rounds', type=int, default=30)
    p.add_argument('--mb', type=float, default=20., help='size of the token file')
    a = p.parse_args()
    with tempfile.TemporaryDirectory() as tmp:
        d, n = Path(tmp), int(a.mb*5e5)
        ids = np.random.default_rng(0).integers(1, 50257, n).astype('<u2')
        ids[::600] = 0
        ids.tofile(d/'train.bin')
        for k, part in enumerate(np.array_split(ids, 4)): part.tofile(d/f'shard_{k}.bin')
        one, apart = TokenData(d/'train.bin'), TokenData(d/'train.bin', documents=True)
        apart.eot_id = 0
        both = mix({one: .7, TokenData(d/'shard_0.bin'): .3})
        for B, T in ((12, 64), (12, 1024), (64, 256)):
            rivals = {'nanoGPT': peer_get_batch(a.peer, d, B, T), 'random windows': make_plan(one, B, T, sampling='random').batch, 'epochs': make_plan(one, B, T).batch,
                      'four shards': make_plan(TokenData(d/'shard_*.bin'), B, T).batch, 'documents': make_plan(apart, B, T).batch, 'mixture': make_plan(both, B, T).batch}
            best_us, step = dict.fromkeys(rivals, np.inf), 0
            for _ in range(a.rounds):
                for name, f in rivals.items():
                    start = time.perf_counter()
                    for i in range(step, step + 200): f(i)
                    best_us[name] = min(best_us[name], (time.perf_counter() - start)/200*1e6)
                step += 200
            print(f'{B} x {T}: ' + ', '.join(f'{k} {v:.0f} µs' + (f' ({best_us["nanoGPT"]/v:.1f}x)' if k != 'nanoGPT' else '') for k, v in best_us.items()))

if __name__ == '__main__': main()
