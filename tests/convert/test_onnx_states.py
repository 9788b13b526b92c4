"""ONNX models in which the initial state or the lengths of a GRU node are computed."""

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from onnx_graphs import FEATURES, FLOAT, INT64, UNITS, arrays, made, node, ran

from gruflax import convert


@pytest.fixture
def x(random):
    """Inputs [t, b, f]."""
    return random.normal(size=(5, 3, FEATURES)).astype(np.float32)


H = np.random.default_rng(4).normal(size=(1, 1, UNITS)).astype(np.float32)
SHAPE = [
    node("Shape", "X", "S", start=1, end=2),
    node("Concat", "one S units", "shape", axis=0),
]
SIZES = {"one": np.array([1]), "units": np.array([UNITS]), "two": np.array([2])}

LEARNED = {
    "expand": ([*SHAPE, node("Expand", "h shape", "H")], {"h": H}),
    "short": ([*SHAPE, node("Expand", "h shape", "H")], {"h": H[0, 0]}),
    "tile": (
        [*SHAPE, node("Concat", "one S one", "n", axis=0), node("Tile", "h n", "H")],
        {"h": H},
    ),
    "constant of shape": (
        [
            *SHAPE,
            node(
                "ConstantOfShape",
                "shape",
                "H",
                value=numpy_helper.from_array(np.array([0.3], np.float32)),
            ),
        ],
        {},
    ),
    "arithmetic": (
        [*SHAPE, node("Expand", "h shape", "E"), node("Mul", "E g", "M"), node("Tanh", "M", "H")],
        {"h": H, "g": np.float32(1.7)},
    ),
    "floats": (
        [
            *SHAPE,
            node("Constant", "", "c", value_floats=[0.1, -0.2, 0.3, 0.4]),
            node("Expand", "c shape", "H"),
        ],
        {},
    ),
    "concat": (
        [
            *SHAPE,
            node("Expand", "h shape", "E"),
            node("Slice", "E zero two last", "a"),
            node("Slice", "E two units last", "b"),
            node("Concat", "b a", "H", axis=2),
        ],
        {"h": H, "zero": np.array([0]), "last": np.array([2])},
    ),
    "initializer": ([], {"H": np.repeat(H, 3, axis=1)}),
    "where": (
        [
            *SHAPE,
            node("Equal", "shape units", "no"),
            node("Where", "no one shape", "n"),
            node("Expand", "h shape", "E"),
            node("Expand", "E n", "H"),
        ],
        {"h": H},
    ),
}


@pytest.mark.parametrize("case", LEARNED)
def test_states_that_are_the_same_for_the_whole_batch(case, x, close, random):
    nodes, constants = LEARNED[case]
    model = made(*nodes, constants={**SIZES, **constants}, gru="X W R B  H", linear_before_reset=1)
    gru, variables = convert.from_onnx(model, return_state=True)
    assert gru.learn_initial_state and variables["params"]["initial_state"].shape == (UNITS,)
    outputs, state = ran(model, X=x)
    close(gru.apply(variables, x), (outputs, state[0]))
    # A state that is given to the call replaces it.
    given = random.normal(size=(3, UNITS)).astype(np.float32)
    plain = made(
        inputs=[("H", FLOAT, [1, "batch", UNITS])], gru="X W R B  H", linear_before_reset=1
    )
    outputs, state = ran(plain, X=x, H=given[None])
    close(gru.apply(variables, x, initial_state=given), (outputs, state[0]))


def test_learned_states_of_two_directions(x, close):
    """One of them may be zeros."""
    h = np.concatenate([H, np.zeros_like(H)])
    model = made(
        node("Shape", "X", "S", start=1, end=2),
        node("Concat", "two S units", "shape", axis=0),
        node("Expand", "h shape", "H"),
        constants={**SIZES, "h": h},
        gru="X W R B  H",
        weights=arrays(2),
        direction="bidirectional",
    )
    module, variables = convert.from_onnx(model)
    close(module.apply(variables, x), ran(model, X=x)[0])


def test_the_batch_comes_first_in_layout_1():
    h = np.repeat(H, 3, axis=1).swapaxes(0, 1)
    gru, variables = convert.from_onnx(made(constants={"H": h}, gru="X W R B  H", layout=1))
    assert not gru.time_major
    np.testing.assert_array_equal(variables["params"]["initial_state"], H[0, 0])


ZEROS = {
    "constant of shape": ([*SHAPE, node("ConstantOfShape", "shape", "H")], {}),
    "expand": ([*SHAPE, node("Expand", "h shape", "H")], {"h": np.float32(0)}),
    "product": (
        [*SHAPE, node("Expand", "h shape", "E"), node("Mul", "E zero", "H")],
        {"h": H, "zero": np.float32(0)},
    ),
    "initializer": ([], {"H": np.zeros((1, 3, UNITS), np.float32)}),
}


@pytest.mark.parametrize("case", ZEROS)
def test_states_that_are_zeros(case, x, close):
    nodes, constants = ZEROS[case]
    model = made(*nodes, constants={**SIZES, **constants}, gru="X W R B  H")
    gru, variables = convert.from_onnx(model)
    assert not gru.learn_initial_state and "initial_state" not in variables["params"]
    close(gru.apply(variables, x), ran(model, X=x)[0])


# The shape of an input h, the nodes that make initial_h of it, and what they compute.
MOVED = {
    "as it is": ([1, "batch", UNITS], [node("Identity", "h", "H")], lambda h: h[0]),
    "unsqueeze": (["batch", UNITS], [node("Unsqueeze", "h zero", "H")], lambda h: h),
    "slice": ([2, "batch", UNITS], [node("Slice", "h one two zero", "H")], lambda h: h[1]),
    "gather": ([2, "batch", UNITS], [node("Gather", "h one", "H", axis=0)], lambda h: h[1]),
    "split": (
        [2, "batch", UNITS],
        [helper.make_node("Split", ["h"], ["other", "H"], axis=0)],
        lambda h: h[1],
    ),
    "transpose": (
        ["batch", 1, UNITS],
        [node("Transpose", "h", "H", perm=[1, 0, 2])],
        lambda h: h[:, 0],
    ),
    "reshape": (["batch", UNITS], [*SHAPE, node("Reshape", "h shape", "H")], lambda h: h),
    "concat": (
        ["batch", UNITS],
        [
            node("Slice", "h zero two last", "a"),
            node("Slice", "h two units last", "b"),
            node("Concat", "b a", "c", axis=-1),
            node("Unsqueeze", "c zero", "H"),
        ],
        lambda h: np.roll(h, 2, axis=-1),
    ),
}


@pytest.mark.parametrize("case", MOVED)
def test_states_that_are_inputs_stay_the_callers(case, x, close, random):
    shape, nodes, moved = MOVED[case]
    sizes = {**SIZES, "zero": np.array([0]), "last": np.array([1])}
    model = made(*nodes, constants=sizes, inputs=[("h", FLOAT, shape)], gru="X W R B  H")
    gru, variables = convert.from_onnx(model)
    assert not gru.learn_initial_state
    h = random.normal(size=[3 if axis == "batch" else axis for axis in shape]).astype(np.float32)
    close(gru.apply(variables, x, initial_state=moved(h)), ran(model, X=x, h=h)[0])


ROWS = np.random.default_rng(5).normal(size=(1, 3, UNITS)).astype(np.float32)
COMPUTED = {
    "rows differ": ([], {"H": ROWS}, "'H' differs from row to row of the batch"),
    "of an input": ([node("Tanh", "h", "H")], {}, r"'H' is computed from the values of \['h'\]"),
    "a sum": ([node("Add", "h g", "H")], {"g": H}, r"from the values of \['h'\]"),
    "with a constant": (
        [node("Concat", "h g", "H", axis=0)],
        {"g": ROWS},
        r"from the values of \['h'\]",
    ),
    "of the inputs": (
        [node("ReduceMean", "X", "m", axes=[0, 2]), *SHAPE, node("Expand", "m shape", "H")],
        {},
        r"from the values of \['X'\]",
    ),
    "of the batch": (
        [*SHAPE, node("Cast", "S", "s", to=FLOAT), node("Expand", "s shape", "H")],
        {},
        "'H' differs from row to row",
    ),
    "at random": ([node("RandomNormal", "", "H", shape=[1, 3, UNITS])], {}, "row to row"),
    "of an unknown shape": (
        [node("Reshape", "X n", "r"), node("Shape", "r", "s"), node("ConstantOfShape", "s", "H")],
        {},
        "the shape of 'r' is not known",
    ),
}


@pytest.mark.parametrize("case", COMPUTED)
def test_other_states_are_refused(case):
    nodes, constants, message = COMPUTED[case]
    model = made(
        *nodes,
        constants={**SIZES, **constants},
        inputs=[("h", FLOAT, [1, "batch", UNITS]), ("n", INT64, ["rank"])],
        gru="X W R B  H",
    )
    with pytest.raises(ValueError, match=f"(?s)initial_h of the GRU node must be an .*{message}"):
        convert.from_onnx(model)


def test_what_the_error_says_about_a_state_works(x, close, random):
    """The decoder of a pair begins with the encoder's state."""
    encoder = helper.make_node("GRU", ["X", "W", "R", "B"], ["", "H"], "encoder", hidden_size=UNITS)
    model = made(encoder, gru="X W R B  H", hidden_size=UNITS)
    with pytest.raises(ValueError, match="initial_h .*'H' is computed from") as error:
        convert.from_onnx(model, "gru")
    recipe = str(error.value).partition(" the call: ")[2].removesuffix(".")
    names = {"from_onnx": convert.from_onnx, "onnx": onnx, "model": model}
    module, variables = eval(recipe, names)
    state = random.normal(size=(3, UNITS)).astype(np.float32)
    wanted = made(inputs=[("H", FLOAT, [1, "batch", UNITS])], gru="X W R B  H")
    outputs = module.apply(variables, x, initial_state=state)
    close(outputs, ran(wanted, X=x, H=state[None])[0])


def test_outputs_after_the_end_of_a_sequence_are_zeros(x, close):
    lengths = np.array([5, 1, 3], np.int32)
    for directions, direction in ((1, "forward"), (1, "reverse"), (2, "bidirectional")):
        model = made(
            inputs=[("L", onnx.TensorProto.INT32, ["batch"])],
            gru="X W R B L",
            weights=arrays(directions),
            direction=direction,
        )
        outputs, state = ran(model, X=x, L=lengths)
        module, variables = convert.from_onnx(model)
        found = module.apply(variables, x, seq_lengths=lengths)
        close(found[::-1] if direction == "reverse" else found, outputs)
        # Without sequences a layer returns the last state, not the output of the last step.
        module, variables = convert.from_onnx(model, return_sequences=False)
        found = module.apply(variables, x, seq_lengths=lengths)
        close(found, np.concatenate(state, axis=-1))


def test_a_sequence_of_length_0(x, random, close):
    """ONNX Runtime returns zeros, gruflax the state that it was given."""
    inputs = [("L", onnx.TensorProto.INT32, ["batch"]), ("H", FLOAT, [1, "batch", UNITS])]
    model = made(inputs=inputs, gru="X W R B L H")
    gru, variables = convert.from_onnx(model, return_state=True)
    lengths, h = np.array([5, 0, 3], np.int32), random.normal(size=(3, UNITS)).astype(np.float32)
    theirs, their_state = ran(model, X=x, L=lengths, H=h[None])
    ours, state = gru.apply(variables, x, seq_lengths=lengths, initial_state=h)
    close(ours, theirs)
    close(state, np.where([[1], [0], [1]], their_state[0], h))
    assert not their_state[0, 1].any()


def test_lengths_that_are_constants(x, close):
    full = [node("Shape", "X", "S"), node("Split", "S", "t", axis=0, num_outputs=3)]
    full[1].output[:] = ["t", "b", "f"]
    full += [node("Expand", "t b", "e"), node("Cast", "e", "L", to=onnx.TensorProto.INT32)]
    model = made(*full, gru="X W R B L", opset=18)
    gru, variables = convert.from_onnx(model)
    close(gru.apply(variables, x), ran(model, X=x)[0])
    model = made(constants={"L": np.array([5, 5, 5], np.int32)}, gru="X W R B L")
    with pytest.raises(ValueError, match=r"sequence_lens .* constant.*\[5, 5, 5\] is not the num"):
        convert.from_onnx(model)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 5
    convert.from_onnx(model)
