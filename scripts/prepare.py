"""Make a changed page ready to be committed: export, run, clean, README, and the tests that concern it.

    python scripts/prepare.py 20_attention          # the pages whose path begins so
    python scripts/prepare.py                       # those that differ from the main branch
    python scripts/prepare.py 20_attention --no-run # don't execute it again: its outputs are right already

In this order: the modules are exported; the pages are executed, their outputs stored and cleaned; README.md is written;
then the rules of the book, the import rule, the annotations, and those test files that name the pages' modules are run. The first
failure ends it. What is left to do is to read `git diff`, and to commit the page with its module.
"""
import argparse, re, subprocess, sys
from pathlib import Path
from nbdev.config import get_config
from book_stats import code_cells, notebooks
from run_nbs import chosen

RULES = ['test_project.py', 'test_imports.py', 'test_annotations.py']

def differing(cfg, against='main'):
    "The notebooks that differ from a branch, or are new; all of them where git can't say"
    git = ['git', '-C', str(cfg.config_path)]
    base = subprocess.run([*git, 'merge-base', 'HEAD', against], capture_output=True, text=True)
    if base.returncode: return notebooks(cfg.nbs_path)
    names = subprocess.run([*git, 'diff', '--name-only', base.stdout.strip(), '--', str(cfg.nbs_path)], capture_output=True, text=True).stdout
    names += subprocess.run([*git, 'ls-files', '--others', '--exclude-standard', '--', str(cfg.nbs_path)], capture_output=True, text=True).stdout
    changed = {(cfg.config_path/o).resolve() for o in names.splitlines()}
    return [p for p in notebooks(cfg.nbs_path) if p.resolve() in changed]

def modules(path):
    "The modules that a page fills"
    marks = [m for m, *_ in code_cells(path)]
    return {m['default_exp'][0] for m in marks if 'default_exp' in m} | {m['export'][0] for m in marks if m.get('export')}

def tests_of(paths, folder):
    "The test files that import one of the modules that these pages fill (`config` is imported by nearly all, and says nothing)"
    mine = set().union(*map(modules, paths)) - {'config', '__main__'} if paths else set()
    uses = re.compile(rf'nanogpt_lit\.({"|".join(sorted(mine))})\b') if mine else None
    return [p.name for p in sorted(folder.glob('test_*.py')) if uses and uses.search(p.read_text(encoding='utf-8'))]

def do(*words):
    print('──', *words, flush=True)
    if code := subprocess.run(words).returncode: sys.exit(code)

def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument('names', nargs='*', help='beginnings of notebook paths; none: those that differ from main')
    ap.add_argument('--no-run', action='store_true', help='do not execute the pages')
    ap.add_argument('--no-tests', action='store_true', help='run no tests')
    args, cfg = ap.parse_args(), get_config()
    paths = chosen(cfg.nbs_path, args.names) if args.names else differing(cfg)
    if not paths: sys.exit('no page differs from main: name one')
    names = [p.relative_to(cfg.nbs_path).with_suffix('').as_posix() for p in paths]
    scripts, bin = cfg.config_path/'scripts', Path(sys.executable).parent
    do(str(bin/'nbdev_export'))
    if not args.no_run: do(sys.executable, str(scripts/'run_nbs.py'), *names)
    do(str(bin/'nbdev_clean'))
    do(sys.executable, str(scripts/'build_readme.py'))
    if args.no_tests: return
    tests = cfg.config_path/'tests'
    files = dict.fromkeys([*RULES, *tests_of(paths, tests)])
    do(sys.executable, '-m', 'pytest', '-q', '-x', *(str(tests/o) for o in files))

if __name__ == '__main__': main()
