"""What an activation's config may hold."""

import pytest

from gruflax.functional.activations import ACTIVATIONS
from gruflax.keras_names import activations


@pytest.mark.parametrize("form", [{"class_name": "HardSigmoid"}, {"class_name": "hard_sigmoid"}])
def test_old_configs_load(form):
    assert activations.get(form | {"config": {}}) is ACTIVATIONS["hard_sigmoid"]


@pytest.mark.parametrize("form", [{}, {"class_name": "function"}, {"class_name": 3}])
def test_malformed_configs_are_no_linear(form):
    with pytest.raises(ValueError, match="config of activation must name a function"):
        activations.get(form)


def test_arguments_are_not_dropped():
    with pytest.raises(ValueError, match="LeakyReLU has unknown keys, got .*negative_slope"):
        activations.get({"class_name": "LeakyReLU", "config": {"negative_slope": 0.5}})
