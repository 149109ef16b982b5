"""`python -m pixelgen.geneval runs/text`: GenEval's images of a text model, their verdicts and the scores."""

import json
from pathlib import Path

from pixelgen.checks import COUNT, checked
from pixelgen.cli.command import command
from pixelgen.data.shapes import ShapesData
from pixelgen.distributed.processes import agree, launch
from pixelgen.evaluation.geneval.detectors import Detector, find_detector
from pixelgen.evaluation.geneval.folder import image_path, write_metadata
from pixelgen.evaluation.geneval.prompts import find_prompts, prompts_sha256, subset_by_task
from pixelgen.evaluation.geneval.score import NOTE, RESULTS, SCORES, protocol_sentence, score_folder, score_table
from pixelgen.runs.checkpoints import holds_weights
from pixelgen.runs.run import Run
from pixelgen.sample import sample_prompts
from pixelgen.samples.sampling import Sampling
from pixelgen.text import say


@checked(images_per_prompt=COUNT, num_prompts=COUNT)
def geneval(
    source: str | Path | Run,
    to: str | Path | None = None,
    *,
    prompts: str = "geneval",
    images_per_prompt: int = 4,
    num_prompts: int | None = None,
    detector: Detector | None = None,
    generate_only: bool = False,
    score_only: bool = False,
    sampling: Sampling = Sampling(),
) -> Path:
    """Generate the images of GenEval with a text model, in GenEval's own folder layout, and score them.

    Every prompt gets the same seeds: `seed`, `seed` + 1, … (published: from 0). The same command resumes where it was
    stopped. `geneval.json` has scores and protocol, `results.jsonl` the verdict on each image. Images are judged in
    float32.

    Args:
        source: run folder, checkpoint or export of a text model; with `score_only` a folder of images.
        to: folder to write into; `geneval/<EMA, step, sampler and a hash of all settings>` in the run if not given.
        prompts: `geneval`, the 553 published ones; `shapes`, the same tasks on the shapes, colours and numbers that the
            run's data draws; or a file with one line of JSON for each prompt.
        images_per_prompt: published: 4.
        num_prompts: how many of them, evenly over the tasks, for a quick look; all if not given.
        detector: what finds objects; `ShapesDetector` where all objects are shapes, else `CocoDetector`, if not given.
        generate_only: generate the images, score nothing.
        score_only: score a folder of images in GenEval's layout, by any tool.
        sampling: how images are generated.

    Returns:
        The folder.

    Raises:
        ValueError: naming what is wrong with the arguments, the source or the folder.
    """
    if generate_only and score_only:
        raise ValueError("generate_only and score_only leave nothing to do: give one of them")
    fabric = launch(sampling.devices, sampling.precision, sampling.num_nodes)
    if score_only:
        folder = Path(str(source))
        score_folder(folder, detector, fabric)
        return folder
    with agree():
        run = Run.open(source)
        chosen = subset_by_task(find_prompts(prompts, _shapes_data(run)), num_prompts)
        if not generate_only:
            detector = find_detector(detector, chosen)  # before hours of sampling, if it is missing
    texts, sha256 = [prompt.text for prompt in chosen], prompts_sha256(chosen)
    folder = sample_prompts(run, fabric, texts, image_path, images_per_prompt, sha256, to, "geneval", sampling)
    with agree():
        if fabric.global_rank == 0:
            write_metadata(folder, chosen)
    if not generate_only:
        score_folder(folder, detector, fabric)
    return folder


def _shapes_data(run: Run) -> ShapesData | None:
    """The data that a run was trained on, where it is `ShapesData`."""
    data = run.config.get("data") or {}
    return run.build(ShapesData, data, "data") if str(data.get("class_path")).endswith(".ShapesData") else None


def _report(folder: Path) -> None:
    scores = folder / SCORES
    if scores.is_file():
        report = json.loads(scores.read_text())
        say(score_table(report["scores"]), protocol_sentence(report["protocol"]), report["protocol"]["note"])
    say(f"{folder}: images" + (f", {SCORES}, {RESULTS}" if scores.is_file() else ""))


def _source(path: str, trust: bool) -> str | Run:
    """A run, opened; with --score_only it is a folder of images."""
    return Run(path, trust) if holds_weights(path) else path


main = command(geneval, _report, opens=_source, epilog=NOTE)

if __name__ == "__main__":
    main()
