"Figures that answer, as the pages store them, in a real browser: moved by keys, they say what the package says."
import json, math, re
import pytest
import torch
from base64 import b64decode
import numpy as np
import browser as drive
from nbdev.config import get_config
from book_stats import notebooks
from nanogpt_lit.live import HEAVY, Live

CFG = get_config()
HARNESS = '<!doctype html><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><body style="margin:1rem">'

def figures():
    "Name of a figure → its HTML, from the outputs that the pages store"
    found = {}
    for page in notebooks(CFG.nbs_path):
        for cell in json.loads(page.read_text(encoding='utf-8'))['cells']:
            for output in cell.get('outputs', []):
                html = ''.join(output.get('data', {}).get('text/html', ''))
                if m := re.match('<figure class="live" data-figure="(.*?)"', html): found[m[1]] = html
    return found

FIGURES = figures()
each = pytest.mark.parametrize('name', [*FIGURES])

def data_of(name): return json.loads(re.search(r'<script type="application/json">(.*?)</script>', FIGURES[name], re.S)[1])

@each
def test_figure_is_light_and_can_be_read_without_scripts(name):
    html = FIGURES[name]
    scripts = re.findall(r'<script[^>]*>(.*?)</script>', html, re.S)
    assert len(scripts) == 2 and sum(len(s.encode()) for s in scripts) <= HEAVY
    assert re.search(r'aria-label="[^"]{40,}"', html), 'the alternative text is too short'
    assert len(re.search('<div class="still">(.*?)</div><figcaption>', html, re.S)[1]) > 200, 'no still picture'
    assert not re.search(r'(?:src|href)=|https?://(?!www\.w3\.org)|@import|url\((?!#)', re.sub(r'<script type="application/json">.*?</script>', '', html, flags=re.S).replace('http://www.w3.org', ''))

@each
def test_stored_figure_has_the_script_of_today(name):
    if name == 'steps': pytest.skip('its script is on its page')
    assert Live(name, {}, '-', '-').script in FIGURES[name], f'scripts/run_nbs.py stores {name} again'

# --- in the browser ----------------------------------------------------------------------------------------------------

@pytest.fixture(scope='module')
def window(tmp_path_factory):
    if not drive.found(): pytest.skip('no Chromium here (apt-get install chromium)')
    window = drive.Browser(tmp_path_factory.mktemp('profile'))
    yield window
    window.close()

class Figure:
    "A figure in the window, alone on its page"
    def __init__(self, window, folder, name):
        self.window, self.name = window, name
        page = folder/f'{name}.html'
        page.write_text(HARNESS + FIGURES[name], encoding='utf-8')
        window.complaints.clear(); window.requests.clear()
        window.window(390)
        window.open(page.as_uri())

    @property
    def shown(self): return self.window.js('document.querySelector(".stage").shown')
    def knob(self, label): return f'[aria-label="{label}"]'
    def press(self, label, *keys, times=1):
        self.window.focus(self.knob(label))
        self.window.press(*keys, times=times)
    def value(self, label): return self.window.js(f'document.querySelector({json.dumps(self.knob(label))}).getAttribute("aria-valuetext")')
    def click(self, words):
        self.window.js(f'[...document.querySelectorAll("button")].find(b => b.textContent === {json.dumps(words)}).focus()')
        self.window.press('Enter')

@pytest.fixture
def figure(window, tmp_path):
    def open_(name):
        if name not in FIGURES: pytest.fail(f'no page stores the figure {name}')
        return Figure(window, tmp_path, name)
    yield open_
    assert not window.complaints, window.complaints
    assert not [url for url in window.requests if not url.startswith(('file:', 'data:'))], window.requests
    assert window.js('document.documentElement.scrollWidth <= innerWidth'), 'wider than a phone'

@each
def test_keys_reach_every_knob(figure, name):
    f = figure(name)
    n = f.window.js('document.querySelectorAll(".stage :is(button, select, textarea, input):not([disabled])").length')
    reached = set()
    for _ in range(n + 3):
        f.window.press('Tab')
        reached.add(f.window.js('[...document.querySelectorAll(".stage :is(button, select, textarea, input)")].indexOf(document.activeElement)'))
    assert n and len(reached - {-1}) >= n - 1, f'{len(reached - {-1})} of {n} knobs'      # of radio buttons one is reached
    unnamed = f.window.js('[...document.querySelectorAll(".stage :is(select, textarea, input)")].filter(e => !e.getAttribute("aria-label")).length')
    assert not unnamed
    for dark in (False, True):
        f.window.window(1280, dark=dark)
        assert f.window.js('document.querySelector("figure").scrollWidth <= document.querySelector("figure").clientWidth')

def close(got, want, tolerance=1e-6):
    got, want = np.asarray(got, dtype=float), np.asarray(want, dtype=float)
    assert got.shape == want.shape and np.abs(got - want).max() <= tolerance, (got, want)

def test_steps(figure):
    f = figure('steps')
    f.press('size of a step', 'End')
    f.press('size of a step', 'ArrowLeft', times=2)
    rate = float(f.value('size of a step'))
    close([y for _, y in f.shown], [2*(1 - 2*rate)**i for i in range(11)])

def test_knobs(figure):
    from nanogpt_lit.generate import next_token_probs
    f = figure('knobs')
    scores = [torch.tensor(np.frombuffer(b64decode(p['scores']), '<i2')/100) for p in data_of('knobs')['prompts']]
    def compare(prompt, **knobs):
        want = next_token_probs(scores[prompt][None], **knobs)[0]
        close(f.shown['odds'], want, 2e-6)
        assert f.shown['left'] == int((want > 0).sum())
    compare(0)
    f.press('after the text', 'ArrowDown', times=2)
    f.press('temperature', 'ArrowRight', times=4)
    assert f.value('temperature') == '1.20'
    compare(2, temperature=1.2)
    f.press('top-k', 'ArrowLeft', times=2)
    assert f.value('top-k') == '50'
    compare(2, temperature=1.2, top_k=50)
    f.press('top-p', 'ArrowLeft', times=3)
    compare(2, temperature=1.2, top_k=50, top_p=.85)
    f.press('min-p', 'ArrowRight', times=7)
    compare(2, temperature=1.2, top_k=50, top_p=.85, min_p=.07)
    f.press('temperature', 'Home')
    compare(2, temperature=0)
    f.click('Reset')
    f.click('Draw a token')
    compare(2)
