"""What a GRU does inside, step by step: its gates, its candidate and its state."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike, DTypeLike

from gruflax.functional.activations import activate
from gruflax.functional.config import GRUConfig
from gruflax.functional.dropout import DropoutMasks
from gruflax.functional.loops import where_steps
from gruflax.functional.params import Params
from gruflax.functional.sequence import Prepared, prepare_sequence, run_prepared
from gruflax.functional.step import open_gates, project, split_bias, split_gates


class Trace(NamedTuple):
    """The gates of every step, each `[..., t, u]`, or `[t, ..., u]` with `time_major`.

    At a step that counts, `state = update * before + (1 - update) * candidate`, where `before` is
    the state that the step begins with. At a masked step the state stays what it was; gates and
    candidate are what a step on an input of zeros would compute. With zoneout, the update gate of
    inference contains it; in training, units that are zoned out stay what they were.

    Attributes:
        update: the update gate z, the share of the old state that is kept.
        reset: the reset gate r.
        candidate: what the state moves towards.
        state: the state after the step.
    """

    update: jax.Array
    reset: jax.Array
    candidate: jax.Array
    state: jax.Array


def trace(
    params: Params,
    inputs: ArrayLike,
    *,
    config: GRUConfig = GRUConfig(),
    initial_state: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    seq_lengths: ArrayLike | None = None,
    reset: ArrayLike | None = None,
    reset_state: ArrayLike | None = None,
    rng: jax.Array | None = None,
    dropout_masks: DropoutMasks | None = None,
    go_backwards: bool = False,
    time_major: bool = False,
    dtype: DTypeLike | None = None,
    precision: lax.PrecisionLike = None,
) -> Trace:
    """Runs a GRU over a sequence and returns every gate of every step.

    The states come from the loop of `gru_sequence`; from them the step's own functions compute the
    gates of all steps at once. For a Flax layer,
    `gruflax.trace(variables["params"], x, config=layer.config)`.

    Args:
        params: `kernel` [f, 3u], `recurrent_kernel` [u, 3u] and `bias` [2, 3u], [3u] or absent;
            columns z | r | h.
        inputs: `[..., t, f]` with any number of batch axes, none included.
        config: the GRU.
        initial_state: `[..., u]`; None is the learned one of `params`, else zeros.
        mask: `[..., t]` or `[..., t, 1]`, any dtype; where it is False the state stays what it was.
        seq_lengths: `[...]` integers: only the first so many steps count.
        reset: `[..., t]` or `[..., t, 1]`, any dtype; where it is True the state goes back to
            `reset_state` before that step.
        reset_state: `[..., u]`; None is the initial state.
        rng: JAX random key for dropout, or None for inference.
        dropout_masks: masks to use instead of drawing them.
        go_backwards: processes the last step first; the trace is in the order of processing.
        time_major: `inputs`, `mask`, `reset` and the trace have time as the first axis.
        dtype: to compute in; None promotes the dtypes of `params` and `inputs`.
        precision: of the products, as in `jax.numpy.dot`.

    Returns:
        A `Trace` of arrays `[..., t, u]` in the compute dtype.

    Raises:
        TypeError: `dtype` is not a floating dtype, or `seq_lengths` are not integers.
        ValueError: a shape does not fit; the message names the argument.
    """
    call = prepare_sequence(
        params,
        inputs,
        config=config,
        initial_state=initial_state,
        mask=mask,
        seq_lengths=seq_lengths,
        reset=reset,
        reset_state=reset_state,
        rng=rng,
        dropout_masks=dropout_masks,
        go_backwards=go_backwards,
        time_major=time_major,
        dtype=dtype,
    )
    _, states = run_prepared(call, precision=precision)
    assert states is not None
    update, reset_gate, candidate = _all_gates(call, states, precision)
    result = Trace(update, reset_gate, activate("activation", config.activation, candidate), states)
    return result if time_major else Trace(*(jnp.moveaxis(each, 0, -2) for each in result))


def _all_gates(
    call: Prepared, states: jax.Array, precision: lax.PrecisionLike
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Computes the gates of all steps at once.

    Args:
        call: of `gru_sequence`.
        states: `[t, ..., u]`, the state after every step.
        precision: of the products.

    Returns:
        `(z, r, candidate before its activation)`, each `[t, ..., u]`.
    """
    before = jnp.concatenate([call.state[None], states])[:-1]
    if call.steps.reset is not None:
        before = where_steps(call.steps.reset, call.reset_state[None], before)
    # Dropout masks [n, ..., f] are the same at every step.
    inputs_mask, recurrent_mask = (
        None if mask is None else jnp.expand_dims(mask, 1)
        for mask in (call.masks.inputs, call.masks.recurrent)
    )
    bias, _ = split_bias(call.params, call.config)
    projection = project(call.steps.inputs, call.params["kernel"], bias, inputs_mask, precision)
    return open_gates(
        call.params, split_gates(projection), before, call.config, recurrent_mask, precision
    )
