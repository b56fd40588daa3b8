"""`crossbreed serve`: a service at an address, until it is stopped or its engine breaks."""

import logging
import socket
from collections.abc import Callable
from contextlib import closing

import uvicorn

from crossbreed.errors import InputError, MachineError, first_line
from crossbreed.runs.spec.provider import Provided
from crossbreed.runs.spec.serve import ServeConfig
from crossbreed.service.accounts import Accounts, accounts_of
from crossbreed.service.address import is_loopback, require_servable
from crossbreed.service.app import build_app
from crossbreed.service.connections import Crowd, connections_within
from crossbreed.service.core import Service
from crossbreed.service.logs import logging_to_stderr
from crossbreed.service.serving import opened_service

_LOOPBACK = frozenset({"127.0.0.1", "localhost", "[::1]"})


def serve_spec(spec: Provided, *, on_start: Callable[[str], None]) -> None:
    """Serves until SIGINT or SIGTERM, which is raised again when open requests have been answered.

    Args:
        spec: The provider's.
        on_start: Called with one line, when the service can be asked.

    Raises:
        InputError: the spec, a source, a key or the address is wrong.
        MachineError: the engine does not start; or it broke, and did not start again.
    """
    config, broken = spec.serve, list[BaseException]()
    accounts = accounts_of(config.tokens)
    require_servable(config)
    is_local = is_loopback(config.host)
    with closing(listening(config)) as listener:

        def on_broken(error: BaseException) -> None:
            broken.append(error)
            server.should_exit = True

        with opened_service(spec, accounts=accounts, on_broken=on_broken) as service:
            crowd = Crowd(most=config.connections)
            app = build_app(service, hosts=None if config.tokens else _LOOPBACK, crowd=crowd)
            server = uvicorn.Server(settings_of(app, config, crowd))
            with logging_to_stderr():
                on_start(_line(spec, service, accounts, listener, is_local))
                server.run(sockets=[listener])
    if broken:
        why = first_line(broken[0])
        raise MachineError(f"the engine broke and did not start again, so the service has ended: {why}")


def settings_of(app: object, config: ServeConfig, crowd: Crowd) -> uvicorn.Config:
    """Returns uvicorn's settings for an application; it counts the open connections into `crowd`."""
    return uvicorn.Config(
        app,  # type: ignore[arg-type]  # Starlette's type of an application, not uvicorn's
        http=connections_within(config.header_s, config.send_s, crowd),
        ws="none",
        lifespan="off",
        log_config=None,
        log_level=logging.WARNING,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=config.stop_s,
        ssl_certfile=config.ssl_certfile,
        ssl_keyfile=config.ssl_keyfile,
    )


def listening(config: ServeConfig) -> socket.socket:
    """Returns a socket at the address; raises InputError if it cannot be had."""
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    try:
        return socket.create_server((config.host, config.port), family=family, backlog=config.connections)
    except OSError as error:
        raise InputError(
            f"the address cannot be listened at: {error.strerror or error}",
            got=f"{config.host}:{config.port}",
            where="serve",
            fix="name another port, or 0 for any free one: --port 0",
        ) from None


def _line(spec: Provided, service: Service, accounts: Accounts, listener: socket.socket, is_local: bool) -> str:
    """Returns the one line that says what is served to whom."""
    host = f"[{spec.serve.host}]" if ":" in spec.serve.host else spec.serve.host
    scheme = "http" if spec.serve.ssl_certfile is None else "https"
    clients = ", ".join(f"{account.name} ({' '.join(account.rights)})" for account in accounts.names)
    note = "" if is_local or scheme == "https" else "; NOT encrypted: keys can be read on the way (docs/api.md)"
    return (
        f"{spec.name} at {scheme}://{host}:{listener.getsockname()[1]}/v1: {', '.join(service.provider.sources)}; "
        f"for {clients}{note}   (Ctrl-C ends it)"
    )
