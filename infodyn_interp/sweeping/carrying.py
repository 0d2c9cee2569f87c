"""The carry pass: variograms of what the frozen fits leave, each window by coefficients that never saw it."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from infodyn_interp.energy.carry import (
    Trail,
    UnitCarry,
    Variogram,
    lagged_products,
    lags_of,
    later_rows,
    permuted_products,
    shared_keys,
)
from infodyn_interp.energy.fitting import Fit
from infodyn_interp.energy.gauge import Support
from infodyn_interp.energy.ladder import SUPER_FOLDS
from infodyn_interp.energy.terms import columns_of, pair_field_tiles
from infodyn_interp.hooks import Layer, Scores
from infodyn_interp.identify.carry_limits import USUAL_RHO, CarryInjection
from infodyn_interp.identify.evidence import Variograms
from infodyn_interp.sweeping.passes import Pass, Study

RESIDUALS = ("chosen", "nine")  # after nuisance and the chosen track, after nuisance and all nine
SUMS = ("squares", "field_squares", "windows")
GROUPED = "grouped"  # of the chosen residual, by fold within group
CROSSES = ("cross chosen", "cross nine", "field")  # of an injected field with both residuals, and with itself


@dataclass(frozen=True)
class Carried:
    """What the carry pass leaves of one layer, by fold; the ladder's by super-fold.

    Args:
        variograms: `chosen nine`, the same `permuted`, the ladder's by rank, an injected field's (`CROSSES`), and that
            of groups of documents (`GROUPED`).
        squares: of the residual with the chosen track, nats^2.
        field_squares: of the injected field.
        windows: read.
        pairs: on the support of a window.
    """

    variograms: dict[str, Variogram]
    squares: Float[np.ndarray, "fold head"]
    field_squares: Float[np.ndarray, " fold"]
    windows: Float[np.ndarray, " fold"]
    pairs: int

    @classmethod
    def empty(
        cls,
        support: Support,
        heads: int,
        folds: int,
        ranks: Sequence[int] = (),
        injected: bool = False,
        cells: int = 0,
    ) -> "Carried":
        """No window yet."""
        by_fold = [*RESIDUALS, *(f"permuted {name}" for name in RESIDUALS), *(CROSSES if injected else ())]
        names = dict.fromkeys(by_fold, folds) | {
            _rung(name, rank): SUPER_FOLDS for name in RESIDUALS for rank in ranks
        }
        if cells:
            names[GROUPED] = cells
        variograms = {name: Variogram.empty(support, heads, count) for name, count in names.items()}
        nothing = np.zeros(folds)
        return cls(variograms, np.zeros((folds, heads)), nothing, nothing.copy(), support.pairs)

    def arrays(self, layer: int, folds: Sequence[int]) -> Iterator[tuple[str, np.ndarray]]:
        """What a shard keeps of it, by the names of `shards`."""
        rows, every = list(folds), slice(None)
        for name in SUMS:
            yield f"fold/{layer}/{name}", getattr(self, name)[rows]
        for name, variogram in self.variograms.items():
            kind, kept = ("sum", every) if name.startswith("rank") else ("fold", rows)
            if name == GROUPED:
                kind, kept = "cell", every
            yield f"{kind}/{layer}/{name}/sums", variogram.sums[kept]
            yield f"{kind}/{layer}/{name}/weights", variogram.weights[kept]

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray], layer: int, support: Support) -> "Carried":
        """From the arrays of all shards."""
        lags, ends = lags_of(support), (f"/{layer}/", "/sums")
        variograms = {
            name.split(ends[0])[1].removesuffix(ends[1]): Variogram(
                lags, arrays[name], arrays[name.removesuffix("sums") + "weights"]
            )
            for name in arrays
            if ends[0] in name and name.endswith(ends[1])
        }
        squares, field_squares, windows = (arrays[f"fold/{layer}/{name}"] for name in SUMS)
        return cls(variograms, squares, field_squares, windows, support.pairs)

    @property
    def own(self) -> Variograms:
        """Of the residuals, with the ladder's."""
        ladder, nine = (
            {
                int(rung.split()[1]): variogram
                for rung, variogram in self.variograms.items()
                if rung.startswith("rank") and rung.endswith(name)
            }
            for name in RESIDUALS
        )
        return Variograms(self.variograms["chosen"], self.variograms["nine"], ladder, nine)

    @property
    def permuted(self) -> Variograms:
        """The same with the later half's queries in random order."""
        return Variograms(self.variograms["permuted chosen"], self.variograms["permuted nine"], {}, {})

    @property
    def grouped(self) -> Variogram | None:
        """With the chosen track, by fold within group; None where groups are not told apart."""
        return self.variograms.get(GROUPED)

    @property
    def injection(self) -> CarryInjection | None:
        """What the detection limit of the carry-over needs; None where no field was injected."""
        if "field" not in self.variograms:
            return None
        variance = self.field_squares.sum() / (self.windows.sum() * self.pairs)
        return CarryInjection(
            chosen=self.variograms["chosen"],
            nine=self.variograms["nine"],
            chosen_cross=self.variograms["cross chosen"],
            nine_cross=self.variograms["cross nine"],
            field=self.variograms["field"],
            field_variance=np.full(self.squares.shape[1], variance),
        )

    @property
    def variance_without(self) -> Float[np.ndarray, "fold head"]:
        """Variance of the residual after nuisance and the chosen track, each fold left out, nats^2."""
        windows = (self.windows.sum() - self.windows)[:, None]
        return (self.squares.sum(0) - self.squares) / (windows * self.pairs)


def _rung(residual: str, rank: int) -> str:
    return f"rank {rank} {residual}"


class Carrying(Pass):
    """The carry pass.

    Args:
        study: what to read by.
        fits: of the fit pass.
        rungs: coefficients of the ladder's fits, from `LadderMoments.rungs`; empty for no ladder.
        limited: layers that get a detection limit of the carry-over: a field is injected beside their residuals.
        seed: of that field.
        cells: folds within groups that the documents are of, sorted.
    """

    def __init__(
        self,
        study: Study,
        fits: Mapping[int, Fit],
        rungs: Mapping[int, Float[np.ndarray, "fold rung head column"]],
        limited: Collection[int] = (),
        seed: int = 0,
        cells: Sequence[int] = (),
    ) -> None:
        super().__init__(study)
        heads = study.model.heads
        self._cells = np.array(cells, np.int64)
        self._columns = columns_of(study.window, study.state_rank, query_stride=study.query_stride)
        self._pairs = {
            layer: self._frozen(np.stack([fit.pair_without, fit.nine_without], 1))
            for layer, fit in fits.items()
        }
        self._rungs = {layer: self._frozen(values) for layer, values in rungs.items()}
        self._seed = seed
        self.carried = {
            layer: Carried.empty(
                self._supports[layer],
                heads,
                study.folds,
                study.ranks if rungs else (),
                layer in limited,
                len(cells),
            )
            for layer in study.layers
        }

    def __call__(self, layer: Layer) -> None:
        states, scores, surface = self._read(layer)
        batch, support, carried = self._batch, self._supports[layer.index], self.carried[layer.index]
        beta = self._pairs[layer.index][batch.fold]
        drawn = self._drawn(layer.index) if "field" in carried.variograms else []
        squares = field_squares = sums = crosses = fields = torch.zeros((), dtype=torch.float64)
        trail, field_trail, later = Trail(), Trail(), []
        tiles = pair_field_tiles(states, beta.flatten(1, 2), self._columns, support, self.study.query_tile)
        for tile in tiles:
            energy = self._energy(layer.index, scores, surface, tile.rows, tile.last)
            left = energy[:, None] - tile.energies.unflatten(1, (beta.shape[1], -1))
            squares = squares + left[:, 0].double().square().sum((-2, -1))
            later.append(later_rows(left, support, tile.rows.start))
            left, before = trail.join(left)
            low, first = tile.rows.start - before, tile.rows.start
            sums = sums + lagged_products(left, support, low=low, first=first)
            if drawn:
                field = torch.stack([one.rows(tile.rows, tile.last) for one in drawn]).to(left)
                field_squares = field_squares + field.double().square().sum((-2, -1))
                field, _ = field_trail.join(field[:, None])
                wide = field[:, None].expand_as(left).contiguous()
                crosses = crosses + lagged_products(left, support, wide, low=low, first=first)
                fields = fields + lagged_products(field, support, low=low, first=first)
        weights = shared_keys(support)
        np.add.at(carried.squares, batch.fold, squares.cpu().numpy())
        np.add.at(carried.windows, batch.fold, 1)
        permuted, permuted_weights = permuted_products(
            torch.cat(later, -2), support, batch.document, batch.position
        )
        for place, name in enumerate(RESIDUALS):
            carried.variograms[name].add(sums[:, place], weights, batch.fold)
            null = carried.variograms[f"permuted {name}"]
            null.add(permuted[:, place], permuted_weights, batch.fold)
        if (grouped := carried.grouped) is not None:
            grouped.add(sums[:, 0], weights, self.study.rows(batch, self._cells))
        if drawn:
            own = fields.expand(-1, sums.shape[2], -1)
            for name, added in zip(CROSSES, (crosses[:, 0], crosses[:, 1], own), strict=True):
                carried.variograms[name].add(added, weights, batch.fold)
            np.add.at(carried.field_squares, batch.fold, field_squares.cpu().numpy())
        if self._rungs and (read := self.study.in_ladder(batch)).any():
            of_read = None if surface is None else surface[read]
            self._climb(layer.index, states[read], scores[read], of_read, batch.fold[read] % SUPER_FOLDS)

    def _drawn(self, layer: int) -> list[UnitCarry]:
        """A field of known carry-over for each window, the same for all heads, to be crossed with the residuals."""
        support, batch = self._supports[layer], self._batch
        rho = USUAL_RHO**support.query_stride
        return [
            UnitCarry(support, rho, np.random.default_rng([self._seed, layer, document, position]))
            for document, position in zip(batch.document.tolist(), batch.position.tolist(), strict=True)
        ]

    def _climb(
        self, layer: int, states: Tensor, scores: Tensor, surface: Scores | None, parts: np.ndarray
    ) -> None:
        """Variograms of what every rung of the ladder leaves of windows, one at a time: a rung has many maps."""
        support, ranks = self._supports[layer], self.study.ranks
        wide = columns_of(
            self.study.window, self.study.state_rank, max(ranks), query_stride=support.query_stride
        )
        names = [_rung(name, rank) for name in RESIDUALS for rank in ranks]
        for window, part in enumerate(parts):
            beta, one = self._rungs[layer][part], slice(window, window + 1)
            of_one = None if surface is None else surface[one]
            sums, trail = torch.zeros((), dtype=torch.float64), Trail()
            tiles = pair_field_tiles(
                states[one], beta.flatten(0, 1)[None], wide, support, self.study.query_tile
            )
            for tile in tiles:
                energy = self._energy(layer, scores[one], of_one, tile.rows, tile.last)
                left, before = trail.join(energy - tile.energies.unflatten(1, beta.shape[:2])[0])
                low, first = tile.rows.start - before, tile.rows.start
                sums = sums + lagged_products(left, support, low=low, first=first)
            for place, name in enumerate(names):
                rung = self.carried[layer].variograms[name]
                rung.add(sums[None, place], shared_keys(support), parts[[window]])
