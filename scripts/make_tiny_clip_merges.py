"""Writes the tiny CLIP's tokenizer merges: byte-pair merges that make one token of every word of the drawn captions."""

from __future__ import annotations

import gzip
from collections import Counter
from itertools import pairwise
from pathlib import Path

from side4video.backbones.tiny import MERGES, asset
from side4video.data import drawing, motions

# words that a person may try in a search, beside those that the captions use
MORE_WORDS = """the of in on to and is it that two three one picture photo video clip shape shapes object something
moving turning growing shrinking rotating spinning orbiting appearing vanishing approaching leaving toward towards away
from near far corner side middle centre center upper lower big tiny grey gray bright color colour coloured colored
rotates spins around round fades in out comes goes bigger smaller other each apart together background white-ish"""


def caption_words() -> set[str]:
    """Every word that a drawn caption can have."""
    phrases = [
        *drawing.COLOURS,
        *drawing.SIZES,
        *drawing.PLACES,
        *drawing.FACINGS,
        *drawing.TONES,
        *drawing.PATTERNS,
        *drawing.SHAPES,
        *(words for pair in motions.MOTION_PAIRS for words in (pair.forward_words, pair.backward_words)),
        "a an and faint shape facing over background",
        MORE_WORDS,
    ]
    return {word for phrase in phrases for word in phrase.replace("-", " ").split()}


def byte_pair_merges(words: set[str]) -> list[tuple[str, str]]:
    """Merge the most frequent pair (ties by spelling) until every word is one piece."""
    pieces = [[*word[:-1], word[-1] + "</w>"] for word in sorted(words)]
    merges: list[tuple[str, str]] = []
    while pairs := Counter(pair for word in pieces for pair in pairwise(word)):
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        for word in pieces:
            at = 0
            while at < len(word) - 1:
                if (word[at], word[at + 1]) == best:
                    word[at : at + 2] = ["".join(best)]
                at += 1
    return merges


def main() -> None:
    """Write the asset; the same bytes every time."""
    merges = byte_pair_merges(caption_words())
    lines = ["#version: side4video tiny-clip", *(" ".join(pair) for pair in merges)]
    Path(asset(MERGES)).write_bytes(gzip.compress("\n".join(lines).encode(), mtime=0))
    print(f"{len(merges)} merges")


if __name__ == "__main__":
    main()
