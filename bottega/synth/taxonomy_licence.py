"""attribution.txt: the works a leaf rests on, with their licences as SPDX names; what is not permissive is named.

Left out: reading a licence's own text. Share-alike and copyleft licences, non-commercial and no-derivatives ones are
flagged, for they bind what is built from the leaf; so is a name that is not known.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from bottega.synth.taxonomy_yaml import Problem

NAME = "attribution.txt"
_FIELD = re.compile(r"\s*(title of work|link to work|revision|licen[cs]e of the work|creator names?)\s*:(.*)$", re.I)
_PERMISSIVE = {
    "apache-2.0": "Apache-2.0",
    "mit": "MIT",
    "mit-0": "MIT-0",
    "bsd-2-clause": "BSD-2-Clause",
    "bsd-3-clause": "BSD-3-Clause",
    "isc": "ISC",
    "zlib": "Zlib",
    "unlicense": "Unlicense",
    "cc0-1.0": "CC0-1.0",
    "0bsd": "0BSD",
    "cdla-permissive-1.0": "CDLA-Permissive-1.0",
    "cdla-permissive-2.0": "CDLA-Permissive-2.0",
    "odc-by-1.0": "ODC-By-1.0",
    "pddl-1.0": "PDDL-1.0",
    "psf-2.0": "PSF-2.0",
    "bsl-1.0": "BSL-1.0",
    "w3c": "W3C",
    "ogl-uk-3.0": "OGL-UK-3.0",
    "licenseref-public-domain": "LicenseRef-Public-Domain",
}
_BINDING = {
    "gfdl-1.3": "GFDL-1.3-only",
    "gfdl-1.2": "GFDL-1.2-only",
    "mpl-2.0": "MPL-2.0",
    "epl-2.0": "EPL-2.0",
    "odbl-1.0": "ODbL-1.0",
    "cdla-sharing-1.0": "CDLA-Sharing-1.0",
}
_ALIASES = {
    "apache": "apache-2.0",
    "apache-2": "apache-2.0",
    "asl-2.0": "apache-2.0",
    "cc0": "cc0-1.0",
    "cc-0": "cc0-1.0",
    "cc-zero": "cc0-1.0",
    "bsd": "bsd-3-clause",
    "new-bsd": "bsd-3-clause",
    "simplified-bsd": "bsd-2-clause",
    "expat": "mit",
    "public-domain": "licenseref-public-domain",
    "boost-1.0": "bsl-1.0",
    "mozilla-2.0": "mpl-2.0",
    "gnu-free-documentation-1.3": "gfdl-1.3",
    "gfdl": "gfdl-1.3",
    "odbl": "odbl-1.0",
}
_WORDS = {
    "creative commons": "cc",
    "attribution": "by",
    "sharealike": "sa",
    "share alike": "sa",
    "noncommercial": "nc",
    "non commercial": "nc",
    "noderivatives": "nd",
    "noderivs": "nd",
    "no derivatives": "nd",
    "international": "",
    "unported": "",
    "license": "",
    "licence": "",
    "version": "",
    "software": "",
    "public domain": "publicdomain",
    "gnu affero general public": "agpl",
    "gnu lesser general public": "lgpl",
    "gnu general public": "gpl",
    "gnu": "",
    "the": "",
    "zero": "0",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """A work of attribution.txt: its fields, and the line of its licence."""

    title: str = ""
    link: str = ""
    revision: str = ""
    licence: str = ""
    creators: str = ""
    line: int = 1


def works(text: str) -> list[Work]:
    """The works of an attribution.txt; a new `Title of work:` begins the next one. A field may go on over lines."""
    found: list[Work] = []
    fields: dict[str, str] = {}
    line_of, name = 1, ""

    def done() -> None:
        if fields:
            found.append(Work(**fields, line=line_of))

    for number, line in enumerate(text.splitlines(), 1):
        match = _FIELD.match(line)
        if match:
            word = match[1].lower()
            name = {"t": "title", "r": "revision", "c": "creators"}.get(
                word[0], "link" if word[1] == "i" and word[2] == "n" else "licence"
            )
            if name == "title" or name in fields:
                done()
                fields, line_of = {}, number
            if name == "licence":
                line_of = number
            fields[name] = match[2].strip()
        elif line.strip() and name:
            fields[name] = f"{fields[name]} {line.strip()}".strip()
    done()
    return found


def spdx(name: str) -> tuple[str, str]:
    """A licence as people write it, as its SPDX name ("" if it is not known) and what binds who uses it ("" : nothing).

    >>> [spdx(name) for name in ("CC BY-NC-SA 4.0", "Apache License, Version 2.0", "GPLv3", "ours")]
    [('CC-BY-NC-SA-4.0', 'non-commercial, share-alike'), ('Apache-2.0', ''), ('GPL-3.0-only', 'copyleft'), ('', 'unknown')]
    """
    if re.search(r"creativecommons\.org/licenses/([\w-]+)/([\d.]+)", name, re.I):
        name = re.sub(r".*creativecommons\.org/licenses/([\w-]+)/([\d.]+).*", r"cc-\1-\2", name, flags=re.I)
    elif re.search(r"creativecommons\.org/publicdomain/zero", name, re.I):
        name = "cc0-1.0"
    text = re.sub(r"[(),/_-]", " ", name.lower())
    for words, short in _WORDS.items():
        text = re.sub(rf"\b{words}\b", f" {short} ", text)
    key = "-".join(text.split()).replace("publicdomain", "public-domain").strip("-.")
    key = re.sub(r"-?v\.?-?(\d)", r"-\1", key)
    key = re.sub(r"^(apache|epl|mpl|mozilla|boost|asl|psf|cdla-permissive|gfdl)-(\d)$", r"\1-\2.0", key)
    key = re.sub(r"^bsd-?([23])(-clause)?$", r"bsd-\1-clause", re.sub(r"^([23])-clause-bsd$", r"bsd-\1-clause", key))
    key = re.sub(r"^cc(by|0)", r"cc-\1", key) if key != "cc0-1.0" else key
    key = re.sub(r"^cc-0-1\.0.*$", "cc0-1.0", key)
    key = _ALIASES.get(key, key)
    match = re.fullmatch(r"cc-by((?:-(?:nc|nd|sa))*)-?(\d(?:\.\d)?)?(?:-([a-z]{2,3}))?", key)
    if match:
        parts = [part for part in ("nc", "nd", "sa") if part in match[1].split("-")]
        number = match[2] or "4.0"
        number = number if "." in number else number + ".0"
        said = {"nc": "non-commercial", "nd": "no derivatives", "sa": "share-alike"}
        return "-".join(["CC-BY", *(p.upper() for p in parts), number]), ", ".join(said[p] for p in parts)
    match = re.fullmatch(r"(a|l)?gpl-?(\d(?:\.\d)?)?-?(only|or-later|\+|or-any-later)?", key)
    if match:
        number = match[2] or "3.0"
        number = number if "." in number else number + ".0"
        tail = "or-later" if match[3] in ("or-later", "+", "or-any-later") else "only"
        return f"{(match[1] or '').upper()}GPL-{number}-{tail}", "copyleft"
    if key in _PERMISSIVE:
        return _PERMISSIVE[key], ""
    return (_BINDING[key], "copyleft") if key in _BINDING else ("", "unknown")


def check_attribution(folder: Path, version: int) -> tuple[list[Problem], tuple[str, ...]]:
    """What is wrong with the attribution.txt beside a leaf, and the licences it names."""
    path = folder / NAME
    try:
        text = path.read_text(encoding="utf-8-sig", errors="replace") if path.is_file() else None
    except OSError:
        text = None
    if text is None or not text.strip():
        if version < 2:
            return [], ()
        what = "is missing" if text is None else "is empty"
        fix = "name the works that the answers come from: title, link, licence, creators"
        message = f"{NAME} {what} beside a leaf of version {version}"
        return [_problem(1, "attribution", "", message, fix, "error")], ()
    found, licences = [], []
    listed = works(text)
    for work in listed:
        name, binds = spdx(work.licence)
        if name:
            licences.append(name)
        if binds:
            called = (
                f"{NAME}, line {work.line}: the licence {work.licence!r}"
                if work.licence
                else f"{NAME}: a work without a licence"
            )
            message = f"{called} is {name}: {binds}" if name else f"{called} has no SPDX name that is known here"
            fix = (
                "use a permissive source, or keep its terms in mind" if name else "write its SPDX name, as in CC-BY-4.0"
            )
            found.append(_problem(1, "licence", work.licence, message, fix, "warning"))
    if not listed:
        fix = "write lines such as `License of the work: CC-BY-4.0`"
        found.append(_problem(1, "licence", text.strip()[:80], f"{NAME} names no work", fix, "warning"))
    return found, tuple(dict.fromkeys(licences))


def _problem(line: int, rule: str, found: str, message: str, fix: str, level: str) -> Problem:
    return Problem(line=line, column=1, key=NAME, rule=rule, found=found[:80], message=message, fix=fix, level=level)
