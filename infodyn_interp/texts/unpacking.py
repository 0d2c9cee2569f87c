"""What cannot be read again from any place is written out once, as JSON Lines or plain text that can."""

import codecs
import json
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import pyarrow as pa
import pyarrow.parquet as pq

from infodyn_interp.errors import RequestError, one_line
from infodyn_interp.texts.formats import COMPRESSED, is_table
from infodyn_interp.texts.records import LABELS, require_fields, text_fields, wrong_kind

BLOCK = 1 << 20  # bytes read at a time
_ROWS = 256  # of a table that are held as Python objects
_TEXT = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
_LABEL = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean)


@runtime_checkable
class Stream(Protocol):
    """Bytes that can be read once, from the first to the last."""

    def read(self, size: int, /) -> bytes:
        """Return at most `size` bytes, and none at the end."""
        ...


def unpack(path: Path, field: str | None, by: str | None, where: str) -> Iterator[bytes]:
    """Yield a compressed file as it was before, or the rows of a table as JSON Lines of the fields asked for.

    A table is a parquet file, or an Arrow file or stream, such as datasets are saved in.

    Raises RequestError, naming `where`, if the file is damaged or has no such fields.
    """
    try:
        if path.suffix.lower() == ".parquet":
            # A buffer, and none before it: else pyarrow reads a column of a whole row group at once.
            with (
                path.open("rb") as stream,
                pq.ParquetFile(
                    stream, buffer_size=BLOCK, pre_buffer=False, page_checksum_verification=True
                ) as file,
            ):
                names = _columns(file.schema_arrow, field, by, where)
                yield from _lines(file.iter_batches(_ROWS, columns=names), names)
        elif is_table(path):
            # Mapped, a batch takes no memory, however many rows its writer put in it.
            with pa.memory_map(str(path)) as mapped:
                schema, batches = _arrow(mapped)
                yield from _lines(batches, _columns(schema, field, by, where))
        else:
            kind = COMPRESSED[path.suffix.lower()]
            with path.open("rb") as stream, pa.input_stream(stream, compression=kind) as whole:
                yield from iter(lambda: whole.read(BLOCK), b"")
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        number = getattr(error, "errno", None)
        reason = os.strerror(number) if number else f"{one_line(error)[:200]}: fetch or write it again"
        raise RequestError(f"{where} cannot be read: {reason}") from error


def keep_stream(stream: Stream, folder: Path, name: str) -> Path:
    """Copy a stream into `folder` as `stream.jsonl` if its first letter is a brace, else as `stream.txt`.

    An empty stream stands for the one that was copied there before.

    Raises RequestError, naming the stream `name`, if there is neither, or no copy can be made.
    """
    part, lines, plain = (folder / f"stream.{end}" for end in ("part", "jsonl", "txt"))
    first = b""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as copy:
            while block := stream.read(BLOCK):
                if not isinstance(block, bytes):
                    kind = type(block).__name__
                    raise RequestError(f"{name} gives {kind}, not bytes: open it in binary mode")
                first = first or block.lstrip(codecs.BOM_UTF8 + b" \t\r\n")[:1]
                copy.write(block)
        if first:
            path, other = (lines, plain) if first == b"{" else (plain, lines)
            other.unlink(missing_ok=True)
            return part.replace(path)
    except OSError as error:
        raise RequestError(f"{name} cannot be copied into {folder}: {error.strerror or error}") from error
    finally:
        if part.exists():
            part.unlink()
    for path in (lines, plain):
        if path.exists():
            return path
    raise RequestError(f"{name} is empty: give JSONL, or documents separated by blank lines")


class Scratch:
    """A temporary folder, gone with the last holder of this object or at exit.

    A copy of the object that came from another process finds the folder and does not remove it.
    """

    def __init__(self, parent: Path | None):
        try:
            if parent is not None:
                parent.mkdir(parents=True, exist_ok=True)
            self.path = Path(tempfile.mkdtemp(prefix="infodyn-texts-", dir=parent))
        except OSError as error:
            where = "the system's temporary folder" if parent is None else parent
            raise RequestError(f"{where} takes no copy of the texts: {error.strerror}") from error
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)


def _arrow(source: Any) -> tuple[Any, Iterator[Any]]:
    if source.read(6) == b"ARROW1":
        file = pa.ipc.open_file(source)
        return file.schema, map(file.get_batch, range(file.num_record_batches))
    source.seek(0)
    stream = pa.ipc.open_stream(source)
    return stream.schema, iter(stream)


def _columns(schema: Any, field: str | None, by: str | None, where: str) -> list[str]:
    texts = text_fields(schema.names, field, where)
    labels = [] if by is None else require_fields([by], schema.names, where)
    for name in (*texts, *labels):
        if (count := schema.names.count(name)) > 1:
            raise RequestError(f"{where} has {count} columns {name!r}: rename all but one")
    kinds = {name: schema.field(name).type for name in (*texts, *labels)}
    for name, kind in kinds.items():
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        is_text = any(fits(kind) for fits in _TEXT)
        if not is_text and (name in texts or not any(fits(kind) for fits in _LABEL)):
            raise wrong_kind(where, name, str(kind), "a string" if name in texts else LABELS)
    return list(kinds)


def _lines(batches: Iterator[Any], names: list[str]) -> Iterator[bytes]:
    for batch in batches:
        columns = batch.select(names)
        for start in range(0, batch.num_rows, _ROWS):
            rows = columns.slice(start, _ROWS).to_pylist()
            yield "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
