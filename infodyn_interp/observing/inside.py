"""The inside of replies, read by one clean forward pass over prompt and reply: series, and nothing else, are kept."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from infodyn_interp.energy.gauge import Support, center_rows, support_of
from infodyn_interp.energy.terms import Prosody, columns_of, pair_fields, state_columns
from infodyn_interp.errors import RunError
from infodyn_interp.hooks import LOGIT_BOUND, LOGIT_BOUND_HALF, Checked, Layer, capture
from infodyn_interp.models import Model
from infodyn_interp.observe.sampling import NOTHING, Replies
from infodyn_interp.sweeping.keeping import Kept, Terms
from infodyn_interp.sweeping.passes import Pass, Study
from infodyn_interp.texts import Batch

WITHOUT = ("residual_energy", "state_step")  # what can be read without a sweep
FIELDS = ("residual_energy", "rhythm", "state", "track", "carry", "state_step")
Rows = dict[str, dict[int, list[Tensor]]]  # by series and layer, windows in order


@dataclass(frozen=True)
class Inside:
    """One model ready to read replies.

    Args:
        model: the model, or its twin.
        checked: the parity preflight, on windows as long as the longest of the run.
        layers: that are read.
        kept: of a finished sweep of this model; None for reference `zero` and no terms.
        prosody: rhythm of the vocabulary.
        reference: of the sweep.
    """

    model: Model
    checked: Checked
    layers: tuple[int, ...]
    kept: Kept | None
    prosody: Prosody | None
    reference: str

    @property
    def names(self) -> tuple[str, ...]:
        """The series that are read."""
        if self.kept is None:
            return WITHOUT
        carried = all(terms.carry is not None for terms in self.kept.terms.values())
        return FIELDS if carried else tuple(name for name in FIELDS if name != "carry")


@dataclass(frozen=True)
class Reading:
    """What one pass over the replies to one prompt leaves; NaN past the end of a reply, and where it was not asked for.

    Args:
        series: by name; where a query has too few keys before it, NaN as well.
        surprisal: of each token given what came before it, nats.
        entropy: of what was foreseen for its place, nats.
    """

    series: dict[str, Float[np.ndarray, "layer reply step"]]
    surprisal: Float[np.ndarray, "reply step"]
    entropy: Float[np.ndarray, "reply step"]


def read_inside(
    inside: Inside,
    prompt: tuple[int, ...],
    token: Int[np.ndarray, "reply step"],
    micro_batch: int,
    *,
    foreseen: bool = True,
) -> Reading:
    """Read the replies to one prompt.

    Replies shorter than the longest are filled up behind their end, where nothing before it can see.

    Args:
        foreseen: whether surprisal and entropy are wanted, for which the whole vocabulary is read.
    """
    length = len(prompt) + token.shape[1]
    checked = replace(inside.checked, window=length)
    visit = _visitor(inside, checked, length)
    surprisal, entropy = np.full(token.shape, np.nan), np.full(token.shape, np.nan)
    for first in range(0, len(token), micro_batch):
        own = token[first : first + micro_batch]
        windows = np.full((len(own), length), prompt[-1])
        windows[:, : len(prompt)] = prompt
        windows[:, len(prompt) :] = np.where(own == NOTHING, prompt[-1], own)
        tokens = torch.from_numpy(windows)
        visit.begin(_batch(tokens))
        logits = capture(
            inside.model,
            tokens,
            visit,
            layers=inside.layers,
            checked=checked,
            logits_to_keep=token.shape[1] + 1 if foreseen else None,
        )
        if not foreseen:
            continue
        logs = logits[:, :-1].double().log_softmax(-1)
        rows = slice(first, first + len(own))
        replies = tokens[:, len(prompt) :, None].to(logs.device)
        surprisal[rows] = -logs.gather(-1, replies)[..., 0].cpu().numpy()
        entropy[rows] = -(logs.exp() * logs).nan_to_num().sum(-1).cpu().numpy()
    past = token == NOTHING
    surprisal[past], entropy[past] = np.nan, np.nan
    series = {
        name: np.where(
            past,
            np.nan,
            np.stack([torch.cat(of_layer[layer]).double().numpy() for layer in inside.layers])[
                ..., len(prompt) :
            ],
        )
        for name, of_layer in visit.rows.items()
    }
    return Reading(series, surprisal, entropy)


def require_same_tokens(inside: Inside, replies: Replies, reading: Reading) -> None:
    """The clean pass must give every token the probability that it was drawn with.

    Raises:
        RunError: it does not.
    """
    half = inside.model.dtype not in (torch.float32, torch.float64)
    bound = (LOGIT_BOUND_HALF if half else LOGIT_BOUND) * max(1.0, inside.checked.logit_scale)
    apart = np.abs(reading.surprisal + replies.log_probability.reshape(reading.surprisal.shape))
    worst = float(np.nanmax(apart, initial=0.0))
    if (
        not worst <= bound
        or (np.isnan(reading.surprisal) != (replies.token.reshape(apart.shape) == NOTHING)).any()
    ):
        raise RunError(
            f"{inside.model.name}: reading the replies again gives tokens another probability than they were drawn with"
            f" ({worst:.1e} nats, bound {bound:.1e}); try dtype float32"
        )


def _batch(tokens: Tensor) -> Batch:
    nothing = np.zeros(len(tokens), np.int64)
    return Batch(tokens, nothing, nothing, nothing)


def _visitor(inside: Inside, checked: Checked, length: int) -> "_Plain | _Fitted":
    if inside.kept is None or inside.prosody is None:
        return _Plain(inside, checked, length)
    kept = inside.kept
    study = kept.study(inside.model, length, inside.layers, inside.prosody, inside.reference, checked)
    return _Fitted(study, {layer: terms.at(kept.columns, length) for layer, terms in kept.terms.items()})


class _Plain:
    """Without a sweep: the whole energy from reference `zero`, in nats, and steps of the attention input."""

    def __init__(self, inside: Inside, checked: Checked, length: int) -> None:
        self._supports = {layer: support_of(length, checked.reach[layer]) for layer in inside.layers}
        self.rows = _no_rows(WITHOUT, inside.layers)

    def begin(self, batch: Batch) -> None:
        """Start a batch."""

    def __call__(self, layer: Layer) -> None:
        support = self._supports[layer.index]
        dtype = torch.promote_types(layer.scores.dtype, torch.float32)
        energy = _sizes(center_rows(-layer.scores.to(dtype), support), support)
        self.rows["residual_energy"][layer.index].append(energy.square().mean(1).sqrt().cpu())
        self.rows["state_step"][layer.index].append(_steps(layer.attention_input.to(dtype)))


class _Fitted(Pass):
    """By the frozen terms of a sweep.

    Each head's row is measured against that head's own energy (its RMS in the sweep); of a layer, the RMS over heads.
    """

    def __init__(self, study: Study, terms: Mapping[int, Terms]) -> None:
        super().__init__(study)
        self._columns = columns_of(study.window, study.state_rank)
        self._terms = terms
        within, track = self._columns.within, self._columns.blocks["track"]
        self._pairs: dict[int, Tensor] = {}
        for layer, one in terms.items():
            alone = np.zeros_like(one.pairs)
            alone[:, track] = one.coefficient[:, track]
            # nuisance and track by row-gauge coefficients, the track of these alone, and both within keys
            self._pairs[layer] = self._frozen(np.stack([one.coefficient[:, :within], alone, one.pairs]))
        names = [name for name in FIELDS if name != "carry" or next(iter(terms.values())).carry is not None]
        self.rows = _no_rows(names, study.layers)

    def __call__(self, layer: Layer) -> None:
        states, scores, surface = self._read(layer)
        index, support = layer.index, self._supports[layer.index]
        terms, beta = self._terms[index], self._pairs[index]
        energy = self._energy(index, scores, surface, slice(0, len(support.queries)), support.window)
        fields = pair_fields(states, beta.flatten(0, 1).expand(len(states), -1, -1), self._columns, support)
        whole, track, within = fields.unflatten(1, beta.shape[:2]).unbind(1)
        columns = {
            "rhythm": self._rhythm.to(energy),
            "state": state_columns(states, self.study.bases[index]).to(energy),
        }
        found = {"track": track}
        for name, values in columns.items():
            coefficient = self._frozen(terms.coefficient[:, self._columns.blocks[name]])
            field = coefficient @ values.mT
            found[name] = center_rows(field[:, :, None].expand_as(energy), support)
        found["residual_energy"] = energy - whole - found["rhythm"] - found["state"]
        if (filtered := terms.filter(energy - within, support)) is not None:
            found["carry"], _ = filtered
        against = torch.from_numpy(terms.rms)[:, None]
        for name, rows in found.items():
            relative = _sizes(rows, support).cpu() / against
            self.rows[name][index].append(relative.square().mean(1).sqrt())
        self.rows["state_step"][index].append(_steps(states))


def _no_rows(names: Sequence[str], layers: Sequence[int]) -> Rows:
    return {name: {layer: [] for layer in layers} for name in names}


def _sizes(
    rows: Float[Tensor, "window head query key"], support: Support
) -> Float[Tensor, "window head query"]:
    """RMS over the keys of each row; NaN where it has none."""
    inverse = support.inverse_counts.to(rows)
    return torch.where(inverse > 0, (rows.square().sum(-1) * inverse).sqrt(), torch.nan)


def _steps(states: Float[Tensor, "window key component"]) -> Float[Tensor, "window key"]:
    """How far each state lies from the one before; NaN for the first."""
    return torch.nn.functional.pad(states.diff(dim=1).norm(dim=-1), (1, 0), value=torch.nan).cpu()
