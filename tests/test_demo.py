"""The demo: its accuracy, its saved parameters, what it prints, its errors."""

import io
import os
import pathlib
import re
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest
from rich.console import Console

from gruflax.bench import measure, own_loops
from gruflax.datasets import load_japanese_vowels
from gruflax.demo import command, run, training
from gruflax.functional import LoopChoice, NativeInfo, native_info


UNITS = 12


@pytest.fixture(autouse=True)
def standard_promotion():
    """Lets Optax raise a float to an integer power, which strict promotion forbids."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture(scope="module")
def vowels():
    return training.standardise(load_japanese_vowels())


@pytest.fixture(scope="module")
def template(vowels):
    return training.create_state(jax.random.key(9), UNITS, 1, vowels.train).params


def test_default_run_reaches_the_promised_accuracy():
    outcome = training.train()
    assert outcome.accuracy >= 0.965
    assert outcome.losses[-1] < outcome.losses[0] / 3
    assert sum(leaf.size for leaf in jax.tree.leaves(outcome.params)) == 3 * 100 * 114 + 909


def test_the_last_line_loads_what_was_saved(tmp_path, capsys, vowels):
    path = tmp_path / "speakers [1]'s.msgpack"
    command.main(["--units", str(UNITS), "--epochs", "12", "--seed", "3", "--output", str(path)])
    written = capsys.readouterr().out
    names = {}
    exec(written.splitlines()[-1], names)
    for row, split in zip(("train", "test"), vowels, strict=True):
        printed = re.search(
            rf"{row} accuracy +│ ([\d.]+) % \((\d+) of {len(split.labels)}\)", written
        )
        correct = training.is_correct(UNITS, names["params"], split).sum()
        assert int(printed[2]) == correct > len(split.labels) / 9
        assert float(printed[1]) == pytest.approx(100 * correct / len(split.labels), abs=0.005)


def test_same_seed_gives_the_same_parameters_and_another_seed_others():
    calls = []
    first = training.train(UNITS, epochs=2, seed=1, report=lambda *call: calls.append(call))
    again, other = (training.train(UNITS, epochs=2, seed=seed) for seed in (1, 2))
    jax.tree.map(np.testing.assert_array_equal, first.params, again.params)
    np.testing.assert_array_equal(first.losses, again.losses)
    kernels = (outcome.params["gru"]["kernel"] for outcome in (first, other))
    assert not np.array_equal(*kernels)
    # The report of each epoch: its number and its loss.
    assert [epoch for epoch, _ in calls] == [1, 2]
    np.testing.assert_allclose([loss for _, loss in calls], first.losses)


def test_padding_does_not_change_the_logits(vowels, template):
    values, lengths, _ = vowels.test
    noise = np.random.default_rng(0).normal(scale=50, size=values.shape).astype(np.float32)
    valid = np.arange(values.shape[1]) < lengths[:, None]
    padded = np.where(valid[..., None], values, noise)
    assert (padded != values).any()
    classify = jax.jit(training.SpeakerClassifier(UNITS).apply)
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
        (["--loop", "--seed", "1"], "--loop: trains nothing, so it takes no --seed"),
        (["--loop", "--output", "f"], "--loop: trains nothing, so it takes no --output"),
    ],
)
def test_wrong_options_are_one_clear_line(tmp_path, capsys, options, complaint):
    with pytest.raises(SystemExit) as exit_info:
        command.main([option.format(folder=tmp_path) for option in options])
    assert exit_info.value.code == 2
    written = capsys.readouterr()
    assert written.out == ""
    assert written.err.startswith("gruflax.demo: error: ")
    assert written.err.endswith(complaint.format(folder=tmp_path) + "\n")
    assert written.err.count("\n") == 1


def test_an_unwritable_file_is_told_before_training(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(SystemExit):
        command.main(["--output", str(tmp_path / "file")])
    assert capsys.readouterr().err.endswith("file' cannot be written\n")


@pytest.fixture
def trained(monkeypatch, template):
    """Stands for a training of three epochs, so that only what is printed takes time."""

    def train(units, epochs, seed, report):
        for epoch in range(1, epochs + 1):
            report(epoch, 1 / epoch)
        correct = np.arange(270) % 3 > 0, np.arange(370) % 10 > 0
        return training.Outcome(template, np.zeros(epochs, np.float32), *correct, seconds=12.3)

    monkeypatch.setattr(run, "train", train)


def test_results_are_shown_even_where_saving_fails(tmp_path, capsys, monkeypatch, trained):
    def fail(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", fail)
    path = tmp_path / "file"
    with pytest.raises(SystemExit) as exit_info:
        command.main(["--output", str(path)])
    assert exit_info.value.code == 2
    written = capsys.readouterr()
    assert "90.00 % (333 of 370)" in written.out and "To load them" not in written.out
    line = f"gruflax.demo: error: argument --output: No space left on device: {str(path)!r}\n"
    assert written.err == line


def test_a_pipe_gets_whole_lines_of_each_part_and_of_some_epochs(monkeypatch):
    now = iter([0.0, 1.0, 3.0, 6.5, 7.0, 8.0])
    monkeypatch.setattr(run.time, "perf_counter", lambda: next(now))
    console = Console(file=io.StringIO(), width=80)
    with run._progress(console, 5) as report:
        assert console.file.getvalue().startswith("compiling")
        for epoch in range(1, 6):
            report(epoch, 1 / epoch)
    assert console.file.getvalue().splitlines()[1:] == [
        "epoch 1/5, loss 1.000, 1.0 s",
        "epoch 3/5, loss 0.333, 6.5 s",
        "epoch 5/5, loss 0.200, 8.0 s",
        "testing ...",
    ]


@pytest.mark.parametrize("colour", [{}, {"NO_COLOR": "1"}])
@pytest.mark.parametrize("columns", [40, 60, 120])
def test_a_terminal_of_any_width_gets_a_bar_and_a_table(colour, columns, template, trained):
    console = Console(
        file=io.StringIO(), width=columns, force_terminal=True, _environ={"TERM": "xterm", **colour}
    )
    with run._progress(console, 100) as report:
        outcome = run.train(UNITS, 100, 0, report)
    console.print(run._summary(outcome))
    written = console.file.getvalue()
    assert ("\x1b[3" in written or "\x1b[9" in written) == (not colour)
    shown = re.sub(r"\x1b\[[?\d;]*[a-zA-Z]", "", written).replace("\r", "\n")
    lines = [line for line in shown.splitlines() if line.strip()]
    assert all(len(line) <= columns for line in lines)
    assert re.fullmatch(r"compiling [━ ]+   0/100 loss \.\.\. 0:00:00", lines[0].rstrip())
    assert any(re.fullmatch(r"epoch ━+ 100/100 loss 0.010 \d:\d\d:\d\d", line) for line in lines)
    # No row is broken.
    assert "test accuracy  │ 90.00 % (333 of 370)" in shown
    assert "without dropout" in shown


@pytest.mark.parametrize("rank", ["JAX_PROCESS_ID", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK"])
@pytest.mark.parametrize("index", [0, 1])
def test_only_the_first_process_prints(monkeypatch, capsys, trained, rank, index):
    monkeypatch.setenv(rank, str(index))
    monkeypatch.setattr(run.jax, "process_index", lambda: index)
    command.main(["--epochs", "3"])
    begins = [line.partition(" ")[0] for line in capsys.readouterr().out.splitlines()]
    assert begins[:5] == ([] if index else ["A", "importing", "joining", "compiling", "epoch"])


def test_loop_times_the_loops_of_this_machine(monkeypatch, capsys):
    monkeypatch.setattr(own_loops, "CASE", own_loops.Case(2, 3, 4, 5))
    monkeypatch.setattr(own_loops, "SECONDS", 0.1)
    command.main(["--loop"])
    written = capsys.readouterr().out
    assert re.match(r"Timing .*: about \d+ seconds", written)
    assert written.count("compiling and timing") == 2
    rows = [line.split() for line in written.splitlines() if re.search(r"\d [mu]s", line)]
    assert {"scan", "chunked", "flax.linen"} <= {row[0] for row in rows}
    assert "2 sequences of 3 steps, 4 features and 5 units" in written
    assert rows[0][0] == ("native" if native_info().available else "chunked")
    assert rows[0][3] == rows[0][6] == "1.00"


@pytest.mark.parametrize("usual", ["native", "chunked"])
def test_ratios_are_those_to_the_usual_loop_even_if_another_is_faster(monkeypatch, usual):
    seconds = {"scan": 2.0, "chunked": 4.0, "native": 5.0, "flax.linen": 1.0}

    def measured(case, mode, peers, seconds_in_all):
        results = [
            measure.Result(peer.name, peer.kind, measure.spread([seconds[name]]), None, None, "")
            for peer in peers
            if (name := peer.name.removeprefix("gruflax ").strip("()")) in seconds
        ]
        return measure.Group(case, mode, tuple(results), {})

    monkeypatch.setattr(own_loops, "measure_group", measured)
    monkeypatch.setattr(own_loops, "explain_loop", lambda *_: LoopChoice(usual, usual, ()))
    said = []
    table = own_loops.loops_table(said.append)
    assert [line.split()[3] for line in said] == ["the", "training"]
    headings = [column.header for column in table.columns]
    assert headings == ["loop", "forward", f"x {usual}", "training", f"x {usual}"]
    names, _, forward, _, training = ([*column.cells] for column in table.columns)
    others = sorted(seconds.keys() - {usual}, key=seconds.__getitem__)
    assert names == [usual, *others]
    assert forward == training == [f"{seconds[name] / seconds[usual]:.2f}" for name in names]
    assert forward[0] == "1.00" > forward[1]


def test_loop_says_why_the_native_loop_is_missing():
    note = own_loops.loops_note(NativeInfo(False, None, "its kernel was not built"))
    assert note.endswith("The native loop does not run here: its kernel was not built.")


def test_runs_as_a_module_without_a_terminal_or_a_warning():
    options = [sys.executable, "-W", "error", "-m", "gruflax.demo", "--units", "2", "--epochs", "1"]
    run = subprocess.run(options, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr) == (0, "")
    assert "1/1" in run.stdout and "test accuracy" in run.stdout


def interrupted(options, environment, until):
    """Sends the demo a SIGINT after a line that begins so; returns what it printed to pipes."""
    demo = subprocess.Popen(
        [sys.executable, "-m", "gruflax.demo", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )
    lines = [demo.stdout.readline()]
    while not lines[-1].startswith(until):
        assert demo.poll() is None
        lines.append(demo.stdout.readline())
    demo.send_signal(signal.SIGINT)
    output, errors = demo.communicate(timeout=60)
    assert (demo.returncode, errors) == (130, "gruflax.demo: interrupted\n")
    return "".join(lines) + output


@pytest.mark.parametrize("moment", ["compiling", "epoch 1/"])
def test_ctrl_c_ends_it_at_any_moment_with_130(moment):
    printed = interrupted(["--units", "2", "--epochs", "1000000"], {}, moment)
    # The line is there before what it announces is over.
    assert ("epoch" in printed) == (moment == "epoch 1/")


@pytest.mark.parametrize("options", [[], ["--loop"]])
def test_it_says_what_it_does_before_it_imports_jax(tmp_path, options):
    # Instead of JAX a module that is imported for ever, and that swallows exceptions.
    slow = (
        "import os, time\nos.write(1, b'slow\\n')\nwhile True:\n    try: time.sleep(1)\n"
        "    except BaseException: pass\n"
    )
    (tmp_path / "jax.py").write_text(slow)
    path = os.pathsep.join([str(tmp_path), str(pathlib.Path(__file__).parents[1])])
    printed = interrupted(options, {"PYTHONPATH": path}, "slow")
    first = command.TIMING if options else command.INTRODUCTION
    assert printed.splitlines() == [first, "importing JAX and Flax ...", "slow"]


def test_help_explains_the_options_with_their_defaults(capsys):
    with pytest.raises(SystemExit) as exit_info:
        command.main(["--help"])
    assert exit_info.value.code == 0
    text = capsys.readouterr().out
    for option in ("--units", "--epochs", "--seed", "--output"):
        assert option in text
    assert text.count("(default: 100)") == 2 and "(default: 0)" in text
