"""What users add to Keras' layers: layers around them, functions, constraints, fields."""

import keras
import numpy as np
import pytest
from keras_models import Subclassed, draw, inputs_of

from gruflax import convert
from gruflax.keras_names.activations import ReLU
from gruflax.linen import GRU, RNN


layers = keras.layers

# Keras' own, of how NumPy reads its variables.
pytestmark = pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")


class Around(layers.Wrapper):
    """A user's wrapper."""

    def build(self, shape):
        self.layer.build(shape)
        self.built = True

    def call(self, x):
        return self.layer(x)


class Written(layers.Layer):
    """A user's layer that writes the layer inside of it into its config."""

    def __init__(self, inner, **options):
        super().__init__(**options)
        self.inner = inner

    def get_config(self):
        written = keras.saving.serialize_keras_object(self.inner)
        return {**super().get_config(), "inner": written}

    def call(self, x):
        return self.inner(x)


class OwnRNN(layers.RNN):
    """A subclass that only has another name."""


class OwnPair(layers.Bidirectional):
    """A subclass that only has another name."""


@pytest.mark.filterwarnings("ignore:Own.* is converted as Keras'")
def test_configs_inside_of_users_layers_are_read(random, tmp_path, close):
    options = {"activation": "relu", "return_sequences": True}
    gru = layers.GRU(4, name="one", go_backwards=True, **options)
    other = layers.GRU(4, name="other", **options)
    rnn = OwnRNN(layers.GRUCell(4, activation="relu"), return_sequences=True, go_backwards=True)
    pair = OwnPair(layers.GRU(4, **options), merge_mode="sum")
    model = keras.Sequential(
        [keras.Input((6, 4)), Around(gru, name="around"), Written(other), rnn, pair]
    )
    draw(model, random)
    model.save(tmp_path / "model.keras")
    model.save(tmp_path / "model.h5")
    x = inputs_of(gru, random)
    for source in (model, tmp_path / "model.keras", tmp_path / "model.h5"):
        for name, theirs in (
            ("around", gru),
            ("one", gru),
            ("other", other),
            (rnn.name, rnn),
            (pair.name, pair),
        ):
            module, variables = convert.from_keras(source, name)
            close(module.apply(variables, x), theirs(x))


@pytest.mark.filterwarnings("ignore:.*__array__")
@pytest.mark.parametrize("how", ["forward_layer", "cells", "cell"])
def test_attributes_with_names_of_keras(how, random, tmp_path, equal):
    """A layer is told by all that it holds."""
    model = Subclassed()
    if how == "forward_layer":
        model.forward_layer, model.backward_layer = layers.GRU(4), layers.GRU(4)
        more = [model.forward_layer, model.backward_layer]
    elif how == "cells":
        model.cells = more = [layers.GRU(4), layers.GRU(4)]
    else:
        model.cell = layers.GRUCell(4)
        more = [model.cell]
    for layer in more:
        layer.build((3, 4) if how == "cell" else (3, 6, 4))
    model(np.zeros((1, 6, 4), np.float32))
    draw(model, random)
    model.save(tmp_path / "model.keras")
    for theirs, names in (
        (more[0], {"forward_layer": "forward_layer", "cells": "cells/gru", "cell": "cell"}[how]),
        (
            more[-1],
            {"forward_layer": "backward_layer", "cells": "cells/gru_1", "cell": "cell"}[how],
        ),
        (model.first, "first"),
    ):
        with pytest.warns(UserWarning, match=f"config does not describe '{names}': .* defaults"):
            found = convert.from_keras(tmp_path / "model.keras", names)
        # A cell is no layer: it becomes params alone.
        params = found if names == "cell" else found[1]["params"]
        equal(convert.to_keras(params), theirs.get_weights())


def relu(x):
    """A user's function with a name of Keras."""
    return keras.ops.relu(x) / 2


def test_functions_of_users(x, random, close):
    theirs = layers.GRU(4, activation=relu)
    theirs(x)
    draw(theirs, random)
    with pytest.raises(ValueError, match="activation must be a function of Keras, got .* relu of"):
        convert.from_keras(theirs)
    module, variables = convert.from_keras(theirs, activation=relu)
    close(module.apply(variables, x), theirs(x))


class WeightClip(keras.constraints.Constraint):
    """A constraint that gruflax does not know."""

    def __call__(self, weight):
        return weight

    def get_config(self):
        return {"limit": 0.5}


class Sparse(keras.regularizers.Regularizer):
    """A regularizer that gruflax does not know."""

    def __call__(self, weight):
        return 0.0

    def get_config(self):
        return {}


class Eye(keras.initializers.Initializer):
    """An initializer that gruflax does not know."""

    def __call__(self, shape, dtype=None):
        return keras.ops.eye(*shape)

    def get_config(self):
        return {}


def test_what_outputs_do_not_depend_on_is_left_out(random, x, close):
    options = {
        "kernel_constraint": WeightClip(),
        "bias_constraint": "non_neg",
        "recurrent_regularizer": Sparse(),
        "kernel_regularizer": "l2",
        "recurrent_initializer": Eye(),
    }
    theirs = layers.GRU(4, **options)
    theirs(x)
    draw(theirs, random)
    named = "recurrent_initializer Eye, recurrent_regularizer Sparse, kernel_constraint WeightClip"
    with pytest.warns(UserWarning, match=f"{named} left out, which gruflax does not know"):
        module, variables = convert.from_keras(theirs)
    close(module.apply(variables, x), theirs(x))
    assert module.kernel_constraint is module.recurrent_regularizer is None
    assert (module.bias_constraint, module.kernel_regularizer) == ("non_neg", "l2")
    # Nothing is left out, and nothing warned of, where a field takes its place.
    module, _ = convert.from_keras(
        theirs, kernel_constraint=None, recurrent_regularizer=None, recurrent_initializer="zeros"
    )
    assert module.bias_constraint == "non_neg"


def test_activation_layers(random, x, close):
    relu = layers.ReLU(max_value=1.0, negative_slope=0.1, threshold=0.2)
    theirs = layers.GRU(4, activation=relu, recurrent_activation=layers.Activation("hard_sigmoid"))
    theirs(x)
    draw(theirs, random)
    module, variables = convert.from_keras(theirs)
    assert module.activation == ReLU(1.0, 0.1, 0.2)
    close(module.apply(variables, x), theirs(x))
    again = layers.GRU.from_config(module.get_config())
    again.build(x.shape)
    again.set_weights(convert.to_keras(module, variables))
    close(again(x), theirs(x))


def test_fields_of_an_rnn_reach_its_cells(random, x, close):
    theirs = layers.RNN([layers.GRUCell(4), layers.GRUCell(3)])
    theirs(x)
    draw(theirs, random)
    module, variables = convert.from_keras(theirs, return_sequences=True, dropout=0.2)
    assert isinstance(module, RNN) and module.return_sequences
    assert [cell.dropout for cell in module.cell.cells] == [0.2, 0.2]
    close(module.apply(variables, x)[:, -1], theirs(x))
    gru, weights = convert.from_keras(theirs.cell.cells[0].get_weights(), return_sequences=True)
    assert isinstance(gru, GRU)
