"""Who computes the shards: this process, several of this machine, or a Ray cluster; the bits are the same.

A worker opens the model once, takes shards as they come and writes their files where every worker sees them; files are
all that passes between workers and the process that waits for them.
"""

import logging
import multiprocessing
import os
import signal
import socket
import sys
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from infodyn_interp.errors import RequestError, RunError, one_line
from infodyn_interp.models import Model, open_model
from infodyn_interp.sweeping.parts import parts_of
from infodyn_interp.sweeping.plans import Job, Shard
from infodyn_interp.sweeping.reading import Reader, readers_of
from infodyn_interp.sweeping.settings import torch_threads
from infodyn_interp.texts import Texts

ENGINES = ("local", "ray")
LOST = 3  # times that a shard may lose its worker before the run stops
ANSWER_SECONDS = 3.0  # that a cluster has for its first word; Ray itself would go on asking for minutes
SETTINGS = b"\x04"  # the fourth byte of gRPC's first frame, which clusters speak
GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + SETTINGS + bytes(5)

Done = Callable[[Shard, int], None]
Compute = Callable[[Sequence[Shard], Done], None]


@dataclass(frozen=True)
class Engine:
    """Who computes.

    Args:
        name: of `ENGINES`.
        workers: processes of the engine `local`.
        address: of a running Ray cluster; one of this machine alone by default.
    """

    name: str = "local"
    workers: int = 1
    address: str | None = None

    @property
    def here(self) -> bool:
        """It is this process alone."""
        return self.name == "local" and self.workers == 1

    def refuse(self, model: Model) -> None:
        """Refuse what can be refused before anything is written.

        Raises:
            RequestError: there is no such engine, Ray is not installed, or workers cannot open the model themselves.
        """
        if self.name not in ENGINES:
            raise RequestError(f"engine: {self.name!r} is not one of {', '.join(ENGINES)}")
        if self.workers < 1:
            raise RequestError(f"workers: {self.workers} asked, at least 1 is needed")
        if not self.here and model.origin is None:
            raise RequestError(
                "model: workers open it themselves, by name, folder or file; this one was given as an object"
            )
        if self.name == "ray":
            try:
                import ray  # noqa: F401
            except ImportError:
                raise RequestError(
                    "engine: ray is not installed; pip install 'infodyn-interp[ray]', or leave --engine out"
                ) from None

    def require_cluster(self) -> None:
        """Refuse an address where no Ray cluster answers, before anything is written.

        Raises:
            RequestError: nobody listens there, or somebody else.
        """
        if self.name != "ray" or self.address is None:
            return
        import ray
        from ray._private.services import canonicalize_bootstrap_address_or_die as locate

        if ray.is_initialized():
            return
        try:
            host, _, port = locate(self.address).rpartition(":")
            with socket.create_connection((host.strip("[]"), int(port)), ANSWER_SECONDS) as asked:
                asked.sendall(GREETING)
                answer = asked.recv(len(GREETING))
            if answer[3:4] != SETTINGS:
                raise ConnectionError("something else answers there")
        except (OSError, OverflowError, ValueError) as reason:
            raise RequestError(f"address: no Ray cluster at {self.address} ({one_line(reason)})") from None

    @contextmanager
    def at_work(
        self, job: Job, folder: Path, model: Model, texts: Texts, readers: Mapping[str, Reader]
    ) -> Iterator[Compute]:
        """What computes shards while the block lasts; it hears of their tokens as they are read.

        Args:
            job, folder: of the run; every worker sees the folder.
            model, texts: of the study.
            readers: of this process.
        """
        if self.here:
            yield lambda shards, done: _compute_here(readers, shards, done)
            return
        order = Order(model.origin or {}, model.digest, texts, job, folder.absolute())
        hired = _processes(order, self.workers) if self.name == "local" else _cluster(order, self.address)
        with hired as compute:
            yield compute


@dataclass(frozen=True)
class Order:
    """What a worker needs to know to compute any shard of a run.

    Args:
        origin: arguments of `open_model`.
        weights: digest of the model.
        texts, job, folder: of the run.
    """

    origin: Mapping[str, Any]
    weights: str
    texts: Texts
    job: Job
    folder: Path


def _compute_here(readers: Mapping[str, Reader], shards: Sequence[Shard], done: Done) -> None:
    for shard in shards:
        read = 0

        def report(tokens: int, shard: Shard = shard) -> None:
            nonlocal read
            done(shard, tokens - read)
            read = tokens

        readers[shard.part].compute(shard, report)
        done(shard, shard.tokens - read)


@contextmanager
def _processes(order: Order, workers: int) -> Iterator[Compute]:
    """Processes of this machine, hired as they are needed and let go with the block; one that dies is replaced."""
    context = multiprocessing.get_context("spawn")
    crew: dict[Any, Any] = {}
    idle: list[Any] = []

    def hire() -> Any:
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, order), daemon=True)
        process.start()
        theirs.close()
        crew[ours] = process
        return ours

    def compute(shards: Sequence[Shard], done: Done) -> None:
        left, taken, lost = deque(shards), dict[Any, Shard](), Counter[Shard]()
        while left or taken:
            while left and len(taken) < workers:
                worker = idle.pop() if idle else hire()
                taken[worker] = left.popleft()
                with suppress(OSError):  # of one that died since, which is seen below
                    worker.send(taken[worker])
            for worker in list[Any](wait(taken)):
                shard = taken.pop(worker)
                try:
                    failure = worker.recv()
                except (EOFError, OSError):
                    crew.pop(worker).join()
                    lost[shard] += 1
                    if lost[shard] == LOST:
                        raise RunError(
                            f"{shard}: its worker died {LOST} times; is memory enough for {workers} workers?"
                        ) from None
                    left.append(shard)
                    continue
                if failure is not None:
                    raise failure
                idle.append(worker)
                done(shard, shard.tokens)

    try:
        yield compute
    finally:
        for process in crew.values():
            process.terminate()
        for process in crew.values():
            process.join()


def _serve(orders: Connection, order: Order) -> None:
    """The life of a process: shards come in, and what went wrong, or None, goes back; it dies with its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is the parent's to say, and it says it so:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    parent = multiprocessing.parent_process()

    def follow() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
    while True:
        shard = orders.recv()
        try:
            _compute(order, shard)
            orders.send(None)
        except (RequestError, RunError) as reason:
            orders.send(reason)


@contextmanager
def _cluster(order: Order, address: str | None) -> Iterator[Compute]:
    """Tasks of a Ray cluster, the one that this process is in, at an address, or of this machine for the block."""
    import ray

    mine = not ray.is_initialized()
    if mine:
        handler = signal.getsignal(signal.SIGTERM)
        try:
            ray.init(
                address=address or "local",  # without one Ray joins whatever it finds on this machine
                log_to_driver=False,
                logging_level=logging.ERROR,
                include_dashboard=None if address else False,
            )
        except (ConnectionError, RuntimeError, ValueError) as reason:
            raise RequestError(f"address: no Ray cluster at {address} ({one_line(reason)})") from None
        finally:
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, handler)  # Ray's own would end the process where it stands
    task: Any = ray.remote(
        num_cpus=order.job.settings.threads or 1,
        num_gpus=int(str(order.origin["device"]).startswith("cuda")),
        max_retries=LOST - 1,
    )(_compute)
    told = ray.put(order)

    def compute(shards: Sequence[Shard], done: Done) -> None:
        taken = {task.remote(told, shard): shard for shard in shards}
        while taken:
            (ready,), _ = ray.wait(list(taken))
            shard = taken.pop(ready)
            try:
                ray.get(ready)
            except ray.exceptions.RayTaskError as reason:
                raise reason.cause from None
            except ray.exceptions.RayError as reason:
                raise RunError(f"{shard}: its worker was lost {LOST} times ({one_line(reason)})") from None
            done(shard, shard.tokens)

    try:
        yield compute
    finally:
        if mine:
            ray.shutdown()


_readers: dict[tuple[str, Path], dict[str, Reader]] = {}  # of a worker: a model is opened once


def _compute(order: Order, shard: Shard) -> None:
    """What a worker does; whatever goes wrong names the documents."""
    place = order.job.digest, order.folder
    try:
        with torch_threads(order.job.settings.threads):
            if place not in _readers:
                _readers.clear()
                model = open_model(**order.origin)
                if model.digest != order.weights:
                    raise RequestError(f"model: {model.name} has other weights here than where the run began")
                _readers[place] = readers_of(parts_of(order.job, order.folder), model, order.texts)
            for name, reader in _readers[place].items():
                if name != shard.part:
                    reader.rest()
            _readers[place][shard.part].compute(shard, lambda tokens: None)
    except (RequestError, RunError):
        raise
    except Exception as reason:
        raise RunError(f"{shard}: {type(reason).__name__}: {one_line(reason)}") from None
