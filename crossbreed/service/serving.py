"""A service opened, and closed: the part that tests and the command share."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from crossbreed.runs.spec.provider import Provided
from crossbreed.service.accounts import Accounts, accounts_of
from crossbreed.service.core import Service
from crossbreed.service.engine_thread import EngineThread
from crossbreed.service.merges import Merges
from crossbreed.service.provider import open_provider
from crossbreed.service.recipes import rules_of


def _ignore(error: BaseException) -> None:
    """Nothing else is to be ended."""


@contextmanager
def opened_service(
    spec: Provided, *, accounts: Accounts | None = None, on_broken: Callable[[BaseException], None] = _ignore
) -> Iterator[Service]:
    """Yields a service whose engine answers, and stops the engine.

    Args:
        spec: The provider's.
        accounts: Its clients; None: those of the spec, with keys from the environment.
        on_broken: Called when the engine has broken and does not start again.

    Raises:
        InputError: the spec, a source or a key is wrong.
        MachineError: the engine does not start, or mixes up candidates.
    """
    accounts = accounts or accounts_of(spec.serve.tokens)
    provider = open_provider(spec)
    engine = EngineThread(provider, queue=spec.serve.queue, patience_s=spec.serve.fairness_s, on_broken=on_broken)
    engine.start()
    service = Service(
        provider=provider,
        engine=engine,
        accounts=accounts,
        merges=Merges(provider.sources, kept=spec.serve.merges_kept),
        rules=rules_of(spec.serve.limits, provider.structure),
    )
    try:
        yield service
    finally:
        service.writer.stop()
        engine.stop(spec.serve.stop_s)
