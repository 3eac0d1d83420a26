from __future__ import annotations

from dataclasses import replace

import yaml

from side4video.config.load import load_settings
from side4video.hub.card import SHOWN_CLASSES, CardFacts, model_card

FACTS = CardFacts(
    repository="me/my-run",
    settings=load_settings(None, {"data.train": "/home/me/gym clips", "side.width": 64, "data.num_frames": 12}),
    backbone={"name": "timm:vit_small_patch14_dinov2.lvd142m", "hash": "0123456789abcdef9999"},
    backbone_licence="apache-2.0",
    trained_parameters=1_234_567,
    weight_bytes=5_000_000,
    class_names=("sit", "stand"),
    metrics={"best": {"epoch": 3, "val_top1": 0.91234}, "history": []},
    provenance={"train_videos": 321, "hardware": {"gpus": ["Card 9000"], "processor": "CPU"}},
    peak_bytes=3 * 2**30,
    licence="mit",
)


def front_matter(card: str) -> dict[str, object]:
    _, block, _ = card.split("---\n", 2)
    return yaml.safe_load(block)


def test_the_front_matter_is_what_the_hub_reads() -> None:
    values = front_matter(model_card(FACTS))
    assert values["license"] == "mit"
    assert (values["library_name"], values["pipeline_tag"]) == ("side4video", "video-classification")
    (entry,) = values["model-index"]
    (result,) = entry["results"]
    assert result["metrics"] == [{"type": "val_top1", "value": 0.91234}]
    assert result["dataset"]["name"] == "gym clips"


def test_the_page_says_what_a_user_must_know() -> None:
    card = model_card(FACTS)
    for text in (
        "A classifier of 2 actions", 'side4video.load("hf:me/my-run")', "side4video predict hf:me/my-run video.mp4",
        "| best val\\_top1 | 0.9123 |", "| trained parameters | 1,234,567 |", "| side.safetensors | 5.0 MB |",
        "3.00 GiB", "| training videos | 321 |", "Card 9000", "apache-2.0", "`0123456789abcdef`", "sit, stand",
        "gets one of them too", "| frames of a clip | 12 |",
    ):  # fmt: skip
        assert text in card or text.replace("| side", "| size of side") in card, text
    assert "/home/me" not in card


def test_what_is_not_known_is_said_to_be_so() -> None:
    bare = replace(FACTS, metrics={}, provenance={}, peak_bytes=None, licence=None, backbone_licence=None)
    card = model_card(bare)
    assert "No validation result is recorded" in card
    assert "not known to side4video" in card
    assert "Licence of what was trained: not stated" in card
    assert "license" not in front_matter(card)
    assert "model-index" not in front_matter(card)
    assert "GiB" not in card


def test_what_comes_from_the_run_is_text_whatever_stands_in_it() -> None:
    hostile = ("<script>alert(1)</script>", "[click](http://x)", "two\nlines", "a|b")
    card = model_card(replace(FACTS, class_names=hostile, backbone={"name": "x`y\n# z", "hash": "h"}))
    assert "<script>" not in card
    assert "\\<script\\>" in card
    assert "[click](" not in card
    assert "two lines" in card
    assert "\n# z" not in card
    assert "x'y" in card


def test_many_classes_are_counted() -> None:
    names = tuple(f"class {number}" for number in range(SHOWN_CLASSES + 7))
    card = model_card(replace(FACTS, class_names=names))
    assert "and 7 more in `classes.json`" in card
    assert f"class {SHOWN_CLASSES}," not in card


def test_a_retrieval_run_is_used_another_way() -> None:
    card = model_card(replace(FACTS, settings=load_settings(None, {"task": "retrieval"}), class_names=()))
    assert "side4video index hf:me/my-run footage/" in card
    assert "text-video-retrieval" in front_matter(card)["tags"]
    assert "## Classes" not in card
