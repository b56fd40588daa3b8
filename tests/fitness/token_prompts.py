"""What an engine that answers prompts in tokens must do, besides what every engine does."""

from dataclasses import replace
from pathlib import Path

import pytest

from crossbreed.errors import EngineError, InputError
from crossbreed.fitness.engines.encoder import Encoder
from crossbreed.fitness.requests import Generate, Loglikelihood, Prompt
from crossbreed.testing.engines import Subject


class AnswersTokens:
    """Mixed into the conformance tests of our engines of weights."""

    def test_tokens_are_answered_as_their_text_and_prompts_are_scored(self, subject: Subject, host: Path) -> None:
        handle, atol = subject.adopt("a"), 1e-3
        text = Generate(prompt=Prompt(text="sums|34 + 12"), max_tokens=6)
        ids = Encoder(host).encode(text).token_ids
        tokens = replace(text, prompt=Prompt(text="", token_ids=ids), alternatives=2, scores_prompt=True)
        [said], [same] = handle.answer([text]), handle.answer([tokens])
        assert (same.text, same.token_ids, same.prompt_tokens) == (said.text, said.token_ids, len(ids))
        assert same.logprobs == pytest.approx(said.logprobs, abs=atol)
        assert same.ended == said.ended == ("length" if len(said.token_ids) == 6 else "stop")

        for chosen, found, place in zip(same.token_ids, same.logprobs, same.alternatives, strict=True):
            assert len(place) == 2
            assert max(place, key=place.__getitem__) == chosen, "a greedy answer takes the most likely token"
            assert place[chosen] == pytest.approx(found, abs=1e-6)

        scored = same.prompt
        assert scored is not None
        assert scored.token_ids == ids
        assert len(scored.logprobs) == len(scored.alternatives) == len(ids) - 1
        [whole] = handle.answer([Loglikelihood(prompt=Prompt(text=""), continuation="sums|34 + 12")])
        assert scored.logprobs[-len(whole.logprobs) :] == pytest.approx(whole.logprobs, abs=atol)

    @pytest.mark.parametrize("ids", [(10**6,), (-1,), ()])
    def test_tokens_that_the_model_does_not_have_are_refused(self, subject: Subject, ids: tuple[int, ...]) -> None:
        """And the engine goes on: the next chunk is answered."""
        handle = subject.adopt("a")
        with pytest.raises((InputError, EngineError), match="token"):
            handle.answer([Generate(prompt=Prompt(text="", token_ids=ids), max_tokens=2)])
        assert handle.answer([Generate(prompt=Prompt(text="", token_ids=(5,)), max_tokens=2)])
