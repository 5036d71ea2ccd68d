// Sampling knobs over a model's own predictions. `filtered` is `next_token_probs` of the page, line by line.

function filtered(scores, {temperature, topK, topP, minP}) {
  const n = scores.length, best = Math.max(...scores);
  if (temperature === 0) return Array.from(scores, (_, i) => i === scores.indexOf(best) ? 1 : 0);
  let kept = Array.from(scores, s => s/temperature);
  if (topK && topK < n) {
    const least = [...kept].sort((a, b) => b - a)[topK - 1];
    kept = kept.map(s => s < least ? -Infinity : s);
  }
  let odds = share(kept.map(s => Math.exp(s - best/temperature)));
  if (topP < 1) {
    const order = odds.map((_, i) => i).sort((a, b) => odds[b] - odds[a] || a - b);
    let before = 0;
    for (const [rank, i] of order.entries()) {         // what the better ones leave: the favourite always stays
      const p = odds[i];
      if (rank > 0 && before >= topP) odds[i] = 0;
      before += p;
    }
  }
  const bar = minP*Math.max(...odds);
  return share(odds.map(p => p >= bar ? p : 0));
}

function share(odds) {
  const total = odds.reduce((a, b) => a + b, 0);
  return odds.map(p => p/total);
}

wake('knobs', (stage, data) => {
  const all = data.prompts.map(p => Array.from(numbers(p.scores, Int16Array), s => s/100));
  const text = id => data.tokens[id], size = data.tokens.length;
  const prompt = choice('after the text', data.prompts.map((p, i) => [i, visible(p.text)]), 0, start);
  const temperature = slider('temperature', {from: 0, to: 2, step: .05, value: 1, show: t => t ? t.toFixed(2) : '0 (greedy)'}, show);
  const topK = slider('top-k', {values: [1, 2, 3, 5, 8, 12, 20, 50, 200, 0], value: 0, show: k => k ? String(k) : 'all'}, show);
  const topP = slider('top-p', {from: .05, to: 1, step: .05, value: 1, show: p => p < 1 ? p.toFixed(2) : 'all'}, show);
  const minP = slider('min-p', {from: 0, to: .5, step: .01, value: 0, show: p => p ? p.toFixed(2) : 'off'}, show);
  const bars = make('div'), said = make('div', {class: 'said', 'aria-live': 'polite'}), drawn = make('span', {class: 'code'});
  const reset = () => { temperature.value = 1; topK.value = 0; topP.value = 1; minP.value = 0; start(); };
  stage.append(make('div', {class: 'knobs'}, prompt.element, temperature.element, topK.element, topP.element, minP.element), bars, said,
    make('div', {class: 'row'}, button('Draw a token', draw), button('Reset', reset), drawn));

  let odds, plain;
  function start() {
    drawn.textContent = '';
    plain = filtered(all[prompt.value], {temperature: 1, topK: 0, topP: 1, minP: 0});
    show();
  }
  function show() {
    odds = filtered(all[prompt.value], {temperature: temperature.value, topK: topK.value, topP: topP.value, minP: minP.value});
    const ranked = plain.map((_, i) => i).sort((a, b) => plain[b] - plain[a] || a - b).slice(0, 14);
    bars.replaceChildren(...ranked.map(i => make('div', {class: odds[i] ? 'bar' : 'bar cut'}, make('span', {class: 'code'}, visible(text(i))),
      make('span', {class: 'track'}, make('i', {style: `width:${100*odds[i]}%`}), make('i', {style: `width:${100*plain[i]}%`})), make('span', {}, percent(odds[i])))));
    const left = odds.filter(p => p > 0).length, sides = Math.exp(-odds.reduce((h, p) => h + (p ? p*Math.log(p) : 0), 0));
    said.textContent = `${grouped(left)} of ${grouped(size)} tokens can be drawn; it is as open as a throw of a die with ${sides.toFixed(1)} sides. Orange: before the knobs.`;
    stage.shown = {odds, left, sides};
  }
  function draw() {
    let dart = Math.random();
    const id = odds.findIndex(p => (dart -= p) < 0);
    drawn.textContent = (drawn.textContent + ' ' + visible(text(id < 0 ? odds.indexOf(Math.max(...odds)) : id))).slice(-120);
  }
  start();
});
