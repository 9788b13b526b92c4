"""Operations as JAX primitives: how they are computed, differentiated, transposed and mapped.

An operation takes a `Call` and a dictionary of further arrays, and is linear in the arrays under
the key "linear". It has a portable form, written in JAX, and may have a native form, a call of the
kernel for CPUs. The choice is made when a program is lowered and the platform and all sizes are
known. An exported program has the portable form only, because it may run where there is no kernel.

`jax.vmap` adds an axis to some of the arrays. If all share the weights, and no gradient of them is
asked for, this is one more batch axis. Otherwise the operation has several members: arrays that
differ between members have an axis of members in front, and the others are shared.
The native form computes all members in one call, and the portable form is mapped by `jax.vmap`.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax.experimental.custom_partitioning import custom_partitioning
from jax.extend.core import ClosedJaxpr, Primitive
from jax.interpreters import ad, batching, mlir
from jax.sharding import NamedSharding, PartitionSpec

from gruflax.functional.call import Call
from gruflax.functional.checks import PyTree
from gruflax.functional.loops.native.axes import (
    MEMBER,
    WEIGHTS,
    array_names,
    axes_of,
    linear_leaves,
)
from gruflax.functional.loops.native.form import Arrays, Form, Leaves, Types
from gruflax.functional.loops.native.mapping import over_batch, over_members, weights_differ
from gruflax.functional.sharding import explicit_sharding, run_in_parts


Value = mlir.ir.Value
# Tangents or cotangents of arrays. One that is known to be zero is an `ad.Zero`.
Tangents = Sequence[jax.Array | ad.Zero]
# `(operation, form, leaves, tangents) -> results, their tangents`.
Differentiate = Callable[
    ["Operation", Form, Leaves, Tangents], tuple[list[jax.Array], list[jax.Array]]
]


class Operation:
    """A primitive with a portable and a native form.

    Attributes:
        name: the name of the primitive.
        types: `(call, arrays, **options)` of types -> the results' types, a pytree.
        portable: `(call, arrays, **options)` -> results like `types`.
        native: `(form, leaves, types, local)` -> `{name: result}` for all members, of `{name:
            type}`; or None if the portable form is faster. `local` says that the leaves are the
            parts of one device, as inside `jax.shard_map`.
        differentiate: `(operation, form, leaves, tangents)` -> results and their tangents, as
            leaves; None takes those of the portable form. A tangent that is zero is an `ad.Zero`.
        transpose: `(form, leaves, cotangents)` -> the cotangents of linear leaves, None for others;
            None transposes the portable form.
    """

    def __init__(
        self,
        name: str,
        types: Callable[..., Arrays],
        portable: Callable[..., Arrays],
        native: Callable[[Form, Leaves, Arrays, bool], Arrays | None] | None = None,
        differentiate: Differentiate | None = None,
        transpose: Callable[[Form, Leaves, Tangents], list[jax.Array | None]] | None = None,
    ):
        self.types, self.portable, self.native = types, portable, native
        primitive = self.primitive = Primitive(f"gru_{name}")
        primitive.multiple_results = True
        # Every rule gets the parameter `devices` and ignores it: see `_program_with_devices`.
        primitive.def_impl(_compiled(primitive))
        primitive.def_abstract_eval(lambda *types, form, devices: self._types(form, types)[0])
        mlir.register_lowering(primitive, self._lower_portable)
        if native is not None:
            mlir.register_lowering(primitive, self._lower_native, platform="cpu")
        push = functools.partial(differentiate or differentiate_portable, self)
        pull = transpose or self._transpose_portable
        ad.primitive_jvps[primitive] = lambda leaves, tangents, *, form, devices: push(
            form, leaves, tangents
        )
        ad.primitive_transposes[primitive] = lambda cotangents, *leaves, form, devices: pull(
            form, leaves, cotangents
        )
        batching.primitive_batchers[primitive] = self._map

    def __call__(
        self,
        arguments: tuple[Call, Arrays],
        each: tuple[Call, Arrays] | None = None,
        **options: object,
    ) -> Arrays:
        """Computes the results, a pytree like `types`.

        `each` is a pytree like the arguments that says which arrays have an axis of members.
        """
        leaves, tree = jax.tree.flatten(arguments)
        flags = tuple(jax.tree.leaves(each)) if each else (False,) * len(leaves)
        form = Form(tree, flags, tuple(options.items()))
        _, tree = self._types(form, [jax.typeof(leaf) for leaf in leaves])
        return jax.tree.unflatten(tree, self.bind(form, leaves))

    def bind(self, form: Form, leaves: Leaves) -> list[jax.Array]:
        """Computes the results, as leaves."""
        return self.primitive.bind(*leaves, form=form, devices=_DEVICES)

    def result_names(self, form: Form, leaves: Leaves) -> list[str]:
        """Names the leaves of the results."""
        return array_names(self._types(form, [jax.typeof(leaf) for leaf in leaves])[1])

    def _run_portable(self, *leaves: jax.Array, form: Form) -> list[jax.Array]:
        def run(*leaves):
            return jax.tree.leaves(self.portable(*form.arguments(leaves), **dict(form.options)))

        return form.mapped(run)(*leaves)

    def _transpose_portable(
        self, form: Form, leaves: Leaves, cotangents: Tangents
    ) -> list[jax.Array | None]:
        places = [i for i, leaf in enumerate(leaves) if ad.is_undefined_primal(leaf)]
        run = functools.partial(self.run_with, form, leaves, places)
        types = [jax.ShapeDtypeStruct(leaves[i].aval.shape, leaves[i].aval.dtype) for i in places]
        transposed = jax.linear_transpose(run, *types)
        gradients = transposed(list(map(ad.instantiate_zeros, cotangents)))
        found = dict(zip(places, gradients, strict=True))
        return [found.get(place) for place in range(len(leaves))]

    def run_with(
        self, form: Form, leaves: Leaves, places: Sequence[int], *others: jax.Array
    ) -> list[jax.Array]:
        """Computes the portable form with other leaves in some places."""
        replaced = dict(zip(places, others, strict=True))
        return self._run_portable(
            *(replaced.get(place, leaf) for place, leaf in enumerate(leaves)), form=form
        )

    def _lower_native(
        self, context: mlir.LoweringRuleContext, *values: Value, form: Form, devices: object
    ) -> Sequence[Value]:
        # An exported program may run where there is no kernel.
        if context.module_context.lowering_parameters.for_export:
            return self._lower_portable(context, *values, form=form, devices=devices)
        # Inside `jax.shard_map` the operands are a device's own, and must not be split again.
        local = bool(getattr(context.module_context.axis_context, "manual_axes", ()))
        run = functools.partial(self._run_native, local=local)
        return self._lower(run, context, *values, form=form)

    def _lower_portable(
        self, context: mlir.LoweringRuleContext, *values: Value, form: Form, devices: object
    ) -> Sequence[Value]:
        return self._lower(self._run_portable, context, *values, form=form)

    def _lower(
        self,
        run: Callable[..., list[jax.Array]],
        context: mlir.LoweringRuleContext,
        *values: Value,
        form: Form,
    ) -> Sequence[Value]:
        split = functools.partial(self._run_split, run, form)
        return mlir.lower_fun(split)(context, *values)

    def _run_split(
        self, run: Callable[..., list[jax.Array]], form: Form, *leaves: jax.Array
    ) -> list[jax.Array]:
        """Runs a form on each device's parts, if the types have explicit shardings."""
        call, _ = form.arguments(leaves)
        sharding = explicit_sharding(call.steps.inputs)
        if sharding is None:
            return run(*leaves, form=form)
        operands = [jax.typeof(leaf) for leaf in leaves]
        types, tree = self._types(form, operands)
        places = form.mesh_axes(operands)
        summed = tuple(jax.tree.leaves([places[axis] for axis in places if axis != MEMBER]))
        if isinstance(run, functools.partial):
            # This is the native form, and it will get the parts of one device.
            run = functools.partial(run, local=True)
        call, _ = form.single(operands)
        return run_in_parts(
            functools.partial(run, form=form),
            leaves,
            sharding.mesh,
            in_specs=tuple(
                PartitionSpec(*map(places.get, axes_of(call, name, each)))
                for name, each in zip(array_names(form.tree), form.each, strict=True)
            ),
            out_specs=[each.sharding.spec for each in types],
            # Each device has the gradients of shared weights by its own rows only.
            summed=[summed if name in WEIGHTS else () for name in array_names(tree)],
        )

    def _run_native(self, *leaves: jax.Array, form: Form, local: bool) -> list[jax.Array]:
        assert self.native is not None
        types, tree = self._types(form, [jax.typeof(leaf) for leaf in leaves])
        names = array_names(tree)
        found = self.native(form, leaves, dict(zip(names, types, strict=True)), local)
        if found is None:
            return self._run_portable(*leaves, form=form)
        return [found[name] for name in names]

    def _types(self, form: Form, types: Types) -> tuple[Types, object]:
        """Returns the types of the results, with members in front, and their structure."""
        members, places = form.members(types), form.mesh_axes(types)
        single, arrays = form.single(types)
        found, tree = jax.tree.flatten(self.types(single, arrays, **dict(form.options)))
        front = () if members is None else (members,)
        inputs: PyTree = form.arguments(types)[0].steps.inputs

        def typed(name, result):
            spec = map(places.get, axes_of(single, name, bool(front)))
            return inputs.update(
                shape=(*front, *result.shape),
                dtype=jnp.dtype(result.dtype),
                weak_type=False,
                sharding=NamedSharding(inputs.sharding.mesh, PartitionSpec(*spec)),
            )

        return list(map(typed, array_names(tree), found)), tree

    def _map(
        self, leaves: Leaves, axes: Sequence[int | None], *, form: Form, devices: object
    ) -> tuple[list[jax.Array], list[int]]:
        """Maps the operation as `jax.vmap` asks; the results have the mapped axis in front."""
        mapped = [axis is not None for axis in axes]
        leaves = [
            leaf if axis is None else jnp.moveaxis(leaf, axis, 0)
            for leaf, axis in zip(leaves, axes, strict=True)
        ]
        size = next(leaf.shape[0] for leaf, each in zip(leaves, mapped, strict=True) if each)
        linear = linear_leaves(form.tree)
        if all(is_linear for is_linear, each in zip(linear, mapped, strict=True) if each):
            # `jax.jacrev` maps the cotangents alone. The portable form, mapped by `jax.vmap`,
            # computes everything that does not depend on them only once.
            run = functools.partial(self._run_portable, form=form)
            run = jax.vmap(run, [0 if each else None for each in mapped])
            found = run(*leaves)
        elif weights_differ(form, mapped):
            found = over_members(self.bind, form, leaves, mapped, size)
        else:
            found = over_batch(self.bind, self.result_names, form, leaves, mapped, size)
        return found, [0] * len(found)


def differentiate_portable(
    operation: Operation, form: Form, leaves: Leaves, tangents: Tangents
) -> tuple[list[jax.Array], list[jax.Array]]:
    """Computes the results of the portable form and their tangents."""
    places = [i for i, each in enumerate(tangents) if not isinstance(each, ad.Zero)]
    run = functools.partial(operation.run_with, form, leaves, places)
    at, along = ([each[place] for place in places] for each in (leaves, tangents))
    return jax.jvp(run, at, along)


def _compiled(primitive: Primitive) -> Callable[..., list[jax.Array]]:
    """Makes the function that runs a primitive outside of `jax.jit`."""

    def bind(*leaves, form, devices):
        return primitive.bind(*leaves, form=form, devices=devices)

    # JAX marks its own primitives with this attribute. Without it `jax_debug_nans` would run the
    # function again operation by operation to find a NaN, but a primitive cannot be taken apart.
    vars(bind)["_apply_primitive"] = True
    run = jax.jit(bind, static_argnames=("form", "devices"))

    def compiled(*leaves, **static):
        # Under `jax.disable_jit` there would be no program, without which a primitive cannot run.
        with jax.disable_jit(False):
            return run(*leaves, **static)

    return compiled


def _program_with_devices() -> ClosedJaxpr:
    """Makes a program that is never run, to be a parameter of our primitives.

    JAX tells the lowering of a program its devices only if it finds a primitive that asks for them
    in the program or in parameters. `custom_partitioning` asks for them, but our primitives call it
    only during lowering, which is too late. So this program contains it.
    """
    identity = custom_partitioning(lambda x: x)
    identity.def_partition(partition=lambda *_: None, sharding_rule="i -> i")
    return jax.make_jaxpr(identity)(jax.ShapeDtypeStruct((1,), jnp.float32))


_DEVICES = _program_with_devices()
