"""The small model that runs in a page (nbs/24_pocket.ipynb): from a run folder to docs/_static/pocket_model.js.

    mkdir pocket && cd pocket          # it prepares pystdlib in a vocabulary of its own, so not where data/pystdlib is another's
    nanogpt-train quickstart --minutes 0 --max_steps 2400 --tokenizer_vocab_size 257 --n_embd 96 --n_layer 4 --n_head 3 --block_size 256 \\
        --batch_size 16 --num_threads 1 --dtype float32 --device cpu --eval_interval 400 --generate_interval 0 --out_dir run
    python ../scripts/pocket.py run    # seconds for the file, some minutes to measure it on everything held out

Another Python has other sources, so a repetition elsewhere ends near these figures, not at them.
"""
import argparse, platform
from pathlib import Path
import torch
from nanogpt_lit.core import atomic_write
from nanogpt_lit.evaluate import evaluate_loss
from nanogpt_lit.loader import TokenData
from nanogpt_lit.model import GPT
from nanogpt_lit.pocket import by_bytes, eight_bits, pocket_script
from nanogpt_lit.tokenizer import load_tokenizer

WITNESS = 'class Reader:\n    def __init__(self, '

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('run', type=Path, help='a run folder')
    p.add_argument('--data', default='data/pystdlib', help='the prepared folder')
    p.add_argument('--out', type=Path, default=Path(__file__).parent.parent/'docs'/'_static'/'pocket_model.js')
    a = p.parse_args()
    model, held_out = GPT.from_pretrained(a.run).eval(), TokenData(a.data, split='val')
    bits = {kind: round(evaluate_loss(m, held_out).bits_per_byte, 4) for kind, m in dict(float32=model, int8=eight_bits(model)).items()}
    plain = by_bytes(model, load_tokenizer(a.run/'tokenizer'))
    with torch.no_grad(): logits = plain(torch.tensor([[*WITNESS.encode()]]))[0][0, -1]
    witness = dict(text=WITNESS, logits=[round(v, 4) for v in logits.tolist()])
    atomic_write(a.out, pocket_script(plain, bits_per_byte=bits, witness=witness, python='.'.join(platform.python_version_tuple()[:2])))
    print(f'{a.out}: {a.out.stat().st_size:,} bytes, bits per byte {bits}')

if __name__ == '__main__': main()
