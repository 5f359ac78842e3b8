"""Make the tiny base model: what a fine-tuning run starts from where there is no network.

It is a true GLM (`GlmForCausalLM`, into which ChatGLM2 and 3 convert) with its own tokenizer. It knows
the words of garments and of their advertisements, and tells the attributes of a garment soberly. It
has never seen attributes answered with an advertisement: that is what fine-tuning teaches. Its
exercises, none of a garment of the data set:

    类型#裙*裙长#短裙*颜色#白色              →  这是一条短裙，颜色是白色。    (five sober styles)
    写一段短裙的广告。                       →  an advertisement of any short skirt

Batches, schedule and objective are the trainer's; the optimizer is not. Matrices learn by Muon, which
after 94 CPU seconds had the loss 0.92 where AdamW, the trainer's, had 1.73 after 118, and a base model
is made from random weights only here. The weights are kept in float16.

Run `python -m deployments.sample.pretrain` to make `base/` again: 11 minutes on 2 cores that had other
work too. The same machine gives the same bytes.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GlmConfig, GlmForCausalLM, PreTrainedTokenizerFast

from deployments.sample.garments import HERE, LEXICON, Attributes, garments, noun_of, splits
from tasks.trainer import batches, encode, families
from tasks.trainer.job import Full, TrainSpec
from tasks.trainer.model import Loaded
from tasks.trainer.objective import scored, summed_loss
from tasks.trainer.rates import learning_rate

ROWS = 60_000
# Complete, so that another default elsewhere does not make another base model.
SPEC = TrainSpec(
    method=Full(),
    epochs=1,
    learning_rate=3e-3,
    global_batch=32,
    warmup=0.05,
    decay="cosine",
    clip=1.0,
    max_prompt_tokens=128,
    max_answer_tokens=256,
    seed=17,
)
MUON_RATE = 0.02
# sums of floats depend on how many threads share them
THREADS = 2

VOCABULARY = 2500
STOP = "<|endoftext|>"
CONTROL = (STOP, "[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>")
# A key with its marks is one word, `*颜色#`, so that `白色` is the same word in prompt and answer.
_WORDS = r"\*?[\p{L}\p{N}]+#|[\p{L}\p{N}]+|[^\p{L}\p{N}]"
_LONGEST_TOKEN = 12  # bytes: four Chinese characters

CHAT_TEMPLATE = (
    "[gMASK]<sop>{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] }}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)

Exercise = tuple[str, str]
"""A prompt and its answer."""


def exercises(rows: int = ROWS) -> list[Exercise]:
    """Return what the base model learns from; no garment of the data set is in it."""
    data = splits()
    others = garments(f"base {SPEC.seed}", data["train"] + data["dev"], held_out=data["dev"])
    rng = random.Random(f"exercises {SPEC.seed}")
    found: list[Exercise] = []
    for garment in islice(others, rows):
        if rng.random() < 0.6:
            found.append((garment.content, describe(garment.attributes, rng)))
        else:
            found.append((f"写一段{noun_of(garment.attributes)}的广告。", garment.summary))
    return found


def describe(attributes: Attributes, rng: random.Random) -> str:
    """Tell the attributes as a catalogue would."""
    garment = LEXICON["garments"][attributes[0][1]]
    counter, noun = garment["counter"], noun_of(attributes)
    told = [(key, value) for key, value in attributes[1:] if key != garment["kind"]]
    styles = (
        f"这是一{counter}{noun}，" + "，".join(f"{key}是{value}" for key, value in told),
        f"商品名称：{noun}。" + "；".join(f"{key}：{value}" for key, value in told),
        f"{noun}一{counter}，" + "，".join(f"{key}为{value}" for key, value in told),
        "、".join(value for _, value in told) + f"的{noun}一{counter}",
        f"一{counter}{noun}：" + "、".join(f"{value}（{key}）" for key, value in told),
    )
    return rng.choices(styles, weights=(8, 3, 3, 3, 3))[0] + "。"


def train_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE: any text has ids, and they give the text back."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    how = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(CONTROL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        max_token_length=_LONGEST_TOKEN,
        min_frequency=2,
        show_progress=False,
    )
    bpe.train_from_iterator(texts, how)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token=STOP, pad_token=STOP)
    tokenizer.add_special_tokens({"additional_special_tokens": list(CONTROL)})
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def new_model(tokenizer: PreTrainedTokenizerFast) -> GlmForCausalLM:
    """Return a GLM of 1.3 million random weights."""
    torch.manual_seed(SPEC.seed)
    stop = tokenizer.convert_tokens_to_ids(STOP)
    config = GlmConfig(
        vocab_size=len(tokenizer),
        hidden_size=160,
        intermediate_size=448,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=40,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        pad_token_id=stop,
        eos_token_id=stop,
    )
    return GlmForCausalLM(config)


def learn(
    model: GlmForCausalLM, tokenizer: PreTrainedTokenizerFast, told: Sequence[Exercise]
) -> Iterator[tuple[int, int, float]]:
    """Train all weights on the exercises; yield step, steps and loss (nats per token) of each step."""
    family = families.load("tiny")
    loaded = Loaded(
        model, tokenizer, family, torch.device("cpu"), torch.float32, "base", SPEC, HERE / "base"
    )
    examples = [example for row in told for example in _examples(row, loaded)]
    schedule = batches.Schedule([len(example.input_ids) for example in examples], SPEC)
    optimizers = _optimizers(model)
    model.train()
    for step in range(schedule.steps):
        chosen = [examples[index] for index in schedule.examples(step)]
        loss = summed_loss(loaded, batches.collate(chosen)) / scored(chosen)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), SPEC.clip)
        for optimizer, peak in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = peak * learning_rate(step, schedule.steps, SPEC) / SPEC.learning_rate
            optimizer.step()
        model.zero_grad()
        yield step + 1, schedule.steps, loss.item()
    model.eval()


def save(model: GlmForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Write weights and tokenizer in the layout of transformers."""
    model.half().save_pretrained(out)
    tokenizer.save_pretrained(out)


def _examples(row: Exercise, loaded: Loaded) -> Iterator[encode.Example]:
    messages = [
        {"role": role, "content": text}
        for role, text in zip(("user", "assistant"), row, strict=True)
    ]
    return encode.examples(messages, loaded.family, loaded.tokenizer, SPEC)


def _optimizers(model: GlmForCausalLM) -> list[tuple[torch.optim.Optimizer, float]]:
    """Muon for the matrices between the embeddings, AdamW for all else; each with its peak rate."""
    layers = {id(p) for p in model.model.layers.parameters() if p.ndim == 2}
    matrices = [p for p in model.parameters() if id(p) in layers]
    others = [p for p in model.parameters() if id(p) not in layers]
    muon = torch.optim.Muon(matrices, lr=MUON_RATE, momentum=0.95, weight_decay=0.0)
    adamw = torch.optim.AdamW(others, lr=SPEC.learning_rate, betas=(0.9, 0.95), weight_decay=0.0)
    return [(muon, MUON_RATE), (adamw, SPEC.learning_rate)]


def main() -> None:
    """Make the base model."""
    parser = argparse.ArgumentParser(description="Make the tiny base model of the sample run.")
    parser.add_argument("--out", type=Path, default=HERE / "base", help="directory of the model")
    out = parser.parse_args().out
    torch.set_num_threads(THREADS)
    began = time.monotonic()
    told = exercises()
    tokenizer = train_tokenizer(text for row in told for text in row)
    model = new_model(tokenizer)
    for step, steps, loss in learn(model, tokenizer, told):
        if step % 50 == 0 or step == steps:
            seconds = time.monotonic() - began
            sys.stdout.write(f"step {step} of {steps}: loss {loss:.3f}, {seconds:.0f} s\n")
            sys.stdout.flush()
    save(model, tokenizer, out)


if __name__ == "__main__":
    main()
