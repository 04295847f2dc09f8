"""Distributed training as accelerate's configuration asks for it: data parallel, FSDP, or DeepSpeed ZeRO 1 and 2.

Checkpoints hold full tensors in every case, so a run resumes with another number of processes, sharded or not. FSDP
shards weights, gradients and optimizer states. DeepSpeed shards the optimizer states, in stage 2 the gradients too;
every process has all weights, which DeepSpeed updates from an fp32 copy in its optimizer.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, redirect_stdout
from typing import Any, cast

import torch
from accelerate import Accelerator, DistributedType, PartialState
from accelerate.utils import FullyShardedDataParallelPlugin
from torch import Tensor
from torch.distributed.fsdp import CPUOffloadPolicy
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

Optimizer = torch.optim.Optimizer
Weights = dict[str, Tensor]
MOMENTS = "exp_avg", "exp_avg_sq"
"""Entries of AdamW's state that have the shape of the weight, and are sharded like it."""


def new_accelerator() -> Accelerator:
    """The accelerator that the launcher's environment asks for: device, processes, and how weights are sharded.

    Raises
    ------
    ValueError
        If accelerate's configuration names something that nip does not support.
    ImportError
        If it names DeepSpeed, which is not installed.
    """
    unsupported = {
        "mixed_precision (--precision is for that)": os.environ.get("ACCELERATE_MIXED_PRECISION", "no") != "no",
        "dynamo_backend": os.environ.get("ACCELERATE_DYNAMO_BACKEND", "NO").upper() != "NO",
    }
    _check_supported("accelerate's configuration", unsupported)
    fsdp, deepspeed = _is_set("ACCELERATE_USE_FSDP"), _is_set("ACCELERATE_USE_DEEPSPEED")
    # without a GPU accelerate needs cpu=True, or several processes do not find each other
    on_cpu = _is_set("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()
    if deepspeed:
        if "LOCAL_RANK" not in os.environ:
            raise ValueError("DeepSpeed needs a launcher, torchrun or accelerate launch, for one process too.")
        if importlib.util.find_spec("deepspeed") is None:
            raise ImportError("DeepSpeed is not installed: pip install deepspeed")
        if on_cpu:  # given cpu=True, accelerate would drop DeepSpeed
            os.environ.pop("ACCELERATE_USE_CPU", None)
            os.environ["DS_ACCELERATOR"] = "cpu"
            PartialState(cpu=True)
        with redirect_stdout(sys.stderr):  # its logger keeps the stream that is standard output at import time
            importlib.import_module("deepspeed")
    accelerator = Accelerator(mixed_precision="no", cpu=on_cpu and not deepspeed)  # see `train_step.autocast`
    if fsdp and accelerator.distributed_type == DistributedType.MULTI_CPU:
        # accelerate silently falls back to data parallelism on CPUs, although FSDP works on them too
        accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin()
        for state in (accelerator.state, PartialState()):  # accelerate copies from the second to the first
            state.distributed_type = DistributedType.FSDP
    if accelerator.distributed_type == DistributedType.FSDP:
        check_fsdp(accelerator.state.fsdp_plugin)
    elif accelerator.distributed_type == DistributedType.DEEPSPEED:
        check_deepspeed(accelerator.state.deepspeed_plugin)
    return accelerator


def unwrap(model: torch.nn.Module) -> torch.nn.Module:
    """The model without the wrapper of DistributedDataParallel or DeepSpeed."""
    # accelerate's own unwrap_model imports DeepSpeed wherever it is installed, which takes seconds and prints
    if isinstance(model, DistributedDataParallel) or type(model).__name__ == "DeepSpeedEngine":
        inner: Any = model.module
        return cast(torch.nn.Module, inner)
    return model


def uses_deepspeed(accelerator: Accelerator) -> bool:
    """Whether DeepSpeed takes the steps."""
    return bool(accelerator.distributed_type == DistributedType.DEEPSPEED)


def prepare_model(
    accelerator: Accelerator, model: torch.nn.Module, optimizer: Optimizer, precision: str | None
) -> tuple[torch.nn.Module, Optimizer]:
    """Wrap the model and the optimizer for distributed training.

    Parameters
    ----------
    accelerator : Accelerator
    model : Module
    optimizer : Optimizer
        Over the model's parameters.
    precision : {"fp32", "bf16", "fp16"} or None
        DeepSpeed computes in bf16 inside its own wrapper; elsewhere `train_step.autocast` does.

    Returns
    -------
    model : Module
        As this process computes with it.
    optimizer : Optimizer
        Over the parameters, or their shards, that this process updates.
    """
    if accelerator.distributed_type == DistributedType.FSDP:
        model, wrapped = accelerator.prepare(model, optimizer)
        return model, wrapped.optimizer
    if uses_deepspeed(accelerator):
        if precision == "bf16":  # DeepSpeed disables an autocast around its forward pass
            autocast = torch.autocast(accelerator.device.type, torch.bfloat16)
            model.forward = autocast(model.forward)
        with redirect_stdout(sys.stderr):  # it prints what it compiles
            model, wrapped = accelerator.prepare(model, optimizer)
        return model, wrapped.optimizer.optimizer
    model = accelerator.prepare(model)
    return model, optimizer


@contextmanager
def accumulate(accelerator: Accelerator, model: Any, *, last: bool) -> Iterator[None]:
    """Surround the forward and backward pass of a micro-batch: processes exchange gradients with the last one only.

    Parameters
    ----------
    accelerator : Accelerator
    model : Module
        As `prepare_model` wraps it.
    last : bool
        Whether it is the last micro-batch of its step.
    """
    if uses_deepspeed(accelerator):
        model.set_gradient_accumulation_boundary(last)
        yield
    else:
        with nullcontext() if last else accelerator.no_sync(model):
            yield


def backward(accelerator: Accelerator, model: Any, loss: Tensor) -> None:
    """Compute the gradients of a loss, and add them to those of the micro-batches before.

    Parameters
    ----------
    accelerator : Accelerator
    model : Module
        As `prepare_model` wraps it.
    loss : Tensor of shape ()
    """
    if uses_deepspeed(accelerator):
        model.backward(loss)  # accelerate's own backward takes the step as well
    else:
        accelerator.backward(loss)


def update(accelerator: Accelerator, model: Any, optimizer: Optimizer) -> bool:
    """Take the optimizer's step and clear the gradients.

    Parameters
    ----------
    accelerator : Accelerator
    model : Module
        As `prepare_model` wraps it.
    optimizer : Optimizer

    Returns
    -------
    bool
        False if DeepSpeed found an infinite gradient and skipped the step.
    """
    if uses_deepspeed(accelerator):
        model.step()
        return bool(model.was_step_applied())
    optimizer.step()
    optimizer.zero_grad()
    return True


def discard_gradients(accelerator: Accelerator, model: Any, optimizer: Optimizer) -> None:
    """Clear the gradients without a step.

    Parameters
    ----------
    accelerator : Accelerator
    model : Module
        As `prepare_model` wraps it.
    optimizer : Optimizer
    """
    if uses_deepspeed(accelerator):  # as DeepSpeed does on overflow
        model.optimizer.zero_grad(set_to_none=True)
        model.optimizer.averaged_gradients = {}
    else:
        optimizer.zero_grad()


def gather_full(weights: Mapping[str, Tensor], *, keep: bool = True) -> Weights:
    """Gather sharded tensors; called by all processes, and empty in those that do not keep them."""
    result: Weights = {}
    for name, weight in weights.items():
        full = weight.full_tensor() if isinstance(weight, DTensor) else weight
        if keep:
            result[name] = full
    return result


def shard_like(own: Tensor, full: Tensor) -> Tensor:
    """This process's shard of a full tensor, sharded as `own` is."""
    if isinstance(own, DTensor):
        # every process has read the same file: there is nothing to send
        return distribute_tensor(full.to(own.device), own.device_mesh, own.placements, src_data_rank=None)
    return full.to(own.device)


def load_weights(accelerator: Accelerator, model: torch.nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Load full weights into the model; those that are missing keep their values.

    Parameters
    ----------
    accelerator : Accelerator
    model : Module
        As `prepare_model` wraps it.
    weights : mapping of str to Tensor
        By their names in the unwrapped model.
    """
    inner = unwrap(model)
    own = inner.state_dict()
    inner.load_state_dict({**own, **{name: shard_like(own[name], weight) for name, weight in weights.items()}})
    if uses_deepspeed(accelerator):
        engine: Any = model
        engine.optimizer.refresh_fp32_params()


def optimizer_states(accelerator: Accelerator, model: torch.nn.Module, optimizer: Optimizer) -> dict[str, Weights]:
    """The optimizer's state of every parameter, gathered; called by all processes, empty before the first step.

    Parameters
    ----------
    accelerator : Accelerator
    model : Module
        As `prepare_model` wraps it.
    optimizer : Optimizer

    Returns
    -------
    dict of str to dict of str to Tensor
        By the name of the parameter, then that of the state.
    """
    named = list(unwrap(model).named_parameters())
    if not optimizer.state:
        return {}
    if uses_deepspeed(accelerator):
        full_state = importlib.import_module("deepspeed.utils").safe_get_full_optimizer_state
        _link_states(model)
        step = next(iter(optimizer.state.values()))["step"]
        return {
            name: {"step": step.clone(), **{key: full_state(weight, key) for key in MOMENTS}} for name, weight in named
        }
    return {name: gather_full(optimizer.state[weight]) for name, weight in named}


def load_optimizer_states(
    accelerator: Accelerator, model: torch.nn.Module, optimizer: Optimizer, states: Mapping[str, Weights]
) -> None:
    """Replace the optimizer's state by what `optimizer_states` gave.

    Parameters
    ----------
    accelerator : Accelerator
    model : Module
        As `prepare_model` wraps it.
    optimizer : Optimizer
    states : mapping of str to dict of str to Tensor
        Of all parameters, or of none: then the optimizer starts anew.
    """
    named = dict(unwrap(model).named_parameters())
    if uses_deepspeed(accelerator):
        set_state = importlib.import_module("deepspeed.utils").safe_set_full_optimizer_state
        engine: Any = model
        step = next(iter(states.values()))["step"] if states else torch.zeros((), device="cpu")
        for group in optimizer.param_groups:
            for flat in group["params"]:  # DeepSpeed's state cannot be dropped, only be zero
                optimizer.state[flat] = {"step": step.clone(), **{key: torch.zeros_like(flat) for key in MOMENTS}}
        _link_states(engine)
        for name, state in states.items():
            for key in MOMENTS:
                set_state(named[name], state[key].to(accelerator.device), key)
        return
    optimizer.state.clear()
    for name, state in states.items():
        weight = named[name]
        optimizer.state[weight] = {
            key: shard_like(weight, value) if key in MOMENTS else value.to(accelerator.device)
            for key, value in state.items()
        }


def _link_states(engine: Any) -> None:
    """Link DeepSpeed's flat state to the parameters; it does so itself only in its first step, for one group."""
    engine.optimizer._hp_optimizer_states_linked = False
    engine.optimizer._lazy_init_hp_params_optimizer_state()


def _is_set(variable: str) -> bool:
    return os.environ.get(variable, "false").lower() in ("1", "true", "yes")


def check_fsdp(plugin: Any) -> None:
    """Check accelerate's configuration of FSDP.

    Raises
    ------
    ValueError
        If it sets something that nip sets itself or does not support.
    """
    policy = getattr(plugin.auto_wrap_policy, "func", plugin.auto_wrap_policy)
    unsupported = {
        "fsdp_version: 1 (2 is needed)": plugin.fsdp_version != 2,
        "fsdp_auto_wrap_policy: SIZE_BASED_WRAP": "size_based" in getattr(policy, "__name__", ""),
        "fsdp_activation_checkpointing (--gradient-checkpointing is for that)": plugin.activation_checkpointing,
        "fsdp_offload_params": isinstance(plugin.cpu_offload, CPUOffloadPolicy),
    }
    _check_supported("FSDP", unsupported)


def check_deepspeed(plugin: Any) -> None:
    """Check accelerate's configuration of DeepSpeed, and fill in the sizes that nip decides.

    Raises
    ------
    ValueError
        If it sets something that nip sets itself or does not support.
    """
    config = plugin.deepspeed_config
    zero = config["zero_optimization"]

    def on(section: str) -> bool:
        return config.get(section, {}).get("enabled") is True

    if config.get("gradient_clipping") == "auto":
        config["gradient_clipping"] = 0.0
    unsupported = {
        f"zero_stage: {zero['stage']} (1 or 2 is needed; FSDP cuts the weights too)": zero["stage"] not in (1, 2),
        "gradient_clipping": bool(config.get("gradient_clipping")),
        "an optimizer of its own": "optimizer" in config,
        "a schedule of its own": "scheduler" in config,
        "offload_optimizer_device": zero.get("offload_optimizer", {}).get("device", "none") != "none",
        "bf16, fp16 or torch_autocast (--precision is for that)": any(map(on, ("bf16", "fp16", "torch_autocast"))),
    }
    _check_supported("DeepSpeed", unsupported)
    # `train_step` cuts batches into micro-batches
    plugin.deepspeed_config |= {"train_micro_batch_size_per_gpu": 1, "gradient_accumulation_steps": 1}


def _check_supported(engine: str, unsupported: Mapping[str, bool]) -> None:
    found = [setting for setting, present in unsupported.items() if present]
    if found:
        raise ValueError(f"With {engine}, nip does not support: {'; '.join(found)}.")


def any_process(accelerator: Accelerator, condition: bool) -> bool:
    """Whether the condition holds in any process; called by all."""
    return all_reduce_sum(accelerator, float(condition))[0] > 0


def all_reduce_sum(accelerator: Accelerator, *values: float) -> tuple[float, ...]:
    """The sum of each value over all processes, in float64; called by all."""
    if accelerator.num_processes == 1:
        return values
    exact = torch.tensor(values, dtype=torch.float64, device=accelerator.device)
    total: Any = accelerator.reduce(exact, reduction="sum")
    return tuple(total.tolist())
