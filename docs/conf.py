"""The site: pages in MyST, notebooks with their outputs, options from the run file, names from the docstrings."""

import importlib
import inspect
import re
from pathlib import Path

from sphinx.application import Sphinx

import infodyn_interp
from infodyn_interp import run

HERE = Path(__file__).parent

project = "infodyn-interp"
author = "the authors of infodyn-interp"
version = release = infodyn_interp.__version__
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax"]
exclude_patterns = ["_build", "**/.ipynb_checkpoints"]
myst_enable_extensions = ["dollarmath", "deflist"]
myst_heading_anchors = 3
# Notebooks are kept without outputs, which are those of this very package: a cache would not see that it has changed.
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 600  # seconds a cell
nb_merge_streams = True
nb_output_stderr = "warn"  # and a warning is an error
autodoc_typehints = "none"
default_role = "code"
maximum_signature_line_length = 80
html_theme = "furo"
html_title = f"infodyn-interp {version}"


def write_options() -> None:
    """The page of keys, from the run file's own descriptions."""
    keys = [
        f"`{name}`\n: {run.explain(key)} Flag `--{name.replace('_', '-')}`."
        for name, key in run.Run.model_fields.items()
    ]
    head = (
        "# Options\n\nEvery key of a run file. The flags of `infodyn run` and `infodyn sweep` have the same names;"
        " `infodyn run FILE --dry` prints all of them as they would be run."
    )
    heads = {
        run.Measures: (
            "## Measures\n\nKeys of the table `[measures]`: `infodyn run` then measures trajectories after the sweep,"
            " by it, as `infodyn measures --inside` does."
        ),
        run.Observe: (
            "## Replies\n\nKeys of the table `[observe]`: `infodyn run` then draws replies after the sweep and reads"
            " them by it, as `infodyn observe --inside` does."
        ),
    }
    tables = [
        text
        for table, words in heads.items()
        for text in (words, *(f"`{name}`\n: {run.explain(key)}" for name, key in table.model_fields.items()))
    ]
    (HERE / "options.md").write_text("\n\n".join([head, *keys, *tables]) + "\n", encoding="utf-8")


def write_names() -> None:
    """The page of public functions and classes with their docstrings; each once, under the shortest name."""
    top, seen = infodyn_interp.__name__, set()
    modules = [name for name in infodyn_interp.__all__ if inspect.ismodule(getattr(infodyn_interp, name))]
    parts = ["# Python", "Every name is loaded on first use."]
    for module in (top, *(f"{top}.{name}" for name in modules)):
        parts.append(f"## {module}")
        found = importlib.import_module(module)
        own = [name for name, one in vars(found).items() if getattr(one, "__module__", "") == module]
        for name in sorted(getattr(found, "__all__", own)):
            one = getattr(found, name)
            public = not name.startswith("_") and (inspect.isfunction(one) or inspect.isclass(one))
            if public and id(one) not in seen:
                seen.add(id(one))
                kind = "autoclass" if inspect.isclass(one) else "autofunction"
                parts.append(f"```{{eval-rst}}\n.. {kind}:: {module}.{name}\n```")
    (HERE / "python.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def keep_bars(_app: Sphinx, _what: str, _name: str, _one: object, _options: object, lines: list[str]) -> None:
    """Docstrings are plain words: |M_t| is a size, not a substitution."""
    lines[:] = [re.sub(r"\|(?=[^`]*(?:`[^`]*`[^`]*)*$)", r"\\|", line) for line in lines]


def setup(app: Sphinx) -> None:
    """Write the pages that are made of the package, and read its docstrings as they are meant."""
    write_options()
    write_names()
    app.connect("autodoc-process-docstring", keep_bars)
