"""Published checkpoints of PixelGen and JiT load as they are, convert once, and are refused where they do not fit.

Their layouts are written here, with networks of random weights: nothing published is needed.
"""

import argparse
import os
import re
import shlex
import warnings
from pathlib import Path

import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_file

import pixelgen
from pixelgen import PixelGen
from pixelgen.convert import LICENCE, convert, main
from pixelgen.encoders import PatchEncoder, TextEncoder
from pixelgen.export import export
from pixelgen.flow import Euler, Heun
from pixelgen.losses import PDINO, REPA, Objective
from pixelgen.losses.adaptive import AdaptiveWeight
from pixelgen.models import JiT, TextJiT, jit, text_jit
from pixelgen.runs.published import Recipe, architecture, convert_keys, denoiser_of, model_config
from pixelgen.runs.run import Run
from pixelgen.runs.transfer import start_from
from tiny_transformers import tiny_qwen3

TINY = {
    "input_size": 16,
    "patch_size": 4,
    "in_channels": 3,
    "hidden_size": 32,
    "depth": 4,
    "num_heads": 2,
    "mlp_ratio": 4.0,
    "num_classes": 3,
    "bottleneck_dim": 8,
    "in_context_len": 0,
    "proj_drop": 0.0,
}
TINY_TEXT = {
    "input_size": 8,
    "patch_size": 4,
    "in_channels": 3,
    "hidden_size": 16,
    "depth": 2,
    "num_heads": 2,
    "text_depth": 1,
    "text_dim": 16,
    "text_length": 6,
    "bottleneck_dim": 4,
}
WITH_TOKENS = TINY | {"in_context_len": 2, "in_context_start": 1}


def network(seed=0, **options):
    """A tiny network with random values in every parameter."""
    torch.manual_seed(seed)
    denoiser = JiT(**(TINY | options))
    for parameter in denoiser.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return denoiser.eval()


def projector(width=32, features=8):
    torch.manual_seed(5)
    repa = REPA(layer=0)
    repa.connect(network(hidden_size=width), PatchEncoder(torch.nn.Identity(), features))
    return repa.proj


def under(prefix, module):
    return {prefix + key: value for key, value in module.state_dict().items()}


def release(raw, average, projection=None):
    """A Lightning checkpoint as PixelGen publishes them."""
    state = under("denoiser.", raw) | under("ema_denoiser.", average)
    if projection is not None:
        state |= under("diffusion_trainer.proj.", projection)
    return {"state_dict": state, "global_step": 400_000, "epoch": 80, "callbacks": {}, "optimizer_states": [{}]}


def from_jit(raw, *averages, **args):
    """A checkpoint as JiT's training writes it."""
    named = {f"model_ema{i + 1}": under("net.", average) for i, average in enumerate(averages)}
    arguments = argparse.Namespace(model="JiT-B/16", **args)
    return {"model": under("net.", raw), "optimizer": {}, "epoch": 600, "args": arguments} | named


@pytest.fixture(scope="module")
def networks():
    return [network(seed) for seed in range(3)]


@pytest.fixture(scope="module")
def files(networks, tmp_path_factory):
    """One published file of either layout."""
    folder = tmp_path_factory.mktemp("published")
    raw, first, second = networks
    torch.save(release(raw, first, projector()), folder / "release.ckpt")
    torch.save(from_jit(raw, first, second, noise_scale=2.0), folder / "jit.pth")
    return {"release": folder / "release.ckpt", "jit": folder / "jit.pth"}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def weights(source, **arguments):
    return pixelgen.load(source, device="cpu", **arguments).denoiser.state_dict()


def saved(checkpoint, folder, name="published.ckpt"):
    torch.save(checkpoint, folder / name)
    return folder / name


# Sizes


@pytest.mark.parametrize(
    ("size", "input_size", "entries", "parameters"),
    [
        ("B/16", 256, 183, 131_320_320),
        ("L/16", 256, 351, 459_139_808),
        ("XL/16", 256, 406, 676_994_112),
        ("H/16", 256, 463, 952_842_048),
        ("B/32", 512, 183, None),
        ("H/32", 512, 463, None),
    ],
)
@pytest.mark.parametrize("layout", [lambda net: release(net, net), lambda net: from_jit(net, net, net)])
def test_published_sizes_are_read_from_their_weights(size, input_size, entries, parameters, layout):
    with torch.device("meta"):
        published = jit(size, input_size)
        found = next(iter(convert_keys(layout(published)).averages.values()))
        rebuilt = JiT(**architecture(found))
    shapes = {key: value.shape for key, value in rebuilt.state_dict().items()}
    assert shapes == {key: value.shape for key, value in found.items()}
    assert len(found) == entries
    assert parameters in (None, sum(value.numel() for value in found.values()))
    assert _settings(rebuilt) == _settings(published)


def _settings(denoiser):
    """What names and shapes do not tell."""
    attention = [(block.attn.num_heads, block.attn.proj_drop.p, block.mlp.dropout.p) for block in denoiser.blocks]
    sizes = (denoiser.image_size, denoiser.patch_size, denoiser.num_classes, denoiser.in_channels)
    return attention, sizes, denoiser.in_context_start, denoiser.in_context_len


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_classes": None, "bottleneck_dim": None},
        {"in_channels": 1, "input_size": 8, "patch_size": 8, "num_heads": 4},
        {"mlp_ratio": 3.0, "depth": 1},
        {"mlp_ratio": 2.37, "hidden_size": 72},
    ],
)
def test_any_size_is_read_from_its_weights(options):
    expected = network(**options).state_dict()
    found = architecture(expected)
    if options.get("mlp_ratio") != 2.37:  # rounded to whole widths
        assert found == TINY | options
    assert {key: value.shape for key, value in JiT(**found).state_dict().items()} == {
        key: value.shape for key, value in expected.items()
    }


@pytest.mark.parametrize("hidden_size", [16, 32, 72, 1152])
def test_every_width_of_the_feed_forward_part_has_a_ratio(hidden_size):
    from pixelgen.runs.published import _mlp_ratio

    for width in range(1, 6 * hidden_size):
        assert int(int(hidden_size * _mlp_ratio(hidden_size, width)) * 2 / 3) == width
    assert _mlp_ratio(hidden_size, int(hidden_size * 4 * 2 / 3)) == 4.0


def test_the_place_of_class_tokens_is_asked_for_where_nothing_tells_it():
    state = network(**WITH_TOKENS).state_dict()
    with pytest.raises(ValueError, match=r"^no published size has 4 blocks of width 32, .* give --in_context_start$"):
        architecture(state)
    assert architecture(state, in_context_start=1) == WITH_TOKENS


def test_networks_of_another_kind_are_said(tmp_path):
    with pytest.raises(ValueError, match=r"not a class-conditional transformer \(JiT\): it has no pos_embed$"):
        architecture({"conv.weight": torch.zeros(1)})
    state = network().state_dict() | {"x_embedder.proj1.weight": torch.zeros(8, 48)}
    with pytest.raises(ValueError, match=r"its x_embedder.proj1.weight is \(8, 48\)$"):
        architecture(state)


# Text


def text_network(seed=0, **options):
    torch.manual_seed(seed)
    denoiser = TextJiT(**(TINY_TEXT | options))
    for parameter in denoiser.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return denoiser.eval()


def test_the_published_text_network_is_read_from_its_weights():
    with torch.device("meta"):
        published = text_jit()
        found = convert_keys(release(published, published)).averages["ema"]
        rebuilt = TextJiT(**architecture(found))
    assert (rebuilt.text_shape, rebuilt.image_size, rebuilt.patch_size) == ((128, 2048), 512, 16)
    assert {key: value.shape for key, value in rebuilt.state_dict().items()} == {
        key: value.shape for key, value in found.items()
    }
    assert rebuilt.blocks[0].attn.num_heads == 24
    arguments = model_config(found, Recipe())["init_args"]
    assert arguments["text_encoder"]["init_args"] == {"model": "Qwen/Qwen3-1.7B", "max_length": 128}
    assert arguments["sampler"]["init_args"] == {"num_steps": 25, "shift": 3.0, "guidance": 4.0}


def test_a_published_text_checkpoint_loads_and_converts(tmp_path, monkeypatch):
    raw, average = text_network(0), text_network(1)
    assert architecture(raw.state_dict()) == TINY_TEXT
    path = saved(release(raw, average), tmp_path)
    monkeypatch.setattr("pixelgen.runs.published.QWEN", str(tiny_qwen3()))
    out = main([str(path), "--to", str(tmp_path / "out"), "--text_encoder", str(tiny_qwen3())])
    encoder = TextEncoder(str(tiny_qwen3()), max_length=6)
    sampler = Euler(num_steps=2, guidance=2.0)
    models = [PixelGen(average, text_encoder=encoder), pixelgen.load(out, device="cpu")]
    images = [model.sample(["a red circle"], seeds=2, sampler=sampler) for model in models]
    assert torch.equal(*images)
    assert (models[1].sampler.guidance, models[1].conditioner.encoder.width) == (4.0, 16)
    model = PixelGen(text_network(2))
    start_from(model, path)
    assert same(model.denoiser.state_dict(), average.state_dict())
    with pytest.raises(ValueError, match=r"are of another network: blocks.0.attn.qkv.weight is missing"):
        start_from(PixelGen(network()), path)


def test_without_its_text_encoder_a_text_checkpoint_does_not_load(tmp_path, monkeypatch):
    monkeypatch.setattr("pixelgen.encoders.text.load_network", missing)
    path = saved(release(text_network(), text_network()), tmp_path)
    with pytest.raises(ValueError, match=r"^cannot load AutoModel from Qwen/Qwen3-1.7B"):
        pixelgen.load(path)


def missing(kind, source, *options, **more):
    raise ValueError(f"cannot load {kind} from {source}")


# Loading


@pytest.mark.parametrize("layout", ["release", "jit"])
@pytest.mark.parametrize("zipped", [True, False])
def test_raw_weights_and_averages_load_bit_for_bit(networks, files, tmp_path, layout, zipped):
    path = files[layout]
    if not zipped:
        path = tmp_path / "legacy.ckpt"
        whole = release(*networks[:2]) if layout == "release" else from_jit(*networks)
        torch.save(whole, path, _use_new_zipfile_serialization=False)
    names = {"release": ["ema"], "jit": ["ema1", "ema2"]}[layout]
    raw, *averages = (net.state_dict() for net in networks)
    assert same(weights(path), averages[0])
    for name, average in zip(names, averages, strict=False):
        assert same(weights(path, ema=name), average)
    assert same(weights(path, ema=False), raw)
    assert same(weights(path, ema="raw"), raw)
    with pytest.raises(ValueError, match=rf"no average '0.9999', only \['{names[0]}'"):
        pixelgen.load(path, ema=0.9999)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="the system does not list mapped files")
@pytest.mark.parametrize("layout", ["release", "jit"])
def test_published_files_are_mapped(files, layout):
    run = Run(files[layout])
    assert str(files[layout]) in Path("/proc/self/maps").read_text()
    assert run.check() in ("ema", "ema1")


@pytest.mark.parametrize("layout", ["release", "jit"])
def test_a_loaded_network_samples_as_the_one_that_was_saved(networks, files, layout):
    model = pixelgen.load(files[layout], device="cpu")
    source = PixelGen(networks[1], noise_scale=model.noise_scale)
    images = [m.sample([0, 2], seeds=1, sampler=Euler(num_steps=2)) for m in (source, model)]
    assert images[0].std() > 0.1
    assert torch.equal(*images)
    assert not model.training


def test_sampling_is_that_of_the_authors(networks, files, tmp_path):
    release_model, jit_model = (pixelgen.load(files[layout], device="cpu") for layout in ("release", "jit"))
    assert (release_model.noise_scale, jit_model.noise_scale) == (1.0, 2.0)  # JiT's file says so
    assert release_model.sampler.times == Heun(num_steps=50, shift=2.0).times
    assert jit_model.sampler.times == Heun(num_steps=50, shift=1.0).times
    trimmed = {key: value for key, value in from_jit(*networks).items() if key.startswith("model")}
    path = saved(trimmed, tmp_path)
    assert pixelgen.load(path, device="cpu").noise_scale == 1.0
    for side, expected in ((16, 1.0), (256, 1.0), (512, 2.0)):  # JiT's rule where the file does not say
        with torch.device("meta"):
            state = JiT(**(TINY | {"input_size": side})).state_dict()
        assert model_config(state, Recipe())["init_args"]["noise_scale"] == expected


def test_one_average_alone_is_a_checkpoint(networks, tmp_path):
    path = saved({"model_ema2": under("net.", networks[2])}, tmp_path)
    assert same(weights(path), networks[2].state_dict())
    with pytest.raises(ValueError, match=r"has no raw weights, only \['ema2'\]$"):
        pixelgen.load(path, ema=False)


def test_raw_weights_in_place_of_averages_are_said(networks, tmp_path):
    path = saved({"model": under("net.", networks[0])}, tmp_path)
    with pytest.warns(UserWarning, match="holds no averages"):
        assert same(weights(path), networks[0].state_dict())


def test_a_config_that_happens_to_be_near_is_not_read(networks, tmp_path):
    (tmp_path / "config.yaml").write_text("model: {}")
    (tmp_path / "ckpts").mkdir()
    path = saved(release(*networks[:2]), tmp_path / "ckpts")
    assert same(weights(path), networks[1].state_dict())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("ema_denoiser.blocks.1.attn.qkv.bias"), "blocks.1.attn.qkv.bias is missing"),
        (lambda state: state.update({"ema_denoiser.extra": torch.zeros(1)}), "extra is unexpected"),
        (
            lambda state: state.update({"ema_denoiser.final_layer.linear.bias": torch.zeros(3)}),
            r"final_layer.linear.bias is \(3,\) there, \(48,\) here",
        ),
    ],
)
def test_what_does_not_fit_is_named(networks, tmp_path, change, message):
    checkpoint = release(*networks[:2])  # the raw weights are whole: they must not fill the gaps of the average
    change(checkpoint["state_dict"])
    path = saved(checkpoint, tmp_path)
    for use in (pixelgen.load, convert, lambda source: start_from(PixelGen(network()), source)):
        with pytest.raises(ValueError, match=rf"^the weights in \S+ are of another network: {message}$"):
            use(path)
    assert same(weights(path, ema=False), networks[0].state_dict())


def test_filling_leaves_no_value_to_chance(networks):
    state = {key: value.bfloat16() for key, value in networks[0].state_dict().items()}
    random = torch.get_rng_state()
    found = denoiser_of(model_config(state, Recipe()), state, Path("a")).state_dict()
    assert same(found, {key: value.float() for key, value in state.items()})
    assert torch.equal(random, torch.get_rng_state())


# Files that are refused


class Hostile:
    """Makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


class Harmless:
    """Any Python object."""


@pytest.mark.parametrize("zipped", [True, False])
def test_python_objects_are_refused_and_nothing_is_executed(networks, tmp_path, zipped):
    path, made = tmp_path / "published.ckpt", tmp_path / "made"
    for thing, name in ((Hostile(str(made)), "mkdir"), (Harmless(), "test_published")):
        checkpoint = release(*networks[:2]) | {"hyper_parameters": {"thing": thing}}
        torch.save(checkpoint, path, _use_new_zipfile_serialization=zipped)
        sentence = rf"^\S+ holds Python objects that cannot be loaded safely \([\w.]*{name}[\w.]*, …\): save its "
        for use in (Run, pixelgen.load, convert, lambda source: start_from(PixelGen(network()), source)):
            with pytest.raises(ValueError, match=sentence) as refused:
                use(path)
            assert "\n" not in str(refused.value)
    assert not made.exists()


@pytest.mark.parametrize("layout", ["release", "jit"])
def test_the_way_out_of_a_file_with_python_objects(networks, tmp_path, monkeypatch, layout):
    whole = release(*networks[:2]) if layout == "release" else from_jit(*networks)
    path = saved(whole | {"hyper_parameters": {"thing": Harmless()}}, tmp_path)
    with pytest.raises(ValueError, match=r"once and in a sandbox, as docs/published.md shows$"):
        pixelgen.load(path)
    text = (Path(__file__).parents[2] / "docs" / "published.md").read_text()
    (lines,) = (block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "weights_only=False" in block)
    monkeypatch.chdir(tmp_path)
    exec(compile(lines, "published.md", "exec"), {})
    assert same(weights(tmp_path / "weights.ckpt"), networks[1].state_dict())


@pytest.mark.parametrize("contents", [{"model": {"conv.weight": torch.zeros(1)}}, {"a": 1}, [1], torch.zeros(1)])
def test_foreign_files_are_refused(tmp_path, contents):
    with pytest.raises(ValueError, match=r"is not a checkpoint of pixelgen, nor a published one of PixelGen or JiT$"):
        pixelgen.load(saved(contents, tmp_path))


# Starting from them


class Tokens(PatchEncoder):
    """Any encoder with eight features."""

    def __init__(self):
        super().__init__(torch.nn.Identity(), 8)


def aligned(seed=7, pdino=None, **objective):
    repa = REPA(layer=1, **objective)
    return PixelGen(
        network(seed), Objective(repa=repa, pdino=pdino, encoder=Tokens(), adaptive=AdaptiveWeight() if pdino else None)
    )


def test_a_new_run_starts_from_the_average_and_the_projector(networks, files):
    model = aligned()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        start_from(model, files["release"])
    assert same(model.denoiser.state_dict(), networks[1].state_dict())
    assert same(model.objective.repa.proj.state_dict(), projector().state_dict())


def test_a_projector_comes_along_without_an_adaptive_weight(files):
    model = aligned(pdino=PDINO())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        start_from(model, files["release"])
    assert same(model.objective.repa.proj.state_dict(), projector().state_dict())
    assert model.objective.adaptive.weight == 1


@pytest.mark.parametrize(("layout", "options"), [("jit", {}), ("release", {"projector_dim": 16})])
def test_a_projector_that_is_not_there_or_does_not_fit_starts_anew(networks, files, layout, options):
    model = aligned(**options)
    before = {key: value.clone() for key, value in model.objective.state_dict().items()}
    with pytest.warns(UserWarning, match=r"own weights \(repa.proj.0.0.weight, …\): they start anew"):
        start_from(model, files[layout])
    assert same(model.objective.state_dict(), before)
    assert same(model.denoiser.state_dict(), networks[1].state_dict())


def test_the_command_line_starts_from_a_published_file(tmp_path):
    from pixelgen.cli.training import CLI

    raw, average = (network(seed, input_size=32, num_classes=40) for seed in (3, 4))
    size = {key: value for key, value in TINY.items() if key not in ("input_size", "num_classes")}  # the data's
    config = tmp_path / "tiny.yaml"
    config.write_text(yaml.safe_dump({"model": {"denoiser": {"class_path": "JiT", "init_args": size}}}))
    arguments = ["--config", str(config), "--data", "ShapesData", "--trainer.accelerator", "cpu"]
    for checkpoint in (release(raw, average), from_jit(raw, average, raw)):
        path = saved(checkpoint, tmp_path)
        cli = CLI([*arguments, "--run", str(tmp_path / "run"), "--init_from", str(path)])
        assert same(cli.model.denoiser.state_dict(), average.state_dict())
        assert cli.trainer.global_step == 0


# Converting


@pytest.mark.parametrize(
    ("layout", "ema", "name", "source"),
    [
        ("release", True, "ema", 1),
        ("release", "raw", "raw", 0),
        ("jit", True, "ema1", 1),
        ("jit", "ema2", "ema2", 2),
        ("jit", False, "raw", 0),
    ],
)
def test_a_converted_file_loads_samples_and_starts_runs(networks, files, tmp_path, layout, ema, name, source):
    path = convert(files[layout], tmp_path / "out", ema)
    assert sorted(file.name for file in path.parent.iterdir()) == ["config.yaml", "model.safetensors"]
    assert same(load_file(path), networks[source].state_dict())
    with safe_open(path, framework="pt") as file:
        step = "400000" if layout == "release" else "None"
        assert file.metadata().items() >= {"format": "pixelgen-1", "average": name, "step": step}.items()
    converted, published = (pixelgen.load(file, device="cpu", ema=name) for file in (path.parent, files[layout]))
    assert same(converted.denoiser.state_dict(), networks[source].state_dict())
    assert type(converted.sampler) is type(published.sampler)
    assert converted.sampler.times == published.sampler.times
    images = [m.sample([0, 1], seeds=3, sampler=Euler(num_steps=2)) for m in (converted, published)]
    assert torch.equal(*images)
    model = PixelGen(network(9))
    start_from(model, path.parent)
    assert same(model.denoiser.state_dict(), networks[source].state_dict())
    assert same(load_file(export(path.parent, tmp_path / "again")), load_file(path))


def test_the_config_says_the_network_and_the_licence(files, tmp_path):
    text = (convert(files["jit"], tmp_path / "out").parent / "config.yaml").read_text()
    assert text.startswith(f"# ema1 of jit.pth, converted. {LICENCE}\n")
    assert yaml.safe_load(text)["model"] == {
        "class_path": "pixelgen.PixelGen",
        "init_args": {
            "denoiser": {"class_path": "pixelgen.models.JiT", "init_args": TINY},
            "sampler": {"class_path": "pixelgen.flow.Heun", "init_args": {"num_steps": 50, "shift": 1.0}},
            "noise_scale": 2.0,
        },
    }


def test_the_command_says_where_and_how_large(networks, files, tmp_path, capsys):
    path = main([str(files["release"]), "--to", str(tmp_path / "out"), "--ema", "raw"])
    assert capsys.readouterr().out == f"{path}: {path.stat().st_size / 1e6:.1f} MB, and config.yaml beside it\n"
    here = saved(from_jit(*networks), tmp_path, "JiT-B.pth")
    assert main([str(here)]) == tmp_path / "JiT-B" / "model.safetensors"
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    assert LICENCE in " ".join(capsys.readouterr().out.split())


def test_the_commands_of_the_documentation(files, tmp_path, monkeypatch):
    text = (Path(__file__).parents[2] / "docs" / "published.md").read_text()
    lines = [line for line in text.splitlines() if line.startswith("python -m pixelgen.convert")]
    monkeypatch.chdir(tmp_path)
    for name, layout in (("PixelGen_XL.ckpt", "release"), ("JiT-B.pth", "jit")):
        Path(name).symlink_to(files[layout])
    made = [main(shlex.split(line, comments=True)[3:]) for line in lines]
    assert [str(path) for path in made] == ["exports/xl/model.safetensors", "exports/jit/model.safetensors"]
    assert [yaml.safe_load(path.with_name("config.yaml").read_text()).keys() for path in made] == [{"model"}] * 2


def test_class_tokens_of_another_size_enter_where_the_command_says(tmp_path, capsys):
    source = network(1, **WITH_TOKENS)
    path = saved(from_jit(network(0, **WITH_TOKENS), source, source), tmp_path)
    with pytest.raises(SystemExit):
        main([str(path), "--to", str(tmp_path / "out")])
    assert capsys.readouterr().err.startswith("error: no published size has 4 blocks of width 32")
    assert not (tmp_path / "out").exists()
    out = main([str(path), "--to", str(tmp_path / "out"), "--in_context_start", "1"])
    images = [
        m.sample([1], seeds=2, sampler=Euler(num_steps=2)) for m in (PixelGen(source), pixelgen.load(out, device="cpu"))
    ]
    assert torch.equal(*images)


def test_nothing_is_overwritten(files, tmp_path, capsys):
    path = convert(files["jit"], tmp_path / "out")
    before = path.read_bytes()
    with pytest.raises(SystemExit) as stop:
        main([str(files["release"]), "--to", str(tmp_path / "out")])
    assert stop.value.code == 2
    holds = f"error: {tmp_path / 'out'} holds model.safetensors and config.yaml already: give another folder as --to\n"
    assert capsys.readouterr().err == holds
    assert path.read_bytes() == before
    with pytest.raises(ValueError, match=r"^could not write "):
        convert(files["jit"], path / "below")


def test_each_verb_names_the_other_for_files_of_the_other_kind(networks, files, tmp_path):
    with pytest.raises(ValueError, match=r"is a published checkpoint, not one of a run: python -m pixelgen.convert"):
        export(files["release"], tmp_path / "out")
    ours = saved({"state_dict": under("denoiser.", networks[0])}, tmp_path)
    for source in (ours, convert(files["release"], tmp_path / "converted")):
        with pytest.raises(ValueError, match=r"is not a published checkpoint: python -m pixelgen.export takes what"):
            convert(source, tmp_path / "out")
    with pytest.raises(ValueError, match="does not exist"):
        convert(tmp_path / "nothing.ckpt", tmp_path / "out")


def test_the_classes_of_published_imagenet_weights_are_imagenets(tmp_path):
    """Also once they are converted; another number of classes is of nobody knows what."""
    source = saved(from_jit(*(network(seed, num_classes=1000) for seed in range(3))), tmp_path)
    for path in (source, convert(source, tmp_path / "out").parent):
        model = pixelgen.load(path, device="cpu")
        assert model.class_names[207] == "n02099601"
        few = {"seeds": 0, "sampler": Euler(num_steps=1)}
        assert torch.equal(model.sample(["golden retriever", "tench"], **few), model.sample([207, 0], **few))
    few = saved(from_jit(*(network(seed) for seed in range(3))), tmp_path, "few.pth")
    assert pixelgen.load(few, device="cpu").class_names is None
