"""Everything a verdict is read from, for one layer: numbers only, each beside what it is compared with."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from jaxtyping import Float

from infodyn_interp.energy.carry import Carry, Variogram, fit_carry, fit_pooled, profile_variogram
from infodyn_interp.energy.fitting import Fit, fit
from infodyn_interp.energy.moments import Moments
from infodyn_interp.identify.resample import FITTED_ROWS, lower_bound, one_sided_p, split_half, track_left

ROWS = (*FITTED_ROWS, "carry")  # verdict rows


@dataclass(frozen=True)
class Variograms:
    """What the carry pass leaves of one layer.

    Args:
        chosen: of the residual after nuisance and the chosen track.
        nine: of the residual after nuisance and all nine tracks.
        ladder: by rank of the nuisance's bilinear block, after that nuisance and the chosen track; empty where the
            ladder was not run.
        ladder_nine: the same with all nine tracks.
    """

    chosen: Variogram
    nine: Variogram
    ladder: Mapping[int, Variogram]
    ladder_nine: Mapping[int, Variogram]


@dataclass(frozen=True)
class Evidence:
    """One layer's evidence; the first dimension is the verdict row (`ROWS`) where there is one.

    Args:
        gain, bound, p: mean over folds, its one-sided 95 % lower bound, and the p of a gain of 0. The carry-over's gain
            is log(V(long) / V(1)), the others' a share of held-out energy variance.
        marginal_bound: of the marginal gain (carry: of its own gain).
        split_half: correlation of the field fitted to two halves; NaN for carry.
        swap_p: of the swap gate; NaN where there was none.
        track_left: share of the chosen track's energy left after key effects and nuisance.
        track_coefficient: within-key coefficient of the chosen track; below 0 a well.
        carry: the fitted carry-over with the chosen track, None where there was no carry pass.
        carry_nine: with all nine.
        sill_share: sill over row-centred energy variance, with the chosen track.
        bound_nine: of the carry-over's gain with all nine tracks.
        ladder_ratio: sill at the ladder's highest rank, for the rho found at the state's rank, over the sill there; NaN
            without a ladder.
        taken_by: bounds of each row's gain over a growing base, kept where a verdict asked for them.
    """

    moments: Moments
    fit: Fit
    gain: Float[np.ndarray, "row head"]
    bound: Float[np.ndarray, "row head"]
    p: Float[np.ndarray, "row head"]
    marginal_bound: Float[np.ndarray, "row head"]
    split_half: Float[np.ndarray, "row head"]
    swap_p: Float[np.ndarray, "row head"]
    track_left: Float[np.ndarray, " head"]
    track_coefficient: Float[np.ndarray, " head"]
    carry: Carry | None
    carry_nine: Carry | None
    sill_share: Float[np.ndarray, " head"]
    bound_nine: Float[np.ndarray, " head"]
    ladder_ratio: Float[np.ndarray, " head"]
    taken_by: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def heads(self) -> int:
        """Heads of the layer."""
        return self.gain.shape[1]

    def of_carry(self, variograms: Variograms) -> "Evidence":
        """What other variograms of the same energies say of the carry-over; the fitted rows are NaN."""
        (gain, bound, p), own = _weigh_carry(variograms, self.moments, self.fit)
        nothing = np.full((len(FITTED_ROWS), self.heads), np.nan)
        every = np.full((len(ROWS), self.heads), np.nan)
        return replace(
            self,
            gain=np.vstack([nothing, gain]),
            bound=np.vstack([nothing, bound]),
            p=np.vstack([nothing, p]),
            marginal_bound=np.vstack([nothing, bound]),
            split_half=every,
            swap_p=every,
            taken_by={},
            **own,
        )


def weigh(
    moments: Moments,
    variograms: Variograms | None = None,
    swap_p: Float[np.ndarray, "row head"] | None = None,
    fitted: Fit | None = None,
) -> Evidence:
    """The evidence of one layer (science: verdicts).

    Args:
        moments: the layer's second moments by fold.
        variograms: of the carry pass; without them the carry-over is not estimable.
        swap_p: p of the swap gate of the fitted rows.
        fitted: `fit(moments)`, where it is known already.

    Raises:
        ValueError: as in `fit`.
    """
    fitted = fitted or fit(moments)
    heads = fitted.rms.shape[0]
    nothing = np.full(heads, np.nan)
    swap_p = np.full((len(FITTED_ROWS), heads), np.nan) if swap_p is None else swap_p
    (gain, bound, p), own = _weigh_carry(variograms, moments, fitted)
    return Evidence(
        moments=moments,
        fit=fitted,
        gain=np.vstack([fitted.gain_by_fold.mean(0), gain]),
        bound=np.vstack([lower_bound(fitted.gain_by_fold), bound]),
        p=np.vstack([one_sided_p(fitted.gain_by_fold), p]),
        marginal_bound=np.vstack([lower_bound(fitted.marginal_by_fold), bound]),
        split_half=np.vstack([split_half(moments), nothing]),
        swap_p=np.vstack([swap_p, nothing]),
        track_left=track_left(moments, fitted.chosen),
        track_coefficient=fitted.track,
        **own,
    )


def _weigh_carry(
    variograms: Variograms | None, moments: Moments, fitted: Fit
) -> tuple[Float[np.ndarray, "number head"], dict[str, Any]]:
    """Gain, bound and p of the carry-over, and by name what no other row has; NaN without a carry pass."""
    nothing = np.full(fitted.rms.shape, np.nan)
    if variograms is None:
        own = dict.fromkeys(("sill_share", "bound_nine", "ladder_ratio"), nothing)
        return np.stack([nothing] * 3), {"carry": None, "carry_nine": None, **own}
    carry, nine = fit_carry(variograms.chosen), fit_carry(variograms.nine)
    by_fold = carry.gain_by_fold
    with np.errstate(invalid="ignore", divide="ignore"):
        sill_share = carry.sill / fitted.rms**2
    return np.stack([by_fold.mean(0), lower_bound(by_fold), one_sided_p(by_fold)]), {
        "carry": carry,
        "carry_nine": nine,
        "sill_share": sill_share,
        "bound_nine": lower_bound(nine.gain_by_fold),
        "ladder_ratio": _ladder_ratio(variograms.ladder, moments.columns.state_rank, nothing),
    }


def _ladder_ratio(
    ladder: Mapping[int, Variogram], state_rank: int, nothing: Float[np.ndarray, " head"]
) -> Float[np.ndarray, " head"]:
    if state_rank not in ladder or max(ladder) <= state_rank:
        return nothing
    top, (rho, _, sill) = ladder[max(ladder)], fit_pooled(ladder[state_rank])
    # at the rho of the carry-over in question: a fit of its own may call a slow drift a large sill
    _, left, _ = profile_variogram(rho[None], np.array(top.lags), top.value, top.weights.sum(0))
    return np.divide(left[0], sill, out=np.ones_like(sill), where=sill > 0)
