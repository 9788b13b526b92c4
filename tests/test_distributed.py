"""Many hosts: two processes on this machine do what one does."""

import os
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest
from flax import serialization

from gruflax import hosts
from gruflax.datasets import load_japanese_vowels
from gruflax.demo import command, training


UNITS, ROWS = 8, 28
NAMES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
TIMEOUT = 120

# Each process feeds its half of the batch; the axis "data" goes over the processes.
TRAIN = """
import functools, pathlib, sys

import jax
from flax import serialization
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

from gruflax import hosts
from gruflax.datasets import load_japanese_vowels
from gruflax.demo import training

folder, units, rows = pathlib.Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
hosts.join()
assert (jax.process_count(), jax.device_count()) == (2, 4)
split = training.standardise(load_japanese_vowels()).train
state = training.create_state(jax.random.key(0), units, 1, split)
mesh = jax.make_mesh((2, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
feed = functools.partial(jax.make_array_from_process_local_data, NamedSharding(mesh, P("data")))
begin, half = jax.process_index() * rows // 2, rows // 2
batch = jax.tree.map(lambda array: feed(array[begin : begin + half]), split)
assert batch.values.shape[0] == rows and not batch.values.is_fully_addressable
for name, spec in {"replicated": P(), "sharded": P("model")}.items():
    lies = lambda leaf: NamedSharding(mesh, spec if leaf.ndim == 2 else P())
    shardings = jax.tree.map(lies, state)
    step = jax.jit(training.train_step, out_shardings=(shardings, None))
    new, loss = step(jax.device_put(state, shardings), batch, jax.random.key(1))
    kernel = new.params["gru"]["recurrent_kernel"]
    assert kernel.addressable_shards[0].data.shape[0] == (units if spec == P() else units // 2)
    params = jax.jit(lambda params: params, out_shardings=hosts.everywhere())(new.params)
    if jax.process_index() == 0:
        (folder / name).write_bytes(serialization.to_bytes({"params": params, "loss": loss}))
"""


@pytest.fixture(autouse=True)
def standard_promotion():
    """Lets Optax raise a float to an integer power, which strict promotion forbids."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def run_twice(arguments):
    """Runs Python in two processes that know of each other, and returns what each printed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    common = {**os.environ, "JAX_NUM_CPU_DEVICES": "2", "JAX_COORDINATOR_BIND_ADDRESS": address}
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "error", *arguments],
            env={**common, **dict(zip(NAMES, (address, "2", str(index)), strict=True))},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for index in range(2)
    ]
    try:
        printed = [process.communicate(timeout=TIMEOUT)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(printed)
    return printed


def assert_close(found, wanted):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), found, wanted)


def test_a_training_step_is_that_of_one_process(tmp_path):
    """Data parallel, with whole weights and with weights sharded over a model axis."""
    split = training.standardise(load_japanese_vowels()).train
    state = training.create_state(jax.random.key(0), UNITS, 1, split)
    batch = jax.tree.map(lambda array: array[:ROWS], split)
    new, loss = jax.jit(training.train_step)(state, batch, jax.random.key(1))
    wanted = {"params": new.params, "loss": loss}
    run_twice(["-c", TRAIN, str(tmp_path), str(UNITS), str(ROWS)])
    for name in ("replicated", "sharded"):
        assert_close(serialization.from_bytes(wanted, (tmp_path / name).read_bytes()), wanted)
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), new.params, state.params)
    assert min(jax.tree.leaves(moved)) > 1e-4


def test_the_demo_takes_its_processes_from_the_environment(tmp_path):
    wanted = training.train(UNITS, epochs=1, seed=2).params
    path = tmp_path / "speakers.msgpack"
    options = ["--units", str(UNITS), "--epochs", "1", "--seed", "2", "--output", str(path)]
    first, second = run_twice(["-m", "gruflax.demo", *options])
    assert "4 in 2 processes" in first and "parameters are saved" in first
    assert "accuracy" not in second and "saved" not in second
    assert_close(serialization.from_bytes(wanted, path.read_bytes()), wanted)


@pytest.mark.parametrize(
    ("environment", "complaint"),
    [
        ({"JAX_NUM_PROCESSES": "two"}, "JAX_NUM_PROCESSES must be an integer, got 'two'."),
        (
            {"JAX_COORDINATOR_ADDRESS": "there:1234"},
            "JAX_NUM_PROCESSES must be set where JAX_COORDINATOR_ADDRESS is.",
        ),
        (
            {"JAX_COORDINATOR_ADDRESS": "there", "JAX_NUM_PROCESSES": "2"},
            "JAX_COORDINATOR_ADDRESS must be host:port, with a port from 1 to 65535, got 'there'.",
        ),
        (
            {"JAX_COORDINATOR_ADDRESS": "there:70000", "JAX_NUM_PROCESSES": "2"},
            "JAX_COORDINATOR_ADDRESS must be host:port, with a port from 1 to 65535, got "
            "'there:70000'.",
        ),
        ({"JAX_NUM_PROCESSES": "0"}, "the number of processes must be positive, got 0."),
        (
            {"JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "-1"},
            "JAX_PROCESS_ID must be an integer, got '-1'.",
        ),
    ],
)
def test_a_wrong_environment_is_one_clear_line(monkeypatch, capsys, environment, complaint):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as exit_info:
        command.main([])
    assert exit_info.value.code == 2
    line = f"gruflax.demo: error: joining the other processes: {complaint}\n"
    assert capsys.readouterr().err == line


@pytest.mark.parametrize(
    ("environment", "wanted"),
    [
        ({}, []),
        ({"JAX_NUM_PROCESSES": "1", "SLURM_STEP_NUM_TASKS": "4"}, []),
        ({"JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "1"}, [(2, 1)]),
        ({"SLURM_STEP_NUM_TASKS": "4"}, [(None, None)]),
    ],
)
def test_join_leaves_to_jax_what_is_not_set(monkeypatch, environment, wanted):
    calls = []
    monkeypatch.setattr(
        jax.distributed,
        "initialize",
        lambda num_processes, process_id: calls.append((num_processes, process_id)),
    )
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    hosts.join()
    assert calls == wanted


def test_one_process_shards_nothing():
    assert hosts.over_batch() is None and hosts.everywhere() is None
    tree = {"a": jax.numpy.arange(3)}
    np.testing.assert_array_equal(hosts.local(tree)["a"], tree["a"])
