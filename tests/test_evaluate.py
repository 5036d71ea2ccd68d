"Evaluation and chat as their users meet them: several processes, questions that are none, an answer stopped halfway."
import argparse, json, os, sys
from pathlib import Path
import pytest, torch
from harness import run_argv
from nanogpt_lit import grading
from nanogpt_lit.chat import Chat, chat_loop
from nanogpt_lit.config import nanogpt_eval, nanogpt_train
from nanogpt_lit.core import UserError, check_writable
from nanogpt_lit.instructions import with_template
from nanogpt_lit.interop import to_hf
from nanogpt_lit.checkpoint import write_run
from nanogpt_lit.model import GPT
from nanogpt_lit.config import GPTConfig
from nanogpt_lit.tokenizer import Tokenizer

WORDS = ['--n_layer', '1', '--n_head', '2', '--n_embd', '16', '--block_size', '64', '--batch_size', '4', '--device', 'cpu', '--num_threads', '1',
         '--max_steps', '4', '--eval_interval', '4', '--eval_iters', '1']

@pytest.fixture(scope='module')
def home(tmp_path_factory):
    "A folder with a run that has learned next to nothing, and questions to ask it"
    home = tmp_path_factory.mktemp('evaluate')
    (home/'text.txt').write_text(Path(argparse.__file__).read_text(encoding='utf-8')[:30_000], encoding='utf-8')
    assert nanogpt_train([*WORDS, '--input', str(home/'text.txt'), '--tokenizer_vocab_size', '400', '--out_dir', str(home/'run')]) == 0
    ask = [dict(ctx=f'the {a} sat on', endings=[' the mat', ' a hat', ' it', ' some rats'], label=i % 4) for i, a in enumerate(('cat', 'dog', 'rat')*6)]
    for name in ('one', 'two'): (home/f'{name}.jsonl').write_text('\n'.join(map(json.dumps, ask)), encoding='utf-8')
    return home

@pytest.fixture
def here(home, tmp_path, monkeypatch, capsys):
    "`here('run', '--tasks', …)` evaluates inside `home`: (exit code, what was said)"
    monkeypatch.chdir(home)
    def go(*words):
        capsys.readouterr()
        code = nanogpt_eval([*map(str, words), '--device', 'cpu', '--num_threads', '1'])
        said = capsys.readouterr()
        return code, said.out + said.err
    return go

def results(folder): return json.loads((Path(folder)/'results.json').read_text(encoding='utf-8'))['results']

def test_processes_that_overtake_each_other_leave_results(here, monkeypatch, tmp_path):
    "Rank 1 does everything between rank 0's first task and its second: each of them has finished one task last"
    examine, calls = grading.examine, []
    def first_then_the_other(*args):
        found = examine(*args)
        if not calls:
            calls.append(1)
            monkeypatch.setenv('RANK', '1')
            assert here('run', '--tasks', 'one.jsonl', 'two.jsonl', '--out_dir', tmp_path/'both')[0] == 0
        return found
    monkeypatch.setattr(grading, 'examine', first_then_the_other)
    monkeypatch.setenv('WORLD_SIZE', '2')
    monkeypatch.setenv('RANK', '0')
    assert here('run', '--tasks', 'one.jsonl', 'two.jsonl', '--out_dir', tmp_path/'both')[0] == 0
    monkeypatch.setenv('WORLD_SIZE', '1')
    monkeypatch.setenv('RANK', '0')
    assert here('run', '--tasks', 'one.jsonl', 'two.jsonl', '--out_dir', tmp_path/'alone')[0] == 0
    assert results(tmp_path/'both') == results(tmp_path/'alone') and len(results(tmp_path/'both')) == 2

def test_a_task_named_twice_is_done_once(here, tmp_path):
    code, said = here('run', '--tasks', 'one.jsonl', 'one.jsonl', '--out_dir', tmp_path)
    assert code == 0 and [*results(tmp_path)] == ['one'], said
    (tmp_path/'one.jsonl').write_bytes(Path('two.jsonl').read_bytes())
    code, said = here('run', '--tasks', 'one.jsonl', tmp_path/'one.jsonl', '--out_dir', tmp_path)
    assert code == 1 and "two tasks are called 'one'" in said and said.count('\n') == 1

def test_a_run_whose_data_are_gone(here, home, tmp_path):
    import shutil
    shutil.copytree(home/'run', tmp_path/'r', ignore=shutil.ignore_patterns('data'))
    code, said = here(tmp_path/'r', '--tasks', 'loss')
    assert code == 1 and 'was trained on' in said and 'text.txt, which is not at hand here' in said and said.count('\n') == 1
    (tmp_path/'r/config.toml').write_text('[[[')
    code, said = here(tmp_path/'r', '--tasks', 'loss')
    assert code == 1 and 'is no TOML file' in said and said.count('\n') == 1

def test_torn_lines_are_asked_again(here, tmp_path):
    def ask(): return here('run', '--tasks', 'one.jsonl', 'loss', '--out_dir', tmp_path)
    assert ask()[0] == 0
    whole = results(tmp_path)
    for name in ('one', 'loss'):
        book = tmp_path/f'{name}.0.jsonl'
        lines = book.read_bytes().splitlines(keepends=True)
        book.write_bytes(b''.join(lines[:3]) + lines[3][:20] + b'}\n' + lines[4] + bytes(30))
    (tmp_path/'results.json').unlink()
    code, said = ask()
    assert code == 0 and 'one: 3 of 18 were answered before' in said and results(tmp_path) == whole, said

def test_torn_line_of_scores_during_training(home, tmp_path, capsys):
    words = [*WORDS, '--input', str(home/'text.txt'), '--tokenizer', str(home/'run'/'tokenizer'), '--hellaswag', str(home/'one.jsonl'), '--hellaswag_interval', '2', '--out_dir', str(tmp_path/'r')]
    assert nanogpt_train(words) == 0
    with open(tmp_path/'r/hellaswag.jsonl', 'a') as f: f.write('{"step": 6, "n": 1')
    assert nanogpt_train(['--auto_resume', '--out_dir', str(tmp_path/'r'), '--max_steps', '8']) == 0, capsys.readouterr().err
    rows = [json.loads(o) for o in (tmp_path/'r/hellaswag.jsonl').read_text().splitlines()]
    assert [r['step'] for r in rows] == [2, 4, 6, 8] and all(r['n'] == 18 for r in rows)

@pytest.fixture(scope='module')
def chatty():
    "A tokenizer with a chat template, and a model of random weights: it says nonsense at length"
    tok = with_template(Tokenizer.train(['to be or not to be, that is the question '*9], 280, progress=False))
    torch.manual_seed(0)
    return GPT(GPTConfig(vocab_size=tok.vocab_size, block_size=64, n_layer=1, n_head=2, n_embd=16)).eval(), tok

@pytest.fixture
def talk(chatty):
    "`talk('hello', '/undo')` types these lines and presses Ctrl-C at the first piece of the first answer"
    def go(*lines):
        chat, typed, shown, pressed = Chat(*chatty, max_new_tokens=8), iter(lines), [], []
        def read(prompt):
            try: return next(typed)
            except StopIteration: raise EOFError from None
        def write(text):
            shown.append(text)
            if chat.turns and not pressed and text.strip(): pressed.append(1); raise KeyboardInterrupt
        chat_loop(chat, read, write)
        assert pressed
        return [t['role'] for t in chat.turns], ''.join(shown)
    return go

def test_an_answer_stopped_halfway_can_be_undone_retried_and_gone_on_from(talk):
    assert talk('hello', '/undo')[0] == []
    for lines in (('hello', '/retry'), ('hello',)): assert talk(*lines)[0] == ['user', 'assistant']
    assert talk('hello', 'and then?')[0] == ['user', 'assistant']*2

@pytest.mark.parametrize('text', ['{}', '[]', '{"messages": []}', '{"messages": 3}', '{"messages": [{"role": "user"}]}', 'hello'])
def test_a_file_that_is_no_conversation(chatty, tmp_path, text):
    (tmp_path/'talk.jsonl').write_text(text)
    chat = Chat(*chatty)
    with pytest.raises(UserError, match='no saved conversation'): chat.load(tmp_path/'talk.jsonl')
    assert chat.turns == []

@pytest.mark.parametrize('turns', [400, 401])
def test_a_talk_far_longer_than_the_window_goes_on(chatty, turns):
    "Whole exchanges fall out of view, the system prompt stays, and the marks stand where they belong; also after an unanswered question"
    model, tok = chatty
    chat = Chat(model, tok, system='be', max_new_tokens=4)
    chat.turns = [dict(role=('user', 'assistant')[i % 2], content='to be or not') for i in range(turns)]
    if turns % 2: chat.command('/undo')
    ids = []
    chat._drawn = lambda shown: ids.extend(shown) or iter(())
    chat.say('is it?')
    seen = tok.decode(ids)
    assert len(ids) + 4 <= 64 and seen.startswith('<|im_start|>system\nbe<|im_end|>\n<|im_start|>user\n')
    assert seen.endswith('<|im_start|>user\nis it?<|im_end|>\n<|im_start|>assistant\n') and 'oldest turns' in chat.note
    assert ''.join(chat.command('/retry')) == '' and chat.turns[-2]['content'] == 'is it?'

def test_a_question_longer_than_the_window_keeps_its_marks(chatty):
    model, tok = chatty
    chat = Chat(model, tok, system='be', max_new_tokens=4)
    chat.turns = [dict(role='user', content='\N{CAT}'*500 + ' is it?')]
    seen = tok.decode(chat.window()[1])
    assert seen.startswith('<|im_start|>system\nbe<|im_end|>\n<|im_start|>user\n\N{CAT}') and 'is it?<|im_end|>' in seen
    assert '\ufffd' not in seen and len(chat.window()[1]) <= 60

def test_two_processes_say_the_same_and_survive_what_is_typed(chatty, tmp_path):
    "Bytes that are no UTF-8, control characters, a block that the end of the input cuts off"
    write_run(*chatty, check_writable(tmp_path/'run'))
    words = [str(Path(sys.executable).with_name('nanogpt-chat')), 'run', '--device', 'cpu', '--num_threads', '1', '--max_new_tokens', '30', '--temperature', '2']
    typed = b'caf\xc3\xa9 \xff\n/system \x1b[2J\nto be\n/retry\n/history\n"""\n/undo\nor not'
    def once(**kw): return run_argv(words, input=typed, cwd=tmp_path, capture_output=True, timeout=120, **kw)
    one, two = once(), once(env=dict(os.environ, PYTHONHASHSEED='random'))     # each hashes strings in its own way
    assert one.returncode == 0 and one.stdout == two.stdout, one.stderr.decode()
    said = one.stdout.decode()
    assert '\N{SYMBOL FOR ESCAPE}[2J' in said and not any(c in said for c in '\x1b\x07\r\x7f\x9b'), repr(said)
    assert 'unknown command' not in said and 'forgotten' not in said and said.count('user: ') == 1

def test_an_exported_chat_model_ends_its_turn(chatty, tmp_path):
    model, tok = chatty
    to_hf(model, tmp_path/'hf', tokenizer=tok)
    ends = json.loads((tmp_path/'hf/generation_config.json').read_text())['eos_token_id']
    assert tok.special_tokens['<|im_end|>'] in (ends if isinstance(ends, list) else [ends])

def test_a_task_that_the_harness_does_not_know(here, tmp_path):
    pytest.importorskip('lm_eval', reason='the evaluation harness is not installed')
    code, said = here('run', '--tasks', 'harness:nope', '--out_dir', tmp_path)
    assert code == 1 and 'does not know nope' in said and 'Traceback' not in said

def test_figures_of_an_earlier_harness_run_are_not_taken_for_these(here, monkeypatch, tmp_path):
    "Process 1 of 2 finds what another exam has left behind; then process 0 of this one delivers"
    monkeypatch.setattr(grading, 'harness_results', lambda run, tasks, cfg: {f'harness:{t}': dict(acc=.5, n=2) for t in tasks})
    assert here('run', '--tasks', 'harness:old', '--out_dir', tmp_path)[0] == 0
    (tmp_path/'results.json').unlink()
    monkeypatch.setenv('WORLD_SIZE', '2')
    monkeypatch.setenv('RANK', '1')
    code, said = here('run', '--tasks', 'harness:new', '--out_dir', tmp_path)
    assert code == 0 and 'the harness' in said and not (tmp_path/'results.json').exists()
    monkeypatch.setenv('RANK', '0')
    assert here('run', '--tasks', 'harness:new', '--out_dir', tmp_path)[0] == 0
    assert [*results(tmp_path)] == ['harness:new']

def test_questions_that_are_cut_are_counted(here, tmp_path):
    ask = [dict(ctx='the cat sat on', endings=[' the mat', ' a hat'], label=0), dict(ctx='the cat sat on '*99, endings=['a', 'b'], label=1),
           dict(ctx='the cat', endings=[' sat on the mat'*99, ' sat'], label=1)]
    (tmp_path/'long.jsonl').write_text('\n'.join(map(json.dumps, ask)))
    code, said = here('run', '--tasks', tmp_path/'long.jsonl', '--out_dir', tmp_path)
    found = results(tmp_path)['long']
    assert code == 0 and (found['context_cut'], found['ending_cut']) == (1, 1)
    assert 'of 3 questions 1 lost the beginning of their context and 1 lost even part of an ending' in said and '64 tokens' in said

def test_a_held_out_text_that_repeats_itself_ends_in_a_sentence(here, tmp_path):
    from nanogpt_lit.data import prepare
    prepare(['one and the same line\n'*300]*4, tmp_path/'same', tokenizer=str(Path('run/tokenizer').resolve()), val_fraction=.5, progress=False)
    code, said = here('run', '--tasks', 'cloze', '--data', tmp_path/'same', '--out_dir', tmp_path/'out')
    assert code == 1 and 'says the same over and over' in said and said.count('\n') == 1

def test_a_task_of_ones_own_in_the_harness(here, home, tmp_path):
    "The harness's multiple choice on a local file gives what our own scores give, added up in its way: both encoded together here"
    pytest.importorskip('lm_eval', reason='the evaluation harness is not installed')
    (tmp_path/'mine.yaml').write_text(f'''task: mine
dataset_path: json
dataset_kwargs: {{data_files: {{validation: {home/'one.jsonl'}}}}}
output_type: multiple_choice
validation_split: validation
doc_to_text: "{{{{ctx}}}}"
doc_to_choice: "{{{{endings}}}}"
doc_to_target: label
target_delimiter: ""
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
''')
    code, said = here('run', '--tasks', 'harness:mine', 'one.jsonl', '--include_path', tmp_path, '--out_dir', tmp_path/'out')
    assert code == 0, said
    found = results(tmp_path/'out')
    assert found['harness:mine']['n'] == 18 and found['harness:mine']['acc'] == pytest.approx(found['one']['acc'])
    code, said = here('run', '--tasks', 'harness:mine', '--include_path', tmp_path/'nowhere', '--out_dir', tmp_path/'out')
    assert code == 1 and 'expected a folder of task files' in said and said.count('\n') == 1
