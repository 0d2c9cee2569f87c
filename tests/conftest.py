"""What all tests share: a hub of their own, two threads, fixed seeds, models loaded once for the whole."""

import atexit
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

# Set before transformers is imported: no test reaches the network, or reads or writes the user's own cache.
_HUB = tempfile.mkdtemp(prefix="infodyn-hub-")
atexit.register(shutil.rmtree, _HUB, ignore_errors=True)
for _name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "TRANSFORMERS_CACHE", "HF_MODULES_CACHE", "HF_TOKEN"):
    os.environ.pop(_name, None)
# Threads that spin while they wait cost tiny models most of their time on a machine that does other work too.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.update(
    HF_HOME=_HUB, HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", TOKENIZERS_PARALLELISM="false"
)

import families  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402
from transformers import PreTrainedTokenizerFast  # noqa: E402

from infodyn_interp.models import Model, open_model  # noqa: E402

# Two threads in all, whether the tests run in one process or in several.
torch.set_num_threads(max(1, 2 // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))))


# Modules of minutes, begun first: one of them left for the end would leave the other process idle.
LONG = (
    "test_shards", "test_docs", "test_planted", "test_cli", "test_figures", "test_sweeping", "test_report",
    "test_calibration", "test_planning",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The order of the modules, as `LONG` has it; within one nothing moves."""
    items.sort(key=lambda item: LONG.index(item.path.stem) if item.path.stem in LONG else len(LONG))


@pytest.fixture(scope="session")
def demo_model() -> Model:
    """SmolLM2-135M-Instruct, once for all; without its package tests fail with the line that brings it."""
    return open_model("demo", device="cpu")


@pytest.fixture(scope="session")
def tiny_tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the families' tokenizer and nothing else."""
    folder = tmp_path_factory.mktemp("tokenizer")
    families.save_tokenizer(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_tokenizer(tiny_tokenizer_folder: Path) -> PreTrainedTokenizerFast:
    """The families' tokenizer as read from its folder: byte-level, 300 pieces, BOS first."""
    return PreTrainedTokenizerFast.from_pretrained(tiny_tokenizer_folder)


@pytest.fixture(autouse=True)
def _fixed_seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def needed() -> Callable[[str], str]:
    """The path of a program; without it tests are skipped, or fail where INFODYN_REQUIRE_BROWSER is set."""

    def find(program: str) -> str:
        path = shutil.which(program)
        if path is None:
            say = pytest.fail if os.environ.get("INFODYN_REQUIRE_BROWSER") else pytest.skip
            say(f"{program} is not installed: apt-get install chromium poppler-utils")
        return path

    return find
