"""The search of the site: who asks as readers do, for a flag or for a name, gets the right section first.

The real `search.js` answers all of it in one start of a headless browser; without one, the index and what it is made from are still compared.
"""
import html, json, re, shutil, subprocess
import pytest
from nbdev.config import get_config
import command_page, search_index
from reference_pages import Reference
from test_site import one_at_a_time, pages, site # noqa: F401 (fixtures)

# What readers type, and where the answer is: beginnings of addresses. Learners, people from other code bases, researchers; words, questions, names, mistakes
QUERIES = {
    'resume': 'checkpoint.html tutorials/ run.html#going-on commands.html#resume commands.html#auto_resume',
    'resume a killed run': 'tutorials/resume checkpoint.html factory.html#killed checkpoint.html#kill-it',
    'learning rate': 'optim.html pretrain.html#which-rate commands.html#learning_rate',
    'learning rate schedule': 'optim.html#schedules groups.html#schedules',
    'bits per byte': 'guess.html#nats-bits evaluate.html#bits-per-byte',
    'warmup': 'optim.html#why-a-run-warms-up optim.html#schedules commands.html#warmup_steps',
    'why warm up': 'optim.html#why-a-run-warms-up',
    'two gpus': 'tutorials/two_gpus', 'two gpu': 'tutorials/two_gpus', 'use two GPUs': 'tutorials/two_gpus', 'multi gpu': 'tutorials/two_gpus',
    'my own data': 'tutorials/own_', 'continue training': 'tutorials/resume', 'jsonl': 'tutorials/own_jsonl', 'train on my own JSONL': 'tutorials/own_jsonl',
    'train on several machines': 'launch.html distributed.html fleet.html tutorials/',
    'own jsonl': 'tutorials/own_jsonl',
    'train on my own text': 'tutorials/own_text',
    'export to hugging face': 'commands/export interop.html#out sample.html#nanogpt-import tutorials/',
    'convert to huggingface': 'commands/export interop.html#out sample.html#nanogpt-import tutorials/ commands/import',
    'load gpt2 weights': 'interop.html translate.html checkpoint_files.html#weights commands/import commands.html#start_from tutorials/',
    'tie rule': 'bpe.html#the-tie-rule',
    'flash attention': 'attention.html#without-holding-all-the-scores quick_attention.html#which-kernel-runs',
    'dropout': 'commands.html#dropout options.html model.html',
    'kv cache': 'quick_attention.html#the-cache quick_attention.html#quick-attention-kvcache generate.html#and-in-ten decode.html',
    'top_p': 'commands.html#top_p generate.html#cutting-off-the-tail',
    'nucleus sampling': 'generate.html#cutting-off-the-tail',
    'temperature': 'generate.html#temperature commands.html#temperature',
    'out of memory': 'run.html#memory trainer.html#failure-1 estimates.html sizing.html#memory',
    'oom': 'run.html#memory trainer.html#failure-1 estimates.html sizing.html#memory',
    'hellaswag': 'evaluate.html commands.html#hellaswag exams.html race.html',
    'gradient clipping': 'optim.html#clipping',
    'gradient accumulation': 'trainer.html#failure-1 loader.html#what-grad commands.html#grad_accum_steps glossary.html#word-accumulation',
    'grad accum': 'loader.html#what-grad commands.html#grad_accum_steps',
    'grad-accum-steps': 'loader.html#what-grad commands.html#grad_accum_steps',
    'perplexity': 'guess.html#nats-bits glossary.html#word-perplexity evaluate.html',
    'causal mask': 'attention.html',
    'rotary embeddings': 'attention.html#where-am-i quick_attention.html',
    'residual stream': 'model.html#the-residual-stream',
    'weight decay': 'optim.html#what-decays commands.html#weight_decay',
    'muon optimizer': 'optim.html',
    'adamw': 'optim.html#adamw-by-hand optim.html',
    'lora rank': 'lora.html commands.html#lora_rank',
    'chat template': 'instructions.html#the-chat-template tokenizer.html#how-a-chat',
    'special tokens': 'encode.html#special-tokens tokenizer.html#more-special commands.html#special_tokens fast_bpe.html#documents-and',
    'how many tokens should i train on': 'pretrain.html#how-many-parameters sizing.html#how-much-text',
    'how long will training take': 'sizing.html#time care.html#how-long tutorials/ pretrain.html#how-long estimates.html',
    'loss is nan': 'trainer.html#failure-4 monitor.html#where-did-the-nan',
    'overfitting': 'monitor.html callbacks.html commands.html#stop_on_overfit tutorials/ glossary.html#word-overfitting pretrain.html#when-to-stop',
    'early stopping': 'callbacks.html pretrain.html#when-to-stop commands.html',
    'mixed precision': 'trainer.html#failure-2 glossary.html#word-mixed commands.html#dtype',
    'torch.compile': 'care.html#compiling trainer.html#failure-8 commands.html#compile decode.html#a-compiled-step',
    'ctrl-c': 'trainer.html#failure-7',
    'power cut': 'factory.html#the-power-cut core.html#writing',
    'slurm': 'launch.html#slurm',
    'fsdp': 'sharded.html commands.html#fsdp slices.html',
    'catastrophic forgetting': 'instructions.html#not-to-forget finetune.html#remedies tuning.html',
    'dpo': 'preference.html commands.html#dpo',
    'nanogpt flags': 'coming/from_nanogpt command_tables.html commands.html',
    'config/train_shakespeare_char.py': 'command_tables.html settings.html tutorials/ commands.html',
    'tokenise chinese': 'tutorials/ tokenizer.html tokens.html encode.html tokenizer.html#one-id commands.html token_commands.html bpe.html',
    'merge two tokens bpe by hand': 'bpe.html#four-words-by-hand bpe.html#the-loop bpe.html',
    'presets': 'command_tables.html#presets commands.html#presets',
    'scaling laws': 'pretrain.html sizing.html',
    'memory of a training run': 'sizing.html#memory run.html#memory sharded.html#what-is-in-memory estimates.html',
    'mmap token file': 'token_files.html shards.html',
    'induction heads': 'model.html attention.html options.html race.html bibliography.html quick_attention.html',
    'repetition penalty': 'generate.html#not-again commands.html#repetition_penalty streams.html',
    'deterministic': 'core.html#repeatable trainer.html#failure-9 commands.html#deterministic care.html',
    'what did not help': 'negative.html',
    'pickle safety': 'interop.html#pickles checkpoint.html#one-file foreign.html#old-pickles',
}
QUERIES = {query: places.split() for query, places in QUERIES.items()}

NEWCOMERS = { # in everyday words; among the first two
    'how do i stop training early': 'pretrain.html#when-to-stop', "my loss doesn't go down": 'pretrain.html#mistakes', 'validation loss goes up': 'monitor.html#learning-by-heart', 'training is slow': 'trainer.html#failure-8',
    'which gpu do i need': 'tutorials/one_gpu', 'how much gpu memory do i need': 'sizing.html', 'can i train on a cpu': 'tutorials/own_text', 'mac m1': 'commands.html#device', 'train without internet': 'guess.html#a-text',
    'getting started': 'quickstart.html', 'what batch size should i use': 'pretrain.html#which-rate', 'hyperparameter search': 'pretrain.html#which-rate', 'how big should the vocabulary be': 'tokens.html#what-a-vocabulary-costs',
    'how do i use my own tokenizer': 'tokenizer.html token_commands.html', 'how do i generate text': 'generate.html streams.html', 'chat with my model': 'chat.html commands/chat', 'make the model answer questions': 'finetune.html instructions.html',
    'why does the text repeat itself': 'generate.html', 'delete old checkpoints': 'checkpoint.html#at-the-right', 'where are my checkpoints saved': 'checkpoint.html#saving', 'keep training after it finished': 'tutorials/resume',
    'gguf llama.cpp': 'tutorials/hugging_face', 'convert nanogpt checkpoint': 'sample.html#nanogpt-import', 'plot the loss curve': 'commands/plot monitor.html', 'same result every time': 'core.html#repeatable', 'disk full': 'checkpoint_files.html#no-space',
    'csv file': 'records.html#tables-of-lines', 'system prompt': 'chat.html commands.html#system', 'dtype of export': 'commands.html#export-dtype', 'checkp': 'checkpoint.html', 'resume flag': 'tutorials/resume commands.html#resume'}
NEWCOMERS = {query: places.split() for query, places in NEWCOMERS.items()}

TASKS = { # from the landing page, one search each
    'resume a killed run': 'tutorials/ checkpoint.html factory.html#killed', 'default of grad_accum_steps': 'commands.html#grad_accum_steps', 'signature of generate': 'streams.html#streams-generate reference/generate',
    'own jsonl': 'tutorials/own_jsonl', 'two gpus': 'tutorials/two_gpus', "nanogpt's flags": 'coming/from_nanogpt commands.html command_tables.html',
    'bpe tie rule': 'bpe.html#the-tie-rule', 'export to hugging face': 'commands/export interop.html#out sample.html#nanogpt-import tutorials/'}
TASKS = {query: places.split() for query, places in TASKS.items()}

PROBE = """<script>
const asked = %s, explained = %s, words = %s, from = {}
addEventListener('message', e => { if (e.data.probe) from[e.data.probe] = e.data.got })
const wait = ms => new Promise(done => setTimeout(done, ms))
function press(o, key) { o.dispatchEvent(new KeyboardEvent('keydown', {key, bubbles: true, cancelable: true})) }
async function type(o, text) { o.value = text; o.dispatchEvent(new Event('input', {bubbles: true})); await wait(60) }
async function keyboard() {
  const box = document.querySelector('input[name=q]'), list = document.getElementById('search-suggestions'), steps = {}
  press(document.body, '/')
  await wait(400)
  steps.focused = document.activeElement == box
  await type(box, 'tie rule')
  steps.shown = !list.hidden && box.getAttribute('aria-expanded') == 'true'
  steps.first = list.querySelector('a').getAttribute('href')
  steps.chosen = document.getElementById(box.getAttribute('aria-activedescendant')) == list.children[0]
  press(box, 'ArrowDown')
  steps.second = list.children[1].getAttribute('aria-selected')
  press(box, 'ArrowUp')
  list.addEventListener('click', e => { e.preventDefault(); steps.went = e.target.closest('a').getAttribute('href') }, true)
  press(box, 'Enter')
  await wait(20)
  await type(box, 'tie rule')
  press(box, 'Escape')
  steps.closed = list.hidden && box.getAttribute('aria-expanded') == 'false'
  return steps
}
addEventListener('load', async () => {
  const index = await siteSearch.load(), out = {answers: {}, stems: words.map(o => siteSearch.terms(o))}
  for (const query of asked) {
    const {results, sought, visited} = index.query(query, 8)
    const explain = explained.includes(query) ? results.slice(0, 5) : []
    const told = await Promise.all(explain.map(o => siteSearch.excerptFor(o, sought))), whole = await Promise.all(explain.map(siteSearch.whole))
    out.answers[query] = {results: results.map((o, i) => ({url: o.url, reference: o.reference, also: o.also, told: told[i], says: told[i] === undefined ? 0 : siteSearch.worth(told[i], sought), could: siteSearch.worth(whole[i] || '', sought),
                                                           shows: siteSearch.worth(o.heading + ' ' + siteSearch.apart(o.heading + ' ' + o.page) + ' ' + o.also, sought)})), visited}
  }
  out.keyboard = await keyboard()
  await wait(500)
  out.frames = from
  document.documentElement.insertAdjacentHTML('beforeend', '<pre id="out"></pre>')
  document.getElementById('out').textContent = JSON.stringify(out)
})
</script>"""
FRAMES = { # a page, and what a script in it looks at
    'search.html?q=resume': "await wait(400); return {hits: document.querySelectorAll('#search-results > li').length, marks: document.querySelectorAll('#search-results mark').length}",
    'commands.html': """const box = document.querySelector('.filter input'), top = box.getBoundingClientRect().top, high = document.documentElement.scrollHeight, all = () => [...document.querySelectorAll('.knob')].filter(o => o.offsetParent).length
      const before = all(); box.value = 'grad-accum'; box.dispatchEvent(new Event('input')); const during = all(), still = box.getBoundingClientRect().top == top && document.documentElement.scrollHeight >= high - 40
      box.dispatchEvent(new KeyboardEvent('keydown', {key: 'Escape'})); return {before, during, still, after: all()}""",
    'reference.html': """const box = document.querySelector('.filter input'); box.value = 'causal mask'; box.dispatchEvent(new Event('input'))
      return {shown: [...document.querySelectorAll('.module a')].filter(o => o.offsetParent).map(o => o.textContent)}"""}
FRAME = """<script>const wait = ms => new Promise(done => setTimeout(done, ms))
addEventListener('load', async () => parent.postMessage({probe: %s, got: await (async () => { %s })()}, '*'))</script>"""

@pytest.fixture(scope='session')
def reference():
    cfg = get_config()
    return Reference(cfg.lib_path, cfg.nbs_path)

@pytest.fixture(scope='session')
def vocabulary(pages): # noqa: F811
    "Words of the book, to be stemmed by both languages"
    text = ' '.join(' '.join(o['text']) + o['heading'] for name in ('attention.html', 'optim.html', 'corpus.html', 'glossary.html', 'negative.html') for o in search_index.Sections(pages[name]).sections)
    return sorted({*re.findall(r'[a-z0-9_]+', text.lower())})

@pytest.fixture(scope='session')
def browser(site, pages, reference, vocabulary, shared): # noqa: F811
    "What the search says to everything; asked once, also if several processes test it"
    program = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)
    if not program: pytest.skip('no Chromium here (apt-get install chromium)')
    with one_at_a_time(shared/'search.lock'):
        if not (kept := shared/'search.json').exists(): kept.write_text(json.dumps(ask(program, site, pages, reference, vocabulary, shared/'search'/'site')), encoding='utf-8')
    return json.loads(kept.read_text(encoding='utf-8'))

def ask(program, site, pages, reference, vocabulary, folder): # noqa: F811
    "The answers to all questions, from a copy of a page with a script that asks"
    folder.mkdir(parents=True)
    shutil.copytree(site/'_static', folder/'_static')
    explained = [*QUERIES, *TASKS, *NEWCOMERS]
    asked = [*explained, *(f'--{o}' for o in command_page.flags()), *(o.replace('_', ' ') for o in command_page.flags()), *command_page.ALIASES, *(o.name for _, o, _ in reference.entries()), 'tie ruel']
    for address, script in FRAMES.items():
        name = address.partition('?')[0]
        (folder/name).write_text(quick(pages[name]).replace('</body>', FRAME % (json.dumps(name), script) + '</body>'), encoding='utf-8')
    frames = ''.join(f'<iframe src="{o}" width="1280" height="900"></iframe>' for o in FRAMES)
    (folder/'probe.html').write_text(quick(pages['glossary.html']).replace('</body>', PROBE % (json.dumps([*dict.fromkeys(asked)]), json.dumps(explained), json.dumps(vocabulary)) + frames + '</body>'), encoding='utf-8')
    cmd = [program, '--headless', '--no-sandbox', '--disable-gpu', '--no-first-run', '--disable-background-networking', f'--user-data-dir={folder.parent/"profile"}', '--window-size=1280,900',
           '--virtual-time-budget=30000', '--dump-dom', (folder/'probe.html').as_uri()]
    dom = subprocess.run(cmd, capture_output=True, text=True, timeout=300).stdout
    found = re.findall(r'<pre id="out">([^<]+)</pre>', dom)
    assert found, 'the page did not answer'
    return json.loads(html.unescape(found[-1]))

def quick(page): return re.sub(r'<script[^>]*src="[^"]*(?:tex-svg|clipboard|copybutton)[^"]*"[^>]*></script>', '', page) # not what is tested

def first(browser, query): return (browser['answers'][query]['results'] or [dict(url='', reference='')])[0]

def most(asked, wrong, share=.9):
    assert len(wrong) <= (1 - share)*len(asked), f'{len(asked) - len(wrong)} of {len(asked)} are right; not {wrong[:12]}'

def test_readers_find_the_section(browser):
    wrong = [(q, first(browser, q)['url']) for q, places in QUERIES.items() if not first(browser, q)['url'].startswith(tuple(places))]
    most(QUERIES, wrong)
    print(f'{len(QUERIES) - len(wrong)} of {len(QUERIES)}; not first: {wrong}')

def test_the_tasks_of_the_first_page_take_one_search(browser):
    for query, places in TASKS.items():
        urls = [o['url'] for o in browser['answers'][query]['results'][:3]]
        assert any(o.startswith(tuple(places)) for o in urls), (query, urls)

def test_everyday_words_are_understood(browser):
    found = {q: [o['url'] for o in browser['answers'][q]['results'][:2]] for q in NEWCOMERS}
    wrong = [(q, found[q]) for q, places in NEWCOMERS.items() if not any(o.startswith(tuple(places)) for o in found[q])]
    most(NEWCOMERS, wrong)

def test_an_excerpt_answers(browser):
    "Each of the first five results says a word of the question, in the excerpt or above it, and in the excerpt if the section's text does; an alias that was typed is shown"
    shown = {(q, o['url']): o for q in (*QUERIES, *TASKS, *NEWCOMERS) for o in browser['answers'][q]['results'][:5]}
    silent = [place for place, o in shown.items() if not o['says'] and not o['shows']]
    most(shown, silent, .99) # the page that the glossary leads to needn't begin with the word
    spoken = {place: o for place, o in shown.items() if o['could']}
    assert len(spoken) > .8*len(shown)
    most(spoken, [place for place, o in spoken.items() if not o['says']], .99)
    assert 'the lexicographically greater pair' in shown['tie rule', 'bpe.html#the-tie-rule']['told'], shown['tie rule', 'bpe.html#the-tie-rule']
    assert first(browser, 'per_device_train_batch_size')['also'] == '--per_device_train_batch_size'

def test_every_flag_is_found(browser):
    flags = [*command_page.flags()]
    most(flags, [o for o in flags if first(browser, f'--{o}')['url'] != f'commands.html#{o}'], .99)
    most(flags, [o for o in flags if f'commands.html#{o}' not in [r['url'] for r in browser['answers'][o.replace('_', ' ')]['results'][:3]]])
    also = {alias: name for name, aliases in command_page.others(flags).items() for alias in aliases}
    most(also, [o for o, name in also.items() if first(browser, o)['url'] != f'commands.html#{name}'])

def test_every_public_name_is_found(browser, reference, pages): # noqa: F811
    names = [(o.name, f'reference/{part}.html#{o.name}') for part, o, _ in reference.entries()]
    most(names, [o for o, place in names if first(browser, o).get('reference') != place])
    for name, _ in names:
        page, _, anchor = first(browser, name)['url'].partition('#')
        assert not anchor or f'id="{anchor}"' in pages[page], f'{name} leads to {page}#{anchor}, which is not there'

def test_no_result_leads_nowhere(browser, pages): # noqa: F811
    for query in [*QUERIES, *TASKS, *NEWCOMERS]:
        for o in browser['answers'][query]['results']:
            page, _, anchor = o['url'].partition('#')
            assert page in pages and (not anchor or f'id="{anchor}"' in pages[page]), (query, o['url'])

def test_a_query_reads_little(browser):
    "Milliseconds depend on the machine; how much of the index a query reads doesn't"
    assert max(o['visited'] for o in browser['answers'].values()) < 6000

def test_a_slip_of_the_pen_is_forgiven(browser): assert browser['answers']['tie ruel']['results']

def test_by_keyboard(browser):
    did = browser['keyboard']
    assert did['focused'] and did['shown'] and did['chosen'] and did['closed'] and did['second'] == 'true', did
    assert did['first'] == did['went'] and 'bpe.html#the-tie-rule' in did['first'] and 'fast' not in did['first'], did

def test_results_page_and_filters(browser):
    frames = browser['frames']
    assert frames['search.html']['hits'] > 3 and frames['search.html']['marks'] > 3, frames
    assert 0 < frames['commands.html']['during'] < 8 < frames['commands.html']['before'] == frames['commands.html']['after'] and frames['commands.html']['still'], frames
    assert 'causal_mask' in frames['reference.html']['shown'] and len(frames['reference.html']['shown']) < 6, frames

def test_both_languages_have_the_same_stems(browser, vocabulary):
    assert browser['stems'] == [search_index.terms(o) for o in vocabulary]
    for words in ('train training trained trains', 'resume resumed resuming', 'tokenise tokenizer tokenizing', 'optimiser optimizers', 'colour color', 'merges merging'):
        assert len({search_index.stem(o) for o in words.split()}) == 1, words

def test_the_index_is_small_and_alone(site, pages): # noqa: F811
    index = site/'_static'/'search_index.js'
    assert index.stat().st_size < 650_000 and max(o.stat().st_size for o in (site/'_static'/'search').rglob('*.js')) < 60_000
    assert not any((site/o).exists() for o in search_index.OUTSIDE) and not any('searchindex.js' in o or 'searchtools' in o for o in pages.values())
    assert 'search_index.js' not in pages['attention.html'], 'the index is loaded only by who searches'
    assert 'href="reference.html"' in re.search(r'<noscript>.*?</noscript>', pages['search.html'], re.S)[0] and 'action="search.html"' in pages['attention.html']

def test_packed_numbers_come_back():
    "Distances of any size, and each kind of often"
    pairs = [(0, 0), (1, 2), (22, 1), (900, 0), (41_000, 2), (900_000, 1)]
    digits, out, high, doc = search_index.DIGITS, [], 0, -1
    for c in search_index.packed(pairs):
        if (d := digits.index(c)) > 63: high = high*26 + d - 63
        else:
            value, high = high*64 + d, 0
            doc += value//3
            out.append((doc, value % 3))
    assert out == pairs
    assert search_index.front_coded(['model', 'models', 'muon']) == '0model 5s 1uon'
