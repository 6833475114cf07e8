"""Runs the Autobahn cases (PyPI kosoku) against ws://ADDRESS/echo, and holds them to expected.json.

    run.py ADDRESS|BINARY [--write] [CASE...]

Families 1 to 7, 9 and 10. Every case must end as expected.json says, and that file may only say OK
or INFORMATIONAL, for the exchange and for the close. --write makes the file anew from this run;
CASE is an id or a glob such as 9.*, for looking closer. Given the server's binary, it starts one of
its own on a free port. The last line is `N passed, N failed`.
"""

import argparse
import asyncio
import contextlib
import fnmatch
import json
import os
import pathlib
import re
import subprocess
import sys

from kosoku import FailureError, run_fuzzingclient
from kosoku.cases import CASES

EXPECTED = pathlib.Path(__file__).with_name("expected.json")
FAMILIES = {"1", "2", "3", "4", "5", "6", "7", "9", "10"}
GOOD = {"OK", "INFORMATIONAL"}
# The suite itself knows no limit; a case that goes as it should takes 2 s at most.
CASE_SECONDS = 60
# Most cases wait a second for nothing to happen: many at a time. Family 9 moves megabytes.
ABREAST = {"9": 2}
ABREAST_ELSEWHERE = 16


@contextlib.contextmanager
def server(target):
    """Gives the address to test: the target itself, or a server started from that binary."""
    if not os.path.exists(target):
        yield target
        return
    arguments = [target, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--log", "info"]
    # What steers the tests is no configuration of the server.
    bare = {name: value for name, value in os.environ.items() if not name.startswith("RINGHALL_")}
    with subprocess.Popen(arguments, env=bare, stderr=subprocess.PIPE, text=True) as process:
        try:
            for line in process.stderr:
                if found := re.search(r"(?<!admin )http://([0-9.]+:[0-9]+)", line):
                    # What it logs from here on is few lines, far less than the pipe holds.
                    yield found[1]
                    return
            sys.exit(f"{target} did not say where it listens")
        finally:
            process.kill()


async def run_case(url, case, gate):
    """Runs one case; gives its two verdicts and why."""
    async with gate:
        try:
            results = await asyncio.wait_for(run_fuzzingclient(url, [case]), CASE_SECONDS)
        except FailureError as failure:
            results = failure.results
        except TimeoutError:
            return "TIMEOUT", "TIMEOUT", f"not over after {CASE_SECONDS} s"
    if len(results) != 1:
        return "MISSING", "MISSING", f"{len(results)} results"
    [result] = results
    why = f"{result.result} {result.result_close}"
    return result.behavior.value, result.behavior_close.value, why


async def run(url, cases):
    """Runs all cases, those of one family beside each other; gives their verdicts by id."""
    verdicts = {}
    families = {}
    for case in cases:
        families.setdefault(case.split(".")[0], []).append(case)
    for family, members in families.items():
        gate = asyncio.Semaphore(ABREAST.get(family, ABREAST_ELSEWHERE))
        ended = await asyncio.gather(*(run_case(url, case, gate) for case in members))
        verdicts.update(zip(members, ended))
        good = sum({exchange, close} <= GOOD for exchange, close, _ in ended)
        print(f"family {family}: {good} of {len(members)} good", flush=True)
    return verdicts


def differences(verdicts, expected):
    """What is not as expected, as lines by case."""
    lines = {}
    for case, (exchange, close, why) in verdicts.items():
        wanted = expected.get(case)
        if [exchange, close] != wanted:
            lines[case] = f"{case}: {exchange}, {close}; expected {wanted}. {why}"
        elif not {exchange, close} <= GOOD:
            lines[case] = f"{case}: expected.json must not excuse {exchange}, {close}"
    for case in expected.keys() - verdicts.keys():
        lines[case] = f"{case}: expected, but the suite has no such case"
    return lines


def main():
    parser = argparse.ArgumentParser(description="Autobahn cases against ws://ADDRESS/echo")
    parser.add_argument("target", metavar="ADDRESS|BINARY")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("cases", nargs="*", metavar="CASE")
    arguments = parser.parse_args()
    cases = [case for case in CASES if case.split(".")[0] in FAMILIES]
    expected = {} if arguments.write else json.loads(EXPECTED.read_text())
    if arguments.cases:
        def chosen(case):
            return any(fnmatch.fnmatch(case, glob) for glob in arguments.cases)
        cases = [case for case in cases if chosen(case)]
        expected = {case: wanted for case, wanted in expected.items() if chosen(case)}
    with server(arguments.target) as address:
        verdicts = asyncio.run(run(f"ws://{address}/echo", cases))
    if arguments.write:
        expected = {case: [exchange, close] for case, (exchange, close, _) in verdicts.items()}
        rows = (f"  {json.dumps(case)}: {json.dumps(wanted)}" for case, wanted in expected.items())
        EXPECTED.write_text("{\n" + ",\n".join(rows) + "\n}\n")
    wrong = differences(verdicts, expected)
    for line in wrong.values():
        print(line)
    print(f"{len(verdicts.keys() - wrong.keys())} passed, {len(wrong)} failed")
    return 1 if wrong or not verdicts else 0


if __name__ == "__main__":
    sys.exit(main())
