"""What a step is as a point: by a sentence embedder, by any function of texts, or by the model's own unembedding."""

import importlib.util
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from jaxtyping import Float
from transformers import PreTrainedModel

from infodyn_interp.errors import RequestError
from infodyn_interp.models import Model, unbridged
from infodyn_interp.observe.steps import Steps

OWN = "own_unembedding"
WARNING = (
    "the embedder is the model's own unembedding: inside and outside share weights, so what shows may be no more than"
    " that; an embedder of its own (--embedder) does not"
)
PROBES = ("A train left the station.", "x")  # of unlike lengths, which must not make unlike widths
Embed = Callable[[list[str]], Any]


@dataclass(frozen=True)
class Embedder:
    """Texts to points.

    Args:
        name: what it is called in results.
        embed: a list of texts to an array `(text, direction)` of floats.
    """

    name: str
    embed: Embed

    def __call__(self, texts: Sequence[str]) -> Float[np.ndarray, "text direction"]:
        """Points of some texts, each text embedded once.

        Raises:
            RequestError: not one row of finite floats for each text, all of one width.
        """
        distinct = list(dict.fromkeys(texts))
        try:
            points = np.asarray(self.embed(distinct))
        except ValueError as reason:
            if "inhomogeneous" not in str(reason):
                raise
            raise RequestError(
                f"embedder {self.name}: rows of unlike width; it must give each text as many numbers"
            ) from None
        if points.ndim != 2 or len(points) != len(distinct):
            raise RequestError(
                f"embedder {self.name}: an array of shape {list(points.shape)} for {len(distinct)} texts;"
                " it must give each a row of numbers, all of one width"
            )
        if points.dtype.kind != "f":
            raise RequestError(
                f"embedder {self.name}: numbers of type {points.dtype}; it must give float32 or float64"
            )
        if not np.isfinite(points).all():
            place = int((~np.isfinite(points)).any(1).argmax())
            raise RequestError(
                f"embedder {self.name}: NaN or infinity for {distinct[place][:40]!r}; mend it, or take another"
            )
        at = {text: place for place, text in enumerate(distinct)}
        return points.astype(np.float64)[[at[text] for text in texts]]

    def probe(self) -> None:
        """See, before any work, that it gives what is needed.

        Raises:
            RequestError: as when called.
        """
        together = self(PROBES)
        for text in PROBES:
            if (alone := self([text])).shape[1] != together.shape[1]:
                raise RequestError(
                    f"embedder {self.name}: {alone.shape[1]} numbers for one text, {together.shape[1]} for another;"
                    " it must give each text as many"
                )


def choose_embedder(embedder: str | os.PathLike[str] | Embed) -> Embedder:
    """A sentence-transformers model by its folder, its installed package or its name; or a function of a list of texts.

    Raises:
        RequestError: it cannot be found, or the package that reads it is missing.
    """
    if not isinstance(embedder, str | os.PathLike):
        if not callable(embedder):
            raise RequestError(
                f"embedder: give a name, a folder or a function, not {type(embedder).__name__}"
            )
        return Embedder(getattr(embedder, "__name__", type(embedder).__name__), embedder)
    name = os.fspath(embedder)
    if importlib.util.find_spec("sentence_transformers") is None:
        raise RequestError(
            f"embedder {name}: sentence-transformers is missing: pip install 'infodyn-interp[embed]'"
        )
    from sentence_transformers import SentenceTransformer

    place = next(_folders(name), name)
    try:
        model = SentenceTransformer(str(place))
    except Exception as reason:  # a hub out of reach says so in many ways
        said = " ".join(str(reason).split())[:120]
        raise RequestError(
            f"embedder {name}: cannot be opened ({said}); name a folder, or an installed package"
        ) from None
    return Embedder(Path(name).name, lambda texts: model.encode(texts, show_progress_bar=False))


def _folders(name: str) -> Iterator[Path]:
    """Where a model of that name lies on this computer: its folder, or one inside an installed package."""
    if Path(name).expanduser().is_dir():
        yield from _models_in(Path(name).expanduser())
    elif (package := name.replace("-", "_")).isidentifier() and (
        spec := importlib.util.find_spec(package)
    ) is not None:
        for folder in spec.submodule_search_locations or []:
            yield from _models_in(Path(folder))


def _models_in(folder: Path) -> Iterator[Path]:
    return (file.parent for file in sorted(folder.rglob("modules.json")))


def unembed(model: Model, tokens: Sequence[int], steps: Steps) -> Float[np.ndarray, "step direction"]:
    """Each step as the mean of its tokens' rows of the model's unembedding."""
    with unbridged(model.bridge) as module:
        weights = cast(PreTrainedModel, module).get_output_embeddings().weight
    rows = weights[list(tokens)].detach().double().cpu().numpy().T
    return steps.average(rows).T
