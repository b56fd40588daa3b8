"""The language of a text, as a condition beside another metric: right, and in the right language."""

from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, TypeAlias

from pydantic import Field

from crossbreed.config import Config
from crossbreed.errors import InputError
from crossbreed.fitness.tasks.metrics.metric import Metric
from crossbreed.parsing import any_of, suggestion

if TYPE_CHECKING:
    from lingua import LanguageDetector

_Code: TypeAlias = Annotated[str, Field(pattern="^[a-z]{2}$")]


class Languages(Config):
    """The language of the metric `language`."""

    code: _Code
    """The ISO 639-1 code of the language that texts are to be in: `fr`."""
    among: Annotated[tuple[_Code, ...], Field(min_length=2)]
    """The codes of the languages that are told apart, the wanted one among them: fewer are told apart better."""


Language: TypeAlias = _Code | Languages
"""The setting: a code alone is told from those of `WIDESPREAD`."""
WIDESPREAD = ("ar", "de", "en", "es", "fr", "it", "ja", "ko", "nl", "pt", "ru", "zh")
"""Of all 75 that lingua knows the models take 20 s to load, and 0.7 GB."""


def language(text: str, gold: str, wanted: Language) -> bool:
    """The text is in a language, by lingua; a text of numbers alone is in none. The gold is not looked at."""
    code, among = _parts(wanted)
    found = _detector(among).detect_language_of(text)
    return found is not None and found.iso_code_639_1.name.lower() == code


def check_languages(wanted: Language) -> None:
    """Raises InputError unless lingua knows the languages, and the wanted one is among those told apart."""
    from lingua import Language as Known

    known = sorted(one.iso_code_639_1.name.lower() for one in Known.all())
    code, among = _parts(wanted)
    for name in (code, *among):
        if name not in known:
            raise InputError(
                f"no language `{name}` is known to the metric `language`",
                expected=f"one of {any_of(known)}",
                got=name,
                fix=suggestion(name, known) or "name another language",
            )
    if code not in among:
        raise InputError(
            "the language of a metric is not among those that are told apart",
            expected=f"`{code}` in `among`",
            got=any_of(among),
            fix=f"add `{code}` to `among`",
        )


def _parts(wanted: Language) -> tuple[str, tuple[str, ...]]:
    """Returns a language and those that it is told from, itself among them."""
    if isinstance(wanted, str):
        return wanted, tuple(sorted({wanted, *WIDESPREAD}))
    return wanted.code, wanted.among


@lru_cache(maxsize=8)
def _detector(among: tuple[str, ...]) -> "LanguageDetector":
    from lingua import IsoCode639_1, LanguageDetectorBuilder

    codes = [getattr(IsoCode639_1, code.upper()) for code in among]
    return LanguageDetectorBuilder.from_iso_codes_639_1(*codes).build()


LANGUAGE = Metric(function=language, setting=Language, uses_gold=False, needs=("lingua",), check=check_languages)
