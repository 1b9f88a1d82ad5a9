"""The training loop: plain steps over accelerate, yielding a record after each, with a state that can be saved and restored exactly."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from compressors.distill.objectives import Objective, Targets
from compressors.distill.packing import Batch, Example, batches
from compressors.distill.reduction import combine, summed_losses


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Steps and learning rate: linear warm-up over `warmup_fraction`, then cosine to zero; `num_epochs` passes over the data."""

    num_epochs: int
    learning_rate: float
    warmup_fraction: float
    tokens_per_step: int
    tokens_per_micro_batch: int
    max_grad_norm: float
    weight_decay: float
    seed: int


@dataclass(frozen=True)
class StepRecord:
    """One optimizer step: losses in nats a token by objective, the gradient norm before clipping, and tokens learned."""

    step: int
    epoch: int
    losses: dict[str, float]
    learning_rate: float
    grad_norm: float
    num_tokens: int


@dataclass
class Trainer:
    """A student and everything that moves while it learns.

    `model` has trainable parameters on a frozen base. `is_packed`: see packing.Batch; check with `packing_matches` first.
    """

    model: nn.Module
    examples: Sequence[Example]
    objectives: Mapping[str, Objective]
    weights: Mapping[str, float]
    schedule: Schedule
    is_packed: bool
    accelerator: Accelerator
    step: int = 0
    steps: list[list[Batch]] = field(default_factory=list)

    def __post_init__(self) -> None:
        trainable = [p for p in self.model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(
            trainable, lr=self.schedule.learning_rate, weight_decay=self.schedule.weight_decay
        )
        self.model, self.optimizer = self.accelerator.prepare(self.model, optimizer)
        self.num_steps_per_epoch = len(self._epoch_steps(0))

    @property
    def num_steps(self) -> int:
        """Steps of the whole schedule."""
        return self.num_steps_per_epoch * self.schedule.num_epochs

    def run(self) -> Iterator[StepRecord]:
        """Yield a record after every optimizer step, from the current step on. Save `state()` between steps to resume there."""
        while self.step < self.num_steps:
            epoch, position = divmod(self.step, self.num_steps_per_epoch)
            if position == 0 or not self.steps:
                self.steps = self._epoch_steps(epoch)
            # an epoch that packs into fewer steps than the first ends early; the schedule keeps its length
            micro_batches = self.steps[position % len(self.steps)]
            yield self._optimize(micro_batches, epoch)

    def state(self) -> dict[str, Any]:
        """Return all that a resumed run needs for the same weights bit for bit: trainable weights, optimizer, step, random state."""
        model = self.accelerator.unwrap_model(self.model)
        return {
            "step": self.step,
            "weights": {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad},
            "optimizer": self.optimizer.state_dict(),
            "random": torch.get_rng_state(),
            "device_random": None if self._is_cpu else torch.get_device_module().get_rng_state(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from `state()`."""
        parameters = dict(self.accelerator.unwrap_model(self.model).named_parameters())
        with torch.no_grad():
            for name, value in state["weights"].items():
                parameters[name].copy_(value)
        self.optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["random"])
        if not self._is_cpu:
            torch.get_device_module().set_rng_state(state["device_random"])
        self.step = state["step"]
        self.steps = self._epoch_steps(self.step // self.num_steps_per_epoch)

    @property
    def _is_cpu(self) -> bool:
        return self.accelerator.device.type == "cpu"

    def _optimize(self, micro_batches: Sequence[Batch], epoch: int) -> StepRecord:
        self.model.train()
        learning_rate = self._learning_rate()
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        num_tokens = {name: _num_spoken(one, micro_batches) for name, one in self.objectives.items()}
        losses = dict.fromkeys(self.objectives, 0.0)
        for batch in micro_batches:
            sums = batch_losses(self.model, batch, self.objectives, self.accelerator.device)
            self.accelerator.backward(combine(sums, self.weights, num_tokens))
            for name, (loss_sum, _) in sums.items():
                losses[name] += float(loss_sum.detach()) / max(num_tokens[name], 1)
        trainable = [p for p in self.model.parameters() if p.requires_grad]
        grad_norm = float(self.accelerator.clip_grad_norm_(trainable, self.schedule.max_grad_norm))  # type: ignore[arg-type]
        if not math.isfinite(grad_norm):
            raise ValueError(f"the gradient is {grad_norm} at step {self.step}: lower learning_rate or set float32")
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        return StepRecord(
            self.step, epoch, losses, learning_rate, grad_norm, sum(len(b.next_ids) for b in micro_batches)
        )

    def _epoch_steps(self, epoch: int) -> list[list[Batch]]:
        generator = torch.Generator().manual_seed(self.schedule.seed * 1_000_003 + epoch)
        order = torch.randperm(len(self.examples), generator=generator).tolist()
        micro = list(
            batches(
                self.examples,
                tokens_per_batch=self.schedule.tokens_per_micro_batch,
                order=order,
                is_packed=self.is_packed,
            )
        )
        num_micro = max(1, round(self.schedule.tokens_per_step / self.schedule.tokens_per_micro_batch))
        return [micro[start : start + num_micro] for start in range(0, len(micro), num_micro)]

    def _learning_rate(self) -> float:
        num_warmup = max(1, round(self.num_steps * self.schedule.warmup_fraction))
        if self.step < num_warmup:
            return self.schedule.learning_rate * (self.step + 1) / num_warmup
        progress = (self.step - num_warmup) / max(1, self.num_steps - num_warmup)
        return self.schedule.learning_rate * 0.5 * (1.0 + math.cos(math.pi * progress))


@torch.no_grad()
def heldout_losses(
    model: nn.Module,
    examples: Sequence[Example],
    objectives: Mapping[str, Objective],
    *,
    tokens_per_batch: int,
    is_packed: bool,
    device: torch.device,
) -> dict[str, float]:
    """Return the mean loss in nats a token of each objective over held-out examples, in their given order."""
    model.eval()
    totals = dict.fromkeys(objectives, 0.0)
    counts = dict.fromkeys(objectives, 0)
    order = range(len(examples))
    for batch in batches(examples, tokens_per_batch=tokens_per_batch, order=order, is_packed=is_packed):
        for name, (loss_sum, num_tokens) in batch_losses(model, batch, objectives, device).items():
            totals[name] += float(loss_sum)
            counts[name] += num_tokens
    return {name: totals[name] / counts[name] for name in objectives if counts[name]}


@torch.no_grad()
def packing_matches(model: nn.Module, examples: Sequence[Example], device: torch.device, tolerance: float) -> bool:
    """True when packing these examples gives the same logits as running each alone: some families attend across them."""
    model.eval()
    packed = answer_logits(model, _together(examples, is_packed=True), device)
    apart = answer_logits(model, _together(examples, is_packed=False), device)
    scale = float(apart.abs().max().clamp(min=1e-6))
    return float((packed - apart).abs().max()) <= tolerance * scale


def batch_losses(
    model: nn.Module, batch: Batch, objectives: Mapping[str, Objective], device: torch.device
) -> dict[str, tuple[Tensor, int]]:
    """Return the summed losses of one batch; see reduction.summed_losses."""
    # float32: a log-softmax over 50,000 entries in bf16 loses the third digit of every loss
    logprobs = answer_logits(model, batch, device).float().log_softmax(dim=-1)
    teacher = (batch.teacher_ids, batch.teacher_logprobs, batch.has_teacher)
    targets = Targets(batch.next_ids.to(device), *(None if part is None else part.to(device) for part in teacher))
    return summed_losses(objectives, logprobs, targets)


def answer_logits(model: nn.Module, batch: Batch, device: torch.device) -> Tensor:
    """Return the logits of the learned tokens alone (N V): prompt tokens never reach the output head, which is most of the cost."""
    columns, inverse = batch.columns.unique(return_inverse=True)
    options = {} if batch.attention_mask is None else {"attention_mask": batch.attention_mask.to(device)}
    output = model(
        input_ids=batch.input_ids.to(device),
        position_ids=batch.position_ids.to(device),
        use_cache=False,
        logits_to_keep=columns.to(device),
        **options,
    )
    return output.logits[batch.rows.to(device), inverse.to(device)]


def _together(examples: Sequence[Example], is_packed: bool) -> Batch:
    return next(batches(examples, tokens_per_batch=1 << 30, order=range(len(examples)), is_packed=is_packed))


def _num_spoken(objective: Objective, micro_batches: Sequence[Batch]) -> int:
    if not objective.uses_teacher:
        return sum(len(batch.next_ids) for batch in micro_batches)
    return sum(int(batch.has_teacher.sum()) for batch in micro_batches if batch.has_teacher is not None)
