"""Reading the golden files: tensors and settings computed with the authors' released code."""

import json
from pathlib import Path

from safetensors import safe_open
from torch import Tensor

FOLDER = Path(__file__).parent / "golden"


def load_golden(name: str) -> tuple[dict[str, Tensor], dict]:
    with safe_open(FOLDER / f"{name}.safetensors", "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        settings = {key: _parse(value) for key, value in (file.metadata() or {}).items()}
    return tensors, settings


def section(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Tensors under `prefix.`, in float32 where they were stored as float16."""
    return {
        key[len(prefix) + 1 :]: value.float() if value.is_floating_point() else value
        for key, value in tensors.items()
        if key.startswith(prefix + ".")
    }


def _parse(value: str):
    try:
        return json.loads(value)
    except json.JSONDecodeError:
        return value
