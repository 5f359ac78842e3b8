"""What the evaluation scripts of the ChatGLM family compute of one answer and its reference.

|         | chatglm2                                   | chatglm3                                  |
| ------- | ------------------------------------------ | ----------------------------------------- |
| text    | as it is                                   | without whitespace at both ends           |
| ROUGE   | rouge_chinese over jieba words             | the same                                  |
| BLEU-4  | nltk, method 3, over characters            | nltk, method 3, over jieba words          |
| scale   | percent, rounded to 4 digits               | BLEU from 0 to 1, not rounded; here × 100 |

Both scripts stop with an error at a blank text; here it scores 0. Scores depend on further choices
of these scripts, which are those of the caller here: chatglm2 cuts the references to 64 tokens,
chatglm3 leaves the end mark `<|user|>` in the text and scores the first 50 rows only.

Source: https://github.com/THUDM/ChatGLM2-6B, ptuning/main.py (`compute_metrics`) at commit
3be48aa44a023b622b3e9fefa3df3494acc99761; https://github.com/THUDM/ChatGLM3,
finetune_demo/finetune_hf.py (`compute_metrics`) at commit 00930ac459c2c9555ccd66d6faaf8ad049be95d1.
"""

from __future__ import annotations

from typing import NamedTuple

from tasks.metrics import bleu
from tasks.metrics.rouge import Words, rouge, words_of
from tasks.metrics.segment import Cut

NOTHING = (0.0, 0.0, 0.0, 0.0)
"""What a blank text scores, and whatever is compared with one."""


class Text(NamedTuple):
    """What these protocols need to know of one text."""

    words: Words
    grams: bleu.Grams
    """Of characters or of words."""


def of_characters(cut: Cut, text: str) -> Text:
    """Analyse a text for chatglm2."""
    return Text(words_of(cut(text)), bleu.characters_of(text))


def of_words(cut: Cut, text: str) -> Text:
    """Analyse a text for chatglm3."""
    words = cut(text.strip())
    return Text(words_of(words), bleu.words_of(words))


def chatglm2(prediction: Text, reference: Text) -> tuple[float, ...]:
    """Return ROUGE-1, ROUGE-2, ROUGE-L and BLEU-4 in percent, rounded to 4 digits."""
    if not prediction.words.sequence or not reference.words.sequence:
        return NOTHING
    overlaps = rouge(prediction.words, reference.words)
    score = bleu.bleu_4(prediction.grams, reference.grams)
    return tuple(round(value * 100, 4) for value in (*overlaps, score))


def chatglm3(prediction: Text, reference: Text) -> tuple[float, ...]:
    """Return ROUGE-1, ROUGE-2, ROUGE-L in percent, rounded, and a hundred times the published BLEU-4."""
    if not prediction.words.sequence or not reference.words.sequence:
        return NOTHING
    overlaps = rouge(prediction.words, reference.words)
    score = bleu.bleu_4(prediction.grams, reference.grams)
    return (*(round(value * 100, 4) for value in overlaps), score * 100)
