"""One self-contained HTML page of a result, made from the result alone."""

import json
import os
from pathlib import Path

import xarray
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from infodyn_interp.observe.words import describe_output
from infodyn_interp.report.contents import page_data
from infodyn_interp.report.origins import cite, reproduce, versions
from infodyn_interp.report.sections import group_sections
from infodyn_interp.report.words import explain_head, tell_finding, unresolved
from infodyn_interp.results import summary, whole_file

__all__ = ["explain_head", "tell_finding", "unresolved", "write_report"]

FILE = "report.html"


def write_report(result: xarray.DataTree, path: str | os.PathLike[str]) -> Path:
    """Write a result as one HTML file that needs nothing beside it, and return its path.

    Args:
        result: of a sweep, or of replies that were observed, as it is or read back (`open_result`); neither its model
            nor its texts are needed.
        path: the file, or a folder that receives `report.html`.
    Raises:
        RequestError: the result has neither verdicts nor replies.
        RunError: the disk refuses.
    """
    file = Path(path)
    file = file if file.suffix.lower() in (".html", ".htm") and not file.is_dir() else file / FILE
    page = _render(result)
    with whole_file(file) as beside:
        beside.write_text(page, encoding="utf-8")
    return file


def _render(result: xarray.DataTree) -> str:
    room = Environment(
        loader=PackageLoader(__name__), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    if "output" in result.children and "verdicts" not in result.children:
        return room.get_template("observed.html").render(
            about=result.attrs,
            title=f"Replies of {result.attrs['model']}" if "model" in result.attrs else "Replies",
            said=describe_output(result).split("\n"),
            sections=group_sections(result),
            versions=versions(result),
            settings=json.dumps(json.loads(result.attrs["run"]), indent=1, ensure_ascii=False),
            citation=cite(result),
        )
    data = page_data(result)
    return room.get_template("page.html").render(
        about=result.attrs,
        data=data,
        embedded=_embed(data),
        findings=tell_finding(result),
        summary=summary(result),
        unresolved=unresolved(result),
        sections=group_sections(result),
        versions=versions(result),
        reproduce=reproduce(result),
        citation=cite(result),
    )


def _embed(data: object) -> Markup:
    """JSON that no text in it can end: the page's parser sees no `<`."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c"))
