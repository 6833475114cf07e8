"""Turns a report into the files of its run's folder and the README's part, and back.

In:    a `Report`; facts about this box.
Out:   `benches/runs/<date>-<kernel>-<cpu>/peers.{json,md,svg}`; the README between its marks.
Never: measures.
"""

import datetime
import json
import os
import platform
import re
from pathlib import Path

import chart
import lines
import servers
import tables

RUNS = servers.ROOT / "benches" / "runs"
README = servers.ROOT / "README.md"
BEGIN = "<!-- peers: from here on written by benches/peers/run --readme -->"
END = "<!-- peers: to here -->"


class RecordError(Exception):
    """A record that is not there or has no place, in words for people."""


def facts(plan, command):
    """What a record says of the box and of how it was measured."""
    now = datetime.datetime.now(datetime.timezone.utc)
    return {
        "date": now.strftime("%Y-%m-%d"), "command": command, "commit": servers.commit(),
        "kernel": platform.release(), "cpu": cpu(), "cpus": os.cpu_count(),
        "load_before": os.getloadavg()[0], "rounds": plan.rounds, "seconds": plan.seconds,
        "warmup": plan.warmup, "peers": plan.peers, "variants": plan.variants,
        "versions": servers.versions([servers.OURS, *plan.peers]),
    }  # fmt: skip


def cpu():
    found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return found[1] if found else "unknown"


def slug(text):
    return "-".join(re.findall(r"[a-z0-9.]+", text.lower()))


def folder(about):
    """Where a run is recorded."""
    return RUNS / "-".join([about["date"], slug(about["kernel"]), slug(about["cpu"])])


def write(report, into):
    """Writes all three; gives the folder, seen from the project's root."""
    into.mkdir(parents=True, exist_ok=True)
    (into / "peers.json").write_text(raw(report))
    (into / "peers.md").write_text(tables.page(report))
    (into / "peers.svg").write_text(chart.draw(report))
    return into.relative_to(servers.ROOT) if into.is_relative_to(servers.ROOT) else into


def raw(report):
    """The JSON, a run a line: raw data that people can read too."""
    ran = [line for line in report.lines if line.name in report.results]
    return braced({
        "about": json.dumps(report.about),
        "arguments": json.dumps({line.name: " ".join(line.generator) for line in ran}),
        "rates": json.dumps({line.name: line.rate for line in ran if line.name.endswith("-open")}),
        "results": braced({line.name: by_server(report.results[line.name]) for line in ran}),
    })  # fmt: skip


def by_server(results):
    """The runs of one line."""
    lists = {who: ",\n".join(json.dumps(run) for run in runs) for who, runs in results.items()}
    return braced({who: f"[\n{runs}]" for who, runs in lists.items()})


def braced(members):
    """An object, a member a line; the members' values are JSON already."""
    inside = ",\n".join(f"{json.dumps(key)}: {value}" for key, value in members.items())
    return f"{{\n{inside}\n}}\n"


def read(path):
    """A record, with its lines as they are defined today."""
    said = json.loads(path.read_text())
    known = [line for line in lines.LINES if line.name in said["results"]]
    opened = [
        lines.open_loop(line, said["rates"][f"{line.name}-open"])
        for line in known if f"{line.name}-open" in said["rates"]
    ]  # fmt: skip
    return tables.Report(said["about"], [*known, *opened], said["results"])


def rewrite_readme():
    """Draws the newest record again and puts it into the README; gives its folder."""
    records = sorted(RUNS.glob("*/peers.json"), key=lambda path: path.parent.name)
    if not records:
        raise RecordError("there is no record: run benches/peers/run --record first")
    report = read(records[-1])
    shown = write(report, records[-1].parent)
    README.write_text(placed(README.read_text(), tables.readme(report, shown)))
    return shown


def placed(text, part):
    """A text with another part between its marks."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise RecordError(f"README.md has no place for it: two lines, {BEGIN} and {END}")
    return f"{before}{begin}\n{part}{end}{after}"
