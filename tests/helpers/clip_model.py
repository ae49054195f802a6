"""A small random CLIP in a folder, as transformers saves one."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from transformers import CLIPConfig, CLIPModel

from ldmsid_core.evaluation.clip_iqa import PROMPTS


def write_clip(folder: Path) -> CLIPModel:
    """A tiny CLIP whose tokenizer knows single letters."""
    folder.mkdir()
    letters = sorted({c for text in PROMPTS for c in text.lower() if c != " "})
    words = [*letters, *(f"{c}</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({w: n for n, w in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CLIPTokenizer"}))
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
             "num_attention_heads": 2}  # fmt: skip
    ends = {"bos_token_id": len(words) - 2, "eos_token_id": len(words) - 1,
            "pad_token_id": len(words) - 1}  # fmt: skip
    config = CLIPConfig(
        text_config={**small, **ends, "vocab_size": len(words), "max_position_embeddings": 24},
        vision_config={**small, "image_size": 32, "patch_size": 8}, projection_dim=8,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = CLIPModel(config).eval()
    model.save_pretrained(folder)
    return model
