// Polls the state of the service once a second, and computes rates from two answers.
//
// Rates are differences over the service's own `uptime_us`, so that a slow network does not distort them.

import { Unreachable, call } from "./api.js";

const PERIOD_MS = 1000;
const SAMPLES_MAX = 90;
const RATE_SAMPLES = 5;

/** The last answers of /v1/status, oldest first. */
export const samples = [];
export let readiness = null;
/** The time of the first failed poll; null while the service answers. */
export let lostSince = null;
export let refused = null;

const listeners = new Set();

/** Calls `listener` after every attempt, until `signal` aborts. */
export function onStatus(listener, signal) {
  listeners.add(listener);
  signal?.addEventListener("abort", () => listeners.delete(listener));
}

/** The newest answer, or undefined before there is one. */
export const latest = () => samples.at(-1);

/** Polls forever, except while the page is hidden. */
export async function follow() {
  for (;;) {
    if (document.hidden) {
      await new Promise((shown) => document.addEventListener("visibilitychange", shown, { once: true }));
      continue;
    }
    await ask();
    for (const listener of [...listeners]) listener();
    await new Promise((wake) => setTimeout(wake, PERIOD_MS));
  }
}

async function ask() {
  try {
    const [status, ready] = await Promise.all([call("/v1/status"), call("/readyz", {}, [503])]);
    const before = latest();
    // A restarted service has other counts.
    if (before && (status.uptime_us < before.uptime_us || status.plan !== before.plan)) samples.length = 0;
    // Before the first commit its end is tick 0, which is not a time to show.
    if (status.committed?.upper === "0") status.committed = null;
    samples.push(status);
    if (samples.length > SAMPLES_MAX) samples.shift();
    readiness = ready;
    lostSince = null;
    refused = null;
  } catch (error) {
    if (error instanceof Unreachable) lostSince ??= new Date();
    else refused = error;
  }
}

/** The growth of a number in a second; null until there are two answers. */
export function growth(of) {
  return slope(samples.slice(-RATE_SAMPLES), of);
}

/** The same between every two answers, for a line. */
export function growths(of) {
  return samples.slice(1).map((_, at) => slope(samples.slice(at, at + 2), of));
}

function slope(some, of) {
  const [first, last] = [some[0], some.at(-1)];
  if (some.length < 2 || last.uptime_us === first.uptime_us) return null;
  return Math.max(0, ((of(last) ?? 0) - (of(first) ?? 0)) / ((last.uptime_us - first.uptime_us) / 1e6));
}
