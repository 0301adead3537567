"""What build_engine.py and run_bench.py share: failures, the device's facts, whole files.

Standard library only, Python 3.6 syntax: JetPack 4.6 has nothing newer.
"""

import ctypes
import ctypes.util
import glob
import hashlib
import json
import os
import platform
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
SYSFS = os.environ.get("EDGEC_SYS", "/sys")  # a container may have the board's tree elsewhere
GPU_CLOCKS = (".gpu", ".gv11b", ".gp10b", ".ga10b", "gpu-gpc-0")


class Failure(Exception):
    """A problem with an exit code and a remedy."""

    def __init__(self, code, what, fix):
        Exception.__init__(self, what)
        self.code = code
        self.fix = fix


def say(text):
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def run_main(main):
    """Call main(argv) and turn what goes wrong into text and an exit status."""
    try:
        main(sys.argv[1:])
    except Failure as failure:
        say("error: %s" % failure)
        say("  fix: %s" % failure.fix)
        sys.exit(failure.code)
    except KeyboardInterrupt:
        say("interrupted")
        sys.exit(130)


def sha256(path):
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        for piece in iter(lambda: stream.read(1 << 20), b""):
            digest.update(piece)
    return digest.hexdigest()


def read_json(path):
    with open(path, encoding="utf-8") as stream:
        return json.load(stream)


def write_whole(path, data):
    temporary = path + ".tmp"
    try:
        with open(temporary, "wb") as stream:
            stream.write(data)
        os.replace(temporary, path)
    except OSError as error:
        raise Failure(6, "cannot write %s: %s" % (path, error), "free space or fix permissions")
    finally:
        if os.path.exists(temporary):
            os.remove(temporary)


def write_json(path, data):
    write_whole(path, json.dumps(data, indent=2, sort_keys=True).encode("utf-8"))


def read_recipe():
    path = os.path.join(HERE, "recipe.json")
    try:
        recipe = read_json(path)
    except (OSError, ValueError) as error:
        raise Failure(7, "cannot read %s: %s" % (path, error), "copy the whole bundle again")
    if recipe.get("schema") != "edgec.trt-recipe/2":
        raise Failure(
            7, "recipe.json has schema %r" % recipe.get("schema"), "use the script of that bundle"
        )
    return recipe


def major_minor(version):
    return tuple(int(part) for part in version.split(".")[:2])


def same_version(one, other):
    """Whether two versions agree as far as both tell; trtexec tells two parts of four."""
    parts = list(zip(one.split("."), other.split(".")))
    return bool(parts) and all(a == b for a, b in parts)


def load_cudart():
    """CUDA's runtime library, or None; EDGEC_CUDART names the one to take."""
    names = [os.environ.get("EDGEC_CUDART")]
    if not names[0]:
        names = [ctypes.util.find_library("cudart")]
        names += sorted(glob.glob("/usr/local/cuda*/lib64/libcudart.so*"), reverse=True)
    for name in names:
        if name:
            try:
                return ctypes.CDLL(name)
            except OSError:
                pass
    return None


def gpu_sm(cuda):
    """Compute capability as a number (87 for 8.7), or None."""
    if cuda is None:
        return None
    found = []
    for attribute in (75, 76):  # cudaDevAttrComputeCapabilityMajor, Minor
        value = ctypes.c_int()
        if cuda.cudaDeviceGetAttribute(ctypes.byref(value), attribute, 0) != 0:
            return None
        found.append(value.value)
    return 10 * found[0] + found[1]


def environment(version):
    """What an engine is bound to, and what a measurement depends on; unknown is None."""
    record = {
        "tensorrt": version,
        "machine": platform.machine(),
        "python": platform.python_version(),
        "kernel": platform.release(),
        "device": first_line("/proc/device-tree/model"),
        "l4t": first_line("/etc/nv_tegra_release"),
        "gpu_sm": gpu_sm(load_cudart()),
        "power_mode": power_mode(),
        "cpu_governor": first_line(SYSFS + "/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "cpu_khz": number(SYSFS + "/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq"),
        "gpu_hz": None,
        "gpu_min_hz": None,
        "gpu_max_hz": None,
        "memory_available_kib": None,
        "temperatures_mc": {},
    }
    for folder in sorted(glob.glob(SYSFS + "/class/devfreq/*")):
        # 57000000.gpu, 17000000.ga10b, Thor's gpu-gpc-0; equal limits: jetson_clocks has locked it
        if folder.endswith(GPU_CLOCKS):
            for key in ("cur", "min", "max"):
                name = "gpu_hz" if key == "cur" else "gpu_%s_hz" % key
                record[name] = number(os.path.join(folder, key + "_freq"))
    for zone in sorted(glob.glob(SYSFS + "/class/thermal/thermal_zone*")):
        kind = first_line(os.path.join(zone, "type"))
        value = number(os.path.join(zone, "temp"))
        if kind and value is not None:
            record["temperatures_mc"][kind] = value
    try:
        with open("/proc/meminfo") as stream:
            for line in stream:
                if line.startswith("MemAvailable:"):
                    record["memory_available_kib"] = int(line.split()[1])
    except OSError:
        pass
    return record


def first_line(path):
    try:
        with open(path) as stream:
            return stream.readline().strip("\0\n ") or None
    except (OSError, ValueError):
        return None


def number(path):
    text = first_line(path)
    return int(text) if text and text.lstrip("-").isdigit() else None


def power_mode():
    """The name that nvpmodel gives, e.g. 25W; None off a Jetson."""
    try:
        text = subprocess.run(
            ["nvpmodel", "-q"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=10
        ).stdout.decode("utf-8", "replace")
    except (OSError, subprocess.TimeoutExpired):
        return None
    for line in text.splitlines():
        if "Power Mode:" in line:
            return line.partition("Power Mode:")[2].strip()
    return None


def engine_key(engine, recipe, facts):
    """What makes an engine another one; equal keys mean that it need not be built again."""
    parts = [
        engine["onnx_sha256"],
        facts["tensorrt"],
        facts["gpu_sm"],
        facts["device"],
        facts["l4t"],
        facts["machine"],
        engine["name"],
        engine["flags"],
        engine["strongly_typed"],
        engine["settings"],
        engine["float32_layers"],
        recipe["workspace_bytes"],
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode("utf-8")).hexdigest()


def sidecar(engine):
    """What stands beside an engine that was built, or None."""
    path = os.path.join(HERE, engine["engine"])
    try:
        record = read_json(path + ".json")
        whole = os.path.isfile(path) and os.path.getsize(path) == record["engine_bytes"]
        return record if whole else None
    except (OSError, ValueError, KeyError):
        return None
