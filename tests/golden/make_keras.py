"""Makes the golden arrays of the installed Keras: `python tests/golden/make_keras.py FILE`."""

import os
import pathlib
import sys


os.environ["KERAS_BACKEND"] = "jax"
sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import jax  # noqa: E402
import keras  # noqa: E402
import numpy as np  # noqa: E402
import oracle  # noqa: E402


def make_case(case):
    """Computes the arrays of one case: outputs, states and gradients."""
    config, call = oracle.golden_case(case)
    implementation = {"implementation": config.pop("implementation", 2)}
    mask, initial = call.pop("mask", None), call.pop("initial_state", None)
    inputs = oracle.golden_inputs()
    params = oracle.golden_params(config["reset_after"], config["use_bias"])
    weights = [params[name] for name in ("kernel", "recurrent_kernel", "bias") if name in params]

    def layer(return_sequences):
        made = keras.layers.GRU(
            5,
            return_sequences=return_sequences,
            return_state=True,
            **config,
            **call,
            **implementation,
        )
        made.build(inputs["x"].shape)
        made.set_weights(weights)
        return made

    def run(made, weights, x, h0):
        start = {} if initial is None else {"initial_state": h0}
        others = [variable.value for variable in made.non_trainable_variables]
        results, _ = made.stateless_call(weights, others, x, mask=mask, **start)
        return results

    def loss(weights, x, h0):
        seq, state = run(sequences, weights, x, h0)
        return (seq * inputs["G"]).sum() + (state * inputs["GL"]).sum(), (seq, state)

    sequences, h0 = layer(True), inputs["h0"]
    gradient = jax.grad(loss, argnums=(0, 1, 2), has_aux=True)
    (dweights, dx, dh0), (seq, state) = gradient(weights, inputs["x"], h0)
    last, _ = run(layer(False), weights, inputs["x"], h0)
    arrays = {"seq": seq, "state": state, "last": last, "dx": dx, "dh0": dh0}
    arrays |= dict(zip(("dK", "dR", "db"), dweights, strict=False))
    return {name: np.asarray(array) for name, array in arrays.items()}


def main():
    """Makes every case that the file of Keras 3.15 has."""
    arrays = {
        f"{case}/{name}": array
        for case in sorted(oracle.golden("keras3151_jax"))
        for name, array in make_case(case).items()
    }
    np.savez_compressed(sys.argv[1], __producer__=f"keras {keras.__version__} on jax", **arrays)


if __name__ == "__main__":
    main()
