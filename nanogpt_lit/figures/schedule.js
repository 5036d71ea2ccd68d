// The learning rate over a run: `lr_factor` of the page, as a share of the peak.

const shapes = {
  cosine: at => at.floor + (1 - at.floor)*(1 + Math.cos(Math.PI*at.past))/2,
  linear: at => 1 - (1 - at.floor)*at.past,
  constant: () => 1,
  wsd: (at, cfg) => 1 - (1 - at.floor)*(cfg.cooldown ? Math.max(0, 1 - (1 - at.run)/cfg.cooldown) : 0),
};

function factor(step, cfg) {
  if (step < cfg.warmup) return cfg.from === 'next' ? (step + 1)/(cfg.warmup + 1) : step/cfg.warmup;
  const total = cfg.horizon || cfg.steps, warm = cfg.warmup/total;
  const run = Math.min(1, step/total), past = warm < 1 ? (run - warm)/(1 - warm) : 1;
  return shapes[cfg.kind]({past, run, floor: cfg.floor}, cfg);
}

wake('schedule', (stage, data) => {
  const inPercent = share => `${Math.round(100*share)} %`;
  const kind = choice('schedule', data.kinds, data.kinds[0], show);
  const steps = slider('max_steps', {from: 100, to: 4000, step: 100, value: 1000, show: grouped}, show);
  const warmup = slider('warmup_steps', {from: 0, to: 500, step: 10, value: 100}, show);
  const from = choice('warmup_from', data.warmup_from, 'next', show);
  const horizon = slider('lr_decay_steps', {from: 0, to: 4000, step: 100, value: 0, show: n => n ? grouped(n) : 'none'}, show);
  const floor = slider('min_lr / peak', {from: 0, to: .5, step: .05, value: .1, show: inPercent}, show);
  const cooldown = slider('cooldown_fraction', {from: 0, to: 1, step: .05, value: .4, show: inPercent}, show);
  const at = slider('step', {from: 0, to: 999, value: 500, show: grouped}, show);
  const place = make('div'), said = make('div', {class: 'said', 'aria-live': 'polite'});
  stage.append(make('div', {class: 'knobs'}, ...[kind, steps, warmup, from, horizon, floor, cooldown].map(k => k.element)), place, at.element, said);
  const plot = chart(place, {label: 'the learning rate over the run', y: [0, 1], xName: 'step', yName: 'share of the peak', showX: grouped, showY: inPercent});

  function show() {
    const cfg = {kind: kind.value, steps: steps.value, warmup: warmup.value, from: from.value, horizon: horizon.value, floor: floor.value, cooldown: cooldown.value};
    at.limit(cfg.steps - 1);
    cooldown.input.disabled = cfg.kind !== 'wsd';
    const rates = Array.from({length: cfg.steps}, (_, step) => factor(step, cfg));
    const mean = rates.reduce((a, b) => a + b, 0)/cfg.steps, low = cfg.horizon && cfg.horizon < cfg.steps ? ` The last ${grouped(cfg.steps - cfg.horizon)} steps run at the end's rate.` : '';
    const early = cfg.horizon > cfg.steps ? ' The run ends before its rate has fallen.' : '';
    plot([{points: rates.map((r, step) => [step, r])}], [[at.value, rates[at.value]]], [0, cfg.steps - 1]);
    said.textContent = `Step ${grouped(at.value)} of ${grouped(cfg.steps)}: ${(100*rates[at.value]).toFixed(1)} % of the peak. Mean of the run: ${(100*mean).toFixed(1)} %.` + low + early;
    stage.shown = {cfg, rates: rates.filter((_, step) => step % 25 === 0), last: rates[cfg.steps - 1], mean};
  }
  show();
});
