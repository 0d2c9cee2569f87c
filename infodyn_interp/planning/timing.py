"""Seconds of what was counted: a micro-batch through every pass, once to warm up and a few times in turn."""

from collections.abc import Callable, Sequence

from infodyn_interp.costing.bench import Bench, time_rows
from infodyn_interp.energy.terms import choose_tile
from infodyn_interp.planning.counting import Count
from infodyn_interp.planning.rehearsal import TWIN, Rehearsed
from infodyn_interp.sweeping.plans import STUDY

Rows = dict[str, Callable[[], object]]


def take_times(bench: Bench, counts: Sequence[Count], rehearsed: Rehearsed, repeats: int) -> list[float]:
    """Seconds of each count, and of the reduction after them, in one process."""
    measured = time_rows(_rows(bench, counts), repeats)
    batch, layers = len(bench.windows.tokens), len(bench.settings.layers)
    read = {"block": len(bench.block.tokens)} if _whole_block(bench) else {}
    each = {name: seconds / read.get(name, batch) for name, seconds in measured.items()}
    limited = len(bench.settings.limits)
    of_limited, plain = rehearsed.reducing
    stages = [_reading(count, each) + layers * _freezing(count, rehearsed) for count in counts]
    return [*stages, limited * of_limited + (layers - limited) * plain]


def _rows(bench: Bench, counts: Sequence[Count]) -> Rows:
    """The passes that are counted, by name."""
    stages = {(count.part == STUDY, count.stage) for count in counts}
    limits = bench.settings.limits
    fit = bench.fit()
    rows: Rows = {
        "survey": bench.survey,
        "fit": lambda: bench.read(fit, keep=None),
        "wide fit": lambda: bench.read(bench.finer, keep=None),
    }
    if (True, "carry") in stages:
        carry, wide = bench.carry(limited=limits), bench.carry(ladder=True, limited=limits)
        bench.read_block(carry)
        look = bench.look(carry, swapping=False)
        rows |= {
            "ladder": lambda: bench.read(bench.climb, keep=None),
            "carry": lambda: bench.read(carry, keep=None),
            "wide carry": lambda: bench.read(wide, keep=None),
            "look": lambda: bench.read(look, keep=None),
        }
        if any(count.stage == "look" and count.wide for count in counts):
            swaps = bench.look(carry, swapping=True)

            def twice() -> None:
                """Long windows are read once for their states, and again: what crosses them is left out."""
                bench.survey()
                bench.read(look, keep=None)

            whole = _whole_block(bench)
            rows["block"] = (lambda: bench.read(swaps, bench.block, keep=None)) if whole else twice
    if (False, "carry") in stages:
        of_null = bench.carry()
        rows["carry of null"] = lambda: bench.read(of_null, keep=None)
    if (True, "ablation") in stages:
        rows["ablation"] = lambda: bench.forward(0)
    return rows


def _whole_block(bench: Bench) -> bool:
    return choose_tile(bench.windows.tokens.shape[1]) is None


def _reading(count: Count, each: dict[str, float]) -> float:
    """Seconds of the passes of a stage."""
    stage = count.stage
    if stage == "precisions":
        return count.passes * count.windows * (each["carry"] + each["look"])
    if count.part != STUDY and stage == "carry":
        return count.windows * each["carry of null"]
    if stage == "look":
        return count.wide * each.get("block", 0) + (count.windows - count.wide) * each["look"]
    wide = each.get(f"wide {stage}", each[stage])
    return count.passes * count.share * ((count.windows - count.wide) * each[stage] + count.wide * wide)


def _freezing(count: Count, rehearsed: Rehearsed) -> float:
    part = count.part if count.part == STUDY else TWIN
    return rehearsed.freezing.get((part, count.stage), 0.0)
