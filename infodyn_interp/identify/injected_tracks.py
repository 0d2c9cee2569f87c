"""A track injected into resampled data sets: gain, split-half and sign of what is chosen at any strength."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from infodyn_interp.energy.fitting import ALIAS, pick_track, scale_of
from infodyn_interp.identify.injection import CONSTANT, SLOPE, Injected, Squares, Trained, train
from infodyn_interp.identify.replanting import Layer, believed
from infodyn_interp.identify.verdict import LEAST_TRACK_LEFT


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
            for one, scale in zip(
                self.trained[len(self.signs) :], self.scales[len(self.signs) :], strict=True
            )
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
    whole_scale = scale_of(layer.row.sum(0))[:within]
    trained = [
        train(layer.within, inside, signs, members, scale, nuisance, layer.left_out(training))
        for training, (members, scale) in enumerate(zip(layer.training, scales, strict=True))
    ]
    return TrackOutcome(
        squares,
        squares.clean / layer.pairs,
        signs,
        train(layer.within, inside, signs, np.ones(layer.folds, bool), whole_scale, nuisance),
        whole_scale[nuisance:],
        tuple(trained),
        scales[:, nuisance:],
        layer.within.sum(0)[nuisance:, nuisance:],
    )
