"""The losses that layers sow."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp


def total_loss(variables: Mapping[str, Any]) -> jax.Array:
    """Sums what layers sowed into the collection "losses", to be added to a training loss.

    Args:
        variables: as `model.apply(variables, x, mutable=["losses"])` returns them second.

    Returns:
        A scalar; 0 where nothing was sown.
    """
    leaves = jax.tree.leaves(variables.get("losses", {}))
    return sum((jnp.sum(leaf) for leaf in leaves), start=jnp.zeros(()))
