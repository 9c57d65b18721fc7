"""The prompts of countdown: TinyZero's question in its templates, and a compact one for the tiny model."""

from experiments.errors import UserError
from experiments.tasks import templates
from experiments.tasks.countdown.problems import Problem

_QUESTION = (
    "Using the numbers {numbers}, create an equation that equals {target}. You can use basic arithmetic operations "
    "(+, -, *, /) and each number can only be used once. Show your work in <think> </think> tags. And return the final "
    "answer in <answer> </answer> tags, for example <answer> (1 + 2) / 3 </answer>."
)

# The whole prompts, with gaps for the numbers and the target.
TEMPLATES: dict[str, str] = {
    name: text.replace("{question}", "numbers {plain_numbers} target {target}" if name == "compact" else _QUESTION)
    for name, text in templates.TEMPLATES.items()
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
            "TEMPLATES in experiments/tasks/templates.py"
        )
    plain = ", ".join(str(int(number)) for number in problem.numbers)
    content = TEMPLATES[template].format(numbers=f"[{plain}]", plain_numbers=plain, target=int(problem.target))
    return [{"role": "user", "content": content}]
