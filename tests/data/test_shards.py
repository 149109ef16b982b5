"""Shards as a data module: from disk and over HTTP, on the command line, resumed, on two processes."""

import json
import threading
import warnings
from collections import Counter
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from safetensors.torch import save
from torch import nn

from pixelgen.callbacks import FID, Skipped
from pixelgen.cli.training import CLI
from pixelgen.data import Captions, ShardData
from shard_files import picture, write_shards, write_tar
from tiny_run import Means

CAPTIONS = Captions(prefix_probability=0)


class Recorder(LightningModule):
    def __init__(self):
        super().__init__()
        self.layer, self.seen, self.validated = nn.Linear(1, 1), [], []

    def training_step(self, batch, batch_idx):
        self.seen.append([int(caption) for caption in batch["caption"]])
        return self.layer(torch.ones(1, 1)).sum()

    def validation_step(self, batch, batch_idx):
        self.validated.append([int(caption) for caption in batch["caption"]])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Write(Callback):
    def on_train_end(self, trainer, recorder):
        torch.save(recorder.seen, f"{trainer.default_root_dir}/{trainer.global_rank}.pt")


def fit(folder, shards, ckpt_path=None, callbacks=(), data=None, **options):
    recorder = Recorder()
    settings = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    saving = any(isinstance(callback, ModelCheckpoint) for callback in callbacks)
    settings |= {"enable_checkpointing": saving, "max_epochs": -1, "num_sanity_val_steps": 0}
    trainer = Trainer(default_root_dir=folder, callbacks=list(callbacks), **(settings | options))
    datamodule = ShardData(shards, image_size=8, captions=CAPTIONS, length=12, **{"batch_size": 3, **(data or {})})
    trainer.fit(recorder, datamodule=datamodule, ckpt_path=ckpt_path)
    return recorder, trainer


@pytest.mark.parametrize("steps", [3, 4, 6])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_resumed_run_is_the_run_that_never_stopped(tmp_path, steps, num_workers):
    """Stopped in the middle of an epoch of four batches, or at its end."""
    shards, data = write_shards(tmp_path / "s", [5, 9, 3], captions=True), {"num_workers": num_workers}
    straight, _ = fit(tmp_path, shards, data=data, max_steps=12)
    save = ModelCheckpoint(tmp_path, filename="stop", every_n_train_steps=steps)
    stopped, _ = fit(tmp_path, shards, data=data, callbacks=[save], max_steps=steps)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        resumed, trainer = fit(tmp_path, shards, data=data, ckpt_path=tmp_path / "stop.ckpt", max_steps=12)
    assert stopped.seen + resumed.seen == straight.seen
    assert len(straight.seen) == 12
    assert trainer.current_epoch == 3
    assert not [w for w in caught if "order" in str(w.message) or "resum" in str(w.message)]


def test_validation_takes_the_same_images_each_time(tmp_path):
    shards = write_shards(tmp_path / "s", [20], captions=True)
    held_out = write_shards(tmp_path / "v", [5, 5], captions=True, start=100)
    recorder, _ = fit(tmp_path, shards, data={"val_shards": held_out, "val_length": 7}, max_epochs=2)
    assert len(recorder.validated) == 4
    assert recorder.validated[:2] == recorder.validated[2:]
    assert {key for batch in recorder.validated for key in batch} <= set(range(100, 110))


@pytest.mark.slow
def test_two_processes_with_two_workers_train_on_uneven_shards_and_resume(tmp_path):
    shards = write_shards(tmp_path / "s", [1, 40, 2, 7, 30], captions=True)
    options = {"data": {"num_workers": 2}, "strategy": "ddp_fork", "devices": 2}

    def seen(folder, **more):
        folder.mkdir()
        fit(folder, shards, callbacks=[Write(), *more.pop("callbacks", [])], **options, **more)
        return [torch.load(folder / f"{rank}.pt") for rank in (0, 1)]

    straight = seen(tmp_path / "straight", max_steps=26)
    counts = Counter(key for batches in straight for batch in batches for key in batch)
    assert [len(batches) for batches in straight] == [26, 26]
    assert set(counts) == set(range(80))
    save = ModelCheckpoint(tmp_path, filename="stop", every_n_train_steps=11)
    stopped = seen(tmp_path / "stopped", callbacks=[save], max_steps=11)
    resumed = seen(tmp_path / "resumed", ckpt_path=tmp_path / "stop.ckpt", max_steps=26)
    assert [a + b for a, b in zip(stopped, resumed, strict=True)] == straight


@pytest.fixture
def server(tmp_path):
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path))) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()


@pytest.mark.parametrize("num_workers", [0, 2])
def test_shards_over_http_are_those_on_disk(tmp_path, server, num_workers):
    folder = write_shards(tmp_path / "s", [4, 4, 4, 4], captions=True)
    local, remote = (
        ShardData(
            f"{place}/{{000..003}}.tar",
            image_size=8,
            batch_size=4,
            num_workers=num_workers,
            length=16,
            captions=CAPTIONS,
        )
        for place in (folder, f"{server}/s")
    )
    remote.setup()
    batches = [[batch["caption"] for batch in data.train_dataloader()] for data in (local, remote)]
    remote.teardown()  # before the server is
    assert batches[0] == batches[1]
    assert sorted(int(caption) for batch in batches[0] for caption in batch) == list(range(16))


def test_missing_shards_of_a_server_are_skipped_unless_all_are(tmp_path, server):
    write_shards(tmp_path / "s", [4], captions=True)
    data = ShardData(f"{server}/s/{{000..002}}.tar", image_size=8, batch_size=4, length=8, captions=CAPTIONS)
    data.setup()
    with pytest.warns(UserWarning, match=r"skipped, unreadable shard: http://.*/s/00[12]\.tar"):
        assert len(list(data.train_dataloader())) == 2
    assert data.skipped["unreadable shard"] >= 2
    with pytest.raises(ValueError, match=r"nothing in the shards http.*none.tar can be used: 1 × unreadable shard"):
        ShardData(f"{server}/none.tar", image_size=8).setup()


def train(tmp_path, *arguments):
    denoiser = {"patch_size": 8, "hidden_size": 16, "depth": 2, "num_heads": 2, "in_context_len": 0}
    sizes = [argument for name, value in denoiser.items() for argument in (f"--model.denoiser.{name}", str(value))]
    cli = CLI(
        [
            *("--data", "ShardData", "--data.image_size", "16", "--data.batch_size", "2", "--data.length", "6"),
            *("--model.denoiser", "JiT", *sizes, "--model.sampler", "Euler", "--model.sampler.num_steps", "2"),
            *("--trainer.max_steps", "4", "--trainer.accelerator", "cpu", "--trainer.log_every_n_steps", "1"),
            *("--callbacks.preview", "null", "--run", str(tmp_path / "run"), *arguments),
        ]
    )
    cli.fit()
    return cli


def test_the_command_line_trains_on_labelled_shards_and_logs_what_was_skipped(tmp_path):
    folder = write_shards(tmp_path / "s", [4, 4])
    write_tar(tmp_path / "s" / "002.tar", [("bad", {"png": b"?", "cls": "1"}), ("none", {"png": picture(3)})])
    (tmp_path / "s" / "classes.txt").write_text("\n".join("abcdefg") + "\n")
    with pytest.warns(UserWarning, match="skipped, corrupt image: bad in"):
        cli = train(tmp_path, "--data.shards", folder)
    assert cli.model.denoiser.num_classes == 7
    assert cli.datamodule.class_names == list("abcdefg")
    metrics = cli.trainer.callback_metrics
    assert metrics["data/skipped/corrupt_image"] == cli.datamodule.skipped["corrupt image"] >= 1
    assert metrics["data/skipped/no_label"] >= 1
    assert "data/skipped/small_image" not in metrics


def test_labels_that_nobody_counts_are_not_left_out_in_silence(tmp_path):
    folder = write_shards(tmp_path / "s", [4])
    with pytest.raises(ValueError, match="the data has labels, but nothing says how many classes there are: give"):
        train(tmp_path, "--data.shards", folder)
    captioned = write_shards(tmp_path / "t", [4], captions=True)
    with pytest.raises(ValueError, match="the data has captions, but JiT takes none: choose TextJiT"):
        train(tmp_path, "--data.shards", captioned, "--data.captions", "Captions")
    assert not (tmp_path / "run").exists()
    cli = train(tmp_path, "--data.shards", folder, "--model.denoiser.num_classes", "null")
    assert cli.model.denoiser.num_classes is None


def test_shards_of_other_classes_are_not_mixed(tmp_path):
    folders = [write_shards(tmp_path / name, [4]) for name in "ab"]
    for folder, names in zip(folders, ("ant\nbee\n", "bee\ncat\n"), strict=True):
        (Path(folder) / "classes.txt").write_text(names)
    message = (
        r"b/classes.txt has other classes than .*a/classes.txt \(class 0 was 'ant' and is 'bee'; gone: 'ant'; new: "
    )
    for given in (
        {"shards": folders},
        {"shards": folders, "weights": [1, 1]},
        {"shards": folders[0], "val_shards": folders[1]},
    ):
        with pytest.raises(ValueError, match=message):
            ShardData(**given, image_size=8)
    assert ShardData(folders, class_names=["ant", "bee", "cat"]).num_classes == 3
    (Path(folders[1]) / "classes.txt").write_bytes(b"\xef\xbb\xbfant\r\nbee\r\n")
    assert ShardData(folders).class_names == ["ant", "bee"]


def test_the_command_line_takes_lists_weights_and_captions(tmp_path):
    folders = [write_shards(tmp_path / name, [4], captions=True) for name in "ab"]
    cli = train(
        tmp_path,
        *("--data.shards", json.dumps(folders), "--data.weights", "[1, 3]", "--model.denoiser.num_classes", "null"),
        *("--data.captions", "Captions", "--data.captions.prefix_probability", "0"),
    )
    assert [source.weight for source in cli.datamodule.sources] == [1, 3]
    assert set(next(iter(cli.datamodule.train_dataloader()))) == {"image", "caption"}


def test_fid_asks_for_a_reference_before_training(tmp_path):
    data = ShardData(write_shards(tmp_path / "s", [4], captions=True), image_size=8, batch_size=2, captions=CAPTIONS)
    trainer = Trainer(accelerator="cpu", logger=False, callbacks=[FID(Means())], enable_checkpointing=False)
    with pytest.raises(ValueError, match=r"streamed shards have no fixed set of images .*fid\.reference"):
        trainer.fit(Recorder(), datamodule=data)


def test_counts_of_skips_reach_the_logs_at_the_last_step_too(tmp_path):
    write_shards(tmp_path / "s", [4], captions=True)
    write_tar(tmp_path / "s" / "bad.tar", [("x", {"txt": "1"})])
    counting = Skipped(every_n_steps=100)
    with pytest.warns(UserWarning, match="skipped, no image: x in"):
        _, trainer = fit(tmp_path, str(tmp_path / "s"), callbacks=[counting], max_steps=5)
    assert counting.counts == {"no image": trainer.datamodule.skipped["no image"]}
    assert trainer.callback_metrics["data/skipped/no_image"] == counting.counts["no image"]


def test_text_states_are_stacked_and_others_skipped(tmp_path):
    states = torch.arange(24).reshape(6, 4).to(torch.bfloat16)
    samples = [("a", {"png": picture(1), "safetensors": save({"text": states})})]
    samples += [
        ("b", {"png": picture(2), "safetensors": save({"text": states[:5].clone()})}),
        ("c", {"png": picture(3)}),
    ]
    write_tar(tmp_path / "a.tar", samples)
    data = ShardData(str(tmp_path), image_size=8, batch_size=2, length=4, text_states=True)
    data.setup()
    with pytest.warns(UserWarning, match=r"no text states: . in .*a\.tar"):
        batch = next(iter(data.train_dataloader()))
    assert torch.equal(batch["text"], torch.stack([states, states]))
    file = tmp_path / "b.npy"
    np.save(file, np.ones((3, 2), dtype=np.float16))
    write_tar(tmp_path / "a.tar", [("a", {"png": picture(1), "npy": file.read_bytes()})])
    assert next(iter(ShardData(str(tmp_path), image_size=8, batch_size=2, text_states=True).train_dataloader()))[
        "text"
    ].shape == (2, 3, 2)


def test_a_source_without_anything_usable_is_named_with_the_reasons(tmp_path):
    good, bad = write_shards(tmp_path / "good", [2], captions=True), write_shards(tmp_path / "bad", [3])
    data = ShardData([good, bad], [1, 1], image_size=8, captions=Captions({"alt": 1}))
    with pytest.raises(ValueError, match=r"good can be used: 2 × no caption \(0.*none of alt among png, cls, txt"):
        data.setup()
    data = ShardData([good, bad], [1, 1], image_size=8, captions=CAPTIONS)
    with pytest.raises(ValueError, match=r"nothing in the shards .*bad can be used: 3 × no caption"):
        data.setup()
    with pytest.raises(ValueError, match=r"2 × small image \(000000 in .*16 x 16 pixels, fewer than 17"):
        ShardData(good, image_size=8, min_side=17).setup()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shards": []}, "shards is empty"),
        ({"weights": [1, 2]}, "1 entries in shards and the weights"),
        ({"weights": [0]}, "a number above 0"),
        ({"num_classes": 3, "class_names": ["a", "b"]}, "num_classes is 3, but there are 2 names"),
        ({"class_names": ["a", "b", "a"]}, "two classes have one name among"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        ShardData(**{"shards": write_shards(tmp_path / "s", [1]), **options})


def test_an_epoch_shorter_than_a_global_batch_is_refused(tmp_path):
    data = ShardData(write_shards(tmp_path / "s", [1]), image_size=8, batch_size=32, length=31)
    with pytest.raises(ValueError, match="length is 31, less than one global batch of 32"):
        data.train_dataloader()
