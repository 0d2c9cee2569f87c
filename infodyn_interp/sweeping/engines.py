"""Who computes the shards: this process, several of this machine, or a Ray cluster; the bits are the same.

A worker opens the model and reads the texts itself, takes shards as they come and writes their files where every worker
sees them; files are all that passes between workers and the process that waits for them.
"""

import multiprocessing
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from infodyn_interp.errors import RequestError, RunError, one_line
from infodyn_interp.models import Model, open_model
from infodyn_interp.sweeping.parts import Part, Shard, parts_of
from infodyn_interp.sweeping.settings import Settings, torch_threads
from infodyn_interp.texts import Texts

ENGINES = ("local", "ray")
LOST = 3  # times that a shard may lose its worker before the run stops

Done = Callable[[Shard, int], None]
Engine = Callable[[Mapping[str, Part], Sequence[Shard], Done], None]


@dataclass(frozen=True)
class Order:
    """What a worker needs to know to compute any shard of a run.

    Args:
        origin: arguments of `open_model`.
        texts, settings: of the sweep; threads are set.
        folder: of the shards, seen by every worker.
        run: digest of the run.
    """

    origin: Mapping[str, Any]
    texts: Texts
    settings: Settings
    folder: Path
    run: str


def choose_engine(
    name: str,
    workers: int,
    address: str | None,
    model: Model,
    texts: Texts,
    settings: Settings,
    folder: Path,
    run: str,
) -> Engine | None:
    """The engine of that name; None for this process alone.

    Args:
        name: of `ENGINES`.
        workers: processes of the engine `local`.
        address: of a running Ray cluster; one of this machine alone by default.

    Raises:
        RequestError: there is no such engine, Ray is not installed, or workers cannot open the model themselves.
    """
    if name not in ENGINES:
        raise RequestError(f"engine: {name!r} is not one of {', '.join(ENGINES)}")
    if workers < 1:
        raise RequestError(f"workers: {workers} asked, at least 1 is needed")
    if name == "local" and workers == 1:
        return None
    if model.origin is None:
        raise RequestError(
            "model: workers open it themselves, by name, folder or file; this one was given as an object"
        )
    order = Order(model.origin, texts, settings, folder, run)
    if name == "local":
        return partial(_compute_in_processes, order, workers)
    try:
        import ray  # noqa: F401
    except ImportError:
        raise RequestError(
            "engine: ray is not installed; pip install 'infodyn-interp[ray]', or leave --engine out"
        ) from None
    return partial(_compute_on_ray, order, address)


def compute_here(parts: Mapping[str, Part], shards: Sequence[Shard], done: Done) -> None:
    """In this process, one after the other; `done` hears of the tokens of a shard as they are read."""
    for shard in shards:
        read = 0

        def report(tokens: int, shard: Shard = shard) -> None:
            nonlocal read
            done(shard, tokens - read)
            read = tokens

        parts[shard.part].compute(shard, report)
        done(shard, shard.tokens - read)


def _compute_in_processes(
    order: Order, workers: int, parts: Mapping[str, Part], shards: Sequence[Shard], done: Done
) -> None:
    left = {shard.documents: shard for shard in shards}
    for _ in range(LOST):
        pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"))
        waiting = {pool.submit(_compute, order, shard): shard for shard in left.values()}
        try:
            for future in as_completed(waiting):
                future.result()
                shard = waiting[future]
                del left[shard.documents]
                done(shard, shard.tokens)
        except BrokenProcessPool:
            continue
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in multiprocessing.active_children():
                process.terminate()
        return
    raise RunError(
        f"{_named(next(iter(left.values())))}: its worker died {LOST} times; is memory enough for {workers}?"
    )


def _compute_on_ray(
    order: Order, address: str | None, parts: Mapping[str, Part], shards: Sequence[Shard], done: Done
) -> None:
    import ray

    mine = not ray.is_initialized()
    if mine:
        ray.init(address=address, log_to_driver=False, include_dashboard=False)
    try:
        task = ray.remote(num_cpus=order.settings.threads or 1, max_retries=LOST)(_compute)
        told = ray.put(order)
        waiting = {task.remote(told, shard): shard for shard in shards}
        while waiting:
            (ready,), _ = ray.wait(list(waiting))
            shard = waiting.pop(ready)
            try:
                ray.get(ready)
            except ray.exceptions.RayTaskError as reason:
                raise reason.cause from None
            except ray.exceptions.RayError as reason:
                raise RunError(f"{_named(shard)}: its worker was lost ({one_line(reason)})") from None
            done(shard, shard.tokens)
    finally:
        if mine:
            ray.shutdown()


_opened: dict[tuple[str, Path], dict[str, Part]] = {}  # of this worker: a model is opened once


def _compute(order: Order, shard: Shard) -> None:
    """What a worker does; whatever goes wrong names the documents."""
    place = order.run, order.folder
    try:
        with torch_threads(order.settings.threads):
            if place not in _opened:
                _opened.clear()
                model = open_model(**order.origin)
                _opened[place] = parts_of(model, order.texts, order.settings, order.folder, order.run)
            _opened[place][shard.part].compute(shard, lambda tokens: None)
    except (RequestError, RunError):
        raise
    except Exception as reason:
        raise RunError(f"{_named(shard)}: {type(reason).__name__}: {one_line(reason)}") from None


def _named(shard: Shard) -> str:
    first, last = shard.documents[0], shard.documents[-1]
    return f"stage {shard.stage} of {shard.part}, {shard.role} documents {first} to {last}"
