"""Windows of a model with all that the passes of a run read by, so that each pass can be timed alone."""

import statistics
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from infodyn_interp.energy.carry import fit_carry
from infodyn_interp.energy.fitting import fit
from infodyn_interp.energy.ladder import RANKS
from infodyn_interp.energy.reference import BASIS_STATES, MeanStates, choose_reference
from infodyn_interp.energy.terms import WHOLE_WINDOW, Prosody
from infodyn_interp.hooks import Layer, capture, check
from infodyn_interp.identify.swaps import BLOCK
from infodyn_interp.models import Model
from infodyn_interp.sweeping import Settings
from infodyn_interp.sweeping.carrying import Carrying
from infodyn_interp.sweeping.looking import SecondLook
from infodyn_interp.sweeping.passes import Climb, Measurement, Pass, Study
from infodyn_interp.texts import Batch, read_pieces

FOLDS = 4  # of the windows, so that fits leave some out


def time_rows(rows: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median seconds of each row: once to warm up, then `repeats` times in turn; a GPU is waited for."""
    wait = torch.accelerator.synchronize if torch.accelerator.is_available() else lambda: None
    for run in rows.values():
        run()
    wait()
    seconds: dict[str, list[float]] = {name: [] for name in rows}
    for _ in range(repeats):
        for name, run in rows.items():
            begun = time.perf_counter()
            run()
            wait()
            seconds[name].append(time.perf_counter() - begun)
    return {name: statistics.median(values) for name, values in seconds.items()}


class Bench:
    """A micro-batch, a block of the swap gate, and the passes over them.

    Args:
        model: from `open_model`.
        tokens: the micro-batch.
        settings: of the run.
        scratch: a folder for mean states.
        block: first windows of `BLOCK` documents; by default the micro-batch over and over, of windows so long that
            no gate reads a block of them at once only enough for every fold.
    """

    def __init__(
        self,
        model: Model,
        tokens: Int[Tensor, "window key"],
        settings: Settings,
        scratch: Path,
        block: Int[Tensor, "document key"] | None = None,
    ) -> None:
        if block is None:
            count = BLOCK if tokens.shape[1] <= WHOLE_WINDOW else FOLDS
            block = tokens.repeat(-(-count // len(tokens)), 1)[:count]
        self.model, self.settings = model, settings
        self.windows, self.block = (_batch_of(rows.to(model.device)) for rows in (tokens, block))
        self.checked = check(model, self.windows)
        self._means, self._surveyed = (
            self._empty(scratch / name, count)
            for name, count in (("read", len(block)), ("timed", BASIS_STATES))
        )
        for piece in self._pieces():
            self._survey(piece, self._means)
        self._means.finish()
        rank = settings.state_rank
        self._bases = {layer: self._means.basis(layer, rank, 0, max(RANKS)) for layer in settings.layers}
        named = model.tokenizer is not None
        self._prosody = Prosody(read_pieces(model.tokenizer) if named else [""] * model.bridge.cfg.d_vocab)
        self.finer, self.climb = self.fit(profiled=settings.limits), Climb(self._study(settings.reference))
        self.read_block(self.finer)
        for piece in self._pieces(FOLDS):  # one window for each of its super-folds
            self.read(self.climb, piece)
        self._fits = {layer: fit(moments) for layer, moments in self.finer.moments.items()}

    def survey(self) -> None:
        """A survey of the micro-batch."""
        self._survey(self.windows, self._surveyed)

    def fit(self, reference: str | None = None, profiled: Collection[int] = ()) -> Measurement:
        """A fit pass, under the run's reference by default."""
        return Measurement(self._study(reference or self.settings.reference), profiled)

    def carry(self, *, ladder: bool = False, limited: Collection[int] = ()) -> Carrying:
        """A carry pass, by fits of the block."""
        rungs = {
            layer: moments.rungs(self._fits[layer].chosen, self.climb.study.ranks)
            for layer, moments in self.climb.ladder.items()
            if ladder
        }
        return Carrying(self._study(self.settings.reference), self._fits, rungs, limited)

    def look(
        self, carry: Carrying, reference: str | None = None, *, swapping: bool, filtering: bool = True
    ) -> SecondLook:
        """A second look, by what a carry pass has read of the block."""
        carries = {layer: fit_carry(carried.own.chosen) for layer, carried in carry.carried.items()}
        variance = {layer: carried.variance_without for layer, carried in carry.carried.items()}
        study = self._study(reference or self.settings.reference)
        return SecondLook(study, self._fits, carries, variance, swapping=swapping, filtering=filtering)

    def read(self, visit: Pass, batch: Batch | None = None, keep: int | None = 1) -> None:
        """One pass over the micro-batch, or over another batch; `keep` as in `capture`."""
        batch = self.windows if batch is None else batch
        visit.begin(batch)
        self._capture(batch, visit, keep)

    def read_block(self, visit: Pass) -> None:
        """One pass over the block, a micro-batch at a time."""
        for piece in self._pieces():
            self.read(visit, piece)

    def _pieces(self, count: int | None = None) -> Iterator[Batch]:
        tokens = self.block.tokens[:count]
        for first in range(0, len(tokens), len(self.windows.tokens)):
            yield _batch_of(tokens[first : first + len(self.windows.tokens)], first)

    def forward(self, keep: int) -> object:
        """The plain forward pass of the bridge."""
        tokens = self.windows.tokens
        with torch.inference_mode():
            return self.model.bridge(tokens, use_cache=False, output_attentions=False, logits_to_keep=keep)

    def _empty(self, folder: Path, windows: int) -> MeanStates:
        folder.mkdir()
        tokens = torch.cat([self.windows.tokens, self.block.tokens])
        return MeanStates(
            folder,
            self.settings.layers,
            np.unique(tokens.cpu().numpy()),
            self.model.width,
            tokens.shape[1],
            windows,
            self.model.learned_positions,
        )

    def _survey(self, batch: Batch, means: MeanStates) -> None:
        means.begin(batch.tokens)
        self._capture(batch, lambda layer: means.add(layer.index, layer.attention_input), None)

    def _study(self, reference: str) -> Study:
        return Study(
            self.model,
            self.windows.tokens.shape[1],
            FOLDS,
            self.settings.layers,
            self.settings.state_rank,
            self._prosody,
            choose_reference(reference),
            self._means,
            self.checked,
            self._bases,
            query_stride=self.settings.query_stride,
            query_tile=self.settings.query_tile,
        )

    def _capture(self, batch: Batch, visit: Callable[[Layer], None], keep: int | None) -> None:
        layers = self.settings.layers
        capture(self.model, batch, visit, layers=layers, checked=self.checked, logits_to_keep=keep)


def _batch_of(rows: Int[Tensor, "window key"], first: int = 0) -> Batch:
    each = np.arange(first, first + len(rows))
    return Batch(rows, each, np.zeros_like(each), each % FOLDS)
