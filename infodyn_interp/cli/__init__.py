"""The command `infodyn`: requests are checked before anything is loaded, errors are one line.

Modules that need torch, xarray or pandas are imported where they are used, so that `infodyn --help` is quick.
"""

import os
import signal
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import typer

from infodyn_interp.cli.commands import app
from infodyn_interp.errors import RequestError, RunError, one_line

GO_ON = "what is finished is kept, and the same command goes on from there"
DONE, FAILED, REFUSED, INTERRUPTED, TERMINATED = 0, 1, 2, 130, 143


class _Terminated(BaseException):
    """SIGTERM, raised where the program is, so that every block closes what it opened."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `infodyn` and return its exit code: 0 done, 1 failed, 2 refused, 130 and 143 interrupted."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"] or ["--help"]
    try:
        with _terminable(), warnings.catch_warnings():
            if not debug:
                _quieten()
            code = app(words, prog_name="infodyn", standalone_mode=False) or DONE
        if code == INTERRUPTED:
            raise KeyboardInterrupt
        return code
    except (RequestError, typer.TyperException) as reason:
        return _say(reason, REFUSED, debug)
    except RunError as reason:
        return _say(reason, FAILED, debug)
    except KeyboardInterrupt as reason:
        return _say(reason, INTERRUPTED, debug, f"interrupted; {GO_ON}")
    except _Terminated as reason:
        return _say(reason, TERMINATED, debug, f"terminated; {GO_ON}")
    except Exception as reason:
        return _say(
            reason, FAILED, debug, f"{type(reason).__name__}: {one_line(reason)}; --debug shows where"
        )


def _say(reason: BaseException, code: int, debug: bool, what: str | None = None) -> int:
    if debug:
        traceback.print_exception(reason)
    if isinstance(reason, typer.TyperException):
        what = " ".join(reason.format_message().replace("Value error, ", "").split())
    print(f"infodyn: {what or one_line(reason)}", file=sys.stderr)  # noqa: T201
    return code


def _quieten() -> None:
    """Keep other packages' progress bars and advice off the terminal, where they would break ours."""
    warnings.simplefilter("ignore")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


@contextmanager
def _terminable() -> Iterator[None]:
    def terminate(number: int, frame: object) -> None:
        raise _Terminated

    try:
        before = signal.signal(signal.SIGTERM, terminate)
    except ValueError:  # not the main thread, where signals are someone else's
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
