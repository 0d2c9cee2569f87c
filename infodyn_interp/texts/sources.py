"""From what the user names to a corpus, or to one line that says what is wrong with it."""

import difflib
import io
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from infodyn_interp.errors import RequestError, one_line
from infodyn_interp.texts.corpus import Corpus, Files, Strings, shown
from infodyn_interp.texts.formats import COMPRESSED, JSON_LINES, PLAIN, TABLES, has_fields, is_packed, is_text
from infodyn_interp.texts.unpacking import Scratch, Stream, keep_stream

LEAST_DOCUMENTS = 5  # four to fit, one for the reference
_SLOW = 1 << 24  # bytes from which counting takes long enough to refuse a hopeless request before it
_CARD, _STATE = "dataset_info.json", "state.json"  # of a saved dataset: what it is, which files hold it
_NOTES = (_CARD, "dataset_dict.json")


def open_corpus(
    source: object,
    field: str | None = None,
    split: bool = False,
    by: str | None = None,
    spool: str | os.PathLike[str] | None = None,
) -> Corpus:
    """Find the files or strings that `source` names; their text is not read yet, but a stream is copied.

    Raises RequestError if nothing that may hold text is there.
    """
    folder = None if spool is None else Path(os.fsdecode(spool)).expanduser().absolute()
    if isinstance(source, Stream):
        corpus = _open_stream(source, "the stream", field, split, by, folder)
    elif not isinstance(source, (str, os.PathLike)):
        return _open_list(source, field, split, by)
    elif os.fsdecode(source) == "-":
        # Nobody types a corpus: at a terminal, what was piped in before is meant.
        silent = sys.stdin is None or sys.stdin.isatty()
        stream = io.BytesIO() if silent else sys.stdin.buffer
        corpus = _open_stream(stream, "standard input", field, split, by, folder)
    else:
        corpus = _open_path(os.fsdecode(source), field, split, by, folder)

    plain = not any(map(has_fields, corpus.paths))
    if split and all(map(has_fields, corpus.paths)):
        raise RequestError(f"split is for plain text, and {corpus.name} has fields: leave split out")
    if field is not None and plain:
        raise RequestError(f"field is for JSONL and tables, and {corpus.name} is plain text: leave field out")
    if by is not None and plain and len({path.parent for path in corpus.paths}) == 1:
        raise RequestError(
            f"by is for JSONL, tables and text files in several folders, and {corpus.name} is plain text "
            "in one: leave by out"
        )
    return corpus


def _open_list(source: object, field: str | None, split: bool, by: str | None) -> Strings:
    if not isinstance(source, Sequence) or isinstance(source, (bytes, bytearray, memoryview)):
        kind = type(source).__name__
        raise RequestError(f"texts are a path or a list of strings, not of type {kind}: pass list(...)")
    for word, is_asked in (("split", split), ("field", field is not None), ("by", by is not None)):
        if is_asked:
            raise RequestError(
                f"{word} is for files, and each string of a list is one document: leave {word} out"
            )
    if len(source) == 0:
        raise RequestError(f"the list of texts is empty: give at least {LEAST_DOCUMENTS} documents")
    return Strings(source)


def _open_stream(
    stream: Stream, name: str, field: str | None, split: bool, by: str | None, folder: Path | None
) -> Files:
    scratch = None
    if folder is None:
        scratch = Scratch(None)
        folder = scratch.path
    path = keep_stream(stream, folder, name)
    # One document alone would be too few: plain text that comes as a stream is always split.
    return Files((path,), (name,), Path.cwd(), name, field, split or not has_fields(path), by, scratch)


def _open_path(name: str, field: str | None, split: bool, by: str | None, folder: Path | None) -> Files:
    if not name:
        raise RequestError(
            "the path of the texts is empty: name a file or a folder, or pass a list of strings"
        )
    path = Path(name).expanduser()
    try:
        paths = tuple(_files_at(path))
        size = sum(file.stat().st_size for file in paths)
    except OSError as error:
        raise RequestError(f"{shown(path)} cannot be read: {error.strerror}") from error
    if size == 0:
        raise RequestError(f"{shown(path)} holds no text: give a file with documents in it")
    scratch = Scratch(folder) if any(map(is_packed, paths)) else None
    corpus = Files(paths, tuple(map(shown, paths)), Path.cwd(), shown(path), field, split, by, scratch)
    whole_files = not split and not any(map(has_fields, paths))
    if whole_files and len(paths) < LEAST_DOCUMENTS and size > _SLOW:
        documents = "1 document" if len(paths) == 1 else f"{len(paths)} documents"
        raise RequestError(
            f"{corpus.name} holds {documents} where at least {LEAST_DOCUMENTS} are needed: "
            f"give more texts{corpus.hint}"
        )
    return corpus


def _files_at(path: Path) -> list[Path]:
    if path.is_dir():
        files = sorted(_text_files(path))
        if not files and (path / _CARD).is_file():
            raise RequestError(
                f"{shown(path)} is a saved dataset without data: no .arrow file of it is there"
            )
        if not files:
            endings = " ".join(PLAIN + JSON_LINES + TABLES)
            more = " or ".join(COMPRESSED)
            raise RequestError(
                f"{shown(path)} holds no text: no file in it ends in any of {endings}, with {more} or without"
            )
        return files
    if path.is_file():
        return [path]
    if path.exists():
        raise RequestError(
            f"{shown(path)} is no regular file, and texts are read twice: save it to a file, or pipe it in and name -"
        )
    raise RequestError(f"{shown(path)} is not there: {_advice(path)}")


def _text_files(folder: Path) -> Iterator[Path]:
    shards = _shards(folder)
    for entry in folder.iterdir():
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            # A linked folder may lead back here.
            if not entry.is_symlink():
                yield from _text_files(entry)
        elif is_text(entry) and not _is_aside(entry, shards):
            yield entry


def _is_aside(entry: Path, shards: set[str] | None) -> bool:
    """Tell whether a file lies in a folder for the sake of a dataset, and holds none of it."""
    if entry.suffix.lower() == ".arrow":
        # Datasets keep there what they derived from their rows.
        return entry.name.startswith("cache-") if shards is None else entry.name not in shards
    return entry.name in _NOTES or (shards is not None and entry.name == _STATE)


def _shards(folder: Path) -> set[str] | None:
    """Return the names of the files that a saved dataset consists of; None in any other folder."""
    state = folder / _STATE
    if not (folder / _CARD).is_file() or not state.is_file():
        return None
    try:
        shards = {file["filename"] for file in json.loads(state.read_bytes())["_data_files"]}
    except (ValueError, LookupError, TypeError) as error:
        reason = f"is not the state of a saved dataset ({one_line(error)[:200]}): save the dataset again"
        raise RequestError(f"{shown(state)} {reason}") from error
    for name in sorted(shards):
        if not (folder / name).is_file():
            raise RequestError(f"{shown(folder / name)} is not there, though {_STATE} beside it names it")
    return shards


def _advice(path: Path) -> str:
    if not path.parent.is_dir():
        missing = next((up for up in reversed(path.parents) if not up.exists()), path.parent)
        return f"there is no folder {shown(missing)}"
    close = difflib.get_close_matches(path.name, os.listdir(path.parent), 1)
    return f"did you mean {shown(path.parent / close[0])}?" if close else "check its name and folder"
