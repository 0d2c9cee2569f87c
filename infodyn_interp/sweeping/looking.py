"""The second look: the first window of each document again, for the filtered carry-over and the swap gate."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from infodyn_interp.energy.carry import Carry, CarryFilter
from infodyn_interp.energy.fitting import Fit
from infodyn_interp.energy.gauge import center_rows
from infodyn_interp.energy.terms import columns_of, pair_field_tiles, state_columns
from infodyn_interp.hooks import Layer, Scores
from infodyn_interp.identify.resample import lower_bound
from infodyn_interp.identify.swaps import Crossing, swapped_gains
from infodyn_interp.sweeping.passes import Pass, Study
from infodyn_interp.texts import Batch

FILTERED = 4  # windows at once: a filter holds several maps of each


@dataclass
class Series:
    """RMS over keys of one layer's rows in the first window of each document, nats; NaN where a query has no support.

    `magnitude`: |M_t|, of the filtered carry-over; `innovation`: of its innovation, below 0 where the innovation undoes
    what was carried; `residual`: of the energy less the prosody field; `foreseen`: of what nuisance, track and the
    carry-over of the row before foretell of it.
    """

    magnitude: list[Float[Tensor, "window head query"]] = field(default_factory=list)
    innovation: list[Float[Tensor, "window head query"]] = field(default_factory=list)
    residual: list[Float[Tensor, "window head query"]] = field(default_factory=list)
    foreseen: list[Float[Tensor, "window head query"]] = field(default_factory=list)

    def arrays(self) -> Iterator[tuple[str, Float[np.ndarray, "window head query"]]]:
        """Each kind of size, windows in order."""
        return ((one.name, torch.cat(getattr(self, one.name)).numpy()) for one in fields(self))


class FirstLook(Pass):
    """States and rhythm of a block of long windows, whose scores are too many to be held together."""

    def __init__(self, study: Study) -> None:
        super().__init__(study)
        self._states: dict[int, list[Tensor]] = {layer: [] for layer in study.layers}
        self._rhythms: list[Tensor] = []

    def begin(self, batch: Batch) -> Tensor:
        """Start a batch."""
        flags = super().begin(batch)
        self._rhythms.append(self._rhythm)
        return flags

    def __call__(self, layer: Layer) -> None:
        self._states[layer.index].append(self.study.bases[layer.index].states(layer.attention_input))

    @property
    def states(self) -> dict[int, Tensor]:
        """z of every window, by layer."""
        return {layer: torch.cat(parts) for layer, parts in self._states.items()}

    @property
    def rhythm(self) -> Tensor:
        """Rhythm of every window."""
        return torch.cat(self._rhythms)


class SecondLook(Pass):
    """The filtered carry-over of windows, and the swap gate of a block of documents.

    Args:
        study: what to read by.
        fits: of the fit pass.
        carries: the fitted carry-overs, with folds left out.
        variance: of the residual, each fold left out, nats^2.
        swapping: every batch is a block of the swap gate, or all batches together the block that was `seen`.
        filtering: keep the sizes of the filtered carry-over.
        seen: states and rhythm of the block, where its windows come in several batches.
    """

    def __init__(
        self,
        study: Study,
        fits: Mapping[int, Fit],
        carries: Mapping[int, Carry],
        variance: Mapping[int, Float[np.ndarray, "fold head"]],
        *,
        swapping: bool = False,
        filtering: bool = True,
        seen: FirstLook | None = None,
    ) -> None:
        super().__init__(study)
        self._columns = columns_of(study.window, study.state_rank, query_stride=study.query_stride)
        prosody = slice(self._columns.within, None)
        self._pairs = {layer: self._frozen(fit.pair_without) for layer, fit in fits.items()}
        self._fields = {
            layer: self._frozen(fit.coefficient_without[..., prosody]) for layer, fit in fits.items()
        }
        self._carries, self._variance = carries, variance
        # where the bound of the gain is not above 0 there is nothing to gate
        self._wanted = {layer: lower_bound(fit.gain_by_fold) > 0 for layer, fit in fits.items()}
        self._algebra = self._algebras()
        self.series = {layer: Series() for layer in study.layers}
        self.gains: dict[int, list[np.ndarray]] = {layer: [] for layer in study.layers}
        self._swapping, self._filtering = swapping, filtering
        known = {} if seen is None else seen.states
        self._crossings = {
            layer: Crossing(self._algebra[layer], states, seen.rhythm, study.bases[layer])
            for layer, states in known.items()
            if seen is not None
        }

    def __call__(self, layer: Layer) -> None:
        states, scores, surface = self._read(layer)
        index, z = layer.index, states[..., : self.study.state_rank]
        if self._swapping:
            self._cross(index, z, scores, surface)
        if self._filtering:
            for first in range(0, len(z), FILTERED):
                part = slice(first, first + FILTERED)
                of_part = None if surface is None else surface[part]
                self._filter(
                    index, z[part], self._rhythm[part], scores[part], of_part, self._batch.fold[part]
                )

    def _cross(self, index: int, z: Tensor, scores: Tensor, surface: Scores | None) -> None:
        crossing = self._crossings.pop(index, None) or Crossing(
            self._algebra[index], z, self._rhythm, self.study.bases[index]
        )
        crossing.add(scores, surface)
        if crossing.missing:
            self._crossings[index] = crossing
        else:
            gains = swapped_gains(crossing.crossed(), self._columns, self._wanted[index])
            self.gains[index].append(gains)

    def _filter(
        self,
        index: int,
        z: Tensor,
        rhythm: Tensor,
        scores: Tensor,
        surface: Scores | None,
        folds: np.ndarray,
    ) -> None:
        support, carry = self._supports[index], self._carries[index]
        rho, sill, nugget, total = (
            torch.from_numpy(values[folds])
            for values in (carry.rho_without, carry.sill_without, carry.nugget_without, self._variance[index])
        )
        of_key = (total - sill - nugget).clamp(min=0)
        pass_on = CarryFilter(rho, sill, nugget, of_key, support)
        columns = torch.cat([rhythm.to(z.device), state_columns(z, self.study.bases[index])], -1)
        field = self._fields[index][folds] @ columns.to(self._fields[index]).mT
        inverse = support.inverse_counts.to(field)
        sizes: dict[str, list[Tensor]] = {one.name: [] for one in fields(Series)}
        tiles = pair_field_tiles(z, self._pairs[index][folds], self._columns, support, self.study.query_tile)
        for tile in tiles:
            energy = self._energy(index, scores, surface, tile.rows, tile.last)
            carried, innovation = pass_on(energy - tile.energies, tile.rows)
            undone = (innovation * (carried - innovation)).sum(-1) < 0
            prosody = field[:, :, None, : tile.last].expand_as(energy)
            for name, rows, sign in (
                ("magnitude", carried, 1),
                ("innovation", innovation, torch.where(undone, -1, 1)),
                ("residual", energy - center_rows(prosody, support, tile.rows), 1),
                ("foreseen", tile.energies + carried - innovation, 1),
            ):
                sizes[name].append((rows.square().sum(-1) * inverse[tile.rows]).sqrt() * sign)
        for name, parts in sizes.items():
            size = torch.where(inverse > 0, torch.cat(parts, -1), torch.nan)
            getattr(self.series[index], name).append(size.cpu())

    def arrays(self) -> Iterator[tuple[str, np.ndarray]]:
        """What a shard keeps: sizes by window, gains by document of the block."""
        for layer, series in self.series.items():
            for name, kept in series.arrays():
                yield f"list/{layer}/{name}", kept
            if self.gains[layer]:
                yield f"list/{layer}/swap gains", np.concatenate(self.gains[layer], 1).swapaxes(0, 1)
