"""One forward pass, layer by layer: what is handed over, that it fires once, that nothing changes and nothing stays."""

import dataclasses
import gc
import math
import weakref

import families
import psutil
import pytest
import torch

from infodyn_interp.errors import RequestError, RunError
from infodyn_interp.hooks import ON_REQUEST, Factors, Layer, capture, causal_mask, check
from infodyn_interp.models import Model, open_model

WINDOW = 40


def tiny(name: str, **settings: object) -> Model:
    return open_model(families.build(name, **settings))


@pytest.fixture(scope="module")
def llama() -> Model:
    return tiny("llama")


def test_each_layer_is_handed_over_once_and_in_order(llama: Model) -> None:
    tokens = families.windows(3, WINDOW)
    seen: list[int] = []
    logits = capture(llama, tokens, lambda layer: seen.append(layer.index))
    assert seen == list(range(llama.layers))
    assert logits.shape[:2] == (3, 1)
    assert capture(llama, tokens, lambda layer: None, logits_to_keep=0).shape[:2] == (3, WINDOW)


@pytest.mark.parametrize("wants", [(), ("pattern", "values"), ("residual_in", "mlp_in"), ON_REQUEST])
def test_a_visitor_gets_what_it_declared_and_nothing_else(llama: Model, wants: tuple[str, ...]) -> None:
    found: list[dict[str, tuple[int, ...]]] = []

    def visit(layer: Layer) -> None:
        fields = {field.name: getattr(layer, field.name) for field in dataclasses.fields(layer)}
        found.append({name: tuple(x.shape) for name, x in fields.items() if isinstance(x, torch.Tensor)})

    capture(llama, families.windows(2, WINDOW), visit, wants=wants)
    assert len(found) == llama.layers
    for shapes in found:
        assert set(shapes) == {"scores", "mask", "attention_input", *wants}
        assert shapes["scores"] == (2, llama.heads, WINDOW, WINDOW)
        assert shapes["attention_input"] == (2, WINDOW, llama.width)


def test_what_is_handed_over_is_what_the_block_computes(llama: Model) -> None:
    stream: list[torch.Tensor] = []

    def visit(layer: Layer) -> None:
        torch.testing.assert_close(layer.scores.softmax(-1), layer.pattern)
        if stream:
            torch.testing.assert_close(layer.residual_in, stream[-1])
        middle = layer.residual_out - layer.mlp_out
        assert (middle - layer.residual_in).abs().max() > 1e-3
        stream.append(layer.residual_out.clone())

    capture(llama, families.windows(2, WINDOW), visit, wants=ON_REQUEST)
    assert len(stream) == llama.layers


def test_scores_and_logits_are_bit_equal_with_and_without_our_hooks(llama: Model) -> None:
    tokens = families.windows(2, WINDOW)

    def watched(run: object) -> tuple[list[torch.Tensor], torch.Tensor]:
        scores: list[torch.Tensor] = []
        handles = [
            block.attn.hook_attn_scores.register_forward_hook(lambda _m, _i, out: scores.append(out.clone()))
            for block in llama.bridge.blocks
        ]
        try:
            with torch.inference_mode():
                logits = run()
        finally:
            for handle in handles:
                handle.remove()
        return scores, logits

    def look(layer: Layer) -> None:
        layer.look_again(layer.attention_input * 0.5)

    checked = check(llama, tokens)
    bare, logits = watched(lambda: llama.bridge(tokens, use_cache=False))
    ours, captured = watched(
        lambda: capture(llama, tokens, look, wants=ON_REQUEST, checked=checked, logits_to_keep=0)
    )
    assert torch.equal(logits, captured)
    assert all(torch.equal(a, b) for a, b in zip(bare, ours, strict=True))
    after, _ = watched(lambda: llama.bridge(tokens, use_cache=False))
    assert all(torch.equal(a, b) for a, b in zip(bare, after, strict=True))


def test_no_hook_is_left_behind_even_when_a_visitor_fails(llama: Model) -> None:
    def count() -> int:
        modules = llama.bridge.modules()
        return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in modules)

    def fail(layer: Layer) -> None:
        if layer.index == 1:
            raise KeyError("the visitor's own trouble")

    before = count()
    with pytest.raises(KeyError, match="own trouble"):
        capture(llama, families.windows(1, WINDOW), fail, wants=ON_REQUEST)
    assert count() == before


def test_a_layer_is_dropped_before_the_next_comes(llama: Model) -> None:
    earlier: list[weakref.ref] = []

    def visit(layer: Layer) -> None:
        assert all(ref() is None for ref in earlier[:-1])
        earlier.append(weakref.ref(layer))

    capture(llama, families.windows(1, WINDOW), visit)
    gc.collect()
    assert all(ref() is None for ref in earlier)


def test_the_second_look_is_only_alive_while_its_layer_is_visited(llama: Model) -> None:
    kept: list[Layer] = []
    capture(llama, families.windows(1, WINDOW), kept.append, layers=[1])
    with pytest.raises(RunError, match="alive"):
        kept[0].look_again(kept[0].attention_input)


def test_the_second_look_does_not_see_what_others_add_to_the_live_scores(llama: Model) -> None:
    point = llama.bridge.blocks[1].attn.hook_attn_scores
    handle = point.register_forward_hook(lambda _m, _i, scores: scores + 1)
    try:

        def visit(layer: Layer) -> None:
            again = layer.look_again(layer.attention_input)
            gap = (layer.scores - again)[..., layer.mask]
            torch.testing.assert_close(gap, torch.ones_like(gap))

        # a constant changes neither pattern nor logits: the check passes with the hook in place
        capture(llama, families.windows(1, WINDOW), visit, layers=[1])
    finally:
        handle.remove()


def test_factors_are_indexed_as_the_scores_they_stand_for(llama: Model) -> None:
    def visit(layer: Layer) -> None:
        whole, factors = (
            look(layer.attention_input * 0.5) for look in (layer.look_again, layer.factor_again)
        )
        assert isinstance(factors, Factors)
        rows, few = torch.tensor([9, 20, 39]), torch.tensor([2, 0])
        for place in (
            (slice(None), slice(None), slice(8, 40, 4), slice(0, 30)),
            (slice(None), slice(None), rows),
        ):
            for found, dense in ((factors, whole), (factors[few], whole[few]), (factors[1:], whole[1:])):
                seen = layer.mask[place[2]][(slice(None), *place[3:])]
                torch.testing.assert_close(found[place][..., seen], dense[place][..., seen])

    capture(llama, families.windows(3, WINDOW), visit)


def test_half_precision_has_no_factors() -> None:
    """A product in single precision is not what the model rounded."""
    assert set(check(tiny("llama", dtype=torch.bfloat16), families.windows(2, WINDOW)).score_scale) == {None}


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "bloom", "mistral", "opt"])
def test_a_padded_batch_shows_what_the_unpadded_one_does(family: str, side: str) -> None:
    model = tiny(family)
    tokens = families.windows(2, WINDOW)
    pad = torch.full((2, 7), 2)
    mask = torch.cat([torch.zeros_like(pad), torch.ones_like(tokens)], 1)
    padded = torch.cat([pad, tokens], 1)
    if side == "right":
        padded, mask = torch.cat([tokens, pad], 1), mask.flip(1)
    checked = check(model, tokens)
    plain: list[torch.Tensor] = []
    capture(model, tokens, lambda layer: plain.append(layer.scores.clone()), checked=checked)
    again: list[tuple[torch.Tensor, torch.Tensor]] = []
    capture(
        model,
        {"input_ids": padded, "attention_mask": mask},
        lambda layer: again.append(
            (layer.scores.clone(), layer.factor_again(layer.attention_input)[:, :, :].clone())
        ),
        checked=checked,
    )
    for index, (scores, (cropped, looked)) in enumerate(zip(plain, again, strict=True)):
        visible = causal_mask(WINDOW, checked.reach[index])
        assert cropped.shape == scores.shape
        # the pattern of opt leaves its scores up to a row constant
        gap = (cropped - scores)[..., visible]
        assert gap.abs().max() < 1e-4
        assert (looked - cropped)[..., visible].abs().max() < 1e-4


def test_windows_of_unequal_length_are_refused(llama: Model) -> None:
    mask = torch.ones(2, WINDOW, dtype=torch.long)
    mask[1, :3] = 0
    with pytest.raises(RequestError, match="same number of tokens"):
        capture(llama, {"input_ids": families.windows(2, WINDOW), "attention_mask": mask}, lambda layer: None)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"layers": [0, 7]}, r"layers: 7 asked, the model has 3 \(0..2\)"),
        ({"layers": []}, "none asked"),
        ({"wants": ["colour"]}, "'colour' is not one of"),
    ],
)
def test_what_is_not_there_is_refused_in_one_line(llama: Model, keywords: dict, message: str) -> None:
    with pytest.raises(RequestError, match=message) as caught:
        capture(llama, families.windows(1, WINDOW), lambda layer: None, **keywords)
    assert "\n" not in str(caught.value)


def test_a_hook_that_does_not_fire_stops_the_run(llama: Model) -> None:
    tokens = families.windows(1, WINDOW)
    checked = check(llama, tokens)
    attention = llama.bridge.blocks[1].attn
    before = attention.forward

    def forward(*args: object, **kwargs: object) -> object:
        point = attention._modules["hook_attn_scores"]
        attention._modules["hook_attn_scores"] = torch.nn.Identity()
        try:
            return before(*args, **kwargs)
        finally:
            attention._modules["hook_attn_scores"] = point

    vars(attention)["forward"] = forward
    try:
        with pytest.raises(RunError, match=r"layer 1: .*scores 0 times"):
            capture(llama, tokens, lambda layer: None, checked=checked)
    finally:
        del vars(attention)["forward"]


def test_logits_that_differ_from_the_module_s_own_stop_the_check(llama: Model) -> None:
    handle = llama.bridge.blocks[2].hook_out.register_forward_hook(
        lambda _m, _i, out: out + 0.2 * out.roll(1, -1)
    )
    try:
        with pytest.raises(RunError, match="logits differ"):
            check(llama, families.windows(2, WINDOW))
    finally:
        handle.remove()


def test_scores_that_are_not_numbers_are_named_by_layer_head_and_window(llama: Model) -> None:
    def spoil(_module: object, _inputs: object, scores: torch.Tensor) -> torch.Tensor:
        scores = scores.clone()
        scores[1, 2, 20, 5] = math.nan
        return scores

    handle = llama.bridge.blocks[1].attn.hook_attn_scores.register_forward_hook(spoil)
    try:
        with pytest.raises(RunError, match="layer 1, head 2, window 1"):
            check(llama, families.windows(2, WINDOW))
    finally:
        handle.remove()


def test_resident_memory_stays_flat_over_many_batches(llama: Model) -> None:
    checked = check(llama, families.windows(4, 96))
    process = psutil.Process()
    sizes = []
    for batch in range(200):
        capture(
            llama,
            families.windows(4, 96, seed=batch),
            lambda layer: layer.look_again(layer.attention_input),
            wants=ON_REQUEST,
            checked=checked,
        )
        sizes.append(process.memory_info().rss)
    # 800 windows; the first quarter lets the allocators settle
    grown = (sizes[-1] - sizes[49]) / 2**20
    assert grown < 6  # 1 MiB per 100 windows
