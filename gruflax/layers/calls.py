"""How a layer is called: inputs by position, everything else by keyword."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from flax import linen as nn, nnx


Method = TypeVar("Method", bound=Callable[..., Any])


def other_system(module: Any) -> str:
    """Says of a module which of Flax' two systems it is of, for the errors of the other one."""
    if isinstance(module, nnx.Module):
        return ": this is an NNX module, for gruflax.nnx"
    return ": this is a linen module, for gruflax" if isinstance(module, nn.Module) else ""


def by_keyword(call: Method) -> Method:
    """Wraps `__call__(self, inputs, *, ...)`: what else comes by position is told its keyword."""
    parameters = inspect.signature(call).parameters.values()
    names = [each.name for each in parameters if each.kind is inspect.Parameter.KEYWORD_ONLY]

    @functools.wraps(call)
    def checked(self, *args, **kwargs):
        if len(args) > 1:
            raise TypeError(
                f"{type(self).__name__} takes its inputs by position and {', '.join(names)} by "
                f"keyword, such as {names[0]}={names[0]}; got {len(args)} by position."
            )
        if "training" in kwargs and "training" not in names:
            raise TypeError(
                f"{type(self).__name__} has no argument training: give deterministic=, or set it "
                "by train() and eval()."
            )
        return call(self, *args, **kwargs)

    return checked  # pyright: ignore[reportReturnType]
