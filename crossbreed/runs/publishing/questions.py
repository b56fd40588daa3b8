"""What `publish` will ask of a run, known before the search."""

from crossbreed.errors import InputError
from crossbreed.fitness import ENGINES
from crossbreed.runs.plan import Plan
from crossbreed.types import Recipe


def publish_notes(plan: Plan) -> tuple[str, ...]:
    """Returns what publishing the winner will need besides the run, one sentence each; none of it stops a search."""
    kind = plan.spec.fitness.engine.kind
    if plan.weights is None:
        return (f"the engine `{kind}` makes the weights, so what is published here is the recipe alone",)
    from crossbreed.runs.publishing.model_card import choose_licence, source_infos  # needs the hub's package

    parents = source_infos(of_all_experts(plan), plan.weights.sources)
    notes = list[str]()
    try:
        choose_licence(parents, None)
    except InputError as error:
        notes.append(f"--licence will be asked for: {error.problem} ({error.got})")
    if local := [parent.name for parent in parents if parent.hub_id is None]:
        notes.append(f"{', '.join(local)} will be named as local folders, without their paths: they have no hub ids")
    if ENGINES[kind].takes == "adapter":
        notes.append("adapters are what is scored: `publish` needs --as adapter")
    if ENGINES[kind].is_fake:
        notes.append(f"the answers of the engine `{kind}` are made up: `publish` needs --no-report")
    return tuple(notes)


def of_all_experts(plan: Plan) -> Recipe:
    """Returns the plain merge of all experts: it needs what any winner may need."""
    return next(recipe for by, recipe in plan.initial_candidates() if by.kind == "uniform")
