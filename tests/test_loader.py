"Checks of the loader on thousands of made-up cases, in another process under a memory limit, and from the command line"
import os, pickle, sys
from pathlib import Path
import numpy as np, pytest, torch
from hypothesis import HealthCheck, given, settings, strategies as st
from harness import run_argv
from nanogpt_lit.config import nanogpt_train
from nanogpt_lit.core import UserError
from nanogpt_lit.loader import BatchPlan, DocumentPlan, NoSplit, Prefetcher, TokenData, TokenRow, eval_batches, make_plan, mix, open_tokens

fuzz = settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
LLMC = {'<u2': (20240520, 1), '<u4': (20240801, 7)}

# ---- writing what others write
def npy(dtype): return '.npy', lambda ids: (np.save, ids.astype(dtype))
def raw(dtype): return '.bin', lambda ids: (lambda p, a: a.tofile(p), ids.astype(dtype))
def llmc(dtype):
    def whole(ids):
        header = np.zeros(256, '<i4')
        header[:3] = *LLMC[dtype], len(ids)
        return (lambda p, a: p.write_bytes(a)), header.tobytes() + ids.astype(dtype).tobytes()
    return '.bin', whole
KINDS = {'nanoGPT': raw('<u2'), 'CS336 .bin': raw('<i4'), 'int64 .bin': raw('<i8'), 'build-nanogpt': npy('<u2'), 'CS336 .npy': npy('<i4'), 'int64 .npy': npy('<i8'),
         'uint32 .npy': npy('<u4'), 'big-endian .npy': npy('>u2'), 'llm.c GPT-2': llmc('<u2'), 'llm.c Llama 3': llmc('<u4')}

def write(folder, ids, kind, name='train', n_shards=1):
    "Files of this kind with the ids; returns the pattern that names them"
    extension, make = KINDS[kind]
    for old in folder.glob(f'{name}_*'): old.unlink()
    for k, part in enumerate(np.array_split(ids, n_shards)):
        save, content = make(part)
        save(folder/f'{name}_{k:03d}{extension}', content)
    return folder/f'{name}_*{extension}'

@st.composite
def corpora(draw):
    "Ids whose order can be told from their values: position modulo a prime, 0 as separator here and there"
    n, prime = draw(st.integers(300, 3000)), 251
    ids = np.arange(n) % prime + 1
    ids[draw(st.lists(st.integers(0, n - 1), max_size=60))] = 0
    return ids

# ---- the order
@settings(fuzz, max_examples=90)
@given(ids=corpora(), kind=st.sampled_from([*KINDS]), n_shards=st.integers(1, 5), T=st.integers(1, 70), per=st.integers(1, 3), seed=st.integers(0, 2**63),
       sampling=st.sampled_from(['epoch', 'random', 'sequential']), documents=st.booleans(), mixed=st.booleans(), prefetch=st.booleans(),
       splits=st.lists(st.sampled_from([(1, 1), (1, 4), (2, 1), (2, 2), (4, 1), (1, 2)]), min_size=3, max_size=3), start=st.integers(0, 10**9))
def test_any_number_of_ranks_sees_the_same_batches(tmp_path, ids, kind, n_shards, T, per, seed, sampling, documents, mixed, prefetch, splits, start):
    "Three steps from anywhere, each with another number of ranks and micro-steps, against one process that begins there"
    def plan():
        data = TokenData(pattern, documents=documents)
        data.eot_id = 0
        if mixed: data = mix({data: .75, TokenData(pattern, documents=documents): .25})
        for o, _ in data.sources or []: o.eot_id = 0
        return make_plan(data, 4*per, T, seed, sampling)
    pattern = write(tmp_path, ids, kind, n_shards=n_shards)
    for step, (world, micro) in enumerate(splits, start):
        whole = plan().batch(step)
        resumed = [Prefetcher(plan(), workers=2) if prefetch else plan() for _ in range(world)] # a process each
        shares = [[p.batch(step, rank, world, m, micro) for m in range(micro)] for rank, p in enumerate(resumed)]
        for p in resumed:
            if prefetch: p.close()
        for got, want in zip(zip(*(b for rank in shares for b in rank)), whole, strict=True): assert torch.equal(torch.cat(got), want)
        x, y = whole[:2]
        if not documents and not mixed: assert np.array_equal(x, ids[plan().starts(step)[:, None] + np.arange(T)])
        follow = (x != 0) & (y != 0) & (whole[2] if documents else True)
        assert (y[follow] == x[follow] % 251 + 1).all() # a target is what really came next

@fuzz
@given(ids=corpora(), n_shards=st.integers(1, 4), T=st.integers(1, 70), seed=st.integers(0, 10**6), epoch=st.integers(0, 1000), documents=st.booleans())
def test_an_epoch_has_everything_once(tmp_path, ids, n_shards, T, seed, epoch, documents):
    row = np.arange(len(ids)) # every id once, so that targets can be counted
    data = TokenData(write(tmp_path, row, 'CS336 .npy', n_shards=n_shards), documents=documents)
    data.eot_id = int(ids[0]) # one separator somewhere
    plan = make_plan(data, 1, T, seed)
    batch = plan.fetch(plan.places(epoch*plan.n_windows + np.arange(plan.n_windows)))
    targets = batch[1][batch[2]] if documents else batch[1].flatten()
    counts = torch.bincount(targets, minlength=len(row))
    assert counts.max() == 1
    if documents: assert counts[1:].min() == 1
    else: assert (counts[1:] == 0).sum() <= 2*T - 2 or len(row) < 2*T + 1
    seen = torch.cat([o[1][o[2]] for o in eval_batches(data, 7, T)])
    assert torch.equal(seen.sort().values, torch.arange(1, len(row)))

@fuzz
@given(seed=st.integers(0, 10**6), n=st.integers(16, 5000), vocab=st.integers(2, 260_000), common=st.integers(1, 500), kind=st.sampled_from([*KINDS]))
def test_large_vocabularies_are_read_right(tmp_path, seed, n, vocab, common, kind):
    "Ids as in text: most of them small, some from the whole vocabulary"
    rng = np.random.default_rng(seed)
    if kind in ('nanoGPT', 'build-nanogpt', 'llm.c GPT-2', 'big-endian .npy'): vocab = min(vocab, 65_536)
    ids = np.where(rng.random(n) < .8, rng.integers(0, min(common + 1, vocab), n), rng.integers(0, vocab, n))
    assert np.array_equal(open_tokens(next(tmp_path.glob(write(tmp_path, ids, kind).name))), ids)

# ---- documents by themselves
MODELS = {'classic': {}, 'modern': dict(pos='rotary', norm='rmsnorm', act='relu2', qk_norm=True, bias=False), 'grouped': dict(pos='rotary', n_kv_head=1, act='swiglu'),
          'window': dict(pos='rotary', window=5), 'window in turn': dict(window=7, window_pattern='LG'), 'taps': dict(pos='rotary', taps=3),
          'taps at the embedding': dict(taps=2, taps_at='embedding'), 'taps and window': dict(pos='none', taps=2, taps_at='sublayers', window=4, window_pattern='L'),
          'written out': dict(pos='rotary', attn_impl='eager', window=6), 'softcap': dict(logit_softcap=5., norm_embed=True)}

@pytest.mark.parametrize('kind', MODELS)
def test_a_document_sees_nothing_of_its_neighbours(tmp_path, kind):
    "Loss and gradients of a batch of documents are those of the documents one by one, whatever the model"
    from nanogpt_lit.model import GPT
    from nanogpt_lit.config import GPTConfig
    rng = np.random.default_rng(0)
    pieces = [rng.integers(1, 50, n if n % 9 else 40) for n in rng.integers(1, 10, 120)]     # some longer than a window of 24
    np.concatenate([np.append(o, 0) for o in pieces]).astype('<u2').tofile(tmp_path/'docs.bin')
    data = TokenData(tmp_path/'docs.bin', documents=True)
    data.eot_id = 0
    x, y, mask, segments = make_plan(data, 6, 24, seed=1).batch(1)
    assert max(len(o.unique()) for o in segments) > 3 and int((y == 0).sum()) > 5
    torch.manual_seed(0)
    model = GPT(GPTConfig(**dict(vocab_size=50, block_size=24, n_layer=3, n_head=2, n_embd=16) | MODELS[kind])).double()
    for p in model.parameters(): torch.nn.init.normal_(p, std=.3)            # nothing may be zero, taps least of all
    loss = model(x, y, mask, segments)[1]
    loss.backward()
    together = {k: p.grad.clone() for k, p in model.named_parameters()}
    model.zero_grad()
    nats = 0.
    for b in range(6):
        for k in segments[b][mask[b]].unique():
            here = segments[b] == k
            nats = nats + model(x[b, here][None], y[b, here][None])[1]*here.sum()
    (nats/mask.sum()).backward()
    torch.testing.assert_close(loss, nats/mask.sum(), rtol=1e-5, atol=0)
    for k, p in model.named_parameters(): torch.testing.assert_close(p.grad, together[k], rtol=1e-4, atol=1e-6, msg=k)
    model.zero_grad()
    mixed = model(x, y, mask)[1]                                            # without the segments it is another loss
    assert abs(mixed - loss) > 1e-4

# ---- memory
TRAIN_BIG = '''
import resource, sys
import numpy as np, torch
from nanogpt_lit.config import OptimConfig, TrainConfig
from nanogpt_lit.loader import TokenData, eval_batches, make_plan
from nanogpt_lit.model import GPT, GPTConfig
from nanogpt_lit.optim import make_optimizers
from nanogpt_lit.trainer import Trainer

def own_mb(): return next(int(l.split()[1]) for l in open('/proc/self/status') if l.startswith('RssAnon'))/1024
model, ocfg = GPT(GPTConfig(256, 64, 1, 2, n_embd=32)), OptimConfig()
def steps(n, plan):
    tcfg = TrainConfig(max_steps=n, batch_size=64, device='cpu', num_threads=1)
    t = Trainer(model, plan, make_optimizers(model, ocfg), ocfg, tcfg)
    for _ in range(n): t.train_step()
small = TokenData(sys.argv[1])
steps(5, make_plan(small, 64, 64))
before = own_mb()
used = next(int(l.split()[1]) for l in open('/proc/self/status') if l.startswith('VmData'))*1024
limit = used + int(float(sys.argv[3])*2**20)
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit)) # private memory; maps of files are not counted
for documents in (False, True):
    data = TokenData(sys.argv[2], vocab_size=256, documents=documents)
    data.eot_id = 0
    steps(60, make_plan(data, 64, 64))
    for _ in eval_batches(data, 64, 64, max_batches=20): pass
try: np.array(data.shards[0]); print('no limit')
except MemoryError: print('limited', len(data), own_mb() - before)
'''

@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='asks /proc for its own memory')
def test_training_from_shards_larger_than_the_memory_allowed(tmp_path):
    "600 MB of tokens in two shards, under a limit of 128 MB more than a run on a tiny file takes"
    block = np.random.default_rng(0).integers(1, 256, 10**6).astype('<u2')
    block[::5000] = 0
    block.tofile(tmp_path/'small.bin')
    with open(tmp_path/'big_0.bin', 'wb') as f:
        for _ in range(150): block.tofile(f)
    os.link(tmp_path/'big_0.bin', tmp_path/'big_1.bin')                    # two files for the loader, and half as much to write
    r = run_argv([sys.executable, '-c', TRAIN_BIG, str(tmp_path/'small.bin'), str(tmp_path/'big_*.bin'), '128'], capture_output=True, text=True, timeout=300)
    for p in tmp_path.glob('big_*'): p.unlink()
    assert r.returncode == 0, r.stderr[-3000:]
    word, tokens, grown = r.stdout.split()
    print(f'{int(tokens):,} tokens, {float(grown):.0f} MB more than with a tiny file')
    assert word == 'limited' and int(tokens) == 3*10**8

# ---- the command line
def train(tmp_path, *words):
    small = '--max_steps 2 --n_layer 1 --n_embd 16 --block_size 32 --batch_size 2 --device cpu --eval_iters 1'.split()
    return nanogpt_train(['tiny', *map(str, words), '--out_dir', str(tmp_path/'run'), *small])

@pytest.mark.parametrize('kind', [*KINDS])
def test_trains_on_files_of_others(tmp_path, kind, capsys):
    ids = np.random.default_rng(0).integers(0, 300, 1200)
    data, val = (write(tmp_path, ids, kind, name, n) for name, n in (('train', 2), ('val', 1)))
    assert train(tmp_path, '--train_data', data, '--val_data', val, '--vocab_size', 300 if 'llm.c' not in kind else 128_256, '--grad_accum_steps', 2) == 0, capsys.readouterr().err
    assert 'loss on the whole validation split' in capsys.readouterr().out
    for path in tmp_path.glob('train_*'): path.rename(path.with_name('edufineweb_' + path.name))
    assert train(tmp_path, '--train_data', tmp_path, '--vocab_size', 200) == 1  # the folder itself; ids up to 299
    said = capsys.readouterr().err
    assert said.count('\n') == 1 and said.startswith('error: ')

def test_characters_of_nanogpt_train_and_sample(tmp_path, capsys):
    text = 'to be or not to be, that is the question\n'*50
    letters = sorted(set(text))
    for name in ('train', 'val'): np.array([letters.index(c) for c in text], '<u2').tofile(tmp_path/f'{name}.bin')
    (tmp_path/'meta.pkl').write_bytes(pickle.dumps(dict(vocab_size=len(letters), itos=dict(enumerate(letters)), stoi={c: i for i, c in enumerate(letters)})))
    assert train(tmp_path, '--train_data', tmp_path/'train.bin') == 0
    assert 'no validation data' in capsys.readouterr().out
    from nanogpt_lit.config import nanogpt_sample
    assert nanogpt_sample([str(tmp_path/'run'), '--num_samples', '1', '--max_new_tokens', '20', '--start', 'to be', '--device', 'cpu']) == 0
    assert 'to be' in capsys.readouterr().out

def test_more_shards_than_open_files(tmp_path):
    "400 shards where 256 files may be open: batches equal those of one file, and those of a few shards cost nothing more"
    ids = np.random.default_rng(0).integers(0, 300, 40_000).astype(np.uint16)
    for k, part in enumerate(np.array_split(ids, 400)): np.save(tmp_path/f't_train_{k:04d}.npy', part)
    np.save(tmp_path/'whole.npy', ids)
    program = '''import resource, sys, numpy as np
from nanogpt_lit.loader import TokenData, make_plan
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
many, again, whole = TokenData('t_train_*.npy', vocab_size=300), TokenData('t_train_*.npy'), TokenData('whole.npy')
for step in range(4):
    (x, y), (a, b), (c, d) = (make_plan(o, 32, 64).batch(step) for o in (many, whole, again))
    assert (x == a).all() and (y == b).all() and (c == a).all()
assert np.array_equal(many[:], whole[:]) and all(len(np.asarray(s)) == 100 for s in many.shards)
print('equal')'''
    done = run_argv([sys.executable, '-c', program], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.stdout == 'equal\n', done.stderr[-800:]

# ---- what is refused, in one sentence each
@pytest.fixture
def odd_files(tmp_path):
    "Files and folders that something is wrong with"
    some = np.arange(3000)
    header = np.zeros(256, '<i4')
    header[:3] = 20240520, 2, 0
    (tmp_path/'newer.bin').write_bytes(header.tobytes())
    (tmp_path/'empty.bin').touch()
    (tmp_path/'odd.bin').write_bytes(b'abc')
    np.save(tmp_path/'good.npy', some)
    (tmp_path/'torn.npy').write_bytes((tmp_path/'good.npy').read_bytes()[:500])
    np.save(tmp_path/'float.npy', np.zeros(4))
    np.save(tmp_path/'negative.npy', np.array([5, -1, 7]*10))
    (tmp_path/'text.txt').write_text('to be')
    for folder in ('edu', 'void'): (tmp_path/folder).mkdir()
    np.save(tmp_path/'edu'/'edu_train_0.npy', some)
    return tmp_path

@pytest.mark.parametrize('name, why', [
    ('empty.bin', 'is empty'), ('odd.bin', 'no multiple of the 2 of uint16'), ('torn.npy', 'damaged'), ('float.npy', 'one row of integers'),
    ('text.txt', 'expected .bin or .npy'), ('nowhere.bin', 'does not exist'), ('newer.bin', 'of version 2'), ('edu/x*.npy', 'matches no file'),
    ('void', 'expected a folder made by nanogpt-prepare'), ('nowhere', 'does not exist')])
def test_token_files_that_are_refused(odd_files, name, why):
    with pytest.raises(UserError) as e: TokenData(odd_files/name)
    assert why in str(e.value)

def test_ids_splits_and_sizes_that_are_refused(odd_files):
    row = TokenRow([np.arange(20)], 'row', 'train')
    whole = TokenData(odd_files/'good.npy')
    cases = [(lambda: TokenData(odd_files/'edu', 'test'), NoSplit, "no file with 'test'"),
             (lambda: TokenData(odd_files/'negative.npy', vocab_size=10), UserError, 'holds id -1'),
             (lambda: TokenData(odd_files/'good.npy', vocab_size=2999), UserError, 'holds id 2999'),
             (lambda: TokenData.from_arrays([]), UserError, 'got no array, expected rows of integers'),
             (lambda: TokenData.from_arrays([np.zeros((2, 2), int)]), UserError, 'got shape (2, 2)'),
             (lambda: BatchPlan(row, 1, 20), UserError, 'use more text, a smaller --block_size'),
             (lambda: BatchPlan(whole, 8, 32, sampling='shuffle'), UserError, 'expected epoch, random or sequential'),
             (lambda: BatchPlan(whole, 0, 32), UserError, 'expected at least 1'),
             (lambda: DocumentPlan(row, 1, 4), UserError, 'no known separator'),
             (lambda: mix({whole: 0.}), UserError, 'expected positive numbers')]
    for call, kind, why in cases:
        with pytest.raises(kind) as e: call()
        assert why in str(e.value)

def test_a_prepared_folder_offers_a_smaller_validation_split(tmp_path):
    from nanogpt_lit.data import prepare
    prepare(['to be or not to be', 'that is the question'], tmp_path/'made', tokenizer='char', progress=False)
    data = TokenData(tmp_path/'made')
    with pytest.raises(UserError, match='or a smaller --val_fraction'): BatchPlan(data, 8, len(data))
    with pytest.raises(UserError, match='vocabulary has 2 ids'): TokenData(tmp_path/'made', vocab_size=2)
    with pytest.raises(NoSplit, match='expected one of train, val'): TokenData(tmp_path/'made', 'test')
