// What one text says differently from another, line by line.

import { el, note } from "./dom.js";

/** Lines that stay the same around a change, shown with it. */
const AROUND = 3;

/**
 * The lines of two texts as `{ sign, line }`: " " stands in both, "-" in the first alone, "+" in the second alone. The lines that
 * stay are a longest common subsequence, so the smallest number of lines is shown as changed.
 */
export function diff(before, after) {
  const [a, b] = [before, after].map((text) => text.replace(/\n$/, "").split("\n"));
  let from = 0;
  while (from < a.length && from < b.length && a[from] === b[from]) from++;
  let [endA, endB] = [a.length, b.length];
  while (endA > from && endB > from && a[endA - 1] === b[endB - 1]) { endA--; endB--; }
  const same = (lines) => lines.map((line) => ({ sign: " ", line }));
  return [...same(a.slice(0, from)), ...changed(a.slice(from, endA), b.slice(from, endB)), ...same(a.slice(endA))];
}

function changed(a, b) {
  const width = b.length + 1;
  // How many lines the rests behind two places have in common.
  const common = new Uint32Array((a.length + 1) * width);
  for (let i = a.length - 1; i >= 0; i--) {
    for (let j = b.length - 1; j >= 0; j--) {
      common[i * width + j] = a[i] === b[j] ? common[(i + 1) * width + j + 1] + 1 : Math.max(common[(i + 1) * width + j], common[i * width + j + 1]);
    }
  }
  const lines = [];
  let [i, j] = [0, 0];
  while (i < a.length || j < b.length) {
    if (i < a.length && j < b.length && a[i] === b[j]) {
      lines.push({ sign: " ", line: a[i] });
      i++;
      j++;
    } else if (j >= b.length || (i < a.length && common[(i + 1) * width + j] >= common[i * width + j + 1])) lines.push({ sign: "-", line: a[i++] });
    else lines.push({ sign: "+", line: b[j++] });
  }
  return lines;
}

/** The difference as a person reads it; long stretches that stay the same are left out. */
export function showDiff(before, after) {
  const lines = diff(before, after);
  if (lines.every(({ sign }) => sign === " ")) return note("The texts are the same.");
  const near = lines.map((_, at) => lines.slice(Math.max(0, at - AROUND), at + AROUND + 1).some(({ sign }) => sign !== " "));
  const shown = [];
  lines.forEach(({ sign, line }, at) => {
    if (near[at]) shown.push(el("tr", { class: { "+": "came", "-": "went" }[sign] }, el("td.sign", { "aria-label": { "+": "added", "-": "removed" }[sign] }, sign), el("td", line || " ")));
    else if (at === 0 || near[at - 1]) {
      const next = near.indexOf(true, at);
      shown.push(el("tr.gap", el("td.sign", "⋯"), el("td", `${(next < 0 ? lines.length : next) - at} lines that stay`)));
    }
  });
  return el("div.scroll.diff", el("table", { "aria-label": "What changes" }, el("tbody", shown)));
}
