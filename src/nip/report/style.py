"""The report's style sheet and the script of its chart read-out, both embedded in the page."""

from __future__ import annotations

STYLE = """
:root {
  color-scheme: light dark;
  --page: #fbfaf8; --card: #ffffff; --ink: #1d2230; --soft: #5b6272; --faint: #e4e2dc; --accent: #0b5fa5;
  --good: #146c43; --good-ground: #e2f3e9; --open: #7a4b00; --open-ground: #fbefd9;
  --c0: #0072b2; --c1: #d55e00; --c2: #00845f; --c3: #b0558a; --c4: #a87400; --c5: #3a9bd1; --c6: #5a5a5a;
}
@media (prefers-color-scheme: dark) { :root {
  --page: #12151c; --card: #1a1e27; --ink: #e9eaee; --soft: #a2a8b6; --faint: #2e3441; --accent: #7cbcf2;
  --good: #86d9ac; --good-ground: #16362a; --open: #f0c47a; --open-ground: #3a2c12;
  --c0: #4aa8e8; --c1: #f28a45; --c2: #35c79c; --c3: #dd8fbd; --c4: #e3b341; --c5: #8ccff5; --c6: #b5b5b5;
} }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 40px 24px 64px; }
header .kind { color: var(--soft); font-size: 14px; margin: 0; }
h1 { font-size: clamp(28px, 4.4vw, 42px); line-height: 1.15; letter-spacing: -0.02em; margin: 4px 0 28px; }
h2 { font-size: 22px; line-height: 1.25; letter-spacing: -0.01em; margin: 56px 0 6px; }
h3 { font-size: 16px; margin: 28px 0 8px; }
h1, h2, h3, p, li { overflow-wrap: anywhere; }
p { margin: 0 0 12px; max-width: 72ch; }
.quiet, .lead + ul { color: var(--soft); }
.quiet { font-size: 15px; }
.finding { display: grid; grid-template-columns: minmax(0, 1.1fr) minmax(0, 1fr); gap: 20px 48px; align-items: start;
  margin-bottom: 28px; }
.lead { font-size: clamp(18px, 2vw, 21px); line-height: 1.45; }
.finding ul { padding-left: 1.1em; margin: 0; font-size: 15px; max-width: 68ch; }
.finding li { margin-bottom: 6px; }
figure { margin: 0; }
figcaption { font-size: 14px; font-weight: 600; margin-bottom: 4px; }
.charts { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 20px; }
.chart { position: relative; background: var(--card); border: 1px solid var(--faint); border-radius: 10px;
  padding: 14px 14px 8px; min-width: 0; break-inside: avoid; }
.chart svg { display: block; width: 100%; height: auto; touch-action: pan-y; }
svg text { font-size: 13px; fill: var(--soft); font-variant-numeric: tabular-nums; }
svg .end { text-anchor: end; } svg .middle { text-anchor: middle; }
svg .strong { fill: var(--ink); font-weight: 600; font-size: 14px; }
svg .grid { stroke: var(--faint); stroke-width: 1; } svg .axis { stroke: var(--soft); stroke-width: 1; }
svg .reference { stroke: var(--soft); stroke-width: 1.3; stroke-dasharray: 5 4; }
svg .reference-label { font-size: 12px; }
svg .cursor { stroke: var(--soft); stroke-width: 1; visibility: hidden; }
.curve { fill: none; stroke: var(--colour); stroke-width: 2.2; stroke-linejoin: round; stroke-linecap: round; }
.dots { fill: none; stroke: var(--colour); stroke-width: 5.5; stroke-linecap: round; }
.train .curve { stroke-width: 1.1; opacity: 0.5; }
.whisker { stroke: var(--colour); stroke-width: 5; stroke-linecap: round; opacity: 0.4; }
.dot { fill: var(--colour); }
.colour-0 { --colour: var(--c0); } .colour-1 { --colour: var(--c1); } .colour-2 { --colour: var(--c2); }
.colour-3 { --colour: var(--c3); } .colour-4 { --colour: var(--c4); } .colour-5 { --colour: var(--c5); }
.colour-6 { --colour: var(--c6); }
.dash-1 .curve { stroke-dasharray: 9 4; } .dash-2 .curve { stroke-dasharray: 2 5; }
.hidden { display: none; }
.legend { display: flex; flex-wrap: wrap; gap: 6px 20px; margin: 10px 0 14px; font-size: 14px; }
.legend label { display: inline-flex; align-items: center; gap: 7px; cursor: pointer; min-height: 28px; }
.legend input { accent-color: var(--colour, var(--soft)); margin: 0; width: 16px; height: 16px; }
.swatch { display: inline-block; flex: none; width: 12px; height: 12px; border-radius: 50%; background: var(--colour); }
.read-out { position: absolute; z-index: 2; top: 36px; padding: 8px 10px; border-radius: 8px; font-size: 13px;
  line-height: 1.45; background: var(--card); border: 1px solid var(--faint); pointer-events: none;
  box-shadow: 0 4px 16px rgb(0 0 0 / 0.16); white-space: nowrap; font-variant-numeric: tabular-nums; }
.read-out div { display: flex; align-items: center; gap: 7px; }
.scroll { overflow-x: auto; margin: 14px 0; background: var(--card); border: 1px solid var(--faint);
  border-radius: 10px; }
table { border-collapse: collapse; width: 100%; font-size: 14px; font-variant-numeric: tabular-nums; }
.caption { font-size: 15px; font-weight: 600; margin: 18px 0 -6px; }
th, td { padding: 9px 12px; text-align: right; white-space: nowrap; border-top: 1px solid var(--faint); }
thead th { font-weight: 600; font-size: 13px; color: var(--soft); vertical-align: bottom; border-top: 0;
  line-height: 1.3; white-space: normal; }
th:first-child { text-align: left; position: sticky; left: 0; background: var(--card); z-index: 1; }
tbody th { font-weight: 600; white-space: normal; overflow-wrap: break-word; min-width: 150px;
  max-width: 320px; }
td.text, th.text { text-align: left; }
td small, th small { display: block; color: var(--soft); font-weight: 400; font-size: 12.5px; }
tbody th .swatch { margin-right: 8px; }
.badge { display: inline-block; padding: 1px 9px; border-radius: 99px; font-size: 13px; font-weight: 600; }
.badge.yes { color: var(--good); background: var(--good-ground); }
.badge.no { color: var(--soft); background: var(--faint); }
.badge.open { color: var(--open); background: var(--open-ground); }
.masks { display: grid; grid-template-columns: repeat(4, minmax(0, 1fr)); gap: 24px; margin: 16px 0; }
.mask svg { display: block; width: 100%; height: auto; border: 1px solid var(--faint); border-radius: 4px; }
.mask .paper { fill: var(--card); } .mask .attended { fill: var(--accent); }
.mask figcaption { font-weight: 400; margin-top: 6px; }
pre .piece { white-space: nowrap; }
.mask figcaption { overflow-wrap: anywhere; }
.mask span { display: block; color: var(--soft); font-size: 13px; }
h3 .swatch { margin-right: 8px; }
summary { cursor: pointer; font-size: 15px; min-height: 28px; margin-bottom: 8px; }
.pair code { display: block; color: var(--ink); }
pre { overflow-x: auto; white-space: pre-wrap; overflow-wrap: anywhere; margin: 8px 0 16px; padding: 12px 14px;
  border-radius: 8px; font-size: 13px; line-height: 1.5;
  background: var(--card); border: 1px solid var(--faint);
  font-family: ui-monospace, "SF Mono", Menlo, Consolas, monospace; }
code { font-family: ui-monospace, "SF Mono", Menlo, Consolas, monospace; font-size: 0.92em; overflow-wrap: anywhere; }
footer { margin-top: 48px; padding-top: 16px; border-top: 1px solid var(--faint); color: var(--soft); font-size: 14px; }
@media screen and (max-width: 820px) {
  main { padding: 24px 16px 48px; }
  .finding, .charts { grid-template-columns: minmax(0, 1fr); }
  .chart { padding: 12px 8px 6px; }
  svg text { font-size: 15px; } svg .reference-label { font-size: 13px; } svg .strong { font-size: 16px; }
  .masks { grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 16px; }
  th, td { padding: 9px 10px; } tbody th { max-width: 46vw; overflow-wrap: anywhere; }
}
@media print {
  :root { color-scheme: light; --page: #fff; --card: #fff; --ink: #000; --soft: #444; --faint: #ccc; --accent: #0b5fa5;
    --good: #146c43; --good-ground: #e2f3e9; --open: #7a4b00; --open-ground: #fbefd9;
    --c0: #0072b2; --c1: #d55e00; --c2: #00845f; --c3: #b0558a; --c4: #a87400; --c5: #3a9bd1; --c6: #5a5a5a; }
  * { print-color-adjust: exact; }
  body { font-size: 10pt; } main { max-width: none; padding: 0; }
  .scroll { overflow: visible; border: 0; } table { font-size: 7.5pt; }
  th, td { padding: 3px 5px; } thead th, td small, th small, .badge { font-size: 7pt; } .badge { padding: 0 5px; }
  tbody th { min-width: 0; } .masks { gap: 12px; }
  .finding, .charts { gap: 12px; } h2 { margin-top: 28px; }
  h2, h3 { break-after: avoid; } tr, .mask { break-inside: avoid; }
  .legend input { display: none; }
}
"""

SCRIPT = """
"use strict";
// The curves' values under the pointer. All text goes in as text, never as markup.
const nearest = (points, x) => points.reduce((a, b) => Math.abs(b[0] - x) < Math.abs(a[0] - x) ? b : a);
for (const figure of document.querySelectorAll(".charts .chart")) {
  const svg = figure.querySelector("svg");
  if (!svg) continue;
  const curves = [...svg.querySelectorAll(".series")].map((group) => ({
    group, label: group.dataset.label, points: JSON.parse(group.dataset.points)
  }));
  const cursor = svg.querySelector(".cursor");
  const readOut = document.createElement("div");
  readOut.className = "read-out hidden";
  figure.append(readOut);
  const leave = () => { readOut.classList.add("hidden"); cursor.style.visibility = "hidden"; };
  svg.addEventListener("pointerleave", leave);
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const x = (event.clientX - box.left) * svg.viewBox.baseVal.width / box.width;
    const near = curves
      .filter((curve) => curve.points.length && !curve.group.classList.contains("hidden"))
      .map((curve) => ({ ...curve, point: nearest(curve.points, x) }))
      .filter((curve) => Math.abs(curve.point[0] - x) < 40);
    if (!near.length) return leave();
    const at = nearest(near.map((curve) => curve.point), x);
    cursor.setAttribute("x1", at[0]);
    cursor.setAttribute("x2", at[0]);
    cursor.style.visibility = "visible";
    readOut.replaceChildren();
    const head = document.createElement("b");
    head.textContent = svg.dataset.x + " " + at[2];
    readOut.append(head);
    for (const { group, label, point } of near) {
      const row = document.createElement("div"), swatch = document.createElement("span");
      swatch.className = "swatch";
      swatch.style.background = getComputedStyle(group).getPropertyValue("--colour");
      row.append(swatch, label + ": " + point[3] + (point[2] === at[2] ? "" : " (at " + point[2] + ")"));
      readOut.append(row);
    }
    readOut.classList.remove("hidden");
    const room = figure.clientWidth - readOut.offsetWidth - 8;
    const beside = event.clientX - figure.getBoundingClientRect().left + 16;
    readOut.style.left = Math.max(8, beside > room ? beside - readOut.offsetWidth - 32 : beside) + "px";
  });
}
// The legend's boxes show and hide a run's curves, or all training curves.
const redraw = () => {
  for (const group of document.querySelectorAll(".series")) {
    const off = [...document.querySelectorAll(".legend input:not(:checked)")].some((box) =>
      group.classList.contains(box.value));
    group.classList.toggle("hidden", off);
  }
};
for (const box of document.querySelectorAll(".legend input")) box.addEventListener("change", redraw);
redraw();
"""
