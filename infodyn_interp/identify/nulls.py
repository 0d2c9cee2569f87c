"""The nulls by name: models and texts in which what is claimed of a model should not be found (science: nulls)."""

from collections.abc import Iterable

from infodyn_interp.errors import RequestError

TWINS = ("untrained", "permuted_weights", "shuffled_tokens")  # they read a model or a text of their own
NULLS = (*TWINS, "permuted_queries", "swapped_documents")


def choose_nulls(names: Iterable[str]) -> tuple[str, ...]:
    """These nulls, in the order of `NULLS`.

    Raises:
        RequestError: there is no such null.
    """
    asked = list(names)
    for name in asked:
        if name not in NULLS:
            raise RequestError(
                f"nulls: {name!r} is not one of {', '.join(NULLS)}; ask for none, all, or a list"
            )
    return tuple(name for name in NULLS if name in asked)


def choose_twins(names: Iterable[str]) -> tuple[str, ...]:
    """The same of `TWINS` alone, for whatever is not of attention energies.

    Raises:
        RequestError: there is no such null, or it is of attention energies.
    """
    chosen = choose_nulls(names)
    others = [null for null in chosen if null not in TWINS]
    if others:
        raise RequestError(f"nulls: {others[0]} is of attention energies; measures have {', '.join(TWINS)}")
    return chosen
