"""The output side of a model from request to result: trials are drawn, read again inside, embedded and coupled.

Stages, each in shards of one prompt: replies (drawn, and read by one clean pass), then the twins, which read the same
tokens. A finished file is the only state. What follows is algebra on them (`labels`); who has texts and no model begins
there (`trace_texts`).
"""

import importlib.metadata
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path

import numpy as np
import torch
import xarray

from infodyn_interp import results
from infodyn_interp.energy.terms import Prosody
from infodyn_interp.errors import RequestError
from infodyn_interp.hooks import check
from infodyn_interp.models import Model, untrained_twin
from infodyn_interp.observe.embedding import OWN, WARNING, Embed
from infodyn_interp.observe.equilibrium import ALPHA
from infodyn_interp.observe.prompts import read_replies
from infodyn_interp.observe.sampling import TOKENS, TRIALS, Replies, draw
from infodyn_interp.observe.steps import atoms_of_text, parse_step
from infodyn_interp.observing.inside import Inside, Reading, read_inside, require_same_tokens
from infodyn_interp.observing.instances import TOKENS as INSTANTIATION_TOKENS
from infodyn_interp.observing.labels import Read, label_output, label_texts
from infodyn_interp.observing.settings import NULLS, STEP, Outside, Trials, settle
from infodyn_interp.run import digest_of
from infodyn_interp.sweeping import PACKAGES
from infodyn_interp.sweeping.plans import STUDY, Shard, Task
from infodyn_interp.sweeping.settings import peak_mib, torch_threads
from infodyn_interp.sweeping.shards import File, Header, write_file
from infodyn_interp.sweeping.watching import Progress, Watch, held
from infodyn_interp.texts import read_pieces

__all__ = ["NULLS", "trace", "trace_texts"]

SHARDS = "replies"  # folder of the shards
ARRAYS = ("token", "log_probability", "ended", "seed")


def trace(
    model: Model,
    prompts: str | os.PathLike[str] | Sequence[str],
    *,
    inside: str | os.PathLike[str] | None = None,
    out: str | os.PathLike[str] | None = None,
    trials: int = TRIALS,
    tokens: int = TOKENS,
    temperature: float | Iterable[float] = 1.0,
    top_p: float = 1.0,
    seed: int = 0,
    chat: bool = False,
    field: str | None = None,
    alpha: float = ALPHA,
    step: str = STEP,
    embedder: str | os.PathLike[str] | Embed | None = None,
    alphas: bool = False,
    nulls: Iterable[str] = NULLS,
    instantiation: bool = False,
    instantiation_tokens: int = INSTANTIATION_TOKENS,
    micro_batch: int = 4,
    threads: int | None = None,
    progress: Progress | None = None,
) -> xarray.DataTree:
    """Draw replies, follow them outside and inside, and say what of the inside shows (seed, observation section).

    Args:
        model: from `open_model`.
        prompts, trials, tokens, temperature, top_p, seed, chat, field: as in `observe.sample`; at least 2 trials.
        inside: the folder of a finished sweep of the same weights, whose frozen coefficients, components and reference
            are applied to the replies; without it only the whole energy from reference `zero` and the steps of the
            states are read.
        out: a folder for `result.nc`; a killed call goes on from its finished prompts.
        alpha: of the floating equilibrium, in (0, 1].
        step: `token`, `sentence`, or `window:8` for a window of eight tokens that slides.
        embedder: a sentence-transformers model (its folder, installed package or name) or a function of a list of
            texts; the model's own unembedding by default.
        alphas: also read the tension at other values of alpha, beside the bands of replies without structure.
        nulls: `untrained` for the twin, which reads the same tokens.
        instantiation: also draw trials after nothing and in the chat template, and compare how freely the states of
            trials differ with no prompt, the prompt alone and the template; 4 trials and 2 prompts at least.
        instantiation_tokens: of each of those trials, no more than `tokens`.
        micro_batch: replies in one clean forward pass.
        threads: CPU threads of torch.
        progress: called with stage, tokens done, tokens in all.

    Returns:
        Groups `output` (proxies, internal series and controls of every step) with `conditions`, `projection`,
        `smoothing` and `instantiation` below it, and `coupling`; where one cannot be had, an attribute `no_` with its
        name says why.

    Raises:
        RequestError: before anything is written, as `observe.sample`; an `inside` of other weights, an `alpha` or
            `step` that there is not, or an embedder that cannot be used.
        RunError: the model fails its check, or gives tokens another probability when they are read again.
    """
    study = settle(
        model,
        prompts,
        inside=inside,
        trials=trials,
        tokens=tokens,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
        chat=chat,
        field=field,
        alpha=alpha,
        step=step,
        embedder=embedder,
        alphas=alphas,
        nulls=nulls,
        instantiation=instantiation,
        instantiation_tokens=instantiation_tokens,
        micro_batch=micro_batch,
        threads=threads,
    )
    if out is not None and (before := results.matching(out, study.run)) is not None:
        return before
    version = importlib.metadata.version("infodyn-interp")
    task = Task(study.run | {"package_version": version})
    with _folder_of(out, task) as folder, torch_threads(threads):
        began = time.perf_counter()
        shards = _shards(study)
        watch = Watch(folder, progress)
        for stage in (STUDY, *study.nulls):
            _compute(study, stage, shards, folder, task.digest, watch)
        files = {
            stage: [_open(folder, stage, shard, task.digest) for shard in shards]
            for stage in (STUDY, *study.nulls)
        }
        first = files[STUDY][0]
        groups = label_output(study, {stage: [_read(file) for file in some] for stage, some in files.items()})
        groups["/"] = xarray.Dataset(
            attrs={
                "package_version": version,
                "dependency_versions": _versions(),
                "model": model.name,
                "model_digest": model.digest,
                "model_revision": model.revision or "",
                "run": json.dumps(study.run),
                "run_digest": digest_of(study.run),
                "seed": seed,
                "layers": first["layers"].tolist(),
                "reference": "zero" if study.sweep is None else study.sweep.reference,
                "embedder": study.outside.name,
                "warning": WARNING if study.outside.name == OWN else "",
                "seconds": time.perf_counter() - began,
                "peak_mib": peak_mib(),
            }
        )
        result = xarray.DataTree.from_dict(groups)
        if out is not None:
            results.save(result, out)
            shutil.rmtree(folder)
    return result


def trace_texts(
    texts: str | os.PathLike[str] | Mapping[str, Sequence[str]],
    embedder: str | os.PathLike[str] | Embed,
    *,
    out: str | os.PathLike[str] | None = None,
    field: str | None = None,
    alpha: float = ALPHA,
    step: str = STEP,
    alphas: bool = False,
) -> xarray.DataTree:
    """The output side of replies whose model is not at hand: proxies without internals.

    Args:
        texts: a JSONL file whose records have a `prompt` and a reply (`completion`, `text`, or `field`), or the replies
            by prompt.
        embedder, alpha, alphas, out: as in `trace`.
        step: as in `trace`; a token is a word with the blanks before it.

    Returns:
        Group `output`, with `conditions` and `smoothing` below it.

    Raises:
        RequestError: no replies, a prompt with one alone, a reply of one step, or an embedder that cannot be used.
    """
    outside = Outside.of(alpha, step, embedder, alphas)
    if outside.embedder is None:
        raise RequestError(
            "embedder: none given, and texts alone have no model whose unembedding could serve"
        )
    groups, cut = read_replies(texts, field), parse_step(step)
    steps = {prompt: [cut(atoms_of_text(text)) for text in replies] for prompt, replies in groups.items()}
    for prompt, replies in steps.items():
        for place, one in enumerate(replies):
            if len(one.texts) < 2:
                raise RequestError(
                    f"texts: reply {place + 1} to {prompt[:40]!r} has {len(one.texts)} step of {step}; a reply of one"
                    " has no motion: leave it out, or take a finer --step"
                )
    account = blake2b(json.dumps(groups).encode(), digest_size=8).hexdigest()
    run = {"texts_digest": account, "prompts": len(groups), **outside.told()}
    if out is not None and (before := results.matching(out, run)) is not None:
        return before
    told = label_texts(steps, outside)
    told["/"] = xarray.Dataset(
        attrs={
            "package_version": importlib.metadata.version("infodyn-interp"),
            "dependency_versions": _versions(),
            "run": json.dumps(run),
            "run_digest": digest_of(run),
            "embedder": outside.name,
        }
    )
    result = xarray.DataTree.from_dict(told)
    if out is not None:
        results.save(result, out)
    return result


def _versions() -> str:
    return json.dumps({name: importlib.metadata.version(name) for name in PACKAGES})


@contextmanager
def _folder_of(out: str | os.PathLike[str] | None, task: Task) -> Iterator[Path]:
    if out is None:
        with tempfile.TemporaryDirectory(prefix="infodyn-") as folder:
            yield Path(folder)
    else:
        with held(Path(out), task, name=SHARDS) as kept:
            yield kept


def _shards(study: Trials) -> list[Shard]:
    of = len(study.prompts)
    return [Shard(STUDY, SHARDS, place, of, (place,), "prompt", study.each) for place in range(of)]


def _file(folder: Path, stage: str, shard: Shard) -> Path:
    return folder / stage / f"{shard.index:05d}.npz"


def _open(folder: Path, stage: str, shard: Shard, digest: str) -> File:
    """A finished shard.

    Raises:
        RequestError: it is damaged, or of another run.
    """
    file = File(_file(folder, stage, shard), digest)
    file.require_sound()
    return file


def _compute(study: Trials, stage: str, shards: list[Shard], folder: Path, digest: str, watch: Watch) -> None:
    """Every shard of a stage that is not there yet; the twin is made only where something is missing."""
    missing = [shard for shard in shards if not _file(folder, stage, shard).exists()]
    if not missing:
        return
    inside = _ready(study, stage)
    watch.stage(SHARDS if stage == STUDY else stage, shards, missing)
    for shard in missing:
        prompt, began, read = study.prompts[shard.index], time.perf_counter(), 0

        def report(done: int, shard: Shard = shard) -> None:
            nonlocal read
            watch.done(shard, done - read)
            read = done

        drawn = None if stage == STUDY else _open(folder, STUDY, shard, digest)
        if drawn is None:
            replies = draw(study.model, prompt, study.drawing, report)
        else:
            replies = Replies(*(drawn[name] for name in ARRAYS))
        flat = replies.token.reshape(-1, replies.token.shape[-1])
        reading = read_inside(inside, prompt.tokens, flat, study.micro_batch, foreseen=stage == STUDY)
        if stage == STUDY:
            require_same_tokens(inside, replies, reading)
        more = [*_freedom(study, shard.index, inside, replies, drawn)]
        report(study.each)

        def header(shard: Shard = shard, began: float = began) -> Header:
            took = time.perf_counter() - began
            place = f"{stage} {shard.index + 1}/{shard.of}"
            return Header(digest, place, tokens=study.each, seconds=took, peak_mib=peak_mib())

        write_file(_file(folder, stage, shard), [*_arrays(replies, reading, inside.layers), *more], header)


def _ready(study: Trials, stage: str) -> Inside:
    """The model of a stage, checked on windows as long as the longest."""
    model, sweep = study.model, study.sweep
    if stage != STUDY:
        model = untrained_twin(model, study.drawing.seed if sweep is None else sweep.seed)
    longest, length = study.longest
    window = torch.tensor(longest).repeat(-(-length // len(longest)))[None, :length]
    kept = None if sweep is None else sweep.kept[stage]
    return Inside(
        model=model,
        checked=check(model, window),
        layers=tuple(range(model.layers)) if kept is None else kept.layers,
        kept=kept,
        prosody=None if kept is None else Prosody(read_pieces(model.tokenizer)),
        reference="zero" if sweep is None else sweep.reference,
    )


def _freedom(
    study: Trials, place: int, inside: Inside, replies: Replies, drawn: File | None
) -> Iterator[tuple[str, np.ndarray]]:
    """The trials of a prompt by what stands before them, and how freely their states differ."""
    if (instances := study.instances) is None:
        return
    tokens = (
        instances.draw(study.model, place, study.prompts[place], study.drawing, replies.token)
        if drawn is None
        else {name: drawn[f"trials/{name}"] for name in instances.prompts}
    )
    for name, token in tokens.items():
        yield f"trials/{name}", token
        yield f"freedom/{name}", instances.read(inside, place, name, token, study.micro_batch)


def _arrays(replies: Replies, reading: Reading, layers: tuple[int, ...]) -> Iterator[tuple[str, np.ndarray]]:
    yield "layers", np.array(layers)
    for name in ARRAYS:
        yield name, getattr(replies, name)
    cells = replies.seed.shape
    yield "surprisal", reading.surprisal.reshape(*cells, -1)
    yield "entropy", reading.entropy.reshape(*cells, -1)
    for name, values in reading.series.items():
        yield f"series/{name}", values.reshape(len(layers), *cells, -1).astype(np.float32)


def _read(file: File) -> Read:
    def named(prefix: str) -> dict[str, np.ndarray]:
        return {name.removeprefix(prefix): file[name] for name in file if name.startswith(prefix)}

    return Read(
        file["token"],
        file["ended"],
        file["seed"],
        file["surprisal"],
        file["entropy"],
        named("series/"),
        file["layers"],
        named("trials/"),
        named("freedom/"),
    )
