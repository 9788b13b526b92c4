"""What the tests compare with: golden arrays from the real libraries, and a plain NumPy GRU."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

import gruflax


# The loop of the C++ kernel, where it was built.
NATIVE = ("native",) if gruflax.native_info().available else ()
# The same as one of so many members, which differ in their weights.
MEMBERS = {"native, one member": 1, "native, three members": 3} if NATIVE else {}
GOLDEN = pathlib.Path(__file__).parent / "golden"
MASKS = {
    "right": "111111/111100/110000",
    "left": "111111/001111/000011",
    "gaps": "101101/010100/110011",
    "full0": "000000/111000/011110",
}


def sequence(params, inputs, loop="auto", **options):
    """`gruflax.gru_sequence`, whose loop may be one of `MEMBERS`."""
    if loop not in MEMBERS:
        return gruflax.gru_sequence(params, inputs, loop=loop, **options)
    scales = np.linspace(1, 0.5, MEMBERS[loop])
    many = jax.tree.map(
        lambda leaf: jnp.stack([leaf * scale for scale in scales.astype(leaf.dtype)]), params
    )
    run = jax.vmap(lambda params: gruflax.gru_sequence(params, inputs, loop="native", **options))
    return jax.tree.map(lambda leaf: leaf[0], run(many))


@functools.cache
def golden(producer):
    """The arrays of one library, `{case: {array: value}}`."""
    cases = {}
    with np.load(GOLDEN / f"{producer}.npz") as file:
        for key in file.files:
            if "/" in key:
                case, array = key.split("/")
                cases.setdefault(case, {})[array] = file[key]
    return cases


@functools.cache
def golden_inputs():
    """The inputs and weights that every golden file was made with, float32."""
    random = np.random.RandomState(20240607)
    draw = {
        "x": random.normal(size=(3, 6, 4)),
        "h0": random.normal(size=(3, 5)) * 0.7,
        "G": random.normal(size=(3, 6, 5)),
        "GL": random.normal(size=(3, 5)),
        "K": random.normal(size=(4, 15)) * 0.6,
        "R": random.normal(size=(5, 15)) * 0.6,
        "b2": random.normal(size=(2, 15)) * 0.6,
    }
    return {name: value.astype(np.float32) for name, value in draw.items()}


def golden_mask(name):
    return np.array([[step == "1" for step in row] for row in MASKS[name].split("/")])


def golden_params(reset_after, use_bias):
    arrays = golden_inputs()
    params = {"kernel": arrays["K"], "recurrent_kernel": arrays["R"]}
    if use_bias:
        b2 = arrays["b2"]
        params["bias"] = b2 if reset_after else b2[0] + np.float32(0.5) * b2[1]
    return params


def golden_case(case):
    """Reads a case's name: `(GRUConfig options, gru_sequence options)`."""
    kind, *parts = case.split("_")
    flags = {part.rstrip("01"): part[-1] == "1" for part in parts if part[-1] in "01"}
    config = {"reset_after": flags.get("ra", True), "use_bias": flags.get("ub", True)}
    call = {"go_backwards": flags.get("back", False), "unroll": flags.get("unroll", False)}
    if kind == "back":
        call["go_backwards"] = True
    if kind == "unroll":
        call["unroll"] = True
    if kind == "math":
        config["implementation"] = int(parts[-1].removeprefix("impl"))
    if kind in ("mask", "maskopt"):
        call["mask"] = golden_mask(parts[0])
        call["zero_output_for_mask"] = flags.get("zero", False)
    if kind == "act":
        activation, recurrent = case.removeprefix("act_").rsplit("_ra", 1)[0].split("_", 1)
        config["activation"] = None if activation == "None" else activation
        config["recurrent_activation"] = recurrent
    if flags.get("h", kind != "mask"):
        call["initial_state"] = golden_inputs()["h0"]
    return config, call


def expected(producer, case):
    """What gruflax.GRU computes in a golden case: the producer's arrays, but for the documented
    deviations at masked steps before the first valid one and in unrolled loops."""
    arrays = dict(golden(producer)[case])
    _, call = golden_case(case)
    if producer in ("keras360_jax", "keras3151_jax"):
        # Keras' unrolled loop on JAX drops zero_output_for_mask and begins with zeros.
        return dict(golden(producer)[case.replace("unroll1", "unroll0")])
    if call["unroll"] and call["go_backwards"]:
        # TensorFlow zeroes by the mask that it did not reverse.
        arrays = dict(golden(producer)[case.replace("unroll1", "unroll0")])
    if "mask" not in call or call["zero_output_for_mask"] or "initial_state" not in call:
        return arrays
    mask = call["mask"][:, ::-1] if call["go_backwards"] else call["mask"]
    before = ~np.logical_or.accumulate(mask, axis=1)
    h0, gradient = call["initial_state"], golden_inputs()["G"]
    arrays["seq"] = np.where(before[..., None], h0[:, None], arrays["seq"])
    arrays["last"] = np.where(before[:, -1:], h0, arrays["last"])
    if "dh0" in arrays:
        arrays["dh0"] = arrays["dh0"] + (gradient * before[..., None]).sum(axis=1)
    return arrays


def numpy_gru(params, x, h, *, reset_after=True, mask=None, activation=np.tanh):
    """A GRU as the equations read, in float64: `[b, t, f]` to `[b, t, u]`."""
    units = h.shape[-1]
    sigmoid = lambda value: 1 / (1 + np.exp(-value))  # noqa: E731
    kernel, recurrent = (
        np.asarray(params[name], np.float64) for name in ("kernel", "recurrent_kernel")
    )
    rows = 2 if reset_after else 1
    bias = np.asarray(params.get("bias", np.zeros((rows, 3 * units))), np.float64)
    bias = bias.reshape(rows, 3 * units)
    outputs = []
    for step in range(x.shape[1]):
        xz, xr, xh = np.split(x[:, step].astype(np.float64) @ kernel + bias[0], 3, axis=-1)
        rz, rr, rh = np.split(recurrent, 3, axis=-1)
        bz, br, bh = np.split(bias[1] if reset_after else np.zeros(3 * units), 3)
        z = sigmoid(xz + h @ rz + bz)
        r = sigmoid(xr + h @ rr + br)
        inner = r * (h @ rh + bh) if reset_after else (r * h) @ rh
        new = z * h + (1 - z) * activation(xh + inner)
        h = new if mask is None else np.where(mask[:, step, None], new, h)
        outputs.append(h)
    return np.stack(outputs, axis=1), h
