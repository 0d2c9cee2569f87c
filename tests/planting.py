"""Plant a known energy in the live scores of one layer, from the formulas in `oracle` alone."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch

from infodyn_interp.models import Model
from infodyn_interp.texts import Texts

Energy = np.ndarray  # [head, query, key], nats


def windows_of(texts: Texts) -> list[torch.Tensor]:
    """The fitted windows, one tensor of tokens each."""
    return [tokens for batch in texts.batches(8) for tokens in batch.tokens]


def attention_inputs(model: Model, windows: list[torch.Tensor], layer: int) -> list[np.ndarray]:
    """What one layer's attention module receives in each window, float64."""
    found: list[np.ndarray] = []
    attention = model.bridge.blocks[layer].attn

    def keep(_module: object, args: tuple, kwargs: dict) -> None:
        states = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
        found.extend(states.double().cpu().numpy())

    handle = attention.register_forward_pre_hook(keep, with_kwargs=True)
    try:
        with torch.inference_mode():
            for first in range(0, len(windows), 4):
                model.bridge(torch.stack(windows[first : first + 4]), use_cache=False, logits_to_keep=1)
    finally:
        handle.remove()
    return found


@contextmanager
def planted(
    model: Model, layer: int, energies: dict[bytes, Energy], source: str = "scores"
) -> Iterator[None]:
    """Subtract each window's planted energy from the layer's live scores; other windows are left alone.

    Args:
        energies: by the bytes of the window's tokens.
        source: `scores`, or `log_pattern` for the families whose score hook carries probabilities.
    """
    attention = model.bridge.blocks[layer].attn
    batch: list[torch.Tensor] = []

    def remember(_module: object, args: tuple, kwargs: dict) -> None:
        batch[:] = [args[0] if args else kwargs["input_ids"]]

    def energy_of(scores: torch.Tensor) -> torch.Tensor:
        zero = np.zeros(scores.shape[1:])
        found = [energies.get(tokens.cpu().numpy().tobytes(), zero) for tokens in batch[0]]
        return torch.tensor(np.stack(found)).to(scores)

    def on_scores(_module: object, _inputs: object, scores: torch.Tensor) -> torch.Tensor:
        return scores - energy_of(scores)

    def on_pattern(_module: object, _inputs: object, pattern: torch.Tensor) -> torch.Tensor:
        bent = pattern * (-energy_of(pattern)).exp()
        return bent / bent.sum(-1, keepdim=True)

    point, hook = (
        (attention.hook_attn_scores, on_scores)
        if source == "scores"
        else (attention.hook_pattern, on_pattern)
    )
    handles = [
        model.bridge.register_forward_pre_hook(remember, with_kwargs=True),
        point.register_forward_hook(hook),
    ]
    try:
        with warnings.catch_warnings():
            # these families' hook fires when the probabilities are used already; what is read there is bent
            warnings.filterwarnings("ignore", message=".*(discard|after|post).*", category=UserWarning)
            yield
    finally:
        for handle in handles:
            handle.remove()


def scale_to_share(
    fields: list[np.ndarray],
    share: float,
    mean_square: np.ndarray,
    mask: np.ndarray,
    center: Callable[[np.ndarray, np.ndarray], np.ndarray],
) -> np.ndarray:
    """Factor by head that gives a field the wanted share of the row-centred energy variance."""
    square = sum((center(field, mask) ** 2).sum() for field in fields) / (mask.sum() * len(fields))
    return np.sqrt(share * mean_square / square)


def permute_keys_within_rows(field: np.ndarray, mask: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """The same values in each row, at other keys."""
    out = np.array(field)
    for t in range(len(field)):
        keys = np.flatnonzero(mask[t])
        out[t, keys] = field[t, draw.permutation(keys)]
    return out
