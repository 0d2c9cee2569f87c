"""Shards: what a pass leaves of a fixed set of whole documents, one file each, and their sums.

A finished file is the only state of a run. It is written beside its place and renamed, so a killed run loses the shard
in flight and nothing else; its header says which run, stage and frozen inputs it belongs to, and any other is refused.
"""

import json
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from infodyn_interp.errors import RequestError
from infodyn_interp.results import whole_file

HEADER = "header.json"
Arrays = Iterable[tuple[str, np.ndarray]]
Thing = TypeVar("Thing")


@dataclass(frozen=True)
class Header:
    """What a file of a run is.

    Args:
        run: digest of the run, its part and stage, and of every frozen input: another one's file has another.
        place: part, stage and index, for messages.
        folds: of its documents, in the order of the rows of its `fold/` arrays.
        cells: of its documents, folds within groups, in the order of the rows of its `cell/` arrays.
        tokens, seconds, peak_mib: what it took.
        content: digest of the arrays.
    """

    run: str
    place: str
    folds: tuple[int, ...] = ()
    cells: tuple[int, ...] = ()
    tokens: int = 0
    seconds: float = 0.0
    peak_mib: float = 0.0
    content: str = ""


class DamagedError(RequestError):
    """A finished file is not what was written."""


def damage(path: Path, what: str) -> DamagedError:
    """What to raise of a damaged file."""
    return DamagedError(f"{path}: damaged ({what}); --redo-damaged computes it again")


class File(Mapping[str, np.ndarray]):
    """A finished file: its header, and arrays that are read when asked for.

    Raises:
        DamagedError: its bytes are not what was written.
        RequestError: it is of another run.
    """

    def __init__(self, path: Path, run: str | None = None) -> None:
        self.path = path
        try:
            self._archive = zipfile.ZipFile(path)
            told = json.loads(self._archive.read(HEADER))
            self.header = Header(**told | {name: tuple(told[name]) for name in ("folds", "cells")})
        except Exception as reason:  # there is no end to what a turned bit makes of an archive
            raise damage(path, type(reason).__name__) from None
        if run is not None and self.header.run != run:
            raise RequestError(
                f"{path}: a shard of another run, or of other texts, weights or package version; "
                "name another folder or remove it"
            )

    @cached_property
    def _names(self) -> dict[str, None]:
        return dict.fromkeys(name.removesuffix(".npy") for name in self._archive.namelist() if name != HEADER)

    def __contains__(self, name: object) -> bool:
        return name in self._names  # a mapping's own would read the array

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._names:
            raise KeyError(name)
        try:
            with self._archive.open(f"{name}.npy") as stream:
                return np.lib.format.read_array(stream, allow_pickle=False)
        except Exception as reason:
            raise damage(self.path, type(reason).__name__) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def require_sound(self) -> None:
        """Read all of it; raises `DamagedError` where a byte is not what was written."""
        account = blake2b(digest_size=8)
        for name in self:
            _add(account, name, self[name])
        if account.hexdigest() != self.header.content:
            raise damage(self.path, "other content")


def is_sound(
    path: Path, run: str, *, redo: bool = False, beside: Callable[[File], None] | None = None
) -> bool:
    """Whether a finished file of this run is there, every byte of it as it was written.

    Args:
        path, run: as of `File`.
        redo: remove it where it is damaged, so that it is made again.
        beside: raises `DamagedError` where what belongs to the file is not as it was.

    Raises:
        DamagedError: it is damaged and not to be made again.
        RequestError: it is of another run.
    """
    if not path.exists():
        return False
    try:
        file = File(path, run)
        file.require_sound()
        if beside is not None:
            beside(file)
    except DamagedError:
        if not redo:
            raise
        path.unlink()
        return False
    return True


def write_file(path: Path, arrays: Arrays, header: Callable[[], Header]) -> None:
    """Write arrays as they come, then the header with their digest; whole or not at all.

    Args:
        header: made once all arrays are there, since making them is what takes time.

    Raises:
        RunError: the disk refuses.
    """
    account = blake2b(digest_size=8)
    with whole_file(path) as beside, zipfile.ZipFile(beside, "w") as archive:
        for name, array in arrays:
            whole = np.asarray(array, order="C")
            _add(account, name, whole)
            with archive.open(f"{name}.npy", "w", force_zip64=True) as stream:
                np.lib.format.write_array(stream, whole, allow_pickle=False)
        made = replace(header(), content=account.hexdigest())
        archive.writestr(HEADER, json.dumps(asdict(made)))


def _add(account: Any, name: str, array: np.ndarray) -> None:
    account.update(f"{name} {array.dtype.str} {array.shape}".encode())
    account.update(np.asarray(array, order="C").reshape(-1).view(np.uint8).data)


def spread(prefix: str, thing: Any, rows: Sequence[int] | None = None) -> Iterator[tuple[str, np.ndarray]]:
    """The arrays of a dataclass, by name; `rows` of their first dimension alone."""
    for field in fields(thing):
        name, value = f"{prefix}/{field.name}", getattr(thing, field.name)
        if isinstance(value, torch.Tensor):
            value = value.cpu().numpy()
        if isinstance(value, np.ndarray):
            yield name, value if rows is None else value[list(rows)]


def collect(arrays: Mapping[str, np.ndarray], prefix: str, like: Thing) -> Thing:
    """A dataclass with the arrays that `spread` gave, the rest as in `like`."""
    found: dict[str, Any] = {}
    for field in fields(like):  # type: ignore[arg-type]
        name = f"{prefix}/{field.name}"
        if name in arrays:
            value = arrays[name]
            of_torch = isinstance(getattr(like, field.name), torch.Tensor)
            found[field.name] = torch.from_numpy(value) if of_torch else value
    return replace(like, **found)  # type: ignore[type-var]


def merged(files: Sequence[File], name: str, rows: int) -> np.ndarray:
    """One array of all shards, added or put end to end in their order.

    `fold/` and `cell/` arrays are added by the folds or cells of each shard, `rows` of them in all, `sum/` arrays as
    they are, `list/` arrays follow each other; a shard may lack one.
    """
    kind = name.split("/", 1)[0]
    having = [file for file in files if name in file]
    if kind == "list":
        return np.concatenate([file[name] for file in having])
    first, by_row = having[0][name], kind in ("fold", "cell")
    total = np.zeros((rows, *first.shape[1:]) if by_row else first.shape, first.dtype)
    for place, file in enumerate(having):
        added = first if place == 0 else file[name]
        if by_row:
            total[list(file.header.folds if kind == "fold" else file.header.cells)] += added
        else:
            total += added
    return total


def names_of(files: Sequence[File]) -> tuple[str, ...]:
    """Every name in any shard, each once, in order."""
    return tuple(dict.fromkeys(name for file in files for name in file))
