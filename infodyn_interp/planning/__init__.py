"""What a run takes, before it is run: passes and tokens by stage, disk, memory and time.

Passes, windows and tokens are counted from the run's own shards. Disk is what a rehearsal of one layer left, with the
run's layers, folds and shards. Memory is a formula of shapes (`sweeping.memory`). Time is that of a micro-batch of the
user's own texts through every pass, times the windows counted.
"""

import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from infodyn_interp.costing.bench import Bench
from infodyn_interp.energy.reference import choose_reference
from infodyn_interp.identify.swaps import BLOCK
from infodyn_interp.models import Model
from infodyn_interp.planning.counting import Count, count_passes
from infodyn_interp.planning.disk import weigh
from infodyn_interp.planning.rehearsal import rehearse
from infodyn_interp.planning.timing import take_times
from infodyn_interp.sweeping import Settings, torch_threads
from infodyn_interp.sweeping.engines import Engine
from infodyn_interp.sweeping.memory import MIB, budgeted, needs
from infodyn_interp.sweeping.parts import parts_of
from infodyn_interp.sweeping.plans import STUDY, job_of
from infodyn_interp.sweeping.settings import refuse, settle
from infodyn_interp.texts import Texts

__all__ = ["Forecast", "Stage", "plan"]

REPEATS = 2  # of each timed pass, after one to warm up


@dataclass(frozen=True)
class Stage:
    """One stage of one part of a run.

    Args:
        part, stage: as `infodyn show` calls them while a run goes on.
        passes: over its windows.
        documents, windows, tokens: that a pass reads.
        seconds: in one process.
        shards_mib: of its shards on disk, before they are added up.
    """

    part: str
    stage: str
    passes: int
    documents: int
    windows: int
    tokens: int
    seconds: float
    shards_mib: float


@dataclass(frozen=True)
class Forecast:
    """What a run takes.

    Args:
        stages: in the order in which they are run.
        census: of the texts, as in `texts.Census`; `tokens_lost` are those in remainders, not sampled or too short.
        micro_batch, layers: of the run.
        memory_mib: of one process at the peak of each stage.
        disk_mib: most that lies in `out` at once.
        result_mib: of `result.nc`.
    """

    stages: tuple[Stage, ...]
    census: dict[str, int]
    micro_batch: int
    layers: int
    memory_mib: dict[str, float]
    disk_mib: float
    result_mib: float

    @property
    def passes(self) -> int:
        """Of all stages."""
        return sum(one.passes for one in self.stages)

    @property
    def tokens_read(self) -> int:
        """In all passes."""
        return sum(one.passes * one.tokens for one in self.stages)

    @property
    def seconds(self) -> float:
        """Of all stages, one after another."""
        return sum(one.seconds for one in self.stages)

    @property
    def peak_mib(self) -> float:
        """Memory of one process."""
        return max(self.memory_mib.values())

    def as_dict(self) -> dict[str, Any]:
        """All of it, for JSON."""
        sums = ("passes", "tokens_read", "seconds", "peak_mib")
        return asdict(self) | {name: getattr(self, name) for name in sums}


def plan(
    model: Model,
    texts: Texts,
    *,
    micro_batch: int | None = None,
    memory: str | None = None,
    workers: int = 1,
    engine: str = "local",
    address: str | None = None,
    repeats: int = REPEATS,
    **settings: Any,
) -> Forecast:
    """Count what a sweep would read, and foretell its disk, memory and time; it leaves nothing.

    Args:
        model, texts, micro_batch, memory, workers, engine, address: as in `sweep`.
        repeats: of each timed pass.
        settings: the other arguments of `sweep` that decide its result.

    Raises:
        RequestError: as in `sweep`.
        RunError: as in `sweep`, of one layer and few documents.
    """
    settled = settle(model, micro_batch=micro_batch, **settings)
    settled = budgeted(model, texts, settled, memory, micro_batch)
    refuse(model, texts, settled)
    chosen = Engine(engine, workers, address)
    chosen.refuse(model)
    types = np.zeros(0, np.int64)
    if choose_reference(settled.reference).needs_means:
        types = texts.token_types("fitted")
    with tempfile.TemporaryDirectory(prefix="plan-") as scratch, torch_threads(settled.threads):
        bench = _bench(model, texts, settled, Path(scratch))
        parts = parts_of(job_of(model, texts, settled, {}), Path(scratch))
        parts[STUDY].write_check(asdict(bench.checked), types)
        counts = count_passes(model, texts, settled, parts)
        rehearsed = rehearse(model, texts, settled, Path(scratch) / "small")
        disk = weigh(parts, texts, types, settled, counts, rehearsed, not chosen.here)
        seconds = take_times(bench, counts, rehearsed, repeats)
    counts.append(Count(STUDY, "reduce", 0, 0, 0, 0))
    census = asdict(texts.census)
    lost = ("tokens_in_remainders", "tokens_not_sampled", "tokens_too_short")
    return Forecast(
        stages=tuple(
            Stage(
                part=count.part,
                stage=count.stage,
                passes=count.passes,
                documents=count.documents,
                windows=count.windows,
                tokens=count.tokens,
                seconds=took,
                shards_mib=disk.shards.get((count.part, count.stage), 0) / MIB,
            )
            for count, took in zip(counts, seconds, strict=True)
        ),
        census=census | {"tokens_lost": sum(census[name] for name in lost)},
        micro_batch=settled.micro_batch,
        layers=len(settled.layers),
        memory_mib={stage: most / MIB for stage, most in needs(model, texts, settled).items()},
        disk_mib=disk.most / MIB,
        result_mib=disk.result / MIB,
    )


def _bench(model: Model, texts: Texts, settings: Settings, scratch: Path) -> Bench:
    """A micro-batch of the texts, and a block of the swap gate where there are documents enough for one."""
    tokens = next(texts.batches(settings.micro_batch)).tokens
    block = None
    if texts.documents >= BLOCK:
        block = next(texts.part(windows_per_document=1).batches(BLOCK)).tokens
    folder = scratch / "bench"
    folder.mkdir()
    return Bench(model, tokens, settings, folder, block)
