"""GPUs a forecast knows: memory, arithmetic, bandwidth, and where the figures come from; and finding one by name."""

from __future__ import annotations

import difflib
import math
import re
from typing import NamedTuple

from svdkit.errors import SettingsError, shown
from svdkit.given import finite

CARD_GIB = 1 << 30


class Card(NamedTuple):
    """A GPU as its maker describes it.

    Attributes:
        name: Its short name.
        memory_gib: What torch reports as total memory, in GiB: less than on the box, as ECC and the driver take some.
        tflops: Dense half precision on tensor cores with fp32 accumulation, in TFLOP/s, at boost clock; 0 if unknown.
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
    memory_gib: float
    tflops: float
    fp32_tflops: float
    bandwidth: float
    link: float
    capability: tuple[int, int]
    source: str
    reported: tuple[str, ...] = ()
    sustained: float = 1.0

    @property
    def memory_bytes(self) -> int:
        """Total memory in bytes."""
        return int(self.memory_gib * CARD_GIB)

    @property
    def bf16(self) -> bool:
        """Whether it computes in bf16 rather than emulating it."""
        return self.capability >= (8, 0)


_ADA = "NVIDIA Ada GPU Architecture whitepaper"
_GA102 = "NVIDIA Ampere GA102 GPU Architecture whitepaper"
_A100 = "NVIDIA A100 Tensor Core GPU datasheet"
_H100 = "NVIDIA H100 Tensor Core GPU datasheet"
_V100 = "NVIDIA V100 Tensor Core GPU datasheet"
# NVIDIA's own document was not at hand. What torch reports as memory is an estimate from cards of the same size. Base
# clocks of A100 PCIe 80GB and H100 PCIe are those of NVIDIA's product briefs (PB-10577-001, PB-11133-001) as others
# quote them.
_OTHERS = "third-party specification tables, not checked against NVIDIA's"
_PRO_6000 = ("", " Server Edition", " Workstation Edition", " Max-Q Workstation Edition")

# GeForce cards have half the rate with fp32 accumulation, which torch uses: 2 x their fp32 rate. The whitepapers give
# it for the largest card of a generation; for those that are "scaled" it is computed from their cores and boost clock.
CARDS = (
    Card("T4", 14.7, 65, 8.1, 320, 12, (7, 5), "NVIDIA T4 datasheet", ("Tesla T4",), 585 / 1590),
    Card("L4", 22.0, 121, 30.3, 300, 24, (8, 9), "NVIDIA L4 datasheet", ("NVIDIA L4",), 795 / 2040),
    Card("L20", 44.4, 119.5, 59.8, 864, 24, (8, 9), _OTHERS, ("NVIDIA L20",), 1440 / 2520),
    Card("A10", 22.0, 125, 31.2, 600, 24, (8, 6), _OTHERS, ("NVIDIA A10",), 885 / 1695),
    Card("A10G", 22.0, 70, 35, 600, 24, (8, 6), "NVIDIA A10G datasheet", ("NVIDIA A10G",)),
    Card("A40", 44.4, 149.7, 37.4, 696, 24, (8, 6), _OTHERS, ("NVIDIA A40",), 1305 / 1740),
    Card("RTX A6000", 47.5, 154.8, 38.7, 768, 24, (8, 6), _OTHERS, ("NVIDIA RTX A6000",)),
    Card("RTX 3060", 11.7, 25.5, 12.7, 360, 24, (8, 6), f"{_GA102}, scaled", ("NVIDIA GeForce RTX 3060",)),
    Card("RTX 3090", 23.6, 71, 35.6, 936, 24, (8, 6), _GA102, ("NVIDIA GeForce RTX 3090",)),
    Card("RTX 4060", 7.7, 30.2, 15.1, 272, 12, (8, 9), f"{_ADA}, scaled", ("NVIDIA GeForce RTX 4060",)),
    Card("RTX 4080", 15.6, 97.5, 48.7, 717, 24, (8, 9), _OTHERS, ("NVIDIA GeForce RTX 4080",)),
    Card("RTX 4090", 23.6, 165.2, 82.6, 1008, 24, (8, 9), _ADA, ("NVIDIA GeForce RTX 4090",)),
    Card("RTX 4090 D", 23.6, 147, 73.5, 1008, 24, (8, 9), _OTHERS, ("NVIDIA GeForce RTX 4090 D",)),
    Card(
        *("RTX 5090", 31.3, 209.5, 104.8, 1792, 48, (12, 0)),
        *("NVIDIA RTX Blackwell GPU Architecture whitepaper", ("NVIDIA GeForce RTX 5090",)),
    ),
    Card(
        *("RTX PRO 6000", 95.0, 503.8, 126, 1792, 48, (12, 0), _OTHERS),
        tuple(f"NVIDIA RTX PRO 6000 Blackwell{edition}" for edition in _PRO_6000),
    ),
    Card("V100", 15.8, 125, 15.7, 900, 12, (7, 0), _V100, ("Tesla V100-SXM2-16GB", "V100 16GB")),
    Card("V100 32GB", 31.7, 125, 15.7, 900, 12, (7, 0), _V100, ("Tesla V100-SXM2-32GB",)),
    Card("A100 40GB", 39.4, 312, 19.5, 1555, 24, (8, 0), _A100, ("NVIDIA A100-SXM4-40GB", "A100")),
    Card("A100 PCIe 40GB", 39.4, 312, 19.5, 1555, 24, (8, 0), _OTHERS, ("NVIDIA A100-PCIE-40GB",), 765 / 1410),
    Card("A100 80GB", 79.2, 312, 19.5, 2039, 24, (8, 0), _A100, ("NVIDIA A100-SXM4-80GB",)),
    Card(
        *("A100 PCIe 80GB", 79.2, 312, 19.5, 1935, 24, (8, 0), _OTHERS),
        *(("NVIDIA A100 80GB PCIe", "A100-PCIE-80GB", "A100 PCIe"), 1065 / 1410),
    ),
    Card(
        *("A800", 79.2, 312, 19.5, 2039, 24, (8, 0), _OTHERS),
        ("NVIDIA A800-SXM4-80GB", "NVIDIA A800 80GB PCIe", "A800 80GB"),
    ),
    Card("L40S", 44.4, 362, 91.6, 864, 24, (8, 9), "NVIDIA L40S datasheet", ("NVIDIA L40S",)),
    Card("H20", 95.0, 148, 44, 4000, 48, (9, 0), _OTHERS, ("NVIDIA H20",)),
    Card("H100", 79.1, 989, 67, 3350, 48, (9, 0), _H100, ("NVIDIA H100 80GB HBM3", "H100 SXM", "H100 80GB")),
    Card("H100 PCIe", 79.1, 756, 51, 2000, 48, (9, 0), _H100, ("NVIDIA H100 PCIe",), 1125 / 1620),
    Card("H800", 79.1, 989, 67, 3350, 48, (9, 0), _OTHERS, ("NVIDIA H800",)),
    Card("H200", 139.8, 989, 67, 4800, 48, (9, 0), "NVIDIA H200 Tensor Core GPU datasheet", ("NVIDIA H200",)),
    Card("B200", 178.4, 2250, 80, 8000, 48, (10, 0), _OTHERS, ("NVIDIA B200",)),
)


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
    known = names()
    try:
        text = gpu.strip()[:200] if isinstance(gpu, str) else f"{finite(gpu):g}"
    except ValueError:
        text = shown(gpu)
    if (card := known.get(_plain(text))) is not None:
        return card
    size = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(?:GB|GiB|G)?", text, re.IGNORECASE)
    if size and 1 <= float(size[1]) <= 512:
        return of_memory(f"a card of {float(size[1]):g} GB", float(size[1]) * 0.96)  # as a 24 GB card has 22 to 23.6
    close = difflib.get_close_matches(_plain(text), known, n=1, cutoff=0.6)
    hint = f"did you mean {known[close[0]].name!r}? Else give" if close else "give"
    listed = ", ".join(card.name for card in CARDS)
    raise SettingsError(
        f"gpu={shown(gpu)} is not a card svdkit knows: {hint} one of {listed}, or its memory in GB, such as 24"
    )


def of_memory(name: str, memory_gib: float, capability: tuple[int, int] = (8, 0)) -> Card:
    """Describe a card of which only the memory is known: it gets a plan, and seconds only from records of itself."""
    return Card(name, memory_gib, 0, 0, 0, 24 if math.isfinite(memory_gib) else 0, capability, "")


def card_of(reported: str, capability: tuple[int, int] = (8, 0)) -> Card:
    """Find a GPU by what torch calls it; one that is not known has a name and no figures."""
    return names().get(_plain(reported)) or of_memory(reported, 0, capability)


def names() -> dict[str, Card]:
    """Every known spelling, in its plainest form."""
    return {_plain(name): card for card in CARDS for name in (card.name, *card.reported)}


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]|nvidia|geforce|tesla|rtx", "", name.lower())
