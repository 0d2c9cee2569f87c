"""The energy inside the model: U = P + track + M, and what must not be taken for it."""

from infodyn_interp.loading import on_first_use

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
__getattr__, __dir__ = on_first_use(__name__, _ROOMS)
