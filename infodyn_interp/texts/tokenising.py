"""Text to token ids, a bounded piece at a time, and what the tokenizer wants around it."""

import itertools
import operator
import re
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from infodyn_interp.texts.corpus import Document, hash_text

_PIECE = 1 << 15  # characters of one document that the tokenizer is given at a time
_GROUP = 1 << 17  # the same over its threads at a time; what it answers takes fifty times as much memory
_LAST_JOINT = re.compile(r".*[^\W_] (?=[^\W_])", re.DOTALL)  # one space between two letters or digits


def encode(tokenizer: Any, documents: Iterable[tuple[int, Document]]) -> Iterator[tuple[int, np.ndarray]]:
    """Tokenise keyed documents in order, without special tokens.

    Yields the key and some token ids (int32), once or more for each document: one very long document comes in
    many pieces, and many short ones are given to the tokenizer together.
    """
    drop_space = _drops_space(tokenizer)
    pieces = ((key, piece) for key, document in documents for piece in cut(document(), drop_space))
    for group in _grouped(pieces):
        texts = [piece for _, piece in group]
        # Without verbose=False, transformers warns that a document is longer than the model's context.
        encoded = tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)
        for (key, _), ids in zip(group, encoded["input_ids"], strict=True):
            yield key, np.array(ids, np.int32)


def cut(parts: Iterator[str], drop_space: bool) -> Iterator[str]:
    """Cut a text into pieces that tokenise apart as they do together, the same whatever its parts.

    A text without a space between two letters or digits for half a piece is cut where the piece is full.
    """
    rest = ""
    for part in itertools.chain(parts, [""]):
        rest += part
        at = 0
        # The last character is kept back: a joint is known by the character after it.
        while len(rest) - at > _PIECE:
            joint = _LAST_JOINT.match(rest, at + _PIECE // 2, at + _PIECE + 1)
            end = joint.end() - 1 if joint else at + _PIECE
            yield rest[at:end]
            at = end + 1 if joint and drop_space else end
        rest = rest[at:]
    if rest:
        yield rest


def wanted_bos(tokenizer: Any) -> int | None:
    """Return the BOS id if the tokenizer puts it before a text, else None.

    Having a BOS token is not wanting it (SmolLM2, GPT-2): only what encoding adds tells.
    """
    bos = getattr(tokenizer, "bos_token_id", None)
    plain = list(tokenizer("a", add_special_tokens=False)["input_ids"])
    dressed = list(tokenizer("a", add_special_tokens=True)["input_ids"])
    before = next((at for at in range(len(dressed)) if dressed[at : at + len(plain)] == plain), 0)
    return int(bos) if bos is not None and bos in dressed[:before] else None


def describe_vocabulary(tokenizer: Any) -> str:
    """Return the vocabulary's size and hash: its name may be a folder, which is another one elsewhere."""
    entries = sorted(tokenizer.get_vocab().items(), key=operator.itemgetter(1))
    return f"{len(entries)} {hash_text(f'{token!r} {index} ' for token, index in entries).hex()}"


def _grouped(pieces: Iterable[tuple[int, str]]) -> Iterator[list[tuple[int, str]]]:
    group: list[tuple[int, str]] = []
    size = 0
    for key, piece in pieces:
        if group and size + len(piece) > _GROUP:
            yield group
            group, size = [], 0
        group.append((key, piece))
        size += len(piece)
    if group:
        yield group


def _drops_space(tokenizer: Any) -> bool:
    # Llama-2's tokenizers put a space before any text, so a piece that began with its own would have two.
    encoded = tokenizer(["one two", "one", " two", "two"], add_special_tokens=False)["input_ids"]
    whole, first, kept, dropped = map(list, encoded)
    return whole != first + kept and whole == first + dropped
