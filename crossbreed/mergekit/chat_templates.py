"""The chat templates that a configuration may choose by name, and the choice of the one that most models have.

Each writes the format that its name stands for, with mergekit 0.1.5's line breaks: the prompts are the same.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType

from crossbreed.sources.chat_templates import template_of

AUTO = "auto"
_CHATML = """\
{% for turn in messages %}{{ '<|im_start|>' ~ turn.role ~ '\\n' ~ turn.content ~ '<|im_end|>\\n' }}{% endfor %}
{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""
_LLAMA3 = """\
{% macro head(role) %}{{ '<|start_header_id|>' ~ role ~ '<|end_header_id|>\\n\\n' }}{% endmacro %}
{% for turn in messages %}
{{ (bos_token if loop.first else '') ~ head(turn.role) ~ turn.content | trim ~ '<|eot_id|>\\n' -}}
{% endfor %}
{% if add_generation_prompt %}{{ head('assistant') }}{% endif %}"""
_MISTRAL = """\
{% set system = messages[0].content if messages[0].role == 'system' else none %}
{{ bos_token -}}
{% for turn in (messages if system is none else messages[1:]) %}
{% if turn.role != ('user', 'assistant')[loop.index0 % 2] %}
{{ raise_exception('after an optional system message, user and assistant must take turns') -}}
{% elif turn.role == 'user' %}
{{ ' [INST] ' ~ (system ~ '\\n\\n' if loop.first and system is not none else '') ~ turn.content ~ ' [/INST]' -}}
{% else %}
{{ ' ' ~ turn.content ~ eos_token -}}
{% endif %}
{% endfor %}"""
_ALPACA = """\
{% set system = messages | selectattr('role', 'equalto', 'system') | map(attribute='content') | list %}
{% set heads = {'user': 'Instruction', 'assistant': 'Response', 'user_context': 'Input'} %}
{{ (system[-1] | trim if system else '') ~ '\\n\\n' -}}
{% for turn in messages if turn.role in heads %}
{{ '### ' ~ heads[turn.role] ~ ':\\n' ~ turn.content | trim -}}
{{ '' if loop.last and turn == messages[-1] else '\\n\\n' -}}
{% endfor %}
{% if add_generation_prompt and messages[-1].role != 'assistant' %}{{ '### Response:\\n' }}{% endif %}"""
_EXAONE = """\
{% if messages[0].role != 'system' %}{{ '        [|system|][|endofturn|]\\n\\n' }}{% endif %}
{% for turn in messages %}
{{ '    [|' ~ turn.role ~ '|]' ~ turn.content ~ '\\n        ' ~ ('' if turn.role == 'user' else '[|endofturn|]') -}}
{{ '\\n\\n' -}}
{% endfor %}
{% if add_generation_prompt %}{{ '    [|assistant|]\\n' }}{% endif %}"""
TEMPLATES: Mapping[str, str] = MappingProxyType(
    {"alpaca": _ALPACA, "chatml": _CHATML, "exaone": _EXAONE, "llama3": _LLAMA3, "mistral": _MISTRAL}
)


def chosen_template(name: str | None, folders: Iterable[Path]) -> str | None:
    """Returns the text of the template that a configuration chooses; None: the tokenizer keeps its own.

    Args:
        name: The configuration's `chat_template`.
        folders: The folders of all models, for `auto`: of templates that equally many of them have, the first.
    """
    if name != AUTO:
        return name and TEMPLATES.get(name, name)
    found = [text.strip() for folder in dict.fromkeys(folders) if (text := template_of(folder))]
    return Counter(found).most_common(1)[0][0] if found else None
