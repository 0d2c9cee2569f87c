"""How much memory a run takes, from shapes alone: the same number everywhere, so that what is chosen by it is too.

Numbers are of one process at its peak, weights included. Arrays that live at once were counted in the code of each
stage; `analyses/q05_plan.py` holds the sums against measured peaks.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from operator import itemgetter
from typing import TYPE_CHECKING

import psutil
import torch

from infodyn_interp.energy.carry import LAGS
from infodyn_interp.energy.ladder import RANKS, SUPER_FOLDS
from infodyn_interp.energy.reference import BASIS_STATES, choose_reference
from infodyn_interp.energy.terms import FINE, NINE, ROW_BLOCKS, Columns, Grid, choose_tile, columns_of
from infodyn_interp.errors import RequestError, RunError
from infodyn_interp.hooks import CHECKED_WINDOWS
from infodyn_interp.identify.nulls import TWINS
from infodyn_interp.identify.swaps import BLOCK
from infodyn_interp.models import Model
from infodyn_interp.run import read_bytes
from infodyn_interp.texts import Texts

if TYPE_CHECKING:
    from infodyn_interp.sweeping.plans import Shard
    from infodyn_interp.sweeping.settings import Settings

MOST = BLOCK  # that a budget is spent on: the swap gate reads as many at once anyway
MIB = 2**20
PROCESS = 600 * MIB  # Python with torch, transformers and a tokenizer
FORWARD = 5  # score arrays that a layer's own attention holds at once
FULL_LOGITS = 4  # of the check: the bridge's, the module's, their difference and its size
SUM = 8  # bytes of everything that is summed
PRODUCTS = 18  # bytes of a product of two columns: itself, its bilinear block, that block's unordered pairs


def needs(model: Model, texts: Texts, settings: "Settings") -> dict[str, int]:
    """Bytes that one process takes at the peak of each stage; on a GPU, those of the GPU and the process together.

    Args:
        model: of the study.
        texts: of the study; their token types are not read, but bounded.
        settings: of the run; of these `micro_batch` decides the most.
    """
    config, window, heads = model.bridge.cfg, texts.window, model.heads
    size, layers = model.dtype.itemsize, len(settings.layers)
    working = torch.promote_types(model.dtype, torch.float32).itemsize
    weights = sum(one.numel() * one.element_size() for one in model.bridge.parameters())
    pair = heads * window * window  # entries of a window's scores
    tile = choose_tile(window, settings.query_tile)
    held = heads * window * (tile or window)  # of what is made of them at once
    columns = columns_of(window, settings.state_rank)
    fine = columns_of(window, settings.state_rank, grid=FINE)
    wide = columns_of(window, settings.state_rank, min(max(RANKS), model.width))
    surface = settings.reference != "zero"

    def forward(windows: int) -> int:
        within = 8 * model.width + 3 * int(config.d_mlp or 4 * model.width)
        return windows * size * (FORWARD * pair + window * within)

    def read(windows: int) -> int:
        """States and surface of a layer, beside its scores."""
        return windows * working * (pair * surface + window * model.width)

    def moments(of: Columns, count: int, folds: int) -> int:
        p, q = of.count, of.within
        return count * folds * SUM * ((p * (p + 1) + q * (q + 1)) // 2 + (p + q + 2) * heads + 1)

    def dense(of: Columns, windows: int, components: int) -> int:
        """Kernels, tracks and energies of a block of rows, and what is summed of them."""
        grid: Grid = of.grid
        maps, rows = grid.maps + heads, tile or -(-window // ROW_BLOCKS)
        square = len(grid.widths) * window * (tile or window)
        block = maps * (rows + 1) * window + 3 * grid.maps * rows * window + square
        return windows * (working * block + SUM * maps * (components + 2) * window + PRODUCTS * of.count**2)

    fitted, batch, rank = texts.folds, settings.micro_batch, settings.state_rank
    profiled = len(settings.limits)
    types = (
        min(int(config.d_vocab), texts.tokens()) if choose_reference(settings.reference).needs_means else 0
    )
    kept = moments(columns, layers, fitted)
    finer = moments(fine, profiled, fitted)
    fits = layers * fitted * SUM * heads * 6 * columns.count
    vocabulary = CHECKED_WINDOWS * window * int(config.d_vocab)
    out = {
        "check": forward(CHECKED_WINDOWS) + FULL_LOGITS * vocabulary * 4,
        "survey": forward(batch) + 4 * types * model.width + 3 * SUM * BASIS_STATES * model.width,
        "fit": forward(batch)
        + read(batch)
        + dense(columns, batch, rank + 1)
        + kept
        + finer
        + (dense(fine, batch, rank + 1) if profiled else 0),
    }
    if settings.carry:
        square, rungs = wide.within * (wide.within + 1) // 2, 2 * len(RANKS)
        ladder = layers * SUPER_FOLDS * SUM * (square + wide.within * heads)
        of_ladder = layers * SUPER_FOLDS * rungs * heads * wide.within * SUM
        climbing = min(batch, -(-min(settings.ladder_documents, texts.documents) // SUPER_FOLDS))
        # energies and their squares; of both residuals fields, the rest, permuted rows, products; an injected field
        residuals = batch * held * working * (2 + 2 * 4 + 2 * 2 * bool(settings.limits))
        edges = 3 * batch * 2 * heads * window * max(LAGS) * SUM
        block = BLOCK if texts.documents >= BLOCK else min(batch, texts.documents)
        looked = block if tile is None else batch
        tracks = NINE.maps - len(NINE.widths)
        crossed = block**2 * (columns.within + heads) * (2 * tracks + columns.count - columns.within) * SUM
        weighed = block**2 * rank * tracks * window * working * 2
        out["ladder"] = (
            forward(climbing) + read(climbing) + dense(wide, climbing, wide.bilinear_rank + 1) + ladder + fits
        )
        out["carry"] = (
            forward(batch) + read(batch) + residuals + edges + of_ladder + fits + rungs * held * working * 3
        )
        out["look"] = (
            forward(looked) + read(looked) + dense(columns, looked, rank + 1) + crossed + weighed + fits
        )
    gathered = kept + finer + 2 * fits
    twins = [name for name in settings.nulls if name in TWINS]
    made = set(twins) - {"shuffled_tokens"}
    if twins:
        out["nulls"] = max(out.values()) + (weights if made else 0)
    out["reduce"] = gathered + len(twins) * (kept + fits)
    return {stage: PROCESS + weights + most for stage, most in out.items()}


def fitting(model: Model, texts: Texts, settings: "Settings", budget: int) -> int | None:
    """The largest micro-batch that a budget in bytes holds; None where it does not hold one window."""
    return next(
        (
            count
            for count in range(MOST, 0, -1)
            if max(needs(model, texts, replace(settings, micro_batch=count)).values()) <= budget
        ),
        None,
    )


def budgeted(
    model: Model, texts: Texts, settings: "Settings", memory: str | None, micro_batch: int | None
) -> "Settings":
    """Settings with what a budget chooses: here the micro-batch, where it was not asked for.

    Args:
        model, texts, settings: of the run.
        memory: the budget, as `8GiB`; None for none.
        micro_batch: as it was asked for; None leaves it to the budget.

    Raises:
        RequestError: the budget does not hold the run; what would do is said.
    """
    if memory is None:
        return settings
    budget = read_bytes(memory)
    asked = replace(settings, micro_batch=1 if micro_batch is None else micro_batch)
    stage, least = max(needs(model, texts, asked).items(), key=itemgetter(1))
    if least > budget:
        raise RequestError(
            f"memory: {memory} asked, {stage} with micro_batch {asked.micro_batch} takes"
            f' {-(-least // MIB):,} MiB; memory = "{-(-least // MIB)}MiB" would do,'
            " or a shorter window, or fewer layers"
        )
    if micro_batch is not None:
        return settings
    return replace(settings, micro_batch=fitting(model, texts, settings, budget) or 1)


@contextmanager
def within_memory(model: Model, texts: Texts, settings: "Settings", shard: "Shard") -> Iterator[None]:
    """Say of work on a shard that finds no more memory what would fit; finished shards are left as they are.

    Raises:
        RunError: memory is not enough.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as reason:
        if not _is_lack(reason):
            raise
        asked = settings.micro_batch
        if model.device.type == "cuda":
            room = (
                PROCESS + torch.cuda.mem_get_info(model.device)[0] + torch.cuda.memory_reserved(model.device)
            )
        else:
            room = psutil.Process().memory_info().rss + psutil.virtual_memory().available
        fits = fitting(model, texts, settings, room) or 1
        if shard.swaps:
            advice = (
                f"a block of the swap gate reads {BLOCK} windows at once: a shorter window, or carry = false"
            )
        elif asked > 1:
            advice = f"micro_batch = {min(fits, asked // 2)} would fit; it is part of a run, so name another out for it"
        else:
            advice = "one window is too many: a shorter window, or fewer layers"
        raise RunError(f"{shard}: out of memory with micro_batch {asked}; {advice}") from None


def _is_lack(reason: BaseException) -> bool:
    words = str(reason).lower()
    told = ("not enough memory", "can't allocate memory", "out of memory")
    return isinstance(reason, MemoryError | torch.OutOfMemoryError) or any(one in words for one in told)
