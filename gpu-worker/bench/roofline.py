#!/usr/bin/env python3
"""What one core of this machine can do: memory read bandwidth, and matrix products by numpy's BLAS.

Rates are per second of CPU time, which a busy machine disturbs less; the best and the median of several are printed as
one JSON object.
"""
import os
os.environ["OPENBLAS_NUM_THREADS"] = "1"
import json, time
import numpy as np


def rates(amount, work, repeats=7):
    times = []
    for _ in range(repeats):
        before = time.process_time()
        work()
        times.append(time.process_time() - before)
    return {"best": amount / min(times) / 1e9, "median": amount / sorted(times)[repeats // 2] / 1e9}


draw = np.random.default_rng(0)
large = np.ones(64 << 20, np.float32)  # 256 MiB, far beyond the caches
square, vector = np.ones((8192, 4096), np.float32), np.ones(4096, np.float32)
block = draw.standard_normal((1536, 1536), np.float32)
few, wide = draw.standard_normal((8, 2048), np.float32), draw.standard_normal((2048, 16384), np.float32)
print(json.dumps({
    "read GB/s": rates(large.nbytes, large.max),
    "matrix by vector GB/s": rates(square.nbytes, lambda: square @ vector),
    "matrix by matrix GFLOP/s": rates(2 * 1536**3, lambda: block @ block),
    "8 rows by matrix GFLOP/s": rates(2 * 8 * 2048 * 16384, lambda: few @ wide),
}))
