"""`edgec bench --device qemu:BOARD`: the C artifact of a bundle on a simulated board."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from edgec.export.bundle import Artifact, Bundle
from edgec.export.errors import UsageError
from edgec.runtime.modules import ModuleNames
from edgec.runtime.qemu.boards import get_board
from edgec.runtime.qemu.run import Memory, count_instructions

SCHEMA = "edgec.count/1"


def c_artifact_of(bundle: Bundle) -> Artifact:
    """The C artifact.

    Raises:
        UsageError: the bundle has none.
    """
    for artifact in bundle.manifest.artifacts:
        if artifact.format == "c" and artifact.status == "built":
            return artifact
    raise UsageError(
        "EC283",
        "the bundle holds no C artifact",
        where=str(bundle.path),
        fix="export it for a microcontroller target with --calib (edgec targets list)",
    )


def count_bundle(bundle: Bundle, board_name: str) -> dict[str, Any]:
    """Build and run the C artifact with the target's memory sizes, and count its instructions.

    Returns:
        A JSON-ready record; instructions are exact, and no latency. Its ``layers`` are the steps by
        name and module, the costliest first.
    """
    artifact = c_artifact_of(bundle)
    board = get_board(board_name)
    memory = bundle.manifest.target.get("memory") or []
    sizes = {
        kind: max((m["bytes"] for m in memory if m["kind"] == kind), default=None)
        for kind in ("ram", "flash")
    }
    facts = artifact.checks
    arenas = {arena["region"]: arena for arena in facts.get("arenas", ())}
    memories = [
        Memory(
            m["name"],
            m["bytes"],
            arenas.get(m["name"], {}).get("identifier", ""),
            arenas.get(m["name"], {}).get("bytes", 0),
        )
        for m in memory
        if m["kind"] == "ram"
    ]
    count = count_instructions(
        bundle.path / artifact.path,
        board,
        steps=facts["steps"],
        samples=facts["golden_samples"],
        ram=sizes["ram"],
        flash=sizes["flash"],
        memories=memories if arenas else (),
    )
    modules = ModuleNames(bundle)
    layers = [
        {"name": name, "module": modules.of_step(name), "instructions": instructions}
        for name, instructions in zip(facts["step_names"], count.steps, strict=True)
    ]
    return {
        "schema": SCHEMA,
        "device": f"qemu:{board.machine}",
        "model": bundle.manifest.model.get("name"),
        "target": bundle.manifest.target["name"],
        "limits": sizes,
        "arena_bytes": facts["arena_bytes"],
        "constant_bytes": facts["constant_bytes"],
        "macs": facts["macs"],
        **asdict(count),
        "layers": sorted(layers, key=lambda row: (-row["instructions"], row["name"])),
    }
