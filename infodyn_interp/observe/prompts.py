"""What a model is asked: prompts of a file, or of a list, and their tokens."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infodyn_interp.errors import RequestError
from infodyn_interp.texts.corpus import shown
from infodyn_interp.texts.formats import has_fields
from infodyn_interp.texts.records import read_record, text_of

FIELD = "prompt"
REPLIES = ("completion", "text")  # fields that a reply may be in


@dataclass(frozen=True)
class Prompt:
    """One prompt: its text, its place for messages, and its tokens as the model reads them."""

    text: str
    where: str
    tokens: tuple[int, ...] = ()


def read_prompts(source: str | os.PathLike[str] | Sequence[str], field: str | None = None) -> list[Prompt]:
    """The prompts of a JSONL file (`prompt`, or another field), of the lines of a text file, or of a list of strings.

    Raises:
        RequestError: there are none, one is empty, or one comes twice.
    """
    if isinstance(source, str | os.PathLike):
        path = Path(source).expanduser()
        prompts = [
            Prompt(record if isinstance(record, str) else text_of(record, field or FIELD, where), where)
            for record, where in records_of(path)
        ]
        name = shown(path)
    else:
        name = "prompts"
        prompts = [Prompt(text, f"prompts[{place}]") for place, text in enumerate(source)]
    if not prompts:
        raise RequestError(f"{name}: no prompts; give at least one, a line each")
    met: dict[str, str] = {}
    for prompt in prompts:
        if not isinstance(prompt.text, str):
            raise RequestError(f"{prompt.where}: of type {type(prompt.text).__name__}, not a string")
        if not prompt.text.strip():
            raise RequestError(f"{prompt.where}: an empty prompt; write one, or drop the line")
        if (before := met.setdefault(prompt.text, prompt.where)) != prompt.where:
            raise RequestError(f"{prompt.where}: the prompt of {before} again; ask for more trials instead")
    return prompts


def read_replies(
    source: str | os.PathLike[str] | Mapping[str, Sequence[str]], field: str | None = None
) -> dict[str, list[str]]:
    """Replies by prompt, in their order: of a JSONL file with the fields `prompt` and `completion` or `text`.

    Raises:
        RequestError: there are none, a field is missing, a reply is empty, or a prompt has one reply alone.
    """
    groups: dict[str, list[str]] = {}
    if isinstance(source, str | os.PathLike):
        path = Path(source).expanduser()
        if not has_fields(path):
            raise RequestError(
                f"{shown(path)}: replies are JSONL with the fields {FIELD} and {' or '.join(REPLIES)};"
                " name a .jsonl file"
            )
        for record, where in records_of(path):
            fields = [name for name in REPLIES if name in record]
            reply = text_of(record, field or (fields[0] if fields else REPLIES[0]), where)
            if not reply.strip():
                raise RequestError(f"{where}: an empty reply; drop the line")
            groups.setdefault(text_of(record, FIELD, where), []).append(reply)
        name = shown(path)
    else:
        name, groups = "texts", {prompt: list(replies) for prompt, replies in source.items()}
    if not groups:
        raise RequestError(f"{name}: no replies; give at least two for each prompt")
    for prompt, replies in groups.items():
        if len(replies) < 2:
            raise RequestError(
                f"{name}: the prompt {prompt[:40]!r} has {len(replies)} reply, and replies are compared within a"
                " prompt: give at least 2, or leave it out"
            )
    return groups


def encode_prompts(
    prompts: Sequence[Prompt], tokenizer: Any, *, chat: bool, room: int | None, to_come: int, bound: str
) -> list[Prompt]:
    """Prompts with their tokens.

    Args:
        tokenizer: of the model.
        chat: put each into the tokenizer's chat template, as what a user says.
        room: most tokens that prompt and reply may have together; None where nothing bounds them.
        to_come: most tokens of a reply.
        bound: what sets that bound.

    Raises:
        RequestError: no tokenizer or no template, or a prompt that leaves no room for its reply.
    """
    if tokenizer is None:
        raise RequestError("model: without a tokenizer it cannot read prompts; open it with tokenizer=")
    if chat and not getattr(tokenizer, "chat_template", None):
        raise RequestError("chat: the model's tokenizer has no chat template; leave chat out")
    out = []
    for prompt in prompts:
        text = prompt.text
        if chat:
            said = [{"role": "user", "content": text}]
            text = tokenizer.apply_chat_template(said, add_generation_prompt=True, tokenize=False)
        ids = tokenizer(text, add_special_tokens=not chat, verbose=False)["input_ids"]
        if room is not None and len(ids) + to_come > room:
            raise RequestError(
                f"{prompt.where}: {len(ids)} tokens, and {to_come} of a reply, where {bound} holds {room};"
                " give a shorter prompt, or fewer tokens"
            )
        out.append(Prompt(prompt.text, prompt.where, tuple(ids)))
    return out


def records_of(path: Path) -> Iterator[tuple[Any, str]]:
    """The records of JSONL, or the lines of plain text, that are not blank, each with its place."""
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError:
        raise RequestError(f"{shown(path)}: not UTF-8; convert the file") from None
    except OSError as reason:
        raise RequestError(f"{shown(path)}: cannot be read ({reason.strerror})") from None
    for number, line in enumerate(lines, 1):
        where = f"{shown(path)} line {number}"
        if line.strip():
            yield (read_record(line, where) if has_fields(path) else line), where
