// Byte-pair encoding of the reader's own text, a merge at a time: `train_naive` of the page.
// A token is a string in which each character stands for one byte, so that comparing strings compares bytes.

// JavaScript's \s has a character more than Python's
function splitter(pattern) { return new RegExp(pattern.replaceAll('\\s', '\\p{White_Space}').replaceAll('\\S', '\\P{White_Space}'), 'gu'); }

function byteString(text) { return String.fromCharCode(...new TextEncoder().encode(text)); }

function readable(token) {
  const text = new TextDecoder().decode(Uint8Array.from(token, c => c.charCodeAt(0)));
  return text.includes('\ufffd') ? Array.from(token, c => '\\x' + c.charCodeAt(0).toString(16)).join('') : visible(text);
}

function countPairs(words) {
  const counts = new Map();
  for (const word of words) for (let i = 1; i < word.length; i++) {
    const key = word[i - 1] + '\u0100' + word[i];        // no byte: keeps the two apart
    counts.set(key, (counts.get(key) || 0) + 1);
  }
  return Array.from(counts, ([key, count]) => ({pair: key.split('\u0100'), count}));
}

const compare = (a, b) => a < b ? -1 : a > b ? 1 : 0;
function better(one, other) {                          // by count; equal counts: the greater pair of byte strings first
  return other.count - one.count || compare(other.pair[0], one.pair[0]) || compare(other.pair[1], one.pair[1]);
}

function mergeWord(word, [a, b]) {
  const out = [];
  for (let i = 0; i < word.length; i++) {
    if (word[i] === a && word[i + 1] === b) { out.push(a + b); i++; }
    else out.push(word[i]);
  }
  return out;
}

function train(text, pattern, most) {
  let words = (text.match(splitter(pattern)) || []).map(w => Array.from(byteString(w)));
  const states = [];
  while (true) {
    const ranked = countPairs(words).sort(better);
    states.push({words, ranked: ranked.slice(0, 6), different: ranked.length});
    if (!ranked.length || states.length > most) return states;
    words = words.map(w => mergeWord(w, ranked[0].pair));
  }
}

wake('merges', (stage, data) => {
  const area = make('textarea', {rows: 3, maxlength: 2000, 'aria-label': 'your text', spellcheck: 'false', oninput: restart});
  area.value = data.text;
  const at = slider('merges', {to: 0, value: 0}, show);
  const tokens = make('div', {class: 'code', style: 'max-height:calc(7*(1.9em + 2px));overflow:auto;line-height:1.9', tabindex: 0, 'aria-label': 'the text as tokens', role: 'group'});
  const said = make('div', {class: 'said', 'aria-live': 'polite'}), pairs = make('table', {class: 'code'}), list = make('table', {class: 'code'});
  const step = by => { at.value = Math.max(0, Math.min(states.length - 1, at.value + by)); show(); };
  tokens.addEventListener('keydown', e => {
    if (e.key === 'ArrowLeft' || e.key === 'ArrowRight') { step(e.key === 'ArrowLeft' ? -1 : 1); e.preventDefault(); }
  });
  stage.append(make('label', {}, make('span', {}, 'your text'), area), make('div', {class: 'row'}, button('← back', () => step(-1)), button('merge →', () => step(1))), at.element, said, tokens,
    make('div', {style: 'display:grid;grid-template-columns:repeat(auto-fit,minmax(15rem,1fr));gap:0 1.5rem'}, pairs, list));

  let states, ids;
  function restart() {
    states = train(area.value, data.pattern, data.most);
    ids = new Map(Array.from({length: 256}, (_, b) => [String.fromCharCode(b), b]));
    states.slice(0, -1).forEach((s, i) => { const made = s.ranked[0].pair.join(''); if (!ids.has(made)) ids.set(made, 256 + i); });
    at.limit(states.length - 1);
    at.value = 0;
    show();
  }
  function cell(tag, words, attributes) { return make(tag, attributes, words); }
  function show() {
    const n = at.value, {words, ranked, different} = states[n], next = ranked[0], newest = n ? states[n - 1].ranked[0].pair.join('') : null;
    const count = words.reduce((sum, w) => sum + w.length, 0), bytes = states[0].words.reduce((sum, w) => sum + w.length, 0);
    const tied = next ? ranked.filter(r => r.count === next.count).length : 0;
    said.textContent = `${bytes} bytes are ${count} tokens` + (count ? `: ${(bytes/count).toFixed(2)} bytes per token. ` : '. ') +
      (!next ? 'No pair is left.' : tied > 1 ? `${tied === 6 ? 'Six or more' : tied} pairs occur ${next.count} times: the greater pair of byte strings wins.` : `One pair occurs ${next.count} times, more than any other.`);
    tokens.replaceChildren(...words.flatMap(w => [make('span', {style: 'display:inline-block;margin-right:.5em;border:1px solid var(--faint);border-radius:4px;padding:0 1px'}, ...w.map((token, i) => {
      const coming = next && (token === next.pair[0] && w[i + 1] === next.pair[1] || i && token === next.pair[1] && w[i - 1] === next.pair[0]);
      const colour = token === newest ? 'color-mix(in srgb, var(--orange) 40%, transparent)' : coming ? 'color-mix(in srgb, var(--blue) 35%, transparent)' : 'var(--veil)';
      return make('span', {style: `background:${colour};margin:1px;padding:1px 3px;border-radius:3px`, title: `id ${ids.get(token)}`}, readable(token));
    })), ' ']));
    pairs.replaceChildren(make('caption', {style: 'text-align:start'}, `the most frequent of ${different} pairs`), ...ranked.map((r, i) => make('tr', {},
      cell('td', `${readable(r.pair[0])} + ${readable(r.pair[1])}`), cell('td', String(r.count), {class: 'number'}), cell('td', i ? '' : '← next'))));
    list.replaceChildren(make('caption', {style: 'text-align:start'}, 'the newest ids'), ...states.slice(0, n).map((s, i) => make('tr', {},
      cell('td', String(256 + i), {class: 'number'}), cell('td', s.ranked[0].pair.map(readable).join(' + ')), cell('td', `${s.ranked[0].count} times`))).slice(-6).reverse());
    stage.shown = {n, merges: states.slice(0, -1).map(s => s.ranked[0].pair.map(t => Array.from(t, c => c.charCodeAt(0)))), ids: words.flat().map(t => ids.get(t)), count, tied};
  }
  restart();
});
