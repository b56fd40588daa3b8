"""The command `check`: of a run's spec, of a merge service's, or of a run's that is served too."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from crossbreed.errors import InputError, is_installed

if TYPE_CHECKING:
    from crossbreed.runs.spec import Spec


def checked(spec: Path, overrides: list[str], *, answer: bool, resolved: bool, as_json: bool) -> str:
    """Returns the output of `crossbreed check`; see the command's options."""
    from crossbreed.runs import dump_spec
    from crossbreed.runs.spec.provider import Provided, load_spec_to_check

    if resolved and (as_json or answer):
        raise InputError("--resolved prints the spec, as YAML, and answers nothing", expected="--resolved alone")
    loaded = load_spec_to_check(spec, overrides, with_items=not resolved)
    if resolved:
        if not isinstance(loaded, Provided):
            return dump_spec(loaded).rstrip("\n")
        assert loaded.whole is not None, "it is no run's"
        return str(yaml.safe_dump(loaded.whole.model_dump(mode="json"), sort_keys=False, allow_unicode=True)).rstrip()
    if isinstance(loaded, Provided):
        from crossbreed.service import require_packages

        require_packages()
        from crossbreed.service.checking import check_service, service_text

        service = check_service(loaded, answer=answer)
        return _json(service.to_json()) if as_json else service_text(service)
    return _checked_run(loaded, answer=answer, as_json=as_json)


def _checked_run(spec: "Spec", *, answer: bool, as_json: bool) -> str:
    """Returns what is found of a run, and of what it serves where that can be known here."""
    from crossbreed.runs import check_spec
    from crossbreed.runs.checking.text import findings_text
    from crossbreed.runs.spec.provider import provided_by
    from crossbreed.runs.spec.serve import MODULES

    run = check_spec(spec, answer=answer)
    if spec.serve is None or not all(map(is_installed, MODULES)):
        return _json(run.to_json()) if as_json else findings_text(run)
    from crossbreed.service.checking import check_service, service_text

    service = check_service(provided_by(spec, spec.serve))
    if as_json:
        return _json({**run.to_json(), "serve": service.to_json()})
    return f"{findings_text(run)}\n\n{service_text(service)}"


def _json(value: Any) -> str:  # any JSON value
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
