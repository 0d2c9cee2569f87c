"""What the rules of identification find in resampled data sets with a term injected, at any strength of the term."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float, Int

from infodyn_interp.energy.fitting import ALIAS, Fit, pick_track
from infodyn_interp.energy.moments import Moments
from infodyn_interp.energy.terms import Columns
from infodyn_interp.identify.injection import (
    CONSTANT,
    SLOPE,
    Injected,
    Squares,
    Trained,
    apply,
    product,
    ridge_scales,
    solve_with_tracks,
    train,
)
from infodyn_interp.identify.resample import (
    OTHER,
    PARTS,
    first_halves,
    lower_bound,
    one_sided_p,
)
from infodyn_interp.identify.verdict import LEAST_GAIN, LEAST_SPLIT_HALF, LEAST_TRACK_LEFT


@dataclass(frozen=True)
class Layer:
    """One layer's products by fold as full matrices, and its fits with each fold left out.

    Args:
        row, within: column products of the two gauges.
        full: row-gauge coefficients of all columns; `pair`: within-key ones of nuisance and chosen track.
        chosen: the heads' tracks.
    """

    columns: Columns
    row: Float[np.ndarray, "fold column column"]
    within: Float[np.ndarray, "fold column_within column_within"]
    cross_row: Float[np.ndarray, "fold column head"]
    cross_within: Float[np.ndarray, "fold column_within head"]
    square: Float[np.ndarray, "fold head"]
    pairs: float
    full: Float[np.ndarray, "fold column head"]
    pair: Float[np.ndarray, "fold column_within head"]
    chosen: Int[np.ndarray, " head"]

    @classmethod
    def of(cls, moments: Moments, fitted: Fit) -> "Layer":
        """Unpack a layer."""
        row, within = (
            np.stack([moments.gram(fold, gauge) for fold in range(moments.folds)])
            for gauge in ("row", "within")
        )
        return cls(
            moments.columns,
            row,
            within,
            moments.cross_row,
            moments.cross_within,
            moments.square_row,
            float(moments.pairs.sum()),
            fitted.coefficient_without.transpose(0, 2, 1),
            fitted.pair_without.transpose(0, 2, 1),
            fitted.chosen,
        )

    def part(self, heads: Int[np.ndarray, " part"]) -> "Layer":
        """Some heads alone."""
        by_head = ("cross_row", "cross_within", "square", "full", "pair", "chosen")
        return replace(self, **{name: getattr(self, name)[..., heads] for name in by_head})

    @cached_property
    def folds(self) -> int:
        """Folds."""
        return len(self.row)

    @cached_property
    def deviation(self) -> Float[np.ndarray, " column"]:
        """Row-centred standard deviation of each column."""
        return np.sqrt(self.row.diagonal(axis1=1, axis2=2).sum(0) / self.pairs)

    @cached_property
    def halves(self) -> Bool[np.ndarray, "half fold"]:
        """The folds of both halves of every split, a first half before its second."""
        firsts = np.stack([np.isin(np.arange(self.folds), half) for half in first_halves(self.folds)])
        return np.stack([firsts, ~firsts], 1).reshape(-1, self.folds)

    @cached_property
    def training(self) -> Bool[np.ndarray, "set fold"]:
        """The folds of every training set: each fold left out, then the halves."""
        return np.concatenate([~np.eye(self.folds, dtype=bool), self.halves])

    def left_out(self, training: int) -> int | None:
        """The fold a training set is scored on."""
        return training if training < self.folds else None

    @cached_property
    def scales(self) -> Float[np.ndarray, "set column"]:
        """What each training set's ridge is relative to."""
        return ridge_scales(self.row, self.training)


def places_of(columns: Columns, name: str) -> Int[np.ndarray, " part"]:
    """The columns of one of `PARTS`."""
    every = np.arange(columns.count)
    return np.concatenate([every[columns.blocks[part]] for part in PARTS[name]])


def columns_removed(columns: Columns, rows: Sequence[str]) -> Bool[np.ndarray, "row column"]:
    """Which columns each verdict row's term is made of."""
    names = {**PARTS, "track": ("track",)}
    out = np.zeros((len(rows), columns.count), bool)
    for removed, row in zip(out, rows, strict=True):
        for name in names[row]:
            removed[columns.blocks[name]] = True
    return out


def believed(
    gains: Float[np.ndarray, "fold row cell"],
    split_half: Float[np.ndarray, "row cell"],
    cutoff: Float[np.ndarray, " row"],
) -> Bool[np.ndarray, "row cell"]:
    """Whether gains and split-halves are those of an identified term, by the rules of `verdict.judge`."""
    enough = (lower_bound(gains) > 0) & (gains.mean(0) >= LEAST_GAIN)
    return enough & (one_sided_p(gains) <= cutoff[:, None]) & (split_half >= LEAST_SPLIT_HALF)


def draw_fields(
    layer: Layer, resamples: int, generator: np.random.Generator
) -> Float[np.ndarray, "row column draw one"]:
    """Made-up prosody fields of the rows `PARTS`, one a resample for all heads, of row-centred variance 1.

    Standard normal coefficients on the block's columns at unit variance; columns the texts never move get none.
    """
    moves = layer.deviation > 0
    scale = np.divide(1, layer.deviation, out=np.zeros_like(layer.deviation), where=moves)
    out = np.zeros((len(PARTS), layer.columns.count, resamples, 1))
    gram = layer.row.sum(0)
    for row, name in enumerate(PARTS):
        part = places_of(layer.columns, name)
        field = scale[part, None] * generator.standard_normal((len(part), resamples))
        variance = (field * (gram[np.ix_(part, part)] @ field)).sum(0) / layer.pairs
        out[row, part, :, 0] = field / np.sqrt(variance)
    return out


@dataclass(frozen=True)
class FieldOutcome:
    """Gains and split-halves of the rows `PARTS` in every data set, as powers of the strength.

    Args:
        explained: squares that the row's block explains over its base on the fold left out.
        between, first, second: products of the fields of two halves, and of each with itself.
    """

    squares: Squares
    variance: Float[np.ndarray, "row head"]
    signs: Float[np.ndarray, "fold resample"]
    explained: Float[np.ndarray, "power fold row cell"]
    between: Float[np.ndarray, "power split row cell"]
    first: Float[np.ndarray, "power split row cell"]
    second: Float[np.ndarray, "power split row cell"]

    def gains(self, strength: Float[np.ndarray, "row head"]) -> Float[np.ndarray, "fold row cell"]:
        """Held-out gain, a share of the left-out fold's variance."""
        squares = self.squares.at(self.signs, strength)
        explained = _power(self.explained, self._by_cell(strength))
        return np.divide(explained, squares, out=np.full_like(squares, np.nan), where=squares > 0)

    def split_half(self, strength: Float[np.ndarray, "row head"]) -> Float[np.ndarray, "row cell"]:
        """Mean correlation of the fields fitted to two halves; 0 where a half fits nothing."""
        a = self._by_cell(strength)
        squares = _power(self.first, a) * _power(self.second, a)
        root = np.sqrt(np.maximum(squares, 0))
        found = np.divide(_power(self.between, a), root, out=np.zeros_like(squares), where=squares > 0)
        return found.mean(0)

    def identified(
        self, strength: Float[np.ndarray, "row head"], cutoff: Float[np.ndarray, " row"]
    ) -> Bool[np.ndarray, "row cell"]:
        """Which data sets' terms would be identified at this strength."""
        return believed(self.gains(strength), self.split_half(strength), cutoff)

    def _by_cell(self, strength: np.ndarray) -> Float[np.ndarray, "row cell"]:
        return np.tile(strength, (1, self.signs.shape[1]))


def _power(powers: Float[np.ndarray, "power any row cell"], a: Float[np.ndarray, "row cell"]) -> np.ndarray:
    return powers[0] + a * (powers[1] + a * powers[2])


def inject_fields(
    layer: Layer,
    signs: Float[np.ndarray, "fold resample"],
    removed: Bool[np.ndarray, "row column"],
    term: Float[np.ndarray, "row column draw one"],
) -> FieldOutcome:
    """Resample with each row's columns `removed` from the fit and its `term` in their place, in the row gauge.

    A key-only term has no within-key part, so that it leaves the choice of the track to the signs alone.
    """
    within, nuisance = layer.columns.within, layer.columns.nuisance.stop
    injected = Injected.of(layer.row, layer.cross_row, layer.full, removed, term)
    inside = Injected.of(
        layer.within,
        layer.cross_within,
        layer.full[:, :within],
        np.zeros((1, within), bool),
        np.zeros((1, within, 1, 1)),
    )
    places = {name: places_of(layer.columns, name) - nuisance for name in PARTS}
    base = {"prosody": places["rhythm"][:0], **{name: places[other] for name, other in OTHER.items()}}
    pooled = layer.row.sum(0)[nuisance:, nuisance:]
    explained, fields = [], []
    for training, (members, scale) in enumerate(zip(layer.training, layer.scales, strict=True)):
        left = layer.left_out(training)
        tracks = train(layer.within, inside, signs, members, scale[:within], nuisance)
        _, chosen = pick_track(tracks.gram, tracks.cross[:, CONSTANT, 0], scale[nuisance:within])
        trained = train(layer.row, injected, signs, members, scale, nuisance, left)
        found = solve_with_tracks(trained, chosen, places["prosody"], slice(None))
        if left is None:
            fields.append(found)
            continue
        gains = _explained(trained, found, slice(None))
        for row, name in enumerate(PARTS):
            here = slice(row, row + 1)
            without = solve_with_tracks(trained, chosen, base[name], here)
            gains[:, here] -= _explained(trained, without, here)
        explained.append(gains)
    products = [_half_products(*pair, places, pooled) for pair in zip(fields[::2], fields[1::2], strict=True)]
    between, first, second = (np.stack(part, 1) for part in zip(*products, strict=True))
    squares = Squares.of(injected, layer.cross_row, layer.square)
    return FieldOutcome(squares, squares.clean / layer.pairs, signs, np.stack(explained, 1), between, first, second)


def _explained(
    trained: Trained, found: Float[np.ndarray, "part order row cell"], rows: slice
) -> Float[np.ndarray, "power row cell"]:
    return 2 * product(found, trained.left_cross[:, :, rows]) - product(found, apply(trained.left_gram, found))


def _half_products(
    first: Float[np.ndarray, "part order row cell"],
    second: Float[np.ndarray, "part order row cell"],
    places: dict[str, np.ndarray],
    gram: Float[np.ndarray, "part part"],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Products of each row's field in one half with the other's, and of each with itself: powers of the strength."""
    out = []
    for row, part in enumerate(places.values()):
        one, other = (half[part, :, row : row + 1] for half in (first, second))
        own = gram[np.ix_(part, part)]
        turned = apply(own, other)
        out.append((product(one, turned), product(one, apply(own, one)), product(other, turned)))
    between, ones, others = (np.concatenate(part, 1) for part in zip(*out, strict=True))
    return between, ones, others


@dataclass(frozen=True)
class TrackOutcome:
    """Data sets with a track injected, as every training set sees them within keys.

    Args:
        whole: all folds at once; `trained`: each fold left out, then the halves; `scales` of their tracks' ridges.
        pooled: products of the tracks with each other within keys, all folds.
        left: share of each track's row-gauge energy that key effects and nuisance leave.
    """

    squares: Squares
    variance: Float[np.ndarray, "row head"]
    signs: Float[np.ndarray, "fold resample"]
    whole: Trained
    whole_scale: Float[np.ndarray, " track"]
    trained: tuple[Trained, ...]
    scales: Float[np.ndarray, "set track"]
    pooled: Float[np.ndarray, "track track"]

    def identified(
        self, strength: Float[np.ndarray, "row head"], cutoff: Float[np.ndarray, " row"]
    ) -> Bool[np.ndarray, "row cell"]:
        """Which data sets' terms would be identified at this strength."""
        found = believed(self.gains(strength), self.split_half(strength), cutoff)
        c, chosen = self._pick(self.whole, self.whole_scale, strength)
        left = self.whole.gram.diagonal() / self.whole_scale
        left = np.where(left > ALIAS, left, 0.0)
        return found & (c < 0) & (left[chosen] >= LEAST_TRACK_LEFT)

    def gains(self, strength: Float[np.ndarray, "row head"]) -> Float[np.ndarray, "fold row cell"]:
        """Held-out gain of the chosen track over the nuisance, a share of the left-out fold's row-gauge variance."""
        squares, explained = self.squares.at(self.signs, strength), []
        cells = np.arange(squares.shape[-1])
        for one, scale in zip(self.trained[: len(self.signs)], self.scales, strict=False):
            c, chosen = self._pick(one, scale, strength)
            cross = self._at(one.left_cross, strength)[chosen, cells]
            explained.append(2 * c * cross - c**2 * one.left_gram.diagonal()[chosen])
        wide = np.stack(explained)[:, None]
        return np.divide(wide, squares, out=np.full_like(squares, np.nan), where=squares > 0)

    def split_half(self, strength: Float[np.ndarray, "row head"]) -> Float[np.ndarray, "row cell"]:
        """Mean correlation of the tracks fitted to two halves, each with the width and memory of its half."""
        root = np.sqrt(self.pooled.diagonal())
        correlation = np.divide(
            self.pooled, np.outer(root, root), out=np.zeros_like(self.pooled), where=np.outer(root, root) > 0
        )
        halves = [
            self._pick(one, scale, strength)
            for one, scale in zip(self.trained[len(self.signs) :], self.scales[len(self.signs) :], strict=True)
        ]
        pairs = zip(halves[::2], halves[1::2], strict=True)
        found = [np.sign(c * other) * correlation[k, other_k] for (c, k), (other, other_k) in pairs]
        return np.mean(found, 0)[None]

    def _at(
        self, lines: Float[np.ndarray, "track order row cell"], strength: Float[np.ndarray, "row head"]
    ) -> Float[np.ndarray, "track cell"]:
        return lines[:, CONSTANT, 0] + np.tile(strength[0], self.signs.shape[1]) * lines[:, SLOPE, 0]

    def _pick(
        self, one: Trained, scale: Float[np.ndarray, " track"], strength: Float[np.ndarray, "row head"]
    ) -> tuple[Float[np.ndarray, " cell"], Int[np.ndarray, " cell"]]:
        c, chosen = pick_track(one.gram, self._at(one.cross, strength), scale)
        return c[chosen, np.arange(len(chosen))], chosen


def well(layer: Layer) -> Float[np.ndarray, "one column one head"]:
    """Each head's chosen track as a well (c < 0) of row-centred variance 1."""
    places = layer.columns.blocks["track"].start + layer.chosen
    out = np.zeros((1, layer.columns.count, 1, len(places)))
    deviation = layer.deviation[places]
    out[0, places, 0, np.arange(len(places))] = -np.divide(
        1, deviation, out=np.zeros_like(deviation), where=deviation > 0
    )
    return out


def inject_tracks(
    layer: Layer,
    signs: Float[np.ndarray, "fold resample"],
    removed: Bool[np.ndarray, "one column"],
    term: Float[np.ndarray, "one column one head"],
) -> TrackOutcome:
    """Resample with the tracks `removed` from the within-key fit and `term` in their place.

    Fits are within keys, shares and squares in the row gauge.
    """
    within, nuisance = layer.columns.within, layer.columns.nuisance.stop
    inside = Injected.of(layer.within, layer.cross_within, layer.pair, removed[:, :within], term[:, :within])
    pair = np.zeros_like(layer.full)
    pair[:, :within] = layer.pair
    squares = Squares.of(
        Injected.of(layer.row, layer.cross_row, pair, removed, term), layer.cross_row, layer.square
    )
    scales = layer.scales[:, :within]
    everything = np.ones((1, layer.folds), bool)
    whole_scale = ridge_scales(layer.row, everything)[0, :within]
    trained = [
        train(layer.within, inside, signs, members, scale, nuisance, layer.left_out(training))
        for training, (members, scale) in enumerate(zip(layer.training, scales, strict=True))
    ]
    return TrackOutcome(
        squares,
        squares.clean / layer.pairs,
        signs,
        train(layer.within, inside, signs, everything[0], whole_scale, nuisance),
        whole_scale[nuisance:],
        tuple(trained),
        scales[:, nuisance:],
        layer.within.sum(0)[nuisance:, nuisance:],
    )
