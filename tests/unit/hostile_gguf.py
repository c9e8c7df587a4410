# SPDX-License-Identifier: Apache-2.0
"""GGUF files that attack their reader, one weakness each, and a part of the sentence that refuses them."""

from __future__ import annotations

import struct

from gguf_bytes import ARRAY, BOOL, I32, STRING, U8, U16, U32, U64, array, gguf, key, raw, tensor

HUGE = 2**60
ONE = [tensor("t", [8])]
ATTACKS: dict[str, tuple[bytes, str]] = {
    "2^60 tensors": (gguf(n_tensors=HUGE, n_keys=1) + bytes(19), "claims 1152921504606846976 tensors"),
    "2^60 keys": (gguf(n_keys=HUGE) + bytes(19), "claims 1152921504606846976 keys"),
    "more tensors than there are": (gguf([], ONE, bytes(96), n_tensors=2), "tensor number 1 has an empty name"),
    "key longer than the file": (gguf([struct.pack("<Q", 2**63) + bytes(40)]), "key number 0 ends 9223372036854775"),
    "key of 2^64 - 1 bytes": (gguf([b"\xff" * 8 + bytes(40)]), "key number 0 ends 18446744073709551575 bytes past"),
    "string longer than the file": (
        gguf([raw("a", STRING, struct.pack("<Q", HUGE))]),
        "key 'a' ends 1152921504606846976 bytes past the file",
    ),
    "array longer than the file": (
        gguf([array("a", U8, [1], count=2**63)]),
        "key 'a' claims 9223372036854775808 elements of at least 1 bytes, but 1 bytes are left",
    ),
    "array whose size wraps": (
        gguf([array("a", U64, [1], count=2**61 + 1)]),
        "key 'a' claims 2305843009213693953 elements of at least 8 bytes, but 8 bytes are left",
    ),
    "array of strings longer than the file": (gguf([array("a", STRING, ["x"], count=2**61 + 1)]), "'a' claims 2305843"),
    "string in an array longer than the file": (
        gguf([raw("a", ARRAY, struct.pack("<IQQ", STRING, 1, 2**62))]),
        "key 'a' ends 4611686018427387904 bytes past the file",
    ),
    "array of arrays": (
        gguf([raw("a", ARRAY, struct.pack("<IQIQ", ARRAY, 1, U8, 0))]),
        "key 'a' is an array of arrays, which is not supported",
    ),
    "unknown value type": (gguf([raw("a", 13, b"\0")]), "key 'a' has the unknown value type 13"),
    "unknown element type": (
        gguf([raw("a", ARRAY, struct.pack("<IQB", 99, 1, 0))]),
        "array of the unknown value type 99",
    ),
    "bool of 2": (gguf([raw("a", BOOL, b"\2")]), "key 'a' holds the bool 2"),
    "bool of 255 in an array": (
        gguf([raw("a", ARRAY, struct.pack("<IQBB", BOOL, 2, 1, 255))]),
        "key 'a' holds the bool 255, neither 0 nor 1",
    ),
    "key twice": (gguf([key("a", U8, 1), key("b", U8, 1), key("a", U16, 2)]), "key 'a' occurs twice"),
    "key that is not UTF-8": (gguf([key(b"a\xff", U8, 1)]), "key number 0 has a name that is not UTF-8"),
    "key with an overlong character": (gguf([key(b"a\xc0\xaf", U8, 1)]), "not UTF-8"),
    "key with a surrogate": (gguf([key(b"a\xed\xa0\x80", U8, 1)]), "not UTF-8"),
    "key with a NUL": (gguf([key(b"a\0b", U8, 1)]), "key number 0 has a name with a NUL byte"),
    "empty key": (gguf([key("", U32, 1)]), "key number 0 has an empty name"),
    "key of 65536 bytes": (gguf([key("a" * 65536, U8, 1)]), "has a name of 65536 bytes, more than 65535"),
    "alignment 0": (gguf([key("general.alignment", U32, 0)]), "'general.alignment' is 0; it must be a power of two"),
    "alignment 4": (gguf([key("general.alignment", U32, 4)]), "'general.alignment' is 4; it must be a power of two"),
    "alignment 48": (gguf([key("general.alignment", U32, 48)]), "is 48; it must be a power of two from 8 to 65536"),
    "alignment 2^31": (gguf([key("general.alignment", U32, 2**31)]), "is 2147483648; it must be a power of two"),
    "alignment -8": (gguf([key("general.alignment", I32, -8)]), "is -8; it must be a power of two"),
    "alignment as text": (gguf([key("general.alignment", STRING, "32")]), "is string, expected an integer"),
    "0 dimensions": (gguf([], [tensor("t", [], 0)], bytes(32)), "tensor 't' has 0 dimensions; 1 to 4 are possible"),
    "5 dimensions": (gguf([], [tensor("t", [1] * 5)], bytes(32)), "tensor 't' has 5 dimensions; 1 to 4 are possible"),
    "2^32 - 1 dimensions": (gguf([], [tensor("t", [8], n_dims=2**32 - 1)], bytes(32)), "has 4294967295 dimensions"),
    "dimension of 0": (gguf([], [tensor("t", [8, 0])], bytes(32)), "tensor 't' has the size 0 in dimension 1"),
    "product of dimensions wraps to 0": (gguf([], [tensor("t", [2**32, 2**32])], bytes(32)), "does not fit 64 bits"),
    "product of dimensions wraps to 8": (
        gguf([], [tensor("t", [2**61 + 1, 8], 24)], bytes(32)),
        "tensor 't' has dimensions whose product does not fit 64 bits",
    ),
    "bytes of the first row wrap": (gguf([], [tensor("t", [2**62 + 2])], bytes(32)), "does not fit 64 bits"),
    "unknown tensor type": (gguf([], [tensor("t", [8], 1000)], bytes(32)), "'t' has the unknown tensor type 1000"),
    "retired tensor type": (gguf([], [tensor("t", [8], 4)], bytes(32)), "tensor 't' has the unknown tensor type 4"),
    "row that is not whole blocks": (
        gguf([], [tensor("t", [33], 2)], bytes(64)),
        "tensor 't' has rows of 33 elements, not a multiple of 32, the block of Q4_0",
    ),
    "tensor past the file": (gguf([], [tensor("t", [40])], bytes(32)), "tensor 't' ends 128 bytes past the file"),
    "offset past the file": (gguf([], [tensor("t", [8], 0, 64)], bytes(32)), "tensor 't' ends 64 bytes past the file"),
    "offset that wraps": (
        gguf([], [tensor("t", [8], 0, 2**64 - 32)], bytes(32)),
        "tensor 't' has offset 18446744073709551584 and size 32, which do not fit 64 bits",
    ),
    "offset between alignments": (
        gguf([], [tensor("t", [8], 0, 8)], bytes(64)),
        "tensor 't' starts at offset 8, not a multiple of the alignment 32",
    ),
    "tensor twice": (gguf([], [*ONE, tensor("t", [8], 0, 32)], bytes(64)), "tensor 't' occurs twice"),
    "tensors at the same place": (
        gguf([], [*ONE, tensor("u", [8])], bytes(64)),
        "overlap by 32 bytes",
    ),
    "tensors that overlap": (
        gguf([], [tensor("u", [8], 0, 32), tensor("t", [9])], bytes(96)),
        "tensors 't' and 'u' overlap by 4 bytes",
    ),
    "tensor name that is not UTF-8": (gguf([], [tensor(b"\x80", [8])], bytes(32)), "tensor number 0 has a name that"),
    "version 1": (gguf(version=1), "the header has GGUF version 1; versions 2 and 3 are supported"),
    "version 4": (gguf(version=4), "the header has GGUF version 4; versions 2 and 3 are supported"),
    "big-endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "the header is big-endian"),
    "safetensors": (struct.pack("<Q", 32) + b'{"a":{"dtype":"F32"}}', "this is a safetensors file"),
    "PyTorch": (b"PK\x03\x04" + bytes(60), "this is a PyTorch checkpoint"),
    "older GGML": (b"tjgg" + bytes(60), "older than GGUF"),
    "Git LFS pointer": (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    "web page": (b"<!DOCTYPE html>", "web page"),
    "vendor's model": (b"RKLLM" + bytes(60), "whose format is closed: convert the original Hugging Face or GGUF model"),
    "something else": (b"hello", "is not a GGUF file"),
    "nothing": (b"", "is empty"),
}
