"""The style sheet of the report.

Colours are told apart by people with the common forms of colour blindness (after
Okabe and Ito 2008 and Tol 2021), in light and in dark mode, and a marker shape goes
with every colour.
"""

from __future__ import annotations

STYLE = """
:root {
  --mono: ui-monospace, "SF Mono", Consolas, "DejaVu Sans Mono", monospace;
  --page: #fbfbf9; --card: #ffffff; --ink: #1b1e23; --soft: #5b626d; --rule: #e2e3df; --grid: #ecece8;
  --quiet: #a3a9b2; --accent: #0b5cad; --good: #00704f; --bad: #a33c00; --good-bg: #e2f3ec; --bad-bg: #fbebe1;
  --mute-bg: #eeeeea; --shade: rgb(30 30 20 / .16);
  --c1: #0072b2; --c2: #d55e00; --c3: #00916a; --c4: #aa4499; --c5: #b8860b; --c6: #3aa3dc; --c7: #882255;
}
@media screen and (prefers-color-scheme: dark) {
  :root {
    --page: #14171b; --card: #1b1f24; --ink: #eceef0; --soft: #a2aab4; --rule: #30363e; --grid: #262b32;
    --quiet: #6d7681; --accent: #7db8f2; --good: #5fd6ab; --bad: #ffa06b; --good-bg: #12362b; --bad-bg: #402413;
    --mute-bg: #2a3037; --shade: rgb(0 0 0 / .55);
    --c1: #56a8e8; --c2: #ff8a45; --c3: #3ccf9f; --c4: #e08fd2; --c5: #e8bf4a; --c6: #9fd8fa; --c7: #d7759f;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "DejaVu Sans", sans-serif;
}
main { max-width: 1200px; margin: 0 auto; padding: 40px 24px 80px; }
.kicker { margin: 0; color: var(--accent); font-weight: 600; font-size: 13px; letter-spacing: .08em;
  text-transform: uppercase; }
h1 { margin: 4px 0 0; font-size: 34px; line-height: 1.2; letter-spacing: -.01em; overflow-wrap: anywhere; }
h2 { margin: 0 0 12px; font-size: 21px; letter-spacing: -.005em; }
h3 { margin: 22px 0 6px; font-size: 16px; }
section { margin-top: 44px; }
p, li { max-width: 84ch; }
p.caption { max-width: 112ch; color: var(--soft); font-size: 14px; margin: 10px 0 0; }
.lead { font-size: 20px; line-height: 1.5; margin: 0 0 10px; max-width: 68ch; }
#section-result { margin-top: 26px; }
#section-result h2, #section-facts h2 { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path:
  inset(50%); }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(132px, 1fr)); gap: 1px; margin: 0;
  background: var(--card); border: 1px solid var(--rule); border-radius: 10px; overflow: hidden; }
.facts .wide { grid-column: span 2; }
.facts div { box-shadow: 0 0 0 1px var(--rule); background: var(--card); padding: 12px 16px; }
.facts dt { color: var(--soft); font-size: 13px; }
.facts dd { margin: 2px 0 0; font-weight: 600; font-size: 17px; overflow-wrap: anywhere; }
#section-facts { margin-top: 26px; }
.card, .scroll { background: var(--card); border: 1px solid var(--rule); border-radius: 10px; }
.scroll { overflow-x: auto; padding: 12px 10px 8px; background:
  linear-gradient(to right, var(--card) 40%, transparent) left / 40px 100% no-repeat local,
  linear-gradient(to left, var(--card) 40%, transparent) right / 40px 100% no-repeat local,
  linear-gradient(to right, var(--shade), transparent) left / 12px 100% no-repeat,
  linear-gradient(to left, var(--shade), transparent) right / 12px 100% no-repeat, var(--card); }
.figure { background: var(--card); border: 1px solid var(--rule); border-radius: 10px; padding: 12px 14px; }
.panels { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 330px), 1fr)); gap: 8px 14px;
  overflow: hidden; }
.axis-title { margin: 0 0 4px; color: var(--soft); font-size: 13px; max-width: none; }
.scroll:focus-visible, .figure:focus-visible { outline: 2px solid var(--accent); }
table { border-collapse: collapse; width: 100%; font-size: 14px; font-variant-numeric: tabular-nums; }
th { text-align: left; color: var(--soft); font-weight: 600; font-size: 12.5px; vertical-align: bottom;
  line-height: 1.3;
  padding: 4px 8px 8px; border-bottom: 1px solid var(--rule); }
th button { all: unset; cursor: pointer; }
th button:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
[aria-sort] button::after { content: " ▲"; font-size: 9px; } [aria-sort=descending] button::after { content: " ▼"; }
td { padding: 7px 8px; border-bottom: 1px solid var(--grid); vertical-align: top; }
tr:last-child td { border-bottom: 0; }
.number { text-align: right; white-space: nowrap; }
.range { display: block; color: var(--soft); font-size: 12px; white-space: nowrap; }
.name { min-width: 170px; }
.name b { font-weight: 600; overflow-wrap: anywhere; }
.notation { display: block; color: var(--soft); font: 11.5px/1.4 var(--mono);
  overflow-wrap: anywhere; max-width: 300px; }
tr.divider td { background: var(--mute-bg); color: var(--soft); font-size: 13px; padding: 6px 10px; }
tr.ink td { background: color-mix(in srgb, var(--ink) 5%, transparent); }
tr.hot td { background: color-mix(in srgb, var(--accent) 11%, transparent); }
.verdict { display: inline-block; padding: 1px 9px; border-radius: 99px; background: var(--mute-bg); color:
  var(--soft);
  font-size: 12.5px; white-space: nowrap; }
.verdict.better { background: var(--good-bg); color: var(--good); font-weight: 600; }
.verdict.worse, .verdict.failed { background: var(--bad-bg); color: var(--bad); font-weight: 600; }
.verdict.yardstick { background: var(--ink); color: var(--page); font-weight: 600; }
.ink { --c: var(--ink); } .quiet { --c: var(--quiet); }
.c1 { --c: var(--c1); } .c2 { --c: var(--c2); } .c3 { --c: var(--c3); } .c4 { --c: var(--c4); }
.c5 { --c: var(--c5); } .c6 { --c: var(--c6); } .c7 { --c: var(--c7); }
.swatch { width: 16px; height: 16px; vertical-align: -3px; margin-right: 6px; fill: var(--c); }
.quiet .swatch, .swatch.quiet { fill: none; stroke: var(--c); stroke-width: 1.5; }
svg.plot { display: block; width: 100%; max-width: calc(var(--units) * 1.15px); height: auto; font-size: 13px; }
svg.forest { display: block; width: 132px; height: 20px; }
.legend { display: flex; flex-wrap: wrap; gap: 2px 18px; max-width: none; margin: 8px 0 0; font-size: 13px; }
.legend.narrow { display: none; }
.legend .entry { overflow-wrap: anywhere; }
.row-name { fill: var(--ink); font-weight: 600; }
.grid { stroke: var(--grid); } .axis { stroke: var(--soft); } .zero { stroke: var(--soft); stroke-dasharray: 2 2; }
.tick { fill: var(--soft); } .axis-name { fill: var(--soft); } .panel-name { fill: var(--ink); font-weight: 600;
  font-size: 14px; }
.middle { text-anchor: middle; } .end { text-anchor: end; }
.series { transition: opacity .12s; }
.series .line { fill: none; stroke: var(--c); stroke-width: 2; stroke-linejoin: round; }
.series .thin { stroke-width: 1.3; opacity: .75; }
.series.ink .line { stroke-width: 3.2; } .series.ink .thin { stroke-width: 1.8; opacity: .9; }
.series.quiet .line { stroke-width: 1; opacity: .8; }
.series .dot { fill: var(--c); stroke: var(--card); stroke-width: 1.2; }
.series.quiet .dot { fill: var(--card); stroke: var(--c); stroke-width: 1.3; }
.series .hollow { fill: var(--card); stroke: var(--c); stroke-width: 1.6; }
.series .faint { fill: var(--c); opacity: .38; }
.series .bar { stroke: var(--c); stroke-width: 2; opacity: .55; stroke-linecap: round; }
.series .label { fill: var(--c); font-weight: 600; paint-order: stroke; stroke: var(--card); stroke-width: 4px;
  stroke-linejoin: round; }
.series.quiet .label { font-weight: 400; fill: var(--soft); }
.series .leader { fill: none; stroke: var(--c); opacity: .5; }
.series .badge { fill: var(--c); stroke: var(--card); stroke-width: 1.2; }
.series.quiet .badge { fill: var(--card); stroke: var(--c); stroke-width: 1.4; }
.badge-text { fill: var(--card); font-size: 10px; font-weight: 700; pointer-events: none; }
.median { stroke: var(--soft); stroke-width: 1.5; stroke-dasharray: 4 3; }
.lit .plot .series { opacity: .16; } .lit .plot .series.hot { opacity: 1; }
.lit .plot .series.hot.quiet { --c: var(--ink); }
#tip { position: fixed; z-index: 9; max-width: 420px; padding: 8px 12px; border-radius: 8px; pointer-events: none;
  background: var(--ink); color: var(--page); font-size: 13px; line-height: 1.45; overflow-wrap: anywhere;
  box-shadow: 0 4px 18px rgb(0 0 0 / .25); }
#tip[hidden] { display: none; }
pre, code { font: 13px/1.5 var(--mono); }
pre { margin: 0; padding: 14px 16px; white-space: pre-wrap; overflow-wrap: anywhere; }
td pre { padding: 0; font-size: 12px; }
.columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(270px, 1fr)); gap: 14px; }
.columns .card { padding: 14px 18px; } .columns h3 { margin: 0 0 4px; } .columns p { margin: 0; font-size: 14.5px; }
details summary { cursor: pointer; color: var(--accent); margin: 8px 0; }
@media screen and (max-width: 820px) {
  .legend.narrow { display: flex; } .end-label { display: none; }
  svg.plot { width: calc(100% * var(--units) / var(--shown)); max-width: none;
    font-size: max(12px, calc(var(--shown) * 10px / 330)); }
}
@media (max-width: 640px) {
  main { padding: 24px 14px 60px; } h1 { font-size: 26px; } .lead { font-size: 18px; }
  .facts { grid-template-columns: 1fr 1fr; } .name { min-width: 118px; } td, th { padding-left: 5px; padding-right: 5px; }
}
@media print {
  @page { margin: 12mm; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  :root { --page: #fff; } body { font-size: 11px; } main { max-width: none; padding: 0; }
  p, p.caption { max-width: none; font-size: 10px; } .lead { font-size: 14px; max-width: none; }
  h1 { font-size: 24px; } h2 { font-size: 15px; } section { margin-top: 20px; }
  h2, h3 { break-after: avoid; } tr, .figure, .card, .facts { break-inside: avoid; }
  .scroll { overflow: visible; padding: 4px; background: none; border-radius: 0; }
  table { font-size: 8.5px; } th, td { padding: 3px 4px; } th, .verdict { font-size: 8px; }
  tr.divider td { font-size: 8.5px; } .name { min-width: 0; }
  .notation, .range { font-size: 7px; } .number, .range { white-space: normal; }
  svg.forest { width: 84px; } .verdict { padding: 0 5px; } pre { font-size: 8.5px; }
  .panels { grid-template-columns: repeat(auto-fit, minmax(200px, 1fr)); } .legend { font-size: 10px; }
}
"""
