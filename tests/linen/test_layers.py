"""GRUCell, GRU and RNN as Flax modules: arguments, composition, transformations."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cells import OwnStep
from flax import linen as nn, nnx
from jax import export

import gruflax


RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(3, 7, 4)).astype(np.float32)
MASK = RANDOM.random((3, 7)) < 0.6
KEY = jax.random.key(0)


def params_of(layer, *args, **kwargs):
    """Parameters with a bias that is not zero."""
    params = layer.init({"params": KEY, "dropout": KEY}, *args, **kwargs)["params"]
    return jax.tree.map(lambda leaf: leaf + 0.1, params)


@pytest.fixture(scope="module")
def gru():
    layer = gruflax.GRU(5, return_sequences=True, return_state=True)
    return layer, params_of(layer, X)


def test_thin_over_gru_sequence(gru):
    layer, params = gru
    outputs, state = layer.apply({"params": params}, X, mask=MASK)
    wanted, wanted_state = gruflax.gru_sequence(params, X, mask=MASK)
    np.testing.assert_array_equal(outputs, wanted)
    np.testing.assert_array_equal(state, wanted_state)


ONES = np.ones((3, 5), np.float32)


@pytest.mark.parametrize(
    "fields, call",
    [
        ({"time_major": True}, {"mask": MASK.T}),
        ({"go_backwards": True, "zero_output_for_mask": True}, {"mask": MASK}),
        ({"unroll": True, "reset_after": False}, {"reset": MASK, "reset_state": ONES}),
        ({"use_bias": False, "loop": "scan"}, {"seq_lengths": np.array([7, 0, 2])}),
        (
            {"recurrent_activation": jax.nn.hard_sigmoid, "activation": None},
            {"initial_state": (ONES,)},
        ),
    ],
)
def test_options_reach_the_core(fields, call):
    layer = gruflax.GRU(5, return_sequences=True, **fields)
    x = X.swapaxes(0, 1) if layer.time_major else X
    params = params_of(layer, x)
    config_names = ("reset_after", "use_bias", "recurrent_activation", "activation")
    config = gruflax.GRUConfig(
        **{name: fields.pop(name) for name in config_names if name in fields}
    )
    options = fields | call
    if "initial_state" in options:
        options["initial_state"] = options["initial_state"][0]
    wanted, _ = gruflax.gru_sequence(params, x, config=config, **options)
    np.testing.assert_array_equal(layer.apply({"params": params}, x, **call), wanted)


def test_rnn_of_gru_cell_is_gru(gru):
    layer, params = gru
    rnn = gruflax.RNN(gruflax.GRUCell(5), return_sequences=True, return_state=True)
    wanted = layer.apply({"params": params}, X, mask=MASK)
    got = rnn.apply({"params": {"cell": params}}, X, mask=MASK)
    chex.assert_trees_all_equal(got, wanted)


@pytest.mark.parametrize("unroll", [True, False])
@pytest.mark.parametrize("options", [
    {}, {"mask": MASK}, {"mask": MASK, "reset": ~MASK}, {"seq_lengths": np.array([7, 3, 0])},
    {"initial_state": [np.ones((3, 5), np.float32)], "mask": MASK},
    {"reset": MASK, "reset_state": np.ones((3, 5), np.float32)},
])  # fmt: skip
def test_foreign_cells_follow_the_same_rules(gru, options, unroll):
    _, params = gru
    for fields in (
        {"return_state": True},
        {"return_sequences": True, "zero_output_for_mask": True},
        {"return_sequences": True, "go_backwards": True, "time_major": True},
    ):
        own, foreign = (
            gruflax.RNN(cell(5), unroll=unroll, **fields) for cell in (gruflax.GRUCell, OwnStep)
        )
        call, x = dict(options), X
        if fields.get("time_major"):
            x = X.swapaxes(0, 1)
            moved = {name: call[name].T for name in ("mask", "reset") if name in call}
            call |= moved
        wanted = own.apply({"params": {"cell": params}}, x, **call)
        got = foreign.apply({"params": {"cell": params}}, x, **call)
        chex.assert_trees_all_close(got, wanted, atol=1e-6)


def test_cells_with_several_states():
    rnn = gruflax.RNN(nn.LSTMCell(5), return_sequences=True, return_state=True)
    params = params_of(rnn, X)
    lengths = np.array([7, 3, 1])
    outputs, c, h = rnn.apply({"params": params}, X, seq_lengths=lengths)
    flax_rnn = nn.RNN(nn.LSTMCell(5), return_carry=True)
    (wanted_c, wanted_h), wanted = flax_rnn.apply({"params": params}, X, seq_lengths=lengths)
    np.testing.assert_allclose(c, wanted_c, atol=1e-6)
    np.testing.assert_allclose(h, wanted_h, atol=1e-6)
    valid = np.arange(7) < lengths[:, None]
    np.testing.assert_allclose(outputs[valid], wanted[valid], atol=1e-6)
    late = np.roll(MASK, 1, axis=1)
    late[:, 0] = False
    outputs, *_ = rnn.apply({"params": params}, X, mask=late)
    assert not outputs[:, 0].any()
    states = rnn.get_initial_state(3)
    assert [state.shape for state in states] == [(3, 5), (3, 5)]
    again, *_ = rnn.apply({"params": params}, X, initial_state=states)
    np.testing.assert_allclose(again, rnn.apply({"params": params}, X)[0], atol=1e-6)
    with pytest.raises(ValueError, match="initial_state must be 2 arrays, got 1"):
        rnn.apply({"params": params}, X, initial_state=states[:1])
    with pytest.raises(ValueError, match=r"initial_state must have shapes \[\(3, 5\), \(3, 5\)\]"):
        rnn.apply({"params": params}, X, initial_state=rnn.get_initial_state(2))


def test_in_flax_rnn_and_bidirectional(gru):
    layer, params = gru
    wanted, state = layer.apply({"params": params}, X)
    flax_rnn = nn.RNN(gruflax.GRUCell(5), return_carry=True)
    carry, outputs = flax_rnn.apply({"params": {"cell": params}}, X)
    np.testing.assert_allclose(outputs, wanted, atol=1e-6)
    np.testing.assert_allclose(carry, state, atol=1e-6)
    both = nn.Bidirectional(nn.RNN(gruflax.GRUCell(5)), nn.RNN(gruflax.GRUCell(5)))
    tree = {"forward_rnn": {"cell": params}, "backward_rnn": {"cell": params}}
    outputs = both.apply({"params": tree}, X)
    backwards, _ = layer.apply({"params": params}, X[:, ::-1])
    np.testing.assert_allclose(outputs[..., :5], wanted, atol=1e-6)
    np.testing.assert_allclose(outputs[..., 5:], backwards[:, ::-1], atol=1e-6)


def test_in_nn_scan(gru):
    layer, params = gru
    options = {"variable_broadcast": "params", "split_rngs": {"params": False}}
    scan = nn.scan(gruflax.GRUCell, **options, in_axes=1, out_axes=1)
    state, outputs = scan(5).apply({"params": params}, np.zeros((3, 5), np.float32), X)
    wanted, wanted_state = layer.apply({"params": params}, X)
    np.testing.assert_allclose(outputs, wanted, atol=1e-6)
    np.testing.assert_allclose(state, wanted_state, atol=1e-6)


def test_ensembles_by_nn_vmap(gru):
    layer, _ = gru
    axes = {"variable_axes": {"params": 0}, "split_rngs": {"params": True}}
    ensemble = nn.vmap(gruflax.GRU, **axes, in_axes=None, axis_size=4)(5)
    params = params_of(ensemble, X)
    outputs = ensemble.apply({"params": params}, X)
    assert outputs.shape == (4, 3, 5)
    for index in range(4):
        member = jax.tree.map(lambda leaf, index=index: leaf[index], params)
        np.testing.assert_allclose(outputs[index], layer.apply({"params": member}, X)[1], atol=1e-6)


def test_remat_keeps_the_numbers(gru):
    layer, params = gru
    plain = jax.grad(lambda p: (layer.apply({"params": p}, X)[0] ** 2).sum())(params)
    rematted = nn.remat(gruflax.GRU)(5, return_sequences=True)
    got = jax.grad(lambda p: (rematted.apply({"params": p}, X) ** 2).sum())(params)
    chex.assert_trees_all_close(got, plain, rtol=1e-5, atol=1e-6)


def test_sequential_and_tabulate():
    model = nn.Sequential([gruflax.GRU(5, return_sequences=True), gruflax.GRU(6), nn.Dense(2)])
    assert model.init_with_output(KEY, X)[0].shape == (3, 2)
    table = model.tabulate(KEY, X, console_kwargs={"width": 200, "force_terminal": False})
    rows = [line for line in table.splitlines() if "GRU" in line]
    assert len(rows) == 2 and "GRUCell" not in table
    assert "float32[3,7,5]" in rows[0] and "bias: float32[2,15]" in rows[0]
    assert f"Total Parameters: {3 * 5 * (4 + 5 + 2) + 3 * 6 * (5 + 6 + 2) + 14}" in table


def test_as_an_nnx_module(gru):
    layer, _ = gru
    module = nnx.bridge.ToNNX(layer, rngs=nnx.Rngs(0)).lazy_init(X)
    params = {
        name: getattr(module, name).get_value() for name in ("kernel", "recurrent_kernel", "bias")
    }
    outputs, _ = module(X, mask=MASK)
    np.testing.assert_allclose(outputs, gruflax.gru_sequence(params, X, mask=MASK)[0], atol=1e-6)


def test_training_reduces_the_loss():
    model = nn.Sequential([gruflax.GRU(8), nn.Dense(1)])
    target = X.sum(axis=(1, 2))[:, None]
    params = params_of(model, X)
    optimizer = optax.adam(0.05)

    def loss(params):
        return ((model.apply({"params": params}, X) - target) ** 2).mean()

    @jax.jit
    def step(params, state):
        value, gradient = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, value

    with jax.numpy_dtype_promotion("standard"):
        state, losses = optimizer.init(params), []
        for _ in range(60):
            params, state, value = step(params, state)
            losses.append(float(value))
    assert losses[-1] < 0.05 * losses[0]


def test_export_with_symbolic_batch_and_time(gru):
    layer, params = gru
    batch, time = export.symbolic_shape("b, t")
    shapes = (
        jax.ShapeDtypeStruct((batch, time, 4), jnp.float32),
        jax.ShapeDtypeStruct((batch, time), jnp.bool_),
        jax.ShapeDtypeStruct((batch,), jnp.int32),
    )

    def predict(x, mask, lengths):
        return layer.apply({"params": params}, x, mask=mask, seq_lengths=lengths)

    exported = export.deserialize(export.export(jax.jit(predict))(*shapes).serialize())
    for rows, steps in ((3, 7), (1, 2)):
        x, mask = X[:rows, :steps], MASK[:rows, :steps]
        lengths = np.full((rows,), steps - 1, np.int32)
        for left, right in zip(
            exported.call(x, mask, lengths), predict(x, mask, lengths), strict=True
        ):
            np.testing.assert_allclose(left, right, atol=1e-6)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision(dtype):
    layer = gruflax.GRU(5, return_sequences=True, return_state=True, dtype=dtype)
    params = params_of(layer, X)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(params)} == {"float32"}
    outputs, state = layer.apply({"params": params}, X, mask=MASK)
    assert outputs.dtype == state.dtype == dtype
    exact, _ = gruflax.gru_sequence(params, X, mask=MASK)
    np.testing.assert_allclose(outputs.astype(jnp.float32), exact, atol=4e-2)
    low = gruflax.GRU(5, param_dtype=dtype).init(KEY, X)["params"]
    assert {leaf.dtype.name for leaf in jax.tree.leaves(low)} == {dtype}
    flax_rnn = nn.RNN(gruflax.GRUCell(5, dtype=dtype), return_carry=True)
    (carry, outputs), _ = flax_rnn.init_with_output(KEY, X)
    assert carry.dtype == outputs.dtype == dtype


def test_float64(x64):
    layer = gruflax.GRU(5, param_dtype="float64")
    x = np.asarray(X, np.float64)
    params = params_of(layer, x)
    assert layer.apply({"params": params}, x).dtype == np.float64
    assert params["recurrent_kernel"].dtype == np.float64


@pytest.mark.parametrize("make", [gruflax.GRU, gruflax.GRUCell])
@pytest.mark.parametrize(
    "fields, error, message",
    [
        ({"units": 0}, ValueError, "units must be a positive integer, got 0"),
        ({"units": "3"}, ValueError, "units must be a positive integer, got '3'"),
        ({"activation": "nope"}, ValueError, "activation must be one of .*'tanh'.*got 'nope'"),
        ({"kernel_initializer": "nope"}, ValueError, "initializer must be one of .*got 'nope'"),
        ({"bias_regularizer": "nope"}, ValueError, "regularizer must be one of .*got 'nope'"),
        ({"recurrent_constraint": "nope"}, ValueError, "constraint must be one of .*got 'nope'"),
        ({"kernel_initializer": 3}, TypeError, "initializer must be a name.*got 3"),
        ({"dropout": 1.2}, ValueError, r"dropout must be in \[0, 1\], got 1.2"),
        ({"implementation": 3}, ValueError, "implementation must be 1 or 2, got 3"),
        ({"seed": "x"}, TypeError, "seed must be an integer or None, got 'x'"),
    ],
)
def test_wrong_fields(make, fields, error, message):
    with pytest.raises(error, match=message):
        make(**({"units": 3} | fields))


@pytest.mark.parametrize(
    "fields, call, error, message",
    [
        (
            {},
            {"initial_state": [np.zeros((3, 5))] * 2},
            ValueError,
            "initial_state must be one state for",
        ),
        ({}, {"initial_state": []}, ValueError, "must be one state for a GRU, got 0"),
        ({}, {"initial_state": np.zeros((3, 4))}, ValueError, r"must have shape \(3, 5\), got"),
        ({}, {"mask": MASK[:2, :3]}, ValueError, r"mask must have shape \(3, 7\)"),
        (
            {"dropout": 0.5},
            {"training": True},
            ValueError,
            r"rngs=\{'dropout': key\}.* or set seed",
        ),
        ({"loop": "fast"}, {}, ValueError, "loop must be one of"),
        ({"use_cudnn": "yes"}, {}, ValueError, "use_cudnn must be one of .*got 'yes'"),
        ({"use_cudnn": True}, {}, ValueError, "cannot be met: the platform must be"),
        (
            {"use_cudnn": True, "reset_after": False, "unroll": True, "activation": "relu"},
            {"mask": MASK},
            ValueError,
            "must be 'tanh'; reset_after must be True; unroll must be False; the platform",
        ),
    ],
)
def test_wrong_calls(fields, call, error, message):
    layer = gruflax.GRU(5, **fields)
    params = gruflax.init_gru_params(KEY, 4, 5, gruflax.GRUConfig(reset_after=layer.reset_after))
    with pytest.raises(error, match=message):
        layer.apply({"params": params}, X, **call)


@pytest.mark.parametrize("initializer", ["glorot_uniform", "he_normal", "orthogonal"])
def test_inputs_without_features(initializer):
    layer = gruflax.GRU(5, kernel_initializer=initializer)
    variables = layer.init(KEY, X[..., :0])
    assert variables["params"]["kernel"].shape == (0, 15)
    wanted, _ = gruflax.gru_sequence(variables["params"], X[..., :0], initial_state=np.ones((3, 5)))
    given = layer.apply(variables, X[..., :0], initial_state=np.ones((3, 5)))
    np.testing.assert_array_equal(given, wanted[:, -1])


def test_rnn_wants_a_cell():
    with pytest.raises(TypeError, match="cell must be a flax.linen.RNNCellBase, .*, got Dense"):
        gruflax.RNN(nn.Dense(3))
    rnn = gruflax.RNN(gruflax.GRUCell(5))
    with pytest.raises(ValueError, match="inputs must have shape"):
        rnn.init(KEY, X[0, 0])


def test_get_initial_state_and_carry():
    layer = gruflax.GRU(5)
    (state,) = layer.get_initial_state(3)
    assert state.shape == (3, 5) and not state.any()
    assert gruflax.GRUCell(5).get_initial_state(batch_size=2)[0].shape == (2, 5)
    assert gruflax.GRUCell(5).initialize_carry(KEY, (2, 3, 4)).shape == (2, 3, 5)
    assert gruflax.GRUCell(5).num_feature_axes == 1
    with pytest.raises(ValueError, match="batch_size must be a positive integer, got None"):
        layer.get_initial_state(None)


def test_remat_recomputes_and_changes_nothing():
    x = np.random.default_rng(0).normal(size=(2, 400, 3)).astype(np.float32)
    layers = [gruflax.GRU(16, remat=remat) for remat in (False, True)]
    variables = layers[0].init(jax.random.key(0), x)
    programs = [
        jax.jit(jax.grad(lambda variables, layer=layer: (layer.apply(variables, x) ** 2).mean()))
        .lower(variables)
        .compile()
        for layer in layers
    ]
    found = [program(variables) for program in programs]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), *found)
    plain, rematted = (program.memory_analysis().temp_size_in_bytes for program in programs)
    assert rematted < plain / 2
    assert "remat" not in layers[0].get_config() and layers[1].get_config()["remat"]
