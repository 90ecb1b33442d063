"""Train `llama-demo` or `gptj-demo`, the models in the package, on the King James Bible: tokenizer, weights, losses.

    OMP_NUM_THREADS=1 python -m training.train_demo OUT_DIR [--model gptj-demo] [--steps 3200] [--seed 1611]

One CPU thread, about forty minutes. The architectures, optimizer and data are stated here and nowhere else;
training/README.md holds what the runs in the repository reached. Needs the extras `engine` and `test`.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    GPTJConfig,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.models.gptj.modeling_gptj import GPTJAttention

from training.corpus import Chapter, kjv_chapters

BOS, EOS = "<s>", "</s>"
VOCAB_SIZE = 1536
MAX_LEN = 2048
HELD_OUT_EVERY = 50
TOKENS_PER_STEP = 4096
SHORT, LONG = 256, 2048
PEAK_LR, FINAL_LR, WARMUP_STEPS = 3e-3, 1e-4, 100
WEIGHT_DECAY = 0.1

CONFIGS: dict[str, PreTrainedConfig] = {
    "llama-demo": LlamaConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=192,
        intermediate_size=384,
        num_hidden_layers=5,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=MAX_LEN,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=1,
    ),
    "gptj-demo": GPTJConfig(
        vocab_size=VOCAB_SIZE,
        n_embd=192,
        n_inner=448,
        n_layer=4,
        n_head=6,
        rotary_dim=16,
        n_positions=MAX_LEN,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        layer_norm_epsilon=1e-5,
        tie_word_embeddings=False,
        bos_token_id=0,
        eos_token_id=1,
    ),
}


class BlockwiseGPTJAttention(GPTJAttention):
    """GPT-J's causal attention without its [length, length] matrix of weights, which training would keep in memory."""

    def _attn(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attention_mask: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, None]:
        """[batch, heads, length, head_dim] each, whole sequences; the mask, always the causal one here, is not read."""
        return torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True), None


def new_model(config: PreTrainedConfig) -> PreTrainedModel:
    """A model of random weights to be trained, in float32."""
    model = AutoModelForCausalLM.from_config(config)
    if isinstance(config, GPTJConfig):
        for index, layer in enumerate(model.transformer.h):
            attention = BlockwiseGPTJAttention(config, index)
            attention.load_state_dict(layer.attn.state_dict())
            layer.attn = attention
    return model


def split_chapters() -> tuple[list[Chapter], list[Chapter]]:
    """Chapters to train on, and every fiftieth, which neither the tokenizer nor the model sees."""
    chapters = kjv_chapters()
    held_out = chapters[HELD_OUT_EVERY // 2 :: HELD_OUT_EVERY]
    return [chapter for chapter in chapters if chapter not in held_out], held_out


def train_tokenizer(chapters: list[Chapter]) -> Tokenizer:
    """Byte-level BPE whose alphabet is all 256 bytes, so that any text can be encoded; puts BOS before a text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[BOS, EOS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(("\n".join(chapter.verses) for chapter in chapters), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    return tokenizer


class Documents:
    """An endless stream of passages as token ids, BOS text EOS: whole chapters and spans of a few verses, half each.

    The spans teach the model to end at a verse's end, the chapters to go on.
    """

    def __init__(self, chapters: list[Chapter], tokenizer: Tokenizer, seed: int) -> None:
        self._random = random.Random(seed)
        self._bos, self._eos = tokenizer.token_to_id(BOS), tokenizer.token_to_id(EOS)
        self._chapters = [
            [e.ids for e in tokenizer.encode_batch([v + "\n" for v in c.verses], add_special_tokens=False)]
            for c in chapters
        ]
        (self._newline,) = tokenizer.encode("\n", add_special_tokens=False).ids
        self._stream = self._passages()
        self._rest: list[int] = []

    def batch(self, length: int) -> torch.Tensor:
        """[TOKENS_PER_STEP / length, length + 1] int64 consecutive tokens of the stream."""
        rows = [self._take(length + 1) for _ in range(TOKENS_PER_STEP // length)]
        return torch.tensor(rows)

    def _take(self, count: int) -> list[int]:
        while len(self._rest) < count:
            self._rest += next(self._stream)
        taken, self._rest = self._rest[:count], self._rest[count:]
        return taken

    def _passages(self) -> Iterator[list[int]]:
        while True:
            for chapter in self._random.sample(self._chapters, len(self._chapters)):
                whole = self._random.random() < 0.5
                yield from ([self._passage(chapter)] if whole else self._spans(chapter))

    def _spans(self, chapter: list[list[int]]) -> Iterator[list[int]]:
        begin = 0
        while begin < len(chapter):
            size = 1 + int(self._random.expovariate(1 / 3))
            yield self._passage(chapter[begin : begin + size])
            begin += size

    def _passage(self, verses: list[list[int]]) -> list[int]:
        """Verses joined by newlines; the last verse's newline gives way to EOS."""
        ids = [token for verse in verses for token in verse]
        assert ids[-1] == self._newline
        return [self._bos, *ids[:-1], self._eos]


def learning_rate(step: int, num_steps: int) -> float:
    """Linear warm-up, then a cosine from `PEAK_LR` to `FINAL_LR`."""
    if step < WARMUP_STEPS:
        return PEAK_LR * (step + 1) / WARMUP_STEPS
    progress = (step - WARMUP_STEPS) / max(1, num_steps - WARMUP_STEPS)
    return FINAL_LR + (PEAK_LR - FINAL_LR) * 0.5 * (1 + math.cos(math.pi * progress))


def sequence_length(step: int, num_steps: int) -> int:
    """Every eighth step is of long sequences, every third in the last quarter, so that position 2,000 is known too."""
    return LONG if step % (3 if step > 0.75 * num_steps else 8) == 2 else SHORT


def make_optimizer(model: torch.nn.Module) -> torch.optim.AdamW:
    """AdamW; vectors (norms, biases) without weight decay."""
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() <= 1]
    groups = [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=PEAK_LR, betas=(0.9, 0.95))


def train(
    model: PreTrainedModel, documents: Documents, num_steps: int, after_step: Callable[[int, float], None]
) -> None:
    """Run `num_steps` steps of TOKENS_PER_STEP tokens; `after_step(step, loss)` is called after each."""
    optimizer = make_optimizer(model)
    for step in range(num_steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, num_steps)
        tokens = documents.batch(sequence_length(step, num_steps))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model(tokens[:, :-1], use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), tokens[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        after_step(step, float(loss.detach()))


@torch.no_grad()
def bits_per_byte(model: PreTrainedModel, tokenizer: Tokenizer, chapters: list[Chapter]) -> float:
    """Code length of whole chapters, end of text included, per byte; in the weights' own precision."""
    bits, num_bytes = 0.0, 0
    for chapter in chapters:
        text = "\n".join(chapter.verses)
        ids = torch.tensor([*tokenizer.encode(text).ids, tokenizer.token_to_id(EOS)])[: MAX_LEN + 1]
        logits = model(ids[None, :-1], use_cache=False).logits[0].float()
        bits += float(torch.nn.functional.cross_entropy(logits, ids[1:], reduction="sum")) / math.log(2)
        num_bytes += len(tokenizer.decode(ids.tolist()).encode())
    return bits / num_bytes


def save(model: PreTrainedModel, tokenizer: Tokenizer, out: Path) -> None:
    """A Hugging Face directory with float16 weights."""
    rounded = type(model)(model.config).half()
    rounded.load_state_dict(model.state_dict())
    rounded.generation_config = GenerationConfig(bos_token_id=0, eos_token_id=1)
    rounded.save_pretrained(out)
    tokenizer.save(str(out / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS,
        "eos_token": EOS,
        "model_max_length": MAX_LEN,
        "clean_up_tokenization_spaces": False,
    }
    (out / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")


def main() -> None:
    """Train, and write OUT_DIR at checkpoints and at the end, with report.json beside the weights."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", choices=CONFIGS, default="llama-demo")
    parser.add_argument("--steps", type=int, default=3200)
    parser.add_argument("--seed", type=int, default=1611)
    parser.add_argument("--checkpoint-every", type=int, default=400)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    training, held_out = split_chapters()
    tokenizer = train_tokenizer(training)
    documents = Documents(training, tokenizer, args.seed)
    model = new_model(CONFIGS[args.model])
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, vocabulary {tokenizer.get_vocab_size()}")
    begin = time.perf_counter()

    def after_step(step: int, loss: float) -> None:
        if step % 50 == 0:
            print(f"step {step} loss {loss:.3f} {time.perf_counter() - begin:.0f} s", flush=True)
        if (step + 1) % args.checkpoint_every == 0:
            report(step + 1)

    def report(step: int) -> None:
        save(model, tokenizer, args.out)
        stored = AutoModelForCausalLM.from_pretrained(args.out, dtype=torch.float32)
        figures = {
            "steps": step,
            "seed": args.seed,
            "seconds": round(time.perf_counter() - begin),
            "held_out_bits_per_byte": round(bits_per_byte(stored, tokenizer, held_out), 4),
            "training_bits_per_byte": round(bits_per_byte(stored, tokenizer, training[::HELD_OUT_EVERY]), 4),
        }
        (args.out.parent / f"{args.out.name}.report.json").write_text(json.dumps(figures, indent=2) + "\n")
        print(figures, flush=True)

    train(model, documents, args.steps, after_step)
    if args.steps % args.checkpoint_every:
        report(args.steps)


if __name__ == "__main__":
    main()
