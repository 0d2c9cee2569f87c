"""Worlds of replies with known coupling: what `couple` must not see, and what it must.

Every world has internals, proxies and the controls of `couple`; unless an effect is asked for, internals and proxies
of a reply have nothing to do with each other beyond what the world says.
"""

from dataclasses import dataclass

import numpy as np
import scipy.signal
import xarray
from jaxtyping import Float

CONTROLS = ("surprisal", "entropy", "log_frequency", "repeats")


@dataclass(frozen=True)
class ReplyWorld:
    """How replies of a world come about.

    Args:
        memory: coefficient of the AR(1) that every series is.
        trend: standard deviations by which internals and proxies follow one course over the steps of a prompt.
        linear, quadratic: standard deviations by which surprisal, or its square, moves both.
        reliability: of the surprisal that is handed over.
        prompts: standard deviations of a prompt's mean, the same for internals and proxies.
        unequal: whether replies end anywhere from a third of the steps on.
        wildness: standard deviation of the log scale of a reply, which internals and proxies share.
    """

    memory: float = 0.0
    trend: float = 0.0
    linear: float = 0.0
    quadratic: float = 0.0
    reliability: float = 1.0
    prompts: float = 0.0
    unequal: bool = False
    wildness: float = 0.0


REPLY_WORLDS = {
    "iid": ReplyWorld(),
    "ar_6": ReplyWorld(memory=0.6),
    "ar_9": ReplyWorld(memory=0.9),
    "position_trend": ReplyWorld(memory=0.6, trend=1.0),
    "surprisal_linear": ReplyWorld(memory=0.6, linear=0.7),
    "surprisal_quadratic": ReplyWorld(memory=0.6, quadratic=0.5),
    "prompt_means": ReplyWorld(memory=0.6, prompts=2.0),
    "unequal_lengths": ReplyWorld(memory=0.6, unequal=True),
    "unequal_scales": ReplyWorld(memory=0.6, wildness=0.5),
    "surprisal_unreliable": ReplyWorld(memory=0.6, linear=0.7, reliability=0.8),
}


@dataclass(frozen=True)
class Replies:
    """Drawn replies as `couple` takes them, NaN beyond the end of each."""

    inside: xarray.DataArray
    seen: xarray.DataArray
    controls: xarray.DataArray


def draw_replies(
    world: ReplyWorld,
    generator: np.random.Generator,
    prompts: int = 12,
    trials: int = 8,
    steps: int = 128,
    *,
    layers: int = 1,
    effect: float = 0.0,
    lag: int = 0,
) -> Replies:
    """Replies of a world with two internal series a layer and two proxies.

    Args:
        effect: standard deviations of the first proxy by which it follows one of the first internal series, in every
            layer that series shares.
        lag: steps by which it follows.
    """
    shape = (prompts, trials, steps)
    surprisal = _remember(generator.standard_normal(shape), 0.3)
    inside = _remember(generator.standard_normal((*shape, layers, 2)), world.memory)
    seen = _remember(generator.standard_normal((*shape, 2)), world.memory)
    if effect:
        cause = np.roll(
            inside[..., 0, 0], lag, 2
        )  # what wraps around is a few steps of another part of the reply
        seen[..., 0] = effect * cause + np.sqrt(1 - effect**2) * seen[..., 0]
    course = world.trend * np.cumsum(generator.standard_normal((prompts, 1, steps)), 2) / np.sqrt(steps / 2)
    means = world.prompts * generator.standard_normal((prompts, 1, 1))
    shared = course + means + world.linear * surprisal + world.quadratic * (surprisal**2 - 1)
    scale = np.exp(world.wildness * generator.standard_normal((prompts, trials, 1)))
    inside = scale[..., None, None] * inside + shared[..., None, None]
    seen = scale[..., None] * seen + shared[..., None]
    measured = np.sqrt(world.reliability) * surprisal
    measured += np.sqrt(1 - world.reliability) * generator.standard_normal(shape)
    entropy = 0.6 * surprisal + 0.8 * _remember(generator.standard_normal(shape), 0.3)
    rest = generator.standard_normal((*shape, 2))
    controls = np.concatenate([measured[..., None], entropy[..., None], rest], -1)
    if world.unequal:
        ends = generator.integers(steps // 3, steps + 1, (prompts, trials))
        for values in (inside, seen, controls):
            values[np.arange(steps) >= ends[..., None]] = np.nan
    reply = ("prompt", "trial", "step")
    return Replies(
        xarray.DataArray(inside, dims=(*reply, "layer", "series"), coords={"series": ["first", "second"]}),
        xarray.DataArray(seen, dims=(*reply, "proxy"), coords={"proxy": ["tension", "speed"]}),
        xarray.DataArray(controls, dims=(*reply, "control"), coords={"control": [*CONTROLS]}),
    )


def _remember(noise: Float[np.ndarray, "prompt trial step *rest"], memory: float) -> np.ndarray:
    """An AR(1) of variance 1, stationary from its first step."""
    noise = noise.copy()
    noise[:, :, 1:] *= np.sqrt(1 - memory**2)
    return np.asarray(scipy.signal.lfilter([1], [1, -memory], noise, axis=2))
