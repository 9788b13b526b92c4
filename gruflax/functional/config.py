"""The options of a GRU, which are static under `jax.jit`."""

import dataclasses
import numbers
from collections.abc import Callable

import jax

from gruflax.functional.activations import named_activation
from gruflax.functional.checks import brief, check_flags


Activation = str | Callable[[jax.Array], jax.Array] | None

RATES = ("dropout", "recurrent_dropout", "recurrent_weight_dropout", "zoneout")


@dataclasses.dataclass(frozen=True)
class GRUConfig:
    """The options of a GRU: frozen, hashable, and static under `jax.jit`.

    Args:
        activation: activation of the candidate: a Keras name, a callable, or None for linear.
            Default "tanh".
        recurrent_activation: activation of the update and the reset gate, given in the same way.
            Default "sigmoid".
        use_bias: whether `params` holds a bias. Default True.
        reset_after: True applies the reset gate after the recurrent product, as cuDNN, torch and
            Keras 3 do (bias `[2, 3u]`); False applies it to the state before the product, as the
            paper and Keras 1 do (bias `[3u]`). Default True.
        dropout: rate in [0, 1] at which input features are dropped, one mask for all steps.
            Default 0.
        recurrent_dropout: rate in [0, 1] at which state units are dropped, one mask for all
            steps. Default 0.
        recurrent_weight_dropout: rate in [0, 1] at which entries of the recurrent kernel are
            dropped, the same at every step and in every sequence: DropConnect. Default 0.
        zoneout: rate in [0, 1] at which a unit keeps its state instead of taking the new one, drawn
            anew at every step; at inference the new state is the expectation of that. Default 0.
        learn_initial_state: whether `params` holds an `initial_state` [u], with which a sequence
            begins if the call gives no other state. Default False.
        implementation: 1 gives each gate a dropout mask of its own; 2, the default, uses one mask
            for all gates. With recurrent dropout it is always 1, as in Keras 3.8 and TensorFlow
            2.2. 0, from TensorFlow 1, means 1.

    Raises:
        TypeError: an activation is neither a name, a hashable callable nor None, a rate is no
            number, or a flag no bool.
        ValueError: an activation's name is unknown, a rate is outside [0, 1], or
            `implementation` is none of 0, 1 and 2.

    Sources: Cho et al., "Learning Phrase Representations using RNN Encoder-Decoder for Statistical
    Machine Translation", arXiv:1406.1078 (v1 resets after the product, v3 before it); Keras 3.
    DropConnect: Wan et al., "Regularization of Neural Networks using DropConnect", ICML 2013, on
    recurrent weights as in Merity et al., arXiv:1708.02182. Zoneout: Krueger et al.,
    arXiv:1606.01305. Learned initial states: Wenke and Fleming, arXiv:1902.02604.
    """

    activation: Activation = "tanh"
    recurrent_activation: Activation = "sigmoid"
    use_bias: bool = True
    reset_after: bool = True
    dropout: float = 0.0
    recurrent_dropout: float = 0.0
    implementation: int = 2
    recurrent_weight_dropout: float = 0.0
    zoneout: float = 0.0
    learn_initial_state: bool = False

    def __post_init__(self):
        for name in ("activation", "recurrent_activation"):
            object.__setattr__(self, name, named_activation(getattr(self, name), name))
        for name in RATES:
            object.__setattr__(self, name, checked_rate(name, getattr(self, name)))
        for name in ("use_bias", "reset_after", "learn_initial_state"):
            check_flags(**{name: getattr(self, name)})
        if isinstance(self.implementation, bool) or self.implementation not in (0, 1, 2):
            raise ValueError(f"implementation must be 1 or 2, got {self.implementation!r}.")
        # TensorFlow 1 has 0, which later versions treat as 1.
        if self.recurrent_dropout or self.implementation == 0:
            object.__setattr__(self, "implementation", 1)

    @property
    def dropout_mask_count(self) -> int:
        """How many dropout masks of each kind are drawn: one for all gates, or one per gate."""
        return 3 if self.implementation == 1 else 1


def checked_rate(name: str, rate: float) -> float:
    """Returns a rate as a float, or raises a TypeError or ValueError that names it."""
    if isinstance(rate, bool) or not isinstance(rate, numbers.Real):
        raise TypeError(f"{name} must be a number in [0, 1], got {brief(rate)}.")
    if not 0.0 <= rate <= 1.0:
        raise ValueError(f"{name} must be in [0, 1], got {rate}.")
    return float(rate)


def check_config(config: GRUConfig) -> None:
    """Raises a TypeError unless `config` is a GRUConfig."""
    if not isinstance(config, GRUConfig):
        hint = ": GRUConfig(**config)" if isinstance(config, dict) else ""
        raise TypeError(f"config must be a gruflax.GRUConfig, got {brief(config)}{hint}.")
