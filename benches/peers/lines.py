"""Turns the table of the requirements into lines: what is run, on whom, and what must come out.

In:    nothing; numbers of connections are scaled down for a quick run.
Out:   `LINES`, in the order in which they are run and shown.
Never: runs anything.
"""

from dataclasses import dataclass, replace

# What is measured of a run, by the name of a figure of `figures.py`.
PER_CPU = "per_cpu_second"
RSS = "rss_per_connection"
HOLD = "cpu_us_per_connection"


@dataclass(frozen=True)
class Way:
    """One of ours that a line compares: its generator's and its server's own arguments."""

    name: str
    generator: tuple = ()
    server: tuple = ()


@dataclass(frozen=True)
class Line:
    """One row of the table."""

    name: str
    title: str
    unit: str
    generator: tuple
    figure: str = PER_CPU
    # Flags of our server.
    server: tuple = ()
    # Empty: ours, the variants and the peers. Else ours alone, in these ways.
    ways: tuple = ()
    # Ours, or the first way, over the best peer, or over the second way: at least, and what to
    # reach for. None: shown, not required.
    must: float = None
    reach: float = None
    # The figure of ours itself: at most.
    at_most: float = None
    # The percentiles that may not be worse than those of what it is compared with.
    latency: tuple = ()
    # Whether chat messages may not travel between shards.
    at_home: bool = False
    # Deliveries a message; 0 where an open loop cannot be made of this line.
    fan_out: int = 0
    # Seconds of the window, where they are not the ones asked for.
    seconds: float = None
    # Messages a second over all, for an open loop of its own.
    rate: int = None
    # Long ones are run in the first round only.
    once: bool = False


def echo(depth, must=None, reach=None):
    return Line(
        f"echo-{depth}", f"echo, 1 000 connections x 64 B, {depth} in flight each", "echoes",
        ("echo", "--connections", "1000", "--depth", str(depth), "--bytes", "64"),
        must=must, reach=reach, fan_out=1,
    )  # fmt: skip


def room(name, publishers, window, must=None, reach=None):
    speakers = "1 publisher" if publishers == 1 else f"{publishers} publishers"
    return Line(
        name, f"1 room x 1 000, {speakers}, window {window}", "deliveries",
        ("fanout", "--rooms", "1", "--members", "1000", "--publishers", str(publishers),
         "--window", str(window), "--bytes", "64", "--mode", "raw"),
        must=must, reach=reach, fan_out=1000,
    )  # fmt: skip


def rooms(publishers, must, reach=None):
    speakers = "1 publisher" if publishers == 1 else f"{publishers} publishers"
    return Line(
        f"rooms-p{publishers}", f"100 rooms x 10, {speakers} a room", "deliveries",
        ("fanout", "--rooms", "100", "--members", "10", "--publishers", str(publishers),
         "--window", "1", "--bytes", "64", "--mode", "raw"),
        must=must, reach=reach, fan_out=10,
    )  # fmt: skip


# Messages longer than the default allows, and a queue and a turn that hold some of them.
LARGE = (
    "--set", "client.message_bytes=1MiB", "--set", "client.queue_bytes=8MiB",
    "--set", "rooms.tick_bytes=1MiB",
)  # fmt: skip


def large(kilobytes):
    size = str(kilobytes * 1024)
    return (
        Line(
            f"large-room-{kilobytes}k", f"1 room x 100, 1 publisher, {kilobytes} KiB",
            "deliveries",
            ("fanout", "--rooms", "1", "--members", "100", "--publishers", "1", "--window", "1",
             "--bytes", size, "--mode", "raw"),
            server=LARGE,
        ),
        Line(
            f"large-echo-{kilobytes}k", f"echo, 100 connections x {kilobytes} KiB", "echoes",
            ("echo", "--connections", "100", "--depth", "1", "--bytes", size),
            server=LARGE,
        ),
    )  # fmt: skip


def without(arguments, option):
    """The arguments without an option and its value."""
    at = arguments.index(option)
    return arguments[:at] + arguments[at + 2 :]


ROOM = room("room-p1-w1", 1, 1, must=1.10, reach=1.25)
CROWD = room("room-p20-w2", 20, 2, must=2.5, reach=4.0)
ROOMS = rooms(1, must=1.08)

JSON_AND_RAW = (Way("json", ("--mode", "json")), Way("raw", ("--mode", "raw")))
TWO_AND_ONE = (
    Way("2 shards", server=("--shards", "2")),
    Way("1 shard", server=("--shards", "1")),
)
WAIT_AND_NONE = (
    Way("waits"),
    Way("does not wait", server=("--set", "server.gather_wait=0s")),
)


def alone(line, name, what, ways, **more):
    """A line that compares ours with ours."""
    title = f"{line.title}: {what}"
    kept = {"must": None, "reach": None, "fan_out": 0, **more}
    return replace(line, name=name, title=title, ways=ways, **kept)


LINES = (
    echo(1, must=1.12, reach=1.25),
    echo(8, must=1.4, reach=1.8),
    echo(16),
    ROOM,
    room("room-p1-w8", 1, 8, must=1.12, reach=1.25),
    room("room-p8-w1", 8, 1, must=1.8, reach=2.5),
    CROWD,
    ROOMS,
    rooms(10, must=2.0),
    *large(16),
    *large(256),
    Line(
        "handshakes", "connect, upgrade, close; 64 in flight", "handshakes",
        ("churn", "--in-flight", "64"), must=1.1, latency=("p99",),
    ),
    Line(
        "idle-echo", "15 000 idle connections to /echo", "B of RSS a connection",
        ("idle", "--connections", "15000", "--members", "0", "--mode", "raw"), figure=RSS,
    ),
    Line(
        "idle-rooms", "15 000 idle members in rooms of 10", "B of RSS a connection",
        ("idle", "--connections", "15000", "--members", "10", "--mode", "raw"), figure=RSS,
        at_most=400,
    ),
    Line(
        "idle-json", "15 000 idle members in rooms of 10, JSON", "B of RSS a connection",
        ("idle", "--connections", "15000", "--members", "10", "--mode", "json"), figure=RSS,
        ways=(Way("json"),), at_most=400,
    ),
    alone(replace(ROOM, generator=without(ROOM.generator, "--mode")), "json-room",
          "JSON against raw", JSON_AND_RAW, must=0.85),
    alone(replace(ROOMS, generator=without(ROOMS.generator, "--mode")), "json-rooms",
          "JSON against raw", JSON_AND_RAW, must=0.85),
    alone(ROOMS, "shards-rooms", "2 shards against 1", TWO_AND_ONE, must=0.95, at_home=True),
    alone(CROWD, "shards-room", "2 shards against 1", TWO_AND_ONE, must=0.95, at_home=True),
    # To save a tenth of the CPU a delivery is to deliver 1/0.9 as much in a second of it.
    alone(CROWD, "wait", "1 500 messages a second, with the little wait and without",
          WAIT_AND_NONE, must=1 / 0.9, latency=("p50", "p99"), rate=1500),
    Line(
        "holding", "15 000 idle members, a ping each every 25 s",
        "us of CPU a second and connection",
        ("idle", "--connections", "15000", "--members", "10", "--mode", "json"), figure=HOLD,
        ways=(Way("json"),), server=("--set", "heartbeat.ping_after=25s"), at_most=1.0,
        seconds=50, once=True,
    ),
)  # fmt: skip


def open_loop(line, rate):
    """The same load at a fixed rate, where latency means something."""
    return replace(
        line, name=f"{line.name}-open", rate=rate, latency=("p99",), must=None, reach=None,
        fan_out=0, title=f"{line.title}; {rate} messages a second",
    )  # fmt: skip


def quick(line):
    """The line at a length that only shows that it runs and is right."""
    arguments = ["500" if word == "15000" else word for word in line.generator]
    seconds = None if line.seconds is None else 1.0
    server = tuple(word.replace("=25s", "=300ms") for word in line.server)
    return replace(line, generator=tuple(arguments), seconds=seconds, server=server)
