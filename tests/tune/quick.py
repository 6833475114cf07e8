#!/usr/bin/env python3
"""A real `ringhall tune --quick`, and what it wrote: one PASS or FAIL a line.

    tests/tune/quick.py BINARY [FOLDER]

The figures are this box's own business; that there are some, that they are all there, that the
files are what they should be and that a server starts with them is checked. By force, since
whoever runs the tests may have other work on the box. FOLDER keeps the report and the picture.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
import xml.dom.minidom
from pathlib import Path

QUICK_SECONDS = 90
START_SECONDS = 20
FILES = {
    "ringhall.toml",
    "90-ringhall.conf",
    "ringhall.service.d/10-tuned.conf",
    "ringhall.socket.d/10-shards.conf",
    "tune-report.json",
    "tune-report.svg",
    ".ringhall-tune.json",
}

binary = str(Path(sys.argv[1]).resolve())
environment = {k: v for k, v in os.environ.items() if not k.startswith("RINGHALL_")}
failed = False


def check(name, right, why=""):
    global failed
    failed = failed or not right
    print(f"{'PASS' if right else 'FAIL'} {name}" + ("" if right else f": {why}"), flush=True)


def run(*arguments):
    return subprocess.run(
        [binary, *arguments], env=environment, capture_output=True, text=True, timeout=300
    )


def files(folder):
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}


def settings(path):
    """`key = value` or `Key=value` lines, in order."""
    lines = path.read_text().splitlines()
    return [re.split(r"\s*=\s*", l, maxsplit=1) for l in lines if l and l[0] not in "#[" and "=" in l]


def serve(config):
    """Starts a server with a file; gives its health's status code."""
    server = subprocess.Popen(
        [binary, "serve", "--config", str(config), "--listen", "127.0.0.1:0",
         "--admin", "127.0.0.1:0"],
        env=environment, stderr=subprocess.PIPE, text=True,
    )
    try:
        begin = time.monotonic()
        for line in server.stderr:
            found = re.search(r"chat on (http://[0-9.:]+)", line)
            if found:
                with urllib.request.urlopen(f"{found[1]}/health", timeout=10) as answer:
                    return answer.status
            if time.monotonic() - begin > START_SECONDS:
                break
        return None
    finally:
        server.terminate()
        server.wait(timeout=30)
        server.stderr.close()


def check_report(folder, seconds):
    report = json.loads((folder / "tune-report.json").read_text())
    names = {sweep["name"] for sweep in report["sweeps"]}
    check("the quick sweeps are there", {"receive", "buffers", "batch"} <= names, names)
    check("what was left out is said", len(report["left_out"]) > 0, report["left_out"])
    empty = [s["name"] for s in report["sweeps"] if not s["trials"] and not report["warnings"]]
    check("each sweep has its samples, or a warning", not empty, empty)
    good = all(
        t["operations_per_cpu_second"] > 0 and t["p99_us"] > 0
        for s in report["sweeps"] for t in s["trials"]
    )
    check("each sample has figures", good, "one is 0")
    check("the probes found something", len(report["probes"]) > 0, report["probes"])
    fingerprint = report["fingerprint"]
    check("the box is known again", fingerprint["cpus"] == len(os.sched_getaffinity(0)), fingerprint)
    check(f"in less than {QUICK_SECONDS} s", seconds < QUICK_SECONDS, f"{seconds:.0f} s")
    return report


def check_files(folder, report):
    check("all files are there", files(folder) == FILES, sorted(files(folder) ^ FILES))
    toml = folder / "ringhall.toml"
    checked = run("config", "check", "--config", str(toml))
    check("config check takes it", checked.returncode == 0, checked.stderr)
    named = {leaf for leaf, _ in settings(toml)}
    chosen = {key.split(".")[1] for key in report["decisions"]}
    check("it has the decisions and nothing else", named == chosen, f"{named} {chosen}")
    picture = xml.dom.minidom.parse(str(folder / "tune-report.svg"))
    circles = picture.getElementsByTagName("circle")
    check("the picture is one, with a dot a pair", len(circles) > 0, "no dots")
    sysctl = dict(settings(folder / "90-ringhall.conf"))
    marks = [int(mark) for mark in sysctl["net.ipv4.tcp_mem"].split()]
    pages = os.sysconf("SC_PHYS_PAGES")
    right = len(marks) == 3 and marks == sorted(marks) and 0 <= pages // 2 - marks[2] <= pages // 100
    check("tcp_mem is in pages of this box", right, f"{marks} of {pages}")
    service = dict(settings(folder / "ringhall.service.d/10-tuned.conf"))
    limits = {"LimitNOFILE", "LimitMEMLOCK", "MemoryMax"}
    check("the unit's limits are there", limits <= set(service), service)
    streams = [v for k, v in settings(folder / "ringhall.socket.d/10-shards.conf") if v]
    shards = report["sizes"]["shards"]
    check("one socket a shard", len(streams) == shards and len(set(streams)) == 1, streams)
    check("a server starts with it", serve(toml) == 200, "no answer")


def main():
    folder = Path(tempfile.mkdtemp(prefix="tuned-"))
    try:
        begin = time.monotonic()
        done = run("tune", "--quick", "--force", "--write", str(folder))
        seconds = time.monotonic() - begin
        sys.stdout.write(done.stdout)
        check("tune --quick", done.returncode == 0, done.stderr)
        if done.returncode == 0:
            report = check_report(folder, seconds)
            check_files(folder, report)
            if len(sys.argv) > 2:
                for name in ("tune-report.json", "tune-report.svg", "ringhall.toml"):
                    shutil.copy(folder / name, sys.argv[2])
        reverted = run("tune", "revert", "--write", str(folder))
        check("revert takes all back", reverted.returncode == 0 and not files(folder),
              reverted.stderr)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
