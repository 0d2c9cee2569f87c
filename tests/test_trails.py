"""Jumps of a model inside its sweep: series by frozen terms, the law of each layer, and what is left out and said."""

import families
import numpy as np
import pytest
import torch
from scipy.signal import lfilter

from infodyn_interp import RequestError, figures, open_model, open_result, read_texts, summary, sweep, table
from infodyn_interp.energy.terms import Prosody
from infodyn_interp.measures.choices import FIRST
from infodyn_interp.measures.fits import Reading, fit_maps
from infodyn_interp.measures.leaps import LEAST_WINDOW, measure_jumps
from infodyn_interp.observing.inside import Inside, read_inside
from infodyn_interp.results import save
from infodyn_interp.sweeping import rhythms
from infodyn_interp.sweeping.measuring import measure
from infodyn_interp.sweeping.rhythms import foretell_choices, rhythm_before
from infodyn_interp.sweeping.trails import Frozen, read_trails
from infodyn_interp.texts import read_pieces

WORDS = ["clock", "rain", "why", "numbers", "one", "town", "proof", "step", "walk", "sure", ".", "\n"]
NULLS = ("untrained", "permuted_weights", "shuffled_tokens")
ASKED = {"nulls": NULLS, "null_share": 0.7, "fit_tokens": 400, "walked": 4, "measures": ["jumps"]}


@pytest.fixture(scope="module")
def model(tiny_tokenizer):
    return open_model(families.build("llama"), tokenizer=tiny_tokenizer)


@pytest.fixture(scope="module")
def texts(tiny_tokenizer):
    draw = np.random.default_rng(0)
    documents = [" ".join(draw.choice(WORDS, 160)) for _ in range(12)]
    return read_texts(documents, tiny_tokenizer, window=LEAST_WINDOW, windows_per_document=1, documents=6)


@pytest.fixture(scope="module")
def place(model, texts, tmp_path_factory):
    out = tmp_path_factory.mktemp("sweep")
    sweep(model, texts, layers=[0, 2], nulls=("untrained",), out=out)
    return out


@pytest.fixture(scope="module")
def result(model, texts, place):
    return measure(model, texts, **ASKED, inside=place)


def test_the_carry_over_of_a_text_is_what_replies_are_read_by(model, texts, place):
    frozen = Frozen.open(place, model, texts)
    assert frozen.carried == (0, 2)
    kept, reading = frozen.kept["study"], Reading.of(model, texts)
    trails = read_trails(reading, kept, frozen.reference, (0, 2)).series
    prosody = Prosody(read_pieces(texts.tokenizer))
    inside = Inside(model, reading.checked, (0, 2), kept, prosody, frozen.reference)
    tokens = next(texts.batches(1)).tokens[0].numpy()
    series = read_inside(inside, tuple(tokens[:1].tolist()), tokens[None, 1:], 1).series
    for layer, known in zip((0, 2), series["carry"], strict=True):
        np.testing.assert_allclose(trails[layer]["|M|"][0], known[0], rtol=1e-4)
        assert trails[layer]["state"].shape == (6, LEAST_WINDOW - 1, kept.columns.state_rank)


def test_the_track_is_read_at_the_own_place_of_each_state(model, texts, place):
    frozen = Frozen.open(place, model, texts)
    terms, reading = frozen.kept["study"].terms[2], Reading.of(model, texts)
    found = read_trails(reading, frozen.kept["study"], frozen.reference, (2,)).series[2]["track"][0]
    states: dict[int, torch.Tensor] = {}
    reading.capture(
        next(texts.batches(1)),
        lambda layer: states.setdefault(layer.index, layer.attention_input.clone()),
        "attention_input",
    )
    z = terms.basis.states(states[2])[0].double().numpy()
    columns = frozen.kept["study"].columns
    beta, grid = terms.coefficient[:, columns.blocks["track"]], columns.grid
    apart = ((z[:, None] - z[None]) ** 2).sum(-1) / (4 * z.shape[1])
    for query in (20, LEAST_WINDOW - 1):
        past = np.arange(4, query)
        at = []
        for key in (*range(4, query), query):
            seen = past[past != key]
            at.append(
                [
                    (np.exp(-(query - seen) / tau) * np.exp(-apart[key, seen] / width)).sum()
                    for width in grid.widths
                    for tau in grid.taus
                ]
            )
        energy = beta @ (np.array(at[-1]) - np.mean(at[:-1], 0))
        np.testing.assert_allclose(found[query - 1], (energy / terms.rms).mean(), rtol=1e-3, atol=1e-5)


def test_the_rhythm_before_a_token_is_the_one_it_gets_where_it_is_realised(model, texts):
    window = next(texts.batches(1)).tokens[0]
    prosody = Prosody(read_pieces(texts.tokenizer))
    places = np.array([9, 20, 40, LEAST_WINDOW - 1])
    draw = np.random.default_rng(0)
    candidates = draw.integers(0, len(texts.tokenizer), (4, 3))
    candidates[:, 1] = window[places]
    found = rhythm_before(prosody, window, places, candidates)
    np.testing.assert_array_equal(found[:, 1], prosody.columns(window[None])[0, places].numpy())
    assert (found != found[:, 1:2]).any()


def test_a_rhythm_that_rules_the_choice_is_seen_and_one_that_does_not_is_not(
    model, texts, place, monkeypatch
):
    frozen = Frozen.open(place, model, texts)
    reading = Reading.of(model, texts)
    fitted, kept = fit_maps(reading), frozen.kept["study"]
    prosody, draw = Prosody(read_pieces(texts.tokenizer)), np.random.default_rng(0)
    coefficient = kept.terms[2].coefficient[:, kept.columns.blocks["rhythm"]].mean(0)

    def choosing(scale):
        def contexts(window, top):
            places = np.arange(FIRST + 1, FIRST + 33)
            field = rhythm_before(prosody, window, places, top[:32].numpy()) @ coefficient
            noise = draw.gumbel(size=field.shape)
            return (noise - scale * field / field.std()).argmax(1), places, top[:32].numpy()

        return contexts

    found = []
    for scale in (0, 3):
        monkeypatch.setattr(rhythms, "_contexts", choosing(scale))
        found.append(foretell_choices(reading, fitted, kept).sel(layer=2))
    silent, ruled = found
    assert silent["rhythm_gain_low"] < 0.02
    assert ruled["rhythm_gain_low"] > 0.1
    assert ruled["rhythm_coefficient_high"] < 0


def test_a_threshold_that_is_planted_in_one_layer_is_found_there_alone():
    draw = np.random.default_rng(0)

    def trail(height):
        noise = draw.standard_normal((12, 228))
        carry = np.exp(0.3 * lfilter([0.6], [1, -0.8], noise, axis=1)[:, 100:])
        size = height * (carry > np.quantile(carry, 0.7))
        steps = np.exp(size)[..., None] * draw.standard_normal((12, 128, 4))
        state = lfilter([0, 1], [1, -0.6], steps, axis=1)
        return {
            "state": state,
            "|M|": carry,
            "innovation": draw.standard_normal((12, 128)),
            "track": 0 * carry,
        }

    silent = trail(0) | {"|M|": np.ones((12, 128))}
    found = measure_jumps({3: trail(0.6), 5: trail(0), 7: silent}, 12, (3, 5, 7), 0)
    assert found.details["verdict"].values.tolist() == ["THRESHOLD", "NONE", "NOT_ESTIMABLE"]
    assert np.isfinite(found.details["e_crit"]).values.tolist() == [True, False, False]
    assert np.isnan(found.ratios["before"].value[:, 2]).all()  # a series that is constant
    assert np.isfinite(found.ratios["before"].value[0, :2]).all()
    assert "jumps: " in str(found.details["advice"].values[2])


def test_every_layer_and_null_has_a_law_where_it_can_be_read(result, tmp_path):
    group = result["jumps"].to_dataset()
    assert group["layer"].values.tolist() == [0, 2]
    read = group.sel(null=["trained", "untrained", "shuffled_tokens"])
    assert set(read["law"].values.ravel()) <= {
        "NONE", "SMOOTH", "THRESHOLD", "VOLATILITY_CONFOUNDED", "NOT_ESTIMABLE"
    }  # fmt: skip
    assert (group["law"].sel(null="permuted_weights") == "").all()
    assert np.isnan(group["change_points"].sel(null="permuted_weights")).all()
    assert (np.isfinite(group["e_crit"]) == (group["law"] == "THRESHOLD")).all()
    slope = group["unfinished"].transpose("null", "layer", "functional", "head")
    there = np.isfinite(slope).any("head")
    assert there.sel(null=list(read["null"].values), functional=["helpful", "harmless"]).all()
    assert not there.sel(null="permuted_weights").any()
    # the lens of the last layer is the output: nothing is left of Honest there
    assert there.sel(null="trained", functional="honest").values.tolist() == [True, False]
    save(result, tmp_path)
    again = open_result(tmp_path)
    assert set(table(again, "jumps")["quantity"]) >= {"change_points", "before", "at", "slope"}
    words = summary(again)
    assert "law over 2 layers: trained" in words
    assert "permuted_weights was not read" in words
    assert "helpful: " in words.partition("what each functional left of the step before")[2]
    written = {path.stem for path in figures.save_all(again, tmp_path / "fig", format="svg")}
    assert written == {"jump_raster", "threshold_curve", "unfinished"}
    assert "Layer 2. " in (tmp_path / "fig" / "jump_raster.txt").read_text()


def test_jumps_that_cannot_be_read_are_refused_by_name_and_left_out_in_words(model, texts, place, tmp_path):
    few = ASKED | {"nulls": ()}
    with pytest.raises(RequestError, match=r"^jumps: .*--inside$"):
        measure(model, texts, **few)
    with pytest.raises(RequestError, match=r"^jumps: that sweep left no carry-over of these layers"):
        measure(model, texts, **few, layers=[0, 1], inside=save_without(place, tmp_path))
    every = measure(model, texts, **few | {"measures": None})
    assert "jumps" not in every.children
    assert "Left out: jumps: |M| comes from the frozen terms of a sweep" in summary(every)


def save_without(place, folder):
    save(open_result(place), folder)
    return folder
