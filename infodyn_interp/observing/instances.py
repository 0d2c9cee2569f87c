"""Prior against instantiation beside the replies: trials after nothing, after the prompt alone, and in a chat template.

States are read by one clean pass and reduced where they are: the freedom of a prompt's trials is kept, and no state.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from hashlib import blake2b
from typing import Any

import numpy as np
import torch
import xarray
from jaxtyping import Float, Int

from infodyn_interp.errors import RequestError
from infodyn_interp.hooks import Layer, capture
from infodyn_interp.models import Model
from infodyn_interp.observe.conditions import contrast, summarise
from infodyn_interp.observe.instantiation import LEAST_TRIALS, STATISTICS, UNITS, measure_freedom
from infodyn_interp.observe.prompts import Prompt, encode_prompts
from infodyn_interp.observe.sampling import NOTHING, Drawing, draw
from infodyn_interp.observing.inside import Inside
from infodyn_interp.sweeping.plans import STUDY

TOKENS = 16
NONE, ALONE, CHAT = "none", "prompt", "chat"
Replied = Int[np.ndarray, "temperature trial step"]
Tokens = Int[np.ndarray, "temperature trial token"]


@dataclass(frozen=True)
class Instances:
    """What stands before the trials of each prompt, by condition.

    Args:
        tokens: of a trial.
        prompts: by condition, one for each prompt of the study: the beginning of text alone, the prompt, the template.
    """

    tokens: int
    prompts: dict[str, tuple[Prompt, ...]]

    @classmethod
    def of(
        cls, prompts: Sequence[Prompt], tokenizer: Any, drawing: Drawing, tokens: int, room: int | None
    ) -> "Instances":
        """Refuse what cannot be compared.

        Raises:
            RequestError: too few prompts or trials, more tokens than the replies have, or no condition beside the
                prompt: the tokenizer has neither a token that begins a text nor a chat template.
        """
        if not 2 <= tokens <= drawing.tokens:
            raise RequestError(
                f"instantiation_tokens: {tokens} asked; take 2 or more, and no more than the {drawing.tokens} of a"
                " reply"
            )
        if drawing.trials < LEAST_TRIALS or len(prompts) < 2:
            raise RequestError(
                f"instantiation: {len(prompts)} prompts and {drawing.trials} trials; it takes 2 prompts and"
                f" {LEAST_TRIALS} trials or more"
            )
        encode = partial(
            encode_prompts, prompts, tokenizer, room=room, to_come=tokens, bound="the model's context"
        )
        begin = next(
            (
                one
                for name in ("bos_token_id", "eos_token_id")
                if (one := getattr(tokenizer, name, None)) is not None
            ),
            None,
        )
        found = {} if begin is None else {NONE: [replace(one, tokens=(begin,)) for one in prompts]}
        found[ALONE] = encode(chat=False)
        if getattr(tokenizer, "chat_template", None):
            found[CHAT] = encode(chat=True)
        if len(found) < 2:
            raise RequestError(
                "instantiation: the tokenizer has no token that begins a text and no chat template, so there is"
                " nothing to compare a prompt with; leave it out"
            )
        return cls(tokens, {name: tuple(some) for name, some in found.items()})

    def draw(
        self, model: Model, place: int, asked: Prompt, drawing: Drawing, replies: Replied
    ) -> dict[str, Tokens]:
        """The trials of one prompt by condition; where the replies were asked for alike, their beginnings.

        Nothing before a trial is nothing for every prompt: each prompt has draws of its own, so that intervals over
        prompts count what chance does there too.
        """
        found = {}
        for name, prompts in self.prompts.items():
            if prompts[place].tokens == asked.tokens:
                found[name] = replies[..., : self.tokens]
                continue
            told = blake2b(f"{drawing.seed} {name} {asked.tokens}".encode(), digest_size=7)
            own = replace(drawing, tokens=self.tokens, seed=int.from_bytes(told.digest()))
            found[name] = draw(model, prompts[place], own).token
        return found

    def read(
        self, inside: Inside, place: int, name: str, token: Tokens, micro_batch: int
    ) -> Float[np.ndarray, "temperature layer statistic"]:
        """Freedom of the trials that reach all tokens; NaN where fewer do than it takes."""
        prompt = self.prompts[name][place].tokens
        out = np.full((len(token), len(inside.layers), len(STATISTICS)), np.nan)
        checked = replace(inside.checked, window=len(prompt) + self.tokens)
        for heat, trials in enumerate(token):
            whole = trials[(trials != NOTHING).all(-1)]
            if len(whole) < LEAST_TRIALS:
                continue
            states: dict[int, list[np.ndarray]] = {layer: [] for layer in inside.layers}

            def visit(layer: Layer, states: dict[int, list[np.ndarray]] = states) -> None:
                kept = layer.attention_input[:, -self.tokens :].double()
                states[layer.index].append(kept.cpu().numpy())

            for first in range(0, len(whole), micro_batch):
                own = torch.from_numpy(whole[first : first + micro_batch])
                windows = torch.cat([torch.tensor(prompt).expand(len(own), -1), own], 1)
                capture(
                    inside.model, windows, visit, layers=inside.layers, checked=checked, logits_to_keep=None
                )
            out[heat] = [measure_freedom(np.concatenate(states[layer])) for layer in inside.layers]
        return out


def compare(
    tokens: Mapping[str, Sequence[Tokens]],
    freedom: Mapping[str, Mapping[str, Sequence[Float[np.ndarray, "temperature layer statistic"]]]],
    coordinates: Mapping[str, Any],
) -> xarray.Dataset:
    """The group `instantiation`: freedom of trials by condition, what conditions differ in, and the twin's.

    Args:
        tokens: by condition, one a prompt.
        freedom: by stage and condition, one a prompt.
        coordinates: temperatures and layers.

    Raises:
        RequestError: in fewer than two prompts do enough trials reach all tokens.
    """
    conditions = list(tokens)
    values = np.stack([np.stack([some[name] for name in conditions]) for some in freedom.values()])
    by_prompt = xarray.DataArray(
        values,
        {
            "weights": ["trained" if stage == STUDY else stage for stage in freedom],
            "condition": conditions,
            **coordinates,
            "statistic": [*STATISTICS],
        },
        ["weights", "condition", "prompt", "temperature", "layer", "statistic"],
    )
    kept = by_prompt.notnull().all([dim for dim in by_prompt.dims if dim != "prompt"])
    if kept.sum() < 2:
        raise RequestError(
            f"in {int(kept.sum())} of {len(kept)} prompts do {LEAST_TRIALS} trials of every condition reach all tokens;"
            " take more trials, or fewer tokens (--instantiation-tokens)"
        )
    out = summarise(by_prompt.isel(prompt=kept.values), UNITS)
    apart = contrast(out, "condition")
    out = out.merge(apart.rename(condition="instance"), combine_attrs="override").assign_attrs(apart.attrs)
    if len(freedom) > 1:
        beside = contrast(out, "weights", "untrained").isel(weights=0, drop=True)
        names = {f"difference{end}": f"above_untrained{end}" for end in ("", "_low", "_high")}
        out = out.merge(beside.rename(names), combine_attrs="override")
    count = np.stack(
        [np.stack([(one != NOTHING).all(-1).sum(-1) for one in tokens[name]]) for name in conditions]
    )
    trials = xarray.Variable(
        ("condition", "prompt", "temperature"),
        count,
        {"units": "trials", "long_name": "trials that reach all tokens; the others are left out"},
    )
    # all prompts, as the group above has them: empty where one is left out
    every = by_prompt.where(kept).assign_attrs(out["by_prompt"].attrs)
    return (
        out.drop_vars("by_prompt")
        .assign(by_prompt=every, trials=trials)
        .assign_attrs(
            tokens=next(iter(tokens.values()))[0].shape[-1],
            prompts_left_out=int((~kept).sum()),
            states="attention input of each layer, raw units",
        )
    )
