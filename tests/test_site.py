"The documentation site: built without warnings, complete, readable without a network, and on a phone."
import html, json, os, re, shutil, subprocess, sys
from base64 import b64encode
from contextlib import contextmanager
from functools import cache
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
import nbformat, pytest
from docutils import nodes
from execnb.nbio import read_nb
from PIL import Image
from nbdev.config import get_config
from book_stats import notebooks
from build_docs import Names, code_cell, folded, head, joined, markdown, number, page_name, sitemap
from figures import LARGEST, PNG, SVG, kinds, one_picture, themed

try: import fcntl
except ImportError: fcntl = None

CFG = get_config()
sys.path.append(str(CFG.config_path/'docs'))
import page_parts

@contextmanager
def one_at_a_time(path):
    "A block that only one of the processes of a test run can be in"
    with open(path, 'w') as file:
        if fcntl: fcntl.flock(file, fcntl.LOCK_EX)
        yield

@pytest.fixture(scope='session')
def site(shared, root):
    "The site, built once, also if several processes test it; warnings are errors"
    out = shared/'site'/'docs'
    with one_at_a_time(shared/'site.lock'):
        if not (out/'index.html').exists():
            cmd = [sys.executable, str(root/'scripts'/'build_docs.py'), '--out', str(out), '-W', '--keep-going']
            r = subprocess.run(cmd, capture_output=True, text=True, cwd=root)
            assert r.returncode == 0, r.stdout[-2000:] + r.stderr[-4000:]
    return out

@pytest.fixture(scope='session')
def pages(site):
    "Every page but those that only lead to another"
    texts = {p.relative_to(site).as_posix(): p.read_text(encoding='utf-8') for p in site.rglob('*.html')}
    return {name: text for name, text in texts.items() if 'http-equiv="refresh"' not in text}

def test_every_notebook_has_a_page_in_the_sidebar(pages):
    for nb in notebooks(CFG.nbs_path):
        name = f'{page_name(nb, CFG.nbs_path)}.html'
        assert name in pages
        if name != 'index.html': assert f'href="{name}"' in pages['index.html']

def test_pages_load_nothing_from_elsewhere(pages):
    loads = re.compile(r'<(?:script|img|iframe|source)[^>]*\ssrc="(https?:)?//[^"]*"|<link[^>]*rel="(?:stylesheet|preload|icon)"[^>]*href="(https?:)?//[^"]*"')
    assert not {name: m[0] for name, text in pages.items() if (m := loads.search(text))}

@cache
def ids(path): return {*re.findall(r'\bid="([^"]+)"', path.read_text(encoding='utf-8'))}

def test_local_links_lead_somewhere(site, pages):
    dead = []
    for name, text in pages.items():
        for href in re.findall(r'<a [^>]*href="([^"]+)"', text):
            target, _, anchor = html.unescape(href).partition('#')
            if re.match(r'\w+:', target): continue
            to = (site/name).parent/target.partition('?')[0] if target else site/name
            if not to.exists() or anchor and to.suffix == '.html' and anchor not in ids(to.resolve()): dead.append((name, href))
    assert not dead, dead[:10]

def test_no_raw_markdown_is_left_in_the_prose(pages):
    for name, text in pages.items():
        prose = re.sub(r'<(pre|code|script|style|svg)\b.*?</\1>|<span class="api-sig">.*?</span>', '', text, flags=re.S)
        prose = html.unescape(re.sub(r'<[^>]+>', '', prose))
        found = re.findall(r'.{0,40}(?:\]\(|(?<!\d)\*\*\w|```|^:::).{0,40}', prose, re.M)
        assert not found, (name, found[:3])

def test_public_names_can_be_looked_up(pages):
    modidx = (CFG.lib_path/'_modidx.py').read_text(encoding='utf-8')
    for name in ('UserError', 'GPTConfig', 'resolve'): assert name in modidx and f'<span class="pre">{name}</span>' in pages['reference.html']
    assert 'class="api"' in pages['core.html'] and 'file to read' in pages['core.html'], 'no table of parameters'

# --- what is on every page ---------------------------------------------------------------------------------------------

MAIN = [p for p in notebooks(CFG.nbs_path) if p.parent == CFG.nbs_path and p.name != 'index.ipynb' and not head(read_nb(p))[0].endswith('◇')]

def html_of(pages, notebook): return pages[f'{page_name(notebook, CFG.nbs_path)}.html']

def test_a_page_says_what_it_needs_gives_and_takes(pages):
    for nb in MAIN:
        text = html_of(pages, nb)
        assert re.search(rf'<h1>{number(nb)} ', text), f'{nb.stem}: no number in its title'
        facts = re.search(r'<div class="facts[^"]*">(.*?)</div>', text, re.S)[1]
        assert re.search(r'\d+ minutes', facts) and nb.name in facts, facts
    facts = re.search(r'<div class="facts[^"]*">(.*?)</div>', pages['attention.html'], re.S)[1]
    assert 'nanogpt_lit.attention' in facts and 'href="guess.html"' in facts

def test_names_in_prose_lead_to_the_pages_own_definition(tmp_path):
    code, prose = nbformat.v4.new_code_cell, nbformat.v4.new_markdown_cell
    def page(name, *sources):
        nbformat.write(nbformat.v4.new_notebook(cells=[prose(f'# {name}\n\n> It.'), *map(code, sources)]), path := tmp_path/f'{name}.ipynb')
        return path
    low = page('10_low', '#| default_exp low', '#| export\ndef plain(x): return x\ndef lr_at(x): return x')
    high = page('20_high', '#| default_exp high', '#| export\ndef plain(x): return x')
    reads = page('30_reads', 'from nanogpt_lit.low import plain')
    own = page('40_own', 'lr_at = 3')
    other = page('50_other', 'x = 1')
    names = Names([low, high, reads, own, other])
    assert names.home('plain', high) == high and names.home('plain', reads) == low
    assert names.home('plain', other) is None and names.home('plain', other, call=True) is None     # just a word, and two pages have it
    assert names.home('lr_at', other) == low and names.home('lr_at', own) is None                   # ours wherever it stands, but where it is a name of the page's own

def test_dashes_of_flags_stay_dashes(pages):
    for name, text in pages.items():
        prose = html.unescape(re.sub(r'<[^>]+>', '', re.sub(r'<(script|style|svg|pre)\b.*?</\1>', '', text, flags=re.S)))
        found = re.findall(r'(?<![\w ])–[a-z]\w+|(?<=\s)–[a-z]+_\w+', prose)
        assert not found, (name, found[:3])

def test_formulas_need_no_script(pages):
    assert pages['attention.html'].count('<math') > 30 and not [name for name, text in pages.items() if re.search('<script[^>]*(mathjax|tex-svg)', text, re.I)]
    assert not [name for name, text in pages.items() for m in re.findall(r'<math.*?</math>', text, re.S) if re.search(r'\\|&amp;|<mi>&(?!#)', re.sub(r'</?(?!mi>)[^>]*>', '', m))]

def test_formulas_side_by_side_stand_below_each_other_on_a_phone():
    assert page_parts.side_by_side(r'a=1 \qquad b=2') == ['a=1 ', ' b=2']
    for kept in (r'a\\ b \qquad c', r'\frac{a \qquad b}{c}', r'\begin{aligned}a \qquad b\end{aligned}'): assert page_parts.side_by_side(kept) == [kept]
    writer = SimpleNamespace(body=[], starttag=lambda node, tag, **attributes: f'<{tag}>')
    with pytest.raises(nodes.SkipNode): page_parts.display_math(writer, nodes.math_block('', r'a=1 \qquad b=2'))
    assert re.search(r'<div>\s*<math(?:(?!</div>).)*</math>\s*<math', writer.body[0], re.S)

def test_imports_are_folded_without_a_script(pages):
    text = pages['attention.html']
    assert re.search(r'<details class="[^"]*hide[^"]*">\s*<summary.*?Imports', text, re.S)

def test_imports_in_a_row_have_one_fold(pages):
    fold = r'<details class="[^"]*hide[^"]*">(?:(?!</details>).)*?Imports(?:(?!</details>).)*</details>\s*</div>\s*'
    assert not [name for name, text in pages.items() if re.search(rf'(?:{fold}<div class="cell[^"]*folded[^"]*">\s*){{2}}', text, re.S)]
    def cell(src, *tags, prompt='Imports', outputs=()):
        return code_cell(src, metadata={'tags': ['hide-input', 'folded', *tags], 'mystnb': {'code_prompt_show': prompt}}, outputs=[*outputs])
    first, second = cell('import os', 'exported'), cell('import re')
    got, = joined([first], [second])
    assert got['source'] == 'import os\n\nimport re' and got['metadata']['tags'] == ['hide-input', 'folded']
    assert len(joined([cell('import os')], [cell('plot()', prompt='The code of this plot')])) == 2 and len(joined([markdown('x')], [cell('import os')])) == 2

def test_what_is_folded():
    picture = [{'data': {'image/png': ''}}]
    assert folded('import os\nfrom re import sub', []) == 'Imports' and folded('import os\nx = 1', []) is None
    drawing = "fig, axes = plt.subplots(1, 2)\nfor ax in axes:\n    ax.plot(x)\n    ax.set_title('x')"
    assert folded(drawing, picture) and not folded(drawing, []) and not folded(f'for x in y:\n    z = f(x)\n    g(z)\n{drawing}', picture)

def test_what_is_printed_wraps_unless_it_stands_in_columns():
    def shown(*lines): return page_parts.improved('<div class="output stream highlight-myst-ansi notranslate"><div class="highlight"><pre><span></span>' + '\n'.join(lines) + '\n</pre></div></div>')
    said, row = 'the loss of the one batch is 0.0321 after 130 steps, as it should', 'loss           perplexity                 512.5193     0.2677'
    assert shown(said).count('class="says"') == 1 and shown(row).count('class="says"') == 1, 'a line alone has no columns'
    both = shown('task           measure                       value', row, said)
    assert both.count('class="says"') == 1 and f'>{said}' in both
    for drawn in ('100%|######################################| 200/200, loss=2.273', '│ a table of boxes in the middle of a line │', 'tensor([[1.0000, 0.0000, 0.0000, 0.0000],'):
        assert 'says' not in shown(drawn, drawn), drawn
    assert '<span class="word">--max_steps</span>' in shown(f'{said}; try more --max_steps')
    assert shown('task           measure', row, f'longest:  {"word  "*30}').count('class="says"') == 1, 'no screen has room for this line'

def test_an_arrow_is_not_broken():
    code = 'def compare_command(cfg: CompareConfig) <span class="o">-&gt;</span> <span class="kc">None</span>:'
    shown = page_parts.improved(f'<div class="highlight-ipython3 notranslate"><div class="highlight"><pre><span></span>{code}\n</pre></div></div>')
    assert '<span class="word">-&gt;</span>' in shown

def test_tables_on_a_phone():
    def shown(heads, *rows):
        def row(tag, cells): return '<tr>' + ''.join(f'<{tag}><p>{o}</p></{tag}>' for o in cells) + '</tr>'
        return page_parts.improved(f'<table class="docutils"><thead>{row("th", heads)}</thead><tbody>{"".join(row("td", o) for o in rows)}</tbody></table>')
    assert 'command' not in shown(['page', 'what happens', 'command'], ['Core', 'errors', ''], ['Run', 'all', '']) and 'command' in shown(['page', 'x', 'command'], ['Core', 'y', ''], ['Run', 'z', 'train'])
    assert '<span class="word">--disable-monitoring</span>' in shown(['name', 'what'], ['x', 'on; --disable-monitoring switches it off'])
    wide = shown(['ours', *'abcd'], *[[f'blocks.{i}.attention.query_weight']*5 for i in range(3)])
    assert 'stack' in wide and 'data-label="ours"' in wide
    figures = shown(['', *(f'what is measured {i}' for i in range(8))], ['nanoGPT', *('1,234.5 MB' for _ in range(8))])
    assert 'stack' not in figures and figures.count('data-figure') == 8

def test_the_sidebar_is_folded_but_for_where_the_reader_is(pages):
    for name, wanted in ('attention.html', ['A model']), ('commands.html', ['Look up']), ('tutorials/own_text.html', ['Tutorials']), ('index.html', []):
        tree = pages[name].partition('<div class="sidebar-tree">')[2].partition('<article')[0]
        parts = re.findall(r'<details class="part[^"]*"( open)?><summary class="caption"><span class="caption-text">([^<]*)', tree)
        assert [title for is_open, title in parts if is_open] == wanted and [title for _, title in parts][:4] == ['Look up', 'Tutorials', 'Coming from', 'Foundations']

def test_a_sign_is_not_left_alone(pages):
    assert not [name for name, text in pages.items() if re.search('[ \n]◇', re.sub(r'<(pre|script|title|meta)\b.*?(</\1>|>)', '', text.partition('<article')[2], flags=re.S))]

def test_flags_are_kept_whole():
    def shown(text): return page_parts.flags_whole(f'<code><span class="pre">{text}</span></code>')
    for text in ('--max_steps', '--max_steps=10', '-n'): assert shown(text) == f'<code><span class="pre word">{text}</span></code>'
    assert '<span class="word">--config</span>=a' in shown('--config=a/very/long/path/to/a/file.toml') and 'word' not in shown('nanogpt-train') and 'word' not in shown('1e-3')

def test_pages_describe_themselves(pages):
    said = {name: re.search(r'<meta name="description" content="([^"]+)"', text)[1] for name, text in pages.items()}
    assert all('property="og:title"' in text for text in pages.values())
    mine = [html_name for nb in MAIN if (html_name := f'{page_name(nb, CFG.nbs_path)}.html')]
    assert len({said[name] for name in mine}) == len(mine)
    assert not [name for name, text in pages.items() if '.invalid/' in text or 'rel="canonical"' in text and not CFG.doc_host]

def test_a_site_with_an_address_has_a_map(site):
    assert '<loc>https://example.org/book/attention.html</loc>' in sitemap(site, 'https://example.org/book/') and '404.html' not in sitemap(site, 'x')
    assert (site/'404.html').exists() and (site/'sitemap.xml').exists() == bool(CFG.doc_host)

def test_no_page_weighs_too_much(site, pages):
    "With the style sheets, scripts and pictures that it loads, in bytes"
    heavy = {}
    for name, text in pages.items():
        loads = {(site/name).parent/o.partition('?')[0] for o in re.findall(r'<(?:script|img|source)[^>]*\ssrc="([^"]+)"|<link[^>]*rel="stylesheet"[^>]*href="([^"]+)"', text) for o in o if o and ':' not in o}
        weight = len(text.encode()) + sum(o.stat().st_size for o in loads if o.exists())
        if weight > 700_000: heavy[name] = weight
    assert not heavy, heavy

SOME_PLOT = """<?xml version="1.0"?><!DOCTYPE svg PUBLIC "x" "y"><svg xmlns="http://www.w3.org/2000/svg" width="72pt" height="36pt" viewBox="0 0 72 36" version="1.1">
 <metadata><dc:date>2026</dc:date></metadata><defs><style type="text/css">*{stroke-linejoin: round}</style></defs>
 <g id="figure_1"><path d="M 0 0" style="fill: #ffffff; stroke: #000000" clip-path="url(#p1)"/><text style="font: 10px 'DejaVu Sans', 'Arial', sans-serif">x</text></g><defs><clipPath id="p1"/></defs></svg>"""

def test_plots_follow_the_page():
    svg = one_picture({SVG: SOME_PLOT, PNG: 'x', 'text/plain': 'Axes'})
    assert [*svg] == [SVG, 'text/plain'] and '2026' not in svg[SVG]
    assert one_picture({SVG: SOME_PLOT + 'x'*LARGEST, PNG: 'x'}) == {PNG: 'x'} and [*one_picture({SVG: SOME_PLOT, PNG: 'x'}, both=True)] == [SVG, PNG]
    shown = themed(svg[SVG], 'A "line"', 'f1')
    assert 'role="img" aria-label="A &quot;line&quot;"' in shown and 'currentColor' in shown and '#ffffff' not in shown and 'DejaVu' not in shown
    assert 'fill: white' in themed(svg[SVG].replace('<text style="', '<text style="fill: #ffffff; '), 'x', 'f1'), 'letters on a bar stay white'
    assert 'id="f1-p1"' in shown and 'url(#f1-p1)' in shown and 'figure_1' not in shown and '<style' not in shown

def test_pictures_of_several_panels_are_scrolled_on_a_phone():
    def shown(letters, width): return themed(f'<svg width="{width}pt" viewBox="0 0 {width} 200"><text style="font: {letters}px sans">x</text></svg>', 'x', 'f')
    assert 'min-width' not in shown(10, 440) and 'min-width: 467px' in shown(10, 584) and 'min-width: 512px' in shown(8, 512)
    assert page_parts.improved('<img alt="x" class="paper wide" src="x.png">').startswith('<div class="pan"><img')

def test_what_the_dark_does_to_a_picture(pages):
    def png(size, colour):
        Image.new('RGB', size, colour).save(out := BytesIO(), 'png')
        return {'data': {PNG: b64encode(out.getvalue()).decode()}}
    assert kinds(png((1000, 360), 'white')) == ['wide', 'paper'] and kinds(png((600, 300), '#440154')) == [] and kinds({}) == []
    maps = pages['model.html'].partition('<article')[2]
    assert re.search(r'<svg[^>]*class="plot"', maps) and '<image' in maps and '<img' not in maps    # heat maps are part of a drawing, which is not turned

# --- in a browser: one start, each page loaded once, in two widths, each of them in light and dark -----------------------------------------

WATCH = """<script>const wrong = []; addEventListener('error', e => wrong.push(e.message || 'not loaded: ' + (e.target.src || e.target.href)), true)
console.error = (...said) => wrong.push(said.join(' '))</script>"""
PROBE = """<script>function measure() {
const all = what => [...document.querySelectorAll(what)], seen = e => e.clientWidth && e.getClientRects().length
const scrolls = e => e.scrollWidth > e.clientWidth + 1, median = o => o.sort((a, b) => a - b)[o.length >> 1]
const channels = colour => (colour.match(/[\\d.]+/g) || []).map(Number)
const light = colour => channels(colour).slice(0, 3).map(o => o/255).map(o => o <= .03928 ? o/12.92 : ((o + .055)/1.055)**2.4).reduce((sum, o, i) => sum + o*[.2126, .7152, .0722][i], 0)
function ground(e) { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor; if ((channels(c)[3] ?? 1) > .5) return c } return 'rgb(255, 255, 255)' }
function contrast(e) { const [a, b] = [light(getComputedStyle(e).color), light(ground(e))].sort((a, b) => b - a); return (a + .05)/(b + .05) }
function faint(theme) {
  document.body.dataset.theme = theme
  const kinds = new Map()
  for (const e of all('article p, article h1, article h2, article li, article td, article th, article .facts, article .subtitle, article a, article code, .highlight pre, .highlight span[class], figcaption, summary, .sidebar-tree a, .toc-tree a'))
    if (seen(e) || e.getClientRects().length) { const key = e.tagName + e.className + (e.parentElement.tagName == 'A') + !!e.closest('.highlight') + !!e.closest('table'); if (!kinds.has(key) && !e.closest('.output.text_html, svg, .sd')) kinds.set(key, e) }
  return [...kinds].filter(([, e]) => contrast(e) < 4.495).map(([key, e]) => theme + ' ' + key + ' ' + contrast(e).toFixed(2))
}
const prose = all('article p').filter(e => seen(e) && e.textContent.length > 150 && !e.closest('table, details, li, .ways, .facts') && e.offsetWidth > 300)
const lines = e => Math.max(1, Math.round(e.offsetHeight/parseFloat(getComputedStyle(e).lineHeight)))
const here = document.querySelector('.sidebar-tree a.current'), box = here && here.closest('.sidebar-scroll').getBoundingClientRect(), entry = here && here.getBoundingClientRect()
const toc = document.querySelector('.toc-drawer')
parent.postMessage({page: '%s', width: innerWidth, wrong, faint: innerWidth > 700 ? [...faint('light'), ...faint('dark')] : [],
  outside: performance.getEntriesByType('resource').map(o => o.name).filter(o => !/^(file|data|blob):/.test(o)),
  wide: Math.max(...all('html, body, .page, .main, .content').filter(seen).map(e => e.scrollWidth - e.clientWidth)),
  spills: all('article p, article li, article table').filter(e => seen(e) && !e.closest('.output, pre, .table-wrapper, math') && e.getBoundingClientRect().right > innerWidth).length,
  code: all('div.cell_input pre').filter(seen).length, scrolling: all('div.cell_input pre').filter(e => seen(e) && scrolls(e)).length,
  broken: all('article .word').filter(e => e.getClientRects().length > 1).map(e => e.textContent).slice(0, 5),
  silent: all('article pre, article .output, article .table-wrapper, article div.math, article .pan, .still').filter(e => seen(e) && scrolls(e) && e.scrollWidth > e.clientWidth + 2 && !e.classList.contains('more')).length,
  cut: all('article math, article svg, article img, article pre, article input').filter(e => e.getClientRects().length && e.getBoundingClientRect().right > innerWidth + 1 && !e.closest('pre, .output, .table-wrapper, .math, .pan, .still, .scroll')).map(e => e.outerHTML.slice(0, 80)).slice(0, 3),
  stacked: innerWidth > 700 ? 0 : all('.table-wrapper').filter(e => e.querySelector('table.stack') && scrolls(e)).length,
  characters: prose.length > 4 ? median(prose.map(e => e.textContent.length/lines(e))) : 0,
  stops: all('article [tabindex="0"]').filter(e => !scrolls(e) && seen(e) && !e.matches('button, a, input, svg, [role]')).length, unreachable: all('article pre, .table-wrapper').filter(e => seen(e) && scrolls(e) && e.tabIndex < 0).length,
  lost: entry && innerWidth > 1000 && (entry.top < box.top || entry.bottom > box.bottom), contents: toc && !toc.classList.contains('no-toc') ? toc.getBoundingClientRect().right <= innerWidth && toc.clientWidth > 0 : null,
  hits: all('#search-results li').length}, '*')
}
addEventListener('load', () => setTimeout(measure, 2500))
addEventListener('message', () => setTimeout(measure, 500))</script>"""
HARNESS = """<!doctype html><body><pre id="out"></pre>%s<script>const got = [];
addEventListener('message', e => {
  if (!e.data.page) return
  got.push(e.data)
  document.getElementById('out').textContent = JSON.stringify(got)
  const frame = [...document.querySelectorAll('iframe')].find(o => o.contentWindow == e.source)
  if (frame.width == '390') return frame.remove()
  frame.width = '390'
  e.source.postMessage('again', '*')
})</script>"""
WIDTHS = 1280, 390
ONE_TEMPLATE = 'reference/', 'commands/'

def sample(pages):
    "Names of the pages to look at: all, but of those that come from one template the heaviest, and every eighth of the others"
    alike = [sorted((name for name in pages if name.startswith(folder)), key=lambda name: -len(pages[name])) for folder in ONE_TEMPLATE]
    return [name for name in pages if not name.startswith(ONE_TEMPLATE)] + [name for names in alike for name in names[::8]]

@pytest.fixture(scope='session')
def looked(site, pages, shared):
    "What a browser sees of the pages, opened from a folder: `{(page, width): measures}`; looked at once, also if several processes test it"
    browser = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)
    if not browser: pytest.skip('no Chromium here (apt-get install chromium)')
    with one_at_a_time(shared/'looked.lock'):
        if not (kept := shared/'looked.json').exists(): kept.write_text(json.dumps(look(browser, site, pages, shared/'looked')), encoding='utf-8')
    got = json.loads(kept.read_text(encoding='utf-8'))
    assert {(o['page'], o['width']) for o in got} == {(name, width) for name in sample(pages) for width in WIDTHS}, 'not every page answered'
    return {(o['page'], o['width']): o for o in got}

def look(browser, site, pages, folder):
    "The measures of a `sample` of the pages, from one start of the browser"
    shutil.copytree(site, folder/'site')
    frames = []
    for name in sample(pages):
        text = pages[name]
        (folder/'site'/name).write_text(text.replace('<head>', f'<head>{WATCH}').replace('</body>', PROBE % name + '</body>'), encoding='utf-8')
        query = '?q=learning' if name == 'search.html' else ''
        frames.append(f'<iframe src="site/{name}{query}" width="{WIDTHS[0]}" height="844"></iframe>')
    (folder/'harness.html').write_text(HARNESS % ''.join(frames), encoding='utf-8')
    cmd = [browser, '--headless', '--no-sandbox', '--disable-gpu', '--no-first-run', '--disable-background-networking', f'--user-data-dir={folder/"profile"}',
           '--virtual-time-budget=20000', '--dump-dom', (folder/'harness.html').as_uri()]
    dom = subprocess.run(cmd, capture_output=True, text=True, timeout=300).stdout
    return json.loads(html.unescape(re.search(r'<pre id="out">(.*?)</pre>', dom, re.S)[1]) or '[]')

def found(looked, measure): return {at: o[measure] for at, o in looked.items() if o[measure]}

@pytest.mark.parametrize('measure', ['wrong', 'outside', 'faint', 'spills', 'cut', 'silent', 'broken', 'stacked', 'stops', 'unreachable', 'lost'])
def test_nothing_is_wrong_in_a_browser(looked, measure):
    "No error, no request to elsewhere, no text below a contrast of 4.5, nothing outside the window, nothing that scrolls without saying so, no flag in two lines, no entry of a table that must be scrolled, no useless tab stop, the sidebar at the current page"
    assert not found(looked, measure), dict([*found(looked, measure).items()][:6])

def test_nothing_is_wider_than_the_window(looked):
    "Neither on a screen nor on a phone (outputs and tables scroll inside)"
    assert not {at: o['wide'] for at, o in looked.items() if o['wide'] > 0}

def test_code_and_prose_fit(looked):
    "Code that must be scrolled is an exception; prose has some seventy characters a line; the contents are visible beside it"
    for width in WIDTHS:
        code, scrolling = (sum(o[what] for (_, w), o in looked.items() if w == width) for what in ('code', 'scrolling'))
        assert scrolling <= code/100, f'{scrolling} of {code} blocks scroll at {width} px'
    long = {page: o['characters'] for (page, width), o in looked.items() if width == WIDTHS[0] and page != 'bibliography.html'   # a list, no prose
            and not 60 <= (o['characters'] or 70) <= 85}
    assert not long, long
    assert looked['attention.html', 1280]['contents'] and not looked['attention.html', 390]['contents']

def test_paper_has_no_frame():
    "What belongs to a screen is not printed, code is wrapped, and what is folded is open"
    printed = (CFG.config_path/'docs'/'_static'/'site.css').read_text(encoding='utf-8').partition('@media print')[2]
    for part in ('.skip-to-content', '.sidebar-drawer', '.toc-drawer', 'button.copybtn', 'white-space: pre-wrap', '::details-content'): assert part in printed, part

def test_search_from_files(looked): assert looked['search.html', 390]['hits'] > 0
