"""NVIDIA's trtexec, for devices where TensorRT's Python module is not installed.

It builds as the recipe says, and measures: times by CUDA's events, times per layer in a run of its
own, and the outputs for the bundle's golden inputs, all out of the files that it exports.

Standard library only, Python 3.6 syntax: JetPack 4.6 has nothing newer.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile

from edgec_device import HERE, Failure, say

PROGRAM = "/usr/src/tensorrt/bin/trtexec"
KILLED = (137, -9)


def find():
    """Where trtexec is, or None."""
    return PROGRAM if os.path.isfile(PROGRAM) else shutil.which("trtexec")


def version_of(program):
    """Major and minor version: the first line of its help reads [TensorRT v100300] or v8201."""
    try:
        text = subprocess.run(
            [program, "--help"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60
        ).stdout.decode("utf-8", "replace")
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Failure(6, "cannot run %s: %s" % (program, error), "install TensorRT for this device")
    digits = text.partition("[TensorRT v")[2].partition("]")[0].strip()
    if not digits.isdigit():
        raise Failure(6, "%s does not tell its version" % program, "install python3-libnvinfer")
    number = int(digits)
    if number >= 100000:  # from 10 on two digits for each part
        return number // 10000, number // 100 % 100
    return number // 1000, number // 100 % 10


def build_argv(program, version, asked, onnx, out, workspace, cache):
    """Arguments that build `out` from `onnx`; the workspace option changed in 8.4."""
    argv = [program, "--onnx=" + onnx, "--saveEngine=" + out, "--timingCacheFile=" + cache]
    if version >= (8, 2):
        argv += ["--profilingVerbosity=detailed", "--exportLayerInfo=" + out + ".layers"]
    if version >= (8, 4):
        argv.append("--memPoolSize=workspace:%d" % (workspace >> 20))
    else:
        argv.append("--workspace=%d" % (workspace >> 20))
    return argv + asked


def pinned(version, engine):
    """Options that keep layers in float32 which the flags would let become float16."""
    names = engine["float32_layers"]
    if not names:
        return []
    odd = [name for name in names if re.search("[:,*]", name)]
    if version < (8, 4) or odd:
        raise Failure(
            6,
            "trtexec of TensorRT %d.%d cannot keep %d layers in float32 that overflow in float16"
            % (version[0], version[1], len(names)),
            "install python3-libnvinfer, or build --engine fp32",
        )
    spec = ",".join(name + ":fp32" for name in names)
    return [
        "--precisionConstraints=obey",
        "--layerPrecisions=" + spec,
        "--layerOutputTypes=" + spec,
    ]


def execute(argv, folder=None):
    """Run trtexec; its messages go where ours go."""
    say("running " + " ".join(argv))
    status = subprocess.call(argv, stdout=sys.stderr, cwd=folder)
    if status != 0:
        fix = "see its messages above"
        if status in KILLED:
            fix = "killed for memory: close the desktop, add swap, or lower workspace_bytes"
        raise Failure(3, "trtexec ended with status %d" % status, fix)


def measure(program, path, inputs, runs):
    """Milliseconds of every run on the GPU, mean milliseconds by layer, and outputs by name.

    `inputs` holds (type, shape, bytes) by name.
    """
    # trtexec splits file names at colons and commas: short names in a folder of their own
    folder = tempfile.mkdtemp(dir=HERE, prefix=".trtexec-")
    try:
        given = []
        for index, name in enumerate(sorted(inputs)):
            with open(os.path.join(folder, "%d.bin" % index), "wb") as stream:
                stream.write(inputs[name][2])
            given.append("%s:%d.bin" % (quoted(name), index))
        argv = [program, "--loadEngine=" + path, "--loadInputs=" + ",".join(given)]
        argv += ["--iterations=%d" % runs, "--duration=0", "--warmUp=500", "--useSpinWait"]
        argv += ["--exportTimes=times", "--exportProfile=profile", "--separateProfileRun"]
        argv.append("--exportOutput=outputs")
        execute(argv, folder)
        times = exported(folder, "times")
        profile = exported(folder, "profile")
        outputs = exported(folder, "outputs")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    try:
        return (
            [float(run["computeMs"]) for run in times][-runs:],
            [
                {"name": row["name"], "ms": round(row["averageMs"], 6)}
                for row in profile
                if "name" in row
            ],
            dict((row["name"], [float(value) for value in row["values"]]) for row in outputs),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise Failure(3, "what trtexec exported makes no sense: %r" % error, "report this")


def quoted(name):
    """Names with the signs that trtexec splits at are put between quotes."""
    return "'%s'" % name if re.search("[:,]", name) else name


def exported(folder, name):
    """A list that trtexec wrote; it writes numbers that are none as C++ does (nan, -inf)."""
    try:
        with open(os.path.join(folder, name), encoding="utf-8") as stream:
            text = stream.read()
        text = re.sub(r"(?<=[\s\[,:])-?nan(?=[\s,\]}])", "NaN", text)
        text = re.sub(r"(?<=[\s\[,:])(-?)inf(?=[\s,\]}])", r"\1Infinity", text)
        found = json.loads(text)
        if not isinstance(found, list):
            raise ValueError("no list")
        return found
    except (OSError, ValueError) as error:
        raise Failure(3, "trtexec exported no %s: %s" % (name, error), "see its messages above")
