"""How prompts become scored samples: a greedy agent loop for validation, and a batched manager for small models.

Read in veRL 0.9.1: verl/experimental/agent_loop/, verl/trainer/ppo/v1/agent_loop_tq.py (the fields and tags that the
trainer expects in TransferQueue).
"""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import ray
import torch
import transfer_queue
from tensordict import NonTensorData, NonTensorStack, TensorDict
from verl.experimental.agent_loop.agent_loop import (
    AgentLoopManager,
    AgentLoopOutput,
    AgentLoopWorker,
    DictConfigWrap,
    ToolListWrap,
)
from verl.experimental.agent_loop.single_turn_agent_loop import SingleTurnAgentLoop
from verl.protocol import DataProto
from verl.trainer.ppo.reward import load_reward_manager
from verl.utils.ray_utils import auto_await

from experiments.verl_plugin.rollout.server import server_name

GREEDY = "greedy_agent"
ROLLOUT_N = "__rollout_n__"  # veRL's name of the column that says how many samples a row gets

Sample = tuple[torch.Tensor, torch.Tensor, int]
"""Response ids, their log-probs, the version of the weights."""


class OneRow(DataProto):
    """A batch of one row. veRL's reward managers ask for its last row first, which is the batch itself."""

    def __getitem__(self, item: Any) -> Any:
        return self if item == slice(-1, None) else super().__getitem__(item)


class GreedyAgentLoop(SingleTurnAgentLoop):
    """Takes the most likely token whatever the sampling parameters say.

    A validation row chooses this loop in its column `agent_name`, so one validation scores both sampled and greedy
    answers.
    """

    async def run(self, sampling_params: dict[str, Any], **kwargs: Any) -> AgentLoopOutput:
        return await super().run({**sampling_params, "temperature": 0, "top_p": 1.0, "top_k": -1}, **kwargs)


class BatchAgentLoopManager(AgentLoopManager):
    """Single-turn rollouts of a whole batch inside the trainer's process.

    veRL's own manager spends a second a step on one coroutine, four Ray calls and one queue entry for each sample.
    This one tokenises each distinct prompt once, asks each rollout server once, scores in this process with veRL's
    reward manager and puts everything into TransferQueue at once. An error anywhere is raised, not logged.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.agent_loop_workers_class: Any = None  # start no workers
        super().__init__(*args, **kwargs)
        worker = AgentLoopWorker(self.config, self.llm_client, self.teacher_client, self.reward_loop_worker_handles)
        self.event_loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self.event_loop)
        self.agent = SingleTurnAgentLoop(
            trainer_config=DictConfigWrap(config=self.config),
            server_manager=self.llm_client,
            tokenizer=worker.tokenizer,
            processor=worker.processor,
            hf_model_type=worker.hf_model_type,
            dataset_cls=worker.dataset_cls,
            data_config=DictConfigWrap(self.config.data),
            tools=ToolListWrap(worker.tools),
        )
        self.reward_manager = load_reward_manager(self.config, worker.tokenizer)
        self.reward_manager.loop = self.event_loop
        self.agent.loop = self.event_loop
        self.token_ids: dict[str, list[int]] = {}
        self.servers: list[Any] = []

    @classmethod
    @auto_await
    async def create(cls, *args: Any, **kwargs: Any) -> BatchAgentLoopManager:
        """Return a manager that has the servers of all replicas."""
        manager = cls(*args, **kwargs)
        config = manager.config
        rollout = config.actor_rollout_ref.rollout
        ranks = config.trainer.nnodes * config.trainer.n_gpus_per_node
        size = rollout.tensor_model_parallel_size * rollout.data_parallel_size * rollout.pipeline_model_parallel_size
        manager.servers = [ray.get_actor(server_name(rank)) for rank in range(ranks // size)]
        return manager

    def generate_sequences(self, prompts: TensorDict) -> None:
        """Generate, score and put into TransferQueue the samples of each prompt: n, or as many as its row says."""
        columns = {key: _column(value, len(prompts)) for key, value in prompts.items()}
        validate = bool(columns.pop("validate", [False])[0])
        rollout = self.config.actor_rollout_ref.rollout
        sampling = rollout.val_kwargs if validate else rollout
        agents = columns.get("agent_name", [None] * len(prompts))
        counts = [int(n) for n in columns.pop(ROLLOUT_N, [sampling.n] * len(prompts))]
        temperatures = [0.0 if agent == GREEDY else float(sampling.temperature) for agent in agents]
        token_ids = self._tokenize(columns["raw_prompt"])
        samples: list[list[Sample]] = [[] for _ in counts]
        for n in sorted(set(counts)):
            rows = [row for row, own in enumerate(counts) if own == n]
            found = self._generate(
                [token_ids[row] for row in rows],
                n,
                [temperatures[row] for row in rows],
                int(sampling.top_k),
                float(sampling.top_p),
            )
            for place, row in enumerate(rows):
                samples[row] = found[place * n : (place + 1) * n]
        self._score_and_put(columns, token_ids, samples, "val" if validate else "train")

    def _tokenize(self, chats: list[Any]) -> list[list[int]]:
        missing = {repr(chat): chat for chat in chats if repr(chat) not in self.token_ids}
        for key, chat in missing.items():
            self.token_ids[key] = self.event_loop.run_until_complete(self.agent.ct_build_initial_tokens(list(chat)))
        return [self.token_ids[repr(chat)] for chat in chats]

    def _generate(
        self, token_ids: list[list[int]], n: int, temperatures: list[float], top_k: int, top_p: float
    ) -> list[Sample]:
        """Return n samples per prompt, in the prompts' order."""
        parts = np.array_split(np.arange(len(token_ids)), len(self.servers))
        answers = ray.get(
            [
                server.generate_batch.remote(
                    [token_ids[i] for i in part], n, [temperatures[i] for i in part], top_k, top_p
                )
                for server, part in zip(self.servers, parts, strict=True)
                if len(part)
            ]
        )
        return [
            (ids[row, :length].clone(), log_probs[row, :length].clone(), version)
            for ids, log_probs, lengths, version in answers
            for row, length in enumerate(lengths.tolist())
        ]

    def _score_and_put(
        self,
        columns: dict[str, list[Any]],
        token_ids: list[list[int]],
        samples: list[list[Sample]],
        partition: str,
    ) -> None:
        uids, step = columns["uid"], int(columns["global_steps"][0])
        names = ("prompts", "responses", "response_mask", "rollout_log_probs", "input_ids", "position_ids")
        tensors: dict[str, list[torch.Tensor]] = {name: [] for name in names}
        keys, tags, rows = [], [], []
        flat = [(row, session, *sample) for row, own in enumerate(samples) for session, sample in enumerate(own)]
        for prompt_index, session, response, log_probs, version in flat:
            prompt = torch.tensor(token_ids[prompt_index])
            ids = torch.cat([prompt, response])
            tensors["prompts"].append(prompt)
            tensors["responses"].append(response)
            tensors["response_mask"].append(torch.ones_like(response))
            tensors["rollout_log_probs"].append(log_probs)
            tensors["input_ids"].append(ids)
            tensors["position_ids"].append(torch.arange(len(ids)))
            keys.append(f"{uids[prompt_index]}_{session}_0")
            tags.append(
                {
                    "status": "success",
                    "prompt_len": len(prompt),
                    "response_len": len(response),
                    "seq_len": len(ids),
                    "global_steps": step,
                    "min_global_steps": version,
                    "max_global_steps": version,
                }
            )
            of_prompt = {key: values[prompt_index] for key, values in columns.items()}
            rows.append(self._reward_row(prompt, response, of_prompt))
        scores = self.event_loop.run_until_complete(self._score(rows))
        tensors["loss_mask"] = tensors["response_mask"]
        tensors["rm_scores"] = [
            torch.cat([torch.zeros(len(response) - 1), torch.tensor([float(score["reward_score"])])])
            for response, score in zip(tensors["responses"], scores, strict=True)
        ]
        fields: dict[str, Any] = {
            name: torch.nested.as_nested_tensor(values, layout=torch.jagged) for name, values in tensors.items()
        }
        for name in ("uid", "reward_model", "data_source"):
            if name in columns:
                fields[name] = NonTensorStack(*(columns[name][row] for row, *_ in flat))
        fields["num_turns"] = NonTensorStack(*[2] * len(flat))
        fields["extra_fields"] = NonTensorStack(
            *({"reward_extra_info": score["reward_extra_info"]} for score in scores)
        )
        transfer_queue.kv_batch_put(
            keys=keys, partition_id=partition, fields=TensorDict(fields, batch_size=[len(flat)]), tags=tags
        )
        finished = {"is_prompt": True, "status": "finished", "global_steps": step}
        transfer_queue.kv_batch_put(
            keys=[str(uid) for uid in uids], partition_id=partition, tags=[dict(finished) for _ in uids]
        )

    @staticmethod
    def _reward_row(prompt: torch.Tensor, response: torch.Tensor, columns: dict[str, Any]) -> DataProto:
        """Return one sample in the shape that veRL's reward managers read."""
        objects = {}
        for key, value in {**columns, "__num_turns__": 2, "tool_extra_fields": {}}.items():
            objects[key] = np.empty(1, dtype=object)
            objects[key][0] = value
        mask = torch.ones(1, len(prompt) + len(response), dtype=torch.long)
        batch = TensorDict({"prompts": prompt[None], "responses": response[None], "attention_mask": mask}, batch_size=1)
        return OneRow(batch=batch, non_tensor_batch=objects)

    async def _score(self, rows: list[DataProto]) -> list[dict[str, Any]]:
        return await asyncio.gather(*(self.reward_manager.run_single(row) for row in rows))


def _column(value: Any, size: int) -> list[Any]:
    """Return a TensorDict's entry as a list with one value per row."""
    if isinstance(value, NonTensorData):
        return [value.data] * size
    return value.tolist() if isinstance(value, NonTensorStack) else list(value)
