"""Sixteen callers at once: the server of the book, the same without batching, and one around transformers' `generate`, in turn, in the same run.

    python bench/serve.py --log runs/logs/serve/load.jsonl
    python bench/serve.py --clients 4 --requests 4 --tokens 64 --memory 0

The model is a GPT-2 of 26 million parameters with random weights, in float32; transformers' server has one of the same shape. Each server is a process of its own with one
thread for the arithmetic. Each caller asks, reads the stream to its end, and asks again. Said of each server: tokens per second over all callers; the time from the request to the first
piece of text, and from piece to piece (a piece is a token, but for letters in pieces), as the middle one and the hundredth worst of all. The CPU time of a server is
looked at, too: it doesn't depend on what else the machine does meanwhile.

The third server is what one writes in an afternoon: Starlette, `generate` with a streamer in a thread, and a lock, as two calls at a time would only slow each other down.

Then as many short requests as `--memory` says go to our server, with the model of the book, and its memory is looked at on the way. Promises nothing.
"""
import argparse, asyncio, json, socket, statistics, subprocess, sys, time
from pathlib import Path
import psutil

ROOT = Path(__file__).parent.parent
SHAPE = dict(vocab_size=2048, block_size=256, n_layer=8, n_head=8, n_embd=512)
SERVERS = {'batched': ['ours', '16'], 'one at a time': ['ours', '1'], 'transformers': ['theirs', '1'], 'memory': ['book', '16']}

# --- servers ---------------------------------------------------------------------------------------------------------

def ours(model, tok, batch, port):
    from nanogpt_lit.config import ServeConfig
    from nanogpt_lit.serve import Service, listen, make_server
    service = Service(model, tok, ServeConfig(max_batch=batch, max_queue=1000), 'model')
    with listen('127.0.0.1', port) as door, service: make_server(service).run(sockets=[door])

def random_model():
    import torch
    from nanogpt_lit.config import GPTConfig
    from nanogpt_lit.model import GPT
    torch.manual_seed(0)
    return GPT(GPTConfig(**SHAPE, pos='learned', act='gelu_tanh', bias=True)).eval()

def theirs(tok, port):
    "What one writes in an afternoon"
    import threading, torch, uvicorn
    from starlette.applications import Starlette
    from starlette.concurrency import iterate_in_threadpool
    from starlette.responses import StreamingResponse
    from starlette.routing import Route
    from transformers import GPT2Config, GPT2LMHeadModel
    from transformers.generation.streamers import BaseStreamer
    from queue import Queue
    cfg = GPT2Config(vocab_size=SHAPE['vocab_size'], n_positions=SHAPE['block_size'], n_layer=SHAPE['n_layer'], n_head=SHAPE['n_head'], n_embd=SHAPE['n_embd'],
                     bos_token_id=None, eos_token_id=None, pad_token_id=0)
    torch.manual_seed(0)
    model, lock = GPT2LMHeadModel(cfg).eval(), threading.Lock()

    class Tokens(BaseStreamer):
        def __init__(self): self.queue, self.begun = Queue(), False
        def put(self, ids):
            if self.begun: self.queue.put(ids.flatten().tolist())       # the first are the prompt
            self.begun = True
        def end(self): self.queue.put(None)

    def write(ids, n, tokens):
        with lock, torch.inference_mode():
            model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=n, min_new_tokens=n, do_sample=True, temperature=1., top_k=0, streamer=tokens)

    async def complete(request):
        data = await request.json()
        tokens, n = Tokens(), data['max_tokens']
        threading.Thread(target=write, args=(torch.tensor([tok.encode(data['prompt'])]), n, tokens), daemon=True).start()
        def events():
            while (new := tokens.queue.get()) is not None:
                yield f'data: {json.dumps(dict(choices=[dict(index=0, text=tok.decode(new), finish_reason=None)]))}\n\n'
            yield f'data: {json.dumps(dict(choices=[], usage=dict(completion_tokens=n)))}\n\ndata: [DONE]\n\n'
        return StreamingResponse(iterate_in_threadpool(events()), media_type='text/event-stream')
    uvicorn.run(Starlette(routes=[Route('/v1/completions', complete, methods=['POST'])]), port=port, log_level='warning')

def worker(kind, batch, port):
    import torch
    from nanogpt_lit.interop import load_run
    torch.set_num_threads(1)
    book = load_run(ROOT/'runs/book', 'cpu')
    if kind == 'theirs': return theirs(book.tokenizer, port)
    ours(book.model if kind == 'book' else random_model(), book.tokenizer, batch, port)

def begin(name):
    "A server in a process of its own, when it listens: (process, port)"
    with socket.create_server(('127.0.0.1', 0)) as free: port = free.getsockname()[1]
    process = subprocess.Popen([sys.executable, __file__, '--worker', *SERVERS[name], str(port)])
    while True:
        try: socket.create_connection(('127.0.0.1', port)).close()
        except OSError:
            assert process.poll() is None, f'the server {name!r} has ended'
            time.sleep(.1)
        else: return process, port

# --- callers ---------------------------------------------------------------------------------------------------------

async def call(port, prompt, n, seed):
    "One request to the end of its stream: (tokens, when each piece came, counted from the request)"
    body = json.dumps(dict(prompt=prompt, max_tokens=n, seed=seed, stream=True, stream_options=dict(include_usage=True))).encode()
    start = time.perf_counter()
    reader, writer = await asyncio.open_connection('127.0.0.1', port)
    writer.write(b'POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n' % len(body) + body)
    times, tokens, status = [], 0, await reader.readline()
    assert b' 200 ' in status, status
    async for line in reader:
        if not line.startswith(b'data: {'): continue
        now, data = time.perf_counter() - start, json.loads(line[6:])
        if data.get('usage'): tokens = data['usage']['completion_tokens']
        if data['choices'] and data['choices'][0]['text']: times.append(now)
    writer.close()
    return tokens, times

async def callers(port, clients, requests, n):
    "Everybody asks `requests` times, one after the other"
    async def one(i): return [await call(port, 'def read_lines(path):', n, 1000*i + j) for j in range(requests)]
    start = time.perf_counter()
    done = [o for answers in await asyncio.gather(*map(one, range(clients))) for o in answers]
    return done, time.perf_counter() - start

def worst(values, share): return 1e3*sorted(values)[min(len(values) - 1, int(share*len(values)))]

def load(name, args):
    process, port = begin(name)
    try:
        asyncio.run(callers(port, 2, 1, 8))                              # what happens once
        before = sum(psutil.Process(process.pid).cpu_times()[:2])
        done, wall_s = asyncio.run(callers(port, args.clients, args.requests, args.tokens))
        cpu_s = sum(psutil.Process(process.pid).cpu_times()[:2]) - before
    finally:
        process.kill()
        process.wait()
    first, gaps = [t[0] for _, t in done if t], [b - a for _, t in done for a, b in zip(t, t[1:])]
    tokens = sum(n for n, _ in done)
    row = dict(what='load', server=name, clients=args.clients, answers=len(done), tokens=tokens, wall_s=wall_s, cpu_s=cpu_s, tokens_per_s=tokens/wall_s)
    for kind, values in dict(first=first, next=gaps).items(): row |= {f'{kind}_ms_p50': 1e3*statistics.median(values), f'{kind}_ms_p99': worst(values, .99)}
    print(f'{name:14} {row["tokens_per_s"]:7.0f} tokens/s   CPU {1e3*cpu_s/tokens:5.1f} ms/token   first piece {row["first_ms_p50"]:6.0f} ms (p99 {row["first_ms_p99"]:6.0f})   next {row["next_ms_p50"]:5.1f} ms (p99 {row["next_ms_p99"]:6.1f})', flush=True)
    return row

def memory(args):
    "Megabytes of our server while it answers many short requests"
    process, port = begin('memory')
    served, rss, step = [], [], max(1, args.memory//20)
    try:
        for i in range(0, args.memory + 1, step):
            if i: asyncio.run(callers(port, args.clients, max(1, step//args.clients), 4))
            served.append(i)
            rss.append(psutil.Process(process.pid).memory_info().rss/1e6)
    finally:
        process.kill()
        process.wait()
    print(f'{served[-1]:,} requests: {rss[0]:.0f} MB before, {rss[1]:.0f} after {served[1]:,}, {rss[-1]:.0f} at the end')
    return dict(what='memory', served=served, mb=rss)

def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument('--clients', type=int, default=16)
    ap.add_argument('--requests', type=int, default=2, help='of each caller')
    ap.add_argument('--tokens', type=int, default=32)
    ap.add_argument('--memory', type=int, default=10_000, help='short requests; 0 = none')
    ap.add_argument('--log', type=Path)
    ap.add_argument('--worker', nargs=3, help=argparse.SUPPRESS)
    args = ap.parse_args()
    if args.worker: return worker(args.worker[0], *map(int, args.worker[1:]))
    rows = [load(name, args) for name in ('batched', 'one at a time', 'transformers')]
    if args.memory: rows.append(memory(args))
    if args.log:
        args.log.parent.mkdir(parents=True, exist_ok=True)
        args.log.write_text(''.join(json.dumps(row) + '\n' for row in rows), encoding='utf-8')

if __name__ == '__main__': main()
