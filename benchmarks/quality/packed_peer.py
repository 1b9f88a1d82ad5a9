"""Pack a model by llm-compressor, in an environment of its own: packed.py calls this.

python packed_peer.py MODEL_FOLDER SAMPLES.json TARGET gptq|rtn GROUP_SIZE    prints the seconds that it took
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import torch
from datasets import Dataset
from llmcompressor import oneshot
from llmcompressor.modifiers.gptq import GPTQModifier
from llmcompressor.modifiers.quantization import QuantizationModifier
from transformers import AutoModelForCausalLM, AutoTokenizer


def main() -> None:
    folder, samples, target, method, group_size = sys.argv[1:6]
    rows = [{"input_ids": ids, "attention_mask": [1] * len(ids)} for ids in json.loads(Path(samples).read_text())]
    started = time.perf_counter()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    weights = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": int(group_size)}
    groups = {"group_0": {"targets": ["Linear"], "weights": weights}}
    modifier = GPTQModifier if method == "gptq" else QuantizationModifier
    recipe = modifier(config_groups=groups, ignore=["lm_head"])
    tokenizer = AutoTokenizer.from_pretrained(folder)
    oneshot(
        model=model,
        processor=tokenizer,
        dataset=Dataset.from_list(rows),
        recipe=recipe,
        max_seq_length=max(len(row["input_ids"]) for row in rows),
        num_calibration_samples=len(rows),
    )
    # as ours: what is not packed, and the scales, in bfloat16; codes are chosen by now
    model.save_pretrained(target, save_compressed=True)
    tokenizer.save_pretrained(target)
    print(time.perf_counter() - started)


if __name__ == "__main__":
    main()
