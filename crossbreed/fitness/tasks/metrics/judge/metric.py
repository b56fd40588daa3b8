"""The metric `judge`. Imports no client: that is needed where the judge is asked."""

from contextlib import ExitStack
from typing import TYPE_CHECKING, Self

from pydantic import PrivateAttr

from crossbreed.fitness.items import Item
from crossbreed.fitness.protocol import Surroundings
from crossbreed.fitness.tasks.metrics.judge.settings import JudgeSettings
from crossbreed.fitness.tasks.metrics.metric import Fields, Metric, Verdict

if TYPE_CHECKING:
    from crossbreed.fitness.tasks.metrics.judge.asking import AskedJudge


class Judge(JudgeSettings):
    """A model behind an OpenAI-compatible endpoint that judges texts (docs/tasks.md). Its temperature is 0."""

    _asked: "AskedJudge | None" = PrivateAttr(default=None)

    @property
    def who(self) -> str:
        """See Asker."""
        return self.model

    @property
    def num_calls(self) -> int:
        """See Asker."""
        return self.repeats

    def begun(self, around: Surroundings, closing: ExitStack) -> Self:
        """Returns it with a connection; see Asker."""
        from crossbreed.fitness.tasks.metrics.judge.asking import AskedJudge

        begun = self.model_copy()
        begun._asked = asked = AskedJudge(self, around)
        closing.callback(asked.close)
        return begun

    def verdict(self, text: str, fields: Fields) -> Verdict:
        """Asks about a text."""
        assert self._asked is not None, "a judge is begun before it is asked"
        return self._asked.verdict(self.question(text, Item(id="", fields=fields), task=""))


def judge(text: str, gold: str, setting: Judge, fields: Fields) -> Verdict:
    """Another model judges the text: yes or no, or a mark on a scale; what it sees of the item is in its prompt."""
    return setting.verdict(text, fields)


JUDGE = Metric(
    function=judge,
    setting=Judge,
    uses_gold=False,
    takes_item=True,
    check=Judge.require_key,
    identity=Judge.lasting,
    needs=("openai",),
    extra="api",
)
