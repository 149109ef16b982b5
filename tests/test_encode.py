"""Text embeddings written into shards: those of encoding on the fly, trained on, and refused where they do not fit."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load

from pixelgen.data import Captions, ShardData
from pixelgen.data.tars import SkipCounts, read_shard
from pixelgen.encode import encode, main
from pixelgen.encoders import TextEncoder
from pixelgen.files import sole_writer
from pixelgen.fit import main as fit
from shard_files import picture, write_tar
from test_text_runs import DENOISER, QUIET, SAMPLING, encoder
from tiny_transformers import tiny_qwen3

TEXTS = ["a red circle", "a photo of a blue square", "green", "a circle and a square", "of"]


@pytest.fixture
def shards(tmp_path):
    """Two tars of captioned images, with a damaged one, and one without a caption."""
    folder = tmp_path / "shards"
    folder.mkdir()
    samples = [(f"{i}", {"png": picture(i), "txt": text, "cls": "7"}) for i, text in enumerate(TEXTS)]
    write_tar(folder / "0.tar", [*samples[:3], ("bad", {"png": b"?", "txt": "a"})])
    write_tar(folder / "1.tar", [*samples[3:], ("mute", {"png": picture(9)})])
    return folder


def qwen(**options):
    return TextEncoder(str(tiny_qwen3()), **{"max_length": 12, **options})


def command(shards, to, *options):
    flags = ["--text_encoder", "TextEncoder", "--text_encoder.model", str(tiny_qwen3())]
    return main([str(shards), "--to", str(to), *flags, "--text_encoder.max_length", "12", *options])


def test_embeddings_that_overflowed_are_refused(shards, tmp_path, capsys, monkeypatch):
    def overflow(self, prompts):
        states = original(self, prompts)
        states[[text == TEXTS[3] for text in prompts], 0, 0] = float("inf")
        return states

    original = TextEncoder.forward
    monkeypatch.setattr(TextEncoder, "forward", overflow)
    with pytest.raises(SystemExit):
        command(shards, tmp_path / "encoded")
    said = capsys.readouterr().err.splitlines()[-1]
    assert "text embeddings of 3 in" in said
    assert "1.tar are not finite (NaN or infinite): give --text_encoder.dtype bfloat16 or float32" in said
    assert not (tmp_path / "encoded").exists()


def samples(folder):
    return [sample for shard in sorted(folder.glob("*.tar")) for sample in read_shard(str(shard), SkipCounts())]


def test_embeddings_are_those_of_encoding_on_the_fly(shards, tmp_path, capsys):
    to = tmp_path / "encoded"
    encoded = command(shards, to, "--batch_size", "2")
    assert (encoded.shards, encoded.samples, encoded.kept) == (2, 5, 0)
    assert sorted(path.name for path in to.iterdir()) == ["0.tar", "1.tar", "text_states.json"]
    copies, network = samples(to), qwen()
    assert [(sample.key, sample.files["txt"].decode()) for sample in copies] == list(zip("01234", TEXTS, strict=True))
    assert {tuple(sample.files) for sample in copies} == {("png", "txt", "cls", "safetensors")}
    embeddings = torch.stack([load(sample.files["safetensors"])["text"] for sample in copies])
    assert embeddings.dtype == torch.bfloat16
    assert torch.allclose(embeddings.float(), network(TEXTS).float(), atol=0.02)
    assert not torch.allclose(embeddings[0].float(), embeddings[1].float(), atol=0.2)
    out = capsys.readouterr().out
    assert "5 samples in 2 shards written: " in out
    assert "2 were left out:" in out
    assert "bad in" in out
    assert "corrupt image" in out
    assert "mute in" in out
    record = json.loads((to / "text_states.json").read_text())
    assert record.items() >= {"max_length": 12, "width": 16, "dtype": "bfloat16", "zero_padding": False}.items()
    assert record["weights"].startswith("sha256:")


def test_of_several_captions_the_one_that_the_first_pass_reads(tmp_path):
    texts = [["a red circle", "a blue square"], ["green", "of"]]
    files = [(str(i), {"png": picture(i), "json": json.dumps({"caption": some})}) for i, some in enumerate(texts * 4)]
    write_tar(tmp_path / "0.tar", [(f"{n}{key}", f) for n, (key, f) in enumerate(files)])
    captions = Captions(prefix_probability=0.5)
    encode([str(tmp_path / "0.tar")], to=tmp_path / "to", text_encoder=qwen(dtype="float32"), captions=captions, seed=3)
    data = ShardData(str(tmp_path / "0.tar"), image_size=8, batch_size=8, length=8, captions=captions, seed=3)
    expected = set(next(iter(data.train_dataloader()))["caption"])
    found = []
    for sample in samples(tmp_path / "to"):
        (tmp_path / "x").write_bytes(sample.files["safetensors"])
        with safe_open(tmp_path / "x", "pt") as file:
            found.append(file.metadata()["caption"])
            assert torch.allclose(file.get_tensor("text"), qwen(dtype="float32")([found[-1]])[0], atol=1e-5)
    assert set(found) == expected
    assert len(expected) > 4


def test_an_interrupted_command_goes_on_and_used_targets_are_refused(shards, tmp_path, capsys):
    class Stops(TextEncoder):
        def forward(self, prompts):
            if TEXTS[3] in prompts:
                raise KeyboardInterrupt
            return super().forward(prompts)

    to = tmp_path / "encoded"
    with pytest.raises(KeyboardInterrupt):
        encode([str(shards)], to=to, text_encoder=Stops(str(tiny_qwen3()), max_length=12))
    assert not to.exists()
    first = (tmp_path / "encoded.unfinished" / "0.tar").stat()
    encoded = command(shards, to)
    assert (encoded.shards, encoded.samples, encoded.kept) == (1, 2, 1)
    assert (to / "0.tar").stat().st_mtime_ns == first.st_mtime_ns
    assert len(samples(to)) == 5
    with pytest.raises(SystemExit):
        command(shards, to)
    assert "encoded exists already: give another folder with --to" in capsys.readouterr().err
    with pytest.raises(KeyboardInterrupt):
        encode([str(shards)], to=tmp_path / "other", text_encoder=Stops(str(tiny_qwen3()), max_length=12))
    other = encode([str(shards)], to=tmp_path / "other", text_encoder=qwen(max_length=8))
    assert other.kept == 0  # other settings start anew


def run(shards, folder, *options):
    data = ["--data", "ShardData", "--data.shards", str(shards), "--data.image_size", "8", "--data.text_states", "true"]
    data += ["--data.batch_size", "2", "--data.length", "4", "--callbacks.preview.num_images", "2"]
    denoiser = [*DENOISER, "--model.denoiser.patch_size", "4", *encoder(), *SAMPLING]
    return fit([*data, *QUIET, *denoiser, "--run", str(folder), "--trainer.max_steps", "1", *options])


def test_training_on_embeddings_is_training_on_their_captions(shards, tmp_path):
    """With half of the prompts dropped, which stand for the empty one."""
    to = tmp_path / "encoded"
    encode([str(shards)], to=to, text_encoder=qwen(dtype="float32"))
    single = ["--model.text_encoder.dtype", "float32", "--model.condition_dropout", "0.5", "--data.batch_size", "4"]
    single += ["--model.optimizer", "torch.optim.SGD", "--model.optimizer.lr", "1", "--trainer.max_steps", "4"]
    cli = run(to, tmp_path / "a", *single)
    plain = ["--data.text_states", "false", "--data.captions", "Captions", "--data.captions.prefix_probability", "0"]
    others = [run(to, tmp_path / "b", *single, *more) for more in (plain, ["--model.condition_dropout", "0"])]
    weights, same, undropped = (each.model.denoiser.state_dict() for each in (cli, *others))
    assert all(torch.allclose(weights[name], same[name], atol=1e-5) for name in weights)
    assert max(float((weights[name] - undropped[name]).abs().max()) for name in weights) > 1e-3
    batch, drop = next(iter(cli.datamodule.train_dataloader())), torch.tensor([True, False, False, True])
    conditioner = cli.model.conditioner
    embeddings = conditioner.drop(conditioner.from_batch(batch), drop)
    assert torch.equal(embeddings[drop], conditioner.encoder([""]).expand(2, 12, 16))
    assert torch.equal(embeddings[~drop], batch["text"][~drop])
    assert cli.datamodule.text_shape == (12, 16)
    assert cli.datamodule.prompts(2) == TEXTS[:2]
    assert (tmp_path / "a" / "previews" / "step_0000004.png").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"max_length": 8},
            "the shards hold 8 text embeddings of width 16, but the denoiser is built for 12 text embeddings",
        ),
        ({"zero_padding": True}, "with zero_padding True, but the model's text_encoder has False"),
        ({"record": {"weights": "sha256:0"}}, "with weights sha256:0, but the model's text_encoder has sha256:"),
    ],
)
def test_embeddings_of_another_encoder_are_refused_before_training(shards, tmp_path, options, message, capsys):
    record = options.pop("record", {})
    encode([str(shards)], to=tmp_path / "encoded", text_encoder=qwen(**options))
    path = tmp_path / "encoded" / "text_states.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | record))
    with pytest.raises(SystemExit):
        run(tmp_path / "encoded", tmp_path / "run")
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_embeddings_without_captions_ask_for_the_prompts_of_previews_before_training(shards, tmp_path, capsys):
    encode([str(shards)], to=tmp_path / "encoded", text_encoder=qwen())
    bare = [
        (sample.key, {k: v for k, v in sample.files.items() if k != "txt"}) for sample in samples(tmp_path / "encoded")
    ]
    write_tar(tmp_path / "bare.tar", bare)
    with pytest.raises(SystemExit):
        run(tmp_path / "bare.tar", tmp_path / "run")
    assert "no captions that could serve as prompts: give prompts to the callback" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    run(tmp_path / "bare.tar", tmp_path / "run", "--callbacks.preview.prompts", '["a red circle"]')


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "shards"),
        (
            ["nowhere", "--to", "x", "--text_encoder", "pixelgen.encoders.minilm"],
            "nothing in the shards can be encoded",
        ),
        (["a/0.tar", "b/0.tar", "--to", "x", "--text_encoder", "pixelgen.encoders.minilm"], "have the same name"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(arguments, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        main(arguments)
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "x").exists()


def test_two_processes_never_encode_into_one_set(shards, tmp_path):
    waiting = pytest.raises(ValueError, match=r"another process is writing .*out: wait for its end")
    with sole_writer(tmp_path / "out"), waiting:
        encode([str(shards)], to=tmp_path / "out", text_encoder=qwen())
    assert not (tmp_path / "out.unfinished").exists()
    assert encode([str(shards)], to=tmp_path / "out", text_encoder=qwen()).samples == 5
