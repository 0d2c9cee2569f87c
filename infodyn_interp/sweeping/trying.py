"""A column of one's own against a finished sweep: does it explain anything that the whole fit leaves?

What the fit leaves is each document's energy less all fitted terms, by coefficients that never saw its fold. What a
column shares with fitted ones was given to them, so its gain is a lower bound of what it would have as a term.
"""

import os
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
import xarray
from jaxtyping import Float, Int
from torch import Tensor

from infodyn_interp import results
from infodyn_interp.energy.fields import Field
from infodyn_interp.energy.fitting import Estimate
from infodyn_interp.energy.gauge import center_rows
from infodyn_interp.energy.removal import partners_of
from infodyn_interp.energy.terms import Prosody
from infodyn_interp.errors import RequestError
from infodyn_interp.hooks import Checked, Layer, capture, check
from infodyn_interp.identify.swaps import BLOCK
from infodyn_interp.models import Model
from infodyn_interp.reducing.labels import GRID, interval, label, of_layers
from infodyn_interp.results import span
from infodyn_interp.sweeping.keeping import Kept
from infodyn_interp.sweeping.passes import Pass, Study
from infodyn_interp.sweeping.plans import STUDY
from infodyn_interp.sweeping.trails import Frozen
from infodyn_interp.texts import Batch, Texts, read_pieces

WHOLE_FIT = ("prosody", "track", "nuisance")
STRANGERS = BLOCK - 1  # other documents whose columns are tried: the own must beat them all for a p of .05

Column = Callable[[Tensor], Tensor]


def try_column(
    model: Model,
    texts: Texts,
    inside: str | os.PathLike[str],
    column: Column,
    *,
    layers: Iterable[int] | None = None,
    micro_batch: int = 4,
    checked: Checked | None = None,
) -> xarray.Dataset:
    """Ask of a column of your own what it explains of the energies that no fitted term does.

    Args:
        model, texts: those of the sweep.
        inside: folder of the finished sweep.
        column: called with token ids `[window, key]`; returns a number for every pair, `[window, query, key]`, of which
            those on the support count, row-centred.
        layers: of the sweep; all by default.
        micro_batch: windows in one forward pass.
        checked: from `hooks.check`, made before the scores were bent on purpose, to try it on planted truth.

    Returns:
        By layer and head: `coefficient` (nats per unit of the column; below 0 attracts), `gain`, the share of left-out
        documents' row-centred energy variance that the column explains beyond the whole fit, both with 95 % intervals
        over folds of documents; `stranger_gain`, the mean gain of other documents' columns, and `swap_p`, the share of
        19 of them and the own that gain as much as the own (NaN where there are fewer).

    Raises:
        RequestError: a sweep of another model or texts, a layer it has not, a column of another shape, or one that is
            not finite or the same for all keys of every query, which softmax does not see.
    """
    frozen, place = Frozen.open(Path(inside), model, texts), Path(inside)
    Kept.require_study(place if place.is_dir() else place.parent)
    kept = frozen.kept[STUDY]
    chosen = kept.layers if layers is None else tuple(layers)
    if missing := [layer for layer in chosen if layer not in kept.layers]:
        raise RequestError(f"layers: {missing[0]} asked, the sweep holds {span(kept.layers)}")
    batches = list(texts.batches(micro_batch))
    checked = check(model, batches[0]) if checked is None else checked
    prosody = Prosody(read_pieces(texts.tokenizer))
    study = kept.study(model, texts.window, chosen, prosody, frozen.reference, checked)
    basis = results.open_result(inside)["basis"].to_dataset()
    trial = _Trial(study, basis, column, batches, texts.folds)
    for batch in batches:
        trial.begin(batch)
        capture(model, batch, trial, layers=chosen, checked=checked, logits_to_keep=None)
    return _label(trial, chosen, texts.documents)


class _Trial(Pass):
    """Sums over the support by fold and head: column with itself and with what is left, and the energy's own square."""

    def __init__(
        self, study: Study, basis: xarray.Dataset, column: Column, batches: list[Batch], folds: int
    ) -> None:
        super().__init__(study)
        heads = basis["head"].values.tolist()
        self._fields = {
            layer: [Field.of(basis, layer, heads, term, study.prosody) for term in WHOLE_FIT]
            for layer in study.layers
        }
        self._column, self._begun = column, 0
        self._tokens = torch.cat([batch.tokens for batch in batches])
        documents = np.concatenate([batch.document for batch in batches])
        self._partners = partners_of(np.unique(documents, return_inverse=True)[1], STRANGERS)
        tried = 1 + len(self._partners)
        self.square = {layer: np.zeros((tried, folds, 1)) for layer in study.layers}
        self.crossed = {layer: np.zeros((tried, folds, len(heads))) for layer in study.layers}
        self.whole = {layer: np.zeros((folds, len(heads))) for layer in study.layers}

    def begin(self, batch: Batch) -> Tensor:
        """Start a batch: its own columns, then those of strangers."""
        here = slice(self._begun, self._begun + len(batch.tokens))
        self._begun = here.stop
        self._columns = [_read(self._column, batch.tokens)]
        self._columns += [_read(self._column, self._tokens[own]) for own in self._partners[:, here]]
        return super().begin(batch)

    def __call__(self, layer: Layer) -> None:
        states, scores, surface = self._read(layer)
        index, support, batch = layer.index, self._supports[layer.index], self._batch
        energy = (
            self._energy(index, scores, surface, slice(0, len(support.queries)), support.window)
            .cpu()
            .double()
        )
        left = energy - sum(
            field.energy(states.cpu(), batch.tokens, batch.fold).double() for field in self._fields[index]
        )
        np.add.at(self.whole[index], batch.fold, energy.square().sum((2, 3)).numpy())
        for place, pairs in enumerate(self._columns):
            column = center_rows(pairs, support)
            crossed = torch.einsum("wqk,whqk->wh", column, left)
            np.add.at(self.crossed[index][place], batch.fold, crossed.numpy())
            np.add.at(self.square[index][place], batch.fold, column.square().sum((1, 2))[:, None].numpy())


def _read(column: Column, tokens: Int[Tensor, "window key"]) -> Float[Tensor, "window query key"]:
    """The column of some windows (float64).

    Raises:
        RequestError: not a finite number for every pair.
    """
    pairs = torch.as_tensor(column(tokens)).cpu().double()
    asked = [*tokens.shape, tokens.shape[1]]
    if list(pairs.shape) != asked:
        raise RequestError(f"column: shape {list(pairs.shape)}, where a number for every pair has {asked}")
    if not bool(torch.isfinite(pairs).all()):
        raise RequestError("column: it has values that are not finite; give 0 where it has nothing to say")
    return pairs


def _label(trial: _Trial, layers: tuple[int, ...], documents: int) -> xarray.Dataset:
    coefficients, gains, strangers, ps = [], [], [], []
    for layer in layers:
        square, crossed = trial.square[layer], trial.crossed[layer]
        if not square[0].sum() > 0:
            raise RequestError("column: the same for all keys of every query, and that softmax does not see")
        with np.errstate(divide="ignore", invalid="ignore"):
            without = (crossed.sum(1, keepdims=True) - crossed) / (square.sum(1, keepdims=True) - square)
            by_fold = (2 * without * crossed - without**2 * square) / trial.whole[layer]
        coefficients.append(Estimate.of_jackknife(crossed[0].sum(0) / square[0].sum(0), without[0]))
        gains.append(Estimate.of_folds(by_fold[0]))
        others = by_fold[1:].mean(1)
        strangers.append(others.mean(0) if len(others) else np.full(others.shape[1:], np.nan))
        p = (1 + (others >= gains[-1].value).sum(0)) / (1 + STRANGERS)
        ps.append(p if len(others) == STRANGERS else np.full(p.shape, np.nan))
    unit, words = "nats per unit of the column", "coefficient of the column on what the whole fit leaves"
    gained = "share of held-out energy variance that the column explains beyond the whole fit"
    return xarray.Dataset(
        {
            **interval("coefficient", of_layers(coefficients), GRID, unit, words),
            **interval("gain", of_layers(gains), GRID, "1", gained),
            "stranger_gain": label(GRID, np.stack(strangers), "1", "mean gain of other documents' columns"),
            "swap_p": label(
                GRID, np.stack(ps), "1", "share of the own and 19 others that gain as much as the own"
            ),
        },
        coords={"layer": list(layers), "head": np.arange(trial.crossed[layers[0]].shape[2])},
        attrs={"documents": documents, "strangers": len(trial.square[layers[0]]) - 1},
    )
