"""Tokenizers of every kind that can be trimmed, trained on a few lines in milliseconds, with the marks and templates of real families."""

from __future__ import annotations

import json
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoModelForCausalLM, LlamaTokenizer, PreTrainedTokenizerFast

from attar.stages.ingest.tiny_model import CHAT_TEMPLATE, tiny_config

LINES = [
    "The harbour wakes before the town does, and the first boats come in with their lamps still burning.",
    "A woman in a yellow coat ties the ropes; she has done it for thirty years and does not look at her hands.",
    "In the fish hall the floor is washed with cold water and the boxes are set out in rows of twelve.",
    "Der Hafen wacht vor der Stadt auf, und die ersten Boote kommen mit brennenden Lampen herein.",
    "Гавань просыпается раньше города, и первые лодки входят с зажжёнными фонарями.",
    "What is 12 plus 30? The sum of 12 and 30 is 42. What is 7 times 6? It is 42 too.",
    "assistant user system: You are a helpful assistant. Question: what is it? Answer: a lamp.",
] * 4
# What is kept: of the lines above the first three and the sums.
CORPUS = [*LINES[:3], LINES[5]]
SPECIAL = ["<unk>", "<s>", "</s>"]
TURNS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def byte_level(num_tokens: int = 480, *, ignore_merges: bool = False) -> Any:
    """GPT-2's and Llama 3's kind: bytes as characters, merged."""
    inner = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    inner.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=num_tokens, special_tokens=TURNS, initial_alphabet=alphabet, show_progress=False
    )
    inner.train_from_iterator(LINES, trainer)
    return _chat(inner)


def byte_fallback(num_tokens: int = 300) -> Any:
    """Llama 2's and Gemma's kind: characters merged, with tokens of single bytes for what is unknown, and BOS in front."""
    inner = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    inner.normalizer = normalizers.Replace(" ", "▁")  # type: ignore[assignment]
    inner.train_from_iterator(
        LINES,
        trainers.BpeTrainer(vocab_size=num_tokens, special_tokens=SPECIAL, limit_alphabet=60, show_progress=False),
    )
    content = json.loads(inner.to_str())
    words = sorted(content["model"]["vocab"], key=content["model"]["vocab"].get)
    words[3:3] = [f"<0x{number:02X}>" for number in range(256)]
    content["model"] |= {"vocab": {word: index for index, word in enumerate(words)}, "byte_fallback": True}
    return _marked(content, decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]))


def llama_class() -> Any:
    """The same as a class of transformers, which reads tokens and merges from the file and builds the rest itself."""
    content = json.loads(byte_fallback().backend_tokenizer.to_str())["model"]
    return LlamaTokenizer(vocab=content["vocab"], merges=[tuple(merge) for merge in content["merges"]])


def unigram(num_tokens: int = 260) -> Any:
    """XGLM's kind: scored pieces, unknown characters as one unknown token."""
    inner = Tokenizer(models.Unigram())
    inner.pre_tokenizer = pre_tokenizers.Metaspace()  # type: ignore[assignment]
    trainer = trainers.UnigramTrainer(
        vocab_size=num_tokens, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False
    )
    inner.train_from_iterator(LINES, trainer)
    return _marked(json.loads(inner.to_str()), decoders.Metaspace())


def unigram_with_bytes() -> Any:
    """The same with tokens of single bytes for what is unknown."""
    content = json.loads(unigram().backend_tokenizer.to_str())
    content["model"]["vocab"][3:3] = [[f"<0x{number:02X}>", 0.0] for number in range(256)]
    content["model"]["byte_fallback"] = True
    return _marked(content, decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]))


def wordpiece(num_tokens: int = 300) -> Any:
    """BERT's kind: the longest piece from the left, class and separator around a text."""
    inner = Tokenizer(models.WordPiece(unk_token="<unk>"))  # type: ignore[call-arg]
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()  # type: ignore[assignment]
    inner.decoder = decoders.WordPiece()  # type: ignore[assignment]
    inner.train_from_iterator(
        LINES, trainers.WordPieceTrainer(vocab_size=num_tokens, special_tokens=SPECIAL, show_progress=False)
    )
    inner.post_processor = processors.BertProcessing(("</s>", 2), ("<s>", 1))  # type: ignore[assignment]
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


KINDS = {
    "byte level": byte_level,
    "byte level, words first": lambda: byte_level(ignore_merges=True),
    "byte fallback": byte_fallback,
    "unigram": unigram,
    "unigram with bytes": unigram_with_bytes,
    "wordpiece": wordpiece,
}


def worded_model(tokenizer: Any, family: str = "llama", *, seed: int = 0, **options: Any) -> Any:
    """Return a random model of a family for a tokenizer."""
    config = tiny_config(family, num_blocks=2, hidden_size=32, tokenizer=tokenizer)
    for name, value in options.items():
        setattr(config, name, value)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


def _chat(inner: Tokenizer) -> Any:
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def _marked(content: dict[str, Any], decoder: Any) -> Any:
    inner = Tokenizer.from_str(json.dumps(content))
    inner.decoder = decoder
    inner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])  # type: ignore[assignment]
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
