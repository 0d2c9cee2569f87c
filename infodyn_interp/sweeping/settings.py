"""What decides a sweep beside its model and texts, and what of it can be refused before the first pass."""

import resource
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from infodyn_interp.energy.ladder import DOCUMENTS, SUPER_FOLDS
from infodyn_interp.energy.reference import choose_reference
from infodyn_interp.energy.terms import choose_tile
from infodyn_interp.errors import RequestError
from infodyn_interp.hooks import bent_scores, check, choose_layers
from infodyn_interp.identify.nulls import NULLS, choose_nulls
from infodyn_interp.models import Model
from infodyn_interp.results import pick_heads
from infodyn_interp.run import choose_precisions
from infodyn_interp.texts import Texts

USUAL = 4  # windows in one forward where nothing else is said
LEAST_DOCUMENTS = 4  # folds of documents; fewer leave no interval


@dataclass(frozen=True)
class Settings:
    """What decides a sweep beside its model and texts; names as on the command line."""

    layers: tuple[int, ...]
    reference: str = "lexical"
    state_rank: int = 8
    seed: int = 0
    micro_batch: int = USUAL
    threads: int | None = None
    documents_per_shard: int | None = None
    carry: bool = True
    series: bool = False
    nulls: tuple[str, ...] = NULLS
    null_share: float = 1 / 3
    null_reference_tokens: int = 8_000
    limits: tuple[int, ...] = ()
    ladder_documents: int = DOCUMENTS
    ablate: tuple[tuple[int, int], ...] = ()
    precisions: tuple[str, ...] = ()
    query_stride: int = 1
    query_tile: int | None = None


def settle(
    model: Model,
    *,
    layers: Iterable[int] | None = None,
    limits: Iterable[int] | None = None,
    nulls: Iterable[str] = NULLS,
    ablate: str | Sequence[str] = (),
    precisions: Iterable[str] = (),
    threads: int | None = None,
    micro_batch: int | None = None,
    **others: Any,
) -> Settings:
    """The settings of a sweep of this model, from its arguments.

    Raises:
        RequestError: a layer, head, null or precision that is not there.
    """
    fitted = choose_layers(model, layers)
    return Settings(
        fitted,
        limits=fitted if limits is None else tuple(sorted(set(limits))),
        nulls=choose_nulls(nulls),
        ablate=tuple(sorted(set(pick_heads(ablate, fitted, range(model.heads), "ablate")))),
        precisions=choose_precisions(precisions),
        threads=threads or torch.get_num_threads(),
        micro_batch=USUAL if micro_batch is None else micro_batch,
        **others,
    )


def null_folds(texts: Texts, settings: Settings) -> int:
    """How many folds of documents a null reads."""
    return max(LEAST_DOCUMENTS, round(settings.null_share * texts.folds))


def refuse(model: Model, texts: Texts, settings: Settings) -> None:
    """Whatever can be known before the first pass."""
    choose_reference(settings.reference)
    if texts.documents < LEAST_DOCUMENTS:
        raise RequestError(
            f"{texts.documents} documents to fit, an interval needs at least {LEAST_DOCUMENTS}: give more texts"
        )
    refuse_groups(texts)
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
    if settings.precisions and not settings.carry:
        raise RequestError("precisions: they are of the carry-over, and carry is false")
    for name in ("micro_batch", "threads", "query_stride", "query_tile"):
        value = getattr(settings, name)
        if value is not None and value < 1:
            raise RequestError(f"{name}: {value} asked, at least 1 is needed")
    if settings.ablate:
        with bent_scores(model, {layer for layer, _ in settings.ablate}, lambda *_: torch.zeros(1, 1, 1, 1)):
            check(model, texts.one_window())


def refuse_groups(texts: Texts) -> None:
    """Groups that no contrast can be had of."""
    if len(texts.groups) == 1:
        raise RequestError(
            f"by: every document is of group {texts.groups[0]!r}, and a contrast needs two; name another field"
        )
    sizes = np.bincount(texts.group(), minlength=len(texts.groups))
    for label, size in zip(texts.groups, sizes, strict=bool(texts.groups)):
        if size < LEAST_DOCUMENTS:
            raise RequestError(
                f"by: group {label!r} has {size} documents to fit, an interval needs at least {LEAST_DOCUMENTS}:"
                " give more of its texts, or leave it out"
            )


def describe_run(model: Model, texts: Texts, settings: Settings) -> dict[str, object]:
    """Everything that decides a result, by the names of the command line's flags."""
    return {
        "model_digest": model.digest,
        "twin": model.twin,
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": str(model.device),
        "texts_digest": texts.digest,
        "window": texts.window,
        "documents": texts.documents,
        "reference_documents": texts.reference_documents,
        "folds": texts.folds,
        **({"groups": list(texts.groups)} if texts.groups else {}),
        **asdict(settings),
        "layers": list(settings.layers),
        "limits": list(settings.limits),
        "nulls": list(settings.nulls),
        "ablate": [f"{layer}.{head}" for layer, head in settings.ablate],
        "query_tile": choose_tile(texts.window, settings.query_tile) or texts.window,
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


def peak_mib() -> float:
    """Highest resident memory of this process so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
