"""Every supported family, tiny and offline: its scores are read, its own surface leaves nothing, a track comes back."""

import families
import numpy as np
import oracle
import planting
import pytest
import torch
from test_planted import of_track, slope
from test_sweeping import WORDS

from infodyn_interp.energy.fitting import fit
from infodyn_interp.energy.gauge import center_rows, support_of
from infodyn_interp.energy.terms import TAUS, WIDTHS
from infodyn_interp.hooks import Layer, capture, check, follow
from infodyn_interp.models import Model, open_model
from infodyn_interp.sweeping import Settings, gather
from infodyn_interp.texts import Texts, read_texts

WINDOW = 48
WIDTH, TAU = 0.4, 8.0
SHARE = 0.5  # of little text: the rest of a tiny model's energy moves a slope by a few per cent
PLACE = WIDTHS.index(WIDTH) * len(TAUS) + TAUS.index(TAU)
PRODUCTS = (  # of rotated queries and keys: these families' scores; others cap them, or their hooks show no factors
    "llama", "mistral", "gemma3_text", "qwen2", "qwen3", "phi", "olmo2", "stablelm", "granite", "cohere", "mixtral",
)  # fmt: skip
PROBABILITIES = ("opt", "gptj")  # their score hook carries probabilities


def tiny(name: str, tokenizer: object, dtype: torch.dtype = torch.float32) -> Model:
    return open_model(families.build(name, dtype=dtype), tokenizer=tokenizer)


@pytest.fixture(scope="module")
def texts(tiny_tokenizer: object) -> Texts:
    draw = np.random.default_rng(0)
    documents = [" ".join(draw.choice(WORDS, 300)) for _ in range(32)]
    return read_texts(documents, tiny_tokenizer, window=WINDOW, windows_per_document=6, reference_documents=8)


@pytest.mark.parametrize("family", families.NAMES)
def test_the_check_names_score_source_reach_and_parity(family: str, tiny_tokenizer: object) -> None:
    model = tiny(family, tiny_tokenizer)
    checked = check(model, families.windows(2, WINDOW))
    assert checked.logit_difference < 1e-6
    assert max(checked.pattern_difference) < 1e-5
    expected = "log_pattern" if family in PROBABILITIES else "scores"
    assert set(checked.score_source) == {expected}
    sliding = families.SLIDING_LAYERS.get(family, ())
    for layer in range(model.layers):
        assert checked.reach[layer] == (families.SLIDING_WINDOW if layer in sliding else None)


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
@pytest.mark.parametrize("family", families.NAMES)
def test_the_model_s_own_surface_leaves_no_energy(
    family: str, tiny_tokenizer: object, dtype: torch.dtype, bound: float
) -> None:
    model = tiny(family, tiny_tokenizer, dtype)
    ratios = []

    def visit(layer: Layer) -> None:
        support = support_of(WINDOW, checked.reach[layer.index])
        scores = center_rows(layer.scores, support)
        for again in (layer.look_again, layer.factor_again):
            energy = center_rows(again(layer.attention_input)[:, :, :] - layer.scores, support)
            ratios.append((energy.square().mean() / scores.square().mean()).sqrt().item())

    tokens = families.windows(2, WINDOW)
    checked = check(model, tokens)
    capture(model, tokens, visit, checked=checked)
    assert max(ratios) <= bound
    assert [scale is not None for scale in checked.score_scale] == [family in PRODUCTS] * model.layers


@pytest.mark.parametrize("family", families.NAMES)
def test_what_may_follow_is_read_from_a_cache_as_it_is_in_whole_windows(
    family: str, tiny_tokenizer: object
) -> None:
    model, window = tiny(family, tiny_tokenizer), families.windows(1, WINDOW)[0]
    places, following = [9, 30], torch.tensor([[5, 17, 40], [8, 200, 3]])
    found = follow(model, window, places, following)
    assert found.shape == (model.layers, 2, 3, 2, model.width)
    for context, place in enumerate(places):
        for candidate, token in enumerate(following[context]):
            streams: list[torch.Tensor] = []
            whole = torch.cat([window[: place + 1], token[None]])[None]
            capture(
                model,
                whole,
                lambda layer, into=streams: into.append(layer.residual_out[0, -2:].clone()),
                wants=["residual_out"],
            )
            torch.testing.assert_close(
                found[:, context, candidate], torch.stack(streams), atol=1e-4, rtol=1e-4
            )


@pytest.mark.parametrize("family", families.NAMES)
def test_a_planted_track_comes_back(family: str, tiny_tokenizer: object, texts: Texts) -> None:
    model = tiny(family, tiny_tokenizer)
    layer = model.layers - 1
    settings = Settings((layer,), state_rank=4, carry=False)
    clean = gather(model, texts, settings)
    before = fit(clean.moments[layer])
    basis = clean.bases[layer]
    windows = planting.windows_of(texts)
    inputs = planting.attention_inputs(model, windows, layer)
    components = basis.components[:, : basis.rank].double().numpy()
    states = [(x - basis.mean.double().numpy()) @ components for x in inputs]
    fields = [-oracle.track(z, WIDTH, TAU) for z in states]
    mask = oracle.support(WINDOW, clean.checked.reach[layer])
    factor = planting.scale_to_share(fields, SHARE, before.rms**2, mask, oracle.center_rows)
    energies = {
        window.numpy().tobytes(): factor[:, None, None] * np.where(mask, field, 0)
        for window, field in zip(windows, fields, strict=True)
    }
    source = clean.checked.score_source[layer]
    with planting.planted(model, layer, energies, source):
        again = gather(model, texts, settings, checked=clean.checked)
    after = fit(again.moments[layer])
    truth = np.zeros(before.coefficient.T.shape)
    truth[before.columns.blocks["track"].start + PLACE] = -factor
    found = slope(again.moments[layer], "within", of_track(after), of_track(before), truth)
    print(family, np.round(found, 3))
    assert np.all((found >= 0.9) & (found <= 1.1))


def test_the_language_model_s_own_surface_leaves_no_energy_in_any_layer(demo_model: Model) -> None:
    ratios = []
    support = support_of(128)

    def visit(layer: Layer) -> None:
        energy = center_rows(layer.look_again(layer.attention_input) - layer.scores, support)
        ratios.append(
            (energy.square().mean() / center_rows(layer.scores, support).square().mean()).sqrt().item()
        )

    capture(demo_model, torch.randint(0, 40_000, (2, 128)), visit)
    assert len(ratios) == 30
    assert max(ratios) <= 1e-5


@pytest.mark.parametrize("family", families.NAMES)
def test_a_pass_that_ends_at_a_layer_shows_it_as_a_whole_one_does(
    family: str, tiny_tokenizer: object
) -> None:
    model, windows = tiny(family, tiny_tokenizer), families.windows(2, WINDOW)
    checked = check(model, windows)
    seen: dict[int | None, list[torch.Tensor]] = {0: [], None: []}
    for keep, found in seen.items():

        def visit(layer: Layer, found: list[torch.Tensor] = found) -> None:
            found.append(layer.scores.clone())

        capture(model, windows, visit, layers=[1], checked=checked, logits_to_keep=keep)
    assert torch.equal(seen[None][0], seen[0][0])
    reached: list[int] = []
    last = model.bridge.blocks[-1].attn.register_forward_pre_hook(lambda *_: reached.append(1))
    capture(model, windows, lambda layer: None, layers=[1], checked=checked, logits_to_keep=None)
    last.remove()
    assert len(reached) == (model.layers == 2)
    assert torch.equal(capture(model, windows, lambda layer: None, checked=checked), native(model, windows))


def native(model: Model, windows: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return model.bridge(windows, use_cache=False, output_attentions=False, logits_to_keep=1)[:, -1:]
