"""The reference: an overview, and a page per module with an entry for each public name: signature, parameters, what comes back, which errors.

It is read from the exported modules, whose cells say which page they come from; that page's explanation is linked from the entry, and the entry from the page.
"""
import ast, os, re
from api_tables import api, code, constants, escape, knobs, plain, rich, text

CELL = re.compile(r'^# %% (\.\./\S+\.ipynb) #(\w+)$', re.M)
LONG = 420 # rows on a page, about 25,000 pixels
FILTER = '<div class="filter" role="search" data-filter="{what}"></div>\n'

class Reference:
    "All public names of the package, by module"
    def __init__(self, lib, nbs):
        self.modules, self.docs, self.trees, self.homes = {}, {}, {}, {}
        for path in sorted(lib.glob('[a-z]*.py')):
            source = path.read_text(encoding='utf-8')
            self.trees[path.stem] = tree = ast.parse(source)
            self.docs[path.stem] = ast.get_docstring(tree) or ''
            found = [(o, notebook) for notebook, src in cells(source, path, nbs) for o in (*api(src), *constants(src))]
            last = {o.name: i for i, (o, _) in enumerate(found)} # a table that is declared on one page and filled on another: the latter
            if found: self.modules[path.stem] = [x for i, x in enumerate(found) if last[x[0].name] == i]
            self.homes |= {(notebook, o.name): path.stem for o, notebook in found}
        self.raises = {module: Raises(tree) for module, tree in self.trees.items()}
        self.parts = dict(part for module in self.modules for part in self.cut(module)) # page → (module, its entries)
        self.pages = {(module, o.name): page for page, (module, found) in self.parts.items() for o, _ in found}

    def cut(self, module):
        "The pages of a module: one, or, where that would be too long, another for the classes that are nothing but fields"
        found = self.modules[module]
        def fields(o): return o.kind == 'class' and not o.methods and not o.node_of_call
        if sum(4 + len(o.rows) + 2*len(o.methods) for o, _ in found) <= LONG: return [(module, (module, found))]
        return [(module, (module, [x for x in found if not fields(x[0])])), (f'{module}-settings', (module, [x for x in found if fields(x[0])]))]

    def place(self, notebook, name, root=''):
        "Where the reference has a name that a notebook defines: `reference/model.html#GPT`, or None; `root` leads to the top of the site"
        module = self.homes.get((notebook, name))
        return f'{root}reference/{self.pages[module, name]}.html#{name}' if module else None

    def entries(self):
        "`(its page, entry, notebook)` of every public name; a class's methods come after it"
        for part, (_, found) in self.parts.items():
            for o, notebook in found:
                yield part, o, notebook
                for m in o.methods: yield part, m, notebook

    # --- Markdown ---

    def overview(self, lib_name):
        "The page of all modules"
        out = ['# Reference\n\n:::{div} subtitle\nEvery module and every public name, with its signature, and where it is explained.\n:::\n',
               'Most of what a program needs can be imported from the package itself: `from nanogpt_lit import GPT, generate`. The rest comes from its module. '
               'What is typed in a terminal is on [the page of commands](commands.md).\n', FILTER.format(what='Filter names and modules')]
        for module, found in self.modules.items():
            listed = ' '.join(f'<a href="reference/{self.pages[module, o.name]}.html#{escape(o.name)}" data-name="{escape(o.name)}">{code(o.name)}</a>' for o, _ in found)
            out.append(f'<div class="module" id="{module}"><h2><a href="reference/{module}.html">{code(f"{lib_name}.{module}")}</a></h2><p>{rich(self.docs[module])}</p><div class="names">{listed}</div></div>')
        return '\n\n'.join([*out, '```{toctree}\n:hidden:\n\n' + '\n'.join(f'{m} <reference/{m}>' for m in self.parts) + '\n```\n'])

    def page(self, part, lib_name, page, target):
        "The page of a module, or a part of it. `page(notebook)` is `(where, title)` of a page, `target(notebook, name)` the place that explains a name, or None"
        module, found = self.parts[part]
        others = ''.join(f', [the rest of the module]({o}.md)' for o, (m, _) in self.parts.items() if m == module and o != part)
        pages = [*dict.fromkeys(notebook for _, notebook in found)]
        title = ': settings' if part != module else ''
        said = ', '.join('[{1}](../{0}.ipynb)'.format(*page(p)) for p in pages)
        out = [f'# {lib_name}.{module}{title}\n\n:::{{div}} subtitle\n{plain(self.docs[module])}\n:::\n\nMade on {said}. [All modules](../reference.md){others}\n', FILTER.format(what=f'Filter the names of {module}')]
        taken = set()
        for o, notebook in found:
            slug = re.sub(r'[^\w-]', '', o.name.lower()) # the anchor that MyST gives to the heading, once
            out.append(self.entry(o, module, notebook, page, target, slug == o.name and slug not in taken))
            taken.add(slug)
        return '\n'.join(out)

    def entry(self, o, module, notebook, page, target, has_id):
        "One name"
        out = [f'## `{o.name}`\n', ':::{div} entry\n']
        if not has_id: out.append(f'<span class="anchor" id="{o.name}"></span>\n')
        out.append(f'<div class="signature"><pre>{signature(o)}</pre></div>\n')
        if o.doc: out.append(plain(paragraphs(o.doc)) + '\n')
        if any(any(r[1:]) for r in o.rows):
            out.append(knobs([(code(r[0]), r[1] and code(r[1]), r[2], rich(r[3]), ()) for r in o.rows]) + '\n')
        facts = []
        if o.kind != 'class' and o.kind != 'constant': facts.append(f'<dt>Returns</dt><dd>{code(o.returns or "Any")}{": " + rich(o.returned) if o.returned else ""}</dd>')
        for kind, why in self.raises[module].of(o): facts.append(f'<dt>Raises</dt><dd>{code(kind)}{error(why)}</dd>')
        if facts: out.append(f'<dl class="entry-facts">{"".join(facts)}</dl>\n')
        if o.methods:
            rows = [(f'<code class="call">{signature(m)}</code>', '', '', method_said(m, self.raises[module].of(m)), (m.name,)) for m in o.methods]
            out.append(f'<p class="rubric">Methods</p>\n\n{knobs(rows)}\n')
        where, title = page(notebook)
        there = target(notebook, o.name)
        out.append(f'Explained in [{title}](#{there})\n:::\n' if there else f'Explained in [{title}](../{where}.ipynb)\n:::\n')
        return '\n'.join(out)

def settle(site):
    "On the built pages: an anchor that a heading took by chance (of `Playground`, for `playground`) goes to the name that is written so"
    for path in (site/'reference').glob('*.html'):
        page = before = path.read_text(encoding='utf-8')
        for name in re.findall(r'<span class="anchor" id="([^"]+)">', page):
            if page.count(f' id="{name}"') == 1: continue
            page = re.sub(rf'<(section|span) id="{re.escape(name)}"', rf'<\1 id="{name}-"', page).replace(f'href="#{name}"', f'href="#{name}-"')
        if page != before: path.write_text(page, encoding='utf-8')

def cells(source, path, nbs):
    "`(notebook, code)` of each cell of an exported module"
    marks, top = [*CELL.finditer(source)], os.path.realpath(nbs)
    for m, following in zip(marks, [*marks[1:], None]):
        yield nbs/os.path.relpath(os.path.join(os.path.realpath(path.parent), m[1]), top), source[m.end():following.start() if following else None]

def paragraphs(doc): return '\n\n'.join(' '.join(o.split()) for o in doc.split('\n\n'))

def method_said(m, raised):
    said = rich(' '.join(m.doc.split()))
    said += ''.join(f'<br>returns {code(m.returns)}: {rich(m.returned)}' for _ in [0] if m.returned)
    notes = [f'{r[0].lstrip("*")}: {r[3]}' for r in m.rows if r[3]]
    if notes: said += f'<br>{rich("; ".join(notes))}'
    return said + ''.join(f'<br>raises {code(kind)}{error(why)}' for kind, why in raised)

def error(why):
    "What an error says; it may hold anything, so it is code that looks like text"
    return f': <code class="error">{escape(why, quote=False)}</code>' if why else ''

def signature(o):
    "As one would write the call, as HTML: lines break between parameters"
    if o.kind == 'constant':
        value = o.value if len(o.value) <= 300 else o.value[:300] + ' …'
        return escape(f'{o.name}{": " + o.returns if o.returns else ""} = {value}', quote=False)
    name = o.name.rpartition('.')[2] if o.kind != 'class' else o.name
    back = f' -> {o.returns or "Any"}' if o.kind != 'class' else ''
    if o.kind == 'property': return escape(f'{name}{back}', quote=False)
    if len(o.rows) > 24: return f'{name}(...)'
    only = [a.arg for a in o.node.args.kwonlyargs] if isinstance(o.node, (ast.FunctionDef, ast.AsyncFunctionDef)) else []
    words = []
    for r in o.rows:
        if only and r[0] == only[0] and not any(w[0] == '*' and w[1:2] != '*' for w in words): words.append('*')
        words.append(r[0] + (f': {r[1]}' if r[1] else '') + ((' = ' if r[1] else '=') + r[2] if r[2] else ''))
    pieces = [f'{name}({words[0]}' if words else f'{name}(', *words[1:]]
    call = ', '.join(f'<span>{escape(o, quote=False)}</span>' for o in pieces) + escape(f'){back}', quote=False)
    return call.replace(') -&gt;', '<span class="word">) -&gt;</span>') # not broken within the arrow

# --- errors ------------------------------------------------------------------------------------------------------------

class Raises:
    "The errors that the functions of one module raise themselves, or in private helpers of the same module"
    def __init__(self, tree):
        self.helpers = {}
        for node in [*tree.body, *(o for c in tree.body if isinstance(c, ast.ClassDef) for o in c.body)]:
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)): self.helpers.setdefault(node.name, node)

    def of(self, entry):
        "`(error, its message)` pairs; a value that the message names stands in ‹›"
        if not isinstance(entry.node, (ast.FunctionDef, ast.AsyncFunctionDef)) and entry.kind != 'class': return []
        todo, seen, out = [entry.node], set(), {}
        if isinstance(entry.node, ast.ClassDef): todo = [o for o in entry.node.body if isinstance(o, (ast.FunctionDef, ast.AsyncFunctionDef)) and o.name == '__post_init__']
        while todo:
            nodes = [*ast.walk(todo.pop(0))]
            caught = {id(o) for t in nodes if isinstance(t, ast.Try) and any(text(h.type) in ('Exception', 'UserError') and not any(isinstance(r, ast.Raise) for r in ast.walk(h)) for h in t.handlers)
                      for part in t.body for o in ast.walk(part)}
            for o in nodes:
                if id(o) in caught: continue
                if isinstance(o, ast.Raise) and (error := raised(o)): out.setdefault(error)
                if isinstance(o, ast.Call) and (name := private(o.func)) in self.helpers and name not in seen:
                    seen.add(name)
                    todo.append(self.helpers[name])
        return list(out)[:6]

def private(f):
    "The name of the helper that is called, if it is a private one: `_name(...)` or `self._name(...)`"
    name = f.id if isinstance(f, ast.Name) else f.attr if isinstance(f, ast.Attribute) and isinstance(f.value, ast.Name) and f.value.id == 'self' else ''
    return name if name.startswith('_') and not name.startswith('__') else None

def raised(node):
    "`(error, message)` of a `raise`, or None where something caught is passed on"
    if not isinstance(node.exc, ast.Call): return (node.exc.id, '') if isinstance(node.exc, ast.Name) and node.exc.id[0].isupper() else None
    kind = text(node.exc.func)
    return (kind, message(node.exc.args[0]) if node.exc.args else '') if kind[0].isupper() and kind != 'SystemExit' else None

def message(node):
    "What an error says, with ‹names› for its values, or … where the source has no name for one"
    said = re.sub(r'(\w+)=‹\1›', r'\1=…', pattern(node).replace('`', ''))
    said = re.sub(r'(?<=›)…|…(?=‹)', '', re.sub(r'…(?:\s*…)+', '…', said))
    if not re.search(r'[^\W\d_]', re.sub('‹.*?›', '', said)): return '' # it says nothing of its own
    return shorten(re.sub('^…=…', '‹setting›=…', said))

def pattern(node):
    match node:
        case ast.Constant(str() as s): return s
        case ast.JoinedStr(values): return ''.join(map(pattern, values))
        case ast.FormattedValue(value): return placeholder(value)
        case ast.BinOp(left, ast.Add(), right): return pattern(left) + pattern(right)
    return placeholder(node)

def placeholder(node):
    "‹path› for `path`, `self.path` and `str(path)`; … for a letter, a constant, and anything longer"
    match node:
        case ast.Name(name) if len(name) > 1 and not name.isupper(): return f'‹{name}›'
        case ast.Attribute(ast.Name('self'), name): return f'‹{name}›'
        case ast.Attribute(value, 'name' | '__name__'): return placeholder(value)
        case ast.Call(ast.Name('str' | 'repr' | 'printable' | 'shortened' | 'type' | 'sorted' | 'list'), [value, *_]): return placeholder(value)
    return '…'

def shorten(s): return s if len(s) <= 160 else s[:158].rpartition(' ')[0] + ' …'
