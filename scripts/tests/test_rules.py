"""docs/rules.md names tests that are there."""

import pathlib
import re
import unittest

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
# A path, a colon, and names; several of them with semicolons between.
PLACE = re.compile(r"`([^`]+)`: ((?:`\w+`(?:, )?)+)")
BUILT = {"Rooms", "Chat", "Users and tokens", "Wallet", "Gifts", "PK bar", "Limits"}


def rules(text):
    """Each rule as (chapter, whether it is marked, what it says, its tests as (path, name))."""
    chapter = None
    for line in text.splitlines():
        if line.startswith("## "):
            chapter = line.removeprefix("## ")
        if not line.startswith("| ") or line.startswith("| | rule |"):
            continue
        mark, rule, tests = (cell.strip() for cell in line.strip("|").split("|"))
        places = [(path, name) for path, names in PLACE.findall(tests) for name in re.findall(r"\w+", names)]
        assert PLACE.sub("", tests).strip("; ") == "", f"cannot be read: {tests}"
        yield chapter, mark == "⚠", rule, places


def missing(rules):
    """What is named and not there."""
    for _, _, rule, places in rules:
        for path, name in places:
            file = ROOT / path
            if not file.is_file():
                yield f"{path} is not there: {rule}"
            elif not re.search(rf"\bfn {name}\b", file.read_text(encoding="utf-8")):
                yield f"{path} has no test {name}: {rule}"


class Rules(unittest.TestCase):
    def setUp(self):
        self.rules = list(rules((ROOT / "docs/rules.md").read_text(encoding="utf-8")))

    def test_every_test_that_is_named_is_there(self):
        self.assertEqual(list(missing(self.rules)), [])

    def test_every_rule_has_a_test(self):
        self.assertEqual([rule for _, _, rule, places in self.rules if not places], [])
        self.assertEqual({chapter for chapter, _, _, _ in self.rules}, BUILT)
        # As many as there are of services that are built.
        self.assertEqual(sum(is_marked for _, is_marked, _, _ in self.rules), 11)

    def test_a_name_that_is_not_there_is_found(self):
        text = "## Rooms\n| ⚠ | A rule. | `docs/rules.md`: `no_such_test`; `docs/none.rs`: `one`, `two` |\n"
        self.assertEqual(len(list(missing(rules(text)))), 3)


if __name__ == "__main__":
    unittest.main()
