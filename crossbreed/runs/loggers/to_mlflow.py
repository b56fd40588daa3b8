"""Logs a run to MLflow, by `mlflow.MlflowClient`: no global state of MLflow is touched."""

import time
from collections.abc import Mapping

from mlflow import MlflowClient
from mlflow.entities import Metric, Param

from crossbreed.runs.loggers.config import MlflowConfig
from crossbreed.runs.loggers.sink import About


class MlflowSink:
    """See Sink."""

    def __init__(self, config: MlflowConfig, about: About) -> None:
        """Creates a run in the experiment, which is created too if there is none; or continues one."""
        self._client = MlflowClient(tracking_uri=config.uri)
        if about.resumed_id is not None:
            self._run_id = about.resumed_id
            self._client.update_run(self._run_id, status="RUNNING")
            return
        name = config.experiment or about.name
        found = self._client.get_experiment_by_name(name)
        experiment_id = found.experiment_id if found else self._client.create_experiment(name)
        self._run_id = self._client.create_run(experiment_id, run_name=about.name).info.run_id
        params = [Param(key, value[:500]) for key, value in about.settings.items()]
        self._client.log_batch(self._run_id, params=params)

    @property
    def id(self) -> str:
        """The id of MLflow's run."""
        return self._run_id

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """See Sink."""
        now_ms = int(time.time() * 1000)
        metrics = [Metric(name, value, now_ms, step) for name, value in values.items()]
        self._client.log_batch(self._run_id, metrics=metrics)

    def summarize(self, values: Mapping[str, float]) -> None:
        """See Sink. MLflow shows the last point of a curve as the run's result."""
        self.log(0, values)

    def close(self, *, is_over: bool) -> None:
        """See Sink."""
        self._client.set_terminated(self._run_id, status="FINISHED" if is_over else "KILLED")
