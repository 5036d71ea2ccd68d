"The console commands as a shell sees them: help at once, and one clear line for a mistake."
import os, subprocess, sys, time
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
import pytest
from nbdev.config import get_config
from nanogpt_lit.config import COMMANDS
from nanogpt_lit.config import flat_fields

SCRIPTS = dict(line.strip().split('=') for line in get_config().d.get('console_scripts').splitlines() if line.strip())
HEAVY = ['torch', 'datasets', 'numpy', 'matplotlib', 'transformers', 'tiktoken', 'pandas', 'IPython']
PAGES = [(name, *sub) for name in SCRIPTS for sub in ([()] + [(s,) for s in COMMANDS[name]] if isinstance(COMMANDS[name], dict) else [()])]

def command(words): return COMMANDS[words[0]][words[1]] if len(words) > 1 else COMMANDS[words[0]]

def run(*words, **kw):
    "Run an installed command: its exit code, output and error text"
    exe = Path(sys.executable).parent/words[0]
    r = subprocess.run([str(exe), *words[1:]], capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL,
                       env={**os.environ, 'PYTHONUTF8': '1'}, **kw)
    return r.returncode, r.stdout, r.stderr

def test_every_command_is_installed():
    installed = {e.name: e.value for e in entry_points(group='console_scripts') if e.value.startswith('nanogpt_lit')}
    assert installed == SCRIPTS and set(SCRIPTS) == set(COMMANDS)
    for target in SCRIPTS.values():
        mod, func = target.split(':')
        assert callable(getattr(import_module(mod), func))

@pytest.mark.parametrize('words', PAGES, ids=' '.join)
def test_help(words):
    for flag in ('--help', '-h'):
        code, out, err = run(*words, flag)
        assert (code, err) == (0, ''), err
        assert out.startswith(f'usage: {" ".join(words)}')
        cmd = command(words)
        if isinstance(cmd, dict): assert all(sub in out for sub in cmd)
        else:
            assert cmd.summary in out and 'examples:' in out
            missing = [k for k in flat_fields(cmd.config) if f'--{k} ' not in out]
            assert not missing, f'flags without a line: {missing}'

@pytest.mark.parametrize('words', PAGES, ids=' '.join)
def test_help_imports_nothing_heavy(words):
    mod, func = SCRIPTS[words[0]].split(':')
    code = (f'import sys\nfrom {mod} import {func} as main\ncode = main([*{words[1:]!r}, "--help"])\n'
            f'print(code or 0, [m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr)')
    r = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=60)
    assert r.stderr.strip() == '0 []', r.stderr

def test_help_is_quick():
    def seconds():
        start = time.perf_counter()
        run('nanogpt-train', '--help')
        return time.perf_counter() - start
    assert (best := min(seconds() for _ in range(5))) < 1, f'{best:.2f} s'

@pytest.mark.parametrize('words', [w for w in PAGES if not isinstance(command(w), dict)], ids=' '.join)
def test_unknown_flag_names_the_nearest(words, tmp_path):
    knob = max(flat_fields(command(words).config), key=len)
    code, out, err = run(*words, f'--{knob}x', '1', cwd=tmp_path)
    assert code == 1 and err.startswith('error: ') and err.count('\n') == 1, err
    assert f'--{knob}x' in err and f'did you mean --{knob}' in err
    assert not [*tmp_path.iterdir()], 'something was left behind'

@pytest.mark.parametrize('words, hint', [
    (['nanogpt-train', 'shakespear_char'], 'did you mean shakespeare_char'),
    (['nanogpt-train', '--n_layer', 'many'], 'expected a whole number'),
    (['nanogpt-train', '--n_embd', '130', '--n_head', '4'], 'not a multiple'),
    (['nanogpt-train', 'nowhere.toml'], 'does not exist'),
    (['nanogpt-tokenizer', 'trian'], 'expected train'),
    (['nanogpt-sample', '--temperature', '-1'], 'expected 0 or more'),
], ids=lambda o: ' '.join(o) if isinstance(o, list) else '')
def test_a_mistake_gets_one_line(words, hint, tmp_path):
    code, out, err = run(*words, cwd=tmp_path)
    assert code == 1 and err.count('\n') == 1 and err.startswith('error: ') and hint in err, err
    assert not [*tmp_path.iterdir()], 'something was left behind'
