#!/usr/bin/env python3
"""Checks the proof of one decision without Tidegate: docs/seal-format.md, in Python.

    pip install blake3
    tidegate verify --data D --episode ID --export proof.json
    python3 examples/verify_episode.py proof.json key.pub

Prints what was decided and exits with 0 when the proof holds, with 1 and the reason when it does not.
"""
import hashlib
import json
import sys

from blake3 import blake3


def h(*parts):
    return blake3(b"".join(parts)).digest()


def canonical(value):
    """RFC 8785 for what manifests hold: objects, lists, texts and small whole numbers."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True)


class Wrong(Exception):
    pass


def require(holds, what):
    if not holds:
        raise Wrong(what)


def seal(previous, record):
    return h(b"tidegate.seal.v1", previous, record)


def root_of(record, index, size, path):
    """RFC 9162, 2.1.3.2."""
    require(0 <= index < size, "the record has no place in its tree")
    place, last, tree = index, size - 1, h(b"\x00", record)
    for beside in path:
        require(last > 0, "the path is longer than the tree is high")
        if place & 1 or place == last:
            tree = h(b"\x01", beside, tree)
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            tree = h(b"\x01", tree, beside)
        place, last = place >> 1, last >> 1
    require(last == 0, "the path is shorter than the tree is high")
    return tree


# Ed25519 after RFC 8032, 5.1.7: slow and plain, for checking only.
P, L = 2**255 - 19, 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P
ROOT = pow(2, (P - 1) // 4, P)


def add(a, b):
    s = D * a[0] * b[0] * a[1] * b[1] % P
    return ((a[0] * b[1] + b[0] * a[1]) * pow(1 + s, -1, P) % P, (a[1] * b[1] + a[0] * b[0]) * pow(1 - s, -1, P) % P)


def times(n, point):
    result = (0, 1)
    while n:
        if n & 1:
            result = add(result, point)
        point, n = add(point, point), n >> 1
    return result


def point(data):
    y = int.from_bytes(data, "little")
    sign, y = y >> 255, y & (2**255 - 1)
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(square, (P + 3) // 8, P)
    if (x * x - square) % P:
        x = x * ROOT % P
    require(y < P and (x * x - square) % P == 0 and not (x == 0 and sign), "no point of the curve")
    return (P - x if x & 1 != sign else x), y


BASE = point((4 * pow(5, -1, P) % P).to_bytes(32, "little"))


def signed_by(key, text, signature):
    r, s = signature[:32], int.from_bytes(signature[32:], "little")
    k = int.from_bytes(hashlib.sha512(r + key + text).digest(), "little") % L
    return s < L and times(s, BASE) == add(point(r), times(k, point(key)))


def check(proof, key):
    require(proof["recipe"] == "tidegate.proof.v1", "the file is no proof")
    record, frame = proof["record"], proof["frame"]
    values = json.loads(record)
    require(values[0] == "tidegate.episode.v1", "the record is no episode")
    require(values[1] == h(frame.encode()).hex(), "the record does not name its frame")
    digest = h(record.encode())
    manifest = json.loads(proof["manifest"])
    require(canonical(manifest) == proof["manifest"], "the manifest is not in canonical form")
    require(manifest["recipe"] == "tidegate.manifest.v1", "the manifest is of another kind")
    file = next((f for f in manifest["files"] if f["name"] == proof["file"]), None)
    require(file and "seal" in file, "the manifest names no such sealed file")
    way = proof["inclusion"]
    root = root_of(digest, way["index"], way["size"], [bytes.fromhex(d) for d in way["path"]])
    require(way["size"] == file["rows"], "the tree is of another size than the file")
    require(root.hex() == file["seal"]["root"], "the record is not under the manifest's root")
    own = head = seal(bytes.fromhex(proof["previous"]), digest)
    for following in proof["following"]:
        head = seal(head, bytes.fromhex(following))
    require(head.hex() == file["seal"]["chain"]["head"], "the chain does not lead to the manifest's seal")
    require(way["index"] + 1 + len(proof["following"]) == file["rows"], "chain and tree disagree on the place")
    signature = manifest.pop("signature", None)
    require(signature, "the manifest is not signed")
    name = h(b"tidegate.key.v1", (32).to_bytes(8, "little"), key).hex()[:16]
    require(signature["key_id"] == name, f"the manifest is signed by {signature['key_id']}, and your key is {name}")
    holds = signed_by(key, canonical(manifest).encode(), bytes.fromhex(signature["ed25519"]))
    require(holds, "the signature does not hold")
    names = json.loads(frame)["columns"]
    require(len(names) == len(values) - 2, "the frame names other values than the record has")
    episode = dict(zip(names, values[2:]))
    print(f"decision {episode['decision_id']} on {episode['event_id']}: {episode['action']}, rules {episode['rules_fired']}")
    print(f"record {digest.hex()}, seal {own.hex()}, commit {manifest['number']}")
    print(f"signed by {signature['key_id']}")
    print("proven")


def main(arguments):
    if len(arguments) != 2:
        sys.exit("usage: verify_episode.py proof.json key.pub")
    try:
        with open(arguments[0], encoding="utf-8") as file:
            proof = json.load(file)
        with open(arguments[1], encoding="utf-8") as file:
            key = bytes.fromhex(file.read().removeprefix("tidegate-public-key ed25519 ").strip())
        check(proof, key)
    except (Wrong, KeyError, ValueError, TypeError, OSError, IndexError) as error:
        sys.exit(f"NOT PROVEN: {error}")


if __name__ == "__main__":
    main(sys.argv[1:])
