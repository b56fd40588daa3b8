"""What can go wrong, and whose fault it is. The command line turns each branch into an exit code.

CrossbreedError
├── InputError          (ValueError)    the user's input is wrong: exit 2
│   └── MissingExtra    (ImportError)   an optional package is not installed: exit 2
├── MachineError        (RuntimeError)  an engine, a worker, a disk: exit 1
│   ├── EngineError                     could not measure: the trial is FAILED
│   └── SwapError                       the engine does not answer with the weights it was given
└── InvalidWeights      (ValueError)    NaN or Inf in merged weights or logits: the trial is INVALID
"""


class CrossbreedError(Exception):
    """Root of everything that is raised on purpose."""


class InputError(CrossbreedError, ValueError):
    """The user's input is wrong.

    The message is one screen: what was expected, what was got, where, and how to mend it. Build it with
    keywords, so that none of the four is forgotten.
    """

    def __init__(self, problem: str, *, expected: str = "", got: str = "", where: str = "", fix: str = "") -> None:
        self.problem, self.expected, self.got, self.where, self.fix = problem, expected, got, where, fix
        super().__init__(str(self))

    def __str__(self) -> str:
        parts = {"expected": self.expected, "got": self.got, "where": self.where, "to mend": self.fix}
        return "\n".join([self.problem, *(f"  {label + ':':<10}{text}" for label, text in parts.items() if text)])

    def __reduce__(self) -> tuple[object, ...]:  # keyword-only arguments do not survive the default pickling
        return _rebuild, (type(self), self.problem, self.expected, self.got, self.where, self.fix)


class MissingExtra(InputError, ImportError):
    """A feature needs a package that is not installed."""


class MachineError(CrossbreedError, RuntimeError):
    """The machine's or an engine's fault; the same input may work elsewhere or later."""


class EngineError(MachineError):
    """An engine could not answer. Never a score: the trial is FAILED and retried as the Spec says."""


class SwapError(MachineError):
    """The canary failed: after a swap the engine does not answer with the weights that it was given."""


class InvalidWeights(CrossbreedError, ValueError):
    """Merged weights or logits hold NaN or Inf: measured and bad, not 'could not measure'."""


def _rebuild(kind: type[InputError], problem: str, expected: str, got: str, where: str, fix: str) -> InputError:
    return kind(problem, expected=expected, got=got, where=where, fix=fix)


def require(module: str, *, extra: str) -> None:
    """Raises MissingExtra when `module` cannot be imported, naming the extra that brings it."""
    from importlib.util import find_spec

    if find_spec(module) is None:
        raise MissingExtra(
            f"this needs the package `{module}`, which is not installed",
            fix=f"pip install 'crossbreed[{extra}]'",
        )
