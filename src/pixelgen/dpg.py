"""`python -m pixelgen.dpg runs/text prompts`: images for DPG-Bench (arXiv 2403.05135), which scores them elsewhere."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from rich.progress import track
from torchvision.transforms.functional import to_pil_image
from torchvision.utils import make_grid

from pixelgen.checks import checked
from pixelgen.cli.command import command
from pixelgen.distributed.processes import agree, launch
from pixelgen.files import atomic, read_text
from pixelgen.runs.run import Run
from pixelgen.sample import sample_prompts
from pixelgen.samples.npz import read_png
from pixelgen.samples.sampling import Sampling
from pixelgen.text import say

IMAGES = 4  # of each prompt, in two rows of two
DPG_PROMPTS = 1065  # prompts of the benchmark


@checked()
def dpg(
    source: str | Path | Run, prompts: str | Path, to: str | Path | None = None, *, sampling: Sampling = Sampling()
) -> Path:
    """Generate the images of DPG-Bench with a text model: `grids/<prompt file's name>.png`, two rows of two images.

    Scoring is not part of this: it needs mPLUG and lives with the benchmark. Give its script the folder `grids` as
    --image-root-path, the height of one image as --resolution, and --pic-num 4. The single images are in `images`.
    Every prompt gets the same four seeds. The same command resumes where it was stopped.

    Args:
        source: run folder, checkpoint or export of a text model.
        prompts: the benchmark's folder with one text file for each prompt.
        to: folder to write into; `dpg/<EMA, step, sampler and a hash of all settings>` in the run if not given.
        sampling: how images are generated.

    Returns:
        The folder of the grids.

    Raises:
        ValueError: naming what is wrong with the arguments, the source or a folder.
    """
    texts = read_texts(Path(prompts))
    run, fabric = Run.open(source), launch(sampling.devices, sampling.precision, sampling.num_nodes)
    sha256 = hashlib.sha256("\0".join(part for item in texts.items() for part in item).encode()).hexdigest()

    def path(number: int, seed: int) -> str:
        return f"images/{[*texts][number]}/{seed:04d}.png"

    folder = sample_prompts(run, fabric, [*texts.values()], path, IMAGES, sha256, to, "dpg", sampling)
    with agree():
        share = range(fabric.global_rank, len(texts), fabric.world_size)
        for number in track(share, "grids", disable=fabric.global_rank != 0):
            images = [folder / path(number, sampling.seed + i) for i in range(IMAGES)]
            _write_grid(folder / "grids" / f"{images[0].parent.name}.png", images)
    return folder / "grids"


def read_texts(folder: Path) -> dict[str, str]:
    """Prompts by the names of their files, sorted; a ValueError tells that there are none, or of one that is empty."""
    files = sorted(folder.glob("*.txt"))
    if not files:
        raise ValueError(f"{folder} holds no prompts: give a folder with one text file (*.txt) for each")
    texts = {}
    for path in files:
        try:
            texts[path.stem] = read_text(path).strip()
        except OSError as error:
            raise ValueError(f"{path} cannot be read as text ({error})") from error
        if not texts[path.stem]:
            raise ValueError(f"{path} is empty: write a prompt into it or delete it")
    return texts


def _write_grid(path: Path, images: Sequence[Path]) -> None:
    """Put the four images of a prompt into one, row by row, without lines between them."""
    grid = make_grid([read_png(image) for image in images], nrow=2, padding=0)  # (3, 2 H, 2 W)
    with atomic(path, "free some space, then resume with the same command") as temporary:
        to_pil_image(grid).save(temporary, "PNG")


def _report(folder: Path) -> None:
    number = len([*folder.glob("*.png")])
    part = "" if number == DPG_PROMPTS else f", which has {DPG_PROMPTS} prompts: this is a part of it"
    say(f"{folder}: {number} grids, to be scored by DPG-Bench's own script{part}")


main = command(dpg, _report)

if __name__ == "__main__":
    main()
