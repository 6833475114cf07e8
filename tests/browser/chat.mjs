// People chat through the real page, the real server and a real browser.
//
// Run by `RINGHALL_BIN=path npm test` in this folder; RINGHALL_SHOTS=dir keeps pictures.

import { after, afterEach, before, beforeEach, test } from "node:test";
import assert from "node:assert/strict";
import { Chat, launch } from "./driver.mjs";
import { Server } from "./server.mjs";

const PHONE = { viewport: { width: 360, height: 640 }, isMobile: true, hasTouch: true };

let browser, server, chats;

before(async () => { browser = await launch(); });
after(() => browser?.close());
beforeEach(async () => {
  chats = [];
  server = await Server.start();
});
afterEach(async () => {
  try {
    for (const chat of chats) await chat.close();
    assert.deepEqual(chats.flatMap(chat => chat.errors), [], "the page's script threw");
  } finally {
    await server.stop();
  }
});

async function open(options) {
  const chat = await Chat.open(browser, server.url, options);
  chats.push(chat);
  return chat;
}

async function pair(room) {
  const [ada, bob] = [await open(), await open()];
  await ada.enter("Ada", room);
  await bob.enter("Bob", room);
  await ada.noticed("joined", "Bob has joined the room");
  return [ada, bob];
}

test("two pages in one room see the same messages in the same order", async () => {
  const [ada, bob] = await pair("tea room/ü#1");
  const lines = 20;
  const talk = async (chat, name) => {
    for (let n = 0; n < lines; n++) await chat.say(`${name} ${n}`);
  };
  await Promise.all([talk(ada, "a"), talk(bob, "b")]);
  for (const chat of [ada, bob]) {
    await chat.heard("Ada", `a ${lines - 1}`);
    await chat.heard("Bob", `b ${lines - 1}`);
  }
  const seen = await ada.messages();
  assert.deepEqual(await bob.messages(), seen);
  assert.equal(seen.length, 2 * lines, "each message once");
  for (const [name, mark] of [["Ada", "a"], ["Bob", "b"]]) {
    const own = seen.filter(line => line.startsWith(`${name}: `));
    const said = Array.from({ length: lines }, (_, n) => `${name}: ${mark} ${n}`);
    assert.deepEqual(own, said, `${name}'s messages stand in the order said`);
  }
  assert.equal(await ada.page.locator("#log .msg.own").count(), lines, "own messages are marked");
  assert.equal(await ada.page.textContent("#count"), "2");
  await ada.shot("two-ada");
  await bob.shot("two-bob");
});

test("who leaves is announced, and gone from the list", async () => {
  const [ada, bob] = await pair("hall");
  await ada.page.waitForSelector("#people-list [data-name=Bob]");
  await bob.close();
  await ada.noticed("left", "Bob has left the room");
  await ada.page.waitForSelector("#people-list [data-name=Bob]", { state: "detached" });
  chats = chats.filter(chat => chat !== bob);
});

test("pages survive a server restart, and keep what was typed meanwhile", async () => {
  const [ada, bob] = await pair("hall");
  await ada.say("before");
  await bob.heard("Ada", "before");
  const port = server.port;
  await server.stop();
  for (const chat of [ada, bob]) {
    await chat.until(() => /Reconnecting|Offline/.test(document.getElementById("state").innerText));
  }
  await ada.say("typed while away");
  assert.equal(await ada.page.inputValue("#input"), "typed while away");
  await ada.shot("restart-waiting");
  server = await Server.start(port);
  await ada.state("open");
  await bob.state("open");
  assert.equal(await ada.page.inputValue("#input"), "typed while away");
  await ada.page.press("#input", "Enter");
  await bob.heard("Ada", "typed while away");
  await bob.say("welcome back");
  await ada.heard("Bob", "welcome back");
  assert.equal(await ada.page.inputValue("#input"), "");
});

test("on a phone nothing overflows and the input is in sight", async () => {
  const phone = await open(PHONE);
  await phone.shot("phone-door");
  await phone.enter("Ada", "a room whose name is longer than the screen is wide, by far");
  await phone.say(`${"unbroken".repeat(60)} and a line\nbelow it`);
  await phone.until(() => document.querySelector("#log .msg"));
  await phone.shot("phone");
  await fits(phone);
  await phone.page.click("#people-button");
  await phone.page.locator("#people-list [data-name=Ada]").waitFor({ state: "visible" });
  await server.stop();
  await phone.until(() => !document.getElementById("retry").hidden);
  await phone.shot("phone-waiting");
  await fits(phone);
  assert.equal(await phone.page.isVisible("#leave"), true);
});

async function fits(chat) {
  const found = await chat.page.evaluate(() => {
    const wide = [...document.querySelectorAll("#hall *")].filter(node => {
      const { left, right, width } = node.getBoundingClientRect();
      return width > 0 && (left < -1 || right > innerWidth + 1);
    });
    const { top, bottom, height } = document.getElementById("input").getBoundingClientRect();
    return {
      wide: wide.map(node => node.id || node.className || node.tagName),
      scrolls: document.documentElement.scrollWidth > innerWidth,
      input: height > 0 && top >= 0 && bottom <= visualViewport.height,
    };
  });
  assert.deepEqual(found, { wide: [], scrolls: false, input: true });
}

test("hostile content is text", async () => {
  const [ada, bob] = await pair("hall");
  const hostile = [
    "<img src=x onerror=\"document.title='owned'\">",
    "<script>document.title='owned'</script>",
    "javascript:document.title='owned'",
  ];
  for (const text of hostile) {
    await ada.say(text);
    await bob.heard("Ada", text);
  }
  // What no page sends, but any client may: JSON that is no string.
  await ada.page.evaluate(room => new Promise((resolve, reject) => {
    const ws = new WebSocket(`ws://${location.host}/ws/${room}/robot`);
    ws.onerror = reject;
    ws.onopen = () => {
      for (const content of [{ html: "<b>bold</b>", n: [1, null, true] }, 42, null, false, []]) {
        ws.send(JSON.stringify({ content }));
      }
    };
    let heard = 0;
    ws.onmessage = event => {
      if (JSON.parse(event.data).sender === "robot" && ++heard === 5) resolve(ws.close(1000));
    };
  }), "hall");
  await bob.heard("robot", '{"html":"<b>bold</b>","n":[1,null,true]}');
  for (const text of ["42", "null", "false", "[]"]) await bob.heard("robot", text);
  const foreign = await bob.page.$$eval("#log .body *", nodes => nodes.map(node => node.tagName));
  assert.deepEqual([...new Set(foreign)], ["CODE"]);
  assert.match(await bob.page.title(), /Ringhall$/);
  await bob.shot("hostile");
});

test("names the server would refuse are refused at the door", async () => {
  const door = await open();
  for (const name of ["system", "", "..", "é".repeat(65), "bell\u0007"]) {
    await door.page.fill("#name", name);
    await door.page.click("#join");
    await door.page.locator("#name-problem").waitFor({ state: "visible" });
    assert.equal(await door.page.isVisible("#hall"), false, JSON.stringify(name));
  }
  await door.shot("door-refused");
  await door.enter("é".repeat(64), "hall");
});
