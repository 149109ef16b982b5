"""Bad input, of every command and from Python: one sentence that names what is wrong, never silence or a traceback."""

import math
import shlex
from importlib import import_module
from itertools import chain
from pathlib import Path

import pytest
import torch
from torch import nn

import pixelgen
from bad_files import make_bad_files
from pixelgen import PixelGen, callbacks, data, encoders, flow, losses
from pixelgen.checks import _shown as shown
from pixelgen.convert import convert
from pixelgen.dpg import dpg
from pixelgen.encode import encode
from pixelgen.evaluate import evaluate, write_reference
from pixelgen.evaluation import Metrics
from pixelgen.export import export
from pixelgen.geneval import geneval
from pixelgen.models import JiT, TextJiT
from pixelgen.runs.run import Run
from pixelgen.sample import sample
from pixelgen.samples.sampling import Sampling
from pixelgen.sweep import sweep
from tiny_run import Means, tiny_jit, tiny_trainer

NETWORK = {"patch_size": 16, "hidden_size": 16, "depth": 2, "num_heads": 2, "in_context_len": 0}
TINY = [
    *chain.from_iterable((f"--model.denoiser.{name}", str(value)) for name, value in NETWORK.items()),
    *("--model.sampler", "Euler", "--model.sampler.num_steps", "2", "--trainer.max_steps", "1"),
    *("--trainer.limit_val_batches", "0", "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"),
    *("--trainer.enable_model_summary", "false", "--callbacks.preview", "null", "--callbacks.summary", "null"),
]
FIT = ["--data", "ShapesData", "--data.batch_size", "2", "--model.denoiser", "JiT", *TINY]
MODULES = {"pack": "pixelgen.data.pack", "digits": "digits", "openmoji": "openmoji"}


@pytest.fixture(scope="module")
def base(demo_run, tmp_path_factory):
    """The folder in which all input is tried; nothing may be added to it."""
    folder = tmp_path_factory.mktemp("bad")
    make_bad_files(demo_run, folder)
    return folder


@pytest.fixture(autouse=True)
def inside(base, monkeypatch):
    monkeypatch.chdir(base)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


# --- Python: (what is called, good arguments, bad values of each argument)

NAN = math.nan
COUNT = (0, -1, 1.5, "10", None, True, NAN, [1])
MAYBE = (0, -1, 1.5, "10", True)  # null is a value
FROM_ZERO = (-1, 0.5, "1", None)
POSITIVE = (0, -1.0, "1", NAN, math.inf, None)
SHARE = (-0.1, 1.5, "0.5", NAN, None)
SWITCH = ("yes", 1, None)
MODEL, MEANS, IMAGES, SHARDS = (
    {"denoiser": tiny_jit()},
    {"extractor": Means()},
    {"root": "images"},
    {"shards": "shards"},
)
JIT = {"input_size": 32, "num_classes": 3, **NETWORK}
TEXT = {"input_size": 32, "patch_size": 16, "hidden_size": 16, "depth": 1, "num_heads": 2, "text_depth": 1}
TEXT |= {"text_dim": 8, "text_length": 4, "bottleneck_dim": 8}
SOLVER = {"num_steps": COUNT, "shift": POSITIVE, "guidance": (-5, "x", NAN), "t_eps": (0, -1, 2, "x", None)}
LOADING = {"image_size": COUNT, "batch_size": COUNT, "num_workers": (-1, 0.5, "1", None, 10**6), "seed": FROM_ZERO}

ARGUMENTS = [
    (JiT, JIT, dict.fromkeys(("input_size", "patch_size", "in_channels", "hidden_size", "depth", "num_heads"), COUNT)),
    (JiT, JIT, {"num_classes": MAYBE, "bottleneck_dim": MAYBE, "in_context_len": FROM_ZERO}),
    (JiT, JIT, {"in_context_start": FROM_ZERO, "mlp_ratio": POSITIVE, "attn_drop": (-1, 1, "x"), "proj_drop": (2,)}),
    (TextJiT, TEXT, {"text_dim": COUNT, "text_length": COUNT, "text_depth": FROM_ZERO, "bottleneck_dim": COUNT}),
    (flow.Euler, {}, SOLVER | {"guidance_min": ("x", None, NAN)}),
    (flow.Heun, {}, SOLVER | {"exact": SWITCH}),
    (flow.AdamsBashforth, {}, {"order": (0, 5, "2", None, 1.5)}),
    (flow.LogitNormalTime, {}, {"std": POSITIVE, "shift": POSITIVE, "mean": ("x", NAN), "stratified": SWITCH}),
    (losses.FlowMatching, {}, {"t_eps": (0, -1, 2, "x", None)}),
    (losses.NoiseGate, {}, {"threshold": (-0.1, 1, 30, "x", None), "normalise": ("all", 3, None)}),
    (losses.AdaptiveWeight, {}, {"start_step": FROM_ZERO, "interval": COUNT, "momentum": (-1, 1, "x")}),
    (losses.PDINO, {}, {"weight": ("x", None, NAN), "gated": SWITCH}),
    (losses.REPA, {}, {"layer": FROM_ZERO, "weight": ("x", NAN), "projector_dim": MAYBE}),
    (losses.Objective, {}, {"flow_matching": (None, "x"), "gate": ("x", 0.3), "lpips": (0.1, "x"), "more": (3, [3])}),
    (PixelGen, MODEL, {"denoiser": ("JiT", JiT, nn.Linear(2, 2), None), "sampler": ("Heun", flow.Heun, None)}),
    (PixelGen, MODEL, {"warmup_steps": FROM_ZERO, "condition_dropout": SHARE, "noise_scale": POSITIVE}),
    (PixelGen, MODEL, {"seed": FROM_ZERO, "time": (None, 0.5), "optimizer": ("AdamW", None)}),
    (PixelGen, MODEL, {"compile_blocks": SWITCH, "text_encoder": ("Qwen",), "objective": ("x", 3)}),
    (callbacks.Checkpoint, {}, {"every_n_steps": COUNT, "keep_last": MAYBE, "mode": ("y", None), "monitor": (3,)}),
    (callbacks.EMA, {}, {"decays": (0.9, "0.9", [1.0], [-0.1], ["x"], None), "widths": ([0.3], [1e-9], 0.1)}),
    (callbacks.EMA, {}, {"every_n_steps": COUNT, "warmup": SWITCH}),
    (callbacks.Preview, {}, {"every_n_steps": MAYBE, "num_images": COUNT, "columns": COUNT, "seed": (-1, "x", 1.5)}),
    (callbacks.Preview, {}, {"labels": (3, "x", [-1], [1.5]), "prompts": ("a red circle", [3])}),
    (callbacks.SkipNonFinite, {}, {"patience": COUNT}),
    (callbacks.Skipped, {}, {"every_n_steps": (0, "10", 1.5)}),
    (callbacks.Throughput, {}, {"every_n_steps": (0, "10", 1.5), "peak_flops": (0, -1, "x", NAN)}),
    (callbacks.Callbacks, {}, {"ema": (0.9, "EMA"), "more": (3, ["x"]), "checkpoint": (True,)}),
    (callbacks.FID, MEANS, {"extractor": ("Inception", None, Means), "num_samples": (1, "x", None)}),
    (callbacks.FID, MEANS, {"batch_size": COUNT, "seed": FROM_ZERO, "decays": ("some",), "reference": (3, "")}),
    (data.ShapesData, {}, LOADING | {"max_objects": (0, 5, "1"), "length": COUNT, "val_length": COUNT}),
    (data.ShapesData, {}, {"shapes": (3, "circle", ["hexagon"], []), "colors": (["beige"], "red"), "captions": ("x",)}),
    (data.ImageFolderData, IMAGES, LOADING | {"root": ("", 3, None), "flip": SWITCH, "captions": (True, "x")}),
    (data.ShardData, SHARDS, LOADING | {"length": COUNT, "val_length": COUNT, "buffer_mb": POSITIVE}),
    (data.ShardData, SHARDS, {"shards": (5, ["a", 5], None), "weights": ([-1.0], "x"), "min_side": FROM_ZERO}),
    (data.Captions, {}, {"weights": ({"txt": -1}, {"txt": "x"}, 3), "prefix_probability": SHARE, "short": FROM_ZERO}),
    (encoders.Backbone, {}, {"levels": (9, [-1], "x"), "upsample": POSITIVE, "weights": (3, ""), "model": (3, None)}),
    (encoders.BackboneFeatures, {}, {"level": FROM_ZERO, "size": COUNT}),
    (encoders.TextEncoder, {}, {"max_length": COUNT, "remember": FROM_ZERO, "dtype": ("x", None), "model": (3, "")}),
    (Metrics, {}, {"splits": COUNT, "neighbours": COUNT, "kid_subsets": COUNT, "kid": ("yes", 1), "seed": (-1, 2**40)}),
    (Sampling, {}, {"seed": (-1, 10**20, "1", None), "batch_size": COUNT, "devices": COUNT, "size": ((0, 0), (1,), 3)}),
    (Sampling, {}, {"precision": ("fp8", None), "sampler": ("Heun", flow.Heun), "ema": (None, [1]), "compile": SWITCH}),
    (Run, {"source": "run"}, {"source": ("", " ", None, 3, ["run"])}),
    (pixelgen.load, {"source": "run"}, {"source": ("", None, ["run"]), "ema": (None, [0.9]), "device": ([1], 1.5)}),
    (export, {"source": "run"}, {"source": (None, ""), "to": ("", 3), "ema": (None,)}),
    (convert, {"source": "run"}, {"source": (None, ""), "in_context_start": (-1, "x")}),
    (sample, {"source": "run"}, {"source": (None, ""), "to": ("", 3), "num_images": MAYBE, "classes": ("3", 3)}),
    (sweep, {"source": "run"}, {"num_images": (1, "x", None), "guidance": ([-1.0], "x"), "num_steps": ([0], 3)}),
    (evaluate, {"source": "images", "reference": "images"}, {"reference": ("", None), "num_images": (0, 1, "x")}),
    (write_reference, {"to": "a.npz"}, {"to": ("", None), "image_size": MAYBE, "batch_size": COUNT}),
    (geneval, {"source": "run"}, {"images_per_prompt": COUNT, "num_prompts": MAYBE, "generate_only": SWITCH}),
    (encode, {"shards": ["shards"], "text_encoder": None}, {"to": ("", 3, None)}),
    (dpg, {"source": "run", "prompts": "prompts"}, {"prompts": ("", 3, None)}),
]  # fmt: skip
VALUES = [
    pytest.param(call, {**good, name: value}, name, value, id=f"{call.__name__}({name}={shown(value)[:40]})")
    for call, good, bad in ARGUMENTS
    for name, values in bad.items()
    for value in values
]


@pytest.mark.parametrize(("call", "arguments", "name", "value"), VALUES)
def test_a_bad_argument_is_named_with_its_value_and_what_to_give(call, arguments, name, value):
    with pytest.raises(ValueError, match=r"\w") as raised:
        call(**arguments)
    sentence = str(raised.value)
    assert name in sentence
    assert ": give " in sentence or ": choose " in sentence or "not all of" in sentence
    assert "\n" not in sentence


def fit_in_python(images):
    """Lightning's own trainer, without our command line."""
    model = PixelGen(JiT(**JIT), optimizer=lambda params: torch.optim.SGD(params, lr=0.1))
    tiny_trainer("unwritten", []).fit(model, images)


CALLS = {
    "JiT(nothing=3)": "unexpected keyword argument 'nothing'",
    "PixelGen()": "missing a required argument: 'denoiser'",
    "JiT(**JIT | {'patch_size': 5})": "image size 32 is not divisible by patch size 5: choose",
    "JiT(**JIT | {'num_heads': 3})": "hidden size 16 is not a multiple of 4 x 3 heads",
    "JiT(**JIT | {'in_context_len': 1, 'in_context_start': 9})": "in_context_start is 9, but there are blocks 0 to 1",
    "flow.Euler(guidance_min=0.9, guidance_max=0.1)": "the guidance interval 0.9 to 0.1 is empty",
    "callbacks.EMA([], [])": "there is nothing to average",
    "callbacks.Preview(labels=[])": "preview.labels or preview.prompts is an empty list",
    "losses.Objective(repa=losses.REPA())": "repa need an encoder: give objective.encoder",
    "losses.Objective(pdino=losses.PDINO(weight=-1), encoder=encoders.BackbonePatches())": "'pdino' of weight -1: give",
    "losses.Objective(more=[losses.PDINO(weight=0)], encoder=encoders.BackbonePatches())": "weight 0: give one above 0",
    "data.ShapesData(foo=1)": "unexpected keyword argument 'foo'",
    "data.ShapesData(tasks={'colors': -1})": "give weights of at least 0",
    "data.ShardData([])": "shards is empty: give",
    "data.ShardData('shards', weights=[1, 2])": "1 entries in shards and the weights [1, 2]",
    "data.Captions({'txt': 0})": "give at least one positive weight",
    "encoders.Backbone('nothing')": "timm has no model 'nothing'",
    "encoders.Backbone(levels=[9])": "has feature levels 0 to 4",
    "encoders.VGG16('nowhere')": "no weights of VGG-16 at nowhere",
    "encoders.minilm(max_length=100_000)": "max_length is 100000, but",
    "pixelgen.load('nowhere')": "nowhere does not exist: give a run folder",
    "pixelgen.load('run', device='foo')": "device 'foo' cannot be used",
    "pixelgen.load('run', ema='nothing')": "the checkpoint has no average 'nothing'",
    "pixelgen.load('run', ema='width0.9')": "relative widths lie between",
    "pixelgen.load('empty')": "empty/config.yaml",
    "pixelgen.load('list')": "list/config.yaml",
    "pixelgen.load('text')": "text/config.yaml",
    "pixelgen.load('tabs')": "tabs/config.yaml",
    "pixelgen.load('nomodel')": "nomodel/config.yaml has no section `model`",
    "pixelgen.load('modelnull')": "modelnull/config.yaml has no section `model`",
    "pixelgen.load('modellist')": "modellist/config.yaml has no section `model`",
    "pixelgen.load('wrongtypes')": "wrongtypes/config.yaml does not describe a model",
    "pixelgen.load('unknown')": "has no option 'hiden_size': did you mean hidden_size?",
    "pixelgen.load('noconfig')": "keep checkpoints in their run",
    "pixelgen.load('flipped')": "its checksum is wrong: copy it again",
    "pixelgen.load('flipped_export')": "their checksum is wrong: copy it again",
    "pixelgen.load('five.ckpt')": "five.ckpt is not a checkpoint of pixelgen",
    "pixelgen.load('numbers.ckpt')": "numbers.ckpt is not a checkpoint of pixelgen",
    "pixelgen.load('words.ckpt')": "words.ckpt is damaged, or made by something else",
    "pixelgen.load('empty.ckpt')": "empty.ckpt is not a checkpoint of pixelgen",
    "pixelgen.load('half.ckpt')": "half.ckpt is not a readable checkpoint",
    "pixelgen.load('foreign.safetensors')": "foreign.safetensors is not a readable checkpoint or export",
    "pixelgen.load('run').sample([1], sampler='Heun')": "PixelGen.sampler is 'Heun': give an instance of Sampler",
    "pixelgen.load('run').sample([1], sampler=flow.Heun)": "give an instance of Sampler",
    "pixelgen.load('run').sample([1], seeds=-1)": "PixelGen.seeds is -1",
    "pixelgen.load('run').sample([1], seeds=1.5)": "PixelGen.seeds is 1.5",
    "pixelgen.load('run').sample([1], seeds=[1, 2])": "1 conditions but 2 seeds: give one seed for each",
    "pixelgen.load('run').sample([1], size=(0, 0))": "PixelGen.size is (0, 0)",
    "pixelgen.load('run').sample([1], size=(30, 30))": "images of 30x30 pixels do not divide into patches of 16",
    "pixelgen.load('run').sample([1], batch_size=0)": "PixelGen.batch_size is 0",
    "pixelgen.load('run').sample([1], precision='fp8')": "precision is 'fp8': give 32-true or",
    "pixelgen.load('run').sample([99])": "classes must lie between 0 and 39",
    "pixelgen.load('run').sample('a red circle')": "there is no class 'a red circle'",
    "pixelgen.load('run').sample(None)": "give",
    "fit_in_python(data.ShapesData(batch_size=2))": "the data has 40 classes, but the denoiser",
}


@pytest.mark.parametrize("call", CALLS)
def test_a_bad_call_is_answered_in_one_sentence(call, base):
    with pytest.raises((ValueError, TypeError)) as raised:
        eval(call, {**globals(), "base": base})
    assert CALLS[call] in str(raised.value)
    assert "\n" not in str(raised.value)


# --- command lines: arguments after the verb, and a part of the sentence

COMMANDS = [row.split("\t") for row in Path(__file__).with_name("bad_commands.tsv").read_text().splitlines()]


@pytest.mark.parametrize(("line", "part"), COMMANDS)
def test_a_bad_command_ends_with_one_sentence_and_status_2(line, part, capfd, tmp_path):
    verb, *arguments = shlex.split(line)
    if verb == "fit" and "--ckpt_path" not in arguments:
        arguments = [*FIT, "--run", str(tmp_path / "new"), *arguments]
    with pytest.raises(SystemExit) as stop:
        import_module(MODULES.get(verb, f"pixelgen.{verb}")).main(arguments)
    said = capfd.readouterr().err
    assert stop.value.code == 2
    assert "Traceback" not in said
    if "error: the following" not in said:  # argparse's own words, below a usage
        (sentence,) = [row for row in said.splitlines() if row.startswith("error: ")]
        assert part in sentence


def test_there_are_enough_and_none_is_there_twice():
    inputs = [*(value.id for value in VALUES), *CALLS, *(line for line, _ in COMMANDS)]
    assert len(set(inputs)) == len(inputs) >= 400
