"""The rollout of a GRPO recipe with tools, as one writes it with transformers' `generate`: the environment `think_with_code` without a
sandbox.

Each call of `generate` takes all unfinished sequences of the batch, left-padded, and starts from their tokens and images, as Thyme's and
ms-swift's rollouts do. With adaptive temperature a turn takes two calls, one at the recipe's temperature up to `<code>` and a greedy one
up to `</code>`; without it one, all at the recipe's temperature. Code runs in this process, where nothing jails it.
"""

import contextlib
import io
import os
import re
import tempfile
import tomllib

import torch
from PIL import Image
from transformers import AutoTokenizer, StoppingCriteria
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from peer_prompts import collate, image_tokens

CODE_OPEN, CODE_CLOSE, ANSWER_CLOSE = "<code>", "</code>", "</answer>"
CALL = re.compile(r"<code>\s*(?:```(?:python)?)?(.*?)(?:```)?\s*</code>", re.DOTALL | re.IGNORECASE)
ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
NO_OUTPUT = "No output captured: print a result, or the path of an image that you saved."
NO_CODE = "There was no code to run: write it between <code> and </code>."
LIMIT = "The code was not run: the limit of {} code runs is reached. Give the answer now."


class Automaton:
    """Finds which of some strings a row completes, whatever its tokens glue together, with one table look-up a step.

    States below `stop` are beginnings of the strings; `stop + i` is the end of the i-th, and one more is an ending token.
    """

    def __init__(self, pieces, strings, ending_tokens):
        beginnings = sorted({string[:length] for string in strings for length in range(len(string))}, key=len)
        self.strings, self.stop = strings, len(beginnings)
        states = {beginning: state for state, beginning in enumerate(beginnings)}
        self.table = torch.tensor([[self.follow(text, piece, states) for piece in pieces] for text in beginnings])
        self.table[:, ending_tokens] = self.stop + len(strings)

    def follow(self, text, piece, states):
        for character in piece:
            text += character
            for index, string in enumerate(self.strings):
                if text.endswith(string):
                    return self.stop + index
            while text not in states:
                text = text[1:]
        return states[text]

    def name(self, state):
        """The string that a state ends, if it is one."""
        return self.strings[state - self.stop] if self.stop <= state < self.stop + len(self.strings) else None


class Stops(StoppingCriteria):
    """Stops a row where the automaton does, or where its own budget of tokens is spent."""

    def __init__(self, automaton, budgets):
        self.automaton, self.budgets = automaton, budgets
        self.states, self.sampled = torch.zeros_like(budgets), torch.zeros_like(budgets)

    def has_stopped(self):
        return (self.states >= self.automaton.stop) | (self.sampled >= self.budgets)

    def __call__(self, input_ids, scores, **_):
        stopped = self.has_stopped()
        beginnings = self.states.clamp(max=self.automaton.stop - 1)
        self.states = torch.where(stopped, self.states, self.automaton.table[beginnings, input_ids[:, -1]])
        self.sampled += ~stopped
        return self.has_stopped()


class Sequence:
    """One sequence: its tokens and images so far, and what its code left behind."""

    def __init__(self, prompt, folder):
        self.prompt = prompt
        self.token_ids, self.pixel_values, self.grids = list(prompt.token_ids), prompt.pixel_values, prompt.grids
        self.turn, self.stop, self.has_ended, self.was_refused = [], None, False, False
        self.sampled = self.runs = self.images = 0
        self.namespace = {"Image": Image, "image_path": str(prompt.pictures[0]), "temp_output_dir": folder}

    def take_sampled(self, token_ids, stop):
        self.token_ids += token_ids
        self.turn += token_ids
        self.sampled += len(token_ids)
        self.stop = stop

    def show(self, token_ids, pixel_values, grids):
        self.token_ids += token_ids
        self.pixel_values = torch.cat([self.pixel_values, *pixel_values])
        self.grids = torch.cat([self.grids, *grids])
        self.images += len(grids)
        self.turn = []


class ToolRollout:
    """A recipe's rollout on a checkpoint."""

    def __init__(self, recipe_file, model_folder):
        recipe = tomllib.loads(recipe_file.read_text())
        self.environment, self.temperature = recipe["environment"], recipe["sampling"]["temperature"]
        assert recipe["sampling"]["code_temperature"] == 0.0, "the call for code is greedy"
        self.group, self.prompts = recipe["grpo"]["num_generations"], recipe["grpo"]["prompts_per_step"]
        self.image_processor = Qwen2VLImageProcessorPil.from_pretrained(model_folder)
        self.tokenizer = AutoTokenizer.from_pretrained(model_folder)
        # Byte-level pieces spell ASCII as it is, and so the tags.
        pieces = self.tokenizer.convert_ids_to_tokens(range(len(self.tokenizer)))
        ending = ["<|im_end|>", "<|endoftext|>", "<|image_pad|>", "<|video_pad|>"]
        ending = self.tokenizer.convert_tokens_to_ids(ending)
        self.to_code = Automaton(pieces, [CODE_OPEN, CODE_CLOSE, ANSWER_CLOSE], ending)
        self.to_turn_end = Automaton(pieces, [CODE_CLOSE, ANSWER_CLOSE], ending)

    def run(self, model, prompts, adaptive):
        """The finished sequences of all prompts, a recipe's batch after the other."""
        finished = []
        with torch.inference_mode(), tempfile.TemporaryDirectory() as folder:
            for start in range(0, len(prompts), self.prompts):
                members = prompts[start:start + self.prompts]
                batch = [Sequence(prompt, folder) for prompt in members for _ in range(self.group)]
                self.run_batch(model, batch, adaptive)
                finished += batch
        return finished

    def run_batch(self, model, batch, adaptive):
        sampled = {"do_sample": True, "temperature": self.temperature, "top_k": 0, "top_p": 1.0}
        while unfinished := [sequence for sequence in batch if not sequence.has_ended]:
            if adaptive:
                self.generate(model, unfinished, self.to_code, sampled)
                coding = [s for s in unfinished if s.stop == CODE_OPEN and self.budget(s) > 0]
                if coding:
                    self.generate(model, coding, self.to_turn_end, {"do_sample": False})
            else:
                self.generate(model, unfinished, self.to_turn_end, sampled)
            called = [sequence for sequence in unfinished if sequence.stop == CODE_CLOSE]
            self.observe(called)
            for sequence in unfinished:
                sequence.has_ended |= sequence.stop != CODE_CLOSE or self.budget(sequence) <= 0

    def generate(self, model, sequences, automaton, sampling):
        inputs = collate(sequences, model.config, model.dtype)
        stops = Stops(automaton, torch.tensor([self.budget(sequence) for sequence in sequences]))
        output = model.generate(
            **inputs, **sampling, max_new_tokens=int(stops.budgets.max()), stopping_criteria=[stops], use_cache=True,
        )
        sampled = output[:, inputs["input_ids"].shape[1]:].tolist()
        for sequence, token_ids, count, state in zip(sequences, sampled, stops.sampled.tolist(), stops.states.tolist()):
            sequence.take_sampled(token_ids[:count], automaton.name(state))

    def budget(self, sequence):
        """Tokens that a sequence may still sample in its turn."""
        after_prompt = len(sequence.token_ids) - len(sequence.prompt.token_ids)
        turn = self.environment["max_turn_tokens"] - len(sequence.turn)
        return min(turn, self.environment["max_total_tokens"] - after_prompt)

    def observe(self, called):
        """Runs the code of sequences that called for it, and appends what comes of it."""
        results = [self.result(sequence) for sequence in called]
        images = [image for _, images in results for image in images]
        grids = pixel_values = iter(())
        if images:
            vision = self.image_processor(images=images, return_tensors="pt")
            grids = iter(vision["image_grid_thw"].split(1))
            pixel_values = iter(vision["pixel_values"].split(vision["image_grid_thw"].prod(dim=1).tolist()))
        for sequence, (text, images) in zip(called, results):
            own_grids = [next(grids) for _ in images]
            for grid in own_grids:
                text += f"<|vision_start|>{'<|image_pad|>' * image_tokens(grid, self.image_processor)}<|vision_end|>"
            token_ids = self.tokenizer(f"<sandbox_output>{text}</sandbox_output>")["input_ids"]
            sequence.show(token_ids, [next(pixel_values) for _ in images], own_grids)

    def result(self, sequence):
        """(text, images) for the turn's call."""
        if sequence.runs == self.environment["max_code_runs"]:
            sequence.has_ended, sequence.was_refused = sequence.was_refused, True
            return LIMIT.format(sequence.runs), []
        sequence.runs += 1
        call = CALL.search(self.tokenizer.decode(sequence.turn))
        return run_code(call[1], sequence.namespace) if call else (NO_CODE, [])

    def counts(self, sequences):
        """What shows that two rollouts did the same work."""
        answers = [ANSWER.search(self.tokenizer.decode(sequence.turn)) for sequence in sequences]
        right = [bool(a) and a[1].strip() == s.prompt.solution for a, s in zip(answers, sequences)]
        return {
            "sequences": len(sequences),
            "code_runs": sum(sequence.runs for sequence in sequences),
            "images": sum(sequence.images for sequence in sequences),
            "accuracy": round(sum(right) / len(right), 3),
        }


def run_code(code, namespace):
    """(text, images): what the code printed, and the images whose paths it printed."""
    output = io.StringIO()
    try:
        with contextlib.redirect_stdout(output):
            exec(code, namespace)
    except Exception as error:
        print(f"{type(error).__name__}: {error}", file=output)
    lines = output.getvalue().rstrip().split("\n")
    paths = [line for line in lines if line and os.path.isfile(line)]
    images = [Image.open(path).convert("RGB") for path in paths]
    text = "\n".join(line for line in lines if line not in paths)
    return text or ("" if images else NO_OUTPUT), images
