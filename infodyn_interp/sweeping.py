"""The main job: texts stream through a model a counted number of times and leave one small result.

Stages: count (done by `read_texts`), reference (a survey of documents that are not fitted: mean states and the basis),
fit (moments of every head's energy), reduce (algebra on the moments). One process, moments in memory.
"""

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

import torch
import xarray
from torch import Tensor

from infodyn_interp import reducing, results
from infodyn_interp.energy.gauge import support_of
from infodyn_interp.energy.moments import Moments, WindowAlgebra
from infodyn_interp.energy.reference import MeanStates, Reference, SurfaceFit, choose_reference
from infodyn_interp.energy.terms import Basis, Prosody, rhythm_code, rhythm_columns
from infodyn_interp.errors import RequestError, RunError
from infodyn_interp.hooks import Checked, Layer, capture, check, choose_layers
from infodyn_interp.models import Model
from infodyn_interp.texts import Batch, Texts, read_pieces

LEAST_DOCUMENTS = 4  # folds of documents; fewer leave no interval
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
    """

    checked: Checked
    bases: dict[int, Basis]
    moments: dict[int, Moments]
    surfaces: dict[int, SurfaceFit]
    rhythm: Tensor
    unseen: float
    example: dict[int, tuple[Tensor, Tensor]]
    example_tokens: Tensor


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
        self.seconds[name] = time.perf_counter() - begun
        self.tokens[name] = tokens
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
    progress: Progress | None = None,
) -> xarray.DataTree:
    """Fit the energies of every head of the asked layers (seed 1.1, 1.2).

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
        progress: called with stage, tokens done, tokens in all.

    Returns:
        The result: groups `basis example reference energy terms cost`, energies in nats.

    Raises:
        RequestError: before any work: a layer, reference or rank that is not there, windows longer than the model's
            context, too few documents, or an `out` that holds another run or cannot be written.
        RunError: the model fails its check, or scores are not finite (layer, head and window are named).
    """
    settings = Settings(choose_layers(model, layers), reference, state_rank, seed, micro_batch, threads)
    _refuse(model, texts, settings)
    run = describe_run(model, texts, settings)
    if out is not None:
        before = results.matching(out, run)
        if before is not None:
            return before
        _make_folder(Path(out))
    clock = Clock()
    gathered = gather(model, texts, settings, clock=clock, progress=progress, folder=out)
    with clock.stage("reduce", 0):
        groups = reducing.reduce(gathered, read_pieces(texts.tokenizer), model.head_width, reference)
    groups["/cost"] = reducing.label_cost(clock.seconds, clock.tokens, clock.peak_mib)
    groups["/"] = xarray.Dataset(attrs=_attributes(model, texts, settings, gathered.checked, run))
    result = xarray.DataTree.from_dict(groups)
    if out is not None:
        results.save(result, out)
    return result


def gather(
    model: Model,
    texts: Texts,
    settings: Settings,
    *,
    checked: Checked | None = None,
    clock: Clock | None = None,
    progress: Progress | None = None,
    folder: str | Path | None = None,
) -> Gathered:
    """Pass the texts through the model: the check, the survey of the reference documents, the moments of the fitted.

    Args:
        model, texts, settings: as in `sweep`.
        checked: a check of this model on windows of this length, where its scores were bent on purpose since.
        clock: filled stage by stage.
        progress: called with stage, tokens done, tokens in all.
        folder: where the survey's table lies while the run lasts; the system's place for such files by default.

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
                layer: means.basis(layer, settings.state_rank, settings.seed) for layer in settings.layers
            }
        with clock.stage("fit", texts.tokens()):
            return _measure(model, texts, settings, strategy, checked, means, bases, report)


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
    done, total = 0, texts.tokens("reference")

    def add(layer: Layer) -> None:
        if not bool(torch.isfinite(layer.attention_input.sum())):
            raise RunError(
                f"layer {layer.index}: NaN in the states of reference documents {min(batch.document)} to "
                f"{max(batch.document)}; run it in dtype float32, or leave these documents out"
            )
        means.add(layer.index, layer.attention_input)

    for batch in texts.batches(settings.micro_batch, "reference"):
        means.begin(batch.tokens)
        capture(model, batch, add, layers=settings.layers, checked=checked)
        done += batch.tokens.numel()
        report("reference", done, total)
    means.finish()
    return means


class Measurement:
    """The visitor of the fit pass: each layer's energies become moments and are dropped.

    Args:
        model, window, folds, settings: of the run.
        prosody: rhythm of the vocabulary.
        strategy, means: the reference.
        checked, bases: of the layers.
    """

    def __init__(
        self,
        model: Model,
        window: int,
        folds: int,
        settings: Settings,
        prosody: Prosody,
        strategy: Reference,
        means: MeanStates | None,
        checked: Checked,
        bases: dict[int, Basis],
    ) -> None:
        self._bases, self._strategy, self._means, self._prosody = bases, strategy, means, prosody
        supports = {layer: support_of(window, checked.reach[layer]) for layer in settings.layers}
        made = {
            support: WindowAlgebra(support, settings.state_rank, model.device)
            for support in set(supports.values())
        }
        self._algebra = {layer: made[support] for layer, support in supports.items()}
        columns = next(iter(made.values())).columns
        self.moments = {layer: Moments.empty(columns, model.heads, folds) for layer in settings.layers}
        self.surfaces = {layer: SurfaceFit.empty(folds, model.heads) for layer in settings.layers}

    def begin(self, batch: Batch) -> Tensor:
        """Start a batch; returns its rhythm flags."""
        self._batch = batch
        self._folds = torch.from_numpy(batch.fold)
        flags = self._prosody.flags(batch.tokens)
        self._rhythm = rhythm_columns(flags)
        return flags

    def __call__(self, layer: Layer) -> None:
        states, scores, surface = self._read(layer)
        algebra = self._algebra[layer.index]
        window = algebra(states, self._rhythm, self._bases[layer.index], scores, surface)
        if not bool(torch.isfinite(window.square_row).all()):
            self._refuse(layer.index, window.square_row)
        self.moments[layer.index].add(window, self._batch.fold)
        if surface is not None:
            self.surfaces[layer.index].add(scores, surface, layer.mask, algebra.support, self._folds)

    def received(self, layer: Layer) -> tuple[Tensor, Tensor]:
        """What each key of the batch's first window receives: columns, heads."""
        states, scores, surface = self._read(layer)
        columns, heads = self._algebra[layer.index].received(
            states, self._rhythm, self._bases[layer.index], scores, surface
        )
        return columns[0].cpu(), heads[0].cpu()

    def _read(self, layer: Layer) -> tuple[Tensor, Tensor, Tensor | None]:
        surface = self._strategy(layer, self._batch.tokens.to(layer.scores.device), self._means)
        dtype = torch.promote_types(layer.scores.dtype, torch.float32)
        states = self._bases[layer.index].states(layer.attention_input)
        return states, layer.scores.to(dtype), None if surface is None else surface.to(dtype)

    def _refuse(self, layer: int, squares: Tensor) -> None:
        window, head = (~torch.isfinite(squares)).nonzero()[0].tolist()
        raise RunError(
            f"layer {layer}, head {head}, window {self._batch.position[window]} of document "
            f"{self._batch.document[window]}: NaN in its energies; run it in dtype float32, or leave the layer out"
        )


def _measure(
    model: Model,
    texts: Texts,
    settings: Settings,
    strategy: Reference,
    checked: Checked,
    means: MeanStates,
    bases: dict[int, Basis],
    report: Progress,
) -> Gathered:
    prosody = Prosody(read_pieces(texts.tokenizer))
    visit = Measurement(model, texts.window, texts.folds, settings, prosody, strategy, means, checked, bases)
    first_key = support_of(texts.window).first_key
    rhythm = torch.zeros(texts.folds, 16 * texts.window, dtype=torch.float64)
    unseen: list[Tensor] = []
    done, total = 0, texts.tokens()
    for batch in texts.batches(settings.micro_batch):
        codes = rhythm_code(visit.begin(batch))[:, first_key:]
        folds = torch.from_numpy(batch.fold)[:, None].expand_as(codes)
        rhythm.index_put_((folds, codes), torch.ones(codes.shape, dtype=torch.float64), accumulate=True)
        if strategy.needs_means:
            unseen.append(means.unseen(batch.tokens))
        capture(model, batch, visit, layers=settings.layers, checked=checked)
        done += batch.tokens.numel()
        report("fit", done, total)
    example = texts.one_window()
    visit.begin(example)
    received: dict[int, tuple[Tensor, Tensor]] = {}

    def keep(layer: Layer) -> None:
        received[layer.index] = visit.received(layer)

    capture(model, example, keep, layers=settings.layers, checked=checked)
    return Gathered(
        checked,
        bases,
        visit.moments,
        {} if settings.reference == "zero" else visit.surfaces,
        rhythm,
        float(torch.cat(unseen).mean()) if unseen else float("nan"),
        received,
        example.tokens[0],
    )


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
        "verdicts": "not computed",
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
