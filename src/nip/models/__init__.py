"""Models whose self-attention runs over a pattern."""

from nip.models.lra import Classifier, Denoiser, EncoderConfig, build_classifier, build_denoiser

__all__ = ["Classifier", "Denoiser", "EncoderConfig", "build_classifier", "build_denoiser"]
