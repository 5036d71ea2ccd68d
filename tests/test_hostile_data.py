"""What preparing, joining and reading tokens do with folders of other people, damaged folders, liars, and files that change while they are read.

Everything is refused in one sentence, or counted; nothing that isn't ours is removed; nothing wrong is trained on.
"""
import gzip, io, json, os, random, re, sys, threading, time
from pathlib import Path
import numpy as np, pytest
from harness import SLOW, run_argv
from harness import heard as said
from nanogpt_lit import bpe, corpus as corpora, data as preparing, fleet, loader, shards
from nanogpt_lit.config import nanogpt_prepare, nanogpt_tokenizer, nanogpt_train
from nanogpt_lit.core import COUNT, UserError, alone_in, misfit, parse_json, read_json, read_small, sha256_file
from nanogpt_lit.shards import load_manifest, verify
from nanogpt_lit.data import prepare
from nanogpt_lit.fleet import join_parts, prepare_parts, tokens_at, who_am_i
from nanogpt_lit.loader import TokenData, open_tokens
from nanogpt_lit.reading import parse_line, record_text
from nanogpt_lit.tokenizer import CharTokenizer, load_tokenizer

posix = pytest.mark.skipif(os.name == 'nt', reason='links, pipes and names of POSIX')
TEXTS = ['to be or not to be', 'that is the question', 'whether it is nobler', 'in the mind to suffer', 'the slings and arrows'] * 4

@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch):
    "A current folder and a cache of its own"
    monkeypatch.setenv('NANOGPT_LIT_CACHE', str(tmp_path/'.cache'))
    monkeypatch.setenv('NANOGPT_LIT_JOURNAL_S', '0')
    monkeypatch.setattr(fleet.retrying, '__defaults__', (3, .01, lambda text: None))
    monkeypatch.chdir(tmp_path)

def refused(result, *hints):
    "One sentence about a mistake, nothing about a bug"
    code, _, err = result
    lines = err.strip().splitlines()
    assert code == 1 and lines and lines[-1].startswith('error: '), (code, err)
    assert 'Traceback' not in err and 'fault of nanogpt_lit' not in err, err
    for o in hints: assert o in lines[-1], (o, lines[-1])

def refuses(f, *hints):
    with pytest.raises(UserError) as e: f()
    text = str(e.value)
    assert '\n' not in text
    for o in hints: assert o in text, (o, text)

def made(path='p', texts=TEXTS, **kw):
    return prepare(list(texts), path, **dict(tokenizer='char', progress=False, workers=1) | kw)

def sweep(folder): # all that is in a folder
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(Path(folder).rglob('*')) if p.is_file()}

def edited(folder, change):
    "The manifest of a folder, changed by hand"
    path = Path(folder)/'meta.json'
    m = json.loads(path.read_text(encoding='utf-8'))
    m = change(m) or m
    path.write_text(json.dumps(m), encoding='utf-8')

# --- 1. other people's files ------------------------------------------------------------------------------------------

@pytest.mark.parametrize('name', ['p.old', 'p.partial', 'p.joining', 'p.parts'])
@pytest.mark.parametrize('content', ['thesis.txt', 'train_000000.bin', 'journal.json', '.lock', 'meta.json'])
def test_folders_beside_it_are_left_alone(name, content):
    Path(name).mkdir()
    (Path(name)/content).write_text('mine')
    for change in (dict(), dict(), dict(val_fraction=.3, overwrite=True)):
        try: made(**change)
        except UserError as e: assert name == 'p.partial' and name in str(e), e
        assert sweep(name) == {content: b'mine'}

def test_a_partial_folder_of_somebody_else_is_refused():
    Path('p.partial').mkdir()
    (Path('p.partial')/'.lock').write_text('my own lock')
    refuses(made, 'p.partial', '.lock')
    assert sweep('p.partial') == {'.lock': b'my own lock'} and not Path('p').exists()

def test_overwriting_keeps_what_is_not_ours():
    made()
    for name, content in {'notes.txt': 'mine', 'train_000009.bin': 'mine', 'README.md': 'my own words', 'tokenizer/mine.json': '{}'}.items():
        path = Path('p')/name
        before = path.read_bytes() if path.exists() else None
        path.write_text(content)
        there = sweep('p')
        refuses(lambda: made(val_fraction=.3, overwrite=True), name)
        assert sweep('p') == there and [o.name for o in Path().iterdir() if 'partial' not in o.name and o.name != '.cache'] == ['p']
        path.unlink() if before is None else path.write_bytes(before)
    (Path('p')/'.gitignore').write_text('*')
    made(val_fraction=.3, overwrite=True)
    verify('p')
    assert (Path('p')/'.gitignore').read_text() == '*'

@pytest.mark.parametrize('name', ['README.md', 'train_000000.bin', 'meta.json', 'tokenizer/tokenizer.json', '.gitignore'])
@pytest.mark.parametrize('overwrite', [False, True])
def test_a_folder_without_our_manifest_is_kept(name, overwrite):
    path = Path('p')/name
    path.parent.mkdir(parents=True)
    path.write_text('{"my": "own"}')
    if name == '.gitignore': made(overwrite=overwrite)
    else: refuses(lambda: made(overwrite=overwrite), 'p')
    assert path.read_text() == '{"my": "own"}'

def test_a_damaged_folder_of_ours_can_be_made_again():
    made()
    whole = sweep('p')
    (Path('p')/'meta.json').write_bytes(whole['meta.json'][:300])
    refuses(made, 'damaged')
    made(overwrite=True)
    assert sweep('p') == whole
    (Path('p')/'val_000000.bin').unlink()
    refuses(made, 'missing')
    made(overwrite=True)
    assert sweep('p') == whole and [*Path().glob('*.old')] == [*Path().glob('.p*')] == []

@posix
def test_links_as_out_dir_are_followed():
    Path('real').mkdir()
    Path('link').symlink_to('real')
    made('link')
    assert Path('link').is_symlink() and (Path('real')/'meta.json').exists()
    made('link', val_fraction=.3, overwrite=True)
    assert Path('link').is_symlink() and verify('real')
    Path('round').symlink_to('round')
    refuses(lambda: made('round'), 'round')
    assert Path('round').is_symlink()

def test_a_second_process_is_told_so():
    shards.DataFolder('p.partial').claim()
    with alone_in('p.partial', 'preparing'): refuses(made, 'preparing', 'p.partial')
    made()

def parts_of(home='home', n=3):
    for i in range(8): (Path(f'{i}.txt')).write_text(TEXTS[i % 5]*9)
    CharTokenizer(''.join(TEXTS) + '\n').save('tok')
    prepare_parts(sorted(Path().glob('?.txt')), home, 'tok', n)

def test_joining_is_all_or_nothing_and_replaces_nothing_of_others():
    parts_of()
    for name in ('all.joining', 'all.partial'):
        Path(name).mkdir()
        (Path(name)/'mine.txt').write_text('mine')
    refuses(lambda: join_parts('home', 'all'), 'all.partial')
    (Path('all.partial')/'mine.txt').unlink()
    join_parts('home', 'all')
    verify('all')
    assert sweep('all.joining') == {'mine.txt': b'mine'}
    refuses(lambda: join_parts('home', 'all'), 'exists')
    (Path('all')/'mine.txt').write_text('mine')
    refuses(lambda: join_parts('home', 'all', overwrite=True), 'mine.txt')

def test_fleet_clears_away_its_own_parts_only(monkeypatch):
    parts_of()
    (Path('out.parts')).mkdir()
    (Path('out.parts')/'mine.txt').write_text('mine')
    monkeypatch.setattr(fleet, 'who_am_i', lambda: (0, 2))
    monkeypatch.setattr(fleet, 'prepare_parts', lambda files, home, tok, n, w, k, **kw: prepare_parts(files, home, tok, n, 0, 1, **kw))
    code, out, err = said(fleet._main, '[0-7].txt', '--tokenizer', 'tok', '--out_dir', 'out')
    assert code == 0, err
    assert sweep('out.parts') == {'mine.txt': b'mine'}
    verify('out')

# --- 2., 3., 7. manifests that lie ------------------------------------------------------------------------------------

def first(m): return m['splits']['train']['files'][0]
LIES = {
    'absolute name': lambda m: first(m).update(name='/tmp/NEW.bin'), 'name above': lambda m: first(m).update(name='../x.bin'),
    'hidden name': lambda m: first(m).update(name='.x.bin'), 'the manifest as a shard': lambda m: first(m).update(name='meta.json'),
    'a folder': lambda m: first(m).update(name='tokenizer'), 'number as a name': lambda m: first(m).update(name=7),
    'objects': lambda m: m.update(dtype='O'), 'floats': lambda m: m.update(dtype='float32'), 'a structure': lambda m: m.update(dtype='u2,u2'),
    'a list as a type': lambda m: m.update(dtype=[['a', 'O']]), 'no type': lambda m: m.pop('dtype') and None,
    'too many tokens': lambda m: first(m).update(tokens=10**15), 'more than there are numbers': lambda m: first(m).update(tokens=10**400),
    'negative': lambda m: first(m).update(tokens=-1), 'true': lambda m: first(m).update(tokens=True), 'half': lambda m: first(m).update(tokens=1.5),
    'a sum that is none': lambda m: m['splits']['train'].update(tokens=m['splits']['train']['tokens'] + 1),
    'no files': lambda m: m['splits']['train'].update(files=[], tokens=0), 'files as text': lambda m: m['splits']['train'].update(files='abc'),
    'twice the same': lambda m: m['splits']['val'].update(m['splits']['train']), 'no splits': lambda m: m.update(splits={}), 'splits as a list': lambda m: m.update(splits=[]),
    'a million shards': lambda m: m['splits']['train'].update(files=[dict(first(m), name=f'train_{k:07d}.bin') for k in range(1_000_000)]),
    'no checksum': lambda m: first(m).pop('sha256') and None, 'a checksum that is none': lambda m: first(m).update(sha256='x'*64),
    'another checksum': lambda m: first(m).update(sha256='0'*64),
    'no vocabulary': lambda m: m.update(vocab_size=0), 'huge vocabulary': lambda m: m.update(vocab_size=10**12), 'vocabulary as text': lambda m: m.update(vocab_size='7'),
    'small vocabulary': lambda m: m.update(vocab_size=3), 'separator outside': lambda m: m.update(eot_id=10**6), 'version': lambda m: m.update(version='new'),
    'no tokenizer': lambda m: m.update(tokenizer=None), 'tokenizer elsewhere': lambda m: m['tokenizer'].update(folder='../..'), 'hash as number': lambda m: m['tokenizer'].update(hash=5),
    'no job': lambda m: m.pop('job') and None, 'a list': lambda m: [m], 'null': lambda m: [None], 'newer': lambda m: m.update(version=2),
    'another format': lambda m: m.update(format='something else')}

@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    home = tmp_path_factory.mktemp('whole')
    made(home/'p')
    return home/'p'

def copied(whole, to='p'):
    import shutil
    return Path(shutil.copytree(whole, to))

@pytest.mark.parametrize('lie', LIES)
def test_lies_of_a_manifest(whole, lie, tmp_path):
    copied(whole)
    edited('p', LIES[lie])
    before, t = sweep('.'), time.process_time()
    readers = dict(load=lambda: load_manifest('p'), verify=lambda: verify('p'), train=lambda: TokenData('p'), describe=lambda: preparing.describe_folder('p'),
                   far=lambda: tokens_at(f'file://{tmp_path}/p', cache='far')[:5], again=lambda: made())
    late = {'another checksum', 'small vocabulary'}       # what only the shards themselves can tell
    for name, f in readers.items():
        if lie in late and name in ('load', 'again'): continue
        refuses(f, *(['newer version'] if lie == 'newer' else []))
    assert time.process_time() - t < 60                 # of computing: it is refused, not tried
    assert not Path('/tmp/NEW.bin').exists() and not Path('far/x.bin').exists() and not Path('x.bin').exists()
    assert {k: v for k, v in sweep('.').items() if not k.startswith(('far', '.cache'))} == before
    if lie != 'a million shards': refused(said(nanogpt_train, 'tiny', '--dataset', 'p', '--max_steps', 1, '--n_layer', 1, '--n_embd', 16, '--block_size', 8, '--device', 'cpu', '--out_dir', 'run'))

def test_refused_quickly(whole):
    for name, change in (('tokens', LIES['too many tokens']), ('shards', LIES['a million shards'])):
        copied(whole, name)
        edited(name, change)
        t = time.process_time()
        refuses(lambda: load_manifest(name))
        assert time.process_time() - t < 10, name
    copied(whole, 'nested')
    (Path('nested')/'meta.json').write_bytes(b'['*10**8)
    t = time.process_time()
    refuses(lambda: load_manifest('nested'), 'meta.json')
    assert time.process_time() - t < 10

@posix
def test_a_manifest_that_never_ends(whole):
    copied(whole)
    (Path('p')/'meta.json').unlink()
    os.mkfifo('p/meta.json')
    refuses(lambda: load_manifest('p'), 'meta.json')
    (Path('p')/'meta.json').unlink()
    (Path('p')/'meta.json').symlink_to('/dev/zero')
    refuses(lambda: load_manifest('p'), 'meta.json')

def test_the_shape_fits_what_is_written(whole):
    m = json.loads((whole/'meta.json').read_text(encoding='utf-8'))
    assert misfit(m, shards.MANIFEST) == ''
    parts_of()
    assert misfit(join_parts('home', 'all'), shards.MANIFEST) == ''

def test_lists_of_a_remote_folder_are_plain_names_too(whole, tmp_path, monkeypatch):
    import fsspec
    class Liar(type(fsspec.filesystem('memory'))):
        protocol, cachable = 'liar', False
        @classmethod
        def _strip_protocol(cls, path): return super()._strip_protocol(path.replace('liar://', 'memory://'))
        def ls(self, path, detail=True, **kw):
            found = [*super().ls(path, detail=True, **kw), dict(name=f'{path}/..', size=9, type='file'), dict(name=f'{path}/a\\b', size=9, type='file'),
                     dict(name=f'{path}/.bashrc', size=9, type='file')]
            return found if detail else [o['name'] for o in found]
    fsspec.register_implementation('liar', Liar, clobber=True)
    memory = fsspec.filesystem('memory')
    memory.put(str(whole), '/lies', recursive=True)
    far = tokens_at('liar://lies', cache='far')
    assert far[:9].tolist() == TokenData(whole)[:9].tolist() and {p.name for p in Path('far').rglob('*.json')} <= {'meta.json', 'tokenizer.json', 'tokenizer_config.json'}
    assert not [*Path('far').rglob('.bashrc')]
    memory.rm('/lies', recursive=True)

@pytest.mark.parametrize('dtype', ['O', 'float32', 'complex64', 'u2,u2', 'S2', 'uint64', 'int16', 'nonsense', '>u3', 'datetime64', 'V0'])
def test_types_of_ids(dtype):
    np.arange(100, dtype='<u2').tofile('train.bin')
    refuses(lambda: TokenData('train.bin', dtype=dtype), 'uint16')
    refused(said(nanogpt_train, 'tiny', '--train_data', 'train.bin', '--data_dtype', dtype, '--max_steps', 1, '--device', 'cpu', '--out_dir', 'run'))

def npy_of(header, rest=b'\1\0'*64, version=b'\1\0'):
    header = header.encode() + b' '*((-len(header) - 11) % 64) + b'\n'
    return b'\x93NUMPY' + version + len(header).to_bytes(2, 'little') + header + rest

def test_arrays_that_are_none():
    good = "{'descr': '<u2', 'fortran_order': False, 'shape': (64,)}"
    Path('good.npy').write_bytes(npy_of(good))
    assert open_tokens('good.npy').tolist() == [1]*64
    np.save('swapped.npy', np.arange(9, dtype='>u4'))
    assert open_tokens('swapped.npy').tolist() == [*range(9)]
    bad = {k: npy_of(good.replace("'<u2'", k)) for k in ("'O'", "'|O'", "[('a', '<u2')]", "'<f2'", "'<U1'", "'<m8'", "'|V2'", "'<u2,<u2'", '7', 'None', "'<u8'")}
    bad |= {k: npy_of(good.replace('(64,)', k)) for k in ('(-1,)', '(64, 1)', '()', '(10**9,)', '(1152921504606846976,)', '(4611686018427387904,)', '64', '(True,)', '(6,)', '(0,)', "('a',)")}
    bad |= {'nested': npy_of('('*5000), 'empty header': npy_of(''), 'version': npy_of(good, version=b'\7\7'), 'short': b'\x93NUMPY', 'magic': b'\x93NUMPY\1\0\xff\xff'}
    zipped, pickled = io.BytesIO(), io.BytesIO()
    np.savez(zipped, a=np.arange(9))
    np.save(pickled, np.array([{}, 1], object), allow_pickle=True)
    bad |= dict(zip=zipped.getvalue(), pickle=pickled.getvalue(), bare=b'\x80\x04K\x01.', zeros=bytes(100))
    for name, content in bad.items():
        Path('bad.npy').write_bytes(content)
        with pytest.raises(UserError): open_tokens('bad.npy')

# --- 5. quietly wrong data --------------------------------------------------------------------------------------------

def test_a_shard_that_was_overwritten_is_not_trained_on():
    made()
    shard = Path('p/train_000000.bin')
    old = time.time() - 100
    for p in Path('p').glob('*.bin'): os.utime(p, (old, old))
    TokenData('p')
    content = shard.read_bytes()
    shard.write_bytes(content[2:] + content[:2])
    refuses(lambda: TokenData('p'), 'train_000000.bin', 'changed')
    TokenData('p', 'val')
    refused(said(nanogpt_train, 'tiny', '--dataset', 'p', '--max_steps', 1, '--n_layer', 1, '--device', 'cpu', '--out_dir', 'run'), 'train_000000.bin')
    refused(said(nanogpt_prepare, '--inspect', 'p'), 'train_000000.bin')

def test_checked_once_and_remembered(monkeypatch):
    made()
    old, read = time.time() - 100, []
    for p in Path('p').glob('*.bin'): os.utime(p, (old, old))
    check = shards._check_content
    monkeypatch.setattr(shards, '_check_content', lambda path, *a: (read.append(path.name), check(path, *a)))
    for n in range(3): TokenData('p'); TokenData('p', 'val')
    assert read == ['train_000000.bin', 'val_000000.bin']
    notes = [p for p in Path('.cache').rglob('*') if p.is_file()]
    assert len(notes) == 1
    for damage in (b'', b'{', b'[1]', b'{"train_000000.bin": 7}', b'\xff', b'['*100_000):
        notes[0].write_bytes(damage)
        del read[:]
        TokenData('p')
        assert read == ['train_000000.bin']
    monkeypatch.setenv('NANOGPT_LIT_CACHE', str(Path('p/meta.json').absolute()))    # no place for notes
    TokenData('p')

def test_ids_beyond_the_vocabulary_are_found_even_if_the_checksum_fits():
    made()
    shard = Path('p/train_000000.bin')
    ids = np.fromfile(shard, '<u2')
    ids[5] = 999
    ids.tofile(shard)
    edited('p', lambda m: first(m).update(sha256=sha256_file(shard)))
    refuses(lambda: TokenData('p'), 'id 999')

def test_another_tokenizer_in_the_folder_is_noticed():
    made()
    CharTokenizer('xyz').save('p/tokenizer')
    refuses(lambda: TokenData('p').tokenizer(), 'tokenizer')
    refuses(lambda: preparing.describe_folder('p'), 'tokenizer')

def test_cached_shards_are_checked_and_fetched_again(tmp_path):
    made(shard_size=100)
    url, there = f'file://{tmp_path}/p', TokenData('p')
    far = tokens_at(url, cache='far')
    assert far[:].tolist() == there[:].tolist()
    for damage in (lambda p: p.write_bytes(p.read_bytes()[:10]), lambda p: p.write_bytes(b'\0'*p.stat().st_size), lambda p: p.write_bytes(b'')):
        for p in Path('far').rglob('train*.bin'): damage(p)
        assert tokens_at(url, cache='far')[:].tolist() == there[:].tolist()
    for p in Path('far').rglob('tokenizer.json'): p.write_bytes(p.read_bytes()[:30])
    assert tokens_at(url, cache='far').tokenizer().hash == there.tokenizer().hash

def test_a_cache_keeps_what_it_has_not_fetched(tmp_path):
    made()
    url = f'file://{tmp_path}/p'
    far = tokens_at(url, cache='far')
    (far.path/'mine.txt').write_text('mine')
    made(val_fraction=.3, overwrite=True)
    again = tokens_at(url, cache='far')
    assert again[:].tolist() == TokenData('p')[:].tolist() and (far.path/'mine.txt').read_text() == 'mine'

@pytest.mark.parametrize('change', ['cut', 'longer', 'replaced', 'gone', 'other text of that size'])
@pytest.mark.parametrize('tokenizer', ['char', 'bpe'])
def test_sources_that_change_while_they_are_prepared(change, tokenizer, monkeypatch):
    lines = [json.dumps(dict(text=o)) + '\n' for o in TEXTS]
    path = Path('x.jsonl')
    path.write_text(''.join(lines))
    survey = preparing.survey_corpus
    def survey_and_change(*a, **kw):
        seen = survey(*a, **kw)
        if change == 'cut': path.write_text(''.join(lines[:-4]))
        if change == 'longer': path.write_text(''.join(lines + lines))
        if change == 'replaced': path.write_text(''.join(reversed(lines[:7])))
        if change == 'other text of that size': path.write_text(''.join(lines).replace('that', 'this'))
        if change == 'gone': path.unlink()
        return seen
    monkeypatch.setattr(preparing, 'survey_corpus', survey_and_change)
    refused(said(nanogpt_prepare, 'x.jsonl', '--tokenizer', tokenizer, '--tokenizer_vocab_size', 300, '--out_dir', 'p'), 'x.jsonl')
    assert not Path('p').exists() and not Path('p.partial').exists()

# --- 6. things that change or lie -------------------------------------------------------------------------------------

@posix
def test_pipes_are_read_once(tmp_path):
    os.mkfifo('pipe.jsonl')
    lines = ''.join(json.dumps(dict(text=o)) + '\n' for o in TEXTS)
    Path('x.jsonl').write_text(lines)
    for command, words in ((nanogpt_prepare, ['--tokenizer', 'char', '--out_dir', 'p']), (nanogpt_tokenizer, ['--kind', 'char', '--out_dir', 'tok'])):
        writer = threading.Thread(target=lambda: Path('pipe.jsonl').write_text(lines))
        writer.start()
        words = [*(['train', '--input'] if command == nanogpt_tokenizer else []), 'pipe.jsonl', *words]
        code, _, err = said(command, *words)
        writer.join(5)
        assert code == 0, err
    made_of_file = prepare([Path('x.jsonl')], 'q', tokenizer='char', progress=False)
    assert load_manifest('p')['splits'] == made_of_file['splits']
    assert '/' not in load_manifest('p')['about'], load_manifest('p')['about']

@posix
def test_a_pipe_that_nobody_writes_to(monkeypatch):
    os.mkfifo('pipe.txt')
    monkeypatch.setattr(corpora, 'PATIENCE_S', .2)
    refused(said(nanogpt_prepare, 'pipe.txt', '--out_dir', 'p'), 'pipe.txt', 'nobody')
    refused(said(nanogpt_prepare, '/dev/zero', '--out_dir', 'p'), '/dev/zero')
    refused(said(nanogpt_prepare, '/dev/null', '--out_dir', 'p'), 'empty')

@posix
def test_standard_input_goes_on_working():
    CharTokenizer('abc \n').save('tok')
    words = [str(Path(sys.executable).parent/'nanogpt-tokenizer')]
    r = run_argv([*words, 'encode', '--tokenizer', 'tok', '--input', '/dev/stdin'], input='abc', capture_output=True, text=True, timeout=60)
    assert r.returncode == 0 and len(r.stdout.split()) == 3, r.stderr
    r = run_argv([*words, 'encode', '--tokenizer', 'tok', '--input', '/dev/stdin'], input=b'\xff', capture_output=True, timeout=60)
    assert r.returncode == 1 and b'not UTF-8' in r.stderr
    r = run_argv([*words, 'train', '--kind', 'char', '--input', '/dev/stdin', '--out_dir', 'new'], input='abcd', capture_output=True, text=True, timeout=60)
    assert r.returncode == 0 and '4 ids' in r.stdout, r.stderr

CSVS = {'unterminated.csv': b'text\n"a\nb\nc\n', 'header.csv': b'"text\na\n', 'nul.csv': b'text\na\0b\n', 'mac.csv': b'text\ra\rb\r', 'mixed.csv': b'text\na\rb\nc\n',
        'quotes.csv': b'text\n"a"b\nc\n', 'fields.csv': b'text\na,b\nc\n', 'twice.csv': b'text,text\na,b\n', 'empty.csv': b'\n\n\n', 'one.csv': b'text', 'comma.csv': b',,,\n,,,\n',
        'wide.csv': b','.join(b'x%d' % i for i in range(100_000)) + b'\n', 'tabs.tsv': b'text\n"a\tb\n', 'nul.tsv': b'\0\0\0', 'bom.csv': b'\xef\xbb\xbftext\na\n'}

def test_odd_tables_are_counted_or_refused():
    for name, content in CSVS.items():
        Path(name).write_bytes(content)
        code, out, err = said(nanogpt_prepare, name, '--tokenizer', 'char', '--val_fraction', .5, '--out_dir', f'out_{name}')
        if code: refused((code, out, err))
        assert len(err) < 2000, name

def test_a_table_without_line_ends_takes_no_quadratic_time():
    Path('long.csv').write_bytes(b'text\n' + b'a'*30_000_000)
    t = time.process_time()
    n = sum(len(o) for _, blocks in corpora.READERS['records'](corpora.Corpus('x', []), Path('long.csv')) for o in blocks)
    assert n == 30_000_000 and time.process_time() - t < 30

@posix
def test_odd_names_in_a_folder():
    folder = Path('in')
    folder.mkdir()
    for name in (b'a\xff.txt', b'new\nline.txt', b'esc\x1b[31m.txt', b'pipe|.txt', b'plain.txt'): Path(os.fsdecode(bytes(folder) + b'/' + name)).write_text('to be or not')
    (folder/'dangling.txt').symlink_to('nowhere')
    (folder/'loop.txt').symlink_to('loop.txt')
    (folder/'again').symlink_to('.')
    (folder/'more').mkdir()
    (folder/'more'/'up').symlink_to('..')
    (folder/'folder.txt').mkdir()
    os.mkfifo(folder/'pipe.txt')
    (folder/'void.txt').write_bytes(b'')
    for words in (['in'], ['in/**/*.txt'], ['in/**'], ['in/*.txt'], [f'{p}=2' for p in sorted(folder.glob('*n*.txt')) if p.is_file() and not p.is_fifo()]):
        code, out, err = said(nanogpt_prepare, *words, '--tokenizer', 'char', '--out_dir', 'p', '--overwrite')
        assert code == 0, err
        m = verify('p')
        if words[0] != 'in/*.txt' and len(words) == 1: assert sum(s['documents'] for s in m['splits'].values()) == 5
        page = (Path('p')/'README.md').read_text(encoding='utf-8')
        assert '\x1b' not in page and 'new\nline' not in page and '\n' not in m['about']
        for row in page.splitlines():
            if '| 2 |' in row: assert row.replace('\\|', '').count('|') == 7, row
    unread = prepare([p for p in folder.glob('a*.txt')], 'q', tokenizer='char', progress=False, val_fraction=.3)
    assert '\ufffd' in unread['about']

def test_names_of_here(tmp_path):
    (Path('in')).mkdir()
    (Path('in/a.txt')).write_text('to be or not to be')
    for word in ('.', './', '..', str(tmp_path/'in'/'..'/'in')):
        os.chdir(tmp_path/'in')
        name = corpora.open_corpus(word).name
        assert name not in ('', '.', '..') and corpora.open_corpus(word).sources[0].name not in ('', '.', '..')

def test_files_where_folders_are_needed():
    Path('file').write_text('to be or not to be')
    Path('folder').mkdir()
    for words in (['file', '--out_dir', 'file'], ['file', '--out_dir', 'file/x'], ['folder', '--out_dir', 'p'], ['--inspect', 'file'], ['--inspect', 'folder'], ['file/x']):
        refused(said(nanogpt_prepare, *words, '--tokenizer', 'char'))
    Path('p.partial').write_text('mine')
    refused(said(nanogpt_prepare, 'file', '--out_dir', 'p', '--tokenizer', 'char'), 'p.partial')
    assert Path('p.partial').read_text() == 'mine' and Path('file').read_text() == 'to be or not to be'
    for name in ('meta.json', 'tokenizer', 'train_000000.bin'):
        made(f'q{name}')
        path = Path(f'q{name}')/name
        if path.is_dir(): [o.unlink() for o in path.iterdir()]; path.rmdir(); path.write_text('x')
        else: path.unlink(); path.mkdir()
        refused(said(nanogpt_prepare, '--inspect', f'q{name}'))
        refused(said(nanogpt_train, 'tiny', '--dataset', f'q{name}', '--max_steps', 1, '--n_layer', 1, '--device', 'cpu', '--out_dir', 'run'))

JOURNALS = [b'', b'{', b'[]', b'null', b'{"job": 1}', b'['*100_000, b'{"job": {}, "batches": -1, "splits": {}}', b'{"job": {}, "batches": 1, "splits": {"train": 5}}',
            b'{"job": {}, "batches": 1e400, "splits": {}}', b'\xff']

def test_damaged_journals_are_begun_anew(monkeypatch):
    made('good')
    write, n = preparing.ShardWriter.write, []
    def broken(self, ids):
        n.append(1)
        if len(n) % 4 == 3: raise OSError(28, 'No space left on device')
        write(self, ids)
    texts = [o*20_000 for o in TEXTS[:5]]
    made('good2', texts)
    for damage in [None, *JOURNALS]:
        monkeypatch.setattr(preparing.ShardWriter, 'write', broken)
        refuses(lambda: made('p2', texts), 'continues')
        assert (Path('p2.partial')/'journal.json').exists()
        if damage is not None: (Path('p2.partial')/'journal.json').write_bytes(damage)
        monkeypatch.setattr(preparing.ShardWriter, 'write', write)
        del n[:]
        made('p2', texts)
        assert sweep('p2') == sweep('good2'), damage
        import shutil; shutil.rmtree('p2')

def test_other_sources_with_the_same_text_do_not_go_on_with_it(monkeypatch):
    for k in range(3): Path(f'{k}.txt').write_text(TEXTS[k]*20_000)
    write = preparing.ShardWriter.write
    def broken(self, ids):
        if self.n_tokens: raise OSError(28, 'No space left on device')
        write(self, ids)
    monkeypatch.setattr(preparing.ShardWriter, 'write', broken)
    refused(said(nanogpt_prepare, '0.txt', '1.txt', '2.txt', '--tokenizer', 'char', '--workers', 1, '--out_dir', 'p'))
    monkeypatch.setattr(preparing.ShardWriter, 'write', write)
    assert said(nanogpt_prepare, '?.txt', '--tokenizer', 'char', '--workers', 1, '--out_dir', 'p')[0] == 0

def test_a_sample_of_documents_is_counted_by_all_there_are():
    Path('x.jsonl').write_text(''.join(json.dumps(dict(text=f'{o} {k}')) + '\n' for k in range(8) for o in TEXTS[:5]))
    code, out, _ = said(nanogpt_tokenizer, 'train', '--input', 'x.jsonl', '--vocab_size', 270, '--tokenizer_samples', 3, '--out_dir', 'tok')
    assert code == 0 and 'learned from 3 of 40 documents' in out, out

# --- 7. bombs and nonsense --------------------------------------------------------------------------------------------

def test_no_more_workers_than_work(monkeypatch):
    hired, hire = [], bpe._hire
    monkeypatch.setattr(bpe, '_hire', lambda e: (hired.append(1), hire(e))[1])
    Path('x.txt').write_text('word '*9)
    assert said(nanogpt_prepare, 'x.txt', '--tokenizer', 'char', '--workers', 300, '--out_dir', 'p')[0] == 0
    assert said(nanogpt_tokenizer, 'encode', '--tokenizer', 'p/tokenizer', '--input', 'x.txt', '--workers', 300)[0] == 0
    assert len(hired) <= 2
    asked = []
    monkeypatch.setattr(preparing.Tokenizer, 'train', lambda *a, workers=None, **kw: asked.append(workers) or CharTokenizer('a'))
    said(nanogpt_tokenizer, 'train', '--input', 'x.txt', '--workers', 300, '--out_dir', 'tok')
    assert asked == [1]

def test_no_more_shards_than_a_manifest_can_name(monkeypatch):
    monkeypatch.setattr(shards, 'MOST_SHARDS', 3)
    refuses(lambda: made(shard_size=1), '--shard_size')
    assert not Path('p').exists()

@pytest.mark.parametrize('words', [['x.txt=nan'], ['x.txt=inf'], ['x.txt=-1'], ['x.txt=1e400'], ['x.txt=1e-300'], ['x.txt', '--val_fraction', 'nan'], ['x.txt', '--val_fraction', 'inf'],
                                   ['x.txt', '--workers', '-1'], ['x.txt', '--shard_size', '0'], ['x.jsonl', '--text_field', ''], ['x.jsonl', '--text_field', '.'],
                                   ['x.jsonl', '--text_field', 'a.'*5000], ['x.csv', '--text_field', 'nowhere'], ['x.txt', '--separator', ''.join(map(chr, range(0xd7f0, 0xd7f9)))]])
def test_nonsense_is_a_sentence(words):
    Path('x.txt').write_text('to be or not to be')
    Path('x.jsonl').write_text('{"text": "to be"}\n'*9)
    Path('x.csv').write_text('a,b\n1,2\n')
    code, out, err = said(nanogpt_prepare, *words, '--tokenizer', 'char', '--out_dir', 'p')
    if words[-1] != '.' and '--separator' not in words: refused((code, out, err))
    assert 'Traceback' not in err and 'fault' not in err
    refuses(lambda: prepare(['a b', 'c d'], 'q', val_fraction=float('nan')), 'val_fraction')
    refuses(lambda: prepare([corpora.Source('x', [('text', 'abc')], weight=float('nan'))], 'q', tokenizer='char'), 'weight')

def test_records_that_are_bombs():
    for line in (b'['*100_000, b'{"text": ' + b'[{"a":'*100_000, b'{"text": 1' + b'0'*5000 + b'}', b'{"text": NaN}', b'{"text": -1e999}', b'null', b'"\\ud800"', b'{"text": [[[[]]]]}'):
        with pytest.raises(ValueError): record_text(parse_line(line)[0], 'text')
    for name in ('x.json', 'x.jsonl'):
        Path(name).write_bytes(b'[{"text": "good"}, ' + b'['*100_000)
        refused(said(nanogpt_prepare, name, '--tokenizer', 'char', '--out_dir', 'p'))

@pytest.mark.skipif(sys.platform != 'linux', reason='limits of Linux')
def test_packed_bombs_stay_in_constant_memory():
    with gzip.open('bomb.txt.gz', 'wb') as f:
        for _ in range(100): f.write(b'to be or not '*100_000)                      # 130 MB
    with gzip.open('zeros.jsonl.gz', 'wb') as f:
        for _ in range(300): f.write(bytes(10**6))                                  # one line of 300 MB
    code = '''
import resource, sys
from nanogpt_lit.corpus import open_corpus
from nanogpt_lit.tokenizer import CharTokenizer
used = next(int(l.split()[1]) for l in open('/proc/self/status') if l.startswith('VmData'))*1024
limit = used + (40 if 'txt' in sys.argv[1] else 700)*2**20
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
corpus = open_corpus(sys.argv[1])
print(sum(len(p.text) for p in corpus.texts()), dict(corpus.skipped))
'''
    for name, hint in (('bomb.txt.gz', '130000000'), ('zeros.jsonl.gz', 'line of more')):
        r = run_argv([sys.executable, '-c', code, name], capture_output=True, text=True, timeout=100, fresh=True)
        assert r.returncode == 0 and hint in r.stdout, (r.stdout, r.stderr[-500:])

@pytest.mark.parametrize('env', [dict(RANK='x', WORLD_SIZE='2'), dict(RANK='0', WORLD_SIZE=''), dict(RANK='', WORLD_SIZE='2'), dict(RANK='5', WORLD_SIZE='2'), dict(RANK='-1', WORLD_SIZE='2'),
                                 dict(RANK='0', WORLD_SIZE='1e3'), dict(SLURM_PROCID='a', SLURM_NTASKS='4'), dict(SLURM_ARRAY_TASK_ID='5', SLURM_ARRAY_TASK_COUNT='4', SLURM_ARRAY_TASK_MIN='x'),
                                 dict(SLURM_ARRAY_TASK_ID='5', SLURM_ARRAY_TASK_COUNT='4', SLURM_ARRAY_TASK_MIN='0'), dict(RANK='0', WORLD_SIZE='9'*5000)])
def test_environments_that_make_no_sense(env): refuses(lambda: who_am_i(env), '=', 'unset')

def test_a_journal_interval_that_is_no_number(monkeypatch):
    monkeypatch.setenv('NANOGPT_LIT_JOURNAL_S', 'soon')
    refuses(made, 'NANOGPT_LIT_JOURNAL_S')

# --- 8., 9. pictures and vocabularies ---------------------------------------------------------------------------------

@posix
def test_pictures_are_written_whole():
    made()
    Path('real.png').write_text('mine')
    Path('link.png').symlink_to('real.png')
    assert said(nanogpt_prepare, '--inspect', 'p', '--output', 'link.png')[0] == 0
    assert Path('link.png').is_symlink() and Path('real.png').read_bytes()[:4] == b'\x89PNG'
    Path('folder.png').mkdir()
    refused(said(nanogpt_prepare, '--inspect', 'p', '--output', 'folder.png'), 'folder')
    for kind in ('svg', 'pdf'): assert said(nanogpt_prepare, '--inspect', 'p', '--output', f'new/x.{kind}')[0] == 0 and Path(f'new/x.{kind}').stat().st_size > 1000

def test_a_vocabulary_is_not_replaced_unasked():
    Path('x.txt').write_text('to be or not to be')
    Path('y.txt').write_text('quite another text')
    train = lambda name, *words: said(nanogpt_tokenizer, 'train', '--kind', 'char', '--input', name, '--out_dir', 'tok', *words)
    assert train('x.txt')[0] == 0
    before = sweep('tok')
    refused(train('y.txt'), '--overwrite', 'tok')
    assert sweep('tok') == before
    assert train('y.txt', '--overwrite')[0] == 0 and load_tokenizer('tok').hash == CharTokenizer('quite another text').hash
    for name, content in (('tokenizer.json', '{"my": "own"}'), ('tokenizer_config.json', '{"model_max_length": 5}')):
        there = sweep('tok')
        (Path('tok')/name).write_text(content)
        refused(train('x.txt', '--overwrite'), name)
        assert (Path('tok')/name).read_text() == content
        (Path('tok')/name).write_bytes(there[name])

# --- everything at random: NANOGPT_LIT_FUZZ=7 is another series, NANOGPT_LIT_CASES=5000 a long one -----------------------

CASES = int(os.environ.get('NANOGPT_LIT_CASES') or (1000 if SLOW else 100))

def mutated(data, rng):
    "The same bytes, damaged in one of several ways"
    how, at = rng.randrange(8), rng.randrange(len(data) + 1)
    if how == 0: return data[:at]
    if how == 1: return data[:at] + rng.randbytes(rng.randrange(1, 20)) + data[at:]
    if how == 2: return b''
    if how == 3: return data[:at] + bytes([rng.randrange(256)]) + data[at + 1:]
    if how == 4: return data + data[at:]
    if how == 5: return re.sub(rb'\d+', lambda m: rng.choice([m[0], b'-1', b'0', b'1e999', b'9'*30, b'null', b'"x"']), data)
    if how == 6: return re.sub(rb'"[^"]{0,30}"', lambda m: rng.choice([m[0]]*5 + [b'null', b'[]', b'{}', b'"../x"', b'5']), data)
    return data[:at] + rng.choice([b'\0', b'\xff', b'\r', b'"', b'[', b'{', b'\n', b'\xed\xa0\x80', b'\x1b[2J'])*rng.choice([1, 3000]) + data[at:]

def fair(result, where):
    code, out, err = result
    assert code in (0, 1) and 'Traceback' not in err and 'fault of nanogpt_lit' not in err, (where, code, err[-600:])
    assert '\x1b' not in out + err, where
    if code: assert err.strip().splitlines()[-1].startswith('error: ') , (where, err)

def test_prepared_folders_at_random(whole, tmp_path):
    import shutil
    rng = random.Random(int(os.environ.get('NANOGPT_LIT_FUZZ', 1)))
    files = [p.relative_to(whole) for p in sorted(whole.rglob('*')) if p.is_file()]
    for case in range(CASES):
        shutil.rmtree('p', ignore_errors=True)
        copied(whole)
        name = rng.choice(files + [Path('meta.json')]*6)
        (Path('p')/name).write_bytes(mutated((whole/name).read_bytes(), rng))
        where = (case, str(name), (Path('p')/name).read_bytes()[:300])
        fair(said(nanogpt_prepare, '--inspect', 'p'), where)
        for f in (lambda: TokenData('p')[:3], lambda: tokens_at(f'file://{tmp_path}/p', cache='far')[:3], lambda: made(overwrite=case % 2 == 0)):
            try: f()
            except UserError: pass
            except Exception as e: raise AssertionError((where, repr(e))) from e
        if case % 12 == 0: fair(said(nanogpt_train, 'tiny', '--dataset', 'p', '--max_steps', 1, '--n_layer', 1, '--n_embd', 16, '--block_size', 8, '--device', 'cpu', '--out_dir', 'run'), where)

def test_inputs_at_random():
    import pyarrow as pa, pyarrow.feather as feather, pyarrow.parquet as pq
    rng = random.Random(int(os.environ.get('NANOGPT_LIT_FUZZ', 2)))
    records = [dict(text=o) for o in TEXTS] + [dict(messages=[dict(role='user', content='a'), dict(role='assistant', content='b')])]
    table, packed = pa.table(dict(text=TEXTS)), io.BytesIO()
    pq.write_table(table, packed)
    arrow = io.BytesIO()
    with pa.ipc.new_file(arrow, table.schema) as f: f.write_table(table)
    stream = io.BytesIO()
    with pa.ipc.new_stream(stream, table.schema) as f: f.write_table(table)
    lines = '\n'.join(map(json.dumps, records)).encode()
    import bz2, lzma
    inputs = {'x.jsonl': lines, 'x.json': json.dumps(records).encode(), 'x.csv': b'id,text\n' + b''.join(b'%d,"%s"\n' % (i, o.encode()) for i, o in enumerate(TEXTS)),
              'x.tsv': b'text\n' + '\n'.join(TEXTS).encode(), 'x.txt': '\n'.join(TEXTS).encode(), 'x.parquet': packed.getvalue(), 'x.arrow': arrow.getvalue(), 'y.arrow': stream.getvalue(),
              'x.jsonl.gz': gzip.compress(lines), 'x.jsonl.bz2': bz2.compress(lines), 'x.jsonl.xz': lzma.compress(lines), 'x.py': b'def f(): pass\n'*9}
    CharTokenizer(''.join(TEXTS)).save('tok')
    for case in range(2*CASES):
        name = rng.choice([*inputs])
        Path(name).write_bytes(data := mutated(inputs[name], rng))
        where = (case, name, data[:300])
        extra = rng.choice([[], ['--errors', 'skip'], ['--errors', 'replace'], ['--dedup'], ['--separator', 'be'], ['--min_chars', 12], ['--max_data_size', 3]])
        fair(said(nanogpt_prepare, name, '--tokenizer', 'char', '--workers', 1, '--out_dir', 'p', '--overwrite', *extra), where)
        if case % 3 == 0: fair(said(nanogpt_tokenizer, 'encode', '--tokenizer', 'tok', '--input', name, '--output', 'ids.npy'), where)
        if case % 3 == 1: fair(said(nanogpt_tokenizer, 'train', '--input', name, '--vocab_size', 270, '--out_dir', 'new', '--overwrite'), where)
        Path(name).unlink()

def test_token_files_at_random():
    rng = random.Random(int(os.environ.get('NANOGPT_LIT_FUZZ', 3)))
    header = np.zeros(256, '<i4')
    header[:3] = 20240520, 1, 500
    ids, buffer = np.arange(500) % 60, io.BytesIO()
    np.save(buffer, ids.astype('<u2'))
    inputs = {'x.npy': buffer.getvalue(), 'x.bin': ids.astype('<u2').tobytes(), 'y.bin': header.tobytes() + ids.astype('<u2').tobytes()}
    for case in range(3000):
        name = rng.choice([*inputs])
        data = mutated(inputs[name][:rng.choice([90, 140, 10**6])], rng) if name == 'x.npy' else mutated(inputs[name], rng)
        Path(name).write_bytes(data)
        try: sum(TokenData(name, vocab_size=rng.choice([None, 60]))[:].tolist())
        except UserError: pass
        except Exception as e: raise AssertionError((case, name, data[:200], repr(e))) from e

def test_no_file_of_ours_is_read_beyond_its_bound(tmp_path):
    "A sparse file of ten gigabytes is refused before it is read, and a device without an end too"
    for name in ('meta.json', 'adapter.json'):
        with open(tmp_path/name, 'wb') as f: f.truncate(10*2**30)
    for read in (read_json, read_small):
        with pytest.raises(UserError, match='far too many'): read(tmp_path/'adapter.json')
        with pytest.raises(UserError, match='not a file'): read('/dev/zero')
        with pytest.raises(UserError, match='does not exist'): read(tmp_path/'none.json')
    with pytest.raises(UserError, match='far too many'): load_manifest(tmp_path)
    (tmp_path/'small.json').write_text('{"n": [1, 2]}')
    assert read_json(tmp_path/'small.json', {'n': [COUNT]}, most=13) == {'n': [1, 2]}
    with pytest.raises(UserError, match='has 13 bytes, far too many'): read_json(tmp_path/'small.json', most=12)
    with pytest.raises(UserError, match='x.json is damaged'): parse_json(b'['*10**6, {}, 'x.json')
