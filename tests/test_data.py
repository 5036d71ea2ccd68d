"""Preparation as a shell sees it: the same bytes for any number of workers and after any number of kills, flat memory, broken input.

Every test runs the real `nanogpt-prepare` in processes of its own; what it does inside one process is tested in the notebooks.
"""
import bz2, csv, gzip, hashlib, json, lzma, os, random, signal, subprocess, sys, time
from functools import cache
from pathlib import Path
import pytest
import harness
from harness import BIN, Popen, run
from nanogpt_lit.shards import DataFolder

linux = pytest.mark.skipif(sys.platform != 'linux', reason='/proc and resource limits of Linux')

def prepare(*words, cwd, **kw):
    return run('nanogpt-prepare', *words, cwd=cwd, **kw)

def fingerprint(folder): # names and content of all files
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.rglob('*')) if p.is_file()}

def good(r):
    assert r.returncode == 0, r.stdout + r.stderr
    assert 'Traceback' not in r.stderr, r.stderr
    return r

def refused(r, *parts):
    "One line about the mistake, exit code 1"
    err = r.stderr.strip().splitlines()
    assert r.returncode == 1 and len(err) == 1 and err[0].startswith('error: '), (r.returncode, r.stdout, r.stderr)
    for p in parts: assert p in err[0], (p, err[0])

def meta(folder): return json.loads((folder/'meta.json').read_text(encoding='utf-8'))

# --- a corpus of every kind of file ---------------------------------------------------------------------------------

@cache
def story(i):
    words = 'the a cat dog tree sky ran sat saw blue old and then it was'.split()
    rng = random.Random(i)
    return ' '.join(rng.choice(words) for _ in range(rng.randrange(20, 1500))) + f'. Number {i}.'

@pytest.fixture(scope='session')
def kinds(tmp_path_factory):
    "Sources of each kind, some of whose documents occur twice"
    import pyarrow as pa, pyarrow.parquet as pq
    d = tmp_path_factory.mktemp('kinds')
    def jsonl(r): return ''.join(json.dumps(dict(text=story(i))) + '\n' for i in r).encode()
    (d/'plain.jsonl').write_bytes(jsonl(range(200)) + b'{"text": "cut o\n')
    (d/'packed.jsonl.gz').write_bytes(gzip.compress(jsonl(range(150, 400))))
    (d/'stories.txt.xz').write_bytes(lzma.compress('\n<|endoftext|>\n'.join(map(story, range(400, 600))).encode()))
    (d/'one.txt.bz2').write_bytes(bz2.compress(story(0).encode()))
    with pa.output_stream(d/'more.txt.zst', compression='zstd') as f: f.write('\n<|endoftext|>\n'.join(map(story, range(600, 700))).encode())
    pq.write_table(pa.table(dict(text=[*map(story, range(690, 900))])), d/'table.parquet', row_group_size=50)
    with open(d/'rows.csv', 'w', newline='', encoding='utf-8') as f: csv.writer(f).writerows([('id', 'text'), *((i, story(i)) for i in range(900, 1000))])
    chats = [dict(conversations=[dict(role='user', content=f'<|im_end|> {i}?'), dict(role='assistant', content=story(i))]) for i in range(1000, 1100)]
    (d/'chats.json').write_text(json.dumps(chats), encoding='utf-8')
    return d

ALL = ['plain.jsonl', 'packed.jsonl.gz', 'stories.txt.xz=2', 'one.txt.bz2', 'more.txt.zst=.5', 'table.parquet', 'rows.csv', 'chats.json']
HOW = ['--separator', '<|endoftext|>', '--dedup', '--min_chars', '150', '--tokenizer_vocab_size', '400', '--shard_size', '100000']

@pytest.fixture(scope='session')
def quiet(kinds, tmp_path_factory):
    "The result of an undisturbed run with one worker"
    out = tmp_path_factory.mktemp('quiet')/'out'
    good(prepare(*ALL, *HOW, '--workers', 1, '--out_dir', out, cwd=kinds))
    return out

def test_every_kind_of_source(quiet):
    m = meta(quiet)
    sources, lines = {s['name']: s for s in m['sources']}, [story(i) for i in range(1000)]
    assert [*sources] == [o.partition('=')[0] for o in ALL]
    assert m['skipped']['not JSON'] == 1 and m['skipped']['duplicate'] >= 50 and m['skipped_examples'][0].startswith('plain.jsonl line')
    long = [len(o) >= 150 for o in lines]
    assert sources['plain.jsonl']['documents'] == sum(long[:200]) and sources['packed.jsonl.gz']['documents'] == sum(long[200:400])
    twice = sources['stories.txt.xz']
    assert twice['documents'] == sum(long[400:600]) and twice['train']['documents'] == 2*(twice['documents'] - twice['val']['documents'])
    for split, counted in m['splits'].items(): # what the sources gave adds up
        for k in ('tokens', 'documents', 'characters', 'bytes'): assert counted[k] == sum(o[split][k] for o in m['sources']), (split, k)
    assert sources['one.txt.bz2']['documents'] == 0 and 30 < sources['more.txt.zst']['documents'] < 70
    assert sources['rows.csv']['documents'] == sum(long[900:1000]) and sources['chats.json']['documents'] > 50
    from nanogpt_lit.loader import TokenData
    text = {s: TokenData(quiet, s).tokenizer().decode(TokenData(quiet, s)[:]) for s in ('train', 'val')}
    for i in (*range(0, 200, 7), *range(200, 600, 9), *range(900, 1000, 5)): # whole, and in one split only
        if long[i]: assert (lines[i] in text['train']) != (lines[i] in text['val']), i
    for i in range(400, 600): # of weight 2: twice in training, once in validation
        if long[i]: assert (text['train'].count(lines[i]), text['val'].count(lines[i])) in ((2, 0), (0, 1))

def test_markers_of_a_chat_are_ids_and_typed_ones_are_text(quiet):
    import numpy as np
    from nanogpt_lit.tokenizer import load_tokenizer
    tok = load_tokenizer(quiet/'tokenizer')
    ids = np.concatenate([np.fromfile(p, '<u2') for p in sorted(quiet.glob('*.bin'))])
    begin, end = (int((ids == tok.special_tokens[o]).sum()) for o in ('<|im_start|>', '<|im_end|>'))
    chats = next(s for s in meta(quiet)['sources'] if s['name'] == 'chats.json')['documents']
    assert begin == end == 2*chats

def test_two_workers_make_the_same_bytes(kinds, quiet, tmp_path):
    good(prepare(*ALL, *HOW, '--workers', 2, '--out_dir', tmp_path/'two', cwd=kinds))
    assert fingerprint(tmp_path/'two') == fingerprint(quiet)

def test_validation_files(kinds, tmp_path):
    r = good(prepare('packed.jsonl.gz', '--val_input', 'plain.jsonl', '--dedup', '--tokenizer', 'char', '--out_dir', tmp_path/'out', cwd=kinds))
    m = meta(tmp_path/'out')
    assert (m['splits']['val']['documents'], m['splits']['train']['documents']) == (200, 200) # the copies in the training file are left out
    assert m['skipped']['duplicate'] == 50 and 'given as such' in (tmp_path/'out'/'README.md').read_text(encoding='utf-8'), r.stdout

def test_tokens_of_each_source_by_hand(tmp_path):
    "Two sources, one of them twice: what the manifest says about each is what is in the shards"
    import numpy as np
    (tmp_path/'ab.jsonl').write_text(''.join(json.dumps(dict(text='ab'*n)) + '\n' for n in range(1, 31)))
    (tmp_path/'xy.txt').write_text('\n'.join('xy'*n for n in range(1, 31)))
    good(prepare('ab.jsonl=2', 'xy.txt', '--separator', r'\n', '--tokenizer', 'char', '--val_fraction', .2, '--out_dir', 'out', cwd=tmp_path))
    ab, xy = meta(tmp_path/'out')['sources']
    from nanogpt_lit.loader import TokenData
    for split in ('train', 'val'):
        data = TokenData(tmp_path/'out', split)
        lines = data.tokenizer().decode(data[:]).splitlines()
        for source, letters in ((ab, 'ab'), (xy, 'xy')):
            mine = [o for o in lines if o[0] in letters]
            got = dict(documents=len(mine), characters=sum(map(len, mine)), bytes=sum(map(len, mine)), tokens=sum(map(len, mine)) + len(mine))
            assert source[split] == got, (split, letters)
    assert (ab['documents'], xy['documents']) == (30, 30) and ab['train']['documents'] == 2*(30 - ab['val']['documents'])
    assert '| ab.jsonl | 2 | 30 |' in (tmp_path/'out'/'README.md').read_text(encoding='utf-8')

# --- data sets of the Hub, without a network ------------------------------------------------------------------------

FAKE = '''
"Stands for the `datasets` library: rows of a made-up hub, streamed; says what it was asked for"
import json, os
class DatasetNotFoundError(FileNotFoundError): pass
def load_dataset(path, name=None, split=None, streaming=False, **kw):
    with open('asked.jsonl', 'a') as f: f.write(json.dumps(dict(path=path, name=name, split=split, streaming=streaming) | kw) + chr(10))
    if 'gone' in path: raise DatasetNotFoundError(f"Dataset '{path}' doesn't exist on the Hub or cannot be accessed.")
    if name is None and 'many' in path: raise ValueError("Config name is missing. Please pick one among: ['en', 'de']")
    for i in range(300):
        if i == 250 and os.environ.get('BREAKS'): raise ConnectionError('peer closed the connection')
        yield dict(id=i, text=f'story {i} of {path} ' * 9, story=dict(body=f'body {i}'))
'''

@pytest.fixture
def hub(tmp_path):
    "A folder with a made-up `datasets` library, and the environment in which it is found"
    lib = tmp_path/'lib'/'datasets'
    (lib/'utils').mkdir(parents=True)
    (lib/'__init__.py').write_text(FAKE)
    (lib/'utils'/'__init__.py').touch()
    (lib/'utils'/'logging.py').write_text('def disable_progress_bar(): pass')
    return os.environ | dict(PYTHONPATH=str(tmp_path/'lib'), NANOGPT_LIT_JOURNAL_S='0')

@pytest.mark.parametrize('words, asked', [
    (['tinystories'], dict(path='roneneldan/TinyStories', name=None)), (['openwebtext'], dict(path='Skylion007/openwebtext', name=None)),
    (['fineweb_edu'], dict(path='HuggingFaceFW/fineweb-edu', name='sample-10BT')), (['shakespeare_char'], dict(path='text', sample_by='document')),
    (['hf:owner/many', '--dataset_config', 'de', '--dataset_split', 'test'], dict(path='owner/many', name='de', split='test')),
    (['hf:plain'], dict(path='plain'))], ids=lambda o: o[0] if isinstance(o, list) else '')
def test_a_data_set_of_the_hub_is_streamed(hub, tmp_path, words, asked):
    good(prepare(*words, '--max_data_size', 200, '--tokenizer', 'char', '--out_dir', 'out', cwd=tmp_path, env=hub))
    said = json.loads((tmp_path/'asked.jsonl').read_text().splitlines()[-1])
    assert said.items() >= (dict(streaming=True, split='train') | asked).items(), said
    m = meta(tmp_path/'out')
    assert sum(s['documents'] for s in m['splits'].values()) == 200 and .05 < m['splits']['val']['documents']/200 < .15

def test_a_field_inside_a_row(hub, tmp_path):
    good(prepare('hf:o/n', '--text_field', 'story.body', '--tokenizer', 'char', '--out_dir', 'out', cwd=tmp_path, env=hub))
    assert sum(s['characters'] for s in meta(tmp_path/'out')['splits'].values()) == sum(len(f'body {i}') for i in range(300))

def test_a_stream_that_breaks_off_is_gone_on_with(hub, tmp_path):
    words = ['hf:o/n', '--tokenizer', 'gpt2-like', '--shard_size', 2000, '--out_dir', 'out', '--workers', 1]
    from nanogpt_lit.tokenizer import Tokenizer
    Tokenizer.train(['story of body '*99], 262, progress=False).save(tmp_path/'gpt2-like')
    refused(prepare(*words, cwd=tmp_path, env=hub | dict(BREAKS='1')), 'could not be read from the network', 'run the same command again')
    assert not (tmp_path/'out').exists()
    good(prepare(*words, cwd=tmp_path, env=hub))
    words[-3] = 'whole'
    good(prepare(*words, cwd=tmp_path, env=hub))
    assert fingerprint(tmp_path/'out') == fingerprint(tmp_path/'whole')

@pytest.mark.parametrize('words, hints', [(['hf:o/gone'], ['there is no data set o/gone', 'check its name']), (['hf:o/many'], ['--dataset_config', "['en', 'de']"]),
                                          (['hf:o/n', '--text_field', 'body'], ["no column 'body' (it has id, text, story)"])])
def test_what_the_hub_refuses_is_one_sentence(hub, tmp_path, words, hints):
    refused(prepare(*words, '--tokenizer', 'char', cwd=tmp_path, env=hub), *hints)
    assert not (tmp_path/'data').exists()

# --- kills ----------------------------------------------------------------------------------------------------------

def wait_for(path, process): harness.wait_for(path.exists, process, may_end=True)

def written(path):
    "When; 0 = not there"
    try: return path.stat().st_mtime_ns
    except OSError: return 0

@pytest.mark.skipif(os.name == 'nt', reason='POSIX signals')
def test_killed_at_random_moments(kinds, quiet, tmp_path):
    "Ten kills; twenty with NANOGPT_LIT_SLOW=1"
    rng, kills, rounds, resumed = random.Random(0), 0, 0, 0
    env = os.environ | dict(NANOGPT_LIT_JOURNAL_S='0', PYTHONUNBUFFERED='1')
    while kills < (20 if 'NANOGPT_LIT_SLOW' in os.environ else 10):
        out, tries = tmp_path/f'round{rounds}', 0
        while not out.exists():
            words = [str(BIN/'nanogpt-prepare'), *ALL, *HOW, '--workers', str(1 + tries % 2), '--out_dir', str(out)]
            journal = Path(f'{out}.partial')/'journal.json'
            before = written(journal)
            p = Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=kinds, env=env)
            if tries < 8:
                if rng.random() < .8: harness.wait_for(lambda: written(journal) not in (0, before), p, may_end=True) # it has gone on from there
                time.sleep(rng.uniform(0, .15))
                p.send_signal(signal.SIGKILL)
            said, err = p.communicate(timeout=300)
            kills += p.returncode == -signal.SIGKILL
            assert p.returncode in (0, -signal.SIGKILL), err
            assert (out/'meta.json').exists() == out.exists()
            assert 'Traceback' not in err, err
            tries, resumed = tries + 1, resumed + ('continuing' in said)
        got, want = fingerprint(out), fingerprint(quiet)
        for name in DataFolder.SERVICE: got.pop(name, None)          # a kill after the folder had its name, before these were gone
        assert got == want, f'round {rounds}, after {tries} tries: {[o for o in want.keys() | got.keys() if got.get(o) != want.get(o)]}'
        rounds += 1
    print(f'{kills} kills in {rounds} rounds, {resumed} times continued')
    assert rounds > 1 and resumed >= 3, (rounds, resumed)

@linux
def test_a_killed_worker_is_reported_and_the_work_goes_on(kinds, quiet, tmp_path):
    repeated(tmp_path/'long.txt', 4)
    words = ['long.txt', '--tokenizer', quiet/'tokenizer', '--workers', 2, '--out_dir']
    p = Popen([str(BIN/'nanogpt-prepare'), *map(str, words), 'out'], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path,
                         env=os.environ | dict(NANOGPT_LIT_JOURNAL_S='0'))
    wait_for(tmp_path/'out.partial'/'journal.json', p)
    os.kill(family(p.pid)[-1], signal.SIGKILL)
    out, err = p.communicate(timeout=120)
    refused(subprocess.CompletedProcess([], p.returncode, out, err.splitlines()[-1] + '\n'), 'worker process was killed', 'fewer --workers')
    assert 'Traceback' not in err and not (tmp_path/'out').exists()
    assert 'continuing' in good(prepare(*words, 'out', cwd=tmp_path)).stdout
    good(prepare(*words, 'whole', cwd=tmp_path))
    assert fingerprint(tmp_path/'out') == fingerprint(tmp_path/'whole')

# --- memory ---------------------------------------------------------------------------------------------------------

def peak_mb(*words, cwd):
    "Sum over the processes of a run of the most memory that each ever held. A child of the nursery would have held its imports"
    p = Popen([str(BIN/'nanogpt-prepare'), *map(str, words)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=cwd, fresh=True)
    peaks = {}
    while p.poll() is None:
        for pid in family(p.pid): peaks[pid] = max(peaks.get(pid, 0), high_water(pid))
        time.sleep(.05)
    assert p.returncode == 0, p.stderr.read()
    return sum(peaks.values())/1024

def high_water(pid): # KiB
    try: lines = Path(f'/proc/{pid}/status').read_text().splitlines()
    except OSError: return 0
    return next((int(o.split()[1]) for o in lines if o.startswith('VmHWM')), 0)

def family(pid):
    try: children = Path(f'/proc/{pid}/task/{pid}/children').read_text().split()
    except OSError: children = []
    return [pid, *(q for c in children for q in family(int(c)))]

def repeated(path, mb, make=lambda i: story(i) + '\n'):
    part, n = ''.join(map(make, range(2000))).encode(), 0
    with open(path, 'wb') as f:
        while n < mb*1e6: n += f.write(part)

@linux
@pytest.mark.parametrize('kind', ['text', 'jsonl'])
def test_memory_does_not_grow_with_the_corpus(kind, tmp_path):
    make = dict(text=lambda i: story(i) + '\n', jsonl=lambda i: json.dumps(dict(text=story(i))) + '\n')[kind]
    name, peaks = 'text.txt' if kind == 'text' else 'text.jsonl', {}
    for mb in (4, 16):
        repeated(tmp_path/name, mb, make)
        peaks[mb] = peak_mb(name, '--tokenizer', 'char', '--workers', 2, '--out_dir', f'out{mb}', cwd=tmp_path)
    assert peaks[16] < peaks[4] + 9, peaks

@linux
@pytest.mark.skipif('NANOGPT_LIT_SLOW' not in os.environ, reason='slow: set NANOGPT_LIT_SLOW=1')
def test_half_a_gigabyte(tmp_path):
    repeated(tmp_path/'text.txt', 500)
    repeated(tmp_path/'small.txt', 20)
    good(prepare('small.txt', '--tokenizer_vocab_size', 400, '--out_dir', 'small', cwd=tmp_path))
    how = ['--tokenizer', 'small/tokenizer', '--workers', 2]
    small, large = (peak_mb(f, *how, '--out_dir', f'out-{f}', cwd=tmp_path) for f in ('small.txt', 'text.txt'))
    print(f'20 MB: {small:.0f} MB of memory in all processes; 500 MB: {large:.0f} MB')
    assert large < 1.1*small + 10

# --- nasty input ----------------------------------------------------------------------------------------------------

def test_odd_texts_are_kept_and_counted(tmp_path):
    (tmp_path/'crlf.txt').write_bytes(b'one\r\ntwo\r\n')
    (tmp_path/'nul.txt').write_bytes(b'a text with \0 a few \0 of them')
    (tmp_path/'bom.txt').write_bytes(b'\xef\xbb\xbfmarked')
    (tmp_path/'no_end.txt').write_bytes('no line end at the end 皇马'.encode())
    (tmp_path/'void.txt').write_bytes(b'')
    r = good(prepare('.', '--tokenizer', 'char', '--out_dir', 'out', cwd=tmp_path))
    m = meta(tmp_path/'out')
    assert m['noted'] == {'line ends of Windows (CR LF)': 2, 'NUL characters': 2}
    assert m['skipped'] == {'byte-order mark dropped': 1, 'empty document': 1} and 'void.txt: empty document' in m['skipped_examples']
    assert 'void.txt' in r.stdout and 'NUL' in r.stdout
    assert sum(s['documents'] for s in m['splits'].values()) == 4

def test_broken_records_are_counted_by_reason_and_line(tmp_path):
    lines = [b'{"text": "good"}', b'{"text": "cut', b'{"txt": "other"}', b'{"text": {"nested": "x"}}', b'{"text": null}', b'{"text": ""}', b'[1, 2]',
             b'{"text": "\xff"}', b'', b'[' * 50_000, b'{"text": "\\ud800"}', b'{"text": "also good"}', b'{"text": "last, without a line end"}']
    (tmp_path/'bad.jsonl').write_bytes(b'\n'.join(lines))
    good(prepare('bad.jsonl', '--tokenizer', 'char', '--val_fraction', '.4', '--out_dir', 'out', cwd=tmp_path))
    m = meta(tmp_path/'out')
    assert m['skipped'] == {'not JSON': 2, "no field 'text'": 1, "field 'text' is not a text": 2, 'empty document': 1, 'not a record': 1,
                            'not UTF-8': 1, 'half a surrogate pair': 1}
    assert 'bad.jsonl line 2: not JSON' in m['skipped_examples'] and 'bad.jsonl line 8: not UTF-8' in m['skipped_examples']
    assert sum(s['documents'] for s in m['splits'].values()) == 3

def test_nested_field(tmp_path):
    (tmp_path/'n.jsonl').write_text(''.join(json.dumps(dict(meta=dict(body=story(i)))) + '\n' for i in range(20)))
    good(prepare('n.jsonl', '--text_field', 'meta.body', '--tokenizer', 'char', '--out_dir', 'out', cwd=tmp_path))
    assert sum(s['documents'] for s in meta(tmp_path/'out')['splits'].values()) == 20

@linux
def test_a_line_of_50_mb(tmp_path):
    with open(tmp_path/'wide.jsonl', 'w') as f:
        for i in range(100): f.write(json.dumps(dict(text=story(i))) + '\n')
        f.write(json.dumps(dict(text='wide ' * 10_000_000)) + '\n')
    peak = peak_mb('wide.jsonl', '--tokenizer', 'char', '--workers', 1, '--out_dir', 'out', cwd=tmp_path)
    assert sum(s['characters'] for s in meta(tmp_path/'out')['splits'].values()) > 50_000_000
    assert peak < 600, peak # the line, its text and its pieces

PACK = dict(gz=gzip.compress, bz2=bz2.compress, xz=lzma.compress)

@pytest.mark.parametrize('name, content, hints', [
    *((f'half.jsonl.{k}', lambda k=k: PACK[k](''.join(json.dumps(dict(text=story(i))) + '\n' for i in range(500)).encode())[:-500],
       [f'half.jsonl.{k} is damaged or cut short', 'get it again']) for k in PACK),
    ('half.json', lambda: json.dumps([dict(text=story(i)) for i in range(500)])[:-500].encode(), ['half.json is damaged or cut short', 'record 49']),
    ('half.parquet', b'PAR1' + b'x'*100, ['half.parquet is damaged or cut short']),
    ('latin.txt', 'a line\nK\u00e4se'.encode('latin-1'), ['latin.txt is not UTF-8', 'offset 8', 'line 2']),
    ('wide.txt', 'no mark'.encode('utf-16-le'), ['wide.txt is not UTF-8', 'UTF-16']),
    ('columns.csv', b'a,b\n1,2\n', ["no column 'text'", 'a, b', '--text_field']),
    ('empty.jsonl', b'\n\n', ['is empty']),
], ids=lambda o: o if isinstance(o, str) else '')
def test_damaged_files_are_refused(name, content, hints, tmp_path):
    (tmp_path/name).write_bytes(content() if callable(content) else content)
    refused(prepare(name, '--tokenizer', 'char', '--out_dir', 'out', cwd=tmp_path), *hints)
    assert [p.name for p in tmp_path.iterdir()] == [name]

def test_damaged_files_are_left_out_if_asked_to(tmp_path):
    (tmp_path/'half.txt.gz').write_bytes(gzip.compress(random.Random(0).randbytes(10_000).hex().encode())[:-500])
    (tmp_path/'latin.txt').write_bytes(b'\xe4')
    for i in range(3): (tmp_path/f'good{i}.txt').write_text(story(i))
    good(prepare('.', '--tokenizer', 'char', '--errors', 'skip', '--out_dir', 'out', cwd=tmp_path))
    m = meta(tmp_path/'out')
    assert m['skipped'] == {'file that is damaged or cut short': 1, 'file that is not UTF-8': 1}
    assert sum(s['documents'] for s in m['splits'].values()) == 3 and any('latin.txt' in o for o in m['skipped_examples'])

@pytest.mark.parametrize('name', ['hf:nobody/has-this-data-set', 'tinystories'])
def test_no_network_is_one_sentence(name, tmp_path):
    env = {k: v for k, v in os.environ.items() if not k.lower().endswith('_proxy')} | dict(HF_ENDPOINT='https://hub.invalid')
    refused(prepare(name, '--out_dir', 'out', cwd=tmp_path, env=env), 'network', 'go online', 'give it as a file')
    assert not [*tmp_path.rglob('*.bin')] and not (tmp_path/'out').exists()

@pytest.mark.parametrize('words, hints', [(['tinystorys'], ['did you mean tinystories?']), (['owner/name'], ['hf:owner/name']), (['hf:a/b/c'], ['hf:OWNER/NAME']),
                                          (['thucnews'], ['thuctc.thunlp.org', 'as a file']), (['a.txt=0'], ['weight']), ([], ['nothing to read'])])
def test_names_that_do_not_exist(words, hints, tmp_path): refused(prepare(*words, cwd=tmp_path), *hints)

@linux
def test_full_disk_then_room_again(kinds, quiet, tmp_path):
    import resource
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, resource.RLIM_INFINITY)) # a shard of 200,000 bytes doesn't fit
    words = [*ALL, *HOW, '--workers', 1, '--out_dir', tmp_path/'out']
    refused(prepare(*words, cwd=kinds, preexec_fn=limit), 'could not be written', 'continues')
    assert not (tmp_path/'out').exists()
    good(prepare(*words, cwd=kinds))
    assert fingerprint(tmp_path/'out') == fingerprint(quiet)

# --- inspection -----------------------------------------------------------------------------------------------------

def test_inspect(quiet, tmp_path):
    r = good(prepare('--inspect', quiet, '--output', 'look.png', cwd=tmp_path))
    for part in ('tokens per document', 'bytes per token', 'frequent:', 'gzip', 'duplicate', '— '): assert part in r.stdout, part
    assert (tmp_path/'look.png').read_bytes()[:4] == b'\x89PNG'
    refused(prepare('--inspect', quiet, '--output', 'look.txt', cwd=tmp_path), '.png')
    refused(prepare('--inspect', tmp_path, cwd=tmp_path), 'no meta.json')

@linux
def test_workers_do_not_outlive_a_killed_parent(quiet, tmp_path):
    repeated(tmp_path/'long.txt', 8)
    p = Popen([str(BIN/'nanogpt-prepare'), 'long.txt', '--tokenizer', str(quiet/'tokenizer'), '--workers', '3', '--out_dir', 'out'],
                         stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=tmp_path, env=os.environ | dict(NANOGPT_LIT_JOURNAL_S='0'))
    wait_for(tmp_path/'out.partial'/'journal.json', p)
    workers = family(p.pid)[1:]
    assert len(workers) == 3
    p.send_signal(signal.SIGKILL)
    p.wait()
    for _ in range(200):
        if not any(Path(f'/proc/{o}').exists() for o in workers): return
        time.sleep(.05)
    raise AssertionError('workers are still there, ten seconds after their parent was killed')
