"""Ways to damage a file at random, for the fuzz of artifacts and of the other files that are read back."""

import json

WORDS = ["", "\0", "../../etc/passwd", "uint8", "float16", "logits", "weights", "9.0", "1.0", "a" * 3000, "\ud800", "|"]


def flipped(content, draw, _):
    changed = bytearray(content)
    for _ in range(draw.choice((1, 1, 2, 8))):
        changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def cut(content, draw, _):
    return content[: draw.randrange(len(content))]


def moved(content, draw, _):
    """Bytes put in, taken out, or in another place."""
    at, size = draw.randrange(len(content)), draw.choice((1, 4, 8, 64))
    part = draw.choice((draw.randbytes(size), content[:size], b""))
    return content[:at] + part + content[at + draw.choice((0, size)) :]


def swapped(_, draw, others):
    """A file of another artifact, or of another name."""
    return draw.choice(others)


def value(draw, depth=0):
    kinds = [
        lambda: draw.choice((None, True, False, 0, 1, 2, -1, 1e30, 1e-30, 0.5, 10**30)),
        lambda: draw.choice(WORDS),
        lambda: draw.uniform(-2, 2),
        lambda: draw.randrange(-5, 300),
        lambda: [value(draw, depth + 1) for _ in range(draw.randrange(3))],
        lambda: {draw.choice(("a", "lr", "name", "mean")): value(draw, depth + 1) for _ in range(draw.randrange(3))},
    ]
    return draw.choice(kinds[: 4 if depth > 2 else 6])()


def edited(whole, draw):
    """A JSON value with one inner value replaced, dropped, added, or written twice."""
    if isinstance(whole, dict) and whole and draw.random() < 0.85:
        key = draw.choice(sorted(whole))
        what = draw.random()
        if what < 0.15:
            return {name: one for name, one in whole.items() if name != key}
        if what < 0.25:
            return {**whole, draw.choice(("x", "dtype", "format_version")): value(draw)}
        return {**whole, key: edited(whole[key], draw)}
    if isinstance(whole, list) and whole and draw.random() < 0.7:
        at = draw.randrange(len(whole))
        return [*whole[:at], *([] if draw.random() < 0.2 else [edited(whole[at], draw)]), *whole[at + 1 :]]
    if isinstance(whole, (int, float)) and not isinstance(whole, bool) and draw.random() < 0.5:
        return whole * draw.choice((-1, 0, 0.5, 2, 1 + 1e-9)) + draw.choice((0, 1))
    return value(draw)


def changed_json(content, draw, others):
    """A value within JSON, within a line of JSON lines, or within the header of a safetensors file."""
    if content[:1] == b"{":
        lines = content.splitlines() if content.count(b"\n{") else [content]
        at = draw.randrange(len(lines))
        lines[at] = json.dumps(edited(json.loads(lines[at]), draw)).encode()
        return b"\n".join(lines)
    size = int.from_bytes(content[:8], "little")
    if content[8:9] != b"{":
        return flipped(content, draw, others)
    head = json.dumps(edited(json.loads(content[8 : 8 + size]), draw)).encode()
    claimed = len(head) if draw.random() < 0.9 else draw.choice((0, 2**20, 2**40, 2**63 + 1))
    return claimed.to_bytes(8, "little") + head + content[8 + size :]


KINDS = {"bits": flipped, "cut": cut, "moved": moved, "swapped": swapped, "values": changed_json}
