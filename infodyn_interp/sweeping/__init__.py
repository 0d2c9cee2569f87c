"""The main job: texts stream through a model a counted number of times and leave one small result.

Stages, each in shards of whole documents (`parts`): survey (documents that are not fitted: mean states and the basis),
fit (moments of every head's energy), ladder and carry (variograms of what the frozen fits leave), look (the first
window of each document again: filtered carry-over, swap gate). Nulls go through the same on twins. After them come
precisions (the carry-over of the same weights in other dtypes), ablation (terms of named heads out of the live scores)
and reduce (algebra on all of it).
"""

import importlib.metadata
import json
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import xarray

from infodyn_interp import reducing, results
from infodyn_interp.energy.fitting import TERMS
from infodyn_interp.energy.ladder import DOCUMENTS
from infodyn_interp.energy.removal import ablate as remove
from infodyn_interp.errors import RequestError
from infodyn_interp.hooks import Checked
from infodyn_interp.identify.nulls import NULLS
from infodyn_interp.models import Model
from infodyn_interp.run import digest_of
from infodyn_interp.sweeping.engines import Compute, Engine
from infodyn_interp.sweeping.keeping import KEPT, keep
from infodyn_interp.sweeping.memory import budgeted
from infodyn_interp.sweeping.merging import merge
from infodyn_interp.sweeping.parts import Gathered, Part, parts_of
from infodyn_interp.sweeping.plans import STAGES, STUDY, Job, job_of
from infodyn_interp.sweeping.precisions import Precision, read_precisions
from infodyn_interp.sweeping.reading import Reader, readers_of
from infodyn_interp.sweeping.settings import (
    Settings,
    describe_run,
    null_folds,
    peak_mib,
    refuse,
    settle,
    torch_threads,
)
from infodyn_interp.sweeping.watching import SHARDS, Progress, Watch, held, read_state
from infodyn_interp.texts import Batch, Texts, read_pieces

__all__ = ["Gathered", "Settings", "gather", "merge", "read_state", "sweep", "sweep_part", "torch_threads"]

PLACEBOS = 10  # of each kind, at least what the mean of placebos needs (science: causal check)
PACKAGES = ("torch", "transformers", "transformer-lens", "numpy", "scipy", "xarray")


@dataclass
class Clock:
    """Seconds, tokens and peak resident memory of each stage."""

    seconds: dict[str, float] = field(default_factory=dict)
    tokens: dict[str, int] = field(default_factory=dict)
    peak_mib: dict[str, float] = field(default_factory=dict)

    def add(self, name: str, seconds: float, tokens: int, peak: float | None = None) -> None:
        """Note a stage."""
        self.seconds[name], self.tokens[name] = seconds, tokens
        self.peak_mib[name] = peak_mib() if peak is None else peak

    @contextmanager
    def stage(self, name: str, tokens: int = 0) -> Iterator[None]:
        """Time a stage of this process."""
        begun = time.perf_counter()
        yield
        self.add(name, time.perf_counter() - begun, tokens)

    def read(self, part: Part) -> None:
        """Note what the stages of a part took, in whichever process; those of a null together."""
        headers = {stage: part.header(stage) for stage in part.stages}
        if part.name == STUDY:
            for stage, header in headers.items():
                self.add(stage, header.seconds, header.tokens, header.peak_mib)
            return
        took = sum(header.seconds for header in headers.values())
        peak = max(header.peak_mib for header in headers.values())
        self.add(f"null {part.name}", took, sum(header.tokens for header in headers.values()), peak)


def sweep(
    model: Model,
    texts: Texts,
    *,
    layers: Iterable[int] | None = None,
    reference: str = "lexical",
    state_rank: int = 8,
    out: str | Path | None = None,
    seed: int = 0,
    micro_batch: int | None = None,
    memory: str | None = None,
    threads: int | None = None,
    carry: bool = True,
    series: bool = False,
    nulls: Iterable[str] = NULLS,
    null_share: float = 1 / 3,
    null_reference_tokens: int = 8_000,
    limits: Iterable[int] | None = None,
    ladder_documents: int = DOCUMENTS,
    ablate: str | Sequence[str] = (),
    precisions: Iterable[str] = (),
    query_stride: int = 1,
    query_tile: int | None = None,
    documents_per_shard: int | None = None,
    workers: int = 1,
    engine: str = "local",
    address: str | None = None,
    redo_damaged: bool = False,
    checked: Checked | None = None,
    progress: Progress | None = None,
    asked: Mapping[str, object] | None = None,
) -> xarray.DataTree:
    """Fit the energies of every head of the asked layers, and say what may be believed of them (seed 1.1, 1.2).

    Args:
        model: from `open_model`.
        texts: from `read_texts` with the model's tokenizer.
        layers: the layers to fit; all by default.
        reference: the surface: `lexical`, `position`, `zero`, `own`, or a name added to `REFERENCES`.
        state_rank: leading components of the attention input that make the state z.
        out: a folder for `result.nc`; where it holds the result of this very run, that is returned, and where an
            earlier call was cut off, its finished shards are taken as they are.
        seed: of the basis' centres.
        micro_batch: windows in one forward pass; 4 by default, or what `memory` holds.
        memory: most that one process may take, as `8GiB`; it chooses `micro_batch`, once for the whole run.
        threads: CPU threads of torch for the time of the sweep; as they are by default.
        carry: fit the carry-over, with its ladder, its filter and the swap gate: two more passes.
        series: keep |M_t| and its innovations by document, not their means alone.
        nulls: of `NULLS`; none for an empty sequence.
        null_share: of the folds of documents that a null reads.
        null_reference_tokens: of each null's own reference pass, at least.
        limits: the layers that get detection limits, without which nothing is ABSENT, and profiles of their tracks on a
            finer grid; all that are fitted by default.
        ladder_documents: the first documents, whose first windows the carry-over's ladder and the finer grid of tracks
            read; at least 8.
        ablate: heads whose terms are each taken out of the live scores, as "10.3,12.0" or ["10.3", "12.0"]
            (layer.head), on the first window of each document that a null reads: some 80 forward passes a head.
        precisions: dtypes in which the same weights are read again, for the carry-over that truncation makes, on the
            first window of each document that a null reads: a pass each, and one in the model's own.
        query_stride: every so many queries are used, from the first with energies on, for a cheap first look; lags of
            the carry-over are then multiples of it.
        query_tile: queries whose maps are held at once; 128 in windows above 512 tokens, else all by default.
        documents_per_shard: whole documents that are read, and lost by a kill, as one piece; as many as folds by
            default, more where there would be over 64 shards.
        workers: processes of this machine, each with a model of its own.
        engine: `local`, or `ray`; the result is the same to the bit.
        address: of a running Ray cluster; one on this machine by default.
        redo_damaged: compute damaged shards again, where they would be refused.
        checked: from `hooks.check` on windows of this length, made before the model's scores were bent on purpose
            (`planted.planted_term`, `hooks.bent_scores`), which the sweep's own check would refuse. Such a sweep is not
            saved, stays in this process, and its twins are not bent.
        progress: called with stage, tokens done, tokens in all.
        asked: the keys of the run file that this sweep is of, stored with what they came to.

    Returns:
        The result: groups `basis example reference energy terms verdicts carry groups precisions ablation cost`,
        energies in nats.

    Raises:
        RequestError: before any work: a layer, reference or rank that is not there, windows longer than the model's
            context, too few documents, or an `out` that holds another run or cannot be written.
        RunError: the model fails its check, or scores are not finite (layer, head and window are named).
    """
    settings = settle(
        model,
        layers=layers,
        reference=reference,
        state_rank=state_rank,
        seed=seed,
        micro_batch=micro_batch,
        threads=threads,
        documents_per_shard=documents_per_shard,
        carry=carry,
        series=series,
        nulls=nulls,
        null_share=null_share,
        null_reference_tokens=null_reference_tokens,
        limits=limits,
        ladder_documents=ladder_documents,
        ablate=ablate,
        precisions=precisions,
        query_stride=query_stride,
        query_tile=query_tile,
    )
    chosen = Engine(engine, workers, address)
    if checked is not None and (out is not None or not chosen.here):
        raise RequestError("checked: bent scores are this process's own: leave out and workers out")
    job = _settled(model, texts, budgeted(model, texts, settings, memory, micro_batch), chosen)
    settings = job.settings
    if out is not None and (before := finished(out, job)) is not None:
        return before
    chosen.require_cluster()
    with folder_of(out, job) as folder, torch_threads(settings.threads):
        parts = parts_of(job, folder, redo=redo_damaged)
        readers, watch, clock = readers_of(parts, model, texts, checked), Watch(folder, progress), Clock()
        readers[STUDY].prepare()
        with chosen.at_work(job, folder, model, texts, readers) as compute:
            # one twin at a time where there is but one process to hold them
            for some in ([part] for part in parts.values()) if chosen.here else [list(parts.values())]:
                _compute(some, compute, watch)
                for part in some:
                    readers[part.name].rest()
        for part in parts.values():
            clock.read(part)
        study, *others = (part.gathered() for part in parts.values())
        if settings.precisions and "look" in parts[STUDY].stages:
            study = replace(study, precisions=_recast(readers[STUDY], clock, progress))
        removals = _ablate(model, texts, settings, study, clock, progress)
        with clock.stage("reduce"):
            nulls_read = dict(zip(list(parts)[1:], others, strict=True))
            groups = reducing.reduce(
                study, read_pieces(texts.tokenizer), model.head_width, reference, nulls_read, settings
            )
        groups["/terms"]["documents_digest"] = reducing.label(
            ("fold",),
            texts.fold_digests,
            "text",
            "hash of the fold's documents and of the windows read of them",
        )
        if removals:
            groups["/ablation"] = reducing.label_ablation(removals)
        groups["/cost"] = reducing.label_cost(clock.seconds, clock.tokens, clock.peak_mib)
        groups["/"] = xarray.Dataset(
            attrs=attributes_of(model, texts, settings, study.checked, job, asked or {})
        )
        result = xarray.DataTree.from_dict(groups)
        if out is not None:
            for part in parts.values():
                if part.name in KEPT:
                    keep(part, Path(out), str(result.attrs["run_digest"]))
            results.save(result, out)
            shutil.rmtree(folder)
    return result


def sweep_part(
    model: Model,
    texts: Texts,
    stage: str,
    part: tuple[int, int] = (1, 1),
    *,
    out: str | Path,
    workers: int = 1,
    engine: str = "local",
    address: str | None = None,
    redo_damaged: bool = False,
    progress: Progress | None = None,
    micro_batch: int | None = None,
    memory: str | None = None,
    **settings: Any,
) -> tuple[int, int]:
    """Compute some shards of one stage of a sweep, beside other processes that compute the others.

    Once all parts are through, `merge` freezes the stage, which the next one reads by.

    Args:
        model, texts: as in `sweep`.
        stage: `survey`, `fit`, `ladder`, `carry` or `look`.
        part: which, of how many: (3, 40) is every fortieth shard, from the third on.
        out: of the sweep.
        workers, engine, address, redo_damaged, progress, micro_batch, memory: as in `sweep`.
        settings: the other arguments of `sweep`.

    Returns:
        Shards that were computed, and those of this part that are there now.

    Raises:
        RequestError: as in `sweep`; no such stage or part; the stage before lacks shards, which are named.
        RunError: as in `sweep`.
    """
    place, count = part
    if not 1 <= place <= count:
        raise RequestError(f"part: {place}/{count} asked, it runs from 1/{count} to {count}/{count}")
    if stage not in STAGES:
        raise RequestError(f"stage: {stage!r} is not one of {', '.join(STAGES)}")
    settled, chosen = settle(model, micro_batch=micro_batch, **settings), Engine(engine, workers, address)
    job = _settled(model, texts, budgeted(model, texts, settled, memory, micro_batch), chosen)
    if finished(out, job) is not None:
        return 0, 0
    chosen.require_cluster()
    with held(Path(out), job, shared=True) as folder, torch_threads(settled.threads):
        parts = parts_of(job, folder, redo=redo_damaged)
        readers = readers_of(parts, model, texts)
        readers[STUDY].prepare()
        having = [one for one in parts.values() if stage in one.stages]
        if not having:
            raise RequestError(
                f"stage: {stage} is not of this run; its stages are {', '.join(parts[STUDY].stages)}"
            )
        mine = [shard for one in having for shard in one.shards(stage)][place - 1 :: count]
        missing = [shard for one in having for shard in one.missing(stage) if shard in mine]
        if missing:
            with chosen.at_work(job, folder, model, texts, readers) as compute:
                watch = Watch(folder, progress)
                watch.stage(stage, mine, missing)
                compute(missing, watch.done)
    return len(missing), len(mine)


def _settled(model: Model, texts: Texts, settings: Settings, engine: Engine) -> Job:
    """The whole run, refused as far as can be known before anything is written."""
    refuse(model, texts, settings)
    engine.refuse(model)
    version = {"package_version": importlib.metadata.version("infodyn-interp")}
    return job_of(model, texts, settings, describe_run(model, texts, settings) | version)


def finished(out: str | Path, job: Job) -> xarray.DataTree | None:
    """The result of this very run, where it lies in `out`; what it was made from is not needed any more."""
    before = results.matching(out, {name: job.run[name] for name in job.run if name != "package_version"})
    if before is not None:
        shutil.rmtree(Path(out) / SHARDS, ignore_errors=True)
    return before


@contextmanager
def folder_of(out: str | Path | None, job: Job) -> Iterator[Path]:
    """Where the shards of a run lie: beside its result to be, or in the system's place for passing files."""
    if out is None:
        with tempfile.TemporaryDirectory(prefix="infodyn-") as folder:
            yield Path(folder)
    else:
        with held(Path(out), job) as kept:
            yield kept


def gather(
    model: Model,
    texts: Texts,
    settings: Settings,
    *,
    checked: Checked | None = None,
    progress: Progress | None = None,
) -> Gathered:
    """Pass the texts through the model in this process: all that a sweep's verdicts are read from, without its nulls.

    Args:
        model, texts, settings: as in `sweep`.
        checked: a check of this model on windows of this length, where its scores were bent on purpose since.
        progress: called with stage, tokens done, tokens in all.

    Raises:
        RunError: as in `sweep`.
    """
    job = job_of(model, texts, replace(settings, nulls=()), {})
    with folder_of(None, job) as folder, torch_threads(settings.threads):
        parts = parts_of(job, folder)
        readers = readers_of(parts, model, texts, checked)
        readers[STUDY].prepare()
        with Engine().at_work(job, folder, model, texts, readers) as compute:
            _compute(list(parts.values()), compute, Watch(folder, progress))
        return parts[STUDY].gathered()


def _compute(parts: Sequence[Part], compute: Compute, watch: Watch) -> None:
    """Every stage of some parts that is not frozen yet."""
    for stage in STAGES:
        having = [part for part in parts if stage in part.stages]
        missing = [shard for part in having for shard in part.missing(stage)]
        if missing:
            every = [shard for part in having for shard in part.shards(stage)]
            watch.stage(stage, every, missing)
            compute(missing, watch.done)
        for part in having:
            part.freeze(stage)


def _recast(reader: Reader, clock: Clock, progress: Progress | None) -> dict[str, Precision]:
    """The carry-over in every precision, on the first window of each document that a null reads."""
    settings, read = reader.part.settings, 0
    texts = reader.texts.part(windows_per_document=1, folds=null_folds(reader.texts, settings))

    def batches(name: str) -> Iterator[Batch]:
        nonlocal read
        done = 0
        for batch in texts.batches(settings.micro_batch):
            yield batch
            done, read = done + batch.tokens.numel(), read + batch.tokens.numel()
            if progress is not None:
                progress(f"precision {name}", done, texts.tokens())

    begun = time.perf_counter()
    found = read_precisions(
        replace(reader.study, folds=texts.folds), reader.part.frozen_fits(), settings.precisions, batches
    )
    clock.add("precisions", time.perf_counter() - begun, read)
    return found


def _ablate(
    model: Model,
    texts: Texts,
    settings: Settings,
    gathered: Gathered,
    clock: Clock,
    progress: Progress | None,
) -> list[xarray.Dataset]:
    """Each term of each named head taken out, on the first window of each document that a null reads."""
    asked = [(layer, head, term) for layer, head in settings.ablate for term in TERMS]
    if not asked:
        return []
    folds, read, begun = null_folds(texts, settings), 0, time.perf_counter()
    ranks = [rank for rank in range(texts.documents) if rank % texts.folds < folds]
    batch = next(texts.part(windows_per_document=1).batches(len(ranks), documents=ranks))
    fits = xarray.DataTree.from_dict({"/basis": reducing.label_basis(gathered)})
    told = replace(model, tokenizer=texts.tokenizer)

    def report(place: int, done: int, total: int) -> None:
        nonlocal read
        read = place * total + done
        if progress is not None:
            progress("ablation", read, len(asked) * total)

    removals = [
        remove(
            told,
            batch,
            fits,
            layer=layer,
            head=head,
            term=term,
            placebos=PLACEBOS,
            seed=settings.seed,
            checked=gathered.checked,
            progress=partial(report, place),
        )
        for place, (layer, head, term) in enumerate(asked)
    ]
    clock.add("ablation", time.perf_counter() - begun, read)
    return removals


def attributes_of(
    model: Model,
    texts: Texts,
    settings: Settings,
    checked: Checked,
    job: Job,
    asked: Mapping[str, object],
) -> dict[str, object]:
    run = {name: value for name, value in job.run.items() if name != "package_version"}
    return {
        "package_version": job.run["package_version"],
        "dependency_versions": json.dumps({name: importlib.metadata.version(name) for name in PACKAGES}),
        "model": model.name,
        "model_digest": model.digest,
        "model_revision": model.revision or "",
        "run": json.dumps({**asked, **run}),
        "run_digest": digest_of(run),
        "seed": settings.seed,
        "tokens_fitted": texts.tokens(),
        "tokens_reference": texts.tokens("reference"),
        "documents": texts.documents,
        "reference_documents": texts.reference_documents,
        "folds": texts.folds,
        "window": texts.window,
        "tokenizer_digest": texts.tokenizer_digest,
        "census": json.dumps(asdict(texts.census)),
        "parity_logits": checked.logit_difference * checked.logit_scale,
        "parity_logits_relative": checked.logit_difference,
        "parity_pattern": max(checked.pattern_difference),
        "score_source": json.dumps([checked.score_source[layer] for layer in settings.layers]),
        "zero_share": checked.zero_share,
    }
