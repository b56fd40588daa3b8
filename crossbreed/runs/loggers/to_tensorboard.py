"""Logs a run to TensorBoard's event files, by `torch.utils.tensorboard`; a run that goes on adds a file."""

from collections.abc import Mapping

from torch.utils.tensorboard import SummaryWriter

from crossbreed.runs.loggers.config import TensorboardConfig
from crossbreed.runs.loggers.sink import About


class TensorboardSink:
    """See Sink."""

    def __init__(self, config: TensorboardConfig, about: About) -> None:
        """Opens the folder."""
        self._folder = config.folder or str(about.folder / "tensorboard")
        self._writer = SummaryWriter(self._folder)
        if about.resumed_id is None:
            self._writer.add_text("run", "  \n".join(f"{key}: {value}" for key, value in about.settings.items()))

    @property
    def id(self) -> str:
        """A constant: the folder is the run."""
        return "events"

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """See Sink."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def summarize(self, values: Mapping[str, float]) -> None:
        """See Sink."""
        self.log(0, values)

    def close(self, *, is_over: bool) -> None:
        """See Sink."""
        self._writer.close()
