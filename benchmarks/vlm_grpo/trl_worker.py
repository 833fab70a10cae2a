"""TRL's GRPOTrainer, one optimiser step (with all its inner iterations) a round. Runs in TRL's own environment."""

from __future__ import annotations

import functools
import sys
from typing import Any

import torch
from datasets import Dataset
from safetensors.torch import save_file
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from vlm_grpo import problem
from vlm_grpo.pace import Clock, Pace


class Turns(TrainerCallback):
    """Pauses the trainer: a round is all that lies between two ends of a step, data loading and optimiser included."""

    def __init__(self, settings: problem.Settings, pace: Pace, seen: dict[str, int]) -> None:
        self.settings, self.pace, self.seen = settings, pace, seen

    def on_train_begin(self, args, state, control, optimizer=None, **kwargs):
        self.pace.clock.time_optimiser(getattr(optimizer, "optimizer", optimizer), "optimizer")
        self.pace.ready("trl", "torch", "transformers", "accelerate", "peft", "datasets")

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step % self.settings.iterations == 0:
            self.pace.round_ended(self.pace.clock.lap(), **self.seen)


def main() -> None:
    settings = problem.load_settings(sys.argv[1])
    pace = Pace(settings.device, settings.threads)
    seen: dict[str, int] = {}
    notes: dict[str, Any] = {"rewards": {}}

    def reward(completions, completion_ids, row, **columns):
        paid = problem.reward(completions, **columns)
        for ids, i, one in zip(completion_ids, row, paid, strict=True):
            notes["rewards"][tuple(ids)] = (i, one)
        return paid

    rows = [
        {
            "prompt": [{"role": "user", "content": row["prompt"]}],
            "image": row["image"],
            "answer": row["answer"],
            "row": i,
        }
        for i, row in enumerate(problem.load_rows(settings))
    ]
    trainer = GRPOTrainer(
        model=problem.load_model(settings),
        processing_class=problem.load_processor(settings.folder),
        reward_funcs=pace.clock.timed("reward", reward),
        args=configuration(settings),
        train_dataset=Dataset.from_list(rows),
        callbacks=[Turns(settings, pace, seen)],
    )
    time_phases(trainer, pace.clock)
    watch(trainer, settings, seen, notes)
    trainer.train()


def configuration(settings: problem.Settings) -> GRPOConfig:
    return GRPOConfig(
        output_dir=f"{settings.folder}/trl",
        use_cpu=settings.device == "cpu",
        per_device_train_batch_size=settings.group * settings.prompts,
        gradient_accumulation_steps=1,
        num_generations=settings.group,
        max_completion_length=settings.completion,
        generation_kwargs={"min_new_tokens": settings.completion},
        max_steps=settings.steps * settings.iterations,
        num_iterations=settings.iterations,
        shuffle_dataset=False,
        beta=settings.beta,
        temperature=problem.TEMPERATURE,
        epsilon=problem.CLIP,
        learning_rate=problem.LR,
        lr_scheduler_type="constant",
        weight_decay=0.0,
        max_grad_norm=problem.MAX_NORM,
        gradient_checkpointing=False,
        bf16=settings.bf16,
        report_to="none",
        save_strategy="no",
        logging_steps=10**6,
        disable_tqdm=True,
        dataloader_pin_memory=False,
        seed=0,
    )


def time_phases(trainer: Any, clock: Clock) -> None:
    """Book the trainer's parts; the names tell what is nested in what."""
    model, processor = trainer.model, type(trainer.processing_class)
    processor.__call__ = clock.timed("processor", processor.__call__)
    trainer._generate_and_score_completions = clock.timed("rollout", trainer._generate_and_score_completions)
    trainer._get_per_token_logps_and_entropies = clock.timed(
        lambda *_, **__: "loss_forward" if torch.is_grad_enabled() else "old_or_reference_log_probs",
        trainer._get_per_token_logps_and_entropies,
    )
    trainer.accelerator.backward = clock.timed("backward", trainer.accelerator.backward)
    model.generate = clock.timed("generate", model.generate)
    model.model.visual.forward = clock.timed("vision", model.model.visual.forward)
    text = model.model.language_model
    text.forward = clock.timed(
        lambda *_, inputs_embeds, **__: "decode" if inputs_embeds.shape[1] == 1 else "text", text.forward
    )


def watch(trainer: Any, settings: problem.Settings, seen: dict[str, int], notes: dict[str, Any]) -> None:
    """Count tokens in every round, and write the first update down before the optimiser changes anything."""
    compute_loss, training_step = trainer._compute_loss, trainer.training_step
    log_probs = trainer._get_per_token_logps_and_entropies

    @functools.wraps(compute_loss)
    def counted(model: Any, inputs: dict[str, Any]) -> Any:
        seen["prompt_tokens"] = int(inputs["prompt_mask"].sum())
        seen["completion_tokens"] = int(inputs["completion_mask"].sum())
        notes.setdefault("inputs", inputs)
        return compute_loss(model, inputs)

    @functools.wraps(log_probs)
    def kept(*args: Any, **kwargs: Any) -> Any:
        found = log_probs(*args, **kwargs)
        if torch.is_grad_enabled():
            notes.setdefault("logp", found[0].detach())
        return found

    @functools.wraps(training_step)
    def first(model: Any, *args: Any, **kwargs: Any) -> Any:
        loss = training_step(model, *args, **kwargs)
        write_down(trainer.accelerator.unwrap_model(model), settings, notes)
        trainer.training_step, trainer._get_per_token_logps_and_entropies = training_step, log_probs
        notes["inputs"] = notes["logp"] = None
        return loss

    trainer._compute_loss, trainer._get_per_token_logps_and_entropies = counted, kept
    trainer.training_step = first


def write_down(model: Any, settings: problem.Settings, notes: dict[str, Any]) -> None:
    inputs = notes["inputs"]
    ids = inputs["completion_ids"].cpu()
    found = [notes["rewards"][tuple(row)] for row in ids.tolist()]
    tensors = {
        "prompt_ids": inputs["prompt_ids"],
        "prompt_mask": inputs["prompt_mask"],
        "completion_ids": ids,
        "advantage": inputs["advantages"],
        "logp": notes["logp"],
        "row": torch.tensor([row for row, _ in found]),
        "reward": torch.tensor([paid for _, paid in found], dtype=torch.float64),
        **{f"grad.{name}": p.grad for name, p in model.named_parameters() if p.grad is not None},
    }
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, settings.peer_step)


if __name__ == "__main__":
    main()
