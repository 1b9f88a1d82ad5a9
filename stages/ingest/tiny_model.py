"""Random models of every supported family, small enough to build in milliseconds: what tests and load runs compress."""

from __future__ import annotations

import string
from typing import TYPE_CHECKING, Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from attar.stages.ingest.expert_families import EXPERT_FAMILIES, expert_options

if TYPE_CHECKING:
    import transformers
    from transformers import PreTrainedTokenizerFast

# Family name -> transformers model type; what the prune stage is tested on.
FAMILIES = {
    "llama": "llama",
    "mistral": "mistral",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "gemma2": "gemma2",
    "gemma3": "gemma3_text",
    "phi3": "phi3",
    "gpt2": "gpt2",
    "gpt_neox": "gpt_neox",
    "opt": "opt",
    "olmo2": "olmo2",
    "smollm3": "smollm3",
    "granite": "granite",
}
# Encoders, by the same names; what the stages are tested on that take one.
ENCODER_FAMILIES = ("bert", "roberta", "distilbert", "mpnet", "electra")
# Of the byte tokenizer: one a byte and three special ones.
NUM_BYTE_TOKENS = 259
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def random_model(
    family: str, *, num_blocks: int = 4, hidden_size: int = 64, seed: int = 0
) -> tuple[transformers.PreTrainedModel, PreTrainedTokenizerFast]:
    """Return a randomly initialised model and a byte tokenizer for it. Raises ValueError for an unknown family."""
    import transformers  # a second that a plan need not wait for

    if family not in FAMILIES and family not in EXPERT_FAMILIES:
        known = ", ".join((*FAMILIES, *EXPERT_FAMILIES))
        raise ValueError(f"random model family {family!r} is unknown; known: {known}")
    tokenizer = byte_tokenizer()
    config = tiny_config(family, num_blocks=num_blocks, hidden_size=hidden_size, tokenizer=tokenizer)
    # transformers initialises from the global generator; forked, so that the caller's stays as it was
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    return model.eval(), tokenizer


def random_facts(family: str, *, num_blocks: int = 4, hidden_size: int = 64, seed: int = 0) -> dict[str, Any]:
    """Return the facts of a random Llama by arithmetic; of other families nothing. A plan then need not import its classes."""
    if family != "llama" or num_blocks < 1 or hidden_size < 8 or hidden_size % 8:
        return {}
    square = hidden_size * hidden_size
    matrices, vocabulary = 9 * square, NUM_BYTE_TOKENS * hidden_size  # attention 3, feed-forward 6
    return {
        "num_blocks": num_blocks,
        "hidden_size": hidden_size,
        "vocab_size": NUM_BYTE_TOKENS,
        "architecture": "llama",
        "num_block_matmul_parameters": num_blocks * matrices,
        "num_block_parameters": num_blocks * (matrices + 2 * hidden_size),
        "num_parameters": num_blocks * (matrices + 2 * hidden_size) + 2 * vocabulary + hidden_size,
        "num_matmul_parameters": num_blocks * matrices + vocabulary,
        "num_ffn_channels": 2 * hidden_size,
        "ffn_channel_parameters": 3 * hidden_size * num_blocks,
        "num_kv_groups": 2,
        "kv_group_parameters": 3 * square // 2 * num_blocks,
        "attention_width": hidden_size,
        "dtype": "float32",
    }


def tiny_config(family: str, *, num_blocks: int, hidden_size: int, tokenizer: Any) -> Any:
    """Return the family's config with every size small. Initial weights are wide, so that blocks do something measurable."""
    from transformers import AutoConfig  # a second that a plan need not wait for

    options: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": hidden_size,
        "num_hidden_layers": num_blocks,
        "num_attention_heads": 4,
        "intermediate_size": 2 * hidden_size,
        "max_position_embeddings": 1024,
        "initializer_range": 0.15,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    if family == "gpt2":
        options |= {"n_inner": 2 * hidden_size}
    elif family == "opt":
        options |= {"ffn_dim": 2 * hidden_size, "word_embed_proj_dim": hidden_size}
    elif family != "gpt_neox":
        options |= {"num_key_value_heads": 2, "head_dim": hidden_size // 4}
    if family in ("gemma2", "gemma3"):
        options |= {"query_pre_attn_scalar": hidden_size // 4, "sliding_window": 16}
    if family in EXPERT_FAMILIES:
        options |= expert_options(family, hidden_size)
    return AutoConfig.for_model(FAMILIES.get(family) or EXPERT_FAMILIES[family], **options)


def random_encoder(
    family: str, *, num_blocks: int = 4, hidden_size: int = 64, seed: int = 0
) -> tuple[transformers.PreTrainedModel, PreTrainedTokenizerFast]:
    """Return a randomly initialised encoder and a byte tokenizer for it."""
    from transformers import AutoConfig, AutoModel  # a second that a plan need not wait for

    tokenizer = byte_tokenizer()
    tokenizer.chat_template = None
    options = {
        "vocab_size": len(tokenizer),
        "hidden_size": hidden_size,
        "num_hidden_layers": num_blocks,
        "num_attention_heads": 4,
        "intermediate_size": 2 * hidden_size,
        "max_position_embeddings": 514,
        "initializer_range": 0.15,
        "pad_token_id": tokenizer.pad_token_id,
    }
    if family == "distilbert":
        own = {"dim": "hidden_size", "hidden_dim": "intermediate_size", "n_layers": "num_hidden_layers"}
        options |= {name: options.pop(other) for name, other in own.items()} | {"n_heads": 4}
    if family == "electra":
        options |= {"embedding_size": hidden_size}
    config = AutoConfig.for_model(family, **options)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModel.from_config(config, dtype=torch.float32)
    model.pooler = None  # no pooling of a sentence reads it
    return model.eval(), tokenizer


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer with one token a byte and three special ones. It needs no training data and splits any text."""
    from transformers import PreTrainedTokenizerFast  # a second that a plan need not wait for

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: index for index, token in enumerate([*special, *alphabet])}
    assert set(string.ascii_letters) <= vocab.keys()
    inner = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    inner.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    inner.add_special_tokens(special)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer
