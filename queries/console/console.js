// The console of a running service: routes, shortcuts, and the status strip above every view.
//
// A view is a function `(main, address, signal)` that fills the page and stops everything it started when `signal`
// aborts. Addresses are `#/view/argument?filters`, so that a link shows the same page to someone else.

import { Unreachable, forgetKey, hasKey, onKeyNeeded } from "./api.js";
import { button, digest, el, failure, fill, refresh, say } from "./dom.js";
import { count, span, time } from "./format.js";
import * as status from "./status.js";
import { showGraph } from "./graph.js";
import { showDecisions } from "./decisions.js";
import { showWhy } from "./why.js";
import { showQuarantine } from "./quarantine.js";
import { showSql } from "./sql.js";
import { showRevisions } from "./revisions.js";
import { showBackfills } from "./backfills.js";

const VIEWS = [
  { name: "graph", title: "Graph", key: "g", show: showGraph },
  { name: "decisions", title: "Decisions", key: "d", show: showDecisions },
  { name: "why", title: "Why", show: showWhy, under: "decisions" },
  { name: "quarantine", title: "Quarantine", key: "q", show: showQuarantine },
  { name: "sql", title: "SQL", key: "s", show: showSql },
  { name: "backfills", title: "Backfills", key: "b", show: showBackfills },
  { name: "policies", title: "Policies", key: "p", show: showRevisions },
];

const main = document.getElementById("main");
let leaving = new AbortController();
let waitsForConnection = false;

function address() {
  const [path, query] = location.hash.replace(/^#\/?/, "").split("?");
  const [name, ...rest] = path.split("/");
  return { name: name || "graph", argument: decode(rest.join("/")), filters: new URLSearchParams(query) };
}

function decode(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

async function route() {
  leaving.abort();
  leaving = new AbortController();
  const { signal } = leaving;
  waitsForConnection = false;
  const { name, argument, filters } = address();
  const view = VIEWS.find((view) => view.name === name);
  document.title = `${view?.title ?? "Not found"} · Tidegate`;
  for (const link of document.querySelectorAll("nav a")) {
    const here = link.dataset.view === (view?.under ?? view?.name);
    if (here) {
      link.setAttribute("aria-current", "page");
      link.scrollIntoView({ block: "nearest", inline: "nearest" });
    } else link.removeAttribute("aria-current");
  }
  // A view fills an element of its own, so a view that answers late cannot write into the next one.
  const folder = el("div.view", el("p.loading", "Asking…"));
  fill(main, folder);
  window.scrollTo(0, 0);
  try {
    if (!view) throw Object.assign(new Error(`There is no view \`${name}\`; choose one above.`), { title: "Not found" });
    await view.show(folder, { argument, filters }, signal);
  } catch (error) {
    if (signal.aborted || error.name === "AbortError") return;
    waitsForConnection = error instanceof Unreachable;
    fill(folder, failure(error, route));
    if (!error.title) console.error(error);
  }
}

// The status strip: the service, whether it is ready, and its progress.

function showStrip() {
  const outage = document.getElementById("outage");
  const { lostSince, refused, readiness } = status;
  const trouble = lostSince
    ? `No connection to the service since ${lostSince.toLocaleTimeString()}. Trying again every second; what is shown is from before.`
    : refused && `${refused.title}: ${refused.message}`;
  outage.hidden = !trouble;
  if (outage.textContent !== (trouble || "")) outage.textContent = trouble || "";
  if (!trouble && waitsForConnection) route();

  const now = status.latest();
  if (!now) return;
  const state = lostSince ? ["bad", "no connection"] : now.ready ? ["good", "ready"] : ["mind", "catching up"];
  const lag = !Number.isFinite(readiness?.lag_us) || lostSince ? "" : ` · lag ${span(readiness.lag_us)}`;
  const refusals = Object.values(now.counts.quarantined).reduce((sum, each) => sum + Number(each), 0);
  const item = (name, ...of) => el("div", el("span.name", name), el("span.of", of));
  const strip = [
    item("topology", now.topology),
    item("state", el("span", { class: `dot ${state[0]}`, title: readiness?.reason ?? "" }), state[1], lag),
    item("time", time(now.time)),
    item("committed", now.committed ? [`#${now.committed.number}`, " to ", time(now.committed.time)] : "nothing yet"),
    item("admitted since the start", count(now.counts.admitted)),
    item("quarantined", refusals ? el("a", { href: "#/quarantine" }, count(refusals)) : "0"),
    item("plan", digest(now.plan, "plan digest")),
  ];
  for (const less of strip.slice(4)) less.classList.add("wide");
  refresh(document.getElementById("strip"), strip);
}

// Light or dark: the system's setting, until the switch is used.

const THEME = "tidegate.theme";
const systemTheme = matchMedia("(prefers-color-scheme: dark)");

function showTheme() {
  const chosen = localStorage.getItem(THEME);
  if (chosen) document.documentElement.dataset.theme = chosen;
  const dark = (chosen ?? (systemTheme.matches ? "dark" : "light")) === "dark";
  const button = document.getElementById("theme");
  button.textContent = dark ? "☀" : "☾";
  button.title = `Switch to ${dark ? "light" : "dark"} (t)`;
  button.setAttribute("aria-label", button.title);
  return dark;
}

function switchTheme() {
  localStorage.setItem(THEME, showTheme() ? "light" : "dark");
  showTheme();
}

// Keys.

const SHORTCUTS = [
  ...VIEWS.filter((view) => view.key).map((view) => [`g ${view.key}`, view.title]),
  ["/", "Search, or the first field of the view"],
  ["j k ↓ ↑", "Next and previous row of a table"],
  ["Enter", "Open the row"],
  ["Space", "Pause or resume the live tail (Decisions)"],
  ["v", "Verify the seal (Why)"],
  ["Ctrl+Enter", "Run the query (SQL), resubmit (Quarantine)"],
  ["u", "Back"],
  ["t", "Light or dark"],
  ["?", "This list"],
];

function showHelp() {
  const rows = SHORTCUTS.map(([keys, what]) =>
    el("div", el("dt", keys.split(" ").map((key) => el("kbd", key))), el("dd", what)));
  const forget = hasKey() && button("Forget the API key", () => { forgetKey(); location.reload(); });
  dialog("Keyboard", el("dl.keys", rows), el("form", { method: "dialog", class: "row" }, forget, el("button", "Close")));
}

function dialog(title, ...children) {
  const made = el("dialog", { "aria-label": title, close: () => made.remove() }, el("h2", title), children);
  document.body.append(made);
  made.showModal();
  return made;
}

let prefix = false;

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  const writing = event.target.closest("input, textarea, select");
  if (writing) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  const view = prefix && VIEWS.find((view) => view.key === event.key);
  const wasPrefix = prefix;
  prefix = false;
  if (view) location.hash = `#/${view.name}`;
  else if (event.key === "g" && !wasPrefix) prefix = true;
  else if (event.key === "?") showHelp();
  else if (event.key === "t") switchTheme();
  else if (event.key === "u") history.back();
  else if (event.key === "/") main.querySelector("[data-first], input, textarea")?.focus();
  else if (event.key === "v") main.querySelector("[data-verify]")?.click();
  else if (event.key === " " && !event.target.closest("button, a, summary")) {
    const pause = main.querySelector("[data-pause]");
    if (!pause) return;
    pause.click();
  } else if (event.key === "j" || event.key === "ArrowDown") {
    const row = event.target.closest("tr") ? null : main.querySelector("tbody tr[tabindex]");
    if (!row) return;
    row.focus();
  } else return;
  event.preventDefault();
}

function askKey(wasRefused) {
  return new Promise((given) => {
    const field = el("input", { type: "password", name: "key", autocomplete: "off", required: true, "aria-label": "API key" });
    const submit = (event) => {
      event.preventDefault();
      given(field.value.trim());
      shown.close();
    };
    const shown = dialog("This service needs a key",
      el("p", wasRefused ? "The service did not accept that key." : "Give an API key of the role you work in. It is kept in this tab until it is closed."),
      el("form.row", { submit }, field, el("button.primary", "Use this key")));
    shown.addEventListener("cancel", (event) => event.preventDefault());
    field.focus();
  });
}

fill(document.querySelector("nav"), VIEWS.filter((view) => view.key).map((view) =>
  el("a", { href: `#/${view.name}`, "data-view": view.name, title: `${view.title} (g ${view.key})` }, view.title)));
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});
document.getElementById("theme").addEventListener("click", switchTheme);
document.getElementById("help").addEventListener("click", showHelp);
systemTheme.addEventListener("change", showTheme);
document.addEventListener("keydown", onKey);
addEventListener("hashchange", route);
addEventListener("unhandledrejection", ({ reason }) => { if (reason?.name !== "AbortError") say(reason?.message ?? String(reason)); });
onKeyNeeded(askKey);
showTheme();
status.onStatus(showStrip);
status.follow();
route();
