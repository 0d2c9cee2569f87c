"""What decides a study of replies, and what can be refused of it before anything is written."""

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from hashlib import blake2b
from pathlib import Path

from infodyn_interp import results
from infodyn_interp.errors import RequestError
from infodyn_interp.models import Model
from infodyn_interp.observe.embedding import OWN, Embed, Embedder, choose_embedder
from infodyn_interp.observe.equilibrium import ALPHA, half_life
from infodyn_interp.observe.prompts import Prompt, encode_prompts, read_prompts
from infodyn_interp.observe.sampling import Drawing
from infodyn_interp.observe.steps import parse_step
from infodyn_interp.observing.instances import Instances
from infodyn_interp.sweeping.keeping import Kept
from infodyn_interp.sweeping.plans import STUDY

UNTRAINED = "untrained"
NULLS = (UNTRAINED,)
STEP = "token"


@dataclass(frozen=True)
class Outside:
    """How replies become points and proxies.

    Args:
        alpha: of the floating equilibrium.
        step: `token`, `sentence` or `window:8`.
        embedder: None for the model's own unembedding.
        alphas: also read the tension at other values of alpha, beside what it is without structure.
    """

    alpha: float
    step: str
    embedder: Embedder | None
    alphas: bool = False

    @classmethod
    def of(
        cls, alpha: float, step: str, embedder: str | os.PathLike[str] | Embed | None, alphas: bool = False
    ) -> "Outside":
        """Refuse what is wrong, the embedder's answers included.

        Raises:
            RequestError: alpha outside (0, 1], no such step, or an embedder that cannot be used.
        """
        half_life(alpha)
        parse_step(step)
        chosen = None if embedder is None or embedder == OWN else choose_embedder(embedder)
        if chosen is not None:
            chosen.probe()
        return cls(alpha, step, chosen, alphas)

    @property
    def name(self) -> str:
        """Of the embedder."""
        return OWN if self.embedder is None else self.embedder.name

    def told(self) -> dict[str, object]:
        """For a run's description."""
        return {"alpha": self.alpha, "step": self.step, "embedder": self.name, "alphas": self.alphas}


@dataclass(frozen=True)
class Sweep:
    """A finished sweep by whose terms replies are read."""

    reference: str
    seed: int
    digest: str
    kept: dict[str, Kept]

    @classmethod
    def open(cls, folder: Path, model: Model, nulls: Sequence[str]) -> "Sweep":
        """See that a sweep is of these weights, and has what is needed.

        Raises:
            RequestError: it is not there, of other weights, or lacks frozen terms or a null.
        """
        result = results.open_result(folder)
        place = folder if folder.is_dir() else folder.parent
        if (other := result.attrs["model_digest"]) != model.digest:
            raise RequestError(
                f"inside: {folder} is a sweep of other weights ({result.attrs['model']} {other}, not {model.digest});"
                " name a sweep of this model in this dtype"
            )
        told, digest = json.loads(result.attrs["run"]), str(result.attrs["run_digest"])
        Kept.require_study(place)
        for null in nulls:
            if not Kept.is_there(place, null):
                raise RequestError(
                    f"inside: {folder} has no null {null} to read the twin by; sweep with --nulls {null}, or take"
                    " --nulls none here"
                )
        kept = {name: Kept(place, name, digest) for name in (STUDY, *nulls)}
        return cls(told["reference"], int(result.attrs["seed"]), digest, kept)


@dataclass(frozen=True)
class Trials:
    """A study of replies, checked.

    Args:
        prompts: with their tokens.
        drawing: of the replies.
        outside: of the proxies.
        sweep: whose terms are used; None for none.
        nulls: twins that read the same tokens.
        instances: what trials of the instantiation come after; None where it was not asked for.
        chat, micro_batch, threads: as in `trace`.
    """

    model: Model
    prompts: tuple[Prompt, ...]
    drawing: Drawing
    outside: Outside
    sweep: Sweep | None
    nulls: tuple[str, ...]
    instances: Instances | None
    chat: bool
    micro_batch: int
    threads: int | None

    @property
    def longest(self) -> tuple[tuple[int, ...], int]:
        """Tokens of the prompt that, with a reply to it, is longest, and of the two together."""
        asked = [(prompt.tokens, self.drawing.tokens) for prompt in self.prompts]
        if self.instances is not None:
            asked += [
                (prompt.tokens, self.instances.tokens)
                for prompts in self.instances.prompts.values()
                for prompt in prompts
            ]
        return max(
            ((tokens, len(tokens) + to_come) for tokens, to_come in asked),
            key=lambda one: (one[1], len(one[0])),
        )

    @property
    def each(self) -> int:
        """Tokens that a pass reads of one prompt's replies, at most."""
        more = 0 if self.instances is None else self.instances.tokens * len(self.instances.prompts)
        return len(self.drawing.temperatures) * self.drawing.trials * (self.drawing.tokens + more)

    @cached_property
    def run(self) -> dict[str, object]:
        """Everything that decides the result, by the names of the flags."""
        account = blake2b(digest_size=8)
        for prompt in self.prompts:
            account.update(f"{prompt.text!r} {prompt.tokens}\n".encode())
        drawing = asdict(self.drawing)
        return {
            "model_digest": self.model.digest,
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "device": str(self.model.device),
            "prompts_digest": account.hexdigest(),
            "prompts": len(self.prompts),
            "chat": self.chat,
            "temperature": list(drawing.pop("temperatures")),
            **drawing,
            **self.outside.told(),
            "inside": None if self.sweep is None else [kept.digest for kept in self.sweep.kept.values()],
            "nulls": list(self.nulls),
            "instantiation_tokens": None if self.instances is None else self.instances.tokens,
            "micro_batch": self.micro_batch,
            "threads": self.threads,
        }


def settle(
    model: Model,
    prompts: str | os.PathLike[str] | Sequence[str],
    *,
    inside: str | os.PathLike[str] | None,
    trials: int,
    tokens: int,
    temperature: float | Iterable[float],
    top_p: float,
    seed: int,
    chat: bool,
    field: str | None,
    alpha: float = ALPHA,
    step: str = STEP,
    embedder: str | os.PathLike[str] | Embed | None = None,
    alphas: bool = False,
    nulls: Iterable[str],
    instantiation: bool,
    instantiation_tokens: int,
    micro_batch: int,
    threads: int | None,
) -> Trials:
    """Refuse whatever is wrong with a request.

    Raises:
        RequestError: one line that says what, where and what to do.
    """
    several = temperature if isinstance(temperature, Iterable) else (temperature,)
    drawing = Drawing(trials, tokens, tuple(map(float, several)), top_p, seed)
    if trials < 2:
        raise RequestError("trials: 1 asked; replies are compared within a prompt, which takes at least 2")
    chosen = tuple(nulls)
    if unknown := [name for name in chosen if name not in NULLS]:
        raise RequestError(f"nulls: {unknown[0]!r} is not one of {', '.join(NULLS)}, none")
    for name, value in (("micro_batch", micro_batch), ("threads", threads)):
        if value is not None and value < 1:
            raise RequestError(f"{name}: {value} asked, at least 1 is needed")
    outside = Outside.of(alpha, step, embedder, alphas)
    read = read_prompts(prompts, field)
    sweep = None if inside is None else Sweep.open(Path(inside), model, chosen)
    room, bound = model.context, f"the context of {model.name}"
    if sweep is not None and (fitted := sweep.kept[STUDY].columns.window) < (room or fitted + 1):
        room, bound = fitted, f"a window of the sweep in {inside}"
    encoded = encode_prompts(read, model.tokenizer, chat=chat, room=room, to_come=tokens, bound=bound)
    instances = (
        Instances.of(encoded, model.tokenizer, drawing, instantiation_tokens, model.context)
        if instantiation
        else None
    )
    return Trials(
        model, tuple(encoded), drawing, outside, sweep, chosen, instances, chat, micro_batch, threads
    )
