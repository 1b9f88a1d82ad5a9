"""One stage a GPU. A slot of the global concurrency limit gpu:<host>, and the number of a card that nobody else holds."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from prefect.client.orchestration import get_client
from prefect.concurrency.sync import concurrency

from attar.pipelines.operate.prefect_home import await_prefect

# How long a slot stays taken after its holder died without a word: the least that Prefect allows is a minute.
LEASE_SECONDS = 60.0
CARD_POLL_SECONDS = 1.0


def gpu_host() -> str:
    """Return the name that this machine's cards go by: ATTAR_GPU_HOST, since a container's own name changes with each start."""
    return os.environ.get("ATTAR_GPU_HOST") or socket.gethostname()


def visible_cards() -> list[str]:
    """Return the cards a stage may use here, as CUDA_VISIBLE_DEVICES names them. ATTAR_NUM_GPUS overrules what torch finds."""
    chosen = os.environ.get("ATTAR_NUM_GPUS")
    if chosen is not None:
        return [str(index) for index in range(int(chosen))]
    import torch  # asks the driver's library, and starts no CUDA context

    count = torch.cuda.device_count()
    named = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return named[:count] if named else [str(index) for index in range(count)]


@contextmanager
def gpu_slot(home: Path, say: Callable[[str], None]) -> Iterator[dict[str, str]]:
    """Wait for a card of this host and hold it; give the environment that shows a stage this card alone. No card: nothing to wait for.

    The limit counts what the server knows of; the lock on the card is the kernel's, and outlives neither its holder nor a lost lease.
    """
    cards = visible_cards()
    if not cards:
        yield {}
        return
    name = f"gpu:{gpu_host()}"
    await_prefect(home, say)
    with get_client(sync_client=True) as client:
        client.upsert_global_concurrency_limit_by_name(name, len(cards))
    say(f"waiting for a slot of {name}")
    # strict: a limit that is missing would be a warning only, and two stages would share a card. A renewal that fails
    # (the server restarts) must not end hours of training: the lock on the card still holds.
    with (
        concurrency(name, occupy=1, strict=True, raise_on_lease_renewal_failure=False, lease_duration=LEASE_SECONDS),
        _card(cards, home / "locks") as card,
    ):
        say(f"on card {card} of {gpu_host()}")
        yield {"CUDA_VISIBLE_DEVICES": card}


@contextmanager
def _card(cards: list[str], folder: Path) -> Iterator[str]:
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as held:
        while True:
            for card in cards:
                lock = FileLock(folder / f"gpu-{gpu_host()}-{card}.lock")
                try:
                    held.enter_context(lock.acquire(timeout=0))
                except Timeout:
                    continue
                yield card
                return
            # its holder has lost its slot but not ended
            threading.Event().wait(CARD_POLL_SECONDS)
