"""A judge over a real connection: what becomes a value, what an abstention, what a fault; never a zero of its own."""

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from judge_server import JudgeServer, completion, judging, refused
from judge_specs import evaluated, judged, setting, task_of

from crossbreed.errors import EngineError, InputError, ServiceOutage
from crossbreed.fitness import METRICS, GenerateTask, Surroundings, load_tasks
from crossbreed.fitness.services.appending import append_line
from crossbreed.fitness.tasks.metrics.judge.asking import AskedJudge, Memory, Said
from crossbreed.fitness.tasks.metrics.judge.metric import Judge

RIGHT = ("0", "7", "14", "21")


@pytest.fixture
def server() -> Iterator[JudgeServer]:
    with judging() as found:
        yield found


def about(body: dict[str, Any], answer: str) -> bool:
    return f"\nAnswer: {answer}\n" in body["messages"][-1]["content"]


def test_right_and_wrong_answers(server: JudgeServer, tmp_path: Path) -> None:
    found = judged(tmp_path, server.url, "0", "?", "14", "?").tasks["red"]
    assert found.values == (1, 0, 1, 0)
    assert found.abstained == ()
    assert found.agreement is None
    body = server.asked[0]
    assert (body["model"], body["temperature"], body["seed"], body["max_tokens"]) == ("judge", 0, 0, 512)


def test_a_request_that_is_told_to_wait_waits(server: JudgeServer, tmp_path: Path) -> None:
    server.fault = lambda _, number: refused(429, "slowly", **{"Retry-After": "1"}) if number == 1 else None
    began = time.monotonic()
    assert judged(tmp_path, server.url, *RIGHT).tasks["red"].values == (1, 1, 1, 1)
    assert time.monotonic() - began >= 1


def test_a_judge_that_is_silent_is_a_fault_and_no_zero(server: JudgeServer, tmp_path: Path) -> None:
    server.fault = lambda body, _: 0.8 if about(body, "?") else None
    with pytest.raises(EngineError, match=r"no answer within 0\.1 s"):
        judged(tmp_path, server.url, "0", "?", timeout=0.1, patience=0.5)


def test_what_is_no_completion_is_asked_again(server: JudgeServer, tmp_path: Path) -> None:
    answers = [refused(500, "broken"), completion("Yes", model="")]
    answers[1].body = b'{"choices": []}'
    del answers[1].headers["content-length"]
    answers[1].init_headers()
    server.fault = lambda _, number: answers[number - 1] if number <= 2 else None
    assert judged(tmp_path, server.url, "0", number=1).tasks["red"].values == (1,)


def test_a_judge_that_is_away_is_an_outage_of_which_nobody_pays(server: JudgeServer, tmp_path: Path) -> None:
    server.fault = lambda _, number: refused(503, "closed") if number > 1 else None
    with pytest.raises(ServiceOutage, match=r"(?s)metric\.judge\.patience.*`patience: \d+` of the judge waits longer"):
        judged(tmp_path, server.url, *RIGHT, patience=0.3, concurrency=1)


def test_nonsense_is_a_counted_abstention_that_moves_no_mean(server: JudgeServer, tmp_path: Path) -> None:
    server.fault = lambda body, _: "I would rather not." if about(body, "?") else None
    texts = ("?", *(f"{n * 7 % 97}" for n in range(1, 18)), "wrong", "wrong")
    found = judged(tmp_path, server.url, *texts, number=20, most_abstentions=0.05).tasks["red"]
    assert found.abstained == (0,)
    assert found.values == (pytest.approx(17 / 19), *[1] * 17, 0, 0)
    assert found.mean == pytest.approx(17 / 19)


def test_too_many_abstentions_are_a_failure_that_says_why(server: JudgeServer, tmp_path: Path) -> None:
    server.fault = lambda body, _: "I would rather not." if about(body, "?") else None
    with pytest.raises(EngineError, match=r"no verdict on 2 of 4 answers.*0\.25; item `i1`.*rather not"):
        judged(tmp_path, server.url, "0", "?", "14", "?", most_abstentions=0.25)


@pytest.mark.parametrize(("said", "why"), [(None, "no verdict in ''"), ("x", "no verdict in 'x'")])
def test_all_abstain_even_where_half_may(server: JudgeServer, tmp_path: Path, said: str | None, why: str) -> None:
    server.fault = lambda *_: completion(said)
    with pytest.raises(EngineError, match=f"4 of 4 answers.*{why}"):
        judged(tmp_path, server.url, *RIGHT, most_abstentions=0.99)


def test_a_verdict_in_an_answer_that_was_cut_is_none(server: JudgeServer, tmp_path: Path) -> None:
    server.fault = lambda *_: completion("yes", ended="length")
    with pytest.raises(EngineError, match="it wrote more than `max_tokens`: 512"):
        judged(tmp_path, server.url, *RIGHT)


def test_repeats_that_contradict_one_another_abstain(server: JudgeServer, tmp_path: Path) -> None:
    server.fault = lambda body, _: ("yes" if body["seed"] else "no") if about(body, "7") else None
    found = judged(tmp_path, server.url, *RIGHT, repeats=3, most_abstentions=0.25).tasks["red"]
    assert found.abstained == (1,)
    assert found.values == (1, 1, 1, 1)
    assert found.agreement == 0.75
    assert len(server.asked) == 12


def test_marks_that_are_near_one_another_are_averaged(server: JudgeServer, tmp_path: Path) -> None:
    server.fault = lambda body, _: f"Rating: {6 + body['seed']}/10"
    found = judged(tmp_path, server.url, *RIGHT, repeats=3, scale=[0, 10], tolerance=0.2).tasks["red"]
    assert found.values == pytest.approx((0.7,) * 4)
    assert found.agreement == 0
    with pytest.raises(EngineError, match=r"it contradicts itself: 0\.6, 0\.7, 0\.8"):
        judged(tmp_path, server.url, *RIGHT, repeats=3, scale=[0, 10], tolerance=0.1)


def test_a_question_that_is_refused_is_an_abstention(server: JudgeServer, tmp_path: Path) -> None:
    """As a filter does, or a context that is too short; if all is refused, the settings are wrong."""
    server.fault = lambda body, _: refused(400, "content filter") if about(body, "7") else None
    found = judged(tmp_path, server.url, *RIGHT, most_abstentions=0.25).tasks["red"]
    assert found.abstained == (1,)
    server.fault = lambda *_: refused(400, "max_tokens is not supported")
    with pytest.raises(InputError, match=r"(?s)the judge refuses: max_tokens is not supported.*`options`"):
        judged(tmp_path, server.url, *RIGHT)


def test_what_other_metrics_settle_is_not_asked(server: JudgeServer, tmp_path: Path) -> None:
    judge = {"judge": setting(server.url)}
    both = task_of(tmp_path, {"all": ["contains", judge]})
    assert evaluated(both, "0", "?", "14", "?").tasks["red"].values == (1, 0, 1, 0)
    assert len(server.asked) == 2
    server.fault = lambda *_: "perhaps"
    either = task_of(tmp_path, {"any": ["contains", judge]})
    assert evaluated(either, *RIGHT).tasks["red"].values == (1, 1, 1, 1)
    late = task_of(tmp_path, {"any": [{"judge": setting(server.url, system="Be brief.")}, "contains"]})
    assert evaluated(late, *RIGHT).tasks["red"].values == (1, 1, 1, 1), "an abstention that another part settles"


def test_the_key_is_sent_and_told_to_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", "sk-secret-1")
    kept = tmp_path / "kept"
    kept.mkdir()
    with judging(key="sk-secret-1", fault=lambda *_: "Yes. (You sent sk-secret-1)\nyes") as server:
        found = judged(tmp_path, server.url, "0", number=1, key_env="JUDGE_KEY", kept=kept)
        assert found.tasks["red"].values == (1,)
        assert b"sk-secret" not in b"".join(path.read_bytes() for path in kept.iterdir())
        monkeypatch.setenv("JUDGE_KEY", "sk-other-2")
        with pytest.raises(InputError, match=r"no such key: Bearer \*\*\*") as refusal:
            judged(tmp_path, server.url, "0", number=1, key_env="JUDGE_KEY")
        assert "export JUDGE_KEY=..." in str(refusal.value)
        assert "metric.judge.key_env" in str(refusal.value)


def test_a_model_that_becomes_another_one_is_noticed(server: JudgeServer, tmp_path: Path) -> None:
    judged(tmp_path, server.url, "0", number=1, kept=tmp_path)
    server.model = "judge-2"
    with pytest.raises(InputError, match=r"(?s)the service's model `judge` has changed.*judge-1.*judge-2"):
        judged(tmp_path, server.url, "?", number=1, kept=tmp_path)


def test_who_waits_for_a_judge_gives_up_when_it_is_closed(server: JudgeServer) -> None:
    server.fault = lambda *_: refused(503, "closed", **{"Retry-After": "0.2"})
    asked = AskedJudge(Judge.model_validate(setting(server.url, patience=600)), Surroundings())
    failed = list[Exception]()

    def ask() -> None:
        try:
            asked.verdict("x")
        except EngineError as error:
            failed.append(error)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    while not server.asked:
        time.sleep(0.01)
    asked.close()
    thread.join(timeout=10)
    assert "is closed" in str(failed[0])


def test_what_was_said_is_shared_by_processes_and_outlives_them(tmp_path: Path) -> None:
    file = tmp_path / "judge.jsonl"
    one, other = Memory(file), Memory(file)
    assert one.recalled("a") is None
    assert one.kept("a", Said(text="yes")) == Said(text="yes")
    assert other.recalled("a") == Said(text="yes"), "another worker has asked meanwhile"
    assert other.kept("a", Said(text="no")) == Said(text="yes"), "the first is right"
    with file.open("ab") as torn:
        torn.write(b'\n{"key": "b", "said": "y')
    assert other.recalled("b") is None
    append_line(file, {"key": "c", "said": "no", "cut": ""})
    append_line(file, {"key": "d", "said": 1, "cut": ""})
    assert [other.recalled(key) for key in "abcd"] == [Said(text="yes"), None, Said(text="no"), None]
    assert Memory(file).recalled("c") == Said(text="no")


def test_its_client_is_of_the_extra_for_services() -> None:
    assert METRICS["judge"].extra == "api"
    assert METRICS["f1"].extra == "metrics"


def test_a_judge_is_shown_a_chat_turn_by_turn(server: JudgeServer, tmp_path: Path) -> None:
    chat = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Hello {q}"},
        {"role": "assistant", "content": "Yes?"},
        {"role": "user", "content": "What is red?"},
    ]
    (tmp_path / "chats.jsonl").write_text(
        json.dumps({"id": "one", "turns": chat, "inner": {"turns": chat[1:3]}}) + "\n"
    )
    asks = "{turns}\n---\nassistant: {response}\n---\n{inner[turns]}"
    metric = {"judge": setting(server.url, prompt=asks)}
    server.fault = lambda *_: "yes"
    task = GenerateTask(
        kind="generate",
        name="red",
        items=str(tmp_path / "chats.jsonl"),
        messages="turns",
        chat_template=True,
        stop=[],
        metric=metric,
    )
    assert evaluated(task, "A colour.").tasks["red"].values == (1,)
    shown = "system: Be kind.\n\nuser: Hello {q}\n\nassistant: Yes?\n\nuser: What is red?"
    last = "user: Hello {q}\n\nassistant: Yes?"
    assert server.asked[0]["messages"] == [
        {"role": "user", "content": f"{shown}\n---\nassistant: A colour.\n---\n{last}"}
    ]


def test_what_is_no_chat_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "lists.jsonl").write_text(json.dumps({"id": "one", "q": "Red?", "tags": ["a", "b"]}) + "\n")
    metric = {"judge": setting("http://127.0.0.1:9", prompt="{tags} {response}")}
    task = GenerateTask(kind="generate", name="red", items=str(tmp_path / "lists.jsonl"), prompt="{q}", metric=metric)
    with pytest.raises(InputError, match=r"(?s)a chat or a number in `tags`.*the judge's `prompt`.*list of \{role"):
        load_tasks([task])
