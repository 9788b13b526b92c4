"""gru_sequence and GRU against the arrays of five real libraries."""

import functools

import jax
import numpy as np
import oracle
import pytest

import gruflax
from gruflax.functional.activations import hard_sigmoid_v1


PRODUCERS = ("keras360_jax", "keras360_tf", "keras3151_jax", "tf115", "tf22")
CASES = sorted(oracle.golden("keras360_jax"))
INPUTS = oracle.golden_inputs()


def by_function(config, call, loop):
    def run(params, x, h0, return_sequences):
        state = {"initial_state": h0} if "initial_state" in call else {}
        return oracle.sequence(
            params,
            x,
            config=gruflax.GRUConfig(**config),
            loop=loop,
            return_sequences=return_sequences,
            **(call | state),
        )

    return run


def by_layer(config, call, loop):
    names = ("go_backwards", "unroll", "zero_output_for_mask")
    fields = {name: call[name] for name in names if name in call}
    make = functools.partial(gruflax.GRU, units=5, return_state=True, loop=loop, **config, **fields)

    def run(params, x, h0, return_sequences):
        return make(return_sequences=return_sequences).apply(
            {"params": params},
            x,
            mask=call.get("mask"),
            initial_state=h0 if "initial_state" in call else None,
        )

    return run


def compute(run, params):
    """Outputs, state, last output and gradients of `sum(seq G) + sum(state GL)`."""

    def loss(params, x, h0):
        seq, state = run(params, x, h0, True)
        return (seq * INPUTS["G"]).sum() + (state * INPUTS["GL"]).sum(), (seq, state)

    @jax.jit
    def everything(params, x, h0):
        gradients, (seq, state) = jax.grad(loss, argnums=(0, 1, 2), has_aux=True)(params, x, h0)
        last, _ = run(params, x, h0, False)
        return seq, state, last, gradients

    seq, state, last, (dparams, dx, dh0) = everything(params, INPUTS["x"], INPUTS["h0"])
    return {
        "seq": seq,
        "state": state,
        "last": last,
        "dx": dx,
        "dh0": dh0,
        "dK": dparams["kernel"],
        "dR": dparams["recurrent_kernel"],
        "db": dparams.get("bias"),
    }


def check(computed, producer, case):
    for name, value in oracle.expected(producer, case).items():
        if name == "dh0" and "initial_state" not in oracle.golden_case(case)[1]:
            continue
        np.testing.assert_allclose(
            computed[name], value, rtol=2e-5, atol=2e-5, err_msg=f"{producer} {case} {name}"
        )


@pytest.mark.parametrize(
    "path, loop",
    [
        (by_function, "scan"),
        (by_layer, "chunked"),
        *((by_function, loop) for loop in (*oracle.NATIVE, *oracle.MEMBERS)),
    ],
)
@pytest.mark.parametrize("case", CASES)
def test_golden(path, loop, case):
    config, call = oracle.golden_case(case)
    if loop.startswith("native"):
        call.pop("unroll", None)
    params = oracle.golden_params(config["reset_after"], config["use_bias"])
    computed = compute(path(config, call, loop), params)
    hard = config.get("recurrent_activation") == "hard_sigmoid"
    for producer in PRODUCERS:
        if not (hard and producer.startswith("tf")):
            check(computed, producer, case)
    if hard:
        config["recurrent_activation"] = hard_sigmoid_v1
        computed = compute(path(config, call, loop), params)
        check(computed, "tf115", case)
        check(computed, "tf22", case)


def test_every_case_is_read():
    assert len(CASES) == 76
    assert all(set(CASES) <= set(oracle.golden(producer)) for producer in PRODUCERS)
