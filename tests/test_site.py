"""The site's reference: every public name is on it, and examples in docstrings are code blocks."""

import ast
import inspect
import pathlib
import re

import pytest

import gruflax.nnx
from gruflax import convert, datasets, hosts, plot
from gruflax.compat import v1


PACKAGE = pathlib.Path(gruflax.__file__).parent
REFERENCE = pathlib.Path(__file__).parents[1] / ".site" / "reference"
SECTION = re.compile(r"(Args|Attributes|Returns|Raises):$")


def public_names(module):
    if hasattr(module, "__all__"):
        return set(module.__all__)
    functions = inspect.getmembers(module, inspect.isfunction)
    own = {name for name, each in functions if each.__module__ == module.__name__}
    return {name for name in own if not name.startswith("_")}


def names_on_the_site():
    """`{module: the names that the reference documents of it}`."""
    found, pattern = {}, r"^\.\. (?:(?:current)?module:: (\S+)|auto\w+:: (\w+))"
    for page in REFERENCE.glob("*.rst"):
        names = set()
        for module, name in re.findall(pattern, page.read_text(), re.MULTILINE):
            if module:
                names = found.setdefault(module, set())
            else:
                names.add(name)
    return found


@pytest.mark.parametrize(
    "module",
    [gruflax, gruflax.nnx, convert, v1, datasets, hosts, plot],
    ids=lambda module: module.__name__,
)
def test_every_public_name_is_on_it(module):
    hidden = {"checked_array", "checked_indices", "load_matplotlib", "new_axes"}
    wanted = public_names(module) - (hidden if module is plot else set())
    assert wanted and wanted == names_on_the_site()[module.__name__] - {"COLOURS", "GREY"}


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.stem)
def test_examples_in_docstrings_are_code_blocks(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            before = ""
            for line in (ast.get_docstring(node) or "").splitlines():
                if SECTION.match(line):
                    break
                if line.startswith("    ") and not before.startswith(" "):
                    assert before.endswith("::"), (node.name, line)
                before = line or before
