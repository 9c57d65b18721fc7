"""The text around a question in a prompt: TinyZero's for base and instruct models, almost none for the tiny model."""

from experiments.errors import UserError

_OPENING = "Let me solve this step by step.\n<think>"

# "base" and "instruct" are TinyZero's (examples/data_preprocess/countdown.py), the blank after "user\n" included. Both
# already contain the roles and the beginning of the assistant's turn, so no chat template may add to them.
TEMPLATES: dict[str, str] = {
    "base": (
        "A conversation between User and Assistant. The user asks a question, and the Assistant solves it. The "
        "assistant first thinks about the reasoning process in the mind and then provides the user with the answer.\n"
        f"User: {{question}}\nAssistant: {_OPENING}"
    ),
    "instruct": (
        "<|im_start|>system\nYou are a helpful assistant. You first thinks about the reasoning process in the mind and "
        "then provides the user with the answer.<|im_end|>\n"
        f"<|im_start|>user\n {{question}}<|im_end|>\n<|im_start|>assistant\n{_OPENING}"
    ),
    "compact": "{question} <think>",
}

# What a question of another data set needs, since it does not say itself in which tags we look for the answer.
TAGGED = (
    "{question}\n\nShow your work in <think> </think> tags. And return the final answer, and nothing else, in <answer> "
    "</answer> tags."
)


def template_problems(template: str) -> list[str]:
    """Return a problem if there is no such template."""
    if template in TEMPLATES:
        return []
    return [f"model.template must be one of {', '.join(TEMPLATES)}, but is {template!r}; set it to one of them"]


def wrap_tagged(template: str, question: str) -> list[dict[str, str]]:
    """Return what `wrap` returns for a question to which the tags of the answer are added."""
    return wrap(template, TAGGED.replace("{question}", question))


def wrap(template: str, question: str) -> list[dict[str, str]]:
    """Return the chat messages of a question: one, of role "user", whose content is the whole prompt.

    Raises UserError if there is no such template.
    """
    if problems := template_problems(template):
        raise UserError(*problems)
    return [{"role": "user", "content": TEMPLATES[template].replace("{question}", question)}]
