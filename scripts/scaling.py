"""The runs behind page 83 (nbs/83_scaling): how the rate carries over, the sweep at equal operations, the fit, a prediction, and its test.

    python scripts/scaling.py prepare                   # once: data/scaling, pystdlib with the vocabulary of runs/book
    python scripts/scaling.py rates                     # widths × rates, and rates × horizons, decays, batches → rates.jsonl
    python scripts/scaling.py sweep                     # four budgets of operations × five sizes → sweep.jsonl
    python scripts/scaling.py fit                       # both fits with their intervals → fit.json
    python scripts/scaling.py predict                   # what a run of 4 × the largest budget will come to → prediction.json
    python scripts/scaling.py test                      # that run → test.jsonl. Commit the prediction first
    python scripts/scaling.py dial                      # the dial's preset against hand settings of equal operations → dial.jsonl

A run is a line of a log in runs/logs/scaling: all that was set, the seed, what came out. A run that is in its log is not made again, so every
stage may be stopped and started. Budgets are counted in operations, one thread computes in float32, and the loss is that of the whole validation
split: a busy machine changes how long it takes and nothing else.
"""
import argparse, json, math, random, time
from pathlib import Path
from nanogpt_lit.config import GPTConfig, OptimConfig, TrainConfig, dial
from nanogpt_lit.core import seed_everything
from nanogpt_lit.data import prepare
from nanogpt_lit.evaluate import evaluate_loss
from nanogpt_lit.loader import TokenData, make_plan
from nanogpt_lit.model import GPT
from nanogpt_lit.optim import make_optimizers
from nanogpt_lit.scaling import fit_law, growth, isoflop, read_runs
from nanogpt_lit.sizing import flops_per_token, param_table
from nanogpt_lit.trainer import Trainer

BLOCK = 128
SHAPE = dict(vocab_size=2048, block_size=BLOCK, pos='rotary', norm='rmsnorm', norm_affine=False, act='relu2', bias=False, qk_norm=True,
             tie_embeddings=False, zero_init=True)
RATE = 0.006                                                   # of Muon in the book's run; AdamW's is 5/6 of it
KEYS = 'n_layer', 'n_embd', 'tokens', 'batch', 'rate', 'decay', 'seed'

def setting(n_layer, n_embd, tokens, batch=8, rate=RATE, decay=0., seed=1, **told):
    "All that determines a run, in whole steps"
    per_step = batch*BLOCK
    return dict(n_layer=n_layer, n_embd=n_embd, tokens=max(1, round(tokens/per_step))*per_step, batch=batch,
                rate=float(f'{rate:.4g}'), decay=float(f'{decay:.4g}'), seed=seed, **told)

def shape(n_layer, n_embd):
    "A network of the family: heads of 32 to 63 channels"
    return GPTConfig(**SHAPE, n_layer=n_layer, n_embd=n_embd, n_head=max(1, n_embd//32))

def multiplied(cfg):
    "Parameters that take part in a multiplication: all but the token embedding, of which a row is looked up"
    table = param_table(cfg)
    return sum(table.values()) - table['token embedding']

def tokens_for(operations, cfg):
    "How many tokens a budget pays for"
    return operations/flops_per_token(cfg)

def train(s, data, val, max_batches=0):
    "One run: what goes into the log"
    steps = s['tokens']//(s['batch']*BLOCK)
    seed_everything(s['seed'])
    net = GPT(shape(s['n_layer'], s['n_embd']))
    optim = OptimConfig(optimizer='muon', learning_rate=s['rate']*5/6, muon_lr=s['rate'], weight_decay=s['decay'], min_lr=0., beta1=.8,
                        grad_clip=0., muon_steps=3, schedule='wsd', cooldown_fraction=.6, warmup_steps=10)
    loop = TrainConfig(max_steps=steps, batch_size=s['batch'], device='cpu', num_threads=1, eval_interval=0, log_interval=10**6, seed=s['seed'])
    trainer = Trainer(net, make_plan(data, s['batch'], BLOCK, seed=s['seed']), make_optimizers(net, optim), optim, loop, [])
    start = time.process_time()
    trainer.fit()
    if trainer.stop_reason: raise SystemExit(f'stopped by {trainer.stop_reason}; what is in the log counts')
    trained = time.process_time() - start
    found = evaluate_loss(net, val, max_batches=max_batches)
    return dict(s, steps=steps, parameters=sum(p.numel() for p in net.parameters()), multiplied=multiplied(net.cfg),
                operations=s['tokens']*flops_per_token(net.cfg), passes=round(s['tokens']/len(data), 3), loss=round(found.nats_per_token, 5),
                bits_per_byte=round(found.bits_per_byte, 5), train_s=round(trained, 1), cpu_s=round(time.process_time() - start, 1))

def rows_of(log): return [json.loads(line) for line in log.read_text(encoding='utf-8').splitlines()] if log.exists() else []

def run_all(settings, log, args, max_batches=0):
    "Every setting that the log doesn't have yet"
    data, val = TokenData(args.data, 'train'), TokenData(args.data, 'val')
    log.parent.mkdir(parents=True, exist_ok=True)
    done = {tuple(row[k] for k in KEYS) for row in rows_of(log)}
    for s in settings:
        if tuple(s[k] for k in KEYS) in done: continue
        if time.process_time() > 60*args.minutes: return
        row = train(s, data, val, max_batches)
        with open(log, 'a', encoding='utf-8') as f: print(json.dumps(row), file=f)
        print(row, flush=True)

SHORT = 384*8*BLOCK                                            # tokens of the short runs

def rates():
    "Widths × rates; then, at the least width, four times the tokens with twice the batch, and half the batch"
    out = [setting(d, 32*d, SHORT, rate=RATE*f, stage='width') for f in (1, 2, 4, .5, 8) for d in (1, 2, 4) if (f, d) != (8, 4)]
    out += [setting(1, 32, 4*SHORT, batch=16, rate=RATE*f, stage='horizon') for f in (2, 4, 1)]
    out += [setting(1, 32, SHORT, batch=4, rate=RATE*f, stage='batch') for f in (1.4, 2.8, .7)]
    out += [setting(1, 32, SHORT, batch=16, rate=RATE*f, stage='batch') for f in (4, 8)]
    out += [setting(1, 32, SHORT, batch=32, rate=RATE*f, stage='batch') for f in (5.6,)]
    return out

SIZES = (1, 16), (1, 32), (2, 48), (2, 64), (3, 96), (4, 128), (5, 160)   # layers and width, each about twice the one before
LEAST = 3e11
BUDGETS = {LEAST: SIZES[:5], 3*LEAST: SIZES[:5], 9*LEAST: SIZES[1:6], 27*LEAST: SIZES[2:]}

RATE_AT_64 = .0125                                             # of Muon at width 64, for SHORT tokens in batches of 8: the stage before found it

def batch_for(tokens):
    "8 sequences for SHORT tokens, growing with their root"
    return max(4, round(8*math.sqrt(tokens/SHORT)))

def rate_for(n_embd, tokens, batch):
    "Lower for wide models and long runs, higher for large batches: the three measured powers"
    return RATE_AT_64*(64/n_embd)**.75*math.sqrt(batch/8)*(SHORT/tokens)**.42

def at_budget(operations, n_layer, n_embd, seed=1):
    tokens = tokens_for(operations, shape(n_layer, n_embd))
    batch = batch_for(tokens)
    return setting(n_layer, n_embd, tokens, batch, rate_for(n_embd, tokens, batch), seed=seed, budget=operations)

def sweep():
    "The smallest budget first; then two more seeds of one cell, for the noise"
    out = [at_budget(c, *size) for c, sizes in BUDGETS.items() for size in sizes]
    return out[:10] + [at_budget(3*LEAST, 2, 48, seed) for seed in (2, 3)] + out[10:]

FORMS = dict(sum=False, joint=True)

def fitted(args, rows, joint, resamples=200): return fit_law(*([row[key] for row in rows] for key in ('size', 'tokens', 'loss')), joint, resamples)

def told(prediction): return [round(o, 4) for o in (prediction.value, prediction.low, prediction.high)]

def blind(args, rows, joint):
    "The root of the mean squared error, in logarithms, of the largest budget's losses by a fit to all others"
    most = max(row['budget'] for row in rows)
    law = fitted(args, [row for row in rows if row['budget'] < most], joint, 0)
    errors = [math.log(law.loss(row['size'], row['tokens'])/row['loss']) for row in rows if row['budget'] == most]
    return math.sqrt(sum(e*e for e in errors)/len(errors))

def fit(args):
    "The valleys, and both forms of the law → fit.json"
    rows = read_runs(Path(args.output)/'sweep.jsonl')
    valleys = isoflop([row for row in rows if row['seed'] == 1])
    a, _ = growth(valleys)
    found = dict(runs=len(rows), growth_of_valleys=round(a, 4),
                 valleys=[dict(budget=v.budget, size=round(v.size), loss=round(v.loss, 4), tokens=round(v.tokens)) for v in valleys])
    for form, joint in FORMS.items():
        law = fitted(args, rows, joint)
        names = 'E', 'A', 'alpha', 'B', 'beta', 'mix', 'growth'
        found[form] = {name: told(law.interval(lambda o: getattr(o, name))) for name in names}
        found[form] |= dict(scatter=round(law.scatter, 5), blind_to_the_largest_budget=round(blind(args, rows, joint), 5),
                            best_sizes={f'{v.budget:.3g}': round(law.best_size(v.budget)) for v in valleys})
    (Path(args.output)/'fit.json').write_text(json.dumps(found, indent=1) + '\n', encoding='utf-8')
    print(json.dumps(found, indent=1))

TEST = 4*27*LEAST, (4, 128)                                    # operations, and the network: about the best of those at hand

def test_run():
    budget, size = TEST
    return at_budget(budget, *size)

def predict(args):
    "What the test will come to → prediction.json"
    path = Path(args.output)/'prediction.json'
    if (Path(args.output)/'test.jsonl').exists(): raise SystemExit('the test has been run: a prediction would be too late')
    rows, s = read_runs(Path(args.output)/'sweep.jsonl'), test_run()
    size = flops_per_token(shape(s['n_layer'], s['n_embd']))/6
    laws = {form: fitted(args, rows, joint) for form, joint in FORMS.items()}
    chosen = min(FORMS, key=lambda form: blind(args, rows, FORMS[form]))     # by the largest budget, before anything larger was run
    operations = 6*size*s['tokens']
    found = dict(setting=s, size=round(size), operations=operations, times_the_largest=round(operations/(27*LEAST), 3),
                 passes=round(s['tokens']/len(TokenData(args.data, 'train')), 3), level=.9, chosen=chosen,
                 loss={form: told(law.predict(size, s['tokens'])) for form, law in laws.items()},
                 made=time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime()))
    path.write_text(json.dumps(found, indent=1) + '\n', encoding='utf-8')
    print(json.dumps(found, indent=1))

def by_dial(depth, **changes):
    "The dial's run, or one with some changes and as many operations"
    row = dial(depth)
    told = dict(n_layer=depth, n_embd=row['n_embd'], batch=row['batch_size'], rate=row['muon_lr'], decay=row['weight_decay']) | changes
    budget = row['max_steps']*row['batch_size']*BLOCK*flops_per_token(shape(depth, row['n_embd']))
    return setting(tokens=tokens_for(budget, shape(told['n_layer'], told['n_embd'])), depth=depth, by='hand' if changes.keys() - {'seed'} else 'dial', **told)

def hands(n=9):
    "Settings for depth 1 that somebody might choose: all of them differ in rate, batch and decay, every second one in its shape too"
    rng, rate = random.Random(83), dial(1)['muon_lr']
    for i in range(n):
        changes = dict(batch=rng.choice([4, 6, 8, 12, 16, 24]), rate=rate*2**rng.uniform(-1.5, 1.5), decay=rng.choice([0., .1, .3]))
        if i % 2: changes |= dict(n_layer=rng.choice([1, 2, 3]), n_embd=rng.choice([24, 32, 40, 48, 64]))
        yield by_dial(1, **changes)

def dial_runs():
    small = dict(batch=8, rate=dial(2)['muon_lr']*math.sqrt(8/dial(2)['batch_size']))
    return [*(by_dial(1, seed=seed) for seed in (1, 2, 3)), *hands(), by_dial(2), by_dial(2, **small)]

def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('stage', choices=['prepare', 'rates', 'sweep', 'fit', 'predict', 'test', 'dial'])
    parser.add_argument('--data', default='data/scaling')
    parser.add_argument('--tokenizer', default='runs/book/tokenizer')
    parser.add_argument('--output', default='runs/logs/scaling', help='folder of the logs')
    parser.add_argument('--minutes', type=float, default=60., help='begin no further run after so many CPU minutes')
    args = parser.parse_args()
    log = Path(args.output)/f'{args.stage}.jsonl'
    if args.stage == 'prepare': prepare('pystdlib', args.data, tokenizer=args.tokenizer)
    if args.stage == 'rates': run_all(rates(), log, args, max_batches=60)
    if args.stage == 'sweep': run_all(sweep(), log, args)
    if args.stage == 'fit': fit(args)
    if args.stage == 'predict': predict(args)
    if args.stage == 'test': run_all([test_run()], log, args)
    if args.stage == 'dial': run_all(dial_runs(), log, args)

if __name__ == '__main__': main()
