"""What of a request can be judged before anything is loaded."""

import os
from pathlib import Path

from infodyn_interp.errors import RequestError


def read_numbers(name: str, text: str) -> list[int]:
    """Check a list of whole numbers such as 16,24."""
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() for word in words):
        raise RequestError(f"{name}: {text!r} is not a list of whole numbers such as 16,24")
    return [int(word) for word in words]


def read_part(text: str) -> tuple[int, int]:
    """Check which part of how many is asked for, as 3/40."""
    place, slash, count = text.partition("/")
    if not (slash and place.isdecimal() and count.isdecimal() and 1 <= int(place) <= int(count)):
        raise RequestError(f"part: {text!r} is not a part of so many, such as 3/40")
    return int(place), int(count)


def require_writable(folder: Path) -> None:
    nearest = folder.absolute()
    while not nearest.exists() and nearest != nearest.parent:
        nearest = nearest.parent
    if not nearest.is_dir():
        raise RequestError(f"out: {nearest} is a file, so {folder} cannot be a folder; name another")
    effective = os.access in os.supports_effective_ids
    if not os.access(nearest, os.W_OK | os.X_OK, effective_ids=effective):
        raise RequestError(f"out: no permission to write in {nearest}; name another folder")
