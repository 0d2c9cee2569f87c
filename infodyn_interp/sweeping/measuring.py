"""What the theory says of a trajectory, measured on texts: every measure of the model and of its nulls, a file each."""

import importlib.metadata
import io
import math
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from hashlib import blake2b
from pathlib import Path

import numpy as np
import xarray

from infodyn_interp import reducing, results
from infodyn_interp.errors import RequestError
from infodyn_interp.hooks import choose_layers
from infodyn_interp.identify.nulls import TWINS, choose_twins
from infodyn_interp.measures import choices, closing, depths, fidelity, leaps, maps, unfinished
from infodyn_interp.measures.fits import (
    FIT_TOKENS,
    Fitted,
    Reading,
    collect_maps,
    documents_to_fit,
    fit_maps,
    spread_maps,
)
from infodyn_interp.measures.ratios import Found, Quantity, Ratio, label_ratios
from infodyn_interp.measures.regression import RIDGE
from infodyn_interp.measures.stability import POTENTIALS
from infodyn_interp.measures.updates import WALKED
from infodyn_interp.models import Model
from infodyn_interp.reducing.labels import label
from infodyn_interp.sweeping import attributes_of, finished, folder_of, rhythms
from infodyn_interp.sweeping.plans import STUDY, Job, Plan, Shard
from infodyn_interp.sweeping.reading import twin_of
from infodyn_interp.sweeping.rhythms import foretell_choices
from infodyn_interp.sweeping.settings import (
    LEAST_DOCUMENTS,
    Settings,
    describe_run,
    null_folds,
    peak_mib,
    torch_threads,
)
from infodyn_interp.sweeping.shards import Arrays, File, Header, collect, is_sound, spread, write_file
from infodyn_interp.sweeping.trails import Frozen, read_trails
from infodyn_interp.sweeping.watching import Progress, Watch
from infodyn_interp.texts import Texts

FIT = "fit"  # the stage that every measure reads by
DETAILS = "details"  # of a file: a dataset as it would lie on the disk
LEAST_LAYERS = 2
DESCRIBED = (
    "model_digest", "twin", "dtype", "device", "texts_digest", "window", "documents", "reference_documents", "folds",
    "layers", "seed", "micro_batch", "threads", "nulls", "null_share",
)  # fmt: skip


@dataclass(frozen=True)
class Asked:
    """What a measure reads beside the model and its maps.

    Args:
        walked: documents that are walked through.
        part: the study, or the null.
        layers: that have frozen terms.
        frozen: the sweep that left them.
    """

    walked: int = WALKED
    part: str = STUDY
    layers: tuple[int, ...] = ()
    frozen: Frozen | None = None


@dataclass(frozen=True)
class Measure:
    """One group of a result: how it is measured on a model, and what it holds.

    Args:
        measure: the quantities by document, and details by layer.
        quantities: what they are.
        details: unit and words of each detail; `NAME_low` and `NAME_high` are those of `NAME`.
        lifted: details that stand beside the quantities, along `null`, by the name they have there.
        within: it reads the frozen terms of a sweep.
    """

    measure: Callable[[Reading, Fitted, Asked], Found]
    quantities: Mapping[str, Quantity]
    details: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    lifted: Mapping[str, str] = field(default_factory=dict)
    within: bool = False


def _action(reading: Reading, fitted: Fitted, asked: Asked) -> Found:
    found, frozen = closing.measure_action(reading, fitted, asked.walked), asked.frozen
    kept = None if frozen is None else frozen.of(asked.part, reading.seed)
    told = None if kept is None else foretell_choices(reading, fitted, kept)
    if found.details is None or told is None:
        return found
    told = told.reindex(layer=found.details["layer"].values)
    return replace(found, details=found.details.merge(told, combine_attrs="override"))


def _jumps(reading: Reading, fitted: Fitted, asked: Asked) -> Found:
    frozen, trails = asked.frozen, None
    kept = None if frozen is None else frozen.of(asked.part, reading.seed)
    if frozen is not None and kept is not None:
        trails = read_trails(reading, kept, frozen.reference, asked.layers)
    series = None if trails is None else trails.series
    found = leaps.measure_jumps(series, reading.texts.documents, asked.layers, reading.seed)
    if trails is None or found.details is None:
        return found
    told = unfinished.weigh_unfinished(reading, fitted, trails.sizes, asked.walked)
    if told is None:
        return found
    details = found.details.assign_attrs(told.attrs).merge(told, combine_attrs="override")
    return replace(found, details=details)


MEASURES: dict[str, Measure] = {
    "fidelity": Measure(
        lambda reading, fitted, _asked: Found(fidelity.measure_fidelity(reading, fitted)), fidelity.QUANTITIES
    ),
    "stability": Measure(
        lambda reading, fitted, asked: Found(depths.measure_stability(reading, fitted, asked.walked)),
        depths.QUANTITIES,
    ),
    "action": Measure(
        _action,
        closing.QUANTITIES,
        closing.UNITS | choices.UNITS | rhythms.UNITS,
        {name: name for name in (*choices.LIFTED, *rhythms.LIFTED)},
    ),
    "jumps": Measure(
        _jumps,
        leaps.QUANTITIES,
        leaps.UNITS | unfinished.UNITS,
        leaps.LIFTED | {name: name for name in unfinished.LIFTED},
        within=True,
    ),
    "maps": Measure(
        lambda reading, fitted, asked: Found(maps.measure_maps(reading, fitted, asked.walked)),
        maps.QUANTITIES,
    ),
}


def measure(
    model: Model,
    texts: Texts,
    *,
    measures: Iterable[str] | None = None,
    layers: Iterable[int] | None = None,
    nulls: Iterable[str] = TWINS,
    null_share: float = 1 / 3,
    fit_tokens: int = FIT_TOKENS,
    walked: int = WALKED,
    ridge: float = RIDGE,
    seed: int = 0,
    micro_batch: int = 4,
    threads: int | None = None,
    inside: str | Path | None = None,
    out: str | Path | None = None,
    redo_damaged: bool = False,
    progress: Progress | None = None,
    asked: Mapping[str, object] | None = None,
) -> xarray.DataTree:
    """Measure what each layer says, keeps and does to the stream, beside what nulls show (seed 1.3, 1.5, 1.6).

    Args:
        model: from `open_model`.
        texts: from `read_texts`: maps are fitted on its reference documents and judged on the fitted ones.
        measures: of `MEASURES`, a group of the result each; by default all that can be, `jumps` within a sweep alone.
        layers: all by default.
        nulls: `untrained`, `permuted_weights`, `shuffled_tokens`; none for an empty sequence.
        null_share: of the folds of documents that a null reads.
        fit_tokens: of the reference documents, at most; the same for the model and its nulls.
        walked: documents on whose first tokens blocks are differentiated and inverted; of a null its share of these,
            four at least.
        ridge: of the fitted maps, in units of each direction's own variance.
        seed: of whatever is random.
        micro_batch: windows in one forward pass.
        threads: CPU threads of torch for the time of the call.
        inside: folder of the sweep that these measures belong to, of the same model and texts: jumps are read by its
            frozen terms, and by those of its untrained twin.
        out: a folder for `result.nc`; finished measures of an earlier call that was cut off are taken as they are.
        redo_damaged: compute damaged files again, where they would be refused.
        progress: called with stage, tokens done, tokens in all.
        asked: the keys of the run file that this is of, stored with what they came to.

    Returns:
        The result: a group for each measure, and `cost`.

    Raises:
        RequestError: before any work: a measure, layer or null that is not there, too few documents, an `inside` of
            another model or other texts, jumps without a carry-over or in windows too short for them, or an `out` that
            holds another run or cannot be written.
        RunError: the model fails its check, or states are not finite.
    """
    settings = _settle(model, layers, nulls, null_share, seed, micro_batch, threads)
    named = None if measures is None else choose_measures(measures)
    _refuse(model, texts, settings, {"fit_tokens": fit_tokens, "walked": walked})
    frozen = None if inside is None else Frozen.open(Path(inside), model, texts)
    carried = tuple(layer for layer in settings.layers if frozen is not None and layer in frozen.carried)
    missing = _why_no_jumps(texts, frozen, carried)
    chosen = named or tuple(name for name, one in MEASURES.items() if not (one.within and missing))
    if missing and any(MEASURES[name].within for name in chosen):
        raise RequestError(f"jumps: {missing}")
    how = {"measures": list(chosen), "fit_tokens": fit_tokens, "walked": walked, "ridge": ridge}
    within = {} if frozen is None else {"inside": frozen.digest}
    run = _describe(model, texts, settings) | how | within

    def asked_of(name: str) -> Asked:
        return Asked(_walked(walked, name, null_share), name, carried, frozen)

    parts = [
        _Part(name, model, part, settings, chosen, fit_tokens, ridge, asked_of(name))
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
        groups = _label(files, chosen, texts, settings, carried)
        about = attributes_of(model, texts, settings, checked, job, asked or {})
        left = {} if named or not missing else {"left_out": f"jumps: {missing}"}
        groups["/"] = xarray.Dataset(attrs=about | left)
        result = xarray.DataTree.from_dict(groups)
        if out is not None:
            results.save(result, out)
            shutil.rmtree(folder)
    return result


class _Told:
    """What a stage has read so far, told on as steps."""

    def begin(self, step: Callable[[int], None]) -> None:
        self._step, self._so_far = step, 0

    def __call__(self, tokens: int) -> None:
        self._step(tokens - self._so_far)
        self._so_far = tokens


@dataclass(frozen=True)
class _Part:
    """The model, or one null, on its texts: a file for the maps that are fitted, and one for each measure."""

    name: str
    trained: Model
    texts: Texts
    settings: Settings
    measures: tuple[str, ...]
    fit_tokens: int
    ridge: float
    asked: Asked
    told: _Told = field(default_factory=_Told)

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
            report=self.told,
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
        return File(self._path(folder, stage), self._digest(run, stage))

    def compute(self, folder: Path, run: str, watch: Watch, *, redo: bool) -> None:
        """Write the files that are not there yet; what was fitted is read back, so that all see the same digits.

        Raises:
            RequestError: a file is damaged, or of another run.
        """
        shards = {shard.stage: shard for shard in self.plan.shards}
        missing = [
            stage
            for stage in self.stages
            if not is_sound(self._path(folder, stage), self._digest(run, stage), redo=redo)
        ]
        fitted: Fitted | None = None
        for stage in missing:
            watch.stage(stage, [shards[stage]], [shards[stage]])
            begun = time.perf_counter()
            self.told.begin(partial(watch.done, shards[stage]))

            def header(shard: Shard = shards[stage], begun: float = begun) -> Header:
                return Header(
                    run=self._digest(run, shard.stage),
                    place=f"{self.name} {shard.stage}",
                    tokens=shard.tokens,
                    seconds=time.perf_counter() - begun,
                    peak_mib=peak_mib(),
                )

            if stage != FIT and fitted is None:
                fitted = collect_maps(self.file(folder, run, FIT), self.settings.layers)
            write_file(self._path(folder, stage), self._arrays(stage, fitted), header)
        self.__dict__.pop("reading", None)

    def _arrays(self, stage: str, fitted: Fitted | None) -> Arrays:
        if fitted is None:
            return spread_maps(fit_maps(self.reading))
        found = MEASURES[stage].measure(self.reading, fitted, self.asked)
        arrays = [pair for name, ratio in found.ratios.items() for pair in spread(name, ratio)]
        if found.details is not None:
            written = found.details.to_netcdf(engine="h5netcdf")
            arrays.append((DETAILS, np.frombuffer(bytes(written), np.uint8)))
        return arrays

    def _path(self, folder: Path, stage: str) -> Path:
        return folder / f"{self.name}-{stage}.npz"

    def _digest(self, run: str, stage: str) -> str:
        return blake2b(f"{run} {self.name} {stage}".encode(), digest_size=8).hexdigest()


def choose_measures(names: Iterable[str]) -> tuple[str, ...]:
    """These measures, in the order of `MEASURES`.

    Raises:
        RequestError: there is no such measure, or none is named.
    """
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
    return Settings(
        choose_layers(model, layers),
        seed=seed,
        micro_batch=micro_batch,
        threads=threads,
        nulls=choose_twins(nulls),
        null_share=null_share,
    )


def _refuse(
    model: Model,
    texts: Texts,
    settings: Settings,
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


def _why_no_jumps(texts: Texts, frozen: Frozen | None, carried: tuple[int, ...]) -> str:
    """What is missing for jumps, in words; nothing where they can be read."""
    if frozen is None:
        return "|M| comes from the frozen terms of a sweep; name its folder with --inside"
    if not carried:
        return "that sweep left no carry-over of these layers; sweep again, in longer windows or with these layers"
    if texts.window < leaps.LEAST_WINDOW:
        return f"windows of {texts.window} tokens, a threshold needs {leaps.LEAST_WINDOW} at least"
    return ""


def _describe(model: Model, texts: Texts, settings: Settings) -> dict[str, object]:
    every = describe_run(model, texts, settings)
    return {name: every[name] for name in DESCRIBED}


def _walked(walked: int, name: str, null_share: float) -> int:
    """Documents that the model, or a null, is walked through: of a null its share, but as many as an interval needs."""
    return walked if name == STUDY else min(walked, max(LEAST_DOCUMENTS, math.ceil(walked * null_share)))


def _texts_of(texts: Texts, settings: Settings) -> dict[str, Texts]:
    """What the model and each null read: nulls the documents of the first folds, and the same ones to fit on."""
    part = texts.part(folds=null_folds(texts, settings))
    return {STUDY: texts} | {
        null: part.shuffled(settings.seed) if null == "shuffled_tokens" else part for null in settings.nulls
    }


def _label(
    files: Mapping[str, Mapping[str, File]],
    chosen: Sequence[str],
    texts: Texts,
    settings: Settings,
    carried: tuple[int, ...],
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
        "kind": closing.RANKED,
        "series": leaps.SERIES,
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
            found[STUDY],
            nulls,
            dict.fromkeys(settings.nulls, shared),
            quantities,
            coords | ({"layer": carried} if MEASURES[name].within else {}),
        )
        details = {
            part: _details(stages[name], MEASURES[name].details)
            for part, stages in files.items()
            if DETAILS in stages[name]
        }
        groups[f"/{name}"] = groups[f"/{name}"].merge(_lift(details, MEASURES[name].lifted, settings.nulls))
        for part, one in details.items():
            groups[f"/{name}/{part.replace(STUDY, 'trained')}"] = one
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


def _details(file: File, words: Mapping[str, tuple[str, str]]) -> xarray.Dataset:
    """What a file has by layer, each variable with its unit."""
    with xarray.open_dataset(io.BytesIO(file[DETAILS].tobytes()), engine="h5netcdf") as stored:
        found = stored.load()
    for name, variable in found.data_vars.items():
        unit, what = words[str(name).removesuffix("_low").removesuffix("_high")]
        variable.attrs = {"units": unit, "long_name": what}
    return found


def _lift(
    details: Mapping[str, xarray.Dataset], lifted: Mapping[str, str], nulls: Sequence[str]
) -> xarray.Dataset:
    """Details of the study and of each null along `null`; empty where a null has none."""
    mine = details.get(STUDY, xarray.Dataset())
    out: dict[str, xarray.Variable] = {}
    for name, here in lifted.items():
        if name not in mine:
            continue
        own = mine[name].variable
        nothing = np.full(own.shape, "" if own.dtype.kind in "UTO" else np.nan)
        rows = [
            details[part][name].values if name in details.get(part, ()) else nothing
            for part in (STUDY, *nulls)
        ]
        dims = ("null", *map(str, own.dims))
        out[here] = label(dims, np.stack(rows), own.attrs["units"], own.attrs["long_name"])
    used = {dim for variable in out.values() for dim in variable.dims}
    return xarray.Dataset(out, {dim: mine[dim].values for dim in used if dim in mine.coords})
