// The string table: every word of the page, by key and language.
let tables = {}
let language = 'en'

export async function loadText() {
  tables = await (await fetch('/static/strings.json')).json()
  const kept = localStorage.getItem('language')
  const wanted = kept || (navigator.language || 'en').slice(0, 2)
  useLanguage(wanted in tables ? wanted : 'en')
}

export function useLanguage(name) {
  language = name
  document.documentElement.lang = name === 'zh' ? 'zh-Hans' : name
  for (const node of document.querySelectorAll('[data-t]')) node.textContent = t(node.dataset.t)
  const attributes = {tLabel: 'aria-label', tAlt: 'alt', tPlaceholder: 'placeholder', tTitle: 'title'}
  for (const [key, attribute] of Object.entries(attributes)) {
    const selector = '[data-' + key.replace(/[A-Z]/g, (c) => '-' + c.toLowerCase()) + ']'
    for (const node of document.querySelectorAll(selector)) node.setAttribute(attribute, t(node.dataset[key]))
  }
}

export function keepLanguage(name) {
  localStorage.setItem('language', name)
  useLanguage(name)
}

export function currentLanguage() {
  return language
}

// The text of a key; {name} is replaced. A key without text shows itself, so that it is noticed.
export function t(key, values = {}) {
  const text = tables[language]?.[key] ?? tables.en?.[key] ?? key
  return text.replace(/\{(\w+)\}/g, (whole, name) => values[name] ?? whole)
}


export function number(value, digits = 0) {
  return Number(value).toLocaleString(document.documentElement.lang, {maximumFractionDigits: digits, minimumFractionDigits: digits})
}

// An element with text and attributes; nothing is ever parsed as HTML.
export function make(tag, attributes = {}, ...children) {
  const isSvg = ['svg', 'path', 'rect', 'line', 'text', 'polyline', 'title'].includes(tag)
  const node = isSvg ? document.createElementNS('http://www.w3.org/2000/svg', tag) : document.createElement(tag)
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== false && value !== null) node.setAttribute(name, value === true ? '' : value)
  }
  node.append(...children)
  return node
}

export function icon(path) {
  return make('svg', {viewBox: '0 0 24 24', 'aria-hidden': 'true'}, make('path', {d: path}))
}
