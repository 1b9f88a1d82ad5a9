"""Let a server write: any that answers OpenAI's /v1/chat/completions, such as `vllm serve`, SGLang or `transformers serve`."""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TYPE_CHECKING, Any

from pydantic import Field, field_validator

from attar.compressors.data.prompts import end_token_id
from attar.compressors.models.sampling import Generation, Sampling
from attar.registry.artifacts.confinement import is_confined
from attar.stages.artifacts.samplers import Prompt
from attar.stages.contract import StageConfig
from attar.stages.runtime.progress import note

if TYPE_CHECKING:
    import httpx

# A busy or restarting server says these; anything else above 399 is our mistake, and asking again does not mend it.
RETRIED_STATUS = {408, 409, 429, 500, 502, 503, 504}
MAX_WAIT_SECONDS = 60.0
# Comma-separated names of the variables whose values a request may have sent to the address that it names.
KEYS_OF_REQUESTS = "ATTAR_API_KEYS"
NAME_OF_A_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class ServerConfig(StageConfig):
    """A server that speaks OpenAI's chat protocol, and how hard it may be asked."""

    base_url: str
    """Where its API begins, for instance http://gpu-host:8000/v1; /chat/completions is added."""

    model: str
    """The name under which it serves the original model. That it is the same model as the input is yours to see to."""

    api_key_env: str = ""
    """NAME of the environment variable that holds the API key, never the key itself; empty: no key is sent."""

    concurrency: int = Field(default=8, ge=1)
    """Requests under way at once; the server batches them."""

    timeout_seconds: float = Field(default=600.0, gt=0.0)
    """Longest wait for one answer, in seconds."""

    num_retries: int = Field(default=5, ge=0)
    """Further tries of a request after a lost connection, a timeout, or status 408, 409, 429 or 5xx."""

    retry_seconds: float = Field(default=1.0, gt=0.0)
    """Wait before the first of them, in seconds; it doubles each time, up to a minute. A server's Retry-After goes first."""

    logprobs: bool = False
    """Ask for the log-probability of each token, by which best_of ranks; not every server gives them. Without: the first that passes."""

    @field_validator("base_url")
    @classmethod
    def _is_a_url(cls, value: str) -> str:
        if not re.match(r"https?://[^/\s]", value):
            raise ValueError("accepted: http://HOST:PORT/v1 or https://HOST/v1")
        return value.rstrip("/")

    def check_key(self) -> None:
        """Raise ValueError when `api_key_env` cannot be the name of a variable, or is none that a request may send away.

        The message does not repeat what is no name: it may be a key.
        """
        if self.api_key_env and not NAME_OF_A_VARIABLE.fullmatch(self.api_key_env):
            raise ValueError(
                "server.api_key_env: not the name of an environment variable (letters, digits, _); the key itself must not be here"
            )
        # the worker's environment holds the servers' passwords, and the request says which address the key is sent to
        allowed = [name.strip() for name in os.environ.get(KEYS_OF_REQUESTS, "").split(",") if name.strip()]
        if self.api_key_env and is_confined() and self.api_key_env not in allowed:
            raise ValueError(
                f"server.api_key_env {self.api_key_env}: no key that a request may use; accepted: names in {KEYS_OF_REQUESTS}"
                f" of the worker's environment ({', '.join(allowed) or 'it has none'})"
            )


class ServerSampler:
    """A chat server as a sampler. Its text is tokenized again here; it gives no distributions."""

    def __init__(self, config: ServerConfig, tokenizer: Any) -> None:
        import httpx  # no plan asks a server

        self._config, self._tokenizer = config, tokenizer
        self._is_over = threading.Event()
        headers = {}
        if config.api_key_env:
            key = os.environ.get(config.api_key_env)
            if not key:
                raise ValueError(f"server.api_key_env: the environment has no variable {config.api_key_env}")
            headers["Authorization"] = f"Bearer {key}"
        limits = httpx.Limits(max_connections=config.concurrency)
        self._client = httpx.Client(headers=headers, timeout=config.timeout_seconds, limits=limits)
        note(f"writing through {config.base_url}, model {config.model}, {config.concurrency} requests at once")

    def sample(
        self,
        prompts: Sequence[Prompt],
        *,
        max_new_tokens: int,
        sampling: Sampling,
        num_recorded: int = 0,
        is_scored: bool = False,
        on_finished: Callable[[int], None] = lambda count: None,
    ) -> list[Generation]:
        bodies = [self._body(prompt, max_new_tokens, sampling, is_scored) for prompt in prompts]
        generations: list[Generation | None] = [None] * len(prompts)
        pool = ThreadPoolExecutor(self._config.concurrency)
        try:
            waiting = {pool.submit(self._ask, body): index for index, body in enumerate(bodies)}
            for done in as_completed(waiting):
                generations[waiting[done]] = self._generation(done.result())
                on_finished(1)
        except BaseException:
            self._is_over.set()  # one failure ends the rest, those that wait to try again too
            raise
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
        return generations  # type: ignore[return-value]

    def _body(self, prompt: Prompt, max_new_tokens: int, sampling: Sampling, is_scored: bool) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self._config.model,
            "messages": [*map(_sent, prompt.messages)] or [{"role": "user", "content": prompt.text}],
            "max_tokens": max_new_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "seed": prompt.seed % 2**31,
        }
        if prompt.tools:
            body["tools"] = prompt.tools
        return body | {"logprobs": True} if is_scored and self._config.logprobs else body

    def _ask(self, body: dict[str, Any]) -> dict[str, Any]:
        """Return the first choice of one completion. Raises ValueError in one line when the server cannot or will not answer."""
        import httpx  # as above

        config = self._config
        trouble = ""
        for attempt in range(config.num_retries + 1):
            if self._is_over.is_set():
                break
            wait = min(MAX_WAIT_SECONDS, config.retry_seconds * 2**attempt)
            try:
                response = self._client.post(f"{config.base_url}/chat/completions", json=body)
            except httpx.TransportError as error:
                trouble = f"{type(error).__name__}: {error}"
            else:
                if response.is_success:
                    return _first_choice(response, config.base_url)
                trouble = f"status {response.status_code}: {' '.join(response.text.split())[:200]}"
                if response.status_code not in RETRIED_STATUS:
                    raise ValueError(
                        f"server.base_url {config.base_url} refused a request for {config.model!r}, {trouble}"
                    )
                wait = _retry_after(response) or wait
            if attempt < config.num_retries:
                self._is_over.wait(wait)
        tries = config.num_retries + 1
        raise ValueError(
            f"server.base_url {config.base_url} did not answer in {tries} tries; the last ended with {trouble}"
        )

    def _generation(self, choice: dict[str, Any]) -> Generation:
        is_finished = choice.get("finish_reason") == "stop"
        token_ids = self._tokenizer(choice["message"].get("content") or "", add_special_tokens=False).input_ids
        if is_finished:
            token_ids = [*token_ids, end_token_id(self._tokenizer)]
        scored = (choice.get("logprobs") or {}).get("content") or []
        # the server's tokens may be cut otherwise than ours; the mean over a token is what is compared
        mean = sum(token["logprob"] for token in scored) / len(scored) if scored else None
        return Generation(token_ids, is_finished, None if mean is None else mean * max(1, len(token_ids)))


def _sent(message: dict[str, Any]) -> dict[str, Any]:
    """Return a turn as the protocol has it: the arguments of a call as JSON text, where chat templates want a mapping."""
    if "tool_calls" not in message:
        return message
    calls = [
        call | {"function": call["function"] | {"arguments": json.dumps(call["function"]["arguments"])}}
        for call in message["tool_calls"]
    ]
    return message | {"tool_calls": calls}


def _first_choice(response: httpx.Response, base_url: str) -> dict[str, Any]:
    try:
        choice = response.json()["choices"][0]
        choice["message"].get("content")
        return choice
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        text = " ".join(response.text.split())[:200]
        raise ValueError(f"server.base_url {base_url} answers, but not as a chat completion: {text!r}") from error


def _retry_after(response: httpx.Response) -> float:
    value = response.headers.get("retry-after", "")
    return min(MAX_WAIT_SECONDS, float(value)) if re.fullmatch(r"\d+(\.\d+)?", value) else 0.0
