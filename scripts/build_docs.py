"""Build the static site: notebooks → nbdev's processors → MyST notebooks → Sphinx → `_docs`.

    python scripts/build_docs.py [--out FOLDER] [Sphinx options, such as -W --keep-going]

The pages are the notebooks as they are stored; nothing is executed, so the outputs you see are those that were
committed. What is added: a line that says which file a page comes from, links from `names` in the prose to the room
that defines them, a folded table of parameters under each exported cell, the pages of the reference and of the
commands, and an index for the search.
"""
import argparse, json, os, re, shutil, subprocess, sys, textwrap, tomllib
from pathlib import Path
import nbformat, yaml
from execnb.nbio import read_nb
from nbdev.config import get_config
from nbdev.process import extract_directives
from nbdev.processors import (FilterDefaults, add_links, ai_magics, clean_magics, filter_stream_, hide_, hide_line,
                              populate_language, rm_header_dash, strip_ansi)
from api_tables import api, cards, names
from book_stats import notebooks
import command_page, search_index
from reference_pages import Reference

HEAD = re.compile(r'\A\s*#[ \t]+(?P<title>.+?)[ \t]*(?:\n+>[ \t]*(?P<sub>.+(?:\n>.*)*))?\s*(?:\n|\Z)')
OPTION = re.compile(r'^#\|\s*([\w-]+)\s*:\s*(.*?)\s*$')
TAGS = {('echo', 'false'): 'remove-input', ('output', 'false'): 'remove-output', ('code-fold', 'true'): 'hide-input'}
FLAGS = {'slow': 'runs only with `--flags slow`', 'cuda': 'needs a GPU', 'network': 'needs the network'}
EXPORT = {'export', 'exports', 'exporti'}
markdown, code_cell = nbformat.v4.new_markdown_cell, nbformat.v4.new_code_cell

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

def drop(cell): # cells that only steer nbdev
    if cell.cell_type == 'code' and {'hide', 'default_exp'} & {*cell.directives_}: del cell['source']

def still(output):
    "An output without its live widget: a page has no kernel to answer, so the HTML or text beside it is shown"
    for kind in [k for k in output.get('data', {}) if 'jupyter.widget' in k]: del output['data'][kind]
    return output

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
        return [populate_language, mark, strip_ansi, hide_line, filter_stream_, rm_header_dash, drop, ai_magics, clean_magics, hide_, add_links]

class Site:
    "The pages to build and what they may link to"
    def __init__(self, cfg):
        self.cfg, self.parts, self.reference, self.placed = cfg, sections(cfg), Reference(cfg.lib_path, cfg.nbs_path), set()
        self.paths = [cfg.nbs_path/'index.ipynb', *(p for _, paths in self.parts for p in paths)]
        self.pages = {p: page_name(p, cfg.nbs_path) for p in self.paths}
        self.titles = {p: head(read_nb(p))[0] for p in self.paths}
        self.targets = {self.target(p, name) for p in self.paths for c in read_nb(p).cells
                        if c.cell_type == 'code' and EXPORT & extract_directives(c).keys() for name in names(c.source)}

    def target(self, path, name): return f'{self.pages[path]}-{name.lower()}'

    def links(self, md, path):
        "nbdev's links to our names → cross references (dropped where a name has no place of its own); notebooks → pages"
        base = re.escape(f'{self.cfg.doc_host}{self.cfg.doc_baseurl}'.rstrip('/'))
        def name(m):
            target = f'{ELSEWHERE.get(m[2], m[2])}-{m[3]}'
            while target not in self.targets and '.' in target: target = target.rpartition('.')[0]
            return f'[{m[1]}](#{target})' if target in self.targets else m[1]
        def page(m):
            to = self.pages.get(Path(os.path.normpath(path.parent/m[1])))
            return f']({os.path.relpath(to, Path(self.pages[path]).parent)}.ipynb{m[2] or ""})' if to else m[0]
        md = re.sub(r'\[\[([^\]]*)\]\([^)]*\)\]\(', r'[\1](', md) # a `name` inside a link of the author's: theirs counts
        md = re.sub(rf'\[([^\]]*)\]\({base}/([\w/]+)\.html#([\w.]+)\)', name, md)
        return re.sub(r'\]\(([\w./-]+\.ipynb)(#[^)]*)?\)', page, md)

    def top(self, path, nb, module):
        "The title block: subtitle, and where the page comes from (on the home page: where to go)"
        title, sub = head(nb)
        out, page = f'# {title}\n\n:::{{div}} subtitle\n{sub}\n:::\n', self.pages[path]
        if page == 'index':
            first = next((m[1] for c in nb.cells if c.cell_type == 'markdown' and (m := re.search(r'^## (.+)$', c.source, re.M))), '')
            anchor = re.sub(r'[^\w -]', '', first.lower()).strip().replace(' ', '-')
            return out + f'\n:::{{div}} ways\n[Start reading]({self.pages[self.first()]}.ipynb) [Run it](#{anchor}) [Commands](commands.md) [Reference](reference.md)\n:::\n'
        rel = path.relative_to(self.cfg.nbs_path).as_posix()
        origin = f'{{download}}`nbs/{rel} <{"../"*page.count("/")}_nbs/{rel}>`' + (f' → `{self.cfg.lib_name}.{module}`' if module else '')
        return out + f'\n:::{{div}} origin\n{origin}\n:::\n'

    def convert(self, path):
        "One notebook → one MyST notebook"
        nb = read_nb(path)
        module = next((m[1] for c in nb.cells if (m := re.search(r'^#\|\s*default_exp\s+(\S+)', c.source, re.M))), None)
        cells = [markdown(self.top(path, nb, module))]
        nb.cells[0].source = HEAD.sub('', nb.cells[0].source) if nb.cells[0].cell_type == 'markdown' else ''
        Book()(nb)
        for c in nb.cells:
            if c.cell_type == 'markdown' and c.source.strip(): cells.append(markdown(self.links(unfold(c.source), path)))
            elif c.cell_type == 'code': cells += self.code(c, path, module)
        if self.pages[path] == 'index': cells.append(markdown(self.toc()))
        for i, c in enumerate(cells): c['id'] = f'c{i}'
        return nbformat.v4.new_notebook(cells=cells, metadata={'kernelspec': {'name': 'python3', 'display_name': 'python3', 'language': 'python'}})

    def code(self, cell, path, module):
        "A code cell with its stored outputs, and what the page says about it"
        opts, lines, marks = {}, cell.source.strip('\n').splitlines(), {*cell.metadata['nbdev']}
        while lines and (m := OPTION.match(lines[0])): opts[m[1]] = m[2]; lines.pop(0)
        if not lines or opts.get('include') == 'false': return []
        src, exported = '\n'.join(lines), bool(marks & EXPORT)
        tags = [TAGS[o] for o in opts.items() if o in TAGS]
        tags += [name for name in ('exported', 'solution', 'check') if name in marks or (name == 'exported' and exported)]
        if 'solution' in marks: tags.append('hide-input')
        metadata = {'tags': tags}
        if alt := opts.get('fig-alt'): metadata['mystnb'] = {'image': {'alt': alt}}
        items = [*api(src)] if exported else []
        anchors = {self.target(path, name) for name in names(src)} - self.placed if exported else set()
        self.placed |= anchors
        out = [markdown(''.join(f'({t})=\n' for t in sorted(anchors)))] if anchors else []
        out += [markdown(f':::{{div}} flag\n{FLAGS[k]}\n:::') for k in FLAGS.keys() & marks]
        out.append(code_cell(src, metadata=metadata, outputs=[still(o) for o in cell.get('outputs', [])]))
        return out + [markdown(cards(items, lambda name: self.reference.place(path, name, '../'*self.pages[path].count('/'))))] if items else out

    def first(self):
        "Where reading starts: the first page of the main line, which has no ◇ in its title"
        return next(p for p in self.paths if self.pages[p] == self.main_line()[0][0])

    def main_line(self):
        "`[page, title]` of the pages that a first reader reads, in order: those without ◇, up to the tutorials"
        return [[self.pages[p], f'{number(p)} {self.titles[p]}'] for p in self.paths[1:] if number(p) and not self.titles[p].endswith('◇')]

    def toc(self):
        "The sidebar, as Sphinx wants it: hidden tables of contents on the home page"
        def entry(p): return f'{number(p)} {self.titles[p]} <{self.pages[p]}>'.strip()
        parts = [(title, [entry(p) for p in paths]) for title, paths in self.parts] + [('Look up', ['Commands and flags <commands>', 'Reference <reference>'])]
        return '\n\n'.join(f'```{{toctree}}\n:hidden:\n:caption: {title}\n\n' + '\n'.join(entries) + '\n```' for title, entries in parts)

    def look_up(self):
        "`{name: Markdown}` of the pages to look things up: commands and reference"
        def page(path): return self.pages[path], f'{number(path)} {self.titles[path]}'.strip()
        def target(path, name): return t if (t := self.target(path, name)) in self.placed else None
        out = {'commands': command_page.overview(), 'reference': self.reference.overview(self.cfg.lib_name), 'search': search_index.PAGE}
        out |= {f'commands/{name}': command_page.command_page(name) for name in command_page.commands()}
        return out | {f'reference/{name}': self.reference.page(name, self.cfg.lib_name, page, target) for name in self.reference.parts}

# --- the whole -----------------------------------------------------------------------------------------------------

def main():
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
        nbformat.write(site.convert(p), dest)
    (src/'main_line.json').write_text(json.dumps(site.main_line()), encoding='utf-8') # for docs/conf.py
    looked_up = site.look_up()
    for name, text in looked_up.items():
        (src/f'{name}.md').parent.mkdir(exist_ok=True)
        (src/f'{name}.md').write_text(text, encoding='utf-8')
    cmd = [sys.executable, '-m', 'sphinx', '-b', 'html', '-q', *options, str(src), str(html)]
    if rc := subprocess.run(cmd, cwd=root, env={**os.environ, 'PROJECT_ROOT': str(root)}).returncode: sys.exit(rc)
    command_page.link_flags(html)
    command_page.redirect(html, 'flags.html', 'commands.html')
    search_index.write(html, site)
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(html, out, ignore=shutil.ignore_patterns('.doctrees', '.buildinfo'))
    print(f'built {len(site.paths) + len(looked_up)} pages: open {os.path.relpath(out/"index.html")}')

if __name__ == '__main__': main()
