"""What the modules do beyond Flax': they can be lifted, and tell their constraints."""

import contextlib
import contextvars
import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from flax import linen as nn

from gruflax.functional.checks import check_flags
from gruflax.layers.fields import option


Path = tuple[str, ...]
Constraint = Callable[[jax.Array], jax.Array]
# By path: the constraint of each weight of a GRU, None where it has none, and the weight's shape.
Notes = dict[Path, tuple[Constraint | None, tuple[int, ...]]]

_NOTES: contextvars.ContextVar[Notes | None] = contextvars.ContextVar("constraints", default=None)


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class StaticFlag:
    """A bool that `nn.remat` and `nn.jit`, which trace keyword arguments, leave as it is."""

    value: bool

    def __bool__(self) -> bool:
        return self.value


def as_flag(name: str, value: object) -> bool:
    """Returns the bool of a flag of a call, or raises a TypeError; None is False, as in Keras."""
    value = value.value if isinstance(value, StaticFlag) else value
    if value is None:
        return False
    check_flags(**{name: value})
    return bool(value)


class Module(nn.Module):
    """The base of all gruflax modules.

    A class that `nn.remat`, `nn.jit` or another lifted transformation makes of one takes its flags,
    such as `training`, as the plain class does.
    """

    def __init_subclass__(cls, **kwargs: Any):
        super().__init_subclass__(**kwargs)
        own = cls.__dict__.get("__call__")
        if own is None:
            return
        calls = (vars(base).get("__call__") for base in cls.__mro__[1:])
        inherited = next((call for call in calls if call is not None), None)
        # Flax's transformations wrap the method that they lift; a method of the user's is another.
        if inherited is not None and inspect.unwrap(own) is inspect.unwrap(inherited):
            cls.__call__ = _with_static_flags(own)

    def param(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Declares a parameter, as in Flax, and notes its constraint where one is looked for."""
        value = super().param(name, *args, **kwargs)
        notes = _NOTES.get()
        if notes is not None and self.scope is not None and hasattr(self, "kernel_constraint"):
            constraint = option(self, name, "constraint")
            notes[(*self.scope.path, name)] = constraint, np.shape(nn.unbox(value))
        return value


@contextlib.contextmanager
def noted_constraints() -> Iterator[Notes]:
    """Collects the constraint of each weight of a GRU that is declared meanwhile."""
    notes: Notes = {}
    token = _NOTES.set(notes)
    try:
        yield notes
    finally:
        _NOTES.reset(token)


def _with_static_flags(call: Callable[..., Any]) -> Callable[..., Any]:
    def static(value: Any) -> Any:
        return StaticFlag(value) if isinstance(value, bool) else value

    @functools.wraps(call)
    def lifted(self, *args, **kwargs):
        args = tuple(map(static, args))
        return call(self, *args, **{name: static(value) for name, value in kwargs.items()})

    return lifted
