"""What `publish` will ask of a run, known before the search."""

from crossbreed.errors import InputError
from crossbreed.fitness import ENGINES
from crossbreed.runs.plan import Plan


def publish_notes(plan: Plan) -> tuple[str, ...]:
    """Returns what publishing the winner will need besides the run, one sentence each; none of it stops a search."""
    kind = plan.spec.fitness.engine.kind
    if plan.weights is None:
        return (f"the engine `{kind}` makes the weights, so what is published here is the recipe alone",)
    from crossbreed.runs.publishing.model_card import choose_licence, source_infos  # needs the hub's package

    parents = source_infos(plan.initial_candidates()[-1][1], plan.weights.sources)
    notes = list[str]()
    try:
        choose_licence(parents, None)
    except InputError as error:
        notes.append(f"no common licence ({error.got}): `publish` will ask for --licence")
    if local := [parent.name for parent in parents if parent.hub_id is None]:
        notes.append(
            f"no hub id: {', '.join(local)}; the model card calls them local folders, and nobody else can merge them "
            "again"
        )
    if ENGINES[kind].is_fake:
        notes.append(f"the answers of the engine `{kind}` are made up: `publish` needs --no-report")
    return tuple(notes)
