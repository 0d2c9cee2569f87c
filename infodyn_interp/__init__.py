"""Attention energies of transformer language models; every public name is loaded on first use."""

from importlib import import_module

from .errors import RequestError, RunError

__version__ = "0.1.0"

_MODULES = ("energy", "figures", "hooks", "identify", "models", "planted", "results", "texts")
_FUNCTIONS = {
    "capture": "hooks",
    "export": "results",
    "open_model": "models",
    "open_result": "results",
    "read_texts": "texts",
    "summary": "results",
    "sweep": "sweeping",
    "table": "results",
}

__all__ = ["RequestError", "RunError", "__version__", *_MODULES, *_FUNCTIONS]  # noqa: PLE0604


def __getattr__(name: str) -> object:
    if name in _MODULES:
        return import_module(f".{name}", __name__)
    if name in _FUNCTIONS:
        value = getattr(import_module(f".{_FUNCTIONS[name]}", __name__), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
