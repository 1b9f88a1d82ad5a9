"""One stage a GPU. A slot of the global concurrency limit gpu:<host> for each, and the numbers of cards that nobody else holds."""

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
from attar.stages.process import StageFailed

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
def gpu_slot(home: Path, say: Callable[[str], None], num_cards: int = 1) -> Iterator[dict[str, str]]:
    """Wait for cards of this host and hold them; give the environment that shows a stage these alone. No card: nothing to wait for.

    The limit counts what the server knows of; the lock on a card is the kernel's, and outlives neither its holder nor a lost lease.
    Raises StageFailed for more cards than this host has.
    """
    cards = visible_cards()
    if not cards:
        yield {}
        return
    if num_cards > len(cards):
        raise StageFailed(
            f"the stage asks for {num_cards} GPUs, but {gpu_host()} has {len(cards)}; accepted: up to as many"
        )
    name = f"gpu:{gpu_host()}"
    await_prefect(home, say)
    with get_client(sync_client=True) as client:
        client.upsert_global_concurrency_limit_by_name(name, len(cards))
    say(f"waiting for a slot of {name}" if num_cards == 1 else f"waiting for {num_cards} slots of {name}")
    # strict: a limit that is missing would be a warning only, and two stages would share a card. A renewal that fails
    # (the server restarts) must not end hours of training: the lock on the card still holds.
    slots = concurrency(
        name, occupy=num_cards, strict=True, raise_on_lease_renewal_failure=False, lease_duration=LEASE_SECONDS
    )
    with slots, _held_cards(cards, num_cards, home / "locks") as held:
        say(f"on card {', '.join(held)} of {gpu_host()}")
        yield {"CUDA_VISIBLE_DEVICES": ",".join(held)}


@contextmanager
def _held_cards(cards: list[str], num_cards: int, folder: Path) -> Iterator[list[str]]:
    """Hold the locks of so many cards, all or none: two stages with half of what they need would wait for each other."""
    folder.mkdir(parents=True, exist_ok=True)
    while True:
        with ExitStack() as locks:
            held: list[str] = []
            for card in cards:
                lock = FileLock(folder / f"gpu-{gpu_host()}-{card}.lock")
                if len(held) < num_cards:
                    try:
                        locks.enter_context(lock.acquire(timeout=0))
                    except Timeout:
                        continue
                    held.append(card)
            if len(held) == num_cards:
                yield held
                return
        # a holder has lost its slot but not ended
        threading.Event().wait(CARD_POLL_SECONDS)
