"The tree of pages in the sidebar. Sphinx and the theme would make it anew for every page; here it is made once, and on each page its own entry is marked."
import re
from furo.navigation import get_navigation_tree
from sphinx.environment.adapters.toctree import TocTree

TAG = re.compile(r'<(/?)(ul|li)\b[^>]*>')

class Tree:
    "The sidebar's tree"
    def __init__(self): self.html, self.seen_from = '', {}   # as the home page has it; folder → with links from there

    def make(self, app):
        toctree = TocTree(app.env).get_toctree_for(app.config.root_doc, app.builder, collapse=False, titles_only=True, maxdepth=-1, includehidden=True)
        self.html = get_navigation_tree(app.builder.render_partial(toctree)['fragment'])

    def of(self, app, page):
        "The tree as `page` shows it: links from its folder, its entry and the lists around it marked"
        if not self.html: self.make(app)
        folder, _, name = page.rpartition('/')
        def relative(m): return f'href="{app.builder.get_relative_uri(folder + "/404" if folder else "404", m[1])}"'  # 404: a page that isn't in the tree
        if folder not in self.seen_from: self.seen_from[folder] = re.sub(r'href="([^"#]+)\.html"', relative, self.html)
        link = f'<a class="reference internal" href="{name}.html">'
        before, found, after = self.seen_from[folder].partition(link)
        if not found: return before
        return marked(before) + '<a class="current reference internal" href="#">' + (checked(after) if after.partition('</li>')[0].count('<input') else after)

def checked(text): return re.sub('(<input aria-label="[^"]*")', r'\1 checked=""', text, count=1)

def marked(text):
    "What stands before a link, with the lists and entries that are open there marked"
    around = []
    for m in TAG.finditer(text):
        if m[1]: around.pop()
        else: around.append(m)
    for i, m in reversed([*enumerate(around)]):
        own = i == len(around) - 1
        tag = '<ul class="current">' if m[2] == 'ul' else re.sub(r'"(toctree-l\d)((?: has-children)?)"', rf'"\1 current\2{" current-page"*own}"', m[0])
        text = text[:m.start()] + tag + (text[m.end():] if m[2] == 'ul' or own else checked(text[m.end():]))
    return text

def setup(app):
    tree = Tree()
    def none(app, pagename, templatename, context, doctree): context['toctree'] = lambda **options: ''
    def ours(app, pagename, templatename, context, doctree): context['furo_navigation_tree'] = tree.of(app, pagename)
    app.connect('html-page-context', none, priority=400)  # the theme's is 500
    app.connect('html-page-context', ours, priority=600)
    return {'parallel_read_safe': True, 'parallel_write_safe': True}
