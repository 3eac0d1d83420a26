"""Compiled side blocks compute what plain ones do, in every memory mode."""

from __future__ import annotations

import pytest
import torch

from side4video.side.network import SideNetwork
from side4video.side.spec import SideSpec

B, T, WIDTH, D, PATCH = 3, 5, 16, 24, 6


# Dynamo looks at .grad of what it is given, whether that is a leaf or not
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
@pytest.mark.parametrize("memory", ["fast", "balanced", "smallest"])
def test_compiled_blocks_equal_plain_ones(memory: str, make_inputs) -> None:
    calls: list[int] = []

    def backend(graph: torch.fx.GraphModule, _: object) -> object:
        calls.append(len(graph.graph.nodes))
        return graph.forward

    def make() -> SideNetwork:
        network = SideNetwork(
            SideSpec(width=WIDTH, num_heads=2),
            backbone_width=D,
            depth=2,
            grid_YX=(3, 4),
            patch_size=(PATCH, PATCH),
            memory=memory,  # type: ignore[arg-type]
            generator=torch.Generator().manual_seed(0),
        )
        network.slice_frames = T
        return network.double().train()

    found = []
    for compiled in (False, True):
        network = make()
        if compiled:
            network.compile_blocks(backend=backend)
        clip_BTCHW, layers = make_inputs(2, batch=B)
        for layer in layers:
            object.__setattr__(layer, "tokens_BTAD", layer.tokens_BTAD.double())
        out = network(clip_BTCHW.double(), iter(layers)).frames_BTS
        out.square().sum().backward()
        found.append((out.detach(), {name: p.grad for name, p in network.named_parameters()}))
    torch._dynamo.reset()
    assert calls, "nothing was compiled"
    torch.testing.assert_close(found[1][0], found[0][0], atol=1e-10, rtol=1e-10)
    for name, gradient in found[0][1].items():
        torch.testing.assert_close(found[1][1][name], gradient, atol=1e-8, rtol=1e-8, msg=name)
