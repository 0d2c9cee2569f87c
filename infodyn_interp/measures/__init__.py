"""What the theory says of a trajectory: action, stability, fidelity, multipliers, jumps and maps (seed 1.3 to 1.6)."""

from infodyn_interp.loading import on_first_use

_ROOMS = {
    "exponents": "stability",
    "find_jumps": "jumps",
    "fit_maps": "fits",
    "fit_multipliers": "multipliers",
    "harmless": "stability",
    "helpful": "action",
    "honest": "fidelity",
    "read_maps": "maps",
}

__all__ = [*_ROOMS]  # noqa: PLE0604
__getattr__, __dir__ = on_first_use(__name__, _ROOMS)
