"""A run while it goes on: who holds its folder, what it is of, and how far it is."""

import fcntl
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from infodyn_interp import results
from infodyn_interp.errors import RequestError
from infodyn_interp.sweeping.parts import parts_of
from infodyn_interp.sweeping.plans import FILE, STUDY, Job, Shard, Task

SHARDS, PROGRESS, LOCK = "shards", "progress.json", "lock"
EVERY = 1.0  # seconds between two states of progress.json
Progress = Callable[[str, int, int], None]


@contextmanager
def held(out: Path, job: Task, shared: bool = False, name: str = SHARDS) -> Iterator[Path]:
    """The folder of a run's shards, held while the block lasts; a process that dies lets go of it.

    Args:
        out: of the run.
        job: the run.
        shared: held by the parts of one stage at once, and by no whole run.
        name: of the folder.

    Raises:
        RequestError: it cannot be written, another process holds it, or it is of another run: the key is named.
    """
    folder = out / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / LOCK).open("a")
    except OSError as reason:
        raise RequestError(f"out: cannot write into {out}: {reason.strerror or reason}") from None
    with lock:
        try:
            fcntl.flock(lock, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except OSError:
            raise RequestError(
                f"out: another process is at work in {out}; wait for it, or name another folder"
            ) from None
        if not shared:
            for left in left_over(out, name):
                shutil.rmtree(left) if left.is_dir() else left.unlink()
        if (folder / FILE).exists():
            job.require_same(job.read(folder).run, out)
        else:
            job.write(folder)
        yield folder


def left_over(out: Path, name: str = SHARDS) -> Iterator[Path]:
    """What processes that were killed had begun to write."""
    yield from out.glob(f".{results.FILE}.*")
    for pattern in ("survey-*", ".*", "*/.*"):
        yield from (out / name).glob(pattern)


class Watch:
    """Tells how far the stages are, to whoever asked and in `progress.json` beside the shards.

    Args:
        folder: of the shards.
        progress: called with stage, tokens done, tokens in all.
    """

    def __init__(self, folder: Path, progress: Progress | None) -> None:
        self._file, self._progress = folder / PROGRESS, progress

    def stage(self, name: str, every: Sequence[Shard], missing: Sequence[Shard]) -> None:
        """Start some shards of a stage, of which others are there already."""
        self._total = sum(shard.tokens for shard in every)
        self._done = self._before = self._total - sum(shard.tokens for shard in missing)
        first = every[0].part
        self._label = name if first == STUDY else f"{first}: {name}"
        self._begun, self._written = time.monotonic(), 0.0

    def done(self, shard: Shard, tokens: int) -> None:
        """So many more tokens of a shard have been read."""
        self._done += tokens
        if self._progress is not None and tokens:
            self._progress(self._label, self._done, self._total)
        now = time.monotonic()
        if now - self._written >= EVERY:
            self._written = now
            self._write(now)

    def _write(self, now: float) -> None:
        pace = (self._done - self._before) / max(now - self._begun, 1e-9)
        state = {
            "stage": self._label,
            "tokens": self._total,
            "tokens_done": self._done,
            "tokens_per_second": round(pace, 1),
            "seconds_left": round((self._total - self._done) / pace, 1) if pace > 0 else None,
        }
        beside = self._file.with_suffix(".part")
        with suppress(OSError):  # a full disk is for the next shard to report
            beside.write_text(json.dumps(state), encoding="utf-8")
            beside.replace(self._file)


def read_state(out: str | os.PathLike[str]) -> dict[str, Any] | None:
    """How far a run is that has no result yet; None where none was begun.

    Returns:
        `stage`, `tokens`, `tokens_done`, `tokens_per_second`, `seconds_left` as its process told them `seconds_ago`;
        of these none before it told any; and `stages`, each with `part`, `stage`, `shards`, `shards_done`.

    Raises:
        RequestError: the folder is damaged.
    """
    folder = Path(out) / SHARDS
    if not (folder / FILE).exists():
        return None
    state: dict[str, Any] = {}
    with suppress(OSError, ValueError):
        state = json.loads((folder / PROGRESS).read_text(encoding="utf-8"))
        state["seconds_ago"] = round(time.time() - (folder / PROGRESS).stat().st_mtime, 1)
    state["stages"] = []
    for part in parts_of(Job.read(folder), folder).values():
        for stage in dict.fromkeys(shard.stage for shard in part.plan.shards):
            shards = [shard for shard in part.plan.shards if shard.stage == stage]
            frozen = part.frozen(stage).exists()
            done = len(shards) if frozen else sum(part.file(shard).exists() for shard in shards)
            if shards:
                state["stages"].append(
                    {"part": part.name, "stage": stage, "shards": len(shards), "shards_done": done}
                )
    return state
