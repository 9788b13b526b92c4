"""The look-up that initializers, regularizers and constraints share."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any


# What Keras and TensorFlow write into a config and the layer decides in JAX: the parameters' dtype,
# and the axes of a matrix that has only two.
_IGNORED = ("dtype", "input_axes", "output_axes")


@dataclasses.dataclass(frozen=True)
class Registry:
    """Keras' objects of one kind.

    Attributes:
        kind: "initializer", "regularizer" or "constraint".
        classes: by Keras' class name: frozen dataclasses with Keras' arguments, callable.
        aliases: other names, and what they stand for: a class, or a function that makes an object.
    """

    kind: str
    classes: Mapping[str, type]
    aliases: Mapping[str, Callable[[], Any]]

    def get(self, identifier: Any) -> Any:
        """Looks up an object.

        Args:
            identifier: a name in snake_case or CamelCase, a config dict (old or Keras 3's
                serialised form), a class, an instance or any callable, or None.

        Returns:
            A callable; None for None.

        Raises:
            TypeError: `identifier` is none of these.
            ValueError: the name or a key of the config is unknown.
        """
        if identifier is None:
            return None
        if isinstance(identifier, str):
            return self._by_name(identifier)()
        if isinstance(identifier, Mapping):
            return self._from_config(identifier)
        if inspect.isclass(identifier):
            return identifier()
        if callable(identifier):
            return identifier
        raise TypeError(
            f"{self.kind} must be a name, a config dict, a callable or None, got {identifier!r}."
        )

    def serialize(self, identifier: Any) -> Any:
        """Writes an object as Keras 3 does.

        Args:
            identifier: whatever `get` takes.

        Returns:
            `{"module", "class_name", "config", "registered_name"}`; None for None; a callable that
            Keras does not know as it is.
        """
        found = self.get(identifier)
        if type(found) not in self.classes.values():
            return found
        return {
            "module": f"keras.{self.kind}s",
            "class_name": type(found).__name__,
            "config": dataclasses.asdict(found),
            "registered_name": None,
        }

    def _by_name(self, name: str) -> Callable[[], Any]:
        if name in self.aliases:
            return self.aliases[name]
        spellings = {known.lower(): cls for known, cls in self.classes.items()}
        found = spellings.get(name.replace("_", "").lower())
        if found is None:
            known = sorted((*self.classes, *self.aliases))
            raise ValueError(f"{self.kind} must be one of {known}, got {name!r}.")
        return found

    def _from_config(self, config: Mapping[str, Any]) -> Any:
        if "class_name" not in config:
            raise ValueError(f"{self.kind} config must have a 'class_name', got {dict(config)}.")
        cls = self._by_name(config["class_name"])
        # A config holds every argument, so that an alias is as good as its class.
        cls = cls if inspect.isclass(cls) else type(cls())
        arguments = {
            name: value
            for name, value in (config.get("config") or {}).items()
            if name not in _IGNORED
        }
        known = list(inspect.signature(cls).parameters)
        unknown = sorted(set(arguments) - set(known))
        if unknown:
            raise ValueError(
                f"config of {cls.__name__} has unknown keys {unknown}, not in {known}."
            )
        return cls(**arguments)
