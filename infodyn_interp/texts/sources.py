"""From what the user names to a corpus, or to one line that says what is wrong with it."""

import difflib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from infodyn_interp.errors import RequestError
from infodyn_interp.texts.corpus import JSON_LINES, PLAIN, Corpus, Files, Strings, is_json_lines, shown

LEAST_DOCUMENTS = 5  # four to fit, one for the reference
_SLOW = 1 << 24  # bytes from which counting takes long enough to refuse a hopeless request before it


def open_corpus(source: object, field: str | None, split: bool) -> Corpus:
    """Find the files or strings that `source` names; their text is not read yet.

    Raises RequestError if nothing that may hold text is there.
    """
    if isinstance(source, (str, os.PathLike)):
        corpus = _open_path(os.fsdecode(source), field, split)
        if split and all(map(is_json_lines, corpus.paths)):
            raise RequestError(f"split is for plain text, and {corpus.name} is JSONL: leave split out")
        if field is not None and not any(map(is_json_lines, corpus.paths)):
            raise RequestError(f"field is for JSONL, and {corpus.name} is plain text: leave field out")
        return corpus
    if not isinstance(source, Sequence) or isinstance(source, (bytes, bytearray, memoryview)):
        kind = type(source).__name__
        raise RequestError(f"texts are a path or a list of strings, not of type {kind}: pass list(...)")
    if split or field is not None:
        word = "split" if split else "field"
        raise RequestError(
            f"{word} is for files, and each string of a list is one document: leave {word} out"
        )
    if len(source) == 0:
        raise RequestError(f"the list of texts is empty: give at least {LEAST_DOCUMENTS} documents")
    return Strings(source)


def _open_path(name: str, field: str | None, split: bool) -> Files:
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
    corpus = Files(paths, Path.cwd(), shown(path), field, split)
    whole_files = not split and not any(map(is_json_lines, paths))
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
        if not files:
            endings = " ".join(PLAIN + JSON_LINES)
            raise RequestError(f"{shown(path)} holds no text: no file in it ends in any of {endings}")
        return files
    if path.is_file():
        return [path]
    if path.exists():
        raise RequestError(
            f"{shown(path)} is no regular file, and texts are read twice: save it to a file first"
        )
    raise RequestError(f"{shown(path)} is not there: {_advice(path)}")


def _text_files(folder: Path) -> Iterator[Path]:
    for entry in folder.iterdir():
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            # A linked folder may lead back here.
            if not entry.is_symlink():
                yield from _text_files(entry)
        elif entry.suffix.lower() in PLAIN + JSON_LINES:
            yield entry


def _advice(path: Path) -> str:
    if not path.parent.is_dir():
        missing = next((up for up in reversed(path.parents) if not up.exists()), path.parent)
        return f"there is no folder {shown(missing)}"
    close = difflib.get_close_matches(path.name, os.listdir(path.parent), 1)
    return f"did you mean {shown(path.parent / close[0])}?" if close else "check its name and folder"
