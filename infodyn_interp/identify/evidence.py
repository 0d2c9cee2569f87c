"""Everything a verdict is read from, for one layer: numbers only, each beside what it is compared with."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from infodyn_interp.energy.carry import Carry, Variogram, fit_carry, profile_variogram
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
    nothing = np.full((1, heads), np.nan)
    carry = None if variograms is None else fit_carry(variograms.chosen)
    nine = None if variograms is None else fit_carry(variograms.nine)
    of_carry = nothing if carry is None else carry.gain_by_fold.mean(0)[None]
    carry_bound = nothing if carry is None else lower_bound(carry.gain_by_fold)[None]
    carry_p = nothing if carry is None else one_sided_p(carry.gain_by_fold)[None]
    with np.errstate(invalid="ignore", divide="ignore"):
        sill_share = nothing[0] if carry is None else carry.sill / fitted.rms**2
    return Evidence(
        moments=moments,
        fit=fitted,
        gain=np.concatenate([fitted.gain_by_fold.mean(0), of_carry]),
        bound=np.concatenate([lower_bound(fitted.gain_by_fold), carry_bound]),
        p=np.concatenate([one_sided_p(fitted.gain_by_fold), carry_p]),
        marginal_bound=np.concatenate([lower_bound(fitted.marginal_by_fold), carry_bound]),
        split_half=np.concatenate([split_half(moments), nothing]),
        swap_p=np.concatenate(
            [np.full((len(FITTED_ROWS), heads), np.nan) if swap_p is None else swap_p, nothing]
        ),
        track_left=track_left(moments, fitted.chosen),
        track_coefficient=fitted.track,
        carry=carry,
        carry_nine=nine,
        sill_share=sill_share,
        bound_nine=nothing[0] if nine is None else lower_bound(nine.gain_by_fold),
        ladder_ratio=_ladder_ratio(variograms, moments.columns.state_rank, heads),
    )


def _ladder_ratio(variograms: Variograms | None, state_rank: int, heads: int) -> Float[np.ndarray, " head"]:
    ladder = {} if variograms is None else variograms.ladder
    if state_rank not in ladder or max(ladder) <= state_rank:
        return np.full(heads, np.nan)
    top, own = ladder[max(ladder)], fit_carry(ladder[state_rank])
    # at the rho of the carry-over in question: a fit of its own may call a slow drift a large sill
    _, left, _ = profile_variogram(own.rho[None], np.array(top.lags), top.value, top.weights.sum(0))
    return np.divide(left[0], own.sill, out=np.ones(heads), where=own.sill > 0)
