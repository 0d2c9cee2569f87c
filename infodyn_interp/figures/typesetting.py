"""A figure with its caption as LaTeX takes it."""

import re

LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "%": r"\%", "&": r"\&", "#": r"\#", "$": r"\$", "_": r"\_",
    "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "|": "$|$", "<": "$<$", ">": "$>$", '"': "''",
    "“": "``", "”": "''", "–": "--", "…": r"\dots{}", "−": "$-$", "×": r"$\times$", "²": "$^2$", "∅": r"$\emptyset$",
    "α": r"$\alpha$", "λ": r"$\lambda$", "ρ": r"$\rho$", "τ": r"$\tau$", "Ψ": r"$\Psi$",
    "␣": r"\textvisiblespace{}", "⏎": r"$\hookleftarrow$", "␍": r"$\hookleftarrow$", "⇥": r"$\mapsto$",
    "□": r"\fbox{\phantom{x}}", "x̄": r"$\bar{x}$",
}  # fmt: skip
_SIGN = re.compile("|".join(map(re.escape, LATEX)))


def typeset(name: str, caption: str, *, wide: bool) -> str:
    r"""A LaTeX environment that holds `name.pdf` at its own size, to be read with `\input`.

    Letters of other scripts (of the name of a model) stay as they are, which every current LaTeX reads.

    Args:
        name: of the file without its ending; the label is `fig:name`.
        caption: plain text.
        wide: over both columns of a page that has two.
    """
    kind = "figure*" if wide else "figure"
    short = _escape(name.replace("_", " "))  # for a list of figures
    return "\n".join(
        [
            rf"\begin{{{kind}}}",
            r"  \centering",
            rf"  \includegraphics{{{name}.pdf}}",
            rf"  \caption[{short}]{{{_escape(caption)}}}",
            rf"  \label{{fig:{name}}}",
            rf"\end{{{kind}}}",
            "",
        ]
    )


def _escape(text: str) -> str:
    return _SIGN.sub(lambda found: LATEX[found[0]], text)
