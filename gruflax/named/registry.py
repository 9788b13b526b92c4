"""The look-up that initializers, regularizers and constraints share."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any


# TensorFlow 1 wrote the weight's dtype into its initializers; here the layer's param_dtype decides.
_IGNORED = ("dtype",)

# Keras 3.15 writes these for kernels of more than two axes; None asks for nothing.
_IGNORED_IF_NONE = ("input_axes", "output_axes")


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
            ValueError: the name or a key of the config is unknown, or the config is malformed.
        """
        if identifier is None:
            return None
        if isinstance(identifier, str):
            return self._by_name(identifier)()
        if isinstance(identifier, Mapping):
            return self._from_config(identifier)
        found = identifier() if inspect.isclass(identifier) else identifier
        if callable(found):
            return found
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
        name, entries = config.get("class_name"), config.get("config") or {}
        if not isinstance(name, str) or not isinstance(entries, Mapping):
            raise ValueError(
                f"{self.kind} config must have a 'class_name' and a dict as 'config', "
                f"got {dict(config)}."
            )
        cls = self._by_name(name)
        # A config holds every argument, so that an alias is as good as its class.
        cls = cls if inspect.isclass(cls) else type(cls())
        # JSON knows no tuples, and a list would make the object unhashable.
        arguments = {
            key: tuple(value) if isinstance(value, list) else value
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
