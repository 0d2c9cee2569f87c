"""A term taken out of the live scores: what is planted is what the model uses, and the placebo is the zero."""

import pydoc_data.topics
from contextlib import nullcontext
from typing import Any, cast

import families
import numpy as np
import oracle
import planting
import pytest
import scipy.linalg
import scipy.stats
import torch
import xarray

from infodyn_interp.energy import ablate, removal
from infodyn_interp.energy.fitting import TERMS
from infodyn_interp.energy.removal import KINDS, MEASURES, unseen_share
from infodyn_interp.energy.terms import CENTRES, TAUS, WIDTHS, columns_of
from infodyn_interp.errors import RequestError
from infodyn_interp.hooks import Energy, Layer, bent_scores, capture, causal_mask, check
from infodyn_interp.models import Model, open_model
from infodyn_interp.texts import Batch, read_pieces

WINDOW = 40
RANK = 3
WIDTH, TAU = 0.4, 8.0
FIRST = 12  # queries from here on hold energies
RMS = 1.5  # of a planted term, nats


def tiny(name: str, tokenizer: Any = None, **settings: Any) -> Model:
    return open_model(families.build(name, **settings), tokenizer=tokenizer)


@pytest.fixture(scope="module")
def llama(tiny_tokenizer: object) -> Model:
    return tiny("llama", tiny_tokenizer)


def inputs_of(model: Model, tokens: torch.Tensor) -> dict[int, torch.Tensor]:
    found = {}
    capture(model, tokens, lambda layer: found.update({layer.index: layer.attention_input.clone()}))
    return found


def result_of(model: Model, tokens: torch.Tensor, layers: list[int], term: str) -> xarray.DataTree:
    """A result that holds one term alone: its coefficients are drawn and scaled to RMS on these windows."""
    window, draw = tokens.shape[1], np.random.default_rng(0)
    checked, inputs = check(model, tokens), inputs_of(model, tokens)
    columns = columns_of(window, RANK)
    parts: dict[str, list] = {
        name: [] for name in ("mean", "components", "centres", "rbf_width", "reach", "coefficient")
    }
    for layer in layers:
        x = inputs[layer].double().flatten(0, 1).numpy()
        _, sizes, directions = np.linalg.svd(x - x.mean(0), full_matrices=False)
        parts["mean"].append(x.mean(0))
        parts["components"].append(directions[:RANK].T / sizes[:RANK] * np.sqrt(len(x)))
        parts["centres"].append(draw.normal(size=(CENTRES, RANK)))
        parts["rbf_width"].append(1.5)
        parts["reach"].append(checked.reach[layer] or window)
        beta = np.zeros((model.heads, columns.count))
        if term == "track":
            place = WIDTHS.index(WIDTH) * len(TAUS) + TAUS.index(TAU)
            beta[:, columns.blocks["track"].start + place] = -1 - draw.random(model.heads)
        else:
            for block in ("rhythm", "state") if term == "prosody" else (term,):
                places = columns.blocks[block]
                beta[:, places] = draw.normal(size=(model.heads, places.stop - places.start))
        parts["coefficient"].append(beta)
    dims = {
        "mean": ("layer", "direction"),
        "components": ("layer", "direction", "component"),
        "centres": ("layer", "centre", "component"),
        "rbf_width": ("layer",),
        "reach": ("layer",),
        "coefficient": ("layer", "head", "column"),
    }
    basis = xarray.Dataset(
        {name: (dims[name], np.stack(values)) for name, values in parts.items()},
        coords={"layer": layers, "head": np.arange(model.heads)},
        attrs={"first_key": 4, "gap": 1, "first_query": FIRST, "state_rank": RANK, "window": window},
    )
    for place, layer in enumerate(layers):
        energy = term_by_formulas(model, basis, layer, inputs[layer], tokens)
        mask = oracle.support(window, parts["reach"][place])
        basis["coefficient"][place] *= RMS / np.sqrt(
            (energy**2).sum() / (len(tokens) * model.heads * mask.sum())
        )
    return xarray.DataTree.from_dict({"/basis": basis})


def term_by_formulas(
    model: Model, basis: xarray.Dataset, layer: int, inputs: torch.Tensor, tokens: torch.Tensor
) -> np.ndarray:
    """The term of every head `[window, head, query, key]`, from the formulas alone."""
    at = basis.sel(layer=layer)
    columns = columns_of(tokens.shape[1], RANK)
    beta = {name: at["coefficient"].values[:, places] for name, places in columns.blocks.items()}
    pieces = read_pieces(model.tokenizer) if beta["rhythm"].any() else []
    out = []
    for x, window in zip(inputs.double().cpu().numpy(), tokens.cpu(), strict=True):
        z = (x - at["mean"].values) @ at["components"].values
        keys = oracle.state(z, at["centres"].values, float(at["rbf_width"])) @ beta["state"].T
        if pieces:
            keys = keys + oracle.rhythm([pieces[token] for token in window]) @ beta["rhythm"].T
        place = WIDTHS.index(WIDTH) * len(TAUS) + TAUS.index(TAU)
        field = keys.T[:, None] + beta["track"][:, place, None, None] * oracle.track(z, WIDTH, TAU)
        out.append(oracle.center_rows(field, oracle.support(len(window), int(at["reach"]))))
    return np.stack(out)


def outputs_of(model: Model, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities and final stream of the rows that hold energies, without `capture`."""
    stream = []
    handle = model.bridge.blocks[-1].hook_out.register_forward_hook(
        lambda _m, _i, out: stream.append((out[0] if isinstance(out, tuple) else out).double())
    )
    try:
        with torch.inference_mode():
            logits = model.bridge(tokens, use_cache=False)
    finally:
        handle.remove()
    return logits[:, FIRST:].double().log_softmax(-1), stream[0][:, FIRST:]


def measures_of(
    before: torch.Tensor, after: torch.Tensor, stream: torch.Tensor, tokens: torch.Tensor
) -> np.ndarray:
    """`[window, measure]`, in the words of their definitions."""
    rows = []
    for p, q, x, ids in zip(before, after, stream, tokens[:, FIRST:], strict=True):
        steps = x[1:] - x[:-1]
        cosines = [float(a @ b / (a.norm() * b.norm())) for a, b in zip(steps[1:], steps[:-1], strict=True)]
        rows.append(
            [
                -np.mean([float(q[t, ids[t + 1]]) for t in range(len(ids) - 1)]),
                float((p.exp() * (p - q)).sum() / len(ids)),
                np.mean(cosines),
                np.mean([int(q[t].argmax()) == int(ids[t]) for t in range(len(ids))]),
            ]
        )
    return np.array(rows)


# --- what is planted is what the model uses


def random_energy(model: Model, windows: int, reach: int | None) -> torch.Tensor:
    field = 2 * torch.randn(windows, model.heads, WINDOW, WINDOW, generator=torch.Generator().manual_seed(1))
    return field * torch.from_numpy(oracle.support(WINDOW, reach))


@pytest.mark.parametrize("family", families.NAMES)
def test_a_planted_energy_is_what_the_model_computes_with_and_is_undone(family: str) -> None:
    model, tokens = tiny(family), families.windows(2, WINDOW)
    checked, last = check(model, tokens), model.layers - 1
    energy = random_energy(model, 2, checked.reach[last])
    found: dict[str, torch.Tensor] = {}
    heads_out: list[torch.Tensor] = []

    def visit(layer: Layer) -> None:
        again = layer.look_again(layer.attention_input)
        found.update(scores=layer.scores.clone(), again=again.clone(), inputs=layer.attention_input.clone())
        found.update(values=cast(torch.Tensor, layer.values).clone())
        found.update(pattern=cast(torch.Tensor, layer.pattern).clone())

    def read() -> torch.Tensor:
        heads_out.clear()
        handle = model.bridge.blocks[last].attn.o.hook_in.register_forward_hook(
            lambda _m, _i, out: heads_out.append(out.clone())
        )
        try:
            return capture(model, tokens, visit, wants=("pattern", "values"), layers=[last], checked=checked)
        finally:
            handle.remove()

    clean = read()
    before = dict(found)
    with bent_scores(model, [last], lambda *_: energy):
        bent = read()
    mask = causal_mask(WINDOW, checked.reach[last])
    expected = (before["scores"] - energy).masked_fill(~mask, -torch.inf).softmax(-1)
    torch.testing.assert_close(found["pattern"], expected, atol=1e-5, rtol=1e-4)
    shown = found["scores"].masked_fill(~mask, -torch.inf).softmax(-1)
    torch.testing.assert_close(shown, expected, atol=1e-5, rtol=1e-4)
    values = found["values"].repeat_interleave(model.heads // found["values"].shape[2], 2)
    mixed = torch.einsum("whqk,wkhd->wqhd", expected, values)
    torch.testing.assert_close(heads_out[0].reshape(mixed.shape), mixed, atol=1e-4, rtol=1e-3)
    assert (bent - clean).abs().max() > 1e-3 * clean.abs().max()
    unbent = before["scores"] if checked.score_source[last] == "scores" else before["again"]
    torch.testing.assert_close(found["again"][..., mask], unbent[..., mask], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found["inputs"], before["inputs"])
    assert torch.equal(read(), clean)


@pytest.mark.parametrize("family", ["llama", "opt", "gptj"])
def test_opposite_energies_cancel_and_none_leaves_alone(family: str) -> None:
    model, tokens = tiny(family), families.windows(2, WINDOW)
    energy = random_energy(model, 2, None)
    layers = range(model.layers)
    with torch.inference_mode():
        clean = model.bridge(tokens, use_cache=False)
        with bent_scores(model, layers, lambda *_: None):
            assert torch.equal(model.bridge(tokens, use_cache=False), clean)
        with bent_scores(model, layers, lambda *_: energy), bent_scores(model, layers, lambda *_: -energy):
            torch.testing.assert_close(model.bridge(tokens, use_cache=False), clean, atol=1e-4, rtol=1e-4)
        with bent_scores(model, layers, lambda *_: 3 * torch.ones(2, model.heads, WINDOW, 1)):
            torch.testing.assert_close(model.bridge(tokens, use_cache=False), clean, atol=1e-4, rtol=1e-4)


def test_an_energy_is_asked_of_the_live_inputs_and_tokens_and_written_nowhere(llama: Model) -> None:
    tokens, asked, seen = families.windows(2, WINDOW), [], []
    energy = random_energy(llama, 2, None)
    kept = energy.clone()

    def plant(layer: int, inputs: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        asked.append((layer, inputs.clone(), ids))
        return energy

    with torch.inference_mode(), bent_scores(llama, [0, 2], plant):
        point = llama.bridge.blocks[2].attn.hook_attn_scores
        handle = point.register_forward_hook(
            lambda _m, _i, scores: seen.append((scores, scores.clone())), prepend=True
        )
        live = planting.attention_inputs(llama, list(tokens), 2)
        handle.remove()
    assert [layer for layer, _, _ in asked] == [0, 2]
    assert torch.equal(asked[1][2], tokens)
    np.testing.assert_array_equal(asked[1][1].double().numpy(), np.stack(live))
    intact = planting.attention_inputs(llama, list(tokens), 2)
    assert np.abs(np.stack(intact) - np.stack(live)).max() > 1e-3
    assert torch.equal(*seen[0])
    assert torch.equal(energy, kept)


def test_readers_see_bent_scores_whenever_they_came(llama: Model) -> None:
    tokens, seen = families.windows(1, WINDOW), []
    energy = random_energy(llama, 1, None)
    point = llama.bridge.blocks[0].attn.hook_attn_scores
    handle = point.register_forward_hook(lambda _m, _i, scores: seen.append(scores.clone()))
    try:
        with torch.inference_mode():
            llama.bridge(tokens, use_cache=False)
            with bent_scores(llama, [0], lambda *_: energy):
                llama.bridge(tokens, use_cache=False)
    finally:
        handle.remove()
    torch.testing.assert_close(seen[1], seen[0] - energy)


def test_no_hook_stays_after_a_failure(llama: Model) -> None:
    def count() -> int:
        return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in llama.bridge.modules())

    def fail(*_: object) -> None:
        raise KeyError("own trouble")

    before = count()
    with pytest.raises(KeyError, match="own trouble"), bent_scores(llama, [1], fail):
        llama.bridge(families.windows(1, WINDOW), use_cache=False)
    assert count() == before


def test_scores_that_the_model_does_not_use_are_refused() -> None:
    model, tokens = tiny("opt"), families.windows(1, WINDOW)
    energy = random_energy(model, 1, None)
    attention = model.bridge.blocks[0].attn

    def unmask(_module: object, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        return args, {**kwargs, "attention_mask": None}

    handle = attention.register_forward_pre_hook(unmask, with_kwargs=True)
    bent = bent_scores(model, [0], lambda *_: energy)
    with pytest.raises(RequestError, match="layer 0: its scores cannot be bent: no mask is added"), bent:
        model.bridge(tokens, use_cache=False)
    handle.remove()

    inherited = type(attention).forward
    attention.__class__ = type(
        "Elsewhere", (type(attention),), {"forward": lambda *a, **k: inherited(*a, **k)}
    )
    bent = bent_scores(model, [0], lambda *_: energy)
    with pytest.raises(RequestError, match="layer 0: its scores cannot be bent: they are shown after"), bent:
        model.bridge(tokens, use_cache=False)
    with pytest.raises(RequestError, match="layers: 9 asked"), bent_scores(model, [9], lambda *_: energy):
        pass


# --- what no output can show


@pytest.mark.parametrize("repeated", [False, True])
def test_a_change_in_the_null_space_of_values_is_unseen_and_one_in_their_span_is_seen(repeated: bool) -> None:
    draw = np.random.default_rng(0)
    values = draw.normal(size=(24, 6))
    if repeated:  # the rank is below the width
        values[:, 4:] = values[:, :2]
    mask = np.tril(np.ones((24, 24), bool))
    unseen, seen = np.zeros((2, 24, 24))
    rank = 5 if repeated else 7
    for t in range(24):
        rows = np.c_[values[: t + 1], np.ones(t + 1)]
        null = scipy.linalg.null_space(rows.T)
        unseen[t, : t + 1] = null @ draw.normal(size=null.shape[1])
        seen[t, : t + 1] = rows @ draw.normal(size=7)
    pattern = np.random.default_rng(1).dirichlet(np.ones(24), 24)
    assert np.abs((pattern + unseen) @ values - pattern @ values).max() <= 1e-6
    given = [torch.from_numpy(x) for x in (values, mask)]
    found = unseen_share(torch.from_numpy(unseen), *given)
    np.testing.assert_allclose(found.share[rank:], 1, atol=1e-9)
    keys = np.arange(1, 25)
    np.testing.assert_allclose(found.random, 1 - np.minimum(rank, keys) / keys, atol=1e-12)
    np.testing.assert_allclose(unseen_share(torch.from_numpy(seen), *given).share, 0, atol=1e-9)
    # rows with no more keys than the rank: nothing is unseen, whatever changes
    anything = torch.from_numpy(np.where(mask, draw.normal(size=(500, 24, 24)), 0))
    share = unseen_share(anything, given[0].expand(1, -1, -1), given[1]).share
    assert share[:, :rank].abs().max() == 0
    error = share.std(0) / np.sqrt(500)
    assert ((share.mean(0) - found.random).abs() <= 4.5 * error + 1e-12).all()


def test_values_may_serve_several_heads_and_hidden_keys_do_not_count() -> None:
    change, values = torch.randn(2, 4, 20, 20), torch.randn(2, 1, 20, 5)
    mask = causal_mask(20, None)
    shared = unseen_share(change, values, mask)
    apart = unseen_share((change * mask).double(), values.expand(2, 4, 20, 5), mask)
    for one, other in zip(shared, apart, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)
    open_to_all = unseen_share(change[0, 0], values[0, 0])
    torch.testing.assert_close(open_to_all.random, torch.full((20,), 1 - 6 / 20, dtype=torch.float64))
    assert unseen_share(torch.zeros(3, 20), values[0, 0]).share.isnan().all()


# --- removal


@pytest.mark.parametrize("family", families.NAMES)
def test_removing_a_planted_term_recovers_its_effect_in_every_family(
    family: str, tiny_tokenizer: object
) -> None:
    model, tokens = tiny(family, tiny_tokenizer), families.windows(5, WINDOW)
    recovers(model, tokens, list(range(model.layers)), "track")


@pytest.mark.parametrize("term", TERMS)
def test_removing_a_planted_term_recovers_its_effect(llama: Model, term: str) -> None:
    recovers(llama, families.windows(6, WINDOW), [1], term)


def recovers(model: Model, tokens: torch.Tensor, layers: list[int], term: str) -> None:
    """Plant a term by the formulas, remove it by its coefficients, compare with the outputs themselves."""
    result, checked = result_of(model, tokens, layers, term), check(model, tokens)
    basis = result["basis"].to_dataset()

    def plant(layer: int, inputs: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(term_by_formulas(model, basis, layer, inputs, ids))

    clean, clean_stream = outputs_of(model, tokens)
    with bent_scores(model, layers, plant):
        planted, planted_stream = outputs_of(model, tokens)
        found = ablate(model, tokens, result, term=term, placebos=2, checked=checked)
    before = measures_of(planted, planted, planted_stream, tokens)
    change = measures_of(planted, clean, clean_stream, tokens) - before
    removed = found["removed_by_document"].transpose("document", "measure").values
    effect, got = change.mean(0), found["removed"].values
    print(model.name, term, "direct", effect, "removed", got)
    assert abs(effect[0]) > 1e-4
    assert abs(got[0] - effect[0]) <= 0.2 * abs(effect[0])  # the bar; what follows is far inside it
    np.testing.assert_allclose(removed, change, atol=2e-4)
    np.testing.assert_allclose(found["intact"], before.mean(0), atol=2e-4)


def test_removing_a_planted_term_from_the_language_model_recovers_its_effect(demo_model: Model) -> None:
    tokenizer = cast(Any, demo_model.tokenizer)
    encoded = [tokenizer(text)["input_ids"] for text in pydoc_data.topics.topics.values()]
    tokens = torch.tensor([ids[:64] for ids in encoded if len(ids) > 64][:4])
    recovers(demo_model, tokens, [10], "track")


@pytest.mark.parametrize("family", families.NAMES)
def test_passes_that_start_at_the_removal_s_layer_are_the_whole_passes(
    family: str, tiny_tokenizer: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokens = tiny(family, tiny_tokenizer), families.windows(5, WINDOW)
    last = model.layers - 1
    result, checked, calls = result_of(model, tokens, [last], "track"), check(model, tokens), []
    first = model.bridge.blocks[0].attn
    handle = first.register_forward_pre_hook(lambda *_: calls.append(1))
    short = ablate(model, tokens, result, placebos=2, checked=checked)
    passes = len(calls)
    monkeypatch.setattr(removal, "resumed", lambda *_: nullcontext())
    xarray.testing.assert_identical(ablate(model, tokens, result, placebos=2, checked=checked), short)
    handle.remove()
    # two chunks, each surveyed, intact, removed and under four placebos
    assert (passes, len(calls) - passes) == (4, 14)


@pytest.fixture(scope="module")
def study(llama: Model) -> tuple[xarray.DataTree, torch.Tensor]:
    tokens = families.windows(6, WINDOW)
    return result_of(llama, tokens, [0, 2], "track"), tokens


def batch_of(tokens: torch.Tensor, document: list[int]) -> Batch:
    whose = np.array(document)
    return Batch(tokens, whose, np.zeros_like(whose), whose)


def test_a_term_that_is_nothing_changes_nothing_and_has_no_causal_effect(llama: Model, study: tuple) -> None:
    result, tokens = study
    basis = result["basis"].to_dataset().copy()
    basis["coefficient"] = basis["coefficient"] * 0
    found = ablate(llama, tokens, xarray.DataTree.from_dict({"/basis": basis}), placebos=2)
    for name in ("removed", "placebo", "difference"):
        assert np.abs(found[name]).max() == 0
    assert bool(found["no_causal_effect"])
    assert np.isnan(found["unseen_share"]).all()


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> list[dict[int, np.ndarray]]:
    """What is planted in each pass of `ablate`, by layer."""
    planted: list[dict[int, np.ndarray]] = []

    def spy(model: Model, layers: list[int], energy: Energy) -> Any:
        found: dict[int, np.ndarray] = {}
        planted.append(found)

        def spied(layer: int, inputs: torch.Tensor, ids: torch.Tensor) -> torch.Tensor | None:
            bent = energy(layer, inputs, ids)
            if bent is not None:
                found[layer] = bent.double().numpy()
            return bent

        return bent_scores(model, layers, spied)

    monkeypatch.setattr(removal, "bent_scores", spy)
    return planted


@pytest.mark.parametrize("term", ["track", "prosody"])
def test_each_window_loses_the_term_of_the_coefficients_that_never_saw_its_fold(
    llama: Model, planted: list, term: str
) -> None:
    tokens, fold = families.windows(4, WINDOW), [1, 0, 2, 7]  # 7 was not fitted
    basis = result_of(llama, tokens, [2], term)["basis"].to_dataset()
    factor = xarray.DataArray(1 + np.random.default_rng(0).random((3, llama.heads)), dims=("fold", "head"))
    without = (factor * basis["coefficient"]).transpose("fold", "layer", "head", "column").astype(np.float32)
    result = xarray.DataTree.from_dict({"/basis": basis.assign(coefficient_without=without)})
    batch = Batch(tokens, np.arange(4), np.zeros(4, int), np.array(fold))
    ablate(llama, batch, result, term=term, placebos=2)
    ablate(llama, tokens, result, term=term, placebos=2)
    whole = term_by_formulas(llama, basis, 2, inputs_of(llama, tokens)[2], tokens)
    by_fold = np.concatenate([factor.values, np.ones((5, llama.heads))])[fold]
    _, removed, *placebos = (one.get(2) for one in planted[: len(planted) // 2])
    np.testing.assert_allclose(removed, -whole * by_fold[..., None, None], atol=1e-4)
    # of another document: by the coefficients that never saw it, at the norm of the window's own
    theirs, norms = np.roll(whole, -1, 0), np.linalg.norm(removed, axis=(-2, -1), keepdims=True)
    expected = -theirs * norms / np.linalg.norm(theirs, axis=(-2, -1), keepdims=True)
    np.testing.assert_allclose(placebos[2], expected, atol=1e-4)
    np.testing.assert_allclose(planted[len(planted) // 2 + 1][2], -whole, atol=1e-4)


def test_placebos_have_the_term_s_norm_in_every_head_and_window(
    llama: Model, study: tuple, planted: list
) -> None:
    result, tokens = study
    ablate(llama, tokens[:4], result, layer=2, head=1, placebos=3)
    intact, removed, *placebos = planted
    assert intact == {}
    real = removed[2]
    basis = result["basis"].to_dataset()
    expected = -term_by_formulas(llama, basis, 2, inputs_of(llama, tokens[:4])[2], tokens[:4])
    np.testing.assert_allclose(real[:, 1], expected[:, 1], atol=1e-4)
    assert np.abs(real[:, [0, 2, 3]]).max() == 0
    assert len(placebos) == 6
    norms = np.linalg.norm(real, axis=(-2, -1))
    mask = oracle.support(WINDOW)
    for place, one in enumerate(placebo[2] for placebo in placebos):
        np.testing.assert_allclose(np.linalg.norm(one, axis=(-2, -1)), norms, rtol=1e-5)
        np.testing.assert_allclose(one.sum(-1), 0, atol=1e-3)
        assert np.abs(one[..., ~mask]).max() == 0
        if place < 3:  # the same values in each row, elsewhere
            np.testing.assert_allclose(np.sort(one, -1), np.sort(real, -1), atol=1e-6)
            assert np.corrcoef(one[:, 1][:, mask].ravel(), real[:, 1][:, mask].ravel())[0, 1] < 0.2
        else:  # the next, second next, third next document's
            theirs = np.roll(real, -(place - 2), 0)[:, 1]
            scale = norms[:, 1] / np.linalg.norm(theirs, axis=(-2, -1))
            np.testing.assert_allclose(one[:, 1], theirs * scale[:, None, None], atol=1e-4)
    # every placebo and window has permutations of its own, or documents would not be independent
    row, keys = WINDOW - 1, np.arange(4, WINDOW - 1)
    orders = {
        tuple(np.argsort(real[window, 1, row, keys])[np.argsort(np.argsort(one[2][window, 1, row, keys]))])
        for one in placebos[:3]
        for window in range(4)
    }
    assert len(orders) == 12


def test_documents_are_the_unit_and_intervals_are_theirs(llama: Model, study: tuple) -> None:
    result, tokens = study
    single = ablate(llama, tokens, result, placebos=2)
    found = ablate(llama, batch_of(tokens, [7, 7, 3, 3, 9, 9]), result, placebos=2)
    assert found["document"].values.tolist() == [3, 7, 9]
    windows = single["removed_by_document"].values
    by_document = np.stack([windows[2:4].mean(0), windows[:2].mean(0), windows[4:].mean(0)])
    np.testing.assert_allclose(found["removed_by_document"], by_document, atol=1e-6)
    difference = by_document - found["placebo_by_document"].mean("draw").mean("kind").values
    np.testing.assert_allclose(found["difference_by_document"], difference, atol=1e-6)
    half = scipy.stats.t.ppf(0.975, 2) * difference.std(0, ddof=1) / np.sqrt(3)
    np.testing.assert_allclose(found["difference_low"], difference.mean(0) - half, atol=1e-6)
    np.testing.assert_allclose(found["difference_high"], difference.mean(0) + half, atol=1e-6)
    covers = difference.mean(0)[0] - half[0] <= 0 <= difference.mean(0)[0] + half[0]
    assert bool(found["no_causal_effect"]) == covers
    assert found["measure"].values.tolist() == list(MEASURES)
    assert found.sizes["draw"] == 2
    assert found["kind"].values.tolist() == list(KINDS)


def test_other_documents_give_no_more_placebos_than_they_have_windows(llama: Model, study: tuple) -> None:
    result, tokens = study
    two = ablate(llama, batch_of(tokens[:3], [0, 0, 1]), result, placebos=3)
    missing = two["placebo"].sel(kind="other_document").isnull().sum("draw")
    assert missing.values.tolist() == [2, 2, 2, 2]
    assert np.isfinite(two["difference_by_kind"]).all()
    one = ablate(llama, batch_of(tokens[:3], [5, 5, 5]), result, placebos=2)
    assert one["kind"].values.tolist() == ["permuted"]
    assert np.isnan(one["difference_low"]).all()
    assert np.isfinite(one["difference"]).all()
    assert bool(one["no_causal_effect"])


def test_chunks_change_nothing(llama: Model, study: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    result, tokens = study
    whole = ablate(llama, tokens, result, placebos=2, seed=3)
    monkeypatch.setattr(removal, "CHUNK", 1)
    xarray.testing.assert_allclose(ablate(llama, tokens, result, placebos=2, seed=3), whole, atol=1e-5)
    other = ablate(llama, tokens, result, placebos=2, seed=4)
    gap = abs(other["placebo"] - whole["placebo"]).max(("draw", "measure"))
    assert gap.sel(kind="permuted") > 1e-5 > gap.sel(kind="other_document")


def test_the_unseen_share_is_of_the_term_s_own_effect_on_each_pattern(llama: Model, study: tuple) -> None:
    result, tokens = study
    found = ablate(llama, tokens, result, placebos=2)
    basis = result["basis"].to_dataset()
    inputs = inputs_of(llama, tokens)

    def visit(layer: Layer) -> None:
        if layer.index not in (0, 2):
            return
        term = torch.from_numpy(term_by_formulas(llama, basis, layer.index, inputs[layer.index], tokens))
        scores = layer.scores.double()
        change = (scores + term).softmax(-1) - scores.softmax(-1)
        for head in range(llama.heads):
            values = cast(torch.Tensor, layer.values)[:, :, head // 2].double()
            unseen = whole = 0.0
            for window in range(len(tokens)):
                for t in (WINDOW - 1, WINDOW - 17):
                    rows = np.c_[values[window, : t + 1].numpy(), np.ones(t + 1)]
                    row = change[window, head, t, : t + 1].numpy()
                    unseen += ((scipy.linalg.null_space(rows.T).T @ row) ** 2).sum()
                    whole += (row**2).sum()
            got = float(found["unseen_share"].sel(layer=layer.index, head=head))
            assert got == pytest.approx(unseen / whole, abs=1e-4)

    capture(llama, tokens, visit, wants=("values",))
    expected = 1 - (llama.head_width + 1) / np.array([WINDOW, WINDOW - 16])
    assert (found["unseen_share_random"] <= expected.max() + 1e-9).all()
    assert (found["unseen_share_random"] >= expected.min() - 1e-9).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"term": "nuisance"}, "term: 'nuisance' is not one of prosody, rhythm, state, track"),
        ({"layer": 1}, r"layer: 1 asked, the result holds \[0, 2\]"),
        ({"head": 9}, "head: 9 asked"),
        ({"placebos": 1}, "placebos: 1 asked"),
        ({"batch": families.windows(2, 20)}, "window: 20 tokens given, the terms were fitted on 40"),
        ({"batch": families.windows(0, WINDOW)}, "batch: token ids of at least one window"),
        ({"result": xarray.DataTree()}, "result: it has no basis"),
        (
            {"term": "rhythm", "model": "untold"},
            "rhythm is made from the text of tokens; open the model with",
        ),
        ({"model": "larger"}, "result: not of"),
    ],
)
def test_what_cannot_be_removed_is_refused_in_one_line(
    llama: Model, study: tuple, change: dict, message: str
) -> None:
    result, tokens = study
    settings: dict[str, dict] = {"untold": {}, "larger": {"hidden_size": 64}}
    change = {"model": llama, "batch": tokens, "result": result, **change}
    if change["model"] in settings:
        change["model"] = tiny("llama", **settings[change["model"]])
    with pytest.raises(RequestError, match=message) as refused:
        ablate(**change)
    assert "\n" not in str(refused.value)


# --- the zero


def coverage_of_placebos(
    model: Model, runs: int, *, documents: int = 8, window: int = 24, seed: int = 0
) -> dict:
    """How often the 95 % interval of the loss difference between two independent placebos covers 0, by kind.

    Each run draws new documents. For the bar (92..98 % at 1000 runs): `coverage_of_placebos(model, 1000)`.
    """
    covered = dict.fromkeys(KINDS, 0)
    result = result_of(model, families.windows(16, window, seed=seed), [0, 1], "track")
    checked = check(model, families.windows(2, window))
    for run in range(runs):
        tokens = families.windows(documents, window, seed=10_000 * (seed + 1) + run)
        found = ablate(model, tokens, result, placebos=2, seed=run, checked=checked)
        loss = found["placebo_by_document"].sel(measure="loss")
        pairs = loss.isel(draw=0) - loss.isel(draw=1)
        for kind in KINDS:
            gap = pairs.sel(kind=kind).values
            covered[kind] += abs(gap.mean()) <= scipy.stats.sem(gap) * scipy.stats.t.ppf(0.975, documents - 1)
    return {kind: count / runs for kind, count in covered.items()}


def test_the_interval_between_two_placebos_covers_zero(
    tiny_tokenizer: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = 100
    monkeypatch.setattr(removal, "CHUNK", 8)
    model = tiny("llama", tiny_tokenizer, num_hidden_layers=2)
    for kind, covered in coverage_of_placebos(model, runs).items():
        print(kind, covered)
        # three binomial errors around the bar of many runs
        assert covered >= 0.92 - 3 * np.sqrt(0.92 * 0.08 / runs)
        assert covered <= 0.98 + 3 * np.sqrt(0.98 * 0.02 / runs)
