"""Several processes of one program, as under torchrun, quicker: they are forked from one that has done the imports.

    python scripts/together.py 2 job.py WORDS                # job.py finds RANK, WORLD_SIZE, … in its environment
    python scripts/together.py 2 job.py WORDS -- OTHERS      # once with these words, and then, in new processes, with those

Each process of torchrun spends two seconds on `import torch`, and so does torchrun itself: too long for pages that start many small
jobs. What the processes compute is the same. What is missing is what torchrun is for: other machines, restarts, a report of who failed.
If one fails, the others are ended, and the exit code is 1.
"""
import os, runpy, signal, socket, sys, traceback
import torch._dynamo, torch.distributed.fsdp, torch.distributed.tensor     # what the jobs would import themselves, each for itself
import nanogpt_lit.finetune, nanogpt_lit.pretrain, nanogpt_lit.sharded

def free_port():
    "A port that nobody uses at this moment"
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]

def begin(rank, n, port, job, words):
    "A child process that runs `job`; its number"
    if pid := os.fork(): return pid
    code = 1
    try:
        os.environ |= dict(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(n), LOCAL_WORLD_SIZE=str(n), MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port),
                           TORCHELASTIC_RESTART_COUNT='0')
        sys.argv = [job, *words]
        runpy.run_path(job, run_name='__main__')
        code = 0
    except SystemExit as e: code = e.code if isinstance(e.code, int) else int(e.code is not None)
    except BaseException: traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

def jobs_of(words):
    "The words of each job: what stands between `--`"
    jobs = [[]]
    for word in words:
        if word == '--': jobs.append([])
        else: jobs[-1].append(word)
    return jobs

def together(n, job, words):
    "Run `n` processes of `job`; whether one failed"
    port = free_port()
    running = {begin(rank, n, port, job, words) for rank in range(n)}
    failed = False
    while running:
        pid, status = os.wait()
        running.discard(pid)
        if status and not failed:
            failed = True
            for other in running: os.kill(other, signal.SIGKILL)
    return failed

def main():
    n, job = int(sys.argv[1]), sys.argv[2]
    for words in jobs_of(sys.argv[3:]):
        if together(n, job, words): sys.exit(1)

if __name__ == '__main__': main()
