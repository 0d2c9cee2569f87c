"""Worlds with known truth, and what the verdicts make of them."""

from importlib import import_module

_ROOMS = {
    "WORLDS": "worlds",
    "World": "worlds",
    "calibrate": "calibration",
    "draw": "worlds",
    "planted_term": "scores",
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
