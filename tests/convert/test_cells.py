"""The table of libraries whose GRU is one cell."""

import numpy as np
import pytest

from gruflax.convert import cells


def weights(random, rows):
    """Parameters of 4 features and 5 units; the biases that a library adds up are zeros."""
    shapes = {"kernel": (4, 15), "recurrent_kernel": (5, 15), "bias": (2, 15)}
    params = {name: random.normal(size=shape) for name, shape in shapes.items()}
    params["bias"][1, : 0 if rows == 2 else 15 if rows == 0 else 10] = 0
    return params


@pytest.mark.parametrize("library", cells.CELLS)
def test_every_row_goes_there_and_back(library, random, equal):
    cell = cells.CELLS[library]
    params = weights(random, 2 if cell.two_biases else bool(cell.paths[3]))
    if not cell.reset_after:
        params["bias"] = params["bias"][0]
    equal(cells.read_cell(library, cells.write_cell(library, params, None)), params)


def test_a_new_library_is_a_row(random, equal, monkeypatch):
    row = cells.Cell(
        library="other",
        argument="cell",
        what="another library's cell",
        paths=("inputs.{gate}.w", "states.{gate}.w", "inputs.{gate}.b", "states.n.b"),
        gates="rzn",
        transposed=True,
        negated="rz",
    )
    monkeypatch.setitem(cells.CELLS, "other", row)
    params = weights(random, 1)
    arrays = cells.write_cell("other", params, None)
    np.testing.assert_array_equal(arrays["inputs"]["r"]["w"], -params["kernel"][:, 5:10].T)
    np.testing.assert_array_equal(arrays["states"]["n"]["b"], params["bias"][1, 10:])
    equal(cells.read_cell("other", arrays), params)
    with pytest.raises(
        ValueError, match=r"cell must hold \['inputs', 'states'\], got \['inputs'\]"
    ):
        cells.read_cell("other", {"inputs": arrays["inputs"]})
