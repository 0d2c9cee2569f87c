"""What each pass over the texts does with a layer while it is there: moments, variograms, a second look."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from infodyn_interp.energy.carry import (
    Carry,
    Variogram,
    filter_carry,
    lagged_products,
    permuted_products,
    shared_keys,
    unit_carry,
)
from infodyn_interp.energy.fitting import Fit
from infodyn_interp.energy.gauge import center_rows, support_of
from infodyn_interp.energy.ladder import DOCUMENTS, SUPER_FOLDS, LadderMoments, ranks_of
from infodyn_interp.energy.moments import Moments, WindowAlgebra
from infodyn_interp.energy.reference import MeanStates, Reference, SurfaceFit
from infodyn_interp.energy.terms import Basis, Prosody, columns_of, pair_fields, rhythm_columns
from infodyn_interp.errors import RunError
from infodyn_interp.hooks import Checked, Layer
from infodyn_interp.identify.carry_limits import USUAL_RHO, CarryInjection
from infodyn_interp.identify.evidence import Variograms
from infodyn_interp.identify.resample import lower_bound
from infodyn_interp.identify.swaps import cross_documents, swapped_gains
from infodyn_interp.models import Model
from infodyn_interp.texts import Batch

FILTERED = 4  # windows at once: a filter holds several maps of each


@dataclass(frozen=True)
class Study:
    """What every pass of a run reads by.

    Args:
        model: the model under study, or its twin.
        window, folds: of the texts.
        layers, state_rank: of the run.
        prosody: rhythm of the vocabulary.
        strategy, means: the reference.
        checked: the parity preflight.
        bases: each layer's frozen coordinates.
        ladder_documents: the first documents, which the ladder reads.
    """

    model: Model
    window: int
    folds: int
    layers: Sequence[int]
    state_rank: int
    prosody: Prosody
    strategy: Reference
    means: MeanStates | None
    checked: Checked
    bases: Mapping[int, Basis]
    ladder_documents: int = DOCUMENTS

    @property
    def ranks(self) -> tuple[int, ...]:
        """Rungs of the ladder that every layer's basis has components for."""
        return ranks_of(min(basis.components.shape[1] for basis in self.bases.values()))


class Pass:
    """A visitor that knows each layer's support, states and energies."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self._supports = {
            layer: support_of(study.window, study.checked.reach[layer]) for layer in study.layers
        }

    def __call__(self, layer: Layer) -> None:
        """Take what this pass is for from a layer."""
        raise NotImplementedError

    def begin(self, batch: Batch) -> Tensor:
        """Start a batch; returns its rhythm flags."""
        self._batch = batch
        flags = self.study.prosody.flags(batch.tokens)
        self._rhythm = rhythm_columns(flags)
        return flags

    def _algebras(self, bilinear_rank: int | None = None) -> dict[int, WindowAlgebra]:
        """The algebra of each layer, made once for layers of one reach."""
        study = self.study
        made = {
            support: WindowAlgebra(support, study.state_rank, study.model.device, bilinear_rank)
            for support in set(self._supports.values())
        }
        return {layer: made[support] for layer, support in self._supports.items()}

    def _read(self, layer: Layer) -> tuple[Tensor, Tensor, Tensor | None]:
        """Every kept component of the states, scores and surface of a layer."""
        study = self.study
        surface = study.strategy(layer, self._batch.tokens.to(layer.scores.device), study.means)
        dtype = torch.promote_types(layer.scores.dtype, torch.float32)
        basis = study.bases[layer.index]
        states = basis.states(layer.attention_input, basis.components.shape[1])
        return states, layer.scores.to(dtype), None if surface is None else surface.to(dtype)

    def _energy(self, layer: int, scores: Tensor, surface: Tensor | None) -> Tensor:
        """Row-centred energies of a layer's windows."""
        return center_rows(-scores if surface is None else surface - scores, self._supports[layer])

    def _in_ladder(self) -> np.ndarray:
        """Windows of the batch that the ladder reads: the first of each of the first documents."""
        return (self._batch.position == 0) & (self._batch.document < self.study.ladder_documents)


class Measurement(Pass):
    """The fit pass: each layer's energies become moments and are dropped.

    Args:
        study: what to read by.
        scratch: where the ladder's Grams lie while the run lasts; without it there is no ladder.
    """

    def __init__(self, study: Study, scratch: Path | None = None) -> None:
        super().__init__(study)
        self._algebra = self._algebras()
        columns = next(iter(self._algebra.values())).columns
        heads, folds = study.model.heads, study.folds
        self.moments = {layer: Moments.empty(columns, heads, folds) for layer in study.layers}
        self.surfaces = {layer: SurfaceFit.empty(folds, heads) for layer in study.layers}
        self.ladder: dict[int, LadderMoments] = {}
        if scratch is not None:
            self._wide = self._algebras(max(study.ranks))
            self.ladder = {
                layer: LadderMoments(algebra.columns, heads, scratch / f"ladder-{layer}.npy")
                for layer, algebra in self._wide.items()
            }

    def __call__(self, layer: Layer) -> None:
        states, scores, surface = self._read(layer)
        algebra = self._algebra[layer.index]
        z = states[..., : self.study.state_rank]
        window = algebra(z, self._rhythm, self.study.bases[layer.index], scores, surface)
        if not bool(torch.isfinite(window.square_row).all()):
            self._refuse(layer.index, window.square_row)
        self.moments[layer.index].add(window, self._batch.fold)
        if surface is not None:
            folds = torch.from_numpy(self._batch.fold)
            self.surfaces[layer.index].add(scores, surface, layer.mask, algebra.support, folds)
        if self.ladder and (read := self._in_ladder()).any():
            kept = torch.from_numpy(np.flatnonzero(read))
            products, _ = self._wide[layer.index].pair_products(
                states[kept], scores[kept], None if surface is None else surface[kept]
            )
            self.ladder[layer.index].add(products, self._batch.fold[read])

    def received(self, layer: Layer) -> tuple[Tensor, Tensor]:
        """What each key of the batch's first window receives: columns, heads."""
        states, scores, surface = self._read(layer)
        columns, heads = self._algebra[layer.index].received(
            states[..., : self.study.state_rank], self._rhythm, self.study.bases[layer.index], scores, surface
        )
        return columns[0].cpu(), heads[0].cpu()

    def _refuse(self, layer: int, squares: Tensor) -> None:
        window, head = (~torch.isfinite(squares)).nonzero()[0].tolist()
        raise RunError(
            f"layer {layer}, head {head}, window {self._batch.position[window]} of document "
            f"{self._batch.document[window]}: NaN in its energies; run it in dtype float32, or leave the layer out"
        )


class Carrying(Pass):
    """The carry pass: variograms of what the frozen fits leave, each window by coefficients that never saw it.

    Args:
        study: what to read by.
        fits: of the fit pass.
        ladder: of the fit pass; empty for none.
        limited: layers that get a detection limit of the carry-over: a field is injected beside their residuals.
        seed: of that field.
    """

    def __init__(
        self,
        study: Study,
        fits: Mapping[int, Fit],
        ladder: Mapping[int, LadderMoments],
        limited: Collection[int] = (),
        seed: int = 0,
    ) -> None:
        super().__init__(study)
        heads, device = study.model.heads, study.model.device
        self._columns = columns_of(study.window, study.state_rank)
        self._pairs = {
            layer: torch.from_numpy(np.stack([fit.pair_without, fit.nine_without], 1)).float().to(device)
            for layer, fit in fits.items()
        }
        self._rungs: dict[int, Tensor] = {}
        for layer, moments in ladder.items():
            found = moments.coefficients(fits[layer].chosen, study.ranks)
            both = np.stack([found["chosen"], found["nine"]], 1)  # [fold, variant, rank, head, column]
            self._rungs[layer] = torch.from_numpy(both).float().flatten(1, 2).to(device)

        def nothing(layer: int, folds: int = study.folds) -> Variogram:
            return Variogram.empty(self._supports[layer], heads, folds)

        rungs = study.ranks if ladder else ()
        self.variograms = {
            layer: Variograms(
                nothing(layer),
                nothing(layer),
                {rank: nothing(layer, SUPER_FOLDS) for rank in rungs},
                {rank: nothing(layer, SUPER_FOLDS) for rank in rungs},
            )
            for layer in study.layers
        }
        self._seed = seed
        self._crosses = {layer: tuple(nothing(layer) for _ in range(3)) for layer in limited}
        self._field_squares = dict.fromkeys(limited, 0.0)
        self._squares = {layer: np.zeros((study.folds, heads)) for layer in study.layers}
        self._windows = np.zeros(study.folds)
        self.permuted = {layer: Variograms(nothing(layer), nothing(layer), {}, {}) for layer in study.layers}

    def __call__(self, layer: Layer) -> None:
        states, scores, surface = self._read(layer)
        energy = self._energy(layer.index, scores, surface)
        batch, support, found = self._batch, self._supports[layer.index], self.variograms[layer.index]
        beta = self._pairs[layer.index][batch.fold]
        variants = beta.shape[1]
        fields = pair_fields(states, beta.flatten(1, 2), self._columns, support).unflatten(1, (variants, -1))
        left = energy[:, None] - fields
        np.add.at(
            self._squares[layer.index], batch.fold, left[:, 0].double().square().sum((-2, -1)).cpu().numpy()
        )
        weights, null = shared_keys(support), self.permuted[layer.index]
        sums = lagged_products(left, support)
        permuted, permuted_weights = permuted_products(left, support, batch.document, batch.position)
        for place, (own, without) in enumerate(((found.chosen, null.chosen), (found.nine, null.nine))):
            own.add(sums[:, place], weights, batch.fold)
            without.add(permuted[:, place], permuted_weights, batch.fold)
        if layer.index in self._crosses:
            self._inject(layer.index, left)
        if self._rungs and (read := self._in_ladder()).any():
            self._climb(layer.index, states[read], energy[read], batch.fold[read] % SUPER_FOLDS)

    def begin(self, batch: Batch) -> Tensor:
        """Start a batch; returns its rhythm flags."""
        np.add.at(self._windows, batch.fold, 1)
        return super().begin(batch)

    @property
    def variance_without(self) -> dict[int, Float[np.ndarray, "fold head"]]:
        """Variance of the residual after nuisance and the chosen track, each fold left out, nats^2."""
        windows = (self._windows.sum() - self._windows)[:, None]
        return {
            layer: (squares.sum(0) - squares) / (windows * self._supports[layer].pairs)
            for layer, squares in self._squares.items()
        }

    def _inject(self, layer: int, left: Tensor) -> None:
        """Cross the residuals with a field of known carry-over, the same for all heads of a window."""
        support, batch, crosses = self._supports[layer], self._batch, self._crosses[layer]
        drawn = [
            unit_carry(support, USUAL_RHO, np.random.default_rng([self._seed, layer, document, position]))
            for document, position in zip(batch.document.tolist(), batch.position.tolist(), strict=True)
        ]
        field = torch.stack(drawn).to(left)
        weights = shared_keys(support)
        cross = lagged_products(left, support, field[:, None, None].expand_as(left).contiguous())
        own = lagged_products(field[:, None], support).expand(-1, left.shape[2], -1)
        for variogram, sums in ((crosses[0], cross[:, 0]), (crosses[1], cross[:, 1]), (crosses[2], own)):
            variogram.add(sums, weights, batch.fold)
        self._field_squares[layer] += float(field.double().square().sum())

    @property
    def injections(self) -> dict[int, CarryInjection]:
        """What the detection limit of the carry-over needs, by limited layer."""
        heads, windows = self.study.model.heads, self._windows.sum()
        return {
            layer: CarryInjection(
                chosen=self.variograms[layer].chosen,
                nine=self.variograms[layer].nine,
                chosen_cross=crosses[0],
                nine_cross=crosses[1],
                field=crosses[2],
                field_variance=np.full(
                    heads, self._field_squares[layer] / (windows * self._supports[layer].pairs)
                ),
            )
            for layer, crosses in self._crosses.items()
        }

    def _climb(self, layer: int, states: Tensor, energy: Tensor, parts: np.ndarray) -> None:
        support, found, ranks = self._supports[layer], self.variograms[layer], self.study.ranks
        wide = columns_of(self.study.window, self.study.state_rank, max(ranks))
        weights = shared_keys(support)
        for window, part in enumerate(parts):
            beta = self._rungs[layer][part]
            fields = pair_fields(states[[window]], beta.flatten(0, 1)[None], wide, support)
            sums = lagged_products(energy[window] - fields.unflatten(1, beta.shape[:2])[0], support)
            for place, of_rank in enumerate((found.ladder, found.ladder_nine)):
                for rung, rank in enumerate(ranks):
                    of_rank[rank].add(sums[None, place * len(ranks) + rung], weights, parts[[window]])


@dataclass
class Series:
    """|M_t| of one layer's heads in the first window of each document, nats; NaN where a query has no support.

    `magnitude`: RMS over keys of the filtered carry-over; `innovation`: of its innovation, below 0 where the innovation
    undoes what was carried.
    """

    magnitude: list[Float[Tensor, "window head query"]] = field(default_factory=list)
    innovation: list[Float[Tensor, "window head query"]] = field(default_factory=list)


class SecondLook(Pass):
    """The first window of each document again: the filtered carry-over, and the swap gate by blocks of documents.

    Args:
        study: what to read by.
        fits: of the fit pass.
        carries: the fitted carry-overs, with folds left out.
        variance: of the residual, each fold left out, nats^2.
    """

    def __init__(
        self,
        study: Study,
        fits: Mapping[int, Fit],
        carries: Mapping[int, Carry],
        variance: Mapping[int, Float[np.ndarray, "fold head"]],
    ) -> None:
        super().__init__(study)
        device = study.model.device
        self._columns = columns_of(study.window, study.state_rank)
        self._pairs = {
            layer: torch.from_numpy(fit.pair_without).float().to(device) for layer, fit in fits.items()
        }
        self._carries, self._variance = carries, variance
        # where the bound of the gain is not above 0 there is nothing to gate
        self._wanted = {layer: lower_bound(fit.gain_by_fold) > 0 for layer, fit in fits.items()}
        self._algebra = self._algebras()
        self.series = {layer: Series() for layer in study.layers}
        self.gains: dict[int, list[np.ndarray]] = {layer: [] for layer in study.layers}
        self.swapping, self.filtering = False, True

    def __call__(self, layer: Layer) -> None:
        states, scores, surface = self._read(layer)
        index, z = layer.index, states[..., : self.study.state_rank]
        if self.swapping:
            crossed = cross_documents(
                self._algebra[index], z, self._rhythm, self.study.bases[index], scores, surface
            )
            self.gains[index].append(swapped_gains(crossed, self._columns, self._wanted[index]))
        if self.filtering:
            for first in range(0, len(z), FILTERED):
                part = slice(first, first + FILTERED)
                of_part = None if surface is None else surface[part]
                self._filter(index, z[part], scores[part], of_part, self._batch.fold[part])

    def _filter(
        self, index: int, z: Tensor, scores: Tensor, surface: Tensor | None, folds: np.ndarray
    ) -> None:
        support, carry = self._supports[index], self._carries[index]
        energy = self._energy(index, scores, surface)
        left = energy - pair_fields(z, self._pairs[index][folds], self._columns, support)
        rho, sill, nugget, total = (
            torch.from_numpy(values[folds])
            for values in (carry.rho_without, carry.sill_without, carry.nugget_without, self._variance[index])
        )
        of_key = (total - sill - nugget).clamp(min=0)
        carried, innovation = filter_carry(left, rho, sill, nugget, of_key, support)
        undone = (innovation * (carried - innovation)).sum(-1) < 0
        inverse, signs = support.inverse_counts.to(left), torch.where(undone, -1.0, 1.0)
        for kept, size in (
            (self.series[index].magnitude, (carried.square().sum(-1) * inverse).sqrt()),
            (self.series[index].innovation, (innovation.square().sum(-1) * inverse).sqrt() * signs),
        ):
            kept.append(torch.where(inverse > 0, size, torch.nan).float().cpu())

    @property
    def swap_gains(self) -> dict[int, np.ndarray]:
        """Gains of each shift of the swap gate by layer, blocks side by side; empty where no block was full."""
        return {layer: np.concatenate(gains, 1) for layer, gains in self.gains.items() if gains}
