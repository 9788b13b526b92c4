"""tf.compat.v1's GRU against the arrays of TensorFlow 1.15 and 2.2."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest

import gruflax
from gruflax.compat import v1


INPUTS = oracle.golden_inputs()
CASES = sorted(oracle.golden("tf22"))
PRODUCERS = ("tf115", "tf22")
KEY = jax.random.key(0)
X, H0 = INPUTS["x"], INPUTS["h0"]


def read_case(case):
    """Reads a case's name: the layer's fields, the arguments of its call, injected masks."""
    if case.startswith("drop"):
        _, reset_after, implementation, dropout, recurrent = case.split("_")
        fields = {
            "reset_after": reset_after == "ra1",
            "implementation": int(implementation[-1]),
            "dropout": float(dropout[1:]),
            "recurrent_dropout": float(recurrent[1:]),
        }
        arrays = oracle.golden("tf22")[case]
        masks = {"inputs": arrays.get("D"), "recurrent": arrays.get("R")}
        return fields, {"initial_state": H0}, masks
    if case.startswith("time_major"):
        fields = {"reset_after": case.endswith("1"), "time_major": True}
        return fields, {"mask": oracle.golden_mask("gaps").T, "initial_state": H0}, {}
    fields, call = oracle.golden_case(case)
    fields.setdefault("recurrent_activation", "sigmoid")
    names = ("go_backwards", "unroll", "zero_output_for_mask")
    fields |= {name: call.pop(name) for name in names if name in call}
    return fields, call, {}


def compute(case):
    fields, call, masks = read_case(case)
    params = oracle.golden_params(fields["reset_after"], fields.get("use_bias", True))
    swap = (lambda a: a.swapaxes(0, 1)) if fields.get("time_major") else (lambda a: a)
    make = functools.partial(v1.GRU, 5, return_state=True, **fields)
    masks = {name: list(value) for name, value in masks.items() if value is not None}

    def run(params, x, h0, return_sequences):
        arguments = dict(call)
        if "initial_state" in arguments:
            arguments["initial_state"] = h0
        variables = {"params": params, "dropout_masks": masks}
        layer = make(return_sequences=return_sequences)
        return layer.apply(variables, x, training=bool(masks), **arguments)

    def loss(params, x, h0):
        seq, state = run(params, x, h0, True)
        return (seq * swap(INPUTS["G"])).sum() + (state * INPUTS["GL"]).sum(), (seq, state)

    @jax.jit
    def everything(params, x, h0):
        gradients, (seq, state) = jax.grad(loss, argnums=(0, 1, 2), has_aux=True)(params, x, h0)
        return seq, state, run(params, x, h0, False)[0], gradients

    seq, state, last, (dparams, dx, dh0) = everything(params, swap(X), H0)
    computed = {"seq": seq, "state": state, "last": last, "dx": dx, "dh0": dh0}
    computed |= {"dK": dparams["kernel"], "dR": dparams["recurrent_kernel"]}
    return computed | {"db": dparams.get("bias"), "layer": make()}


@pytest.mark.parametrize("case", CASES)
def test_golden(case):
    computed = compute(case)
    given = ("D", "R", "cell_implementation")
    for producer in PRODUCERS:
        arrays = oracle.golden(producer)[case]
        dropped_carry = "impl2" in case and case.endswith("r0.4")
        if producer == "tf115" and dropped_carry:
            # 1.15 scales the carried state by 1 / (1 - rate) here; 2.2 and gruflax do not.
            assert np.abs(computed["seq"] - arrays["seq"]).max() > 0.01
            continue
        for name in set(arrays) - set(given):
            if name == "dh0" and "initial_state" not in read_case(case)[1]:
                continue
            np.testing.assert_allclose(
                computed[name], arrays[name], rtol=2e-5, atol=2e-5, err_msg=f"{producer} {name}"
            )
        if "cell_implementation" in arrays:
            assert computed["layer"].implementation == arrays["cell_implementation"]


def test_every_case_is_read():
    assert len(CASES) == 90 and set(CASES) == set(oracle.golden("tf115"))


def test_hard_sigmoid():
    x = jnp.array([-4, -3, -2.5, -1, 0, 1, 2.5, 3, 4.0])
    wanted = [0, 0, 0, 0.3, 0.5, 0.7, 1, 1, 1]
    np.testing.assert_allclose(v1.hard_sigmoid(x), wanted, atol=1e-7)


def params_of(layer, *args):
    params = layer.init(KEY, *args)["params"]
    return jax.tree.map(lambda leaf: leaf + 0.1, params)


def test_signatures_and_containers():
    layer = v1.GRU(5, "tanh", "hard_sigmoid", True)
    assert (layer.implementation, layer.reset_after, layer.time_major) == (1, False, False)
    params = params_of(layer, X)
    assert params["bias"].shape == (15,)
    mask = oracle.golden_mask("right")
    by_position = layer.apply({"params": params}, X, mask, False, H0)
    by_name = layer.apply({"params": params}, X, mask=mask, initial_state=[H0])
    np.testing.assert_array_equal(by_position, by_name)
    stateful = v1.GRU(5, return_sequences=True, return_state=True)
    result = stateful.apply({"params": params}, X)
    assert isinstance(result, list) and [leaf.shape for leaf in result] == [(3, 6, 5), (3, 5)]
    with pytest.raises(TypeError, match="seed"):
        v1.GRU(5, seed=1)


def test_cell_is_one_step_of_the_layer():
    layer, cell = v1.GRU(5, return_sequences=True), v1.GRUCell(5)
    params = params_of(layer, X)
    wanted = layer.apply({"params": params}, X, initial_state=H0)
    states = [H0]
    for step in range(6):
        output, states = cell.apply({"params": params}, X[:, step], states)
        assert isinstance(states, list)
        np.testing.assert_allclose(output, wanted[:, step], atol=1e-6)
        np.testing.assert_array_equal(output, states[0])
    alone, [_] = cell.apply({"params": params}, X[:, 0], H0)
    np.testing.assert_allclose(alone, wanted[:, 0], atol=1e-6)


def test_values_are_clamped():
    assert v1.GRU(5, dropout=-0.5).dropout == 0 and v1.GRU(5, dropout=1.5).dropout == 1
    assert v1.GRUCell(5, implementation=2, recurrent_dropout=0.1).implementation == 1
    assert v1.GRUCell(5, implementation=2, dropout=0.1).implementation == 2
    assert v1.GRU(5, implementation=0).implementation == 1


MASK_METHODS = [
    ("get_dropout_mask_for_cell", "reset_dropout_mask", "inputs", (3, 4)),
    ("get_recurrent_dropout_mask_for_cell", "reset_recurrent_dropout_mask", "recurrent", (3, 5)),
]


@pytest.mark.parametrize("get, reset, name, shape", MASK_METHODS)
def test_mask_methods_under_jit(get, reset, name, shape):
    cell = v1.GRUCell(5, dropout=0.5, recurrent_dropout=0.5)

    @functools.partial(jax.jit, static_argnames=("training", "count"))
    def draw(variables, key, training=True, count=1):
        return cell.apply(
            variables,
            jnp.zeros(shape),
            training,
            count,
            method=get,
            rngs={"dropout": jax.random.key(key)},
            mutable=["dropout_masks"],
        )

    mask, cache = draw({}, 0)
    assert mask.shape == shape and set(np.unique(mask)) == {0, 2}
    again, _ = draw(cache, 1, training=False, count=3)
    np.testing.assert_array_equal(again, mask)
    fresh, _ = draw({}, 1)
    assert not np.array_equal(fresh, mask)
    ones, _ = draw({}, 0, training=False)
    assert (ones == 1).all()
    several, _ = draw({}, 0, count=3)
    assert isinstance(several, list) and len(several) == 3
    assert not np.array_equal(several[0], several[1])
    _, emptied = cell.apply(cache, method=reset, mutable=["dropout_masks"])
    assert emptied["dropout_masks"][name] is None
    redrawn, _ = draw(emptied, 1)
    np.testing.assert_array_equal(redrawn, fresh)
    plain = v1.GRUCell(5)
    assert plain.apply({}, jnp.zeros(shape), True, method=get) is None


def test_masks_last_for_a_batch_and_no_longer():
    cell = v1.GRUCell(5, dropout=0.5, recurrent_dropout=0.5)
    params = params_of(cell, X[:, 0], [H0])
    apply = functools.partial(cell.apply, training=True, mutable=["dropout_masks"])

    @jax.jit
    def step(variables, states, x, key):
        (output, states), new = apply(variables, x, states, rngs={"dropout": key})
        return output, states, {**variables, **new}

    outputs = []
    for batch in range(2):
        variables, states = {"params": params}, [H0]
        for index in range(3):
            key = jax.random.key(10 * batch + index)
            output, states, variables = step(variables, states, X[:, 0], key)
        outputs.append(output)
        masks = variables["dropout_masks"]
        layer = v1.GRU(5, dropout=0.5, recurrent_dropout=0.5)
        x = np.repeat(X[:, :1], 3, axis=1)
        wanted = layer.apply({"params": params, "dropout_masks": masks}, x, None, True, H0)
        np.testing.assert_allclose(output, wanted, atol=1e-6)
    assert np.abs(outputs[0] - outputs[1]).max() > 0.01


@pytest.mark.parametrize("implementation, count", [(1, 3), (2, 1)])
def test_layer_draws_masks_once_a_call(implementation, count):
    layer = v1.GRU(5, dropout=0.5, implementation=implementation, recurrent_initializer="zeros")
    params = {"params": params_of(layer, X)}
    run = lambda key: layer.apply(params, X, training=True, rngs={"dropout": jax.random.key(key)})  # noqa: E731, E501
    np.testing.assert_array_equal(run(1), run(1))
    assert np.abs(run(1) - run(2)).max() > 0.01
    np.testing.assert_array_equal(layer.apply(params, X), layer.apply(params, X, training=False))
    masks = {"inputs": [2 * jnp.ones((3, 4)), jnp.zeros((3, 4)), jnp.ones((3, 4))]}
    got = layer.apply({**params, "dropout_masks": masks}, X)
    stacked = jnp.stack(masks["inputs"])[:count]
    config = gruflax.GRUConfig(recurrent_activation=v1.hard_sigmoid, reset_after=False)
    wanted, _ = gruflax.gru_sequence(
        params["params"],
        X,
        config=config,
        dropout_masks=gruflax.DropoutMasks(inputs=stacked),
        return_sequences=False,
    )
    np.testing.assert_allclose(got, wanted, atol=1e-6)
    with pytest.raises(ValueError, match=r"rngs=\{'dropout': key\}"):
        layer.apply(params, X, training=True)


def test_initial_states():
    cell, layer = v1.GRUCell(5), v1.GRU(5)
    state = cell.get_initial_state(inputs=X.astype(np.float16))
    assert state.shape == (3, 5) and state.dtype == np.float16 and not state.any()
    assert cell.get_initial_state(batch_size=2, dtype="float32").shape == (2, 5)
    (state,) = layer.get_initial_state(X)
    assert state.shape == (3, 5)
    assert v1.GRU(5, time_major=True).get_initial_state(X)[0].shape == (6, 5)
    with pytest.raises(ValueError, match="needs inputs, or both batch_size and dtype, got batch"):
        cell.get_initial_state(batch_size=2)


def test_states_and_reset_states():
    layer = v1.GRU(5, stateful=True)
    assert layer.states == [None]
    variables = layer.init(KEY, X)
    _, new = layer.apply(variables, X, mutable=["recurrent_state"])
    used = {**variables, **new}
    (state,) = layer.bind(used).states
    mutable = {"mutable": ["recurrent_state"]}
    np.testing.assert_array_equal(state, layer.apply(variables, X, **mutable)[0])
    initial, _ = layer.apply(used, X, initial_state=H0, **mutable)
    wanted = v1.GRU(5).apply({"params": used["params"]}, X, initial_state=H0)
    np.testing.assert_array_equal(initial, wanted)
    bound = layer.bind(used, mutable=["recurrent_state"])
    bound.reset_states()
    assert not bound.states[0].any()
    bound.reset_states(states=H0)
    np.testing.assert_array_equal(bound.states[0], H0)
    bound.reset_states([2 * H0])
    np.testing.assert_array_equal(bound.states[0], 2 * H0)
    with pytest.raises(ValueError, match="states must be 1 arrays, got 2"):
        bound.reset_states([H0, H0])
    with pytest.raises(ValueError, match=r"states must have shapes \[\(3, 5\)\], got \[\(1, 4\)\]"):
        bound.reset_states(np.zeros((1, 4)))
    unknown = layer.bind({"params": used["params"]}, mutable=["recurrent_state"])
    with pytest.raises(ValueError, match="needs to know its batch size"):
        unknown.reset_states()
    plain = v1.GRU(5).bind({"params": used["params"]}, mutable=["recurrent_state"])
    assert plain.states == [None]
    with pytest.raises(AttributeError, match="Layer must be stateful"):
        plain.reset_states()


def test_activity_loss_is_divided_by_the_batch():
    layer = v1.GRU(5, activity_regularizer="l2", kernel_regularizer="l1_l2", return_state=True)
    params = params_of(layer, X)
    (output, state), new = layer.apply({"params": params}, X, mutable=["losses"])
    wanted = [0.01 * np.square(value).sum() / 3 for value in (output, state)]
    np.testing.assert_allclose(new["losses"]["activity"], wanted, rtol=1e-5)
    kernel = np.asarray(params["kernel"])
    weights = 0.01 * (np.abs(kernel).sum() + np.square(kernel).sum())
    np.testing.assert_allclose(new["losses"]["kernel"], weights, rtol=1e-5)


CONFIG = {
    "name": "gru",
    "trainable": True,
    "dtype": "float32",
    "return_sequences": True,
    "return_state": False,
    "go_backwards": False,
    "stateful": False,
    "unroll": False,
    "time_major": True,
    "units": 5,
    "activation": "tanh",
    "recurrent_activation": "hard_sigmoid",
    "use_bias": True,
    "kernel_initializer": {"class_name": "GlorotUniform", "config": {"seed": None}},
    "recurrent_initializer": {"class_name": "Orthogonal", "config": {"gain": 1.0, "seed": None}},
    "bias_initializer": {"class_name": "Zeros", "config": {}},
    "kernel_regularizer": {"class_name": "L1L2", "config": {"l1": 0.0, "l2": 0.01}},
    "recurrent_regularizer": None,
    "bias_regularizer": None,
    "activity_regularizer": None,
    "kernel_constraint": None,
    "recurrent_constraint": None,
    "bias_constraint": None,
    "dropout": 0.0,
    "recurrent_dropout": 0.0,
    "reset_after": False,
}


@pytest.mark.parametrize("implementation", [0, 1, 2])
def test_configs(implementation):
    layer = v1.GRU.from_config(CONFIG | {"implementation": implementation})
    assert layer.implementation == max(implementation, 1)
    assert layer.time_major and layer.units == 5 and not layer.reset_after
    assert layer.get_config() == CONFIG | {"implementation": max(implementation, 1)}
    assert v1.GRU(5, zero_output_for_mask=True).get_config()["zero_output_for_mask"] is True
    cell = v1.GRUCell.from_config(v1.GRUCell(5, implementation=2).get_config())
    assert (cell.units, cell.implementation) == (5, 2)


@pytest.mark.parametrize(
    "call, message",
    [
        ({"inputs": X[0]}, r"inputs must have 3 axes, got shape \(6, 4\)"),
        ({"inputs": X, "mask": np.ones((6, 3))}, r"mask must have shape \(3, 6\)"),
        (
            {"inputs": X, "initial_state": [H0, H0]},
            "initial_state must be one state for a GRU, got 2",
        ),
        ({"inputs": X, "initial_state": H0[:2]}, r"initial_state must have shape \(3, 5\)"),
    ],
)
def test_errors(call, message):
    layer = v1.GRU(5)
    with pytest.raises(ValueError, match=message):
        layer.apply({"params": params_of(layer, X)}, **call)


@pytest.mark.parametrize("return_sequences", [True, False])
def test_no_steps(return_sequences):
    layer = v1.GRU(5, return_sequences=return_sequences, return_state=True)
    params = params_of(layer, X)
    mask = np.ones((3, 0), bool)
    outputs, state = layer.apply({"params": params}, X[:, :0], mask, initial_state=H0)
    assert outputs.shape == ((3, 0, 5) if return_sequences else (3, 5))
    np.testing.assert_array_equal(state, H0)


def test_nan_at_masked_steps_goes_nowhere():
    mask = oracle.golden_mask("gaps")
    poisoned = np.where(mask[..., None], X, np.nan).astype(np.float32)
    layer = v1.GRU(5, return_sequences=True)
    params = params_of(layer, X)
    gradient = jax.grad(lambda x: layer.apply({"params": params}, x, mask).sum())(poisoned)
    assert np.isfinite(gradient).all() and not gradient[~mask].any()
