"""The notebooks as they are stored: executed, quiet, their pictures large enough to be read."""

import base64
import json
import pathlib
import struct

import pytest


FOLDER = pathlib.Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
PICTURES = sorted(FOLDER.glob("pictures/*.png"))


def cells_of(path):
    return json.loads(path.read_text())["cells"]


def outputs_of(path):
    return [output for cell in cells_of(path) for output in cell.get("outputs", [])]


def width(png):
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">I", png[16:20])[0]


def test_they_are_twelve_and_each_has_its_picture():
    assert [path.name[:2] for path in NOTEBOOKS] == [f"{number:02}" for number in range(1, 13)]
    assert [path.stem for path in PICTURES] == [path.stem for path in NOTEBOOKS]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_is_executed_in_order_and_without_complaints(path):
    cells, outputs = cells_of(path), outputs_of(path)
    counts = [cell["execution_count"] for cell in cells if cell["cell_type"] == "code"]
    assert counts == list(range(1, len(counts) + 1))
    assert outputs
    assert not [output for output in outputs if output.get("name") == "stderr"]
    assert not [output for output in outputs if output["output_type"] == "error"]
    top = "".join(cells[0]["source"])
    for heading in ("What it shows.", "How long it takes.", "What to try next."):
        assert f"**{heading}**" in top


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_is_short(path):
    cells = cells_of(path)
    assert len(cells) <= 48
    assert max(len(cell["source"]) for cell in cells if cell["cell_type"] == "code") <= 40


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_its_pictures_are_at_least_1000_pixels_wide_and_the_readme_shows_one(path):
    found = [output.get("data", {}).get("image/png") for output in outputs_of(path)]
    pictures = [base64.b64decode("".join(each)) for each in found if each]
    assert pictures and min(map(width, pictures)) >= 1000
    assert (FOLDER / "pictures" / f"{path.stem}.png").read_bytes() in pictures
