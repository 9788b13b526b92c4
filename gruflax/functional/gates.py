"""What a GRU does inside, step by step: its gates, its candidate and its state."""

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
        candidate: what the state moves towards.
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
        params: as `gruflax.gru_sequence`.
        inputs: as `gruflax.gru_sequence`.
        **options: those of `gruflax.gru_sequence` that say what is computed: `config`,
            `initial_state`, `mask`, `seq_lengths`, `reset`, `reset_state`, `rng`, `dropout_masks`,
            `go_backwards`, `time_major`, `dtype` and `precision`.

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
