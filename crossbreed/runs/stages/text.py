"""The table of what each stage gave, as text."""

from collections.abc import Sequence

from crossbreed.runs.record.phase import duration
from crossbreed.runs.results.numbers import number
from crossbreed.runs.stages.table import StageRow

HEADS = ("", "trials", "time", "best on search", "finalist", "select", "report", "gap")


def stage_cells(row: StageRow) -> tuple[str, ...]:
    """Returns a stage's row, one text for each of `HEADS`."""
    return (
        row.label,
        str(row.num_trials),
        duration(row.seconds),
        "" if row.search is None else f"{number(row.search)} (trial {row.best})",
        "" if row.finalist is None else f"trial {row.finalist}",
        *("" if value is None else number(value) for value in (row.select, row.report, row.gap)),
    )


def stage_lines(rows: Sequence[StageRow]) -> list[str]:
    """Returns the table, with what its columns mean."""
    if not rows:
        return []
    cells = [HEADS, *map(stage_cells, rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "  ".join([f"{first:<{widths[0]}}", *(f"{t:>{w}}" for t, w in zip(others, widths[1:], strict=True))]).rstrip()
        for first, *others in cells
    ]
    return [*lines, MEANING]


MEANING = (
    "finalist: the stage's best on search and selection items together; gap: how much better it is on search items "
    "than on report items, or on selection items where it answered no others"
)
