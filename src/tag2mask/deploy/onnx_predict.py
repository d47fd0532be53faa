"""Masks by ONNX Runtime: python predict.py model.onnx photo.jpg mask.png"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
known = session.get_modelmeta().custom_metadata_map
about = {key: json.loads(known[key]) for key in ("mean", "std", "long_side", "multiple")}
photo = ImageOps.exif_transpose(Image.open(sys.argv[2]))
if photo.mode[0] in "IF":  # grey of 10 to 16 bits
    deep = np.asarray(photo, np.float32)
    bits = max(8, int(deep.max()).bit_length() + 1 & ~1)
    photo = Image.fromarray(np.rint(deep * (255 / (2**bits - 1))).astype(np.uint8))
if photo.has_transparency_data:
    photo = Image.alpha_composite(Image.new("RGBA", photo.size, "white"), photo.convert("RGBA"))
photo = photo.convert("RGB")
factor, unit = (about["long_side"] or max(photo.size)) / max(photo.size), about["multiple"]
size = [max(unit, round(side * factor / unit) * unit) for side in photo.size]
pixels = np.asarray(photo.resize(size, Image.Resampling.BICUBIC), np.float32) / 255
images = ((pixels - about["mean"]) / about["std"]).transpose(2, 0, 1)[None].astype(np.float32)
logits = np.asarray(session.run(None, {"images": images})[0])[0]
scores = np.exp(logits - logits.max(0))
layers = [Image.fromarray(layer).resize(photo.size, Image.Resampling.BILINEAR) for layer in scores / scores.sum(0)]
mask = np.argmax(np.stack([np.asarray(layer) for layer in layers]), 0)  # 0 background, 1 ... the classes
Image.fromarray(mask.astype(np.uint8)).save(sys.argv[3])
