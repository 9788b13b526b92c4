"""Several hosts: JAX's distributed runtime from the environment, and arrays over all devices."""

import os
from typing import TypeVar

import jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec


Tree = TypeVar("Tree")

# How many processes there are: by JAX's own names, and as Slurm's and Open MPI's launchers say it.
_COUNTS = ("JAX_NUM_PROCESSES", "SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")


def join() -> None:
    """Joins the other processes of this run, where the environment says that there are any.

    The environment says so by `JAX_COORDINATOR_ADDRESS` (host:port of process 0),
    `JAX_NUM_PROCESSES` and `JAX_PROCESS_ID`; JAX finds out from Slurm or Open MPI what is not set.
    This must be called before anything is computed.

    Raises:
        RuntimeError: the other processes cannot be reached.
        ValueError: what the environment says is malformed or not enough.
    """
    count = next((given for given in map(_given, _COUNTS) if given is not None), None)
    if count == 0:
        raise ValueError("the number of processes must be positive, got 0.")
    address = os.environ.get("JAX_COORDINATOR_ADDRESS")
    if address is not None:
        _check_address(address)
    if address is not None and count is None:
        raise ValueError("JAX_NUM_PROCESSES must be set where JAX_COORDINATOR_ADDRESS is.")
    if count is not None and count > 1 and not jax.distributed.is_initialized():
        jax.distributed.initialize(
            num_processes=_given("JAX_NUM_PROCESSES"), process_id=_given("JAX_PROCESS_ID")
        )


def over_batch() -> NamedSharding | None:
    """Returns how a batch lies over the devices of all processes; None where there is one process.

    Returns:
        The sharding of arrays `[b, ...]` by their rows.
    """
    return None if jax.process_count() == 1 else NamedSharding(_mesh(), PartitionSpec("data"))


def everywhere() -> NamedSharding | None:
    """Returns the sharding of arrays that every device has; None where there is one process."""
    return None if jax.process_count() == 1 else NamedSharding(_mesh(), PartitionSpec())


def local(tree: Tree) -> Tree:
    """Returns this process' copies of arrays that every device has."""
    return jax.tree.map(lambda array: array.addressable_data(0), tree)


def _mesh() -> jax.sharding.Mesh:
    return jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))


def _check_address(address: str) -> None:
    host, _, port = address.rpartition(":")
    if not host or not (port.isascii() and port.isdecimal() and 0 < int(port) < 2**16):
        raise ValueError(
            "JAX_COORDINATOR_ADDRESS must be host:port, with a port from 1 to 65535, got "
            f"{address!r}."
        )


def _given(name: str) -> int | None:
    text = os.environ.get(name)
    if text is not None and not (text.isascii() and text.isdecimal()):
        raise ValueError(f"{name} must be an integer, got {text!r}.")
    return None if text is None else int(text)
