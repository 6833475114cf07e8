// One member of a room, by way of Node's ws.
//
//     room.mjs ADDRESS ROOM USER MEMBERS MESSAGES
//
// Joins, prints `joined`, waits for a line of input, says MESSAGES messages while it listens, and
// listens until it has those of all MEMBERS. Then prints them, byte for byte, one a line. What is
// missing, repeated or out of order is an error.

import assert from "node:assert/strict";
import { once } from "node:events";
import process from "node:process";
import WebSocket from "ws";

const SECONDS = 60;
const [address, room, user] = process.argv.slice(2);
const [members, messages] = process.argv.slice(5).map(Number);

let offset;
const next = new Map();
const texts = [];

function take(text) {
  const message = JSON.parse(text);
  if (message.sender === "system") {
    assert(!("offset" in message), `an announcement with an offset: ${text}`);
    return;
  }
  offset += 1;
  assert.equal(message.offset, offset, `a hole or a repetition before ${text}`);
  const { from, n } = message.content;
  assert.equal(message.sender, from, `somebody else's name: ${text}`);
  assert.equal(n, next.get(from) ?? 0, `out of the sender's order: ${text}`);
  next.set(from, n + 1);
  texts.push(text);
}

async function speak() {
  const input = once(process.stdin, "data");
  console.log("joined");
  await input;
  process.stdin.destroy();
  for (let n = 0; n < messages; n += 1) {
    socket.send(JSON.stringify({ content: { from: user, n } }));
  }
}

setTimeout(() => assert.fail(`${texts.length} messages after ${SECONDS} s`), SECONDS * 1000).unref();
const socket = new WebSocket(`ws://${address}/ws/${room}/${user}`);
socket.on("message", (data, binary) => {
  assert(!binary, "a binary message in a JSON room");
  const text = data.toString();
  if (offset === undefined) {
    const joined = JSON.parse(text);
    assert.equal(joined.type, "joined", `not joined: ${text}`);
    assert.equal(joined.room, room, `not joined: ${text}`);
    offset = joined.offset;
    speak();
    return;
  }
  if (texts.length < members * messages) {
    take(text);
    if (texts.length === members * messages) socket.close(1000);
  }
});
const [code] = await once(socket, "close");
assert.equal(code, 1000, `closed with ${code}`);
assert.equal(texts.length, members * messages, "closed too early");
console.log(texts.join("\n"));
