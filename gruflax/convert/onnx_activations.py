"""Which activation of gruflax is which activation of ONNX, with which arguments."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gruflax.convert.weights import Fields
from gruflax.functional.activations import Function, get_activation, hard_sigmoid_v1
from gruflax.keras_names import activations


class Activation(NamedTuple):
    """An activation of an ONNX node. Arguments that it does not take are None."""

    name: str
    alpha: float | None = None
    beta: float | None = None


# The defaults of the arguments alpha and beta, for each activation those that it takes.
_DEFAULTS = {
    "Affine": (1.0, 0.0),
    "Elu": (1.0,),
    "HardSigmoid": (0.2, 0.5),
    "LeakyRelu": (0.01,),
    "Relu": (),
    "ScaledTanh": (1.0, 1.0),
    "Sigmoid": (),
    "Softplus": (),
    "Softsign": (),
    "Tanh": (),
    "ThresholdedRelu": (1.0,),
}

# The activations that both ONNX and Keras have a name for.
_NAMED = {
    Activation("Affine", 1.0, 0.0): "linear",
    Activation("Elu", 1.0): "elu",
    Activation("HardSigmoid", 1 / 6, 0.5): "hard_sigmoid",
    Activation("HardSigmoid", 0.2, 0.5): hard_sigmoid_v1,
    Activation("LeakyRelu", 0.2): "leaky_relu",
    Activation("Relu"): "relu",
    Activation("Sigmoid"): "sigmoid",
    Activation("Softplus"): "softplus",
    Activation("Softsign"): "softsign",
    Activation("Tanh"): "tanh",
}


def from_onnx_activations(attributes: Fields, directions: int) -> list[dict[str, str | Function]]:
    """Reads the activations of a GRU node."""
    names = [name.decode() for name in attributes.get("activations", ())]
    names = names or ["Sigmoid", "Tanh"] * directions
    if len(names) != 2 * directions:
        raise ValueError(f"activations must be {2 * directions} names, got {names}.")
    # ONNX ignores the case of names.
    known = {name.lower(): Activation(name, *each) for name, each in _DEFAULTS.items()}
    unknown = [name for name in names if name.lower() not in known]
    if unknown:
        raise ValueError(f"activations must be of {sorted(_DEFAULTS)}, got {unknown}.")
    alphas = _decimals(attributes, "activation_alpha")
    betas = _decimals(attributes, "activation_beta")
    found = []
    for name in names:
        own, alpha, beta = known[name.lower()]
        # One list has the alphas of all activations that take one, in order; another the betas.
        alpha = alphas.pop(0) if alphas and alpha is not None else alpha
        beta = betas.pop(0) if betas and beta is not None else beta
        found.append(_function(Activation(own, alpha, beta)))
    return [
        {"recurrent_activation": gate, "activation": candidate}
        for gate, candidate in zip(found[::2], found[1::2], strict=True)
    ]


def to_onnx_activation(identifier: str | Function | None) -> Activation:
    """Finds the activation of ONNX that computes an activation of gruflax."""
    function = get_activation(identifier)
    for activation, known in _NAMED.items():
        if get_activation(known) is function:
            return activation
    match function:
        case activations.ELU(alpha):
            return Activation("Elu", alpha)
        case activations.LeakyReLU(slope) | activations.ReLU(None, slope, 0.0):
            return Activation("LeakyRelu", slope)
        case activations.ReLU(None, 0.0, threshold):
            return Activation("ThresholdedRelu", threshold)
        case Parametric(activation):
            return activation
    names = sorted({*(each.name for each in _NAMED), "ThresholdedRelu"})
    raise ValueError(
        f"activation must be one that ONNX has, {names}, got {activations.identify(identifier)!r}."
    )


@dataclasses.dataclass(frozen=True)
class Parametric:
    """An activation of ONNX that Keras has neither a name nor a layer for.

    Attributes:
        activation: "Affine", "HardSigmoid" or "ScaledTanh" with its arguments.

    Source: ONNX's operator schema of GRU.
    """

    activation: Activation

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns an array like `x`."""
        name = self.activation.name
        alpha, beta = self.activation.alpha or 0.0, self.activation.beta or 0.0
        if name == "ScaledTanh":
            return alpha * jnp.tanh(beta * x)
        line = alpha * x + beta
        return line if name == "Affine" else jnp.clip(line, 0.0, 1.0)


def _function(activation: Activation) -> str | Function:
    """Returns Keras' name or layer of an activation, or a function with ONNX's arguments."""
    for known, name in _NAMED.items():
        # Attributes are stored in float32, so that 1/6 comes back a little changed.
        if known.name == activation.name and all(
            given == wanted or abs((given or 0.0) - (wanted or 0.0)) < 1e-6
            for given, wanted in zip(activation[1:], known[1:], strict=True)
        ):
            return name
    match activation:
        case Activation("Elu", float(alpha)):
            return activations.ELU(alpha)
        case Activation("LeakyRelu", float(alpha)):
            return activations.LeakyReLU(alpha)
        case Activation("ThresholdedRelu", float(alpha)):
            return activations.ReLU(threshold=alpha)
    return Parametric(activation)


def _decimals(attributes: Fields, name: str) -> list[float]:
    """Returns the floats of an attribute, stored in float32, as the decimals that were written."""
    return [float(str(np.float32(each))) for each in attributes.get(name, ())]
