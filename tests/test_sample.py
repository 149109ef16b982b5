"""The command: what is made, in which folder, from which settings; kills, several processes and bad input."""

import hashlib
import json
import shutil
import signal

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import pixelgen
from moments import in_the_fiftieth_image
from pixelgen.export import export
from pixelgen.flow import to_uint8
from pixelgen.runs.run import Run
from pixelgen.sample import main, sample
from pixelgen.samples.sampling import Sampling, default_precision
from pixelgen.samples.settings import settings_of
from processes import finish, free_port, start, status
from tiny_run import TinyModule, randomise_average

EXACT = ["--precision", "32-true"]


@pytest.fixture(scope="module")
def run(demo_run, tmp_path_factory):
    """A copy of the demo run that other tests do not write into, of an untrained network that is not all zeros."""
    folder = tmp_path_factory.mktemp("sample") / "run"
    shutil.copytree(demo_run, folder)
    randomise_average(folder)
    return folder


def hashes(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("*.png"))}


def settings(folder):
    return json.loads((folder / "settings.json").read_text())


def conditions(folder):
    found = []
    for path in sorted(folder.glob("0*.png")):
        with Image.open(path) as image:
            found.append(json.loads(image.text["pixelgen"])["condition"])
    return found


def test_images_of_the_run_are_those_of_its_model(run):
    folder = main([str(run), "--num_images", "42", "--seed", "7", "--npz", *EXACT])
    assert folder.parent == run / "samples"
    model = pixelgen.load(run, device="cpu")
    first = [model.sample([i % 40 for i in part], [7 + i for i in part]) for part in (range(32), [*range(32, 42)] * 4)]
    expected = to_uint8(torch.cat(first)[:42]).permute(0, 2, 3, 1).numpy()
    with np.load(folder / "samples.npz") as file:
        assert file.files == ["arr_0"]
        assert np.array_equal(file["arr_0"], expected)
    with Image.open(folder / "000041.png") as image:
        assert np.array_equal(np.array(image), expected[41])
    with Image.open(folder / "grid.png") as image:
        assert image.size == (2 + 8 * 34, 2 + 6 * 34)
        assert np.array_equal(np.array(image)[2:34, 36:68], expected[1])
    found = settings(folder)
    assert found["conditions"] == "each class in turn"
    assert (found["average"], found["step"], found["seed"], found["size"]) == ("0.9999", 1, 7, [32, 32])
    own = {"num_steps": 2, "guidance": 1.0, "guidance_min": 0.0, "guidance_max": 1.0, "shift": 1.0, "t_eps": 0.05}
    assert found["sampler"] == {"class": "Euler", **own}
    assert folder.name.startswith("0.9999-step1-Euler2-")


def test_settings_of_the_sampler_change_the_runs_own(run):
    folder = main([str(run), "--num_images", "1", "--sampler.guidance", "2", "--sampler.guidance_min=0.25"])
    assert settings(folder)["sampler"]["num_steps"] == 2
    assert settings(folder)["sampler"]["guidance"] == 2
    assert folder.name.startswith("0.9999-step1-Euler2-guidance2-0.25to1-")


def test_a_class_of_sampler_starts_from_its_own_defaults(run):
    folder = main([str(run), "--num_images", "1", "--sampler", "Heun", "--sampler.exact", "false"])
    assert settings(folder)["sampler"]["num_steps"] == 50
    assert settings(folder)["sampler"]["exact"] is False


def test_the_checkpoint_is_read_once(run, tmp_path, monkeypatch):
    read, load = [], torch.load
    monkeypatch.setattr(torch, "load", lambda path, **options: read.append(path) or load(path, **options))
    main([str(run), "--classes", "red circle", "--sampler.guidance", "2", "--to", str(tmp_path / "set")])
    assert read == [run / "checkpoints" / "last.ckpt"]


def test_python_takes_an_open_run(run, tmp_path):
    opened, sampling = Run(run), Sampling(ema="raw", seed=3, precision="32-true")
    ours = sample(opened, tmp_path / "ours", num_images=2, sampling=sampling)
    theirs = main([str(run), "--num_images", "2", "--ema", "raw", "--seed", "3", "--to", str(tmp_path / "b"), *EXACT])
    assert hashes(ours) == hashes(theirs)


def test_classes_by_number_range_and_name(run, tmp_path):
    folder = main([str(run), "--classes", "5", "10-12", "red circle", "Orange Square", "--to", str(tmp_path)])
    assert conditions(folder) == [5, 10, 11, 12, 0, 11]
    main([str(run), "--classes", "5", "10-12", "red circle", "11", "--to", str(tmp_path), "--num_images", "8"])
    assert conditions(folder) == [5, 10, 11, 12, 0, 11, 5, 10]


def test_averages_and_sizes_are_other_sets(run):
    other = "32-true" if default_precision() == "bf16-mixed" else "bf16-mixed"
    folders = [
        main([str(run), "--num_images", "2", *more])
        for more in ([], ["--ema", "raw"], ["--size", "32", "64"], ["--seed", "1"], ["--precision", other])
    ]
    assert len(set(folders)) == 5
    assert settings(folders[1])["average"] == "raw"
    with Image.open(folders[2] / "000000.png") as image:
        assert image.size == (64, 32)


def test_an_export_gives_the_same_images(run, tmp_path):
    export(run, tmp_path / "export")
    ours = main([str(run), "--num_images", "3", "--to", str(tmp_path / "ours")])
    theirs = main([str(tmp_path / "export"), "--num_images", "3"])
    assert theirs.parent == tmp_path / "export" / "samples"
    assert hashes(ours) == hashes(theirs)


def test_two_processes_make_what_one_makes(run, tmp_path):
    one = main([str(run), "--num_images", "100", "--to", str(tmp_path / "one"), *EXACT])
    arguments = [str(run), "--num_images", "100", "--to", str(tmp_path / "two"), "--devices", "2", *EXACT]
    log, port = tmp_path / "log", free_port()
    finish([start(arguments, log, rank, 2, port, main=main) for rank in (0, 1)], log)
    assert hashes(tmp_path / "two") == hashes(one)
    assert log.read_text().count("grid.png") == 1


def test_an_error_of_one_process_ends_all(run, tmp_path):
    used = main([str(run), "--num_images", "2", "--to", str(tmp_path / "used")])
    arguments = [str(run), "--num_images", "2", "--to", str(used), "--seed", "1", "--devices", "2"]
    log, port = tmp_path / "log", free_port()
    processes = [start(arguments, log, rank, 2, port, main=main) for rank in (0, 1)]
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [2, 2]
    assert "holds images of other settings (seed is 0, not 1): give another folder" in log.read_text()


def test_killed_while_it_writes_and_started_again(run, tmp_path):
    whole = main([str(run), "--num_images", "100", "--to", str(tmp_path / "whole"), *EXACT])
    arguments = [str(run), "--num_images", "100", "--to", str(tmp_path / "killed"), *EXACT]
    assert status(start(arguments, tmp_path / "log", main=main, prepare=in_the_fiftieth_image)) == -signal.SIGKILL
    left = [*tmp_path.glob("killed/0*.png")]
    assert 40 < len(left) < 64
    assert [*tmp_path.glob("killed/.0*.png.unfinished")]
    for path in left:  # whole ones only
        assert path.read_bytes() == (whole / path.name).read_bytes()
    main(arguments)
    assert hashes(tmp_path / "killed") == hashes(whole)
    assert not [*tmp_path.glob("killed/.0*")]


def refusal(capsys, *arguments):
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main([*arguments])
    assert stop.value.code == 2
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("error: "))
    return line.removeprefix("error: ")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--classes", "red circl"], "there is no class 'red circl': did you mean 'red circle'?"),
        (["--classes", "38-41"], "there is no class 38-41: classes are 0 to 39 (40: none)"),
        (["--prompts", "a cat"], "this network knows no text: leave out --prompts and --negative, and give --classes"),
        (["--ema", "0.3"], "the checkpoint has no average '0.3', only ['0.9999']"),
        (["--sampler.gidance", "2"], "sampler has no option 'gidance': did you mean guidance?"),
        (["--sampler", "Hun"], "sampler: there is no class 'Hun': did you mean Heun?"),
        (["--sampler", "AdamsBashforth", "--sampler.order", "9"],
         "sampler.order is 9: give a whole number of at least 1 and at most 4"),
        (["--size", "30", "32"], "size 30 32 does not divide into patches: use multiples of 16"),
        (["--num_images", "0"], "num_images is 0: give a whole number of at least 1 or null"),
        (["--devices", "0"],
         "devices is 0: give a whole number of at least 1"),
        (["--clases", "3"], "there is no option --clases: did you mean --classes?"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_in_one_sentence(run, capsys, arguments, sentence):
    assert refusal(capsys, str(run), *arguments) == sentence
    assert not [*run.glob("samples/*/.png")]


def test_bad_sources_and_folders_are_refused(run, tmp_path, capsys):
    assert refusal(capsys) == "say what to sample from: a run folder, a checkpoint or an export"
    assert refusal(capsys, str(tmp_path / "no")).startswith(f"{tmp_path / 'no'} does not exist: give a run folder")
    used = main([str(run), "--num_images", "1", "--to", str(tmp_path / "used")])
    other = refusal(capsys, str(run), "--num_images", "1", "--to", str(used), "--sampler.num_steps", "3")
    assert other == f"{used} holds images of other settings (sampler.num_steps is 2, not 3): give another folder"
    (tmp_path / "file").touch()
    assert refusal(capsys, str(run), "--to", str(tmp_path / "file")).startswith("could not write into")


def test_names_of_classes_are_those_that_the_run_was_trained_with(run, tmp_path, capsys):
    """Whatever has become of the data; they go along into an export."""
    assert Run(run).class_names[11] == "orange square"
    copy = tmp_path / "run"
    shutil.copytree(run, copy, ignore=shutil.ignore_patterns("samples"))
    config = yaml.safe_load((copy / "config.yaml").read_text())
    config["data"] = {"class_path": "pixelgen.data.ImageFolderData", "init_args": {"root": str(tmp_path / "gone")}}
    (copy / "config.yaml").write_text(yaml.safe_dump(config))
    exported = export(copy, tmp_path / "export").parent
    for source in (copy, exported):
        assert conditions(main([str(source), "--classes", "orange square", "--to", str(source / "set")])) == [11]
        assert pixelgen.load(source, device="cpu").class_names[11] == "orange square"
    path = copy / "checkpoints" / "last.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    del checkpoint["class_names"]  # as older runs have it
    path.unlink()
    torch.save(checkpoint, path)
    sentence = "the classes have no known names: give numbers, 0 to 39, instead of 'red circle'"
    assert refusal(capsys, str(copy), "--classes", "red circle") == sentence
    assert conditions(main([str(copy), "--classes", "3"])) == [3]


def test_random_classes_are_drawn_by_the_seed_of_each_image(run, tmp_path):
    folder = main([str(run), "--random_classes", "--num_images", "6", "--seed", "3", "--to", str(tmp_path / "six")])
    found = conditions(folder)
    assert settings(folder)["conditions"] == "random classes"
    assert len(set(found)) > 2
    assert found != list(range(6))
    later = main([str(run), "--random_classes", "--num_images", "2", "--seed", "7", "--to", str(tmp_path / "two")])
    assert conditions(later) == found[4:]
    chosen = main(
        [str(run), "--random_classes", "--classes", "3", "5", "--num_images", "6", "--to", str(tmp_path / "c")]
    )
    assert set(conditions(chosen)) == {3, 5}
    assert settings(chosen)["conditions"] == {"random": [3, 5]}
    with pytest.raises(ValueError, match="random_classes draws classes, and this network takes none: leave it out"):
        settings_of(TinyModule(num_classes=None), Sampling(random_classes=True), {}, {}, 1)
