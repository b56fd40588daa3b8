"""Does a step of Frank-Wolfe take more memory with more experts? `python -m benchmarks.slopes_memory`.

On the SmolLM2 zoo with 3 and with 11 experts, each in a process of its own: two candidates are merged into a
transformers engine, and their slopes taken. Prints the most anonymous memory (what is not a file's), and the seconds.
"""

import argparse
import json
import subprocess
import sys
import threading
import time
from pathlib import Path

from benchmarks.distractors import ROWS, spec_of
from crossbreed.runs import build_plan
from crossbreed.runs.plan import Plan
from crossbreed.runs.search.pool import Job
from crossbreed.runs.workers.worker import Worker


class Peak:
    """The most anonymous memory of this process, looked at every five milliseconds."""

    def __init__(self) -> None:
        self.bytes, self._ended = 0, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def end(self) -> int:
        """Returns the peak."""
        self._ended.set()
        self._thread.join()
        return self.bytes

    def _watch(self) -> None:
        while not self._ended.wait(0.005):
            status = Path("/proc/self/status").read_text()
            self.bytes = max(self.bytes, 1024 * int(status.partition("RssAnon:")[2].split()[0]))


def plan_of(name: str) -> Plan:
    """The benchmark's plan, with transformers alone and few items."""
    engine = {"kind": "transformers", "dtype": "float32", "max_model_len": 512}
    return build_plan(spec_of(name, trials=1, split={"search": 8, "select": 1, "report": 1}, engine=engine))


def measure(name: str) -> dict[str, float]:
    """Two evaluations with slopes: the second finds all norms known."""
    plan = plan_of(name)
    peak, worker, decoder = Peak(), Worker(plan), plan.space.decoder(seed=plan.spec.seed)
    for number, weight in enumerate((0.3, 0.2), start=1000):
        start = time.perf_counter()
        recipe = decoder.create(number, (weight,) * len(plan.coordinates))
        score = worker.evaluate(Job(number=number, split="search", recipe=recipe, stage=0))
        seconds = {"trial_s": time.perf_counter() - start, "slopes_s": score.cost.seconds["slopes"]}
    return {"experts": len(plan.weights.sources.experts), "anonymous_gb": peak.end() / 1e9, **seconds}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=list(ROWS))
    if only := parser.parse_args().only:
        print(json.dumps(measure(only)))
    else:
        for name in ("frank_wolfe", "frank_wolfe+8"):
            command = [sys.executable, "-m", "benchmarks.slopes_memory", "--only", name]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            print(done.stdout.splitlines()[-1], flush=True)
