"""Compares mathematical expressions, a JSON list [text, gold] a line; run as a script by `metrics.mathematical`.

It imports nothing of crossbreed, so that it starts fast, and ends by SIGPROF at a question that takes too long.
"""

import json
import os
import resource
import signal
import sys

READY = "ready"
_MEMORY_BYTES = 4 << 30
_LONGEST = 20_000
"""Characters of an answer, from its end, that are looked at."""


def main() -> None:
    """Answers questions until the input ends, each in as many seconds of processor time as the first argument says."""
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    out, most_seconds = os.dup(1), int(sys.argv[1])
    os.dup2(2, 1)  # what a library prints is no answer
    kinds = (LatexExtractionConfig(), ExprExtractionConfig())

    def parsed(text: str) -> list[object]:
        """Returns what the last expression of a text may be read as; LaTeX counts without its dollars too."""
        found: list[object] = parse(text, extraction_config=kinds, parsing_timeout=None)
        is_bare = "\\" in text and "$" not in text and "\\boxed" not in text and "\\(" not in text
        if is_bare and "\n" not in text.strip():
            found = parse(f"${text.strip()}$", extraction_config=kinds, parsing_timeout=None) or found
        return found

    os.write(out, f"{READY}\n".encode())
    for line in sys.stdin:
        text, gold = json.loads(line)
        signal.setitimer(signal.ITIMER_PROF, most_seconds)
        try:
            wanted = parsed(gold)
            is_equal = bool(wanted) and (
                text is None or bool(verify(wanted, parsed(text[-_LONGEST:]), timeout_seconds=None))
            )
        except Exception:  # whatever a computer algebra system makes of a model's text
            is_equal = False
        signal.setitimer(signal.ITIMER_PROF, 0)
        os.write(out, f"{json.dumps(is_equal)}\n".encode())


if __name__ == "__main__":
    main()
