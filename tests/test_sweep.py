"""Sets are made and scored once, whatever stops the sweep; the table, the CSV, the plot and the best row agree."""

import csv
import shlex
import shutil

import numpy as np
import pytest
import torch

from parallel_parts import Means
from pixelgen import PixelGen, sample
from pixelgen.evaluation import PrecisionRecall, Statistics
from pixelgen.evaluation import sweep as tables
from pixelgen.sweep import main
from processes import finish, free_port, start
from tiny_run import randomise_average

SWEEP = ["--extractor", "parallel_parts.Means", "--num_images", "8", "--guidance", "1", "2", "--interval", "0-1", "0-2"]
SWEEP += ["--ema", "0.9999", "raw"]


@pytest.fixture(scope="module")
def fresh(demo_run, tmp_path_factory):
    """A run with two averages that differ, and the reference that its FID callback would have left."""
    folder = tmp_path_factory.mktemp("sweep") / "run"
    shutil.copytree(demo_run, folder, ignore=shutil.ignore_patterns("samples"))
    randomise_average(folder)
    mu, sigma = torch.full((3,), 0.5, dtype=torch.float64), 0.01 * torch.eye(3, dtype=torch.float64)
    Statistics(mu, sigma, extractor="means").save(folder / "reference_means.npz")
    return folder


@pytest.fixture(scope="module")
def swept(fresh):
    return fresh, main([str(fresh), *SWEEP])


def expected(folder):
    """The distance of the folder's first eight images, worked out here."""
    images = torch.stack([sample.read_png(folder / f"{i:06d}.png") for i in range(8)])
    features = Means()(images).double()
    mu, sigma = torch.full((3,), 0.5, dtype=torch.float64), 0.01 * torch.eye(3, dtype=torch.float64)
    return Statistics(features.mean(0), features.T.cov()).distance(Statistics(mu, sigma))


def test_every_set_is_scored_and_the_csv_says_so(swept):
    run, results = swept
    assert [(result.row.ema, result.row.sampler.guidance) for result in results] == [
        ("0.9999", 1.0), ("0.9999", 2.0), ("raw", 1.0), ("raw", 2.0),
    ]  # fmt: skip
    for result in results:
        assert result.scores == {"frechet/means": pytest.approx(expected(result.folder), rel=1e-5)}
    with (run / "sweep" / "sweep.csv").open() as file:
        lines = [*csv.DictReader(file)]
    assert [line["ema"] for line in lines] == ["0.9999", "0.9999", "raw", "raw"]
    assert [line["interval"] for line in lines] == ["", "0-1", "", "0-1"]
    assert [float(line["frechet/means"]) for line in lines] == [result.scores["frechet/means"] for result in results]
    assert [line["folder"] for line in lines] == [str(result.folder) for result in results]
    assert (run / "sweep" / "sweep.png").stat().st_size > 5000


def test_nothing_is_made_or_scored_twice(swept, monkeypatch):
    run, results = swept
    monkeypatch.setattr(PixelGen, "sample", None)
    monkeypatch.setattr(Means, "forward", None)
    again = main([str(run), *SWEEP])
    assert [result.scores for result in again] == [result.scores for result in results]


def test_a_sweep_goes_on_where_it_was_stopped(swept, tmp_path, monkeypatch):
    run, results = swept
    copy = tmp_path / "run"
    shutil.copytree(run, copy, ignore=shutil.ignore_patterns("samples", "sweep"))
    made = []

    def twice(self, *args, **options):
        made.append(1)
        if len(made) == 3:
            raise KeyboardInterrupt
        return original(self, *args, **options)

    original = PixelGen.sample
    monkeypatch.setattr(PixelGen, "sample", twice)
    with pytest.raises(SystemExit, match="130"):
        main([str(copy), *SWEEP])
    assert len((copy / "sweep" / "sweep.csv").read_text().splitlines()) == 3
    again = main([str(copy), *SWEEP])
    assert len(made) == 3 + 2
    assert [result.scores for result in again] == [result.scores for result in results]


def test_the_best_row_is_marked_and_its_command_makes_its_images(swept, capsys):
    run, results = swept
    best = tables.ranked(results)[0]
    assert best.scores["frechet/means"] == min(result.scores["frechet/means"] for result in results)
    assert [column.header for column in tables.table_of(results).columns] == [
        "ema", "guidance", "interval", "frechet/means", "",
    ]  # fmt: skip
    assert [*tables.table_of(results).columns[-1].cells] == ["best" if r is best else "" for r in results]
    main([str(run), *SWEEP])
    line = capsys.readouterr().out.splitlines()[-1]
    words = shlex.split(line)
    assert words[:4] == ["python", "-m", "pixelgen.sample", str(run)]
    assert sample.main(words[3:]) == best.folder


def test_the_plot_has_a_line_for_each_average(swept, tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    _, results = swept
    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda self, path, **options: drawn.append(self))
    assert tables.plot(results, tmp_path / "plot.png")
    lines = drawn[0].axes[0].lines
    assert [line.get_label() for line in lines] == ["ema 0.9999", "ema raw"]
    assert [list(line.get_xdata()) for line in lines] == [[1.0, 2.0]] * 2
    assert np.allclose(lines[1].get_ydata(), [result.scores["frechet/means"] for result in results[2:]])


def test_a_folder_as_reference_is_measured_once(swept, tmp_path):
    run, results = swept
    shutil.copytree(results[2].folder, tmp_path / "images", ignore=shutil.ignore_patterns("grid.png", ".*"))
    again = main([str(run), *SWEEP, "--reference", str(tmp_path / "images"), "--to", str(tmp_path / "sweep")])
    distances = [result.scores["frechet/means"] for result in again]
    assert distances[2] == pytest.approx(0, abs=1e-9)
    assert min(distances[:2]) > 1e-4
    assert Statistics.load(tmp_path / "sweep" / "reference.npz").n == 8


def test_images_beside_the_statistics_of_a_reference_are_measured_once(swept, tmp_path, monkeypatch):
    run, results = swept
    moments = {"mu": np.full(3, 0.5), "sigma": 0.01 * np.eye(3)}
    images = np.random.default_rng(0).integers(0, 256, (9, 32, 32, 3), np.uint8)
    np.savez(tmp_path / "adm.npz", **moments, arr_0=images)
    calls, forward = [], Means.forward
    monkeypatch.setattr(Means, "forward", lambda self, batch: calls.append(len(batch)) or forward(self, batch))
    options = ["--reference", str(tmp_path / "adm.npz"), "--metrics.precision_recall", "true"]
    again = main([str(run), *SWEEP, *options, "--to", str(tmp_path / "sweep")])
    assert calls == [9, 8, 8, 8, 8]  # the reference, then each set
    for before, now in zip(results, again, strict=True):
        assert now.scores["frechet/means"] == pytest.approx(before.scores["frechet/means"], rel=1e-9)
        ours = torch.stack([sample.read_png(now.folder / f"{i:06d}.png") for i in range(8)])
        theirs = torch.from_numpy(images).permute(0, 3, 1, 2)
        precision, recall = (
            PrecisionRecall().compute(*(Statistics.of(forward(None, s)) for s in (ours, theirs))).values()
        )
        assert (now.scores["precision/means"], now.scores["recall/means"]) == (precision, recall)


def test_what_the_reference_lacks_is_told_before_images_are_made(fresh, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("pixelgen.sweep.sample_with", lambda *_, **__: pytest.fail("images are made"))
    with pytest.raises(SystemExit):
        main([str(fresh), *SWEEP, "--metrics.precision_recall", "true"])
    assert "the reference holds no features of images: leave it out" in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_score_as_one(swept, tmp_path):
    run, results = swept
    copy = tmp_path / "run"
    shutil.copytree(run, copy, ignore=shutil.ignore_patterns("sweep", "frechet-*"))
    arguments = [str(copy), *SWEEP, "--guidance", "1", "--ema", "0.9999", "--devices", "2"]
    log, port = tmp_path / "log", free_port()
    finish([start(arguments, log, rank, 2, port, main=main) for rank in (0, 1)], log)
    with (copy / "sweep" / "sweep.csv").open() as file:
        (line,) = csv.DictReader(file)
    assert float(line["frechet/means"]) == pytest.approx(results[0].scores["frechet/means"], rel=1e-9)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--ema", "0.5"], "the checkpoint has no average '0.5', only ['0.9999']"),
        (["--interval", "0.1"], "'0.1' is no interval: write its ends as in 0.1-0.9"),
        (["--samplers", "Hun"], "sampler: there is no class 'Hun': did you mean Heun?"),
        (["--gidance", "2"], "there is no option --gidance: did you mean --guidance?"),
        (["--reference", "nowhere.npz"], "nowhere.npz does not exist: give a folder of images, or an npz with arr_0"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(fresh, capsys, arguments, sentence):
    with pytest.raises(SystemExit):
        main([str(fresh), *SWEEP, *arguments])
    assert capsys.readouterr().err.splitlines()[-1] == f"error: {sentence}"
