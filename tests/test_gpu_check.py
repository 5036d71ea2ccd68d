"The script for the day with a GPU, on a CPU and very small, so that it still works on that day; and the page that draws what it finds."
import contextlib, io, json, sys
from types import SimpleNamespace
import matplotlib.pyplot as plt
import pytest
import torch
from harness import Popen

@pytest.fixture(scope='module')
def script(root):
    sys.path.insert(0, str(root/'bench'))
    import gpu_check
    return gpu_check

@pytest.fixture
def small(tmp_path): return SimpleNamespace(small=True, device='cpu', peer=None, out=tmp_path, only=None)

REAL = 'gpt2-step-compiled-50304'                                                      # compiled as it will be there; the others only seemingly
TWINS = {'gpt2-step-eager-50257', 'gpt2-step-compiled-50257', 'compile-mode-default-1'} # nearly the same as another, on a CPU
ALONE = {'one-process-strategies'}                                                     # changes the environment

def pytest_generate_tests(metafunc):
    if 'name' not in metafunc.fixturenames: return
    sys.path.insert(0, str(metafunc.config.rootpath/'bench'))
    from gpu_check import PARTS
    metafunc.parametrize('name', [o for o in PARTS if o not in TWINS])

def test_part(name, script, small, monkeypatch):
    real = torch.compile
    if name != REAL: monkeypatch.setattr(torch, 'compile', lambda model, mode: real(model, backend='eager'))
    if name not in ALONE: monkeypatch.setattr(script.subprocess, 'Popen', Popen)        # its trainings begin with their imports done
    o = script.start_part(name, small, 200) if name in ALONE else script.run_part(name, small)
    assert o['ok'] and o['found'], o
    assert json.loads((small.out/f'{name}.json').read_text())['ok']

def test_a_part_that_hangs_or_dies_is_written_down(script, small, monkeypatch):
    (small.out/'machine.json').write_text('{"part": "machine", "ok": true}')            # of an earlier day
    assert 'not over after' in script.start_part('machine', small, .2)['error'] and not (small.out/'machine.json').exists()
    def wrong(c): script.expect(1 == 2, 'one is not two', dict(one=1))
    def broken(c): return 1/0
    monkeypatch.setitem(script.PARTS, 'wrong', (wrong, 9))
    monkeypatch.setitem(script.PARTS, 'broken', (broken, 9))
    o = script.run_part('wrong', small)
    assert (o['ok'], o['error'], o['found']) == (False, 'one is not two', dict(one=1))
    assert script.run_part('broken', small)['error'].startswith('ZeroDivisionError')

def test_only_what_is_wrong_fails_and_the_time_is_kept(script, small, monkeypatch):
    "A part that had less than its time, or that may take any time, says nothing if it isn't over; what is left is written down as not run"
    monkeypatch.setattr(script, 'PARTS', dict(machine=(None, .2), masks=(None, 60), **{'compile-mode-max-autotune-1': (None, .2)}))
    excused = {name: script.start_part(name, small, .2)['ok'] for name in script.PARTS}
    assert excused == {'machine': False, 'masks': None, 'compile-mode-max-autotune-1': None}
    ran = []
    def start(name, args, limit_s, cache):
        ran.append(name)
        return dict(part=name, ok=None, seconds=1.)
    monkeypatch.setattr(script, 'start_part', start)
    assert script.run_all(small) is False and ran[0] == 'machine' and ran[-1] == 'compile-mode-max-autotune-1'
    monkeypatch.setattr(script, 'TOTAL_S', 5)
    ran.clear()
    assert script.run_all(small) is False and not ran
    assert json.loads((small.out/'masks.json').read_text())['error'] == 'not run: the time is over'
    assert [o['ok'] for o in json.loads((small.out/'summary.json').read_text())] == [None]*3

def test_the_goals_are_measured_before_anything_else(script):
    order = script.in_order(script.PARTS)
    assert {*order[:5]} >= {'gpt2-step-compiled-50304', 'peer-train', 'decoding'} and {*order[-3:]} == script.LONG
    assert sorted(order) == sorted(script.PARTS) and script.TOTAL_S <= 540 and all(0 < limit <= 100 for _, limit in script.PARTS.values())

PEER = """
import sys, pathlib, numpy as np
settings = dict(o[2:].split('=') for o in sys.argv[1:])
assert settings['log_interval'] == '1' and settings['gradient_accumulation_steps'] == '1', settings
ids = np.fromfile(pathlib.Path('data')/settings['dataset']/'train.bin', dtype=np.uint16)
assert ids.max() < 128
for i in range(int(settings['max_iters']) + 1): print(f'iter {i}: loss 4.8, time {900. if i < 2 else 5.:.2f}ms, mfu -100.00%')
"""

def test_a_peer_is_timed_without_its_first_iterations(script, small, tmp_path):
    small.peer = tmp_path/'theirs'
    small.peer.mkdir()
    (small.peer/'train.py').write_text(PEER)
    o = script.run_part('peer-train', small)
    assert o['ok'] and o['found'] == dict(ms_per_step=5., tokens_per_s=2*32/5.*1000), o

# --- the page -------------------------------------------------------------------------------------------------------

def read_page(root, folder, log):
    "What the page prints, and how many pictures it draws, where this log is"
    (folder/'nbs').mkdir(parents=True)
    (folder/'bench').mkdir()
    (folder/'bench'/'gpu_check.py').write_text((root/'bench'/'gpu_check.py').read_text())
    if log: (folder/'runs'/'logs'/'gpu').mkdir(parents=True)
    for name, o in log.items(): (folder/'runs'/'logs'/'gpu'/f'{name}.json').write_text(json.dumps(o))
    cells = json.loads((root/'nbs'/'84_gpu.ipynb').read_text())['cells']
    plt.close('all')
    names, said = {}, io.StringIO()
    with contextlib.chdir(folder/'nbs'), contextlib.redirect_stdout(said):
        for c in cells:
            text = ''.join(c['source'])
            if c['cell_type'] != 'code' or text.startswith('#| hide'): continue
            exec(compile(text, c['id'], 'exec'), names)
    drawn = [ax.get_title() for n in plt.get_fignums() for ax in plt.figure(n).axes]
    plt.close('all')
    return said.getvalue().splitlines(), drawn

def made_up(script):
    "A log with figures that nobody has measured"
    log = {name: dict(part=name, ok=True, found=dict(steps=1)) for name in script.PARTS}
    log['summary'] = []
    for name, speed in {'eager-50304': 2e5, 'eager-50257': 1.9e5, 'compiled-50304': 5e5, 'compiled-50257': 4e5}.items():
        log[f'gpt2-step-{name}']['found'] = dict(tokens_per_s=speed, mfu=speed/1e6, loss=10.8)
    log['gpt2-step-compiled-50304-whole-head']['found'] = dict(out_of_memory=True)
    log['peer-train']['found'] = dict(tokens_per_s=4e5)
    log['decoding']['found'] = {'batch 1': 900., 'nanoGPT, batch 1': 80., 'batch 10': 5000., 'nanoGPT, batch 10': 800.}
    log['compile-mode-max-autotune-2'] = dict(part='compile-mode-max-autotune-2', ok=None, error='not run: the time is over')
    return log

def test_without_a_log_the_page_says_so_and_nothing_else(root, tmp_path):
    said, drawn = read_page(root, tmp_path/'page', {})
    assert [o for o in said if o and ' s  ' not in o] == ['not yet measured'] and not drawn

def test_the_page_draws_a_log_and_judges_it(root, script, tmp_path):
    log = made_up(script)
    said, drawn = read_page(root, tmp_path/'page', log)
    assert len(drawn) == 2 and 'not yet measured' not in said
    assert sum(o.endswith(' ok') for o in said) == len(script.PARTS) - 1 and any('not run: the time is over' in o for o in said)
    verdicts = [o.rpartition(': ')[2] for o in said if 'at least' in o]
    assert verdicts == ['0.50, reached', '1.25, MISSED', '11.25, reached', '6.25, MISSED']
    log['masks'] = dict(part='masks', ok=False, error='a mask is wrong')
    with pytest.raises(AssertionError, match='a mask is wrong'): read_page(root, tmp_path/'wrong', log)
    log['masks']['ok'], log['gpt2-step-eager-50304']['found']['loss'] = True, 10.
    with pytest.raises(AssertionError, match='the same steps by other ways'): read_page(root, tmp_path/'unlike', log)
    del log['masks']
    log['gpt2-step-eager-50304']['found']['loss'] = 10.8
    with pytest.raises(AssertionError, match='masks'): read_page(root, tmp_path/'incomplete', log)
