"""Build the static site: notebooks → nbdev's processors → MyST notebooks → Sphinx → `_docs`.

    python scripts/build_docs.py [--out FOLDER] [Sphinx options, such as -W --keep-going]

The pages are the notebooks as they are stored; nothing is executed, so the outputs you see are those that were
committed. What is added: a line that says which file a page comes from, links from `names` in the prose to the room
that defines them, and under each exported cell a folded table of its parameters, read from the comments in its code.
"""
import argparse, ast, os, re, shutil, subprocess, sys, tomllib
from pathlib import Path
import nbformat, yaml
from execnb.nbio import read_nb
from nbdev.config import get_config
from nbdev.processors import (FilterDefaults, add_links, ai_magics, clean_magics, filter_stream_, hide_, hide_line,
                              populate_language, rm_header_dash, strip_ansi)

OPTION = re.compile(r'^#\|\s*([\w-]+)\s*:\s*(.*?)\s*$')
HEAD = re.compile(r'\A\s*#[ \t]+(?P<title>.+?)[ \t]*(?:\n+>[ \t]*(?P<sub>.+(?:\n>.*)*))?\s*(?:\n|\Z)')
FLAGS = {'slow': 'runs only with `--flags slow`', 'cuda': 'needs a GPU', 'network': 'needs the network'}

# --- pages and their order -----------------------------------------------------------------------------------------

def sections(cfg):
    "`[(title, [notebook paths])]` as docs/sidebar.toml says; every notebook but index is in exactly one section"
    table = tomllib.loads((cfg.config_path/'docs'/'sidebar.toml').read_text(encoding='utf-8'))['section']
    out = [(s['title'], [p for name in s['pages'] for p in sorted(cfg.nbs_path.glob(f'{name}.ipynb'))]) for s in table]
    placed, every = [p for _, ps in out for p in ps], notebooks(cfg.nbs_path)
    if lost := {*every} - {*placed, cfg.nbs_path/'index.ipynb'}: sys.exit(f'add to docs/sidebar.toml: {", ".join(p.stem for p in lost)}')
    return [(title, pages) for title, pages in out if pages]

def notebooks(folder):
    "Every notebook under `folder`, in reading order"
    return sorted(p for p in folder.rglob('*.ipynb') if not any(o[0] in '._' for o in p.relative_to(folder).parts))

def page_name(path, nbs): # 03_attention.ipynb → attention, tutorials/01_x.ipynb → tutorials/x
    rel = path.relative_to(nbs).with_suffix('')
    return rel.with_name(re.sub(r'^\d+[a-zA-Z0-9]*_', '', rel.name)).as_posix().lower()

def number(path): return m[0] if (m := re.match(r'\d+[a-z]?(?=_)', path.name)) else ''

def head(nb):
    "Title and subtitle of a notebook: from YAML front matter, or from a first cell of `# title` and `> subtitle`"
    first = nb.cells[0] if nb.cells else None
    if first and first.cell_type == 'raw' and (meta := yaml.safe_load(first.source.strip().strip('-'))): return meta['title'], meta.get('description', '')
    m = HEAD.match(first.source) if first else None
    if not m: sys.exit(f'{nb.path_}: the first cell must be a `# title` and a `> subtitle`')
    return m['title'], ' '.join(o.lstrip('> ') for o in (m['sub'] or '').splitlines())

# --- API tables ----------------------------------------------------------------------------------------------------

def api(src):
    "`(name, signature, docstring, rows)` of each public function, method and class that the cell `src` defines"
    comments = [line.partition(' # ')[2].strip() for line in src.splitlines()]
    def text(node): return ast.unparse(node) if node else ''
    for node in ast.parse(src).body:
        if not isinstance(node, (ast.FunctionDef, ast.ClassDef)) or node.name[0] == '_': continue
        doc, rows, sig, name = ast.get_docstring(node) or '', [], '', node.name
        if isinstance(node, ast.ClassDef):
            init = next((o for o in node.body if isinstance(o, ast.FunctionDef) and o.name == '__init__'), None)
            rows = [(o.target.id, text(o.annotation), text(o.value), comments[o.end_lineno - 1])
                    for o in node.body if isinstance(o, ast.AnnAssign)]
        else: init = node
        if init:
            a = init.args
            pos = [*a.posonlyargs, *a.args]
            pairs = [*zip(pos, [None]*(len(pos) - len(a.defaults)) + a.defaults), *zip(a.kwonlyargs, a.kw_defaults)]
            if patched(node) and pairs: name = f'{text(pairs[0][0].annotation)}.{name}'
            star = [(o, None) for o in (a.vararg, a.kwarg) if o]
            rows = [(o.arg, text(o.annotation), text(d), comments[o.end_lineno - 1] if o.end_lineno > init.lineno else '')
                    for o, d in pairs + star if o.arg not in ('self', 'cls') and not (patched(node) and o is pairs[0][0])]
            sig = f'({", ".join(r[0] for r in rows)})' + (f' → {text(init.returns)}' if init.returns else '')
        yield name, sig, doc, rows

def patched(node): return any('patch' in ast.unparse(o) for o in getattr(node, 'decorator_list', []))

def table(rows):
    "A Markdown table of parameters or fields; empty where no row has a type, a default or a comment"
    if not any(any(r[1:]) for r in rows): return ''
    def code(s): return f'`{s}`'.replace('|', r'\|') if s else ''
    lines = [('name', 'type', 'default', 'what it is'), ('---',)*4, *((code(n), code(t), code(d), plain(c).replace('|', r'\|')) for n, t, d, c in rows)]
    keep = [i for i in range(4) if any(r[i] for r in rows)] # a column that is empty throughout is left out
    return '\n'.join(f'| {" | ".join(o[i] for i in keep)} |' for o in lines)

def plain(s): # a comment or docstring is plain text but for its `code`: 4*n_embd is no emphasis
    return ''.join(o if i % 2 else re.sub(r'([*_<$\[\]{}~])', r'\\\1', o) for i, o in enumerate(re.split('(`[^`]*`)', s)))

def anchors(stem, items): return ''.join(f'({stem}-{n.lower()})=\n' for n, *_ in items)

def cards(stem, items):
    "Under an exported cell: each name with its parameters, folded"
    out = []
    for name, sig, doc, rows in items:
        line = f'<code>{name}</code><span class="api-sig">{esc(sig)}</span>'
        out.append(f'<details class="api"><summary>{line}</summary>\n\n{plain(doc)}\n\n{table(rows)}\n\n</details>')
    return '\n\n'.join(out)

def esc(s): return s.replace('&', '&amp;').replace('<', '&lt;').replace('>', '&gt;')

# --- notebooks -----------------------------------------------------------------------------------------------------

def mark(cell): # remember nbdev's directives, which NBProcessor strips from the source
    if cell.cell_type == 'code': cell.metadata['nbdev'] = list(cell.directives_)

def drop(cell): # cells that only steer nbdev
    if cell.cell_type == 'code' and {'hide', 'default_exp'} & {*cell.directives_}: del cell['source']

class Book(FilterDefaults):
    "nbdev's processors, but exported code stays on the page: this is a book about that code"
    def base_procs(self):
        return [populate_language, mark, strip_ansi, hide_line, filter_stream_, rm_header_dash, drop, ai_magics, clean_magics, hide_, add_links]

def links(md, cfg, path, pages):
    "Doclinks of this site → cross references; names of notebooks → names of pages"
    base = re.escape(f'{cfg.doc_host}{cfg.doc_baseurl}'.rstrip('/'))
    md = re.sub(base + r'/([\w/]+)\.html#([\w.]+)', lambda m: f'#{m[1]}-{m[2]}', md)
    def page(m):
        target = pages.get(Path(os.path.normpath(path.parent/m[1])))
        return f']({os.path.relpath(target, Path(pages[path]).parent)}.ipynb{m[2] or ""})' if target else m[0]
    return re.sub(r'\]\(([\w./-]+\.ipynb)(#[^)]*)?\)', page, md)

def first_heading(nb): # its anchor, as MyST makes it
    title = next(m[1] for c in nb.cells if c.cell_type == 'markdown' and (m := re.search(r'^## (.+)$', c.source, re.M)))
    return re.sub(r'[^\w -]', '', title.lower()).strip().replace(' ', '-')

def convert(path, cfg, pages, reference):
    "One notebook → one MyST-NB notebook; what it exports is added to `reference`"
    nb = read_nb(path)
    title, sub = head(nb)
    page = pages[path]
    module = next((m[1] for c in nb.cells if (m := re.search(r'^#\|\s*default_exp\s+(\S+)', c.source, re.M))), None)
    nb.cells[0].source = HEAD.sub('', nb.cells[0].source) if nb.cells[0].cell_type == 'markdown' else ''
    Book()(nb)
    depth = '../'*page.count('/')
    origin = f'{{download}}`{path.relative_to(cfg.config_path).as_posix()} <{depth}_nbs/{path.relative_to(cfg.nbs_path).as_posix()}>`'
    if module: origin += f' → `{cfg.lib_name}.{module}`'
    top = f'# {title}\n\n:::{{div}} subtitle\n{sub}\n:::\n'
    if path.name == 'index.ipynb': top += f'\n:::{{div}} ways\n[Start reading]({list(pages.values())[1]}.ipynb) [Run it](#{first_heading(nb)}) [Reference](reference.md)\n:::\n'
    else: top += f'\n:::{{div}} origin\n{origin}\n:::\n'
    cells = [nbformat.v4.new_markdown_cell(top)]
    for c in nb.cells:
        if c.cell_type == 'markdown':
            if c.source.strip(): cells.append(nbformat.v4.new_markdown_cell(links(c.source, cfg, path, pages)))
            continue
        if c.cell_type != 'code': continue
        opts, lines = {}, c.source.strip('\n').splitlines()
        while lines and (m := OPTION.match(lines[0])): opts[m[1]] = m[2]; lines.pop(0)
        if not lines or opts.get('include') == 'false': continue
        marks, src = {*c.metadata['nbdev']}, '\n'.join(lines)
        tags = [t for k, v, t in [('echo', 'false', 'remove-input'), ('output', 'false', 'remove-output'), ('code-fold', 'true', 'hide-input')] if opts.get(k) == v]
        items = [*api(src)] if marks & {'export', 'exports'} else []
        if marks & {'export', 'exports', 'exporti'}: tags.append('exported')
        if items:
            cells.append(nbformat.v4.new_markdown_cell(anchors(page, items)))
            reference.setdefault((number(path), title, page, module), []).extend(items)
        for k in FLAGS.keys() & marks: cells.append(nbformat.v4.new_markdown_cell(f':::{{div}} flag\n{FLAGS[k]}\n:::'))
        cells.append(nbformat.v4.new_code_cell(src, metadata={'tags': tags}, outputs=c.get('outputs', [])))
        if items: cells.append(nbformat.v4.new_markdown_cell(cards(page, items)))
    for i, c in enumerate(cells): c['id'] = f'c{i}'
    new = nbformat.v4.new_notebook(cells=cells, metadata={'kernelspec': {'name': 'python3', 'display_name': 'python3', 'language': 'python'}})
    return title, new

def reference_page(reference):
    "Every public name of the package on one page"
    out = ['# Reference\n\n:::{div} subtitle\nEvery public name, with its parameters, and where it is explained.\n:::\n']
    for (num, title, page, module), items in reference.items():
        out.append(f'## {num} {title}\n\n`nanogpt_lit.{module}`\n')
        for name, sig, doc, rows in items:
            out.append(f'### [`{name}`](#{page}-{name.lower()})\n\n{plain(doc)}\n\n{table(rows)}\n')
    return '\n'.join(out)

def main():
    cfg, ap = get_config(), argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument('--out', type=Path, default=cfg.doc_path, help='folder for the site; what it is made from goes to _proc beside it')
    args, options = ap.parse_known_args()
    root, out, cache = cfg.config_path, args.out.resolve(), args.out.resolve().parent/'_proc'
    work, html, index = cache/'src', cache/'html', cfg.nbs_path/'index.ipynb'
    shutil.rmtree(cache, ignore_errors=True)
    shutil.copytree(root/'docs', work)
    shutil.copytree(cfg.nbs_path, work/'_nbs', ignore=shutil.ignore_patterns('.*', '_*'))
    parts = sections(cfg)
    paths = [index, *(p for _, ps in parts for p in ps)]
    pages, reference = {p: page_name(p, cfg.nbs_path) for p in paths}, {}
    titles = {}
    for p in [*paths[1:], index]:
        titles[p], new = convert(p, cfg, pages, reference)
        if p == index:
            def entry(o): return f'{number(o)} {titles[o]} <{pages[o]}>'.strip()
            tocs = [(t, [entry(o) for o in ps]) for t, ps in parts] + [('Look up', ['Reference <reference>'])]
            toc = '\n\n'.join(f'```{{toctree}}\n:hidden:\n:caption: {t}\n\n' + '\n'.join(es) + '\n```' for t, es in tocs)
            new.cells.append(nbformat.v4.new_markdown_cell(toc, id='toctree'))
        dest = work/f'{pages[p]}.ipynb'
        dest.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(new, dest)
    for p in cfg.nbs_path.rglob('*.*'): # pictures beside notebooks
        if p.suffix in ('.png', '.svg', '.jpg', '.gif'):
            (work/p.relative_to(cfg.nbs_path)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(p, work/p.relative_to(cfg.nbs_path))
    (work/'reference.md').write_text(reference_page(reference), encoding='utf-8')
    # html is not `out` itself: myst-nb leaves a `jupyter_execute` folder beside its output
    cmd = [sys.executable, '-m', 'sphinx', '-b', 'html', '-q', *options, str(work), str(html)]
    rc = subprocess.run(cmd, cwd=root, env={**os.environ, 'PROJECT_ROOT': str(root)}).returncode
    if rc: sys.exit(rc)
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(html, out, ignore=shutil.ignore_patterns('.doctrees', '.buildinfo'))
    print(f'built {len(paths) + 1} pages: open {os.path.relpath(out/"index.html")}')

if __name__ == '__main__': main()
