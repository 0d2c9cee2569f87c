"""A run in small: its first layer alone, on the first window of a few documents, by the run's own code.

What it leaves has the shapes of the run but for layers, windows and shards; what it takes without reading is taken by
every layer of the run.
"""

import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import xarray

from infodyn_interp import reducing, results
from infodyn_interp.identify.nulls import TWINS
from infodyn_interp.identify.swaps import BLOCK
from infodyn_interp.models import Model
from infodyn_interp.sweeping import Gathered, Settings
from infodyn_interp.sweeping.parts import parts_of
from infodyn_interp.sweeping.plans import STUDY, Plan, job_of
from infodyn_interp.sweeping.reading import readers_of
from infodyn_interp.sweeping.shards import File
from infodyn_interp.texts import Texts, read_pieces

REFERENCE = 16  # documents of its survey
TWIN = "shuffled_tokens"  # stands for every null that reads: it takes no model of its own

Place = tuple[str, str]  # part, stage


@dataclass(frozen=True)
class Rehearsed:
    """What a run in small left and took.

    Args:
        layer: that was fitted.
        plans: what each part read, by name.
        shards, frozen: bytes of each array, of all shards of a stage together and of the frozen stage.
        wrapping: bytes of a file beyond its arrays, by array.
        freezing: seconds of each stage after its last window.
        reducing: seconds of the reduction, with a detection limit and without.
        result: what came out, and the bytes of its file.
    """

    layer: int
    plans: dict[str, Plan]
    shards: dict[Place, Counter[str]]
    frozen: dict[Place, Counter[str]]
    wrapping: float
    freezing: dict[Place, float]
    reducing: tuple[float, float]
    result: xarray.DataTree
    result_bytes: int


def rehearse(model: Model, texts: Texts, settings: Settings, folder: Path) -> Rehearsed:
    """Run a study's first layer in small; arguments as for the study, and an empty folder."""
    small = replace(
        settings,
        layers=settings.layers[:1],
        limits=settings.layers[:1] if settings.limits else (),
        nulls=(TWIN,) if set(settings.nulls) & set(TWINS) else (),
        documents_per_shard=None,
        ablate=(),
        precisions=(),
    )
    few = texts.part(
        windows_per_document=1,
        documents=max(texts.folds, BLOCK),
        reference_documents=min(REFERENCE, texts.reference_documents),
    )
    job = job_of(model, few, small, {})
    parts = parts_of(job, folder)
    readers = readers_of(parts, model, few)
    readers[STUDY].prepare()
    shards, frozen, freezing = (
        defaultdict[Place, Counter[str]](Counter),
        dict[Place, Counter[str]](),
        dict[Place, float](),
    )
    size = arrays = 0
    for part in parts.values():
        for stage in part.stages:
            place = part.name, stage
            for shard in part.missing(stage):
                readers[part.name].compute(shard, lambda tokens: None)
                path = part.file(shard)
                found = _sizes(path)
                shards[place].update(found)
                size, arrays = size + path.stat().st_size - found.total(), arrays + len(found)
            freezing[place] = _seconds(partial(part.freeze, stage))
            frozen[place] = _sizes(part.frozen(stage))
    study, *others = (part.gathered() for part in parts.values())
    nulls = {name: others[0] for name in settings.nulls if name in TWINS}
    groups: dict[str, xarray.Dataset] = {}

    def reduce(gathered: Gathered, limits: tuple[int, ...]) -> None:
        asked = replace(small, nulls=settings.nulls, limits=limits)
        pieces = read_pieces(texts.tokenizer)
        groups.update(reducing.reduce(gathered, pieces, model.head_width, small.reference, nulls, asked))

    plain = _seconds(lambda: reduce(replace(study, fine={}, injections={}), ()))
    limited = _seconds(lambda: reduce(study, small.limits)) if small.limits else plain
    result = xarray.DataTree.from_dict(groups)
    file = results.save(result, folder)
    return Rehearsed(
        layer=small.layers[0],
        plans={plan.name: plan for plan in job.plans},
        shards=dict(shards),
        frozen=frozen,
        wrapping=size / arrays,
        freezing=freezing,
        reducing=(limited, plain),
        result=result,
        result_bytes=file.stat().st_size,
    )


def _sizes(path: Path) -> Counter[str]:
    file = File(path)
    return Counter({name: np.asarray(file[name]).nbytes for name in file})


def _seconds(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun
