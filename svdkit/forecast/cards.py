"""GPUs a forecast knows: memory, arithmetic, bandwidth, and where the figures come from; and finding one by name."""

from __future__ import annotations

import csv
import difflib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from svdkit.errors import SettingsError, shown
from svdkit.given import finite

CARD_GIB = 1 << 30


class Card(NamedTuple):
    """A GPU as its maker describes it; one of which only the memory is known has seconds only from its own records.

    Attributes:
        name: Its short name.
        memory_bytes: What torch reports as total memory: less than on the box, as ECC and the driver take some.
        tflops: Dense half precision on tensor cores with fp32 accumulation, in TFLOP/s, at boost clock; 0 if unknown.
            GeForce cards have half the rate with fp32 accumulation, which torch uses: 2 x their fp32 rate.
        fp32_tflops: Single precision outside tensor cores, in TFLOP/s.
        bandwidth: Of its memory, in GB/s.
        link: Of its link to main memory, in GB/s: PCIe 3, 4 or 5 with 16 lanes (8 on the 4060), as reached in practice.
        capability: CUDA compute capability; bf16 needs 8.0.
        source: Document the figures come from.
        reported: How torch names it.
        sustained: Share that it keeps of the clock its rate is stated for: base over boost clock (1,620 MHz for the
            H100 PCIe) where power decides, as for cards of 70 W and those for PCIe slots; 1 for the others.
    """

    name: str
    memory_bytes: int = 0
    tflops: float = 0.0
    fp32_tflops: float = 0.0
    bandwidth: float = 0.0
    link: float = 24.0
    capability: tuple[int, int] = (8, 0)
    source: str = ""
    reported: tuple[str, ...] = ()
    sustained: float = 1.0


def _read() -> Iterator[Card]:
    """Read the table of cards.

    The whitepapers give rates for the largest card of a generation; for those that are "scaled" they are computed from
    cores and boost clock. "third-party": NVIDIA's own document was not at hand; what torch reports as memory is then an
    estimate from cards of the same size. Base clocks of A100 PCIe 80GB and H100 PCIe are those of NVIDIA's product
    briefs (PB-10577-001, PB-11133-001) as others quote them.
    """
    with Path(__file__).with_name("cards.csv").open(encoding="utf-8", newline="") as stream:
        for name, gib, *rates, major, minor, kept, stated, source, reported in list(csv.reader(stream))[1:]:
            memory, sustained = int(float(gib) * CARD_GIB), float(kept or 1) / float(stated or 1)
            capability, names = (int(major), int(minor)), tuple(reported.split("; "))
            yield Card._make([name, memory, *map(float, rates), capability, source, names, sustained])


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]|nvidia|geforce|tesla|rtx", "", name.lower())


CARDS = tuple(_read())
_NAMED = {_plain(name): card for card in CARDS for name in (card.name, *card.reported)}


def find_card(gpu: str | float) -> Card:
    """Find a GPU by name, as people or torch write it, or describe one by its memory alone.

    Args:
        gpu: "RTX 4090", "4090", "NVIDIA GeForce RTX 4090", "A100-SXM4-80GB"; or gigabytes on the box: 24, "24 GB". A
            plain "A100" is the one with 40 GB.

    Raises:
        SettingsError: Unknown; the message has the nearest and the list.

    Example:
        >>> find_card("rtx4090").name
        'RTX 4090'
    """
    try:
        text = gpu.strip()[:200] if isinstance(gpu, str) else f"{finite(gpu):g}"
    except ValueError:
        text = shown(gpu)
    if card := _NAMED.get(_plain(text)):
        return card
    size = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(?:GB|GiB|G)?", text, re.IGNORECASE)
    if size and 1 <= (gigabytes := float(size[1])) <= 512:
        return Card(f"a card of {gigabytes:g} GB", int(gigabytes * 0.96 * CARD_GIB))  # as a 24 GB card has 22 to 23.6
    close = difflib.get_close_matches(_plain(text), _NAMED, n=1, cutoff=0.6)
    hint = f"did you mean {_NAMED[close[0]].name!r}? Else give" if close else "give"
    listed = ", ".join(card.name for card in CARDS)
    raise SettingsError(
        f"gpu={shown(gpu)} is not a card svdkit knows: {hint} one of {listed}, or its memory in GB, such as 24"
    )


def card_of(reported: str, capability: tuple[int, int] = (8, 0)) -> Card:
    """Find a GPU by what torch calls it; one that is not known has a name and no figures."""
    return _NAMED.get(_plain(reported)) or Card(reported, capability=capability)
