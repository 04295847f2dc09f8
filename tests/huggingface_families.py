"""Tiny random Hugging Face models of many families, and attention over a graph written out as their oracle."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import transformers as hf
from torch import Tensor, nn
from transformers.masking_utils import eager_mask

BLOCK = 4
TOKENS = 26  # no multiple of the block, and no power of two blocks
REAL = (TOKENS, 11, 19)  # real tokens of the examples of a padded batch
ORACLE = "graph_oracle"

TEXT: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "pad_token_id": 1,
    "bos_token_id": 2,
    "eos_token_id": 3,
}
SEQ2SEQ: dict[str, Any] = {
    "vocab_size": 50,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": 64,
    "pad_token_id": 1,
    "bos_token_id": 2,
    "eos_token_id": 3,
    "decoder_start_token_id": 2,
    "forced_eos_token_id": None,
    "forced_bos_token_id": None,
}
IMAGE: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "image_size": 40,
    "patch_size": 8,
}
SOUND: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "conv_dim": (16, 16),
    "conv_stride": (4, 4),
    "conv_kernel": (4, 4),
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
    "layerdrop": 0.0,
    "apply_spec_augment": False,
}
T5: dict[str, Any] = {
    "vocab_size": 50,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": 2,
    "num_heads": 4,
    "relative_attention_num_buckets": 8,
    "pad_token_id": 0,
    "eos_token_id": 3,
    "decoder_start_token_id": 2,
}
GROUPED = {"num_key_value_heads": 2}
EXPERTS = {**GROUPED, "num_local_experts": 2}
UNLIMITED = {**GROUPED, "sliding_window": None}

GEMMA3 = {
    **TEXT, **GROUPED, "head_dim": 8, "sliding_window": 6, "layer_types": ["full_attention", "sliding_attention"],
}  # fmt: skip
DEEPSEEK = {
    **TEXT, "n_routed_experts": 2, "num_experts_per_tok": 1, "n_group": 1, "topk_group": 1, "kv_lora_rank": 8,
    "q_lora_rank": 8, "qk_rope_head_dim": 4, "v_head_dim": 8, "qk_nope_head_dim": 8, "moe_intermediate_size": 16,
    "num_key_value_heads": 4,
}  # fmt: skip
SWIN: dict[str, Any] = {
    "image_size": 40, "patch_size": 4, "embed_dim": 16, "depths": [2], "num_heads": [2], "window_size": 5,
}  # fmt: skip


@dataclass(frozen=True)
class Family:
    """A kind of model: how to make a small one, and which of its modules attend over the graph."""

    model: str
    """Its class in transformers."""
    config: str
    sizes: dict[str, Any] = field(default_factory=dict)
    sparse: str = r"attention\.self$"
    """Which modules are sparse: a pattern for their path, told by hand."""
    kind: str = "encoder"
    """encoder, seq2seq, decoder, image or sound."""

    def make(self, attention: str = "eager") -> Any:
        config = getattr(hf, self.config)(**self.sizes)
        torch.manual_seed(0)
        model = getattr(hf, self.model)._from_config(config, attn_implementation=attention)
        with torch.no_grad():  # far from uniform attention, which would hide who attends to whom
            for name, weight in model.named_parameters():
                if weight.dim() > 1:
                    weight.normal_(0, 2.0 * weight[0].numel() ** -0.5 if "norm" not in name else 1.0)
        return model.eval()

    def inputs(self) -> dict[str, Tensor]:
        """A padded batch."""
        generator = torch.Generator().manual_seed(1)
        if self.kind == "image":
            return {"pixel_values": torch.randn(2, 3, 40, 40, generator=generator)}
        if self.kind == "sound":
            mask = (torch.arange(16 * TOKENS) < torch.tensor([[16 * TOKENS], [200]])).long()
            return {"input_values": torch.randn(2, 16 * TOKENS, generator=generator), "attention_mask": mask}
        ids = torch.randint(4, 50, (len(REAL), TOKENS), generator=generator)
        mask = (torch.arange(TOKENS) < torch.tensor(REAL)[:, None]).long()
        if self.kind == "seq2seq":
            return {"input_ids": ids, "attention_mask": mask, "decoder_input_ids": ids[:, :9]}
        return {"input_ids": ids, "attention_mask": mask}

    def real(self, hidden: Tensor) -> Tensor:
        """The part of a result that padding may not touch."""
        if self.kind in {"encoder", "decoder"}:
            return hidden[torch.arange(TOKENS) < torch.tensor(REAL)[:, None]]
        return hidden[:, :11] if self.kind == "sound" else hidden

    def as_oracle(self, graph: Callable[[int, int], Tensor] | None = None) -> Any:
        """The same model, its modules attending densely with the graph (queries, keys) as a mask."""
        model = self.make(ORACLE)
        sparse = re.compile(self.sparse)
        for path, module in model.named_modules():
            module._graph = graph if sparse.search(path) else None
        return model


def hypercube(queries: int, keys: int) -> Tensor:
    """Whom the last `queries` of `keys` tokens attend to: blocks whose Gray codes differ in one bit at most."""
    block = torch.arange(keys) // BLOCK
    code = block ^ (block >> 1)
    differing = code[:, None] ^ code[None, :]
    return ((differing & (differing - 1)) == 0)[keys - queries :]


def oracle_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    position_bias: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor]:
    """Softmax attention with every score written out."""
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scores = query @ key.mT * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    if position_bias is not None:
        scores = scores + position_bias
    if attention_mask is not None:
        scores = scores + attention_mask
    graph = getattr(module, "_graph", None)
    if graph is not None:
        allowed = graph(query.shape[2], key.shape[2])
        scores = scores.masked_fill(~allowed, torch.finfo(scores.dtype).min)
    return (scores.softmax(-1) @ value).transpose(1, 2).contiguous(), scores


hf.AttentionInterface.register(ORACLE, oracle_attention)
hf.AttentionMaskInterface.register(ORACLE, eager_mask)

SELF = r"(self_attn|self_attention|attention)$"
ENCODER = r"encoder\.layers\.\d+\.self_attn$"

FAMILIES = {
    "bert": Family("BertModel", "BertConfig", TEXT),
    "roberta": Family("RobertaModel", "RobertaConfig", TEXT),
    "roberta-prelayernorm": Family("RobertaPreLayerNormModel", "RobertaPreLayerNormConfig", TEXT),
    "xlm-roberta": Family("XLMRobertaModel", "XLMRobertaConfig", TEXT),
    "camembert": Family("CamembertModel", "CamembertConfig", TEXT),
    "electra": Family("ElectraModel", "ElectraConfig", {**TEXT, "embedding_size": 32}),
    "ernie": Family("ErnieModel", "ErnieConfig", TEXT),
    "data2vec-text": Family("Data2VecTextModel", "Data2VecTextConfig", TEXT),
    "albert": Family("AlbertModel", "AlbertConfig", {**TEXT, "embedding_size": 16}, r"attention$"),
    "distilbert": Family(
        "DistilBertModel",
        "DistilBertConfig",
        {"vocab_size": 50, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48, "max_position_embeddings": 64},
        r"attention$",
    ),
    "modernbert": Family(
        "ModernBertModel",
        "ModernBertConfig",
        {
            **TEXT,
            "num_hidden_layers": 3,
            "global_attn_every_n_layers": 2,
            "local_attention": 6,
            "cls_token_id": 2,
            "sep_token_id": 3,
        },
        r"layers\.[02]\.attn$",
    ),
    "eurobert": Family("EuroBertModel", "EuroBertConfig", {**TEXT, **GROUPED}, SELF),
    "xmod": Family("XmodModel", "XmodConfig", {**TEXT, "default_language": "en_XX"}),
    "xlm-roberta-xl": Family("XLMRobertaXLModel", "XLMRobertaXLConfig", TEXT),
    "nomic-bert": Family("NomicBertModel", "NomicBertConfig", TEXT, SELF),
    "clip-text": Family("CLIPTextModel", "CLIPTextConfig", TEXT, SELF),
    "vit": Family("ViTModel", "ViTConfig", IMAGE, r"attention(\.attention)?$", "image"),
    "deit": Family("DeiTModel", "DeiTConfig", IMAGE, r"attention(\.attention)?$", "image"),
    "dinov2": Family("Dinov2Model", "Dinov2Config", IMAGE, r"attention(\.attention)?$", "image"),
    "siglip-vision": Family("SiglipVisionModel", "SiglipVisionConfig", IMAGE, SELF, "image"),
    "beit": Family("BeitModel", "BeitConfig", IMAGE, r"attention$", "image"),
    "swin": Family("SwinModel", "SwinConfig", SWIN, r"attention$", "image"),
    "wav2vec2": Family("Wav2Vec2Model", "Wav2Vec2Config", SOUND, r"layers\.\d+\.attention$", "sound"),
    "hubert": Family("HubertModel", "HubertConfig", SOUND, r"layers\.\d+\.attention$", "sound"),
    "bart": Family("BartForConditionalGeneration", "BartConfig", SEQ2SEQ, ENCODER, "seq2seq"),
    "mbart": Family("MBartForConditionalGeneration", "MBartConfig", SEQ2SEQ, ENCODER, "seq2seq"),
    "pegasus": Family("PegasusForConditionalGeneration", "PegasusConfig", SEQ2SEQ, ENCODER, "seq2seq"),
    "marian": Family("MarianMTModel", "MarianConfig", SEQ2SEQ, ENCODER, "seq2seq"),
    "t5": Family("T5ForConditionalGeneration", "T5Config", T5, r"encoder\..*SelfAttention$", "seq2seq"),
    "mt5": Family("MT5ForConditionalGeneration", "MT5Config", T5, r"encoder\..*SelfAttention$", "seq2seq"),
    "m2m-100": Family("M2M100ForConditionalGeneration", "M2M100Config", SEQ2SEQ, ENCODER, "seq2seq"),
    "blenderbot": Family("BlenderbotForConditionalGeneration", "BlenderbotConfig", SEQ2SEQ, ENCODER, "seq2seq"),
    "gpt2": Family(
        "GPT2LMHeadModel",
        "GPT2Config",
        {
            "vocab_size": 50,
            "n_embd": 32,
            "n_layer": 2,
            "n_head": 4,
            "n_positions": 64,
            "bos_token_id": 2,
            "eos_token_id": 3,
            "pad_token_id": 1,
        },
        r"attn$",
        "decoder",
    ),
    "llama": Family("LlamaForCausalLM", "LlamaConfig", {**TEXT, **GROUPED}, SELF, "decoder"),
    "mistral": Family("MistralForCausalLM", "MistralConfig", {**TEXT, **UNLIMITED}, SELF, "decoder"),
    "qwen2": Family("Qwen2ForCausalLM", "Qwen2Config", {**TEXT, **GROUPED}, SELF, "decoder"),
    "qwen3": Family("Qwen3ForCausalLM", "Qwen3Config", {**TEXT, **GROUPED, "head_dim": 8}, SELF, "decoder"),
    "gemma": Family("GemmaForCausalLM", "GemmaConfig", {**TEXT, **GROUPED, "head_dim": 8}, SELF, "decoder"),
    "opt": Family("OPTForCausalLM", "OPTConfig", {**TEXT, "ffn_dim": 48, "word_embed_proj_dim": 32}, SELF, "decoder"),
    "phi": Family("PhiForCausalLM", "PhiConfig", TEXT, SELF, "decoder"),
    "olmo2": Family("Olmo2ForCausalLM", "Olmo2Config", {**TEXT, **GROUPED}, SELF, "decoder"),
    "mixtral": Family(
        "MixtralForCausalLM", "MixtralConfig", {**TEXT, **GROUPED, "num_local_experts": 2}, SELF, "decoder"
    ),
    "gemma3": Family("Gemma3ForCausalLM", "Gemma3TextConfig", GEMMA3, r"layers\.0\.self_attn$", "decoder"),
    "deepseek-v3": Family("DeepseekV3ForCausalLM", "DeepseekV3Config", DEEPSEEK, SELF, "decoder"),
    "gpt-neox": Family("GPTNeoXForCausalLM", "GPTNeoXConfig", TEXT, SELF, "decoder"),
}
