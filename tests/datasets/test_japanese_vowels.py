"""Japanese Vowels: what comes out is what the file holds, padded."""

from importlib import resources

import numpy as np
import pytest

from gruflax.datasets import Utterances, load_japanese_vowels


SPLITS = {"train": (270, 26), "test": (370, 29)}


def split_of(name: str) -> Utterances:
    return getattr(load_japanese_vowels(), name)


@pytest.mark.parametrize("name", SPLITS)
def test_counts_shapes_and_dtypes(name):
    count, longest = SPLITS[name]
    values, lengths, labels = split_of(name)
    assert (values.shape, values.dtype) == ((count, 29, 12), np.float32)
    assert (lengths.shape, lengths.dtype) == ((count,), np.int32)
    assert (labels.shape, labels.dtype) == ((count,), np.int32)
    assert (lengths.min(), lengths.max()) == (7, longest)


def test_every_speaker_is_in_both_splits():
    train, test = load_japanese_vowels()
    np.testing.assert_array_equal(np.bincount(train.labels), [30] * 9)
    np.testing.assert_array_equal(np.bincount(test.labels), [31, 35, 88, 44, 29, 24, 40, 50, 29])


@pytest.mark.parametrize("name", SPLITS)
def test_padding_is_zero_and_frames_are_not(name):
    values, lengths, _ = split_of(name)
    for utterance, length in zip(values, lengths, strict=True):
        assert not utterance[length:].any()
        assert utterance[:length].any(axis=-1).all()


@pytest.mark.parametrize("name", SPLITS)
def test_values_are_the_files(name):
    values, lengths, labels = split_of(name)
    path = resources.files("gruflax.datasets") / "japanese_vowels.npz"
    with path.open("rb") as file, np.load(file) as stored:
        utterances = [utterance[:length] for utterance, length in zip(values, lengths, strict=True)]
        np.testing.assert_array_equal(np.concatenate(utterances), stored[f"{name}_values"])
        np.testing.assert_array_equal(lengths, stored[f"{name}_lengths"])
        np.testing.assert_array_equal(labels, stored[f"{name}_labels"])


def test_first_frame_of_the_published_file():
    first = split_of("train").values[0, 0]
    np.testing.assert_allclose(first[:3], [1.860936, -0.207383, 0.261557], rtol=1e-6)


def test_each_call_gives_new_arrays():
    before = load_japanese_vowels()
    for split in before:
        for array in split:
            array[...] = -1
    for split in load_japanese_vowels():
        assert all((array != -1).any() for array in split)
