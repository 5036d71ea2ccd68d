"""The pages of the commands: every flag, from the same dataclasses that make their flags and their --help.

`commands.html` lists the commands, and every flag once with an anchor of its own name; `commands/train.html` has those of one command, by section.
In the prose of the book, a `--flag` in inline code becomes a link there.
"""
import re
from typing import Literal, get_args, get_origin
from nanogpt_lit.core import UserError
from nanogpt_lit.config import ALIASES, COMMANDS, GROUPS, NO_EFFECT, PRESETS, SWITCHES, TRANSLATE, flat_fields
from api_tables import cell, code, escape, knobs, plain, rich, takes
from reference_pages import FILTER

INTRO = """# Commands and flags

:::{div} subtitle
Every command, every flag, and what other code bases call it.
:::

A flag may be written `--max_steps 5`, `--max-steps 5` or `--max_steps=5`; a switch `--compile`, `--no-compile` or
`--compile=False`. What `nanogpt-train` resolves, lowest first: the defaults below, a preset, a configuration file
(TOML, or nanoGPT's `.py` of plain assignments, which is read and not executed), the checkpoint when resuming, the
flags. What other code bases call a flag ("also") means the same and is accepted everywhere.
"""

def commands():
    "`{'train': [its commands]}`: one, or several under one name"
    return {name.removeprefix('nanogpt-'): [*entry.values()] if isinstance(entry, dict) else [entry] for name, entry in COMMANDS.items()}

def ordered():
    "The commands with the main one first: the first that has a flag owns its anchor"
    return sorted(commands().items(), key=lambda o: o[0] != 'train')

def kind(knob):
    "A knob's type as a reader wants it: the choices, or the type's name"
    t = knob.base
    if get_origin(t) is Literal: return ' '.join(code(str(o)) for o in get_args(t))
    return 'words' if get_origin(t) is list else {str: 'text', int: 'integer', float: 'number', bool: 'switch'}.get(t, str(t))

def default(knob): return str(knob.default) if isinstance(knob.default, (int, float, str)) and knob.default != '' else ''

def others(known):
    "Flag → what other code bases call it"
    out = {}
    for alias, name in ALIASES.items():
        if alias not in known: out.setdefault(name, []).append(alias)
    return out

def also(names): return f' <span class="also">also {" ".join(code("--" + o) for o in names)}</span>' if names else ''

class Flag:
    "One flag in all commands: what it is, by command"
    def __init__(self, name): self.name, self.uses = name, {} # command → knob
    def meanings(self):
        "`[(knob, [commands])]`: commands in which it is the same stand together"
        out = []
        for command, knob in self.uses.items():
            same = next((o for o in out if (o[0].help, kind(o[0]), default(o[0])) == (knob.help, kind(knob), default(knob))), None)
            if same: same[1].append(command)
            else: out.append((knob, [command]))
        return out

def flags():
    "`{name: Flag}` of every flag, in alphabetical order"
    out = {}
    for name, cmds in ordered():
        for cmd in cmds:
            for knob in flat_fields(cmd.config).values(): out.setdefault(knob.name, Flag(knob.name)).uses[cmd.name] = knob
    return dict(sorted(out.items()))

def page_of(command): return command.split()[0].removeprefix('nanogpt-')

def anchor(command, flag): return f'{command.removeprefix("nanogpt-").replace(" ", "-")}-{flag}'

def every_flag(all_flags):
    "The list of all flags: an anchor of its name for each, one of `command-name` for each command, and one for what others call it"
    known, rows, taken = others(all_flags), [], {*all_flags}
    for flag in all_flags.values():
        aliases, meanings = known.get(flag.name, []), flag.meanings()
        ids = [flag.name, *(o for o in aliases if o not in taken and not taken.add(o))]
        name = f'<a class="own" href="#{flag.name}">{code("--" + flag.name)}</a>'
        if len(meanings) == 1:
            (knob, cmds), = meanings
            rows.append((name, kind(knob), default(knob), f'{rich(knob.help)}{also(aliases)} {where(flag, cmds)}', [*ids, *(anchor(c, flag.name) for c in cmds)]))
        else: rows.append((name, '', '', also(aliases).strip() + ''.join(meaning(flag, knob, cmds) for knob, cmds in meanings), ids))
    return knobs(rows)

def where(flag, cmds):
    links = (f'<a href="commands/{page_of(c)}.html#{escape(place(c, flag.name))}">{escape(c.removeprefix("nanogpt-"))}</a>' for c in cmds)
    return f'<span class="where">{" ".join(links)}</span>'

def meaning(flag, knob, cmds):
    "One of several meanings of a flag: where it has this one comes first"
    first, *more = (anchor(c, flag.name) for c in cmds)
    ids = ''.join(f'<span id="{o}"></span>' for o in more)
    return f'<div class="meaning" id="{first}">{ids}{where(flag, cmds)} {rich(knob.help)} {takes(kind(knob), default(knob))}</div>'

def place(command, flag):
    "The anchor of a flag on its command's page: where several commands are on one, their names come first"
    several = len(commands()[page_of(command)]) > 1
    return anchor(command, flag) if several else flag

def foreign(taken):
    "Words of other programs that aren't just another name"
    rows = []
    for name in sorted({*TRANSLATE, *NO_EFFECT}):
        if name in taken: continue
        why = f'No effect here: {NO_EFFECT[name]}' if name in NO_EFFECT else translated(name)
        rows.append((f'<a class="own" href="#{name}">{code("--" + name)}</a>', '', '', rich(why), [name]))
    return knobs(rows)

SAID = {'decay_lr': 'False', 'init_from': 'resume'} # what is said with a word of another program; a switch says nothing, any other word a name

def translated(name):
    "What a word of another program turns into, or why it is refused: it is asked"
    value = SAID.get(name, 'True' if name in SWITCHES else 'NAME')
    try: meant = TRANSLATE[name](value)
    except UserError as e: return f'Refused: {e}.'
    words = [f'--{k} {" ".join(map(str, v)) if isinstance(v, (list, tuple)) else v}' if not isinstance(v, bool) else f'--{k}' if v else f'--no-{k}' for k, v in meant.items()]
    return f'`--{name}{"" if value == "True" else " " + value}` stands for `{" ".join(words)}`' if words else 'Understood, and changes nothing.'

def presets():
    "What each preset changes"
    rows = [f'| `{name}` | {" ".join(f"`{cell(str(k))}={cell(str(v))}`" for k, v in values.items())} |' for name, values in PRESETS.items()]
    return '\n'.join(['## Presets', '', 'A preset is a name for some settings; flags after it win.', '', '| preset | sets |', '|---|---|', *rows])

def overview():
    "The page of all commands and all flags"
    all_flags, out = flags(), [INTRO, FILTER.format(what='Filter commands and flags'), '## Commands\n']
    for title, words in GROUPS.items():
        rows = [(f'<a href="commands/{w}.html">{code(f"nanogpt {w}")}</a>', '', '', rich(summary(w)), ()) for w in words.split()]
        out.append(f'<p class="rubric">{escape(title.capitalize())}</p>\n\n{knobs(rows)}\n')
    out.append('## Every flag\n\n' + every_flag(all_flags) + '\n')
    out.append("## Other programs' words\n\nThese are understood too: they mean several settings here, or none, or are refused with a reason.\n\n" + foreign({*all_flags, *(a for o in others(all_flags).values() for a in o)}) + '\n')
    return '\n'.join([*out, presets(), '\n```{toctree}\n:hidden:\n\n' + '\n'.join(f'{o} <commands/{o}>' for o in commands()) + '\n```\n'])

def summary(word): return ' '.join(c.summary if len(commands()[word]) == 1 else f'`{c.name.split()[-1]}`: {c.summary}' for c in commands()[word])

def command_page(word):
    "The page of one command, or of several under one name"
    cmds = commands()[word]
    out = [f'# nanogpt {word}\n\n:::{{div}} subtitle\n{plain(summary(word) if len(cmds) == 1 else "Several commands under one name.")}\n:::\n',
           f'The same as `nanogpt-{word}`. [All commands](../commands.md)\n', FILTER.format(what=f'Filter the flags of {word}')]
    for cmd in cmds:
        if len(cmds) > 1: out.append(f'## {cmd.name.removeprefix("nanogpt-")}\n\n{plain(cmd.summary)}\n')
        if cmd.examples: out.append('```sh\n' + '\n'.join(cmd.examples) + '\n```\n')
        out.append(by_section(cmd))
    return '\n'.join(out)

def by_section(cmd):
    "The flags of one command, under the sections of its configuration"
    fields, out, sections = flat_fields(cmd.config), [], {}
    known = others(fields)
    for k in fields.values(): sections.setdefault(k.section, []).append(k)
    for section, listed in sections.items():
        if section or len(sections) > 1: out.append(f'## {(section or "the command itself").capitalize()}\n')
        rows = []
        for k in listed:
            at = place(cmd.name, k.name)
            name = f'<a class="own" href="#{escape(at)}">{code("--" + k.name)}</a>'
            rows.append((name, kind(k), default(k), rich(k.help) + also(known.get(k.name, [])), (at,)))
        out.append(knobs(rows) + '\n')
    return '\n'.join(out)

# --- links from the prose ------------------------------------------------------------------------------------------------

INLINE = re.compile(r'(?P<skip><(?P<tag>a|h[1-6]|summary|pre|script|style|svg|nav|title)\b.*?</(?P=tag)>)'
                    r'|<code class="docutils literal notranslate"><span class="pre(?: word)?">(?P<flag>--[a-z][\w-]*)(?P<value>=[^<]*)?</span>(?: <span class="pre">(?!-)[^<]*</span>)?</code>', re.S)

def linked(page, root, known):
    "The HTML of a page with its flags linked; `root` leads to the top of the site. `--flag`{.plain} in a notebook leaves one out"
    def link(m):
        if m['skip']: return m[0]
        name = canonical(m['flag'], known)
        return f'<a class="flag-link" href="{root}commands.html#{name}">{m[0]}</a>' if name else m[0]
    head, mark, article = page.partition('<article')
    article, end, foot = article.partition('</article>')
    return head + mark + INLINE.sub(link, article) + end + foot

def canonical(flag, known):
    "The anchor of a flag however it is written, or None"
    name = flag.lstrip('-').replace('-', '_')
    return next((o for o in (name, name.removeprefix('no_')) if o in known), None)

def link_flags(site):
    "Link the flags in the prose of all pages of a built site but those of the commands"
    listed = {*re.findall(r' id="([\w-]+)"', (site/'commands.html').read_text(encoding='utf-8'))}
    known = {*flags(), *ALIASES, *TRANSLATE, *NO_EFFECT} & listed
    for path in site.rglob('*.html'):
        at = path.relative_to(site).as_posix()
        if at == 'commands.html' or at.startswith('commands/'): continue
        page = path.read_text(encoding='utf-8')
        if (new := linked(page, '../'*at.count('/'), known)) != page: path.write_text(new, encoding='utf-8')

MOVED = '''<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Moved: {to}</title><meta name="robots" content="noindex"><link rel="canonical" href="{to}">
<meta http-equiv="refresh" content="1; url={to}"><script>location.replace('{to}' + location.hash)</script></head>
<body><p>This page is now <a href="{to}">{to}</a>.</p></body></html>
'''

def redirect(site, old, new): (site/old).write_text(MOVED.format(to=new), encoding='utf-8')
