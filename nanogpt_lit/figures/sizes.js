// The bill of a classic GPT before it is built: the formulas of the page, heads of 64 channels.

function bill({L, C, T, V, B, dtype, rows}) {
  const H = C/64, short = dtype === 'bfloat16', tokens = B*T;
  const parts = {'token embedding': V*C, 'position embedding': T*C, attention: L*(4*C*C + 4*C), MLP: L*(8*C*C + 5*C), norms: L*4*C + 2*C};
  const N = sum(parts), pieces = tokens > rows;          // many scores are computed in pieces, and with them the gradients of the output layer and of what it reads
  const flops = {'attention, matrices': 8*L*C*C, 'attention, scores and sums': 4*C*L*T, MLP: 16*L*C*C, 'output layer': 2*C*V};
  const perLayer = (short ? 36 : 64)*C + 4*(4 + H), around = (short ? 6 : 8)*C + 8;
  const memory = {weights: 4*N + 8*tokens, gradients: 4*N, 'optimiser states': 8*N, '16-bit copies of weights': short ? 2*(12*L*C*C + (pieces ? 0 : V*C)) : 0,
    activations: tokens*(L*perLayer + around) + 8*T + 8 + (pieces ? 4*V*C + (short ? 2*tokens*C : 0) : 0), 'scores and loss': pieces ? 0 : 4*tokens*V};
  return {parts, N, flops, perToken: 3*sum(flops), memory, bytes: sum(memory)};
}

function sum(table) { return Object.values(table).reduce((a, b) => a + b, 0); }

function human(n, units = ['', 'K', 'M', 'B', 'T']) {
  let i = 0;
  while (n >= 999.5 && i < units.length - 1) { n /= 1000; i++; }
  return `${n >= 99.5 ? n.toFixed(0) : n >= 9.95 ? n.toFixed(1) : n.toFixed(2)}${units[i] && '\u00a0' + units[i]}`;
}

function long(seconds) {
  const hours = seconds/3600, days = hours/24;
  return days > 1000 ? `${grouped(days/365.25)} years` : days >= 3 ? `${days.toFixed(0)} days` : hours >= 1 ? `${hours.toFixed(1)} hours` : hours >= 1/60 ? `${(60*hours).toFixed(1)} minutes` : `${seconds.toFixed(1)} s`;
}

wake('sizes', (stage, data) => {
  const preset = choice('preset', [...Object.keys(data.presets), 'my own'], 'gpt2', load);
  const own = () => { preset.value = 'my own'; show(); };
  const layers = slider('n_layer', {from: 1, to: 96, value: 12}, own), width = slider('n_embd', {from: 64, to: 8192, step: 64, value: 768, show: grouped}, own);
  const context = slider('block_size', {values: [64, 128, 256, 512, 1024, 2048, 4096, 8192], value: 1024, show: grouped}, own);
  const vocabulary = slider('vocab_size', {values: [256, 1024, 2048, 10000, 32000, 50257, 50304, 100277, 128256], value: 50257, show: grouped}, own);
  const batch = slider('batch_size', {from: 1, to: 128, value: 4}, show), dtype = choice('dtype', ['bfloat16', 'float32'], 'bfloat16', show);
  const text = slider('tokens', {values: [1e7, 3e7, 1e8, 3e8, 1e9, 3e9, 1e10, 3e10, 1e11, 3e11, 1e12, 15e12], value: 1e10, show: n => human(n)}, show);
  const card = choice('card', Object.keys(data.cards), 'H100 80GB HBM3', show), cards = slider('cards', {values: [1, 2, 4, 8, 16, 64, 256, 1024], value: 1, show: grouped}, show);
  const mfu = slider('MFU', {from: .05, to: .65, step: .05, value: .4, show: percent}, show);
  const tables = make('div', {style: 'display:grid;grid-template-columns:repeat(auto-fit,minmax(17rem,1fr));gap:.4rem 1.6rem'}), said = make('div', {class: 'said', 'aria-live': 'polite'});
  stage.append(make('div', {class: 'knobs'}, ...[preset, layers, width, context, vocabulary, batch, dtype, text, card, cards, mfu].map(k => k.element)), tables, said);

  function bars(title, table, unit) {
    const total = sum(table);
    return make('div', {}, make('b', {}, title), ...Object.entries(table).filter(([, n]) => n).map(([name, n]) => make('div', {class: 'bar', style: 'grid-template-columns:9.5rem 1fr 4.2rem'},
      make('span', {style: 'white-space:normal'}, name), make('span', {class: 'track'}, make('i', {style: `width:${100*n/total}%`})), make('span', {}, unit(n)))));
  }
  function load() {
    const p = data.presets[preset.value];
    if (p) [layers.value, width.value, context.value, vocabulary.value] = [p.n_layer, p.n_embd, p.block_size, p.vocab_size];
    show();
  }
  function show() {
    const b = bill({L: layers.value, C: width.value, T: context.value, V: vocabulary.value, B: batch.value, dtype: dtype.value, rows: data.rows[vocabulary.value]});
    const peak = data.cards[card.value][dtype.value], seconds = text.value*b.perToken/(mfu.value*peak*cards.value);
    const bytes = n => human(n, ['B', 'KB', 'MB', 'GB', 'TB']);
    tables.replaceChildren(bars(`${human(b.N)} parameters`, b.parts, n => percent(n/b.N)), bars(`${human(b.perToken)} operations per token`, b.flops, n => percent(n/sum(b.flops))),
      bars(`${bytes(b.bytes)} to train on ${batch.value} × ${grouped(context.value)} tokens`, b.memory, bytes));
    said.textContent = `${human(text.value)} tokens are ${(text.value/b.N).toPrecision(3)} per parameter and ${(text.value*b.perToken).toExponential(1)} operations: ` +
      `${long(seconds)} on ${cards.value === 1 ? 'one' : grouped(cards.value)} ${card.value} at ${percent(mfu.value)} of ${human(peak/1e12)} TFLOPS.`;
    stage.shown = {...b, seconds};
  }
  load();
});
