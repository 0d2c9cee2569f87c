"""What a pass over the texts does with a layer while it is there; here the moments of the fit and of the ladder."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from infodyn_interp.energy.gauge import center_rows, support_of
from infodyn_interp.energy.ladder import DOCUMENTS, LadderMoments, ranks_of
from infodyn_interp.energy.moments import Moments, WindowAlgebra
from infodyn_interp.energy.reference import MeanStates, Reference, SurfaceFit
from infodyn_interp.energy.terms import FINE, NINE, Basis, Grid, Prosody, rhythm_columns
from infodyn_interp.errors import RunError
from infodyn_interp.hooks import Checked, Layer, Scores
from infodyn_interp.models import Model
from infodyn_interp.texts import Batch


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
        ladder_documents: the first documents, whose first windows the ladder and the finer grid read.
        query_stride: every so many queries are used.
        query_tile: queries whose maps are held at once; by default as the window's length asks.
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
    query_stride: int = 1
    query_tile: int | None = None

    @property
    def ranks(self) -> tuple[int, ...]:
        """Rungs of the ladder that every layer's basis has components for."""
        return ranks_of(min(basis.components.shape[1] for basis in self.bases.values()))

    def rows(self, batch: Batch, cells: Int[np.ndarray, " cell"]) -> Int[np.ndarray, " window"]:
        """Which of some cells, folds within groups, each window is of."""
        return np.searchsorted(cells, batch.group * self.folds + batch.fold)

    def in_ladder(self, batch: Batch) -> Bool[np.ndarray, " window"]:
        """Windows that the ladder and the finer grid read: the first of each of the first documents."""
        return (batch.position == 0) & (batch.document < self.ladder_documents)


class Pass:
    """A visitor that knows each layer's support, states and energies."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self._supports = {
            layer: support_of(study.window, study.checked.reach[layer], study.query_stride)
            for layer in study.layers
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

    def _algebras(self, bilinear_rank: int | None = None, grid: Grid = NINE) -> dict[int, WindowAlgebra]:
        """The algebra of each layer, made once for layers of one reach."""
        study = self.study
        made = {
            support: WindowAlgebra(
                support, study.state_rank, study.model.device, bilinear_rank, grid, study.query_tile
            )
            for support in set(self._supports.values())
        }
        return {layer: made[support] for layer, support in self._supports.items()}

    def _read(self, layer: Layer) -> tuple[Tensor, Tensor, Scores | None]:
        """Every kept component of the states, scores and surface of a layer."""
        study = self.study
        surface = study.strategy(layer, self._batch.tokens.to(layer.scores.device), study.means)
        basis = study.bases[layer.index]
        states = basis.states(layer.attention_input, basis.components.shape[1])
        return states, layer.scores, surface

    def _frozen(self, coefficients: np.ndarray) -> Tensor:
        """Coefficients beside the model, in the precision that its energies have."""
        model = self.study.model
        dtype = torch.promote_types(model.dtype, torch.float32)
        return torch.from_numpy(coefficients).to(model.device, dtype)

    def _energy(self, layer: int, scores: Tensor, surface: Scores | None, rows: slice, last: int) -> Tensor:
        """Row-centred energies of some rows of a layer's windows up to a key, in single precision at least."""
        support = self._supports[layer]
        here = (slice(None), slice(None), support.queries_of(rows), slice(last))
        live = scores[here].to(torch.promote_types(scores.dtype, torch.float32))
        return center_rows(-live if surface is None else surface[here].to(live) - live, support, rows)


class Measurement(Pass):
    """The fit pass: each layer's energies become moments and are dropped.

    Args:
        study: what to read by.
        profiled: layers whose tracks are also read on the finer grid, in the windows of the ladder.
        cells: folds within groups that the documents are of, sorted; moments of each are kept too.
    """

    def __init__(self, study: Study, profiled: Collection[int] = (), cells: Sequence[int] = ()) -> None:
        super().__init__(study)
        self._algebra = self._algebras()
        columns = next(iter(self._algebra.values())).columns
        heads, folds = study.model.heads, study.folds
        self.moments = {layer: Moments.empty(columns, heads, folds) for layer in study.layers}
        grouped = study.layers if cells else ()
        self._cells = np.array(cells, np.int64)
        self.grouped = {layer: Moments.empty(columns, heads, len(cells)) for layer in grouped}
        self.surfaces = {layer: SurfaceFit.empty(folds, heads) for layer in study.layers}
        self._finer = self._algebras(grid=FINE) if profiled else {}
        self.fine = {layer: Moments.empty(self._finer[layer].columns, heads, folds) for layer in profiled}

    def __call__(self, layer: Layer) -> None:
        states, scores, surface = self._read(layer)
        algebra = self._algebra[layer.index]
        z = states[..., : self.study.state_rank]
        window = algebra(z, self._rhythm, self.study.bases[layer.index], scores, surface)
        if not bool(torch.isfinite(window.square_row).all()):
            self._refuse(layer.index, window.square_row)
        self.moments[layer.index].add(window, self._batch.fold)
        if self.grouped:
            self.grouped[layer.index].add(window, self.study.rows(self._batch, self._cells))
        if surface is not None:
            folds = torch.from_numpy(self._batch.fold)
            self.surfaces[layer.index].add(scores, surface, layer.mask, algebra.support, folds)
        if layer.index in self.fine and (read := self.study.in_ladder(self._batch)).any():
            kept, fine = torch.from_numpy(np.flatnonzero(read)), self.fine[layer.index]
            finer, basis = self._finer[layer.index], self.study.bases[layer.index]
            of_kept = scores[kept], None if surface is None else surface[kept]
            fine.add(finer(z[kept], self._rhythm[kept], basis, *of_kept), self._batch.fold[read])

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


class Climb(Pass):
    """The ladder of the carry-over: products of its widest nuisance with itself and with the heads."""

    def __init__(self, study: Study) -> None:
        super().__init__(study)
        self._wide = self._algebras(max(study.ranks))
        self.ladder = {
            layer: LadderMoments.empty(algebra.columns, study.model.heads)
            for layer, algebra in self._wide.items()
        }

    def __call__(self, layer: Layer) -> None:
        products, _ = self._wide[layer.index].pair_products(*self._read(layer))
        self.ladder[layer.index].add(products, self._batch.fold)
