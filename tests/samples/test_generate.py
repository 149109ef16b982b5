"""Sets of images are the same to the byte however they came about, and errors are told once, in a sentence."""

import copy
import hashlib
import json
import re

import numpy as np
import pytest
import torch
from lightning import Fabric
from PIL import Image

from pixelgen import PixelGen
from pixelgen.flow import Heun, to_uint8
from pixelgen.models import JiT
from pixelgen.samples.generate import METADATA, Request, generate, stream
from pixelgen.samples.sampling import Sampling
from pixelgen.samples.settings import folder_name, is_guided, network_batch, settings_of

SETTINGS = {"sampler": {"class": "Heun", "num_steps": 2}, "seed": 0}
EXACT = Sampling(precision="32-true")


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    denoiser = JiT(
        input_size=16, patch_size=8, hidden_size=16, depth=2, num_heads=2, num_classes=3, bottleneck_dim=4,
        in_context_len=0,
    )  # fmt: skip
    for weight in denoiser.parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=weight[0].numel() ** -0.5)
    return PixelGen(denoiser, sampler=Heun(num_steps=2, guidance=2.0))


@pytest.fixture(scope="module")
def fabric():
    return Fabric(accelerator="cpu", devices=1)


def requests(count):
    return [Request(f"{i % 2}/{i:06d}.png", 100 + i, i % 3) for i in range(count)]


def hashes(folder):
    files = {str(path.relative_to(folder)): path for path in folder.rglob("*.*")}
    return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}


def pixels(path):
    with Image.open(path) as image:
        return np.array(image)


@pytest.fixture(scope="module")
def whole(model, fabric, tmp_path_factory):
    """Seventy images in one go: two full network batches and a part of one."""
    folder = tmp_path_factory.mktemp("whole")
    generate(model, requests(70), folder, SETTINGS, fabric, EXACT)
    return folder


def test_files_are_what_sample_returns_with_all_that_made_them(whole, model):
    image = to_uint8(model.sample([i % 3 for i in range(32)], list(range(100, 132))))[5]
    path = whole / "1" / "000005.png"
    assert np.array_equal(pixels(path), image.permute(1, 2, 0).numpy())
    with Image.open(path) as file:
        assert json.loads(file.text[METADATA]) == SETTINGS | {"network_batch": 32, "seed": 105, "condition": 2}
    assert json.loads((whole / "settings.json").read_text()) == SETTINGS | {"network_batch": 32}
    assert len([*whole.rglob("*.png")]) == 70


@pytest.mark.parametrize("batch_size", [1, 64, 1000])
def test_batch_size_does_not_change_a_byte(whole, model, fabric, tmp_path, batch_size):
    generate(model, requests(70), tmp_path, SETTINGS, fabric, Sampling(precision="32-true", batch_size=batch_size))
    assert hashes(tmp_path) == hashes(whole)


def test_an_interrupted_set_is_finished_and_what_is_there_is_kept(whole, model, fabric, tmp_path, monkeypatch):
    made = []

    def sample(conditions, seeds, *args, **options):
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(seeds)
        return PixelGen.sample(model, conditions, seeds, *args, **options)

    monkeypatch.setattr(model, "sample", sample)
    with pytest.raises(KeyboardInterrupt):
        generate(model, requests(70), tmp_path, SETTINGS, fabric, EXACT)
    assert 0 < len([*tmp_path.rglob("*.png")]) <= 64
    (tmp_path / "0" / "000002.png").unlink()  # of the first batch, which is made again for it
    kept = (tmp_path / "0" / "000000.png").stat().st_ino
    (tmp_path / "0" / ".000066.png.unfinished").write_bytes(b"half of an image")
    monkeypatch.undo()
    generate(model, requests(70), tmp_path, SETTINGS, fabric, EXACT)
    assert hashes(tmp_path) == hashes(whole)
    assert (tmp_path / "0" / "000000.png").stat().st_ino == kept


def test_a_set_grows_at_its_end_and_a_finished_one_costs_nothing(whole, model, fabric, tmp_path, monkeypatch):
    generate(model, requests(40), tmp_path, SETTINGS, fabric, EXACT)
    generate(model, requests(70), tmp_path, SETTINGS, fabric, EXACT)
    assert hashes(tmp_path) == hashes(whole)
    monkeypatch.setattr(model, "sample", None)
    generate(model, requests(70), tmp_path, SETTINGS, fabric, EXACT)


def test_a_set_of_other_settings_is_refused(whole, model, fabric, tmp_path):
    other = SETTINGS | {"sampler": {"class": "Euler", "num_steps": 2}}
    with pytest.raises(ValueError, match=r"of other settings \(sampler.class is 'Heun', not 'Euler'\): give another"):
        generate(model, requests(2), whole, other, fabric, EXACT)
    (tmp_path / "0").mkdir()
    (tmp_path / "0" / "000000.png").touch()
    with pytest.raises(ValueError, match=r"holds 0/000000.png but no settings.json: give another folder"):
        generate(model, requests(2), tmp_path, SETTINGS, fabric, EXACT)


def test_two_at_a_time_are_refused(model, fabric, tmp_path, monkeypatch):
    def meanwhile(*args, **options):
        with pytest.raises(ValueError, match=r"is being filled by another process: wait for it or give another folder"):
            generate(model, requests(2), tmp_path, SETTINGS, fabric, EXACT)
        return PixelGen.sample(model, *args, **options)

    monkeypatch.setattr(model, "sample", meanwhile)
    generate(model, requests(2), tmp_path, SETTINGS, fabric, EXACT)


def test_errors_of_the_writing_threads_are_raised(model, fabric, tmp_path, monkeypatch):
    def full(image, file, *args, **options):
        file.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, "save", full)
        with pytest.raises(ValueError, match=r"could not write .*\.png \(.*No space left on device\): free some space"):
            generate(model, requests(40), tmp_path, SETTINGS, fabric, EXACT)
    assert not [*tmp_path.rglob("*.png.unfinished")]
    generate(model, requests(40), tmp_path, SETTINGS, fabric, EXACT)
    assert len([*tmp_path.rglob("[0-9]*.png")]) == 40


def test_the_network_batch_depends_on_the_number_and_size_of_the_images_alone(model):
    assert [network_batch(model.denoiser, n) for n in (1, 2, 3, 16, 17, 32, 50_000)] == [1, 2, 4, 16, 32, 32, 32]
    assert network_batch(JiT(depth=1, hidden_size=16, num_heads=2, in_context_len=0), 64) == 32
    assert network_batch(model.denoiser, 64, (512, 256)) == 4  # 2048 patches each
    assert network_batch(model.denoiser, 64, (2048, 2048)) == 1


def rows_of(model, number, fabric, folder):
    """How many images the network sees at a time while a set is made."""
    rows = []
    hook = model.denoiser.register_forward_pre_hook(lambda _, inputs: rows.append(len(inputs[0])))
    try:
        generate(model, requests(number), folder, SETTINGS, fabric, EXACT)
    finally:
        hook.remove()
    return set(rows)


@pytest.mark.parametrize(("number", "together"), [(1, 1), (3, 4), (33, 32)])
def test_the_network_sees_whole_batches(model, fabric, tmp_path, number, together):
    assert rows_of(model, number, fabric, tmp_path) == {together, 2 * together}  # unguided and guided steps
    assert json.loads((tmp_path / "settings.json").read_text())["network_batch"] == together


def test_a_small_set_that_grows_keeps_its_network_batch(model, fabric, tmp_path):
    generate(model, requests(3), tmp_path, SETTINGS, fabric, EXACT)
    first = hashes(tmp_path)
    assert rows_of(model, 9, fabric, tmp_path) == {4, 8}
    assert hashes(tmp_path).items() >= first.items()


def numbers_and_images(model, count, **options):
    return [(numbers, images) for numbers, images in stream(model, requests(count), **options)]


def test_the_stream_is_what_sample_returns(model):
    expected = to_uint8(model.sample([i % 3 for i in range(7)], list(range(100, 107)), batch_size=3))
    found = numbers_and_images(model, 7, batch_size=3)
    assert [numbers for numbers, _ in found] == [[0, 1, 2], [3, 4, 5], [6]]
    assert torch.equal(torch.cat([images for _, images in found]), expected)


def test_every_process_calls_the_network_equally_often(model, monkeypatch):
    calls = []

    def sample(conditions, seeds, *args, **options):
        calls.append(len(seeds))
        return PixelGen.sample(model, conditions, seeds, *args, **options)

    monkeypatch.setattr(model, "sample", sample)
    shares, counts = [], []
    for rank in range(3):
        calls.clear()
        shares += [numbers_and_images(model, 8, batch_size=2, rank=rank, world_size=3)]
        counts.append(len(calls))
    assert counts == [2, 2, 2]
    assert [[numbers for numbers, _ in share] for share in shares] == [[[0, 1], [6, 7]], [[2, 3]], [[4, 5]]]
    calls.clear()
    assert [numbers for numbers, _ in numbers_and_images(model, 5, batch_size=4, present={0, 1, 2, 3}, pad=True)] == [
        [4]
    ]
    assert calls == [4]


def test_the_stream_takes_other_samplers_sizes_and_precisions(model):
    sampling = Sampling(sampler=Heun(num_steps=3), size=(8, 16), precision="bf16-mixed")
    ((_, images),) = numbers_and_images(model, 2, sampling=sampling)
    expected = model.sample([0, 1], 100, Heun(num_steps=3), size=(8, 16), precision="bf16-mixed")
    assert torch.equal(images, to_uint8(expected))


def test_images_that_are_not_finite_are_never_written(model, fabric, tmp_path):
    broken = copy.deepcopy(model)
    broken.origin = "EMA 0.9 of step 7, runs/x"
    with torch.no_grad():
        broken.denoiser.y_embedder.embedding_table.weight[1] = float("nan")  # of one class alone
    with pytest.raises(ValueError, match=r"^EMA 0.9 of step 7, runs/x makes images .* not finite, of seed 101 first: "):
        generate(broken, requests(4), tmp_path / "set", SETTINGS, fabric, EXACT)
    assert not [*(tmp_path / "set").rglob("*.png")]


def test_a_folder_claims_guidance_only_where_a_step_is_guided(model):
    for sampler, name in (
        (Heun(4, guidance=2.0), "Heun4-guidance2-"),
        (Heun(4, guidance=2.0, guidance_min=0.1, guidance_max=0.6), "Heun4-guidance2-0.1to0.6-"),
        (Heun(4), "Heun4-"),
    ):
        settings = settings_of(model, Sampling(sampler), {"average": "0.9", "step": 7}, {}, 4)
        found = folder_name(settings, is_guided(model, Sampling(sampler)))
        assert re.fullmatch(rf"0\.9-step7-{name}[0-9a-f]{{6}}", found)
    never = Sampling(Heun(4, guidance=2.0, guidance_min=0.6, guidance_max=0.7))  # times 0, 0.25, 0.5, 0.75
    with pytest.warns(UserWarning, match=r"guidance 2 guides no step: .* none of the 4 steps starts between 0.6 and"):
        settings = settings_of(model, never, {"average": "0.9", "step": 7}, {}, 4)
    assert re.fullmatch(r"0\.9-step7-Heun4-[0-9a-f]{6}", folder_name(settings, is_guided(model, never)))
    assert settings["sampler"]["guidance"] == 2
