"""A call of a GRU over a sequence as one value, which all loops take as their argument."""

import dataclasses
import inspect
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike, DTypeLike

from gruflax.functional.checks import (
    check_flags,
    check_inputs,
    check_key,
    check_reset,
    check_state,
    compute_dtype,
)
from gruflax.functional.config import GRUConfig
from gruflax.functional.dropout import (
    DropoutMasks,
    draw_zoneout,
    drop_weights,
    resolve_dropout_masks,
)
from gruflax.functional.masks import combined_mask, steps_to_mask, where_steps
from gruflax.functional.params import Params, cast_params, check_params, check_size
from gruflax.functional.sharding import beside, sharded_like, vary_with
from gruflax.functional.time import Steps


T = TypeVar("T")


def _static(default: T) -> T:
    """Makes a dataclass field that is static: part of the structure of the pytree, not a leaf."""
    return dataclasses.field(default=default, metadata={"static": True})


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Call:
    """A GRU call with every argument checked and every default filled in.

    It is a pytree whose leaves are arrays, or their types or tangents; all other fields are static.

    Attributes:
        params: of the GRU, in the compute dtype, after dropout of recurrent weights.
        steps: `Steps` of arrays `[..., t, *]`, or `[t, ..., *]` with `time_major`.
        initial_state: `[..., u]`.
        reset_state: `[..., u]`, the state after a reset.
        masks: dropout masks of inputs and states.
        config: the options of the GRU; its zoneout is 0 if `steps.zoneout_mask` replaces it.
        time_major: whether time is the first axis, and not the one before the features.
        go_backwards: whether the last step is processed first.
        precision: the precision of the matrix products.
        return_sequences: whether the state after every step is wanted.
        zero_output_for_mask: whether outputs are zeros at masked steps.
        loop: the name of the loop that the caller asked for.
        remat: whether the backward pass keeps only every sqrt(t)-th state.
        chunk: steps per chunk of a loop that works on chunks; None lets it choose.
        inner_unroll: the `unroll` of the scan inside of a chunk. No public function takes it; only
            timings on a GPU vary it.
    """

    params: Params
    steps: Steps
    initial_state: jax.Array
    reset_state: jax.Array
    masks: DropoutMasks
    config: GRUConfig = _static(GRUConfig())
    time_major: bool = _static(False)
    go_backwards: bool = _static(False)
    precision: lax.PrecisionLike = _static(None)
    return_sequences: bool = _static(True)
    zero_output_for_mask: bool = _static(False)
    loop: str = _static("auto")
    remat: bool = _static(False)
    chunk: int | None = _static(None)
    inner_unroll: int = _static(1)

    @property
    def time(self) -> int:
        """Returns the number of steps; in `jax.export` it may be a symbol instead."""
        return self.steps.inputs.shape[self.time_axis]

    @property
    def time_axis(self) -> int:
        """Returns the index of the axis of time in all arrays that have one."""
        return 0 if self.time_major else self.initial_state.ndim - 1

    def in_order(self, steps: jax.Array) -> jax.Array:
        """Brings `[..., t, *]` or `[t, ..., *]` to `[t, ..., *]`, in the order of processing."""
        steps = jnp.moveaxis(steps, self.time_axis, 0)
        return jnp.flip(steps, axis=0) if self.go_backwards else steps

    def in_layout(self, states: jax.Array) -> jax.Array:
        """Brings `[t, ..., u]` to the caller's axes; outputs stay in the order of processing."""
        return jnp.moveaxis(states, 0, self.time_axis)

    def outputs(self, states: jax.Array) -> jax.Array:
        """Makes the outputs, in the caller's layout, from the states `[t, ..., u]`."""
        states = self.in_layout(states)
        valid = self.steps.valid
        if not self.zero_output_for_mask or valid is None:
            return states
        valid = jnp.flip(valid, self.time_axis) if self.go_backwards else valid
        return where_steps(valid, states, 0)

    def cleared(self) -> "Call":
        """Returns the same call with inputs of zeros at masked steps.

        Masked inputs may be NaN. A `where` on the state alone would not keep NaN out of the
        gradient, because zero times NaN is NaN.
        """
        steps = self.steps
        if steps.valid is None:
            return self
        steps = steps._replace(inputs=where_steps(steps.valid, steps.inputs, 0))
        return dataclasses.replace(self, steps=steps)

    def ordered(self) -> "Call":
        """Returns the same call with time first, in the order of processing."""
        steps = jax.tree.map(self.in_order, self.steps)
        return dataclasses.replace(self, steps=steps, time_major=True, go_backwards=False)


def make_call(
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
    **static: Any,
) -> Call:
    """Checks and completes the arguments of `gruflax.gru_sequence`.

    `static` holds the other static fields of the Call.
    """
    flags = {name: each for name, each in static.items() if name in _FLAGS}
    check_flags(go_backwards=go_backwards, time_major=time_major, **flags)
    if static.get("chunk") is not None:
        check_size("chunk", static["chunk"])
    check_key("rng", rng)
    check_reset(reset, reset_state)
    features, units = check_params(params, config)
    inputs = check_inputs("inputs", inputs, features, "time, ..." if time_major else "..., time", 2)
    dtype = compute_dtype(dtype, params, inputs)
    inputs = inputs.astype(dtype)
    axis = 0 if time_major else inputs.ndim - 2
    time, batch_shape = inputs.shape[axis], inputs.shape[:axis] + inputs.shape[axis + 1 : -1]
    # A loop goes through the steps in order, so every device must have all steps of its rows.
    spread = [None if each == axis else each for each in range(inputs.ndim - 1)]
    inputs = sharded_like(inputs, inputs, [*spread, inputs.ndim - 1])
    valid = combined_mask(mask, seq_lengths, batch_shape, time, axis)
    params = cast_params(params, dtype)
    params = {name: beside(each, inputs) for name, each in params.items()}
    own = params.pop("initial_state", None)
    if own is not None:
        own = jnp.broadcast_to(own, (*batch_shape, units))
    state, fresh = (
        check_state(name, own if given is None else given, batch_shape, units, dtype)
        for name, given in (("initial_state", initial_state), ("reset_state", reset_state))
    )
    masks = resolve_dropout_masks(dropout_masks, rng, batch_shape, features, units, config, dtype)
    params, masks = drop_weights(params, masks)
    zoneout_mask, config = draw_zoneout(rng, config, (time, *batch_shape, units))
    if zoneout_mask is not None:
        # The mask is drawn in the order of processing.
        drawn = jnp.flip(zoneout_mask, axis=0) if go_backwards else zoneout_mask
        zoneout_mask = jnp.moveaxis(drawn, 0, axis)
    reset = steps_to_mask("reset", reset, batch_shape, time, axis)
    marks = valid, reset, zoneout_mask
    steps = Steps(inputs, *jax.tree.map(lambda mark: sharded_like(mark, inputs, spread), marks))
    batch = [each for each in spread if each is not None]
    state, fresh = (sharded_like(each, inputs, batch) for each in (state, fresh))
    return Call(
        params,
        steps,
        vary_with(state, params, fresh, steps, masks),
        fresh,
        masks,
        config,
        time_major,
        go_backwards,
        precision,
        **static,
    )


_FLAGS = ("return_sequences", "zero_output_for_mask", "remat")
# The options that say what is computed; those in `static` say how, and what is returned.
CALL_OPTIONS = tuple(
    name
    for name, each in inspect.signature(make_call).parameters.items()
    if each.kind is each.KEYWORD_ONLY
)
