"""Graphics cards by name: memory, matrix rate and bandwidth as their makers publish them.

Rates are dense 16-bit matrix products with 32-bit sums, without sparsity, in TFLOP/s (a multiply-add counts two).
"""

from __future__ import annotations

from dataclasses import dataclass

from side4video.errors import InputError, nearest_names


@dataclass(frozen=True)
class Card:
    """`memory_gib` is what a program can use of it, about; `bandwidth` is in GB/s."""

    name: str
    memory_gib: float
    tflops: float
    bandwidth: float


CARDS = (
    Card("t4", 15, 65, 320),
    Card("v100-16gb", 16, 125, 900),
    Card("v100-32gb", 32, 125, 900),
    Card("rtx-2080-ti", 11, 54, 616),
    Card("rtx-3060", 12, 26, 360),
    Card("rtx-3080", 10, 60, 760),
    Card("rtx-3090", 24, 71, 936),
    Card("rtx-4060-ti-16gb", 16, 44, 288),
    Card("rtx-4070", 12, 58, 504),
    Card("rtx-4090", 24, 165, 1008),
    Card("rtx-5090", 32, 210, 1792),
    Card("rtx-a6000", 48, 155, 768),
    Card("a10", 24, 125, 600),
    Card("l4", 24, 121, 300),
    Card("l40s", 48, 362, 864),
    Card("a100-40gb", 40, 312, 1555),
    Card("a100-80gb", 80, 312, 2039),
    Card("h100", 80, 989, 3350),
    Card("h200", 141, 989, 4800),
    Card("b200", 180, 2250, 8000),
)


def find_card(name: str) -> Card:
    """The card of this name, however it is spelt ("RTX 4090", "rtx4090").

    Raises:
        InputError: a name that is not in the table.
    """
    plain = _plain(name)
    for card in CARDS:
        if _plain(card.name) == plain:
            return card
    known = [card.name for card in CARDS]
    raise InputError(f"card {name!r} is not known{nearest_names(name.lower(), known)} Known: {', '.join(known)}")


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())
