"""What a processor can do that decides which kernels a runtime takes, and so which numbers it gives."""

import torch

# of integers and of half precision, by the names in `torch.cpu.get_capabilities`
ABILITIES = (
    "avx2", "avx512_f", "avx_vnni", "avx512_vnni", "amx_int8", "f16c", "avx512_fp16", "neon", "dot", "i8mm",
    "fp16_arith", "sve",
)  # fmt: skip


def instruction_set() -> str:
    """This processor's, in words: "x86_64 with avx2 f16c, without avx512_f avx_vnni ..."."""
    found = torch.cpu.get_capabilities()
    there, missing = (
        " ".join(name for name in ABILITIES if name in found and bool(found[name]) is wanted) or "none known"
        for wanted in (True, False)
    )
    return f"{found.get('architecture', 'unknown')} with {there}, without {missing}"
