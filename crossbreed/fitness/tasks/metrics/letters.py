"""The letter of the option that a text chooses."""

import unicodedata

import regex as re

_BESIDE = r"\p{Latin}\p{M}\d_'\u2019"
"""What makes a letter beside it a part of a word; scripts that put no space between words do not."""
_BOXED = re.compile(r"\\boxed\{\s*(?:\\text\w*\{)?\s*\(?\s*([A-Z])\b")
_STATED = re.compile(
    r"(?i:\b(?:answer|option|choice))(?i:\s+is|\s+would\s+be|\s+letter)?[\s:=*_(\[\"'\u201c`$]*"
    rf"(?i:(?:option|choice)[\s:*_(\[\"'`$]*)?(?<![A-Za-z])([A-Z])(?![{_BESIDE}])"
)
_ALONE = re.compile(r"[\W_]*([A-Za-z])[\W_]*")
_LEADING = re.compile(r"[\s*_(\[\"'\u201c`$]*(?:([A-Z])[*_`$]*(?=[).:,\]\n]|$)|([a-z])[*_`$]*\))")
_STANDALONE = re.compile(rf"(?<![{_BESIDE}.])([A-Z])(?![{_BESIDE}])(?!\.[A-Z])")
_ARTICLES = re.compile(
    rf"(?<![{_BESIDE}.])(?:I (?=[a-z])|A (?=[a-z])(?!(?:and|as|because|is|must|nor|or|since|would)\b))"
)
"""`A dog`, `I think`: words, not options; `A is right` is one."""


def stated_letter(text: str) -> str | None:
    r"""Returns the letter that a text chooses; None if it chooses none, or names several without choosing.

    The first of these that it has: the last `\boxed{B}`; the last `answer is B` or `option B`; a letter at its
    beginning, alone or before one of `).:,]`; one and the same capital letter wherever it stands alone.

    >>> stated_letter("b"), stated_letter("(C) Rome"), stated_letter("Not A. The answer is: B"), stated_letter("A B")
    ('B', 'C', 'B', None)
    """
    normal = unicodedata.normalize("NFKC", text).strip()
    for found in (_BOXED.findall(normal), _STATED.findall(normal)):
        if found:
            return str(found[-1])
    if (letter := only_letter(normal)) is not None:
        return letter
    if leading := _LEADING.match(normal):
        return str(leading[1] or leading[2]).upper()
    named = set(_STANDALONE.findall(_ARTICLES.sub("", normal)))
    return named.pop() if len(named) == 1 else None


def only_letter(gold: str) -> str | None:
    """Returns the letter of a gold, in either case and with whatever signs around it; None if it is no single letter.

    >>> only_letter("(b)"), only_letter("Paris")
    ('B', None)
    """
    alone = _ALONE.fullmatch(unicodedata.normalize("NFKC", gold))
    return alone[1].upper() if alone else None
