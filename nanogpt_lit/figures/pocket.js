// A GPT in the page: rotary positions, RMSNorm, squared ReLU, a key-value cache; one token at a time, as `generate_cached` does it.

class Pocket {
  constructor(file) {
    for (const key of ['n_layer', 'n_head', 'n_embd', 'block_size', 'rope_theta', 'norm_eps']) this[key] = file.config[key];
    const scales = numbers(file.scales, Float32Array), whole = numbers(file.numbers, Int8Array);
    let row = 0, at = 0;
    this.weights = {};
    for (const [name, [rows, columns]] of Object.entries(file.shapes)) {
      const w = new Float32Array(rows*columns);
      for (let r = 0; r < rows; r++) for (let c = 0; c < columns; c++) w[r*columns + c] = whole[at + r*columns + c]*scales[row + r];
      this.weights[name] = {w, rows, columns};
      row += rows; at += rows*columns;
    }
    this.size = this.n_embd/this.n_head;
    this.turn = Array.from({length: this.size/2}, (_, i) => this.rope_theta**(-2*i/this.size));
    this.forget();
  }

  forget() {
    this.ids = [];
    this.keys = Array.from({length: this.n_layer}, () => []);
    this.values = Array.from({length: this.n_layer}, () => []);
  }

  times(name, x) {                                     // a matrix of the model times a vector
    const {w, rows, columns} = this.weights[name], y = new Float32Array(rows);
    for (let r = 0, at = 0; r < rows; r++) {
      let sum = 0;
      for (let c = 0; c < columns; c++) sum += w[at++]*x[c];
      y[r] = sum;
    }
    return y;
  }

  norm(x) {
    let squares = 0;
    for (const v of x) squares += v*v;
    const scale = 1/Math.sqrt(squares/x.length + this.norm_eps);
    return x.map(v => v*scale);
  }

  rotate(x, t) {                                       // channel i and channel i + D/2 are turned together
    const half = this.size/2, y = new Float32Array(x);
    for (let i = 0; i < half; i++) {
      const cos = Math.cos(t*this.turn[i]), sin = Math.sin(t*this.turn[i]);
      y[i] = x[i]*cos - x[i + half]*sin;
      y[i + half] = x[i + half]*cos + x[i]*sin;
    }
    return y;
  }

  attend(layer, x) {
    const D = this.size, C = this.n_embd, t = this.ids.length - 1, qkv = this.times(`blocks.${layer}.attn.qkv.weight`, x), y = new Float32Array(C);
    const part = (which, head) => qkv.subarray(which*C + head*D, which*C + (head + 1)*D), key = new Float32Array(C);
    for (let h = 0; h < this.n_head; h++) key.set(this.rotate(this.norm(part(1, h)), t), h*D);
    this.keys[layer].push(key);
    this.values[layer].push(qkv.slice(2*C));
    for (let h = 0; h < this.n_head; h++) {
      const q = this.rotate(this.norm(part(0, h)), t), odds = this.keys[layer].map(k => {
        let dot = 0;
        for (let i = 0; i < D; i++) dot += q[i]*k[h*D + i];
        return dot/Math.sqrt(D);
      });
      const best = Math.max(...odds);
      let total = 0;
      for (let s = 0; s <= t; s++) total += odds[s] = Math.exp(odds[s] - best);
      for (let s = 0; s <= t; s++) for (let i = h*D; i < (h + 1)*D; i++) y[i] += odds[s]/total*this.values[layer][s][i];
    }
    return this.times(`blocks.${layer}.attn.proj.weight`, y);
  }

  read(id) {                                           // the scores of what comes after this token
    if (this.ids.length === this.block_size) {
      const newer = this.ids.slice(this.block_size/2);
      this.forget();
      newer.forEach(i => this.read(i));
    }
    this.ids.push(id);
    const C = this.n_embd;
    let x = this.weights['wte.weight'].w.slice(id*C, (id + 1)*C);
    const add = y => { x = x.map((v, i) => v + y[i]); };
    for (let layer = 0; layer < this.n_layer; layer++) {
      add(this.attend(layer, this.norm(x)));
      add(this.times(`blocks.${layer}.mlp.down.weight`, this.times(`blocks.${layer}.mlp.up.weight`, this.norm(x)).map(v => v > 0 ? v*v : 0)));
    }
    return this.times('head.weight', this.norm(x));
  }
}

function draw(logits, temperature) {
  const best = Math.max(...logits);
  if (temperature === 0) return logits.indexOf(best);
  const odds = Array.from(logits, v => Math.exp((v - best)/temperature));
  let dart = Math.random()*odds.reduce((a, b) => a + b, 0);
  const id = odds.findIndex(p => (dart -= p) < 0);
  return id < 0 ? logits.indexOf(best) : id;
}

wake('pocket', (stage, data) => {
  const END = 256, MOST = 1500;
  const beginning = make('textarea', {rows: 2, 'aria-label': 'beginning of the text', spellcheck: 'false', maxlength: 2000});
  beginning.value = data.prompt;
  const temperature = slider('temperature', {from: 0, to: 2, step: .05, value: .7, show: t => t ? t.toFixed(2) : '0 (greedy)'}, () => {});
  const loader = button(`Load the model (${data.kB} kB)`, () => load([...data.places])), writer = button('Write', start, {disabled: true});
  const said = make('div', {class: 'said', role: 'status'}), text = make('pre', {class: 'code', tabindex: 0, 'aria-label': 'what it writes', style: 'min-height:8rem;max-height:24rem;overflow:auto;padding:.6rem;margin:.4rem 0;background:var(--veil);color:inherit;border-radius:5px;white-space:pre-wrap'});
  text.textContent = data.sample;
  stage.append(make('label', {}, make('span', {}, 'beginning of the text'), beginning), temperature.element, make('div', {class: 'row'}, loader, writer), said, text);
  let model = null, bytes, logits, going = false, written, busy;

  function load(places) {
    loader.disabled = true;
    said.textContent = 'Loading …';
    const next = () => {
      if (globalThis.nanogptPocket) {
        const file = globalThis.nanogptPocket;
        model = new Pocket(file);
        loader.textContent = 'The model is here';
        writer.disabled = false;
        writer.focus();
        said.textContent = `Loaded: ${file.config.n_layer} layers of ${file.config.n_embd} channels, ${file.bits_per_byte.int8.toFixed(3)} bits per byte on text that it has never seen.`;
        stage.shown = {state: 'loaded'};
      } else if (places.length) document.head.append(make('script', {src: places.shift(), onload: next, onerror: next}));
      else { said.textContent = 'The file of the model is not where this page looks for it: on the site and beside it, in _static.'; loader.disabled = false; }
    };
    next();
  }

  function start() {
    if (going) { going = false; return; }
    going = true;
    writer.textContent = 'Stop';
    model.forget();
    bytes = [...new TextEncoder().encode(beginning.value)];
    const began = performance.now();
    (bytes.length ? bytes : [END]).forEach(b => { logits = model.read(b); });
    busy = performance.now() - began;
    written = 0;
    stage.shown = {state: 'writing', logits: [...logits]};
    go();
  }

  function go() {
    const began = performance.now();
    let id = null;
    while (going && performance.now() - began < 14) {
      id = draw(logits, temperature.value);
      written++;
      if (id === END || written === MOST) { going = false; break; }
      bytes.push(id);
      logits = model.read(id);
    }
    busy += performance.now() - began;
    text.textContent = new TextDecoder().decode(new Uint8Array(bytes));
    text.scrollTop = text.scrollHeight;
    said.textContent = `${grouped(written)} tokens, ${grouped(1000*written/busy)} per second` + (going ? ' …' : id === END ? '. It says that the file ends here.' : '.');
    if (going) setTimeout(go, 0);
    else { writer.textContent = 'Write'; stage.shown = {...stage.shown, state: 'done', bytes, written, perSecond: 1000*written/busy}; }
  }
});
