"""Prompts to embeddings, by a sentence encoder (MiniLM-L6, Wang et al. 2020; Reimers & Gurevych 2019)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

MAX_TOKENS = 64
"""Tokens of a prompt that are read, [CLS] and [SEP] included; the rest is cut."""


class PromptEmbedding(NamedTuple):
    """tokens (N, T, 384); mask (N, T), 1 at real tokens; pooled (N, 384), unit length."""

    tokens: Tensor
    mask: Tensor
    pooled: Tensor


@torch.no_grad()
def encode_prompts(
    tokenizer: Any, encoder: Any, prompts: Sequence[str], *, length: int | None = None, limit: int = MAX_TOKENS
) -> PromptEmbedding:
    """Embed prompts: contextual tokens for cross-attention and their masked mean, normalised, for the condition vector.

    Args:
        tokenizer, encoder: transformers' BertTokenizerFast and BertModel.
        prompts: N strings.
        length: pad to this many tokens (for fixed shapes); None pads to the longest prompt.
        limit: longest prompt kept.
    """
    padding = "max_length" if length else True
    batch = tokenizer(list(prompts), padding=padding, truncation=True, max_length=length or limit, return_tensors="pt")
    ids, mask = batch["input_ids"].to(encoder.device), batch["attention_mask"].to(encoder.device)
    tokens = encoder(input_ids=ids, attention_mask=mask).last_hidden_state
    weight = mask[..., None].to(tokens.dtype)
    pooled = (tokens * weight).sum(1) / weight.sum(1)
    return PromptEmbedding(tokens, mask, F.normalize(pooled.float(), dim=-1).to(tokens.dtype))
