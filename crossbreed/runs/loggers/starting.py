"""The loggers by their settings: each is imported when it is started."""

from crossbreed.runs.loggers.config import LogConfig, MlflowConfig, WandbConfig
from crossbreed.runs.loggers.sink import About, Sink


def start_sink(config: LogConfig, about: About) -> Sink:
    """Starts or continues a logger's run: imports its package, and may take as long as its server does."""
    if isinstance(config, MlflowConfig):
        from crossbreed.runs.loggers.to_mlflow import MlflowSink

        return MlflowSink(config, about)
    if isinstance(config, WandbConfig):
        from crossbreed.runs.loggers.to_wandb import WandbSink

        return WandbSink(config, about)
    from crossbreed.runs.loggers.to_tensorboard import TensorboardSink

    return TensorboardSink(config, about)
