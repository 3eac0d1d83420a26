from __future__ import annotations

import pytest
import torch

from side4video.backbones.trunk import LayerTokens, patch_grid
from side4video.errors import BackboneError
from unit.backbones.toy import PREFIX


def test_the_size_a_model_was_made_for_fits_whatever_its_patches() -> None:
    assert patch_grid((384, 385), (14, 14), native=(384, 385)) == (27, 27)
    with pytest.raises(BackboneError, match="multiples of the patch size 14x14 and the model's own 224x224"):
        patch_grid((384, 385), (14, 14), native=(224, 224))


@pytest.mark.parametrize("has_class_token", [True, False])
def test_layer_tokens_views(has_class_token: bool) -> None:
    tokens = torch.randn(2, 3, PREFIX + 20, 6)
    layer = LayerTokens(1, tokens, PREFIX, has_class_token, (4, 5))
    assert layer.patches_BTND.data_ptr() == tokens[:, :, PREFIX:].data_ptr()
    expected = tokens[:, :, 0] if has_class_token else tokens[:, :, PREFIX:].mean(dim=2)
    assert torch.equal(layer.class_BTD, expected)
