"""A pool of Ray's ends what it has started, and nothing else."""

import pytest

from crossbreed.runs.search.pool import Job
from crossbreed.runs.workers.ray_pool import RayPool
from crossbreed.types import Score, Status

pytestmark = pytest.mark.engine


def pool() -> RayPool:
    class Evaluator:  # sent to the workers as it stands here: they do not know the tests
        def evaluate(self, job: Job) -> Score:
            return Score(status=Status.OK)

        def close(self) -> None:
            pass

    return RayPool(Evaluator, count=1, cpus=1, gpus=0, address=None, retries=0)


def test_a_connection_of_its_own_is_closed_and_one_that_was_there_is_left_open() -> None:
    import ray

    pool().close()
    assert not ray.is_initialized()

    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)
    try:
        started = pool()
        started.submit(Job(number=0, split="search", recipe=None))
        while (answered := started.wait()) is None:
            pass
        assert answered.score.status is Status.OK
        assert ray.available_resources().get("CPU", 0) == 0
        started.close()
        assert ray.is_initialized()
        assert ray.get(ray.remote(num_cpus=1)(lambda: 7).remote(), timeout=60) == 7, "a worker still holds the CPU"
    finally:
        ray.shutdown()
