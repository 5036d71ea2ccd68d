"""Write README.md from the home page, nbs/index.ipynb.

    python scripts/build_readme.py            # write it
    python scripts/build_readme.py --check    # only say whether it is up to date

Cells marked `#| hide` are left out; outputs are shown as the notebook stores them. Links to notebooks are made
relative to the root of the repository, so that they work where README.md is read.
"""
import re, sys
from base64 import b64decode
import yaml
from execnb.nbio import read_nb
from nbdev.config import get_config
from nbdev.processors import FilterDefaults, filter_stream_, hide_, hide_line, strip_ansi

HEAD = '<!-- Made from {nb} by scripts/build_readme.py: edit the notebook, not this file. -->\n\n'
OPTION = re.compile(r'^#\|\s*([\w-]+)\s*:\s*(.*?)\s*$', re.M)

def text(x): return x if isinstance(x, str) else ''.join(x or '')

class Filter(FilterDefaults):
    def base_procs(self): return [strip_ansi, hide_line, filter_stream_, hide_]

def output_md(o, images, alt=''):
    "One stored output as Markdown; a picture goes to `images` under the name that the text uses, with `alt` for those who don't see it"
    if o['output_type'] == 'stream': return fenced(o['text'])
    data = o.get('data', {})
    if 'image/png' in data:
        name = f'docs/readme/{len(images)}.png'
        images[name] = b64decode(text(data['image/png']))
        return f'![{alt}]({name})'
    for k in ('text/markdown', 'text/html'):
        if k in data: return text(data[k])
    return fenced(data.get('text/plain', ''))

def fenced(x, lang=''): return f'```{lang}\n{text(x).strip(chr(10))}\n```'

def readme(cfg):
    "The text of README.md, and its pictures as `{path: bytes}`"
    nb = read_nb(cfg.nbs_path/cfg.readme_nb)
    Filter()(nb)
    parts, images = [], {}
    for c in nb.cells:
        src, opts = text(c.source), dict(OPTION.findall(text(c.source)))
        if c.cell_type == 'raw' and (meta := yaml.safe_load(src.strip().strip('-'))): parts.append(f"# {meta['title']}\n\n> {meta['description']}")
        if c.cell_type == 'markdown': parts.append(src)
        if c.cell_type != 'code' or opts.get('include') == 'false': continue
        if opts.get('echo') != 'false' and (code := OPTION.sub('', src).strip()): parts.append(fenced(code, 'python'))
        if opts.get('output') != 'false': parts += [output_md(o, images, opts.get('fig-alt', '')) for o in c.get('outputs', [])]
    body = '\n\n'.join(p.strip('\n') for p in parts if p.strip()) + '\n'
    folder = cfg.nbs_path.name
    body = re.sub(r'\]\((?!\w+:|/|#)((?:[\w-]+/)*[\w-]+\.(?:ipynb|png|svg)(?:#[^)]*)?)\)', rf']({folder}/\1)', body)
    body = body.replace(f']({folder}/docs/readme/', '](docs/readme/').replace('](../', '](')
    return HEAD.format(nb=f'{folder}/{cfg.readme_nb}') + body, images

if __name__ == '__main__':
    cfg = get_config()
    new, images = readme(cfg)
    out = cfg.config_path/'README.md'
    if '--check' in sys.argv:
        old = out.read_text(encoding='utf-8') if out.exists() else ''
        sys.exit(0 if old == new else 'README.md is out of date: run python scripts/build_readme.py')
    out.write_text(new, encoding='utf-8')
    for name, data in images.items():
        (cfg.config_path/name).parent.mkdir(parents=True, exist_ok=True)
        (cfg.config_path/name).write_bytes(data)
