"""Scores of images by a command: right, complete with their protocol, and refused in a sentence otherwise."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pixelgen.encoders.inception import Inception
from pixelgen.evaluate import evaluate, is_images, main
from pixelgen.evaluation import Metrics, frechet_distance
from pixelgen.evaluation.protocol import PROTOCOLS
from pixelgen.evaluation.statistics import Statistics
from pixelgen.flow import Heun
from pixelgen.models import JiT
from pixelgen.samples.sampling import Sampling
from random_inception import write_weights
from toy_features import Toy, draw, reference_of, write_folder

HERE = Path(__file__).parent
TOY = ["--extractor", "toy_features.Toy", "--num_workers", "0"]
SMALL = Metrics(kid_subsets=5, kid_subset_size=10, splits=2)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Forty real and thirty other images, as folders."""
    root = tmp_path_factory.mktemp("images")
    return write_folder(draw(30), root / "made"), write_folder(draw(40, seed=1, brightness=30), root / "real")


def score(source, reference, **options):
    return evaluate(source, reference=reference, **({"extractor": Toy(), "metrics": SMALL, "num_workers": 0} | options))


def expected_distance():
    ours, theirs = (Toy()(images).double() for images in (draw(30), draw(40, seed=1, brightness=30)))
    return frechet_distance(ours.mean(0), ours.T.cov(), theirs.mean(0), theirs.T.cov())


def test_a_folder_against_a_folder(folders):
    made, real = folders
    scores = score(made, real)
    assert scores["frechet/toy"] == pytest.approx(expected_distance(), rel=1e-9)
    assert len(scores) == 8
    (record,) = [r for r in json.loads((made / "evaluation.json").read_text()) if r["scores"] == scores]
    assert record["protocol"]["sampler"] == record["protocol"]["average"] == "unknown"
    assert record["protocol"]["features"][0]["reference_images"] == 40
    assert record["protocol"]["features"][0]["settings"]["kid_subset_size"] == 10


def test_the_same_whatever_the_form_of_images_and_reference(folders, tmp_path):
    made, real = folders
    expected = score(made, real)
    np.savez(tmp_path / "samples.npz", arr_0=draw(30).permute(0, 2, 3, 1).numpy())
    images = draw(40, seed=1, brightness=30).permute(0, 2, 3, 1).numpy()
    np.savez(tmp_path / "real.npz", arr_0=images)
    main(["reference", str(real), "--to", str(tmp_path / "ours.npz"), *TOY])
    ours = Statistics.load(tmp_path / "ours.npz", Toy())
    moments = {name: getattr(ours, name).numpy() for name in ("mu", "sigma", "mu_s", "sigma_s")}
    np.savez(tmp_path / "adm.npz", **moments, arr_0=images)
    for reference in ("real.npz", "ours.npz", "adm.npz"):
        assert score(tmp_path / "samples.npz", tmp_path / reference) == pytest.approx(expected, rel=1e-6)
    np.savez(tmp_path / "jit.npz", mu=moments["mu"], sigma=moments["sigma"])
    few = score(tmp_path / "samples.npz", tmp_path / "jit.npz", to=tmp_path / "jit.json")
    assert set(few) == {"frechet/toy", "inception_score/toy", "inception_score_std/toy"}
    (record,) = json.loads((tmp_path / "jit.json").read_text())
    left_out = record["protocol"]["features"][0]["left_out"]
    assert left_out["sfid"] == "the reference has no spatial features"
    assert left_out["kid"] == "the reference holds no features of images"
    assert len(json.loads((tmp_path / "samples.evaluation.json").read_text())) == 3


def test_scores_of_one_protocol_are_replaced(folders, tmp_path):
    for metrics in (SMALL, SMALL, Metrics(kid=False)):
        score(*folders, metrics=metrics, to=tmp_path / "scores.json")
    assert len(json.loads((tmp_path / "scores.json").read_text())) == 2


def test_reference_images_are_cropped_to_the_others(folders, tmp_path):
    real = write_folder(draw(40, size=20, seed=1), tmp_path / "real")
    large = score(folders[0], real)
    from pixelgen.evaluation.images import open_images

    crops = open_images(real, 8)
    small = write_folder([crops[i]["image"] for i in range(40)], tmp_path / "small")
    assert large == pytest.approx(score(folders[0], small), rel=1e-9)


def test_statistics_of_another_extractor_are_refused_before_inception_is_looked_for(folders, tmp_path, capsys):
    made, real = folders
    main(["reference", str(real), "--to", str(tmp_path / "toy.npz"), *TOY])
    with pytest.raises(SystemExit):
        main([str(made), "--reference", str(tmp_path / "toy.npz")])
    assert "were made by toy, and Inception is taken if none is given" in capsys.readouterr().err


def test_two_extractors_in_one_pass(folders, tmp_path, monkeypatch):
    class Other(Toy):
        def __init__(self):
            super().__init__()
            self.name = "other"

    scores = score(*folders, dinov2=Other())
    assert scores["frechet/other"] == scores["frechet/toy"]
    main(["reference", str(folders[1]), "--to", str(tmp_path / "toy.npz"), *TOY])
    with pytest.raises(ValueError, match="were made by toy, not by other"):
        score(folders[0], tmp_path / "toy.npz", dinov2=Other())
    apart = score(folders[0], tmp_path / "toy.npz", dinov2=Other(), dinov2_reference=folders[1])
    assert apart == pytest.approx(scores, rel=1e-6)


def test_a_run_is_sampled_first(demo_run, folders, tmp_path, capsys):
    real = write_folder(draw(40, size=32, seed=1), tmp_path / "real")
    command = [str(demo_run), "--reference", str(real), "--num_images", "10", "--sampler.num_steps", "3", *TOY]
    folder = main([*command, "--precision", "32-true", "--ema", "raw"])
    assert folder.parent == demo_run / "samples"
    assert len(list(folder.glob("0*.png"))) == 10
    assert json.loads((folder / "settings.json").read_text())["sampler"]["num_steps"] == 3
    (record,) = json.loads((folder / "evaluation.json").read_text())
    said = capsys.readouterr().out
    assert "10 images of 32x32 px, each class in turn, from seed 0" in said
    assert "EMA raw, step 1, 32-true" in said
    assert "num_steps=3" in said
    assert "toy, weights unknown; reference real of 40 images, hash " in said
    assert "no kid: 10 images are fewer than 1000" in said
    assert score(folder, real, metrics=Metrics()) == pytest.approx(record["scores"], rel=1e-9)


def test_statistics_of_the_data_of_a_config(demo_run, tmp_path, capsys):
    to = tmp_path / "shapes.npz"
    main(["reference", "--config", str(demo_run / "config.yaml"), "--data.length", "24", "--to", str(to), *TOY])
    assert Statistics.load(to, Toy()).n == 24
    assert f"{to}: 24 images, toy" in capsys.readouterr().out
    main(["reference", "--config", str(demo_run / "config.yaml"), "--num_images", "12", "--to", str(to), *TOY])
    assert len(Statistics.load(to).features) == 12
    assert f"{to}: 12 images of 50000, evenly spaced, toy" in capsys.readouterr().out


def refusal(capsys, *arguments):
    with pytest.raises(SystemExit):
        main([*map(str, arguments), *TOY])
    said = [line for line in capsys.readouterr().err.splitlines() if line]
    assert len([line for line in said if line.startswith("error: ")]) == 1
    return said[-1]


def test_unreadable_images_are_counted_named_and_skipped_if_asked(folders, tmp_path, capsys):
    made = write_folder(draw(30), tmp_path / "made")
    for number in (3, 11):
        (made / f"{number:06d}.png").write_bytes(b"no image")
    said = refusal(capsys, made, "--reference", folders[1])
    assert "2 of 30 images cannot be read" in said
    assert "000003.png" in said
    assert "000011.png" in said
    scores = score(made, folders[1], skip_corrupt=True)
    for number in (3, 11):
        (made / f"{number:06d}.png").unlink()
    assert scores["frechet/toy"] == pytest.approx(score(made, folders[1])["frechet/toy"], rel=1e-9)
    skipped = [record["protocol"]["skipped"] for record in json.loads((made / "evaluation.json").read_text())]
    assert skipped == [2, 0]
    broken = write_folder(draw(30), tmp_path / "broken")
    for path in broken.iterdir():
        path.write_bytes(b"no image")
    with pytest.raises(ValueError, match="none of 30 files can be read as an image"):
        score(broken, folders[1], skip_corrupt=True)


def test_workers_tell_of_unreadable_images_in_the_same_sentence(folders, tmp_path):
    made = write_folder(draw(30), tmp_path / "made")
    (made / "000003.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"^1 of 30 images cannot be read \(.*000003.png\): repair"):
        score(made, folders[1], num_workers=2)


def test_bad_input(folders, demo_run, tmp_path, capsys):
    made, real = folders
    (tmp_path / "empty").mkdir()
    odd = write_folder(draw(3), tmp_path / "odd")
    Image.new("RGB", (9, 8)).save(odd / "000001.png")
    np.savez(tmp_path / "grey.npz", arr_0=np.zeros((4, 8, 8, 1), np.uint8))
    np.savez(tmp_path / "five.npz", mu=np.zeros(5), sigma=np.eye(5))
    Statistics(torch.zeros(6), torch.eye(6), 9, "other").save(tmp_path / "other.npz")
    for arguments, message in (
        ([tmp_path / "empty", "--reference", real], "there are no images in"),
        ([tmp_path / "nowhere", "--reference", real], "give a run, a checkpoint, an export, a folder of images or an"),
        ([made, "--reference", tmp_path / "empty"], "there are no images in"),
        ([made, "--reference", tmp_path / "nowhere.npz"], "nowhere.npz does not exist: give a folder of images, or"),
        ([odd, "--reference", real], "000001.png is 9x8 px but the first image is 8x8 px: give images of one size"),
        ([tmp_path / "grey.npz", "--reference", real], "want uint8 (N, H, W, 3), three channels, last"),
        ([made, "--reference", tmp_path / "five.npz"], "have 5 features but toy makes 6"),
        ([made, "--reference", tmp_path / "other.npz"], "were made by other, not by toy"),
        ([made, "--reference", real, "--num_images", "31"], "holds 30 images: give a num_images from 2"),
        ([made, "--reference", real, "--metrics.kid", "true"], "30 images are fewer than 1000: leave it out"),
        ([made, "--reference", real, "--sampler", "Euler"], "are made already: leave out the sampler"),
        ([demo_run, "--reference", real, "--ema", "0.5"], "the checkpoint has no average '0.5', only "),
        ([made], "--reference must be given"),
        ([made / "000001.png", "--reference", real], "000001.png is a single image: give the folder that it lies in"),
        (["reference", real, "--to", tmp_path / "x"], "x is to be an npz of statistics: give a name that ends in .npz"),
        (["reference", real, "--to", tmp_path / "x.npz", "--metrics.kid", "true"], "40 images are fewer than 1000"),
        (["reference", "--to", tmp_path / "x.npz"], "give either a folder or npz of images, or a data module"),
        (["reference", real, "--to", tmp_path / "x.npz", "--config", tmp_path / "none"], "has no section `data`"),
    ):
        assert message in refusal(capsys, *arguments)
    assert not (tmp_path / "x.npz").exists()


@pytest.mark.parametrize(
    ("metric", "kept", "reason"),
    [
        ("sfid", {"mu": 6}, "the reference has no spatial features"),
        ("sfid", {"mu": 6, "arr_0": 4}, "the reference has no spatial features"),
        ("precision_recall", {"mu": 6}, "the reference holds no features of images"),
        ("kid", {"arr_0": 4}, "4 images are fewer than 1000"),
    ],
)
def test_what_a_reference_lacks_is_told_before_images_are_made(demo_run, tmp_path, monkeypatch, metric, kept, reason):
    arrays = {"mu": np.zeros(6), "sigma": np.eye(6)} if "mu" in kept else {}
    arrays |= {"arr_0": np.zeros((4, 32, 32, 3), np.uint8)} if "arr_0" in kept else {}
    np.savez(tmp_path / "reference.npz", **arrays)
    monkeypatch.setattr("pixelgen.evaluate.sample_with", lambda *_, **__: pytest.fail("images are made"))
    with pytest.raises(ValueError, match=f"metrics.{metric} cannot be computed, since {reason}: leave it out"):
        score(demo_run, tmp_path / "reference.npz", metrics=Metrics(**{metric: True}))
    with pytest.raises(pytest.fail.Exception, match="images are made"):
        score(demo_run, tmp_path / "reference.npz", metrics=Metrics())


def test_a_set_with_a_gap_is_refused_and_its_beginning_is_not(folders, tmp_path):
    made = write_folder(draw(30), tmp_path / "made")
    (made / "settings.json").write_text("{}")
    whole = score(made, folders[1])
    (made / "000021.png").unlink()
    with pytest.raises(ValueError, match=r"lacks 000021\.png of 29 images: finish it"):
        score(made, folders[1])
    before = write_folder(draw(30)[:21], tmp_path / "before")
    assert score(made, folders[1], num_images=21) == score(before, folders[1]) != whole


def test_a_part_of_a_folder_is_spread_over_its_classes_and_said(tmp_path, capsys):
    colors = [torch.full((4, 3, 8, 8), 25 * k, dtype=torch.uint8) + draw(4, seed=k) // 20 for k in range(10)]
    for k, images in enumerate(colors):
        write_folder(images, tmp_path / f"made/{k}")
    part = score(tmp_path / "made", tmp_path / "made", num_images=10, to=tmp_path / "part.json")
    assert part.protocol["of"], part.protocol["selection"] == (40, "evenly spaced")
    assert part["frechet/toy"] < 0.1 * score(tmp_path / "made/0", tmp_path / "made")["frechet/toy"]
    main([str(tmp_path / "made"), "--reference", str(tmp_path / "made"), "--num_images", "10", *TOY])
    assert "10 images of 40, evenly spaced, of 8x8 px" in capsys.readouterr().out
    assert "of" not in score(tmp_path / "made", tmp_path / "made").protocol


def test_the_first_images_of_a_set_of_ours_are_the_set_of_so_many(demo_run, tmp_path, capsys):
    real = write_folder(draw(12, size=32, seed=1), tmp_path / "real")
    options = ["--reference", str(real), "--sampler.num_steps", "2", "--seed", "3", *TOY]
    folder = main([str(demo_run), "--num_images", "5", *options])
    (few,) = json.loads((folder / "evaluation.json").read_text())
    assert few["protocol"]["classes_shown"] == "the first 5 of 40"
    main([str(demo_run), "--num_images", "8", *options])
    main([str(folder), "--num_images", "5", "--reference", str(real), *TOY])
    again = json.loads((folder / "evaluation.json").read_text())[-1]
    assert again["scores"] == few["scores"]
    assert (again["protocol"]["of"], again["protocol"]["selection"]) == (8, "the first ones")


def test_statistics_of_images_of_another_size_are_refused_before_images_are_made(demo_run, tmp_path, monkeypatch):
    monkeypatch.setattr("pixelgen.evaluate.sample_with", lambda *_, **__: pytest.fail("images are made"))
    large, moments = draw(9, size=64), {"mu": np.zeros(6), "sigma": np.eye(6)}
    main(["reference", str(write_folder(large, tmp_path / "large")), "--to", str(tmp_path / "ours.npz"), *TOY])
    np.savez(tmp_path / "adm.npz", **moments, arr_0=large.permute(0, 2, 3, 1).numpy())
    made = write_folder(draw(9, size=32), tmp_path / "made")
    for name in ("ours", "adm"):
        for source in (demo_run, made):
            with pytest.raises(ValueError, match=r"is of 64x64 px images, and 32x32 px images cannot be compared"):
                score(source, tmp_path / f"{name}.npz", num_images=9)
    with pytest.warns(UserWarning, match=r"not 32x32 px \(the first is 64x64 px\): they are resized and cropped"):
        score(made, tmp_path / "large")


def test_a_missing_reference_is_told_before_inception_is_looked_for(folders, demo_run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("pixelgen.evaluate.Inception", lambda: pytest.fail("weights are looked for"))
    for source in (folders[0], demo_run):
        with pytest.raises(SystemExit):
            main([str(source), "--reference", str(tmp_path / "nowhere")])
        assert f"{tmp_path / 'nowhere'} does not exist: give a folder" in capsys.readouterr().err


def test_a_set_of_weights_that_are_not_finite_has_neither_images_nor_score(demo_run, folders, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(demo_run, run, ignore=shutil.ignore_patterns("samples"))
    path = run / "checkpoints" / "last.ckpt"
    checkpoint = torch.load(path, weights_only=False)
    name = next(name for name in checkpoint["state_dict"] if name.startswith("denoiser.blocks"))
    checkpoint["state_dict"][name].view(-1)[0] = float("nan")
    torch.save(checkpoint, path)
    said = refusal(capsys, run, "--reference", folders[1], "--num_images", "4", "--ema", "raw")
    assert re.search(r"run holds weights that are not finite .*blocks.* first\): raw weights of step 1; take", said)
    assert not (run / "samples").exists()


# --- published protocols


def protocol(monkeypatch, name="adm", **changes):
    """A protocol in small, of the toy features and 30 images of 10 classes."""
    small = {"images": 30, "real": 40, "classes": 3, "extractor": "toy", "weights": ""}
    monkeypatch.setitem(PROTOCOLS, name, replace(PROTOCOLS[name], **small | changes))


@pytest.fixture
def adm(folders, tmp_path):
    images = draw(40, seed=1, brightness=30)
    real = reference_of(images, SMALL)
    moments = {name: getattr(real, name).numpy() for name in ("mu", "sigma", "mu_s", "sigma_s")}
    np.savez(tmp_path / "adm.npz", **moments, arr_0=images.permute(0, 2, 3, 1).numpy())
    np.savez(tmp_path / "jit.npz", mu=moments["mu"], sigma=moments["sigma"])
    return tmp_path / "adm.npz"


def test_protocols_measure_what_they_name_and_nothing_else(folders, adm, monkeypatch, tmp_path):
    for name in PROTOCOLS:
        protocol(monkeypatch, name)
    expected = score(folders[0], adm)
    found = score(folders[0], adm, metrics=Metrics(), protocol="adm")
    assert found.protocol["protocol"] == "adm"
    inception = {"inception_score/toy", "inception_score_std/toy"}
    assert set(found) == {"frechet/toy", "spatial_frechet/toy", "precision/toy", "recall/toy"} | inception
    for other in set(found) - inception:
        assert found[other] == expected[other]
    p = (10 * torch.nn.functional.adaptive_avg_pool2d(draw(30).float().mean(1) / 255, 2).flatten(1)).softmax(1).double()
    parts = [(part * (part.log() - part.mean(0).log())).sum(1).mean().exp() for part in p.split(3)]  # in their order
    assert found["inception_score/toy"] == pytest.approx(float(torch.stack(parts).mean()), rel=1e-5)
    assert found.protocol["features"][0]["settings"]["shuffled"] is False
    few = score(folders[0], tmp_path / "jit.npz", metrics=Metrics(), protocol="jit")
    assert set(few) == {"frechet/toy"} | inception
    assert few["inception_score/toy"] == score(folders[0], adm, metrics=Metrics())["inception_score/toy"]


@pytest.mark.parametrize(("options", "sentence"), [
    (["--num_images", "20"], "--protocol adm fixes num_images: leave out --num_images"),
    (["--metrics.kid", "true"], "--protocol adm fixes metrics: leave out --metrics"),
    (["--skip_corrupt", "true"], "--protocol adm fixes skip_corrupt: leave out --skip_corrupt"),
    (["--random_classes"], "leave out the sampler, prompts, random_classes and compile"),
    (["--dinov2", "toy_features.Toy"], "--protocol adm fixes dinov2: leave out --dinov2"),
    (["--protocol", "jit"], "--protocol jit fixes --reference, an npz of mu, sigma alone: "),
    (["--reference", "jit.npz"], "fixes --reference, an npz of arr_0, mu, mu_s, sigma, sigma_s: jit.npz lacks arr_0"),
])  # fmt: skip
def test_a_protocol_refuses_what_disagrees(folders, adm, monkeypatch, capsys, options, sentence):
    for name in PROTOCOLS:
        protocol(monkeypatch, name)
    monkeypatch.chdir(adm.parent)
    assert sentence in refusal(capsys, folders[0], "--reference", adm, "--protocol", "adm", *options)


@pytest.mark.parametrize(("changes", "sentence"), [
    ({"images": 20}, "fixes the number of images, 20: it cannot be 30"),
    ({"images": 31}, "fixes the number of images, 31: it cannot be 30"),
    ({"real": 41}, "fixes the number of images in --reference, 41: it cannot be 40"),
    ({"extractor": "inception-v3-compat"}, "fixes --extractor, inception-v3-compat: it cannot be toy"),
    ({"weights": "6726825d"}, "fixes the SHA-256 of its weights, 6726825d: it cannot be "),
])  # fmt: skip
def test_a_protocol_refuses_another_set_reference_or_extractor(folders, adm, monkeypatch, changes, sentence):
    protocol(monkeypatch, **changes)
    with pytest.raises(ValueError, match=sentence):
        score(folders[0], adm, metrics=Metrics(), protocol="adm")


def test_a_protocol_looks_at_the_network_before_and_at_the_set_after_sampling(demo_run, tmp_path, monkeypatch):
    images = draw(40, size=32)
    moments = {name: getattr(reference_of(images, SMALL), name).numpy() for name in ("mu", "sigma", "mu_s", "sigma_s")}
    np.savez(tmp_path / "adm.npz", **moments, arr_0=images.permute(0, 2, 3, 1).numpy())
    np.savez(tmp_path / "jit.npz", mu=moments["mu"], sigma=moments["sigma"])
    options = {"metrics": Metrics(), "protocol": "adm", "to": tmp_path / "scores.json"}
    protocol(monkeypatch, images=8)
    with pytest.raises(ValueError, match="fixes the number of classes of the network, 3: it cannot be 40"):
        score(demo_run, tmp_path / "adm.npz", **options)
    protocol(monkeypatch, images=8, classes=40)
    two = Sampling(sampler=Heun(2), precision="bf16-mixed")
    for other, sentence in (
        (replace(two, precision="32-true"), "fixes --precision, bf16-mixed: it cannot be 32-true"),
        (replace(two, random_classes=True), "--protocol adm fixes random_classes: leave out --random_classes"),
        (replace(two, size=(16, 16)), "--protocol adm fixes size: leave out --size"),
    ):
        with pytest.raises(ValueError, match=sentence):
            score(demo_run, tmp_path / "adm.npz", **options, sampling=other)
    found = score(demo_run, tmp_path / "adm.npz", **options, sampling=two)
    assert (found.protocol["images"], found.protocol["classes"]) == (8, "each class in turn")
    folder = Path(found.protocol["source"])
    assert score(folder, tmp_path / "adm.npz", **options) == found
    protocol(monkeypatch, "jit", images=8, classes=40)
    for source, sampling in (demo_run, two), (folder, Sampling()):
        with pytest.raises(ValueError, match=r"fixes --sampler\.num_steps, 50: it cannot be 2"):
            score(source, tmp_path / "jit.npz", **options | {"protocol": "jit"}, sampling=sampling)
    settings = json.loads((folder / "settings.json").read_text())
    for name, value, sentence in (
        ("conditions", ["3"], "fixes how classes are drawn, each class in turn: it cannot be "),
        ("precision", "32-true", "fixes --precision, bf16-mixed: it cannot be 32-true"),
    ):
        (folder / "settings.json").write_text(json.dumps(settings | {name: value}))
        with pytest.raises(ValueError, match=sentence):
            score(folder, tmp_path / "adm.npz", **options)


def test_a_small_reference_warns(folders, tmp_path):
    real = write_folder(draw(5), tmp_path / "real")
    with pytest.warns(UserWarning, match="5 reference images are too few for 6 features"):
        score(folders[0], real)


def test_the_network_is_compiled_if_asked(demo_run, folders, monkeypatch):
    asked = []
    monkeypatch.setattr("pixelgen.evaluate.sample_with", lambda *_, **__: folders[0])
    monkeypatch.setattr(JiT, "compile_blocks", lambda *_, **__: asked.append(1))
    for flags, compiled in ([], []), (["--compile"], [1]):
        main([str(demo_run), "--reference", str(folders[1]), "--num_images", "30", *flags, *TOY])
        assert asked == compiled


def test_what_is_images_and_what_weights(folders, demo_run, tmp_path):
    assert is_images(folders[0])
    assert not is_images(demo_run)
    assert not is_images(demo_run / "checkpoints" / "last.ckpt")
    (tmp_path / "config.yaml").write_text("")
    with pytest.raises(ValueError, match=r"has neither checkpoints/last\.ckpt nor"):
        is_images(tmp_path)  # a run that has saved nothing yet


@pytest.mark.slow
def test_two_processes_equal_one(demo_run, tmp_path):
    real = write_folder(draw(41, size=32, seed=1), tmp_path / "real")
    for devices in (1, 2):
        command = [
            str(demo_run),
            "--reference",
            str(real),
            "--num_images",
            "21",
            *TOY,
            "--metrics.kid_subset_size",
            "9",
        ]
        command += ["--precision", "32-true", "--seed", "5", "--devices", str(devices)]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE), *sys.path]), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, "-m", "pixelgen.evaluate", *command, "--to", str(tmp_path / f"{devices}.json")],
            env=environment, capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        assert done.stdout.count("metric") == 1
    one, two = (json.loads((tmp_path / f"{devices}.json").read_text()) for devices in (1, 2))
    assert two[0]["scores"] == pytest.approx(one[0]["scores"], rel=1e-9)
    for (record,) in (one, two):
        del record["protocol"]["features"][0]["reference_fingerprint"]  # of sums that were rounded in another order
    assert two[0]["protocol"] == one[0]["protocol"]


@pytest.mark.slow
def test_agrees_with_torch_fidelity_on_the_same_images_and_weights(tmp_path):
    from torch_fidelity import calculate_metrics

    weights = write_weights(tmp_path / "inception.pth")
    made = write_folder(draw(16, size=32, brightness=-60), tmp_path / "made")
    real = write_folder(draw(18, size=32, seed=1, brightness=40), tmp_path / "real")
    metrics = Metrics(kid_subsets=10, kid_subset_size=12, splits=3)
    ours = evaluate(made, reference=real, extractor=Inception(weights), metrics=metrics, num_workers=0)
    theirs = calculate_metrics(
        input1=str(made), input2=str(real), cuda=False, isc=True, fid=True, kid=True, prc=True, verbose=False,
        feature_extractor="inception-v3-compat", feature_extractor_weights_path=str(weights), cache=False,
        isc_splits=3, kid_subsets=10, kid_subset_size=12, prc_neighborhood=3,
    )  # fmt: skip
    names = {
        "fid": "frechet_inception_distance", "kid": "kernel_inception_distance_mean",
        "kid_std": "kernel_inception_distance_std", "inception_score": "inception_score_mean",
        "inception_score_std": "inception_score_std", "precision": "precision", "recall": "recall",
    }  # fmt: skip
    assert set(ours) == {*names, "sfid"}
    for name, other in names.items():
        assert ours[name] == pytest.approx(theirs[other], rel=1e-4, abs=1e-6), name
    assert ours["fid"] > 1
    assert ours["inception_score"] > 1.001
    assert 0 < ours["recall"] < 1  # the images made are darker and more alike
