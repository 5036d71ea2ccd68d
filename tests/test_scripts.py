"The benchmarks still run: what they print is for people, but a script that nobody starts rots."
import subprocess, sys
from pathlib import Path
import pytest

SCRIPTS = Path(__file__).parent.parent/'scripts'

def test_tokenizer_benchmark_compares_the_merges():
    pytest.importorskip('tokenizers', reason='the extra hf is not installed')
    r = subprocess.run([sys.executable, str(SCRIPTS/'bench_tokenizer.py'), '--mb', '1', '--vocab', '1k', '--rounds', '1', '--no-encode',
                        '--engines', 'hf', 'ours'], capture_output=True, text=True, timeout=300)
    assert r.returncode == 0, r.stderr[-3000:]
    agreement = [line for line in r.stdout.splitlines() if 'merges are the same' in line]
    assert agreement and not [line for line in agreement if 'NOT a tie' in line], r.stdout

def test_loader_benchmark_takes_only_the_function(tmp_path):
    (tmp_path/'train.py').write_text("raise SystemExit('never run')\ndef get_batch(split):\n    data = np.memmap(os.path.join(data_dir, 'train.bin'), np.uint16, 'r')\n"
                                     "    return torch.from_numpy(data[:block_size].astype(np.int64))\n")
    r = subprocess.run([sys.executable, str(SCRIPTS/'bench_loader.py'), '--peer', str(tmp_path), '--rounds', '1', '--mb', '1'], capture_output=True, text=True, timeout=120)
    assert r.returncode == 0 and r.stdout.count('four shards') == 3, r.stderr[-2000:]

def test_step_benchmark_explains_itself():
    r = subprocess.run([sys.executable, str(SCRIPTS/'bench_step.py'), '--help'], capture_output=True, text=True, timeout=120)
    assert r.returncode == 0 and '--peer' in r.stdout, r.stderr[-2000:]

def test_loop_benchmark_does_the_same_updates():
    r = subprocess.run([sys.executable, str(SCRIPTS/'bench_loop.py'), '--steps', '20', '--chunk', '5', '--layers', '1', '--width', '32'], capture_output=True, text=True, timeout=120)
    assert r.returncode == 0 and 'the same weights at the end: True' in r.stdout, r.stderr[-2000:]
