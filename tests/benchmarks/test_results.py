"""RESULTS.md has what the files say, ratios first, and nothing else."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest

from benchmarks.figures import Result, Row, plot, rows_of, table_of
from benchmarks.report import Origin, save
from benchmarks.results import document, write
from benchmarks.sections import SECTIONS

ORIGIN = Origin("2 x a CPU, 16 GiB", "python 3.11", "2026-01-02", "python -m benchmarks.loading --models 40m")
RESULTS = {
    ("served", "transformers"): [Result({"ready [s]": seconds}) for seconds in (6.0, 9.0, 8.0)],
    ("served", "openvino"): [Result({"ready [s]": 2.0}), Result({"ready [s]": 4.0})],
    ("served", "other"): [Result(failure="no memory")],
}


def rows(results=RESULTS, baseline: str = "transformers") -> list[Row]:
    return list(rows_of("40m", results, lambda _: baseline, ORIGIN))


def section_of(text: str, title: str) -> str:
    return text.split(f"## {title}\n", 1)[1].split("\n## ", 1)[0]


def test_rows_are_medians_and_say_how_many_times_better_than_the_baseline():
    transformers, openvino, other = rows()
    assert (transformers.value, transformers.lowest, transformers.highest, transformers.runs) == (8.0, 6.0, 9.0, 3)
    assert (transformers.times_baseline, openvino.times_baseline) == (1.0, 2.667)
    assert (other.value, other.runs, other.failure) == (None, 0, "no memory")


def test_more_tokens_a_second_are_better_and_what_is_a_ratio_has_none():
    results = {
        ("", "float32"): [Result({"tokens/s, 1 rows": 10.0, "top-1 agreement": 1.0})],
        ("", "int8"): [Result({"tokens/s, 1 rows": 30.0, "top-1 agreement": 0.5})],
    }
    *_, speed, agreement = rows(results, "float32")
    assert (speed.times_baseline, agreement.times_baseline, agreement.value) == (3.0, None, 0.5)


def test_table_and_plot_have_what_was_measured_and_what_failed(tmp_path):
    table = table_of(rows(), "Loading", "a note")
    cells = [list(column.cells) for column in table.columns]
    assert cells[2] == ["transformers", "openvino", "other"]
    assert cells[-1] == ["6 to 9", "2 to 4", "no memory"]
    assert plot(rows(), "Loading", tmp_path / "loading.png").read_bytes().startswith(b"\x89PNG")


def test_document_has_the_command_the_machine_and_ratios_before_figures(tmp_path):
    save(rows(), tmp_path / "loading_40m.csv")
    text = document(tmp_path)
    own = section_of(text, "Loading")
    assert f"`{ORIGIN.command}`" in own
    assert "2026-01-02; 2 x a CPU, 16 GiB; python 3.11" in own
    header = next(line for line in own.splitlines() if line.startswith("| load"))
    assert header == "| load | contender | times, ready [s] | ready [s] |"
    assert "| served | openvino | 2.67 | 3 |" in own
    assert "- other: no memory" in own
    assert "2 x a CPU, 16 GiB; 2026-01-02" in text.partition("##")[0]


def test_document_names_what_was_not_run(tmp_path):
    save(rows(), tmp_path / "loading_40m.csv")
    missing = section_of(document(tmp_path), "Not run")
    assert "- Logging a model: `benchmarks.log_model`" in missing
    assert "benchmarks.loading" not in missing
    assert missing.count("\n- ") == len(SECTIONS) - 1


def test_same_files_give_the_same_document_and_none_gives_one_without_tables(tmp_path):
    folder = tmp_path / "results"
    folder.mkdir()
    assert "|" not in document(folder)
    save(rows(), folder / "loading_40m.csv")
    first = write(folder, tmp_path / "RESULTS.md").read_text(encoding="utf-8")
    assert write(folder, tmp_path / "again.md").read_text(encoding="utf-8") == first == document(folder)


def test_headings_name_the_baseline_of_the_file(tmp_path):
    [section] = [section for section in SECTIONS if section.name == "serve"]
    columns = [*section.keys, *section.ratios, *section.figures]
    row = {**dict.fromkeys(columns, "2"), "failure": "", "baseline": "genai-int8", **asdict(ORIGIN)}
    text = ",".join(row) + "\n" + ",".join(f'"{value}"' for value in row.values()) + "\n"
    (tmp_path / "serve_40m.csv").write_text(text, encoding="utf-8")
    assert "tokens/s, genai-int8 x" in document(tmp_path)


def test_figures_of_a_contender_are_side_by_side_and_one_that_it_lacks_is_empty(tmp_path):
    results = {
        ("", "float32"): [Result({"perplexity ratio": 1.0, "tokens/s, 1 rows": 10.0})],
        ("", "int8"): [Result({"tokens/s, 1 rows": 30.0})],
    }
    save(rows(results, "float32"), tmp_path / "quality_tiny_llm.csv")
    lines = document(tmp_path).splitlines()
    first = lines.index("| contender | times, tokens/s, 1 rows | perplexity ratio | tokens/s, 1 rows |")
    assert lines[first + 2 : first + 4] == ["| float32 | 1 | 1 | 10 |", "| int8 | 3 |  | 30 |"]


@pytest.mark.parametrize("cell", ["a | b", "1 x 100"])
def test_text_stays_in_its_cell(tmp_path, cell):
    save(rows({(cell, "ours"): [Result({"ready [s]": 1.0})]}), tmp_path / "loading_40m.csv")
    line = next(line for line in document(tmp_path).splitlines() if "ours" in line)
    assert line == f"| {cell} | ours | 1 |".replace("a |", "a \\|")


def test_metrics_of_a_file_are_named_after_load_figure_and_contender():
    [section] = [section for section in SECTIONS if section.name == "loading"]
    found = section.metrics([{key: str(value) for key, value in asdict(row).items()} for row in rows()])
    assert found["served/ready [s]/openvino/value"] == 3.0
    assert found["served/ready [s]/openvino/times_baseline"] == 2.667
    assert not [name for name in found if "other" in name]


def test_every_file_is_of_one_section():
    names = ["serve_40m", "prefix_40m", "engine_decode_40m_cpu", "quality_tiny_llm", "loading_300m", "relay"]
    for name in [*names, "evaluation_judge_40m", "import_cost", "log_model", "out_of_memory_1b_cuda"]:
        assert sum(Path(f"{name}.csv").match(section.files) for section in SECTIONS) == 1, name
