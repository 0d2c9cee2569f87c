"""What was read of replies becomes the groups `output` and `coupling`: steps, proxies, series and controls."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import xarray
from jaxtyping import Bool, Float, Int

from infodyn_interp.errors import RequestError, RunError
from infodyn_interp.observe.embedding import unembed
from infodyn_interp.observe.equilibrium import track_equilibrium
from infodyn_interp.observe.plane import lay_in_plane
from infodyn_interp.observe.sampling import NOTHING
from infodyn_interp.observe.steps import Steps, atoms_of_tokens, parse_step
from infodyn_interp.observing.instances import compare
from infodyn_interp.observing.settings import Outside, Trials
from infodyn_interp.observing.statistics import by_condition, by_inside, put
from infodyn_interp.sweeping.plans import STUDY

REPLY = ("temperature", "prompt", "trial")
STEP = (*REPLY, "step")
PROXIES = ("tension", "kinetic_energy", "speed", "curvature")
CONTROLS = {
    "surprisal": ("nats", "of a step's tokens given what came before, temperature 1: mean"),
    "entropy": ("nats", "of what was foreseen for each of them: mean"),
    "log_frequency": ("nats", "log of the share of each among all tokens of these replies: mean"),
    "repeats": ("1", "share of them that prompt or reply had before"),
    "position": ("tokens", "of the step's last token, prompt included"),
}
WORDS = {
    "residual_energy": "energy that no fitted term explains",
    "rhythm": "rhythm field of P",
    "state": "state field of P",
    "track": "inference track T",
    "carry": "carry-over |M|",
}


@dataclass(frozen=True)
class Read:
    """One prompt's replies as a shard has them."""

    token: Int[np.ndarray, "temperature trial token"]
    ended: Bool[np.ndarray, "temperature trial"]
    seed: Int[np.ndarray, "temperature trial"]
    surprisal: Float[np.ndarray, "temperature trial token"]
    entropy: Float[np.ndarray, "temperature trial token"]
    series: dict[str, Float[np.ndarray, "layer temperature trial token"]]
    layers: Int[np.ndarray, " layer"]
    trials: dict[str, Int[np.ndarray, "temperature trial begun"]]
    freedom: dict[str, Float[np.ndarray, "temperature layer statistic"]]


def label_output(study: Trials, read: Mapping[str, Sequence[Read]]) -> dict[str, xarray.Dataset]:
    """The groups of a study, from the shards of the model and of its twins.

    Args:
        read: by stage, one a prompt.
    """
    own = read[STUDY]
    steps = _cut(study, own)
    most = max((len(one.texts) for one in steps.values()), default=0)
    shape = len(study.drawing.temperatures), len(study.prompts), study.drawing.trials
    points = _points(study, own, steps, (*shape, most))
    out = _proxies(points, study.outside)
    out["text"] = STEP, _texts(steps, (*shape, most)), {"units": "text", "long_name": "text of a step"}
    length = np.zeros(shape, int)
    for place, one in steps.items():
        length[place] = len(one.texts)
    out["length"] = REPLY, length, {"units": "steps", "long_name": "steps of a reply"}
    out["tokens"] = (
        REPLY,
        np.stack([(one.token != NOTHING).sum(-1) for one in own], 1),
        {"units": "tokens", "long_name": "tokens of a reply, its end-of-text not counted"},
    )
    for name, words in (
        ("ended", "whether the model ended the reply itself"),
        ("seed", "of the reply's generator"),
    ):
        out[name] = (
            REPLY,
            np.stack([getattr(one, name) for one in own], 1),
            {"units": "1", "long_name": words},
        )
    for name, values in _controls(study, own).items():
        unit, words = CONTROLS[name]
        out[name] = STEP, _averaged(values, steps, most), {"units": unit, "long_name": words}
    alone = study.sweep is None
    for stage, some in read.items():
        ending, by = (
            ("", "") if stage == STUDY else (f"_{stage}", f", of the {stage} twin on the same tokens")
        )
        for name in some[0].series:
            values = np.stack([one.series[name] for one in some], 2)
            unit, words = _about(name, alone)
            out[name + ending] = (
                ("layer", *STEP),
                _averaged(values, steps, most),
                {"units": unit, "long_name": words + by},
            )
    out = out.assign_coords(
        temperature=list(study.drawing.temperatures),
        layer=own[0].layers,
        prompt_text=("prompt", [writable(prompt.text) for prompt in study.prompts]),
    ).transpose(*STEP, "layer", ...)
    names = [name for name in CONTROLS if name != "position"]
    beside = by_condition(out, points, PROXIES, alphas=study.outside.alphas, seed=study.drawing.seed)
    beside |= by_inside(out, PROXIES, list(own[0].series), names, study.nulls, study.drawing.seed)
    if study.instances is not None:
        put(beside, out, "instantiation", partial(_instantiation, study, read))
    return placed(out, beside)


def _instantiation(study: Trials, read: Mapping[str, Sequence[Read]]) -> xarray.Dataset:
    own = read[STUDY]
    return compare(
        {name: [one.trials[name] for one in own] for name in own[0].trials},
        {
            stage: {name: [one.freedom[name] for one in some] for name in own[0].freedom}
            for stage, some in read.items()
        },
        {"temperature": list(study.drawing.temperatures), "layer": own[0].layers},
    )


def placed(out: xarray.Dataset, beside: Mapping[str, xarray.Dataset]) -> dict[str, xarray.Dataset]:
    """Groups by their place in a result: all but the coupling stand below the output they are of."""
    return {"/output": out} | {
        f"/{name}" if name == "coupling" else f"/output/{name}": group for name, group in beside.items()
    }


def label_texts(steps: Mapping[str, Sequence[Steps]], outside: Outside) -> dict[str, xarray.Dataset]:
    """The group `output` of replies that came as texts."""
    at = {(0, row, place): one for row, some in enumerate(steps.values()) for place, one in enumerate(some)}
    shape = 1, len(steps), max(map(len, steps.values())), max(len(one.texts) for one in at.values())
    points = _embed(outside, at, shape)
    out = _proxies(points, outside)
    out["text"] = STEP, _texts(at, shape), {"units": "text", "long_name": "text of a step"}
    out = out.assign_coords(prompt_text=("prompt", list(map(writable, steps))))
    return placed(out, by_condition(out, points, PROXIES, alphas=outside.alphas, seed=0))


Cut = dict[tuple[int, int, int], Steps]


def _cut(study: Trials, own: Sequence[Read]) -> Cut:
    """The steps of every reply that has two at least; what is shorter has no motion."""
    cut, found = parse_step(study.outside.step), {}
    for row, one in enumerate(own):
        for temperature, trial in np.ndindex(*one.seed.shape):
            tokens = one.token[temperature, trial]
            steps = cut(atoms_of_tokens(study.model.tokenizer, tokens[tokens != NOTHING].tolist()))
            if len(steps.texts) > 1:
                found[temperature, row, trial] = steps
    return found


def _points(
    study: Trials, own: Sequence[Read], steps: Cut, shape: tuple[int, ...]
) -> Float[np.ndarray, "temperature prompt trial step direction"]:
    if study.outside.embedder is not None:
        try:
            return _embed(study.outside, steps, shape)
        except RequestError as reason:  # it passed the probe
            raise RunError(str(reason)) from None
    rows = {}
    for (temperature, row, trial), one in steps.items():
        tokens = own[row].token[temperature, trial]
        rows[temperature, row, trial] = unembed(study.model, tokens[tokens != NOTHING].tolist(), one)
    return _spread(rows, shape)


def _embed(
    outside: Outside, steps: Cut, shape: tuple[int, ...]
) -> Float[np.ndarray, "temperature prompt trial step direction"]:
    if outside.embedder is None or not steps:
        return np.full((*shape, 1), np.nan)
    found = outside.embedder([text for one in steps.values() for text in one.texts])
    ends = np.cumsum([len(one.texts) for one in steps.values()])[:-1]
    return _spread(dict(zip(steps, np.split(found, ends), strict=True)), shape)


def _spread(rows: Mapping[tuple[int, int, int], np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    width = next((one.shape[1] for one in rows.values()), 1)
    out = np.full((*shape, width), np.nan)
    for place, one in rows.items():
        out[place][: len(one)] = one
    return out


def _proxies(
    points: Float[np.ndarray, "temperature prompt trial step direction"], outside: Outside
) -> xarray.Dataset:
    """Proxies, and the embeddings and their equilibrium in the plane in which the embeddings vary most."""
    x = xarray.DataArray(points, dims=(*STEP, "direction"))
    followed = track_equilibrium(x, outside.alpha)
    out = followed[list(PROXIES)].merge(lay_in_plane(x, followed["equilibrium"]))
    return out.assign_attrs(followed.attrs, step=outside.step, embedder=outside.name)


def _texts(steps: Cut, shape: tuple[int, ...]) -> np.ndarray:
    out = np.full(shape, "", object)
    for place, one in steps.items():
        out[place][: len(one.texts)] = [writable(text) for text in one.texts]
    return out


def writable(text: str) -> str:
    """A text as a result file takes it: NUL, which ends strings there, as its picture."""
    return text.replace("\0", "\u2400")


def _averaged(
    values: Float[np.ndarray, "*series temperature prompt trial token"], steps: Cut, most: int
) -> np.ndarray:
    """Means over the tokens of each step."""
    out = np.full((*values.shape[:-1], most), np.nan)
    for place, one in steps.items():
        out[(..., *place, slice(len(one.texts)))] = one.average(values[(..., *place, slice(None))])
    return out


def _controls(
    study: Trials, own: Sequence[Read]
) -> dict[str, Float[np.ndarray, "temperature prompt trial token"]]:
    """What may stand between inside and outside, token by token; the trained model's."""
    token = np.stack([one.token for one in own], 1)
    there = token != NOTHING
    counts = np.bincount(token[there])
    share = np.log(counts[np.where(there, token, 0)].clip(min=1) / counts.sum())
    repeats, position = np.zeros(token.shape), np.zeros(token.shape)
    for row, prompt in enumerate(study.prompts):
        position[:, row] = len(prompt.tokens) + np.arange(token.shape[-1])
        for place in np.ndindex(*token[:, row].shape[:2]):
            met, reply = set(prompt.tokens), token[place[0], row, place[1]]
            for at, one in enumerate(reply.tolist()):
                repeats[place[0], row, place[1], at] = one in met
                met.add(one)
    return {
        "surprisal": np.stack([one.surprisal for one in own], 1),
        "entropy": np.stack([one.entropy for one in own], 1),
        **{
            name: np.where(there, values, np.nan)
            for name, values in (("log_frequency", share), ("repeats", repeats), ("position", position))
        },
    }


def _about(name: str, alone: bool) -> tuple[str, str]:
    """Unit and words of a series."""
    if name == "state_step":
        state = "attention input" if alone else "whitened state z"
        return "1", f"distance of a token's {state} from that of the token before"
    if alone:
        return "nats", "row-centred energy from reference zero: RMS over keys and heads; no term is taken out"
    return "1", f"{WORDS[name]}: RMS over keys, of each head's energy RMS in the sweep; RMS over heads"
