"""Runs on several hosts: joins JAX's distributed runtime, and shards arrays over all devices."""

import os
from typing import TypeVar

import jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec


Tree = TypeVar("Tree")

# The environment variables of JAX, Slurm and Open MPI that hold the number of processes.
_COUNTS = ("JAX_NUM_PROCESSES", "SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")


def join() -> None:
    """Joins the other processes of this run, if the environment names more than one process.

    The environment variables are `JAX_COORDINATOR_ADDRESS` (host:port of process 0),
    `JAX_NUM_PROCESSES` and `JAX_PROCESS_ID`. JAX asks Slurm or Open MPI for those that are not set.
    This must be called before anything is computed.

    Raises:
        RuntimeError: the other processes cannot be reached.
        ValueError: an environment variable is malformed or missing.
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
    """Returns the sharding of a batch over the devices of all processes.

    Returns:
        The sharding of arrays `[b, ...]` by their rows; None if there is one process.
    """
    return None if jax.process_count() == 1 else NamedSharding(_mesh(), PartitionSpec("data"))


def everywhere() -> NamedSharding | None:
    """Returns the sharding of arrays that are copied to every device; None for one process."""
    return None if jax.process_count() == 1 else NamedSharding(_mesh(), PartitionSpec())


def local(tree: Tree) -> Tree:
    """Returns this process' copies of arrays that are copied to every device."""
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
