"""lm-eval's tasks: found by their names, loaded quietly, and blamed by the lines of whoever wrote them."""

import io
import logging
import random
import re
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from crossbreed.errors import CrossbreedError, InputError, excerpt, first_line, require
from crossbreed.fitness.functions import blame
from crossbreed.parsing import any_of, suggestion
from crossbreed.types import content_id

HarnessTask: TypeAlias = Any
"""lm-eval has no types that hold."""
EXTRA = "lm-eval"
_LOGGERS = ("lm_eval", "datasets")
_PYTHON_STATE = random.Random(0).getstate()
_NUMPY_STATE = np.random.RandomState(1234).get_state()
"""With these seeds lm-eval's own evaluation begins: tasks that draw from the global generators draw the same."""
_SOURCES = (".yaml", ".yml", ".py")


def require_harness() -> None:
    """Raises InputError unless a version of lm-eval is installed that loads tasks as this one does."""
    for module in ("lm_eval", "datasets"):
        require(module, extra=EXTRA)
    with quiet():
        from lm_eval.tasks import TaskManager
    if not hasattr(TaskManager, "load"):
        raise InputError(
            "the installed version of lm-eval is another one",
            expected="lm-eval from 0.4.13 on",
            fix=f"pip install -U 'crossbreed[{EXTRA}]'",
        )


@contextmanager
def lent_generators() -> Iterator[None]:
    """Lends the block global generators, seeded as lm-eval does: tasks may seed them and draw from them."""
    kept, drawn = np.random.get_state(), random.getstate()  # noqa: NPY002 - kept from what tasks do to it
    torch_state = _torch_state()
    random.setstate(_PYTHON_STATE)
    np.random.set_state(_NUMPY_STATE)  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(drawn)
        np.random.set_state(kept)  # noqa: NPY002
        if torch_state is not None:
            sys.modules["torch"].set_rng_state(torch_state)


@contextmanager
def quiet() -> Iterator[None]:
    """Lends the block global generators, and keeps what it writes to the terminal to itself."""
    levels = {name: logging.getLogger(name).level for name in _LOGGERS}
    try:
        for name in _LOGGERS:
            logging.getLogger(name).setLevel(logging.ERROR)
        with lent_generators(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def _torch_state() -> Any:
    """Returns the state of torch's generator, if torch has been imported."""
    torch = sys.modules.get("torch")
    return None if torch is None else torch.get_rng_state()


@contextmanager
def blamed(what: str, *, folder: Path | None, where: str) -> Iterator[None]:
    """Says of whatever the block raises that the task is wrong, with the lines of its author's own files.

    Args:
        what: What was done, for messages.
        folder: That of the task's files; None: they are lm-eval's own.
        where: The task in the spec.
    """
    try:
        yield
    except (CrossbreedError, MemoryError):
        raise
    except Exception as error:  # a task is somebody's code
        chain = [error, *filter(None, (error.__cause__, error.__context__))]
        for one in chain:
            if folder is not None and (file := _file_in(one, folder)):
                raise blame(one, file, f"`{Path(file).name}`", where) from error
        raise InputError(
            f"{what}: {type(error).__name__}: {excerpt(first_line(error), at_most=240)}{_key_read(error)}",
            where=f"{where}; {folder}" if folder else where,
            fix=_advice(error),
        ) from error


def _file_in(error: BaseException, folder: Path) -> str:
    """Returns the last file of a folder that an error came through; empty if it came through none."""
    frames = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
    named = getattr(error, "filename", None) if isinstance(error, SyntaxError) else None
    files = [*frames, *([named] if isinstance(named, str) else [])]
    return next((file for file in reversed(files) if file.endswith(".py") and folder in Path(file).parents), "")


def _key_read(error: BaseException) -> str:
    """Returns the key of the YAML that lm-eval was reading, in brackets; empty if nothing tells."""
    names = [frame.name for frame in traceback.extract_tb(error.__traceback__) if frame.name.startswith("doc_to_")]
    return f" (`{names[-1]}`)" if names else ""


def _advice(error: Exception) -> str:
    if type(error).__name__ == "UndefinedError":
        return "correct the field's name in the template of the task's YAML"
    if "hub" in str(error).lower():
        return "load the data set once where there is a network; the hub's cache (HF_HOME) keeps it"
    if isinstance(error, OSError) or "dataset" in type(error).__name__.lower():
        return (
            "write data files in the YAML as absolute paths, since lm-eval reads others from the folder in which the "
            "command is started"
        )
    return "correct the task's YAML"


def sources_in(folder: Path | None) -> str:
    """Returns a hash of the files that make tasks in a folder; of lm-eval's own tasks, its version."""
    if folder is None:
        from importlib.metadata import version

        return version("lm_eval")
    found = list[str]()
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts):
        state = path.stat()
        text = content_id(path.read_text("utf-8", "replace")) if path.suffix in _SOURCES else str(state.st_mtime_ns)
        found.append(f"{path.relative_to(folder)} {state.st_size} {text}")
    return content_id("\n".join(found))


def name_of(leaf: HarnessTask) -> str:
    """Returns a task's name; its own property draws from the global generator, whether or not it has one."""
    return str(leaf.config.task)


def load_leaves(name: str, *, folder: Path | None, where: str) -> tuple[list[HarnessTask], bool]:
    """Returns the tasks behind a name, and whether they are a group's.

    Args:
        name: A task, a group, a tag, or the path of a YAML file.
        folder: Where to look for it before lm-eval's own folders; None: only there.
        where: The task in the spec, for messages.

    Raises:
        InputError: there is none, or it cannot be loaded.
    """
    with quiet(), blamed("lm-eval does not load the task", folder=folder, where=where):
        manager = _manager_for(name, folder)
        if not Path(name).is_file() and name not in manager.task_index:
            raise _unknown(name, folder, manager.all_tasks, where)
        found = manager.load([name])
    leaves = list(found["tasks"].values())
    if not leaves:
        raise InputError(f"the group `{name}` has no tasks", where=where)
    return leaves, len(leaves) > 1 or bool(found["groups"])


def _manager_for(name: str, folder: Path | None) -> Any:
    """Returns a manager that knows a name: lm-eval's own folders take seconds to read, and are read if need be."""
    from lm_eval.tasks import TaskManager

    if folder is None:
        return _own_manager()
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    if Path(name).is_file() or _is_complete(name, manager.task_index):
        return manager
    if not (name in manager.task_index or _is_named_in_lm_eval(name)):
        return manager
    return TaskManager(include_path=str(folder))


def _is_named_in_lm_eval(name: str) -> bool:
    """Returns whether lm-eval's own files have a line or a list with a name: a tenth of the work of reading them."""
    from lm_eval import tasks

    said = re.escape(name.encode())
    line = re.compile(
        rb"^[ -]*(?:(?:task|group|tag) *: *)?[\"']?%b[\"']? *$|[\[,] *%b *[\],]" % (said, said), re.MULTILINE
    )
    return any(line.search(path.read_bytes()) for path in Path(tasks.__file__).parent.rglob("*.yaml"))


def _is_complete(name: str, index: Any) -> bool:
    """Returns whether an index knows a task, or a group and all its members by name."""
    if name not in index:
        return False
    members = (index[name].cfg or {}).get("task")
    names = [one if isinstance(one, str) else one.get("group") for one in members] if isinstance(members, list) else []
    return all(_is_complete(one, index) for one in names if isinstance(one, str))


@lru_cache(maxsize=1)
def _own_manager() -> Any:
    from lm_eval.tasks import TaskManager

    return TaskManager()


def _unknown(name: str, folder: Path | None, names: Sequence[str], where: str) -> InputError:
    broken = _unreadable(folder)
    return InputError(
        f"lm-eval has no task or group `{name}`",
        expected=any_of(names) if folder else f"one of the {len(names):,} names of lm-eval",
        got="\n".join(broken),
        where=f"{where}; {folder}" if folder else where,
        fix="correct the file that cannot be read"
        if broken
        else suggestion(name, names) or "name the folder of its YAML in `include_path`",
    )


def _unreadable(folder: Path | None) -> list[str]:
    """Returns what is wrong with YAML files of a folder, which lm-eval passes over."""
    from lm_eval.tasks._yaml_loader import load_yaml

    found = list[str]()
    for path in sorted(folder.rglob("*.yaml")) if folder else ():
        try:
            load_yaml(path, resolve_func=False)
        except Exception as error:  # whatever a YAML file can be
            found.append(f"{path.name} cannot be read: {' '.join(str(error).split())[:160]}")
    return found[:3]
