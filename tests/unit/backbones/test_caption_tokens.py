"""Captions to ids: the released code's values, cut captions, empty ones, and towers of fixed length."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch

from side4video.backbones.caption_tokens import ClipTokenizer, FixedLengthTokenizer
from side4video.backbones.create_text import create_tokenizer
from side4video.errors import BackboneError, DataError, MissingExtraError


def test_ids_and_masks_equal_the_released_code(parity_dir: Path) -> None:
    cases = json.loads((parity_dir / "tokens.json").read_text())["cases"]
    assert len(cases) == 5
    for case in cases:
        tokens = ClipTokenizer(max_words=case["max_words"])([case["caption"]])
        assert tokens.ids_MQ.tolist() == [case["input_ids"]]
        assert tokens.mask_MQ.long().tolist() == [case["input_mask"]]


def test_long_captions_are_cut_with_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = ClipTokenizer(max_words=5)
    with caplog.at_level(logging.WARNING):
        tokens = tokenizer(["a red circle moves to the left", "two", "a small blue square on a wall"])
    assert tokenizer.truncated == 2
    assert len(caplog.records) == 1
    assert "more than 3 tokens are cut off; the first is 'a red circle" in caplog.text
    assert tokens.ids_MQ.shape == tokens.mask_MQ.shape == (3, 5)
    assert tokens.ids_MQ[[0, 2], -1].tolist() == [tokenizer.pairs.eot_token_id] * 2
    assert tokens.mask_MQ.sum(1).tolist() == [5, 3, 5]
    assert len(tokens) == 3


@pytest.mark.parametrize("caption", ["", "   ", "\n\t"])
def test_empty_captions_are_an_error(caption: str) -> None:
    with pytest.raises(DataError, match="caption 1 has no words"):
        ClipTokenizer()(["a dog", caption])
    with pytest.raises(DataError, match="caption 1 has no words"):
        FixedLengthTokenizer(lambda texts, n: torch.ones(len(texts), n), context_length=4, pad_id=1)(["a dog", caption])


def test_max_words_has_a_least_value() -> None:
    with pytest.raises(ValueError, match=r"max_words must be at least 3 .*got 2"):
        ClipTokenizer(max_words=2)


def test_fixed_length_marks_words_first_padding_and_last() -> None:
    table = {"a dog": [7, 8, 1, 1, 1, 1], "six words in here": [3, 4, 5, 6, 9, 1]}
    tokenizer = FixedLengthTokenizer(
        lambda texts, n: torch.tensor([table[t] for t in texts]), context_length=6, pad_id=1
    )
    tokens = tokenizer(list(table))
    assert tokens.ids_MQ.tolist() == list(table.values())
    assert tokens.mask_MQ.long().tolist() == [[1, 1, 1, 0, 0, 1], [1, 1, 1, 1, 1, 1]]


def test_tokenizers_by_name() -> None:
    assert create_tokenizer("open_clip:ViT-B-16/openai").max_words == 32
    assert create_tokenizer("open_clip:MobileCLIP-S1/datacompdr").max_words == 77
    tiny = create_tokenizer("tiny-clip", max_words=99)
    assert tiny.max_words == 48
    caption = "a small red circle moves to the left over a dark background"
    assert int(tiny([caption]).mask_MQ.sum()) == len(caption.split()) + 2
    with pytest.raises(BackboneError, match="has no text tower"):
        create_tokenizer("timm:vit_base_patch16_224")


def test_siglip_needs_a_package_that_says_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError("No module named 'transformers'")

    monkeypatch.setattr("side4video.backbones.create_text.open_clip.get_tokenizer", missing)
    with pytest.raises(MissingExtraError, match=r"side4video\[siglip\]"):
        create_tokenizer("open_clip:ViT-B-16-SigLIP/webli")
