"The `speedrun` preset keeps the promises of all others: no look ahead, the cache changes nothing, a run that stopped goes on exactly."
import json, subprocess, sys
from pathlib import Path
import pytest, torch
from harness import run_argv
from nanogpt_lit.config import PRESETS, RunConfig
from nanogpt_lit.core import UserError
from nanogpt_lit.config import resolve
from nanogpt_lit.generate import generate
from nanogpt_lit.interop import to_hf
from nanogpt_lit.model import GPT
from nanogpt_lit.pretrain import pretrain

BENCH = Path(sys.executable).parent/'nanogpt-bench'
TEXT = ''.join(f'{i} times {i + 3} is {i*(i + 3)}, said the {"clerk" if i % 3 else "cook"}.\n' for i in range(900))

def config(*words): return resolve(RunConfig, ['speedrun', *words], presets=PRESETS)

@pytest.fixture
def model():
    "The preset's model, with no weight left at zero: a zeroed head or tap would hide every leak"
    torch.manual_seed(0)
    cfg, _ = config('--vocab_size', '65')
    model = GPT(cfg.model).eval()
    with torch.no_grad():
        for p in model.parameters(): p.add_(.1*torch.randn_like(p))
    return model

def test_a_future_token_never_changes_the_past(model):
    assert model.cfg.taps
    ids_BT = torch.randint(65, (2, 64))
    other_BT = ids_BT.clone()
    other_BT[:, 40:] = (other_BT[:, 40:] + 1) % 65
    with torch.no_grad(): a, b = (model(o)[0] for o in (ids_BT, other_BT))
    torch.testing.assert_close(a[:, :40], b[:, :40], rtol=0, atol=1e-5)
    assert (a[:, 40:] - b[:, 40:]).abs().max() > .1

def test_the_taps_are_used(model):
    "The test above would pass for taps that do nothing"
    ids_BT = torch.randint(65, (1, 8))
    with torch.no_grad():
        before = model(ids_BT)[0]
        for name, p in model.named_parameters():
            if 'taps' in name: p.zero_()
        assert (model(ids_BT)[0] - before).abs().max() > 1e-2

def test_cached_generation_is_the_same(model):
    ids_BT = torch.randint(65, (2, 5))
    a, b = (generate(model, ids_BT, 90, seed=3, use_cache=o) for o in (True, False))
    assert torch.equal(a, b)

def test_stopped_and_resumed_is_the_same_run(tmp_path):
    (tmp_path/'t.txt').write_text(TEXT)
    def train(folder, steps, *more):
        cfg, origin = config('--input', str(tmp_path/'t.txt'), '--out_dir', str(tmp_path/folder), '--max_steps', str(steps), '--lr_decay_steps', '8', '--num_threads', '1',
                             '--checkpoint_interval', '4', '--eval_interval', '8', '--eval_iters', '1', *more)
        return pretrain(cfg, origin, quiet=True).model.state_dict()
    whole = train('whole', 8)
    half = train('parts', 4)
    parts = train('parts', 8, '--auto_resume')
    assert all(torch.equal(whole[k], parts[k]) for k in whole)
    assert not all(torch.equal(whole[k], half[k]) for k in whole)

def bench(folder, *words):
    return run_argv([str(BENCH), *words], capture_output=True, text=True, timeout=120, cwd=folder, stdin=subprocess.DEVNULL)

def test_a_race_against_the_classic_recipe_and_its_log(tmp_path):
    (tmp_path/'t.txt').write_text(TEXT)
    words = ['--input', 't.txt', '--set', 'max_steps=3', '--peer_set', 'max_iters=3', '--seeds', '1', '--points', '0', '--output', 'log']
    r = bench(tmp_path, *words)
    assert r.returncode == 0 and 'classic took' in r.stdout, r.stderr[-2000:]
    head, ours, classic = map(json.loads, (tmp_path/'log').read_text().splitlines())
    assert head['seeds'] == [1] and (ours['job']['who'], classic['job']['who']) == ('ours', 'classic')
    assert ours['steps'] == classic['steps'] == 3 and ours['targets'] == classic['targets'] == len(TEXT) - int(.9*len(TEXT)) - 1
    assert 0 < ours['loss'] < 4.5 and 0 < ours['first_s'] <= ours['wall_s'] and classic['params'] > ours['params']
    before = (tmp_path/'log').read_bytes()
    (tmp_path/'log').write_bytes(before[:-20])          # killed while the last line was written: that run is done again, the other isn't
    assert bench(tmp_path, *words).returncode == 0
    _, again, other = map(json.loads, (tmp_path/'log').read_text().splitlines())
    assert again == ours and other['job'] == classic['job'] and abs(other['loss'] - classic['loss']) < 1e-6
    shown = bench(tmp_path, '--show', 'log', '--goal', '9')
    assert 'reached by 1 of 1' in shown.stdout and shown.returncode == 0, shown.stderr
    assert {p.name for p in tmp_path.iterdir()} == {'t.txt', 'log'}, 'something was left behind'

@pytest.mark.parametrize('words, hint', [
    ([], 'nothing to race on'),
    (['--input', 'none.txt'], 'does not exist'),
    (['--input', 't.txt', '--peer', '.'], 'expected the path of a nanoGPT checkout'),
    (['--peer', 'bare'], 'prepare it there first'),
    (['--input', 't.txt', '--set', 'n_layr=3'], 'did you mean --n_layer'),
    (['--input', 't.txt', '--output', 't.txt'], 'is not a log of nanogpt-bench'),
    (['--input', 't.txt', '--output', 'other'], 'a race on another text'),
    (['--input', 't.txt', '--ablate', '--ingredients', 'salt'], "unknown ingredient 'salt'"),
    (['--show', 't.txt'], 'is not a log of nanogpt-bench'),
    (['--profile', '--set', 'n_head=3'], 'not a multiple'),
    (['speedran', '--input', 't.txt'], 'did you mean speedrun')], ids=lambda o: ' '.join(o) if isinstance(o, list) else '')
def test_a_mistake_gets_one_line_and_changes_nothing(words, hint, tmp_path):
    (tmp_path/'t.txt').write_text(TEXT)
    (tmp_path/'bare').mkdir()
    for o in ('train.py', 'model.py'): (tmp_path/'bare'/o).touch()
    (tmp_path/'other').write_text(json.dumps(dict(log='nanogpt-bench', version=1, data='0', seeds=[1], machine={})) + '\n')
    before = {p: p.read_bytes() for p in tmp_path.rglob('*') if p.is_file()}
    r = bench(tmp_path, *words)
    assert r.returncode == 1 and r.stderr.startswith('error: ') and r.stderr.count('\n') == 1 and hint in r.stderr, r.stderr
    assert before == {p: p.read_bytes() for p in tmp_path.rglob('*') if p.is_file()}

def test_what_other_code_cannot_express_is_refused_with_every_reason(model, tmp_path):
    with pytest.raises(UserError) as e: to_hf(model, tmp_path/'hf')
    for reason in ('taps=2', 'grams=3', 'qk_norm_kind=layernorm', 'pos=none', 'norm=layernorm'): assert reason in str(e.value)
    assert not (tmp_path/'hf').exists()

def test_without_those_options_its_weights_give_the_same_logits_elsewhere(tmp_path):
    transformers = pytest.importorskip('transformers', reason='the extra hf is not installed')
    cfg, _ = config('--vocab_size', '65', '--pos', 'learned', '--no-qk_norm', '--qk_norm_kind', 'rmsnorm', '--no-norm_embed', '--taps', '0', '--grams', '0', '--logit_softcap', '0')
    torch.manual_seed(0)
    model, ids_BT = GPT(cfg.model).eval(), torch.randint(65, (2, 64))
    with torch.no_grad():
        for p in model.parameters(): p.add_(.1*torch.randn_like(p))
        other = transformers.AutoModelForCausalLM.from_pretrained(to_hf(model, tmp_path/'hf')).eval()
        torch.testing.assert_close(other(ids_BT).logits, model(ids_BT)[0], rtol=1e-4, atol=1e-4)
