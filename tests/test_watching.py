"A real training watched from a real (pseudo-)terminal, killed, limited and reported on."
import json, os, select, subprocess, sys
import pytest
from harness import Popen, run_argv, wait_for

ENV = {**{k: v for k, v in os.environ.items() if k not in ('COLUMNS', 'LINES', 'NO_COLOR')}, 'OMP_NUM_THREADS': '1', 'TERM': 'xterm', 'PYTHONIOENCODING': 'utf-8'}
SMALL = ['tiny', '--tokenizer', 'char', '--device', 'cpu', '--n_layer', '1', '--n_embd', '16', '--n_head', '1', '--block_size', '16', '--batch_size', '2',
         '--log_interval', '1', '--eval_interval', '0', '--checkpoint_interval', '50', '--keep_last_n_checkpoints', '2']

def words(name, *more, before=''): return [sys.executable, '-c', f'{before}\nfrom nanogpt_lit.config import nanogpt_{name} as main; raise SystemExit(main())', *more]
def call(name, *more, cwd, **kw): return run_argv(words(name, *more, **kw), cwd=cwd, env=ENV, capture_output=True, text=True, timeout=120)

@pytest.fixture(scope='module')
def text(tmp_path_factory):
    home = tmp_path_factory.mktemp('watching')
    (home/'text.txt').write_text('the cat sat on the mat and looked at the rat. '*200)
    return home

def status(run):
    try: return json.loads((run/'status.json').read_text())
    except (OSError, ValueError): return {}

@pytest.mark.skipif(os.name != 'posix', reason='pseudo-terminals')
def test_watch_a_training_kill_it_and_go_on(text):
    import fcntl, pty, struct, termios
    trainer = Popen(words('train', *SMALL, '--input', 'text.txt', '--out_dir', 'runs/a', '--max_steps', '1000000'), cwd=text, env=ENV,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    master, slave = pty.openpty()
    def resize(cols, lines): fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack('HHHH', lines, cols, 0, 0))
    resize(90, 30)
    monitor = Popen(words('monitor', 'runs/a', '--interval', '.3'), cwd=text, env=ENV, stdin=slave, stdout=slave, stderr=slave, start_new_session=True)
    os.close(slave)
    shown = b''
    def until(*wanted):
        nonlocal shown
        def there():
            nonlocal shown
            while select.select([master], [], [], .05)[0]: shown += os.read(master, 65536)
            return all(o in shown.decode('utf-8', 'replace') for o in wanted)
        wait_for(there)
    try:
        until('waiting')                                         # it may be opened before there is anything to see
        until('running', 'tok/s', 'CPU', 'memory', 'left')
        shown = b''
        resize(50, 12)
        until('running')
        pages = shown.decode('utf-8', 'replace').split('\x1b[H')
        page = pages[-2] if len(pages) > 2 else pages[-1]
        assert page.count('\r\n') < 12
        wait_for(lambda: (text/'runs/a/latest').exists())
        trainer.kill(); trainer.wait()
        shown = b''
        until('died', '--auto_resume')
        os.write(master, b'q')
        assert monitor.wait(timeout=30) == 0
        while select.select([master], [], [], .2)[0]:
            try: shown += os.read(master, 65536)
            except OSError: break
        assert shown.rstrip().endswith(b'\x1b[?1049l')           # the terminal is as before
    finally:
        for p in (trainer, monitor):
            if p.poll() is None: p.kill(); p.wait()
        os.close(master)
    once = call('monitor', 'runs/a', '--once', cwd=text)
    assert once.returncode == 0 and 'died' in once.stdout and '\x1b' not in once.stdout
    assert call('monitor', cwd=text).stdout.split(' · ')[0] == 'runs/a'   # no terminal, no name: the newest run, once
    report = call('report', 'runs/a', cwd=text)
    assert report.returncode == 0 and 'class="state died"' in (text/'runs/a/report.html').read_text()
    step = status(text/'runs/a')['step']
    again = call('train', *SMALL, '--input', 'text.txt', '--out_dir', 'runs/a', '--auto_resume', '--max_steps', str(step + 50), cwd=text)
    assert again.returncode == 0, again.stderr
    assert status(text/'runs/a')['state'] == 'finished' and 'class="state finished"' in (text/'runs/a/report.html').read_text()

LOOKS_OFTEN = '''
from nanogpt_lit.limits import MemoryLimit
first, *others = MemoryLimit.__init__.__defaults__
assert first == 2.                                               # seconds between two looks
MemoryLimit.__init__.__defaults__ = (.1, *others)
'''

def test_memory_limit_saves_and_stops(text):
    r = call('train', *SMALL, '--input', 'text.txt', '--out_dir', 'runs/full', '--max_steps', '1000000', '--max-memory', '1', '--max-cpu', '20', cwd=text, before=LOOKS_OFTEN)
    assert r.returncode not in (0, 1) and 'stopped by the memory limit' in r.stdout and '--auto_resume continues' in r.stdout, r.stdout[-2000:] + r.stderr
    assert status(text/'runs/full')['state'] == 'stopped' and (text/'runs/full/latest').exists()
    assert 'class="state stopped"' in (text/'runs/full/report.html').read_text()

def test_the_words_of_minigpt(text):
    r = call('train', *SMALL, '--input', 'text.txt', '--out_dir', 'runs/mini', '--max-steps', '4', '--save-steps', '2', '--plot-loss', '--disable-monitoring', '--disable-optimizations',
             '--num-threads', '1', '--max-cpu', '1', cwd=text)
    assert r.returncode == 0, r.stderr
    plots = sorted(p.name for p in (text/'runs/mini/plots').iterdir())
    assert plots == ['loss_curve_final_step_4.png', 'loss_curve_latest.png', 'loss_curve_step_2.png', 'loss_curve_step_4.png']
    assert not (text/'runs/mini/status.json').exists() and 'working' not in r.stdout
    assert call('plot', '--checkpoint-dir', 'runs/mini', '--panels', '--x', 'tokens', '--output', 'p.svg', cwd=text).returncode == 0 and (text/'p.svg').exists()

@pytest.mark.parametrize('name,flags,says', [
    ('train', ['--max_cpu', '120'], 'max_cpu=120'), ('train', ['--max_memory', '-3'], 'max_memory=-3'), ('train', ['--max_memory', 'much'], 'much'),
    ('train', ['--stop_on_overfit', '-1'], 'stop_on_overfit=-1'), ('monitor', ['no/such/run', '--once'], 'does not exist'), ('monitor', ['--interval', 'nan'], 'interval'),
    ('monitor', ['a', 'b'], 'b'), ('plot', ['x', '--x', 'moon'], 'moon'), ('plot', ['x', '--last', '0'], 'last=0'), ('plot', ['x', '--smooth', '-2'], 'smooth=-2'),
    ('report', [], 'no run to report on'), ('report', ['nowhere'], 'does not exist')])
def test_nonsense_costs_one_line(name, flags, says, tmp_path):
    r = call(name, *flags, cwd=tmp_path)
    assert r.returncode == 1 and r.stderr.startswith('error: ') and r.stderr.count('\n') == 1 and says in r.stderr, r.stderr
    assert not [*tmp_path.iterdir()]

@pytest.mark.parametrize('line', ['{"step": 1, "loss": "2.0"}', '{"step": null, "loss": 1}', '{"step": "1", "loss": 1}', '{"step": 1, "loss": null}', '{"step": 1, "loss": 1, "elapsed_s": null}',
                                  '{"step": 1, "loss": [1]}', '{"step": 1, "train_loss": 1, "val_loss": "a"}', '{"iter": 1, "loss": 1}', '[1]', ''])
def test_metrics_of_other_programs(line, tmp_path, monkeypatch, capsys):
    "What isn't a number is left out; what isn't a record costs a line"
    from nanogpt_lit.config import nanogpt_monitor, nanogpt_plot
    monkeypatch.chdir(tmp_path)
    (tmp_path/'m').mkdir()
    (tmp_path/'m'/'metrics.jsonl').write_text(line + '\n' + '{"step": 2, "loss": 1.5}\n')
    told = 'm/metrics.jsonl: 1 damaged line left out\n' if line and not line.startswith('{"step": 1,') else ''
    for axis in ('step', 'time'):
        code, said = nanogpt_plot(['m', '--panels', '--x', axis, '--output', 'm.svg']), capsys.readouterr()
        assert (code, said.err) == (0, told), said.err
    assert nanogpt_monitor(['m', '--once']) == 0

@pytest.mark.parametrize('note', ['{"state": 5, "step": "x"}', '{"state": "running", "updated": "x", "host": "elsewhere"}', '{"state": "running", "host": "elsewhere", "updated": null}', '[]', 'x',
                                  '{"state": "finished", "step": "a", "elapsed_s": "b", "tokens": "q", "progress": "z", "environment": 3, "parameters": "n", "cpu": "x"}', '{"state": ["a"], "pid": "x"}'])
def test_a_status_that_is_nonsense(note, tmp_path, monkeypatch):
    from nanogpt_lit.config import nanogpt_monitor, nanogpt_report
    monkeypatch.chdir(tmp_path)
    (tmp_path/'m').mkdir()
    (tmp_path/'m'/'config.toml').write_text('n_layer = 1\n')
    (tmp_path/'m'/'metrics.jsonl').write_text('{"step": 2, "loss": 1.5}\n{"step": 3, "loss": 1.5}\n')
    (tmp_path/'m'/'status.json').write_text(note)
    assert nanogpt_monitor(['m', '--once']) == 0 and nanogpt_report(['m']) == 0
