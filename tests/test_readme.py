"""The README: its length, its links, and each example alone, pasted into an interpreter, twice."""

import pathlib
import re
import subprocess
import sys

import pytest


README = pathlib.Path(__file__).parents[1] / "README.md"
TEXT = README.read_text()
BLOCKS = re.findall(
    r"^## ([^\n]+)\n(?:(?!^## ).)*?```python\n(.*?)```", TEXT, re.DOTALL | re.MULTILINE
)

# What must hold of the names that an example defines.
RESULTS = {
    "A masked classifier": "(logits.argmax(axis=-1) == test.labels).mean() > 0.9",
    "Several layers, two directions": "code.shape == (32, 64)",
    "Seeds and ensembles": "jax.vmap(loss)(members).shape == (8,) and "
    "len(set(jax.vmap(loss)(members).tolist())) == 8 and max(jax.vmap(loss)(members)) < 0.3",
    "State from call to call": "outputs.shape == (32, 29, 64) and "
    "not variables['recurrent_state']['h'].any()",
    "Resets inside a sequence, for reinforcement learning": "outputs.shape == (32, 29, 64) and "
    "h.shape == (32, 64) and reset[:, 1:].any() and not reset[:, 0].any()",
    "NNX": "outputs.shape == (32, 29, 64)",
    "The functional core": "outputs.shape == (29, 32, 64) and state.shape == (32, 64)",
}

# Reads lines as the interpreter's prompt does, but stops at the first error.
PROMPT = """
import code, sys

class Prompt(code.InteractiveConsole):
    def showtraceback(self):
        raise

    def showsyntaxerror(self, filename=None, **options):
        raise

    def write(self, data):
        pass

prompt = Prompt()
for line in (*sys.argv[1].splitlines(), *sys.argv[1].splitlines()):
    more = prompt.push(line)
assert not more and eval(sys.argv[2], prompt.locals)
"""


def test_every_section_with_an_example_is_tested():
    assert [heading for heading, _ in BLOCKS] == list(RESULTS)
    assert len(BLOCKS) == TEXT.count("```python")


@pytest.mark.parametrize(("heading", "block"), BLOCKS, ids=[heading for heading, _ in BLOCKS])
def test_an_example_runs_alone_and_twice(tmp_path, heading, block):
    assert len([line for line in block.splitlines() if line.strip()]) <= 15
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROMPT, block, RESULTS[heading]],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.returncode, run.stderr) == (0, "")
    assert not list(tmp_path.iterdir())


def test_it_is_read_in_a_minute():
    assert len(TEXT.splitlines()) <= 240


def test_its_links_lead_somewhere():
    links = re.findall(r"\]\(([^)]+)\)", TEXT)
    assert len(links) > 20
    for link in links:
        if link.startswith("#"):
            assert f"# {link[1:].replace('-', ' ')}" in TEXT.lower()
        else:
            assert (README.parent / link).is_file(), link
