"""What an exported cell defines, read from its source: names, signatures, docstrings, and the comment of each parameter.

The same comments that help a reader of the code (fastcore calls them docments) become tables on the site. Nothing is
imported or executed, so the site can be built without the package's dependencies.
"""
import ast, re

def patched(node):
    "Is this function made a method by fastcore's `@patch`?"
    return any('patch' in ast.unparse(o) for o in getattr(node, 'decorator_list', []))

def api(src):
    "`(name, signature, docstring, rows)` of each public function, method and class that the code `src` defines"
    lines = src.splitlines()
    for node in ast.parse(src).body:
        if not isinstance(node, (ast.FunctionDef, ast.ClassDef)) or node.name[0] == '_': continue
        doc, name, sig, rows, f = ast.get_docstring(node) or '', node.name, '', [], node
        if isinstance(node, ast.ClassDef):
            f = next((o for o in node.body if isinstance(o, ast.FunctionDef) and o.name == '__init__'), None)
            rows = [(o.target.id, text(o.annotation), text(o.value), comment(lines, o)) for o in node.body if isinstance(o, ast.AnnAssign)]
        if f:
            params = [(o, d) for o, d in parameters(f.args) if o.arg not in ('self', 'cls')]
            if patched(node): name = f'{text(f.args.args[0].annotation)}.{name}'
            rows = [(o.arg, text(o.annotation), text(d), comment(lines, o) if o.end_lineno > f.lineno else '') for o, d in params]
            sig = f'({", ".join(r[0] for r in rows)})' + (f' → {text(f.returns)}' if f.returns else '')
        yield name, sig, doc, rows

def comment(lines, node):
    "The comment behind a field or parameter, and what of it stands on lines of its own below, further in"
    at, said = node.end_lineno, lines[node.end_lineno - 1].partition(' # ')[2].strip()
    while said and at < len(lines) and re.match(rf'\s{{{node.col_offset + 1},}}# ', lines[at]):
        said, at = f'{said} {lines[at].strip()[2:]}', at + 1
    return said

def parameters(a):
    "`(parameter, default)` pairs of a function's arguments"
    named = [*a.posonlyargs, *a.args]
    return [*zip(named, [None]*(len(named) - len(a.defaults)) + a.defaults), *zip(a.kwonlyargs, a.kw_defaults),
            *((o, None) for o in (a.vararg, a.kwarg) if o)]

def text(node): return ast.unparse(node) if node else ''

def escape(s): return s.replace('&', '&amp;').replace('<', '&lt;').replace('>', '&gt;')

def plain(s):
    "A comment or docstring as Markdown: plain text but for its `code` (4*n_embd is no emphasis)"
    return ''.join(o if i % 2 else re.sub(r'([*_<$\[\]{}~])', r'\\\1', o) for i, o in enumerate(re.split('(`[^`]*`)', s)))

def table(rows):
    "Parameters or fields as a Markdown table; empty where no row says more than a name"
    if not any(any(r[1:]) for r in rows): return ''
    def code(s): return f'`{s}`'.replace('|', r'\|') if s else ''
    lines = [('name', 'type', 'default', 'what it is'), ('---',)*4,
             *((code(n), code(t), code(d), plain(c).replace('|', r'\|')) for n, t, d, c in rows)]
    keep = [i for i in range(4) if any(r[i] for r in rows)] # a column that is empty throughout is left out
    return '\n'.join(f'| {" | ".join(o[i] for i in keep)} |' for o in lines)

def cards(items):
    "What stands under an exported cell: each name, with its parameters folded away"
    return '\n\n'.join(f'<details class="api"><summary><code>{name}</code><span class="api-sig">{escape(sig)}</span></summary>\n\n'
                       f'{plain(doc)}\n\n{table(rows)}\n\n</details>' for name, sig, doc, rows in items)
