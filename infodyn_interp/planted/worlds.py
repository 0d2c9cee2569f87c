"""Worlds whose truth is known: energies drawn from the formulas themselves, independently of `energy.terms`.

A world is a recipe of shares of row-centred energy variance; what the shares leave is white noise. Every world of a
draw stands on the same documents, as the heads of one layer do.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import Bool, Float, Int

from infodyn_interp.errors import RequestError

ROWS = ("prosody", "rhythm", "state", "track", "carry")  # verdict rows
COMPONENTS = 32  # of a state; the leading ones are fitted
FITTED = 8
TYPES = 64  # token types, Zipf distributed
MEMORY = 0.7  # of states from one position to the next
FIRST_KEY, GAP, FIRST_QUERY = 4, 1, 12
COMPANY = {"key_effects": 0.10, "distance": 0.05, "similarity": 0.05, "bilinear": 0.05}


@dataclass(frozen=True)
class World:
    """A recipe.

    Args:
        shares: share of row-centred energy variance by ingredient (`INGREDIENTS`).
        present: verdict rows that may be identified in it.
        persistent: its states have the memory of one step and no token types, so that queries resemble the ones before.
    """

    shares: Mapping[str, float]
    present: tuple[str, ...] = ()
    persistent: bool = False

    def __post_init__(self) -> None:
        unknown = [name for name in self.shares if name not in INGREDIENTS]
        if unknown or not 0 <= sum(self.shares.values()) <= 1:
            what = f"{unknown[0]!r} is not one of {', '.join(INGREDIENTS)}" if unknown else "they pass 1"
            raise RequestError(f"shares: {what}")


@dataclass(frozen=True)
class Draw:
    """One set of documents, one window each, with the energies of several worlds.

    Args:
        states: unit-variance components of each token's state, independent of each other.
        flags: punctuation, newline, starts a word, short piece as 0 / 1, then tokens since the last break.
        energies: row-centred on the support, 0 off it, nats; row-centred variance about 1.
    """

    states: Float[np.ndarray, "document key component"]
    flags: Int[np.ndarray, "document key flag"]
    energies: Float[np.ndarray, "document world query key"]


def support(window: int) -> Bool[np.ndarray, "query key"]:
    """Pairs that count: `first_key <= j <= t - gap`, `t >= first_query`."""
    query, key = np.arange(window)[:, None], np.arange(window)[None]
    return (key >= FIRST_KEY) & (key <= query - GAP) & (query >= FIRST_QUERY)


def center(values: Float[np.ndarray, "*batch query key"]) -> Float[np.ndarray, "*batch query key"]:
    """Row-centred on the support, 0 off it."""
    mask = support(values.shape[-1])
    kept = np.where(mask, values, 0)
    mean = kept.sum(-1, keepdims=True) / np.maximum(mask.sum(-1), 1)[:, None]
    return np.where(mask, kept - mean, 0)


def draw(
    worlds: Sequence[World],
    documents: int,
    window: int,
    generator: np.random.Generator,
    shared: np.random.Generator | None = None,
) -> Draw:
    """Draw documents and what each world makes of them.

    Args:
        worlds: recipes; every one stands on the same documents.
        documents: one window each.
        window: tokens in a window, more than `FIRST_QUERY` + 4.
        generator: of everything random.
        shared: of what documents share, the mean state of every token type and the directions of every field;
            `generator` by default, so that every draw is of a world of its own. An interval over documents is of one
            world: to ask whether it covers, give every draw the same.

    Raises:
        RequestError: a window too short to hold a support, no document, or worlds of both kinds of states.
    """
    kinds = {world.persistent for world in worlds}
    if len(kinds) != 1:
        raise RequestError("worlds: those with persistent states are drawn apart")
    if window < FIRST_QUERY + 4 or documents < 1:
        raise RequestError(f"a draw needs a document and windows of {FIRST_QUERY + 4} tokens at least")
    seen = _see(documents, window, kinds.pop(), generator, shared or generator)
    energies = np.empty((documents, len(worlds), window, window))
    for place, world in enumerate(worlds):
        noise = center(generator.standard_normal((documents, window, window)))
        total = np.sqrt(1 - sum(world.shares.values())) * _unit(noise)
        for name, share in world.shares.items():
            total = total + np.sqrt(share) * _unit(center(INGREDIENTS[name](seen, generator)))
        energies[:, place] = total
    return Draw(seen.states, seen.flags, energies)


def _unit(values: Float[np.ndarray, "document query key"]) -> Float[np.ndarray, "document query key"]:
    """Scaled to a row-centred variance of 1 over all documents."""
    count = len(values) * support(values.shape[-1]).sum()
    return values / np.sqrt((values**2).sum() / count)


@dataclass(frozen=True)
class _Seen:
    """What a draw's documents are made of, and what draws the directions that they share."""

    states: Float[np.ndarray, "document key component"]
    flags: Int[np.ndarray, "document key flag"]
    shared: np.random.Generator


def _see(
    documents: int,
    window: int,
    persistent: bool,
    generator: np.random.Generator,
    shared: np.random.Generator,
) -> _Seen:
    weights = 1 / np.arange(1, TYPES + 1)
    types = generator.choice(TYPES, (documents, window), p=weights / weights.sum())
    means = shared.standard_normal((TYPES, COMPONENTS))
    means -= weights @ means / weights.sum()
    means /= np.sqrt((weights[:, None] * means**2).sum(0) / weights.sum())
    own = _persist(generator.standard_normal((documents, window, COMPONENTS)), MEMORY)
    states = own if persistent else np.sqrt(0.5) * means[types] + np.sqrt(0.5) * own
    chance = generator.random((3, documents, window))
    punctuation, newline = chance[0] < 0.13, (chance[0] > 0.12) & (chance[0] < 0.16)
    starts = ~(punctuation | newline) & (chance[1] < 0.7)
    flags = np.stack([punctuation, newline, starts, starts & (chance[2] < 0.4)], -1).astype(np.int64)
    since = np.zeros((documents, window), np.int64)
    for position in range(1, window):
        broken = flags[:, position, :2].any(-1)
        since[:, position] = np.where(broken, 0, since[:, position - 1] + 1)
    return _Seen(states, np.concatenate([flags, since[..., None]], -1), shared)


def _persist(noise: np.ndarray, rho: float, axis: int = 1) -> np.ndarray:
    """A stationary first-order autoregression along `axis` with unit variance."""
    steps = np.moveaxis(noise, axis, 0)
    out = np.empty_like(steps)
    out[0] = steps[0]
    for step in range(1, len(steps)):
        out[step] = rho * out[step - 1] + np.sqrt(1 - rho**2) * steps[step]
    return np.moveaxis(out, 0, axis)


def _spread(field: Float[np.ndarray, "document key"]) -> Float[np.ndarray, "document query key"]:
    return np.broadcast_to(field[:, None], (len(field), field.shape[1], field.shape[1]))


def _key_effects(seen: _Seen, generator: np.random.Generator) -> np.ndarray:
    return _spread(generator.standard_normal(seen.states.shape[:2]))


def _distance(seen: _Seen, generator: np.random.Generator) -> np.ndarray:
    documents, window, _ = seen.states.shape
    lag = np.arange(window)[:, None] - np.arange(window)[None]
    curve = seen.shared.standard_normal() * np.exp(
        -np.abs(lag) / 8
    ) + seen.shared.standard_normal() * np.log1p(np.abs(lag))
    return np.broadcast_to(curve, (documents, window, window))


def _squares(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Squared distances of all states of a document to each other."""
    crossed = left @ right.transpose(0, 2, 1)
    return (left**2).sum(-1)[:, :, None] + (right**2).sum(-1)[:, None] - 2 * crossed


def _similarity(seen: _Seen, generator: np.random.Generator) -> np.ndarray:
    z = seen.states[..., :FITTED]
    return _gauss(_squares(z, z) / (2 * 0.4 * 2 * FITTED))


def _bilinear(seen: _Seen, generator: np.random.Generator, rank: int) -> np.ndarray:
    z = seen.states[..., :rank]
    return z @ seen.shared.standard_normal((rank, rank)) @ z.transpose(0, 2, 1)


def _carry(seen: _Seen, generator: np.random.Generator, rho: float) -> np.ndarray:
    documents, window, _ = seen.states.shape
    return _persist(generator.standard_normal((documents, window, window)), rho)


def rhythm_block(flags: Int[np.ndarray, "document key flag"]) -> Float[np.ndarray, "document key column"]:
    """Flags, log of the distance since the last break, and its waves of 4 and 8 tokens (seed 1.2.1)."""
    since = flags[..., 4].astype(float)
    waves = [wave(2 * np.pi * since / period) for period in (4, 8) for wave in (np.sin, np.cos)]
    return np.stack([*np.moveaxis(flags[..., :4].astype(float), -1, 0), np.log1p(since), *waves], -1)


def _rhythm(seen: _Seen, generator: np.random.Generator) -> np.ndarray:
    columns = rhythm_block(seen.flags)
    spread = columns.std((0, 1))
    return _spread(
        (columns / np.where(spread > 0, spread, 1)) @ seen.shared.standard_normal(columns.shape[-1])
    )


def _state(seen: _Seen, generator: np.random.Generator) -> np.ndarray:
    return _spread(seen.states[..., :FITTED] @ seen.shared.standard_normal(FITTED))


def _nonlinear(seen: _Seen, generator: np.random.Generator) -> np.ndarray:
    """A smooth bump around a random state and the square of a random direction, with their linear parts."""
    z = seen.states[..., :FITTED]
    centre = seen.shared.standard_normal(FITTED)
    direction = seen.shared.standard_normal(FITTED)
    bump = np.exp(-((z - centre) ** 2).sum(-1) / (2 * FITTED))
    bent = (z @ direction / np.linalg.norm(direction)) ** 2
    return _spread(bump / bump.std() + bent / bent.std())


def _gauss(scaled: np.ndarray) -> np.ndarray:
    return np.exp(-scaled)


def _cauchy(scaled: np.ndarray) -> np.ndarray:
    return 1 / (1 + scaled)


def track_map(
    states: Float[np.ndarray, "document key component"],
    width: float,
    tau: float,
    kernel: Callable[[np.ndarray], np.ndarray] = _gauss,
) -> Float[np.ndarray, "document query key"]:
    """`T[t, j] = sum over first_key <= i < t, i != j of exp(-(t - i) / tau) K_w(z_j, z_i)` (seed 1.2.2)."""
    similar = kernel(_squares(states, states) / (2 * width * 2 * states.shape[-1]))
    step = np.arange(states.shape[1])
    lag = step[:, None] - step[None]
    fade = np.where((lag > 0) & (step >= FIRST_KEY)[None], np.exp(-np.maximum(lag, 0) / tau), 0)
    return np.asarray(fade @ (similar * (1 - np.eye(len(step)))))


def _track(
    seen: _Seen,
    generator: np.random.Generator,
    width: float,
    tau: float,
    kernel: Callable[[np.ndarray], np.ndarray] = _gauss,
) -> np.ndarray:
    """A well: the track with a minus sign."""
    return -track_map(seen.states[..., :FITTED], width, tau, kernel)


Ingredient = Callable[[_Seen, np.random.Generator], np.ndarray]
INGREDIENTS: dict[str, Ingredient] = {
    "key_effects": _key_effects,
    "distance": _distance,
    "similarity": _similarity,
    "bilinear": partial(_bilinear, rank=4),
    "bilinear_32": partial(_bilinear, rank=COMPONENTS),
    "carry": partial(_carry, rho=0.7),
    "carry_97": partial(_carry, rho=0.97),
    "rhythm": _rhythm,
    "state": _state,
    "nonlinear": _nonlinear,
    "track": partial(_track, width=0.4, tau=2),
    "track_8": partial(_track, width=0.4, tau=8),
    "track_off_grid": partial(_track, width=0.25, tau=4),
    "track_cauchy": partial(_track, width=0.4, tau=2, kernel=_cauchy),
    "track_32": partial(_track, width=0.4, tau=32),
}
_FIELD = ("prosody", "rhythm", "state")
WORLDS: dict[str, World] = {
    "noise": World({}),
    "key_effects": World({"key_effects": 0.3}),
    "distance": World({"distance": 0.3}),
    "similarity": World({"similarity": 0.3}),
    "bilinear": World({"bilinear": 0.3}),
    "bilinear_32": World({"bilinear_32": 0.3}),
    "bilinear_32_persistent": World({"bilinear_32": 0.3}, persistent=True),
    "carry_97": World(
        {"carry_97": 0.3}
    ),  # there, but no data of this size tells it from an effect of the key
    "carry": World({"carry": 0.9}, ("carry",)),
    "carry_noise": World(COMPANY | {"carry": 0.3}, ("carry",)),
    "prosody_10": World(COMPANY | {"rhythm": 0.05, "state": 0.05}, _FIELD),
    "prosody_20": World(COMPANY | {"rhythm": 0.10, "state": 0.10}, _FIELD),
    "nonlinear_10": World(COMPANY | {"nonlinear": 0.10}, ("prosody", "state")),
    "nonlinear_30": World(COMPANY | {"nonlinear": 0.30}, ("prosody", "state")),
    "track": World(COMPANY | {"track": 0.03}, ("track",)),
    "track_8": World(COMPANY | {"track_8": 0.03}, ("track",)),
    "track_off_grid": World(COMPANY | {"track_off_grid": 0.03}, ("track",)),
    "track_cauchy": World(COMPANY | {"track_cauchy": 0.03}, ("track",)),
    "track_32": World(COMPANY | {"track_32": 0.03}, ("track",)),
    "all_three": World(COMPANY | {"rhythm": 0.1, "state": 0.1, "track": 0.1, "carry": 0.3}, ROWS),
    "all_small": World(COMPANY | {"rhythm": 0.025, "state": 0.025, "track": 0.01, "carry": 0.1}, ROWS),
}


def choose_worlds(names: Sequence[str] | None) -> dict[str, World]:
    """The worlds of these names, in that order; all of them where it is None.

    Raises:
        RequestError: there is no such world.
    """
    for name in names or ():
        if name not in WORLDS:
            raise RequestError(f"worlds: {name!r} is not one of {', '.join(WORLDS)}")
    return {name: WORLDS[name] for name in names or WORLDS}
