#!/usr/bin/env python3
"""Build TensorRT engines on this device, as recipe.json beside this file says.

Usage:
    python3 build_engine.py                 build the first engine of the recipe
    python3 build_engine.py --engine int8   build another one
    python3 build_engine.py --all           build all of them
    python3 build_engine.py --list          say what the recipe holds
    python3 build_engine.py --rebuild       build even what is up to date

Needs Python 3.6 or newer and the device's own TensorRT (its Python module, or trtexec).
An engine works only on the GPU type and the TensorRT version that built it.

Exit codes: 0 built, 2 wrong usage, 3 TensorRT cannot build this network, 6 TensorRT is missing or
of another version than the recipe was made for, 7 a file of the bundle is missing or changed,
130 interrupted.
"""

# This file runs on JetPack 4.6, whose Python is 3.6: no newer syntax.
import argparse
import os
import time

import edgec_trtexec
from edgec_device import (
    HERE,
    Failure,
    engine_key,
    environment,
    major_minor,
    read_recipe,
    run_main,
    say,
    sha256,
    sidecar,
    write_json,
    write_whole,
)


def onnx_path(engine):
    path = os.path.normpath(os.path.join(HERE, engine["onnx"]))
    if not os.path.isfile(path):
        raise Failure(7, "%s is missing" % path, "copy the whole bundle, not only this folder")
    if sha256(path) != engine["onnx_sha256"]:
        raise Failure(7, "%s was changed after the export" % path, "copy the bundle again")
    return path


def check_version(found, recipe, anyway):
    wanted = recipe["target"]["tensorrt"]
    if major_minor(found) == major_minor(wanted) or anyway:
        return
    raise Failure(
        6,
        "this device has TensorRT %s, the bundle was made for %s" % (found, wanted),
        "export for the target that matches this device (edgec targets list), or try with "
        "--any-version",
    )


def settings_of(engine, version):
    """The recipe's settings for a TensorRT; versions between two majors take those of the older."""
    major = major_minor(version)[0]
    known = sorted((int(key) for key in engine["settings"] if int(key) <= major), reverse=True)
    found = engine["settings"][str(known[0])] if known else None
    if found is None:
        raise Failure(
            6,
            "TensorRT %s cannot build %s: the bundle asks for %s by flags, and it takes precision "
            "from the graph alone" % (version, engine["name"], "+".join(engine["flags"])),
            "export for a target with TensorRT 10 or later (edgec targets list)",
        )
    return found


def up_to_date(engine, recipe, version):
    """Whether the engine that is here was built by this TensorRT, on this device, from this."""
    found = sidecar(engine)
    if found is None:
        return False
    if found.get("key") == engine_key(engine, recipe, environment(version)):
        say("%s is up to date (--rebuild builds it again)" % engine["engine"])
        return True
    say(
        "%s was built by TensorRT %s on %s, not by %s here: building it again"
        % (engine["engine"], found.get("tensorrt"), found.get("device"), version)
    )
    return False


def finish(engine, recipe, data, version, seconds, layers=None):
    """Write the engine and, beside it, what it was built from and on."""
    path = os.path.join(HERE, engine["engine"])
    write_whole(path, data)
    if layers is not None:
        write_whole(path + ".layers.json", layers.encode("utf-8"))
    record = environment(version)
    record["key"] = engine_key(engine, recipe, record)
    record.update(
        {
            "schema": "edgec.trt-engine/1",
            "name": engine["name"],
            "engine": engine["engine"],
            "engine_sha256": sha256(path),
            "engine_bytes": os.path.getsize(path),
            "onnx_sha256": engine["onnx_sha256"],
            "flags": engine["flags"],
            "strongly_typed": engine["strongly_typed"],
            "target": recipe["target"],
            "build_seconds": round(seconds, 1),
        }
    )
    write_json(path + ".json", record)
    say("built %s, %d bytes, in %.0f s" % (path, record["engine_bytes"], seconds))


def layer_information(trt, logger, plan):
    """The inspector's JSON, which names the fused kernels; None before TensorRT 8.2."""
    if not hasattr(trt, "LayerInformationFormat"):
        return None
    engine = trt.Runtime(logger).deserialize_cuda_engine(plan)
    if engine is None:
        return None
    return engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)


def keep_in_float32(trt, network, config, names):
    """Pin layers to float32 that a flag would let TensorRT compute in float16.

    The parser names a layer after its node; what it adds around it has other names.
    """
    missing = set(names)
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if layer.name not in missing:
            continue
        missing.discard(layer.name)
        outputs = [layer.get_output(k) for k in range(layer.num_outputs)]
        if all(output.dtype == trt.float32 for output in outputs):  # not those that compute shapes
            layer.precision = trt.float32
            for k in range(layer.num_outputs):
                layer.set_output_type(k, trt.float32)
    if hasattr(trt.BuilderFlag, "OBEY_PRECISION_CONSTRAINTS"):
        config.set_flag(trt.BuilderFlag.OBEY_PRECISION_CONSTRAINTS)
    else:  # before 8.2
        config.set_flag(trt.BuilderFlag.STRICT_TYPES)
    say("%d layers stay in float32, for float16 would overflow" % (len(names) - len(missing)))
    if missing:
        say("no layers of these names, so their precision is open: " + ", ".join(sorted(missing)))


def build_with_api(trt, engine, recipe):
    """Build through TensorRT's Python module, by the recipe's settings for its version."""
    path = onnx_path(engine)
    settings = settings_of(engine, trt.__version__)
    logger = trt.Logger(trt.Logger.WARNING)
    builder = trt.Builder(logger)
    network_flags = 0
    for flag in settings["network_flags"]:
        network_flags |= 1 << int(getattr(trt.NetworkDefinitionCreationFlag, flag))
    network = builder.create_network(network_flags)
    parser = trt.OnnxParser(network, logger)
    with open(path, "rb") as stream:
        parsed = parser.parse(stream.read())
    if not parsed:
        reasons = [str(parser.get_error(i)) for i in range(parser.num_errors)]
        raise Failure(
            3,
            "TensorRT %s cannot parse %s:\n  %s" % (trt.__version__, path, "\n  ".join(reasons)),
            "report this with the lines above; edgec should have lowered these operators",
        )
    expected = [t["name"] for t in recipe["inputs"]]
    found = [network.get_input(i).name for i in range(network.num_inputs)]
    if sorted(expected) != sorted(found):
        raise Failure(3, "the parser found inputs %s, not %s" % (found, expected), "report this")
    config = builder.create_builder_config()
    if hasattr(config, "set_memory_pool_limit"):
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, recipe["workspace_bytes"])
    else:  # before 8.4
        config.max_workspace_size = recipe["workspace_bytes"]
    for flag in settings["builder_flags"]:
        config.set_flag(getattr(trt.BuilderFlag, flag))
    if engine["float32_layers"]:
        keep_in_float32(trt, network, config, engine["float32_layers"])
    if hasattr(trt, "ProfilingVerbosity"):
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    cache_path = os.path.join(HERE, recipe["timing_cache"])
    cache_data = b""
    if os.path.isfile(cache_path):
        with open(cache_path, "rb") as stream:
            cache_data = stream.read()
    cache = config.create_timing_cache(cache_data)
    config.set_timing_cache(cache, False)
    say("building %s with TensorRT %s; this takes minutes" % (engine["name"], trt.__version__))
    start = time.time()
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise Failure(
            3,
            "TensorRT could not build the engine (its messages are above)",
            "if memory ran out: close the desktop (sudo systemctl isolate multi-user.target), add "
            "swap, or lower workspace_bytes in recipe.json",
        )
    cache = config.get_timing_cache()
    if cache is not None:
        write_whole(cache_path, bytes(cache.serialize()))
    seconds = time.time() - start
    layers = layer_information(trt, logger, plan)
    finish(engine, recipe, bytes(plan), trt.__version__, seconds, layers)


def build_with_trtexec(program, engine, recipe, options):
    """Build by NVIDIA's command line tool, where the Python module is not installed."""
    version = edgec_trtexec.version_of(program)
    found = "%d.%d" % version
    check_version(found, recipe, options.any_version)
    if not options.rebuild and up_to_date(engine, recipe, found):
        return
    path = onnx_path(engine)
    temporary = os.path.join(HERE, engine["engine"] + ".part")
    argv = edgec_trtexec.build_argv(
        program,
        version,
        settings_of(engine, found)["trtexec"] + edgec_trtexec.pinned(version, engine),
        path,
        temporary,
        recipe["workspace_bytes"],
        os.path.join(HERE, recipe["timing_cache"]),
    )
    start = time.time()
    try:
        edgec_trtexec.execute(argv)
        if not os.path.isfile(temporary):
            raise Failure(3, "trtexec wrote no engine", "see its messages above")
        with open(temporary, "rb") as stream:
            data = stream.read()
        layers = None
        if os.path.isfile(temporary + ".layers"):
            with open(temporary + ".layers", encoding="utf-8") as stream:
                layers = stream.read()
    finally:
        for leftover in (temporary, temporary + ".layers"):
            if os.path.exists(leftover):
                os.remove(leftover)
    finish(engine, recipe, data, found, time.time() - start, layers)


def main(argv):
    parser = argparse.ArgumentParser(description="Build TensorRT engines as recipe.json says.")
    parser.add_argument("--engine", help="name of the engine in the recipe")
    parser.add_argument("--all", action="store_true", help="build every engine of the recipe")
    parser.add_argument("--list", action="store_true", help="list the engines of the recipe")
    parser.add_argument("--rebuild", action="store_true", help="even if it is up to date")
    parser.add_argument("--any-version", action="store_true", help="try with another TensorRT")
    options = parser.parse_args(argv)
    recipe = read_recipe()
    engines = dict((e["name"], e) for e in recipe["engines"])
    if options.list:
        for engine in recipe["engines"]:
            print("%s\t%s\t%s" % (engine["name"], engine["onnx"], engine["engine"]))
        return
    if options.engine is not None and options.engine not in engines:
        raise Failure(
            2, "no engine %r in the recipe" % options.engine, "one of: " + ", ".join(engines)
        )
    chosen = [engines[options.engine]] if options.engine else recipe["engines"]
    if not options.all:
        chosen = chosen[:1]
    try:
        import tensorrt as trt
    except ImportError as error:
        program = edgec_trtexec.find()
        if program is None:
            raise Failure(
                6,
                "TensorRT is not installed here (%s)" % error,
                "run this on the Jetson; there: sudo apt-get install python3-libnvinfer",
            )
        for engine in chosen:
            build_with_trtexec(program, engine, recipe, options)
        return
    check_version(trt.__version__, recipe, options.any_version)
    for engine in chosen:
        if options.rebuild or not up_to_date(engine, recipe, trt.__version__):
            build_with_api(trt, engine, recipe)


if __name__ == "__main__":
    run_main(main)
