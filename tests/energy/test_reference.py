"""Mean states, the basis and the strategies that make a surface of them."""

from pathlib import Path

import families
import numpy as np
import pytest
import torch

from infodyn_interp.energy.gauge import Support, center_rows
from infodyn_interp.energy.reference import (
    REFERENCES,
    MeanStates,
    SurfaceFit,
    Zero,
    choose_reference,
    fit_basis,
)
from infodyn_interp.errors import RequestError
from infodyn_interp.hooks import Layer, capture
from infodyn_interp.models import open_model

WINDOW, WIDTH = 32, 6


def survey(
    folder: Path, batches: list[torch.Tensor], states: list[torch.Tensor], **settings: object
) -> MeanStates:
    types = np.array([1, 3, 4, 9])
    windows = sum(len(batch) for batch in batches)
    means = MeanStates(folder, (2, 5), types, WIDTH, WINDOW, windows, **{"by_position": False, **settings})
    for tokens, x in zip(batches, states, strict=True):
        means.begin(tokens)
        for layer in (2, 5):
            means.add(layer, x * layer)
    means.finish()
    return means


def draw_corpus(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, 8, (6, WINDOW), generator=generator)
    return tokens, torch.randn(6, WINDOW, WIDTH, generator=generator)


def test_a_type_s_mean_is_shrunk_to_the_layer_s_and_keys_before_the_first_are_left_out(
    tmp_path: Path,
) -> None:
    tokens, x = draw_corpus()
    means = survey(tmp_path, [tokens], [x])
    kept = x[:, 4:].double()
    for layer in (2, 5):
        mean = kept.mean((0, 1)) * layer
        torch.testing.assert_close(means.average(layer, tokens)[0, 0].double(), mean, atol=1e-6, rtol=1e-5)
        for token in (1, 3, 4, 9):
            of_type = kept[tokens[:, 4:] == token] * layer
            expected = (of_type.sum(0) + 2 * mean) / (len(of_type) + 2)
            got = means.lexical(layer, torch.tensor([[token]]))[0, 0].double()
            torch.testing.assert_close(got, expected, atol=1e-6, rtol=1e-5)


def test_batches_of_any_size_give_the_same_means_and_the_same_basis(tmp_path: Path) -> None:
    tokens, x = draw_corpus()
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one = survey(tmp_path / "a", [tokens], [x])
    many = survey(tmp_path / "b", list(tokens.split([1, 2, 3])), list(x.split([1, 2, 3])))
    query = torch.tensor([[1, 3, 4, 9]])
    torch.testing.assert_close(one.lexical(5, query), many.lexical(5, query))
    first, second = one.basis(2, 3, 0), many.basis(2, 3, 0)
    torch.testing.assert_close(first.components, second.components)
    torch.testing.assert_close(first.centres, second.centres)


def test_types_the_survey_never_saw_stand_at_the_mean_and_are_counted(tmp_path: Path) -> None:
    tokens, x = draw_corpus()
    means = survey(tmp_path, [tokens], [x])
    torch.testing.assert_close(
        means.lexical(2, torch.tensor([[9]]))[0, 0], means.average(2, tokens)[0, 0], atol=1e-6, rtol=1e-5
    )
    assert means.unseen(torch.tensor([[9, 1, 9, 3]])).tolist() == [0.5]


def test_learned_positions_are_put_back(tmp_path: Path) -> None:
    tokens, x = draw_corpus()
    effect = torch.randn(WINDOW, WIDTH)
    means = survey(tmp_path, [tokens], [x + effect], by_position=True)
    query = torch.full((1, WINDOW), 9)
    at_positions = means.lexical(2, query)[0]
    expected = 2 * ((x + effect).sum(0) + 2 * (x + effect)[:, 4:].mean((0, 1))) / (6 + 2)
    torch.testing.assert_close(at_positions, expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(means.average(2, query)[0], expected, atol=1e-5, rtol=1e-4)


def test_the_basis_whitens_and_finds_the_leading_directions() -> None:
    draw = np.random.default_rng(0)
    mixing = np.linalg.qr(draw.normal(size=(10, 10)))[0] * np.array([9, 5, 3, *[0.1] * 7])
    states = (draw.normal(size=(3000, 10)) @ mixing.T + 4).astype(np.float32)
    basis = fit_basis(states, 3, 0)
    z = basis.states(torch.from_numpy(states)).numpy()
    np.testing.assert_allclose(np.cov(z, rowvar=False), np.eye(3), atol=1e-3)
    directions = basis.components.numpy() / np.linalg.norm(basis.components.numpy(), axis=0)
    leading = mixing[:, :3] / np.linalg.norm(mixing[:, :3], axis=0)
    assert np.abs((directions * leading).sum(0)).min() > 0.99
    assert 1.5 < basis.width < 3.5
    again = fit_basis(states, 3, 0)
    assert torch.equal(basis.centres, again.centres)


def test_nested_ranks_share_their_leading_components() -> None:
    states = np.random.default_rng(0).normal(size=(400, 12)).astype(np.float32) * np.arange(1, 13)
    small, large = fit_basis(states, 2, 0), fit_basis(states, 7, 0)
    torch.testing.assert_close(small.components, large.components[:, :2])


def test_more_components_than_directions_are_refused() -> None:
    with pytest.raises(RequestError, match="state rank: 7 asked, 6 are there"):
        fit_basis(np.zeros((50, 6), np.float32), 7, 0)


def test_an_unknown_reference_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(RequestError, match="'semantic' is not one of lexical, position, zero, own"):
        choose_reference("semantic")


def test_a_user_s_own_strategy_is_chosen_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(REFERENCES, "mine", Zero)
    assert isinstance(choose_reference("mine"), Zero)


def test_position_and_lexical_agree_where_every_type_stands_at_the_mean(tmp_path: Path) -> None:
    model = open_model(families.build("llama"))
    tokens = families.windows(2, WINDOW)
    types = np.unique(tokens.numpy())
    means = MeanStates(tmp_path, tuple(range(model.layers)), types, model.width, WINDOW, 1, False)
    strange = torch.full((1, WINDOW), families.VOCABULARY + 5)
    means.begin(strange)
    capture(
        model,
        families.windows(1, WINDOW, seed=3),
        lambda layer: means.add(layer.index, layer.attention_input),
    )
    means.finish()
    assert float(means.unseen(tokens).min()) == 1

    def visit(layer: Layer) -> None:
        lexical, position = (
            choose_reference(name)(layer, tokens, means)[:, :, :][..., layer.mask]
            for name in ("lexical", "position")
        )
        torch.testing.assert_close(lexical, position, atol=1e-4, rtol=1e-4)
        assert choose_reference("zero")(layer, tokens, means) is None

    capture(model, tokens, visit)


def test_the_surface_s_fit_is_what_dense_arrays_say() -> None:
    draw = torch.Generator().manual_seed(0)
    support = Support(WINDOW)
    mask = torch.tril(torch.ones(WINDOW, WINDOW, dtype=torch.bool))
    scores, surface = (
        3 * torch.randn(2, 2, WINDOW, WINDOW, generator=draw, dtype=torch.float64) for _ in "ab"
    )
    fitted = SurfaceFit.empty(3, 2)
    hidden = torch.finfo(torch.float32).min
    fitted.add(
        scores.masked_fill(~mask, hidden),
        surface.masked_fill(~mask, hidden),
        mask,
        support,
        torch.tensor([2, 0]),
    )
    rows = range(12, WINDOW, 16)
    centred, declared = (center_rows(x, support)[:, :, list(rows)] for x in (scores, surface))
    torch.testing.assert_close(fitted.products[2, 2], (centred * declared)[0].sum((-2, -1)))
    torch.testing.assert_close(fitted.products[0, 0], centred[1].square().sum((-2, -1)))
    assert fitted.pairs.tolist() == [sum(t - 4 for t in rows), 0, sum(t - 4 for t in rows)]
    kl = torch.zeros(2, dtype=torch.float64)
    for head in range(2):
        for t in rows:
            p, q = (x[0, head, t, : t + 1].softmax(-1) for x in (scores, surface))
            kl[head] += (p * (p / q).log()).sum()
    torch.testing.assert_close(fitted.bending[2, 0], kl)
    assert fitted.bending[2, 4].tolist() == [len(rows)] * 2
    assert float(fitted.bending[1].abs().sum()) == 0
