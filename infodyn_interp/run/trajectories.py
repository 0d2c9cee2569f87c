"""The table `[measures]` of a run file: what is measured of trajectories after the sweep, and read inside by it."""

from typing import Annotated, ClassVar

from pydantic import BeforeValidator, Field, model_validator

from infodyn_interp.errors import RequestError
from infodyn_interp.identify.nulls import TWINS, choose_twins
from infodyn_interp.run.tables import Table
from infodyn_interp.run.values import Layers, Place, bounded, list_layers, list_names

MANY = 10_000  # layers: more than any model has


def _twin_names(value: object) -> object:
    names = TWINS if value == "all" else list_names(value)
    return choose_twins(names) if isinstance(names, tuple) else names


Names = Annotated[tuple[str, ...], BeforeValidator(list_names)]
Twins = Annotated[tuple[str, ...], BeforeValidator(_twin_names)]


class Measures(Table):
    """Measures of trajectories that follow a sweep; keys are named as the flags of `infodyn measures`.

    Texts and windows are those of the sweep, as its seed is.

    Raises:
        RequestError: a key that there is not, or a value that it cannot have.
    """

    name: ClassVar[str] = "measures"
    folder: ClassVar[str] = "path"

    out: Place | None = Field(
        None, description="Folder of the result; path, in that of the sweep, by default."
    )
    measures: Names | None = Field(
        None, description="Which, as fidelity,stability,action,jumps,maps; all that can be by default."
    )
    layers: Layers = Field("all", description="Layers to measure, as 0,10,20 or start:stop:step, or all.")
    nulls: Twins = Field(TWINS, description="Nulls, as untrained,shuffled_tokens, or all, or none.")
    null_share: float = Field(1 / 3, gt=0, le=1, description="Share of the folds that a null reads.")
    fit_tokens: int = Field(
        16_000, ge=1, description="Most tokens of other documents that maps are fitted on."
    )
    walked: int = Field(
        8,
        ge=1,
        description="Documents whose blocks are differentiated and whose tokens are each read out; of a null its"
        " share, four at least.",
    )
    ridge: float = Field(1e-3, gt=0, description="Of the fitted maps, in units of each direction's variance.")
    micro_batch: int = Field(4, ge=1, description="Windows in one forward.")

    @model_validator(mode="after")
    def _agree(self) -> "Measures":
        if bounded(self.layers, "layers") and len(list_layers(self.layers, MANY)) < 2:
            raise RequestError(f"layers: {self.layers} asked, a trajectory in depth needs at least 2")
        return self
