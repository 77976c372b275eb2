"""Which of a few languages a text is written in, by its commonest words: enough to see a teacher that answers in another.

Left out: short texts (no answer) and other languages than those of the table; `data clean` has an n-gram classifier.
"""

from __future__ import annotations

from bottega.data.near import words_of

WORDS = {
    "en": "the of and to in is that it was for on are with as his they be at this have from or had by what when where which who "
    "how why does did do a an there their has were not you your can",
    "it": "il lo la i gli le di del della dei delle che e è un una per in con non si da al alla nel nella sono come quando dove chi "
    "cosa perché quale quali ha anche più questo questa su era",
    "fi": "ja on ei että se oli ovat joka mitä missä milloin kuka miksi kuinka miten hän ne tai kun myös mutta niin kuin sen siitä "
    "olla voi mikä mukaan ovatko onko jos sekä tämä",
    "de": "der die das und ist nicht ein eine zu den von mit sich des auf für im dem auch als wie was wer wo wann warum sind war",
    "fr": "le la les des et est un une que qui dans pour pas sur au avec ce il elle sont du en où quand comment pourquoi était",
    "es": "el la los las de que y es en un una por con no se del al lo como más pero sus cuando dónde quién qué cómo son era",
    "sv": "och att det som en på är av för med till den har inte om ett var vad när hur vem varför från",
}
LEAST, MARGIN = 3, 1.5
_TABLE = {code: frozenset(words.split()) for code, words in WORDS.items()}


def language_of(text: str) -> str:
    """The code of the language with the most of its common words in the text; "" where none stands out.

    >>> [language_of("What is the colour of the door?"), language_of("Minkä värinen ovi on, ja missä se on?")]
    ['en', 'fi']
    """
    words = words_of(text)
    counts = sorted(((sum(word in known for word in words), code) for code, known in _TABLE.items()), reverse=True)
    (first, code), (second, _) = counts[:2]
    return code if first >= LEAST and first >= MARGIN * second else ""
