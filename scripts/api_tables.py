"""What exported code defines, read from its source: names, signatures, docstrings, and the comment of each parameter.

The same comments that help a reader of the code (fastcore calls them docments) become tables on the site. Nothing is
imported or executed, so the site can be built without the package's dependencies.
"""
import ast, re
from dataclasses import dataclass, field
from functools import cache
from html import escape

# --- what is defined -------------------------------------------------------------------------------------------------

@dataclass
class Entry:
    "One public name, as its source describes it"
    name: str                                     # `GPT.generate` for a method
    kind: str                                     # function, method, property, class, constant
    doc: str = ''
    rows: list = field(default_factory=list)      # (name, type, default, comment) of each parameter or field
    returns: str = ''                             # its type
    returned: str = ''                            # what the comment behind that says
    value: str = ''                               # of a constant
    node: ast.AST|None = None
    methods: list = field(default_factory=list)   # entries, of a class
    @property
    def brief(self):
        "Names of the parameters, and what comes back: what stands beside a folded card"
        return f'({", ".join(r[0] for r in self.rows)})' + (f' → {self.returns}' if self.returns else '') if self.node_of_call else ''
    @property
    def node_of_call(self): return self.kind in ('function', 'method') or self.kind == 'class' and isinstance(self.node, (ast.FunctionDef, ast.AsyncFunctionDef))

@cache
def parsed(src): return ast.parse(src)             # a cell is asked for stripped, wherever it comes from: then it's parsed once

def api(src):
    "An entry for each public function, method and class that the code `src` defines"
    src = src.strip()
    lines = src.splitlines()
    for node in parsed(src).body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name[0] != '_' and owner(node)[:1] != '_': yield of_function(node, lines, owner(node))
        elif isinstance(node, ast.ClassDef) and node.name[0] != '_': yield of_class(node, lines)

def constants(src):
    "An entry for each public name that the code `src` binds to a value at its top level"
    src = src.strip()
    lines = src.splitlines()
    for node in parsed(src).body:
        if not isinstance(node, (ast.Assign, ast.AnnAssign)): continue
        kind = text(node.annotation) if isinstance(node, ast.AnnAssign) else ''
        for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
            for o in target.elts if isinstance(target, ast.Tuple) else [target]:
                if isinstance(o, ast.Name) and o.id[0] != '_': yield Entry(o.id, 'constant', comment(lines, node), returns=kind, value=text(node.value), node=node)

def names(src):
    "The public names that the code `src` defines"
    return [o.name for o in (*api(src), *constants(src))]

def of_function(node, lines, cls=''):
    shown = [(o, d, stars) for o, d, stars in parameters(node.args) if not (cls and o is (node.args.posonlyargs + node.args.args + [None])[0])]
    rows = [(stars + o.arg, text(o.annotation), text(d), comment(lines, o) if o.end_lineno > node.lineno else '') for o, d, stars in shown]
    kind = 'property' if is_property(node) else 'method' if cls else 'function'
    returned = comment(lines, node.returns) if node.returns and node.body[0].lineno > node.returns.end_lineno else ''
    return Entry(f'{cls}.{node.name}' if cls else node.name, kind, ast.get_docstring(node) or '', rows, text(node.returns), returned, node=node)

def of_class(node, lines):
    bodies = [o for o in node.body if isinstance(o, (ast.FunctionDef, ast.AsyncFunctionDef))]
    init = next((o for o in bodies if o.name == '__init__'), None)
    if init: rows = of_function(init, lines, node.name).rows
    else: rows = [(o.target.id, text(o.annotation), text(o.value), comment(lines, o)) for o in node.body if isinstance(o, ast.AnnAssign)]
    methods = [of_function(o, lines, node.name) for o in bodies if o.name[0] != '_']
    return Entry(node.name, 'class', ast.get_docstring(node) or '', rows, node=init or node, methods=methods)

def patched(node):
    "Is this function made a method by fastcore's `@patch`?"
    return any('patch' in ast.unparse(o) for o in getattr(node, 'decorator_list', []))

def owner(node):
    "The class that a patched function becomes a method of, or ''"
    return text(node.args.args[0].annotation) if patched(node) else ''

def is_property(node): return any(ast.unparse(o) in ('property', 'cached_property') or 'as_prop=True' in ast.unparse(o) for o in node.decorator_list)

def comment(lines, node):
    "The comment behind a field or parameter, and what of it stands on lines of its own below, further in"
    at, said = node.end_lineno, lines[node.end_lineno - 1].partition(' # ')[2].strip()
    while said and at < len(lines) and re.match(rf'\s{{{node.col_offset + 1},}}# ', lines[at]):
        said, at = f'{said} {lines[at].strip()[2:]}', at + 1
    return said

def parameters(a):
    "`(parameter, default, stars)` of a function's arguments, in the order in which they are written"
    named = [*a.posonlyargs, *a.args]
    out = [(o, d, '') for o, d in zip(named, [None]*(len(named) - len(a.defaults)) + a.defaults)]
    if a.vararg: out.append((a.vararg, None, '*'))
    out += [(o, d, '') for o, d in zip(a.kwonlyargs, a.kw_defaults)]
    if a.kwarg: out.append((a.kwarg, None, '**'))
    return out

def text(node): return ast.unparse(node) if node else ''

# --- as Markdown and HTML ----------------------------------------------------------------------------------------------

def plain(s):
    "A comment or docstring as Markdown: plain text but for its `code` (4*n_embd is no emphasis)"
    return ''.join(o if i % 2 else re.sub(r'([*_<$\[\]{}~])', r'\\\1', o) for i, o in enumerate(re.split('(`[^`]*`)', s)))

def cell(s): return s.replace('|', r'\|').replace('\n', ' ')

def code(s): return f'<code class="docutils literal notranslate"><span class="pre">{escape(s, quote=False)}</span></code>'

def rich(s):
    "The same as HTML"
    return ''.join(code(o.strip('`').replace('\n', r'\n')) if i % 2 else escape(o, quote=False) for i, o in enumerate(re.split('(`[^`]*`)', s)))

def table(rows):
    "Parameters or fields as a Markdown table; empty where no row says more than a name"
    if not any(any(r[1:]) for r in rows): return ''
    def quoted(s): return f'`{cell(s)}`' if s else ''
    lines = [('name', 'type', 'default', 'what it is'), ('---',)*4,
             *((quoted(n), quoted(t), quoted(d), cell(plain(c))) for n, t, d, c in rows)]
    keep = [i for i in range(4) if any(r[i] for r in rows)] # a column that is empty throughout is left out
    return '\n'.join(f'| {" | ".join(o[i] for i in keep)} |' for o in lines)

def takes(kind, default):
    "What a flag or parameter takes, and its default"
    return ' '.join(f'<span class="{c}">{o}</span>' for c, o in (('takes', kind), ('default', default and f'= {code(default)}')) if o)

def knobs(rows):
    "`(name, type, default, what it is, anchors)` as rows of a list that stacks on a phone; name and type are HTML, the rest is text"
    out = ['<div class="knobs">']
    for name, kind, default, said, anchors in rows:
        first, *more = [*anchors, None] if anchors else [None]
        ids = ''.join(f'<span id="{escape(o)}"></span>' for o in more if o)
        out.append(f'<div class="knob"{f" id={chr(34)}{escape(first)}{chr(34)}" if first else ""}>{ids}<div class="knob-name">{name} {takes(kind, default)}</div><div class="knob-said">{said}</div></div>')
    return '\n'.join([*out, '</div>'])

def cards(items, place=None):
    "What stands under an exported cell: each name, with its parameters folded away; `place(name)` is where the reference has it"
    def more(o): return f'\n\n<p class="api-more"><a href="{where}">{escape(o.name)} in the reference</a></p>' if place and (where := place(o.name)) else ''
    return '\n\n'.join(f'<details class="api"><summary><code>{o.name}</code><code class="api-sig">{escape(o.brief, quote=False)}</code></summary>\n\n'
                       f'{plain(o.doc)}\n\n{table(o.rows)}{more(o)}\n\n</details>' for o in items)
