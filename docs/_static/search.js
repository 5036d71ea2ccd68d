// The search of the site, and the filter boxes of the reference: no library, no request but one script, works from a folder.
(function () {
'use strict'

// --- words: the same as `terms` and `stem` of scripts/search_index.py ---------------------------------------------------

const STOP = new Set(('a an and are as at be been but by can do does for from had has have how i if in into is it its me my no not of on one or our s so t than that the ' +
                      'their them then there these they this to was we what when where which who why will with you your').split(' '))
const ENDS = [['ization', 'iz'], ['izer', 'iz'], ['ation', 'at'], ['ally', 'al'], ['ly', '']]

function stem(word) {
  if (/[0-9_]/.test(word) || word.length < 4) return word
  let w = word
  if (w.length > 5) w = w.replace(/is(?=e$|es$|ed$|ing$|er$|ers$|ation$|ations$)/g, 'iz').replace(/(ou)r(?=ed$|ing$|s$|$)/g, 'or')
  if (w.endsWith('ies') && w.length > 4) w = w.slice(0, -3) + 'y'
  else if (/(sses|xes|ches|shes)$/.test(w)) w = w.slice(0, -2)
  else if (w.endsWith('s') && !/(ss|us|is)$/.test(w)) w = w.slice(0, -1)
  for (const end of ['ing', 'ed']) {
    const root = w.slice(0, -end.length)
    if (!w.endsWith(end) || root.length < 3 || !/[aeiouy]/.test(root)) continue
    const twice = root.length > 3 && root.at(-1) == root.at(-2) && !'lsz'.includes(root.at(-1))
    w = twice ? root.slice(0, -1) : root
    break
  }
  for (const [end, other] of ENDS) {
    if (!w.endsWith(end) || w.length - end.length < 3) continue
    w = w.slice(0, -end.length) + other
    break
  }
  return w.endsWith('e') && w.length > 3 ? w.slice(0, -1) : w
}

function terms(text) {
  const out = []
  for (const word of text.toLowerCase().replaceAll('’', "'").replaceAll("n't", ' ').replaceAll("'s", ' ').match(/[a-z0-9]+(?:_[a-z0-9]+)*/g) || []) {
    const parts = word.split('_')
    if (parts.length > 1) out.push(word)
    for (const o of parts) if (!STOP.has(o) && (o.length > 1 || !/\d/.test(o))) out.push(stem(o))
  }
  return out
}

// letters to change, add, leave out or swap
function distance(a, b) {
  let before = [], last = [...Array(b.length + 1).keys()]
  for (let i = 1; i <= a.length; i++) {
    const now = [i]
    for (let j = 1; j <= b.length; j++) {
      now[j] = Math.min(last[j] + 1, now[j - 1] + 1, last[j - 1] + (a[i - 1] != b[j - 1]))
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) now[j] = Math.min(now[j], before[j - 2] + 1)
    }
    before = last
    last = now
  }
  return last[b.length]
}

const collapsed = s => s.toLowerCase().replace(/[^a-z0-9]/g, '')
const slug = s => s.normalize('NFKD').replace(/\p{M}/gu, '').toLowerCase().replace(/[^a-z0-9]+/g, '-').replace(/^[-0-9]+|-+$/g, '')
const apart = name => name.replace(/([a-z0-9])([A-Z])/g, '$1 $2').replace(/([A-Z]+)([A-Z][a-z])/g, '$1 $2').replace(/[._-]/g, ' ')

// words that readers use for each other
const ALIKE = {}
for (const group of ['resume continue', 'kill crash interrupt die', 'two several multi multiple', 'gpu gpus cuda', 'machine node', 'corpus dataset', 'speed fast', 'quick fast', 'warmup warm', 'download fetch',
                     'dialogue chat conversation', 'finetune tune', 'mistake error failure', 'convert export import', 'attach adapter'].map(o => o.split(' ').map(stem)))
  for (const o of group) ALIKE[o] = [...ALIKE[o] || [], ...group.filter(x => x != o)]

// what the field says, and how the book says it: such a question is asked both ways
const SAID = [["nanogpt('s)? (flags|options|arguments)", 'coming from nanogpt'], ['(export|convert|upload|publish|push)( it| my model| a model)? to (the )?(hf|hugging.?face)( hub)?', 'to hugging face and back'],
              ['oom', 'out of memory'], ['hf|huggingface', 'hugging face'], ['lr|learning rate', 'learning rate schedules'], ['ddp|data parallel', 'several processes'], ['(two|2|second|multi|multiple|several|many).?gpus?', 'two gpus several machines'],
              ['((my|your|own) )+(data|texts?)', 'your own text'], ['((my|your|own) )*jsonl', 'your own jsonl'], ['continu(e|ing) (a |the |my )?(training|run)', 'stop and go on'],
              ['resum(e|ing)( (a|the|my))?( killed| stopped| crashed| interrupted)?( training| run)*', 'stop and go on'], ['nucleus( sampling)?', 'top_p cutting off the tail'],
              ['mixed precision|amp|autocast', 'sixteen bits'], ['rope|rotary (positional )?(embedding|encoding)s?|positional (embedding|encoding)s?', 'where am i rotary'], ['scaling laws?|chinchilla', 'how many parameters how many tokens'],
              ['(gradient|activation) (checkpointing|checkpoints?)|recompute', 'forgetting activations'], ['catastrophic forgetting', 'not to forget'], ['early stop(ping)?', 'when to stop'], ['inference', 'generation'],
              ['(did|does) ?(not|n.t) (help|work)', 'negative results'], ['sft|instruction tuning', 'fine-tuning'], ['rlhf|reward model', 'preferences'], ['multi.?node', 'several machines launching'], ['mmap|memmap', 'token files'],
              ['embedding table|vocabulary size|vocab size', 'what a vocabulary costs'], ['self.?attention', 'attention'], ['cli|options|arguments', 'commands and flags'], ['api', 'reference'], ['benchmarks?', 'exams race'],
              ['gqa|mqa|grouped query( attention)?', 'fewer keys than queries'], ['sliding window( attention)?', 'how far back'], ['exploding gradients?', 'clipping'], ['config(uration)? files?', 'configuration files'],
              ['pre.?train(ing)?', 'pretraining'], ['reproducib(le|ility)|same results?( every time)?', 'repeatable on whatever hardware'], ['(how )?(big|large)( should)?( the| a| my)? vocabulary( be)?', 'what a vocabulary costs'],
              ['mac|apple( silicon)?|m[1-4]( mac)?|mps', 'device mps'], ['install(ation|ing)?|get(ting)? started|first steps', 'quickstart'], ['hyper.?parameters?( search| tuning)?|sweeps?', 'which rate and which batch'],
              ['gguf|ollama|llama.?cpp|vllm', 'to hugging face'], ['(what|which) batch.?size( should i use| to use)?', 'which batch'], ['(which|what) (gpu|graphics card|hardware)( do i need)?', 'one gpu'], ['offline|(without|no)( the)? internet', 'nothing need be downloaded'],
              ['(validation|val|test|eval) loss (goes|is going|rises|is rising|increases|turns) ?(up)?', 'overfitting learning by heart'], ['loss (is |does |do )?(stuck|flat|(not|n.t|isn.t|doesn.t) \\w+( down)?)', 'mistakes that cost a run'],
              ['(train(ing)?|run|it) (is |so |too )*slow(ly)?|speed( up)?( training)?|(make )?training faster', 'it could be faster'], ['how much (gpu )?memory( do i need)?', 'sizing memory'], ['(keep|go on|carry on) training|train (longer|more|further)', 'stop and go on']].map(([asked, said]) => [new RegExp(`\\b(${asked})\\b`, 'i'), said])

// --- the index -----------------------------------------------------------------------------------------------------------

let DIGITS = ''
for (let i = 35; i < 127; i++) if (i != 92 && i != 96) DIGITS += String.fromCharCode(i)
const digit = new Map([...DIGITS].map((c, i) => [c, i]))

class Index {
  constructor(data) {
    const rows = text => text.split('\n').map(o => o.split('\t'))
    this.modules = data.modules.split(' ')
    this.pages = rows(data.pages).map(([url, title, number, workshop]) => ({url, title, number: number || '', workshop: !!workshop}))
    this.docs = rows(data.docs).map(([kind, page, anchor, heading, parent, excerpt, also], i) => ({i, kind, page: +page, anchor, heading, parent: parent || '', excerpt: excerpt || '', also: also || ''}))
    this.lengths = [...data.lengths].map(c => 2**(digit.get(c)/8) - 1)
    const lengths = {}                            // of documents of a kind: a section isn't long because names are short
    this.docs.forEach(o => { (lengths[o.kind] = lengths[o.kind] || []).push(this.lengths[o.i]) })
    for (const kind in lengths) lengths[kind] = Math.max(20, lengths[kind].reduce((a, b) => a + b, 0)/lengths[kind].length)
    this.lengths = this.lengths.map((o, i) => .35 + .65*o/lengths[this.docs[i].kind])
    this.postings = data.postings.split(' ')
    this.terms = []
    for (let o of data.terms.split(' ')) this.terms.push((this.terms.at(-1) || '').slice(0, parseInt(o[0], 36)) + o.slice(1))
    this.at = new Map(this.terms.map((o, i) => [o, i]))
    this.exact = new Map()                        // collapsed name, heading or alias → documents
    this.heads = new Map()                        // stem → [document, weight] where it stands in a heading or a name
    this.docs.forEach(o => this.head(o))
  }

  head(doc) {
    const page = this.pages[doc.page]
    const own = new Set(terms(doc.kind == 'c' ? doc.heading.replace('nanogpt ', '') : 'nf'.includes(doc.kind) ? apart(doc.heading) + ' ' + doc.heading : doc.heading))
    doc.own = own
    const add = (word, weight) => { if (!this.heads.has(word)) this.heads.set(word, []); this.heads.get(word).push([doc.i, weight]) }
    for (const o of own) add(o, (doc.kind == 'e' ? 0 : doc.kind == 'p' ? 1.6 : 1) + 2/own.size)
    if ('se'.includes(doc.kind)) for (const o of new Set(terms(page.title))) if (!own.has(o)) add(o, .9)
    if ('ps'.includes(doc.kind)) for (const o of new Set(terms(page.url.split('/').pop().replace('.html', '')))) if (!own.has(o)) add(o, doc.kind == 'p' ? 1.6 : .4)
    if (doc.kind == 's' && doc.parent) for (const o of new Set(terms(this.docs[doc.parent].heading))) if (!own.has(o)) add(o, .7)
    if (doc.kind == 'f') for (const o of new Set(terms(doc.parent))) if (!own.has(o)) add(o, .9)   // the commands that mean something of their own by it
    if ('fc'.includes(doc.kind)) for (const alias of doc.also.split(' ')) for (const o of new Set(terms(apart(alias)))) if (!own.has(o)) add(o, .8)
    if (doc.kind == 'e') return
    const keys = [doc.heading, ...doc.also && doc.kind != 'w' ? doc.also.split(' ') : []]
    if (doc.kind == 'n' && doc.heading.includes('.')) keys.push(doc.heading.split('.').pop())
    for (const key of new Set(keys.map(collapsed))) { if (!this.exact.has(key)) this.exact.set(key, []); this.exact.get(key).push(doc.i) }
  }

  unpack(at) {
    const out = []
    let high = 0, doc = -1
    for (const c of this.postings[at]) {
      const d = digit.get(c)
      if (d > 63) { high = high*26 + d - 63; continue }
      const value = high*64 + d
      high = 0
      doc += Math.floor(value/3)
      out.push([doc, [1, 2.4, 5][value % 3]])
    }
    return out
  }

  // stems that a word of the query stands for: itself, what begins with it (the last word, while typing), and words alike
  meant(word, typing) {
    const out = [[word, 1]]
    for (const o of ALIKE[word] || []) out.push([o, .4])
    if (typing && word.length > 1) {
      let low = 0, high = this.terms.length
      while (low < high) { const mid = (low + high) >> 1; if (this.terms[mid] < word) low = mid + 1; else high = mid }
      for (let i = low; i < low + 24 && i < this.terms.length && this.terms[i].startsWith(word); i++)
        if (this.terms[i] != word && !this.terms[i].includes('+')) out.push([this.terms[i], .5*word.length/this.terms[i].length])
    }
    if (out.length == 1 && !this.at.has(word) && !this.heads.has(word)) for (const o of this.misspelt(word)) out.push([o, .7])
    return out
  }

  // `{results, visited, sought}`: the best places first, how many entries of the index were read, and what was looked for: stems with their weights, and the word being typed
  query(text, limit = 30) {
    const raw = text.trim(), code = /^--|[_.(]|[a-z][A-Z]/.test(raw), one = !/\s/.test(raw)
    const {found, words, visited} = this.matching(text, code)
    const tally = {visited}
    if (!code) for (const [asked, said] of SAID) {
      if (!asked.test(raw)) continue
      const other = this.matching(raw.replace(asked, said) + ' ', code)
      tally.visited += other.visited
      for (const [word, rare] of other.words) if (!words.has(word)) words.set(word, rare*.3)
      for (const [doc, o] of other.found) if (o.score*.95 > (found.get(doc) || {score: 0}).score) found.set(doc, {score: o.score*.95, all: o.all})
    }
    const raise = (doc, by) => { const o = found.get(doc) || {score: 0}; o.score += by; o.raised = true; found.set(doc, o) }
    const key = collapsed(raw), bare = raw.replace(/\(.*$/, '')
    for (const doc of this.exact.get(key) || []) {
      raise(doc, this.sameName(this.docs[doc], bare, code, one)*(this.isFurther(this.docs[doc]) ? .8 : 1))
      if (this.docs[doc].kind == 'w') this.explained(this.docs[doc], found)
    }
    if (!one) this.inside(raw, raise)
    if (key.length > 2 && (code || one)) for (const [name, docs] of this.exact) {
      if (name == key || !name.startsWith(key)) continue
      for (const doc of docs) if ('nf'.includes(this.docs[doc].kind)) raise(doc, (code ? 30 : 3)*key.length/name.length)
    }
    const before = new Map(), better = (a, b) => b[1].score - a[1].score || a[0] - b[0]
    const best = [...found].sort(better).slice(0, 200)
    for (const [i, o] of best) {                   // the second place on a page is worth less than the first
      const doc = this.docs[i]
      if (!'ps'.includes(doc.kind)) continue
      o.score *= .8**(before.get(doc.page) || 0)
      before.set(doc.page, (before.get(doc.page) || 0) + 1)
    }
    best.sort(better)
    const least = Math.max(0, ...best.filter(o => !o[1].raised).map(o => o[1].score))*.1, seen = new Set(), results = []
    for (const [doc, {score}] of best) {
      if (score < least || results.length == limit) break
      const o = this.shown(this.docs[doc], score, words, key)
      if (seen.has(o.url + o.kind)) continue
      seen.add(o.url + o.kind)
      results.push(o)
    }
    return {results, visited: tally.visited, sought: {stems: words, typing: text.toLowerCase().match(/[a-z]*$/)[0]}}
  }

  // a name or a flag within a question: "signature of generate", "default of max_steps"
  inside(text, raise) {
    const name = /\b(signature|function|method|class|parameters?|arguments?|returns?|import)\b/i.test(text), flag = /\b(flag|default|option|setting)s?\b/i.test(text)
    for (const word of text.split(/[\s,;?!]+/)) {
      const own = /[_.(]|[a-z][A-Z]|^--/.test(word), bare = word.replace(/\(.*$/, '')
      if (!own && (!name && !flag || STOP.has(word.toLowerCase()))) continue
      for (const i of this.exact.get(collapsed(bare)) || []) {
        const doc = this.docs[i]
        if (doc.kind == 'n' && !word.startsWith('-') && (own || name) && (own || !/^[A-Z_]+$/.test(doc.heading))) raise(i, doc.heading == bare ? 60 : 20)
        if (doc.kind == 'f' && (own || flag)) raise(i, 40)
      }
    }
  }

  // words of the index that differ in a letter (a long word: in two), for one that it doesn't have
  misspelt(word) {
    if (word.length < 5 || /[0-9_]/.test(word)) return []
    const most = word.length < 9 ? 1 : 2
    return [...this.terms, ...this.heads.keys()].filter(o => !o.includes('+') && Math.abs(o.length - word.length) <= most && o[0] == word[0] && distance(o, word) <= most).slice(0, 6)
  }

  // every document that holds a word of the text: its score, and whether it holds all of them
  matching(text, code) {
    const words = [...new Set(terms(text))], weights = new Map(), scores = new Map(), N = this.docs.length
    let visited = 0, whole = 0
    words.forEach((word, at) => {
      const best = new Map()                       // document → what this word gives it
      let rare = 0
      for (const [other, weight] of this.meant(word, at == words.length - 1 && !/\s$/.test(text))) {
        const body = this.at.has(other) ? this.unpack(this.at.get(other)) : [], head = this.heads.get(other) || []
        if (!body.length && !head.length) continue
        visited += body.length + head.length
        const idf = Math.log(1 + N/(1 + Math.max(body.length, head.length)))
        if (other == word || !rare) rare = Math.max(rare, idf)
        if (weight > .6 || (ALIKE[word] || []).includes(other)) weights.set(other, Math.max(weights.get(other) || 0, idf*weight))
        const mine = new Map()
        for (const [doc, often] of body) mine.set(doc, often*2.2/(often + 1.2*this.lengths[doc]))
        for (const [doc, more] of head) mine.set(doc, (mine.get(doc) || 0) + 1.5*more)
        for (const [doc, value] of mine) best.set(doc, Math.max(best.get(doc) || 0, value*idf*weight))
      }
      if (!rare) rare = Math.log(1 + N)
      whole += rare
      for (const [doc, value] of best) {
        const o = scores.get(doc) || {value: 0, covered: 0, words: 0}
        o.value += value
        o.covered += rare
        o.words += 1
        scores.set(doc, o)
      }
    })
    for (let at = 1; at < words.length; at++) {    // two words side by side
      const pair = this.at.get(words[at - 1] + '+' + words[at])
      if (pair === undefined) continue
      const body = this.unpack(pair), idf = Math.log(1 + N/(1 + body.length))
      visited += body.length
      for (const [doc, often] of body) { const o = scores.get(doc); if (o) o.value += .7*idf*often*2.2/(often + 1.2*this.lengths[doc]) }
    }
    const PRIOR = code ? {p: 1, s: 1, e: .4, w: .7, n: 1.3, f: 1.4, c: 1} : {p: 1.1, s: 1, e: .4, w: .6, n: .5, f: .6, c: .9}
    const asked = new Set(words), found = new Map(), phrase = text.trim().toLowerCase()
    for (const [i, o] of scores) {
      const doc = this.docs[i], page = this.pages[doc.page]
      let score = o.value*(o.covered/whole)**2*PRIOR[doc.kind]
      if (page.workshop && 'pse'.includes(doc.kind)) score *= .85
      if (page.url.startsWith('bibliography') || doc.heading == 'Recap') score *= .5
      if (page.url == 'index.html') score *= .75
      if (words.length > 1 && 'ps'.includes(doc.kind) && doc.excerpt.toLowerCase().includes(phrase)) score *= 1.4
      if ('ps'.includes(doc.kind) && doc.own.size > 1 && [...doc.own].every(x => asked.has(x))) score *= 1.5   // the heading says nothing else
      found.set(i, {score, all: o.words == words.length})
    }
    return {found, words: weights, visited}
  }

  // the page that a word of the glossary leads to, and what on it holds all of the word
  explained(word, found) {
    const pages = word.also.split(' ').map(Number)
    const sections = [...found].filter(([i, o]) => this.docs[i].kind == 's' && o.all && pages.includes(this.docs[i].page)).map(o => o[1])
    const best = Math.max(...sections.map(o => o.score))
    for (const o of sections) o.score += 25*(o.score/best)**3
    this.docs.forEach(doc => {
      if (doc.kind != 'p' || !pages.includes(doc.page)) return
      const o = found.get(doc.i) || {score: 0}
      o.score += sections.length ? 10 : 28
      found.set(doc.i, o)
    })
  }

  // a flag's further meaning, in other commands
  isFurther(doc) { return doc.kind == 'f' && doc.anchor != doc.heading.slice(2) }

  // how much it counts that a name, heading or alias is exactly what was typed
  sameName(doc, typed, code, one) {
    const own = collapsed(doc.heading) == collapsed(typed)
    if (doc.kind == 'f') return typed.startsWith('-') ? 1000 + 50*own : code ? 500 + 50*own : one ? 60 + 20*own : [0, 0, 20][typed.split(/\s+/).length] || 40
    if (doc.kind == 'n') return doc.heading == typed ? 800 : own ? (code ? 450 : one ? 50 : 8) : doc.heading.split('.').pop() == typed ? (code ? 300 : 40) : 5
    return {p: 400, s: 110, w: 12, c: own || /-/.test(typed) ? 600 : 100}[doc.kind] || 0
  }

  shown(doc, score, words, key) {
    const page = this.pages[doc.page]
    const to = {p: '', s: slug(doc.heading), w: 'word-' + slug(doc.heading), n: slug(page.url.replace('.html', '') + '-' + doc.heading), e: '', f: '', c: ''}[doc.kind]
    const anchor = doc.anchor == '=' ? to : doc.anchor
    const out = {kind: doc.kind, heading: doc.heading, excerpt: doc.excerpt, score, url: page.url + (anchor ? '#' + anchor : ''), page: `${page.number} ${page.title}`.trim(), path: ''}
    out.text = doc.excerpt.endsWith(' …') ? doc.i : -1     // whose text is longer than the excerpt: its key in the page's script of texts
    if (doc.kind == 's' && doc.parent) out.path = this.docs[doc.parent].heading
    if (doc.kind == 'f') {
      if (doc.parent) out.path = doc.parent
      const alias = doc.also.split(' ').find(o => collapsed(o) == key) || doc.also.split(' ').find(o => terms(o).some(x => words.has(x) && !doc.own.has(x)))
      if (alias) out.also = '--' + alias
    }
    if (doc.kind == 'n') {
      const module = this.modules[+doc.parent.slice(1)]
      out.what = {f: 'function', m: 'method', p: 'property', c: /^[A-Z0-9_]+$/.test(doc.heading) ? 'constant' : 'class'}[doc.parent[0]]
      out.path = module
      out.reference = `reference/${module}.html#${doc.heading}`
    } else out.what = {p: 'page', s: '', e: 'exercise', w: 'word', f: 'flag', c: 'command'}[doc.kind]
    return out
  }
}

const script = document.currentScript
const root = script ? new URL('..', script.src).href : ''
let loading = null
function load() {
  loading = loading || new Promise((done, failed) => {
    if (window.SEARCH_INDEX) return done(new Index(window.SEARCH_INDEX))
    const o = document.createElement('script')
    o.src = root + '_static/search_index.js'
    o.onload = () => done(new Index(window.SEARCH_INDEX))
    o.onerror = failed
    document.head.append(o)
  })
  return loading
}
window.siteSearch = {load, stem, terms, Index, excerptFor, whole, telling, worth, apart, texts: (page, found) => arrived[page](found)}

// --- on the page ---------------------------------------------------------------------------------------------------------

function element(tag, attributes = {}, ...children) {
  const o = document.createElement(tag)
  for (const [name, value] of Object.entries(attributes)) o.setAttribute(name, value)
  o.append(...children)
  return o
}

// the stem of the query that a word of a text is a form of, or undefined
function meantBy(word, sought) {
  if (word.length < 2) return
  const low = word.toLowerCase(), own = stem(low)
  if (sought.stems.has(own)) return own
  if (sought.typing.length > 2 && low.startsWith(sought.typing)) return stem(sought.typing)
}

// a text with the words of the query marked
function marked(text, sought) {
  const out = document.createDocumentFragment()
  for (const piece of text.split(/([A-Za-z0-9]+)/)) out.append(meantBy(piece, sought) ? element('mark', {}, piece) : piece)
  return out
}

// --- excerpts: what of a text answers the query best -------------------------------------------------------------------

const ROOM = 150

// what the words of a text are worth to the query, each stem once
function worth(text, sought) {
  const stems = new Set((text.match(/[A-Za-z0-9]+/g) || []).map(o => meantBy(o, sought)).filter(Boolean))
  return [...stems].reduce((sum, o) => sum + (sought.stems.get(o) || 1), 0)
}

// the end of `text` that fits, to a whole word
const short = (text, room) => text.length <= room ? text : text.slice(0, room).replace(/[\s,;:(]+\S*$/, '') + ' …'

// the sentence that holds the most of the query, with what follows it; of a long one, the part that does.
// What the heading says already counts less, and the beginning of a text is worth a little in itself
function telling(text, given, heading) {
  const said = new Set(terms(heading)), stems = new Map([...given.stems].map(([o, weight]) => [o, said.has(o) ? weight*.4 : weight]))
  const sought = {...given, stems}, start = .15*[...stems.values()].reduce((a, b) => a + b, 0)
  const sentences = text.match(/\S.*?(?:[.?!:;](?=\s)|$)/g) || []
  let best = 0, most = 0
  sentences.forEach((o, i) => { const value = worth(o, sought); if (value + (value && !i ? start : 0) > most + .01) { most = value + (i ? 0 : start); best = i } })
  if (!most) return short(text, ROOM)
  let chosen = sentences[best]
  if (chosen.length <= ROOM) return (best && /^[a-z]/.test(chosen) ? '… ' : '') + short(sentences.slice(best).join(' '), ROOM)
  const begins = [0, ...[...chosen.matchAll(/[A-Za-z0-9]+/g)].filter(m => meantBy(m[0], sought)).map(m => chosen.slice(0, Math.max(0, m.index - 40)).search(/\S*$/))]
  let at = 0
  most = 0
  for (const i of begins) { const value = worth(chosen.slice(i, i + ROOM - 10), sought); if (value > most + .01) { most = value; at = i } }
  return (at || best ? '… ' : '') + short(chosen.slice(at), ROOM)
}

const texts = {}                                  // page → a promise of `{key: text}`
const arrived = {}                                // page → what to do with its texts

function textsOf(page) {
  return texts[page] = texts[page] || new Promise(done => {
    const o = document.createElement('script')
    o.src = `${root}_static/search/${page.replace('.html', '.js')}`
    arrived[page] = done
    o.onerror = () => done({})
    document.head.append(o)
  })
}

// all that stands below a result's heading
async function whole(o) { return o.text < 0 ? o.excerpt : (await textsOf(o.url.split('#')[0]))[o.text] }

// a result's excerpt for this query: from the whole text, where the beginning says too little; the text is loaded from the page's own script
async function excerptFor(o, sought) {
  if (o.text < 0 || worth(o.excerpt, sought) >= .99*[...sought.stems.values()].reduce((a, b) => a + b, 0)) return o.excerpt
  const text = await whole(o)
  return text ? telling(text, sought, o.heading) : o.excerpt
}

// an element with the excerpt, and then with the better one
function excerpt(tag, o, sought) {
  const out = element(tag, {class: 'excerpt'}, marked(o.excerpt, sought))
  excerptFor(o, sought).then(text => { if (text != o.excerpt) out.replaceChildren(marked(text, sought)) })
  return out
}

function labels(o) {
  const out = o.what ? [element('span', {class: 'what'}, o.what)] : []
  return o.also ? [...out, element('span', {class: 'also'}, 'also ', element('code', {}, o.also))] : out
}

function title(o) { return 'nfc'.includes(o.kind) ? element('code', {}, o.heading) : document.createTextNode(o.heading) }
function trail(o) { return [o.page != o.heading && o.kind != 'p' ? o.page : '', o.path].filter(Boolean).join(' › ') }

function suggestions(input, form) {
  const list = element('ul', {id: 'search-suggestions', role: 'listbox', 'aria-label': 'Suggestions', hidden: ''})
  document.body.append(list)
  let chosen = -1, latest = 0
  for (const [name, value] of Object.entries({role: 'combobox', 'aria-autocomplete': 'list', 'aria-expanded': 'false', 'aria-controls': list.id, autocomplete: 'off', autocapitalize: 'off', spellcheck: 'false', enterkeyhint: 'search'}))
    input.setAttribute(name, value)

  function place() {
    const box = input.getBoundingClientRect(), room = document.documentElement.clientWidth
    const width = Math.min(Math.max(box.width, 480), room - 16)
    list.style.width = width + 'px'
    list.style.left = Math.max(8, Math.min(box.left, room - width - 8)) + 'px'
    list.style.top = box.bottom + 4 + 'px'
    list.style.maxHeight = Math.max(160, innerHeight - box.bottom - 16) + 'px'
  }
  function show(yes) {
    list.hidden = !yes
    input.setAttribute('aria-expanded', String(yes))
    if (!yes) { chosen = -1; input.removeAttribute('aria-activedescendant') }
  }
  function choose(i) {
    const options = [...list.children]
    if (!options.length) return
    chosen = (i + options.length) % options.length
    options.forEach((o, n) => o.setAttribute('aria-selected', String(n == chosen)))
    input.setAttribute('aria-activedescendant', options[chosen].id)
    options[chosen].scrollIntoView({block: 'nearest'})
  }
  async function update() {
    const text = input.value, turn = ++latest
    if (!text.trim()) return show(false)
    const index = await load()
    if (turn != latest) return
    const {results, sought} = index.query(text, 8)
    list.replaceChildren(...results.map((o, i) => {
      const link = element('a', {href: root + o.url, tabindex: '-1'}, element('span', {class: 'found'}, title(o)))
      link.append(...labels(o))
      link.append(element('span', {class: 'trail'}, trail(o)))
      if (o.excerpt) link.append(excerpt('span', o, sought))
      return element('li', {role: 'option', id: `search-option-${i}`, 'aria-selected': 'false'}, link)
    }))
    const all = element('a', {href: `${root}search.html?q=${encodeURIComponent(text.trim())}`, tabindex: '-1'}, results.length ? 'All results' : 'Nothing found: other ways to look')
    list.append(element('li', {role: 'option', id: 'search-option-all', class: 'all', 'aria-selected': 'false'}, all))
    place()
    show(true)
    choose(0)
  }
  input.addEventListener('focus', () => { load(); if (input.value.trim()) update() })
  input.addEventListener('input', update)
  input.addEventListener('blur', () => setTimeout(() => { if (document.activeElement != input) show(false) }, 150))
  list.addEventListener('mousedown', e => e.preventDefault())           // the box keeps the focus
  list.addEventListener('click', () => setTimeout(() => { show(false); input.blur(); closeDrawer() }))
  addEventListener('resize', () => list.hidden || place())
  addEventListener('scroll', () => list.hidden || place(), {passive: true})
  input.addEventListener('keydown', e => {
    if (e.key == 'Escape') { if (list.hidden) input.blur(); show(false); e.preventDefault() }
    else if (list.hidden) { if (e.key == 'ArrowDown') update() }
    else if (e.key == 'ArrowDown') { choose(chosen + 1); e.preventDefault() }
    else if (e.key == 'ArrowUp') { choose(chosen - 1); e.preventDefault() }
    else if (e.key == 'Enter' && chosen >= 0) { e.preventDefault(); list.children[chosen].firstElementChild.click() }
  })
  form.action = root + 'search.html'
}

function closeDrawer() { const drawer = document.getElementById('__navigation'); if (drawer) drawer.checked = false }

function focusSearch(input) {
  const drawer = document.getElementById('__navigation')
  if (drawer && !input.getBoundingClientRect().width || input.getBoundingClientRect().right <= 0) drawer.checked = true
  input.focus()
  setTimeout(() => input.focus(), 300)                                   // a drawer takes a moment to come in
  input.select()
}

function sidebar() {
  const form = document.querySelector('form.sidebar-search-container'), input = form && form.querySelector('input[name=q]')
  if (!input) return
  input.placeholder = 'Search ( / )'
  for (const o of form.querySelectorAll('input[type=hidden]')) o.remove()
  suggestions(input, form)
  const header = document.querySelector('.mobile-header .header-right')
  if (header) {
    const button = element('button', {class: 'search-button', type: 'button', 'aria-label': 'Search'})
    button.innerHTML = '<svg viewBox="0 0 24 24" width="20" height="20" fill="none" stroke="currentColor" stroke-width="2" stroke-linecap="round" aria-hidden="true"><circle cx="10.5" cy="10.5" r="6.5"/><path d="M15.5 15.5 21 21"/></svg>'
    button.addEventListener('click', () => focusSearch(input))
    header.prepend(button)
  }
  document.addEventListener('keydown', e => {
    if (e.key != '/' || e.ctrlKey || e.metaKey || e.altKey || /^(INPUT|TEXTAREA|SELECT)$/.test(document.activeElement.tagName) || document.activeElement.isContentEditable) return
    e.preventDefault()
    e.stopImmediatePropagation()
    focusSearch(document.querySelector('#search-page input') || input)
  }, true)
}

// search.html?q=…
function resultsPage() {
  const page = document.getElementById('search-page')
  if (!page) return
  const input = element('input', {type: 'search', name: 'q', 'aria-label': 'Search', placeholder: 'A word, a name, a flag …', autocomplete: 'off', autocapitalize: 'off', spellcheck: 'false'})
  const form = element('form', {role: 'search', class: 'results-form'}, input), said = element('p', {class: 'results-said', role: 'status'}), list = element('ol', {id: 'search-results'})
  page.replaceChildren(form, said, list)
  input.value = new URLSearchParams(location.search).get('q') || ''
  let turn = 0
  async function update() {
    const now = ++turn, text = input.value
    const index = await load()
    if (now != turn) return
    const {results, sought} = text.trim() ? index.query(text, 25) : {results: []}
    list.replaceChildren(...results.map(o => {
      const item = element('li', {}, element('a', {class: 'found', href: root + o.url}, title(o)))
      item.append(...labels(o))
      item.append(element('p', {class: 'trail'}, trail(o)))
      if (o.reference) item.querySelector('.trail').append(' · ', element('a', {href: root + o.reference}, 'reference'))
      if (o.excerpt) item.append(excerpt('p', o, sought))
      return item
    }))
    said.replaceChildren()
    if (results.length) said.append(`${results.length} place${results.length == 1 ? '' : 's'}, the best first`)
    else if (text.trim()) said.append('Nothing found. Try fewer or other words, or look in ', ...['the contents:index', 'the glossary:glossary', 'the reference:reference', 'the commands:commands']
      .flatMap((o, i) => [i ? ', ' : '', element('a', {href: `${root}${o.split(':')[1]}.html`}, o.split(':')[0])]), '.')
    document.title = text.trim() ? `${text.trim()} - search` : 'Search'
  }
  input.addEventListener('input', () => {
    update()
    try { history.replaceState(null, '', '?q=' + encodeURIComponent(input.value)) } catch { /* a page from a folder keeps its address */ }
  })
  form.addEventListener('submit', e => { e.preventDefault(); const first = list.querySelector('a'); if (first) first.focus() })
  if (!('ontouchstart' in window)) input.focus()
  update()
}

// --- filter boxes of the reference and the commands ----------------------------------------------------------------------

function filterBox() {
  const place = document.querySelector('.filter[data-filter]')
  if (!place) return
  const article = place.closest('article')
  const input = element('input', {type: 'search', 'aria-label': place.dataset.filter, placeholder: place.dataset.filter, autocomplete: 'off', autocapitalize: 'off', spellcheck: 'false'})
  const said = element('output', {'aria-live': 'polite'})
  place.append(input, said)
  const plain = s => s.toLowerCase().replace(/[-_\s]+/g, ' ')
  const items = [...article.querySelectorAll('.module .names a, .knob, tbody tr')].filter(o => !o.closest('.entry')).concat([...article.querySelectorAll('.entry')].map(o => o.closest('section')))
  const texts = items.map(o => plain(o.textContent)), owners = items.map(o => o.closest('.module'))
  const groups = [...article.querySelectorAll('.module, section section, .table-wrapper, .knobs, .rubric')].filter(o => !o.closest('.entry') && !items.includes(o))
  function update() {
    const words = plain(input.value).trim().split(' ').filter(Boolean)
    article.style.minHeight = words.length ? article.style.minHeight || article.offsetHeight + 'px' : ''   // what is below stays below
    let left = 0
    items.forEach((o, i) => {
      const text = owners[i] && !words.every(w => texts[i].includes(w)) ? plain(owners[i].firstElementChild.textContent) : texts[i]
      o.hidden = !words.every(w => text.includes(w))
      left += !o.hidden
    })
    for (const group of groups) {
      const inside = group.matches('.rubric') ? (group.nextElementSibling ? [...group.nextElementSibling.querySelectorAll('.knob')] : []) : items.filter(o => group.contains(o))
      group.hidden = words.length > 0 && inside.every(o => o.hidden)
    }
    said.textContent = words.length ? `${left} of ${items.length}` : ''
  }
  input.addEventListener('input', update)
  input.addEventListener('keydown', e => {
    if (e.key == 'Escape') { input.value = ''; update() }
    if (e.key == 'Enter') { const first = items.find(o => !o.hidden); const link = first && (first.matches('a') ? first : first.querySelector('a')); if (link) link.focus() }
  })
}

if (script) { sidebar(); resultsPage(); filterBox() }
})()
