"""BERT checkpoints of the original code, as models of transformers.

The original saves ``model_type: bert`` with names of its own, which transformers would load with half of its weights
drawn at random. Post-LN is transformers' Bert. Pre-LN is its RobertaPreLayerNorm, whose positions begin after the id of
padding. All three kinds of norm exist there: torch's and apex's LayerNorm compute the same, RMSNorm is replaced as in
`nip.models.huggingface.norms`.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import BertConfig, PreTrainedModel, RobertaPreLayerNormConfig

from nip.models.huggingface.config import ENTRY
from nip.models.huggingface.fit import check_weights_fit
from nip.models.huggingface.norms import NORM, RMS
from nip.ownership import OwnedFolder, move_into, remove_temporary, temporary_name
from nip.runs.folder import read_json

MODE = "encoder_ln_mode"  # the entry of config.json that only the original writes
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json", "added_tokens.json"),
)
ACTIVATIONS = {"gelu": "gelu", "relu": "relu", "swish": "silu", "tanh": "tanh"}
EPSILON = 1e-12  # of every norm, whatever the configuration says
_KEPT = (
    *(
        "vocab_size",
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "intermediate_size",
        "hidden_dropout_prob",
    ),
    *("attention_probs_dropout_prob", "type_vocab_size", "initializer_range", "pad_token_id", "id2label", "label2id"),
    *("finetuning_task", "problem_type"),
)

_LAYER = r"bert\.encoder\.layer\.(\d+)\."
_POST = (
    (_LAYER + r"PreAttentionLayerNorm", r"bert.encoder.layer.\1.attention.output.LayerNorm"),
    (_LAYER + r"PostAttentionLayerNorm", r"bert.encoder.layer.\1.output.LayerNorm"),
    (r"\.dense_act\.", ".dense."),
)
_PRE = (
    (_LAYER + r"PreAttentionLayerNorm", r"bert.encoder.layer.\1.attention.LayerNorm"),
    (_LAYER + r"PostAttentionLayerNorm", r"bert.encoder.layer.\1.intermediate.LayerNorm"),
    (r"bert\.encoder\.FinalLayerNorm", "bert.LayerNorm"),
    (r"^classifier\.", "classifier.out_proj."),
    (r"^bert\.pooler\.dense_act\.", "classifier.dense."),
    (r"^cls\.predictions\.transform\.dense_act\.", "lm_head.dense."),
    (r"^cls\.predictions\.transform\.LayerNorm", "lm_head.layer_norm"),
    (r"^cls\.predictions\.decoder\.", "lm_head.decoder."),
    (r"^cls\.predictions\.bias", "lm_head.bias"),
    (r"\.dense_act\.", ".dense."),
    (r"^bert\.", "roberta_prelayernorm."),
)


def is_original(folder: str | os.PathLike[str]) -> bool:
    """Whether a folder contains a BERT of the original code."""
    path = Path(folder) / "config.json"
    if not path.is_file():
        return False
    config = read_json(path)
    return config.get("model_type") == "bert" and MODE in config


def converted_config(folder: str | os.PathLike[str]) -> Any:
    """The configuration of an original checkpoint, as that of transformers' model.

    Raises
    ------
    ValueError
        If the checkpoint uses something that transformers' models cannot do; the message names it.
    """
    there = read_json(Path(folder) / "config.json")
    mode, norm = there[MODE], there.get("layer_norm_type", "pytorch")
    if mode not in ("pre-ln", "post-ln"):
        raise ValueError(f"{folder}: encoder_ln_mode must be pre-ln or post-ln. Got {mode!r} instead.")
    if norm not in ("pytorch", "apex", "rms_norm"):
        raise ValueError(f"{folder}: layer_norm_type must be pytorch, apex or rms_norm. Got {norm!r} instead.")
    if not there.get("useLN", True):
        raise ValueError(f"{folder}: a model without norms (useLN false) has no counterpart in transformers.")
    if there.get("hidden_act", "gelu") not in ACTIVATIONS:
        raise ValueError(f"{folder}: hidden_act must be one of {', '.join(ACTIVATIONS)}. Got {there['hidden_act']!r}.")
    architectures = [str(name) for name in there.get("architectures") or []]
    settings = {name: there[name] for name in _KEPT if there.get(name) is not None}
    settings |= {"hidden_act": ACTIVATIONS[there.get("hidden_act", "gelu")], "layer_norm_eps": EPSILON}
    padding, positions = there.get("pad_token_id") or 0, there.get("max_position_embeddings", 512)
    if mode == "pre-ln":
        if settings["hidden_act"] != "gelu" and any(name.endswith("LMHeadModel") for name in architectures):
            raise ValueError(
                f"{folder}: the head of a pre-LN model uses gelu in transformers, here {there['hidden_act']}."
            )
        config: Any = RobertaPreLayerNormConfig(**settings, max_position_embeddings=positions + padding + 1)
        architectures = [name.replace("Bert", "RobertaPreLayerNorm", 1) for name in architectures]
    else:
        config = BertConfig(**settings, max_position_embeddings=positions)
    renamed = {"LMHeadModel": "ForMaskedLM", "ForPreTraining": "ForPreTraining" if mode == "post-ln" else "ForMaskedLM"}
    for old, new in renamed.items():
        architectures = [name.replace(old, new) for name in architectures]
    config.architectures = architectures or None
    if norm == "rms_norm":
        setattr(config, ENTRY, {NORM: RMS})
    return config


def converted_weights(folder: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The weights of an original checkpoint, under the names of transformers' model.

    Raises
    ------
    ValueError
        If they are missing or damaged, or one has a name that the original does not give.
    """
    there = read_json(Path(folder) / "config.json")
    pre, padding = there[MODE] == "pre-ln", there.get("pad_token_id") or 0
    found = _read_weights(Path(folder))
    weights: dict[str, Tensor] = {}
    for there_named, weight in found.items():
        name = re.sub(r"dense_act\.dense\.", "dense_act.", there_named)  # without the fused layer
        if name.endswith("position_ids") or (not pre and "FinalLayerNorm" in name):  # post-LN does not use it
            continue
        for old, new in _PRE if pre else _POST:
            name = re.sub(old, new, name)
        weights[name] = weight
        if pre and name.endswith(".position_embeddings.weight"):
            weights[name] = torch.cat([weight.new_zeros(padding + 1, weight.shape[1]), weight])
        if name.endswith(".scale"):  # of an RMSNorm; transformers builds LayerNorms, which are replaced after loading
            stem = name.removesuffix("scale")
            weights |= {f"{stem}weight": weights.pop(name), f"{stem}bias": torch.zeros_like(weight)}
    _complete_head(weights, there, pre=pre)
    return weights


def _complete_head(weights: dict[str, Tensor], there: Mapping[str, Any], *, pre: bool) -> None:
    """Give the head for masked tokens its tied matrix and its bias, which the original leaves out of its scores."""
    bias = "lm_head.bias" if pre else "cls.predictions.bias"
    decoder = "lm_head.decoder" if pre else "cls.predictions.decoder"
    if bias not in weights:
        return
    if there.get("sparse_mask_prediction", True):
        weights[bias] = torch.zeros_like(weights[bias])
    words = (
        "roberta_prelayernorm.embeddings.word_embeddings.weight" if pre else "bert.embeddings.word_embeddings.weight"
    )
    weights.setdefault(f"{decoder}.weight", weights[words])
    weights[f"{decoder}.bias"] = weights[bias]


def _read_weights(folder: Path) -> dict[str, Tensor]:
    path = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if path is None:
        raise ValueError(f"{folder} contains no weights: neither {' nor '.join(WEIGHTS)}.")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        # A pickle is read without executing anything in it.
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        raise ValueError(f"{path} cannot be read as weights: {str(error).splitlines()[0]}") from error
    except Exception as error:  # pickle.UnpicklingError, and what a damaged zip file raises
        raise ValueError(f"{path} is damaged, or a pickle of more than tensors, which is not loaded.") from error
    if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
        raise ValueError(f"{path} must contain tensors by name.")
    return found


def load_original(folder: str | os.PathLike[str], auto_class: Any, **settings: Any) -> Any:
    """Load an original checkpoint as a model of transformers, in memory.

    Parameters
    ----------
    folder : path-like
    auto_class : type
        Such as ``AutoModelForSequenceClassification``.
    **settings
        Passed to its ``from_pretrained``; ``config`` is by default the converted one.

    Returns
    -------
    PreTrainedModel
        Or what ``output_loading_info`` adds to it.

    Raises
    ------
    ValueError
        As `converted_config` and `converted_weights`.
    """
    config = settings.pop("config", None)
    config = converted_config(folder) if config is None else config
    weights = converted_weights(folder)
    kind: Any = auto_class._model_mapping[type(config)] if hasattr(auto_class, "_model_mapping") else auto_class
    for name in ("cache_dir", "revision", "trust_remote_code"):
        settings.pop(name, None)
    return kind.from_pretrained(None, config=config, state_dict=weights, **settings)


def convert(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> PreTrainedModel:
    """Write an original checkpoint as a folder that transformers and `nip` load: weights, configuration, tokenizer.

    Parameters
    ----------
    source : path-like
        A folder of the original.
    target : path-like
        A new or empty folder.

    Returns
    -------
    PreTrainedModel
        The model that was written.

    Raises
    ------
    ValueError
        If `source` is no checkpoint of the original, or does not fit transformers' model; if `target` contains files.
        Nothing is written then.
    """
    import transformers

    source, target = Path(source).expanduser(), Path(target).expanduser()
    if not is_original(source):
        raise ValueError(f"{source} is no BERT of the original: its config.json names no {MODE}.")
    OwnedFolder(target, "converted model", (), lambda path: False).check()
    config = converted_config(source)
    name = (config.architectures or [f"{'RobertaPreLayerNorm' if config.model_type != 'bert' else 'Bert'}Model"])[0]
    kind = getattr(transformers, name, None)
    if kind is None:
        raise ValueError(f"{source}: transformers has no {name}.")
    model, info = load_original(source, kind, config=config, output_loading_info=True)
    check_weights_fit(model, info, source, new_head=False)
    target.parent.mkdir(parents=True, exist_ok=True)
    made = temporary_name(target)
    try:
        model.save_pretrained(made)
        for file in TOKENIZER_FILES:
            if (source / file).is_file():
                shutil.copyfile(source / file, made / file)
        if target.is_dir():
            for path in made.iterdir():
                move_into(path, target / path.name)
        else:
            move_into(made, target)
    finally:
        if made.exists():
            remove_temporary(made)
    saved: PreTrainedModel = model
    return saved
