"""The text in one line of a JSONL file."""

import codecs
import itertools
import json

from infodyn_interp.errors import RequestError


def decode(data: bytes, offset: int, where: str, *, final: bool = True) -> tuple[str, int]:
    """Decode UTF-8 that begins at byte `offset` of its file; return the text and how many bytes it took.

    Raises RequestError, naming `where` and the byte of the file, if it is not UTF-8.
    """
    try:
        return codecs.utf_8_decode(data, "strict", final)
    except UnicodeDecodeError as error:
        byte = f"byte {offset + error.start} of the file is 0x{data[error.start]:02x}"
        raise RequestError(f"{where} is not UTF-8 ({byte}): convert the file to UTF-8") from error


def text_of(line: str, field: str | None, where: str) -> str:
    """Return the text of a JSON object: `field`, or by default `text`, or `prompt` and `completion` joined.

    Raises RequestError, naming `where`, if the line is no JSON object or has no such field that is a string.
    """
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
    names = [field] if field is not None else ["text"] if "text" in record else ["prompt", "completion"]
    if not all(name in record for name in names):
        sought = "'text', nor 'prompt' and 'completion'" if field is None else repr(field)
        there = ", ".join(map(repr, itertools.islice(record, 20))) or "none"
        raise RequestError(f"{where} has no field {sought}; its fields are {there}: name one of them")
    for name in names:
        if not isinstance(record[name], str):
            kind = type(record[name]).__name__
            raise RequestError(f"{where}: field {name!r} is of type {kind}, not a string: name another field")
    return "".join(record[name] for name in names)
