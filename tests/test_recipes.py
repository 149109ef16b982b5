"""Each row of docs/reproduce.md, built from its command, is the published recipe; values here are the paper's."""

import functools
import re
import shlex
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from jsonargparse import ArgumentParser, Namespace
from PIL import Image

from pixelgen.cli.arguments import with_nulls
from pixelgen.cli.training import CLI
from pixelgen.encoders import hub, text, vgg
from pixelgen.flow import AdamsBashforth, Euler, Heun
from pixelgen.losses import REPA
from pixelgen.models import JiT, TextJiT
from pixelgen.module import PixelGen

ROOT = Path(__file__).parent.parent
DOCUMENT = (ROOT / "docs" / "reproduce.md").read_text()
ALL = re.findall(r"^\| (.+?) \| `(python -m pixelgen\.fit .+?)` \| (.+?) \|", DOCUMENT, re.M)
STAGES = {name: command for name, command, _ in ALL if "text256" in command}
ROWS = {name.removesuffix(r" \*"): (command, score) for name, command, score in ALL if name not in STAGES}
BLOCKS = [line for text in re.findall(r"```bash\n(.*?)```", DOCUMENT, re.DOTALL) for line in text.splitlines()]
CONFIGS = ROOT / "configs"
TEXT = [CONFIGS / "text256_pretrain.yaml", *CONFIGS.glob("overlay/text*.yaml")]
OWN = [*CONFIGS.glob("imagenet256_*.yaml"), CONFIGS / "overlay" / "epochs_160.yaml", *CONFIGS.glob("ablation/*.yaml")]

L = {"size": "L", "steps": 200_000, "lpips": 0.1, "gate": 0.3, "pdino": 0.01, "repa": True, "depth": 12}
XL = L | {"size": "XL", "steps": 400_000}
UNGATED = L | {"gate": 0.0}
LPIPS = UNGATED | {"pdino": None}
EXPECTED = {
    "XL, 80 epochs": (XL, "5.11 / 159.2 / 0.72 / 0.63"),
    "XL, 160 epochs, guidance": (XL | {"steps": 800_000, "guidance": 2.25}, "1.83 / 293.6 / 0.79 / 0.63"),
    "L, 200k steps (gate 0.3)": (L, "7.53 / 131.70 / 0.72 / 0.60"),
    "JiT + REPA": (L | {"lpips": None, "pdino": None}, "23.67 / 64.13 / 0.55 / 0.63"),
    "+ LPIPS, ungated (λ LPIPS 0.1)": (LPIPS, "10.00 / 113.16 / 0.70 / 0.59"),
    "+ P-DINO, ungated (λ P-DINO 0.01, depth 12, gate 0)": (UNGATED, "7.46 / 137.95 / 0.73 / 0.58"),
    "JiT without REPA": (L | {"lpips": None, "pdino": None, "repa": False}, "34.85"),
    "PixelGen without REPA": (L | {"repa": False}, "11.81"),
    "λ LPIPS 0.05": (LPIPS | {"lpips": 0.05}, "10.89"),
    "λ LPIPS 0.5": (LPIPS | {"lpips": 0.5}, "9.36"),
    "λ LPIPS 1.0": (LPIPS | {"lpips": 1.0}, "10.12"),
    "λ P-DINO 0.005": (UNGATED | {"pdino": 0.005}, "8.11"),
    "λ P-DINO 0.02": (UNGATED | {"pdino": 0.02}, "6.84"),
    "λ P-DINO 0.04, the authors' best": (UNGATED | {"pdino": 0.04}, "6.62 / – / – / 0.57"),
    "DINO depth 6": (UNGATED | {"depth": 6}, "12.65"),
    "DINO depth 9": (UNGATED | {"depth": 9}, "10.01"),
    "gate 0.1": (L | {"gate": 0.1}, "7.42"),
    "gate 0.6": (L | {"gate": 0.6}, "10.72"),
}
# depth, width, heads, dropout, bottleneck, numbers in the weights file, its entries
NETWORKS = {
    "L": (24, 1024, 16, 0.0, 128, 459_139_808, 351),
    "XL": (28, 1152, 16, 0.1, None, 676_994_112, 406),
}


def test_every_row_is_scored_by_the_whole_command_of_its_run():
    scored = dict(re.findall(r"^\| (.+?) \| .*`(python -m pixelgen\.evaluate .+?)` \|", DOCUMENT, re.M))
    assert {name.removesuffix(r" \*") for name in scored} == set(ROWS)
    for name, (command, _) in ROWS.items():
        words = shlex.split(command)
        run = words[words.index("--run") + 1] if "--run" in words else f"runs/{Path(words[4]).stem}"
        wanted = f"evaluate {run} --protocol adm --reference VIRTUAL_imagenet256_labeled.npz"
        assert scored.get(name, scored.get(name + r" \*")) == f"python -m pixelgen.{wanted}"


def on_meta(function):
    @functools.wraps(function)
    def build(*args, **kwargs):
        with torch.device("meta"):
            return function(*args, **kwargs)

    return build


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory):
    """A thousand classes of one picture."""
    folder = tmp_path_factory.mktemp("imagenet")
    for i in range(1000):
        (folder / "train" / f"n{i:04}").mkdir(parents=True)
        Image.new("RGB", (1, 1)).save(folder / "train" / f"n{i:04}" / "0.png")
    return folder


@pytest.fixture(autouse=True)
def weightless(monkeypatch):
    """Networks of full size without numbers in them, and nothing downloaded."""
    create = hub.timm.create_model
    vit = on_meta(lambda name, pretrained, **options: create(name, num_classes=0))
    state = {f"features.{key}": value for key, value in on_meta(vgg.vgg16_features)().state_dict().items()}
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(JiT, "__init__", on_meta(JiT.__init__))
    monkeypatch.setattr(REPA, "connect", on_meta(REPA.connect))
    monkeypatch.setattr(hub.timm, "create_model", vit)
    monkeypatch.setattr(vgg, "vgg16_features", on_meta(vgg.vgg16_features))
    monkeypatch.setattr(vgg, "download", lambda url, what: None)
    monkeypatch.setattr(vgg, "read_weights", lambda path, what: state)


@pytest.fixture(scope="module")
def parser(imagenet):
    """The command line's parser."""

    class Parser(CLI):
        def instantiate_classes(self):
            pass

    return Parser(["--config", str(CONFIGS / "imagenet256_l.yaml"), "--data.root", str(imagenet)]).parser


def arguments(command):
    return shlex.split(command)[3:]


def build_model(config):
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--model", type=PixelGen)
    return parser.instantiate(Namespace(model=config.model)).model


def cells(line):
    """The scores of a row, by name."""
    names = ("FID", "IS", "precision", "recall")
    return {name: value for name, value in zip(names, line.split(" / "), strict=False) if value != "–"}


def test_the_table_has_every_row_and_its_published_scores():
    assert {name: score for name, (_, score) in ROWS.items()} == {name: score for name, (_, score) in EXPECTED.items()}
    assert DOCUMENT.count("python -m pixelgen.fit") == len(ROWS) + len(STAGES) + len(BLOCKS)


@pytest.mark.parametrize("name", EXPECTED)
def test_row_is_the_published_recipe(name, parser):
    expected, _ = EXPECTED[name]
    config = parser.parse_args(with_nulls(arguments(ROWS[name][0])))
    check_training(config, expected["steps"])
    model = build_model(config)
    check_network(model, expected["size"])
    check_objective(model.objective, expected)
    check_times_and_optimizer(model)
    check_sampler(model.sampler, expected)


def check_training(config, steps):
    trainer, data, ema = config.trainer, config.data.init_args, config.callbacks.ema.init_args
    assert trainer.devices * trainer.num_nodes * data.batch_size * trainer.accumulate_grad_batches == 256
    assert (trainer.max_steps, trainer.max_epochs, trainer.max_time) == (steps, -1, None)
    assert (trainer.precision, trainer.gradient_clip_val) == ("bf16-mixed", None)
    assert (data.image_size, data.flip) == (256, False)
    assert (list(ema.decays), list(ema.widths), ema.every_n_steps, ema.warmup) == ([0.9999], [], 1, False)


def check_network(model, size):
    depth, width, heads, dropout, bottleneck, numbers, entries = NETWORKS[size]
    denoiser, state = model.denoiser, model.denoiser.state_dict()
    assert (len(denoiser.blocks), denoiser.hidden_size) == (depth, width)
    assert {block.attn.num_heads for block in denoiser.blocks} == {heads}
    dropouts = [block.attn.proj_drop.p for block in denoiser.blocks]
    outer, middle = [0.0] * (depth // 4), [dropout] * (depth // 2)
    assert dropouts == [*outer, *middle, *outer]
    assert (denoiser.image_size, denoiser.patch_size, denoiser.num_classes) == (256, 16, 1000)
    assert (denoiser.in_context_len, denoiser.in_context_start) == (32, 8)
    assert (sum(value.numel() for value in state.values()), len(state)) == (numbers, entries)
    first = state["x_embedder.proj1.weight"].shape[0]
    assert first == (bottleneck or width)


def check_objective(objective, expected):
    weights = {
        slot: None if getattr(objective, slot) is None else getattr(objective, slot).weight
        for slot in ("lpips", "pdino", "repa")
    }
    assert weights == {
        "lpips": expected["lpips"],
        "pdino": expected["pdino"],
        "repa": 0.5 if expected["repa"] else None,
    }
    if expected["lpips"] is not None or expected["pdino"] is not None:
        assert objective.gate.threshold == expected["gate"]
    assert (objective.flow_matching.t_eps, objective.gate.normalise) == (0.05, "passing")
    if expected["lpips"] is not None:
        assert (objective.lpips.name, objective.lpips.patch_size) == ("lpips", 16)
        assert objective.lpips.encoder.channels == [64, 128, 256, 512, 512]
    if expected["pdino"] is not None:
        assert objective.pdino.gated is False
    if expected["repa"]:
        width = NETWORKS[expected["size"]][1]
        shapes = [tuple(layer.weight.shape) for layer in objective.repa.proj[0] if hasattr(layer, "weight")]
        assert (objective.repa.layer, shapes) == (8, [(width, width), (width, width), (768, width)])
    check_encoder(objective.encoder, expected)
    check_adaptive(objective.adaptive, expected["size"])


def check_encoder(encoder, expected):
    if expected["pdino"] is None and not expected["repa"]:
        assert encoder is None
        return
    assert (len(encoder.network.blocks), encoder.num_features, encoder.patch_size) == (expected["depth"], 768, 16)
    assert encoder.network.patch_embed.patch_size == (14, 14)


def check_adaptive(adaptive, size):
    """Only the XL run lives to see it: the weight is 1 before step 400 000, so that the first 80 epochs have none."""
    if size == "L":
        assert adaptive is None
        return
    assert (adaptive.start_step, adaptive.interval, adaptive.momentum, adaptive.weight) == (400_000, 50, 0.8, 1)
    assert [step for step in (0, 50, 399_950, 400_000, 400_001, 400_050) if adaptive.due(step)] == [400_000, 400_050]


def check_times_and_optimizer(model):
    assert (model.condition_dropout, model.noise_scale, model.warmup_steps, model.scheduler) == (0.1, 1.0, 0, None)
    time = model.time
    assert (time.mean, time.std, time.shift, time.stratified) == (-0.8, 0.8, 1.0, False)
    optimizer = model.optimizer([torch.nn.Parameter(torch.zeros(1))])
    assert isinstance(optimizer, torch.optim.AdamW)
    settings = optimizer.defaults
    assert (settings["lr"], settings["betas"], settings["weight_decay"]) == (1e-4, (0.9, 0.999), 0.0)


def check_sampler(sampler, expected):
    """Fifty steps; Euler on an even grid for L, exact Heun with shift 2 for XL."""
    cls, middle = {"L": (Euler, 0.5), "XL": (Heun, 1 / 3)}[expected["size"]]
    assert type(sampler) is cls
    assert getattr(sampler, "exact", True)
    assert (len(sampler.times), sampler.times[25], sampler.t_eps) == (51, pytest.approx(middle), 0.05)
    times = (0.05, 0.1, 0.11, 0.5, 0.9, 0.91)
    assert sampler.guidance == expected.get("guidance", 1.0)
    guided = [sampler.active(t) for t in times]
    assert guided == ([False, False, True, True, True, False] if "guidance" in expected else [False] * 6)


def test_dinov2_is_the_published_one(parser):
    config = parser.parse_args(arguments(ROWS["L, 200k steps (gate 0.3)"][0]))
    assert config.model.init_args.objective.init_args.encoder.init_args.model == "vit_base_patch14_dinov2.lvd142m"


def test_a_row_starts_with_the_classes_of_the_data(imagenet, tmp_path):
    """The whole command line up to the first step."""
    command = arguments(ROWS["XL, 160 epochs, guidance"][0])
    cli = CLI([*command, "--data.root", str(imagenet), "--run", str(tmp_path / "run"), "--trainer.accelerator", "cpu"])
    assert (cli.trainer.world_size, cli.trainer.max_steps) == (8, 800_000)
    assert cli.model.denoiser.num_classes == cli.datamodule.num_classes == 1000


def test_rows_do_not_share_a_folder():
    """The two bases have no --run: they are called after their configs."""
    runs = [command.partition(" --run runs/")[2] for command, _ in ROWS.values()]
    assert runs.count("") == 2
    assert len(set(runs)) == len(runs) - 1


@pytest.mark.parametrize("path", OWN, ids=lambda path: path.stem)
def test_header_says_command_hardware_score_and_source(path):
    header = [line for line in path.read_text().splitlines() if line.startswith("#")]
    command = next(line for line in header if "pixelgen.fit" in line).removeprefix("#   ")
    (score,) = (score for other, score in ROWS.values() if other == command)
    text = " ".join(header)
    assert dict(re.findall(r"(FID|IS|precision|recall) (\d+\.\d+)", text)) == cells(score)
    assert "8 GPUs, global batch 256" in text
    assert "arXiv 2602.02493" in text


@pytest.mark.parametrize("path", [path for path in OWN if path.parent != CONFIGS], ids=lambda path: path.stem)
def test_overlays_are_short(path):
    assert len([line for line in path.read_text().splitlines() if not line.startswith("#")]) <= 4


@pytest.mark.parametrize("line", [line for line in BLOCKS if "callbacks.fid" in line])
def test_flags_of_scoring(line, parser):
    fid = parser.parse_args(arguments(line)).callbacks.fid.init_args
    assert fid.extractor.class_path.endswith("Inception")
    assert (fid.num_samples, fid.at_end, fid.decays) == (50_000, True, "first")
    assert (fid.reference is None) != (fid.extractor.init_args.weights is None)


def test_512_pixels_build(imagenet, tmp_path):
    (line,) = (line for line in BLOCKS if "512" in line)
    run = ["--data.root", str(imagenet), "--run", str(tmp_path / "run"), "--trainer.accelerator", "cpu"]
    model = CLI([*arguments(line), *run]).model
    assert (model.denoiser.image_size, model.denoiser.pos_embed.shape[1], model.noise_scale) == (512, 256, 2.0)
    assert (model.objective.encoder.patch_size, model.objective.lpips.patch_size) == (32, 32)
    assert model.objective.lpips.prepare(torch.zeros(1, 3, 512, 512)).shape[-2:] == (256, 256)


# Text: size, images a GPU, batches accumulated, learning rate, betas, steps of the release
EXPECTED_STAGES = {
    "1, pretraining": (256, 64, 3, 2e-4, (0.9, 0.95), 200_000),
    "2, pretraining": (512, 16, 4, 1e-4, (0.9, 0.95), 100_000),
    "3, fine-tuning": (512, 16, 4, 1e-5, (0.9, 0.999), 60_000),
}


@pytest.fixture
def no_language_model(monkeypatch):
    """Qwen3-1.7B without weights and tokenizer."""
    network = torch.nn.Module()
    network.config = SimpleNamespace(is_encoder_decoder=False, hidden_size=2048)
    asked = []
    monkeypatch.setattr(text, "load_network", lambda kind, source, *options, **more: asked.append(source) or network)
    monkeypatch.setattr(text, "load_from", lambda *options, **more: SimpleNamespace(pad_token="<pad>"))
    monkeypatch.setattr(TextJiT, "__init__", on_meta(TextJiT.__init__))
    return asked


def test_every_stage_is_in_the_table():
    assert STAGES.keys() == EXPECTED_STAGES.keys()
    flags = [dict(re.findall(r"--(init_from|run) (\S+)", command)) for command in STAGES.values()]
    runs = ["runs/text256_pretrain", "runs/text512_pretrain", "runs/text512_finetune"]
    assert flags == [{}, {"init_from": runs[0], "run": runs[1]}, {"init_from": runs[1], "run": runs[2]}]


@pytest.mark.parametrize("name", EXPECTED_STAGES)
def test_stage_is_the_published_recipe(name, parser, no_language_model):
    size, images, accumulated, lr, betas, steps = EXPECTED_STAGES[name]
    config = parser.parse_args(arguments(STAGES[name]))
    trainer, data, ema = config.trainer, config.data.init_args, config.callbacks.ema.init_args
    assert (trainer.devices, data.batch_size, trainer.accumulate_grad_batches) == (8, images, accumulated)
    assert (trainer.max_steps, trainer.gradient_clip_val, trainer.precision) == (steps, 1.0, "bf16-mixed")
    assert (data.image_size, data.min_side, data.flip, list(ema.decays)) == (size, size, False, [0.9999])
    assert (data.captions.init_args.prefix_probability, data.captions.init_args.short) == (0.5, 30)
    model = build_model(config)
    state = model.denoiser.state_dict()
    assert (len(state), model.denoiser.text_shape, model.denoiser.mask_padding) == (250, (128, 2048), False)
    assert (no_language_model, model.conditioner.encoder.zero_padding) == (["Qwen/Qwen3-1.7B"], False)
    assert (model.condition_dropout, model.noise_scale, model.scheduler) == (0.1, 1.0, None)
    settings = model.optimizer([torch.nn.Parameter(torch.zeros(1))]).defaults
    assert (settings["lr"], settings["betas"], settings["weight_decay"]) == (lr, betas, 0.0)
    sampler = model.sampler
    assert (type(sampler), sampler.order, len(sampler.times), sampler.guidance) == (AdamsBashforth, 2, 26, 4.0)
    assert sampler.times[1] == pytest.approx(1 / 73)
    objective = model.objective
    assert [getattr(objective, slot).weight for slot in ("lpips", "pdino", "repa")] == [0.1, 0.01, 0.5]
    assert (objective.gate.threshold, objective.repa.layer, objective.adaptive) == (0.3, 8, None)


@pytest.mark.parametrize("path", TEXT, ids=lambda path: path.stem)
def test_header_of_a_stage(path):
    header = " ".join(line for line in path.read_text().splitlines() if line.startswith("#"))
    assert any(f"{command} " in header for command in STAGES.values())
    for words in ("8 GPUs, global batch", "GenEval 0.79", "arXiv 2602.02493"):
        assert words in header


def test_fine_tuning_takes_all_from_its_overlay_but_the_network(parser):
    text = (ROOT / "docs" / "published.md").read_text()
    (line,) = (line for line in text.splitlines() if line.startswith("python -m pixelgen.fit") and "_xl.yaml" in line)
    config = parser.parse_args(with_nulls(arguments(line)))
    model = build_model(config)
    check_network(model, "XL")
    assert model.scheduler is None
    assert model.optimizer([torch.nn.Parameter(torch.zeros(1))]).defaults["lr"] == 5e-5
    assert (model.warmup_steps, config.trainer.max_steps, config.trainer.devices) == (100, 5000, 1)
    assert (config.callbacks.ema.init_args.decays, config.callbacks.ema.init_args.warmup) == ([0.999], True)
    assert (config.init_from, config.ckpt_path) == ("PixelGen_XL.ckpt", None)
