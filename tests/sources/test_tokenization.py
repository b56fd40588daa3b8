"""Two folders' tokenizers and chat templates: what of them changes an answer, and what does not."""

import contextlib
import io
import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from copies import Copy
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from crossbreed.errors import InputError
from crossbreed.fitness import Prompt
from crossbreed.fitness.engines.encoder import Encoder
from crossbreed.sources import Sources, open_sources
from crossbreed.sources.chat_templates import other_chat, render_chat, template_of
from crossbreed.sources.host import host_hashes
from crossbreed.sources.tokenization import appended_tokens, load_tokenizer, num_appended, other_reading, token_ids
from crossbreed.testing.toys import make_checkpoint, make_expert

WORDS = ["the cat sat on the mat", "The Cat SAT there", "lower and lowest", "12 and 345", "user assistant system"] * 4
SPECIAL = ["<|end|>", "<|start|>", "<|stop|>"]
TEMPLATE = "{% for m in messages %}<|start|>{{ m.role }}\n{{ m.content }}<|stop|>{% endfor %}<|start|>assistant\n"


def tokenizer(**parts: Any) -> Tokenizer:
    made = Tokenizer(models.BPE())
    made.normalizer = parts.get("normalizer")
    made.pre_tokenizer = parts.get("pre_tokenizer", pre_tokenizers.ByteLevel(add_prefix_space=False))
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        WORDS, trainers.BpeTrainer(vocab_size=320, special_tokens=SPECIAL, initial_alphabet=alphabet)
    )
    if "post_processor" in parts:
        made.post_processor = parts["post_processor"]
    return made


def save(folder: Path, made: Tokenizer, *, template: str | None = TEMPLATE, eos: str = "<|end|>") -> Path:
    PreTrainedTokenizerFast(tokenizer_object=made, eos_token=eos, chat_template=template).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("tokenizers") / "base", tokenizer())


def before(token: str) -> processors.TemplateProcessing:
    return processors.TemplateProcessing(single=f"{token} $A", special_tokens=[(token, SPECIAL.index(token))])


def behind(token: str) -> processors.TemplateProcessing:
    return processors.TemplateProcessing(single=f"$A {token}", special_tokens=[(token, SPECIAL.index(token))])


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"normalizer": normalizers.Lowercase()}, "normalizer"),
        ({"normalizer": normalizers.NFC()}, "normalizer"),
        ({"normalizer": normalizers.NFKC()}, "normalizer"),
        ({"normalizer": normalizers.StripAccents()}, "normalizer"),
        ({"normalizer": normalizers.Strip()}, "normalizer"),
        ({"normalizer": normalizers.Replace("\t", "    ")}, "normalizer"),
        ({"pre_tokenizer": pre_tokenizers.ByteLevel(add_prefix_space=True)}, "pre_tokenizer"),
        ({"pre_tokenizer": pre_tokenizers.Sequence([
            pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])},
         "pre_tokenizer"),
        ({"post_processor": before("<|start|>")}, "post_processor"),
    ],
)  # fmt: skip
def test_what_makes_other_tokens_of_a_text_is_found(
    parts: dict[str, Any], said: str, base: Path, tmp_path: Path
) -> None:
    made = Tokenizer.from_file(str(base / "tokenizer.json"))
    for part, value in parts.items():
        setattr(made, part, value)
    reading = other_reading(base, save(tmp_path / "expert", made))
    assert reading is not None
    assert said in reading.part
    assert reading.ours != reading.theirs


@pytest.mark.parametrize("flag", ["lstrip", "rstrip", "single_word"])
def test_an_added_token_that_takes_more_of_a_text_is_found(flag: str, base: Path, tmp_path: Path) -> None:
    made = json.loads((base / "tokenizer.json").read_text())
    made["added_tokens"][2][flag] = True
    reading = other_reading(base, save(tmp_path / "expert", Tokenizer.from_str(json.dumps(made))))
    assert reading is not None
    assert "added_tokens" in reading.part


def test_other_merges_of_the_same_tokens_are_found_although_no_text_shows_them(base: Path, tmp_path: Path) -> None:
    made = json.loads((base / "tokenizer.json").read_text())
    made["model"]["merges"].append(["\u0120", "\u0120"])
    made["model"]["vocab"]["\u0120\u0120"] = len(made["model"]["vocab"])
    other = save(tmp_path / "expert", Tokenizer.from_str(json.dumps(made)))
    made["model"]["merges"].pop()
    one = save(tmp_path / "base", Tokenizer.from_str(json.dumps(made)))
    reading = other_reading(one, other)
    assert reading is not None
    assert "model.merges" in reading.part


@pytest.mark.parametrize(
    "edit",
    [
        lambda c: c.update(chat_template="another", padding_side="left", model_max_length=7),
        lambda c: c.update(clean_up_tokenization_spaces=True, name_or_path="elsewhere", pad_token="<|stop|>"),
        lambda c: c.update(eos_token="<|stop|>"),
    ],
)
def test_what_makes_no_other_tokens_is_no_difference(
    edit: Callable[[dict[str, Any]], object], base: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(base, tmp_path / "expert"))
    config = json.loads((folder / "tokenizer_config.json").read_text())
    edit(config)
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    assert other_reading(base, folder) is None


@pytest.mark.parametrize("model", ["BPE", "Unigram", "WordPiece"])
def test_what_a_decoded_text_hangs_on_is_part_of_the_host(model: str, toy_base: Path, tmp_path: Path) -> None:
    """Tokens of a text do not: base and expert may differ in it."""
    folder = Path(shutil.copytree(toy_base, tmp_path / "base"))
    words = ["Yes", "\u2581Yes", "\u2581,", "\u2581.", "no", "<unk>"]
    made = {
        "BPE": lambda: tokenizer(),
        "Unigram": lambda: Tokenizer(models.Unigram([(word, -1.0) for word in words], unk_id=5, byte_fallback=False)),
        "WordPiece": lambda: Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="<unk>")),
    }[model]()
    made.decoder = decoders.Metaspace() if model != "BPE" else made.decoder
    seen = []
    for cleans_up in (False, True):
        PreTrainedTokenizerFast(tokenizer_object=made, clean_up_tokenization_spaces=cleans_up).save_pretrained(folder)
        loaded = load_tokenizer(folder) if model == "BPE" else AutoTokenizer.from_pretrained(folder)
        said = loaded.decode([1, 2, 1, 3] if model != "BPE" else loaded("Yes , Yes .").input_ids)
        seen.append((said, host_hashes(open_sources(str(folder), {}))["tokenizer"]))
    (plain, before), (cleaned, after) = seen
    assert (plain == cleaned) is (before == after) is (model == "BPE")


def test_a_tokenizer_saved_by_another_version_reads_alike(base: Path, tmp_path: Path) -> None:
    made = json.loads((base / "tokenizer.json").read_text())
    made["model"]["merges"] = [" ".join(pair) for pair in made["model"]["merges"]]  # as before tokenizers 0.20
    folder = save(tmp_path / "expert", tokenizer())
    (folder / "tokenizer.json").write_text(json.dumps(made))
    (folder / "special_tokens_map.json").write_text('{"eos_token": "<|end|>"}')
    assert other_reading(base, folder) is None


def test_tokens_behind_a_text_are_no_difference_for_they_are_cut_off(base: Path, tmp_path: Path) -> None:
    appending = save(tmp_path / "expert", tokenizer(post_processor=behind("<|stop|>")))
    assert other_reading(base, appending) is None
    assert appended_tokens(appending) == ("<|stop|>",)
    assert appended_tokens(base) == ()
    loaded = load_tokenizer(appending)
    assert num_appended(loaded) == 1
    for text in ("the cat", "", "<|stop|>", "ends<|stop|>"):
        assert token_ids(loaded, text, appended=1) == load_tokenizer(base)(text).input_ids


@pytest.mark.parametrize("names", [["tokenizer.json"], ["tokenizer.json", "tokenizer_config.json"]])
def test_a_folder_without_tokens_has_no_tokenizer(names: list[str], base: Path, tmp_path: Path) -> None:
    folder = save(tmp_path / "model", tokenizer())
    for name in names:
        (folder / name).unlink()
    with pytest.raises(InputError, match="the model has no tokenizer") as caught:
        load_tokenizer(folder)
    assert "tokenizer.json" in caught.value.expected
    for name in ("tokenizer.json", "tokenizer_config.json"):  # the advice
        (folder / name).write_bytes((base / name).read_bytes())
    assert load_tokenizer(folder)("the cat").input_ids == load_tokenizer(base)("the cat").input_ids


def test_a_tokenizer_that_makes_nothing_of_text_is_none(tmp_path: Path) -> None:
    """transformers makes up such a one where files are missing."""
    folder = save(tmp_path / "model", Tokenizer(models.WordLevel({"<|end|>": 0}, unk_token="<|end|>")))
    made = json.loads((folder / "tokenizer.json").read_text())
    made["model"] = {"type": "BPE", "vocab": {}, "merges": []}
    (folder / "tokenizer.json").write_text(json.dumps(made))
    with pytest.raises(InputError, match="the model has no tokenizer"):
        load_tokenizer(folder)


@pytest.mark.parametrize("text", ["{", "{}", "[]", '{"model": 1}'])
def test_a_broken_tokenizer_is_the_users_to_mend(text: str, base: Path, tmp_path: Path) -> None:
    folder = save(tmp_path / "model", tokenizer())
    (folder / "tokenizer.json").write_text(text)
    with pytest.raises(InputError, match="cannot read a tokenizer") as caught:
        load_tokenizer(folder)
    assert len(str(caught.value)) < 1500


def test_code_of_a_tokenizers_folder_does_not_run(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save(tmp_path / "model", tokenizer())
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Tokens: pass\n")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config |= {"tokenizer_class": "Tokens", "auto_map": {"AutoTokenizer": ["evil.Tokens", "evil.Tokens"]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    with pytest.raises(InputError, match="cannot read a tokenizer"):
        load_tokenizer(folder)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("theirs", "differs"),
    [
        (TEMPLATE, False),
        ("{# a comment #}" + TEMPLATE, False),
        (TEMPLATE.replace("<|start|>{{ m.role }}", "{{ '<|start|>' + m.role }}"), False),
        (TEMPLATE.replace("<|stop|>", "<|end|>"), True),
        ("{% if messages[0].role != 'system' %}<|start|>system\nBe kind.<|stop|>{% endif %}" + TEMPLATE, True),
        ("{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + TEMPLATE, True),
        ("{% for m in messages %}", True),
        ("{{ strftime_now('%Y') }}", True),
        (None, False),
    ],
)  # fmt: skip
def test_templates_are_compared_by_what_they_write(
    theirs: str | None, differs: bool, base: Path, tmp_path: Path
) -> None:
    expert = save(tmp_path / "expert", tokenizer(), template=theirs)
    assert (other_chat(base, expert) is not None) is differs


def test_a_template_is_found_wherever_transformers_looks_for_it(base: Path, tmp_path: Path) -> None:
    folder = save(tmp_path / "model", tokenizer())
    assert template_of(folder) == TEMPLATE
    other = folder / "additional_chat_templates" / "default.jinja"  # where both are, transformers reads this one
    other.parent.mkdir()
    other.write_text("{{ messages[0].content }}")
    assert render_chat(load_tokenizer(folder), [{"role": "user", "content": "Two?"}]) == "Two?"
    assert template_of(folder) == "{{ messages[0].content }}"
    shutil.rmtree(other.parent)
    (folder / "chat_template.jinja").unlink()
    config = json.loads((folder / "tokenizer_config.json").read_text())
    for stored in (TEMPLATE, [{"name": "tool_use", "template": "x"}, {"name": "default", "template": TEMPLATE}]):
        (folder / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": stored}))
        assert template_of(folder) == TEMPLATE
        assert other_chat(base, folder) is None
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": None}))
    assert template_of(folder) is None


def test_a_template_that_was_edited_is_the_one_that_chats_are_written_with(tmp_path: Path) -> None:
    """In one process, too: what a run records of its template is what it asks."""
    folder, prompt = save(tmp_path / "model", tokenizer()), Prompt(text="Two?", chat=True)
    assert "Two?" in Encoder(folder, max_model_len=99).shown(prompt)
    (folder / "chat_template.jinja").write_text("What is {{ messages[0].content }}")
    assert Encoder(folder, max_model_len=99).shown(prompt) == "What is Two?"


def test_a_template_that_raises_says_its_own_words(tmp_path: Path) -> None:
    template = "{{ raise_exception('System role not supported') }}"
    loaded = load_tokenizer(save(tmp_path / "model", tokenizer(), template=template))
    with pytest.raises(InputError) as caught:
        render_chat(loaded, [{"role": "system", "content": "x"}, {"role": "user", "content": "y"}])
    assert caught.value.got == "System role not supported"
    assert "leave out `system`" in caught.value.fix


def opened(base: Path, expert: Path, *accept: str) -> Sources:
    return open_sources(str(base), {"x": str(expert)}, accept=accept)


def follow(fix: str) -> None:
    """Does what an advice's command does."""
    program, option, code = shlex.split(next(line for line in fix.splitlines() if line.startswith("python")))
    assert (program, option) == ("python", "-c")
    with contextlib.redirect_stderr(io.StringIO()):
        exec(code, {})


def lower_case(folder: Path) -> Path:
    made = Tokenizer.from_file(str(folder / "tokenizer.json"))
    made.normalizer = normalizers.Lowercase()
    made.save(str(folder / "tokenizer.json"))
    return folder


def test_an_expert_that_reads_otherwise_is_refused_or_accepted(toy_base: Path, copy: Callable[[Path], Copy]) -> None:
    expert = lower_case(copy(toy_base).path)
    with pytest.raises(InputError) as caught:
        opened(toy_base, expert)
    assert caught.value.problem == (
        "expert `x` reads text as other tokens than the base (normalizer of tokenizer.json)"
    )
    assert caught.value.expected.startswith("['H', 'e'")
    assert caught.value.got.startswith("['h', 'e'")
    assert "sources: {accept: [tokenizer]}" in caught.value.fix
    (note,) = opened(toy_base, expert, "tokenizer").notes
    assert note.startswith("tokenizer: ['h', 'e'")
    (expert / "tokenizer.json").write_bytes((toy_base / "tokenizer.json").read_bytes())  # the other advice
    assert opened(toy_base, expert).notes == ()


def test_an_adapter_with_a_tokenizer_of_its_own_is_asked_too(
    toy_base: Path, toy_adapters: dict[str, Path], copy: Callable[[Path], Copy]
) -> None:
    adapter = copy(toy_adapters["plain"]).path
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (adapter / name).write_bytes((toy_base / name).read_bytes())
    assert opened(toy_base, adapter).notes == ()
    with pytest.raises(InputError, match="reads text as other tokens"):
        opened(toy_base, lower_case(adapter))


def with_tokens(folder: Path, *tokens: str, base: Path) -> Path:
    """Gives a folder the base's tokenizer and more tokens, numbered from the base's last on."""
    made = json.loads((base / "tokenizer.json").read_text())
    last = made["added_tokens"][-1]
    for token in tokens:
        made["added_tokens"].append({**last, "id": made["added_tokens"][-1]["id"] + 1, "content": token})
    (folder / "tokenizer.json").write_text(json.dumps(made))
    for name in ("tokenizer_config.json", "chat_template.jinja"):
        (folder / name).write_bytes((base / name).read_bytes())
    return folder


@pytest.mark.parametrize("kind", ["adapter", "full"])
def test_tokens_that_no_text_has_do_not_matter(
    kind: str, toy_base: Path, toy_adapters: dict[str, Path], copy: Callable[[Path], Copy]
) -> None:
    """Trainers append a padding token, with a spare row of the embedding or without one."""
    expert = copy(toy_base if kind == "full" else toy_adapters["plain"]).path
    with_tokens(expert, *(f"<spare {row}>" for row in range(257, 272)), "<no row>", base=toy_base)
    with pytest.raises(InputError, match="another vocabulary"):
        opened(toy_base, expert)
    with_tokens(expert, "<pad>", base=toy_base)
    with pytest.raises(InputError, match="another vocabulary") as caught:
        opened(toy_base, expert)
    assert "accept: [tokenizer]" in caught.value.fix
    config = json.loads((expert / "tokenizer_config.json").read_text())
    (expert / "tokenizer_config.json").write_text(json.dumps(config | {"pad_token": "<pad>"}))
    assert opened(toy_base, expert).notes == ()


def test_appended_tokens_may_be_accepted_and_others_not(toy_base: Path, copy: Callable[[Path], Copy]) -> None:
    expert = with_tokens(copy(toy_base).path, "<tool>", base=toy_base)
    (note,) = opened(toy_base, expert, "tokenizer").notes
    assert "for 'a <tool> b<tool>c'" in note
    made = json.loads((expert / "tokenizer.json").read_text())
    vocabulary = made["model"]["vocab"]
    vocabulary["A"], vocabulary["B"] = vocabulary["B"], vocabulary["A"]
    (expert / "tokenizer.json").write_text(json.dumps(made))
    with pytest.raises(InputError, match="another vocabulary") as caught:
        opened(toy_base, expert, "tokenizer")
    assert caught.value.fix == "merge only fine-tunes of one base"


def test_rows_that_were_appended_are_cut_off_by_the_advice(tmp_path: Path) -> None:
    base = make_checkpoint(tmp_path / "base", num_layers=1)
    expert = make_expert(tmp_path / "an $expert", base=base, seed=1)
    expected = opened(base, expert).structure
    model = AutoModelForCausalLM.from_pretrained(expert, dtype="auto")
    model.resize_token_embeddings(280)
    model.save_pretrained(expert)
    with_tokens(expert, "<tool>", base=base)
    with pytest.raises(InputError, match="another vocabulary") as caught:
        opened(base, expert)
    follow(caught.value.fix)
    assert opened(base, Path(f"{expert}-cut")).structure == expected


def test_a_template_of_an_experts_own_is_said_and_refused_where_chats_are_asked(
    toy_base: Path, copy: Callable[[Path], Copy]
) -> None:
    expert = copy(toy_base).path
    (expert / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }}!{% endfor %}")
    sources = opened(toy_base, expert)
    (note,) = sources.notes
    assert note.startswith("chat_template: ")
    assert "'How many are two and two?!' in `x`" in note
    with pytest.raises(InputError, match="writes a chat down otherwise than the base") as caught:
        sources.require_one_chat_template()
    assert "accept: [chat_template]" in caught.value.fix
    opened(toy_base, expert, "chat_template").require_one_chat_template()


def test_a_base_without_a_template_gets_an_experts(
    toy_base: Path, copy: Callable[[Path], Copy], tmp_path: Path
) -> None:
    base = Copy(toy_base, tmp_path / "a $bare base").path
    (base / "chat_template.jinja").unlink()
    with pytest.raises(InputError, match="writes a chat down otherwise") as caught:
        opened(base, toy_base).require_one_chat_template()
    assert caught.value.expected == "'no chat template'"
    follow(caught.value.fix)
    opened(base, toy_base).require_one_chat_template()
    assert AutoTokenizer.from_pretrained(base).chat_template == AutoTokenizer.from_pretrained(toy_base).chat_template
