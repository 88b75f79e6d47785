"""What is asked: which server, how many requests in which rhythm, and what counts as good."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from pydantic import Field, ValidationInfo, field_validator
from typing_extensions import Self

from mlflow_llm_plugins.errors import InvalidInputError
from mlflow_llm_plugins.loadtest.routes import ROUTES, Route, route_of
from mlflow_llm_plugins.settings import Settings


class Target(Settings):
    """A server, and how to talk to it."""

    url: str = Field(description="Where the server listens, for example http://127.0.0.1:5001.")
    path: str = Field("/v1/chat/completions", description=f"Route, ending in {', '.join(ROUTES)}.")
    model: str | None = Field(None, description="Model name in every request; most servers need one.")
    stream: bool = Field(True, description="Ask for streams; whole answers only tell the end-to-end latency.")
    api_key_env: str | None = Field(None, description="Environment variable that holds the API key.")
    timeout_s: float = Field(600, gt=0, description="Seconds after which a request is given up.")

    @field_validator("url")
    @classmethod
    def _address(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("must look like http://127.0.0.1:5001")
        if parts.username is not None or parts.query or parts.fragment:
            raise ValueError("must be an address alone; an API key comes from the variable that api_key_env names")
        return value.rstrip("/")

    @field_validator("path")
    @classmethod
    def _known_route(cls, value: str) -> str:
        if not value.startswith("/") or route_of(value) is None:
            raise ValueError(f"must start with a slash and end in one of {', '.join(ROUTES)}")
        return value

    @property
    def route(self) -> Route:
        """The kind of route that `path` leads to."""
        route = route_of(self.path)
        assert route is not None  # `_known_route` saw to it
        return route

    @property
    def streams(self) -> bool:
        """Whether answers come as streams: where they are asked for and the route can."""
        return self.stream and self.route.can_stream


class Load(Settings):
    """How many requests, in which rhythm, and what they ask for.

    `clients` makes a closed loop: so many clients send their next request when the last one is answered. `rate` makes
    an open loop: requests arrive at random like a Poisson process, whether the server keeps up or not.
    """

    clients: int | None = Field(None, ge=1, description="Closed loop: requests in flight at a time.")
    rate: float | None = Field(
        None, gt=0, allow_inf_nan=False, validate_default=True, description="Open loop: requests a second, on average."
    )
    requests: int = Field(64, ge=1, description="Requests that are measured.")
    warmup: int = Field(0, ge=0, description="Requests before them that are not measured.")
    seed: int = Field(0, description="Of the made-up prompts and of the open loop's send times.")
    max_tokens: int = Field(64, ge=1, description="Longest answer.")
    ignore_eos: bool = Field(False, description="Answers of exactly max_tokens, on servers that know the field.")
    body: dict[str, Any] = Field({}, description="More fields of every request, as a JSON object.")
    prompt_words: int = Field(50, ge=1, description="Length of the made-up prompts in random English words.")
    prompt_tokens: int | None = Field(
        None, ge=1, description="Their length in random token ids instead; for /v1/completions only."
    )

    @field_validator("rate")
    @classmethod
    def _one_rhythm(cls, value: float | None, info: ValidationInfo) -> float | None:
        if "clients" in info.data and (value is None) == (info.data["clients"] is None):
            raise ValueError(f"give either clients or rate, got clients={info.data['clients']!r} and rate={value!r}")
        return value


class Objective(Settings):
    """What a request must keep to count for the goodput: every limit that is set, in seconds."""

    ttft: float | None = Field(None, gt=0, description="Time to first token.")
    tpot: float | None = Field(None, gt=0, description="Time per output token.")
    e2el: float | None = Field(None, gt=0, description="End-to-end latency.")

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Read "ttft=0.5,tpot=0.1,e2el=5".

        Raises:
            InvalidInputError: Not of this form, an unknown name, or a limit that is no positive number.
        """
        pairs = [item.partition("=") for item in text.split(",")]
        if not all(separator for _, separator, _ in pairs):
            raise InvalidInputError(f"goodput must look like ttft=0.5,tpot=0.1,e2el=5 (seconds), got {text!r}.")
        return cls.parse({name.strip(): limit for name, _, limit in pairs}, "goodput")

    def limits(self) -> dict[str, float]:
        """Name -> seconds of those that are set."""
        return self.model_dump(exclude_none=True)
