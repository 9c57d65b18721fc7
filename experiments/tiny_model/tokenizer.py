"""The tiny model's vocabulary: one token for each number, operator, tag and stock phrase of a countdown search."""

import os

# One thread per process is this project's rule; the Rust pool would break it and warns after a fork.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from transformers import AddedToken, PreTrainedTokenizerBase, Qwen2Tokenizer

from experiments.errors import UserError

PAD = "<|endoftext|>"
EOS = "<|im_end|>"
VOCAB_SIZE = 128
"""Rows of the embedding."""

THINK, END_THINK, ANSWER, END_ANSWER = " <think>", " </think>", " <answer>", " </answer>"
NOT_IT, TRY, WORKS = " not it,", " let's try", " this works"
FILLERS = (" hmm", " well", " so", " the", " maybe", " let me", " see", " wait")
SYMBOLS = (" +", " -", " *", " /", " =", " (", " )", ",")

TOKENS: tuple[str, ...] = (
    PAD,
    EOS,
    "numbers",
    " target",
    THINK,
    END_THINK,
    ANSWER,
    END_ANSWER,
    NOT_IT,
    TRY,
    WORKS,
    *SYMBOLS,
    *FILLERS,
    *(f" {number}" for number in range(100)),
    "\n",  # never trained on: veRL's prompt builder for Qwen refuses a tokenizer in which it is not one token
)
"""Every token; its position is its id."""

# Prompts go through apply_chat_template in veRL; a base model's prompt must come out as it went in.
CHAT_TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"


def build() -> Qwen2Tokenizer:
    """Return the tokenizer: decode(encode(text)) == text for every text `check` accepts.

    transformers 5 rebuilds Qwen2's pre-tokenizer, which splits numbers into digits, whatever the folder says; tokens
    that are matched before it (added tokens, not normalized) are the one way to keep ` 45` whole.
    """
    tokenizer = Qwen2Tokenizer(
        vocab={token: index for index, token in enumerate(TOKENS)},
        merges=[],
        unk_token=None,
        eos_token=EOS,
        pad_token=PAD,
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=512,
        padding_side="left",
    )
    # The tags must survive skip_special_tokens, the reward reads them: only pad and eos are special.
    tokenizer.add_tokens([AddedToken(token, normalized=False, special=token in (PAD, EOS)) for token in TOKENS])
    return tokenizer


def check(tokenizer: PreTrainedTokenizerBase, text: str) -> None:
    """Raise UserError if `text` has a part the vocabulary cannot write.

    Qwen2Tokenizer in transformers 5 has no unknown token: it would drop that part without a word.
    """
    kept = tokenizer.decode(tokenizer.encode(text, add_special_tokens=False))
    if kept != text:
        raise UserError(
            f"the text must be made of the tiny model's {len(TOKENS)} tokens only, but {text[:200]!r} would be read as "
            f"{kept[:200]!r}; use the compact prompt template, or another model"
        )
