"nanogpt-tokenizer as a shell sees it: pipes, terminals, Ctrl-C, odd files."
import os, re, select, signal, subprocess, sys, time
from pathlib import Path
import numpy as np
import pytest
from nbformat import NotebookNode
from nbdev.clean import clean_nb
from build_docs import still
from harness import Popen, run_argv
from nanogpt_lit.tokenizer import CharTokenizer, Tokenizer

pty = pytest.importorskip('pty', reason='there are no pseudo-terminals on Windows')

EXE = str(Path(sys.executable).parent/'nanogpt-tokenizer')
TEXT = 'The cat sat on the mat. Die Katze saß auf der Matte. 猫坐在垫子上。\n'*2000

def run(*words, cwd, **kw):
    r = run_argv([EXE, *words], capture_output=True, text=True, timeout=120, cwd=cwd, encoding='utf-8', **kw)
    return r.returncode, r.stdout, r.stderr

@pytest.fixture(scope='module')
def work(tmp_path_factory):
    d = tmp_path_factory.mktemp('work')
    (d/'text.txt').write_text(TEXT, encoding='utf-8')
    (d/'cover.png').write_bytes(b'\x89PNG\r\n\x1a\n\x00\x01')
    (d/'text.gz').write_bytes(b'\x1f\x8b\x08\x00\x00')
    (d/'latin.txt').write_bytes('Käse'.encode('latin-1'))
    (d/'empty.txt').touch()
    (d/'folder').mkdir()
    Tokenizer.train([TEXT], 300, progress=False).save(d/'tokenizer')
    (d/'damaged.json').write_text((d/'tokenizer'/'tokenizer.json').read_text(encoding='utf-8')[:3000], encoding='utf-8')
    CharTokenizer('abc').save(d/'letters')
    return d

@pytest.mark.parametrize('method', ['streaming', 'memory', 'auto'])
@pytest.mark.parametrize('name, flags', [('x.npy', []), ('x.bin', []), ('y.bin', ['--dtype', 'int32'])])
def test_there_and_back(work, method, name, flags):
    code, out, err = run('encode', '--input', 'text.txt', '--output', name, '--method', method, *flags, cwd=work)
    assert (code, err) == (0, '') and name in out
    ids = np.load(work/name) if name.endswith('npy') else np.fromfile(work/name, flags[-1] if flags else 'uint16')
    tok = Tokenizer.from_json(work/'tokenizer'/'tokenizer.json')
    assert ids.tolist() == tok.encode(TEXT)
    assert run('decode', '--input', name, *flags, '--output', 'back.txt', cwd=work)[0] == 0
    assert (work/'back.txt').read_bytes() == TEXT.encode()
    assert run('decode', '--input', name, *flags, cwd=work)[1] == TEXT

def test_a_reader_that_leaves_early_is_no_error_message(work):
    r = run_argv(f'"{EXE}" encode --input text.txt | head -c 20', shell=True, capture_output=True, text=True, cwd=work, timeout=60)
    assert len(r.stdout) == 20 and r.stderr == ''

@pytest.mark.parametrize('line, hint', [
    ('train cover.png', 'PNG picture'), ('train text.gz', 'damaged or cut short'), ('train latin.txt', 'offset 1'), ('train empty.txt', 'no text'),
    ('train folder', 'holds no text files'), ('train nowhere.txt', 'does not exist'), ('train text.txt --vocab_size 40000', 'merges, so at most'),
    ('train text.txt --special_tokens a a', 'given 2 times'), ('train text.txt --special_tokens=', 'at least one character'),
    ('train text.txt --out_dir text.txt/x', 'cannot be written'), ('train text.txt --pattern gpt22', 'unknown split pattern'),
    ('encode --input cover.png --output z.npy', 'PNG picture'), ('encode --input text.txt --output folder', '.npy or .bin'),
    ('encode --input text.txt --output no/z.npy', 'does not exist'), ('encode --input latin.txt', 'offset 1'), ('encode x --tokenizer damaged.json', 'not valid JSON'),
    ('encode xyz --tokenizer letters', 'U+0078'), ('decode 5 300 1', 'id 300'), ('decode --input text.txt', '.npy or .bin'), ('inspect folder', 'holds no tokenizer'),
    ('inspect cover.png', 'not UTF-8'), ('compare tokenizer', 'two'), ('add tokenizer', '--out_dir'), ('add damaged.json --out_dir z', 'not valid JSON'),
], ids=lambda o: o)
def test_a_mistake_is_one_line_and_leaves_nothing(work, line, hint):
    if line.startswith('train') and '--out_dir' not in line: line += ' --out_dir new'       # `work` has a tokenizer already
    before = sorted(p.name for p in work.rglob('*'))
    code, out, err = run(*line.split(), cwd=work)
    assert code == 1 and err.startswith('error: ') and err.count('\n') == 1 and hint in err, err
    assert sorted(p.name for p in work.rglob('*')) == before, 'something was left behind'

def in_a_terminal(*words, cwd, **env):
    "What a command prints when its output is a terminal"
    pid, fd = pty.fork()
    if not pid:
        os.chdir(cwd)
        os.execve(EXE, [EXE, *words], {**{k: v for k, v in os.environ.items() if k != 'NO_COLOR'}, 'TERM': 'xterm', **env})
    out = b''
    while select.select([fd], [], [], 60)[0]:
        try: data = os.read(fd, 4096)
        except OSError: break
        if not data: break
        out += data
    os.waitpid(pid, 0)
    os.close(fd)
    return out.decode()

def test_colours_only_where_they_are_wanted(work):
    words = ['inspect', 'tokenizer', 'The cat', '--top', '1']
    assert '\x1b[48;5;' in in_a_terminal(*words, cwd=work)
    assert '\x1b' not in in_a_terminal(*words, cwd=work, NO_COLOR='1')
    assert '\x1b' not in run(*words, cwd=work)[1] and '|' in run(*words, cwd=work)[1]
    assert '\x1b' in run(*words, '--color', 'always', cwd=work)[1]

def test_a_text_cannot_act_on_the_terminal(work):
    (work/'escape.txt').write_text('\x1b]0;title\x07 \u202e abc \x9b2J', encoding='utf-8')
    out = run('inspect', 'tokenizer', '--input', 'escape.txt', cwd=work)[1]
    assert not re.search('[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]', out) and '\\x1b' in out

@pytest.mark.parametrize('line', ['encode --input big.txt --output z.npy --workers 2', 'encode --input big.txt --output z.npy --workers 1',
                                  'train big.txt --kind char --out_dir z'])
def test_ctrl_c_leaves_nothing(work, line):
    if not (work/'big.txt').exists(): (work/'big.txt').write_text(TEXT*300, encoding='utf-8')
    before = sorted(p.name for p in work.iterdir())
    def foreground(): os.setsid(); signal.signal(signal.SIGINT, signal.default_int_handler)
    p = Popen([EXE, *line.split()], cwd=work, preexec_fn=foreground, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    until = time.time() + 60
    while p.poll() is None and time.time() < until and sorted(o.name for o in work.iterdir()) == before: time.sleep(.01) # until it has begun to write
    os.killpg(p.pid, signal.SIGINT)
    out, err = p.communicate(timeout=60)
    assert (p.returncode, err.strip()) == (130, 'stopped'), err[-2000:]
    assert sorted(o.name for o in work.iterdir()) == before

def test_a_live_widget_does_not_reach_the_site():
    live = NotebookNode(output_type='display_data', data={'application/vnd.jupyter.widget-view+json': {'model_id': 'x'}, 'text/html': '<b>1</b>'})
    cell = NotebookNode(cell_type='code', source='explore(tok)', outputs=[live], metadata={}, execution_count=1, id='a')
    nb = NotebookNode(cells=[cell], metadata={'widgets': {'state': {}}}, nbformat=4, nbformat_minor=5)
    clean_nb(nb)
    assert [*still(nb.cells[0].outputs[0]).data] == ['text/html']
