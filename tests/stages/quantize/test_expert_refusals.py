"""bitsandbytes leaves fused experts in float, so it is refused with the share, at plan and while it runs."""

from __future__ import annotations

import pytest
import torch

from attar.registry.artifacts.store import Store
from attar.stages.artifacts.model.folder import load_model
from attar.stages.contract import NoInputs
from attar.stages.finetune.adapt_config import LowRank
from attar.stages.finetune.distillation_config import check_adapt
from attar.stages.ingest.model import IngestModelConfig, ingest_model
from attar.stages.quantize.bits_and_bytes import QuantizeTorchConfig, quantize_torch

LINE = r"bitsandbytes packs no fused experts: \d\d% of this model would stay in float; accepted: models without experts"
LIMITS = {"max_kl_nats": 1.0}


def test_quantizing_experts_by_bitsandbytes_is_refused(store: Store) -> None:
    config = IngestModelConfig(source="random:mixtral?num_blocks=2")
    model = ingest_model.execute(config, NoInputs(), store).artifact
    with pytest.raises(ValueError, match=f"method is 'nf4', but {LINE}"):
        quantize_torch.forecast(
            QuantizeTorchConfig(method="nf4", limits=LIMITS),  # type: ignore[arg-type]
            {"model": (model.facts,), "data": ({},)},
        )
    with pytest.raises(ValueError, match=f"adapt.quantized_base is 'int8', but {LINE}"):
        check_adapt(LowRank(quantized_base="int8"), model.facts)
    with pytest.raises(ValueError, match=f"quantized_base is 'nf4', but {LINE}"):
        load_model(model.path, torch.float32, quantized="nf4")


def test_adapters_on_experts_are_refused_where_there_are_none(store: Store) -> None:
    config = IngestModelConfig(source="random:llama?num_blocks=2")
    dense = ingest_model.execute(config, NoInputs(), store).artifact
    with pytest.raises(ValueError, match="adapt.expert_rank is 4, but the model has no experts; accepted: 0"):
        check_adapt(LowRank(expert_rank=4), dense.facts)
    with pytest.raises(ValueError, match="expert_rank is 4, but kind is 'dora'; accepted with it: lora or rslora"):
        LowRank(kind="dora", expert_rank=4)
    with pytest.raises(ValueError, match="expert_rank is 4, but dropout is 0.1"):
        LowRank(dropout=0.1, expert_rank=4)
