// The page against a scripted server: what a healthy one shows too rarely to wait for.
//
// The page comes from its file and the WebSocket is played by the test, so that each close code
// and notice of SPEC sections 5 and 6 can be sent at will. No server binary is needed.

import { after, afterEach, before, test } from "node:test";
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { Chat, launch } from "./driver.mjs";

const HTML = readFileSync(new URL("../../src/public/index.html", import.meta.url), "utf8");
const ORIGIN = "http://ringhall.test";
// The page's own limits (`NODES_MAX`, and the same while the reader has scrolled up).
const NODES_MAX = 500;
const BEGIN = Date.UTC(2030, 0, 1);

let browser, chat;

before(async () => { browser = await launch(); });
after(() => browser?.close());
afterEach(async () => {
  assert.deepEqual(chat.errors, [], "the page's script threw");
  await chat.close();
});

/** Opens the page at `address`; `hall` collects the sockets that it dials, each let in at once. */
async function open(address = "/?user=ada#hall", letIn = true) {
  const hall = { sockets: [], urls: [], said: [], foreign: [] };
  chat = await Chat.open(browser, ORIGIN + address, { before: async page => {
    await page.clock.install({ time: BEGIN });
    await page.route("**", route => {
      if (new URL(route.request().url()).origin !== ORIGIN) {
        hall.foreign.push(route.request().url());
        return route.abort();
      }
      return route.fulfill({ contentType: "text/html; charset=utf-8", body: HTML });
    });
    await page.routeWebSocket("**", socket => {
      hall.sockets.push(socket);
      hall.urls.push(socket.url());
      socket.onMessage(text => hall.said.push(JSON.parse(text)));
      const joined = { type: "joined", room: "hall", epoch: "e", offset: 7, recovered: false };
      if (letIn) send(socket, joined);
    });
  } });
  if (letIn && address.includes("user=")) await chat.state("open");
  return hall;
}

/** From here on the page's time moves only by `clock.runFor`. */
const freeze = () => chat.page.clock.pauseAt(BEGIN + 3_600_000);

const send = (socket, event) => socket.send(JSON.stringify(event));
const newest = hall => hall.sockets.at(-1);
const speak = (hall, sender, content, offset) =>
  send(newest(hall), { room: "hall", sender, content, offset });

test("the page fetches nothing but itself, and dials percent-encoded names", async () => {
  const hall = await open("/?user=a%2Fb%3F#r%C3%BCm%2F1");
  assert.deepEqual(hall.foreign, []);
  assert.deepEqual(hall.urls, ["ws://ringhall.test/ws/r%C3%BCm%2F1/a%2Fb%3F"]);
});

test("a policy close is final until the person asks again", async () => {
  const hall = await open();
  await newest(hall).close({ code: 1008, reason: "kicked by the operator" });
  await chat.state("closed");
  await chat.noticed("error", "kicked by the operator");
  await chat.page.evaluate(() => window.dispatchEvent(new Event("online")));
  assert.equal(hall.sockets.length, 1);
  await chat.page.click("#retry");
  await chat.state("open");
  assert.equal(hall.sockets.length, 2);
});

test("a restart's retry_ms is kept, and neither tab nor network jumps it", async () => {
  const hall = await open();
  await freeze();
  await newest(hall).close({ code: 1012, reason: "restart retry_ms=45000" });
  await chat.state("waiting");
  await chat.page.evaluate(() => window.dispatchEvent(new Event("online")));
  await chat.page.clock.runFor(44_000);
  await chat.state("waiting");
  assert.equal(hall.sockets.length, 1, "not before its turn");
  await chat.page.clock.runFor(2_000);
  await chat.state("open");
  assert.equal(hall.sockets.length, 2);
});

test("the back-off doubles to 30 s, and a network that is back ends it", async () => {
  const hall = await open();
  await freeze();
  // The jitter drawn at its upper end: each wait is then the ceiling itself.
  await chat.page.evaluate(() => { Math.random = () => 1 - 2 ** -53; });
  for (const ceiling of [500, 1000, 2000, 4000, 8000, 16000, 30000, 30000]) {
    const dialled = hall.sockets.length;
    await newest(hall).close({ code: 1011, reason: "" });
    await chat.state("waiting");
    await chat.page.clock.runFor(ceiling - 50);
    assert.equal(hall.sockets.length, dialled, `waits ${ceiling} ms`);
    await chat.page.clock.runFor(100);
    await chat.state("open");
    assert.equal(hall.sockets.length, dialled + 1);
  }
  const dialled = hall.sockets.length;
  await newest(hall).close({ code: 1013, reason: "slow consumer" });
  await chat.state("waiting");
  await chat.page.evaluate(() => window.dispatchEvent(new Event("online")));
  await chat.page.clock.runFor(1);
  await chat.state("open");
  assert.equal(hall.sockets.length, dialled + 1);
});

test("a server that never lets in is given up and dialled again", async () => {
  const hall = await open("/", false);
  await freeze();
  await chat.page.fill("#name", "ada");
  await chat.page.click("#join");
  await chat.state("connecting");
  await chat.page.clock.runFor(15_000);
  await chat.state("waiting");
  await chat.page.clock.runFor(500);
  await chat.state("connecting");
  assert.equal(hall.sockets.length, 2);
});

test("what was refused or never confirmed comes back to the box", async () => {
  const hall = await open();
  await chat.say("too fast");
  await assert.doesNotReject(chat.until(() => document.getElementById("input").value === ""));
  await heardBy(hall, 1);
  send(newest(hall), { type: "error", code: "rate_limited", message: "Slow down.",
    ref: hall.said[0].ref });
  await chat.noticed("error", "Slow down.");
  assert.equal(await chat.page.inputValue("#input"), "too fast");

  await chat.say("confirmed");
  await heardBy(hall, 2);
  speak(hall, "ada", "confirmed", 8);
  await chat.heard("ada", "confirmed");
  await chat.say("lost");
  await heardBy(hall, 3);
  await newest(hall).close({ code: 1011, reason: "" });
  await chat.until(() => document.getElementById("input").value === "lost");
});

/** Waits until the page has sent `count` messages: a condition on this side of the socket. */
async function heardBy(hall, count) {
  const deadline = Date.now() + 20_000;
  while (hall.said.length < count) {
    assert.ok(Date.now() < deadline, `the page said ${hall.said.length} of ${count} in time`);
    await chat.page.evaluate(() => new Promise(requestAnimationFrame));
  }
}

test("lag, notices, summaries and a gap are told", async () => {
  const hall = await open();
  send(newest(hall), { type: "lag", room: "hall", missed: 12, offset: 20 });
  await chat.noticed("lag", "you missed 12 messages");
  send(newest(hall), { type: "system", message: "Server is shutting down" });
  await chat.noticed("system", "Server is shutting down");
  send(newest(hall), { type: "members", room: "hall", count: 4000, joined: 30, left: 2 });
  send(newest(hall), { type: "members", room: "hall", count: 4010, joined: 10, left: 0 });
  await chat.noticed("members", "40 joined · 2 left");
  assert.equal(await chat.page.locator(".note[data-kind=members]").count(), 1, "one line");
  await chat.until(() => /^4\D?010$/.test(document.getElementById("count").textContent));
  send(newest(hall), { type: "of-a-newer-server" });
  newest(hall).send("no json");
  speak(hall, "system", { any: "thing" });
  await chat.noticed("system", '{"any":"thing"}');
  speak(hall, "bob", "before the gap", 8);
  await chat.heard("bob", "before the gap");
  await newest(hall).close({ code: 1012, reason: "retry_ms=1" });
  await chat.noticed("back", "Back in the room.");
});

test("thousands of messages leave the page small, and a reader above is not moved", async () => {
  const hall = await open();
  for (let n = 0; n < 3000; n++) speak(hall, `user ${n % 50}`, `line ${n}`, 8 + n);
  await chat.heard("user 49", "line 2999");
  assert.equal(await chat.page.locator("#log > *").count(), NODES_MAX);
  const bottom = () => chat.page.$eval("#log", log =>
    log.scrollHeight - log.scrollTop - log.clientHeight);
  assert.ok(await bottom() < 2, "follows the newest");

  await chat.page.$eval("#log", log => { log.scrollTop = log.scrollHeight / 2; });
  await chat.until(() => document.getElementById("log").scrollTop > 0);
  const before = await chat.page.$eval("#log", log => log.scrollTop);
  speak(hall, "bob", "news", 4000);
  await chat.heard("bob", "news");
  await chat.page.getByText("1 new message").waitFor();
  assert.equal(await chat.page.$eval("#log", log => log.scrollTop), before);
  await chat.page.click("#chip");
  await chat.page.locator("#chip").waitFor({ state: "hidden" });
  assert.ok(await bottom() < 2);
});

test("the name is remembered for the next window, the seat for a reload", async () => {
  const hall = await open("/#hall");
  await chat.page.fill("#name", "ada");
  await chat.page.click("#join");
  await chat.state("open");
  await chat.page.reload();
  await chat.state("open");
  assert.equal(hall.sockets.length, 2, "a reload goes straight back");
  const second = await chat.context.newPage();
  await second.route("**", route => route.fulfill({ contentType: "text/html", body: HTML }));
  await second.goto(`${ORIGIN}/#hall`);
  assert.equal(await second.inputValue("#name"), "ada");
  assert.equal(await second.isVisible("#join"), true, "a second window asks first");
});
