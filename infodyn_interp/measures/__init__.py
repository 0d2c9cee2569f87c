"""What the theory says of a trajectory: honest, harmless, and what a block does to the stream (seed 1.3, 1.5, 1.6)."""

from infodyn_interp.loading import on_first_use

_ROOMS = {
    "exponents": "stability",
    "fit_maps": "fits",
    "harmless": "stability",
    "honest": "fidelity",
    "read_maps": "maps",
}

__all__ = [*_ROOMS]  # noqa: PLE0604
__getattr__, __dir__ = on_first_use(__name__, _ROOMS)
