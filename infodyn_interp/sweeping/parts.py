"""A part of a run: one model on its texts, stage by stage; the study itself, or a null beside it.

Every stage reads its documents in shards and is frozen once all of them are there: sums over shards, and what is solved
from them, in one file that the next stage reads by. Where a shard was computed leaves no trace in it.
"""

import bisect
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from infodyn_interp.energy.carry import fit_carry, lags_of
from infodyn_interp.energy.fitting import Fit, fit
from infodyn_interp.energy.gauge import support_of
from infodyn_interp.energy.ladder import RANKS, SUPER_FOLDS, LadderMoments, ranks_of
from infodyn_interp.energy.moments import Moments
from infodyn_interp.energy.reference import MeanStates, SurfaceFit, choose_reference
from infodyn_interp.energy.terms import FINE, Basis, Columns, Prosody, columns_of, rhythm_code
from infodyn_interp.errors import RequestError, RunError
from infodyn_interp.hooks import Checked, Layer, capture, check
from infodyn_interp.identify.carry_limits import CarryInjection
from infodyn_interp.identify.evidence import Variograms
from infodyn_interp.identify.nulls import TWINS
from infodyn_interp.identify.swaps import BLOCK, BLOCKS
from infodyn_interp.models import Model, permuted_weights_twin, untrained_twin
from infodyn_interp.sweeping.carrying import Carried, Carrying
from infodyn_interp.sweeping.looking import SecondLook, Series
from infodyn_interp.sweeping.passes import Climb, Measurement, Pass, Study
from infodyn_interp.sweeping.precisions import Frozen, Precision
from infodyn_interp.sweeping.settings import Settings, null_folds, peak_mib
from infodyn_interp.sweeping.shards import Arrays, File, Header, collect, merged, names_of, spread, write_file
from infodyn_interp.texts import Batch, Texts, read_pieces

STUDY = "study"
STAGES = ("survey", "fit", "ladder", "carry", "look")
MOST_SHARDS = 64  # of a stage, unless documents_per_shard says otherwise
LOOKED = BLOCK * BLOCKS  # documents of the second look, unless every series is wanted: more sharpen no figure
LEAST_LAGS = 3  # of a variogram
BASIS = ("mean", "components", "centres", "width")
FITTED = tuple(field.name for field in fields(Fit) if field.name != "columns")
SIZES = tuple(field.name for field in fields(Series))
Report = Callable[[int], None]


@dataclass(frozen=True)
class Shard:
    """A piece of work: whole documents that one stage of one part reads.

    Args:
        part, stage, index: its place; `of` shards make the stage.
        documents: ranks within the role.
        role: of the documents.
        tokens: it reads.
        swaps: a full block of the swap gate.
    """

    part: str
    stage: str
    index: int
    of: int
    documents: tuple[int, ...]
    role: str
    tokens: int
    swaps: bool = False


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


class Part:
    """One model on its texts.

    Args:
        name: `STUDY`, or a null's name.
        model: the study's; a null makes its own from it when a shard is computed.
        texts, settings: as in `sweep`.
        folder: where shards and frozen stages lie.
        run: digest of the whole run.
        reach: keys that a query of each layer sees, where the study has been checked.
        look: climb the ladder of the carry-over, and look at the first window of each document again.
        checked: a check of this model on windows of this length, where its scores were bent on purpose since.
    """

    def __init__(
        self,
        name: str,
        model: Model,
        texts: Texts,
        settings: Settings,
        folder: Path,
        run: str,
        *,
        reach: Sequence[int | None] | None = None,
        look: bool = True,
        checked: Checked | None = None,
    ) -> None:
        self.name, self.texts, self.settings, self.folder = name, texts, settings, folder
        self._trained, self._run, self._look, self._given, self._told = model, run, look, checked, reach
        self._strategy = choose_reference(settings.reference)
        self._first_windows = texts.part(windows_per_document=1)
        self._opened: dict[str, File] = {}

    @cached_property
    def model(self) -> Model:
        """The model under study, or its twin."""
        make = {"untrained": untrained_twin, "permuted_weights": permuted_weights_twin}.get(self.name)
        return self._trained if make is None else make(self._trained, self.settings.seed)

    @property
    def reach(self) -> Sequence[int | None]:
        """Keys that a query of each layer sees, where that is less than the window."""
        return self.checked.reach if self._told is None else self._told

    @cached_property
    def stages(self) -> tuple[str, ...]:
        """What this part goes through, in order."""
        supports = [support_of(self.texts.window, self.reach[layer]) for layer in self.settings.layers]
        if not self.settings.carry or any(len(lags_of(support)) < LEAST_LAGS for support in supports):
            return STAGES[:2]
        return STAGES if self._look else ("survey", "fit", "carry")

    def shards(self, stage: str) -> tuple[Shard, ...]:
        """The pieces of a stage, in the order in which they are added."""
        texts, settings = self._texts_of(stage), self.settings
        role, count = "fitted", texts.documents
        if stage == "survey":
            role, count = "reference", texts.reference_documents
        swaps = min(count // BLOCK, BLOCKS) if stage == "look" else 0
        if stage == "look" and not settings.series:
            count = min(count, LOOKED)
        spans: list[Sequence[int]]
        if stage == "ladder":  # a super-fold each
            every = range(min(settings.ladder_documents, count))
            spans = [
                [rank for rank in every if rank % texts.folds % SUPER_FOLDS == place]
                for place in range(SUPER_FOLDS)
            ]
        else:
            size = settings.documents_per_shard or max(texts.folds, -(-count // MOST_SHARDS))
            spans = [range(BLOCK * place, BLOCK * (place + 1)) for place in range(swaps)]
            spans += [range(at, min(at + size, count)) for at in range(swaps * BLOCK, count, size)]
        return tuple(
            Shard(
                self.name,
                stage,
                place,
                len(spans),
                tuple(span),
                role,
                texts.tokens(role, span),
                place < swaps,
            )
            for place, span in enumerate(spans)
        )

    def file(self, shard: Shard) -> Path:
        """Where a shard lies once it is finished."""
        return self.folder / f"{self.name}-{shard.stage}" / f"{shard.index:05d}.npz"

    def frozen(self, stage: str) -> Path:
        """Where a frozen stage lies."""
        return self.folder / f"{self.name}-{stage}.npz"

    def missing(self, stage: str) -> list[Shard]:
        """What is still to be computed of a stage.

        Raises:
            RequestError: a finished file is damaged, or of another run.
        """
        if self.frozen(stage).exists():
            return []
        digest = self._digest(stage)
        return [
            shard
            for shard in self.shards(stage)
            if not (self.file(shard).exists() and File(self.file(shard), digest).header.run)
        ]

    def compute(self, shard: Shard, report: Report) -> None:
        """Read a shard's documents and write what the stage keeps of them.

        Args:
            report: called with the tokens read of it so far.

        Raises:
            RequestError: the stage before is not whole.
            RunError: the model fails its check, scores are not finite, or the disk refuses.
        """
        begun, digest = time.perf_counter(), self._digest(shard.stage)
        folds = sorted({rank % self.texts.folds for rank in shard.documents})

        def header() -> Header:
            return Header(
                run=digest,
                place=f"{self.name} {shard.stage} {shard.index + 1}/{shard.of}",
                folds=tuple(folds),
                tokens=shard.tokens,
                seconds=time.perf_counter() - begun,
                peak_mib=peak_mib(),
            )

        read = {
            "survey": self._survey,
            "fit": self._measure,
            "ladder": self._climb,
            "carry": self._carry,
            "look": self._look_again,
        }[shard.stage]
        write_file(self.file(shard), read(shard, folds, report), header)

    def freeze(self, stage: str) -> None:
        """Add the shards of a finished stage and solve what the next one reads by; the shards are removed.

        Raises:
            RequestError: a shard is missing or damaged; it is named.
        """
        if self.frozen(stage).exists():
            return
        begun, shards, digest = time.perf_counter(), self.shards(stage), self._digest(stage)
        absent = [shard for shard in shards if not self.file(shard).exists()]
        if absent:
            named = ", ".join(str(shard.index + 1) for shard in absent[:8])
            raise RequestError(
                f"{self.folder}: stage {stage} of {self.name} lacks {len(absent)} of {len(shards)} shards"
                f" ({named}{', ...' if len(absent) > 8 else ''}); compute them first"
            )
        files = [File(self.file(shard), digest) for shard in shards]

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

    def rest(self) -> None:
        """Let go of a twin and of what passes read by, once nothing is left to compute."""
        for name in ("model", "study"):
            self.__dict__.pop(name, None)

    def header(self, stage: str) -> Header:
        """Of a frozen stage: what it took."""
        return self._arrays(stage).header

    def gathered(self) -> Gathered:
        """What the finished stages left."""
        arrays, layers = self._arrays("fit"), self.settings.layers
        carried = self.carried if "carry" in self.stages else None
        looked = self._arrays("look") if "look" in self.stages else {}
        gains = f"list/{layers[0]}/swap gains" in looked
        known, read = arrays["sum/all/unseen"]
        fine = columns_of(self.texts.window, self.settings.state_rank, grid=FINE)
        return Gathered(
            checked=self.checked,
            bases=self.bases,
            moments={layer: self._moments(arrays, layer, "moments", self._columns) for layer in layers},
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
            fine={layer: self._moments(arrays, layer, "fine", fine) for layer in self._limited},
            precisions={},
        )

    def frozen_fits(self) -> Frozen:
        """What other precisions of the model are read by."""
        carries = {layer: fit_carry(carried.own.chosen) for layer, carried in self.carried.items()}
        variance = {layer: carried.variance_without for layer, carried in self.carried.items()}
        return Frozen(self.fits, carries, variance)

    # what a stage reads by

    @cached_property
    def checked(self) -> Checked:
        """The parity preflight, made by whoever comes first."""
        if self._given is not None:
            return self._given
        told = json.loads(self._preflight["checked"].tobytes())
        kept: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in told.items()
        }
        return Checked(**kept)

    @cached_property
    def study(self) -> Study:
        """What passes after the survey read by."""
        return Study(
            self.model,
            self.texts.window,
            self.texts.folds,
            self.settings.layers,
            self.settings.state_rank,
            Prosody(read_pieces(self.texts.tokenizer)),
            self._strategy,
            self._means(self._table, finished=self._arrays("survey")),
            self.checked,
            self.bases,
            self.settings.ladder_documents,
        )

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
            layer: Fit(self._columns, **{name: frozen[f"fit/{layer}/{name}"] for name in FITTED})
            for layer in self.settings.layers
        }

    @cached_property
    def carried(self) -> dict[int, Carried]:
        """What the carry pass left of each layer."""
        frozen = self._arrays("carry")
        return {
            layer: Carried.of(frozen, layer, support_of(self.texts.window, self.reach[layer]))
            for layer in self.settings.layers
        }

    @cached_property
    def _preflight(self) -> File:
        """The check, and the token types that the reference is to know."""
        path = self.folder / f"{self.name}-check.npz"
        if not path.exists():
            told = {}
            if self._given is None:
                told = asdict(check(self.model, next(self.texts.batches(self.settings.micro_batch))))
            types = self.texts.token_types("fitted") if self._strategy.needs_means else np.zeros(0, np.int64)
            arrays = {"checked": np.frombuffer(json.dumps(told).encode(), np.uint8), "types": types}
            write_file(path, arrays.items(), lambda: Header(self._run, f"{self.name} check"))
        return File(path, self._run)

    # what a stage keeps of a shard

    def _survey(self, shard: Shard, folds: Sequence[int], report: Report) -> Arrays:
        before = self.texts.windows("reference", range(shard.documents[0]))
        with tempfile.TemporaryDirectory(dir=self.folder, prefix="survey-") as scratch:
            means = self._means(Path(scratch), before)

            def add(layer: Layer) -> None:
                if not bool(torch.isfinite(layer.attention_input.sum())):
                    raise RunError(
                        f"layer {layer.index}: NaN in the states of reference documents {min(batch.document)} to "
                        f"{max(batch.document)}; run it in dtype float32, or leave these documents out"
                    )
                means.add(layer.index, layer.attention_input)

            for batch in self._batches(shard, report):
                means.begin(batch.tokens)
                capture(self.model, batch, add, layers=self.settings.layers, checked=self.checked)
            yield from means.arrays()

    def _measure(self, shard: Shard, folds: Sequence[int], report: Report) -> Arrays:
        study, visit = self.study, Measurement(self.study, self._limited)
        first_key = support_of(self.texts.window).first_key
        rhythm = torch.zeros(self.texts.folds, 16 * self.texts.window, dtype=torch.float64)
        unseen = np.zeros(2)
        for batch in self._batches(shard, report):
            codes = rhythm_code(visit.begin(batch))[:, first_key:]
            of_fold = torch.from_numpy(batch.fold)[:, None].expand_as(codes)
            rhythm.index_put_((of_fold, codes), torch.ones(codes.shape, dtype=torch.float64), accumulate=True)
            if self._strategy.needs_means and study.means is not None:
                unseen += float(study.means.unseen(batch.tokens).sum()), len(batch.tokens)
            self._capture(batch, visit)
        yield "fold/all/rhythm", rhythm[folds].numpy()
        yield "sum/all/unseen", unseen
        if shard.index == 0:
            example = self.texts.one_window()
            visit.begin(example)
            received: dict[int, tuple[Tensor, Tensor]] = {}

            def keep(layer: Layer) -> None:
                received[layer.index] = visit.received(layer)

            self._capture(example, keep)
            yield "list/all/example", example.tokens[0].numpy()
            for layer, (columns, heads) in received.items():
                yield f"list/{layer}/example columns", columns.numpy()
                yield f"list/{layer}/example heads", heads.numpy()
        for layer in self.settings.layers:
            yield from spread(f"fold/{layer}/moments", visit.moments[layer], folds)
            yield from spread(f"fold/{layer}/surface", visit.surfaces[layer], folds)
        for layer, fine in visit.fine.items():
            yield from spread(f"fold/{layer}/fine", fine, folds)

    def _climb(self, shard: Shard, folds: Sequence[int], report: Report) -> Arrays:
        visit, own = Climb(self.study), [shard.index]
        self._pass(shard, visit, report)
        for layer, moments in visit.ladder.items():
            yield f"list/{layer}/gram", moments.gram[own]
            yield f"list/{layer}/cross", moments.cross[own]

    def _carry(self, shard: Shard, folds: Sequence[int], report: Report) -> Arrays:
        visit = Carrying(self.study, self.fits, self._rungs, self._limited, self.settings.seed)
        self._pass(shard, visit, report)
        for layer, carried in visit.carried.items():
            yield from carried.arrays(layer, folds)

    def _look_again(self, shard: Shard, folds: Sequence[int], report: Report) -> Arrays:
        frozen = self.frozen_fits()
        visit = SecondLook(self.study, frozen.fits, frozen.carries, frozen.variance, swapping=shard.swaps)
        self._pass(shard, visit, report)
        yield from visit.arrays()

    def _pass(self, shard: Shard, visit: Pass, report: Report) -> None:
        for batch in self._batches(shard, report):
            visit.begin(batch)
            self._capture(batch, visit)

    def _capture(self, batch: Batch, visit: Callable[[Layer], None]) -> None:
        capture(self.model, batch, visit, layers=self.settings.layers, checked=self.checked)

    def _batches(self, shard: Shard, report: Report) -> Iterator[Batch]:
        """The batches of a shard; each is reported once it has been worked on."""
        size, done = BLOCK if shard.swaps else self.settings.micro_batch, 0
        for batch in self._texts_of(shard.stage).batches(size, shard.role, shard.documents):
            yield batch
            done += batch.tokens.numel()
            report(done)

    def _texts_of(self, stage: str) -> Texts:
        return self._first_windows if stage in ("ladder", "look") else self.texts

    # what is solved once a stage is whole

    def _freeze_survey(self, files: Sequence[File]) -> Arrays:
        shutil.rmtree(self._table, ignore_errors=True)
        settings = self.settings
        with tempfile.TemporaryDirectory(dir=self.folder, prefix="survey-") as scratch:
            means = self._means(Path(scratch) / "table")
            for file in files:
                means.absorb(file)
            means.finish()
            for layer in settings.layers:
                basis = means.basis(layer, settings.state_rank, settings.seed, max(RANKS))
                yield from ((f"{layer}/{name}", np.asarray(getattr(basis, name))) for name in BASIS)
            means.drop_sample()
            (Path(scratch) / "table").rename(self._table)
        yield from means.summary().items()

    def _freeze_fit(self, files: Sequence[File]) -> Arrays:
        names = names_of(files)
        yield from self._sums(files, [name for name in names if "/all/" in name])
        for layer in self.settings.layers:
            arrays = dict(self._sums(files, [name for name in names if f"/{layer}/" in name]))
            yield from arrays.items()
            yield from spread(f"fit/{layer}", fit(self._moments(arrays, layer, "moments", self._columns)))

    def _freeze_ladder(self, files: Sequence[File]) -> Arrays:
        ranks = ranks_of(min(basis.components.shape[1] for basis in self.bases.values()))
        wide = columns_of(self.texts.window, self.settings.state_rank, max(ranks))
        for layer in self.settings.layers:
            gram, cross = (merged(files, f"list/{layer}/{name}", 0) for name in ("gram", "cross"))
            yield f"{layer}/rungs", LadderMoments(wide, gram, cross).rungs(self.fits[layer].chosen, ranks)

    def _sums(self, files: Sequence[File], names: Sequence[str]) -> Arrays:
        return ((name, merged(files, name, self.texts.folds)) for name in names)

    @property
    def _rungs(self) -> dict[int, np.ndarray]:
        if "ladder" not in self.stages:
            return {}
        frozen = self._arrays("ladder")
        return {layer: frozen[f"{layer}/rungs"] for layer in self.settings.layers}

    @property
    def _limited(self) -> tuple[int, ...]:
        """Layers that get detection limits and finer profiles."""
        return self.settings.limits if self._look else ()

    @property
    def _columns(self) -> Columns:
        return columns_of(self.texts.window, self.settings.state_rank)

    @staticmethod
    def _moments(arrays: Mapping[str, np.ndarray], layer: int, name: str, columns: Columns) -> Moments:
        return collect(arrays, f"fold/{layer}/{name}", Moments.empty(columns, 1, 1))

    @property
    def _table(self) -> Path:
        """The frozen survey's mean states, beside its file."""
        return self.folder / f"{self.name}-means"

    def _means(
        self, folder: Path, first: int = 0, finished: Mapping[str, np.ndarray] | None = None
    ) -> MeanStates:
        folder.mkdir(exist_ok=True)
        return MeanStates(
            folder,
            self.settings.layers,
            self._preflight["types"],
            self._trained.width,
            self.texts.window,
            self.texts.windows("reference"),
            self._trained.learned_positions and self._strategy.needs_means,
            first,
            finished,
        )

    def _arrays(self, stage: str) -> File:
        """A frozen stage; it is frozen where its shards are whole.

        Raises:
            RequestError: it is not there yet, damaged, or of another run.
        """
        if stage not in self._opened:
            self.freeze(stage)
            self._opened[stage] = File(self.frozen(stage), self._digest(stage))
        return self._opened[stage]

    def _digest(self, stage: str) -> str:
        """Of the run, the part, the stage and every frozen stage before it."""
        place = self.stages.index(stage)
        before = self._arrays(self.stages[place - 1]).header if place else None
        known = f"{self._run} {self.name} {stage} {before and (before.run, before.content)}"
        return blake2b(known.encode(), digest_size=8).hexdigest()


def parts_of(
    model: Model,
    texts: Texts,
    settings: Settings,
    folder: Path,
    run: str,
    *,
    checked: Checked | None = None,
) -> dict[str, Part]:
    """The study, then the nulls that read a model or texts of their own, by name.

    Each null has a reference of its own and reads the documents of the first folds.
    """
    study = Part(STUDY, model, texts, settings, folder, run, checked=checked)
    parts = {STUDY: study}
    for name in settings.nulls:
        if name not in TWINS:
            continue
        surveyed = bisect.bisect_left(
            range(1, texts.reference_documents),
            settings.null_reference_tokens,
            key=lambda count: texts.tokens("reference", range(count)),
        )
        part = texts.part(folds=null_folds(texts, settings), reference_documents=surveyed + 1)
        if name == "shuffled_tokens":
            part = part.shuffled(settings.seed)
        parts[name] = Part(name, model, part, settings, folder, run, reach=study.reach, look=False)
    return parts
