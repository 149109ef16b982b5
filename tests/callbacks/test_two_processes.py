import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent


def run(strategy, folder, max_steps, *more):
    folder.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(HERE.parent), *sys.path])
    command = [sys.executable, str(HERE / "two_processes.py"), strategy, str(folder), str(max_steps), *map(str, more)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(path.read_text()) for path in sorted(folder.glob("rank*.json"))]


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_all_callbacks_on_two_processes(tmp_path, strategy):
    (one,) = run("one", tmp_path / "one", 6)
    first, second = run(strategy, tmp_path / "two", 6)
    assert all(first[key] == second[key] for key in ("fid", "skipped", "weights"))
    # before training the score is that of one process; `skipped` counts the step that was bad on one process only
    assert len(first["fid"][0]) == 9  # the step and every metric
    assert first["fid"][0] == pytest.approx(one["fid"][0], rel=1e-6)
    assert first["geneval"][0] == one["geneval"][0]
    assert 0 < first["geneval"][0]["geneval/images"] < 1
    assert first["skipped"] == 1
    assert first["weights"][1] == first["weights"][2]
    seen = torch.tensor(first["weights"], dtype=torch.float64)
    assert len(seen) == 6
    moved = sum(0.5 ** (6 - step) * 0.5 * seen[step - 1] for step in range(2, 7))
    start = (torch.tensor(first["average"], dtype=torch.float64) - moved - 0.5**6 * seen[0]) / 0.5**6
    assert start.abs().max() < 1  # what remains are the first weights
    saved = torch.load(tmp_path / "two/checkpoints/last.ckpt", weights_only=True)
    assert saved["global_step"] == 6
    average = saved["callbacks"]["EMA"]["averages"]["0.5"]["final_layer.linear.weight"]
    assert average.flatten().tolist() == first["average"]
    assert saved["state_dict"]["denoiser.final_layer.linear.weight"].flatten().tolist() == first["weights"][-1]
    names = sorted(path.name for path in (tmp_path / "two/checkpoints").iterdir())
    best = min(first["fid"], key=lambda scores: scores["frechet/toy"])
    assert torch.load(tmp_path / "two/checkpoints/best.ckpt", weights_only=True)["global_step"] == max(1, best["step"])
    assert names == ["best.ckpt", "last.ckpt", "step_0000003.ckpt", "step_0000006.ckpt"]


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_resume_on_two_processes(tmp_path, strategy):
    whole, _ = run(strategy, tmp_path / "whole", 8)
    run(strategy, tmp_path / "halves", 4)
    resumed, _ = run(strategy, tmp_path / "halves", 8, tmp_path / "halves/checkpoints/last.ckpt")
    assert resumed["average"] == whole["average"]
    assert resumed["weights"] == whole["weights"][4:]
