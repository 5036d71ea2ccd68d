"""Files for llama.cpp: what must not be written, what must be readable, and, where `llama-cpp-python` is installed, what that program makes of them.

`python tests/test_gguf.py` asks the program about every kind of model, and about one that was trained for a minute, and keeps its answers in
runs/logs/gguf/llama_cpp.jsonl, which the page shows.
"""
import json, re, sys, time
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
import numpy as np
import pytest
import torch
from nanogpt_lit import gguf_file
from nanogpt_lit.config import ExportConfig, GPTConfig
from nanogpt_lit.core import UserError, seed_everything
from nanogpt_lit.generate import generate
from nanogpt_lit.gguf_file import FORMS, export_to, from_gguf, modelfile, read_gguf, to_gguf
from nanogpt_lit.instructions import TEMPLATES, with_template
from nanogpt_lit.model import GPT
from nanogpt_lit.tokenizer import CharTokenizer, Tokenizer, load_tokenizer

ROOT = Path(__file__).parent.parent
MODERN = dict(pos='rotary', norm='rmsnorm', act='swiglu', bias=False)
SHAPES = {'gpt2': dict(act='gelu_tanh'), 'gpt2, exact gelu': dict(act='gelu', bias=False, tie_embeddings=False), 'llama': MODERN | dict(n_kv_head=2),
          'llama, biases': MODERN | dict(bias=True, tie_embeddings=False, head_dim=24), 'qwen3': MODERN | dict(qk_norm=True, head_dim=24, n_kv_head=2),
          'qwen3, no gains': MODERN | dict(qk_norm=True, norm_affine=False), 'arcee': MODERN | dict(act='relu2')}
NASTY = ("don't  DON'T we'LL I'm\n\n\n  x\t\ty 12345 ½ ²³ é e\u0301 猫犬 \u200b🙂👩‍👩‍👧 a\u00a0b\u3000c --- _x_ $5.00 ÀaÉb ٣٤ \r\n 'tis \x0b\x1c \x85 "
         "<|endoftext|> end  ")

@pytest.fixture(scope='module')
def tok(): return load_tokenizer(ROOT/'runs/book/tokenizer')

def model_of(name, tok, spread=.05, **kw):
    "Random weights, biases and gains too"
    seed_everything(1)
    model = GPT(GPTConfig(**dict(vocab_size=tok.vocab_size, block_size=64, n_layer=2, n_head=4, n_embd=64) | SHAPES.get(name, {}) | kw)).eval()
    for p in model.parameters(): p.data.add_(torch.randn_like(p)*spread)
    return model

class Run:
    "What to_gguf takes"
    def __init__(self, model, tokenizer=None, **ends): self.model, self.tokenizer, self.ends = model, tokenizer, ends

# what is written

@pytest.mark.parametrize('name', SHAPES)
def test_what_the_package_reads(name, tok, tmp_path):
    "Sizes and tokens by the package's own reader; numbers within their form's bound"
    import gguf
    model = model_of(name, tok)
    exact = read_gguf(to_gguf(model, tmp_path/'a.gguf', tok, 'float32'))[1]
    for dtype in ('float16', 'q8_0'):
        reader = gguf.GGUFReader(to_gguf(model, tmp_path/f'{dtype}.gguf', tok, dtype))
        said = {k: o.contents() for k, o in reader.fields.items()}
        assert said['tokenizer.ggml.pre'] == 'gpt-2' and said['tokenizer.ggml.add_bos_token'] is False
        assert said['tokenizer.ggml.tokens'][tok.eot_id] == '<|endoftext|>' == said['tokenizer.ggml.tokens'][said['tokenizer.ggml.eos_token_id']]
        assert said['tokenizer.ggml.token_type'][tok.eot_id] == gguf.TokenType.CONTROL
        assert len(said['tokenizer.ggml.merges']) == len(tok.merges)
        for t in reader.tensors:
            back = gguf.dequantize(t.data, t.tensor_type).reshape(exact[t.name].shape)
            off, w = np.abs(back - exact[t.name]), exact[t.name]
            if t.tensor_type == gguf.GGMLQuantizationType.F32: assert not off.any() and (w.ndim == 1 or t.name == 'position_embd.weight')
            elif dtype == 'float16': assert (off <= np.abs(w)*2**-11 + 2**-25).all()
            else:
                largest = np.repeat(np.abs(w).reshape(-1, 32).max(1), 32).reshape(w.shape)
                assert (off <= largest*(1/254 + 2**-11) + 1e-7).all() and off.any()

def test_a_row_that_blocks_do_not_fill(tok, tmp_path):
    "Forty is no multiple of 32: such a matrix keeps 16 bits, and reads back"
    import gguf
    path = to_gguf(model_of('llama', tok, n_embd=40), tmp_path/'a.gguf', tok, 'q8_0')
    forms = {t.name: t.tensor_type.name for t in gguf.GGUFReader(path).tensors}
    assert forms['blk.0.attn_q.weight'] == 'F16' and forms['blk.0.ffn_down.weight'] == 'Q8_0'
    assert read_gguf(path)[1]['token_embd.weight'].shape == (tok.vocab_size, 40)

def test_ends_and_begins(tok, tmp_path):
    "What a foreign folder tells of the ends of texts gets into the file; of several, the first ends the text, the second a turn"
    model = model_of('qwen3', tok)
    fields, _ = read_gguf(to_gguf(Run(model, tok, bos_token_id=3, eos_token_id=[7, 9], pad_token_id=None), tmp_path/'a.gguf'))
    told = {k[15:-9]: v for k, v in fields.items() if k.endswith('token_id')}
    assert told == dict(bos=3, eos=7, eot=9)

def test_without_any_end(tmp_path):
    "llama.cpp would take id 11 for the end: a vocabulary without one gets one, with a row of zeros, and the model is left as it was"
    chars = CharTokenizer('abcdefghijklmnop é猫')
    model = model_of('gpt2', chars)
    fields, tensors = read_gguf(to_gguf(model, tmp_path/'a.gguf', chars, 'float32'))
    assert fields['tokenizer.ggml.eos_token_id'] == chars.vocab_size == model.cfg.vocab_size
    assert tensors['token_embd.weight'].shape[0] == chars.vocab_size + 1 and not tensors['token_embd.weight'][-1].any()
    assert fields['gpt2.vocab_size'] == len(fields['tokenizer.ggml.tokens']) == chars.vocab_size + 1

def test_a_model_without_tokenizer(tok, tmp_path):
    fields, _ = read_gguf(to_gguf(model_of('gpt2', tok), tmp_path/'a.gguf'))
    assert fields['tokenizer.ggml.model'] == 'none' and fields['gpt2.vocab_size'] == tok.vocab_size

# what is refused

def test_every_reason_and_nothing_written(tok, tmp_path, capsys):
    from nanogpt_lit.checkpoint import write_run
    (tmp_path/'mine').mkdir()
    write_run(GPT(GPTConfig(vocab_size=tok.vocab_size, block_size=32, n_layer=1, n_head=2, n_embd=32, act='relu2', pos='rotary', norm='rmsnorm', qk_norm=True,
                            bias=False, logit_softcap=15.)), tok, tmp_path/'mine')
    with pytest.raises(UserError, match='act=relu2.*logit_softcap=15') as e: export_to(ExportConfig(str(tmp_path/'mine'), out_dir=str(tmp_path/'out'), format='gguf'))
    assert '\n' not in str(e.value) and not (tmp_path/'out').exists()
    odd = Tokenizer.from_merges([], ['<|endoftext|>'], r'\p{L}+|\P{L}')
    with pytest.raises(UserError, match="act=relu2.*of the tokenizer: its split pattern"):
        to_gguf(Run(model_of('gpt2', odd, act='relu2'), odd), tmp_path/'a.gguf')
    assert not (tmp_path/'a.gguf').exists()

@pytest.mark.parametrize('dtype, value', [('float16', 1e5), ('q8_0', 1e9), ('float32', float('nan'))])
def test_numbers_that_a_form_can_not_hold(tok, tmp_path, dtype, value):
    "One sentence; the earlier file is untouched, and no half of the new one lies about"
    path = tmp_path/'a.gguf'
    path.write_bytes(b'earlier')
    model = model_of('llama', tok)
    model.blocks[1].mlp.up.weight.data[3, 5] = value
    with pytest.raises(UserError, match='blk.1.ffn_up.weight holds numbers'): to_gguf(model, path, tok, dtype)
    assert path.read_bytes() == b'earlier' and [*tmp_path.iterdir()] == [path]

def test_two_tokens_of_one_name(tmp_path):
    "llama.cpp ends itself (an assertion in C++) where two tokens are spelled alike"
    alike = Tokenizer.from_merges([(b'a', b'b')], ['<|endoftext|>', 'ab'])
    with pytest.raises(UserError, match="called 'ab'"): to_gguf(model_of('gpt2', alike), tmp_path/'a.gguf', alike)

def test_the_package_is_missing(tok, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'gguf', None)
    with pytest.raises(UserError, match=r'pip install nanogpt_lit\[gguf\]'): export_to(ExportConfig('runs/mine', out_dir=str(tmp_path/'out'), format='gguf'))
    assert not (tmp_path/'out').exists()

def test_eight_bits_are_for_gguf():
    with pytest.raises(UserError, match='--format gguf'): ExportConfig('runs/mine', dtype='q8_0')

def test_a_file_is_not_overwritten_unasked(tok, tmp_path, capsys):
    from nanogpt_lit.checkpoint import write_run
    (tmp_path/'my run').mkdir()
    write_run(model_of('gpt2', tok, act='gelu'), tok, tmp_path/'my run')
    asked = ExportConfig(str(tmp_path/'my run'), out_dir=str(tmp_path/'out'), format='gguf', dtype='float16')
    export_to(asked)
    assert 'act=gelu_tanh' in capsys.readouterr().out
    assert sorted(p.name for p in (tmp_path/'out').iterdir()) == ['Modelfile', 'my-run-F16.gguf']
    with pytest.raises(UserError, match='my-run-F16.gguf is already there'): export_to(asked)
    with pytest.raises(UserError, match='Modelfile is already there'): export_to(replace(asked, dtype='q8_0'))
    (tmp_path/'out'/'my-run-F16.gguf').write_bytes(b'')
    export_to(replace(asked, overwrite=True))
    assert read_gguf(tmp_path/'out'/'my-run-F16.gguf')[0]['general.name'] == 'my-run'

# what is read

def test_torn_anywhere(tok, tmp_path):
    "Cut off at any byte of the header, or with any of its bytes changed, a file is refused in words, or read"
    whole = to_gguf(model_of('gpt2', CharTokenizer('ab'), n_embd=32, n_layer=1, block_size=4), tmp_path/'a.gguf', CharTokenizer('ab')).read_bytes()
    torn = tmp_path/'torn.gguf'
    rng = np.random.default_rng(0)
    for n in rng.integers(0, 2600, 120):
        torn.write_bytes(whole[:n])
        with pytest.raises(UserError, match='torn'): read_gguf(torn)
    began = time.process_time()
    for at in rng.integers(4, 1500, 300):
        torn.write_bytes(whole[:at] + bytes(rng.integers(0, 256, 4, dtype=np.uint8)) + whole[at + 4:])
        try: read_gguf(torn)
        except UserError: pass
    assert time.process_time() - began < 30

@pytest.mark.parametrize('claim', [(9, (8, 2**60)), (9, (9, 2**60)), (9, (4, 2**62)), (8, (2**63,)), (77, ())])
def test_claims_without_end(tmp_path, claim):
    "A list of 2^60 texts, a list of lists, a text of 2^63 letters, a kind that there is not"
    import struct
    kind, rest = claim
    body = struct.pack('<Q', 1) + b'k' + struct.pack('<I', kind) + (struct.pack('<IQ', *rest) if kind == 9 else struct.pack(f'<{len(rest)}Q', *rest))
    (tmp_path/'a.gguf').write_bytes(b'GGUF' + struct.pack('<IQQ', 3, 0, 1) + body)
    with pytest.raises(UserError, match='torn'): read_gguf(tmp_path/'a.gguf')

def test_a_file_of_another_version_or_form(tok, tmp_path):
    path = to_gguf(model_of('gpt2', tok), tmp_path/'a.gguf')
    data = bytearray(path.read_bytes())
    data[4] = 9
    path.write_bytes(data)
    with pytest.raises(UserError, match='version 9'): read_gguf(path)

# and back

@pytest.mark.parametrize('name', ['gpt2', 'llama', 'llama, biases', 'qwen3', 'qwen3, no gains', 'arcee'])
def test_back_again(name, tok, tmp_path):
    "Shape and weights as they were; without learned gains, gains of 1"
    model = model_of(name, tok)
    back = from_gguf(to_gguf(Run(model, tok), tmp_path/'a.gguf', dtype='float32'))
    have = back.model.state_dict()
    assert all(torch.equal(w, have[k]) for k, w in model.state_dict().items()), name
    ids = torch.tensor([tok.encode(NASTY)[:60]])
    assert back.tokenizer.encode(NASTY, 'all') == tok.encode(NASTY, 'all') and torch.allclose(back.model(ids)[0], model(ids)[0], atol=1e-5)
    assert (back.model.cfg.n_kv_head, back.model.cfg.head_dim) == (model.cfg.n_kv_head, model.cfg.head_dim)

def test_a_beginning_and_a_template_come_back(tok, tmp_path):
    chat = with_template(tok, 'chatml')
    fields, tensors = read_gguf(to_gguf(model_of('llama', chat), tmp_path/'a.gguf', chat))
    assert fields['tokenizer.ggml.eot_token_id'] == chat.special_tokens['<|im_end|>']
    data = gguf_file._tokenizer_json(fields | {'tokenizer.ggml.add_bos_token': True})
    (tmp_path/'t').mkdir()
    (tmp_path/'t'/'tokenizer.json').write_text(json.dumps(data))
    assert load_tokenizer(tmp_path/'t').bos_ids == [chat.eot_id]
    assert from_gguf(tmp_path/'a.gguf').tokenizer.chat_template == chat.chat_template

def test_what_does_not_come_back(tok, tmp_path, monkeypatch):
    "Another network is refused; another tokenizer is left out, with a word about it"
    fields, tensors = read_gguf(to_gguf(model_of('llama', tok), tmp_path/'a.gguf', tok))
    for change, word in (({'general.architecture': 'mamba'}, 'mamba'), ({'llama.rope.scaling.type': 'yarn'}, 'yarn'), ({'llama.block_count': 'two'}, 'n_layer'),
                         ({'llama.block_count': 7}, 'layers'), ({'llama.attention.value_length': 8}, 'different sizes')):
        monkeypatch.setattr(gguf_file, 'read_gguf', lambda path: (fields | change, tensors))
        with pytest.raises(UserError, match=word): from_gguf('x.gguf')
    monkeypatch.setattr(gguf_file, 'read_gguf', lambda path: (fields | {'tokenizer.ggml.model': 'llama'}, tensors))
    back = from_gguf('x.gguf')
    assert back.tokenizer is None and "'llama'" in back.note
    monkeypatch.setattr(gguf_file, 'read_gguf', lambda path: (fields | {'tokenizer.ggml.merges': [3]}, tensors))
    assert 'damaged' in from_gguf('x.gguf').note

# Ollama

def go(template, **facts):
    "Go's text/template, as much of it as is needed here: range, if, else if, eq, fields, and the mark that eats white space before it"
    words, at = re.split(r'(\{\{.*?\}\})', re.sub(r'\s*\{\{-', '{{', template)), 0
    def value(word, scope): return json.loads(word) if word[0] == '"' else scope[word[1:]]
    def holds(said, scope):
        kind, a, b = re.findall(r'"[^"]*"|\S+', said)
        assert kind == 'eq'
        return value(a, scope) == value(b, scope)
    def block(i, scope, live, out): # up to its else or end
        while i < len(words):
            word = words[i]
            said = word[2:-2].strip() if word.startswith('{{') else None
            if said is None: out.append(word if live else '')
            elif said == 'end' or said.startswith('else'): return i, said
            elif said.startswith('range '):
                end = i
                for item in value(said.split()[1], scope): end, _ = block(i + 1, item, live, out)
                i = end
            elif said.startswith('if '):
                done, said = False, said
                while said != 'end':
                    true = not done and (said == 'else' or holds(said.removeprefix('else ').removeprefix('if '), scope))
                    i, said = block(i + 1, scope, live and true, out)
                    done = done or true
            elif live: out.append(value(said, scope))
            i += 1
        return i, 'end'
    out = []
    block(0, facts, True, out)
    return ''.join(out)

@pytest.mark.parametrize('name', TEMPLATES)
def test_go_says_what_jinja_says(tok, name):
    "Both of the book's templates are known, and a chat comes out letter by letter as the other language has it"
    from jinja2 import Environment
    chat = with_template(tok, name)
    text = modelfile('a.gguf', GPTConfig(block_size=77), chat)
    template = re.search(r'TEMPLATE """(.*?)"""', text, re.S)[1]
    turns = [dict(role='system', content='Be brief.'), dict(role='user', content='One\n\ntwo?'), dict(role='assistant', content='Three.'), dict(role='tool', content='4'),
             dict(role='user', content='And?')]
    wanted = Environment().from_string(TEMPLATES[name].jinja).render(messages=turns, add_generation_prompt=True, eos_token='<|endoftext|>')
    assert go(template, Messages=[dict(Role=o['role'], Content=o['content']) for o in turns]) == wanted
    assert 'PARAMETER num_ctx 77' in text and 'PARAMETER stop "<|endoftext|>"' in text and ('<|im_end|>"' in text) == (name == 'chatml')

def test_a_foreign_template_is_left_to_ollama(tok):
    foreign = with_template(tok, 'chatml')
    foreign.chat_template = "{% if tools %}{{ tools }}{% endif %}" + TEMPLATES['chatml'].jinja
    assert 'TEMPLATE' not in modelfile('a.gguf', GPTConfig(), foreign)

# llama.cpp itself

needs_llama = pytest.mark.skipif(find_spec('llama_cpp') is None, reason='llama-cpp-python must be compiled, and is not installed')

def opened(path, **kw):
    from llama_cpp import Llama
    return Llama(str(path), n_threads=1, n_threads_batch=1, verbose=False, type_k=0, type_v=0, logits_all=True, **dict(n_ctx=64) | kw)

def their_logits(llm, ids):
    llm.reset()
    llm.eval(ids)
    return torch.tensor(llm.scores[:len(ids)].copy())

def their_greedy(llm, ids, n):
    llm.reset()
    llm.eval(ids)
    out = []
    for _ in range(n):
        out.append(int(llm.scores[llm.n_tokens - 1].argmax()))
        llm.eval(out[-1:])
    return out

def asked(model, tok, path, dtype, n=50):
    "What llama.cpp says of a model, beside what we say"
    llm = opened(to_gguf(model, path, tok, dtype))
    ids = tok.encode('def the cat(sat):')
    with torch.no_grad(): ours = model(torch.tensor([ids]))[0][0]
    theirs = their_logits(llm, ids)[:, :model.cfg.vocab_size]
    mine = generate(model, [ids], n, temperature=0)[0][len(ids):]
    same = [a == b for a, b in zip(mine, their_greedy(llm, ids, n))]
    return dict(ids=llm.tokenize(NASTY.encode(), add_bos=False) == tok.encode(NASTY), logits_off=float(f'{(ours - theirs).abs().max():.1e}'),
                spread=round(ours.std().item(), 2), greedy=(same + [False]).index(False), of=n)

@needs_llama
@pytest.mark.parametrize('name', SHAPES)
def test_llama_cpp_agrees(name, tok, tmp_path):
    said = asked(model_of(name, tok), tok, tmp_path/'a.gguf', 'float32')
    assert said['ids'] and said['logits_off'] < (2e-3 if name.startswith('gpt2') else 1e-5), said  # its GELU is a table in half precision
    assert said['greedy'] == 50 or name == 'gpt2, exact gelu', said

@needs_llama
@pytest.mark.parametrize('pattern', ['gpt2', 'gpt4', 'llama3', 'qwen2'])
def test_llama_cpp_splits_as_we_do(pattern, tmp_path):
    "A vocabulary in which any two bytes may merge shows every split"
    rng = np.random.default_rng(0)
    pairs = [(bytes([i//256]), bytes([i%256])) for i in rng.permutation(2**16)]
    all_pairs = Tokenizer.from_merges(pairs, ['<|endoftext|>'], pattern)
    model = GPT(GPTConfig(vocab_size=all_pairs.vocab_size, block_size=8, n_layer=1, n_head=1, n_embd=32, act='gelu_tanh'))
    llm = opened(to_gguf(model, tmp_path/'a.gguf', all_pairs, 'q8_0'), vocab_only=True)
    letters = [*"aAzZéßжЖ猫かع'’sStTdDmM12½٣ \t\n\r\u00a0\u3000.,!?_-/$€🙂\u0301\u200d"]
    for _ in range(400):
        text = ''.join(rng.choice(letters, 12))
        assert llm.tokenize(text.encode(), add_bos=False) == all_pairs.encode(text), text

@needs_llama
def test_llama_cpp_reads_characters(tmp_path):
    chars = CharTokenizer('ab é猫\n3')
    llm = opened(to_gguf(model_of('gpt2', chars), tmp_path/'a.gguf', chars, 'float32'))
    text = '猫 3ab\n\nééa  猫'
    assert llm.tokenize(text.encode(), add_bos=False) == chars.encode(text)
    assert llm.detokenize(chars.encode(text)).decode() == text and llm.token_eos() == chars.vocab_size

# the log

def trained(tok, train, name, seconds, block=128):
    "A small model after so many seconds of AdamW on bytes of the standard library"
    seed_everything(0)
    model = GPT(GPTConfig(**dict(vocab_size=tok.vocab_size, block_size=block, n_layer=4, n_head=4, n_embd=128) | SHAPES[name]))
    ids = torch.tensor(tok.encode(train))
    steps = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=.1)
    end, n = time.process_time() + seconds, 0
    while time.process_time() < end:
        at = torch.randint(len(ids) - block - 1, (16, 1)) + torch.arange(block + 1)
        loss = model(ids[at[:, :-1]], ids[at[:, 1:]])[1]
        steps.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.)
        steps.step()
        n += 1
    return model.eval(), n

def bits_per_byte(logits_of, tok, text, block):
    ids = tok.encode(text)
    rows = [ids[i:i + block + 1] for i in range(0, len(ids) - block, block)]
    nats = sum(torch.nn.functional.cross_entropy(logits_of(row[:-1])[:, :tok.vocab_size], torch.tensor(row[1:]), reduction='sum').item() for row in rows)
    return nats/np.log(2)/sum(len(tok.decode_bytes(row[1:])) for row in rows)

def main():
    import tempfile
    from llama_cpp import __version__
    from nanogpt_lit.guess import pystdlib_split
    tok, log = load_tokenizer(ROOT/'runs/book/tokenizer'), ROOT/'runs/logs/gguf/llama_cpp.jsonl'
    log.parent.mkdir(parents=True, exist_ok=True)
    train, held = map('\n'.join, pystdlib_split())
    with tempfile.TemporaryDirectory() as folder, log.open('w') as out:
        def note(**row):
            print(json.dumps(row), file=out, flush=True)
            print(row, flush=True)
        note(program=f'llama-cpp-python {__version__}', threads=1, cache='float32')
        for name in SHAPES:
            model = model_of(name, tok)
            for dtype in FORMS: note(model=name, weights='random', dtype=dtype, **asked(model, tok, f'{folder}/a.gguf', dtype))
        for name in ('gpt2', 'llama', 'qwen3', 'arcee'):
            model, n = trained(tok, train[:4_000_000], name, float(sys.argv[1]) if len(sys.argv) > 1 else 60)
            with torch.no_grad(): ours = bits_per_byte(lambda ids: model(torch.tensor([ids]))[0][0], tok, held[50_000:80_000], 128)
            for dtype in FORMS:
                said = asked(model, tok, f'{folder}/a.gguf', dtype)
                llm = opened(f'{folder}/a.gguf', n_ctx=256)
                theirs = bits_per_byte(lambda ids: their_logits(llm, ids), tok, held[50_000:80_000], 128)
                note(model=name, weights=f'{n} steps', dtype=dtype, **said, bits_per_byte_here=round(ours, 5), bits_per_byte=round(theirs, 5))

if __name__ == '__main__': main()
