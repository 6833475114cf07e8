"""Turns the name of a server into a process on a core and a port, and ends it.

In:    names; where the builds are; flags that a line wants of ours.
Out:   commands; running servers that take connections; versions.
Never: measures.
"""

import glob
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Relative ones are seen from the project's root, where everything is built.
TARGET = (ROOT / os.environ.get("CARGO_TARGET_DIR", "target")).resolve()
BUILT = TARGET / "peers"
BINARY = Path(os.environ.get("RINGHALL_BIN", TARGET / "release" / "ringhall")).resolve()
OURS = "ringhall"
# Where Rust's tools stand that a bare environment does not name.
TOOLS = [Path.home() / ".cargo" / "bin", Path("/usr/local/cargo/bin")]
START_SECONDS_MAX = 20
STOP_SECONDS_MAX = 5
# So many looks at its memory, a fiftieth of a second apart, have to show the same.
STILL_LOOKS = 10

NODE = BUILT / "node"
PEERS = {
    "uws": ["node", NODE / "uws.js"],
    "bun": [NODE / "node_modules" / "@oven" / "bun-*" / "bin" / "bun", NODE / "bun.js"],
    "fastwebsockets": [BUILT / "rust" / "release" / "fastwebsockets"],
    "axum": [BUILT / "rust" / "release" / "axum"],
    "tokio-tungstenite": [BUILT / "rust" / "release" / "tokio-tungstenite"],
    "gorilla": [BUILT / "gorilla"],
    "ws": ["node", NODE / "ws.js"],
}


class ServerError(Exception):
    """A server that cannot be used, in words for people."""


def build(peers):
    """Builds ours, unless RINGHALL_BIN names one, and the peers."""
    if "RINGHALL_BIN" not in os.environ:
        made("the server", "cargo", "build", "--quiet", "--locked", "--release")
    if peers:
        made("the peers", str(ROOT / "benches" / "peers" / "build"), *peers)


def made(what, *words):
    """Runs a command that builds something; what it says goes to the terminal."""
    path = ":".join([os.environ.get("PATH", "/usr/bin:/bin"), *map(str, TOOLS)])
    try:
        done = subprocess.run(words, cwd=ROOT, env=os.environ | {"PATH": path}, check=False)
    except OSError as error:
        raise ServerError(f"{what} cannot be built: {words[0]}: {error.strerror}") from error
    if done.returncode != 0:
        raise ServerError(f"{what} cannot be built: {' '.join(words)} ended with {done.returncode}")


def ours(first, flags):
    """The command of our server; `first` is what starts it, `flags` what the line wants."""
    shards = [] if "--shards" in flags else ["--shards", "1"]
    return [
        *first, "serve", *shards, "--listen", "127.0.0.1:{port}",
        "--admin", "127.0.0.1:{admin}", "--log", "warn", *flags,
    ]  # fmt: skip


def command(name, variants, flags):
    """The words that start a server, with {port} and {admin} still in them."""
    if name == OURS:
        return ours([BINARY], flags)
    if name in variants:
        words = shlex.split(variants[name])
        if "{port}" in variants[name]:
            return words
        # Another build of ours, or ours with further flags.
        return ours(words[:1], [*flags, *words[1:]])
    words = [str(word) for word in PEERS[name]] + ["{port}"]
    found = glob.glob(words[0]) if "*" in words[0] else [words[0]]
    if not found:
        raise ServerError(f"{words[0]} is not there: run benches/peers/build {name}")
    return [found[0], *words[1:]]


def free_ports(count):
    """Ports that nobody listens on."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


class Server:
    """A running server, kept on one core with all its threads."""

    def __init__(self, name, words, core, logs):
        self.name = name
        self.port, self.admin = free_ports(2)
        self.has_admin = any("{admin}" in str(word) for word in words)
        logs.mkdir(parents=True, exist_ok=True)
        self.log = logs / f"{name}.log"
        ports = {"{port}": str(self.port), "{admin}": str(self.admin)}
        filled = [re.sub("{port}|{admin}", lambda found: ports[found[0]], str(w)) for w in words]
        environment = {k: v for k, v in os.environ.items() if not k.startswith("RINGHALL_")}
        with open(self.log, "wb") as log:
            try:
                self.process = subprocess.Popen(
                    ["taskset", "-c", str(core), *filled],
                    stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=ROOT,
                    env=environment, start_new_session=True,
                )  # fmt: skip
            except OSError as error:
                raise ServerError(f"{name} does not start: {error}") from error
        self.pid = self.process.pid

    def __enter__(self):
        try:
            self.wait_until_ready()
        except BaseException:
            # It has a session of its own: nobody else would end it.
            self.end()
            raise
        return self

    def wait_until_ready(self):
        """Waits until it takes connections."""
        end = time.monotonic() + START_SECONDS_MAX
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                if self.has_admin:
                    self.asked("ready")
                return
            except OSError:
                pass
            if self.process.poll() is not None or time.monotonic() > end:
                raise ServerError(f"{self.name} does not start:\n{self.last_words()}")
            time.sleep(0.01)

    def settle(self):
        """Waits until its memory stands still, as far as it does: it may still be starting."""
        end = time.monotonic() + START_SECONDS_MAX
        seen = []
        while len(seen) < STILL_LOOKS or len(set(seen[-STILL_LOOKS:])) > 1:
            if time.monotonic() > end:
                break
            seen.append(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
            time.sleep(0.02)

    def __exit__(self, *_):
        self.end()

    def end(self):
        """Ends it and whatever it started."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self.pid, number)
                self.process.wait(STOP_SECONDS_MAX)
            except ProcessLookupError:
                break
            except subprocess.TimeoutExpired:
                continue
        self.process.wait()

    def last_words(self):
        """The end of what it printed."""
        return self.log.read_text(errors="replace")[-2000:].strip()

    def counters(self):
        """The counters of our server."""
        return self.asked("health")["counters"]

    def asked(self, what):
        """What the admin listener of our server says."""
        url = f"http://127.0.0.1:{self.admin}/{what}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            return json.load(answer)


def output(*words):
    """What a command says, or nothing."""
    try:
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip()


def debian(package):
    """The installed version of a Debian package."""
    return output("dpkg-query", "-W", "-f", "${Version}", package)


def versions(names):
    """What each peer is, by name."""
    node = json.loads((ROOT / "benches/peers/node/package.json").read_text())["dependencies"]
    lock = (ROOT / "benches/peers/rust/Cargo.lock").read_text()
    crates = dict(re.findall(r'name = "(.*)"\nversion = "(.*)"', lock))
    on_node = f"Node {output('node', '--version').lstrip('v')}"
    said = {
        OURS: f"{output(BINARY, '--version')}, commit {commit()}",
        "uws": f"uWebSockets.js {node['@trufflesuite/uws-js-unofficial']}, {on_node}",
        "bun": f"Bun {node['bun']}",
        "ws": f"ws {node['ws']}, {on_node}",
        "gorilla": "{}, Echo {}, gorilla/websocket {}".format(
            " ".join(output("go", "version").split()[2:3]),
            debian("golang-github-labstack-echo-dev"),
            debian("golang-github-gorilla-websocket-dev"),
        ),
    }
    for crate in ("axum", "fastwebsockets", "tokio-tungstenite"):
        said[crate] = f"{crate} {crates.get(crate)}, tokio {crates.get('tokio')}, one thread"
    return {name: said[name] for name in names if name in said}


def commit():
    """The commit measured, with a mark where files differ from it."""
    changed = output("git", "status", "--porcelain", "--untracked-files=no")
    return output("git", "rev-parse", "--short=12", "HEAD") + (", changed" if changed else "")
