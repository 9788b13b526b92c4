"""The GRUs of other libraries, in JAX and with engines of their own."""

import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from gruflax.bench.case import FORWARD, VALUE_AND_GRAD, Case, thread_count
from gruflax.bench.contestants import (
    JAX_PEER,
    OTHER,
    Inputs,
    Peer,
    Program,
    gruflax_params,
    jax_program,
)


def linen_cell(case: Case) -> Any:
    """Makes `flax.linen.GRUCell` in the dtype of a case."""
    from flax import linen as nn

    dtype = jnp.dtype(case.dtype)
    # The default draws by QR, which knows no 16-bit floats.
    draw = nn.initializers.lecun_normal()
    return nn.GRUCell(case.units, dtype=dtype, param_dtype=dtype, recurrent_kernel_init=draw)


def make_linen(case: Case, mode: str) -> Program:
    """Makes `flax.linen.RNN(GRUCell)`."""
    from flax import linen as nn

    layer = nn.RNN(linen_cell(case))
    params = layer.init(jax.random.key(0), jnp.zeros((case.batch, 1, case.features), case.dtype))

    def apply(params: Any, inputs: Inputs) -> Any:
        return layer.apply(params, inputs.x, seq_lengths=inputs.lengths)

    return jax_program(case, mode, apply, params)


def make_nnx(case: Case, mode: str) -> Program:
    """Makes `flax.nnx.RNN(GRUCell)`."""
    from flax import nnx

    dtype = jnp.dtype(case.dtype)
    cell = nnx.GRUCell(case.features, case.units, dtype=dtype, rngs=nnx.Rngs(0))
    graph, params, others = nnx.split(nnx.RNN(cell, rngs=False), nnx.Param, ...)

    def apply(params: Any, inputs: Inputs) -> Any:
        layer = nnx.merge(graph, params, others)
        start = jnp.zeros((*inputs.x.shape[:-2], case.units), inputs.x.dtype)
        return layer(inputs.x, initial_carry=start, seq_lengths=inputs.lengths)

    # Drawn in float32: QR knows no 16-bit floats.
    params = jax.tree.map(lambda leaf: leaf.astype(dtype), params)
    return jax_program(case, mode, apply, params)


def make_haiku(case: Case, mode: str) -> Program:
    """Makes `haiku.dynamic_unroll(GRU)`."""
    import haiku as hk

    unroll_core: Any = hk.dynamic_unroll

    def unroll(x: jax.Array) -> jax.Array:
        core = hk.GRU(case.units)
        state = jnp.zeros((*x.shape[:-2], case.units), x.dtype)
        # Without a batch axis, time is the first.
        return unroll_core(core, x, state, time_major=x.ndim == 2)[0]

    layer: Any = hk.without_apply_rng(hk.transform(unroll))
    start = jnp.zeros((case.batch, 1, case.features), case.dtype)
    params = layer.init(jax.random.key(0), start)
    return jax_program(case, mode, lambda params, inputs: layer.apply(params, inputs.x), params)


def make_equinox(case: Case, mode: str) -> Program:
    """Makes a scan over `equinox.nn.GRUCell`, vmapped over the batch as its users write it."""
    import equinox as eqx

    cell = eqx.nn.GRUCell(
        case.features, case.units, dtype=jnp.dtype(case.dtype), key=jax.random.key(0)
    )
    params, static = eqx.partition(cell, eqx.is_array)

    def apply(params: Any, inputs: Inputs) -> Any:
        cell = eqx.combine(params, static)

        def step(state: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
            state = cell(x, state)
            return state, state

        def unroll(sequence: jax.Array) -> jax.Array:
            return lax.scan(step, jnp.zeros(case.units, sequence.dtype), sequence)[1]

        return unroll(inputs.x) if inputs.x.ndim == 2 else jax.vmap(unroll)(inputs.x)

    return jax_program(case, mode, apply, params)


def make_keras(case: Case, mode: str) -> Program:
    """Makes `keras.layers.GRU` on its JAX backend."""
    os.environ["KERAS_BACKEND"] = "jax"
    import keras

    if keras.backend.backend() != "jax":
        raise RuntimeError(f"keras runs on {keras.backend.backend()}, not on JAX")
    # The default draws the recurrent kernel by QR, which knows no 16-bit floats.
    draw: Any = keras.initializers.GlorotUniform(seed=0)
    layer = keras.layers.GRU(
        case.units,
        return_sequences=True,
        reset_after=True,
        recurrent_initializer=draw,
        kernel_initializer=draw,
        dropout=case.dropout,
        recurrent_dropout=case.dropout,
        dtype=case.dtype,
    )
    layer.build((None, case.time, case.features))
    params, others = (
        [variable.value for variable in variables]
        for variables in (layer.trainable_variables, layer.non_trainable_variables)
    )

    def apply(params: Any, inputs: Inputs) -> Any:
        # It always wants a batch axis.
        x = inputs.x.reshape(-1, case.time, case.features)
        mask = None if inputs.mask is None else inputs.mask.reshape(x.shape[:2])
        if inputs.key is None:
            return layer.stateless_call(params, others, x, mask=mask)[0]
        # What is not trained is the state of its random generator, which has the form of a key.
        states = [jax.random.key_data(inputs.key) for _ in others]
        return layer.stateless_call(params, states, x, mask=mask, training=True)[0]

    return jax_program(case, mode, apply, params)


LENGTHS_NOTE = "takes lengths instead of a mask, and does not hold outputs at padded steps"

JAX_PEERS = (
    Peer("flax.linen", JAX_PEER, make_linen, ("flax",), "flax", mask_note=LENGTHS_NOTE),
    Peer("flax.nnx", JAX_PEER, make_nnx, ("flax",), "flax", mask_note=LENGTHS_NOTE),
    Peer(
        "haiku",
        JAX_PEER,
        make_haiku,
        ("haiku",),
        "dm-haiku",
        masks=False,
        note="resets before the recurrent product: the same products, in two parts",
    ),
    Peer("equinox", JAX_PEER, make_equinox, ("equinox",), "equinox", masks=False),
    Peer("keras", JAX_PEER, make_keras, ("keras",), "keras", dropout=True),
)


def make_torch(case: Case, mode: str) -> Program:
    """Makes `torch.nn.GRU`, on packed sequences where there is a mask."""
    import torch  # pyright: ignore[reportMissingImports]

    if case.device != "cpu" and not torch.cuda.is_available():
        raise RuntimeError(f"torch has no {case.device}")
    torch.set_num_threads(thread_count())
    device = "cuda" if case.device == "gpu" else "cpu"
    dtype = getattr(torch, case.dtype)
    torch.manual_seed(0)
    gru = torch.nn.GRU(case.features, case.units, batch_first=True, device=device, dtype=dtype)
    # Out of training, cuDNN keeps nothing for a backward pass.
    gru.train(mode == VALUE_AND_GRAD)
    inputs: Any = torch.from_numpy(case.inputs()).to(device, dtype)
    lengths = case.lengths()
    if lengths is not None:
        inputs = torch.nn.utils.rnn.pack_padded_sequence(
            inputs, torch.from_numpy(lengths).long(), batch_first=True, enforce_sorted=False
        )
    # Of a packed sequence too: its steps are one tensor.
    x = inputs if lengths is None else inputs.data
    x.requires_grad_(mode == VALUE_AND_GRAD)

    def wait() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    def forward() -> Any:
        with torch.inference_mode():
            outputs = gru(inputs)[0]
        wait()
        return outputs if lengths is None else outputs.data

    def value_and_grad() -> Any:
        gru.zero_grad(set_to_none=True)
        x.grad = None
        outputs = gru(inputs)[0]
        # A packed sequence holds the valid steps only.
        valid = outputs if lengths is None else outputs.data
        loss = valid.float().square().mean() if dtype.itemsize < 4 else valid.square().mean()
        loss.backward()
        wait()
        return loss.detach(), [each.grad for each in (*gru.parameters(), x)]

    return Program(value_and_grad if mode == VALUE_AND_GRAD else forward)


def _onnx_model(case: Case) -> bytes:
    """Writes a GRU with gruflax's parameters as an ONNX model."""
    from gruflax.convert import to_onnx
    from gruflax.linen import GRU

    layer = GRU(case.units, return_sequences=True)
    # Old enough for every onnxruntime of the last years.
    return to_onnx(layer, gruflax_params(case), opset=14).SerializeToString()


def make_onnxruntime(case: Case, mode: str) -> Program:
    """Makes an onnxruntime session with gruflax's parameters; inputs and outputs stay bound."""
    import onnxruntime

    device = "cuda" if case.device == "gpu" else "cpu"
    provider = f"{device.upper()}ExecutionProvider"
    if case.device == "tpu" or provider not in onnxruntime.get_available_providers():
        raise RuntimeError(f"onnxruntime has no {case.device}")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = thread_count()
    # Its threads spin while it runs, as they should, but not into the next contestant's time.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(_onnx_model(case), options, providers=[provider])
    outputs = np.zeros((case.batch, case.time, case.units), np.float32)
    x, y = (
        onnxruntime.OrtValue.ortvalue_from_numpy(array, device, 0)
        for array in (case.inputs(), outputs)
    )
    binding = session.io_binding()
    binding.bind_ortvalue_input("inputs", x)
    binding.bind_ortvalue_output("outputs", y)

    def run() -> Any:
        session.run_with_iobinding(binding)
        return y

    return Program(run)


OTHER_PEERS = (
    Peer(
        "torch",
        OTHER,
        make_torch,
        ("torch",),
        "torch",
        mask_note="packs masked sequences, which skips the padded steps",
    ),
    Peer(
        "onnxruntime",
        OTHER,
        make_onnxruntime,
        ("onnx", "onnxruntime"),
        "onnx onnxruntime",
        modes=(FORWARD,),
        masks=False,
        dtypes=("float32",),
    ),
)

LIBRARIES = {peer.name: peer for peer in (*JAX_PEERS, *OTHER_PEERS)}
