"""Windows of tokens, read by role in rank order of their documents."""

import itertools
import operator
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64

from infodyn_interp.errors import RequestError, RunError
from infodyn_interp.texts.corpus import Corpus, Document, Place, hash_text
from infodyn_interp.texts.tokenising import describe_vocabulary, encode

# One document as the counting pass remembers it: its hash in two halves, its place, its number of tokens, its group.
ROW = np.dtype(
    [
        ("high", "u8"),
        ("low", "u8"),
        *((name, "i8") for name in Place._fields),
        ("tokens", "i8"),
        ("group", "u1"),
    ]
)


@dataclass(frozen=True)
class Census:
    """What was read and where it went. Tokens are text tokens: a window's BOS is not counted.

    `documents_read = empty + duplicates + too_short + eligible`, where
    `eligible = documents_fitted + documents_reference + documents_unused`. Over distinct documents,
    `tokens_read = tokens_too_short + tokens_in_remainders + tokens_not_sampled + tokens_fitted
    + tokens_reference`; those of unused documents are among the ones not sampled or in remainders.
    """

    documents_read: int
    empty: int
    duplicates: int
    too_short: int
    eligible: int
    documents_fitted: int
    documents_reference: int
    documents_unused: int
    windows_fitted: int
    windows_reference: int
    tokens_read: int
    tokens_too_short: int
    tokens_in_remainders: int
    tokens_not_sampled: int
    tokens_fitted: int
    tokens_reference: int

    def describe(self) -> str:
        """Return two lines: the documents and where they went, and the tokens and where they went."""
        return (
            f"{self.documents_read:,} documents: {self.documents_fitted:,} fitted, "
            f"{self.documents_reference:,} reference, {self.documents_unused:,} unused, "
            f"{self.too_short:,} too short, {self.duplicates:,} duplicates, {self.empty:,} empty\n"
            f"{self.tokens_read:,} tokens: {self.tokens_fitted:,} fitted in {self.windows_fitted:,} windows, "
            f"{self.tokens_reference:,} reference in {self.windows_reference:,} windows, "
            f"{self.tokens_not_sampled:,} not sampled, {self.tokens_in_remainders:,} in remainders, "
            f"{self.tokens_too_short:,} in documents too short"
        )


@dataclass(frozen=True, eq=False)
class Batch:
    """Windows of one role.

    `document` is the rank within the role, `position` the index of the window in its document (among all
    whole windows of the document, sampled or not), `fold` the document's fold, `group` its index in
    `Texts.groups`, by default 0 throughout.
    """

    tokens: Int64[torch.Tensor, "batch time"]
    document: Int64[np.ndarray, " batch"]
    position: Int64[np.ndarray, " batch"]
    fold: Int64[np.ndarray, " batch"]
    group: Int64[np.ndarray, " batch"] = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        if self.group is None:
            object.__setattr__(self, "group", np.zeros_like(self.document))


@dataclass(frozen=True, eq=False)
class Texts:
    """A corpus as windows of `window` tokens each, BOS included where the tokenizer wants one.

    `folds` is the number of folds, min(fitted documents, folds asked for); `documents` and
    `reference_documents` count the documents of either role; `groups` are the labels of their groups, sorted,
    none if none were asked for; `bos` is the id that starts each window, if any.
    """

    window: int
    folds: int
    bos: int | None
    census: Census
    documents: int
    reference_documents: int
    groups: tuple[str, ...]
    tokenizer: Any = field(repr=False)
    _corpus: Corpus = field(repr=False)
    _rows: dict[str, np.ndarray] = field(repr=False)
    _caps: dict[str, int] = field(repr=False)
    _identity: str = field(repr=False)
    _seed: int | None = field(default=None, repr=False)
    _types: dict[str, np.ndarray] = field(default_factory=dict, repr=False)

    @property
    def digest(self) -> str:
        """Hex digest of all that decides the windows: settings, vocabulary, ranked hashes, groups, shuffle."""
        return self._identity if self._seed is None else hash_text([f"{self._identity} {self._seed}"]).hex()

    @property
    def tokenizer_digest(self) -> str:
        """Hex digest of the vocabulary and of the id that starts each window."""
        return hash_text([f"{describe_vocabulary(self.tokenizer)} {self.bos}"]).hex()

    def windows(self, role: str = "fitted", documents: Iterable[int] | None = None) -> int:
        """Return the number of windows of a role, "fitted" or "reference", or of some of its documents."""
        rows = self._of(role)
        if documents is not None:
            rows = rows[self._checked(documents, role)]
        return int(np.minimum(rows["tokens"] // self._room, self._caps[role]).sum())

    def tokens(self, role: str = "fitted", documents: Iterable[int] | None = None) -> int:
        """Return the number of token positions in the windows of a role, BOS included, as `windows`."""
        return self.windows(role, documents) * self.window

    def batches(
        self, size: int, role: str = "fitted", documents: Iterable[int] | None = None
    ) -> Iterator[Batch]:
        """Read the windows of a role, `size` at a time (the last batch may be smaller).

        `documents` are ranks within the role, by default all; each is visited once, in rank order.

        Raises RequestError if there is no such document, and RunError, while reading, if a document or the
        tokenizer changed since it was counted.
        """
        size = whole_number("size", size, 1)
        ranks = range(len(self._of(role))) if documents is None else self._checked(documents, role)
        windows = self._read(role, ranks)
        return iter(lambda: self._batch(list(itertools.islice(windows, size)), role), None)

    def one_window(self, document: int = 0, position: int = 0, role: str = "fitted") -> Batch:
        """Read one window as a batch of one: any whole window of the document, sampled or not.

        Raises RequestError if there is no such document or window, RunError as `batches`.
        """
        (rank,) = self._checked([document], role)
        count = int(self._of(role)["tokens"][rank]) // self._room
        position = whole_number("position", position, 0)
        if position >= count:
            raise RequestError(f"{role} document {rank} has no window {position}: it has {count}, from 0 on")
        batch = self._batch(list(self._read(role, [rank], only=position)), role)
        if batch is None:
            raise RunError(f"{role} document {rank} lost its window {position}: read the texts again")
        return batch

    def group(self, documents: Iterable[int] | None = None) -> Int64[np.ndarray, " documents"]:
        """Return the index in `groups` of the fitted documents, or of those of some ranks, in rank order."""
        group = self._of("fitted")["group"].astype(np.int64)
        return group if documents is None else group[self._checked(documents, "fitted")]

    @property
    def fold_digests(self) -> tuple[str, ...]:
        """Hex digest of the content of each fold's documents and of the number of windows read of each."""
        rows = self._of("fitted")
        windows = np.minimum(rows["tokens"] // self._room, self._caps["fitted"])
        told = np.stack([rows["high"], rows["low"], windows.astype("u8")], -1).astype("<u8")
        start = [] if self._seed is None else [str(self._seed)]
        return tuple(
            hash_text([*start, told[fold :: self.folds].tobytes().hex()]).hex() for fold in range(self.folds)
        )

    def token_types(self, role: str = "fitted") -> Int64[np.ndarray, " types"]:
        """Return the distinct token ids in the windows of a role, sorted.

        The first call reads the windows once: a document's role is known only after all are counted.
        """
        if role not in self._types:
            types = np.zeros(0, np.int64)
            for batch in self.batches(64, role):
                types = np.union1d(types, batch.tokens.numpy())
            self._types[role] = types
        return self._types[role].copy()

    def shuffled(self, seed: int) -> "Texts":
        """Return the token-shuffled twin: the same windows, their tokens in random order, BOS kept first.

        A window's order depends on the seed, the document's hash and the window's position alone: not on
        batches, caps or other documents.
        """
        return replace(self, _seed=whole_number("seed", seed, 0))

    def part(
        self,
        folds: int | None = None,
        reference_documents: int | None = None,
        windows_per_document: int | None = None,
        documents: int | None = None,
    ) -> "Texts":
        """Return the same texts with the first documents of either role, those of the first folds, fewer windows.

        A document's fold stays what it was; its rank does where all folds stay. None leaves as it is.
        """
        kept = self.folds if folds is None else min(whole_number("folds", folds, 1), self.folds)
        fitted, reference = self._of("fitted"), self._of("reference")
        if documents is not None:
            fitted = fitted[: whole_number("documents", documents, 1)]
        rows = {
            "fitted": fitted[np.arange(len(fitted)) % self.folds < kept],
            "reference": reference
            if reference_documents is None
            else reference[: whole_number("reference_documents", reference_documents, 1)],
        }
        caps = self._caps
        if windows_per_document is not None:
            most = whole_number("windows_per_document", windows_per_document, 1)
            caps = {role: min(cap, most) for role, cap in caps.items()}
        sizes = {role: len(kept) for role, kept in rows.items()}
        identity = self._identity
        if sizes != {role: len(kept) for role, kept in self._rows.items()} or caps != self._caps:
            identity = hash_text([f"{identity} {sizes} {caps}"]).hex()
        return replace(
            self,
            folds=kept,
            documents=sizes["fitted"],
            reference_documents=sizes["reference"],
            _rows=rows,
            _caps=caps,
            _identity=identity,
            _types={},
        )

    @property
    def _room(self) -> int:
        return room_for_text(self.window, self.bos)

    def _of(self, role: str) -> np.ndarray:
        if role not in self._rows:
            raise RequestError(f"there is no role {role!r}: it is 'fitted' or 'reference'")
        return self._rows[role]

    def _checked(self, documents: Iterable[int], role: str) -> list[int]:
        ranks = sorted({whole_number("document", rank, 0) for rank in documents})
        count = len(self._of(role))
        if ranks and ranks[-1] >= count:
            raise RequestError(f"there is no {role} document {ranks[-1]}: there are {count}, from 0 on")
        return ranks

    def _batch(self, windows: list[tuple[int, int, np.ndarray]], role: str) -> Batch | None:
        if not windows:
            return None
        tokens = np.full((len(windows), self.window), -1 if self.bos is None else self.bos, np.int64)
        tokens[:, self.window - self._room :] = [ids for _, _, ids in windows]
        document = np.array([rank for rank, _, _ in windows], np.int64)
        position = np.array([position for _, position, _ in windows], np.int64)
        group = self._of(role)["group"][document].astype(np.int64)
        return Batch(torch.from_numpy(tokens), document, position, document % self.folds, group)

    def _read(
        self, role: str, ranks: Iterable[int], only: int | None = None
    ) -> Iterator[tuple[int, int, np.ndarray]]:
        rows, room = self._of(role), self._room
        documents = ((rank, self._unchanged(rows[rank])) for rank in ranks)
        encoded = encode(self.tokenizer, documents)
        for rank, group in itertools.groupby(encoded, key=operator.itemgetter(0)):
            expected = int(rows["tokens"][rank])
            wanted = evenly_spaced(expected // room, self._caps[role]) if only is None else np.array([only])
            done, rest = 0, np.zeros(0, np.int32)
            for _, ids in group:
                rest = np.concatenate([rest, ids])
                more = len(rest) // room
                for position in wanted[np.searchsorted(wanted, done) : np.searchsorted(wanted, done + more)]:
                    at = (position - done) * room
                    yield rank, int(position), self._ordered(rest[at : at + room], rows[rank], int(position))
                done, rest = done + more, rest[more * room :]
            found = done * room + len(rest)
            if found != expected:
                where = self._corpus.where(place_of(rows[rank]))
                raise RunError(
                    f"the tokenizer now makes {found} tokens of {where}, where it made {expected}: "
                    "leave the tokenizer as it is, and start again"
                )

    def _ordered(self, ids: np.ndarray, row: np.void, position: int) -> np.ndarray:
        if self._seed is None:
            return ids
        # Raw bits rather than Generator.permutation, whose stream may change with the numpy version.
        bits = np.random.PCG64([self._seed, int(row["high"]), int(row["low"]), position])
        return ids[np.argsort(bits.random_raw(len(ids)), kind="stable")]

    def _unchanged(self, row: np.void) -> Document:
        place = place_of(row)
        changed = f"{self._corpus.where(place)} changed since it was counted"
        try:
            document = self._corpus.document(place)
            digest = hash_text(document())
        except (OSError, RequestError) as error:
            raise RunError(f"{changed} ({error}): leave the texts as they are, and start again") from error
        if halves(digest) != (int(row["high"]), int(row["low"])):
            raise RunError(f"{changed}: leave the texts as they are, and start again")
        return document


def place_of(row: np.void) -> Place:
    """Return where the document of a row lies."""
    return Place(*(int(row[name]) for name in Place._fields))


def halves(digest: bytes) -> tuple[int, int]:
    """Split a hash of 16 bytes in two numbers that order as the bytes do."""
    return int.from_bytes(digest[:8], "big"), int.from_bytes(digest[8:], "big")


def room_for_text(window: int, bos: int | None) -> int:
    """Return the number of text tokens in a window."""
    return window - (bos is not None)


def evenly_spaced(count: int, cap: int) -> Int64[np.ndarray, " chosen"]:
    """Choose min(count, cap) of `count` windows, the first and, where there are two, the last among them."""
    chosen = min(count, cap)
    steps = max(chosen - 1, 1)
    return (2 * np.arange(chosen) * (count - 1) + steps) // (2 * steps)


def whole_number(name: str, value: object, least: int) -> int:
    """Return `value` as an int; raises RequestError if it is none or below `least`."""
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = None
    if number is None or isinstance(value, bool):
        raise RequestError(f"{name} must be a whole number, not {' '.join(repr(value).split())[:60]}")
    if number < least:
        raise RequestError(f"{name} must be at least {least}, not {number}")
    return number
