"""Captions to token ids, as retrieval feeds them to a text tower, with a mask of the real ones.

The last real token of a caption is the one that stands for the whole sentence: the end token, or for towers that pool
the last position (SigLIP) that position, which is then marked as real.

Source: Side4Video, arXiv:2311.15769, released code, retrieval: 32 words, start and end tokens among them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor

from side4video.errors import DataError

MAX_WORDS = 32
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CaptionTokens:
    """`ids_MQ` int64, padded; `mask_MQ` bool, true on real tokens, start and end included."""

    ids_MQ: Tensor
    mask_MQ: Tensor

    def __len__(self) -> int:
        return self.ids_MQ.shape[0]


class ClipTokenizer:
    """CLIP's byte pairs (also EVA02-CLIP's and tiny-clip's): start, words, end, padded with 0.

    `max_words` is Q. A caption that is longer loses its last words, with one warning; `truncated` counts them.

    Raises:
        ValueError: room for less than one word between start and end.
    """

    def __init__(self, pairs: SimpleTokenizer | None = None, *, max_words: int = MAX_WORDS) -> None:
        if max_words < 3:
            raise ValueError(f"max_words must be at least 3 (start, one word, end); got {max_words}")
        self.pairs = pairs or SimpleTokenizer()
        self.max_words = max_words
        self.truncated = 0

    def __call__(self, captions: Sequence[str]) -> CaptionTokens:
        """Ids and mask of M captions.

        Raises:
            DataError: a caption without a word.
        """
        ids_MQ = torch.zeros(len(captions), self.max_words, dtype=torch.int64)
        mask_MQ = torch.zeros(len(captions), self.max_words, dtype=torch.bool)
        for row, caption in enumerate(captions):
            words: list[int] = self.pairs.encode(caption)
            if not words:
                raise DataError(f"caption {row} has no words; got {caption!r}")
            if len(words) > self.max_words - 2:
                self._count_truncated(caption, len(words))
            ids = [self.pairs.sot_token_id, *words[: self.max_words - 2], self.pairs.eot_token_id]
            ids_MQ[row, : len(ids)] = torch.tensor(ids)
            mask_MQ[row, : len(ids)] = True
        return CaptionTokens(ids_MQ, mask_MQ)

    def _count_truncated(self, caption: str, num_words: int) -> None:
        if not self.truncated:
            _logger.warning(
                "captions of more than %d tokens are cut off; the first is %r (%d tokens)",
                self.max_words - 2,
                caption[:120],
                num_words,
            )
        self.truncated += 1


class FixedLengthTokenizer:
    """SigLIP's: every caption is padded to the tower's context, and the last position speaks for the sentence.

    `encode` is the library's tokenizer, `(captions, context_length) -> ids_MQ`; `pad_id` the id that it pads with.
    """

    def __init__(self, encode: Callable[[list[str], int], Any], *, context_length: int, pad_id: int) -> None:
        self.encode = encode
        self.max_words = context_length
        self.pad_id = pad_id

    def __call__(self, captions: Sequence[str]) -> CaptionTokens:
        """Ids and mask of M captions.

        Raises:
            DataError: a caption without a word.
        """
        for row, caption in enumerate(captions):
            if not caption.strip():
                raise DataError(f"caption {row} has no words; got {caption!r}")
        ids_MQ = torch.as_tensor(self.encode(list(captions), self.max_words), dtype=torch.int64)
        # padding may be spelled like the end token: the first of them is real
        mask_MQ = (ids_MQ == self.pad_id).cumsum(1) <= 1
        mask_MQ[:, -1] = True
        return CaptionTokens(ids_MQ, mask_MQ)
