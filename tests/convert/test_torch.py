"""torch's GRU: by arrays recorded with it, and live where it is installed."""

import importlib.util
import pathlib

import jax
import numpy as np
import pytest
from flax import linen as nn

import gruflax
from gruflax import convert
from gruflax.linen import Bidirectional, Stack


GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "torch213.npz"

needs_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None,
    reason="torch is not installed: only what was recorded with it is tested",
)


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as file:
        return dict(file)


def recorded(golden, kind):
    return {
        name.split("/")[1]: array for name, array in golden.items() if name.startswith(f"{kind}/")
    }


def test_recorded_stack_of_pairs(golden, equal, close):
    state_dict = recorded(golden, "gru")
    module, variables = convert.from_torch(state_dict, dropout=0.1)
    assert isinstance(module, Stack) and module.dropout == 0.1
    close(module.apply(variables, golden["gru_x"]), golden["gru_y"])
    equal(convert.to_torch(module, variables), state_dict)


def test_recorded_states(golden, close):
    module, variables = convert.from_torch(
        {
            name: array
            for name, array in recorded(golden, "gru").items()
            if "_l0" in name and "reverse" not in name
        },
        return_state=True,
    )
    outputs, state = module.apply(variables, golden["gru_x"])
    close((outputs[-1], state), (golden["gru_h"][0],) * 2)


def test_recorded_cell(golden, equal, close):
    state_dict = recorded(golden, "cell")
    params = convert.from_torch(state_dict)
    state, _ = gruflax.gru_cell_step(params, golden["cell_h"], golden["gru_x"][0])
    close(state, golden["cell_y"])
    equal(convert.to_torch(params), state_dict)
    equal(convert.to_torch(gruflax.GRUCell(5), {"params": params}), state_dict)


def test_prefix_and_batch_first(golden, close):
    state_dict = {f"encoder.gru.{k}": v for k, v in recorded(golden, "gru").items()}
    state_dict["head.weight"] = np.zeros((2, 2), np.float32)
    module, variables = convert.from_torch(state_dict, prefix="encoder.gru.", batch_first=True)
    close(module.apply(variables, golden["gru_x"].swapaxes(0, 1)), golden["gru_y"].swapaxes(0, 1))


@needs_torch
def test_live(x, equal, close):
    import torch

    torch.manual_seed(1)
    for layers, both, first, bias in (
        (1, False, True, True),
        (1, True, False, False),
        (2, False, False, False),
        (2, True, True, True),
    ):
        theirs = torch.nn.GRU(4, 5, layers, bias=bias, batch_first=first, bidirectional=both)
        module, variables = convert.from_torch(theirs)
        state_dict = {name: value.numpy() for name, value in theirs.state_dict().items()}
        back = convert.to_torch(module, variables)
        equal(back, state_dict)
        close(module.apply(variables, x), theirs(torch.from_numpy(x))[0].detach().numpy())
        again = torch.nn.GRU(4, 5, layers, bias=bias, batch_first=first, bidirectional=both)
        again.load_state_dict({name: torch.from_numpy(value) for name, value in back.items()})
        assert torch.equal(again(torch.from_numpy(x))[0], theirs(torch.from_numpy(x))[0])
    cell = torch.nn.GRUCell(4, 5)
    params = convert.from_torch(cell)
    state = np.full((3, 5), 0.3, np.float32)
    wanted = cell(torch.from_numpy(x[:, 0]), torch.from_numpy(state)).detach().numpy()
    close(gruflax.gru_cell_step(params, state, x[:, 0])[0], wanted)


@needs_torch
def test_live_dropout_between_layers():
    import torch

    module, _ = convert.from_torch(torch.nn.GRU(4, 5, 2, dropout=0.25))
    assert module.dropout == 0.25


def test_what_torch_does_not_have(x, drawn):
    def refused(module, message):

        variables = drawn(module.init(jax.random.key(0), x))
        with pytest.raises(ValueError, match=message):
            convert.to_torch(module, variables)

    refused(gruflax.GRU(5, reset_after=False), "torch has no GRU with reset_after=False")
    refused(gruflax.GRU(5, activation="relu"), "torch has no GRU with activation='relu'")
    refused(
        gruflax.GRU(5, recurrent_activation="hard_sigmoid"),
        "torch has no GRU with recurrent_activation='hard_sigmoid'",
    )
    refused(gruflax.GRU(5, go_backwards=True), "torch has no GRU that goes backwards first")
    refused(
        Bidirectional(gruflax.GRU(5), merge_mode="sum"),
        "torch has no GRU with merge_mode='sum', only 'concat'",
    )
    refused(
        Stack([gruflax.GRU(5, return_sequences=True), gruflax.GRU(3)]),
        r"torch has one number of units.*got \(units, use_bias\) \[\(3, True\), \(5, True\)\]",
    )


def test_errors(golden):
    with pytest.raises(TypeError, match="source must be a torch module or its state_dict, got int"):
        convert.from_torch(3)
    with pytest.raises(ValueError, match=r"source must hold weight_ih_l0 .* See prefix"):
        convert.from_torch({"gru.weight_ih_l0": np.zeros((15, 4))})
    state_dict = recorded(golden, "gru")
    del state_dict["bias_hh_l1"]
    with pytest.raises(ValueError, match=r"the state_dict must hold .*'bias_hh_l1'\]"):
        convert.from_torch(state_dict)
    cell = recorded(golden, "cell")
    with pytest.raises(ValueError, match=r"shapes of a GRU, got .*'weight_hh': \(15, 4\)"):
        convert.from_torch(cell | {"weight_hh": cell["weight_hh"][:, :4]})
    with pytest.raises(TypeError, match=r"params of a cell have no fields, got \['activation'\]"):
        convert.from_torch(cell, activation="relu")
    with pytest.raises(TypeError, match="module must be a gruflax.GRU, .*got Dense"):
        convert.to_torch(nn.Dense(3), {"params": {}})
