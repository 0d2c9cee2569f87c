"""A run while it goes on: who holds its folder, what it is of, and how far it is."""

import fcntl
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from infodyn_interp import results
from infodyn_interp.errors import RequestError
from infodyn_interp.sweeping.parts import STUDY, Part, Shard

SHARDS, RUN, PROGRESS, LOCK = "shards", "run.json", "progress.json", "lock"
EVERY = 1.0  # seconds between two states of progress.json
Progress = Callable[[str, int, int], None]


@contextmanager
def held(out: Path, run: Mapping[str, object], shared: bool = False) -> Iterator[Path]:
    """The folder of a run's shards, held while the block lasts; a process that dies lets go of it.

    Args:
        out: of the run.
        run: what decides its result.
        shared: held by the parts of one stage at once, and by no whole run.

    Raises:
        RequestError: it cannot be written, another process holds it, or it is of another run: the key is named.
    """
    folder = out / SHARDS
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / LOCK).open("a+")
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
            for left in [*folder.glob("survey-*"), *folder.glob("*/.*"), *folder.glob(".*")]:
                shutil.rmtree(left) if left.is_dir() else left.unlink()  # of a process that was killed
        told = folder / RUN
        if told.exists():
            results.require_same(json.loads(told.read_text(encoding="utf-8")), run, out)
        else:
            with results.whole_file(told) as beside:
                beside.write_text(json.dumps(run), encoding="utf-8")
        yield folder


class Watch:
    """Tells how far the stages are, to whoever asked and in `progress.json` beside the shards.

    Args:
        folder: of the shards.
        progress: called with stage, tokens done, tokens in all.
    """

    def __init__(self, folder: Path, progress: Progress | None) -> None:
        self._file, self._progress = folder / PROGRESS, progress
        self._written = 0.0

    def stage(self, parts: Sequence[Part], name: str, missing: Sequence[Shard]) -> None:
        """Start a stage of some parts, of which some shards are there already."""
        every = [shard for part in parts for shard in part.shards(name)]
        self._name, self._total = name, sum(shard.tokens for shard in every)
        self._count, self._left = len(every), {(shard.part, shard.index): shard.tokens for shard in missing}
        self._done = self._before = self._total - sum(self._left.values())
        self._label = name if parts[0].name == STUDY else f"{parts[0].name}: {name}"
        self._begun = time.monotonic()

    def done(self, shard: Shard, tokens: int) -> None:
        """So many more tokens of a shard have been read."""
        place = shard.part, shard.index
        self._done += tokens
        self._left[place] -= tokens
        finished = self._left[place] <= 0
        if self._progress is not None and tokens:
            self._progress(self._label, self._done, self._total)
        now = time.monotonic()
        if finished or now - self._written >= EVERY:
            self._written = now
            self._write(now)

    def _write(self, now: float) -> None:
        pace = (self._done - self._before) / max(now - self._begun, 1e-9)
        left = self._total - self._done
        state = {
            "stage": self._label,
            "shards": self._count,
            "shards_done": self._count - sum(tokens > 0 for tokens in self._left.values()),
            "tokens": self._total,
            "tokens_done": self._done,
            "tokens_per_second": round(pace, 1),
            "seconds_left": round(left / pace, 1) if pace > 0 else None,
            "process": os.getpid(),
        }
        beside = self._file.with_suffix(".part")
        beside.write_text(json.dumps(state), encoding="utf-8")
        beside.replace(self._file)
