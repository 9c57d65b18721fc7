"""The tiny model's vocabulary: one token for each number, operator, tag and stock phrase of a countdown search."""

import os

# This project's rule is one thread per process. The tokenizers' own pool would break it, and warns after a fork.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from transformers import AddedToken, PreTrainedTokenizerBase, Qwen2Tokenizer

from experiments.errors import UserError
from experiments.tasks.countdown.prompts import PASS_THROUGH_CHAT_TEMPLATE
from experiments.tiny_model.traces import END, FILLERS, MAX_RESULT

PAD = "<|endoftext|>"
EOS = END
MAX_LENGTH = 512
"""Prompt and response together."""
VOCAB_SIZE = 128
"""Rows of the embedding: one per token."""

TOKENS: tuple[str, ...] = (
    PAD,
    EOS,
    "numbers",
    " target",
    " <think>",
    " </think>",
    " <answer>",
    " </answer>",
    " not it,",
    " let's try",
    " this works",
    *(" +", " -", " *", " /", " =", " (", " )", ","),
    *FILLERS,
    *(f" {number}" for number in range(MAX_RESULT + 1)),
    "\n",  # never trained on: veRL's prompt builder refuses a Qwen2 tokenizer in which a newline is not one token
)
"""Every token; its position is its id."""


def build() -> Qwen2Tokenizer:
    """Return the tokenizer: decode(encode(text)) == text for every text that is made of `TOKENS`.

    transformers 5 takes Qwen2Tokenizer for every Qwen2 model, whatever the folder says. Its pre-tokenizer splits
    numbers into digits. Only added tokens (not normalized) are matched before that, so ` 45` must be one of them.
    """
    tokenizer = Qwen2Tokenizer(
        vocab={token: index for index, token in enumerate(TOKENS)},
        merges=[],
        unk_token=None,  # type: ignore[arg-type]
        eos_token=EOS,
        pad_token=PAD,
        chat_template=PASS_THROUGH_CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=MAX_LENGTH,
        padding_side="left",
    )
    # The tags must survive skip_special_tokens, since the reward reads them: only pad and eos are special.
    tokenizer.add_tokens([AddedToken(token, normalized=False, special=token in (PAD, EOS)) for token in TOKENS])
    return tokenizer


def check_text(tokenizer: PreTrainedTokenizerBase, text: str) -> None:
    """Return nothing if the tokenizer keeps every character of `text`.

    Qwen2Tokenizer in transformers 5 has no unknown token: it silently drops what the vocabulary lacks.

    Raises:
        UserError: a part of the text would be lost.
    """
    kept = tokenizer.decode(tokenizer.encode(text, add_special_tokens=False))
    if kept != text:
        raise UserError(
            f"a text for the tiny model must be made of its {len(TOKENS)} tokens only, but {text[:200]!r} would be "
            f"read as {kept[:200]!r}; take the compact prompt template and numbers up to {MAX_RESULT}, or another model"
        )
