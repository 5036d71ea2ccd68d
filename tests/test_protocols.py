"The three protocols that a training run rests on are declared in one place: what is asked of a strategy, of a callback, and of a setting."
import ast, os, subprocess, sys
import pytest
from nbdev.config import get_config

MODULES = {p.stem: ast.parse(p.read_text(encoding='utf-8')) for p in sorted(get_config().lib_path.glob('*.py')) if p.name[0] != '_'}
# still to be moved, by other pages
REMAINING = set()

def is_strategy(node):
    "`strategy`, `t.strategy`, `self.strategy`"
    return getattr(node, 'id', None) == 'strategy' or getattr(node, 'attr', None) == 'strategy'

def test_what_is_asked_of_a_strategy_is_declared():
    from nanogpt_lit.trainer import Strategy
    asked = {(o.attr, name) for name, tree in MODULES.items() for o in ast.walk(tree) if isinstance(o, ast.Attribute) and is_strategy(o.value)}
    one = Strategy('cpu', 'float32')
    assert len(asked) > 20 and {k for k, _ in asked if not hasattr(Strategy, k) and k not in vars(one)} == set()
    assert all(f.__doc__ for k, f in vars(Strategy).items() if callable(f) and k != '__init__')

def test_one_process_answers_for_all():
    from nanogpt_lit.trainer import Strategy
    s = Strategy('cpu', 'float32')
    assert (s.rank, s.world_size, s.is_main, s.gather(3), s.mean(3), s.sum(3), s.same(3), s.any(False), s.reason(None)) == (0, 1, True, [3], 3, 3, 3, False, None)
    assert s.spread([1, 2], lambda model, o: model*o, 10) == [10, 20] and [*s.share('ab')] == [('a', True), ('b', True)]
    s.check_same({}), s.check_agree('', '', ''), s.check_batch(1, 1), s.begin(0)
    with s.in_turn(), s.joined('model') as model: assert model == 'model'

def imported(tree):
    return {a.asname or a.name for o in ast.walk(tree) if isinstance(o, ast.ImportFrom) and o.level for a in o.names}

def extended(tree):
    "`Class.name` for each method that is patched onto an imported class, and each attribute that is set on one"
    theirs = imported(tree)
    for o in ast.walk(tree):
        if isinstance(o, ast.FunctionDef) and any('patch' in ast.unparse(d).split('(')[0] for d in o.decorator_list) and o.args.args:
            owner = ast.unparse(o.args.args[0].annotation or ast.Constant(''))
            if owner in theirs: yield f'{owner}.{o.name}'
        if isinstance(o, (ast.Assign, ast.AugAssign)):
            for target in o.targets if isinstance(o, ast.Assign) else [o.target]:
                if isinstance(target, ast.Attribute) and getattr(target.value, 'id', '') in theirs: yield ast.unparse(target)

def test_no_module_extends_a_class_of_another():
    found = {f'{name}: {o}' for name, tree in MODULES.items() for o in extended(tree)}
    assert found <= REMAINING
    assert [*extended(ast.parse('from .a import B\n@patch\ndef f(self: B): pass\nB.g = 1'))] == ['B.f', 'B.g']     # a violation would be seen

ASK = '''
import torch
from types import SimpleNamespace
from nanogpt_lit.config import OptimConfig, TrainConfig
from nanogpt_lit.trainer import Trainer
plan = SimpleNamespace(batch_size=1, block_size=1, n_windows=1)
model = torch.nn.Linear(1, 1)
def callbacks(**asked): return [type(o).__name__ for o in Trainer(model, plan, [], OptimConfig(), TrainConfig(device='cpu', **asked)).callbacks]
print(*(callbacks(**o) for o in ({}, {'patience': 2}, {'overfit_batch': True}, {'track': 'tensorboard'}, {'stop_on_overfit': 1}, {'max_cpu': 50},
                                 {'max_memory': 1}, {'max_memory': 1, 'monitoring': False})))
'''

def test_what_is_asked_for_in_python_is_there_whatever_has_been_imported():
    done = subprocess.run([sys.executable, '-c', ASK], capture_output=True, text=True, env=os.environ)
    assert done.stdout.split() == ['[]', "['EarlyStop']", "['OverfitBatch']", "['TensorBoard']", "['OverfitWatch']", "['CpuLimit']", "['MemoryLimit']", '[]'], done.stderr

def test_what_is_given_by_hand_takes_the_place_of_what_a_setting_asks_for():
    import torch
    from types import SimpleNamespace
    from nanogpt_lit.config import OptimConfig, TrainConfig
    from nanogpt_lit.limits import MemoryLimit
    from nanogpt_lit.trainer import Trainer
    mine, plan = MemoryLimit(90), SimpleNamespace(batch_size=1, block_size=1, n_windows=1)
    t = Trainer(torch.nn.Linear(1, 1), plan, [], OptimConfig(), TrainConfig(device='cpu', max_memory=50), [mine])
    assert t.callbacks == [mine]
