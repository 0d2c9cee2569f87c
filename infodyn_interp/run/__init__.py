"""The run file: one validated description of a whole study, the same from TOML, from flags and from Python."""

import hashlib
import json
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from infodyn_interp.errors import RequestError, brief
from infodyn_interp.identify.nulls import NULLS
from infodyn_interp.run.replies import Observe
from infodyn_interp.run.tables import Table
from infodyn_interp.run.trajectories import MANY, Measures
from infodyn_interp.run.values import (
    Dtype,
    Heads,
    Layers,
    Limits,
    Memory,
    Nulls,
    Place,
    Precisions,
    bounded,
    choose_precisions,
    list_layers,
    list_names,
    read_bytes,
)
from infodyn_interp.run.words import explain, flag_type, refuse

__all__ = [
    "Measures",
    "Observe",
    "Run",
    "choose_precisions",
    "digest_of",
    "explain",
    "flag_type",
    "list_layers",
    "list_names",
    "read",
    "read_bytes",
    "read_table",
]

WHERE = {
    "out",
    "workers",
    "engine",
    "address",
}  # it is computed and kept: nothing of a result depends on these
Asked = TypeVar("Asked", bound=Table)


class Run(BaseModel):
    """A whole study: the model, the texts, and everything that decides its result.

    A key is a line of a run file, a flag of the command line (`--state-rank` for `state_rank`) and an argument here.

    Raises:
        RequestError: a key that there is not, one that is missing, or a value that it cannot have.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    model: str = Field(min_length=1, description="A name on the hub, a folder, a .gguf file, or demo.")
    texts: Place = Field(
        description="JSONL, text, parquet or a saved dataset, or a folder of them, .gz and .zst too; or -."
    )
    out: Place = Field(description="Folder that receives result.nc.")
    revision: str | None = Field(
        None, description="Branch, tag or commit of a hub model; its newest by default."
    )
    trust_remote_code: bool = Field(False, description="Run code that comes with a model.")
    dtype: Dtype = Field("float32", description="Of the model's weights.")
    device: str | None = Field(None, description="cpu, cuda, ...; the best there is by default.")
    field: str | None = Field(
        None, description="JSONL field that holds the text; text, or prompt and completion, by default."
    )
    by: str | None = Field(
        None,
        min_length=1,
        description="Field whose values group the documents, to be contrasted; none by default.",
    )
    split: bool = Field(False, description="Blank lines separate the documents of a text file.")
    window: int = Field(256, ge=32, description="Tokens in a window.")
    documents: int | None = Field(None, ge=4, description="Documents to fit; all that remain by default.")
    windows_per_document: int = Field(
        8, ge=1, description="Most windows of a fitted document, evenly spaced."
    )
    reference_documents: int | None = Field(
        None, ge=1, description="Documents of the reference; half of all by default."
    )
    reference_windows_per_document: int = Field(
        16, ge=1, description="Most windows of a reference document, evenly spaced."
    )
    folds: int = Field(24, ge=2, description="Most folds of documents.")
    layers: Layers = Field("all", description="Layers to fit, as 0,10,20 or start:stop:step, or all.")
    reference: Literal["lexical", "position", "zero", "own"] = Field(
        "lexical", description="What energy is measured from."
    )
    state_rank: int = Field(8, ge=1, description="Components of the state.")
    carry: bool = Field(True, description="Fit the carry-over: two more passes.")
    ladder_documents: int = Field(96, ge=8, description="Most documents of the carry-over's ladder.")
    series: bool = Field(False, description="Keep the carry-over |M_t| by document, not its means alone.")
    nulls: Nulls = Field(NULLS, description="Nulls, as untrained,shuffled_tokens, or all, or none.")
    null_share: float = Field(1 / 3, gt=0, le=1, description="Share of the folds that a null reads.")
    null_reference_tokens: int = Field(8_000, ge=1, description="Fewest tokens of each null's own reference.")
    limits: Limits = Field(
        "all", description="Layers that get detection limits, as 0,10,20 or start:stop:step, or all, or none."
    )
    ablate: Heads = Field(
        (), description="Heads whose terms are taken out of the live model, as 10.3,12.0, or none."
    )
    precisions: Precisions = Field(
        (), description="Other dtypes to read the carry-over in, as float64,bfloat16, or none; a pass each."
    )
    query_stride: int = Field(1, ge=1, description="Every so many queries are used: a cheap first look.")
    query_tile: int | None = Field(
        None, ge=16, description="Queries whose maps are held at once; 128 in windows above 512 by default."
    )
    seed: int = Field(0, ge=0, le=2**63 - 1, description="Of everything random.")
    micro_batch: int | None = Field(
        None, ge=1, description="Windows in one forward; 4 by default, or what memory allows."
    )
    memory: Memory | None = Field(
        None, description="Most that one process may take, as 8GiB; no bound by default."
    )
    documents_per_shard: int | None = Field(
        None, ge=1, description="Documents read as one piece, lost by a kill; as many as folds by default."
    )
    workers: int = Field(1, ge=1, description="Processes, each with a model of its own.")
    engine: Literal["local", "ray"] = Field("local", description="Who computes: this machine, or Ray.")
    address: str | None = Field(None, description="Of a running Ray cluster; one on this machine by default.")
    threads: int | None = Field(None, ge=1, description="CPU threads; torch's own number by default.")

    def __init__(self, **keys: Any) -> None:
        try:
            super().__init__(**keys)
        except ValidationError as wrong:
            raise RequestError(refuse(wrong, Run.model_fields)) from None

    @model_validator(mode="after")
    def _agree(self) -> "Run":
        if self.series and not self.carry:
            raise RequestError("series: true asked, but carry is false, and the series is of the carry-over")
        if self.precisions and not self.carry:
            raise RequestError("precisions: they are of the carry-over, and carry is false")
        if self.revision is not None and (
            self.model == "demo" or os.path.isabs(_model(self.model, Path.cwd()))
        ):
            raise RequestError(f"revision: {self.model} has none; leave it out, or name a model on the hub")
        if bounded(self.limits, "limits"):
            fitted = set(list_layers(self.layers, MANY))
            for layer in list_layers(self.limits, MANY, "limits"):
                if layer not in fitted:
                    raise RequestError(f"limits: layer {layer} asked, the fitted layers are {self.layers}")
        return self

    @property
    def study(self) -> dict[str, Any]:
        """The keys that have a value and decide a result, in the types of TOML; paths from the root on."""
        keys = {key: value for key, value in self if value is not None and key not in WHERE}
        return keys | {"model": _model(self.model, Path.cwd()), "texts": _written(self.texts)}

    @property
    def digest(self) -> str:
        """Of all that is asked, wherever its result goes."""
        return digest_of(self.study)

    def as_toml(self) -> str:
        """The run file that asks for this from any folder; keys without a value are named in comments."""
        unset = (f"# {key}: {explain(Run.model_fields[key])}\n" for key, value in self if value is None)
        where = {key: value for key, value in self if key in WHERE and value is not None}
        return tomli_w.dumps(self.study | where | {"out": _written(self.out)}) + "".join(unset)


def read(file: str | os.PathLike[str], **flags: Any) -> Run:
    """Read a run file (TOML in UTF-8). Its relative paths start from its own folder.

    Args:
        file: its path.
        flags: keys that replace those of the file, with paths as they are; None leaves a key to the file.
    Raises:
        RequestError: the file cannot be read, or does not describe a run: what, where, and what would.
    """
    folder, given = Path(file).parent, {key: value for key, value in flags.items() if value is not None}
    keys = _parse(Path(file))
    for table in (Observe, Measures):
        keys.pop(table.name, None)
    for key, located in (("texts", _locate), ("out", _locate), ("model", _model)):
        if isinstance(keys.get(key), str):
            keys[key] = located(keys[key], folder)
    try:
        return Run(**(keys | given))
    except RequestError as wrong:
        if str(wrong).partition(":")[0] in given:
            raise
        raise RequestError(f"{file}: {wrong}") from None


def read_table(file: str | os.PathLike[str], table: type[Asked]) -> Asked | None:
    """A table of a run file, `Observe` or `Measures`, or None. Its relative paths start from the file's own folder.

    Raises:
        RequestError: the file cannot be read, or the table does not describe what it is of.
    """
    if (keys := _parse(Path(file)).get(table.name)) is None:
        return None
    if not isinstance(keys, dict):
        raise RequestError(
            f"{file}: {table.name}: {brief(keys)} is no table; write its keys below a line [{table.name}]"
        )
    for key, located in (("prompts", _locate), ("out", _locate), ("embedder", _model)):
        if isinstance(keys.get(key), str):
            keys[key] = located(keys[key], Path(file).parent)
    try:
        return table(**keys)
    except RequestError as wrong:
        raise RequestError(f"{file}: {wrong}") from None


def digest_of(description: Mapping[str, object]) -> str:
    """Sixteen hexadecimal digits that stand for a description, in whatever order it is given."""
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()[:16]


def _parse(file: Path) -> dict[str, Any]:
    try:
        text = file.read_bytes().decode("utf-8-sig")
        return tomllib.loads(text)
    except OSError as wrong:
        raise RequestError(f"{file}: {wrong.strerror}; name a run file, which is TOML") from None
    except UnicodeDecodeError as wrong:
        line = wrong.object[: wrong.start].count(b"\n") + 1
        raise RequestError(f"{file}: not UTF-8 at line {line}; save it as UTF-8") from None
    except (ValueError, RecursionError) as wrong:
        *before, last = text.split("\n")
        end = f"at line {len(before) + 1}, column {len(last) + 1}"
        raise RequestError(
            f"{file}: {str(wrong).replace('at end of document', end)}; it is not TOML"
        ) from None


def _locate(path: str, folder: Path) -> str:
    """A path from a folder on; standard input is everywhere."""
    return path if path in ("", "-") else str(folder / os.path.expanduser(path))


def _model(name: str, folder: Path) -> str:
    """A model's path from a folder on, where it is one; else its name."""
    path = _locate(name, folder)
    return path if name != "demo" and (name.startswith((".", "/", "~")) or os.path.exists(path)) else name


def _written(path: Path) -> str:
    """A path from the root on, as text that any file can hold."""
    return os.fsencode(_locate(str(path), Path.cwd())).decode(errors="backslashreplace")
