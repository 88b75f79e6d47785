"""What a folder's files say is read as transformers reads it; what cannot be read is refused in words."""

from __future__ import annotations

import json
import logging
import subprocess
import sys

import pytest

from mlflow_llm_plugins.errors import CheckpointError, InvalidInputError, MissingDependencyError
from mlflow_llm_plugins.quantized_llm.file_tokenizer import load_file_tokenizer
from tests.openai_api.response_templates import PLAIN_MARKS, tokenizer_with
from tests.openai_api.tokenizers import byte_level
from tests.quantized_llm.file_tokenizer.made import KINDS, llama, read_by_both

ECHO = "{% for m in messages %}{{ m.content }}{% endfor %}"
TEXT = "the <|eot|>a<image>b<tool_call> <extra>c<more></s>"


@pytest.fixture
def folder(tmp_path):
    """A tokenizer without chat template, as `save_pretrained` writes it."""
    byte_level().save_pretrained(tmp_path)
    return tmp_path


def configure(folder, **settings):
    """Change tokenizer_config.json; None removes a key."""
    file = folder / "tokenizer_config.json"
    config = json.loads(file.read_text()) | settings
    file.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))


def token(content, **properties):
    defaults = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": False, "special": True}
    return {"content": content, **defaults, **properties}


def assert_alike(folder):
    theirs, ours = read_by_both(folder)
    for add_special_tokens in (True, False):
        ids = theirs(TEXT, add_special_tokens=add_special_tokens).input_ids
        assert ours(TEXT, add_special_tokens=add_special_tokens).input_ids == ids
        assert ours.decode(ids, skip_special_tokens=True) == theirs.decode(ids, skip_special_tokens=True)
    assert ours.get_vocab() == theirs.get_vocab()
    assert ours.added_tokens_decoder == theirs.added_tokens_decoder
    assert ours.special_tokens_map == theirs.special_tokens_map
    assert ours.all_special_ids == theirs.all_special_ids
    assert ours.chat_template == theirs.chat_template
    assert ours.model_max_length == theirs.model_max_length
    return ours


# -- special and added tokens -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {"eos_token": "<|eot|>"},
        {"eos_token": "<tool_call>"},
        {"eos_token": None, "bos_token": None},
        {"eos_token": {"__type": "AddedToken", **token("<|eot|>", lstrip=True, special=False)}},
        {"additional_special_tokens": ["<extra>", "<more>"]},
        {"extra_special_tokens": [], "additional_special_tokens": ["<extra>"]},
        {"extra_special_tokens": ["<more>"], "additional_special_tokens": ["<extra>"]},
        {"extra_special_tokens": {"image_token": "<image>", "other": "<more>"}},
        {"extra_special_tokens": {}, "additional_special_tokens": ["<extra>"]},
        {"image_token": "<image>", "add_bos_token": True, "add_eos_token": True},
        {"image_token": {"__type": "AddedToken", **token("<image>")}},
        {"added_tokens_decoder": {"300": token("<image>"), "270": token("<more>", special=False)}},
        {"added_tokens_decoder": {"2": token("</s>", rstrip=True)}, "eos_token": "</s>", "pad_token": "<extra>"},
        {"split_special_tokens": True},
        {"model_max_length": 12},
        {"model_max_length": None, "max_len": 13},
    ],
)
def test_special_tokens_of_the_configuration_are_in_the_vocabulary(folder, settings):
    configure(folder, **settings)
    assert_alike(folder)


def test_files_of_transformers_4_are_read(folder):
    configure(folder, eos_token=None, bos_token=None, unk_token=None, extra_special_tokens=None)
    special = {
        "eos_token": {
            "content": "<|eot|>",
            "lstrip": True,
            "rstrip": False,
            "normalized": False,
            "single_word": False,
        },
        "bos_token": "<s>",
        "image_token": "<image>",
        "extra_special_tokens": ["<extra>"],
    }
    (folder / "special_tokens_map.json").write_text(json.dumps(special))
    (folder / "added_tokens.json").write_text(json.dumps({"<more>": 271, "<image>": 270}))
    ours = assert_alike(folder)
    assert (ours.eos_token, ours.bos_token) == ("<|eot|>", "<s>")


def test_a_folder_with_tokenizer_json_alone_is_read(folder):
    (folder / "tokenizer_config.json").unlink()
    ours = load_file_tokenizer(folder, name="made")
    assert ours.decode(ours("the</s>").input_ids) == "the</s>"
    assert (ours.eos_token, ours.eos_token_id, ours.all_special_tokens) == (None, None, [])
    assert ours.convert_tokens_to_ids("no entry") is None


def test_padding_and_truncation_of_the_file_are_switched_off(folder):
    backend = byte_level().backend_tokenizer
    backend.enable_padding(pad_id=2, pad_token="</s>", length=40)
    backend.enable_truncation(3)
    backend.save(str(folder / "tokenizer.json"))
    ours = assert_alike(folder)
    assert ours.pad_token == "</s>"
    assert ours.backend_tokenizer.padding is ours.backend_tokenizer.truncation is None


# -- chat templates -----------------------------------------------------------------------------------------


NAMED = {"default": ECHO + "1", "tool_use": ECHO + "2", "rag": ECHO + "3"}


def as_files(folder, templates):
    (folder / "additional_chat_templates").mkdir()
    for name, template in templates.items():
        file = "chat_template" if name == "default" else f"additional_chat_templates/{name}"
        (folder / f"{file}.jinja").write_text(template)


@pytest.mark.parametrize(
    ("configured", "files"),
    [
        (None, {}),
        (ECHO, {}),
        (ECHO, {"default": NAMED["rag"]}),
        ([{"name": name, "template": template} for name, template in NAMED.items()], {}),
        (None, NAMED),
        (ECHO, {"rag": NAMED["rag"]}),
    ],
)
def test_templates_are_found_where_transformers_finds_them(folder, configured, files):
    configure(folder, chat_template=configured)
    as_files(folder, files)
    assert_alike(folder)


@pytest.mark.parametrize("name", [None, "rag", "tool_use", "{{ bos_token }}"])
@pytest.mark.parametrize("tools", [None, [], [{"type": "function"}]])
def test_the_template_is_chosen_as_by_transformers(folder, name, tools):
    as_files(folder, NAMED)
    theirs, ours = read_by_both(folder)
    assert ours.get_chat_template(name, tools) == theirs.get_chat_template(name, tools)
    chat = [{"role": "user", "content": "hi"}]
    options = {"chat_template": name, "tools": tools, "tokenize": False}
    assert ours.apply_chat_template(chat, **options) == theirs.apply_chat_template(chat, **options)


@pytest.mark.parametrize(
    ("templates", "message"),
    [
        ({}, "The tokenizer has no chat template. Give one with chat_template='...'."),
        (
            {"tool_use": ECHO, "rag": ECHO},
            "The tokenizer has several chat templates, none of them called 'default'. Name one of them with "
            "chat_template: rag, tool_use.",
        ),
    ],
)
def test_a_template_that_cannot_be_chosen_is_refused(folder, templates, message):
    as_files(folder, templates)
    with pytest.raises(InvalidInputError) as refusal:
        load_file_tokenizer(folder, name="made").get_chat_template()
    assert str(refusal.value) == message


# -- response templates -------------------------------------------------------------------------------------


def test_a_tokenizer_with_a_response_template_has_the_parser_of_transformers(tmp_path):
    tokenizer_with(PLAIN_MARKS).save_pretrained(tmp_path)
    theirs, ours = read_by_both(tmp_path)
    assert ours.response_template == theirs.response_template
    ids = theirs("<|assistant|><think>", add_special_tokens=False).input_ids
    for prefix in ("<|assistant|>", ids):
        parsers = [tokenizer.get_response_parser(prefix=prefix, tools=None) for tokenizer in (theirs, ours)]
        events = [[*parser.feed("so</think>it is"), parser.finalize()] for parser in parsers]
        assert events[0] == events[1]


def test_a_tokenizer_without_a_response_template_offers_no_parser(folder):
    ours = load_file_tokenizer(folder, name="made")
    assert not hasattr(ours, "response_template")
    assert not hasattr(ours, "get_response_parser")


WITHOUT = """
import json, logging, sys
from pathlib import Path

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "transformers"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocked())
logging.basicConfig(level=logging.WARNING, format="%(message)s")
from mlflow_llm_plugins.quantized_llm.file_tokenizer import load_file_tokenizer
tokenizer = load_file_tokenizer(Path(sys.argv[1]), name="made")
chat = [{"role": "user", "content": "hi <|end|>"}]
options = {"add_generation_prompt": True, "return_dict": False, "sanitize_control_tokens": True}
ids = tokenizer.apply_chat_template(chat, **options)
print(json.dumps({
    "ids": ids,
    "text": tokenizer.decode(ids),
    "encoded": tokenizer("hi <|end|>").input_ids,
    "offered": [name for name in ("response_template", "get_response_parser") if hasattr(tokenizer, name)],
    "loaded": [name for name in ("torch", "transformers") if name in sys.modules],
}))
"""


def test_neither_transformers_nor_torch_is_needed_and_what_is_lost_is_said(tmp_path):
    made = tokenizer_with(PLAIN_MARKS)
    made.save_pretrained(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, str(tmp_path)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    options = {"add_generation_prompt": True, "return_dict": False, "sanitize_control_tokens": True}
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "ids": made.apply_chat_template([{"role": "user", "content": "hi <|end|>"}], **options),
        "text": "<|bos|><|user|>hi <|end|><|end|><|assistant|>",
        "encoded": made("hi <|end|>").input_ids,
        "offered": [],
        "loaded": [],
    }
    assert done.stderr.count("Tool calls and reasoning in the answers of made come as plain text") == 1
    assert "To have them told apart: pip install transformers" in done.stderr


def test_nothing_is_said_where_nothing_is_lost(folder, caplog, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers.utils.chat_parsing", None)
    with caplog.at_level(logging.WARNING):
        load_file_tokenizer(folder, name="made")
    assert caplog.records == []


# -- what cannot be read ------------------------------------------------------------------------------------


def test_a_folder_without_tokenizer_json_is_refused(tmp_path):
    with pytest.raises(CheckpointError) as refusal:
        load_file_tokenizer(tmp_path, name="org/model")
    assert str(refusal.value) == (
        f"org/model has no tokenizer.json (looked in {tmp_path}). Write one with a fast tokenizer: "
        "AutoTokenizer.from_pretrained(...).save_pretrained(folder)."
    )


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        ("tokenizer.json", "{", "EOF while parsing"),
        ("tokenizer_config.json", "{", "JSONDecodeError"),
        ("tokenizer_config.json", "[]", "tokenizer_config.json must be a JSON object, got list"),
        ("special_tokens_map.json", "3", "special_tokens_map.json must be a JSON object, got int"),
    ],
)
def test_files_that_cannot_be_read_are_refused(folder, file, content, reason):
    (folder / file).write_text(content)
    with pytest.raises(CheckpointError) as refusal:
        load_file_tokenizer(folder, name="org/model")
    assert str(refusal.value).startswith("The tokenizer of org/model cannot be read (")
    assert reason in str(refusal.value)
    assert "Save it again: AutoTokenizer.from_pretrained(...).save_pretrained(folder)." in str(refusal.value)


@pytest.mark.parametrize("package", ["tokenizers", "jinja2"])
def test_a_package_that_is_missing_is_named(folder, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingDependencyError) as refusal:
        load_file_tokenizer(folder, name="made")
    assert str(refusal.value) == (
        f"reading a tokenizer from its files needs {package}: pip install 'mlflow-llm-plugins[openvino]'"
    )


def test_a_jinja_whose_sandbox_leaks_is_refused(folder, tmp_path_factory, monkeypatch):
    site = tmp_path_factory.mktemp("site")
    (site / "jinja2-3.1.5.dist-info").mkdir()
    (site / "jinja2-3.1.5.dist-info" / "METADATA").write_text("Name: jinja2\nVersion: 3.1.5\n")
    monkeypatch.syspath_prepend(site)
    with pytest.raises(MissingDependencyError) as refusal:
        load_file_tokenizer(folder, name="made")
    assert str(refusal.value) == (
        "chat templates need jinja2 >= 3.1.6, installed is 3.1.5: pip install 'mlflow-llm-plugins[openvino]'"
    )


def test_a_setting_that_transformers_does_not_save_keeps_its_effect(tmp_path):
    made = llama(
        legacy=True
    )  # decides on a space behind special tokens; AutoTokenizer 5.23 reads the files without it
    made.save_pretrained(tmp_path)
    ours = load_file_tokenizer(tmp_path, name="made")
    assert ours("</s>the bath").input_ids == made("</s>the bath").input_ids != llama()("</s>the bath").input_ids


@pytest.mark.parametrize("kind", KINDS)
def test_files_that_are_saved_again_say_the_same(kind, tmp_path):
    KINDS[kind]().save_pretrained(tmp_path / "once")
    theirs, once = read_by_both(tmp_path / "once")
    theirs.save_pretrained(tmp_path / "twice")
    twice = load_file_tokenizer(tmp_path / "twice", name="made")
    assert twice(TEXT).input_ids == once(TEXT).input_ids
    assert twice.special_tokens_map == once.special_tokens_map
    assert twice.added_tokens_decoder == once.added_tokens_decoder
