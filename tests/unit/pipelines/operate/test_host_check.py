"""A server on loopback answers to its own names alone."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from attar.pipelines.operate.host_check import HostCheck, is_own_name


@pytest.mark.parametrize(
    ("host", "is_own"),
    [("localhost", True), ("localhost:4200", True), ("LOCALHOST:9", True), ("localhost.:4200", True), ("127.0.0.1:4200", True),
     ("[::1]:4200", True), ("10.0.0.7", True), ("proxy.example", True), ("Proxy.Example:443", True),
     ("evil.example:4200", False), ("10.evil.example", False), ("127.0.0.1.evil.example", False), ("localhost.evil.example", False),
     ("evil.example@localhost", False), ("localhost@evil.example", False), ("a.proxy.example", False), ("", False), ("[::1", False)],
)  # fmt: skip
def test_names_that_are_this_machines(host: str, is_own: bool) -> None:
    assert is_own_name(host, frozenset({"proxy.example"})) is is_own


async def _app(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "reached"})


@pytest.mark.parametrize(
    ("kind", "hosts", "answer"),
    [
        ("http", [b"localhost:1"], "reached"),
        ("lifespan", [], "reached"),
        ("websocket", [b"127.0.0.1"], "reached"),
        ("http", [b"evil.example"], "http.response.start 421"),
        ("http", [], "http.response.start 421"),
        ("http", [b"localhost", b"evil.example"], "http.response.start 421"),
        ("websocket", [b"evil.example"], "websocket.close"),
    ],
)
def test_what_is_handed_on(kind: str, hosts: list[bytes], answer: str) -> None:
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {"type": kind, "headers": [(b"host", host) for host in hosts]}
    asyncio.run(HostCheck(_app)(scope, None, send))
    assert f"{sent[0]['type']} {sent[0].get('status', '')}".strip() == answer
