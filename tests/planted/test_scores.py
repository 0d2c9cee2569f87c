"""A real model with a planted term in place of its own: what is planted is what is fitted, and nothing stays behind."""

import families
import numpy as np
import pytest

from infodyn_interp.errors import RequestError, RunError
from infodyn_interp.hooks import bent_scores, check
from infodyn_interp.identify import verdicts
from infodyn_interp.models import open_model
from infodyn_interp.planted import planted_term
from infodyn_interp.sweeping import Settings, gather, sweep
from infodyn_interp.texts import read_texts

LAYER, TERMS = 1, ("prosody", "rhythm", "state", "track")


@pytest.fixture(scope="module")
def bench(tiny_tokenizer):
    draw = np.random.default_rng(0)
    words = [f"{a}{b}" for a in "bdgkmnprst" for b in ("a", "ei", "o", "urn")]
    texts = [
        " ".join(draw.choice(words) + draw.choice(["", "", "", ",", ".", "\n"]) for _ in range(60))
        for _ in range(20)
    ]
    model = open_model(families.build("llama"), tokenizer=tiny_tokenizer)
    read = read_texts(texts, tiny_tokenizer, window=48, reference_documents=8)
    checked = check(model, next(read.batches(4)))
    return model, read, checked, sweep(model, read, state_rank=4, nulls=(), limits=(), carry=False)


def refit(bench, **planted):
    model, read, checked, clean = bench
    with planted_term(model, read, clean, layer=LAYER, checked=checked, **planted):
        return gather(model, read, Settings((LAYER,), state_rank=4, carry=False), checked=checked).fits[LAYER]


@pytest.mark.parametrize("term", ["rhythm", "state", "track"])
def test_a_share_of_nothing_takes_the_own_term_out(bench, term):
    place = TERMS.index(term)
    before = bench[3]["terms"]["share"].sel(layer=LAYER, term=term).values
    bare = refit(bench, term=term, share=0.0)
    assert (before > 0).all()
    if term == "track":  # another width and memory may be chosen, and find what the first one left
        before = bench[3]["terms"]["track_gain"].sel(layer=LAYER).max(("width", "tau")).values
        assert (bare.track_gain_by_fold.mean(0).max(0) <= np.maximum(before, 0) + 1e-3).all()
    else:
        kept_back = (
            0.01 if term == "rhythm" else 0.1
        )  # by the prior on radial basis functions, on so few texts
        assert (bare.share[place] < kept_back * before).all()


@pytest.mark.parametrize("term", ["rhythm", "state"])
def test_a_planted_share_is_found_in_every_head(bench, term):
    clean = bench[3]["energy"]["rms"].sel(layer=LAYER).values
    found = refit(bench, term=term, share=0.5, seed=3)
    share = found.share[TERMS.index(term)] * (found.rms / clean) ** 2
    assert share == pytest.approx(np.full(len(clean), 0.5), abs=0.1)
    assert (found.gain.low[TERMS.index(term)] > 0).all()


def test_a_planted_well_is_found_as_one(bench):
    found = refit(bench, term="track", share=2.0, width=0.4, tau=2.0)
    assert (found.track < 0).all()
    assert (found.chosen == 3).all()


def test_a_sweep_of_bent_scores_takes_a_check_made_before_and_nothing_else(bench, tmp_path):
    model, read, checked, clean = bench
    asked = {"layers": [LAYER], "state_rank": 4, "nulls": (), "limits": (), "carry": False}
    planted = {"layer": LAYER, "term": "rhythm", "share": 0.5, "seed": 3, "checked": checked}
    with planted_term(model, read, clean, **planted):
        bent = sweep(model, read, checked=checked, **asked)
        with pytest.raises(RunError, match="logits differ"):
            sweep(model, read, **asked)
    del planted["checked"], planted["layer"]
    np.testing.assert_array_equal(bent["energy"]["rms"][0], refit(bench, **planted).rms)
    with pytest.raises(RequestError, match="checked: bent scores are this process's own"):
        sweep(model, read, checked=checked, out=tmp_path, **asked)


def test_the_model_is_itself_again_afterwards(bench):
    model, read, checked, clean = bench
    refit(bench, term="track", share=0.5)
    again = gather(model, read, Settings((LAYER,), state_rank=4, carry=False), checked=checked).fits[LAYER]
    np.testing.assert_array_equal(again.rms, clean["energy"]["rms"].sel(layer=LAYER).values)


@pytest.mark.parametrize("term", ["rhythm", "state", "track"])
def test_taking_a_planted_term_back_returns_the_verdicts_of_the_clean_model(bench, term):
    model, read, checked, clean = bench
    settings = Settings((LAYER,), state_rank=4, carry=False)
    own = verdicts(gather(model, read, settings, checked=checked).moments)
    with planted_term(model, read, clean, layer=LAYER, term=term, share=1.0, checked=checked) as energy:
        bent = verdicts(gather(model, read, settings, checked=checked).moments)
        with bent_scores(model, [LAYER], lambda *live: -energy(*live)):
            back = verdicts(gather(model, read, settings, checked=checked).moments)
    assert (bent["gain"].sel(term=term) > own["gain"].sel(term=term) + 0.1).all()
    np.testing.assert_allclose(back["gain"], own["gain"], atol=1e-4)
    np.testing.assert_array_equal(back["verdict"], own["verdict"])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"term": "carry", "share": 0.1}, "'carry' is not one of rhythm, state, track"),
        ({"term": "track", "share": -0.1}, "share: -0.1 asked"),
        ({"term": "track", "share": 0.1, "layer": 9}, "layer: 9 asked"),
    ],
)
def test_what_cannot_be_planted_is_refused(bench, wrong, message):
    model, read, checked, clean = bench
    with (
        pytest.raises(RequestError, match=message),
        planted_term(model, read, clean, **({"layer": LAYER, "checked": checked} | wrong)),
    ):
        pass
