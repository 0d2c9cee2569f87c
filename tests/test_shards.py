"""Shards, whoever computes them and whatever interrupts it: the same bits, or one line that says what to do."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import families
import numpy as np
import psutil
import pytest
import xarray
from corpora import Deadly

from infodyn_interp import results
from infodyn_interp.cli import main
from infodyn_interp.errors import RunError
from infodyn_interp.models import open_model
from infodyn_interp.sweeping import engines, sweep
from infodyn_interp.sweeping.keeping import FOLDER
from infodyn_interp.sweeping.plans import OF_NULLS, STAGES, STUDY, Job
from infodyn_interp.sweeping.reading import Reader
from infodyn_interp.sweeping.watching import held
from infodyn_interp.texts import read_texts

SENTENCE = "the clock kept its own time and nobody waved . , why would they ? it was raining \n one 42"
WORDS = SENTENCE.split(" ")
NULLS = ("untrained", "shuffled_tokens")
PLACES = [(STUDY, stage) for stage in STAGES] + [(null, stage) for null in NULLS for stage in OF_NULLS]
TEXTS = {"window": 48, "windows_per_document": 2, "reference_documents": 8}
SETTINGS = {"state_rank": 4, "null_reference_tokens": 1000, "documents_per_shard": 6, "threads": 1}


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """A folder with a tiny model and 32 documents, of which 24 are fitted."""
    folder = tmp_path_factory.mktemp("given")
    families.build("gpt2", n_layer=2).save_pretrained(folder / "model")
    families.save_tokenizer(folder / "model")
    draw = np.random.default_rng(0)
    lines = (json.dumps({"text": " ".join(draw.choice(WORDS, 80))}) + "\n" for _ in range(32))
    (folder / "texts.jsonl").write_text("".join(lines))
    return folder


@pytest.fixture(scope="module")
def words(given):
    """The command of the study, all but where its result goes."""
    keys = TEXTS | SETTINGS | {"layers": "1", "limits": "none", "nulls": ",".join(NULLS)}
    asked = [word for key, value in keys.items() for word in (f"--{key.replace('_', '-')}", str(value))]
    return ["sweep", "--model", str(given / "model"), "--texts", str(given / "texts.jsonl"), *asked]


@pytest.fixture(scope="module")
def whole(words, tmp_path_factory):
    """The result of the study when nothing comes between."""
    out = tmp_path_factory.mktemp("whole")
    assert main([*words, "--out", str(out)]) == 0
    assert {path.name for path in out.iterdir()} == {results.FILE, FOLDER}
    return results.open_result(out)


@pytest.fixture(scope="module")
def begun(words, tmp_path_factory):
    """A run that stopped with two of four shards of the study's fit finished."""
    out = tmp_path_factory.mktemp("begun")
    with stopping_at(STUDY, "fit", 2):
        assert main([*words, "--out", str(out)]) == 1
    return out


@pytest.fixture
def copy(begun, tmp_path):
    """A copy of that run."""
    return Path(shutil.copytree(begun, tmp_path / "out"))


@pytest.fixture
def run(words, capsys):
    """The study, or another command, in this process: exit code and last line of standard error."""

    def run(out, *more, command=None):
        capsys.readouterr()
        code = main([*(command or [*words, "--out"]), str(out), *map(str, more)])
        lines = capsys.readouterr().err.splitlines()
        assert sum(line.startswith("infodyn: ") for line in lines) == (code != 0), lines
        return code, lines[-1] if lines else ""

    return run


@contextmanager
def stopping_at(part, stage, index):
    """Every process' readers fail once they have read a batch of that shard."""
    compute = Reader.compute

    def stop(tokens):
        raise OSError("the reader stopped")

    def compute_or_stop(reader, shard, report):
        here = (shard.part, shard.stage, shard.index) == (part, stage, index % shard.of)
        compute(reader, shard, stop if here else report)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Reader, "compute", compute_or_stop)
        yield


@contextmanager
def started(words, out, *more):
    """The study in a process of its own, which leads a group as at a terminal."""
    line = [sys.executable, "-c", "import sys; from infodyn_interp.cli import main; sys.exit(main())"]
    process = subprocess.Popen(
        [*line, *words, "--out", str(out), *more],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # a suite in the background of a shell ignores interrupts, and so would the run
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def wait_for(process, out, name):
    """Until a shard of a stage, or the frozen stage, is there."""
    end = time.monotonic() + 240
    while not any((out / "shards").glob(f"{name}*/*.npz")) and not (out / "shards" / f"{name}.npz").exists():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < end
        time.sleep(0.005)


def assert_same(out, whole):
    made = results.open_result(out)
    assert set(made.children) == set(whole.children)
    for name in set(whole.children) - {"cost"}:
        xarray.testing.assert_identical(made[name].to_dataset(), whole[name].to_dataset())
    assert {path.name for path in out.iterdir()} <= {results.FILE, FOLDER, "texts"}


# Interruptions


def test_a_failure_in_any_stage_loses_the_shard_in_flight_alone(run, whole, tmp_path):
    for part, stage in PLACES:
        with stopping_at(part, stage, -1):
            code, line = run(tmp_path)
        assert code == 1
        assert "the reader stopped" in line
        of = {
            (shard.part, shard.stage): shard.of
            for plan in Job.read(tmp_path / "shards").plans
            for shard in plan.shards
        }
        shards = sorted(path.name for path in (tmp_path / "shards" / f"{part}-{stage}").iterdir())
        assert shards == [f"{place:05d}.npz" for place in range(of[part, stage] - 1)]
    assert run(tmp_path)[0] == 0
    assert_same(tmp_path, whole)


def test_a_run_killed_in_every_stage_comes_to_the_same_bits(words, run, whole, tmp_path):
    for stage in STAGES:
        with started(words, tmp_path) as process:
            wait_for(process, tmp_path, f"study-{stage}")
            process.kill()
        assert not (tmp_path / results.FILE).exists()
    assert run(tmp_path)[0] == 0
    assert_same(tmp_path, whole)


@pytest.mark.parametrize(
    ("number", "code", "more"), [(signal.SIGINT, 130, ("--workers", "2")), (signal.SIGTERM, 143, ())]
)
def test_a_signal_ends_a_run_with_its_code_and_a_line_how_to_go_on(
    words, run, whole, tmp_path, number, code, more
):
    with started(words, tmp_path, *more) as process:
        wait_for(process, tmp_path, "study-fit")
        workers = psutil.Process(process.pid).children(recursive=True)
        os.killpg(process.pid, number) if more else process.send_signal(number)
        _, said = process.communicate(timeout=60)
    assert process.returncode == code
    last = said.splitlines()[-1]
    assert last.startswith("infodyn: ")
    assert "the same command goes on from there" in last
    assert "Traceback" not in said
    assert psutil.wait_procs(workers, timeout=10)[1] == []
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "shards").glob("study-survey.npz")}
    assert kept
    assert run(tmp_path)[0] == 0
    assert_same(tmp_path, whole)


# Damage


def cut(file):
    os.truncate(file, file.stat().st_size // 2)


def turn_a_bit(file):
    with file.open("r+b") as stream:
        stream.seek(file.stat().st_size // 2)
        (byte,) = stream.read(1)
        stream.seek(-1, os.SEEK_CUR)
        stream.write(bytes([byte ^ 4]))


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        ("study-fit/00000.npz", cut),
        ("study-fit/00001.npz", turn_a_bit),
        ("study-survey.npz", turn_a_bit),
        ("study-means/mean_states.f32", turn_a_bit),
        ("study-check.npz", cut),
    ],
)
def test_a_damaged_file_is_refused_by_name_and_made_again_where_that_is_asked_for(
    run, whole, copy, name, spoil
):
    file = copy / "shards" / name
    spoil(file)
    before = file.read_bytes()
    code, line = run(copy)
    assert code == 2
    assert "damaged" in line
    assert "--redo-damaged" in line
    assert str(file if file.suffix == ".npz" else file.parent) in line
    assert file.read_bytes() == before
    assert run(copy, "--redo-damaged")[0] == 0
    assert_same(copy, whole)


def test_a_shard_of_another_run_is_refused(run, copy, tmp_path):
    other = tmp_path / "other"
    with stopping_at(STUDY, "fit", 2):
        run(other, "--seed", "1")
    code, line = run(copy, "--seed", "1")
    assert (code, "seed was 0, now 1" in line) == (2, True)
    shutil.copy(other / "shards/study-fit/00000.npz", copy / "shards/study-fit")
    code, line = run(copy)
    assert code == 2
    assert "study-fit/00000.npz: a shard of another run" in line


def test_texts_that_changed_are_refused_and_the_run_goes_on_with_the_old_ones(run, given, whole, copy):
    texts = given / "texts.jsonl"
    before = texts.read_text()
    texts.write_text(before.replace("clock", "watch"))
    try:
        code, line = run(copy)
    finally:
        texts.write_text(before)
    assert code == 2
    assert "texts_digest was" in line
    assert run(copy)[0] == 0
    assert_same(copy, whole)


def test_two_runs_in_one_folder_at_once_are_one_too_many(run, copy):
    with held(copy, Job.read(copy / "shards")):
        code, line = run(copy)
    assert (code, "another process is at work" in line) == (2, True)


@pytest.fixture
def disk(tmp_path):
    """A disk of 400 KiB, and what mounts it anew with other options."""
    place = tmp_path / "disk"
    place.mkdir()

    def mount(*options):
        ended = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", place], capture_output=True, text=True
        )
        return ended.stderr.strip()

    if os.geteuid() or (reason := mount("size=400k")):
        pytest.skip(f"a disk of its own takes root and mount: {reason if not os.geteuid() else 'not root'}")
    try:
        yield place, mount
    finally:
        subprocess.run(["umount", place], check=True)


def test_a_full_disk_and_a_read_only_one_are_a_line_each_and_cost_nothing(run, whole, disk):
    place, mount = disk
    code, line = run(place)
    assert code == 1
    assert "No space left on device" in line
    kept = {path.name for path in (place / "shards").iterdir()}
    assert "study-check.npz" in kept
    mount("remount", "ro")
    code, line = run(place)
    assert code == 2
    assert "out: " in line
    mount("remount", "rw", "size=100m")
    assert run(place)[0] == 0
    assert_same(place, whole)


# Engines


def title_of(process):
    try:
        return " ".join(process.cmdline())
    except psutil.Error:  # it has just ended
        return ""


def test_a_worker_that_dies_is_replaced_and_nobody_sees_it_in_the_bits(words, whole, tmp_path):
    with started(words, tmp_path, "--workers", "2") as process:
        wait_for(process, tmp_path, "study-survey")
        family = psutil.Process(process.pid).children()
        workers = [one for one in family if "spawn_main" in title_of(one)]
        assert len(workers) == 2
        workers[0].kill()
        _, said = process.communicate(timeout=240)
    assert process.returncode == 0, said
    assert_same(tmp_path, whole)


def test_ray_comes_to_the_same_bits_though_a_worker_dies(words, whole, tmp_path):
    with started(words, tmp_path, "--engine", "ray") as process:
        wait_for(process, tmp_path, "study-survey")
        at_work = []
        while not at_work and process.poll() is None:
            family = psutil.Process(process.pid).children(recursive=True)
            at_work = [one for one in family if title_of(one).startswith("ray::_compute")]
        at_work[0].kill()
        _, said = process.communicate(timeout=240)
    assert process.returncode == 0, said
    assert_same(tmp_path, whole)


@pytest.fixture(scope="module")
def cluster():
    """The address of a Ray cluster of one node, which has nothing to do with this process."""
    from ray.cluster_utils import Cluster

    head = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    yield head.address
    head.shutdown()


def test_a_ray_cluster_at_an_address_comes_to_the_same_bits_and_stays_where_it_was(
    words, whole, tmp_path, cluster
):
    with started(words, tmp_path, "--engine", "ray", "--address", cluster) as process:
        _, said = process.communicate(timeout=240)
    assert process.returncode == 0, said
    assert_same(tmp_path, whole)
    engines.Engine("ray", address=cluster).require_cluster()


@pytest.fixture
def listeners():
    """Ports of this machine: one where nobody listens, one that says nothing, one that speaks of something else."""
    with socket.create_server(("", 0)) as silent, socket.create_server(("", 0)) as other:
        with socket.create_server(("", 0)) as gone:
            ports = [one.getsockname()[1] for one in (gone, silent, other)]

        def answer():
            with suppress(OSError):
                while True:
                    asked = other.accept()[0]
                    asked.recv(64)
                    asked.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                    asked.close()

        threading.Thread(target=answer, daemon=True).start()
        yield [f"localhost:{port}" for port in ports]
        other.shutdown(socket.SHUT_RDWR)


def test_an_address_where_no_cluster_answers_is_refused_in_seconds(run, listeners, tmp_path):
    for address in ("nowhere", "localhost:99999", *listeners):
        begun = time.monotonic()
        code, line = run(tmp_path / "out", "--engine", "ray", "--address", address)
        assert (code, f"address: no Ray cluster at {address}" in line) == (2, True), line
        assert time.monotonic() - begun < 30  # Ray itself takes minutes
        assert not (tmp_path / "out" / "shards").exists()


def test_a_shard_that_always_ends_its_worker_stops_the_run_with_its_documents_named(
    given, tmp_path, monkeypatch
):
    monkeypatch.setattr(engines, "LOST", 2)
    model = open_model(given / "model")
    documents = [json.loads(line)["text"] for line in (given / "texts.jsonl").read_text().splitlines()]
    texts = read_texts(documents, model.tokenizer, **TEXTS)
    texts = replace(texts, _corpus=Deadly(documents, deadly=int(texts._rows["reference"][7]["start"])))
    with pytest.raises(RunError, match=r"stage survey of study, shard 2 of 2 \(reference documents 6 to 7\)"):
        sweep(model, texts, **SETTINGS, layers=[1], nulls=(), limits=[], workers=2, out=tmp_path)
    assert (tmp_path / "shards/study-survey/00000.npz").exists()


def test_what_workers_cannot_do_is_refused_before_anything_is_written(given, run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    code, line = run(tmp_path / "out", "--engine", "ray")
    assert (code, "pip install 'infodyn-interp[ray]'" in line) == (2, True)
    assert not (tmp_path / "out").exists()


# Job arrays


def test_a_run_split_in_parts_and_merged_comes_to_the_same_bits(run, whole, tmp_path, capsys):
    here, there, joined = (tmp_path / name for name in ("here", "there", "joined"))
    code, line = run(here, "--stage", "fit", "--part", "1/2")
    assert code == 2
    assert "stage survey of study lacks 2 of 2 shards (1, 2)" in line
    for stage in STAGES:
        for place, out in enumerate((here, there), 1):
            assert run(out, "--stage", stage, "--part", f"{place}/2")[0] == 0
        assert run(here, there, "--out", joined, command=["merge"])[0] == 0
        for out in (here, there):
            shutil.rmtree(out / "shards")
            shutil.copytree(joined / "shards", out / "shards")
    assert run(here)[0] == 0
    assert_same(here, whole)


def test_parts_that_do_not_belong_together_are_not_merged(run, copy, tmp_path):
    other = tmp_path / "other"
    run(other, "--stage", "survey", "--seed", "1")
    code, line = run(copy, other, command=["merge"])
    assert code == 2
    assert f"{other}: holds the shards of another run (seed was 1, now 0)" in line
    twin = shutil.copytree(copy, tmp_path / "twin")
    shutil.copy(twin / "shards/study-fit/00001.npz", twin / "shards/study-fit/00000.npz")
    code, line = run(copy, twin, command=["merge"])
    assert code == 2
    assert "study-fit/00000.npz: not the same as" in line


def test_merging_says_what_is_frozen_and_what_lacks(run, copy, capsys):
    assert main(["merge", str(copy)]) == 0
    assert capsys.readouterr().out.splitlines() == ["study survey: frozen", "study fit: lacks 2 shards"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--part", "1/2"), "part: 1/2 of which stage"),
        (("--stage", "fit", "--part", "3/2"), "part: '3/2' is not a part"),
        (("--stage", "weave"), "stage: 'weave' is not one of survey, fit"),
        (("--stage", "ladder", "--no-carry"), "stage: ladder is not of this run; its stages are survey, fit"),
    ],
)
def test_a_part_that_there_is_not_is_refused(run, tmp_path, more, message):
    code, line = run(tmp_path, *more)
    assert code == 2
    assert message in line


# How far it is


def test_show_says_how_far_a_run_without_a_result_is(begun, capsys):
    assert main(["show", str(begun)]) == 0
    said = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["study", "survey", "2/2"] in said
    assert ["study", "fit", "2/4"] in said
    assert main(["show", str(begun), "--json"]) == 0
    state = json.loads(capsys.readouterr().out)
    assert {"part": "study", "stage": "fit", "shards": 4, "shards_done": 2} in state["stages"]
    assert state["stage"] == "fit"
    assert 0 < state["tokens_done"] < state["tokens"]
