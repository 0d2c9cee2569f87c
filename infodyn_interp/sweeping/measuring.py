"""What the theory says of a trajectory, measured on texts: every measure of the model and of its nulls, a file each."""

import importlib.metadata
import json
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import blake2b
from pathlib import Path

import numpy as np
import xarray

from infodyn_interp import reducing, results
from infodyn_interp.errors import RequestError
from infodyn_interp.hooks import choose_layers
from infodyn_interp.identify.nulls import TWINS, choose_nulls
from infodyn_interp.measures import depths, fidelity, maps
from infodyn_interp.measures.fits import (
    FIT_TOKENS,
    Fitted,
    Reading,
    collect_maps,
    documents_to_fit,
    fit_maps,
    spread_maps,
)
from infodyn_interp.measures.ratios import Quantity, Ratio, label_ratios
from infodyn_interp.measures.regression import RIDGE
from infodyn_interp.measures.stability import POTENTIALS
from infodyn_interp.measures.updates import WALKED
from infodyn_interp.models import Model
from infodyn_interp.sweeping import attributes_of, finished, folder_of
from infodyn_interp.sweeping.plans import STUDY, Job, Plan, Shard
from infodyn_interp.sweeping.reading import twin_of
from infodyn_interp.sweeping.settings import (
    LEAST_DOCUMENTS,
    Settings,
    describe_run,
    null_folds,
    peak_mib,
    torch_threads,
)
from infodyn_interp.sweeping.shards import Arrays, DamagedError, File, Header, collect, spread, write_file
from infodyn_interp.sweeping.watching import Progress, Watch
from infodyn_interp.texts import Texts

FIT = "fit"  # the stage that every measure reads by
LEAST_LAYERS = 2
DESCRIBED = (
    "model_digest", "twin", "dtype", "device", "texts_digest", "window", "documents", "reference_documents", "folds",
    "layers", "seed", "micro_batch", "threads", "nulls", "null_share",
)  # fmt: skip


@dataclass(frozen=True)
class Measure:
    """One group of a result: how it is measured on a model, and what it holds.

    Args:
        measure: the quantities by document; `walked` is how many documents are walked through.
        quantities: what they are.
    """

    measure: Callable[[Reading, Fitted, int], Mapping[str, Ratio]]
    quantities: Mapping[str, Quantity]


MEASURES: dict[str, Measure] = {
    "fidelity": Measure(
        lambda reading, fitted, _walked: fidelity.measure_fidelity(reading, fitted), fidelity.QUANTITIES
    ),
    "stability": Measure(depths.measure_stability, depths.QUANTITIES),
    "maps": Measure(maps.measure_maps, maps.QUANTITIES),
}


def measure(
    model: Model,
    texts: Texts,
    *,
    measures: Iterable[str] = tuple(MEASURES),
    layers: Iterable[int] | None = None,
    nulls: Iterable[str] = TWINS,
    null_share: float = 1 / 3,
    fit_tokens: int = FIT_TOKENS,
    walked: int = WALKED,
    ridge: float = RIDGE,
    seed: int = 0,
    micro_batch: int = 4,
    threads: int | None = None,
    inside: xarray.DataTree | None = None,
    out: str | Path | None = None,
    redo_damaged: bool = False,
    progress: Progress | None = None,
    asked: Mapping[str, object] | None = None,
) -> xarray.DataTree:
    """Measure what each layer says, keeps and does to the stream, beside what nulls show (seed 1.3, 1.5, 1.6).

    Args:
        model: from `open_model`.
        texts: from `read_texts`: maps are fitted on its reference documents and judged on the fitted ones.
        measures: of `MEASURES`, a group of the result each.
        layers: all by default.
        nulls: `untrained`, `permuted_weights`, `shuffled_tokens`; none for an empty sequence.
        null_share: of the folds of documents that a null reads.
        fit_tokens: of the reference documents, at most; the same for the model and its nulls.
        walked: documents on whose first tokens blocks are differentiated and inverted.
        ridge: of the fitted maps, in units of each direction's own variance.
        seed: of whatever is random.
        micro_batch: windows in one forward pass.
        threads: CPU threads of torch for the time of the call.
        inside: the result of a sweep that these measures belong to: of the same model and texts.
        out: a folder for `result.nc`; finished measures of an earlier call that was cut off are taken as they are.
        redo_damaged: compute damaged files again, where they would be refused.
        progress: called with stage, tokens done, tokens in all.
        asked: the keys of the run file that this is of, stored with what they came to.

    Returns:
        The result: a group for each measure, and `cost`.

    Raises:
        RequestError: before any work: a measure, layer or null that is not there, too few documents, an `inside` of
            another model or other texts, or an `out` that holds another run or cannot be written.
        RunError: the model fails its check, or states are not finite.
    """
    chosen, settings = (
        _choose(measures),
        _settle(model, layers, nulls, null_share, seed, micro_batch, threads),
    )
    _refuse(model, texts, settings, inside, {"fit_tokens": fit_tokens, "walked": walked})
    how = {"measures": list(chosen), "fit_tokens": fit_tokens, "walked": walked, "ridge": ridge}
    within = {} if inside is None else {"inside": inside.attrs["run_digest"]}
    run = _describe(model, texts, settings) | how | within
    parts = [
        _Part(name, model, part, settings, chosen, fit_tokens, walked, ridge)
        for name, part in _texts_of(texts, settings).items()
    ]
    version = {"package_version": importlib.metadata.version("infodyn-interp")}
    job = Job(run | version, settings, tuple(part.plan for part in parts))
    if out is not None and (before := finished(out, job)) is not None:
        return before
    with folder_of(out, job) as folder, torch_threads(threads):
        checked = parts[0].reading.checked
        for part in parts:
            part.compute(folder, job.digest, Watch(folder, progress), redo=redo_damaged)
        files = {
            part.name: {stage: part.file(folder, job.digest, stage) for stage in part.stages}
            for part in parts
        }
        groups = _label(files, chosen, texts, settings)
        groups["/"] = xarray.Dataset(attrs=attributes_of(model, texts, settings, checked, job, asked or {}))
        result = xarray.DataTree.from_dict(groups)
        if out is not None:
            results.save(result, out)
            shutil.rmtree(folder)
    return result


@dataclass(frozen=True)
class _Part:
    """The model, or one null, on its texts: a file for the maps that are fitted, and one for each measure."""

    name: str
    trained: Model
    texts: Texts
    settings: Settings
    measures: tuple[str, ...]
    fit_tokens: int
    walked: int
    ridge: float

    @cached_property
    def reading(self) -> Reading:
        """What measures read; a twin is made here."""
        return Reading.of(
            twin_of(self.trained, self.name, self.settings.seed),
            self.texts,
            self.settings.layers,
            micro_batch=self.settings.micro_batch,
            ridge=self.ridge,
            seed=self.settings.seed,
            fit_tokens=self.fit_tokens,
        )

    @property
    def stages(self) -> tuple[str, ...]:
        """A file each."""
        return (FIT, *self.measures)

    @cached_property
    def plan(self) -> Plan:
        """What is to be read, for whoever asks how far it is."""
        fitted = documents_to_fit(self.texts, self.fit_tokens)
        roles = {stage: ("fitted", range(self.texts.documents)) for stage in self.measures}
        shards = tuple(
            Shard(self.name, stage, 0, 1, tuple(documents), role, self.texts.tokens(role, documents))
            for stage, (role, documents) in ({FIT: ("reference", fitted)} | roles).items()
        )
        return Plan(self.name, self.texts.window, self.texts.folds, 0, self.trained.width, False, shards)

    def file(self, folder: Path, run: str, stage: str) -> File:
        """A finished file.

        Raises:
            RequestError: it is damaged, or of another run.
        """
        return File(folder / f"{self.name}-{stage}.npz", self._digest(run, stage))

    def compute(self, folder: Path, run: str, watch: Watch, *, redo: bool) -> None:
        """Write the files that are not there yet; what was fitted is read back, so that all see the same digits.

        Raises:
            RequestError: a file is damaged, or of another run.
        """
        shards = {shard.stage: shard for shard in self.plan.shards}
        missing = [stage for stage in self.stages if not self._has(folder, run, stage, redo=redo)]
        for stage in missing:
            watch.stage(stage, [shards[stage]], [shards[stage]])
            begun, told = time.perf_counter(), 0

            def report(done: int, shard: Shard = shards[stage]) -> None:
                nonlocal told
                watch.done(shard, done - told)
                told = done

            def header(shard: Shard = shards[stage], begun: float = begun) -> Header:
                return Header(
                    run=self._digest(run, shard.stage),
                    place=f"{self.name} {shard.stage}",
                    tokens=shard.tokens,
                    seconds=time.perf_counter() - begun,
                    peak_mib=peak_mib(),
                )

            arrays = self._arrays(folder, run, stage, replace(self.reading, report=report))
            write_file(folder / f"{self.name}-{stage}.npz", arrays, header)
        self.__dict__.pop("reading", None)

    def _arrays(self, folder: Path, run: str, stage: str, reading: Reading) -> Arrays:
        if stage == FIT:
            return spread_maps(fit_maps(reading))
        fitted = collect_maps(self.file(folder, run, FIT), reading.layers)
        found = MEASURES[stage].measure(reading, fitted, self.walked)
        return [pair for name, ratio in found.items() for pair in spread(name, ratio)]

    def _has(self, folder: Path, run: str, stage: str, *, redo: bool) -> bool:
        path = folder / f"{self.name}-{stage}.npz"
        if not path.exists():
            return False
        try:
            self.file(folder, run, stage).require_sound()
        except DamagedError:
            if not redo:
                raise
            path.unlink()
            return False
        return True

    def _digest(self, run: str, stage: str) -> str:
        return blake2b(f"{run} {self.name} {stage}".encode(), digest_size=8).hexdigest()


def _choose(names: Iterable[str]) -> tuple[str, ...]:
    asked = list(names)
    unknown = [name for name in asked if name not in MEASURES]
    if unknown or not asked:
        wrong = f"{unknown[0]!r} is not one of" if unknown else "none asked of"
        raise RequestError(f"measures: {wrong} {', '.join(MEASURES)}")
    return tuple(name for name in MEASURES if name in asked)


def _settle(
    model: Model,
    layers: Iterable[int] | None,
    nulls: Iterable[str],
    null_share: float,
    seed: int,
    micro_batch: int,
    threads: int | None,
) -> Settings:
    chosen = choose_nulls(nulls)
    others = [null for null in chosen if null not in TWINS]
    if others:
        raise RequestError(f"nulls: {others[0]} is of attention energies; measures have {', '.join(TWINS)}")
    return Settings(
        choose_layers(model, layers),
        seed=seed,
        micro_batch=micro_batch,
        threads=threads,
        nulls=chosen,
        null_share=null_share,
    )


def _refuse(
    model: Model,
    texts: Texts,
    settings: Settings,
    inside: xarray.DataTree | None,
    counts: Mapping[str, int],
) -> None:
    """Whatever can be known before the first pass."""
    if texts.documents < LEAST_DOCUMENTS:
        raise RequestError(
            f"{texts.documents} documents to measure, an interval needs at least {LEAST_DOCUMENTS}: give more texts"
        )
    if len(settings.layers) < LEAST_LAYERS:
        raise RequestError(
            f"layers: {len(settings.layers)} asked, a trajectory in depth needs at least {LEAST_LAYERS}"
        )
    if not 0 < settings.null_share <= 1:
        raise RequestError(f"null_share: {settings.null_share} asked, it lies above 0 and up to 1")
    for name, count in {"micro_batch": settings.micro_batch, **counts}.items():
        if count < 1:
            raise RequestError(f"{name}: {count} asked, at least 1 is needed")
    Reading.of(model, texts, settings.layers)
    if inside is not None:
        stored = json.loads(inside.attrs["run"])
        for name, value in (("model_digest", model.digest), ("texts_digest", texts.digest)):
            if stored.get(name) != value:
                what = name.removesuffix("_digest")
                raise RequestError(
                    f"inside: that result is of another {what}; give the {what} and the windows that it was made from"
                )


def _describe(model: Model, texts: Texts, settings: Settings) -> dict[str, object]:
    every = describe_run(model, texts, settings)
    return {name: every[name] for name in DESCRIBED}


def _texts_of(texts: Texts, settings: Settings) -> dict[str, Texts]:
    """What the model and each null read: nulls the documents of the first folds, and the same ones to fit on."""
    part = texts.part(folds=null_folds(texts, settings))
    return {STUDY: texts} | {
        null: part.shuffled(settings.seed) if null == "shuffled_tokens" else part for null in settings.nulls
    }


def _label(
    files: Mapping[str, Mapping[str, File]], chosen: Sequence[str], texts: Texts, settings: Settings
) -> dict[str, xarray.Dataset]:
    ranks = np.arange(texts.documents)
    shared = ranks[ranks % texts.folds < null_folds(texts, settings)]
    coords: dict[str, Sequence[object] | np.ndarray] = {
        "layer": settings.layers,
        "target": settings.layers,
        "lens": fidelity.LENSES,
        "potential": POTENTIALS,
        "geometry": depths.GEOMETRIES,
        "vector": np.arange(depths.DIRECTIONS),
    }
    groups = {}
    for name in chosen:
        quantities = MEASURES[name].quantities
        empty = Ratio.empty(1)
        found = {
            part: {one: collect(stages[name], one, empty) for one in quantities}
            for part, stages in files.items()
        }
        nulls = {null: found[null] for null in settings.nulls}
        groups[f"/{name}"] = label_ratios(
            found[STUDY], nulls, dict.fromkeys(settings.nulls, shared), quantities, coords
        )
    took = {
        f"{part} {stage}": file.header for part, stages in files.items() for stage, file in stages.items()
    }
    groups["/cost"] = reducing.label_cost(
        *(
            {stage: getattr(header, name) for stage, header in took.items()}
            for name in ("seconds", "tokens", "peak_mib")
        )
    )
    return groups
