// The graph view: every node in the layer below its inputs, with its current rates.
//
// Layers go down the page, so that a phone shows the same picture as a desktop. An edge that passes a layer gets a lane
// in it, so that no edge runs behind a node.

import { card, el, empty, facts, fill, note, refresh, svg, table } from "./dom.js";
import { compact, count, quantity, rate, share, span, time } from "./format.js";
import * as status from "./status.js";

const WIDTH = 176, HEIGHT = 50, LANE = 16, GAP_X = 18, GAP_Y = 30;
/** Fields of a node that the page formats itself; any other field is shown under its name. */
const KNOWN = ["name", "kind", "role", "summary", "table", "inputs", "rows", "busy_us", "lag_us", "state"];
/** A node with a greater lag is marked. */
const LATE_US = 2_000_000;

export async function showGraph(main, _, signal) {
  let chosen = null;
  let drawn = null;
  const picture = el("div.picture");
  const detail = el("div");
  const tiles = el("div.tiles");
  const list = el("div");
  const choose = (name) => {
    chosen = chosen === name ? null : name;
    update();
  };
  const update = () => {
    const now = status.latest();
    if (!now) return;
    if (!main.contains(picture)) {
      fill(main, el("div.head", el("h1", "Graph"), note(where(now))), tiles, el("div.beside", card("Flow", picture), el("div.stack", detail, card("Nodes", list))));
    }
    const nodes = now.nodes.map((node) => measured(node, now));
    refresh(tiles, tilesOf(now));
    if (!nodes.length) {
      return fill(picture, empty("This topology has no nodes that report."));
    }
    if (drawn?.shape !== shapeOf(now)) {
      drawn = draw(now, choose);
      fill(picture, drawn.picture);
      picture.scrollLeft = (picture.scrollWidth - picture.clientWidth) / 2;
    }
    for (const node of nodes) drawn.show(node, node.name === chosen);
    drawn.light(chosen);
    fill(detail, chosen ? detailOf(nodes.find((node) => node.name === chosen), now) : "");
    showList(list, nodes, choose, chosen);
  };
  status.onStatus(update, signal);
  update();
}

const shapeOf = ({ nodes }) => JSON.stringify(nodes.map(({ name, kind, inputs }) => [name, kind, inputs]));

/** A node with its rates, and a sink with what it has committed. */
function measured(node, now) {
  const own = (key) => (sample) => sample.nodes.find(({ name }) => name === node.name)?.[key];
  const busy = status.growth(own("busy_us"));
  return {
    ...node, rate: status.growth(own("rows")), busy: busy === null ? null : busy / 1e6, line: status.growths(own("rows")),
    committed: node.role === "sink" ? now.committed : null,
  };
}

function tilesOf(now) {
  const tile = (name, big, ...small) => el("div.tile", el("h2", name), el("strong", big), el("p", small));
  const admitted = status.growth(({ counts }) => counts.admitted);
  const sum = ({ counts }) => Object.values(counts.quarantined).reduce((all, each) => all + Number(each), 0);
  const behind = now.committed && (Date.parse(now.time) - Date.parse(now.committed.time)) * 1000;
  const { readiness } = status;
  return [
    tile("Admission", rate(admitted), `${count(now.counts.admitted)} admitted, ${count(now.counts.duplicate)} duplicate since the start`),
    tile("Quarantine", rate(status.growth(sum)), el("a", { href: "#/quarantine" }, `${count(sum(now))} refused`)),
    tile("Lag", !Number.isFinite(readiness?.lag_us) ? "–" : span(readiness.lag_us), readiness?.reason ?? (now.ready ? "caught up" : "catching up")),
    tile("Commit", now.committed ? `#${now.committed.number}` : "–", !now.committed ? "nothing is committed yet" : behind > 0 ? `${span(behind)} of event time behind` : "up to the present"),
    tile("Clock", now.clock === "event" ? "event time" : now.clock, `tick ${now.tick}`),
    tile("Up for", span(now.uptime_us), `${now.version} · ${many(now.workers, "worker")} · ${many(now.partitions, "partition")}`),
  ];
}

/** The file of the topology and the data folder of the service. */
const where = ({ file, data }) => (file ? [el("code", file), " on ", el("code", data)] : "");

const many = (of, what) => `${of} ${what}${of === 1 ? "" : "s"}`;

function detailOf(node, now) {
  if (!node) return "";
  const outputs = now.nodes.filter(({ inputs }) => inputs.includes(node.name)).map(({ name }) => name);
  const { committed } = node;
  const others = Object.keys(node).filter((key) => ![...KNOWN, "rate", "busy", "line", "committed"].includes(key));
  return card(node.name, facts(
    ["kind", kindOf(node)],
    ["from", node.inputs.join(", ") || "outside"],
    ["to", outputs.join(", ") || (node.table ? `the table ${node.table}` : "nothing")],
    ["rows", `${count(node.rows)} (${rate(node.rate)})`],
    ["busy", `${share(node.busy)} now, ${span(node.busy_us)} in all`],
    node.rows > 0 && ["cost", `${(node.busy_us / node.rows).toPrecision(3)} µs a row`],
    lagOf(node) !== null && ["lag", `${span(lagOf(node))} behind what was fed`],
    ...Object.entries(stateOf(node)).map(([key, held]) => [`held: ${key.replaceAll("_", " ")}`, quantity(key, held)]),
    committed && ["committed", `#${committed.number} to ${time(committed.time)}`],
    ...others.map((key) => [key.replace(/_(us|bytes)$/, "").replaceAll("_", " "), plain(key, node[key])]),
  ));
}

/** The kind of a node. Callers' records come from a source that no topology declares, so it has none. */
const kindOf = ({ kind, role }) => kind ?? `${role} of callers' records`;

const plain = (key, of) => (typeof of === "number" ? quantity(key, of) : typeof of === "object" ? JSON.stringify(of) : of);

/** The lag of a node, if the service reports one. */
const lagOf = ({ lag_us }) => (Number.isFinite(lag_us) ? lag_us : null);

/** The size of a node's state, by quantity; a single number means rows. */
function stateOf({ state }) {
  if (Number.isFinite(state)) return { rows: state };
  return Object.fromEntries(Object.entries(state ?? {}).filter(([, held]) => Number.isFinite(held)));
}

/** The rows in a node's state, abbreviated. */
function held(node) {
  const { rows } = stateOf(node);
  return rows ? compact(rows) : null;
}

function showList(list, nodes, choose, chosen) {
  const lags = nodes.some((node) => lagOf(node) !== null);
  const holds = nodes.some((node) => held(node) !== null);
  const columns = [
    { name: "node", cell: ({ name }) => name },
    // The picture shows it too, and the table is narrow.
    !lags && { name: "kind", cell: (node) => note(kindOf(node)) },
    { name: "rows", numeric: true, cell: ({ rows }) => count(rows) },
    { name: "rate", numeric: true, cell: (node) => rate(node.rate) },
    { name: "last minute", cell: ({ line }) => spark(line) },
    { name: "busy", numeric: true, cell: ({ busy }) => share(busy) },
    lags && { name: "lag", numeric: true, cell: (node) => (lagOf(node) === null ? "" : span(lagOf(node))) },
    holds && { name: "holds", numeric: true, cell: (node) => held(node) ?? "" },
  ].filter(Boolean);
  const rows = list.querySelectorAll("tbody tr");
  const same = rows.length === nodes.length && nodes.every(({ name }, at) => rows[at].dataset.key === name);
  // Rows stay, and with them the focus and a click in progress; only their cells change.
  if (!same) fill(list, table(columns, nodes, { label: "Nodes", open: ({ name }) => choose(name), key: ({ name }) => name }));
  else nodes.forEach((node, row) => columns.forEach(({ cell }, at) => fill(rows[row].cells[at], cell(node))));
  for (const row of list.querySelectorAll("tbody tr")) row.classList.toggle("chosen", row.dataset.key === chosen);
}

function spark(values) {
  const some = values.slice(-60).map((value) => value ?? 0);
  const top = Math.max(...some, 1e-9);
  const points = some.map((value, at) => `${at + 1},${(17 - (value / top) * 15).toFixed(1)}`);
  return svg("svg.spark", { viewBox: "0 0 62 19", width: 62, height: 19, "aria-hidden": "true" },
    svg("polyline", { points: points.join(" ") }));
}

/** The class that colours a node. */
const colourOf = ({ role, summary }) => ({ decisions: "decide", episodes: "seal" })[summary] ?? (role === "operator" ? "step" : role);

/** The picture, and functions that update it without drawing it again. */
function draw({ nodes }, choose) {
  const { positions, edges, width, height } = layOut(nodes);
  // On a phone a wide graph scrolls sideways, so that its text stays readable.
  const scale = matchMedia("(max-width: 700px)").matches ? 0.84 : 1;
  const paths = edges.map((edge) => {
    const points = edge.through.map((id) => positions.get(id));
    return { edge, path: svg("path.edge", { d: curve(points), "marker-end": "url(#to)" }) };
  });
  const boxes = new Map(nodes.map((node) => [node.name, box(node, positions.get(node.name), choose)]));
  const marker = svg("marker", { id: "to", viewBox: "0 0 8 8", refX: 7, refY: 4, markerWidth: 8, markerHeight: 8, markerUnits: "userSpaceOnUse", orient: "auto" },
    svg("path", { d: "M0 0 L8 4 L0 8 z" }));
  return {
    shape: shapeOf({ nodes }),
    picture: svg("svg", { viewBox: `0 0 ${width} ${height}`, width: width * scale, height: height * scale, role: "group", "aria-label": "The graph of the topology" },
      svg("defs", marker), paths.map(({ path }) => path), [...boxes.values()].map(({ group }) => group)),
    show: (node, isChosen) => boxes.get(node.name).show(node, isChosen),
    light: (name) => paths.forEach(({ edge, path }) => path.classList.toggle("lit", name === edge.from || name === edge.to)),
  };
}

function box(of, { x, y }, choose) {
  const { name, role } = of;
  const kind = kindOf(of);
  const short = role === "operator" ? kind : role;
  const flow = svg("text.flow", { x: 12, y: 37 });
  const load = svg("text.flow", { x: WIDTH - 10, y: 37, "text-anchor": "end" });
  const bar = svg("rect.load", { x: 12, y: HEIGHT - 6, width: 0, height: 2.5, rx: 1 });
  const title = svg("title");
  const press = (event) => {
    if (event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault();
    event.stopPropagation();
    choose(name);
  };
  const group = svg("g", {
    class: `node ${colourOf(of)}`, transform: `translate(${x - WIDTH / 2} ${y})`, tabindex: "0", role: "button",
    "aria-label": `${name}, ${kind}`, click: () => choose(name), keydown: press,
  }, title,
    svg("rect.box", { width: WIDTH, height: HEIGHT, rx: 6 }), svg("rect.side", { width: 4, height: HEIGHT, rx: 2 }),
    svg("text.name", { x: 12, y: 19 }, cut(name, 18)),
    svg("text.kind", { x: WIDTH - 10, y: 19, "text-anchor": "end" }, name.length + short.length <= 18 ? short : ""), flow, load, bar);
  const show = (node, isChosen) => {
    const says = node.committed ? `#${node.committed.number}` : held(node) && `holds ${held(node)}`;
    flow.textContent = says ? `${rate(node.rate)} · ${share(node.busy)}` : rate(node.rate);
    load.textContent = says || `${share(node.busy)} busy`;
    title.textContent = `${name} (${kind}): ${count(node.rows)} rows${node.committed ? `, committed to ${time(node.committed.time)}` : ""}${lagOf(node) === null ? "" : `, ${span(lagOf(node))} behind`}`;
    bar.setAttribute("width", Math.min(1, node.busy ?? 0) * (WIDTH - 22));
    group.classList.toggle("hot", (node.busy ?? 0) > 0.8);
    group.classList.toggle("late", (lagOf(node) ?? 0) > LATE_US);
    group.classList.toggle("chosen", isChosen);
  };
  return { group, show };
}

const cut = (text, most) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);

function curve(points) {
  const [first, ...rest] = points;
  let d = `M${first.x} ${first.y + HEIGHT}`;
  let from = { x: first.x, y: first.y + HEIGHT };
  rest.forEach((point, at) => {
    const middle = (from.y + point.y) / 2;
    d += ` C${from.x} ${middle} ${point.x} ${middle} ${point.x} ${point.y}`;
    from = { x: point.x, y: point.y };
    if (at < rest.length - 1) {
      from.y += HEIGHT;
      d += ` L${from.x} ${from.y}`;
    }
  });
  return d;
}

/** The position of each node, and the positions that each edge passes. */
function layOut(nodes) {
  const inputsOf = new Map(nodes.map(({ name, inputs }) => [name, inputs]));
  const depth = new Map();
  const depthOf = (name) => {
    if (!inputsOf.has(name)) return -1;
    if (!depth.has(name)) depth.set(name, Math.max(-1, ...inputsOf.get(name).map(depthOf)) + 1);
    return depth.get(name);
  };
  nodes.forEach(({ name }) => depthOf(name));
  const layers = Array.from({ length: Math.max(...depth.values()) + 1 }, () => []);
  const above = new Map();
  for (const { name } of nodes) {
    layers[depth.get(name)].push(name);
    above.set(name, []);
  }
  const edges = [];
  for (const { name, inputs } of nodes) {
    for (const input of inputs.filter((input) => depth.has(input))) {
      const through = [input];
      for (let layer = depth.get(input) + 1; layer < depth.get(name); layer++) {
        const lane = `${input} → ${name} @${layer}`;
        layers[layer].push(lane);
        above.set(lane, [through.at(-1)]);
        through.push(lane);
      }
      above.get(name).push(through.at(-1));
      edges.push({ from: input, to: name, through: [...through, name] });
    }
  }
  const positions = arrange(layers, above, (id) => (depth.has(id) ? WIDTH : LANE));
  const all = [...positions.entries()];
  const left = Math.min(...all.map(([id, { x }]) => x - (depth.has(id) ? WIDTH : LANE) / 2));
  const right = Math.max(...all.map(([id, { x }]) => x + (depth.has(id) ? WIDTH : LANE) / 2));
  for (const [, point] of all) point.x += 2 - left;
  return { positions, edges, width: right - left + 4, height: layers.length * (HEIGHT + GAP_Y) - GAP_Y + 4 };
}

/** Arranges each layer in the order of its inputs, as close below them as its neighbours allow. */
function arrange(layers, above, widthOf) {
  const positions = new Map();
  layers.forEach((layer, at) => {
    const wish = new Map(layer.map((id, index) => {
      const from = above.get(id).map((from) => positions.get(from).x);
      return [id, from.length ? from.reduce((sum, x) => sum + x, 0) / from.length : index * (WIDTH + GAP_X)];
    }));
    const order = [...layer].sort((a, b) => wish.get(a) - wish.get(b));
    const xs = [];
    order.forEach((id, index) => {
      const least = index ? xs[index - 1] + (widthOf(order[index - 1]) + widthOf(id)) / 2 + GAP_X : -Infinity;
      xs.push(Math.max(wish.get(id), least));
    });
    const shift = order.reduce((sum, id, index) => sum + wish.get(id) - xs[index], 0) / order.length;
    order.forEach((id, index) => positions.set(id, { x: xs[index] + shift, y: at * (HEIGHT + GAP_Y) + 1 }));
  });
  return positions;
}
