"""Figures of a result at print size, one function a figure; each is a matplotlib Figure with its caption.

Every figure is drawn and saved under its own settings, whatever the caller's are, and none outlives the call.
Along x stand the layers or, where `heads="10.3,12.0"` names heads, those heads; figures of a few heads or layers
have a panel each.
"""

from infodyn_interp.figures.comparisons import comparison
from infodyn_interp.figures.couplings import coupling_map
from infodyn_interp.figures.depths import exponents, fidelity, map_curves, transfer
from infodyn_interp.figures.directions import spectrum
from infodyn_interp.figures.example import landscape
from infodyn_interp.figures.instances import instantiation
from infodyn_interp.figures.intervals import gain, reference_fit
from infodyn_interp.figures.judgements import verdict_map
from infodyn_interp.figures.ladders import carry_ladder
from infodyn_interp.figures.laws import action_ranks, jump_raster, of_layer, threshold_curve
from infodyn_interp.figures.limits import detection_limits
from infodyn_interp.figures.magnitudes import carry_over
from infodyn_interp.figures.maps import energy_map, track_grid
from infodyn_interp.figures.nulls import contrasts, group_contrasts
from infodyn_interp.figures.plates import Plate
from infodyn_interp.figures.profiles import rho_profile, track_profile
from infodyn_interp.figures.removals import ablation, removal
from infodyn_interp.figures.saving import save_all
from infodyn_interp.figures.smoothings import alpha_sweep
from infodyn_interp.figures.sources import unfinished
from infodyn_interp.figures.temperatures import temperature_ladder
from infodyn_interp.figures.trajectories import trajectory
from infodyn_interp.figures.variograms import variogram
from infodyn_interp.figures.worlds import calibration

__all__ = [
    "Plate",
    "ablation",
    "action_ranks",
    "alpha_sweep",
    "calibration",
    "carry_ladder",
    "carry_over",
    "comparison",
    "contrasts",
    "coupling_map",
    "detection_limits",
    "energy_map",
    "exponents",
    "fidelity",
    "gain",
    "group_contrasts",
    "instantiation",
    "jump_raster",
    "landscape",
    "map_curves",
    "of_layer",
    "reference_fit",
    "removal",
    "rho_profile",
    "save_all",
    "spectrum",
    "temperature_ladder",
    "threshold_curve",
    "track_grid",
    "track_profile",
    "trajectory",
    "transfer",
    "unfinished",
    "variogram",
    "verdict_map",
]
