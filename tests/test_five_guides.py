"""The guides of five trainers, A to E as `REFERENCE_SYSTEMS.md` calls them: every default that they promise, flag by flag, and their
commands, word for word but for the program, in folders that look like their users' (small sizes).
"""
import contextlib, io, json, os, re
from pathlib import Path
import numpy as np
import pytest
from nanogpt_lit.config import (COMMANDS, FINETUNE_PRESETS, PRESETS, FinetuneConfig, RunConfig, SampleConfig, nanogpt_finetune, nanogpt_monitor, nanogpt_plot,
                                nanogpt_prepare, nanogpt_sample, nanogpt_tokenizer, nanogpt_train)
from nanogpt_lit.config import ALIASES, flat_values, help_text, resolve

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

@pytest.mark.parametrize('command, guides', [('nanogpt-train', 'A pretraining, C training, D training, E medium'), ('nanogpt-finetune', 'A tuning'),
                                             ('nanogpt-sample', 'C sampling')])
def test_help_knows_the_names_of_the_guides(command, guides):
    "Whoever looks for --d_model finds it on the page of --help, and what it is called here"
    page = help_text(COMMANDS[command])
    flags = {o for guide in guides.split(', ') for o in GUIDES[guide][0]}
    if command == 'nanogpt-train': flags |= {'--config', '--use-full-data', '--retrain-tokenizer', '--init_from', '--disable-monitoring', '--data-files'}
    assert not [o for o in flags if not re.search(rf'--{o[2:].replace("-", "_")}\b', page)]

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

# --- the commands, one system after the other, each in a folder like its users' ----------------------------------------

SMALL = '--n_layer 1 --n_head 2 --n_embd 16 --block_size 16 --device cpu --num_threads 1'

def steps(folder): return [json.loads(o)['step'] for o in Path(folder, 'metrics.jsonl').read_text(encoding='utf-8').splitlines()]

def settings(folder):
    import tomllib
    tables = tomllib.loads(Path(folder, 'config.toml').read_text(encoding='utf-8'))
    return tables | {k: v for table in tables.values() if isinstance(table, dict) for k, v in table.items()}

def questions(n): return ''.join(f'\n\nQ{i}: what comes after {i}?\nA: {i + 1} comes after {i}.' for i in range(n))

def test_a_and_b_from_pretraining_to_a_tuned_model(here):
    "edu_fineweb10B/ → log/ → logs_finetune/, by the presets alone; going on with another rate; writing with both"
    from nanogpt_lit.tokenizer import Tokenizer
    tok = Tokenizer.train([questions(60)], 300, progress=False)      # GPT-2's would take most of the time
    tok.save('small')
    for folder, name in (('edu_fineweb10B', 'edufineweb'), ('dolly15k', 'dolly')):
        Path(folder).mkdir()
        for part, n in (('val_000000', 6), ('train_000001', 60)): np.save(f'{folder}/{name}_{part}.npy', np.array([tok.eot_id, *tok.encode(questions(n))], np.uint16))
    line = f'build-nanogpt {SMALL} --tokenizer small --vocab_size 300 --batch_size 2 --grad_accum_steps 1 --eval_iters 1'
    said = said_by(nanogpt_train, f'{line} --max_steps 3')
    assert 'training on edu_fineweb10B' in said and Path('log/model_00002.pt').samefile('log/model_00003.pt')
    said = said_by(nanogpt_train, f'{line} --max_steps 4 --auto_resume')
    assert 'at step 3' in said and steps('log')[-1] == 4
    said = said_by(nanogpt_train, f'{line} --max_steps 5 --resume --checkpoint_path log/model_00003.pt')
    assert 'resuming log/model_00003.pt at step 3' in said and steps('log')[-1] == 5

    line = '--device cpu --num_threads 1 --tokens_per_step 64 --batch_size 2 --max_new_tokens 4'
    said = said_by(nanogpt_finetune, f'guide --pretrained_checkpoint log/model_00004.pt --max_steps 4 {line}')
    assert 'RANDOM' not in said and {'model_00002.pt', 'model_00004.pt'} <= {p.name for p in Path('logs_finetune').iterdir()}
    said = said_by(nanogpt_finetune, f'guide --pretrained_checkpoint log/model_00004.pt --resume --checkpoint_path logs_finetune/model_00002.pt '
                                     f'--max_lr 1e-5 --max_steps 4 {line}')
    assert 'resuming logs_finetune/model_00002.pt at step 2' in said and settings('logs_finetune')['learning_rate'] == 1e-5
    said = said_by(nanogpt_finetune, f'guide --pretrained_checkpoint log/model_00004.pt --auto_resume --max_steps 5 {line}')
    assert 'at step 4' in said and steps('logs_finetune')[-1] == 5
    assert 'log/model_19072.pt' in said_by(nanogpt_finetune, f'dolly --pretrained_checkpoint log/model_19072.pt {line}', 1)
    for out in ('log', 'logs_finetune/model_00005.pt'):
        assert said_by(nanogpt_sample, ['--out_dir', out, '--start', 'Q1: what', '--num_samples=1', '--max_new_tokens=4', '--device=cpu']).startswith('Q1: what')

def test_c_from_the_text_to_ten_samples(th):
    "data/TH/prepare.py, config/train_TH.py, --init_from=resume, sample.py: nanoGPT's four commands"
    Path('config/train_TH.py').write_text("dataset = 'TH'\nout_dir = 'TH_out'\neval_interval = 2\n", encoding='utf-8')
    said_by(nanogpt_prepare, 'data/TH/prepare.py')
    line = ('config/train_TH.py --device=cpu --compile=False --eval_iters=2 --log_interval=10 --block_size=16 --batch_size=2 --n_layer=1 --n_head=2 '
            '--n_embd=16 --max_iters={0} --lr_decay_iters={0} --dropout=0.4')
    said = said_by(nanogpt_train, line.format(4))
    assert len(re.findall(r'(?m)^step \d: train loss \d\.\d{4}, val loss \d\.\d{4}$', said)) == 3
    assert {'ckpt.pt', 'model_00002.pt', 'model_00004.pt'} <= {p.name for p in Path('TH_out').iterdir()}
    got = settings('TH_out')
    assert (got['tokenizer'], got['bias'], got['sampling'], got['vocab_size']) == ('char', False, 'random', len({*NEWS}))
    assert 'at step 4' in said_by(nanogpt_train, line.format(6) + ' --init_from=resume') and steps('TH_out')[-1] == 6
    said = said_by(nanogpt_sample, '--out_dir=TH_out --start=皇马 --device=cpu --max_new_tokens=5')
    assert len(re.findall('(?m)^皇马', said)) == said.count('---------------') == 10 and '�' not in said

def test_d_from_text_to_a_larger_max_iters(here):
    "The course's own files of a vocabulary, data2token, train, --load_checkpoint, and what its users look for"
    from nanogpt_lit.tokenizer import Tokenizer
    text = ''.join(f'{i} comes before {i + 1}.\n' for i in range(400))
    Path('raw_text.txt').write_text(text, encoding='utf-8')
    tok = Tokenizer.train([text], 300, progress=False)
    Path('tokenizer.vocab').write_text(''.join(f'{i} {b!r}\n' for i, b in tok.vocab.items()), encoding='utf-8')
    Path('tokenizer.merges').write_text(''.join(f'{a!r} {b!r}\n' for a, b in tok.merges), encoding='utf-8')
    both = '--vocab_path tokenizer.vocab --merges_path tokenizer.merges'
    said_by(nanogpt_tokenizer, f'encode --data_path raw_text.txt {both} --output_path train_data.npy --method streaming')
    ids = np.load('train_data.npy')
    assert ids.dtype == np.int32 and ids.tolist() == tok.encode(text)
    line = (f'{both} --train_data train_data.npy --val_data train_data.npy --vocab_size 300 --d_model 16 --n_layers 1 --n_heads 2 --d_ff 32 --batch_size 2 '
            '--context_length 16 --learning_rate 3e-4 --num_eval_batches 1 --device cpu --save_interval 2')
    said = said_by(nanogpt_train, f'{line} --max_iters 4 --checkpoint_dir ./checkpoints')
    assert 'number of parameters' in said and 'lr 3.00e-04' in said
    said = said_by(nanogpt_train, f'{line} --max_iters 6 --load_checkpoint checkpoints/checkpoint_4.pt')
    assert {f'checkpoint_{i}.pt' for i in (2, 4, 6)} <= {p.name for p in Path('checkpoints').iterdir()} and steps('checkpoints')[-1] == 6
    assert 'there is no checkpoint checkpoints/checkpoint_8.pt' in said_by(nanogpt_train, f'{line} --max_iters 9 --load_checkpoint checkpoints/checkpoint_8.pt', 1)
    assert said_by(nanogpt_sample, 'checkpoints --start 7 --num_samples 1 --max_new_tokens 4 --device cpu').startswith('7')

def test_d_ablations():
    "The course's three switches: one is an option, two are refused, and the sentence says where norms are"
    for value, pos in (('', 'none'), (' False', 'rotary')): assert resolved(RunConfig, f'--d_model 768 --remove_rope{value}', PRESETS)['pos'] == pos
    for flag in ('--use_post_norm', '--remove_rmsnorm'):
        assert 'norms stand before each sublayer' in said_by(nanogpt_train, f'--d_model 768 {flag}', 1)
        assert resolved(RunConfig, f'--d_model 768 {flag} False', PRESETS)['norm'] == 'rmsnorm'

@pytest.mark.parametrize('place', ['data/dataset/minimind_dataset', 'data/dataset', 'data'])
def test_e_three_trainings_a_monitor_and_curves(place):
    "All data by names in their places, one file, chats; the monitor and the curves of what was trained last"
    Path(place).mkdir(parents=True)
    texts = [f'{i} comes before {i + 1}. ' * 4 for i in range(60)]
    records = {'pretrain_hq': lambda t: {'text': t}, 'pretrain_200': lambda t: {'text': t},
               'sft_512': lambda t: {'conversations': [{'role': 'user', 'content': 'Go on'}, {'role': 'assistant', 'content': t}]},
               'sft_1024': lambda t: {'conversation': [{'role': 'user', 'content': 'Go on'}, {'role': 'assistant', 'content': t}]},
               'sft_mini_512': lambda t: {'input': 'Go on', 'output': t}, 'r1_mix_1024': lambda t: {'input': 'Go on', 'output': t}}
    for name, record in records.items():
        Path(place, f'{name}.jsonl').write_text(''.join(json.dumps(record(t)) + '\n' for t in texts), encoding='utf-8')
    small = f'{SMALL} --n_kv_head 1 --d_ff 16 --eval_iters 1'
    said = said_by(nanogpt_train, '--config medium --use-full-data --retrain-tokenizer --tokenizer-vocab-size 300 --learning-rate 3e-5 --max-steps 4 --batch-size 2 '
                   f'--warmup-steps 2 --save-steps 2 --plot-loss --output-dir checkpoints/mac_medium_v2 --dataloader-workers 2 {small}')
    run = Path('checkpoints/mac_medium_v2')
    for name in ('final_model.pt', 'checkpoint_step_2.pt', 'checkpoint_step_4.pt', 'tokenizer', 'plots/loss_curve_step_2.png', 'plots/loss_curve_latest.png',
                 'plots/loss_curve_final_step_4.png'): assert (run/name).exists(), name
    got = settings(run)
    assert len(got['input']) == 4 and (got['learning_rate'], got['warmup_steps'], got['vocab_size']) == (3e-5, 2, 300)
    if place != 'data': return                             # the rest is the same everywhere
    said_by(nanogpt_train, f'--config small --data-files pretrain_200.jsonl --max-data-size 10000 --max-steps 3 --batch-size 2 --plot-loss '
                           f'--output-dir checkpoints/test_run {small}')
    assert 'checkpoints/test_run' in said_by(nanogpt_monitor, '--once')
    said_by(nanogpt_train, f'--config small --data-files sft_mini_512.jsonl --max-data-size 50000 --batch-size 2 --max-steps 3 --max-cpu 100 '
                           f'--max-memory 100 --plot-loss {small}')
    newest = said_by(nanogpt_monitor, '--once').split(' ')[0]
    assert Path(newest, 'final_model.pt').exists() and newest != 'checkpoints/test_run'
    assert 'mfu' not in said_by(nanogpt_monitor, f'{newest} --once')
    assert 'wrote checkpoints/test_run/plots' in said_by(nanogpt_plot, '--checkpoint-dir checkpoints/test_run')
    assert 'error: ' in said_by(nanogpt_plot, '--checkpoint-dir checkpoints/your_model', 1)

@pytest.mark.parametrize('typed, meant', [('my/tinyshakespear.txt', 'my/tinyshakespeare.txt'), ('sft_mini512.jsonl', 'data/dataset/minimind_dataset/sft_mini_512.jsonl'),
                                          ('data/TH/imput.txt', 'data/TH/input.txt')])
def test_a_typo_in_a_file_name(typed, meant):
    "…names the file that is there"
    for name in ('my/tinyshakespeare.txt', 'my/other.txt', 'data/dataset/minimind_dataset/sft_mini_512.jsonl', 'data/TH/input.txt'):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text('{"text": "words"}\n', encoding='utf-8')
    assert f'{typed} does not exist: did you mean {meant}?' in said_by(nanogpt_prepare, typed, 1)
    assert f'{typed} does not exist: did you mean {meant}?' in said_by(nanogpt_train, f'--config small --data-files {typed} --output-dir run', 1)
    assert 'did you mean' not in said_by(nanogpt_prepare, 'quite-another.txt', 1)

def test_what_is_switched_off_is_not_remarked_on(capsys):
    "Four notes before each command of a nanoGPT user, on settings that ask for nothing, hide the one that matters"
    Path('config/train_TH.py').write_text("wandb_log = False\nwandb_project = 'TH'\nwandb_run_name = 'mini'\nalways_save_checkpoint = False\n", encoding='utf-8')
    cfg, _ = resolve(RunConfig, ['config/train_TH.py'], PRESETS)
    assert not capsys.readouterr().out and (cfg.train.track_project, cfg.train.track) == ('TH', None)
    resolve(RunConfig, ['config/train_TH.py', '--wandb_log=True'], PRESETS)
    assert capsys.readouterr().out.splitlines() == ['note: --wandb_log has no effect here (metrics are always in metrics.jsonl; --track wandb sends them there too)']

def test_a_prompt_behind_the_run():
    "nanogpt-sample RUN \"Once upon\" names the flag of a prompt"
    said = said_by(nanogpt_sample, ['TH_out', '皇马'], 1)
    assert "unexpected '皇马': expected at most 1 word without a flag (out_dir); a prompt is given with --start" in said
