"""Vocabulary ids to text."""

from collections.abc import Callable
from typing import Any


def read_pieces(tokenizer: Any) -> list[str]:
    """Return the text of every vocabulary id as it stands in running text, with its leading space.

    The list is as long as the largest id + 1. Special tokens and ids without a token are "", and bytes that
    make no whole character are "\\ufffd".
    """
    vocabulary = tokenizer.get_vocab()
    tokens: list[str | None] = [None] * max(len(tokenizer), max(vocabulary.values(), default=-1) + 1)
    for token, index in vocabulary.items():
        tokens[index] = token
    added = tokenizer.added_tokens_decoder
    special = {index for index, token in added.items() if token.special} | set(tokenizer.all_special_ids)
    spell = _speller(tokenizer)
    # In a byte-level vocabulary an added token is written as itself, not in the letters that stand for bytes.
    literal = set(added) if spell("Ġ") == " " else set()
    return [
        "" if token is None or index in special else token if index in literal else spell(token)
        for index, token in enumerate(tokens)
    ]


def _speller(tokenizer: Any) -> Callable[[str], str]:
    # Decoders drop the space of the first token, so a token is spelled behind another one.
    anchor = "x"
    if not getattr(tokenizer, "is_fast", False):
        known = tokenizer.convert_ids_to_tokens(tokenizer("a", add_special_tokens=False)["input_ids"])
        anchor = known[-1] if known else anchor
    before = len(tokenizer.convert_tokens_to_string([anchor]))
    return lambda token: tokenizer.convert_tokens_to_string([anchor, token])[before:]
