"""One member of a room, by way of Python's websockets.

    room.py ADDRESS ROOM USER MEMBERS MESSAGES

Joins, prints `joined`, waits for a line of input, says MESSAGES messages while it listens, and
listens until it has those of all MEMBERS. Then prints them, byte for byte, one a line. What is
missing, repeated or out of order is an error.
"""

import asyncio
import json
import sys

import websockets

SECONDS = 60


class Transcript:
    """What the room said, checked as it comes."""

    def __init__(self, offset):
        self.offset = offset
        self.next = {}
        self.texts = []

    def take(self, text):
        message = json.loads(text)
        if message["sender"] == "system":
            assert "offset" not in message, f"an announcement with an offset: {text}"
            return
        self.offset += 1
        assert message["offset"] == self.offset, f"a hole or a repetition before {text}"
        content = message["content"]
        assert message["sender"] == content["from"], f"somebody else's name: {text}"
        n = self.next.get(content["from"], 0)
        assert content["n"] == n, f"out of the sender's order: {text}"
        self.next[content["from"]] = n + 1
        self.texts.append(text)


async def say(socket, user, messages):
    for n in range(messages):
        await socket.send(json.dumps({"content": {"from": user, "n": n}}))


async def member(address, room, user, members, messages):
    # websockets stops reading while many messages wait to be taken, and at the end waits in vain
    # for the close frame behind announcements that nobody takes any more: no bound, no stop.
    url = f"ws://{address}/ws/{room}/{user}"
    async with websockets.connect(url, max_queue=None) as socket:
        joined = json.loads(await socket.recv())
        assert joined["type"] == "joined" and joined["room"] == room, f"not joined: {joined}"
        print("joined", flush=True)
        assert await asyncio.to_thread(sys.stdin.readline), "whoever started this is gone"
        transcript = Transcript(joined["offset"])
        speaking = asyncio.create_task(say(socket, user, messages))
        while len(transcript.texts) < members * messages:
            transcript.take(await socket.recv())
        await speaking
    assert socket.close_code == 1000, f"closed with {socket.close_code}"
    print("\n".join(transcript.texts))


async def main(address, room, user, members, messages):
    async with asyncio.timeout(SECONDS):
        await member(address, room, user, int(members), int(messages))


asyncio.run(main(*sys.argv[1:]))
