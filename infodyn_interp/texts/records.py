"""A document as a record of fields: its text and the group it belongs to."""

import codecs
import itertools
import json
from collections.abc import Collection
from typing import Any

from infodyn_interp.errors import RequestError

LABELS = "a string, number or bool"  # what names a group
_LETTERS = 80  # of a label at most


def decode(data: bytes, offset: int, where: str, *, final: bool = True) -> tuple[str, int]:
    """Decode UTF-8 that begins at byte `offset` of its file; return the text and how many bytes it took.

    Raises RequestError, naming `where` and the byte of the file, if it is not UTF-8.
    """
    try:
        return codecs.utf_8_decode(data, "strict", final)
    except UnicodeDecodeError as error:
        byte = f"byte {offset + error.start} of the file is 0x{data[error.start]:02x}"
        raise RequestError(f"{where} is not UTF-8 ({byte}): convert the file to UTF-8") from error


def read_record(line: str, where: str) -> dict[str, Any]:
    """Return the fields of a line of JSONL; raises RequestError, naming `where`, if it is no JSON object."""
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        reason = f"{error.msg} at column {error.colno}"
        raise RequestError(f"{where} is not JSON ({reason}): each line must be one JSON object") from error
    except (ValueError, RecursionError) as error:
        reason = "a number too long" if isinstance(error, ValueError) else "nested too deep"
        raise RequestError(f"{where} cannot be read as JSON ({reason}): repair or drop the line") from error
    if not isinstance(record, dict):
        raise RequestError(f"{where} is a JSON {type(record).__name__}: each line must be one JSON object")
    return record


def text_of(record: dict[str, Any], field: str | None, where: str) -> str:
    """Return the text of a record: `field`, or by default `text`, or `prompt` and `completion` joined.

    Raises RequestError, naming `where`, if the record has no such field that is a string.
    """
    names = text_fields(record, field, where)
    for name in names:
        if not isinstance(record[name], str):
            raise wrong_kind(where, name, type(record[name]).__name__, "a string")
    return "".join(record[name] for name in names)


def label_of(record: dict[str, Any], by: str, where: str) -> str:
    """Return what the field `by` of a record holds, as a short text; numbers and bools as JSON writes them.

    Raises RequestError, naming `where`, if the record has no such field that may name a group.
    """
    require_fields([by], record, where)
    value = record[by]
    if not isinstance(value, (str, int, float)):
        raise wrong_kind(where, by, type(value).__name__, LABELS)
    label = value if isinstance(value, str) else json.dumps(value)
    if len(label) > _LETTERS or not label.isprintable():
        raise RequestError(f"{where}: field {by!r} is no label of one line and at most {_LETTERS} letters")
    return label


def text_fields(there: Collection[str], field: str | None, where: str) -> list[str]:
    """Choose among the fields that are there those that make up the text; raises RequestError if none do."""
    if field is None and "text" not in there:
        return require_fields(["prompt", "completion"], there, where, "'text', nor 'prompt' and 'completion'")
    return require_fields(["text" if field is None else field], there, where)


def require_fields(
    names: list[str], there: Collection[str], where: str, sought: str | None = None
) -> list[str]:
    """Return `names`; raises RequestError, with the fields that are there, if one is not among them."""
    if not all(name in there for name in names):
        known = ", ".join(map(repr, itertools.islice(there, 20))) or "none"
        missing = repr(names[0]) if sought is None else sought
        raise RequestError(f"{where} has no field {missing}; its fields are {known}: name one of them")
    return names


def wrong_kind(where: str, name: str, kind: str, wanted: str) -> RequestError:
    """Say that a field holds what cannot be used."""
    return RequestError(f"{where}: field {name!r} is of type {kind}, not {wanted}: name another field")
