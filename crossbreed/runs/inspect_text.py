"""Renders the result of `crossbreed inspect` for a terminal."""

from collections.abc import Iterator, Mapping
from typing import Any

from crossbreed.errors import InputError
from crossbreed.parsing import any_of


def render(found: Mapping[str, Any]) -> str:
    """Returns a block for each model and, for several models, whether they can be merged."""
    blocks = ["\n".join(_model(facts)) for facts in found["models"]]
    if found["merge"] is not None:
        blocks.append("\n".join(_merge(found["merge"])))
    return "\n\n".join(blocks)


def _model(facts: Mapping[str, Any]) -> Iterator[str]:
    yield facts["model"]
    if "problem" in facts:
        yield from _indented(facts["problem"])
        return
    rows = _adapter(facts) if facts["kind"] == "adapter" else _checkpoint(facts)
    yield from (f"  {label:<13} {value}" for label, value in rows.items())
    if facts["hash"] is None:
        yield from _indented(facts["why_no_hash"])
    yield ""
    yield f"  {'module':<10} {'tensors':>8} {'parameters':>16}  example"
    for kind, module in facts["modules"].items():
        yield f"  {kind:<10} {module['tensors']:>8} {module['parameters']:>16,}  {module['example']}"
    if facts["unplaced"]:
        yield f"  {facts['unplaced']} of {facts['tensors']} tensors could not be classified: they are `other`"


def _checkpoint(facts: Mapping[str, Any]) -> dict[str, str]:
    vocabulary = "" if facts["vocab_size"] is None else f", {facts['vocab_size']:,} tokens"
    return {
        "kind": "full checkpoint",
        "hash": facts["hash"],
        "architecture": f"{facts['architecture'] or 'unknown'} ({facts['model_type'] or 'no model_type'})",
        "layers": _layers(facts),
        "parameters": _parameters(facts),
        "embeddings": ("tied to the head" if facts["tied"] else "not tied to the head") + vocabulary,
        "end tokens": any_of(map(_token, facts["end_tokens"])),
        "licence": facts["licence"] or "unknown",
    }


def _adapter(facts: Mapping[str, Any]) -> dict[str, str]:
    ways = {"rank-stabilised": facts["rslora"], "DoRA": facts["dora"]}
    others = f", and {facts['num_others']} tensors that are not low-rank factors" if facts["num_others"] else ""
    return {
        "kind": any_of([f"adapter, {facts['type']}", *(way for way, is_so in ways.items() if is_so)]),
        "hash": facts["hash"] or "unknown",
        "base": f"{facts['base'] or 'unknown'}, according to its config",
        "ranks": any_of(facts["ranks"]),
        "alphas": any_of(facts["alphas"]),
        "targets": any_of(facts["targets"]) + others,
        "saved whole": any_of(facts["modules_to_save"]),
        "layers": _layers(facts),
        "parameters": _parameters(facts),
    }


def _layers(facts: Mapping[str, Any]) -> str:
    return any_of(f"{number} in {stack}" for stack, number in facts["layers"].items())


def _parameters(facts: Mapping[str, Any]) -> str:
    dtypes = facts["dtypes"]
    mixed = any_of(dtypes) if len(dtypes) < 2 else any_of(f"{size:,} {dtype}" for dtype, size in dtypes.items())
    return f"{facts['parameters']:,}, {mixed}"


def _token(token: Mapping[str, Any]) -> str:
    text = "" if token["text"] is None else f" {token['text']!r}"
    return f"{'no id' if token['id'] is None else token['id']}{text} ({any_of(token['named_by'])})"


def _merge(merge: Mapping[str, Any]) -> Iterator[str]:
    if merge["base"] is None:
        yield "these cannot be merged"
        yield from _indented(merge["problem"])
        return
    yield ("can be merged" if merge["ok"] else "these cannot all be merged") + f", with {merge['base']} as the base"
    width = max(len(expert["model"]) for expert in merge["experts"])
    for expert in merge["experts"]:
        far = "no" if not expert["ok"] else f"yes, differs in {expert['touched']} tensors ({expert['share']:.0%})"
        yield f"  {expert['model']:<{width}}  {far}"
        if not expert["ok"]:
            yield from _indented(expert["problem"], by=4)


def _indented(problem: Mapping[str, str], by: int = 2) -> Iterator[str]:
    yield from (" " * by + line for line in str(InputError(**problem)).splitlines())
