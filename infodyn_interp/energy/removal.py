"""Is a fitted term used? Take it out of the live scores and see what the outputs lose (science: causal check).

A random energy of the same norm raises the loss by nature, so the zero is a placebo, not 0.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import numpy as np
import torch
import xarray
from jaxtyping import Bool, Float, Int
from torch import Tensor

from infodyn_interp.energy.fields import Field
from infodyn_interp.energy.fitting import TERMS, Estimate
from infodyn_interp.energy.terms import Prosody
from infodyn_interp.errors import RequestError
from infodyn_interp.hooks import Checked, Energy, Layer, bent_scores, capture, check, resumed
from infodyn_interp.models import Model
from infodyn_interp.texts import Batch, read_pieces

MEASURES = {"loss": "nats", "kl": "nats", "inertia": "1", "repeats": "1"}
KINDS = ("permuted", "other_document")
BY_MEASURE = "see the coordinate unit"
CHUNK = 4  # windows a forward: their logits are the largest array
ROW_STRIDE = 16  # queries between two whose effect on the pattern is split: one decomposition each


class Unseen(NamedTuple):
    """How much of each row's change no output can show, and of a random direction of the same norm."""

    share: Float[Tensor, "*batch query"]
    random: Float[Tensor, "*batch query"]


def unseen_share(
    change: Float[Tensor, "*batch query key"],
    values: Float[Tensor, "*#batch key width"],
    mask: Bool[Tensor, "query key"] | None = None,
) -> Unseen:
    """Share of a pattern's change in the left null space of `[V, 1]`: the head's output stays (second gauge, seed 1.1).

    Args:
        change: of the attention pattern.
        values: of the head, one row a key; one head's values may serve several that share them.
        mask: keys each query can see, all by default; the others count neither as change nor as values.

    Returns:
        By row, the share of the squared norm (NaN where nothing changed) and what a random direction has on
        average, `1 - rank / keys`. Rows with no more keys than the rank have no null space: 0.
    """
    columns = torch.nn.functional.pad(values.double(), (0, 1), value=1.0)
    precision = torch.finfo(values.dtype).eps
    shares, expected = [], []
    for query, row in enumerate(change.double().unbind(-2)):
        seen = slice(None) if mask is None else mask[query]
        row, rows = row[..., seen], columns[..., seen, :]
        left, sizes, _ = torch.linalg.svd(rows, full_matrices=False)
        kept = sizes > max(rows.shape[-2:]) * precision * sizes[..., :1]
        free = 1 - kept.sum(-1).double() / row.shape[-1]
        inside = (row[..., None, :] @ (left * kept[..., None, :])).square().sum((-2, -1))
        whole = row.square().sum(-1)
        # where nothing is free, the difference of two equal norms is rounding
        null = torch.where(free > 0, whole - inside, 0.0).clamp(min=0)
        shares.append(null / whole)
        expected.append(free.expand(whole.shape))
    return Unseen(torch.stack(shares, -1), torch.stack(expected, -1))


def ablate(
    model: Model,
    batch: Int[Tensor, "window key"] | Batch,
    result: xarray.DataTree,
    *,
    layer: int | None = None,
    head: int | None = None,
    term: str = "track",
    placebos: int = 10,
    seed: int = 0,
    checked: Checked | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> xarray.Dataset:
    """Take a fitted term out of the live scores and compare the change of the outputs with that of placebos.

    The term is computed on the live attention inputs, so in several layers at once it follows what its removal
    upstream has changed. Placebos have the term's norm in every head and window: `permuted` is the term with the keys
    of each row shuffled over the support, `other_document` the term of another document's window as the intact
    model has it. Outputs are read from `first_query` on, where energies begin.

    Args:
        model: the model the result is of.
        batch: windows of the fitted length. Of a `texts.Batch`, `document` tells whose each window is, and `fold`
            chooses the coefficients that never saw it, so fitted documents serve as well as others; windows of a fold
            that was not fitted take those of all documents. So do plain token ids, each window a document of its own:
            of these, give none that was fitted.
        result: from `sweep` or `open_result`; its group `basis` is read.
        layer, head: where to remove the term; in all of the result by default, together.
        term: `prosody`, `rhythm`, `state` or `track`.
        placebos: of each kind, at least 2. There are no more of other documents than there are windows of theirs
            to take (the rest is NaN), and none for a single document.
        seed: of the permutations.
        checked: from `check`, for loops; made on these windows when left out.
        progress: called with tokens done and tokens in all, of the passes in which something is planted.

    Returns:
        By `measure` (`loss` and `kl` of the next token in nats, `inertia`: mean cosine of successive steps of the
        final stream, `repeats`: rate at which the likeliest next token is the token it follows): `intact`, and as a
        change from there `removed`, `placebo` (by `kind` and `placebo`), `difference` (removed minus the mean of
        placebos, all kinds alike) and `difference_by_kind`. The four have `_by_document` and a 95 % interval over
        documents, `_low` and `_high`. `no_causal_effect` is true where that of the loss difference covers 0.
        `unseen_share` is the share of the term's effect on each head's pattern that its output cannot show, over
        every 16th query of the intact model; `unseen_share_random` that of a random direction.

    Raises:
        RequestError: a term, layer or head that is not there, windows of another length, fewer than 2 placebos, a
            result of another model, or scores that cannot be bent.
    """
    tokens, owner, fold = _windows(batch)
    if "basis" not in result.children:
        raise RequestError("result: it has no basis; sweep the model first")
    basis = result["basis"].to_dataset()
    if term not in TERMS:
        raise RequestError(f"term: {term!r} is not one of {', '.join(TERMS)}")
    if placebos < 2:
        raise RequestError(f"placebos: {placebos} asked, a mean to compare with needs at least 2")
    if (window := tokens.shape[1]) != basis.attrs["window"]:
        raise RequestError(f"window: {window} tokens given, the terms were fitted on {basis.attrs['window']}")
    if (basis.sizes["direction"], basis.sizes["head"]) != (model.width, model.heads):
        raise RequestError(f"result: not of {model.name}: its states or heads are of another number")
    layers = basis["layer"].values.tolist() if layer is None else [layer]
    heads = basis["head"].values.tolist() if head is None else [head]
    prosody = _prosody(model) if term in ("prosody", "rhythm") else None
    fields = {place: Field.of(basis, place, heads, term, prosody) for place in layers}
    checked = check(model, tokens) if checked is None else checked
    states, unseen = _survey(model, tokens, fold, fields, heads, checked)
    removal = _Removal(model, tokens, fold, fields, heads, checked, states, seed)
    documents, member = np.unique(owner, return_inverse=True)
    intact, removed, placebo = (
        np.stack([part[..., member == document, :].mean(-2) for document in range(len(documents))], -2)
        for part in _changes(removal, partners_of(member, placebos), placebos, progress or (lambda *_: None))
    )
    by_kind = removed - np.nanmean(placebo, 1)
    difference = _intervals(
        "difference", by_kind.mean(0), ("measure",), "removed minus the mean of placebos of all kinds"
    )
    loss = list(MEASURES).index("loss")
    low, high = (difference[f"difference_{end}"].values[loss] for end in ("low", "high"))
    grid = ("layer", "head")
    return xarray.Dataset(
        {
            "intact": _label(("measure",), intact.mean(0), "the intact model's", BY_MEASURE),
            **_intervals("removed", removed, ("measure",), "change where the term is removed"),
            **_intervals("placebo", placebo, ("kind", "draw", "measure"), "change under a placebo"),
            **difference,
            **_intervals(
                "difference_by_kind",
                by_kind,
                ("kind", "measure"),
                "removed minus the mean of placebos of a kind",
            ),
            "no_causal_effect": _label(
                (), not (low > 0 or high < 0), "the interval of the loss difference covers 0"
            ),
            "unseen_share": _label(
                grid, unseen[0], "share of the term's effect on the pattern that no output can show"
            ),
            "unseen_share_random": _label(grid, unseen[1], "the same of a random direction of its norm"),
        },
        coords={
            "measure": list(MEASURES),
            "unit": ("measure", list(MEASURES.values())),
            "kind": list(KINDS[: len(placebo)]),
            "document": documents,
            "layer": layers,
            "head": heads,
        },
        attrs={
            "term": term,
            "windows": len(tokens),
            "documents": len(documents),
            "placebos": placebos,
            "seed": seed,
        },
    )


def _windows(batch: Tensor | Batch) -> tuple[Int[Tensor, "window key"], np.ndarray, np.ndarray]:
    """Tokens, and the document and fold of each window; a fold of -1 is none."""
    tokens = batch if isinstance(batch, Tensor) else batch.tokens
    if tokens.ndim != 2 or not len(tokens):
        raise RequestError(f"batch: token ids of at least one window are needed; shape {list(tokens.shape)}")
    if isinstance(batch, Tensor):
        return tokens, np.arange(len(tokens)), np.full(len(tokens), -1)
    return tokens, batch.document, batch.fold


def _prosody(model: Model) -> Prosody:
    if model.tokenizer is None:
        raise RequestError("term: rhythm is made from the text of tokens; open the model with tokenizer=")
    return Prosody(read_pieces(model.tokenizer))


def partners_of(member: Int[np.ndarray, " window"], placebos: int) -> Int[np.ndarray, "placebo window"]:
    """A window of another document for each window, by cyclic shifts; no two placebos take the same."""
    windows = [np.flatnonzero(member == document) for document in range(member.max() + 1)]
    others, turns = len(windows) - 1, min(map(len, windows))
    out = np.zeros((min(placebos, others * turns), len(member)), int)
    for one in range(len(out)):
        for document, own in enumerate(windows):
            theirs = windows[(document + 1 + one % others) % len(windows)]
            out[one, own] = theirs[(np.arange(len(own)) + one // others) % len(theirs)]
    return out


def _survey(
    model: Model,
    tokens: Tensor,
    fold: np.ndarray,
    fields: dict[int, Field],
    heads: Sequence[int],
    checked: Checked,
) -> tuple[dict[int, Tensor], Float[np.ndarray, "kind layer head"]]:
    """One intact pass: every window's states by layer, and the unseen share of the term's effect by head."""
    states: dict[int, list[Tensor]] = {place: [] for place in fields}
    parts = {place: torch.zeros(3, len(heads), dtype=torch.float64) for place in fields}

    def visit(layer: Layer) -> None:
        field, known = fields[layer.index], states[layer.index]
        known.append(field.states(layer.attention_input))
        chunk = slice(CHUNK * (len(known) - 1), CHUNK * len(known))
        rows = torch.arange(field.support.window - 1, field.support.first_query - 1, -ROW_STRIDE)
        energy = field.energy(known[-1], tokens[chunk], fold[chunk])[:, :, rows].double()
        scores = layer.scores[:, heads][:, :, rows].double().cpu()
        change = (scores + energy).softmax(-1) - scores.softmax(-1)
        mask, values = layer.mask[rows].cpu(), cast(Tensor, layer.values).cpu().transpose(1, 2)
        size = model.heads // values.shape[1]
        for group in {one // size for one in heads}:
            own = [place for place, one in enumerate(heads) if one // size == group]
            shares = torch.stack(unseen_share(change[:, own], values[:, [group]], mask)).nan_to_num()
            weight = (change[:, own] * mask).square().sum(-1)
            parts[layer.index][:2, own] += (shares * weight).sum((1, 3))
            parts[layer.index][2, own] += weight.sum((0, 2))

    for first in range(0, len(tokens), CHUNK):
        capture(
            model, tokens[first : first + CHUNK], visit, wants=("values",), layers=fields, checked=checked
        )
    shares = torch.stack([part[:2] / part[2] for part in parts.values()], 1).numpy()
    return {place: torch.cat(known) for place, known in states.items()}, shares


class _Outputs(NamedTuple):
    log_probabilities: Float[Tensor, "window query vocabulary"]
    stream: Float[Tensor, "window query direction"]


@dataclass(frozen=True)
class _Removal:
    """The term of the chosen layers and heads, what is planted in its stead, and what comes out."""

    model: Model
    tokens: Int[Tensor, "window key"]
    fold: Int[np.ndarray, " window"]
    fields: dict[int, Field]
    heads: list[int]
    checked: Checked
    states: dict[int, Tensor]
    seed: int

    @property
    def _first(self) -> int:
        return next(iter(self.fields.values())).support.first_query

    def nothing(self, layer: int, attention_input: Tensor, tokens: Tensor) -> None:
        """The intact model."""

    def removed(self, chunk: slice) -> Energy:
        def energy(layer: int, attention_input: Tensor, tokens: Tensor) -> Tensor:
            return self._added(self._term(layer, attention_input, chunk))

        return energy

    def permuted(self, chunk: slice, placebo: int) -> Energy:
        def energy(layer: int, attention_input: Tensor, tokens: Tensor) -> Tensor:
            term = self._term(layer, attention_input, chunk)
            support = self.fields[layer].support
            windows = range(len(self.tokens))[chunk]
            draws = [
                np.random.default_rng((self.seed, placebo, layer, window)).random(term.shape[1:], np.float32)
                for window in windows
            ]
            key = torch.arange(support.window, dtype=torch.float32)
            # keys off the support keep their places on its two sides
            aside = torch.where(key < support.start[:, None], key - support.window, key + 1)
            order = torch.where(support.mask, torch.from_numpy(np.stack(draws)), aside).argsort(-1)
            return self._added(term.gather(-1, order))

        return energy

    def other(self, chunk: slice, partners: Int[np.ndarray, " window"]) -> Energy:
        def energy(layer: int, attention_input: Tensor, tokens: Tensor) -> Tensor:
            term = self._term(layer, attention_input, chunk)
            theirs = self.fields[layer].energy(
                self.states[layer][partners], self.tokens[partners], self.fold[partners]
            )
            own, size = (part.square().sum((-2, -1), keepdim=True).sqrt() for part in (term, theirs))
            return self._added(theirs * torch.where(size > 0, own / size, 0.0))

        return energy

    def _term(self, layer: int, attention_input: Tensor, chunk: slice) -> Tensor:
        field = self.fields[layer]
        return field.energy(field.states(attention_input), self.tokens[chunk], self.fold[chunk])

    def _added(
        self, term: Float[Tensor, "window chosen query key"]
    ) -> Float[Tensor, "window head query key"]:
        """Minus the term in the chosen heads, 0 in the others: scores are reference minus energy."""
        planted = term.new_zeros(len(term), self.model.heads, *term.shape[2:])
        planted[:, self.heads] = -term
        return planted

    def run(self, chunk: slice, energy: Energy, kept: list[Any]) -> _Outputs:
        """Outputs of some windows from the first query on, with an energy planted; `kept` as in `resumed`."""
        stream: list[Tensor] = []

        def visit(layer: Layer) -> None:
            stream.append(cast(Tensor, layer.residual_out)[:, self._first :].float())

        with bent_scores(self.model, self.fields, energy), resumed(self.model, min(self.fields), kept):
            logits = capture(
                self.model,
                self.tokens[chunk],
                visit,
                wants=("residual_out",),
                layers=(self.model.layers - 1,),
                checked=self.checked,
                logits_to_keep=self.tokens.shape[1] - self._first,
            )
        return _Outputs(logits.float().log_softmax(-1), *stream)

    def measure(self, chunk: slice, intact: _Outputs, now: _Outputs) -> Float[np.ndarray, "window measure"]:
        """`MEASURES` of each window."""
        rows = []
        for tokens, before, after, stream in zip(
            self.tokens[chunk, self._first :].to(self.model.device),
            intact.log_probabilities,
            now.log_probabilities,
            now.stream,
            strict=True,
        ):
            steps = stream.diff(dim=0)
            rows.append(
                [
                    -after[:-1].gather(-1, tokens[1:, None]).mean().item(),
                    (before.exp() * (before - after)).sum(-1).mean().item(),
                    torch.cosine_similarity(steps[1:], steps[:-1], dim=-1).mean().item(),
                    (after.argmax(-1) == tokens).float().mean().item(),
                ]
            )
        return np.array(rows)


def _changes(
    removal: _Removal,
    partners: Int[np.ndarray, "placebo window"],
    placebos: int,
    report: Callable[[int, int], None],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """By window and measure: the intact model, and the change from there where the term is removed and replaced."""
    windows = len(removal.tokens)
    intact, removed = (np.zeros((windows, len(MEASURES))) for _ in range(2))
    placebo = np.full((len(KINDS) if len(partners) else 1, placebos, *removed.shape), np.nan)
    for first in range(0, windows, CHUNK):
        chunk, kept = slice(first, first + CHUNK), list[Any]()
        before = removal.run(chunk, removal.nothing, kept)
        intact[chunk] = removal.measure(chunk, before, before)
        energies = [
            removal.removed(chunk),
            *(removal.permuted(chunk, one) for one in range(placebos)),
            *(removal.other(chunk, partner[chunk]) for partner in partners),
        ]
        total, size = removal.tokens.numel() * len(energies), removal.tokens[chunk].numel()
        after = []
        for done, energy in enumerate(energies, 1):
            after.append(removal.measure(chunk, before, removal.run(chunk, energy, kept)))
            report(removal.tokens[:first].numel() * len(energies) + size * done, total)
        removed[chunk], *others = np.stack(after) - intact[chunk]
        placebo[0, :, chunk] = others[:placebos]
        for one, other in enumerate(others[placebos:]):
            placebo[1, one, chunk] = other
    return intact, removed, placebo


def _label(dims: Sequence[str], values: object, words: str, unit: str = "1") -> xarray.Variable:
    return xarray.Variable(tuple(dims), np.asarray(values), {"units": unit, "long_name": words})


def _intervals(
    name: str, by_document: Float[np.ndarray, "*place document measure"], dims: Sequence[str], words: str
) -> dict[str, xarray.Variable]:
    """Mean over documents, its 95 % interval (t, documents - 1; NaN for one document) and what it is made of."""
    value = by_document.mean(-2)
    low = high = np.full_like(value, np.nan)
    if by_document.shape[-2] > 1:
        estimate = Estimate.of_folds(np.moveaxis(by_document, -2, 0))
        low, high = estimate.low, estimate.high
    out = {name: _label(dims, value, words, BY_MEASURE)}
    for end, side, values in (("low", "lower", low), ("high", "upper", high)):
        text = f"{words}, {side} end of the 95 % interval over documents"
        out[f"{name}_{end}"] = _label(dims, values, text, BY_MEASURE)
    out[f"{name}_by_document"] = _label(
        (*dims[:-1], "document", dims[-1]), by_document, f"{words}, by document", BY_MEASURE
    )
    return out
