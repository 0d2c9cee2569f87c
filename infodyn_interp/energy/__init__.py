"""The energy inside the model: U = P + track + M, and what must not be taken for it."""

from importlib import import_module

_ROOMS = {
    "Moments": "moments",
    "Prosody": "terms",
    "REFERENCES": "reference",
    "ablate": "removal",
    "compute_term": "fields",
    "Variogram": "carry",
    "fit": "fitting",
    "fit_carry": "carry",
}

__all__ = [*_ROOMS]  # noqa: PLE0604


def __getattr__(name: str) -> object:
    if name in _ROOMS:
        value = getattr(import_module(f".{_ROOMS[name]}", __name__), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
