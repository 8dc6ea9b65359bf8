// A result as a picture: bars for names, a line for times. Drawn in user units, so it needs no size to be known.

import { el, svg, empty } from "./dom.js";
import { count, isNumeric, isTime, time } from "./format.js";

const BARS_MAX = 40;
/** So many lines can be told apart by their colours. */
const LINES_MAX = 6;

/** A phone gets a narrower drawing rather than smaller letters. */
const narrow = matchMedia("(max-width: 700px)");
const widthNow = () => (narrow.matches ? 330 : 860);

/** The columns a chart can be made of, or null: one to lay out by, and the numbers. */
export function chartable({ columns, rows }) {
  const all = columns.map(({ name, type }, at) => ({ name, type, at }));
  const numbers = all.filter(({ type }) => isNumeric(type));
  const by = all.find(({ type }) => isTime(type)) ?? all.find(({ type }) => !isNumeric(type) && !/list|\[\]/i.test(type))
    ?? (numbers.length > 1 ? numbers[0] : null);
  const shown = numbers.filter((number) => number !== by);
  return by && shown.length && rows.length ? { by: { ...by, series: seriesOf(all, by, rows) }, numbers: shown } : null;
}

/** Over times that come several times, the column that tells their rows apart: each of its values is a line of its own. */
function seriesOf(columns, by, rows) {
  if (!isTime(by.type) || new Set(rows.map((row) => row[by.at])).size === rows.length) return null;
  return columns.find((column) => column !== by && !isNumeric(column.type) && !isTime(column.type) && !/list|\[\]/i.test(column.type)
    && new Set(rows.map((row) => row[column.at])).size <= LINES_MAX) ?? null;
}

export function chart({ rows }, by, number) {
  const series = (row) => (by.series ? String(row[by.series.at] ?? "null") : number.name);
  const points = rows.map((row) => ({ at: row[by.at], of: Number(row[number.at] ?? NaN), series: series(row) })).filter(({ of }) => Number.isFinite(of));
  if (!points.length) return empty("The column has no numbers to draw.");
  return isTime(by.type) ? lines(points, number.name, Boolean(by.series)) : bars(points, number.name);
}

function bars(points, label) {
  const shown = points.slice(0, BARS_MAX);
  const top = Math.max(...shown.map(({ of }) => of), 0);
  const low = Math.min(...shown.map(({ of }) => of), 0);
  const width = widthNow();
  const left = narrow.matches ? 112 : 190, right = 70, row = 24;
  const letters = narrow.matches ? 14 : 26;
  const x = (of) => left + ((of - low) / (top - low || 1)) * (width - left - right);
  const parts = shown.map(({ at, of }, index) => {
    const y = index * row + 4;
    const name = String(Array.isArray(at) ? at.join(", ") : at ?? "null");
    return [
      svg("text.label", { x: left - 8, y: y + 13, "text-anchor": "end" }, name.length > letters ? `${name.slice(0, letters - 1)}…` : name),
      svg("rect.bar", { x: Math.min(x(0), x(of)), y, width: Math.max(1, Math.abs(x(of) - x(0))), height: row - 7, rx: 2 }, svg("title", `${name}: ${of}`)),
      svg("text.amount", { x: Math.max(x(0), x(of)) + 6, y: y + 13 }, amount(of)),
    ];
  });
  return el("figure", svg("svg.chart", { viewBox: `0 0 ${width} ${shown.length * row + 6}`, role: "img", "aria-label": `Bars of ${label}` }, parts),
    points.length > BARS_MAX && el("figcaption.note", `The first ${BARS_MAX} of ${count(points.length)} rows.`));
}

function lines(points, label, isNamed) {
  const sorted = points.map((point) => ({ ...point, t: Date.parse(point.at) })).filter(({ t }) => Number.isFinite(t)).sort((a, b) => a.t - b.t);
  if (!sorted.length) return empty("The column has no times to draw.");
  const width = widthNow();
  const height = 260, left = narrow.matches ? 48 : 70, right = 16, top = 12, bottom = 28;
  const marks = ticks(Math.min(0, ...sorted.map(({ of }) => of)), Math.max(...sorted.map(({ of }) => of), 0));
  const [low, high] = [marks[0], marks.at(-1)];
  const [first, last] = [sorted[0].t, sorted.at(-1).t];
  const x = (t) => left + ((t - first) / (last - first || 1)) * (width - left - right);
  const y = (of) => height - bottom - ((of - low) / (high - low || 1)) * (height - top - bottom);
  const grid = marks.map((mark) => [
    svg("line.grid", { x1: left, x2: width - right, y1: y(mark), y2: y(mark) }),
    svg("text.amount", { x: left - 8, y: y(mark) + 4, "text-anchor": "end" }, amount(mark)),
  ]);
  const ends = [["start", left, sorted[0]], ["end", width - right, sorted.at(-1)]].map(([anchor, at, point]) =>
    svg("text.label", { x: at, y: height - 8, "text-anchor": anchor }, narrow.matches ? time(point.at).slice(0, 16) : time(point.at)));
  const names = [...new Set(sorted.map(({ series }) => series))].sort();
  const drawn = names.map((name, index) => {
    const own = sorted.filter(({ series }) => series === name);
    const dots = sorted.length <= 120 ? own.map((point) =>
      svg("circle.dot", { cx: x(point.t), cy: y(point.of), r: 3 }, svg("title", `${isNamed ? `${name}, ` : ""}${time(point.at)}: ${point.of}`))) : [];
    return svg(`g.series.of${index}`, svg("polyline.curve", { points: own.map((point) => `${x(point.t).toFixed(1)},${y(point.of).toFixed(1)}`).join(" ") }), dots);
  });
  const legend = isNamed && el("figcaption.legend", names.map((name, index) => el(`span.of${index}`, name)));
  return el("figure", svg("svg.chart", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `Line of ${label}` }, grid, ends, drawn), legend);
}

/** Round numbers from below the least to above the most. */
function ticks(low, high) {
  const rough = (high - low || 1) / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((each) => each * power).find((each) => each >= rough);
  const marks = [];
  for (let at = Math.floor(low / step); at <= Math.ceil(high / step); at++) marks.push(at * step);
  return marks;
}

const amount = (of) => (Number.isInteger(of) ? count(of) : Math.abs(of) < 1000 ? String(Number(of.toPrecision(4))) : count(of.toFixed(1)));
