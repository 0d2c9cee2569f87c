"""What a key means, what it may hold and what is wrong with what it was given, in words."""

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from infodyn_interp.errors import brief
from infodyn_interp.identify.nulls import NULLS, TWINS

KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text", Path: "a path"}
LIST = "a list of names, or text such as one,other"
BOUNDS = {"gt": "above", "ge": "at least", "le": "at most"}
DEFAULTS = {NULLS: "all", TWINS: ",".join(TWINS), (): "none", 1 / 3: "a third"}


def explain(key: FieldInfo) -> str:
    """What a key means, its range and its default."""
    words = [str(key.description).rstrip("."), *_bounds(key)]
    if get_origin(_kind(key)) is Literal:
        words.append(_allowed(key))
    if not key.is_required() and key.default is not None:
        plain = key.default if isinstance(key.default, str) else brief(key.default)
        words.append(f"{DEFAULTS.get(key.default, plain)} by default")
    return "; ".join(words) + "."


def flag_type(key: FieldInfo) -> Any:
    """The type of a key as one word of a command line: lists are text."""
    kind = _kind(key)
    return str if get_origin(kind) is tuple else kind


def refuse(wrong: ValidationError, keys: Mapping[str, FieldInfo]) -> str:
    """One line; a key that there is not comes first, for it may be the one that is missing."""
    error = min(wrong.errors(), key=lambda error: error["type"] != "extra_forbidden")
    if error["type"] == "value_error":
        return str(error["ctx"]["error"])
    name = str(error["loc"][0])
    if error["type"] == "extra_forbidden":
        nearest = difflib.get_close_matches(name.lower(), keys, 1, 0)[0]
        shown = name if re.fullmatch(r"[\w-]{1,40}", name) else brief(name)
        return f"{shown}: there is no such key; the nearest is {nearest}"
    if error["type"] == "missing":
        return f"{name}: missing; {explain(keys[name])}"
    return f"{name}: {brief(error['input'])} asked, it takes {_allowed(keys[name])}"


def _kind(key: FieldInfo) -> Any:
    """A key's type, without None and without what checks it."""
    parts = get_args(key.annotation)
    kind = parts[0] if NoneType in parts else key.annotation
    return get_args(kind)[0] if get_origin(kind) is Annotated else kind


def _allowed(key: FieldInfo) -> str:
    kind = _kind(key)
    if get_origin(kind) is Literal:
        return f"one of {', '.join(get_args(kind))}"
    return ", ".join([KINDS.get(kind, LIST), *_bounds(key)])


def _bounds(key: FieldInfo) -> list[str]:
    found = [
        f"{words} {getattr(part, name):,}"
        for part in key.metadata
        for name, words in BOUNDS.items()
        if hasattr(part, name)
    ]
    return [" and ".join(found)] if found else []
