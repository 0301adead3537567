"""Interleaved latency measurement in ONNX Runtime.

Measuring A for a while and then B compares the machine's moods; here every round runs each graph
once, and the reported ratio is the median of the rounds' own ratios.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnxruntime as ort


def session(model: bytes, threads: int) -> ort.InferenceSession:
    """CPU session with all optimizations; spinning off, so that shared machines stay usable."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def interleaved(
    models: Mapping[str, bytes],
    feeds: Mapping[str, np.ndarray[Any, Any]],
    *,
    threads: int,
    rounds: int,
    warmup: int = 5,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Latency samples in milliseconds per graph; sample i of all graphs is from the same round.

    Feeds are matched by position, since tools rename inputs. With one thread, `time.thread_time`
    as `clock` leaves out the time that other processes had the core.
    """
    runners = {name: session(data, threads) for name, data in models.items()}
    inputs = {
        name: dict(zip([i.name for i in runner.get_inputs()], feeds.values(), strict=True))
        for name, runner in runners.items()
    }
    samples: dict[str, list[float]] = {name: [] for name in runners}
    names = list(runners)
    for i in range(warmup + rounds):
        first = i % len(names)
        for name in names[first:] + names[:first]:  # no graph always comes first
            start = clock()
            runners[name].run(None, inputs[name])
            elapsed = (clock() - start) * 1e3
            if i >= warmup:
                samples[name].append(elapsed)
    return samples


def median_ratio(samples: list[float], reference: list[float]) -> float:
    """Median over rounds of this graph's latency over the reference's in the same round."""
    return statistics.median(a / b for a, b in zip(samples, reference, strict=True))
