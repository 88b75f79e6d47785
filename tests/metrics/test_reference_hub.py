"""Metrics of `evaluate`: local scripts, a Hub on this machine, and no Hub at all."""

from __future__ import annotations

import http.server
import math
import socket
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from mlflow_llm_plugins.errors import InvalidInputError, MissingDependencyError
from mlflow_llm_plugins.metrics.reference.hub_metric import evaluate_metric
from mlflow_llm_plugins.metrics.reference.hub_module import why_unreachable

SCRIPT = """
import datasets
import evaluate
from pathlib import Path
with Path({marker!r}).open("a") as marker:
    marker.write("run ")


class Metric(evaluate.Metric):
    def _info(self):
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description="", citation="", inputs_description="", features=datasets.Features({features})
        )

    def _compute(self, {arguments}, **options):
        {body}
"""
PAIR = '{"predictions": text, "references": text}'
OFFLINE = ("HF_HUB_OFFLINE", "HF_EVALUATE_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory; `evaluate` caches under it, and forgets the modules of other tests."""
    config = pytest.importorskip("evaluate").config
    cache = tmp_path.parent / f"{tmp_path.name}-cache"
    monkeypatch.setattr(config, "HF_MODULES_CACHE", cache / "modules")
    monkeypatch.setattr(config, "HF_METRICS_CACHE", cache / "metrics")
    monkeypatch.setattr(config, "DOWNLOADED_EVALUATE_PATH", cache / "downloads")
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in [name for name in sys.modules if name.partition(".")[0] == "evaluate_modules"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_script(path: Path, body: str, features: str = PAIR, arguments: str = "predictions, references") -> Path:
    """A script that marks each time it is run in the file `<path>.ran`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = SCRIPT.format(features=features, arguments=arguments, marker=f"{path}.ran",
                         body=textwrap.indent(textwrap.dedent(body).strip(), " " * 8).strip())  # fmt: skip
    path.write_text(text)
    return path


def runs(script: Path) -> int:
    marker = Path(f"{script}.ran")
    return len(marker.read_text().split()) if marker.exists() else 0


LENGTHS = 'return {"loss": 0.25, "lengths": [len(p) + options.get("more", 0) for p in predictions]}'


@pytest.mark.parametrize("spelling", ["./lengths", "./lengths/lengths.py", "lengths/lengths.py", "{folder}/lengths"])
def test_a_local_script_gives_row_scores_and_figures(folder, spelling):
    script = write_script(folder / "lengths" / "lengths.py", LENGTHS)
    metric = evaluate_metric(spelling.format(folder=folder), more=10)
    assert runs(script) == 0
    result = metric(["abc", "", "x"], ["y", "y", "y"])
    assert result.scores == [13, 10, 11]
    assert (metric.name, metric.main, metric.version) == ("lengths", "lengths", None)
    figures = {"mean": 34 / 3, "p90": np.percentile([13, 10, 11], 90), "count": 3, "loss": 0.25, "lengths": 34 / 3}
    assert result.aggregate_results == pytest.approx({**figures, "variance": np.var([13, 10, 11])})
    assert metric.metric_metadata["compute"] == {"more": 10}


def test_a_path_holds_when_the_working_directory_changes(folder, monkeypatch):
    write_script(folder / "lengths.py", LENGTHS)
    metric = evaluate_metric("lengths.py")
    (folder / "elsewhere").mkdir()
    monkeypatch.chdir(folder / "elsewhere")
    assert metric(["abc"], ["y"]).scores == [3]


def test_rows_without_prediction_or_target_are_left_out(folder):
    write_script(folder / "lengths.py", LENGTHS)
    result = evaluate_metric("./lengths.py")(["abc", None, "ab", "x"], ["y", "y", math.nan, "y"])
    assert [result.scores[0], result.scores[3]] == [3, 1]
    assert result.justifications == [None, "the prediction is missing", "the target is missing", None]
    assert result.aggregate_results["count"] == 2
    assert math.isnan(result.scores[1])
    nothing = evaluate_metric("./lengths.py")([None], ["y"])
    assert nothing.aggregate_results == {"count": 0}


def test_a_list_that_is_as_long_as_the_data_by_chance_is_no_score_of_rows(folder):
    body = 'return {"score": 7.5, "precisions": [1.0, 2.0, 3.0, 4.0], "other": float(len(predictions))}'
    write_script(folder / "chance.py", body)
    result = evaluate_metric("./chance.py")(list("abcd"), list("abcd"))
    assert all(map(math.isnan, result.scores))
    assert result.aggregate_results == {"score": 7.5, "other": 4, "chance": 7.5, "count": 4}
    assert set(result.justifications) == {"one figure for all rows"}


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_the_key_that_stands_for_the_metric_can_be_chosen(folder, rows):
    body = """
        ones = [1.0] * len(predictions)
        return {"recall": ones, "f1": [2 * one for one in ones], "all": np.float32(0.5)}
    """
    script = write_script(folder / "both.py", body)
    script.write_text("import numpy as np\n" + script.read_text())
    columns = (["a"] * rows, ["b"] * rows)
    assert evaluate_metric("./both.py")(*columns).aggregate_results["both"] == 1
    chosen = evaluate_metric("./both.py", main="f1")(*columns)
    assert chosen.scores == [2] * rows
    assert chosen.aggregate_results["both"] == 2
    assert chosen.columns == {"recall": [1] * rows}
    assert evaluate_metric("./both.py", main="all")(*columns).aggregate_results["both"] == 0.5
    with pytest.raises(InvalidInputError, match="main must be one of recall, f1, all, got 'f2'"):
        evaluate_metric("./both.py", main="f2")(*columns)


@pytest.mark.parametrize("rows", [1, 3])
def test_a_script_that_cannot_score_another_number_of_rows_is_believed(folder, rows):
    body = f"""
        if len(predictions) != {rows}:
            raise ValueError("as many as before, please")
        return {{"n": [float(len(p)) for p in predictions], "all": 2.0}}
    """
    write_script(folder / "picky.py", body)
    metric = evaluate_metric("./picky.py")
    for _ in range(2):  # and no row of the failed try is left in the script
        result = metric(["abc"] * rows, ["x"] * rows)
        assert result.scores == [3.0] * rows
        assert result.aggregate_results["all"] == 2.0


def test_cells_that_hold_no_text_where_the_script_asks_for_it_leave_the_other_rows_alone(folder):
    write_script(folder / "lengths.py", LENGTHS)
    result = evaluate_metric("./lengths.py")(["abc", 7, "ab", "x"], ["y", "y", 3.5, ["y", None]])
    assert result.justifications == [
        None,
        "the prediction is of type int, not text",
        "the target is of type float, not text",
        "the target is missing",
    ]
    assert result.aggregate_results["count"] == 1
    numbers = '{"predictions": datasets.Value("int32"), "references": datasets.Value("int32")}'
    write_script(
        folder / "same.py", 'return {"same": [float(p == r) for p, r in zip(predictions, references)]}', numbers
    )
    assert evaluate_metric("./same.py")([1, 2], [1, 1]).scores == [1.0, 0.0]


def test_a_metric_can_have_a_name_of_its_own(folder):
    write_script(folder / "lengths.py", LENGTHS)
    metric = evaluate_metric("./lengths.py", name="long", main="lengths", more=1)
    assert (metric.name, metric.main) == ("long", "long")
    figures = metric(["abc"], ["y"]).aggregate_results
    assert (figures["long"], "lengths" in figures) == (4, False)
    assert metric.metric_metadata["compute"] == {"more": 1}


@pytest.mark.parametrize(
    ("script", "given", "expected"),
    [
        ("meteor", None, True),
        ("evaluate-metric/wer", None, False),
        ("owner/secret-sauce", None, None),
        ("owner/secret-sauce", False, False),
        ("wer", True, True),
    ],
)
def test_the_better_direction_is_that_which_was_given_or_is_well_known(script, given, expected):
    assert evaluate_metric(script, greater_is_better=given).greater_is_better is expected


def test_targets_become_lists_where_the_script_asks_for_them_or_one_row_has_several(folder):
    lists = '{"predictions": text, "references": datasets.Sequence(text)}'
    body = 'return {"n": [len(r) if isinstance(r, list) else -1 for r in references]}'
    write_script(folder / "lists.py", body, features=lists)
    write_script(folder / "either.py", body, features=PAIR).write_text(
        (folder / "either.py").read_text().replace(f"datasets.Features({PAIR})",
                                                   f"[datasets.Features({PAIR}), datasets.Features({lists})]")
    )  # fmt: skip
    assert evaluate_metric("./lists.py")(["a", "b"], ["x", ["x", "y"]]).scores == [1, 2]
    either = evaluate_metric("./either.py")
    assert either(["a", "b"], ["x", "y"]).scores == [-1, -1]
    assert either(["a", "b"], ["x", np.array(["x", "y"], dtype=object)]).scores == [1, 2]


def test_scripts_of_predictions_alone_and_with_sources_are_given_what_they_take(folder):
    write_script(folder / "alone.py", 'return {"alone": [float(len(p)) for p in predictions]}',
                 '{"predictions": text}', "predictions")  # fmt: skip
    assert evaluate_metric("./alone.py")(["abc", "d"]).scores == [3, 1]
    three = '{"predictions": text, "references": text, "sources": text}'
    body = 'return {"x": [float(len(p + r + s)) for p, r, s in zip(predictions, references, sources)]}'
    write_script(folder / "three.py", body, three, "predictions, references, sources")
    metric = evaluate_metric("./three.py")
    assert metric(["a", "bb"], targets=["c", "d"], inputs=["eee", "f"]).scores == [5, 4]
    with pytest.raises(InvalidInputError, match=r"evaluate:three needs the column 'targets' and 'inputs'\."):
        metric(["a"])
    write_script(folder / "other.py", "return {}", '{"predictions": text, "labels": text}')
    with pytest.raises(InvalidInputError, match="evaluate:other takes labels; only metrics of predictions"):
        evaluate_metric("./other.py")(["a"], ["b"])


def test_a_script_that_can_never_be_used_is_refused_before_the_rows_are_answered(folder):
    write_script(folder / "other.py", "return {}", '{"predictions": text, "labels": text}')
    with pytest.raises(InvalidInputError, match="evaluate:other takes labels; only metrics of predictions"):
        evaluate_metric("./other.py").prepare(None)
    with pytest.raises(InvalidInputError, match="evaluate:met is a script on the Hugging Face Hub, and HF_HUB_OFFLIN"):
        evaluate_metric("met").prepare(None)
    script = write_script(folder / "lengths.py", LENGTHS)
    metric = evaluate_metric("./lengths.py")
    metric.prepare(None)
    assert metric(["abc"], ["y"]).scores == [3]
    assert runs(script) == 1


def test_a_failing_script_is_an_error_without_the_rows_text_and_the_next_evaluation_starts_clean(folder):
    body = """
        if "secret" in predictions:
            raise ValueError(predictions)
        return {"n": [1.0 for _ in predictions]}
    """
    write_script(folder / "fails.py", body)
    metric = evaluate_metric("./fails.py")
    with pytest.raises(InvalidInputError) as caught:
        metric(["secret"], ["x"])
    assert str(caught.value).startswith(
        "evaluate:fails failed on these rows: ValueError. Try it alone: evaluate.load("
    )
    assert "secret" not in str(caught.value)
    assert metric(["a", "b"], ["x", "y"]).scores == [1, 1]


@pytest.mark.parametrize(("answer", "error"), [("[1.0]", "TypeError"), ("{'a': 'text'}", "gave no number")])
def test_an_answer_that_is_no_figure_is_an_error(folder, answer, error):
    write_script(folder / "odd.py", f"return {answer}")
    with pytest.raises(InvalidInputError, match=error):
        evaluate_metric("./odd.py")(["a"], ["b"])


def test_a_score_of_a_row_that_is_not_finite_is_none_with_the_reason(folder):
    body = """
        values = {"n": float("nan"), "i": float("inf"), "m": -np.inf, "h": 10**400}
        ones = [values.get(p, 1.0) for p in predictions]
        return {"ones": ones, "others": ones[::-1], "total": float("nan"), "most": float("inf"), "sum": 2}
    """
    script = write_script(folder / "ones.py", body)
    script.write_text("import numpy as np\n" + script.read_text())
    result = evaluate_metric("./ones.py")(["n", None, "a", "i", "m", "h"], ["x"] * 6)
    assert result.scores == pytest.approx([math.nan, math.nan, 1, math.nan, math.nan, math.nan], nan_ok=True)
    reason = "the script gave no finite number"
    assert result.justifications == [reason, "the prediction is missing", None, *[reason] * 3]
    assert result.columns["others"] == pytest.approx([*[math.nan] * 4, 1, math.nan], nan_ok=True)
    figures = {"mean": 1, "variance": 0, "p90": 1, "count": 1, "sum": 2, "ones": 1}
    assert result.aggregate_results == figures


def test_a_figure_that_is_not_finite_is_left_out(folder):
    write_script(folder / "odd.py", 'return {"odd": float("inf"), "other": float("nan"), "n": 10**400, "sum": 2}')
    result = evaluate_metric("./odd.py")(["a"], ["b"])
    assert result.aggregate_results == {"sum": 2, "count": 1}
    assert result.justifications == ["one figure for all rows"]


@pytest.mark.parametrize("value", ["np.array(0.5)", "np.float32(0.5)", "np.array(0.5, dtype=object)"])
def test_an_array_without_a_dimension_is_a_figure(folder, value):
    script = write_script(folder / "half.py", f'return {{"half": {value}}}')
    script.write_text("import numpy as np\n" + script.read_text())
    result = evaluate_metric("./half.py")(["a", "b"], ["x", "y"])
    assert result.aggregate_results == {"half": 0.5, "count": 2}


@pytest.mark.parametrize("wrap", ["list", "np.array"])
def test_booleans_are_0_and_1(folder, wrap):
    body = f"""
        same = {wrap}([p == r for p, r in zip(predictions, references)])
        return {{"same": same, "all": bool(all(same))}}
    """
    script = write_script(folder / "same.py", body)
    script.write_text("import numpy as np\n" + script.read_text())
    result = evaluate_metric("./same.py")(["a", "b", "c"], ["a", "x", "c"])
    assert result.scores == [1, 0, 1]
    assert result.aggregate_results["all"] == 0


def test_a_script_that_imports_a_missing_package_names_it(folder):
    script = write_script(folder / "needy.py", LENGTHS)
    script.write_text("import no_such_package_anywhere\n" + script.read_text())
    with pytest.raises(MissingDependencyError, match="pip install no_such_package_anywhere"):
        evaluate_metric("./needy.py")(["a"], ["b"])


def test_a_metric_is_loaded_once_by_several_threads(folder):
    script = write_script(folder / "lengths.py", LENGTHS)
    metric = evaluate_metric("./lengths.py")
    rows = [["x" * length] * 3 for length in range(12)]
    with ThreadPoolExecutor(6) as pool:
        results = list(pool.map(lambda predictions: metric(predictions, ["y"] * 3).scores, rows))
    assert results == [[length] * 3 for length in range(12)]
    assert runs(script) == 1


@pytest.mark.parametrize("name", ["./nope.py", "nope.py", "a b", "", "/no/where", "../x", "a/b/c", None, 3])
def test_what_is_neither_a_script_nor_a_name_is_refused(folder, name):
    with pytest.raises(InvalidInputError) as caught:
        evaluate_metric(name)
    assert str(caught.value) == (
        f"evaluate:{name}: there is no such script. Give the path of one, as in 'evaluate:./dir/met.py', or the name "
        "of a metric on the Hugging Face Hub, as in 'evaluate:meteor'."
    )


def test_names_are_made_of_the_characters_that_mlflow_allows(folder):
    write_script(folder / "my (own) metric.py", LENGTHS)
    assert evaluate_metric("./my (own) metric.py").name == "my__own__metric"
    assert evaluate_metric("owner/met-1").name == "met-1"


# Names on the Hub


def test_a_name_never_runs_a_script_of_the_working_directory_and_says_that_the_hub_is_needed(folder, monkeypatch):
    script = write_script(folder / "rouge" / "rouge.py", LENGTHS)
    twin = write_script(folder / "evaluate-metric" / "rouge" / "rouge.py", LENGTHS)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(InvalidInputError) as caught:
        evaluate_metric("rouge")(["a"], ["b"])
    assert str(caught.value) == (
        "evaluate:rouge is a script on the Hugging Face Hub, and HF_HUB_OFFLINE is set. Run it once where the Hub can "
        "be reached, or give the path of a local script: 'evaluate:./dir/met.py'."
    )
    assert runs(script) == runs(twin) == 0


class Hub(http.server.BaseHTTPRequestHandler):
    """Serves one script for every path that ends in its name."""

    scripts: dict[str, bytes]  # file name -> text

    def do_HEAD(self) -> None:
        text = self.scripts.get(self.path.rpartition("/")[2])
        found = text is not None or self.path == "/"
        self.send_response(200 if found else 404)
        self.send_header("Content-Length", str(len(text or b"")))
        self.end_headers()

    def do_GET(self) -> None:
        self.do_HEAD()
        self.wfile.write(self.scripts.get(self.path.rpartition("/")[2], b""))

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, bytes]]:
    """The scripts of a Hub on this machine, to add to."""
    import evaluate

    scripts: dict[str, bytes] = {}
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Hub,), {"scripts": scripts}))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}"
    for name in OFFLINE:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(evaluate.config, "HF_ENDPOINT", address)
    monkeypatch.setattr(evaluate.config, "HUB_EVALUATE_URL", address + "/spaces/{path}/resolve/{revision}/{name}")
    monkeypatch.setattr(evaluate.config, "HF_UPDATE_DOWNLOAD_COUNTS", False)
    yield scripts
    server.shutdown()
    thread.join(10)
    server.server_close()


def test_a_name_is_loaded_from_the_hub_beside_a_script_of_that_name_and_later_from_the_cache(hub, folder, monkeypatch):
    mine = write_script(folder / "fancy" / "fancy.py", 'return {"fancy": -1.0}')
    theirs = write_script(folder / "served", 'return {"fancy": 4.5}')
    hub["fancy.py"] = theirs.read_bytes()
    metric = evaluate_metric("fancy")
    assert metric(["a"], ["b"]).aggregate_results["fancy"] == 4.5
    assert metric.metric_metadata["source"] == "evaluate-metric/fancy"
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert evaluate_metric("fancy")(["a"], ["b"]).aggregate_results["fancy"] == 4.5
    assert runs(mine) == 0


def test_a_script_that_would_be_run_instead_of_the_hubs_is_refused(hub, folder):
    twin = write_script(folder / "evaluate-metric" / "fancy" / "fancy.py", LENGTHS)
    with pytest.raises(InvalidInputError, match="instead of 'evaluate-metric/fancy' on the Hub"):
        evaluate_metric("fancy")(["a"], ["b"])
    assert runs(twin) == 0


def test_a_name_that_the_hub_does_not_have_is_an_error(hub, folder):
    with pytest.raises(InvalidInputError, match=r"evaluate:meteoor cannot be loaded: FileNotFoundError\. It may not"):
        evaluate_metric("meteoor")(["a"], ["b"])


def test_a_hub_that_refuses_or_never_answers_is_told_apart_in_time(monkeypatch):
    for name in OFFLINE:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        start = time.monotonic()
        reason = why_unreachable(address, 0.2)
        assert time.monotonic() - start < 5
    # whichever of the two limits of 0.2 s is noticed first
    assert reason in (f"{address} did not answer within 0.2 s", f"{address} cannot be reached (ReadTimeout)")
    assert why_unreachable(address) == f"{address} cannot be reached (ConnectionError)"


@pytest.mark.parametrize("variable", OFFLINE)
def test_no_network_is_touched_where_a_variable_switches_it_off(monkeypatch, variable):
    for name in OFFLINE:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, "true")
    assert why_unreachable("http://nowhere.invalid") == f"{variable} is set"
