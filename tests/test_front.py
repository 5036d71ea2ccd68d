"The front door: names from the package itself, methods where one looks for them, and nothing loaded before it is used."
import ast, importlib, inspect, subprocess, sys
import pytest
import nanogpt_lit
from nbdev.config import get_config, update_version

CFG = get_config()
INIT = CFG.lib_path/'__init__.py'

ALONE = """
import sys, tempfile, nanogpt_lit
assert not {'torch', 'numpy', 'nanogpt_lit.core'} & {*sys.modules}, 'import nanogpt_lit loads something'
assert {'GPT', 'generate', '__version__'} <= {*dir(nanogpt_lit)} and not hasattr(nanogpt_lit, 'nothing')

from nanogpt_lit.tokenizer import Tokenizer
tok = Tokenizer.train(['to be or not to be']*9, 260, progress=False)
with tempfile.TemporaryDirectory() as folder:
    tok.save(folder)
    assert Tokenizer.load(folder).encode('to be') == tok.encode('to be')
assert 'torch' not in sys.modules, 'a tokenizer needs no torch'

from nanogpt_lit.model import GPT, GPTConfig
assert 'nanogpt_lit.generate' not in sys.modules and 'nanogpt_lit.interop' not in sys.modules
model = GPT(GPTConfig(vocab_size=9, block_size=8, n_layer=1, n_head=1, n_embd=8)).eval()
ids = model.generate([[1, 2]], 3, temperature=0)
from nanogpt_lit import generate
assert generate(model, [[1, 2]], 3, temperature=0) == ids and len(ids[0]) == 5
try: GPT.from_pretrained('nowhere')
except nanogpt_lit.UserError as e: print(e)
"""

def test_each_part_alone(tmp_path):
    "In a process of its own, for this one has loaded everything"
    r = subprocess.run([sys.executable, '-c', ALONE], capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert r.returncode == 0 and 'nowhere' in r.stdout, r.stdout + r.stderr

@pytest.mark.parametrize('name', nanogpt_lit.FRONT)
def test_every_name_is_there(name):
    value, module = getattr(nanogpt_lit, name), importlib.import_module(f'nanogpt_lit.{nanogpt_lit.FRONT[name]}')
    assert value is getattr(module, name) or value is module and callable(value)
    assert name in module.__all__ or name in vars(module)

def test_type_checkers_see_the_same_names():
    block = next(o for o in ast.parse(INIT.read_text(encoding='utf-8')).body if isinstance(o, ast.If) and ast.unparse(o.test) == 'TYPE_CHECKING')
    seen = {a.asname: o.module for o in block.body for a in o.names}
    assert seen == nanogpt_lit.FRONT
    assert (CFG.lib_path/'py.typed').is_file()

def test_a_module_that_can_be_called_stays_a_module():
    import nanogpt_lit.generate as module
    from nanogpt_lit.generate import generate as function
    assert nanogpt_lit.generate is module and module.generate is function and module.steps
    assert inspect.signature(module) == inspect.signature(function)

def test_nbdev_touches_only_the_version(tmp_path):
    text = INIT.read_text(encoding='utf-8')
    (tmp_path/'__init__.py').write_text(text.replace(CFG.version, '9.9', 1), encoding='utf-8')
    update_version(tmp_path)
    assert (tmp_path/'__init__.py').read_text(encoding='utf-8') == text
