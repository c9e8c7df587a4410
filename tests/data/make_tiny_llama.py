# SPDX-License-Identifier: Apache-2.0
"""Make `tiny-llama`, a random Llama checkpoint in the Hugging Face layout: `python make_tiny_llama.py OUT_DIR`.

Two layers, tied embeddings, bfloat16, a byte-level tokenizer of 300 tokens with ChatML. It says nothing sensible. The
same seed gives the same bytes: weights are integers over a power of two, so no rounding is involved.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

DIM, HEADS, KV_HEADS, FFN, LAYERS, MAX_POSITIONS = 64, 4, 2, 128, 2, 512
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
# fmt: off
MERGES = [
    "Ġ t", "h e", "t h", "Ġ a", "i n", "Ġt he", "r e", "o n", "Ġ s", "n d", "Ġ w", "e r", "Ġ o", "o u", "i s", "a t",
    "Ġa nd", "in g", "e n", "Ġ b", "i t", "o r", "Ġ c", "e s", "Ġ h", "l l", "Ġ f", "Ġt o", "Ġ m", "a n", "Ġ in",
    "e d", "Ġo f", "a r", "Ġ p", "l e", "Ġ is", "Ġ y", "Ġy ou", "Ġt h", "Ġth at",
]
# fmt: on
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def byte_characters() -> list[str]:
    """Return the printable character of each byte, as byte-level tokenizers write it: bytes that are not printable
    take the characters from U+0100 on."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return [chr(byte) if byte in shown else chr(256 + hidden.index(byte)) for byte in range(256)]


def tokens() -> dict[str, int]:
    """Return the vocabulary: special tokens, bytes, merges."""
    texts = [*SPECIAL, *sorted(byte_characters()), *(row.replace(" ", "") for row in MERGES)]
    return {text: index for index, text in enumerate(texts)}


def config(vocab_size: int) -> dict[str, object]:
    """Return config.json."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "hidden_act": "silu",
        "hidden_size": DIM,
        "intermediate_size": FFN,
        "max_position_embeddings": MAX_POSITIONS,
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": HEADS,
        "num_hidden_layers": LAYERS,
        "num_key_value_heads": KV_HEADS,
        "rms_norm_eps": 1e-05,
        "rope_scaling": None,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "vocab_size": vocab_size,
    }


def shapes(vocab_size: int) -> dict[str, tuple[int, ...]]:
    """Return the tensors of the checkpoint, in the order in which they are drawn and stored."""
    kv_dim = DIM // HEADS * KV_HEADS
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocab_size, DIM)}
    for layer in range(LAYERS):
        block = {
            "input_layernorm": (DIM,),
            "self_attn.q_proj": (DIM, DIM),
            "self_attn.k_proj": (kv_dim, DIM),
            "self_attn.v_proj": (kv_dim, DIM),
            "self_attn.o_proj": (DIM, DIM),
            "post_attention_layernorm": (DIM,),
            "mlp.gate_proj": (FFN, DIM),
            "mlp.up_proj": (FFN, DIM),
            "mlp.down_proj": (DIM, FFN),
        }
        found.update({f"model.layers.{layer}.{part}.weight": shape for part, shape in block.items()})
    return {**found, "model.norm.weight": (DIM,)}


def bfloat16(values: np.ndarray) -> bytes:
    """Return the upper halves of float32 values whose lower halves are zero."""
    bits = values.astype("<f4").view("<u4")
    assert not (bits & 0xFFFF).any()
    return (bits >> 16).astype("<u2").tobytes()


def safetensors(vocab_size: int, seed: int) -> bytes:
    """Return model.safetensors: matrices in -0.25 ... 0.25, norms in 0.75 ... 1.25."""
    random = np.random.Generator(np.random.PCG64(seed))
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    data = b""
    for name, shape in shapes(vocab_size).items():
        drawn = random.integers(-32, 33, shape)
        packed = bfloat16((drawn / 128 + 1 if len(shape) == 1 else drawn / 128).astype(np.float32))
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [len(data), len(data) + len(packed)]}
        data += packed
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data


def tokenizer(vocab: dict[str, int]) -> dict[str, object]:
    """Return tokenizer.json."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": index, "content": text, **flags} for index, text in enumerate(SPECIAL)],
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": vocab,
            "merges": MERGES,
        },
    }


def tokenizer_config() -> dict[str, object]:
    """Return tokenizer_config.json."""
    return {
        "add_bos_token": False,
        "add_prefix_space": False,
        "bos_token": "<|im_start|>",
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "model_max_length": MAX_POSITIONS,
        "pad_token": "<|im_end|>",
        "tokenizer_class": "GPT2Tokenizer",
        "unk_token": "<|endoftext|>",
    }


def make(folder: Path, seed: int = 20241122) -> None:
    """Write the checkpoint into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    vocab = tokens()
    texts = {
        "config.json": config(len(vocab)),
        "tokenizer.json": tokenizer(vocab),
        "tokenizer_config.json": tokenizer_config(),
    }
    for name, content in texts.items():
        (folder / name).write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    (folder / "model.safetensors").write_bytes(safetensors(len(vocab), seed))


if __name__ == "__main__":
    make(Path(sys.argv[1]))
