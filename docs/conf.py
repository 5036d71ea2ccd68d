"Sphinx settings of the site; `scripts/build_docs.py` copies this folder beside the processed notebooks."
import importlib.util, json, os, shutil
from pathlib import Path
from nbdev.config import get_config

here = Path(__file__).parent
cfg = get_config(path=os.environ['PROJECT_ROOT'])
project, author, release, copyright = cfg.title, cfg.author, cfg.version, cfg.copyright
root_doc = 'index'
extensions = ['myst_nb', 'sphinx_design', 'sphinx_copybutton']
exclude_patterns = ['_nbs', '_static']
language = 'en'

html_theme = 'furo'
html_title = cfg.title
html_static_path = ['_static']
html_css_files = ['site.css', 'search.css']
html_logo = html_favicon = '_static/logo.svg'
html_js_files = [('search.js', {'defer': 'defer'})]
html_show_sourcelink = False
html_copy_source = False
html_show_sphinx = False
html_use_index = False
pygments_style, pygments_dark_style = 'friendly', 'github-dark'
html_theme_options = {
    'light_css_variables': {'color-brand-primary': '#1d5c8f', 'color-brand-content': '#1d5c8f', 'color-api-background': '#f6f8fa'},
    'dark_css_variables': {'color-brand-primary': '#7db8e8', 'color-brand-content': '#7db8e8', 'color-api-background': '#1b1f24'},
    'top_of_page_buttons': [],
}

nb_execution_mode = 'off'
nb_code_prompt_show, nb_code_prompt_hide = 'Show the code', 'Hide the code'
nb_render_markdown_format = 'myst'
nb_merge_streams = True
myst_enable_extensions = ['dollarmath', 'amsmath', 'colon_fence', 'attrs_inline', 'attrs_block', 'deflist', 'tasklist']
myst_heading_anchors = 4
copybutton_exclude = '.linenos, .gp, .go'

# maths: MathJax 3's single-file SVG build, from the sphinx-mathjax-offline wheel, so that pages need no network
spec = importlib.util.find_spec('sphinx-mathjax-offline')
if spec:
    shutil.copy(Path(spec.origin).parent/'static/mathjax/tex-svg.js', here/'_static/tex-svg.js')
    mathjax_path = 'tex-svg.js'

# ipywidgets: no JavaScript from a CDN; pages show the static output that a widget cell stores beside its state
nb_ipywidgets_js = {}

# previous and next of a page on the main line pass over the workshop; a workshop page keeps its neighbours
main_line = json.loads((here/'main_line.json').read_text(encoding='utf-8'))

def along_the_main_line(app, pagename, templatename, context, doctree):
    at = next((i for i, (page, _) in enumerate(main_line) if page == pagename), None)
    if at is None: return
    def link(i):
        if not 0 <= i < len(main_line): return None
        page, title = main_line[i]
        return dict(title=title, link=app.builder.get_relative_uri(pagename, page))
    context['next'] = link(at + 1)
    if at: context['prev'] = link(at - 1)

def own_search(app): app.builder.search = False # scripts/search_index.py makes the index, search.md is the page

def setup(app):
    app.connect('builder-inited', own_search)
    app.connect('html-page-context', along_the_main_line)
