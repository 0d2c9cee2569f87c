"""A part of a run, stage by stage: the study itself, or a null beside it.

Every stage reads its documents in shards and is frozen once all of them are there: sums over shards, and what is solved
from them, in one file that the next stage reads by. Freezing takes neither model nor texts, and where a shard was
computed leaves no trace.
"""

import hashlib
import json
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property, partial
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from infodyn_interp.energy.carry import Variogram, fit_carry, lags_of
from infodyn_interp.energy.fitting import Fit, GroupFit, fit, fit_groups
from infodyn_interp.energy.gauge import Support, support_of
from infodyn_interp.energy.ladder import RANKS, LadderMoments, ranks_of
from infodyn_interp.energy.moments import Moments
from infodyn_interp.energy.reference import TABLE, MeanStates, SurfaceFit, choose_reference
from infodyn_interp.energy.terms import FINE, NINE, Basis, Columns, Grid, columns_of
from infodyn_interp.errors import RequestError
from infodyn_interp.hooks import Checked
from infodyn_interp.identify.carry_limits import CarryInjection
from infodyn_interp.identify.evidence import Variograms
from infodyn_interp.sweeping.carrying import Carried
from infodyn_interp.sweeping.looking import Series
from infodyn_interp.sweeping.plans import Job, Plan, Shard
from infodyn_interp.sweeping.precisions import Frozen, Precision
from infodyn_interp.sweeping.settings import Settings
from infodyn_interp.sweeping.shards import (
    Arrays,
    File,
    Header,
    collect,
    damage,
    is_sound,
    merged,
    names_of,
    spread,
    write_file,
)

LEAST_LAGS = 3  # of a variogram
BASIS = ("mean", "components", "centres", "width")
FITTED = tuple(field.name for field in fields(Fit) if field.name != "columns")
GROUP_FITTED = tuple(field.name for field in fields(GroupFit))
SIZES = tuple(field.name for field in fields(Series))


@dataclass(frozen=True)
class Gathered:
    """What the passes over the texts leave: everything later is algebra on it.

    Args:
        checked: the parity preflight.
        bases: each layer's frozen coordinates.
        moments: each layer's second moments by fold.
        surfaces: each layer's fit of the reference to the scores; empty for a reference of zeros.
        rhythm: tokens of each rhythm code, by fold `[fold, code]`; keys from the first key on.
        unseen: share of fitted tokens whose type the survey never saw; NaN where no types were surveyed.
        example: what each key of one window receives, by layer: columns `[key, column]`, heads `[key, head]`.
        example_tokens: that window.
        fits: of the moments, by layer.
        variograms: of the carry pass; None where windows are too short for one, or it was not asked for.
        permuted: the same with the later half's queries in random order.
        series: |M_t| of the first window of each document.
        injections: what the carry-over's detection limit needs, by limited layer.
        swap_gains: by layer, the gains of each shift of the swap gate; empty where no block of documents was full.
        fine: by limited layer, moments with the finer grid of tracks, of the windows that the ladder reads.
        precisions: by dtype, the run's own first; empty where none was asked for.
        groups: of documents, label and number; empty where they are not told apart.
        group_fits: by layer, what the fits explain of each group.
        group_variograms: by layer, of the carry pass, by fold within group.
    """

    checked: Checked
    bases: dict[int, Basis]
    moments: dict[int, Moments]
    surfaces: dict[int, SurfaceFit]
    rhythm: Tensor
    unseen: float
    example: dict[int, tuple[Tensor, Tensor]]
    example_tokens: Tensor
    fits: dict[int, Fit]
    variograms: dict[int, Variograms] | None
    permuted: dict[int, Variograms] | None
    series: dict[int, Series]
    injections: dict[int, CarryInjection]
    swap_gains: dict[int, np.ndarray]
    fine: dict[int, Moments]
    precisions: dict[str, Precision]
    groups: tuple[tuple[str, int], ...] = ()
    group_fits: dict[int, GroupFit] = field(default_factory=dict)
    group_variograms: dict[int, Variogram] = field(default_factory=dict)


class Part:
    """What is there of a part of a run, and what follows from it.

    Args:
        plan, settings: of the run.
        folder: where shards and frozen stages lie.
        run: digest of the whole run.
        study: the part that this one stands beside.
        redo: damaged files are removed, to be made again.
    """

    def __init__(
        self,
        plan: Plan,
        settings: Settings,
        folder: Path,
        run: str,
        *,
        study: "Part | None" = None,
        redo: bool = False,
    ) -> None:
        self.name, self.plan, self.settings, self.folder = plan.name, plan, settings, folder
        self._run, self._study, self._redo = run, study, redo
        self._opened: dict[str, File] = {}

    @property
    def reach(self) -> Sequence[int | None]:
        """Keys that a query of each layer sees, where that is less than the window; a null takes the study's."""
        return (self._study or self).checked.reach

    @cached_property
    def stages(self) -> tuple[str, ...]:
        """What this part goes through, in order; windows too short for a variogram end with the fit."""
        planned = tuple(dict.fromkeys(shard.stage for shard in self.plan.shards))
        supports = [self._support(layer) for layer in self.settings.layers]
        return planned[:2] if any(len(lags_of(support)) < LEAST_LAGS for support in supports) else planned

    def _support(self, layer: int) -> Support:
        return support_of(self.plan.window, self.reach[layer], self.settings.query_stride)

    @property
    def limited(self) -> tuple[int, ...]:
        """Layers that get detection limits and finer profiles."""
        return self.settings.limits if self._study is None else ()

    # files

    def shards(self, stage: str) -> tuple[Shard, ...]:
        """The pieces of a stage, in the order in which they are added; none where it is not of this part."""
        return tuple(shard for shard in self.plan.shards if shard.stage == stage in self.stages)

    def file(self, shard: Shard) -> Path:
        """Where a shard lies once it is finished."""
        return self.folder / f"{self.name}-{shard.stage}" / f"{shard.index:05d}.npz"

    def frozen(self, stage: str) -> Path:
        """Where a frozen stage lies."""
        return self.folder / f"{self.name}-{stage}.npz"

    @property
    def needs_means(self) -> bool:
        """Whether the reference is made of mean states."""
        return choose_reference(self.settings.reference).needs_means

    @property
    def types(self) -> np.ndarray:
        """Token types that the reference knows, sorted."""
        return self._check["types"]

    @property
    def table(self) -> Path:
        """Folder of the frozen survey's mean states."""
        return self.folder / f"{self.name}-means"

    @property
    def preflight(self) -> Path:
        """Where the check lies, with the token types that the reference is to know."""
        return self.folder / f"{self.name}-check.npz"

    def is_checked(self) -> bool:
        """Whether the preflight is there."""
        return is_sound(self.preflight, self._run, redo=self._redo)

    def is_frozen(self, stage: str) -> bool:
        """Whether a stage is frozen.

        Raises:
            RequestError: it is damaged, or of another run.
        """
        beside = self._require_table if stage == "survey" else None
        frozen = is_sound(self.frozen(stage), self.digest(stage), redo=self._redo, beside=beside)
        if not frozen:
            self._opened.clear()  # it may have been removed
        return frozen

    def missing(self, stage: str) -> list[Shard]:
        """What is still to be computed of a stage.

        Raises:
            RequestError: a finished file is damaged, or of another run.
        """
        if stage not in self.stages or self.is_frozen(stage):
            return []
        digest = self.digest(stage)
        shards = self.shards(stage)
        return [shard for shard in shards if not is_sound(self.file(shard), digest, redo=self._redo)]

    def digest(self, stage: str) -> str:
        """Of the run, the part, the stage and every frozen stage before it: what its files are headed by.

        Raises:
            RequestError: the stage before is not frozen.
        """
        place = self.stages.index(stage)
        before = self._arrays(self.stages[place - 1]).header if place else None
        known = f"{self._run} {self.name} {stage} {before and (before.run, before.content)}"
        return blake2b(known.encode(), digest_size=8).hexdigest()

    def header(self, stage: str) -> Header:
        """Of a frozen stage: what it took."""
        return self._arrays(stage).header

    def write_check(self, checked: Mapping[str, Any], types: np.ndarray) -> None:
        """Keep the preflight."""
        arrays = {"checked": np.frombuffer(json.dumps(checked).encode(), np.uint8), "types": types}
        write_file(self.preflight, arrays.items(), lambda: Header(self._run, f"{self.name} check"))

    def _require_table(self, survey: File) -> None:
        """Raises `DamagedError` where the mean states are not those that were frozen."""
        if survey["table"].tobytes() != digest_of_file(self.table / TABLE):
            raise damage(self.table, "mean states")

    # freezing

    def freeze(self, stage: str) -> None:
        """Add the shards of a finished stage and solve what the next one reads by; the shards are removed.

        Raises:
            RequestError: a shard is missing or damaged; it is named.
        """
        if self.frozen(stage).exists():
            return
        self._require_shards(stage)
        begun, digest = time.perf_counter(), self.digest(stage)
        files = [File(self.file(shard), digest) for shard in self.shards(stage)]

        def header() -> Header:
            return Header(
                run=digest,
                place=f"{self.name} {stage}",
                tokens=sum(file.header.tokens for file in files),
                seconds=sum(file.header.seconds for file in files) + time.perf_counter() - begun,
                peak_mib=max(file.header.peak_mib for file in files),
            )

        solve = {"survey": self._freeze_survey, "fit": self._freeze_fit, "ladder": self._freeze_ladder}
        arrays = solve[stage](files) if stage in solve else self._sums(files, names_of(files))
        write_file(self.frozen(stage), arrays, header)
        shutil.rmtree(self.folder / f"{self.name}-{stage}", ignore_errors=True)

    def _require_shards(self, stage: str) -> None:
        shards = self.shards(stage)
        absent = [str(shard.index + 1) for shard in shards if not self.file(shard).exists()]
        if absent:
            named = ", ".join(absent[:8]) + ", ..." * (len(absent) > 8)
            raise RequestError(
                f"{self.folder}: stage {stage} of {self.name} lacks {len(absent)} of {len(shards)} shards ({named});"
                " compute them first"
            )

    def _freeze_survey(self, files: Sequence[File]) -> Arrays:
        shutil.rmtree(self.table, ignore_errors=True)
        settings = self.settings
        with tempfile.TemporaryDirectory(dir=self.folder, prefix="survey-") as scratch:
            beside = Path(scratch) / "table"
            means = self.means(beside)
            for file in files:
                means.absorb(file)
            means.finish()
            for layer in settings.layers:
                basis = means.basis(layer, settings.state_rank, settings.seed, max(RANKS))
                yield from ((f"{layer}/{name}", np.asarray(getattr(basis, name))) for name in BASIS)
            means.drop_sample()
            beside.rename(self.table)
        yield "table", np.frombuffer(digest_of_file(self.table / TABLE), np.uint8)
        yield from means.summary().items()

    def _freeze_fit(self, files: Sequence[File]) -> Arrays:
        names = names_of(files)
        yield from self._sums(files, [name for name in names if "/all/" in name])
        for layer in self.settings.layers:
            mine = [name for name in names if f"/{layer}/" in name]
            cells = [name for name in mine if name.startswith("cell/")]
            arrays = dict(self._sums(files, [name for name in mine if name not in cells]))
            yield from arrays.items()
            moments = self._moments(arrays, layer, "moments", self.columns)
            fitted = fit(moments)
            yield from spread(f"fit/{layer}", fitted)
            if cells:  # one layer's at a time: what was fitted of groups is small, their moments are not
                empty = Moments.empty(self.columns, 1, 1)
                grouped = collect(dict(self._sums(files, cells)), f"cell/{layer}/moments", empty)
                yield from spread(f"group/{layer}", fit_groups(moments, grouped, fitted))

    def _freeze_ladder(self, files: Sequence[File]) -> Arrays:
        ranks = ranks_of(min(basis.components.shape[1] for basis in self.bases.values()))
        wide = self._columns_of(max(ranks))
        for layer in self.settings.layers:
            gram, cross = (merged(files, f"list/{layer}/{name}", 0) for name in ("gram", "cross"))
            yield f"{layer}/rungs", LadderMoments(wide, gram, cross).rungs(self.fits[layer].chosen, ranks)

    def _sums(self, files: Sequence[File], names: Sequence[str]) -> Arrays:
        folds, cells = self.plan.folds, self.plan.folds * len(self.plan.groups)
        return ((name, merged(files, name, cells if name.startswith("cell/") else folds)) for name in names)

    # what is frozen

    @cached_property
    def checked(self) -> Checked:
        """The parity preflight."""
        told = json.loads(self._check["checked"].tobytes())
        kept: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in told.items()
        }
        return Checked(**kept)

    @cached_property
    def bases(self) -> dict[int, Basis]:
        """Each layer's frozen coordinates."""
        frozen, out = self._arrays("survey"), {}
        for layer in self.settings.layers:
            *tensors, width = (frozen[f"{layer}/{name}"] for name in BASIS)
            mean, components, centres = map(torch.from_numpy, tensors)
            out[layer] = Basis(mean, components, centres, float(width))
        return out

    @cached_property
    def fits(self) -> dict[int, Fit]:
        """Each layer's frozen fit."""
        frozen = self._arrays("fit")
        return {
            layer: Fit(self.columns, **{name: frozen[f"fit/{layer}/{name}"] for name in FITTED})
            for layer in self.settings.layers
        }

    @property
    def rungs(self) -> dict[int, np.ndarray]:
        """Each layer's frozen ladder; empty where none was climbed."""
        if "ladder" not in self.stages:
            return {}
        frozen = self._arrays("ladder")
        return {layer: frozen[f"{layer}/rungs"] for layer in self.settings.layers}

    @cached_property
    def carried(self) -> dict[int, Carried]:
        """What the carry pass left of each layer."""
        frozen = self._arrays("carry")
        return {layer: Carried.of(frozen, layer, self._support(layer)) for layer in self.settings.layers}

    def frozen_fits(self) -> Frozen:
        """What the second look, and other precisions of the model, are read by."""
        carries = {layer: fit_carry(carried.own.chosen) for layer, carried in self.carried.items()}
        variance = {layer: carried.variance_without for layer, carried in self.carried.items()}
        return Frozen(self.fits, carries, variance)

    def means(self, folder: Path, first: int = 0) -> MeanStates:
        """Mean states to be filled in `folder`, where `first` windows come before."""
        folder.mkdir(exist_ok=True)
        return self._means(folder, first=first)

    def frozen_means(self) -> MeanStates:
        """The frozen survey's mean states."""
        return self._means(self.table, finished=self._arrays("survey"))

    def gathered(self) -> Gathered:
        """What the finished stages left."""
        arrays, layers = self._arrays("fit"), self.settings.layers
        carried = self.carried if "carry" in self.stages else None
        looked = self._arrays("look") if "look" in self.stages else {}
        gains = f"list/{layers[0]}/swap gains" in looked
        known, read = arrays["sum/all/unseen"]
        fine = self._columns_of(grid=FINE)
        return Gathered(
            checked=self.checked,
            bases=self.bases,
            moments={layer: self._moments(arrays, layer, "moments", self.columns) for layer in layers},
            surfaces={
                layer: collect(arrays, f"fold/{layer}/surface", SurfaceFit.empty(1, 1))
                for layer in layers
                if self.settings.reference != "zero"
            },
            rhythm=torch.from_numpy(arrays["fold/all/rhythm"]),
            unseen=float(known / read) if read else float("nan"),
            example={
                layer: (
                    torch.from_numpy(arrays[f"list/{layer}/example columns"]),
                    torch.from_numpy(arrays[f"list/{layer}/example heads"]),
                )
                for layer in layers
            },
            example_tokens=torch.from_numpy(arrays["list/all/example"]),
            fits=self.fits,
            variograms=None if carried is None else {layer: one.own for layer, one in carried.items()},
            permuted=None if carried is None else {layer: one.permuted for layer, one in carried.items()},
            series={
                layer: Series(*([torch.from_numpy(looked[f"list/{layer}/{name}"])] for name in SIZES))
                for layer in layers
                if looked
            },
            injections={
                layer: found for layer, one in (carried or {}).items() if (found := one.injection) is not None
            },
            swap_gains={
                layer: looked[f"list/{layer}/swap gains"].swapaxes(0, 1) for layer in layers if gains
            },
            fine={layer: self._moments(arrays, layer, "fine", fine) for layer in self.limited},
            precisions={},
            groups=self.plan.groups,
            group_fits={
                layer: GroupFit(**{name: arrays[f"group/{layer}/{name}"] for name in GROUP_FITTED})
                for layer in layers
                if self.plan.groups
            },
            group_variograms={
                layer: one.grouped for layer, one in (carried or {}).items() if one.grouped is not None
            },
        )

    @cached_property
    def _check(self) -> File:
        return File(self.preflight, self._run)

    @property
    def _means(self) -> "partial[MeanStates]":
        plan, layers = self.plan, self.settings.layers
        return partial(
            MeanStates,
            layers=layers,
            types=self.types,
            width=plan.width,
            window=plan.window,
            windows=plan.surveyed,
            by_position=plan.by_position,
        )

    @property
    def columns(self) -> Columns:
        """Names and places of what was fitted."""
        return self._columns_of()

    def _columns_of(self, bilinear_rank: int | None = None, grid: Grid = NINE) -> Columns:
        settings = self.settings
        return columns_of(
            self.plan.window, settings.state_rank, bilinear_rank, grid, query_stride=settings.query_stride
        )

    @staticmethod
    def _moments(arrays: Mapping[str, np.ndarray], layer: int, name: str, columns: Columns) -> Moments:
        return collect(arrays, f"fold/{layer}/{name}", Moments.empty(columns, 1, 1))

    def _arrays(self, stage: str) -> File:
        """A frozen stage.

        Raises:
            RequestError: it is not there yet, damaged, or of another run.
        """
        if stage not in self._opened:
            if not self.frozen(stage).exists():
                self._require_shards(stage)
                raise RequestError(
                    f"{self.folder}: stage {stage} of {self.name} has all its shards, but is not frozen;"
                    f" infodyn merge {self.folder.parent}"
                )
            self._opened[stage] = File(self.frozen(stage), self.digest(stage))
        return self._opened[stage]


def parts_of(job: Job, folder: Path, *, redo: bool = False) -> dict[str, Part]:
    """The study, then its nulls, by name; arguments as of `Part`."""
    study = Part(job.plans[0], job.settings, folder, job.digest, redo=redo)
    nulls = (Part(plan, job.settings, folder, job.digest, study=study, redo=redo) for plan in job.plans[1:])
    return {part.name: part for part in (study, *nulls)}


def digest_of_file(file: Path) -> bytes:
    """Of a large file; of one that is not there, none."""
    if not file.exists():
        return b""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, partial(blake2b, digest_size=8)).digest()
