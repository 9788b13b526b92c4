"""Layers inside of Keras' models and wrappers, live and in files of the installed Keras."""

import keras
import numpy as np
import pytest
from keras_models import Holder, OwnCell, OwnGRU, Subclassed, draw, inputs_of

from gruflax import convert
from gruflax.linen import RNN, Bidirectional


layers = keras.layers

# Keras' own, of how NumPy reads its variables.
pytestmark = pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")


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
