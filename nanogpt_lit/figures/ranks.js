// Which process sees which window of the text: `BatchPlan` of the page, number by number.

const U64 = (1n << 64n) - 1n;
function mix64(x) {
  x = (x + 0x9e3779b97f4a7c15n) & U64;
  x = ((x ^ x >> 30n)*0xbf58476d1ce4e5b9n) & U64;
  x = ((x ^ x >> 27n)*0x94d049bb133111ebn) & U64;
  return x ^ x >> 31n;
}

function permute(index, n, key) {                       // a Feistel network, walking cycles
  const half = BigInt(Math.max(1, (Math.ceil(Math.log2(n)) + 1) >> 1)), mask = (1n << half) - 1n;
  const keys = Array.from({length: 6}, (_, r) => mix64((mix64(key) + BigInt(r)) & U64));
  let out = BigInt(index);
  do {
    let left = out >> half, right = out & mask;
    for (const k of keys) [left, right] = [right, left ^ (mix64(right ^ k) & mask)];
    out = left << half | right;
  } while (out >= BigInt(n));
  return Number(out);
}

function place(p, {tokens: N, T, seed, sampling}) {     // where the p-th window of the run begins
  const n = sampling === 'epoch' ? Math.max(1, Math.floor((N - T)/T)) : Math.floor((N - 1)/T), key = mix64(BigInt(seed));
  if (sampling === 'sequential') return p % n*T;
  if (sampling === 'random') return Number(mix64(mix64(BigInt(p)) ^ key) % BigInt(N - T));
  const epochKey = mix64(mix64(BigInt(Math.floor(p/n))) ^ key), slack = N - 1 - n*T;
  return Number(epochKey % BigInt(slack + 1)) + T*permute(p % n, n, epochKey);
}

wake('ranks', (stage, data) => {
  const world = slider('world_size', {values: [1, 2, 4, 8], value: 4}, show), accumulate = slider('micro-steps', {values: [1, 2, 4], value: 1}, show);
  const batch = slider('windows per step', {values: [8, 16, 32], value: 8}, show), step = slider('step', {from: 0, to: 23, value: 0}, show);
  const sampling = choice('sampling', ['epoch', 'random', 'sequential'], 'epoch', show), seed = slider('seed', {from: 1330, to: 1345, value: 1337}, show);
  const map = make('div', {role: 'img', 'aria-label': 'the text in rows; coloured: windows of this step, grey: seen before'}), said = make('div', {class: 'said', 'aria-live': 'polite'});
  const table = make('table', {class: 'code'});
  stage.append(make('div', {class: 'knobs'}, ...[world, accumulate, batch, step, sampling, seed].map(k => k.element)), map, said, make('div', {class: 'scroll', tabindex: 0, role: 'group', 'aria-label': 'windows of each rank'}, table));
  const tone = rank => `hsl(${Math.round(210 + 360*rank/world.value) % 360} 65% 50% / .6)`, perRow = Math.ceil(data.tokens/4);

  function show() {
    const setting = {...data, seed: seed.value, sampling: sampling.value}, B = batch.value, ranks = world.value, first = step.value*B;
    const n_micro = Math.min(accumulate.value, B/ranks), share = B/ranks/n_micro;
    const starts = Array.from({length: B}, (_, i) => place(first + i, setting)), n = Math.floor((data.tokens - data.T)/data.T);
    const since = sampling.value === 'epoch' ? Math.floor(first/n)*n : 0;
    const before = Array.from({length: first - since}, (_, i) => place(since + i, setting));
    map.replaceChildren(...Array.from({length: Math.ceil(data.tokens/perRow)}, (_, r) => make('div', {class: 'track', style: 'height:1.25rem;margin:2px 0'})));
    function paint(start, colour, words) {
      for (let at = start; at < start + data.T;) {        // a window may go on in the next row
        const row = Math.floor(at/perRow), end = Math.min(start + data.T, (row + 1)*perRow);
        map.children[row].append(make('span', {style: `position:absolute;top:0;bottom:0;left:${100*(at - row*perRow)/perRow}%;width:${100*(end - at)/perRow}%;background:${colour};font-size:.7rem;text-align:center;border-right:1px solid var(--faint);box-sizing:border-box`}, words));
        at = end;
      }
    }
    for (const start of before) paint(start, 'var(--faint)', '');
    starts.forEach((start, i) => paint(start, tone(Math.floor(i/share/n_micro)), n_micro > 1 ? String(Math.floor(i/share) % n_micro) : ''));
    const parts = Array.from({length: ranks}, (_, rank) => Array.from({length: n_micro}, (_, micro) => starts.slice((rank*n_micro + micro)*share, (rank*n_micro + micro + 1)*share)));
    table.replaceChildren(...parts.flatMap((micros, rank) => micros.map((places, micro) => make('tr', {}, make('td', {style: 'white-space:nowrap'}, make('span', {style: `background:${tone(rank)};padding:0 .4rem;border-radius:3px`}, `rank ${rank}`)), make('td', {style: 'white-space:nowrap'}, `micro-step ${micro}`), make('td', {}, 'from token ' + places.join(', '))))));
    said.textContent = `Step ${step.value}: windows ${first} to ${first + B - 1} of the run, ${share} at a time in each of ${ranks === 1 ? 'one process' : ranks + ' processes'}` + (n_micro > 1 ? ` and ${n_micro} micro-steps` : '') +
      (sampling.value === 'epoch' ? `; epoch ${Math.floor(first/n)}.` : '.') + (n_micro < accumulate.value ? ` (${accumulate.value} micro-steps would leave nothing for some.)` : '');
    stage.shown = {parts};
  }
  show();
});
