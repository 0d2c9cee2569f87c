"""What of a request can be judged before anything is loaded."""

import os
from collections.abc import Callable
from pathlib import Path

from infodyn_interp.errors import RequestError
from infodyn_interp.identify.nulls import choose_nulls


def read_layers(text: str | None) -> Callable[[int], list[int] | None]:
    """Check `0,10,20` or `start:stop:step`; what is returned lists the layers of a model of known depth."""
    if text is None:
        return lambda count: None
    wrong = RequestError(f"layers: {text!r} is not a list such as 0,10,20 or a range such as 0:30:5")
    spans: list[slice] = []
    for part in text.split(","):
        numbers = [word.strip() for word in part.split(":")]
        if len(numbers) > 3 or not all(word.isdecimal() or not word for word in numbers) or not any(numbers):
            raise wrong
        start, stop, step = (int(word) if word else None for word in [*numbers, "", ""][:3])
        if step == 0 or (len(numbers) == 1 and start is None):
            raise wrong
        spans.append(slice(start, start + 1 if len(numbers) == 1 and start is not None else stop, step))

    def listed(count: int) -> list[int]:
        layers = sorted(
            {
                layer
                for span in spans
                for layer in range(span.start or 0, count if span.stop is None else span.stop, span.step or 1)
            }
        )
        if not layers:
            raise RequestError(f"layers: {text!r} names none of the model's {count}")
        return layers

    return listed


def read_nulls(text: str) -> tuple[str, ...] | None:
    """Check `none`, `all` or a list of nulls; None stands for all."""
    if text in ("all", "none"):
        return None if text == "all" else ()
    return choose_nulls(name.strip() for name in text.split(","))


def read_numbers(name: str, text: str) -> list[int]:
    """Check a list of whole numbers such as 16,24."""
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() for word in words):
        raise RequestError(f"{name}: {text!r} is not a list of whole numbers such as 16,24")
    return [int(word) for word in words]


def require_writable(folder: Path) -> None:
    nearest = folder.absolute()
    while not nearest.exists() and nearest != nearest.parent:
        nearest = nearest.parent
    if not nearest.is_dir():
        raise RequestError(f"out: {nearest} is a file, so {folder} cannot be a folder; name another")
    effective = os.access in os.supports_effective_ids
    if not os.access(nearest, os.W_OK | os.X_OK, effective_ids=effective):
        raise RequestError(f"out: no permission to write in {nearest}; name another folder")
