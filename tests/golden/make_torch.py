"""Makes small GRUs of the installed torch: `python tests/golden/make_torch.py FILE`.

Each case has the state_dict of a `torch.nn.GRU`, and what it computes in eval mode.
"""

import sys

import numpy as np
import torch
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm, weight_norm
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence


LENGTHS = [5, 3, 1]

# What makes one or two weights of a GRU anew.
CHANGES = {
    "weight_norm": lambda gru: (
        weight_norm(gru, "weight_hh_l0", dim=0),
        weight_norm(gru, "weight_ih_l0", dim=1),
    ),
    "weight_norm_of_all": lambda gru: weight_norm(gru, "weight_hh_l0", dim=None),
    "new_weight_norm": lambda gru: (
        parametrizations.weight_norm(gru, "weight_hh_l0", dim=1),
        parametrizations.weight_norm(gru, "bias_ih_l0", dim=0),
    ),
    "new_weight_norm_of_all": lambda gru: parametrizations.weight_norm(
        gru, "weight_ih_l0", dim=None
    ),
    "spectral_norm": lambda gru: (
        spectral_norm(gru, "weight_hh_l0", dim=0),
        spectral_norm(gru, "weight_ih_l0", dim=1),
    ),
    "new_spectral_norm": lambda gru: (
        parametrizations.spectral_norm(gru, "weight_hh_l0", dim=1),
        parametrizations.spectral_norm(gru, "weight_ih_l0", dim=0),
    ),
    "pruned": lambda gru: prune.l1_unstructured(gru, "weight_hh_l0", amount=0.5),
    # These a state_dict does not determine.
    "orthogonal": lambda gru: parametrizations.orthogonal(gru, "weight_hh_l0"),
    "own": lambda gru: parametrize.register_parametrization(gru, "weight_hh_l0", torch.nn.Tanh()),
    "bfloat16": lambda gru: gru.bfloat16(),
}

# (layers, bidirectional, batch_first) of GRUs without changes.
PLAIN = [(1, True, False), (2, True, True), (3, False, False)]


def make_gru(layers, both, first):
    """Makes a GRU of other weights than torch's initial ones."""
    torch.manual_seed(layers)
    gru = torch.nn.GRU(3, 4, layers, batch_first=first, bidirectional=both)
    with torch.no_grad():
        for weight in gru.parameters():
            weight.add_(0.4 * torch.randn_like(weight))
    return gru


def make_changed(change):
    """Makes a case of a GRU of one layer that is changed."""
    gru = make_gru(1, False, True)
    change(gru)
    x, h_0 = (torch.randn(*shape).to(gru.bias_hh_l0.dtype) for shape in ((3, 5, 3), (1, 3, 4)))
    # Spectral norms come nearer to the true ones by a call in training mode.
    gru(x)
    gru.eval()
    return {"x": x, "h_0": h_0, "y": gru(x, h_0)[0]} | weights_of(gru)


def make_plain(layers, both, first):
    """Makes a case of whole and of packed sequences, with the states after them."""
    gru = make_gru(layers, both, first).eval()
    x, h_0 = torch.randn(3, 5, 3), torch.randn(layers * (1 + both), 3, 4)
    x = x if first else x.swapaxes(0, 1)
    y, h_n = gru(x, h_0)
    packed = pack_padded_sequence(x, torch.tensor(LENGTHS), first)
    packed_y, packed_h_n = gru(packed, h_0)
    packed_y, _ = pad_packed_sequence(packed_y, first)
    names = ("x", "h_0", "y", "h_n", "packed_y", "packed_h_n")
    return dict(zip(names, (x, h_0, y, h_n, packed_y, packed_h_n), strict=True)) | weights_of(gru)


def weights_of(gru):
    """Reads the state_dict of a GRU, under names of its own."""
    return {f"state_dict/{name}": value for name, value in gru.state_dict().items()}


def as_array(value):
    """Turns a tensor into an array; bfloat16 into its bits."""
    value = value.detach()
    if value.dtype == torch.bfloat16:
        return value.view(torch.int16).numpy().view(np.uint16)
    return value.numpy()


def make_all():
    """Makes the arrays of all cases by their names in the file."""
    cases = {name: make_changed(change) for name, change in CHANGES.items()}
    for layers, both, first in PLAIN:
        cases[f"plain_{layers}_{both}_{first}"] = make_plain(layers, both, first)
    return {
        f"{case}/{name}": as_array(tensor)
        for case, tensors in cases.items()
        for name, tensor in tensors.items()
    }


if __name__ == "__main__":
    np.savez_compressed(sys.argv[1], torch_version=torch.__version__, **make_all())
