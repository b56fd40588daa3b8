"""Texts as metrics see them: in one form of Unicode, and as words."""

import unicodedata

import regex

_UNDIVIDED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
"""Scripts that put no space between words: each of their characters counts as one."""
_WORDS = regex.compile(rf"(?V1)[{_UNDIVIDED}]\p{{M}}*|[[\p{{L}}\p{{M}}\p{{N}}]--[{_UNDIVIDED}]]+")
_PIECES = regex.compile(rf"(?V1)[{_UNDIVIDED}]\p{{M}}*|[\S--[{_UNDIVIDED}]]+")


def normal(text: str) -> str:
    """Returns a text in Unicode's normal form C: é is one character, or an e and an accent."""
    return unicodedata.normalize("NFC", text)


def folded(text: str) -> str:
    """Returns a text stripped and in normal form C."""
    return normal(text).strip()


def words(text: str) -> list[str]:
    """Returns the runs of letters and digits in a text.

    >>> words("Don't panic_now"), words("東京")
    (['Don', 't', 'panic', 'now'], ['東', '京'])
    """
    found: list[str] = _WORDS.findall(normal(text))
    return found


def pieces(text: str) -> list[str]:
    """Returns what white space divides, and each character of a script without spaces."""
    found: list[str] = _PIECES.findall(normal(text))
    return found
