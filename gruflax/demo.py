"""Trains a masked GRU to tell nine speakers apart: `python -m gruflax.demo`.

The data are Japanese Vowels: 270 utterances to learn from and 370 to be tested on, of 7 to 29
frames, right-padded; the GRU's last valid state goes through a dense layer to nine logits.

Started in several processes, on one host or many (`gruflax.hosts` says how), it trains on all of
their devices, each batch spread over them, with the numbers of one process.
"""

import argparse
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from flax import linen as nn, serialization
from flax.training.train_state import TrainState
from jax import lax
from jax.sharding import NamedSharding
from jax.typing import ArrayLike
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from gruflax import hosts
from gruflax.datasets import JapaneseVowels, Utterances, load_japanese_vowels
from gruflax.linen import GRU
from gruflax.options import Parser, integer, output_path


SPEAKERS = 9
BATCH_SIZE = 30
DROPOUT = 0.5
LEARNING_RATE = 2e-3

Report = Callable[[int, float, float], None]


class Outcome(NamedTuple):
    """What a training run gives.

    Attributes:
        params: the classifier's parameters.
        losses: `[epochs]` float32, mean cross entropy of each epoch, with dropout.
        correct: `[370]` bool, whether the speaker of each test utterance was named.
        seconds: wall-clock time of training and testing, compilation included.
    """

    params: Any
    losses: np.ndarray
    correct: np.ndarray
    seconds: float

    @property
    def accuracy(self) -> float:
        """Share of the test utterances whose speaker was named."""
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
        """Names the speakers."""
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
        state, loss, accuracy = train_epoch(
            state, vowels.train, jax.random.fold_in(epochs_key, epoch), hosts.over_batch()
        )
        losses.append(float(loss))
        if report is not None:
            report(epoch + 1, losses[-1], float(accuracy))
    params = hosts.local(state.params)
    correct = is_correct(units, params, vowels.test)
    seconds = time.perf_counter() - start
    return Outcome(params, np.asarray(losses, np.float32), correct, seconds)


def create_state(rng: jax.Array, units: int, epochs: int, split: Utterances) -> TrainState:
    """Draws initial parameters and sets Adam up, its rate falling to 0 along a cosine."""
    model = SpeakerClassifier(units)
    steps = epochs * (len(split.labels) // BATCH_SIZE)
    optimizer = optax.adam(optax.cosine_decay_schedule(LEARNING_RATE, steps))

    def create(rng):
        variables = model.init(rng, split.values[:1], split.lengths[:1])
        return TrainState.create(apply_fn=model.apply, params=variables["params"], tx=optimizer)

    # One program starts faster than many small ones.
    return jax.jit(create, out_shardings=hosts.everywhere())(rng)


def train_step(
    state: TrainState, batch: Utterances, rng: jax.Array
) -> tuple[TrainState, tuple[jax.Array, jax.Array]]:
    """Takes one step of the optimiser: a pure function, fit for jit and for any sharding."""
    gradient = jax.value_and_grad(_loss_and_accuracy, argnums=1, has_aux=True)
    metrics, gradients = gradient(state, state.params, batch, rng)
    return state.apply_gradients(grads=gradients), metrics


def _train_epoch(
    state: TrainState, split: Utterances, rng: jax.Array, rows: NamedSharding | None = None
) -> tuple[TrainState, jax.Array, jax.Array]:
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
    state, (losses, accuracies) = lax.scan(step, state, drawn)
    return state, losses.mean(), accuracies.mean()


train_epoch = jax.jit(_train_epoch, donate_argnums=0, static_argnums=3)


def _loss_and_accuracy(
    state: TrainState, params: Any, batch: Utterances, rng: jax.Array
) -> tuple[jax.Array, jax.Array]:
    logits = state.apply_fn(
        {"params": params}, batch.values, batch.lengths, training=True, rngs={"dropout": rng}
    )
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch.labels)
    return losses.mean(), (logits.argmax(axis=-1) == batch.labels).mean()


def is_correct(units: int, params: Any, split: Utterances) -> np.ndarray:
    """Tells for which utterances a trained classifier names the speaker."""
    logits = jax.jit(SpeakerClassifier(units).apply)(
        {"params": params}, split.values, split.lengths
    )
    return np.asarray(logits).argmax(axis=-1) == split.labels


def build_parser() -> argparse.ArgumentParser:
    """Builds the command line's parser."""
    parser = Parser(
        prog="gruflax.demo",
        usage="python -m gruflax.demo [options]",
        description="Trains a masked GRU to name the speaker of an utterance (Japanese Vowels, "
        "nine speakers) and tests it on the utterances that were held out.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--units", type=integer(1, 4096), default=100, metavar="N", help="size of the GRU's state")
    add("--epochs", type=integer(1, 10**6), default=100, metavar="N", help="passes over the data")
    add("--seed", type=integer(0, 2**32 - 1), default=0, metavar="N", help="of all random draws")
    add(
        "--output",
        type=output_path,
        default=argparse.SUPPRESS,
        metavar="PATH",
        help="file for the trained parameters, as msgpack (flax.serialization.to_bytes); "
        "nothing is saved without it",
    )
    return parser


def _train_with_progress(console: Console, units: int, epochs: int, seed: int) -> Outcome:
    """Trains behind a live progress bar."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn("{task.fields[metrics]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("epoch", total=epochs, metrics="compiling")

        def report(epoch: int, loss: float, accuracy: float) -> None:
            metrics = f"loss {loss:.3f}  train accuracy {100 * accuracy:.1f} %"
            progress.update(task, completed=epoch, metrics=metrics)

        return train(units, epochs, seed, report)


def _summary(outcome: Outcome) -> Table:
    """Puts the results of a run in a table."""
    leaves = jax.tree.leaves(outcome.params)
    (device,) = leaves[0].devices()
    named = f"{outcome.correct.sum()} of {len(outcome.correct)}"
    table = Table(show_header=False)
    table.add_row("test accuracy", f"{100 * outcome.accuracy:.2f} % ({named})")
    table.add_row("seconds, compilation included", f"{outcome.seconds:.1f}")
    table.add_row("parameters", f"{sum(leaf.size for leaf in leaves):,}")
    table.add_row("device", f"{device.platform} ({device.device_kind})")
    if jax.process_count() > 1:
        table.add_row("devices in all", f"{jax.device_count()} in {jax.process_count()} processes")
    return table


def main(argv: list[str] | None = None) -> None:
    """Runs the demo; of several processes the first one prints and saves."""
    parser = build_parser()
    options = parser.parse_args(argv)
    try:
        hosts.join()
    except (RuntimeError, ValueError) as error:
        parser.error(f"joining the other processes: {error}")
    first = jax.process_index() == 0
    console = Console(quiet=not first)
    outcome = _train_with_progress(console, options.units, options.epochs, options.seed)
    if first and "output" in options:
        try:
            options.output.write_bytes(serialization.to_bytes(outcome.params))
        except OSError as error:
            parser.error(f"argument --output: {error.strerror}: {str(options.output)!r}")
        console.print(f"parameters saved in {options.output}", markup=False, soft_wrap=True)
    console.print(_summary(outcome))


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("gruflax.demo: interrupted")
