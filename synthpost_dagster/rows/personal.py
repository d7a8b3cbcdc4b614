"""Personal data in texts: e-mail addresses, phone numbers, payment card numbers."""

import re

from synthpost_dagster.text.normalize import plain

KINDS = ("e-mail", "phone", "card")
_EMAIL = re.compile(r"(?<![\w.+-])[\w.+-]+@[\w-]+(?:\.[\w-]+)*\.[^\W\d_][\w-]+")
_CARD = re.compile(
    r"(?<!\w)(?:(?:4\d{3}|5[1-5]\d\d|2[2-7]\d\d|6\d{3})(?:[ -]?\d{4}){3}|3[47]\d\d[ -]?\d{6}[ -]?\d{5})(?!\w)"
)
"""16 digits as Visa, Mastercard, Discover and others group them, or 15 as American Express does."""
_SEVEN_DIGITS = re.compile(r"(?:\d\D{0,3}){7}")
"""A text without seven digits close together has no phone number; the search for one is slow."""
_EVEN_DOUBLED = (0, 2, 4, 6, 8, 1, 3, 5, 7, 9)


def personal_data(text: str, region: str) -> list[tuple[str, str]]:
    """(kind, text found), in the order of KINDS, with plain spaces and hyphens.

    Phone numbers must be valid, with a country code or in the national form of `region` (two-letter ISO 3166 code).
    Card numbers have the form of the large brands and a valid check digit (ISO/IEC 7812).
    """
    text = plain(text)
    found = [("e-mail", match) for match in _EMAIL.findall(text)] if "@" in text else []
    if not _SEVEN_DIGITS.search(text):
        return found
    cards = [match for match in _CARD.findall(text) if _is_card(match)]
    without_cards = _CARD.sub(lambda match: " " if _is_card(match.group()) else match.group(), text)
    return found + [("phone", number) for number in _phones(without_cards, region)] + [("card", card) for card in cards]


def _phones(text: str, region: str) -> list[str]:
    from phonenumbers import Leniency, PhoneNumberMatcher

    return [match.raw_string for match in PhoneNumberMatcher(text, region, leniency=Leniency.VALID)]


def _is_card(text: str) -> bool:
    """Whether the check digit is valid (Luhn) and the digits are not all the same."""
    digits = [int(sign) for sign in text if sign.isdigit()]
    total = sum(digits[-1::-2]) + sum(_EVEN_DOUBLED[digit] for digit in digits[-2::-2])
    return total % 10 == 0 and len(set(digits)) > 1
