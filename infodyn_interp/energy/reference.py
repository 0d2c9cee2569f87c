"""Surface scores: what a head would score from its surface alone, so that `energy = reference - scores` (seed 1.1).

The model's scores are its own `Q K'`, so an energy needs a declared reference. A survey of documents that are not
fitted gives the mean attention input of every token type; the layer's own attention module is then run on those.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, ClassVar, Protocol, runtime_checkable

import numpy as np
import scipy.cluster.vq
import scipy.linalg
import scipy.spatial.distance
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from infodyn_interp.energy.gauge import FIRST_KEY, Support
from infodyn_interp.energy.terms import CENTRES, Basis
from infodyn_interp.errors import RequestError
from infodyn_interp.hooks import Layer, Scores

SHRINKAGE = 2.0  # pseudo-occurrences of the layer's mean state in every type mean
BASIS_STATES = 4096  # states a layer's basis is made from
TABLE = "mean_states.f32"  # its file
WIDTH_STATES = 1024  # states whose distances give the width of the radial basis functions
ROW_STRIDE = (
    16  # queries between two that set surface against scores: softmaxes of all cost a fifth of a pass
)


class MeanStates:
    """Mean attention input of every token type of a run, by layer, on disk; one layer in memory at a time.

    Fed by `add` during the survey, or by `absorb` from surveys of other windows, closed by `finish`; keys before
    `first_key` (sinks) are left out.

    Args:
        folder: where the table is kept.
        layers: the layers surveyed.
        types: sorted distinct token ids of the fitted windows; no others are kept.
        width: directions of the attention input.
        window: tokens in a window.
        windows: windows of the survey.
        by_position: also keep means by position (models with learned absolute positions).
        first: windows of the survey before the ones that are added here.
        finished: what `summary` gave of a table that lies finished in `folder`.
    """

    def __init__(
        self,
        folder: Path,
        layers: tuple[int, ...],
        types: Int[np.ndarray, " type"],
        width: int,
        window: int,
        windows: int,
        by_position: bool,
        first: int = 0,
        finished: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        self.layers = layers
        self._types = torch.from_numpy(types)
        self._by_position = by_position
        self._window = window
        self._rows = len(types) + (window if by_position else 0)
        self._table = folder / TABLE
        self._sample = folder / "state_sample.f32"
        self._each = min(window - FIRST_KEY, -(-BASIS_STATES // windows))
        self._width, self._sampled = width, self._each * windows
        self._place = {layer: place for place, layer in enumerate(layers)}
        self._first = self._begun = first
        if finished is not None:
            self.counts, self.mean = (torch.from_numpy(finished[name]) for name in ("counts", "mean"))
            return
        for path, rows in ((self._table, self._rows), (self._sample, self._sampled)):
            with path.open("wb") as file:
                _reserve(file, 4 * len(layers) * rows * width)
        self.counts = torch.zeros(self._rows, dtype=torch.float64)
        self._sums = torch.zeros(len(layers), width, dtype=torch.float64)
        self._tokens = 0

    def _open(self, path: Path, layer: int, rows: int) -> Float[Tensor, "row direction"]:
        """One layer of a table; unmapped when the tensor is dropped."""
        offset = 4 * self._place[layer] * rows * self._width
        if not rows:
            return torch.zeros(0, self._width)
        return torch.from_numpy(np.memmap(path, np.float32, "r+", offset, (rows, self._width)))

    def begin(self, tokens: Int[Tensor, "window key"]) -> None:
        """Start a batch of survey windows, before its layers are added."""
        tokens = tokens.cpu()
        windows, length = tokens.shape
        known = torch.isin(tokens, self._types)
        known[:, :FIRST_KEY] = False
        self._known, self._known_rows = known, torch.searchsorted(self._types, tokens[known])
        self.counts.index_add_(0, self._known_rows, torch.ones(len(self._known_rows), dtype=torch.float64))
        if self._by_position:
            self.counts[len(self._types) :] += windows
        self._tokens += windows * (length - FIRST_KEY)
        # evenly spaced keys, shifted from window to window so that every position is met
        span = length - FIRST_KEY
        ordinal = torch.arange(self._begun, self._begun + windows)[:, None]
        even = torch.arange(self._each) * span // self._each
        self._picked = FIRST_KEY + (even + ordinal) % span
        self._picked_rows = slice(self._begun * self._each, (self._begun + windows) * self._each)
        self._begun += windows

    def add(self, layer: int, attention_input: Float[Tensor, "window key direction"]) -> None:
        """Add one layer of the batch begun last."""
        states = attention_input.float().cpu()
        self._sums[self._place[layer]] += states[:, FIRST_KEY:].sum((0, 1), dtype=torch.float64)
        table = self._open(self._table, layer, self._rows)
        table.index_add_(0, self._known_rows, states[self._known])
        if self._by_position:
            table[len(self._types) :] += states.sum(0)
        sample = self._open(self._sample, layer, self._sampled)
        windows = torch.arange(len(states))[:, None]
        sample[self._picked_rows] = states[windows, self._picked].flatten(0, 1)

    def arrays(self) -> Iterator[tuple[str, np.ndarray]]:
        """What was added, before it is finished: rows that were met, sums, and the sampled states."""
        rows = self.counts.nonzero()[:, 0]
        sampled = np.array([self._first * self._each, self._begun * self._each])
        yield "rows", rows.numpy()
        yield "counts", self.counts[rows].numpy()
        yield "sums", self._sums.numpy()
        yield "tokens", np.array(self._tokens)
        yield "sampled", sampled
        for layer in self.layers:
            yield f"{layer}/table", self._open(self._table, layer, self._rows)[rows].numpy()
            yield f"{layer}/sample", self._open(self._sample, layer, self._sampled)[slice(*sampled)].numpy()

    def absorb(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Add what the survey of other windows gave as `arrays`."""
        rows, sampled = torch.from_numpy(arrays["rows"]), slice(*arrays["sampled"].tolist())
        self.counts[rows] += torch.from_numpy(arrays["counts"])
        self._sums += torch.from_numpy(arrays["sums"])
        self._tokens += int(arrays["tokens"])
        for layer in self.layers:
            table, sample = (
                self._open(self._table, layer, self._rows),
                self._open(self._sample, layer, self._sampled),
            )
            table[rows] += torch.from_numpy(arrays[f"{layer}/table"])
            sample[sampled] = torch.from_numpy(arrays[f"{layer}/sample"])

    def summary(self) -> dict[str, np.ndarray]:
        """What `finished` takes, beside the table on disk."""
        return {"counts": self.counts.numpy(), "mean": self.mean.numpy()}

    def finish(self) -> None:
        """Turn sums into means, shrunk to the layer's mean state: `(sum + 2 mean) / (count + 2)`."""
        self.mean = (self._sums / self._tokens).float()
        weights = (self.counts + SHRINKAGE).float()[:, None]
        for layer in self.layers:
            table = self._open(self._table, layer, self._rows)
            table.add_(SHRINKAGE * self.mean[self._place[layer]]).div_(weights)

    def drop_sample(self) -> None:
        """Remove the sampled states once every basis is made."""
        self._sample.unlink()

    def lexical(self, layer: int, tokens: Int[Tensor, "window key"]) -> Float[Tensor, "window key direction"]:
        """Each token's mean state, with its position's effect where positions are learned.

        A type that the run did not have counts as one that the survey never saw. Windows may be shorter than the run's.
        """
        place, known = self._places(tokens)
        table = self._open(self._table, layer, self._rows)[: len(self._types)]
        states = torch.where(known[..., None], table[place], self.mean[self._place[layer]])
        return states + self._position_effect(layer, tokens.shape[1]) if self._by_position else states

    def average(self, layer: int, tokens: Int[Tensor, "window key"]) -> Float[Tensor, "window key direction"]:
        """The layer's mean state everywhere, with its position's effect where positions are learned."""
        states = self.mean[self._place[layer]].expand(*tokens.shape, -1)
        return states + self._position_effect(layer, tokens.shape[1]) if self._by_position else states

    def _position_effect(self, layer: int, length: int) -> Float[Tensor, "key direction"]:
        table = self._open(self._table, layer, self._rows)[len(self._types) :]
        return table[:length] - self.mean[self._place[layer]]

    def _places(
        self, tokens: Int[Tensor, "window key"]
    ) -> tuple[Int[Tensor, "window key"], Bool[Tensor, "window key"]]:
        """Row of each token's type, and whether it has one."""
        place = torch.searchsorted(self._types, tokens.cpu()).clamp(max=max(len(self._types) - 1, 0))
        return place, self._types[place] == tokens.cpu()

    def unseen(self, tokens: Int[Tensor, "window key"]) -> Float[Tensor, " window"]:
        """Share of each window's tokens whose type the survey never saw."""
        place, known = self._places(tokens)
        return ((self.counts[place] == 0) | ~known).double().mean(1)

    def basis(self, layer: int, rank: int, seed: int, kept: int = 0) -> Basis:
        """The layer's frozen coordinates from the survey's sampled states; arguments as in `fit_basis`."""
        return fit_basis(self._open(self._sample, layer, self._sampled).numpy(), rank, seed, kept)


def _reserve(file: BinaryIO, size: int) -> None:
    """Make a file of zeros for which there is room: a mapped one that the disk cannot hold would end the process."""
    file.truncate(size)
    if size and hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, size)


def fit_basis(states: Float[np.ndarray, "state direction"], rank: int, seed: int, kept: int = 0) -> Basis:
    """Whitened leading components, k-means++ centres and the median distance of a sample of states.

    Args:
        states: attention inputs of one layer, keys from `first_key` on.
        rank: components of z.
        seed: of the centres.
        kept: components kept, at least those of z and at most as many as the states vary in.

    Raises:
        RequestError: more components than the states have.
    """
    if rank > min(states.shape):
        raise RequestError(f"state rank: {rank} asked, {min(states.shape)} are there")
    sample = states.astype(np.float64)
    mean = sample.mean(0)
    covariance = np.cov(sample, rowvar=False)
    size = len(covariance)
    kept = max(rank, min(kept, *states.shape))
    variances, vectors = scipy.linalg.eigh(covariance, subset_by_index=[size - kept, size - 1])
    variances, vectors = variances[::-1], vectors[:, ::-1]
    vectors = vectors * np.sign(vectors[np.abs(vectors).argmax(0), np.arange(kept)])
    floor = np.finfo(np.float32).eps * max(variances[0], np.finfo(np.float64).tiny)
    kept = max(rank, int((variances > floor).sum()))
    components = vectors[:, :kept] / np.sqrt(np.maximum(variances[:kept], floor))
    z = (sample - mean) @ components[:, :rank]
    generator = np.random.default_rng(seed)
    centres, _ = scipy.cluster.vq.kmeans2(z, CENTRES, minit="++", seed=generator, missing="warn")
    few = z[generator.choice(len(z), min(WIDTH_STATES, len(z)), replace=False)]
    width = float(np.median(scipy.spatial.distance.pdist(few)))
    return Basis(
        torch.from_numpy(mean).float(), torch.from_numpy(components).float(), torch.from_numpy(centres), width
    )


@runtime_checkable
class Reference(Protocol):
    """A strategy for surface scores. Add your own to `REFERENCES` under a name and ask for it by that name.

    `means` is None for a strategy that says it `needs_means = False`.
    """

    needs_means: ClassVar[bool]

    def __call__(
        self, layer: Layer, tokens: Int[Tensor, "window key"], means: MeanStates | None
    ) -> Scores | None:
        """Surface scores of one layer in nats, at the positions of `layer.scores`; None stands for zeros."""
        ...


class Lexical:
    """What the head would score if each position held the mean state of its token type."""

    needs_means: ClassVar[bool] = True

    def __call__(self, layer: Layer, tokens: Tensor, means: MeanStates | None) -> Scores | None:
        return layer.factor_again(_known(means).lexical(layer.index, tokens).to(tokens.device))


class Position:
    """What the head would score if every position held the layer's mean state."""

    needs_means: ClassVar[bool] = True

    def __call__(self, layer: Layer, tokens: Tensor, means: MeanStates | None) -> Scores | None:
        return layer.factor_again(_known(means).average(layer.index, tokens).to(tokens.device))


class Zero:
    """No surface: the energy is minus the score."""

    needs_means: ClassVar[bool] = False

    def __call__(self, layer: Layer, tokens: Tensor, means: MeanStates | None) -> Scores | None:
        return None


class Own:
    """The model's own queries and keys, by the same second look as `Lexical`: the energy must be 0."""

    needs_means: ClassVar[bool] = False

    def __call__(self, layer: Layer, tokens: Tensor, means: MeanStates | None) -> Scores | None:
        return layer.look_again(layer.attention_input)


REFERENCES: dict[str, Callable[[], Reference]] = {
    "lexical": Lexical,
    "position": Position,
    "zero": Zero,
    "own": Own,
}


def choose_reference(name: str) -> Reference:
    """The strategy of that name.

    Raises:
        RequestError: there is none.
    """
    if name not in REFERENCES:
        raise RequestError(f"reference: {name!r} is not one of {', '.join(REFERENCES)}")
    return REFERENCES[name]()


def _known(means: MeanStates | None) -> MeanStates:
    if means is None:
        raise RequestError("this reference needs the survey's mean states")
    return means


@dataclass(frozen=True)
class SurfaceFit:
    """Sums by fold that say how well a reference explains the scores and how far the energy bends them.

    All are read on every 16th query, or as near to that as a stride of queries allows. The last dimension is the head,
    another may stand before it (layers).

    Args:
        products: row-centred scores with themselves, reference with itself, and the two, in nats^2.
        bending: KL(pattern || softmax(reference)) in nats over all visible keys, then over the support's; queries whose
            first key is another, over both; queries.
        pairs: query-key pairs in `products`.
    """

    products: Float[Tensor, "fold 3 *layer head"]
    bending: Float[Tensor, "fold 5 *layer head"]
    pairs: Float[Tensor, " fold"]

    @classmethod
    def empty(cls, folds: int, heads: int) -> "SurfaceFit":
        """No data yet."""
        return cls(*(torch.zeros(folds, *rest, dtype=torch.float64) for rest in ((3, heads), (5, heads), ())))

    def add(
        self,
        scores: Float[Tensor, "window head query key"],
        reference: Scores,
        mask: Bool[Tensor, "query key"],
        support: Support,
        folds: Int[Tensor, " window"],
    ) -> None:
        """Add a batch, each window to its fold, in place."""
        step = max(1, ROW_STRIDE // support.query_stride)
        of_support = slice(support.rows_of(0, support.first_query).stop, None, step)
        rows = support.queries[of_support].to(scores.device)
        dtype = torch.promote_types(scores.dtype, torch.float32)
        live, declared = scores[:, :, rows].to(dtype), reference[:, :, rows].to(dtype)
        counted = support.mask[of_support].to(scores.device)
        weight = counted.to(dtype)
        inverse = support.inverse_counts[of_support].to(live)[:, None]
        centred, surface = (
            (x - (x * weight).sum(-1, keepdim=True) * inverse) * weight for x in (live, declared)
        )
        pairs = ((centred, centred), (surface, surface), (centred, surface))
        products = torch.stack([(a * b).sum((-2, -1)) for a, b in pairs], 1).double()
        bent = []
        for visible in (mask[rows], counted):
            log_live, log_declared = (
                x.masked_fill(~visible, -torch.inf).log_softmax(-1) for x in (live, declared)
            )
            terms = log_live.exp() * (log_live - log_declared).masked_fill_(~visible, 0)
            bent += [terms.sum((-2, -1)), (log_live.argmax(-1) != log_declared.argmax(-1)).sum(-1)]
        count = torch.full_like(bent[0], len(rows))
        bending = torch.stack([value.double() for value in (bent[0], bent[2], bent[1], bent[3], count)], 1)
        self.products.index_add_(0, folds, products.cpu())
        self.bending.index_add_(0, folds, bending.cpu())
        self.pairs.index_add_(0, folds, torch.full((len(folds),), float(counted.sum()), dtype=torch.float64))
