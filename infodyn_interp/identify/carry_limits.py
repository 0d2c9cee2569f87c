"""Rates at which an injected carry-over would be identified, from variograms alone (science: detection limit)."""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Int

from infodyn_interp.energy.carry import Carry, Variogram, fit_carry, fit_variogram
from infodyn_interp.identify.resample import lower_bound, one_sided_p
from infodyn_interp.identify.verdict import (
    LEAST_SILL,
    LEAST_SILL_NINE,
    MOST_MISFIT,
    MOST_RHO_SHIFT,
    RHO_ABOVE,
    RHO_BELOW,
)

USUAL_RHO = 0.7  # of the injected field, what one token keeps
HALF = 0.5  # of the data sets must be identified


@dataclass(frozen=True)
class CarryInjection:
    """What the carry pass keeps of an injected field: one autoregression along queries a window, of unit variance.

    Args:
        chosen, nine: variograms of the residuals with the chosen track and with all nine.
        chosen_cross, nine_cross: `lagged_products(residual, support, field)` of each, by fold, as sums like theirs.
        field: variogram of each head's field; heads of equal rho share one.
        field_variance: row-centred variance of each head's field on the support, about 1 (nats^2).
    """

    chosen: Variogram
    nine: Variogram
    chosen_cross: Variogram
    nine_cross: Variogram
    field: Variogram
    field_variance: Float[np.ndarray, " head"]

    def part(self, heads: Int[np.ndarray, " part"]) -> "CarryInjection":
        """Some heads alone."""
        names = ("chosen", "nine", "chosen_cross", "nine_cross", "field")
        one = {name: getattr(self, name) for name in names}
        parts = {name: replace(v, sums=v.sums[..., heads]) for name, v in one.items()}
        return CarryInjection(**parts, field_variance=self.field_variance[heads])


def _rho_known(carry: Carry) -> Bool[np.ndarray, " head"]:
    interval = carry.rho_interval
    return (interval.low > RHO_BELOW) & (interval.high < RHO_ABOVE)


def carry_rates(
    injection: CarryInjection,
    square: Float[np.ndarray, " head"],
    signs: Float[np.ndarray, "fold resample"],
    shares: Float[np.ndarray, " share"],
    cutoff: float,
) -> Float[np.ndarray, "share head"]:
    """Rates at the shares that bracket one half, found by bisection; NaN at the others.

    Per fold `V* = V - sill (1 - rho^k) + 2 s a V_cross + a^2 V_field`: the carry-over that the other folds fit is taken
    out where rho's interval may be believed (elsewhere a sill is a name for noise: at rho 0 it holds the nugget, near 1
    it is an extrapolation), the field put in. The share is the field's row-centred variance over the energy's with it.

    Args:
        square: row-centred energy variance, nats^2.
        signs: of the residuals, by fold.
        shares: of energy variance, ascending.
        cutoff: largest p that counts as discovered.
    """
    carries = fit_carry(injection.chosen), fit_carry(injection.nine)
    bases = [
        _without(variogram, carry)
        for variogram, carry in zip((injection.chosen, injection.nine), carries, strict=True)
    ]
    taken = np.where(_rho_known(carries[0]), carries[0].sill, 0) * injection.field_variance
    clean = np.maximum(square - taken, 0)
    rate = np.full((len(shares), len(square)), np.nan)
    low, high = np.full(len(square), -1), np.full(len(square), len(shares))
    while (open_ := high - low > 1).any():
        heads = np.flatnonzero(open_)
        tried = (low[heads] + high[heads]) // 2
        strength = np.sqrt(
            shares[tried] / (1 - shares[tried]) * clean[heads] / injection.field_variance[heads]
        )
        variants = [
            _resampled(base, cross, injection.field, signs, strength, heads)
            for base, cross in zip(bases, (injection.chosen_cross, injection.nine_cross), strict=True)
        ]
        energy = np.tile(clean[heads] / (1 - shares[tried]), signs.shape[1])
        found = _identified(variants[0], variants[1], energy, cutoff).reshape(-1, len(heads)).mean(0)
        rate[tried, heads] = found
        low[heads] = np.where(found < HALF, tried, low[heads])
        high[heads] = np.where(found < HALF, high[heads], tried)
    return rate


def _without(variogram: Variogram, carry: Carry) -> Variogram:
    """Less the carry-over that the other folds fit, where it may be believed."""
    lags = np.array(variogram.lags)[:, None]
    sill = np.where(_rho_known(carry), carry.sill_without, 0.0)
    fitted = sill[:, None] * (1 - carry.rho_without[:, None] ** lags)
    return replace(variogram, sums=variogram.sums - variogram.weights[..., None] * fitted)


def _resampled(
    base: Variogram,
    cross: Variogram,
    field: Variogram,
    signs: Float[np.ndarray, "fold resample"],
    strength: Float[np.ndarray, " part"],
    heads: Int[np.ndarray, " part"],
) -> Variogram:
    """Variograms of every resample of these heads, as the heads of one."""
    linear = 2 * signs[:, None, :, None] * strength * cross.sums[:, :, None, heads]
    sums = base.sums[:, :, None, heads] + linear + strength**2 * field.sums[:, :, None, heads]
    return replace(base, sums=sums.reshape(*sums.shape[:2], -1))


def _identified(
    chosen: Variogram, nine: Variogram, energy: Float[np.ndarray, " cell"], cutoff: float
) -> Bool[np.ndarray, " cell"]:
    """The rules of `verdict.judge`, the dearest last; the ladder counts as met."""
    # a variogram below 0 has no logarithm, and its carry-over is not identified
    with np.errstate(invalid="ignore", divide="ignore"):
        gains, gains_nine = (
            np.log(one.by_fold[:, -2:].mean(1) / one.by_fold[:, 0]) for one in (chosen, nine)
        )
        found = (lower_bound(gains) > 0) & (lower_bound(gains_nine) > 0) & (one_sided_p(gains) <= cutoff)
    lags, weights = np.array(chosen.lags), chosen.weights.sum(0)
    cells = np.flatnonzero(found)
    rho, _, sill = fit_variogram(lags, chosen.value[:, cells], weights)
    rho_nine, _, sill_nine = fit_variogram(lags, nine.value[:, cells], weights)
    kept = (sill >= LEAST_SILL * energy[cells]) & (sill_nine >= LEAST_SILL_NINE * sill)
    cells = cells[kept & (np.abs(rho - rho_nine) < MOST_RHO_SHIFT)]
    carry = fit_carry(replace(chosen, sums=chosen.sums[..., cells]))
    out = np.zeros(len(found), bool)
    out[cells] = _rho_known(carry) & (carry.misfit <= MOST_MISFIT)
    return out
