"""The index of the site's search: every section, public name, flag, exercise and word of the glossary, in one script file.

It is read from the built pages and put into `_static/search_index.js`, which `_static/search.js` loads when somebody begins to search. A script, because a page
that was opened from a folder may not read files. In it, a word is its stem, and the documents that hold it are a string: the distance to the last one and how
often it occurs, three kinds of often, in characters of `DIGITS`. An excerpt is the beginning of a text; where that is longer, all of it is in the script of its page in
`_static/search/`, which is loaded when the page is among the results and its beginning says too little.
"""
import html, json, math, re
from collections import Counter
from html.parser import HTMLParser
from docutils.nodes import make_id
import command_page

PAGE = '''---
orphan: true
---
# Search

<div id="search-page"><noscript><p>The search needs JavaScript. Without it, look a word up in the <a href="glossary.html">glossary</a>, a name in the <a href="reference.html">reference</a>,
a flag among the <a href="commands.html">commands</a>, and everything else in <a href="index.html">the contents</a>.</p></noscript></div>
'''
OUTSIDE = ('searchindex.js', '_static/searchtools.js', '_static/language_data.js', '_static/base-stemmer.js', '_static/english-stemmer.js') # Sphinx's own search
DIGITS = ''.join(chr(i) for i in range(35, 127) if i not in (92, 96))
STOP = {*'a an and are as at be been but by can do does for from had has have how i if in into is it its me my no not of on one or our s so t than that the their them then there these they this to was we what when where which who why will with you your'.split()}
LENGTH = 120 # of an excerpt, in characters

# --- words -----------------------------------------------------------------------------------------------------------

def stem(word):
    "The part of a word that its forms share; `stem` of search.js is the same function"
    if re.search(r'[0-9_]', word) or len(word) < 4: return word
    w = re.sub(r'(ou)r(?=ed$|ing$|s$|$)', 'or', re.sub(r'is(?=e$|es$|ed$|ing$|er$|ers$|ation$|ations$)', 'iz', word)) if len(word) > 5 else word
    if w.endswith('ies') and len(w) > 4: w = w[:-3] + 'y'
    elif w.endswith(('sses', 'xes', 'ches', 'shes')): w = w[:-2]
    elif w.endswith('s') and not w.endswith(('ss', 'us', 'is')): w = w[:-1]
    for end in ('ing', 'ed'):
        root = w[:-len(end)]
        if w.endswith(end) and len(root) > 2 and re.search('[aeiouy]', root):
            w = root[:-1] if len(root) > 3 and root[-1] == root[-2] and root[-1] not in 'lsz' else root
            break
    for end, new in (('ization', 'iz'), ('izer', 'iz'), ('ation', 'at'), ('ally', 'al'), ('ly', '')):
        if w.endswith(end) and len(w) - len(end) > 2:
            w = w[:-len(end)] + new
            break
    return w[:-1] if w.endswith('e') and len(w) > 3 else w

WORD = re.compile(r'[a-z0-9]+(?:_[a-z0-9]+)*')

def terms(text):
    "The stems of a text, a name with underscores both whole and in parts"
    out = []
    for word in WORD.findall(text.lower().replace('’', "'").replace("n't", ' ').replace("'s", ' ')):
        parts = word.split('_')
        if len(parts) > 1: out.append(word)
        out += [stem(o) for o in parts if o not in STOP and (len(o) > 1 or not o.isdigit())]
    return out

def cut(text, length=LENGTH):
    "The beginning of a text, to a whole word"
    text = ' '.join(text.split())
    return text if len(text) <= length else text[:length].rpartition(' ')[0].rstrip(' ,;:(') + ' …'

# --- sections of a page ------------------------------------------------------------------------------------------------

VOID = {'br', 'img', 'input', 'hr', 'meta', 'link', 'wbr', 'col', 'source', 'use', 'path', 'rect', 'line', 'circle'}

class Sections(HTMLParser):
    "A page's sections in order: `dict(id, level, heading, text, ids)`"
    def __init__(self, page):
        super().__init__()
        self.sections, self.open, self.stack, self.quiet, self.heading = [], [], [], 0, None
        page = page.partition('<article')[2].partition('</article>')[0]
        self.feed('<article' + re.sub(r'<(svg|script|style|math|mjx-container|pre)\b.*?</\1>', ' ', page, flags=re.S)) # what nobody reads as text: nine tenths of the tags

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        classes = (attrs.get('class') or '').split()
        if tag == 'section':
            self.sections.append(dict(id=attrs.get('id', ''), level=len(self.open) + 1, heading='', text=[], ids=[], parent=self.open[-1] if self.open else None))
            self.open.append(len(self.sections) - 1)
        if self.open and attrs.get('id'): self.sections[self.open[-1]]['ids'].append(attrs['id'])
        if tag in VOID: return
        hush = 'cell_output' in classes or 'api' in classes or 'headerlink' in classes or 'facts' in classes or 'knobs' in classes or 'filter' in classes or 'tag_solution' in classes or tag in ('pre', 'button')
        self.stack.append((tag, hush))
        self.quiet += hush
        if tag in ('h1', 'h2', 'h3', 'h4') and self.open and not self.sections[self.open[-1]]['heading']: self.heading = tag

    def handle_endtag(self, tag):
        if tag in VOID: return
        while self.stack:
            name, hush = self.stack.pop()
            self.quiet -= hush
            if name == tag: break
        if tag == 'section' and self.open: self.open.pop()
        if tag == self.heading: self.heading = None
        elif self.open and not self.heading and tag in ('p', 'li', 'td', 'th', 'div', 'dt', 'dd'): self.sections[self.open[-1]]['text'].append(' ')

    def handle_data(self, data):
        if self.quiet or not self.open: return
        section = self.sections[self.open[-1]]
        if self.heading: section['heading'] += data
        else: section['text'].append(data)

# --- what can be found ---------------------------------------------------------------------------------------------------

def anchored(page):
    "A page whose exercises and words of a glossary have anchors of their own"
    def numbered(m):
        count = iter(range(1, 100))
        return re.sub(r'(<ol class="arabic[^>]*>\n?|</li>\n)<li>(?=<p>)', lambda o: f'{o[1]}<li id="exercise-{next(count)}">', m[0])
    page = re.sub(r'<section id="exercises">.*?</section>', numbered, page, flags=re.S)
    return page if '<section id="words">' not in page else re.sub(r'<p><strong>([^<]+)</strong>', lambda o: f'<p id="word-{make_id(html.unescape(o[1]))}"><strong>{o[1]}</strong>', page)

def tagless(s): return ' '.join(html.unescape(re.sub(r'<[^>]+>', '', s)).split())

class Index:
    "Documents to find, the words in each, and which of those stand side by side"
    def __init__(self, site):
        self.site, self.pages, self.docs, self.words, self.pairs, self.texts = site, [], [], [], [], {}
        self.numbers = {site.pages[path]: i for i, path in enumerate(site.paths)} # page → its place in `pages`

    def add(self, kind, page, anchor, heading, excerpt, text, parent='', also=''):
        if excerpt.endswith(' …') and text: self.texts.setdefault(self.pages[page][0], {})[len(self.docs)] = text
        self.docs.append((kind, page, anchor, heading, parent, excerpt, also))
        found = terms(text)
        self.words.append(Counter(found))
        self.pairs.append(Counter(f'{a}+{b}' for a, b in zip(found, found[1:]) if a != b) if kind in 'psw' else Counter())
        return len(self.docs) - 1

    def page(self, url, title, number='', workshop=False):
        self.pages.append((url, title, number, '1' if workshop else ''))
        return len(self.pages) - 1

    def book(self, folder, number):
        "The pages of the book; returns `{page: (its number, {id: document})}`"
        places = {}
        for path in self.site.paths:
            name, title = self.site.pages[path], self.site.titles[path]
            text = (folder/f'{name}.html').read_text(encoding='utf-8')
            at = self.page(f'{name}.html', title.removesuffix('◇').strip(), number(path), title.endswith('◇'))
            places[name] = at, self.sections(text, at)
            self.exercises(text, at)
            self.glossary(text, at)
        return places

    def sections(self, text, at):
        found, made = {}, {}
        for i, o in enumerate(Sections(text).sections):
            words = ' '.join(re.sub(r'\\\(.*?\\\)|\\\[.*?\\\]', '…', ''.join(o['text']), flags=re.S).split()) # formulas
            heading = ' '.join(o['heading'].split()).removesuffix('◇').strip()
            if o['level'] == 1: heading = self.pages[at][1]
            parent = made.get(o['parent'], '')
            anchor = '' if o['level'] == 1 else o['id'] if o['id'] != make_id(heading) else '='
            if heading == 'Exercises': words = ''
            made[i] = self.add('p' if o['level'] == 1 else 's', at, anchor, heading, cut(words), words, parent if o['level'] > 2 else '')
            found |= dict.fromkeys([o['id'], *o['ids']], made[i])
        return found

    def exercises(self, text, at):
        section = re.search(r'<section id="exercises">.*?</section>', text, re.S)
        for m in re.finditer(r'<li id="(exercise-\d+)">(.*?)</li>', section[0] if section else '', re.S):
            asked = tagless(re.sub(r'<details.*', '', m[2], flags=re.S))
            self.add('e', at, m[1], m[1].replace('exercise-', 'Exercise '), cut(asked), asked)

    def glossary(self, text, at):
        for m in re.finditer(r'<p id="(word-[^"]*)"><strong>([^<]+)</strong>(.*?)</p>', text, re.S):
            said = tagless(re.sub(r'<a [^>]*>(?:(?!</a>).)*</a>\s*$', '', m[3])).strip(' :')
            to = ' '.join(str(self.numbers[o]) for o in re.findall(r'href="([\w/]+)\.html', m[3]) if o in self.numbers)
            self.add('w', at, m[1] if m[1] != 'word-' + make_id(html.unescape(m[2])) else '=', html.unescape(m[2]), cut(said), said, also=to)

    def names(self, places):
        "Every public name: where it is explained, and its entry in the reference"
        modules = [*self.site.reference.parts]
        said = 'Every module and every public name, with its signature, and where it is explained.'
        self.add('p', self.page('reference.html', 'Reference'), '', 'Reference', said, said)
        for module in modules:
            said, title = self.site.reference.docs[self.site.reference.parts[module][0]], f'{self.site.cfg.lib_name}.{module.replace("-", ": ")}'
            self.add('p', self.page(f'reference/{module}.html', title), '', title, cut(said), said)
        for module, o, notebook in self.site.reference.entries():
            name = self.site.pages[notebook]
            at, ids = places[name]
            target = make_id(self.site.target(notebook, o.name))
            if target not in ids: target = make_id(self.site.target(notebook, o.name.partition('.')[0]))
            said = ' '.join((o.doc or '').replace('`', '').split())
            anchor = '=' if target == make_id(f'{name}-{o.name}') else target if target in ids else ''
            self.add('n', at, anchor, o.name, cut(said, 90), said, f'{o.kind[0]}{modules.index(module)}')
        return modules

    def flags(self, folder):
        at, all_flags = self.page('commands.html', 'Commands and flags'), command_page.flags()
        self.sections((folder/'commands.html').read_text(encoding='utf-8'), at)
        known = command_page.others(all_flags)
        for flag in all_flags.values():
            for i, (knob, cmds) in enumerate(flag.meanings()):
                said, of = knob.help.replace('`', ''), '' if len(flag.meanings()) == 1 or len(cmds) > 4 else ', '.join(cmds)
                self.add('f', at, flag.name if not i else command_page.anchor(cmds[0], flag.name), f'--{flag.name}', cut(said), said, of, ' '.join(known.get(flag.name, []) if not i else []))
        for name in sorted({*command_page.TRANSLATE, *command_page.NO_EFFECT} - {*all_flags} - {*command_page.ALIASES}):
            said = command_page.NO_EFFECT.get(name) or command_page.translated(name)
            self.add('f', at, name, f'--{name}', cut(said.replace('`', '')), said.replace('`', ''))
        for word in command_page.commands():
            said = command_page.summary(word).replace('`', '')
            at = self.page(f'commands/{word}.html', f'nanogpt {word}')
            self.add('c', at, '', f'nanogpt {word}', cut(said, 100), said, also=f'nanogpt-{word} {word}')

    # --- as a script ---

    def script(self, modules):
        postings, lengths, shared = {}, '', Counter(o for pairs in self.pairs for o in pairs) # two words side by side count where several places have them
        for i, words in enumerate(self.words):
            lengths += DIGITS[min(len(DIGITS) - 1, round(8*math.log2(1 + sum(words.values()))))]
            pairs = {o: n for o, n in self.pairs[i].items() if shared[o] > 2}
            for word, n in (words | pairs).items(): postings.setdefault(word, []).append((i, min(2, n.bit_length() - 1)))
        sorted_terms = sorted(postings)
        def lines(rows): return '\n'.join('\t'.join(str(o) for o in r).rstrip('\t') for r in rows)
        data = dict(pages=lines(self.pages), modules=' '.join(modules), docs=lines(self.docs), lengths=lengths, terms=front_coded(sorted_terms),
                    postings=' '.join(packed(postings[o]) for o in sorted_terms))
        return 'window.SEARCH_INDEX = ' + json.dumps(data, ensure_ascii=False, separators=(',', ':')) + ';\n'

def front_coded(words):
    "Sorted words, each as the number of characters that it shares with the one before it, and the rest"
    out, last = [], ''
    for word in words:
        same = next((i for i, (a, b) in enumerate(zip(word, last)) if a != b), min(len(word), len(last)))
        same = min(same, 35)
        out.append('0123456789abcdefghijklmnopqrstuvwxyz'[same] + word[same:])
        last = word
    return ' '.join(out)

def packed(pairs):
    "`(document, how often)` pairs as digits: the last of a number is below 64, those before it count by 26"
    out, last = '', -1
    for doc, often in pairs:
        value, last = (doc - last)*3 + often, doc
        high, low = divmod(value, 64)
        digits = [low]
        while high: high, d = divmod(high - 1, len(DIGITS) - 64); digits.append(64 + d)
        out += ''.join(DIGITS[d] for d in reversed(digits))
    return out

def write(folder, site):
    "Anchors for what has none, the index, and Sphinx's own search out of the site"
    from build_docs import number
    for path in site.paths:
        file = folder/f'{site.pages[path]}.html'
        page = file.read_text(encoding='utf-8')
        if (new := anchored(page)) != page: file.write_text(new, encoding='utf-8')
    index = Index(site)
    places = index.book(folder, number)
    modules = index.names(places)
    index.flags(folder)
    (folder/'_static'/'search_index.js').write_text(index.script(modules), encoding='utf-8')
    for page, texts in index.texts.items():
        file = folder/'_static'/'search'/page.replace('.html', '.js')
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f'siteSearch.texts({json.dumps(page)}, {json.dumps(texts, ensure_ascii=False)})\n', encoding='utf-8')
    for name in OUTSIDE: (folder/name).unlink(missing_ok=True)
    return index

if __name__ == '__main__':
    import sys
    from pathlib import Path
    from nbdev.config import get_config
    from build_docs import Site
    site, folder = Site(get_config()), Path(sys.argv[1])
    site.reference # as built
    index = write(folder, site)
    print(Counter(d[0] for d in index.docs), (folder/'_static'/'search_index.js').stat().st_size)
