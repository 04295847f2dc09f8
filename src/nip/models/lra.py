"""The encoder of the Long Range Arena runs: a small pre-LayerNorm Transformer that attends over a pattern.

Token and position embeddings, a stack of layers that is applied twice with the same weights, a final LayerNorm, the
mean over positions, and a two-layer head. Token id 0 is padding. The sizes are those of the NIP paper's runs, which
take them from Nyströmformer (arXiv 2102.03902, section 4.2) but for 4 heads in place of 2 and the tied repetition.
The modern recipe's encoder is the same with rotary positions and a gated feed-forward.

Denoising: the encoder with a head that says of every token what it was before it was masked.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from nip.attention import attend
from nip.graphs import Pattern, corner
from nip.graphs.pattern import check_int
from nip.models.dropout import add_dropout, dropout
from nip.models.rotary import Rotations, rotate, rotations

PADDING = 0


@dataclass(frozen=True)
class EncoderConfig:
    """Sizes of the encoder and its head; the defaults are the original's.

    Parameters
    ----------
    vocab_size : int
        Number of token ids, padding (0) included.
    n_classes : int
        Number of labels.
    length : int
        Tokens of a full input. A shorter one is the same input with its padding left off.
    positions : int
        Rows of the position table, at least `length`.
    block_size : int, default=16
        Tokens a vertex of the pattern stands for.
    mean_over_padding : bool, default=False
        Divide the sum over the real tokens by `length`, as the original does, in place of by their number.
    pair : bool, default=False
        Two documents are read by the same encoder and compared by the head (LRA retrieval).
    per_token : bool, default=False
        Every token is classified, in place of the mean over them.
    rotary : bool, default=False
        Positions turn queries and keys (see `nip.models.rotary`) in place of a table; `positions` plays no part.
    columns : int, optional
        With `rotary`: the tokens are the pixels of an image so many pixels wide, their positions row and column.
    gated : bool, default=False
        The feed-forward is gated (GEGLU; N. Shazeer, arXiv 2002.05202): one map's GELU times another map.
    masked : bool, default=False
        There is one more token id, `vocab_size`, which stands for a masked token.
    gradient_checkpointing : bool, default=False
        Keep each layer's input only and compute the layer again for its gradients: less memory, same numbers.
    head_width : int or None, default=128
        Width of the head's hidden layer; None: the head is one linear map.
    token_std : float, default=0.02
        Standard deviation of the first token embeddings.
    parts : tuple of tuple of int, default=()
        The symbols that a token id is made of, for every id: its embedding is the sum of theirs. By default every id
        has an embedding of its own.
    """

    vocab_size: int
    n_classes: int
    length: int
    positions: int
    block_size: int = 16
    width: int = 64
    heads: int = 4
    head_dim: int = 32
    inner_width: int = 128
    head_width: int | None = 128
    layers: int = 2
    repeats: int = 2
    dropout: float = 0.1
    attention_dropout: float = 0.0
    mean_over_padding: bool = False
    pair: bool = False
    per_token: bool = False
    rotary: bool = False
    columns: int | None = None
    gated: bool = False
    masked: bool = False
    gradient_checkpointing: bool = False
    token_std: float = 0.02
    parts: tuple[tuple[int, ...], ...] = ()

    def __post_init__(self) -> None:
        sizes = "vocab_size n_classes length positions block_size width heads head_dim inner_width layers repeats"
        for name in (*sizes.split(), *(["head_width"] if self.head_width is not None else [])):
            check_int(name, getattr(self, name), "EncoderConfig", minimum=1)
        if self.parts and len(self.parts) != self.vocab_size:
            raise ValueError(
                f"The 'parts' parameter of EncoderConfig must have an entry for each of the {self.vocab_size} token "
                f"ids. Got {len(self.parts)} instead."
            )
        for name in ("dropout", "attention_dropout"):
            value = getattr(self, name)
            if not isinstance(value, float | int) or isinstance(value, bool) or not 0 <= value < 1:
                raise ValueError(f"The '{name}' parameter of EncoderConfig must be in [0, 1). Got {value!r} instead.")
        if self.pair and self.per_token:
            raise ValueError("Pairs of documents are classified as a whole, not token by token.")
        if self.rotary:
            rotations(1, self.head_dim, columns=self.columns)  # refuses dimensions that cannot be paired
        elif self.length > self.positions:
            raise ValueError(
                f"A sequence of {self.length} tokens is longer than the position table of {self.positions} rows."
            )


class Tokens(nn.Embedding):
    """The embedding of token ids, of which each is one row of the table or, with `parts`, the sum of some.

    What stands for a masked token, the id after all others, has a row of its own in any case.
    """

    sums: Tensor | None

    def __init__(self, config: EncoderConfig) -> None:
        parts = config.parts
        symbols = 1 + max(symbol for each in parts for symbol in each) if parts else config.vocab_size
        super().__init__(symbols + config.masked, config.width)
        self.std = config.token_std
        sums = None
        if parts:
            sums = torch.zeros(config.vocab_size + config.masked, symbols + config.masked)
            for token, each in enumerate([*parts, *([(symbols,)] if config.masked else [])]):
                sums[token, list(each)] = 1.0
        self.register_buffer("sums", sums, persistent=False)

    def forward(self, input: Tensor) -> Tensor:
        """Token ids of any shape to vectors (…, width)."""
        table = self.weight if self.sums is None else self.sums @ self.weight
        return functional.embedding(input, table)


class Layer(nn.Module):
    """LayerNorm → attention → residual, LayerNorm → two linear maps with GELU or GEGLU between → residual."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        inner = config.heads * config.head_dim
        self.config = config
        self.attention_norm = nn.LayerNorm(config.width)
        self.qkv = nn.Linear(config.width, 3 * inner)
        self.attention_out = nn.Linear(inner, config.width)
        self.inner_norm = nn.LayerNorm(config.width)
        self.up = nn.Linear(config.width, config.inner_width * (2 if config.gated else 1))
        self.down = nn.Linear(config.inner_width, config.width)

    def forward(self, x: Tensor, mask: Tensor, pattern: Pattern, backend: str, turned: Rotations | None) -> Tensor:
        """Map tokens (batch, length, width) to the same shape; mask (batch, length) is True at real tokens."""
        config = self.config
        batch, length, _ = x.shape
        q, k, v = (
            part.view(batch, length, config.heads, config.head_dim).transpose(1, 2)
            for part in self.qkv(self.attention_norm(x)).chunk(3, dim=-1)
        )
        if turned is not None:
            q, k = rotate(q, turned), rotate(k, turned)
        attended = attend(
            q,
            k,
            v,
            pattern,
            block_size=config.block_size,
            key_padding_mask=mask,
            dropout_p=config.attention_dropout if self.training else 0.0,
            backend=backend,
        )
        mixed = self.attention_out(attended.transpose(1, 2).reshape(batch, length, config.heads * config.head_dim))
        x = add_dropout(x, mixed, config.dropout, self.training)
        inner = self.up(self.inner_norm(x))
        if config.gated:
            gate, value = inner.chunk(2, dim=-1)
            inner = functional.gelu(gate) * value
        else:
            inner = functional.gelu(inner)
        inner = dropout(inner, config.dropout, self.training)
        return add_dropout(x, self.down(inner), config.dropout, self.training)


class Encoder(nn.Module):
    """Token ids to one vector a token: what the models of this package have in common.

    Parameters
    ----------
    config : EncoderConfig
    pattern : Pattern
        The graph on the blocks of a full input: ``ceil(length / block_size)`` vertices.
    backend : str, default="auto"
        The backend of `nip.attend`.

    Raises
    ------
    ValueError
        If the pattern's number of vertices does not fit the length.
    """

    def __init__(self, config: EncoderConfig, pattern: Pattern, *, backend: str = "auto") -> None:
        super().__init__()
        n_blocks = -(-config.length // config.block_size)
        if pattern.n != n_blocks:
            raise ValueError(
                f"A pattern on {n_blocks} blocks is needed for {config.length} tokens in blocks of "
                f"{config.block_size}. Got one of {pattern.n} instead."
            )
        self.config = config
        self.pattern = pattern
        self.backend = backend
        self._corners = {pattern.n: pattern}
        self.tokens = Tokens(config)
        if not config.rotary:
            self.positions = nn.Embedding(config.positions, config.width)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)

    def features(self, input_ids: Tensor, mask: Tensor) -> Tensor:
        """The tokens (batch, length, width) after the last LayerNorm; mask (batch, length) is True at real tokens."""
        config = self.config
        length = input_ids.shape[1]
        if not config.rotary and length > config.positions:
            raise ValueError(
                f"A sequence of {length} tokens is longer than the position table of {config.positions} rows."
            )
        if length > config.length:
            raise ValueError(f"A sequence of {length} tokens is longer than the model's inputs of {config.length}.")
        x, turned = self.tokens(input_ids), None
        if config.rotary:
            turned = rotations(length, config.head_dim, columns=config.columns, device=x.device)
        else:
            x = x + self.positions.weight[:length]
        x = dropout(x, config.dropout, self.training)
        rest = (mask, self._corner(-(-length // config.block_size)), self.backend, turned)
        for _ in range(config.repeats):
            for layer in self.layers:
                if config.gradient_checkpointing and torch.is_grad_enabled():
                    x = checkpoint(layer, x, *rest, use_reentrant=False)
                else:
                    x = layer(x, *rest)
        normed: Tensor = self.norm(x)
        return normed

    def _corner(self, n: int) -> Pattern:
        # Padding is never attended and never counted, so an input without its padding sees the same graph's corner.
        if n not in self._corners:
            self._corners[n] = corner(self.pattern, n)
        return self._corners[n]


class Classifier(Encoder):
    """The encoder and its head: token ids to one score a class; parameters and errors are those of `Encoder`."""

    def __init__(self, config: EncoderConfig, pattern: Pattern, *, backend: str = "auto") -> None:
        super().__init__(config, pattern, backend=backend)
        width = config.width * (4 if config.pair else 1)
        self.hidden = nn.Linear(width, config.head_width) if config.head_width else None
        self.output = nn.Linear(config.head_width or width, config.n_classes)

    def forward(self, input_ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """Scores (batch, n_classes) of documents or of pairs of documents, or (batch, length, n_classes) of tokens.

        Parameters
        ----------
        input_ids : Tensor of shape (batch, length), or (batch, 2, length) for pairs
            Up to the `length` of the configuration.
        mask : Tensor of bool, of the same shape, optional
            True at the tokens that are attended and counted; by default, all that are not 0.
        """
        pair = self.config.pair
        if input_ids.ndim != 2 + pair or (pair and input_ids.shape[1] != 2):
            wanted = "(batch, 2, length), for it compares documents" if pair else "(batch, length)"
            raise ValueError(f"This model reads token ids of shape {wanted}. Got {tuple(input_ids.shape)} instead.")
        if mask is None:
            mask = input_ids != PADDING
        if self.config.per_token:
            answered = self.features(input_ids, mask)
        elif pair:
            both = self.encode(input_ids.flatten(0, 1), mask.flatten(0, 1))
            one, other = both[::2], both[1::2]
            answered = torch.cat([one, other, one * other, one - other], dim=-1)
        else:
            answered = self.encode(input_ids, mask)
        if self.hidden is not None:
            answered = functional.relu(self.hidden(answered))
        scores: Tensor = self.output(answered)
        return scores

    def encode(self, input_ids: Tensor, mask: Tensor) -> Tensor:
        """One vector (batch, width) a document: the mean of its tokens after the last LayerNorm."""
        x = self.features(input_ids, mask)
        # (batch, 1, length) @ (batch, length, width): the masked sum without a masked copy
        total = torch.bmm(mask.to(x.dtype).unsqueeze(1), x).squeeze(1)
        if self.config.mean_over_padding:
            return total / self.config.length
        return total / mask.sum(1, keepdim=True).clamp(min=1)


def build_classifier(config: EncoderConfig, pattern: Pattern, *, seed: int, backend: str = "auto") -> Classifier:
    """A new model whose first weights are those of `draw_weights`; the global generator is left untouched."""
    with torch.random.fork_rng(devices=[]):
        model = Classifier(config, pattern, backend=backend)
    draw_weights(model, seed)
    return model


def draw_weights(model: nn.Module, seed: int) -> None:
    """Draw every weight anew from a generator of its own, made of `seed` and the weight's name.

    So the first weights depend neither on the order of drawing nor on the global generator. Embeddings are normal with
    standard deviation 0.02, those of tokens with the one that the configuration names; a linear map of fan-in f is
    uniform in ±1/√f, bias included, as is torch's habit.
    """
    with torch.no_grad():
        for module_name, module in model.named_modules():
            for name, weight in module.named_parameters(recurse=False):
                digest = hashlib.sha256(f"{seed}/{module_name}.{name}".encode()).digest()
                generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
                if isinstance(module, nn.Embedding):
                    std = module.std if isinstance(module, Tokens) else 0.02
                    weight.normal_(0, std, generator=generator)
                elif isinstance(module, nn.Linear):
                    bound = module.in_features**-0.5
                    weight.uniform_(-bound, bound, generator=generator)


class Denoiser(Encoder):
    """The encoder and a linear head on every token: its weights fit `nip.models.Classifier` where both have them.

    Parameters
    ----------
    config : EncoderConfig
        It must be `masked`: the token id that stands for a masked token is ``vocab_size``.
    pattern : Pattern
    outputs : int
        Numbers that the head gives for a token: a score for each of its possible ids, or its one grey level.
    backend : str, default="auto"

    Raises
    ------
    ValueError
        If the configuration has no id for masked tokens, or the pattern does not fit the length.
    """

    def __init__(self, config: EncoderConfig, pattern: Pattern, *, outputs: int, backend: str = "auto") -> None:
        if not config.masked:
            raise ValueError("A denoiser needs a token id for what is masked: the configuration must be 'masked'.")
        super().__init__(config, pattern, backend=backend)
        self.restored = nn.Linear(config.width, outputs)

    def forward(self, input_ids: Tensor, mask: Tensor) -> Tensor:
        """Numbers (…, length, outputs) for every token.

        Parameters
        ----------
        input_ids : Tensor of shape (batch, length), or (batch, 2, length) for pairs, each document read by itself
        mask : Tensor of bool, of the same shape
            True at real tokens, masked ones included.
        """
        length = input_ids.shape[-1]
        features = self.features(input_ids.reshape(-1, length), mask.reshape(-1, length))
        numbers: Tensor = self.restored(features)
        return numbers.reshape(*input_ids.shape, -1)


def build_denoiser(
    config: EncoderConfig, pattern: Pattern, *, outputs: int, seed: int, backend: str = "auto"
) -> Denoiser:
    """A new denoiser whose first weights are those of `draw_weights`: its encoder's are those of a classifier."""
    with torch.random.fork_rng(devices=[]):
        model = Denoiser(config, pattern, outputs=outputs, backend=backend)
    draw_weights(model, seed)
    return model
