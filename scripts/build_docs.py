"""Build the static site: notebooks → nbdev's processors → MyST notebooks → Sphinx → `_docs`.

    python scripts/build_docs.py [--out FOLDER] [Sphinx options, such as -W --keep-going]

The pages are the notebooks as they are stored; nothing is executed, so the outputs you see are those that were
committed. What is added: a line that says what a page needs, what it gives and which file it comes from, links from
`names` in the prose to the page that defines them, a folded table of parameters under each exported cell, the pages of
the reference and of the commands, and an index for the search. Imports and code that only plots are folded.
"""
import argparse, ast, gc, json, os, re, shutil, sys, textwrap, tomllib
from collections import Counter
from contextlib import chdir
from pathlib import Path
import yaml
from execnb.nbio import read_nb
from nbdev.config import get_config
from nbdev.processors import (FilterDefaults, ai_magics, clean_magics, filter_stream_, hide_, hide_line,
                              populate_language, rm_header_dash, strip_ansi)
from sphinx.cmd.build import main as sphinx
import command_page, reference_pages, search_index
from api_tables import api, cards, names, parsed
from book_stats import code_cells, notebooks, only_imports, python_of, root, words
from figures import drawn, kinds, still

HEAD = re.compile(r'\A\s*#[ \t]+(?P<title>.+?)[ \t]*(?:\n+>[ \t]*(?P<sub>.+(?:\n>.*)*))?\s*(?:\n|\Z)')
OPTION = re.compile(r'^#\|\s*([\w-]+)\s*:\s*(.*?)\s*$')
TAGS = {('echo', 'false'): 'remove-input', ('output', 'false'): 'remove-output', ('code-fold', 'true'): 'hide-input'}
FLAGS = {'slow': 'runs only with `--flags slow`', 'cuda': 'needs a GPU', 'network': 'needs the network'}
EXPORT = {'export', 'exports', 'exporti'}

def markdown(source): return dict(cell_type='markdown', metadata={}, source=source)

def code_cell(source, metadata, outputs): return dict(cell_type='code', metadata=metadata, source=source, outputs=outputs, execution_count=None)

# --- pages and their order -----------------------------------------------------------------------------------------

def sections(cfg):
    "`[(title, [notebook paths])]` as docs/sidebar.toml says; every notebook but the home page must be in one of them"
    listed = tomllib.loads((cfg.config_path/'docs'/'sidebar.toml').read_text(encoding='utf-8'))['section']
    out = [(s['title'], [p for name in s['pages'] for p in sorted(cfg.nbs_path.glob(f'{name}.ipynb'))]) for s in listed]
    lost = {*notebooks(cfg.nbs_path)} - {p for _, paths in out for p in paths} - {cfg.nbs_path/'index.ipynb'}
    if lost: sys.exit(f'add to docs/sidebar.toml: {", ".join(p.stem for p in lost)}')
    return [(title, paths) for title, paths in out if paths]

ELSEWHERE = {'commands': 'command_tables'} # commands.html is the page of all commands and flags

def page_name(path, nbs):
    "20_attention.ipynb → attention, tutorials/01_x.ipynb → tutorials/x: the names that nbdev's links use, but for those `ELSEWHERE`"
    rel = path.relative_to(nbs).with_suffix('')
    name = rel.with_name(re.sub(r'^\d+[a-zA-Z0-9]*_', '', rel.name)).as_posix().lower()
    return ELSEWHERE.get(name, name)

def number(path): return m[0] if (m := re.match(r'\d+[a-z]?(?=_)', path.name)) else ''

def head(nb):
    "Title and subtitle of a notebook: from YAML front matter, or from a first cell of `# title` and `> subtitle`"
    first = nb.cells[0] if nb.cells else None
    if first and first.cell_type == 'raw' and (meta := yaml.safe_load(first.source.strip().strip('-'))): return meta['title'], meta.get('description', '')
    m = HEAD.match(first.source) if first else None
    if not m: sys.exit(f'{nb.path_}: the first cell must be a `# title` and a `> subtitle`')
    return m['title'], ' '.join(o.lstrip('> ') for o in (m['sub'] or '').splitlines())

# --- notebooks -----------------------------------------------------------------------------------------------------

def mark(cell): # remember nbdev's directives, which NBProcessor strips from the source
    if cell.cell_type == 'code': cell.metadata['nbdev'] = list(cell.directives_)

def commands_of(home):
    "The commands of each page, from the third column of the map on the home page: {'81_pretrain': ['`nanogpt train`']}"
    text = '\n'.join(c.source for c in home.cells if c.cell_type == 'markdown')
    rows = re.findall(r'^\| \[[^\]]+\]\((\S+?)\.ipynb\)[^|]*\|[^|]*\|(.*)\|$', text, re.M)
    return {page: found for page, column in rows if (found := re.findall(r'`[^`]+`', column))}

def minutes(path, nb):
    "How long a page takes to read: two hundred words a minute, forty lines of code"
    said = sum(words(c.source) for c in nb.cells if c.cell_type == 'markdown')
    lines = sum(src.count('\n') + 1 for marks, src, _, _ in code_cells(path) if src and not {'hide', 'solution', 'check'} & marks.keys())
    return max(1, round(said/200 + lines/40))

PLOTTING = re.compile(r'ax|axes|axs|fig|plt|ax_\w+|\w+_ax|plot_\w+|new_ax')

def plots(statement):
    "Does a statement only draw?"
    if isinstance(statement, (ast.For, ast.With)): return all(map(plots, statement.body))
    if isinstance(statement, ast.Assign): return bool(PLOTTING.fullmatch(root(statement.value) or ''))
    return isinstance(statement, ast.Expr) and bool(PLOTTING.fullmatch(root(statement.value) or ''))

def folded(src, outputs):
    "What stands on the fold of a cell that a reader can do without: `Imports`, or code of four lines or more that draws the picture below and does little else; None for any other cell"
    tree = parsed(python_of(src).strip())
    if tree.body and only_imports(tree): return 'Imports'
    picture = any(kind.startswith('image/') for o in outputs for kind in o.get('data', {}))
    lines = [(plots(o), o.end_lineno - o.lineno + 1) for o in tree.body]
    drawing, total = sum(n for draws, n in lines if draws), sum(n for _, n in lines)
    if picture and total >= 4 and drawing >= total*2/3: return 'The code of this plot'

def joined(cells, more):
    "Cells and `more` cells; imports that follow imports come under the same fold"
    def imports(c): return c['cell_type'] == 'code' and c['metadata']['mystnb'].get('code_prompt_show') == 'Imports' and not c['outputs']
    if not (cells and len(more) == 1 and imports(cells[-1]) and imports(more[0])): return cells + more
    last, tags = cells[-1], more[0]['metadata']['tags']
    last['source'] += f"\n\n{more[0]['source']}"
    last['metadata']['tags'] = [tag for tag in last['metadata']['tags'] if tag in tags] # the edge of what is exported is for cells that are exported as a whole
    return cells

def drop(cell): # cells that only steer nbdev
    if cell.cell_type == 'code' and {'hide', 'default_exp'} & {*cell.directives_}: del cell['source']

def cards_of(md):
    "The home page's ways in, as cards; looking up leads to the reference, which README.md doesn't have"
    return f':::{{div}} ways\n{md.replace("[Look up](command_tables.ipynb)", "[Look up](reference.md)")}\n:::'

def unfold(md):
    "Blank lines around what a `<details>` block holds: without them, Markdown takes it for HTML and shows its backticks"
    def spread(m):
        first, _, rest = m[3].partition('\n')
        body = textwrap.indent(f'{first.strip()}\n{textwrap.dedent(rest)}'.strip('\n'), m[1])
        return f'\n{m[1]}<details><summary>{m[2]}</summary>\n\n{body}\n\n{m[1]}</details>'
    return re.sub(r'^([ \t]*)<details>\s*<summary>(.*?)</summary>(.*?)</details>', spread, md, flags=re.S | re.M)

class Book(FilterDefaults):
    "nbdev's processors, but exported code stays on the page: this is a book about that code"
    def base_procs(self):
        return [populate_language, mark, strip_ansi, hide_line, filter_stream_, rm_header_dash, drop, ai_magics, clean_magics, hide_]

# --- names in prose --------------------------------------------------------------------------------------------------

NAME = re.compile(r'(?P<leave>\[[^\]\n]*\]\([^)\n]*\)|<code>.*?</code>|^#.*$)|(?<!`)`(?P<name>[A-Za-z_][\w.]*)(?P<call>\(\))?`(?!`)', re.M)
FENCE = re.compile(r'(^[ \t]*```.*?^[ \t]*```)', re.M | re.S)

def unmistakable(name):
    "Is this one of our names wherever it stands? `measure` or `plain` may be just a word"
    return bool(re.search(r'[A-Z_.]', name))

class Names:
    "Which names a page makes or imports, and which page defines them"
    def __init__(self, paths):
        self.homes, self.modules, self.imported, self.bound = {}, {}, {}, {} # name → pages; page → its modules, its imports, names of its own
        for path in paths: self.read(path)

    def read(self, path):
        module, imported, bound = '', {}, set()
        for marks, src, tree, _ in code_cells(path):
            if 'default_exp' in marks: module = marks['default_exp'][0]
            nodes = [*ast.walk(tree)] if 'nanogpt_lit' in src or not EXPORT & marks.keys() else []
            for o in nodes:
                if isinstance(o, ast.ImportFrom) and (o.module or '').startswith('nanogpt_lit'): imported |= {a.asname or a.name: o.module.rpartition('.')[2] for a in o.names}
            if not EXPORT & marks.keys(): bound |= made(tree, nodes); continue
            for o in api(src):
                if path not in self.homes.setdefault(o.name, []): self.homes[o.name].append(path)
            self.modules.setdefault(path, set()).add((marks.get('export') or [module])[0] or module)
        self.imported[path], self.bound[path] = imported, bound

    def home(self, name, path, call=False):
        "The page that a `name` in the prose of the page `path` leads to: its own definition first, then what it imports; no page if it may be just a word"
        first = name.partition('.')[0]
        homes = self.homes.get(name) or self.homes.get(first, [])
        if path in homes or not homes: return path if homes else None
        if module := self.imported[path].get(first): return next((p for p in homes if module in self.modules[p]), homes[0])
        if first in self.bound[path] or not (call or unmistakable(name)): return None
        return homes[0] if len(homes) == 1 else None

def made(tree, nodes):
    "The names that the statements of a cell make, but for imports"
    return {o.name for o in tree.body if isinstance(o, (ast.FunctionDef, ast.ClassDef))} | {o.id for o in nodes if isinstance(o, ast.Name) and isinstance(o.ctx, ast.Store)}

class Site:
    "The pages to build and what they may link to"
    def __init__(self, cfg):
        self.cfg, self.parts, self.reference, self.placed = cfg, sections(cfg), reference_pages.Reference(cfg.lib_path, cfg.nbs_path), set()
        self.paths = [cfg.nbs_path/'index.ipynb', *(p for _, paths in self.parts for p in paths)]
        self.pages = {p: page_name(p, cfg.nbs_path) for p in self.paths}
        self.notebooks, self.titles, self.subtitles = {p: read_nb(p) for p in self.paths}, {}, {}
        for p in self.paths: self.titles[p], self.subtitles[p] = head(self.notebooks[p])
        self.names, self.commands = Names(self.paths), commands_of(self.notebooks[self.paths[0]])
        self.targets = {self.target(p, name) for name, homes in self.names.homes.items() for p in homes}

    def target(self, path, name): return f'{self.pages[path]}-{name.lower()}'

    def links(self, md, path):
        "Our `names` → cross references; links to notebooks → links to pages. `<code>word</code>` is never a reference"
        def name(m):
            home = m['name'] and self.names.home(m['name'], path, bool(m['call']))
            if not home: return m[0]
            target = self.target(home, m['name'])
            while target not in self.targets and '.' in target: target = target.rpartition('.')[0]
            return f'[{m[0]}](#{target})' if target in self.targets else m[0]
        def page(m):
            to = self.pages.get(Path(os.path.normpath(path.parent/m[1])))
            return f']({os.path.relpath(to, Path(self.pages[path]).parent)}.ipynb{m[2] or ""})' if to else m[0]
        md = ''.join(o if i % 2 else NAME.sub(name, o) for i, o in enumerate(FENCE.split(md)))
        return re.sub(r'\]\(([\w./-]+\.ipynb)(#[^)]*)?\)', page, md)

    def needs(self, path):
        "The earlier pages of the main line whose names a page imports: the four that it takes most from, in reading order"
        main, taken = [p for p in self.paths if self.on_main_line(p)], Counter()
        for name in self.names.imported[path]:
            home = self.names.home(name, path)
            if home in main and self.paths.index(home) < self.paths.index(path): taken[home] += 1
        return sorted((p for p, _ in taken.most_common(4)), key=self.paths.index)

    def facts(self, path, nb, module):
        "What a reader wants to know before the first line: what a page needs, what it gives, how long it takes, where it comes from"
        rel = path.relative_to(self.cfg.nbs_path).as_posix()
        up = '../'*self.pages[path].count('/')
        out = []
        if needs := self.needs(path): out.append('needs ' + ', '.join(f'[{self.titles[p]}]({up}{self.pages[p]}.ipynb)' for p in needs))
        gives = [f'`{self.cfg.lib_name}.{module}`']*bool(module) + self.commands.get(rel.removesuffix('.ipynb'), [])
        if gives: out.append('gives ' + ', '.join(gives))
        length = minutes(path, nb)
        return ' · '.join([*out, f'{length} minute' if length == 1 else f'{length} minutes', f'{{download}}`nbs/{rel} <{up}_nbs/{rel}>`'])

    def top(self, path, nb, module):
        "The title block: number, title, subtitle and facts (on the home page: where to go)"
        title, sub = head(nb)
        out = f'# {number(path)} {title}\n\n:::{{div}} subtitle\n{sub}\n:::\n'.replace('#  ', '# ')
        if self.pages[path] == 'index': return out
        return out + f'\n:::{{div}} facts\n{self.facts(path, nb, module)}\n:::\n'

    def convert(self, path):
        "One notebook → one MyST notebook; it is changed on the way"
        nb = self.notebooks.pop(path)
        module = next((m[1] for c in nb.cells if (m := re.search(r'^#\|\s*(?:default_exp|export)\s+(\w+)', c.source, re.M))), None)
        cells = [markdown(self.top(path, nb, module))]
        nb.cells[0].source = HEAD.sub('', nb.cells[0].source) if nb.cells[0].cell_type == 'markdown' else ''
        Book()(nb)
        for c in nb.cells:
            if c.cell_type == 'markdown' and c.source.strip():
                said = self.links(unfold(c.source), path)
                cells.append(markdown(cards_of(said) if said.startswith('- **[') and self.pages[path] == 'index' else said))
            elif c.cell_type == 'code': cells = joined(cells, self.code(c, path, module))
        if self.pages[path] == 'index': cells.append(markdown(self.toc()))
        for i, c in enumerate(cells): c['id'] = f'c{i}'
        return dict(cells=cells, metadata={'kernelspec': {'name': 'python3', 'display_name': 'python3', 'language': 'python'}}, nbformat=4, nbformat_minor=5)

    def code(self, cell, path, module):
        "A code cell with its stored outputs, and what the page says about it"
        opts, lines, marks = {}, cell.source.strip('\n').splitlines(), {*cell.metadata['nbdev']}
        while lines and (m := OPTION.match(lines[0])): opts[m[1]] = m[2]; lines.pop(0)
        if not lines or opts.get('include') == 'false': return []
        src, exported = '\n'.join(lines), bool(marks & EXPORT)
        tags = [TAGS[o] for o in opts.items() if o in TAGS]
        tags += [name for name in ('exported', 'solution', 'check') if name in marks or (name == 'exported' and exported)]
        if 'solution' in marks: tags.append('hide-input')
        metadata, outputs, alt = {'tags': tags, 'mystnb': {}}, [still(o) for o in cell.get('outputs', [])], opts.get('fig-alt', '')
        if alt: metadata['mystnb']['image'] = {'alt': alt}
        if seen := sorted({kind for o in outputs for kind in kinds(o)}): metadata['mystnb'].setdefault('image', {})['classes'] = ' '.join(seen)
        if not {'hide-input', 'remove-input'} & {*tags} and (prompt := folded(src, outputs)) and opts.get('code-fold') != 'false':
            tags += ['hide-input', 'folded']
            metadata['mystnb'] |= {'code_prompt_show': prompt, 'code_prompt_hide': prompt}
        if self.pages[path] == 'index' and any(kind.startswith('image/') for o in outputs for kind in o.get('data', {})): tags.append('picture')
        items = [*api(src.strip())] if exported else []
        anchors = {self.target(path, name) for name in names(src.strip())} - self.placed if exported else set()
        self.placed |= anchors
        out = [markdown(''.join(f'({t})=\n' for t in sorted(anchors)))] if anchors else []
        out += [markdown(f':::{{div}} flag\n{FLAGS[k]}\n:::') for k in FLAGS.keys() & marks]
        if opts.get('eval') == 'false' and not (exported or outputs): out.append(markdown(':::{div} flag\nlive in Jupyter, not run for this page\n:::'))
        out.append(code_cell(src, metadata=metadata, outputs=[drawn(o, alt, f'f{cell.id}') for o in outputs]))
        return out + [markdown(cards(items, lambda name: self.reference.place(path, name, '../'*self.pages[path].count('/'))))] if items else out

    def first(self):
        "Where reading starts: the first page of the main line, which has no ◇ in its title"
        return next(p for p in self.paths if self.pages[p] == self.main_line()[0][0])

    def main_line(self):
        "`[page, title]` of the pages that a first reader reads, in order: those without ◇, up to the tutorials"
        return [[self.pages[p], f'{number(p)} {self.titles[p]}'] for p in self.paths[1:] if self.on_main_line(p)]

    def on_main_line(self, path): return bool(number(path)) and path.parent == self.cfg.nbs_path and not self.titles[path].endswith('◇')

    def toc(self):
        "The sidebar, as Sphinx wants it: hidden tables of contents on the home page"
        def entry(p): return f'{number(p)} {self.titles[p]} <{self.pages[p]}>'.strip().replace(' ◇', '\u00a0◇')
        parts = [(title, [entry(p) for p in paths]) for title, paths in self.parts] + [('Look up', ['Commands and flags <commands>', 'Reference <reference>'])]
        return '\n\n'.join(f'```{{toctree}}\n:hidden:\n:caption: {title}\n\n' + '\n'.join(entries) + '\n```' for title, entries in parts)

    def look_up(self):
        "`{name: Markdown}` of the pages to look things up: commands and reference"
        def page(path): return self.pages[path], f'{number(path)} {self.titles[path]}'.strip()
        def target(path, name): return t if (t := self.target(path, name)) in self.placed else None
        out = {'commands': command_page.overview(), 'reference': self.reference.overview(self.cfg.lib_name), 'search': search_index.PAGE}
        out |= {f'commands/{name}': command_page.command_page(name) for name in command_page.commands()}
        return out | {f'reference/{name}': self.reference.page(name, self.cfg.lib_name, page, target) for name in self.reference.parts}

def sitemap(out, base):
    "The addresses of all pages, for search engines"
    pages = sorted(p.relative_to(out).as_posix() for p in out.rglob('*.html') if p.name not in ('404.html', 'search.html', 'flags.html'))
    urls = ''.join(f'<url><loc>{base.rstrip("/")}/{page}</loc></url>\n' for page in pages)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">\n{urls}</urlset>\n'

# --- the whole -----------------------------------------------------------------------------------------------------

def main():
    gc.disable() # trees of syntax and of documents grow until the end: a search for garbage in them takes a fifth of the time and finds little
    cfg, ap = get_config(), argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument('--out', type=Path, default=cfg.doc_path, help='folder for the site; what it is made from goes to _proc beside it')
    args, options = ap.parse_known_args()
    root, out, cache, site = cfg.config_path, args.out.resolve(), args.out.resolve().parent/'_proc', Site(cfg)
    src, html = cache/'src', cache/'html' # not `out` itself: myst-nb leaves a folder of its own beside its output
    shutil.rmtree(cache, ignore_errors=True)
    shutil.copytree(root/'docs', src)
    hidden = shutil.ignore_patterns('.*', '_*')
    shutil.copytree(cfg.nbs_path, src/'_nbs', ignore=hidden) # to download
    shutil.copytree(cfg.nbs_path, src, dirs_exist_ok=True, ignore=lambda d, names: hidden(d, names) | {n for n in names if n.endswith('.ipynb')})
    for p in site.paths:
        dest = src/f'{site.pages[p]}.ipynb'
        dest.parent.mkdir(parents=True, exist_ok=True)
        dest.write_text(json.dumps(site.convert(p), ensure_ascii=False), encoding='utf-8')
    descriptions = {site.pages[p]: sub for p, sub in site.subtitles.items()}
    (src/'pages.json').write_text(json.dumps(dict(main_line=site.main_line(), descriptions=descriptions)), encoding='utf-8') # for docs/page_parts.py
    looked_up = site.look_up()
    for name, text in looked_up.items():
        (src/f'{name}.md').parent.mkdir(exist_ok=True)
        (src/f'{name}.md').write_text(text, encoding='utf-8')
    os.environ['PROJECT_ROOT'] = str(root)
    with chdir(root): rc = sphinx(['-b', 'html', '-q', *options, str(src), str(html)])
    if rc: sys.exit(rc)
    reference_pages.settle(html)
    command_page.link_flags(html)
    command_page.redirect(html, 'flags.html', 'commands.html')
    search_index.write(html, site)
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(html, out, ignore=shutil.ignore_patterns('.doctrees', '.buildinfo'))
    if cfg.doc_host:
        shutil.copy(root/'docs'/'readme'/'0.png', out/'card.png')
        (out/'sitemap.xml').write_text(sitemap(out, f'{cfg.doc_host.rstrip("/")}{cfg.doc_baseurl}'), encoding='utf-8')
    print(f'built {len(site.paths) + len(looked_up)} pages: open {os.path.relpath(out/"index.html")}')

if __name__ == '__main__': main()
