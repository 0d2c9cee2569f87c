"""May a fitted term be believed? Evidence, verdicts, limits and the structure behind them."""

from importlib import import_module

_ROOMS = {
    "Variograms": "evidence",
    "Verdict": "verdict",
    "detection_limits": "limits",
    "fisher_spectrum": "spectrum",
    "judge": "verdict",
    "profile_rho": "profile",
    "profile_track": "profile",
    "verdicts": "verdict",
    "weigh": "evidence",
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
