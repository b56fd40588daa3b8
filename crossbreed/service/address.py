"""The address of a service, and what it needs before anybody may listen there."""

import ipaddress
import ssl

from crossbreed.errors import InputError, first_line
from crossbreed.runs.spec.serve import ServeConfig


def is_loopback(host: str) -> bool:
    """Returns whether an address is reached from this machine alone."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name of this machine's
        return False


def require_servable(config: ServeConfig) -> None:
    """Raises InputError where an address is open to strangers without keys, or a certificate cannot be used."""
    if not is_loopback(config.host) and not config.tokens:
        raise InputError(
            "beyond this machine, clients must have tokens",
            expected="`serve.tokens`, or an address of loopback",
            got=f"host: {config.host}",
            where="serve",
            fix="add `tokens: {NAME: {key_env: VARIABLE, rights: [answers]}}`, or `host: 127.0.0.1`",
        )
    if config.ssl_certfile is not None and config.ssl_keyfile is not None:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(
                config.ssl_certfile, config.ssl_keyfile, password=""
            )
        except (OSError, ValueError) as error:  # SSLError is an OSError
            raise InputError(
                f"the certificate cannot be used: {first_line(error)}",
                expected="PEM files of a certificate chain and of its private key, without a passphrase",
                got=f"{config.ssl_certfile}, {config.ssl_keyfile}",
                where="serve.ssl_certfile, serve.ssl_keyfile",
                fix="correct the paths, or leave both out and put a proxy in front (docs/api.md)",
            ) from None
