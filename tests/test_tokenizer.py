"Checks of the tokenizers that need larger texts than the book holds, or thousands of made-up ones"
import json, os, random
from collections import Counter
import nbformat, numpy as np, pytest, tiktoken
from hypothesis import HealthCheck, given, settings, strategies as st
from harness import SLOW
from nanogpt_lit.bpe import PATTERNS, GPT2_PATTERN, GPT4_PATTERN, chunks, count_documents, count_pretokens, cut_place, documents, fast_starts, plain_pattern, pretoken_places, safe_edge, train_bpe
from nanogpt_lit.core import UserError
from nanogpt_lit.tokenizer import apply_steps, check_pattern, split_text
from nanogpt_lit.tokenizer import _slots, CharTokenizer, Tokenizer, WordTable, load_tokenizer, to_printable

fuzz = settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
texts = st.text(st.characters(exclude_categories=['Cs']))
# letters, signs and blanks that meet every branch of the split patterns, more often than chance would bring them together
crafty = st.lists(st.sampled_from([*"aZsé中9½'.!_\n\r\t 　  ", "'s", "'LL", '\u0301', '🐈', '<|endoftext|>', '<|end', 'oftext|>', '\0', '\ufeff', '  '])).map(''.join)

# ---- learning
def test_bad_sources_get_one_clear_sentence_each(tmp_path):
    d = tmp_path
    (d/'empty.txt').touch()
    (d/'latin1.txt').write_bytes('déjà vu'.encode('latin-1'))
    (d/'nothing').mkdir()
    bad = [((d/'missing.txt', 300), 'does not exist'), (([d/'empty.txt'], 300), 'is empty'), ((d/'nothing', 300), 'holds no text files'),
           (([d/'latin1.txt'], 300), r'not UTF-8: byte 0xe9 at offset 1 \(line 1\)'), (([''], 300), 'contain no text'),
           ((['some text'], 200), 'need at least 257'), ((['abc'], 300, ['<a>', '<a>']), 'given 2 times'),
           ((['abc'], 300, (), '('), 'not a regular expression'), (('to be or not to be', 300), 'is not a file or folder')]
    for arguments, words in bad:
        with pytest.raises(UserError, match=words): Tokenizer.train(*arguments, progress=False)

@pytest.fixture(scope='module')
def naive(root):
    "The loop that 11_bpe begins with, as it stands in the notebook"
    cells = nbformat.read(root/'nbs'/'11_bpe.ipynb', 4).cells
    source = next(c.source for c in cells if c.cell_type == 'code' and 'def train_naive(' in c.source)
    names = {'Counter': Counter}
    exec(source, names)
    return names['train_naive']

def train_indexed(counts, n_merges):
    "Stanford CS336's rule once more, written for this test: exact pair counts, kept up to date word by word"
    words = [[bytes([b]) for b in word] for word in counts]
    times, count, where = [*counts.values()], Counter(), {}
    for i, word in enumerate(words):
        for pair in zip(word, word[1:]):
            count[pair] += times[i]
            where.setdefault(pair, set()).add(i)
    merges = []
    while len(merges) < n_merges and count:
        top = max(count.values())
        best = max(pair for pair, n in count.items() if n == top)
        merges.append(best)
        for i in where.pop(best):
            old, new, j = words[i], [], 0
            while j < len(old):
                if tuple(old[j:j+2]) == best: new.append(old[j] + old[j+1]); j += 2
                else: new.append(old[j]); j += 1
            for pair in zip(old, old[1:]):
                count[pair] -= times[i]
                if not count[pair]: del count[pair]
            for pair in zip(new, new[1:]):
                count[pair] += times[i]
                where.setdefault(pair, set()).add(i)
            words[i] = new
    return merges

def test_merges_of_tinyshakespeare(naive, shared_data):
    "The notebook's slow loop, the reference above and the exported trainer learn the same vocabulary from the same file (2,000 of its 10,000 tokens unless NANOGPT_LIT_SLOW)"
    size, by_hand = (10_000, 60) if SLOW else (2000, 25)
    path = shared_data/'tinyshakespeare.txt'
    counts = count_pretokens([path])
    assert sum(len(k)*n for k, n in counts.items()) == path.stat().st_size
    merges = train_indexed(counts, size - 257)
    assert naive(counts, by_hand) == merges[:by_hand]
    tok = Tokenizer.train(path, size, progress=False)
    assert tok.merges == merges
    assert sorted(tok.vocab.values()) == sorted([bytes([b]) for b in range(256)] + [a + b for a, b in merges] + [b'<|endoftext|>'])

@fuzz
@given(st.dictionaries(st.text('abé', min_size=1, max_size=12).map(str.encode), st.integers(1, 5), max_size=12))
def test_merges_of_any_words(naive_words):
    assert train_bpe(naive_words, 60) == train_indexed(naive_words, 60)

def test_merges_in_large_batches(monkeypatch):
    "However much a batch holds, and whether its pairs touch or are alone, merges come in the order of one at a time"
    import nanogpt_lit.bpe as module
    rng = random.Random(3)
    for trial in range(150):
        monkeypatch.setattr(module, '_NEAR', rng.choice([1, .95, .5, .1]))
        letters = rng.choice([b'ab', b'abc', bytes(range(97, 123))])
        words = {bytes(rng.choices(letters, k=rng.randint(1, 12))): rng.randint(1, rng.choice([1, 4, 60])) for _ in range(30)}
        assert train_bpe(words, 300) == train_indexed(words, 300)

@fuzz
@given(st.lists(crafty | texts, max_size=4), st.sampled_from([GPT2_PATTERN, GPT4_PATTERN]))
def test_words_of_any_text(docs, pattern):
    "Special tokens are left out, and what is counted is what the regular expression finds between them"
    import regex
    parts = [p for d in docs for p in d.split('<|endoftext|>')]
    want = Counter(w.encode() for p in parts for w in regex.findall(pattern, p) if w)
    assert count_documents(docs, pattern, ['<|endoftext|>']) == want

# ---- encoding
@pytest.fixture(scope='module')
def tok(root): return Tokenizer.train([root/'nbs'/'00_core.ipynb', 'naïve 猫猫猫 🐈🐈'*9], 1500, ['<|endoftext|>', '<|endoftext|><|endoftext|>'], progress=False)

@pytest.fixture(scope='module')
def tokenizers(tok): return [tok, Tokenizer.train('naïve 猫猫猫 🐈🐈 aa  '.split('~')*9, 270, [], pattern=GPT4_PATTERN, progress=False)]

def test_any_text_comes_back(tokenizers):
    @fuzz
    @given(texts | crafty, st.lists(st.integers(0, 60), max_size=5))
    def check(text, cuts):
        for t in tokenizers:
            ids = t.encode(text)
            assert t.decode(ids) == text and t.encode_to_numpy(text).tolist() == ids
            marked = t.encode(text, 'all')
            assert t.decode(marked) == text
            places = sorted({0, len(text), *(c for c in cuts if c < len(text))})
            pieces = [text[i:j] for i, j in zip(places, places[1:])]
            assert [*t.encode_iterable(pieces, 'all')] == marked
            assert t.encode_batch([text, text], 'all') == [marked]*2
    check()

def test_half_characters(tok):
    @fuzz
    @given(st.text())           # halves of surrogate pairs included
    def check(text):
        mended = text.encode('utf-16', 'surrogatepass').decode('utf-16', 'replace')
        assert tok.decode(tok.encode(text)) == mended
    check()

def test_any_bytes(tok):
    from regex import finditer
    replay = lambda piece: _merge_by_merge(piece, {m: i for i, m in enumerate(tok.merges)})
    @fuzz
    @given(st.binary(max_size=40) | st.integers(1, 200).map(lambda n: b' '*n) | st.text('aes= \n', max_size=60).map(str.encode))
    def check(data):
        assert [tok.token_bytes(i) for i in tok.engine._core_bpe.encode_single_piece(data)] == replay(data) if data else True
        text = data.decode('utf-8', 'replace')
        assert [tok.token_bytes(i) for i in tok.encode(text)] == [t for m in finditer(GPT2_PATTERN, text) for t in replay(m[0].encode())]
    check()

def _merge_by_merge(piece, order):
    parts = [piece[i:i+1] for i in range(len(piece))]
    while pairs := [order[p] for p in zip(parts, parts[1:]) if p in order]:
        best, i = min(pairs), 0
        while i < len(parts) - 1:
            if order.get((parts[i], parts[i+1])) == best: parts[i:i+2] = [parts[i] + parts[i+1]]
            i += 1
    return parts

def test_any_ids(tok):
    "Ids are decoded, or refused by name; nothing else happens"
    @fuzz
    @given(st.lists(st.integers(-5, 1600) | st.integers()))
    def check(ids):
        try: data = tok.decode_bytes(ids)
        except UserError as e: assert any(f'id {i} ' in str(e) for i in ids if i not in tok.vocab)
        else: assert data == b''.join(tok.vocab[i] for i in ids)
    check()

def test_words_that_are_looked_up(tokenizers, monkeypatch):
    "Documents of any kind, encoded together by the table of words, get the engine's ids; also when it forgets all the time"
    import nanogpt_lit.tokenizer as module
    for name in ('_ENOUGH', '_WORTH_IT'): monkeypatch.setattr(module, name, 0)
    monkeypatch.setattr(module, '_PORTION', 64)
    monkeypatch.setattr(module, '_MANY_IDS', 300)
    @fuzz
    @given(st.lists(st.text() | crafty, max_size=5))       # halves of surrogate pairs and zero characters included
    def check(docs):
        for t in tokenizers:
            assert t._word_table(9) is not None
            assert [o.tolist() for o in t.encode_arrays(docs)] == [t.encode(d) for d in docs]
            assert [o.tolist() for o in t.encode_arrays(docs, 'all')] == [t.encode(d, 'all') for d in docs]
    check()

def test_words_that_collide(tok):
    "Words of one slot, words that differ only behind their eighth, sixteenth or last byte, and a slot that the empty word would have"
    letters = np.random.default_rng(0).integers(97, 123, (2**22, 8), np.uint8)
    head = letters.view('<u8')[:, 0]
    table = WordTable(tok.ranks, tok.engine._core_bpe.encode_single_piece)
    slot = _slots(head, np.zeros_like(head))
    words = [letters[i].tobytes() for s in (0, slot[0]) for i in np.flatnonzero(slot == s)[:4].tolist()]
    words += [b'q'*n + end for n in (6, 7, 8, 15, 16, 17) for end in (b'', b'x', b'y')] + [b'\0']
    data, at = b''.join(words), np.cumsum([0, *map(len, words)])
    for _ in range(2):
        ids, ends = table(data, at)
        found = [o.tolist() for o in np.split(ids, ends[:-1])]
        assert found == [tok.engine._core_bpe.encode_single_piece(w) for w in words]

def test_words_that_are_cut():
    "Where words are cut inside, no token would have reached across: also tokens that begin or end within a character"
    rng, cuts = random.Random(7), 0
    for size in (300, 330, 400, 600)*4:
        letters = rng.choice([rng.sample('圆周率一是的常数猫ーのกéßa🐈𝒳\uffff', 9), [chr(0x5000 + 64*k) for k in range(9)]])   # the second lot share first and last bytes
        text = lambda: ''.join(rng.choices(letters, k=rng.randint(1, 400)))
        tok = Tokenizer.train([text() for _ in range(9)], size, [], progress=False)
        table = WordTable(tok.ranks, tok.engine._core_bpe.encode_single_piece)
        for _ in range(9):
            data, at = pretoken_places(sample := text())
            cut = table.cut_words(data, at)
            assert table(data, cut)[0].tolist() == tok.encode(sample)
            assert {*at.tolist()} <= {*cut.tolist()}
            cuts += len(cut) - len(at)
    assert cuts > 1000

@pytest.mark.parametrize('sign', ['^', '0', 'a', "'s", ' ', '\n', '\u0301', '猫', '🐈', ' \n\t', '='])
def test_a_million_of(tok, sign):
    text = 'x' + sign*1_000_000 + ' y\n'
    assert tok.decode(tok.encode_to_numpy(text)) == text

# ---- the outside world
GPT2_FILES = {'vocab.json': '6c7ea1a7e38e3a7f062df639a5b80947f075ffe6', 'merges.txt': '6d1cbeee0f20b3d9449abfede4726ed8212e3aee',
              'r50k_base.tiktoken': '0ea1e91bbb3a60f729a8dc8f777fd2fc07cd8df4'} # the names that tiktoken keeps them under

@pytest.fixture(scope='module')
def gpt2_files(shared_data, tmp_path_factory):
    "GPT-2's own files, under their own names"
    cache, folder = shared_data.parent/'tiktoken_cache', tmp_path_factory.mktemp('gpt2')
    if not all((cache/f).exists() for f in GPT2_FILES.values()): pytest.skip('the vocabulary of GPT-2 is not beside the shared data')
    for name, kept in GPT2_FILES.items(): (folder/name).write_bytes((cache/kept).read_bytes())
    os.environ['TIKTOKEN_CACHE_DIR'] = str(cache)
    return folder

def test_gpt2_ids(gpt2_files, shared_data, tmp_path):
    "Every way to load GPT-2's vocabulary gives tiktoken's ids on every shared text (on the first 20,000 characters of each unless NANOGPT_LIT_SLOW)"
    theirs = tiktoken.get_encoding('gpt2')
    ours = [load_tokenizer('gpt2'), Tokenizer.from_files(gpt2_files/'vocab.json', gpt2_files/'merges.txt'),
            load_tokenizer(gpt2_files/'r50k_base.tiktoken'), load_tokenizer(gpt2_files)]
    ours.append(load_tokenizer(ours[0].save(tmp_path/'saved')))
    lines = [l.split() for l in (gpt2_files/'merges.txt').read_text(encoding='utf-8').splitlines()[1:]]
    for t in ours:
        assert (t.vocab_size, t.eot_id) == (50257, 50256)
        assert t.merges == ours[0].merges
    assert [[*map(to_printable, m)] for m in ours[0].merges] == lines
    for path in sorted(shared_data.glob('*.*')):
        text = path.read_text(encoding='utf-8')[:None if SLOW else 20_000]
        ids = theirs.encode_ordinary(text)
        for t in ours: assert t.encode(text) == ids, path.name
        assert [*ours[0].encode_iterable(text[i:i+999] for i in range(0, len(text), 999))] == ids
        assert ours[0].decode(ids) == text

def test_characters_of_any_script(shared_data, tmp_path):
    for path in sorted(shared_data.glob('*.txt')):
        text = path.read_text(encoding='utf-8')
        tok = load_tokenizer(CharTokenizer(text).save(tmp_path/path.stem))
        ids = tok.encode_to_numpy(text)
        assert tok.decode(ids) == text and tok.vocab_size == len(set(text)) == ids.max() + 1
        assert [tok.chars[i] for i in ids[:500]] == [*text[:500]]

def test_hugging_face_gives_the_same_ids(tok, tmp_path):
    "Both of its libraries, on made-up texts, and on this project's own"
    hf = pytest.importorskip('tokenizers').Tokenizer.from_file(str(tok.save(tmp_path)/'tokenizer.json'))
    auto = pytest.importorskip('transformers').AutoTokenizer.from_pretrained(str(tmp_path))
    assert auto.eos_token_id == tok.eot_id and len(auto) == tok.vocab_size
    @fuzz
    @given(crafty)
    def check(text):
        ids = tok.encode(text, 'all')
        assert hf.encode(text).ids == ids
        assert auto(text)['input_ids'] == ids
        assert hf.decode(ids, skip_special_tokens=False) == tok.decode(ids)
    check()

# ---- names of patterns
@pytest.mark.parametrize('name', PATTERNS)
def test_a_name_is_worth_its_pattern_everywhere(name, tmp_path):
    "Every function and method that takes a split pattern takes its name"
    text = "We'll readLine(12345); the end.\n\nAnd 'so' on … "*40
    (tmp_path/'a.txt').write_text(text, encoding='utf-8')
    ways = dict(count=lambda p: count_pretokens([text], p), count_documents=lambda p: count_documents([text], p), documents=lambda p: [*documents([tmp_path/'a.txt'], pattern=p, size=100)],
                chunks=lambda p: [*chunks([text], p, size=100)], cut=lambda p: cut_place(text, p), edge=safe_edge, plain=plain_pattern, starts=lambda p: str(fast_starts(p)),
                split=lambda p: split_text(text, p), steps=lambda p: apply_steps(text, [[p, 'Isolated', False], 'bytes']), check=lambda p: Tokenizer.from_merges([], pattern=check_pattern(p)).pattern,
                train=lambda p: Tokenizer.train([text], 280, pattern=p, progress=False).merges, merges=lambda p: Tokenizer.from_merges([(b'a', b'b')], pattern=p).hash)
    for what, way in ways.items(): assert way(name) == way(PATTERNS[name]), what
    assert len(ways['count'](name)) > 10

def test_a_word_that_is_no_name_counts_nothing():
    for way in (count_pretokens, count_documents, lambda texts, p: Tokenizer.train(texts, 280, pattern=p, progress=False)):
        for word in ('gpt9', 'cl100k_base', '', None):
            with pytest.raises(UserError, match='pattern'): way(['some gpt9 text'], word)

@pytest.mark.parametrize('how', [{'String': 'gpt2'}, {'Regex': 'gpt2'}])
def test_a_pattern_in_a_file_is_never_a_name(how, tmp_path):
    "A file may split at the word gpt2, whatever that is called here"
    data = Tokenizer.train(["the gpt2, the gpt2; the end, the end, "*3], 265, progress=False).to_json()
    data['pre_tokenizer'] = {'type': 'Sequence', 'pretokenizers': [{'type': 'Split', 'pattern': how, 'behavior': 'Isolated', 'invert': False},
                                                                   {'type': 'ByteLevel', 'add_prefix_space': False, 'trim_offsets': True, 'use_regex': False}]}
    (tmp_path/'tokenizer.json').write_text(json.dumps(data))
    tok = load_tokenizer(tmp_path)
    assert split_text('the gpt2, b', tok.pattern) == ['the ', 'gpt2', ', b']
    data['pre_tokenizer']['pretokenizers'][0]['pattern'] = {'Regex': '[g]pt2'} # the same in a spelling that is no name
    (tmp_path/'tokenizer.json').write_text(json.dumps(data))
    other, text = load_tokenizer(tmp_path), 'the gpt2, the end, '*9
    assert tok.encode(text) == other.encode(text) == [*tok.encode_iterable([text])]
