"""Which zone somebody meant who wrote one that is not in the table: other names, spelling, a part of a country."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from difflib import get_close_matches

__all__ = ["suggest"]

_OTHER_NAMES = {
    "AE": ("Emirates", "UAE"),
    "AT": ("Oesterreich", "Osterreich"),
    "BE": ("Belgique", "Belgie"),
    "BR": ("Brasil",),
    "CD": ("DRC", "Zaire"),
    "CH": ("Schweiz", "Suisse", "Svizzera"),
    "CI": ("Ivory Coast",),
    "CV": ("Cabo Verde",),
    "CZ": ("Cesko",),
    "DE": ("Deutschland", "Allemagne", "Alemania"),
    "DK": ("Danmark",),
    "ES": ("Espana",),
    "FI": ("Suomi",),
    "GB": ("Britain", "England", "Scotland", "Wales", "Northern Ireland", "U.K."),
    "GR": ("Hellas", "Ellada"),
    "HR": ("Hrvatska",),
    "HU": ("Magyarorszag",),
    "IE": ("Eire",),
    "IT": ("Italia",),
    "JP": ("Nippon",),
    "KR": ("Korea", "Republic of Korea"),
    "MM": ("Burma",),
    "MO": ("Macau",),
    "NL": ("Holland", "Nederland"),
    "NO": ("Norge",),
    "PL": ("Polska",),
    "RU": ("Russian Federation", "Rossiya"),
    "SE": ("Sverige",),
    "SZ": ("Swaziland",),
    "TL": ("Timor-Leste",),
    "TR": ("Turkiye",),
    "US": ("America", "States", "U.S.", "U.S.A."),
    "VN": ("Viet Nam",),
}
"""What countries are called besides the table's English names; suggested, and not taken for an answer."""


def suggest(asked: str, names: Mapping[str, str]) -> str:
    """The end of an error message: the zones nearest to ``asked``, as ``DE (Germany)``.

    Args:
        names: the English name of each code.
    """
    known = _words(names)
    word = _plain(asked)
    part = _plain(re.split(r"[-_/,(]", asked.strip())[0])
    nearest = [word] if word in known else get_close_matches(word, known, n=3, cutoff=0.8)
    if not nearest and part in known:
        nearest = [part]
    nearest = nearest or get_close_matches(word, known, n=3, cutoff=0.6)
    if nearest:
        return f"; did you mean {_listed(nearest, known, names)}?"
    far = get_close_matches(word, known, n=3, cutoff=0)
    return f"; the nearest are {_listed(far, known, names)}: give an ISO country code such as DE, FR or US, or WORLD"


def _words(names: Mapping[str, str]) -> dict[str, str]:
    """The code of each code, name and other name, as plain words."""
    known = {_plain(code): code for code in names}
    known |= {_plain(name): code for code, name in names.items()}
    return known | {_plain(other): code for code, others in _OTHER_NAMES.items() if code in names for other in others}


def _plain(text: str) -> str:
    """Capitals without accents and signs, so that only the letters are compared."""
    letters = unicodedata.normalize("NFKD", text).upper()
    return " ".join(re.sub(r"[^A-Z0-9 ]", "", letters.replace("-", " ")).split())


def _listed(words: list[str], known: Mapping[str, str], names: Mapping[str, str]) -> str:
    codes = dict.fromkeys(known[word] for word in words)
    return " or ".join(f"{code} ({names[code]})" for code in codes)
