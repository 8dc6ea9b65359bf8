// Drives the console in a browser as a user does: watches a decision arrive, reads its reasons,
// verifies its seal, corrects a quarantined record, runs a query. Any error on the browser's
// console, and any breach of the content policy, fails the test.
//
//     npm install playwright-core          # anywhere; NODE_PATH names the folder
//     NODE_PATH=.../node_modules node tests/console/console.mjs [URL] [FOLDER]
//
// URL is a running service that decides card payments; without one, or with `mock`, the mock is
// started. FOLDER gets the screenshots. `CHROMIUM` names the browser, `EVENT_TYPE` the type of a
// payment, `TIDEGATE_KEY` the key of a caller who sends, reads and proposes, and
// `TIDEGATE_APPROVER_KEY` that of another who reads and approves. Without the second key, nothing
// is proposed.

import assert from "node:assert/strict";
import { mkdir, readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { join } from "node:path";
import { serve } from "./mock.mjs";

const { chromium } = createRequire(import.meta.url)("playwright-core");
const [url = "mock", folder = "console-shots"] = process.argv.slice(2);
const KEY = process.env.TIDEGATE_KEY;
const APPROVER_KEY = process.env.TIDEGATE_APPROVER_KEY;
const EVENT_TYPE = process.env.EVENT_TYPE ?? "card.transaction.v1";
/** The context pins of every envelope. */
const PINS = {
  manifest_fingerprint: "a".repeat(64), parameter_hash: "b".repeat(64), seed: 7, scenario_id: "console", run_id: "c".repeat(32), scenario_run_id: "d".repeat(32),
  platform_run_id: "platform_20260101T000000Z",
};
const SIZES = { desk: { width: 1440, height: 900 }, phone: { width: 360, height: 740 } };
/** Responses that the browser reports as errors, although the test or the console expects them. */
const EXPECTED = /status of (400|401|403|404|409|422|503)|ERR_CONNECTION_REFUSED|ERR_EMPTY_RESPONSE|ERR_CONNECTION_RESET|ERR_INCOMPLETE_CHUNKED/;

const mock = url === "mock" ? await serve() : null;
const base = mock?.address ?? url.replace(/\/$/, "");
await mkdir(folder, { recursive: true });
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
});
const faults = [];

async function open(address, { size = SIZES.desk, scheme = "light", key = KEY } = {}) {
  const context = await browser.newContext({ viewport: size, colorScheme: scheme, acceptDownloads: true });
  const page = await context.newPage();
  if (key) await page.addInitScript((given) => sessionStorage.setItem("tidegate.key", given), key);
  await page.addInitScript(() => addEventListener("securitypolicyviolation", (event) => console.error(`policy: ${event.violatedDirective} ${event.blockedURI}`)));
  page.on("console", (message) => {
    if (message.type() === "error" && !EXPECTED.test(message.text())) faults.push(`${page.url()}: ${message.text()}`);
  });
  page.on("pageerror", (error) => faults.push(`${page.url()}: ${error.stack}`));
  page.on("request", (request) => {
    if (new URL(request.url()).origin !== new URL(address).origin && !request.url().startsWith("blob:")) faults.push(`asked elsewhere: ${request.url()}`);
  });
  page.on("dialog", (shown) => { faults.push(`a dialog opened: ${shown.message()}`); shown.dismiss(); });
  page.setDefaultTimeout(15_000);
  await page.goto(address);
  return page;
}

const shot = (page, name) => page.screenshot({ path: join(folder, `${name}.png`) });

/** Asserts that the page is not too wide; on a phone it should only scroll vertically. */
async function fits(page) {
  const over = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
  assert.ok(over <= 0, `${page.url()} is ${over} px too wide`);
}

async function api(path, options = {}) {
  const headers = { "Content-Type": "application/json", ...KEY && { Authorization: `Bearer ${KEY}` } };
  const response = await fetch(`${base}${path}`, { headers, ...options });
  assert.ok(response.ok || response.status === 422, `${path}: ${response.status} ${await response.clone().text()}`);
  return response.json();
}

/** A payment that the service has not seen, at its current time. */
let sent = 0;
async function payment(amount) {
  const { time } = await api("/v1/status");
  const number = `${Date.now() % 1e9}${String(sent++).padStart(6, "0")}`;
  return JSON.stringify({
    event_type: EVENT_TYPE, event_id: `console-${number}`, ts_utc: new Date(Math.max(Date.parse(time) + 1, Date.UTC(2026, 0))).toISOString().replace("Z", "000Z"), ...PINS,
    payload: { transaction_id: number, customer_id: 7, terminal_id: 37, amount },
  });
}

const submit = async (record) => (await api("/v1/facts", { method: "POST", body: record })).receipts[0];

/** The answer of the service about an event, once it is decided. */
async function decided(event) {
  for (let tries = 0; ; tries++) {
    try {
      return await api(`/v1/decisions/${event}`);
    } catch (error) {
      if (tries === 50) throw error;
      await new Promise((wake) => setTimeout(wake, 100));
    }
  }
}

/** Waits until a condition holds. */
async function until(holds) {
  for (let tries = 0; !(await holds()); tries++) {
    assert.ok(tries < 300, `${holds} does not come to hold`);
    await new Promise((wake) => setTimeout(wake, 100));
  }
}

/** Commits follow from facts, so the test sends some to a service that has no other callers. */
async function untilSealed(page) {
  for (let tries = 0; tries < 120 && !(await page.locator("[data-verdict=verified]").count()); tries++) {
    if (!mock) {
      const one = JSON.parse(await payment("5.00"));
      const number = one.payload.transaction_id;
      const at = (index) => ({ ...one, event_id: `${one.event_id}-${index}`, ts_utc: new Date(Date.parse(one.ts_utc) + index).toISOString().replace("Z", "000Z"), payload: { ...one.payload, transaction_id: `${number}${index}`, customer_id: index } });
      const lines = Array.from({ length: 500 }, (_, index) => JSON.stringify(at(index))).join("\n");
      await api("/v1/facts", { method: "POST", body: lines, headers: { "Content-Type": "application/x-ndjson", ...KEY && { Authorization: `Bearer ${KEY}` } } });
    }
    await page.waitForTimeout(500);
  }
  await page.waitForSelector("[data-verdict=verified]");
}

const claims = {
  async "the graph shows every node with its rate"() {
    const page = await open(base);
    const { nodes } = await api("/v1/status");
    await page.waitForSelector(".picture .node");
    assert.equal(await page.locator(".picture .node").count(), nodes.length);
    await page.waitForFunction(() => /\d\/s/.test(document.querySelector(".node .flow").textContent));
    await page.locator(".node").nth(3).focus();
    await page.keyboard.press("Enter");
    await page.waitForSelector(".node.chosen");
    await page.waitForTimeout(mock ? 4000 : 1500);
    await shot(page, "graph");
    await page.context().close();
  },

  async "a decision arrives while one watches, and can be held"() {
    const page = await open(`${base}/#/decisions`);
    await page.waitForSelector("tbody tr, .empty");
    await page.locator(".badge", { hasText: /^live$/ }).waitFor();
    const record = await payment("250.00");
    const receipt = await submit(record);
    assert.equal(receipt.verdict, "admitted", JSON.stringify(receipt));
    const { event_id } = JSON.parse(record);
    await page.locator("tbody tr", { hasText: event_id }).waitFor();
    await shot(page, "decisions");
    await page.locator("body").press("Space");
    const before = await page.locator("tbody tr").count();
    const held = JSON.parse(await payment("12.00"));
    await submit(JSON.stringify(held));
    await page.getByText(/paused · [1-9]/).waitFor();
    assert.equal(await page.locator("tbody tr").count(), before);
    await page.getByRole("button", { name: "Resume" }).click();
    await page.locator("tbody tr", { hasText: held.event_id }).waitFor();
    const { decision } = await decided(event_id);
    await page.getByLabel("action", { exact: true }).fill(decision.action);
    await page.keyboard.press("Enter");
    await page.waitForFunction((action) => [...document.querySelectorAll("td[data-name=action]")].every((cell) => cell.textContent === action), decision.action);
    assert.match(page.url(), new RegExp(`action=${decision.action}`));
    await page.getByLabel("from (UTC)").fill("2001-01-01 10:30");
    await page.getByLabel("rule", { exact: true }).fill(decision.rules_fired[0] ?? "");
    await page.keyboard.press("Enter");
    await page.locator("tbody tr", { hasText: event_id }).waitFor();
    await page.getByLabel("from (UTC)").fill("yesterday");
    await page.keyboard.press("Enter");
    await page.locator(".failure").waitFor();
    await page.getByLabel("from (UTC)").fill("2199-01-01");
    await page.keyboard.press("Enter");
    await page.getByText("No decision fits").waitFor();
    await page.getByRole("button", { name: "Clear them" }).click();
    await page.locator("tbody tr", { hasText: event_id }).waitFor();
    await page.context().close();
  },

  async "a table is walked with the keys, and goes on to older rows"() {
    const page = await open(`${base}/#/decisions`);
    await page.waitForSelector("tbody tr");
    await page.locator("body").press("Space");
    const event = () => page.evaluate(() => document.activeElement.querySelector("[data-name=event]")?.textContent);
    await page.keyboard.press("j");
    const first = await event();
    await page.keyboard.press("j");
    const second = await event();
    assert.ok(first && second && first !== second);
    await page.keyboard.press("k");
    assert.equal(await event(), first);
    if (await page.getByRole("button", { name: "Older" }).isVisible()) {
      const before = await page.locator("tbody tr").count();
      await page.getByRole("button", { name: "Older" }).click();
      await page.waitForFunction((before) => document.querySelectorAll("tbody tr").length > before, before);
    }
    await page.keyboard.press("/");
    await page.keyboard.type(first);
    await page.keyboard.press("Enter");
    await page.getByRole("heading", { name: first }).waitFor();
    await page.locator("body").press("u");
    await page.waitForSelector("nav a[data-view=decisions][aria-current]");
    await page.context().close();
  },

  async "a decision says why, and its seal verifies"() {
    if (mock) mock.world.holds = true;
    const record = JSON.parse(await payment("481.50"));
    await submit(JSON.stringify(record));
    const page = await open(`${base}/#/decisions`);
    const row = page.locator("tbody tr", { hasText: record.event_id });
    await row.waitFor();
    await row.focus();
    await page.keyboard.press("Enter");
    await page.getByRole("heading", { name: record.event_id }).waitFor();
    for (const rule of (await decided(record.event_id)).decision.rules_fired) await page.getByText(rule, { exact: true }).waitFor();
    await page.getByRole("table", { name: "Features" }).getByText("481.50").first().waitFor();
    if (mock) {
      await page.waitForSelector("[data-verdict=unsealed]");
      await shot(page, "why-unsealed");
      mock.world.holds = false;
    }
    // The next commit seals it, and the page updates.
    await untilSealed(page);
    await page.getByRole("button", { name: "Verify" }).click();
    await page.getByText(/Checked at/).waitFor();
    await page.getByText(`Event ${record.event_id} happened at`).waitFor();
    await shot(page, "why");
    await page.screenshot({ path: join(folder, "why-whole.png"), fullPage: true });
    await page.goto(`${base}/#/why/no-such-event`);
    await page.locator(".failure").waitFor();
    await page.context().close();
  },

  async "a refused record is mended and submitted again"() {
    const good = await payment("61.20");
    const bad = good.replace('"61.20"', '"sixty"');
    const receipt = await submit(bad);
    assert.equal(receipt.verdict, "quarantined", JSON.stringify(receipt));
    const { event_id } = JSON.parse(good);
    const page = await open(`${base}/#/quarantine`);
    const row = page.locator("tbody tr", { hasText: event_id });
    await row.waitFor();
    await shot(page, "quarantine");
    await row.getByRole("button", { name: "Send again" }).click();
    await row.getByText("quarantined").waitFor();
    await page.getByRole("button", { name: "Look again" }).click();
    await page.locator("tbody tr", { hasText: event_id }).first().getByRole("button", { name: "Mend" }).click();
    const field = page.getByLabel("The record as JSON");
    const text = await field.inputValue();
    await page.getByRole("button", { name: "Resubmit" }).click();
    await page.waitForSelector("[data-receipt=quarantined]");
    await field.fill(text.replace("sixty", "61.20"));
    await page.keyboard.press("Control+Enter");
    await page.waitForSelector("[data-receipt=admitted]");
    await shot(page, "quarantine-mended");
    await page.getByRole("button", { name: "Resubmit" }).click();
    await page.waitForSelector("[data-receipt=duplicate]");
    await page.locator("[data-receipt] a").click();
    await page.getByRole("heading", { name: event_id }).waitFor();
    await page.context().close();
  },

  async "a question is answered as table, chart and file"() {
    const page = await open(`${base}/#/sql`);
    await page.getByLabel("SQL").fill("SELECT action, count(*) AS decisions FROM decisions GROUP BY action ORDER BY 2 DESC");
    await page.keyboard.press("Control+Enter");
    await page.getByRole("table", { name: "Result" }).waitFor();
    assert.ok(await page.locator("tbody tr").count() > 0);
    await page.getByText(/as of/).waitFor();
    await page.locator(".catalogue summary").first().click();
    await shot(page, "sql");
    await page.getByRole("button", { name: "Chart" }).click();
    await page.waitForSelector(".chart .bar");
    await shot(page, "sql-chart");
    const [file] = await Promise.all([page.waitForEvent("download"), page.getByRole("button", { name: "CSV" }).click()]);
    assert.equal(file.suggestedFilename(), "tidegate.csv");
    assert.match(await readFile(await file.path(), "utf8"), /^action,decisions\r\n\w+,\d+\r\n/);
    await page.getByLabel("SQL").fill("SELECT ts_utc, score FROM decisions ORDER BY ts_utc DESC LIMIT 80");
    await page.keyboard.press("Control+Enter");
    await page.getByRole("columnheader", { name: "ts_utc" }).waitFor();
    await page.getByRole("button", { name: "Chart" }).click();
    await page.locator(".chart .curve").waitFor({ state: "attached" }); // A flat line has no height, but is drawn.
    await shot(page, "sql-line");
    await page.getByLabel("SQL").fill("DROP TABLE decisions");
    await page.keyboard.press("Control+Enter");
    await page.locator(".failure").waitFor();
    await shot(page, "sql-error");
    assert.ok(await page.getByLabel("Earlier queries").locator("option").count() >= 4);
    await page.context().close();
  },

  async "a revision is proposed by one, approved by another, and decides from then on"() {
    if (!mock && !APPROVER_KEY) return console.log("        not tried: there is no TIDEGATE_APPROVER_KEY");
    const page = await open(`${base}/#/policies`, { key: mock ? "ann" : KEY });
    const row = page.getByRole("table", { name: "In force" }).locator("tbody tr", { hasText: "bundle" });
    const node = await row.locator("[data-name=node]").textContent();
    await row.getByRole("button", { name: "Revise" }).click();
    const field = page.getByLabel("The text of the revision");
    const text = await field.inputValue();
    const version = /^version = "(\d+)"/m.exec(text)[1];
    await page.locator(".came", { hasText: `version = "${version}"` }).waitFor();
    await page.getByLabel("Why").fill("Every payment is looked at while the test runs");
    await field.fill("id = 7");
    await page.getByRole("button", { name: "Propose", exact: true }).click();
    await page.locator(".failure", { hasText: "cannot come into force" }).waitFor();
    await shot(page, "policies-refused");
    await field.fill(`${text.trimEnd()}\n\n[[rule]]\nid = "looked-at"\nwhen = "amount >= 0"\naction = "QUEUE_REVIEW"\nreason = "LOOKED_AT"\n`);
    await page.locator(".came", { hasText: "looked-at" }).waitFor();
    await shot(page, "policies-propose");
    await page.getByRole("button", { name: "Propose", exact: true }).click();
    const proposed = page.locator(".proposal", { hasText: "Every payment is looked at" });
    await proposed.getByText("lacks the role").first().waitFor();
    assert.ok(await proposed.getByRole("button", { name: "Approve" }).isDisabled());
    await shot(page, "policies-proposed");
    const id = await proposed.getAttribute("data-proposal");
    await page.context().close();

    const other = await open(`${base}/#/policies`, { key: mock ? "bob" : APPROVER_KEY });
    const waiting = other.locator(`[data-proposal="${id}"]`);
    await waiting.locator(".came", { hasText: "looked-at" }).waitFor();
    await waiting.getByRole("button", { name: "Approve" }).click();
    assert.ok(await waiting.getByLabel("Reason").evaluate((field) => !field.validity.valid), "a step takes a reason");
    await waiting.getByLabel("Reason").fill("Seen by the test");
    await waiting.getByRole("button", { name: "Approve" }).click();
    await waiting.getByRole("button", { name: "Activate" }).waitFor();
    await shot(other, "policies-approved");
    await waiting.getByLabel("Reason").fill("Now");
    await waiting.getByRole("button", { name: "Activate" }).click();
    await waiting.locator(".badge", { hasText: "in force" }).first().waitFor();
    await other.getByRole("table", { name: "In force" }).locator("tbody tr", { hasText: node }).getByText(version).first().waitFor();
    await shot(other, "policies-in-force");
    if (!mock) {
      await until(async () => (await fetch(`${base}/readyz`)).ok);
      const record = await payment("3.00");
      await submit(record);
      const { decision } = await decided(JSON.parse(record).event_id);
      assert.equal(decision.bundle_version, version);
      assert.ok(decision.rules_fired.includes("looked-at"), JSON.stringify(decision.rules_fired));
    }
    await waiting.getByLabel("Reason").fill("The test is over");
    await waiting.getByRole("button", { name: "Roll back" }).click();
    await other.locator(`[data-proposal="${id}"]`).locator(".badge", { hasText: "rolled back" }).first().waitFor();
    await other.context().close();
    if (!mock) await until(async () => (await fetch(`${base}/readyz`)).ok);
  },

  async "every view has a key, and fits a desk and a phone, light and dark"() {
    for (const [name, size] of Object.entries(SIZES)) {
      for (const scheme of ["light", "dark"]) {
        const page = await open(base, { size, scheme });
        const { rows: [[last]] } = await api("/v1/sql", { method: "POST", body: JSON.stringify({ sql: "SELECT event_id FROM decisions ORDER BY _tick DESC LIMIT 1" }) });
        await page.waitForSelector(".picture .node");
        await page.waitForTimeout(2500);
        const views = { graph: "g", decisions: "d", quarantine: "q", sql: "s", backfills: "b", policies: "p" };
        for (const [view, key] of Object.entries(views)) {
          await page.keyboard.press("g");
          await page.keyboard.press(key);
          await page.waitForSelector(`nav a[data-view=${view}][aria-current]`);
          await page.waitForSelector(".loading", { state: "detached" });
          await page.waitForTimeout(200);
          await fits(page);
          await shot(page, `${name}-${scheme}-${view}`);
        }
        await page.goto(`${base}/#/why/${encodeURIComponent(last)}`);
        await page.getByRole("heading", { name: last }).waitFor();
        await fits(page);
        await shot(page, `${name}-${scheme}-why`);
        await page.keyboard.press("?");
        await page.getByRole("dialog").waitFor();
        await shot(page, `${name}-${scheme}-help`);
        await page.keyboard.press("Escape");
        await page.keyboard.press("t");
        const theme = await page.evaluate(() => document.documentElement.dataset.theme);
        assert.equal(theme, scheme === "dark" ? "light" : "dark");
        await page.context().close();
      }
    }
  },
};

/** Claims that only the mock can produce. */
const claimsOfMock = {
  async "what strangers wrote is text"() {
    const page = await open(`${base}/#/quarantine`);
    await page.getByText("<img src=x onerror=alert(1)>").first().waitFor();
    assert.equal(await page.locator("main img").count(), 0);
    const row = page.locator("tbody tr", { hasText: "tx-bad-2" });
    await row.click();
    const text = await page.getByLabel("The record as JSON").inputValue();
    assert.match(text, /12345678901234567890/, "a large number was rounded");
    await page.context().close();
  },

  async "a record is laid out for mending without a change to its tokens"() {
    const page = await open(base);
    const records = [
      '{"a":1.10,"b":12345678901234567890,"a":[],"c":{},"d":[1,[2,{"e":"x, y: {\\"z\\"} \\u0041"}]],"f":-1e400,"g":null,"h":""}', "[]", "7", '"only \\\\"', '{ "torn": ', "",
    ];
    const laid = await page.evaluate(async (records) => records.map((await import("/console/format.js")).layOut), records);
    const tokens = (text) => text.match(/"(?:[^"\\]|\\.)*"|[^\s"]/g);
    records.forEach((record, at) => assert.deepEqual(tokens(laid[at]), tokens(record)));
    assert.equal(laid[0].split("\n")[1], '  "a": 1.10,');
    const words = await page.evaluate(async () => {
      const { shellWord } = await import("/console/format.js");
      return ["plain/word.1", "it's; rm -rf", "-x", "$(id)"].map(shellWord);
    });
    const csv = await page.evaluate(async () => (await import("/console/format.js")).csvOf({
      columns: [{ name: "=name", type: "text" }, { name: "n", type: "bigint" }, { name: "list", type: "list of text" }],
      rows: [["=HYPERLINK(\"x\")", "-12345678901234567890", null], ["@a", "7", ["a", "b"]], ["+1", null, []], ["-1", "0", null], ["a-b, c\nd", "1", null]],
    }));
    assert.equal(csv, ["'=name,n,list", "\"'=HYPERLINK(\"\"x\"\")\",-12345678901234567890,", "'@a,7,\"[\"\"a\"\",\"\"b\"\"]\"", "'+1,,[]", "'-1,0,", "\"a-b, c\nd\",1,", ""].join("\r\n"));
    assert.deepEqual(words, ["plain/word.1", "'it'\\''s; rm -rf'", "'-x'", "'$(id)'"]);
    await page.context().close();
  },

  async "where there is nothing, the page says what to do"() {
    const bare = await serve();
    for (const rows of [...Object.values(bare.world.tables), bare.world.proposals, bare.world.steps, bare.world.backfills]) rows.length = 0;
    bare.world.pay = () => {};
    for (const [view, words] of Object.entries({ decisions: "Nothing has been decided", quarantine: "Nothing is in quarantine", policies: "nobody has proposed", backfills: "Nothing has been computed anew" })) {
      const page = await open(`${bare.address}/#/${view}`, { size: SIZES.phone });
      await page.getByText(words).waitFor();
      await fits(page);
      await shot(page, `empty-${view}`);
      await page.context().close();
    }
    await bare.stop();
  },

  async "a key is asked for once, and a wrong one again"() {
    const guarded = await serve({ key: "right" });
    const page = await open(guarded.address, { key: null });
    const field = page.getByLabel("API key");
    await field.fill("wrong");
    await page.keyboard.press("Enter");
    await page.getByText("did not accept").waitFor();
    await shot(page, "key");
    await field.fill("right");
    await page.keyboard.press("Enter");
    await page.waitForSelector(".picture .node");
    assert.equal(await page.getByRole("dialog").count(), 0);
    await page.keyboard.press("g");
    await page.keyboard.press("d");
    await page.locator(".badge", { hasText: /^live$/ }).waitFor();
    await page.context().close();
    await guarded.stop();
  },

  async "a lost connection is shown, and comes back by itself"() {
    let service = await serve();
    const port = Number(new URL(service.address).port);
    const page = await open(`${service.address}/#/decisions`);
    await page.locator(".badge", { hasText: /^live$/ }).waitFor();
    await service.stop();
    await page.getByText(/No connection to the service since/).waitFor();
    await page.keyboard.press("g");
    await page.keyboard.press("q");
    await page.locator(".failure").waitFor();
    await shot(page, "outage");
    service = await serve({ port });
    await page.locator("#outage").waitFor({ state: "hidden" });
    await page.getByRole("table", { name: "Refused records" }).waitFor();
    await page.context().close();
    await service.stop();
  },
};

let failed = 0;
for (const [claim, show] of Object.entries({ ...claims, ...mock ? claimsOfMock : {} })) {
  const start = performance.now();
  const before = faults.length;
  try {
    await show();
    assert.deepEqual(faults.slice(before), [], "the browser's console has errors");
    console.log(`ok      ${claim} (${((performance.now() - start) / 1000).toFixed(1)} s)`);
  } catch (error) {
    failed += 1;
    console.log(`FAILED  ${claim}\n${error.stack}`);
  }
}
await browser.close();
await mock?.stop();
console.log(failed ? `${failed} failed` : `all hold; screenshots in ${folder}`);
process.exit(failed ? 1 : 0);
