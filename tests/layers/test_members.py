"""Losses added up, and weights of members that are stacked on any axis, in both module systems."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn, nnx

import gruflax
import gruflax.nnx as grunnx
from gruflax.layers.members import stacked_axes, sum_losses


X = np.random.default_rng(0).normal(size=(3, 6, 4)).astype(np.float32)
KEY = jax.random.key(0)
MEMBERS = {"kernel": (4, 15), "recurrent_kernel": (5, 15), "bias": (2, 15)}


def stacked(count, axis, members=MEMBERS):
    """The shapes of weights that are stacked on an axis."""
    empty = {name: np.empty(shape) for name, shape in members.items()}
    return {name: np.stack([each] * count, axis).shape for name, each in empty.items()}


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_shapes_tell_the_axis(count, axis):
    found = stacked_axes(stacked(count, axis), MEMBERS)
    assert found == dict.fromkeys(MEMBERS, (axis % 3,))


def test_axes_of_several_transformations_and_of_none():
    twice = stacked(3, 1, stacked(7, 0))
    assert stacked_axes(twice, MEMBERS) == dict.fromkeys(MEMBERS, (0, 1))
    assert stacked_axes(MEMBERS, MEMBERS) == dict.fromkeys(MEMBERS, ())
    # A state that is learned fits both ways, but it is not what is asked for.
    learned = MEMBERS | {"initial_state": (5,)}
    assert stacked_axes(stacked(5, 1, learned), learned, names=["kernel"]) == {"kernel": (1,)}
    # A bias that all members share.
    shared = stacked(3, 1) | {"bias": (2, 15)}
    assert stacked_axes(shared, MEMBERS)["bias"] == ()
    # The last axis is another one from the front for another rank.
    flat = MEMBERS | {"bias": (15,)}
    assert stacked_axes(stacked(3, -1, flat), flat)["bias"] == (1,)


def test_where_several_axes_fit_one_must_be_said():
    members = {"kernel": (4, 12), "recurrent_kernel": (4, 12)}
    shapes = stacked(4, 1, members)
    with pytest.raises(ValueError, match="stacked_axis must be given where several fit"):
        stacked_axes(shapes, members)
    for axis in (0, 1):
        assert stacked_axes(shapes, members, axis) == dict.fromkeys(members, (axis,))
    # Where shapes tell, nothing needs to be said.
    assert stacked_axes(stacked(3, 0), MEMBERS, 1) == dict.fromkeys(MEMBERS, (0,))
    with pytest.raises(ValueError, match="stacked_axis must be an axis such that .* got 2"):
        stacked_axes(shapes, members, 2)


CONSTRAINED = {"kernel_constraint": "unit_norm", "recurrent_constraint": {"class_name": "NonNeg"}}


def assert_constrained(kernel, recurrent, axis):
    kernel, recurrent = (np.moveaxis(each, axis, 0) for each in (kernel, recurrent))
    np.testing.assert_allclose(np.linalg.norm(kernel, axis=1), np.ones((3, 15)), atol=1e-5)
    assert (recurrent >= 0).all() and recurrent.max() > 0.1


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("lift", ["vmap", "scan"])
def test_constraints_of_linen(lift, axis):
    axes = {"variable_axes": {"params": axis}, "split_rngs": {"params": True}}
    if lift == "vmap":
        layer = nn.vmap(gruflax.GRU, in_axes=None, axis_size=3, **axes)(5, **CONSTRAINED)
        model, given = layer, (X,)
    else:

        class Model(nn.Module):
            @nn.compact
            def __call__(self, x):
                layer = gruflax.GRU(5, **CONSTRAINED, return_sequences=True)
                scan = nn.scan(lambda layer, x, _: (layer(x), None), length=3, **axes)
                return scan(layer, x, None)

        # Layers on top of each other have as many features as units.
        model, given = Model(), (np.ones((3, 6, 5), np.float32),)
    params = model.init(KEY, *given)["params"]
    transformation = gruflax.constraints(model, *given)
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = transformation.update(zeros, transformation.init(params), params)
    got = optax.apply_updates(params, updates)
    got = got if lift == "vmap" else got["GRU_0"]
    assert_constrained(got["kernel"], got["recurrent_kernel"], axis)


def test_constraints_of_some_weights_alone():
    """An optimiser of a part of the weights sees that part alone."""
    layer = gruflax.GRU(5, kernel_constraint="unit_norm")
    params = layer.init(KEY, X)["params"]
    chosen = {"kernel": True, "recurrent_kernel": False, "bias": False}
    transformation = optax.masked(gruflax.constraints(layer, X), chosen)
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = transformation.update(zeros, transformation.init(params), params)
    got = optax.apply_updates(params, updates)
    np.testing.assert_allclose(np.linalg.norm(got["kernel"], axis=0), np.ones(15), atol=1e-5)


def members(axis, count=3, units=5, **options):
    """NNX members whose weights are stacked on an axis."""

    @nnx.split_rngs(splits=count)
    @nnx.vmap(in_axes=0, out_axes=nnx.StateAxes({nnx.Param: axis, ...: 0}))
    def make(rngs):
        return grunnx.GRU(4, units, **options, rngs=rngs)

    return make(nnx.Rngs(0))


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_constraints_and_losses_of_nnx(axis):
    options = {"kernel_regularizer": lambda kernel: jnp.sqrt((kernel**2).sum())}
    model = members(axis, **CONSTRAINED, **options)
    kernels = np.moveaxis(model.kernel.get_value(), axis, 0)
    wanted = sum(np.sqrt((kernel**2).sum()) for kernel in kernels)
    np.testing.assert_allclose(grunnx.total_loss(model), wanted, rtol=1e-6)
    gradients = nnx.grad(grunnx.total_loss)(model)
    assert np.abs(gradients["kernel"].get_value()).max() > 0.01
    grunnx.apply_constraints(model)
    assert_constrained(model.kernel.get_value(), model.recurrent_kernel.get_value(), axis)


def test_members_as_many_as_units_and_features():
    model = members(1, 4, 4, kernel_constraint="unit_norm", use_bias=False)
    with pytest.raises(ValueError, match="stacked_axis must be given"):
        grunnx.apply_constraints(model)
    grunnx.apply_constraints(model, stacked_axis=1)
    norms = np.linalg.norm(model.kernel.get_value(), axis=0)
    np.testing.assert_allclose(norms, np.ones((4, 12)), atol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64, jnp.bfloat16])
def test_a_sum_of_losses_is_of_their_dtype(x64, dtype):
    assert sum_losses([jnp.ones((), dtype), jnp.ones(3, dtype)]).dtype == dtype
    # Of nothing it is a number that every loss can be added to.
    assert (jnp.ones((), dtype) + sum_losses([])).dtype == dtype
    mixed = sum_losses([jnp.ones((), dtype), jnp.ones((), jnp.float32)])
    assert mixed == 2 and mixed.dtype == np.promote_types(dtype, np.float32)


def test_losses_of_float32_models_under_x64(x64):
    regularized = {"kernel_regularizer": "l2", "activity_regularizer": "l1"}
    x = X.astype(np.float32)
    layer = gruflax.GRU(5, **regularized)
    params = layer.init(KEY, x)["params"]
    outputs, sown = layer.apply({"params": params}, x, mutable=["losses"])
    assert gruflax.total_loss(sown).dtype == outputs.dtype == jnp.float32
    model = grunnx.GRU(4, 5, **regularized, rngs=nnx.Rngs(0))
    _, captured = nnx.capture(model, grunnx.ActivityLoss)(x)
    assert grunnx.total_loss(model, captured).dtype == jnp.float32
