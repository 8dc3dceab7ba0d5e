"""What a program can be written out as: CUDA C, what is compiled from that, and its launches."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cnnir.backends.cache import DiskCache
from cnnir.backends.cuda import nvrtc
from cnnir.backends.cuda.build import Built, compiled, whole
from cnnir.backends.cuda.emit import Emitted
from cnnir.backends.cuda.launch import Launch
from cnnir.backends.cuda.listing import listing
from cnnir.backends.cuda.occupancy import occupancy
from cnnir.backends.cuda.place import Places
from cnnir.backends.cuda.schedule import Schedule
from cnnir.errors import BackendError

Files = dict[str, bytes]

FORMS = {
    "cu": "one file of CUDA C, which nvcc compiles",
    "ptx": "virtual assembly, a file a kernel",
    "cubin": "machine code, a file a kernel",
    "sass": "machine code to read, a file a kernel; needs nvdisasm",
    "launch": "every launch: function, sizes, arguments, nodes of the model",
    "resources": "of every function: registers, spills, shared memory, occupancy",
}


@dataclass(frozen=True)
class Artifacts:
    """A program, as far as it is written out. Machine code is for the target's architecture."""

    arch: str
    texts: dict[str, str]
    """Of the kernels, without the prelude."""
    listing: str
    """All of it as one text of CUDA C."""
    launches: list[dict[str, Any]]
    """In order, as JSON has them."""
    cache: DiskCache | None = None

    def files(self, form: str) -> Files:
        """File name -> content. Raises BackendError where NVRTC or nvdisasm is missing."""
        return _WRITERS[form](self)

    def built(self) -> Built:
        """All texts compiled, through the cache."""
        return compiled(self.texts, self.arch, self.cache)

    def functions(self) -> dict[str, Launch]:
        """How each function is launched."""
        return {
            row["function"]: Launch(tuple(row["grid"]), tuple(row["block"]), row["shared_bytes"])
            for row in self.launches
        }


def artifacts_of(
    schedule: Schedule, emitted: Emitted, places: Places, cache: DiskCache | None = None
) -> Artifacts:
    """What a program that was planned, emitted and placed is written out as."""
    text, rows = listing(schedule, emitted, places), _launches(schedule, emitted, places)
    return Artifacts(schedule.target.arch, dict(emitted.texts), text, rows, cache)


def _cu(program: Artifacts) -> Files:
    return {"model.cu": program.listing.encode()}


def _ptx(program: Artifacts) -> Files:
    texts = program.texts.items()
    return {f"{name}.ptx": nvrtc.ptx(whole(text), program.arch).encode() for name, text in texts}


def _cubin(program: Artifacts) -> Files:
    return {f"{name}.cubin": cubin for name, cubin in program.built().cubins.items()}


def _sass(program: Artifacts) -> Files:
    tool = _nvdisasm()
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, cubin in program.built().cubins.items():
            path = Path(folder, "kernel.cubin")
            path.write_bytes(cubin)
            told = subprocess.run([tool, "--print-code", path], capture_output=True, check=False)
            if told.returncode:
                raise BackendError(f"nvdisasm of {name}: {told.stderr.decode(errors='replace')}")
            found[f"{name}.sass"] = told.stdout
    return found


def _nvdisasm() -> str:
    """The disassembler, of the CUDA toolkit or of its package."""
    if tool := shutil.which("nvdisasm"):
        return tool
    package = importlib.util.find_spec("nvidia")
    for folder in (package.submodule_search_locations or ()) if package else ():
        for path in sorted(Path(folder).glob("cu*/bin/nvdisasm")):
            return str(path)
    raise BackendError(
        "sass needs nvdisasm, which is missing: pip install 'cuda-toolkit[nvdisasm]==13.*'"
    )


def _launch(program: Artifacts) -> Files:
    return {"launch.json": _json(program.launches)}


def _launches(schedule: Schedule, emitted: Emitted, places: Places) -> list[dict[str, Any]]:
    rows = []
    for number, (call, code) in enumerate(zip(schedule.calls, emitted.codes, strict=True)):
        pointers = [places.sources[p] for p in (*call.reads, *call.writes)]
        arguments = [("arena", 4 * number), ("arena", places.scratch[number]), *pointers]
        for function, launch in code.launches:
            rows.append({
                "function": function, "grid": launch.grid, "block": launch.block,
                "shared_bytes": launch.shared_bytes,
                "arguments": [{"space": space, "offset": at} for space, at in arguments],
                "step": number, "op": call.step.op, "result": str(call.step.result),
                "nodes": call.step.sources,
            })  # fmt: skip
    return rows


def _resources(program: Artifacts) -> Files:
    used = program.built().resources
    rows = {}
    for function, launch in program.functions().items():
        needs = used[function]
        fill = occupancy(launch, needs, program.arch)
        rows[function] = {
            "registers": needs.registers, "spilled_bytes": needs.spilled_bytes,
            "static_shared_bytes": needs.shared_bytes, "threads": launch.threads,
            "dynamic_shared_bytes": launch.shared_bytes,
            "occupancy": fill.share if fill else None,
            "blocks_on_a_multiprocessor": fill.blocks if fill else None,
            "bound_by": fill.bound if fill else None,
        }  # fmt: skip
    return {"resources.json": _json(rows)}


def _json(rows: object) -> bytes:
    return json.dumps(rows, indent=1).encode() + b"\n"


_WRITERS: dict[str, Callable[[Artifacts], Files]] = {
    "cu": _cu,
    "ptx": _ptx,
    "cubin": _cubin,
    "sass": _sass,
    "launch": _launch,
    "resources": _resources,
}
