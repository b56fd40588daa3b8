"""From a request to one engine call and back: limits, budgets and tokens, whatever the words of the answer are."""

from collections.abc import Sequence
from dataclasses import dataclass

from crossbreed.errors import InputError, MachineError
from crossbreed.fitness import Generate, Prompt, Response
from crossbreed.runs.workers.adopted import Adopted
from crossbreed.service.accounts import Account
from crossbreed.service.answers import finite_answers
from crossbreed.service.core import Service
from crossbreed.service.merges import Served
from crossbreed.service.refusals import Refusal, bad_request, told


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptQuestion:
    """A prompt with what is wanted of it."""

    prompt: Prompt
    max_tokens: int
    """0: the prompt is scored alone."""
    stop: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a whole chunk shares."""

    temperature: float
    seed: int
    alternatives: int
    scores_prompt: bool


async def tokens_of(service: Service, text: str) -> Prompt:
    """Returns a text as the prompt that the engine is given: in tokens, where the service has the tokenizer."""
    if service.texts is None:
        return Prompt(text=text)
    return prompt_of(service, await service.in_thread(service.texts.tokens, text))


def prompt_of(service: Service, ids: Sequence[int]) -> Prompt:
    """Returns tokens as a prompt; raises Refusal if the model does not have one of them."""
    if service.texts is not None:
        try:
            service.texts.require_known(ids)
        except InputError as error:
            raise bad_request(told(error), param="prompt") from None
    return Prompt(text="", token_ids=tuple(ids))


def check_count(service: Service, num_prompts: int) -> None:
    """Raises Refusal if a chunk has too many prompts: before any of them is made tokens of."""
    if num_prompts > service.config.chunk:
        raise bad_request(f"one request has at most {service.config.chunk} prompts, got {num_prompts}", param="prompt")


def check_length(service: Service, prompt: Prompt, max_tokens: int) -> None:
    """Raises Refusal if prompt and answer do not fit the model's context, or the service's limit."""
    if max_tokens > service.config.max_tokens:
        message = f"`max_tokens` is at most {service.config.max_tokens} here, got {max_tokens}"
        raise bad_request(message, param="max_tokens")
    if service.texts is None or prompt.token_ids is None:
        return
    needed, limit = len(prompt.token_ids) + max(1, max_tokens), service.texts.max_model_len
    if needed > limit:
        message = f"the context is {limit} tokens long, and prompt and answer need {needed}"
        raise bad_request(message, code="context_length_exceeded", param="prompt")


async def answered(
    service: Service, account: Account, model: Served, asked: Sequence[PromptQuestion], wanted: Wanted
) -> list[Response]:
    """Has the engine answer one chunk.

    Raises:
        Refusal: it is beyond a limit or a budget, or the engine could not answer.
    """
    requests = [
        Generate(
            prompt=one.prompt,
            max_tokens=max(1, one.max_tokens),
            stop=one.stop,
            temperature=wanted.temperature,
            seed=wanted.seed,
            alternatives=wanted.alternatives,
            scores_prompt=wanted.scores_prompt,
        )
        for one in asked
    ]
    most = sum(len(one.prompt.token_ids or ()) + max(1, one.max_tokens) for one in asked)
    if most > service.config.chunk_tokens:
        raise bad_request(f"one request has at most {service.config.chunk_tokens} tokens, answers included, got {most}")
    with account.spending(most) as spent:

        def work(adopted: Adopted) -> list[Response]:
            if spent.is_over:  # who asked has gone while the merge was made
                return []
            spent.tokens = most  # whoever gives up waiting has had it computed
            try:
                return finite_answers(adopted, requests)
            except MachineError:
                spent.tokens = 0
                raise

        responses = await service.ask(model.recipe, work, account)
        prompt, completion = sum(r.prompt_tokens for r in responses), sum(len(r.token_ids) for r in responses)
        spent.tokens = prompt + completion
        service.metrics.count_tokens(prompt=prompt, completion=completion)
    if wanted.scores_prompt and any(response.prompt is None for response in responses):
        raise Refusal(400, "this service's engine does not score prompts", code="not_offered", param="prompt_logprobs")
    return responses
