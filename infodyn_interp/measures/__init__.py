"""What the theory says of a trajectory: least action, multipliers and jumps (seed 1.3, 1.4)."""

from infodyn_interp.loading import on_first_use

_ROOMS = {
    "find_jumps": "jumps",
    "fit_multipliers": "multipliers",
    "helpful": "action",
}

__all__ = [*_ROOMS]  # noqa: PLE0604
__getattr__, __dir__ = on_first_use(__name__, _ROOMS)
