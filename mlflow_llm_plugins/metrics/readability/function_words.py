"""Whether a text is in another language of the same script, told by the little words that hold sentences together.

Made to err on one side: a text that it does not recognise is scored; one that is in the right language, or that is
code, a list or names, must never be refused.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from types import MappingProxyType

_FEWEST_WORDS = 12
_FEWEST_DIFFERENT = 4  # names, as of cities, repeat the same few
_LARGEST_OWN_SHARE = 0.05
_SMALLEST_OTHER_SHARE = 0.15
_WORD = re.compile(r"""(?<![^\s("'’«„“])[^\W\d_]+(?![^\s)"'’»“”.,;:!?])""")  # no part of an address or of code
# Of names, whatever language is written: "de la" in "Juan de la Cruz".
_PARTICLES = frozenset(("de", "del", "della", "dei", "di", "da", "das", "dos", "do", "du", "des", "van", "von", "zu"))
_ARTICLES = frozenset(("la", "las", "los", "le", "les", "den", "der", "dem", "het"))

# Language -> its most frequent words; without single letters, and but for English itself without English words, as
# Dutch "is", and without what is common in code, as "do".
_WORDS: Mapping[str, tuple[str, frozenset[str]]] = MappingProxyType(
    {
        code: (name, frozenset(words.split()))
        for code, name, words in (
            ("en", "English",
                "the of and to for with by from this its their these or into about our your that it be are not "
                "you we they which have has can if but when would there what how will who were than she could "
                "should because"),
            ("fr", "French",
                "le la les de des du un une et en dans pour sur avec ce cette aux au par ses son leur est que qui "
                "pas sont il elle nous vous mais ne se être ont comme je ils puis alors aussi où peut cela voici "
                "donc très était été"),
            ("de", "German",
                "der das und ein eine einen einer dem den des mit auf für von zu im ihr oder bei nach aus zum zur "
                "über ist nicht sich auch es wird sind sie ich wir er als wenn werden hier alles wie nur kann "
                "aber mir noch dass weil haben dann sehr"),
            ("es", "Spanish",
                "el la los las de del en un una por con para su sus al este esta son que es se lo como más pero "
                "está ser muy también cuando si ya fue porque puede tiene te nos yo aquí eso"),
            ("it", "Italian",
                "il lo la gli le di un una per con della dei delle del nel nella alla al da questo questa come "
                "che non sono è si più anche ma ci poi quando perché può essere mi ti così già molto"),
            ("pt", "Portuguese",
                "de da dos das em um uma por para na no ao sua seu ou pela pelo que não mais são como também está "
                "é foi se ser tem pode quando mas isso ele ela depois muito já você"),
            ("nl", "Dutch",
                "de het een en van te met voor aan naar die deze bij om uit dat niet zijn ook er wordt kan worden "
                "maar hebben heeft als je ik hij wij ze dan nog wel alles veel zal"),
            ("pl", "Polish",
                "na dla przez od oraz po tym tego przy ale to się nie jest że jak są który która które być może "
                "ich czy tylko już potem aby gdy jego jej bardzo też"),
            ("hu", "Hungarian",
                "az egy és ez ezt azt vagy hogy nem volt csak mint már még kell lehet mert ami amely pedig nagyon "
                "majd ezek ilyen"),
            ("sv", "Swedish",
                "och en av för med den ett på till om från eller att det som är inte har jag kan var när ska så "
                "sig mycket bara hur blir kommer där här"),
            ("da", "Danish",
                "og en af på til med den et fra eller det er som ikke har kan jeg der vil når var også skal så "
                "sig meget kun hvor bliver kommer hvis"),
            ("id", "Indonesian",
                "dan di untuk dengan ini itu dari pada dalam ke oleh atau yang adalah tidak akan bisa juga karena "
                "lebih saya anda ada mereka kita sudah telah"),
        )
    }
)  # fmt: skip


def other_language(text: str, language: str) -> str | None:
    """The name of the language that the text looks like, if that is another one than it should be in; else None.

    Args:
        text: In Latin script for the most part.
        language: The code of the language that it should be in, as "en"; of one without a table nothing is told.
    """
    words = list(_without_particles(_WORD.findall(text)))
    if language not in _WORDS or len(words) < _FEWEST_WORDS:
        return None
    own = sum(word.lower() in _WORDS[language][1] for word in words) / len(words)
    if own >= _LARGEST_OWN_SHARE:
        return None
    frequent = Counter(words)  # as they are written: capitals are mostly of names, as in "Los Angeles"
    hits = {code: [frequent[word] for word in known if frequent[word]] for code, (_, known) in _WORDS.items()}
    likely = max(hits, key=lambda code: sum(hits[code]))
    share = sum(hits[likely]) / len(words)
    if share <= max(_SMALLEST_OTHER_SHARE, 2 * own) or len(hits[likely]) < _FEWEST_DIFFERENT:
        return None
    return _WORDS[likely][0]


def _without_particles(words: Sequence[str]) -> Iterator[str]:
    """The words but those that hold a name together."""
    runs = [list(run) for _, run in groupby(words, key=lambda word: word[0].isupper())]
    for index, run in enumerate(runs):
        is_between_capitals = 0 < index < len(runs) - 1 and not run[0][0].isupper()
        if not (is_between_capitals and run[0] in _PARTICLES and _ARTICLES.issuperset(run[1:])):
            yield from run
