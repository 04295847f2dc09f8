"""Training step and inference of a complete Hugging Face encoder, with sparse and dense attention.

The model is BERT's encoder with random weights and no head (default: six layers, twelve heads, width 384), or a saved
model. Dense attention is transformers' `sdpa`; everything outside attention is the same code. The inputs have no
padding.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from transformers import AutoConfig, AutoModel, BertConfig, BertModel, PreTrainedModel

from nip.attention import explain
from nip.bench.machine import Machine, this_machine
from nip.bench.memory import high_water, in_own_process
from nip.bench.quiet import mm_probe, time_alternately
from nip.bench.table import markdown_table
from nip.graphs import pattern
from nip.graphs.pattern import check_int
from nip.models.huggingface.sparsify import sparsify
from nip.models.positions import extend_positions, max_positions
from nip.runs.process import keep_freed_memory

DENSE = "sdpa"
PASSES = ("training", "inference")
DROPOUT_DENSE_UP_TO = 2048
"""With dropout torch's dense attention materializes all scores: it is skipped on longer inputs."""


@dataclass(frozen=True)
class Encoder:
    """A model, its input and the computation."""

    n_tokens: int
    batch: int = 1
    layers: int = 6
    width: int = 384
    heads: int = 12
    block_size: int = 16
    attention_dropout: float = 0.0
    hidden_dropout: float = 0.0
    dtype: str = "float32"
    optimizer: bool = False
    """Whether a training step includes AdamW."""
    source: str | None = None
    """Folder or name of a saved model, its positions extended by reflection for longer inputs; None: BERT."""

    @classmethod
    def saved(cls, source: str, n_tokens: int, **more: Any) -> Encoder:
        """Describe a saved model, with its layers, width and heads.

        Parameters
        ----------
        source : str
            Folder or name of the model.
        n_tokens : int
        **more
            Other fields.

        Returns
        -------
        Encoder

        Raises
        ------
        OSError
            If there is no such model.
        ValueError
            If its configuration does not contain them.
        """
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
        names = {"layers": "num_hidden_layers", "width": "hidden_size", "heads": "num_attention_heads"}
        if missing := [name for name in names.values() if not isinstance(getattr(config, name, None), int)]:
            raise ValueError(f"{source} is not an encoder that can be measured: its configuration has no {missing[0]}.")
        return cls(n_tokens, source=source, **{key: getattr(config, name) for key, name in names.items()}, **more)

    def __post_init__(self) -> None:
        for name in ("n_tokens", "batch", "layers", "width", "heads", "block_size"):
            object.__setattr__(self, name, check_int(name, getattr(self, name), "bench encoder", minimum=1))
        if self.width % self.heads:
            raise ValueError(
                f"The heads of bench encoder must divide its width {self.width}. Got {self.heads} instead."
            )
        for name in ("attention_dropout", "hidden_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"The '{name}' parameter of bench encoder must be in [0, 1).")
        if self.dtype not in {"float32", "bfloat16"}:
            raise ValueError(
                f"The 'dtype' parameter of bench encoder must be float32 or bfloat16. Got {self.dtype!r} instead."
            )


@dataclass(frozen=True)
class EncoderRow:
    """A measurement of an encoder with one kind of attention."""

    attention: str
    """The backend; "sdpa" is the dense attention of transformers."""
    pattern: str
    direction: str
    """From `PASSES`: training is forward and backward."""
    encoder: Encoder
    ms: float
    ratio_to_dense: float | None
    """Time / time of the dense encoder; None if that was skipped."""
    peak_mib: float | None
    """Memory of the pass in addition to the model and its input; None if it was not measured."""
    repeats: int
    kept: int
    """Samples taken while the machine was quiet; if 0, all samples are used."""
    machine: Machine

    @property
    def tokens_per_second(self) -> float:
        """Throughput over all sequences of the batch."""
        return 1e3 * self.encoder.batch * self.encoder.n_tokens / self.ms

    def to_dict(self) -> dict[str, Any]:
        """JSON values, flat."""
        return {
            "backend": self.attention,
            "pattern": self.pattern,
            "pass": self.direction,
            **asdict(self.encoder),
            "ms": self.ms,
            "ratio_to_dense": self.ratio_to_dense,
            "speedup_over_dense": None if self.ratio_to_dense is None else 1 / self.ratio_to_dense,
            "tokens_per_second": self.tokens_per_second,
            "peak_mib": self.peak_mib,
            "repeats": self.repeats,
            "kept": self.kept,
            **asdict(self.machine),
        }


def bench_encoder(
    encoders: Sequence[Encoder],
    patterns: Sequence[str] = ("hypercube",),
    passes: Sequence[str] = PASSES,
    *,
    backend: str = "auto",
    dense_up_to: int | None = None,
    repeats: int = 7,
    memory: bool = True,
) -> Iterator[EncoderRow]:
    """Measure encoders with attention over patterns and with dense attention; rows are yielded as they are measured.

    The process keeps freed memory, as in training.

    Parameters
    ----------
    encoders : sequence of Encoder
    patterns : sequence of str
        Names of patterns, with their default parameters.
    passes : sequence of str
        From `PASSES`.
    backend : str, default="auto"
        As for `nip.attend`.
    dense_up_to : int, optional
        Maximum number of tokens for which the dense encoder is measured; with dropout at most `DROPOUT_DENSE_UP_TO`.
    repeats : int, default=7
        Number of samples to take while the machine is quiet.
    memory : bool, default=True
        Also measure peak memory, in a separate process each.

    Yields
    ------
    EncoderRow

    Raises
    ------
    ValueError
        If a name is unknown or a number is below 1.
    """
    repeats = check_int("repeats", repeats, "bench encoder", minimum=1)
    for direction in passes:
        if direction not in PASSES:
            raise ValueError(f"There is no pass {direction!r}. The passes are {', '.join(PASSES)}.")
    for encoder in encoders:
        for name in patterns:
            pattern(name, -(-encoder.n_tokens // encoder.block_size))
    return _measure(encoders, patterns, passes, backend, dense_up_to, repeats, memory)


def _measure(
    encoders: Sequence[Encoder],
    patterns: Sequence[str],
    passes: Sequence[str],
    backend: str,
    dense_up_to: int | None,
    repeats: int,
    memory: bool,
) -> Iterator[EncoderRow]:
    keep_freed_memory()
    machine, probe = this_machine(), mm_probe()
    seen = set()
    for encoder in encoders:
        for direction in passes:
            if direction == "inference":
                same = replace(encoder, attention_dropout=0.0, hidden_dropout=0.0, optimizer=False)
                if same in seen:
                    continue
                seen.add(same)
            names = [DENSE] if _has_dense(encoder, direction, dense_up_to) else []
            names += patterns
            calls = {name: prepare(encoder, name, direction, backend) for name in names}
            timings = time_alternately(calls, repeats, probe)
            del calls
            for name in names:
                dense = timings.get(DENSE)
                yield EncoderRow(
                    attention=DENSE if name == DENSE else _selected_backend(encoder, name, direction, backend),
                    pattern="softmax" if name == DENSE else name,
                    direction=direction,
                    encoder=encoder,
                    ms=timings[name].ms,
                    ratio_to_dense=None if dense is None else timings[name].ms / dense.ms,
                    peak_mib=_peak_mib(encoder, name, direction, backend, machine.threads) if memory else None,
                    repeats=repeats,
                    kept=timings[name].kept,
                    machine=machine,
                )


def _has_dense(encoder: Encoder, direction: str, dense_up_to: int | None) -> bool:
    if direction == "training" and encoder.attention_dropout > 0 and encoder.n_tokens > DROPOUT_DENSE_UP_TO:
        return False
    return dense_up_to is None or encoder.n_tokens <= dense_up_to


def _model(encoder: Encoder) -> PreTrainedModel:
    dropout = {
        "attention_probs_dropout_prob": encoder.attention_dropout,
        "hidden_dropout_prob": encoder.hidden_dropout,
    }
    if encoder.source is None:
        config = BertConfig(
            vocab_size=1024,
            hidden_size=encoder.width,
            num_hidden_layers=encoder.layers,
            num_attention_heads=encoder.heads,
            intermediate_size=4 * encoder.width,
            max_position_embeddings=encoder.n_tokens,
            **dropout,
        )
        return BertModel._from_config(config, attn_implementation="sdpa", add_pooling_layer=False)
    config = AutoConfig.from_pretrained(encoder.source, trust_remote_code=False)
    for name, chance in dropout.items():
        if not hasattr(config, name):
            raise ValueError(f"The dropout of {encoder.source} cannot be set: its configuration has no {name}.")
        setattr(config, name, chance)
    model: PreTrainedModel = AutoModel.from_pretrained(
        encoder.source, config=config, attn_implementation="sdpa", dtype=torch.float32
    )
    rows = max_positions(config)
    if rows is not None and encoder.n_tokens > rows:
        extend_positions(model, encoder.n_tokens)
    return model


def prepare(encoder: Encoder, name: str, direction: str, backend: str = "auto") -> Callable[[], object]:
    """Return a call that computes the pass once.

    Parameters
    ----------
    encoder : Encoder
    name : str
        A pattern or "sdpa".
    direction : str
        From `PASSES`.
    backend : str, default="auto"
        As for `nip.attend`.

    Returns
    -------
    callable
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = _model(encoder)
        ids = torch.randint(model.config.vocab_size, (encoder.batch, encoder.n_tokens), device="cpu")
    model.to(getattr(torch, encoder.dtype))
    if name != DENSE:
        sparsify(model, name, block_size=encoder.block_size, backend=backend)
    if direction == "inference":
        model.eval()

        def infer() -> object:
            with torch.inference_mode():
                return model(ids).last_hidden_state

        return infer
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), fused=True) if encoder.optimizer else None

    def train() -> None:
        model.zero_grad(set_to_none=True)
        model(ids).last_hidden_state.square().mean().backward()
        if optimizer is not None:
            optimizer.step()

    return train


def _selected_backend(encoder: Encoder, name: str, direction: str, backend: str) -> str:
    head = encoder.width // encoder.heads
    like = torch.empty(
        encoder.batch, encoder.heads, encoder.n_tokens, head, dtype=getattr(torch, encoder.dtype), device="cpu"
    )
    like.requires_grad_(direction == "training")
    graph = pattern(name, -(-encoder.n_tokens // encoder.block_size))
    dropout = encoder.attention_dropout if direction == "training" else 0.0
    return explain(like, like, like, graph, encoder.block_size, dropout_p=dropout, backend=backend).backend


def _peak_mib(encoder: Encoder, name: str, direction: str, backend: str, threads: int) -> float | None:
    job = {"encoder": asdict(encoder), "name": name, "direction": direction, "backend": backend, "threads": threads}
    return in_own_process("nip.bench.huggingface", job, f"{name} at {encoder.n_tokens} tokens")


HEADER = [
    "pass", "tokens", "batch", "dropout", "attention", "pattern", "ms", "times dense", "tokens/s", "peak MiB", "quiet",
]  # fmt: skip


def cells(row: EncoderRow) -> list[str]:
    """The displayed texts of a row, in the order of `HEADER`."""
    return [
        row.direction,
        f"{row.encoder.n_tokens:,}",
        f"{row.encoder.batch}",
        f"{row.encoder.attention_dropout:g}",
        row.attention,
        row.pattern,
        f"{row.ms:,.4g}",
        "—" if row.ratio_to_dense is None else f"{1 / row.ratio_to_dense:.3g}",
        f"{row.tokens_per_second:,.0f}",
        "—" if row.peak_mib is None else f"{row.peak_mib:,.0f}",
        f"{row.kept}",
    ]


def caption(rows: Sequence[EncoderRow]) -> str:
    """The machine, the model and the settings of the measurement."""
    first, encoder = rows[0], rows[0].encoder
    step = "forward, backward and AdamW" if encoder.optimizer else "forward and backward"
    source = "" if encoder.source is None else f"the saved {encoder.source}, "
    return (
        f"{first.machine}; {source}{encoder.layers} layers, {encoder.width} wide, {encoder.heads} heads, "
        f"{encoder.dtype}, blocks of {encoder.block_size}; training is {step}; "
        f"hidden dropout {encoder.hidden_dropout:g}; medians of {first.repeats}"
    )


def to_markdown(rows: Sequence[EncoderRow]) -> str:
    """The caption and a Markdown table."""
    return markdown_table(caption(rows), HEADER, map(cells, rows))


def _main(job: str) -> None:
    request = json.loads(job)
    torch.set_num_threads(request["threads"])
    encoder = Encoder(**request["encoder"])
    arguments = request["name"], request["direction"], request["backend"]
    small = Encoder(**{**request["encoder"], "n_tokens": 2 * encoder.block_size, "batch": 1})
    prepare(small, *arguments)()  # initializes libraries and threads
    print(high_water(prepare(encoder, *arguments)) / 2**20)


if __name__ == "__main__":
    _main(sys.argv[1])
