"""Text models from the command line: trained, resumed, loaded, exported, started from; what does not fit is refused."""

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

import pixelgen
from pixelgen.cli.training import CLI
from pixelgen.data import Captions, ShardData
from pixelgen.encoders.text import TextEncoder
from pixelgen.export import export
from pixelgen.fit import main
from pixelgen.flow import Euler, to_uint8
from pixelgen.sample import main as sample
from shard_files import picture, write_tar
from tiny_transformers import tiny_qwen3

SIZES = {"patch_size": 8, "hidden_size": 16, "depth": 2, "num_heads": 2, "text_depth": 1}
SIZES |= {"bottleneck_dim": 4, "text_dim": 16, "text_length": 12}
QUIET = [
    *("--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false", "--trainer.precision", "32"),
    *("--trainer.enable_model_summary", "false", "--callbacks.summary", "null", "--trainer.limit_val_batches", "1"),
]
DENOISER = [
    *("--model.denoiser", "TextJiT"),
    *(part for name, value in SIZES.items() for part in (f"--model.denoiser.{name}", str(value))),
]
DATA = [*("--data", "ShapesData", "--data.batch_size", "4", "--data.length", "16", "--data.max_objects", "2")]
CLASSES = [
    *("--model.denoiser", "JiT", "--model.denoiser.hidden_size", "16", "--model.denoiser.depth", "1"),
    *("--model.denoiser.num_heads", "2", "--model.denoiser.in_context_len", "0"),
]
CAPTIONS = ["--data.captions", "true"]
SAMPLING = ["--model.sampler", "Euler", "--model.sampler.num_steps", "2", "--model.sampler.guidance", "2"]
GUIDED = Euler(num_steps=2, guidance=2.0)


def encoder(*options):
    path = ["--model.text_encoder.model", str(tiny_qwen3()), "--model.text_encoder.max_length", "12"]
    return ["--model.text_encoder", "TextEncoder", *path, *options]


def text_run(folder, *arguments):
    preview = ["--callbacks.preview.num_images", "2", "--callbacks.checkpoint.every_n_steps", "3"]
    return main(
        [*DATA, *CAPTIONS, *QUIET, *DENOISER, *encoder(), *SAMPLING, *preview, "--run", str(folder), *arguments]
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text") / "run"
    text_run(folder, "--trainer.max_steps", "5")
    return folder


def weights(folder):
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def test_resuming_is_bit_equal_to_not_stopping(finished, tmp_path):
    text_run(tmp_path / "run", "--trainer.max_steps", "3")
    main(["--ckpt_path", str(tmp_path / "run"), "--trainer.max_steps", "5"])
    assert (tmp_path / "run" / "previews" / "step_0000005.png").exists()
    a, b = weights(finished), weights(tmp_path / "run")
    assert a.keys() == b.keys()
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert not any("text_encoder" in key for key in a)


def test_a_run_and_its_export_load_with_their_encoder(finished, tmp_path, monkeypatch):
    run = pixelgen.load(finished, device="cpu")
    with monkeypatch.context() as patch:
        patch.setattr(TextEncoder, "__init__", None)  # exporting needs no encoder
        export(finished, tmp_path / "export")
    exported = pixelgen.load(tmp_path / "export", device="cpu")
    images = [model.sample("a photo of a red circle", seeds=1, sampler=GUIDED) for model in (run, exported)]
    assert torch.equal(*images)
    assert run.conditioner.encoder.width == 16


def test_the_next_stage_starts_from_weights_at_another_size(finished, tmp_path):
    arguments = [*DATA, *CAPTIONS, *QUIET, *DENOISER, *encoder(), "--init_from", str(finished)]
    cli = CLI([*arguments, "--run", str(tmp_path / "next"), "--data.image_size", "64"])
    state, expected = cli.model.denoiser.state_dict(), pixelgen.load(finished).denoiser.state_dict()
    assert state["pos_embed"].shape[1] == 4 * expected["pos_embed"].shape[1]
    assert all(torch.equal(state[key], expected[key]) for key in state if key != "pos_embed")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([*DENOISER, *encoder()], "TextJiT learns from captions, but the data has none"),
        ([*CAPTIONS, *DENOISER], "TextJiT takes prompts through a text encoder, which this model has not: give it one"),
        ([*CAPTIONS, *encoder(), *CLASSES], "JiT takes no prompts: leave text_encoder out"),
        ([*CAPTIONS, *DENOISER, *encoder("--model.text_encoder.max_length", "8")], "gives 8 embeddings of width 16"),
        ([*CAPTIONS, *DENOISER, *encoder("--model.text_encoder.zero_padding", "true")], "zero_padding is True"),
        ([*CAPTIONS, *DENOISER, *encoder("--model.text_encoder.model", "/nowhere")], "cannot load AutoModel from"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_sentence(arguments, message, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(SystemExit):
        main([*DATA, *QUIET, *arguments, "--run", str(tmp_path / "run")])
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(error) == 1
    assert message in error[0]


def test_prompts_from_the_command_line_and_a_file(finished, tmp_path):
    (tmp_path / "prompts.txt").write_text("a photo of a red circle\na photo of two stars, a square and a ring\n")
    sets = [
        sample(
            [str(finished), "--prompts", *prompts, "--num_images", "3", "--seed", "5", "--precision", "32-true", *more]
        )
        for prompts, more in (
            ((tmp_path / "prompts.txt").read_text().splitlines(), []),
            ([str(tmp_path / "prompts.txt")], []),
            ([str(tmp_path / "prompts.txt")], ["--negative", "a photo of a blue ring"]),
        )
    ]
    assert sets[0] == sets[1]  # the same set, whichever way it was asked for
    assert json.loads((sets[0] / "settings.json").read_text())["text_encoder"]["max_length"] == 12
    model = pixelgen.load(finished, device="cpu")
    prompts = (tmp_path / "prompts.txt").read_text().splitlines()
    for folder, negative in zip(sets[1:], ("", "a photo of a blue ring"), strict=True):
        padded = [prompts[i] for i in (0, 1, *[0] * 30)]
        images = to_uint8(model.sample(padded, [5, 6, *[7] * 30], sampler=GUIDED, negative=negative))
        for i in range(3):
            with Image.open(folder / f"{i:06d}.png") as image:
                assert np.array_equal(np.array(image), images[i].permute(1, 2, 0).numpy())
                assert json.loads(image.text["pixelgen"])["condition"] == padded[i]
    with Image.open(sets[0] / "grid.png") as image:  # with room for the prompts
        assert image.width == 2 + 3 * 130
        assert image.height > 2 + 130 + 20


def test_text_models_are_asked_by_text(finished, capsys):
    for arguments in ([], ["--classes", "3"]):
        with pytest.raises(SystemExit):
            sample([str(finished), *arguments])
        error = capsys.readouterr().err.splitlines()[-1]
        assert error == "error: this model takes text: use --prompts, not --classes"


def test_a_negative_prompt_without_guidance_is_refused_before_a_folder_is_made(finished, tmp_path, capsys):
    with pytest.raises(SystemExit):
        sample(
            [str(finished), "--prompts", "a", "--negative", "b", "--sampler", "Euler", "--to", str(tmp_path / "set")]
        )
    assert "a negative prompt does nothing without guidance" in capsys.readouterr().err
    assert not (tmp_path / "set").exists()


def test_shards_of_captions_train_with_prompts_of_their_own(tmp_path):
    write_tar(tmp_path / "0.tar", [(str(i), {"png": picture(i), "txt": f"a photo {i}"}) for i in range(3)])
    data = ["--data", "ShardData", "--data.shards", str(tmp_path / "0.tar"), "--data.image_size", "8"]
    data += ["--data.captions", "Captions", "--data.captions.prefix_probability", "0", "--data.batch_size", "2"]
    denoiser = [*DENOISER, "--model.denoiser.patch_size", "4", *encoder(), *SAMPLING]
    run = ["--run", str(tmp_path / "run"), "--trainer.max_steps", "1", "--callbacks.preview.num_images", "2"]
    cli = main([*data, *QUIET, *denoiser, *run])
    assert cli.datamodule.captions
    assert cli.datamodule.prompts(4) == ["a photo 0", "a photo 1", "a photo 2", "a photo 0"]
    assert (tmp_path / "run" / "previews" / "step_0000001.png").exists()


def test_a_folder_of_captioned_images_trains(tmp_path):
    for i in range(3):
        (tmp_path / f"{i}.png").write_bytes(picture(i))
        (tmp_path / f"{i}.txt").write_text(f"a photo {i}")
    data = ["--data", "ImageFolderData", "--data.root", str(tmp_path), "--data.image_size", "8"]
    data += ["--data.captions", "Captions", "--data.captions.prefix_probability", "0", "--data.batch_size", "2"]
    denoiser = [*DENOISER, "--model.denoiser.patch_size", "4", *encoder(), *SAMPLING]
    run = ["--run", str(tmp_path / "run"), "--trainer.max_steps", "1", "--callbacks.preview.num_images", "2"]
    cli = main([*data, *QUIET, *denoiser, *run])
    assert cli.datamodule.prompts(2) == ["a photo 0", "a photo 2"]
    assert (tmp_path / "run" / "previews" / "step_0000001.png").exists()


def test_prompts_of_shards_are_read_once(tmp_path):
    """A server that does not answer when a later preview is due ends no run."""
    path = write_tar(tmp_path / "0.tar", [(str(i), {"png": picture(i), "txt": f"photo {i}"}) for i in range(3)])
    data = ShardData(str(path), image_size=8, captions=Captions(prefix_probability=0))
    assert data.prompts(4) == ["photo 0", "photo 1", "photo 2", "photo 0"]
    path.unlink()
    assert data.prompts(4) == ["photo 0", "photo 1", "photo 2", "photo 0"]
    assert data.prompts(2) == ["photo 0", "photo 1"]


def embeddings():
    file = io.BytesIO()
    np.save(file, np.zeros((12, 16), np.float32))
    return file.getvalue()


def test_shards_without_captions_have_no_prompts(tmp_path):
    write_tar(tmp_path / "0.tar", [("0", {"png": picture(0), "npy": embeddings()})])
    data = ShardData(str(tmp_path / "0.tar"), image_size=8, text_states=True)
    assert data.captions
    with pytest.raises(ValueError, match="no captions that could serve as prompts"):
        data.prompts(1)
