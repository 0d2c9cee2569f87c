"""Figures of a result at print size, one function a figure; each is a matplotlib Figure with its caption.

Every figure is drawn and saved under its own settings, whatever the caller's are, and none outlives the call.
Along x stand the layers or, where `heads="10.3,12.0"` names heads, those heads.
"""

from infodyn_interp.figures.example import landscape
from infodyn_interp.figures.intervals import gain, reference_fit
from infodyn_interp.figures.maps import energy_map, track_grid
from infodyn_interp.figures.plates import Plate
from infodyn_interp.figures.saving import save_all

__all__ = ["Plate", "energy_map", "gain", "landscape", "reference_fit", "save_all", "track_grid"]
