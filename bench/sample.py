"""Tokens per second while writing text, beside nanoGPT's and Hugging Face's generation, all in this process, in turn.

    python bench/sample.py --peer PATH_TO_A_NANOGPT_CHECKOUT                        # characters, batches of 1 and 10
    python bench/sample.py --peer PATH --model gpt2 --batch 10 --tokens 60 --threads 2 --dtypes float32 bfloat16
    python bench/sample.py --peer PATH --model gpt2 --batch 1 --tokens 60 --dtypes float32 bfloat16 int8 --llama2c PATH_TO_A_LLAMA2.C_CHECKOUT

All models have one shape and random weights, and all draw with temperature 0.8 from the 200 likeliest tokens, from a prompt of one token.
`chars` is nanoGPT's CPU recipe: 4 layers, 4 heads, width 128, 65 characters, context 64. A text of 500 tokens outgrows it, and then the
three differ: nanoGPT keeps the last 64 tokens and computes them anew for each token; we forget a quarter at once (`window_start`; the row
'slide=1' follows nanoGPT's rule); Hugging Face can't go on at all, so its model gets positions for all tokens and never forgets.
`--block_size 512` gives everybody the same context, and nobody forgets. Hugging Face uses its key/value cache.

`int8` is for us alone: weights in eight bits (`nanogpt_lit.decode.in_int8`). With `--llama2c` (and a C compiler) the C programs of llama2.c take turns,
compiled with `-Ofast -march=native`: `run.c` in float32 and `runq.c` in eight bits, a Llama with as many layers, channels and ids, and with two thirds of
the hidden width, so that it has as many weights. They say their own speed, without the start; so their CPU time is their wall time.
`--log FILE` adds what was measured to a file, a line of JSON for each table.

A round runs each once; wall and CPU time are medians over rounds, and so are the ratios, each within its round. Promises nothing.
"""
import argparse, importlib.util, json, os, platform, re, statistics, struct, subprocess, tempfile, time
from pathlib import Path
import torch
from nanogpt_lit.generate import generate
from nanogpt_lit.model import GPT
from nanogpt_lit.config import GPTConfig
from step import peer_module

SHAPES = {'chars': dict(n_layer=4, n_head=4, n_embd=128, vocab_size=65, block_size=64, bias=False),
          'gpt2': dict(n_layer=12, n_head=12, n_embd=768, vocab_size=50257, block_size=1024, bias=True)}
KNOBS = dict(temperature=.8, top_k=200)

def nanogpt(path, shape, dtype, B, n):
    "nanoGPT's `generate`"
    peer = peer_module(path)
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

def ours(shape, name, B, n, **kw):
    model = GPT(GPTConfig(**shape)).eval()
    if name == 'int8':
        from nanogpt_lit.decode import in_int8
        model = in_int8(model)
    else: model = model.to(getattr(torch, name))
    return lambda: generate(model, torch.zeros(B, 1, dtype=torch.long), n, seed=0, **KNOBS, **kw)

def llama_matrices(shape):
    "Shapes of the matrices of a Llama with about as many weights, in the order of llama2.c's files"
    C, L, F = shape['n_embd'], shape['n_layer'], shape['n_embd']*8//3
    return [(shape['vocab_size'], C)], [(C, C)]*4*L, [(F, C)]*L + [(C, F)]*L + [(F, C)]*L

def write_llama(path, shape, eight_bits):
    "Random weights in the format of `run.c`, or in that of `runq.c`"
    C, L, H, V, T = (shape[k] for k in ('n_embd', 'n_layer', 'n_head', 'vocab_size', 'block_size'))
    embedding, attention, mlp = llama_matrices(shape)
    ones = torch.ones(C).numpy().tobytes()
    def matrix(size):
        W = torch.randn(size)*.02
        if not eight_bits: return W.numpy().tobytes()
        W = W.view(-1, 64)                                   # groups of 64 share a scale
        scale = W.abs().amax(1, keepdim=True)/127
        return (W/scale).round().to(torch.int8).numpy().tobytes() + scale.numpy().tobytes()
    with open(path, 'wb') as f:
        header = struct.pack('7i', C, mlp[0][0], L, H, H, V, T)
        if eight_bits:
            f.write((struct.pack('Ii', 0x616b3432, 2) + header + struct.pack('<Bi', 1, 64)).ljust(256, b'\0'))
            f.write(ones*(2*L + 1))
            for size in embedding + attention + mlp: f.write(matrix(size))
            return
        f.write(header)
        for size in embedding: f.write(matrix(size))
        f.write(ones*L)
        for size in attention: f.write(matrix(size))
        f.write(ones*L)
        for size in mlp: f.write(matrix(size))
        f.write(ones + bytes(4*T*C//H))

def llama2c(args, program, shape):
    "A program of llama2.c; what is returned says its own seconds"
    folder = Path(args.folder)
    subprocess.run(['cc', '-Ofast', '-march=native', *['-fopenmp']*(args.threads > 1), '-o', folder/program, Path(args.llama2c)/f'{program}.c', '-lm'], check=True)
    write_llama(folder/f'{program}.bin', shape, program == 'runq')
    (folder/'tokenizer.bin').write_bytes(struct.pack('i', 1) + (struct.pack('<fi', 0., 1) + b'a')*shape['vocab_size'])
    call = [folder/program, folder/f'{program}.bin', '-z', folder/'tokenizer.bin', '-t', '0.8', '-p', '0', '-n', str(args.tokens + 1)]
    def run():
        said = subprocess.run(call, capture_output=True, env=os.environ | {'OMP_NUM_THREADS': str(args.threads)}, check=True).stderr.decode()
        return args.tokens/float(re.search(r'achieved tok/s: ([\d.]+)', said)[1])
    return run

def contenders(args, shape, B):
    "Name → a function that writes `tokens` tokens for each of B rows"
    for name in args.dtypes:
        dtype, tag = getattr(torch, name), '' if name == 'float32' else f' {name}'
        if name != 'int8': yield 'nanoGPT' + tag, nanogpt(args.peer, shape, dtype, B, args.tokens)
        if name != 'int8' and importlib.util.find_spec('transformers'): yield 'Hugging Face' + tag, hugging_face(shape, dtype, B, args.tokens)
        yield 'ours' + tag, ours(shape, name, B, args.tokens)
        if args.tokens >= shape['block_size']: yield 'ours, slide=1' + tag, ours(shape, name, B, args.tokens, slide=1)
    if args.llama2c and B == 1:
        for program in ('run', 'runq'): yield f'llama2.c {program}.c', llama2c(args, program, shape)

def compare(args, shape, B):
    "Print one table"
    each = dict(contenders(args, shape, B))
    for f in each.values(): f()
    wall, cpu = ({k: [] for k in each} for _ in range(2))
    for _ in range(args.rounds):
        for name, f in each.items():
            w, c = time.perf_counter(), time.process_time()
            own = f()
            own = own if isinstance(own, float) else None
            wall[name].append(own or time.perf_counter() - w)
            cpu[name].append(own or time.process_time() - c)
    def ratio(times, name): return statistics.median(a/b for a, b in zip(times['nanoGPT'], times[name]))
    print(f'\n{args.model}, context {shape["block_size"]}, batch {B}, {args.tokens} tokens, {args.threads} thread(s), {args.rounds} rounds')
    print(f'{"":24}{"tokens/s":>10}{"CPU s":>8}{"x nanoGPT":>11}{"by CPU time":>13}')
    for k in each:
        speed = B*args.tokens/statistics.median(wall[k])
        print(f'{k:24}{speed:10.1f}{statistics.median(cpu[k]):8.2f}{ratio(wall, k):11.2f}{ratio(cpu, k):13.2f}', flush=True)
    if not args.log: return
    about = dict(model=args.model, batch=B, tokens=args.tokens, threads=args.threads, torch=torch.__version__, machine=platform.machine())
    with open(args.log, 'a', encoding='utf-8') as log: log.write(json.dumps(about | dict(wall=wall, cpu=cpu)) + '\n')

def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument('--peer', required=True, help='a nanoGPT checkout (its model.py is run)')
    ap.add_argument('--model', choices=SHAPES, default='chars')
    ap.add_argument('--batch', type=int, nargs='+', default=[1, 10])
    ap.add_argument('--tokens', type=int, default=500)
    ap.add_argument('--block_size', type=int, help='another context length than the recipe has')
    ap.add_argument('--rounds', type=int, default=5)
    ap.add_argument('--threads', type=int, default=1)
    ap.add_argument('--dtypes', nargs='+', choices=['float32', 'bfloat16', 'int8'], default=['float32'])
    ap.add_argument('--llama2c', help='a llama2.c checkout (its run.c and runq.c are compiled and run), for batch 1')
    ap.add_argument('--log', help='a file that gets a line of JSON for each table')
    args = ap.parse_args()
    torch.set_num_threads(args.threads)
    shape = SHAPES[args.model] | ({'block_size': args.block_size} if args.block_size else {})
    with tempfile.TemporaryDirectory() as args.folder:
        for B in args.batch: compare(args, shape, B)

if __name__ == '__main__': main()
