"""``edgec run``: one inference through an artifact."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from edgec.export.cli.output import Json, print_json


def register(app: typer.Typer) -> None:
    """Add the verb to `app`."""
    app.command("run", epilog="Example: edgec run build/mynet --input cat.jpg")(run)


def run(
    bundle: Annotated[Path, typer.Argument(help="Folder that edgec export wrote.")],
    input_: Annotated[
        str,
        typer.Option("--input", "-i", help="Image, folder of images, .npy, or .npz by input name."),
    ],
    artifact: Annotated[
        str | None, typer.Option(help="Artifact or precision. [default: fp32 master]")
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Classes to print.")] = 5,
    save: Annotated[
        Path | None, typer.Option(help="Write the raw outputs of all items to this .npz.")
    ] = None,
    json: Json = False,
) -> None:
    """Run images or arrays through a bundle, here."""
    import edgec

    results = edgec.load(bundle).run(input_, artifact=artifact, top=top)
    if save is not None:
        _save(save, results)
    if json:
        print_json("edgec.run/1", {"results": [_to_json(r) for r in results]})
        return
    for result in results:
        print(result.item)
        if result.classes is not None:
            for found in result.classes:
                print(f"  {found.probability:7.2%}  {found.index:4d}  {found.name or ''}".rstrip())
            continue
        for name, array in result.outputs.items():
            values = ", ".join(f"{float(v):.5g}" for v in array.ravel()[:6])
            more = ", …" if array.size > 6 else ""
            print(f"  {name} {list(array.shape)} {array.dtype}: {values}{more}")


def _to_json(result: Any) -> dict[str, Any]:
    data: dict[str, Any] = {"item": result.item}
    if result.classes is not None:
        data["classes"] = [vars(c) for c in result.classes]
    else:
        data["outputs"] = {
            name: {"shape": list(a.shape), "dtype": str(a.dtype), "values": a.ravel().tolist()}
            for name, a in result.outputs.items()
        }
    return data


def _save(path: Path, results: list[Any]) -> None:
    import io

    import numpy as np

    from edgec.export.files import atomic_write

    stream = io.BytesIO()
    arrays = {f"{r.item}/{n}": a for r in results for n, a in r.outputs.items()}
    np.savez(stream, **arrays)
    atomic_write(path, stream.getvalue())
