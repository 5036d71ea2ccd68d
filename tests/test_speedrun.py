"The `speedrun` preset keeps the promises of all others: no look ahead, the cache changes nothing, a run that stopped goes on exactly."
import json, subprocess, sys
from pathlib import Path
import pytest, torch
from nanogpt_lit.config import PRESETS, RunConfig
from nanogpt_lit.core import resolve
from nanogpt_lit.generate import generate
from nanogpt_lit.model import GPT
from nanogpt_lit.pretrain import pretrain

BENCH = Path(__file__).parent.parent/'scripts'/'bench_speedrun.py'
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

def test_benchmark_runs(tmp_path):
    (tmp_path/'t.txt').write_text(TEXT)
    r = subprocess.run([sys.executable, str(BENCH), '--input', str(tmp_path/'t.txt'), '--only', '--seeds', '1', '--steps', '3', '--output', str(tmp_path/'log')],
                       capture_output=True, text=True, timeout=120)
    assert r.returncode == 0, r.stderr[-2000:]
    row = json.loads((tmp_path/'log').read_text())
    assert row['steps'] == 3 and 0 < row['loss'] < 4.5 and row['cpu_s'] > 0
