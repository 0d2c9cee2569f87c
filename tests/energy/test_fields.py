"""A term on any text from the result alone, and its parts add up to what the formulas say."""

import itertools

import families
import numpy as np
import oracle
import pytest
import torch
from test_sweeping import WINDOW, read, write_documents

from infodyn_interp.energy import Prosody, compute_term
from infodyn_interp.errors import RequestError
from infodyn_interp.hooks import capture
from infodyn_interp.models import open_model
from infodyn_interp.results import open_result
from infodyn_interp.sweeping import sweep
from infodyn_interp.texts import read_pieces


@pytest.fixture(scope="module")
def study(tiny_tokenizer, tmp_path_factory):
    model = open_model(families.build("gemma2"), tokenizer=tiny_tokenizer)
    out = tmp_path_factory.mktemp("fields")
    sweep(model, read(model, write_documents(20)), state_rank=3, out=out, carry=False, nulls=(), limits=())
    basis = open_result(out)["basis"].to_dataset()
    pieces = read_pieces(tiny_tokenizer)
    tokens = families.windows(2, WINDOW, seed=5)
    inputs = {}
    capture(model, tokens, lambda layer: inputs.update({layer.index: layer.attention_input.clone()}))
    return basis, pieces, tokens, inputs


@pytest.mark.parametrize("layer", [0, 1])  # 0 slides, 1 does not
def test_terms_of_a_new_text_follow_the_formulas(study, layer):
    basis, pieces, tokens, inputs = study
    at = basis.sel(layer=layer, head=2)
    reach = int(at["reach"])
    mask = oracle.support(WINDOW, reach if reach < WINDOW else None)
    edges = basis["bin_edge"].values
    bins = [(low, high - 1) for low, high in itertools.pairwise(edges)]
    prosody = Prosody(pieces)
    for place in range(2):
        x = inputs[layer][place].double().numpy()
        z = (x - at["mean"].values) @ at["components"].values.astype(float)
        rhythm = oracle.rhythm([pieces[token] for token in tokens[place]])
        columns = oracle.dense_columns(z, rhythm, at["centres"].values, float(at["rbf_width"]), bins)
        named = {
            "rhythm": ["rhythm"],
            "state": ["state"],
            "prosody": ["rhythm", "state"],
            "track": ["track"],
            "nuisance": ["distance", "kernels", "bilinear"],
        }
        for term, blocks in named.items():
            chosen = np.isin(basis["block"].values, blocks)
            field = sum(
                beta * column
                for beta, column, kept in zip(at["coefficient"].values, columns, chosen, strict=True)
                if kept
            )
            got = compute_term(basis, layer, 2, term, inputs[layer], tokens, prosody)[place].numpy()
            np.testing.assert_allclose(got, oracle.center_rows(field, mask), atol=1e-5)


@pytest.mark.parametrize("term", ["prosody", "track", "nuisance"])
def test_a_window_that_was_fitted_takes_the_coefficients_that_never_saw_its_fold(study, term):
    basis, pieces, tokens, inputs = study
    prosody, folds = Prosody(pieces), basis.sizes["fold"]

    def terms(basis, **fold):
        return compute_term(basis, 1, 2, term, inputs[1], tokens, prosody, **fold)

    mixed = terms(basis, fold=np.array([3, folds]))  # the second was not fitted
    without = terms(basis.assign(coefficient=basis["coefficient_without"].sel(fold=3)))
    np.testing.assert_allclose(mixed[0], without[0], atol=1e-6)
    np.testing.assert_array_equal(mixed[1], terms(basis)[1])
    assert abs(mixed[0] - terms(basis)[0]).max() > 1e-4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"term": "mood"}, "'mood' is not one of prosody, rhythm, state, track, nuisance"),
        ({"layer": 7}, "layer: 7 asked"),
        ({"head": 9}, "head: 9 asked"),
        (
            {"tokens": torch.zeros(2, 20, dtype=torch.long)},
            "window: 20 tokens given, the terms were fitted on 48",
        ),
    ],
)
def test_what_the_result_does_not_hold_is_refused(study, change, message):
    basis, pieces, tokens, inputs = study
    arguments = {"layer": 0, "head": 0, "term": "track", "tokens": tokens, **change}
    with pytest.raises(RequestError, match=message):
        compute_term(
            basis,
            attention_input=inputs[0][:, : arguments["tokens"].shape[1]],
            prosody=Prosody(pieces),
            **arguments,
        )
