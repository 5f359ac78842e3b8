"""Texts for property tests of the metrics: arbitrary Unicode, and what takes part in a peculiarity."""

from __future__ import annotations

from hypothesis import strategies as st

# Sentence marks, quotes, dots, blank lines, odd whitespace, marks that jieba keeps in a word.
PIECES = [
    *"裙子好看上衣的，。！？?”’…. \t\n\r\x0b\x1c\x85\u2028\u3000\x00a1%#*,-",
    "连衣裙",
    "牛仔外套",
    "......",
    "……",
    "。\n",
    "\n \n",
    "\r\n",
    "polo领",
    "<UNK>",
    "3.5%",
    "Hello World",
    "杭研大厦",
]
TEXTS = st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=25).map("".join)
LETTERS = st.text(st.sampled_from("裙子好看上衣的，。ab1"), min_size=4, max_size=60)
"""Without whitespace, and with enough characters for an n-gram of each order."""
