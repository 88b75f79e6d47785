"""Readability metrics: textstat's own values, and a reason where a text has none."""

from __future__ import annotations

import importlib.metadata
import lzma
import math
import sys
import threading
import warnings
from importlib.resources import files

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_llm_plugins.errors import InvalidInputError, MissingDependencyError
from mlflow_llm_plugins.metrics import readability
from mlflow_llm_plugins.metrics.readability import (
    ari_grade_level,
    dale_chall,
    flesch_reading_ease,
    gunning_fog,
    sentence_count,
    word_count,
)
from mlflow_llm_plugins.metrics.readability.formulas import FORMULAS

# Written out, so that a wrong row of the table shows.
TEXTSTAT = {
    "ari_grade_level": "automated_readability_index",
    "flesch_kincaid_grade_level": "flesch_kincaid_grade",
    "flesch_reading_ease": "flesch_reading_ease",
    "gunning_fog": "gunning_fog",
    "smog_index": "smog_index",
    "coleman_liau_index": "coleman_liau_index",
    "dale_chall": "dale_chall_readability_score",
    "linsear_write": "linsear_write_formula",
    "word_count": "lexicon_count",
    "sentence_count": "sentence_count",
}
NAMES = sorted(TEXTSTAT)
GRADES = sorted(set(NAMES) - {"word_count", "sentence_count"})
TWO_SENTENCES = "The committee considered several alternatives. It finally rejected them all after a long debate."
OTHER_SCRIPTS = {
    "Chinese": "今天天气很好。我们去公园散步，然后回家吃饭。",
    "Arabic": "ذهب الولد إلى المدرسة. ثم عاد إلى البيت.",
    "Hebrew": "הילד הלך לבית הספר. אחר כך הוא חזר הביתה.",
    "Cyrillic": "Мальчик пошёл в школу. Потом он вернулся домой.",
    "Devanagari": "लड़का स्कूल गया। फिर वह घर लौट आया।",
}


@pytest.fixture(scope="module")
def textstat(tmp_path_factory):
    """textstat itself, reading the same dictionary, under a name of English that the metrics do not use."""
    import nltk
    import textstat

    packed = files("mlflow_llm_plugins.metrics.readability") / "data" / "cmudict.xz"
    root = tmp_path_factory.mktemp("nltk").resolve()
    folder = root / "corpora" / "cmudict"
    folder.mkdir(parents=True)
    (folder / "cmudict").write_bytes(lzma.decompress(packed.read_bytes()))
    for path in (root, folder.parent, folder, folder / "cmudict"):
        path.chmod(0o700)  # or NLTK does not see it
    nltk.data.path.insert(0, str(root))
    yield textstat.textstat
    nltk.data.path.remove(str(root))


@pytest.mark.parametrize("name", NAMES)
def test_values_are_those_of_textstat(name, textstat, held_out):
    scores = getattr(readability, name)()(held_out).scores
    assert scores == [getattr(textstat, TEXTSTAT[name])(text) for text in held_out]
    assert len(set(scores)) > 3


def test_threads_get_the_same_values(held_out):
    metric, results = readability.smog_index("en_GB"), []  # not loaded by the tests before
    threads = [threading.Thread(target=lambda: results.append(metric(held_out).scores)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert results == [metric(held_out).scores] * 4


def test_english_is_that_of_textstat_also_for_words_that_the_dictionary_lacks(textstat):
    """Hyphenation gives "nonreal" three syllables in American English, and two in British."""
    text = "Nonreal things and areas ended."
    american, british = flesch_reading_ease()([text]).scores[0], flesch_reading_ease("en_GB")([text]).scores[0]
    assert american == textstat.flesch_reading_ease(text)
    assert british - american == pytest.approx(84.6 / 5)


def test_syllables_come_from_the_dictionary():
    """Against the formula itself; "chrysanthemum" has 4 syllables, and 3 by hyphenation."""
    syllables = 4 + 2 + 2 + 2
    scores = flesch_reading_ease()(["Chrysanthemum area again today."]).scores
    assert scores == [pytest.approx(206.835 - 1.015 * 4 - 84.6 * (syllables + 1) / 4)]


@pytest.mark.parametrize("name", NAMES)
def test_names_versions_and_directions_are_those_of_results(name):
    metric = getattr(readability, name)()
    assert (metric.name, metric.version) == (name, "v1")
    assert metric.greater_is_better is {"flesch_reading_ease": True, "word_count": None, "sentence_count": None}.get(
        name, False
    )
    assert FORMULAS[name].method in metric.metric_details


def test_names_agree_with_stock_mlflow():
    import mlflow.metrics

    for name in ("ari_grade_level", "flesch_kincaid_grade_level"):
        stock, ours = getattr(mlflow.metrics, name)(), getattr(readability, name)()
        assert (ours.name, ours.version, ours.greater_is_better) == (
            stock.name,
            stock.version,
            stock.greater_is_better,
        )


def test_what_a_value_depends_on_is_recorded():
    installed = {"textstat": importlib.metadata.version("textstat"), "pyphen": importlib.metadata.version("pyphen")}
    assert dale_chall(strip_code=True).metric_metadata == {
        **installed,
        "dictionary": "cmudict 1.1.3",
        "lang": "en",
        "strip_code": True,
    }
    assert flesch_reading_ease("de-at").metric_metadata == {**installed, "lang": "de_AT", "strip_code": False}
    assert ari_grade_level().metric_metadata == {"textstat": installed["textstat"], "lang": "en", "strip_code": False}


@pytest.mark.parametrize("name", GRADES)
@pytest.mark.parametrize("text", ["", " \n\t", "🎉🎉 🚀", "?! ... --", "12 + 30 = 42"])
def test_a_text_without_letters_has_no_grade(name, text):
    result = getattr(readability, name)()([text, TWO_SENTENCES])
    assert math.isnan(result.scores[0])
    assert result.justifications == ["the prediction has no letters", None]
    assert result.aggregate_results["count"] == 1


@pytest.mark.parametrize(
    ("text", "words", "sentences"), [("", 0, 0), (" \n", 0, 0), ("🎉 ?!", 0, 0), ("12 30 42.", 3, 1)]
)
def test_a_text_without_letters_is_counted(text, words, sentences):
    assert word_count()([text]).scores == [words]
    assert sentence_count()([text]).scores == [sentences]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("script", sorted(OTHER_SCRIPTS))
def test_a_text_in_a_script_that_the_language_does_not_use_has_no_score(name, script):
    result = getattr(readability, name)()([OTHER_SCRIPTS[script]])
    assert math.isnan(result.scores[0])
    assert result.justifications == [
        "only 0% of the prediction's letters are in Latin script, in which lang='en' is written; most others are in "
        f"{script} script",
    ]
    assert "mean" not in result.aggregate_results


def test_half_of_the_letters_decide_about_a_mixed_text():
    below, half = "abc абвг", "abcd абвг"
    result = ari_grade_level()([below, half, f"{TWO_SENTENCES} {OTHER_SCRIPTS['Chinese']}", "abcd абв 天气天"])
    assert [math.isnan(score) for score in result.scores] == [True, False, False, True]
    reasons = ["only 42% of the prediction's letters are in Latin script", "most others are in Cyrillic script"]
    assert all(reason in result.justifications[0] for reason in reasons)
    assert result.justifications[3] == (  # Latin is the most frequent script there
        "only 40% of the prediction's letters are in Latin script, in which lang='en' is written; most others are in "
        "Cyrillic script"
    )


def test_letters_of_another_form_count_as_the_plain_ones_and_odd_ones_as_another_script():
    wide, mathematical, ligatures = "Ｗｅ ｃａｍｅ ｈｏｍｅ", "𝐖𝐞 𝐜𝐚𝐦𝐞 𝐡𝐨𝐦𝐞", "ﬁ ﬂ ª º"
    assert not any(map(math.isnan, ari_grade_level()([wide, mathematical, ligatures]).scores))
    result = ari_grade_level()(["ᐃᓄᒃᑎᑐᑦ", "々々"])
    for reason, script in zip(result.justifications, ["another", "Chinese"], strict=True):
        assert reason.endswith(f"most others are in {script} script")


def test_accents_and_signs_of_mathematics_leave_a_text_english(textstat):
    texts = ["The naïve café owner résuméd.", "Cafe\u0301 owners agree.", "Let α + β = γ hold for every number."]
    assert word_count()(texts).scores == [textstat.lexicon_count(text) for text in texts]


@pytest.mark.parametrize("lang", ["de", "es", "fr", "hu", "it", "nl", "ru"])
def test_a_language_has_its_own_constants_and_hyphenation(lang, textstat):
    text = OTHER_SCRIPTS["Cyrillic"] if lang == "ru" else "Der Junge ging in die Schule. Danach kam er nach Hause."
    own = type(textstat)()
    own.set_lang(lang)
    assert flesch_reading_ease(lang)([text]).scores == [own.flesch_reading_ease(text)]
    assert own.flesch_reading_ease(text) != textstat.flesch_reading_ease(text)


def test_long_words_have_four_syllables_in_polish_and_nothing_is_warned_of():
    text = "Odpowiedzialność społeczna jest bardzo potrzebna."  # 6, 3, 1, 2 and 3 syllables
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert gunning_fog("pl")([text]).scores == [pytest.approx(0.4 * (5 + 100 * 1 / 5))]
    assert "easy English words" in gunning_fog("pl").metric_details


def test_languages_are_those_that_textstat_has_constants_for():
    from textstat.backend.utils.constants import LANG_CONFIGS

    assert set(FORMULAS["flesch_reading_ease"].languages) == {k for k, v in LANG_CONFIGS.items() if "fre_base" in v}
    assert set(FORMULAS["gunning_fog"].languages) == {k for k, v in LANG_CONFIGS.items() if "syllable_threshold" in v}


def test_languages_do_not_disturb_one_another(textstat):
    german, english = flesch_reading_ease("de"), flesch_reading_ease("en_US")
    expected = textstat.flesch_reading_ease(TWO_SENTENCES)
    german([TWO_SENTENCES])
    assert english([TWO_SENTENCES]).scores == [expected]
    assert textstat.flesch_reading_ease(TWO_SENTENCES) == expected


@pytest.mark.parametrize("name", GRADES)
@pytest.mark.parametrize("lang", ["xx", "zh", "english", "en_", "en_GB_x", "", None, 7])
def test_an_unknown_language_is_refused_with_the_known_ones(name, lang):
    with pytest.raises(InvalidInputError) as raised:
        getattr(readability, name)(lang=lang)
    known = ", ".join(FORMULAS[name].languages)
    assert str(raised.value).startswith(f"{name}(lang={lang!r}): this metric knows the languages {known}; a region")


def test_a_formula_refuses_a_language_that_only_others_know():
    with pytest.raises(InvalidInputError, match=r"^ari_grade_level\(lang='de'\): this metric knows the languages en;"):
        ari_grade_level("de")


def test_languages_of_counts_include_all_that_a_formula_knows():
    for formula in FORMULAS.values():
        assert set(formula.languages) <= set(FORMULAS["word_count"].languages)
    assert word_count("uk")([OTHER_SCRIPTS["Cyrillic"]]).scores == [8]


def test_code_is_left_out_when_asked():
    text = "Call `len(x)` on it.\n```python\nfor item in very_long_collection: pass\n```\nIt gives a number."
    assert word_count(strip_code=True)([text]).scores == [7]
    assert word_count()([text]).scores == [14]


def test_a_text_that_is_only_code_has_no_grade():
    result = ari_grade_level(strip_code=True)(["```\nprint('hello')\n```", "`x = 1`"])
    assert result.justifications == ["the prediction has no letters outside its code"] * 2
    assert word_count(strip_code=True)(["`x = 1`"]).scores == [0]


@pytest.mark.parametrize("name", NAMES)
def test_cells_that_are_no_text_have_a_reason(name):
    cells = [None, math.nan, 3, b"bytes", ["list"], pd.NA, TWO_SENTENCES]
    for column in (cells, np.array(cells, dtype=object), pd.Series(cells, index=range(10, 17), dtype=object)):
        result = getattr(readability, name)()(column)
        assert result.justifications == [
            "the prediction is missing",
            "the prediction is missing",
            "the prediction is of type int, not text",
            "the prediction is of type bytes, not text",
            "the prediction is of type list, not text",
            "the prediction is missing",
            None,
        ]
        assert [math.isfinite(score) for score in result.scores] == [False] * 6 + [True]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("text", ["a" * 100_000, "word " * 20_000, "a.!?" * 25_000, "a`" * 50_000])
def test_huge_texts_have_a_score(name, text):
    assert math.isfinite(getattr(readability, name)(strip_code=True)([text]).scores[0])


@given(texts=st.lists(st.text(), max_size=3), name=st.sampled_from(NAMES), strip_code=st.booleans())
def test_any_text_has_a_score_or_a_known_reason(texts, name, strip_code):
    result = getattr(readability, name)(strip_code=strip_code)(texts)
    reasons = result.justifications or [None] * len(texts)
    for score, reason in zip(result.scores, reasons, strict=True):
        assert (
            math.isfinite(score)
            if reason is None
            else reason.startswith(("only ", "the prediction has no letters", "the prediction looks like"))
        )


@pytest.mark.parametrize("missing", ["textstat", "nltk"])
def test_a_missing_package_is_named_with_the_command_that_installs_it(missing, monkeypatch):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(MissingDependencyError) as raised:
        readability.smog_index()(["A text."])
    assert missing in str(raised.value)
    assert "pip install 'mlflow-llm-plugins[evaluation]'" in str(raised.value)


def test_a_metric_is_not_made_without_textstat(monkeypatch):
    monkeypatch.setitem(sys.modules, "textstat", None)
    monkeypatch.setattr(importlib.metadata.Distribution, "discover", lambda **_: iter(()))
    with pytest.raises(
        MissingDependencyError, match=r"needs textstat: pip install 'mlflow-llm-plugins\[evaluation\]'"
    ):
        ari_grade_level()


def test_stock_evaluation_takes_the_metrics(tracking, held_out):
    import mlflow

    data = pd.DataFrame({"answer": [*held_out[:3], "", OTHER_SCRIPTS["Chinese"]]})
    result = mlflow.models.evaluate(
        data=data, predictions="answer", evaluators="default", extra_metrics=[getattr(readability, n)() for n in NAMES]
    )
    table = result.tables["eval_results_table"]
    for name in NAMES:
        expected = getattr(readability, name)()(data["answer"])
        assert result.metrics[f"{name}/v1/mean"] == pytest.approx(expected.aggregate_results["mean"])
        assert table[f"{name}/v1/score"].tolist() == pytest.approx(expected.scores, nan_ok=True)
    assert result.metrics["ari_grade_level/v1/count"] == 3
