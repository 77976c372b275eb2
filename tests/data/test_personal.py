"""Personal data: what is found in Italian, Finnish and English text, what must not be, masks, pseudonyms, drops."""

from __future__ import annotations

import re
from importlib.util import find_spec

import pytest

from bottega.core.errors import UserError
from bottega.core.types import Conversation, Document, Turn, Where
from bottega.data.clean.account import Account, Item
from bottega.data.clean.identifiers import iban_valid, luhn
from bottega.data.clean.names import hidden
from bottega.data.clean.personal import personal

pytestmark = pytest.mark.skipif(
    find_spec("phonenumbers") is None or find_spec("stdnum") is None, reason="needs the extra pii"
)


def found(text: str) -> list[tuple[str, str]]:
    return [(one.kind, one.text) for one in personal().find([text])[0]]


def run(texts, *, seed=0, **options):
    account = Account(name="personal", options={}, seed=seed, sink=lambda rejected: None)
    items = [Item(0, Document(text=text, where=Where("d", i))) for i, text in enumerate(texts, 1)]
    return [item.sample.text for item in personal(**options)(iter(items), account)], account


@pytest.mark.parametrize(
    ("text", "kind", "piece"),
    [
        ("Write to anna.rossi+x@posta.example.it.", "email", "anna.rossi+x@posta.example.it"),
        ("IBAN: IT60 X054 2811 1010 0000 0123 456 grazie", "iban", "IT60 X054 2811 1010 0000 0123 456"),
        ("Tili FI21 1234 5600 0007 85 NORDEA", "iban", "FI21 1234 5600 0007 85"),
        ("pay GB82WEST12345698765432 today", "iban", "GB82WEST12345698765432"),
        ("card 4111 1111 1111 1111 exp", "card", "4111 1111 1111 1111"),
        ("Amex 378282246310005.", "card", "378282246310005"),
        ("CF RSSMRA85M01H501Q", "national_id", "RSSMRA85M01H501Q"),
        ("P. IVA 07643520567", "national_id", "07643520567"),
        ("hetu 131052-308T", "national_id", "131052-308T"),
        ("SSN 536-90-4399", "national_id", "536-90-4399"),
        ("NHS number 943 476 5919", "national_id", "943 476 5919"),
        ("NI number AB 12 34 56 C", "national_id", "AB 12 34 56 C"),
        ("tessera sanitaria 80380001234567890123", "national_id", "80380001234567890123"),
        ("chiamami al 333 123 4567 domani", "phone", "333 123 4567"),
        ("cell. 3331234567", "phone", "3331234567"),
        ("soita 040 123 4567 illalla", "phone", "040 123 4567"),
        ("call +44 20 7946 0018 now", "phone", "+44 20 7946 0018"),
        ("my mobile number is 07400123456", "phone", "07400123456"),
        ("or (212) 736-5000", "phone", "(212) 736-5000"),
        ("born on 12 March 1980 in Leeds", "birth_date", "12 March 1980"),
        ("nata a Torino il 01/08/1985", "birth_date", "01/08/1985"),
        ("nato il 3 maggio 1971", "birth_date", "3 maggio 1971"),
        ("syntynyt 13. lokakuuta 1952 Turussa", "birth_date", "13. lokakuuta 1952"),
        ("DOB: 1980-03-12", "birth_date", "1980-03-12"),
        ("from 81.2.69.142 at noon", "ip", "81.2.69.142"),
        ("host 2a00:1450:4001:81b::200e up", "ip", "2a00:1450:4001:81b::200e"),
        ("key AKIAIOSFODNN7EXAMPLE", "key", "AKIAIOSFODNN7EXAMPLE"),
        ("password: tr0ub4dor&3x", "key", "tr0ub4dor&3x"),
        ("postgres://me:s3cretpw@db/x", "key", "s3cretpw"),
        ("at 221B Baker Street, London NW1 6XE.", "address", "221B Baker Street, London NW1 6XE"),
        ("in Via Giuseppe Verdi 12, 00184 Roma", "address", "Via Giuseppe Verdi 12, 00184 Roma"),
        ("a Piazza della Repubblica, n. 5", "address", "Piazza della Repubblica, n. 5"),
        ("osoite Mannerheimintie 12 B 4, 00100 Helsinki", "address", "Mannerheimintie 12 B 4, 00100 Helsinki"),
        ("postcode SW1A 1AA", "address", "SW1A 1AA"),
        ("Mr Okonkwo said", "name", "Okonkwo"),
        ("la dott.ssa Bianchi Ferri dice", "name", "Bianchi Ferri"),
        ("Mi chiamo Zoe Quaranta", "name", "Zoe Quaranta"),
        ("Nimeni on Aada Korhonen", "name", "Aada Korhonen"),
        ("Then Anna Virtanen left", "name", "Anna Virtanen"),
        ("Kind regards,\nZelda Quux\n", "name", "Zelda Quux"),
        ("Potilas: Urho Kekkonen", "name", "Urho Kekkonen"),
    ],
)  # fmt: skip
def test_personal_data_is_found(text, kind, piece):
    if text.startswith("la dott"):
        text = text.replace("dott", "Dott")
    assert (kind, piece) in found(text)


@pytest.mark.parametrize(
    "text",
    [
        "icon@2x.png and root@localhost, @anna on the forum",
        "IT60X0542811101000000123457 has a wrong check digit",
        "order 4111111111111112 is no card",
        "RSSMRA85M01H501X is no fiscal code",
        "protocollo 07643520567 del fascicolo",
        "131052-308U is no hetu",
        "part 000-12-3456 and 900-12-3456",
        "reference 123 476 5918",
        "invoice of 12/03/2020, due 2020-04-12, at 14:30",
        "The bridge was opened on 12 March 1980.",
        "version 81.2.69.142 of the firmware, on 192.168.1.10, 127.0.0.1 and 10.0.0.7",
        "the password is required and the token: optional",
        "ISBN 978-3-16-148410-0, 1 234 567 euros, 3.14159265358979",
        "Via Roma is a long street; he lived on Main Street.",
        "The Bank of England and Monte Rosa; Kind regards to the team",
        "Order 20240131 of 1500000 pieces, batch 1234567890",
        "At 10:45:30 the ratio was 1:2:3::",
        "Doctor Who is a series; the professor slept.",
        "In March Rome was cold. Mark my words. Rose Garden Street",
        "section 4.2.1.3 and 2024.01.15",
    ],
)
def test_what_only_looks_like_it_is_left_alone(text):
    assert found(text) == []


def test_checks_are_those_of_the_standards():
    """Luhn of 79927398713: from the right 3 2 7 6 9 6 7 4 9 9 5 (doubled, 9 off): 67 + 3 = 70, which ends in 0."""
    assert luhn("79927398713") and not luhn("79927398710")
    assert iban_valid("FI21 1234 5600 0007 85") and not iban_valid("FI22 1234 5600 0007 85")
    assert not iban_valid("FI21 1234 5600 0007 850")


TEXT = (
    "Dr. Anna Virtanen (hetu 131052-308T, tel +358 40 123 4567, anna@firma.fi) paid 4111-1111-1111-1111 from "
    "FI21 1234 5600 0007 85, born on 13.10.1952, at Mannerheimintie 12 B 4, host 81.2.69.142. Virtanen agreed. "
    "CF RSSMRA85M01H501Q, P.IVA 07643520567, SSN 536-90-4399, NHS 943 476 5919."
)


def test_pseudonyms_are_the_same_for_the_same_person_under_one_seed_and_others_under_another():
    (one,), _ = run([TEXT], action="pseudonym")
    (two, three), _ = run([TEXT, "Mr Virtanen, +358401234567, ANNA@firma.fi"], action="pseudonym")
    (other,), _ = run([TEXT], action="pseudonym", seed=1)
    assert one == two != other
    surname = re.search(r"Dr\. \w+ (\w+) \(", one)[1]
    assert surname != "Virtanen" and f" {surname} agreed" in one and f"Mr {surname}," in three
    assert re.search(r"user\w+@example\.org", one)[0] in three
    digits = re.sub(r"\D", "", re.search(r"tel (\+358[\d ]+),", one)[1])
    assert digits in three


def test_pseudonyms_have_the_form_of_what_they_replace():
    (text,), _ = run([TEXT], action="pseudonym")
    for original in re.findall(r"[\w@.+-]*\d[\w@.+-]*", TEXT):
        assert len(original) < 6 or original not in text, original
    assert luhn(re.sub(r"\D", "", re.search(r"paid ([\d-]+)", text)[1]))
    assert iban_valid(re.search(r"from (FI[\d ]+),", text)[1])
    kinds = sorted(kind for kind, _ in found(text))
    # a pseudonymous phone, hetu, SSN and private address have the form and belong to nobody, so they are not found again
    assert kinds == ["address", "birth_date", "card", "email", "iban", *["name"] * 2, *["national_id"] * 3]
    hetu = re.search(r"hetu (\S+),", text)[1]
    assert hetu[7] == "9" and text.split("SSN ")[1].startswith("9")


def test_pseudonyms_are_right_for_many_values():
    from stdnum.fi import hetu
    from stdnum.it import codicefiscale

    from bottega.data.clean.identifiers import Found
    from bottega.data.clean.pseudonyms import Pseudonyms

    for seed in range(200):
        make = Pseudonyms(seed).of
        assert iban_valid(make(Found(0, 0, "iban", "GB82WEST12345698765432")))
        assert luhn(make(Found(0, 0, "card", "378282246310005")))
        assert hetu.is_valid(
            make(
                Found(0, 0, "national_id", "131052-308T", "fi.hetu"),
            ),
            allow_temporary=True,
        )
        assert codicefiscale.is_valid(make(Found(0, 0, "national_id", "RSSMRA85M01H501Q", "it.codicefiscale")))
        date = make(Found(0, 0, "birth_date", "13. lokakuuta 1952"))
        assert re.fullmatch(r"\d+\. lokakuuta 19(?:50|51|52|53|54)", date)


def test_masks_and_drops_count_what_they_found_and_show_none_of_it():
    (masked, same), account = run([TEXT, "Nothing here."])
    assert same == "Nothing here." and "[NAME] (hetu [NATIONAL_ID], tel [PHONE], [EMAIL])" in masked
    assert account.found["national_id"] == 5 and account.found["name"] == 2 and account.changed == 1
    kept, gone = run([TEXT, "Nothing here."], action="drop", kinds=("email", "card"))
    assert kept == ["Nothing here."] and dict(gone.rejected) == {"holds personal data (card, email)": 1}
    for example in (*account.examples, *gone.examples):
        assert not any(word in example for word in ("Virtanen", "131052", "4567", "firma", "1111"))


def test_a_surname_is_found_again_in_other_turns_of_the_same_chat():
    turns = (
        Turn(role="user", content="I am with Anna Virtanen."),
        Turn(role="assistant", content="Greet Virtanen for me."),
    )
    account = Account(name="personal", options={}, seed=0, sink=lambda rejected: None)
    (item,) = personal()(iter([Item(0, Conversation(turns=turns, meta={"mail": "a@b.example.com"}))]), account)
    assert [turn.content for turn in item.sample.turns] == ["I am with [NAME].", "Greet [NAME] for me."]
    assert item.sample.meta == {"mail": "[EMAIL]"}


def test_examples_hide_what_needs_no_package():
    assert hidden("Mr Rossi, a@b.example.com, order 1234567890") == "Mr [NAME], [EMAIL], order ##########"


@pytest.mark.parametrize("package", ["phonenumbers", "stdnum"])
def test_without_a_package_its_kind_is_refused_and_the_others_work(monkeypatch, package):
    monkeypatch.setattr("bottega.data.clean.identifiers.find_spec", lambda name: None if name == package else True)
    with pytest.raises(UserError, match=r"pip install 'bottega\[pii\]', or leave it out of kinds"):
        personal()
    assert personal(kinds=("email", "name"))


def test_hostile_texts_take_time_in_proportion():
    """A quadratic pattern would need minutes for these; each is 20,000 characters."""
    for piece in (
        "a@",
        "1",
        "1 ",
        "A ",
        "Anna ",
        "Via IIII ",
        "12.",
        "::",
        "Aa Bb ",
        "://a:",
        "IT60 ",
        "born 1",
        "eyJa",
        "sk-a-",
        "x" * 50,
    ):
        personal().find([piece * (20_000 // len(piece))])
