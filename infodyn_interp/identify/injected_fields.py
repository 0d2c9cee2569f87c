"""A prosody field injected into resampled data sets: its gains and split-halves at any strength."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from infodyn_interp.energy.fitting import pick_track
from infodyn_interp.identify.injection import (
    CONSTANT,
    Injected,
    Squares,
    Trained,
    apply,
    product,
    solve_with_tracks,
    train,
)
from infodyn_interp.identify.replanting import Layer, believed
from infodyn_interp.identify.resample import OTHER, PARTS, places_of


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
    return FieldOutcome(
        squares, squares.clean / layer.pairs, signs, np.stack(explained, 1), between, first, second
    )


def _explained(
    trained: Trained, found: Float[np.ndarray, "part order row cell"], rows: slice
) -> Float[np.ndarray, "power row cell"]:
    return 2 * product(found, trained.left_cross[:, :, rows]) - product(
        found, apply(trained.left_gram, found)
    )


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
