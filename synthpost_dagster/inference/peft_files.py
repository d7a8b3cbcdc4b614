"""The files of a PEFT adapter. PEFT's own constants would import torch."""

import hashlib
import json
from pathlib import Path

CONFIGURATION, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def adapter_digest(folder: Path) -> str:
    """16 hex digits over an adapter's weights and configuration, with lists sorted: PEFT writes them in any order."""
    config = json.loads((folder / CONFIGURATION).read_text(encoding="utf-8"))
    ordered = {name: sorted(value, key=str) if isinstance(value, list) else value for name, value in config.items()}
    digest = hashlib.sha256((folder / WEIGHTS).read_bytes())
    digest.update(json.dumps(ordered, sort_keys=True).encode())
    return digest.hexdigest()[:16]
