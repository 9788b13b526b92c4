"""States in the nestings of Keras and Flax."""

import numpy as np
import pytest

from gruflax.layers.nesting import (
    as_tuple,
    cast_states,
    check_stored,
    fitted_states,
    nested_like,
    owned_states,
    path_order,
    replaced_states,
    single_state,
)


H = np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32)


def test_one_state_in_any_nesting():
    assert single_state("states", None) is None
    for given in (H, [H], (H,)):
        assert single_state("states", given) is H
        assert type(nested_like(given, H)) is type(given)
    assert as_tuple(H) == (H,) and as_tuple([H]) == (H,)
    with pytest.raises(ValueError, match="states must be one state for a GRU, got 2"):
        single_state("states", [H, H])


def test_states_are_fitted_into_another_nesting():
    wanted = {"c": H.astype(np.float16), "h": H}
    fitted = fitted_states("states", [H, 2 * H], wanted)
    np.testing.assert_array_equal(fitted["h"], 2 * H)
    assert fitted["c"].dtype == np.float32
    assert cast_states(fitted, wanted)["c"].dtype == np.float16
    assert not replaced_states([{"h": H}], None)[0]["h"].any()
    with pytest.raises(ValueError, match="states must be 2 arrays, got 1"):
        fitted_states("states", [H], [H, H])
    with pytest.raises(ValueError, match=r"states must have shapes \[\(2, 3\)\], got \[\(1, 3\)\]"):
        replaced_states([H], H[:1])
    with pytest.raises(ValueError, match="stored state.*a stateful layer keeps its batch size"):
        check_stored(H, H[:1])


def test_stored_states_have_one_order():
    """Numbers are numbers, and the forward layer comes before the backward one."""
    halves = {"forward_layer": {"h": 1}, "backward_layer": {"h": 2}}
    tree = {"layers_10": {"h": {"c": 4}}, "layers_2": {"h": 3}, "both": halves}
    stored = dict(owned_states(tree))
    assert [stored[path] for path in sorted(stored, key=path_order)] == [1, 2, 3, {"c": 4}]
