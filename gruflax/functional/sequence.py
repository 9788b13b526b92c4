"""A GRU over a whole sequence."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike, DTypeLike

from gruflax.functional.checks import (
    check_flags,
    check_inputs,
    check_key,
    check_state,
    compute_dtype,
    sharded_like,
    vary_with,
)
from gruflax.functional.config import GRUConfig
from gruflax.functional.cudnn.conditions import check_cudnn
from gruflax.functional.dispatch import choose_loop, run_loop
from gruflax.functional.dropout import (
    DropoutMasks,
    draw_zoneout,
    drop_weights,
    resolve_dropout_masks,
)
from gruflax.functional.loops import Steps, in_order, visible_outputs
from gruflax.functional.masks import steps_to_mask, valid_steps
from gruflax.functional.params import Params, cast_params, check_params, check_size


def gru_sequence(
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
    unroll: bool = False,
    return_sequences: bool = True,
    zero_output_for_mask: bool = False,
    loop: str = "auto",
    chunk: int | None = None,
    remat: bool = False,
    dtype: DTypeLike | None = None,
    precision: lax.PrecisionLike = None,
) -> tuple[jax.Array, jax.Array]:
    """Runs a GRU over a sequence.

    Args:
        params: `kernel` [f, 3u], `recurrent_kernel` [u, 3u] and `bias` [2, 3u], [3u] or absent;
            columns z | r | h.
        inputs: `[..., t, f]` with any number of batch axes. None is legal too, as in Flax: `[t, f]`
            is one sequence, and a forgotten axis of time looks the same.
        config: the GRU.
        initial_state: `[..., u]`; None is the learned one of `params`, else zeros.
        mask: `[..., t]` or `[..., t, 1]`, bools or numbers of 0 and 1; where it is False the state
            and the output stay what they were, and nothing of that input, NaN included, goes
            anywhere.
        seq_lengths: `[...]` integers in [0, t]: only the first so many steps count; traced ones are
            clipped. With `mask`, both must say so.
        reset: like `mask`; where it is True the state goes back to `reset_state` before that step.
        reset_state: `[..., u]`, with `reset`; None is the initial state. To carry a state from call
            to call and yet start episodes from zeros, as reinforcement learning does, give zeros
            here.
        rng: JAX random key for dropout, or None for inference. One key gives one set of masks,
            the same at every step; zoneout draws from it anew at every step.
        dropout_masks: masks to use instead of drawing them.
        go_backwards: processes the last step first; outputs come in the order of processing.
        time_major: `inputs`, `mask`, `reset` and outputs have time as the first axis.
        unroll: a Python loop instead of `lax.scan`: compile time grows with the sequence.
        return_sequences: returns the output of every step; False never stores them.
        zero_output_for_mask: outputs are zeros, instead of the carried state, at masked steps.
        loop: "scan" is `lax.scan` over the step; "chunked" works on chunks of time and keeps only
            the states for the backward pass; "cudnn" is one call of cuDNN on a GPU; "auto" chooses
            between the first two. All give the same numbers.
        chunk: steps a chunk of the chunked loop; None chooses by the sizes.
        remat: the backward pass keeps every sqrt(t)-th state and computes the others again, for
            very long sequences.
        dtype: to compute in; None promotes the dtypes of `params` and `inputs`.
        precision: of the products, as in `jax.numpy.dot`.

    Returns:
        `(outputs, state)`: `[..., t, u]`, or the last output `[..., u]` without
        `return_sequences`; and the state after the last step `[..., u]`. Both in the compute dtype.

    Raises:
        TypeError: `dtype` is not a floating dtype, `seq_lengths` are not integers, `inputs` are
            token ids, or a flag is no bool.
        ValueError: a shape or a value does not fit, `loop` is unknown or cuDNN cannot run this; the
            message names the argument.

    Sources: Keras 3's `GRU`; where versions and backends of Keras disagree, the README says which
    one this follows.
    """
    check_flags(
        unroll=unroll,
        return_sequences=return_sequences,
        zero_output_for_mask=zero_output_for_mask,
        remat=remat,
    )
    if chunk is not None:
        check_size("chunk", chunk)
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
    if loop == "cudnn":
        check_cudnn(config, call.masks, unroll=unroll, resets=reset is not None)
    state, states = run_prepared(
        call,
        loop=loop,
        unroll=unroll,
        precision=precision,
        keep_states=return_sequences,
        chunk=chunk,
        remat=remat,
    )
    shown = call.steps.valid if zero_output_for_mask else None
    outputs = visible_outputs(state, states, shown)
    return (jnp.moveaxis(outputs, 0, -2) if return_sequences and not time_major else outputs), state


class Prepared(NamedTuple):
    """A call with everything checked and in the compute dtype.

    Attributes:
        params: of the GRU.
        state: `[..., u]`, the initial state.
        reset_state: `[..., u]`, what a reset goes back to.
        steps: `[t, ...]`, in the order of processing, with zero inputs at masked steps.
        masks: dropout masks.
        moves: `[t, ...]` or, with zoneout, `[t, ..., u]` boolean: False where the state, or a unit
            of it, stays what it was; or None.
        config: the GRU, without what has been done to `params` and `moves`.
        batch_major: whether the inputs came with the batch first, in the order of processing.
    """

    params: Params
    state: jax.Array
    reset_state: jax.Array
    steps: Steps
    masks: DropoutMasks
    moves: jax.Array | None
    config: GRUConfig
    batch_major: bool


def prepare_sequence(
    params: Params,
    inputs: ArrayLike,
    *,
    config: GRUConfig,
    initial_state: ArrayLike | None,
    mask: ArrayLike | None,
    seq_lengths: ArrayLike | None,
    reset: ArrayLike | None,
    reset_state: ArrayLike | None,
    rng: jax.Array | None,
    dropout_masks: DropoutMasks | None,
    go_backwards: bool,
    time_major: bool,
    dtype: DTypeLike | None,
) -> Prepared:
    """Checks the arguments of `gru_sequence`, and brings them to the form that the loops take.

    Args:
        params: `kernel` [f, 3u], `recurrent_kernel` [u, 3u], ..., as of `gru_sequence`.
        inputs: `[..., t, f]`, or `[t, ..., f]` with `time_major`.
        config: and all others, as of `gru_sequence`.

    Returns:
        The call, with time first in the order of processing: inputs `[t, ..., f]`.

    Raises:
        TypeError: as `gru_sequence`.
        ValueError: as `gru_sequence`.
    """
    check_flags(go_backwards=go_backwards, time_major=time_major)
    check_key("rng", rng)
    features, units = check_params(params, config)
    if reset is None and reset_state is not None:
        raise ValueError(
            "reset_state must come with reset, which says where it is used, got no reset."
        )
    check_inputs("inputs", inputs, features, "time, ..." if time_major else "..., time", 2)
    inputs = jnp.asarray(inputs)
    inputs = inputs if time_major else jnp.moveaxis(inputs, -2, 0)
    dtype = compute_dtype(dtype, params, inputs)
    time, *batch_axes, _ = inputs.shape
    batch_shape = tuple(batch_axes)
    steps = Steps(
        inputs.astype(dtype),
        valid_steps(mask, seq_lengths, batch_shape, time, time_major),
        steps_to_mask("reset", reset, batch_shape, time, time_major),
    )
    steps = in_order(steps, go_backwards)
    params = dict(cast_params(params, dtype))
    learned = params.pop("initial_state", None)
    if initial_state is None and learned is not None:
        initial_state = jnp.broadcast_to(learned, (*batch_shape, units))
    state = check_state("initial_state", initial_state, batch_shape, units, dtype)
    start = state if reset_state is None else reset_state
    start = check_state("reset_state", start, batch_shape, units, dtype)
    masks = resolve_dropout_masks(dropout_masks, rng, batch_shape, features, units, config, dtype)
    params, masks = drop_weights(params, masks)
    moves, config = draw_zoneout(rng, config, (time, *batch_shape, units))
    if moves is None:
        moves = steps.valid
    elif steps.valid is not None:
        moves &= steps.valid[..., None]
    state, start = (sharded_like(each, steps.inputs) for each in (state, start))
    # Turned round in time, the inputs are copied anyway.
    batch_major = not (time_major or go_backwards)
    return Prepared(params, state, start, steps, masks, moves, config, batch_major)


def run_prepared(
    call: Prepared,
    *,
    loop: str = "auto",
    unroll: bool = False,
    precision: lax.PrecisionLike = None,
    keep_states: bool = True,
    chunk: int | None = None,
    remat: bool = False,
) -> tuple[jax.Array, jax.Array | None]:
    """Runs the loop over a prepared call.

    Args:
        call: of `prepare_sequence`.
        loop: one of `gruflax.functional.dispatch.LOOPS`.
        unroll: whether a Python loop is asked for.
        precision: of the products.
        keep_states: whether to return the state after every step.
        chunk: steps a chunk of the chunked loop; None chooses.
        remat: whether the backward pass keeps every sqrt(t)-th state only.

    Returns:
        `(state [..., u], states [t, ..., u] or None)`.

    Raises:
        ValueError: `loop` is unknown.
    """
    return run_loop(
        choose_loop(loop, unroll, call.steps.inputs.shape[0], call.config),
        call.params,
        vary_with(call.state, call.params, call.reset_state, call.steps, call.masks),
        call.reset_state,
        call.steps._replace(valid=call.moves),
        call.masks,
        config=call.config,
        precision=precision,
        keep_states=keep_states,
        chunk=chunk,
        remat=remat,
        batch_major=call.batch_major,
    )
