"""Texts in another language than they should be in: refused where that is clear, and never where it is not."""

from __future__ import annotations

import ast
import inspect
import json
import math
import pydoc_data.topics
import random
import textwrap

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_llm_plugins.metrics import readability
from mlflow_llm_plugins.metrics.readability import ari_grade_level, flesch_reading_ease, word_count
from mlflow_llm_plugins.metrics.readability.formulas import FORMULAS
from mlflow_llm_plugins.metrics.readability.function_words import other_language

OTHERS = {
    "French": "Les enfants sont dans le jardin et ils jouent avec une balle que leur mère a trouvée. Il ne fait pas "
    "très chaud, mais le soleil est là pour toute la journée.",
    "German": "Die Kinder sind im Garten und spielen mit einem Ball, den ihre Mutter gefunden hat. Es ist nicht sehr "
    "warm, aber die Sonne scheint auch heute für sie.",
    "Spanish": "Los niños están en el jardín y juegan con una pelota que su madre encontró. No hace mucho calor, pero "
    "el sol está con ellos por todo el día.",
    "Italian": "I bambini sono nel giardino e giocano con una palla che la madre ha trovato. Non fa molto caldo, ma "
    "il sole è alto per tutta la giornata.",
    "Portuguese": "As crianças estão no jardim e brincam com uma bola que a mãe encontrou. Não faz muito calor, mas o "
    "sol está alto e é para todos, como foi ontem.",
    "Dutch": "De kinderen zijn in de tuin en spelen met een bal die hun moeder heeft gevonden. Het is niet erg warm, "
    "maar de zon schijnt ook voor hen.",
    "Polish": "Dzieci są w ogrodzie i bawią się piłką, którą znalazła ich matka. Nie jest bardzo ciepło, ale słońce "
    "świeci na nie przez cały dzień, jak to może być tylko od maja.",
    "Swedish": "Barnen är i trädgården och leker med en boll som deras mamma har hittat. Det är inte så varmt, men "
    "solen skiner på dem och det är för alla.",
    "Danish": "Børnene er i haven og leger med en bold, som deres mor har fundet. Det er ikke særlig varmt, men solen "
    "skinner på dem og det er også for alle.",
    "Hungarian": "A gyerekek a kertben vannak, és egy labdával játszanak, amit az anyjuk talált. Nem nagyon meleg "
    "az idő, de ez a nap már egész délután süt rájuk, és úgy hírlik, hogy holnap még szebb lehet.",
    "Indonesian": "Anak itu ada di kebun dan bermain dengan bola yang ditemukan oleh ibunya. Hari ini tidak terlalu "
    "panas, tetapi matahari bersinar untuk mereka dan akan juga besok.",
}
ENGLISH = {
    "names": "Los Angeles, Las Vegas, El Paso, La Jolla, Del Mar, San Juan de los Lagos, Santa Maria de la Cruz, Los "
    "Alamos, La Mesa, Las Cruces, El Cajon, Des Moines, Le Mars, Baton Rouge",
    "authors": "Vincent van Gogh; Ludwig van Beethoven; Charles de Gaulle; Simone de Beauvoir; Leonardo da Vinci; "
    "Otto von Bismarck; Miguel de Cervantes; Honore de Balzac",
    "writers": "Miguel de Cervantes, Juana Inés de la Cruz, Bartolomé de las Casas, Garcilaso de la Vega, Ponce de "
    "León, Calderón de la Barca, José del Valle.",
    "a tale of people": "Juan de la Cruz met Maria del Carmen on Monday. Pedro de los Santos and Ana de la Torre "
    "joined. All spoke Spanish.",
    "explorers": "Vasco da Gama, Luís de Camões, João dos Santos, Maria das Dores, Afonso de Albuquerque, Pedro "
    "da Silva",
    "nobles": "Otto von Bismarck und Wilhelm zu Wied, Ursula von der Leyen und Graf von dem Bussche, "
    "Freiherr auf der Hofreit",
    "a word list": "apple banana cherry date elderberry fig grape honeydew kiwi lemon mango nectarine orange papaya",
    "a translation": "The sentence 'les enfants sont dans le jardin et ils jouent' says that they play with a ball.",
    "addresses": "m-ou.se@m-ou.se www.de-los.com/el/la/que/des/les/une/est.html git.das-und.de/der/ist/mit.git",
    "code": "for el in das.des(un, les, la): del el.que; el.der = il.una(per, con) or que.les[una] + des.sur",
}


@pytest.mark.parametrize("language", OTHERS)
def test_a_text_in_another_language_of_the_script_has_no_grade_but_is_counted(language):
    result = ari_grade_level()([OTHERS[language], "A text in English."])
    assert math.isnan(result.scores[0])
    assert result.justifications == [f"the prediction looks like {language}, but lang='en'", None]
    assert word_count()([OTHERS[language]]).scores == [len(OTHERS[language].split())]


def test_another_language_than_english_is_asked_for_and_english_comes():
    english = "The children are in the garden, and they play with a ball that their mother has found for them."
    result = flesch_reading_ease("de_AT")([english, OTHERS["German"]])
    assert result.justifications == ["the prediction looks like English, but lang='de_AT'", None]
    assert other_language(english, "fi") is None  # nothing is known of Finnish


LANGUAGES = sorted({language for row in FORMULAS.values() if not row.is_count for language in row.languages} - {"en"})


@pytest.mark.parametrize("language", LANGUAGES)
def test_english_has_no_score_by_a_formula_of_any_other_language(language):
    english = "The children are in the garden, and they play with a ball that their mother has found for them."
    metric = next(name for name, row in FORMULAS.items() if not row.is_count and language in row.languages)
    assert math.isnan(getattr(readability, metric)(language)([english]).scores[0])


@pytest.mark.parametrize("what", ENGLISH)
def test_names_lists_quotations_and_code_are_not_taken_for_another_language(what):
    assert other_language(ENGLISH[what], "en") is None


def test_a_text_that_is_too_short_or_too_mixed_is_not_judged():
    assert other_language("Les enfants sont dans le jardin et ils jouent.", "en") is None
    assert other_language(f"{OTHERS['French']} That is what they have written, and it is for you.", "en") is None


@pytest.fixture(scope="module")
def lines(held_out):
    """Lines of English prose, of manuals with grammars and tables in them, and of code."""
    code = [inspect.getsource(module) for module in (ast, inspect, json, random, textwrap)]
    return [line for text in (*held_out, *pydoc_data.topics.topics.values(), *code) for line in text.split("\n")]


@given(start=st.integers(min_value=0), number=st.integers(1, 60))
def test_no_part_of_english_texts_manuals_and_code_is_refused(lines, start, number):
    start %= len(lines)
    assert other_language("\n".join(lines[start : start + number]), "en") is None


@given(st.lists(st.sampled_from([*OTHERS, "x"]), min_size=1, max_size=4), st.text())
def test_any_mixture_is_judged_without_an_error(languages, text):
    mixture = text.join(OTHERS.get(language, language) for language in languages)
    assert other_language(mixture, "en") in (None, *OTHERS)
