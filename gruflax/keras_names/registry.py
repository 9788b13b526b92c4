"""The look-up that initializers, regularizers and constraints share."""

import dataclasses
import inspect
import re
import reprlib
from collections.abc import Callable, Mapping
from typing import Any

from gruflax.functional.checks import brief


# TensorFlow 1 wrote the weight's dtype into its initializers; here the layer's param_dtype decides.
_IGNORED = ("dtype",)

# Keras 3.15 writes these for kernels of more than two axes; None asks for nothing.
_IGNORED_IF_NONE = ("input_axes", "output_axes")


@dataclasses.dataclass(frozen=True)
class Registry:
    """The look-up of Keras' objects of one kind.

    Attributes:
        kind: "initializer", "regularizer" or "constraint".
        classes: by Keras' class name: frozen dataclasses with Keras' arguments, callable.
        aliases: other names, and what they stand for: a class, or a function that makes an object.
    """

    kind: str
    classes: Mapping[str, type]
    aliases: Mapping[str, Callable[[], object]]

    def identify(self, identifier: object, field: str | None = None) -> Any:
        """Returns the name of an object with default arguments, and any other object as it is.

        So equal objects become equal values.
        """
        field = field or self.kind
        if identifier is None:
            return None
        if isinstance(identifier, str):
            identifier = self._by_name(identifier, field)()
        elif isinstance(identifier, Mapping):
            identifier = self._from_config(identifier, field)
        elif inspect.isclass(identifier):
            identifier = identifier()
        if not callable(identifier):
            raise TypeError(
                f"{field} must be a name, a config dict, a callable or None, "
                f"got {brief(identifier)}."
            )
        if (
            not _is_known(identifier, self.classes)
            or identifier != self.classes[type(identifier).__name__]()
        ):
            return identifier
        return snake_case(type(identifier).__name__)

    def get(self, identifier: object, field: str | None = None) -> Any:
        """Looks up a callable: takes what `identify` takes; None for None."""
        found = self.identify(identifier, field)
        return self._by_name(found, field or self.kind)() if isinstance(found, str) else found

    def serialize(self, identifier: object) -> Any:
        """Writes an object as Keras 3 does."""
        found = self.get(identifier)
        if not _is_known(found, self.classes):
            return found
        return {
            "module": f"keras.{self.kind}s",
            "class_name": type(found).__name__,
            "config": dataclasses.asdict(found),
            "registered_name": None,
        }

    def _by_name(self, name: str, field: str) -> Callable[[], object]:
        if name in self.aliases:
            return self.aliases[name]
        spellings = {known.lower(): cls for known, cls in self.classes.items()}
        found = spellings.get(name.replace("_", "").lower())
        if found is None:
            known = sorted({snake_case(each) for each in (*self.classes, *self.aliases)})
            raise ValueError(f"{field} must be one of {known}, got {name!r}.")
        return found

    def _from_config(self, config: Mapping[str, object], field: str) -> object:
        name, entries = config.get("class_name"), config.get("config") or {}
        if not isinstance(name, str) or not isinstance(entries, Mapping):
            raise ValueError(
                f"config of {field} must have a 'class_name' and a dict as 'config', "
                f"got {reprlib.repr(dict(config))}."
            )
        cls = self._by_name(name, field)
        # A config holds every argument, so that an alias is as good as its class.
        cls = cls if inspect.isclass(cls) else type(cls())
        arguments = {
            key: _plain(value)
            for key, value in entries.items()
            if key not in _IGNORED and not (key in _IGNORED_IF_NONE and value is None)
        }
        known = list(inspect.signature(cls).parameters)
        unknown = sorted(set(arguments) - set(known))
        if unknown:
            raise ValueError(
                f"config of {cls.__name__} has unknown keys {unknown}, not in {known}."
            )
        return cls(**arguments)


def _plain(value: object) -> object:
    """A value of a config as an argument."""
    if isinstance(value, list):
        # JSON knows no tuples, and a list would make the object unhashable.
        return tuple(value)
    if isinstance(value, Mapping) and value.get("class_name") == "SeedGenerator":
        # Keras writes a generator, of which only the seed that it began with has a meaning here.
        return (value.get("config") or {}).get("seed")
    return value


def snake_case(name: str) -> str:
    """Returns what Keras makes of the name of a class: "GlorotUniform" is "glorot_uniform"."""
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", name))
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()


def _is_known(value: object, classes: Mapping[str, type]) -> bool:
    return type(value) in classes.values()
