"""From a report of loadgen to the pages."""

import contextlib
import io
import json
import pathlib
import shutil
import subprocess
import tempfile
import unittest
import unittest.mock

from script import load

bench = load("bench")

import bench_page
from bench_scenarios import ADDED, GROWTHS, LIMIT, SCENARIOS, UNITS, Figure, lost

SAMPLES = pathlib.Path(__file__).parent / "samples"
BY_NAME = {scenario.name: scenario for scenario in SCENARIOS}


def report(name):
    return json.loads((SAMPLES / f"{name}.json").read_text())


def outcome(scenario, *reports, commit="abc1234", machine="a machine"):
    runs = [bench_page.figures(scenario, each) for each in reports]
    return {"commit": commit, "machine": machine, "date": "2026-11-30", "load_before": 0.1, "command": "room-burst", "runs": runs}


class Figures(unittest.TestCase):
    def test_of_a_burst_next_to_the_limit_of_the_same_run(self):
        figures = bench_page.figures(BY_NAME["one-10000"], report("room-burst"))
        self.assertEqual(figures, {"lost": 0, "delivered": 180000.0, "delivered.limit": 200000.0})

    def test_of_a_hold_in_a_cluster(self):
        held = report("hold")
        self.assertEqual(bench_page.figures(BY_NAME["idle-memory"], held), {"lost": 0, "bytes": 512.0})
        # 2.4 s of CPU, 1,000 connections, 120 s.
        self.assertEqual(bench_page.figures(BY_NAME["idle-cpu"], held), {"lost": 0, "cpu_us": 20.0})

    def test_of_each_kind_of_node_beside_it(self):
        storm = report("room-burst")
        storm["detail"]["beside"] = {"redis": {"connect_cpu_s": 0.5, "load_cpu_s": 1.5}}
        figures = BY_NAME["login-18000"].figures
        self.assertEqual(figures["redis_us"].of(storm | {"connections": 1_000}), 500.0)
        self.assertIsNone(figures["router_us"].of(storm))
        self.assertEqual(BY_NAME["unicast-10000"].figures["redis_us"].of(storm | {"sent": 1_000}), 1500.0)

    def test_what_was_not_measured_is_nothing_and_not_zero(self):
        unmeasured = report("room-burst") | {"server_cpu_s": None, "deliveries_per_server_cpu_s": None, "logins_per_server_cpu_s": None}
        unmeasured["detail"].pop("limit_deliveries_per_cpu_s")
        for scenario in SCENARIOS:
            for key, figure in scenario.figures.items():
                if key in ("delivered", "echoes", "login_us", "cpu_us", "cores", "gateway_us", "router_us", "redis_us"):
                    self.assertIsNone(figure.of(unmeasured), (scenario.name, key))
        self.assertIsNone(LIMIT(unmeasured))

    def test_everything_that_got_lost_counts(self):
        clean = report("room-burst")
        self.assertEqual(lost(clean), 0)
        for key in ("missing", "logins_failed", "order_breaks", "duplicates"):
            self.assertEqual(lost(clean | {key: 2}), 2, key)
        self.assertEqual(lost(clean | {"dropped": {"chat": 2}}), 2)
        for key, value in [("unsent", 2), ("strays", 2), ("lost", {"reset": 2})]:
            self.assertEqual(lost(clean | {"detail": clean["detail"] | {key: value}}), 2, key)
        unsent = clean | {"detail": clean["detail"] | {"unsent": 2}}
        self.assertEqual(lost(unsent, asks_for_more=True), 0, "there was more than can be")
        again = clean["detail"] | {"at_least_once": True}
        self.assertEqual(lost(clean | {"duplicates": 2, "detail": again}), 0, "a copy is sent again until it is acknowledged")


class Rows(unittest.TestCase):
    def row(self, *runs, figure, scenario="one-10000"):
        return bench_page.row(BY_NAME[scenario], "x", figure, {"runs": list(runs)}, first=False)

    def test_median_range_ratio_and_verdict(self):
        reports = [report("room-burst") | {"deliveries_per_server_cpu_s": per_s} for per_s in (150_000.0, 190_000.0, 185_000.0)]
        row = bench_page.rows(BY_NAME["one-10000"], outcome(BY_NAME["one-10000"], *reports))[0]
        self.assertIn("| **185 k** /s | 150 k – 190 k, 3 runs | 200 k (200 k – 200 k) | 0.93 |", row)
        self.assertTrue(row.endswith("| met |"), row)

    def test_a_bar_is_met_on_the_line_and_missed_behind_it(self):
        most, least = Figure("f", "ms", None, ("<", 65)), Figure("f", "", None, (">", 3.2e6))
        self.assertIn("| met |", self.row({"x": 65, "lost": 0}, figure=most))
        self.assertIn("| **missed** by 10 % |", self.row({"x": 71.5, "lost": 0}, figure=most))
        self.assertIn("| met |", self.row({"x": 3.2e6, "lost": 0}, figure=least))
        self.assertIn("| **missed** by 38 % |", self.row({"x": 2e6, "lost": 0}, figure=least))
        self.assertIn("| **missed** by less than 1 % |", self.row({"x": 65.1, "lost": 0}, figure=most))
        self.assertIn("| **missed** 4 times over |", self.row({"x": 260, "lost": 0}, figure=most))
        self.assertIn("missed", self.row({"x": 1, "lost": 0}, figure=Figure("f", "", None, ("<", 0))))

    def test_a_run_that_lost_something_misses_every_bar(self):
        row = self.row({"x": 1, "lost": 0}, {"x": 1, "lost": 3}, figure=Figure("f", "ms", None, ("<", 65)))
        self.assertIn("**missed**: 1 of 2 runs lost or dropped something, 3 at most", row)

    def test_a_ratio_is_of_each_run_and_its_own_limit(self):
        figure = Figure("f", "/s", None, None, LIMIT, 0.9)
        row = self.row({"x": 90, "x.limit": 100, "lost": 0}, {"x": 10, "x.limit": 20, "lost": 0}, {"x": 95, "x.limit": 100, "lost": 0}, figure=figure)
        self.assertIn("| 0.90 | ≥ 0.90 of the limit | met |", row)

    def test_numbers_are_for_people(self):
        numbers = {0: "0", 0.0152: "0.0152", 0.7: "0.7", 1.234: "1.23", 23.94: "23.9", 923: "923", 9_999: "9,999", 182_345: "182 k", 2.22e6: "2.22 M"}
        for value, text in numbers.items():
            self.assertEqual(bench_page.number(value), text)

    def test_growth_is_flat_or_it_is_not(self):
        growth = GROWTHS[0]
        kept = {}
        for (_, name, _), per_s in zip(growth.steps, (200_000.0, 190_000.0, 180_000.0, 170_000.0)):
            kept[name] = outcome(BY_NAME[name], report("room-burst") | {"deliveries_per_server_cpu_s": per_s})
        flat = bench_page.growth_table(kept).splitlines()[2]
        self.assertIn("1,000: 5 · 6,000: 5.26 · 12,000: 5.56 · 18,000: 5.88 | ± 8 % | ± 10 % | met |", flat)
        kept[growth.steps[3][1]] = outcome(BY_NAME["one-18000"], report("room-burst") | {"deliveries_per_server_cpu_s": 100_000.0})
        self.assertIn("| ± 33 % | ± 10 % | **missed** |", bench_page.growth_table(kept))
        del kept[growth.steps[3][1]]
        self.assertIn("18,000: not measured | ± 5 % | ± 10 % | met, as far as measured |", bench_page.growth_table(kept))

    def test_what_a_transport_adds_is_of_two_scenarios_that_differ_in_nothing_else(self):
        for added in ADDED:
            plain, whole = BY_NAME[added.plain], BY_NAME[added.scenario]
            self.assertEqual(plain.transport, "tcp")
            self.assertEqual(whole.load.removesuffix(" --resume-tls"), plain.load, added.what)
            for fact in ("connections", "seconds", "gateways", "routers", "measured", "shards", "is_frame_limit_lifted"):
                self.assertEqual(getattr(whole, fact), getattr(plain, fact), (added.what, fact))

    def test_what_a_transport_adds_has_what_is_left_of_its_bar(self):
        storm = lambda name, per_s: outcome(BY_NAME[name], report("room-burst") | {"logins_per_server_cpu_s": per_s})
        row = lambda kept: next(line for line in bench_page.added_table(kept).splitlines() if line.startswith("| TLS, a login |"))
        kept = {"login-18000": storm("login-18000", 25_000.0), "login-tls": storm("login-tls", 10_000.0)}
        self.assertEqual(row(kept), "| TLS, a login | 40 µs | 100 µs | **60** µs | ≤ 71 µs | met | 16.7 k full handshakes |")
        kept["login-tls"] = storm("login-tls", 5_000.0)
        self.assertEqual(row(kept), "| TLS, a login | 40 µs | 200 µs | **160** µs | ≤ 71 µs | **missed** 2.25 times over | 6,250 full handshakes |")
        del kept["login-18000"]
        self.assertEqual(row(kept), "| TLS, a login | | | not measured | ≤ 71 µs | | |")


class Pages(unittest.TestCase):
    def test_measuring_one_scenario_again_changes_its_lines_alone(self):
        burst = report("room-burst")
        kept = {name: outcome(BY_NAME[name], burst) for name in ("one-10000", "joined-10000")}
        before = bench_page.benchmark_tables(kept).splitlines()
        faster = burst | {"deliveries_per_server_cpu_s": 190_000.0}
        after = bench_page.benchmark_tables(kept | {"one-10000": outcome(BY_NAME["one-10000"], faster, commit="def5678")}).splitlines()
        changed = [line for line, other in zip(before, after) if line != other]
        self.assertEqual(len(before), len(after))
        self.assertEqual(len(changed), 2, changed)
        self.assertTrue(all("`one-10000`" in line for line in changed), changed)

    def test_what_is_written_by_hand_stays(self):
        page = "by hand\n<!-- measured: written by scripts/bench -->\nold\n<!-- measured: end -->\nand this\n"
        written = bench_page.replaced(page, "new")
        self.assertEqual(written, "by hand\n<!-- measured: written by scripts/bench -->\n\nnew\n\n<!-- measured: end -->\nand this\n")
        self.assertEqual(bench_page.replaced(written, "new"), written)
        with self.assertRaises(ValueError):
            bench_page.replaced("no markers", "new")

    def test_a_measurement_is_kept_and_both_pages_say_it(self):
        with tempfile.TemporaryDirectory() as directory:
            for name, path in [("KEPT", bench_page.KEPT), ("PAGE", bench_page.PAGE), ("SIZING", bench_page.SIZING)]:
                copy = pathlib.Path(shutil.copy(path, directory))
                patch = unittest.mock.patch.object(bench_page, name, copy)
                patch.start()
                self.addCleanup(patch.stop)
            bench_page.KEPT.unlink()
            scenario = BY_NAME["one-10000"]
            bench_page.keep("one-10000", outcome(scenario, *[report("room-burst")] * 5))
            bench_page.keep("one-1000", outcome(BY_NAME["one-1000"], report("room-burst")))
            self.assertEqual(sorted(bench_page.measured()), ["one-1000", "one-10000"])
            self.assertIn("**180 k** /s | 180 k – 180 k, 5 runs | 200 k (200 k – 200 k) | 0.90 |", bench_page.PAGE.read_text())
            self.assertIn("| S | a send: one copy alone, 10,000 members | 5.56 | µs of the gateway | `one-10000` |", bench_page.SIZING.read_text())

    def test_the_pages_say_what_was_kept(self):
        kept = bench_page.measured()
        for page, tables in [(bench_page.PAGE, bench_page.benchmark_tables(kept)), (bench_page.SIZING, bench_page.unit_table(kept))]:
            text = page.read_text()
            self.assertEqual(text, bench_page.replaced(text, tables), f"{page.name}: scripts/bench --pages writes it anew")

    def test_each_machine_is_named_with_its_scenarios(self):
        kept = {"a": {"machine": "one"}, "b": {"machine": "one"}}
        self.assertEqual(bench_page.machines(kept), "**Machine.** one")
        self.assertEqual(bench_page.machines(kept | {"c": {"machine": "two"}}), "**Machine.** one (`a`, `b`)\n\n**Machine.** two (`c`)")


class Lock(unittest.TestCase):
    def setUp(self):
        self.path = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory())) / "there/lock"
        self.enterContext(unittest.mock.patch.dict("os.environ", BENCH_LOCK=str(self.path)))
        self.enterContext(unittest.mock.patch.object(bench, "LEAVE_TO_OTHERS_S", 0))

    def is_held(self):
        return self.path.exists() and subprocess.run(["flock", "--nonblock", self.path, "true"]).returncode != 0

    def test_it_is_held_during_each_run_and_not_between_two(self):
        during, between = [], []
        run = lambda *_: during.append(self.is_held()) or report("room-burst")
        figures = lambda *_: between.append(self.is_held()) or {"lost": 0}
        here = {"commit": "abc1234", "machine": "one"}
        quiet = unittest.mock.patch.multiple("sys", stdout=io.StringIO(), stderr=io.StringIO())
        with unittest.mock.patch.object(bench, "run", run), unittest.mock.patch.object(bench_page, "figures", figures), quiet:
            self.assertTrue(bench.measure(BY_NAME["one-10000"], 2, here, is_try=True))
        self.assertEqual((during, between), ([True, True], [False, False]))

    def test_a_run_that_is_broken_off_gives_it_back(self):
        with self.assertRaises(KeyboardInterrupt), bench.alone():
            self.assertTrue(self.is_held())
            raise KeyboardInterrupt
        self.assertFalse(self.is_held())

    def test_a_node_that_outlives_its_run_does_not_keep_it(self):
        with bench.alone():
            node = subprocess.Popen(["sleep", "60"])
            self.addCleanup(lambda: (node.kill(), node.wait()))
        self.assertFalse(self.is_held())

    def test_a_second_bench_waits_and_says_so(self):
        self.path.parent.mkdir()
        with subprocess.Popen(["flock", self.path, "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
            print("it has the lock", file=other.stdin, flush=True)
            other.stdout.readline()
            # What is said while it waits lets the other go.
            said = unittest.mock.Mock(side_effect=lambda *_, **__: other.stdin.close())
            with unittest.mock.patch("builtins.print", said), bench.alone():
                said.assert_called_once()
                self.assertTrue(self.is_held())


class Stopped(unittest.TestCase):
    HERE = {"commit": "abc1234", "machine": "one"}

    def setUp(self):
        root = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.enterContext(unittest.mock.patch.object(bench, "ROOT", root))
        self.enterContext(unittest.mock.patch.dict("os.environ", BENCH_LOCK=str(root / "lock")))
        self.enterContext(unittest.mock.patch.object(bench, "LEAVE_TO_OTHERS_S", 0))
        self.enterContext(unittest.mock.patch.multiple("sys", stdout=io.StringIO(), stderr=io.StringIO()))
        self.kept = self.enterContext(unittest.mock.patch.object(bench_page, "keep"))

    def runs_before_it_is_kept(self, here, stopped_at=None):
        made = []

        def run(*_):
            if len(made) == stopped_at:
                raise KeyboardInterrupt
            made.append(True)
            return report("room-burst")

        with unittest.mock.patch.object(bench, "run", run), contextlib.suppress(KeyboardInterrupt):
            bench.measure(BY_NAME["one-10000"], 5, here, is_try=False)
        return len(made)

    def test_it_goes_on_where_it_was_with_the_same_program_alone(self):
        self.assertEqual(self.runs_before_it_is_kept(self.HERE, stopped_at=2), 2)
        self.kept.assert_not_called()
        self.assertEqual(self.runs_before_it_is_kept(self.HERE), 3)
        self.assertEqual(len(self.kept.call_args.args[1]["runs"]), 5)
        self.assertEqual(self.runs_before_it_is_kept(self.HERE, stopped_at=2), 2, "what was kept in the pages is measured anew")
        self.assertEqual(self.runs_before_it_is_kept(self.HERE | {"commit": "def5678"}), 5)

    def test_a_tree_with_changes_is_never_the_same_again(self):
        changed = self.HERE | {"commit": "abc1234+"}
        self.assertEqual(self.runs_before_it_is_kept(changed, stopped_at=2), 2)
        self.assertEqual(self.runs_before_it_is_kept(changed), 5)


class Scenarios(unittest.TestCase):
    def test_names_are_unique_and_what_refers_to_them_exists(self):
        self.assertEqual(len(BY_NAME), len(SCENARIOS))
        referred = [(name, key) for growth in GROWTHS for _, name, key in growth.steps] + [(unit.scenario, unit.figure) for unit in UNITS]
        for name, key in referred:
            self.assertIn(key.removesuffix(".limit"), BY_NAME[name].figures, name)

    def test_growth_per_login_is_over_six_gateways_from_1_000_sessions_to_100_000(self):
        growth = next(growth for growth in GROWTHS if "per login" in growth.what)
        steps = [BY_NAME[name] for _, name, _ in growth.steps]
        self.assertEqual((steps[0].connections, steps[-1].connections), (1_000, 100_000))
        self.assertEqual([(each.gateways, each.measured) for each in steps], [(6, ("gateway",))] * len(steps))
        self.assertEqual([label for label, _, _ in growth.steps], [f"{each.connections:,}" for each in steps])

    def test_a_cluster_load_is_told_where_and_whose_cpu_counts(self):
        environment = {
            "CLUSTER_HTTP": "127.0.0.1:8080",
            "CLUSTER_CLIENTS": "127.0.0.1:8085",
            "CLUSTER_ADMIN": "127.0.0.1:9090 127.0.0.1:9092",
            "CLUSTER_REDIS": "127.0.0.1:6390",
            "CLUSTER_API_KEY": "key",
            "CLUSTER_PID_gateway_1": "11",
            "CLUSTER_PID_router_1": "12",
            "CLUSTER_PID_redis": "13",
        }
        said = " ".join(bench.cluster_arguments(BY_NAME["unicast-10000"], environment))
        where = "unicast --http http://127.0.0.1:8080 --api-key key --gateway 127.0.0.1:8085 --admin http://127.0.0.1:9092"
        self.assertEqual(said, f"{where} --server-pid 11 --server-pid 12 --beside gateway=11 --beside redis=13 --beside router=12")
        six = environment | {"CLUSTER_ADMIN": "r1 r2 g1 g2 g3", "CLUSTER_CLIENTS": "c1 c2 c3"}
        said = " ".join(bench.cluster_arguments(BY_NAME["redis-copies"], six))
        self.assertIn("--admin http://g1 --admin http://g2 --admin http://g3 --server-pid 11 --beside gateway=11", said)
        self.assertEqual(said.count("--redis 127.0.0.1:6390"), 1, said)
        others = environment | {"CLUSTER_CLIENTS_WS": "127.0.0.1:4001", "CLUSTER_CLIENTS_TLS": "127.0.0.1:4002", "CLUSTER_CLIENTS_QUIC": "127.0.0.1:4003"}
        addresses = {"idle-memory-ws": "127.0.0.1:4001", "login-tls": "127.0.0.1:4002", "login-wss": "127.0.0.1:4002", "login-quic": "127.0.0.1:4003"}
        for name, address in addresses.items():
            self.assertIn(f"--gateway {address} --admin", " ".join(bench.cluster_arguments(BY_NAME[name], others)))
        self.assertIn("hold --transport wss --connections 18000", " ".join(bench.arguments(BY_NAME["idle-memory-wss"])))

    def test_each_transport_is_held_to_its_bars(self):
        bars = {name: next(iter(scenario.figures.values())).bar for name, scenario in BY_NAME.items() if scenario.transport != "tcp"}
        memory = {"idle-memory-ws": ("<", 320), "idle-memory-tls": ("<", 4_096), "idle-memory-wss": ("<", 4_096), "idle-memory-quic": ("<", 32_768)}
        cpu = {"login-ws": ("<", 30), "login-tls": ("<", 90), "login-wss": ("<", 98), "login-quic": ("<", 165), "login-tls-resumed": ("<", 80)}
        self.assertEqual(bars, memory | cpu)
        resumed = BY_NAME["login-tls-resumed"].figures["resumed"]
        self.assertEqual(resumed.of({"detail": {"tls_full": 1, "tls_resumed": 3}}), 0.75)
        self.assertIsNone(resumed.of({"detail": {}}))

    def test_what_was_measured_at_this_commit_on_this_machine_is_not_measured_again(self):
        here = {"commit": "abc1234", "machine": "one"}
        self.assertTrue(bench.is_measured({"commit": "abc1234", "machine": "one"}, here))
        self.assertFalse(bench.is_measured({"commit": "def5678", "machine": "one"}, here))
        self.assertFalse(bench.is_measured({"commit": "abc1234", "machine": "two"}, here))
        self.assertFalse(bench.is_measured({"commit": "abc1234+", "machine": "one"}, here | {"commit": "abc1234+"}), "a tree with changes")
        self.assertFalse(bench.is_measured(None, here))


if __name__ == "__main__":
    unittest.main()
