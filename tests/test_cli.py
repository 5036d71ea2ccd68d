"""The console commands as a shell sees them: help at once, and one clear line for a mistake.

What all of them say and accept is kept in tests/commands.txt; a change that is meant: `python tests/test_cli.py` writes it anew, and
the commit shows the difference.
"""
import io, json, subprocess, sys, time
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
import pytest
import harness
from nbdev.config import get_config
from nanogpt_lit.config import COMMANDS, FINETUNE_PRESETS, GROUPS, IMPLIED, NO_EFFECT, PRESETS, SWITCHES, WORDS
from nanogpt_lit.config import flat_fields, help_text

SCRIPTS = dict(line.strip().split('=') for line in get_config().d.get('console_scripts').splitlines() if line.strip())
HEAVY = ['torch', 'datasets', 'numpy', 'matplotlib', 'transformers', 'tiktoken', 'pandas', 'IPython']
PAGES = [(name, *sub) for name in COMMANDS for sub in ([()] + [(s,) for s in COMMANDS[name]] if isinstance(COMMANDS[name], dict) else [()])]

def command(words): return COMMANDS[words[0]][words[1]] if len(words) > 1 else COMMANDS[words[0]]

def function_of(words):
    "What the installed script calls"
    module, function = SCRIPTS[words[0]].split(':')
    return getattr(import_module(module), function)

def run(*words, cwd=None, fresh=True):
    "Run an installed command: its exit code, output and error text. Its start is the subject here, unless a test says otherwise"
    r = harness.run(*words, cwd=cwd, env=harness.ENV, fresh=fresh)
    return r.returncode, r.stdout, r.stderr

def test_every_command_is_installed():
    installed = {e.name: e.value for e in entry_points(group='console_scripts') if e.value.startswith('nanogpt_lit')}
    assert installed == SCRIPTS and set(SCRIPTS) == {*COMMANDS, 'nanogpt'}, "pip install -e '.[dev]' --no-deps"
    for target in SCRIPTS.values():
        mod, func = target.split(':')
        assert callable(getattr(import_module(mod), func))

# Runs the script that is installed, and says at the end what heavy modules that has loaded
SCRIPT = f'''
import atexit, runpy, sys
atexit.register(lambda: print([o for o in {HEAVY!r} if o in sys.modules], file=sys.stderr))
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name='__main__')
'''

@pytest.mark.parametrize('words', PAGES, ids=' '.join)
def test_help_is_whole_and_imports_nothing_heavy(words):
    "As a shell sees it, in a Python that starts afresh; `-h` says the same"
    r = subprocess.run([sys.executable, '-c', SCRIPT, str(harness.BIN/words[0]), *words[1:], '--help'], capture_output=True, text=True, timeout=60, env=harness.ENV)
    assert (r.returncode, r.stderr) == (0, '[]\n'), r.stderr
    assert r.stdout.startswith(f'usage: {" ".join(words)}')
    cmd = command(words)
    if isinstance(cmd, dict): assert all(sub in r.stdout for sub in cmd)
    else:
        assert cmd.summary in r.stdout and 'examples:' in r.stdout
        missing = [k for k in flat_fields(cmd.config) if f'--{k} ' not in r.stdout]
        assert not missing, f'flags without a line: {missing}'
    code, out, err = harness.heard(function_of(words), *words[1:], '-h')
    assert (code or 0, out, err) == (0, r.stdout, '')

SNAPSHOT = Path(__file__).with_name('commands.txt')

def snapshot():
    "What every command says on --help, the defaults that it doesn't show there, and the tables of other programs' words"
    out = []
    for words in PAGES:
        cmd = command(words)
        if isinstance(cmd, dict): continue
        unshown = {k.name: k.default for k in flat_fields(cmd.config).values() if k.default in (None, '', [])}
        out += [f'==== {cmd.name}', help_text(cmd), f'not shown: {json.dumps(unshown)}', '']
    tables = dict(PRESETS=PRESETS, FINETUNE_PRESETS=FINETUNE_PRESETS, IMPLIED=IMPLIED, NO_EFFECT=NO_EFFECT, SWITCHES=dict.fromkeys(sorted(SWITCHES)), WORDS=WORDS)
    for name, rows in tables.items(): out += [f'==== {name}', *(f'{k}: {json.dumps(v)}' for k, v in rows.items()), '']
    return '\n'.join(out)

def test_commands_say_and_accept_what_they_did():
    assert snapshot().splitlines() == SNAPSHOT.read_text(encoding='utf-8').splitlines(), 'if that is meant: python tests/test_cli.py'

MODULE = [sys.executable, '-c', f'import sys\nfrom nanogpt_lit.config import nanogpt\ncode = nanogpt()\nassert not {{*{HEAVY!r}}} & {{*sys.modules}}\nsys.exit(code)']

def one_door(*words):
    "`nanogpt …`, which must not load anything heavy: exit code, output and error text"
    r = subprocess.run([*MODULE, *words], capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
    return r.returncode, r.stdout, r.stderr

def test_one_door():
    "`nanogpt train` is `nanogpt-train`; the menu has every command once, under the heading of its group"
    code, menu, err = one_door('--help')
    assert (code, err) == (0, '') and menu == one_door()[1]
    lines = menu.splitlines()
    for heading, names in GROUPS.items():
        at = lines.index(f'{heading}:')
        assert [o.split()[0] for o in lines[at + 1:at + 1 + len(names.split())]] == names.split()
    assert sorted(f'nanogpt-{o}' for names in GROUPS.values() for o in names.split()) == sorted(COMMANDS)
    for words in (['train'], ['nanogpt-train'], ['tokenizer', 'train'], ['launch', '--nproc', '2', 'sample']):
        name = 'nanogpt-sample' if 'sample' in words else 'nanogpt-' + ' '.join(words).removeprefix('nanogpt-')
        code, page, err = one_door(*words, '--help')
        assert (code, err) == (0, '') and page.startswith(f'usage: {name} '), page
    assert one_door('--debug', 'plot', '--width', 'x')[2].endswith('UserError: unknown flag --width: see --help for all\n')

@pytest.mark.parametrize('words, said', [
    (['smaple'], "'smaple' is no command: nanogpt lists all of them (did you mean sample?)"),
    (['--hlep'], "'--hlep' is no command: nanogpt lists all of them"),
    (['tokenizer', 'trian'], "unknown sub-command 'trian': expected train, add, encode, decode, inspect, compare (did you mean train?) (see nanogpt-tokenizer --help)"),
], ids=lambda o: ' '.join(o) if isinstance(o, list) else '')
def test_the_door_names_the_nearest(words, said): assert one_door(*words) == (1, '', f'error: {said}\n')

def test_help_is_quick():
    def seconds():
        start = time.perf_counter()
        run('nanogpt-train', '--help')
        return time.perf_counter() - start
    assert (best := min(seconds() for _ in range(5))) < 1, f'{best:.2f} s'

@pytest.mark.parametrize('words', [w for w in PAGES if not isinstance(command(w), dict)], ids=' '.join)
def test_unknown_flag_names_the_nearest(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    knob = max(flat_fields(command(words).config), key=len)
    code, out, err = harness.heard(function_of(words), *words[1:], f'--{knob}x', '1')
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
    code, out, err = run(*words, cwd=tmp_path, fresh=False)
    assert code == 1 and err.count('\n') == 1 and err.startswith('error: ') and hint in err, err
    assert not [*tmp_path.iterdir()], 'something was left behind'

if __name__ == '__main__': SNAPSHOT.write_text(snapshot(), encoding='utf-8')

def test_having_imported_jupyter_makes_no_notebook(monkeypatch):
    "Bars are for terminals and kernels, not for a program that happens to import the kernel's package"
    from nanogpt_lit.core import in_kernel, progress
    monkeypatch.setitem(sys.modules, 'ipykernel', object())
    monkeypatch.setattr(sys, 'stderr', io.StringIO())
    assert not in_kernel() and progress(range(3)).disable
