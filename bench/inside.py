"""What `--inside` costs: CPU seconds of training steps and of looks of the quickstart's model, in turn in one process.

    python bench/inside.py [STEPS] > runs/logs/inside/cost.json
"""
import json, statistics, sys, tempfile, time
from contextlib import redirect_stdout
from pathlib import Path
from nanogpt_lit.config import PRESETS, RunConfig, resolve
from nanogpt_lit.inside import Inside, draw_inside
from nanogpt_lit.pretrain import pretrain
from nanogpt_lit.trainer import Callback

class Clock(Callback):
    "Times each step, and after every fifth a look: all that the callback does for a record, and for the weights before it"
    order = 20
    def __init__(self, watch): self.watch, self.steps, self.looks = watch, [], []
    def on_fit_start(self, t):
        self.watch.on_fit_start(t)
        self.began = time.process_time()
    def on_step_end(self, t):
        now = time.process_time()
        self.steps.append(now - self.began)
        if t.step % 5 == 0:
            self.watch.write(t)
            self.looks.append(time.process_time() - now)
        if t.step % 5 == 4: self.watch.before = self.copy(t)
        self.began = time.process_time()
    def copy(self, t):
        self.watch.every = 1
        self.watch.remember(t)
        return self.watch.before

n = int(sys.argv[1]) if sys.argv[1:] else 100
with tempfile.TemporaryDirectory() as home, redirect_stdout(sys.stderr):
    out = Path(home)/'run'
    words = ['quickstart', '--minutes', '0', '--max_steps', str(n), '--num_threads', '1', '--dtype', 'float32', '--device', 'cpu',
             '--eval_interval', '0', '--generate_interval', '0', '--no-plot_loss', '--out_dir', str(out)]
    clock = Clock(Inside(100, out, False))
    pretrain(*resolve(RunConfig, words, PRESETS), [clock])
    start = time.process_time()
    draw_inside(out)
    pictures = time.process_time() - start
step, look = statistics.median(clock.steps[10:]), statistics.median(clock.looks[2:])
print(json.dumps(dict(steps=len(clock.steps), looks=len(clock.looks), step_s=round(step, 4), look_s=round(look, 4), share_at_100=round(look/(100*step), 4), pictures_s=round(pictures, 2))))
