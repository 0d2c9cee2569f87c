"""The flags of a command: one for every key of the run file or of its tables, so that no key is declared twice."""

import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Annotated, Any, TypeVar

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from infodyn_interp.run import explain, flag_type

Command = TypeVar("Command", bound=Callable[..., None])


def with_keys(
    model: type[BaseModel], *, required: bool, only: Collection[str] | None = None
) -> Callable[[Command], Command]:
    """Give a command that takes `**flags` one for each key of a run or a table; `given` makes keys of them.

    Args:
        model: `Run`, `Observe` or `Measures`; one after another where flags come from several.
        required: keys without a default must be given.
        only: these keys; all by default.
    """

    def decorate(command: Command) -> Command:
        own = [
            one for one in inspect.signature(command).parameters.values() if one.kind is not one.VAR_KEYWORD
        ]
        first = [one for one in own if one.default is one.empty]
        last = [one.replace(kind=one.KEYWORD_ONLY) for one in own if one.default is not one.empty]
        keys = {key: field for key, field in model.model_fields.items() if only is None or key in only}
        flags = [flag for key, field in keys.items() for flag in _flags(key, field, required)]
        command.__signature__ = inspect.Signature([*first, *flags, *last])  # type: ignore[attr-defined]
        return command

    return decorate


def given(flags: Mapping[str, Any]) -> dict[str, Any]:
    """The keys that were given; `--no-split` takes back the `split` of a file."""
    keys = {key: value for key, value in flags.items() if value is not None}
    return {key.removeprefix("no_"): False if key.startswith("no_") else value for key, value in keys.items()}


def _flags(key: str, field: FieldInfo, required: bool) -> list[inspect.Parameter]:
    kind, name, empty = flag_type(field), key.replace("_", "-"), inspect.Parameter.empty

    def flag(parameter: str, declared: str, default: Any = None, **more: Any) -> inspect.Parameter:
        option = typer.Option(declared, help=explain(field), **more)
        return inspect.Parameter(
            parameter,
            inspect.Parameter.KEYWORD_ONLY,
            default=default,
            annotation=Annotated[kind | None, option],
        )

    if kind is not bool:
        metavar = "N" if kind in (int, float) else "TEXT"
        return [flag(key, f"--{name}", empty if required and field.is_required() else None, metavar=metavar)]
    if field.default:
        return [flag(key, f"--{name}/--no-{name}", metavar="")]
    # hidden, for a second column of names as long as these would leave the help no room
    return [flag(key, f"--{name}", metavar=""), flag(f"no_{key}", f"--no-{name}", hidden=True)]
