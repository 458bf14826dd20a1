from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from materials.prompt import MAX_TOKENS, encode_prompts
from tests import tiny
from tests.tiny import BertModel, BertTokenizer

PROMPTS = ["red brick", "old mossy wall, sand", ""]


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    folder = tmp_path_factory.mktemp("text")
    tiny.text_folders(folder, width=16, tokenizer=".", encoder=".")
    encoder = BertModel.from_pretrained(folder, add_pooling_layer=False).float().eval()
    return BertTokenizer.from_pretrained(Path(folder)), encoder


def test_shapes_and_masked_mean(text: tuple[Any, Any]) -> None:
    tokens, mask, pooled = encode_prompts(*text, PROMPTS)
    assert tokens.shape == (3, 8, 16) and mask.shape == (3, 8) and pooled.shape == (3, 16)
    # [CLS], the word pieces, [SEP]: "mossy" is unknown, no piece being "moss" + "##sy"
    assert mask.sum(1).tolist() == [4, 8, 2] or mask.sum(1).tolist() == [4, 9, 2]
    for row, weight, mean in zip(tokens, mask.bool(), pooled, strict=True):
        expected = row[weight].mean(0)
        torch.testing.assert_close(mean, expected / expected.norm(), rtol=0, atol=1e-6)


def test_padding_changes_nothing(text: tuple[Any, Any]) -> None:
    batch = encode_prompts(*text, PROMPTS, length=24)
    assert batch.tokens.shape == (3, 24, 16)
    for i, prompt in enumerate(PROMPTS):
        alone = encode_prompts(*text, [prompt])
        count = int(alone.mask.sum())
        torch.testing.assert_close(batch.tokens[i, :count], alone.tokens[0], rtol=0, atol=1e-5)
        torch.testing.assert_close(batch.pooled[i], alone.pooled[0], rtol=0, atol=1e-5)


def test_long_prompts_are_cut(text: tuple[Any, Any]) -> None:
    assert encode_prompts(*text, ["red brick " * 500]).mask.sum() == MAX_TOKENS
    assert encode_prompts(*text, ["red brick " * 500], limit=10).tokens.shape[1] == 10
    assert encode_prompts(*text, ["red brick " * 500], length=12).tokens.shape[1] == 12
