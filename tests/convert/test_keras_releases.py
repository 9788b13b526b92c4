"""Files that releases of Keras wrote: see `tests/golden/make_keras_files.py`."""

import collections
import pathlib
import shutil
import zipfile

import h5py
import numpy as np
import pytest

from gruflax import convert


GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "keras_files.zip"
RELEASES = ("keras-1.2.2", "keras-2.2.5", "keras-2.13.1", "keras-2.15.0", "tf_keras-2.18.0")
RELEASES += ("keras-3.6.0",)

# Where releases put the weights of a layer if a file has no names.
PATHS = {
    "inner_a/gru": ["layers/sequential/layers/gru", "inner_a"],
    "inner_b/gru": ["layers/sequential_1/layers/gru", "inner_b"],
    "pair": ["layers/bidirectional"],
    "deep": ["layers/rnn"],
    "both": ["layers/bidirectional_1"],
    "leaky": ["layers/gru"],
    "own": ["layers/own_gru"],
    "held": ["layers/encoder/gru", "encoder"],
    "part": ["layers/time_distributed/layer"],
    "inside": ["layers/time_distributed_1/layer/layers/gru", "each", "sequential_1"],
    "first_gru": ["first", "layers/gru"],
    "second_gru": ["blocks/gru", "layers/gru_1"],
    "third": ["blocks/bidirectional", "layers/bidirectional"],
}

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keras")
    with zipfile.ZipFile(GOLDEN) as archive:
        archive.extractall(folder)
    return folder


def recorded(folder):
    """What the layers of a release hold and compute: `{name: (weights, inputs, outputs)}`."""
    layers = collections.defaultdict(dict)
    with np.load(folder / "arrays.npz") as file:
        for key in file.files:
            name, array = key.rsplit(":", 1)
            layers[name][array] = file[key]
    return {
        name: ([arrays[str(index)] for index in range(len(arrays) - 2)], arrays["x"], arrays["y"])
        for name, arrays in layers.items()
    }


def read(path, name, **fields):
    """Reads a layer by the first of its names that a file knows."""
    for each in (name, *PATHS.get(name, [])):
        try:
            return convert.from_keras(path, each, **fields)
        except ValueError as error:
            if f"got {each!r}" not in str(error):
                raise
    raise AssertionError(f"{path} has no {name}")


@pytest.mark.parametrize("release", RELEASES)
def test_weights(release, folder, equal):
    """In every format: by their names, though Keras writes those of frozen layers last."""
    layers = recorded(folder / release)
    paths = [path for path in (folder / release).iterdir() if path.suffix != ".npz"]
    assert len(paths) == {"keras-1.2.2": 2, "keras-2.2.5": 2, "keras-3.6.0": 5}.get(release, 7)
    for path in paths:
        for name, (weights, _, _) in layers.items():
            if path.name.startswith("subclassed") == (name in ("first_gru", "second_gru", "third")):
                if (path.name, name) == (
                    "functional_weights.h5",
                    "deep",
                ) and release != "keras-2.2.5":
                    # The frozen cell comes last, and no config says that it is the lower one.
                    with pytest.raises(ValueError, match="order of the cells of 'deep'"):
                        read(path, name)
                else:
                    equal(convert.to_keras(*read(path, name)), weights)


@pytest.mark.parametrize("release", RELEASES)
def test_outputs(release, folder, close):
    for name, (_, x, y) in recorded(folder / release).items():
        subclassed = name in ("first_gru", "second_gru", "third")
        path = folder / release / ("subclassed.keras" if subclassed else "functional.keras")
        # No config tells what a layer does that a user's own layer or model holds.
        fields = {"return_sequences": name != "third"} if subclassed or name == "held" else {}
        module, variables = read(path if path.exists() else path.with_suffix(".h5"), name, **fields)
        close(module.apply(variables, x), y)


@pytest.mark.parametrize("release", RELEASES[2:])
def test_both_formats_of_a_model_mean_the_same(release, folder):
    for name in recorded(folder / release):
        if name not in ("first_gru", "second_gru", "third", "held"):
            modules = [
                convert.from_keras(folder / release / f"functional.{suffix}", name)[0]
                for suffix in ("keras", "h5")
            ]
            assert modules[0] == modules[1]


def test_weights_tell_when_keras_2_wrote_them(folder):
    """So that the name of an activation means what it meant there."""
    found = {
        (release, suffix): convert.from_keras(
            folder / release / f"subclassed{suffix}", name, recurrent_activation="hard_sigmoid"
        )[0].recurrent_activation
        != "hard_sigmoid"
        for release, suffix, name in (
            ("keras-2.13.1", ".keras", "first"),
            ("keras-2.15.0", ".keras", "layers/gru"),
            ("keras-2.15.0", "_weights.h5", "first_gru"),
            ("tf_keras-2.18.0", ".keras", "layers/gru"),
            ("keras-3.6.0", ".keras", "first_gru"),
            ("keras-3.6.0", ".weights.h5", "first_gru"),
        )
    }
    assert list(found.values()) == [True] * 4 + [False] * 2


def test_a_file_written_on_windows(folder, tmp_path, equal):
    """There the names of groups have backslashes, all but the last one."""
    shutil.unpack_archive(folder / "keras-3.6.0/functional.keras", tmp_path, "zip")
    weights = tmp_path / "model.weights.h5"
    with h5py.File(weights) as file, h5py.File(tmp_path / "windows.h5", "w") as renamed:
        for name in list_of_arrays(file):
            owner, variables, number = name.rsplit("/", 2)
            group = renamed.require_group(
                f"{owner}/{variables}".replace("/", "\\", owner.count("/"))
            )
            group[number] = file[name][()]
        assert "layers\\bidirectional\\forward_layer\\cell" in renamed
    (tmp_path / "windows.h5").replace(weights)
    # A folder is read as well, for some hubs hold the files unpacked.
    for name, (array, _, _) in recorded(folder / "keras-3.6.0").items():
        if name in ("pair", "deep", "inner_a/gru", "inner_b/gru", "part", "inside"):
            equal(convert.to_keras(*convert.from_keras(tmp_path, name)), array)
    shutil.copy(weights, tmp_path / "all.weights.h5")
    _, variables = convert.from_keras(tmp_path / "all.weights.h5", PATHS["own"][0])
    equal(list(variables["params"].values()), recorded(folder / "keras-3.6.0")["own"][0])


def list_of_arrays(file):
    """The paths of all arrays of a file that belong to layers."""
    paths = []
    file.visititems(lambda name, node: paths.append(name) if hasattr(node, "shape") else None)
    return [path for path in paths if path.split("/")[-2] == "vars" and path.count("/") > 1]
