"""The command line as its user meets it: what is printed where, exit codes, and nothing half-written."""

import io
import json
import os
import pty
import pydoc_data.topics
import re
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from families import build, save_tokenizer
from rich.console import Console
from synthetic import make_result

from infodyn_interp import RunError, __version__, costing, models, results, sweeping
from infodyn_interp.cli import commands, main, printing, strips
from infodyn_interp.cli.progress import Report
from infodyn_interp.cli.studies import ASIDE
from infodyn_interp.sweeping import reading

WORDS = ["clock", "rain", "why", "numbers", "one", "town", "proof", "step", "walk", "sure"]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A folder with a saved result."""
    folder = tmp_path_factory.mktemp("study")
    results.save(make_result(), folder)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A folder with a tiny model and its tokenizer."""
    folder = tmp_path_factory.mktemp("a tiny model, 小")
    build("llama").save_pretrained(folder)
    save_tokenizer(folder)
    return folder


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Twelve documents of random words, long enough for several windows each."""
    draw = np.random.default_rng(0)
    file = tmp_path_factory.mktemp("texts") / "corpus.jsonl"
    lines = (
        {
            "text": "".join(
                f"{word}{mark}"
                for word, mark in zip(draw.choice(WORDS, 150), draw.choice([" ", ", "], 150), strict=True)
            )
        }
        for _ in range(12)
    )
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


@pytest.fixture
def run(capsys):
    """Run `infodyn` in this process: exit code, standard output, lines of standard error."""

    def run(*words):
        capsys.readouterr()
        code = main([str(word) for word in words])
        out, err = capsys.readouterr()
        return code, out, err.splitlines()

    return run


@pytest.fixture
def refused(run):
    """Run what must be refused: exit 2, nothing on standard output, one line of error."""

    def refused(*words):
        code, out, err = run(*words)
        assert (code, out, len(err)) == (2, "", 1), (code, out, err)
        assert err[0].startswith("infodyn: ")
        return err[0]

    return refused


def tree(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


# What is printed


def test_help_names_every_command_and_version_is_the_packages(run):
    code, out, err = run("--help")
    assert (code, err) == (0, [])
    for command in ("sweep", "plan", "show", "figures", "report", "demo", "cost"):
        assert re.search(rf"\b{command}\b", out)
    assert run() == (0, out, [])
    assert run("--version") == (0, f"infodyn {__version__}\n", [])


@pytest.mark.parametrize("table", [name for name in results.TABLES if name not in results.MEASURES])
def test_json_is_the_table_to_the_last_digit(run, study, table):
    code, out, err = run("show", study, table, "--json")
    assert (code, err) == (0, [])
    frame = results.table(results.open_result(study), table)
    rows = json.loads(out)
    assert [list(row) for row in rows] == [frame.columns.tolist()] * len(frame)
    for row, expected in zip(rows, frame.to_dict("records"), strict=True):
        for name, value in expected.items():
            if isinstance(value, float) and np.isnan(value):
                assert row[name] is None
            else:
                assert row[name] == (pytest.approx(value, rel=1e-13) if isinstance(value, float) else value)


def test_a_folder_and_its_file_show_the_same(run, study):
    assert run("show", study, "energy") == run("show", study / "result.nc", "energy")


def test_show_alone_prints_the_summary_then_the_verdicts_by_gain(run, study):
    code, out, _ = run("show", study)
    assert code == 0
    assert "IDENTIFIED in" in out
    assert "Next: " in out
    rows = [line.split() for line in out.splitlines() if re.match(r"\d+\.\d+ ", line)]
    frame = results.table(results.open_result(study), "verdicts").sort_values(
        "gain", ascending=False, kind="stable"
    )
    assert [row[0] for row in rows] == [
        f"{layer}.{head}" for layer, head in zip(frame["layer"], frame["head"], strict=True)
    ]
    assert [row[1] for row in rows] == frame["term"].tolist()


@pytest.mark.parametrize("width", [12, 40, 80, 300])
def test_strips_hold_every_verdict_in_any_width(study, monkeypatch, width):
    shown = io.StringIO()
    monkeypatch.setattr(strips, "console", lambda: Console(width=width, file=shown))
    result = make_result(layers=26, heads=3)
    strips.show_strips(result)
    lines = shown.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    letters = [
        letter for line in lines if re.match(r" *\d +[IWCAN]", line) for letter in re.sub(r"[\d ]", "", line)
    ]
    verdicts = result["verdicts"]["verdict"].values.ravel()
    assert sorted(letters) == sorted(verdict[0] for verdict in verdicts)
    if width == 40:  # one below the other
        by_term = result["verdicts"]["verdict"].transpose("term", "head", "layer").values.ravel()
        assert letters == [verdict[0] for verdict in by_term]


def test_strips_and_their_legend_stand_between_summary_and_table(run, study):
    _, out, _ = run("show", study)
    assert out.index("Next: ") < out.index("I IDENTIFIED, W WEAK, C CONFOUNDED, A ABSENT, N NOT_ESTIMABLE")
    assert out.index("N NOT_ESTIMABLE") < out.index("\nhead term")
    assert "\x1b" not in out
    assert "N NOT_ESTIMABLE" not in run("show", study, "verdicts")[1]


@pytest.mark.parametrize("colour", [True, False])
def test_strips_have_colour_on_a_terminal_unless_it_is_unwanted(monkeypatch, colour):
    monkeypatch.delenv("NO_COLOR", raising=False)
    if not colour:
        monkeypatch.setenv("NO_COLOR", "1")
    shown = io.StringIO()
    terminal = Console(width=100, file=shown, force_terminal=True, color_system="truecolor")
    monkeypatch.setattr(strips, "console", lambda: terminal)
    strips.show_strips(make_result())
    assert ("48;2;18;70;110mI" in shown.getvalue()) == colour
    assert re.search("[IW]{2}", re.sub(r"\x1b\[[\d;]*m", "", shown.getvalue()))


def test_one_head_is_explained_in_words(run, study, refused):
    code, out, err = run("show", study, "--head", "10.3")
    assert (code, err) == (0, [])
    assert out.startswith("Head 10.3 of demo")
    assert [
        re.match(r"(\w+): [A-Z_]+$", line)[1]
        for line in out.splitlines()
        if line.endswith(tuple(strips.STYLES))
    ] == [*("prosody", "rhythm", "state", "track", "carry")]
    assert out.count("What to do: ") == 5
    rows = json.loads(run("show", study, "--head", "10.3", "--json")[1])
    assert {(row["layer"], row["head"]) for row in rows} == {(10, 3)}
    assert "--heads 10.3" in refused("show", study, "terms", "--head", "10.3")
    assert "1.1 asked" in refused("show", study, "--head", "1.1")


def test_a_report_is_written_beside_its_result_and_named(run, study):
    code, out, err = run("report", study / "result.nc")
    assert (code, err) == (0, [])
    assert out.split(maxsplit=1) == ["report", f"{study / 'report.html'}\n"]
    assert "Attention energies of demo" in (study / "report.html").read_text("utf-8")


def test_heads_filter_what_is_shown_and_sort_orders_it(run, study):
    _, out, _ = run("show", study, "terms", "--json", "--heads", "10.3,2.0", "--sort", "marginal_gain")
    rows = json.loads(out)
    assert {(row["layer"], row["head"]) for row in rows} == {(10, 3), (2, 0)}
    gains = [row["marginal_gain"] for row in rows]
    assert gains == sorted(gains, reverse=True)
    _, out, _ = run("show", study, "reference", "--json", "--sort", "layer")
    assert [row["layer"] for row in json.loads(out)] == np.repeat(np.arange(6) * 2, 4).tolist()


def test_rows_cut_a_table_and_say_so(run, study):
    _, out, _ = run("show", study, "terms", "--rows", "3")
    lines = out.splitlines()
    assert len(lines) == 5
    assert lines[-1] == "3 of 96 rows, highest gain first; --rows 0 shows all"


def test_a_table_on_a_pipe_is_whole_and_plain(run, study):
    _, out, _ = run("show", study, "terms")
    assert len(out.splitlines()) == 97
    assert "\x1b" not in out
    assert "…" not in out


@pytest.mark.parametrize(
    ("table", "width", "left_out"),
    [
        ("terms", 200, None),
        ("terms", 80, "more columns: in a wider terminal, or --json"),
        ("reference", 200, None),
        ("reference", 120, "more columns: in a wider terminal, or --json"),
        ("reference", 80, "intervals and more columns: in a wider terminal, or --json"),
    ],
)
def test_a_narrow_terminal_cuts_no_number_and_says_what_it_leaves_out(
    study, monkeypatch, table, width, left_out
):
    shown = io.StringIO()
    monkeypatch.setattr(printing, "console", lambda: Console(width=width, file=shown))
    frame = results.table(results.open_result(study), table)
    printing.show_table(frame, aside=[*results.OWN["rhythm"], *results.OWN["track"], *ASIDE])
    lines = shown.getvalue().splitlines()
    assert len(lines) == 1 + len(frame) + (left_out is not None)
    assert max(map(len, lines)) <= width
    assert "…" not in shown.getvalue()
    assert (lines[-1] == left_out) == (left_out is not None)
    row = frame.iloc[0]
    name = "gain" if table == "terms" else "r2"
    interval = f"{row[name]:.3f} [{row[f'{name}_low']:.3f}, {row[f'{name}_high']:.3f}]"
    assert (interval in lines[1]) == ("intervals" not in (left_out or ""))


@pytest.mark.parametrize("kinds", ["png", "pdf,svg"])
def test_figures_are_written_in_every_format_asked_and_named(run, study, kinds):
    code, out, err = run("figures", study, "--format", kinds, "--heads", "2.0,4.1")
    assert (code, err) == (0, [])
    named = [line.removeprefix("figure").strip() for line in out.splitlines()]
    assert {name.rsplit(".", 1)[1] for name in named} == set(kinds.split(","))
    assert all(os.path.getsize(name) > 1000 for name in named)


def test_figures_of_a_talk_are_drawn_on_a_wider_sheet(run, study):
    def width(*more):
        code, out, err = run("figures", study, "--format", "png", "--heads", "2.0,4.1", *more)
        assert (code, err) == (0, [])
        named = [line.removeprefix("figure").strip() for line in out.splitlines()]
        return {int.from_bytes(Path(name).read_bytes()[16:20]) for name in named}

    assert (width(), width("--style", "talk")) == ({990}, {1860})


# Requests that are wrong


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["frobnicate"], r"No such command 'frobnicate'"),
        (["sweep", "--model", "demo"], r"Missing option '--texts'"),
        (["sweep", "--modl", "demo"], r"No such option: --modl .*--model"),
        (["sweep", "--model", "demo", "--texts", "t", "--out", "o", "--window", "many"], r"'--window'"),
        (
            ["sweep", "--model", "demo", "--texts", "t", "--out", "o", "--folds", "1"],
            r"folds: 1 asked, .*at least 2",
        ),
        (
            ["sweep", "--model", "demo", "--texts", "t", "--out", "o", "--dtype", "int8"],
            r"'int8' is not one of",
        ),
        (["run"], r"Missing argument 'file'"),
        (["show", "/nowhere"], r"/nowhere: no result\.nc there"),
        (["show", "STUDY", "myths"], r"'myths' is not one of 'verdicts'"),
        (["show", "STUDY", "--heads", "1.1"], r"1\.1 asked, the layers are 0\.\.10 by 2"),
        (["show", "STUDY", "terms", "--sort", "beauty"], r"no column beauty; its columns are layer, head"),
        (["figures", "STUDY", "--format", "pdf,gif"], r"'gif' is not one of pdf, svg, png"),
        (["figures", "STUDY", "--heads", "9.9"], r"9\.9 asked"),
        (["figures", "STUDY", "--style", "poster"], r"'poster' is not one of 'paper', 'talk'"),
        (["figures", "STUDY", "--width", "poster"], r"'poster' is not one of 'column', 'page'"),
    ],
)
def test_a_wrong_request_is_one_line_and_exit_2(refused, study, words, message):
    before = tree(study)
    assert re.search(message, refused(*(study if word == "STUDY" else word for word in words)))
    assert tree(study) == before


def test_texts_that_are_not_there_are_found_before_the_model_is_sought(refused, tmp_path):
    error = refused(
        "sweep", "--model", "no such model", "--texts", tmp_path / "t.jsonl", "--out", tmp_path / "o"
    )
    assert "t.jsonl is not there" in error
    assert tree(tmp_path) == []


def test_an_out_under_a_file_is_refused_before_the_model_is_sought(refused, tmp_path, corpus):
    (tmp_path / "file").write_text("in the way")
    error = refused("sweep", "--model", "no such model", "--texts", corpus, "--out", tmp_path / "file" / "o")
    assert re.search(r"file is a file, so .* cannot be a folder", error)


@contextmanager
def as_nobody():
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_no_permission_is_refused_before_the_model_is_sought(refused, tmp_path, corpus):
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o555)
    words = ("sweep", "--model", "no such model", "--texts", corpus, "--out", folder / "o")
    made_by_pytest = [path for path in tmp_path.parents if "pytest-" in str(path)]
    for path in (tmp_path, *made_by_pytest, corpus.parent):
        path.chmod(0o755)
    if os.geteuid() == 0:
        with as_nobody():
            error = refused(*words)
    else:
        error = refused(*words)
    assert f"no permission to write in {folder}" in error
    assert tree(folder) == []


def test_another_runs_folder_is_refused_before_the_model_is_sought(refused, study, corpus):
    before = (study / "result.nc").read_bytes()
    error = refused("sweep", "--model", "no such model", "--texts", corpus, "--out", study, "--window", "48")
    assert re.search(r"another run \(window was 64, now 48\); name another folder or remove this one", error)
    assert (study / "result.nc").read_bytes() == before


# A run


def test_a_sweep_prints_what_it_saves_and_a_second_one_finds_it(run, model, corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(sweeping, "PLACEBOS", 2)
    out = tmp_path / "études 小" / "one"
    words = [
        "sweep",
        "--model",
        model,
        "--texts",
        corpus,
        "--out",
        out,
        "--window",
        "48",
        "--state-rank",
        "4",
    ]
    words += ["--layers", "0:3:2", "--documents", "6", "--reference-documents", "6", "--threads", "1"]
    words += ["--ablate", "2.1"]
    code, printed, err = run(*words)
    assert code == 0, "\n".join(err)
    assert sorted(path.name for path in out.iterdir()) == ["frozen", "result.nc"]
    assert f"result   {out / 'result.nc'}" in printed
    result = results.open_result(out)
    assert result["terms"]["layer"].values.tolist() == [0, 2]
    assert results.summary(result).splitlines()[1] in printed
    assert "Taken out of the live scores" in printed
    code, rows, _ = run("show", out, "ablation", "--json")
    assert {(row["layer"], row["head"]) for row in json.loads(rows)} == {(2, 1)}
    stamp = (out / "result.nc").stat().st_mtime_ns
    code, again, err = run(*words)
    assert (code, again) == (0, printed)
    assert any("was already there" in line for line in err)
    assert (out / "result.nc").stat().st_mtime_ns == stamp
    code, rows, _ = run(*words, "--json", "--heads", "2.1")
    assert {(row["layer"], row["head"]) for row in json.loads(rows)} == {(2, 1)}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--layers", "0,7"], r"layers: 7 asked, the model has 3 \(0\.\.2\)"),
        (["--heads", "1.9"], r"heads: 1\.9 asked, the heads are 0\.\.3"),
        (["--layers", "1", "--heads", "0.1"], r"heads: 0\.1 asked, the layers are 1"),
        (["--ablate", "1.9"], r"ablate: 1\.9 asked, the heads are 0\.\.3"),
        (["--window", "4000"], r"window|context"),
        (["--field", "body"], r"line 1 has no field 'body'; its fields are 'text'"),
    ],
)
def test_what_only_the_model_or_the_texts_can_tell_is_refused_with_nothing_written(
    run, model, corpus, tmp_path, words, message
):
    given = ["sweep", "--model", model, "--texts", corpus, "--out", tmp_path / "o", "--window", "48"]
    code, out, err = run(*given, *words)
    assert (code, out) == (2, "")
    assert re.search(message, err[-1])
    assert err[-1].startswith("infodyn: ")
    assert tree(tmp_path) == []


def test_the_demo_names_every_path_it_writes_and_keeps_the_rest_for_the_reference(
    run, model, tmp_path, monkeypatch
):
    topics = pydoc_data.topics.topics
    some = {name: topics[name][:2500] for name in sorted(topics, key=lambda name: -len(topics[name]))[:14]}
    monkeypatch.setattr(pydoc_data.topics, "topics", some)
    monkeypatch.setattr(models, "open_model", lambda source, before=models.open_model: before(model))
    monkeypatch.setitem(commands.DEMO, "window", 128)
    monkeypatch.setitem(commands.DEMO, "documents", 5)
    monkeypatch.setitem(commands.DEMO, "limits", "0,2")
    monkeypatch.setitem(commands.DEMO_MEASURES, "layers", "all")
    out = tmp_path / "demo"
    code, printed, err = run("demo", "--out", out, "--threads", "1")
    assert code == 0, "\n".join(err)
    named = [
        line.split(maxsplit=1)[1]
        for line in printed.splitlines()
        if re.match(r"(texts|result|figure|report) +/", line)
    ]
    assert sorted(named) == sorted(
        str(path) for path in out.rglob("*") if path.suffix in (".jsonl", ".nc", ".pdf", ".png", ".html")
    )
    assert printed.splitlines()[-2] == f"report   {out / 'report.html'}"
    assert re.fullmatch(r"\d+ s in all", printed.splitlines()[-1])
    assert "Fidelity of trajectories" in (out / "report.html").read_text()
    about = results.open_result(out).attrs
    assert (about["documents"], about["reference_documents"]) == (5, 9)
    texts = [json.loads(line)["text"] for line in (out / "topics.jsonl").read_text("utf-8").splitlines()]
    assert sorted(texts) == sorted(some.values())


def test_plan_says_what_a_run_file_takes_and_leaves_nothing(run, model, corpus, tmp_path):
    file, asked = tmp_path / "run.toml", {"model": model, "texts": corpus, "out": tmp_path / "out"}
    keys = {"window": 48, "layers": "0", "nulls": "none", "limits": "none", "memory": "8GiB"}
    lines = [
        f"{key} = {json.dumps(str(value) if key in asked else value)}"
        for key, value in (asked | keys).items()
    ]
    file.write_text("\n".join([*lines, "carry = false"]))
    code, out, _ = run("plan", file)
    assert code == 0
    for stage in ("survey", "fit", "reduce"):
        assert re.search(rf"^study +{stage} ", out, re.MULTILINE)
    assert "micro_batch 20" in out
    assert "0 exact duplicates" in out
    assert tree(tmp_path) == ["run.toml"]
    code, out, err = run("plan", file, "--memory", "9MB", "--json")
    assert (code, out) == (2, "")
    assert re.fullmatch(r"infodyn: memory: 9MB asked, .* would do, .*", err[-1])


def test_cost_prints_the_rows_that_json_holds(run, model, monkeypatch):
    words = ["cost", "--model", model, "--batch", "2", "--window", "32", "--repeats", "2", "--threads", "1"]
    code, out, err = run(*words, "--json")
    assert (code, err) == (0, [])
    measured = json.loads(out)
    assert measured["fit_over_bridge_forward"] == measured["fit_seconds"] / measured["bridge_forward_seconds"]
    assert {"fit_over_hf_forward", "run_with_cache_over_bridge_forward", "run_with_cache_peak_mib"} < set(
        measured
    )
    monkeypatch.setattr(costing, "measure_cost", lambda *_, **__: measured)  # once is enough
    code, out, err = run(*words)
    assert (code, err) == (0, [])
    for name in measured:
        row = name.removesuffix("_seconds")
        if row != name:
            assert re.search(rf"^{row.replace('_', ' ')} +[\d.]+ +[\d.]+ +[\d.]+$", out, re.MULTILINE)
    assert re.search(r"^repeats 2$", out, re.MULTILINE)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.12345, "0.123"),
        (-0.0004, "0.000"),
        (-0.0006, "-0.001"),
        (8.0, "8"),
        (1234.5, "1,234"),
        (np.nan, "-"),
        (3, "3"),
    ],
)
def test_numbers_read_plainly(value, text):
    assert printing.number(value) == text


# Ends


def test_what_fails_while_running_is_one_line_and_exit_1(run, study, monkeypatch):
    def fail(path):
        raise RunError("layer 3, head 1, window 7: scores are not finite")

    monkeypatch.setattr(results, "open_result", fail)
    assert run("show", study) == (1, "", ["infodyn: layer 3, head 1, window 7: scores are not finite"])


def test_a_bug_is_one_line_and_its_traceback_waits_for_debug(run, study, monkeypatch):
    def fail(path):
        raise ZeroDivisionError("of\ntwo lines")

    monkeypatch.setattr(results, "open_result", fail)
    line = "infodyn: ZeroDivisionError: of two lines; --debug shows where"
    assert run("show", study) == (1, "", [line])
    code, _, err = run("show", study, "--debug")
    assert (code, err[-1]) == (1, line)
    assert any("Traceback" in text for text in err)
    assert any("test_cli.py" in text for text in err)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_run_with_its_code_and_nothing_half_written(
    run, model, corpus, tmp_path, monkeypatch, number, code
):
    # a suite in the background of a shell ignores interrupts
    ignored = signal.signal(signal.SIGINT, signal.default_int_handler)
    handlers = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]
    before = reading.capture
    calls = []

    def capture(*arguments, **keywords):
        calls.append(1)
        if len(calls) == 5:
            os.kill(os.getpid(), number)
        return before(*arguments, **keywords)

    monkeypatch.setattr(reading, "capture", capture)
    given = ["sweep", "--model", model, "--texts", corpus, "--out", tmp_path / "o", "--window", "48"]
    ended, out, err = run(*given, "--threads", "1")
    assert (ended, out) == (code, "")
    assert err[-1].startswith("infodyn: ")
    assert len(calls) == 5
    assert [path for path in tree(tmp_path) if path.endswith(("result.nc", "0.npz")) or "/." in path] == []
    assert [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)] == handlers
    signal.signal(signal.SIGINT, ignored)


def test_a_reader_that_goes_away_ends_the_command_quietly(study):
    command = f"'{sys.executable}' -c 'import sys; from infodyn_interp.cli import main; sys.exit(main())'"
    shell = f"{command} show '{study}' terms --json | head -n 1"
    ended = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, timeout=120)
    assert (ended.stdout, ended.stderr) == ("[\n", "")


# Progress


def test_on_a_pipe_progress_is_a_line_now_and_then_on_standard_error(capsys, monkeypatch):
    clock = iter(np.arange(0, 100, 1.0))
    monkeypatch.setattr("infodyn_interp.cli.progress.time.monotonic", lambda: float(next(clock)))
    with Report(every=5) as report:
        for done in range(0, 1200, 100):
            report("fit", done, 1100)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "fit: 400 of 1,100 tokens, 100 tokens/s, 7 s left",
        "fit: 900 of 1,100 tokens, 100 tokens/s, 2 s left",
        "fit: 1,100 of 1,100 tokens, 100 tokens/s",
    ]


WATCHED = """
import time
from infodyn_interp.cli.progress import Report
with Report() as report:
    for done in range(0, 1001, 250):
        report("fit", done, 1000)
        time.sleep(0.15)
"""


@pytest.mark.parametrize("colour", [True, False])
def test_on_a_terminal_progress_is_a_bar_with_speed_that_respects_no_color(colour):
    ours, theirs = pty.openpty()
    environment = {
        name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR")
    }
    environment |= {"TERM": "xterm-256color", "COLUMNS": "100"} | ({} if colour else {"NO_COLOR": "1"})
    with subprocess.Popen(
        [sys.executable, "-c", WATCHED],
        stdin=theirs,
        stdout=subprocess.DEVNULL,
        stderr=theirs,
        env=environment,
    ) as process:
        os.close(theirs)
        seen = b""
        try:
            while chunk := os.read(ours, 4096):
                seen += chunk
        except OSError:  # how Linux says that the other end is closed
            pass
        os.close(ours)
    assert process.returncode == 0
    text = seen.decode()
    assert re.search(r"fit .*1,000/1,000 tokens, [\d,]+/s", text)
    assert bool(re.search(r"\x1b\[[\d;]*(3[0-7]|38;)", text)) == colour
