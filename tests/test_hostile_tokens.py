"Tokenizer files made to do harm, and tokenizer commands that could: each is refused in one sentence, soon, in little memory; nobody's file is replaced unasked."
import base64, io, json, os, pickle, random, re, struct, subprocess, sys, time
from functools import partial
from pathlib import Path
import numpy as np
import pytest
import harness
from nanogpt_lit.config import nanogpt_tokenizer
from nanogpt_lit.core import UserError
from nanogpt_lit.tokenizer import Tokenizer
from nanogpt_lit.tokenizer import CharTokenizer, load_tokenizer, read_meta_pkl
from nanogpt_lit.tokens import check_ids_path, read_ids, write_ids

posix = pytest.mark.skipif(os.name != 'posix', reason='pipes with a name')

@pytest.fixture(scope='module')
def tok(): return Tokenizer.train(['the end of the story: the ending, the enders, then 12345 naïve naïve 猫猫 '*20], 285, ['<|endoftext|>', '<x>'], progress=False)

@pytest.fixture
def home(tok, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tok.save('t')
    CharTokenizer('abc').save('letters')
    return tmp_path

@pytest.fixture
def say(capfd):
    "`say('inspect t')` is `(exit code, stdout, stderr)`; a mistake is one line, and never a fault of ours"
    def go(*words):
        capfd.readouterr()
        words = words[0].split() if len(words) == 1 else [*map(str, words)]
        code, (out, err) = nanogpt_tokenizer(words), capfd.readouterr()
        assert 'Traceback' not in err and 'fault of nanogpt_lit' not in err, err
        if code: assert err.startswith('error: ') and err.count('\n') == 1 and len(err) < 900, err
        return code, out, err
    return go

# ---- pickles

DUP, PUT = b'2', b'\x94'
PICKLES = {
    'bytearray8': b'\x80\x05\x96' + struct.pack('<Q', 3 << 29) + b'.', 'bytes8': b'\x80\x05\x8e' + struct.pack('<Q', 2**62) + b'.',
    'text4': b'X' + struct.pack('<I', 2**32 - 1) + b'.', 'long4': b'\x8b' + struct.pack('<i', 2**31 - 1) + b'.', 'frame': b'\x80\x04\x95' + struct.pack('<Q', 2**62) + b'.',
    'memo': b'\x80\x02}r' + struct.pack('<I', 2**32 - 1) + b'.', 'marks': b'('*8_000_000 + b'.', 'memos': b'\x80\x04}' + PUT*8_000_000 + b'.', 'dicts': b'}'*8_000_000 + b'.',
    'same again': b'}' + DUP*8_000_000 + b'.', 'pairs of pairs': b'\x80\x02' + b'}' + b'N' + (DUP + b'\x86')*60 + b'K\x01s.',
    'pairs as text': b'\x80\x04}\x8c\x04itos}K\x00]' + (DUP + DUP + b'a')*0 + b''.join(b']q' + bytes([i]) + b'h' + bytes([i - 1])*1 + b'ah' + bytes([i - 1]) + b'a' for i in range(1, 40)) + b'sss.',
    'in itself': b'\x80\x02}q\x00X\x04\x00\x00\x00itosh\x00s.', 'number of 10**6 digits': b'I' + b'9'*10**6 + b'\n.', 'long number': b'\x8b' + struct.pack('<i', 10**6) + b'\x7f'*10**6 + b'.',
    'deep': b']'*900_000 + b'a'*899_999 + b'.', 'import': b'cos\nsystem\n(S\'true\'\ntR.', 'large': bytes(40_000_000)}

def test_pickle_bombs(tmp_path):
    "Each of them in seconds, all of them in less than 200 MB above what Python needs"
    for name, data in PICKLES.items(): (tmp_path/f'{name}.pkl').write_bytes(data)
    program = '''
import resource, sys, time
from pathlib import Path
from nanogpt_lit.core import UserError
from nanogpt_lit.tokenizer import read_meta_pkl
def mb(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss//1024
for p in sorted(Path(sys.argv[1]).glob('*.pkl')):
    start, before = time.time(), mb()
    try: read_meta_pkl(p); said = 'READ'
    except UserError as e: said = str(e)
    print(f'{p.stem}|{time.time() - start:.1f}|{mb() - before}|{said}', flush=True)
'''
    r = subprocess.run([sys.executable, '-c', program, str(tmp_path)], capture_output=True, text=True, timeout=120)   # a peak of its own
    rows = [o.split('|', 3) for o in r.stdout.splitlines()]
    assert [o[0] for o in rows] == sorted(PICKLES) and r.returncode == 0, r.stderr[-2000:] + r.stdout
    for name, seconds, mb, said in rows:
        assert float(seconds) < 10 and f'{name}.pkl' in said and len(said) < 600, (name, seconds, mb, said)
    assert sum(int(o[2]) for o in rows) < 200, rows

@pytest.mark.parametrize('protocol', range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickles_of_nanogpt(protocol, tmp_path):
    chars = sorted({*'abc \n"\'é猫🐈', *map(chr, range(0x4e00, 0x4e00 + 30_000))})
    meta = dict(vocab_size=len(chars), itos=dict(enumerate(chars)), stoi={c: i for i, c in enumerate(chars)}, about=['a list', 1.5, None, True, 2**70])
    (tmp_path/'meta.pkl').write_bytes(pickle.dumps(meta, protocol))
    assert read_meta_pkl(tmp_path/'meta.pkl').chars == chars

# ---- JSON

def changed(tok, **parts):
    data = tok.to_json()
    for k, v in parts.items(): data['model' if k in data['model'] else k] = data['model'] | {k: v} if k in data['model'] else v
    return data

def splitting(pattern):
    return dict(type='Sequence', pretokenizers=[dict(type='Split', pattern=dict(Regex=pattern), behavior='Isolated', invert=False),
                                                dict(type='ByteLevel', add_prefix_space=False, use_regex=False)])

@pytest.mark.parametrize('pattern', [r'(a+)+$', r'(?:(?:a|a)*)*b', r'(\s*)*[^\s]x', r'(x+x+)+y', 'a{999999999}', r'(?:\p{L}{1,99999}){1,99999}', 'a'*10**6, '('*500 + ')'*500, '(?:a|b'*300])
def test_a_pattern_that_never_ends(tok, pattern, home):
    "No pattern hangs the reading; it is refused, or its engine knows how to deal with it"
    Path('x.json').write_text(json.dumps(changed(tok, pre_tokenizer=splitting(pattern))))
    start = time.process_time()
    try:
        odd = load_tokenizer('x.json')
        for text in ('a'*300 + '!', 'x'*300, ' '*300 + 'y'): assert odd.decode(odd.encode(text)) == text
    except UserError as e: assert 'x.json' in str(e) and len(str(e)) < 600
    else: assert len(pattern) < 40
    assert time.process_time() - start < 30

def test_a_pattern_of_the_command_line(home):
    for pattern in ('a{999999999}', '(?:(?:a|a)*)*b', '(a', '(?R)a'):
        with pytest.raises(UserError, match='split pattern'): Tokenizer.train(['a'*50 + '!'], 257, [], pattern, progress=False)

def deep(n, inner=None):
    for _ in range(n): inner = [inner]
    return inner

def test_deep_and_odd_parts(tok, home, say):
    "What is carried along from file to file can be written again, or is refused when it is read"
    for n in (5, 90, 400, 900):
        for part in (dict(padding=deep(n)), dict(decoder=deep(n)), dict(added_tokens=tok.to_json()['added_tokens'] + [dict(content='<y>', id=285, more=deep(n))])):
            Path('x.json').write_text(json.dumps(changed(tok, **part)))
            code, out, err = say('add', 'x.json', '--out_dir', f'out{n}')
            assert code == (n > 50) and (n < 50 or 'x.json' in err and 'deep' in err), err
            if not code: assert load_tokenizer(f'out{n}').encode('the end') == tok.encode('the end'); (Path('out5')/'tokenizer.json').unlink(); (Path('out5')/'tokenizer_config.json').unlink()
    Path('x.json').write_text(json.dumps(changed(tok, padding={'type': 'half \ud800'})))
    assert say('add', 'x.json', '--out_dir', 'half')[0] == 0 and load_tokenizer('half').rules.file['rest']['padding'] == {'type': 'half \ud800'}
    (home/'t'/'tokenizer_config.json').write_text('{"chat_template": "\\ud800"}')
    assert 'tokenizer_config.json' in say('inspect', 't')[2]
    for odd in ('[]', '{"chat_template": 7}', '{"chat_template": [{"name": "a"}]}', '{"a": 1e400}', '{"a": ' + '9'*5000 + '}', '{"a":'*10**5, '\xff'):
        (home/'t'/'tokenizer_config.json').write_text(odd, encoding='latin-1')
        say('inspect', 't')

def test_ids_and_numbers(tok, home, say):
    vocab = tok.to_json()['model']['vocab']
    for odd in (2**31 - 1, 2**31, 10**400, -1, 1e400, 1.5, True, '7', [1], None):
        Path('x.json').write_text(json.dumps(changed(tok, vocab=vocab | {'Ġthe': odd}, added_tokens=[])))
        code, out, err = say('inspect', 'x.json', 'the end')
        assert code == (odd != 2**31 - 1), err
    Path('x.json').write_text(json.dumps(changed(tok, vocab=vocab | {'Ġthe': 2**31 - 1}, added_tokens=[])))
    assert 'id' in say('add', 'x.json', '--special_tokens', '<y>', '--out_dir', 'high')[2]
    Path('x.json').write_text(json.dumps(changed(tok, vocab=vocab)).replace('"Ġthe": ' + str(vocab['Ġthe']), '"Ġthe": ' + '9'*5000).replace(json.dumps('Ġthe') + ': ' + str(vocab['Ġthe']), json.dumps('Ġthe') + ': ' + '9'*5000))
    assert say('inspect', 'x.json')[0] == 1

@pytest.mark.parametrize('n, fits', [(20_000, True), (200_000, False)])
def test_many_special_tokens(tok, n, fits, home):
    start, names = time.process_time(), [f'<{i}>' for i in range(n)]
    Path('x.json').write_text(json.dumps(changed(tok, added_tokens=[dict(content=s, id=283 + i, special=True) for i, s in enumerate(names)],
                                                 vocab={t: i for t, i in tok.to_json()['model']['vocab'].items() if i < 283})))
    if fits: assert load_tokenizer('x.json').encode('<5>the', 'all')[0] == 288
    else:
        with pytest.raises(UserError, match='x.json'): load_tokenizer('x.json')
        with pytest.raises(UserError, match='2 times'): Tokenizer.from_merges([], [*names[:100_000], '<5>'])
    assert time.process_time() - start < 60

def test_a_token_of_a_hundred_thousand_bytes(tok, home, say):
    "Finding its halves takes time in proportion to its length"
    ranks = {t: i for i, t in enumerate(dict.fromkeys([bytes([b]) for b in range(256)] + [b'a'*2**k for k in range(1, 18)]))}
    Path('long.tiktoken').write_text('\n'.join(f'{base64.b64encode(t).decode()} {i}' for t, i in ranks.items()))
    start = time.process_time()
    assert say('add', 'long.tiktoken', '--out_dir', 'long')[0] == 0
    assert load_tokenizer('long').encode('a'*2**17) == [ranks[b'a'*2**17]]
    assert say('inspect', 'long', 'aaaa')[0] == 0 and time.process_time() - start < 60

# ---- what is no file

FILES = ['tokenizer.json', 'vocab.json', 'merges.txt', 'meta.pkl', 'x.tiktoken', 'chat_template.jinja', 'tokenizer_config.json']

@posix
@pytest.mark.parametrize('name', FILES)
def test_a_pipe_is_no_tokenizer(name, tok, home, say):
    folder = Path('odd')
    folder.mkdir()
    if name == 'merges.txt': (folder/'vocab.json').write_text('{"a": 1}')
    if name == 'vocab.json': (folder/'merges.txt').write_text('a b')
    if name in FILES[-2:]: tok.save(folder)
    (folder/name).unlink(missing_ok=True)
    os.mkfifo(folder/name)
    code, out, err = say('inspect', 'odd')
    assert code == 1 and name in err
    if name not in FILES[-2:] and name != 'merges.txt': assert say('inspect', f'odd/{name}')[0] == 1
    (folder/name).unlink()
    (folder/name).mkdir()
    assert say('inspect', 'odd')[0] == 1

@posix
def test_ids_in_what_is_no_file(tok, home, say):
    os.mkfifo('x.npy')
    os.mkfifo('x.bin')
    for name in ('x.npy', 'x.bin'): assert say('decode', '--input', name, '--tokenizer', 't')[0] == 1
    code, out, err = say('encode', 'the end', '--tokenizer', 't', '--output', 'x.npy')
    assert code == 1 and '.bin' in err and 'pipe' in err
    with pytest.raises(UserError, match='pipe'): write_ids([[1]], 'x.npy', 'uint16')
    for name in ('tokenizer', 'text'):
        reader = os.open('x.bin', os.O_RDONLY | os.O_NONBLOCK)
        assert write_ids([[1, 2]], 'x.bin', 'uint16') == 2 and os.read(reader, 9) == b'\1\0\2\0'
        os.close(reader)

def npy(header, data=b'', version=b'\1\0'):
    head = header.encode() + b'\n'
    return b'\x93NUMPY' + version + struct.pack('<H', len(head)) + head + data

def test_arrays_that_are_no_ids(tok, home, say):
    good = "{'descr': '<u2', 'fortran_order': False, 'shape': (3,)}"
    Path('good.npy').write_bytes(npy(good, bytes(6)))
    assert read_ids('good.npy', tok).tolist() == [0, 0, 0]
    saved = io.BytesIO()
    np.savez(saved, a=np.arange(3))
    objects, parts = io.BytesIO(), io.BytesIO()
    np.save(objects, np.array([{'a': 1}], object), allow_pickle=True)
    np.save(parts, np.zeros(3, [('a', 'u2'), ('b', 'u2')]))
    odd = dict(npz=saved.getvalue(), objects=objects.getvalue(), parts=parts.getvalue(), pickle=pickle.dumps([1, 2]), text=b'hello', short=npy(good, b'\0'),
               huge=npy(good.replace('(3,)', f'({2**62},)')), many=npy(good.replace('(3,)', f'({10**30},)')), minus=npy(good.replace('(3,)', '(-3,)')), two=npy(good.replace('(3,)', '(1, 3)'), bytes(6)),
               time=npy(good.replace('<u2', '<m8'), bytes(24)), text_array=npy(good.replace('<u2', '<U2'), bytes(24)), flags=npy(good.replace('<u2', '|b1'), bytes(3)), deep=npy('('*4000), code=npy('__import__("os").getpid()'),
               no_shape=npy("{'descr': '<u2'}"), cut=npy(good)[:20], long=b'\x93NUMPY\2\0' + struct.pack('<I', 2**31) + b'{', unknown=npy(good, bytes(6), b'\x63\0'), name=npy(good.replace('<u2', 'O'), bytes(24)))
    for name, data in odd.items():
        Path('x.npy').write_bytes(data)
        code, out, err = say('decode', '--input', 'x.npy', '--tokenizer', 't')
        assert code == 1 and 'x.npy' in err, (name, err)
    for ids in ('9'*5000, '1e5', '--', '٣x', '0x10'):
        assert say('decode', ids, '--tokenizer', 't')[0] == 1

# ---- nobody's file is replaced unasked

def test_a_chat_template_of_somebody_else_stays(tok, home):
    (home/'t'/'chat_template.jinja').write_text('mine')
    before = {p.name: p.read_bytes() for p in Path('t').iterdir()}
    with pytest.raises(UserError, match='chat_template.jinja'): CharTokenizer('abc').save('t')
    assert {p.name: p.read_bytes() for p in Path('t').iterdir()} == before
    tok2 = Tokenizer(tok._ordinary, tok.special_tokens, merges=tok.merges)
    tok2.chat_template = 'ours {{ messages }}'
    tok2.save('ours')
    tok.save('ours')                            # our own goes with the tokenizer that it was of
    assert sorted(p.name for p in Path('ours').iterdir()) == ['tokenizer.json', 'tokenizer_config.json']

def test_add_replaces_nothing_unasked(tok, home, say):
    before = Path('letters/tokenizer.json').read_bytes()
    code, out, err = say('add', 't', '--special_tokens', '<y>', '--out_dir', 'letters')
    assert code == 1 and '--overwrite' in err and Path('letters/tokenizer.json').read_bytes() == before
    code, out, err = say('add', 't', '--special_tokens', '<y>', '--out_dir', 't')
    assert code == 1 and '--overwrite' in err
    assert say('add', 't', '--special_tokens', '<y>', '--out_dir', 'new')[0] == 0
    from nanogpt_lit.config import AddConfig
    from nanogpt_lit.tokens import add_command
    cfg = AddConfig('t', special_tokens=['<y>'], out_dir='letters')
    cfg.overwrite = True
    add_command(cfg)
    assert load_tokenizer('letters').special_tokens['<y>'] == 285

# ---- the terminal

def test_names_and_texts_do_not_steer_the_terminal(tok, home, say):
    evil = 'e\x1b]0;x\x07\x9b2J\r'
    named = Tokenizer(tok._ordinary, tok.special_tokens | {f'<{evil}>': 400}, merges=tok.merges)
    named.save(f'n{evil}')
    for words in (['inspect', f'n{evil}', evil], ['compare', f'n{evil}', 't', evil + ' the end'], ['add', f'n{evil}', '--out_dir', f'o{evil}'], ['decode', '400', '--tokenizer', f'n{evil}']):
        code, out, err = say(*words)
        assert code == 0 and not re.search('[\x00-\x08\x0b-\x1f\x7f-\x9f]', out + err), (words, out, err)
    for words in (['inspect', f'n{evil}', evil, '--color', 'always'], ['compare', f'n{evil}', 't', evil, '--color', 'always']):
        code, out, err = say(*words)
        rest = re.sub(r'\x1b\[(48;5;\d+;38;5;16|0)m', '', out)
        assert code == 0 and rest != out and not re.search('[\x00-\x08\x0b-\x1f\x7f-\x9f]', rest), out
    long = 'x'*5000
    assert say('compare', 't', 'letters', long.replace('x', 'a'))[0] == 0           # a text is no path, however long

# ---- thousands of small damages, seen from the command line

mutated = partial(harness.mutated, numbers=[b'-1', b'1e400', b'9'*5000, b'null', b'[[]]', b'"\\u001b"', b'2147483647'],
                  texts=[b'"\\ud800"', b'"\\u001b]0;"', b'{}', b'7', b'"<b>"'])

def test_damaged_folders(tok, home, say):
    templated = Tokenizer(tok._ordinary, tok.special_tokens, merges=tok.merges)
    templated.chat_template = '{{ messages }}'
    kinds = {'hf': templated.save('hf'), 'char': CharTokenizer('abc the').save('char')}
    Path('pkl').mkdir()
    Path('pkl/meta.pkl').write_bytes(pickle.dumps(dict(itos=dict(enumerate('abc the')))))
    Path('ranks').mkdir()
    Path('ranks/r.tiktoken').write_text('\n'.join(f'{base64.b64encode(t).decode()} {i}' for t, i in tok.ranks.items()))
    kinds |= {k: Path(k) for k in ('pkl', 'ranks')}
    rng, read = random.Random(0), 0
    for n in range(240):
        folder = kinds[rng.choice([*kinds])]
        name = rng.choice([*folder.iterdir()])
        data = name.read_bytes()
        name.write_bytes(mutated(data, rng))
        words = rng.choice([['inspect', folder, 'the <b> abc'], ['compare', folder, 't', 'the abc'], ['add', folder, '--out_dir', f'o{n}'], ['decode', '1', '2', '--tokenizer', folder],
                            ['inspect', folder, 'abc', '--html', 'x.html']])
        code, out, err = say(*words)
        assert '\x1b' not in out + err, (words, out, err)
        read += code == 0
        name.write_bytes(data)
    assert 20 < read < 220
