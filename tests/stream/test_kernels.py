"""The Triton kernels equal their torch twin (under the interpreter), and compile for the GPUs they are meant for."""

import os
import subprocess
import sys

import pytest

pytest.importorskip("triton", reason="triton is not installed: pip install 'cellfm_nb[gpu]'")

EQUAL = """
import torch
from cellfm_nb.stream.attention import online_softmax_attention as attend, pick_backend
from cellfm_nb.seeds import torch_rng
assert pick_backend("cpu", "triton") == "triton" and pick_backend("cpu") == "fused"
draw = torch_rng(0, "kernels")
for dtype, close in ((torch.float32, 3e-6), (torch.float16, 2e-3)):
    for d, n, m, size in ((32, 70, 150, 100), (64, 64, 64, 64), (128, 1, 65, 33), (24, 9, 20, 20)):
        q, k, v = (torch.randn(2, r, d, generator=draw).to(dtype) for r in (n, m, m))
        bias = torch.randn(2, 1, m, generator=draw)
        bias[..., :m // 8] = -torch.inf
        for given in (bias, None):
            parts = (k, v) if given is None else (k, v, given.transpose(1, 2))
            cut = lambda: ([p[:, i:i + size] if p.shape[2] > 1 else p[:, i:i + size].transpose(1, 2) for p in parts]
                           for i in range(0, m, size))
            (out, lse), (twin, twin_lse) = attend(q, cut(), backend="triton"), attend(q, cut())
            assert out.dtype == dtype and (out - twin).abs().max() < close, (dtype, d, (out - twin).abs().max())
            assert torch.allclose(lse, twin_lse, atol=1e-3 if dtype == torch.float16 else 1e-5)
n = 100  # I3: every key is counted
out, _ = attend(torch.zeros(1, 4, 128), [(torch.ones(1, n, 128), torch.eye(n, 128)[None])], backend="triton")
assert torch.allclose(out[..., :n], torch.full((1, 4, n), 1 / n), atol=1e-7)
q, k = torch.ones(1, 3, 32), torch.randn(1, 40, 32, generator=draw) * 1e4  # I4
out, lse = attend(q, [(k, k)], scale=1.0, backend="triton")
assert torch.isfinite(out).all() and torch.isfinite(lse).all()
hidden = torch.full((1, 1, 40), -torch.inf)
out, lse = attend(q, [(k, k, hidden)], backend="triton")
assert (out == 0).all() and (lse == -torch.inf).all()
"""


def test_kernels_equal_the_torch_twin():
    """In a process of its own: the interpreter must be chosen before Triton is imported."""
    done = subprocess.run([sys.executable, "-c", EQUAL], env={**os.environ, "TRITON_INTERPRET": "1"},
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize(("capability", "instruction"), [(90, "wgmma.mma_async"), (80, "mma.sync")])
def test_forward_compiles_to_tensor_cores(capability, instruction):
    """Hopper gets its asynchronous tensor-core instruction, Ampere its own; both fetch keys with asynchronous copies.

    Triton needs no GPU to compile; a ptxas that came without the code for a target would be the only other reason.
    """
    from triton import compile as build
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from cellfm_nb.stream import kernels

    fixed = dict(d=64, BLOCK_D=64, EVEN=True, HAS_BIAS=False, FIRST=True, PRECISION="tf32", UPCAST=False, BLOCK_M=128,
                 BLOCK_N=64)
    types = dict.fromkeys(("Q", "K", "V"), "*bf16") | dict.fromkeys(("BIAS", "TOP", "TOTAL", "SUM"), "*fp32") | {
        "scale": "fp32"}
    names = kernels._forward.fn.arg_names
    aligned = {(i,): [["tt.divisibility", 16]] for i, name in enumerate(names) if name in "QKV" or name.startswith("s")
               and name != "scale"}
    source = ASTSource(fn=kernels._forward.fn, constexprs=fixed, attrs=aligned,
                       signature={name: "constexpr" if name in fixed else types.get(name, "i32") for name in names})
    code = build(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": 8, "num_stages": 3}).asm["ptx"]
    assert instruction in code and "cp.async" in code
