"Records, tuned checkpoints, penalties and exams have the right values: what other people's files and tests expect."
import bz2, gzip, json, lzma, random, shutil
from collections import Counter
from pathlib import Path
import numpy as np
import pytest
import torch
from harness import WORDS, small_home, spoken

SMALL = '--device cpu --num_threads 1 --max_new_tokens 4 --generate_interval 0 --eval_iters 1'.split()

@pytest.fixture(scope='module')
def home(tmp_path_factory):
    "A folder with a base of three steps and some pairs"
    return small_home(tmp_path_factory.mktemp('records'), pairs=7)

@pytest.fixture
def tune(home, tmp_path, monkeypatch):
    from nanogpt_lit.config import nanogpt_finetune
    monkeypatch.chdir(home)
    def call(*words, base='base', source='pairs.jsonl', out=tmp_path/'out'):
        given = [*SMALL, *(['--pretrained_checkpoint', base] if base else []), *(['--input', source] if source else []), '--out_dir', out, *words]
        return spoken(nanogpt_finetune, *given)
    call.out = tmp_path/'out'
    return call

# --- 1. settings of tuning in a checkpoint ------------------------------------------------------------------------------

def old_kind(file):
    "The checkpoint as earlier versions wrote it: all settings side by side"
    from nanogpt_lit.checkpoint import load_checkpoint, save_checkpoint
    state = {k: v for k, v in load_checkpoint(file).items() if k != 'checksum'}
    config = dict(state['config'])
    file.unlink()
    save_checkpoint(file, state | dict(config=config | config.pop('tuning')))

def test_tuning_saves_nothing_that_pretraining_would_misread(home, tune):
    from nanogpt_lit.checkpoint import load_checkpoint
    from nanogpt_lit.config import GPTConfig, RunConfig, nanogpt_train
    from nanogpt_lit.config import flat_fields
    assert tune('--max_steps', 2, '--batch_size', 4)[0] == 0
    saved = load_checkpoint(tune.out/'model_00002.pt')['config']
    assert {k for k in saved if k in flat_fields(RunConfig)} == {*flat_fields(GPTConfig)}
    assert saved['tuning']['strategy'] == 'balanced' and saved['tuning']['batch_size'] == 4
    code, said = spoken(nanogpt_train, '--resume', '--checkpoint_path', tune.out/'model_00002.pt', *'--input text.txt --max_steps 4 --device cpu --num_threads 1 --no-plot_loss'.split(),
                        '--tokenizer', tune.out/'tokenizer', '--out_dir', tune.out.parent/'more')
    assert code == 0 and 'at step 0' in said, said[-1500:]

@pytest.mark.parametrize('more', [(), ('--lora_rank', 2)], ids=['all weights', 'adapters'])
def test_tuned_checkpoints_of_both_kinds_are_resumed(tune, more):
    from nanogpt_lit.interop import load_run
    assert tune('--max_steps', 2, '--batch_size', 4, *more)[0] == 0
    kept = tune.out.parent/'old'
    shutil.copytree(tune.out, kept)
    old_kind(kept/'model_00002.pt')
    code, said = tune('--auto_resume', '--max_steps', 3)
    assert code == 0 and 'at step 2' in said and 'changed: batch_size' not in said, said[-1500:]
    code, said = tune('--auto_resume', '--max_steps', 3, out=kept)
    assert code == 0 and 'at step 2' in said and 'changed: batch_size' not in said, said[-1500:]
    one, two = (load_run(o/'model_00003.pt', 'cpu').model.state_dict() for o in (tune.out, kept))
    assert all(torch.equal(one[k], two[k]) for k in one)

# --- 2. to 4. fields of records -----------------------------------------------------------------------------------------

Q, A = dict(role='user', content='q'), dict(role='assistant', content='a')

def read(tmp_path, *records, **kw):
    from nanogpt_lit.instructions import read_instructions
    (tmp_path/'r.jsonl').write_text('\n'.join(map(json.dumps, records)))
    return read_instructions(tmp_path/'r.jsonl', **kw)

def test_fields_that_are_passed_over_are_named(tmp_path):
    record = dict(conversations=[dict(role='system', content='S', tools='[{}]'), Q, A | dict(reasoning_content='WHY', tool_calls='[{}]')], id=7)
    found = read(tmp_path, record, record, dict(messages=[Q, A], id=8, empty=''))
    assert sorted(found.report()) == ['id: 3 records, left out', *(f'{k}: 2 records, left out' for k in ('reasoning_content', 'tool_calls', 'tools'))]
    assert found.turns[0] == [dict(role='system', content='S'), Q, A]
    kept = read(tmp_path, record, reasoning='keep')
    assert kept.turns[0][2]['content'] == '<think>\nWHY\n</think>\n\na' and not any('reasoning' in o for o in kept.report())
    many = read(tmp_path, dict(messages=[Q, A]) | {f'field {i}\n': 1 for i in range(1000)})
    assert len(many.report()) <= 12 and all('\n' not in o for o in many.report())

def test_reasoning_is_a_flag(tune, tmp_path):
    rows = [dict(messages=[dict(role='user', content=f'the {w}?'), dict(role='assistant', content='a dog', reasoning_content='the cat')]) for w in WORDS]
    (tmp_path/'why.jsonl').write_text('\n'.join(map(json.dumps, rows)))
    tokens = {}
    for how in ('drop', 'keep'):
        code, said = tune('--reasoning', how, '--prepare', tmp_path/how, source=tmp_path/'why.jsonl')
        assert code == 0 and ('reasoning_content: 21 records, left out' in said) == (how == 'drop'), said
        tokens[how] = json.loads((tmp_path/how/'meta.json').read_text())['splits']['train'][0]['tokens']
    assert tokens['keep'] > tokens['drop'] + 19*10

def test_an_answer_of_weight_0_is_only_read(tmp_path):
    from nanogpt_lit.instructions import TEMPLATES, encode_turns, with_template
    from nanogpt_lit.tokenizer import Tokenizer
    for name in ('chatml', 'plain'):
        tok = with_template(Tokenizer.train(['abc'], 257, progress=False), name)
        talk = [Q, A | dict(content='first', weight=0), Q, A | dict(content='second', weight=1)]
        plain, weighed = (read(tmp_path, dict(messages=o)).turns[0] for o in ([{k: v for k, v in t.items() if k != 'weight'} for t in talk], talk))
        (ids, all_of_them), (same, mask) = (encode_turns(o, tok, TEMPLATES[name]) for o in (plain, weighed))
        end = TEMPLATES[name].end(tok)
        assert ids == same and tok.decode(np.array(ids)[mask].tolist()) == f'second{end}'
        assert tok.decode(np.array(ids)[all_of_them].tolist()) == f'first{end}second{end}'
    found = read(tmp_path, dict(messages=[Q, A]), dict(messages=[Q, A | dict(weight=0)]))
    assert len(found) == 1 and [*found.dropped] == ['every answer has the weight 0']

S = dict(role='system', content='S')
SAME = {'conversation': dict(conversation=[Q, A]), 'question': dict(question='q', answer='a'), 'input': dict(input='q', output='a'), 'prompt': dict(prompt='q', response='a'),
        'alpaca': dict(instruction='q', input='', output='a'), 'orca': dict(question='q', response='a')}

@pytest.mark.parametrize('record', SAME.values(), ids=SAME)
def test_formats_with_a_system_prompt_and_a_history(tmp_path, record):
    from nanogpt_lit.reading import record_text, render_chat
    earlier = [dict(role='user', content='q0'), dict(role='assistant', content='a0')]
    for more, want in (({}, [Q, A]), (dict(system='S'), [S, Q, A]), (dict(system=''), [Q, A]), (dict(history=[['q0', 'a0']]), [*earlier, Q, A]),
                       (dict(system='S', history=[['q0', 'a0']]), [S, *earlier, Q, A]), (dict(system=None, history=[]), [Q, A])):
        found = read(tmp_path, record | more)
        assert found.turns == [want] and found.report() == [], more
        assert record_text(record | more, 'text') == render_chat(want), more

def test_system_prompts_that_are_empty_or_two(tmp_path):
    from nanogpt_lit.reading import record_text, render_chat
    empty, both = dict(messages=[S | dict(content=' '), Q, A]), dict(messages=[S, Q, A], system='T')
    assert read(tmp_path, empty).turns == [[Q, A]] and record_text(empty, 'text') == render_chat([Q, A])
    found = read(tmp_path, both)
    assert found.turns == [[S, Q, A]] and found.report() == ['system: 1 record, left out'] and record_text(both, 'text') == render_chat([S, Q, A])
    odd = read(tmp_path, dict(prompt='q', response='a', history='long ago', system=7))
    assert odd.turns == [[Q, A]] and len(odd.report()) == 2

def test_help_lists_the_formats(capsys):
    from nanogpt_lit.config import nanogpt_finetune
    code, said = spoken(nanogpt_finetune, '--help')
    said = ' '.join(said.split())
    for name in ('messages', 'conversations', 'instruction + output', 'prompt + completion', 'question + answer', 'input + output'): assert name in said

# --- one stack: every format, every use -----------------------------------------------------------------------------------

PAIR = [dict(role='user', content='Double it.\n\n4'), dict(role='assistant', content='8')]
FLAT = {'alpaca': dict(instruction='Double it.', input='4', output='8'), 'dolly': dict(instruction='Double it.', context='4', response='8'),
        'prompt': dict(prompt='Double it.\n\n4', completion='8'), 'question': dict(question=' Double it.\n\n4', answer='8 '), 'input': dict(input='Double it.\n\n4', output='8')}
DEEP = {'messages': dict(messages=PAIR), 'conversation': dict(conversation=PAIR), 'sides': dict(prompt=PAIR[:1], completion=PAIR[1:]),
        'sharegpt': dict(conversations=[{'from': 'human', 'value': PAIR[0]['content']}, {'from': 'gpt', 'value': '8'}]),
        'model': dict(messages=[PAIR[0], dict(role='model', content='8')]), 'Capitals': dict(messages=[PAIR[0] | dict(role='User'), PAIR[1] | dict(role='Assistant')]),
        'parts': dict(messages=[dict(role='user', content=[dict(type='text', text='Double it.\n\n'), dict(type='text', text='4')]), dict(role='assistant', content=[dict(type='text', text='8')])])}
DEEP |= {f'{k} in JSON': v for k, v in FLAT.items()}
WHOLE = dict(messages=[dict(role='system', content='S'), dict(role='user', content='1'), dict(role='assistant', content='2'), *PAIR])
MORE = {'developer': dict(messages=[dict(role='developer', content='S'), *WHOLE['messages'][1:]]), 'system and history': dict(FLAT['alpaca'], system='S', history=[['1', '2']]),
        'system_prompt': dict(messages=WHOLE['messages'][1:], system_prompt=' S ')}

def as_table(path, records):
    import pyarrow as pa, pyarrow.parquet as pq
    table = pa.Table.from_pylist(records)
    if path.suffix == '.parquet': return pq.write_table(table, path)
    new = pa.ipc.new_file if path.suffix == '.feather' else pa.ipc.new_stream
    with pa.OSFile(str(path), 'wb') as f, new(f, table.schema) as w: w.write_table(table)

def as_csv(path, records):
    import csv
    with open(path, 'w', newline='', encoding='utf-8') as f:
        rows = csv.writer(f)
        rows.writerow(records[0])
        for o in records: rows.writerow(o.values())

def as_tsv(path, records):
    lines = ['\t'.join(records[0])] + ['\t'.join(o.values()) for o in records]
    path.write_text('\n'.join(lines) + '\n', encoding='utf-8')

def packed(pack):
    def write(path, records): path.write_bytes(pack('\n'.join(map(json.dumps, records)).encode()))
    return write

def zstd(data):
    import pyarrow as pa
    return pa.compress(data, 'zstd', asbytes=True)

WRITE = {'.jsonl': packed(bytes), '.ndjson': packed(bytes), '.json': lambda path, records: path.write_text(json.dumps(records, indent=1)), '.parquet': as_table, '.arrow': as_table,
         '.feather': as_table, '.jsonl.gz': packed(gzip.compress), '.jsonl.bz2': packed(bz2.compress), '.jsonl.xz': packed(lzma.compress), '.jsonl.zst': packed(zstd),
         '.json.gz': lambda path, records: path.write_bytes(gzip.compress(json.dumps(records).encode())), '.csv': as_csv, '.tsv': as_tsv,
         '.csv.gz': lambda path, records: (as_csv(path, records), path.write_bytes(gzip.compress(path.read_bytes())))}

def spoken_in(turns): return ''.join(f'{t["role"]}\n{t["content"]}\n' for t in turns)

def learned_from(path):
    from nanogpt_lit.tokenizer import training_texts
    return ''.join(training_texts(path))

def prepared_from(path):
    from nanogpt_lit.corpus import open_corpus
    text = ''.join(t for _, t in open_corpus(path).pieces())
    return text.replace('<|im_start|>', '').replace('<|im_end|>', '')

def tuned_on(path):
    from nanogpt_lit.instructions import read_instructions
    return ''.join(map(spoken_in, read_instructions(path).turns))

USES = {'tokenizer': learned_from, 'pretraining': prepared_from, 'tuning': tuned_on}

@pytest.mark.parametrize('suffix', WRITE)
@pytest.mark.parametrize('use', USES)
def test_every_format_means_the_same_to_every_use(tmp_path, use, suffix):
    flat = any(o in suffix for o in ('csv', 'tsv'))
    for name, record in (FLAT if flat else DEEP | MORE).items():
        if suffix == '.tsv': record = {k: v.replace('\n\n', ' ') for k, v in record.items()}
        path = tmp_path/f'r{suffix}'
        WRITE[suffix](path, [record, record])
        want = spoken_in(WHOLE['messages'] if name in MORE else PAIR)
        if suffix == '.tsv' and name not in ('alpaca', 'dolly'): want = want.replace('\n\n', ' ')
        assert USES[use](path) == 2*want, name

@pytest.mark.parametrize('use', USES)
def test_a_new_format_is_one_row(tmp_path, monkeypatch, use):
    from nanogpt_lit import reading
    def faq(path, how):
        for n, line in reading.read_lines(path):
            asked, _, said = line.decode().partition('? ')
            yield f'{path.name} line {n}', dict(question=f'{asked}?', answer=said)
    (tmp_path/'help.faq').write_text('Who? Me.')
    monkeypatch.setitem(reading.FORMATS, '.faq', faq)
    assert USES[use](tmp_path/'help.faq') == USES[use](tmp_path) == 'user\nWho?\nassistant\nMe.\n'

BAD = ['{"instruction": "Double it.", "input": "4", "output": "8"}', '{"prompt": "torn', '{"prompt": "a", "completion": "b", "prompt": "c"}', '["a"]',
       '{"messages": [{"content": "x"}]}', '{"messages": []}', '{"prompt": "a", "completion": 3}', '{"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}', '{"prompt": "\\ud83e", "completion": "b"}',
       '{"prompt": ' + '['*100_000, '{"prompt": ' + '9'*5000 + '}']
WHY = ['not JSON', 'a key twice', 'not a record', 'a turn without a role', 'no turns', 'a field is not a text', 'a part that is not a text', 'half a surrogate pair', 'not JSON', 'not JSON']

def test_every_use_says_the_same_of_a_bad_record(tmp_path):
    from nanogpt_lit.core import UserError
    from nanogpt_lit.corpus import open_corpus
    from nanogpt_lit.instructions import read_instructions
    path = tmp_path/'bad.jsonl'
    path.write_text('\n'.join(BAD))
    want = {f'bad.jsonl line {n}: {why}' for n, why in enumerate(WHY, 2)}
    assert {f'{at}: {why}' for why, places in read_instructions(path).dropped.items() for at in places} == want
    corpus = open_corpus(path)
    assert len([*corpus.pieces()]) and corpus.skipped == Counter(WHY) and {*corpus.examples} <= want
    for n, line in enumerate(BAD[1:], 1):
        path.write_text(f'{BAD[0]}\n{line}')
        with pytest.raises(UserError) as e: learned_from(path)
        assert 'bad.jsonl line 2' in str(e.value) and WHY[n - 1] in str(e.value)

ARRAYS = {'cut short': ('[{"prompt": "a", "completion": "b"},\n{"prompt": "c", "compl', 'line 2'), 'two lists': ('[{"prompt": "a", "completion": "b"}]\n[]', 'goes on after the end of its list (line 2)'),
          'deep': ('[{"prompt": ' + '['*100_000, 'nested too deeply'), 'digits': ('[{"prompt": ' + '9'*5000 + '}]', 'thousands of digits'),
          'one object': ('{\n"train": [\n{"prompt": "a", "completion": "b"}]}', "one object with the keys 'train'")}

@pytest.mark.parametrize('use', USES)
@pytest.mark.parametrize('content, why', ARRAYS.values(), ids=ARRAYS)
def test_every_use_says_the_same_of_a_bad_array(tmp_path, use, content, why):
    from nanogpt_lit.core import UserError
    path = tmp_path/'r.json'
    path.write_text(content)
    with pytest.raises(UserError) as e: USES[use](path)
    assert 'r.json' in str(e.value) and why in str(e.value)

# --- 5. what is never penalised -----------------------------------------------------------------------------------------

def talkative():
    "A small model, a chat tokenizer, and the ids of its marks"
    from nanogpt_lit.instructions import with_template
    from nanogpt_lit.model import GPT
    from nanogpt_lit.config import GPTConfig
    from nanogpt_lit.tokenizer import Tokenizer
    tok = with_template(Tokenizer.train(['the cat sat on the mat'], 260, progress=False), 'chatml')
    torch.manual_seed(0)
    return GPT(GPTConfig(vocab_size=tok.vocab_size, block_size=32, n_layer=2, n_head=2, n_embd=32, init_std=.3)).eval(), tok

@pytest.mark.parametrize('use_cache', [True, False])
def test_marks_and_ends_are_never_penalised(use_cache):
    from nanogpt_lit.generate import generate, steps
    model, tok = talkative()
    marks, stop, theta = [*tok.special_tokens.values()], 7, 3.
    with torch.no_grad(): model.head.weight[marks] *= 1.5                               # so that they are likely, and penalties tell
    prompt = [*marks, stop, 9, 11]
    def naive(ids, n, spared):
        for _ in range(n):
            with torch.no_grad(): scores = model(torch.tensor([ids[-32:]]))[0][0, -1]
            for i in {*ids} - spared: scores[i] = scores[i]/theta if scores[i] > 0 else scores[i]*theta
            ids = ids + [scores.argmax().item()]
        return ids
    want, unspared = (naive(prompt, 24, o) for o in ({*marks, stop}, set()))
    assert want != unspared
    kw = dict(temperature=0, repetition_penalty=theta, use_cache=use_cache, slide=1)
    got = generate(model, [prompt], 24, tokenizer=tok, stop=stop, **kw)[0]
    assert got == want[:len(got)] and (len(got) == len(want) or got[-1] == stop)
    assert generate(model, [prompt], 24, **kw)[0] == unspared                            # nobody says what is a mark

def test_the_probability_of_the_end_stays(monkeypatch):
    "A chat prompt has the end of turn in it, and the answer's own end isn't pushed down for that"
    from nanogpt_lit import generate as g
    from nanogpt_lit.finetune import STEADY, answer_text
    model, tok = talkative()
    end, seen = tok.special_tokens['<|im_end|>'], []
    penalise = g.penalise
    monkeypatch.setattr(g, 'penalise', lambda scores, seen_BV, theta: seen.append(seen_BV.clone()) or penalise(scores, seen_BV, theta))
    from nanogpt_lit.instructions import TEMPLATES
    answer_text(model, tok, TEMPLATES['chatml'], [Q], 3, **STEADY)
    assert seen and not any(o[0, list(tok.special_tokens.values())].any() for o in seen) and seen[0].any() and end < seen[0].shape[1]

# --- 6. few steps, and a slip of the pen --------------------------------------------------------------------------------

def test_few_steps_are_said(tune):
    code, said = tune('--batch_size', 16)
    assert code == 0 and 'hardly teach' in said and '--strategy deep' in said and '--max_steps 40' in said, said[-1500:]
    code, said = tune('--max_steps', 2)
    assert code == 0 and 'hardly teach' not in said                                      # as many as were asked for

@pytest.mark.parametrize('words', [(), ('--prepare', 'shards')], ids=['train', 'prepare'])
def test_a_slip_in_the_name_of_the_base(tune, home, words):
    code, said = tune(*words, '--max_steps', 1, base='runs/bse')
    assert code == 1 and said.count('error:') == 1 and 'runs/bse does not exist' in said and 'RANDOM' not in said and not tune.out.exists(), said[-800:]
    if words: return
    code, said = tune('--max_steps', 1, '--auto_resume', '--fallback', 'tiny', base='runs/bse')
    assert code == 0 and 'RANDOM' in said, said[-800:]                                   # the guide's recovery order
    code, said = tune('--max_steps', 1, '--random_init', '--fallback', 'tiny', base='runs/bse', out=tune.out.parent/'b')
    assert code == 0 and 'RANDOM' in said, said[-800:]

# --- 7. passes, and presets ---------------------------------------------------------------------------------------------

def test_passes_are_always_said(tune):
    from nanogpt_lit.finetune import strategy_steps
    from nanogpt_lit.instructions import ChatPlan, load_examples
    assert tune('--prepare', tune.out.parent/'ready')[0] == 0
    plan = ChatPlan(load_examples(tune.out.parent/'ready')['train'], 4, 64)
    code, said = tune('--max_steps', 2, '--batch_size', 4, source=tune.out.parent/'ready')
    line = next(o for o in said.splitlines() if ' passes over ' in o)
    assert code == 0 and line == f'2 steps = {8/plan.n_windows:.3g} passes over {len(plan.data.ids):,} tokens of {len(plan.data)} examples'
    assert strategy_steps('deep', plan)[0] == round(2.5*plan.n_windows/4)

def test_presets_accumulate_as_the_original(home, tune):
    from nanogpt_lit.config import FINETUNE_PRESETS, FinetuneConfig
    from nanogpt_lit.finetune import _accumulating
    for name in ('dolly', 'guide'):
        cfg = _accumulating(FinetuneConfig(**FINETUNE_PRESETS[name]), 1024, 10**6, {})
        assert (cfg.batch_size, cfg.grad_accum_steps) == (16, 32)
        assert _accumulating(FinetuneConfig(**FINETUNE_PRESETS[name]), 256, 10**6, {}).grad_accum_steps == 128
        assert _accumulating(FinetuneConfig(**FINETUNE_PRESETS[name], grad_accum_steps=3), 1024, 10**6, dict(grad_accum_steps='flag')).grad_accum_steps == 3
    code, said = tune('dolly', '--batch_size', 4)
    assert code == 0 and 'the examples cannot fill 524,288' in said and 'seen more than once' not in said, said[-1500:]

def test_auto_resume_is_not_advised_to_who_has_given_it(tune, home):
    assert tune('--max_steps', 1)[0] == 0
    for p in tune.out.glob('model_*.pt'): p.unlink()
    code, said = tune('--max_steps', 1, '--auto_resume')
    assert code == 0 and 'was moved to' in said and 'add --auto_resume' not in said, said[-800:]
    code, said = tune('--max_steps', 1)
    assert code == 0 and 'add --auto_resume' in said

def test_shards_of_bare_tokens(tune, home, tmp_path):
    folder = tmp_path/'dolly15k'
    folder.mkdir()
    ids = np.random.default_rng(0).integers(0, 250, 3000).astype(np.uint16)
    np.save(folder/'dolly_train_000000.npy', ids)
    code, said = tune('--data_dir', folder, '--max_steps', 2, '--batch_size', 4, source=None)
    assert code == 0 and 'without a mask: all of them count' in said and '2 steps = ' in said, said[-1500:]
    np.save(folder/'dolly_val_000000.npy', ids[:500])
    assert tune('--data_dir', folder, '--max_steps', 1, source=None, out=tmp_path/'b')[0] == 0
    np.save(folder/'dolly_train_000001.npy', ids + 50_000)
    code, said = tune('--data_dir', folder, '--max_steps', 1, source=None, out=tmp_path/'c')
    assert code == 1 and 'another tokenizer' in said and said.count('error:') == 1
    np.save(folder/'dolly_train_000001.npy', np.array([{}]), allow_pickle=True)
    code, said = tune('--data_dir', folder, '--max_steps', 1, source=None, out=tmp_path/'c')
    assert code == 1 and 'damaged or no array' in said and 'fault of' not in said

# --- 8. and 9. exams ----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('n', [10, 23, 24, 25, 31, 32, 60])
def test_generation_tasks_leave_room_for_the_answer(n):
    "As lm_eval's own models: of the prompt, the last block_size - max_gen_toks tokens"
    from types import SimpleNamespace
    from nanogpt_lit.benchmarks import HarnessModel
    from nanogpt_lit.generate import generate
    model, tok = talkative()
    text = ''.join(random.Random(n).choices('bdfgijklp', k=n))
    ids = tok.encode(text)
    assert len(ids) == n
    [got] = HarnessModel().setup(model, tok).generate_until([SimpleNamespace(args=(text, dict(until=[], max_gen_toks=8)))])
    kept = ids[-(32 - 8):]
    stop = [tok.eot_id]*(tok.eot_id is not None)
    new = generate(model, [kept], 8, 0., stop=stop, tokenizer=tok)[0][len(kept):]
    assert got == tok.decode([i for i in new if i != tok.eot_id])

HELLASWAG_ASKED = [ # activity, first and second part of the context, what the harness asks; worked by hand
    ('Health', '[header] How to rest [title] Lie down. [step] Close', 'your eyes.', 'Health: How to rest. Lie down. Close Your eyes.'),
    ('Skiing', 'A man is seen.', 'then YOU go', 'Skiing: A man is seen. Then you go'),               # one capital, and no other
    ('Skiing', 'A man is seen.', '', 'Skiing: A man is seen.'),                                      # white space at the end goes
    ('Skiing', 'A man is seen.', ' then YOU', 'Skiing: A man is seen. then you'),                    # a space has no capital; two become one
    ('Skiing', 'a    b', '[step] YOU', 'Skiing: a  b you'),                                          # in pairs from the left; a bracket has no capital
    (' Skiing ', 'a', 'b', 'Skiing : a B'),
    ('[x] Skiing', 'a', 'b', ' Skiing: a B'),                                                        # stripped before brackets go, not after
    ('Tea', 'Boil[title] it', 'water [title]. [', 'Tea: Boil it Water. . ['),                           # only with a space before it; an open bracket stays
    ('Tea', '[[step]] Boil', 'ß[a]ß', 'Tea: ] Boil Ssß'),                                            # to the first closing bracket
    ('Tea', 'two [of\nlines]', 'x', 'Tea: two [of\nlines] X')]                                       # on one line only
HELLASWAG_ENDINGS = {'[x] One': ' One', 'two [title] Three ': 'two. Three', 'four  five': 'four five', 'six [substeps] seven': 'six seven'}

def test_hellaswag_as_the_harness_writes_it(tmp_path):
    "The rules of lm_eval/tasks/hellaswag (0.4.13), with which 5,000 records of random parts agree"
    from nanogpt_lit.benchmarks import harness_hellaswag
    from nanogpt_lit.grading import questions_for
    from nanogpt_lit.config import EvalConfig
    from nanogpt_lit.core import UserError
    records = [dict(activity_label=label, ctx_a=a, ctx_b=b, ctx=f'{a} {b}', endings=[*HELLASWAG_ENDINGS], label=i % 4)
               for i, (label, a, b, _) in enumerate(HELLASWAG_ASKED)]
    (tmp_path/'h.jsonl').write_text('\n'.join(map(json.dumps, records)))
    found = questions_for('hellaswag_harness', EvalConfig(hellaswag=str(tmp_path/'h.jsonl')), None)
    assert [q.ctx for q in found] == [asked for *_, asked in HELLASWAG_ASKED]
    assert all(q.endings == [*HELLASWAG_ENDINGS.values()] and q.label == r['label'] for q, r in zip(found, records, strict=True))
    assert questions_for('hellaswag', EvalConfig(hellaswag=str(tmp_path/'h.jsonl')), None)[0].ctx == records[0]['ctx']
    assert len(harness_hellaswag(tmp_path/'h.jsonl', 3)) == 3
    for bad in ('{"ctx": "a", "endings": ["b", "c"], "label": 0}', '[1]', 'x', ''):
        (tmp_path/'bad.jsonl').write_text(bad)
        with pytest.raises(UserError): harness_hellaswag(tmp_path/'bad.jsonl')
