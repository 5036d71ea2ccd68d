"Tokenizer files with thousands of small damages: each is read, or refused in one sentence that names the file"
import base64, json, pickle, random, warnings
import pytest
from harness import SLOW
from nanogpt_lit.bpe import GPT2_PATTERN, GPT4_PATTERN
from nanogpt_lit.core import UserError
from nanogpt_lit.tokenizer import CharTokenizer, Rules, Tokenizer, load_tokenizer, to_printable

TEXTS = ['The end. <|endoftext|>the end!', "it's 12345  naïve 猫🐈\n\n", 'e\u0301 \ud800 <x>', '', ' '*1001]

@pytest.fixture(scope='module')
def tok():
    words = 'the end of the story: the ending, the enders, then 12345 naïve naïve 猫猫 '
    return Tokenizer.train([words*20], 285, ['<|endoftext|>', '<x>'], progress=False)

@pytest.fixture
def good(tok):
    "A file with something in every place"
    data = tok.to_json()
    data['normalizer'] = {'type': 'Sequence', 'normalizers': [{'type': 'NFC'}]}
    data['added_tokens'][1] |= dict(special=False, lstrip=True)
    data['pre_tokenizer'] = {'type': 'Sequence', 'pretokenizers': [
        {'type': 'Digits', 'individual_digits': True}, {'type': 'Split', 'pattern': {'Regex': r'\w+|\W'}, 'behavior': 'Isolated', 'invert': False},
        {'type': 'ByteLevel', 'add_prefix_space': False, 'trim_offsets': True, 'use_regex': True}]}
    return data

def attempt(path, name=None):
    "Read a file that may be damaged. Whatever is accepted must work"
    try: tok = load_tokenizer(path)
    except UserError as e:
        assert str(name or path) in str(e) and '\n' not in str(e) and len(str(e)) < 600, e
        return None
    for text in TEXTS:
        try:
            ids = tok.encode(text, 'all')
            assert tok.encode_to_numpy(text, 'all').tolist() == ids
            assert [*tok.encode_iterable(text, 'all')] == ids and len(tok.decode(ids)) >= 0
        except UserError: assert isinstance(tok, CharTokenizer)
    return tok

ODD = [None, True, False, 0, -1, 1.5, 2**31, 10**400, '', 'x', '猫', '\ud800', [], {}, [[]], [None], {'type': 'NFC'}, {'a': 1}, 'ByteLevel', '(', 7]

def places(node, at=()):
    "Every place in a JSON value; of long lists and objects only some"
    yield at
    items = list(node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ())
    for k, v in items if len(items) < 20 else items[:1] + items[-2:]: yield from places(v, (*at, k))

def changed(node, at, new):
    if not at: return new
    node = node.copy()
    if new is ODD and len(at) == 1: del node[at[0]]
    else: node[at[0]] = changed(node[at[0]], at[1:], new)
    return node

def test_wrong_value_anywhere(good, tmp_path):
    "Each value left out, and replaced by each odd one: by some of them, unless NANOGPT_LIT_SLOW"
    path, read, draw = tmp_path/'tokenizer.json', 0, random.Random(0)
    path.write_text(json.dumps(good))
    assert attempt(path).rules.steps
    for at in places(good):
        for new in [*(ODD if SLOW else draw.sample(ODD, 4)), ODD]:
            if not at and new is ODD: continue
            path.write_text(json.dumps(changed(good, at, new)))
            read += attempt(path) is not None
    assert read > (100 if SLOW else 20)       # a version, a decoder or a trim_offsets may be anything

@pytest.mark.parametrize('seed', range(3))
def test_damaged_bytes(good, tmp_path, seed):
    "Bytes cut off, flipped, doubled, anywhere"
    rng, data, path = random.Random(seed), json.dumps(good, ensure_ascii=seed == 0).encode(), tmp_path/'tokenizer.json'
    for _ in range(250):
        i, n, bad = rng.randrange(len(data)), rng.choice([1, 1, 5, 50]), bytearray(data)
        match rng.randrange(4):
            case 0: del bad[i:]
            case 1: bad[i:i+n] = rng.randbytes(n)
            case 2: bad[i:i] = bad[i:i+n]
            case 3: del bad[i:i+n]
        path.write_bytes(bad)
        attempt(path)

def test_odd_texts(tmp_path):
    "JSON that is no tokenizer"
    path = tmp_path/'tokenizer.json'
    for text in ('', ' ', 'null', 'NaN', '[]', '{}', '{"model": NaN}', '{"model": {"type": "BPE", "vocab": {}, "merges": []}}', '['*10**6, '{"a":'*10**5,
                 '{"model": {"vocab": {"a": 0, "a": 1}}}', '\ufeff{}', '{"model": {"type": "WordLevel", "vocab": {"a": 0, "bc": 1}}}', '9'*10**5,
                 '{"model": {"type": "WordLevel", "vocab": {"a": [], "b": 1}}}', '{"model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": []}}',
                 '{"model": {"type": "WordLevel", "vocab": {"a": true, "b": 0}}}'):
        path.write_text(text, encoding='utf-8')
        with pytest.raises(UserError, match='tokenizer.json'): load_tokenizer(path)

def test_pairs_of_files(tok, tmp_path):
    "vocab.json and merges.txt, damaged in every line, and in the styles that are about"
    vocab = {to_printable(t): i for t, i in tok.ranks.items()} | tok.special_tokens
    merges = [' '.join(map(to_printable, m)) for m in tok.merges]
    v, m = tmp_path/'vocab.json', tmp_path/'merges.txt'
    v.write_text(json.dumps(vocab))
    styles = ['#version: 0.2\n' + '\n'.join(merges) + '\n', '\r\n'.join(merges), '\n\n'.join(merges), '\ufeff' + '\n'.join(merges), ' \n'.join(merges) + ' ']
    for text in styles:
        m.write_text(text, encoding='utf-8', newline='')
        assert load_tokenizer(tmp_path).hash == tok.hash
    v.write_text(json.dumps({i: t for t, i in vocab.items()}))
    assert load_tokenizer(v).hash == tok.hash
    for odd in ODD + [[1, 2], 300]:
        v.write_text(json.dumps(vocab | {'Ġthe': odd}))
        attempt(tmp_path, tmp_path)
    v.write_text(json.dumps(vocab))
    for i in range(len(merges)):
        for odd in ('a', 'a b c', '猫 x', 'zzz y', '#version: 0.2', '\x00 \x01'):
            m.write_text('\n'.join(merges[:i] + [odd] + merges[i+1:]), encoding='utf-8')
            attempt(tmp_path, tmp_path)

def test_rank_files(tok, tmp_path):
    path, lines = tmp_path/'own.tiktoken', [f'{base64.b64encode(t).decode()} {i}' for t, i in tok.ranks.items()]
    path.write_text('\r\n'.join(lines))
    assert load_tokenizer(path).encode('the end') == tok.encode('the end')
    for i in (0, 5, 255, 256, len(lines) - 1):
        for odd in ('', 'AA==', 'AA== 1.5', 'AA== -3', 'AA== 7 8', '!! 3', 'AA== 99999999999', lines[3], 'AA==\x85 5', ' 5', '= 9'):
            path.write_text('\n'.join(lines[:i] + [odd] + lines[i+1:]), encoding='utf-8')
            attempt(path)

def test_pickles(tmp_path):
    path = tmp_path/'meta.pkl'
    good = pickle.dumps(dict(itos={0: 'a', 1: 'b'}, stoi={'a': 0, 'b': 1}))
    rng = random.Random(0)
    odd = [pickle.dumps(dict(itos=o)) for o in (*ODD, {0: 'a', 1: 'a'}, {0: 'ab'}, {0: []}, {True: 'a', 0: 'b'}, {0.0: 'a'}, {(): 'a'})]
    for _ in range(800):
        bad = bytearray(good)
        bad[rng.randrange(len(bad))] = rng.randrange(256)
        odd.append(bytes(bad))
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        for data in odd:
            path.write_bytes(data)
            attempt(path)

def test_ids_in_a_gap(tok, tmp_path):
    "A special token between ordinary ids keeps its id in the file, also for tokenizers"
    tokenizers = pytest.importorskip('tokenizers')
    ordinary = {i if i < 260 else i + 3: t for i, t in tok._ordinary.items()}
    for special in ({'<a>': 261}, {'<a>': 400, '<b>': 262}, {'<b>': 262, '<a>': max(ordinary) + 1}):
        gappy = Tokenizer(ordinary, special)
        again = load_tokenizer(gappy.save(tmp_path))
        theirs = tokenizers.Tokenizer.from_file(str(tmp_path/'tokenizer.json'))
        for text in ('the <a>end<b> the', *TEXTS[:2]):
            assert theirs.encode(text).ids == gappy.encode(text, 'all') == again.encode(text, 'all')
        assert again.hash == gappy.hash

def test_data_sets():
    "Records of the `datasets` library, whole or streamed"
    datasets = pytest.importorskip('datasets')
    rows = [{'id': i, 'story': f'the end of story {i}, the very end'} for i in range(30)]
    want = Tokenizer.train([r['story'] for r in rows], 280, progress=False).hash
    whole = datasets.Dataset.from_list(rows)
    for sources in (rows, whole, whole.to_iterable_dataset(), (r for r in rows)):
        assert Tokenizer.train(sources, 280, text_field='story', progress=False).hash == want
    with pytest.raises(UserError, match="record 1 has no field 'text'"): Tokenizer.train(whole, 280, progress=False)
    with pytest.raises(UserError, match='keys train'): Tokenizer.train(datasets.DatasetDict(train=whole), 280, progress=False)

OTHER = dict(gpt4=dict(pattern=GPT4_PATTERN), gaps=dict(pattern='[a-z]+'), look=dict(pattern=r'(?:a(?=.)|b)+|\s'), nfc=dict(rules=Rules(forms=('NFC',))),
             steps=dict(rules=Rules(steps=[[r'\p{N}', 'Isolated', False], [GPT2_PATTERN, 'Isolated', False], 'bytes'])))

@pytest.mark.parametrize('kind', OTHER)
def test_a_million_of(tok, kind, capfd):
    "Whatever the engine does with a very long run, under any pattern: the text comes back (its panics may write to stderr)"
    other = Tokenizer(tok._ordinary, tok.special_tokens, **OTHER[kind])
    for sign in ('a', '=', ' ', '\n', '\u0301', 'ab '):
        text = 'x' + sign*(1_000_000//len(sign)) + ' y'
        assert other.decode(other.encode(text)) == text
