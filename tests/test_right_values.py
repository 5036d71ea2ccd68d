"Right values: what other programs write and compute, as tests that failed before"
import base64, json, pickle, shlex, time
import numpy as np
import pytest
from harness import heard
from nanogpt_lit.bpe import GPT4_PATTERN
from nanogpt_lit.config import nanogpt_plan, nanogpt_tokenizer
from nanogpt_lit.core import UserError
from nanogpt_lit.tokenizer import Tokenizer, load_tokenizer, to_printable

WORDS = 'the end of the story: the ending, the enders, then 12345 naïve naïve 猫猫   three\n\n'
TEXT = "then the end, naïve 猫  and\n<|endoftext|>it's 3 'b' b\" \\x"

@pytest.fixture(scope='module')
def tok(): return Tokenizer.train([WORDS*20], 290, ['<|endoftext|>'], progress=False)

@pytest.fixture(scope='module')
def shuffled(tok):
    "The course's order of ids: special tokens first, bytes in their order"
    tokens = [bytes([b]) for b in range(256)] + [a + b for a, b in tok.merges]
    return Tokenizer.from_merges(tok.merges), {0: b'<|endoftext|>'} | dict(enumerate(tokens, 1))

def by_hand(vocab, merges, pieces):
    "The course's own rule: apply the merges in their order"
    ids, ranks = {t: i for i, t in vocab.items()}, {m: i for i, m in enumerate(merges)}
    out = []
    for piece in pieces:
        parts = [piece[i:i+1] for i in range(len(piece))]
        while pairs := [(ranks[p], k) for k, p in enumerate(zip(parts, parts[1:])) if p in ranks]:
            _, k = min(pairs)
            parts[k:k+2] = [parts[k] + parts[k+1]]
        out += [ids[p] for p in parts]
    return out

def lines(*rows): return '\n'.join(rows) + '\n'

def forms(vocab, merges):
    "`{name: (vocabulary, merges, suffix, what the message says)}`"
    latin = lambda t: t.decode('latin-1')
    b64 = lambda t: base64.b64encode(t).decode()
    pairs = lambda f: json.dumps([[f(a), f(b)] for a, b in merges])
    return {
        'literals': (lines(*[f'{i} {t!r}' for i, t in vocab.items()]), lines(*[f'{a!r} {b!r}' for a, b in merges]), '', 'bytes literals in lines'),
        'tuples': (lines(*[f'{i}\t{t!r}' for i, t in vocab.items()]), lines(*map(repr, merges)), '', 'bytes literals in lines'),
        'printable': (json.dumps({to_printable(t): i for i, t in vocab.items()}), pairs(to_printable), '.json', 'printable alphabet in JSON, merges in JSON'),
        'printable, id first': (json.dumps({i: to_printable(t) for i, t in vocab.items()}), pairs(to_printable), '.json', 'printable alphabet'),
        'numbers': (json.dumps({i: [*t] for i, t in vocab.items()}), pairs(list), '.json', 'numbers in JSON'),
        'a list of numbers': (json.dumps([[*t] for t in vocab.values()]), pairs(list), '.json', 'numbers in JSON'),
        'hex': (json.dumps({t.hex(): i for i, t in vocab.items()}), pairs(bytes.hex), '.json', 'hexadecimal'),
        'hex lines': (lines(*[f'{i} {t.hex()}' for i, t in vocab.items()]), lines(*[f'{a.hex()} {b.hex()}' for a, b in merges]), '.txt', 'hexadecimal in lines'),
        'base64': (json.dumps({i: b64(t) for i, t in vocab.items()}), pairs(b64), '.json', 'base64'),
        'latin-1': (json.dumps({i: latin(t) for i, t in vocab.items()}), pairs(latin), '.json', 'latin-1'),
        'latin-1, token first': (json.dumps({latin(t): i for i, t in vocab.items()}), pairs(latin), '.json', 'latin-1'),
        'str of bytes': (json.dumps({i: str(t) for i, t in vocab.items()}), pairs(str), '.json', 'bytes literals in JSON'),
        'pickle': (pickle.dumps(vocab), pickle.dumps(merges), '.pkl', 'bytes in a pickle'),
        'pickle, token first': (pickle.dumps({t: i for i, t in vocab.items()}, 2 + 1), pickle.dumps([[*m] for m in merges]), '.pickle', 'bytes in a pickle'),
    }

def write(folder, vocab, merges, end, stems=('vocab', 'merges')):
    folder.mkdir(exist_ok=True)
    paths = [folder/f'{s}{end}' for s in stems] if end else [folder/'tokenizer.vocab', folder/'tokenizer.merges']
    for p, content in zip(paths, (vocab, merges)): p.write_bytes(content if isinstance(content, bytes) else content.encode())
    return paths

@pytest.mark.parametrize('order', ['ours', 'theirs'])
def test_files_of_a_course(tok, shuffled, tmp_path, order):
    "Every container and spelling gives the ids of the files' own rule, by flags and by folder, and says what it was"
    plain, theirs = shuffled
    vocab = tok.vocab if order == 'ours' else theirs
    end = next(i for i, t in vocab.items() if t == b'<|endoftext|>')
    text, (head, tail) = TEXT, TEXT.split('<|endoftext|>')
    right = by_hand(vocab, tok.merges, plain._pieces(head)) + [end] + by_hand(vocab, tok.merges, plain._pieces(tail))
    for name, (v, m, suffix, said) in forms(vocab, tok.merges).items():
        folder = tmp_path/name
        paths = write(folder, v, m, suffix, ('tiny_vocab', 'tiny_merges') if name == 'hex' else ('vocab', 'merges'))
        for got in (Tokenizer.from_files(*paths), load_tokenizer(folder)):
            assert got.encode(text, 'all') == right, name
            assert said in repr(got) and got.decode(right) == text, (name, repr(got))

def test_damaged_files_of_a_course(tok, tmp_path):
    "The message names the file, the format and the line"
    f = forms(tok.vocab, tok.merges)
    v, m, end, _ = f['literals']
    bad = m.splitlines()
    bad[6] = "b'a' nothing"
    paths = write(tmp_path/'a', v, lines(*bad), end)
    with pytest.raises(UserError, match=r'tokenizer\.merges.*line 7.*bytes literals'): Tokenizer.from_files(*paths)
    paths = write(tmp_path/'b', v.replace("65 b'b'", "65 b'b", 1), m, end)
    with pytest.raises(UserError, match=r'tokenizer\.vocab: line 66: .*bytes literal'): Tokenizer.from_files(*paths)
    v, m, end, _ = f['hex']
    paths = write(tmp_path/'c', v, m.replace('"74"', '"7"', 1), end)
    with pytest.raises(UserError, match=r'merges\.json .*hexadecimal.*merge \d'): Tokenizer.from_files(*paths)
    v, m, end, _ = f['literals']
    paths = write(tmp_path/'d', v, lines("__import__('os') b'a'", *m.splitlines()), end)
    with pytest.raises(UserError, match='line 1'): Tokenizer.from_files(*paths)
    paths = write(tmp_path/'e', pickle.dumps({0: Tokenizer}), pickle.dumps([((b'a', b'b'), b'c')]), '.pkl')
    with pytest.raises(UserError, match=r'vocab\.pkl is refused: it asks for'): Tokenizer.from_files(*paths)
    paths = write(tmp_path/'f', pickle.dumps(tok.vocab), pickle.dumps([((b'a', b'b'), b'c')]), '.pkl')
    with pytest.raises(UserError, match=r'merges\.pkl is refused'): Tokenizer.from_files(*paths)

def test_data2token_writes_int32(tok, tmp_path, monkeypatch):
    "As the course's guide says; ours is the smallest type"
    v, m, end, _ = forms(tok.vocab, tok.merges)['literals']
    write(tmp_path, v, m, end)
    tok.save(tmp_path/'own')
    (tmp_path/'raw_text.txt').write_text(TEXT, encoding='utf-8')
    monkeypatch.chdir(tmp_path)
    pair = '--vocab_path tokenizer.vocab --merges_path tokenizer.merges'
    assert nanogpt_tokenizer(shlex.split(f'encode --data_path raw_text.txt {pair} --output_path a.npy --method streaming')) == 0
    assert nanogpt_tokenizer(shlex.split(f'encode --data_path raw_text.txt {pair} --output_path a.bin')) == 0
    assert nanogpt_tokenizer(shlex.split('encode --input raw_text.txt --tokenizer own --output b.npy')) == 0
    assert nanogpt_tokenizer(shlex.split(f'decode --input a.bin {pair} --output back.txt')) == 0
    right = tok.encode(TEXT, 'all')
    assert (tmp_path/'back.txt').read_text(encoding='utf-8') == TEXT
    assert np.load('a.npy').dtype == np.int32 and np.load('a.npy').tolist() == right == np.fromfile('a.bin', '<i4').tolist()
    assert np.load('b.npy').dtype == np.uint16

def test_patterns_by_name(tok, tmp_path):
    "`pattern` is a name or an expression everywhere; a misspelt name is an error"
    named = Tokenizer.train([WORDS*20], 290, pattern='gpt4', progress=False)
    assert named.pattern == GPT4_PATTERN and named.hash == Tokenizer.train([WORDS*20], 290, pattern=GPT4_PATTERN, progress=False).hash
    v, m, end, _ = forms(tok.vocab, tok.merges)['printable']
    paths = write(tmp_path, v, m, end)
    (tmp_path/'t.tiktoken').write_text(lines(*[f'{base64.b64encode(t).decode()} {i}' for t, i in tok.ranks.items()]))
    makers = [lambda p: Tokenizer.train([WORDS*20], 290, pattern=p, progress=False), lambda p: Tokenizer.from_merges(tok.merges, pattern=p),
              lambda p: Tokenizer.from_files(*paths, pattern=p), lambda p: Tokenizer.from_ranks(tmp_path/'t.tiktoken', pattern=p),
              lambda p: Tokenizer(tok._ordinary, {}, p)]
    for make in makers:
        assert make('gpt4').pattern == GPT4_PATTERN
        with pytest.raises(UserError, match="unknown split pattern 'gpt9'"): make('gpt9')

# what stands around a text

def template(*before, after=()):
    "A post-processor as `tokenizers` writes it"
    special = lambda s: dict(SpecialToken=dict(id=s, type_id=0))
    seq = lambda o: dict(Sequence=dict(id=o, type_id=0))
    names = {s for s, _ in (*before, *after)}
    return dict(type='TemplateProcessing', single=[*[special(s) for s, _ in before], seq('A'), *[special(s) for s, _ in after]],
                pair=[seq('A'), seq('B')], special_tokens={s: dict(id=s, ids=[i], tokens=[s]) for s, i in (*before, *after)})

BYTES = dict(type='ByteLevel', add_prefix_space=True, trim_offsets=False, use_regex=True)

@pytest.fixture(scope='module')
def marked(tmp_path_factory):
    "Folders of foreign tokenizers, by the kind of their post-processor"
    tok = Tokenizer.train([WORDS*20], 294, ['<|endoftext|>', '<s>', '</s>', '<pad>'], progress=False)
    home, (end, s, e, pad) = tmp_path_factory.mktemp('marked'), tok.special_tokens.values()
    kinds = {'template': template(('<s>', s)), 'both ends': template(('<s>', s), after=[('</s>', e)]),
             'two': template(('<s>', s), ('<pad>', pad)), 'sequence': dict(type='Sequence', processors=[BYTES, template(('<s>', s))]),
             'roberta': dict(type='RobertaProcessing', sep=['</s>', e], cls=['<s>', s], trim_offsets=True, add_prefix_space=False),
             'bert': dict(type='BertProcessing', sep=['</s>', e], cls=['<s>', s]), 'bytes': BYTES, 'end only': template(after=[('</s>', e)])}
    for name, spec in kinds.items():
        (home/name).mkdir()
        (home/name/'tokenizer.json').write_text(json.dumps(tok.to_json() | dict(post_processor=spec)), encoding='utf-8')
        config = dict(tokenizer_class='PreTrainedTokenizerFast', bos_token='<s>', eos_token=dict(content='</s>', __type='AddedToken'), pad_token='<pad>')
        (home/name/'tokenizer_config.json').write_text(json.dumps(config))
    return home, kinds

def test_prompts_begin_as_their_tokenizer_says(marked):
    "What the post-processor puts first stands in prompts, and not in training data; the file's own program agrees"
    from tokenizers import Tokenizer as Theirs
    from nanogpt_lit.generate import prompt_ids
    home, kinds = marked
    for name in kinds:
        ours, theirs = load_tokenizer(home/name), Theirs.from_file(str(home/name/'tokenizer.json'))
        text, plain = 'the end', theirs.encode('the end', add_special_tokens=False).ids
        right = theirs.encode(text).ids
        right = right[:len(right) - right[::-1].index(plain[-1])]               # without what is put at the end
        assert ours.encode(text) == plain and ours.encode_prompt(text) == right == prompt_ids(ours, text), name
        assert [*ours.encode_iterable(text)] == plain
    assert load_tokenizer(home/'template').bos_ids and not load_tokenizer(home/'bytes').bos_ids

def test_names_of_tokens_come_back(marked, tmp_path):
    "Beginning, end, padding: of a foreign folder through import and export, and of ours so that padding works"
    import torch
    from transformers import AutoTokenizer, GenerationConfig
    from nanogpt_lit.interop import LoadedRun, load_run, to_hf
    from nanogpt_lit.sample import import_command, sample_texts
    from nanogpt_lit.config import ImportConfig
    from nanogpt_lit.model import GPT
    from nanogpt_lit.config import GPTConfig
    home, _ = marked
    tok = load_tokenizer(home/'template')
    model = GPT(GPTConfig(vocab_size=tok.vocab_size, block_size=32, n_layer=1, n_head=2, n_embd=8)).eval()
    first = to_hf(LoadedRun(model, tok, tmp_path, 0, None), tmp_path/'first')
    s, e, pad = (tok.special_tokens[o] for o in ('<s>', '</s>', '<pad>'))
    (first/'generation_config.json').write_text(json.dumps(dict(bos_token_id=s, eos_token_id=[e, pad], pad_token_id=pad)))
    import_command(ImportConfig(str(first), out_dir=str(tmp_path/'run')))
    for source, out in ((str(tmp_path/'run'), 'second'), (str(first), 'third')):
        again = to_hf(source, tmp_path/out)
        auto, said = AutoTokenizer.from_pretrained(again), GenerationConfig.from_pretrained(again)
        assert (auto.bos_token, auto.eos_token, auto.pad_token) == ('<s>', '</s>', '<pad>')
        assert (said.bos_token_id, said.eos_token_id, said.pad_token_id) == (s, [e, pad], pad)
        assert auto('the end')['input_ids'] == tok.encode_prompt('the end')
        config = json.loads((again/'config.json').read_text())
        assert config['bos_token_id'] == s
    assert '<s>' not in sample_texts(model, tok, 'the end', max_new_tokens=1, seed=1)[0][:7]
    own = Tokenizer.train([WORDS*20], 290, ['<|endoftext|>'], progress=False)
    auto = AutoTokenizer.from_pretrained(to_hf(LoadedRun(model, own, tmp_path, 0, None), tmp_path/'own'))
    assert auto.pad_token == '<|endoftext|>' and len({*map(len, auto(['the', 'the end of it'], padding=True)['input_ids'])}) == 1
    chat = tok.add_special()
    chat.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    model = GPT(GPTConfig(vocab_size=chat.vocab_size, block_size=32, n_layer=1, n_head=2, n_embd=8)).eval()
    said = GenerationConfig.from_pretrained(to_hf(LoadedRun(model, chat, tmp_path, 0, None), tmp_path/'chat'))
    assert said.eos_token_id == [e, chat.special_tokens['<|im_end|>']] and said.pad_token_id == pad

# what a pattern means

ODD = '²³¹¼½¾\u200c\u200d_\u0301\u203f٣ⅷ①ªµ·\u2028\u00a0\u3000\ufeffñ猫🐈€'

@pytest.mark.parametrize('pattern', [r'\w+|\W+', r"[\w']+|\s+|[^\w\s]+", r' ?\w+|\d|[^\w]', r'\b\w', r'\B.', r'[\w-]+', r'^.|x$', r'[[:alpha:]]+|[[:digit:]]+|.',
                                     r'[[:alnum:]]+|[^[:space:]]|.', r'[[:upper:]]|[[:lower:]]+'])
def test_patterns_mean_the_same_here(tok, tmp_path, pattern):
    "Ids of a foreign file equal its own program's on the characters that engines class differently"
    import random
    from tokenizers import Tokenizer as Theirs
    split = dict(type='Split', pattern=dict(Regex=pattern), behavior='Isolated', invert=False)
    data = tok.to_json() | dict(pre_tokenizer=dict(type='Sequence', pretokenizers=[split, dict(type='ByteLevel', add_prefix_space=False, trim_offsets=True, use_regex=False)]))
    (tmp_path/'tokenizer.json').write_text(json.dumps(data), encoding='utf-8')
    ours, theirs, rng = load_tokenizer(tmp_path), Theirs.from_file(str(tmp_path/'tokenizer.json')), random.Random(1)
    texts = [''.join(rng.choices(ODD + "theen n  1'\n-Ax", k=40)) for _ in range(60)]
    pieces = lambda text: theirs.pre_tokenizer.pre_tokenize_str(text)
    for text in texts:
        assert [p.decode('utf-8') for p in ours._pieces(text)] == [text[a:b] for _, (a, b) in pieces(text)], (pattern, text)
        assert ours.encode(text) == theirs.encode(text, add_special_tokens=False).ids
    back = load_tokenizer(ours.save(tmp_path/'back'))
    again = Theirs.from_file(str(tmp_path/'back'/'tokenizer.json'))
    assert back.hash == ours.hash and [again.encode(t).ids for t in texts] == [ours.encode(t) for t in texts]

def test_own_patterns_are_saved_exactly(tmp_path):
    "A pattern with a word class gives the same ids here, after loading, and in tokenizers"
    from tokenizers import Tokenizer as Theirs
    text = 'the² the\u200dend ½the '
    own = Tokenizer.train([text*50], 265, pattern=r'\w+|\W+', progress=False)
    back, theirs = load_tokenizer(own.save(tmp_path)), Theirs.from_file(str(tmp_path/'tokenizer.json'))
    assert back.hash == own.hash and own.encode(text) == back.encode(text) == theirs.encode(text).ids
    for pattern in (r'\R', r'[\W_]+', r'\h+'):
        with pytest.raises(UserError, match='means different things'): Tokenizer.train([text*50], 280, pattern=pattern, progress=False)

# what leaves for other programs

def tiny(**kw):
    from nanogpt_lit.model import GPT
    from nanogpt_lit.config import GPTConfig
    return GPT(GPTConfig(**dict(vocab_size=300, block_size=32, n_layer=1, n_head=2, n_embd=8) | kw)).eval()

@pytest.mark.parametrize('name', ['chatml', 'plain'])
def test_exported_templates_mark_what_is_learned(tok, tmp_path, capsys, name):
    "Assistant-only masks of transformers equal ours, ids are unchanged, and the template is known when it comes back"
    from transformers import AutoTokenizer
    from nanogpt_lit.config import ExportConfig
    from nanogpt_lit.instructions import TEMPLATES, encode_turns, template_of, with_template
    from nanogpt_lit.sample import export_command
    from nanogpt_lit.checkpoint import write_run
    chat = with_template(tok, name)
    write_run(tiny(vocab_size=chat.vocab_size), chat, tmp_path)
    export_command(ExportConfig(str(tmp_path), out_dir=str(tmp_path/'hf')))
    said = capsys.readouterr().out
    assert 'split_special_tokens=True' in said and '<|im_end|>' in said
    turns = [dict(role='user', content=' the end? '), dict(role='assistant', content='the end'), dict(role='user', content='three'), dict(role='assistant', content='naïve ')]
    auto = AutoTokenizer.from_pretrained(tmp_path/'hf')
    out = auto.apply_chat_template(turns, return_dict=True, return_assistant_tokens_mask=True)
    ids, mask = encode_turns(turns, chat, TEMPLATES[name])
    assert out['input_ids'] == ids and [bool(o) for o in out['assistant_masks']] == [bool(o) for o in mask] and any(mask)
    assert template_of(load_tokenizer(tmp_path/'hf')) is TEMPLATES[name]
    load_tokenizer(tmp_path/'hf').save(tmp_path/'hf')                        # what was written is ours to replace

def test_gpt2_exports_have_n_ctx(tmp_path):
    from nanogpt_lit.interop import to_hf
    assert json.loads((to_hf(tiny(), tmp_path/'a b')/'config.json').read_text())['n_ctx'] == 32

def test_course_checkpoints_say_what_to_give(tok, tmp_path):
    "Which flags, with a command that a shell understands; its files of a tokenizer are found; a class is refused with a way out"
    import torch
    from nanogpt_lit.interop import load_run
    from nanogpt_lit.translate import CS336, to_theirs
    model = tiny(pos='rotary', norm='rmsnorm', act='swiglu', bias=False, tie_embeddings=False)
    home = tmp_path/'my [run]'
    v, m, end, _ = forms(tok.vocab, tok.merges)['literals']
    write(home, v, m, end)
    torch.save(dict(model=to_theirs(model.state_dict(), model.cfg, CS336), optimizer={}, iteration=7), home/'c.pt')
    with pytest.raises(UserError) as e: load_run(home/'c.pt')
    assert '--n_head N --block_size T' in str(e.value) and '--rope_theta' in str(e.value) and f"nanogpt-import '{home}/c.pt'" in str(e.value)
    run = load_run(home/'c.pt', n_head=2, block_size=32)
    assert run.step == 7 and run.tokenizer.encode('the end') == tok.encode('the end')
    torch.save(dict(model=shlex.shlex), home/'class.pt')
    with pytest.raises(UserError, match='state_dict'): load_run(home/'class.pt')

def test_plan_is_quick(tmp_path, monkeypatch):
    "A plan rehearses few layers and few sequences (measured: 2 s of computing, was 9 to 12)"
    monkeypatch.chdir(tmp_path)
    begin = time.process_time()
    code, out, err = heard(nanogpt_plan, *'gpt2-xl --no-measure --memory 200GB --batch_size auto --device cpu'.split())
    assert code in (0, None) and 'chosen by --batch_size auto' in out, err
    assert time.process_time() - begin < 6

@pytest.mark.parametrize('preset', ['speedrun', 'cs336-small', 'minigpt-small', 'quickstart'])
def test_forecasts_equal_rehearsals(preset):
    "With the optimisers that are really used, Muon's banks of matrices among them"
    from nanogpt_lit.config import PRESETS, RunConfig
    from nanogpt_lit.config import build
    from nanogpt_lit.optim import make_optimizers
    from nanogpt_lit.sizing import forecast, rehearse
    cfg = build(RunConfig, PRESETS[preset] | dict(vocab_size=500, n_layer=6))
    args = cfg.model, 7, 'bfloat16', 'cpu', True, cfg.optim, make_optimizers
    quick, full = forecast(*args), rehearse(*args)
    assert (quick.parts, quick.peak) == (full.parts, full.peak)

def old_checkpoint(path, optimizer=False, evil=None):
    "What build-nanogpt writes: a compiled model, and the settings as an object of a class that isn't here; `(its weights, AdamW's state)`"
    import sys, types
    import torch
    from nanogpt_lit.translate import NANOGPT, to_theirs
    weights = to_theirs(tiny(vocab_size=300).state_dict(), tiny(vocab_size=300).cfg, NANOGPT)
    groups = [[w.clone().requires_grad_() for w in weights.values() if (w.ndim > 1) == wide] for wide in (True, False)]
    opt = torch.optim.AdamW([dict(params=g) for g in groups])
    for w in sum(groups, []): w.grad = w.detach()*w.detach()
    opt.step()
    config = type('GPTConfig', (), dict(__module__='model.train_gpt2'))()
    config.__dict__ |= dict(block_size=32, vocab_size=300, n_layer=2, n_head=2, n_embd=16)
    content = dict(model={f'_orig_mod.{k}': w for k, w in weights.items()} | {'_orig_mod.lm_head.weight': weights['transformer.wte.weight']},
                   config=config, step=40, val_loss=3.25)
    if optimizer: content['optimizer'] = opt.state_dict()
    if evil: content['config'] = evil
    modules = {'model': types.ModuleType('model'), 'model.train_gpt2': types.ModuleType('model.train_gpt2')}
    modules['model.train_gpt2'].GPTConfig = type(config)
    sys.modules.update(modules)
    path.parent.mkdir(exist_ok=True)
    torch.save(content, path)
    for name in modules: del sys.modules[name]
    return weights, opt.state_dict()

def build_nanogpt(data, **flags):
    "Settings and their origins, as `nanogpt-train build-nanogpt` with small data would have them"
    from nanogpt_lit.config import PRESETS, RunConfig
    from nanogpt_lit.config import resolve
    argv = [f'--{k}={v}' for k, v in (dict(train_data=data, val_data=data, tokenizer='bpe', batch_size=2, grad_accum_steps=1, max_steps=43, device='cpu',
            hellaswag_interval=0, warmup_steps=2, keep_last_n_checkpoints=1, checkpoint_interval=1) | flags).items()]
    return resolve(RunConfig, ['build-nanogpt', *argv], PRESETS)

@pytest.mark.parametrize('flags', [dict(auto_resume=True), dict(resume=True, checkpoint_path='log/model_00040.pt'), dict(load_checkpoint='log/model_00040.pt')])
def test_an_old_checkpoint_is_gone_on_from(tmp_path, monkeypatch, capsys, flags):
    "The network, the step and AdamW's averages of build-nanogpt's file; the file itself is never deleted"
    import torch
    from nanogpt_lit.pretrain import pretrain
    from nanogpt_lit.trainer import Callback
    monkeypatch.chdir(tmp_path)
    weights, opt = old_checkpoint(tmp_path/'log'/'model_00040.pt', optimizer='auto_resume' in flags)
    np.save('t.npy', np.arange(4000, dtype=np.uint16) % 300)
    begun = {}
    class Look(Callback):
        order = 0
        def on_fit_start(self, t):
            begun.update(step=t.step, tokens=t.tokens_seen, wte=t.raw_model.wte.weight.detach().clone())
            begun['averages'] = [float(o['exp_avg'].sum()) for o in t.optimizers[0].state.values()]
    cfg, origin = build_nanogpt('t.npy', **flags)[:2]
    run = pretrain(cfg, origin, [Look()])
    said = capsys.readouterr().out
    assert begun['step'] == 40 and begun['tokens'] == 40*2*32 and run.trainer.step == 43
    assert torch.equal(begun['wte'], weights['transformer.wte.weight'])
    assert 'it comes from another program' in said and 'resuming log/model_00040.pt at step 40' in said
    theirs = [float(o['exp_avg'].sum()) for o in opt['state'].values()] if 'auto_resume' in flags else [0.]*len(begun['averages'])
    assert sorted(begun['averages']) == pytest.approx(sorted(theirs), abs=1e-6)
    assert (tmp_path/'log'/'model_00040.pt').is_file() and (tmp_path/'log'/'model_00043.pt').is_file() and not (tmp_path/'log'/'model_00041.pt').exists()

def test_an_old_checkpoint_elsewhere(tmp_path, monkeypatch, capsys):
    "Sampling, evaluation and import read it as well; a pickle that asks for more is refused everywhere"
    import os, torch
    from nanogpt_lit.checkpoint import load_checkpoint
    from nanogpt_lit.interop import load_run
    from nanogpt_lit.pretrain import pretrain
    monkeypatch.chdir(tmp_path)
    weights, _ = old_checkpoint(tmp_path/'log'/'model_00040.pt')
    run = load_run('log/model_00040.pt', 'cpu', tokenizer=False)
    assert run.step == 40 and run.val_loss == 3.25 and torch.equal(run.model.wte.weight, weights['transformer.wte.weight'])
    with pytest.raises(UserError, match='was not written by nanogpt_lit .*model.train_gpt2.GPTConfig.*nanogpt-import log/model_00040.pt'): load_checkpoint('log/model_00040.pt')
    class Evil:
        def __reduce__(self): return os.mkdir, ('executed',)
    old_checkpoint(tmp_path/'log'/'model_00040.pt', evil=Evil())
    np.save('t.npy', np.arange(4000, dtype=np.uint16) % 300)
    cfg, origin = build_nanogpt('t.npy', resume=True, checkpoint_path='log/model_00040.pt')[:2]
    with pytest.raises(UserError, match='is refused: it asks for'): pretrain(cfg, origin)
    with pytest.raises(UserError): load_run('log/model_00040.pt', 'cpu', tokenizer=False)
    assert not os.path.exists('executed')

@pytest.mark.parametrize('kind', ['pretrain', 'finetune'])
def test_a_restored_checkpoint_is_let_go(tmp_path, monkeypatch, kind):
    "After resuming, no tensor of the file stays in memory but the averages, which the optimiser took over"
    import gc, weakref
    from nanogpt_lit import finetune, pretrain
    from nanogpt_lit.config import FinetuneConfig
    from nanogpt_lit.checkpoint import write_run
    from nanogpt_lit.trainer import Callback
    monkeypatch.chdir(tmp_path)
    refs, alive = [], []
    class Look(Callback):
        def on_step_end(self, t): gc.collect(); alive.append(sum(r() is not None for r in refs))
    def run(steps):
        if kind == 'pretrain':
            cfg, origin = build_nanogpt('t.npy', out_dir='run', auto_resume=True, max_steps=steps, vocab_size=300, n_layer=1, n_head=2, n_embd=8, block_size=32)[:2]
            return pretrain.pretrain(cfg, origin, [Look()], quiet=True)
        cfg = FinetuneConfig(pretrained_checkpoint='base', input=['x.jsonl'], out_dir='run', auto_resume=True, max_steps=steps, batch_size=2, device='cpu', checkpoint_interval=1, eval_interval=0)
        return finetune.finetune(cfg, {'max_steps': 'flag'}, [Look()], quiet=True)
    np.save('t.npy', np.arange(4000, dtype=np.uint16) % 300)
    (tmp_path/'x.jsonl').write_text(''.join(json.dumps(dict(instruction=f'say {i}', response='a b')) + '\n' for i in range(9)))
    (tmp_path/'base').mkdir()
    write_run(tiny(block_size=64), Tokenizer.train([WORDS*20], 290, ['<|endoftext|>'], progress=False), tmp_path/'base', 1)
    run(2)
    module, name = (pretrain, 'restore_any') if kind == 'pretrain' else (finetune, 'restore')
    before = getattr(module, name)
    def watched(t, ckpt):
        refs.extend(map(weakref.ref, ckpt['model'].values()))
        return before(t, ckpt)
    monkeypatch.setattr(module, name, watched)
    alive.clear()
    gc.freeze()                              # what this process has imported since it began is not looked through at every step
    try: assert run(4).trainer.step == 4 and len(refs) > 3 and alive == [0, 0]
    finally: gc.unfreeze()

def test_a_torn_meta_pkl_is_refused_with_a_reason(tmp_path):
    "Python's reader ends with an exception that says nothing"
    (tmp_path/'meta.pkl').write_bytes(pickle.dumps(dict(itos={0: 'a'}, stoi={'a': 0}))[:-8])
    with pytest.raises(UserError, match='is refused: it ends too early;'): load_tokenizer(tmp_path/'meta.pkl')

def test_tuning_in_the_folder_of_its_base_loses_nothing(tmp_path, monkeypatch):
    "The base is set aside with its tokenizer, and can be sampled from there"
    from nanogpt_lit.config import FinetuneConfig
    from nanogpt_lit.finetune import finetune
    from nanogpt_lit.interop import load_run
    from nanogpt_lit.checkpoint import write_run
    monkeypatch.chdir(tmp_path)
    tok = Tokenizer.train([WORDS*20], 290, ['<|endoftext|>'], progress=False)
    (tmp_path/'x.jsonl').write_text(''.join(json.dumps(dict(instruction=f'say {i}', response='a b')) + '\n' for i in range(9)))
    (tmp_path/'run').mkdir()
    write_run(tiny(block_size=64), tok, tmp_path/'run', 1)
    cfg = FinetuneConfig(pretrained_checkpoint='run', input=['x.jsonl'], out_dir='run', max_steps=2, batch_size=2, device='cpu', eval_interval=0)
    finetune(cfg, {'max_steps': 'flag'}, quiet=True)
    for where in ('run', 'run/previous-1'):
        run = load_run(where, 'cpu')
        assert run.tokenizer is not None and run.tokenizer.vocab_size <= run.model.cfg.vocab_size
    assert load_run('run/previous-1', 'cpu').tokenizer.hash == tok.hash and load_run('run/previous-1', 'cpu').step == 1

def test_training_replaces_nothing_foreign(tmp_path):
    "Somebody's project is no place for a run; a run that was killed before its first line of metrics is"
    from nanogpt_lit.config import nanogpt_train
    text = tmp_path/'text.txt'
    text.write_text(WORDS*20)
    def train(folder): return nanogpt_train(f'--input {text} --out_dir {folder} --tokenizer char --n_layer 1 --n_head 1 --n_embd 16 --block_size 16 --max_steps 2 --device cpu'.split())
    for name in ('config.toml', 'tokenizer/tokenizer.json', 'report.html', 'baselines.json'):
        folder = tmp_path/name.replace('/', '_')
        (folder/name).parent.mkdir(parents=True)
        (folder/name).write_text('mine')
        assert train(folder) == 1
        assert [p for p in folder.rglob('*') if p.is_file() and not p.name.startswith('.')] == [folder/name] and (folder/name).read_text() == 'mine'
    assert train(tmp_path/'run') in (0, None)
    (tmp_path/'killed').mkdir()
    (tmp_path/'killed'/'config.toml').write_bytes((tmp_path/'run'/'config.toml').read_bytes())
    (tmp_path/'killed'/'tokenizer').mkdir()
    assert train(tmp_path/'killed') in (0, None) and train(tmp_path/'run') in (0, None)
