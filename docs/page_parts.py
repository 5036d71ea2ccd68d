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

def display_math(self, node):
    self.body.append(self.starttag(node, 'div', CLASS='math') + mathml(node.astext(), 'block') + '</div>\n')
    raise nodes.SkipNode

# --- what is changed in the HTML of a page ------------------------------------------------------------------------------

CODE = re.compile(r'(<div class="highlight-(?:ipython3|python|sh|bash|toml|console) notranslate"><div class="highlight"><pre><span></span>)(.*?)(</pre>)', re.S)
PLAIN = re.compile(r'<span class="(?:n|p|w|o)">([^<]*)</span>') # names, signs and spaces have the colour of the text
HYPHENED = re.compile(r'(?<![\w./-])[\w./]{0,20}-[\w./-]{0,34}\w(?![\w./-])') # a line may not be broken behind a dash: --max_steps, nanogpt-train
SHORT, DEEP = 40, 14 # characters that fit on any screen; an indentation that takes too much of a phone's

def line(text):
    "A line of highlighted code: where it must be wrapped, it goes on further in than it began; one that begins far in begins further out on a phone"
    bare = html.unescape(re.sub(r'<[^>]+>', '', text))
    if len(bare) <= SHORT: return f'{text}\n'
    text = HYPHENED.sub(r'<span class="word">\g<0></span>', text)
    begins = len(bare) - len(bare.lstrip())
    if begins > DEEP and text.startswith(' '*begins): return f'<span class="line deep" style="--i:{begins}"><span class="dent">{" "*begins}</span>{text[begins:]}\n</span>'
    return f'<span class="line" style="--i:{begins}">{text}\n</span>' if begins else f'<span class="line">{text}\n</span>'

def code(match):
    "A block of code, each long line of it in a box of its own"
    return match[1] + ''.join(map(line, PLAIN.sub(r'\1', match[2]).rstrip('\n').split('\n'))) + match[3]

TABLE = re.compile(r'<table class="([^"]*)">\s*<thead>(.*?)</thead>(.*?)</table>', re.S)
ENTRIES, LONG = {'flag', 'name', 'page', 'setting', 'key'}, 60 # first columns of tables whose rows are entries; a cell of so many characters is a text

def stripped(cell): return html.unescape(re.sub(r'<[^>]+>', '', cell)).strip()

def table(match):
    "A table of entries or of texts, its cells named: on a phone each row becomes a small list"
    heads = [stripped(o) for o in re.findall(r'<th\b[^>]*>(.*?)</th>', match[2], re.S)]
    texts = max((len(stripped(o)) for o in re.findall(r'<td\b[^>]*>(.*?)</td>', match[3], re.S)), default=0) > LONG
    if not (texts or len(heads) > 2 and heads[0] in ENTRIES): return match[0]
    def row(cells):
        names = iter(heads)
        def named(cell):
            kind = '' if stripped(cell[2]) else ' data-empty'
            return f'<td data-label="{html.escape(next(names, ""))}"{kind}{cell[1]}>{cell[2]}</td>'
        return re.sub(r'<td\b([^>]*)>(.*?)</td>', named, cells[0], flags=re.S)
    body = re.sub(r'<tr\b.*?</tr>', row, match[3], flags=re.S)
    return f'<table class="{match[1]} stack"><thead>{match[2]}</thead>{body}</table>'

def improved(body):
    "The HTML of a page's text, as it is shown"
    whole = re.sub(r'<span class="pre">(--[\w-]{1,30})</span>', r'<span class="pre word">\1</span>', body)   # a flag isn't cut behind its dashes
    return TABLE.sub(table, CODE.sub(code, whole))

# --- the page around it -------------------------------------------------------------------------------------------------

UNUSED = {'doctools.js', 'sphinx_highlight.js'} # they serve the search that Sphinx brings along

def around(pages):
    "A handler that gives each page its way on, its description and its improved text; `pages` as scripts/build_docs.py wrote it"
    line_of_pages = pages['main_line'] # previous and next of a page on the main line pass over the workshop; a workshop page keeps its neighbours
    def handler(app, pagename, templatename, context, doctree):
        context['description'] = pages['descriptions'].get(pagename, app.config.html_title)
        if pagename == 'index': context['furo_hide_toc'] = True # its first screen is wide
        if 'body' in context: context['body'] = improved(context['body'])
        context['script_files'] = [o for o in context['script_files'] if Path(str(o.filename or '')).name not in UNUSED]
        at = next((i for i, (page, _) in enumerate(line_of_pages) if page == pagename), None)
        if at is None: return
        def link(i):
            if not 0 <= i < len(line_of_pages): return None
            page, title = line_of_pages[i]
            return dict(title=title, link=app.builder.get_relative_uri(pagename, page))
        context['next'] = link(at + 1)
        if at: context['prev'] = link(at - 1)
    return handler

def setup(app):
    app.add_directive('div', Container)
    app.add_html_math_renderer('mathml', (inline_math, None), (display_math, None))
    app.connect('html-page-context', around(json.loads((Path(__file__).parent/'pages.json').read_text(encoding='utf-8'))), priority=900) # after the theme
    return {'parallel_read_safe': True}
