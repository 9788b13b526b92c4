"""The demo: its accuracy, its saved parameters, its errors."""

import os
import re
import subprocess
import sys

import jax
import numpy as np
import pytest
from flax import serialization

from gruflax import demo
from gruflax.datasets import load_japanese_vowels


UNITS = 12


@pytest.fixture(autouse=True)
def standard_promotion():
    """Lets Optax raise a float to an integer power, which strict promotion forbids."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture(scope="module")
def vowels():
    return demo.standardise(load_japanese_vowels())


@pytest.fixture(scope="module")
def template(vowels):
    return demo.create_state(jax.random.key(9), UNITS, 1, vowels.train).params


def test_default_run_reaches_the_promised_accuracy():
    outcome = demo.train()
    assert outcome.accuracy >= 0.965
    assert outcome.losses[-1] < outcome.losses[0] / 3
    assert sum(leaf.size for leaf in jax.tree.leaves(outcome.params)) == 3 * 100 * 114 + 909


def test_saved_parameters_give_the_printed_accuracy(tmp_path, capsys, vowels, template):
    path = tmp_path / "speakers [1].msgpack"
    demo.main(["--units", str(UNITS), "--epochs", "12", "--seed", "3", "--output", str(path)])
    printed = re.search(r"([\d.]+) % \((\d+) of 370\)", capsys.readouterr().out)
    assert printed is not None
    params = serialization.from_bytes(template, path.read_bytes())
    correct = demo.is_correct(UNITS, params, vowels.test).sum()
    assert int(printed[2]) == correct > 370 / 9
    assert float(printed[1]) == pytest.approx(100 * correct / 370, abs=0.005)


def test_same_seed_gives_the_same_parameters_and_another_seed_others():
    calls = []
    first = demo.train(UNITS, epochs=2, seed=1, report=lambda *call: calls.append(call))
    again, other = (demo.train(UNITS, epochs=2, seed=seed) for seed in (1, 2))
    jax.tree.map(np.testing.assert_array_equal, first.params, again.params)
    np.testing.assert_array_equal(first.losses, again.losses)
    kernels = (outcome.params["gru"]["kernel"] for outcome in (first, other))
    assert not np.array_equal(*kernels)
    # The report of each epoch: its number, its loss, its accuracy.
    assert [epoch for epoch, _, _ in calls] == [1, 2]
    np.testing.assert_allclose([loss for _, loss, _ in calls], first.losses)
    assert all(0 <= accuracy <= 1 for _, _, accuracy in calls)


def test_padding_does_not_change_the_logits(vowels, template):
    values, lengths, _ = vowels.test
    noise = np.random.default_rng(0).normal(scale=50, size=values.shape).astype(np.float32)
    valid = np.arange(values.shape[1]) < lengths[:, None]
    padded = np.where(valid[..., None], values, noise)
    assert (padded != values).any()
    classify = jax.jit(demo.SpeakerClassifier(UNITS).apply)
    logits, noisy = (classify({"params": template}, array, lengths) for array in (values, padded))
    assert logits.shape == (370, 9)
    np.testing.assert_array_equal(logits, noisy)


def test_standardised_frames_have_mean_0_and_deviation_1(vowels):
    train, test = vowels
    frames = train.values[np.arange(29) < train.lengths[:, None]]
    np.testing.assert_allclose(frames.mean(axis=0), np.zeros(12), atol=1e-5)
    np.testing.assert_allclose(frames.std(axis=0), np.ones(12), rtol=1e-5)
    for split in (train, test):
        assert split.values.dtype == np.float32
        assert not split.values[np.arange(29) >= split.lengths[:, None]].any()


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--units", "0"], "--units: must be an integer from 1 to 4096, not '0'"),
        (["--units", "many"], "--units: must be an integer from 1 to 4096, not 'many'"),
        (["--epochs", "0"], "--epochs: must be an integer from 1 to 1000000, not '0'"),
        (["--epochs", "2.5"], "--epochs: must be an integer from 1 to 1000000, not '2.5'"),
        (["--seed", "-1"], "--seed: must be an integer from 0 to 4294967295, not '-1'"),
        (["--output", "{folder}/absent/file"], "--output: there is no folder '{folder}/absent'"),
        (["--output", "{folder}"], "--output: '{folder}' is a folder, not a file"),
        (["--unit", "5"], "unrecognized arguments: --unit 5"),
        (["speakers"], "unrecognized arguments: speakers"),
    ],
)
def test_wrong_options_are_one_clear_line(tmp_path, capsys, options, complaint):
    with pytest.raises(SystemExit) as exit_info:
        demo.main([option.format(folder=tmp_path) for option in options])
    assert exit_info.value.code == 2
    written = capsys.readouterr()
    assert written.out == ""
    assert written.err.startswith("gruflax.demo: error: ")
    assert written.err.endswith(complaint.format(folder=tmp_path) + "\n")
    assert written.err.count("\n") == 1


def test_an_unwritable_file_is_told_before_training(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(SystemExit):
        demo.main(["--output", str(tmp_path / "file")])
    assert capsys.readouterr().err.endswith("file' cannot be written\n")


def test_a_failing_write_is_one_clear_line(tmp_path, capsys, monkeypatch, template):
    def fail(path, content):
        raise OSError(28, "No space left on device")

    outcome = demo.Outcome(template, np.zeros(1), np.zeros(370, bool), 0.0)
    monkeypatch.setattr(demo, "train", lambda *options: outcome)
    monkeypatch.setattr("pathlib.Path.write_bytes", fail)
    path = tmp_path / "file"
    with pytest.raises(SystemExit):
        demo.main(["--units", "2", "--epochs", "1", "--output", str(path)])
    line = f"gruflax.demo: error: argument --output: No space left on device: {str(path)!r}\n"
    assert capsys.readouterr().err == line


def test_runs_as_a_module_without_a_terminal_or_a_warning():
    command = [sys.executable, "-W", "error", "-m", "gruflax.demo", "--units", "2", "--epochs", "1"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr) == (0, "")
    assert "1/1" in run.stdout and "test accuracy" in run.stdout


def test_help_explains_the_options_with_their_defaults(capsys):
    with pytest.raises(SystemExit) as exit_info:
        demo.main(["--help"])
    assert exit_info.value.code == 0
    text = capsys.readouterr().out
    for option in ("--units", "--epochs", "--seed", "--output"):
        assert option in text
    assert text.count("(default: 100)") == 2 and "(default: 0)" in text
