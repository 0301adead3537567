#!/usr/bin/env python3
"""Measure an engine that build_engine.py made, on this device, and check what it computes.

Usage:
    python3 run_bench.py                     the first engine of the recipe
    python3 run_bench.py --engine int8       another one
    python3 run_bench.py --runs 500 --warmup 100
    python3 run_bench.py --energy 10         watch the power meters for 10 seconds; 0: do not

Writes ENGINE.bench.json: every sample, time per layer, conditions before and after, what power
meters showed, and how far the outputs are from the bundle's golden ones. Needs TensorRT's Python
module and CUDA's runtime library, or trtexec; no numpy.

Exit codes: 0 measured, 2 wrong usage, 3 the engine does not run, 6 TensorRT or CUDA is missing or
of another version, 7 a file is missing or damaged, 130 interrupted.
"""

# This file runs on JetPack 4.6, whose Python is 3.6: no newer syntax.
import argparse
import os
import sys
import time

import edgec_meters
import edgec_trtexec
from edgec_device import (
    HERE,
    SYSFS,
    Failure,
    environment,
    read_recipe,
    run_main,
    same_version,
    say,
    sha256,
    sidecar,
    write_json,
)
from edgec_session import Cuda, Session, layer_times, numbers, read_npz

PROFILED_RUNS = 50


def compare(outputs, reference):
    """Largest distance to the reference outputs, absolute and as a part of their range."""
    worst = scale = 0.0
    finite = True
    for name, got in outputs.items():
        wanted = reference.get(name)
        if wanted is None:
            raise Failure(7, "golden data lacks output %r" % name, "export the bundle again")
        want = numbers(wanted[0], wanted[2])
        if len(got) != len(want):
            raise Failure(7, "golden data does not fit output %r" % name, "export again")
        for a, b in zip(got, want):
            distance = abs(a - b)
            if distance != distance or distance in (float("inf"), float("-inf")):
                finite = False
            else:
                worst = max(worst, distance)
            scale = max(scale, abs(b))
    return {
        "max_abs": float("%.3g" % worst),
        "relative": float("%.3g" % (worst / scale)) if scale else None,
        "finite": finite,
    }


def check_version(built, found):
    if not same_version(built["tensorrt"], found):
        raise Failure(
            6,
            "the engine was built by TensorRT %s, here is %s" % (built["tensorrt"], found),
            "build it again: python3 build_engine.py --engine " + built["name"],
        )


def measure_with_api(trt, path, inputs, options):
    """Measure through TensorRT's Python module: a sample is enqueue and wait, without copies."""
    cuda = Cuda()
    try:
        with open(path, "rb") as stream:
            session = Session(trt, stream.read(), cuda)
        session.feed(inputs)
        say("warming up, %d runs" % options.warmup)
        before = environment(trt.__version__)
        for _ in range(options.warmup):
            session.run()
        samples = []
        say("measuring, %d runs" % options.runs)
        clock = time.perf_counter
        for _ in range(options.runs):
            start = clock()
            session.run()
            samples.append(1000 * (clock() - start))
        after = environment(trt.__version__)
        outputs = session.outputs()
        record = {
            "timer": "host clock around execution and wait",
            "samples_ms": samples,
            "layers": layer_times(trt, session, min(options.runs, PROFILED_RUNS)),
            "outputs": outputs,
            "environment_before": before,
            "environment_after": after,
        }
        if options.energy:
            say("watching power meters, %d s" % options.energy)
            record["readings"] = edgec_meters.watch(session.run, options.energy, SYSFS)
        return record
    finally:
        cuda.close()


def measure_with_trtexec(program, version, path, inputs, options):
    """Measure by NVIDIA's command line tool, where the Python module is not installed."""
    before = environment(version)
    samples, layers, outputs = edgec_trtexec.measure(program, path, inputs, options.runs)
    if not samples:
        raise Failure(3, "trtexec measured nothing", "see its messages above")
    return {
        "timer": "CUDA events by trtexec",
        "samples_ms": samples,
        "layers": layers,
        "outputs": outputs,
        "no_energy": "measured by trtexec, which does not tell when it runs: install "
        "python3-libnvinfer",
        "environment_before": before,
        "environment_after": environment(version),
    }


def measure(path, built, inputs, options):
    """What either way of measuring finds."""
    try:
        import tensorrt as trt
    except ImportError as error:
        program = edgec_trtexec.find()
        if program is None:
            raise Failure(
                6,
                "TensorRT's Python module is missing (%s), and so is trtexec" % error,
                "on the Jetson: sudo apt-get install python3-libnvinfer",
            )
        version = "%d.%d" % edgec_trtexec.version_of(program)
        check_version(built, version)
        return measure_with_trtexec(program, version, path, inputs, options)
    check_version(built, trt.__version__)
    return measure_with_api(trt, path, inputs, options)


def main(argv):
    parser = argparse.ArgumentParser(description="Measure a TensorRT engine of this bundle.")
    parser.add_argument("--engine", help="name of the engine in the recipe")
    parser.add_argument("--runs", type=int, default=200, help="samples that count")
    parser.add_argument("--warmup", type=int, default=50, help="runs before, not counted")
    parser.add_argument("--energy", type=int, default=3, help="seconds to watch power meters")
    options = parser.parse_args(argv)
    recipe = read_recipe()
    engines = dict((e["name"], e) for e in recipe["engines"])
    name = options.engine or recipe["engines"][0]["name"]
    if name not in engines:
        raise Failure(2, "no engine %r in the recipe" % name, "one of: " + ", ".join(engines))
    if options.runs < 1 or options.warmup < 0 or options.energy < 0:
        raise Failure(
            2, "--runs must be positive, --warmup and --energy not negative", "e.g. --runs 200"
        )
    engine = engines[name]
    path = os.path.join(HERE, engine["engine"])
    built = sidecar(engine)
    if built is None:
        raise Failure(7, "%s is not built" % engine["engine"], "run python3 build_engine.py first")
    if sha256(path) != built["engine_sha256"]:
        raise Failure(7, "%s was changed after the build" % path, "build it again")
    inputs, outputs = (
        read_npz(os.path.normpath(os.path.join(HERE, recipe["golden"][key])))
        for key in ("inputs", "outputs")
    )
    record = measure(path, built, inputs, options)
    samples = sorted(record["samples_ms"])
    record["output_check"] = compare(record.pop("outputs"), outputs)
    record["samples_ms"] = [round(sample, 5) for sample in record["samples_ms"]]
    record.update(
        {
            "schema": "edgec.trt-bench/2",
            "engine": engine["engine"],
            "engine_sha256": built["engine_sha256"],
            "onnx_sha256": engine["onnx_sha256"],
            "precision": name,
            "warmup": options.warmup,
        }
    )
    write_json(path + ".bench.json", record)
    sys.stdout.write(
        "%s: min %.3f ms, median %.3f ms, largest difference to the reference %.3g\n"
        % (
            engine["engine"],
            samples[0],
            samples[len(samples) // 2],
            record["output_check"]["max_abs"],
        )
    )


if __name__ == "__main__":
    run_main(main)
