"""Asks a judge, and keeps what it said: the same question with the same seed is asked once in a run.

What it said is kept in the run folder by what was asked (model, messages, seed, options), wherever the endpoint is, in
a file that is only appended to: several workers may share it, and a kill leaves a line that is passed over.
"""

from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from threading import Lock
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from crossbreed.errors import CrossbreedError, InputError, excerpt
from crossbreed.fitness.protocol import Surroundings
from crossbreed.fitness.services.appending import append_line, key_of, lines_of
from crossbreed.fitness.services.begun import Begun
from crossbreed.fitness.services.faults import ServiceError
from crossbreed.fitness.services.transport import Transport, is_passing
from crossbreed.fitness.tasks.metrics.judge.reading import NoVerdict
from crossbreed.fitness.tasks.metrics.judge.settings import JudgeSettings
from crossbreed.fitness.tasks.metrics.metric import Verdict
from crossbreed.types import canonical_json, content_id

_PATH = "/v1/chat/completions"
_OF_THE_QUESTION = (400, 413, 422)
"""Refusals that may be of this question alone: too long for the model, or filtered."""
_PROBE = "Say yes."
_ROUNDING = 1e-9
"""Of marks from 0 to 1."""


class _QuestionRefused(CrossbreedError):
    """The endpoint refuses a question in its own words."""

    def __init__(self, message: str, *, status: int) -> None:
        super().__init__(excerpt(message or "without a reason", at_most=200))
        self.status = status


class _Message(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)
    content: str | None = None


class _Choice(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)
    message: _Message
    finish_reason: str | None = None


class _Completion(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)
    model: str = ""
    choices: list[_Choice] = Field(min_length=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What a judge said to one question."""

    text: str
    cut: str = ""
    """Why the text has no verdict, whatever stands in it; empty: it may have one."""


class AskedJudge:
    """A connection to a judge. May be used from several threads."""

    def __init__(self, judge: JudgeSettings, around: Surroundings) -> None:
        """Reads the key, and what earlier processes of the run were told; asks nothing yet.

        Raises:
            InputError: the key is not in the environment.
        """
        self._judge = judge
        self._transport = _ToJudge(judge, seed=around.seed, say=around.say)
        self._begun = Begun(judge.url)
        identity = content_id(canonical_json(judge.lasting()))
        if around.folder is not None:
            self._begun.keep_in(around.folder, name=f"judge-{identity}.model.jsonl")
        self._memory = Memory(None if around.folder is None else around.folder / f"judge-{identity}.jsonl")

    def verdict(self, question: str) -> Verdict:
        """Asks as often as it is to be asked, until one answer has no verdict."""
        several, values = self._judge.repeats > 1, list[float]()
        for seed in range(self._judge.repeats):
            said = self._said(self._judge.body(question, seed))
            try:
                if said.cut:
                    raise NoVerdict(said.cut)
                values.append(self._judge.value_of(said.text))
            except NoVerdict as error:
                return Verdict(value=None, why=str(error), agrees=False if several else None)
        agrees = len(set(values)) == 1 if several else None
        if max(values) - min(values) > self._judge.tolerance + _ROUNDING:
            given = ", ".join(f"{value:.3g}" for value in values)
            return Verdict(value=None, why=f"it contradicts itself: {given}", agrees=agrees)
        return Verdict(value=fmean(values), agrees=agrees)

    def close(self) -> None:
        """Closes connections."""
        self._transport.close()

    def _said(self, body: dict[str, Any]) -> Said:
        key = key_of(body)
        if (known := self._memory.recalled(key)) is not None:
            return known
        try:
            said = self._asked(body)
        except _QuestionRefused as error:
            self._require_that_it_answers(error)
            said = Said(text="", cut=f"it refuses the question: {error}")
        return self._memory.kept(key, said)

    def _asked(self, body: dict[str, Any]) -> Said:
        found = self._transport.post(_PATH, body, _Completion.model_validate, tokens=_num_tokens(body))
        self._begun.require(f"model `{self._judge.model}`", found.model)
        choice = found.choices[0]
        text = self._transport.without_key(choice.message.content or "")
        cut = ""
        if choice.finish_reason == "length":
            cut = f"it wrote more than `max_tokens`: {self._judge.max_tokens}"
        return Said(text=text, cut=cut)

    def _require_that_it_answers(self, refused: _QuestionRefused) -> None:
        """Asks something harmless in the same way; raises InputError if that is refused too."""
        try:
            self._asked(self._judge.body(_PROBE, 0))
        except _QuestionRefused:
            raise InputError(
                f"the judge refuses: {refused}",
                expected=f"a chat endpoint that takes `{self._judge.model}` and these options",
                got=f"HTTP {refused.status} from {self._judge.url}",
                where=self._judge.place,
                fix="correct `model`, `max_tokens` or `options`: the endpoint's message says which",
            ) from None


class Memory:
    """Question -> what was said to it; in a file that several processes append to, if there is one."""

    def __init__(self, file: Path | None) -> None:
        """Knows what the file has; None: nothing is kept for other processes."""
        self._file, self._lock = file, Lock()
        self._known, self._read_bytes = dict[str, Said](), 0

    def recalled(self, key: str) -> Said | None:
        """Returns what was said; None if nobody in this run has asked yet."""
        with self._lock:
            if key not in self._known:
                self._catch_up()
            return self._known.get(key)

    def kept(self, key: str, said: Said) -> Said:
        """Keeps what was said; of two who asked the same at the same time, the first is right."""
        with self._lock:
            self._catch_up()
            if key not in self._known:
                self._known[key] = said
                if self._file is not None:
                    append_line(self._file, {"key": key, "said": said.text, "cut": said.cut})
            return self._known[key]

    def _catch_up(self) -> None:
        """Reads what was appended since; what is no line of ours is passed over."""
        if self._file is None:
            return
        lines, self._read_bytes = lines_of(self._file, self._read_bytes)
        for line in lines:
            key, text, cut = line.get("key"), line.get("said"), line.get("cut")
            if isinstance(key, str) and isinstance(text, str) and isinstance(cut, str):
                self._known.setdefault(key, Said(text=text, cut=cut))


class _ToJudge(Transport):
    """A transport that knows what a chat endpoint's refusals mean for a judge."""

    def refusal(self, error: ServiceError) -> Exception | None:
        """See Transport."""
        if is_passing(error.status):
            return None
        if error.status in _OF_THE_QUESTION:
            return _QuestionRefused(error.message, status=error.status)
        return self.refused(
            error,
            who="the judge",
            expected="a chat endpoint that answers",
            keyless=(401, 403),
            key="a key that may use it",
            address="correct `url`, to which /v1/chat/completions is appended, or `model`",
        )


def _num_tokens(body: dict[str, Any]) -> int:
    """Returns about how many tokens a request counts in `tokens_per_minute`."""
    size = sum(len(message["content"]) for message in body["messages"])
    return size // 4 + int(body.get("max_tokens", 0))
