"""How a layer is called: inputs by position, everything else by keyword."""

from flax import linen as nn, nnx


def refuse_positional(layer: object, by_position: tuple[object, ...], first: str = "mask") -> None:
    """Raises a TypeError where a call of a layer has more than its inputs by position."""
    if by_position:
        raise TypeError(
            f"{type(layer).__name__} takes its inputs by position and everything else by keyword, "
            f"such as {first}={first}; got {len(by_position) + 1} by position."
        )


def refuse_linen_ways(layer: object, training: object = None) -> None:
    """Raises a TypeError where an NNX layer is called with `training`, or inside a linen module."""
    linen = nnx.bridge.wrappers.current_linen_module()
    if linen is not None and not isinstance(linen, nnx.bridge.ToLinen):
        raise TypeError(
            f"{type(layer).__name__} is an NNX module: in {type(linen).__name__}, a linen module, "
            "its weights would be no parameters; take the layer of gruflax instead of gruflax.nnx, "
            "or wrap it by nnx.bridge.ToLinen."
        )
    if training is not None:
        raise TypeError(
            f"{type(layer).__name__} has no argument training: give deterministic=, or set it by "
            "train() and eval()."
        )


def other_system(module: object, kind: type) -> str:
    """Says of a module that it is of the other one of Flax's two systems than a `kind` is."""
    linen = issubclass(kind, nn.Module)
    if linen and isinstance(module, nnx.Module):
        return ": this is an NNX module, for gruflax.nnx"
    other = not linen and isinstance(module, nn.Module)
    return ": this is a linen module, for gruflax" if other else ""
