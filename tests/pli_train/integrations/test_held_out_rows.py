"""Rows of a data set become held-out blocks with the labels that a run has."""

import numpy as np
import tokenizers
from transformers import PreTrainedTokenizerFast

from pli_train.integrations import held_out_rows


def padded(ids, length):
    return {"input_ids": ids + [0] * (length - len(ids)), "attention_mask": [1] * len(ids) + [0] * (length - len(ids))}


def test_held_out_rows_may_be_short_padded_or_lack_labels():
    rows = [
        {"input_ids": [5, 6, 7, 8]},
        {"input_ids": [5, 6]},
        padded([9, 8, 7], 6),
        {"input_ids": [1, 99]},
        {"text": "x"},
    ]
    found = held_out_rows.drawn(rows, 10, "causal-lm", 64, None, seed=0)
    by_index = dict(
        zip(found["block"].tolist(), zip(found["inputs"].tolist(), found["labels"].tolist(), strict=True), strict=True)
    )
    assert by_index == {
        0: ([5, 6, 7, 8], [6, 7, 8, -100]),
        1: ([5, 6, 6, 6], [6, -100, -100, -100]),
        2: ([9, 8, 7, 7], [8, 7, -100, -100]),
    }
    assert found["strata"].tolist() == [5] and found["stratum"].tolist() == [0, 0, 0]


def test_held_out_rows_of_masked_models_come_masked_or_are_masked():
    letters = tokenizers.Tokenizer(tokenizers.models.WordLevel({f"t{n}": n for n in range(64)}, unk_token="t0"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=letters, mask_token="t3")
    rows = [
        {"input_ids": [5, 3, 7], "labels": [-100, 6, -100]},
        {"input_ids": [5, 6], "labels": [5, -100]},
        padded([5], 3),
    ]
    found = held_out_rows.drawn([*rows[:2], dict(rows[0])], 10, "masked-lm", 64, None, seed=0)
    assert found["inputs"].tolist() == [[5, 3, 7]] * 2 and found["labels"].tolist() == [[-100, 6, -100]] * 2
    plain = [{"input_ids": list(range(4, 40))} for _ in range(4)]
    assert held_out_rows.drawn(plain, 10, "masked-lm", 64, None, seed=0) is None  # nobody says what a mask is
    made = held_out_rows.drawn(plain, 10, "masked-lm", 64, tokenizer, seed=0)
    asked = made["labels"] != -100
    assert 0 < asked.sum() < asked.size / 2 and (made["labels"][asked] == np.tile(range(4, 40), (4, 1))[asked]).all()
    assert held_out_rows.drawn(iter(plain), 10, "masked-lm", 64, tokenizer, seed=0) is None
