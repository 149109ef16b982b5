"""Every config builds and runs a step; bad input is refused in one sentence; runs resume and reload exactly."""

import logging
import shutil
import warnings
from pathlib import Path

import pytest
import torch
import yaml
from lightning.pytorch.utilities import rank_zero_only

import pixelgen
from digits import write_digits
from pixelgen.cli.arguments import last_checkpoint, with_nulls
from pixelgen.cli.training import CLI
from pixelgen.fit import main
from pixelgen.flow import Euler
from pixelgen.runs.run import Run

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs"
TINY = [
    *("--model.denoiser", "JiT", "--model.denoiser.patch_size", "8", "--model.denoiser.hidden_size", "16"),
    *("--model.denoiser.depth", "2", "--model.denoiser.num_heads", "2", "--model.denoiser.bottleneck_dim", "4"),
    *("--model.denoiser.in_context_len", "2", "--model.denoiser.in_context_start", "1"),
    *("--model.compile_blocks", "false", "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"),
    *("--trainer.enable_model_summary", "false", "--callbacks.preview", "null", "--callbacks.summary", "null"),
    *("--trainer.precision", "32"),
]
FID = ["--callbacks.fid", "FID", "--callbacks.fid.extractor", "BackboneFeatures"]
SHAPES = ["--data", "ShapesData", "--data.batch_size", "4", "--data.length", "32", "--data.val_length", "4"]


def fit(folder, *arguments):
    return main([*SHAPES, *TINY, "--run", str(folder), *arguments])


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory):
    """Twelve steps, with a checkpoint in the middle of an epoch."""
    folder = tmp_path_factory.mktemp("runs") / "straight"
    arguments = ("--trainer.max_steps", "12", "--callbacks.checkpoint.every_n_steps", "5")
    fit(folder, *arguments, "--callbacks.checkpoint.keep_last", "null", "--callbacks.ema.decays", "[0.9,0.5]")
    return folder


def weights(folder):
    checkpoint = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    return checkpoint["state_dict"], checkpoint["callbacks"]["EMA"]["averages"], checkpoint["optimizer_states"]


def assert_equal(a, b):
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_equal(a[key], b[key])
    elif isinstance(a, list | tuple):
        for x, y in zip(a, b, strict=True):
            assert_equal(x, y)
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    else:
        assert a == b


def test_resuming_is_bit_equal_to_not_stopping(finished_run, tmp_path):
    """Stopped after 5 of 12 steps; weights, averages and optimizer are the same to the last bit."""
    folder = tmp_path / "stopped"
    arguments = ["--callbacks.checkpoint.every_n_steps", "5", "--callbacks.ema.decays", "[0.9,0.5]"]
    fit(folder, "--trainer.max_steps", "5", *arguments)
    cli = main(["--ckpt_path", str(folder), "--trainer.max_steps", "12"])
    assert cli.folder == folder
    assert_equal(weights(folder), weights(finished_run))
    steps = [
        yaml.safe_load((folder / name).read_text())["trainer"]["max_steps"] for name in ("config-1.yaml", "config.yaml")
    ]
    assert steps == [5, 12]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (["--model.denoiser.hidden_size", "32"], SystemExit, "are of another network: "),
        (["--callbacks.ema.decays", "[0.7]"], SystemExit, "0.7"),
    ],
)
def test_what_does_not_fit_its_checkpoint_leaves_the_run_as_it_was(finished_run, capsys, change, error, message):
    config = (finished_run / "config.yaml").read_text()
    with pytest.raises(error) as raised:
        main(["--ckpt_path", str(finished_run), "--trainer.max_steps", "13", *change])
    assert message in str(raised.value) + capsys.readouterr().err
    assert (finished_run / "config.yaml").read_text() == config
    assert not (finished_run / "config-1.yaml").exists()
    pixelgen.load(finished_run)


def test_a_run_keeps_everything_in_its_folder(finished_run):
    names = {path.name for path in finished_run.iterdir()}
    assert names >= {"config.yaml", "checkpoints", "logs"}
    kept = sorted(path.name for path in (finished_run / "checkpoints").iterdir())
    assert kept == ["last.ckpt", "step_0000005.ckpt", "step_0000010.ckpt", "step_0000012.ckpt"]
    config = yaml.safe_load((finished_run / "config.yaml").read_text())
    assert config["model"]["init_args"]["denoiser"]["init_args"]["num_classes"] == 40
    assert config["model"]["init_args"]["denoiser"]["init_args"]["input_size"] == 32


def test_load_gives_the_average_asked_for(finished_run):
    state, averages, _ = weights(finished_run)
    name = "final_layer.linear.weight"
    raw, first, second = (pixelgen.load(finished_run, ema=ema, device="cpu") for ema in (False, True, 0.5))
    assert torch.equal(raw.denoiser.get_parameter(name), state[f"denoiser.{name}"])
    assert torch.equal(first.denoiser.get_parameter(name), averages["0.9"][name])
    assert torch.equal(second.denoiser.get_parameter(name), averages["0.5"][name])
    with pytest.raises(ValueError, match=r"no average '0.7', only \['0.9', '0.5'\]"):
        pixelgen.load(finished_run, ema=0.7)
    assert first.objective.lpips is None


def test_same_image_at_any_batch_size(finished_run):
    model = pixelgen.load(finished_run, device="cpu")
    sampler = Euler(num_steps=4, guidance=2.0)
    together = model.sample([0, 1, 2, 3, 4], seeds=7, sampler=sampler)
    alone = model.sample([0, 1, 2, 3, 4], seeds=7, sampler=sampler, batch_size=2)
    assert torch.allclose(together, alone, atol=1e-5)
    assert torch.allclose(together[3:4], model.sample(3, seeds=10, sampler=sampler), atol=1e-5)


def test_starting_again_never_writes_into_a_used_folder(tmp_path):
    first = fit(tmp_path / "run", "--trainer.max_steps", "1").folder
    second = fit(tmp_path / "run", "--trainer.max_steps", "1").folder
    assert (first.name, second.name) == ("run", "run-2")


def test_of_two_runs_started_together_one_gets_the_folder(tmp_path, monkeypatch):
    arguments = [*SHAPES, *TINY, "--run", str(tmp_path / "run")]
    first, late = CLI(arguments), CLI(arguments)  # both have chosen the same folder
    first.make_folder()
    with pytest.raises(ValueError, match=r"another run has just taken .*run: start again, or give .* --run"):
        late.fit()
    assert CLI(arguments).folder == tmp_path / "run-2"
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    assert CLI(arguments).folder == tmp_path / "run"  # the folder of its first process


def test_a_folder_that_cannot_be_made_is_said_in_one_sentence(tmp_path, capsys):
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit):
        fit(tmp_path / "file/run", "--trainer.max_steps", "1")
    assert "error: could not make" in capsys.readouterr().err


def test_a_polynomial_schedule_ends_with_training_unless_told_otherwise(tmp_path):
    arguments = ["--model.scheduler", "torch.optim.lr_scheduler.PolynomialLR", "--trainer.log_every_n_steps", "1"]
    with warnings.catch_warnings(record=True) as said:
        fit(tmp_path / "run", *arguments, "--trainer.max_steps", "2")
    assert not any("learning rate" in str(warning.message) for warning in said)
    assert yaml.safe_load((tmp_path / "run/config.yaml").read_text())["model"]["init_args"]["scheduler"]["init_args"][
        "total_iters"
    ] == 2  # fmt: skip
    with pytest.warns(UserWarning, match=r"falls to 0 at step 2, before the last one, 3: .*--init_from"):
        main(["--ckpt_path", str(tmp_path / "run"), "--trainer.max_steps", "3"])
    with pytest.raises(ValueError, match=r"PolynomialLR must know when it ends: give trainer\.max_steps"):
        CLI([*SHAPES, *TINY, *arguments, "--trainer.max_steps", "-1", "--trainer.max_epochs", "1"])


def test_init_from_takes_weights_and_nothing_else(finished_run, tmp_path):
    cli = CLI([*SHAPES, *TINY, "--run", str(tmp_path / "next"), "--init_from", str(finished_run)])
    expected = weights(finished_run)[1]["0.9"]["blocks.0.attn.qkv.weight"]
    assert torch.equal(cli.model.denoiser.blocks[0].attn.qkv.weight, expected)
    assert cli.config.ckpt_path is None
    assert cli.trainer.global_step == 0
    main(
        [*SHAPES, *TINY, "--run", str(tmp_path / "next"), "--init_from", str(finished_run), "--trainer.max_steps", "1"]
    )
    assert "# started from the weights of" in (tmp_path / "next" / "config.yaml").read_text()
    assert main(["--ckpt_path", str(tmp_path / "next"), "--trainer.max_steps", "2"]).trainer.global_step == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--trainer.max_epoch", "3"], "no option --trainer.max_epoch: did you mean --trainer.max_epochs?"),
        (["--model.denoiser.hiden_size", "3"], "model.denoiser has no option 'hiden_size': did you mean hidden_size?"),
        (["--model.denoiser", "JitT"], "model.denoiser: there is no class 'JitT': did you mean JiT?"),
        (["--model.denoiser", "jit"], "model.denoiser: there is no class 'jit': did you mean JiT?"),
        (["--model.text_encoder", "minilm"], "no class 'minilm': did you mean pixelgen.encoders.minilm?"),
        (["--data", "ShapeData"], "data: there is no class 'ShapeData': did you mean ShapesData?"),
        (["--model.warmup_steps", "x"], "model.warmup_steps: expected int, got x"),
        (["--model.denoiser.num_classes", "7"], "the data has 40 classes, but the denoiser is built for num_classes 7"),
        (["--model.denoiser.input_size", "64"], "images of 32 px, but the denoiser is built for 64 px"),
        (["--model.denoiser.patch_size", "5"], "image size 32 is not divisible by patch size 5"),
        (["--model.objective.pdino.weight", "0.1"], "need an encoder"),
        (["--config", "nothing.yaml"], "config: File does not exist"),
        (["--data", "ImageFolderData"], "--data.root must be given"),
        (["--init_from", "nowhere"], "nowhere does not exist"),
        (["--data.length", "3"], "3 training images, fewer than data.batch_size 4"),
        (["--data", "ImageFolderData", "--data.root", "nowhere"], "nowhere does not exist"),
        (
            ["--callbacks.preview", "Preview", "--callbacks.preview.labels", "[41]"],
            "preview.labels are [41], but the network does not know them",
        ),
        ([*FID, "--callbacks.fid.reference", "nowhere"], "fid.reference: nowhere does not exist"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(arguments, message, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        fit(tmp_path / "run", *arguments)
    assert stop.value.code == 2
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(error) == 1
    assert message in error[0]
    assert not (tmp_path / "run").exists()


def test_empty_and_unreadable_folders_are_refused_before_training(tmp_path, capsys):
    write_digits(tmp_path / "digits")
    (tmp_path / "digits" / "10").mkdir()
    arguments = ["--data", "ImageFolderData", "--data.root", str(tmp_path / "digits"), "--data.image_size", "32"]
    with pytest.raises(SystemExit):
        main([*TINY, *arguments, "--run", str(tmp_path / "run")])
    assert "10 has no images" in capsys.readouterr().err
    (tmp_path / "digits" / "10" / "a.png").write_bytes(b"not an image")
    with pytest.raises(SystemExit):
        main([*TINY, *arguments, "--run", str(tmp_path / "run")])
    assert "none of 1 images tried in" in capsys.readouterr().err


def test_the_first_screen_has_no_advertisements(tmp_path, monkeypatch):
    said = []
    logger = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    handler = logging.Handler()
    monkeypatch.setattr(handler, "emit", lambda record: said.append(record.getMessage()))
    monkeypatch.setattr(logger, "handlers", [handler])
    CLI([*SHAPES, *TINY, "--run", str(tmp_path / "run")])
    assert any("run folder" in message for message in said)
    assert not any("Tip:" in message for message in said)


def test_nothing_given_points_to_a_config(capsys):
    with pytest.raises(SystemExit):
        main([])
    assert "start from a config, as in --config configs/demo.yaml" in capsys.readouterr().err


def test_raw_weights_in_place_of_averages_are_said(tmp_path):
    fit(tmp_path / "run", "--trainer.max_steps", "1", "--callbacks.ema", "null")
    with pytest.warns(UserWarning, match="holds no averages"):
        pixelgen.load(tmp_path / "run")


@pytest.fixture
def flat_folder(tmp_path):
    write_digits(tmp_path / "digits")
    return ["--data", "ImageFolderData", "--data.root", str(tmp_path / "digits" / "3"), "--data.image_size", "32"]


def test_a_folder_without_classes_trains_without_labels(flat_folder, tmp_path):
    cli = main(
        [*TINY, *flat_folder, "--data.batch_size", "4", "--run", str(tmp_path / "run"), "--trainer.max_steps", "1"]
    )
    assert cli.model.denoiser.num_classes is None
    assert pixelgen.load(tmp_path / "run").sample(seeds=[0], sampler=Euler(num_steps=1)).shape == (1, 3, 32, 32)


def test_a_run_is_not_resumed_with_other_classes(tmp_path, capsys):
    write_digits(tmp_path / "digits")
    folder = ["--data", "ImageFolderData", "--data.root", str(tmp_path / "digits"), "--data.image_size", "32"]
    run = main([*TINY, *folder, "--data.batch_size", "4", "--run", str(tmp_path / "run"), "--trainer.max_steps", "1"])
    assert pixelgen.load(run.folder).class_names == list("0123456789")
    shutil.rmtree(tmp_path / "digits" / "9")
    (tmp_path / "digits" / "0").rename(tmp_path / "digits" / "zero")
    with pytest.raises(SystemExit):
        main(["--ckpt_path", str(run.folder), "--trainer.max_steps", "2"])
    said = (
        "(class 0 was '0' and is '1'; gone: '0', '9'; new: 'zero'): give the data back its classes, or start a new run"
    )
    assert said in capsys.readouterr().err


def test_labels_can_be_left_unused(tmp_path):
    config = tmp_path / "unconditional.yaml"
    config.write_text("model: {denoiser: {class_path: JiT, init_args: {num_classes: null}}}")
    cli = CLI(["--config", str(config), *SHAPES, "--model.denoiser.depth", "1", "--run", str(tmp_path / "run")])
    assert cli.model.denoiser.num_classes is None


def test_other_weights_name_what_differs(finished_run, tmp_path, capsys):
    with pytest.raises(SystemExit):
        fit(tmp_path / "run", "--model.denoiser.depth", "3", "--init_from", str(finished_run))
    assert "weights in" in (error := capsys.readouterr().err)
    assert "blocks.2" in error


def test_resume_and_init_from_exclude_each_other(finished_run, capsys):
    with pytest.raises(SystemExit):
        main([*SHAPES, *TINY, "--ckpt_path", str(finished_run), "--init_from", str(finished_run)])
    assert "give only one of them" in capsys.readouterr().err


def test_projector_comes_along_and_published_averages_are_preferred(tmp_path):
    repa = [
        "--model.objective.repa",
        "REPA",
        "--model.objective.repa.layer",
        "1",
        "--model.objective.encoder",
        "BackbonePatches",
    ]
    repa += ["--model.objective.encoder.level", "2"]
    first = fit(tmp_path / "first", "--trainer.max_steps", "1", *repa)
    second = CLI([*SHAPES, *TINY, *repa, "--run", str(tmp_path / "second"), "--init_from", str(first.folder)])
    assert_equal(dict(second.model.objective.state_dict()), dict(first.model.objective.state_dict()))
    state = {"denoiser.a": torch.zeros(1), "ema_denoiser.a": torch.ones(1)}
    torch.save({"state_dict": state}, tmp_path / "published.ckpt")
    published = Run(tmp_path / "published.ckpt")
    assert published.weights()["a"] == 1
    assert published.weights(False)["a"] == 0


def test_a_resumed_run_stays_in_its_folder(finished_run, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["--ckpt_path", str(finished_run), "--run", str(tmp_path / "elsewhere")])
    assert "leave --run out" in capsys.readouterr().err


def test_damaged_checkpoint_is_refused(tmp_path):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "config.yaml").write_text("model: {}")
    (tmp_path / "run" / "checkpoints" / "last.ckpt").write_bytes(b"half of it")
    with pytest.raises(ValueError, match="not a readable checkpoint"):
        pixelgen.load(tmp_path / "run")


@pytest.mark.parametrize("flag", [["--model.objective.lpips", "null"], ["--model.objective.lpips=null"]])
def test_nested_slots_are_switched_off_on_the_command_line(flag):
    assert with_nulls(["--a", "1", *flag, "--b.c", "null"])[2:] == [
        '--config={"model": {"objective": {"lpips": null}}}',
        "--b.c",
        "null",
    ]
    config = CONFIGS / "demo.yaml"
    cli = CLI(["--config", str(config), *flag, "--callbacks.checkpoint.keep_last", "null"])
    assert cli.model.objective.lpips is None
    assert cli.config.callbacks.checkpoint.init_args.keep_last is None
    assert cli.folder.name.startswith("demo")


def test_only_rank_0_builds_the_denoiser_under_fsdp(monkeypatch):
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    arguments = ["--config", str(CONFIGS / "demo.yaml"), "--config", str(CONFIGS / "overlay" / "fsdp.yaml")]
    cli = CLI([*arguments, "--trainer.accelerator", "cpu", "--trainer.devices", "2"])
    assert all(parameter.is_meta for parameter in cli.model.denoiser.parameters())
    frozen = cli.model.objective.lpips.encoder.network
    assert not any(parameter.is_meta for parameter in frozen.parameters())


def test_going_on_in_a_run_that_was_never_begun_starts_it(tmp_path):
    fit(tmp_path / "run", "--ckpt_path", "last", "--trainer.max_steps", "1")
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").exists()


def test_going_on_without_the_name_last_takes_the_newest(tmp_path):
    checkpoints = tmp_path / "checkpoints"
    checkpoints.mkdir()
    assert last_checkpoint(tmp_path) is None
    for name in ("step_0000009.ckpt", "step_0000010.ckpt", ".step_0000011.ckpt.unfinished", "best.ckpt"):
        (checkpoints / name).touch()
    (checkpoints / "last.ckpt").symlink_to("step_0000011.ckpt")  # which is not there
    assert last_checkpoint(tmp_path) == str(checkpoints / "step_0000010.ckpt")
    (checkpoints / "step_0000011.ckpt").touch()
    assert last_checkpoint(tmp_path) == str(checkpoints / "last.ckpt")
