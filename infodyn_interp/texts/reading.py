"""The counting pass: which documents there are, and what each is for."""

import itertools
import json
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from infodyn_interp.errors import RequestError
from infodyn_interp.texts.corpus import Corpus, Document, Place, hash_text
from infodyn_interp.texts.sources import LEAST_DOCUMENTS, open_corpus
from infodyn_interp.texts.tokenising import describe_vocabulary, encode, wanted_bos
from infodyn_interp.texts.unpacking import Stream
from infodyn_interp.texts.windows import ROW, Census, Texts, halves, room_for_text, whole_number

LEAST_WINDOW = 32  # queries begin at position 12 and keys at 4: a shorter window has next to no support
MOST_GROUPS = 64  # each is to have documents enough to speak of
LEAST_FITTED = LEAST_DOCUMENTS - 1  # documents are the statistical unit: fewer give no interval


def read_texts(
    source: str | os.PathLike[str] | Sequence[Any] | Stream,
    tokenizer: Any,
    window: int = 256,
    *,
    field: str | None = None,
    split: bool = False,
    windows_per_document: int = 8,
    documents: int | None = None,
    reference_documents: int | None = None,
    reference_windows_per_document: int = 16,
    folds: int = 24,
    by: str | None = None,
    spool: str | os.PathLike[str] | None = None,
) -> Texts:
    """Count a corpus and rank its documents; the text itself stays where it is.

    Args:
        source: a JSONL file (`.jsonl`, `.json-lines`, ...), a parquet or Arrow file, a plain text file, a
            folder of such files or of saved datasets, or a list of strings; text in UTF-8, JSONL and plain
            text also as `.gz` or `.zst`. "-" is standard input, and an open binary file is read as that is:
            JSONL if its first letter is a brace, else plain text that blank lines split.
        tokenizer: the Hugging Face tokenizer of the model.
        window: tokens in a window, at least 32, BOS included where the tokenizer adds one.
        field: the field of JSONL, or the column, to read; by default `text`, or `prompt` and `completion` joined
            as they are.
        split: a plain text file holds documents separated by blank lines, instead of being one document.
        windows_per_document: at most so many windows of a fitted document, evenly spaced, the first and the
            last included.
        documents: at most so many fitted documents; by default all that remain.
        reference_documents: so many documents, other than the fitted ones, are the reference; by default
            half, but leaving 4, or `documents`, to fit where possible.
        reference_windows_per_document: as `windows_per_document`, for reference documents.
        folds: at most so many folds; a document's fold is its rank modulo their number.
        by: the field, or the column, of strings, numbers or bools that groups the documents; plain text files
            are grouped by the name of their folder.
        spool: the folder for copies of what cannot be read from any place: compressed files and tables while
            they are in use, and a stream, which stays there; where the next one is empty, it is read again.
            By default a temporary folder.

    Raises:
        RequestError: the source cannot be read as asked, or too few of its documents fill a window.
    """
    window = whole_number("window", window, LEAST_WINDOW)
    caps = {
        "fitted": whole_number("windows_per_document", windows_per_document, 1),
        "reference": whole_number("reference_windows_per_document", reference_windows_per_document, 1),
    }
    if documents is not None:
        documents = whole_number("documents", documents, LEAST_FITTED)
    if reference_documents is not None:
        reference_documents = whole_number("reference_documents", reference_documents, 1)
    folds = whole_number("folds", folds, 2)
    if not callable(tokenizer):
        kind = type(tokenizer).__name__
        raise RequestError(
            f"tokenizer must be a Hugging Face tokenizer (model.tokenizer), not of type {kind}"
        )
    corpus = open_corpus(source, field, split, by, spool)
    bos = wanted_bos(tokenizer)
    room = room_for_text(window, bos)

    rows, empty, labels = _count(corpus, tokenizer)
    distinct = _distinct(rows)
    eligible = distinct[distinct["tokens"] >= room]
    if len(distinct) == 0:
        raise RequestError(
            f"{corpus.name} holds no text{', only blanks' * (empty > 0)}: give documents with words in them"
        )
    if len(eligible) == 0:
        raise RequestError(
            f"all {len(distinct)} documents of {corpus.name} are shorter than the window: the longest has "
            f"{distinct['tokens'].max()} tokens, and a window of {window} takes {room}; "
            f"give longer texts{corpus.hint}, or a smaller window"
        )
    used = _roles(eligible, documents, reference_documents, f"{corpus.name} has", window, corpus.hint)
    groups = () if by is None else _sort_groups(labels, used)
    folds = min(folds, len(used["fitted"]))
    settings = {
        "window": window,
        "caps": caps,
        "folds": folds,
        "bos": bos,
        "counts": [len(some) for some in used.values()],
    }
    if by is not None:
        settings["groups"] = groups
    return Texts(
        window=window,
        folds=folds,
        bos=bos,
        census=_census(len(rows), empty, distinct, eligible, used, caps, room),
        documents=len(used["fitted"]),
        reference_documents=len(used["reference"]),
        groups=groups,
        tokenizer=tokenizer,
        _corpus=corpus,
        _rows=used,
        _caps=caps,
        _identity=_identity(settings | {"vocabulary": describe_vocabulary(tokenizer)}, used),
    )


def _count(corpus: Corpus, tokenizer: Any) -> tuple[np.ndarray, int, list[str]]:
    rows = np.zeros(1024, ROW)
    groups: dict[str, int] = {}
    count = empty = 0

    def documents() -> Iterator[tuple[int, Document]]:
        nonlocal rows, count, empty
        for place in corpus.places():
            document, digest = _first_look(corpus, place)
            if digest is None:
                empty += 1
                continue
            if count == len(rows):
                rows = np.concatenate([rows, np.zeros_like(rows)])
            group = groups.setdefault(corpus.label(place), len(groups))
            if len(groups) > MOST_GROUPS:
                raise RequestError(
                    f"by: {corpus.where(place)} begins group {len(groups)}, and at most {MOST_GROUPS} are told "
                    "apart: name a field with fewer values"
                )
            rows[count] = (*halves(digest), *place, 0, group)
            count += 1
            yield count - 1, document

    for index, ids in encode(tokenizer, documents()):
        rows["tokens"][index] += len(ids)
    return rows[:count], empty, list(groups)


def _first_look(corpus: Corpus, place: Place) -> tuple[Document, bytes | None]:
    try:
        document = corpus.document(place)
        blank = not any(part.strip() for part in document())
        return document, None if blank else hash_text(document())
    except OSError as error:
        raise RequestError(f"{corpus.where(place)} cannot be read: {error.strerror}") from error


def _distinct(rows: np.ndarray) -> np.ndarray:
    """Return one row per content hash, in the order of the hashes."""
    ranked = rows[np.lexsort((rows["low"], rows["high"]))]
    first = np.ones(len(ranked), bool)
    first[1:] = (ranked["high"][1:] != ranked["high"][:-1]) | (ranked["low"][1:] != ranked["low"][:-1])
    return ranked[first]


def _roles(
    eligible: np.ndarray, documents: int | None, reference: int | None, who: str, window: int, hint: str
) -> dict[str, np.ndarray]:
    count = len(eligible)
    asked = reference is not None
    if reference is None:
        reference = max(1, min(count // 2, count - max(LEAST_FITTED, documents or 0)))
    if count - reference < LEAST_FITTED:
        fewer = ", or fewer reference_documents" if asked and count > LEAST_FITTED else ""
        raise RequestError(
            f"{who} {count} documents that fill a window of {window} tokens, of which {reference} for the "
            f"reference leave {max(0, count - reference)} to fit, and at least {LEAST_FITTED} are needed: "
            f"give more texts{hint}, a smaller window{fewer}"
        )
    # Copies, so that a small study of a large corpus does not hold the rows of all of it.
    return {
        "reference": eligible[:reference].copy(),
        "fitted": eligible[reference:][:documents].copy(),
    }


def _sort_groups(labels: list[str], used: dict[str, np.ndarray]) -> tuple[str, ...]:
    """Return the labels of the documents that are used, and number those documents' groups in their order."""
    groups = sorted({labels[group] for rows in used.values() for group in np.unique(rows["group"])})
    index = np.array([groups.index(label) if label in groups else 0 for label in labels], np.uint8)
    for rows in used.values():
        rows["group"] = index[rows["group"]]
    return tuple(groups)


def _census(
    rows: int,
    empty: int,
    distinct: np.ndarray,
    eligible: np.ndarray,
    used: dict[str, np.ndarray],
    caps: dict[str, int],
    room: int,
) -> Census:
    windows = {role: int(np.minimum(some["tokens"] // room, caps[role]).sum()) for role, some in used.items()}
    read, long = int(distinct["tokens"].sum()), int(eligible["tokens"].sum())
    remainders = int((eligible["tokens"] % room).sum())
    return Census(
        documents_read=empty + rows,
        empty=empty,
        duplicates=rows - len(distinct),
        too_short=len(distinct) - len(eligible),
        eligible=len(eligible),
        documents_fitted=len(used["fitted"]),
        documents_reference=len(used["reference"]),
        documents_unused=len(eligible) - len(used["fitted"]) - len(used["reference"]),
        windows_fitted=windows["fitted"],
        windows_reference=windows["reference"],
        tokens_read=read,
        tokens_too_short=read - long,
        tokens_in_remainders=remainders,
        tokens_not_sampled=long - remainders - sum(windows.values()) * room,
        tokens_fitted=windows["fitted"] * room,
        tokens_reference=windows["reference"] * room,
    )


def _identity(settings: dict[str, Any], used: dict[str, np.ndarray]) -> str:
    ranked = (
        some[name].astype("<u8").tobytes().hex()
        for some in used.values()
        for name in ("high", "low", "tokens", *(("group",) if "groups" in settings else ()))
    )
    return hash_text(itertools.chain([json.dumps(settings, sort_keys=True)], ranked)).hex()
