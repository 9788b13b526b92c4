"""How an operation becomes a JAX primitive: computed, differentiated, transposed and mapped.

An operation takes a `Call` and a dictionary of further arrays, and is linear in those under
"linear". It has a portable form, written in JAX, and may have a native one: a call of the kernel,
for CPUs. Which of the two runs is decided where a program is lowered, when the platform and all
sizes are known; a program that is exported has the portable form only, for it must run where there
is no kernel.

`jax.vmap` adds an axis to some of the arrays. If the weights are the same for all, and no gradient
of them is wanted, it is one more batch axis. Otherwise the operation is one of several members:
arrays that differ from member to member have an axis of members in front, the others are shared.
The native form computes all members in one call, and the portable form is mapped by `jax.vmap`.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.custom_partitioning import custom_partitioning
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jax.sharding import NamedSharding, PartitionSpec

from gruflax.functional.call import Call
from gruflax.functional.loops.native.axes import (
    MEMBER,
    WEIGHTS,
    array_names,
    axes_of,
    batch_axis,
    linear_leaves,
)
from gruflax.functional.loops.native.form import Arrays, Form
from gruflax.functional.sharding import explicit_sharding, vary_with


class Operation:
    """A primitive with a portable and a native form.

    Attributes:
        name: of the primitive.
        types: `(call, arrays, **options)` of types -> the results' types, a pytree.
        portable: `(call, arrays, **options)` -> results like `types`.
        native: `(form, leaves, types, local)` -> `{name: result}` for all members, of `{name:
            type}`; or None where the portable form is faster. `local` says that the leaves are what
            one device has of them, as inside `jax.shard_map`.
        differentiate: `(operation, form, leaves, tangents)` -> results and their tangents, as
            leaves; None takes those of the portable form. A tangent that is zero is an `ad.Zero`.
        transpose: `(form, leaves, cotangents)` -> the cotangents of linear leaves, None for others;
            None transposes the portable form.
    """

    def __init__(
        self,
        name: str,
        types: Callable[..., Any],
        portable: Callable[..., Any],
        native: Callable[..., Any] | None = None,
        differentiate: Callable[..., Any] | None = None,
        transpose: Callable[..., Any] | None = None,
    ):
        self.types, self.portable, self.native = types, portable, native
        primitive = self.primitive = Primitive(f"gru_{name}")
        primitive.multiple_results = True
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

    def __call__(self, arguments: tuple[Call, Arrays], each: Any = None, **options: Any) -> Any:
        """Computes the results, a pytree like `types`.

        `each` is a pytree like the arguments: whether an array has an axis of members.
        """
        leaves, tree = jax.tree.flatten(arguments)
        flags = tuple(jax.tree.leaves(each)) if each else (False,) * len(leaves)
        form = Form(tree, flags, tuple(options.items()))
        _, tree = self._types(form, [jax.typeof(leaf) for leaf in leaves])
        return jax.tree.unflatten(tree, self.bind(form, leaves))

    def bind(self, form: Form, leaves: Sequence[Any]) -> list[jax.Array]:
        """Computes the results, as leaves."""
        return self.primitive.bind(*leaves, form=form, devices=_DEVICES)

    def result_names(self, form: Form, leaves: Sequence[Any]) -> list[str]:
        """Names the leaves of the results."""
        return array_names(self._types(form, [jax.typeof(leaf) for leaf in leaves])[1])

    def _run_portable(self, *leaves: Any, form: Form) -> list[jax.Array]:
        def run(*leaves):
            return jax.tree.leaves(self.portable(*form.arguments(leaves), **dict(form.options)))

        return form.mapped(run)(*leaves)

    def _transpose_portable(
        self, form: Form, leaves: Sequence[Any], cotangents: Sequence[Any]
    ) -> list[Any]:
        places = [i for i, leaf in enumerate(leaves) if ad.is_undefined_primal(leaf)]
        run = functools.partial(self.run_with, form, leaves, places)
        types = [jax.ShapeDtypeStruct(leaves[i].aval.shape, leaves[i].aval.dtype) for i in places]
        found = dict(
            zip(
                places,
                jax.linear_transpose(run, *types)(list(map(ad.instantiate_zeros, cotangents))),
                strict=True,
            )
        )
        return [found.get(place) for place in range(len(leaves))]

    def run_with(
        self, form: Form, leaves: Sequence[Any], places: Sequence[int], *others: Any
    ) -> list[jax.Array]:
        """Computes the portable form with other leaves in some places."""
        replaced = dict(zip(places, others, strict=True))
        return self._run_portable(
            *(replaced.get(place, leaf) for place, leaf in enumerate(leaves)), form=form
        )

    def _lower_native(self, context: Any, *values: Any, form: Form, devices: Any) -> Any:
        if context.module_context.lowering_parameters.for_export:
            return self._lower_portable(context, *values, form=form, devices=devices)
        local = bool(getattr(context.module_context.axis_context, "manual_axes", ()))
        run = functools.partial(self._run_native, local=local)
        return self._lower(run, context, *values, form=form)

    def _lower_portable(self, context: Any, *values: Any, form: Form, devices: Any) -> Any:
        return self._lower(self._run_portable, context, *values, form=form)

    def _lower(self, run: Callable[..., Any], context: Any, *values: Any, form: Form) -> Any:
        split = functools.partial(self._run_split, run, form)
        return mlir.lower_fun(split)(context, *values)

    def _run_split(self, run: Callable[..., Any], form: Form, *leaves: Any) -> list[jax.Array]:
        """Runs a form on each device's part, where the types tell how batch and members lie."""
        call, _ = form.arguments(leaves)
        sharding = explicit_sharding(call.steps.inputs)
        if sharding is None:
            return run(*leaves, form=form)
        operands = [jax.typeof(leaf) for leaf in leaves]
        types, tree = self._types(form, operands)
        lies = form.lies(operands)
        summed = tuple(jax.tree.leaves([lies[axis] for axis in lies if axis != MEMBER]))

        if isinstance(run, functools.partial):
            run = functools.partial(run, local=True)

        def on_each_device(*parts):
            found = run(*(vary_with(part, parts) for part in parts), form=form)
            return [
                jax.lax.psum(array, summed) if summed and name in WEIGHTS else array
                for array, name in zip(found, array_names(tree), strict=True)
            ]

        call, _ = form.single(operands)
        specs = tuple(
            PartitionSpec(*map(lies.get, axes_of(call, name, each)))
            for name, each in zip(array_names(form.tree), form.each, strict=True)
        )
        with jax.sharding.use_abstract_mesh(sharding.mesh):
            # Every device has all of what `jax.vmap` did not map.
            parts = map(jax.sharding.reshard, leaves, specs)
            return jax.shard_map(
                on_each_device,
                axis_names=set(sharding.mesh.explicit_axes),
                in_specs=specs,
                out_specs=[each.sharding.spec for each in types],
            )(*parts)

    def _run_native(self, *leaves: Any, form: Form, local: bool) -> list[jax.Array]:
        assert self.native is not None
        types, tree = self._types(form, [jax.typeof(leaf) for leaf in leaves])
        names = array_names(tree)
        found = self.native(form, leaves, dict(zip(names, types, strict=True)), local)
        if found is None:
            return self._run_portable(*leaves, form=form)
        return [found[name] for name in names]

    def _types(self, form: Form, types: Sequence[Any]) -> tuple[list[Any], Any]:
        """Returns the types of the results, with members in front, and their structure."""
        members, lies = form.members(types), form.lies(types)
        single, arrays = form.single(types)
        found, tree = jax.tree.flatten(self.types(single, arrays, **dict(form.options)))
        front = () if members is None else (members,)
        inputs: Any = form.arguments(types)[0].steps.inputs

        def typed(name, result):
            spec = map(lies.get, axes_of(single, name, bool(front)))
            return inputs.update(
                shape=(*front, *result.shape),
                dtype=jnp.dtype(result.dtype),
                weak_type=False,
                sharding=NamedSharding(inputs.sharding.mesh, PartitionSpec(*spec)),
            )

        return list(map(typed, array_names(tree), found)), tree

    # What `jax.vmap` makes of it.

    def _map(self, leaves: Any, axes: Any, *, form: Form, devices: Any) -> Any:
        mapped = [axis is not None for axis in axes]
        leaves = [
            jnp.moveaxis(leaf, axis, 0) if each else leaf
            for leaf, axis, each in zip(leaves, axes, mapped, strict=True)
        ]
        size = next(leaf.shape[0] for leaf, each in zip(leaves, mapped, strict=True) if each)
        names, linear = array_names(form.tree), linear_leaves(form.tree)
        if all(is_linear for is_linear, each in zip(linear, mapped, strict=True) if each):
            # Everything else is the same for all, and computed once.
            run = functools.partial(self._run_portable, form=form)
            run = jax.vmap(run, [0 if each else None for each in mapped])
            found = run(*leaves)
        elif self._by_weights(form, names, mapped):
            found = self._map_members(form, leaves, mapped, size)
        else:
            found = self._map_batch(form, leaves, mapped, size)
        return found, [0] * len(found)

    def _by_weights(self, form: Form, names: Sequence[str], mapped: Sequence[bool]) -> bool:
        wanted = dict(form.options).get("wanted", ())
        return "params" in wanted or any(
            name in WEIGHTS for name, each in zip(names, mapped, strict=True) if each
        )

    def _map_members(
        self, form: Form, leaves: Sequence[Any], mapped: Sequence[bool], size: int
    ) -> list[jax.Array]:
        before = form.each
        each = tuple(a or b for a, b in zip(mapped, before, strict=True))
        form = form._replace(each=each)
        if not any(before):
            return self.bind(form, leaves)
        # Members of members: one axis has all of them.
        flags = zip(leaves, mapped, before, strict=True)
        shape = size, next(leaf.shape[by_size] for leaf, by_size, each in flags if each)

        def merged(leaf, by_size, by_members):
            if not by_size and not by_members:
                return leaf
            leaf = leaf if by_size else leaf[None]
            leaf = leaf if by_members else leaf[:, None]
            leaf = jnp.broadcast_to(leaf, (*shape, *leaf.shape[2:]))
            return leaf.reshape(math.prod(shape), *leaf.shape[2:])

        found = self.bind(form, list(map(merged, leaves, mapped, before)))
        return [leaf.reshape(*shape, *leaf.shape[1:]) for leaf in found]

    def _map_batch(
        self, form: Form, leaves: Sequence[Any], mapped: Sequence[bool], size: int
    ) -> list[jax.Array]:
        time_major = form.arguments(leaves)[0].time_major

        def folded(leaf, name, by_size, by_members):
            if name in WEIGHTS:
                return leaf
            axis = batch_axis(name, time_major) + by_members
            if by_size:
                return jnp.moveaxis(leaf, 0, axis)
            shape = (*leaf.shape[:axis], size, *leaf.shape[axis:])
            return jnp.broadcast_to(jnp.expand_dims(leaf, axis), shape)

        leaves = list(map(folded, leaves, array_names(form.tree), mapped, form.each))
        found = self.bind(form, leaves)
        _, tree = self._types(form, [jax.typeof(leaf) for leaf in leaves])
        return [
            jnp.moveaxis(leaf, batch_axis(name, time_major) + any(form.each), 0)
            for leaf, name in zip(found, array_names(tree), strict=True)
        ]


def differentiate_portable(
    operation: Operation, form: Form, leaves: Sequence[Any], tangents: Sequence[Any]
) -> tuple[list[jax.Array], list[jax.Array]]:
    """Computes the results of the portable form and their tangents."""
    places = [i for i, each in enumerate(tangents) if not isinstance(each, ad.Zero)]
    run = functools.partial(operation.run_with, form, leaves, places)
    at, along = ([each[place] for place in places] for each in (leaves, tangents))
    return jax.jvp(run, at, along)


def _compiled(primitive: Primitive) -> Callable[..., Any]:
    """Makes what runs a primitive outside of `jax.jit`."""

    def bind(*leaves, form, devices):
        return primitive.bind(*leaves, form=form, devices=devices)

    # As JAX marks its own: where it looks for NaN, there is nothing smaller in here to run.
    vars(bind)["_apply_primitive"] = True
    run = jax.jit(bind, static_argnames=("form", "devices"))

    def compiled(*leaves, **static):
        # A primitive has nothing else to run than its program.
        with jax.disable_jit(False):
            return run(*leaves, **static)

    return compiled


def _program_with_devices() -> Any:
    """Makes a program for the parameters of our primitives, which is never run.

    JAX tells the lowering which devices a program is for only if it finds a primitive in it, or in
    its parameters, that asks for them. `custom_partitioning` does; ours call that when they are
    lowered, which is too late to be found.
    """
    identity = custom_partitioning(lambda x: x)
    identity.def_partition(partition=lambda *_: None, sharding_rule="i -> i")
    return jax.make_jaxpr(identity)(jax.ShapeDtypeStruct((1,), jnp.float32))


_DEVICES = _program_with_devices()
