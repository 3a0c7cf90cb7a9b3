"""What a processor can do that decides which kernels a runtime takes, and so which numbers it gives."""

import logging
import re

import torch

from tasks.deploy.manifest import Manifest

# of integers and of half precision, by the names in `torch.cpu.get_capabilities`
ABILITIES = (
    "avx2", "avx512_f", "avx_vnni", "avx512_vnni", "amx_int8", "f16c", "avx512_fp16", "neon", "dot", "i8mm",
    "fp16_arith", "sve",
)  # fmt: skip
WORDS = re.compile(r"(\S+) with (.+), without (.+)")
logger = logging.getLogger(__name__)


def instruction_set() -> str:
    """This processor's, in words: "x86_64 with avx2 f16c, without avx512_f avx_vnni ..."."""
    found = torch.cpu.get_capabilities()
    there, missing = (
        " ".join(name for name in ABILITIES if name in found and bool(found[name]) is wanted) or "none known"
        for wanted in (True, False)
    )
    return f"{found.get('architecture', 'unknown')} with {there}, without {missing}"


def differences(one: str, other: str) -> list[str]:
    """Tell what two processors do not share, as `instruction_set` describes them; of abilities that both lines name.

    >>> differences("x86_64 with avx2, without avx_vnni", "x86_64 with avx2 avx_vnni, without amx_int8")
    ['avx_vnni']
    >>> differences("x86_64 with avx2, without f16c", "aarch64 with neon, without dot")
    ['x86_64', 'aarch64']
    """
    pair = [WORDS.fullmatch(text) for text in (one, other)]
    if None in pair:
        return []
    (machine, *first), (other_machine, *second) = (match.groups() for match in pair)
    if machine != other_machine:
        return [machine, other_machine]
    known = set(" ".join(first).split()) & set(" ".join(second).split())
    return [name for name in ABILITIES if name in known and (name in first[0].split()) != (name in second[0].split())]


def warn_of_kernels(manifest: Manifest) -> None:
    """Log a warning where an artifact of less than fp32 was certified on a processor that runs it by other kernels."""
    measured, here = manifest.measured_on.get("instruction_set"), instruction_set()
    apart = differences(measured, here) if measured and manifest.precision != "fp32" else []
    if apart:
        logger.warning(
            "the certificate was made on another instruction set than this machine's, which differs in %s: kernels of "
            "%s differ, and scores may; made on %s; this is %s", ", ".join(apart), manifest.precision, measured, here,
        )  # fmt: skip
