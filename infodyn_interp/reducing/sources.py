"""Where the carry-over might come from (seed 1.2.3): interference in group `carry`, truncation in `precisions`."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
import xarray
from jaxtyping import Float

from infodyn_interp.energy.carry import fit_carry, per_token
from infodyn_interp.energy.fitting import Estimate
from infodyn_interp.identify.interference import Sizes, regress_innovations
from infodyn_interp.identify.verdict import discoveries
from infodyn_interp.reducing.labels import GRID, interval, label, of_layers

if TYPE_CHECKING:
    from infodyn_interp.sweeping.looking import Series
    from infodyn_interp.sweeping.precisions import Precision

PRECISION_GRID = ("dtype", *GRID)


def sizes_of(series: "Series") -> Sizes:
    """The rows of one layer, documents in order."""
    parts = (series.magnitude, series.innovation, series.foreseen)
    return Sizes(*(torch.cat(part).numpy() for part in parts))


def label_interference(
    series: Mapping[int, "Series"],
    keys: Sequence[Float[np.ndarray, " query"]],
    layers: Sequence[int],
    seed: int,
) -> dict[str, xarray.Variable]:
    """How innovations follow the prosody residual of the step before, by layer and head; `keys` of each row."""
    found = []
    for layer, of_rows in zip(layers, keys, strict=True):
        residual = torch.cat(series[layer].residual).numpy()
        generator = np.random.default_rng([seed, layer])
        found.append(regress_innovations(sizes_of(series[layer]), residual, of_rows, generator))
    p = np.stack([one.p for one in found])
    return {
        **interval(
            "interference",
            of_layers([one.slope for one in found]),
            GRID,
            "1",
            "standardised slope of the innovation's log size on the prosody residual's, one step before",
        ),
        "interference_r2": label(
            GRID, np.stack([one.r2 for one in found]), "1", "its partial R2, other sizes held fixed"
        ),
        "interference_p": label(GRID, p, "1", "two-sided p of its circular shifts within documents"),
        "interference_q": label(
            GRID, discoveries(p[:, None])[0][:, 0], "1", "that p adjusted for all heads (Benjamini-Hochberg)"
        ),
    }


def _rise(variogram: Float[np.ndarray, "*fold lag head"]) -> Float[np.ndarray, "*fold head"]:
    """What a variogram rises by from its first lag to its two longest."""
    return np.asarray(variogram[..., -2:, :].mean(-2) - variogram[..., 0, :])


def label_precisions(
    precisions: Mapping[str, "Precision"], layers: Sequence[int], query_stride: int
) -> xarray.Dataset:
    """|M_t|, variogram and its fit in every precision, and how far they stand from the first, the run's own."""
    own = next(iter(precisions))
    variograms = {name: [found.variograms[layer] for layer in layers] for name, found in precisions.items()}
    carries = {name: [fit_carry(one) for one in found] for name, found in variograms.items()}
    magnitudes = {
        name: [np.nanmean(sizes_of(found.series[layer]).magnitude, -1, dtype=float) for layer in layers]
        for name, found in precisions.items()
    }  # [document, head]
    of_magnitude = [
        of_layers([Estimate.of_folds(one - other) for one, other in zip(found, magnitudes[own], strict=True)])
        for found in magnitudes.values()
    ]
    of_rise = [
        of_layers(
            [
                Estimate.of_jackknife(
                    _rise(one.value) - _rise(other.value), _rise(one.without) - _rise(other.without)
                )
                for one, other in zip(found, variograms[own], strict=True)
            ]
        )
        for found in variograms.values()
    ]
    fitted = {
        "sill": ("nats^2", "stationary variance of the carry-over"),
        "nugget": ("nats^2", "variance of what no step keeps"),
        "rho": ("1", "what one token keeps of the carry-over"),
    }
    variables = {
        "magnitude": label(
            PRECISION_GRID,
            [[one.mean(0) for one in found] for found in magnitudes.values()],
            "nats",
            "|M_t| by the run's own filter, mean over queries and documents",
        ),
        **interval(
            "contrast",
            of_layers(of_magnitude),
            PRECISION_GRID,
            "nats",
            "|M_t| less that of the run's own dtype",
        ),
        **{
            name: label(
                PRECISION_GRID,
                [
                    [
                        per_token(one.rho, query_stride) if name == "rho" else getattr(one, name)
                        for one in found
                    ]
                    for found in carries.values()
                ],
                unit,
                words,
            )
            for name, (unit, words) in fitted.items()
        },
        "rise": label(
            PRECISION_GRID,
            [[_rise(one.value) for one in found] for found in variograms.values()],
            "nats^2",
            "V(long) - V(1), to which white rounding adds nothing",
        ),
        **interval(
            "rise_contrast",
            of_layers(of_rise),
            PRECISION_GRID,
            "nats^2",
            "V(long) - V(1) less that of the run's own dtype",
        ),
    }
    attrs = {"own": own, "documents": len(magnitudes[own][0])}
    return xarray.Dataset(variables, coords={"dtype": list(precisions)}, attrs=attrs)
