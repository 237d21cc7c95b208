// Pictures dropped on the page: sent one after another, shown as they come back.
// What is shown as "before" never left this browser a second time: it is the dropped file itself.
import {icon, make, number, t} from '/static/text.js'

const SIZES = ['large', 'medium', 'small', 'square', 'story', 'full']
const state = {queue: [], results: [], isBusy: false, claims: null, ask: null, tell: null}
const byId = (id) => document.getElementById(id)

export function startDrop(ask, tell) {
  state.ask = ask
  state.tell = tell
  const drop = byId('drop')
  byId('files').addEventListener('change', (event) => { add([...event.target.files]); event.target.value = '' })
  byId('drop-form').addEventListener('submit', (event) => event.preventDefault())
  for (const name of ['dragenter', 'dragover']) drop.addEventListener(name, (event) => { event.preventDefault(); drop.classList.add('over') })
  for (const name of ['dragleave', 'drop']) drop.addEventListener(name, (event) => { event.preventDefault(); drop.classList.remove('over') })
  drop.addEventListener('drop', (event) => add([...event.dataTransfer.files]))
  for (const name of ['dragover', 'drop']) window.addEventListener(name, (event) => event.preventDefault()) // never navigate to a raw picture
  document.addEventListener('paste', (event) => {
    if (!byId('view-pictures').hidden && event.clipboardData?.files.length) add([...event.clipboardData.files])
  })
  byId('forget').addEventListener('click', forgetAll)
}

export function showDrop(claims, strength) {
  state.claims = claims
  const chosen = document.querySelector('input[name=purpose]:checked')?.value ?? claims.purposes[0]
  byId('purposes').replaceChildren(...claims.purposes.map((purpose) => {
    const input = make('input', {type: 'radio', name: 'purpose', value: purpose, checked: purpose === chosen})
    input.addEventListener('change', showSize)
    return make('label', {class: 'choice'}, input, make('b', {}, t(`purpose.${purpose}`)), make('span', {}, t(`purpose.${purpose}.more`)))
  }))
  fill(byId('drop-strength'), claims.strength_choices, 'strength', byId('drop-strength').value || strength)
  fill(byId('drop-mode'), claims.picture_modes, 'mode', byId('drop-mode').value || 'face')
  byId('drop-mode').onchange = showSize
  fill(byId('drop-size'), SIZES, 'size', byId('drop-size').value || 'large')
  showSize()
  showResults()
}

function fill(select, values, name, chosen) {
  select.replaceChildren(...values.map((value) => make('option', {value, selected: value === chosen}, t(`${name}.${value}`))))
}

function showSize() {
  const purpose = document.querySelector('input[name=purpose]:checked')?.value
  byId('size-field').hidden = purpose === 'album'
  byId('drop-mode-field').hidden = purpose === 'search' || state.claims.picture_modes.length < 2
  byId('drop-prompt-field').hidden = !state.claims.has_prompt || mode() !== 'face'
}

function mode() {
  return byId('drop-mode-field').hidden ? state.claims.picture_modes[0] : byId('drop-mode').value
}

function add(files) {
  for (const file of files) {
    const result = {file, name: file.name, state: 'waits', before: URL.createObjectURL(file), isBefore: false,
      purpose: document.querySelector('input[name=purpose]:checked').value,
      mode: mode(), strength: byId('drop-strength').value, size: byId('drop-size').value,
      prompt: mode() === 'face' ? byId('drop-prompt').value.trim() : ''}
    state.results.unshift(result)
    state.queue.push(result)
  }
  showResults()
  work()
}

async function work() {
  if (state.isBusy) return
  state.isBusy = true
  while (state.queue.length) {
    const result = state.queue.shift()
    result.state = 'works'
    showResults()
    await send(result)
    showResults()
  }
  state.isBusy = false
}

async function send(result) {
  if (result.file.size > state.claims.max_upload_bytes) {
    Object.assign(result, {state: 'failed', problem: t('pictures.large', {most: number(state.claims.max_upload_bytes / 2 ** 20)})})
    return
  }
  const query = new URLSearchParams({purpose: result.purpose, mode: result.mode, strength: result.strength, size: result.size, prompt: result.prompt, name: result.file.name})
  try {
    const made = await state.ask(`/api/pictures?${query}`, {method: 'POST', body: result.file})
    Object.assign(result, {state: 'done', made, name: made.name})
  } catch (problem) {
    Object.assign(result, {state: 'failed', problem: problem.status === 0 ? problem.message : t('pictures.failed', {problem: problem.message})})
  }
  result.file = null
}

async function forgetAll() {
  try {
    await state.ask('/api/pictures', {method: 'DELETE'})
  } catch (problem) {
    state.tell(problem.message)
    return
  }
  for (const result of state.results) URL.revokeObjectURL(result.before)
  state.results = state.results.filter((result) => result.state === 'waits' || result.state === 'works')
  showResults()
  byId('files').focus()
}

function showResults() {
  const count = (name) => state.results.filter((result) => result.state === name).length
  const [done, failed, all] = [count('done'), count('failed'), state.results.length]
  byId('results-head').hidden = all === 0
  byId('results-state').textContent = t(failed ? 'pictures.state.failed' : 'pictures.state', {done, failed, all})
  byId('results-progress').hidden = done + failed === all
  byId('results-progress').max = Math.max(all, 1)
  byId('results-progress').value = done + failed
  byId('zip').hidden = done === 0
  const list = byId('results')
  const focused = document.activeElement?.dataset?.key
  list.replaceChildren(...state.results.map(card))
  if (focused) list.querySelector(`[data-key="${CSS.escape(focused)}"]`)?.focus()
}

function card(result, index) {
  const frame = make('div', {class: 'result-frame'})
  const text = make('div', {class: 'result-text'}, make('p', {class: 'result-name'}, result.name))
  if (result.state === 'done') finished(result, index, frame, text)
  else if (result.state === 'failed') {
    frame.append(icon('M6 6l12 12M18 6L6 18'))
    text.append(make('p', {class: 'problem'}, result.problem))
  } else {
    frame.append(make('span', {class: 'spin', 'aria-hidden': 'true'}))
    text.append(make('p', {class: 'hint'}, t(result.state === 'works' ? 'pictures.works' : 'pictures.waits')))
  }
  return make('li', {class: 'result'}, frame, text)
}

function finished(result, index, frame, text) {
  const {made} = result
  const after = `/api/pictures/${made.id}`
  const source = result.isBefore ? result.before : after
  const label = t(result.isBefore ? 'pictures.before' : 'pictures.after')
  frame.append(make('img', {src: source, alt: `${label}: ${result.name}`, loading: 'lazy'}))
  frame.append(make('span', {class: result.isBefore ? 'tag before' : 'tag'}, label))
  const isPainted = result.mode === 'frame'
  const told = [isPainted ? t('pictures.painted', {count: number(made.heads)}) : t(made.heads === 1 ? 'pictures.head' : 'pictures.heads', {count: number(made.heads)})]
  told.push(`${number(made.width)} × ${number(made.height)}`)
  if (result.purpose === 'social') told.push(t(made.is_signed ? 'pictures.signed' : 'pictures.unsigned'))
  text.append(make('p', {class: 'hint'}, told.join(' · ')))
  if (made.heads === 0 && !isPainted) text.append(make('p', {class: 'hint'}, t('pictures.nobody')))
  const toggle = make('button', {class: 'button', type: 'button', 'aria-pressed': String(result.isBefore), 'data-key': `b${state.results.length - index}`}, t('pictures.show'))
  toggle.addEventListener('click', () => { result.isBefore = !result.isBefore; showResults() })
  text.append(make('div', {class: 'row'}, make('a', {class: 'button', href: after, download: made.name}, t('pictures.save')), toggle))
}
