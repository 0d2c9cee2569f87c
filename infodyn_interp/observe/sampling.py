"""Trials: several replies to each prompt, each drawn by a generator of its own (seed, observation)."""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b

import numpy as np
import torch
import xarray
from jaxtyping import Bool, Float, Int
from torch import Tensor

from infodyn_interp.errors import RequestError
from infodyn_interp.models import Model, new_cache, unbridged, with_cache
from infodyn_interp.observe.prompts import Prompt, encode_prompts, read_prompts

TRIALS, TOKENS = 12, 128
ROWS = 32  # replies that grow side by side: a step of one costs nearly what a step of all does
NOTHING = -1  # where a reply has ended


@dataclass(frozen=True)
class Replies:
    """What was drawn for one prompt.

    Args:
        token: ids, `NOTHING` past a reply's end; the end-of-text token is no part of it.
        log_probability: of each token given what came before it, at temperature 1 (nats); NaN past the end.
        ended: whether the model ended its reply itself.
        seed: of each reply's generator.
    """

    token: Int[np.ndarray, "temperature trial step"]
    log_probability: Float[np.ndarray, "temperature trial step"]
    ended: Bool[np.ndarray, "temperature trial"]
    seed: Int[np.ndarray, "temperature trial"]


@dataclass(frozen=True)
class Drawing:
    """How replies are drawn.

    Args:
        trials: replies to each prompt, at each temperature.
        tokens: most tokens of a reply.
        temperatures: by which logits are divided; 0 takes the likeliest token.
        top_p: the likeliest tokens that together have this probability are drawn from.
        seed: of all of it.

    Raises:
        RequestError: out of range, or a temperature of 0 with several trials.
    """

    trials: int = TRIALS
    tokens: int = TOKENS
    temperatures: tuple[float, ...] = (1.0,)
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.trials < 1:
            raise RequestError(f"trials: {self.trials} asked, at least 1 is needed")
        if self.tokens < 2:
            raise RequestError(
                f"tokens: {self.tokens} asked; a reply of one token has no motion, give at least 2"
            )
        if not self.temperatures or len(set(self.temperatures)) < len(self.temperatures):
            raise RequestError(f"temperature: {list(self.temperatures)} asked; give each once, at least one")
        for temperature in self.temperatures:
            if not 0 <= temperature < np.inf:
                raise RequestError(f"temperature: {temperature:g} asked, it is at least 0")
            if temperature == 0 and self.trials > 1:
                raise RequestError(
                    f"temperature: at 0 all {self.trials} trials are the same reply, so there is nothing to compare;"
                    " give one above 0, or one trial"
                )
        if not 0 < self.top_p <= 1:
            raise RequestError(f"top_p: {self.top_p:g} asked, it lies above 0 and up to 1")
        if self.seed < 0:
            raise RequestError(f"seed: {self.seed} asked, it is at least 0")


def sample(
    model: Model,
    prompts: str | os.PathLike[str] | Sequence[str],
    trials: int = TRIALS,
    tokens: int = TOKENS,
    temperature: float | Iterable[float] = 1.0,
    top_p: float = 1.0,
    seed: int = 0,
    chat: bool = False,
    *,
    field: str | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> xarray.Dataset:
    """Draw several replies to each prompt.

    A reply's generator is seeded by `seed`, the prompt's tokens, the temperature and the trial alone, so that no
    other prompt, trial or temperature changes it.

    Args:
        model: from `open_model`.
        prompts: a JSONL file (its `prompt`, or `field`), a text file of one a line, or a list of strings.
        trials: replies to each prompt, at each temperature.
        tokens: most tokens of a reply; it is shorter where the model ends it.
        temperature: one or several; 0 takes the likeliest token.
        top_p: draw from the likeliest tokens that together have this probability.
        seed: of all of it.
        chat: put each prompt into the tokenizer's chat template.
        field: of JSONL.
        progress: called with stage, tokens drawn, tokens in all.

    Returns:
        By temperature, prompt, trial and step: `token` (id, -1 past the end) and `log_probability` (nats, at
        temperature 1); by reply `length` (tokens), `ended` (by the model itself), `seed`; by prompt `prompt_token`
        (-1 past the end) and `text`.

    Raises:
        RequestError: no prompts, an empty one, one too long for the model's context, or a number out of range.
    """
    several = temperature if isinstance(temperature, Iterable) else (temperature,)
    drawing = Drawing(trials, tokens, tuple(map(float, several)), top_p, seed)
    bound = f"the context of {model.name}"
    encoded = encode_prompts(
        read_prompts(prompts, field),
        model.tokenizer,
        chat=chat,
        room=model.context,
        to_come=tokens,
        bound=bound,
    )
    each = len(drawing.temperatures) * trials * tokens
    found = []
    for place, prompt in enumerate(encoded):
        report = partial(_report, progress, place * each, len(encoded) * each)
        found.append(draw(model, prompt, drawing, report))
    return label_replies(encoded, found, drawing)


def _report(progress: Callable[[str, int, int], None] | None, before: int, total: int, done: int) -> None:
    if progress is not None:
        progress("replies", before + done, total)


def draw(
    model: Model, prompt: Prompt, drawing: Drawing, report: Callable[[int], None] = lambda done: None
) -> Replies:
    """All replies to one prompt, by the module's own forward pass and its cache of keys and values.

    Args:
        report: called with the tokens drawn so far.
    """
    grid = [(temperature, trial) for temperature in drawing.temperatures for trial in range(drawing.trials)]
    seeds = np.array([_seed_of(drawing, prompt, *cell) for cell in grid])
    shape = len(grid), drawing.tokens
    token, known = np.full(shape, NOTHING, np.int64), np.full(shape, np.nan)
    ended = np.zeros(len(grid), bool)
    with torch.inference_mode(), unbridged(model.bridge) as module:
        ends = torch.tensor(_ends(model, module), device=model.device)
        for first in range(0, len(grid), ROWS):
            rows = slice(first, min(first + ROWS, len(grid)))
            heat = torch.tensor([temperature for temperature, _ in grid[rows]], device=model.device)[:, None]
            uniform = np.stack([np.random.default_rng(seed).random(drawing.tokens) for seed in seeds[rows]])
            cache = new_cache(module)
            past = with_cache(module, cache)
            given = torch.tensor([prompt.tokens], device=model.device)
            logits = module(given, **past).logits[:, -1].expand(len(uniform), -1)
            cache.batch_repeat_interleave(len(uniform))
            going = torch.ones(len(uniform), dtype=torch.bool, device=model.device)
            for step in range(drawing.tokens):
                logs = logits.double().log_softmax(-1)
                drawn = choose(logs, heat, drawing.top_p, torch.from_numpy(uniform[:, step]).to(model.device))
                going &= ~torch.isin(drawn, ends)
                live = going.cpu().numpy()
                token[rows, step] = np.where(live, drawn.cpu(), NOTHING)
                known[rows, step] = np.where(live, logs.gather(-1, drawn[:, None])[:, 0].cpu(), np.nan)
                report(first * drawing.tokens + len(uniform) * (step + 1))
                if not live.any() or step == drawing.tokens - 1:
                    break
                # what has ended goes on unseen: a batch of one size gives each reply the same bits
                logits = module(drawn[:, None], **past).logits[:, -1]
            ended[rows] = ~going.cpu().numpy()
    cells = len(drawing.temperatures), drawing.trials
    return Replies(
        token.reshape(*cells, -1), known.reshape(*cells, -1), ended.reshape(cells), seeds.reshape(cells)
    )


def choose(
    logs: Float[Tensor, "reply vocabulary"],
    temperature: Float[Tensor, "reply 1"],
    top_p: float,
    uniform: Float[Tensor, " reply"],
) -> Int[Tensor, " reply"]:
    """One token a reply: the place of `uniform` in the cumulative probabilities; the likeliest at temperature 0."""
    odds = (logs / temperature.clamp(min=torch.finfo(torch.float32).tiny).double()).softmax(-1)
    if top_p < 1:
        ordered, order = odds.sort(dim=-1, descending=True)
        beyond = ordered.cumsum(-1) - ordered >= top_p
        odds = odds.masked_fill(beyond.gather(-1, order.argsort(-1)), 0)
    rising = odds.cumsum(-1)
    drawn = torch.searchsorted(rising, uniform[:, None] * rising[:, -1:], right=True)[:, 0]
    likeliest = logs.argmax(-1)
    return torch.where((temperature[:, 0] == 0) | (drawn >= logs.shape[-1]), likeliest, drawn)


def _ends(model: Model, module: torch.nn.Module) -> list[int]:
    """Tokens that end a reply: those of the model's own settings and of its tokenizer."""
    told = [
        getattr(getattr(module, name, None), "eos_token_id", None) for name in ("generation_config", "config")
    ]
    ends: set[int] = set()
    for one in (*told, getattr(model.tokenizer, "eos_token_id", None)):
        ends |= set(one) if isinstance(one, list | tuple) else ({one} if one is not None else set())
    return sorted(ends)


def _seed_of(drawing: Drawing, prompt: Prompt, temperature: float, trial: int) -> int:
    told = f"{drawing.seed} {temperature!r} {trial} {prompt.tokens}"
    return int.from_bytes(blake2b(told.encode(), digest_size=7).digest())


def label_replies(prompts: Sequence[Prompt], found: Sequence[Replies], drawing: Drawing) -> xarray.Dataset:
    """Replies with names, units and what they answer; of all prompts."""
    reply = ("temperature", "prompt", "trial")
    asked = np.full((len(prompts), max(len(prompt.tokens) for prompt in prompts)), NOTHING)
    for row, prompt in zip(asked, prompts, strict=True):
        row[: len(prompt.tokens)] = prompt.tokens
    token, known, ended, seeds = (
        np.stack([getattr(one, name) for one in found], 1)
        for name in ("token", "log_probability", "ended", "seed")
    )
    told = {
        "token": ((*reply, "step"), token, "id", "token id, -1 past the end of a reply"),
        "log_probability": (
            (*reply, "step"),
            known,
            "nats",
            "of the token given what came before, temperature 1",
        ),
        "length": (
            reply,
            (token != NOTHING).sum(-1),
            "tokens",
            "tokens of the reply, its end-of-text not counted",
        ),
        "ended": (reply, ended, "1", "whether the model ended the reply itself"),
        "seed": (reply, seeds, "1", "of the reply's generator"),
        "prompt_token": (("prompt", "place"), asked, "id", "token id, -1 past the end of a prompt"),
        "text": (("prompt",), [prompt.text for prompt in prompts], "text", "the prompt"),
    }
    return xarray.Dataset(
        {
            name: (dims, values, {"units": unit, "long_name": words})
            for name, (dims, values, unit, words) in told.items()
        },
        coords={"temperature": list(drawing.temperatures)},
        attrs={"top_p": drawing.top_p, "seed": drawing.seed},
    )
