"""The first command of somebody who comes from one of five other trainers: what it takes from a folder that looks like theirs,
what it says before the first step, and what it does with a slip.
"""
import ast, contextlib, importlib, io, json, math, os, re, shutil, sys
from pathlib import Path
from types import SimpleNamespace
import numpy as np
import pytest
import torch
import nanogpt_lit
from harness import run_argv, spoken
from nanogpt_lit.config import PRESETS, OptimConfig, RunConfig, SampleConfig, nanogpt_finetune, nanogpt_report, nanogpt_sample, nanogpt_train
from nanogpt_lit.core import UserError
from nanogpt_lit.config import resolve
from nanogpt_lit.evaluate import evaluate_loss
from nanogpt_lit.interop import load_run
from nanogpt_lit.loader import TokenData
from nanogpt_lit.optim import lr_at, lr_factor
from nanogpt_lit.pretrain import PLACES
from nanogpt_lit.monitor import OverfitWatch, newest_run

TEXT = 'It was a bright cold day in April, and the clocks were striking thirteen.\n'*40
SMALL = '--n_layer 1 --n_head 2 --n_embd 16 --block_size 16 --batch_size 2 --device cpu --eval_iters 1 --num_threads 1'

@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path('my.txt').write_text(TEXT, encoding='utf-8')
    return tmp_path

def train(line, code=0, command=nanogpt_train):
    "What `nanogpt-train` says to these words"
    got, said = spoken(command, *(line.split() if isinstance(line, str) else line))
    assert got == code, said
    assert 'fault of nanogpt_lit' not in said, said
    return said

def settings(folder):
    import tomllib
    tables = tomllib.loads(Path(folder, 'config.toml').read_text(encoding='utf-8'))
    return {k: v for table in tables.values() for k, v in table.items()}

def records(folder): return [json.loads(o) for o in Path(folder, 'metrics.jsonl').read_text(encoding='utf-8').splitlines()]

def asked(line): return resolve(RunConfig, line.split(), PRESETS)

# --- everybody --------------------------------------------------------------------------------------------------------

TINY = f'tiny --tokenizer char --max_steps 4 {SMALL}'

def test_a_typo_does_not_train_on_the_data_of_an_earlier_run():
    "…nor move that run away; only a run that goes on may use what was prepared for it"
    train(f'{TINY} --input my.txt')
    before = {p: p.stat().st_mtime_ns for p in Path('runs').rglob('*.pt')}
    said = train(f'{TINY} --input mi.txt', 1)
    assert 'mi.txt does not exist' in said and 'going on' not in said
    assert 'mi.txt does not exist' in train(f'{TINY} --input mi.txt --auto_resume', 1)      # another name than the run's
    assert before == {p: p.stat().st_mtime_ns for p in Path('runs').rglob('*.pt')}
    Path('my.txt').unlink()
    said = train(f'{TINY} --input my.txt --auto_resume --max_steps 6')
    assert 'going on with the data that this run prepared before' in said and 'at step 4' in said

def test_few_lines_before_the_first_step_and_each_save_is_told():
    said = train(f'{TINY} --input my.txt --checkpoint_interval 2 --log_interval 2').splitlines()
    first = next(i for i, o in enumerate(said) if o.startswith('iter'))
    assert first < 12 and 'flag: ' in '\n'.join(said[:first]) and 'config.toml' in '\n'.join(said[:first])
    assert said[first - 1] == 'first checkpoint at step 2, then every 2 steps, on Ctrl-C and at the end'
    assert [o for o in said if o.startswith('saved ')] == ['saved model_00002.pt', 'saved model_00004.pt']
    assert 'mfu' not in '\n'.join(said) and records('runs/tiny')[-1]['mfu'] > 0
    said = train(f'{TINY} --input my.txt --checkpoint_interval -1 --show_config')
    assert 'checkpoints: only at the end, on Ctrl-C, and the best weights' in said and len(re.findall('(?m)^[* ] [a-z_0-9]+ +=', said)) > 100

def test_saves_between_log_lines_are_counted():
    said = train(f'{TINY} --input my.txt --checkpoint_interval 1 --log_interval 4')
    assert re.findall('saved .*', said) == ['saved model_00001.pt', 'saved model_00004.pt (2 before it)']

@pytest.mark.parametrize('word, flag', [('my.txt', 'input'), ('gone.jsonl', 'input'), ('ids.npy', 'train_data'), ('folder', 'dataset'),
                                        ('model_00004.pt', 'load_checkpoint'), ('my file.md', 'input')])
def test_a_path_without_a_flag(word, flag):
    Path('folder').mkdir()
    quoted = f"'{word}'" if ' ' in word else word
    assert f'give it with --{flag} {quoted}\n' in train([word], 1)

def test_a_path_without_a_flag_elsewhere():
    assert 'give it with --input my.json' in train('my.json', 1, nanogpt_finetune)
    assert '--start "Once upon"' in train(['Once upon'], 1, nanogpt_sample)
    assert 'did you mean tiny' in train('tinny', 1)
    Path('a run').mkdir()
    SampleConfig(out_dir='a run')                        # a folder may have such a name

def test_nothing_left_to_do():
    train(f'{TINY} --input my.txt')
    said = train(f'{TINY} --input my.txt --auto_resume')
    assert 'nothing is left to do after step 4' in said and 'done: ' not in said
    said = train(f'{TINY} --input my.txt --auto_resume --max_steps 6 --learning_rate 1e-5 --min_lr 1e-6')
    assert 'not bit for bit' in said and len(re.findall(r'learning_rate', said.split('resuming')[1])) == 1

def test_nothing_saved_no_advice(monkeypatch):
    "A run without any checkpoint isn't offered to be sampled from"
    from nanogpt_lit.trainer import Trainer
    monkeypatch.setattr(Trainer, 'done', lambda self: setattr(self, 'stop_reason', 'SIGTERM') or True)
    said = train(f'{TINY} --input my.txt --eval_interval 0', 143)
    assert 'nothing was saved' in said and 'write with it' not in said

def test_bits_per_byte_are_the_same_everywhere():
    "With tokens of one byte each they are the nats over ln 2, exactly"
    train(f'{TINY} --input my.txt --eval_iters 0')
    last, run = records('runs/tiny')[-1], load_run('runs/tiny/model_00004.pt', 'cpu')
    whole = evaluate_loss(run.model, TokenData('runs/tiny/data', 'val'), 2)
    assert last['bits_per_byte'] == pytest.approx(last['val_loss']/math.log(2), rel=1e-12) == pytest.approx(whole.bits_per_byte, rel=1e-5)

# --- the schedule -----------------------------------------------------------------------------------------------------

def of_the_course(it, high=1., low=.1, warmup=7, end=21):
    if it < warmup: return high*it/warmup
    if it > end: return low
    return low + (1 + math.cos(math.pi*(it - warmup)/(end - warmup)))/2*(high - low)

def test_schedule_of_the_course():
    cfg = OptimConfig(learning_rate=1., min_lr=.1, warmup_steps=7, lr_decay_steps=21, warmup_from='zero')
    assert [lr_at(i, cfg, 25) for i in range(25)] == pytest.approx([of_the_course(i) for i in range(25)], rel=1e-12)
    assert {PRESETS[f'cs336-{o}']['warmup_from'] for o in ('small', 'medium', 'large')} == {'zero'}

@pytest.mark.parametrize('name, step', [('schedule', 5), ('warmup_from', 0)])
def test_an_unknown_schedule_is_an_error(name, step):
    cfg = OptimConfig(warmup_steps=1)
    setattr(cfg, name, 'unheard-of')
    with pytest.raises(UserError, match='unheard-of'): lr_factor(step, cfg, 10)

def test_odd_schedules_are_told():
    assert 'the warm-up takes 100 steps and the run has 4' in train(f'{TINY} --input my.txt --warmup_steps 100')
    assert 'the decay ends at step 2, within the warm-up' in train(f'{TINY} --input my.txt --warmup_steps 3 --lr_decay_steps 2 --schedule cosine')
    assert 'warm-up' not in train(f'{TINY} --input my.txt --warmup_steps 1')

# --- A: build-nanogpt -------------------------------------------------------------------------------------------------

def test_build_nanogpt_in_its_folder():
    "Its shards are found, its log/ is written to, and HellaSwag that can't be had is one warning at the start"
    Path('edu_fineweb10B').mkdir()
    ids = np.random.default_rng(0).integers(0, 50257, 600).astype(np.uint16)
    for name in ('val_000000', 'train_000001'): np.save(f'edu_fineweb10B/edufineweb_{name}.npy', ids)
    said = train(f'build-nanogpt {SMALL} --tokenizer None --grad_accum_steps 1 --max_steps 2')
    assert said.count('no HellaSwag scores') == 1 and 'training on edu_fineweb10B' in said
    assert Path('log/model_00002.pt').exists() and Path('log/model_00001.pt').samefile('log/model_00002.pt')
    assert 'needs a tokenizer' in train(f'build-nanogpt {SMALL} --tokenizer None --hellaswag_interval 5 --max_steps 2', 1) # asked for

def test_hellaswag_beside_the_data_is_found_whoever_asks():
    "…also when --hellaswag_interval is typed: nobody is sent to the network past a file that is there"
    from nanogpt_lit.tokenizer import Tokenizer
    Tokenizer.train([TEXT], 270, progress=False).save('small')
    Path('hellaswag_val.jsonl').write_text(json.dumps(dict(ctx='It was a', endings=[' bright', ' dark', ' cold', ' wet'], label=0)) + '\n', encoding='utf-8')
    train(f'build-nanogpt {SMALL} --tokenizer small --vocab_size 270 --input my.txt --grad_accum_steps 1 --max_steps 1 --hellaswag_interval 1 --generate_interval 0')
    assert json.loads(Path('log/hellaswag.jsonl').read_text(encoding='utf-8'))['n'] == 1

@pytest.mark.parametrize('name', ['log/model_19072.pt', 'out/ckpt.pt', 'mine/weights.safetensors'])
def test_a_file_that_is_gone_is_no_model_of_the_hub(name):
    "log/model_19072.pt looks like OWNER/NAME, and nobody means it so"
    said = train(f'--out_dir {name}', 1, nanogpt_sample)
    assert f'{name} does not exist' in said and 'huggingface' not in said

def test_weights_that_were_cut_off_are_called_torn():
    torch.save({'model': {'w': torch.zeros(1000)}}, 'whole.pt')
    Path('torn.pt').write_bytes(Path('whole.pt').read_bytes()[:2000])
    assert 'torn.pt is refused: it is torn, or not a file of plain tensors' in train('--out_dir torn.pt', 1, nanogpt_sample)

# --- C: nanoGPT, Chinese characters -----------------------------------------------------------------------------------

TH = ("out_dir = 'TH_out'\neval_interval = 2\neval_iters = 2\nlog_interval = 1\ndataset = 'TH'\nbatch_size = 4\nblock_size = 16\nn_layer = 1\n"
      "n_head = 2\nn_embd = 16\nmax_iters = 4\nlr_decay_iters = 4\nwarmup_iters = 1\n")

@pytest.fixture
def chinese(here):
    for folder in ('config', 'data/TH'): Path(folder).mkdir(parents=True)
    Path('config/train_TH.py').write_text(TH, encoding='utf-8')
    Path('data/TH/input.txt').write_text('皇马在主场以三比一战胜了巴萨，梅西打进一球。\n湖人客场取胜。\n'*20, encoding='utf-8')

@pytest.mark.parametrize('more', ['', '--input data/TH/input.txt'])
def test_characters(chinese, more):
    "A .py file means characters; its data are found; checkpoints and both losses come at evaluations"
    said = train(f'config/train_TH.py --device=cpu {more}')
    c = settings('TH_out')
    assert (c['tokenizer'], c['checkpoint_interval']) == ('char', 2) and c['vocab_size'] < 40
    assert Path('TH_out/model_00002.pt').exists() and Path('TH_out/ckpt.pt').exists()
    assert len(re.findall(r'(?m)^step \d: train loss \d\.\d{4}, val loss \d\.\d{4}$', said)) == 3
    assert [o['step'] for o in records('TH_out') if 'train_loss' in o] == [0, 2, 4]
    assert re.search(r'number of parameters: .*; 0\.00M without positions', said)

def test_characters_unless_told_otherwise(chinese):
    assert asked('config/train_TH.py --tokenizer bpe')[0].data.tokenizer == 'bpe'
    assert asked('config/train_TH.py --eval_interval 3')[0].train.checkpoint_interval == 3
    assert asked('config/train_TH.py --checkpoint_interval 7')[0].train.checkpoint_interval == 7
    Path('config/train_gpt2.py').write_text("dataset = 'openwebtext'\n", encoding='utf-8')
    assert asked('config/train_gpt2.py')[0].data.tokenizer is None
    assert asked('chinese-news')[0].train.checkpoint_interval == asked('chinese-news')[0].train.eval_interval == 2000

def test_resuming_nothing(chinese):
    said = train('config/train_TH.py --device=cpu --init_from=resume', 1)
    assert 'there is no good checkpoint in TH_out' in said and not Path('TH_out').exists()
    train('config/train_TH.py --device=cpu')
    for p in Path('TH_out').glob('*.pt'): p.unlink()
    train('config/train_TH.py --device=cpu --init_from=resume', 1)
    assert Path('TH_out/metrics.jsonl').exists() and not [*Path('TH_out').glob('previous*')]

def test_eval_only_and_other_weights(chinese):
    train('config/train_TH.py --device=cpu')
    before = sorted(p.name for p in Path('TH_out').rglob('*'))
    said = train('config/train_TH.py --device=cpu --init_from=resume --eval_only')
    assert re.fullmatch(r'step 4: train loss [\d.]+, val loss [\d.]+\n', said) and before == sorted(p.name for p in Path('TH_out').rglob('*'))
    train('config/train_TH.py --device=cpu --init_from=TH_out --out_dir=more --max_iters=1 --dropout=0')
    assert records('more')[0]['val_loss'] == pytest.approx(records('TH_out')[-1]['val_loss'], rel=1e-6)
    said = train('config/train_TH.py --device=cpu --init_from=gpt2 --out_dir=gpt', 1)
    assert 'hf download gpt2' in said and not Path('gpt').exists()

# --- D: the course ----------------------------------------------------------------------------------------------------

COURSE = dict(pos='rotary', act='swiglu', norm='rmsnorm', beta1=.9, beta2=.999, grad_clip=1., weight_decay=.01, d_ff=3072, vocab_size=10_000,
              n_layer=12, n_head=12, n_embd=768, block_size=512, batch_size=32, learning_rate=3e-4, schedule='constant', max_steps=100_000,
              log_interval=100, eval_interval=1000, checkpoint_interval=5000, eval_iters=100, out_dir='checkpoints',
              checkpoint_name='checkpoint_{step}.pt', rope_theta=1e4, device='auto')

@pytest.mark.parametrize('flag', ['--merges_path tokenizer.merges --vocab_path tokenizer.vocab', '--d_model 768', '--rope_theta 10000.0', '--max_grad_norm 1.0',
                                  '--num_eval_batches 100', '--checkpoint_dir checkpoints', '--d_model 768 --max_seq_len 1024'])
def test_the_course_is_recognised_by_its_flags(flag, capsys):
    from nanogpt_lit.config import flat_values
    values = flat_values(asked(flag)[0])
    assert {k: values[k] for k in COURSE} == COURSE
    assert capsys.readouterr().out.startswith(f'note: {flag.split()[0]} is a flag of one trainer')

def test_a_named_preset_is_meant(capsys):
    cfg, _ = asked('tiny --d_model 32 --max_grad_norm 2 --max_seq_len 128')
    assert (cfg.model.n_embd, cfg.optim.grad_clip, cfg.model.block_size, cfg.train.out_dir) == (32, 2., 128, 'runs/tiny') and not capsys.readouterr().out
    assert asked('cs336-small --max_seq_len 1024')[0].model.block_size == 512

# --- E: MiniGPT -------------------------------------------------------------------------------------------------------

MINI = f'--config medium --max-steps 1 {SMALL} --n_kv_head 1 --d_ff 32 --output-dir checkpoints/mine'

def jsonl(path, text=TEXT):
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(''.join(json.dumps({'text': o}) + '\n' for o in [text, 'and another', 'and a third']), encoding='utf-8')

@pytest.mark.parametrize('place', PLACES)
def test_minigpt_finds_its_data(place):
    "In each of the usual places, by no name at all and by the names of the guide; the vocabulary shrinks to what the text has"
    jsonl(Path(place)/'pretrain_hq.jsonl')
    said = train(MINI)
    assert f'training on {Path(place)/"pretrain_hq.jsonl"}' in said and 'too small for a vocabulary of 15,000 ids: it gets' in said
    c = settings('checkpoints/mine')
    assert c['tokenizer_samples'] == 100_000 and 256 < c['vocab_size'] < 1000
    if not place: return
    jsonl(Path(place)/'sft_512.jsonl')
    said = train(f'{MINI} --use-full-data')
    assert 'of all the data, there is no sft_1024.jsonl, r1_mix_1024.jsonl' in said

def test_minigpt_asks_for_too_much():
    jsonl('data/pretrain_hq.jsonl')
    assert re.search(r'too small for vocab_size=9000.* at most \d+ ids', train(f'{MINI} --tokenizer-vocab-size 9000', 1))
    Path('data/pretrain_hq.jsonl').unlink()
    assert 'there is no pretrain_hq.jsonl' in train(MINI, 1)
    assert (PRESETS['minigpt-medium']['tokenizer_vocab_size'], PRESETS['minigpt-small']['tokenizer_samples']) == (15_000, 100_000)

@pytest.mark.parametrize('folder', ['runs/a', 'checkpoints/a', 'checkpoints', 'TH_out', 'out-shakespeare-char', 'log', 'logs/a', '.'])
def test_the_newest_run_of_any_folder(folder, monkeypatch):
    from nanogpt_lit.config import nanogpt_plot
    Path('runs/old').mkdir(parents=True)
    for i, p in enumerate(('runs/old', folder)):
        Path(p).mkdir(parents=True, exist_ok=True)
        note = Path(p, 'metrics.jsonl')
        note.write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.0}\n', encoding='utf-8')
        os.utime(note, (10**9 + i, 10**9 + i))
    assert newest_run() == Path(folder)
    if folder == 'checkpoints/a': assert 'wrote checkpoints/a/plots' in train('', 0, nanogpt_plot)

# --- B: what looks like tokens ----------------------------------------------------------------------------------------

def test_questions_are_no_tokens():
    head = np.zeros(256, '<i4')
    head[:2] = 20240522, 1
    Path('hellaswag_val.bin').write_bytes(head.tobytes() + np.arange(3000, dtype='<u2').tobytes())
    for dtype in ('', '--data_dtype uint16'):
        assert 'holds the HellaSwag questions of llm.c' in train(f'tiny --train_data hellaswag_val.bin --vocab_size 65536 {dtype}', 1)

# --- started by name --------------------------------------------------------------------------------------------------

SOURCES = sorted(p for p in Path(nanogpt_lit.__file__).parent.glob('*.py') if p.stem not in ('__init__', '_modidx'))

def main_block(path):
    "The statement of a module that says what happens when the module is started"
    ifs = (o for o in ast.parse(path.read_text(encoding='utf-8')).body if isinstance(o, ast.If))
    return next((o for o in ifs if ast.unparse(o.test) == "__name__ == '__main__'"), None)

def started(block, names, *words):
    "Exit code and words of this block in a module with these names"
    said, argv = io.StringIO(), sys.argv
    sys.argv, code = ['-m', *words], compile(ast.Module([block], []), 'main', 'exec')
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try: exec(code, dict(names, __name__='__main__')); got = 0
        except SystemExit as e: got = e.code
        finally: sys.argv = argv
    if isinstance(got, str): return 1, got                                                  # as Python prints it
    return got or 0, said.getvalue()

@pytest.mark.parametrize('path', SOURCES, ids=lambda p: p.stem)
def test_no_module_does_nothing_when_it_is_started(path):
    "…as with torchrun -m: it runs its command, or says in one sentence which one to take, with exit code 1"
    block = main_block(path)
    assert block, f'python -m nanogpt_lit.{path.stem} would do nothing, with exit code 0: end the module with a main'
    code, said = started(block, vars(importlib.import_module(f'nanogpt_lit.{path.stem}')), '--help')
    if code == 0: assert said.startswith(('usage: nanogpt-', 'usage: python -m nanogpt_lit')), said
    else: assert code == 1 and said.startswith(f'error: nanogpt_lit.{path.stem} is no command: ') and '\n' not in said, said

def test_modules_that_guides_start():
    wanted = dict(finetune='finetune', pretrain='train', generate='sample', evaluate='eval', data='prepare', fleet='prepare', chat='chat', serve='serve', quickstart='quickstart',
                  speedrun='bench', report='report', monitor='monitor', distributed='launch', sizing='plan')
    for name, command in wanted.items():
        module = importlib.import_module(f'nanogpt_lit.{name}')
        assert started(main_block(Path(module.__file__)), vars(module), '--help')[1].startswith(f'usage: nanogpt-{command} '), name

def test_a_module_in_a_process_of_its_own():
    def shell(*words): return run_argv([sys.executable, '-m', *words], capture_output=True, text=True, timeout=120, env={**os.environ, 'PYTHONPATH': str(SOURCES[0].parent.parent)})
    r = shell('nanogpt_lit.finetune', '--pretrained_checkpoint', 'gone.pt')
    assert r.returncode == 1 and r.stderr.startswith('error: gone.pt does not exist'), r.stdout + r.stderr
    r = shell('nanogpt_lit', 'tune')
    assert r.returncode == 1 and "'tune' is no command: python -m nanogpt_lit lists all of them" in r.stderr, r.stderr

def test_what_torchrun_starts():
    "With scripts that nobody has installed"
    from nanogpt_lit.config import LaunchConfig
    from nanogpt_lit.launch import torchrun_words
    for name, module in dict(train='pretrain', prepare='fleet', finetune='finetune', eval='benchmarks').items():
        words = torchrun_words(LaunchConfig(nproc=2, command=[name, '--flag']))
        assert words[-3:] == ['-m', f'nanogpt_lit.{module}', '--flag'], words
    assert torchrun_words(LaunchConfig(nproc=2, command=['sample', 'runs/a']))[-4:] == ['-m', 'nanogpt_lit', 'sample', 'runs/a']
    from nanogpt_lit.launch import sbatch_script
    assert 'dolly --auto_resume' in sbatch_script(LaunchConfig(nproc=2, command=['finetune', 'dolly']))
    assert '--auto_resume' not in sbatch_script(LaunchConfig(nproc=2, command=['prepare', 'a.txt', 'b.txt'])).replace('#', '')

# --- tuning -----------------------------------------------------------------------------------------------------------

PAIRS = [dict(prompt=f'{k} and {k}?', completion=f'{2*k}.') for k in range(60)]

@pytest.fixture(scope='module')
def base(tmp_path_factory):
    "A small run, trained on the text of this file"
    home = tmp_path_factory.mktemp('base')
    (home/'my.txt').write_text(TEXT, encoding='utf-8')
    train(f'tiny --tokenizer bpe --tokenizer_vocab_size 270 --max_steps 4 {SMALL} --block_size 64 --input {home}/my.txt --out_dir {home}/base')
    return home/'base'

@pytest.fixture
def tune(base):
    Path('pairs.jsonl').write_text('\n'.join(map(json.dumps, PAIRS)), encoding='utf-8')
    words = f'--input pairs.jsonl --pretrained_checkpoint {base} --device cpu --num_threads 1 --batch_size 2 --max_new_tokens 4 --generate_interval 0 --eval_iters 1'
    return lambda line='', code=0: train(f'{words} {line}', code, nanogpt_finetune)

def test_tuning_says_as_much_as_training(tune):
    said = tune('--max_steps 4 --checkpoint_interval 2').splitlines()
    first = next(i for i, o in enumerate(said) if o.startswith('iter'))
    assert first < 16 and 'flag: ' in '\n'.join(said[:first]), said[:first]
    assert '(all settings: runs/finetune/config.toml' in '\n'.join(said[:first])
    assert said[first - 1] == 'first checkpoint at step 2, then every 2 steps, on Ctrl-C and at the end'
    assert [o for o in said if o.startswith('saved ')] == ['saved model_00002.pt', 'saved model_00004.pt']
    assert 'checkpoints: only at the end, on Ctrl-C, and the best weights' in tune('--max_steps 2 --out_dir runs/b')

def test_overfitting_is_told_once_an_episode():
    "…and not at every evaluation; a new episode begins after a new best, also across a resumption"
    told = []
    def watch(t): return SimpleNamespace(strategy=SimpleNamespace(is_main=True), say=told.append, cfg=SimpleNamespace(stop_on_overfit=0), **t)
    w, best, best_step = OverfitWatch(), math.inf, 0
    for step, val in enumerate([3., 2.5, 2.6, 2.7, 2.6, 2.4, 2.5, 2.6]):
        if val < best: best, best_step = val, step
        if step == 4:                                                # interrupted, in the middle of an episode
            state, w = w.state_dict(), OverfitWatch()
            w.load_state_dict(state)
        w.on_log(watch(dict(step=step, record=dict(step=step, loss=3. - .1*step, val_loss=val), val_loss=val, best_val_loss=best, best_step=best_step)))
        assert len(told) == (step >= 2) + (step >= 6), (step, told)
    assert 'above its best 2.500 (step 1)' in told[0] and 'above its best 2.400 (step 5)' in told[1]

def test_tuning_that_goes_on(tune):
    "A change is told once, what is over isn't done again, and nobody is advised to do what he does"
    tune('--max_steps 2 --batch_size 4')
    said = tune('--max_steps 4 --batch_size 4 --auto_resume --learning_rate 1e-5').split('resuming ')[1]
    assert len(re.findall('learning_rate', said)) == 1 and len(re.findall('max_steps', said)) == 1, said
    said = tune('--max_steps 4 --batch_size 4 --auto_resume')
    assert 'nothing is left to do after step 4' in said and 'done' not in said, said
    for p in Path('runs/finetune').glob('*.pt'): p.write_bytes(b'torn')
    said = tune('--max_steps 2 --auto_resume')
    assert 'was moved to' in said and 'add --auto_resume' not in said, said
    assert '(add --auto_resume to continue one instead)' in tune('--max_steps 2')

def test_the_report_of_a_tuned_run(tune, base):
    "…from its folder alone, as its command has written it, and when it was killed before it ended"
    said = train('runs/finetune', 1, nanogpt_report)
    assert 'runs/finetune' in said
    tune('--max_steps 4 --eval_interval 2 --generate_interval 2 --lora_rank 2 --prompts <b>hello</b>')
    whole = Path('runs/finetune/report.html').read_text(encoding='utf-8')
    assert train('runs/finetune', 0, nanogpt_report).startswith('report: ')
    page = Path('runs/finetune/report.html').read_text(encoding='utf-8')
    assert page == whole
    for words in (str(base), 'adapters of rank 2', 'pairs.jsonl', 'Learned, and forgotten', 'answers held out', 'before: it continues', 'after: it answers', '<polyline',
                  '&lt;b&gt;hello', 'nanogpt-finetune --', '--lora_rank 2', 'nanogpt-finetune --auto_resume --out_dir runs/finetune --max_steps 8', 'nanogpt-chat runs/finetune'):
        assert words in page, words
    assert 'What could not be read' not in page and 'nanogpt-train' not in page and '<b>hello' not in page
    Path('runs/finetune/tuning.json').unlink()
    train('runs/finetune', 0, nanogpt_report)
    page = Path('runs/finetune/report.html').read_text(encoding='utf-8')
    assert 'before: it continues' in page and 'after: it answers' not in page and 'What could not be read' not in page
    Path('runs/finetune/tuning.json').write_text('{"figures": {}, "samples": [["a"]]}', encoding='utf-8')
    train('runs/finetune', 0, nanogpt_report)
    assert 'tuning.json' in Path('runs/finetune/report.html').read_text(encoding='utf-8').split('What could not be read')[1]

def test_chat_finds_the_newest_tuned_run(tune, monkeypatch):
    "…wherever it is, and says which; with none, what to do"
    from nanogpt_lit.config import nanogpt_chat
    monkeypatch.setattr('sys.stdin', io.StringIO('hello\n'))
    said = train('--device cpu', 1, nanogpt_chat)
    assert said.count('\n') == 1 and 'nanogpt-quickstart' in said and 'nanogpt-finetune' in said, said
    tune('--max_steps 2 --out_dir runs/finetune')
    tune('--max_steps 2 --out_dir runs/quickstart-chat')
    said = train('--device cpu --max_new_tokens 4', 0, nanogpt_chat)
    assert said.startswith('runs/quickstart-chat: the newest tuned run here (nanogpt-chat FOLDER for another)\n'), said

def test_weights_that_do_not_say_their_number_of_heads(tune, base):
    "Every command whose hint names --n_head takes it; a sound base is never replaced by random weights"
    from nanogpt_lit.config import GPTConfig, nanogpt_eval, nanogpt_export
    from nanogpt_lit.model import GPT
    from nanogpt_lit.translate import NANOGPT, to_theirs
    shutil.copytree(base/'tokenizer', 'bare/tokenizer')
    shape = GPTConfig(vocab_size=270, block_size=64, n_layer=1, n_head=2, n_embd=16)
    torch.save(to_theirs(GPT(shape).state_dict(), shape, NANOGPT), 'bare/weights.pt')
    for command, words in ((nanogpt_sample, '--num_samples 1 --max_new_tokens 4'), (nanogpt_eval, '--data my.txt --tasks loss'), (nanogpt_export, '--out_dir hf')):
        line = f'bare/weights.pt {words}' + ' --device cpu'*(command is not nanogpt_export)
        said = train(line, 1, command)
        assert 'does not say n_head: give --n_head N' in said and said.count('\n') == 1, said
        train(f'{line} --n_head 2', 0, command)
    own = '--pretrained_checkpoint bare/weights.pt --max_steps'
    said = tune(f'{own} 2', 1)
    assert 'does not say n_head: give --n_head N' in said and 'RANDOM' not in said, said
    tune(f'{own} 2 --n_head 2')
    assert 'at step 2' in tune(f'{own} 4 --auto_resume')
    assert 'n_head' not in Path('runs/finetune/report.html').read_text(encoding='utf-8').split('How to go on')[1].split('Settings')[0]

def test_sampling_without_a_name(base):
    assert 'nanogpt-quickstart' in (said := train('--device cpu', 1, nanogpt_sample)) and said.count('\n') == 1, said
    shutil.copytree(base, 'runs/mine')
    said = train('--device cpu --num_samples 1 --max_new_tokens 4', 0, nanogpt_sample)
    assert said.startswith('runs/mine: the newest run here (nanogpt-sample FOLDER for another)\n'), said

def test_an_exam_that_nobody_asked_for(base):
    "A text too short for cloze questions doesn't spoil the evaluation; who asks for them is told that there are none"
    from nanogpt_lit.config import nanogpt_eval
    said = train(f'{base} --device cpu --out_dir eval', 0, nanogpt_eval)
    assert 'without the exam cloze: ' in said and 'bits_per_byte' in said, said
    assert 'error: ' in train(f'{base} --device cpu --out_dir eval --tasks loss cloze', 1, nanogpt_eval)

def test_all_settings_of_a_tuning(tune):
    said = tune('--max_steps 2 --show_config')
    assert len(re.findall('(?m)^[* ] [a-z_0-9]+ +=', said)) > 40
    assert 'or --show_config)' in tune('--max_steps 2')
