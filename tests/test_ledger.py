"The ledger of the book: every row belongs to a page, and what can be measured again in seconds comes out as it is written."
import json, platform
from pathlib import Path
import numpy as np
import pytest
from nbdev.config import get_config
from nanogpt_lit.core import UserError
from nanogpt_lit.guess import bigram_nats, bits_per_byte, held_out, packed_size, plot_ledger, pystdlib_documents, pystdlib_split
from nanogpt_lit.guess import read_ledger, unigram_nats

CFG = get_config()
BOOK = CFG.nbs_path.parent/'runs'/'book'
ROWS = read_ledger(BOOK/'ledger.jsonl')
PAGES = {p.stem for p in CFG.nbs_path.glob('*.ipynb')}
PYTHON = '.'.join(platform.python_version_tuple()[:2])

def recorded(what):
    "The row of this name; a skip where it was measured on another Python's library"
    row = next(row for row in ROWS if row.what == what)
    if row.python != PYTHON: pytest.skip(f'measured on the standard library of Python {row.python}, and this is {PYTHON}')
    return row

@pytest.fixture(scope='module')
def ids(): return tuple(np.frombuffer(''.join(part).encode(), np.uint8) for part in pystdlib_split())

def test_every_row_is_somebodys_and_can_be_checked():
    assert {row.page for row in ROWS} <= PAGES
    assert len({row.what for row in ROWS}) == len(ROWS)
    for row in ROWS:
        assert 0 < row.bits_per_byte <= 8 and row.how and (row.seeds == 1 or row.std > 0), row
        assert not row.log or (BOOK/row.log).exists(), f'{row.what}: the log {row.log} is missing'

def test_the_story_is_told_in_the_order_of_the_pages():
    pages = [row.page for row in ROWS]
    assert pages == sorted(pages)

def test_counts_are_reproduced(ids): # the third decimal, since a patch release changes a few lines of the library
    train, val = ids
    assert abs(recorded('unigram').bits_per_byte - bits_per_byte(unigram_nats(train, val, 256), 1, 1)) < .02
    assert abs(recorded('bigram').bits_per_byte - bits_per_byte(bigram_nats(train, val, 256), 1, 1)) < .02
    assert recorded('uniform').bits_per_byte == 8

def test_gzip_is_reproduced(ids):
    packed = packed_size(ids[1].tobytes())
    for what in ('gzip', 'xz'): assert abs(recorded(what).bits_per_byte - packed[what]) < .02

def test_the_logs_give_the_means():
    import statistics
    for row in ROWS:
        if row.seeds == 1: continue
        runs = [json.loads(line) for line in (BOOK/row.log).read_text().splitlines()]
        found = [run['bits_per_byte'] for run in runs]
        assert len(found) == row.seeds == len({run['seed'] for run in runs})
        assert abs(statistics.mean(found) - row.bits_per_byte) < 1e-9 and abs(statistics.stdev(found) - row.std) < 1e-9

def test_the_split_is_the_one_that_is_prepared():
    from nanogpt_lit.corpus import open_corpus
    from nanogpt_lit.data import _routed, survey_corpus
    corpus = open_corpus('pystdlib')
    parts = dict(train=[], val=[])
    for item in _routed(corpus, survey_corpus(corpus), .1): parts[item.split].append(item.text)
    train, val = pystdlib_split()
    assert ''.join(parts['val']) == ''.join(val)
    assert ''.join(parts['train']) == ''.join(train)

def test_the_running_model_is_as_good_as_written():
    "On the first 64 kB of the held-out bytes, beside what its log says of all of them"
    row = next((row for row in ROWS if row.log == 'metrics.jsonl'), None)
    if row is None or not (BOOK/'config.toml').exists(): pytest.skip('the running model is not here')
    recorded(row.what)
    import torch
    from nanogpt_lit.model import GPT
    from nanogpt_lit.tokenizer import load_tokenizer
    model, tok = GPT.from_pretrained(BOOK), load_tokenizer(BOOK/'tokenizer')
    _, val = pystdlib_split()
    text, ids = '', []
    for document in val:
        if len(text) > 2**16: break
        text += document
        ids += [*tok.encode(document), tok.eot_id]
    T, nats, n = model.cfg.block_size, 0., 0
    with torch.no_grad():
        for i in range(0, len(ids) - 1, T):
            part = torch.tensor([ids[i:i + T + 1]])
            nats += model(part[:, :-1], part[:, 1:])[1].item()*(part.shape[1] - 1)
            n += part.shape[1] - 1
    here = bits_per_byte(nats/n, len(ids), len(text.encode()))
    assert abs(here - FIRST_64_KB) < .02

FIRST_64_KB = 1.335 # measured when the row was written

def test_a_damaged_row_is_named(tmp_path):
    path = tmp_path/'ledger.jsonl'
    good = (BOOK/'ledger.jsonl').read_text().splitlines()[0]
    path.write_text(good + '\n{"page": "10_guess", "what": "x"}\n')
    with pytest.raises(UserError, match='line 2 is damaged.*bits_per_byte is missing'): read_ledger(path)
    path.write_text(good + '\nnonsense\n')
    with pytest.raises(UserError, match='line 2'): read_ledger(path)

def test_the_picture_grows():
    import matplotlib
    matplotlib.use('Agg')
    few, all_rows = plot_ledger(ROWS, here='10_guess'), plot_ledger(ROWS)
    assert len(few.patches) == sum(row.page == '10_guess' for row in ROWS) < len(all_rows.patches) == len(ROWS)
    assert len({bar.get_facecolor() for bar in few.patches}) == 2              # learned here, and not learned at all
    with pytest.raises(UserError, match='expected something like 10_guess'): plot_ledger(ROWS, here='guess')

def test_the_script_trains_and_writes_its_row(tmp_path, monkeypatch):
    "A few steps of the smallest model on a made-up text; what was there of another row stays"
    import ledger
    from nanogpt_lit.loader import TokenData
    ids = np.random.default_rng(0).integers(0, 2048, 3000)
    data = TokenData.from_arrays([ids], 'made up', 'train', 2048, None, n_bytes=6000)
    model, losses, seconds = ledger.train('head', 1, data, 10, 1e-3)
    assert list(losses) == [10] and 6 < losses[10] < 9 and seconds > 0
    assert model.num_params() < ledger.make_model('block').num_params()       # no MLP
    monkeypatch.setattr(ledger, 'BOOK', tmp_path)
    row = next(row for row in ROWS if row.what == 'gzip')
    ledger.put(row)
    ledger.put(next(row for row in ROWS if row.what == 'uniform'))
    assert [o.what for o in read_ledger(tmp_path/'ledger.jsonl')] == ['uniform', 'gzip']    # in the order of the story
    ledger.put(type(row)(**vars(row) | dict(bits_per_byte=1.5)))
    assert [o.bits_per_byte for o in read_ledger(tmp_path/'ledger.jsonl')] == [8, 1.5]      # replaced, not doubled
