"""Returning the gates, the candidate and the state of a GRU at every step."""

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
    the state that the step begins with. At a masked step the state does not change, and the gates
    and the candidate are those of an input of zeros. At inference the update gate includes zoneout;
    in training, zoned out units keep their state.

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

    The states are computed as in `gru_sequence`, and from them the gates of all steps at once. For
    a Flax layer, call
    `gruflax.gate_activations(variables["params"], x, config=layer.config)`.

    Args:
        params: `kernel` [f, 3u], `recurrent_kernel` [u, 3u] and `bias` [2, 3u], [3u] or absent.
        inputs: `[..., t, f]`, or `[t, ..., f]` with `time_major`.
        **options: options of `gruflax.gru_sequence`, which explains them in full:

            * config: the options of the GRU; by default `GRUConfig()`.
            * initial_state: `[..., u]`, the state that the first step begins with; by default the
              learned one, else zeros.
            * mask: `[..., t]` or `[..., t, 1]`, True where the step counts; None by default.
            * seq_lengths: `[...]` integers in [0, t], the number of steps that count; None by
              default.
            * reset: like `mask`, True where the state goes back to `reset_state` before the step;
              None by default.
            * reset_state: `[..., u]`, only with `reset`; by default the learned one, else zeros.
            * rng: JAX random key for dropout and zoneout; None, the default, for inference.
            * dropout_masks: `DropoutMasks` to use instead of drawing them; None by default.
            * go_backwards: True processes the last step first; False by default.
            * time_major: True has time as the first axis; False by default.
            * dtype: dtype to compute in; None, the default, promotes those of `params` and
              `inputs`.
            * precision: precision of the matrix products, as in `jax.numpy.dot`; None by default.

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
