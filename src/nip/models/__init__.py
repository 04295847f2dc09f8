"""Models whose self-attention runs over a pattern."""

from nip.models.lra import Classifier, EncoderConfig, build_classifier

__all__ = ["Classifier", "EncoderConfig", "build_classifier"]
