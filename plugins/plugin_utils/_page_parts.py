# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This module is private to the collection: it may change
# without notice between releases.

"""Style and behaviour of the plan's page. Without the script everything is there to read but the highlighting."""

from __future__ import annotations

STYLE = """
:root {
  --page: #f4f5f7; --card: #fff; --ink: #1b1f27; --soft: #5c6470; --line: #dfe2e7; --track: #e9ebef;
  --accent: #2456c9; --good: #17713c; --good-back: #dff3e6; --warn: #8a5300; --warn-back: #fdefd5;
  --bad: #a8201a; --bad-back: #fbe3e1; --light: .80; --chroma: .105; --on: #14171d; --hatch: #b9bec8;
  color-scheme: light;
}
@media (prefers-color-scheme: dark) { :root:not([data-theme=light]) {
  --page: #12151b; --card: #1b1f27; --ink: #e8eaee; --soft: #9aa3b1; --line: #2d333e; --track: #272c36;
  --accent: #8ab0ff; --good: #7fd6a0; --good-back: #17341f; --warn: #f0bf6b; --warn-back: #3a2c10;
  --bad: #ff9d96; --bad-back: #431c1a; --light: .50; --chroma: .10; --on: #fff; --hatch: #4d5563;
  color-scheme: dark;
} }
:root[data-theme=dark] {
  --page: #12151b; --card: #1b1f27; --ink: #e8eaee; --soft: #9aa3b1; --line: #2d333e; --track: #272c36;
  --accent: #8ab0ff; --good: #7fd6a0; --good-back: #17341f; --warn: #f0bf6b; --warn-back: #3a2c10;
  --bad: #ff9d96; --bad-back: #431c1a; --light: .50; --chroma: .10; --on: #fff; --hatch: #4d5563;
  color-scheme: dark;
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, sans-serif;
  padding-bottom: 6.5rem; }
header, main { max-width: 1500px; margin: 0 auto; padding: 0 1.5rem; }
header { display: flex; flex-wrap: wrap; align-items: baseline; gap: .3rem 1rem; padding-top: 1.6rem; }
h1 { font-size: 1.6rem; margin: 0; letter-spacing: -.01em; }
h2 { font-size: 1.1rem; margin: 2.2rem 0 .7rem; }
h2 small { font-weight: 400; color: var(--soft); margin-left: .5rem; font-size: .9rem; }
h3 { font-size: .95rem; margin: 0; overflow-wrap: anywhere; }
p { margin: .3rem 0; }
.soft, small { color: var(--soft); }
.right { margin-left: auto; display: flex; gap: .5rem; }
button, input { font: inherit; color: inherit; background: var(--card); border: 1px solid var(--line);
  border-radius: 8px; padding: .25rem .7rem; }
button { cursor: pointer; }
#find { width: 16rem; }
button:focus-visible, input:focus-visible, .node:focus-visible, tr:focus-visible {
  outline: 2px solid var(--accent); outline-offset: 1px; }
.chip { display: inline-block; border-radius: 99px; padding: .1rem .65rem; font-size: .85rem; font-weight: 600;
  white-space: nowrap; }
.good { color: var(--good); background: var(--good-back); }
.warn { color: var(--warn); background: var(--warn-back); }
.bad { color: var(--bad); background: var(--bad-back); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: .8rem; margin-top: 1.2rem; }
.tile, .node, .panel { background: var(--card); border: 1px solid var(--line); border-radius: 12px; }
.tile { padding: .7rem 1rem; }
.tile b { display: block; font-size: 1.5rem; font-weight: 650; line-height: 1.25; font-variant-numeric: tabular-nums; }
.panel { padding: .4rem 1rem; overflow: auto; }
.legend { display: flex; flex-wrap: wrap; gap: .4rem; list-style: none; padding: 0; margin: 0; max-height: 10.4rem;
  overflow: auto; }
.legend button { display: flex; align-items: center; gap: .45rem; padding: .15rem .6rem; font-size: .88rem; }
.legend button[aria-pressed=true] { border-color: var(--accent); box-shadow: 0 0 0 1px var(--accent); }
.dot, .seg { background: oklch(calc(var(--light) + var(--tier)) var(--chroma) var(--hue)); }
.dot { width: .85rem; height: .85rem; border-radius: 4px; flex: none; }
.fleet { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(560px, 100%), 1fr)); gap: .8rem; }
.node { padding: .65rem .9rem .8rem; cursor: pointer; transition: border-color .1s; }
.node:hover { border-color: var(--accent); }
.node header { display: flex; flex-wrap: wrap; gap: 0 .6rem; align-items: baseline; padding: 0; margin: 0 0 .35rem; }
.node header small { margin-left: auto; text-align: right; }
.gpu { display: grid; grid-template-columns: 10.5rem 1fr 8.2rem; gap: .6rem; align-items: center; margin-top: .3rem; }
.gpu span { font-size: .85rem; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.gpu .size { text-align: right; color: var(--soft); font-variant-numeric: tabular-nums; }
.bar { display: flex; height: 1.55rem; background: var(--track); border-radius: 5px; overflow: hidden; }
.bar > * { width: calc(var(--part) * 1%); min-width: 2px; flex: none; overflow: hidden; white-space: nowrap;
  text-overflow: ellipsis; font-size: .78rem; line-height: 1.55rem; padding: 0 .35rem; }
.seg { color: var(--on); border-right: 1px solid var(--card); }
.foreign, .dead { background: repeating-linear-gradient(135deg, var(--hatch) 0 3px, transparent 3px 7px); }
.dead { opacity: .6; }
.dense .fleet { grid-template-columns: repeat(auto-fill, minmax(205px, 1fr)); gap: .5rem; }
.dense .node { padding: .35rem .55rem .5rem; border-radius: 8px; }
.dense .node header { margin: 0; flex-wrap: nowrap; }
.dense .node header small { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; font-size: .75rem; }
.dense .node h3 { font-size: .82rem; flex: none; }
.dense .gpu { grid-template-columns: 1fr; margin-top: .2rem; }
.dense .gpu > span { display: none; }
.dense .bar { height: .8rem; border-radius: 3px; }
.dense .bar > * { font-size: 0; padding: 0; }
.keys { display: flex; gap: 1.2rem; font-size: .85rem; color: var(--soft); margin: .2rem 0 .6rem; flex-wrap: wrap; }
.keys i { display: inline-block; width: 1.6rem; height: .8rem; border-radius: 3px; vertical-align: -.05rem;
  margin-right: .4rem; background-color: var(--track); }
.keys i.any { background: linear-gradient(90deg, oklch(var(--light) var(--chroma) 250) 50%,
  oklch(var(--light) var(--chroma) 60) 50%); }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th, td { text-align: left; padding: .35rem .8rem .35rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
#replicas td:nth-child(-n+2) { white-space: nowrap; }
tr:last-child td { border-bottom: 0; }
th { color: var(--soft); font-weight: 600; position: sticky; top: -.4rem; background: var(--card); z-index: 1; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.long { max-height: 30rem; }
#losses tbody tr { cursor: pointer; }
.entry { padding: .5rem 0; border-bottom: 1px solid var(--line); }
.entry:last-child { border-bottom: 0; }
.remedy::before { content: "→ "; color: var(--accent); }
details summary { cursor: pointer; color: var(--accent); padding: .3rem 0; }
#lost { position: fixed; left: 0; right: 0; bottom: 0; background: var(--card); border-top: 1px solid var(--line);
  box-shadow: 0 -4px 18px #0002; padding: .6rem 1.5rem; min-height: 4.6rem; font-size: .92rem; z-index: 2; }
#lost > div { max-width: 1452px; margin: 0 auto; }
.node.gone { border-color: var(--bad); box-shadow: 0 0 0 1px var(--bad); }
.node.gone .bar { opacity: .3; }
.seg.stuck { outline: 2px solid var(--bad); outline-offset: -2px; }
.picked .seg:not(.chosen) { opacity: .16; }
.nothing::after { content: "nothing found"; color: var(--soft); font-size: .9rem; font-weight: 400;
  margin-left: .6rem; }
.nothing + .panel, .nothing + .legend { display: none; }
[hidden] { display: none !important; }
@media (max-width: 720px) { .fleet { grid-template-columns: 1fr; } .gpu { grid-template-columns: 7rem 1fr; }
  .gpu .size { display: none; } header, main { padding: 0 .8rem; } .chip { white-space: normal; }
  .right { margin: 0; width: 100%; } #find { flex: 1; min-width: 0; } #theme { white-space: nowrap; } }
@media print { #lost, .right { display: none; } body { padding: 0; } }
"""

SCRIPT = """
'use strict';
const all = (query, root = document) => [...root.querySelectorAll(query)];
const panel = document.getElementById('lost');
const idle = panel.innerHTML;
const nodes = new Map(all('.node').map(node => [node.dataset.node, node]));
const rows = new Map(all('#losses tbody tr').map(row => [row.dataset.node, row]));
let held = null;
function show(place) {
  all('.gone, .stuck').forEach(item => item.classList.remove('gone', 'stuck'));
  if (place === null) { panel.innerHTML = idle; return; }
  nodes.get(place)?.classList.add('gone');
  const row = rows.get(place);
  const hit = new Set((row?.dataset.models ?? '').split(' ').filter(Boolean));
  all('.seg').forEach(seg => seg.classList.toggle('stuck', hit.has(seg.dataset.model)));
  panel.firstElementChild.replaceChildren();
  const head = document.createElement('b');
  head.textContent = 'Without ' + (row?.cells[0].textContent ?? '');
  panel.firstElementChild.append(head);
  if (!row) { return; }
  const line = document.createElement('div');
  line.textContent = 'Replicas lost: ' + row.cells[2].textContent + '. Not served at first: '
    + row.cells[3].textContent + '. No room again for a minimum of: ' + row.cells[4].textContent + '.';
  panel.firstElementChild.append(line);
}
for (const [place, item] of [...nodes, ...rows]) {
  item.addEventListener('mouseenter', () => show(place));
  item.addEventListener('mouseleave', () => show(held));
  item.addEventListener('focus', () => show(place));
  item.addEventListener('blur', () => show(held));
  item.addEventListener('click', () => { held = held === place ? null : place; show(held); });
  item.addEventListener('keydown', event => {
    if (event.key === 'Enter' || event.key === ' ') { event.preventDefault(); item.click(); }
  });
}
const models = all('.legend button');
for (const button of models) {
  button.addEventListener('click', () => {
    const on = button.getAttribute('aria-pressed') !== 'true';
    models.forEach(other => other.setAttribute('aria-pressed', String(on && other === button)));
    document.body.classList.toggle('picked', on);
    all('.seg').forEach(seg => seg.classList.toggle('chosen', on && seg.dataset.model === button.dataset.model));
  });
}
document.getElementById('find').addEventListener('input', event => {
  const wanted = event.target.value.trim().toLowerCase();
  for (const item of all('.node, .legend li, #losses tbody tr, #replicas tbody tr, .entry')) {
    const text = (item.textContent + ' ' + (item.dataset.find ?? '')).toLowerCase();
    item.hidden = wanted !== '' && !text.includes(wanted);
  }
  for (const title of all('h2')) {
    const items = [];
    for (let next = title.nextElementSibling; next && !next.matches('h2'); next = next.nextElementSibling) {
      items.push(...all('.node, .legend li, tbody tr, .entry', next));
    }
    title.classList.toggle('nothing', items.length > 0 && items.every(item => item.hidden));
  }
});
document.getElementById('theme').addEventListener('click', () => {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === 'dark' : matchMedia('(prefers-color-scheme: dark)').matches;
  root.dataset.theme = dark ? 'light' : 'dark';
});
"""
