"""Models whose self-attention runs over a pattern: the Long Range Arena encoder and sparsified Hugging Face models."""

from nip.models.lra import Classifier, Denoiser, EncoderConfig, build_classifier, build_denoiser

__all__ = ["Classifier", "Denoiser", "EncoderConfig", "build_classifier", "build_denoiser"]
