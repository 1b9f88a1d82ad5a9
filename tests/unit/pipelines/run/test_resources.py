"""Which nodes may run together: heavy ones take turns, light ones go beside them, a giant runs alone."""

from __future__ import annotations

import threading

from attar.pipelines.run.resources import ResourcePool


def overlap(pool: ResourcePool, first: tuple[float, bool], second: tuple[float, bool]) -> bool:
    """True when a claim is granted while another is held."""
    granted = threading.Event()

    def claim() -> None:
        with pool.claim(*second):
            granted.set()

    thread = threading.Thread(target=claim)
    with pool.claim(*first):
        thread.start()
        is_together = granted.wait(0.2)
    thread.join(5)
    assert granted.is_set(), "it runs once the first has ended"
    return is_together


def test_heavy_nodes_take_turns_on_one_worker_and_share_two() -> None:
    assert not overlap(ResourcePool(1), (0, False), (0, False))
    assert overlap(ResourcePool(2), (0, False), (0, False))
    assert ResourcePool(2).threads_per_node == max(1, ResourcePool(1).num_cores // 2)


def test_light_nodes_run_beside_a_heavy_one() -> None:
    assert overlap(ResourcePool(1), (0, False), (0, True))


def test_memory_is_shared_and_a_giant_runs_alone() -> None:
    everything = 1e18
    assert not overlap(ResourcePool(4), (1e9, True), (everything, True))
    with ResourcePool(1).claim(everything, False) as num_threads:
        assert num_threads >= 1
