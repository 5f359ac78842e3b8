"""Write the sample data: garments as attributes, and an advertisement for each, in AdvertiseGen's form.

The text follows from the attributes up to the choice of words: every attribute becomes one clause, in
the order of the prompt, built of a frame and a praise out of `lexicon.toml`. Of the ways to say a thing
each value has its favourites, as writers do, so there is more to learn than one neighbour's text shows.
No two rows of all splits share their set of attributes.

Run `python -m deployments.sample.garments` to write `data/train.json` and `data/dev.json` again; the
same seed gives the same bytes on every machine. New words go into the lexicon only.
"""

from __future__ import annotations

import json
import random
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SEED = 17
ROWS = {"train": 2400, "dev": 240}

LEXICON: dict[str, Any] = tomllib.loads((HERE / "lexicon.toml").read_text(encoding="utf-8"))

Attributes = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Garment:
    """One row: attributes in the order of the prompt, and what an advertiser writes about them."""

    attributes: Attributes
    summary: str

    @property
    def content(self) -> str:
        """The prompt, such as `类型#裙*颜色#白色`."""
        return "*".join(f"{key}#{value}" for key, value in self.attributes)


def noun_of(attributes: Attributes) -> str:
    """Return what the garment is called: its kind when the attributes tell it."""
    told = dict(attributes)
    garment = LEXICON["garments"][told["类型"]]
    return str(told.get(garment["kind"], garment["noun"]))


def draw_attributes(rng: random.Random) -> Attributes:
    """Draw the attributes of a garment that could exist: three to six besides its type and kind."""
    while True:
        name = _any(rng, list(LEXICON["garments"]))
        garment = LEXICON["garments"][name]
        kind = _any(rng, list(garment["kinds"]))
        drawn = _draw_values(rng, garment, kind)
        if len(drawn) >= 3 and not _clash({name, kind, *drawn.values()}):
            told = {garment["kind"]: kind} if rng.random() < 0.8 else {}
            ordered = ((key, drawn[key]) for key in garment["keys"] if key in drawn)
            return (("类型", name), *told.items(), *ordered)


def advertise(attributes: Attributes, rng: random.Random) -> str:
    """Write an advertisement that speaks of every attribute, in their order."""
    garment = LEXICON["garments"][attributes[0][1]]
    noun = noun_of(attributes)
    taste = [garment["noun"], *garment["kinds"]].index(noun)
    opening = _favourite(rng, LEXICON["openings"], taste)
    pieces = [opening.format(c=garment["counter"], n=noun)]
    for key, value in attributes[1:]:
        if key != garment["kind"]:
            words = LEXICON["words"][garment["keys"][key]]
            clause = _clause(rng, words, value)
            # pieces come in sentences of two: this one opens the next when their number is even
            opens, sentence = len(pieces) % 2 == 0, len(pieces) // 2
            pieces.append(_lead(rng, words, sentence) + clause if opens else clause)
    pieces.append(_favourite(rng, LEXICON["endings"], taste))
    sentences = ["，".join(pieces[start : start + 2]) for start in range(0, len(pieces), 2)]
    return "。".join(sentences) + "。"


def garments(
    seed: str, others: Iterable[Garment] = (), held_out: Iterable[Garment] = ()
) -> Iterator[Garment]:
    """Yield garments without end: no two, and none of `others`, have the same set of attributes.

    No garment has all the attributes of one that is held out.
    """
    rng = random.Random(seed)
    taken = {frozenset(row.attributes) for row in others}
    apart: dict[tuple[str, str], list[frozenset[tuple[str, str]]]] = {}
    for row in held_out:
        apart.setdefault(row.attributes[-1], []).append(frozenset(row.attributes))
    while True:
        attributes = draw_attributes(rng)
        identity = frozenset(attributes)
        leaks = any(row <= identity for last in attributes for row in apart.get(last, ()))
        if identity not in taken and not leaks:
            taken.add(identity)
            yield Garment(attributes, advertise(attributes, rng))


def splits() -> dict[str, list[Garment]]:
    """Return the rows of the data set, by split; no training row tells all that a dev row tells."""
    dev = list(islice(garments(f"dev {SEED}"), ROWS["dev"]))
    train = list(islice(garments(f"train {SEED}", held_out=dev), ROWS["train"]))
    return {"train": train, "dev": dev}


def lines(rows: Sequence[Garment]) -> str:
    """Return rows as the JSON Lines that AdvertiseGen uses."""
    records = ({"content": row.content, "summary": row.summary} for row in rows)
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def main() -> None:
    """Write the files of the data set."""
    (HERE / "data").mkdir(exist_ok=True)
    for split, rows in splits().items():
        (HERE / "data" / f"{split}.json").write_text(lines(rows), encoding="utf-8", newline="\n")


def _draw_values(rng: random.Random, garment: dict[str, Any], kind: str) -> dict[str, str]:
    only = garment.get("every", {}) | garment["kinds"][kind]
    drawn: dict[str, str] = {}
    keys = sorted(garment["keys"], key=lambda _: rng.random())
    for key in keys[: 3 + int(rng.random() * 4)]:
        values = only.get(key, list(LEXICON["words"][garment["keys"][key]]["praise"]))
        rival = any(key in pair and drawn.keys() & set(pair) for pair in garment["rivals"])
        if values and not rival:
            drawn[key] = _any(rng, values)
    return drawn


def _clash(values: set[str]) -> bool:
    return any(line[0] in values and values & set(line[1:]) for line in LEXICON["clashes"])


def _clause(rng: random.Random, words: dict[str, Any], value: str) -> str:
    taste = list(words["praise"]).index(value)
    praise = _favourite(rng, words["praise"][value], taste)
    frame = _favourite(rng, words["frames"], taste)
    return str(frame.format(v=value, x=praise))


def _lead(rng: random.Random, words: dict[str, Any], sentence: int) -> str:
    if rng.random() < 0.3:
        return str(words["lead"])
    return _favourite(rng, LEXICON["connectives"], sentence - 1)


def _any(rng: random.Random, options: Sequence[str]) -> str:
    return options[int(rng.random() * len(options))]


def _favourite(rng: random.Random, options: Sequence[str], taste: int) -> str:
    """Draw an option, each half as often as the one before; `taste` says which is the first."""
    rank = next((rank for rank in range(len(options)) if rng.random() < 0.5), 0)
    return options[(taste + rank) % len(options)]


if __name__ == "__main__":
    main()
