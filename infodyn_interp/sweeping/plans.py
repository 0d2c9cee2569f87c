"""What a run is to read: its parts, their stages, and the shards of each.

It is kept beside the shards, so that whatever is finished can be added and solved without model or texts.
"""

import bisect
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from infodyn_interp.energy.ladder import SUPER_FOLDS
from infodyn_interp.energy.reference import choose_reference
from infodyn_interp.errors import RequestError, brief
from infodyn_interp.identify.nulls import TWINS
from infodyn_interp.identify.swaps import BLOCK, BLOCKS
from infodyn_interp.models import Model
from infodyn_interp.results import whole_file
from infodyn_interp.run import digest_of
from infodyn_interp.sweeping.settings import Settings, null_folds
from infodyn_interp.texts import Texts

STUDY = "study"
STAGES = ("survey", "fit", "ladder", "carry", "look")
OF_NULLS = ("survey", "fit", "carry")
FIRST_WINDOWS = ("ladder", "look")  # stages that read the first window of each document
MOST_SHARDS = 64  # of a stage, unless documents_per_shard says otherwise
LOOKED = BLOCK * BLOCKS  # documents of the second look, unless every series is wanted: more sharpen no figure
FILE = "run.json"


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

    def __str__(self) -> str:
        read = (
            f"{self.role} documents {self.documents[0]} to {self.documents[-1]}"
            if self.documents
            else "empty"
        )
        return f"stage {self.stage} of {self.part}, shard {self.index + 1} of {self.of} ({read})"


@dataclass(frozen=True)
class Plan:
    """One model on its texts: the study itself, or a null beside it.

    Args:
        name: `STUDY`, or a null's name.
        window, folds: of its texts.
        surveyed: windows of its reference.
        width: directions of the attention input.
        by_position: the reference has means by position.
        shards: of every stage, in the order in which they are added.
        groups: of its documents, where they are told apart: label, documents.
    """

    name: str
    window: int
    folds: int
    surveyed: int
    width: int
    by_position: bool
    shards: tuple[Shard, ...]
    groups: tuple[tuple[str, int], ...] = ()


Kind = TypeVar("Kind", bound="Task")


@dataclass(frozen=True)
class Task:
    """What is to be done, as it is kept in `run.json`.

    Args:
        run: what decides its result, the version of the package included.
    """

    run: Mapping[str, object]

    @cached_property
    def digest(self) -> str:
        """Of the run."""
        return digest_of(self.run)

    @classmethod
    def read(cls: type[Kind], folder: Path) -> Kind:
        """From a folder of shards.

        Raises:
            RequestError: none is there.
        """
        try:
            return cls.told(json.loads((folder / FILE).read_text(encoding="utf-8")))
        except FileNotFoundError:
            raise RequestError(f"{folder}: no shards of a run there") from None
        except (OSError, ValueError, KeyError, TypeError) as reason:
            kind = type(reason).__name__
            raise RequestError(f"{folder / FILE}: damaged ({kind}); remove it, or the whole folder") from None

    @classmethod
    def told(cls: type[Kind], told: Mapping[str, Any]) -> Kind:
        """From what `write` wrote."""
        return cls(**told)

    def require_same(self, run: Mapping[str, object], place: Path) -> None:
        """Refuse what lies in `place` where it is of another run; the first key that differs is named."""
        for name, value in json.loads(json.dumps(self.run)).items():
            if run.get(name) != value:
                raise RequestError(
                    f"{place}: holds the shards of another run ({name} was {brief(run.get(name))}, now {brief(value)});"
                    " name another folder or remove this one"
                )

    def write(self, folder: Path) -> None:
        """Into a folder of shards."""
        with whole_file(folder / FILE) as beside:
            beside.write_text(json.dumps(asdict(self)), encoding="utf-8")


@dataclass(frozen=True)
class Job(Task):
    """A whole sweep as it is kept in `run.json`.

    Args:
        settings: of the run.
        plans: the study's, then those of the nulls that read a model or texts of their own.
    """

    settings: Settings
    plans: tuple[Plan, ...]

    @classmethod
    def told(cls, told: Mapping[str, Any]) -> "Job":
        """From what `write` wrote."""
        settings = Settings(**{name: _tuples(value) for name, value in told["settings"].items()})
        plans = tuple(
            Plan(**_tuples(plan) | {"shards": tuple(Shard(**_tuples(one)) for one in plan["shards"])})
            for plan in told["plans"]
        )
        return cls(told["run"], settings, plans)


def job_of(model: Model, texts: Texts, settings: Settings, run: Mapping[str, object]) -> Job:
    """What is to be read of some texts by a model and its twins."""
    return Job(
        run,
        settings,
        tuple(_plan(name, model, part, settings) for name, part in texts_of(texts, settings).items()),
    )


def texts_of(texts: Texts, settings: Settings) -> dict[str, Texts]:
    """What each part reads: a null has a reference of its own, and the documents of the first folds."""
    out = {STUDY: texts}
    for name in settings.nulls:
        if name not in TWINS:
            continue
        surveyed = bisect.bisect_left(
            range(1, texts.reference_documents),
            settings.null_reference_tokens,
            key=lambda count: texts.tokens("reference", range(count)),
        )
        part = texts.part(folds=null_folds(texts, settings), reference_documents=surveyed + 1)
        out[name] = part.shuffled(settings.seed) if name == "shuffled_tokens" else part
    return out


def _plan(name: str, model: Model, texts: Texts, settings: Settings) -> Plan:
    stages = STAGES if name == STUDY else OF_NULLS
    first_windows = texts.part(windows_per_document=1)
    sizes = np.bincount(texts.group(), minlength=len(texts.groups)).tolist()
    return Plan(
        name=name,
        window=texts.window,
        folds=texts.folds,
        surveyed=texts.windows("reference"),
        width=model.width,
        by_position=model.learned_positions and choose_reference(settings.reference).needs_means,
        shards=tuple(
            Shard(name, stage, place, len(spans), tuple(span), role, read.tokens(role, span), place < swaps)
            for stage in (stages if settings.carry else stages[:2])
            for read in [first_windows if stage in FIRST_WINDOWS else texts]
            for role, swaps, spans in [_spans(stage, texts, settings)]
            for place, span in enumerate(spans)
        ),
        groups=tuple(zip(texts.groups, sizes, strict=True)) if name == STUDY and texts.groups else (),
    )


def _spans(stage: str, texts: Texts, settings: Settings) -> tuple[str, int, list[Sequence[int]]]:
    """Role of a stage's documents, how many of its shards are blocks of the swap gate, documents of each shard."""
    role, count = "fitted", texts.documents
    if stage == "survey":
        role, count = "reference", texts.reference_documents
    swaps = min(count // BLOCK, BLOCKS) if stage == "look" else 0
    if stage == "look" and not settings.series:
        count = min(count, LOOKED)
    if stage == "ladder":  # a super-fold each
        every = range(min(settings.ladder_documents, count))
        parts = (
            [rank for rank in every if rank % texts.folds % SUPER_FOLDS == k] for k in range(SUPER_FOLDS)
        )
        return role, 0, list(parts)
    size = settings.documents_per_shard or max(texts.folds, -(-count // MOST_SHARDS))
    blocks = [range(BLOCK * place, BLOCK * (place + 1)) for place in range(swaps)]
    rest = [range(at, min(at + size, count)) for at in range(swaps * BLOCK, count, size)]
    return role, swaps, [*blocks, *rest]


def _tuples(value: Any) -> Any:
    """Lists as tuples, in dictionaries too: how dataclasses had them before they were JSON."""
    if isinstance(value, dict):
        return {name: _tuples(one) for name, one in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
