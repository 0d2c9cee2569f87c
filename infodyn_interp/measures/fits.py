"""What measures read by: affine maps of every layer, fitted in one pass over documents that are not measured."""

import bisect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import NamedTuple, cast

import numpy as np
import psutil
import torch
from jaxtyping import Float, Int
from torch import Tensor

from infodyn_interp.energy.gauge import Support, center_rows, support_of
from infodyn_interp.errors import RequestError, RunError
from infodyn_interp.hooks import Checked, Layer, capture, check, choose_layers, read_out
from infodyn_interp.measures.regression import RIDGE, Affine, Regression
from infodyn_interp.models import Model
from infodyn_interp.texts import Batch, Texts
from infodyn_interp.texts.windows import evenly_spaced

AT_ONCE = 256  # positions whose logits are held; with fewer the vocabulary is read too often
POSITIONS = 16  # of a window: the vocabulary makes a lens the dearest measure (science: functionals)
FIT_TOKENS = (
    16_000  # of other documents; the same for a model and its nulls, since held-out shares grow with them
)
STATE_RANK = 8  # components of a stream that make the path of a state
AFFINE = ("lens", "embedding", "feed_forward", "keys")
Report = Callable[[int], None]


class Walk(NamedTuple):
    """What one pass over the first windows of the first documents leaves, first token left out.

    Args:
        paths: of states, by layer: leading components of the stream that leaves it.
        likeliest: tokens that the model gives most at each step, likeliest first.
        log_probability: of these, nats.
    """

    paths: list[Float[np.ndarray, "document step component"]]
    likeliest: Int[np.ndarray, "document step candidate"]
    log_probability: Float[np.ndarray, "document step candidate"]


@dataclass(frozen=True, eq=False)
class Reading:
    """A model on texts: what every measure reads.

    Args:
        model: from `open_model`, or a twin.
        texts: documents to measure, and others (role `reference`) to fit on.
        layers: those that are measured.
        micro_batch: windows in one forward pass.
        ridge: of the fitted maps, in units of each direction's variance.
        seed: of whatever is random.
        fit_tokens: read of other documents, at most.
        report: called with the tokens read so far.
        walks: what `paths` reads of the first windows by what was fitted, once for all measures.
    """

    model: Model
    texts: Texts
    layers: tuple[int, ...]
    micro_batch: int = 4
    ridge: float = RIDGE
    seed: int = 0
    fit_tokens: int = FIT_TOKENS
    report: Report = lambda _tokens: None
    walks: "dict[Fitted, Walk]" = field(default_factory=dict)

    @classmethod
    def of(
        cls, model: Model, texts: Texts, layers: Sequence[int] | None = None, **others: object
    ) -> "Reading":
        """What is measured, refused where it cannot be.

        Raises:
            RequestError: a layer that is not there, windows longer than the context, or too little memory.
        """
        chosen = choose_layers(model, layers)
        if model.context is not None and texts.window > model.context:
            raise RequestError(
                f"window: {texts.window} tokens asked, the model's context holds {model.context}"
            )
        need = 6 * 8 * len(chosen) * model.width**2 / 2**30
        free = psutil.virtual_memory().available / 2**30
        if need > free:
            raise RequestError(
                f"layers: moments of {len(chosen)} layers take {need:.1f} GiB, {free:.1f} are free; ask for fewer"
            )
        return cls(model, texts, chosen, **others)  # type: ignore[arg-type]

    @cached_property
    def checked(self) -> Checked:
        """The parity preflight on the first windows."""
        return check(self.model, next(self.texts.batches(self.micro_batch)))

    @property
    def visited(self) -> tuple[int, ...]:
        """The layers, with the first and the last of the model: the embedding and the output lie there."""
        return tuple(sorted({0, *self.layers, self.model.layers - 1}))

    @property
    def positions(self) -> Int[Tensor, " position"]:
        """The fixed positions at which outputs are read; never the first, where there is nothing to read from."""
        return torch.from_numpy(1 + evenly_spaced(self.texts.window - 1, POSITIONS))

    @cached_property
    def supports(self) -> dict[int, Support]:
        """The pairs that count, by layer."""
        return {layer: support_of(self.texts.window, self.checked.reach[layer]) for layer in self.layers}

    def others(self) -> Iterator[Batch]:
        """Windows to fit on."""
        return self._read("reference", documents_to_fit(self.texts, self.fit_tokens))

    def measured(self) -> Iterator[Batch]:
        """Windows to measure."""
        return self._read("fitted", None)

    def first_windows(self, documents: int, size: int) -> Iterator[Batch]:
        """The first window of each of the first documents, `size` at a time."""
        texts = self.texts.part(windows_per_document=1)
        return texts.batches(size, documents=range(min(documents, texts.documents)))

    def capture(self, batch: Batch, visit: Callable[[Layer], None], *wants: str) -> None:
        """One pass, each layer handed over with what it is wanted for."""
        capture(
            self.model,
            batch,
            visit,
            wants=wants,
            layers=self.visited,
            checked=self.checked,
            logits_to_keep=None,
        )

    def _read(self, role: str, documents: range | None) -> Iterator[Batch]:
        done = 0
        for batch in self.texts.batches(self.micro_batch, role, documents):
            yield batch
            done += batch.tokens.numel()
            self.report(done)


def documents_to_fit(texts: Texts, tokens: int) -> range:
    """The first of the other documents: as many as hold that many tokens, and one at least."""
    counts = range(1, texts.reference_documents + 1)
    return range(max(1, bisect.bisect(counts, tokens, key=lambda n: texts.tokens("reference", range(n)))))


@dataclass(frozen=True)
class LayerMaps:
    """One layer's maps, all fitted on other documents.

    Args:
        lens: from the stream that leaves the block to the one that leaves the last.
        embedding: from the same to the one that enters the first.
        feed_forward: from what the MLP receives to what it adds.
        keys: from what attention receives to the energy that each head gives a key: the prosody field, linear in the
            state.
        mean, components: of the stream that leaves the block, to unit variance.
    """

    lens: Affine
    embedding: Affine
    feed_forward: Affine
    keys: Affine
    mean: Float[Tensor, " direction"]
    components: Float[Tensor, "direction component"]

    def state(self, stream: Float[Tensor, "*batch direction"]) -> Float[Tensor, "*batch component"]:
        """The state that a stream leaving the block is in, on the CPU."""
        return (stream.double().cpu() - self.mean.double()) @ self.components.double()


@dataclass(frozen=True, eq=False)
class Fitted:
    """What measures of one model read by.

    Args:
        maps: by layer.
        unigram: log of the model's mean next-token distribution, nats.
        tokens: it was fitted on.
    """

    maps: dict[int, LayerMaps]
    unigram: Float[Tensor, " vocabulary"]
    tokens: int


def fit_maps(reading: Reading) -> Fitted:
    """Fit every layer's maps in one pass over other documents.

    Raises:
        RunError: the model fails its check, or its states are not finite.
    """
    model, width = reading.model, reading.model.width
    streams = {layer: Regression(width, 2 * width) for layer in reading.layers}
    mlps = {layer: Regression(width, width) for layer in reading.layers}
    keys = {layer: Regression(width, model.heads) for layer in reading.layers}
    read, positions = read_out(model), reading.positions
    left: dict[int, Tensor] = {}
    entered: list[Tensor] = []
    total, places = torch.zeros(()), 0

    def visit(layer: Layer) -> None:
        if layer.index == 0:
            entered[:] = [cast(Tensor, layer.residual_in)[:, 1:].clone()]
        left[layer.index] = cast(Tensor, layer.residual_out)[:, 1:].clone()
        if not bool(torch.isfinite(left[layer.index].sum())):
            raise RunError(f"layer {layer.index}: NaN in its stream; run it in dtype float32")
        if layer.index in mlps:
            mlps[layer.index].add(*(cast(Tensor, part)[:, 1:] for part in (layer.mlp_in, layer.mlp_out)))
            seen, energy = key_energies(layer, reading.supports[layer.index])
            keys[layer.index].add(layer.attention_input[:, seen], energy)

    for batch in reading.others():
        reading.capture(batch, visit, "residual_in", "residual_out", "mlp_in", "mlp_out")
        last = left[model.layers - 1]
        for layer, regression in streams.items():
            regression.add(left[layer], torch.cat([last, entered[0]], -1))
        with torch.inference_mode():
            outputs = read(last[:, positions.to(last.device) - 1]).float().softmax(-1)
        total, places = total + outputs.double().sum((0, 1)).cpu(), places + outputs[..., 0].numel()
        left.clear()
    tokens = next(iter(streams.values())).count
    maps = {}
    for layer in reading.layers:
        both = streams[layer].solve(reading.ridge)
        maps[layer] = LayerMaps(
            lens=both.part(slice(width)),
            embedding=both.part(slice(width, None)),
            feed_forward=mlps[layer].solve(reading.ridge),
            keys=keys[layer].solve(reading.ridge),
            mean=streams[layer].mean,
            components=streams[layer].components(min(STATE_RANK, width)),
        )
    return Fitted(maps, (total / places).clamp(min=1e-30).log(), tokens)


def key_energies(
    layer: Layer, support: Support
) -> tuple[Int[Tensor, " key"], Float[Tensor, "window key head"]]:
    """The keys that some query sees, and the mean over these of the row-centred energy each gets (nats)."""
    dtype = torch.promote_types(layer.scores.dtype, torch.float32)
    counts = support.seen
    seen = counts.nonzero()[:, 0].to(layer.scores.device)
    energy = center_rows(-layer.scores.to(dtype), support).sum(2)[..., seen]
    return seen, (energy / counts.to(energy)[seen]).mT


def spread_maps(fitted: Fitted) -> Iterator[tuple[str, np.ndarray]]:
    """The arrays of what was fitted, by name, in single precision."""
    yield "unigram", fitted.unigram.numpy()
    yield "tokens", np.array(fitted.tokens)
    for layer, maps in fitted.maps.items():
        for name in AFFINE:
            affine: Affine = getattr(maps, name)
            for part in fields(affine):
                yield f"{layer}/{name}/{part.name}", getattr(affine, part.name).float().numpy()
        yield f"{layer}/mean", maps.mean.float().numpy()
        yield f"{layer}/components", maps.components.float().numpy()


def collect_maps(arrays: Mapping[str, np.ndarray], layers: Sequence[int]) -> Fitted:
    """What `spread_maps` gave."""

    def tensor(name: str) -> Tensor:
        return torch.from_numpy(np.array(arrays[name]))

    def affine(name: str) -> Affine:
        return Affine(**{part.name: tensor(f"{name}/{part.name}") for part in fields(Affine)})

    maps = {
        layer: LayerMaps(
            **{name: affine(f"{layer}/{name}") for name in AFFINE},
            mean=tensor(f"{layer}/mean"),
            components=tensor(f"{layer}/components"),
        )
        for layer in layers
    }
    return Fitted(maps, tensor("unigram"), int(arrays["tokens"]))
