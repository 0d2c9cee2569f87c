"""May a fitted term be believed? Evidence, verdicts, limits and the structure behind them."""

from infodyn_interp.loading import on_first_use

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
__getattr__, __dir__ = on_first_use(__name__, _ROOMS)
