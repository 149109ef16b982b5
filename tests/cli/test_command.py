"""One command line from a signature: what becomes of arguments, help and errors."""

import pickle
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

import pixelgen.sample
from pixelgen.cli.command import command
from pixelgen.flow import AdamsBashforth, Euler
from pixelgen.runs.run import Run
from pixelgen.samples.sampling import Sampling


def verb(
    source: str | Path | Run,
    to: str | Path | None = None,
    *,
    reference: str,
    classes: Sequence[str | int] | None = None,
    scales: Sequence[float] = (),
    flip: bool = False,
    crop: tuple[int, int] | None = None,
    sampling: Sampling = Sampling(),
) -> dict[str, object]:
    """Do something with a run.

    And a second paragraph.

    Args:
        source: a run folder.
        to: where to write.
        reference: what to compare with.
        classes: some of them.
        scales: some numbers.
        flip: whether to flip.
        crop: height and width.
        sampling: how images are generated.

    Returns:
        Its arguments.
    """
    return dict(locals())


def plain(path: Path, times: int = 2) -> str:
    """Repeat a name."""
    return path.name * times


def called(*arguments):
    return command(verb)([*map(str, arguments)])


def test_defaults_are_those_of_the_signature(demo_run):
    found = called(demo_run, "--reference", "a.npz")
    assert isinstance(found.pop("source"), Run)
    assert found == {
        "to": None,
        "reference": "a.npz",
        "classes": None,
        "scales": (),
        "flip": False,
        "crop": None,
        "sampling": Sampling(),
    }


def test_values_of_every_kind(demo_run):
    found = called(
        *(demo_run, "--to", "out", "--reference=b", "--classes", "3", "10-12", "red circle", "--scales", "1", "2.5"),
        *("--flip", "--crop", "3", "4", "--size", "32", "64", "--ema", "raw", "--compile", "true", "--seed", "7"),
        *("--sampler", "AdamsBashforth", "--sampler.order", "3", "--precision", "32-true", "--negative", "grey"),
    )
    assert found["source"].path == demo_run / "checkpoints" / "last.ckpt"
    assert [*map(str, found["classes"])] == ["3", "10-12", "red circle"]
    assert (found["to"], found["reference"], found["scales"]) == ("out", "b", [1.0, 2.5])
    assert (found["flip"], found["crop"]) == (True, (3, 4))
    assert found["sampling"] == Sampling(
        AdamsBashforth(order=3), "raw", (32, 64), seed=7, negative="grey", precision="32-true", compile=True
    )
    assert called(demo_run, "--reference", "b", "--flip", "false")["flip"] is False
    assert called(demo_run, "--reference", "b", "--ema", "0.99")["sampling"].ema == 0.99


@pytest.mark.parametrize("flags", [["--sampler.guidance", "2"], ["--sampler.guidance=2"]])
def test_settings_of_the_sampler_alone_change_that_of_the_source(demo_run, flags):
    found = called("--seed", "3", *flags, demo_run, "--reference", "b")
    assert found["sampling"] == Sampling(Euler(num_steps=2, guidance=2.0), seed=3)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "say what to sample from: a run folder, a checkpoint or an export"),
        (["nowhere", "--reference", "b"], "nowhere does not exist: give a run folder with a saved checkpoint, "
         "a checkpoint file, or an export"),
        (["RUN"], "--reference must be given"),
        (["RUN", "--reference", "b", "--batch_size", "0"],
         "batch_size is 0: give a whole number of at least 1"),
        (["RUN", "--reference", "b", "--flop"], "there is no option --flop: did you mean --flip?"),
        (["RUN", "--reference", "b", "--sampler.shft", "2"], "sampler has no option 'shft': did you mean shift?"),
    ],
)  # fmt: skip
def test_errors_are_one_sentence(demo_run, capsys, arguments, sentence):
    with pytest.raises(SystemExit) as stop:
        called(*(str(demo_run) if argument == "RUN" else argument for argument in arguments))
    assert stop.value.code == 2
    assert sentence in capsys.readouterr().err.splitlines()[-1]


def test_help_opens_nothing_and_says_everything(capsys, monkeypatch):
    monkeypatch.setattr("pixelgen.cli.command.Run", None)
    with pytest.raises(SystemExit) as stop:
        command(plain)(["--help"])
    assert stop.value.code == 0
    monkeypatch.undo()
    with pytest.raises(SystemExit) as stop:
        command(verb, prog="pixelgen verb", epilog="And a last word.")(["--help"])
    assert stop.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for part in ("usage: pixelgen verb", "Do something with a run. And a second paragraph.", "a run folder.",
                 "what to compare with.", "image i is generated from seed + i", "And a last word."):  # fmt: skip
        assert part in text
    assert "Returns" not in text


def test_the_result_is_reported_and_returned(capsys):
    assert command(plain, print)(["a/b.c", "--times", "3"]) == "b.cb.cb.c"
    assert capsys.readouterr().out == "b.cb.cb.c\n"


def test_a_main_can_be_sent_to_other_processes():
    assert pickle.loads(pickle.dumps(pixelgen.sample.main)) is pixelgen.sample.main


def test_verbs_are_listed_without_importing_them():
    code = "import sys; from pixelgen.__main__ import main; main(['--help']); assert 'torch' not in sys.modules"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "  sample   `python -m pixelgen.sample runs/demo`: images of a trained model, in a folder.\n" in out


def test_verbs_are_called_by_name(demo_run, tmp_path, capsys):
    from pixelgen.__main__ import VERBS, main

    main(["export", str(demo_run), "--to", str(tmp_path / "out")])
    assert (tmp_path / "out" / "model.safetensors").is_file()
    with pytest.raises(SystemExit) as stop:
        main(["smaple"])
    assert stop.value.code == 2
    assert capsys.readouterr().err == f"error: there is no verb 'smaple': choose one of {', '.join(VERBS)}\n"
