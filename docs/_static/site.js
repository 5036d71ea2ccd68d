// What a style sheet can't do: the sidebar shows where you are, what scrolls says so and can be reached by keyboard, hover texts answer a tap.
const all = (what, where = document) => [...where.querySelectorAll(what)]
const SCROLLERS = 'article pre, article .table-wrapper, article .output, article div.math, article .pan, figure.live .still'

function showCurrentPage() {
  const entry = document.querySelector('.sidebar-tree a.current, .sidebar-tree .current-page > a'), box = entry?.closest('.sidebar-scroll')
  if (box) box.scrollBy({top: entry.getBoundingClientRect().top - box.getBoundingClientRect().top - box.clientHeight/3, behavior: 'instant'})
}

// Where there is more to the right, the edge fades
function sayWhetherThereIsMore(box) { box.classList.toggle('more', box.scrollLeft + box.clientWidth < box.scrollWidth - 2) }

function tellScrollers() {
  for (const box of all(SCROLLERS)) {
    if (box.scrollWidth > box.clientWidth + 1) box.tabIndex = 0
    else box.removeAttribute('tabindex')
    sayWhetherThereIsMore(box)
  }
}

function answerTaps() {
  if (matchMedia('(hover: hover)').matches) return
  const note = document.createElement('div')
  note.className = 'tapped'
  note.setAttribute('role', 'status')
  document.body.append(note)
  document.addEventListener('click', event => { note.textContent = event.target.closest('article [title]')?.title ?? '' })
}

showCurrentPage()
tellScrollers()
answerTaps()
addEventListener('resize', tellScrollers)
document.addEventListener('toggle', tellScrollers, true)
document.addEventListener('scroll', event => { if (event.target.matches?.(SCROLLERS)) sayWhetherThereIsMore(event.target) }, {capture: true, passive: true})
