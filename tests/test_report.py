"""The report page as its reader meets it: in a browser, by keyboard, in both themes, and by its words."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import families
import numpy as np
import pytest
import xarray
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, sync_playwright
from synthetic import make_result, variable

import infodyn_interp as idi
from infodyn_interp import RequestError, report, results
from infodyn_interp import run as running
from infodyn_interp.models import open_model
from infodyn_interp.sweeping import sweep
from infodyn_interp.texts import read_texts

SCRIPT = "<script>document.title = 'taken'</script><img src=x onerror=alert(1)>"
WORDS = f"the clock kept its time . , why \n it & rained </pre> ]]> {SCRIPT}".split(" ")
Open = Callable[..., Page]


@pytest.fixture(scope="module")
def result(tiny_tokenizer: object) -> xarray.DataTree:
    """A sweep of a tiny model over documents full of markup."""
    model = open_model(families.build("llama"), tokenizer=tiny_tokenizer)
    draw = np.random.default_rng(0)
    documents = [SCRIPT + " ".join(draw.choice(WORDS, 90)) for _ in range(16)]
    texts = read_texts(documents, model.tokenizer, window=96, windows_per_document=2, reference_documents=8)
    return sweep(model, texts, state_rank=4, nulls=("shuffled_tokens", "permuted_queries"), limits=[0])


@pytest.fixture(scope="module")
def file(result: xarray.DataTree, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return idi.write_report(result, tmp_path_factory.mktemp("a study, ключ"))


@pytest.fixture(scope="module")
def browser(needed: Callable[[str], str]) -> Iterator[Browser]:
    program = needed("chromium")
    with sync_playwright() as driver:
        started = driver.chromium.launch(
            executable_path=program, args=["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]
        )
        yield started
        started.close()


@pytest.fixture
def opened(browser: Browser, file: Path) -> Iterator[Open]:
    """Open a page; at the end nothing was asked of any other address and the console holds no complaint."""
    contexts, pages, asked, complaints = [], set(), set(), []

    def open_page(page_file: Path = file, width: int = 1440, scheme: str = "light") -> Page:
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.on("request", lambda request: asked.add(request.url))
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        pages.add(page_file.as_uri())
        page.goto(page_file.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []
    assert {url.partition("#")[0] for url in asked if not url.startswith("data:")} == pages


@pytest.fixture(scope="module")
def core(result: xarray.DataTree) -> xarray.DataTree:
    """The groups that a report cannot be without, so that little is drawn."""
    kept = {name: result[name].to_dataset() for name in ("reference", "terms", "verdicts")}
    return xarray.DataTree.from_dict({"/": result.to_dataset(), **kept})


def _heads(result: xarray.DataTree) -> list[str]:
    return [f"{layer}.{head}" for layer, head in results.choose_heads(result)]


def _shown(text: str) -> float:
    return float(text.replace("−", "-"))


def _numbers(text: str) -> list[float]:
    return [_shown(one) for one in re.findall(r"−?\d+(?:\.\d+)?(?:e−?\d+)?", text)]


def _close(shown: float, true: float) -> bool:
    return bool(np.isclose(shown, true, rtol=0.06, atol=0 if abs(true) < 1e-3 else 5.1e-4))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1440])
def test_axe_finds_no_violation(scheme: str, width: int, opened: Open) -> None:
    page = opened(width=width, scheme=scheme)
    for summary in page.locator("summary").all():
        summary.click()
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()


def test_the_button_goes_through_the_themes_and_axe_agrees(opened: Open) -> None:
    page = opened(scheme="dark")
    grounds = []
    for theme in ("as the system", "light", "dark"):
        assert page.locator("#theme").inner_text() == f"Theme: {theme}"
        grounds.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
        assert Axe().run(page).violations_count == 0
        page.locator("#theme").click()
    assert grounds[0] == grounds[2] != grounds[1]


@pytest.mark.parametrize("width", [360, 768, 1440])
def test_a_page_is_as_wide_as_its_screen(width: int, opened: Open) -> None:
    page = opened(width=width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("width", [360, 1440])
def test_the_keyboard_alone_reaches_every_head(width: int, opened: Open, result: xarray.DataTree) -> None:
    page = opened(width=width)
    for _ in range(80):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.getAttribute('role')") == "gridcell":
            break
    page.keyboard.press("Home")
    page.keyboard.press("PageUp")
    turned = page.locator("#grid.turned").count() == 1
    along, back, across = (
        ("ArrowDown", "PageUp", "ArrowRight") if turned else ("ArrowRight", "Home", "ArrowDown")
    )
    coords = result["terms"].coords
    seen = []
    for _ in coords["head"].values:
        for _ in coords["layer"].values:
            label = page.evaluate("document.activeElement.getAttribute('aria-label')")
            seen.append(".".join(re.findall(r"\d+", label)))
            assert page.locator("#name").inner_text() == f"Head {seen[-1]}"
            page.keyboard.press(along)
        page.keyboard.press(back)
        page.keyboard.press(across)
    assert sorted(seen) == sorted(_heads(result))


def test_values_shown_are_the_results(opened: Open, result: xarray.DataTree) -> None:
    page = opened()
    verdicts = results.table(result, "verdicts").set_index(["layer", "head", "term"])
    nulls = results.table(result, "nulls").set_index(["layer", "head", "term", "null"])
    low, high = report.words.gain_intervals(result)
    for layer, head in results.choose_heads(result):
        page.get_by_role("gridcell", name=f"layer {layer}, head {head}:").click()
        for term in verdicts.index.unique("term"):
            true, at = verdicts.loc[(layer, head, term)], {"layer": layer, "head": head, "term": term}
            card = page.locator(f".card[data-term={term}]")
            badge, said = card.locator("h3 .badge").inner_text(), card.locator("dd").all_inner_texts()
            assert badge == f"{true['verdict'][0]} {true['verdict']}"
            assert said[0].startswith(true["reason"])
            assert said[3] == true["advice"]
            expected = [true["gain"], float(low.sel(at)), float(high.sel(at))]
            if not np.isnan(expected[0]):
                expected = [value for value in expected if not np.isnan(value)]
                assert all(map(_close, _numbers(said[1])[: len(expected)], expected)), (said[1], expected)
            if np.isfinite(true["limit"]):
                assert _close(_numbers(said[2])[0], true["limit"])
            for row in card.locator("tbody tr").all():
                null = re.sub(r"\W+", "_", row.locator("th").inner_text()).strip("_")
                beside, cells = nulls.loc[(layer, head, term, null)], row.locator("td").all_inner_texts()
                assert _close(_shown(cells[0]), beside["null_gain"])
                assert _close(_numbers(cells[1])[0], beside["contrast"])


@pytest.mark.parametrize("part", [0, 3])
def test_the_window_is_shaded_by_the_energy_of_each_token(
    part: int, opened: Open, result: xarray.DataTree
) -> None:
    page = opened()
    layer, head = results.choose_heads(result)[-1]
    page.get_by_role("gridcell", name=f"layer {layer}, head {head}:").click()
    page.locator("#parts input").nth(part).check()
    received = result["example"]["received"].sel(layer=layer, head=head).isel(part=part).values
    kinds = page.evaluate("[...document.querySelectorAll('#text .token')].map((token) => token.classList[1])")
    true = np.where(np.isnan(received), "unseen", np.where(received < 0, "draws", "repels"))
    settled = ~(np.abs(received) < 1e-4 * np.nanmax(np.abs(received)))  # the page keeps 32,767 steps
    assert np.array_equal(np.array(kinds)[settled], true[settled])
    page.locator("#values summary").click()
    column = page.locator(f"#tokens tbody td:nth-child({part + 2})").all_inner_texts()
    shown = np.array([np.nan if text == "–" else _shown(text) for text in column])
    np.testing.assert_allclose(shown, received, atol=2e-3, equal_nan=True)


def test_markup_in_a_document_is_shown_as_text(opened: Open, result: xarray.DataTree) -> None:
    page = opened()
    text = "".join(map(str, result["example"]["piece"].values))
    assert SCRIPT in text
    assert page.locator("#text").text_content() == text
    assert page.title() == "Attention energies of LlamaForCausalLM"
    assert page.locator("script").count() == 2
    assert page.locator("img[src=x]").count() == 0


def test_choosing_a_term_repaints_the_map(opened: Open, result: xarray.DataTree) -> None:
    page = opened()
    verdict = result["verdicts"]["verdict"].transpose("term", "head", "layer")
    for term in verdict["term"].values:
        page.locator(f"#terms input[value={term}]").check()
        letters = "".join(page.locator("#grid .cell").all_inner_texts())
        assert letters == "".join(name[0] for name in verdict.sel(term=term).values.ravel())


def test_a_link_to_a_head_opens_it(opened: Open, result: xarray.DataTree) -> None:
    last = _heads(result)[-1]
    page = opened()
    page.get_by_role("gridcell").last.click()
    link = page.url
    assert link.endswith(f"#head-{last}")
    page.reload()
    assert page.locator("#name").inner_text() == f"Head {last}"


def test_a_large_result_makes_a_page_that_opens_at_once(opened: Open, tmp_path: Path) -> None:
    large = idi.write_report(make_result(layers=48, heads=32, folds=24, window=256), tmp_path / "large.html")
    assert large.stat().st_size < 20e6
    took = []
    for _ in range(3):  # by the page's own clock; a busy machine may need more than one try
        page = opened(large)
        assert page.locator("#grid .cell").count() == 48 * 32
        took.append(page.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd / 1000"))
        page.context.close()
    assert 0 < min(took) < 3, took


def test_a_page_is_the_same_when_written_again(core: xarray.DataTree, tmp_path: Path) -> None:
    one, other = (idi.write_report(core, tmp_path / name) for name in ("one.html", "other.html"))
    assert one.read_bytes() == other.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.html", "other.html"]


def test_every_group_that_the_page_does_not_know_has_a_section(core: xarray.DataTree, tmp_path: Path) -> None:
    more = core.copy()
    jumps = {"size": variable(("layer", "step"), np.arange(400.0).reshape(2, 200), "nats", "size of a jump")}
    jumps["found"] = variable((), 3, "1", "number of jumps")
    more["leaps"] = xarray.DataTree(xarray.Dataset(jumps))
    page = idi.write_report(more, tmp_path).read_text()
    section = page[page.index('id="group-leaps"') :].partition("</section>")[0]
    assert "<h2>Leaps</h2>" in section
    assert '<th scope="col">size (nats)</th>' in section
    assert "340 more rows" in section
    assert "<td>3</td>" in section


def test_the_finding_is_five_sentences_with_the_verdicts_counts(result: xarray.DataTree) -> None:
    for one in (result, make_result()):
        said, total = report.tell_finding(one), len(_heads(one))
        assert len(said) == 5
        counts = (one["verdicts"]["verdict"] == "IDENTIFIED").sum(("layer", "head"))
        words = " ".join(said[:4])
        for term in one["verdicts"]["term"].values:
            count = int(counts.sel(term=term))
            assert re.search(
                rf"\b{term} – [^–]+ – is identified in {count or 'none'} of {total} heads", words, re.I
            )


def test_one_head_is_explained_term_by_term() -> None:
    result = make_result()
    words = report.explain_head(result, "4.1")
    for row in results.table(result, "verdicts", heads="4.1").to_dict("records"):
        about = words[words.index(f"\n{row['term']}: {row['verdict']}\n") :]
        assert f"What to do: {row['advice']}." in about
        assert f"gain {row['gain']:.3f}" in about
    assert "Taken out of the live scores" in report.explain_head(result, "0.1")
    with pytest.raises(RequestError, match=r"3\.1 asked"):
        report.explain_head(result, "3.1")


def test_what_was_not_estimable_is_counted_by_reason(result: xarray.DataTree) -> None:
    rows = report.words.unresolved(result)
    assert sum(row["count"] for row in rows) == int((result["verdicts"]["verdict"] == "NOT_ESTIMABLE").sum())
    assert not any(re.search(r"\d", row["reason"].replace("5", "")) for row in rows)


def test_the_run_file_on_the_page_asks_for_the_same_again(tmp_path: Path) -> None:
    asked = running.Run(
        model="demo", texts=tmp_path / "corpus.jsonl", layers=[0, 4], ablate="4.1", out=tmp_path
    )
    result = make_result()
    result.attrs["run"] = json.dumps(asked.study)
    (tmp_path / "study.toml").write_text(report.origins.reproduce(result)["file"])
    again = running.read(tmp_path / "study.toml", out=tmp_path)
    assert again.study == asked.study


def test_a_result_without_verdicts_is_refused(result: xarray.DataTree, tmp_path: Path) -> None:
    part = result.copy()
    del part["verdicts"]
    with pytest.raises(RequestError, match="no group 'verdicts'"):
        idi.write_report(part, tmp_path)
    assert list(tmp_path.iterdir()) == []
