"""torch's GRU, live, where it is installed."""

import importlib.util
import io
import itertools
import pathlib

import numpy as np
import pytest

import gruflax
from gruflax import convert


torch = pytest.importorskip("torch", reason="only what was recorded with it is tested")

FOLDER = pathlib.Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="module")
def make_torch():
    spec = importlib.util.spec_from_file_location("make_torch", FOLDER / "make_torch.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_layers_and_cell(x, equal, close):
    torch.manual_seed(1)
    for layers, both, first, bias in (
        (1, False, True, True),
        (1, True, False, False),
        (2, False, False, False),
        (2, True, True, True),
    ):
        theirs = torch.nn.GRU(4, 5, layers, bias=bias, batch_first=first, bidirectional=both)
        module, variables = convert.from_torch(theirs)
        state_dict = {name: value.numpy() for name, value in theirs.state_dict().items()}
        back = convert.to_torch(module, variables)
        equal(back, state_dict)
        close(module.apply(variables, x), theirs(torch.from_numpy(x))[0].detach().numpy())
        again = torch.nn.GRU(4, 5, layers, bias=bias, batch_first=first, bidirectional=both)
        again.load_state_dict({name: torch.from_numpy(value) for name, value in back.items()})
        assert torch.equal(again(torch.from_numpy(x))[0], theirs(torch.from_numpy(x))[0])
    cell = torch.nn.GRUCell(4, 5)
    params = convert.from_torch(cell)
    state = np.full((3, 5), 0.3, np.float32)
    wanted = cell(torch.from_numpy(x[:, 0]), torch.from_numpy(state)).detach().numpy()
    close(gruflax.gru_cell_step(params, state, x[:, 0])[0], wanted)


@pytest.mark.filterwarnings("ignore")
def test_recorded_again(make_torch, close):
    again = make_torch.make_all()
    with np.load(FOLDER / "torch_files.npz") as file:
        files = dict(file)
    assert sorted([*again, "torch_version"]) == sorted(files)
    close(*({name: np.float32(arrays[name]) for name in again} for arrays in (again, files)))


@pytest.mark.filterwarnings("ignore")
def test_weights_that_are_computed(make_torch, equal, close):
    for name in sorted({*make_torch.CHANGES} - {"bfloat16"}):
        check_weights(make_torch, name, equal, close)


def check_weights(make_torch, name, equal, close):
    """A GRU in training mode that got other weights after a call."""
    gru = make_torch.make_gru(1, False, True)
    make_torch.CHANGES[name](gru)
    x = torch.randn(3, 5, 3)
    gru(x)
    # After this the attributes of the old hooks hold what they were before, until the next call.
    gru.load_state_dict(
        {k: v if k.endswith("_u") else 1.3 * v for k, v in gru.state_dict().items()}
    )
    before = {k: v.numpy().copy() for k, v in gru.state_dict().items()}
    module, variables = convert.from_torch(gru)
    equal({k: v.numpy() for k, v in gru.state_dict().items()}, before)
    assert gru.training
    close(module.apply(variables, x.numpy()), gru.eval()(x)[0].detach().numpy())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("first", [True, False])
def test_modules_inside_of_others(first, make_torch, close):
    class Model(torch.nn.Module):
        """A GRU that the model calls in a sequence of others."""

        def __init__(self):
            super().__init__()
            gru = make_torch.make_gru(2, True, first)
            gru.dropout = 0.25
            self.encoder = torch.nn.ModuleList([torch.nn.Linear(3, 3), gru])
            self.lstm = torch.nn.LSTM(3, 4)
            self.batch_first, self.dropout = not first, 0.5

        def forward(self, x):
            return self.encoder[1](x)[0]

    def loaded(model):
        file = io.BytesIO()
        torch.jit.save(model, file)
        file.seek(0)
        return torch.jit.load(file)

    model, x = Model().eval(), torch.randn(3, 5, 3)
    traced = torch.jit.trace(model, x)
    scripted = torch.jit.script(model)
    models = [model, torch.compile(model), torch.nn.DataParallel(model), traced, scripted]
    wanted = model(x).detach().numpy()
    for each in (*models, loaded(traced), loaded(scripted), loaded(torch.jit.trace(traced, x))):
        for prefix in ("", "encoder.1"):
            module, variables = convert.from_torch(each, prefix=prefix)
            assert module.dropout == 0.25
            close(module.apply(variables, x.numpy()), wanted)
    exported = torch.export.export(model, (x,))
    for each in (exported, exported.module()):
        with pytest.raises(ValueError, match="not tell its batch_first and dropout"):
            convert.from_torch(each)
        module, variables = convert.from_torch(each, batch_first=first, dropout=0)
        close(module.apply(variables, x.numpy()), wanted)


@pytest.mark.filterwarnings("ignore")
def test_modules_that_are_refused():
    for cls in (torch.nn.GRU, torch.nn.GRUCell):
        model = torch.nn.Sequential(cls(4, 5))
        packed = torch.ao.quantization.quantize_dynamic(model, {cls}, dtype=torch.qint8)
        with pytest.raises(ValueError, match="got packed ones of a quantized model"):
            convert.from_torch(packed)
    for cls, kind in ((torch.nn.LSTM, "LSTM"), (torch.nn.RNN, "RNN"), (torch.nn.LSTMCell, "LSTM")):
        with pytest.raises(ValueError, match=f"got what looks like {kind} ''"):
            convert.from_torch(cls(4, 5))
    with pytest.raises(ValueError, match="must hold a weight_ih_l0 that can be read: .*no data"):
        convert.from_torch(torch.nn.GRU(4, 5, device="meta"))


@pytest.mark.parametrize("name", ["float16", "bfloat16", "float64"])
def test_dtypes(name, make_torch, equal):
    gru = make_torch.make_gru(2, True, False).to(getattr(torch, name))
    for source in (gru, dict(gru.named_parameters())):
        module, variables = convert.from_torch(source)
        assert module.layers[0].layer.param_dtype == name
        back = convert.to_torch(module, variables)
        assert {each.dtype for each in back.values()} == {np.dtype(name)}
        for key, array in back.items():
            wide = torch.from_numpy(array.astype(np.float64))
            assert torch.equal(wide, gru.state_dict()[key].double())


def test_states_and_packed_sequences(make_torch, close):
    lengths = torch.tensor([5, 3, 1])
    for layers, both, first in itertools.product((1, 2, 3), (False, True), (False, True)):
        gru = make_torch.make_gru(layers, both, first).eval()
        x, h_0 = torch.randn(3, 5, 3), torch.randn(layers * (1 + both), 3, 4)
        x = x if first else x.swapaxes(0, 1)
        y, h_n = gru(torch.nn.utils.rnn.pack_padded_sequence(x, lengths, first), h_0)
        y, _ = torch.nn.utils.rnn.pad_packed_sequence(y, first)
        module, variables = convert.from_torch(gru, return_state=True)
        start = convert.from_torch_state(module, h_0)
        outputs, *state = module.apply(
            variables, x.numpy(), initial_state=start, seq_lengths=lengths.numpy()
        )
        wanted = (y.detach().numpy(), h_n.detach().numpy())
        close((outputs, convert.to_torch_state(module, state)), wanted)
