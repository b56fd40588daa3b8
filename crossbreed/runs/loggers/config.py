"""The settings of live logging: `log:` in a spec."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, field_validator

from crossbreed.config import Config, InputPath
from crossbreed.errors import InputError, require
from crossbreed.parsing import shown, suggestion

_NEEDS = {"mlflow": ("mlflow",), "wandb": ("wandb",), "tensorboard": ("torch", "tensorboard")}
"""Logger -> the packages that it needs, which the extra of its name installs."""


class MlflowConfig(Config):
    """A run of MLflow (`pip install 'crossbreed[mlflow]'`)."""

    to: Literal["mlflow"]
    """MLflow."""
    uri: str | None = None
    """The tracking server or store, without user name and password: MLflow reads them from `MLFLOW_TRACKING_USERNAME`
    and `MLFLOW_TRACKING_PASSWORD`. Default: `MLFLOW_TRACKING_URI`, or MLflow's own."""
    experiment: str | None = None
    """Default: the spec's name."""

    @field_validator("uri")
    @classmethod
    def _holds_no_secret(cls, uri: str | None) -> str | None:
        """The spec is copied into the run folder."""
        if uri is not None and (urlsplit(uri).username or urlsplit(uri).password):
            raise InputError(
                "`log.uri` holds a user name or a password, which would be copied into the run folder",
                expected="an address without them",
                got=f"one for {urlsplit(uri).hostname} that has them",
                where="log.uri",
                fix="set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, which MLflow reads",
            )
        return uri


class WandbConfig(Config):
    """A run of Weights & Biases (`pip install 'crossbreed[wandb]'`). The key is `wandb login`'s, or WANDB_API_KEY."""

    to: Literal["wandb"]
    """Weights & Biases."""
    project: str | None = None
    """Default: the spec's name."""
    entity: str | None = None
    """The user or team. Default: the key's."""
    mode: Literal["online", "offline"] = "online"
    """`offline`: into the run folder, for `wandb sync` later."""


class TensorboardConfig(Config):
    """Event files of TensorBoard (`pip install 'crossbreed[tensorboard]'`)."""

    to: Literal["tensorboard"]
    """TensorBoard."""
    folder: InputPath | None = None
    """Default: the folder `tensorboard` of the run folder."""


def _names_a_logger(given: Any) -> Any:  # whatever the caller gave pydantic
    name = given.get("to") if isinstance(given, Mapping) else getattr(given, "to", given)
    is_known = name in tuple(_NEEDS)  # a tuple: what was given need not be hashable
    if not is_known or isinstance(given, str):
        raise InputError(
            "`log` is not a mapping" if is_known else "`log` names no logger",
            expected=" or ".join(f"{{to: {known}}}" for known in _NEEDS),
            got=shown(given),
            where="log",
            fix=f"write log: {{to: {name}}}" if is_known else suggestion(name, _NEEDS),
        )
    return given


LogConfig: TypeAlias = Annotated[
    MlflowConfig | WandbConfig | TensorboardConfig, Field(discriminator="to"), BeforeValidator(_names_a_logger)
]


def require_logger(config: LogConfig) -> None:
    """Raises MissingExtra if the packages of a logger are not installed."""
    for package in _NEEDS[config.to]:
        require(package, extra=config.to)
