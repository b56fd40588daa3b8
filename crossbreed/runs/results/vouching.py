"""The source of a fingerprint: crossbreed, which hashed the weights, or an engine that took only the recipe."""

from enum import StrEnum

from crossbreed.fitness import ENGINES, EngineConfig
from crossbreed.fitness.engines.registry import Takes
from crossbreed.types import Score, Status


class Vouching(StrEnum):
    """The source of a fingerprint."""

    FINGERPRINTED = "fingerprinted"
    """crossbreed made the weights, or the adapter, and computed the fingerprint."""
    ENGINE = "as the engine says"
    """The engine made the weights and reported the fingerprint."""
    NONE = "not vouched for"
    """The engine made the weights, and does not say which."""
    UNKNOWN = "not known here"
    """The engine is not installed, so that nothing is known of what it was given."""

    @property
    def caveat(self) -> str | None:
        """A sentence for reports; None if crossbreed computed the fingerprint."""
        match self:
            case Vouching.ENGINE:
                return "Weights: as the engine says. It takes recipes; crossbreed has not seen the weights."
            case Vouching.NONE:
                return "Weights: not vouched for. The engine takes recipes, and reports no fingerprint."
        return None


def takes_of(engine: EngineConfig) -> Takes:
    """Returns what the engine of a spec takes."""
    return ENGINES[engine.kind].takes


def vouching_of(score: Score, takes: Takes | None) -> Vouching | None:
    """Returns what the fingerprint of a score rests on; None where nothing was measured.

    Args:
        score: The score of a trial.
        takes: What the engine is given; None where it is not installed.
    """
    if score.status is not Status.OK:
        return None
    if takes is None:
        return Vouching.UNKNOWN
    if takes != "recipe":
        return Vouching.FINGERPRINTED
    return Vouching.NONE if score.fingerprint is None else Vouching.ENGINE
