"""What was predicted before this benchmark was written, ViT-B/16 batch 32 and ViT-L/14 batch 16, 8 frames.

Simulated then as now, by another program: image models in float32 with 16-bit arithmetic for every peer, so that the
residual stream was float32.
"""

from __future__ import annotations

from dataclasses import dataclass

# image model, batch size, frames
SMALL, LARGE = ("ViT-B/16", 32, 8), ("ViT-L/14", 16, 8)


@dataclass(frozen=True)
class Prediction:
    """GiB and FLOPs x frozen forward; `None` where nothing was predicted."""

    method: str
    way: str
    gib_b: float | None = None
    gib_l: float | None = None
    flops_b: float | None = None


PREDICTIONS = (
    Prediction("full fine-tuning", "plain", 21.2, 38.0, 3.0),
    Prediction("full fine-tuning", "checkpointed", 4.5, 7.1, 3.7),
    Prediction("LoRA (peft)", "plain", 17.1, 29.7, 2.1),
    Prediction("LoRA (peft)", "checkpointed", 4.4, 5.7, 2.8),
    Prediction("ST-Adapter-style", "plain", 16.5, 28.1, 2.3),
    Prediction("ST-Adapter-style", "checkpointed", 3.5, 4.3, 3.1),
    Prediction("AIM-style", "plain", 26.4, 45.9, 3.2),
    Prediction("AIM-style", "checkpointed", 5.6, 7.6, 4.6),
    Prediction("EVL-style", "plain", 15.6, 29.1, 1.8),
    Prediction("linear probe", "plain", 1.6, 2.2, 1.0),
    Prediction("attentive probe", "plain", 1.7, 2.3, 1.0),
    Prediction("Side4Video, released layout", "plain", 11.4, 23.2, 1.8),
    Prediction("Side4Video, released layout", "unfused attention", 14.6, 32.2),
    Prediction("Side4Video (ours)", "fast", 9.6, 20.2),
    Prediction("Side4Video (ours)", "balanced", 2.5, 4.9, 1.95),
    Prediction("Side4Video (ours)", "lean", 1.35, 3.0),
    Prediction("Side4Video (ours)", "smallest", 0.9, 2.1),
    Prediction("Side4Video light (ours)", "fast", 3.7, 7.2),
    Prediction("Side4Video light (ours)", "balanced", 1.3, 2.4, 1.2),
    Prediction("Side4Video light (ours)", "lean", 0.8, 1.5),
)
