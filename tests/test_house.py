"""The house: which room imports which, what is not imported, and Keras' signatures."""

import ast
import datetime
import graphlib
import importlib.metadata
import inspect
import io
import pathlib
import re
import subprocess
import sys
import tokenize

import keras
import pytest

import gruflax
import gruflax.nnx
from gruflax.compat import v1


PACKAGE = pathlib.Path(gruflax.__file__).parent

# Lines of code that the package may have, without docstrings, comments and blank lines.
LINES = 9400

# From the top to the ground; a room imports from those after it only.
ROOMS = (
    "demo",
    "bench",
    "compat",
    "convert",
    "nnx",
    "linen",
    "layers",
    "keras_names",
    "functional",
)

# TensorFlow 2.2's, `tf.compat.v1.keras.layers.GRU` and `GRUCell`.
V1_CELL = (
    "units activation recurrent_activation use_bias kernel_initializer recurrent_initializer "
    "bias_initializer kernel_regularizer recurrent_regularizer bias_regularizer kernel_constraint "
    "recurrent_constraint bias_constraint dropout recurrent_dropout implementation reset_after"
).split()
V1_LAYER = (
    "units activation recurrent_activation use_bias kernel_initializer recurrent_initializer "
    "bias_initializer kernel_regularizer recurrent_regularizer bias_regularizer "
    "activity_regularizer kernel_constraint recurrent_constraint bias_constraint dropout "
    "recurrent_dropout implementation return_sequences return_state go_backwards stateful unroll "
    "reset_after"
).split()


def imports_of(room):
    """The rooms of gruflax that a room's files name in their imports."""
    path = PACKAGE / room
    files = path.rglob("*.py") if path.is_dir() else [path.with_suffix(".py")]
    text = "\n".join(file.read_text() for file in files)
    return set(re.findall(r"^ *(?:from|import) gruflax\.(\w+)", text, re.MULTILINE))


@pytest.mark.parametrize("room", ROOMS)
def test_arrows_point_down(room):
    above = set(ROOMS[: ROOMS.index(room)])
    # linen and NNX are side by side.
    above |= {"linen"} if room == "nnx" else {"nnx"} if room == "linen" else set()
    assert not imports_of(room) & above


def test_the_functional_core_imports_jax_and_numpy_only():
    assert imports_of("functional") == {"functional"}
    files = (PACKAGE / "functional").rglob("*.py")
    others = {"flax", "optax", "keras", "rich", "h5py", "onnx", "torch"}
    for file in files:
        found = re.findall(r"^ *(?:from|import) (\w+)", file.read_text(), re.MULTILINE)
        assert not others & set(found), file


def import_graph(room):
    """`{module: the modules of its room that it imports}`, at its top or inside of functions."""
    files = {}
    for file in (PACKAGE / room).rglob("*.py"):
        parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
        files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    graph = {}
    for module, file in files.items():
        names = set()
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                # A name is a module, or else of the module that it is imported from.
                found = {f"{node.module}.{alias.name}" for alias in node.names}
                names |= {name if name in files else node.module for name in found}
        graph[module] = names & set(files)
    return graph


@pytest.mark.parametrize("room", ROOMS)
def test_imports_go_in_no_circle(room):
    graph = import_graph(room)
    assert len(graph) > 1
    graphlib.TopologicalSorter(graph).prepare()


def modules_after(code):
    """The modules that a new interpreter has imported after some code."""
    code = f"import sys; {code}; print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(found.stdout.split())


def test_using_a_layer_imports_nothing_that_is_asked_for_elsewhere():
    names = {name for name in modules_after("import gruflax; gruflax.GRU") if "gruflax" in name}
    assert "gruflax.linen.gru" in names
    absent = ("cudnn", "nnx", "bench", "convert", "compat", "plot", "demo", "datasets")
    assert not [name for name in names if set(name.split(".")) & set(absent)]


def test_a_name_is_imported_when_it_is_used():
    assert "jax" not in modules_after("import gruflax")
    names = modules_after("import gruflax; gruflax.gru_sequence, gruflax.functional.gru_cell_step")
    assert "jax" in names and "flax" not in names


def test_every_public_name_is_there_and_no_other():
    assert set(gruflax.__all__) <= set(dir(gruflax))
    assert not [name for name in dir(gruflax) if name.startswith("_") or name == "importlib"]
    for name in gruflax.__all__:
        assert getattr(gruflax, name).__name__ == name
    assert gruflax.linen.GRU is gruflax.GRU and gruflax.hosts.join and gruflax.nnx.GRU
    for absent in ("GRUs", "jax", "nonsense"):
        with pytest.raises(AttributeError, match=f"'gruflax' has no attribute '{absent}'"):
            getattr(gruflax, absent)


def test_the_version_is_that_of_the_package_and_of_the_changelog():
    assert importlib.metadata.version("gruflax") == gruflax.__version__
    changelog = (PACKAGE.parent / "CHANGELOG.md").read_text()
    version, date = re.search(r"^## \[(\d\S*)\] - (\S+)$", changelog, re.MULTILINE).groups()
    assert version == gruflax.__version__
    assert datetime.date.fromisoformat(date) >= datetime.date(2026, 11, 25)


def test_files_are_neither_long_nor_tiny():
    lengths = {
        str(file.relative_to(PACKAGE)): len(file.read_text().splitlines())
        for file in PACKAGE.rglob("*.py")
    }
    assert max(lengths.values()) <= 400
    tiny = [name for name, length in lengths.items() if length < 40 and "__" not in name]
    assert len(tiny) <= 3, tiny


def lines_of_code(source):
    """The lines that are neither docstring, comment nor blank, and how often `Any` is named."""
    docstrings, code, anys = set(), set(), 0
    owners = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, owners) and ast.get_docstring(node, clean=False) is not None:
            docstrings |= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    layout = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in (*layout, tokenize.ENDMARKER):
            code |= set(range(token.start[0], token.end[0] + 1))
        anys += token.type == tokenize.NAME and token.string == "Any"
    return len(code - docstrings), anys


def test_lines_of_code_are_counted_right():
    source = '"""One."""\n\nx: Any = f(  # why\n    """no docstring"""\n)\n\n\n# end\n'
    assert lines_of_code(source) == (3, 1)


def test_the_house_stays_small_and_its_types_say_something():
    counts = [lines_of_code(file.read_text()) for file in PACKAGE.rglob("*.py")]
    lines, anys = map(sum, zip(*counts, strict=True))
    assert lines <= LINES, lines
    assert anys <= lines / 50, anys


def test_no_two_files_differ_by_an_s():
    stems = {file.stem for file in PACKAGE.rglob("*.py")} - {"__init__"}
    assert not {stem for stem in stems if f"{stem}s" in stems}


def test_linen_and_nnx_have_the_same_files():
    files = [{file.name for file in (PACKAGE / room).glob("*.py")} for room in ("linen", "nnx")]
    assert files[0] - files[1] == {"config.py"} and not files[1] - files[0]


LAYERS = [
    getattr(room, name)
    for room in (gruflax.linen, gruflax.nnx)
    for name in ("GRU", "GRUCell", "RNN", "Bidirectional", "Stack", "StackedRNNCells")
]


@pytest.mark.parametrize("cls", LAYERS, ids=lambda cls: f"{cls.__module__}.{cls.__name__}")
def test_a_layer_has_at_most_three_classes_of_ours_above_it(cls):
    above = [base for base in cls.__mro__[1:] if base.__module__.startswith("gruflax")]
    assert len(above) <= 3, above


@pytest.mark.parametrize(
    "thing",
    [*LAYERS, v1.GRU, v1.GRUCell, gruflax.GRUConfig, gruflax.DropoutMasks]
    + [getattr(gruflax, name) for name in gruflax.__all__ if name[0].islower()],
    ids=lambda thing: f"{thing.__module__}.{thing.__name__}",
)
def test_what_users_import_lists_its_arguments(thing):
    listed = re.findall(r"^ {4,8}\*{0,2}(\w+): ", thing.__doc__, re.MULTILINE)
    # A metaclass hides the arguments of NNX' classes.
    made = thing.__init__ if thing.__module__.startswith("gruflax.nnx") else thing
    wanted = set(parameters(made)) - {"self", "parent"}
    assert wanted <= set(listed), sorted(wanted - set(listed))


def parameters(cls):
    skipped = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    found = inspect.signature(cls).parameters.values()
    return {each.name: each.default for each in found if each.kind not in skipped}


@pytest.mark.parametrize("name", ["GRU", "GRUCell", "RNN", "Bidirectional", "StackedRNNCells"])
def test_positional_order_and_defaults_are_keras(name):
    theirs, ours = parameters(getattr(keras.layers, name)), parameters(getattr(gruflax, name))
    # Weights are no argument of a Flax module.
    theirs.pop("weights", None)
    assert list(ours)[: len(theirs)] == list(theirs)
    assert {key: ours[key] for key in theirs} == theirs


@pytest.mark.parametrize(("cls", "wanted"), [(v1.GRU, V1_LAYER), (v1.GRUCell, V1_CELL)])
def test_positional_order_is_v1s(cls, wanted):
    ours = parameters(cls)
    assert list(ours)[: len(wanted)] == wanted
    assert ours["recurrent_activation"] == "hard_sigmoid"
    assert (ours["implementation"], ours["reset_after"]) == (1, False)
