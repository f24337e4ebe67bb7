"""The gate on instruction counts: what it lets through, and what not."""

import unittest

from script import load

gate = load("instructions")

PROFILE = """\
# callgrind format
version: 1
events: Ir
fn=(1) _start
0 12

summary: 123456
totals: 123000
"""


class Gate(unittest.TestCase):
    def test_growth_beyond_the_tolerance_is_named_with_its_size(self):
        said = gate.complaints({"wire/a": 1035.0, "wire/b": 1020.0, "wire/c": 900.0}, {"wire/a": 1000.0, "wire/b": 1000.0, "wire/c": 1000.0})
        self.assertEqual(said, ["instructions: wire/a has grown by 3.5 %, from 1000.0 to 1035.0; 2 % are allowed"])

    def test_the_fan_out_has_threads_and_more_room(self):
        self.assertEqual(gate.complaints({"fanout/a": 1050.0}, {"fanout/a": 1000.0}), [])
        self.assertEqual(len(gate.complaints({"fanout/a": 1051.0}, {"fanout/a": 1000.0})), 1)

    def test_a_path_that_is_on_one_side_alone_is_a_complaint(self):
        said = gate.complaints({"new": 1.0}, {"old": 1.0})
        self.assertEqual(len(said), 2)
        self.assertIn("new is new and not in the baseline", said[0])
        self.assertIn("old stands in the baseline and is no path any more", said[1])

    def test_the_table_shows_every_path_with_its_change(self):
        lines = gate.table({"a": 110.0, "b": 5.0}, {"a": 100.0}).splitlines()
        self.assertEqual([line.split() for line in lines[1:]], [["a", "100.0", "110.0", "+10.00", "%"], ["b", "5.0", "new"]])

    def test_a_turn_is_what_two_walks_differ_by(self):
        walks = {20: 5_000, 200: 5_000 + 180 * 50}
        gate_walk, gate.walk = gate.walk, lambda program, path, times, out: walks[times]
        self.addCleanup(setattr, gate, "walk", gate_walk)
        # 200 turns and 20: the start of the process, 4,000 of the 5,000 here, is in both.
        self.assertEqual(gate.turn("program", "path", 200), 50.0)

    def test_all_threads_are_in_the_total(self):
        self.assertEqual(gate.total(PROFILE), 123456)


if __name__ == "__main__":
    unittest.main()
