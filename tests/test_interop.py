"Models that leave for other programs and come from them, each program in a process of its own."
import ast, json, os, pickle, sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
import pytest
import harness
import torch
from hypothesis import given, settings, strategies as st
from nanogpt_lit.config import GPTConfig
from nanogpt_lit.core import UserError
from nanogpt_lit.model import GPT
from nanogpt_lit.interop import from_hf, from_pretrained, read_pickle, to_hf
from nanogpt_lit.translate import FAMILIES, cannot, family_of, gpt_config, hf_config

def run(*words, cwd, ok=True, fresh=False):
    r = harness.run(*words, cwd=cwd, fresh=fresh)
    if ok: assert r.returncode == 0, r.stderr
    return r

THEIRS = '''
import sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
model, tok = AutoModelForCausalLM.from_pretrained('hf'), AutoTokenizer.from_pretrained('hf')
assert 'nanogpt_lit' not in sys.modules
out = model.generate(**tok('First', return_tensors='pt'), max_new_tokens=50, do_sample=False)[0]
print(type(model).__name__, tok.decode(out), sep='\\n', end='')
'''

@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    "A folder with a run of the tiny preset in a shape that Qwen3 has"
    folder = tmp_path_factory.mktemp('trained')
    text = ''.join(f'First came {i}, then came {i + 1}, and the crowd said: "Second!"\n' for i in range(3000))
    (folder/'text.txt').write_text(text, encoding='utf-8')
    run('nanogpt-train', 'tiny', '--input', 'text.txt', '--act', 'swiglu', '--n_kv_head', 1, '--tokenizer_vocab_size', 300,
        '--max_steps', 60, '--out_dir', 'runs/t', '--device', 'cpu', cwd=folder)
    return folder

def test_exported_run_writes_the_same_text_under_transformers(trained):
    pytest.importorskip('transformers')
    run('nanogpt-export', 'runs/t', '--out_dir', 'hf', cwd=trained)
    assert {'config.json', 'generation_config.json', 'model.safetensors', 'tokenizer.json', 'tokenizer_config.json'} == {p.name for p in (trained/'hf').iterdir()}
    name, text = run('python', '-c', THEIRS, cwd=trained, fresh=True).stdout.split('\n', 1)
    greedy = '--start', 'First', '--temperature', 0, '--num_samples', 1, '--max_new_tokens', 50, '--device', 'cpu'
    for source in ('runs/t', 'hf', 'hf/model.safetensors'):
        assert run('nanogpt-sample', source, *greedy, cwd=trained).stdout == f'{text}\n---------------\n'
    assert name == 'Qwen3ForCausalLM'

def test_imported_run_is_trained_on_with_its_own_tokenizer_only(trained):
    run('nanogpt-export', 'runs/t', '--out_dir', 'hf2', cwd=trained)
    run('nanogpt-import', 'hf2', '--out_dir', 'runs/imported', cwd=trained)
    more = ['nanogpt-train', '--load_checkpoint', 'runs/imported/model_00000.pt', '--input', 'text.txt', '--max_steps', 5, '--device', 'cpu']
    first = run(*more, '--tokenizer', 'runs/imported/tokenizer', '--out_dir', 'runs/more', cwd=trained).stdout
    assert 'weights only' in first and float(first.split('val loss ')[1].split()[0]) < 3           # not from scratch
    wrong = run(*more, '--tokenizer_vocab_size', 260, '--out_dir', 'runs/wrong', cwd=trained, ok=False)
    assert wrong.returncode == 1 and 'another tokenizer' in wrong.stderr and '--tokenizer runs/imported/tokenizer' in wrong.stderr
    other = run(*more, '--tokenizer', 'runs/imported/tokenizer', '--n_embd', 48, '--n_layer', 1, '--out_dir', 'runs/wrong', cwd=trained, ok=False)
    assert other.returncode == 1 and 'n_layer is 2 there and 1 here' in other.stderr and 'n_embd is 64 there and 48 here' in other.stderr

class Attack:
    def __init__(self, *args): self.args = args
    def __reduce__(self): return self.args[0], self.args[1:]

def test_no_command_executes_a_pickle(tmp_path):
    attack = Attack(os.system, f'touch {tmp_path/"gotcha"}')
    for name, content in {'raw.pt': attack, 'ckpt.pt': {'model': {}, 'model_args': attack}, 'ours.pt': {'checksum': attack}}.items():
        torch.save(content, tmp_path/name)
        for words in (['nanogpt-sample', name], ['nanogpt-import', name], ['nanogpt-export', name],
                      ['nanogpt-train', '--load_checkpoint', name, '--dataset', 'pystdlib']):
            r = run(*words, cwd=tmp_path, ok=False)
            assert r.returncode == 1 and r.stderr.startswith('error: ') and r.stderr.count('\n') == 1, r.stderr
    (tmp_path/'plain.pt').write_bytes(pickle.dumps(attack))
    assert run('nanogpt-import', 'plain.pt', cwd=tmp_path, ok=False).returncode == 1
    assert not (tmp_path/'gotcha').exists()

@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300), st.integers(0, 10**6), st.booleans())
def test_damaged_files_are_refused_in_words(tmp_path_factory, noise, at, cut):
    folder = tmp_path_factory.mktemp('damaged')
    torch.save({'model': {'wte.weight': torch.ones(3, 2)}, 'step': 1}, folder/'x.pt')
    good = (folder/'x.pt').read_bytes()
    at %= len(good)
    (folder/'x.pt').write_bytes(good[:at] + noise + (b'' if cut else good[at + len(noise):]))
    try: read_pickle(folder/'x.pt')
    except UserError as e: assert 'x.pt' in str(e)

shapes = st.builds(dict, n_layer=st.integers(1, 2), n_head=st.sampled_from([2, 4]), n_kv_head=st.sampled_from([None, 1, 2]),
    n_embd=st.sampled_from([16, 24]), head_dim=st.sampled_from([None, 4, 10]), d_ff=st.sampled_from([None, 20]), pos=st.sampled_from(['learned', 'rotary', 'none']),
    rope_theta=st.sampled_from([1e4, 5e5]), norm=st.sampled_from(['layernorm', 'rmsnorm']), norm_affine=st.booleans(), norm_eps=st.sampled_from([1e-5, 1e-6]),
    act=st.sampled_from(['gelu', 'gelu_tanh', 'relu2', 'swiglu']), bias=st.booleans(), qk_norm=st.booleans(), tie_embeddings=st.booleans(),
    logit_softcap=st.sampled_from([0., 0., 15.]), norm_embed=st.booleans(),
    rope_scaling=st.sampled_from(['', '', 'linear factor=3', 'yarn factor=4 original_max_position_embeddings=6',
                                  'llama3 factor=8 low_freq_factor=1 high_freq_factor=4 original_max_position_embeddings=6']))
modern = shapes.map(lambda kw: kw | dict(pos='rotary', norm='rmsnorm', act='swiglu', bias=kw['bias'] and not kw['qk_norm'], logit_softcap=0.))
house = shapes.map(lambda kw: kw | dict(pos='rotary', norm='rmsnorm', act='relu2', bias=False, qk_norm=True,
                                        logit_softcap=kw['logit_softcap']*(kw['norm_embed'] and not kw['norm_affine'])))
classic = shapes.map(lambda kw: {k: v for k, v in kw.items() if k in ('n_layer', 'n_head', 'd_ff', 'norm_affine', 'bias', 'tie_embeddings')} | dict(n_embd=16))

@settings(max_examples=120 if harness.SLOW else 50, deadline=None)
@given(st.one_of(shapes, modern, house, classic))
def test_any_configuration_is_exported_exactly_or_refused_with_reasons(tmp_path_factory, kw):
    try: cfg = GPTConfig(vocab_size=30, block_size=12, **kw)
    except UserError: return
    folder, model, ids_BT = tmp_path_factory.mktemp('hf'), GPT(cfg).eval(), torch.randint(30, (2, 12))
    try: name = family_of(cfg)
    except UserError as e:
        assert not any(not cannot(cfg, o) for o in FAMILIES), 'refused, though a family fits'
        with pytest.raises(UserError, match='no model of transformers'): to_hf(model, folder)
        assert not [*folder.iterdir()]
        return
    with torch.no_grad():
        for k, p in model.named_parameters(): p.uniform_(.5, 1.5) if p.ndim == 1 and not k.endswith('bias') else p.normal_(std=.3)
        back, scores = from_hf(to_hf(model, folder)), model(ids_BT)[0]
        assert (back(ids_BT)[0] - scores).abs().max() < 1e-4
        if find_spec('transformers'):
            from transformers import AutoModelForCausalLM
            assert (AutoModelForCausalLM.from_pretrained(folder).eval()(ids_BT).logits - scores).abs().max() < 1e-4
    assert json.loads((folder/'config.json').read_text())['model_type'] == (FAMILIES[name].kind or name)
    assert gpt_config(hf_config(back.cfg)) == back.cfg

def test_a_family_is_one_row(tmp_path, monkeypatch):
    "A kind of network that nobody has heard of yet: exported, imported, checked and refused by its row alone"
    cfg = GPTConfig(vocab_size=30, block_size=12, n_layer=1, n_head=2, n_embd=16, pos='rotary', norm='rmsnorm', act='swiglu', bias=False, logit_softcap=15.)
    model, ids_BT = GPT(cfg).eval(), torch.randint(30, (2, 12))
    def refused(): pytest.raises(UserError, to_hf, model, tmp_path/'no').match('nearest is llama, but logit_softcap=15.0')
    refused()
    llama = FAMILIES['llama']
    monkeypatch.setitem(FAMILIES, 'soft', replace(llama, architecture='SoftForCausalLM', keys=llama.keys | dict(logit_softcap='softcap'),
                                                  can=llama.can | dict(logit_softcap='any'), reads={'soft': {}, 'softer': dict(tie_embeddings=True)}))
    assert family_of(cfg) == 'soft' and family_of(replace(cfg, logit_softcap=0.)) == 'llama'
    said = json.loads((to_hf(model, tmp_path/'hf')/'config.json').read_text())
    assert (said['model_type'], said['architectures'], said['softcap']) == ('soft', ['SoftForCausalLM'], 15.)
    back = from_hf(tmp_path/'hf')
    assert back.cfg == cfg
    with torch.no_grad(): assert torch.equal(back(ids_BT)[0], model(ids_BT)[0])
    del said['tie_word_embeddings']
    assert gpt_config(said | dict(model_type='softer')).tie_embeddings and not gpt_config(said).tie_embeddings
    with pytest.raises(UserError, match="softcap is 'much', not a number"): gpt_config(said | dict(softcap='much'))
    monkeypatch.delitem(FAMILIES, 'soft')
    refused()
    with pytest.raises(UserError, match="model_type='soft' \\(here: gpt2, llama"): from_hf(tmp_path/'hf')

LLAMA = dict(model_type='llama', vocab_size=30, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, max_position_embeddings=64)
ROPES = [dict(rope_type='yarn'), dict(rope_type='yarn', factor='x'), dict(rope_type='yarn', factor=0), dict(rope_type='yarn', factor=-1.),
         dict(rope_type='yarn', factor=float('nan')), dict(rope_type='yarn', factor=10**400), dict(rope_type='yarn', factor=2, beta=1), dict(type=['yarn']),
         dict(rope_type='llama3', factor=8.), dict(rope_type='longrope', factor=2.), dict(rope_type='linear'), dict(rope_type='linear', factor=[2]),
         dict(full_attention=dict(rope_type='default')), dict(rope_type='yarn', factor=2., original_max_position_embeddings='x')]

@pytest.mark.parametrize('rope', ROPES, ids=lambda o: json.dumps(o)[:50])
def test_stretched_positions_that_make_no_sense(rope):
    for key in ('rope_scaling', 'rope_parameters'):
        with pytest.raises(UserError) as e: gpt_config(LLAMA | {key: rope})
        assert len(str(e.value)) < 700 and 'this llama model' in str(e.value)

def test_a_gate_of_its_own_is_refused(tmp_path):
    "A Qwen3 with ReLU is ours only where gate_proj equals up_proj"
    from safetensors.torch import load_file, save_file
    model = GPT(GPTConfig(vocab_size=30, block_size=12, n_layer=1, n_head=2, n_embd=16, pos='rotary', norm='rmsnorm', act='relu2', bias=False, qk_norm=True))
    file = to_hf(model, tmp_path/'hf')/'model.safetensors'
    assert json.loads((tmp_path/'hf'/'config.json').read_text())['hidden_act'] == 'relu'
    weights = load_file(file)
    weights['model.layers.0.mlp.gate_proj.weight'] += 1
    save_file(weights, file, metadata=dict(format='pt'))
    with pytest.raises(UserError, match='gate_proj is not up_proj'): from_hf(tmp_path/'hf')

def test_a_nanochat_with_louder_positions_is_not_one(tmp_path):
    "It normalises queries and keys after turning them, which undoes what YaRN does to their length"
    cfg = GPTConfig(vocab_size=30, block_size=12, n_layer=1, n_head=2, n_embd=16, pos='rotary', norm='rmsnorm', norm_affine=False, act='relu2', bias=False,
                    qk_norm=True, norm_embed=True)
    assert family_of(cfg) == 'nanochat' and family_of(replace(cfg, rope_scaling='yarn factor=4')) == 'qwen3-relu'
    said = hf_config(cfg) | dict(rope_parameters=dict(rope_type='yarn', factor=4.))
    with pytest.raises(UserError, match='rope_scaling=yarn factor=4'): gpt_config(said)

# ---- against nanoGPT's own code: the variable names a checkout of github.com/karpathy/nanoGPT or karpathy/build-nanogpt
NANOGPTS = [('NANOGPT_LIT_NANOGPT', 'model.py'), ('NANOGPT_LIT_BUILD_NANOGPT', 'train_gpt2.py')]

def their_classes(file):
    "The classes of a script, which would train if it were imported"
    tree = ast.parse(file.read_text(encoding='utf-8'))
    wanted = [o for o in tree.body if isinstance(o, (ast.ClassDef, ast.Import, ast.ImportFrom)) and getattr(o, 'module', '') != 'hellaswag']
    names = {'__name__': '__main__'}
    exec(compile(ast.Module(wanted, []), str(file), 'exec'), names)
    return names

@pytest.mark.parametrize('variable, script', NANOGPTS)
@pytest.mark.parametrize('T', [1, 7, 64])
def test_scores_of_nanogpts_own_code(tmp_path, monkeypatch, variable, script, T):
    "A checkpoint as the other program writes it, every number random, opened here: the scores of both"
    if variable not in os.environ: pytest.skip(f'{variable} names no checkout')
    theirs = their_classes(Path(os.environ[variable])/script)
    sizes = dict(block_size=64, vocab_size=96, n_layer=3, n_head=4, n_embd=32)
    args = sizes if 'BUILD' in variable else sizes | dict(bias=True, dropout=0.)
    torch.manual_seed(0)
    cfg = theirs['GPTConfig'](**args)
    model = theirs['GPT'](cfg).eval()
    with torch.no_grad():
        for p in model.parameters(): p.normal_(std=.3)
    monkeypatch.setattr(sys.modules['__main__'], 'GPTConfig', theirs['GPTConfig'], raising=False)   # where pickle looks for it
    said = dict(config=cfg) if 'BUILD' in variable else dict(model_args=args)
    torch.save(dict(model=model.state_dict(), **said), tmp_path/'ckpt.pt')
    ids = torch.randint(96, (3, T))
    with torch.no_grad():
        logits = model(ids, ids)[0]                                  # with targets nanoGPT scores every position
        ours = from_pretrained(tmp_path/'ckpt.pt')(ids)[0]
    assert torch.equal(logits, ours)
