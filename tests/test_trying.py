"""A column of one's own: what is planted comes back, nothing stays silent, what softmax cannot see changes nothing."""

import families
import numpy as np
import pytest
import torch

from infodyn_interp import RequestError, read_texts, sweep, try_column
from infodyn_interp.hooks import bent_scores, check
from infodyn_interp.models import open_model

LAYERS, WINDOW, DOCUMENTS = (1, 2), 48, 20


@pytest.fixture(scope="module")
def bench(tiny_tokenizer, tmp_path_factory):
    """A model, texts, the folder of a sweep of them, and a check of the model as it was."""
    draws = np.random.default_rng(0).integers(3, families.VOCABULARY, (DOCUMENTS + 6, 110))
    documents = [tiny_tokenizer.decode(row.tolist()) for row in draws]
    texts = read_texts(documents, tiny_tokenizer, WINDOW, reference_documents=6, windows_per_document=1)
    model = open_model(families.build("gpt2"), tokenizer=tiny_tokenizer)
    out = tmp_path_factory.mktemp("study")
    sweep(model, texts, layers=LAYERS, nulls=(), limits=(), carry=False, state_rank=4, out=out)
    return model, texts, out, check(model, next(texts.batches(4)))


def drawn(seed):
    """A column that is noise, the same whenever a pair of types meets at a pair of places."""
    table = torch.from_numpy(np.random.default_rng(seed).standard_normal((64, 64)))
    return lambda tokens: table[tokens[:, :, None] % 64, tokens[:, None] % 64]


def test_what_is_planted_comes_back_in_every_head_and_beats_all_strangers(bench):
    model, texts, out, checked = bench
    column, rms = drawn(1), 0.5
    before = try_column(model, texts, out, column, layers=[2], checked=checked)

    def energy(_layer, _states, tokens):
        return -rms * column(tokens)[:, None].expand(-1, model.heads, -1, -1)

    with bent_scores(model, [2], energy):
        found = try_column(model, texts, out, column, layers=[2], checked=checked)
    np.testing.assert_allclose(found["coefficient"] - before["coefficient"], -rms, atol=1e-4)
    assert (found["gain_low"] > 0).all()
    assert (found["swap_p"] == 1 / DOCUMENTS).all()
    assert (found["coefficient_low"] < found["coefficient"]).all()
    assert (found["stranger_gain"] < found["gain_low"]).all()


def test_a_column_of_nothing_is_silent(bench):
    model, texts, out, checked = bench
    generator = torch.Generator().manual_seed(0)

    def fresh(tokens):
        """Noise anew at every call: a fixed function of types may be a little like what a model makes of them."""
        return torch.randn((*tokens.shape, WINDOW), generator=generator)

    found = [try_column(model, texts, out, fresh, checked=checked) for _ in range(6)]
    above = np.stack([one["gain_low"] > 0 for one in found])
    first = np.stack([one["swap_p"] <= 0.05 for one in found])
    assert above.mean() <= 0.1
    assert first.mean() <= 0.2
    assert np.median([one["gain"] for one in found]) <= 0


def test_a_constant_added_to_a_row_of_the_column_changes_nothing(bench):
    model, texts, out, checked = bench
    column, rows = drawn(3), 100 * torch.arange(WINDOW)[:, None]
    plain, shifted = (
        try_column(model, texts, out, one, checked=checked)
        for one in (column, lambda tokens: column(tokens) + rows)
    )
    for name in plain.data_vars:
        np.testing.assert_allclose(shifted[name], plain[name], rtol=1e-8, atol=1e-10)


def test_batches_change_no_number(bench):
    model, texts, out, checked = bench
    plain, small = (
        try_column(model, texts, out, drawn(4), layers=[1], checked=checked, micro_batch=size)
        for size in (4, 3)
    )
    for name in plain.data_vars:
        np.testing.assert_allclose(small[name], plain[name], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    ("column", "says"),
    [
        (lambda tokens: tokens, r"column: shape \[4, 48\], where a number for every pair has \[4, 48, 48\]"),
        (lambda tokens: drawn(0)(tokens) / 0, "column: it has values that are not finite"),
        (
            lambda tokens: tokens[:, :, None].expand(-1, -1, WINDOW),
            "column: the same for all keys of every query",
        ),
    ],
)
def test_a_column_that_cannot_be_tried_is_refused_in_one_line(bench, column, says):
    model, texts, out, checked = bench
    with pytest.raises(RequestError, match=says):
        try_column(model, texts, out, column, checked=checked)


def test_a_sweep_of_something_else_is_refused_in_one_line(bench, tiny_tokenizer):
    model, texts, out, checked = bench
    with pytest.raises(RequestError, match="layers: 0 asked, the sweep holds 1, 2"):
        try_column(model, texts, out, drawn(0), layers=[0], checked=checked)
    with pytest.raises(RequestError, match="inside: that result is of another texts"):
        try_column(model, texts.part(documents=10), out, drawn(0), checked=checked)
