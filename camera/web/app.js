// The page: log in, watch, choose, read what is promised. Talks to its own server only.
import {addLatency, drawLatency} from '/static/chart.js'
import {showDrop, startDrop} from '/static/drop.js'
import {currentLanguage, icon, keepLanguage, loadText, make, number, t} from '/static/text.js'

const VIEWS = ['live', 'pictures', 'promise', 'audit']
const CHECK = 'M5 12.5l4.500 4.500L19 7.500', CROSS = 'M6 6l12 12M18 6L6 18'
const byId = (id) => document.getElementById(id)
const state = {csrf: '', claims: null, status: null, last: null, isPaused: false, isStreaming: false, wished: -1e9, failures: 0, timer: 0}

class Problem extends Error {
  constructor(status, text) { super(text); this.status = status }
}

async function ask(path, options = {}) {
  const headers = {...options.headers}
  if (options.method) headers['X-CSRF-Token'] = state.csrf
  if (options.json) { headers['Content-Type'] = 'application/json'; options.body = JSON.stringify(options.json) }
  let response
  try {
    response = await fetch(path, {method: options.method ?? 'GET', headers, body: options.body, cache: 'no-store'})
  } catch {
    throw new Problem(0, t('problem.lost'))
  }
  const value = await response.json().catch(() => ({}))
  if (response.ok) return value
  if (response.status === 401 && state.csrf) showLogin()
  const wait = Number(response.headers.get('Retry-After') ?? 0)
  throw new Problem(response.status, wait ? t('problem.wait', {seconds: wait}) : value.error ?? t('problem.other'))
}

function tell(text) {
  const toast = byId('toast')
  toast.textContent = text
  toast.hidden = false
  clearTimeout(tell.timer)
  tell.timer = setTimeout(() => { toast.hidden = true }, 6000)
}

// --- log in ---------------------------------------------------------------------------------

function showLogin() {
  state.csrf = ''
  clearTimeout(state.timer)
  stopStream()
  byId('app').hidden = true
  byId('login').hidden = false
  byId('password').focus()
}

async function logIn(event) {
  event.preventDefault()
  const field = byId('password')
  byId('login-problem').textContent = ''
  try {
    const value = await ask('/api/login', {method: 'POST', json: {password: field.value}})
    field.value = ''
    await enter(value.csrf)
  } catch (problem) {
    byId('login-problem').textContent = problem.status === 401 ? t('login.wrong') : problem.message
    field.select()
  }
}

async function enter(csrf) {
  state.csrf = csrf
  state.claims = await ask('/api/claims')
  byId('login').hidden = true
  byId('app').hidden = false
  showAll()
  route()
  poll()
}

async function logOut() {
  await ask('/api/logout', {method: 'POST'}).catch(() => {})
  location.reload() // nothing of the session stays in this page's memory
}

// --- views ----------------------------------------------------------------------------------

function route() {
  if (!state.csrf) return
  const name = VIEWS.includes(location.hash.slice(1)) ? location.hash.slice(1) : 'live'
  for (const view of VIEWS) byId(`view-${view}`).hidden = view !== name
  for (const link of document.querySelectorAll('.tabs a')) {
    if (link.dataset.view === name) link.setAttribute('aria-current', 'page')
    else link.removeAttribute('aria-current')
  }
  document.title = `${t(`nav.${name}`)} · Veilcam`
  if (name === 'promise') showPromise()
  if (name === 'live') startStream()
  else stopStream()
  if (name === 'audit' && state.claims.has_report && !byId('report').src) byId('report').src = '/report'
  window.scrollTo(0, 0)
}

function showAll() {
  document.querySelector('.tabs a[data-view=pictures]').hidden = !state.claims.purposes.length
  byId('language').value = currentLanguage()
  showSettings()
  showDrop(state.claims, state.status?.strength ?? 'balanced')
  showPromise()
  byId('audit-none').hidden = state.claims.has_report
  byId('audit-some').hidden = !state.claims.has_report
  if (state.status) showStatus()
  showPause()
}

// --- live -----------------------------------------------------------------------------------

function startStream() {
  if (state.isPaused || state.isStreaming || document.hidden) return
  state.isStreaming = true
  const live = byId('live-picture')
  live.src = `/stream.mjpg?${Date.now()}`
  live.hidden = false
}

function stopStream() {
  state.isStreaming = false
  byId('live-picture').removeAttribute('src')
  byId('live-picture').hidden = true
}

function showPause() {
  const button = byId('pause')
  button.setAttribute('aria-pressed', String(state.isPaused))
  button.querySelector('span').textContent = t(state.isPaused ? 'live.resume' : 'live.pause')
}

function togglePause() {
  state.isPaused = !state.isPaused
  if (state.isPaused) stopStream()
  else startStream()
  showPause()
  showPill()
}

async function poll() {
  clearTimeout(state.timer)
  if (!state.csrf) return
  try {
    const status = await ask('/api/status')
    if (state.failures && !byId('view-live').hidden) { stopStream(); startStream() }
    state.failures = 0
    state.last = state.status && {...state.status, at: state.at}
    state.status = status
    state.at = performance.now()
    addLatency(status.latency_ms)
    showStatus()
  } catch {
    state.failures += 1
    showPill()
  }
  if (state.csrf) state.timer = setTimeout(poll, document.hidden ? 5000 : 1000)
}

function showStatus() {
  const {status} = state
  showPill()
  showCounters(status)
  if (!byId('view-live').hidden) drawLatency(status.latency_ms)
  showBarriers(status)
  if (status.problem) byId('settings-note').textContent = t('settings.problem', {problem: status.problem})
  for (const [name, value] of [['strength', status.strength], ['mode', status.mode]]) {
    const input = document.querySelector(`#settings input[name=${name}][value="${value}"]`)
    if (input && performance.now() - state.wished > 6000) input.checked = true
  }
}

function showPill() {
  const [pill, text, note, live] = ['live-pill', 'live-state', 'live-note', 'live-picture'].map(byId)
  const {status, last} = state
  let [name, words] = ['off', t('live.starting')]
  if (state.failures > 1) [name, words] = ['lost', t('live.lost')]
  else if (state.isPaused) [name, words] = ['off', t('live.paused')]
  else if (status?.frames_out && last) {
    const seconds = (state.at - last.at) / 1000
    const [out, blank] = [status.frames_out - last.frames_out, status.frames_blank - last.frames_blank]
    if (out > 0 && blank < out) [name, words] = ['live', t('live.fps', {fps: number(out / seconds)})]
    else if (blank > 0) [name, words] = ['blank', t('live.blank')]
    else [name, words] = ['blank', t('live.waiting')]
  }
  pill.dataset.state = name
  if (text.textContent !== words) text.textContent = words
  note.textContent = words
  note.hidden = !live.hidden
}

function showCounters(status) {
  const tiles = [['frames_out'], ['heads_replaced'], ['people_seen'], ['frames_blank'], ['frames_dropped'], ['faults', status.faults > 0]]
  if (status.audit) tiles.push(['audit_alarms', status.audit.alarms > 0 || status.audit.state !== 'watching'])
  byId('counters').replaceChildren(...tiles.map(([name, isBad]) => make('dl', {class: isBad ? 'tile bad' : 'tile'},
    make('dt', {}, t(`counter.${name}`)), make('dd', {}, name === 'audit_alarms' ? auditWords(status.audit) : number(status[name] ?? 0)))))
}

function auditWords({state: now, alarms, strength}) {
  if (now !== 'watching') return t('audit.broken')
  return alarms > 0 ? `${number(alarms)} (${t(`strength.${strength}`)})` : number(alarms)
}

function showBarriers(status) {
  const sum = byId('barriers-sum')
  if (!status.barriers) return
  const isGood = !status.missing
  sum.className = `verdict ${isGood ? 'good' : 'bad'}`
  sum.replaceChildren(icon(isGood ? CHECK : CROSS), t(isGood ? 'barriers.up' : 'barriers.down', {missing: status.missing}))
  byId('barriers').replaceChildren(...Object.entries(status.barriers).flatMap(([role, found]) => [
    make('h3', {}, t(`role.${role}`)),
    make('ul', {class: 'checks'}, ...Object.entries(found).map(([name, value]) => {
      const isUp = value.startsWith('up')
      return make('li', {class: isUp ? '' : 'bad'}, icon(isUp ? CHECK : CROSS), make('span', {}, `${t(`barrier.${name}`)}${isUp ? '' : ` (${value})`}`))
    })),
  ]))
}

// --- settings -------------------------------------------------------------------------------

function choices(place, name, values, chosen) {
  place.replaceChildren(...values.map((value) => {
    const input = make('input', {type: 'radio', name, value, checked: value === chosen})
    input.addEventListener('change', applySettings)
    return make('label', {class: 'choice'}, input, make('b', {}, t(`${name}.${value}`)), make('span', {}, t(`${name}.${value}.more`)))
  }))
}

function showSettings() {
  choices(byId('strengths'), 'strength', state.claims.strength_choices, state.status?.strength)
  choices(byId('modes'), 'mode', state.claims.modes, state.status?.mode)
  byId('prompt-set').hidden = !state.claims.has_prompt
}

async function applySettings() {
  const data = new FormData(byId('settings'))
  const json = {mode: data.get('mode') ?? state.status?.mode, strength: data.get('strength') ?? state.status?.strength, prompt: byId('prompt').value}
  state.wished = performance.now()
  byId('settings-note').textContent = t('settings.changing')
  try {
    const {unknown} = await ask('/api/settings', {method: 'POST', json})
    if (unknown?.length) byId('settings-note').textContent = t('prompt.unknown', {words: unknown.join(', ')})
    else setTimeout(() => { byId('settings-note').textContent = '' }, 5000)
  } catch (problem) {
    state.wished = -1e9
    byId('settings-note').textContent = ''
    tell(problem.message)
  }
}

// --- promises -------------------------------------------------------------------------------

function showPromise() {
  const {bundles, strengths} = state.claims
  const modes = Object.entries(bundles)
  byId('promise').replaceChildren(
    block('promise.leaves', list([...state.claims.modes.map((mode) => `mode.${mode}.leaves`), 'promise.leaves.barriers']), 'kind.built'),
    ...('face' in bundles ? [block('promise.code', codeTable(strengths), 'kind.promise', [t('promise.code.lead')], [t('promise.code.epsilon')])] : []),
    ...('scene' in bundles ? [block('promise.scene', sceneText(bundles.scene), 'kind.promise')] : []),
    ...(bundles.frame?.local_dp ? [block('promise.frame', frameText(bundles.frame.local_dp), 'kind.promise')] : []),
    block('promise.training', make('div', {}, ...modes.map(([mode, bundle]) => trainingText(mode, bundle))), 'kind.promise'),
    block('promise.not', list(['promise.not.1', 'promise.not.2', 'promise.not.3', 'promise.not.4']), 'kind.not'),
    block('promise.upload', list(['promise.upload.1', 'promise.upload.2', 'promise.upload.3']), 'kind.built'),
    block('promise.bundle', make('div', {}, ...modes.map(([, bundle]) => bundleText(bundle))), 'kind.built'))
}

function block(key, body, kind, before = [], after = []) {
  const words = (lines) => lines.map((line) => make('p', {}, line))
  return make('section', {class: 'card'}, make('span', {class: kind === 'kind.not' ? 'kind not' : 'kind'}, t(kind)),
    make('h2', {}, t(key)), ...words(before), body, ...words(after))
}

function list(keys) {
  return make('ul', {}, ...keys.map((key) => make('li', {}, t(key))))
}

function codeTable(strengths, columns = ['bits_per_frame', 'bits_per_second', 'epsilon_per_track']) {
  const head = make('tr', {}, make('th', {scope: 'col'}, t('strength.title')), ...columns.map((name) => make('th', {scope: 'col', class: 'n'}, t(`code.${name}`))))
  const rows = Object.entries(strengths).map(([name, value]) => make('tr', {class: name === state.status?.strength ? 'now' : ''},
    make('th', {scope: 'row'}, t(`strength.${name}`)),
    ...columns.map((column) => make('td', {class: 'n'}, column === 'epsilon_per_track' && value[column] === 0 ? t('code.random') : number(value[column])))))
  return make('div', {class: 'scroll'}, make('table', {}, make('thead', {}, head), make('tbody', {}, ...rows)))
}

function sceneText(bundle) {
  const text = make('div', {}, make('p', {}, t('promise.scene.code', {bits: number(bundle.bits_per_frame)})))
  const plate = state.status?.plate
  if (plate) text.append(make('p', {}, t('promise.scene.plate', {setup: plate.setup_claim, unit: plate.refresh_unit, epsilon: plate.refresh_epsilon, delta: plate.refresh_delta, count: plate.refreshes})))
  return text
}

function frameText(claim) {
  const said = Object.entries(claim).filter(([, value]) => typeof value === 'string')
  return make('div', {}, codeTable(claim.strengths, ['bits_per_frame', 'bits_per_second', 'epsilon_per_cell', 'epsilon_per_frame']),
    make('ul', {}, ...said.map(([name, value]) => make('li', {}, `${name.replaceAll('_', ' ')}: ${value}`))))
}

function trainingText(mode, bundle) {
  const {training, data} = bundle
  const count = number(data.reduce((sum, part) => sum + (part.pictures ?? 0), 0))
  const head = make('h3', {}, t(`mode.${mode}`))
  if (!training) return make('div', {}, head, make('p', {}, t('training.public', {count})), sources(data))
  const values = {unit: training.unit, epsilon: training.epsilon, delta: training.delta, accountant: training.accountant, relation: training.relation ?? training.neighboring_relation ?? '?'}
  return make('div', {}, head, make('p', {}, t('training.private', values)), sources(data))
}

function sources(data) {
  return make('ul', {}, ...data.map((part) => make('li', {}, `${number(part.pictures ?? 0)}: ${part.origin} (${part.licence})`)))
}

function bundleText(bundle) {
  return make('div', {}, make('p', {}, t(bundle.is_pinned ? 'bundle.pinned' : 'bundle.foreign', {name: bundle.name})), make('p', {class: 'mono'}, `sha256 ${bundle.sha256}`))
}

// --- start ----------------------------------------------------------------------------------

async function start() {
  await loadText()
  byId('login-form').addEventListener('submit', logIn)
  byId('logout').addEventListener('click', logOut)
  byId('pause').addEventListener('click', togglePause)
  byId('full').addEventListener('click', () => document.querySelector('.screen').requestFullscreen?.().catch(() => {}))
  byId('settings').addEventListener('submit', (event) => { event.preventDefault(); applySettings() })
  byId('language').addEventListener('change', (event) => { keepLanguage(event.target.value); showAll(); route() })
  window.addEventListener('hashchange', () => { route(); byId('content').focus({preventScroll: true}) })
  document.addEventListener('visibilitychange', () => {
    if (document.hidden) stopStream()
    else if (state.csrf) { route(); poll() }
  })
  document.querySelector('.skip').addEventListener('click', (event) => { event.preventDefault(); byId('content').focus() })
  startDrop(ask, tell)
  try {
    await enter((await ask('/api/session')).csrf)
  } catch (problem) {
    showLogin()
    if (problem.status !== 401) byId('login-problem').textContent = problem.message
  }
}

start()
