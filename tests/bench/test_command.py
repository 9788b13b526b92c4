"""The command line: what it measures, what it prints, how it refuses."""

import jax
import pytest

from gruflax.bench import command, measure
from gruflax.bench.case import Case
from gruflax.bench.command import build_parser
from gruflax.bench.plan import FULL_SHAPES, GPU_SHAPES, MEMORY_SHAPE, VARIANTS


@pytest.fixture
def still(monkeypatch):
    """Replaces the timings, so that nothing here takes its time."""

    def interleave(runs, seconds):
        return {name: [1.0] * 3 for name in runs}

    monkeypatch.setattr(measure, "interleave", interleave)


def plan(*options, device="cpu"):
    return command.plan(build_parser().parse_args(list(options)), device)


def names(task):
    return [peer.name for peer in task.peers]


def test_the_full_run_has_every_shape_mask_and_mode():
    *tasks, memory = plan()
    plain = len(tasks) - len(plan("--variants"))
    assert tasks[plain:] == plan("--variants")
    timed = tasks[:plain]
    assert len(timed) == len(FULL_SHAPES) * 2 * 2
    assert {task.case.shape for task in timed} == set(FULL_SHAPES)
    assert {(task.case.masked, task.mode) for task in timed} == {
        (masked, mode) for masked in (False, True) for mode in ("forward", "value_and_grad")
    }
    assert all(task.seconds == 10 for task in timed)
    libraries = "flax.linen flax.nnx haiku equinox keras torch onnxruntime".split()
    assert names(timed[0])[-7:] == libraries
    # Memory is compiled, not timed.
    assert memory.case.shape == MEMORY_SHAPE and memory.seconds == 0
    assert "flax.linen" in names(memory) and "gruflax (auto)" in names(memory)


def test_variants_are_timed_where_they_matter_beside_what_they_are_compared_with():
    tasks = plan("--variants")
    modes = {}
    for task in tasks:
        modes.setdefault(task.case, []).append(task.mode)
    *variants, narrow = modes
    assert tuple(variants) == VARIANTS and narrow == Case(32, 100, 64, 128, "bfloat16")
    training = [case for case, asked in modes.items() if asked == ["value_and_grad"]]
    assert [(case.per_example, case.dropout) for case in training] == [(True, 0.0), (False, 0.1)]
    last = {task.case: names(task)[-2:] for task in tasks}
    assert last[variants[0]] == ["torch", "onnxruntime"]
    assert last[training[1]] == ["onnxruntime", "gruflax without dropout"]
    assert last[narrow] == ["onnxruntime", "gruflax in float32"]


def test_variants_take_the_dtypes_and_modes_of_others_and_a_mask_where_all_have_one():
    options = ["--variants", "--dtypes", "float64", "--modes", "forward"]
    *tasks, narrow = plan(*options, "--masks", "on", device="gpu")
    assert {task.mode for task in tasks} == {"forward"} and len(tasks) == 4
    assert {task.case.kind for task in tasks} == {"float64, masked, vmapped parameters"}
    assert narrow.case == Case(32, 100, 64, 128, "bfloat16", masked=True, device="gpu")
    # The case that is in both lists is timed once.
    cases = [(task.case, task.mode) for task in plan("--dtypes", "bfloat16")]
    assert len(set(cases)) == len(cases)


def test_quick_is_small_and_gives_way_to_other_options():
    *tasks, forward, training = plan("--quick")
    assert forward.case == training.case and forward.case.members and forward.seconds == 1.0
    assert plan("--quick", "--variants") == [forward, training]
    assert len(tasks) == 4 and {task.seconds for task in tasks} == {1.0}
    assert names(tasks[0])[-2:] == ["flax.linen", "flax.nnx"]
    assert not any(task.case.masked for task in tasks)
    options = ["--quick", "--shapes", "1,2,3,4", "--peers", "keras", "--seconds", "2"]
    first, second = plan(
        *options, "--masks", "on", "--modes", "forward", "--dtypes", "float64", "bfloat16"
    )
    assert first.case.shape == (1, 2, 3, 4) and first.case.masked and first.seconds == 2.0
    assert (first.case.dtype, second.case.dtype) == ("float64", "bfloat16")
    assert names(first)[-1] == "keras"


def test_a_gpu_has_its_own_shapes():
    *timed, memory = plan("--masks", "off", device="gpu")
    plain = {task.case.shape for task in timed if task.case.kind == "float32"}
    assert plain == set(GPU_SHAPES)
    assert {task.case.device for task in (*timed, memory)} == {"gpu"}
    assert plan("--quick", device="gpu")[0].case.shape == plan("--quick")[0].case.shape


def test_a_run_prints_what_it_found(still, capsys):
    shape = ["--shapes", "2,3,4,5", "--modes", "forward", "--masks", "on"]
    with jax.numpy_dtype_promotion("standard"):
        command.main([*shape, "--peers", "flax.linen", "haiku"])
    printed = capsys.readouterr().out
    assert "forward (2, 3, 4, 5) float32 masked" in printed and "gruflax (auto)" in printed
    assert "haiku" in printed and "left out" in printed and "in short" in printed


def error_of(capsys, *options):
    with pytest.raises(SystemExit) as exit_info:
        command.main(list(options))
    written = capsys.readouterr().err
    assert written.startswith("gruflax.bench: error: ") and written.count("\n") == 1
    return exit_info.value.code, written.removeprefix("gruflax.bench: error: ").strip()


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--shapes", "1,2,3"], "four positive integers, batch,time,features,units, not '1,2,3'"),
        (["--shapes", "1,2,3,0"], "four positive integers, batch,time,features,units, not '1,2"),
        (["--shapes", "a,b,c,d"], "four positive integers"),
        (["--peers", "jaxgru"], "--peers: must be one of flax.linen, flax.nnx, haiku, equinox"),
        (["--seconds", "0"], "--seconds: must be an integer from 1 to 86400, not '0'"),
        (["--seconds", "ten"], "--seconds: must be an integer from 1 to 86400, not 'ten'"),
        (["--seconds", "nan"], "--seconds: must be an integer from 1 to 86400, not 'nan'"),
        (["--masks", "some"], "--masks: must be one of off, on, both, not 'some'"),
        (["--dtypes", "int8"], "--dtypes: must be one of float32, bfloat16, float16, float64"),
        (["--modes", "backward"], "--modes: must be one of forward, value_and_grad"),
        (["--shapes", "1,2,3,4", "--variants"], "--variants: not allowed with argument --shapes"),
        (["--fast"], "unrecognized arguments: --fast"),
    ],
)
def test_wrong_options_are_one_clear_line(capsys, options, complaint):
    status, written = error_of(capsys, *options)
    assert status == 2 and complaint in written


def test_a_device_that_is_not_there_is_one_clear_line(capsys):
    status, written = error_of(capsys, "--device", "tpu")
    assert status == 2
    assert written == "argument --device: JAX finds no tpu here, only cpu"


def test_a_disagreement_ends_the_run(capsys, monkeypatch):
    def disagree(*arguments):
        raise measure.DisagreementError("a and b differ")

    monkeypatch.setattr(command, "measure_group", disagree)
    with pytest.raises(SystemExit) as exit_info:
        command.main(["--quick"])
    assert exit_info.value.code == 1
    assert capsys.readouterr().err == "gruflax.bench: error: a and b differ\n"


def test_help_explains_every_option(capsys):
    with pytest.raises(SystemExit) as exit_info:
        command.main(["--help"])
    assert exit_info.value.code == 0
    text = capsys.readouterr().out
    options = "shapes variants quick peers masks dtypes modes device seconds"
    for option in options.split():
        assert f"--{option}" in text
    assert "default: 10; with --quick 1" in " ".join(text.split())
