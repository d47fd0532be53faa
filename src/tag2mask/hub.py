"""What the cache of the Hugging Face hub on this machine says of weights that were fetched from it."""

from __future__ import annotations

from pathlib import Path

WEIGHTS = "model.safetensors", "pytorch_model.bin"
"""Files that hold weights, in the order in which timm and transformers look for them."""
OPEN_CLIP = "open_clip_model.safetensors", "open_clip_pytorch_model.bin"
"""The same for open_clip; both may lie in one repository."""


def cached_digest(repository: str, names: tuple[str, ...] = WEIGHTS) -> str | None:
    """SHA-256 of a repository's weights, by which the cache keeps them and the hub's page names them; None: they are
    not in the cache."""
    try:
        from huggingface_hub import try_to_load_from_cache
    except ImportError:
        return None
    for name in names:
        file = try_to_load_from_cache(repository, name)
        if isinstance(file, str):
            digest = Path(file).resolve().name
            return digest if len(digest) == 64 else None
    return None
