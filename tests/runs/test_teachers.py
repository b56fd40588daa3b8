"""Experts teach the tasks at which they are good, where nobody says which these are."""

from collections.abc import Mapping, Sequence

import pytest

from crossbreed.fitness import Loglikelihood, Prompt, Response
from crossbreed.runs.regression.teachers import taught
from crossbreed.runs.regression.texts import Asked, Golds
from crossbreed.runs.spec.regression import RegressionConfig, SamplesConfig

NATS = {
    "base": {"sums": 3.0, "french": 4.0},
    "sums": {"sums": 0.1, "french": 4.1},
    "both": {"sums": 1.0, "french": 0.5},
    "slight": {"sums": 2.9, "french": 3.9},
    "noise": {"sums": 3.2, "french": 4.4},
    "broken": {"sums": float("nan"), "french": float("nan")},
}


def golds(task: str, number: int = 3) -> Golds:
    requests = tuple(Loglikelihood(prompt=Prompt(text=task), continuation=f" {n}") for n in range(number))
    return Golds(task=task, requests=requests, asking=None)


def asked(*, is_given: bool = False, samples: SamplesConfig | None = None, number: int = 3) -> Asked:
    return Asked(golds=(golds("sums", number), golds("french", number)), samples=samples, seed=0, is_given=is_given)


def answer(name: str, requests: Sequence[Loglikelihood]) -> list[Response]:
    return [
        Response(text="", token_ids=(1, 2), logprobs=(-NATS[name][str(r.prompt.text)],) * 2, prompt_tokens=1)
        for r in requests
    ]


def tasks(found: Mapping[str, Asked]) -> dict[str, list[str]]:
    return {name: [golds.task for golds in one.golds] for name, one in found.items()}


def test_an_expert_teaches_what_it_gains_half_as_much_at_as_the_best() -> None:
    found = taught({name: asked() for name in NATS if name != "base"}, answer)
    assert tasks(found) == {"sums": ["sums"], "both": ["sums", "french"]}


def test_what_was_given_stays_and_counts_as_the_best() -> None:
    found = taught({"sums": asked(is_given=True), "slight": asked(), "noise": asked(is_given=True)}, answer)
    assert tasks(found) == {"sums": ["sums", "french"], "slight": ["french"], "noise": ["sums", "french"]}
    nobody = {"sums": asked(is_given=True), "noise": asked(is_given=True)}
    assert taught(nobody, lambda *_: pytest.fail("nothing is to be found out")) == nobody


def test_where_no_expert_gains_all_are_kept() -> None:
    assert tasks(taught({"noise": asked(), "broken": asked()}, answer)) == {
        "noise": ["sums", "french"],
        "broken": ["sums", "french"],
    }


def test_prompts_alone_tell_nothing_and_who_writes_samples_stays() -> None:
    assert tasks(taught({"noise": asked(number=0)}, answer)) == {"noise": ["sums", "french"]}
    found = taught({"sums": asked(), "both": asked(), "noise": asked(samples=SamplesConfig())}, answer)
    assert tasks(found)["noise"] == []


def test_who_says_the_tasks() -> None:
    config = RegressionConfig(tasks={"other": ["sums"]})
    said = {name: config.says_tasks_of(name, ["sums", "french"]) for name in ("sums", "other", "noise")}
    assert said == {"sums": True, "other": True, "noise": False}
    assert config.tasks_of("noise", ["sums", "french"]) == ["sums", "french"]
