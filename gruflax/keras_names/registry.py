"""The look-up of Keras' objects by name or config, for initializers, regularizers, constraints."""

import dataclasses
import inspect
import re
import reprlib
from collections.abc import Callable, Mapping
from typing import Any

from gruflax.functional.checks import brief


# TensorFlow 1 wrote the weight's dtype into the config of an initializer; here the layer's
# param_dtype decides.
_IGNORED = ("dtype",)

# Keras 3.15 has these arguments for kernels of more than two axes; a GRU's are None.
_IGNORED_IF_NONE = ("input_axes", "output_axes")


@dataclasses.dataclass(frozen=True)
class Registry:
    """The look-up of Keras' objects of one kind.

    Attributes:
        kind: "initializer", "regularizer" or "constraint".
        classes: frozen dataclasses with Keras' names and arguments, whose objects are callable.
        aliases: other names of Keras for them: each stands for a class, or for a function that
            makes an object.
    """

    kind: str
    classes: tuple[type, ...]
    aliases: Mapping[str, Callable[[], object]]

    def identify(self, identifier: object, field: str | None = None) -> Any:
        """Returns the name of an object with default arguments, and any other object as it is.

        A default by its name, its config or its object thus becomes the same value.
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
        cls: type = type(identifier)
        is_default = cls in self.classes and identifier == cls()
        return snake_case(cls.__name__) if is_default else identifier

    def knows(self, identifier: object) -> bool:
        """Returns whether a name, or the class in a config, is one of these; True for others."""
        name = identifier.get("class_name") if isinstance(identifier, Mapping) else identifier
        return not isinstance(name, str) or self._named(name) is not None

    def get(self, identifier: object, field: str | None = None) -> Any:
        """Returns the callable of what `identify` takes, or None for None."""
        found = self.identify(identifier, field)
        return self._by_name(found, field or self.kind)() if isinstance(found, str) else found

    def serialize(self, identifier: object) -> object:
        """Returns the config dict that Keras 3 writes for an object; others stay as they are."""
        found = self.get(identifier)
        if type(found) not in self.classes:
            return found
        return {
            "module": f"keras.{self.kind}s",
            "class_name": type(found).__name__,
            "config": dataclasses.asdict(found),
            "registered_name": None,
        }

    def _named(self, name: str) -> Callable[[], object] | None:
        spellings = {cls.__name__.lower(): cls for cls in self.classes}
        return self.aliases.get(name) or spellings.get(name.replace("_", "").lower())

    def _by_name(self, name: str, field: str) -> Callable[[], object]:
        found = self._named(name)
        if found is None:
            names = (*(cls.__name__ for cls in self.classes), *self.aliases)
            known = sorted(set(map(snake_case, names)))
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
        # A config holds every argument, so that the arguments an alias implies do not matter.
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
    """Turns a value of a config into an argument."""
    if isinstance(value, list):
        # JSON knows no tuples, and a list would make the object unhashable.
        return tuple(value)
    if isinstance(value, Mapping) and value.get("class_name") == "SeedGenerator":
        # Keras 3 writes its random generator; only the seed it began with means something here.
        return (value.get("config") or {}).get("seed")
    return value


def snake_case(name: str) -> str:
    """Writes the name of a class as Keras does: "GlorotUniform" becomes "glorot_uniform"."""
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", name))
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()
