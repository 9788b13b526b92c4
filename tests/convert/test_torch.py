"""torch's GRU: by arrays recorded with it, and by stand-ins of its modules."""

import pathlib
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import gruflax
from gruflax import convert
from gruflax.linen import Bidirectional, Stack


FOLDER = pathlib.Path(__file__).parents[1] / "golden"
GOLDEN = FOLDER / "torch213.npz"

# What make_torch.py changes in a GRU, and that is computed from a state_dict; and cannot be.
COMPUTED = (
    "weight_norm",
    "weight_norm_of_all",
    "new_weight_norm",
    "new_weight_norm_of_all",
    "spectral_norm",
    "new_spectral_norm",
    "pruned",
)
NOT_COMPUTED = ("orthogonal", "own")

# (layers, directions, batch_first) of the GRUs that are not changed.
PLAIN = ((1, 2, False), (2, 2, True), (3, 1, False))


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as file:
        return dict(file)


@pytest.fixture(scope="module")
def files():
    with np.load(FOLDER / "torch_files.npz") as file:
        return dict(file)


def case_of(files, name):
    """The state_dict of a case, and its other arrays."""
    case = {key.removeprefix(f"{name}/"): files[key] for key in files if key.startswith(f"{name}/")}
    state_dict = {
        key.removeprefix("state_dict/"): case.pop(key) for key in list(case) if "state_dict/" in key
    }
    return state_dict, case


def module_of(state_dict, **attributes):
    """A stand-in for a live module, which may hold others."""
    return types.SimpleNamespace(state_dict=lambda: state_dict, **attributes)


def recorded(golden, kind):
    return {
        name.split("/")[1]: array for name, array in golden.items() if name.startswith(f"{kind}/")
    }


def test_recorded_stack_of_pairs(golden, equal, close):
    state_dict = recorded(golden, "gru")
    module, variables = convert.from_torch(state_dict, dropout=0.1)
    assert isinstance(module, Stack) and module.dropout == 0.1
    close(module.apply(variables, golden["gru_x"]), golden["gru_y"])
    equal(convert.to_torch(module, variables), state_dict)


def test_recorded_states(golden, close):
    module, variables = convert.from_torch(
        {
            name: array
            for name, array in recorded(golden, "gru").items()
            if "_l0" in name and "reverse" not in name
        },
        return_state=True,
    )
    outputs, state = module.apply(variables, golden["gru_x"])
    close((outputs[-1], state), (golden["gru_h"][0],) * 2)


def test_recorded_cell(golden, equal, close):
    state_dict = recorded(golden, "cell")
    params = convert.from_torch(state_dict)
    state, _ = gruflax.gru_cell_step(params, golden["cell_h"], golden["gru_x"][0])
    close(state, golden["cell_y"])
    equal(convert.to_torch(params), state_dict)
    equal(convert.to_torch(gruflax.GRUCell(5), {"params": params}), state_dict)


def test_prefix_and_batch_first(golden, close):
    state_dict = {f"encoder.gru.{k}": v for k, v in recorded(golden, "gru").items()}
    state_dict["head.weight"] = np.zeros((2, 2), np.float32)
    for prefix in ("encoder.gru.", "encoder.gru", "encoder", ""):
        module, variables = convert.from_torch(state_dict, prefix=prefix, batch_first=True)
        outputs = module.apply(variables, golden["gru_x"].swapaxes(0, 1))
        close(outputs, golden["gru_y"].swapaxes(0, 1))


def test_one_gru_among_others(golden, equal):
    cell = recorded(golden, "cell")
    lstm = {f"lstm.{name}_l0": np.ones((20, *array.shape[1:])) for name, array in cell.items()}
    rnn = {f"rnn.{name}": array[:5] for name, array in cell.items()}
    state_dict = {f"gru.cell.{name}": array for name, array in cell.items()}
    equal(convert.from_torch(lstm | state_dict | rnn), convert.from_torch(cell))
    two = state_dict | {f"gru.top.{name}": array for name, array in cell.items()}
    equal(convert.from_torch(two, prefix="gru.top"), convert.from_torch(cell))
    for prefix in ("", "gru", "gru.t", "lstm"):
        wanted = rf"prefix must name one GRU .*\['gru.cell.', 'gru.top.'\], got '{prefix}'"
        with pytest.raises(ValueError, match=wanted):
            convert.from_torch(two | lstm, prefix=prefix)
    with pytest.raises(ValueError, match=r"must hold .*GRUCell, got .* LSTM 'lstm.', RNN 'rnn.'"):
        convert.from_torch(lstm | rnn)


def test_options_are_those_of_the_gru_that_is_named(golden):
    state_dict = {f"encoder.0.{k}": v for k, v in recorded(golden, "gru").items()}
    gru = module_of({}, batch_first=True, dropout=0.25)
    encoder = types.SimpleNamespace(**{"0": gru}, batch_first=False, dropout=0.5)
    model = module_of(state_dict, encoder=encoder, batch_first=False, dropout=0.5)
    for prefix in ("encoder.0.", "encoder", ""):
        module, _ = convert.from_torch(model, prefix=prefix)
        assert module.dropout == 0.25 and not module.layers[0].layer.time_major
    module, _ = convert.from_torch(model, batch_first=False, dropout=0.1)
    assert module.dropout == 0.1 and module.layers[0].layer.time_major


def test_options_that_only_the_graph_of_a_traced_module_has(golden):
    values = (None, None, None, True, 2, 0.25, True, True, True)
    variants = {"Tensor[] params, bool batch_first": values, "Tensor batch_sizes": values}
    for schema, inputs in variants.items():
        node = types.SimpleNamespace(
            schema=lambda schema=schema: schema,
            inputs=lambda inputs=inputs: [
                types.SimpleNamespace(toIValue=lambda value=value: value) for value in inputs
            ],
        )
        graph = types.SimpleNamespace(findNode={"aten::gru": node}.get)
        model = module_of(recorded(golden, "gru"), graph=graph)
        if "batch_first" in schema:
            module, _ = convert.from_torch(model)
            assert module.dropout == 0.25 and not module.layers[0].layer.time_major
        else:
            with pytest.raises(ValueError, match="not tell its batch_first and dropout: give"):
                convert.from_torch(model)
    exported = types.SimpleNamespace(state_dict=recorded(golden, "gru"))
    for given in ({}, {"batch_first": True}, {"dropout": 0.1}):
        with pytest.raises(ValueError, match="not tell its batch_first and dropout: give"):
            convert.from_torch(exported, **given)
    assert convert.from_torch(exported, batch_first=True, dropout=0.1)[0].dropout == 0.1


@pytest.mark.parametrize("name", COMPUTED)
def test_recorded_weights_that_are_computed(files, name, close):
    state_dict, case = case_of(files, name)
    state_dict = {f"gru.{key}": array for key, array in state_dict.items()}
    module, variables = convert.from_torch(state_dict, batch_first=True)
    close(module.apply(variables, case["x"], initial_state=case["h_0"][0]), case["y"])
    plain = convert.to_torch(module, variables)
    assert sorted(plain) == ["bias_hh_l0", "bias_ih_l0", "weight_hh_l0", "weight_ih_l0"]


@pytest.mark.parametrize("name", NOT_COMPUTED)
def test_recorded_weights_that_only_the_module_computes(files, name):
    state_dict, _ = case_of(files, name)
    with pytest.raises(ValueError, match=r"computes weight_hh_l0 from .*hand in the live module"):
        convert.from_torch(state_dict)


def test_weights_that_the_module_computes(files, close):
    state_dict, case = case_of(files, "own")

    class Parametrization:
        """A stand-in for the list of a weight's parametrizations, which changes in training."""

        training = True

        def eval(self):
            self.training = False
            return self

        def __call__(self):
            assert not self.training
            return np.tanh(state_dict["parametrizations.weight_hh_l0.original"])

    class Parametrized(types.SimpleNamespace):
        """A stand-in for a module, whose class computes the weight."""

        @property
        def weight_hh_l0(self):
            raise AssertionError("the weight of training mode")

    made = {"weight_hh_l0": Parametrization()}
    module, variables = convert.from_torch(
        Parametrized(
            state_dict=lambda: state_dict, parametrizations=made, batch_first=True, dropout=0.0
        )
    )
    close(module.apply(variables, case["x"], initial_state=case["h_0"][0]), case["y"])
    assert made["weight_hh_l0"].training


def test_parts_that_do_not_make_a_weight(files):
    state_dict, _ = case_of(files, "new_weight_norm")
    part = "parametrizations.weight_hh_l0.original"
    # Two matrices of rank 1, as somebody's own parametrization may have, are no weight_norm.
    rank_one = {f"{part}0": state_dict["bias_hh_l0"][:, None], f"{part}1": np.ones((1, 4))}
    with pytest.raises(ValueError, match="must hold a weight_hh_l0 that can be read"):
        convert.from_torch(state_dict | rank_one)
    with pytest.raises(ValueError, match=r"got tensors of \['float32', 'object'\], not floats"):
        convert.from_torch(state_dict | {f"{part}0": None})
    lists = types.SimpleNamespace(weight_hh_l0=types.SimpleNamespace(**{"0": 1, "1": 2}))
    model = module_of(state_dict, parametrizations=lists, batch_first=True, dropout=0.0)
    with pytest.raises(ValueError, match=r"computes weight_hh_l0 from .*hand in the live module"):
        convert.from_torch(model)
    square, _ = case_of(files, "spectral_norm")
    square |= {"weight_ih_l0_orig": np.ones((12, 12)), "weight_ih_l0_v": np.ones(12)}
    square["weight_ih_l0_u"] = square["weight_ih_l0_v"]
    with pytest.raises(ValueError, match=r"hold a weight_ih_l0 .*square .* not tell its dim"):
        convert.from_torch(square)


def test_recorded_bfloat16(files, equal):
    state_dict, case = (
        {name: array.view(jnp.bfloat16) for name, array in arrays.items()}
        for arrays in case_of(files, "bfloat16")
    )
    module, variables = convert.from_torch(state_dict, batch_first=True)
    assert module.param_dtype == jnp.bfloat16
    equal(convert.to_torch(module, variables), state_dict)
    outputs = module.apply(variables, case["x"], initial_state=case["h_0"][0])
    np.testing.assert_allclose(*(y.astype("float32") for y in (outputs, case["y"])), atol=0.02)


@pytest.mark.parametrize(("layers", "directions", "first"), PLAIN)
def test_recorded_states_and_packed_sequences(files, layers, directions, first, equal, close):
    state_dict, case = case_of(files, f"plain_{layers}_{directions == 2}_{first}")
    module, variables = convert.from_torch(state_dict, batch_first=first, return_state=True)
    equal(convert.to_torch(module, variables), state_dict)
    start = convert.from_torch_state(module, case["h_0"])
    equal(np.asarray(convert.to_torch_state(module, start)), case["h_0"])
    outputs, *state = module.apply(variables, case["x"], initial_state=start)
    close((outputs, convert.to_torch_state(module, state)), (case["y"], case["h_n"]))
    marks = {"seq_lengths": np.array([5, 3, 1])}
    outputs, *state = module.apply(variables, case["x"], initial_state=start, **marks)
    state = state[0] if layers > 1 else tuple(state)
    close((outputs, convert.to_torch_state(module, state)), (case["packed_y"], case["packed_h_n"]))
    assert jax.tree.structure(state) == jax.tree.structure(start)
    # One sequence without a batch axis.
    one = (lambda array: array[0]) if first else (lambda array: array[:, 0])
    start = convert.from_torch_state(module, case["h_0"][:, 0])
    outputs, *state = module.apply(variables, one(case["x"]), initial_state=start)
    state = jax.jit(lambda state: convert.to_torch_state(module, state))(state)
    close((outputs, state), (one(case["y"]), case["h_n"][:, 0]))


def test_states_that_do_not_fit(golden):
    module, _ = convert.from_torch(recorded(golden, "gru"))
    for shape in ((3, 2, 5), (4, 2, 6), (4, 5, 2, 5), (5,)):
        wanted = r"state must be \[4, b, 5\] or \[4, 5\].* for module, got an array"
        with pytest.raises(ValueError, match=wanted):
            convert.from_torch_state(module, np.ones(shape, np.float32))
    for shapes in ([], [(2, 5)] * 3, [(2, 6)] * 4, [(2, 5)] * 3 + [(3, 5)], [(1, 2, 5)] * 4):
        with pytest.raises(ValueError, match=r"must hold 4 states \[b, 5\] or \[5\], one for"):
            convert.to_torch_state(module, [np.ones(shape, np.float32) for shape in shapes])
    for helper in (convert.from_torch_state, convert.to_torch_state):
        with pytest.raises(TypeError, match=r"module must be a gruflax.GRU, .*got Dense"):
            helper(nn.Dense(3), np.ones((1, 2, 5)))


def test_what_torch_does_not_have(x, drawn):
    def refused(module, message):

        variables = drawn(module.init(jax.random.key(0), x))
        with pytest.raises(ValueError, match=message):
            convert.to_torch(module, variables)

    refused(gruflax.GRU(5, reset_after=False), "torch has no GRU with reset_after=False")
    refused(gruflax.GRU(5, activation="relu"), "torch has no GRU with activation='relu'")
    refused(
        gruflax.GRU(5, recurrent_activation="hard_sigmoid"),
        "torch has no GRU with recurrent_activation='hard_sigmoid'",
    )
    refused(gruflax.GRU(5, go_backwards=True), "torch has no GRU that goes backwards first")
    refused(
        Bidirectional(gruflax.GRU(5), merge_mode="sum"),
        "torch has no GRU with merge_mode='sum', only 'concat'",
    )
    refused(
        Stack([gruflax.GRU(5, return_sequences=True), gruflax.GRU(3)]),
        r"torch has one number of units.*got \(units, use_bias\) \[\(3, True\), \(5, True\)\]",
    )


def test_errors(golden):
    with pytest.raises(TypeError, match="source must be a torch module or its state_dict, got int"):
        convert.from_torch(3)
    with pytest.raises(ValueError, match=r"source must hold weight_ih_l0 .* See prefix"):
        convert.from_torch({"gru.weight": np.zeros((15, 4))})
    # What is left of a GRU whose frozen parameters were not saved.
    for absent in ("bias_hh_l1", "bias_ih_l0", "weight_ih_l1_reverse", "_l0_reverse", "bias_hh"):
        gru = recorded(golden, "gru")
        gru = {name: array for name, array in gru.items() if absent not in name}
        with pytest.raises(ValueError, match=f"the state_dict must hold .*{absent}"):
            convert.from_torch(gru)
    gru = {name.replace("_l1", "_l2"): array for name, array in recorded(golden, "gru").items()}
    with pytest.raises(ValueError, match=r"the state_dict must hold .*weight_ih_l1"):
        convert.from_torch(gru)
    cell = recorded(golden, "cell")
    with pytest.raises(ValueError, match=r"shapes of a GRU, got .*'weight_hh': \(15, 4\)"):
        convert.from_torch(cell | {"weight_hh": cell["weight_hh"][:, :4]})
    with pytest.raises(ValueError, match=r"shapes of a GRU, got .*'bias_hh': \(5,\)"):
        convert.from_torch(cell | {"bias_hh": cell["bias_hh"][10:]})
    with pytest.raises(ValueError, match=r"bias_hh .*: got tensors of \['int32'\], not floats"):
        convert.from_torch(cell | {"bias_hh": cell["bias_hh"].astype(np.int32)})
    with pytest.raises(TypeError, match=r"params of a cell have no fields, got \['activation'\]"):
        convert.from_torch(cell, activation="relu")
    with pytest.raises(TypeError, match="module must be a gruflax.GRU, .*got Dense"):
        convert.to_torch(nn.Dense(3), {"params": {}})
