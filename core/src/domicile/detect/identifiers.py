"""National identifiers: each has the shape in which people write it and a check that python-stdnum knows.

Some shapes say enough by themselves: few other texts look like ``756.9217.0769.85``, and its check digit is right. A
bare run of digits says nothing, since its check is met by one number in ten: it counts beside a word that names it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import Final

BEFORE: Final = 48
"""How far in front of a number, in characters, a word may stand that says what the number is."""
AFTER: Final = 24


@dataclass(frozen=True, slots=True)
class _Kind:
    name: str
    """Country and name of the number, as in python-stdnum."""
    shape: str
    words: str = ""
    """What it is called; empty where its shape is enough."""


_KINDS: Final = (
    _Kind("at.vnr", r"\d{4} ?\d{6}", r"vnr|svnr|sozialversicherung\w*|versicherungsnummer"),
    _Kind("au.tfn", r"\d{3} ?\d{3} ?\d{2,3}", r"tfn|tax file"),
    _Kind("be.nn", r"\d{2}\.\d{2}\.\d{2}-\d{3}\.\d{2}"),
    _Kind("be.nn", r"\d{11}", r"rijksregister\w*|registre national|niss|insz"),
    _Kind("bg.egn", r"\d{10}", r"egn|егн"),
    _Kind("br.cpf", r"\d{3}\.\d{3}\.\d{3}-\d{2}"),
    _Kind("br.cpf", r"\d{11}", r"cpf"),
    _Kind("ca.sin", r"\d{3}[ -]?\d{3}[ -]?\d{3}", r"sin|social insurance|nas"),
    _Kind("ch.ssn", r"756\.\d{4}\.\d{4}\.\d{2}"),
    _Kind("ch.ssn", r"756\d{10}", r"ahv|avs|ssn"),
    _Kind("cl.rut", r"\d{1,2}\.\d{3}\.\d{3}-[\dkK]"),
    _Kind("cn.ric", r"\d{17}[\dXx]"),
    _Kind("cz.rc", r"\d{6}/\d{3,4}"),
    _Kind("de.idnr", r"\d{2} \d{3} \d{3} \d{3}"),
    _Kind("de.idnr", r"\d{11}", r"steuer\w*|idnr|tin|tax id\w*|identifikationsnummer"),
    _Kind("dk.cpr", r"\d{6}-\d{4}"),
    _Kind("ee.ik", r"\d{11}", r"isikukood|personal code"),
    _Kind("es.dni", r"\d{8}-[A-Za-z]"),
    _Kind("es.dni", r"\d{8}[A-Za-z]", r"dni|nif"),
    _Kind("es.nie", r"[XYZxyz]-?\d{7}-?[A-Za-z]"),
    _Kind("fi.hetu", r"\d{6}[-+A-FU-Y]\d{3}[0-9A-FHJ-NPR-Y]"),
    _Kind("fr.nir", r"[1-478] ?\d{2} ?\d{2} ?(?:\d{2}|2[ABab]) ?\d{3} ?\d{3} ?\d{2}"),
    _Kind("gb.nhs", r"\d{3} ?\d{3} ?\d{4}", r"nhs"),
    _Kind("gr.amka", r"\d{11}", r"amka|αμκα"),
    _Kind("hr.oib", r"\d{11}", r"oib"),
    _Kind("id.nik", r"\d{16}", r"nik|ktp"),
    _Kind("ie.pps", r"\d{7}[A-Wa-w][ABWTXZabwtxz]?", r"pps\w*"),
    _Kind("il.idnr", r"\d{8,9}", r"teudat|mispar zehut|id number"),
    _Kind("in_.aadhaar", r"\d{4} \d{4} \d{4}"),
    _Kind("in_.aadhaar", r"\d{12}", r"aadhaar|uidai|uid"),
    _Kind("in_.pan", r"[A-Za-z]{3}[ABCFGHLJPTabcfghljpt][A-Za-z]\d{4}[A-Za-z]"),
    _Kind("is_.kennitala", r"\d{6}-?\d{4}", r"kennital\w+|kt"),
    _Kind(
        "it.codicefiscale", r"[A-Za-z]{6}[\dL-Vl-v]{2}[A-EHLMPRSTa-ehlmprst][\dL-Vl-v]{2}[A-Za-z][\dL-Vl-v]{3}[A-Za-z]"
    ),
    _Kind("jp.in_", r"\d{4}[ -]?\d{4}[ -]?\d{4}", r"my number|individual number|マイナンバー|個人番号"),
    _Kind("kr.rrn", r"\d{6}-[0-9]\d{6}"),
    _Kind("lt.asmens", r"\d{11}", r"asmens kod\w+"),
    _Kind("mx.curp", r"[A-Za-z]{4}\d{6}[HMhm][A-Za-z]{5}[A-Za-z0-9]\d"),
    _Kind("my.nric", r"\d{6}-\d{2}-\d{4}"),
    _Kind("nl.bsn", r"\d{8,9}", r"bsn|burgerservicenummer|sofi\w*"),
    _Kind("no.fodselsnummer", r"\d{6} ?\d{5}", r"f[øo]dselsn\w+|fnr|personnummer"),
    _Kind("pl.pesel", r"\d{11}", r"pesel"),
    _Kind("pt.nif", r"\d{9}", r"nif|contribuinte"),
    _Kind("ro.cnp", r"\d{13}", r"cnp|cod numeric personal"),
    _Kind("se.personnummer", r"(?:\d{2})?\d{6}[-+]\d{4}"),
    _Kind("se.personnummer", r"(?:\d{2})?\d{10}", r"personn\w+|pnr"),
    _Kind("si.emso", r"\d{13}", r"emšo|emso"),
    _Kind("sk.rc", r"\d{6}/\d{3,4}"),
    _Kind("th.pin", r"\d-\d{4}-\d{5}-\d{2}-\d"),
    _Kind("tr.tckimlik", r"\d{11}", r"tc kimlik|tckn|kimlik"),
    _Kind("us.itin", r"9\d{2}-\d{2}-\d{4}"),
    _Kind("us.ssn", r"\d{3}-\d{2}-\d{4}"),
    _Kind("us.ssn", r"\d{3} ?\d{2} ?\d{4}", r"ssn|social security"),
    _Kind("za.idnr", r"\d{13}", r"id number|identity number|south african id|said"),
)


@dataclass(frozen=True, slots=True)
class _Ready:
    shape: re.Pattern[str]
    words: re.Pattern[str] | None
    check: Callable[[str], bool]


def _ready(kind: _Kind) -> _Ready:
    check: Callable[[str], bool] = import_module(f"stdnum.{kind.name}").is_valid
    words = re.compile(rf"(?<![^\W_])(?:{kind.words})(?![^\W_])", re.IGNORECASE) if kind.words else None
    return _Ready(re.compile(rf"(?<![\w.-]){kind.shape}(?![\w-])", re.ASCII), words, check)


_READY: Final = tuple(map(_ready, _KINDS))


def identifiers(text: str, topic: str) -> Iterator[tuple[int, int]]:
    """Where national identifiers stand; ``topic`` is what the text is about, such as its column's name."""
    for kind in _READY:
        for match in kind.shape.finditer(text):
            start, end = match.span()
            if kind.words is not None and not (
                kind.words.search(topic) or kind.words.search(text, max(0, start - BEFORE), end + AFTER)
            ):
                continue
            if kind.check(match.group()):
                yield start, end
