"""Does an engine answer with the adapter that it was given, and with all of it?

Two adapters are made for the purpose: a silent one, of which one factor is zero, and a loud one, which changes every
matrix that some expert changes as much as the base has in it. Told of here:

- the silent one changes nothing: the engine answers as its base asked directly;
- the loud one changes answers, to what another library says of the base with that adapter merged into it: an adapter
  that is scaled otherwise, or of which a matrix is passed over, differs;
- after it the silent one answers as before, and no answer depends on whether the prefix cache may be used.
"""

from collections.abc import Callable, Sequence

from crossbreed.errors import EngineError, SwapError
from crossbreed.fitness.canary import compare_with_truth, require_alike
from crossbreed.fitness.canary_probes import ask, can_move, limit_of, probes_of, scored, without_cache
from crossbreed.fitness.protocol import AdapterEngine, Checkable, Engine, Handle, Truth
from crossbreed.fitness.requests import Loglikelihood, Request

_REPORT = "do not trust scores of this engine here: report it, with architecture and versions"
_UNCHECKED = "the answers were not compared with transformers'"


def check_adapters(
    engine: AdapterEngine,
    adopt_silent: Callable[[], Handle],
    adopt_loud: Callable[[], Handle],
    requests: Sequence[Request],
    truth_of: Callable[[Sequence[Loglikelihood]], Truth] | None,
) -> tuple[str, ...]:
    """Compares the engine's base, a silent, a loud and the silent adapter again.

    Args:
        engine: the engine.
        adopt_silent: has it adopt the silent adapter.
        adopt_loud: has it adopt the loud one.
        requests: a few of the run's own.
        truth_of: scores with the loud one by another library; None: there is none.

    Returns:
        What could not be verified here, and why: a sentence each.

    Raises:
        SwapError: the engine answers with something else; the message describes the symptom.
    """
    checkable: Engine = engine
    advice = f"{_REPORT}, or {checkable.advice}" if isinstance(checkable, Checkable) else _REPORT
    base = engine.base()
    probes = probes_of(base, requests)
    direct = ask(base, probes)
    limit = limit_of(base, probes, direct, advice=advice)

    problem = "an adapter that changes nothing changes the engine's answers"
    require_alike(direct, ask(adopt_silent(), probes), limit, problem, advice)
    loud = adopt_loud()
    second = ask(loud, probes)
    stale = "with an adapter the engine still uses the prefix cache of another: answers with and without it differ"
    require_alike(second, ask(loud, without_cache(probes)), limit, stale, advice)
    if second == direct and can_move(direct):
        raise SwapError(f"the engine answers with its base whatever adapter it is given; {advice}")
    notes = list[str]()
    if truth_of is not None:
        texts = scored(loud, requests).texts
        if why_not := _compared(loud, texts, truth_of, advice) if texts else "no text fits the context":
            notes.append(f"{_UNCHECKED}: {why_not}")
    again = "the same adapter, adopted again, gives different answers"
    require_alike(direct, ask(adopt_silent(), probes), limit, again, advice)
    return tuple(notes)


def _compared(
    handle: Handle,
    texts: Sequence[Loglikelihood],
    truth_of: Callable[[Sequence[Loglikelihood]], Truth],
    advice: str,
) -> str:
    try:
        truth = truth_of(texts)
    except EngineError as error:
        return str(error)
    return compare_with_truth(ask(handle, texts), truth, advice=advice)
