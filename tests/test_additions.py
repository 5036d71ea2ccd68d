"""An addition is one row: each kind in the table of CONTRIBUTING.md ('What an addition touches') is added and removed at run time, in one place.

Activations, position schemes, norms, schedules and optimisers are trained with, write the same tokens with a cache and without, are counted by sizing, and refused by the
exporter with the reason; `PLACES` has all that had to be touched for them. Formats, flags, callbacks with a flag and presets come behind.
"""
import dataclasses, json
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from nanogpt_lit.attention import POSITIONS, Learned, Positions, Rotary
from nanogpt_lit import config
from nanogpt_lit.checkpoint import load_checkpoint
from nanogpt_lit.config import COMMANDS, EXTRAS, GATED, PRESETS, STATE_BYTES, GPTConfig, OptimConfig, RunConfig, TrainConfig, build, flat_fields, flat_values, help_text, read_config, resolve, to_toml
from nanogpt_lit.core import UserError
from nanogpt_lit.decode import DecodeStep, Predictor, is_plain
from nanogpt_lit.data import prepare
from nanogpt_lit.generate import darts, draw_ids, generate
from nanogpt_lit.instructions import instruction_files, read_instructions
from nanogpt_lit.interop import _with_zero_biases, to_hf
from nanogpt_lit.model import ACTIVATIONS, GPT, NORMS, Activation
from nanogpt_lit.optim import OPTIMIZERS, SCHEDULES, OptimizerKind, lr_at, lr_factor, make_optimizers, newton_schulz, odd_schedule, set_lr
from nanogpt_lit.pretrain import pretrain
from nanogpt_lit.reading import FORMATS, text_files
from nanogpt_lit.sizing import check_weights_fit, flops_table, forecast, inference_memory, param_table, rehearse, too_large
from nanogpt_lit.speedrun import newton_schulz_flops
from nanogpt_lit.tokenizer import Tokenizer
from nanogpt_lit.trainer import Callback
from nanogpt_lit.translate import FAMILIES, cannot, hf_config

@contextmanager
def added(table, word, meaning):
    "Within this block there is one more row"
    table[word] = meaning
    try: yield
    finally: del table[word]

class FromTheEnd(Positions):
    "A vector for each position, and queries and keys that grow with theirs: nothing like the schemes that there are"
    def prepare(self, model): model.wpe = nn.Embedding(model.cfg.block_size, model.cfg.n_embd)
    def embed(self, model, x_BTC, pos): return x_BTC + model.wpe(model.cfg.block_size - 1 - pos)
    def tables(self, model, pos): return (1 + pos/10)[:, None] if pos.ndim == 1 else (1 + pos/10)[:, None, :, None]
    def turn(self, q_BHTD, k_BKTD, where): return q_BHTD*where.to(q_BHTD.dtype), k_BKTD/where.to(k_BKTD.dtype)

class CentreNorm(nn.Module):
    "Subtracts the mean, and no more"
    def __init__(self, n): super().__init__(); self.gain = nn.Parameter(torch.ones(n))
    def forward(self, x): return (x - x.mean(-1, keepdim=True))*self.gain

# what is added → the table, the word, the row: the only place that is touched
PLACES = {
    'activation': (ACTIVATIONS, 'sine', Activation(torch.sin)),
    'gated activation': (ACTIVATIONS, 'sineglu', Activation(torch.sin, gated=True)),
    'position': (POSITIONS, 'from_the_end', FromTheEnd()),
    'norm': (NORMS, 'centre', lambda cfg: CentreNorm(cfg.n_embd)),
    'schedule': (SCHEDULES, 'stairs', lambda at, cfg: 1 - .25*int(4*at.run)),
    'optimiser': (OPTIMIZERS, 'sgd', OptimizerKind(lambda groups, cfg, device: [torch.optim.SGD(sum(groups.values(), []), lr=cfg.learning_rate)], state_bytes=0))}
OF_THE_MODEL = ['activation', 'gated activation', 'position', 'norm']

def small(**kw): return GPTConfig(**dict(vocab_size=40, block_size=16, n_layer=2, n_head=4, n_embd=32, bias=False) | kw)

def loud(cfg):
    "A model whose weights are so large that every token matters"
    torch.manual_seed(1)
    model = GPT(cfg).double()
    for p in model.parameters(): nn.init.normal_(p, std=.3)
    return model.eval()

def field_of(what): return PLACES[what][0].field

@pytest.mark.parametrize('what', PLACES)
def test_a_setting_takes_the_word_while_there_is_a_row_and_no_longer(what):
    table, word, _ = PLACES[what]
    kind, before = (GPTConfig if what in OF_THE_MODEL else OptimConfig), help_text(COMMANDS['nanogpt-train'])
    with pytest.raises(UserError, match=f"{table.field}='{word}': expected"): kind(**{table.field: word})
    with added(*PLACES[what]):
        cfg = kind(**{table.field: word})
        assert build(kind, flat_values(cfg)) == cfg                                                       # as a checkpoint is read
        assert getattr(resolve(kind, [f'--{table.field}', word])[0], table.field) == word                 # as a flag
        assert word in help_text(COMMANDS['nanogpt-train'])
    with pytest.raises(UserError, match=f"{table.field}='{word}': expected"): kind(**{table.field: word})
    with pytest.raises(UserError, match='is unknown'): table.of(word)
    assert help_text(COMMANDS['nanogpt-train']) == before
    assert (GATED, STATE_BYTES) == ({k: o.gated for k, o in ACTIVATIONS.items()}, {k: o.state_bytes for k, o in OPTIMIZERS.items()})

@pytest.mark.parametrize('what', OF_THE_MODEL)
def test_it_writes_the_same_tokens_cached_and_uncached(what):
    "In company, with padding, beyond the context; the lean step, compiled or not, leaves what it doesn't know to the model"
    table, word, _ = PLACES[what]
    rows = [[1, 2, 3], [4], [5]*20]
    with added(*PLACES[what]):
        model, usual = loud(small(**{table.field: word})), loud(small())
        for kw in (dict(temperature=0), dict(seed=3), dict(seed=4, slide=1)):
            want = generate(model, rows, 30, use_cache=False, **kw)
            assert generate(model, rows, 30, **kw) == want
            assert generate(model, rows, 30, compile=dict(backend='eager'), **kw) == want
        assert generate(model, rows, 30, temperature=0) != generate(usual, rows, 30, temperature=0)       # it does something
        assert not is_plain(model) and is_plain(usual)

def test_a_known_word_with_another_meaning_takes_the_plain_way():
    "The step looks at what the model holds, not at what that is called"
    class Backwards(Rotary):
        def turn(self, q, k, where): return super().turn(q.flip(-1), k, where)
    class Halved(Learned):
        def embed(self, model, x, pos): return super().embed(model, x, pos//2)
    for table, word, row in ((POSITIONS, 'rotary', Backwards()), (POSITIONS, 'learned', Halved()), (ACTIVATIONS, 'gelu', Activation(torch.cos)),
                             (NORMS, 'layernorm', lambda cfg: CentreNorm(cfg.n_embd))):
        usual = table[word]
        table[word] = row
        try: model = loud(small(**{table.field: word}))
        finally: table[word] = usual
        assert not is_plain(model), word
        assert generate(model, [[1, 2], [3]], 30, seed=1) == generate(model, [[1, 2], [3]], 30, seed=1, use_cache=False), word

def test_a_gate_for_a_bend_that_is_known_is_decoded_the_quick_way():
    with added(ACTIVATIONS, 'geglu', Activation(torch.nn.functional.gelu, gated=True)):
        model = loud(small(act='geglu'))
        predict = Predictor(model)
        predict([[1, 2, 3]])
        assert is_plain(model) and isinstance(predict.step, DecodeStep)
        assert generate(model, [[1, 2], [3]], 30, seed=1) == generate(model, [[1, 2], [3]], 30, seed=1, use_cache=False)

@pytest.mark.parametrize('what', OF_THE_MODEL)
def test_it_is_sized(what):
    table, word, _ = PLACES[what]
    with added(*PLACES[what]):
        cfg = small(**{table.field: word})
        model = GPT(cfg)
        held = sum(p.numel() for p in model.parameters())
        assert sum(param_table(cfg).values()) == held == model.num_params()
        assert flops_table(cfg)['MLP'] == 2*param_table(cfg)['MLP'] == 2*sum(p.numel() for b in model.blocks for p in b.mlp.parameters())
        looked_up = sum(p.numel() for n, p in model.named_parameters() if n == 'wpe.weight')
        assert model.num_params(non_embedding=True) == held - looked_up
        whole = rehearse(cfg, 4)
        assert whole.parts['gradients'] >= 4*held and whole.peak == forecast(cfg, 4).peak
        deep = replace(cfg, n_layer=9)
        assert forecast(deep, 4).peak == rehearse(deep, 4).peak                                           # the line through shallow ones
        assert inference_memory(cfg)['weights'] == sum(o.nbytes for o in (*model.parameters(), *model.buffers()))
    with pytest.raises(UserError, match='is unknown'): flops_table(cfg) if table is ACTIVATIONS else GPT(cfg)

def test_an_optimiser_is_sized_by_what_it_says_it_remembers():
    run = RunConfig(model=small())
    weights = 4*sum(param_table(run.model).values())
    def least(name):
        "Bytes that a run needs at least"
        run.optim.optimizer = name
        for each in range(8, 30):
            try: check_weights_fit(run, each*weights//4)
            except UserError: continue
            return each
    assert [least(o) for o in ('adamw', 'muon')] == [16, 14]
    with added(*PLACES['optimiser']):
        assert least('sgd') == 8
        run.optim = OptimConfig(optimizer='sgd')
        made = lambda model, cfg, device: make_optimizers(model, cfg, device)
        assert rehearse(run.model, 2, optim_cfg=run.optim, optimizers=made).parts['optimiser states'] == 0
        assert f'({2*weights/1e3:.0f} kB of it' in too_large(run, 10**9, 10**5, optimizers=made).replace('.0 kB', ' kB')
    run.optim.optimizer = 'nobody knows'
    assert least('nobody knows') == 8                                                                     # refuses nothing that might fit

@pytest.mark.parametrize('what', OF_THE_MODEL)
def test_it_is_refused_by_export_with_the_reason(what, tmp_path):
    table, word, _ = PLACES[what]
    with added(*PLACES[what]):
        cfg = small(**{table.field: word})
        for family in FAMILIES: assert any(o.startswith(f'{table.field}={word} ') for o in cannot(cfg, family)), family
        with pytest.raises(UserError, match=f'{table.field}={word}'): hf_config(cfg)
        with pytest.raises(UserError, match=f'{table.field}={word}'): to_hf(GPT(cfg), tmp_path/'hf')
        assert not (tmp_path/'hf').exists()

def test_a_schedule_says_what_its_row_says():
    with added(*PLACES['schedule']):
        cfg = OptimConfig(schedule='stairs', learning_rate=1., warmup_steps=10)
        assert [lr_at(s, cfg, 100) for s in (10, 24, 25, 50, 99)] == [1., 1., .75, .5, .25]
        assert lr_factor(4, cfg, 100) == 5/11 and odd_schedule(cfg, 100) == ''
        assert 'in one step' in odd_schedule(replace(cfg, lr_decay_steps=5), 100)                        # found by its values
    for use in (lambda: lr_factor(50, cfg, 100), lambda: lr_factor(0, cfg, 100)):
        with pytest.raises(UserError, match="schedule='stairs' is unknown"): use()

def test_an_optimiser_makes_the_steps_that_its_row_makes():
    with added(*PLACES['optimiser']):
        cfg, model = OptimConfig(optimizer='sgd', learning_rate=.5), GPT(small())
        opts, before = make_optimizers(model, cfg), {n: p.detach().clone() for n, p in model.named_parameters()}
        for p in model.parameters(): p.grad = torch.ones_like(p)
        set_lr(opts, .5)
        for o in opts: o.step()
        for n, p in model.named_parameters(): torch.testing.assert_close(p.detach(), before[n] - .25)
    with pytest.raises(UserError, match="optimizer='sgd' is unknown"): make_optimizers(model, cfg)

def test_all_of_them_together_in_a_run_that_is_interrupted_and_goes_on(tmp_path):
    "Settings, trainer, checkpoint, resuming, a loaded run: everything that lies between a word and its row"
    from nanogpt_lit.interop import load_run
    text = tmp_path/'t.txt'
    text.write_text('a line of text, and another one; then a third.\n'*300)
    words = {field_of(what): PLACES[what][1] for what in ('activation', 'position', 'schedule', 'optimiser', 'norm')}
    settings = words | dict(tokenizer='char', input=[str(text)], n_layer=1, n_head=2, n_embd=16, block_size=16, batch_size=4, eval_interval=4, checkpoint_interval=4,
                            device='cpu', dtype='float32', num_threads=1, monitoring=False, learning_rate=.3, dropout=0., log_interval=1)
    def run(name, steps, **kw): return pretrain(build(RunConfig, settings | dict(out_dir=str(tmp_path/name), max_steps=8, **kw) | steps), quiet=True)
    for what in ('activation', 'position', 'schedule', 'optimiser', 'norm'): PLACES[what][0][PLACES[what][1]] = PLACES[what][2]
    try:
        whole = run('whole', {})
        run('parts', dict(max_steps=4, lr_decay_steps=8))
        parts = run('parts', dict(lr_decay_steps=8, auto_resume=True))
        for n, p in whole.model.state_dict().items(): assert torch.equal(p, parts.model.state_dict()[n]), n
        logged = [json.loads(line) for line in (tmp_path/'whole'/'metrics.jsonl').read_text().splitlines()]
        rates = {o['step']: o['lr'] for o in logged if 'lr' in o}
        assert {round(o, 9) for o in rates.values()} <= {.3, .225, .15, .075} and len({*rates.values()}) > 1, rates
        losses = [o['val_loss'] for o in logged if 'val_loss' in o]
        assert losses[-1] < losses[0], losses
        loaded = load_run(tmp_path/'whole', 'cpu')
        assert {k: flat_values(loaded.model.cfg)[k] for k in ('act', 'pos', 'norm')} == {k: words[k] for k in ('act', 'pos', 'norm')}
        prompt = [loaded.tokenizer.encode('a line')]
        assert generate(loaded.model, prompt, 40, seed=1) == generate(loaded.model, prompt, 40, seed=1, use_cache=False)
        with pytest.raises(UserError, match='act=sine .*pos=from_the_end|pos=from_the_end .*act=sine'): to_hf(loaded, tmp_path/'hf')
    finally:
        for what in ('activation', 'position', 'schedule', 'optimiser', 'norm'): del PLACES[what][0][PLACES[what][1]]
    with pytest.raises(UserError, match='sine|from_the_end|centre'): load_run(tmp_path/'whole', 'cpu')     # nobody guesses what is missing

def test_a_gate_is_seen_by_whoever_lists_the_matrices_of_a_block():
    with added(*PLACES['gated activation']):
        cfg = small(act='sineglu', bias=True)
        blocks = {n: p for n, p in GPT(cfg).named_parameters() if n.startswith('blocks.')}
        zeros = _with_zero_biases({n: p for n, p in blocks.items() if p.ndim == 2 or 'norm' in n}, cfg)
        assert {n: p.shape for n, p in zeros.items()} == {n: p.shape for n, p in blocks.items()}
        run = RunConfig(model=cfg, optim=OptimConfig(optimizer='muon', muon_steps=4))
        matrices = [p for p in blocks.values() if p.ndim == 2]
        for dtype in torch.float32, torch.bfloat16:
            with FlopCounterMode(display=False) as counter:
                for p in matrices: newton_schulz(p.detach(), 4, dtype)
            assert newton_schulz_flops(run, dtype) == counter.get_total_flops()

# --- formats, flags, callbacks, presets ---

def pretend(folder, name='run', steps=3, **kw):
    "Settings of a run of three steps on a few lines"
    text = Path(folder)/'t.txt'
    text.write_text('a line of text, and another one; then a third.\n'*100)
    return dict(input=[str(text)], tokenizer='char', n_layer=1, n_head=2, n_embd=16, block_size=16, batch_size=4, max_steps=steps, eval_interval=0, device='cpu', dtype='float32',
                num_threads=1, monitoring=False, out_dir=str(Path(folder)/name), data_dir=str(Path(folder)/'data')) | kw

def words(settings): return [f'--{k}={v[0] if isinstance(v, list) else v}' for k, v in settings.items()]

def test_a_format_is_read_by_everything_that_reads_records(tmp_path):
    "Records that lie between lines of equal signs, a value after each key: vocabularies, pretraining and tuning read them, and whoever refuses a file names the format"
    def read(path, how):
        for n, record in enumerate(Path(path).read_text().split('====\n')[1:], 1): yield f'record {n}', dict(line.split(': ', 1) for line in record.splitlines())
    texts = tmp_path/'texts'
    texts.mkdir()
    (texts/'stories.cards').write_text(''.join(f'====\ntext: the story of number {n}, and what became of it\n' for n in range(40)))
    (tmp_path/'pairs.cards').write_text('====\ninstruction: Say yes.\nresponse: Yes.\n====\ninstruction: Say no.\nresponse: No.\n')
    stories = [f'the story of number {n}, and what became of it' for n in range(40)]
    with pytest.raises(UserError) as before: text_files(texts)
    with added(FORMATS, '.cards', read):
        assert text_files(texts) == [texts/'stories.cards']
        tok = Tokenizer.train([texts/'stories.cards'], 270, progress=False)
        assert tok.hash == Tokenizer.train(stories, 270, progress=False).hash
        made = prepare(texts, tmp_path/'p', tokenizer=tok, progress=False, workers=1)
        assert sum(o['documents'] for o in made['splits'].values()) == 40
        assert [o[-1]['content'] for o in read_instructions(tmp_path/'pairs.cards').turns] == ['Yes.', 'No.']
        (tmp_path/'empty').mkdir()
        for refuse in (lambda: text_files(tmp_path/'empty'), lambda: instruction_files(tmp_path/'empty'), lambda: instruction_files(tmp_path/'nothing')):
            with pytest.raises(UserError, match='[.]cards'): refuse()
    with pytest.raises(UserError) as after: text_files(texts)
    assert str(after.value) == str(before.value) and '.cards' not in str(after.value)

@contextmanager
def with_line(kind, name, of, default, comment):
    "Within this block a dataclass has one more line, `name: of = default # comment`"
    def again():
        for o in ('__init__', '__repr__', '__eq__'): delattr(kind, o)
        dataclasses.dataclass(kind)
        for o in (config._own_comments, config._kinds): o.cache_clear()
    comments = config._own_comments
    def commented(cls): return comments(cls) | ({name: comment} if cls is kind else {})
    commented.cache_clear = comments.cache_clear
    kind.__annotations__[name] = of
    setattr(kind, name, default)
    config._own_comments = commented
    try:
        again()
        yield
    finally:
        config._own_comments = comments
        del kind.__annotations__[name], kind.__dataclass_fields__[name]
        delattr(kind, name)
        again()

def test_a_flag_is_one_line():
    "In the help page, on the command line, in a TOML file, checked and saved"
    before = help_text(COMMANDS['nanogpt-train'])
    with with_line(OptimConfig, 'warmup_power', float, 1., 'the rate rises as this power of the step: 1 = linear'):
        line = next(o for o in help_text(COMMANDS['nanogpt-train']).splitlines() if '--warmup_power' in o)
        assert line.split(maxsplit=1)[1] == 'the rate rises as this power of the step: 1 = linear [1.0]'
        cfg, origin = resolve(RunConfig, ['--warmup-power=2'])
        assert (cfg.optim.warmup_power, origin) == (2., {'warmup_power': 'flag'})
        assert 'warmup_power = 2.0' in to_toml(cfg) and build(RunConfig, flat_values(cfg)) == cfg
        with pytest.raises(UserError, match="warmup_power='steep': expected a number"): resolve(RunConfig, ['--warmup_power', 'steep'])
    assert help_text(COMMANDS['nanogpt-train']) == before
    with pytest.raises(UserError, match='warmup_power'): resolve(RunConfig, ['--warmup_power=2'])

class Shout(Callback):
    "Says every so many steps that it is there"
    def __init__(self, every): self.every, self.heard = every, []
    @classmethod
    def from_settings(cls, cfg): return cls(cfg.shout)
    def on_step_end(self, t):
        if t.step % self.every == 0: t.say(f'step {t.step}!')

def test_a_callback_with_a_flag_is_a_line_and_a_row(tmp_path, capsys):
    "The flag is declared once: it is in the help page, the run's TOML file and its checkpoints, goes on with a run, and makes the callback"
    before = help_text(COMMANDS['nanogpt-train'])
    with with_line(TrainConfig, 'shout', int, 0, 'say every so many steps that all is well; 0 = never'), added(EXTRAS, 'shout', f'{__name__}:Shout'):
        assert 'say every so many steps that all is well; 0 = never [0]' in help_text(COMMANDS['nanogpt-train'])
        run = pretrain(resolve(RunConfig, words(pretend(tmp_path, steps=4, shout=2)))[0])
        assert [o for o in capsys.readouterr().out.splitlines() if o.endswith('!')] == ['step 2!', 'step 4!']
        assert read_config(run.folder/'config.toml', flat_fields(RunConfig))['shout'] == 2
        saved = load_checkpoint(max(run.folder.glob('model_*.pt')))['config']
        assert flat_values(build(RunConfig, saved))['shout'] == 2
        pretrain(resolve(RunConfig, words(pretend(tmp_path, 'quiet', steps=2)))[0])
        assert '!' not in capsys.readouterr().out
    assert help_text(COMMANDS['nanogpt-train']) == before and 'shout' not in EXTRAS

def test_a_preset_is_one_row(tmp_path):
    "In the help page; found by its name; trains"
    before = help_text(COMMANDS['nanogpt-train'])
    with added(PRESETS, 'thimble', dict(pretend(tmp_path), n_embd=24, act='relu2')):
        assert ', thimble' in help_text(COMMANDS['nanogpt-train'])
        cfg, origin = resolve(RunConfig, ['thimble', '--max_steps', '3'], PRESETS)
        assert (cfg.model.n_embd, cfg.model.act, origin['act']) == (24, 'relu2', 'preset thimble')
        run = pretrain(cfg, quiet=True)
        assert run.model.cfg.n_embd == 24 and run.model.cfg.act == 'relu2'
        assert [json.loads(o)['step'] for o in (run.folder/'metrics.jsonl').read_text().splitlines()][-1] == 3
    assert help_text(COMMANDS['nanogpt-train']) == before
    with pytest.raises(UserError, match='thimble'): resolve(RunConfig, ['thimble'], PRESETS)

# --- what CONTRIBUTING.md says of it ---

ROOT = Path(__file__).parent.parent

def table_under(heading):
    "The rows of the first table under a heading of CONTRIBUTING.md, without its head"
    text = (ROOT/'CONTRIBUTING.md').read_text(encoding='utf-8').split(f'## {heading}\n')[1].split('\n## ')[0]
    return [[cell.strip() for cell in row.strip('|').split('|')] for row in text.splitlines() if row.startswith('|')][2:]

def test_the_table_of_additions_is_what_was_tried_here():
    kinds = {*PLACES} - {'gated activation'} | {'format of records', 'flag', 'callback with a flag', 'preset'}
    rows = {what.replace('position scheme', 'position'): (how, int(n)) for what, how, n in table_under('What an addition touches')}
    assert {*rows} == kinds
    assert all(n in (1, 2) and how.count(';') == n - 1 for how, n in rows.values()), rows
    for what, (table, _, _) in PLACES.items():
        if what in rows: assert f'`{table.field}`' in rows[what][0], what

def test_who_gives_the_warm_up_a_value_of_its_own_is_named():
    "A field, a keyword, a key: on which pages does `warmup_steps` get a value?"
    import ast, re
    given = set()
    for path in (ROOT/'nanogpt_lit').glob('*.py'):
        if path.stem == '_modidx': continue
        src = path.read_text(encoding='utf-8')
        heads = [(n, m[1]) for n, line in enumerate(src.splitlines(), 1) if (m := re.match(r'# %% [./]*nbs/(\w+)\.ipynb', line))]
        for o in ast.walk(ast.parse(src)):
            named = (isinstance(o, ast.keyword) and o.arg == 'warmup_steps' or isinstance(o, ast.AnnAssign) and ast.unparse(o.target) == 'warmup_steps'
                     or isinstance(o, ast.Dict) and any(isinstance(k, ast.Constant) and k.value == 'warmup_steps' for k in o.keys))
            line = getattr(o, 'lineno', 0) if named else 0
            if line and ast.unparse(o.value if isinstance(o, ast.keyword) else o) != 'n': given.add([page for n, page in heads if n <= line][-1])
    text = (ROOT/'CONTRIBUTING.md').read_text(encoding='utf-8')
    default = re.search(r'the default warm-up stands in `nbs/(\w+)\.ipynb`', text)[1]
    assert {default} | {page.strip('`') for page, _ in table_under('Changing a default')} == given
    assert len(given) == 7 and f'{default}.ipynb`, class `RateKnobs`' in text

# --- a dart that lands on the end of the stick ---

@pytest.mark.parametrize('dtype', [torch.float32, torch.float64], ids=str)
def test_no_dart_flies_past_the_last_token(dtype, monkeypatch):
    "Where there is no float64 a number just below 1 is rounded to 1, and the id was one too many"
    largest = 1 - 2**-53
    monkeypatch.setattr(torch, 'rand', lambda *shape, **kw: torch.full(shape, largest, dtype=torch.float64))
    u_B = next(darts([7], dtype=dtype))
    assert u_B.dtype == dtype and u_B.item() < 1
    for total in (.1, 1/3, 1., 1 + 2**-23, 1.5, 2 - 2**-22, 1000.):                  # of whatever the probabilities sum to
        probs_BV = torch.tensor([[.2, .5, .3, 0., 0.]], dtype=dtype)*total
        assert draw_ids(probs_BV, u_B).item() == 2, total
