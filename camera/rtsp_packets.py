"""H.264 access units as RTP packets, and what describes them: SDP and sender reports.

Sources: RFC 6184 (H.264 in RTP, packetization mode 1), RFC 3550 (RTP, RTCP), RFC 4566 (SDP).
"""

import base64
import struct

CLOCK_HZ = 90_000
_PAYLOAD_TYPE = 96
_MAX_PAYLOAD = 1400  # over TCP more would do; players' buffers are made for a network's packets
_SPS, _PPS, _FU_A = 7, 8, 28
_NTP_EPOCH_S = 2_208_988_800  # from 1900 to 1970
_NAME = b"veilcam"


def nal_units(unit: bytes) -> list[bytes]:
    r"""The NAL units of an access unit in Annex B's form, without their start codes.

    >>> nal_units(bytes.fromhex("00000001 6742 00000001 68ce 000001 65 88"))
    [b'gB', b'h\xce', b'e\x88']
    """
    # a NAL unit never ends in a zero byte: those belong to the next start code
    return [nal for part in unit.split(b"\0\0\1") if (nal := part.rstrip(b"\0"))]


def parameter_sets(nals: list[bytes]) -> tuple[bytes, bytes] | None:
    """Sequence and picture parameter set, where an access unit brings both."""
    found = {nal[0] & 31: nal for nal in nals}
    return (found[_SPS], found[_PPS]) if {_SPS, _PPS} <= found.keys() else None


def packets(nals: list[bytes], *, first: int, time: int, source: int) -> list[bytes]:
    """RTP packets of one picture.

    Args:
        nals: Its NAL units.
        first: Sequence number of the first packet.
        time: In ticks of the clock, modulo 2^32.
        source: SSRC.
    """
    payloads = [payload for nal in nals for payload in _payloads(nal)]
    last = len(payloads) - 1
    found = []
    for number, payload in enumerate(payloads):
        kind = _PAYLOAD_TYPE | (0x80 if number == last else 0)  # the marker ends the picture
        sequence = (first + number) & 0xFFFF
        head = struct.pack(">BBHII", 0x80, kind, sequence, time & 0xFFFFFFFF, source)
        found.append(head + payload)
    return found


def _payloads(nal: bytes) -> list[bytes]:
    """A NAL unit as it is, or cut into fragments (FU-A)."""
    if len(nal) <= _MAX_PAYLOAD:
        return [nal]
    indicator, kind, rest = nal[0] & 0xE0 | _FU_A, nal[0] & 0x1F, nal[1:]
    size = _MAX_PAYLOAD - 2
    pieces = [rest[start : start + size] for start in range(0, len(rest), size)]
    marks = [0x80, *[0] * (len(pieces) - 2), 0x40]
    return [
        bytes((indicator, mark | kind)) + piece for mark, piece in zip(marks, pieces, strict=True)
    ]


def sender_report(
    *, source: int, wall_s: float, time: int, num_packets: int, num_bytes: int
) -> bytes:
    """RTCP: which wall clock time a time stamp stands for.

    Args:
        source: SSRC.
        wall_s: Seconds since 1970.
        time: RTP time of the same moment.
        num_packets: Sent so far.
        num_bytes: Of their payloads.
    """
    seconds, part = divmod(wall_s + _NTP_EPOCH_S, 1.0)
    report = struct.pack(
        ">BBHIIIIII", 0x80, 200, 6, source, int(seconds) & 0xFFFFFFFF, int(part * 2**32),
        time & 0xFFFFFFFF, num_packets & 0xFFFFFFFF, num_bytes & 0xFFFFFFFF,
    )  # fmt: skip
    name = struct.pack(">IBB", source, 1, len(_NAME)) + _NAME
    name += bytes(4 - len(name) % 4)
    return report + struct.pack(">BBH", 0x81, 202, len(name) // 4) + name


def description(sets: tuple[bytes, bytes] | None, *, track: str) -> bytes:
    """SDP of the stream; players begin sooner with the parameter sets in it."""
    format_ = "packetization-mode=1"
    if sets is not None:
        coded = ",".join(base64.b64encode(part).decode() for part in sets)
        format_ += f";profile-level-id={sets[0][1:4].hex().upper()};sprop-parameter-sets={coded}"
    lines = (
        "v=0", "o=- 0 0 IN IP4 0.0.0.0", "s=Veilcam", "c=IN IP4 0.0.0.0", "t=0 0", "a=control:*",
        "a=range:npt=now-", f"m=video 0 RTP/AVP {_PAYLOAD_TYPE}",
        f"a=rtpmap:{_PAYLOAD_TYPE} H264/{CLOCK_HZ}", f"a=fmtp:{_PAYLOAD_TYPE} {format_}",
        f"a=control:{track}",
    )  # fmt: skip
    return "".join(f"{line}\r\n" for line in lines).encode()
