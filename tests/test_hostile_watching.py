"Run folders that are damaged, or were made to do harm: report, plot, monitor and eval say in a sentence what is wrong, show what is left, and obey nothing that a file says."
import argparse, json, os, random, re, shutil, subprocess, sys, time
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
import pytest
import harness
from harness import Popen, run_argv
from nanogpt_lit.config import PlotConfig, nanogpt_eval, nanogpt_monitor, nanogpt_plot, nanogpt_report, nanogpt_train
from nanogpt_lit.core import Screen, UserError
from nanogpt_lit.monitor import one_line, plot_losses, read_metrics, run_table, scan_metrics, series
from nanogpt_lit.watch import STATUS, Heartbeat, alive, clip, gpu_busy, headline, last_sample, myself, read_status, run_state, screen, text_chart
from nanogpt_lit.monitor import newest_run

posix = pytest.mark.skipif(os.name != 'posix', reason='pipes with a name, pseudo-terminals')
WORDS = ['tiny', '--n_layer', '1', '--n_head', '2', '--n_embd', '16', '--block_size', '32', '--batch_size', '4', '--max_steps', '20', '--eval_interval', '5', '--eval_iters', '1',
         '--tokenizer_vocab_size', '300', '--device', 'cpu', '--num_threads', '1', '--generate_interval', '10']
STEER = re.compile('[\x00-\x08\x0e-\x1f\x7f-\x9f]|\r(?!\n)')
EVIL = '<script>alert("1")</script>\x1b]0;x\x07\x9b2J'

@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    home = tmp_path_factory.mktemp('run')
    (home/'text.txt').write_text(Path(argparse.__file__).read_text(encoding='utf-8')[:20_000], encoding='utf-8')
    assert nanogpt_train([*WORDS, '--input', str(home/'text.txt'), '--out_dir', str(home/'a')]) == 0
    ask = [dict(ctx=f'the {a} sat on', endings=[' the mat', ' a hat', ' it'], label=i % 3) for i, a in enumerate(('cat', 'dog', 'rat')*2)]
    (home/'ask.jsonl').write_text('\n'.join(map(json.dumps, ask)))
    return home

@pytest.fixture
def run(trained, tmp_path, monkeypatch):
    "A copy of the run in a folder of its own"
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained/'a', 'a')
    shutil.copy(trained/'ask.jsonl', '.')
    return Path('a')

COMMANDS = dict(report=nanogpt_report, plot=nanogpt_plot, monitor=nanogpt_monitor, eval=nanogpt_eval)

@pytest.fixture
def say(capfd):
    "`say('report', 'a')` is `(exit code, stdout, stderr)`; a mistake is one line, and never a fault of ours; nothing steers the terminal"
    def go(name, *words):
        capfd.readouterr()
        code, (out, err) = COMMANDS[name]([*map(str, words)]), capfd.readouterr()
        assert 'Traceback' not in err and 'fault of nanogpt_lit' not in err, err
        assert not STEER.search(out + err), (out, err)
        if code: assert err.count('error: ') == 1 and err.rstrip().split('\n')[-1].startswith('error: ') and len(err) < 2000, err
        return code, out, err
    return go

class Tags(HTMLParser):
    "Which tags and attributes a page has"
    def __init__(self, page): super().__init__(); self.open, self.flaws, self.seen = [], [], set(); self.feed(page)
    def handle_starttag(self, tag, attrs):
        self.seen |= {tag, *(k for k, _ in attrs)}
        if tag not in ('meta', 'polyline', 'circle', 'line', 'link', 'br'): self.open.append(tag)
    def handle_startendtag(self, tag, attrs): self.seen |= {tag, *(k for k, _ in attrs)}
    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag: self.flaws.append(tag)

OURS = set('html head meta title style body main h1 h2 h3 p span dl div dt dd figure figcaption svg desc g line text polyline circle table thead tbody tr th td details summary pre code '
           'lang charset name content class viewbox role x1 x2 y1 y2 x y text-anchor points cx cy r scope'.split())

def check_page(path):
    page = Path(path).read_text(encoding='utf-8')
    tags = Tags(page)
    assert not tags.flaws and not tags.open and tags.seen <= OURS, (tags.flaws, tags.open, tags.seen - OURS)
    assert not STEER.search(page)
    return page

# ---- what a file says is data

def change(path, **values): Path(path).write_text(json.dumps(json.loads(Path(path).read_text()) | values))

def test_nothing_in_a_run_folder_is_markup_or_steers(run, say):
    other = Path(f'a{EVIL}$x^2$'.replace('/', ''))
    run.rename(other)
    for state in (EVIL, 'finished"><b>', 'died', 5, ['a'], None): 
        change(other/'status.json', state=state, reason=EVIL, environment={EVIL: EVIL, 'half': '\ud800'}, host=EVIL, device=EVIL, argv=[EVIL], checkpoint=EVIL)
        assert say('report', other)[0] == 0
        assert 'class="state unknown">unknown<' in check_page(other/'report.html')
        assert 'unknown' in say('monitor', other, '--once')[1]
    change(other/'status.json', state='failed')
    manifest = json.loads((other/'data/meta.json').read_text())
    manifest |= dict(sources=[dict(name=EVIL), EVIL, 7, dict(name=[1])], splits={EVIL: dict(tokens=3)}, tokenizer=dict(kind=EVIL, hash=EVIL))
    (other/'data/meta.json').write_text(json.dumps(manifest))
    (other/'samples'/f'step_{EVIL}.txt'.replace('/', '')).write_text(EVIL)
    (other/'baselines.json').write_text(json.dumps({EVIL: dict(nats_per_token=1, bits_per_byte=None), 'GPT': dict(nats_per_token=1., bits_per_byte=2)}))
    text = (other/'config.toml').read_text()
    (other/'config.toml').write_text(re.sub(r'(?m)^input = .*', lambda _: 'input = ' + json.dumps([EVIL]).replace('\x9b', ''), text).replace('\x7f', ''))
    assert say('report', other, '--output', 'x.html')[0] == 0
    page = check_page('x.html')
    assert 'class="state failed"' in page and page.count('&lt;script&gt;') > 6 and 'could not be read' not in page
    assert '<script>' in say('monitor', other, '--once')[1]
    assert say('plot', other, other, '--panels', '--output', 'x.svg')[0] == 0

def test_a_page_that_is_redrawn(run):
    "The live screen is built of harmless pieces, and coloured by us alone"
    change(run/'status.json', state='failed', reason=EVIL + '\nsecond\tline')
    (run/'samples/step_99999.txt').write_text(EVIL*9 + '\n\r\n\x0c\u202e皇马')
    os.utime(run/'samples/step_99999.txt', (2**32, 2**32))
    other = Path('b\x1b[2J\n\tc')
    run.rename(other)
    page = screen(other, 200, 60, colour=True)
    ours = page.replace('\x1b[1;31mfailed\x1b[0m', '', 1)
    assert ours != page and not STEER.search(ours) and '\t' not in ours and 'b␛[2J␊␉c' in ours and '\u202e' not in ours

@pytest.mark.parametrize('name', ['$x', '$\\frac$', '$\\frac{1}{2}$', '_hidden', 'a$b$c', '\x1b[2J', 'a\nb', 'x'*200, '\\', '{', '皇马'])
def test_names_of_runs_in_a_picture(run, name, say):
    Path(name).mkdir()
    shutil.copy(run/'metrics.jsonl', name)
    assert say('plot', name, 'a', '--output', 'x.png')[0] == 0
    labels = [t.get_text() for t in plot_losses([name, 'a']).legends[0].get_texts()]
    assert len(labels) == 4 and '\x1b' not in ''.join(labels) and not any(o.startswith('_') or '\n' in o or len(o) > 80 for o in labels)
    assert one_line(name)[-9:].replace('$', r'\$') in labels[0]

# ---- metrics

ODD_LINES = ['oops', '7', '[]', 'null', '{}', '{"step": -1}', '{"step": 1.5}', '{"step": "1"}', '{"step": true}', '{"step": 1e400}', '{"step": ' + '9'*300 + '}', '{"step": ' + '9'*5000 + '}', '['*100_000,
             '{"step": 1, "a": ' + '{"a":'*50_000, '\x00\x00\x00', '{"step": 1}garbage', '"\\ud800"', 'x'*3_000_000]

def test_damaged_lines_are_left_out_and_counted(run, say):
    path = run/'metrics.jsonl'
    good = path.read_text().splitlines()
    path.write_text('\n'.join([*ODD_LINES[:9], *good, *ODD_LINES[9:-1], '']) + '\xff\n'.encode('latin-1').decode('latin-1'))
    with open(path, 'ab') as f: f.write(b'\xff\xfe\n')
    records, damaged = scan_metrics(run)
    assert [r['step'] for r in records] == [json.loads(o)['step'] for o in good] and damaged == len(ODD_LINES) - 1 + 2
    with open(path, 'a') as f: f.write('{"step": 21, "lo')             # being written
    assert scan_metrics(run)[1] == damaged
    for words in (['plot', 'a', '--panels', '--output', 'x.svg'], ['plot', 'a', '--x', 'tokens', '--output', 'x.svg']):
        code, out, err = say(*words)
        assert code == 0 and err.count('\n') == 1 and f'metrics.jsonl: {damaged} damaged lines left out' in err
    assert f'metrics.jsonl: {damaged} damaged lines left out' in say('monitor', 'a', '--once')[1]
    assert say('report', 'a')[0] == 0
    assert f'metrics.jsonl: {damaged} damaged lines left out' in check_page(run/'report.html')
    path.write_text('\n'.join(ODD_LINES) + '\n')
    for name in ('plot', 'monitor', 'report'):
        code, out, err = say(name, 'a', *(['--once'] if name == 'monitor' else []))
        assert (code == 1 and 'has no records' in err) if name == 'plot' else code == 0
    assert 'has no records' in check_page(run/'report.html')

def test_values_of_every_kind(tmp_path, monkeypatch, say):
    "Only numbers are drawn; the rest of a record can still be read"
    monkeypatch.chdir(tmp_path)
    Path('m').mkdir()
    odd = [None, True, 'text', [1, [2]], {'a': 1}, 10**300, -10**300, 10**4000, '1.5', -0.0, 1e99, -5]
    keys = ['loss', 'val_loss', 'lr', 'grad_norm', 'update_ratio', 'tokens_per_s', 'tokens', 'elapsed_s', 'mfu', 'dt_ms', 'bits_per_byte', 'mine']
    rng = random.Random(0)
    for n in range(6):
        lines = [{'step': s} | {k: rng.choice(odd) if rng.random() < .4 else s/7 for k in keys if rng.random() < .8} for s in rng.choices(range(40), k=30)]
        Path('m/metrics.jsonl').write_text('\n'.join(map(json.dumps, lines)).replace('1e+99', 'NaN' if n % 2 else '1e400') + '\n')
        assert say('plot', 'm', '--panels', '--x', ('step', 'tokens', 'time')[n % 3], '--output', 'x.svg')[0] == 0
        assert say('monitor', 'm', '--once')[0] == 0 and say('report', 'm')[0] == 0
        check_page('m/report.html')
        records = read_metrics('m')
        assert [r['step'] for r in records] == sorted(r['step'] for r in records) and all(isinstance(v, (int, float)) for v in series(records, 'loss')[1])
    Path('m/metrics.jsonl').write_text('{"step": 1, "mine": ["a"], "said": "b", "part": {"c": 1}, "loss": "x"}\n')
    assert read_metrics('m') == [dict(step=1, mine=['a'], said='b', part={'c': 1})]

def test_steps_in_disorder_and_curves_of_every_length(tmp_path, monkeypatch, say):
    monkeypatch.chdir(tmp_path)
    Path('m').mkdir()
    for rows in ([(3, 1, None), (1, 2, None), (1, 5, 3), (2, None, 1)], [(5, None, 2.)], [(5, None, 2.), (9, 1, None)], [(1, 1, None), (90, None, 7.)], [(0, 0, 0)], [(2**53 - 1, 5e-324, 1e-320), (0, 0, 0)],
                 [(i, 1e99, -1e99) for i in range(3)], [(i, 1e20, None) for i in range(5)], [(7, 1, 1)]*5, [(i % 7*500, i, None) for i in range(50)]):
        records = [{k: v for k, v in zip(('step', 'loss', 'val_loss'), row) if v is not None} for row in rows]
        Path('m/metrics.jsonl').write_text('\n'.join(map(json.dumps, records)) + '\n')
        assert say('plot', 'm', '--output', 'x.png', '--last', '3')[0] == 0 and say('report', 'm')[0] == 0
        check_page('m/report.html')
        for width in (1, 9, 80, 200):
            for plain in (False, True):
                lines = screen('m', width, 30, plain).split('\n')
                assert max(map(len, lines)) <= width and len(lines) <= 30

# ---- files of ours, damaged or of somebody else

ODD_FILES = [b'', b'null', b'7', b'[]', b'{}', b'[[]]', b'"x"', b'\xff\xfe\x00', b'{"a":'*100_000, b'['*100_000, b'9'*5000, b'{"a": 1e400, "step": -1e400}', b'{"state": "running", "pid": ' + b'9'*400 + b'}', b'= = =',
             b'{"state": "finished", "step": 1e300, "max_steps": "x", "elapsed_s": {}, "tokens": -1, "progress": [], "environment": [1], "parameters": null, "reason": 5}', b'a = ' + b'['*9000, b'[data]\ndataset = 5\ninput = 3',
             b'[data]\ndataset = "' + b'x'*5000 + b'"', b'data = 7', b'n_layer = 1e400', b'n_layer = ' + b'9'*5000, b'max_steps = ' + b'9'*300, b'{"splits": {"train": 5}, "tokenizer": 7}', b'{"splits": {"a": {"tokens": "x"}}, "tokenizer": {"hash": 7}, "vocab_size": "a"}',
             b'{"GPT": 5}', b'{"GPT": {"nats_per_token": "a", "bits_per_byte": 1}}', b'{"GPT": {"nats_per_token": 1}}']

@pytest.mark.parametrize('name', ['config.toml', 'status.json', 'metrics.jsonl', 'baselines.json', 'data/meta.json', 'samples/step_00010.txt', 'hellaswag.jsonl', 'tokenizer/tokenizer.json'])
def test_each_file_replaced_by_each_odd_one(run, name, say):
    path = run/name
    def look(damaged=True):
        for words in (['report', 'a'], ['monitor', 'a', '--once'], *[['plot', 'a', '--output', 'x.svg']]*(name == 'metrics.jsonl')):
            code, out, err = say(*words)
            assert code == 0 or words[0] == 'plot' and name == 'metrics.jsonl', (words, err)
            if words[0] == 'report': page = check_page(run/'report.html')
        return page
    for odd in ODD_FILES:
        path.write_bytes(odd)
        page = look()
        if name in ('config.toml', 'status.json', 'baselines.json', 'data/meta.json') and odd in ODD_FILES[:2] + ODD_FILES[6:10]: assert 'What could not be read' in page, odd[:50]
    path.unlink()
    look()
    path.mkdir()
    look()
    path.rmdir()
    if os.name == 'posix':
        os.mkfifo(path)                         # nobody writes to it
        look()
        path.unlink()
        for target in ('nowhere', path.name, '/dev/null', '/dev/zero'):
            path.symlink_to(target)
            look()
            path.unlink()

def test_a_folder_that_is_no_run_is_refused(tmp_path, monkeypatch, say):
    monkeypatch.chdir(tmp_path)
    Path('empty').mkdir()
    Path('file').write_text('x')
    for name in ('report', 'plot', 'monitor', 'eval'):
        for where in ('empty', 'nowhere', 'file', 'file/x', '/dev/null', 'x'*300, '~nobody/x'):
            assert say(name, where, *(['--once'] if name == 'monitor' else []))[0] == 1, (name, where)

@posix
def test_a_device_stays_a_device(run, say):
    for name in ('report', 'plot'):
        for target in ('/dev/null', 'pipe'):
            link = Path(f'{name}.svg')
            if target == 'pipe': os.mkfifo(link); reader = os.open(link, os.O_RDONLY | os.O_NONBLOCK)
            else: link.symlink_to(target)
            before = link.stat().st_mode
            COMMANDS[name](['a', '--output', str(link)])
            assert link.stat().st_mode == before and not link.is_file()
            if target == 'pipe': os.close(reader)
            link.unlink()
    Path('here.html').symlink_to('there.html')
    assert say('report', 'a', '--output', 'here.html')[0] == 0 and Path('here.html').is_symlink() and Path('there.html').is_file()
    Path('folder').mkdir()
    assert say('report', 'a', '--output', 'folder')[0] == 1 and say('plot', 'a', '--output', 'no/x.doc')[0] == 1 and not Path('no').exists()

# ---- watching

def test_a_heart_leaves_nothing_and_writes_where_nobody_guesses(run, monkeypatch):
    target = Path('secret')
    target.write_text('mine')
    (run/'.status.json.new').symlink_to(target.absolute())
    heart = Heartbeat(run)
    for text in ('1', '2'): heart._replace(text)
    assert (run/'status.json').read_text() == '2' and target.read_text() == 'mine' and heart.part.name != '.status.json.new' and not heart.part.exists()
    assert Heartbeat(run).part != heart.part

@pytest.mark.parametrize('pid', [2**31, 2**63, 10**400, -1, '1', True, None, [1], 1.5, 0])
def test_processes_that_cannot_be(pid):
    assert alive(myself() | dict(pid=pid)) is False
    for started in ('x', None, [], 10**400, float('nan')): assert alive(myself() | dict(started=started)) is False

def test_what_is_asked_of_nvidia_smi(monkeypatch):
    asked = []
    monkeypatch.setattr('nanogpt_lit.watch.shutil.which', lambda name: name)
    monkeypatch.setattr('nanogpt_lit.watch.subprocess.run', lambda words, **kw: asked.append(words) or subprocess.CompletedProcess(words, 0, '17\n'))
    for device in ('cuda:0;x', 'cuda:--help', 'cuda:-1', 'cuda:' + '9'*50, 'cuda:٣'): assert gpu_busy(myself() | dict(device=device)) == ''
    assert not asked and gpu_busy(myself() | dict(device='cuda:1')) == '17' and asked[0][2] == '1'

def test_a_run_that_vanishes_while_it_is_watched(run, monkeypatch):
    "Whichever file goes at whichever moment"
    import nanogpt_lit.watch as w
    for name in ('read_status', '_records', 'last_sample', 'headline', 'sample_files'):
        shutil.copytree(run, 'b')
        before = getattr(w, name)
        def gone(*args, before=before):
            shutil.rmtree('b', ignore_errors=True)
            return before(*args)
        with monkeypatch.context() as m:
            m.setattr(w, name, gone)
            assert screen('b', 80, 24)
        shutil.rmtree('b', ignore_errors=True)
    assert 'waiting' in screen('b', 80, 24)

@posix
def test_samples_that_are_none(run, say):
    s = run/'samples'
    (s/'step_00030.txt').symlink_to('nowhere')
    (s/'step_00031.txt').symlink_to('step_00031.txt')
    (s/'step_00032.txt').mkdir()
    os.mkfifo(s/'step_00033.txt')
    (s/'step_00034.txt').symlink_to('/dev/zero')
    (s/'step_00035.txt').write_bytes(b'\xff\x00'*300_000)
    (s/b'step_\xff.txt'.decode('utf-8', 'surrogateescape')).write_text('odd name')
    for _ in range(2):
        assert say('report', 'a')[0] == 0 and say('monitor', 'a', '--once')[0] == 0
        check_page(run/'report.html')
        os.utime(s/b'step_\xff.txt'.decode('utf-8', 'surrogateescape'), (2**32, 2**32))
    assert last_sample(run)[1] == 'odd name'
    shutil.rmtree(s)
    s.symlink_to('samples')
    assert say('report', 'a')[0] == 0 and say('monitor', 'a', '--once')[0] == 0

def test_windows_of_any_size(run):
    change(run/'status.json', reason='word '*50, state='failed')
    for width in (-3, 0, 1, 2, 5, 8, 9, 17, 40, 99, 100, 300):
        for height in (-1, 0, 1, 2, 3, 7, 24, 200):
            for colour in (False, True):
                lines = re.sub(r'\x1b\[[\d;]*m', '', screen(run, width, height, colour=colour)).split('\n')
                assert len(lines) <= max(1, height) and max(map(len, lines)) <= max(1, width)

def test_words_that_make_no_sense(run, say):
    for words in (['plot', 'a', '--last', '-3'], ['plot', 'a', '--last', '1e400'], ['plot', 'a', '--smooth', 'nan'], ['monitor', 'a', '--interval', '1e400'], ['monitor', 'a', '--width', '3'], ['monitor', 'a', '--once', '--interval', '-1']):
        assert say(*words)[0] == 1, words
    for words in (['plot', 'a', '--last', '9'*50, '--output', 'x.svg'], ['plot', 'a', '--smooth', '9'*400, '--output', 'x.svg']): say(*words)

MONITOR = 'from nanogpt_lit.config import nanogpt_monitor as m; raise SystemExit(m())'
PROGRAM = [sys.executable, '-c', MONITOR]
CLOSED = [sys.executable, '-c', f'import os, sys\nos.close(0)\nsys.stdin = None\n{MONITOR}']    # as Python finds it where a shell has closed it

@posix
def test_monitor_without_a_terminal_worth_the_name(run):
    "No standard input, a closed one, a terminal of no kind: the page is printed once"
    def shown(argv, stdin=None, **env): return run_argv(argv, stdin=stdin, capture_output=True, text=True, timeout=60, env={**os.environ, 'PYTHONIOENCODING': 'utf-8', **env})
    with open('/dev/zero') as zero: endless = shown([*PROGRAM, 'a'], zero, COLUMNS='-5', LINES='x')
    for r in (shown([*CLOSED, 'a']), shown(['sh', '-c', 'exec "$@" <&- 2>&-', 'sh', *PROGRAM, 'a']), endless):
        assert r.returncode == 0 and 'finished' in r.stdout and '\x1b' not in r.stdout and (r.stderr == '' or r.stderr is None), r

@posix
@pytest.mark.parametrize('term, live', [('xterm', True), ('dumb', False), (None, False)])
def test_monitor_in_terminals(run, term, live):
    import pty, select
    fd, slave = pty.openpty()
    env = {k: v for k, v in os.environ.items() if k not in ('TERM', 'NO_COLOR')} | ({'TERM': term} if term else {})
    p = Popen([*PROGRAM, 'a', '--interval', '.2'], env=env, stdin=slave, stdout=slave, stderr=slave, start_new_session=True)
    os.close(slave)
    sent, end, gone, typed = b'', time.time() + 60, False, False
    while time.time() < end:
        if select.select([fd], [], [], .2)[0]:
            try: data = os.read(fd, 65536)
            except OSError: break
            if not data: break
            sent += data
        if b'q leaves' in sent and not gone:
            shutil.rmtree('a')
            (Path('a')).mkdir()
            gone = True
        if gone and b'waiting' in sent and not typed: typed = os.write(fd, b'q')
    else: p.kill()
    code = p.wait(60)
    os.close(fd)
    assert code == 0 and (b'\x1b[?1049h' in sent) == live and (b'waiting' in sent) == live and b'finished' in sent and b'Traceback' not in sent

def test_the_newest_of_runs_some_of_which_are_none(run):
    Path('runs').mkdir()
    shutil.copytree('a', 'runs/one')
    Path('runs/file').write_text('x')
    if os.name == 'posix':
        Path('runs/loop').symlink_to('loop')
        Path('runs/two').mkdir()
        Path('runs/two/status.json').symlink_to('nowhere')
    assert newest_run() == Path('runs/one')

# ---- eval

QUESTIONS = ['', '7', '[]', 'null', '{}', '{"ctx": 1, "endings": ["a", "b"], "label": 0}', '{"ctx": "a", "endings": "ab", "label": 0}', '{"ctx": "a", "endings": ["a"], "label": 0}', '{"ctx": "a", "endings": ["a", ""], "label": 0}',
             '{"ctx": "a", "endings": ["a", ["b"]], "label": 0}', '{"ctx": "a", "endings": {"a": 1}, "label": 0}', '{"ctx": "a", "endings": ["a", "b"]}', '{"ctx": "a", "label": 1}', '["ctx", "endings", "label"]', '["ctx"' + ']'*9,
             *('{"ctx": "a", "endings": ["a", "b"], "label": %s}' % o for o in ('2', '-1', '"x"', '1.0', 'null', '[0]', '{}', 'true', '9'*400, '9'*5000, '1e400', '"' + '9'*4000 + '"', '"' + 'x'*9000 + '"')),
             '{"a":'*100_000, '{"' + 'k'*9000 + '": 1}', '{"\\u001b[2J\\n": 1}', '\x00']

def test_questions_that_are_none(run, say):
    for odd in QUESTIONS:
        Path('odd.jsonl').write_text(odd)
        for words in (['--tasks', 'odd.jsonl'], ['--tasks', 'hellaswag', '--hellaswag', 'odd.jsonl'])[:2 if odd in QUESTIONS[:3] else 1]:
            code, out, err = say('eval', 'a', '--device', 'cpu', *words)
            assert code == 1 and 'odd.jsonl' in err and err.count('\n') == 1, (odd[:60], err)
    Path('odd.jsonl').write_bytes(b'\xff\xfe')
    assert say('eval', 'a', '--tasks', 'odd.jsonl')[0] == 1
    for odd in ('{"ctx": "\\ud800", "endings": ["\\ud800", "b"], "label": "1"}', '{"ctx": "", "endings": ["a", "\\u0000"], "label": 0}', json.dumps(dict(ctx='a '*9000, endings=['b '*9000, 'c'], label=0))):
        Path('odd.jsonl').write_text(odd)
        assert say('eval', 'a', '--device', 'cpu', '--tasks', 'odd.jsonl')[0] == 0
    Path('odd.jsonl').unlink()
    for make in (lambda p: p.mkdir(), lambda p: os.mkfifo(p), lambda p: p.symlink_to(p), lambda p: p.symlink_to('/dev/zero')) if os.name == 'posix' else ():
        make(Path('odd.jsonl'))
        for words in (['--tasks', 'odd.jsonl'], ['--data', 'odd.jsonl', '--tasks', 'loss']): assert say('eval', 'a', '--device', 'cpu', *words)[0] == 1, words
        Path('odd.jsonl').rmdir() if Path('odd.jsonl').is_dir() else Path('odd.jsonl').unlink()

def test_a_question_without_a_context_for_a_tokenizer_without_an_end(trained):
    from nanogpt_lit.evaluate import Choice, choice_ids
    from nanogpt_lit.tokenizer import CharTokenizer
    with pytest.raises(UserError, match='no context'): choice_ids(Choice('', ['a', 'b'], 0), CharTokenizer('ab'), 8)
    assert choice_ids(Choice('', ['ab', 'ba'], 0), CharTokenizer('ab'), 8) == [([0, 1], 1), ([1, 0], 1)]

def test_answers_that_are_none(run, say):
    "Of the right key and the wrong shape, of another exam, torn, no file: what can't be an answer is asked again"
    def ask(): return say('eval', 'a', '--device', 'cpu', '--tasks', 'ask.jsonl', 'loss', '--out_dir', 'e')
    assert ask()[0] == 0
    whole, good = json.loads(Path('e/results.json').read_text())['results'], {k: Path(f'e/{k}.0.jsonl').read_text().split('\n') for k in ('ask', 'loss')}
    odd = ['{"index": 0}', '{"index": -1}', '{"index": 9999999}', '{"index": ' + '9'*300 + '}', '{"index": [0]}', '{"index": 1, "nats": "a", "tokens": 3}', '{"index": 1, "nats": 1, "tokens": 0}', '[]', '{"a":'*50_000, '{"index": 1e400}',
           '{"index": 0, "label": 0, "logprob": [], "tokens": [], "characters": [], "cut": ""}', '{"index": 0, "label": 0, "logprob": [1, 2, 3], "tokens": [0, 0, 0], "characters": [1, 1, 1], "cut": ""}',
           '{"index": 0, "label": 7, "logprob": [1, 2, 3], "tokens": [1, 1, 1], "characters": [1, 1, 1], "cut": ""}', '\x00', '{"index": 0, "label": 0, "logprob": 1, "tokens": 1, "characters": 1}']
    for name, lines in good.items():
        Path(f'e/{name}.0.jsonl').write_text('\n'.join([lines[0], *odd, *lines[3:], *odd, '']))
        assert ask()[0] == 0 and json.loads(Path('e/results.json').read_text())['results'] == whole
    for head in ('{"key": 7}', '[]', '{"a":'*50_000, '', '"key"', '\x00', '{"key": ["x"]}'):
        for name, lines in good.items(): Path(f'e/{name}.0.jsonl').write_text('\n'.join([head, *odd]))
        assert ask()[0] == 0 and json.loads(Path('e/results.json').read_text())['results'] == whole
    Path('e/ask.0.jsonl').write_bytes(b'\xff\xfe\n\xff')
    Path('e/ask.1.jsonl').mkdir()
    if os.name == 'posix': os.mkfifo('e/ask.2.jsonl'); Path('e/ask.3.jsonl').symlink_to('nowhere')
    assert ask()[0] == 0 and json.loads(Path('e/results.json').read_text())['results'] == whole
    Path('e/ask.0.jsonl').unlink()
    for make in (lambda p: p.mkdir(), lambda p: os.mkfifo(p)) if os.name == 'posix' else ():
        make(Path('e/ask.0.jsonl'))
        assert ask()[0] == 1
        Path('e/ask.0.jsonl').rmdir() if Path('e/ask.0.jsonl').is_dir() else Path('e/ask.0.jsonl').unlink()

def test_words_of_eval_that_make_no_sense(run, say, monkeypatch):
    for words in (['--limit', '-1'], ['--limit', '1e400'], ['--include_path', 'nowhere'], ['--include_path', 'ask.jsonl'], ['--data', 'nowhere'], ['--data', '/dev/null'], ['--data', 'a/samples'], ['--data', 'x'*300], ['--tasks', 'x'*300 + '.jsonl'],
                  ['--tasks', '.jsonl'], ['--tasks', ''], ['--tasks', '/'], ['--out_dir', '/dev/null'], ['--out_dir', 'ask.jsonl/x'], ['--split', '../x'], ['--tokenizer', 'nowhere'], ['--dtype', 'float8'], ['--batch_size', '0']):
        assert say('eval', 'a', '--device', 'cpu', *words)[0] == 1, words
    for rank, world in (('x', '1'), ('-1', '2'), ('2', '2'), ('0', '0'), ('9'*5000, '1'), ('', '')):
        monkeypatch.setenv('RANK', rank); monkeypatch.setenv('WORLD_SIZE', world)
        assert say('eval', 'a', '--device', 'cpu', '--tasks', 'ask.jsonl')[0] == 1

def test_settings_that_are_damaged_for_eval(run, say):
    Path('a/data').rename('elsewhere')
    for odd in ODD_FILES:
        Path('a/config.toml').write_bytes(odd)
        assert say('eval', 'a', '--device', 'cpu', '--tasks', 'loss')[0] == 1

# ---- a little of everything

mutated = partial(harness.mutated, number=rb'-?\d+(\.\d+)?', text=rb'"[^"\n]{1,30}"', often=.1,
                  numbers=[b'-1', b'1e400', b'1e99', b'9'*5000, b'null', b'[[]]', b'"<b>"', b'NaN', b'true', b'0'], texts=[b'"<b a=\\"x>"', b'"\\u001b]0;"', b'{}', b'7', b'[]', b'"$"'])

def test_damaged_run_folders(run, say):
    rng, names = random.Random(0), ['config.toml', 'status.json', 'metrics.jsonl', 'baselines.json', 'data/meta.json', 'samples/step_00010.txt', 'tokenizer/tokenizer.json']
    (run/'baselines.json').write_text(json.dumps({k: dict(nats_per_token=i/3, bits_per_byte=i/5) for i, k in enumerate(('GPT', 'uniform', 'gzip'))}))
    good = {k: (run/k).read_bytes() for k in names}
    for n in range(60):
        for k in rng.sample(names, rng.choice([1, 2, 4])): (run/k).write_bytes(mutated(good[k], rng))
        assert say('report', 'a')[0] == 0 and say('monitor', 'a', '--once')[0] == 0
        check_page(run/'report.html')
        if n % 10 == 0: say('plot', 'a', '--panels', '--output', 'x.svg')
        if n % 10 == 5: say('eval', 'a', '--device', 'cpu', '--tasks', 'loss', '--out_dir', f'e{n}')
        for k in names: (run/k).write_bytes(good[k])
