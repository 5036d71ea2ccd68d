// A run, moment by moment: its validation loss, the rows of the ledger that it has passed, and what it wrote.

wake('moments', (stage, data) => {
  const steps = data.val.map(([step]) => step), last = steps.at(-1);
  const at = slider('step', {values: steps, value: last, show: grouped}, show);
  const place = make('div'), said = make('div', {class: 'said', 'aria-live': 'polite'}), rows = make('div');
  const wrote = make('pre', {class: 'code', tabindex: 0, 'aria-label': 'what it wrote', style: 'max-height:15rem;overflow:auto;margin:.3rem 0;padding:.5rem;background:var(--veil);color:inherit;border-radius:5px;white-space:pre-wrap'});
  const when = make('div');
  stage.append(place, at.element, said, make('div', {style: 'display:grid;grid-template-columns:repeat(auto-fit,minmax(17rem,1fr));gap:.4rem 1.6rem'}, rows, make('div', {}, when, wrote)));
  const plot = chart(place, {height: 190, label: 'bits per byte of held-out text over the run', x: [0, last], y: [1, 4.8], xName: 'step', yName: 'bits per byte', showX: grouped, showY: v => v.toFixed(1)});

  function show() {
    const i = steps.indexOf(at.value), [step, bits] = data.val[i];
    const levels = data.ledger.map(([, level]) => ({points: [[0, level], [last, level]], colour: 'grey', dashed: true})).filter(l => l.points[0][1] < 4.8);
    plot([...levels, {points: data.val}], [[step, bits]]);
    const table = [...data.ledger, ['the model, now', bits]].sort((a, b) => b[1] - a[1]), passed = data.ledger.filter(([, level]) => level > bits).map(([what]) => what);
    rows.replaceChildren(...table.map(([what, level]) => make('div', {class: 'bar', style: `grid-template-columns:8.6rem 1fr 3rem;${what === 'the model, now' ? 'font-weight:700' : ''}`},
      make('span', {style: 'white-space:normal'}, what), make('span', {class: 'track'}, make('i', {style: `width:${100*level/8}%;background:var(--${what === 'the model, now' ? 'orange' : 'blue'})`})), make('span', {}, level.toFixed(2)))));
    const sample = data.samples.filter(([s]) => s <= step).at(-1);
    when.textContent = sample ? `What it wrote at step ${grouped(sample[0])}:` : 'It has written nothing yet.';
    wrote.textContent = sample ? sample[1] : '';
    said.textContent = `Step ${grouped(step)} of ${grouped(last)}: ${bits.toFixed(3)} bits per byte. ` + (passed.length ? `Behind it: ${passed.join(', ')}.` : 'Nothing is behind it yet.');
    stage.shown = {step, bits, passed, sample: sample && sample[0], text: wrote.textContent};
  }
  show();
});
