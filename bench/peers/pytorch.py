"""What PyTorch needs on the first GPU for what lowbit_cuda_bench measures: a line of tab-separated values for each product or
conversion (what, M, N, K, microseconds), which `lowbit_cuda_bench --peers=<file>` puts beside its own.

    python3 bench/peers/pytorch.py [--quick] > peers.tsv

Weights take turns past the second-level cache; the calls of a turn are one CUDA graph, so that no time of Python's is among the
medians of its replays, by the clock of the device. --quick: small sizes, on the processor where there is no GPU; its times mean
nothing. A product that this PyTorch lacks is named on standard error and left out.
"""

import statistics
import sys
import time

import torch

QUICK = "--quick" in sys.argv[1:]
CUDA = torch.cuda.is_available()
if not CUDA and not QUICK:
    sys.exit("PyTorch sees no GPU.")
DEVICE = torch.device("cuda" if CUDA else "cpu")
L2_BYTES = torch.cuda.get_device_properties(0).L2_cache_size if CUDA else 1 << 20
BATCHES = 1 if QUICK else 11
GROUP = 128

SHAPES = [(256, 512)] if QUICK else [(4096, 4096), (14336, 4096), (28672, 8192), (8192, 28672)]
FEW_AND_MANY = [1, 16, 64] if QUICK else [1, 4, 16, 32, 64, 256, 2048]
BYTE_SHAPES = [(128, 256)] if QUICK else [(4096, 4096), (14336, 4096), (8192, 28672)]
BYTE_ROWS = [32] if QUICK else [16, 256, 2048, 4096]
SQUARE = 256 if QUICK else 8192
ELEMENTS = 1 << 12 if QUICK else 1 << 26


def turns_for(size):
    return 1 if QUICK else max(2, 3 * L2_BYTES // size + 1)


def seconds_of(call, turns):
    """Median seconds of one call(i), i in turn."""
    turns = list(range(turns)) * max(1, -(-4 // turns))
    if not CUDA:
        begin = time.perf_counter()
        for i in turns:
            call(i)
        return (time.perf_counter() - begin) / len(turns)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # choices of algorithms are made before anything is captured
        for i in turns[:3]:
            call(i)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for i in turns:
            call(i)
    graph.replay()
    times = []
    for _ in range(BATCHES):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) * 1e-3 / len(turns))
    return statistics.median(times)


def row(what, m, n, k, call, turns):
    try:
        seconds = seconds_of(call, turns)
    except Exception as error:  # named, and the others go on
        print(f"{what}, {m} × {n} × {k}: {str(error).splitlines()[0]}", file=sys.stderr)
        return
    print(f"{what}\t{m}\t{n}\t{k}\t{seconds * 1e6:.3f}", flush=True)


def uniform(*shape, dtype=torch.bfloat16):
    return (torch.rand(*shape, device=DEVICE) * 2 - 1).to(dtype)


def products_of_bfloat16(n, k, rows):
    """torch.matmul, which is cuBLAS."""
    turns = turns_for(2 * n * k)
    weights = [uniform(n, k) for _ in range(turns)]
    for m in rows:
        x = uniform(m, k)
        out = torch.empty(m, n, device=DEVICE, dtype=torch.bfloat16)
        row("bfloat16", m, n, k, lambda i: torch.matmul(x, weights[i].t(), out=out), turns)


def products_of_int4(n, k, rows):
    """PyTorch's kernel for weights of four bits, with bfloat16 scales and zeros of groups."""
    packed = torch.randint(0, 256, (n, k // 2), device=DEVICE, dtype=torch.uint8)
    scales_and_zeros = uniform(k // GROUP, n, 2)
    if CUDA:
        turns = turns_for(n * k // 2)
        first = torch.ops.aten._convert_weight_to_int4pack(packed, 8)
        weights = [first.clone() for _ in range(turns)]
        multiply = torch.ops.aten._weight_int4pack_mm
    else:
        turns = 1
        codes = torch.randint(0, 16, (n, k), dtype=torch.int32)
        weights = [torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes, 1)]
        multiply = torch.ops.aten._weight_int4pack_mm_for_cpu
    for m in rows:
        x = uniform(m, k)
        row("int4", m, n, k, lambda i: multiply(x, weights[i], GROUP, scales_and_zeros), turns)


def products_of_bytes(n, k, rows):
    """torch._int_mm, which has no scales, and torch._scaled_mm of E4M3 with a scale for each row of either matrix."""
    turns = turns_for(n * k)
    integers = [torch.randint(-128, 128, (n, k), device=DEVICE, dtype=torch.int8) for _ in range(turns)]
    for m in rows:
        x = torch.randint(-128, 128, (m, k), device=DEVICE, dtype=torch.int8)
        row("int8", m, n, k, lambda i: torch._int_mm(x, integers[i].t()), turns)
    del integers
    floats = [uniform(n, k, dtype=torch.float8_e4m3fn) for _ in range(turns)]
    of_w = torch.rand(1, n, device=DEVICE)
    for m in rows:
        x, of_x = uniform(m, k, dtype=torch.float8_e4m3fn), torch.rand(m, 1, device=DEVICE)
        scaled = lambda i: torch._scaled_mm(x, floats[i].t(), of_x, of_w, out_dtype=torch.bfloat16)
        row("float8_e4m3fn", m, n, k, scaled, turns)


def conversions():
    names = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16", torch.float8_e4m3fn: "E4M3"}
    pairs = [
        (torch.float32, torch.bfloat16),
        (torch.float32, torch.float16),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float8_e4m3fn),
        (torch.bfloat16, torch.float8_e4m3fn),
    ]
    for source, target in pairs:
        inputs = [uniform(ELEMENTS, dtype=source) for _ in range(2)]
        outputs = [torch.empty(ELEMENTS, device=DEVICE, dtype=target) for _ in range(2)]
        row(f"{names[source]} → {names[target]}", ELEMENTS, 1, 1, lambda i: outputs[i].copy_(inputs[i]), 2)


def main():
    print(f"PyTorch {torch.__version__}", file=sys.stderr)
    with torch.inference_mode():
        products_of_bfloat16(SQUARE, SQUARE, [SQUARE])
        for n, k in SHAPES:
            products_of_bfloat16(n, k, FEW_AND_MANY)
            products_of_int4(n, k, FEW_AND_MANY)
        for n, k in BYTE_SHAPES:
            products_of_bytes(n, k, BYTE_ROWS)
        conversions()


main()
