"""Whether a configuration and the tensors beside it make one model: transformers builds it without weights."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from crossbreed.errors import InputError, first_line
from crossbreed.sources.model_config import named_class, settings_of
from crossbreed.sources.naming import layer_of


def require_loadable(config: Mapping[str, Any], shapes: Mapping[str, Sequence[int]]) -> None:
    """Checks that every parameter of the configuration's model has a tensor, layer by layer.

    Names in files and in memory differ by prefixes and by what their heads are called, so the shapes of each layer's
    tensors are compared. Architectures that transformers does not know are not checked.

    Args:
        config: config.json.
        shapes: Name -> shape of the tensors that will stand beside it.

    Raises:
        InputError: the model cannot be built, or lacks a tensor, or a whole layer would not be loaded.
    """
    import transformers

    model_class = named_class(config) or transformers.AutoModelForCausalLM
    make = getattr(model_class, "from_config", None) or model_class._from_config
    try:
        settings = settings_of(config)
        if settings is None:
            return
        with torch.device("meta"):
            model = make(settings)
    except Exception as error:  # its checks of a configuration raise all kinds
        raise _refusal("transformers cannot build the merge from its configuration", first_line(error)) from error
    wanted = Counter((layer_of(name), tuple(value.shape)) for name, value in model.named_parameters())
    held = Counter((layer_of(name), tuple(shape)) for name, shape in shapes.items())
    if missing := wanted - held:
        layer, shape = next(iter(missing))
        of = "outside the layers" if layer is None else f"of layer {layer}"
        raise _refusal("the merge lacks tensors that its configuration asks for", f"no tensor {shape} {of}")
    if beyond := {layer for layer, _ in held if layer is not None} - {layer for layer, _ in wanted}:
        raise _refusal("the merge has layers that its configuration does not know", f"layer {min(beyond)}")


def _refusal(problem: str, got: str) -> InputError:
    return InputError(
        problem,
        expected="a model that transformers loads whole",
        got=got,
        fix="keep all layers in their places, and the vocabulary of one model",
    )
