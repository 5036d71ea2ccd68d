"The script for the day with a GPU, on a CPU and very small, so that it still works on that day."
import json, sys
from types import SimpleNamespace
import pytest

@pytest.fixture(scope='module')
def script(root):
    sys.path.insert(0, str(root/'bench'))
    import gpu_check
    return gpu_check

TWINS = {'gpt2-step-eager-50257', 'gpt2-step-compiled-50257', 'compile-mode-default-1'} # nearly the same as another, on a CPU
ALONE = {'one-process-strategies'}                                                     # changes the environment

def pytest_generate_tests(metafunc):
    if 'name' not in metafunc.fixturenames: return
    sys.path.insert(0, str(metafunc.config.rootpath/'bench'))
    from gpu_check import PARTS
    metafunc.parametrize('name', [o for o in PARTS if o not in TWINS])

def test_part(name, script, tmp_path):
    c = SimpleNamespace(small=True, device='cpu', peer=None, out=tmp_path)
    o = script.start_part(name, c, 200) if name in ALONE else script.run_part(name, c)
    assert o['ok'] and o['found'], o
    assert json.loads((tmp_path/f'{name}.json').read_text())['ok']

def test_a_part_that_hangs_or_dies_is_written_down(script, tmp_path, monkeypatch):
    c = SimpleNamespace(small=True, device='cpu', peer=None, out=tmp_path)
    assert 'not over after' in script.start_part('machine', c, .2)['error']
    def wrong(c): script.expect(1 == 2, 'one is not two')
    def broken(c): return 1/0
    monkeypatch.setitem(script.PARTS, 'wrong', (wrong, 9))
    monkeypatch.setitem(script.PARTS, 'broken', (broken, 9))
    assert script.run_part('wrong', c)['error'] == 'one is not two'
    assert script.run_part('broken', c)['error'].startswith('ZeroDivisionError')
