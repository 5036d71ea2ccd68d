// What a style sheet can't do: the sidebar shows where you are, what scrolls can be reached by keyboard, hover texts answer a tap.
const all = (what, where = document) => [...where.querySelectorAll(what)]

function showCurrentPage() {
  const entry = document.querySelector('.sidebar-tree a.current, .sidebar-tree .current-page > a'), box = entry?.closest('.sidebar-scroll')
  if (box) box.scrollBy({top: entry.getBoundingClientRect().top - box.getBoundingClientRect().top - box.clientHeight/3, behavior: 'instant'})
}

function makeScrollersReachable() {
  for (const box of all('article pre, article .table-wrapper, article .output, article div.math')) {
    if (box.scrollWidth > box.clientWidth + 1) box.tabIndex = 0
    else box.removeAttribute('tabindex')
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
makeScrollersReachable()
answerTaps()
addEventListener('resize', makeScrollersReachable)
document.addEventListener('toggle', makeScrollersReachable, true)
