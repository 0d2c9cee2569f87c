"""Profiles: every value of rho, of tau and of the width that the texts do not reject, not one value with an error bar.

Documents are the unit here too. Lags of one variogram share their rows and pairs of one text share their tokens, so a
threshold that takes them for independent is too low; the design effect, a variance over documents divided by the
variance under independence, scales it (Rao and Scott, 1981; Pace, Salvan and Sartori, 2011).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import scipy.optimize
import scipy.stats
from jaxtyping import Bool, Float, Int

from infodyn_interp.energy.carry import TOP, Variogram, fit_carry, profile_variogram
from infodyn_interp.energy.fitting import LEVEL, Estimate, Fit, track_gains
from infodyn_interp.energy.moments import Moments
from infodyn_interp.energy.terms import TAUS, WIDTHS

POINTS = 81  # of the profile of rho; its ends are refined between them
PARAMETERS = 3  # rho, nugget, sill
AGREEMENT = 0.5  # of the union of two intervals: with less in common they do not say the same
PRECISION = 1e-8  # of a refined end


@dataclass(frozen=True)
class Profile:
    """Profile of rho for the heads of one layer, and whether its local approximation tells the same (seed 1.2.3).

    Args:
        rho: the points of the curve, 0 to the largest rho that differs from an effect of the key.
        rise: weighted squares left at each point, over the least, less one; nugget and sill fitted anew.
        best: rho of the least squares.
        design_effect: variance of the score of rho over documents, over that under independent lags.
        threshold: the rise up to which rho is not rejected.
        low, high: the outermost rho not rejected, refined between the points.
        low_open, high_open: the profile stays below its threshold up to 0, or up to the largest rho: the texts set no
            bound on that side, and `low` or `high` is the end of the range.
        fisher: rho with the jackknife's interval (the curvature at the best, as the documents see it).
        disagree: the two intervals share less than `AGREEMENT` of their union.
        reason: what differs where they disagree, else empty.
    """

    rho: Float[np.ndarray, " point"]
    rise: Float[np.ndarray, "point head"]
    best: Float[np.ndarray, " head"]
    design_effect: Float[np.ndarray, " head"]
    threshold: Float[np.ndarray, " head"]
    low: Float[np.ndarray, " head"]
    high: Float[np.ndarray, " head"]
    low_open: Bool[np.ndarray, " head"]
    high_open: Bool[np.ndarray, " head"]
    fisher: Estimate
    disagree: Bool[np.ndarray, " head"]
    reason: tuple[str, ...]


def profile_rho(
    variogram: Variogram,
    head: int | None = None,
    points: int = POINTS,
    design_effect: float | None = None,
) -> Profile:
    """Profile rho of `V(k) = nugget + sill (1 - rho^k)` with squares weighted by shared keys (science: structure).

    rho is kept where `SSE(rho) / SSE_min - 1 <= quantile / (lags - 3) * design effect`. The design effect comes from
    the score rather than from the jackknife's rho: it needs no second fit, its scale (the sill) cancels, so it stays
    defined where there is no carry-over at all, and it does not vanish where rho lies at a bound. Estimated from
    folds, it takes the quantile of F(1, folds - 1); a given one that of chi2(1).

    Args:
        variogram: of the residual after track and nuisance, by fold.
        head: this head alone; all by default.
        points: of the curve, evenly from 0.
        design_effect: a known one instead of the folds'; 1 takes lags for independent.

    Raises:
        ValueError: fewer than four lags, or what `fit_carry` refuses.
    """
    if head is not None:
        variogram = replace(variogram, sums=variogram.sums[..., [head]])
    if len(variogram.lags) <= PARAMETERS:
        raise ValueError(f"a profile of rho needs more than {PARAMETERS} lags: longer windows")
    if not np.isfinite(variogram.sums).all():
        raise ValueError("the variogram is not finite")
    carry = fit_carry(variogram)
    lags = np.array(variogram.lags)
    weights, values = variogram.weights.sum(0), variogram.value
    least = _squares(carry.rho[None], lags, values, weights)[0]
    naive = least / (len(lags) - PARAMETERS)
    if design_effect is None:
        mean_square = _mean_square_of_documents(variogram, carry.rho, carry.nugget)
        quantile = scipy.stats.f.ppf(LEVEL, 1, len(variogram.sums) - 1)
    else:
        mean_square = design_effect * naive
        quantile = scipy.stats.chi2.ppf(LEVEL, 1)
    grid = np.linspace(0, TOP, points)
    left = _squares(np.broadcast_to(grid[:, None], (points, len(least))), lags, values, weights)
    kept = least + quantile * mean_square

    def excess(rho: float, place: int) -> float:
        return _squares(np.array([[rho]]), lags, values[:, [place]], weights)[0, 0] - kept[place]

    ends = [
        _ends(grid, left[:, place] <= kept[place], float(best), partial(excess, place=place))
        for place, best in enumerate(carry.rho)
    ]
    low, high, low_open, high_open = (np.array(part) for part in zip(*ends, strict=True))
    fisher = carry.rho_interval
    reason = tuple(
        _difference(*end, *local) for end, *local in zip(ends, fisher.low, fisher.high, strict=True)
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        rise, design, threshold = left / least - 1, mean_square / naive, quantile * mean_square / least
    disagree = np.array([bool(one) for one in reason])
    return Profile(
        grid, rise, carry.rho, design, threshold, low, high, low_open, high_open, fisher, disagree, reason
    )


def _squares(
    rho: Float[np.ndarray, "point head"],
    lags: Int[np.ndarray, " lag"],
    values: Float[np.ndarray, "lag head"],
    weights: Float[np.ndarray, " lag"],
) -> Float[np.ndarray, "point head"]:
    """Weighted squares left at each rho, from the residuals themselves: differences of them keep their digits."""
    nugget, sill, _ = profile_variogram(rho, lags, values, weights)
    curve = nugget[:, None] + sill[:, None] * (1 - rho[:, None] ** lags[:, None])
    return ((weights / weights.sum())[:, None] * (values - curve) ** 2).sum(1)


def _mean_square_of_documents(
    variogram: Variogram, rho: Float[np.ndarray, " head"], nugget: Float[np.ndarray, " head"]
) -> Float[np.ndarray, " head"]:
    """The mean square that independent lags would need for the score of rho to scatter as it does over documents.

    The score is `sum_k w_k e_k V_k`, `e` what `d rho^k / d rho` has beyond nugget and rise. Independent lags with
    weighted mean square s give it the variance `s sum_k w_k e_k^2`; over their own s this one is the design effect.
    A fold that holds much of the energy draws the fit to itself: its score is raised as if the fit had been without it.
    """
    lags, total = np.array(variogram.lags), variogram.weights.sum(0)
    root = np.sqrt(total / total.sum())
    apart = (variogram.sums - variogram.weights[..., None] * variogram.value) / total[:, None]
    energy = variogram.sums.sum(1)
    others = energy.sum(0) - energy
    raised = np.divide(energy + others, others, out=np.ones_like(others), where=others > 0)
    out = np.empty(len(rho))
    for head, (one, free) in enumerate(zip(rho, nugget > 0, strict=True)):
        rise = 1 - one**lags
        beside = np.stack([np.ones(len(lags)), rise], 1) if free and one > 0 else rise[:, None]
        basis = np.linalg.qr(root[:, None] * beside)[0]
        slope = root * lags * one ** (lags - 1.0)
        scored = slope - basis @ (basis.T @ slope)
        by_fold = raised[:, head] * (apart[:, :, head] @ (root * scored))
        out[head] = (len(energy) - 1) * by_fold.var() / (scored**2).sum()
    return out


def _ends(
    grid: Float[np.ndarray, " point"],
    kept: Bool[np.ndarray, " point"],
    best: float,
    excess: Callable[[float], float],
) -> tuple[float, float, bool, bool]:
    """The outermost values not rejected, the best one among them, and whether each is the end of the range."""
    values = np.append(grid[kept], best)
    low, high = float(values.min()), float(values.max())
    below, above = grid[grid < low][-1:], grid[grid > high][:1]
    return (
        _crossing(low, float(below[0]), excess) if len(below) else low,
        _crossing(high, float(above[0]), excess) if len(above) else high,
        not len(below),
        not len(above),
    )


def _crossing(inside: float, outside: float, excess: Callable[[float], float]) -> float:
    """Where the excess turns positive; the inner value where squares of the order of rounding allow no step."""
    if excess(inside) >= 0 or excess(outside) <= 0:
        return inside
    return float(scipy.optimize.brentq(excess, inside, outside, xtol=PRECISION))


def _difference(
    low: float, high: float, low_open: bool, high_open: bool, fisher_low: float, fisher_high: float
) -> str:
    """What a profile's interval and the local one do not agree on; empty where they do."""
    if not np.isfinite([fisher_low, fisher_high]).all():
        return "the jackknife has no interval"
    fisher_low, fisher_high = np.clip([fisher_low, fisher_high], 0, TOP)
    common = min(high, fisher_high) - max(low, fisher_low)
    union = max(high, fisher_high) - min(low, fisher_low)
    if union <= 0 or common >= AGREEMENT * union:
        return ""
    sides = [name for name, is_open in (("below", low_open), ("above", high_open)) if is_open]
    unbounded = f", open {' and '.join(sides)}" if sides else ""
    return (
        f"profile {low:.3f} to {high:.3f}{unbounded}, jackknife {fisher_low:.3f} to {fisher_high:.3f}: "
        f"{max(common, 0) / union:.0%} of their union in common"
    )


@dataclass(frozen=True)
class TrackProfile:
    """Which (width, tau) of a grid the documents reject against the chosen one, head by head (seed 1.2.2).

    Args:
        width, tau: the grid; a track's index runs over taus first.
        chosen: index of the chosen track.
        excess: held-out within-key squares of each track after N less those of the chosen one, mean over folds, as a
            share of the row-centred energy variance.
        allowed: the excess up to which a track is not rejected: Student's t times the standard error over folds.
    """

    width: Float[np.ndarray, " width"]
    tau: Float[np.ndarray, " tau"]
    chosen: Int[np.ndarray, " head"]
    excess: Float[np.ndarray, "width tau head"]
    allowed: Float[np.ndarray, "width tau head"]

    @property
    def kept(self) -> Bool[np.ndarray, "width tau head"]:
        """True where a track is not rejected; always at the chosen one."""
        return self.excess <= self.allowed

    @property
    def over_tau(self) -> Float[np.ndarray, "tau head"]:
        """Profile of tau: the least excess over the widths."""
        return self.excess.min(0)

    @property
    def over_width(self) -> Float[np.ndarray, "width head"]:
        """Profile of the width: the least excess over the taus."""
        return self.excess.min(1)

    @property
    def tau_kept(self) -> Bool[np.ndarray, "tau head"]:
        """A tau is rejected where it is with every width."""
        return np.any(self.kept, axis=0)

    @property
    def width_kept(self) -> Bool[np.ndarray, "width head"]:
        """A width is rejected where it is with every tau."""
        return np.any(self.kept, axis=1)


def profile_track(fitted: Fit) -> TrackProfile:
    """Profile (width, tau) over the nine tracks of a fit (science: structure); see `profile_grid`."""
    return profile_grid(fitted.track_gain_by_fold, fitted.chosen, WIDTHS, TAUS)


def profile_moments(moments: Moments) -> TrackProfile:
    """Profile (width, tau) over the grid of any moments, in general one finer than the nine; see `profile_grid`."""
    grid, (gain, chosen) = moments.columns.grid, track_gains(moments)
    return profile_grid(gain, chosen, grid.widths, grid.taus)


def profile_grid(
    gain: Float[np.ndarray, "fold track head"],
    chosen: Int[np.ndarray, " head"],
    widths: tuple[float, ...],
    taus: tuple[float, ...],
) -> TrackProfile:
    """Profile (width, tau) over any grid of tracks, from held-out gains of each track over N within keys.

    Gains differ as squares do, with the sign turned, so `excess` is the mean over folds of what the chosen track gains
    more. Its standard error over folds of documents takes the place of a naive threshold times a design effect. One
    one-sided test a track: in simulations a planted one of nine is kept in 96 % of runs where it is hardly seen, else
    in more; one of 35 in 88 % (8 documents) to 97 % (16) at a share of .001, from .003 on in 94 % and more.

    Args:
        gain: shares of the left-out fold's row-centred energy variance; tracks run over taus first.
        chosen: track with the least squares on all folds.

    Raises:
        ValueError: fewer than two folds, or tracks that do not fill the grid.
    """
    folds, tracks, heads = gain.shape
    if folds < 2 or tracks != len(widths) * len(taus):
        raise ValueError(
            f"a profile needs two folds and a gain for each of {len(widths)} x {len(taus)} tracks, not {gain.shape}"
        )
    apart = gain[:, chosen, np.arange(heads)][:, None] - gain
    error = apart.std(0, ddof=1) / np.sqrt(folds)
    quantile = scipy.stats.t.ppf(LEVEL, folds - 1)
    shape = len(widths), len(taus), heads
    return TrackProfile(
        np.array(widths, float),
        np.array(taus, float),
        chosen,
        apart.mean(0).reshape(shape),
        (quantile * error).reshape(shape),
    )
