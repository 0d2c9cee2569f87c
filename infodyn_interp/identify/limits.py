"""Detection limits: the share of the energy at which a term would be identified half the time (science: verdicts)."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from threadpoolctl import threadpool_limits

from infodyn_interp.energy.fitting import Fit
from infodyn_interp.energy.moments import Moments
from infodyn_interp.identify.carry_limits import HALF, CarryInjection, carry_rates
from infodyn_interp.identify.evidence import ROWS
from infodyn_interp.identify.injected_fields import FieldOutcome, draw_fields, inject_fields
from infodyn_interp.identify.injected_tracks import TrackOutcome, inject_tracks, well
from infodyn_interp.identify.replanting import Layer, columns_removed

SHARES = np.geomspace(0.002, 0.5, 25)  # a quarter more from one to the next
RESAMPLES = 50
TRACK, CARRY = ROWS.index("track"), ROWS.index("carry")


@dataclass(frozen=True)
class Limits:
    """Detection limits of one layer.

    Args:
        shares: shares injected: the term's row-centred variance over that of the energy *with* the term in it.
        rate: fraction of the resampled data sets that were identified; NaN where a share was not tried.
        share: the limit, by interpolation in log share where the rate passes one half; the lowest share tried where
            even that is identified, inf where the highest is not, NaN where nothing can be estimated.
    """

    shares: Float[np.ndarray, " share"]
    rate: Float[np.ndarray, "row share head"]
    share: Float[np.ndarray, "row head"]


@threadpool_limits.wrap(limits=1, user_api="blas")
def detection_limits(
    moments: Moments,
    fitted: Fit,
    cutoff: Float[np.ndarray, " row"],
    *,
    resamples: int = RESAMPLES,
    seed: int,
    carry: CarryInjection | None = None,
    wanted: Bool[np.ndarray, "row head"] | None = None,
) -> Limits:
    """Detection limit of every verdict row and head of a layer (science: detection limit).

    A data set is identified by the rules of `verdict.judge`, with (width, tau) chosen anew; the swap gate and the
    ladder of the carry-over count as met.

    Args:
        moments, fitted: the layer's; the terms found in it are taken out first.
        cutoff: largest p that counts as discovered, by row (`Judgement.cutoff`).
        resamples: data sets a share.
        seed: of signs and made-up terms.
        carry: what the carry pass kept of its injected field; without it the carry-over's limit is NaN.
        wanted: rows and heads to do; all by default, the others are NaN.

    Raises:
        ValueError: fewer than two resamples, or a cut-off for other rows than `ROWS`.
    """
    if resamples < 2 or len(cutoff) != len(ROWS):
        raise ValueError(f"limits need two resamples at least and a cut-off for each of {', '.join(ROWS)}")
    heads = moments.square_row.shape[1]
    wanted = np.ones((len(ROWS), heads), bool) if wanted is None else wanted
    wanted = wanted & (moments.square_row.sum(0) > 0)
    generator = np.random.default_rng(seed)
    # smaller than 1 for the noise of the fit in the residuals (`injection`)
    signs = np.sqrt(1 - 1 / moments.folds) * generator.choice([-1.0, 1.0], (moments.folds, resamples))
    layer = Layer.of(moments, fitted)
    terms = draw_fields(layer, resamples, generator)
    rate = np.full((len(ROWS), len(SHARES), heads), np.nan)
    if len(mine := np.flatnonzero(wanted[:TRACK].any(0))):
        fields = inject_fields(layer.part(mine), signs, columns_removed(layer.columns, ROWS[:TRACK]), terms)
        rate[:TRACK, :, mine] = _rates(fields, cutoff[:TRACK])
    if len(mine := np.flatnonzero(wanted[TRACK])):
        own = layer.part(mine)
        tracks = inject_tracks(own, signs, columns_removed(layer.columns, ("track",)), well(own))
        rate[TRACK : TRACK + 1, :, mine] = _rates(tracks, cutoff[TRACK : TRACK + 1])
    if carry is not None and len(mine := np.flatnonzero(wanted[CARRY])):
        square = fitted.rms[mine] ** 2
        rate[CARRY][:, mine] = carry_rates(carry.part(mine), square, signs, SHARES, float(cutoff[CARRY]))
    rate = np.where(wanted[:, None], rate, np.nan)
    return Limits(SHARES, rate, _crossing(rate))


def _rates(
    outcome: FieldOutcome | TrackOutcome, cutoff: Float[np.ndarray, " part"]
) -> Float[np.ndarray, "part share head"]:
    """Rate of identified data sets at every share."""
    rates = []
    for share in SHARES:
        found = outcome.identified(np.sqrt(share / (1 - share) * outcome.variance), cutoff)
        rates.append(found.reshape(len(cutoff), outcome.signs.shape[1], -1).mean(1))
    return np.stack(rates, 1)


def _crossing(rate: Float[np.ndarray, "row share head"]) -> Float[np.ndarray, "row head"]:
    """Where the rate passes one half for good, on the log grid."""
    rows, _, heads = rate.shape
    out = np.full((rows, heads), np.nan)
    logs = np.log(SHARES)
    for row, head in np.ndindex(rows, heads):
        tried = np.flatnonzero(np.isfinite(rate[row, :, head]))
        if not len(tried):
            continue
        rates = rate[row, tried, head]
        missed = np.flatnonzero(rates < HALF)
        if not len(missed):
            out[row, head] = SHARES[tried[0]]
        elif missed[-1] == len(tried) - 1:
            out[row, head] = np.inf
        else:
            ends = slice(missed[-1], missed[-1] + 2)
            out[row, head] = np.exp(np.interp(HALF, rates[ends], logs[tried[ends]]))
    return out
