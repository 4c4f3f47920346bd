"""Files that are whole or not there: atomic writing, and checkpoints that training resumes from."""

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor


def write_atomically(path: Path, content: bytes) -> None:
    """Write beside the file, flush to the disk, then rename: readers see the old or the new file.

    Raises:
        OSError: when the disk is full, say; the file that was there before is untouched, and
            nothing half-written is left behind.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path)
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise OSError(
            error.errno,
            f"could not write {path} ({error.strerror}); what was there is unchanged. Is the disk "
            "full, or the folder read-only?",
        ) from error
    finally:  # also when a notebook's cell is interrupted; after the rename there is nothing left
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _sweep(path: Path) -> None:
    """Remove what a process that was killed while writing left behind."""
    for left in path.parent.glob(f".{path.name}.*.tmp") if os.name == "posix" else ():
        try:
            os.kill(int(left.name.split(".")[-2]), 0)  # signal 0 only asks whether it still runs
        except ProcessLookupError:
            left.unlink(missing_ok=True)
        except (OSError, ValueError):  # it runs, under another user; or the file is not ours
            continue


def save_checkpoint(path: Path, state: Mapping[str, Mapping], about: dict | str) -> None:
    """Write tensors and what they belong to, with a checksum over all of it.

    Args:
        path: replaced atomically.
        state: groups of tensors: ``{"model": model.state_dict(), ...}``.
        about: anything that JSON can hold, or the JSON of it; ``about["identity"]`` is what a
            resuming run must agree on.
    """
    tensors = {
        f"{group}.{name}": value.detach().cpu().contiguous().clone()  # tied weights, one by one
        for group, values in state.items()
        for name, value in values.items()
    }
    # As a tensor, too: a header may not grow beyond 100 MB, which the rows of long trainings do.
    about = about if isinstance(about, str) else json.dumps(about)
    tensors["about"] = torch.frombuffer(bytearray(about.encode()), dtype=torch.uint8)
    write_atomically(path, save(tensors, {"sha256": _digest(tensors)}))


def load_checkpoint(path: Path, identity: dict) -> tuple[dict[str, dict[str, Tensor]], dict]:
    """Read what :func:`save_checkpoint` wrote: groups of tensors, and what they belong to.

    Raises:
        ValueError: naming the file, when it is damaged or belongs to a run with another identity.
    """
    try:
        with safe_open(path, framework="pt") as file:
            digest = file.metadata()["sha256"]
            # Cloned: the optimizer must not go on working in memory that is mapped to the file.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        if _digest(tensors) != digest:
            raise ValueError("its checksum does not fit")
        about = json.loads(tensors.pop("about").numpy().tobytes())
    except Exception as error:  # a flipped bit in the header can fail in many ways
        raise ValueError(
            f"the checkpoint {path} is damaged ({error}); delete it to train from the start"
        ) from error
    differs = differences(about["identity"], identity)
    if differs:
        raise ValueError(
            f"the checkpoint {path} belongs to another run, which differs in {'; '.join(differs)}. "
            "Name another checkpoint file, or delete this one to train from the start."
        )
    groups: dict[str, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        group, _, key = name.partition(".")
        groups.setdefault(group, {})[key] = value
    return groups, about


def differences(stored: object, wanted: object, name: str = "") -> list[str]:
    """Where two JSON values differ, in words: ``settings.epochs (80 there, 3 here)``."""
    if isinstance(stored, dict) and isinstance(wanted, dict):
        return [
            found
            for key in sorted(set(stored) | set(wanted))
            for found in differences(stored.get(key), wanted.get(key), f"{name}.{key}".strip("."))
        ]
    if stored == wanted:
        return []
    short = len(f"{stored}{wanted}") < 120
    return [name + (f" ({stored} there, {wanted} here)" if short else "")]


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name]
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
