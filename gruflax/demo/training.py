"""The training of the demo: a masked GRU learns to name the speakers of Japanese Vowels.

There are 270 utterances for training and 370 for the test, of 7 to 29 frames, right-padded. A dense
layer turns the last valid state of the GRU into nine logits.
"""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from flax import linen as nn
from flax.training.train_state import TrainState
from jax import lax
from jax.sharding import NamedSharding
from jax.typing import ArrayLike

from gruflax import hosts
from gruflax.datasets import JapaneseVowels, Utterances, load_japanese_vowels
from gruflax.linen import GRU


SPEAKERS = 9
BATCH_SIZE = 30
DROPOUT = 0.5
LEARNING_RATE = 2e-3

# A function that is called after each epoch, with its number, from 1, and its loss.
Report = Callable[[int, float], None]


class Outcome(NamedTuple):
    """The results of a training run.

    Attributes:
        params: the classifier's parameters.
        losses: `[epochs]` float32, mean cross entropy of each epoch, with dropout.
        train_correct: `[270]` bool, whether the speaker of each training utterance was named in
            the end, without dropout.
        correct: `[370]` bool, the same for the test utterances.
        seconds: wall-clock time of training and testing, compilation included.
    """

    params: Any
    losses: np.ndarray
    train_correct: np.ndarray
    correct: np.ndarray
    seconds: float

    @property
    def accuracy(self) -> float:
        """Returns the share of the test utterances whose speaker was named."""
        return float(self.correct.mean())


class SpeakerClassifier(nn.Module):
    """A GRU over the valid frames, then a dense layer.

    Attributes:
        units: size of the GRU's state.
        dropout: rate at which input features are dropped in training.
    """

    units: int
    dropout: float = DROPOUT

    @nn.compact
    def __call__(
        self, values: ArrayLike, lengths: ArrayLike, *, training: bool = False
    ) -> jax.Array:
        """Returns the logits `[n, 9]` of utterances `[n, t, 12]` with lengths `[n]`."""
        gru = GRU(self.units, dropout=self.dropout, name="gru")
        state = gru(values, seq_lengths=lengths, training=training)
        return nn.Dense(SPEAKERS, name="speakers")(state)


def standardise(vowels: JapaneseVowels) -> JapaneseVowels:
    """Brings each coefficient to mean 0 and deviation 1 over the training split's valid frames."""
    frames = vowels.train.values[_valid(vowels.train)]
    mean, deviation = frames.mean(axis=0), frames.std(axis=0)
    return JapaneseVowels(
        *(
            split._replace(values=(split.values - mean) / deviation * _valid(split)[..., None])
            for split in vowels
        )
    )


def _valid(split: Utterances) -> np.ndarray:
    return np.arange(split.values.shape[1]) < split.lengths[:, None]


def train(
    units: int = 100, epochs: int = 100, seed: int = 0, report: Report | None = None
) -> Outcome:
    """Trains a `SpeakerClassifier` on Japanese Vowels and tests it once, at the end."""
    start = time.perf_counter()
    vowels = standardise(load_japanese_vowels())
    init_key, epochs_key = jax.random.split(jax.random.key(seed))
    state = create_state(init_key, units, epochs, vowels.train)
    losses = []
    for epoch in range(epochs):
        state, loss = train_epoch(
            state, vowels.train, jax.random.fold_in(epochs_key, epoch), hosts.over_batch()
        )
        losses.append(float(loss))
        if report is not None:
            report(epoch + 1, losses[-1])
    params = hosts.local(state.params)
    correct = (is_correct(units, params, split) for split in vowels)
    return Outcome(
        params, np.asarray(losses, np.float32), *correct, seconds=time.perf_counter() - start
    )


def create_state(rng: jax.Array, units: int, epochs: int, split: Utterances) -> TrainState:
    """Draws initial parameters and sets Adam up, its rate falling to 0 along a cosine."""
    model = SpeakerClassifier(units)
    steps = epochs * (len(split.labels) // BATCH_SIZE)
    optimizer = optax.adam(optax.cosine_decay_schedule(LEARNING_RATE, steps))

    def create(rng):
        variables = model.init(rng, split.values[:1], split.lengths[:1])
        return TrainState.create(apply_fn=model.apply, params=variables["params"], tx=optimizer)

    # One compiled program starts faster than many small ones.
    return jax.jit(create, out_shardings=hosts.everywhere())(rng)


def train_step(
    state: TrainState, batch: Utterances, rng: jax.Array
) -> tuple[TrainState, jax.Array]:
    """Takes one step of the optimiser: a pure function, fit for jit and for any sharding."""
    loss, gradients = jax.value_and_grad(_loss, argnums=1)(state, state.params, batch, rng)
    return state.apply_gradients(grads=gradients), loss


def _train_epoch(
    state: TrainState, split: Utterances, rng: jax.Array, rows: NamedSharding | None = None
) -> tuple[TrainState, jax.Array]:
    """Makes one pass over a split, in minibatches of utterances in random order."""
    order_key, dropout_key = jax.random.split(rng)
    count = len(split.labels) // BATCH_SIZE
    order = jax.random.permutation(order_key, len(split.labels))[: count * BATCH_SIZE]

    def step(state, drawn):
        indices, key = drawn
        batch = jax.tree.map(lambda array: array[indices], split)
        if rows is not None:
            batch = lax.with_sharding_constraint(batch, rows)
        return train_step(state, batch, key)

    drawn = order.reshape(count, BATCH_SIZE), jax.random.split(dropout_key, count)
    state, losses = lax.scan(step, state, drawn)
    return state, losses.mean()


train_epoch = jax.jit(_train_epoch, donate_argnums=0, static_argnums=3)


def _loss(state: TrainState, params: Any, batch: Utterances, rng: jax.Array) -> jax.Array:
    """Returns the mean cross entropy of a batch, with dropout."""
    logits = state.apply_fn(
        {"params": params}, batch.values, batch.lengths, training=True, rngs={"dropout": rng}
    )
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch.labels).mean()


def is_correct(units: int, params: Any, split: Utterances) -> np.ndarray:
    """Returns whether a trained classifier names the speaker, for each utterance: `[n]` bool."""
    logits = jax.jit(SpeakerClassifier(units).apply)(
        {"params": params}, split.values, split.lengths
    )
    return np.asarray(logits).argmax(axis=-1) == split.labels
