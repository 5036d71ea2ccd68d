"""Tokens per second while writing text, beside nanoGPT's and Hugging Face's generation, all in this process, in turn.

    python bench/sample.py --peer PATH_TO_A_NANOGPT_CHECKOUT                        # characters, batches of 1 and 10
    python bench/sample.py --peer PATH --model gpt2 --batch 10 --tokens 60 --threads 2 --dtypes float32 bfloat16

All models have one shape and random weights, and all draw with temperature 0.8 from the 200 likeliest tokens, from a prompt of one token.
`chars` is nanoGPT's CPU recipe: 4 layers, 4 heads, width 128, 65 characters, context 64. A text of 500 tokens outgrows it, and then the
three differ: nanoGPT keeps the last 64 tokens and computes them anew for each token; we forget a quarter at once (`window_start`; the row
'slide=1' follows nanoGPT's rule); Hugging Face can't go on at all, so its model gets positions for all tokens and never forgets.
`--block_size 512` gives everybody the same context, and nobody forgets. Hugging Face uses its key/value cache.

A round runs each once; wall and CPU time are medians over rounds, and so are the ratios, each within its round. Promises nothing.
"""
import argparse, importlib.util, statistics, time
from pathlib import Path
import torch
from nanogpt_lit.generate import generate
from nanogpt_lit.model import GPT
from nanogpt_lit.config import GPTConfig

SHAPES = {'chars': dict(n_layer=4, n_head=4, n_embd=128, vocab_size=65, block_size=64, bias=False),
          'gpt2': dict(n_layer=12, n_head=12, n_embd=768, vocab_size=50257, block_size=1024, bias=True)}
KNOBS = dict(temperature=.8, top_k=200)

def nanogpt(path, shape, dtype, B, n):
    "nanoGPT's `generate`"
    spec = importlib.util.spec_from_file_location('peer_model', Path(path)/'model.py')
    peer = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(peer)
    model = peer.GPT(peer.GPTConfig(**shape, dropout=0.)).eval().to(dtype)
    return lambda: model.generate(torch.zeros(B, 1, dtype=torch.long), n, **KNOBS)

def hugging_face(shape, dtype, B, n):
    "transformers' `generate`, with its cache"
    from transformers import GPT2Config, GPT2LMHeadModel
    cfg = GPT2Config(vocab_size=shape['vocab_size'], n_positions=max(shape['block_size'], n + 1), n_layer=shape['n_layer'], n_head=shape['n_head'],
                     n_embd=shape['n_embd'], bos_token_id=None, eos_token_id=None, pad_token_id=0)
    model = GPT2LMHeadModel(cfg).eval().to(dtype)
    ids = torch.zeros(B, 1, dtype=torch.long)
    return lambda: model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=n, min_new_tokens=n, do_sample=True, use_cache=True, **KNOBS)

def ours(shape, dtype, B, n, **kw):
    model = GPT(GPTConfig(**shape)).eval().to(dtype)
    return lambda: generate(model, torch.zeros(B, 1, dtype=torch.long), n, seed=0, **KNOBS, **kw)

def contenders(args, shape, B):
    "Name → a function that writes `tokens` tokens for each of B rows"
    for name in args.dtypes:
        dtype, tag = getattr(torch, name), '' if name == 'float32' else f' {name}'
        yield 'nanoGPT' + tag, nanogpt(args.peer, shape, dtype, B, args.tokens)
        if importlib.util.find_spec('transformers'): yield 'Hugging Face' + tag, hugging_face(shape, dtype, B, args.tokens)
        yield 'ours' + tag, ours(shape, dtype, B, args.tokens)
        if args.tokens >= shape['block_size']: yield 'ours, slide=1' + tag, ours(shape, dtype, B, args.tokens, slide=1)

def compare(args, shape, B):
    "Print one table"
    each = dict(contenders(args, shape, B))
    for f in each.values(): f()
    wall, cpu = ({k: [] for k in each} for _ in range(2))
    for _ in range(args.rounds):
        for name, f in each.items():
            w, c = time.perf_counter(), time.process_time()
            f()
            wall[name].append(time.perf_counter() - w)
            cpu[name].append(time.process_time() - c)
    def ratio(times, name): return statistics.median(a/b for a, b in zip(times['nanoGPT'], times[name]))
    print(f'\n{args.model}, context {shape["block_size"]}, batch {B}, {args.tokens} tokens, {args.threads} thread(s), {args.rounds} rounds')
    print(f'{"":24}{"tokens/s":>10}{"CPU s":>8}{"x nanoGPT":>11}{"by CPU time":>13}')
    for k in each:
        speed = B*args.tokens/statistics.median(wall[k])
        print(f'{k:24}{speed:10.0f}{statistics.median(cpu[k]):8.2f}{ratio(wall, k):11.2f}{ratio(cpu, k):13.2f}', flush=True)

def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument('--peer', required=True, help='a nanoGPT checkout (its model.py is run)')
    ap.add_argument('--model', choices=SHAPES, default='chars')
    ap.add_argument('--batch', type=int, nargs='+', default=[1, 10])
    ap.add_argument('--tokens', type=int, default=500)
    ap.add_argument('--block_size', type=int, help='another context length than the recipe has')
    ap.add_argument('--rounds', type=int, default=5)
    ap.add_argument('--threads', type=int, default=1)
    ap.add_argument('--dtypes', nargs='+', choices=['float32', 'bfloat16'], default=['float32'])
    args = ap.parse_args()
    torch.set_num_threads(args.threads)
    shape = SHAPES[args.model] | ({'block_size': args.block_size} if args.block_size else {})
    for B in args.batch: compare(args, shape, B)

if __name__ == '__main__': main()
