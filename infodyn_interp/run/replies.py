"""The table `[observe]` of a run file: replies that are drawn after the sweep, and read inside by it."""

from typing import Annotated, ClassVar

from pydantic import BeforeValidator, Field

from infodyn_interp.errors import RequestError, brief
from infodyn_interp.run.tables import Table
from infodyn_interp.run.values import Place


def _several(value: object) -> object:
    """Temperatures as a tuple, whether one comes or a list."""
    several = value if isinstance(value, list | tuple) else [value]
    if not several or any(type(one) not in (int, float) for one in several):
        raise RequestError(f"temperature: {brief(value)} is not a number, or a list such as [0.7, 1.0]")
    return tuple(map(float, several))


Temperatures = Annotated[tuple[float, ...], BeforeValidator(_several)]


class Observe(Table):
    """Replies that follow a sweep; keys are named as the flags of `infodyn observe`.

    The untrained twin reads along where it is among the sweep's nulls.

    Raises:
        RequestError: a key that there is not, one that is missing, or a value that it cannot have.
    """

    name: ClassVar[str] = "observe"
    folder: ClassVar[str] = "seen"

    prompts: Place = Field(description="JSONL with a field prompt, or text of one a line.")
    out: Place | None = Field(
        None, description="Folder of the result; seen, in that of the sweep, by default."
    )
    field: str | None = Field(None, description="JSONL field that holds the prompt; prompt by default.")
    trials: int = Field(12, ge=2, description="Replies to each prompt, at each temperature.")
    tokens: int = Field(128, ge=2, description="Most tokens of a reply.")
    temperature: Temperatures = Field(
        (1.0,), description="One or several, as [0.7, 1.0]; as 0.7,1.0 for a flag."
    )
    top_p: float = Field(1.0, gt=0, le=1, description="Draw from the likeliest tokens of this probability.")
    seed: int = Field(0, ge=0, le=2**63 - 1, description="Of everything random.")
    chat: bool = Field(False, description="Put prompts into the model's chat template.")
    alpha: float = Field(0.1, gt=0, le=1, description="Of the floating equilibrium.")
    step: str = Field("token", description="token, sentence, or window:8.")
    embedder: str | None = Field(
        None, description="A sentence-transformers folder, package or name; own_unembedding by default."
    )
    sweep_alpha: bool = Field(
        False, description="Also other values of alpha, beside bands without structure."
    )
    instantiation: bool = Field(
        False, description="Also compare how freely trials differ with no prompt and in the chat template."
    )
    instantiation_tokens: int = Field(16, ge=2, description="Of each of those trials.")
    micro_batch: int = Field(4, ge=1, description="Replies in one forward.")
