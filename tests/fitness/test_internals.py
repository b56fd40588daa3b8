"""Undocumented parts of transformers and vLLM: where a version lacks them, it is said before anything is computed."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
import transformers

from crossbreed.errors import InputError
from crossbreed.fitness import TransformersConfig, build_engine
from crossbreed.fitness.engines import loading
from crossbreed.fitness.engines.library import TESTED

ENGINES = Path(loading.__file__).parent
METHODS = "vllm.model_executor.layers.fused_moe.fused_moe_method_base"
QUANTISED = "vllm.model_executor.layers.quantization.base_config"


def load_anew(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"{name}_anew", ENGINES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("is_there", [True, False])
def test_a_mapping_of_another_transformers_is_refused(is_there: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "transformers.core_model_loading.rename_source_key"
    if is_there:
        monkeypatch.setattr(name, lambda key: key)
    else:
        monkeypatch.delattr(name)
    with pytest.raises(InputError, match="parts of transformers that this version does not have") as caught:
        load_anew("loading")
    assert caught.value.expected == f"transformers {TESTED['transformers']}"
    assert caught.value.got == f"transformers {transformers.__version__}"


def test_a_model_of_another_transformers_is_refused(toy_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(transformers.PreTrainedModel, "_is_stateful")
    with pytest.raises(InputError, match="LlamaForCausalLM has no `_is_stateful`"):
        build_engine(TransformersConfig(kind="transformers"), toy_base)


class Quantised:
    def process_weights_after_loading(self, layer: torch.nn.Module) -> None:
        """As vLLM's."""


class Experts(Quantised):
    """Without a `moe_kernel`."""


class Platform:
    @staticmethod
    def is_cpu() -> bool:
        return True


@pytest.fixture
def other_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Modules named as those of vLLM, which hold what a version has."""
    parts = {METHODS: {"FusedMoEMethodBase": Experts}, QUANTISED: {"QuantizeMethodBase": Quantised}}
    parts |= {"vllm.platforms": {"current_platform": Platform}, "vllm": {"__version__": "0.99"}}
    for name in [*parts]:
        for end in range(1, name.count(".") + 2):
            module = ".".join(name.split(".")[:end])
            monkeypatch.setitem(sys.modules, module, ModuleType(module))
    for name, held in parts.items():
        vars(sys.modules[name]).update(held)


@pytest.mark.usefixtures("other_vllm")
def test_modules_of_another_vllm_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(sys.modules[METHODS], "FusedMoEMethodBase")
    with pytest.raises(InputError, match="FusedMoEMethodBase") as caught:
        load_anew("_vllm_worker")
    assert (caught.value.expected, caught.value.got) == (f"vllm {TESTED['vllm']}", "vllm 0.99")


@pytest.mark.usefixtures("other_vllm")
def test_a_worker_of_another_vllm_is_refused() -> None:
    worker = load_anew("_vllm_worker").SwapExtension()
    with pytest.raises(InputError, match="SwapExtension has no `get_model`"):
        worker.check_internals()
    model, runner = torch.nn.Sequential(torch.nn.Linear(1, 1)), ModuleType("runner")
    worker.get_model, worker.model_runner, worker.reload_weights = lambda: model, runner, print
    with pytest.raises(InputError, match="no `kv_caches`"):
        worker.check_internals()
    runner.kv_caches = []  # type: ignore[attr-defined]
    with pytest.raises(InputError, match="no layer has a `quant_method`"):
        worker.check_internals()
    model[0].quant_method = method = Experts()
    worker.check_internals()
    with pytest.raises(InputError, match="Experts has no `moe_kernel`"):
        worker.process_experts_fully()
    assert not vars(method), "nothing is set on a method of another version"
