"""The Long Range Arena models: a small pre-LayerNorm Transformer encoder whose attention runs over a pattern.

The encoder has token and position embeddings, a stack of layers that is applied twice with the same weights, and a
final LayerNorm. `Classifier` adds mean pooling and a two-layer head; `Denoiser` adds a linear head that predicts masked
tokens. Token id 0 is padding. The sizes are those of the NIP paper, which follows Nyströmformer (arXiv 2102.03902,
section 4.2) except for 4 heads instead of 2 and the weight-tied second pass. The modern recipe uses rotary positions
and a gated feed-forward network instead.
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
    """Sizes of the encoder and its head; the defaults are those of the original code.

    Parameters
    ----------
    vocab_size : int
        Number of token ids, including padding (0).
    n_classes : int
        Number of labels.
    length : int
        Maximum input length in tokens. A shorter input equals the same input padded to `length`.
    positions : int
        Rows of the position table, at least `length`.
    block_size : int, default=16
        Tokens per vertex of the pattern.
    width : int, default=64
        Embedding dimension.
    heads : int, default=4
        Attention heads per layer.
    head_dim : int, default=32
        Dimension of a head.
    inner_width : int, default=128
        Hidden dimension of the feed-forward network.
    head_width : int or None, default=128
        Hidden dimension of the classification head. None makes the head a single linear layer.
    layers : int, default=2
        Layers with weights of their own.
    repeats : int, default=2
        How often the stack of layers is applied, each time with the same weights.
    dropout : float, default=0.1
        Dropout probability on the embeddings and in the residual branches.
    attention_dropout : float, default=0.0
        Dropout probability on the attention weights.
    mean_over_padding : bool, default=False
        Divide the sum over the real tokens by `length`, as the original does, instead of by the number of real tokens.
    pair : bool, default=False
        Encode two documents with the same weights and classify the pair (LRA retrieval).
    per_token : bool, default=False
        Classify every token instead of the mean over tokens.
    rotary : bool, default=False
        Use rotary position embeddings (see `nip.models.rotary`) instead of a position table; ignores `positions`.
    columns : int, optional
        Width in pixels of the image that the tokens flatten. With `rotary`, positions are then row and column.
    gated : bool, default=False
        Use a gated feed-forward network (GEGLU; N. Shazeer, arXiv 2002.05202).
    masked : bool, default=False
        Add one token id, `vocab_size`, for masked tokens.
    gradient_checkpointing : bool, default=False
        Store only each layer's input and recompute the layer in the backward pass: less memory, identical gradients.
    token_std : float, default=0.02
        Standard deviation of the initial token embeddings.
    parts : tuple of tuple of int, default=()
        For each token id the symbols it consists of: its embedding is the sum of theirs. By default every id has its
        own embedding.

    Raises
    ------
    ValueError
        If a size is out of range or two options exclude each other.
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
            object.__setattr__(self, name, check_int(name, getattr(self, name), "EncoderConfig", minimum=1))
        if self.parts and len(self.parts) != self.vocab_size:
            raise ValueError(
                f"The 'parts' parameter of EncoderConfig must have one entry per token id, {self.vocab_size} in "
                f"all. Got {len(self.parts)} instead."
            )
        for name in ("dropout", "attention_dropout"):
            value = getattr(self, name)
            if not isinstance(value, float | int) or isinstance(value, bool) or not 0 <= value < 1:
                raise ValueError(f"The '{name}' parameter of EncoderConfig must be in [0, 1). Got {value!r} instead.")
        if self.pair and self.per_token:
            raise ValueError("The parameters 'pair' and 'per_token' of EncoderConfig exclude each other.")
        if self.rotary:
            rotations(1, self.head_dim, columns=self.columns)  # raises if head_dim does not fit
        elif self.length > self.positions:
            raise ValueError(
                f"A sequence of {self.length} tokens is longer than the position table of {self.positions} rows."
            )


class TokenEmbedding(nn.Embedding):
    """Token embeddings: one row of the table per id or, with `parts`, the sum of several rows.

    The mask token, the last id, always has a row of its own.
    """

    sums: Tensor | None

    def __init__(self, config: EncoderConfig) -> None:
        parts = config.parts
        symbols = 1 + max(symbol for each in parts for symbol in each) if parts else config.vocab_size
        super().__init__(symbols + config.masked, config.width)
        self.std = config.token_std
        sums = None
        if parts:
            size = config.vocab_size + config.masked, symbols + config.masked
            sums = torch.zeros(size, device=self.weight.device)
            for token, each in enumerate([*parts, *([(symbols,)] if config.masked else [])]):
                sums[token, list(each)] = 1.0
        self.register_buffer("sums", sums, persistent=False)

    def forward(self, input: Tensor) -> Tensor:
        """Embed token ids of any shape as vectors (…, width)."""
        table = self.weight if self.sums is None else self.sums @ self.weight
        return functional.embedding(input, table)


class EncoderLayer(nn.Module):
    """A pre-LayerNorm Transformer layer: self-attention over a pattern, then a feed-forward network (GELU or GEGLU)."""

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

    def forward(self, x: Tensor, mask: Tensor, pattern: Pattern, backend: str, rotary: Rotations | None) -> Tensor:
        """Apply the layer.

        Parameters
        ----------
        x : Tensor of shape (batch, length, width)
        mask : Tensor of bool, shape (batch, length)
            True at real tokens.
        pattern : Pattern
            The graph on ``ceil(length / block_size)`` blocks.
        backend : str
            The backend of `nip.attend`.
        rotary : (Tensor, Tensor) or None
            Cosines and sines from `nip.models.rotary.rotations`.

        Returns
        -------
        Tensor of shape (batch, length, width)
        """
        config = self.config
        batch, length, _ = x.shape
        q, k, v = (
            projected.view(batch, length, config.heads, config.head_dim).transpose(1, 2)
            for projected in self.qkv(self.attention_norm(x)).chunk(3, dim=-1)
        )
        if rotary is not None:
            q, k = rotate(q, rotary), rotate(k, rotary)
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
    """The Transformer encoder that `Classifier` and `Denoiser` share: token ids to one vector per token.

    Parameters
    ----------
    config : EncoderConfig
    pattern : Pattern
        The graph on the blocks of an input of maximum length: ``ceil(length / block_size)`` vertices.
    backend : str, default="auto"
        The backend of `nip.attend`.

    Raises
    ------
    ValueError
        If the pattern has a different number of vertices.
    """

    def __init__(self, config: EncoderConfig, pattern: Pattern, *, backend: str = "auto") -> None:
        super().__init__()
        n_blocks = -(-config.length // config.block_size)
        if pattern.n != n_blocks:
            raise ValueError(
                f"The pattern must have {n_blocks} blocks for {config.length} tokens in blocks of "
                f"{config.block_size}. Got {pattern.n} instead."
            )
        self.config = config
        self.pattern = pattern
        self.backend = backend
        self._corners = {pattern.n: pattern}
        self.tokens = TokenEmbedding(config)
        if not config.rotary:
            self.positions = nn.Embedding(config.positions, config.width)
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)

    def features(self, input_ids: Tensor, mask: Tensor) -> Tensor:
        """Return the final hidden states (batch, length, width); mask (batch, length) is True at real tokens."""
        config = self.config
        length = input_ids.shape[1]
        if length > config.length:
            raise ValueError(f"A sequence of {length} tokens exceeds the model's maximum length of {config.length}.")
        x, rotary = self.tokens(input_ids), None
        if config.rotary:
            rotary = rotations(length, config.head_dim, columns=config.columns, device=x.device)
        else:
            x = x + self.positions.weight[:length]
        x = dropout(x, config.dropout, self.training)
        inputs = (mask, self._corner(-(-length // config.block_size)), self.backend, rotary)
        for _ in range(config.repeats):
            for layer in self.layers:
                if config.gradient_checkpointing and torch.is_grad_enabled():
                    x = checkpoint(layer, x, *inputs, use_reentrant=False)
                else:
                    x = layer(x, *inputs)
        normed: Tensor = self.norm(x)
        return normed

    def _corner(self, n: int) -> Pattern:
        # Padding is neither attended to nor pooled, so a shorter input uses the corner of the same graph.
        if n not in self._corners:
            self._corners[n] = corner(self.pattern, n)
        return self._corners[n]


class Classifier(Encoder):
    """The encoder with a classification head; parameters and errors are those of `Encoder`."""

    def __init__(self, config: EncoderConfig, pattern: Pattern, *, backend: str = "auto") -> None:
        super().__init__(config, pattern, backend=backend)
        width = config.width * (4 if config.pair else 1)
        self.hidden = nn.Linear(width, config.head_width) if config.head_width else None
        self.output = nn.Linear(config.head_width or width, config.n_classes)

    def forward(self, input_ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the logits.

        Parameters
        ----------
        input_ids : Tensor of shape (batch, length), or (batch, 2, length) for pairs
            Token ids, at most the configuration's `length` of them.
        mask : Tensor of bool, of the same shape, optional
            True at the tokens that are attended to and pooled. By default, all tokens that are not padding (0).

        Returns
        -------
        Tensor of shape (batch, n_classes), or (batch, length, n_classes) with `per_token`

        Raises
        ------
        ValueError
            If the input has another shape or is too long.
        """
        pair = self.config.pair
        if input_ids.ndim != 2 + pair or (pair and input_ids.shape[1] != 2):
            shape = "(batch, 2, length), a pair of documents" if pair else "(batch, length)"
            raise ValueError(f"This model takes token ids of shape {shape}. Got {tuple(input_ids.shape)} instead.")
        if mask is None:
            mask = input_ids != PADDING
        if self.config.per_token:
            x = self.features(input_ids, mask)
        elif pair:
            both = self.encode(input_ids.flatten(0, 1), mask.flatten(0, 1))
            one, other = both[::2], both[1::2]
            x = torch.cat([one, other, one * other, one - other], dim=-1)
        else:
            x = self.encode(input_ids, mask)
        if self.hidden is not None:
            x = functional.relu(self.hidden(x))
        logits: Tensor = self.output(x)
        return logits

    def encode(self, input_ids: Tensor, mask: Tensor) -> Tensor:
        """Return one vector per document (batch, width): the mean of the final hidden states of its tokens."""
        x = self.features(input_ids, mask)
        # (batch, 1, length) @ (batch, length, width): the masked sum without a masked copy
        total = torch.bmm(mask.to(x.dtype).unsqueeze(1), x).squeeze(1)
        if self.config.mean_over_padding:
            return total / self.config.length
        return total / mask.sum(1, keepdim=True).clamp(min=1)


def build_classifier(config: EncoderConfig, pattern: Pattern, *, seed: int, backend: str = "auto") -> Classifier:
    """Return a classifier with initial weights from `draw_weights`; torch's global generator stays untouched.

    Parameters
    ----------
    config : EncoderConfig
    pattern : Pattern
        The graph on the blocks of an input of maximum length.
    seed : int
        Seed of the initial weights.
    backend : str, default="auto"
        The backend of `nip.attend`.

    Returns
    -------
    Classifier

    Raises
    ------
    ValueError
        If the pattern does not fit the length.
    """
    with torch.random.fork_rng(devices=[]):
        model = Classifier(config, pattern, backend=backend)
    draw_weights(model, seed)
    return model


def draw_weights(model: nn.Module, seed: int) -> None:
    """Initialize every weight with its own generator, seeded by `seed` and the weight's name.

    The initial weights therefore depend neither on the order of initialization nor on the global generator. Embeddings
    are normal with standard deviation 0.02 (token embeddings: `token_std`). Weights and biases of a linear layer with
    fan-in f are uniform in ±1/√f, as torch initializes them.
    """
    with torch.no_grad():
        for module_name, module in model.named_modules():
            for name, weight in module.named_parameters(recurse=False):
                digest = hashlib.sha256(f"{seed}/{module_name}.{name}".encode()).digest()
                generator = torch.Generator("cpu").manual_seed(int.from_bytes(digest[:8], "little") >> 1)
                drawn = torch.empty(weight.shape, dtype=weight.dtype, device="cpu")  # the same numbers on every device
                if isinstance(module, nn.Embedding):
                    std = module.std if isinstance(module, TokenEmbedding) else 0.02
                    weight.copy_(drawn.normal_(0, std, generator=generator))
                elif isinstance(module, nn.Linear):
                    bound = module.in_features**-0.5
                    weight.copy_(drawn.uniform_(-bound, bound, generator=generator))


class Denoiser(Encoder):
    """The encoder with a linear head on every token; its encoder weights can be loaded into a `Classifier`.

    Parameters
    ----------
    config : EncoderConfig
        With `masked` set, so that token id ``vocab_size`` is the mask token.
    pattern : Pattern
        The graph on the blocks of an input of maximum length.
    outputs : int
        Output dimension per token: the number of token ids for logits, or 1 for a grey level.
    backend : str, default="auto"
        The backend of `nip.attend`.

    Raises
    ------
    ValueError
        If the configuration has no mask token, or the pattern does not fit the length.
    """

    def __init__(self, config: EncoderConfig, pattern: Pattern, *, outputs: int, backend: str = "auto") -> None:
        if not config.masked:
            raise ValueError("A denoiser needs a mask token: set the 'masked' parameter of EncoderConfig.")
        super().__init__(config, pattern, backend=backend)
        self.restored = nn.Linear(config.width, outputs)

    def forward(self, input_ids: Tensor, mask: Tensor) -> Tensor:
        """Return the predictions for every token.

        Parameters
        ----------
        input_ids : Tensor of shape (batch, length), or (batch, 2, length) for pairs
            Token ids. The two documents of a pair are encoded independently.
        mask : Tensor of bool, of the same shape
            True at real tokens, including masked ones.

        Returns
        -------
        Tensor of shape (batch, length, outputs) or (batch, 2, length, outputs)
        """
        length = input_ids.shape[-1]
        features = self.features(input_ids.reshape(-1, length), mask.reshape(-1, length))
        predicted: Tensor = self.restored(features)
        return predicted.reshape(*input_ids.shape, -1)


def build_denoiser(
    config: EncoderConfig, pattern: Pattern, *, outputs: int, seed: int, backend: str = "auto"
) -> Denoiser:
    """Return a denoiser whose encoder starts with the same weights as that of `build_classifier` with this seed.

    Parameters
    ----------
    config : EncoderConfig
    pattern : Pattern
    outputs : int
        Output dimension per token.
    seed : int
        Seed of the initial weights.
    backend : str, default="auto"
        The backend of `nip.attend`.

    Returns
    -------
    Denoiser

    Raises
    ------
    ValueError
        If the configuration has no mask token, or the pattern does not fit the length.
    """
    with torch.random.fork_rng(devices=[]):
        model = Denoiser(config, pattern, outputs=outputs, backend=backend)
    draw_weights(model, seed)
    return model
