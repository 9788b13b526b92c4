"""When cuDNN can run, and what is said where it cannot."""

import types

import jax
import numpy as np
import pytest

import gruflax
from gruflax.functional import DropoutMasks
from gruflax.functional.call import make_call
from gruflax.functional.loops.cudnn import conditions
from gruflax.functional.loops.cudnn.conditions import unmet_conditions


X = np.ones((2, 3, 4), np.float32)
DROPPED = {"dropout_masks": DropoutMasks(inputs=np.ones((3, 2, 4), np.float32))}

# What is unmet: the configuration, the call, and whether it is unrolled.
UNMET = {
    "activation must be 'tanh'": ({"activation": "relu"}, {}, False),
    "recurrent_activation must be 'sigmoid'": ({"recurrent_activation": "tanh"}, {}, False),
    "use_bias must be True": ({"use_bias": False}, {}, False),
    "reset_after must be True": ({"reset_after": False}, {}, False),
    "recurrent_dropout must be 0": ({"recurrent_dropout": 0.1}, {}, False),
    "dropout must have one mask for all gates, as with implementation 2": (
        {"dropout": 0.1},
        DROPPED,
        False,
    ),
    "zoneout must be 0": ({"zoneout": 0.1}, {}, False),
    "unroll must be False": ({}, {}, True),
    "reset must be None": ({}, {"reset": np.ones((2, 3), bool)}, False),
}


def call_of(options, arguments):
    config = gruflax.GRUConfig(**options)
    params = gruflax.init_gru_params(jax.random.key(0), 4, 5, config)
    return make_call(params, X, config=config, **arguments)


@pytest.mark.parametrize("clause", UNMET)
def test_one_unmet(clause, cudnn):
    options, arguments, unroll = UNMET[clause]
    assert unmet_conditions(call_of(options, arguments), unroll=unroll) == [clause]


@pytest.mark.parametrize("arguments", [{}, {"rng": jax.random.key(0)}])
def test_zoneout_is_unmet_in_training_too(arguments, cudnn):
    call = call_of({"zoneout": 0.1}, arguments)
    assert unmet_conditions(call, unroll=False) == ["zoneout must be 0"]


def test_all_met(cudnn):
    masks = {"dropout_masks": DropoutMasks(inputs=np.ones((1, 2, 4), np.float32))}
    assert unmet_conditions(call_of({"dropout": 0.1}, masks), unroll=False) == []


def test_no_more_steps_than_cudnn_takes(cudnn):
    params = gruflax.init_gru_params(jax.random.key(0), 1, 1)
    for steps, wanted in ((65_535, []), (65_536, ["there must be at most 65,535 steps"])):
        call = make_call(params, np.zeros((1, steps, 1), np.float32))
        assert unmet_conditions(call, unroll=False) == wanted


def test_no_symbolic_sizes(cudnn):
    params = gruflax.init_gru_params(jax.random.key(0), 4, 5)
    run = jax.jit(lambda x: gruflax.gru_sequence(params, x, loop="cudnn"))
    for shape in ("b, 3, 4", "2, t, 4"):
        x = jax.ShapeDtypeStruct(jax.export.symbolic_shape(shape), "float32")
        with pytest.raises(ValueError, match="cannot be met: sizes must not be symbols"):
            jax.export.export(run, platforms=("cuda",))(x)


@pytest.mark.parametrize(
    ("version", "capabilities", "met"),
    [
        (91300, ["8.0"], True),
        (91900, ["12.0", "9.0"], True),
        (91200, ["9.0"], False),
        (91900, ["12.0", "7.5"], False),
    ],
)
def test_bfloat16_asks_for_more(version, capabilities, met, monkeypatch):
    gpus = [types.SimpleNamespace(compute_capability=each) for each in capabilities]
    monkeypatch.setattr(conditions, "_gpus", lambda: gpus)
    monkeypatch.setattr(conditions, "has_cudnn", lambda: True)
    library = types.SimpleNamespace(version=version)
    monkeypatch.setattr(conditions, "load_cudnn", lambda: library)
    params = gruflax.init_gru_params(jax.random.key(0), 4, 5)
    unmet = {
        dtype: unmet_conditions(make_call(params, X, dtype=dtype), unroll=False)
        for dtype in ("float32", "float16", "bfloat16")
    }
    clause = (
        "bfloat16 must have cuDNN 9.13 and compute capability 8.0 or later, got cuDNN "
        f"{version} and {capabilities[-1]}"
    )
    assert unmet == {"float32": [], "float16": [], "bfloat16": [] if met else [clause]}


@pytest.mark.skipif(jax.default_backend() == "gpu", reason="there is a GPU")
def test_without_a_gpu():
    x = np.ones((2, 3, 4), "float32")
    config = gruflax.GRUConfig(reset_after=False)
    params = gruflax.init_gru_params(jax.random.key(0), 4, 5, config)
    with pytest.raises(ValueError, match="reset_after must be True; the platform must be a GPU"):
        gruflax.gru_sequence(params, x, config=config, loop="cudnn")
