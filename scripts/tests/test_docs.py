"""Tests that the pages name are there."""

import pathlib
import re
import subprocess
import unittest

ROOT = pathlib.Path(__file__).parents[2]
HEADING = "## Each transport, and the test for it"


def table():
    text = (ROOT / "docs/security.md").read_text()
    section = text[text.index(HEADING) :].removeprefix(HEADING)
    return section[: section.index("\n## ")]


def sources():
    names = subprocess.run(["git", "ls-files", "*.rs"], cwd=ROOT, check=True, capture_output=True, text=True).stdout.split()
    return {name: (ROOT / name).read_text() for name in names}


# `#[test]` or `#[tokio::test(...)]`, other attributes, the function. A function of `proptest!` has its attribute, too.
TEST = re.compile(r"#\[(?:tokio::)?test(?:\([^\]]*\))?\]\s*(?:#\[[^\]]*\]\s*|///?[^\n]*\n\s*)*(?:pub(?:\([a-z]+\))? )?(?:async )?fn ([a-z0-9_]+)")


def tests_in(text):
    """Names of the tests of a file."""
    return set(TEST.findall(text))


def named_tests(text):
    """Names of tests in a piece of a page, each with the file that stands behind it in brackets, or `None`."""
    found = []
    for match in re.finditer(r"`([a-z0-9_…]+)`(?: \(`([a-z0-9_/]+\.rs)`)?", text):
        name, file = match.groups()
        if name.count("_") >= 2:
            found.append((name, file))
    return found


def is_there(name, file, written):
    """Whether a test of this name, or one that begins so, is written in this file, or in any."""
    start = name.removesuffix("…")
    for path, tests in written.items():
        if file is None or path == file or path.endswith("/" + file):
            if name in tests or (start != name and any(other.startswith(start) for other in tests)):
                return True
    return False


class NamedTests(unittest.TestCase):
    def test_every_test_of_the_table_of_transports_is_there(self):
        written = {path: tests_in(text) for path, text in sources().items()}
        named = named_tests(table())
        self.assertGreater(len(named), 30, "the table is read")
        self.assertGreater(sum(file is not None for _, file in named), 8, "files are read")
        for name, file in named:
            self.assertTrue(is_there(name, file, written), f"docs/security.md names {name} ({file}), and there is no such test")

    def test_a_helper_and_a_test_elsewhere_are_not_taken_for_it(self):
        text = "fn a_mere_helper() {}\n#[test]\n#[ignore = \"long\"]\nfn a_test_of_it() {}\n#[tokio::test(start_paused = true)]\nasync fn a_slow_test() {}\n"
        self.assertEqual(tests_in(text), {"a_test_of_it", "a_slow_test"})
        written = {"tests/one.rs": {"a_test_of_it"}}
        self.assertTrue(is_there("a_test_…", "one.rs", written))
        self.assertFalse(is_there("a_test_of_it", "tests/other.rs", written))
        self.assertFalse(is_there("a_mere_helper", None, written))

    def test_every_file_of_the_table_is_there(self):
        paths = re.findall(r"`([a-z0-9_]+(?:/[a-z0-9_]+)+\.rs)`", table())
        self.assertGreater(len(paths), 5, "the table is read")
        for path in paths:
            self.assertTrue((ROOT / path).is_file(), path)


if __name__ == "__main__":
    unittest.main()
