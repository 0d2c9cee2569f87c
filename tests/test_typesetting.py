"""A figure and its caption go into a LaTeX document as they are."""

import re
from pathlib import Path

from synthetic import make_observed, make_result

from infodyn_interp import figures
from infodyn_interp.figures.typesetting import LATEX, typeset

COMMAND = re.compile(r"\\([a-z]+(\{\})?|[%&#$_{}])|\$[^$]+\$")
ENVIRONMENT = re.compile(
    r"\\begin\{(figure\*?)\}\n  \\centering\n  \\includegraphics\{(?P<name>[\w.]+)\.pdf\}\n"
    r"  \\caption\[(?P<short>.*)\]\{(?P<caption>.+)\}\n  \\label\{fig:(?P=name)\}\n\\end\{\1\}\n"
)


def test_a_sign_with_a_meaning_in_latex_is_written_as_itself() -> None:
    line = typeset("gain", r"95 % of |M_t|, nats² & #1: {50 $} ~ \x ^ ρ > 0", wide=False).splitlines()[3]
    assert line == (
        r"  \caption[gain]{95 \% of $|$M\_t$|$, nats$^2$ \& \#1: \{50 \$\} \textasciitilde{} \textbackslash{}x"
        r" \textasciicircum{} $\rho$ $>$ 0}"
    )


def test_letters_of_a_models_name_stay() -> None:
    assert "модель 小" in typeset("gain", "Model модель 小", wide=False)


def test_every_figure_is_written_for_latex_with_nothing_that_it_would_read_otherwise(tmp_path: Path) -> None:
    seen = make_observed()
    plates = {
        "trajectory": figures.trajectory(seen["reply"]),
        "alpha_sweep": figures.alpha_sweep(seen["swept"]),
    }
    written = figures.save_all(make_result(), tmp_path, heads="4.1", width="page")
    sources = {path.stem: path.with_name(f"{path.name[:-4]}.tex").read_text("utf-8") for path in written}
    sources |= {name: typeset(name, plate.caption, wide=True) for name, plate in plates.items()}
    assert len(sources) == len(written) + len(plates)
    for name, source in sources.items():
        found = ENVIRONMENT.fullmatch(source)
        assert found, source
        assert found["name"] == name
        assert found[1] == "figure*"
        left = COMMAND.sub("", found["caption"])
        assert not re.search(r"[\\%&#$_^~|<>\"]", left), left
        assert left.isascii(), sorted({sign for sign in left if not sign.isascii()})


def test_every_replacement_is_plain_ascii() -> None:
    assert "".join(LATEX.values()).isascii()
