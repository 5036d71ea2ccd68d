"""The guides of five trainers, A to E as `REFERENCE_SYSTEMS.md` calls them: every default that they promise, flag by flag, and their
commands, word for word but for the program, in folders that look like their users' (small sizes).
"""
import contextlib, io, json, os, re
from pathlib import Path
import numpy as np
import pytest
from nanogpt_lit.config import (FINETUNE_PRESETS, PRESETS, FinetuneConfig, RunConfig, SampleConfig, nanogpt_finetune, nanogpt_monitor, nanogpt_plot,
                                nanogpt_prepare, nanogpt_sample, nanogpt_tokenizer, nanogpt_train)
from nanogpt_lit.core import ALIASES, flat_fields, flat_values, resolve

# --- what the guides say ----------------------------------------------------------------------------------------------

OFF, NONE = False, None
PRETRAINING = {'--resume': OFF, '--checkpoint_path': NONE, '--auto_resume': OFF, '--checkpoint_interval': 5000, '--keep_last_n_checkpoints': -1,
               '--eval_interval': 250, '--hellaswag_interval': 250, '--generate_interval': 250}
DOLLY = {'--resume': OFF, '--checkpoint_path': NONE, '--auto_resume': OFF, '--checkpoint_interval': -1, '--keep_last_n_checkpoints': 3,
         '--eval_interval': -1, '--generate_interval': 2, '--pretrained_checkpoint': 'log/model_19072.pt', '--data_dir': 'dolly15k',
         '--batch_size': 16, '--max_lr': 1e-6, '--warmup_steps': 1, '--max_steps': 3}
GUIDE = DOLLY | {'--max_lr': 6e-5, '--max_steps': 6, '--checkpoint_interval': 2, '--eval_interval': 2, '--generate_interval': 2}
COURSE = {'--vocab_size': 10000, '--d_model': 768, '--n_layers': 12, '--n_heads': 12, '--rope_theta': 10000., '--d_ff': 3072, '--batch_size': 32,
          '--context_length': 512, '--learning_rate': 3e-4, '--val_data': NONE, '--weight_decay': .01, '--beta1': .9, '--beta2': .999,
          '--max_grad_norm': 1., '--max_iters': 100000, '--log_interval': 100, '--eval_interval': 1000, '--save_interval': 5000,
          '--num_eval_batches': 100, '--device': 'auto', '--checkpoint_dir': './checkpoints', '--load_checkpoint': NONE}
SIZES = {'small': (1000, 256, 4, 4, 16, 10_000), 'medium': (10_000, 768, 12, 12, 32, 100_000), 'large': (50_000, 1024, 24, 16, 64, 500_000)}
SIZED = ('--vocab_size', '--d_model', '--n_layers', '--n_heads', '--batch_size', '--max_iters')
MINIGPT = {'--max-data-size': 0, '--tokenizer-vocab-size': 15_000, '--tokenizer-samples': 100_000, '--max-cpu': 0, '--max-memory': 0,
           '--num-threads': NONE, '--dataloader-workers': NONE}
# what nanoGPT's train.py does where a configuration file is silent, but for what it has for eight GPUs (40 micro-steps, 600,000 steps);
# the warm-up is that of its files for characters
NANOGPT = {'--eval_interval': 2000, '--log_interval': 1, '--eval_iters': 200, '--batch_size': 12, '--block_size': 1024, '--n_layer': 12,
           '--n_head': 12, '--n_embd': 768, '--dropout': 0., '--bias': OFF, '--learning_rate': 6e-4, '--weight_decay': .1, '--beta1': .9, '--beta2': .95,
           '--grad_clip': 1., '--warmup_iters': 100, '--min_lr': 6e-5}
SAMPLING = {'--start': '\n', '--num_samples': 10, '--max_new_tokens': 500, '--temperature': .8, '--top_k': 200, '--seed': 1337}

# --- what they get ----------------------------------------------------------------------------------------------------

def resolved(cls, argv, presets):
    "What a command line means: `{flag as a guide writes it: value}`, under our names and theirs"
    with contextlib.redirect_stdout(io.StringIO()): cfg, _ = resolve(cls, argv.split(), presets)
    values = flat_values(cfg)
    for theirs, ours in ALIASES.items():
        if ours in values: values.setdefault(theirs, values[ours])
    return values

TRAIN, TUNE = (RunConfig, PRESETS), (FinetuneConfig, FINETUNE_PRESETS)
GUIDES = {'A pretraining': (PRETRAINING, TRAIN, 'build-nanogpt'), 'A tuning': (DOLLY, TUNE, 'dolly'), 'B tuning': (GUIDE, TUNE, 'guide'),
          'C training': (NANOGPT, TRAIN, 'config/train_TH.py'), 'C sampling': (SAMPLING, (SampleConfig, None), ''),
          'D training': (COURSE, TRAIN, '--d_model 768'), 'D table': (COURSE, TRAIN, '--checkpoint_dir ./checkpoints'),
          'E small': (MINIGPT, TRAIN, '--config small'), 'E medium': (MINIGPT, TRAIN, '--config medium')}
GUIDES |= {f'D {size}': (dict(zip(SIZED, values)) | {'--checkpoint_dir': './checkpoints'}, TRAIN, f'cs336-{size}') for size, values in SIZES.items()}
ROWS = [(guide, flag) for guide, (said, *_) in GUIDES.items() for flag in said]

@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('HF_HUB_OFFLINE', '1')
    Path('config').mkdir()
    Path('config/train_TH.py').write_text("dataset = 'TH'\nout_dir = 'TH_out'\n", encoding='utf-8')
    return tmp_path

def same(value, said):
    return Path(value) == Path(said) if isinstance(said, str) and said.startswith('./') else value == said and (value is None) == (said is None)

@pytest.mark.parametrize('guide, flag', ROWS)
def test_a_default_is_what_its_guide_says(guide, flag):
    said, (cls, presets), argv = GUIDES[guide]
    values = resolved(cls, argv, presets)
    got = values[flag.lstrip('-').replace('-', '_')]
    assert same(got, said[flag]), f'{guide}: {flag} is {got}, its guide says {said[flag]}'

@pytest.fixture
def reference(shared_data):
    "`{letter: section}` of the file that describes the five systems"
    file = shared_data.parent/'REFERENCE_SYSTEMS.md'
    if not file.exists(): pytest.skip(f'{file} is not there: its tables can only be compared where it is')
    return {o[0]: o for o in file.read_text(encoding='utf-8').split('\n## ')[1:]}

def number(text):
    "What a table calls a default, as a value"
    word = text.strip().strip('`').split(' (')[0]
    if word in ('off', 'none', 'optional'): return {'off': OFF}.get(word)
    try: return float(word)
    except ValueError: return word.split(' (')[0].split()[0].strip('`')

def table(section):
    "`{flag: default}` of all tables in a section, two flags a cell being two"
    said = {}
    for row in re.findall(r'(?m)^\|(.*`--.*)\|$', section):
        cells = [o.strip() for o in row.split('|')]
        for flags, value in zip(cells, cells[1:]):
            if not flags.startswith('`--'): continue
            names, values = re.findall(r'`(--[\w-]+)`', flags), [o.strip() for o in value.split(' / ')]
            if value == 'as above': continue
            said |= {name: number(v) for name, v in zip(names, values if len(values) == len(names) else values*len(names))}
    return said

def test_the_tables_here_are_those_of_the_reference(reference):
    "Line by line: a row that is added or changed there must be added or changed here"
    pretraining, tuning = reference['A'].split('Instruction tuning (')
    first, second, course = table(pretraining), table(tuning), table(reference['D'])
    assert first == PRETRAINING and second == {k: v for k, v in DOLLY.items() if k in second} and {*DOLLY} - {*second} <= {*first}
    assert course.pop('--checkpoint_dir') == './checkpoints' and course.pop('--load_checkpoint') is None
    assert course.pop('--max_seq_len') == 1024            # of positions, where --context_length says what is trained on
    assert len(course) == 20 and course == {k: v for k, v in COURSE.items() if k in course}
    guide = {flag: number(v) for flag, v in re.findall(r'`(--\w+) ([-\de.]+)`', reference['B'].split('\n- ')[1])}
    assert len(guide) == 5 and guide == {k: GUIDE[k] for k in guide} and 'batch 16' in reference['B']
    sizes = re.search(r'presets small \((.*?)\)', reference['D'])[1]
    assert sizes == 'vocab 1000, d 256, 4 layers, 4 heads, batch 16, 10 k its'
    assert 'medium (10000/768/12/12/32/100 k), large (50000/1024/24/16/64/500 k)' in reference['D']
    for name, value in re.findall(r'`(--tokenizer-[\w-]+)` \((\d+)', reference['E']): assert MINIGPT[name] == int(value)

def test_the_model_of_the_guide_has_the_size_that_its_users_know():
    "128.84M, or 128.97M with the positions: nanoGPT has no biases unless told"
    from nanogpt_lit.sizing import param_table
    argv = 'config/train_TH.py --block_size=256 --n_layer=40 --n_head=8 --n_embd=512 --vocab_size=5791'
    cfg, _ = resolve(RunConfig, argv.split(), PRESETS)
    n = sum(param_table(cfg.model).values())
    assert (f'{n/1e6:.2f}', f'{(n - 256*512)/1e6:.2f}') == ('128.97', '128.84')
    assert (cfg.data.tokenizer, cfg.data.val_fraction, cfg.train.checkpoint_interval) == ('char', .1, cfg.train.eval_interval)

# --- C: data/TH, where input.txt and prepare.py are -------------------------------------------------------------------

NEWS = '皇马在主场以三比一战胜了巴萨，梅西打进一球。\n湖人客场取胜。\n'*40

@pytest.fixture
def th(here):
    "data/TH as a user of nanoGPT has it, and what stands in its prepare.py"
    Path('data/TH').mkdir(parents=True)
    Path('data/TH/input.txt').write_text(NEWS, encoding='utf-8')
    Path('data/TH/prepare.py').write_text('import pickle\nchars = sorted(list(set(data)))\nstoi = {c: i for i, c in enumerate(chars)}\n', encoding='utf-8')
    return Path('data/TH')

def said_by(command, line, code=0):
    "What a command says to these words"
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try: got = command(line.split() if isinstance(line, str) else line)
        except SystemExit as e: got = e.code
    assert got == code, said.getvalue()
    assert 'fault of nanogpt_lit' not in said.getvalue(), said.getvalue()
    return said.getvalue()

@pytest.mark.parametrize('words', ['data/TH/prepare.py', 'data/TH', 'data/TH/input.txt', 'data/TH/input.txt --tokenizer char --out_dir data/TH'])
def test_preparing_where_the_text_is(th, words):
    "Their script is named, not run; characters beside the text; nothing of theirs is touched, and again is no work"
    for name in ('train.bin', 'val.bin', 'meta.pkl'): (th/name).write_bytes(b'theirs')
    before = {p: (p.read_bytes(), p.stat().st_ino) for p in th.iterdir()}
    said_by(nanogpt_prepare, words)
    assert json.loads((th/'meta.json').read_text(encoding='utf-8'))['tokenizer']['kind'] == 'char'
    assert {p: (p.read_bytes(), p.stat().st_ino) for p in before} == before and not [*Path('data').glob('[!T]*')]
    stamp = (th/'meta.json').stat().st_mtime_ns
    said_by(nanogpt_prepare, words)
    assert (th/'meta.json').stat().st_mtime_ns == stamp
    (th/'input.txt').write_text(NEWS + 'noch etwas\n'*20, encoding='utf-8')
    assert 'use --overwrite' in said_by(nanogpt_prepare, words, 1)
    said_by(nanogpt_prepare, words + ' --overwrite')
    assert (th/'meta.json').stat().st_mtime_ns > stamp and {p.name for p in before} <= {p.name for p in th.iterdir()}

def test_a_preparation_cut_short_where_the_text_is(th, monkeypatch):
    "Whenever the moving in ends, the text is where it was, the folder doesn't look complete, and the same command goes on"
    import nanogpt_lit.data as room
    real, n = os.rename, 0
    while not (th/'meta.json').exists():
        left, n = iter(range(n)), n + 1
        assert n < 20, 'no run went on with what another has left'
        def rename(a, b):
            if next(left, None) is None: raise KeyboardInterrupt
            real(a, b)
        monkeypatch.setattr(room.os, 'rename', rename)
        nanogpt_prepare(['data/TH'])
        assert (th/'input.txt').read_text(encoding='utf-8') == NEWS
    assert n > 3 and {'input.txt', 'prepare.py', 'meta.json', 'README.md', 'tokenizer', 'train_000000.bin', 'val_000000.bin'} == {p.name for p in th.iterdir()}
    assert not Path('data/TH.partial').exists()

@pytest.mark.parametrize('names, why', [(('notes.md',), 'holds other files'), (('README.md',), 'holds other files'), (('prepare.py',), 'made with other')])
def test_a_folder_of_somebody_else(th, names, why):
    "Only the text itself and nanoGPT's own files are guests"
    for name in names: (th/name).write_text('mine', encoding='utf-8')
    if why == 'made with other': said_by(nanogpt_prepare, 'data/TH/input.txt --out_dir data/TH --tokenizer_vocab_size 300 --tokenizer bpe')
    before = {p: p.read_bytes() for p in th.iterdir() if p.is_file()}
    assert why in said_by(nanogpt_prepare, 'data/TH/input.txt --out_dir data/TH', 1)
    assert before == {p: p.read_bytes() for p in th.iterdir() if p.is_file()}
