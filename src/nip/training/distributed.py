"""Weights and optimizer states that several processes share out: FSDP and DeepSpeed, by accelerate's configuration.

What is written to disk is whole in any case, so that a run goes on with another number of processes, sharded or not.
FSDP cuts weights, gradients and optimizer states into shards. DeepSpeed cuts the optimizer states, in its stage 2 the
gradients too; every process has all weights, which are updated from the optimizer's own copy.
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
SPREAD = "exp_avg", "exp_avg_sq"  # of AdamW's state, what has the shape of the weight


def new_accelerator() -> Accelerator:
    """What the launcher's environment asks for: one process or several, each with all weights or with its share.

    Raises
    ------
    ValueError
        If it asks for a way of sharing out that is not supported; the message says which are.
    """
    refused = {
        "mixed_precision (--precision is for that)": os.environ.get("ACCELERATE_MIXED_PRECISION", "no") != "no",
        "dynamo_backend": os.environ.get("ACCELERATE_DYNAMO_BACKEND", "NO").upper() != "NO",
    }
    _refuse("accelerate's configuration", refused)
    fsdp, deepspeed = _asked("ACCELERATE_USE_FSDP"), _asked("ACCELERATE_USE_DEEPSPEED")
    # where there is no accelerator it must be told, or several processes do not find each other
    on_cpu = _asked("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()
    if deepspeed:
        if "LOCAL_RANK" not in os.environ:
            raise ValueError("DeepSpeed needs a launcher, torchrun or accelerate launch, for one process too.")
        if importlib.util.find_spec("deepspeed") is None:
            raise ImportError("DeepSpeed is not installed: pip install deepspeed")
        if on_cpu:  # accelerate leaves DeepSpeed out where it is told of a CPU only later
            os.environ.pop("ACCELERATE_USE_CPU", None)
            os.environ["DS_ACCELERATOR"] = "cpu"
            PartialState(cpu=True)
        with redirect_stdout(sys.stderr):  # its log keeps to the standard output that it finds when it is imported
            importlib.import_module("deepspeed")
    accelerator = Accelerator(mixed_precision="no", cpu=on_cpu and not deepspeed)  # for bf16 see `steps`
    if fsdp and accelerator.distributed_type == DistributedType.MULTI_CPU:
        # accelerate would take plain data parallelism on CPUs without a word, but what it does on GPUs works here too
        accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin()
        for state in (accelerator.state, PartialState()):  # the one is filled from the other now and then
            state.distributed_type = DistributedType.FSDP
    if accelerator.distributed_type == DistributedType.FSDP:
        check_fsdp(accelerator.state.fsdp_plugin)
    elif accelerator.distributed_type == DistributedType.DEEPSPEED:
        check_deepspeed(accelerator.state.deepspeed_plugin)
    return accelerator


def unwrap(model: torch.nn.Module) -> torch.nn.Module:
    """The model without what distributes it."""
    # accelerate's own way imports DeepSpeed wherever it is installed, which takes seconds and prints
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
    """The model as this process computes with it, and the optimizer of what this process updates."""
    if accelerator.distributed_type == DistributedType.FSDP:
        model, wrapped = accelerator.prepare(model, optimizer)
        return model, wrapped.optimizer
    if uses_deepspeed(accelerator):
        if precision == "bf16":  # DeepSpeed switches off what surrounds it
            autocast = torch.autocast(accelerator.device.type, torch.bfloat16)
            model.forward = autocast(model.forward)
        with redirect_stdout(sys.stderr):  # it says there what it builds
            model, wrapped = accelerator.prepare(model, optimizer)
        return model, wrapped.optimizer.optimizer
    model = accelerator.prepare(model)
    return model, optimizer


@contextmanager
def accumulate(accelerator: Accelerator, model: Any, *, last: bool) -> Iterator[None]:
    """Forward and backward pass of a part; gradients are exchanged once they are complete, with the last part's."""
    if uses_deepspeed(accelerator):
        model.set_gradient_accumulation_boundary(last)
        yield
    else:
        with nullcontext() if last else accelerator.no_sync(model):
            yield


def backward(accelerator: Accelerator, model: Any, loss: Tensor) -> None:
    """Add the gradients of a loss to those that there are."""
    if uses_deepspeed(accelerator):
        model.backward(loss)  # accelerate's own would take the step at once
    else:
        accelerator.backward(loss)


def update(accelerator: Accelerator, model: Any, optimizer: Optimizer) -> bool:
    """Take the optimizer's step, and forget the gradients; False if DeepSpeed found them infinite, and took none."""
    if uses_deepspeed(accelerator):
        model.step()
        return bool(model.was_step_applied())
    optimizer.step()
    optimizer.zero_grad()
    return True


def discard_gradients(accelerator: Accelerator, model: Any, optimizer: Optimizer) -> None:
    """Forget the gradients without a step."""
    if uses_deepspeed(accelerator):  # as its own step does where it finds them infinite
        model.optimizer.zero_grad(set_to_none=True)
        model.optimizer.averaged_gradients = {}
    else:
        optimizer.zero_grad()


def gather_full(weights: Mapping[str, Tensor], *, kept: bool = True) -> Weights:
    """The weights without cuts, to be called by all processes; an empty dict where they are not to be kept."""
    result: Weights = {}
    for name, weight in weights.items():
        complete = weight.full_tensor() if isinstance(weight, DTensor) else weight
        if kept:
            result[name] = complete
    return result


def shard_like(held: Tensor, complete: Tensor) -> Tensor:
    """What a process holds of a whole tensor, if `held` is what it holds of one like it."""
    if isinstance(held, DTensor):
        # every process has read the same file: nothing is to be sent
        return distribute_tensor(complete.to(held.device), held.device_mesh, held.placements, src_data_rank=None)
    return complete.to(held.device)


def load_weights(accelerator: Accelerator, model: torch.nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Put whole weights, all or some of the model's, in their places."""
    inner = unwrap(model)
    own = inner.state_dict()
    inner.load_state_dict({**own, **{name: shard_like(own[name], weight) for name, weight in weights.items()}})
    if uses_deepspeed(accelerator):
        engine: Any = model
        engine.optimizer.refresh_fp32_params()


def optimizer_states(accelerator: Accelerator, model: torch.nn.Module, optimizer: Optimizer) -> dict[str, Weights]:
    """The optimizer's state of every weight, without cuts, to be called by all processes; empty before any step."""
    named = list(unwrap(model).named_parameters())
    if not optimizer.state:
        return {}
    if uses_deepspeed(accelerator):
        whole_state = importlib.import_module("deepspeed.utils").safe_get_full_optimizer_state
        _link_states(model)
        step = next(iter(optimizer.state.values()))["step"]
        return {
            name: {"step": step.clone(), **{key: whole_state(weight, key) for key in SPREAD}} for name, weight in named
        }
    return {name: gather_full(optimizer.state[weight]) for name, weight in named}


def load_optimizer_states(
    accelerator: Accelerator, model: torch.nn.Module, optimizer: Optimizer, states: Mapping[str, Weights]
) -> None:
    """Put the optimizer's whole states, of all weights or none, in their places."""
    if not states:
        return
    named = dict(unwrap(model).named_parameters())
    if uses_deepspeed(accelerator):
        put_state = importlib.import_module("deepspeed.utils").safe_set_full_optimizer_state
        engine: Any = model
        step = next(iter(states.values()))["step"]
        for group in optimizer.param_groups:
            for flat in group["params"]:
                optimizer.state[flat] = {"step": step.clone(), **{key: torch.zeros_like(flat) for key in SPREAD}}
        _link_states(engine)
        for name, state in states.items():
            for key in SPREAD:
                put_state(named[name], state[key].to(accelerator.device), key)
        return
    for name, state in states.items():
        weight = named[name]
        optimizer.state[weight] = {
            key: shard_like(weight, value) if key in SPREAD else value.to(accelerator.device)
            for key, value in state.items()
        }


def _link_states(engine: Any) -> None:
    """Let DeepSpeed know which pieces of its states are whose: by itself it does so in its first step, of one group."""
    engine.optimizer._hp_optimizer_states_linked = False
    engine.optimizer._lazy_init_hp_params_optimizer_state()


def _asked(variable: str) -> bool:
    return os.environ.get(variable, "false").lower() in ("1", "true", "yes")


def check_fsdp(plugin: Any) -> None:
    """Refuse what a configuration of FSDP says that is decided here or not supported."""
    policy = getattr(plugin.auto_wrap_policy, "func", plugin.auto_wrap_policy)
    refused = {
        "fsdp_version: 1 (2 is needed)": plugin.fsdp_version != 2,
        "fsdp_auto_wrap_policy: SIZE_BASED_WRAP": "size_based" in getattr(policy, "__name__", ""),
        "fsdp_activation_checkpointing (--gradient-checkpointing is for that)": plugin.activation_checkpointing,
        "fsdp_offload_params": isinstance(plugin.cpu_offload, CPUOffloadPolicy),
    }
    _refuse("FSDP", refused)


def check_deepspeed(plugin: Any) -> None:
    """Refuse what a configuration of DeepSpeed says that is decided here or not supported, and set what is."""
    config = plugin.deepspeed_config
    zero = config["zero_optimization"]

    def on(section: str) -> bool:
        return config.get(section, {}).get("enabled") is True

    if config.get("gradient_clipping") == "auto":
        config["gradient_clipping"] = 0.0
    refused = {
        f"zero_stage: {zero['stage']} (1 or 2 is needed; FSDP cuts the weights too)": zero["stage"] not in (1, 2),
        "gradient_clipping": bool(config.get("gradient_clipping")),
        "an optimizer of its own": "optimizer" in config,
        "a schedule of its own": "scheduler" in config,
        "offload_optimizer_device": zero.get("offload_optimizer", {}).get("device", "none") != "none",
        "bf16, fp16 or torch_autocast (--precision is for that)": any(map(on, ("bf16", "fp16", "torch_autocast"))),
    }
    _refuse("DeepSpeed", refused)
    # what a step is made of is decided here
    plugin.deepspeed_config |= {"train_micro_batch_size_per_gpu": 1, "gradient_accumulation_steps": 1}


def _refuse(engine: str, refused: Mapping[str, bool]) -> None:
    found = [setting for setting, here in refused.items() if here]
    if found:
        raise ValueError(f"With {engine}, nip does not support: {'; '.join(found)}.")


def any_process(accelerator: Accelerator, true: bool) -> bool:
    """Whether it is true in any process."""
    return all_reduce_sum(accelerator, float(true))[0] > 0


def all_reduce_sum(accelerator: Accelerator, *values: float) -> tuple[float, ...]:
    """The values all_reduce_sum over all processes."""
    if accelerator.num_processes == 1:
        return values
    exact = torch.tensor(values, dtype=torch.float64, device=accelerator.device)
    total: Any = accelerator.reduce(exact, reduction="sum")
    return tuple(total.tolist())
