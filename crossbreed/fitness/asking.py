"""How a user's function asks a candidate: prompts in, texts and log-probabilities out, in fixed chunks."""

from collections.abc import Mapping, Sequence

from crossbreed.fitness.answers import likely_answers_of
from crossbreed.fitness.protocol import Handle
from crossbreed.fitness.requests import Generate, Loglikelihood, Prompt, Request, Response


class Ask:
    """Asks one candidate: `ask(prompts)` what it writes, `ask.likelihoods(prompts, texts)` how likely texts are.

    A prompt is a text, or a chat: a list of `{role, content}`, whose last turn is the user's.
    """

    def __init__(self, handle: Handle, *, chunk: int, asker: str) -> None:
        """Asks nothing yet.

        Args:
            handle: The candidate.
            chunk: The number of requests that share a call of the engine.
            asker: Who asks, for messages.
        """
        self._handle, self._chunk, self._asker = handle, chunk, asker
        self.responses: list[Response] = []
        """All that were given."""
        self.failure: BaseException | None = None
        """What kept the engine from answering: a function that goes on all the same has measured nothing."""

    def __call__(
        self,
        prompts: Sequence[str | Sequence[Mapping[str, str]]],
        *,
        max_tokens: int = 256,
        stop: Sequence[str] = (),
        temperature: float = 0.0,
        seed: int = 0,
    ) -> list[Response]:
        """Returns a response for each prompt: `text`, `token_ids`, `ended`, and `logprobs` where the engine has them.

        Args:
            prompts: Texts or chats.
            max_tokens: The most tokens of each.
            stop: Texts that end an answer, besides the model's end token.
            temperature: 0: the most likely token at each place.
            seed: Of the first prompt's tokens; those behind it count on.
        """
        return self._answered(
            [
                Generate(
                    prompt=_prompt(prompt),
                    max_tokens=max_tokens,
                    stop=tuple(stop),
                    temperature=temperature,
                    seed=seed + number,
                )
                for number, prompt in enumerate(prompts)
            ]
        )

    def likelihoods(
        self, prompts: Sequence[str | Sequence[Mapping[str, str]]], continuations: Sequence[str]
    ) -> list[Response]:
        """Returns the tokens of each continuation, with the natural log-probability of each, after its prompt."""
        pairs = zip(prompts, continuations, strict=True)
        return self._answered([Loglikelihood(prompt=_prompt(prompt), continuation=text) for prompt, text in pairs])

    def _answered(self, requests: Sequence[Request]) -> list[Response]:
        found = list[Response]()
        try:
            for start in range(0, len(requests), self._chunk):
                found += likely_answers_of(self._handle, requests[start : start + self._chunk], asker=self._asker)
        except BaseException as error:
            self.failure = error
            raise
        self.responses += found
        return found


def _prompt(given: str | Sequence[Mapping[str, str]]) -> Prompt:
    if isinstance(given, str):
        return Prompt(text=given)
    turns = [(str(turn["role"]), str(turn["content"])) for turn in given]
    if not turns or turns[-1][0] != "user":
        raise ValueError("the last turn of a chat is the user's: [{'role': 'user', 'content': ...}]")
    system = turns[0][1] if turns[0][0] == "system" else None
    return Prompt(text=turns[-1][1], chat=True, system=system, turns=tuple(turns[system is not None : -1]))
