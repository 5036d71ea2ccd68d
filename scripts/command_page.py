"The page with the flags of all commands, from the same dataclasses that make their flags and their --help."
from typing import Literal, get_args, get_origin
from nanogpt_lit.config import COMMANDS, PRESETS
from nanogpt_lit.config import ALIASES, flat_fields
from api_tables import plain

INTRO = """# Flags

:::{div} subtitle
Every command, every flag, and what other code bases call it.
:::

A flag may be written `--max_steps 5`, `--max-steps 5` or `--max_steps=5`; a switch `--compile`, `--no-compile` or
`--compile=False`. What `nanogpt-train` resolves, lowest first: the defaults below, a preset, a configuration file
(TOML, or nanoGPT's `.py` of plain assignments, which is read and not executed), the checkpoint when resuming, the
flags. The names in the last column mean the same and are accepted everywhere.
"""

def kind(knob):
    "A knob's type as a reader wants it: the choices, or the type's name"
    t = knob.base
    if get_origin(t) is Literal: return ' '.join(f'`{o}`' for o in get_args(t))
    return 'words' if get_origin(t) is list else {str: 'text', int: 'integer', float: 'number', bool: 'switch'}.get(t, str(t))

def flags(cls):
    "A Markdown table of the knobs of a dataclass, one per section"
    also, out, section, knobs = {}, [], None, flat_fields(cls)
    for alias, name in ALIASES.items():
        if alias not in knobs: also.setdefault(name, []).append(f'`{alias}`')
    for k in knobs.values():
        if k.section != section or not out:
            section = k.section
            out += ['', f'**{section}**' if section else '', '', '| flag | takes | default | what it does | also |', '|---|---|---|---|---|']
        default = f'`{k.default}`' if isinstance(k.default, (int, float, str)) and k.default != '' else ''
        out.append(f'| `--{k.name}` | {kind(k)} | {default} | {plain(k.help)} | {" ".join(also.get(k.name, []))} |'.replace('`\n`', r'`\\n`'))
    return '\n'.join(out)

def presets():
    "What each preset changes"
    rows = [f'| `{name}` | {" ".join(f"`{k}={v}`" for k, v in values.items())} |' for name, values in PRESETS.items()]
    return '\n'.join(['## Presets', '', 'A preset is a name for some settings; flags after it win.', '', '| preset | sets |', '|---|---|', *rows])

def commands_page():
    out = [INTRO]
    for name, entry in COMMANDS.items():
        for cmd in entry.values() if isinstance(entry, dict) else [entry]:
            out.append(f'## {cmd.name}\n\n{plain(cmd.summary)}\n')
            if cmd.examples: out.append('```sh\n' + '\n'.join(cmd.examples) + '\n```\n')
            out.append(flags(cmd.config) + '\n')
    return '\n'.join([*out, presets()])
