"""The GRU as an NNX module: the numbers of the linen one, and Flax's transformations."""

import copy
import pickle

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import gruflax
import gruflax.nnx as grunnx


RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(3, 7, 4)).astype(np.float32)
MASK = RANDOM.random((3, 7)) < 0.6
H0 = RANDOM.normal(size=(3, 5)).astype(np.float32)


def make(features=4, units=5, **options):
    """A GRU with a bias that is not zero."""
    layer = grunnx.GRU(features, units, rngs=nnx.Rngs(0), **options)
    if layer.use_bias:
        value = layer.bias.get_value()
        layer.bias.set_value(jax.random.normal(jax.random.key(1), value.shape, value.dtype))
    return layer


@nnx.jit
def call(layer, x):
    return layer(x)


def test_parameters_are_those_of_linen():
    layer = make()
    shapes = jax.tree.map(jnp.shape, nnx.to_pure_dict(nnx.state(layer, nnx.Param)))
    assert shapes == {"kernel": (4, 15), "recurrent_kernel": (5, 15), "bias": (2, 15)}
    wanted = gruflax.GRU(5).init(jax.random.key(0), X)["params"]
    assert jax.tree.map(jnp.shape, wanted) == shapes
    assert not hasattr(make(use_bias=False), "bias")
    assert make(reset_after=False).bias.shape == (15,)
    # Glorot's bound over the fused matrix, and orthonormal rows of the whole one.
    assert 0.8 < np.abs(layer.kernel.get_value()).max() / np.sqrt(6 / 19) <= 1
    rows = layer.recurrent_kernel.get_value()
    np.testing.assert_allclose(rows @ rows.T, np.eye(5), atol=1e-5)


@pytest.mark.parametrize(
    "options, arguments",
    [
        ({"return_state": True}, {"mask": MASK, "initial_state": H0}),
        ({"time_major": True}, {"mask": MASK.T, "initial_state": [H0]}),
        ({"go_backwards": True, "zero_output_for_mask": True}, {"mask": MASK}),
        ({"unroll": True, "reset_after": False}, {"reset": MASK, "reset_state": H0}),
        (
            {"use_bias": False, "loop": "scan", "return_state": True},
            {"seq_lengths": np.array([7, 0, 2])},
        ),
        ({"recurrent_activation": jax.nn.hard_sigmoid, "activation": None}, {}),
        ({"return_sequences": False, "dtype": jnp.bfloat16}, {}),
    ],
)
def test_numbers_are_those_of_linen(options, arguments):
    options = {"return_sequences": True} | options
    layer = make(**options)
    x = X.swapaxes(0, 1) if layer.time_major else X
    wanted = gruflax.GRU(5, **options).apply(grunnx.to_linen_variables(layer), x, **arguments)
    chex.assert_trees_all_equal(layer(x, **arguments), wanted)


def test_dropout_is_that_of_linen():
    options = {"dropout": 0.4, "recurrent_dropout": 0.3, "return_sequences": True}
    layer = make(**options)
    variables = grunnx.to_linen_variables(layer)
    linen = gruflax.GRU(5, seed=7, **options)
    wanted = linen.apply(variables, X, training=True)
    np.testing.assert_array_equal(layer(X, rngs=jax.random.key(7)), wanted)
    np.testing.assert_array_equal(layer(X, deterministic=True), linen.apply(variables, X))
    assert np.abs(wanted - linen.apply(variables, X)).max() > 0.01


def test_dropout_modes_and_streams():
    layer = make(dropout=0.5)
    first, second = layer(X), layer(X)
    assert np.abs(first - second).max() > 0.01
    layer.eval()
    np.testing.assert_array_equal(layer(X), layer(X))
    assert np.abs(layer(X, deterministic=False) - layer(X)).max() > 0.01
    layer.train()
    runs = [layer(X, rngs=nnx.Rngs(dropout=key)) for key in (1, 1, 2)]
    np.testing.assert_array_equal(runs[0], runs[1])
    assert np.abs(runs[0] - runs[2]).max() > 0.01
    # The stream is a fork of the given one, as in nnx.Dropout, and it advances under jit.
    np.testing.assert_array_equal(make(dropout=0.5)(X), first)
    other = make(dropout=0.5)
    jitted = [call(other, X), call(other, X)]
    np.testing.assert_allclose(jitted[0], first, atol=1e-6)
    np.testing.assert_allclose(jitted[1], second, atol=1e-6)


def test_jit_grad_and_functional_api():
    layer = make()
    wanted, _ = gruflax.gru_sequence(layer.params, X, return_sequences=False)
    np.testing.assert_allclose(call(layer, X), wanted, atol=1e-6)

    def pure(params):
        return (gruflax.gru_sequence(params, X, return_sequences=False)[0] ** 2).sum()

    gradients = nnx.jit(nnx.grad(lambda layer, x: (layer(x) ** 2).sum()))(layer, X)
    chex.assert_trees_all_close(
        nnx.to_pure_dict(gradients), jax.grad(pure)(layer.params), rtol=1e-5, atol=1e-6
    )
    graphdef, state = nnx.split(layer)
    assert hash(graphdef) == hash(nnx.split(make())[0])
    np.testing.assert_array_equal(nnx.merge(graphdef, state)(X), layer(X))


class Model(nnx.Module):
    """A GRU with dropout and a read-out."""

    def __init__(self, rngs):
        self.gru = grunnx.GRU(4, 8, dropout=0.1, loop="scan", rngs=rngs)
        self.head = nnx.Linear(8, 1, rngs=rngs)

    def __call__(self, x):
        return self.head(self.gru(x))


def test_optimizer_reduces_the_loss():
    model = Model(nnx.Rngs(0))
    target = np.tanh(X.sum(axis=(1, 2)))[:, None]

    @nnx.jit
    def step(model, optimizer):
        loss, gradients = nnx.value_and_grad(lambda model: ((model(X) - target) ** 2).mean())(model)
        optimizer.update(model, gradients)
        return loss

    model.eval()
    before = ((model(X) - target) ** 2).mean()
    model.train()
    with jax.numpy_dtype_promotion("standard"):
        optimizer = nnx.Optimizer(model, optax.adam(0.05), wrt=nnx.Param)
        for _ in range(40):
            step(model, optimizer)
    model.eval()
    assert ((model(X) - target) ** 2).mean() < 0.1 * before


def stack(count, features):
    @nnx.split_rngs(splits=count)
    @nnx.vmap
    def members(rngs):
        return grunnx.GRU(features, 5, return_sequences=True, dropout=0.2, loop="scan", rngs=rngs)

    return members(nnx.Rngs(0))


def member(layers, index):
    graphdef, state = nnx.split(layers)
    return nnx.merge(graphdef, jax.tree.map(lambda leaf: leaf[index], state))


def test_vmap_over_an_ensemble():
    ensemble = stack(2, 4)
    assert ensemble.kernel.shape == (2, 4, 15)
    run = nnx.jit(nnx.vmap(lambda layer, x: layer(x), in_axes=(0, None)))
    dropped = [run(ensemble, X) for _ in range(2)]
    assert np.abs(dropped[0] - dropped[1]).max() > 0.01
    ensemble.eval()
    outputs = run(ensemble, X)
    for index in range(2):
        np.testing.assert_allclose(outputs[index], call(member(ensemble, index), X), atol=1e-6)
    assert np.abs(outputs[0] - outputs[1]).max() > 0.01


def test_scan_over_layers():
    layers = stack(2, 5)
    layers.eval()
    x = RANDOM.normal(size=(3, 7, 5)).astype(np.float32)

    @nnx.scan(in_axes=(0, nnx.Carry), out_axes=nnx.Carry)
    def through(layer, x):
        return layer(x)

    wanted = x
    for index in range(2):
        wanted = call(member(layers, index), wanted)
    np.testing.assert_allclose(through(layers, x), wanted, atol=1e-6)


def test_remat_keeps_the_gradients():
    layer = make(return_sequences=True)
    loss = lambda layer, x: (layer(x) ** 2).sum()  # noqa: E731
    rematted = nnx.remat(lambda layer, x: layer(x))
    wanted = nnx.grad(loss)(layer, X)
    got = nnx.grad(lambda layer, x: (rematted(layer, x) ** 2).sum())(layer, X)
    chex.assert_trees_all_close(
        nnx.to_pure_dict(got), nnx.to_pure_dict(wanted), rtol=1e-5, atol=1e-6
    )


def test_in_a_sequential():
    rngs = nnx.Rngs(0)
    gru = grunnx.GRU(4, 5, rngs=rngs)
    head = nnx.Linear(5, 2, rngs=rngs)
    np.testing.assert_allclose(nnx.Sequential(gru, head)(X), head(gru(X)), atol=1e-6)


def test_dtypes():
    layer = make(param_dtype=jnp.bfloat16)
    assert layer.recurrent_kernel.dtype == jnp.bfloat16
    assert make(dtype=jnp.float16, return_state=True)(X)[1].dtype == jnp.float16


def test_initializers_may_carry_metadata():
    initializer = nnx.with_metadata(jax.nn.initializers.normal(), weight_decay=False)
    layer = make(kernel_initializer=initializer)
    assert layer.kernel.weight_decay is False
    assert layer(X).shape == (3, 5)


@pytest.mark.parametrize("module", [grunnx.GRU, grunnx.GRUCell])
@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"units": 0}, ValueError, "units must be a positive integer, got 0"),
        ({"in_features": -1}, ValueError, "in_features must be an integer of at least 0, got -1"),
        ({"activation": "nope"}, ValueError, "activation must be one of .*'tanh'.*got 'nope'"),
        ({"kernel_initializer": 3}, TypeError, "initializer must be a name.*got 3"),
        ({"bias_regularizer": "nope"}, ValueError, "regularizer must be one of .*got 'nope'"),
        ({"recurrent_constraint": "nope"}, ValueError, "constraint must be one of .*got 'nope'"),
        ({"dropout": 1.2}, ValueError, r"dropout must be in \[0, 1\], got 1.2"),
        ({"implementation": 3}, ValueError, "implementation must be 1 or 2, got 3"),
        ({"rngs": 0}, TypeError, "rngs must be an nnx.Rngs with a 'params' stream, got 0"),
        (
            {"rngs": nnx.Rngs(params=0), "dropout": 0.1},
            ValueError,
            r"rngs must have a 'dropout' or a 'default' stream, got \['params'\]",
        ),
    ],
)
def test_wrong_arguments(module, options, error, message):
    with pytest.raises(error, match=message):
        module(**({"in_features": 4, "units": 3, "rngs": nnx.Rngs(0)} | options))


@pytest.mark.parametrize(
    "options, arguments, error, message",
    [
        ({}, {"initial_state": [H0, H0]}, ValueError, "initial_state must be one state for a GRU"),
        ({}, {"initial_state": H0[:2]}, ValueError, r"initial_state must have shape \(3, 5\)"),
        ({}, {"mask": MASK[:2, :3]}, ValueError, r"mask must have shape \(3, 7\)"),
        ({}, {"seq_lengths": np.ones(3)}, TypeError, "seq_lengths must be integers"),
        ({"dropout": 0.5}, {"rngs": 3}, TypeError, "rngs must be an nnx.Rngs.* got 3"),
        ({"loop": "fast"}, {}, ValueError, "loop must be one of"),
        ({"use_cudnn": True}, {}, ValueError, "cannot be met: the platform must be"),
    ],
)
def test_wrong_calls(options, arguments, error, message):
    with pytest.raises(error, match=message):
        make(**options)(X, **arguments)


def test_wrong_inputs_and_a_traced_mode():
    layer = make(dropout=0.5)
    with pytest.raises(ValueError, match=r"inputs must have shape \(..., time, 4\)"):
        layer(X[..., :3])
    with pytest.raises(TypeError, match="deterministic must be a Python bool"):
        nnx.jit(lambda layer, mode: layer(X, deterministic=mode))(layer, True)


class OwnStep(grunnx.GRUCell):
    """A cell with a step of its own, so that layers run it as they run any cell."""

    def __call__(self, carry, inputs, **options):
        return super().__call__(carry, inputs, **options)


@pytest.mark.parametrize(
    "make",
    [
        lambda **fields: grunnx.RNN(grunnx.GRUCell(4, 5, **fields)),
        lambda **fields: grunnx.RNN(OwnStep(4, 5, **fields)),
        lambda **fields: nnx.RNN(grunnx.GRUCell(4, 5, **fields)),
    ],
    ids=["RNN", "own step", "flax.nnx.RNN"],
)
def test_every_loop_begins_with_the_learned_state(make):
    layer = make(learn_initial_state=True, rngs=nnx.Rngs(0))
    before = np.asarray(layer(X))
    layer.cell.initial_state.set_value(jnp.ones(5))
    assert np.abs(layer(X) - before).max() > 0.02


@pytest.mark.parametrize("activation", ["gelu", "tanh", jax.nn.silu])
def test_modules_can_be_pickled_and_copied(activation):
    fields = {"kernel_regularizer": "l2", "dropout": 0.1, "rngs": nnx.Rngs(0)}
    layer = grunnx.GRU(4, 5, activation=activation, **fields)
    for other in (pickle.loads(pickle.dumps(layer)), copy.deepcopy(layer)):
        assert other.config == layer.config
        np.testing.assert_array_equal(other(X, deterministic=True), layer(X, deterministic=True))
