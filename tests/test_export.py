"""An export holds one average to the last bit, loads like its run, and is refused where it cannot serve."""

import json
import shutil
import warnings
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

import pixelgen
from pixelgen.cli.training import CLI
from pixelgen.encoders.hub import tensors_sha256
from pixelgen.export import export, main
from pixelgen.runs.checkpoints import EXPORT, EXPORT_FORMAT, find_checkpoint, find_weights, read_contents
from pixelgen.runs.run import Run
from pixelgen.runs.transfer import start_from


@pytest.fixture(scope="module")
def run(demo_run, tmp_path_factory):
    """A copy of the demo run with two averages, each other than the raw weights."""
    folder = tmp_path_factory.mktemp("export") / "run"
    shutil.copytree(demo_run, folder)
    path = folder / "checkpoints" / "last.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    averages = checkpoint["callbacks"]["EMA"]["averages"]
    (first,) = averages.values()
    shifted = [{key: value + shift for key, value in first.items()} for shift in (0.25, 0.5)]
    checkpoint["callbacks"]["EMA"]["averages"] = dict(zip(("0.99", "width0.10"), shifted, strict=True))
    path.unlink()  # it may share its place on the disk with a numbered checkpoint
    torch.save(checkpoint, path)
    return folder


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    """The first average of the run."""
    return export(run, tmp_path_factory.mktemp("exported")).parent


def stored(run):
    checkpoint = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    raw = {key.removeprefix("denoiser."): value for key, value in checkpoint["state_dict"].items()}
    return {"raw": raw} | checkpoint["callbacks"]["EMA"]["averages"]


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def weights(source, **arguments):
    return pixelgen.load(source, device="cpu", **arguments).denoiser.state_dict()


def rewritten(exported, folder, change, **about):
    """A copy of an export with other contents."""
    shutil.copytree(exported, folder)
    state = load_file(exported / EXPORT)
    change(state)
    save_file(state, folder / EXPORT, {"format": EXPORT_FORMAT, "average": "0.99", "step": "1"} | about)
    return folder


@pytest.mark.parametrize(
    ("ema", "name"),
    [(True, "0.99"), (0.99, "0.99"), ("width0.10", "width0.10"), ("raw", "raw")],
)
def test_the_file_holds_what_was_asked_for_and_nothing_else(run, tmp_path, ema, name):
    path = export(run, tmp_path / "out", ema)
    assert sorted(file.name for file in path.parent.iterdir()) == ["config.yaml", "model.safetensors"]
    with safe_open(path, framework="pt") as file:
        about = file.metadata()
        assert json.loads(about.pop("class_names")) == Run(run).class_names
        assert about == {
            "format": "pixelgen-1",
            "average": name,
            "step": "1",
            "sha256": tensors_sha256(load_file(path)),
        }
    found, expected = load_file(path), stored(run)[name]
    assert same({key: found[key] for key in expected}, expected)
    assert found.keys() == pixelgen.load(run).denoiser.state_dict().keys()
    assert {value.dtype for value in found.values()} == {torch.float32}
    assert (path.parent / "config.yaml").read_bytes() == (run / "config.yaml").read_bytes()
    assert path.stat().st_mode == (path.parent / "config.yaml").stat().st_mode
    size = 4 * sum(value.numel() for value in found.values())
    assert size < path.stat().st_size < size + 200 * (len(found) + 1)  # a line of header for each tensor


@pytest.mark.parametrize("ema", ["width0.10", False])
def test_an_export_loads_like_its_run(run, tmp_path, ema):
    path = export(run, tmp_path / "out", ema)
    expected = weights(run, ema=ema)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*no averages")
        assert same(weights(path.parent), expected)
        assert same(weights(path), expected)
    assert same(weights(path, ema=ema), expected)


def test_an_export_samples_the_same_images(run, exported):
    images = [pixelgen.load(source, device="cpu").sample([3, 5], seeds=1) for source in (run, exported)]
    assert torch.equal(*images)


def test_another_average_than_the_one_it_holds_is_refused(exported, run, tmp_path):
    with pytest.raises(ValueError, match=r"^the checkpoint has no average '0.5', only \['0.99'\]$"):
        pixelgen.load(exported, ema=0.5)
    with pytest.raises(ValueError, match=r"^the checkpoint has no raw weights, only \['0.99'\]$"):
        pixelgen.load(exported, ema=False)
    raw = export(run, tmp_path / "raw", "raw")
    with pytest.raises(ValueError, match=r"^the checkpoint has no average '0.99', only raw weights$"):
        pixelgen.load(raw, ema=0.99)
    with pytest.raises(ValueError, match=r"no average '0.7', only \['0.99', 'width0.10'\]"):
        export(run, tmp_path / "out", 0.7)
    assert not (tmp_path / "out").exists()


def test_an_export_of_an_export_is_the_same(exported, tmp_path):
    again = export(exported, tmp_path / "again")
    assert same(load_file(again), load_file(exported / EXPORT))
    with safe_open(again, framework="pt") as file, safe_open(exported / EXPORT, framework="pt") as first:
        assert file.metadata() == first.metadata()


def test_a_new_run_starts_from_an_export(exported, tmp_path):
    arguments = ["--config", str(exported / "config.yaml"), "--trainer.accelerator", "cpu"]
    cli = CLI([*arguments, "--run", str(tmp_path / "next"), "--init_from", str(exported)])
    assert same(cli.model.denoiser.state_dict(), load_file(exported / EXPORT))
    assert cli.trainer.global_step == 0


def test_only_a_projector_starts_anew_with_a_warning(exported):
    model = pixelgen.load(exported, device="cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        start_from(model, exported)
    model.objective.projector = torch.nn.Linear(2, 2)
    with pytest.warns(UserWarning, match=r"does not hold the objective's own weights \(projector.weight"):
        start_from(model, exported)


@pytest.mark.parametrize("config", [False, True])
def test_resuming_from_an_export_is_refused(exported, capsys, config):
    from pixelgen.fit import main as fit

    arguments = ["--config", str(exported / "config.yaml")] if config else []
    with pytest.raises(SystemExit) as stop:
        fit([*arguments, "--ckpt_path", str(exported)])
    assert stop.value.code == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    reason = "holds weights only, not what resuming needs: start a new run with --init_from"
    assert errors == [f"error: {exported / EXPORT} {reason}"]


def test_a_run_is_preferred_to_an_export_beside_it(run, tmp_path):
    both = shutil.copytree(run, tmp_path / "both")
    shutil.copy(export(run, tmp_path / "out"), both / EXPORT)
    assert find_checkpoint(both) == find_weights(both) == both / "checkpoints" / "last.ckpt"


def test_the_command_says_where_and_how_large(run, tmp_path, capsys):
    here = shutil.copytree(run, tmp_path / "run")
    path = main([str(here), "--ema", "width0.10"])
    assert path == here.resolve() / "export" / "model.safetensors"
    assert same(load_file(path), weights(run, ema="width0.10"))
    megabytes = f"{path.stat().st_size / 1e6:.1f} MB"
    assert capsys.readouterr().out == f"{path}: {megabytes}, and config.yaml beside it\n"
    raw = main([str(here), "--ema", "false", "--to", str(tmp_path / "raw")])
    assert same(load_file(raw), weights(run, ema=False))


def test_an_export_is_never_overwritten(run, tmp_path, capsys):
    path = export(run, tmp_path / "out")
    before = path.read_bytes()
    with pytest.raises(SystemExit) as stop:
        main([str(run), "--to", str(tmp_path / "out"), "--ema", "raw"])
    assert stop.value.code == 2
    holds = f"error: {tmp_path / 'out'} holds model.safetensors and config.yaml already: give another folder as --to\n"
    assert capsys.readouterr().err == holds
    assert path.read_bytes() == before
    with pytest.raises(ValueError, match=r"holds config.yaml already"):
        export(run, run)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "README.md").touch()  # other files are welcome
    assert same(load_file(export(run, tmp_path / "mine")), load_file(path))


def test_a_folder_that_cannot_be_written_is_said(run, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"^could not write .*file/out"):
        export(run, tmp_path / "file" / "out")


def test_nothing_is_left_of_an_export_that_failed(run, tmp_path, monkeypatch):
    def full(weights, target, about):
        target.write_text("half of it")
        raise SafetensorError("no space left")

    monkeypatch.setattr("pixelgen.runs.checkpoints.save_file", full)
    with pytest.raises(ValueError, match=r"could not write .* \(no space left\): free some space or give another --to"):
        export(run, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_weights_of_another_network_are_named(exported, tmp_path):
    name = "final_layer.linear.weight"
    missing = rewritten(exported, tmp_path / "missing", lambda state: state.pop(name))
    with pytest.raises(ValueError, match=f"are of another network: {name} is missing$"):
        pixelgen.load(missing)
    added = rewritten(exported, tmp_path / "added", lambda state: state.update(extra=torch.zeros(1)))
    with pytest.raises(ValueError, match=r"are of another network: extra is unexpected$"):
        pixelgen.load(added)
    shaped = rewritten(exported, tmp_path / "shaped", lambda state: state.update({name: torch.zeros(3, 2)}))
    with pytest.raises(ValueError, match=rf"another network: {name} is \(3, 2\) there, \(768, 16\) here$"):
        pixelgen.load(shaped)


def test_foreign_and_damaged_files_are_refused(exported, tmp_path):
    newer = rewritten(exported, tmp_path / "newer", lambda state: None, format="pixelgen-2")
    with pytest.raises(ValueError, match=r"not a readable .*its format is 'pixelgen-2', not 'pixelgen-1'\)$"):
        pixelgen.load(newer)
    save_file({"a": torch.zeros(1)}, newer / EXPORT)
    with pytest.raises(ValueError, match=r"its format is None, not 'pixelgen-1'\)$"):
        pixelgen.load(newer)
    for part in (b"", b"half of it", (exported / EXPORT).read_bytes()[:-1]):
        (newer / EXPORT).write_bytes(part)
        with pytest.raises(ValueError, match=r"^\S+ is not a readable checkpoint or export \([^\n]*[^\n(]\)$"):
            pixelgen.load(newer)


def test_an_export_without_its_config_is_refused(exported, tmp_path):
    shutil.copy(exported / EXPORT, tmp_path / "alone.safetensors")
    with pytest.raises(ValueError, match=r"alone.safetensors has no \S+config.yaml: keep .* exports with theirs$"):
        pixelgen.load(tmp_path / "alone.safetensors")


def test_a_folder_of_links_is_an_export(exported, tmp_path):
    """As caches of downloads keep files: by hash, linked under their names."""
    (tmp_path / "linked").mkdir()
    for number, name in enumerate(("config.yaml", EXPORT)):
        shutil.copy(exported / name, tmp_path / str(number))
        (tmp_path / "linked" / name).symlink_to(tmp_path / str(number))
    assert same(weights(tmp_path / "linked"), weights(exported))


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="the system does not list mapped files")
@pytest.mark.parametrize("zipped", [True, False])
def test_checkpoints_are_mapped_where_their_format_allows(run, tmp_path, zipped):
    """Tensors of today's format stay in the file until they are used; those of the older one are read at once."""
    checkpoint = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    path = tmp_path / "a.ckpt"
    torch.save(checkpoint, path, _use_new_zipfile_serialization=zipped)
    found = read_contents(path)
    assert same({f"denoiser.{key}": value for key, value in found.raw.items()}, checkpoint["state_dict"])
    assert (str(path) in Path("/proc/self/maps").read_text()) == zipped


@pytest.mark.parametrize("kept", [0, 100, -1000, -1])
def test_part_of_a_checkpoint_is_refused(run, tmp_path, kept):
    path = tmp_path / "part.ckpt"
    path.write_bytes((run / "checkpoints" / "last.ckpt").read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"part.ckpt is not a readable checkpoint or export"):
        Run(path)
