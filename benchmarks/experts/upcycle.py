"""Make a small real mixture of experts of a dense model: its last feed-forward parts become eight experts each, trained briefly.

python benchmarks/experts/upcycle.py MODEL_FOLDER DATA_FOLDER OUTPUT_FOLDER [NUM_TOKENS]

Sparse upcycling (https://arxiv.org/abs/2212.05055): an expert is a copy of the dense part. So that experts differ, a quarter of each copy's
channels go, drawn for each expert, and the rest are scaled up (after https://arxiv.org/abs/2502.19261). Routers and experts then learn
on prose, mathematics and code. The family is Qwen2-MoE: its attention is Llama's without a bias, its config can say that the first
blocks stay dense and that the weights of a token's experts sum to 1. Its shared expert, which no config leaves out, is 8 silent channels.
DATA_FOLDER holds wikitext2, gsm8k and stdlib_code.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import Qwen2MoeConfig, Qwen2MoeForCausalLM

sys.path.append(str(Path(__file__).parents[1]))
from windows import STRIDE, TRAINING, read_windows, states_before

from attar.compressors.models.bypass import without_blocks
from attar.compressors.models.experts import moe_layers
from attar.registry.artifacts.environment import configure_process
from attar.stages.artifacts.model.folder import load_model, save_model

NUM_MOE_BLOCKS, NUM_EXPERTS, TOP_K, DROPPED_FRACTION = 3, 8, 2, 0.25
BATCH_SIZE, LEARNING_RATE, ROUTER_RATE, BALANCE = 2, 3e-4, 2e-3, 0.01


def main() -> None:
    source, data, output = (Path(word) for word in sys.argv[1:4])
    num_tokens = int(sys.argv[4]) if len(sys.argv) > 4 else 16_128
    configure_process()
    torch.manual_seed(0)
    dense = load_model(source, "float32")
    windows = read_windows(source, data, TRAINING, num_tokens)
    model = upcycled(dense, NUM_MOE_BLOCKS, torch.Generator().manual_seed(0))
    started = time.perf_counter()
    first = dense.config.num_hidden_layers - NUM_MOE_BLOCKS
    states = states_before(dense, first, windows)
    print(f"states of {windows.numel()} tokens before block {first}: {time.perf_counter() - started:.0f} s", flush=True)
    with torch.no_grad():
        dense_loss = float(losses(dense, first, windows[::16], states[::16]).mean())
    print(f"dense: {dense_loss:.3f} nats on a sixteenth of the windows", flush=True)
    train(model, first, windows, states)
    save_model(model.eval(), output, tokenizer_from=source)
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters, {time.perf_counter() - started:.0f} s")


def upcycled(dense, num_moe_blocks: int, generator: torch.Generator) -> Qwen2MoeForCausalLM:
    """Return the dense model with experts in its last blocks; some of each expert's channels are gone, the others stronger."""
    config = dense.config
    dense_blocks = list(range(config.num_hidden_layers - num_moe_blocks))
    own = {
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
    }
    own |= {"hidden_act", "max_position_embeddings", "rms_norm_eps", "rope_parameters", "tie_word_embeddings"}
    own |= {"bos_token_id", "eos_token_id", "pad_token_id"}
    model = Qwen2MoeForCausalLM(
        Qwen2MoeConfig(
            **{name: getattr(config, name) for name in own},
            moe_intermediate_size=config.intermediate_size,
            shared_expert_intermediate_size=8,
            num_experts=NUM_EXPERTS,
            num_experts_per_tok=TOP_K,
            norm_topk_prob=True,
            qkv_bias=False,
            mlp_only_layers=dense_blocks,
        )
    )
    missing = model.load_state_dict(dense.state_dict(), strict=False).missing_keys
    assert all(".mlp." in name for name in missing), missing
    with torch.no_grad():
        for layer in moe_layers(model):
            mlp = dense.model.layers[layer.block_index].mlp
            layer.router.weight.normal_(std=0.02, generator=generator)
            for expert in range(NUM_EXPERTS):
                keeps = torch.rand(config.intermediate_size, generator=generator) >= DROPPED_FRACTION
                layer.experts.gate_up_proj[expert] = torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight])
                layer.experts.down_proj[expert] = mlp.down_proj.weight * keeps / (1 - DROPPED_FRACTION)
            shared = model.model.layers[layer.block_index].mlp.shared_expert
            for parameter in shared.parameters():
                parameter.zero_()
    model.generation_config = dense.generation_config
    return model


def losses(model, first: int, windows: Tensor, states: Tensor) -> Tensor:
    """Return the loss of every `STRIDE`th predicted token, run from block `first` on: the head is most of a small model's step."""
    with without_blocks(model, frozenset(), first, states):
        hidden = model.model(input_ids=windows, use_cache=False).last_hidden_state[:, :-1:STRIDE]
    logits = model.lm_head(hidden)
    return nn.functional.cross_entropy(logits.transpose(1, 2), windows[:, 1::STRIDE], reduction="none")


def train(model: Qwen2MoeForCausalLM, first: int, windows: Tensor, states: Tensor) -> None:
    """Train routers and experts, once through the windows, with Switch's balancing loss (https://arxiv.org/abs/2101.03961)."""
    model.requires_grad_(False)
    layers, seen = moe_layers(model), []
    for layer in layers:
        layer.router.requires_grad_(True)
        layer.experts.requires_grad_(True)
        layer.router.register_forward_hook(lambda module, args, output: seen.append((output[0], output[2])))
    routers = [parameter for layer in layers for parameter in layer.router.parameters()]
    experts = [parameter for layer in layers for parameter in layer.experts.parameters()]
    groups = [{"params": experts, "lr": LEARNING_RATE}, {"params": routers, "lr": ROUTER_RATE}]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.0)
    num_steps = len(windows) // BATCH_SIZE
    decay = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 5) * (1 - step / num_steps))
    order = torch.randperm(num_steps * BATCH_SIZE, generator=torch.Generator().manual_seed(0)).reshape(num_steps, -1)
    for step, rows in enumerate(order):
        seen.clear()
        loss = losses(model, first, windows[rows], states[rows]).mean()
        (loss + BALANCE * sum(balance(*output) for output in seen)).backward()
        nn.utils.clip_grad_norm_([*experts, *routers], 1.0)
        optimizer.step()
        optimizer.zero_grad()
        decay.step()
        if step % 8 == 0 or step == num_steps - 1:
            shares = torch.stack([torch.bincount(index.flatten(), minlength=NUM_EXPERTS) for _, index in seen]).float()
            spread = (shares / shares.mean(dim=1, keepdim=True)).std(dim=1).mean()
            print(
                f"step {step} of {num_steps}: {float(loss.detach()):.3f} nats, loads vary by {float(spread):.2f}",
                flush=True,
            )
    for layer in layers:
        layer.router._forward_hooks.clear()
    model.requires_grad_(True)


def balance(logits: Tensor, index: Tensor) -> Tensor:
    """Return N times the sum over experts of (share of choices) * (mean probability): 1 when all are chosen alike."""
    shares = torch.bincount(index.flatten(), minlength=NUM_EXPERTS) / index.numel()
    return NUM_EXPERTS * (shares * logits.softmax(dim=-1).mean(dim=0)).sum()


if __name__ == "__main__":
    main()
