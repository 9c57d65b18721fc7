"""The prompts of countdown: TinyZero's for base and instruct models, and a compact one for the tiny model."""

from experiments.errors import UserError
from experiments.tasks.countdown.problems import Problem

_QUESTION = (
    "Using the numbers {numbers}, create an equation that equals {target}. You can use basic arithmetic operations "
    "(+, -, *, /) and each number can only be used once. Show your work in <think> </think> tags. And return the final "
    "answer in <answer> </answer> tags, for example <answer> (1 + 2) / 3 </answer>."
)
_OPENING = "Let me solve this step by step.\n<think>"

# "base" and "instruct" are TinyZero's texts (examples/data_preprocess/countdown.py), its blank after "user\n" included.
# Both hold the roles and the beginning of the assistant's turn themselves, so no chat template may add to them.
TEMPLATES: dict[str, str] = {
    "base": (
        "A conversation between User and Assistant. The user asks a question, and the Assistant solves it. The "
        "assistant first thinks about the reasoning process in the mind and then provides the user with the answer.\n"
        f"User: {_QUESTION}\nAssistant: {_OPENING}"
    ),
    "instruct": (
        "<|im_start|>system\nYou are a helpful assistant. You first thinks about the reasoning process in the mind and "
        "then provides the user with the answer.<|im_end|>\n"
        f"<|im_start|>user\n {_QUESTION}<|im_end|>\n<|im_start|>assistant\n{_OPENING}"
    ),
    "compact": "numbers {plain_numbers} target {target} <think>",
}

# For actor_rollout_ref.model.custom_chat_template: prints the contents of the messages and nothing else.
PASS_THROUGH_CHAT_TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"


def render(template: str, problem: Problem) -> list[dict[str, str]]:
    """The chat messages of a problem: one, of role "user", whose content is the whole prompt.

    Numbers are printed as Python prints a list of int, "[44, 19, 35]", whatever sequence holds them ("compact": without
    brackets).

    Raises:
        UserError: there is no such template.
    """
    if template not in TEMPLATES:
        raise UserError(
            f"template must be one of {', '.join(TEMPLATES)}, but is {template!r}; set it to one of them or add it to "
            "TEMPLATES in experiments/tasks/countdown/prompts.py"
        )
    plain = ", ".join(str(int(number)) for number in problem.numbers)
    content = TEMPLATES[template].format(numbers=f"[{plain}]", plain_numbers=plain, target=int(problem.target))
    return [{"role": "user", "content": content}]
