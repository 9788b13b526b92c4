"""Layers inside of Keras' models and wrappers, live and in files of the installed Keras."""

import keras
import numpy as np
import pytest

from gruflax import convert
from gruflax.keras_names.activations import ReLU
from gruflax.linen import GRU, RNN, Bidirectional


layers = keras.layers

# Keras' own, of how NumPy reads its variables.
pytestmark = pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")


class OwnGRU(layers.GRU):
    """A subclass whose config has more than a GRU's."""

    def __init__(self, units, depth=2, **options):
        super().__init__(units, **options)
        self.depth = depth

    def get_config(self):
        return {**super().get_config(), "depth": self.depth}


class OwnCell(layers.GRUCell):
    """A subclass that only has another name."""


class Holder(layers.Layer):
    """A user's layer, which holds a GRU and says nothing of it in its config."""

    def __init__(self, **options):
        super().__init__(**options)
        self.encode = layers.GRU(3, return_sequences=True, name="held")

    def call(self, x):
        return self.encode(x)


class Subclassed(keras.Model):
    """A model of a user, with layers as attributes, in lists and inside of a layer."""

    def __init__(self):
        super().__init__()
        self.first = layers.GRU(4, return_sequences=True, name="first_gru")
        self.blocks = [Holder(), layers.Bidirectional(layers.GRU(2), name="pair")]

    def call(self, x):
        x = self.first(x)
        for block in self.blocks:
            x = block(x)
        return x


def inputs_of(layer, random):
    """Inputs [b, t, f] of a layer."""
    return random.normal(size=(3, 6, layer.get_weights()[0].shape[0])).astype(np.float32)


def draw(model, random):
    model.set_weights([0.6 * random.normal(size=each.shape) for each in model.get_weights()])
    return model


@pytest.fixture
def model(random):
    """A functional model: two models whose GRUs have one name, and what TimeDistributed holds."""

    def sequential(name):
        gru = layers.GRU(4, return_sequences=True, name="gru")
        return keras.Sequential([keras.Input((None, 4)), gru], name=name)

    inputs = keras.Input((6, 4))
    x = sequential("below")(inputs)
    x = sequential("above")(x)
    x = layers.Bidirectional(
        layers.RNN(layers.GRUCell(2), return_sequences=True), merge_mode="sum", name="both"
    )(x)
    x = Holder(name="holder")(x)
    x = layers.Reshape((2, 3, 3))(x)
    x = layers.TimeDistributed(layers.GRU(2, return_sequences=True, name="part"), name="each")(x)
    encoder = keras.Sequential([layers.GRU(2, name="inside")], name="encoder")
    return draw(keras.Model(inputs, layers.TimeDistributed(encoder, name="outer")(x)), random)


def live(model):
    """The recurrent layers of the model by what they may be called."""
    find = model.get_layer
    return {
        "below/gru": find("below").layers[0],
        "above/gru": find("above").layers[0],
        "both": find("both"),
        "held": find("holder").encode,
        "each": find("each").layer,
        "part": find("each").layer,
        "inside": find("outer").layer.layers[0],
        "outer/encoder/inside": find("outer").layer.layers[0],
    }


@pytest.mark.filterwarnings("ignore")
def test_models_hold_grus_at_any_depth(model, random, tmp_path, close, equal):
    for suffix in (".keras", ".h5"):
        model.save(tmp_path / f"model{suffix}")
    for name, theirs in live(model).items():
        x = inputs_of(theirs, random)
        for source in (model, tmp_path / "model.keras", tmp_path / "model.h5"):
            # A file does not say what a user's own layer holds.
            alone = {} if source is model or name != "held" else {"return_sequences": True}
            module, variables = convert.from_keras(source, name, **alone)
            close(module.apply(variables, x), theirs(x))
        equal(convert.to_keras(module, variables), theirs.get_weights())
    for source in (model, tmp_path / "model.keras"):
        with pytest.raises(
            ValueError, match=r"\['above/gru', 'below/gru', 'both', 'each', 'held',"
        ):
            convert.from_keras(source, "gru")


def test_time_distributed(model, close):
    """A layer that it wraps is found alone, too: it runs over one more axis by `jax.vmap`."""
    theirs = model.get_layer("each")
    module, variables = convert.from_keras(theirs)
    x = np.random.default_rng(1).normal(size=(3, 2, 3, 3)).astype(np.float32)
    # A layer of gruflax takes any number of batch axes.
    close(module.apply(variables, x), theirs(x))


@pytest.mark.filterwarnings("ignore")
def test_subclassed_models(random, tmp_path, close):
    model = Subclassed()
    model(np.zeros((1, 6, 4), np.float32))
    draw(model, random)
    model.save(tmp_path / "model.keras")
    model.save_weights(tmp_path / "model.weights.h5")
    holder, pair = model.blocks
    for theirs, names in (
        (model.first, ("first_gru", "first")),
        (holder.encode, ("held", "blocks/holder/encode")),
        (pair, ("pair", "blocks/bidirectional")),
    ):
        x = inputs_of(theirs, random)
        module, variables = convert.from_keras(model, names[0])
        close(module.apply(variables, x), theirs(x))
        for path in (tmp_path / "model.keras", tmp_path / "model.weights.h5"):
            for name in names:
                module, variables = convert.from_keras(
                    path, name, return_sequences=theirs is not pair
                )
                close(module.apply(variables, x), theirs(x))


@pytest.mark.filterwarnings("ignore:trainable=False")
@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_frozen_parts(suffix, random, tmp_path, close, equal):
    """Their weights come last in an `.h5` file, and in what `get_weights` of Keras 2 returns."""
    pair = layers.Bidirectional(layers.GRU(4, return_sequences=True), merge_mode="sum", name="pair")
    deep = layers.RNN([layers.GRUCell(4, use_bias=each) for each in (True, False, True)])
    model = draw(keras.Sequential([keras.Input((6, 4)), pair, deep]), random)
    pair.forward_layer.trainable = deep.cell.cells[0].trainable = False
    model.save(tmp_path / f"model{suffix}")
    x = random.normal(size=(3, 6, 4)).astype(np.float32)
    for theirs in (pair, deep):
        for source in (model, tmp_path / f"model{suffix}"):
            module, variables = convert.from_keras(source, theirs.name)
            close(module.apply(variables, x), theirs(x))


def test_subclasses(random, x, close):
    own = layers.RNN([OwnCell(4), layers.GRUCell(4)], return_sequences=True)
    for theirs, name in ((OwnGRU(4), "OwnGRU"), (own, "OwnCell")):
        theirs(x)
        draw(theirs, random)
        with pytest.warns(
            UserWarning, match=f"{name} is converted as Keras' GRU.*subclass"
        ) as seen:
            module, variables = convert.from_keras(theirs)
        depth = ["['depth'] in its config mean" in str(each.message) for each in seen]
        assert any(depth) == (name == "OwnGRU")
        close(module.apply(variables, x), theirs(x))


@pytest.mark.parametrize("inner", [layers.GRUCell(4), [layers.GRUCell(4), layers.GRUCell(2)]])
def test_pairs_of_rnns(inner, random, x, close, equal):
    theirs = layers.Bidirectional(layers.RNN(inner, return_state=True), merge_mode="mul")
    theirs(x)
    draw(theirs, random)
    module, variables = convert.from_keras(theirs)
    assert isinstance(module, Bidirectional) and isinstance(module.layer, RNN)
    close(module.apply(variables, x), theirs(x))
    equal(convert.to_keras(module, variables), theirs.get_weights())
    again = layers.Bidirectional.from_config(module.get_config())
    again.build(x.shape)
    again.set_weights(convert.to_keras(module, variables))
    close(again(x), theirs(x))


@pytest.mark.filterwarnings("ignore:trainable=False")
@pytest.mark.parametrize("frozen", [False, True])
def test_models_inside_of_models(frozen, random, tmp_path, close):
    """The names in an `.h5` file have the innermost model only."""
    grus = [layers.GRU(4, return_sequences=True, name=name) for name in ("gru", "b", "gru", "d")]
    inside = grus[0]
    for depth, gru in enumerate(grus[1:]):
        inside = keras.Sequential([keras.Input((6, 4)), inside, gru], name=f"model_{depth}")
    inputs = keras.Input((6, 4))
    model = draw(keras.Model(inputs, inside(inputs)), random)
    grus[0].trainable = grus[3].trainable = not frozen
    x = random.normal(size=(3, 6, 4)).astype(np.float32)
    outer = "model_2/model_1/model_0/"
    for suffix in (".keras", ".h5"):
        model.save(tmp_path / f"model{suffix}")
        for name, theirs in zip(
            (f"{outer}gru", "b", "model_2/model_1/gru", "d"), grus, strict=True
        ):
            module, variables = convert.from_keras(tmp_path / f"model{suffix}", name)
            close(module.apply(variables, x), theirs(x))


@pytest.mark.filterwarnings("ignore:.*converted as Keras' RNN")
def test_a_gru_that_two_models_share(random, tmp_path, close):
    gru = layers.GRU(4, return_sequences=True, name="shared")
    inputs = x = keras.Input((6, 4))
    for name in ("a", "b"):
        x = keras.Sequential([keras.Input((6, 4)), gru], name=name)(x)
    model = draw(keras.Model(inputs, x), random)
    model.save(tmp_path / "model.keras")
    model.save(tmp_path / "model.h5")
    x = inputs_of(gru, random)
    for source in (model, tmp_path / "model.keras", tmp_path / "model.h5"):
        for name in ("a/shared", "b/shared"):
            module, variables = convert.from_keras(source, name)
            close(module.apply(variables, x), gru(x))


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
