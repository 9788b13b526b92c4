"""The GRUs of other libraries, with gruflax's parameters: a row of `LIBRARIES` for each."""

import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn, nnx
from jax import lax

from gruflax import convert
from gruflax.bench.case import VALUE_AND_GRAD, Case, thread_count
from gruflax.bench.contestants import (
    JAX_PEER,
    OTHER,
    Apply,
    Inputs,
    Params,
    Peer,
    Program,
    Tree,
    gruflax_params,
    jax_program,
)
from gruflax.linen import GRU


# `(case, gruflax's parameters) -> (apply, own)`, of a library's `apply(own, inputs) -> outputs` and
# its parameters `own`.
Build = Callable[[Case, Params], tuple[Apply, Tree]]


def linen_cell(case: Case) -> nn.GRUCell:
    """Makes `flax.linen.GRUCell` in the dtype of a case."""
    dtype = jnp.dtype(case.dtype)
    # Flax asks the initializer for its type even where there are parameters; that of the default,
    # which draws by QR, refuses 16-bit floats.
    draw = nn.initializers.lecun_normal()
    return nn.GRUCell(case.units, dtype=dtype, param_dtype=dtype, recurrent_kernel_init=draw)


def _linen(case: Case, params: Params) -> tuple[Apply, Tree]:
    layer = nn.RNN(linen_cell(case))
    apply = lambda own, inputs: layer.apply(own, inputs.x, seq_lengths=inputs.lengths)  # noqa: E731
    return apply, {"params": {"cell": convert.to_flax_linen(params)}}


def _nnx(case: Case, params: Params) -> tuple[Apply, Tree]:
    dtype = jnp.dtype(case.dtype)
    cell = nnx.GRUCell(case.features, case.units, dtype=dtype, rngs=nnx.Rngs(0))
    # flax.nnx has no recurrent bias for the candidate.
    bias = params["bias"].at[1, 2 * case.units :].set(0)
    nnx.update(cell, convert.to_flax_nnx({**params, "bias": bias}))
    graph, state, others = nnx.split(nnx.RNN(cell, rngs=False), nnx.Param, ...)

    def apply(own: Tree, inputs: Inputs) -> Tree:
        layer = nnx.merge(graph, own, others)
        start = jnp.zeros((*inputs.x.shape[:-2], case.units), inputs.x.dtype)
        return layer(inputs.x, initial_carry=start, seq_lengths=inputs.lengths)

    return apply, state


def _haiku(case: Case, params: Params) -> tuple[Apply, Tree]:
    import haiku as hk

    def unroll(x: jax.Array) -> Tree:
        state = jnp.zeros((*x.shape[:-2], case.units), x.dtype)
        # Without a batch axis, time is the first.
        return hk.dynamic_unroll(hk.GRU(case.units), x, state, time_major=x.ndim == 2)[0]

    layer = hk.without_apply_rng(hk.transform(unroll))
    apply = lambda own, inputs: layer.apply(own, inputs.x)  # noqa: E731
    return apply, {"gru": convert.to_haiku({**params, "bias": params["bias"][0]})}


def _equinox(case: Case, params: Params) -> tuple[Apply, Tree]:
    import equinox as eqx

    empty = eqx.nn.GRUCell(case.features, case.units, key=jax.random.key(0))

    def apply(own: Tree, inputs: Inputs) -> Tree:
        leaves = lambda cell: [getattr(cell, name) for name in own]  # noqa: E731
        cell = eqx.tree_at(leaves, empty, list(own.values()))

        def unroll(x: jax.Array) -> jax.Array:
            step = lambda state, x: (cell(x, state),) * 2  # noqa: E731
            return lax.scan(step, jnp.zeros(case.units, x.dtype), x)[1]

        return unroll(inputs.x) if inputs.x.ndim == 2 else jax.vmap(unroll)(inputs.x)

    return apply, convert.to_equinox(params)


def _keras(case: Case, params: Params) -> tuple[Apply, Tree]:
    os.environ["KERAS_BACKEND"] = "jax"
    import keras

    layer = keras.layers.GRU(
        case.units,
        return_sequences=True,
        # The default initializer uses QR, which does not support 16-bit floats.
        recurrent_initializer="zeros",
        dropout=case.dropout,
        recurrent_dropout=case.dropout,
        dtype=case.dtype,
    )
    layer.build((None, case.time, case.features))
    others = [variable.value for variable in layer.non_trainable_variables]

    def apply(own: Tree, inputs: Inputs) -> Tree:
        # Keras always needs a batch axis.
        x = inputs.x.reshape(-1, case.time, case.features)
        mask = None if inputs.mask is None else inputs.mask.reshape(x.shape[:2])
        key, training = inputs.key, inputs.key is not None
        # The variables that are not trained are states of random generators, shaped like keys.
        states = others if key is None else [jax.random.key_data(key) for _ in others]
        return layer.stateless_call(own, states, x, mask=mask, training=training)[0]

    return apply, convert.to_keras(params)


def _torch(case: Case, mode: str) -> Program:
    import torch  # pyright: ignore[reportMissingImports]

    torch.set_num_threads(thread_count())
    device = {"gpu": "cuda"}.get(case.device, case.device)
    dtype = getattr(torch, case.dtype)
    gru = torch.nn.GRU(case.features, case.units, batch_first=True, device=device, dtype=dtype)
    weights = convert.to_torch(gruflax_params(case)).items()
    gru.load_state_dict(
        {f"{name}_l0": torch.from_numpy(np.asarray(each, np.float64)) for name, each in weights}
    )
    training = mode == VALUE_AND_GRAD
    # In evaluation mode cuDNN keeps nothing for a backward pass.
    gru.train(training)
    x = torch.from_numpy(case.inputs()).to(device, dtype).requires_grad_(training)

    def run() -> Any:
        with torch.inference_mode(not training):
            found = (gru(x)[0],)
            if training:
                outputs = found[0].float() if dtype.itemsize < 4 else found[0]
                loss = outputs.square().mean()
                found = loss.detach(), *torch.autograd.grad(loss, (*gru.parameters(), x))
        if device == "cuda":
            torch.cuda.synchronize()
        return found

    return Program(run, arrays=lambda found: [each.double().cpu().numpy() for each in found])


def _onnxruntime(case: Case, mode: str) -> Program:
    import onnxruntime

    device = {"gpu": "cuda"}.get(case.device, case.device)
    provider = f"{device.upper()}ExecutionProvider"
    if provider not in onnxruntime.get_available_providers():
        raise RuntimeError(f"onnxruntime has no {case.device}")
    layer = GRU(case.units, return_sequences=True)
    # Every onnxruntime of the last years supports this opset.
    model = convert.to_onnx(layer, gruflax_params(case), opset=14).SerializeToString()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = thread_count()
    # Its threads may spin while it runs, but must not do so while the next contestant runs.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(model, options, providers=[provider])
    # Inputs and outputs stay on the device.
    x = onnxruntime.OrtValue.ortvalue_from_numpy(case.inputs(), device, 0)
    binding = session.io_binding()
    binding.bind_ortvalue_input("inputs", x)
    binding.bind_output("outputs", device)
    return Program(
        lambda: session.run_with_iobinding(binding), arrays=lambda _: binding.copy_outputs_to_cpu()
    )


def _in_jax(build: Build, name: str, **fields: Any) -> Peer:
    """Makes a contestant of a library in JAX."""

    def make(case: Case, mode: str) -> Program:
        return jax_program(case, mode, *build(case, gruflax_params(case)))

    return Peer(name, JAX_PEER, make, **fields)


LINEN, TORCH, ONNXRUNTIME = "flax.linen", "torch", "onnxruntime"
_LENGTHS = "takes lengths where others take a mask, and does not hold outputs at padded steps"
_RESETS = "resets before the recurrent product: the same products, in two parts"
_DROPOUT = ("recurrent dropout",)
_MASKS = ("masks", *_DROPOUT)
_VMAP = ("jax.vmap", *_MASKS)
_ONLY_FORWARD = (*_VMAP, VALUE_AND_GRAD, "bfloat16", "float16", "float64")
_PEERS = (
    _in_jax(_linen, LINEN, lacks=_DROPOUT, note=_LENGTHS),
    _in_jax(_nnx, "flax.nnx", lacks=_DROPOUT, note=_LENGTHS, same=False),
    _in_jax(_haiku, "haiku", package="dm-haiku", lacks=_MASKS, note=_RESETS, same=False),
    _in_jax(_equinox, "equinox", package="equinox", lacks=_MASKS),
    _in_jax(_keras, "keras", package="keras"),
    Peer(TORCH, OTHER, _torch, "torch", _VMAP),
    Peer(ONNXRUNTIME, OTHER, _onnxruntime, "onnx onnxruntime", _ONLY_FORWARD),
)
LIBRARIES = {peer.name: peer for peer in _PEERS}
