"""The two ways a request can end badly; the command line turns them into exit codes 2 and 1."""

import json


class RequestError(ValueError):
    """The request is wrong and nothing was begun. The message is one line: what, where, what to do."""


class RunError(RuntimeError):
    """The work was begun and cannot go on. The message is one line: what, where, what to do."""


def one_line(reason: BaseException) -> str:
    """What an exception says, on one line; its kind where it says nothing."""
    return " ".join(str(reason).split()) or type(reason).__name__


def brief(value: object) -> str:
    """A value as a user would write it, cut so that it leaves room on its line."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 40 else f"{text[:37]}..."
