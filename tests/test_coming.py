"The pages for users of seven other programs: their tables are the package's, and every command on them runs."
import json, random, re, shlex
from pathlib import Path
import numpy as np
import pytest
from harness import spoken
from nanogpt_lit import config
from nanogpt_lit.config import ALIASES, CODE_BASES, COMMANDS, NO_EFFECT, REFUSED, TRANSLATE, canonical, flag_table, flat_fields
from nanogpt_lit.core import UserError

HOME = Path(__file__).resolve().parent.parent/'nbs'/'coming'
PAGES = {p.stem: json.loads(p.read_text(encoding='utf-8'))['cells'] for p in sorted(HOME.glob('*.ipynb'))}
each = pytest.mark.parametrize('page', PAGES)

def text(cell): return ''.join(cell['source'])
def code_base(page): return text(PAGES[page][0]).split('\n')[0].removeprefix('# Coming from ')
def outputs(page): return [''.join(o['data']['text/markdown']) for c in PAGES[page] if c['cell_type'] == 'code' for o in c['outputs'] if 'text/markdown' in o.get('data', {})]
def prose(page): return '\n'.join(text(c) for c in PAGES[page] if c['cell_type'] == 'markdown')
def commands(page): return [line for block in re.findall(r'```sh\n(.*?)```', prose(page), re.S) for line in block.splitlines() if line.strip()]

# --- tables ----------------------------------------------------------------------------------------------------------

def test_a_page_for_each_program(): assert sorted(map(code_base, PAGES)) == sorted(CODE_BASES)

@each
def test_the_stored_table_is_that_of_the_code(page):
    assert outputs(page)[0] == flag_table(code_base(page)), f'python scripts/run_nbs.py {page}'
    headings = re.findall('^## (.+)', prose(page), re.M)
    assert headings == ['Flags', 'Formats', 'Habits', 'A first command']
    words = len(re.findall(r'[^\W_]+', prose(page) + outputs(page)[0]))
    assert words <= 700, f'{words} words'

def test_no_word_of_other_programs_is_missing():
    "Each is on a page, but for torchrun's and those that only another command has"
    listed = {o.partition('=')[0] for flags in CODE_BASES.values() for words in flags.values() for o in words.split()}
    assert not ({*ALIASES, *TRANSLATE, *NO_EFFECT, *REFUSED} - listed), 'add them to CODE_BASES'

def knobs_of(command):
    entry = COMMANDS[command.split()[0]]
    return flat_fields((entry[command.split()[1]] if isinstance(entry, dict) else entry).config)

@pytest.mark.parametrize('name', CODE_BASES)
def test_a_table_says_what_the_command_does(name):
    "Refused is refused, with its sentence; renamed sets the other; what has no effect says so; the same is a flag of ours"
    for command, words in CODE_BASES[name].items():
        knobs, table = knobs_of(command), flag_table(name)
        for word in words.split():
            flag, _, value = word.partition('=')
            if flag in knobs or canonical(flag, knobs) in knobs: continue
            argv = [f'--{flag}={value or 1}']
            if flag in REFUSED:
                with pytest.raises(UserError) as e: config.parse_argv(argv, knobs)
                assert str(e.value) == f'--{flag} is not understood here: {REFUSED[flag]}' and f'| `--{flag}` | refused' in table
            elif (config.meaning(word, knobs) or '').startswith('refused'):
                with pytest.raises(UserError): config.parse_argv(argv, knobs)
            else: assert config.parse_argv(argv, knobs)[1].keys() <= {*knobs}

@pytest.mark.parametrize('line, sets', [
    ('--bf16', dict(dtype='bfloat16')), ('--bf16 False', {}), ('--resume_from_checkpoint True', dict(auto_resume=True)), ('--resume_from_checkpoint a/b.pt', dict(resume=True, checkpoint_path='a/b.pt')),
    ('--warmdown-ratio 0.65', dict(schedule='wsd', cooldown_fraction='0.65')), ('--train.max_norm=0.5', dict(grad_clip=.5)), ('--optimizer.init_args.lr 1e-4', dict(learning_rate=1e-4)),
    ('--num-iterations 9', dict(max_steps=9)), ('--data.train_data_path a.txt', dict(input=['a.txt'])), ('--save_total_limit 2', dict(keep_last_n_checkpoints=2)), ('--logger_name csv', {})])
def test_words_of_three_more_programs(line, sets): assert config.parse_argv(line.split(), knobs_of('nanogpt-train'))[1] == sets

@pytest.mark.parametrize('line, says', [('--save_strategy epoch', 'expected steps'), ('--precision bf16-true', 'expected bf16-mixed'), ('--aspect_ratio 64', '--n_embd'),
                                        ('--total-batch-size 524288', 'it counts tokens'), ('--optim adafactor', 'expected adamw_torch'), ('--warmup_ratio 0.1', '--warmup_steps')])
def test_what_differs_is_refused(line, says):
    with pytest.raises(UserError, match=says): config.parse_argv(line.split(), knobs_of('nanogpt-train'))

def test_a_word_that_sets_nothing_of_a_command_is_refused():
    "…and not passed over: its settings belong to another command"
    for line in ('--optim adamw_torch', '--warmdown-ratio 0.5', '--use-full-data'):
        with pytest.raises(UserError, match=f'unknown flag {line.split()[0]}'): config.parse_argv(line.split(), knobs_of('nanogpt-sample'))

# --- commands --------------------------------------------------------------------------------------------------------

SMALL = '--device cpu --num_threads 1 --eval_iters 1 --batch_size 2 --n_layer 1 --n_head 2 --n_embd 16 --block_size 32 --max_steps 2'
SHRUNK = {'nanogpt-train': SMALL, 'nanogpt-sample': '--max_new_tokens 3 --num_samples 1', 'nanogpt-tokenizer': '', 'nanogpt-plan': '--n_layer 1 --n_embd 24 --n_head 2 --block_size 16 --vocab_size 280 --device cpu', 'nanogpt-export': '', 'nanogpt-monitor': '', 'nanogpt-plot': '',
          'nanogpt-finetune': '--device cpu --num_threads 1 --eval_iters 1 --batch_size 2 --max_steps 1 --max_new_tokens 3 --tokens_per_step 0'}
LINE = {'build-nanogpt': '--grad_accum_steps 1 --tokenizer small --vocab_size 280', 'CS336': '--d_ff 32 --vocab_size 280', 'MiniGPT': '--d_ff 32 --n_kv_head 1 --tokenizer_vocab_size 280 --workers 1',
        'nanochat': '--tokenizer_vocab_size 280 --workers 1 --block_size 64', 'litgpt': '--tokenizer_vocab_size 280 --workers 1', 'Hugging Face': '--tokenizer_vocab_size 280 --workers 1', 'nanoGPT': '--workers 1'}
NANOGPT_FILE = "out_dir = 'out-shakespeare-char'\neval_interval = 1\neval_iters = 1\ndataset = 'shakespeare_char'\nbatch_size = 2\nblock_size = 16\nlearning_rate = 1e-3\nmax_iters = 5\n"

@pytest.fixture
def home(tmp_path, monkeypatch):
    "A folder with what these users have in theirs"
    monkeypatch.chdir(tmp_path)
    draw = random.Random(0)
    lines = [' '.join(draw.choices('The cat sat on a red mat and saw the small bird in the tall tree'.split(), k=9)) for _ in range(400)]
    for name in ('input.txt', 'data/shakespeare_char/input.txt'):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text('\n'.join(lines), encoding='utf-8')
    Path('config').mkdir()
    Path('config/train_shakespeare_char.py').write_text(NANOGPT_FILE, encoding='utf-8')
    Path('pretrain_200.jsonl').write_text(''.join(json.dumps(dict(text=o)) + '\n' for o in lines[:200]), encoding='utf-8')
    chats = [dict(messages=[dict(role='user', content=o[:9]), dict(role='assistant', content=o[9:25])]) for o in lines[:40]]
    Path('chats.jsonl').write_text(''.join(json.dumps(o) + '\n' for o in chats), encoding='utf-8')

def shards():
    "build-nanogpt's folders, in a vocabulary that is quickly learned"
    from nanogpt_lit.tokenizer import Tokenizer
    said = ''.join(f'\n\nQ{i}: what comes after {i}?\nA: {i + 1} comes after {i}.' for i in range(60))
    tok = Tokenizer.train([said], 280, progress=False)
    tok.save('small')
    for folder, name in (('edu_fineweb10B', 'edufineweb'), ('dolly15k', 'dolly')):
        Path(folder).mkdir()
        for part in ('val_000000', 'train_000001'): np.save(f'{folder}/{name}_{part}.npy', np.array([tok.eot_id, *tok.encode(said)], np.uint16))

@each
def test_every_command_of_the_page_runs(page, home):
    name = code_base(page)
    if name == 'build-nanogpt': shards()
    assert len(commands(page)) >= 2
    for line in commands(page):
        program, *words = shlex.split(line)
        extra = SHRUNK[program].split()
        if program == 'nanogpt-train': extra += LINE[name].split()
        if program == 'nanogpt-tokenizer' and words[0] == 'train': extra = '--vocab_size 280 --workers 1'.split()
        code, said = spoken(getattr(config, program.replace('-', '_')), *words, *extra)
        assert code == 0, f'{line}\n{said[-1500:]}'
