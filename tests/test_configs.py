"""Every config builds and trains one step, with tiny sizes and random weights of the right classes."""

import tarfile
from pathlib import Path

import pytest
import timm
import torch

from digits import write_digits
from pixelgen.encoders.vgg import vgg16_features
from pixelgen.fit import main
from tiny_transformers import tiny_qwen3

CONFIGS = Path(__file__).parent.parent / "configs"
WITHOUT_FILES = ("ablation_small.yaml", "demo.yaml", "demo_text.yaml")
TINY_DENOISER = [
    *("--model.denoiser", "JiT", "--model.denoiser.patch_size", "16", "--model.denoiser.hidden_size", "16"),
    *("--model.denoiser.depth", "9", "--model.denoiser.num_heads", "2", "--model.denoiser.bottleneck_dim", "4"),
]
QUICK = [
    *("--trainer.max_steps", "1", "--trainer.accelerator", "cpu", "--trainer.devices", "1", "--data.batch_size", "2"),
    *("--model.compile_blocks", "false", "--callbacks.fid", "null", "--callbacks.summary", "null"),
    *(
        "--model.sampler.num_steps",
        "2",
        "--callbacks.preview.num_images",
        "2",
        "--trainer.limit_val_batches",
        "1",
        "--data.num_workers",
        "0",
    ),
    *("--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"),
]


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits")
    write_digits(folder)
    return folder


@pytest.fixture(scope="module")
def perceptual_weights(tmp_path_factory):
    """Random VGG and vision transformer in the formats of the real files."""
    folder = tmp_path_factory.mktemp("weights")
    torch.save({f"features.{key}": value for key, value in vgg16_features().state_dict().items()}, folder / "vgg.pth")
    torch.save(timm.create_model("vit_tiny_patch16_224").state_dict(), folder / "vit.pth")
    encoder = "--model.objective.encoder"
    return [
        *("--model.objective.lpips.encoder.weights", str(folder / "vgg.pth")),
        *(f"{encoder}.weights", str(folder / "vit.pth"), f"{encoder}.model", "vit_tiny_patch16_224"),
        *(f"{encoder}.layer", "1"),
    ]


@pytest.fixture(scope="module")
def text_files(digits, tmp_path_factory):
    """A tar of captioned images, a tiny text encoder, and a network for its states."""
    folder = tmp_path_factory.mktemp("shards")
    with tarfile.open(folder / "0.tar", "w") as tar:
        for image in sorted(digits.rglob("*.png"))[:8]:
            (folder / "caption").write_text(f"a photo of a {image.parent.name}")
            tar.add(image, f"{image.stem}.png")
            tar.add(folder / "caption", f"{image.stem}.txt")
    sizes = {"patch_size": 16, "hidden_size": 16, "depth": 9, "num_heads": 2, "text_depth": 1}
    sizes |= {"bottleneck_dim": 4, "text_dim": 16, "text_length": 8}
    return [
        *("--data.shards", str(folder / "*.tar"), "--data.image_size", "32", "--data.min_side", "0"),
        *("--model.denoiser", "TextJiT"),
        *(part for name, value in sizes.items() for part in (f"--model.denoiser.{name}", str(value))),
        *("--model.text_encoder", "TextEncoder", "--model.text_encoder.model", str(tiny_qwen3())),
        *("--model.text_encoder.max_length", "8"),
        *("--trainer.accumulate_grad_batches", "1"),
    ]


def names(folder):
    return sorted(path.name for path in folder.glob("*.yaml"))


@pytest.mark.parametrize("name", names(CONFIGS))
def test_config_trains_a_step(name, digits, tmp_path, request):
    arguments = ["--config", str(CONFIGS / name), "--run", str(tmp_path / "run"), *QUICK]
    if name == "demo_text.yaml":
        arguments += ["--callbacks.geneval.num_prompts", "6"]
    if name.startswith(("openmoji", "text")):
        arguments += request.getfixturevalue("text_files")
    elif name not in WITHOUT_FILES:
        arguments += ["--data.root", str(digits), "--data.image_size", "32"]
    if name.startswith(("folder", "imagenet")):
        arguments += TINY_DENOISER
    if name.startswith(("imagenet", "text")):
        arguments += request.getfixturevalue("perceptual_weights")
    cli = main(arguments)
    assert cli.trainer.global_step == 1
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").exists()
    assert list((tmp_path / "run" / "previews").glob("*.png"))


@pytest.mark.parametrize("name", [name for name in names(CONFIGS / "overlay") if not name.startswith("text")])
def test_overlay_trains_a_step(name, tmp_path):
    configs = ["--config", str(CONFIGS / "demo.yaml"), "--config", str(CONFIGS / "overlay" / name)]
    cli = main([*configs, "--run", str(tmp_path / "run"), *QUICK])
    assert cli.trainer.global_step == 1
    if name == "no_perceptual.yaml":
        assert cli.model.objective.lpips is None
        assert "loss/features" not in cli.trainer.callback_metrics


@pytest.mark.parametrize("path", [*CONFIGS.glob("*.yaml"), *CONFIGS.glob("overlay/*.yaml")], ids=lambda path: path.stem)
def test_config_is_short_and_says_what_it_is(path):
    lines = path.read_text().splitlines()
    assert lines[0].startswith("# ")
    assert len(lines) <= 40
