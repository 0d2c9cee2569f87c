"""Parts of one run, computed apart, put together: it takes neither model nor texts."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from infodyn_interp import results
from infodyn_interp.errors import RequestError
from infodyn_interp.sweeping.parts import Part, parts_of
from infodyn_interp.sweeping.plans import Job
from infodyn_interp.sweeping.shards import File
from infodyn_interp.sweeping.watching import SHARDS, held

Place = str | os.PathLike[str]


def merge(
    out: Place, others: Sequence[Place] = (), *, into: Place | None = None
) -> dict[tuple[str, str], int]:
    """Join the shards of folders of one run, and freeze the stages that are whole.

    Args:
        out: a folder of the run.
        others: more of them.
        into: the folder that receives all; `out` by default.

    Returns:
        Shards that are missing, by part and stage, up to the first stage of each part that lacks some.

    Raises:
        RequestError: a folder holds no shards or those of another run (the first key that differs is named); a shard is
            damaged, of another basis, or not the same in two folders.
    """
    given = [Path(one) / SHARDS for one in (out, *others)]
    jobs = [Job.read(folder) for folder in given]
    for folder, job in zip(given, jobs, strict=True):
        jobs[0].require_same(job.run, folder.parent)
    lacking: dict[tuple[str, str], int] = {}
    with held(Path(out if into is None else into), jobs[0]) as folder:
        sources = [parts_of(jobs[0], one) for one in given if one.resolve() != folder.resolve()]
        for name, part in parts_of(jobs[0], folder).items():
            apart = [source[name] for source in sources]
            _take([one.preflight for one in apart], part.preflight, None)
            if not part.preflight.exists():
                continue
            for stage in part.stages:
                _join(part, apart, stage)
                missing = part.missing(stage)
                lacking[name, stage] = len(missing)
                if missing:
                    break
                part.freeze(stage)
    return lacking


def _join(part: Part, apart: Sequence[Part], stage: str) -> None:
    """Bring what other folders have of a stage."""
    digest = part.digest(stage)
    if stage == "survey" and not part.frozen(stage).exists():
        for one in apart:
            if one.frozen(stage).exists():
                shutil.rmtree(part.table, ignore_errors=True)
                shutil.copytree(one.table, part.table)
                break
    _take([one.frozen(stage) for one in apart], part.frozen(stage), digest)
    for shard in part.shards(stage):
        _take([one.file(shard) for one in apart], part.file(shard), digest, part.frozen(stage).exists())


def _take(files: Sequence[Path], place: Path, digest: str | None, frozen: bool = False) -> None:
    """Copy the first of some files that is there, unless one is in place; all must be the same, and of this run."""
    for path in files:
        if not path.exists():
            continue
        found = File(path, digest)
        if frozen:
            continue
        if not place.exists():
            found.require_sound()
            with results.whole_file(place) as beside:
                shutil.copyfile(path, beside)
        elif digest is not None and File(place, digest).header.content != found.header.content:
            raise RequestError(f"{path}: not the same as {place}; compute one of them again")
