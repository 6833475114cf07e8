"""What the figures, the tables and the chart make of runs that are known."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import unittest
import xml.dom.minidom
from dataclasses import replace
from pathlib import Path

import chart
import figures
import lines
import record
import servers
import tables
import trials


def run(per_cpu, p99=2000.0):
    return {
        "operations": 1, "seconds": 1.0, "per_second": per_cpu * 0.9,
        "server": {"per_cpu_second": per_cpu, "cpu_seconds": 0.9, "core_percent": 90.0,
                   "rss_bytes": 3_000_000, "rss_before_bytes": 1_000_000},
        "generator": {"busy_percent": 80.0},
        "latency_us": {"p50": 1000.0, "p99": p99, "p999": 9000.0},
    }  # fmt: skip


LINE = next(line for line in lines.LINES if line.name == "echo-1")
ABOUT = {
    "date": "2026-01-02", "cpu": "a CPU", "cpus": 2, "kernel": "6.8", "commit": "abc",
    "versions": {}, "rounds": 3, "seconds": 1.5, "peers": ["uws", "ws"], "variants": {},
    "command": "run",
}  # fmt: skip


def report(ours, uws, ws, line=LINE):
    results = {line.name: {servers.OURS: ours, "uws": uws, "ws": ws}}
    return tables.Report(ABOUT, [line], results)


class Figures(unittest.TestCase):
    def test_a_row_holds_medians_and_half_the_range(self):
        row = figures.summarize(LINE, "uws", [run(100), run(90), run(130)])
        self.assertEqual((row.value, row.runs, row.p99), (100, 3, 2000))
        self.assertAlmostEqual(row.spread, 20.0)

    def test_a_run_that_failed_is_told_and_not_counted(self):
        row = figures.summarize(LINE, "uws", [run(100), {"error": "lost a byte"}])
        self.assertEqual((row.value, row.runs, row.errors), (100, 1, ["lost a byte"]))

    def test_latency_that_a_run_lacks_is_no_number(self):
        row = figures.summarize(LINE, "uws", [run(100, p99=None), run(100)])
        self.assertIsNone(row.p99)

    def test_memory_is_growth_a_connection(self):
        idle = replace(LINE, figure=lines.RSS)
        self.assertEqual(figures.figure(lines.RSS, run(1) | {"operations": 1000}), 2000)
        rows = [figures.Row("uws", value=256), figures.Row("ws", value=9000)]
        self.assertEqual(figures.best(idle, rows).name, "uws")

    def test_holding_is_microseconds_a_second_and_connection(self):
        self.assertAlmostEqual(figures.figure(lines.HOLD, run(1) | {"operations": 1_800_000}), 0.5)

    def test_the_best_peer_has_the_most_and_those_without_a_figure_do_not_count(self):
        rows = [figures.Row("a", value=1), figures.Row("b", value=3), figures.Row("c")]
        self.assertEqual(figures.best(LINE, rows).name, "b")
        self.assertIsNone(figures.best(LINE, rows[2:]))


class Verdicts(unittest.TestCase):
    def words(self, ours, best, line=LINE, **more):
        row = figures.Row("ringhall", value=ours, **more)
        return [word for word, _ in figures.verdicts(line, row, figures.Row("uws", value=best))]

    def test_a_ratio_passes_from_the_requirement_on(self):
        self.assertEqual(self.words(112, 100), [figures.PASS])
        self.assertEqual(self.words(111, 100), [figures.FAIL])

    def test_a_line_without_a_requirement_only_says(self):
        self.assertEqual(self.words(50, 100, replace(LINE, must=None)), [figures.NOTE])

    def test_ours_that_failed_once_fails(self):
        self.assertEqual(self.words(900, 100, errors=["lost a byte"]), [figures.FAIL])

    def test_latency_may_be_equal_and_not_worse(self):
        line = replace(LINE, must=None, latency=("p99",))
        other = figures.Row("uws", value=1, p99=2000)
        for mine, word in ((2000, figures.PASS), (2001, figures.FAIL), (None, figures.NOTE)):
            row = figures.Row("ringhall", value=1, p99=mine)
            self.assertEqual(figures.verdicts(line, row, other)[1][0], word)

    def test_an_absolute_bound_and_messages_between_shards(self):
        line = replace(LINE, must=None, at_most=400)
        self.assertEqual(self.words(400, None, line), [figures.PASS])
        self.assertEqual(self.words(401, None, line), [figures.FAIL])
        home = replace(LINE, must=0.95, at_home=True)
        self.assertEqual(self.words(1, 1, home, cross=0), [figures.PASS] * 2)
        self.assertEqual(self.words(1, 1, home, cross=0.5), [figures.PASS, figures.FAIL])
        self.assertEqual(self.words(1, 1, home), [figures.PASS, figures.NOTE])

    def test_messages_between_shards_are_counted_a_chat_message(self):
        before, after = {"said": 10, "mesh_messages": 4}, {"said": 110, "mesh_messages": 54}
        self.assertEqual(trials.crossed(before, after), 0.5)
        self.assertIsNone(trials.crossed({"said": 0}, {"said": 9}))


    def test_latency_is_not_judged_where_the_generator_itself_was_late(self):
        line = lines.open_loop(LINE, 700)
        other = figures.Row("uws", value=1, p99=2000, generator=80.0)
        for busy, word in ((99.4, figures.FAIL), (99.6, figures.NOTE)):
            row = figures.Row("ringhall", value=1, p99=9000, generator=busy)
            self.assertEqual(figures.verdicts(line, row, other)[1][0], word)
        # In a closed loop a busy generator sends later, and is late for nothing.
        row = figures.Row("ringhall", value=1, p99=9000, generator=100.0)
        closed = replace(LINE, must=None, latency=("p99",))
        self.assertEqual(figures.verdicts(closed, row, other)[1][0], figures.FAIL)


class Lines(unittest.TestCase):
    def test_names_are_unique_and_a_quick_line_is_the_same_line(self):
        names = [line.name for line in lines.LINES]
        self.assertEqual(len(names), len(set(names)))
        self.assertEqual(names, [lines.quick(line).name for line in lines.LINES])

    def test_an_open_loop_has_seventy_percent_of_the_best_peers_messages(self):
        line = next(line for line in lines.LINES if line.name == "room-p1-w1")
        plan = trials.Plan(["uws", "ws"], {}, 1, 1, 0, (0, 1), "")
        plan.results = {line.name: {"uws": [run(2_000_000)], "ws": [run(1_000_000)]}}
        (opened,), who = trials.open_loops(plan, [line])
        self.assertEqual(opened.rate, 1260)
        self.assertEqual(who, {"room-p1-w1-open": ["ringhall", "uws"]})

    def test_a_variant_is_ours_with_flags_or_a_command(self):
        variants = {"one": "/b/ringhall --set server.gather_wait=0s", "two": "x --port={port}"}
        one = servers.command("one", variants, ["--set", "a.b=1"])
        self.assertEqual(one[:4], ["/b/ringhall", "serve", "--shards", "1"])
        self.assertEqual(one[-4:], ["--set", "a.b=1", "--set", "server.gather_wait=0s"])
        self.assertEqual(servers.command("two", variants, []), ["x", "--port={port}"])


class Trials(unittest.TestCase):
    def test_a_server_that_hardly_got_its_core_says_nothing(self):
        for core, starved in ((90, False), (9, True), (1_151_984_700, True)):
            known = run(100)
            known["server"]["core_percent"] = core
            self.assertEqual(trials.starved(LINE, known, 10), starved)
            # At a fixed rate a server may have little to do, and idle it has nothing.
            self.assertEqual(trials.starved(replace(LINE, rate=5), known, 10), core > 150)
            self.assertFalse(trials.starved(replace(LINE, figure=lines.RSS), known, 10))
        self.assertTrue(trials.starved(LINE, run(100) | {"operations": 0}, 0))
        self.assertFalse(trials.starved(LINE, {"error": "lost a byte"}, 0))

    def test_it_is_tried_again_and_then_given_up(self):
        plan = trials.Plan([], {}, 1, 1, 0, (0, 1), "")
        runs, lengths = [run(1) | {"operations": 0}, run(100)], []
        plan.run = lambda line, name, longer: (lengths.append(longer), runs.pop(0))[1]
        self.assertEqual(plan.run_undisturbed(LINE, "uws"), run(100))
        self.assertEqual(lengths, [1, 2])
        plan.run = lambda line, name, longer: run(1) | {"operations": 0}
        self.assertIn("too busy", plan.run_undisturbed(LINE, "uws")["error"])


    def test_what_cannot_be_built_is_said_in_a_sentence(self):
        with self.assertRaisesRegex(servers.ServerError, "the peers cannot be built: no-such-tool"):
            servers.made("the peers", "no-such-tool")
        with self.assertRaisesRegex(servers.ServerError, "false ended with 1"):
            servers.made("the peers", "false")


class Commands(unittest.TestCase):
    """The command as people run it, without a server that could be measured."""

    def command(self, *words):
        return [sys.executable, "-B", str(servers.ROOT / "benches/peers/run"), *words]

    def start(self, *words):
        # Ours ends at once: it is no server at all.
        environment = os.environ | {"RINGHALL_BIN": shutil.which("false")}
        return subprocess.Popen(
            self.command("--no-build", "--peers", "none", "--only", "echo-1", *words),
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def test_what_makes_no_sense_is_bad_usage_and_says_what_does(self):
        for words, said in (
            (("--rounds", "0"), "a number from 1 on"), (("--seconds", "0"), "more than 0"),
            (("--only", "nothing"), "there are: echo-1"), (("--peers", "iis"), "there are: uws"),
            (("--variant", "x"), "NAME=COMMAND"), (("--generator", "no-such"), "is not there"),
            (("--variant", "x=no-such {port}"), "is not there"),
        ):  # fmt: skip
            run = self.start(*words)
            _, wrong = run.communicate(timeout=60)
            self.assertEqual((run.returncode, said in wrong), (2, True), f"{words}: {wrong}")

    def test_whoever_ends_it_ends_the_servers_that_it_has_started(self):
        # It never takes a connection; the number tells it from any other sleep of the box.
        seconds = 10_000_000 + os.getpid()
        run = self.start("--variant", f"mute=sleep {seconds} {{port}}")
        sleeper = self.wait_for(lambda: sleepers(seconds))
        run.terminate()
        said, _ = run.communicate(timeout=60)
        self.assertEqual(run.returncode, 130)
        self.assertIn("echo-1", said)
        self.assertTrue(sleeper)
        self.assertEqual(sleepers(seconds), [])

    def wait_for(self, found):
        end = time.monotonic() + 60
        while time.monotonic() < end:
            if seen := found():
                return seen
            time.sleep(0.01)
        self.fail("it did not come about within a minute")


def sleepers(seconds):
    """The processes that sleep so long."""
    found = []
    for each in Path("/proc").glob("[0-9]*"):
        try:
            words = (each / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if words[:2] == [b"sleep", b"%d" % seconds]:
            found.append(int(each.name))
    return found


class Shown(unittest.TestCase):
    def setUp(self):
        self.report = report([run(150)], [run(100)], [{"error": "lost <a> byte"}])

    def test_the_text_has_every_server_the_ratio_and_the_error(self):
        said = tables.text(self.report)
        self.assertRegex(said, r"ringhall +150 +0 % +1\.50 x")
        self.assertIn("ws: lost <a> byte", said)
        self.assertIn("PASS echo-1: 1.50 x uws; must be >= 1.12, reach for 1.25", said)
        self.assertTrue(said.endswith("\n1 passed, 0 failed"))

    def test_the_markdown_row_shows_all_and_marks_the_best_peer(self):
        row = tables.summary(self.report).splitlines()[2]
        self.assertIn("| 150 | **100** | - | 1.50 x | >= 1.12 x | PASS |", row)
        self.assertIn(tables.summary(self.report), tables.page(self.report))
        self.assertIn("](runs/x/peers.svg)", tables.readme(self.report, "runs/x"))

    def test_ours_stands_beside_the_best_of_all_peers(self):
        said = tables.text(report([run(150)], [run(100)], [run(120)]))
        self.assertIn("PASS echo-1: 1.25 x ws", said)

    def test_numbers_have_three_digits(self):
        values = (None, 0.5, 256, 1000, 18_300, 275_600, 2_716_000)
        said = ["-", "0.50", "256", "1.00 k", "18.3 k", "276 k", "2.72 M"]
        self.assertEqual([tables.number(value) for value in values], said)

    def test_the_chart_is_xml_with_a_bar_a_server_that_ran(self):
        drawn = xml.dom.minidom.parseString(chart.draw(self.report))
        kinds = [each.getAttribute("class") for each in drawn.getElementsByTagName("rect")]
        # The ground, the bars, and the three of the key.
        self.assertEqual(kinds, ["ground", "ours", "best", "ours", "best", "peer"])


class Records(unittest.TestCase):
    def test_what_is_recorded_is_what_is_shown(self):
        opened = lines.open_loop(LINE, 700)
        said = report([run(150), run(151)], [run(100)], [{"error": 'lost "a" byte'}])
        said.lines.append(opened)
        said.results[opened.name] = {servers.OURS: [run(90)], "uws": [run(80)]}
        with tempfile.TemporaryDirectory() as folder:
            record.write(said, Path(folder) / "run")
            again = record.read(Path(folder) / "run" / "peers.json")
        self.assertEqual(tables.text(again), tables.text(said))
        self.assertEqual(again.lines[1].rate, 700)

    def test_a_run_that_was_interrupted_at_once_is_still_json(self):
        self.assertEqual(json.loads(record.raw(tables.Report(ABOUT, [LINE], {})))["results"], {})

    def test_the_readme_changes_between_its_marks_only(self):
        text = f"a\n{record.BEGIN}\nold\n{record.END}\nz\n"
        self.assertEqual(record.placed(text, "new\n"), text.replace("old", "new"))
        with self.assertRaises(record.RecordError):
            record.placed("a", "new")


if __name__ == "__main__":
    unittest.main()
