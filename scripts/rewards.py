"""Learning from rewards: three seeds of every curve that page 94 plots.

    python scripts/rewards.py            # → runs/logs/rewards/sums.jsonl, some minutes of one core; an interrupted one goes on
    python scripts/rewards.py --doctests # → runs/logs/rewards/doctests.jsonl, likewise

The base is runs/book, the loops are `imitate` and `learn` of page 94. The first line of a log holds the settings, every other line a run: its arm,
its seed, the shares of held-out questions that are answered right before and after (the likeliest answer, and drawn at temperature 1), and its
curves, a number per rollout.
"""
import argparse, json, os, time
from copy import deepcopy
from pathlib import Path
import torch
from nanogpt_lit.interop import load_run
from nanogpt_lit.rewards import Chatty, Found, Right, Sums, imitate, learn, pass_rate, rollouts

SEEDS = 1, 2, 3
BEGIN = dict(steps=200, rows=64, learning_rate=1e-3)                       # of the supervised tuning before everything else
ARMS = {                                                                   # task, loop, settings
    'rewards': (Sums, learn, dict(steps=100, learning_rate=1e-4)),
    'the same teacher': (Sums, imitate, dict(steps=100, rows=128, learning_rate=3e-4)),
    'a teacher who is right': (Right, imitate, dict(steps=100, rows=128, learning_rate=3e-4)),
    'a loose reward': (Found, learn, dict(steps=80, learning_rate=1e-4)),
    'half a point for each digit': (Chatty, learn, dict(steps=40, learning_rate=3e-4)),
    'clip 0.2 and 0.2': (Sums, learn, dict(steps=30, learning_rate=2e-4, epochs=4, clip_high=.2)),
    'clip 0.2 and 0.5': (Sums, learn, dict(steps=30, learning_rate=2e-4, epochs=4, clip_high=.5)),
    'a high rate': (Sums, learn, dict(steps=30, learning_rate=8e-4, epochs=4, clip_high=.2)),
}
FROM_ONE = {'half a point for each digit'}                                    # all seeds begin with the first one's model
EVERY = 20                                                                 # rollouts between two looks at the held-out questions

def rows_of(log): return [json.loads(line) for line in log.read_text(encoding='utf-8').splitlines()] if log.exists() else []

def both_rates(model, tok, task):
    "The shares that are answered right: likeliest answers, and drawn ones"
    return dict(likeliest=pass_rate(model, tok, task), drawn=pass_rate(model, tok, task, temperature=1.))

def one_run(start, tok, arm, seed):
    "A line of the log"
    kind, loop, how = ARMS[arm]
    task, judge, model, began = kind(), Sums(), deepcopy(start), time.process_time()
    curves, seen = {}, [(0, pass_rate(model, tok, judge))]
    before = both_rates(model, tok, judge)
    for record in loop(model, tok, task, seed=seed, **how):
        for name, value in record.items(): curves.setdefault(name, []).append(round(value, 4))
        done = record.pop('step') + 1
        if done % EVERY == 0: seen.append((done, pass_rate(model, tok, judge)))
    del curves['step']
    tokens = sum(curves.pop('tokens'))
    return dict(arm=arm, seed=seed, before=before, after=both_rates(model, tok, judge), tokens=tokens, seen=seen, curves=curves,
                cpu_s=round(time.process_time() - began, 1))

def begun(base, tok, seed):
    "The base after its short supervised tuning"
    model = deepcopy(base)
    for _ in imitate(model, tok, Sums(), seed=seed, **BEGIN): pass
    return model

def sums(out, seeds):
    "Every arm and seed that the log doesn't have yet"
    run = load_run('runs/book', 'cpu')
    task = Sums()
    first = dict(begin=BEGIN, arms={arm: how for arm, (_, _, how) in ARMS.items()}, train=len(task.train), held_out=len(task.held_out))
    earlier = rows_of(out)
    if earlier[:1] != [first]: earlier = [first]                           # other settings: begin again
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(''.join(json.dumps(row) + '\n' for row in earlier), encoding='utf-8')
    done, starts = {(row['arm'], row['seed']) for row in earlier[1:]}, {}
    for arm in ARMS:
        for seed in seeds:
            if (arm, seed) in done: continue
            first_seed = SEEDS[0] if arm in FROM_ONE else seed
            if first_seed not in starts: starts[first_seed] = begun(run.model, run.tokenizer, first_seed)
            row = one_run(starts[first_seed], run.tokenizer, arm, seed)
            with open(out, 'a', encoding='utf-8') as f: f.write(json.dumps(row) + '\n')
            print({k: row[k] for k in ('arm', 'seed', 'before', 'after', 'tokens', 'cpu_s')}, flush=True)

DOCTESTS = {                                                               # loop, settings; both see about as many tokens of answers
    'rewards': (learn, dict(steps=100, prompts_per_step=8, group_size=8, learning_rate=1e-4)),
    'references': (imitate, dict(steps=60, rows=128, learning_rate=3e-4)),
}
DRAWS = 4                                                                  # answers to each problem that is looked at

def looked_at(model, tok, task, questions):
    "Shares of the answers drawn to these: passed, and at least a program"
    prompts = [task.ids(question, tok) for question in questions]
    texts = rollouts(model, tok, prompts, DRAWS, task.max_new_tokens, task.stop, seeds=99).texts
    asked = [question for question in questions for _ in range(DRAWS)]
    verdicts = [task.verdict(*pair) for pair in zip(asked, texts)]
    n = len(verdicts)
    return dict(passed=round(sum(v is not None and v.said == 'passed' for v in verdicts)/n, 4), parsed=round(sum(v is not None and v.parsed for v in verdicts)/n, 4))

def doctests(out, seeds):
    "Three seeds on functions that lack the end of a line"
    from nanogpt_lit.rl import Doctests
    run, task = load_run('runs/book', 'cpu'), Doctests()
    kept_back = task.train[::5]                                            # the base has read these files, but nothing is learned from these problems here
    task.train = [problem for problem in task.train if problem not in kept_back]
    asked = dict(learned=task.train[::2], kept_back=kept_back, held_out=task.held_out)
    first = dict(arms={arm: how for arm, (_, how) in DOCTESTS.items()}, draws=DRAWS, learned_from=len(task.train), asked={k: len(v) for k, v in asked.items()},
                 before={k: looked_at(run.model, run.tokenizer, task, v) for k, v in asked.items()})
    print(first, flush=True)
    earlier = rows_of(out)
    if earlier[:1] != [first]: earlier = [first]
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(''.join(json.dumps(row) + '\n' for row in earlier), encoding='utf-8')
    for arm, (loop, how) in DOCTESTS.items():
        for seed in seeds:
            if any((row['arm'], row['seed']) == (arm, seed) for row in earlier[1:]): continue
            model, curves, began = deepcopy(run.model), {}, time.process_time()
            for record in loop(model, run.tokenizer, task, seed=seed, **how):
                for name, value in record.items(): curves.setdefault(name, []).append(round(value, 4))
            del curves['step']
            row = dict(arm=arm, seed=seed, tokens=sum(curves.pop('tokens')), after={k: looked_at(model, run.tokenizer, task, v) for k, v in asked.items()}, curves=curves,
                       cpu_s=round(time.process_time() - began, 1))
            with open(out, 'a', encoding='utf-8') as f: f.write(json.dumps(row) + '\n')
            print({k: row[k] for k in ('arm', 'seed', 'tokens', 'after', 'cpu_s')}, flush=True)

def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--doctests', action='store_true')
    parser.add_argument('--seeds', type=int, nargs='+', default=SEEDS)
    args = parser.parse_args()
    os.chdir(Path(__file__).resolve().parent.parent)
    torch.set_num_threads(1)
    logs = Path('runs/logs/rewards')
    if args.doctests: doctests(logs/'doctests.jsonl', args.seeds)
    else: sums(logs/'sums.jsonl', args.seeds)

if __name__ == '__main__': main()
