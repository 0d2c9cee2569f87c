"""The output side: the floating equilibrium of replies, their statistics, and what of the inside shows in them."""

from infodyn_interp.loading import on_first_use

_ROOMS = {
    "Visibility": "coupling",
    "compare_instantiations": "instantiation",
    "contrast": "conditions",
    "couple": "coupling",
    "describe": "conditions",
    "half_life": "equilibrium",
    "lay_in_plane": "plane",
    "project": "projection",
    "sample": "sampling",
    "sweep_alpha": "smoothing",
    "track_equilibrium": "equilibrium",
}

__all__ = [*_ROOMS]  # noqa: PLE0604
__getattr__, __dir__ = on_first_use(__name__, _ROOMS)
