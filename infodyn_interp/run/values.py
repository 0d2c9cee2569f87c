"""What a key may hold where it is more than a number or a word: layers, heads, nulls, precisions, paths."""

import re
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import BeforeValidator

from infodyn_interp.errors import RequestError, brief
from infodyn_interp.identify.nulls import NULLS, choose_nulls

Dtype = Literal["float32", "float64", "bfloat16", "float16"]


def list_layers(text: str, count: int, key: str = "layers") -> list[int]:
    """The layers that `0,10,20`, `start:stop:step`, `all` or `none` names in a model of `count` layers.

    Of layers that the model does not have the first is listed too, for the opened model to refuse.

    Raises:
        RequestError: it cannot be read, or names no layer.
    """
    if text in ("all", "none"):
        return list(range(count)) if text == "all" else []
    layers: set[int] = set()
    for span in _spans(text, key):
        start, step = span.start or 0, span.step or 1
        layers.update(
            range(start, count if span.stop is None else min(span.stop, max(count, start) + step), step)
        )
    if not layers:
        raise RequestError(f"{key}: {brief(text)} names none of the model's {count}")
    return sorted(layers)


def bounded(text: str, key: str) -> bool:
    """Whether the layers named are the same for every model that is deep enough."""
    return text not in ("all", "none") and all(span.stop is not None for span in _spans(text, key))


def _spans(text: object, key: str) -> list[slice]:
    wrong = RequestError(f"{key}: {brief(text)} is not a list such as 0,10,20 or a range such as 0:30:5")
    if not isinstance(text, str):
        raise wrong
    spans = []
    for part in text.split(","):
        words = [word.strip() for word in part.split(":")]
        if len(words) > 3 or not any(words) or not all(re.fullmatch(r"\d{0,9}", word) for word in words):
            raise wrong
        numbers = [int(word) if word else None for word in words]
        if len(numbers) == 1 and numbers[0] is not None:
            numbers.append(numbers[0] + 1)
        if numbers[2:] == [0]:
            raise wrong
        spans.append(slice(*numbers))
    return spans


def _layer_text(key: str, words: tuple[str, ...], value: object) -> object:
    """Layers as text, whether they come as 3, as [0, 10, 20] or as text that can be read."""
    numbers = value if isinstance(value, list | tuple) else [value]
    if all(type(number) is int for number in numbers):
        value = ",".join(str(number) for number in numbers) or "none"
    if value not in words:
        _spans(value, key)
    return value


def list_names(value: object) -> object:
    """Names as a tuple, whether they come as a list or as `one,other`; `none` is an empty one."""
    if isinstance(value, str):
        return () if value == "none" else tuple(name.strip() for name in value.split(","))
    return tuple(value) if isinstance(value, list) else value


def _null_names(value: object) -> object:
    names = NULLS if value == "all" else list_names(value)
    return choose_nulls(names) if isinstance(names, tuple) else names


def _head_names(value: object) -> object:
    names = list_names(value)
    if not isinstance(names, tuple):
        return names
    for name in names:
        if not re.fullmatch(r"\d{1,9}\.\d{1,9}", str(name)):
            raise RequestError(f"ablate: {brief(name)} is not layer.head; write them as 10.3,12.0")
    pairs = sorted({tuple(int(number) for number in name.split(".")) for name in names})
    return tuple(f"{layer}.{head}" for layer, head in pairs)


def choose_precisions(names: Iterable[str]) -> tuple[str, ...]:
    """These dtypes, each once.

    Raises:
        RequestError: models are not opened in one of them.
    """
    chosen = tuple(dict.fromkeys(names))
    for name in chosen:
        if name not in get_args(Dtype):
            raise RequestError(f"precisions: {brief(name)} is not one of {', '.join(get_args(Dtype))}")
    return chosen


def _precision_names(value: object) -> object:
    names = list_names(value)
    return choose_precisions(names) if isinstance(names, tuple) else names


def _memory(value: object) -> object:
    if isinstance(value, str):
        read_bytes(value)
    return value


def read_bytes(text: str) -> int:
    """How many bytes `8GiB` or `500 MB` is.

    Raises:
        RequestError: it is no size.
    """
    found = re.fullmatch(r"(\d{1,9}(?:\.\d{1,3})?) ?([KMGT])(i?)B", text.strip(), re.IGNORECASE)
    if found is None:
        raise RequestError(f"memory: {brief(text)} is not a size such as 8GiB or 500MB")
    number, unit, binary = found.groups()
    return int(float(number) * (1024 if binary else 1000) ** ("KMGT".index(unit.upper()) + 1))


def _path(value: object) -> object:
    return Path(value) if isinstance(value, str) and value and "\0" not in value else value


Layers = Annotated[str, BeforeValidator(partial(_layer_text, "layers", ("all",)))]
Limits = Annotated[str, BeforeValidator(partial(_layer_text, "limits", ("all", "none")))]
Nulls = Annotated[tuple[str, ...], BeforeValidator(_null_names)]
Heads = Annotated[tuple[str, ...], BeforeValidator(_head_names)]
Precisions = Annotated[tuple[str, ...], BeforeValidator(_precision_names)]
Memory = Annotated[str, BeforeValidator(_memory)]
Place = Annotated[Path, BeforeValidator(_path)]
