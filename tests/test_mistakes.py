"""Mistakes that people make: each is an error that names what is wrong, on a few lines."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn, nnx

import gruflax
import gruflax.nnx as gn
from gruflax import convert
from gruflax.compat import v1


K = jax.random.key(0)
X = np.random.default_rng(0).normal(size=(2, 6, 3)).astype(np.float32)
P = gruflax.init_gru_params(K, 3, 4)
V = {"params": P}
G = gruflax.GRU(4)
R = nnx.Rngs(0)


def seq(**options):
    return gruflax.gru_sequence(**({"params": P, "inputs": X} | options))


def step(**options):
    arguments = {"params": P, "state": np.zeros((2, 4), np.float32), "x": X[:, 0]}
    return gruflax.gru_cell_step(**(arguments | options))


def ap(layer=G, **options):
    return layer.apply(V, X, **options)


# What the message begins with, and what is done.
ATTRIBUTE_ERRORS = {
    "Layer must be stateful: variables hold no": lambda: gruflax.reset_states(V),
    "Layer must be stateful, got stateful=False.": lambda: (
        gruflax.Bidirectional(G).bind({}).reset_states([])
    ),
}


class Unhashable:
    """A callable that cannot be static under jit."""

    __hash__ = None

    def __call__(self, x):
        return x


class OtherLayer:
    """What has the methods of a Keras layer and is none."""

    def get_config(self):
        return 3

    def get_weights(self):
        return [P["kernel"], P["recurrent_kernel"]]


TYPE_ERRORS = {
    "rng must be a JAX random key, such as jax.random.key(0), got 3.": lambda: (
        gruflax.init_gru_params(3, 3, 4)
    ),
    "gate_activations has no arguments ['return_sequences', 'zero_output_for_mask'],": lambda: (
        gruflax.gate_activations(P, X, return_sequences=False, zero_output_for_mask=True)
    ),
    "inputs must be (..., time, 3) floats, got int32 (2, 6): token ids need an embedding": lambda: (
        seq(inputs=np.ones((2, 6), np.int32))
    ),
    "module must be a gruflax.GRU or GRUCell, got Dense": lambda: convert.to_haiku(nn.Dense(3), V),
    "activation must be hashable, for it is static under jit, got Unhashable": lambda: gruflax.GRU(
        4, activation=Unhashable()
    ),
    "variables must be a dict of arrays, got list": lambda: convert.to_keras(
        gruflax.Bidirectional(G), [1]
    ),
    "dropout must be a number in [0, 1], got None.": lambda: gruflax.GRU(4, dropout=None),
    "dropout must be a number in [0, 1], got a traced value.": lambda: jax.jit(
        lambda r: gruflax.GRU(4, dropout=r).init(K, X)
    )(0.5),
    "activation must be a name, a callable or": lambda: gruflax.GRU(4, activation=jnp.tanh(X)),
    "activation must be a name, a callable or None, got a tuple of 2.": lambda: gruflax.GRU(
        4, activation=("tanh", "sigmoid")
    ),
    "recurrent_activation must be a name, a": lambda: gruflax.GRU(4, recurrent_activation=3),
    "kernel_initializer must be a name, a config": lambda: gruflax.GRU(4, kernel_initializer=0.5),
    "the initializer of kernel must take (key, shape, dtype), as JAX's do, got function": lambda: (
        gruflax.GRU(4, kernel_initializer=lambda shape, dtype=None: jnp.zeros(shape)).init(K, X)
    ),
    "kernel_regularizer must be a name, a config dict, a callable or None, got 0.01.": lambda: (
        gruflax.GRU(4, kernel_regularizer=0.01)
    ),
    "bias_constraint must be a name, a config dict,": lambda: gruflax.GRU(4, bias_constraint=2.0),
    "seed must be an integer or None, got an array key<fry>[].": lambda: gruflax.GRU(4, seed=K),
    "seed must be an integer or None, got 1.5.": lambda: gruflax.GRU(4, seed=1.5),
    "dtype must be a floating dtype, got 'float31'.": lambda: gruflax.GRU(4, dtype="float31"),
    "dtype must be a floating dtype, got <class": lambda: gruflax.GRU(4, dtype=jnp.int32),
    "dtype must be a floating dtype, got complex64.": lambda: seq(dtype=jnp.complex64),
    "stateful must be a Python bool, True or False, got 1.": lambda: gruflax.GRU(4, stateful=1),
    "inputs must be an array (..., time, 3) of numbers, got None.": lambda: G.apply(V, None),
    "inputs must be an array (..., time, 3) of numbers,": lambda: G.apply(V, [[1.0, 2.0], [3.0]]),
    "inputs must be an array (..., time, 3) of numbers, got": lambda: G.apply(V, np.array(["a"])),
    "inputs must be an array (..., time, features) of numbers, got None.": lambda: G.init(K, None),
    "mask must be bools, or numbers of 0 and 1, got an": lambda: ap(mask=np.ones((2, 6), complex)),
    "seq_lengths must be integers, got float64.": lambda: ap(seq_lengths=np.array([1.0, 2.0])),
    "seq_lengths must be integers, got bool.": lambda: ap(seq_lengths=np.array([True, False])),
    "initial_state must be an array (2, 4), got 'zeros'.": lambda: ap(initial_state="zeros"),
    "initial_state must be an array (2, 4), got a": lambda: ap(initial_state=[[np.zeros((2, 4))]]),
    "unroll must be a Python bool, True or False, got 'yes'.": lambda: seq(unroll="yes"),
    "remat must be a Python bool, True or False, got 2.": lambda: seq(remat=2),
    "rng must be a JAX random key, such as jax.random.key(0), got 0.": lambda: seq(
        rng=0, config=gruflax.GRUConfig(dropout=0.5)
    ),
    "dropout_masks must be a gruflax.DropoutMasks, got a": lambda: seq(dropout_masks=(None, None)),
    "params must be a dict of arrays, got a list of 3.": lambda: seq(params=list(P.values())),
    "params must be a dict of arrays, got None.": lambda: seq(params=None),
    "config must be a gruflax.GRUConfig, got 'tanh'.": lambda: seq(config="tanh"),
    "cell must be a flax.linen.RNNCellBase, such as": lambda: gruflax.RNN(gruflax.GRUCell),
    "cell must be a flax.linen.RNNCellBase, such": lambda: gruflax.RNN(gn.GRUCell(3, 4, rngs=R)),
    "layer must be a gruflax.GRU or gruflax.RNN, got a": lambda: gruflax.Bidirectional([G, G]),
    "layers must be a list of one layer or more, as in Stack([GRU(8),": lambda: gruflax.Stack(4),
    "layers[0] must be a gruflax.GRU, RNN or Bidirectional,": lambda: gruflax.Stack([nn.Dense(3)]),
    "layers[0] must be a gruflax.nnx.GRU, RNN or Bidirectional, got GRU: this is a linen": lambda: (
        gn.Stack([G])
    ),
    "layer must be a gruflax.GRU or gruflax.RNN, got GRU: this is an NNX module, for": lambda: (
        gruflax.Bidirectional(gn.GRU(3, 4, rngs=R))
    ),
    "dropout must be a number in [0, 1], got 'a lot'.": lambda: gruflax.Stack([G], dropout="a lot"),
    "config must be a dict, got a list of 1.": lambda: gruflax.GRU.from_config([4]),
    "rngs must be an nnx.Rngs with a 'params' stream, got 0.": lambda: gn.GRU(3, 4, rngs=0),
    "GRU has no argument training: give": lambda: gn.GRU(3, 4, rngs=R)(X, training=True),
    "deterministic must be a Python bool, True or False, got 'yes'.": lambda: gn.GRU(
        3, 4, dropout=0.5, rngs=R
    )(X, deterministic="yes"),
    "Layer.__call__() takes 2 positional arguments but 3 were given": lambda: gn.GRU(3, 4, rngs=R)(
        X, np.ones((2, 6), bool)
    ),
    "cell must be a flax.nnx.RNNCellBase, such as": lambda: gn.RNN(gruflax.GRUCell(4)),
    "forward_layer must be a gruflax.nnx.GRU or RNN, got GRUCell: run the cell by": lambda: (
        gn.Bidirectional(gn.GRUCell(3, 4, rngs=R), rngs=R)
    ),
    "rngs must be given to make the backward": lambda: gn.Bidirectional(gn.GRU(3, 4, rngs=R)),
    "config must be a gruflax.GRUConfig, got a dict of 1: GRUConfig(**config).": lambda: (
        gruflax.init_gru_params(K, 3, 4, {"use_bias": False})
    ),
    "the initializer of kernel must return an array (3, 12), got function init:": lambda: (
        gruflax.init_gru_params(K, 3, 4, kernel_initializer=nn.initializers.glorot_normal)
    ),
    "variables must be a dict of arrays, got GRU.": lambda: convert.to_torch(G, None),
}

VALUE_ERRORS = {
    "state must have shape (2, 6, 4), got (2, 4): inputs of a step have no time axis": lambda: (
        gruflax.GRUCell(4).apply(V, np.zeros((2, 4), np.float32), X)
    ),
    "variables must hold the params of 'forward_layer', got ['bias',": lambda: convert.to_keras(
        gruflax.Bidirectional(G), V
    ),
    "units must be a positive integer, got 4.0.": lambda: gruflax.GRU(4.0),
    "units must be a positive integer, got 0.": lambda: gruflax.GRU(0),
    "units must be a positive integer, got None.": lambda: gruflax.GRU(None),
    "units must be a positive integer, got a list of 2.": lambda: gruflax.GRU([4, 4]),
    "dropout must be in [0, 1], got 50.": lambda: gruflax.GRU(4, dropout=50),
    "recurrent_dropout must be in [0, 1], got -0.1.": lambda: gruflax.GRUCell(
        4, recurrent_dropout=-0.1
    ),
    "zoneout must be in [0, 1], got 2.": lambda: gruflax.GRU(4, zoneout=2),
    "implementation must be 1 or 2, got 3.": lambda: gruflax.GRU(4, implementation=3),
    "activation must be one of ['celu', 'elu',": lambda: gruflax.GRU(4, activation="tahn"),
    "activation must return an array like its argument, float32[2, 4], got float32[].": lambda: (
        gruflax.GRU(4, activation=lambda x: x.sum()).init(K, X)
    ),
    "the initializer of kernel must return an array (3, 12), got an array float32[3, 4].": lambda: (
        gruflax.GRU(4, kernel_initializer=lambda key, shape, dtype: jnp.zeros((3, 4))).init(K, X)
    ),
    "recurrent_regularizer must be one of ['l1', 'l1_l2', 'l1l2', 'l2',": lambda: gruflax.GRU(
        4, recurrent_regularizer="l3"
    ),
    "l2 must be a finite number of at least 0, got -1.": lambda: gruflax.GRU(
        4, bias_regularizer={"class_name": "L2", "config": {"l2": -1}}
    ),
    "kernel_constraint must be one of ['max_norm', 'min_max_norm', 'non_neg',": lambda: gruflax.GRU(
        4, kernel_constraint="maxnorm2"
    ),
    "activity_regularizer must be one of ['l1', 'l1_l2', 'l1l2', 'l2',": lambda: gruflax.GRU(
        4, activity_regularizer="l0"
    ),
    "loop must be one of ('auto', 'scan', 'chunked',": lambda: ap(gruflax.GRU(4, loop="fast")),
    "use_cudnn must be one of ('auto', True, False),": lambda: ap(gruflax.GRU(4, use_cudnn="yes")),
    "loop='cudnn' or use_cudnn=True cannot be met:": lambda: ap(gruflax.GRU(4, use_cudnn=True)),
    "inputs must have shape (..., time, 3), got (3,): the kernel has": lambda: G.apply(V, X[0, 0]),
    "inputs must have shape (..., time, 3), got (2, 3,": lambda: G.apply(V, X.transpose(0, 2, 1)),
    "mask must have shape (2, 6) or (2, 6, 1), got (2, 5).": lambda: ap(mask=np.ones((2, 5), bool)),
    "mask must have shape (2, 6) or (2, 6, 1), got (2,": lambda: ap(mask=np.ones((2, 6, 3), bool)),
    "mask must be bools, or numbers of 0 and 1, got": lambda: ap(mask=np.full((2, 6), np.nan)),
    "seq_lengths must lie between 0 and the 6 steps,": lambda: ap(seq_lengths=np.array([3, 7])),
    "seq_lengths must have shape (2,), got (2, 6).": lambda: ap(seq_lengths=np.ones((2, 6), int)),
    "seq_lengths must have shape (2,), got ().": lambda: ap(seq_lengths=3),
    "initial_state must have shape (2, 4), got (3, 4).": lambda: ap(initial_state=np.zeros((3, 4))),
    "initial_state must have shape (2, 4), got (4, 2).": lambda: ap(initial_state=np.zeros((4, 2))),
    "initial_state must be one state for a GRU, got 2.": lambda: ap(
        initial_state=(np.zeros((2, 4)),) * 2
    ),
    "reset must have shape (2, 6) or (2, 6, 1), got (2,": lambda: ap(reset=np.zeros((2, 5), bool)),
    "reset_state must come with reset, which says where": lambda: ap(reset_state=np.zeros((2, 4))),
    "training with dropout needs a key: pass rngs={'dropout': key} to apply, or set": lambda: ap(
        gruflax.GRU(4, dropout=0.5), training=True
    ),
    "chunk must be a positive integer, got 0.": lambda: seq(chunk=0),
    "chunk must be a positive integer, got 2.5.": lambda: seq(chunk=2.5),
    "params must be kernel (f, 3u), recurrent_kernel (u, 3u) and bias (2, 3u) for": lambda: seq(
        params=P | {"kernel": P["kernel"].T}
    ),
    "params must hold ['kernel', 'recurrent_kernel', 'bias'] for use_bias=True,": lambda: seq(
        params={"weight_ih_l0": X, "weight_hh_l0": X}
    ),
    "params must hold ['kernel', 'recurrent_kernel', 'bias'] for": lambda: seq(params=V),
    "params must hold ['kernel', 'recurrent_kernel',": lambda: seq(params=P | {"extra": X}),
    "state must have shape (1, 4), got (2, 4).": lambda: step(x=X[:1, 0]),
    "x must have shape (..., 3), got (2, 2): the kernel has 3 rows,": lambda: step(x=X[:, 0, :2]),
    "states must be one state for a GRU, got 2.": lambda: gruflax.GRUCell(4).apply(
        V, (np.zeros((2, 4)),) * 2, X[:, 0]
    ),
    "inputs must have shape (..., 3), got (2, 4): the kernel has 3 rows, one per": lambda: (
        gruflax.GRUCell(4).apply(V, X[:, 0], np.zeros((2, 4), np.float32))
    ),
    "merge_mode must be one of ('concat', 'sum', 'mul', 'ave', None), got 'add'.": lambda: (
        gruflax.Bidirectional(G, merge_mode="add")
    ),
    "layer and backward_layer must have opposite go_backwards, got False for both.": lambda: (
        gruflax.Bidirectional(G, backward_layer=gruflax.GRU(4))
    ),
    "initial_state must be a tuple or list: the states of the forward layer, then as": lambda: (
        gruflax.Bidirectional(G).init(K, X, initial_state=np.zeros((2, 4)))
    ),
    "merge_mode='sum' needs outputs of equal shapes, got (2, 4) and (2, 5).": lambda: (
        gruflax.Bidirectional(G, "sum", gruflax.GRU(5, go_backwards=True)).init(K, X)
    ),
    "layers[0] must return one sequence to the layer above: return_sequences=True, and a": lambda: (
        gruflax.Stack([gruflax.GRU(4), gruflax.GRU(4)])
    ),
    "initial_state must be a tuple or list of one entry for each of 1 layers, got": lambda: (
        gruflax.Stack([G]).init(K, X, initial_state=np.zeros((2, 4)))
    ),
    "states must be 1 arrays, got 2.": lambda: gruflax.reset_states(
        gruflax.GRU(4, stateful=True).init(K, X), [np.zeros((2, 4))] * 2
    ),
    "batch_size must be a positive integer, got 0.": lambda: G.get_initial_state(0),
    "params must be given to update: constraints act on the weights.": lambda: (
        lambda t: t.update(P, t.init(P))
    )(gruflax.constraints(gruflax.GRU(4, kernel_constraint="non_neg"), X)),
    "config has unknown keys ['layers']; GRU has ['activation', 'activity_regularizer',": lambda: (
        gruflax.GRU.from_config({"units": 4, "layers": 2})
    ),
    "dtype must be a dtype or a Keras policy, got 'mixed_float31'.": lambda: (
        gruflax.GRU.from_config({"units": 4, "dtype": "mixed_float31"})
    ),
    "rngs must have a 'params' or a 'default'": lambda: gn.GRU(3, 4, rngs=nnx.Rngs(dropout=0)),
    "rngs must have a 'dropout' or a 'default' stream, got ['params'].": lambda: gn.GRU(
        3, 4, dropout=0.5, rngs=nnx.Rngs(params=0)
    ),
    "inputs must have shape (..., time, 5), got (2, 6, 3): the": lambda: gn.GRU(5, 4, rngs=R)(X),
    "variables['params'] must be {'bias': (2,": lambda: gn.from_linen_variables(
        gn.GRU(3, 5, rngs=R), V
    ),
    "mask must be right-padded to be told by lengths, got gaps.": lambda: gruflax.mask_to_lengths(
        np.array([[0, 1, 1]])
    ),
    "the layer's config must be a dict, got 3.": lambda: convert.from_keras(OtherLayer()),
    "features must be an integer of at least 0, got -1.": lambda: gruflax.init_gru_params(K, -1, 4),
    "params must be of one unit at least, got {'kernel': (3, 0)": lambda: seq(
        params={
            "kernel": np.zeros((3, 0)),
            "recurrent_kernel": np.zeros((0, 0)),
            "bias": np.zeros((2, 0)),
        }
    ),
    "reset_state must come with reset, which says where, got no": lambda: gruflax.RNN(
        nn.LSTMCell(4)
    ).init(K, X, reset_state=[np.zeros((2, 4))] * 2),
    "merge_mode must be one of ('concat', 'sum', 'mul', 'ave', None), got GRU: the": lambda: (
        gruflax.Bidirectional(G, gruflax.GRU(4))
    ),
    "initial_state must have shape (2, 4), got (4,).": lambda: G.init(
        K, X, initial_state=np.zeros(4)
    ),
    "initial_state must have shape (2, 4), got (2, 3).": lambda: G.init(
        K, X, initial_state=[[0.0] * 3] * 2
    ),
    "initial_state must be a tuple or list of one entry for each of 2 layers, got an array": (
        lambda: gruflax.Stack([gruflax.GRU(4, return_sequences=True), G]).init(
            K, X, initial_state=np.zeros((2, 2, 4))
        )
    ),
    "reset must be bools, or numbers of 0 and 1, got values from 0 to 11.": lambda: seq(
        reset=np.arange(12).reshape(2, 6)
    ),
    "a stateful layer writes its state: call apply with mutable=['recurrent_state']": lambda: ap(
        gruflax.GRU(4, stateful=True)
    ),
    "inputs must have 3 axes, got shape (6, 3).": lambda: v1.GRU(4).init(K, X[0]),
    "inputs must have shape (..., time, 3), got (2, 6, 2):": lambda: gruflax.gate_activations(
        P, X[..., :2]
    ),
    "rate must be in [0, 1], got 1.5.": lambda: gruflax.dropout_mask(K, 1.5, (3,)),
    "torch has no GRU with merge_mode='sum', only 'concat'.": lambda: convert.to_torch(
        gruflax.Bidirectional(G, "sum"), gruflax.Bidirectional(G, "sum").init(K, X)
    ),
    "name chooses in a model or a file; source is a list, got 'gru'.": lambda: convert.from_keras(
        [P["kernel"], P["recurrent_kernel"]], "gru"
    ),
}

MISTAKES = [
    pytest.param(error, message, mistake, id=f"{error.__name__} {message[:60]}")
    for error, table in (
        (TypeError, TYPE_ERRORS),
        (ValueError, VALUE_ERRORS),
        (AttributeError, ATTRIBUTE_ERRORS),
    )
    for message, mistake in table.items()
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("error", "message", "mistake"), MISTAKES)
def test_a_mistake_is_told(error, message, mistake):
    with pytest.raises(error) as raised:
        mistake()
    assert raised.type is error
    assert str(raised.value).startswith(message)
    assert len(str(raised.value)) < 700
