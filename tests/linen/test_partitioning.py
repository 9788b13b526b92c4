"""Logical axis names on parameters: where they are, and that nothing else changes."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn, nnx
from jax.sharding import PartitionSpec as P

import gruflax
import gruflax.nnx
from gruflax import convert


U = 4
X = np.random.default_rng(0).normal(size=(2, 3, 5)).astype(np.float32)
KEY = jax.random.key(0)
OPTIONS = {"bias_initializer": "normal", "partitioned": True}
SPECS = {
    "kernel": P("features", "gates"),
    "recurrent_kernel": P("units", "gates"),
    "bias": P(None, "gates"),
}


def specs_of(module, *arguments):
    variables = jax.eval_shape(module.init, KEY, *arguments)
    return nn.get_partition_spec(variables)["params"]


def leaves_of(variables):
    boxed = jax.tree.leaves(variables, is_leaf=lambda leaf: isinstance(leaf, nn.meta.AxisMetadata))
    assert all(isinstance(leaf, nn.LogicallyPartitioned) for leaf in boxed)
    return boxed


@pytest.fixture
def gru():
    return gruflax.GRU(U, return_sequences=True, **OPTIONS)


def test_every_parameter_has_names(gru):
    assert specs_of(gru, X) == SPECS
    assert specs_of(gruflax.GRU(U, reset_after=False, **OPTIONS), X)["bias"] == P("gates")
    learned = gruflax.GRU(U, learn_initial_state=True, **OPTIONS)
    assert specs_of(learned, X) == {**SPECS, "initial_state": P("units")}
    cell = gruflax.GRUCell(U, **OPTIONS)
    assert specs_of(cell, jnp.zeros((2, U)), X[:, 0]) == SPECS
    assert specs_of(gruflax.RNN(cell), X) == {"cell": SPECS}
    stack = gruflax.Stack([gruflax.Bidirectional(gru), gru])
    directions = {"forward_layer": SPECS, "backward_layer": SPECS}
    assert specs_of(stack, X) == {"layers_0": directions, "layers_1": SPECS}


def test_names_are_asked_for_and_change_no_number(gru):
    plain = gru.clone(partitioned=False)
    variables, boxed = plain.init(KEY, X), gru.init(KEY, X)
    assert not any(isinstance(leaf, nn.meta.AxisMetadata) for leaf in variables["params"].values())
    assert len(leaves_of(boxed)) == 3
    jax.tree.map(np.testing.assert_array_equal, nn.unbox(boxed), variables)
    # Boxed or not, what is applied is the same.
    for module, given in ((gru, boxed), (gru, variables), (plain, boxed)):
        np.testing.assert_array_equal(module.apply(given, X), plain.apply(variables, X))


def test_an_initializer_keeps_the_names_that_it_was_given():
    draw = nn.with_logical_partitioning(nn.initializers.normal(), ("embed", "mlp"))
    for partitioned in (False, True):
        gru = gruflax.GRU(U, kernel_initializer=draw, partitioned=partitioned)
        specs = specs_of(gru, X)
        assert specs["kernel"] == P("embed", "mlp")
        assert specs["recurrent_kernel"] == (SPECS["recurrent_kernel"] if partitioned else P())


def test_a_stack_by_vmap_names_its_axis(gru):
    stacked = nn.vmap(
        gruflax.GRU,
        variable_axes={"params": 0},
        split_rngs={"params": True},
        in_axes=None,
        axis_size=2,
        metadata_params={nn.PARTITION_NAME: "layers"},
    )
    specs = specs_of(stacked(U, **OPTIONS), X)
    assert specs == {name: P("layers", *spec) for name, spec in SPECS.items()}


def test_losses_and_constraints_of_boxed_parameters():
    options = {"kernel_regularizer": "l2", "recurrent_constraint": "non_neg"}
    results = []
    for partitioned in (False, True):
        gru = gruflax.GRU(U, partitioned=partitioned, **options)
        params = gru.init(KEY, X)["params"]
        _, sown = gru.apply({"params": params}, X, mutable=["losses"])
        optimizer = optax.chain(optax.sgd(0.1), gruflax.constraints(gru, X))
        gradients = jax.tree.map(jnp.ones_like, params)
        updates, _ = optimizer.update(gradients, optimizer.init(params), params)
        assert jax.tree.structure(updates) == jax.tree.structure(params)
        new = optax.apply_updates(params, updates)
        results.append((gruflax.total_loss(sown), nn.unbox(new)))
    jax.tree.map(np.testing.assert_array_equal, *results)
    assert results[0][0] > 0 and np.min(results[0][1]["recurrent_kernel"]) == 0


def test_boxed_parameters_are_converted(gru):
    boxed = gru.init(KEY, X)
    variables = nn.unbox(boxed)
    jax.tree.map(
        np.testing.assert_array_equal,
        convert.to_torch(gru, boxed),
        convert.to_torch(gru, variables),
    )
    module = gruflax.nnx.GRU(X.shape[-1], U, rngs=nnx.Rngs(1))
    gruflax.nnx.from_linen_variables(module, boxed)
    np.testing.assert_array_equal(module.kernel.get_value(), variables["params"]["kernel"])


def test_boxed_parameters_are_saved(gru, tmp_path):
    pytest.importorskip("safetensors")
    boxed = gru.init(KEY, X)
    convert.save_safetensors(tmp_path / "file", boxed)
    jax.tree.map(
        np.testing.assert_array_equal, convert.load_safetensors(tmp_path / "file"), nn.unbox(boxed)
    )
    loaded = convert.load_safetensors(tmp_path / "file", boxed)
    assert jax.tree.structure(loaded) == jax.tree.structure(boxed)


def test_config(gru):
    assert gru.get_config()["partitioned"] is True
    assert gruflax.GRU.from_config(gru.get_config()).partitioned is True
    assert "partitioned" not in gruflax.GRU(U).get_config()


def test_nnx_metadata():
    options = {"rngs": nnx.Rngs(0), **OPTIONS}
    with nnx.use_eager_sharding(False):
        pair = gruflax.nnx.Bidirectional(
            gruflax.nnx.GRU(X.shape[-1], U, **options), rngs=nnx.Rngs(1)
        )
        short = gruflax.nnx.GRUCell(X.shape[-1], U, reset_after=False, **options)
    for gru in (pair.forward_layer, pair.backward_layer):
        assert {name: P(*getattr(gru, name).out_sharding) for name in SPECS} == SPECS
    assert short.bias.out_sharding == ("gates",)
    plain = gruflax.nnx.GRU(X.shape[-1], U, bias_initializer="normal", rngs=nnx.Rngs(0))
    assert not plain.kernel.has_metadata("out_sharding")
    kernel = pair.forward_layer.kernel.get_value()
    np.testing.assert_array_equal(kernel, plain.kernel.get_value())
