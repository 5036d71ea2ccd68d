"The pages to look things up: an entry for each public name, an anchor for each flag, nothing broken, nothing endless."
import ast, html, json, re, shutil, subprocess
import pytest
from nbdev.config import get_config
import api_tables, command_page
from reference_pages import Raises, Reference, message
from nanogpt_lit.config import COMMANDS, flat_fields
from test_site import pages, site # noqa: F401 (fixtures)

@pytest.fixture(scope='session')
def reference():
    cfg = get_config()
    return Reference(cfg.lib_path, cfg.nbs_path)

def text(page): return html.unescape(re.sub(r'<[^>]+>', '', page))

def ids(page): return re.findall(r' id="([^"]*)"', page)

def test_every_public_name_has_an_entry(pages, reference): # noqa: F811
    "Each name that a module offers, with its signature and what comes back"
    missing, entries = [], {(part, o.name): o for part, o, _ in reference.entries()}
    for path in sorted(get_config().lib_path.glob('[a-z]*.py')):
        tree = ast.parse(path.read_text(encoding='utf-8'))
        offered = next((ast.literal_eval(o.value) for o in tree.body if isinstance(o, ast.Assign) and ast.unparse(o.targets[0]) == '__all__'), [])
        for name in offered:
            part = reference.pages.get((path.stem, name))
            page = pages.get(f'reference/{part}.html', '')
            if f' id="{name}"' not in page: missing.append((path.stem, name)); continue
            o = entries[part, name]
            if o.kind == 'function' and not o.returns: missing.append((path.stem, name, 'returns'))
    assert not missing, missing[:10]

def test_an_entry_says_all(pages): # noqa: F811
    "Signature with types and defaults, what comes back, errors and their reasons, and the way to the explanation and back"
    page = pages['reference/generate.html']
    entry = text(page[page.index(' id="sample_next"'):page.index(' id="sample_next"') + 9000])
    for said in ('temperature: float = 1.0', 'torch.Tensor', 'Returns', 'Raises', 'UserError', 'expected 0 (always the likeliest) or more', 'Explained in 23 Generation'): assert said in entry, said
    assert 'href="../generate.html#generate-sample-next"' in page
    assert 'href="reference/generate.html#sample_next"' in pages['generate.html']

def test_anchors_are_unique_and_methods_have_theirs(pages): # noqa: F811
    for name, page in pages.items():
        if not name.startswith(('reference', 'commands')): continue
        twice = {o for o in ids(page) if ids(page).count(o) > 1} if len(ids(page)) > len({*ids(page)}) else {}
        assert not twice, (name, twice)
    assert ' id="KVCache.update"' in pages['reference/attention.html'] and ' id="GPT.generate"' in pages['reference/model.html']

def test_every_flag_has_its_anchors(pages): # noqa: F811
    "`commands.html#flag`, `commands.html#command-flag`, `commands.html#alias`, and one on the page of its command"
    here = {*ids(pages['commands.html'])}
    for word, cmds in command_page.commands().items():
        there = {*ids(pages[f'commands/{word}.html'])}
        for cmd in cmds:
            for name in flat_fields(cmd.config): assert {name, command_page.anchor(cmd.name, name)} <= here and command_page.place(cmd.name, name) in there, (cmd.name, name)
    aliases = {o for names in command_page.others(command_page.flags()).values() for o in names}
    assert aliases and aliases <= here and {*command_page.TRANSLATE, *command_page.NO_EFFECT} <= here
    owner = re.search(r'<div class="knob" id="learning_rate">.*?</div></div>', pages['commands.html'])[0]
    assert 'id="train-learning_rate"' in owner and 'id="lr"' in owner, 'the plain anchor is not that of the main command'
    named = re.findall(r'<a class="own" href="#([\w.-]+)">', pages['commands.html'])
    assert len(named) == len({*named}), 'a flag has more than one row'
    meaning = re.search(r'<div class="meaning" id="export-dtype">.*?</div>', pages['commands.html'])[0]
    assert text(meaning).split() == 'export of the numbers in the file; q8_0: eight bits, in blocks with a scale each (gguf only) float32 bfloat16 float16 q8_0 = float32'.split(), text(meaning)

def test_flags_are_told_in_full(pages): # noqa: F811
    "A | in a help text is a |, and what stands beside it is no alias"
    bars = [(cmd.name, k) for cmds in command_page.commands().values() for cmd in cmds for k in flat_fields(cmd.config).values() if '|' in k.help]
    assert bars
    for command, knob in bars:
        page = pages[f'commands/{command_page.page_of(command)}.html']
        row = re.search(rf'<div class="knob" id="{command_page.place(command, knob.name)}">.*?</div></div>', page, re.S)[0]
        assert knob.help.replace('`', '').split('|')[1][:12] in text(row), row
    also = {o for names in re.findall(r'class="also">(.*?)</span>(?= <span class="where"|<div class="meaning"|</div>)', pages['commands.html']) for o in re.findall(r'--[\w.|<>]+', text(names))}
    assert also == {f'--{o}' for names in command_page.others(command_page.flags()).values() for o in names}

def test_no_row_of_a_table_is_broken(pages): # noqa: F811
    for name, page in pages.items():
        for table in re.findall(r'<table class="docutils.*?</table>', page, re.S):
            width = {len(re.findall(r'<t[hd][ >]', row)) for row in re.findall(r'<tr.*?</tr>', table, re.S)}
            assert len(width) == 1 or 'colspan' in table, (name, width, text(table)[:200])
    rows = [('a', 'int | None', "'|'", 'this | that')]
    assert [len(re.split(r'(?<!\\)\|', line)) for line in api_tables.table(rows).splitlines()] == [6, 6, 6]

def test_flags_in_the_prose_are_links(pages): # noqa: F811
    known = {'max_steps', 'no_plot', 'lr', 'compile'}
    def inline(s): return f'<article><p><code class="docutils literal notranslate"><span class="pre">{s}</span></code></p></article>'
    for said, name in (('--max_steps', 'max_steps'), ('--max-steps</span> <span class="pre">5', 'max_steps'), ('--lr=1e-3', 'lr'), ('--no-compile', 'compile')):
        assert f'<a class="flag-link" href="../commands.html#{name}">' in command_page.linked(inline(said), '../', known), said
    for said in ('--unheard_of', 'max_steps', '--lr</span> <span class="pre">1</span> <span class="pre">--compile'): assert 'flag-link' not in command_page.linked(inline(said), '', known), said
    for left in ('<article><h2>{}</h2></article>', '<article><a href="x">{}</a></article>', '<article><pre>{}</pre></article>', '<nav>{}</nav>'):
        assert 'flag-link' not in command_page.linked(left.format(inline('--lr')[9:-10]), '', known), left
    assert 'flag-link' not in command_page.linked(inline('--lr').replace('class="docutils', 'class="plain docutils'), '', known)
    assert 'href="commands.html#grad_accum_steps"' in pages['loader.html'] and 'flag-link' not in pages['commands.html'] + pages['commands/train.html']

def test_the_old_page_of_flags_leads_on(pages, site): # noqa: F811
    assert "location.replace('commands.html' + location.hash)" in (site/'flags.html').read_text(encoding='utf-8')

def test_errors_are_read_from_the_source():
    src = """
def outer(n: int) -> int: # how many
    "Count"
    if n < 0: raise UserError(f'n={n}: expected 0 or more')
    return _inner(n)
def _inner(n):
    try: raise UserError('never seen')
    except Exception: pass
    raise ValueError('too ' 'late')
"""
    entry = [*api_tables.api(src)][0]
    assert Raises(ast.parse(src)).of(entry) == [('UserError', 'n=…: expected 0 or more'), ('ValueError', 'too late')]
    assert (entry.returns, entry.returned) == ('int', 'how many')

def test_errors_are_sentences(pages): # noqa: F811
    "No Python in braces: a value that an error names stands as ‹name›, or as …"
    def said(code): return message(ast.parse(code, mode='eval').body)
    assert said("f'{path!r} is a {kind(path)}{a if b else c}, not a file' + f': {self.cure:>5}'") == '‹path› is a …, not a file: ‹cure›'
    assert said("f'{k}={v}: expected {LEAST} or more'") == '‹setting›=…: expected … or more' and said("f'max_steps={max_steps}'") == 'max_steps=…' and said('e') == said('DIED') == ''
    told = [html.unescape(o) for name, page in pages.items() if name.startswith('reference/') for o in re.findall(r'<code class="error">(.*?)</code>', page, re.S)]
    assert len(told) > 300 and not [o for o in told if re.search(r'\{(?!step)[a-z_]\w*[.(\[!:}]|!r', o)]

SIZE = """<script>addEventListener('load', () => setTimeout(() => parent.postMessage({page: '%s', width: innerWidth, high: document.documentElement.scrollHeight,
  wide: document.documentElement.scrollWidth - innerWidth}, '*'), 200))</script>"""
HARNESS = """<!doctype html><body><pre id="out"></pre><script>const got = [];
addEventListener('message', e => { if (e.data.page) { got.push(e.data); document.getElementById('out').textContent = JSON.stringify(got) } })</script>%s"""

def test_no_page_is_endless_or_too_wide(site, pages, tmp_path): # noqa: F811
    "The pages to look things up: on a screen at most 30,000 pixels high, on a phone no wider than that"
    browser = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)
    if not browser: pytest.skip('no Chromium here (apt-get install chromium)')
    shutil.copytree(site/'_static', tmp_path/'site'/'_static')
    names = [o for o in pages if o.startswith(('reference', 'commands'))]
    large = [o for o in names if len(pages[o]) > 150_000]
    assert 'commands.html' in large and len(names) > 50
    for name in names:
        (tmp_path/'site'/name).parent.mkdir(exist_ok=True)
        still = re.sub(r'<script\b.*?</script>', '', pages[name], flags=re.S)
        (tmp_path/'site'/name).write_text(still.replace('</body>', SIZE % name + '</body>'), encoding='utf-8')
    (tmp_path/'harness.html').write_text(HARNESS % ''.join(f'<iframe src="site/{o}" width="{width}" height="900"></iframe>' for listed, width in ((large, 1280), (names, 390)) for o in listed), encoding='utf-8')
    cmd = [browser, '--headless', '--no-sandbox', '--disable-gpu', '--no-first-run', '--disable-background-networking', f'--user-data-dir={tmp_path/"profile"}',
           '--virtual-time-budget=20000', '--dump-dom', (tmp_path/'harness.html').as_uri()]
    dom = subprocess.run(cmd, capture_output=True, text=True, timeout=300).stdout
    got = json.loads(html.unescape(re.search(r'<pre id="out">(.*?)</pre>', dom, re.S)[1]) or '[]')
    assert len(got) == len(names) + len(large), 'not every page answered'
    assert not [o for o in got if o['width'] == 1280 and o['high'] > 30_000] and not [o for o in got if o['wide'] > 0], [o for o in got if o['wide'] > 0 or o['high'] > 30_000 and o['width'] == 1280]
