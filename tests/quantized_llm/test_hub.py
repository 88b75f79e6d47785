"""Hub ids: pinned to a commit, fetched without what is not needed, from the cache alone when offline."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from transformers import AutoModelForCausalLM

from mlflow_llm_plugins import quantized_llm
from tests.quantized_llm.fake_hub import FakeHub, FakeRepo, fake_hub, files_of, put_into_cache

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REFERENCE = {"format": "safetensors", "location": "hub", "source": "org/tiny", "commit": COMMIT}
TOKEN = "hf_secretsecretsecret"
CARD = b"---\nlicense: other\nlicense_name: tiny-community\n---\n# Tiny"


@pytest.fixture(scope="module")
def repository(checkpoint: Path) -> dict[str, bytes]:
    files = files_of(checkpoint)
    others = {f"original/{name}": content for name, content in files.items()}
    pickled = {"pytorch_model.bin": b"pickle", "consolidated.safetensors": b"once more"}
    return {
        **files,
        **others,
        **pickled,
        "README.md": CARD,
        "LICENSE": b"Terms",
        "modeling_tiny.py": b"raise SystemExit",
    }


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, repository: dict[str, bytes]) -> Path:
    """A cache on disk that has org/tiny; the tests are offline."""
    cache = tmp_path / "hub"
    put_into_cache(cache, "org/tiny", COMMIT, repository)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    return cache


def section(artifact: Path) -> dict[str, Any]:
    found: dict[str, Any] = Model.load(str(artifact)).flavors["quantized_llm"]
    return found


def refusal(model: Any, artifact: Path, **arguments: Any) -> str:
    with pytest.raises(MlflowException) as caught:
        quantized_llm.save_model(model, artifact, **arguments)
    return caught.value.message


def test_cached_repository_is_saved_offline_with_its_commit(cache: Path, tmp_path: Path) -> None:
    quantized_llm.save_model("org/tiny", tmp_path / "artifact")

    found = section(tmp_path / "artifact")
    assert found["base_model"] == "org/tiny"
    assert found["base_commit"] == COMMIT
    assert found["license"] == "tiny-community"
    names = {file.name for file in (tmp_path / "artifact/model").iterdir()}
    assert {"LICENSE", "README.md", "model.safetensors", "tokenizer.json"} <= names
    assert not names & {"original", "pytorch_model.bin", "consolidated.safetensors", "modeling_tiny.py"}


@pytest.mark.parametrize("quantization", [None, "nf4"])
def test_reference_to_a_repository_is_loaded_at_its_commit(
    cache: Path, checkpoint: Path, tmp_path: Path, token_ids: torch.Tensor, quantization: str | None
) -> None:
    quantized_llm.save_model("org/tiny", tmp_path / "artifact", save_pretrained=False, quantization=quantization)
    put_into_cache(cache, "org/tiny", "f" * 40, {"config.json": b"{}"})  # the main branch moves on

    loaded = quantized_llm.load_model(str(tmp_path / "artifact"), return_type="model")

    assert not list((tmp_path / "artifact").rglob("*.safetensors"))
    assert section(tmp_path / "artifact")["weights"] == REFERENCE
    if quantization is None:
        with torch.no_grad():
            expected = AutoModelForCausalLM.from_pretrained(checkpoint)(token_ids).logits
            assert torch.equal(loaded(token_ids).logits, expected)
    else:
        assert type(loaded.model.layers[0].mlp.up_proj).__name__ == "Linear4bit"


def test_model_in_memory_remembers_its_repository(cache: Path, checkpoint: Path, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(checkpoint)
    model.config._name_or_path = model.name_or_path = "org/tiny"

    quantized_llm.save_model(model, tmp_path / "artifact")

    found = section(tmp_path / "artifact")
    assert (found["base_model"], found["base_commit"], found["license"]) == ("org/tiny", COMMIT, "tiny-community")


def test_reference_without_a_known_commit_is_refused_offline(
    cache: Path, checkpoint: Path, tokenizer: Any, tmp_path: Path
) -> None:
    model = AutoModelForCausalLM.from_pretrained(checkpoint)
    model.config._name_or_path = model.name_or_path = "org/unknown"

    message = refusal(model, tmp_path / "artifact", tokenizer=tokenizer, save_pretrained=False)

    assert message.startswith(
        "'org/unknown' at revision 'main' is not in the local cache, and the Hub cannot be reached: "
    )
    assert message.endswith("Check the id and the network, or unset HF_HUB_OFFLINE.")


def test_revision_that_is_not_cached_is_refused_offline(cache: Path, tmp_path: Path) -> None:
    assert refusal("org/tiny", tmp_path / "artifact", revision="v2").startswith(
        "'org/tiny' at revision 'v2' is not in the local cache, and the Hub cannot be reached: "
    )


def test_cached_repository_without_safetensors_is_refused(
    cache: Path, tmp_path: Path, repository: dict[str, bytes]
) -> None:
    files = {name: content for name, content in repository.items() if name != "model.safetensors"}
    put_into_cache(cache, "org/pickled", COMMIT, files)

    assert refusal("org/pickled", tmp_path / "artifact") == (
        f"'org/pickled' at {COMMIT} has no safetensors (model.safetensors or model.safetensors.index.json); other "
        "formats, such as .bin, can run code when they are read. Choose a revision or a repository that has them."
    )


def test_reference_whose_weights_cannot_be_checked_is_refused_offline(
    cache: Path, tmp_path: Path, repository: dict[str, bytes]
) -> None:
    files = {name: content for name, content in repository.items() if not name.endswith(".safetensors")}
    put_into_cache(cache, "org/described", COMMIT, files)

    message = refusal("org/described", tmp_path / "artifact", save_pretrained=False)

    assert message.startswith(
        f"'org/described' at revision '{COMMIT}' is not in the local cache, and the Hub cannot be "
    )


ONLINE = """
import json, sys
from pathlib import Path
from mlflow.exceptions import MlflowException
from mlflow_llm_plugins import quantized_llm

out, commit = Path(sys.argv[1]), sys.argv[2]

def refusal(model, **arguments):
    try:
        quantized_llm.save_model(model, out / "refused", **arguments)
    except MlflowException as error:
        return [error.error_code, error.message]

quantized_llm.save_model("org/tiny", out / "reference", revision=commit, save_pretrained=False)
weights_fetched = bool(list(out.glob("hf/hub/models--org--tiny/snapshots/*/model.safetensors")))
quantized_llm.save_model("org/tiny", out / "value")
refusals = {
    "gated": refusal("org/gated"),
    "forbidden": refusal("org/forbidden"),
    "missing": refusal("org/missing"),
    "revision": refusal("org/tiny", revision="v9"),
    "pickled": refusal("org/pickled"),
    "pickled_reference": refusal("org/pickled", save_pretrained=False),
}
print(json.dumps({"refusals": refusals, "weights_fetched": weights_fetched}))
"""


@pytest.fixture(scope="module")
def online(
    repository: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Path, FakeHub, dict[str, Any]]]:
    """A process with an empty cache and a token, which saves from a Hub and tries what is refused."""
    out = tmp_path_factory.mktemp("online")
    pickled = {name: content for name, content in repository.items() if not name.endswith(".safetensors")}
    repos = {
        "org/tiny": FakeRepo(COMMIT, repository),
        "org/pickled": FakeRepo(COMMIT, pickled),
        "org/gated": FakeRepo(refusal=(403, "GatedRepo")),
        "org/forbidden": FakeRepo(refusal=(403, "")),
    }
    with fake_hub(repos) as hub:
        environment = {
            **os.environ,
            "HF_ENDPOINT": hub.endpoint,
            "HF_HOME": str(out / "hf"),
            "HF_HUB_OFFLINE": "0",
            "HF_TOKEN": TOKEN,
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_XET": "1",
        }
        environment.pop("HF_HUB_CACHE", None)
        result = subprocess.run(
            [sys.executable, "-c", ONLINE, str(out), COMMIT],
            env=environment,
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert result.returncode == 0, result.stderr
        yield out, hub, json.loads(result.stdout.splitlines()[-1])


def test_repository_is_fetched_without_what_is_not_needed(online: tuple[Path, FakeHub, dict[str, Any]]) -> None:
    out, hub, _ = online

    assert section(out / "value")["base_commit"] == COMMIT
    assert "model.safetensors" in hub.requested_files
    unwanted = ("original/", "pytorch_model.bin", "consolidated.safetensors", "modeling_tiny.py")
    assert not [name for name in hub.requested_files if name.startswith(unwanted)]


def test_reference_is_checked_without_fetching_the_weights(
    online: tuple[Path, FakeHub, dict[str, Any]], checkpoint: Path
) -> None:
    out, _, printed = online

    assert printed["weights_fetched"] is False
    found = section(out / "reference")
    assert found["weights"] == REFERENCE
    assert 0 < found["weight_bytes"] < (checkpoint / "model.safetensors").stat().st_size  # without the header


def test_token_is_used_and_never_stored(online: tuple[Path, FakeHub, dict[str, Any]]) -> None:
    out, hub, printed = online

    assert f"Bearer {TOKEN}" in hub.tokens
    assert TOKEN not in json.dumps(printed)
    for artifact in ("value", "reference"):
        for file in (out / artifact).rglob("*"):
            assert file.is_dir() or TOKEN.encode() not in file.read_bytes()


@pytest.mark.parametrize(
    ("case", "code", "message"),
    [
        (
            "gated",
            "PERMISSION_DENIED",
            "'org/gated' is gated. Accept its terms on https://huggingface.co/org/gated with your account, then set "
            "HF_TOKEN to a token of that account or run `hf auth login`.",
        ),
        (
            "forbidden",
            "PERMISSION_DENIED",
            "The Hub refused 'org/forbidden' (403). See https://huggingface.co/org/forbidden: accept its terms if it "
            "has any, and set HF_TOKEN to a token that may read it.",
        ),
        (
            "missing",
            "PERMISSION_DENIED",
            "The Hub has no repository 'org/missing', or it is private. Check the id on "
            "https://huggingface.co/org/missing; for a private one set HF_TOKEN to a token that may read it.",
        ),
        (
            "revision",
            "INVALID_PARAMETER_VALUE",
            "'org/tiny' has no revision 'v9'. https://huggingface.co/org/tiny/commits/main lists branches, tags and "
            "commits.",
        ),
        (
            "pickled",
            "INVALID_PARAMETER_VALUE",
            f"'org/pickled' at {COMMIT} has no safetensors (model.safetensors or model.safetensors.index.json); other "
            "formats, such as .bin, can run code when they are read. Choose a revision or a repository that has them.",
        ),
        (
            "pickled_reference",
            "INVALID_PARAMETER_VALUE",
            f"'org/pickled' at {COMMIT} has no safetensors (model.safetensors or model.safetensors.index.json); other "
            "formats, such as .bin, can run code when they are read. Choose a revision or a repository that has them.",
        ),
    ],
)
def test_refusal_of_the_hub_says_what_to_do(
    online: tuple[Path, FakeHub, dict[str, Any]], case: str, code: str, message: str
) -> None:
    assert online[2]["refusals"][case] == [code, message]
