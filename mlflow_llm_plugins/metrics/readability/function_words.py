"""Whether a text is in another language of the same script, told by the little words that hold sentences together.

Made to err on one side: a text that it does not recognise is scored; one that is in the right language, or that is
code, a list or names, must never be refused.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from types import MappingProxyType

_FEWEST_WORDS = 12
_FEWEST_DIFFERENT = 4  # names, as of cities, repeat the same few
_LARGEST_OWN_SHARE = 0.05
_SMALLEST_OTHER_SHARE = 0.15
_WORD = re.compile(r"""(?<![^\s("'’«„“])[^\W\d_]+(?![^\s)"'’»“”.,;:!?])""")  # no part of an address or of code

# Language -> its most frequent words; without single letters, and but for English itself without English words, as
# Dutch "is", and without what is common in code, as "do".
_WORDS: Mapping[str, tuple[str, frozenset[str]]] = MappingProxyType(
    {
        code: (name, frozenset(words.split()))
        for code, name, words in (
            ("en", "English", "the of and to that it for with be by this are from not you your we they which have has "
                              "can will if its but their these when would there what how"),
            ("fr", "French", "le la les de des du un une et est en dans que qui pour pas sur avec ce cette sont il "
                             "elle nous vous au aux mais par ne se ses son leur être ont comme"),
            ("de", "German", "der das und ist nicht ein eine einen einer dem den des mit auf für sich auch es von zu "
                             "im wird sind sie ich wir ihr er oder als bei nach aus wenn werden"),
            ("es", "Spanish", "el la los las de del que en un una es por con para se su sus lo como más al pero son "
                              "está este esta ser muy también cuando"),
            ("it", "Italian", "il lo la gli le di che un una per con non sono del della dei delle nel nella alla al è "
                              "si da come più anche questo questa ma"),
            ("pt", "Portuguese", "de da dos das em um uma que não por para na no mais ao como são também "
                                 "sua seu ou pela pelo está é foi"),
            ("nl", "Dutch", "de het een en van dat niet te zijn met voor aan ook er naar wordt die deze bij om uit "
                            "kan worden maar hebben heeft als"),
            ("pl", "Polish", "się nie jest że na jak ale dla przez od oraz są który która które po tym być tego to "
                             "może ich czy przy"),
            ("sv", "Swedish", "och att det som en är av för med inte den ett på till har om jag kan från var eller "
                              "när ska"),
            ("da", "Danish", "og det er som en af på til ikke med den har et fra kan jeg der vil eller når var også "
                             "skal"),
            ("id", "Indonesian", "yang dan di untuk dengan ini itu dari pada adalah tidak dalam akan ke oleh bisa "
                                 "juga atau"),
        )
    }
)  # fmt: skip


def other_language(text: str, language: str) -> str | None:
    """The name of the language that the text looks like, if that is another one than it should be in; else None.

    Args:
        text: In Latin script for the most part.
        language: The code of the language that it should be in, as "en"; of one without a table nothing is told.
    """
    words = _WORD.findall(text)
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
