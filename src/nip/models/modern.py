"""Denoising: the encoder with a head that says of every token what it was before it was masked."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nip.graphs import Pattern
from nip.models.lra import Encoder, EncoderConfig, draw_weights


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
