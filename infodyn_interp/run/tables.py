"""A table of a run file: what is done with a finished sweep, by keys named as the flags of its command."""

from pathlib import Path
from typing import Any, ClassVar

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from infodyn_interp.errors import RequestError
from infodyn_interp.run.values import Place
from infodyn_interp.run.words import refuse


class Table(BaseModel):
    """What follows a sweep.

    The model, its revision, dtype, device and threads are those of the sweep, which stands for `inside`.

    Raises:
        RequestError: a key that there is not, one that is missing, or a value that it cannot have.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: ClassVar[str]
    folder: ClassVar[str]  # of the result, in that of the sweep

    out: Place | None = Field(None, description="Folder of the result; one in that of the sweep by default.")

    def __init__(self, **keys: Any) -> None:
        try:
            super().__init__(**keys)
        except ValidationError as wrong:
            raise RequestError(f"{self.name}.{refuse(wrong, type(self).model_fields)}") from None

    def as_toml(self) -> str:
        """The table; keys without a value are left out."""
        keys = {key: value for key, value in self if value is not None}
        return tomli_w.dumps(
            {self.name: {key: str(one) if isinstance(one, Path) else one for key, one in keys.items()}}
        )

    def place(self, sweep: Path) -> Path:
        """Where the result goes.

        Args:
            sweep: folder of the sweep's.
        """
        return sweep / self.folder if self.out is None else self.out
