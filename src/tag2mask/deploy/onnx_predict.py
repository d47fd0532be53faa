"""Masks by ONNX Runtime: python predict.py model.onnx photo.jpg mask.png"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
about = {
    key: json.loads(value)
    for key, value in session.get_modelmeta().custom_metadata_map.items()
    if value[:1] in '["0123456789'
}
photo = ImageOps.exif_transpose(Image.open(sys.argv[2])).convert("RGB")
factor, unit = (about["long_side"] or max(photo.size)) / max(photo.size), about["multiple"]
size = [max(unit, round(side * factor / unit) * unit) for side in photo.size]
pixels = np.asarray(photo.resize(size, Image.Resampling.BICUBIC), np.float32) / 255
images = ((pixels - about["mean"]) / about["std"]).transpose(2, 0, 1)[None].astype(np.float32)
logits = np.asarray(session.run(None, {"images": images})[0])[0]
scores = np.exp(logits - logits.max(0))
layers = [Image.fromarray(layer).resize(photo.size, Image.Resampling.BILINEAR) for layer in scores / scores.sum(0)]
mask = np.argmax(np.stack([np.asarray(layer) for layer in layers]), 0)  # 0 background, 1 ... the classes
Image.fromarray(mask.astype(np.uint8)).save(sys.argv[3])
