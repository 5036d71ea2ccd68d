"Learning from rewards: the estimator against the exact gradient, the loss against hand-made numbers, the command, and a kill in mid-rollout"
import json, signal, subprocess, sys
import pytest, torch
from pathlib import Path
from nanogpt_lit.checkpoint import load_checkpoint, write_run
from nanogpt_lit.config import GPTConfig, RlConfig, nanogpt_rl
from nanogpt_lit.core import UserError, seed_everything
from nanogpt_lit.model import GPT
from nanogpt_lit.rewards import Question, Sums, Task, advantages, answer_rows, chosen, kl_to, policy_loss, rollouts, token_logprobs
from nanogpt_lit.rl import learn_by_rewards
from nanogpt_lit.tokenizer import load_tokenizer

ROOT = Path(__file__).resolve().parent.parent

class FourLetters:
    "A vocabulary of a, b, c and the end of a line"
    vocab_size = 4
    def token_bytes(self, id): return b'abc\n'[id:id + 1]
    def decode(self, ids): return ''.join('abc\n'[id] for id in ids)

@pytest.fixture(scope='module')
def tiny():
    seed_everything(0)
    model = GPT(GPTConfig(vocab_size=4, block_size=8, n_layer=1, n_head=1, n_embd=8, init_std=.6, zero_init=False))
    return model.eval()

WORTH = {'': 2., 'a': .5, 'b': 1.5, 'c': 1.}                              # of an answer; its second letter counts, too
def worth(text): return 3. if text is None else WORTH.get(text, .2)

def flat_gradient(model, loss):
    grads = torch.autograd.grad(loss, [*model.parameters()], allow_unused=True)
    return torch.cat([torch.zeros_like(p).flatten() if g is None else g.flatten() for g, p in zip(grads, model.parameters())])

def exact_gradient(model):
    "Of the mean worth of answers of at most two tokens to the question a, by going through all of them"
    answers = [[3]] + [[i, j] for i in range(3) for j in range(4)]
    ids, mask = answer_rows([[0, *answer] for answer in answers], [1]*len(answers))
    p = token_logprobs(model, ids, mask)[0].sum(1).exp()
    assert abs(p.sum().item() - 1) < 1e-5
    ended = [FourLetters().decode(answer).partition('\n') for answer in answers]
    return flat_gradient(model, sum(q*worth(text if end else None) for q, (text, end, _) in zip(p, ended)))

@pytest.fixture(scope='module')
def estimates(tiny):
    "Gradients of `policy_loss` from rollouts, each scaled to estimate the exact one; with the mean of the group subtracted, and added"
    P, G, found = 300, 2, {1: [], -1: []}
    for batch in range(30):
        tried = rollouts(tiny, FourLetters(), [[0]]*P, G, 2, '\n', seeds=batch)
        rewards = torch.tensor([worth(text) for text in tried.texts]).view(P, G)
        for sign in found:
            advantage = advantages(rewards) if sign == 1 else rewards + rewards.mean(1, keepdim=True)
            logp, _ = token_logprobs(tiny, tried.ids_BT, tried.mask_BS)
            loss, _ = policy_loss(logp, tried.logp_BS, advantage.flatten(), tried.mask_BS, longest=2)
            # an answer's own reward is in the mean of its group: a G-th of the gradient is subtracted with it
            found[sign].append(-flat_gradient(tiny, loss)*2*G/(G - 1))
    return {sign: torch.stack(rows) for sign, rows in found.items()}

def z_scores(estimates, exact):
    "How many standard errors the mean estimate is off, along the exact gradient and five directions at random"
    torch.manual_seed(1)
    directions = torch.stack([exact, *torch.randn(5, len(exact))])
    along, want = estimates @ directions.T, directions @ exact
    return (along.mean(0) - want)/(along.std(0)/len(along)**.5)

def test_the_estimator_is_the_gradient(tiny, estimates):
    exact = exact_gradient(tiny)
    assert exact.norm() > .05
    assert z_scores(estimates[1], exact).abs().max() < 4

def test_the_wrong_sign_of_the_baseline_is_seen(tiny, estimates):
    assert z_scores(estimates[-1], exact_gradient(tiny))[0].abs() > 6

def test_equal_groups_teach_nothing(tiny):
    for divide in (False, True):
        assert (advantages(torch.full((3, 4), .7), divide) == 0).all()
    tried = rollouts(tiny, FourLetters(), [[0], [1, 2]], 4, 2, '\n')
    logp, _ = token_logprobs(tiny, tried.ids_BT, tried.mask_BS)
    loss, _ = policy_loss(logp, tried.logp_BS, torch.zeros(8), tried.mask_BS, longest=2)
    assert (flat_gradient(tiny, loss) == 0).all()

def test_advantages_by_hand():
    torch.testing.assert_close(advantages(torch.tensor([[1., 0., 0., 1.], [0., 0., 0., 1.]])),
                               torch.tensor([[.5, -.5, -.5, .5], [-.25, -.25, -.25, .75]]))
    assert abs(advantages(torch.tensor([[0., 0., 0., 1.]]), divide=True)[0, 3].item() - .75/(.5 + 1e-4)) < 1e-6

def one_token(ratio, advantage, **how):
    logp = torch.tensor([[0.]]).add(torch.tensor(ratio).log()).requires_grad_()
    loss, cut = policy_loss(logp, torch.zeros(1, 1), torch.tensor([advantage]), torch.ones(1, 1, dtype=torch.bool), longest=1, **how)
    loss.backward()
    return round(loss.item(), 5), round(logp.grad.item(), 5), cut.item()

def test_the_clip_by_hand():
    assert one_token(1., 2.) == (-2., -2., 0)
    assert one_token(1.25, 2.) == (-2.5, -2.5, 0)                            # within 1.28
    assert one_token(1.5, 2.) == (-2.56, 0, 1)                               # cut off above …
    assert one_token(1.5, 2., clip_high=.2) == (-2.4, 0, 1)                  # … and sooner, if it is symmetric
    assert one_token(.5, 2.) == (-1., -1., 0)                                # a good one that became less likely may come back
    assert one_token(.9, -2.) == (1.8, 1.8, 0)
    assert one_token(.5, -2.) == (1.6, 0, 1)                                 # cut off below
    assert one_token(1.5, -2.) == (3., 3., 0)

def test_lengths_and_masks():
    logp = torch.zeros(2, 4, requires_grad=True)
    mask = torch.tensor([[False, True, True, True], [False, False, True, False]])
    by_own, _ = policy_loss(logp, torch.zeros(2, 4), torch.tensor([1., 1.]), mask)
    by_all, _ = policy_loss(logp, torch.zeros(2, 4), torch.tensor([1., 1.]), mask, longest=4)
    torch.testing.assert_close(torch.autograd.grad(by_own, logp, retain_graph=True)[0],
                               -torch.tensor([[0, 1/3, 1/3, 1/3], [0, 0, 1., 0]])/2)
    torch.testing.assert_close(torch.autograd.grad(by_all, logp)[0], -mask.float()/8)
    ids, mask = answer_rows([[5, 6, 7], [5, 8, 9, 10, 11]], [2, 1])
    assert ids.tolist() == [[5, 6, 7, 0, 0], [5, 8, 9, 10, 11]]
    assert mask.tolist() == [[False, True, False, False], [True]*4]

def test_kl_is_nought_for_equals_and_positive_otherwise():
    mask = torch.ones(1, 3, dtype=torch.bool)
    logp = torch.tensor([[-1., -2., -.5]])
    assert kl_to(logp, logp, mask) == 0
    assert kl_to(logp, logp + torch.tensor([[.3, -.3, 0.]]), mask) > 0

@pytest.mark.parametrize('temperature', [1., .6])
def test_logprobs_of_rollouts_are_those_of_the_drawing_distribution(tiny, temperature):
    tried = rollouts(tiny, FourLetters(), [[0, 1], [2]], 3, 3, '\n', temperature)
    for ids, mask, logp in zip(tried.ids_BT, tried.mask_BS, tried.logp_BS):
        for place in mask.nonzero()[:, 0].tolist():
            with torch.no_grad(): scores = tiny(ids[None, :place + 1])[0][0, -1]
            assert abs((scores/temperature).log_softmax(0)[ids[place + 1]] - logp[place]) < 1e-5
        assert (logp[~mask] == 0).all()

def test_company_makes_no_difference(tiny):
    alone = rollouts(tiny, FourLetters(), [[0, 1]], 3, 3, '\n', seeds=[7])
    together = rollouts(tiny, FourLetters(), [[2, 2, 2], [0, 1]], 3, 3, '\n', seeds=[1, 7])
    assert together.texts[3:] == alone.texts
    for row in range(3):
        torch.testing.assert_close(together.logp_BS[3 + row][together.mask_BS[3 + row]], alone.logp_BS[row][alone.mask_BS[row]])

def test_the_sums_are_disjoint_and_carry():
    task = Sums()
    assert not {q.prompt for q in task.train} & {q.prompt for q in task.held_out}
    for q in task.train[:50]:
        a, b = map(int, q.prompt[:-1].split('+'))
        assert int(q.answer) == a + b and a % 10 + b % 10 >= 10 and int(q.taught) in (a + b, a + b - 10)
    assert task.solved(Question('', '42'), '42') and not task.solved(Question('', '42'), None)
    assert chosen(task.train, 3, 5, 1) == chosen(task.train, 3, 5, 1) != chosen(task.train, 4, 5, 1)

# the command

@pytest.fixture(scope='module')
def base(tmp_path_factory):
    "A run folder with a tiny model"
    folder = tmp_path_factory.mktemp('base')
    tok = load_tokenizer(ROOT/'runs'/'book'/'tokenizer')
    seed_everything(1)
    write_run(GPT(GPTConfig(vocab_size=tok.vocab_size, block_size=32, n_layer=1, n_head=1, n_embd=16)), tok, folder)
    return folder

def words(base, out, **more):
    how = dict(pretrained_checkpoint=base, out_dir=out, supervised_steps=1, max_steps=7, epochs=2, prompts_per_step=2, group_size=3,
               eval_interval=3, eval_questions=4, checkpoint_interval=2, generate_interval=2, num_threads=1, device='cpu', learning_rate=.01) | more
    return [f'--{name}={value}' for name, value in how.items()]

def weights(folder, step=7): return load_checkpoint(Path(folder)/f'model_{step:05d}.pt')

KILLED = '''
import os, signal, sys
import nanogpt_lit.generate as g
from nanogpt_lit.config import nanogpt_rl
draw, left = g.draw_ids, [int(sys.argv[1])]
def draw_or_die(*args):
    left[0] -= 1
    if not left[0]: os.kill(os.getpid(), signal.SIGKILL)
    return draw(*args)
g.draw_ids = draw_or_die
nanogpt_rl(sys.argv[2:])
'''

@pytest.mark.skipif(not hasattr(signal, 'SIGKILL'), reason='needs SIGKILL')
def test_killed_in_mid_rollout(base, tmp_path):
    how = dict(kl=.1)
    assert nanogpt_rl(words(base, tmp_path/'whole', **how)) == 0
    # rollouts at steps 1, 3 and 5, of up to six draws each: the ninth is in the middle of the second, and the last checkpoint is that of
    # step 2, between two updates from the first
    dead = subprocess.run([sys.executable, '-c', KILLED, '9', *words(base, tmp_path/'torn', **how)], capture_output=True, text=True)
    assert dead.returncode == -signal.SIGKILL, dead.stderr
    assert sorted(p.name for p in (tmp_path/'torn').glob('model_*.pt')) == ['model_00002.pt']
    kept = load_checkpoint(tmp_path/'torn'/'model_00002.pt')['callbacks']['RolloutKeeper']
    assert kept['kept']['first'] == 1 and 'reference' in kept
    assert nanogpt_rl(words(base, tmp_path/'torn', auto_resume=True, **how)) == 0
    whole, torn = weights(tmp_path/'whole'), weights(tmp_path/'torn')
    for name, value in whole['model'].items(): assert torch.equal(value, torn['model'][name]), name
    for a, b in zip(whole['optimizer'], torn['optimizer']):
        for key, state in a['state'].items():
            for name, value in state.items(): assert torch.equal(torch.as_tensor(value), torch.as_tensor(b['state'][key][name]))
    told = [[{k: v for k, v in json.loads(line).items() if k in ('step', 'loss', 'reward', 'kl', 'held_out', 'entropy')}
             for line in (tmp_path/name/'metrics.jsonl').read_text().splitlines()] for name in ('whole', 'torn')]
    assert told[0] == told[1] and 'reward' in told[0][-1]
    assert 'nanogpt-rl' in (tmp_path/'torn'/'report.html').read_text()
    assert (tmp_path/'torn'/'samples'/'step_00004.txt').read_text().startswith('>>> ')

@pytest.mark.parametrize('more, said', [
    (dict(task='algebra'), 'neither arithmetic nor doctests nor a file'),
    (dict(group_size=1), 'group_size=1: expected at least 2'),
    (dict(group_size=10**9), 'make 2,000,000,000 answers at a time: expected at most 65,536'),
    (dict(reward='praise'), 'reward'),
    (dict(task='doctests', reward='found'), 'makes no sense of doctests'),
    (dict(pretrained_checkpoint='nowhere/at/all'), 'nowhere/at/all'),
    (dict(temperature=0), 'temperature=0'),
    (dict(clip_low=-1), 'clip_low=-1'),
    (dict(max_new_tokens=30), 'do not fit into the 32 tokens'),
])
def test_bad_input_is_one_sentence(base, tmp_path, capsys, more, said):
    assert nanogpt_rl(words(base, tmp_path/'out', **more)) == 1
    heard = capsys.readouterr().err.strip()
    assert said in heard and 'fault of nanogpt_lit' not in heard and heard.count('\n') == 0
    assert not (tmp_path/'out').exists()

def test_files_of_questions(base, tmp_path, capsys):
    file = tmp_path/'q.jsonl'
    file.write_text('{"prompt": "1+1="}\n{"prompt": "2+2=", "answer": "4"}\n')
    assert nanogpt_rl(words(base, tmp_path/'out', task=file)) == 1
    assert '1 record left out: no answer (q.jsonl line 1)' in capsys.readouterr().err
    file.write_text(''.join(json.dumps(dict(prompt=f'{i}+1=', answer=f'{i + 1}')) + '\n' for i in range(9)))
    assert nanogpt_rl(words(base, tmp_path/'out', task=file, max_steps=3, max_new_tokens=4)) == 0
    assert 'held-out questions answered right' in capsys.readouterr().out

def test_an_answer_that_is_too_long_to_be_taught(base, tmp_path, capsys):
    file = tmp_path/'q.jsonl'
    file.write_text(json.dumps(dict(prompt='1+1=', answer='2 '*99)) + '\n' + json.dumps(dict(prompt='1+2=', answer='3 '*99)))
    assert nanogpt_rl(words(base, tmp_path/'out', task=file, max_new_tokens=4)) == 1
    assert 'do not fit into the 32 tokens' in capsys.readouterr().err and not (tmp_path/'out').exists()

def test_a_reward_that_is_none(base, tmp_path):
    class Broken(Task):
        train = held_out = [Question('a', 'b')]
        def reward(self, question, text): return float('nan')
    cfg = RlConfig(pretrained_checkpoint=str(base), out_dir=str(tmp_path/'out'), max_steps=1, eval_interval=0, device='cpu', num_threads=1)
    with pytest.raises(UserError, match='the reward of Broken was nan: expected a finite number'): learn_by_rewards(cfg, task=Broken(), quiet=True)
