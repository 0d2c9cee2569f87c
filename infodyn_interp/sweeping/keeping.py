"""What a finished sweep leaves for texts it never saw: coordinates, coefficients and mean states, all frozen."""

import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from infodyn_interp.energy.carry import filter_carry, per_token
from infodyn_interp.energy.gauge import Support
from infodyn_interp.energy.reference import TABLE, MeanStates, choose_reference
from infodyn_interp.energy.terms import Basis, Columns, Prosody, columns_of
from infodyn_interp.errors import RequestError
from infodyn_interp.hooks import Checked
from infodyn_interp.models import Model
from infodyn_interp.sweeping.parts import Part, digest_of_file
from infodyn_interp.sweeping.passes import Study
from infodyn_interp.sweeping.plans import STUDY
from infodyn_interp.sweeping.shards import File, Header, spread, write_file

FOLDER = "frozen"  # beside the result
KEPT = (STUDY, "untrained")  # parts whose coefficients are of use on other texts


@dataclass(frozen=True)
class Terms:
    """One layer's frozen terms; coefficients in nats per unit of column.

    Args:
        basis: coordinates.
        coefficient: of all columns, row gauge, of all documents.
        pairs: within-key coefficients of nuisance and the chosen track: the mean over folds left out.
        rms: row-centred energy, nats.
        carry: rho of a token, sill, nugget and variance of the residual (nats^2), for the filter; or None.
    """

    basis: Basis
    coefficient: Float[np.ndarray, "head column"]
    pairs: Float[np.ndarray, "head column_within"]
    rms: Float[np.ndarray, " head"]
    carry: Float[np.ndarray, "kind head"] | None

    def filter(
        self, residual: Float[Tensor, "window head query key"], support: Support
    ) -> tuple[Float[Tensor, "window head query key"], Float[Tensor, "window head query key"]] | None:
        """Filtered carry-over and innovation of what nuisance and track leave; None where no carry-over was fitted."""
        if self.carry is None:
            return None
        rho, sill, nugget, total = torch.from_numpy(self.carry)[:, None].expand(-1, len(residual), -1)
        of_key = (total - sill - nugget).clamp(min=0)
        return filter_carry(residual, rho, sill, nugget, of_key, support)

    def at(self, fitted: Columns, window: int) -> "Terms":
        """The same for shorter windows: their distance bins are the first ones."""
        here = columns_of(window, fitted.state_rank)
        dropped = slice(here.blocks["distance"].stop, fitted.blocks["distance"].stop)
        coefficient, pairs = (np.delete(one, dropped, -1) for one in (self.coefficient, self.pairs))
        return replace(self, coefficient=coefficient, pairs=pairs)


def keep(part: Part, out: Path, run: str) -> None:
    """Put what is frozen of a part beside the result of its run, whose digest is `run`."""
    folder = out / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    table = folder / part.name
    if part.needs_means:
        shutil.rmtree(table, ignore_errors=True)
        table.mkdir()
        try:
            os.link(part.table / TABLE, table / TABLE)
        except OSError:  # a file system without links
            shutil.copyfile(part.table / TABLE, table / TABLE)
    write_file(folder / f"{part.name}.npz", _arrays(part), lambda: Header(run, f"{part.name} frozen"))


def _arrays(part: Part) -> Iterator[tuple[str, np.ndarray]]:
    columns = part.columns
    yield "size", np.array([columns.window, columns.state_rank, part.plan.width])
    yield "layers", np.array(part.settings.layers)
    if part.needs_means:
        yield "table", np.frombuffer(digest_of_file(part.table / TABLE), np.uint8)
        yield "types", part.types
        yield from part.frozen_means().summary().items()
    frozen = part.frozen_fits() if "carry" in part.stages else None
    for layer, fitted in part.fits.items():
        basis = part.bases[layer]
        yield from spread(f"{layer}", replace(basis, components=basis.components[:, : basis.rank]))
        yield f"{layer}/width", np.array(basis.width)
        yield f"{layer}/coefficient", fitted.coefficient
        yield f"{layer}/pairs", fitted.pair_without.mean(0)
        yield f"{layer}/rms", fitted.rms
        if frozen is not None:
            one, variance = frozen.carries[layer], frozen.variance[layer].mean(0)
            rho = per_token(one.rho, part.settings.query_stride)  # replies are read at every token
            yield f"{layer}/carry", np.stack([rho, one.sill, one.nugget, variance])


class Kept:
    """What `keep` left of a part.

    Args:
        out: of the run.
        name: of the part.
        run: digest of the run.
    Raises:
        RequestError: it is damaged, or of another run.
    """

    def __init__(self, out: Path, name: str, run: str) -> None:
        self._folder = out / FOLDER / name
        self._file = File(self._folder.with_suffix(".npz"), run)
        window, rank, self._width = self._file["size"].tolist()
        self.columns = columns_of(window, rank)
        self.layers: tuple[int, ...] = tuple(self._file["layers"].tolist())
        self.digest = self._file.header.content

    @staticmethod
    def is_there(out: Path, name: str) -> bool:
        """Whether anything was kept of a part."""
        return (out / FOLDER / f"{name}.npz").exists()

    @classmethod
    def require_study(cls, folder: Path) -> None:
        """Refuse a sweep that left no terms of its model.

        Raises:
            RequestError: they are not beside the result.
        """
        if not cls.is_there(folder, STUDY):
            raise RequestError(
                f"inside: {folder / FOLDER} is not there; sweep again, which leaves it beside the result"
            )

    @cached_property
    def terms(self) -> dict[int, Terms]:
        """By layer."""
        return {layer: self._terms(layer) for layer in self.layers}

    def _terms(self, layer: int) -> Terms:
        found = {
            name.removeprefix(f"{layer}/"): self._file[name]
            for name in self._file
            if name.startswith(f"{layer}/")
        }
        mean, components, centres = (
            torch.from_numpy(found[name]) for name in ("mean", "components", "centres")
        )
        basis = Basis(mean, components, centres, float(found["width"]))
        return Terms(basis, found["coefficient"], found["pairs"], found["rms"], found.get("carry"))

    def study(
        self,
        model: Model,
        window: int,
        layers: Sequence[int],
        prosody: Prosody,
        reference: str,
        checked: Checked,
    ) -> Study:
        """What a pass over other texts reads by; the layers are among those kept."""
        return Study(
            model,
            window,
            1,
            layers,
            self.columns.state_rank,
            prosody,
            choose_reference(reference),
            self.means,
            checked,
            {layer: self.terms[layer].basis for layer in layers},
        )

    @cached_property
    def means(self) -> MeanStates | None:
        """Mean states of the reference; None where it needs none.

        Raises:
            RequestError: their file is not what was written.
        """
        if "table" not in self._file:
            return None
        if digest_of_file(self._folder / TABLE) != self._file["table"].tobytes():
            raise RequestError(f"{self._folder / TABLE}: damaged or missing; sweep again into another folder")
        return MeanStates(
            self._folder,
            self.layers,
            self._file["types"],
            self._width,
            self.columns.window,
            1,
            len(self._file["counts"]) > len(self._file["types"]),
            finished=self._file,
        )
