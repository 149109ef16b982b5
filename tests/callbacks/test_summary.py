from io import StringIO

from lightning.pytorch.loggers import CSVLogger
from rich.console import Console

from pixelgen.callbacks.checkpoint import Checkpoint
from pixelgen.callbacks.preview import Preview
from pixelgen.callbacks.scores import FID
from pixelgen.callbacks.summary import Summary, scores
from pixelgen.callbacks.throughput import Throughput
from tiny_run import Means, TinyData, TinyModule, tiny_trainer


def fit(folder, *callbacks, **options):
    trainer = tiny_trainer(folder, list(callbacks), **options)
    trainer.fit(TinyModule(), TinyData())
    return trainer


def test_table(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    fid = FID(Means(), num_samples=4, every_n_steps=3, at_start=True)
    callbacks = fid, Preview(num_images=1), Throughput(every_n_steps=2), Summary(), Checkpoint()
    fit(tmp_path / "run", *callbacks, logger=CSVLogger(tmp_path / "run/logs", "", ""))
    printed = capsys.readouterr().out
    first, last = fid.history[0]["frechet/means"], fid.history[-1]["frechet/means"]
    row = next(line for line in printed.splitlines() if "frechet/means" in line)
    assert f"{first:.4g} (step 0)" in row
    assert f"{last:.4g} (step 6)" in row
    files = ("run/previews", "run/checkpoints", "run/evaluations.jsonl", "run/logs")
    for text in ("images/s", "6 (6 in 0.0 min)", *files):
        assert printed.count(text) == 1


def test_an_old_score_is_not_the_last_one_of_a_resumed_run(tmp_path):
    trainer = fit(tmp_path, FID(Means(), num_samples=4))
    trainer.callbacks[0].history.append({"step": 6, "fid": 2.0})
    assert [row[1:] for row in scores(trainer, since=0)][-1] == ("2 (step 6)", "2 (step 6)")
    assert [row[1:] for row in scores(trainer, since=6)][-1] == ("2 (step 6)", "2 (step 6)")  # nothing was trained
    trainer.fit_loop.epoch_loop.automatic_optimization.optim_progress.optimizer.step.total.completed = 8
    assert [row[1:] for row in scores(trainer, since=6)][-1] == ("2 (step 6)", "")


def test_bare_run(tmp_path):
    summary = Summary()
    trainer = fit(tmp_path, summary)
    console = Console(file=StringIO(), width=120)
    console.print(summary.table(trainer))
    text = console.file.getvalue()
    assert "steps" in text
    assert "pictures" not in text
