"What every page of a book has: a length that can be read, exercises that can be checked, pictures for those who don't see them, sources, and a way on."
import json, re
import pytest
from execnb.nbio import read_nb
from nbdev.config import get_config
from book_stats import notebooks, stats
from build_docs import head, sections

CFG = get_config()
PAGES = [p for p in notebooks(CFG.nbs_path) if p.parent == CFG.nbs_path and p.stem != 'index']
LISTS = {'99_negative', '99a_glossary', '99b_bibliography'}   # pages to look something up in
MAIN = [p for _, pages in sections(CFG) for p in pages if p in PAGES and not head(read_nb(p))[0].endswith('◇')]
def each(pages): return pytest.mark.parametrize('page', pages, ids=lambda p: p.stem)

def cells(page): return json.loads(page.read_text(encoding='utf-8'))['cells']
def text(cell): return ''.join(cell['source'])
def prose(page): return '\n\n'.join(text(c) for c in cells(page) if c['cell_type'] == 'markdown')

# --- length ----------------------------------------------------------------------------------------------------------

@each(MAIN)
def test_a_page_of_the_main_line_is_read_in_one_sitting(page):
    s = stats(page)
    assert s['words'] <= 2500, f"{page.stem} has {s['words']:,} words: what a first reader may skip belongs to the workshop"
    assert s['cells'] <= 100, f"{page.stem} has {s['cells']} cells: what a first reader may skip belongs to the workshop"

# --- exercises -------------------------------------------------------------------------------------------------------

def exercises(page):
    "The cells behind the heading `## Exercises`, up to the next one: `(questions, those with a solution and a check)`"
    inside, has_solution = False, False
    questions = solved = 0
    for c in cells(page):
        s = text(c)
        if c['cell_type'] == 'markdown':
            inside = inside or bool(re.search(r'^## Exercises?\b', s, re.M))
            if inside: questions += len(re.findall(r'^(?:\*\*\d+[.*]|\d+\. )', s.partition('## Recap')[0], re.M))
        elif inside:
            if re.search(r'^#\|\s*solution\b', s, re.M): has_solution = True
            if re.search(r'^#\|\s*check\b', s, re.M) and has_solution:
                solved += 1
                has_solution = False
    return questions, solved

@each([p for p in PAGES if p.stem not in LISTS])
def test_exercises_are_done_not_only_read(page):
    questions, solved = exercises(page)
    assert questions >= 3, f'{page.stem} has {questions} exercises'
    assert 2*solved >= questions, f'{page.stem}: {solved} of {questions} exercises have a `#| solution` and a `#| check`'

# --- pictures --------------------------------------------------------------------------------------------------------

def pictures_without_words(page):
    "Ids of the cells that show a picture and have no `#| fig-alt:`"
    def is_picture(output): return any(kind.startswith('image/') for kind in output.get('data', {}))
    return [c['id'] for c in cells(page) if c['cell_type'] == 'code' and any(map(is_picture, c['outputs'])) and not re.search(r'^#\|\s*fig-alt:\s*\S', text(c), re.M)]

@each(notebooks(CFG.nbs_path))
def test_a_picture_says_what_it_shows(page):
    found = pictures_without_words(page)
    assert not found, f'{page.stem}: the pictures of {found} need `#| fig-alt: what is to be seen`'

@each(notebooks(CFG.nbs_path))
def test_what_a_plot_returns_is_not_shown(page):
    shown = [(c['id'], o['data']) for c in cells(page) for o in c.get('outputs', []) if 'data' in o]
    found = [i for i, data in shown if re.match(r'[\[(]*<matplotlib\.', ''.join(data.get('text/plain', '')))]
    assert not found, f'{page.stem}: end the cells {found} in a semicolon'

# --- sources ---------------------------------------------------------------------------------------------------------

NAME = r"[A-ZÁÉŁÖ][\w’'-]+"
YEAR = r'(?:19|20)\d\d'
MENTION = re.compile(rf"(?P<who>{NAME}(?:,? (?:and|&) {NAME}| et al\.)?)(?:,? {YEAR}\b|,? \({YEAR}\))")   # Su et al., 2021; Su et al. (2021)
WORK = re.compile(r'^#+ (.+ \d{4})$', re.M)

def works(): return {name: re.sub(r'[^\w -]', '', name.lower()).replace(' ', '-') for name in WORK.findall(prose(CFG.nbs_path/'99b_bibliography.ipynb'))}
def named(mention): return f"{mention['who'].replace('&', 'and')} {re.search(YEAR, mention[0])[0]}"

def cited(page, known):
    "`(work, is it a link to it?)` of the mentions in a page's prose"
    md = re.sub(r'```.*?```', '', prose(page), flags=re.S)
    links = {m.span(1): m[2] for m in re.finditer(r'\[([^\]]*)\]\(([^)]*)\)', md)}
    for m in MENTION.finditer(md):
        work = named(m)
        to = next((url for (a, b), url in links.items() if a <= m.start() < b), '')
        if work in known: yield work, to.endswith(f'99b_bibliography.ipynb#{known[work]}')
        elif ' et al.' in m['who'] or re.search(r' (and|&) ', m['who']): yield work, None

@each(PAGES)
def test_works_that_are_named_are_linked(page):
    found = [*cited(page, works())] if page.stem not in LISTS - {'99_negative'} else []
    unknown, unlinked = [w for w, ok in found if ok is None], [w for w, ok in found if ok is False]
    assert not unknown, f'{page.stem} names {unknown}, which the bibliography does not have'
    assert not unlinked, f'{page.stem} names {unlinked} without a link to 99b_bibliography.ipynb'

# --- the way on ------------------------------------------------------------------------------------------------------

@each(MAIN[:-1])
def test_the_recap_names_the_next_page(page):
    following = MAIN[MAIN.index(page) + 1]
    last = [text(c) for c in cells(page) if c['cell_type'] == 'markdown' and '## ' in text(c)][-1]
    recap = last.rpartition('\n## ')[2]
    assert f']({following.name}' in recap, f'the recap of {page.stem} leads to no {following.name}'

GLOSSARY = re.compile(r'^\*\*(.+?)\*\*.*?:.*\]\((\w+)\.ipynb', re.M)

def test_the_glossary_leads_to_pages_that_use_the_word():
    entries = GLOSSARY.findall(prose(CFG.nbs_path/'99a_glossary.ipynb'))
    assert len(entries) >= 60 and [o[0].lower() for o in entries] == sorted((o[0].lower() for o in entries), key=lambda s: re.sub('[^a-z]', '', s))
    lost = [(word, page) for word, page in entries if not (CFG.nbs_path/f'{page}.ipynb').is_file() or word.split(',')[0].lower()[:6] not in prose(CFG.nbs_path/f'{page}.ipynb').lower()]
    assert not lost, f'words that are not on the page that the glossary names: {lost}'
