// Examples of given lengths in rows of T positions, and who may look at whom: `pack_lengths` and `segment_layout`.

function packLengths(lengths, T) {                       // best fit decreasing, on the histogram of lengths
  const counts = Array.from({length: T + 1}, (_, n) => lengths.filter(m => m === n).length);
  const byRoom = Array.from({length: T + 1}, () => []), rooms = new Set([T]);
  for (let length = T; length > 0; length--) for (let n = counts[length]; n;) {
    const room = Math.min(...[...rooms].filter(r => r >= length));       // the tightest that fits; T = a new row
    const [have, inside] = room < T ? byRoom[room].pop() : [n, []];
    const k = Math.min(n, Math.floor(room/length)), used = Math.min(have, Math.floor(n/k)), left = room - k*length;
    if (room < T && have > used) byRoom[room].push([have - used, inside]);
    if (room < T && !byRoom[room].length) rooms.delete(room);
    if (left && !byRoom[left].length) rooms.add(left);
    byRoom[left].push([used, [...inside, ...Array(k).fill(length)]]);
    n -= used*k;
  }
  return byRoom.flat().flatMap(([times, inside]) => Array.from({length: times}, () => inside));
}

wake('packing', (stage, data) => {
  const text = make('input', {type: 'text', inputmode: 'numeric', 'aria-label': 'lengths of the examples', oninput: show});
  text.value = data.lengths.join(' ');
  const size = slider('row, positions', {from: 8, to: 48, value: data.T}, show), ways = choice('rows', ['packed', 'one example each'], 'packed', show);
  const mask = choice('mask', ['block-diagonal', 'causal only'], 'block-diagonal', show);
  const chosen = slider('row shown', {from: 0, to: 0, value: 0}, show), asks = slider('position that looks', {from: 0, to: data.T - 1, value: Math.floor(data.T/2)}, show);
  const list = make('div', {role: 'img', 'aria-label': 'rows filled with examples; what is empty is padding'}), said = make('div', {class: 'said', 'aria-live': 'polite'});
  const grid = make('svg', {role: 'img', 'aria-label': 'rows look, columns are looked at', style: 'width:100%;max-width:19rem;display:block'}), told = make('div', {'aria-live': 'polite'});
  stage.append(make('label', {}, make('span', {}, 'lengths of the examples, in positions'), text), make('div', {class: 'knobs', style: 'margin-top:.6rem'}, size.element, ways.element, chosen.element, mask.element),
    make('div', {style: 'display:grid;grid-template-columns:repeat(auto-fit,minmax(16rem,1fr));gap:.6rem 1.6rem'}, make('div', {}, list, said), make('div', {}, grid, asks.element, told)));
  const colours = ['blue', 'orange', 'green', 'red'], tone = (i, strength = 60) => `color-mix(in srgb, var(--${colours[i % 4]}) ${strength}%, transparent)`;

  function show() {
    const T = size.value, all = (text.value.match(/\d+/g) || []).map(Number), lengths = all.filter(n => n > 0 && n <= T).slice(0, 60);
    const rows = ways.value === 'packed' ? packLengths(lengths, T) : lengths.map(n => [n]);
    chosen.limit(Math.max(0, rows.length - 1));
    asks.limit(T - 1);
    const row = rows[chosen.value] || [], segments = row.flatMap((n, i) => Array(n).fill(i)), t = asks.value;
    while (segments.length < T) segments.push(-1);
    const begin = segments.map((s, i) => segments.indexOf(s)), apart = mask.value === 'block-diagonal';
    list.replaceChildren(...rows.map((inside, r) => make('div', {class: 'track', style: `display:flex;height:1.15rem;margin:3px 0;cursor:pointer;${r === chosen.value ? 'outline:2px solid var(--orange)' : ''}`, 'data-row': r},
      ...inside.map((n, i) => make('span', {style: `width:${100*n/T}%;background:${tone(i)};font-size:.7rem;text-align:center;overflow:hidden;border-right:1px solid var(--faint);box-sizing:border-box`}, String(n))))));
    const used = lengths.reduce((a, b) => a + b, 0), padding = rows.length ? 1 - used/(rows.length*T) : 0;
    said.textContent = `${lengths.length} examples in ${rows.length} rows of ${T}: ${percent(padding)} padding.` + (all.length > lengths.length ? ` Left out: ${all.length - lengths.length} (too long, or too many).` : '');
    grid.setAttribute('viewBox', `0 0 ${T} ${T}`);
    const strip = (from, to, y, fill) => make('rect', {x: from, y, width: to - from, height: 1, style: `fill:${fill}`});
    grid.replaceChildren(make('rect', {x: 0, y: 0, width: T, height: T, style: 'fill:var(--veil)'}), ...segments.flatMap((s, y) => {
      const dark = s < 0 ? 'var(--faint)' : tone(s, 80);
      return [strip(begin[y], y + 1, y, dark), ...(begin[y] && !apart ? [strip(0, begin[y], y, s < 0 ? 'var(--faint)' : tone(s, 35))] : [])];
    }), make('rect', {x: .05, y: t + .05, width: T - .1, height: .9, style: 'fill:none;stroke:var(--orange);stroke-width:.15'}));
    const from = apart ? begin[t] : 0, strangers = apart ? 0 : begin[t], place = apart ? t - begin[t] : t;
    told.textContent = segments[t] < 0 ? `Position ${t} is padding: its loss doesn't count.` :
      `Position ${t} belongs to example ${segments[t]} of the row, is told that it is number ${place}, and may look at ${t - from + 1} positions` + (strangers ? `, ${strangers} of them a stranger's.` : '.');
    stage.shown = {rows, padding, may: segments.map((_, y) => segments.map((_, x) => x <= y && (!apart || x >= begin[y]))), place: segments.map((_, y) => apart ? y - begin[y] : y)};
  }
  list.addEventListener('click', e => { const row = e.target.closest('[data-row]'); if (row) { chosen.value = Number(row.dataset.row); show(); } });
  show();
});
