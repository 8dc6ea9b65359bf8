// The service, over HTTP: calls, the key they may need, and rows as they are computed.
//
// The page asks for an API key once, when the service first requires one, and stores it for this tab only. Rows are
// followed with `fetch` rather than `EventSource`, because `EventSource` cannot send a key.

const KEY = "tidegate.key";
let waiting = null;
let askKey = null;

/** An error answer of the service; an ambiguous id has `candidates`. */
export class Refused extends Error {
  constructor(status, message, candidates = []) {
    super(message);
    this.status = status;
    this.candidates = candidates;
    this.title = { 401: "A key is needed", 403: "Not allowed", 404: "Not found", 409: "Conflict", 429: "Too busy", 503: "Not ready" }[status]
      ?? `Refused (${status})`;
  }
}

/** There was no answer. */
export class Unreachable extends Error {
  title = "No connection";
  constructor() {
    super("The service does not answer. The console keeps trying, and goes on by itself.");
  }
}

/** Sets the function that asks for a key. It gets whether a key was refused, and returns a promise of one. */
export function onKeyNeeded(ask) {
  askKey = ask;
}

export const hasKey = () => sessionStorage.getItem(KEY) !== null;

export const forgetKey = () => sessionStorage.removeItem(KEY);

/** The response to a call; while the service answers 401, it asks for a key and calls again. */
async function request(path, { method = "GET", body, headers = {}, signal } = {}) {
  for (;;) {
    const key = sessionStorage.getItem(KEY);
    const sent = key === null ? headers : { ...headers, Authorization: `Bearer ${key}` };
    let response;
    try {
      response = await fetch(path, { method, body, headers: sent, signal, cache: "no-store" });
    } catch (error) {
      throw error.name === "AbortError" ? error : new Unreachable();
    }
    if (response.status !== 401) return response;
    // Several calls may wait for one key; a call that finds a new key only repeats its request.
    if (sessionStorage.getItem(KEY) === key) {
      waiting ??= askKey(key !== null).finally(() => { waiting = null; });
      sessionStorage.setItem(KEY, await waiting);
    }
  }
}

async function refusal(response) {
  const text = await response.text();
  let message = text || response.statusText;
  let candidates = [];
  try {
    const body = JSON.parse(text);
    message = body.error ?? message;
    candidates = body.candidates ?? [];
  } catch {
    // A proxy may answer with something other than JSON; then its text is shown.
  }
  const after = response.headers.get("Retry-After");
  return new Refused(response.status, after ? `${message} (retry after ${after} s)` : message, candidates);
}

/** The JSON of a successful call. `also` lists other statuses that are no errors. */
export async function call(path, options = {}, also = []) {
  const response = await request(path, options);
  if (!response.ok && !also.includes(response.status)) throw await refusal(response);
  return response.json();
}

export function sql(text, signal) {
  return call("/v1/sql", { method: "POST", ...asked(text), signal });
}

function asked(text) {
  return { body: JSON.stringify({ sql: text }), headers: { "Content-Type": "application/json" } };
}

export function objects(answer) {
  return answer.rows.map((row) => Object.fromEntries(answer.columns.map(({ name }, at) => [name, row[at]])));
}

export async function tables(signal) {
  return (await call("/v1/tables", { signal })).tables;
}

/** Submits one record unchanged, and returns its receipt. */
export async function submit(text) {
  const headers = { "Content-Type": "application/json" };
  const { receipts } = await call("/v1/facts", { method: "POST", body: text, headers }, [422]);
  return receipts[0];
}

/**
 * Follows the rows of a table until `signal` aborts, and reconnects after every loss. `onTexts` gets the JSON texts
 * of the rows that came together, unparsed: of thousands in a second, most are never shown. `onState` gets
 * "live", or why it is not.
 */
export async function tail(table, { signal, onTexts, onState }) {
  for (let pause = 500; !signal.aborted; pause = Math.min(pause * 2, 8000)) {
    try {
      const response = await request(`/v1/tail/${encodeURIComponent(table)}`, { signal, headers: { Accept: "text/event-stream" } });
      if (!response.ok) throw await refusal(response);
      onState("live");
      pause = 500;
      await readEvents(response.body, onTexts);
      onState("the service ended the stream; asking again");
    } catch (error) {
      if (signal.aborted) return;
      onState(error.message);
    }
    await new Promise((wake) => setTimeout(wake, pause));
  }
}

async function readEvents(stream, onTexts) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let rested = performance.now();
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    // While data is always available, reading never waits; without a pause the page would not be drawn.
    if (performance.now() - rested > 20) {
      await new Promise((wake) => setTimeout(wake));
      rested = performance.now();
    }
    // An event ends with an empty line; its data may span several lines.
    const events = (rest + value).replaceAll("\r\n", "\n").split("\n\n");
    rest = events.pop();
    const texts = events.map((event) => {
      const lines = event.split("\n").filter((line) => line.startsWith("data:"));
      return lines.map((line) => line.slice(5).trimStart()).join("\n");
    });
    onTexts(texts.filter(Boolean));
  }
}
