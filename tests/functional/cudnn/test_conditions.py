"""When cuDNN can run, and what is said where it cannot."""

import jax
import numpy as np
import pytest

import gruflax
from gruflax.functional import DropoutMasks
from gruflax.functional.cudnn.conditions import loop_for, unmet_cudnn_conditions


NONE = DropoutMasks()
CALL = {"unroll": False, "resets": False}

UNMET = {
    "activation must be 'tanh'": ({"activation": "relu"}, NONE, {}),
    "recurrent_activation must be 'sigmoid'": ({"recurrent_activation": "tanh"}, NONE, {}),
    "use_bias must be True": ({"use_bias": False}, NONE, {}),
    "reset_after must be True": ({"reset_after": False}, NONE, {}),
    "recurrent_dropout must be 0": ({"recurrent_dropout": 0.1}, NONE, {}),
    "dropout must have one mask for all gates, as with implementation 2": (
        {"dropout": 0.1},
        DropoutMasks(inputs=np.ones((3, 2, 4))),
        {},
    ),
    "zoneout must be 0": ({"zoneout": 0.1}, NONE, {}),
    "unroll must be False": ({}, NONE, {"unroll": True}),
    "reset must be None": ({}, NONE, {"resets": True}),
}


@pytest.mark.parametrize("clause", UNMET)
def test_one_unmet(clause, cudnn):
    options, masks, call = UNMET[clause]
    found = unmet_cudnn_conditions(gruflax.GRUConfig(**options), masks, **{**CALL, **call})
    assert found == [clause]


def test_all_met(cudnn):
    masks = DropoutMasks(inputs=np.ones((1, 2, 4)))
    assert unmet_cudnn_conditions(gruflax.GRUConfig(dropout=0.1), masks, **CALL) == []


def test_without_a_gpu():
    x = np.ones((2, 3, 4), "float32")
    config = gruflax.GRUConfig(reset_after=False)
    params = gruflax.init_gru_params(jax.random.key(0), 4, 5, config)
    with pytest.raises(ValueError, match="reset_after must be True; the platform must be a GPU"):
        gruflax.gru_sequence(params, x, config=config, loop="cudnn")


def test_use_cudnn():
    assert loop_for(True, "scan") == "cudnn"
    assert loop_for("auto", "scan") == loop_for(False, "scan") == "scan"
    with pytest.raises(ValueError, match="use_cudnn must be one of .*got 'yes'"):
        loop_for("yes", "scan")
