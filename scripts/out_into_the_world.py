"""From nothing to a model that others can use: quickstart, export, `transformers`, a GGUF file, a server, the official client.

    pip install -e '.[hf,gguf,serve]' openai
    python scripts/out_into_the_world.py [--minutes 2] [--folder FOLDER]

Every step is the command that a person would type; what it leaves is looked at with the program that it is meant for. With llama-cpp-python
installed the GGUF file is also run, and must write the same greedy tokens as `transformers`. The first thing that is not as it should be ends the script.
"""
import argparse, os, re, subprocess, sys, tempfile, threading
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

BIN = Path(sys.executable).parent
QUESTION = 'Write a Python function `add` that returns the sum of two numbers.'

def command(name, *words, cwd):
    "Run a command of ours and show its last lines"
    print(f'\n$ {name} {" ".join(map(str, words))}', flush=True)
    done = subprocess.run([BIN/name, *map(str, words)], cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    print(*done.stdout.strip().splitlines()[-4:], sep='\n', flush=True)
    if done.returncode: raise SystemExit(f'{name} ended with exit code {done.returncode}')

def loaded(folder):
    "Model and tokenizer of an exported folder, by `transformers`"
    from transformers import AutoModelForCausalLM, AutoTokenizer
    return AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)

def in_transformers(folder):
    "The exported folder answers in a pipeline"
    from transformers import pipeline
    model, tok = loaded(folder)
    talk = [dict(role='user', content=QUESTION)]
    answer = pipeline('text-generation', model=model, tokenizer=tok)(talk, max_new_tokens=40, do_sample=False)[0]['generated_text'][-1]
    print(f'transformers ({type(model).__name__}): {answer["content"]!r}', flush=True)

def in_llama_cpp(path, folder):
    "The GGUF file is read back; where llama-cpp-python is installed it runs, beside the same model in `transformers`"
    import torch
    from gguf import GGUFReader
    reader = GGUFReader(path)
    print(f'gguf reads {path.name}: {len(reader.tensors)} tensors, {len(reader.fields)} fields', flush=True)
    if not find_spec('llama_cpp'):
        print('llama-cpp-python is not installed: the file was read, not run')
        return
    from llama_cpp import Llama
    model, tok = loaded(folder)
    ids = tok('def add(', return_tensors='pt')['input_ids']
    with torch.no_grad(): wanted = model.generate(ids, max_new_tokens=40, do_sample=False)[0, ids.shape[1]:].tolist()
    llama, written = Llama(str(path), n_ctx=model.config.max_position_embeddings, verbose=False), []
    for token in llama.generate(ids[0].tolist(), temp=0., repeat_penalty=1.):
        written.append(token)
        if len(written) == len(wanted): break
    if written != wanted: raise SystemExit(f'llama.cpp writes {written}, transformers {wanted}')
    print(f'llama.cpp: the same {len(written)} greedy tokens as transformers')

@contextmanager
def serving(run, cwd):
    "`nanogpt-serve` on a free port; its address"
    print(f'\n$ nanogpt-serve {run} --port 0', flush=True)
    server = subprocess.Popen([BIN/'nanogpt-serve', run, '--port', '0'], cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        for line in server.stdout:
            print(line, end='', flush=True)
            if found := re.search(r'http://[\w.\[\]:]+:\d+', line): break
        else: raise SystemExit('the server ended before it said where it is')
        threading.Thread(target=server.stdout.read, daemon=True).start()
        yield found[0]
    finally:
        server.terminate()
        server.wait(20)

def asked(address):
    "The official client, streaming and whole"
    import openai
    client = openai.OpenAI(base_url=f'{address}/v1', api_key='none')
    model = client.models.list().data[0].id
    talk = dict(model=model, messages=[dict(role='user', content=QUESTION)], max_tokens=40, temperature=0)
    whole = client.chat.completions.create(**talk)
    pieces = [piece.choices[0].delta.content or '' for piece in client.chat.completions.create(**talk, stream=True) if piece.choices]
    if ''.join(pieces) != whole.choices[0].message.content: raise SystemExit('the streamed answer is another than the whole one')
    print(f'openai: {whole.choices[0].message.content!r}, {whole.usage.completion_tokens} tokens in {len(pieces)} pieces')

def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument('--minutes', type=float, default=2, help="of the quickstart's training")
    ap.add_argument('--folder', type=Path, help='where runs and files go; else a temporary folder')
    args = ap.parse_args()
    os.environ['HF_HUB_OFFLINE'] = '1'                                        # nothing is fetched
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        command('nanogpt-quickstart', '--minutes', args.minutes, cwd=folder)
        chat = 'runs/quickstart-chat'
        command('nanogpt-export', chat, '--out_dir', 'hf', cwd=folder)
        in_transformers(folder/'hf')
        with serving(chat, folder) as address: asked(address)
        size = '--n_layer 2 --n_embd 64 --n_head 2 --block_size 128 --batch_size 16'.split()      # a small Llama: what llama.cpp knows
        command('nanogpt-train', 'cs336-small', '--dataset', 'pystdlib', '--vocab_size', 2048, '--max_steps', 50, *size, '--out_dir', 'runs/llama', cwd=folder)
        command('nanogpt-export', 'runs/llama', '--out_dir', 'llama', cwd=folder)
        command('nanogpt-export', 'runs/llama', '--format', 'gguf', '--out_dir', 'gguf', cwd=folder)
        in_llama_cpp(next((folder/'gguf').glob('*.gguf')), folder/'llama')

if __name__ == '__main__': main()
