"What the site's pages get beyond Sphinx and its theme: formulas as MathML, code whose lines wrap, tables that stack on a phone, a way on, a description."
import html, json, re
from pathlib import Path
from docutils import nodes
from docutils.parsers.rst.directives.body import Container
from latex2mathml.converter import convert

# --- formulas: MathML, made here, so that a page needs no script and no network to show them -----------------------------

def mathml(latex, display):
    "A formula as MathML; lines that `\\\\` separates are aligned, as LaTeX's own displays do"
    if display == 'block' and r'\\' in latex and r'\begin' not in latex: latex = rf'\begin{{aligned}}{latex}\end{{aligned}}'
    return convert(latex.replace('{aligned}', '{align*}'), display=display)

def inline_math(self, node):
    self.body.append(mathml(node.astext(), 'inline'))
    raise nodes.SkipNode

def side_by_side(latex):
    "The formulas of a display that `\\qquad` separates: on a phone they stand below each other"
    parts = latex.split(r'\qquad')
    whole = '\\\\' in latex or r'\begin' in latex or any(o.count('{') != o.count('}') or not o.strip() for o in parts)
    return [latex] if whole else parts

def display_math(self, node):
    self.body.append(self.starttag(node, 'div', CLASS='math') + '\n'.join(mathml(o, 'block') for o in side_by_side(node.astext())) + '</div>\n')
    raise nodes.SkipNode

# --- what is changed in the HTML of a page ------------------------------------------------------------------------------

CODE = re.compile(r'(<div class="highlight-(?:ipython3|python|sh|bash|toml|console) notranslate"><div class="highlight"><pre><span></span>)(.*?)(</pre>)', re.S)
PLAIN = re.compile(r'<span class="(?:n|p|w|o)">([^<]*)</span>') # names, signs and spaces have the colour of the text
HYPHENED = re.compile(r'(?<![\w./-])[\w./]{0,20}-[\w./-]{0,34}\w(?![\w./-])|-&gt;') # a line may not be broken behind a dash: --max_steps, nanogpt-train, ->
LAST = re.compile(r"""([\w,.:;…]{0,15} (?:['"]|&quot;|&#39;))(?=</span>[),]*$)""") # a quotation mark behind a space isn't left alone in the last line
SHORT, WIDE, DEEP = 40, 120, 14 # characters that fit on any screen, and on a wide one; an indentation that takes too much of a phone's

def stripped(cell): return html.unescape(re.sub(r'<[^>]+>', '', cell)).strip()

def whole(text, pattern=HYPHENED):
    "Highlighted text whose words with dashes stay in one piece"
    return ''.join(o if o.startswith('<') else pattern.sub(r'<span class="word">\g<0></span>', o) for o in re.split(r'(<[^>]+>)', text))

def line(text):
    "A line of highlighted code: where it must be wrapped, it goes on further in than it began; one that begins far in begins further out on a phone"
    bare = html.unescape(re.sub(r'<[^>]+>', '', text))
    if len(bare) <= SHORT: return f'{text}\n'
    text = LAST.sub(r'<span class="word">\1</span>', whole(text))
    begins = len(bare) - len(bare.lstrip())
    if begins > DEEP and text.startswith(' '*begins): return f'<span class="line deep" style="--i:{begins}"><span class="dent">{" "*begins}</span>{text[begins:]}\n</span>'
    return f'<span class="line" style="--i:{begins}">{text}\n</span>' if begins else f'<span class="line">{text}\n</span>'

def code(match):
    "A block of code, each long line of it in a box of its own"
    return match[1] + ''.join(map(line, PLAIN.sub(r'\1', match[2]).rstrip('\n').split('\n'))) + match[3]

OUTPUT = re.compile(r'(<div class="output (?:text_plain|stream|stderr) highlight-myst-ansi notranslate"><div class="highlight"><pre>(?:<span></span>)?)(.*?)(</pre>)', re.S)
SPACED, DRAWN = re.compile(r'[^\s.!?] {2,}\S|\S {3,}\S|\t'), re.compile(r'[\u2500-\u259f\u2800-\u28ff]|^ *[|^]|\|[#-]') # columns; boxes and bars, carets under a word
ARRAY = re.compile(r'\s*(?:tensor|array)\(')

def output(match):
    "What a cell printed: a long line that is a sentence goes on below; lines that stand in columns, and arrays, stay as they are where a wide screen has room for them"
    lines = match[2].rstrip('\n').split('\n')
    bare = [html.unescape(re.sub(r'<[^>]+>', '', o)) for o in lines]
    alone, columns = sum(bool(o.strip()) for o in bare) == 1, sum(bool(SPACED.search(o)) for o in bare) > 1
    def shown(line, text):
        if len(text) <= SHORT or not alone and (ARRAY.match(bare[0]) or DRAWN.search(text) or columns and len(text) <= WIDE and SPACED.search(text)): return f'{line}\n'
        return f'<span class="says" style="--i:{len(text) - len(text.lstrip())}">{whole(line)}\n</span>'
    return match[1] + ''.join(map(shown, lines, bare)) + match[3]

TABLE = re.compile(r'<table class="([^"]*)">\s*<thead>(.*?)</thead>(.*?)</table>', re.S)
CELL, HEAD, ROW = (re.compile(rf'<{tag}\b([^>]*)>(.*?)</{tag}>', re.S) for tag in ('td', 'th', 'tr'))
ENTRIES = {'flag', 'name', 'page', 'setting', 'key'} # first columns of tables whose rows are entries
LONG, PHONE = 60, 51                                 # a cell of so many characters is a text; so many go beside each other on a phone
FIGURE = re.compile(r'[−+-]?\d[\d.,]*(?: ?[%×]| ?[a-zA-Zµ]{1,5})?(?: ± [\d.]+)?')

def without(cells, kept):
    "A row without the columns that aren't `kept`"
    numbered = iter(range(1000))
    return lambda row: cells.sub(lambda m: m[0] if kept[next(numbered)] else '', row)

def table(match):
    "A table without empty columns. One of entries or of texts has its cells named: on a phone each row becomes a small list. One of numbers scrolls there beside its first column"
    heads, rows = [stripped(o[1]) for o in HEAD.findall(match[2])], [[stripped(o[1]) for o in CELL.findall(row[1])] for row in ROW.findall(match[3])]
    kept = [not i or any(row[i:i + 1] != [''] for row in rows) for i in range(len(heads))]
    entries = len(heads) > 2 and heads[0] in ENTRIES
    heads = [o for o, keep in zip(heads, kept) if keep]
    columns = [[row[i] for row in rows if i < len(row)] for i, keep in enumerate(kept) if keep]
    widest = [max(map(len, [*column, *head.split()]), default=0) for head, column in zip(heads, columns)]
    lines = sum(widest)/(PHONE - 2*len(heads)) # that a row takes on a phone, at least
    figures = sum(bool(FIGURE.fullmatch(o)) for column in columns[1:] for o in column) > sum(map(len, columns[1:]))/2
    stack = max(widest, default=0) > LONG or entries or lines > 2 and not (figures and len(heads) > 5)
    def row(cells):
        names = iter(heads)
        def named(cell):
            label = f' data-label="{html.escape(next(names, ""))}"' if stack else ''
            kind = ' data-empty' if stack and not stripped(cell[2]) else ' data-figure' if FIGURE.fullmatch(stripped(cell[2])) else ''
            return f'<td{label}{kind}{cell[1]}>{cell[2]}</td>'
        return CELL.sub(named, without(CELL, kept)(cells[0]))
    return f'<table class="{match[1]}{" stack"*stack}"><thead>{without(HEAD, kept)(match[2])}</thead>{ROW.sub(row, match[3])}</table>'

FLAG = re.compile(r'(?<![\w-])--?[A-Za-z][\w-]*(?![\w-])')
LITERAL = re.compile(r'<span class="pre">([^<]*-[^<]*)</span>')
WORDS = re.compile(r'<(code|pre|script|style|svg|math)\b.*?</\1>|(?<=>)[^<]*--[a-z][^<]*(?=<)', re.S)
UNBROKEN = 34 # characters: a flag with its value is kept whole, if it isn't longer

DRAWING = re.compile(r'(<figure class="drawing")[^>]*>(<svg.*?</svg>)', re.S)
PANELS = re.compile(r'<img\b[^>]*class="[^"]*\bwide\b[^>]*>')

def kept_signs(text): return text.replace(' ◇', '\u00a0◇') # not alone on a line

def flags_whole(body):
    "Flags in the prose aren't cut behind their dashes"
    def kept(m):
        if (flag := FLAG.match(m[1])) and len(m[1]) <= UNBROKEN and m[1][flag.end():][:1] in ('', '='): return f'<span class="pre word">{m[1]}</span>'
        return f'<span class="pre">{whole(m[1], FLAG)}</span>'
    return WORDS.sub(lambda m: m[0] if m[1] else whole(m[0], FLAG), LITERAL.sub(kept, body))

def improved(body):
    "The HTML of a page's text, as it is shown"
    body = flags_whole(''.join(o if o.startswith('<pre') else kept_signs(o) for o in re.split(r'(<pre\b.*?</pre>)', body, flags=re.S)))
    body = DRAWING.sub(r'\1 style="margin:0"><div class="pan">\2</div>', body)      # only the picture is scrolled, not what stands below it
    body = PANELS.sub(r'<div class="pan">\g<0></div>', body)
    return TABLE.sub(table, OUTPUT.sub(output, CODE.sub(code, body)))

CAPTION = re.compile(r'<p class="caption" role="heading">(.*?)</p>\s*(<ul\b.*?)(?=<p class="caption"|\Z)', re.S)
CURRENT = r'class="[^"]*\bcurrent\b'
FRONT = 'Look up', 'Tutorials', 'Coming from' # what is there for whoever comes with a question stands before the book

def parts(tree):
    "The sidebar: its parts are folded, but for the one in which the reader is"
    found = {stripped(caption): (caption, entries) for caption, entries in CAPTION.findall(tree)}
    order = [title for title in FRONT if title in found] + [title for title in found if title not in FRONT]
    def part(title):
        caption, entries = found[title]
        return f'<details class="part{" front" if title in FRONT else ""}"{" open" if re.search(CURRENT, entries) else ""}><summary class="caption">{caption}</summary>\n{entries}</details>'
    return tree[:tree.find('<p class="caption"')] + '\n'.join(map(part, order)) if found else tree

# --- the page around it -------------------------------------------------------------------------------------------------

UNUSED = {'doctools.js', 'sphinx_highlight.js'} # they serve the search that Sphinx brings along

def around(pages):
    "A handler that gives each page its way on, its description and its improved text; `pages` as scripts/build_docs.py wrote it"
    line_of_pages = pages['main_line'] # previous and next of a page on the main line pass over the workshop; a workshop page keeps its neighbours
    def handler(app, pagename, templatename, context, doctree):
        context['description'] = pages['descriptions'].get(pagename, app.config.html_title)
        if pagename == 'index': context['furo_hide_toc'] = True # its first screen is wide
        if 'body' in context: context['body'] = improved(context['body'])
        if 'toc' in context: context['toc'] = kept_signs(flags_whole(context['toc']))
        if 'furo_navigation_tree' in context: context['furo_navigation_tree'] = parts(context['furo_navigation_tree'])
        context['script_files'] = [o for o in context['script_files'] if Path(str(o.filename or '')).name not in UNUSED]
        for way in ('prev', 'next'):
            if context.get(way): context[way] = {**context[way], 'title': kept_signs(context[way]['title'])}
        at = next((i for i, (page, _) in enumerate(line_of_pages) if page == pagename), None)
        if at is None: return
        def link(i):
            if not 0 <= i < len(line_of_pages): return None
            page, title = line_of_pages[i]
            return dict(title=kept_signs(title), link=app.builder.get_relative_uri(pagename, page))
        context['next'] = link(at + 1)
        if at: context['prev'] = link(at - 1)
    return handler

def setup(app):
    app.add_directive('div', Container)
    app.add_html_math_renderer('mathml', (inline_math, None), (display_math, None))
    app.connect('html-page-context', around(json.loads((Path(__file__).parent/'pages.json').read_text(encoding='utf-8'))), priority=900) # after the theme
    return {'parallel_read_safe': True}
