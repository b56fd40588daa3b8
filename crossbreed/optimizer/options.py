"""What the options of every optimizer can say of themselves."""

from crossbreed.config import Config
from crossbreed.types import SlopeKind


class Options(Config):
    """Base of the options of an optimizer."""

    @property
    def slope_kind(self) -> SlopeKind | None:
        """By what the optimizer compares experts, where its outcomes need slopes from a gradient; None: they do not."""
        return None
