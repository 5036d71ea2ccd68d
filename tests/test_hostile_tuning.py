"""Tuning, preparing instructions and chatting, attacked: foreign files, damaged files, two processes in one folder, nonsense typed.

What is given up is given up in one sentence. Whatever isn't ours is still there afterwards, and a conversation is what it was.
"""
import hashlib, io, json, os, random, shutil, signal, subprocess, sys, threading, time
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path
import numpy as np
import pytest
import torch
import harness
from harness import BIN, SLOW, Popen, quickstart_words, run_argv, small_home, spoken, steps, wait_for

ENV = {**harness.ENV, 'PYTHONUNBUFFERED': '1', 'MPLBACKEND': 'agg'}
USUAL = '--pretrained_checkpoint base --device cpu --num_threads 1 --batch_size 4 --max_new_tokens 4 --generate_interval 0 --eval_iters 1'.split()
FAULT = 'this is a fault of nanogpt_lit'

@pytest.fixture(scope='module')
def home(tmp_path_factory):
    "A folder with a base of three steps, some pairs, and a model tuned on them"
    from nanogpt_lit.config import nanogpt_finetune
    folder = small_home(tmp_path_factory.mktemp('hostile'), pairs=6)
    with chdir(folder):
        for more in (['--max_steps', '2', '--out_dir', 'tuned'], ['--prepare', 'ready']):
            code, said = spoken(nanogpt_finetune, *USUAL, '--input', 'pairs.jsonl', *more)
            assert code == 0, said[-2000:]
    return folder

@pytest.fixture
def tune(home, tmp_path, monkeypatch):
    "`nanogpt-finetune` beside the base: exit code and everything it said"
    from nanogpt_lit.config import nanogpt_finetune
    monkeypatch.chdir(home)
    def call(*words, max_steps=2, source='pairs.jsonl', out=tmp_path/'out'):
        given = [*USUAL, *(['--input', source] if source else []), '--max_steps', max_steps, *(['--out_dir', out] if out is not None else []), *words]
        return spoken(nanogpt_finetune, *given)
    call.out = tmp_path/'out'
    return call

def one_sentence(code, said, *parts):
    "It failed, with one line that has these parts in it"
    errors = [o for o in said.splitlines() if o.startswith('error: ')]
    assert code == 1 and len(errors) == 1 and FAULT not in said and 'Traceback' not in said, said[-1500:]
    for part in parts: assert part in errors[0], errors[0]

def snapshot(folder): return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(Path(folder).rglob('*')) if p.is_file() and not p.is_symlink()}

# --- 1. files of somebody else ----------------------------------------------------------------------------------------

def test_preparing_deletes_nothing_foreign(tune, tmp_path):
    foreign = {'fp.partial/thesis.txt': 'years', 'fp/notes.txt': 'mine', 'fp/tokenizer/notes.txt': 'mine too', 'fp.old/x': 'old'}
    assert tune('--prepare', tmp_path/'fp')[0] == 0
    for name, text in foreign.items():
        (tmp_path/name).parent.mkdir(exist_ok=True)
        (tmp_path/name).write_text(text)
    first = {p.name for p in (tmp_path/'fp').glob('*.bin')}
    assert tune('--prepare', tmp_path/'fp', '--max_data_size', 20)[0] == 0
    for name, text in foreign.items(): assert (tmp_path/name).read_text() == text, name
    assert not first & {p.name for p in (tmp_path/'fp').glob('*.bin')}              # what the first manifest listed has gone
    assert tune(source=tmp_path/'fp')[0] == 0

def test_preparing_where_something_else_is(tune, tmp_path):
    for name in ('meta.json', 'train_000000.bin', 'train_000000-0123456789abcdef.bin', '.hidden', 'tokenizer/tokenizer.json'):
        folder = tmp_path/f'f{name.replace("/", "_")}'
        (folder/name).parent.mkdir(parents=True)
        (folder/name).write_text('mine')
        one_sentence(*tune('--prepare', folder), 'holds something else')
        assert snapshot(folder) == {name: b'mine'}
    (tmp_path/'file').write_text('mine')
    one_sentence(*tune('--prepare', tmp_path/'file'), 'file')
    one_sentence(*tune('--prepare', tmp_path/'file'/'below'))
    one_sentence(*tune('--prepare', ''), 'something else')
    assert (tmp_path/'file').read_text() == 'mine'

@pytest.mark.parametrize('at', ['', 'meta.json', 'tokenizer', 'tokenizer/tokenizer.json'])
def test_preparing_through_a_link(tune, home, tmp_path, at):
    "A link leads to somewhere else, which is not what was named"
    elsewhere, folder = tmp_path/'elsewhere', tmp_path/'fp'
    shutil.copytree(home/'ready', elsewhere)
    shutil.copytree(home/'ready', folder)
    target = folder/at
    shutil.rmtree(target) if target.is_dir() else target.unlink()
    target.symlink_to(elsewhere/at, target_is_directory=(elsewhere/at).is_dir())
    before = snapshot(elsewhere)
    one_sentence(*tune('--prepare', folder, '--max_data_size', 20), 'is a link')
    assert snapshot(elsewhere) == before

@pytest.mark.parametrize('name', ['precious.txt', '../precious.txt', '/etc/passwd', 'tokenizer/tokenizer.json', '', 7, None, 'meta.json'])
def test_a_manifest_that_lies(tune, home, tmp_path, name):
    "Only shards can be listed, and only beside the manifest"
    folder = tmp_path/'fp'
    shutil.copytree(home/'ready', folder)
    for o in (folder, tmp_path): (o/'precious.txt').write_text('mine')
    meta = json.loads((folder/'meta.json').read_text())
    meta['splits']['train'][0]['files']['bin']['name'] = name
    (folder/'meta.json').write_text(json.dumps(meta))
    before = snapshot(folder)
    one_sentence(*tune('--prepare', folder), 'meta.json is damaged')
    one_sentence(*tune(source=folder), 'meta.json is damaged')
    assert snapshot(folder) == before and (tmp_path/'precious.txt').read_text() == 'mine'

def test_preparing_again_after_a_kill(tune, tmp_path):
    "What a killed attempt has left is ours: a name with the checksum of the content, or a temporary one"
    folder, data = tmp_path/'fp', b'\1\0\2\0'
    folder.mkdir()
    (folder/f'train_000000-{hashlib.sha256(data).hexdigest()[:16]}.bin').write_bytes(data)
    (folder/'.train_000001-0123.bin.0123456789ab.part').write_bytes(data)
    assert tune('--prepare', folder)[0] == 0
    assert len([*folder.glob('*.bin')]) == 2 and not [*folder.glob('.*')]
    assert tune(source=folder)[0] == 0

def test_tuning_replaces_nothing_foreign(tune, tmp_path):
    for name in ('config.toml', 'tokenizer/tokenizer.json', 'report.html', 'tuning.json', 'samples/a.txt', 'adapter/x', 'model_00001.pt'):
        folder = tmp_path/name.replace('/', '_')
        (folder/name).parent.mkdir(parents=True)
        (folder/name).write_text('mine')
        one_sentence(*tune(out=folder), 'no run was ever begun there')
        assert snapshot(folder) == {name: b'mine'}
    assert tune(out=tmp_path/'twice')[0] == 0
    (tmp_path/'twice'/'my notes.txt').write_text('mine')
    assert tune(out=tmp_path/'twice')[0] == 0 and (tmp_path/'twice'/'my notes.txt').read_text() == 'mine'

# --- 2. two at a time --------------------------------------------------------------------------------------------------

def start(home, *words):
    given = [str(o) for o in (BIN/'nanogpt-finetune', *USUAL, '--input', 'pairs.jsonl', *words)]
    return Popen(given, cwd=home, env=ENV, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

@pytest.mark.parametrize('more', [(), ('--disable-monitoring',), ('--auto_resume', '--lora_rank', '2')], ids=['new', 'unmonitored', 'resumed'])
def test_two_tunings_in_one_folder(home, tmp_path, more):
    words = ('--out_dir', tmp_path/'out', '--max_steps', 100_000, '--eval_interval', 0, *more)
    first = start(home, *words)
    try:
        line = first.stdout.readline()
        assert 'examples' in line, line
        threading.Thread(target=first.stdout.read, daemon=True).start()
        second = start(home, *words)
        said = second.communicate(timeout=120)[0]
        one_sentence(second.returncode, said, f'process {first.pid}', 'is tuning')
        assert first.poll() is None and not [*(tmp_path/'out').glob('previous-*')]
        wait_for(lambda: max(steps(tmp_path/'out'), default=0))          # before that, nobody has anything to save
        first.send_signal(signal.SIGTERM)
        assert first.wait(60) == 143
    finally: first.kill(); first.wait()
    assert not (tmp_path/'out'/'.lock').exists()

def test_two_tunings_at_the_same_instant(home, tmp_path):
    both = [start(home, '--out_dir', tmp_path/'out', '--max_steps', 200) for _ in range(2)]
    said = [p.communicate(timeout=200)[0] for p in both]
    assert sorted(p.returncode for p in both) == [0, 1], said
    loser = next(i for i, p in enumerate(both) if p.returncode)
    one_sentence(1, said[loser], 'is tuning')
    assert [json.loads(o)['step'] for o in (tmp_path/'out'/'metrics.jsonl').read_text().splitlines()] == [*range(201)]

def test_two_preparations(tune, tmp_path):
    "The second is refused while the first is at work"
    holder = 'import sys\nfrom nanogpt_lit.core import alone_in\nwith alone_in(sys.argv[1], "preparing"): print("ready", flush=True); input()'
    folder = tmp_path/'fp'
    folder.mkdir()
    p = Popen([sys.executable, '-c', holder, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=ENV)
    try:
        assert p.stdout.readline() == 'ready\n'
        one_sentence(*tune('--prepare', folder), f'process {p.pid}', 'is preparing')
    finally: p.communicate('\n')
    assert tune('--prepare', folder)[0] == 0

# --- 3. data that are quietly wrong --------------------------------------------------------------------------------------

@pytest.fixture
def ready(home, tmp_path):
    shutil.copytree(home/'ready', tmp_path/'ready')
    return tmp_path/'ready'

def old_form(folder):
    "The same folder as it was prepared before masks and ends had checksums"
    meta = json.loads((folder/'meta.json').read_text())
    if meta['format'] != 'instructions 2': return
    for split, shards in meta['splits'].items():
        for k, o in enumerate(shards):
            name = f'{split}_{k:06d}'
            for kind, file in o['files'].items(): (folder/file['name']).rename(folder/f'{name}.{kind}')
            shards[k] = dict(name=name, tokens=o['tokens'], examples=o['examples'], sha256=o['files']['bin']['sha256'])
    (folder/'meta.json').write_text(json.dumps(meta | dict(format='instructions 1'), indent=1))

@pytest.mark.parametrize('form', ['new', 'old'])
@pytest.mark.parametrize('kind, change', [('mask', lambda o: bytes(len(o))), ('mask', lambda o: b'\7'*len(o)), ('mask', lambda o: o[:-1]), ('ends', lambda o: o[8:16] + o[:8] + o[16:]),
                                          ('ends', lambda o: b'\0'*8 + o[8:]), ('ends', lambda o: o[:-8] + b'\xff'*8), ('bin', lambda o: b'\xff'*len(o)), ('bin', lambda o: b''),
                                          ('ends', lambda o: b''), ('mask', lambda o: o*2)])
def test_changed_shards(ready, form, kind, change):
    from nanogpt_lit.core import UserError
    from nanogpt_lit.instructions import load_examples
    if form == 'old': old_form(ready)
    assert len(load_examples(ready)['train']) == 32
    file = next(ready.glob(f'train_*.{kind}'))
    file.write_bytes(change(file.read_bytes()))
    with pytest.raises(UserError, match=file.name.split('.')[0] + '.*prepare'): load_examples(ready)

def test_tuning_on_a_mask_of_zeros(tune, ready):
    "In both forms, as a command says it"
    for _ in range(2):
        file = next(ready.glob('train_*.mask'))
        whole = file.read_bytes()
        file.write_bytes(bytes(len(whole)))
        one_sentence(*tune(source=ready), 'prepare')
        file.write_bytes(whole)
        assert tune(source=ready)[0] == 0
        old_form(ready)

@pytest.mark.parametrize('path, value', [
    ('dtype', '<u8'), ('dtype', 'O'), ('dtype', '<f4'), ('dtype', None), ('dtype', ['a']), ('tokenizer', 3), ('template', None), ('format', 'instructions 3'), ('format', 2), ('splits', []), ('splits', {}),
    ('splits', None), ('splits/train', {}), ('splits/train', []), ('splits/train', None), ('splits/train/0', 'x'), ('splits/train/0/tokens', 2**62), ('splits/train/0/tokens', -1), ('splits/train/0/tokens', 10**400),
    ('splits/train/0/examples', 0), ('splits/train/0/examples', 2**50), ('splits/train/0/examples', True), ('splits/train/0/examples', 1.5), ('splits/train/0/files', {}),
    ('splits/train/0/files/mask', None), ('splits/train/0/files/ends/sha256', None), ('splits/train/0/files/ends/sha256', 'x'), ('splits/train/0/files/bin/name', '../../x.bin')])
def test_odd_manifests(tune, ready, path, value):
    meta = json.loads((ready/'meta.json').read_text())
    *way, last = [int(o) if o.isdigit() else o for o in path.split('/')]
    at = meta
    for o in way: at = at[o]
    at[last] = value
    (ready/'meta.json').write_text(json.dumps(meta))
    one_sentence(*tune(source=ready))

@pytest.mark.parametrize('text', ['', '{', '[]', '"instructions 2"', '{"format": "instructions 2"' + '[' * 100_000, '{"format": "instructions 2", "n": ' + '9'*5000 + '}', '{"format": "instructions 1", "splits": 3}',
                                  '{"format": "instructions 1", "splits": {"train": [{"name": 3}]}}', '{"format": "instructions 1", "splits": {"train": ["x"]}}'])
def test_manifests_of_other_text(tune, ready, text):
    (ready/'meta.json').write_text(text)
    one_sentence(*tune(source=ready))

def test_prepared_with_another_template(tune, tmp_path):
    "The same tokens, another way to write a chat down"
    assert tune('--template', 'chatml', '--prepare', tmp_path/'fp', '--pretrained_checkpoint', 'tuned')[0] == 0
    one_sentence(*tune('--template', 'plain', '--pretrained_checkpoint', 'tuned', source=tmp_path/'fp'), 'template')

# --- 4. chat ---------------------------------------------------------------------------------------------------------

@pytest.fixture(scope='module')
def loaded(home):
    from nanogpt_lit.interop import load_run
    return load_run(home/'tuned', 'cpu')

@pytest.fixture
def chat(loaded, tmp_path, monkeypatch):
    from nanogpt_lit.chat import Chat
    monkeypatch.chdir(tmp_path)
    chat = Chat(loaded.model, loaded.tokenizer, max_new_tokens=3, temperature=0.)
    chat.say('the cat?'); chat.say('the dog?')
    return chat

def state(chat): return [dict(o) for o in chat.turns], chat.system, chat.seed, chat.tries, chat.max_new_tokens, dict(chat.knobs)

def typed(chat, *lines):
    "What is said if these are typed; an exception is raised in the place of a line"
    from nanogpt_lit.chat import chat_loop
    left, said = iter(lines), []
    def read(prompt):
        for line in left:
            if isinstance(line, BaseException): raise line
            return line
        raise EOFError
    with redirect_stderr(io.StringIO()) as err: chat_loop(chat, read, said.append, said.append)
    assert 'Traceback' not in err.getvalue()
    return ''.join(said)

def hostile_files(folder):
    "Files of every kind but that of a conversation"
    texts = dict(empty='', spaces=' \n ', object='{}', number='7', null='null', deep='{"messages": ' + '['*100_000, digits='{"messages": [' + '9'*5000 + ']}', half='{"messages": [{"role": "user", "content": "a"}',
                 nocontent='{"messages": [{"role": "user"}, {"role": "assistant", "content": "x"}]}', odd='{"messages": [{"role": "user", "content": 3}]}', roles='{"messages": [{"role": ["user"], "content": "a"}]}',
                 surrogate='{"messages": [{"role": "user", "content": "\\ud800"}, {"role": "assistant", "content": "x"}]}', turns='{"messages": {"role": "user"}}', nomessages='{"messages": []}', late='{"messages": [{"role": "system", "content": "s"}]}',
                 list='[1, 2]', strings='{"messages": ["a", "b"]}', twice='{"messages": [], "messages": []}', long=json.dumps(dict(messages=[dict(role=r, content='word '*500) for r in ('system', 'user', 'assistant')])))
    for name, text in texts.items(): (folder/f'{name}.jsonl').write_text(text)
    for name, data in {'bytes.jsonl': bytes(range(256)), 'zeros.json': bytes(1000), 'x.parquet': b'PAR1', 'x.arrow': b'ARROW1', 'image.png': b'\x89PNG\r\n\x1a\n'}.items(): (folder/name).write_bytes(data)
    (folder/'folder.jsonl').mkdir()
    (folder/'dangling.jsonl').symlink_to('nowhere')
    (folder/'circle.jsonl').symlink_to('circle.jsonl')
    if hasattr(os, 'mkfifo'): os.mkfifo(folder/'pipe.jsonl')
    return sorted(p.name for p in folder.iterdir())

def test_chat_keeps_the_talk_when_a_load_fails(chat, tmp_path):
    files = hostile_files(tmp_path)
    before = state(chat)
    names = [*files, '/dev/zero', '/dev/stdin', '/', '.', '..', '~', '~nobody-here/x', 'a\0b', '\ud800', 'x'*5000, 'nowhere/at/all', 'empty.jsonl/x', '/proc/self/mem']
    for name in names:
        said = typed(chat, f'/load {name}')
        assert state(chat) == before, name
        assert said.strip() and said.count('\n') == 1 and FAULT not in said, (name, said)
    assert 'user: the cat?' in typed(chat, '/history')

def test_chat_saves_over_nothing_foreign(chat, tmp_path):
    files = [o for o in hostile_files(tmp_path) if o not in ('empty.jsonl', 'dangling.jsonl', 'long.jsonl')]
    (tmp_path/'two.jsonl').write_text('{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n'*2)
    before, content = state(chat), snapshot(tmp_path)
    for name in [*files, 'two.jsonl', '/dev/full', '/', '.', 'a\0b', 'x'*5000, 'nowhere/at/all', '/proc/x', 'image.png/x']:
        said = typed(chat, f'/save {name}')
        assert said.strip() and 'saved to' not in said and said.count('\n') == 1 and FAULT not in said, (name, said)
        assert state(chat) == before, name
    assert snapshot(tmp_path) == content
    assert 'saved to new.jsonl' in typed(chat, '/save new.jsonl') and 'saved to new.jsonl' in typed(chat, '/save new.jsonl')      # our own
    assert 'saved to two.jsonl' in typed(chat, '/save! two.jsonl') and '/save!' in typed(chat, '/help')
    other = chat.__class__(chat.model, chat.tok)
    assert '4 turns' in typed(other, '/load two.jsonl') and other.turns == chat.turns

def test_chat_refuses_nonsense(chat):
    before = state(chat)
    for line in ('/max ' + '9'*5000, '/max 10**5000', '/max 1e400', '/max -1', '/max 0', '/max nan', '/max', '/max ٣٣٣٣٣٣٣٣٣٣٣٣٣٣٣٣', '/seed nan', '/seed -1', '/seed ' + '9'*4000, '/seed 1.5', '/temperature nan', '/temperature inf', '/temperature -1',
                 '/temperature 1e999', '/temperature', '/top_p nan', '/top_p 2', '/top_p -0.1', '/top_p x', '/', '//', '/\0', '/\ud800', '/' + 'x'*10_000, '/dance', '/load', '/save', '/SAVE x', '/system ' + 'word '*500):
        said = typed(chat, line)
        assert said.strip() and len(said) < 500 and FAULT not in said, (line[:50], said[:500])
        assert state(chat) == before, line[:50]

def test_chat_takes_any_text(chat):
    "Control characters, half characters, NUL: said, answered, kept, saved and loaded again"
    for text in ('\x1b[2J', '\0', '\ud800 half', '\x9b31m', 'a\u202eb', '\U0001f408'*50, 'word '*5000, '<|im_end|>', '<b>'):
        said = typed(chat, text, f'/system {text[:60]}', '/history', text, '/history', '/save! any.jsonl', '/load any.jsonl', '/reset')
        assert '\x1b' not in said and '\0' not in said and 'saved to any.jsonl' in said and FAULT not in said, said

@pytest.mark.parametrize('error', [KeyboardInterrupt(), MemoryError(), OSError(28, 'No space left on device'), RuntimeError("can't allocate memory: you tried to allocate 10 bytes")])
@pytest.mark.parametrize('at', [0, 1])
@pytest.mark.parametrize('line', ['the bird?', '/retry'])
def test_an_answer_that_breaks(chat, monkeypatch, error, at, line):
    "In the first instant or in the middle: the talk goes on with its turns in order, and no earlier answer is lost"
    from nanogpt_lit.instructions import check_turns
    before = state(chat)[0]
    def broken(self, ids):
        for _ in range(at): yield self.tok.encode('x')[0]
        raise error
    monkeypatch.setattr(type(chat), '_drawn', broken)
    said = typed(chat, line)
    assert said.strip() and FAULT not in said
    check_turns(chat.turns)
    if at: assert chat.turns[-1]['content'] == 'x'
    elif line == '/retry' or not isinstance(error, KeyboardInterrupt): assert chat.turns == before
    else: assert chat.turns[:-2] == before
    monkeypatch.undo()
    assert typed(chat, 'the red?', '/retry', '/undo')

def test_interrupted_while_the_question_is_read(chat, monkeypatch):
    before = state(chat)[0]
    def stopped(self): raise KeyboardInterrupt
    monkeypatch.setattr(type(chat), 'window', stopped)
    assert 'stopped' in typed(chat, 'the bird?', '/retry')
    assert chat.turns == before
    pieces = chat.command('/retry')
    pieces.close()                                               # before anything was asked for
    assert chat.turns == before

def test_retry_that_cannot_begin_keeps_the_old_answer(chat):
    before = state(chat)
    chat.system = 'word '*500
    assert 'no room' in typed(chat, '/retry')
    chat.system = ''
    assert state(chat) == before

@pytest.mark.parametrize('error', [OSError(5, 'Input/output error'), ValueError('I/O operation on closed file'), IsADirectoryError(21, 'Is a directory')])
def test_input_that_is_gone(chat, error):
    "It has ended; a loop that asks again and again would not"
    assert typed(chat, '/history', error, 'never read').count('user:') == 2
    assert 'a\n' not in typed(chat, '"""', 'the cat?', EOFError(), '/quit')      # Ctrl-D in a block ends the block
    assert chat.turns[-2]['content'] == 'the cat?'
    assert 'stopped' in typed(chat, '"""', 'half', KeyboardInterrupt(), '/quit')
    assert chat.turns[-2]['content'] == 'the cat?'

def left_alone(words, timeout, **kw):
    "`yes /history | WORDS | head -1`"
    with subprocess.Popen(['yes', '/history'], stdout=subprocess.PIPE) as typist, Popen(words, stdin=typist.stdout, stdout=subprocess.PIPE, **kw) as p:
        typist.stdout.close()
        p.stdout.readline()
        p.stdout.close()
        err = p.stderr.read()
        return subprocess.CompletedProcess(words, p.wait(timeout), None, err)

@pytest.mark.parametrize('how', ['closed', 'folder', 'bytes', 'nobody reads'])
def test_chat_command_with_odd_streams(home, how):
    words = [str(BIN/'nanogpt-chat'), 'tuned', '--device', 'cpu', '--max_new_tokens', '3']
    common = dict(cwd=home, env=ENV, stderr=subprocess.PIPE, timeout=60)
    if how == 'closed': r = run_argv(['sh', '-c', ' '.join(words) + ' <&-'], stdout=subprocess.PIPE, **common)
    if how == 'folder': r = run_argv(['sh', '-c', ' '.join(words) + ' </'], stdout=subprocess.PIPE, **common)
    if how == 'bytes': r = run_argv(words, input=b'\xff\xfe caf\xe9\n/load \xff\n\0\n/history\n', stdout=subprocess.PIPE, **common)
    if how == 'nobody reads': r = left_alone(words, **common)
    assert b'Traceback' not in r.stderr and FAULT.encode() not in r.stderr, r.stderr[-1500:]
    if how == 'bytes': assert r.returncode == 0 and b'user: \xef\xbf\xbd\xef\xbf\xbd caf\xef\xbf\xbd' in r.stdout

def test_chat_shows_text_as_all_of_the_book_does():
    from nanogpt_lit import chat, core
    assert chat.printable is core.printable

# --- 5. our own files, damaged ------------------------------------------------------------------------------------------

@pytest.mark.parametrize('text', ['', 'optim = 3', '[optim]\nlearning_rate = "fast"', '[optim]\nlearning_rate = [1]', '[optim]\nlearning_rate = nan', '[optim]\nlearning_rate = -1', '[optim]\nlearning_rate = 0', '[optim]\nlearning_rate = 1e300',
                                  '[optim]\nlearning_rate = true', 'x = ' + '['*5000, 'optim = [1]', '\x00', 'learning_rate = ' + '9'*5000])
def test_settings_of_the_base(tmp_path, text):
    "Where they don't tell the learning rate, there is a usual one"
    from nanogpt_lit.finetune import _learning_rate
    (tmp_path/'config.toml').write_text(text)
    assert _learning_rate(tmp_path) is None

def test_a_base_without_settings(home, tune, tmp_path):
    shutil.copytree(home/'base', tmp_path/'base', symlinks=True)
    for text in ('optim = 3', '', 'x = ' + '['*5000):
        (tmp_path/'base'/'config.toml').write_text(text)
        code, said = tune('--pretrained_checkpoint', tmp_path/'base')
        assert code == 0 and FAULT not in said and 'lr 6.00e-05' in said, said[-1500:]

@pytest.mark.parametrize('text', ['', '{', '[]', '3', '{}', '{"response": "low", "pretraining": null, "texts": []}', '{"response": 1, "pretraining": [], "texts": []}', '{"response": 1, "pretraining": null, "texts": "abc"}',
                                  '{"response": 1, "pretraining": null, "texts": [1, 2, 3]}', '{"response": NaN, "pretraining": null, "texts": ["a"]}', '{"response": ' + '9'*5000 + '}', '['*100_000,
                                  '{"response": 1, "pretraining": null, "texts": ["a"], "random": "yes"}'])
def test_losses_before_that_are_damaged(home, tune, text):
    shutil.copytree(home/'tuned', tune.out, symlinks=True)
    (tune.out/'before.json').write_text(text)
    one_sentence(*tune('--auto_resume', max_steps=3), 'before.json')
    if text != '{': return
    (tune.out/'before.json').unlink()
    assert tune('--auto_resume', max_steps=3)[0] == 0                # what the sentence says to do

def test_answers_before_belong_to_their_questions(tune):
    "Other prompts than then have no answer from before, and no other prompt's either"
    assert tune('--prompts', 'the cat?', 'the dog?')[0] == 0
    told = json.loads((tune.out/'before.json').read_text())['texts']
    assert tune('--auto_resume', '--prompts', 'the dog?', 'the bird?', max_steps=3)[0] == 0
    assert [o[2] for o in json.loads((tune.out/'tuning.json').read_text())['samples']] == [told[1], '']

@pytest.mark.parametrize('lacks, value', [(k, v) for k in ('config', 'model', 'step', 'optimizer', 'tokenizer_hash') for v in ('absent', None, 'text') if (k, v == 'absent') != ('optimizer', False)])
def test_checkpoints_that_lack_something(home, tune, tmp_path, lacks, value):
    from nanogpt_lit.checkpoint import load_checkpoint, save_checkpoint
    shutil.copytree(home/'tuned', tmp_path/'run', symlinks=True)
    file = tmp_path/'run'/'model_00002.pt'
    state = {k: v for k, v in load_checkpoint(file).items() if k not in ('checksum', lacks)}
    file.unlink()
    save_checkpoint(file, state if value == 'absent' else state | {lacks: value})
    code, said = tune('--resume', '--checkpoint_path', file)
    if code: one_sentence(code, said, 'not a fine-tuning checkpoint')
    else: assert 'cannot resume' in said and 'is damaged' in said and 'Beginning again from the pretrained model' in said   # the guide's order

def test_a_finished_run_continued_elsewhere(home, tune):
    "There is nothing left to do, and a report of that"
    code, said = tune('--resume', '--checkpoint_path', home/'tuned'/'model_00002.pt')
    assert code == 0 and 'report: ' in said, said[-1000:]

@pytest.mark.parametrize('name, value', [('strategy', 3), ('lora_rank', 'x'), ('lora_rank', -1), ('max_steps', 'many'), ('learning_rate', []), ('batch_size', None), ('n_embd', 'wide'), ('n_embd', 64), ('n_layer', 2**40), ('vocab_size', 2**31),
                                         ('prompts', {}), ('replay', 2.), ('dropout', 'x'), ('seed', -1), ('template', 'poem'), ('packing', 'perhaps'), ('val_fraction', 5.)])
def test_checkpoints_with_odd_settings(home, tune, tmp_path, name, value):
    from nanogpt_lit.checkpoint import load_checkpoint, save_checkpoint
    shutil.copytree(home/'tuned', tmp_path/'run', symlinks=True)
    file = tmp_path/'run'/'model_00002.pt'
    state = {k: v for k, v in load_checkpoint(file).items() if k != 'checksum'}
    file.unlink()
    config = state['config'] | {name: value}
    if name in config['tuning']: config['tuning'] = config['tuning'] | {name: value}
    save_checkpoint(file, state | dict(config=config))
    given = ['--resume', '--checkpoint_path', file]
    from nanogpt_lit.config import nanogpt_finetune
    with redirect_stdout(io.StringIO()) as said, redirect_stderr(said): code = nanogpt_finetune([str(o) for o in ('--input', 'pairs.jsonl', '--out_dir', tune.out, *given)])
    if code: one_sentence(code, said.getvalue())
    else: assert 'cannot resume' in said.getvalue() and 'is damaged (config.lora_rank' in said.getvalue()      # the guide's order

def test_a_base_with_links_that_lead_nowhere(home, tune, tmp_path):
    shutil.copytree(home/'base', tmp_path/'base', symlinks=True)
    for name in ('best.pt', 'model_00001.pt', 'config.toml', 'metrics.jsonl', 'data'):
        p = tmp_path/'base'/name
        if p.is_dir() and not p.is_symlink(): shutil.rmtree(p)
        else: p.unlink(missing_ok=True)
        p.symlink_to('nowhere')
    code, said = tune('--pretrained_checkpoint', tmp_path/'base')
    assert FAULT not in said and 'Traceback' not in said and code in (0, 1), said[-1500:]

# --- 6. records ---------------------------------------------------------------------------------------------------------

GOOD = json.dumps(dict(prompt='the cat?', completion='a dog.'))
BAD = {'deep': '{"prompt": ' + '['*100_000, 'deep list': '['*100_000, 'digits': '{"prompt": ' + '9'*5000 + '}', 'a bare number': '9'*5000, 'surrogate': '{"prompt": "\\ud800", "completion": "b"}', 'lists': '{"prompt": ["a"], "completion": "b"}',
       'numbers': '{"prompt": 1, "completion": 2}', 'empty role': '{"messages": [{"role": "", "content": "a"}]}', 'odd role': '{"messages": [{"role": ["user"], "content": "a"}]}', 'long role': '{"messages": [{"role": "' + 'x'*100_000 + '", "content": "a"}]}',
       'no content': '{"messages": [{"role": "user"}, {"role": "assistant"}]}', 'parts': '{"messages": [{"role": "user", "content": [{"type": "image"}]}]}', 'null': 'null', 'NaN': 'NaN', 'twice': '{"prompt": "a", "prompt": "b", "completion": "c"}',
       'cut': '{"prompt": "a", ', 'messages': '{"messages": 3}', 'conversation': '{"conversation": [[[]]]}', 'nothing': '{}', 'NUL': '\0', 'empty answer': '{"prompt": "a", "completion": " "}'}

@pytest.mark.parametrize('name', BAD)
def test_bad_records_are_counted(tmp_path, name):
    from nanogpt_lit.instructions import read_instructions
    (tmp_path/'a.jsonl').write_text(f'{GOOD}\n{BAD[name]}\n{GOOD}\n')
    found = read_instructions(tmp_path/'a.jsonl')
    assert len(found) == 2 and [*found.dropped.values()] == [['a.jsonl line 2']], found.dropped
    assert len(found.report()[0]) < 200

@pytest.mark.parametrize('turn', ['"weight": []', '"weight": "x"', '"weight": 1e400', '"weight": null, "name": 7', '"content": "b\\u0000", "tool_calls": [{}]'])
def test_fields_that_nobody_asked_for(tmp_path, turn):
    from nanogpt_lit.instructions import read_instructions
    (tmp_path/'a.jsonl').write_text('{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", ' + turn.replace('"content"', '"x"') + '}]}')
    assert len(read_instructions(tmp_path/'a.jsonl')) == 1

def test_thousands_of_reasons_are_a_few_lines(tmp_path):
    from nanogpt_lit.instructions import read_instructions
    (tmp_path/'a.jsonl').write_text('\n'.join([GOOD, *(json.dumps(dict(messages=[dict(role=f'r{i}', content='a')])) for i in range(5000))]))
    report = read_instructions(tmp_path/'a.jsonl').report()
    assert len(report) <= 12 and '4,990' in report[-1], report[-1]

@pytest.mark.parametrize('truncate', ['end', 'start', 'drop'])
def test_a_talk_of_very_many_turns(loaded, truncate):
    "Twice as many turns take about twice as long"
    from nanogpt_lit.instructions import TEMPLATES, check_turns, fit_turns
    turns = [dict(role=('user', 'assistant')[i % 2], content='a') for i in range(30_000)]
    begin = time.process_time()
    ids, mask, what = fit_turns(check_turns(turns), loaded.tokenizer, TEMPLATES['chatml'], 65, truncate)
    assert time.process_time() - begin < 20 and len(ids) <= 65 and what

@pytest.mark.parametrize('name', [*BAD, 'same'])
def test_bad_pairs_are_counted(tmp_path, name):
    from nanogpt_lit.core import UserError
    from nanogpt_lit.preference import read_pairs
    good = json.dumps(dict(prompt='a', chosen='b', rejected='c'))
    bad = BAD[name].replace('completion', 'chosen": "x", "rejected') if name in BAD else '{"prompt": "a", "chosen": "b", "rejected": " b"}'
    (tmp_path/'a.jsonl').write_text(f'{good}\n{bad}\n{good}\n')
    with pytest.raises(UserError, match='a.jsonl line 2') as e: read_pairs(tmp_path/'a.jsonl')
    assert len(str(e.value)) < 400

def test_odd_knobs_of_preference(loaded):
    from nanogpt_lit.core import UserError
    from nanogpt_lit.instructions import template_of
    from nanogpt_lit.preference import Pair, dpo_tune
    args = loaded.model, loaded.tokenizer, template_of(loaded.tokenizer)
    for kw in (dict(steps=0), dict(steps=-1), dict(batch_size=0), dict(learning_rate=float('nan')), dict(learning_rate=-1), dict(beta=float('inf')), dict(beta=0)):
        with pytest.raises(UserError, match=[*kw][0]): dpo_tune(*args, [Pair('a', 'b', 'c')], **kw)
    with pytest.raises(UserError, match='no pairs'): dpo_tune(*args, [])

# --- 7. nonsense on the command line --------------------------------------------------------------------------------------

NONSENSE = ['--out_dir pairs.jsonl', '--out_dir pairs.jsonl/x', '--out_dir /dev/null', '--out_dir /proc/x', f'--out_dir {"x"*300}', '--lora_rank 2 --lora_targets nonsense', '--lora_rank 2 --lora_targets', '--lora_rank 2 --lora_targets gate', '--lora_rank 2 --lora_alpha 0', '--lora_rank 2 --lora_alpha nan',
            '--lora_rank 2 --lora_dropout 1', '--lora_rank 2 --lora_dropout -0.5', '--lora_rank -1', '--lora_rank 100000', '--replay 1', '--replay -0.1', '--replay nan', '--replay 0.1 --replay_data pairs.jsonl', '--replay 0.1 --no-packing', '--dropout 1', '--dropout -1',
            '--dropout nan', '--beta1 2', '--beta2 -1', '--beta1 1', '--weight_decay -1', '--weight_decay nan', '--learning_rate -1', '--learning_rate nan', '--learning_rate inf', '--min_lr -1', '--grad_clip -1', '--grad_clip nan', '--minutes nan', '--minutes -1',
            '--max_steps 0', '--max_steps -5', '--max_steps 1e400', '--batch_size 0', '--batch_size -1', '--grad_accum_steps 0', '--eval_interval -5', '--eval_iters -1', '--checkpoint_interval -7', '--keep_last_n_checkpoints -9', '--warmup_steps -1', '--val_fraction 0',
            '--val_fraction 1', '--val_fraction nan', '--seed -1', '--seed x', '--num_threads 0', '--device nowhere', '--dtype int8', '--template poem', '--truncate middle', '--strategy none', '--shard_size 0', '--max_data_size -1', '--max_data_size 1',
            '--max_new_tokens 0', '--log_interval 0', '--tokenizer nowhere', '--tokenizer pairs.jsonl', '--pretrained_checkpoint pairs.jsonl --no-random_init', '--pretrained_checkpoint nowhere --fallback none', '--pretrained_checkpoint / --no-random_init',
            '--resume', '--checkpoint_path x', '--resume --checkpoint_path base/best.pt', '--input nowhere', '--input base', '--input /dev/null', '--input text.txt', '--data_dir pairs.jsonl', '--no_such_flag 1', '--schedule round']

@pytest.mark.parametrize('words', NONSENSE)
def test_nonsense_is_a_sentence(tune, words):
    before = snapshot(Path())
    code, said = tune(*words.split())
    one_sentence(code, said)
    assert not tune.out.exists() or not any(tune.out.iterdir()), words
    assert snapshot(Path()) == before

def test_prompts_of_any_kind(tune):
    one_sentence(*tune('--prompts', 'caf\udce9'), 'UTF-8')
    code, said = tune('--prompts', '', '\x1b[2J', '<script>', 'word '*500)
    assert code == 0 and FAULT not in said and '\x1b' not in said, said[-1000:]

# --- quickstart -----------------------------------------------------------------------------------------------------------

def quickstart(*words):
    from nanogpt_lit.config import nanogpt_quickstart
    with redirect_stdout(io.StringIO()) as said, redirect_stderr(said):
        try: code = nanogpt_quickstart([str(o) for o in ('--device', 'cpu', '--num_threads', 1, *words)])
        except SystemExit as e: code = e.code
    return code, said.getvalue()

def test_quickstart_finds_out_before_it_trains(tmp_path, monkeypatch):
    import nanogpt_lit.quickstart
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(nanogpt_lit.quickstart, 'quickstart_report', lambda q: pytest.fail('it began'))
    Path('q-chat').write_text('mine')
    Path('foreign-chat').mkdir()
    Path('foreign-chat/config.toml').write_text('mine')
    for words in (['--out_dir', 'q'], ['--out_dir', 'foreign'], ['--minutes', 'nan'], ['--minutes', '0'], ['--minutes', '-1'], ['--tune_minutes', '-1'], ['--minutes', 'inf']): one_sentence(*quickstart(*words))
    assert snapshot(tmp_path) == {'q-chat': b'mine', 'foreign-chat/config.toml': b'mine'}

def test_where_the_quickstarts_chat_goes(tmp_path, monkeypatch):
    from nanogpt_lit.quickstart import chat_folder
    (tmp_path/'here').mkdir()
    monkeypatch.chdir(tmp_path/'here')
    assert [str(chat_folder(o)) for o in ('runs/x', 'runs/x/', './x')] == ['runs/x-chat', 'runs/x-chat', 'x-chat']
    assert chat_folder('.') == (tmp_path/'here-chat').resolve()

def test_quickstart_interrupted_while_it_tunes(tmp_path):
    "The same command goes on. (With NANOGPT_LIT_SLOW=1 by each signal, one after the other: each time the base is measured again)"
    words = [*quickstart_words(tmp_path), *'--minutes 0.02 --tune_minutes 5 --out_dir q --data_dir d'.split()]
    signals = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT) if SLOW else (signal.SIGTERM,)
    for signum in signals:
        p = Popen(words, cwd=tmp_path, env=ENV, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        try:
            for line in p.stdout:
                if 'now it learns to answer' in line: break
            wait_for(lambda: max(steps(tmp_path/'q-chat'), default=0), p)
            p.send_signal(signum)
            rest, code = p.stdout.read(), p.wait(60)
        finally: p.kill(); p.wait()
        assert code in (128 + signum, -signum) and 'Traceback' not in rest, (signum, code, rest[-1000:])

# --- 10. the report ------------------------------------------------------------------------------------------------------

def test_the_report_is_escaped(tune, home):
    base = tune.out.parent/'<img src=x onerror=alert(1)>'
    shutil.copytree(home/'base', base, symlinks=True)
    out = tune.out.parent/'<b>out'
    code, said = tune('--pretrained_checkpoint', base, '--prompts', '<script>alert(2)</script>', '"><i>', out=out)
    assert code == 0, said[-1000:]
    page = (out/'report.html').read_text(encoding='utf-8')
    assert '&lt;script&gt;alert(2)' in page
    for odd in ('<script', '<img src=x', '<i>', '<b>out'): assert odd not in page, odd

# --- random input ----------------------------------------------------------------------------------------------------------

def test_random_lines_in_a_chat(chat, tmp_path):
    hostile_files(tmp_path)
    draw = random.Random(4711)
    names = ['/help', '/reset', '/system', '/retry', '/undo', '/seed', '/temperature', '/top_p', '/max', '/history', '/save', '/save!', '/load', '/?', '/dance', '', '"""', '"""x"""', 'the cat?']
    rests = ['', '0', '1', '3', '-1', '0.5', 'nan', '1e309', '9'*4400, 'talk.jsonl', 'new.jsonl', '.', '/dev/null', 'pipe.jsonl', 'deep.jsonl', 'half.jsonl', '\x1b[2J', '\0', '\ud800', '""', 'word '*300, '\u202e', '"""', '/', '~', '*']
    lines = [f'{draw.choice(names)} {draw.choice(rests)}'.strip() for _ in range(400)]
    lines[20::60] = [KeyboardInterrupt()]*len(lines[20::60])
    begin = time.process_time()
    said = typed(chat, *[o for o in lines if not (isinstance(o, str) and o.startswith('/max') and o.endswith('9'))])
    assert FAULT not in said and '\x1b' not in said and time.process_time() - begin < 60

def test_random_records(tmp_path):
    "Whatever JSON there is: conversations, or a reason for each record"
    from nanogpt_lit.core import UserError
    from nanogpt_lit.instructions import read_instructions
    from nanogpt_lit.preference import read_pairs
    draw = random.Random(42)
    keys = ['messages', 'conversations', 'conversation', 'instruction', 'input', 'output', 'context', 'response', 'prompt', 'completion', 'role', 'from', 'content', 'value', 'type', 'text', 'chosen', 'rejected', 'weight', '']
    def value(depth):
        kind = draw.randrange(9 if depth else 6)
        if kind < 6: return draw.choice([None, True, 0, -1.5, 10**30, '', ' ', 'a', 'user', 'assistant', 'system', '\0', '\ud800', 'é'*50, float('nan')])
        if kind == 6: return [value(depth - 1) for _ in range(draw.randrange(4))]
        return {draw.choice(keys): value(depth - 1) for _ in range(draw.randrange(5))}
    for n in range(150):
        records = [value(5) for _ in range(12)]
        text = json.dumps(records) if n % 3 == 0 else '\n'.join(map(json.dumps, records))
        if n % 4 == 0: text = text[:draw.randrange(len(text))]
        file = tmp_path/f'x{n}{draw.choice([".json", ".jsonl"])}'
        file.write_text(text)
        for read in (read_instructions, read_pairs):
            try: read(file)
            except UserError as e: assert len(str(e)) < 3000

def test_random_damage_to_prepared_data(home, tmp_path):
    "A byte changed, a piece cut out or doubled: found, in every file"
    from nanogpt_lit.core import UserError
    from nanogpt_lit.instructions import load_examples
    draw = random.Random(7)
    files = sorted(p.name for p in (home/'ready').iterdir() if p.suffix in ('.bin', '.mask', '.ends', '.json'))
    for n in range(150):
        folder = tmp_path/f'r{n}'
        shutil.copytree(home/'ready', folder)
        file = folder/draw.choice(files)
        data = bytearray(file.read_bytes())
        at, size = draw.randrange(len(data)), draw.randrange(1, 20)
        if n % 3 == 0: data[at] ^= draw.randrange(1, 256)
        elif n % 3 == 1: del data[at:at + size]
        else: data[at:at] = data[at:at + size]
        file.write_bytes(bytes(data))
        try: load_examples(folder)
        except UserError: continue
        assert file.name == 'meta.json', (file.name, n)            # white space, perhaps

def test_random_flags(tune):
    from nanogpt_lit.config import FinetuneConfig
    from nanogpt_lit.config import flat_fields
    draw = random.Random(99)
    values = ['', '0', '1', '-1', '2', '0.5', 'nan', 'inf', '-1e308', '1e-320', 'x', 'None', 'True', '\x1b[2J', '.', 'pairs.jsonl', 'base', 'ready', '/dev/null', '9'*400, '[]', '\0', '\udc80']
    names = [k for k in flat_fields(FinetuneConfig) if k not in ('max_steps', 'minutes', 'out_dir', 'prepare', 'device', 'compile', 'max_new_tokens', 'grad_accum_steps')]
    for n in range(40):
        words = [w for k in draw.sample(names, draw.randrange(1, 3)) for w in (f'--{k}', draw.choice(values))]
        code, said = tune(*words, max_steps=1, out=tune.out/str(n))
        assert code in (0, 1) and FAULT not in said and 'Traceback' not in said, (words, said[-1500:])
