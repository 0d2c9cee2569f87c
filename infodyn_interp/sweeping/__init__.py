"""The main job: texts stream through a model a counted number of times and leave one small result.

Stages: count (done by `read_texts`), reference (a survey of documents that are not fitted: mean states and the basis),
fit (moments of every head's energy), carry (variograms of what the frozen fits leave), look (the first window of each
document again: filtered carry-over, swap gate), nulls (the same on twins), reduce (algebra on all of it). One process.
"""

import bisect
import hashlib
import importlib.metadata
import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
import xarray
from torch import Tensor

from infodyn_interp import reducing, results
from infodyn_interp.energy.carry import fit_carry, lags_of
from infodyn_interp.energy.fitting import Fit, fit
from infodyn_interp.energy.gauge import support_of
from infodyn_interp.energy.ladder import DOCUMENTS, RANKS, SUPER_FOLDS
from infodyn_interp.energy.moments import Moments
from infodyn_interp.energy.reference import MeanStates, Reference, SurfaceFit, choose_reference
from infodyn_interp.energy.terms import Basis, Prosody, rhythm_code
from infodyn_interp.errors import RequestError, RunError
from infodyn_interp.hooks import Checked, Layer, capture, check, choose_layers
from infodyn_interp.identify.carry_limits import CarryInjection
from infodyn_interp.identify.evidence import Variograms
from infodyn_interp.identify.nulls import NULLS, TWINS, choose_nulls
from infodyn_interp.identify.swaps import BLOCK, BLOCKS
from infodyn_interp.models import Model, permuted_weights_twin, untrained_twin
from infodyn_interp.sweeping.passes import Carrying, Measurement, SecondLook, Series, Study
from infodyn_interp.texts import Batch, Texts, read_pieces

LEAST_DOCUMENTS = 4  # folds of documents; fewer leave no interval
LEAST_LAGS = 3  # of a variogram
Progress = Callable[[str, int, int], None]
PACKAGES = ("torch", "transformers", "transformer-lens", "numpy", "scipy", "xarray")


@dataclass(frozen=True)
class Settings:
    """What decides a sweep beside its model and texts; names as on the command line."""

    layers: tuple[int, ...]
    reference: str = "lexical"
    state_rank: int = 8
    seed: int = 0
    micro_batch: int = 4
    threads: int | None = None
    carry: bool = True
    series: bool = False
    nulls: tuple[str, ...] = NULLS
    null_share: float = 1 / 3
    null_reference_tokens: int = 8_000
    limits: tuple[int, ...] = ()
    ladder_documents: int = DOCUMENTS


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


@dataclass
class Clock:
    """Seconds, tokens and peak resident memory of each stage."""

    seconds: dict[str, float] = field(default_factory=dict)
    tokens: dict[str, int] = field(default_factory=dict)
    peak_mib: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str, tokens: int) -> Iterator[None]:
        """Time one stage."""
        begun = time.perf_counter()
        yield
        self.add(name, time.perf_counter() - begun, tokens)

    def add(self, name: str, seconds: float, tokens: int) -> None:
        """Note one stage that was timed elsewhere."""
        self.seconds[name], self.tokens[name] = seconds, tokens
        unit = 2**20 if sys.platform == "darwin" else 2**10
        self.peak_mib[name] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def sweep(
    model: Model,
    texts: Texts,
    *,
    layers: Iterable[int] | None = None,
    reference: str = "lexical",
    state_rank: int = 8,
    out: str | Path | None = None,
    seed: int = 0,
    micro_batch: int = 4,
    threads: int | None = None,
    carry: bool = True,
    series: bool = False,
    nulls: Iterable[str] = NULLS,
    null_share: float = 1 / 3,
    null_reference_tokens: int = 8_000,
    limits: Iterable[int] | None = None,
    ladder_documents: int = DOCUMENTS,
    progress: Progress | None = None,
) -> xarray.DataTree:
    """Fit the energies of every head of the asked layers, and say what may be believed of them (seed 1.1, 1.2).

    Args:
        model: from `open_model`.
        texts: from `read_texts` with the model's tokenizer.
        layers: the layers to fit; all by default.
        reference: the surface: `lexical`, `position`, `zero`, `own`, or a name added to `REFERENCES`.
        state_rank: leading components of the attention input that make the state z.
        out: a folder for `result.nc`; where it holds the result of this very run, that is returned.
        seed: of the basis' centres.
        micro_batch: windows in one forward pass.
        threads: CPU threads of torch for the time of the sweep; as they are by default.
        carry: fit the carry-over, with its ladder, its filter and the swap gate: two more passes.
        series: keep |M_t| and its innovations by document, not their means alone.
        nulls: of `NULLS`; none for an empty sequence.
        null_share: of the folds of documents that a null reads.
        null_reference_tokens: of each null's own reference pass, at least.
        limits: the layers that get detection limits, without which nothing is ABSENT; all that are fitted by default.
        ladder_documents: the first documents, whose first windows the carry-over's ladder reads; at least 8.
        progress: called with stage, tokens done, tokens in all.

    Returns:
        The result: groups `basis example reference energy terms verdicts carry cost`, energies in nats.

    Raises:
        RequestError: before any work: a layer, reference or rank that is not there, windows longer than the model's
            context, too few documents, or an `out` that holds another run or cannot be written.
        RunError: the model fails its check, or scores are not finite (layer, head and window are named).
    """
    fitted = choose_layers(model, layers)
    settings = Settings(
        fitted,
        reference,
        state_rank,
        seed,
        micro_batch,
        threads,
        carry,
        series,
        choose_nulls(nulls),
        null_share,
        null_reference_tokens,
        fitted if limits is None else tuple(sorted(set(limits))),
        ladder_documents,
    )
    _refuse(model, texts, settings)
    run = describe_run(model, texts, settings)
    if out is not None:
        before = results.matching(out, run)
        if before is not None:
            return before
        _make_folder(Path(out))
    clock = Clock()
    gathered = gather(model, texts, settings, clock=clock, progress=progress, folder=out)
    others = {
        name: _gather_null(name, model, texts, settings, clock, progress, out)
        for name in settings.nulls
        if name in TWINS
    }
    with clock.stage("reduce", 0):
        groups = reducing.reduce(
            gathered, read_pieces(texts.tokenizer), model.head_width, reference, others, settings
        )
    groups["/cost"] = reducing.label_cost(clock.seconds, clock.tokens, clock.peak_mib)
    groups["/"] = xarray.Dataset(attrs=_attributes(model, texts, settings, gathered.checked, run))
    result = xarray.DataTree.from_dict(groups)
    if out is not None:
        results.save(result, out)
    return result


def _gather_null(
    name: str,
    model: Model,
    texts: Texts,
    settings: Settings,
    clock: Clock,
    progress: Progress | None,
    folder: str | Path | None,
) -> Gathered:
    """The passes of one null, with a reference of its own, on the documents of the first folds."""
    folds = max(LEAST_DOCUMENTS, round(settings.null_share * texts.folds))
    wanted = range(1, texts.reference_documents)
    surveyed = bisect.bisect_left(
        wanted,
        settings.null_reference_tokens,
        key=lambda count: texts.part(reference_documents=count).tokens("reference"),
    )
    part = texts.part(folds=folds, reference_documents=surveyed + 1)
    twin = model
    if name == "shuffled_tokens":
        part = part.shuffled(settings.seed)
    else:
        twin = (untrained_twin if name == "untrained" else permuted_weights_twin)(model, settings.seed)
    own = Clock()
    begun = time.perf_counter()

    def report(stage: str, done: int, total: int) -> None:
        if progress is not None:
            progress(f"{name}: {stage}", done, total)

    gathered = gather(twin, part, settings, clock=own, progress=report, folder=folder, look=False)
    clock.add(f"null {name}", time.perf_counter() - begun, sum(own.tokens.values()))
    return gathered


def gather(
    model: Model,
    texts: Texts,
    settings: Settings,
    *,
    checked: Checked | None = None,
    clock: Clock | None = None,
    progress: Progress | None = None,
    folder: str | Path | None = None,
    look: bool = True,
) -> Gathered:
    """Pass the texts through the model: the check, the survey of the reference documents, the moments of the fitted.

    Args:
        model, texts, settings: as in `sweep`.
        checked: a check of this model on windows of this length, where its scores were bent on purpose since.
        clock: filled stage by stage.
        progress: called with stage, tokens done, tokens in all.
        folder: where the survey's table lies while the run lasts; the system's place for such files by default.
        look: climb the ladder of the carry-over, and look at the first window of each document again.

    Raises:
        RunError: as in `sweep`.
    """
    clock = clock or Clock()
    report = progress or (lambda stage, done, total: None)
    with (
        torch_threads(settings.threads),
        tempfile.TemporaryDirectory(dir=folder, prefix="survey-") as scratch,
    ):
        checked = checked or check(model, next(texts.batches(settings.micro_batch)))
        strategy = choose_reference(settings.reference)
        with clock.stage("reference", texts.tokens("reference")):
            means = _survey(model, texts, settings, strategy, checked, Path(scratch), report)
            bases = {
                layer: means.basis(layer, settings.state_rank, settings.seed, max(RANKS))
                for layer in settings.layers
            }
        study = Study(
            model,
            texts.window,
            texts.folds,
            settings.layers,
            settings.state_rank,
            Prosody(read_pieces(texts.tokenizer)),
            strategy,
            means,
            checked,
            bases,
            settings.ladder_documents,
        )
        with_carry = settings.carry and all(
            len(lags_of(support_of(texts.window, checked.reach[layer]))) >= LEAST_LAGS
            for layer in settings.layers
        )
        with clock.stage("fit", texts.tokens()):
            visit = Measurement(study, Path(scratch) if with_carry and look else None)
            rhythm, unseen, example = _measure(texts, settings, study, visit, report)
            fits = {layer: fit(visit.moments[layer]) for layer in settings.layers}
        carrying, second, looked = None, None, texts.part(windows_per_document=1)
        if with_carry:
            with clock.stage("carry", texts.tokens()):
                limited = settings.limits if look else ()
                carrying = Carrying(study, fits, visit.ladder, limited, settings.seed)
                for batch in _batches(texts, "carry", report, settings.micro_batch):
                    carrying.begin(batch)
                    capture(model, batch, carrying, layers=settings.layers, checked=checked)
        if carrying is not None and look:
            with clock.stage("look", looked.tokens()):
                carries = {layer: fit_carry(carrying.variograms[layer].chosen) for layer in settings.layers}
                second = SecondLook(study, fits, carries, carrying.variance_without)
                _look_again(looked, settings, study, second, report)
        return Gathered(
            checked,
            bases,
            visit.moments,
            {} if settings.reference == "zero" else visit.surfaces,
            rhythm,
            unseen,
            example[0],
            example[1],
            fits,
            None if carrying is None else carrying.variograms,
            None if carrying is None else carrying.permuted,
            {} if second is None else second.series,
            {} if carrying is None else carrying.injections,
            {} if second is None else second.swap_gains,
        )


def _batches(
    texts: Texts,
    stage: str,
    report: Progress,
    size: int,
    role: str = "fitted",
    documents: Iterable[int] | None = None,
    done: int = 0,
) -> Iterator[Batch]:
    """The batches of a stage; each is reported once it has been worked on. `done`: tokens reported before."""
    total = texts.tokens(role)
    for batch in texts.batches(size, role, documents):
        yield batch
        done += batch.tokens.numel()
        report(stage, done, total)


def _look_again(texts: Texts, settings: Settings, study: Study, visit: SecondLook, report: Progress) -> None:
    """The first window of each document: full blocks of the swap gate at once, the others as they come."""
    full = min(texts.documents // BLOCK, BLOCKS) * BLOCK
    for swapping, ranks, size in (
        (True, range(full), BLOCK),
        (False, range(full, texts.documents), settings.micro_batch),
    ):
        visit.swapping = swapping
        for batch in _batches(texts, "look", report, size, documents=ranks, done=ranks.start * texts.window):
            visit.begin(batch)
            capture(study.model, batch, visit, layers=settings.layers, checked=study.checked)


def _survey(
    model: Model,
    texts: Texts,
    settings: Settings,
    strategy: Reference,
    checked: Checked,
    scratch: Path,
    report: Progress,
) -> MeanStates:
    types = texts.token_types("fitted")
    means = MeanStates(
        scratch,
        settings.layers,
        types if strategy.needs_means else types[:0],
        model.width,
        texts.window,
        texts.windows("reference"),
        model.learned_positions and strategy.needs_means,
    )

    def add(layer: Layer) -> None:
        if not bool(torch.isfinite(layer.attention_input.sum())):
            raise RunError(
                f"layer {layer.index}: NaN in the states of reference documents {min(batch.document)} to "
                f"{max(batch.document)}; run it in dtype float32, or leave these documents out"
            )
        means.add(layer.index, layer.attention_input)

    for batch in _batches(texts, "reference", report, settings.micro_batch, "reference"):
        means.begin(batch.tokens)
        capture(model, batch, add, layers=settings.layers, checked=checked)
    means.finish()
    return means


def _measure(
    texts: Texts, settings: Settings, study: Study, visit: Measurement, report: Progress
) -> tuple[Tensor, float, tuple[dict[int, tuple[Tensor, Tensor]], Tensor]]:
    """The fit pass: rhythm codes by fold, share of tokens never surveyed, and the example's received energies."""
    first_key = support_of(texts.window).first_key
    rhythm = torch.zeros(texts.folds, 16 * texts.window, dtype=torch.float64)
    unseen: list[Tensor] = []
    for batch in _batches(texts, "fit", report, settings.micro_batch):
        codes = rhythm_code(visit.begin(batch))[:, first_key:]
        folds = torch.from_numpy(batch.fold)[:, None].expand_as(codes)
        rhythm.index_put_((folds, codes), torch.ones(codes.shape, dtype=torch.float64), accumulate=True)
        if study.strategy.needs_means and study.means is not None:
            unseen.append(study.means.unseen(batch.tokens))
        capture(study.model, batch, visit, layers=settings.layers, checked=study.checked)
    example = texts.one_window()
    visit.begin(example)
    received: dict[int, tuple[Tensor, Tensor]] = {}

    def keep(layer: Layer) -> None:
        received[layer.index] = visit.received(layer)

    capture(study.model, example, keep, layers=settings.layers, checked=study.checked)
    share = float(torch.cat(unseen).mean()) if unseen else float("nan")
    return rhythm, share, (received, example.tokens[0])


def _refuse(model: Model, texts: Texts, settings: Settings) -> None:
    """Whatever can be known before the first pass."""
    choose_reference(settings.reference)
    if texts.documents < LEAST_DOCUMENTS:
        raise RequestError(
            f"{texts.documents} documents to fit, an interval needs at least {LEAST_DOCUMENTS}: give more texts"
        )
    if model.context is not None and texts.window > model.context:
        raise RequestError(f"window: {texts.window} tokens asked, the model's context holds {model.context}")
    if not 1 <= settings.state_rank <= model.width:
        raise RequestError(
            f"state_rank: {settings.state_rank} asked, the states have 1..{model.width} directions"
        )
    strange = [layer for layer in settings.limits if layer not in settings.layers]
    if strange:
        raise RequestError(f"limits: layer {strange[0]} asked, the fitted layers are {list(settings.layers)}")
    if not 0 < settings.null_share <= 1:
        raise RequestError(f"null_share: {settings.null_share} asked, it lies above 0 and up to 1")
    if settings.ladder_documents < 2 * SUPER_FOLDS:
        raise RequestError(
            f"ladder_documents: {settings.ladder_documents} asked, at least {2 * SUPER_FOLDS} are needed"
        )
    for name in ("micro_batch", "threads"):
        value = getattr(settings, name)
        if value is not None and value < 1:
            raise RequestError(f"{name}: {value} asked, at least 1 is needed")


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as reason:
        raise RequestError(f"out: cannot write into {folder}: {reason.strerror or reason}") from None


def describe_run(model: Model, texts: Texts, settings: Settings) -> dict[str, object]:
    """Everything that decides a result, by the names of the command line's flags."""
    return {
        "model": model.name,
        "model_digest": model.digest,
        "twin": model.twin,
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": str(model.device),
        "texts": texts.digest,
        "window": texts.window,
        "documents": texts.documents,
        "reference_documents": texts.reference_documents,
        "folds": texts.folds,
        **asdict(settings),
        "layers": list(settings.layers),
        "limits": list(settings.limits),
        "nulls": list(settings.nulls),
        "threads": settings.threads or torch.get_num_threads(),
    }


def _attributes(
    model: Model, texts: Texts, settings: Settings, checked: Checked, run: dict[str, object]
) -> dict[str, object]:
    return {
        "package_version": importlib.metadata.version("infodyn-interp"),
        "dependency_versions": json.dumps({name: importlib.metadata.version(name) for name in PACKAGES}),
        "model": model.name,
        "model_digest": model.digest,
        "model_revision": model.revision or "",
        "run": json.dumps(run),
        "run_digest": hashlib.sha256(json.dumps(run, sort_keys=True).encode()).hexdigest()[:16],
        "seed": settings.seed,
        "tokens_fitted": texts.tokens(),
        "tokens_reference": texts.tokens("reference"),
        "documents": texts.documents,
        "reference_documents": texts.reference_documents,
        "folds": texts.folds,
        "window": texts.window,
        "census": json.dumps(asdict(texts.census)),
        "parity_logits": checked.logit_difference * checked.logit_scale,
        "parity_logits_relative": checked.logit_difference,
        "parity_pattern": max(checked.pattern_difference),
        "score_source": json.dumps([checked.score_source[layer] for layer in settings.layers]),
        "zero_share": checked.zero_share,
    }


@contextmanager
def torch_threads(count: int | None) -> Iterator[None]:
    """Torch's CPU threads for a while; None leaves them."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
