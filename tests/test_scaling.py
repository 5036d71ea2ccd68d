"A fitted law and a dial: what they promise, and what they must not accept."
import json, math, random, re
from pathlib import Path
import numpy as np
import pytest
from harness import spoken
from nanogpt_lit.config import PRESETS, PlanConfig, RunConfig, build, flat_values, nanogpt_plan, nanogpt_train, read_config, resolve, flat_fields
from nanogpt_lit.core import UserError
from nanogpt_lit.scaling import Law, dial, fit_law, growth, isoflop, working_size

TRUTH = Law(E=1.5, A=150, alpha=.38, B=400, beta=.42)
BUDGETS, SIZES = (3e11, 9e11, 2.7e12, 8.1e12), (4e4, 9e4, 1.8e5, 2.6e5, 6e5)

def runs(noise=.003):
    "Twenty runs of a law that is known"
    rng = np.random.default_rng(0)
    rows = [dict(budget=C, size=N, tokens=C/6/N) for C in BUDGETS for N in SIZES]
    return [row | dict(loss=TRUTH.loss(row['size'], row['tokens'])*math.exp(noise*rng.standard_normal())) for row in rows]

def fitted(rows, **kw): return fit_law(*([row[key] for row in rows] for key in ('size', 'tokens', 'loss')), **kw)

# --- the fit -----------------------------------------------------------------------------------------------------------

def test_without_noise_the_law_comes_back():
    law = fitted(runs(0))
    for name in ('E', 'alpha', 'beta', 'A', 'B'): assert getattr(law, name) == pytest.approx(getattr(TRUTH, name), rel=.02), name
    assert law.scatter < 1e-3

def test_with_noise_it_lies_within_its_interval_and_another_does_not():
    law = fitted(runs(), resamples=40)
    for name in ('E', 'alpha', 'beta', 'growth'):
        got = law.interval(lambda o: getattr(o, name), .98)
        assert got.low <= getattr(TRUTH, name) <= got.high, (name, str(got))
    wrong = Law(1.5, 150, .30, 400, .55).growth
    got = law.interval(lambda o: o.growth, .98)
    assert not got.low <= wrong <= got.high and got.high - got.low < .15

def test_a_prediction_holds_what_comes_and_nothing_else():
    law, N, D = fitted(runs(), resamples=40), 1.2e6, 4.6e6
    expected = law.predict(N, D)
    assert expected.low < TRUTH.loss(N, D) < expected.high and expected.high - expected.low < .2
    assert not expected.low < 1.03*TRUTH.loss(N, D) < expected.high

def test_a_law_in_which_the_larger_lack_decides_needs_its_own_form():
    truth = Law(E=.5, A=30, alpha=.2, B=40, beta=.18, mix=.3)
    rows = [row | dict(loss=truth.loss(row['size'], row['tokens'])) for row in runs(0)]
    joint, plain = fitted(rows, joint=True), fitted(rows)
    assert joint.scatter < 1e-3 < plain.scatter and plain.mix == 1
    assert joint.loss(1.2e6, 4.6e6) == pytest.approx(truth.loss(1.2e6, 4.6e6), rel=.005)
    assert joint.best_size(1e13) == pytest.approx(truth.best_size(1e13), rel=.05)

def test_one_run_that_went_wrong_is_not_followed():
    rows = runs(0)
    rows[7]['loss'] *= 1.3
    assert fitted(rows).loss(1.2e6, 4.6e6) == pytest.approx(TRUTH.loss(1.2e6, 4.6e6), rel=.01)

def test_the_best_size_is_best():
    for C in (1e11, 1e13, 1e20):
        best = TRUTH.best_size(C)
        losses = [TRUTH.loss(N, C/(6*N)) for N in (best/1.1, best, best*1.1)]
        assert losses[1] == min(losses)
    mixed = Law(E=1, A=30, alpha=.2, B=40, beta=.3, mix=.3)
    losses = [mixed.loss(N, 1e13/(6*N)) for N in np.array([1/1.05, 1, 1.05])*mixed.best_size(1e13)]
    assert losses[1] == min(losses)
    assert TRUTH.best_size(1e13)/TRUTH.best_size(1e12) == pytest.approx(10**TRUTH.growth)

def test_valleys_find_the_lowest_points():
    rows = [dict(budget=C, size=N, loss=3 + .2*math.log(N/(2*C**.5))**2) for C in (1e10, 1e12) for N in (1e5, 4e5, 2e6)]
    assert [v.size for v in isoflop(rows)] == pytest.approx([2e5, 2e6])
    assert growth(isoflop(rows)) == pytest.approx((.5, 2))

# --- the dial ----------------------------------------------------------------------------------------------------------

def test_the_dial_turns_one_way():
    rows = [dial(depth) for depth in range(1, 65)]
    for name, up in dict(n_layer=True, n_embd=True, batch_size=True, muon_lr=False, learning_rate=False).items():
        values = [row[name] for row in rows]
        assert values == sorted(values, reverse=not up), name
        assert len({*values}) > 55, name
    tokens = [row['max_steps']*row['batch_size'] for row in rows]
    assert tokens == sorted(tokens)

@pytest.mark.parametrize('depth', [1, 2, 4, 7, 12])
def test_its_sizes_and_lengths_are_those_of_the_law(depth):
    row = dial(depth)
    cfg = build(RunConfig, row | dict(vocab_size=2048))
    size = working_size(cfg.model)
    assert row['max_steps']*row['batch_size']*128 == pytest.approx(dial(1)['max_steps']*dial(1)['batch_size']*128*(size/working_size(build(RunConfig, dial(1) | dict(vocab_size=2048)).model)), rel=.05)
    assert {k: v for k, v in flat_values(cfg).items() if k in row} == row

def test_it_is_a_layer_below_all_others(tmp_path):
    toml = tmp_path/'mine.toml'
    toml.write_text('[optim]\nmuon_lr = 0.5\n[train]\nbatch_size = 3\n')
    cfg, origin = resolve(RunConfig, [str(toml), '--depth', '3', '--batch_size', '5', '--max_steps=7'], PRESETS)
    assert (cfg.model.n_layer, cfg.optim.muon_lr, cfg.train.batch_size, cfg.train.max_steps) == (3, .5, 5, 7)
    assert (origin['n_layer'], origin['muon_lr'], origin['batch_size']) == ('depth 3', str(toml), 'flag')
    toml.write_text('depth = 2\n')
    assert resolve(RunConfig, [str(toml)], PRESETS)[0].model.n_embd == 64
    assert resolve(PlanConfig, ['--depth', '2'], PRESETS)[0].model.n_embd == 64
    assert resolve(RunConfig, ['--depth', '2'], PRESETS, checkpoint=dict(n_layer=9))[0].model.n_layer == 9

@pytest.mark.parametrize('words', ['0', '-1', '3.5', '1000', 'deep', 'nan'])
@pytest.mark.parametrize('command', [nanogpt_train, nanogpt_plan])
def test_what_is_no_depth_is_one_sentence(command, words):
    code, said = spoken(command, '--depth', words)
    assert code == 1 and len(said.splitlines()) == 1 and 'expected a whole number, at least 1 and at most 64' in said

@pytest.mark.parametrize('preset', ['quickstart', 'tiny', 'gpt2', 'cs336-small', 'minigpt-small', 'build-nanogpt', 'speedrun'])
def test_beside_a_preset_it_is_refused(preset):
    with pytest.raises(UserError, match=f'the preset {preset} and --depth 4 contradict each other .*: leave one of them out'):
        resolve(RunConfig, [preset, '--depth', '4'], PRESETS)

# --- a run -------------------------------------------------------------------------------------------------------------

@pytest.fixture
def text(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    draw = random.Random(0)
    Path('my.txt').write_text('\n'.join(' '.join(draw.choices('the cat sat on a red mat'.split(), k=8)) for _ in range(1500)), encoding='utf-8')

QUICK = '--input my.txt --tokenizer char --block_size 16 --device cpu --num_threads 1 --eval_interval 0 --eval_tokens 64 --workers 1'.split()

def test_a_run_has_what_the_dial_says_and_keeps_it(text):
    code, said = spoken(nanogpt_train, '--depth', '1', '--max_steps', '3', *QUICK)
    assert code == 0, said
    first = next(line for line in said.splitlines() if line.startswith('depth 1: '))
    for part in ('n_layer=1', 'n_embd=32', f'muon_lr={dial(1)["muon_lr"]}', f'batch_size={dial(1)["batch_size"]}'): assert part in first
    saved = read_config('runs/depth1/config.toml', flat_fields(RunConfig))
    typed = dict(max_steps=3, tokenizer='char', block_size=16, eval_interval=0)
    assert {k: saved[k] for k in dial(1)} == dial(1) | typed
    code, said = spoken(nanogpt_train, '--depth', '1', '--max_steps', '4', '--auto_resume', *QUICK)
    assert code == 0 and read_config('runs/depth1/config.toml', flat_fields(RunConfig))['n_embd'] == 32, said
    code, said = spoken(nanogpt_train, '--depth', '2', '--out_dir', 'runs/depth1', '--auto_resume', *QUICK)
    assert code == 1 and 'with --depth 1, and a run keeps its size' in said

def test_a_short_text_ends_the_run_and_that_is_said(text):
    code, said = spoken(nanogpt_train, '--depth', '1', '--epoch_limit', '0.02', *QUICK)
    assert code == 0, said
    limit, asked = (int(o.replace(',', '')) for o in re.search(r'^length: ([\d,]+) steps, 0.02 passes over this text, where ([\d,]+) were set', said, re.M).groups())
    assert limit < 10 and asked == dial(1)['max_steps'] and re.search(rf'^run: {limit} steps', said, re.M)

# --- the logs ----------------------------------------------------------------------------------------------------------

def test_the_logs_are_those_of_the_script_and_what_was_foretold_was_run(monkeypatch):
    root = Path(__file__).parents[1]
    monkeypatch.syspath_prepend(str(root/'scripts'))
    import scaling as script
    logs = {name: script.rows_of(root/'runs'/'logs'/'scaling'/f'{name}.jsonl') for name in ('rates', 'sweep', 'test', 'dial')}
    stages = dict(rates=script.rates(), sweep=script.sweep(), test=[script.test_run()], dial=script.dial_runs())
    for name, settings in stages.items():
        assert [[row[k] for k in script.KEYS] for row in logs[name]] == [[s[k] for k in script.KEYS] for s in settings] or name == 'rates', name
        assert {tuple(row[k] for k in script.KEYS) for row in logs[name]} == {tuple(s[k] for k in script.KEYS) for s in settings}, name
    foretold = json.loads((root/'runs'/'logs'/'scaling'/'prediction.json').read_text(encoding='utf-8'))
    row = logs['test'][0]
    assert {k: row[k] for k in foretold['setting']} == foretold['setting'] and row['operations'] == foretold['operations']
