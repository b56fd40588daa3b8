"""A candidate that an engine has loaded, in whatever form it was given."""

from collections.abc import Mapping
from dataclasses import dataclass

from crossbreed.fitness import Handle


@dataclass(frozen=True, slots=True, kw_only=True)
class Adopted:
    """A candidate that the engine has loaded."""

    handle: Handle
    fingerprint: str | None
    """The fingerprint of its weights: computed here, or vouched for by the engine."""
    seconds: Mapping[str, float]
    """Phase -> seconds spent on building it."""
    remark: str | None = None
    """What its scores have to be read with."""
