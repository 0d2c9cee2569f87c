"""Bytes on disk: every array that a rehearsal left, with the run's own layers, folds, windows and shards."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import xarray
from jaxtyping import Int64

from infodyn_interp.energy.fitting import TERMS
from infodyn_interp.energy.gauge import FIRST_KEY
from infodyn_interp.energy.reference import BASIS_STATES
from infodyn_interp.energy.removal import MEASURES
from infodyn_interp.planning.counting import Count
from infodyn_interp.planning.rehearsal import TWIN, Place, Rehearsed
from infodyn_interp.sweeping import Settings
from infodyn_interp.sweeping.carrying import CROSSES
from infodyn_interp.sweeping.parts import Part
from infodyn_interp.sweeping.plans import STUDY, Plan, Shard, texts_of
from infodyn_interp.texts import Texts

FLOAT = 4
SUM = 8
STRING = 40  # bytes of a text in a netCDF file beyond its letters: its place in a heap, and the heap's own


@dataclass(frozen=True)
class Disk:
    """Bytes.

    Args:
        shards: of the shards of each stage, before they are added.
        most: under the folder of shards at once.
        result: of `result.nc`.
    """

    shards: dict[Place, float]
    most: float
    result: float


def weigh(
    parts: Mapping[str, Part],
    texts: Texts,
    types: Int64[np.ndarray, " type"],
    settings: Settings,
    counts: Sequence[Count],
    rehearsed: Rehearsed,
    together: bool,
) -> Disk:
    """What a run leaves on disk.

    Args:
        parts: of the run.
        texts: of the study.
        types: that its reference knows.
        settings: of the run.
        counts: of its stages.
        rehearsed: the run in small.
        together: every stage is gone through by all parts at once, as several workers do.
    """
    read = texts_of(texts, settings)
    shards, frozen, scratch = dict[Place, float](), dict[Place, float](), dict[Place, float]()
    for name, part in parts.items():
        for stage in part.stages:
            place = name, stage
            if stage == "survey":
                shards[place], frozen[place], scratch[place] = _survey(part, read[name], types, rehearsed)
            else:
                shards[place] = _grown(part, stage, rehearsed, False)
                frozen[place], scratch[place] = _grown(part, stage, rehearsed, True), 0.0
    steps = [
        [(name, stage) for name in some for stage in [step] if step in parts[name].stages]
        for some in ([list(parts)] if together else [[name] for name in parts])
        for step in dict.fromkeys(stage for name in some for stage in parts[name].stages)
    ]
    kept = most = 0.0
    for step in steps:
        here = kept + sum(shards[place] for place in step)
        most = max(most, here + max((max(scratch[place], frozen[place]) for place in step), default=0.0))
        kept += sum(frozen[place] for place in step)
    result = _result(rehearsed, len(settings.layers), counts)
    removed = [count.documents for count in counts if count.stage == "ablation"]
    result += sum(removed) * len(settings.ablate) * len(TERMS) * len(MEASURES) * SUM * 4
    return Disk(shards, max(most, kept + result), result)


def _survey(
    part: Part, texts: Texts, types: Int64[np.ndarray, " type"], rehearsed: Rehearsed
) -> tuple[float, float, float]:
    """Shards, what is frozen, and what lies there while a shard is read or the stage is frozen."""
    plan, layers = part.plan, len(part.settings.layers)
    row = layers * plan.width * FLOAT
    more = plan.window if plan.by_position else 0
    each = min(plan.window - FIRST_KEY, -(-BASIS_STATES // plan.surveyed))
    size = wrapped = 0.0
    for shard in part.shards("survey"):
        met = np.zeros(0, np.int64)
        windows = 0
        for batch in texts.batches(64, "reference", shard.documents):
            met = np.union1d(met, np.intersect1d(batch.tokens[:, FIRST_KEY:].numpy(), types))
            windows += len(batch.tokens)
        rows = len(met) + more
        size += rows * (row + 2 * SUM) + layers * plan.width * SUM + windows * each * row
        wrapped += (2 * layers + 5) * rehearsed.wrapping
    table = (len(types) + more) * row
    basis = sum(
        layers * (size + rehearsed.wrapping)
        for name, size in rehearsed.frozen[_place(part, "survey")].items()
        if _layered(name, rehearsed)
    )
    frozen = table + basis + row + (len(types) + more) * SUM
    return size + wrapped, frozen, table + plan.surveyed * each * row


def _grown(part: Part, stage: str, rehearsed: Rehearsed, frozen: bool) -> float:
    """Bytes of a stage's shards, or of what is frozen of them."""
    place = _place(part, stage)
    small, shards = rehearsed.plans[place[0]], part.shards(stage)
    before = [shard for shard in small.shards if shard.stage == stage]
    folds = _folds(part.plan, shards) / _folds(small, before)
    files = 1 if frozen else len(shards)
    total = 0.0
    for name, size in (rehearsed.frozen if frozen else rehearsed.shards)[place].items():
        kind, last, times = name.partition("/")[0], name.rpartition("/")[2], 1.0
        if kind == "fold" and not frozen:
            times = folds
        elif kind == "sum" and not frozen:
            times = len(shards) / len(before)
        elif kind == "list" and stage == "look":
            swaps = last == "swap gains"
            times = _looked(shards, swaps) / _looked(before, swaps)
        total += _copies(name, part.settings, rehearsed) * (times * size + files * rehearsed.wrapping)
    return total


def _place(part: Part, stage: str) -> Place:
    return (STUDY if part.name == STUDY else TWIN), stage


def _layered(name: str, rehearsed: Rehearsed) -> bool:
    return str(rehearsed.layer) in name.split("/")[:2]


def _copies(name: str, settings: Settings, rehearsed: Rehearsed) -> int:
    """Layers that have an array of this name."""
    if not _layered(name, rehearsed):
        return 1
    words = name.split("/")
    return len(settings.limits if {"fine", *CROSSES} & set(words) else settings.layers)


def _folds(plan: Plan, shards: Sequence[Shard]) -> int:
    return sum(len({rank % plan.folds for rank in shard.documents}) for shard in shards)


def _looked(shards: Sequence[Shard], swaps: bool) -> int:
    return sum(len(shard.documents) for shard in shards if shard.swaps or not swaps)


def _result(rehearsed: Rehearsed, layers: int, counts: Sequence[Count]) -> float:
    """Of the result: its variables with the run's layers and documents, and what the file adds to each."""
    looked = sum(count.documents for count in counts if count.stage == "look")
    small = sum(len(one.documents) for one in rehearsed.plans[STUDY].shards if one.stage == "look")
    grown = own = 0.0
    for node in rehearsed.result.subtree:
        for variable in node.to_dataset().variables.values():
            size, times = _stored(variable), 1.0
            if "layer" in variable.dims:
                times *= layers
            if "document" in variable.dims and small:
                times *= looked / small
            own += size
            grown += size * times
    return rehearsed.result_bytes - own + grown


def _stored(variable: xarray.Variable) -> float:
    """Bytes of a variable in a netCDF file."""
    if variable.dtype.kind in "UO":
        return float(sum(len(str(text).encode()) + STRING for text in variable.values.ravel()))
    return float(math.prod(variable.shape) * variable.dtype.itemsize)
