"""A run without a server of its own starts one, whose database needs space: told before three minutes are waited for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from attar.pipelines.operate.prefect_home import await_prefect
from attar.registry.artifacts.disk_space import DiskFullError


def test_a_disk_without_space_for_prefects_database_is_told_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    lines: list[str] = []
    await_prefect(tmp_path, lines.append)
    monkeypatch.setattr("attar.pipelines.operate.prefect_home.DATABASE_BYTES", 1 << 60)
    message = f"^no space for Prefect's database under {tmp_path}/prefect: "
    with pytest.raises(DiskFullError, match=message + r"[\d,.]+ MB are free, 1,152,921,504,607 MB are needed$"):
        await_prefect(tmp_path, lines.append)
    assert lines == []
