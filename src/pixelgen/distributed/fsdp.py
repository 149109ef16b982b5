"""FSDP2: the networks that train, split over all processes."""

import itertools
from collections.abc import Iterable
from datetime import timedelta

import torch
from lightning.pytorch.plugins.precision import DoublePrecision, HalfPrecision
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy, Strategy
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from pixelgen.models import Denoiser


class FSDP(ModelParallelStrategy):
    """FSDP2 over all processes of all nodes: each holds its share of weights, gradients, moments and averages.

    Frozen networks are not split: each process has its own copy.

    Args:
        save_distributed_checkpoint: false gathers each checkpoint into one file on rank 0, which any other strategy
            and `pixelgen.load` can read; true writes a folder with the shards of each process.
        process_group_backend: null for the device's own: nccl for GPUs, gloo for CPUs.
        timeout: how long a process waits for the others.
    """

    def __init__(
        self,
        save_distributed_checkpoint: bool = False,
        process_group_backend: str | None = None,
        timeout: timedelta = timedelta(minutes=30),
    ) -> None:
        super().__init__("auto", 1, save_distributed_checkpoint, process_group_backend, timeout)

    def setup_environment(self) -> None:
        """Lightning's own default would split over nodes only."""
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()


def shard(denoiser: Denoiser, others: Iterable[nn.Module], mesh: DeviceMesh) -> None:
    """Split a denoiser, block by block, and other modules that train. Every process starts from the weights of rank 0.

    On ranks other than 0 the denoiser may be on the meta device, so that only one process of a run ever builds the
    whole of it. If it is on the meta device on rank 0 too, its weights are drawn there.
    """
    denoiser.require("FSDP2", "blocks", "initialise")
    modules = [denoiser, *others]
    buffers = [name for module in modules for name, _ in module.named_buffers() if name not in module.state_dict()]
    if buffers:  # the other processes would never get its values
        raise ValueError(f"under FSDP2 every buffer must be persistent, but {buffers[0]} is not in the state dict")
    frozen = [name for module in modules for name, value in module.named_parameters() if not value.requires_grad]
    if frozen:  # Lightning would number the states of the optimizer differently than without FSDP2
        raise ValueError(f"under FSDP2 every parameter must train, but {frozen[0]} is frozen: make it a buffer")
    first = torch.distributed.get_rank() == 0
    if first and _is_meta(denoiser):
        denoiser.to_empty(device="cpu")
        denoiser.initialise()
    weights = [module.state_dict() if first else {} for module in modules]
    for block in denoiser.every_block():
        if block._compiled_call_impl is not None:  # FSDP's hooks must run outside of what is compiled
            block._compiled_call_impl = None
            block.forward = torch.compile(block.forward)
        fully_shard(block, mesh=mesh)
    for module in modules:
        fully_shard(module, mesh=mesh)
    register_fsdp_forward_method(denoiser, "forward_with_features")
    if _is_meta(denoiser):
        denoiser.to_empty(device=mesh.device_type)
    options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True, strict=True)
    for module, full in zip(modules, weights, strict=True):
        set_model_state_dict(module, full, options=options)


def refuse_unsupported(strategy: Strategy) -> None:
    """Refuse what moves weights out of sight of EMAs and checkpoints (FSDP1, DeepSpeed), or out of float32."""
    precision = strategy.precision_plugin
    if isinstance(precision, HalfPrecision | DoublePrecision):
        raise ValueError(
            f"trainer.precision {precision.precision} would keep weights, averages and moments in it: "
            "take bf16-mixed, 16-mixed or 32-true"
        )
    if isinstance(strategy, FSDPStrategy | DeepSpeedStrategy):
        raise ValueError(
            f"{type(strategy).__name__} is not supported: use FSDP2, trainer.strategy pixelgen.distributed.fsdp.FSDP, "
            "as configs/overlay/fsdp.yaml does"
        )


def check_synchronised(model: nn.Module, optimizers: Iterable[Optimizer], strategy: Strategy) -> None:
    """Refuse parameters that neither FSDP2 has split nor DDP synchronises: the processes would drift apart."""
    if isinstance(strategy, ModelParallelStrategy):
        fix = "give their module to `fully_shard` in `configure_model`"
    elif isinstance(strategy.model, DistributedDataParallel):
        fix = "create them in `__init__` or `configure_model`, as part of the module that is trained"
    else:
        return
    names = {parameter: name for name, parameter in model.named_parameters()}
    wrapped = set(getattr(strategy.model, "_module_parameters", ()))
    groups = [group["params"] for optimizer in optimizers for group in optimizer.param_groups]
    left = [
        names.get(parameter, f"a parameter of shape {tuple(parameter.shape)} outside of the module")
        for parameter in itertools.chain(*groups)
        if not isinstance(parameter, DTensor) and parameter not in wrapped
    ]
    if left:
        more = f" and {len(left) - 3} more" if len(left) > 3 else ""
        raise ValueError(f"nothing synchronises the gradients of {', '.join(left[:3])}{more}: {fix}")


def _is_meta(module: nn.Module) -> bool:
    return any(parameter.is_meta for parameter in module.parameters())
