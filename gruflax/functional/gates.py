"""The gates, the candidate and the state of a GRU at every step."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from gruflax.functional.activations import activate
from gruflax.functional.call import CALL_OPTIONS, make_call
from gruflax.functional.loops.choice import choose_loop
from gruflax.functional.params import Params, split_bias, split_gates
from gruflax.functional.sharding import mesh_of
from gruflax.functional.step import project, step
from gruflax.functional.time import start_anew


class GateActivations(NamedTuple):
    """The gates of every step, each `[..., t, u]`, or `[t, ..., u]` with `time_major`.

    At a step that counts, `state = update * before + (1 - update) * candidate`, where `before` is
    the state that the step begins with. At a masked step the state stays what it was; gates and
    candidate are what a step on an input of zeros would compute. With zoneout, the update gate of
    inference contains it; in training, units that are zoned out stay what they were.

    Attributes:
        update: the update gate z, the share of the old state that is kept.
        reset: the reset gate r.
        candidate: the candidate n, which the state moves towards.
        state: the state after the step.
    """

    update: jax.Array
    reset: jax.Array
    candidate: jax.Array
    state: jax.Array


def gate_activations(params: Params, inputs: ArrayLike, **options: Any) -> GateActivations:
    """Runs a GRU over a sequence and returns every gate of every step.

    The states come from the loop of `gru_sequence`; from them the step's own functions compute the
    gates of all steps at once. For a Flax layer,
    `gruflax.gate_activations(variables["params"], x, config=layer.config)`.

    Args:
        params: `kernel` [f, 3u], `recurrent_kernel` [u, 3u] and `bias` [2, 3u], [3u] or absent.
        inputs: `[..., t, f]`, or `[t, ..., f]` with `time_major`.
        **options: of `gruflax.gru_sequence`, with its defaults:
            config: the GRU, a `GRUConfig`.
            initial_state: `[..., u]`, the state that the first step begins with.
            mask: `[..., t]` or `[..., t, 1]`, True where the step counts.
            seq_lengths: `[...]` integers in [0, t], the number of steps that count.
            reset: like `mask`, True where the state goes back to `reset_state` before the step.
            reset_state: `[..., u]`, only with `reset`.
            rng: JAX random key for dropout and zoneout; None for inference.
            dropout_masks: `DropoutMasks` to use instead of drawing them.
            go_backwards: True processes the last step first.
            time_major: True has time as the first axis.
            dtype: to compute in.
            precision: of the products.

    Returns:
        `GateActivations` of arrays `[..., t, u]` in the compute dtype, in the order of processing.

    Raises:
        TypeError: another option is given, or as `gruflax.gru_sequence`.
        ValueError: as `gruflax.gru_sequence`.
    """
    unknown = sorted(set(options) - set(CALL_OPTIONS))
    if unknown:
        raise TypeError(
            f"gate_activations has no arguments {unknown}, only {sorted(CALL_OPTIONS)}."
        )
    with mesh_of(inputs):
        call = make_call(params, inputs, **options)
        states, _ = choose_loop(call)(call)
        assert states is not None
        first = call.cleared().ordered()
        after = jnp.moveaxis(states, call.time_axis, 0)
        before = start_anew(
            jnp.concatenate([call.initial_state[None], after])[:-1],
            first.steps.reset,
            call.reset_state[None],
        )
        # Dropout masks [n, ..., f] are the same at every step.
        masks = [None if mask is None else jnp.expand_dims(mask, 1) for mask in call.masks[:2]]
        b, _ = split_bias(call.params, call.config)
        x = project(first.steps.inputs, call.params["kernel"], b, masks[0], call.precision)
        _, (z, r, a) = step(
            call.params, split_gates(x), before, call.config, masks[1], call.precision
        )
        candidate = activate("activation", call.config.activation, a)
        z, r, candidate = map(call.in_layout, (z, r, candidate))
        return GateActivations(z, r, candidate, states)
