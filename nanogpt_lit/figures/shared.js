// What all figures share: elements, knobs, and the call that wakes a figure.
// A page holds a picture (.still) and data; `wake` puts what `build` makes of the data in the place of the picture.

function make(tag, attributes = {}, ...children) {
  const svg = ['svg', 'path', 'line', 'rect', 'text', 'circle'].includes(tag);
  const element = svg ? document.createElementNS('http://www.w3.org/2000/svg', tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith('on')) element.addEventListener(name.slice(2), value);
    else if (value !== false && value != null) element.setAttribute(name, value === true ? '' : value);
  }
  element.append(...children);
  return element;
}

// A slider from `from` to `to`, or along a list of `values`; `show` says a value in words
function slider(label, {from = 0, to, step = 1, values, value, show = String}, changed) {
  const place = values ? values.indexOf(value) : value;
  const output = make('output');
  const input = make('input', {type: 'range', min: from, max: values ? values.length - 1 : to, step, 'aria-label': label, oninput: () => { say(); changed(); }});
  const read = () => values ? values[Number(input.value)] : Number(input.value);
  function say() {
    output.textContent = show(read());
    input.setAttribute('aria-valuetext', show(read()));
  }
  input.value = place;
  say();
  return {
    element: make('label', {}, make('span', {}, label, output), input), input,
    get value() { return read(); },
    set value(v) { input.value = values ? values.indexOf(v) : v; say(); },
    limit(most) { input.max = most; say(); },
  };
}

// One of several: `options` is a list of words, or of [value, words]
function choice(label, options, value, changed) {
  const pairs = options.map(o => Array.isArray(o) ? o : [o, o]);
  const select = make('select', {'aria-label': label, onchange: changed}, ...pairs.map(([v, words]) => make('option', {value: v}, words)));
  select.value = value;
  return {
    element: make('label', {}, make('span', {}, label), select),
    get value() { return pairs[select.selectedIndex][0]; },
    set value(v) { select.value = v; },
  };
}

function button(words, pressed, more = {}) { return make('button', {type: 'button', onclick: pressed, ...more}, words); }

const visible = text => text.replaceAll(' ', '␣').replaceAll('\n', '↵').replaceAll('\t', '⇥');
const grouped = n => Math.round(n).toLocaleString('en-US');
const percent = p => p >= .0995 ? (100*p).toFixed(0) + ' %' : p >= .00095 ? (100*p).toFixed(1) + ' %' : p > 0 ? '< 0.1 %' : '0';

// Numbers that came as base64: `type` is the array they are
function numbers(base64, type) {
  const bytes = Uint8Array.from(atob(base64), c => c.charCodeAt(0));
  return new type(bytes.buffer);
}

// A line chart as wide as its place: `lines` is a list of {points: [[x, y], …], colour, dashed}, drawn again when the width changes
function chart(place, {height = 200, x, y, label, xName = '', yName = '', showX = String, showY = String}) {
  const svg = make('svg', {role: 'img', 'aria-label': label, height, style: 'display:block;width:100%'});
  place.append(svg);
  let last = null;
  function plot(lines, marks = [], xs = x, ys = y) {
    last = [lines, marks, xs, ys];
    const width = Math.max(260, svg.clientWidth), left = 52, top = yName ? 24 : 10, bottom = height - 34;
    const atX = v => left + (v - xs[0])/(xs[1] - xs[0] || 1)*(width - left - 12);
    const atY = v => bottom - (v - ys[0])/(ys[1] - ys[0] || 1)*(bottom - top);
    const between = (a, b, n) => Array.from({length: n + 1}, (_, i) => a + (b - a)*i/n);
    svg.setAttribute('viewBox', `0 0 ${width} ${height}`);
    svg.replaceChildren(
      ...between(...ys, 4).map(v => make('path', {d: `M${left},${atY(v)}H${width - 12}`, stroke: 'currentColor', 'stroke-opacity': .15})),
      ...between(...ys, 2).map(v => make('text', {x: left - 6, y: atY(v) + 4, 'text-anchor': 'end'}, showY(v))),
      ...between(...xs, 2).map((v, i) => make('text', {x: atX(v), y: bottom + 15, 'text-anchor': ['start', 'middle', 'end'][i]}, showX(v))),
      make('text', {x: (left + width)/2, y: height - 4, 'text-anchor': 'middle'}, xName), make('text', {x: 4, y: 11}, yName),
      ...lines.map(l => make('path', {d: 'M' + l.points.map(([a, b]) => `${atX(a).toFixed(1)},${atY(b).toFixed(1)}`).join('L'), fill: 'none',
        stroke: `var(--${l.colour || 'blue'})`, 'stroke-width': 2, 'stroke-dasharray': l.dashed ? '5 4' : 'none'})),
      ...marks.flatMap(([a, b]) => [make('path', {d: `M${atX(a)},${top}V${bottom}`, stroke: 'var(--orange)', 'stroke-width': 1.5}), make('circle', {cx: atX(a), cy: atY(b), r: 4.5, fill: 'var(--orange)'})]));
  }
  new ResizeObserver(() => last && plot(...last)).observe(place);
  return plot;
}

function wake(name, build) {
  for (const figure of document.querySelectorAll(`figure.live[data-figure="${name}"]:not([data-awake])`)) {
    figure.dataset.awake = '';
    const data = JSON.parse(figure.querySelector('script[type="application/json"]').textContent);
    const stage = make('div', {class: 'stage', role: 'group', 'aria-label': figure.getAttribute('aria-label')});
    figure.querySelector('.still').replaceWith(stage);
    build(stage, data);                                // `stage.shown` is what a console, or a test, can read
  }
}
