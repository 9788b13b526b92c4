"""Japanese Vowels: nine speakers to be told apart by two vowels each."""

from importlib import resources
from typing import NamedTuple

import numpy as np


class Utterances(NamedTuple):
    """Right-padded utterances of one split.

    Attributes:
        values: `[n, t, 12]` float32, LPC cepstrum coefficients per frame (no unit); zeros from the
            utterance's length on.
        lengths: `[n]` int32, frames per utterance.
        labels: `[n]` int32, the speaker, 0 to 8.
    """

    values: np.ndarray
    lengths: np.ndarray
    labels: np.ndarray


class JapaneseVowels(NamedTuple):
    """The two splits of Japanese Vowels, padded to the same length.

    Attributes:
        train: 270 utterances of 7 to 26 frames, 30 per speaker.
        test: 370 utterances of 7 to 29 frames, 24 to 88 per speaker.
    """

    train: Utterances
    test: Utterances


def load_japanese_vowels() -> JapaneseVowels:
    """Loads the Japanese Vowels data set, with its authors' split.

    Nine male speakers say two Japanese vowels, /ae/, in one go; the task is to name the speaker.

    Returns:
        The splits `train` (n is 270) and `test` (n is 370), each with `values` `[n, 29, 12]`,
        `lengths` `[n]` and `labels` `[n]`; 29 is the longest utterance of both. New arrays at each
        call.

    Source: UCI Machine Learning Repository, "Japanese Vowels". Licence: CC BY 4.0; here the
    utterances are stored one after the other. Cite: M. Kudo, J. Toyama, M. Shimbo,
    "Multidimensional Curve Classification Using Passing-Through Regions", Pattern Recognition
    Letters 20 (1999) 1103-1111.
    """
    path = resources.files("gruflax.datasets") / "japanese_vowels.npz"
    with path.open("rb") as file, np.load(file) as arrays:
        time = max(arrays[f"{name}_lengths"].max() for name in JapaneseVowels._fields)
        return JapaneseVowels(*(_split(arrays, name, time) for name in JapaneseVowels._fields))


def _split(arrays: np.lib.npyio.NpzFile, name: str, time: int) -> Utterances:
    """Pads the utterances of one split to `time` frames."""
    frames, lengths = arrays[f"{name}_values"], arrays[f"{name}_lengths"]
    values = np.zeros((len(lengths), time, frames.shape[-1]), np.float32)
    # Boolean indexing goes row by row, the order in which the frames are stored.
    values[np.arange(time) < lengths[:, None]] = frames
    return Utterances(values, lengths, arrays[f"{name}_labels"])
