"""`crossbreed check` of a merge service: what would be served to whom, without an engine, or with it on request."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from crossbreed.runs.check import memory_bytes, require_memory
from crossbreed.runs.spec.provider import Provided
from crossbreed.runs.spec.serve import TokenConfig
from crossbreed.service.accounts import LEAST_KEY, key_in
from crossbreed.service.address import is_loopback, require_servable
from crossbreed.service.provider import Provider, Repeats, open_provider
from crossbreed.service.recipes import rules_of
from crossbreed.types import BASE


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceFindings:
    """What a valid provider's spec serves."""

    spec: Provided
    provider: Provider
    memory_bytes: int
    """The memory of this machine. The engine holds one merge (`merged_bytes`) and its cache."""
    merged_bytes: int
    """Size of one merge; 0 where it is made elsewhere."""
    repeats: Repeats | None
    """What answers depend on, if the engine was started."""

    @property
    def missing_keys(self) -> tuple[str, ...]:
        """The variables without which `serve` does not start."""
        of_tokens = (token.key_env for token in self.spec.serve.tokens.values())
        return tuple(name for name in of_tokens if key_in(os.environ, name) is None)

    @property
    def notes(self) -> tuple[str, ...]:
        """What is to be known or done before it is served, one sentence each."""
        config, provider = self.spec.serve, self.provider
        found = [
            f"{name} is not in the environment with at least {LEAST_KEY} characters of ASCII: `serve` does not start "
            "without it"
            for name in self.missing_keys
        ]
        if not is_loopback(config.host) and config.ssl_certfile is None:
            found.append("keys can be read on the way: encrypt with `ssl_certfile`, or by a proxy (docs/api.md)")
        may_publish = [name for name, token in config.tokens.items() if "publish" in token.rights]
        if may_publish and config.checkpoints is None:
            found.append(
                f"{', '.join(may_publish)} may publish, and no folder is named for it: see `serve.checkpoints`"
            )
        if provider.tasks and config.detail == "aggregate" and config.split is None:
            found.append("one mean of all items is told of each task: no client can search with it; see `serve.split`")
        return (*found, *provider.notes)

    def to_json(self) -> dict[str, Any]:
        """Returns the findings for `check --json`."""
        config, provider = self.spec.serve, self.provider
        return {
            "schema": 1,
            "name": self.spec.name,
            "engine": self.spec.engine.kind,
            "host": config.host,
            "port": config.port,
            "sources": dict(provider.structure.hashes),
            "limits": rules_of(config.limits, provider.structure).told.model_dump(mode="json"),
            "tokens": {
                name: token.model_dump(mode="json") | {"key_is_set": token.key_env not in self.missing_keys}
                for name, token in config.tokens.items()
            },
            "tasks": [
                {
                    "name": name,
                    "metric": task.kind.metric_name,
                    "detail": config.detail,
                    "items": len(provider.items[name]),
                    "splits": {split: len(items) for split, items in provider.splits.get(name, {}).items()},
                }
                for name, task in provider.tasks.items()
            ],
            "checkpoints": config.checkpoints,
            "candidate_bytes": self.merged_bytes,
            "memory_bytes": self.memory_bytes,
            "answers": self.repeats
            and {"deterministic": self.repeats.deterministic, "batch_invariant": self.repeats.batch_invariant},
            "notes": list(self.notes),
        }


def check_service(spec: Provided, *, answer: bool = False) -> ServiceFindings:
    """Checks what a service is made of.

    Args:
        spec: The provider's.
        answer: Also start and verify the engine, as `serve` does.

    Raises:
        InputError: the spec is invalid, or this machine cannot serve it.
        MachineError: the engine does not start, or mixes up candidates.
    """
    require_servable(spec.serve)
    provider, present = open_provider(spec), memory_bytes()
    size = provider.weights.merged_bytes(provider.base_recipe.dtype) if provider.weights else 0
    require_memory(size, present)
    if answer:
        provider.start().close()
    return ServiceFindings(
        spec=spec,
        provider=provider,
        memory_bytes=present,
        merged_bytes=size,
        repeats=provider.repeats if answer else None,
    )


def service_text(findings: ServiceFindings) -> str:
    """Returns the output of `crossbreed check` for a service."""
    notes = findings.notes
    ending = f"; {len(notes)} note{'s' * (len(notes) != 1)} above" if notes else ""
    return "\n".join([*_lines(findings), *(f"  note    {note}" for note in notes), "", f"no problems found{ending}"])


def _lines(findings: ServiceFindings) -> Iterator[str]:
    spec, provider, config = findings.spec, findings.provider, findings.spec.serve
    scheme = "http" if config.ssl_certfile is None else "https"
    host = f"[{config.host}]" if ":" in config.host else config.host
    yield f"{spec.name}: a merge service at {scheme}://{host}:{config.port}, engine {spec.engine.kind}"
    base, places = spec.sources.told
    for name, place in {BASE: base, **places}.items():
        yield f"  source  {name} {provider.structure.hashes[name]}: {place}"
    told = rules_of(config.limits, provider.structure).told
    low, high = told.coefficients
    operators = ", ".join(told.operators) if config.limits.operators else f"all {len(told.operators)}"
    yield f"  recipes operators: {operators}; coefficients from {low:g} to {high:g}; {told.rules:,} rules"
    own = [f"{name} from {smallest:g} to {largest:g}" for name, (smallest, largest) in told.ranges.items()]
    if own:
        yield f"          no coefficients: {', '.join(own)}"
    yield (
        f"  request {config.chunk} prompts, {config.max_tokens:,} tokens an answer, {config.chunk_tokens:,} tokens in "
        f"all, {config.alternatives} alternatives, {config.body_bytes:,} bytes"
    )
    for name, token in config.tokens.items():
        yield f"  token   {name} ({token.key_env}): {_rights(token)}"
    if not config.tokens:
        yield "  token   none: whoever is on this machine has all rights"
    for name, task in provider.tasks.items():
        told_of = "the value of each"
        if config.detail == "aggregate":
            parts = ", ".join(f"{len(items)} {split}" for split, items in provider.splits.get(name, {}).items())
            told_of = f"the mean of {parts}" if parts else "the mean of all"
        yield f"  task    {name}, {task.kind.metric_name}: {len(provider.items[name])} items, told is {told_of}"
    if config.checkpoints is not None:
        yield f"  publish into {config.checkpoints}"
    if findings.merged_bytes:
        yield (
            f"  memory  {findings.memory_bytes / 1e9:.0f} GB; the engine holds {findings.merged_bytes / 1e9:.2f} GB of "
            "weights and its cache"
        )
    if findings.repeats is not None:
        again = "equally" if findings.repeats.deterministic else "differently each time"
        alone = "do not depend" if findings.repeats.batch_invariant else "depend"
        yield f"  answers equal requests are answered {again}; answers {alone} on the others of a chunk"


def _rights(token: TokenConfig) -> str:
    limits: Mapping[str, float | None] = {
        "merges": token.merges,
        "requests": token.requests,
        "tokens": token.tokens,
        "requests a minute": token.requests_per_minute,
        "tokens a minute": token.tokens_per_minute,
    }
    bounds = ", ".join(
        f"{limit:,{'' if isinstance(limit, int) else 'g'}} {name}"
        for name, limit in limits.items()
        if limit is not None
    )
    return f"{', '.join(token.rights)}; {bounds or 'no budget'}"
