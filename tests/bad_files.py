"""A folder of runs, images and files, sound and damaged, for bad input to name."""

import json
import shutil
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from pixelgen.export import export
from pixelgen.models import JiT
from shard_files import picture, write_shards

CONFIGS = {
    "empty": "",
    "list": "- 1\n- 2\n",
    "text": "hello\n",
    "tabs": "model:\n\tdenoiser: x\n",
    "nomodel": "data: {}\n",
    "modelnull": "model: null\n",
    "modellist": "model: [1, 2]\n",
    "wrongtypes": "model: {class_path: pixelgen.PixelGen, init_args: {denoiser: 5}}\n",
    "unknown": "model: {denoiser: {class_path: pixelgen.models.JiT, init_args: {hiden_size: 5}}}\n",
}


def flip(path):
    """Change one byte in the middle of a file, in the weights."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 16
    path.unlink()  # a link to a numbered checkpoint
    path.write_bytes(content)


def run_like(run, folder):
    """A copy of the config and the last checkpoint of a run."""
    (folder / "checkpoints").mkdir(parents=True)
    shutil.copyfile(run / "checkpoints/last.ckpt", folder / "checkpoints/last.ckpt")
    shutil.copyfile(run / "config.yaml", folder / "config.yaml")
    return folder


def make_bad_files(run, base: Path):
    """Fill a folder; `run` is a sound one."""
    run_like(run, base / "run")
    export(base / "run", base / "export")
    shutil.copytree(base / "export", base / "flipped_export")
    flip(base / "flipped_export/model.safetensors")
    flip(run_like(run, base / "flipped") / "checkpoints/last.ckpt")
    (run_like(run, base / "noconfig") / "config.yaml").unlink()
    for name, text in CONFIGS.items():
        (run_like(run, base / name) / "config.yaml").write_text(text)
    for number in range(4):
        path = base / f"images/{number % 2}/{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(40 * number, (32, 32)))
    for name in ("list", "scalar"):
        (base / f"{name}.yaml").write_text({"list": "- 1\n", "scalar": "hello\n"}[name])
    (base / "image.png").write_bytes(picture(9))
    (base / "file.txt").write_text("a red circle\n")
    (base / "text.ckpt").write_text("half of it")
    (base / "half.ckpt").write_bytes((run / "checkpoints/last.ckpt").read_bytes()[:5000])
    states = {"five": {"state_dict": 5}, "numbers": {"state_dict": {5: torch.zeros(1)}}, "list": [1]}
    states |= {"words": {"state_dict": {"denoiser.a": "b"}}, "empty": {}}
    for name, state in states.items():
        torch.save(state, base / f"{name}.ckpt")
    network = JiT(32, 16, hidden_size=16, depth=1, num_heads=2, num_classes=3, in_context_len=0).state_dict()
    torch.save({"state_dict": {f"ema_denoiser.{key}": value for key, value in network.items()}}, base / "published.pth")
    save_file({"a": torch.zeros(1)}, base / "foreign.safetensors")
    (base / "broken.npz").write_bytes(b"PK\x03\x04 and no more")
    np.savez(base / "other.npz", a=np.zeros(3))
    (base / "empty_folder").mkdir()
    write_shards(base / "shards", [8], captions=True)
    (base / "prompts").mkdir()
    (base / "prompts/0.txt").write_text("a red circle\n")
    for name, content in (("set_list", [1]), ("set_text", "hello"), ("other_set", {"seed": 7})):
        (base / name).mkdir()
        (base / name / "settings.json").write_text(json.dumps(content))
