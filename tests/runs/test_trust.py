"""A run that somebody else made is read without executing anything, importing anything, or writing elsewhere."""

import re
import sys
from pathlib import Path

import pytest
import yaml

from pixelgen.cli.arguments import with_config_of_run
from pixelgen.evaluate import main as evaluate
from pixelgen.runs.run import Run, load
from pixelgen.runs.trust import ForeignError, refuse_foreign

ALLOWED = {
    "model": {
        "class_path": "pixelgen.PixelGen",
        "init_args": {
            "denoiser": {"class_path": "pixelgen.models.JiT_B_16"},
            "text_encoder": {"class_path": "pixelgen.encoders.minilm", "init_args": {"max_length": 16}},
            "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 1e-3, "betas": [0.9, 0.95]}},
            "scheduler": {"class_path": "torch.optim.lr_scheduler.PolynomialLR"},
            "sampler": {"class_path": "Heun"},
            "objective": {"class_path": "pixelgen.losses.Objective"},
        },
    },
    "data": {"class_path": "pixelgen.data.ShardData", "init_args": {"shards": ["s3://b/{000..123}.tar", "d/*.tar"]}},
    "callbacks": {"fid": {"class_path": "pixelgen.callbacks.FID", "init_args": {"reference": "imagenet.v2"}}},
    "trainer": {
        "logger": {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"save_dir": "logs"}},
        "strategy": {"class_path": "pixelgen.distributed.fsdp.FSDP"},
        "default_root_dir": None,
    },
}
FOREIGN = {
    "a class of its own": {"class_path": "evil.Evil"},
    "a class in a list": [{"more": [{"class_path": "evil.Evil"}]}],
    "a dotted key": {"init_args.sampler.class_path": "evil.Evil"},
    "the short form": {"denoiser": "my_parts.Attributes"},
    "the short form of the standard library": {"gate": "antigravity.geohash"},
    "YAML in a text": {"denoiser": "{class_path: evil.Evil}"},
    "YAML in lines": {"denoiser": "class_path: evil.Evil\ninit_args: {}"},
    "YAML in a quoted text": {"denoiser": "'antigravity.geohash'"},
    "a list in a text": {"more": "- antigravity.geohash"},
    "white space": {"class_path": "evil.Evil\n"},
    "a function that runs code": {"class_path": "torch.hub.load"},
    "the short form of it": {"optimizer": "torch.hub.load"},
    "a function of pixelgen that writes": {"class_path": "pixelgen.files.write_text"},
    "the trainer itself": {"class_path": "pixelgen.cli.training.CLI"},
    "what a module imports": {"class_path": "pixelgen.data.tars.os.system"},
    "the same of a class": {"class_path": "pixelgen.data.pack.Image.open"},
    "a verb": {"class_path": "pixelgen.sample.sample"},
    "os": {"class_path": "os.system"},
    "a command": {"shards": "pipe:touch made"},
    "one of several": {"shards": ["a.tar", "a.tar::pipe:touch made"]},
    "one that braces hide": {"val_shards": "pi{p,p}e:touch made"},
    "one in braces": {"shards": "{a.tar,pipe:touch made}"},
    "one in a set": {"shards": {"pipe:touch made"}},
    "a name that leads elsewhere": {
        "class_path": "lightning.pytorch.loggers.CSVLogger",
        "init_args": {"name": "/etc/x"},
    },
    "a folder elsewhere": {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"save_dir": "/etc/x"}},
    "the folder above": {"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": {"dirpath": "../x"}},
}


def test_parts_of_pixelgen_torch_and_lightning_are_allowed():
    refuse_foreign(ALLOWED, Path("config.yaml"))


@pytest.mark.parametrize("config", FOREIGN.values(), ids=FOREIGN)
def test_all_else_is_refused_and_the_sentence_says_how_to_allow_it(config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "evil.py").write_text("import os; os.mkdir('made')")
    with pytest.raises(ForeignError, match=r"^run/config\.yaml .*: add --trust \(trust=True in Python\)"):
        refuse_foreign({"model": config}, Path("run/config.yaml"))
    assert not (tmp_path / "made").exists()
    assert "evil" not in sys.modules


def test_configs_in_other_files_are_looked_into(tmp_path):
    (tmp_path / "part").write_text("{denoiser: other.yaml}")
    (tmp_path / "other.yaml").write_text("{again: part, class_path: evil.Evil}")
    for value in ("part", str(tmp_path / "part")):
        with pytest.raises(ForeignError, match=r"names evil\.Evil"):
            refuse_foreign({"model": value}, tmp_path / "config.yaml")


@pytest.fixture
def foreign(demo_run, tmp_path):
    """A run whose sampler is a class in the folder of the run, which says that it was imported."""
    (tmp_path / "runs" / "shared" / "checkpoints").mkdir(parents=True)
    run = tmp_path / "runs" / "shared"
    (run / "checkpoints" / "last.ckpt").symlink_to((demo_run / "checkpoints" / "last.ckpt").resolve())
    config = yaml.safe_load((demo_run / "config.yaml").read_text())
    config["model"]["init_args"]["sampler"] = {"class_path": "runs.shared.evil.Nothing"}
    config["data"] = {"class_path": "pixelgen.data.ShardData", "init_args": {"shards": f"pipe:touch {tmp_path}/made"}}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    (run / "evil.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'made')!r})\n")
    return run


def test_nothing_of_a_foreign_run_is_imported_or_started(foreign, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (foreign / "model.safetensors").touch()
    checkpoint = foreign / "checkpoints" / "copy.ckpt"
    checkpoint.write_bytes((foreign / "checkpoints" / "last.ckpt").read_bytes())
    refusals = [
        lambda: load(checkpoint),
        lambda: Run(checkpoint).sampler,
        lambda: with_config_of_run(["--ckpt_path", str(checkpoint)]),
        lambda: with_config_of_run(["--ckpt_path=last", "--run", str(foreign)]),
    ]
    for refused in refusals:
        with pytest.raises(ValueError, match=r"add --trust \(trust=True in Python\)"):
            refused()
    with pytest.raises(SystemExit):
        evaluate(["reference", "--config", str(foreign / "config.yaml"), "--to", "r.npz"])
    assert re.search(r"^error: .*would run the command 'pipe:touch .*add --trust", capsys.readouterr().err)
    assert not (tmp_path / "made").exists()


def test_trust_is_given_on_the_command_line_and_not_by_a_config(foreign):
    arguments = ["--ckpt_path", str(foreign / "checkpoints" / "last.ckpt")]
    (foreign / "checkpoints" / "last.ckpt").unlink()
    (foreign / "checkpoints" / "last.ckpt").touch()
    config = foreign / "config.yaml"
    config.write_text(f"trust: true\n{config.read_text()}")
    with pytest.raises(ForeignError):
        with_config_of_run(arguments)
    assert with_config_of_run([*arguments, "--trust"]) == ["--config", str(config.resolve()), *arguments, "--trust"]
    assert with_config_of_run(["--config", str(config)]) == ["--config", str(config)]  # one's own
