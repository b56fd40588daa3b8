"""Checks that a spec collects Grams of inputs if, and only if, its operators read them."""

from collections.abc import Iterator, Mapping, Sequence

from crossbreed.errors import InputError
from crossbreed.recipes.operators import OPERATOR_SPECS, OPERATORS, OperatorSpec
from crossbreed.search_spaces import SpaceConfig


def why_grams_are_wrong(spaces: Sequence[SpaceConfig], *, collected: bool) -> Iterator[InputError]:
    """Yields what is wrong with a spec that collects Grams, or does not.

    Args:
        spaces: The spaces that its searches search, as far as they are valid.
        collected: Whether it does.
    """
    names = [(name, space) for space in spaces for name in space.operators]
    unknown = [name for name, _ in names if name not in OPERATORS]
    if unknown:
        try:
            OPERATORS.require(unknown[0], where="space")
        except InputError as error:
            yield error
        return
    why_invalid = _why_unread if collected else _why_missing
    problems = [why_invalid(space.operators, space.operator_params) for space in spaces if space.operators]
    told = [problem for problem in problems if problem]
    if told and (not collected or len(told) == len(problems)):
        yield InputError(told[0], where="artifacts.grams" if collected else "artifacts")


def _why_missing(operators: Sequence[str], params: Mapping[str, object]) -> str | None:
    """Returns the problem with a spec that does not collect Grams; None if no operator needs them."""
    needing = [spec for name in operators if (spec := OPERATOR_SPECS[name]).reads_grams(params) == "must"]
    if not needing:
        return None
    setting, instead = "", ""
    if needing[0].grams and needing[0].grams.only_if:
        name, options = needing[0].grams.only_if
        param = needing[0].param(name)
        others = [option for option in param.options if option not in options] if param else []
        setting, instead = f" with `{name}: {params.get(name)}`", f", or set `{name}: {others[0]}`" if others else ""
    return (
        f"`{needing[0].name}`{setting} reads Grams of inputs, but the spec collects none: "
        f"add `artifacts: {{grams: {{items: 32}}}}`{instead}"
    )


def _why_unread(operators: Sequence[str], params: Mapping[str, object]) -> str | None:
    """Returns the problem with a spec that collects Grams; None if an operator reads them."""
    if any(OPERATOR_SPECS[name].reads_grams(params) != "no" for name in operators):
        return None
    readers = [_reader(part.spec) for part in OPERATORS.working().values() if part.spec.grams]
    return (
        f"`artifacts.grams` collects Grams that `{operators[0]}` does not read: remove it, or use the operator "
        f"{', or '.join(readers)}"
    )


def _reader(spec: OperatorSpec) -> str:
    """Returns how to use an operator so that it reads Grams."""
    if spec.grams is None or spec.grams.only_if is None:
        return f"`{spec.name}`"
    name, options = spec.grams.only_if
    return f"`{spec.name}` with `params: {{{name}: {options[0]}}}`"
