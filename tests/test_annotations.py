"""Every public function says what it takes and what it returns, and a type checker finds that it does.

`tests/unannotated.txt` holds the modules that don't yet, with how many parameters and returns are missing. The numbers may only fall;
`python tests/test_annotations.py` writes the present ones. `mypy.ini` says what the checker looks for.
"""
import ast, re
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

def patches(tree):
    "`(function, name of its class)` of the functions that `@patch` puts into one class of the same module"
    classes = {o.name for o in tree.body if isinstance(o, ast.ClassDef)}
    for f in tree.body:
        if not isinstance(f, (ast.FunctionDef, ast.AsyncFunctionDef)) or not any(ast.unparse(d).startswith('patch') for d in f.decorator_list): continue
        owner = ast.unparse(f.args.args[0].annotation)
        if owner in classes: yield f, owner

def as_method(f, lines):
    "The lines of a patched function as its class would have them, each with its number"
    for d in f.decorator_list:
        words = ast.unparse(d)
        if 'as_prop' in words: yield '    @property', d.lineno
        if 'cls_method' in words: yield '    @classmethod', d.lineno
        if not words.startswith('patch'): yield from (('    ' + lines[n - 1], n) for n in range(d.lineno, d.end_lineno + 1))
    for n in range(f.lineno, f.end_lineno + 1):
        line, me = lines[n - 1].encode(), f.args.args[0]
        if n == me.lineno: line = line[:me.col_offset + len(me.arg)] + line[me.annotation.end_col_offset:]   # self needs none
        yield '    ' + line.decode(), n

def unpatched(src):
    "`(source, number of each line before)`: every patched function stands at the end of its class, where Python finds it too"
    tree, lines = ast.parse(src), src.splitlines()
    ends, inside, gone = {o.name: o.end_lineno for o in tree.body if isinstance(o, ast.ClassDef)}, {}, set()
    for f, owner in patches(tree):
        inside.setdefault(ends[owner], []).extend(as_method(f, lines))
        gone |= {*range(f.decorator_list[0].lineno, f.end_lineno + 1)}
    out = []
    for n, line in enumerate(lines, 1):
        out += [('' if n in gone else line, n), *inside.get(n, [])]
    return '\n'.join(line for line, _ in out) + '\n', [n for _, n in out]

def type_errors(sources, folder):
    "What mypy says about modules `{name: source}`, with the lines that they have there; `folder` keeps what it knows from last time"
    checker = pytest.importorskip('mypy.api', reason="mypy isn't installed (the extra dev has it)")
    package, numbers = folder/'nanogpt_lit', {}
    package.mkdir(parents=True, exist_ok=True)
    for old in package.glob('*.py'):
        if old.stem not in sources: old.unlink()
    for name, src in sources.items():
        text, numbers[name] = unpatched(src)
        (package/f'{name}.py').write_text(text, encoding='utf-8')
    said, errors, code = checker.run(['--config-file', str(CFG.config_path/'mypy.ini'), '--cache-dir', str(folder/'cache'), '--no-error-summary', str(package)])
    if code and not said: raise RuntimeError(errors)
    found = re.findall(r'(?m)^.*?(\w+)\.py:(\d+): error: (.*)$', said)
    return [f'{name}.py:{numbers[name][int(n) - 1]}: {words}' for name, n, words in found]

SOURCES = {p.stem: p.read_text(encoding='utf-8') for p in [CFG.lib_path/'__init__.py', *MODULES]}

def test_the_type_checker_agrees(request, tmp_path):
    "With every module, in the mode that mypy.ini explains. A few seconds the first time; then only what has changed is read"
    kept = getattr(request.config, 'cache', None)
    found = type_errors(SOURCES, Path(kept.mkdir('types')) if kept else tmp_path)
    assert not found, '\n'.join(found)

def test_the_type_checker_reads_all_of_it(tmp_path):
    "A class grown by patching, its attributes, and the line where each mistake stands"
    src = ('from fastcore.basics import patch\nclass A:\n    def __init__(self): self.n = 1\n\n@patch\ndef twice(self: A, k: int) -> int:\n    return self.n*k\n\n'
           '@patch(as_prop=True)\ndef size(self: A) -> int: return self.m\n\n@patch(cls_method=True)\ndef make(cls: A) -> A: return cls()\n\nA.make().twice(2) + A().size\nA().thrice()\nA().twice("2")\n')
    assert type_errors({'__init__': '', 'a': src}, tmp_path) == [
        'a.py:10: "A" has no attribute "m"  [attr-defined]', 'a.py:16: "A" has no attribute "thrice"  [attr-defined]',
        'a.py:17: Argument 1 to "twice" of "A" has incompatible type "str"; expected "int"  [arg-type]']

NOT_YET = '\n# --- what is not passed yet, by module: `python tests/test_annotations.py` writes it\n'

ALWAYS = {'name-defined', 'used-before-def', 'syntax'}   # no module may have these

def not_yet(errors):
    "The sections of mypy.ini for these errors"
    codes = {}
    for e in errors:
        if (code := re.search(r'\[([a-z-]+)\]$', e)[1]) not in ALWAYS: codes.setdefault(e.partition('.py:')[0], set()).add(code)
    return ''.join(f'[mypy-nanogpt_lit.{name}]\ndisable_error_code = {", ".join(sorted(found))}\n' for name, found in sorted(codes.items()))

if __name__ == '__main__':
    import tempfile
    counts = {p.stem: len(missing(p.read_text(encoding='utf-8'))) for p in MODULES}
    LIST.write_text(''.join(f'{name} {count}\n' for name, count in counts.items() if count), encoding='utf-8')
    ini = CFG.config_path/'mypy.ini'
    mode = ini.read_text(encoding='utf-8').partition(NOT_YET)[0]
    ini.write_text(mode, encoding='utf-8')
    with tempfile.TemporaryDirectory() as tmp: ini.write_text(mode + NOT_YET + not_yet(type_errors(SOURCES, Path(tmp))), encoding='utf-8')
