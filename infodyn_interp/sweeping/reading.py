"""The passes of a part: its model reads the documents of a shard, and what the stage keeps of them is written."""

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from infodyn_interp.energy.gauge import support_of
from infodyn_interp.energy.reference import choose_reference
from infodyn_interp.energy.terms import Prosody, choose_tile, rhythm_code
from infodyn_interp.errors import RunError
from infodyn_interp.hooks import Checked, Layer, capture, check
from infodyn_interp.identify.swaps import BLOCK
from infodyn_interp.models import Model, permuted_weights_twin, untrained_twin
from infodyn_interp.sweeping.carrying import Carrying
from infodyn_interp.sweeping.looking import FirstLook, SecondLook
from infodyn_interp.sweeping.memory import within_memory
from infodyn_interp.sweeping.parts import Part
from infodyn_interp.sweeping.passes import Climb, Measurement, Pass, Study
from infodyn_interp.sweeping.plans import FIRST_WINDOWS, STUDY, Shard, texts_of
from infodyn_interp.sweeping.settings import peak_mib
from infodyn_interp.sweeping.shards import Arrays, Header, spread, write_file
from infodyn_interp.texts import Batch, Texts, read_pieces

Report = Callable[[int], None]


def twin_of(model: Model, null: str, seed: int) -> Model:
    """What reads for a null: a twin of the model, or the model itself where the null is of its texts."""
    make = {"untrained": untrained_twin, "permuted_weights": permuted_weights_twin}.get(null)
    return model if make is None else make(model, seed)


class Reader:
    """A part with its model and its texts.

    Args:
        part: whose shards are computed.
        model: the study's; a null makes its own from it when a shard is computed.
        texts: of the part.
        checked: a check of this model on windows of this length, where its scores were bent on purpose since.
    """

    def __init__(self, part: Part, model: Model, texts: Texts, checked: Checked | None = None) -> None:
        self.part, self.texts = part, texts
        self._trained, self._given = model, checked
        self._strategy = choose_reference(part.settings.reference)
        self._first_windows = texts.part(windows_per_document=1)

    @cached_property
    def model(self) -> Model:
        """The model under study, or its twin."""
        return twin_of(self._trained, self.part.name, self.part.settings.seed)

    @cached_property
    def study(self) -> Study:
        """What passes after the survey read by."""
        part = self.part
        return Study(
            self.model,
            part.plan.window,
            part.plan.folds,
            part.settings.layers,
            part.settings.state_rank,
            Prosody(read_pieces(self.texts.tokenizer)),
            self._strategy,
            part.frozen_means(),
            part.checked,
            part.bases,
            part.settings.ladder_documents,
            part.settings.query_stride,
            part.settings.query_tile,
        )

    def rest(self) -> None:
        """Let go of a twin and of what passes read by, while nothing is to be computed."""
        for name in ("model", "study"):
            self.__dict__.pop(name, None)

    def prepare(self) -> None:
        """Check the model, and see which token types the reference is to know, unless that is done."""
        if not self.part.is_checked():
            checked = self._given or check(
                self.model, next(self.texts.batches(self.part.settings.micro_batch))
            )
            types = self.texts.token_types("fitted") if self._strategy.needs_means else np.zeros(0, np.int64)
            self.part.write_check(asdict(checked), types)

    def compute(self, shard: Shard, report: Report) -> None:
        """Read a shard's documents and write what the stage keeps of them.

        Args:
            report: called with the tokens read of it so far.

        Raises:
            RequestError: the stage before is not frozen.
            RunError: the model fails its check, scores are not finite, memory is not enough, or the disk refuses.
        """
        self.prepare()
        begun, digest = time.perf_counter(), self.part.digest(shard.stage)
        folds = sorted({rank % self.texts.folds for rank in shard.documents})

        def header() -> Header:
            return Header(
                run=digest,
                place=f"{shard.part} {shard.stage} {shard.index + 1}/{shard.of}",
                folds=tuple(folds),
                cells=self._cells(shard),
                tokens=shard.tokens,
                seconds=time.perf_counter() - begun,
                peak_mib=peak_mib(),
            )

        read = {
            "survey": self._survey,
            "fit": self._measure,
            "ladder": self._climb,
            "carry": self._carry,
            "look": self._look_again,
        }[shard.stage]
        with within_memory(self._trained, self.texts, self.part.settings, shard):
            write_file(self.part.file(shard), read(shard, folds, report), header)

    def _cells(self, shard: Shard) -> tuple[int, ...]:
        """Folds within groups that a shard's documents are of, where groups are told apart."""
        if not self.part.plan.groups or shard.role != "fitted":
            return ()
        ranks, folds = sorted(shard.documents), self.texts.folds
        return tuple(np.unique(self.texts.group(ranks) * folds + np.array(ranks) % folds).tolist())

    def _survey(self, shard: Shard, folds: Sequence[int], report: Report) -> Arrays:
        before = self.texts.windows("reference", range(shard.documents[0]))
        with tempfile.TemporaryDirectory(dir=self.part.folder, prefix="survey-") as scratch:
            means = self.part.means(Path(scratch), before)

            def add(layer: Layer) -> None:
                if not bool(torch.isfinite(layer.attention_input.sum())):
                    raise RunError(
                        f"layer {layer.index}: NaN in the states of reference documents {min(batch.document)} to "
                        f"{max(batch.document)}; run it in dtype float32, or leave these documents out"
                    )
                means.add(layer.index, layer.attention_input)

            for batch in self._batches(shard, report):
                means.begin(batch.tokens)
                self._capture(batch, add)
            yield from means.arrays()

    def _measure(self, shard: Shard, folds: Sequence[int], report: Report) -> Arrays:
        study, visit = self.study, Measurement(self.study, self.part.limited, self._cells(shard))
        first_key = support_of(self.texts.window).first_key
        rhythm = torch.zeros(self.texts.folds, 16 * self.texts.window, dtype=torch.float64)
        unseen = np.zeros(2)
        for batch in self._batches(shard, report):
            codes = rhythm_code(visit.begin(batch))[:, first_key:]
            of_fold = torch.from_numpy(batch.fold)[:, None].expand_as(codes)
            rhythm.index_put_((of_fold, codes), torch.ones(codes.shape, dtype=torch.float64), accumulate=True)
            if self._strategy.needs_means and study.means is not None:
                unseen += float(study.means.unseen(batch.tokens).sum()), len(batch.tokens)
            self._capture(batch, visit)
        yield "fold/all/rhythm", rhythm[folds].numpy()
        yield "sum/all/unseen", unseen
        if shard.index == 0:
            example = self.texts.one_window()
            visit.begin(example)
            received: dict[int, tuple[Tensor, Tensor]] = {}

            def keep(layer: Layer) -> None:
                received[layer.index] = visit.received(layer)

            self._capture(example, keep)
            yield "list/all/example", example.tokens[0].numpy()
            for layer, (columns, heads) in received.items():
                yield f"list/{layer}/example columns", columns.numpy()
                yield f"list/{layer}/example heads", heads.numpy()
        for layer in self.part.settings.layers:
            yield from spread(f"fold/{layer}/moments", visit.moments[layer], folds)
            yield from spread(f"fold/{layer}/surface", visit.surfaces[layer], folds)
        for layer, fine in visit.fine.items():
            yield from spread(f"fold/{layer}/fine", fine, folds)
        for layer, grouped in visit.grouped.items():
            yield from spread(f"cell/{layer}/moments", grouped)

    def _climb(self, shard: Shard, folds: Sequence[int], report: Report) -> Arrays:
        visit, own = Climb(self.study), [shard.index]
        self._pass(shard, visit, report)
        for layer, moments in visit.ladder.items():
            yield f"list/{layer}/gram", moments.gram[own]
            yield f"list/{layer}/cross", moments.cross[own]

    def _carry(self, shard: Shard, folds: Sequence[int], report: Report) -> Arrays:
        part, cells = self.part, self._cells(shard)
        visit = Carrying(self.study, part.fits, part.rungs, part.limited, part.settings.seed, cells)
        self._pass(shard, visit, report)
        for layer, carried in visit.carried.items():
            yield from carried.arrays(layer, folds)

    def _look_again(self, shard: Shard, folds: Sequence[int], report: Report) -> Arrays:
        frozen = self.part.frozen_fits()
        seen = FirstLook(self.study) if shard.swaps and not self._whole_block else None
        if seen is not None:
            self._pass(shard, seen, lambda _: None)
        visit = SecondLook(
            self.study, frozen.fits, frozen.carries, frozen.variance, swapping=shard.swaps, seen=seen
        )
        self._pass(shard, visit, report)
        yield from visit.arrays()

    @property
    def _whole_block(self) -> bool:
        """Windows are so short that a block of the swap gate fits in one forward pass."""
        return choose_tile(self.texts.window) is None

    def _pass(self, shard: Shard, visit: Pass, report: Report) -> None:
        for batch in self._batches(shard, report):
            visit.begin(batch)
            self._capture(batch, visit)

    def _capture(self, batch: Batch, visit: Callable[[Layer], None]) -> None:
        layers, checked = self.part.settings.layers, self.part.checked
        capture(self.model, batch, visit, layers=layers, checked=checked, logits_to_keep=None)

    def _batches(self, shard: Shard, report: Report) -> Iterator[Batch]:
        """The batches of a shard; each is reported once it has been worked on."""
        whole = shard.swaps and self._whole_block
        size, done = BLOCK if whole else self.part.settings.micro_batch, 0
        texts = self._first_windows if shard.stage in FIRST_WINDOWS else self.texts
        for batch in texts.batches(size, shard.role, shard.documents):
            yield batch
            done += batch.tokens.numel()
            report(done)


def readers_of(
    parts: Mapping[str, Part], model: Model, texts: Texts, checked: Checked | None = None
) -> dict[str, Reader]:
    """A reader of each part, by name; `checked` is of the study."""
    read = texts_of(texts, parts[STUDY].settings)
    return {
        name: Reader(part, model, read[name], checked if name == STUDY else None)
        for name, part in parts.items()
    }
