"""The client of a chat server: tries again when that helps, says so when it does not, and never asks more at once than allowed."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from attar.compressors.models.sampling import Sampling
from attar.stages.artifacts.chat_server import ServerConfig, ServerSampler
from attar.stages.artifacts.samplers import Prompt
from attar.stages.ingest.tiny_model import byte_tokenizer

PROMPTS = [Prompt(f"Question {index}", [5], seed=2**40 + index) for index in range(4)]
Answer = tuple[int, dict[str, str], Any]


def completion(text: str, reason: str = "stop", **more: Any) -> Answer:
    return 200, {}, {"choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": reason, **more}]}


@contextmanager
def served(answer: Callable[[dict[str, Any], Any], Answer]) -> Iterator[str]:
    """A server on a free port whose answers a function gives."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            status, headers, content = answer(body, self.headers)
            raw = content.encode() if isinstance(content, str) else json.dumps(content).encode()
            self.send_response(status)
            for name, value in {"content-length": str(len(raw)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()


def sampler(base_url: str, **options: Any) -> ServerSampler:
    defaults: dict[str, Any] = {"model": "original", "num_retries": 2, "retry_seconds": 0.001}
    return ServerSampler(ServerConfig(base_url=base_url, **defaults | options), byte_tokenizer())


def sample(sampler: ServerSampler, **options: Any) -> list:
    return sampler.sample(PROMPTS, max_new_tokens=9, sampling=Sampling(temperature=0.7, top_p=0.9), **options)


def test_a_conversation_is_sent_as_its_turns_with_its_tools() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": {"a": 1}}}
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "", "tool_calls": [call]}]
    tools, bodies = [{"type": "function", "function": {"name": "f"}}], []

    def answer(body: dict[str, Any], headers: Any) -> Answer:
        bodies.append(body)
        return completion("ok")

    with served(answer) as url:
        sampler(url).sample([Prompt("q", [5], 0, turns, tools)], max_new_tokens=1, sampling=Sampling(temperature=0.0))
    [body] = bodies
    assert body["tools"] == tools and body["messages"][0] == turns[0]
    assert body["messages"][1]["tool_calls"][0]["function"] == {"name": "f", "arguments": '{"a": 1}'}


def test_each_prompt_gets_its_own_answer_in_order() -> None:
    bodies = []

    def answer(body: dict[str, Any], headers: Any) -> Answer:
        bodies.append(body)
        text = body["messages"][0]["content"]
        return completion(text.upper(), "length" if text.endswith("2") else "stop")

    finished = []
    with served(answer) as url:
        written = sample(sampler(url), on_finished=finished.append)
    tokenizer = byte_tokenizer()
    assert [tokenizer.decode(answer.token_ids, skip_special_tokens=True) for answer in written] == [
        f"QUESTION {index}" for index in range(4)
    ]
    assert [answer.is_finished for answer in written] == [True, True, False, True]
    assert [answer.token_ids[-1] == tokenizer.eos_token_id for answer in written] == [True, True, False, True]
    assert sum(finished) == 4
    assert {body["seed"] for body in bodies} == {0, 1, 2, 3}, "the seed in the 31 bits that servers take"
    for body in bodies:
        assert (body["model"], body["max_tokens"], body["temperature"], body["top_p"]) == ("original", 9, 0.7, 0.9)


def test_no_more_requests_at_once_than_allowed_and_no_fewer() -> None:
    both, lock, counts = threading.Barrier(2, timeout=20), threading.Lock(), [0, 0]

    def answer(body: dict[str, Any], headers: Any) -> Answer:
        with lock:
            counts[0] += 1
            counts[1] = max(counts)
        both.wait()  # passes only while two requests are under way
        with lock:
            counts[0] -= 1
        return completion("yes")

    with served(answer) as url:
        assert len(sample(sampler(url, concurrency=2))) == 4
    assert counts[1] == 2


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_server_is_asked_again(status: int) -> None:
    seen: dict[str, int] = {}

    def answer(body: dict[str, Any], headers: Any) -> Answer:
        text = body["messages"][0]["content"]
        seen[text] = seen.get(text, 0) + 1
        return (status, {"retry-after": "0.001"}, "busy") if seen[text] < 3 else completion("done")

    with served(answer) as url:
        assert len(sample(sampler(url))) == 4
    assert set(seen.values()) == {3}


def test_a_server_that_stays_busy_is_named_with_its_last_word() -> None:
    with served(lambda body, headers: (503, {}, "no GPU free")) as url, pytest.raises(ValueError) as error:
        sample(sampler(url))
    assert (
        str(error.value)
        == f"server.base_url {url} did not answer in 3 tries; the last ended with status 503: no GPU free"
    )


def test_a_refusal_is_not_repeated() -> None:
    requests = []

    def answer(body: dict[str, Any], headers: Any) -> Answer:
        requests.append(1)
        return 404, {}, "no such\nmodel"

    with (
        served(answer) as url,
        pytest.raises(ValueError, match="refused a request for 'original', status 404: no such model"),
    ):
        sample(sampler(url, concurrency=1))
    assert len(requests) <= 2, "the next may be under way, no more"


def test_nobody_there_is_said_in_one_line() -> None:
    with served(lambda body, headers: completion("")) as url:
        pass  # the port is free again
    with pytest.raises(
        ValueError, match=r"server.base_url http://127.0.0.1:\d+/v1 did not answer in 3 tries; .*ConnectError"
    ):
        sample(sampler(url))


@pytest.mark.parametrize("content", ["<html>", {"choices": []}, {"choices": [{"message": None}]}, ["x"]])
def test_what_is_no_completion_is_refused(content: Any) -> None:
    with (
        served(lambda body, headers: (200, {}, content)) as url,
        pytest.raises(ValueError, match="not as a chat completion"),
    ):
        sample(sampler(url))


def test_the_key_comes_from_the_environment_and_goes_nowhere_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_KEY_OF_OURS", "sk-secret")
    keys = []

    def answer(body: dict[str, Any], headers: Any) -> Answer:
        keys.append(headers["authorization"])
        return 401, {}, "who are you"

    with served(answer) as url, pytest.raises(ValueError) as error:
        sample(sampler(url, api_key_env="A_KEY_OF_OURS"))
    assert set(keys) == {"Bearer sk-secret"} and "sk-secret" not in str(error.value)
    assert "sk-secret" not in ServerConfig(base_url=url, model="m", api_key_env="A_KEY_OF_OURS").model_dump_json()
    monkeypatch.delenv("A_KEY_OF_OURS")
    with pytest.raises(ValueError, match="the environment has no variable A_KEY_OF_OURS"):
        sampler(url, api_key_env="A_KEY_OF_OURS")


def test_a_key_in_place_of_a_name_is_refused_without_being_repeated() -> None:
    config = ServerConfig(base_url="http://host/v1", model="m", api_key_env="sk-live-123")
    with pytest.raises(ValueError, match="not the name of an environment variable") as error:
        config.check_key()
    assert "sk-live" not in str(error.value)


@pytest.mark.parametrize("url", ["host:8000", "ftp://host", "http://", ""])
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="accepted: http://HOST:PORT/v1"):
        ServerConfig(base_url=url, model="m")


def test_log_probabilities_are_asked_for_and_read_where_a_server_gives_them() -> None:
    content = [{"token": "a", "logprob": -1.0}, {"token": "bc", "logprob": -3.0}]

    def answer(body: dict[str, Any], headers: Any) -> Answer:
        return completion("abc", logprobs={"content": content} if body.get("logprobs") else None)

    with served(answer) as url:
        for is_given in (True, False):
            for written in sample(sampler(url, logprobs=is_given), is_scored=True):
                # a mean over the server's tokens, which need not be ours
                assert written.mean_logprob_nats == (pytest.approx(-2.0) if is_given else None)
