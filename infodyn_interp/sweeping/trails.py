"""What frozen terms of a sweep see along each document's first window: state, |M|, its innovation, the track."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from infodyn_interp import results
from infodyn_interp.energy.terms import Prosody, columns_of, pair_fields, row_blocks
from infodyn_interp.errors import RequestError
from infodyn_interp.hooks import Layer, capture
from infodyn_interp.identify.interference import Sizes
from infodyn_interp.measures.fits import Reading
from infodyn_interp.measures.paths import PATHS
from infodyn_interp.models import Model
from infodyn_interp.sweeping.keeping import KEPT, Kept, Terms
from infodyn_interp.sweeping.passes import Pass, Study
from infodyn_interp.sweeping.plans import STUDY
from infodyn_interp.texts import Texts, read_pieces

NAMES = ("state", "|M|", "innovation", "track")


@dataclass(frozen=True)
class Trails:
    """What is seen of each layer's first windows, first token left out; NaN where a query has too few keys.

    Args:
        series: by layer, the series of `NAMES`: `state` is z; `|M|` the RMS over heads of each head's |M_t| over its
            energy; `innovation`, below 0 where it undoes what was carried, and `track`, the energy at the state's own
            place less the mean over its keys (below 0 in a well), are means over heads in the same unit.
        sizes: by layer, of each head.
    """

    series: dict[int, dict[str, Float[np.ndarray, "..."]]]
    sizes: dict[int, Sizes]


@dataclass(frozen=True)
class Frozen:
    """The sweep that measures belong to, with the terms it left; those of its untrained twin where it had one.

    Args:
        digest: of its run.
        reference, seed: of its run.
        kept: by part; empty where nothing is beside the result.
    """

    digest: str
    reference: str
    seed: int
    kept: Mapping[str, Kept]

    @classmethod
    def open(cls, place: Path, model: Model, texts: Texts) -> "Frozen":
        """See that a sweep is of this model and these texts.

        Raises:
            RequestError: it is not there, or of another model or other texts, or what it left is damaged.
        """
        result = results.open_result(place)
        told, digest = json.loads(result.attrs["run"]), str(result.attrs["run_digest"])
        for name, value in (("model_digest", model.digest), ("texts_digest", texts.digest)):
            if told.get(name) != value:
                what = name.removesuffix("_digest")
                raise RequestError(
                    f"inside: that result is of another {what}; give the {what} and the windows that it was made from"
                )
        folder = place if place.is_dir() else place.parent
        kept = {part: Kept(folder, part, digest) for part in KEPT if Kept.is_there(folder, part)}
        return cls(digest, str(told.get("reference")), int(result.attrs["seed"]), kept)

    @property
    def carried(self) -> tuple[int, ...]:
        """Layers with a carry-over."""
        if STUDY not in self.kept:
            return ()
        terms = self.kept[STUDY].terms
        return tuple(layer for layer, one in terms.items() if one.carry is not None)

    def of(self, part: str, seed: int) -> Kept | None:
        """What a part is read by: other texts by the model's own terms, a twin by its own or not at all."""
        if part == "untrained" and seed != self.seed:
            return None
        return self.kept.get(STUDY if part == "shuffled_tokens" else part)


def read_trails(reading: Reading, kept: Kept, reference: str, layers: tuple[int, ...]) -> Trails:
    """What a part's frozen terms see of the first documents, step by step."""
    terms = {layer: kept.terms[layer] for layer in layers}
    prosody = Prosody(read_pieces(reading.texts.tokenizer))
    study = kept.study(reading.model, reading.texts.window, layers, prosody, reference, reading.checked)
    visit, done = _Trail(study, terms), 0
    for batch in reading.first_windows(PATHS, reading.micro_batch):
        visit.begin(batch)
        capture(reading.model, batch, visit, layers=layers, checked=reading.checked, logits_to_keep=1)
        reading.report(done := done + batch.tokens.numel())
    series = {
        layer: {name: torch.cat(parts).double().numpy()[:, 1:] for name, parts in found.items()}
        for layer, found in visit.rows.items()
    }
    sizes = {
        layer: Sizes(*(torch.cat(found[name]).numpy()[..., 1:] for name in Sizes.__match_args__))
        for layer, found in visit.sizes.items()
    }
    return Trails(series, sizes)


class _Trail(Pass):
    def __init__(self, study: Study, terms: Mapping[int, Terms]) -> None:
        super().__init__(study)
        self._columns, self._terms = columns_of(study.window, study.state_rank), terms
        self.rows: dict[int, dict[str, list[Tensor]]] = {
            layer: {name: [] for name in NAMES} for layer in study.layers
        }
        self.sizes: dict[int, dict[str, list[Tensor]]] = {
            layer: {name: [] for name in Sizes.__match_args__} for layer in study.layers
        }

    def __call__(self, layer: Layer) -> None:
        z, scores, surface = self._read(layer)
        index, support, terms = layer.index, self._supports[layer.index], self._terms[layer.index]
        rows = slice(0, len(support.queries))
        energy = self._energy(index, scores, surface, rows, support.window)
        within = pair_fields(z, self._frozen(terms.pairs).expand(len(z), -1, -1), self._columns, support)
        filtered = terms.filter(energy - within, support)
        if filtered is None:
            raise RequestError(f"inside: layer {index} has no carry-over there; sweep with longer windows")
        carried, innovation = filtered
        inverse, own = support.inverse_counts.to(energy), torch.from_numpy(terms.rms)[:, None]
        undone = (innovation * (carried - innovation)).sum(-1) < 0
        rows_of = (carried, innovation, within + carried - innovation)
        sizes = [(values.square().sum(-1) * inverse).sqrt().cpu() for values in rows_of]
        beta = self._frozen(terms.coefficient[:, self._columns.blocks["track"]])
        seen = torch.where(inverse > 0, 0.0, torch.nan).cpu()
        for name, values in zip(Sizes.__match_args__, sizes, strict=True):
            self.sizes[index][name].append(values + seen)
        found = {
            "state": z,
            "|M|": (sizes[0] / own).square().mean(1).sqrt() + seen,
            "innovation": (sizes[1] / own * torch.where(undone, -1, 1).cpu()).mean(1) + seen,
            "track": ((beta @ self._wells(z, index)).cpu() / own).mean(1) + seen,
        }
        for name, values in found.items():
            self.rows[index][name].append(values.cpu())

    def _wells(self, z: Tensor, layer: int) -> Float[Tensor, "window track query"]:
        """Each track at the place of the query's own state, less the mean over the keys of its row."""
        support, parts = self._supports[layer], []
        for block in row_blocks(z.contiguous(), support, self._columns.grid):
            mask = support.mask[block.rows, : block.last].to(block.tracks)
            mean = (block.tracks * mask).sum(-1) * support.inverse_counts[block.rows].to(block.tracks)
            parts.append(block.tracks.diagonal(block.first, -2, -1) - mean)
        return torch.cat(parts, -1)
