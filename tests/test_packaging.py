"""What is handed out: a source distribution that is the whole tree, and a wheel that is the package alone."""

import shutil
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_bytes
from pathlib import Path, PurePosixPath

import pytest

import infodyn_interp

ROOT = Path(__file__).parents[1]
BUILT = (
    ".*",
    "__pycache__",
    "_build",
    "build",
    "dist",
    "out",
    "*.egg-info",
    "*.pyc",
    "options.md",
    "python.md",
)


def build(kind: str, folder: Path) -> Path:
    """What the build backend makes of a source tree."""
    code = f"from setuptools import build_meta; build_meta.build_{kind}('dist')"
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == 0, ended.stderr
    (made,) = (folder / "dist").iterdir()
    return made


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source as a checkout has it."""
    folder = tmp_path_factory.mktemp("checkout") / "tree"
    shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(*BUILT))
    return folder


@pytest.fixture(scope="module")
def unpacked(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source distribution, unpacked elsewhere."""
    there, before = tmp_path_factory.mktemp("sdist"), files(tree)
    with tarfile.open(build("sdist", tree)) as archive:
        archive.extractall(there, filter="data")
    (folder,) = there.iterdir()
    made = {name for name in files(folder) if ".egg-info/" in name} | {"PKG-INFO", "setup.cfg"}
    assert files(folder) - made == before
    return folder


@pytest.fixture(scope="module")
def wheel(unpacked: Path) -> zipfile.ZipFile:
    """The wheel that is built from the source distribution, as an installer does where no wheel fits."""
    return zipfile.ZipFile(build("wheel", unpacked))


def test_the_wheel_holds_every_file_of_the_package_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    names = {name for name in wheel.namelist() if not name.endswith("/")}
    about = {name for name in names if PurePosixPath(name).parts[0].endswith(".dist-info")}
    package = {
        f"infodyn_interp/{name}" for name in files(ROOT / "infodyn_interp") if "__pycache__" not in name
    }
    assert names - about == package
    assert {"infodyn_interp/py.typed", "infodyn_interp/__init__.pyi"} < package
    assert {PurePosixPath(name).name for name in about} >= {"LICENSE", "entry_points.txt"}


def test_the_wheel_says_what_it_is(wheel: zipfile.ZipFile) -> None:
    (where,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    about = message_from_bytes(wheel.read(where))
    assert about["Name"] == "infodyn-interp"
    assert about["Version"] == infodyn_interp.__version__
    assert about["License-Expression"] == "Apache-2.0"
    assert "# infodyn-interp" in about.get_payload()
    commands = wheel.read(where.replace("METADATA", "entry_points.txt")).decode()
    assert "infodyn = infodyn_interp.cli:main" in commands


def test_one_version_stands_everywhere() -> None:
    version = infodyn_interp.__version__
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\n## {version}\n" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
