"""Turns lines and contenders into runs: a fresh server each, one generator, in turn.

In:    lines, the names of the peers, variants, lengths.
Out:   runs by line and contender: what the generator said, or an error.
Never: judges a figure.
"""

import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import figures
import servers
from lines import PER_CPU, RSS, open_loop

# Of the best peer's closed-loop rate.
OPEN_LOOP_SHARE = 0.7
# Beyond the window and the warm-up: connecting, above all.
GENERATOR_SECONDS_MAX = 120
# More than its core a server cannot have had, but for the rounding of clock ticks.
CORE_PERCENT_MAX = 150
# A closed loop keeps a server busy. One that had less of its core than this was not let run, and
# what it did says nothing beside the clock ticks that it was charged for. It is tried again, in a
# window twice as long each time.
CORE_PERCENT_MIN = 10
TRIES = 4


@dataclass
class Plan:
    """What is run, and how long."""

    peers: list
    variants: dict
    rounds: int
    seconds: float
    warmup: float
    cores: tuple
    generator: str
    core_percent_min: float = CORE_PERCENT_MIN
    results: dict = field(default_factory=dict)

    def contenders(self, line):
        """Who runs on a line, ours first."""
        if line.ways:
            return [way.name for way in line.ways]
        return [servers.OURS, *self.variants, *self.peers]

    def run_all(self, lines, contenders=None):
        """All lines, round by round; who begins changes from round to round."""
        for number in range(self.rounds):
            for line in lines if number == 0 else [line for line in lines if not line.once]:
                names = self.contenders(line) if contenders is None else contenders[line.name]
                start = number % len(names)
                for name in names[start:] + names[:start]:
                    run = self.run_undisturbed(line, name)
                    self.results.setdefault(line.name, {}).setdefault(name, []).append(run)
                    which = f"round {number + 1}/{self.rounds}"
                    say(f"{which}  {line.name}  {name}  {short(line, run)}")

    def run_undisturbed(self, line, name):
        """A run in which the server had its core, if it gets one."""
        for number in range(TRIES):
            run = self.run(line, name, 2**number)
            if not starved(line, run, self.core_percent_min):
                return run
        return {"error": f"{TRIES} times the server hardly got its core: this box is too busy"}

    def run(self, line, name, longer):
        """One server, one window, `longer` times as long as the plan says."""
        way = next((way for way in line.ways if way.name == name), None)
        flags = [*line.server, *(way.server if way else ())]
        more = way.generator if way else ()
        try:
            who = servers.OURS if way else name
            words = servers.command(who, self.variants, flags)
            with servers.Server(who, words, self.cores[0], servers.BUILT / "logs") as server:
                if line.figure == RSS:
                    server.settle()
                counts = line.at_home and way
                before = server.counters() if counts else None
                core = Core(self.cores[0], server.pid)
                run = self.generate(line, more, server, longer)
                run["others_percent"] = core.others_percent()
                if counts:
                    run["cross_shard_a_message"] = crossed(before, server.counters())
                return run
        except (servers.ServerError, OSError, ValueError) as error:
            return {"error": str(error)}

    def generate(self, line, more, server, longer):
        """Runs the generator against a server, and gives what it said."""
        seconds = (line.seconds or self.seconds) * longer
        words = [
            self.generator, "bench", *line.generator, *more,
            "--url", f"ws://127.0.0.1:{server.port}", "--pid", str(server.pid),
            "--cpu", str(self.cores[1]), "--seconds", str(seconds), "--warmup", str(self.warmup),
            "--json", "--no-progress",
        ]  # fmt: skip
        if line.rate:
            words += ["--rate", str(line.rate)]
        limit = seconds + self.warmup + GENERATOR_SECONDS_MAX
        try:
            done = subprocess.run(
                words, capture_output=True, text=True, timeout=limit, check=False, cwd=servers.ROOT
            )
        except subprocess.TimeoutExpired as error:
            raise servers.ServerError(f"the generator was not done after {limit} s") from error
        if done.returncode != 0:
            said, log = done.stderr.strip() or done.stdout.strip(), server.last_words()
            said = f"{said[-1000:]}{log and f' (the server: {log[-500:]})'}"
            # One line, so that it stands in tables.
            raise servers.ServerError(" ".join(said.split()))
        return kept(json.loads(done.stdout.strip().splitlines()[-1]))


KEPT = (
    "operations", "seconds", "per_second", "server", "generator", "latency_us",
    "received_per_read",
)  # fmt: skip


def kept(said):
    """What of the generator's JSON is recorded; digits that mean nothing are not."""
    return {key: rounded(said.get(key)) for key in KEPT}


def rounded(value):
    """The value, or what is in it, to four places."""
    if isinstance(value, dict):
        return {key: rounded(each) for key, each in value.items()}
    return round(value, 4) if isinstance(value, float) else value


def starved(line, run, core_percent_min):
    """Whether a run says nothing, since the server was not let run."""
    if "error" in run or line.figure != PER_CPU:
        return False
    least = 0 if line.rate else core_percent_min
    core = run["server"]["core_percent"]
    return run["operations"] == 0 or not least <= core <= CORE_PERCENT_MAX


class Core:
    """What a core does from now on beside running one process."""

    def __init__(self, core, pid):
        self.core, self.pid = core, pid
        self.since = self.ticks()

    def ticks(self):
        """Clock ticks of the core: all, busy, and those that the process was charged for."""
        stat = Path("/proc/stat").read_text()
        fields = next(each for each in stat.splitlines() if each.startswith(f"cpu{self.core} "))
        # user nice system idle iowait irq softirq steal; guest time is within user.
        each = [int(field) for field in fields.split()[1:9]]
        own = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return sum(each), sum(each) - each[3] - each[4], int(own[11]) + int(own[12])

    def others_percent(self):
        """The share of the core that went to others, interrupts among them."""
        every, busy, own = (now - then for now, then in zip(self.ticks(), self.since))
        return round(100 * max(busy - own, 0) / every, 1) if every else 0.0


def crossed(before, after):
    """Messages between shards a chat message; None where ours does not count them."""
    if "mesh_messages" not in after:
        return None
    said = after["said"] - before["said"]
    return (after["mesh_messages"] - before["mesh_messages"]) / said if said else None


def open_loops(plan, lines):
    """The lines at a fixed rate that follow from closed-loop results, and who runs on each."""
    opened, who = [], {}
    for line in lines:
        rows = [
            figures.summarize(line, name, plan.results.get(line.name, {}).get(name, []))
            for name in plan.peers
        ]
        best = figures.best(line, rows)
        if not line.fan_out or best is None:
            continue
        rate = max(1, round(OPEN_LOOP_SHARE * best.per_second / line.fan_out))
        opened.append(open_loop(line, rate))
        who[opened[-1].name] = [servers.OURS, *plan.variants, best.name]
    return opened, who


def short(line, run):
    """A run in a few words."""
    if "error" in run:
        return f"FAILED: {run['error']}"
    return f"{figures.figure(line.figure, run):,.0f}"


def say(text):
    """Progress, for whoever watches."""
    print(text, file=sys.stderr, flush=True)
