"""Plain tuning, replay and adapters, each at several learning rates and seeds: what is learned, and what is forgotten.

    python scripts/tuning_sweep.py                      # → runs/logs/tuning/sweep.jsonl, about six minutes of one core; an interrupted one goes on
    python scripts/tuning_sweep.py --adapter runs/book_chat  # only the adapter that the chat's page talks to, from the best row of the log

The base is runs/book, the examples are the short ones of `pystdlib_instruct`, the loop is `tuned_copy` of page 92, which plots the log and runs
one of its points again. The first line of the log holds the settings and the losses before; every other line is a tuning: method, rate,
seed, the loss on held-out answers, the loss on held-out pretraining text, and the share of answers that end by themselves.
"""
import argparse, json, os, tempfile, time
from copy import deepcopy
from pathlib import Path
import numpy as np
import torch
from nanogpt_lit.core import seed_everything
from nanogpt_lit.data import prepare
from nanogpt_lit.evaluate import evaluate_loss
from nanogpt_lit.finetune import response_loss, tuned_copy
from nanogpt_lit.generate import generate
from nanogpt_lit.instructions import ChatPlan, Conversations, encode_examples, encode_turns, pystdlib_instruct
from nanogpt_lit.instructions import split_examples, template_of, to_turns, with_replay, with_template
from nanogpt_lit.interop import load_run
from nanogpt_lit.loader import TokenData
from nanogpt_lit.lora import add_lora, grow_vocab, save_adapter

STEPS, ROWS, SHARE, RANK, SEEDS = 60, 8, .25, 8, (1, 2, 3)
RATES = dict(plain=(1e-3, 2e-3, 4e-3), replay=(1e-3, 2e-3, 4e-3), adapters=(3e-3, 1e-2, 2e-2))

class Bench:
    "The base, the rows and the measures, as page 92 sets them up"
    def __init__(self, folder):
        run = load_run(folder, 'cpu')
        self.tok = with_template(run.tokenizer, 'chatml')
        self.template, known = template_of(self.tok), run.tokenizer.vocab_size
        self.new_ids = [*range(known, self.tok.vocab_size)]
        self.base = grow_vocab(run.model, self.tok.vocab_size, known).eval()
        T = self.base.cfg.block_size
        records = [r for _, r in pystdlib_instruct() if len(r['prompt']) + len(r['completion']) < 220]
        examples = encode_examples(Conversations([to_turns(r) for r in records]), self.tok, self.template, T)
        self.train, val = split_examples(examples, .05)
        self.held_out = ChatPlan(val, ROWS, T)
        self.questions = [r['prompt'] for r in records[::len(records)//48]][:48]
        self.end = self.tok.special_tokens[self.template.end(self.tok)]
        prepare('pystdlib', 'data/pystdlib', tokenizer=run.tokenizer, progress=False)
        self.old_train, self.old_val = TokenData('data/pystdlib', 'train'), TokenData('data/pystdlib', 'val')

    def tuned(self, method, rate, seed):
        rows = ChatPlan(self.train, ROWS, self.base.cfg.block_size, seed)
        model = self.base
        seed_everything(seed)
        if method == 'adapters': model = add_lora(deepcopy(model), rank=RANK, new_ids=self.new_ids)
        if method == 'replay': rows = with_replay(rows, self.old_train, SHARE)
        return tuned_copy(model, rows, STEPS, rate)

    def losses(self, model):
        return dict(answers=response_loss(model, self.held_out), old_text=evaluate_loss(model, self.old_val, 16, max_batches=16).nats_per_token)

    def stops(self, model):
        "The share of answers that end by themselves within 60 tokens"
        prompts = [encode_turns([dict(role='user', content=q)], self.tok, self.template, reply=True)[0] for q in self.questions]
        said = generate(model, prompts, 60, 0., stop=[self.end], tokenizer=self.tok)
        return float(np.mean([ids[-1] == self.end for ids in said]))

def rows_of(log): return [json.loads(line) for line in log.read_text(encoding='utf-8').splitlines()] if log.exists() else []

def sweep(bench, out, seeds):
    "Every method, rate and seed that the log doesn't have yet"
    settings = dict(steps=STEPS, rows=ROWS, replay=SHARE, rank=RANK, examples=len(bench.train), held_out=len(bench.held_out.data))
    first = dict(settings=settings, before=bench.losses(bench.base))
    earlier = rows_of(out)
    if earlier[:1] != [first]: earlier = [first]                     # another base, or other settings: begin again
    done = {(row['method'], row['rate'], row['seed']) for row in earlier[1:]}
    out.write_text(''.join(json.dumps(row) + '\n' for row in earlier), encoding='utf-8')
    for seed in seeds:
        for method, rates in RATES.items():
            for rate in rates:
                if (method, rate, seed) in done: continue
                begin = time.process_time()
                model = bench.tuned(method, rate, seed)
                row = dict(method=method, rate=rate, seed=seed) | bench.losses(model) | dict(stops=bench.stops(model))
                row = {k: round(float(v), 4) if isinstance(v, float) else v for k, v in row.items()} | dict(cpu_s=round(time.process_time() - begin, 1))
                with open(out, 'a', encoding='utf-8') as f: print(json.dumps(row), file=f)
                print(row, flush=True)

def best_rate(log, method):
    "The rate with the lowest mean loss on answers"
    rows = [row for row in rows_of(log) if row.get('method') == method]
    return min({row['rate'] for row in rows}, key=lambda rate: np.mean([row['answers'] for row in rows if row['rate'] == rate]))

def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--base', default='runs/book', help='run folder of the base')
    parser.add_argument('--out', default='runs/logs/tuning/sweep.jsonl', help='the log')
    parser.add_argument('--seeds', type=int, nargs='+', default=SEEDS, help='of the order of the rows, and of the adapters')
    parser.add_argument('--adapter', help='in place of the sweep: save the adapters of the best rate, and their tokenizer, in this folder')
    args = parser.parse_args()
    torch.set_num_threads(1)
    base, out = Path(args.base).resolve(), Path(args.out).resolve()
    adapter = Path(args.adapter).resolve() if args.adapter else None
    out.parent.mkdir(parents=True, exist_ok=True)
    home = Path.cwd()
    with tempfile.TemporaryDirectory() as desk:
        os.chdir(desk)
        bench = Bench(base)
        if adapter is None: sweep(bench, out, args.seeds)
        else:
            save_adapter(bench.tuned('adapters', best_rate(out, 'adapters'), SEEDS[0]), adapter)
            bench.tok.save(adapter/'tokenizer')
        os.chdir(home)

if __name__ == '__main__': main()
