"""All console commands, called at random with hostile words, damaged files and odd surroundings: never a fault.

Every call runs in a process of its own, forked from one that has the imports done, in a fresh copy of a small prepared folder. A
finding is: a traceback, "a fault of nanogpt_lit", death by a signal, no end, a long or missing error message, a raw escape
character, an unfinished file that stays behind, a pickle that was executed, and a file that the call had no business with and
that is changed or gone. All of it follows from the number of the call. The first 60 run always, 250 with NANOGPT_LIT_SLOW=1; by hand:

    NANOGPT_LIT_FUZZ=2000 python -m pytest -q -s tests/test_fuzz.py       # so many calls, with counts
    NANOGPT_LIT_FUZZ_ONE=17 python -m pytest -q -s tests/test_fuzz.py     # one of them, with what it printed
"""
import argparse, atexit, bisect, collections, fnmatch, gc, heapq, json, os, pickle, random, re, shlex, shutil, signal, subprocess
import sys, textwrap, threading, time, traceback
from pathlib import Path
import pytest
from nursery import Popen

CALLS = int(os.environ.get('NANOGPT_LIT_FUZZ') or (250 if os.environ.get('NANOGPT_LIT_SLOW') else 60))
ONE = os.environ.get('NANOGPT_LIT_FUZZ_ONE')
BY_HAND = 'NANOGPT_LIT_FUZZ' in os.environ or ONE
pytestmark = pytest.mark.skipif(not hasattr(os, 'pidfd_open'), reason='needs fork and pidfd_open')

# --- what is called ------------------------------------------------------------------------------------------------

NET = '--n_layer 1 --n_head 2 --n_embd 16 --block_size 32 '
CPU = ' --device cpu --num_threads 1'
RUN = ' --batch_size 2 --max_steps 3 --grad_accum_steps 1 --eval_iters 1 --log_interval 1' + CPU
TINY = NET + '--workers 1 --checkpoint_interval 2 --eval_interval 2' + RUN
TUNE = ' --max_new_tokens 2 --minutes 0 --checkpoint_interval 2 --lora_rank 2' + RUN
WRITE = ' --num_samples 2 --max_new_tokens 3' + CPU
# command | words that mean something | words that come last, so that the call stays small
RECIPES = [tuple(re.split(r' +\|(?: +|$)', line)) for line in f'''
train | --input text.txt --tokenizer char --out_dir new | {TINY}
train | --dataset prepared --out_dir run | {TINY}
train | --input chats.jsonl table.csv --tokenizer bpe --tokenizer_vocab_size 300 --out_dir new | {TINY}
train | --train_data tokens.bin --val_data tokens.npy --tokenizer tok --out_dir new | {TINY}
train | run/config.toml --auto_resume | {TINY}
train | --load_checkpoint run/model_00002.pt --dataset prepared --out_dir new | {TINY}
train | mine.toml --out_dir new | {TINY}
train | settings.py | {TINY}
train | tiny --mix prepared=1 prepared=2 --out_dir sharded --auto_resume | {TINY}
sample | run --start x | {WRITE}
sample | --out_dir=hf --prompts prompts.txt --logprobs 2 | {WRITE}
sample | tuned/best.pt --start FILE:prompts.txt --stop b | {WRITE}
tokenizer train | text.txt chats.jsonl --vocab_size 300 --out_dir newtok | --workers 1
tokenizer train | table.csv --kind char --out_dir tok | --workers 1
tokenizer add | tok --special_tokens <|a|> --out_dir newtok |
tokenizer add | meta.pkl --out_dir newtok |
tokenizer add | --vocab_path vocab.json --merges_path merges.txt --out_dir newtok |
tokenizer encode | Hello --tokenizer tok |
tokenizer encode | --input text.txt --tokenizer tok --output ids.npy | --workers 1
tokenizer encode | --input chats.jsonl --vocab_path vocab.json --merges_path merges.txt --output ids.bin | --workers 1
tokenizer decode | 5 6 7 --tokenizer tok |
tokenizer decode | --input tokens.npy --tokenizer run/tokenizer --output back.txt |
tokenizer decode | --input tokens.bin --tokenizer hf/tokenizer.json |
tokenizer inspect | tok --input text.txt --html page.html | --top 3 --show 30
tokenizer compare | tok meta.pkl Hello --html page.html | --top 3 --show 30
prepare | text.txt --tokenizer tok --out_dir half --shard_size 500 | --workers 1
prepare | text.txt chats.jsonl --tokenizer bpe --tokenizer_vocab_size 300 --out_dir new | --workers 1
prepare | text.txt --tokenizer char --out_dir prepared --overwrite | --workers 1
prepare | chats.jsonl=2 table.csv --text_field text --tokenizer tok --out_dir new | --workers 1
prepare | --inspect prepared --output page.svg |
plan | tiny --memory 1GB --dataset prepared | --no-measure {TINY}
plan | mine.toml --no-measure | {CPU}
plot | run tuned --output page.png |
plot | run --panels --x time |
monitor | run | --once
monitor | tuned --once |
report | run |
report | run --output page.html |
launch | --nproc 1 --dry_run train tiny --dataset prepared |
launch | --sbatch job.sh --nproc 2 --nnodes 2 finetune --input chats.jsonl |
consolidate | sharded --output whole.pt |
consolidate | sharded/model_00003.dcp |
import | hf --out_dir new |
import | hf --out_dir run --overwrite |
import | ckpt.pt --tokenizer tok --out_dir new |
export | run --out_dir newhf |
export | tuned --out_dir hf --overwrite --max_shard_gb 1e-5 |
eval | run --tasks loss --limit 2 | {CPU}
eval | run --tasks loss questions.jsonl --data text.txt | --limit 2 {CPU}
eval | hf --tasks questions.jsonl loss --data prepared --out_dir answers | --limit 2 {CPU}
finetune | --input chats.jsonl --pretrained_checkpoint run --out_dir new | {TUNE}
finetune | --input instructions --pretrained_checkpoint hf --out_dir new --replay .5 --replay_data prepared | {TUNE}
finetune | --input chats.jsonl --pretrained_checkpoint run --out_dir tuned --auto_resume | {TUNE}
finetune | --input chats.jsonl --pretrained_checkpoint run --prepare newinstructions | {CPU}
chat | tuned | --max_new_tokens 3 {CPU}
bench | --show races.jsonl --plot page.png |
quickstart | --out_dir new --data_dir newdata --tune_minutes .001 | --minutes .001 {CPU}
'''.strip().splitlines()]
WEIGHT = {'quickstart': .3, 'finetune': .7}              # the slow ones less often

# --- hostile ingredients -------------------------------------------------------------------------------------------

PLAIN = '0 1 2 3 5 12 64 0.01 0.5 0.99 1.5 None -1'.split()
NUMBERS = ['9'*5000, '', ' ', '١٢', *'''-1 0 1 2 3 1.5 -0 00 +3 1_0 0x10 nan inf -inf 1e400 1e-400 1e18 2147483648
    9223372036854775807 9223372036854775808 18446744073709551616 -9223372036854775809 None true auto 1/2'''.split()]
TEXTS = ['\udcff', 'a\udcc3b', 'x'*300, 'x'*5000, 'e\x1b[31mred', 'a\nb', 'a\r\tb', 'a"b\'c', 'a b', '', ' ', '\\n', *r'''
    [x]*? [ ** $x `id` ~nosuchuser/x ~ ../x .. . - -x -- {step} { %s % a\b CON a=b = =2 text.txt= text.txt=nan prepared=-1 FILE:
    FILE:no hf: hf:a/b harness: harness:x no/such/thing text.txt/x x.pt x.npy x.png x.toml <|endoftext|> ( (a+)+$ cuda:9 cuda:x
    meta gpt2 ü'''.split()]
NODES = [kind + end for kind in 'fifo zero full null'.split() for end in ('', *'.txt .jsonl .bin .npy .pt .toml .json'.split())]
DEVICES = '/dev/stdin /dev/null /dev/zero /dev/fd/63 /proc/self/environ /proc/self/mem'.split()  # to read only: this may be root
WRITTEN = {*'out_dir output output_path html prepare sbatch plot data_dir'.split()}
PATHS = WRITTEN | {*'''input val_input dataset train_data val_data tokenizer vocab_path merges_path hellaswag checkpoint_path
    load_checkpoint prompts data replay_data pretrained_checkpoint checkpoint_dir run runs source peer show inspect include_path
    tokenizers mix tasks'''.split()}
ODD = [None, True, -1, 0, 1, 3, .5, 1e308, float('nan'), float('inf'), 2**31, 2**63, 10**400, '', 'x'*5000, 'e\x1b[31m\r\nx',
       '../x', 'a/b', 'ü', '\ud800', 'nan', [], {}, [[]], {'a': 1}, ['a', 1], '@deep@']
TOML = ["'"*3, '9'*4000, '['*3000, '["text.txt", "no"]', '{a = 1}', *r'''-1 0 2 0.5 1e308 nan inf -inf true "" "e\u001b[31m"
    "../x" "a\nb" "\u0000" [] [[1]] 1979-05-27 07:32:00 "prepared" ['''.split()]
SAYS = ['/save talk.jsonl', '/save ../x', '/save run', '/load run', '/temperature nan', '/max 9e9', '/seed -1',
        '/system \x1b[2J', '/top_p x', 'ü'*2000, '\0', '"'*3, *'hi /help /load /undo /retry /x / /history /reset'.split()]
FOREIGN = ['.x.part', 'mine.pt', 'notes.txt', 'model_mine.safetensors']
UNKNOWN = ['no_such', 'help', 'x=y', '\udcff', '', 'max_iters', 'wandb_log', 'init_from']
KINDS = ['flags', 'flags', 'word', 'files', 'files', 'files', 'around', 'flags files', 'word files around', 'flags word files']

def home_files(home):
    "What there is to damage: all but somebody else's"
    def theirs(p): return p.name in FOREIGN or p.suffix in ('.old', '.partial') and p.name != 'half.partial'
    return sorted(str(p.relative_to(home)) for p in home.rglob('*') if not theirs(p))

def word_for(rng, knob, files):
    "A value for this setting: of its kind or of another"
    name = knob.name if knob else ''
    special = NODES if name in WRITTEN else NODES + DEVICES
    if name in PATHS and rng.random() < .6: return rng.choice(rng.choice([files, files, special]))
    options = [str(o) for o in getattr(knob and knob.base, '__args__', ()) if isinstance(o, str)]
    if knob and knob.base in (int, float): return rng.choice(rng.choices([PLAIN, NUMBERS, TEXTS], [5, 4, 1])[0])
    return rng.choice(rng.choices([options or TEXTS, TEXTS, NUMBERS], [3, 2, 1])[0])

def hostile_flag(rng, knobs, files):
    "One flag of the command, as words"
    name = rng.choice(sorted(knobs)) if rng.random() < .95 else rng.choice(UNKNOWN)
    knob = knobs.get(name)
    if knob and knob.base is bool and rng.random() < .7: return [rng.choice(['--', '--no_', '--no-']) + name]
    if rng.random() < .2: name = name.replace('_', '-')
    values = [word_for(rng, knob, files) for _ in range(rng.choice([1, 1, 1, 2, 3]) if knob and 'list' in str(knob.base) else 1)]
    return [f'--{name}={values[0]}'] if rng.random() < .4 else ['--' + name, *values]

def surroundings(rng, call):
    "Something odd about where the process runs"
    match rng.randrange(10):
        case 0: call['env'] |= {'PYTHONIOENCODING': rng.choice(['ascii', 'cp1252', 'ascii:strict', 'latin-1'])}
        case 1: call['env'] |= {'LC_ALL': 'C', 'LANG': 'C'}
        case 2: call['env'][rng.choice('RANK WORLD_SIZE LOCAL_RANK SLURM_PROCID'.split())] = rng.choice(['x', '-1', '', '7'])
        case 3: call['env'] |= {'TERM': None, 'COLUMNS': rng.choice('1 0 -5 x 9999999999999'.split()), 'HOME': '/nowhere'}
        case 4 | 5: call['stdout'] = rng.choice(['closed', 'full', 'broken'])
        case 6: call['stderr'] = rng.choice(['closed', 'full', 'broken'])
        case 7: call['stdin'] = rng.choice(['closed', 'null', 'binary'])
        case 8: call['cwd'] = 'gone'
        case 9: call |= {'stdout': 'closed', 'stderr': 'closed', 'stdin': 'closed'}

USUAL = dict(number=0, env={}, stdin='text', stdout='file', stderr='file', cwd='home', damage=[])

def make_call(number, files):
    "The call of this number: what to run, what to damage before, and around it"
    from nanogpt_lit.config import COMMANDS
    from nanogpt_lit.config import flat_fields
    rng = random.Random(number)
    command, words, tail = rng.choices(RECIPES, [WEIGHT.get(o[0], 1) for o in RECIPES])[0]
    program, *sub = command.split()
    cmd = COMMANDS[f'nanogpt-{program}']
    knobs, words = flat_fields((cmd[sub[0]] if sub else cmd).config), words.split()
    call = USUAL | dict(number=number, program=f'nanogpt-{program}', label=command, env={}, damage=[])
    call['said'] = [rng.choice(SAYS) for _ in range(rng.randrange(1, 6))]
    kinds = rng.choice(KINDS)
    for _ in range(rng.choice([1, 1, 2]) if 'flags' in kinds else 0):
        at = rng.randrange(len(words) + 1) if rng.random() < .3 else 0 if program == 'launch' else len(words)
        words[at:at] = hostile_flag(rng, knobs, files)
    if 'word' in kinds:                                                              # a path or a value becomes another
        at = rng.choice([i for i, o in enumerate(words) if not o.startswith('--')] or [0])
        owner = next((o.partition('=')[0].strip('-') for o in reversed(words[:at]) if o.startswith('--')), '')
        writes = owner in WRITTEN
        words[at:at + 1] = [rng.choice(rng.choice([files, TEXTS, NODES, TEXTS if writes else DEVICES]))]
    near = [f for f in files if any(f == w or f.startswith(w.rstrip('/') + '/') for w in words if w)] or files
    hurt = {rng.choice(near if rng.random() < .9 else files): rng.randrange(2**32) for _ in range(rng.choice([1, 1, 1, 2]))}
    if 'files' in kinds: call['damage'] = [*hurt.items()]
    if 'around' in kinds: surroundings(rng, call)
    call['argv'] = sub + words + tail.split()
    if program == 'bench' and not any(o.startswith('--show') for o in words): call['argv'] += ['--show', 'races.jsonl']
    return call

# --- damage --------------------------------------------------------------------------------------------------------

class Bomb:
    def __reduce__(self): return open, ('EXECUTED', 'w')

def inner(value, depth=0):
    "All containers in a value"
    if depth < 12 and isinstance(value, (dict, list)) and value:
        yield value
        for o in (value.values() if isinstance(value, dict) else value): yield from inner(o, depth + 1)

def mutated(rng, value, odd=ODD):
    "The value with one inner place changed, renamed, doubled or removed"
    found = [*inner(value)]
    if not found or rng.random() < .05: return rng.choice(odd)
    box = rng.choice(found)
    key = rng.choice(sorted(box, key=str)) if isinstance(box, dict) else rng.randrange(len(box))
    if rng.random() < .75: box[key] = rng.choice(odd)
    elif rng.random() < .5: del box[key]
    elif isinstance(box, dict): box['e\x1b[1m' if rng.random() < .3 else '../x'] = box.pop(key)
    else: box.append(box[key])
    return value

def as_json(value):
    return json.dumps(value).replace('"@deep@"', '['*3000 + ']'*3000).encode()

def bent(rng, path, data):
    "The file with another content of the same format, where we know it; else None"
    end = path.suffix
    if end == '.json': return as_json(mutated(rng, json.loads(data)))
    if end == '.jsonl':
        lines = data.splitlines()
        at = rng.randrange(len(lines))
        lines[at] = as_json(mutated(rng, json.loads(lines[at])))
        return b'\n'.join(lines) + b'\n'
    if end == '.toml':
        lines = data.decode().split('\n')
        at = rng.choice([i for i, o in enumerate(lines) if ' = ' in o and o[0] != '#'])
        lines[at] = lines[at].partition(' = ')[0] + ' = ' + rng.choice(TOML)
        return '\n'.join(lines).encode()
    if end == '.safetensors':
        n = int.from_bytes(data[:8], 'little')
        head = as_json(mutated(rng, json.loads(data[8:8 + n])))
        return len(head).to_bytes(8, 'little') + head + data[8 + n:]
    if end == '.pkl': return pickle.dumps(Bomb() if rng.random() < .2 else mutated(rng, pickle.loads(data)))
    if end == '.npy':
        new = rng.choice([b"'|O'", b"'<f8'", b"'>u2'", b"'<i8'", b"'<U9'", b"'|b1'", b"[('a', '<u2')]", b"__import__('os')"])
        if rng.random() < .6: return data.replace(b"'<u2'", new, 1)
        return data.replace(b'(', rng.choice([b'(9', b'(-', b'(0, ', b'((((']), 1)
    if end == '.pt': return bent_checkpoint(rng, path)
    return rng.choice([data.decode('latin-1').encode('utf-16'), data.replace(b'\n', b'\r'), data + b'\xff\xfe\x00',
                       b'\xef\xbb\xbf' + data, data*40, data.replace(b',', b'"')])

def bent_checkpoint(rng, path):
    import torch
    from nanogpt_lit.checkpoint import save_checkpoint
    if rng.random() < .1: torch.save({'model': Bomb()}, path); return path.read_bytes()
    state = torch.load(path, weights_only=False, map_location='cpu')
    tensors = [torch.zeros(0), torch.full((3, 3), float('nan')), torch.zeros(2, dtype=torch.int64), torch.zeros(1, 1, 1)]
    state = mutated(rng, state, ODD + tensors)
    sealed = rng.random() < .6 and isinstance(state, dict)                        # with a sound checksum around it
    save_checkpoint(path, {k: v for k, v in state.items() if k != 'checksum'}) if sealed else torch.save(state, path)
    return path.read_bytes()

def damage(home, name, seed, files):
    "Do something to a file or folder of ours; says what"
    rng, path = random.Random(seed), home/name
    whole = path.is_file() and not path.is_symlink()
    inside = whole and path.stat().st_size and rng.random() < .85
    how = rng.choice(['bend']*6 + 'cut flip zeros empty other'.split() if inside else 'folder link loop fifo gone file'.split())
    data = path.read_bytes() if whole else b''
    if how == 'bend':
        try: new = bent(rng, path, data)
        except Exception as e: new, how = data[:-1], f'cut by a byte ({type(e).__name__} while bending)'
    elif how == 'cut': new = data[:int(len(data)*rng.random())]
    elif how == 'flip':
        new = bytearray(data)
        for _ in range(rng.randrange(1, 20)): new[int(rng.random()*len(new))] ^= 1 << rng.randrange(8)
    elif how == 'zeros': at = int(len(data)*rng.random()); new = data[:at] + bytes(len(data) - at)
    elif how == 'empty': new = b''
    elif how == 'other': new = next((o.read_bytes() for p in rng.sample(files, 9) if (o := home/p).is_file()), b'{}\n')
    else:
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
        if not path.parent.is_dir(): return 'its folder is gone'
        match how:
            case 'folder': path.mkdir()
            case 'link': path.symlink_to(rng.choice(['nowhere', 'text.txt', '..', '../text.txt', 'model_00001.pt']))
            case 'loop': path.symlink_to(path.name)
            case 'fifo': os.mkfifo(path)
            case 'file': path.write_bytes(b'x\n')
        return how
    path.write_bytes(bytes(new))
    return how

# --- the nursery: a process of its own (this file as a program) ----------------------------------------------------

def fill_home():
    "Make one of everything in the working directory, with the commands themselves"
    import torch
    from nanogpt_lit import config, pretrain, translate
    from nanogpt_lit.config import flat_values, resolve
    from nanogpt_lit.sharded import save_sharded
    def do(words):
        program, *argv = words.split()
        assert (code := getattr(config, f'nanogpt_{program}')(argv)) == 0, (words, code)
    def talk(i): return [dict(role='user', content=f'{i}+1?'), dict(role='assistant', content=str(i + 1))]
    def race(who):
        figures = dict.fromkeys('wall_s cpu_s first_s steps targets params memory_mb'.split(), 3)
        job = dict(who=who, what='recipe', seed=1, flags={}, isa=None)
        return dict(job=job, loss=1.5, dtype='float32', points=[dict(step=2, wall_s=1., cpu_s=1., loss=1.5)], **figures)
    head = dict(log='nanogpt-bench', version=1, data=None, preset=None, seeds=[1], machine={})
    lines = dict(chats=[dict(conversations=talk(i)) for i in range(30)],
                 questions=[dict(ctx='1 and', endings=[' 2', ' x'], label=0)]*3, races=[head, race('ours'), race('classic')])
    for name, found in lines.items(): Path(f'{name}.jsonl').write_text(''.join(json.dumps(o) + '\n' for o in found))
    texts = {'text.txt': Path(argparse.__file__).read_text(encoding='utf-8')[:6000], 'prompts.txt': 'def\nclass\n',
             'table.csv': 'id,text\n' + ''.join(f'{i},"row {i}, of\n many"\n' for i in range(40)),
             'merges.txt': '#version: 0.2\nh e\nhe l\n',
             'mine.toml': 'n_layer = 1\nn_head = 2\nn_embd = 16\ndataset = "prepared"\nout_dir = "new"\n[optim]\nlr = 0.001\n',
             'settings.py': 'out_dir = "new"\ndataset = "prepared"\nbatch_size = 2*1\nmax_iters = 3\n'}
    for name, text in texts.items(): Path(name).write_text(text, encoding='utf-8')
    do('tokenizer train text.txt --vocab_size 300 --out_dir tok --workers 1')
    names = [*json.loads(Path('tok/tokenizer.json').read_text())['model']['vocab']][:256]
    Path('vocab.json').write_text(json.dumps({k: i for i, k in enumerate([*dict.fromkeys([*names, 'he', 'hel'])])}))
    for end in ('bin', 'npy'): do(f'tokenizer encode --input text.txt --tokenizer tok --output tokens.{end} --workers 1')
    do('prepare text.txt --tokenizer tok --out_dir prepared --workers 1')
    do(f'train --dataset prepared --out_dir run {TINY}')
    do(f'finetune --input chats.jsonl --pretrained_checkpoint run --out_dir tuned {TUNE}')
    do('finetune --input chats.jsonl --pretrained_checkpoint run --prepare instructions')
    do('export run --out_dir hf --max_shard_gb 1e-5')
    done = pretrain.pretrain(*resolve(config.RunConfig, f'--dataset prepared --out_dir sharded {TINY}'.split()), quiet=True)
    save_sharded(done.trainer, 'sharded/model_00003.dcp', flat_values(done.cfg))
    Path('sharded/model_00003.pt').unlink()
    Path('run/baselines.json').write_text(json.dumps({'gzip': dict(nats_per_token=3., bits_per_byte=3.)}))
    letters = dict(enumerate(sorted({*texts['text.txt']})))
    meta = dict(vocab_size=len(letters), stoi={c: i for i, c in letters.items()}, itos=letters)
    Path('meta.pkl').write_bytes(pickle.dumps(meta))
    theirs = translate.to_theirs(done.model.state_dict(), done.model.cfg, translate.NANOGPT)
    sizes = dict(n_layer=1, n_head=2, n_embd=16, block_size=32, bias=True, vocab_size=300, dropout=0.)
    torch.save(dict(model=theirs, model_args=sizes, iter_num=3, config={}), 'ckpt.pt')
    def cut_short(source, target, rename=os.rename):
        if Path(target).name == 'meta.json': raise KeyboardInterrupt
        rename(source, target)
    os.rename = os.replace = cut_short
    half = 'text.txt --tokenizer tok --out_dir half --shard_size 500 --workers 1'.split()
    assert config.nanogpt_prepare(half) == 130 and Path('half.partial/journal.json').exists()
    for name, to in dict(dangling='nowhere/x', loop='loop', linked='run').items(): Path(name).symlink_to(to)
    for folder in ('.', 'run', 'tuned', 'hf', 'tok', 'instructions', 'sharded'):          # what belongs to somebody else
        for name in FOREIGN: Path(folder, name).write_text('not yours')
    for name in ('new', 'newtok', 'newhf', 'run', 'prepared', 'instructions', 'newinstructions', 'hf'):
        for end in ('old', 'partial'): Path(f'{name}.{end}').mkdir(); Path(f'{name}.{end}/notes.txt').write_text('not yours')
    return 0

def faulty(kind):
    "What the test of the test calls"
    print('error: so it goes', file=sys.stderr)
    match kind:
        case 'raises': raise RuntimeError('of the test')
        case 'dies': os.kill(os.getpid(), signal.SIGSEGV)
        case 'hangs': time.sleep(60)
        case 'escapes': sys.stdout.write('\x1b[31mred')
        case 'removes': Path('notes.txt').unlink()
        case 'leaves': Path('.page.html.0123456789ab.part').write_text('half')
        case 'outside': Path('../new.txt').write_text('x')
        case 'talks': print('x\n'*5, file=sys.stderr)
    return 3 if kind == 'odd' else 1

def child(call):
    "Be the process of one call: streams, surroundings and limits as it says, then its command. Returns the exit code"
    import faulthandler, io, resource, tempfile
    os.setsid()
    for what, most in dict(AS=4 << 30, FSIZE=200 << 20, CPU=120, CORE=0).items():
        resource.setrlimit(getattr(resource, f'RLIMIT_{what}'), (most, most))
    world = Path(call['world'])
    faulthandler.dump_traceback_later(call['limit'] - .5, file=open(world/'where', 'w'))
    os.environ.update({'HOME': str(world/'home'), 'TMPDIR': str(world/'tmp')} | {k: v or '' for k, v in call['env'].items()})
    for k in [k for k, v in call['env'].items() if v is None]: del os.environ[k]
    tempfile.tempdir = None
    os.chdir(world/'home')
    if call['cwd'] == 'gone': os.mkdir('gone'); os.chdir('gone'); os.rmdir('../gone')
    for fd, name in enumerate(('stdin', 'stdout', 'stderr')):
        match call[name]:
            case 'closed': os.close(fd); continue
            case 'broken': r, new = os.pipe(); os.close(r)
            case 'full' | 'null' as device: new = os.open(f'/dev/{device}', os.O_RDWR)
            case _: new = os.open(world/name, os.O_RDWR | os.O_CREAT)
        os.dup2(new, fd)
        os.close(new)
    coding, _, errors = os.environ.get('PYTHONIOENCODING', 'utf-8').partition(':')
    errors = errors or ('surrogateescape' if os.environ.get('LC_ALL') == 'C' else 'strict')
    for fd, name in enumerate(('stdin', 'stdout', 'stderr')):
        raw = None if call[name] == 'closed' else open(fd, 'wb' if fd else 'rb', closefd=False)
        stream = raw and io.TextIOWrapper(raw, coding, 'backslashreplace' if fd == 2 else errors, line_buffering=fd == 2)
        setattr(sys, name, stream)
        setattr(sys, f'__{name}__', stream)
    sys.argv = [call['program'], *call['argv']]
    if call['program'] == 'SETUP': return fill_home()
    if call['program'] == 'FAULTY': return faulty(*call['argv'])
    from nanogpt_lit import config
    return getattr(config, call['program'].replace('-', '_'))()

def leave(code):
    "What the interpreter does at its end, without taking all modules to pieces, which takes a second"
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try: stream and stream.flush()
        except Exception as e: print(f'Exception ignored at the end: {e}', file=sys.stderr); code = 120
    os._exit(code or 0)

def nursery():
    "Serve calls, one a line"
    import select
    from contextlib import suppress
    from importlib import import_module
    from types import SimpleNamespace
    import matplotlib.figure, torch, torch._dynamo, torch.distributed.checkpoint, nanogpt_lit
    for path in Path(nanogpt_lit.__file__).parent.glob('[a-z]*.py'): import_module(f'nanogpt_lit.{path.stem}')
    def never(*args, **kw): raise KeyboardInterrupt('would start other processes')
    def swap(module, name, new): assert hasattr(module, name), name; setattr(module, name, new)
    swap(nanogpt_lit.launch, '_torchrun', never)
    swap(nanogpt_lit.speedrun, 'subprocess', SimpleNamespace(Popen=never, run=never, PIPE=-1))
    swap(nanogpt_lit.guess, 'sysconfig', SimpleNamespace(get_paths=lambda lib=sys.argv[1]: {'stdlib': lib}))   # a small one
    small = dict(n_layer=1, n_embd=16, block_size=128, tokenizer_vocab_size=300, eval_iters=1, max_steps=3)
    nanogpt_lit.config.PRESETS['quickstart'].update(small)
    figure = matplotlib.figure.Figure()
    figure.subplots().set_title('fonts are found once')
    figure.savefig(os.devnull, format='png')
    gc.collect()
    gc.freeze()                                             # children share these objects' memory
    for line in sys.stdin:
        call = json.loads(line)
        if not (pid := os.fork()):
            try: leave(child(call))
            except SystemExit as e: leave(e.code if isinstance(e.code, int) else int(e.code is not None))
            except BaseException: traceback.print_exc()
            finally: os._exit(99)
        watch = os.pidfd_open(pid)
        ended = bool(select.select([watch], [], [], call['limit'])[0])
        os.close(watch)
        with suppress(ProcessLookupError): os.killpg(pid, signal.SIGKILL)
        print(json.dumps([ended, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])]), flush=True)
    return 0

# --- calls and verdicts --------------------------------------------------------------------------------------------

class World:
    "A folder with a nursery and a filled home, of which every call gets a copy"
    def __init__(self, folder):
        self.folder, self.count = folder, 0
        for name in ('lib', 'setup/home', 'setup/tmp'): (folder/name).mkdir(parents=True)
        for module in (bisect, fnmatch, shlex, heapq, textwrap): shutil.copy(module.__file__, folder/'lib')
        quiet = dict(OMP_NUM_THREADS='1', MPLBACKEND='agg', NANOGPT_LIT_JOURNAL_S='0', TERM='xterm')
        quiet |= dict.fromkeys('http_proxy https_proxy HTTP_PROXY HTTPS_PROXY'.split(), 'http://127.0.0.1:9')
        quiet['PYTHONPATH'] = os.pathsep.join(sys.path)
        self.p = Popen([sys.executable, __file__, folder/'lib'], env=os.environ | quiet, text=True, bufsize=1, # of the other nursery: its imports are done
                       stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        call = USUAL | dict(program='SETUP', argv=[], stdin='closed', world=str(folder/'setup'), limit=120)
        ended, code = self.ask(call)
        assert ended and code == 0, (folder/'setup'/'stderr').read_text()[-3000:]
        self.files = home_files(folder/'setup'/'home')

    def ask(self, call):
        print(json.dumps(call), file=self.p.stdin, flush=True)
        return json.loads(self.p.stdout.readline())

    def run(self, call):
        "Its exit code, what it printed, and all that was wrong: `(code, output, findings)`"
        world = self.folder/f'call{self.count}'
        self.count += 1
        shutil.copytree(self.folder/'setup'/'home', world/'home', symlinks=True)
        for name in ('tmp', 'beside', 'x.old'): (world/name).mkdir(); (world/name/'notes.txt').write_text('not yours')
        (world/'stdin').write_bytes(os.urandom(400) if call['stdin'] == 'binary' else '\n'.join(call.get('said', [])).encode())
        call['damage'] = [(name, seed, damage(world/'home', name, seed, self.files)) for name, seed in call['damage']
                          if os.path.lexists(world/'home'/name)]
        for word in {*call['argv'], *(o.partition('=')[2] for o in call['argv'])} & {*NODES}: make_node(world/'home'/word)
        pipes = ['fifo', *(o[0] for o in call['damage'] if o[2] == 'fifo')]
        waits = any(name in o for name in pipes for o in call['argv'])              # for somebody who writes; all others end, sooner or later
        call |= dict(world=str(world), limit=call.get('limit') or (12 if waits else 90))
        before = snapshot(world)
        ended, code = self.ask(call)
        output = [p.read_bytes() if (p := world/name).exists() else b'' for name in ('stdout', 'stderr')]
        found = [*verdict(call, ended, code, *output, world), *misdeeds(call, before, snapshot(world), world)]
        shutil.rmtree(world)
        return (code if ended else 'no end'), b'\n'.join(output).decode('utf-8', 'replace'), found

    def close(self): self.p.stdin.close(); self.p.wait(60)

def make_node(path):
    "A pipe that nobody writes to, or a device"
    kind = path.name.partition('.')[0]
    if kind == 'fifo': os.mkfifo(path); return
    try: os.mknod(path, 0o20666, os.stat(f'/dev/{kind}').st_rdev)
    except OSError: path.symlink_to(f'/dev/{kind}')

def snapshot(world):
    "Path → content, of all that is there"
    def content(p):
        if p.is_symlink(): return os.readlink(p)
        return p.read_bytes() if p.is_file() else 'folder' if p.is_dir() else 'special'
    ours = {'stdin', 'stdout', 'stderr', 'where', 'tmp'}
    return {str(p.relative_to(world)): content(p) for p in world.rglob('*') if p.relative_to(world).parts[0] not in ours}

FRAME = re.compile(r'File ".*?nanogpt_lit/(\w+)\.py"[,\w ]*? line \d+,? in (\w+)')

def place(text, first=False):
    "Where in our code a traceback ends"
    found = FRAME.findall(text)
    return '.'.join(found[0 if first else -1]) if found else '?'

def verdict(call, ended, code, out, err, world):
    "What is wrong with how a call ended and with what it said"
    said = err.decode('utf-8', 'replace')
    pipes = [o[0] for o in call['damage'] if o[2] == 'fifo']
    waits = any('fifo' in o or o in pipes for o in call['argv'])     # a pipe that is named is waited for, as by any program
    if not ended and not waits: yield f'no end at {place((world/"where").read_text(), first=True)}'
    if ended and code not in (0, 1, 75, 130): yield f'exit code {code}' if code >= 0 else f'died of {signal.Signals(-code).name}'
    for file in (world/'tmp').glob('nanogpt_lit-error-*'):
        text = file.read_text(errors='replace')
        error = next(o for o in reversed(text.split('\n')) if re.match(r'[\w.]+(:|$)', o) and o)
        yield f'fault: {error.partition(":")[0]} at {place(text)}: {error.partition(":")[2][:80]}'
    for sign in ('Traceback (most recent call last)', 'Exception ignored'):
        if sign in said + out.decode('utf-8', 'replace'): yield f'{sign} at {place(said)}: {said.strip().splitlines()[-1][:80]}'
    if b'\x1b' in out + err and 'always' not in ' '.join(call['argv']): yield 'a raw escape character'
    if ended and code == 1 and call['stderr'] == 'file' and call['stdout'] != 'broken':
        found = re.search(r'^error: .*', said.strip(), re.M | re.S)
        most = 3 + 3*any('\n' in o for o in call['argv'])
        if not found: yield 'exit code 1 without an error message'
        elif (n := len(found[0].split('\n'))) > most: yield f'an error of {n} lines: {found[0][:80]!r}'

def may_write(call, world):
    "The places that this call was told to write to, and those that belong to its command"
    argv, program, said = call['argv'], call['program'], call.get('said', [])
    pairs = [(*o.partition('='), after) for o, after in zip(argv, [*argv[1:], ''])]
    flags = [(name.strip('-').replace('-', '_'), value if eq else after) for name, eq, value, after in pairs]
    words = [v for k, v in flags if k in WRITTEN] + [o.partition(' ')[2] for o in said if o.startswith('/save')]
    inside = {'nanogpt-eval': 'eval', 'nanogpt-report': 'report.html', 'nanogpt-plot': 'plots'}.get(program)
    if inside: words += [f'{o}/{inside}' for o in argv]
    if any(o.endswith(('.toml', '.py')) for o in argv) or program in ('nanogpt-export', 'nanogpt-quickstart'): words += ['.']
    words += [f'{o}.partial' for o in words]
    return [os.path.relpath(os.path.realpath(world/'home'/o.replace('~', '.', 1).replace('\0', '')), world) for o in words]

def misdeeds(call, before, after, world):
    "What a call did to files that aren't its own"
    mine = may_write(call, world)
    def allowed(name): return any(o == '.' or f'{name}/'.startswith(f'{o}/') for o in mine)
    for name in sorted(k for k in before if before[k] != after.get(k)):
        foreign = before[name] == b'not yours'
        if name in mine or not foreign and (allowed(name) or before[name] == 'folder'): continue
        yield f'{"changed" if name in after else "gone"}: {name}'
    for name in sorted(after.keys() - before.keys()):
        if name.endswith('.part'): yield f'left behind: {re.sub("[0-9a-f]{12}", "…", name)}'
        elif name.endswith('EXECUTED'): yield f'executed a pickle: {name}'
        elif not name.startswith('home/') and not allowed(name): yield f'made outside of its folder: {name}'

def told(call):
    "How to repeat a call, in a few lines"
    words = [shlex.quote(o if len(o) < 60 else f'{o[:9]}…({len(o)})').encode('unicode_escape').decode() for o in call['argv']]
    odd = [f'{k}: {call[k]}' for k in ('env', 'stdin', 'stdout', 'stderr', 'cwd') if call[k] != USUAL[k]]
    hurt = [f'{how}: {name}' for name, _, how in call['damage']]
    return '\n      '.join([f'[{call["number"]}] {call["program"]} {" ".join(words)}', *hurt, *odd])

@pytest.fixture(scope='module')
def world(tmp_path_factory):
    w = World(tmp_path_factory.mktemp('fuzz'))
    yield w
    w.close()

FAULTS = dict(raises='Traceback', dies='SIGSEGV', hangs='no end', escapes='escape', removes='gone: home/notes.txt',
              leaves='left behind', outside='made outside', talks='lines', odd='exit code 3', fine='')

@pytest.mark.parametrize('kind', FAULTS)
def test_a_fault_is_found(kind, world):
    call, said = USUAL | dict(program='FAULTY', argv=[kind], limit=1. if kind == 'hangs' else 20.), FAULTS[kind]
    code, output, found = world.run(call)
    assert found if said else not found, output
    assert not said or any(said in o for o in found), (found, output)

@pytest.mark.skipif(not BY_HAND, reason='by hand')
def test_the_recipes_work(world):
    "Where nothing is hostile, or the calls below would find out nothing"
    for command, words, tail in RECIPES:
        program, *argv = f'{command} {words} {tail}'.split()
        call = USUAL | dict(program=f'nanogpt-{program}', argv=argv)
        code, output, found = world.run(call)
        if code or found: print(f'\n{told(call)}\n{code} {found} {output[-300:]}')

def test_hostile_calls(world):
    groups, results, begin = collections.defaultdict(list), collections.Counter(), time.monotonic()
    for number in [int(ONE)] if ONE else range(CALLS):
        call = make_call(number, world.files)
        code, output, found = world.run(call)
        results[call['label'], code] += 1
        for o in found:
            groups[o].append(call)
            if BY_HAND: print(f'{o}\n   {told(call)}', flush=True)
        if ONE: print(f'\n{told(call)}\nstdin: {call["said"]}\nexit code {code}\n{output}\n{found}')
    if BY_HAND:
        seconds, findings = time.monotonic() - begin, sum(map(len, groups.values()))
        print(f'\n{results.total()} calls in {seconds:.0f} s, {findings} findings in {len(groups)} groups; by exit code:')
        for label in sorted({o for o, _ in results}):
            print(f'{label:18}', {code: n for (o, code), n in sorted(results.items(), key=str) if o == label})
    shown = sorted(groups.items(), key=lambda o: -len(o[1]))
    assert not groups, '\n' + '\n'.join(f'{len(calls)}× {what}\n   {told(calls[0])}' for what, calls in shown)

if __name__ == '__main__': sys.exit(nursery())
