"Sphinx settings of the site; `scripts/build_docs.py` copies this folder beside the processed notebooks."
import os, sys
from pathlib import Path
from nbdev.config import get_config

sys.path.insert(0, str(Path(__file__).parent))
cfg = get_config(path=os.environ['PROJECT_ROOT'])
project, author, release, copyright = cfg.title, cfg.author, cfg.version, cfg.copyright
# addresses are settings: where settings.ini has none, what would need one is left out
html_baseurl = f"{cfg.doc_host.rstrip('/')}{cfg.doc_baseurl.rstrip('/')}/" if cfg.doc_host else ''
html_context = {'repository': cfg.git_url, 'changelog': cfg.d.get('changelog_url', ''), 'base': html_baseurl}
html_additional_pages = {'404': '404.html'}
root_doc = 'index'
extensions = ['myst_nb', 'sphinx_copybutton', 'page_parts', 'navigation', 'highlighting']
exclude_patterns = ['_nbs', '_static', '_templates']
templates_path = ['_templates']
language = 'en'
smartquotes_action = 'q' # quotes only: `--flag` stays what it is

html_theme = 'furo'
html_title = cfg.title
html_static_path = ['_static']
html_css_files = ['site.css', 'search.css']
html_js_files = [('site.js', {'defer': 'defer'}), ('search.js', {'defer': 'defer'})]
html_logo = html_favicon = '_static/logo.svg'
html_show_sourcelink = False
html_copy_source = False
html_show_sphinx = False
html_use_index = False
pygments_style, pygments_dark_style = 'github-light-high-contrast', 'github-dark' # a contrast of 4.5 or more, comments included
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
copybutton_selector = 'div.cell_input div.highlight pre, ' + ', '.join(f'div.highlight-{o} pre' for o in ('sh', 'bash', 'python', 'toml')) # not outputs

# formulas become MathML while the site is built (page_parts.py): no script, no network
html_math_renderer = 'mathml'

# ipywidgets: no JavaScript from a CDN; pages show the static output that a widget cell stores beside its state
nb_ipywidgets_js = {}

def own_search(app): app.builder.search = False # scripts/search_index.py makes the index, search.md is the page

def setup(app): app.connect('builder-inited', own_search)
