"""What a fit costs beside a plain forward pass, as ratios of medians of interleaved repeats in one process."""

import gc
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import psutil
import torch
from torch import Tensor

from infodyn_interp.costing.bench import Bench, time_rows
from infodyn_interp.energy.ladder import LadderMoments
from infodyn_interp.energy.terms import WHOLE_WINDOW
from infodyn_interp.errors import RequestError
from infodyn_interp.hooks import Layer, capture
from infodyn_interp.identify.swaps import BLOCK
from infodyn_interp.models import Model, unbridged
from infodyn_interp.sweeping import Settings, torch_threads

MIB = 2**20
SAMPLE_SECONDS = 0.002  # between two looks at resident memory


def measure_cost(
    model: Model,
    *,
    batch: int = 4,
    window: int = 256,
    state_rank: int = 8,
    repeats: int = 5,
    threads: int = 2,
    query_stride: int = 1,
    seed: int = 0,
) -> dict[str, float]:
    """Time and memory of a fit beside a plain forward pass of the same windows.

    Every row is run once to warm up, then `repeats` times in turn; medians of seconds, ratios to the plain forward
    pass of the bridge. Logits are computed for the last position alone, in fit and baseline alike; rows that end in
    `_full_logits` compute all of them. Peaks are resident memory over the process before the row, in one more
    repeat.

    `fit_with_finer_grid` is the fit on windows that also read the finer grid of tracks, `ladder` the ladder's own pass,
    `carry` the carry pass and `carry_with_ladder` the same on windows that the ladder reads; a null reads each token as
    a fit with reference does. `swaps` crosses one block of 20 windows, forward pass included: `swaps_over_forward` is
    what that adds, over a forward pass of the same windows. Of windows longer than `WHOLE_WINDOW` neither `swaps` nor
    `run_with_cache` is measured: both would hold every score of many windows or layers at once.

    Args:
        model: from `open_model`.
        batch, window: windows in a forward pass, tokens in a window.
        state_rank: of the fit.
        repeats: timed repeats of each row.
        threads: of torch, for the time of the measurement.
        query_stride: of the passes: every so many queries are used.
        seed: of the random tokens.

    Returns:
        Rows by name: `*_seconds`, `*_over_bridge_forward`, `*_peak_mib`, and the setting.
    """
    if model.context is not None and window > model.context:
        raise RequestError(f"window: {window} tokens asked, the model's context holds {model.context}")
    generator = torch.Generator().manual_seed(seed)
    vocabulary = model.bridge.cfg.d_vocab
    tokens = torch.randint(0, vocabulary, (batch, window), generator=generator)
    with torch_threads(threads), tempfile.TemporaryDirectory(prefix="cost-") as scratch:
        rows, ladder = _rows(model, tokens, state_rank, query_stride, Path(scratch))
        medians = time_rows(rows, repeats)
        peaks = {name: _peak(run, model.device) for name, run in rows.items()}
    out = {f"{name}_over_bridge_forward": medians[name] / medians["bridge_forward"] for name in rows}
    out["fit_over_hf_forward"] = medians["fit"] / medians["hf_forward"]
    if "swaps" in medians:
        forward = medians["bridge_forward"] * BLOCK / batch
        out["swaps_over_forward"] = (medians["swaps"] - forward) / forward
    out["fit_full_logits_over_bridge_forward_full_logits"] = (
        medians["fit_full_logits"] / medians["bridge_forward_full_logits"]
    )
    out |= {f"{name}_seconds": value for name, value in medians.items()}
    out |= {f"{name}_peak_mib": value for name, value in peaks.items()}
    out["ladder_disk_mib"] = sum(one.gram.nbytes + one.cross.nbytes for one in ladder.values()) / MIB
    out["fit_peak_over_forward_mib"] = peaks["fit_with_reference"] - peaks["bridge_forward"]
    out |= {
        "batch": batch,
        "window": window,
        "state_rank": state_rank,
        "repeats": repeats,
        "threads": threads,
        "query_stride": query_stride,
    }
    return out


def _rows(
    model: Model, tokens: Tensor, state_rank: int, query_stride: int, scratch: Path
) -> tuple[dict[str, Callable[[], object]], dict[int, LadderMoments]]:
    """What is timed, by name, and the ladder's products, which a run keeps on disk."""
    every = tuple(range(model.layers))
    settings = Settings(every, state_rank=state_rank, limits=every, query_stride=query_stride)
    bench = Bench(model, tokens, settings, scratch)
    tokens = bench.windows.tokens
    plain, full = bench.fit("zero"), bench.fit()
    carry, with_ladder = bench.carry(), bench.carry(ladder=True)
    bench.read_block(carry)

    def ignore(layer: Layer) -> None:
        pass

    def own_forward() -> object:
        with torch.inference_mode(), unbridged(model.bridge) as module:
            return module(input_ids=tokens, use_cache=False, logits_to_keep=1)

    def cached() -> object:
        with torch.inference_mode():
            return model.bridge.run_with_cache(tokens)

    rows = {
        "bridge_forward": lambda: bench.forward(1),
        "hf_forward": own_forward,
        "empty_hooks": lambda: capture(model, tokens, ignore, checked=bench.checked),
        "fit": lambda: bench.read(plain),
        "fit_with_reference": lambda: bench.read(full),
        "fit_with_finer_grid": lambda: bench.read(bench.finer),
        "ladder": lambda: bench.read(bench.climb),
        "carry": lambda: bench.read(carry),
        "carry_with_ladder": lambda: bench.read(with_ladder),
        "bridge_forward_full_logits": lambda: bench.forward(0),
        "fit_full_logits": lambda: bench.read(plain, keep=0),
    }
    if tokens.shape[1] <= WHOLE_WINDOW:
        look = bench.look(carry, "zero", swapping=True, filtering=False)
        rows |= {"swaps": lambda: bench.read(look, bench.block), "run_with_cache": cached}
    return rows, bench.climb.ladder


def _peak(run: Callable[[], object], device: torch.device) -> float:
    """Highest resident memory while it runs, over what was resident before, in MiB; on a GPU, with what is there."""
    gc.collect()
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(device)
    held = torch.cuda.memory_allocated(device) if on_gpu else 0
    process = psutil.Process()
    before = process.memory_info().rss
    highest, done = before, threading.Event()

    def watch() -> None:
        nonlocal highest
        while not done.wait(SAMPLE_SECONDS):
            highest = max(highest, process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        run()
    finally:
        done.set()
        watcher.join()
    there = torch.cuda.max_memory_allocated(device) - held if on_gpu else 0
    return (max(highest, process.memory_info().rss) - before + there) / MIB
