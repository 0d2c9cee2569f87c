"""Every public figure as a function of a sweep's result, whatever it is given: what the laws of figures hold for."""

from collections.abc import Callable
from typing import Any

import xarray
from synthetic import (
    make_ablation,
    make_acting,
    make_calibration,
    make_jumping,
    make_measured,
    make_observed,
    make_result,
    make_unfinished,
)

from infodyn_interp import compare, figures

Draw = Callable[..., figures.Plate]

WITH_HEADS: list[Draw] = [
    figures.verdict_map,
    figures.energy_map,
    figures.gain,
    figures.contrasts,
    figures.group_contrasts,
    figures.track_grid,
    figures.track_profile,
    figures.variogram,
    figures.rho_profile,
    figures.carry_ladder,
    figures.carry_over,
    figures.detection_limits,
    figures.spectrum,
    figures.reference_fit,
    figures.ablation,
]
DRAWN = [*WITH_HEADS, figures.landscape]
# Figures of something else than a sweep's result, with what each is given.
GIVEN: dict[str, Callable[[], Any]] = {
    "calibration": make_calibration,
    "removal": make_ablation,
    "trajectory": lambda: make_observed()["reply"],
    "temperature_ladder": lambda: make_observed()["described"],
    "instantiation": lambda: make_observed()["instances"],
    "alpha_sweep": lambda: make_observed()["swept"],
    "coupling_map": lambda: make_observed()["coupled"],
    "fidelity": make_measured,
    "exponents": make_measured,
    "map_curves": make_measured,
    "transfer": make_measured,
    "action_ranks": make_acting,
    "jump_raster": make_jumping,
    "threshold_curve": make_jumping,
    "unfinished": make_unfinished,
}


def _of_given(name: str) -> Draw:
    def draw(result: xarray.DataTree, **keywords: str) -> figures.Plate:
        return getattr(figures, name)(GIVEN[name](), **keywords)

    draw.__name__ = name
    return draw


def comparison(result: xarray.DataTree, **keywords: str) -> figures.Plate:
    shape = [result["terms"].sizes[name] for name in ("layer", "head", "fold")]
    return figures.comparison(compare(make_result(*shape), make_result(*shape, seed=1)), **keywords)


EVERY = [*DRAWN, *map(_of_given, GIVEN), comparison]
