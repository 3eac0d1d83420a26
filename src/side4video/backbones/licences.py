"""The licence under which an image model's weights are published, as far as its library or its publisher says.

timm keeps a record for each of its models. open_clip has none: what the publishers of its checkpoints state is in a
table here. A guide for a model card, and no legal advice: the publisher's own page counts.
"""

from __future__ import annotations

from side4video.backbones.catalog import TINY

# the end of an open_clip name after the slash, by how it begins
_OPEN_CLIP = {
    "openai": "MIT",
    "laion": "MIT",
    "datacomp": "MIT",
    "commonpool": "MIT",
    "merged2b": "MIT",
    "metaclip": "CC-BY-NC-4.0",
    "webli": "Apache-2.0",
}


def licence_of(name: str) -> str | None:
    """The licence of a backbone by its name, or nothing where it is not known."""
    if name == TINY:
        return "MIT"
    library, _, model = name.partition(":")
    if library == "timm":
        return _of_timm(model)
    if library == "open_clip":
        tag = model.partition("/")[2]
        return next((licence for start, licence in _OPEN_CLIP.items() if tag.startswith(start)), None)
    return None


def _of_timm(model: str) -> str | None:
    from timm.models import get_pretrained_cfg

    record = get_pretrained_cfg(model, allow_unregistered=True)
    licence = None if record is None else record.license
    return None if licence in (None, "", "other") else str(licence)
