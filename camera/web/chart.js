// Latency: a line over time for the whole frame, a bar for each stage.
import {make, number, t} from '/static/text.js'

const ORDER = ['analyse', 'learn', 'encode', 'generate', 'compose', 'cross']
const LONGEST = 180
const WIDE = 720, HIGH = 200, LEFT = 44, RIGHT = 10, TOP = 10, BOTTOM = 24
const points = []

export function addLatency(latency) {
  const total = latency?.total
  if (!total) return
  points.push([total.p50, total.p95])
  if (points.length > LONGEST) points.shift()
}

export function drawLatency(latency) {
  if (!latency?.total) return
  drawLines(document.getElementById('chart'))
  drawStages(document.querySelector('#stages tbody'), latency)
}

function niceTop(value) {
  return [20, 40, 60, 80, 100, 150, 200, 300, 500, 1000, 2000].find((top) => top >= value) ?? value
}

function drawLines(place) {
  const top = niceTop(Math.max(36, ...points.map((point) => point[1])) * 1.05)
  const x = (index) => LEFT + (WIDE - LEFT - RIGHT) * (LONGEST - points.length + index) / (LONGEST - 1)
  const y = (value) => TOP + (HIGH - TOP - BOTTOM) * (1 - value / top)
  const svg = make('svg', {viewBox: `0 0 ${WIDE} ${HIGH}`, role: 'img', 'aria-label': summary()})
  for (const part of [0, 0.25, 0.5, 0.75, 1]) {
    const at = y(part * top)
    svg.append(make('line', {x1: LEFT, x2: WIDE - RIGHT, y1: at, y2: at, class: 'grid'}))
    svg.append(make('text', {x: LEFT - 8, y: at + 4, 'text-anchor': 'end'}, number(part * top)))
  }
  const guide = y(1000 / 30)
  svg.append(make('line', {x1: LEFT, x2: WIDE - RIGHT, y1: guide, y2: guide, class: 'guide'}))
  svg.append(make('text', {x: LEFT + 6, y: guide - 5}, t('latency.guide')))
  svg.append(make('text', {x: LEFT, y: HIGH - 6}, t('latency.ago', {seconds: LONGEST})))
  svg.append(make('text', {x: WIDE - RIGHT, y: HIGH - 6, 'text-anchor': 'end'}, t('latency.now')))
  for (const [series, name] of [[1, 'k1'], [0, 'k0']]) {
    const path = points.map((point, index) => `${x(index).toFixed(1)},${y(point[series]).toFixed(1)}`)
    svg.append(make('polyline', {points: path.join(' '), class: `line ${name}`}))
  }
  const legend = make('ul', {class: 'legend'}, key('k0', t('latency.half')), key('k1', t('latency.most')))
  place.replaceChildren(svg, legend)
}

function key(name, text) {
  const mark = make('svg', {viewBox: '0 0 18 10', 'aria-hidden': 'true'}, make('line', {x1: 0, x2: 18, y1: 5, y2: 5, class: `line ${name}`, 'stroke-width': 3}))
  return make('li', {}, mark, text)
}

function summary() {
  const [half, most] = points.at(-1) ?? [0, 0]
  return t('latency.summary', {half: number(half, 1), most: number(most, 1)})
}

function drawStages(body, latency) {
  const stages = ORDER.filter((stage) => stage in latency)
  const longest = Math.max(...stages.map((stage) => latency[stage]?.p95 ?? 0), 1)
  const rows = []
  stages.forEach((stage) => {
    const [value, index] = [latency[stage], ORDER.indexOf(stage)]
    const bar = make('svg', {viewBox: '0 0 100 10', preserveAspectRatio: 'none', 'aria-hidden': 'true'},
      make('rect', {x: 0, y: 1, width: 100 * value.p95 / longest, height: 8, rx: 1, class: `k${index}`, opacity: 0.28}),
      make('rect', {x: 0, y: 1, width: 100 * value.p50 / longest, height: 8, rx: 1, class: `k${index}`}))
    rows.push(row(t(`stage.${stage}`), make('td', {class: 'barcell'}, bar), value))
  })
  rows.push(row(t('stage.total'), make('td', {class: 'barcell'}), latency.total))
  body.replaceChildren(...rows)
}

function row(name, bar, value) {
  const cells = ['p50', 'p95', 'p99'].map((part) => make('td', {class: 'n'}, `${number(value[part], 1)} ms`))
  return make('tr', {}, make('th', {scope: 'row'}, name), bar, ...cells)
}
