// The attention of a model: its stored scores, q·k/√D, and the mask and the softmax done here.

function weights(scores, size, {temperature, back, ahead}) {
  return Array.from({length: size}, (_, t) => {
    const row = Array.from({length: size}, (_, s) => s > t && !ahead || s <= t - back ? -Infinity : scores[t*size + s]/temperature);
    const best = Math.max(...row), odds = row.map(v => Math.exp(v - best)), total = odds.reduce((a, b) => a + b, 0);
    return odds.map(p => p/total);
  });
}

wake('attention', (stage, data) => {
  const size = data.tokens.length, all = numbers(data.scores, Int16Array);
  const masks = {causal: {back: Infinity}, 'causal, the last 4': {back: 4}, 'only itself and the last': {back: 2}, none: {back: Infinity, ahead: true}};
  const layer = slider('layer', {from: 0, to: data.layers - 1, value: data.layer}, show), head = slider('head', {from: 0, to: data.heads - 1, value: data.head}, show);
  const temperature = slider('temperature', {values: [.1, .25, .5, .75, 1, 1.5, 2, 3, 5, 10], value: 1}, show);
  const mask = choice('mask', Object.keys(masks), 'causal', show);
  const asks = slider('token that asks', {from: 0, to: size - 1, value: size - 1, show: t => visible(data.tokens[t])}, show);
  const said = make('div', {class: 'said', 'aria-live': 'polite'});
  const grid = make('div', {class: 'code', role: 'img', 'aria-label': 'rows ask, columns are looked at: the darker, the more weight',
    style: `display:grid;grid-template-columns:max-content repeat(${size}, minmax(0, 1.5rem));font-size:.72rem;line-height:1.15rem;cursor:pointer`});
  const squares = data.tokens.map((token, t) => {
    const at = {'data-row': t};
    return [make('span', {...at, style: 'padding-right:.4rem;text-align:end'}, visible(token)), ...data.tokens.map((_, s) => make('span', {...at, title: `${visible(token)} → ${visible(data.tokens[s])}`, style: 'border:1px solid var(--veil)'}))];
  });
  grid.append(...squares.flat());
  grid.addEventListener('click', e => { if (e.target.dataset.row) { asks.value = Number(e.target.dataset.row); show(); } });
  const line = make('div', {class: 'code', style: 'margin-top:.6rem;line-height:2'});
  stage.append(make('div', {class: 'knobs'}, layer.element, head.element, temperature.element, mask.element), grid, asks.element, line, said);

  function show() {
    const at = (layer.value*data.heads + head.value)*size*size, scores = Array.from(all.subarray(at, at + size*size), v => v*data.unit);
    const w = weights(scores, size, {temperature: temperature.value, ...masks[mask.value]}), t = asks.value;
    squares.forEach((row, i) => row.forEach((square, s) => {
      if (s) square.style.background = w[i][s - 1] ? `color-mix(in srgb, var(--blue) ${(100*Math.sqrt(w[i][s - 1])).toFixed(0)}%, transparent)` : 'none';
      else square.style.fontWeight = i === t ? 700 : 400;
      square.style.borderBlockColor = i === t ? 'var(--orange)' : '';
    }));
    line.replaceChildren(...data.tokens.map((token, s) => make('span', {style: `background:color-mix(in srgb, var(--blue) ${(100*Math.sqrt(w[t][s])).toFixed(0)}%, transparent);padding:.15rem .1rem;border-radius:3px;${s === t ? 'outline:2px solid var(--orange)' : ''}`}, visible(token))));
    const order = w[t].map((_, s) => s).sort((a, b) => w[t][b] - w[t][a]).slice(0, 3).filter(s => w[t][s] > .005);
    said.textContent = `‘${visible(data.tokens[t])}’ (token ${t}) listens to ` + order.map(s => `‘${visible(data.tokens[s])}’ (${s}): ${percent(w[t][s])}`).join(', ') + '.';
    stage.shown = {weights: w};
  }
  show();
});
