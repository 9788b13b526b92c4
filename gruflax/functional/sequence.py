"""Running a GRU over a sequence: the function `gru_sequence`."""

import jax
from jax import lax
from jax.typing import ArrayLike, DTypeLike

from gruflax.functional.call import Call, make_call
from gruflax.functional.config import GRUConfig
from gruflax.functional.dropout import DropoutMasks
from gruflax.functional.loops.choice import choose_loop
from gruflax.functional.masks import where_steps
from gruflax.functional.params import Params
from gruflax.functional.sharding import mesh_of


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
        inputs: `[..., t, f]` with any number of batch axes. `[t, f]` is one sequence without a
            batch, as in Flax, so that a forgotten batch axis is not an error.
        config: the options of the GRU; by default `GRUConfig()`, which has Keras 3's defaults.
        initial_state: `[..., u]`, the state that the first step begins with; None, the default, is
            the learned one of `params`, else zeros.
        mask: `[..., t]` or `[..., t, 1]`, bools or numbers of 0 and 1; where it is False the state
            and the output stay what they were, and no result depends on that input, even if it is
            NaN. With None, the default, all steps count.
        seq_lengths: `[...]` integers in [0, t], the number of steps at the start of each sequence
            that count. Traced ones are clipped to that range. With `mask`, a step counts if both
            say so. None, the default, does not limit the steps.
        reset: like `mask`; where it is True the state goes back to `reset_state` before that step.
            None by default.
        reset_state: `[..., u]`, only with `reset`; None, the default, is the learned state of
            `params`, else zeros. It is never `initial_state`, which may come from an earlier call.
        rng: JAX random key for dropout, or None, the default, for inference. One key gives one set
            of dropout masks, the same at every step; zoneout is drawn anew at every step.
        dropout_masks: `DropoutMasks` to use instead of drawing them; None by default.
        go_backwards: True processes the last step first, and gives outputs in the order of
            processing; False by default.
        time_major: True has time as the first axis of `inputs`, `mask`, `reset` and outputs; False
            by default.
        unroll: True runs a Python loop, whose compile time grows with the sequence, instead of a
            `lax.scan`; False by default.
        return_sequences: True, the default, returns the output of every step; False returns the
            last one only and never stores the others.
        zero_output_for_mask: True makes outputs zeros, instead of the carried state, at masked
            steps; False by default.
        loop: "scan" is `lax.scan` over the step; "chunked" works on chunks of time and keeps only
            the states for the backward pass; "native" is a C++ kernel on a CPU, and on other
            platforms "chunked"; "cudnn" is one call of cuDNN on a GPU; "auto", the default, chooses
            among the first three, and `gruflax.explain_loop` tells which it is. All give the same
            numbers, except that 16-bit floats are rounded at every step, and in "native", which
            carries the states in float32, only at the end.
        chunk: steps per chunk of the chunked loop; None, the default, chooses by the sizes.
        remat: True keeps every sqrt(t)-th state for the backward pass, which computes the others
            again, for very long sequences. False, the default, keeps every state, and in the native
            loop the gates too, four times the states, while they take less than 64 MiB.
        dtype: dtype to compute in; None, the default, promotes those of `params` and `inputs`.
        precision: precision of the matrix products, as in `jax.numpy.dot`; None by default.

    Returns:
        `(outputs, state)`: the outputs `[..., t, u]`, or the last output `[..., u]` without
        `return_sequences`; and the state after the last step `[..., u]`. Both in the compute dtype.

    Raises:
        TypeError: `dtype` is not a floating dtype, `seq_lengths` are not integers, `inputs` are
            token ids, or a flag is no bool.
        ValueError: a shape or a value does not fit, or `loop` is unknown or cannot run this; the
            message names the argument.

    Sources: Keras 3's `GRU`; where versions and backends of Keras disagree, the guide to migrating
    from Keras says which one this follows.
    """
    with mesh_of(inputs):
        call = make_call(
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
            precision=precision,
            return_sequences=return_sequences,
            zero_output_for_mask=zero_output_for_mask,
            loop=loop,
            remat=remat,
            chunk=chunk,
        )
        outputs, state = choose_loop(call, unroll=unroll)(call)
        return _last_output(call, state) if outputs is None else outputs, state


def _last_output(call: Call, state: jax.Array) -> jax.Array:
    """Returns the output of the last step: the state, or zeros at masked steps if asked for."""
    valid = call.steps.valid
    if not call.zero_output_for_mask or valid is None or call.time == 0:
        return state
    return where_steps(call.in_order(valid)[-1], state, 0)
