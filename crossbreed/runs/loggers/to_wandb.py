"""Logs a run to Weights & Biases: numbers alone, without console output, code or the state of a git repository."""

import secrets
from collections.abc import Mapping

import wandb

from crossbreed.runs.loggers.config import WandbConfig
from crossbreed.runs.loggers.sink import About

_LOGIN_S = 1.0
"""Nobody is there to type a key: a run asks nothing."""
_FINISH_S = 5.0
"""At the end; what is still not sent is kept for `wandb sync`."""


class WandbSink:
    """See Sink."""

    def __init__(self, config: WandbConfig, about: About) -> None:
        """Creates a run, or continues one."""
        self._run = wandb.init(
            project=config.project or about.name,
            entity=config.entity,
            name=about.name,
            id=about.resumed_id or secrets.token_hex(8),
            resume="allow",
            config=dict(about.settings),
            dir=about.folder,
            mode=config.mode,
            settings=wandb.Settings(
                console="off",
                silent=True,
                disable_git=True,
                save_code=False,
                login_timeout=_LOGIN_S,
                finish_timeout=_FINISH_S,
            ),
        )

    @property
    def id(self) -> str:
        """The id of the run in its project."""
        return str(self._run.id)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """See Sink. Offline, a run that goes on counts its own steps anew: `trials` is what to plot over."""
        self._run.log({**values, "trials": step})

    def summarize(self, values: Mapping[str, float]) -> None:
        """See Sink."""
        self._run.summary.update(dict(values))

    def close(self, *, is_over: bool) -> None:
        """See Sink."""
        self._run.finish(exit_code=0 if is_over else 1)
