"""Measure ONNX files on a device: needs its Python, numpy and onnxruntime, nothing of edgec.

    python3 bench_onnx.py JOB.json RECORD.json

JOB.json: models (paths), inputs and outputs (.npz), threads, runs, warmup, meter_seconds. Models
take turns (A B C A B C ...), so that drift of the machine hits all alike; every sample is kept.
Power meters, where there are any, are read afterwards, while one model after the other runs for
meter_seconds. meters.py lies beside this file.
"""

# Boards keep old Pythons: no syntax newer than 3.6.
import functools
import glob
import json
import os
import platform
import resource
import sys
import time

import meters


def read(path):
    try:
        with open(path) as stream:
            return stream.read().strip("\0\n ") or None
    except (OSError, ValueError):
        return None


def environment(onnxruntime, numpy):
    cpu = None
    for line in (read("/proc/cpuinfo") or "").splitlines():
        if line.partition(":")[0].strip() in ("model name", "Model"):
            cpu = line.partition(":")[2].strip()
            break
    base = "/sys/devices/system/cpu/cpu0/cpufreq/"
    clock, heat = read(base + "scaling_cur_freq"), {}
    for zone in sorted(glob.glob("/sys/class/thermal/thermal_zone*")):
        value = read(os.path.join(zone, "temp"))
        if value and value.lstrip("-").isdigit():
            heat[read(os.path.join(zone, "type")) or os.path.basename(zone)] = int(value)
    return {
        "machine": platform.machine(),
        "system": platform.system() + " " + platform.release(),
        "python": platform.python_version(),
        "board": read("/proc/device-tree/model"),
        "cpu": cpu,
        "cpus": os.cpu_count(),
        "load_1min": round(os.getloadavg()[0], 2),
        "governor": read(base + "scaling_governor"),
        "clock_khz": int(clock) if clock and clock.isdigit() else None,
        "power_mode": meters.power_mode(),
        "temperatures_mc": heat,
        # the Raspberry Pi's firmware tells of throttling
        "throttled": read("/sys/devices/platform/soc/soc:firmware/get_throttled"),
        "onnxruntime": onnxruntime.__version__,
        "numpy": numpy.__version__,
    }


def compare(numpy, outputs, golden):
    worst = scale = 0.0
    finite = True
    for name in golden.files:
        got = numpy.asarray(outputs[name], dtype=numpy.float64)
        finite = finite and bool(numpy.isfinite(got).all())
        worst = max(worst, float(numpy.abs(got - golden[name]).max()))
        scale = max(scale, float(numpy.abs(golden[name]).max()))
    return {
        "max_abs": float("%.3g" % worst),
        "relative": float("%.3g" % (worst / scale)) if scale else None,
        "finite": finite,
    }


def main(job_path, record_path):
    try:
        import numpy
        import onnxruntime
    except ImportError as error:
        sys.stderr.write("error: %s\n  fix: python3 -m pip install onnxruntime\n" % error)
        sys.exit(6)
    with open(job_path, encoding="utf-8") as stream:
        job = json.load(stream)
    feeds = dict(numpy.load(job["inputs"]))
    golden = numpy.load(job["outputs"])
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = job["threads"]
    settings.inter_op_num_threads = 1
    settings.log_severity_level = 3
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    sessions = []
    for path in job["models"]:
        try:
            sessions.append(
                onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
            )
        except Exception as error:  # onnxruntime raises a dozen types without a base
            sys.stderr.write(
                "error: onnxruntime %s cannot load %s: %s\n"
                % (onnxruntime.__version__, path, str(error).splitlines()[0])
            )
            sys.exit(3)
    before = environment(onnxruntime, numpy)
    checks = []
    for session in sessions:
        names = [o.name for o in session.get_outputs()]
        checks.append(compare(numpy, dict(zip(names, session.run(None, feeds))), golden))
        for _ in range(job["warmup"]):
            session.run(None, feeds)
    samples = [[] for _ in sessions]
    for index in range(job["runs"]):
        for slot, session in zip(samples, sessions):
            start = time.perf_counter()
            session.run(None, feeds)
            slot.append(1000 * (time.perf_counter() - start))
        if index % 10 == 9:
            print("%d of %d runs" % (index + 1, job["runs"]), flush=True)
    after = environment(onnxruntime, numpy)
    readings = []
    for session in sessions:
        run = functools.partial(session.run, None, feeds)
        readings.append(meters.watch(run, job["meter_seconds"], job.get("sysfs", "/sys")))
    record = {
        "environment_before": before,
        "environment_after": after,
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "results": [
            {"samples_ms": slot, "output_check": check, "readings": power}
            for slot, check, power in zip(samples, checks, readings)
        ],
    }
    with open(record_path + ".tmp", "w", encoding="utf-8") as stream:
        json.dump(record, stream)
    os.replace(record_path + ".tmp", record_path)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
