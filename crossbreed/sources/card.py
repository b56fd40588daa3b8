"""What a source's README says of it: publishing needs every parent's licence."""

from pathlib import Path

from crossbreed.errors import InputError
from crossbreed.yaml_files import read_yaml

_MAX_CHARACTERS = 1 << 20


def licence(folder: Path) -> str | None:
    """Returns the licence in the front matter of `folder/README.md`, None where there is none.

    For `license: other` it is the `license_name`, which tells two such licences apart.
    """
    front = _front_matter(folder / "README.md")
    stated = front.get("license")
    if stated == "other":
        stated = front.get("license_name", stated)
    return stated if isinstance(stated, str) else None


def _front_matter(readme: Path) -> dict[str, object]:
    if not readme.is_file():
        return {}
    with readme.open(encoding="utf-8", errors="replace") as file:
        opening, _, rest = file.read(_MAX_CHARACTERS).partition("---\n")
    if opening.strip("\ufeff \n") or "\n---" not in rest:
        return {}
    try:
        front = read_yaml(rest.partition("\n---")[0], what="the card", where=str(readme))
    except InputError:  # a card is prose: one that does not parse says nothing
        return {}
    return front if isinstance(front, dict) else {}
