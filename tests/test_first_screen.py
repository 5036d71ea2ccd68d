"What a run says before its first step: a dozen lines, and in them whatever its user needs to know."
import json, random, re
from pathlib import Path
import pytest
from harness import spoken
from nanogpt_lit.config import nanogpt_finetune, nanogpt_train

SMALL = '--n_layer 1 --n_head 2 --n_embd 16 --block_size 16 --batch_size 2 --device cpu --eval_iters 1 --num_threads 1 --workers 1'
FILE = '''out_dir = 'out-x'
dataset = 'x'
eval_interval, log_interval = 2, 2
'''.replace('eval_interval, log_interval = 2, 2', 'eval_interval = 2\nlog_interval = 2') + '''eval_iters = 1
batch_size = 2
block_size = 16
n_layer = 1
n_head = 2
n_embd = 16
dropout = 0.1
max_iters = 4
device = 'cpu'
compile = False
'''

@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    draw = random.Random(0)
    text = '\n'.join(' '.join(draw.choices('the cat sat on a red mat'.split(), k=8)) for _ in range(300))
    for name in ('my.txt', 'data/x/input.txt'):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(text, encoding='utf-8')
    Path('train_x.py').write_text(FILE, encoding='utf-8')
    Path('pairs.jsonl').write_text('\n'.join(json.dumps(dict(prompt=f'{k}?', completion=f'{k}.')) for k in range(60)), encoding='utf-8')

def screen(line, command=nanogpt_train):
    "The lines before the first figure, and all that follow"
    code, said = spoken(command, *line.split())
    assert code == 0, said
    lines = said.splitlines()
    first = next(i for i, o in enumerate(lines) if re.match(r'(iter|step) \d', o))
    return lines[:first], lines[first:]

def told(lines, folder, steps, tokens):
    "Is everything in them that somebody needs who has just started a run?"
    text = '\n'.join(lines)
    assert len(lines) <= 12, f'{len(lines)} lines:\n{text}'
    for wanted in (r'^model: GPT of 1 layer, width 16', r'number of parameters: [\d.]+k \(', r'; device cpu, float32$', rf'tokens per iteration: {tokens}\b',
                   rf'^run: {steps} (more )?steps of {tokens} tokens', r'; time: estimated after', rf'^files: {folder};', r'Ctrl-C saves and stops, the same command\b.* goes on',
                   r'^(first checkpoint at step \d|checkpoints: only at the end)', rf'\(all settings: {folder}/config.toml, or --show_config\)'):
        assert re.search(wanted, text, re.M), f'{wanted} is missing:\n{text}'
    return text

def test_a_preset_of_many_settings_then_the_run_that_goes_on():
    before, after = screen(f'tiny --input my.txt --tokenizer char --max_steps 4 --log_interval 2 --batch_size 12 {SMALL.replace("--batch_size 2 ", "")}')
    text = told(before, 'runs/tiny', 4, 192)
    assert re.search(r'^preset tiny: \d\d settings \(all', text, re.M) and 'norm=' not in text
    assert re.search(r"^flag: .*batch_size=12", text.replace('\n    ', ' '), re.M), 'typed, though it is the default of all runs: the preset has another'
    assert re.search(r'^data: my.txt, [\d,]+ tokens of \d+ ids, [\d,]+ held out$', text, re.M)
    assert sum(o.startswith('time: about') for o in after) == 1 and re.search(r'time: about .* for the 2 steps left, by the pace of 1 so far', '\n'.join(after))
    assert 'norm = "rmsnorm"' in Path('runs/tiny/config.toml').read_text(encoding='utf-8')
    before, _ = screen('tiny --input my.txt --auto_resume --max_steps 6 --log_interval 1 --eval_interval 3 --min_lr 1e-4')
    text = told(before, 'runs/tiny', 2, 192)
    assert 'resuming runs/tiny/model_00004.pt at step 4' in text and 'the same command goes on' in text
    changed = text.replace('\n    ', ' ').partition('  changed: ')[2].split('\n')[0]
    assert 'max_steps 4 -> 6' in changed and 'min_lr' in changed and text.count('max_steps') == 1, text

def test_the_configuration_file_of_nanogpt():
    before, _ = screen('train_x.py --dropout=0.2')
    text = told(before, 'out-x', 4, 32)
    assert re.search(r'^train_x.py: \d+ settings', text, re.M) and 'flag: dropout=0.2' in text and 'data: x, ' in text

def test_all_settings_where_they_are_asked_for():
    before, _ = screen(f'tiny --input my.txt --tokenizer char --max_steps 2 --show_config {SMALL}')
    assert len([o for o in before if re.match(r'[* ] [a-z_0-9]+ +=', o)]) > 100 and not any(o.startswith('preset tiny: ') for o in before)

def test_tuning():
    screen(f'tiny --input my.txt --tokenizer bpe --tokenizer_vocab_size 270 --max_steps 2 --out_dir base {SMALL.replace("_size 16", "_size 64", 1)}')
    before, _ = screen('--input pairs.jsonl --pretrained_checkpoint base --device cpu --num_threads 1 --batch_size 2 --max_new_tokens 4 --eval_iters 1 --max_steps 3', nanogpt_finetune)
    text = '\n'.join(before)
    assert len(before) <= 12 and re.search(r'^run: 3 steps of \d+ tokens', text, re.M) and 'model: GPT of 1 layer,' in text and 'files: runs/finetune; Ctrl-C' in text, text
    assert 'flag: input=' in text and re.search(r'^\d+ examples', text, re.M) and 'checkpoints: ' in text
