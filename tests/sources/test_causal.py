"""What continues texts and what does not, by configurations alone."""

from pathlib import Path

import pytest
import transformers as tf

from crossbreed.errors import InputError
from crossbreed.sources.causal import require_causal
from crossbreed.testing.tiny_models import ARCHITECTURES, OTHERS

CAUSAL = {
    **ARCHITECTURES,
    "bert as a decoder": lambda: tf.BertConfig(is_decoder=True),
    "a bart's decoder": lambda: tf.BartConfig(is_encoder_decoder=False, is_decoder=True),
    "xlm, causal": lambda: tf.XLMConfig(causal=True),
}
NOT_CAUSAL = {
    **{name: make for name, (_, make) in OTHERS.items()},
    "electra": tf.ElectraConfig,
    "xlm": tf.XLMConfig,
    "xlnet": tf.XLNetConfig,
    "llava": tf.LlavaConfig,
    "whisper": tf.WhisperConfig,
    "vit": tf.ViTConfig,
}


@pytest.mark.parametrize("name", CAUSAL)
def test_a_causal_language_model_is_none_but_that(name: str, tmp_path: Path) -> None:
    CAUSAL[name]().save_pretrained(tmp_path)
    require_causal(tmp_path)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        *[(name, "each token sees those after it") for name in ("bert", "roberta", "electra", "xlm", "xlnet")],
        *[(name, "an encoder-decoder") for name in ("bart", "t5", "whisper")],
        *[(name, "a model of images and text") for name in ("qwen2_vl", "llava")],
        ("vit", "`AutoModelForCausalLM` does not load"),
    ],
)
def test_what_is_none_is_refused_for_that(name: str, found: str, tmp_path: Path) -> None:
    NOT_CAUSAL[name]().save_pretrained(tmp_path)
    with pytest.raises(InputError, match="the base is not a causal language model") as caught:
        require_causal(tmp_path)
    assert found in caught.value.got
