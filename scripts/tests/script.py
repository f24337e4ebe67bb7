"""Scripts have no suffix, so Python has to be told that they are modules."""

import importlib.machinery
import importlib.util
import pathlib
import sys

SCRIPTS = pathlib.Path(__file__).resolve().parent.parent


def load(name):
    """The script of that name as a module, which finds its own modules beside it."""
    if str(SCRIPTS) not in sys.path:
        sys.path.insert(0, str(SCRIPTS))
    loader = importlib.machinery.SourceFileLoader(name, str(SCRIPTS / name))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(name, loader))
    # Beside the script nothing is to be left behind: its name has no suffix that would be ignored.
    sys.dont_write_bytecode = True
    loader.exec_module(module)
    return module
