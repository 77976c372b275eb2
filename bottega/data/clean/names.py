"""Names of people and postal addresses in Italian, Finnish and English text, by patterns.

Left out: a model of names. Found are names behind a title, behind words that introduce oneself, under a letter's closing,
and those that begin with a given name of a short list; a bare surname is found only where the same sample names it in
full. Rare given names without a title, names in lower case, and names of other scripts are not found.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from bottega.data.clean.identifiers import PLAIN, Found, outermost

GIVEN = frozenset(
    "Aino Antti Eero Eeva Elina Emilia Hanna Heikki Helmi Ilmari Jaakko Janne Jari Johanna Juha Juhani Jukka Kaarina Kaisa "
    "Kalle Kari Katri Laura Lauri Leena Liisa Maija Mari Markku Matti Mika Mikko Minna Niko Noora Olli Onni Outi Pekka Pirjo "
    "Päivi Riikka Risto Saara Sami Sanna Satu Seppo Sirpa Tapani Tarja Teemu Timo Tiina Toivo Tuomas Tuula Veikko Ville Väinö "
    "Alessandra Alessandro Alessia Andrea Angela Anna Antonella Antonio Barbara Beatrice Bruno Camilla Carla Carlo Caterina "
    "Chiara Claudia Claudio Cristina Daniela Daniele Davide Diego Domenico Elena Elisa Emanuele Enrico Fabio Federica Federico "
    "Filippo Francesca Francesco Gabriele Giacomo Gianni Giorgia Giorgio Giovanna Giovanni Giulia Giuseppe Ilaria Irene Lorenzo "
    "Luca Lucia Luigi Marco Maria Mario Martina Massimo Matteo Maurizio Michela Michele Nicola Paola Paolo Pietro Riccardo "
    "Roberta Roberto Salvatore Sara Silvia Simona Simone Sofia Stefania Stefano Teresa Tommaso Valentina Valeria Vincenzo "
    "Alan Alice Amanda Andrew Anthony Arthur Barry Benjamin Brian Catherine Charles Charlotte Christopher Daniel David Deborah "
    "Donald Dorothy Edward Eleanor Elizabeth Emily Emma Fiona Frank Geoffrey George Hannah Harold Harry Helen Henry Isabella "
    "Jack Jacob James Jane Jennifer Jessica John Jonathan Joseph Karen Katherine Kenneth Kevin Kimberly Linda Lucy Margaret "
    "Mark Martin Mary Matthew Michael Michelle Nancy Nathan Nicholas Nigel Oliver Olivia Patricia Patrick Paul Peter Philip "
    "Rachel Raymond Rebecca Richard Robert Ronald Rose Ruth Samuel Sandra Sarah Simon Sophie Stephen Steven Stuart Susan Thomas "
    "Timothy Victoria Walter William".split()
)
"""Common given names of the three languages, written down for this project."""
_WORD = r"[A-ZÀ-ÖØ-Þ][a-zß-öø-ÿ]+(?:['’-][A-ZÀ-ÖØ-Þ][a-zß-öø-ÿ]+)*"
_PART = rf"(?:(?:D['’]|De |Di |Da |Del |Della |Lo |La |von |van |de |di |da |O['’]|Mc|Mac)?{_WORD}|[A-Z]\.)"
_NAME = rf"{_PART}(?:[ \u00a0]{_PART}){{0,3}}"
_FULL = rf"{_PART}(?:[ \u00a0]{_PART}){{1,3}}"
_TITLES = (
    r"Mr|Mrs|Ms|Miss|Mx|Dr|Prof|Professor|Sir|Dame|Lord|Lady|Madam|"
    r"Sig|Sig\.ra|Sig\.na|Sigg|Signora|Signorina|Signor|Dott|Dott\.ssa|Dottor|Dottoressa|Prof\.ssa|Professoressa|Avv|Avvocato|Ing|"
    r"Arch|Geom|Rag|Herra|Rouva|Neiti|Hra|Rva|Nti|Tri|Tohtori|Professori|Lääkäri|herra|rouva|neiti|signora|signor"
)
_TITLED = re.compile(rf"(?<!\w)(?:{_TITLES})\.?[ \u00a0](?P<name>{_NAME})")
_INTRODUCED = re.compile(
    r"(?:[Mm]y name is|[Mm]y full name is|I am called|[Mm]i chiamo|[Ii]l mio nome è|[Nn]imeni on|[Oo]len nimeltäni|"
    r"(?:[Nn]ame|[Nn]ome e [Cc]ognome|[Cc]ognome e [Nn]ome|[Nn]ome|[Nn]imi|[Pp]atient|[Pp]aziente|[Pp]otilas|[Ii]ntestatario):)"
    rf"[ \u00a0]+(?P<name>{_FULL})(?!\w)"
)
_CLOSING = re.compile(
    r"(?:[Rr]egards|[Ss]incerely|[Yy]ours truly|[Cc]ordiali saluti|[Dd]istinti saluti|[Ss]aluti|[Cc]ordialmente|[Tt]erveisin|"
    rf"[Yy]stävällisin terveisin|[Tt]erv\.)\s*,?\s*\n+\s*(?P<name>{_NAME})[ \t]*(?=\n|$)"
)
_CAPITALISED = re.compile(rf"(?<![\w@.]){_WORD}")
_FAMILY = re.compile(rf"(?:[ \u00a0](?:[A-Z]\.|{_WORD}))?[ \u00a0]{_PART}(?!\w)|[ \u00a0]{_PART}(?!\w)")
_NO_NAME = frozenset(
    "The This That Street Road Avenue University Institute Hospital School College Company Inc Ltd Day Church Bank Bridge "
    "Park River City Square Hotel Via Piazza Viale Corso Santa San Santo Monday Tuesday Wednesday Thursday Friday Saturday "
    "Sunday January February March April May June July August September October November December And Or But If When We You "
    "He She It They Our Your His Her Is Was Will Can Please Dear Thanks Thank Hello Ciao Hei Moi Garden Gardens".split()
)
_ADDRESSES = tuple(
    re.compile(pattern)
    for pattern in (
        # English: number, name, kind of street; then an optional flat, town and postcode
        rf"(?<![\w.,])\d{{1,5}}[A-Za-z]?,? (?:{_WORD} ){{1,4}}(?:Street|St|Avenue|Ave|Road|Rd|Lane|Ln|Drive|Dr|Boulevard|Blvd|Court|Ct|"
        rf"Place|Pl|Square|Sq|Way|Terrace|Close|Crescent|Gardens|Grove|Hill|Mews|Row|Parade|Highway|Hwy)\b\.?"
        rf"(?:,? (?:Apt|Apartment|Flat|Unit|Suite)\.? ?#?\w{{1,5}})?(?:, {_WORD}(?: {_WORD})?)?"
        rf"(?:,? (?:[A-Z]{{2}} \d{{5}}(?:-\d{{4}})?|[A-Z]{{1,2}}\d[A-Z\d]? ?\d[A-Z]{{2}}))?",
        # Italian: kind of street, name, number; then an optional postcode and town with its province
        r"\b(?:[Vv]ia|[Vv]iale|[Pp]iazza|[Pp]iazzale|[Cc]orso|[Ll]argo|[Vv]icolo|[Cc]ontrada|[Ll]ungotevere|[Pp]\.zza|[Vv]\.le) "
        r"(?:d[aei](?:l|ll[aeo]|i|gli)? |d[ea]ll['’]|[IVX]{1,5} |\d{1,2} ){0,2}"
        rf"{_PART}(?:[ \u00a0](?:d[aei](?:l|ll[aeo])? )?{_PART}){{0,3}}"
        rf",? (?:n[.°]? ?)?\d{{1,4}}(?:/?[A-Za-z]\b)?(?:,? (?:[-–] )?\d{{5}} {_WORD}(?: {_WORD})?(?: \([A-Z]{{2}}\))?)?",
        # Finnish: the kind of street ends the name; then an optional stair, flat, postcode and town
        r"\b[A-ZÅÄÖ][a-zåäöA-ZÅÄÖ-]{2,30}(?:katu|tie|kuja|polku|tori|kaari|väylä|rinne|ranta|raitti|aukio|puistikko|mäki)"
        rf" \d{{1,4}}(?: ?[a-zA-Z](?: ?\d{{1,4}})?)?(?:,? \d{{5}} {_WORD})?(?!\w)",
        # a British postcode alone: about fifteen doors
        r"\b[A-PR-UWYZ][A-HK-Y]?\d[A-HJKPSTUW\d]? \d[ABD-HJLNP-UW-Z]{2}\b",
    )
)


def postal(text: str) -> Iterator[Found]:
    """Streets with a house number, and what follows of them."""
    for pattern in _ADDRESSES:
        for match in pattern.finditer(text):
            yield Found(match.start(), match.end(), "address", match[0])


def names(texts: Sequence[str]) -> list[list[Found]]:
    """Names in each of the texts of one sample; surnames of full names are found again wherever they stand in it."""
    found = [list(_named(text)) for text in texts]
    last = {parts[-1] for one in found for name in one if len(parts := name.text.split()) > 1}
    last = {word for word in last if len(word) > 3}
    if not last:
        return found
    again = re.compile(rf"(?<![\w-])(?:{'|'.join(map(re.escape, sorted(last)))})(?![\w-])")
    for text, one in zip(texts, found):
        one += [Found(m.start(), m.end(), "name", m[0]) for m in again.finditer(text)]
    return found


def _named(text: str) -> Iterator[Found]:
    for pattern in (_TITLED, _INTRODUCED, _CLOSING):
        for match in pattern.finditer(text):
            yield from _trimmed(match["name"], match.start("name"), least=1)
    for match in _CAPITALISED.finditer(text):
        if match[0] in GIVEN and (family := _FAMILY.match(text, match.end())):
            yield from _trimmed(match[0] + family[0], match.start(), least=2)


def _trimmed(name: str, start: int, *, least: int) -> Iterator[Found]:
    """The name up to its first word that is no name (`Anna Rossi Street` -> `Anna Rossi`), if enough is left."""
    words = re.findall(r"\S+", name)
    good = next((i for i, word in enumerate(words) if word in _NO_NAME), len(words))
    while good and words[good - 1].endswith("."):
        good -= 1
    if good >= least:
        end = [match.end() for match in re.finditer(r"\S+", name)][good - 1]
        yield Found(start, start + end, "name", name[:end])


def hidden(text: str) -> str:
    """The text with every kind that needs no package masked, and long numbers blotted out: for examples and messages."""
    found = [one for finder in (*PLAIN.values(), postal) for one in finder(text)]
    for one in reversed(outermost([*found, *names([text])[0]])):
        text = f"{text[: one.start]}[{one.kind.upper()}]{text[one.end :]}"
    return re.sub(r"\d(?:[ ./-]?\d){5,}", lambda match: "#" * len(match[0]), text)
