"""The only place that adds hooks: one forward pass, each layer handed over as a `Layer` view and dropped.

Nothing is stored: a visitor sees a layer while the forward pass stands there, takes what it needs, and the next layer
follows. Those hooks read and never write, and the second look at an attention module (`Layer.look_again`) runs apart
from them. The one change made to a model is an energy in its live scores, undone on leaving (`bent_scores`).
"""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformer_lens.model_bridge.generalized_components.attention import AttentionBridge

from infodyn_interp.errors import RequestError, RunError
from infodyn_interp.models import Model, native_logits, new_cache, unbridged, with_cache

PATTERN_BOUND = 1e-5  # |softmax(scores) - pattern|, compared in float32
PATTERN_BOUND_HALF = 1e-2
LOGIT_BOUND = 1e-3  # of the logit scale, to the module's own attention
LOGIT_BOUND_HALF = 1e-2  # half precision rounds at 4e-3
ZERO_BOUND = 1e-3  # share of visible pairs whose probability underflowed, where scores come from the pattern
FACTOR_BOUND = 1e-5  # of the largest |score|: what scores may differ by from scaled queries and keys
CHECKED_QUERIES = 512  # whose patterns are compared at once
CHECKED_WINDOWS = 2  # full logits of a whole batch would be the largest array of a run

ALWAYS = ("scores", "attention_input")
ON_REQUEST = ("pattern", "values", "residual_in", "residual_out", "mlp_in", "mlp_out")


@dataclass(frozen=True)
class Factors:
    """Scores that are products of queries and keys, made where they are asked for; what no query sees is not masked.

    Indexed as their array: by windows, which gives their factors, or by `[:, :, queries]` and `[:, :, queries, keys]`,
    which gives scores. Seldom is all of an array wanted: half of it is masked, and a stride of queries leaves out more.

    Args:
        queries: as they meet the keys, scaled.
        keys: a key-value head's, shared by as many heads as there are more queries.
    """

    queries: Float[Tensor, "window head query head_direction"]
    keys: Float[Tensor, "window group key head_direction"]

    def __getitem__(self, place: Any) -> Any:
        if not isinstance(place, tuple):
            return Factors(self.queries[place], self.keys[place])
        queries, keys = self.queries[:, :, place[2]], self.keys[(slice(None), slice(None), *place[3:])]
        scores = queries.reshape(*keys.shape[:2], -1, keys.shape[-1]) @ keys.mT
        return scores.view(*queries.shape[:3], -1)


Scores = Tensor | Factors  # `[window, head, query, key]`, in nats


@dataclass(frozen=True)
class Layer:
    """One layer of one forward pass, alive only while its visitor runs; what was not asked for is None.

    Args:
        index: the model's layer.
        scores: pre-softmax logits as the softmax receives them, in nats; finite, large and negative where masked.
        mask: keys each query can see.
        attention_input: what the attention module itself receives (after the norm, where the norm comes first).
        look_again: scores of this attention module on other states `[window, key, direction]` at the same positions,
            by the module itself: rotations, biases, norms, soft caps and grouped heads included.
        factor_again: the same up to rounding, as factors where the check found the scores to be a product of them.
        pattern: weights on the values; `values` has one row a key-value head.
        residual_in, residual_out, mlp_in, mlp_out: the stream before and after the block, and what its MLP reads and
            adds.
    """

    index: int
    scores: Float[Tensor, "window head query key"]
    mask: Bool[Tensor, "query key"]
    attention_input: Float[Tensor, "window key direction"]
    look_again: Callable[[Tensor], Tensor]
    factor_again: Callable[[Tensor], Scores]
    pattern: Float[Tensor, "window head query key"] | None = None
    values: Float[Tensor, "window key group head_direction"] | None = None
    residual_in: Float[Tensor, "window key direction"] | None = None
    residual_out: Float[Tensor, "window key direction"] | None = None
    mlp_in: Float[Tensor, "window key direction"] | None = None
    mlp_out: Float[Tensor, "window key direction"] | None = None


@dataclass(frozen=True)
class Checked:
    """What the first batch showed of a model: where scores come from, what a query can see, how well it agrees.

    Args:
        window: tokens in the windows checked.
        score_source: by layer, `scores` (the hook carries logits) or `log_pattern` (it does not; exact, since
            energies are defined up to a row constant).
        reach: by layer, keys a query can see, itself included, where that is less than the window.
        score_scale: by layer, what products of rotated queries and keys are multiplied by to give the scores; None
            where they give something else, or are rounded to half precision.
        pattern_difference: by layer, max |softmax(scores) - pattern|; 0 where scores come from the pattern.
        logit_difference: max |logits - the module's own|, over `logit_scale`, the largest |logit|.
        zero_share: largest share of visible pairs whose probability underflowed to 0, over `log_pattern` layers.
    """

    window: int
    score_source: tuple[str, ...]
    reach: tuple[int | None, ...]
    score_scale: tuple[float | None, ...]
    pattern_difference: tuple[float, ...]
    logit_difference: float
    logit_scale: float
    zero_share: float


@runtime_checkable
class HasTokens(Protocol):
    """A batch of windows, as `texts.Batch`."""

    @property
    def tokens(self) -> Tensor: ...


Batch = HasTokens | Mapping[str, Tensor] | Tensor


def capture(
    model: Model,
    batch: Batch,
    visit: Callable[[Layer], None],
    *,
    wants: Sequence[str] = (),
    layers: Iterable[int] | None = None,
    checked: Checked | None = None,
    logits_to_keep: int | None = 1,
) -> Float[Tensor, "window kept vocabulary"]:
    """Run one forward pass and hand each layer to a visitor as it goes by.

    Args:
        model: from `open_model`.
        batch: windows of equal length: `texts.Batch`, token ids `[window, key]`, or a mapping with `input_ids` and
            `attention_mask` (padding on either side is cut off before a visitor sees it).
        visit: called once a layer, in order, with a `Layer`; keeps no view of what it was given.
        wants: any of `pattern values residual_in residual_out mlp_in mlp_out` beside scores and attention input.
        layers: the layers to visit; all by default.
        checked: from `check`, for loops; made on this batch when left out.
        logits_to_keep: positions whose logits are computed, from the last; 0 for all. None for no logits: then no layer
            past the last visited one is computed.

    Returns:
        Logits of the kept positions.

    Raises:
        RequestError: an unknown want, a layer that is not there, windows of unequal length.
        RunError: a hook did not fire exactly once, or (without `checked`) the model fails the check.
    """
    tokens, attention_mask = _tokens(batch, model)
    chosen = choose_layers(model, layers)
    unknown = sorted(set(wants) - {*ON_REQUEST, *ALWAYS})
    if unknown:
        raise RequestError(f"wants: {unknown[0]!r} is not one of {', '.join(ON_REQUEST)}")
    crop = _Crop.of(attention_mask, tokens)
    if checked is None:
        checked = check(model, crop(tokens))
    if checked.window != crop.length:
        raise RequestError(
            f"checked windows have {checked.window} tokens, these have {crop.length}: check again"
        )
    with torch.inference_mode(), ExitStack() as stack:
        readers = [
            stack.enter_context(_reading(model, layer, {*ALWAYS, *wants}, checked, crop, visit))
            for layer in chosen
        ]
        if logits_to_keep is None:
            stack.enter_context(_ending(model, max(chosen)))
        logits = _forward(model, tokens, attention_mask, 1 if logits_to_keep is None else logits_to_keep)
        for reader in readers:
            reader.finish()
    return logits if logits_to_keep is not None else logits[:, :0]


def check(model: Model, batch: Batch) -> Checked:
    """Parity preflight: compare logits and attention with the model's own on the user's own text.

    Args:
        model: from `open_model`.
        batch: the first batch of the run, without padding; its first two windows are used.

    Raises:
        RunError: logits differ beyond the bound, or a layer's scores cannot be explained; it is named.
    """
    tokens, _ = _tokens(batch, model)
    tokens = tokens[:CHECKED_WINDOWS]
    half = model.dtype not in (torch.float32, torch.float64)
    found: dict[int, _Compared] = {}
    with torch.inference_mode(), ExitStack() as stack:
        for layer in range(model.layers):
            stack.enter_context(
                _comparing(model, layer, PATTERN_BOUND_HALF if half else PATTERN_BOUND, found)
            )
        logits = _forward(model, tokens, None, 0)
    own = native_logits(model, tokens)
    scale = own.float().abs().max().item()
    difference = (logits.float() - own.float()).abs().max().item() / scale
    bound = LOGIT_BOUND_HALF if half else LOGIT_BOUND
    if not difference <= bound:
        raise RunError(
            f"{model.name}: logits differ from the model's own by {difference:.1e} of their scale "
            f"(bound {bound:g}): its hooks cannot be trusted; report the model's name to the project"
        )
    missing = sorted(set(range(model.layers)) - set(found))
    if missing:
        raise RunError(
            f"{model.name}: layer {missing[0]} hands out no attention (flash-only or linear attention)"
        )
    rows = [found[layer] for layer in range(model.layers)]
    return Checked(
        window=tokens.shape[1],
        score_source=tuple(row.score_source for row in rows),
        reach=tuple(row.reach for row in rows),
        score_scale=tuple(row.score_scale for row in rows),
        pattern_difference=tuple(row.pattern_difference for row in rows),
        logit_difference=difference,
        logit_scale=scale,
        zero_share=max(row.zero_share for row in rows),
    )


def choose_layers(model: Model, layers: Iterable[int] | None) -> tuple[int, ...]:
    """The asked layers in order, each once.

    Raises:
        RequestError: one is not there.
    """
    chosen = tuple(range(model.layers)) if layers is None else tuple(sorted(set(layers)))
    wrong = [layer for layer in chosen if not 0 <= layer < model.layers]
    if wrong or not chosen:
        asked = f"{wrong[0]} asked" if wrong else "none asked"
        raise RequestError(f"layers: {asked}, the model has {model.layers} (0..{model.layers - 1})")
    return chosen


@lru_cache(maxsize=8)
def causal_mask(
    window: int, reach: int | None, device: torch.device | None = None
) -> Bool[Tensor, "query key"]:
    """Keys each query can see: itself and those before it, within `reach`; one array for all who ask, to be read."""
    key = torch.arange(window, device=device)
    return (key <= key[:, None]) & (key > key[:, None] - (window if reach is None else reach))


def _tokens(batch: Batch, model: Model) -> tuple[Int[Tensor, "window key"], Tensor | None]:
    if isinstance(batch, Tensor):
        tokens, mask = batch, None
    elif isinstance(batch, Mapping):
        tokens, mask = batch["input_ids"], batch.get("attention_mask")
    else:
        tokens, mask = batch.tokens, getattr(batch, "attention_mask", None)
    if tokens.ndim != 2:
        raise RequestError(f"a batch is token ids [window, key]; this has shape {list(tokens.shape)}")
    return tokens.to(model.device), None if mask is None else mask.to(model.device)


def _forward(model: Model, tokens: Tensor, attention_mask: Tensor | None, keep: int) -> Tensor:
    keywords: dict[str, Any] = {} if attention_mask is None else {"attention_mask": attention_mask}
    # a bridge may have been built to collect every pattern: that would hold them all
    logits = model.bridge(tokens, use_cache=False, output_attentions=False, logits_to_keep=keep, **keywords)
    # a model that does not know `logits_to_keep` swallows it and returns them all
    return logits[:, -(keep or tokens.shape[1]) :]


@dataclass(frozen=True)
class _Crop:
    """The real tokens of each window of a padded batch."""

    starts: tuple[int, ...]
    length: int
    padded: int

    @classmethod
    def of(cls, attention_mask: Tensor | None, tokens: Tensor) -> "_Crop":
        windows, padded = tokens.shape
        if attention_mask is None:
            return cls((0,) * windows, padded, padded)
        real = attention_mask.bool()
        lengths = real.sum(1)
        starts = real.int().argmax(1)
        length = int(lengths[0])
        spans = torch.arange(padded, device=real.device)
        solid = (spans >= starts[:, None]) & (spans < starts[:, None] + length)
        if not bool((lengths == length).all() and (solid == real).all()):
            raise RequestError("windows of one batch must have the same number of tokens, without gaps")
        return cls(tuple(starts.tolist()), length, padded)

    def __call__(self, values: Tensor, *places: int) -> Tensor:
        """Cut the padding off along `places` (dimension 1 by default)."""
        if self.length == self.padded:
            return values
        for place in places or (1,):
            if len(set(self.starts)) == 1:
                values = values.narrow(place, self.starts[0], self.length)
            else:
                rows = [
                    window.narrow(place - 1, start, self.length)
                    for window, start in zip(values, self.starts, strict=True)
                ]
                values = torch.stack(rows)
        return values


class _Stop(Exception):  # noqa: N818 - control flow: the second look ends where scores are known
    pass


class _Reader:
    """One layer's hooks during one forward pass: gathers what was declared, then calls the visitor once."""

    def __init__(
        self,
        model: Model,
        layer: int,
        wants: set[str],
        checked: Checked,
        crop: _Crop,
        visit: Callable[[Layer], None],
    ) -> None:
        self._block = model.bridge.blocks[layer]
        self._layer, self._wants, self._crop, self._visit = layer, wants, crop, visit
        self._from_pattern = checked.score_source[layer] == "log_pattern"
        self._scale = checked.score_scale[layer]
        self._mask = causal_mask(crop.length, checked.reach[layer], model.device)
        self._dtype, self._device, self._head_width = model.dtype, model.device, model.head_width
        self._seen: dict[str, Tensor] = {}
        self._fired: dict[str, int] = dict.fromkeys(wants, 0)
        self._call: tuple[tuple[Any, ...], dict[str, Any]] | None = None
        self._looking = False
        # the visitor is called as soon as the last declared tensor is known
        self._last = next(
            (name for name in ("residual_out", "mlp_out", "mlp_in") if name in wants), "attention"
        )

    def hooks(self) -> Iterator[Any]:
        """Register every declared hook."""
        block, attention = self._block, self._block.attn
        # before any other: a second look must not inherit a mask that `bent_scores` has bent
        yield attention.register_forward_pre_hook(self._on_attention_input, with_kwargs=True, prepend=True)
        if self._from_pattern:
            yield attention.hook_pattern.register_forward_hook(self._on("scores", (2, 3)))
        else:
            yield attention.hook_attn_scores.register_forward_hook(self._on("scores", (2, 3)))
        if "pattern" in self._wants:
            yield attention.hook_pattern.register_forward_hook(self._on("pattern", (2, 3)))
        if "values" in self._wants:
            yield self._point(attention, "hook_v").register_forward_hook(self._on("values", (1,)))
        if "residual_in" in self._wants:
            yield block.hook_in.register_forward_hook(self._on("residual_in", (1,)))
        yield attention.register_forward_hook(self._on_attention_output)
        if self._wants & {"mlp_in", "mlp_out"}:
            mlp = self._point(block, "mlp")
            yield mlp.register_forward_pre_hook(self._on_mlp_input, with_kwargs=True)
            yield mlp.register_forward_hook(self._on("mlp_out", (1,)))
        if "residual_out" in self._wants:
            yield block.hook_out.register_forward_hook(self._on("residual_out", (1,)))

    def _point(self, owner: nn.Module, name: str) -> nn.Module:
        point = getattr(owner, name, None)
        if not isinstance(point, nn.Module):
            raise RequestError(f"layer {self._layer}: the model has no {name} to read; leave it out of wants")
        return point

    def _on(self, name: str, places: tuple[int, ...]) -> Callable[..., None]:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            if not self._looking:
                self._take(name, output[0] if isinstance(output, tuple) else output, places)

        return hook

    def _take(self, name: str, value: Tensor, places: tuple[int, ...]) -> None:
        if name in self._wants:
            self._fired[name] += 1
            # a model that is split over devices hands every layer over on its first
            self._seen[name] = self._crop(value.to(self._device), *places)
        if name == self._last:
            self._hand_over()

    def _on_attention_input(self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._looking:
            return
        self._call = args, kwargs
        self._take("attention_input", _attention_input(args, kwargs), (1,))

    def _on_attention_output(self, _module: nn.Module, _inputs: Any, _output: Any) -> None:
        if not self._looking and self._last == "attention":
            self._hand_over()

    def _on_mlp_input(self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._take("mlp_in", args[0] if args else next(iter(kwargs.values())), (1,))

    def _hand_over(self) -> None:
        if any(count != 1 for name, count in self._fired.items()) or self._call is None:
            self.finish()
        seen = dict(self._seen)
        self._seen.clear()
        scores = self._scores(seen.pop("scores"))
        if "values" in seen and seen["values"].ndim == 3:
            seen["values"] = seen["values"].unflatten(-1, (-1, self._head_width))
        self._visit(
            Layer(
                index=self._layer,
                scores=scores,
                mask=self._mask,
                look_again=self._look_again,
                factor_again=self._factor_again,
                **seen,
            )
        )
        self._call = None

    def _scores(self, raw: Tensor) -> Tensor:
        return log_pattern(raw) if self._from_pattern else raw

    def _look_again(
        self, states: Float[Tensor, "window key direction"]
    ) -> Float[Tensor, "window head query key"]:
        attention = self._block.attn
        point = attention.hook_pattern if self._from_pattern else attention.hook_attn_scores
        (scores,) = self._again(states, point)
        return self._scores(self._crop(scores.to(self._device), 2, 3))

    def _factor_again(self, states: Float[Tensor, "window key direction"]) -> Scores:
        if self._scale is None:
            return self._look_again(states)
        attention = self._block.attn
        found = self._again(states, attention.hook_rot_q, attention.hook_rot_k)
        queries, keys = (self._crop(one.to(self._device), 2) for one in found)
        return Factors(queries * self._scale, keys)

    def _again(self, states: Float[Tensor, "window key direction"], *points: nn.Module) -> list[Tensor]:
        """What passes some points, in that order, when the attention module reads other states; it ends at the last."""
        if self._call is None:
            raise RunError("look_again is only alive while its layer is visited")
        if self._crop.length != self._crop.padded:
            padded = states.new_zeros(len(states), self._crop.padded, states.shape[-1])
            for row, start in enumerate(self._crop.starts):
                padded[row, start : start + self._crop.length] = states[row]
            states = padded
        args, kwargs = self._call
        states = states.to(_attention_input(args, kwargs).device, self._dtype)
        if "hidden_states" in kwargs:
            kwargs = {**kwargs, "hidden_states": states}
        else:
            args = (states, *args[1:])
        found: list[Tensor] = []

        def keep(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            found.append(output)
            if len(found) == len(points):
                raise _Stop

        attention = self._block.attn
        self._looking = True
        try:
            with ExitStack() as stack:
                for point in points:
                    stack.enter_context(_only(point._forward_hooks, keep))
                stack.enter_context(_only(attention._forward_pre_hooks))
                attention(*args, **kwargs)
        except _Stop:
            pass
        finally:
            self._looking = False
        if len(found) != len(points):
            raise RunError(
                f"layer {self._layer}: the second look saw {len(found)} arrays where it expects {len(points)}"
            )
        return found

    def finish(self) -> None:
        """Every declared hook must have fired exactly once."""
        wrong = [f"{name} {count} times" for name, count in self._fired.items() if count != 1]
        if wrong:
            raise RunError(
                f"layer {self._layer}: hooks must fire once a forward pass, but {', '.join(wrong)} did"
            )
        if self._call is not None:
            raise RunError(f"layer {self._layer} was never handed over: {self._last} did not come last")


@contextmanager
def _reading(
    model: Model, layer: int, wants: set[str], checked: Checked, crop: _Crop, visit: Callable[[Layer], None]
) -> Iterator[_Reader]:
    reader = _Reader(model, layer, wants, checked, crop, visit)
    with ExitStack() as stack:
        for handle in reader.hooks():
            stack.callback(handle.remove)
        yield reader


@contextmanager
def _only(hooks: dict[int, Callable[..., Any]], *alone: Callable[..., Any]) -> Iterator[None]:
    """Set a module's hooks aside for others: what they do to the live scores is not part of a second look."""
    others = dict(hooks)
    hooks.clear()
    hooks.update({-1 - place: hook for place, hook in enumerate(alone)})
    try:
        yield
    finally:
        hooks.clear()
        hooks.update(others)


def _attention_input(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    return kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]


Energy = Callable[[int, Tensor, Tensor], Tensor | None]


@contextmanager
def bent_scores(model: Model, layers: Iterable[int], energy: Energy) -> Iterator[None]:
    """Plant an energy: while open, the live scores of some layers are `scores - energy` and the model uses them.

    Taking a fitted term out plants its negative, since `scores = reference - energy` (seed 1.1). `capture` sees the
    bent scores and what follows from them; `Layer.look_again` does not, and `check` finds that the model is another
    than its module: check before. Bends add up where they are nested.

    Args:
        model: from `open_model`.
        layers: the layers to bend.
        energy: of a layer's index, its live attention input `[window, key, direction]` and the token ids
            `[window, key]`: nats `[window, head, query, key]`, or None to leave the layer alone in this pass. Windows
            are as the model receives them, padding included.

    Raises:
        RequestError: a layer that is not there, or (during a forward pass) one whose scores cannot be bent.
    """
    batch: list[Tensor] = []

    def remember(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        batch[:] = [args[0] if args else kwargs["input"]]

    with ExitStack() as stack:
        stack.callback(model.bridge.register_forward_pre_hook(remember, with_kwargs=True).remove)
        for layer in choose_layers(model, layers):
            for handle in _Bend(model, layer, energy, batch).hooks():
                stack.callback(handle.remove)
        yield


@contextmanager
def _ending(model: Model, layer: int) -> Iterator[None]:
    """Compute no block past a layer: those give what came out of it."""
    blocks, kept = list(model.bridge.blocks), list[Any]()
    with _keeping(blocks[layer], kept), _giving(blocks[layer + 1 :], kept):
        yield


@contextmanager
def resumed(model: Model, layer: int, kept: list[Any]) -> Iterator[None]:
    """Start forward passes at a layer, for passes over the same windows that differ from there on.

    Args:
        model: from `open_model`.
        layer: the first one that is computed anew.
        kept: empty at first; a pass then runs whole and leaves here what comes out of the layer before.
    """
    blocks = [model.bridge.blocks[index] for index in range(layer)]
    with ExitStack() as stack:
        if kept:
            # the blocks further up take any block's output, so all give the last one's
            stack.enter_context(_giving(blocks, kept))
        elif blocks:
            stack.enter_context(_keeping(blocks[-1], kept))
        yield


@dataclass(frozen=True)
class Block:
    """One block of one forward pass as a map of the stream, all else as it was in that pass.

    Args:
        index: the model's layer.
        stream: what the block received.
        advance: what leaves it for any stream of that shape; it can be differentiated, forward and backward.
    """

    index: int
    stream: Float[Tensor, "window key direction"]
    advance: Callable[[Tensor], Tensor]


def trace(model: Model, batch: Batch) -> tuple[tuple[Block, ...], Float[Tensor, "window key direction"]]:
    """Every block of one forward pass as a map, and the stream that leaves the last.

    The stream of every layer is held: give short windows.

    Args:
        model: from `open_model`.
        batch: windows of equal length, without padding.
    """
    tokens, _ = _tokens(batch, model)
    found: list[Block] = []
    last: list[Any] = []

    def hook(index: int, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        found.append(
            Block(index, _attention_input(args, kwargs), partial(_advance, block, args[1:], dict(kwargs)))
        )

    blocks = list(model.bridge.blocks)
    with torch.no_grad(), ExitStack() as stack:
        for index, block in enumerate(blocks):
            stack.callback(block.register_forward_pre_hook(partial(hook, index), with_kwargs=True).remove)
        stack.enter_context(_keeping(blocks[-1], last))
        _forward(model, tokens, None, 1)
    if [block.index for block in found] != list(range(model.layers)):
        raise RunError(f"{model.name}: its blocks did not run once each, in order; it cannot be traced")
    return tuple(found), _first(last[0])


def follow(
    model: Model, window: Int[Tensor, " key"], places: Sequence[int], following: Int[Tensor, "place token"]
) -> Float[Tensor, "layer place token two direction"]:
    """The stream that leaves each block at some places of a window, then at each token that may follow there.

    By the module's own forward pass and its cache of keys and values: what comes before is read once, whatever follows.

    Args:
        model: from `open_model`.
        window: token ids; those past the last place are not read.
        places: rising.
        following: tokens that may stand after each place.
    """
    seen: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
        seen.append(_first(output)[:, -1].to(model.device))

    def read(module: nn.Module, tokens: Tensor, cache: Any) -> Tensor:
        seen.clear()
        module(tokens.to(model.device), **with_cache(module, cache))
        return torch.stack(seen)

    out = []
    with torch.inference_mode(), unbridged(model.bridge) as module, ExitStack() as stack:
        for block in model.bridge.blocks:
            stack.callback(block.register_forward_hook(keep).remove)
        cache, start = new_cache(module), 0
        for place, after in zip(places, following, strict=True):
            before = read(module, window[None, start : place + 1], cache)
            branch = copy.deepcopy(cache)
            branch.batch_repeat_interleave(len(after))
            then = read(module, after[:, None], branch)
            out.append(torch.stack([before.expand_as(then), then], 2))
            start = place + 1
    return torch.stack(out, 1)


def read_out(model: Model) -> Callable[[Tensor], Float[Tensor, "window key vocabulary"]]:
    """The model's own end (last norm, unembedding, scale, cap) as a map from streams to logits.

    Streams are `[window, key, direction]` as they leave a block; each position is read by itself, in whatever
    gradient mode the caller is.

    Args:
        model: from `open_model`.
    """
    as_it_leaves: list[Any] = []
    with torch.no_grad(), _keeping(model.bridge.blocks[-1], as_it_leaves):
        _forward(model, torch.zeros(1, 1, dtype=torch.long, device=model.device), None, 1)
    rest = as_it_leaves[0][1:] if isinstance(as_it_leaves[0], tuple) else None

    def read(streams: Tensor) -> Tensor:
        tokens = torch.zeros(streams.shape[:2], dtype=torch.long, device=model.device)
        with resumed(model, model.layers, [streams if rest is None else (streams, *rest)]):
            return _forward(model, tokens, None, 0)

    return read


def _advance(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], stream: Tensor) -> Tensor:
    if "hidden_states" in kwargs:
        return _first(block(*args, **kwargs | {"hidden_states": stream}))
    return _first(block(stream, *args, **kwargs))


def _first(output: Any) -> Tensor:
    return output[0] if isinstance(output, tuple) else output


@contextmanager
def _keeping(block: nn.Module, kept: list[Any]) -> Iterator[None]:
    """Leave what comes out of a block in `kept`."""
    hook = block.register_forward_hook(lambda _module, _inputs, output: kept.append(output))
    try:
        yield
    finally:
        hook.remove()


@contextmanager
def _giving(blocks: Iterable[nn.Module], kept: list[Any]) -> Iterator[None]:
    """Let blocks give the last output that was kept instead of computing their own."""
    with ExitStack() as stack:
        for block in blocks:
            vars(block)["forward"] = lambda *_, **__: kept[-1]
            stack.callback(vars(block).pop, "forward")
        yield


class _Bend:
    """One layer's hooks while its scores are bent."""

    def __init__(self, model: Model, layer: int, energy: Energy, batch: list[Tensor]) -> None:
        self._attention = model.bridge.blocks[layer].attn
        self._where, self._layer = f"{model.name}: layer {layer}", layer
        self._energy, self._batch = energy, batch
        self._waiting: list[Tensor] = []

    def hooks(self) -> Iterator[Any]:
        """Register them; ahead of the readers', which are to see bent scores."""
        attention = self._attention
        # opt, gptj: the module they wrap computes attention and shows it afterwards; its mask is added to the scores
        if type(attention).forward is AttentionBridge.forward:
            yield attention.register_forward_pre_hook(self._on_mask, with_kwargs=True)
            return
        yield attention.register_forward_pre_hook(self._on_input, with_kwargs=True)
        yield attention.hook_attn_scores.register_forward_hook(self._on_scores, prepend=True)
        yield attention.hook_pattern.register_forward_hook(self._on_use)
        yield attention.register_forward_hook(self._on_use)

    def _on_mask(self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        bent = self._energy(self._layer, _attention_input(args, kwargs), self._batch[0])
        if bent is None:
            return None
        mask = kwargs.get("attention_mask")
        if not (isinstance(mask, Tensor) and mask.ndim == bent.ndim and mask.is_floating_point()):
            raise RequestError(f"{self._where}: its scores cannot be bent: no mask is added to them")
        return args, {**kwargs, "attention_mask": mask - bent.to(mask)}

    def _on_input(self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        bent = self._energy(self._layer, _attention_input(args, kwargs), self._batch[0])
        self._waiting = [] if bent is None else [bent]

    def _on_scores(self, _module: nn.Module, _inputs: Any, scores: Tensor) -> Tensor | None:
        return scores - self._waiting.pop().to(scores) if self._waiting else None

    def _on_use(self, _module: nn.Module, _inputs: Any, _output: Any) -> None:
        if self._waiting:
            raise RequestError(
                f"{self._where}: its scores cannot be bent: they are shown after they are used"
            )


def refuse_nan(where: str, scores: Float[Tensor, "window head query key"]) -> None:
    """Stop at the first window and head whose scores are not numbers.

    Raises:
        RunError: layer (in `where`), head and window are named.
    """
    # a sum is NaN if any of its parts is, and dear to nothing: the search is for the message
    if torch.isnan(scores.sum()) and (found := torch.isnan(scores).nonzero()).numel():
        window, head = found[0, :2].tolist()
        raise RunError(
            f"{where}, head {head}, window {window} of the batch: NaN in its scores; try dtype float32"
        )


def log_pattern(pattern: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Scores from probabilities, up to a row constant; an underflowed probability counts as the smallest there is."""
    return pattern.clamp(min=torch.finfo(torch.float32).tiny).log()


@dataclass(frozen=True)
class _Compared:
    """What the check found of a layer, as in `Checked`."""

    score_source: str
    reach: int | None
    score_scale: float | None
    pattern_difference: float
    zero_share: float


@contextmanager
def _comparing(model: Model, layer: int, bound: float, found: dict[int, _Compared]) -> Iterator[None]:
    """Compare one layer's scores with its pattern, and with its queries and keys, as they go by."""
    attention = model.bridge.blocks[layer].attn
    seen: dict[str, Tensor] = {}

    def on(name: str) -> Callable[..., None]:
        def keep(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            seen[name] = output

        return keep

    def on_pattern(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
        scores, where = seen.pop("scores", None), f"{model.name}: layer {layer}"
        factors = None
        if {"hook_rot_q", "hook_rot_k"} <= seen.keys():
            scale = float(getattr(attention.original_component, "scaling", model.head_width**-0.5))
            factors = scale, Factors(seen.pop("hook_rot_q") * scale, seen.pop("hook_rot_k"))
        found[layer] = _compare(where, scores, output, bound, factors)

    def on_output(_module: nn.Module, _inputs: Any, _output: Any) -> None:
        seen.clear()

    with ExitStack() as stack:
        points = ("hook_rot_q", "hook_rot_k") if model.dtype.itemsize >= torch.float32.itemsize else ()
        for name in points:
            if isinstance(point := getattr(attention, name, None), nn.Module):
                stack.callback(point.register_forward_hook(on(name)).remove)
        stack.callback(attention.hook_attn_scores.register_forward_hook(on("scores")).remove)
        stack.callback(attention.hook_pattern.register_forward_hook(on_pattern).remove)
        stack.callback(attention.register_forward_hook(on_output).remove)
        yield


def _compare(
    where: str, scores: Tensor | None, pattern: Tensor, bound: float, factors: tuple[float, Factors] | None
) -> _Compared:
    """What one layer's scores, pattern, and scale with factors say of where its scores come from."""
    pattern = pattern.float()
    window = pattern.shape[-1]
    if scores is not None:
        refuse_nan(where, scores)
        # masked scores are the dtype's minimum, not -inf
        visible = scores > torch.finfo(scores.dtype).min / 2
        largest = []
        for part in zip(*(one.split(CHECKED_QUERIES, 2) for one in (scores, visible, pattern)), strict=True):
            own = torch.softmax(part[0].float().masked_fill(~part[1], -torch.inf), -1)
            largest.append((own - part[2]).abs().max())
        difference = torch.stack(largest).max().item()
        if difference <= bound:
            scale = None if factors is None or not _agree(scores, visible, factors[1]) else factors[0]
            return _Compared("scores", _reach(where, visible), scale, difference, 0.0)
    visible = pattern > 0
    reach = _reach(where, visible.any(0, keepdim=True).any(1, keepdim=True))
    seen = causal_mask(window, reach, pattern.device)
    zeros = 1 - visible[..., seen].float().mean().item()
    if not bool(torch.isfinite(pattern).all()) or zeros > ZERO_BOUND:
        raise RunError(
            f"{where}: neither its scores nor its pattern give energies ({zeros:.2%} of the visible pairs have "
            f"probability 0, bound {ZERO_BOUND:.1%}); the model cannot be read"
        )
    return _Compared("log_pattern", reach, None, 0.0, zeros)


def _agree(scores: Tensor, visible: Tensor, factors: Factors) -> bool:
    """Whether scores are what the factors give, to rounding, wherever they can be seen."""
    if scores.shape[1] % factors.keys.shape[1]:
        return False
    gaps, sizes = [], []
    for first in range(0, scores.shape[2], CHECKED_QUERIES):
        rows = slice(first, first + CHECKED_QUERIES)
        hidden, live = ~visible[:, :, rows], scores[:, :, rows]
        gaps.append((factors[:, :, rows] - live).masked_fill(hidden, 0).abs().max())
        sizes.append(live.masked_fill(hidden, 0).abs().max())
    return bool(torch.stack(gaps).max() <= FACTOR_BOUND * torch.stack(sizes).max())


def _reach(where: str, visible: Bool[Tensor, "window head query key"]) -> int | None:
    """How far back a layer's queries see; refuses masks that are neither causal nor a causal sliding window."""
    window = visible.shape[-1]
    mask = visible[0, 0]
    reach = int(mask[-1].sum())
    if not bool((visible == causal_mask(window, reach, visible.device)).all()):
        raise RunError(
            f"{where}: its attention mask is neither causal nor a causal sliding window; it cannot be read"
        )
    return None if reach >= window else reach
