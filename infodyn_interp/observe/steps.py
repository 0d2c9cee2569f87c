"""A reply as steps: token by token, sentence by sentence, or a window that slides, each with the tokens it is made of.

A token may hold a part of a character, and a character a part of what a reader sees as one (an accent that combines,
an emoji of several). Steps begin and end where a token does and where such a cluster does.
"""

import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import regex
from jaxtyping import Float

from infodyn_interp.errors import RequestError

_CLUSTER = regex.compile(r"\X")
_WORD = re.compile(r"\s*\S+\s*\Z|\s*\S+|\s+")
# where a sentence ends: after its stop and what closes with it, or before a new line; blanks belong to the next
_END = re.compile(r"(?:[.!?…]+[\"'”’»)\]]*(?=\s)|[。！？]+[”’」』）]*|(?<=\S)(?=\n))")


@dataclass(frozen=True)
class Steps:
    """The steps of one reply.

    Args:
        texts: of each step.
        spans: first token of each step, and one past its last.
    """

    texts: tuple[str, ...]
    spans: tuple[tuple[int, int], ...]

    def average(self, values: Float[np.ndarray, "*series token"]) -> Float[np.ndarray, "*series step"]:
        """Mean of a series over the tokens of each step; NaN where it has no value there."""
        out = np.full((*values.shape[:-1], len(self.spans)), np.nan)
        for place, (first, last) in enumerate(self.spans):
            part = values[..., first:last]
            known = np.isfinite(part)
            total, count = np.where(known, part, 0).sum(-1), known.sum(-1)
            out[..., place] = np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
        return out


Atoms = list[tuple[str, int, int]]  # text, first token, one past the last


def parse_step(step: str) -> Callable[[Atoms], Steps]:
    """How atoms become steps: `token`, `sentence`, or `window:8` for the eight atoms up to each.

    Raises:
        RequestError: another word.
    """
    if step == "token":
        return lambda atoms: _joined(atoms, [(at, at + 1) for at in range(len(atoms))])
    if step == "sentence":
        return _sentences
    sized = re.fullmatch(r"window:(\d{1,6})", step)
    if sized is None or int(sized[1]) < 1:
        raise RequestError(f"step: {step!r} is not one of token, sentence, window:8 (so many tokens)")
    size = int(sized[1])
    return lambda atoms: _joined(atoms, [(at, at + size) for at in range(len(atoms) - size + 1)])


def atoms_of_tokens(tokenizer: Any, tokens: Sequence[int]) -> Atoms:
    """The shortest runs of tokens whose texts are whole characters, put end to end the reply's text."""
    begins = [_decode(tokenizer, tokens[:last]) for last in range(len(tokens) + 1)]
    whole = begins[-1]
    clusters = {match.end() for match in _CLUSTER.finditer(whole)}
    atoms: Atoms = []
    begun, written = 0, 0
    for last, text in enumerate(begins[1:], 1):
        onward = begins[last + 1] if last < len(tokens) else None
        # a token without text goes with the one before it, an unfinished character with what finishes it
        if text != onward and len(text) > written and len(text) in clusters and whole.startswith(text):
            atoms.append((whole[written : len(text)], begun, last))
            begun, written = last, len(text)
    return atoms


def atoms_of_text(text: str) -> Atoms:
    """The words of a text that came without tokens, each with the blanks before it."""
    words = _WORD.findall(text)
    return [(word, place, place + 1) for place, word in enumerate(words)]


def _decode(tokenizer: Any, tokens: Sequence[int]) -> str:
    return tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False)


def _joined(atoms: Atoms, spans: Sequence[tuple[int, int]]) -> Steps:
    parts = [atoms[first:last] for first, last in spans]
    return Steps(
        tuple("".join(text for text, _, _ in part) for part in parts),
        tuple((part[0][1], part[-1][2]) for part in parts),
    )


def _sentences(atoms: Atoms) -> Steps:
    """An atom belongs to the sentence that its first letter lies in; a sentence within one atom is part of another."""
    text = "".join(text for text, _, _ in atoms)
    starts = [0, *itertools.accumulate(len(text) for text, _, _ in atoms)]
    ends = [match.end() for match in _END.finditer(text) if text[match.end() :].strip()]
    cuts = sorted({int(np.searchsorted(starts, end)) for end in (0, *ends, len(text))})
    return _joined(atoms, list(itertools.pairwise(cuts)))
