"""Turns the results of a run into a table for the terminal, and into Markdown.

In:    a `Report`: what was measured and how.
Out:   text; Markdown for the run's folder and for the README; how many verdicts failed.
Never: measures, draws or writes files.
"""

from dataclasses import dataclass
from statistics import median

import figures
from figures import FAIL, NOTE, PASS
from lines import PER_CPU
from servers import OURS

LIMITS = """\
What this does not show: a network card (both ends are on loopback, where the sender's CPU also does
most of the receiver's TCP work), TLS, compression, more than one core, clients that are slow or far
away, or memory in the kernel. Each server has one core to itself and the generator the other; on a
shared box only ratios within one run mean something, and of them those well beyond the spread.
The peers run as their own documentation does it, without a search for better settings."""

# Of the servers' core, in the median.
OTHERS_PERCENT_MAX = 10
# Beside the requirements stands what the title of a line cannot say.
CLOSED = "closed loop: what is in flight is fixed, so latency is backlog over throughput"


@dataclass
class Report:
    """Everything a run is: recorded as JSON, and enough to draw it again."""

    about: dict
    lines: list
    results: dict

    def rows(self, line):
        """Whoever was measured on a line."""
        runs = self.results.get(line.name, {})
        return [figures.summarize(line, name, runs[name]) for name in runs]

    def sides(self, line):
        """The row that must reach something, and the one it is compared with."""
        rows = {row.name: row for row in self.rows(line)}
        if line.ways:
            names = [way.name for way in line.ways]
            return rows.get(names[0]), rows.get(names[1]) if len(names) > 1 else None
        peers = [rows[name] for name in self.about["peers"] if name in rows]
        return rows.get(OURS), figures.best(line, peers)

    def verdicts(self, line):
        """What passed and failed on a line."""
        subject, other = self.sides(line)
        return figures.verdicts(line, subject, other) if subject else []


def number(value):
    """Three digits or four, with a unit of thousands."""
    if value is None:
        return "-"
    for limit, unit in ((1e6, " M"), (1e3, " k")):
        if abs(value) >= limit:
            shown = value / limit
            return f"{shown:.{0 if shown >= 100 else 1 if shown >= 10 else 2}f}{unit}"
    return f"{value:.0f}" if abs(value) >= 10 else f"{value:.2f}"


def percent(value):
    return "-" if value is None else f"{value:.0f} %"


def milliseconds(value):
    return "-" if value is None else f"{value / 1000:.2f}"


def mebibytes(value):
    return "-" if value is None else f"{value / 2**20:.1f}"


def times(value):
    return "-" if value is None else f"{value:.2f} x"


HEADS = (
    "server", "figure", "spread", "ratio", "a second", "core", "others", "generator", "p50 ms",
    "p99 ms", "p99.9 ms", "RSS MiB",
)  # fmt: skip


def cells(row, other):
    """A row as words, in the order of `HEADS`."""
    return [
        row.name, number(row.value), percent(row.spread), times(figures.ratio(row, other)),
        number(row.per_second), percent(row.core), percent(row.others), percent(row.generator),
        milliseconds(row.p50), milliseconds(row.p99), milliseconds(row.p999), mebibytes(row.rss),
    ]  # fmt: skip


def heading(line):
    per = f"{line.unit} a server CPU-second" if line.figure == PER_CPU else line.unit
    return f"{line.name}: {line.title} ({per})"


def ordered(report, line):
    """The rows, best first; whoever has no figure is last."""
    best_first = -1 if line.figure == PER_CPU else 1
    return sorted(
        report.rows(line), key=lambda row: (row.value is None, best_first * (row.value or 0))
    )


def text(report):
    """The terminal's tables."""
    said = []
    for line in report.lines:
        if not report.rows(line):
            continue
        _, other = report.sides(line)
        table = [list(HEADS)] + [cells(row, other) for row in ordered(report, line)]
        widths = [max(len(row[at]) for row in table) for at in range(len(HEADS))]
        said.append(heading(line))
        for row in table:
            first, *rest = [
                cell.ljust(width) if at == 0 else cell.rjust(width)
                for at, (cell, width) in enumerate(zip(row, widths))
            ]
            said.append(f"     {first}  {'  '.join(rest)}".rstrip())
        said += [f"     {row.name}: {error}" for row in report.rows(line) for error in row.errors]
        said += [f"{word} {line.name}: {what}" for word, what in report.verdicts(line)]
        said.append("")
    passed, failed = counts(report)
    return "\n".join([*said, disturbed(report), f"{passed} passed, {failed} failed"])


def smoke(report):
    """Whether each line ran and was right with everybody, without a word about figures."""
    said = []
    for line in report.lines:
        rows = report.rows(line)
        wrong = [f"{row.name}: {error}" for row in rows for error in row.errors]
        names = ", ".join(row.name for row in rows)
        said.append(f"{FAIL if wrong else PASS} {line.name}: {'; '.join(wrong) or names}")
    return "\n".join(said)


def disturbed(report):
    """How busy others kept the servers' core, and what that means for the figures."""
    found = [row.others for line in report.lines for row in report.rows(line)]
    found = [others for others in found if others is not None]
    if not found:
        return ""
    middle, most = median(found), max(found)
    trust = "" if middle < OTHERS_PERCENT_MAX else "; too busy a box for figures to be kept"
    return f"others had {middle:.0f} % of the servers' core, at most {most:.0f} %{trust}"


def counts(report):
    """How many verdicts passed, and how many failed."""
    words = [word for line in report.lines for word, _ in report.verdicts(line)]
    return words.count(PASS), words.count(FAIL)


def markdown_table(heads, rows):
    """A table whose first column is text and whose others are numbers."""
    marks = ["---"] + ["---:"] * (len(heads) - 1)
    return "\n".join("| " + " | ".join(row) + " |" for row in [list(heads), marks, *rows])


def required(line):
    """What a line requires, in few words."""
    if line.must is not None:
        return f">= {line.must:.2f} x"
    if line.at_most is not None:
        return f"<= {line.at_most:g}"
    return ""


def judged(report, line):
    """PASS or FAIL of a whole line, or nothing."""
    words = [word for word, _ in report.verdicts(line)]
    return FAIL if FAIL in words else PASS if PASS in words else ""


def summary(report):
    """One row a line: ours beside every peer."""
    peers = report.about["peers"]
    heads = ["", OURS, *peers, "ratio", "must be", ""]
    rows = []
    for line in report.lines:
        measured = {row.name: row for row in report.rows(line)}
        if line.ways or line.rate or not measured:
            continue
        subject, other = report.sides(line)
        best = other.name if other else None
        shown = [
            f"**{number(measured[peer].value)}**" if peer == best else number(measured[peer].value)
            if peer in measured else "-" for peer in peers
        ]  # fmt: skip
        mine = number(subject.value) if subject else "-"
        row = [line.title, mine, *shown, times(figures.ratio(subject, other)), required(line)]
        rows.append([*row, judged(report, line)])
    return markdown_table(heads, rows)


def opened(report):
    """The open loops: latency of ours beside the best peer's."""
    heads = [
        "", "p50 ms", "p99 ms", "best peer", "its p50 ms", "its p99 ms",
        "CPU a message beside it", "",
    ]  # fmt: skip
    rows = []
    for line in report.lines:
        subject, other = report.sides(line)
        if line.ways or not line.rate or subject is None or other is None:
            continue
        saved = figures.ratio(other, subject)
        rows.append([
            line.title, milliseconds(subject.p50), milliseconds(subject.p99), other.name,
            milliseconds(other.p50), milliseconds(other.p99), times(saved), judged(report, line),
        ])  # fmt: skip
    return markdown_table(heads, rows) if rows else ""


def alone(report):
    """Ours against ours, and ours by itself."""
    rows = []
    for line in report.lines:
        if line.ways and report.rows(line):
            subject, other = report.sides(line)
            values = [number(row.value) if row else "-" for row in (subject, other)]
            said = "; ".join(what for _, what in report.verdicts(line))
            rows.append([line.title, *values, said, judged(report, line)])
    return markdown_table(["", "first", "second", "found", ""], rows) if rows else ""


def about(report):
    """Where and how, in one sentence."""
    facts = report.about
    return (
        f"{facts['date']}, {facts['cpu']}, {facts['cpus']} CPUs, Linux {facts['kernel']}, "
        f"commit {facts['commit']}; medians, {facts['rounds']} x {facts['seconds']} s a server, "
        f"in turn"
    )


def readme(report, folder):
    """What stands in the README between its marks."""
    return f"""\
Operations a server CPU-second, all threads; the idle rows are bytes of RSS a connection.
{about(report)}.
Raw data, every percentile and the versions: [{folder}]({folder}/peers.md).

![Ratios to the best peer, a bar a server]({folder}/peers.svg)

{summary(report)}

At 70 % of the best peer's closed-loop rate, latency from the time a message was due:

{opened(report)}

{LIMITS}
"""


def page(report):
    """The run's own page."""
    said = [
        "# Side by side", f"{about(report)}; {disturbed(report)}.", f"`{report.about['command']}`",
        "![Ratios to the best peer](peers.svg)", LIMITS, "## Versions",
        "\n".join(f"- {name}: {what}" for name, what in report.about["versions"].items()),
        "## Summary", summary(report), "## Open loop", opened(report), "## Ours alone",
        alone(report), f"## Every line\n\nWithout a rate a line is a {CLOSED}.",
    ]  # fmt: skip
    for line in report.lines:
        rows = ordered(report, line)
        if not rows:
            continue
        _, other = report.sides(line)
        said.append(f"### {heading(line)}")
        said.append(markdown_table(HEADS, [cells(row, other) for row in rows]))
        verdicts = [f"- {word.strip()} {what}".replace("-  ", "- ") for word, what in
                    report.verdicts(line)]  # fmt: skip
        errors = [f"- {row.name}: {error}" for row in rows for error in row.errors]
        said.append("\n".join(verdicts + errors))
    return "\n\n".join(part for part in said if part) + "\n"
