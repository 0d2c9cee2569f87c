"""How often a model reads which windows: counted from the shards of a run, and from what follows them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from infodyn_interp.energy.fitting import TERMS
from infodyn_interp.identify.swaps import BLOCK
from infodyn_interp.models import Model
from infodyn_interp.sweeping import PLACEBOS, Settings
from infodyn_interp.sweeping.parts import Part
from infodyn_interp.sweeping.plans import STAGES, STUDY
from infodyn_interp.sweeping.settings import null_folds
from infodyn_interp.texts import Texts


@dataclass(frozen=True)
class Count:
    """What one stage of one part reads.

    Args:
        part, stage: its place.
        passes: over its windows.
        documents, windows, tokens: of a pass.
        wide: windows that the ladder and the finer grid of tracks read besides; of the look, those in blocks of the
            swap gate.
        share: of a forward pass that a pass is on average, where passes start at a layer.
    """

    part: str
    stage: str
    passes: int
    documents: int
    windows: int
    tokens: int
    wide: int = 0
    share: float = 1.0


def count_passes(model: Model, texts: Texts, settings: Settings, parts: Mapping[str, Part]) -> list[Count]:
    """Everything that a run reads, in the order in which it reads it."""
    counts = [_count_stage(part, stage, settings) for part in parts.values() for stage in part.stages]
    return [*counts, *_count_aside(model, texts, settings, "look" in parts[STUDY].stages)]


def _count_stage(part: Part, stage: str, settings: Settings) -> Count:
    shards = part.shards(stage)
    documents, tokens = (
        sum(sizes) for sizes in zip(*((len(one.documents), one.tokens) for one in shards), strict=True)
    )
    wide = 0
    if stage == "look":
        wide = BLOCK * sum(shard.swaps for shard in shards)
    elif part.name == STUDY and stage in STAGES[1:4]:
        wide = min(settings.ladder_documents, documents)
    return Count(part.name, stage, 1, documents, tokens // part.plan.window, tokens, wide)


def _count_aside(model: Model, texts: Texts, settings: Settings, looked: bool) -> Iterator[Count]:
    """Precisions and ablations: on the first window of each document that a null reads."""
    read = texts.part(windows_per_document=1, folds=null_folds(texts, settings))
    sizes = read.documents, read.windows(), read.tokens()
    own = str(model.dtype).removeprefix("torch.")
    if settings.precisions and looked:
        yield Count(STUDY, "precisions", len({own, *settings.precisions}), *sizes)
    if settings.ablate:
        changed = 1 + PLACEBOS + min(PLACEBOS, read.documents - 1)
        above = [1 - layer / model.layers for layer, _ in settings.ablate]
        share = (2 + changed * sum(above) / len(above)) / (2 + changed)
        passes = len(settings.ablate) * len(TERMS) * (2 + changed)
        yield Count(STUDY, "ablation", passes, *sizes, share=share)
