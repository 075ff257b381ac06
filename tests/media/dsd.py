"""Sound of one bit, in files that no encoder here writes."""

import struct

import numpy as np


def dsdiff(bits: np.ndarray, rate: int) -> bytes:
    """Philips' DSD: one bit a sample, the first one the highest."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return name + struct.pack(">Q", len(body)) + body + bytes(len(body) % 2)

    form = b"SND " + chunk(b"FS  ", struct.pack(">I", rate)) + chunk(b"CHNL", struct.pack(">H", 1) + b"C000")
    form += chunk(b"CMPR", b"DSD \x0enot compressed\0")
    body = b"DSD " + chunk(b"FVER", struct.pack(">I", 0x0105_0000)) + chunk(b"PROP", form)
    return chunk(b"FRM8", body + chunk(b"DSD ", np.packbits(bits).tobytes()))
