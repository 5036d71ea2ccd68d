"""Every public function says what it takes and what it returns.

`tests/unannotated.txt` holds the modules that don't yet, with how many parameters and returns are missing. The numbers may only fall;
`python tests/test_annotations.py` writes the present ones.
"""
import ast
from pathlib import Path
import pytest
from nbdev.config import get_config

CFG = get_config()
MODULES = sorted(p for p in CFG.lib_path.glob('*.py') if p.stem not in ('__init__', '_modidx'))
LIST = Path(__file__).with_name('unannotated.txt')

def functions(body, where=''):
    "`(name, function)` for the public functions of a module, and the methods of its public classes (and `__init__`, `__call__`)"
    for o in body:
        if isinstance(o, ast.ClassDef) and not o.name.startswith('_'): yield from functions(o.body, f'{o.name}.')
        if isinstance(o, (ast.FunctionDef, ast.AsyncFunctionDef)) and (not o.name.startswith('_') or o.name in ('__init__', '__call__')): yield where + o.name, o

def missing(src):
    "What has no annotation in a module's source: `function(parameter)` and `function -> ?`"
    out = []
    for name, f in functions(ast.parse(src).body):
        patched = any('patch' in ast.unparse(d) for d in f.decorator_list)
        args = [*f.args.posonlyargs, *f.args.args]
        if '.' in name and not any(ast.unparse(d) == 'staticmethod' for d in f.decorator_list): args = args[1:]   # self or cls
        args += [*f.args.kwonlyargs, *filter(None, [f.args.vararg, f.args.kwarg])]
        out += [f'{name}({a.arg})' for a in args if a.annotation is None]
        if f.returns is None and not name.endswith('__init__'): out.append(f'{name} -> ?')
        assert not patched or f.args.args[0].annotation is not None, f'{name}: patch needs the class'
    return out

def allowed(): return {name: int(count) for name, count in (line.split() for line in LIST.read_text(encoding='utf-8').splitlines())}

@pytest.mark.parametrize('path', MODULES, ids=lambda p: p.stem)
def test_public_functions_are_annotated(path):
    found = missing(path.read_text(encoding='utf-8'))
    assert len(found) <= allowed().get(path.stem, 0), f'{path.stem}: {len(found)} annotations are missing:\n' + '\n'.join(found)

def test_what_is_missing():
    src = ('def f(a, b: int, *c, d=1, **e): pass\ndef _g(a): pass\nclass A:\n    def __init__(self, x): pass\n    def h(self, y: int) -> None: pass\n    def _i(self, z): pass\n'
           '@patch\ndef k(self: A, x: int) -> int: pass\nclass _B:\n    def f(self, x): pass')
    assert missing(src) == ['f(a)', 'f(d)', 'f(c)', 'f(e)', 'f -> ?', 'A.__init__(x)']

def test_the_type_checker_agrees(request):
    "With what mypy.ini names; what it has found out about unchanged files is kept in pytest's own cache"
    checker = pytest.importorskip('mypy.api', reason="mypy isn't installed (the extra dev has it)")
    cache = getattr(request.config, 'cache', None)
    kept = str(cache.mkdir('mypy')) if cache else '/dev/null'
    said, errors, code = checker.run(['--config-file', str(CFG.config_path/'mypy.ini'), '--cache-dir', kept, '--no-error-summary'])
    assert code == 0, said + errors

if __name__ == '__main__':
    counts = {p.stem: len(missing(p.read_text(encoding='utf-8'))) for p in MODULES}
    LIST.write_text(''.join(f'{name} {count}\n' for name, count in counts.items() if count), encoding='utf-8')
