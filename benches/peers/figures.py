"""Turns the runs of a line into medians, spreads and ratios, and says what passed.

In:    a line; its runs, by who was measured, each as the generator's JSON or an error.
Out:   `Row`s, the best peer, verdicts.
Never: runs or prints anything.
"""

from dataclasses import dataclass, field
from statistics import median

from lines import HOLD, PER_CPU, RSS

# So busy a generator, in percent of its core, is late itself: what it calls latency is its own
# backlog, and says nothing of a server.
SATURATED_PERCENT = 99.5

PASS, FAIL, NOTE = "PASS", "FAIL", "    "


@dataclass
class Row:
    """The medians of whoever was measured; None where no run gave the figure."""

    name: str
    runs: int = 0
    errors: list = field(default_factory=list)
    value: float = None
    # Half the range over the rounds, in percent of the median.
    spread: float = None
    per_second: float = None
    core: float = None
    generator: float = None
    p50: float = None
    p99: float = None
    p999: float = None
    rss: float = None
    others: float = None
    cross: float = None


def figure(name, run):
    """One figure of one run."""
    server = run["server"]
    if name == PER_CPU:
        return server["per_cpu_second"]
    # Of an idle run the operations are the connections that were held.
    if name == RSS:
        return (server["rss_bytes"] - server["rss_before_bytes"]) / run["operations"]
    if name == HOLD:
        return server["cpu_seconds"] * 1e6 / run["seconds"] / run["operations"]
    raise ValueError(name)


def spread(values):
    """Half the range in percent of the median."""
    middle = median(values)
    return 100 * (max(values) - min(values)) / 2 / abs(middle) if middle else 0.0


def middle(runs, *path):
    """The median of a number within the runs; None where one of them lacks it."""
    values = []
    for run in runs:
        for key in path:
            run = run.get(key) if run else None
        values.append(run)
    return median(values) if values and None not in values else None


def summarize(line, name, runs):
    """The row of whoever was measured."""
    good = [run for run in runs if "error" not in run]
    row = Row(name, len(good), [run["error"] for run in runs if "error" in run])
    if not good:
        return row
    values = [figure(line.figure, run) for run in good]
    row.value, row.spread = median(values), spread(values)
    row.core = middle(good, "server", "core_percent")
    if line.figure == PER_CPU:
        row.per_second = middle(good, "per_second")
        row.generator = middle(good, "generator", "busy_percent")
        row.p50 = middle(good, "latency_us", "p50")
        row.p99 = middle(good, "latency_us", "p99")
        row.p999 = middle(good, "latency_us", "p999")
    row.rss = middle(good, "server", "rss_bytes")
    row.others = middle(good, "others_percent")
    row.cross = middle(good, "cross_shard_a_message")
    return row


def best(line, rows):
    """The row with the best figure; None where nobody has one."""
    rows = [row for row in rows if row.value is not None]
    if not rows:
        return None
    choose = max if line.figure == PER_CPU else min
    return choose(rows, key=lambda row: row.value)


def ratio(row, other):
    """One figure over another."""
    if row is None or other is None or row.value is None or not other.value:
        return None
    return row.value / other.value


def verdicts(line, subject, other):
    """What must be so of `subject`, beside `other` (the best peer, or our other way): pairs."""
    if subject.value is None or subject.errors:
        return [(FAIL, f"{subject.name}: {(subject.errors or ['was not run'])[0]}")]
    found = []
    times = ratio(subject, other)
    if line.must is not None and times is None:
        found.append((NOTE, f"nobody to compare with; must be {line.must:.2f} x"))
    elif times is not None:
        found.append(compared(line, times, other))
    if line.at_most is not None:
        word = PASS if subject.value <= line.at_most else FAIL
        found.append((word, f"{subject.value:.2f} {line.unit}; must be <= {line.at_most:g}"))
    if other is not None:
        found += [slower(subject, other, which, line.rate) for which in line.latency]
    if line.at_home:
        found.append(at_home(subject))
    return found


def compared(line, times, other):
    text = f"{times:.2f} x {other.name}"
    if line.must is None:
        return NOTE, f"{text}; nothing is required"
    reach = f", reach for {line.reach:.2f}" if line.reach else ""
    return PASS if times >= line.must else FAIL, f"{text}; must be >= {line.must:.2f}{reach}"


def slower(subject, other, which, at_rate):
    """Whether a percentile is worse. `at_rate`: messages were due at a time, sent or not."""
    mine, theirs = getattr(subject, which), getattr(other, which)
    if mine is None or theirs is None:
        return NOTE, f"{which} was not measured"
    text = f"{which} {mine / 1000:.2f} ms, {other.name} {theirs / 1000:.2f} ms"
    busiest = max(row.generator or 0 for row in (subject, other))
    if at_rate and busiest >= SATURATED_PERCENT:
        return NOTE, f"{text}: not judged, the generator was {busiest:.0f} % busy and late itself"
    return PASS if mine <= theirs else FAIL, f"{text}; must be no worse"


def at_home(subject):
    if subject.cross is None:
        return NOTE, "messages between shards: not known, /health has no counter `mesh_messages`"
    word = PASS if subject.cross == 0 else FAIL
    return word, f"{subject.cross:.4f} messages between shards a chat message; must be 0"
