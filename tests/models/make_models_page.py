"""Writes docs/models.md: what works with which architecture, found out by doing it.

    python tests/models/make_models_page.py                 all columns but vLLM's
    python tests/models/make_models_page.py "run: vLLM"     the named ones; the others are kept as they are

It takes some minutes on two cores. `tests/models/test_models.py` compares single cells with the page.
"""

import sys
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

import transformers as tf
from cells import COLUMNS, Subject, outcome

from crossbreed.testing.tiny_models import ARCHITECTURES

PAGE = Path(__file__).parents[2] / "docs/models.md"
VLLM = "run: vLLM"
NOT_RUN = "not run"
HEAD = """# Which models work

Each cell is the result of doing it with a tiny random model of the architecture, as transformers 5.19 saves it:
`python tests/models/make_models_page.py` writes this page, `tests/models/cells.py` says what each column does.

- **check**: `crossbreed check` finds nothing wrong.
- **merge**: the written tensors are base plus half a fine-tune's delta; transformers loads all of them.
- **run: transformers**, **run: vLLM**: canary, search, selection and report on that engine (vLLM 0.32, CPU, float32).
- **LoRA**: an adapter of PEFT's, for all linear modules that it takes, gives the model that PEFT merges.
- **publish**: the published folder loads in transformers and gives the log-probabilities that were scored.
- **mergekit**: mergekit 0.1.5 makes the same model of the exported configuration. One is written only for models of
  which `tests/parity` has found that.

A number refers to the reasons below. The transformers engine keeps keys and values; Mamba, RWKV and their hybrids read
the whole text for every new token there. A configuration that says no longest text (Bloom, Mamba) needs
`fitness.engine.max_model_len`. Tensors are found by the names that transformers gives them: files of GPT-2 or Bloom as
on the hub, and of a model that was saved without its head's prefix, work as well. Gradients (Frank-Wolfe) are of the
checkpoint's tensors, also where transformers keeps all experts of a layer as one. Grams of inputs are not: `check`
refuses them for matrices that transformers stacks (mixtures of experts), or computes with by itself (Mamba). Matrices
that are stored as (inputs, outputs), as GPT-2's, are transposed for operators that look at inputs.

An adapter that is refused here is merged by the command in the message, and the result is a full expert.
vLLM needs torchvision for Gemma 3 with pictures, which the CPU set-up leaves out; its CPU build lacks Mamba's scan.

What does not continue texts is refused by `check`: encoders (BERT, RoBERTa), encoder-decoders (T5, BART), and models of
images and text that `AutoModelForCausalLM` does not load (LLaVA, Qwen2-VL). They can be merged.

"""

Cells = dict[tuple[str, str], str]
"""Architecture and column -> outcome."""


def read(page: Path = PAGE) -> Cells:
    """Returns the outcomes on a page; none if there is no page."""
    lines = page.read_text().splitlines() if page.exists() else []
    reasons = dict(line.split(". ", 1) for line in lines if line[:1].isdigit() and ". " in line)
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in lines
        if line.startswith("| ") and "---" not in line
    ]
    headings, *rest = rows or [[""]]
    return {
        (row[0], heading): reasons.get(cell.strip("[]"), cell)
        for row in rest
        for heading, cell in zip(headings[1:], row[1:], strict=True)
    }


def render(cells: Cells) -> str:
    """Returns the page's text."""
    plain = ("yes", NOT_RUN)
    in_order = (cells.get((name, column), NOT_RUN) for name in ARCHITECTURES for column in COLUMNS)
    reasons = list(dict.fromkeys(cell for cell in in_order if cell not in plain))
    rows = [["architecture", *COLUMNS]]
    for name in ARCHITECTURES:
        found = [cells.get((name, column), NOT_RUN) for column in COLUMNS]
        rows.append([name, *(cell if cell in plain else f"[{1 + reasons.index(cell)}]" for cell in found)])
    table = ["| " + " | ".join(row) + " |" for row in rows]
    table.insert(1, "|" + " --- |" * len(rows[0]))
    notes = [f"{number}. {reason}" for number, reason in enumerate(reasons, start=1)]
    return HEAD + "\n".join([*table, "", *notes]) + "\n"


def main(columns: Iterable[str]) -> None:
    """Executes some columns, and writes the page anew."""
    tf.logging.set_verbosity_error()
    tf.utils.logging.disable_progress_bar()
    found: Cells = {}
    for name in ARCHITECTURES:
        with TemporaryDirectory() as folder:
            subject = Subject(name, Path(folder))
            for column in columns:
                found[name, column] = outcome(subject, column)
        print(name, *(f"{column}: {found[name, column]}" for column in columns), sep="\n  ", flush=True)
    PAGE.write_text(render(read() | found))


if __name__ == "__main__":
    main(sys.argv[1:] or [column for column in COLUMNS if column != VLLM])
