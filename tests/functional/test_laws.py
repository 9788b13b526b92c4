"""Laws that hold for any GRU, by drawn examples: no library is needed to know them."""

import functools

import jax
import numpy as np
import oracle
from hypothesis import given, settings, strategies as st

import gruflax


B, F, U, T = 3, 2, 3, 6
FLAGS = st.booleans()
LOOPS = st.sampled_from(["scan", "chunked", *oracle.NATIVE, *oracle.MEMBERS])
MASKS = st.lists(st.booleans(), min_size=B * T, max_size=B * T).map(
    lambda drawn: np.array(drawn).reshape(B, T)
)
RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(B, T, F)).astype(np.float32)
H0 = RANDOM.normal(size=(B, U)).astype(np.float32)
# Few examples compile few programs: what is drawn are numbers, flags and places.
law = settings(max_examples=25, deadline=None, derandomize=True)


@functools.cache
def params_of(reset_after):
    config = gruflax.GRUConfig(reset_after=reset_after)
    shapes = {"kernel": (F, 3 * U), "recurrent_kernel": (U, 3 * U)}
    shapes["bias"] = (2, 3 * U) if reset_after else (3 * U,)
    random = np.random.default_rng(1)
    params = {name: random.normal(size=shape) for name, shape in shapes.items()}
    return {name: value.astype(np.float32) for name, value in params.items()}, config


@functools.partial(jax.jit, static_argnames=("reset_after", "loop", "go_backwards"))
def run(x, h0, mask, reset_after, loop="auto", go_backwards=False):
    params, config = params_of(reset_after)
    return oracle.sequence(
        params,
        x,
        config=config,
        initial_state=h0,
        mask=mask,
        loop=loop,
        chunk=2 if loop == "chunked" else None,
        go_backwards=go_backwards,
    )


def close(got, wanted):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), got, wanted)


@law
@given(MASKS, FLAGS, LOOPS, st.integers(1, T - 1))
def test_a_sequence_can_be_split_anywhere(mask, reset_after, loop, place):
    whole, last = run(X, H0, mask, reset_after, loop)
    first, state = run(X[:, :place], H0, mask[:, :place], reset_after, loop)
    second, state = run(X[:, place:], state, mask[:, place:], reset_after, loop)
    close((np.concatenate([first, second], axis=1), state), (whole, last))


@law
@given(MASKS, FLAGS, LOOPS, FLAGS)
def test_what_is_masked_changes_nothing(mask, reset_after, loop, go_backwards):
    other = np.where(mask[..., None], X, np.float32(np.nan))
    close(
        run(other, H0, mask, reset_after, loop, go_backwards),
        run(X, H0, mask, reset_after, loop, go_backwards),
    )


@law
@given(MASKS, FLAGS, LOOPS)
def test_masked_steps_can_be_left_out(mask, reset_after, loop):
    _, state = run(X, H0, mask, reset_after, loop)
    for row in range(B):
        kept = np.flatnonzero(mask[row])
        count = len(kept)
        # Moved to the front and padded: one shape for all.
        moved = np.concatenate([X[row, kept], np.zeros((T - count, F), np.float32)])
        front = np.arange(T) < count
        _, alone = run(moved[None], H0[row : row + 1], front[None], reset_after, loop)
        close(alone[0], state[row])


@law
@given(MASKS, FLAGS, LOOPS)
def test_a_batch_is_its_rows(mask, reset_after, loop):
    outputs, state = run(X, H0, mask, reset_after, loop)
    for row in range(B):
        part = slice(row, row + 1)
        close(
            run(X[part], H0[part], mask[part], reset_after, loop),
            (outputs[part], state[part]),
        )


@law
@given(MASKS, FLAGS, FLAGS)
def test_every_loop_is_the_scan(mask, reset_after, go_backwards):
    wanted = run(X, H0, mask, reset_after, "scan", go_backwards)
    for loop in ("auto", "chunked", *oracle.NATIVE, *oracle.MEMBERS):
        close(run(X, H0, mask, reset_after, loop, go_backwards), wanted)


@law
@given(MASKS, FLAGS, LOOPS)
def test_backwards_is_forwards_on_the_reverse(mask, reset_after, loop):
    close(
        run(X, H0, mask, reset_after, loop, go_backwards=True),
        run(X[:, ::-1], H0, mask[:, ::-1], reset_after, loop),
    )


@law
@given(st.lists(st.integers(0, T), min_size=B, max_size=B))
def test_lengths_are_masks_and_back(lengths):
    mask = gruflax.lengths_to_mask(np.array(lengths), T)
    np.testing.assert_array_equal(gruflax.mask_to_lengths(mask), lengths)
    params, config = params_of(True)
    by_lengths = gruflax.gru_sequence(params, X, config=config, seq_lengths=np.array(lengths))
    close(by_lengths, gruflax.gru_sequence(params, X, config=config, mask=mask))
