"""The carry-over M (seed 1.2.3): what a query's row keeps of the rows before it, key by key.

A pooled lag-one correlation mistakes key effects for memory, and an instrument by lags is blind under white noise. The
variogram is neither: on the keys two rows share, an effect of the key cancels in their difference, white noise is its
value at lag nought, and what fades with the lag is the carry-over.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import numpy as np
import scipy.signal
import torch
from jaxtyping import Float, Int
from torch import Tensor

from infodyn_interp.energy.fitting import Estimate
from infodyn_interp.energy.gauge import Support, center_rows

LAGS = (1, 2, 3, 4, 6, 8, 12, 16)  # steps: from a row of the support to a later one
LEAST_SHARED = 2  # keys two rows must share: the row constant takes one
TOP = 0.995  # of rho: beyond it a carry-over and an effect of the key look the same at every lag
GRID = 200  # of rho, refined around its best
REFINEMENTS, REFINED = 3, 21
ROWS = 64  # in a block of lagged products
NULL_KEYS = 256  # of the null of queries in random order, evenly spaced where a window has more


@dataclass(frozen=True)
class Variogram:
    """Half the squared, row-centred differences of rows t and t - k on the keys they share, by fold; merged by `+`.

    `sums`: nats^2, summed; `weights`: shared keys less the one that each pair of rows spends on its constant, so that
    the quotient is the variogram of independent keys without bias. Lags are in steps: tokens, or with a stride of
    queries that many tokens each.
    """

    lags: tuple[int, ...]
    sums: Float[np.ndarray, "fold lag head"]
    weights: Float[np.ndarray, "fold lag"]

    @classmethod
    def empty(cls, support: Support, heads: int, folds: int) -> "Variogram":
        """No rows yet."""
        lags = lags_of(support)
        return cls(lags, np.zeros((folds, len(lags), heads)), np.zeros((folds, len(lags))))

    def __add__(self, other: "Variogram") -> "Variogram":
        if self.lags != other.lags or self.sums.shape != other.sums.shape:
            raise ValueError("variograms of different lags, folds or heads cannot be added")
        return replace(self, sums=self.sums + other.sums, weights=self.weights + other.weights)

    def add(
        self,
        sums: Float[Tensor, "window head lag"],
        weights: Float[Tensor, " lag"],
        folds: Int[np.ndarray, " window"],
    ) -> None:
        """Add each window's lagged squares to its fold, in place; `weights` of one window, as `shared_keys` gives."""
        np.add.at(self.sums, folds, sums.transpose(1, 2).cpu().numpy())
        np.add.at(self.weights, folds, weights.cpu().numpy())

    @property
    def by_fold(self) -> Float[np.ndarray, "fold lag head"]:
        """Variogram of each fold, nats^2."""
        return self.sums / self.weights[..., None]

    @cached_property
    def value(self) -> Float[np.ndarray, "lag head"]:
        """Variogram of all folds, nats^2."""
        return self.sums.sum(0) / self.weights.sum(0)[:, None]

    @cached_property
    def without(self) -> Float[np.ndarray, "fold lag head"]:
        """Variogram with each fold left out, nats^2."""
        weights = self.weights.sum(0) - self.weights
        return (self.sums.sum(0) - self.sums) / weights[..., None]


@dataclass(frozen=True)
class Carry:
    """The fitted carry-over of one layer's heads; `*_without` with each fold left out.

    Args:
        rho: what one step keeps (`per_token` makes it what one token does, where a step is several).
        nugget: variance of what no step keeps, nats^2.
        sill: stationary variance of the carry-over, nats^2.
        misfit: RMS of variogram minus fit over RMS of the variogram.
        gain_by_fold: log(V(long) / V(1)) of each fold, V(long) the mean of the two longest lags.
    """

    rho: Float[np.ndarray, " head"]
    nugget: Float[np.ndarray, " head"]
    sill: Float[np.ndarray, " head"]
    misfit: Float[np.ndarray, " head"]
    rho_without: Float[np.ndarray, "fold head"]
    nugget_without: Float[np.ndarray, "fold head"]
    sill_without: Float[np.ndarray, "fold head"]
    gain_by_fold: Float[np.ndarray, "fold head"]

    @cached_property
    def gain(self) -> Estimate:
        """log(V(long) / V(1)) with interval over folds."""
        return Estimate.of_folds(self.gain_by_fold)

    @cached_property
    def rho_interval(self) -> Estimate:
        """rho with the delete-one-fold jackknife of atanh(rho), t(folds - 1)."""
        found = Estimate.of_jackknife(np.arctanh(self.rho), np.arctanh(self.rho_without))
        return Estimate(np.tanh(found.value), np.tanh(found.low), np.tanh(found.high), found.t)


def per_token(rho: Float[np.ndarray, "*any"], query_stride: int) -> Float[np.ndarray, "*any"]:
    """What one token keeps where a step of so many keeps rho: every k-th row of an autoregression is one of rho^k."""
    return rho if query_stride == 1 else np.sign(rho) * np.abs(rho) ** (1 / query_stride)


def lags_of(support: Support) -> tuple[int, ...]:
    """The lags, in steps, at which rows of a window share keys enough."""
    most = int((support.queries >= support.first_query).sum())
    return tuple(
        lag for lag in LAGS if lag < most and float(_shared(support, lag).clamp(min=0).max()) >= LEAST_SHARED
    )


@lru_cache(maxsize=64)
def _shared(support: Support, lag: int) -> Float[Tensor, " query"]:
    """Keys that rows t and t - lag share, by t; 0 where there is no row t - lag."""
    shared = torch.zeros(len(support.queries), dtype=torch.float64)
    stop, start = support.stop[:-lag], support.start[lag:]
    empty = (support.counts[:-lag] == 0) | (support.counts[lag:] == 0)
    shared[lag:] = torch.where(empty, 0, (stop - start).clamp(min=0)).double()
    return shared


@lru_cache(maxsize=64)
def shared_keys(support: Support) -> Float[Tensor, " lag"]:
    """Shared keys less one for each pair of rows, summed over the rows of a window."""
    return torch.stack([(_shared(support, lag) - 1).clamp(min=0).sum() for lag in lags_of(support)])


def lagged_products(
    left: Float[Tensor, "*batch query key"],
    support: Support,
    right: Float[Tensor, "*batch query key"] | None = None,
    *,
    low: int = 0,
    first: int = 0,
) -> Float[Tensor, "*batch lag"]:
    """Half the products of the row-centred differences of rows t and t - k, summed over shared keys and rows.

    Args:
        left: a residual, zero off the support; row constants do not matter, but those near zero keep more digits. Keys
            past the last that its rows see may be left out.
        right: another one; the same by default, which gives the variogram's sums.
        low: the support's row that these begin with, where they are a tile.
        first: the first row t that counts; those before it are there to be compared with.

    Returns:
        One sum a lag (`lags_of`), nats^2, float64.
    """
    other = left if right is None else right
    same = other is left
    a, b = (one.reshape(-1, *left.shape[-2:]).contiguous() for one in (left, other))
    here, lags = slice(low, low + left.shape[-2]), lags_of(support)
    own = _Sums.of(a, b, support, here)
    of_a = _Sums.of(a, None, support, here)
    of_b = of_a if same else _Sums.of(b, None, support, here)
    ends = (support.queries[here] + 1).tolist()
    crossed = _lagged_rows(a, b, lags, ends)
    mirrored = crossed if same else _lagged_rows(b, a, lags, ends)
    out = []
    for place, lag in enumerate(lags):
        shared = _shared(support, lag)[here].to(a.device)
        rows = (shared >= LEAST_SHARED).nonzero()[:, 0]
        rows = rows[rows >= first - low]
        squares = own.later(rows, lag) + own.earlier(rows, lag)
        squares -= crossed[place][:, rows - lag] + mirrored[place][:, rows - lag]
        shift_a = of_a.later(rows, lag) - of_a.earlier(rows, lag)
        shift_b = shift_a if same else of_b.later(rows, lag) - of_b.earlier(rows, lag)
        out.append((squares - shift_a * shift_b / shared[rows]).sum(-1) / 2)
    return torch.stack(out, -1).view(*left.shape[:-2], len(out))


class Trail:
    """Tiles of rows, each with as many rows before it as the longest lag goes back."""

    def __init__(self) -> None:
        self._kept: Tensor | None = None

    def join(self, tile: Float[Tensor, "*batch query key"]) -> tuple[Float[Tensor, "*batch row key"], int]:
        """The next tile behind what is kept, and how many rows that is."""
        joined, before = tile, 0
        if self._kept is not None:
            wider = (0, tile.shape[-1] - self._kept.shape[-1])
            joined = torch.cat([torch.nn.functional.pad(self._kept, wider), tile], -2)
            before = self._kept.shape[-2]
        self._kept = joined[..., -max(LAGS) :, :].clone()
        return joined, before


def _lagged_rows(
    a: Float[Tensor, "map query key"],
    b: Float[Tensor, "map query key"],
    lags: tuple[int, ...],
    ends: Sequence[int],
    size: int = ROWS,
) -> list[Float[Tensor, "map row"]]:
    """Products of row t of one map with row t - k of the other, by lag, from row k on (float64).

    Args:
        ends: one past the last key of each row that may not be 0.
        size: rows of a block.
    """
    length = a.shape[-2]
    parts: list[list[Tensor]] = [[] for _ in lags]
    for first in range(0, length, size):
        last, low = min(first + size, length), max(0, first - max(lags))
        keys = slice(0, ends[last - 1])
        products = a[:, first:last, keys] @ b[:, low:last, keys].transpose(1, 2)
        for part, lag in zip(parts, lags, strict=True):
            part.append(products.diagonal(first - low - lag, 1, 2)[:, : max(0, last - max(first, lag))])
    return [torch.cat(part, 1).double() for part in parts]


@dataclass(frozen=True)
class _Sums:
    """Sums of a map over the keys that two rows share: a row's total less its last keys, or less its first.

    Row t sees the keys of row t - k and at most as many more as there are tokens between; under a sliding window row
    t - k sees as many that t does not.
    """

    total: Float[Tensor, "map query"]
    last: Float[Tensor, "map query edge"]
    first: Float[Tensor, "map query edge"] | None
    start: Int[Tensor, " query"]
    stop: Int[Tensor, " query"]

    @classmethod
    def of(cls, a: Tensor, b: Tensor | None, support: Support, rows: slice) -> "_Sums":
        """Of some rows of a map, or of the product of two; zero off the support."""
        start, stop = support.start[rows].to(a.device), support.stop[rows].to(a.device)
        most = min(max(LAGS) * support.query_stride, support.window)
        step = torch.arange(most, device=a.device)
        row = torch.arange(len(start), device=a.device)[:, None]

        def running(keys: Tensor) -> Tensor:
            edge = a[:, row, keys] if b is None else a[:, row, keys] * b[:, row, keys]
            return torch.nn.functional.pad(edge.double().cumsum(-1), (1, 0))

        total = a.sum(-1) if b is None else torch.linalg.vecdot(a, b)
        last = running((stop[:, None] - 1 - step).clamp(min=0))
        slides = bool((start != start[0]).any())
        first = running((start[:, None] + step).clamp(max=a.shape[-1] - 1)) if slides else None
        return cls(total.double(), last, first, start, stop)

    def later(self, rows: Tensor, lag: int) -> Float[Tensor, "map row"]:
        """Over row t."""
        return self.total[:, rows] - self.last[:, rows, self.stop[rows] - self.stop[rows - lag]]

    def earlier(self, rows: Tensor, lag: int) -> Float[Tensor, "map row"]:
        """Over row t - lag."""
        before = rows - lag
        if self.first is None:
            return self.total[:, before]
        return self.total[:, before] - self.first[:, before, self.start[rows] - self.start[before]]


def later_rows(
    residual: Float[Tensor, "*batch query key"], support: Support, first: int = 0
) -> Float[Tensor, "*batch row common"]:
    """The rows of a window's later half on the keys that all of them see: what `permuted_products` takes.

    Args:
        residual: rows of the support, from its row `first` on; keys past the last that they see may be left out.
    """
    half = support.window // 2
    start, stop = int(support.start[-1]), half - support.gap
    count = min(max(stop - start, 0), NULL_KEYS)
    keys = start + torch.arange(count) * (stop - start) // max(count, 1)
    later = residual[..., max(support.rows_of(0, half).stop - first, 0) :, :]
    if not later.shape[-2]:
        return later.new_zeros(*later.shape[:-1], count)
    return later[..., keys.to(residual.device)]


def permuted_products(
    later: Float[Tensor, "window *field row common"],
    support: Support,
    documents: Int[np.ndarray, " window"],
    positions: Int[np.ndarray, " window"],
) -> tuple[Float[Tensor, "window *field lag"], Float[Tensor, " lag"]]:
    """The null `permuted_queries`: lagged squares of the later half's rows in random order, and their weights.

    An order is drawn from the window's document and position alone. What is carried from row to row is gone, what
    belongs to keys, queries and pairs stays.

    Args:
        later: from `later_rows`, tiles joined.
    """
    lags, (rows, width) = lags_of(support), later.shape[-2:]
    if width < LEAST_SHARED or rows <= max(lags):
        nothing = later.new_zeros(*later.shape[:-2], len(lags), dtype=torch.float64)
        return nothing, torch.zeros(len(lags), dtype=torch.float64)
    orders = [
        np.random.default_rng([document, position]).permutation(rows)
        for document, position in zip(documents.tolist(), positions.tolist(), strict=True)
    ]
    values = torch.stack([one[..., order, :] for one, order in zip(later, orders, strict=True)])
    values = values - values.mean(-1, keepdim=True)
    squares = values.square().sum(-1).double()
    maps = values.flatten(0, -3)
    lagged = _lagged_rows(maps, maps, lags, [width] * rows, NULL_KEYS)
    sums = [
        ((squares[..., lag:] + squares[..., :-lag]) / 2 - products.view(*squares.shape[:-1], -1)).sum(-1)
        for lag, products in zip(lags, lagged, strict=True)
    ]
    weights = torch.tensor([(width - 1) * (rows - lag) for lag in lags], dtype=torch.float64)
    return torch.stack(sums, -1), weights


class UnitCarry:
    """A carry-over of unit variance for one window, by tiles: each key its own autoregression along queries.

    Args:
        support: whose rows it has.
        rho: what one step keeps.
        generator: of the steps.
    """

    def __init__(self, support: Support, rho: float, generator: np.random.Generator) -> None:
        self._support, self._rho, self._generator = support, rho, generator
        self._state = np.zeros((1, support.window))

    def rows(self, rows: slice, last: int) -> Float[Tensor, "query key"]:
        """The next rows, row-centred, up to a key."""
        steps = self._generator.standard_normal((rows.stop - rows.start, self._support.window))
        steps[0 if rows.start else 1 :] *= np.sqrt(1 - self._rho**2)
        carried, self._state = scipy.signal.lfilter([1.0], [1.0, -self._rho], steps, axis=0, zi=self._state)
        return center_rows(torch.from_numpy(carried)[:, :last], self._support, rows)


def unit_carry(support: Support, rho: float, generator: np.random.Generator) -> Float[Tensor, "query key"]:
    """A carry-over of unit variance for one window, all its rows; arguments as of `UnitCarry`."""
    rows = slice(0, len(support.queries))
    return UnitCarry(support, rho, generator).rows(rows, support.window)


def fit_carry(variogram: Variogram) -> Carry:
    """Fit `V(k) = nugget + sill (1 - rho^k)` on all folds and with each left out (science: M).

    Non-negative least squares over a refined grid of rho, lags weighted by the keys they share.

    Raises:
        ValueError: fewer than two folds, fewer than three lags, or a fold without rows.
    """
    if len(variogram.sums) < 2 or len(variogram.lags) < 3 or not (variogram.weights > 0).all():
        raise ValueError(
            "a carry-over needs two folds at least, none empty, and windows that give three lags"
        )
    lags = np.array(variogram.lags)
    weights = variogram.weights.sum(0)
    rho, nugget, sill = fit_pooled(variogram)
    curve = nugget + sill * (1 - rho ** lags[:, None])
    with np.errstate(invalid="ignore", divide="ignore"):
        misfit = np.sqrt(((variogram.value - curve) ** 2).mean(0) / (variogram.value**2).mean(0))
        by_fold = variogram.by_fold
        gain = np.log(by_fold[:, -2:].mean(1) / by_fold[:, 0])
    without = [
        fit_variogram(lags, values, weights - left)
        for values, left in zip(variogram.without, variogram.weights, strict=True)
    ]
    rhos, nuggets, sills = (np.stack(part) for part in zip(*without, strict=True))
    return Carry(rho, nugget, sill, misfit, rhos, nuggets, sills, gain)


def fit_pooled(
    variogram: Variogram,
) -> tuple[Float[np.ndarray, " head"], Float[np.ndarray, " head"], Float[np.ndarray, " head"]]:
    """rho, nugget and sill of each head on all folds at once: what `fit_carry` has, without what folds say of it."""
    return fit_variogram(np.array(variogram.lags), variogram.value, variogram.weights.sum(0))


def fit_variogram(
    lags: Int[np.ndarray, " lag"], values: Float[np.ndarray, "lag head"], weights: Float[np.ndarray, " lag"]
) -> tuple[Float[np.ndarray, " head"], Float[np.ndarray, " head"], Float[np.ndarray, " head"]]:
    """rho, nugget and sill of each head: the weighted least squares with neither below 0."""
    rho = np.linspace(0, TOP, GRID)[:, None]  # the same for all heads, until each is refined around its own
    step = rho[1, 0]
    heads = np.arange(values.shape[1])
    for _ in range(REFINEMENTS + 1):
        nugget, sill, left = profile_variogram(rho, lags, values, weights)
        best = left.argmin(0)
        centre = np.broadcast_to(rho, left.shape)[best, heads]
        found = centre, nugget[best, heads], sill[best, heads]
        rho = np.clip(centre + np.linspace(-step, step, REFINED)[:, None], 0, TOP)
        step = 2 * step / (REFINED - 1)
    return found


def profile_variogram(
    rho: Float[np.ndarray, "point #head"],
    lags: Int[np.ndarray, " lag"],
    values: Float[np.ndarray, "lag head"],
    weights: Float[np.ndarray, " lag"],
) -> tuple[Float[np.ndarray, "point head"], Float[np.ndarray, "point head"], Float[np.ndarray, "point head"]]:
    """Nugget, sill and weighted squares left at each rho: the profile that an interval of rho is read from."""
    w = (weights / weights.sum())[:, None]
    rise = 1 - rho[:, None] ** lags[:, None]
    g, gg = (w * rise).sum(1), (w * rise**2).sum(1)
    v, vv, gv = (w * values).sum(0), (w * values**2).sum(0), (w * rise * values).sum(1)
    spread = gg - g**2
    flat = spread <= 1e-12 * np.maximum(gg, 1e-300)  # rho = 0: every lag is past the carry-over
    sill = np.where(flat, 0.0, (gv - g * v) / np.where(flat, 1, spread))
    nugget = v - sill * g
    no_sill, no_nugget = sill < 0, nugget < 0
    alone = np.maximum(gv / np.where(gg > 0, gg, 1), 0)
    sill = np.where(no_nugget, alone, np.where(no_sill, 0, sill))
    nugget = np.where(no_nugget, 0, np.where(no_sill, np.maximum(v, 0), nugget))
    left = vv - 2 * nugget * v - 2 * sill * gv + nugget**2 + 2 * nugget * sill * g + sill**2 * gg
    return nugget, sill, left


class CarryFilter:
    """Per key a Kalman filter of two states, the carry-over and a constant effect of the key, by tiles of queries.

    What a query knows of it comes from this query and those before it, never from later ones (seed 1.2.3; science: M).

    Args:
        rho, sill, nugget: of the other folds; variances in nats^2.
        key_variance: variance of the key effects, nats^2.
        support: the pairs that count.
    """

    def __init__(
        self,
        rho: Float[Tensor, "window head"],
        sill: Float[Tensor, "window head"],
        nugget: Float[Tensor, "window head"],
        key_variance: Float[Tensor, "window head"],
        support: Support,
    ) -> None:
        wide = [value.double() for value in (rho, sill, nugget, key_variance)]
        self._rho, self._support = rho, support
        self._gains = _gains(wide[0], wide[1], wide[2], wide[3], len(support.queries))
        self._seen_from = support.query_bounds[0]
        self._carry = self._effect = torch.zeros(0)

    def __call__(
        self, residual: Float[Tensor, "window head query key"], rows: slice
    ) -> tuple[Float[Tensor, "window head query key"], Float[Tensor, "window head query key"]]:
        """Filtered carry-over `m_t(j)` and innovation `m_t - rho m_{t-1}` of the next rows, nats; 0 off the support.

        Args:
            residual: row-centred energies less track and nuisance, by coefficients of other folds.
            rows: of the support, that they are of.
        """
        gains, rho = self._gains.to(residual), self._rho.to(residual)
        out, innovation = torch.zeros_like(residual), torch.zeros_like(residual)
        if not rows.start:
            self._carry = out.new_zeros(*residual.shape[:2], self._support.window)
            self._effect = torch.zeros_like(self._carry)
        values = center_rows(residual, self._support, rows)
        for place, query in enumerate(range(rows.start, rows.stop)):
            row = slice(int(self._support.start[query]), int(self._support.stop[query]))
            gain = gains[:, :, :, query - self._seen_from[row]]
            before = rho[..., None] * self._carry[..., row]
            surprise = values[:, :, place, row] - before - self._effect[..., row]
            self._carry[..., row] = before + gain[:, :, 0] * surprise
            self._effect[..., row] += gain[:, :, 1] * surprise
            out[:, :, place, row] = self._carry[..., row]
            innovation[:, :, place, row] = self._carry[..., row] - before
        return out, innovation


def filter_carry(
    residual: Float[Tensor, "window head query key"],
    rho: Float[Tensor, "window head"],
    sill: Float[Tensor, "window head"],
    nugget: Float[Tensor, "window head"],
    key_variance: Float[Tensor, "window head"],
    support: Support,
) -> tuple[Float[Tensor, "window head query key"], Float[Tensor, "window head query key"]]:
    """Filtered carry-over and innovation of whole windows; arguments and what is returned as of `CarryFilter`."""
    whole = slice(0, residual.shape[2])
    return CarryFilter(rho, sill, nugget, key_variance, support)(residual, whole)


def _gains(
    rho: Tensor, sill: Tensor, nugget: Tensor, key_variance: Tensor, steps: int
) -> Float[Tensor, "window head state step"]:
    """Kalman gains by the number of queries that saw a key before; a new key starts at the stationary prior."""
    carry, both, effect = sill, torch.zeros_like(sill), key_variance
    gains = []
    for step in range(steps):
        if step:
            carry, both = rho**2 * carry + sill * (1 - rho**2), rho * both
        total = carry + 2 * both + effect + nugget
        inverse = torch.where(total > 0, 1 / total.clamp(min=1e-300), 0.0)
        to_carry, to_effect = (carry + both) * inverse, (both + effect) * inverse
        gains.append(torch.stack([to_carry, to_effect], -1))
        carry, both, effect = (
            carry - to_carry * (carry + both),
            both - to_carry * (both + effect),
            effect - to_effect * (both + effect),
        )
    return torch.stack(gains, -1)
