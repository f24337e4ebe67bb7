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


class NamedTests(unittest.TestCase):
    def test_every_test_of_the_table_of_transports_is_there(self):
        written = set()
        for text in sources().values():
            written.update(re.findall(r"\bfn ([a-z0-9_]+)\(", text))
        named = [word for word in re.findall(r"`([a-z0-9_…]+)`", table()) if word.count("_") >= 2]
        self.assertGreater(len(named), 30, "the table is read")
        for name in named:
            start = name.removesuffix("…")
            found = any(other.startswith(start) for other in written) if start != name else name in written
            self.assertTrue(found, f"docs/security.md names {name}, and there is no such test")

    def test_every_file_of_the_table_is_there(self):
        paths = re.findall(r"`([a-z0-9_]+(?:/[a-z0-9_]+)+\.rs)`", table())
        self.assertGreater(len(paths), 5, "the table is read")
        for path in paths:
            self.assertTrue((ROOT / path).is_file(), path)


if __name__ == "__main__":
    unittest.main()
