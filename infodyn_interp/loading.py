"""Public names of a package that are loaded on first use, so that importing it costs nothing."""

import sys
from collections.abc import Callable, Mapping
from importlib import import_module


def on_first_use(
    package: str, rooms: Mapping[str, str]
) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """The `__getattr__` and `__dir__` of a package whose names live in its modules.

    Args:
        package: the package's `__name__`.
        rooms: the module of each name; a module's own name stands for the module itself.
    """

    def load(name: str) -> object:
        if name not in rooms:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = import_module(f"{package}.{rooms[name]}")
        value = module if rooms[name] == name else getattr(module, name)
        setattr(sys.modules[package], name, value)
        return value

    def names() -> list[str]:
        return sorted(sys.modules[package].__all__)

    return load, names
