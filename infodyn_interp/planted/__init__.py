"""Worlds with known truth, and what the verdicts make of them."""

from infodyn_interp.loading import on_first_use

_ROOMS = {
    "REPLY_WORLDS": "replies",
    "ReplyWorld": "replies",
    "WORLDS": "worlds",
    "World": "worlds",
    "calibrate": "calibration",
    "draw": "worlds",
    "draw_replies": "replies",
    "planted_term": "scores",
}

__all__ = [*_ROOMS]  # noqa: PLE0604
__getattr__, __dir__ = on_first_use(__name__, _ROOMS)
