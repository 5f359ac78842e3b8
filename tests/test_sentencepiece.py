"""ChatGLM's tokenizers: the ids of the published code, and of the sentencepiece package, without either."""

from __future__ import annotations

import json
import lzma
import os
import random
import re
from contextlib import suppress
from pathlib import Path

import pytest
import sentencepiece as oracle
import sentencepiece_models
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from tasks.trainer import families, tokenizer, written
from tasks.trainer.errors import ConfigError

ROOT = Path(__file__).parents[1]
KEPT = Path(__file__).parent / "data" / "chatglm" / "tokenizers"
REAL_ROWS = ROOT.parent / "shared" / "data" / "advertisegen" / "dev.json"
PUBLISHED = Path(os.environ.get("CHATGLM_TOKENIZERS", "/nowhere"))
"""A folder with the published tokenizer.model, of which the repository has no copy."""

EVERY = pytest.mark.parametrize("generation", [1, 2, 3])
ALPHABET = (
    "abc XYZ 019 ,.;\n\t  \t\n中文测试，。！？：；#*=<>|[]{}ăé日本語한국어😀🎉\u3000\u200b\r\"'\\/_-~▁"
    "你好上衣红色ﬁ①Ａ１㎏\u00a0～…—「」"
)
WORDS = [
    *("<n>", "<|tab|>", "<0x41>", "<sop>", "[gMASK]", "</s>", "<unk>", "<|user|>", "sop", "eop"),
    *("问：", "\n\n答：", "  ", "    ", " " * 79, " " * 80, " " * 81, " " * 165, "---", "哈哈哈哈"),
]
# Where characters join to graphemes, NFKC in the fast tokenizers differs from SentencePiece's: none of these.
ALONE = st.characters(categories=["L", "N", "P", "S", "Z"], max_codepoint=0x10FF) | st.characters(
    min_codepoint=0x3000, max_codepoint=0xD7A3, exclude_categories=["M", "Cn"]
)


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """The files of each generation, with the small models that the reference was made with."""
    found = {}
    for generation, name in sentencepiece_models.FILES.items():
        folder = tmp_path_factory.mktemp(f"generation{generation}")
        found[generation] = sentencepiece_models.write(folder, generation)
        kept = KEPT / name if generation > 1 else KEPT / f"{name}.xz"
        data = kept.read_bytes() if generation > 1 else lzma.decompress(kept.read_bytes())
        (folder / name).write_bytes(data)
    return found


@pytest.fixture(scope="module")
def fast(homes: dict[int, Path]) -> dict[int, PreTrainedTokenizerFast]:
    return {generation: tokenizer.load(folder) for generation, folder in homes.items()}


@pytest.fixture(scope="module")
def original(homes: dict[int, Path]) -> dict[int, oracle.SentencePieceProcessor]:
    return {
        generation: oracle.SentencePieceProcessor(
            model_file=str(folder / sentencepiece_models.FILES[generation])
        )
        for generation, folder in homes.items()
    }


@pytest.fixture(scope="module")
def reference() -> dict[str, dict[str, list[list[object]]]]:
    found: dict[str, dict[str, list[list[object]]]] = json.loads(
        (KEPT / "reference.json").read_text(encoding="ascii")
    )
    return found


def before(text: str, generation: int) -> str:
    """Do what the first generation's code does to a text before the package sees it."""
    if generation != 1:
        return text
    text = text.replace("\n", "<n>").replace("\t", "<|tab|>")
    for width in range(80, 1, -1):
        text = text.replace(" " * width, f"<|blank_{width}|>")
    return text


def answered(text: str) -> str:
    """Do what `chat` of the first generation does to the punctuation of an answer."""
    for half, full in zip(",!:;?", "，！：；？", strict=True):
        text = re.sub(rf"([\u4e00-\u9fff])[{half}]", rf"\1{full}", text)
        text = re.sub(rf"[{half}]([\u4e00-\u9fff])", rf"{full}\1", text)
    return text


def fuzzed(count: int, seed: int) -> list[str]:
    draw = random.Random(seed)

    def one() -> str:
        return draw.choice(WORDS) if draw.random() < 0.1 else draw.choice(ALPHABET)

    return ["".join(one() for _ in range(draw.randint(0, 40))) for _ in range(count)]


@EVERY
def test_texts_get_the_ids_that_the_published_code_gives(
    generation: int, fast: dict[int, PreTrainedTokenizerFast], reference: dict[str, dict[str, list]]
) -> None:
    texts, ids, _ = zip(*reference[str(generation)]["texts"], strict=True)
    assert len(texts) == 150
    assert written.ids(fast[generation], texts) == list(ids)


@EVERY
def test_ids_decode_to_what_the_published_code_makes_of_them(
    generation: int, fast: dict[int, PreTrainedTokenizerFast], reference: dict[str, dict[str, list]]
) -> None:
    for _, ids, text in reference[str(generation)]["texts"]:
        expected = answered(text) if generation == 1 else text
        assert fast[generation].decode(ids, skip_special_tokens=True) == expected


@EVERY
def test_conversations_get_the_prompts_that_the_published_code_asks_with(
    generation: int, fast: dict[int, PreTrainedTokenizerFast], reference: dict[str, dict[str, list]]
) -> None:
    family, tok = families.load("chatglm"), fast[generation]
    # the third generation writes this line break itself, before the answer
    last = written.ids(tok, ["\n"])[0] if generation == 3 else []
    for said, ids in reference[str(generation)]["prompts"]:
        roles = ("user", "assistant") * len(said)
        messages = [{"role": r, "content": c} for r, c in zip(roles, said, strict=False)]
        assert family.prompt(tok, messages) == ids + last


@EVERY
def test_fuzzed_texts_get_the_ids_of_the_package(
    generation: int,
    fast: dict[int, PreTrainedTokenizerFast],
    original: dict[int, oracle.SentencePieceProcessor],
) -> None:
    texts = fuzzed(2000, seed=generation)
    expected = original[generation].encode([before(text, generation) for text in texts])
    assert written.ids(fast[generation], texts) == expected


@EVERY
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_text_gets_the_ids_of_the_package(
    generation: int,
    data: st.DataObject,
    fast: dict[int, PreTrainedTokenizerFast],
    original: dict[int, oracle.SentencePieceProcessor],
) -> None:
    text = data.draw(st.text(ALONE) if generation == 1 else st.text())
    expected = original[generation].encode(before(text, generation))
    assert written.ids(fast[generation], [text]) == [expected]


@EVERY
@pytest.mark.skipif(not REAL_ROWS.is_file(), reason="the real rows are not here")
def test_real_rows_get_the_ids_of_the_package(
    generation: int,
    fast: dict[int, PreTrainedTokenizerFast],
    original: dict[int, oracle.SentencePieceProcessor],
) -> None:
    rows = [json.loads(line) for line in REAL_ROWS.read_text(encoding="utf-8").splitlines()]
    texts = [row[key] for row in rows for key in ("content", "summary")]
    expected = original[generation].encode([before(text, generation) for text in texts])
    assert written.ids(fast[generation], texts) == expected


@pytest.mark.skipif(not (PUBLISHED / "tokenizer.model").is_file(), reason="CHATGLM_TOKENIZERS")
def test_the_published_model_gets_its_published_ids(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes((PUBLISHED / "tokenizer.model").read_bytes())
    (tmp_path / "tokenizer_config.json").write_text('{"name_or_path": "THUDM/chatglm3-6b"}')
    tok = tokenizer.load(tmp_path)
    tokens = ["[MASK]", "[gMASK]", "[sMASK]", "sop", "eop", "<|system|>", "<|user|>"]
    assert [written.control(tok, token) for token in tokens] == list(range(64789, 64796))
    package = oracle.SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))
    texts = fuzzed(5000, seed=9)
    assert written.ids(tok, texts) == package.encode(texts)
    assert written.ids(tok, ["\n"]) == [[30910, 13]]


@EVERY
def test_no_text_becomes_a_control_token_or_a_byte_by_its_name(
    generation: int, fast: dict[int, PreTrainedTokenizerFast]
) -> None:
    tok = fast[generation]
    names = [*written.known(tok), *sentencepiece_models.BYTES]
    around = [text for name in names for text in (name, f"你好{name}b", f"{name[0]}{name}{name}")]
    forbidden = set(written.known(tok).values())
    for ids in written.ids(tok, around):
        assert not forbidden & set(ids)
    for name in sentencepiece_models.BYTES[0x21:0x7F]:
        assert tok.decode(written.ids(tok, [name])[0], skip_special_tokens=True) == name


@EVERY
def test_control_tokens_have_the_numbers_of_their_generation(
    generation: int, homes: dict[int, Path], fast: dict[int, PreTrainedTokenizerFast]
) -> None:
    tok = fast[generation]
    if generation == 1:
        package = oracle.SentencePieceProcessor(model_file=str(homes[1] / "ice_text.model"))
        for token in ("[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>", "<pad>", "</s>"):
            assert written.control(tok, token) == package.piece_to_id(token)
        assert (tok.eos_token, tok.pad_token) == ("<eop>", "<pad>")
        return
    assert written.control(tok, "[gMASK]") == 491
    assert written.control(tok, "sop") == 493
    assert (tok.eos_token_id, tok.pad_token_id) == (2, 0)
    assert ("<|user|>" in written.known(tok)) == (generation == 3)
    assert len(tok) == (499 if generation == 3 else 495)


@EVERY
def test_a_saved_tokenizer_is_the_same_one(
    generation: int, fast: dict[int, PreTrainedTokenizerFast], tmp_path: Path
) -> None:
    fast[generation].save_pretrained(tmp_path)
    again = tokenizer.load(tmp_path)
    texts = fuzzed(200, seed=5)
    ids = written.ids(fast[generation], texts)
    assert (tmp_path / "tokenizer.json").is_file()
    assert written.ids(again, texts) == ids
    assert [again.decode(i) for i in ids] == [fast[generation].decode(i) for i in ids]
    assert written.known(again) == written.known(fast[generation])
    family = families.load("chatglm")
    question = [{"role": "user", "content": "你好"}]
    assert family.prompt(again, question) == family.prompt(fast[generation], question)
    assert family.stop_ids(again) == family.stop_ids(fast[generation])
    assert again.pad_token_id == fast[generation].pad_token_id


@EVERY
def test_a_text_that_is_cut_anywhere_decodes_to_its_beginning(
    generation: int, fast: dict[int, PreTrainedTokenizerFast]
) -> None:
    text = "你好a\n😀😀 b\tc    d 国"
    ids = written.ids(fast[generation], [text])[0]
    assert fast[generation].decode(ids) == text
    for end in range(len(ids)):
        assert text.startswith(
            fast[generation].decode(ids[:end]).rstrip("\N{REPLACEMENT CHARACTER}")
        )


def test_whitespace_of_the_first_generation_has_its_own_tokens(
    fast: dict[int, PreTrainedTokenizerFast],
    original: dict[int, oracle.SentencePieceProcessor],
) -> None:
    ids = written.ids(fast[1], ["a\n\tb   c" + " " * 81 + "d"])[0]
    pieces = [original[1].id_to_piece(number) for number in ids]
    assert pieces == ["▁a", "<n>", "<|tab|>", "b", "<|blank_3|>", "c", "<|blank_80|>", "▁d"]


def test_the_first_generation_reads_half_width_punctuation_and_answers_with_full_width(
    fast: dict[int, PreTrainedTokenizerFast],
    original: dict[int, oracle.SentencePieceProcessor],
) -> None:
    text = "好，好！好：好；好？好。～a, b! 3:好"
    ids = written.ids(fast[1], [text])[0]
    assert original[1].decode(ids) == "好,好!好:好;好?好。～a, b! 3:好"
    assert fast[1].decode(ids) == "好，好！好：好；好？好。～a, b! 3：好"
    assert written.ids(fast[1], [fast[1].decode(ids)]) == [ids]
    assert fast[2].decode(written.ids(fast[2], [text])[0]) == text


@pytest.mark.parametrize(
    ("beside", "expected"),
    [
        ({"tokenizer_config.json": '{"name_or_path": "THUDM/chatglm2-6b"}'}, 2),
        ({"tokenizer_config.json": '{"name_or_path": "THUDM/chatglm3-6b-base"}'}, 3),
        ({"config.json": '{"_name_or_path": "THUDM/chatglm3-6b"}'}, 3),
        ({"tokenization_chatglm.py": 'roles = ["<|user|>"]'}, 3),
        ({"tokenization_chatglm.py": 'special = ["sop", "eop"]'}, 2),
        ({"tokenizer_config.json": '{"chat_template": "<|user|> {{ x }}"}'}, 3),
    ],
)
def test_the_files_beside_a_model_tell_the_second_generation_from_the_third(
    beside: dict[str, str], expected: int, tmp_path: Path
) -> None:
    (tmp_path / "tokenizer.model").write_bytes(sentencepiece_models.model(2))
    for name, text in beside.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    chatglm = families.load("chatglm")
    assert chatglm.generation_of(tokenizer.load(tmp_path)) == expected  # type: ignore[attr-defined]


def test_a_model_of_which_nobody_says_the_generation_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(sentencepiece_models.model(2))
    with pytest.raises(ConfigError, match="whether it is of ChatGLM2 or ChatGLM3"):
        tokenizer.load(tmp_path)


def test_the_first_revision_of_the_first_generation_is_refused(tmp_path: Path) -> None:
    sentencepiece_models.write(tmp_path, 1)
    (tmp_path / "tokenizer_config.json").write_text('{"bos_token": "<sop>"}', encoding="utf-8")
    with pytest.raises(ConfigError, match="begin after 20000 tokens for images"):
        tokenizer.load(tmp_path)


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:e7dc4c39\nsize 1018370\n"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (POINTER, "the pointer of a large file of git"),
        (b"", "no piece for the unknown"),
        (b"hello world, this is text", "not a SentencePiece model"),
        (sentencepiece_models.model(2)[:-7], "not a SentencePiece model|not supported"),
        (sentencepiece_models.model(2) + sentencepiece_models.piece("<s>", 3), "occur twice"),
        (sentencepiece_models.model(2) + sentencepiece_models.piece("x!", 4), "defined by a user"),
        (
            sentencepiece_models.train(model_type="char", vocab_size=100, hard_vocab_limit=False),
            "unigram or BPE",
        ),
        (
            sentencepiece_models.train(model_type="unigram", vocab_size=150),
            "not the tokenizer of a ChatGLM",
        ),
    ],
    ids=["pointer", "empty", "text", "cut", "twice", "user-defined", "characters", "another"],
)
def test_a_file_that_is_not_what_it_should_be_is_refused_with_the_reason(
    data: bytes, reason: str, tmp_path: Path
) -> None:
    sentencepiece_models.write(tmp_path, 1)
    (tmp_path / "ice_text.model").write_bytes(data)
    with pytest.raises(ConfigError, match=reason):
        tokenizer.load(tmp_path)


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 7000), st.binary(max_size=12))
def test_a_damaged_file_is_refused_or_read_but_never_breaks(
    tmp_path_factory: pytest.TempPathFactory, at: int, bytes_: bytes
) -> None:
    folder = tmp_path_factory.getbasetemp() / "damaged"
    if not folder.is_dir():
        sentencepiece_models.write(folder, 2)
    data = sentencepiece_models.model(2)
    (folder / "tokenizer.model").write_bytes(data[:at] + bytes_ + data[at + len(bytes_) :])
    with suppress(ConfigError):
        tokenizer.load(folder)


def test_the_product_does_not_import_the_package_nor_protobuf() -> None:
    for path in (ROOT / "tasks").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        found = re.search(r"^\s*(?:import|from) (?:sentencepiece|google)\b", text, re.MULTILINE)
        assert found is None, path
