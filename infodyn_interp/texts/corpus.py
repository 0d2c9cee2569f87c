"""Where documents are: found one by one in a streaming pass, and read again by their place."""

import codecs
import hashlib
import io
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from infodyn_interp.errors import RequestError
from infodyn_interp.texts.formats import has_fields, is_packed, is_table
from infodyn_interp.texts.records import decode, label_of, read_record, text_of
from infodyn_interp.texts.unpacking import BLOCK, Scratch, unpack

# A document: each call starts a reading of its text from the beginning, a part at a time.
Document = Callable[[], Iterator[str]]


class Place(NamedTuple):
    """Where a document lies: the file's index, first byte, bytes and first line; or its index in a list.

    Of a file that was unpacked they count in what came out of it.
    """

    file: int
    start: int
    length: int
    line: int


@dataclass(frozen=True)
class Strings:
    """A list of strings, one document each."""

    strings: Sequence[Any]
    name: str = "the list of texts"
    hint: str = ""

    def places(self) -> Iterator[Place]:
        """Yield the place of every document, in the order of the list."""
        return (Place(0, index, 0, 0) for index in range(len(self.strings)))

    def where(self, place: Place) -> str:
        """Name a document for a message."""
        return f"texts[{place.start}]"

    def label(self, place: Place) -> str:
        """Name the group of a document: there is but one."""
        return ""

    def document(self, place: Place) -> Document:
        """Return the document at a place; raises RequestError if it is no text."""
        where = self.where(place)
        if place.start >= len(self.strings):
            raise RequestError(f"{where} is not there: there are {len(self.strings)} texts")
        text = self.strings[place.start]
        if not isinstance(text, str):
            kind = type(text).__name__
            raise RequestError(f"{where} is of type {kind}, not a string: give a list of strings")
        return _whole(text, where)


@dataclass(frozen=True)
class Files:
    """JSONL, plain text and tables, compressed or not. Paths stay as the user wrote them, from `folder` on.

    `titles` name the files in messages. `scratch` holds what had to be unpacked, a file each.
    """

    paths: tuple[Path, ...]
    titles: tuple[str, ...]
    folder: Path
    name: str
    field: str | None
    split: bool
    by: str | None
    scratch: Scratch | None

    @property
    def hint(self) -> str:
        """What may bring more documents out of the same files."""
        plain = not self.split and not all(map(has_fields, self.paths))
        return " (or split=True, if blank lines separate documents)" if plain else ""

    def places(self) -> Iterator[Place]:
        """Yield the place of every document, in the order of the files, each unpacked where it must be."""
        for index, path in enumerate(self.paths):
            if is_packed(path):
                self._unpack(index)
            try:
                with self._readable(index).open("rb") as stream:
                    start = 3 if stream.read(3) == codecs.BOM_UTF8 else 0
                    stream.seek(start)
                    for span in self._spans(path, stream, start):
                        yield Place(index, *span)
            except OSError as error:
                raise RequestError(f"{self.titles[index]} cannot be read: {error.strerror}") from error

    def where(self, place: Place) -> str:
        """Name a document for a message; the rows of a table count from 0, as lines do from 1."""
        path, title = self.paths[place.file], self.titles[place.file]
        if is_table(path):
            return f"{title} row {place.line - 1}"
        return f"{title} line {place.line}" if self.split or has_fields(path) else title

    def document(self, place: Place) -> Document:
        """Return the document at a place; raises RequestError if it is no text, or OSError."""
        if not has_fields(self.paths[place.file]):
            return lambda: self._plain(place)
        where = self.where(place)
        return _whole(text_of(self._record(place), self.field, where), where)

    def label(self, place: Place) -> str:
        """Name the group of a document: what its field `by` holds; of plain text, the file's folder.

        Raises RequestError if the field is not there or holds no label.
        """
        if self.by is None:
            return ""
        path = self.paths[place.file]
        if not has_fields(path):
            return (self.folder / path).parent.name
        return label_of(self._record(place), self.by, self.where(place))

    def _readable(self, index: int) -> Path:
        path = self.paths[index]
        if self.scratch is not None and is_packed(path):
            return self.scratch.path / str(index)
        return self.folder / path

    def _unpack(self, index: int) -> None:
        source, target = self.folder / self.paths[index], self._readable(index)
        try:
            with target.open("wb") as stream:
                stream.writelines(unpack(source, self.field, self.by, self.titles[index]))
        except OSError as error:
            raise RequestError(
                f"{self.titles[index]} cannot be unpacked into {shown(target.parent)}: {error.strerror}"
            ) from error

    def _spans(self, path: Path, stream: BinaryIO, start: int) -> Iterable[tuple[int, int, int]]:
        if has_fields(path):
            return _lines(stream, start)
        if self.split:
            return _paragraphs(stream, start)
        return [(start, os.fstat(stream.fileno()).st_size - start, 1)]

    def _record(self, place: Place) -> dict[str, Any]:
        where = self.where(place)
        line, _ = decode(b"".join(self._blocks(place)), place.start, where)
        return read_record(line.rstrip("\r\n"), where)

    def _blocks(self, place: Place) -> Iterator[bytes]:
        left = place.length
        with self._readable(place.file).open("rb") as stream:
            stream.seek(place.start)
            while left > 0 and (block := stream.read(min(left, BLOCK))):
                left -= len(block)
                yield block

    def _plain(self, place: Place) -> Iterator[str]:
        newlines = io.IncrementalNewlineDecoder(None, translate=True)
        where = self.where(place)
        rest, at = b"", place.start
        for block in itertools.chain(self._blocks(place), [b""]):
            rest += block
            text, used = decode(rest, at, where, final=not block)
            rest, at = rest[used:], at + used
            yield newlines.decode(text, final=not block)


Corpus = Files | Strings


def hash_text(parts: Iterable[str]) -> bytes:
    """Return the blake2b hash, 16 bytes, of a text that comes in parts."""
    state = hashlib.blake2b(digest_size=16)
    for part in parts:
        state.update(part.encode())
    return state.digest()


def shown(path: Path) -> str:
    """Write a path so that it fits one line of any terminal, whatever a file is called."""
    text = str(path) if len(str(path)) <= 200 else f"{str(path)[:200]}..."
    return text if text.isprintable() else repr(text)


def _whole(text: str, where: str) -> Document:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        at = f"half a surrogate pair at character {error.start}"
        raise RequestError(f"{where} holds {at}, which is no text: repair or drop it") from error
    return lambda: iter((text,))


def _lines(stream: BinaryIO, at: int) -> Iterator[tuple[int, int, int]]:
    for number, line in enumerate(stream, 1):
        if line.strip():
            yield at, len(line), number
        at += len(line)


def _paragraphs(stream: BinaryIO, at: int) -> Iterator[tuple[int, int, int]]:
    start, end, first = at, at, 0
    number, fresh = 1, True
    # A line may be longer than memory should hold: it comes in bounded stretches.
    while stretch := stream.readline(BLOCK):
        whole = stretch.endswith(b"\n")
        if fresh and not stretch.decode(errors="replace").strip():
            if first:
                yield start, end - start, first
            first = 0
        else:
            start, first = (start, first) if first else (at, number)
            end = at + len(stretch.rstrip(b"\r\n"))
        at += len(stretch)
        number, fresh = number + whole, whole
    if first:
        yield start, end - start, first
