"""The base's tokenizer, for the service's own threads: prompts become tokens, tokens become words."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from threading import Lock

from crossbreed.errors import InputError
from crossbreed.fitness.engines.encoder import Encoder
from crossbreed.sources.chat_templates import render_chat
from crossbreed.sources.model_config import load_config
from crossbreed.sources.tokenization import load_tokenizer, num_appended, token_ids


def unnamed(token: int) -> str:
    """Returns the word of a token that has no text."""
    return f"token_id:{token}"


class Texts:
    """A tokenizer of its own: the engine's may not be used while the engine uses it."""

    def __init__(self, host: Path, *, max_model_len: int | None) -> None:
        """Loads it; raises InputError if there is none, or if no length of a text is known."""
        self._tokenizer, self._lock = load_tokenizer(host), Lock()
        self._num_appended = num_appended(self._tokenizer)
        self.max_model_len = Encoder(host, max_model_len=max_model_len).max_model_len
        self.num_tokens = int(load_config(host).get_text_config().vocab_size)
        """Token ids are below this."""
        self.word = lru_cache(maxsize=1 << 16)(self._word)
        """Returns a token as text; one that is none by itself, such as half a character, as vLLM's `token_id:N`."""

    def tokens(self, text: str, *, special: bool = True) -> tuple[int, ...]:
        """Returns a text's tokens, as the engine would make them: with those before it, without those behind it."""
        with self._lock:
            if special:
                return tuple(token_ids(self._tokenizer, text, appended=self._num_appended))
            return tuple(self._tokenizer(text, add_special_tokens=False).input_ids)

    def chat_tokens(self, messages: Sequence[Mapping[str, str]], *, continuation: str = "") -> tuple[int, ...]:
        """Returns the tokens of a chat up to where the answer begins, and of the beginning of that answer.

        Raises:
            InputError: the base has no chat template, or it refuses this chat.
        """
        with self._lock:
            if self._tokenizer.chat_template is None:
                raise InputError("the base has no chat template", expected="plain prompts")
            text = render_chat(self._tokenizer, messages) + continuation
            return tuple(self._tokenizer(text, add_special_tokens=False).input_ids)

    def text(self, ids: Sequence[int]) -> str:
        """Returns the text of a prompt's tokens."""
        with self._lock:
            return str(self._tokenizer.decode(list(ids)))

    def require_known(self, ids: Sequence[int]) -> None:
        """Raises InputError if the model has no such token, or there is none at all."""
        if not ids:
            raise InputError("a prompt is empty", expected="at least one token")
        if stray := next((token for token in ids if not 0 <= token < self.num_tokens), None):
            expected = f"token ids from 0 to {self.num_tokens - 1}"
            raise InputError(
                "a prompt has a token that the model does not have", expected=expected, got=str(stray)[:40]
            )

    def _word(self, token: int) -> str:
        with self._lock:
            text = str(self._tokenizer.decode([token]))
        return text if text and "\ufffd" not in text else unnamed(token)
