"""What the version of November 2026 wrote is still read: vocabularies, data sets, runs, tunings and adapters.

`before/0.1.0.tar.gz` was made by that version itself: two runs (modern with a BPE vocabulary, classic with characters), a full tuning and one
with adapters, a data set, a tokenizer, and what each model then wrote at temperature 0 (`NAME.said`)."""
import shutil, tarfile
from contextlib import chdir
from pathlib import Path
import numpy as np
import pytest
import torch
from harness import spoken
from nanogpt_lit import config, optim
from nanogpt_lit.checkpoint import load_checkpoint
from nanogpt_lit.loader import TokenData
from nanogpt_lit.tokenizer import load_tokenizer

TRAININGS = {'run': 'train', 'classic': 'train', 'tuned': 'finetune', 'lora': 'finetune'}

@pytest.fixture(scope='module')
def kept(tmp_path_factory):
    folder = tmp_path_factory.mktemp('before')
    with tarfile.open(Path(__file__).parent/'before'/'0.1.0.tar.gz') as archive: archive.extractall(folder, filter='data')
    return folder/'before'

@pytest.fixture
def home(kept, tmp_path):
    "A copy of its own for a test that writes"
    shutil.copytree(kept, tmp_path/'home')
    with chdir(tmp_path/'home'): yield tmp_path/'home'

def test_vocabulary_and_data_are_read(home):
    tok, data = load_tokenizer('tok'), TokenData('data')
    first = tok.decode(np.fromfile('data/train_000000.bin', np.uint16)[:60].tolist()).split()
    assert tok.decode(tok.encode('the cat sat')) == 'the cat sat' and data.tokenizer_hash == tok.hash
    assert len(data) > 3000 and tok.decode(data[:60].tolist()).split()[1:4] == first[1:4]
    code, said = spoken(config.nanogpt_prepare, '--inspect', 'data')
    assert code == 0 and f'{len(data):,}' in said

@pytest.mark.parametrize('name', TRAININGS)
def test_models_write_what_they_wrote(home, name):
    words = [name, '--start', 'the cat', '--max_new_tokens', '12', '--temperature', '0', '--num_samples', '1', '--device', 'cpu']
    code, said = spoken(config.nanogpt_sample, *words)
    assert code == 0 and Path(f'{name}.said').read_text() in said

def weights(path): return {k: v.float() for k, v in load_checkpoint(path)['model'].items()}

@pytest.mark.parametrize('name', TRAININGS)
def test_trainings_go_on(home, name, monkeypatch):
    "From the checkpoint before the last to the same end, where Muon computes in the number type that it had there"
    monkeypatch.setattr(optim, 'muon_dtype', lambda device: torch.bfloat16)
    last = (home/name/'latest').read_text().strip()
    before = weights(home/name/last)
    (home/name/last).unlink()
    code, said = spoken(getattr(config, f'nanogpt_{TRAININGS[name]}'), *going_on(name))
    assert code == 0, said[-2000:]
    after = weights(home/name/last)
    assert before.keys() == after.keys() and all(torch.allclose(before[k], after[k], atol=1e-5) for k in before)

def going_on(name):
    if TRAININGS[name] == 'train': return ['--auto_resume', '--out_dir', name, '--no-plot_loss']
    return ['--input', 'pairs.jsonl', '--checkpoint_path', name, '--resume', '--out_dir', name]

@pytest.mark.parametrize('command, words', [('report', ['run']), ('report', ['lora']), ('monitor', ['tuned', '--once']), ('plot', ['run', 'classic', '--output', 'x.png']),
                                            ('export', ['classic', '--out_dir', 'hf']), ('eval', ['run', '--device', 'cpu', '--tasks', 'loss'])])
def test_runs_are_looked_at(home, command, words):
    code, said = spoken(getattr(config, f'nanogpt_{command}'), *words)
    assert code == 0, said[-2000:]
