"""Fine-tuning starts from weights of other classes, none, or another image size, and from nothing else."""

import re
import warnings

import pytest
import torch
import yaml
from lightning.pytorch.strategies import SingleDeviceStrategy

import pixelgen
from digits import write_digits
from pixelgen import PixelGen
from pixelgen.fit import main
from pixelgen.losses import Objective
from pixelgen.losses.adaptive import AdaptiveWeight
from pixelgen.models import JiT
from pixelgen.runs.transfer import TABLE, check_resumable, start_from, transferred

X, T = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1)), torch.tensor([0.2, 0.7])


def network(seed=0, **options):
    """A tiny network with random values in every parameter."""
    torch.manual_seed(seed)
    settings = dict(input_size=8, patch_size=4, hidden_size=16, depth=2, num_heads=2, num_classes=3, bottleneck_dim=4)
    denoiser = JiT(**settings | {"in_context_len": 0, "in_context_start": 1} | options)
    for parameter in denoiser.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return denoiser.eval()


def moved(source, target):
    """`target`, filled from `source`, and what was said."""
    weights, said = transferred(source.state_dict(), target)
    target.load_state_dict(weights)
    return target, said


@pytest.mark.parametrize("num_classes", [2, 5])
def test_other_classes_keep_all_but_the_label_table_and_its_null_class(num_classes):
    source, target = network(0), network(1, num_classes=num_classes)
    drawn = target.y_embedder.embedding_table.weight[:-1].clone()
    target, (said,) = moved(source, target)
    table = target.y_embedder.embedding_table.weight
    assert torch.equal(table[:-1], drawn)
    assert torch.equal(table[-1], source.y_embedder.embedding_table.weight[-1])
    assert said == (
        f"the label table had 3 classes, and here there are {num_classes}: it starts anew, but for the null class"
    )
    nulls = torch.full((2,), 3), torch.full((2,), num_classes)
    assert torch.equal(source(X, T, nulls[0]), target(X, T, nulls[1]))


def test_as_many_classes_change_nothing():
    source = network(0)
    weights, said = transferred(source.state_dict(), network(1))
    assert said == []
    assert all(
        weights[key] is not None and torch.equal(weights[key], value) for key, value in source.state_dict().items()
    )


def test_other_names_for_a_label_table_that_is_kept_are_said(tmp_path):
    for names, file in ((list("abc"), "a.ckpt"), (list("bca"), "b.ckpt"), (list("abcd"), "c.ckpt")):
        model = PixelGen(network(1, num_classes=len(names)))
        state = {f"denoiser.{key}": value for key, value in model.denoiser.state_dict().items()}
        torch.save({"state_dict": state, "class_names": names}, tmp_path / file)
    model = PixelGen(network())
    model.conditioner.take_names(list("abc"))
    with pytest.warns(UserWarning, match="the label table is kept, but its classes .*: class 0 was 'b' and is 'a'$"):
        start_from(model, tmp_path / "b.ckpt")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*other names")
        for file in ("a.ckpt", "c.ckpt"):
            start_from(model, tmp_path / file)


def test_without_classes_the_network_is_its_null_class():
    source = network(0)
    target, said = moved(source, network(1, num_classes=None))
    assert said == ["the network is unconditional here, as its null class was there"]
    expected = source(X, T, torch.tensor([3, 3]))
    assert expected.std() > 0.1
    assert torch.allclose(target(X, T), expected, atol=1e-5)


def test_class_tokens_are_dropped_with_a_word():
    target, (said,) = moved(network(0, in_context_len=2), network(1, num_classes=None))
    assert said.endswith("; its class tokens are dropped, so the first pictures will be worse")
    assert target(X, T).shape == X.shape


@pytest.mark.parametrize("in_context_len", [0, 2])
def test_classes_where_there_were_none_start_anew(in_context_len):
    source, target = network(0, num_classes=None), network(1, in_context_len=in_context_len)
    drawn = target.y_embedder.embedding_table.weight.clone()
    target, said = moved(source, target)
    assert said == ["the network had no classes: its label table starts anew"]
    assert torch.equal(target.y_embedder.embedding_table.weight, drawn)
    with torch.no_grad():
        target.y_embedder.embedding_table.weight.zero_()
    if not in_context_len:  # a label without an embedding is none
        assert torch.equal(target(X, T, torch.tensor([0, 3])), source(X, T))


def test_another_image_size_keeps_what_the_network_does_at_that_size():
    source = network(0)
    target, said = moved(source, network(1, input_size=16))
    assert said == ["positions are computed anew for images of 16 px"]
    x, y = torch.randn(2, 3, 16, 16), torch.tensor([0, 3])
    assert torch.equal(target(x, T, y), source(x, T, y))


def test_a_network_without_values_is_told_the_same():
    """Under FSDP2 only the first process has the values."""
    with torch.device("meta"):
        target = network(1, num_classes=5, input_size=16)
    weights, said = transferred(network(0).state_dict(), target)
    assert len(said) == 2
    assert {key: value.shape for key, value in weights.items()} == {
        key: value.shape for key, value in target.state_dict().items()
    }


@pytest.mark.parametrize(
    ("there", "here", "problem"),
    [
        ({}, {"depth": 3}, r"blocks.2.\S+ is missing"),
        ({"depth": 3}, {}, r"blocks.2.\S+ is unexpected"),
        ({}, {"hidden_size": 32}, r"pos_embed is \(1, 4, 16\) there, \(1, 4, 32\) here"),
        ({"in_context_len": 2}, {"in_context_len": 3}, r"in_context_posemb is \(1, 2, 16\) there, \(1, 3, 16\) here$"),
        ({"in_context_len": 2}, {}, "in_context_posemb is unexpected$"),
        ({"in_context_len": 2}, {"num_classes": 5}, "in_context_posemb is unexpected$"),
    ],
)
def test_anything_else_is_named(tmp_path, there, here, problem):
    state = {f"ema_denoiser.{key}": value for key, value in network(**there).state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "published.ckpt")
    model = PixelGen(network(1, **here))
    before = {key: value.clone() for key, value in model.denoiser.state_dict().items()}
    with pytest.raises(ValueError, match=rf"are of another network: .*{problem}"):
        start_from(model, tmp_path / "published.ckpt")
    assert all(torch.equal(before[key], value) for key, value in model.denoiser.state_dict().items())


def test_a_published_file_becomes_a_model_of_a_folder(tmp_path):
    """From the command line: other classes and another size; averages, optimizer and step are new."""
    source = network(0, input_size=16)
    state = {f"ema_denoiser.{key}": value for key, value in source.state_dict().items()}
    torch.save({"state_dict": state, "global_step": 7, "optimizer_states": [{"lr": 3.0}]}, tmp_path / "published.ckpt")
    write_digits(tmp_path / "digits")
    size = {"patch_size": 4, "hidden_size": 16, "depth": 2, "num_heads": 2, "bottleneck_dim": 4, "in_context_len": 0}
    config = tmp_path / "tiny.yaml"
    config.write_text(yaml.safe_dump({"model": {"denoiser": {"class_path": "JiT", "init_args": size}}}))
    data = ["--data", "ImageFolderData", "--data.root", str(tmp_path / "digits"), "--data.image_size", "32"]
    trainer = ["--trainer.accelerator", "cpu", "--trainer.max_steps", "1", "--callbacks.preview", "null"]
    with pytest.warns(UserWarning, match=r"published.ckpt: the label table had 3 classes, and here there are 10: "):
        cli = main(
            [
                *("--config", str(config), *data, "--data.batch_size", "2", "--run", str(tmp_path / "run"), *trainer),
                *("--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"),
                *("--init_from", str(tmp_path / "published.ckpt")),
            ]
        )
    assert cli.trainer.global_step == 1
    assert cli.trainer.optimizers[0].param_groups[0]["lr"] == 1e-4
    moments = cli.trainer.optimizers[0].state.values()
    assert {float(moment["step"]) for moment in moments} == {1.0}
    trained = cli.model.denoiser.state_dict()
    change = trained["blocks.0.attn.qkv.weight"] - source.state_dict()["blocks.0.attn.qkv.weight"]
    assert 0 < change.abs().max() <= 1.01e-4  # one step of AdamW from the weights of the file
    assert pixelgen.load(tmp_path / "run").denoiser.num_classes == 10


def test_the_adaptive_weight_of_a_new_run_starts_anew(tmp_path):
    """A run of other losses has balanced others: 3.7 there would be 3.7 times too much here."""

    def model(seed):
        return PixelGen(network(seed), Objective(adaptive=AdaptiveWeight()))

    source, target = model(0), model(1)
    source.objective.adaptive.weight.fill_(3.7)
    run = saved(tmp_path / "run", source, network_settings())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        start_from(target, run)
    assert float(target.objective.adaptive.weight) == 1.0
    assert torch.equal(target.denoiser.state_dict()[TABLE], source.denoiser.state_dict()[TABLE])


def network_settings(**options):
    return (
        dict(input_size=8, patch_size=4, hidden_size=16, depth=2, num_heads=2, num_classes=3, bottleneck_dim=4)
        | options
    )


def saved(folder, model, settings):
    """A run folder with the weights of a model, and an EMA that is the same."""
    (folder / "checkpoints").mkdir(parents=True)
    ema = {"EMA": {"averages": {"0.99": dict(model.denoiser.named_parameters())}, "step": 5}}
    checkpoint = {"state_dict": model.state_dict(), "callbacks": ema, "global_step": 5}
    torch.save(checkpoint, folder / "checkpoints" / "last.ckpt")
    section = {"denoiser": {"class_path": "pixelgen.models.JiT", "init_args": {"in_context_len": 0} | settings}}
    (folder / "config.yaml").write_text(yaml.safe_dump({"model": {"init_args": section}}))
    return folder


@pytest.mark.parametrize("start", [0, 1])
def test_class_tokens_enter_where_they_did(tmp_path, start):
    tokens = {"in_context_len": 2, "in_context_start": start}
    source = PixelGen(network(0, **tokens))
    run = saved(tmp_path / "run", source, network_settings(**tokens))
    loaded = pixelgen.load(run, device="cpu")
    assert loaded.denoiser.in_context_start == start
    assert repr(loaded).endswith(f"weights: EMA 0.99 of step 5, {run}")
    here, other = (PixelGen(network(1, in_context_len=2, in_context_start=at)) for at in (start, 1 - start))
    resume = (run / "checkpoints" / "last.ckpt", SingleDeviceStrategy("cpu"))
    check_resumable(here, *resume)
    start_from(here, run)
    before = {key: value.clone() for key, value in other.denoiser.state_dict().items()}
    sentence = (
        f"the class tokens of {run} enter before block {start}, here before block {1 - start}: set "
        f"model.denoiser.in_context_start to {start}"
    )
    for use in (start_from, lambda model, folder: check_resumable(model, *resume)):
        with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
            use(other, run)
    assert all(torch.equal(before[key], value) for key, value in other.denoiser.state_dict().items())
    start_from(PixelGen(network(1, num_classes=None, in_context_start=1 - start)), run)  # it has no class tokens
