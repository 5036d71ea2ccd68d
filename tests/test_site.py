"The documentation site: built without warnings, complete, readable without a network, and on a phone."
import html, json, os, re, shutil, subprocess, sys
from contextlib import contextmanager
from pathlib import Path
import pytest
from nbdev.config import get_config
from book_stats import notebooks
from build_docs import page_name

try: import fcntl
except ImportError: fcntl = None

CFG = get_config()

@contextmanager
def one_at_a_time(path):
    "A block that only one of the processes of a test run can be in"
    with open(path, 'w') as file:
        if fcntl: fcntl.flock(file, fcntl.LOCK_EX)
        yield

@pytest.fixture(scope='session')
def site(tmp_path_factory, root):
    "The site, built once, also if several processes test it; warnings are errors"
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if 'PYTEST_XDIST_WORKER' in os.environ else base
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

def test_local_links_lead_somewhere(site, pages):
    dead = []
    for name, text in pages.items():
        for href in re.findall(r'<a [^>]*href="([^"]+)"', text):
            target, _, anchor = html.unescape(href).partition('#')
            if re.match(r'\w+:', target): continue
            to = (site/name).parent/target.partition('?')[0] if target else site/name
            if not to.exists() or anchor and to.suffix == '.html' and f'id="{anchor}"' not in to.read_text(encoding='utf-8'): dead.append((name, href))
    assert not dead, dead[:10]

def test_no_raw_markdown_is_left_in_the_prose(pages):
    for name, text in pages.items():
        prose = re.sub(r'<(pre|code|script|style|svg)\b.*?</\1>', '', text, flags=re.S)
        prose = html.unescape(re.sub(r'<[^>]+>', '', prose))
        found = re.findall(r'.{0,40}(?:\]\(|\*\*\w|```|^:::).{0,40}', prose, re.M)
        assert not found, (name, found[:3])

def test_public_names_can_be_looked_up(pages):
    modidx = (CFG.lib_path/'_modidx.py').read_text(encoding='utf-8')
    for name in ('UserError', 'GPTConfig', 'resolve'): assert name in modidx and f'<span class="pre">{name}</span>' in pages['reference.html']
    assert 'class="api"' in pages['core.html'] and 'file to read' in pages['core.html'], 'no table of parameters'

PROBE = """<script>addEventListener('load', () => setTimeout(() => parent.postMessage({page: '%s',
  wide: Math.max(...[...document.querySelectorAll('html, body, .page, .main, .content')]
                 .filter(e => e.clientWidth).map(e => e.scrollWidth - e.clientWidth)), hits: document.querySelectorAll('#search-results li').length}, '*'), 3000))</script>"""
HARNESS = """<!doctype html><body><pre id="out"></pre>%s<script>const got = [];
addEventListener('message', e => { if (e.data.page) { got.push(e.data); document.getElementById('out').textContent = JSON.stringify(got) } })</script>"""

def test_phone_width_and_search_from_files(site, pages, tmp_path):
    "No page is wider than a phone (code and tables scroll inside), and the search answers though it was opened from a folder"
    browser = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)
    if not browser: pytest.skip('no Chromium here (apt-get install chromium)')
    shutil.copytree(site, tmp_path/'site')
    frames = []
    for name, text in pages.items():
        (tmp_path/'site'/name).write_text(text.replace('</body>', PROBE % name + '</body>'), encoding='utf-8')
        query = '?q=learning' if name == 'search.html' else ''
        frames.append(f'<iframe src="site/{name}{query}" width="390" height="844"></iframe>')
    (tmp_path/'harness.html').write_text(HARNESS % ''.join(frames), encoding='utf-8')
    cmd = [browser, '--headless', '--no-sandbox', '--disable-gpu', '--no-first-run', '--disable-background-networking', f'--user-data-dir={tmp_path/"profile"}',
           '--virtual-time-budget=20000', '--dump-dom', (tmp_path/'harness.html').as_uri()]
    dom = subprocess.run(cmd, capture_output=True, text=True, timeout=300).stdout
    got = json.loads(html.unescape(re.search(r'<pre id="out">(.*?)</pre>', dom, re.S)[1]) or '[]')
    assert {o['page'] for o in got} == set(pages), 'not every page answered'
    wide = {o['page']: o['wide'] for o in got if o['wide'] > 0}
    assert not wide, f'wider than the window, in pixels: {wide}'
    assert next(o['hits'] for o in got if o['page'] == 'search.html') > 0
