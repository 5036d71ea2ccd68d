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
    today = Live('knobs' if name == 'steps' else name, {}, '-', '-')
    parts = [re.search('<style>.*?</style>', today._repr_html_(), re.S)[0], *([] if name == 'steps' else [today.script])]    # the script of `steps` is on its page
    assert all(part in FIGURES[name] for part in parts), f'scripts/run_nbs.py stores {name} again'

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

def test_schedule(figure):
    from nanogpt_lit.config import OptimConfig
    from nanogpt_lit.optim import SCHEDULES, lr_factor
    f = figure('schedule')
    def compare(warmup_from='next', warmup_steps=100, lr_decay_steps=None, floor=.1, cooldown_fraction=.4, steps=1000):
        for kind in SCHEDULES:
            f.window.js(f'(e => {{e.value = {json.dumps(kind)}; e.dispatchEvent(new Event("change"))}})(document.querySelector("[aria-label=schedule]"))')
            cfg = OptimConfig(learning_rate=1., min_lr=floor, schedule=kind, warmup_steps=warmup_steps, warmup_from=warmup_from, lr_decay_steps=lr_decay_steps, cooldown_fraction=cooldown_fraction)
            rates, shown = [lr_factor(s, cfg, steps) for s in range(steps)], f.shown
            close(shown['rates'], rates[::25], 1e-9)
            close([shown['mean'], shown['last']], [sum(rates)/steps, rates[-1]], 1e-9)
    assert data_of('schedule')['kinds'] == [*SCHEDULES]
    compare()
    f.press('warmup_from', 'ArrowDown')
    f.press('warmup_steps', 'ArrowLeft', times=3)
    f.press('max_steps', 'ArrowRight', times=4)
    f.press('min_lr / peak', 'ArrowRight')
    compare('zero', 70, None, .15, .4, 1400)
    f.press('lr_decay_steps', 'ArrowRight', times=8)
    f.press('schedule', 'Home')
    f.press('schedule', 'ArrowDown', times=[*SCHEDULES].index('wsd'))
    f.press('cooldown_fraction', 'ArrowLeft')
    compare('zero', 70, 800, .15, .35, 1400)
    f.press('warmup_steps', 'End')
    f.press('lr_decay_steps', 'Home')
    f.press('lr_decay_steps', 'ArrowRight', times=4)
    compare('zero', 500, 400, .15, .35, 1400)                 # a warm-up beyond the horizon

TEXTS = ['It was the best of times, it was the worst of times, it was the age of wisdom', 'for i in range(10):\n    print(i)\n    print(i + 1)\n\n\nfor j in range(9): pass',
         "猫猫猫 naïve — 'tis we'll  go\u00a0\u2003there\x85\x1c now\ufeff🐈🐈", 'aaaaaaaaaaaaa aaaa bbbabbbabbb abababab', '']

def test_merges(figure):
    "The merges of the package's trainer, on texts that the reader writes"
    from collections import Counter
    import regex
    from nanogpt_lit.bpe import GPT2_PATTERN, train_bpe
    from nanogpt_lit.tokenizer import Tokenizer
    f = figure('merges')
    def compare(text, n):
        shown, counts = f.shown, Counter(p.encode() for p in regex.findall(GPT2_PATTERN, text))
        merges = train_bpe(dict(counts), 200)
        assert [tuple(map(bytes, pair)) for pair in shown['merges']] == merges
        tokenizer = Tokenizer.from_merges(merges[:n], [])         # which numbers the 256 bytes as GPT-2 does
        assert shown['n'] == min(n, len(merges)) and shown['ids'] == [i if i > 255 else tokenizer.token_bytes(i)[0] for i in tokenizer.encode(text)]
    sennrich = data_of('merges')['text']
    compare(sennrich, 0)
    assert f.shown['tied'] == 2
    f.click('merge →')
    f.press('the text as tokens', 'ArrowRight', times=6)
    f.press('the text as tokens', 'ArrowLeft')
    compare(sennrich, 6)
    assert '256' in f.window.js('document.querySelector(".stage").textContent')
    for text in TEXTS:
        f.window.focus(f.knob('your text'))
        f.window.js('document.querySelector("textarea").select()')
        f.window.press('Backspace')
        f.window.write(text)
        assert f.window.js('document.querySelector("textarea").value') == text
        f.press('merges', 'ArrowRight', times=3)
        compare(text, 3)

def test_attention(figure):
    from nanogpt_lit.attention import causal_mask
    f, data = figure('attention'), data_of('attention')
    T = len(data['tokens'])
    scores = torch.tensor(np.frombuffer(b64decode(data['scores']), '<i2')*data['unit']).view(data['layers'], data['heads'], T, T)
    def compare(layer, head, temperature, mask):
        want = (scores[layer, head]/temperature).masked_fill(~mask, -math.inf).softmax(-1)
        close(f.shown['weights'], want)
    compare(data['layer'], data['head'], 1, causal_mask(T))
    f.press('layer', 'Home')
    f.press('head', 'Home')
    f.press('temperature', 'ArrowLeft', times=2)
    compare(0, 0, .5, causal_mask(T))
    f.press('mask', 'ArrowDown')
    compare(0, 0, .5, causal_mask(T, window=4))
    f.press('mask', 'End')
    f.press('layer', 'End')
    compare(data['layers'] - 1, 0, .5, torch.ones(T, T, dtype=torch.bool))
    f.press('token that asks', 'ArrowLeft', times=3)
    assert f'(token {T - 4}) listens to' in f.window.js('document.querySelector(".said").textContent')

def test_sizes(figure):
    "The arithmetic of `nanogpt plan`, for its presets"
    from dataclasses import replace
    from nanogpt_lit.config import PRESETS, RunConfig, build
    from nanogpt_lit.sizing import flops_per_token, flops_table, known_peak, param_table, training_memory
    f, presets = figure('sizes'), data_of('sizes')['presets']
    f.window.js("window.set = (label, value) => { const e = document.querySelector(`[aria-label='${label}']`); e.value = value; e.dispatchEvent(new Event(e.tagName === 'SELECT' ? 'change' : 'input')) }")
    def same_memory(shown, need, toy):
        peak, memory = need.pop('at most, at one time'), {k: v for k, v in shown['memory'].items() if v}
        assert memory.keys() == need.keys()
        for part, n in need.items(): assert abs(memory[part] - n) <= 1e-4*n + 8000, part
        assert toy or .8 < peak/shown['bytes'] < 1.25
    def compare(cfg, batch, dtype, tokens=1e10, toy=False, memory=True):
        shown = f.shown
        assert {k: v for k, v in param_table(cfg).items() if v} == shown['parts'] and flops_table(cfg) == shown['flops']
        if memory: same_memory(shown, training_memory(replace(cfg, attn_impl='sdpa'), batch, dtype), toy)
        close(shown['seconds'], tokens*flops_per_token(cfg)/(.4*known_peak('H100 80GB HBM3', dtype, tf32=True)), 1)
    for name, batch, dtype in (('gpt2', 4, 'bfloat16'), ('gpt2-medium', 1, 'float32'), ('gpt2-xl', 8, 'bfloat16')):
        cfg = build(RunConfig, PRESETS[name]).model
        f.window.js(f"set('preset', '{name}'), set('batch_size', {batch}), set('dtype', '{dtype}')")
        compare(replace(cfg, **presets[name]), batch, dtype, memory=name != 'gpt2-xl')        # whose rehearsal takes seconds
    f.press('n_layer', 'Home')
    f.press('n_layer', 'ArrowRight')
    f.press('n_embd', 'Home')
    f.press('block_size', 'Home')
    f.press('vocab_size', 'Home')
    f.press('vocab_size', 'ArrowRight')
    assert f.window.js('document.querySelector("select").value') == 'my own'
    compare(replace(cfg, n_layer=2, n_head=1, n_embd=64, block_size=64, vocab_size=1024), 8, 'bfloat16', toy=True)

def test_moments(figure):
    f, data = figure('moments'), data_of('moments')
    def compare(i):
        step, bits = data['val'][i]
        sample = max((o for o in data['samples'] if o[0] <= step), default=None)
        shown = f.shown
        assert (shown['step'], shown['bits']) == (step, bits) and shown['passed'] == [what for what, level in data['ledger'] if level > bits]
        assert (shown.get('sample'), shown['text']) == (tuple(sample) if sample else (None, ''))
    compare(-1)
    f.press('step', 'Home')
    compare(0)
    f.press('step', 'ArrowRight', times=3)
    compare(3)
    f.press('step', 'ArrowRight')
    compare(4)

def test_ranks(figure):
    from nanogpt_lit.loader import BatchPlan, TokenRow
    f, data = figure('ranks'), data_of('ranks')
    def compare(world=4, n_micro=1, batch=8, step=0, sampling='epoch', seed=1337):
        plan = BatchPlan(TokenRow([np.arange(data['tokens'])]), batch_size=batch, block_size=data['T'], seed=seed, sampling=sampling)
        want = [[plan.batch(step, rank, world, micro, n_micro)[0][:, 0].tolist() for micro in range(n_micro)] for rank in range(world)]
        assert f.shown['parts'] == want
    compare()
    f.press('step', 'ArrowRight', times=13)
    f.press('world_size', 'ArrowLeft', times=2)
    f.press('micro-steps', 'End')
    compare(1, 4, step=13)
    f.press('world_size', 'End')
    f.press('windows per step', 'End')
    f.press('seed', 'ArrowLeft', times=4)
    compare(8, 4, 32, 13, seed=1333)
    for sampling in ('random', 'sequential'):
        f.press('sampling', 'ArrowDown')
        compare(8, 4, 32, 13, sampling, 1333)

def test_packing(figure):
    from nanogpt_lit.loader import pack_lengths
    from nanogpt_lit.model import segment_layout
    f = figure('packing')
    def compare(lengths, T, row=0):
        counts = np.bincount([n for n in lengths if n <= T], minlength=T + 1)
        rows = [list(inside) for times, inside in pack_lengths(counts) for _ in range(times)]
        shown = f.shown
        assert shown['rows'] == rows
        segments = np.repeat([*range(len(rows[row])), -1], [*rows[row], T - sum(rows[row])])
        place, may = segment_layout(torch.tensor(segments)[None])
        assert shown['may'] == may[0].tolist() and shown['place'] == place[0].tolist()
        close(shown['padding'], 1 - sum(map(sum, rows))/(len(rows)*T))
    lengths = data_of('packing')['lengths']
    compare(lengths, 24)
    f.press('row, positions', 'ArrowRight', times=7)
    f.press('row shown', 'ArrowRight', times=2)
    compare(lengths, 31, row=2)
    f.press('row, positions', 'ArrowLeft', times=18)
    f.press('row shown', 'Home')
    compare(lengths, 13)
    f.window.focus(f.knob('lengths of the examples'))
    f.window.js('document.activeElement.select()')
    f.window.write('5 5 5 5 5 3 3 3 3 2 2 2 13 1 1 1 1, 9; 4 40')
    compare([5]*5 + [3]*4 + [2]*3 + [13] + [1]*4 + [9, 4, 40], 13)
    f.press('mask', 'ArrowDown')
    assert f.shown['may'] == np.tri(13, dtype=bool).tolist()
    f.press('position that looks', 'End')
    assert 'Position 12' in f.window.js('document.querySelector(".stage").textContent')

POCKET = CFG.config_path/'docs'/'_static'/'pocket_model.js'

def test_pocket(figure, tmp_path):
    "The model in the page computes what torch computes, from the same eight-bit weights and (to a hundredth of what matters) from those of 32 bits"
    import shutil
    from nanogpt_lit.pocket import read_pocket
    (tmp_path/'_static').mkdir()
    shutil.copy(POCKET, tmp_path/'_static')
    f, (model, facts) = figure('pocket'), read_pocket(POCKET)
    state = lambda: f.window.js('(document.querySelector(".stage").shown || {}).state')
    def wait_for(wanted):
        for _ in range(200):
            if state() == wanted: return
            f.window.js('new Promise(r => setTimeout(r, 50))')
        pytest.fail(f'not {wanted}: {f.window.js("document.querySelector(`.said`).textContent")}')
    f.press('temperature', 'Home')
    f.window.focus('.row button')
    f.window.press('Enter')
    wait_for('loaded')
    f.window.focus(f.knob('beginning of the text'))
    f.window.js('document.activeElement.select()')
    f.window.write(facts['witness']['text'])
    f.click('Write')
    for _ in range(100):
        if f.window.js('document.querySelector("pre").textContent.length') > 200: break
        f.window.js('new Promise(r => setTimeout(r, 50))')
    f.click('Stop')
    wait_for('done')
    ids = [*facts['witness']['text'].encode()]
    with torch.no_grad(): logits = model(torch.tensor([ids]))[0][0, -1]
    close(f.shown['logits'], logits, 1e-4)
    got, full = torch.tensor(f.shown['logits']).log_softmax(-1), torch.tensor(facts['witness']['logits']).log_softmax(-1)
    assert (got - full).abs()[full.topk(20).indices].max() < .25 and (got.exp() - full.exp()).abs().max() < .02
    written = f.shown['bytes']
    assert f.shown['perSecond'] > 20 and len(written) > 190
    with torch.no_grad(): greedy = model(torch.tensor([written[:190]]))[0][0].topk(2)
    for i in range(len(ids), 190):
        best, second = greedy.values[i - 1].tolist()
        assert written[i] == greedy.indices[i - 1, 0] or best - second < 1e-3
