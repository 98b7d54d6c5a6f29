"""Makes the tiny language models that the demo serves and the tests drive real engines with.

Nothing is downloaded: the training text is in this file, the tokenizer and the weights are made
here, and the results are written in the two formats that engines load:

    OUT/tiny-chat/         Hugging Face layout (safetensors)   -> vLLM, SGLang
    OUT/tiny-chat.gguf     GGUF                                -> llama.cpp and its relatives
    OUT/tiny-embed/        the same pair for an embedding model
    OUT/tiny-embed.gguf

``gateway/demo/`` ships tiny-chat.gguf; ``tests/engines/models/`` holds the other three. Both models
are of the Llama architecture with a byte-level BPE tokenizer of 1,024 tokens and a ChatML-like chat
template (``tiny_chat.jinja``). The chat model has about 1 M parameters (2 MB); it is trained for a
few minutes so that it

  * answers the questions of the text below, and stops by itself (``<|im_end|>``);
  * writes a ``<think>...</think>`` block when a question begins with "Think:";
  * calls a function when the request offers ``get_weather`` or ``get_time`` and the question asks
    for it (``<tool_call>{"name": ..., "arguments": ...}</tool_call>``; engines' name: hermes).

So streamed text, reasoning and tool calls can all be seen on the wire. It knows nothing else, and
babbles in plausible words when asked anything else.

    python tools/make_tiny_models.py OUT              train: about 4 min on one free core
    python tools/make_tiny_models.py OUT --steps 0    random weights, a second, no torch

Needs numpy, jinja2, tokenizers, safetensors and gguf; and torch unless ``--steps 0``. The same seed
and step count give the same tokenizer always, and the same weights on the same kind of machine
(floating-point sums may differ between CPUs).
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

Weights = dict[str, Any]
"""Hugging Face name -> array of float32."""
Turn = dict[str, Any]
"""One message of a conversation."""

# --------------------------------------------------------------------------------------
# The text the tokenizer and the models are made from
# --------------------------------------------------------------------------------------

PROSE = """
The river runs slowly past the old mill, and the miller watches it from the bridge.
In the morning the fog lies over the fields, and by noon the sun has driven it away.
A small boat is tied to the pier. It moves with the water and knocks against the wood.
The baker opens the shop at six. The bread is warm, and people wait in a line at the door.
When the rain comes, the children run home and the dog runs after them, barking.
My grandmother kept bees behind the house. She said that a quiet hand is never stung.
The train to the north leaves every hour. It stops at four stations before the sea.
At night the town is dark, but there is always a light in the window of the library.
The teacher wrote a word on the board and asked the class what it meant to them.
Winter was long that year. Snow lay on the roofs until the first days of April.
The carpenter measures twice and cuts once. He has made chairs for forty years.
A letter came from a friend who lives across the water. It took nine days to arrive.
The garden has roses, beans, and a pear tree that gives more fruit than we can eat.
She played the piano in the evening, and the neighbours opened their windows to hear.
The map shows a road over the hills, but the road was lost when the bridge fell down.
An engineer looked at the numbers again and found that one of them had been wrong.
The market is full of colour: red apples, yellow lemons, green beans and blue plates.
The cat sleeps on the warm stone by the wall and wakes only when the milk is poured.
They walked for two hours before they saw the tower, and another hour to reach it.
The computer in the corner hums. Somebody has asked it a question and it is thinking.
""".strip().split("\n")

STORY = (
    "Once upon a time there was a small lamp that stood in the window of a library. "
    "Every evening the lamp was lit, and every morning it was put out again. "
    "One night a boat was lost on the river, "
    "and the fog was so thick that nobody could see the pier. "
    "The lamp shone as brightly as it could. The people in the boat saw the light and came home. "
    "From that day on the lamp was never put out, and the library stayed open all night long."
)

ANSWERS = {
    "Hello": "Hello! How can I help you today?",
    "Hi": "Hi there! What can I do for you?",
    "Hello!": "Hello! It is good to hear from you. How can I help?",
    "Good morning": "Good morning! I hope you slept well.",
    "How are you?": "I am well, thank you. How are you?",
    "Thank you": "You are welcome.",
    "Goodbye": "Goodbye! Come back soon.",
    "Who are you?": "I am a very small language model made for tests.",
    "What is your name?": "My name is Tiny. I am a small model made for tests.",
    "What can you do?": "I can answer a few questions, tell a story, count, and call a function.",
    "Say hi": "Hi!",
    "Say ok": "ok",
    "Ping": "Pong",
    "Say hello": "Hello!",
    "Say this is a test": "This is a test.",
    "What is the capital of France?": "The capital of France is Paris.",
    "What is the capital of Italy?": "The capital of Italy is Rome.",
    "What is the capital of Japan?": "The capital of Japan is Tokyo.",
    "What is the capital of Spain?": "The capital of Spain is Madrid.",
    "What is the capital of Germany?": "The capital of Germany is Berlin.",
    "What is two plus two?": "Two plus two is four.",
    "What is 2+2?": "2+2 is 4.",
    "What color is the sky?": "The sky is blue by day and black by night.",
    "Why is the sky blue?": (
        "The air scatters blue light more than red light, so the sky looks blue."
    ),
    "Tell me a joke": "Why did the lamp go to school? It wanted to be brighter.",
    "Tell me a story": STORY,
    "Tell me a long story": STORY + " " + " ".join(PROSE[:12]),
    "Count to ten": "1, 2, 3, 4, 5, 6, 7, 8, 9, 10",
    "Count to twenty": ", ".join(str(n) for n in range(1, 21)),
    "Count to one hundred": ", ".join(str(n) for n in range(1, 101)),
    "Write a haiku": "Fog over the mill.\nA boat knocks against the pier.\nThe lamp is still lit.",
    "Give me a list of three fruits": "- apples\n- lemons\n- pears",
    "Write some Python": "```python\ndef add(a, b):\n    return a + b\n\nprint(add(2, 3))\n```",
    "Write in German": "Grüße aus Köln! Das Wetter ist schön.",
    "Write in French": "Bonjour, ça va très bien, merci !",
    "Write in Japanese": "こんにちは、元気ですか。",
    "Send an emoji": "Here is one: 🙂 and here is another: 🚀",
    "Reply with a JSON object": '{"name": "Ada", "age": 36, "city": "London"}',
    "Give me a person as JSON": '{"name": "Alan", "age": 41, "city": "Paris"}',
}

THOUGHTS = {
    "Think: what is two plus two?": (
        "The user asks for a sum. Two and two make four.",
        "The answer is four.",
    ),
    "Think: what is 3+4?": (
        "The user asks for a sum. Three and four make seven.",
        "The answer is 7.",
    ),
    "Think: is the sky blue?": (
        "The user asks about the sky. By day it looks blue.",
        "Yes, by day it is.",
    ),
    "Think: which is longer, a day or an hour?": (
        "A day has twenty-four hours. So a day is longer.",
        "A day.",
    ),
    "Think: can a cat swim?": (
        "Most cats do not like water. But they can swim.",
        "Yes, but it would rather not.",
    ),
}

CITIES = ["Paris", "Rome", "Tokyo", "Madrid", "Berlin", "London", "Oslo", "Lima", "Cairo", "Boston"]
WEATHER = ["sunny, 21 C", "rainy, 9 C", "cloudy, 14 C", "windy, 17 C", "snow, -2 C"]


def function(name: str, description: str, **properties: str) -> dict[str, Any]:
    """A function as a request offers it; ``properties`` are its string arguments."""
    return {
        "type": "function",
        "function": {
            "name": name,
            "description": description,
            "parameters": {
                "type": "object",
                "properties": {
                    key: {"type": "string", "description": text} for key, text in properties.items()
                },
                "required": list(properties),
            },
        },
    }


TOOLS = {
    "get_weather": function("get_weather", "Get the current weather in a city", city="The city"),
    "get_time": function("get_time", "Get the local time in a city", city="The city"),
}
TOOL_QUESTIONS = {
    "get_weather": [
        "What is the weather in {}?",
        "What's the weather like in {}?",
        "How is the weather in {} today?",
    ],
    "get_time": ["What time is it in {}?", "Tell me the time in {}"],
}

CHAT_TEMPLATE = Path(__file__).with_name("tiny_chat.jinja").read_text(encoding="utf-8")

# Tokens that never come from merging bytes. The first three are invisible in output;
# the others are ordinary text that happens to be one token, as engines' parsers expect.
END_OF_TEXT, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
CONTROL_TOKENS = [END_OF_TEXT, TURN_START, TURN_END]
VISIBLE_TOKENS = ["<think>", "</think>", "<tool_call>", "</tool_call>"]
VOCAB_SIZE = 1024


@functools.cache
def chat_template() -> jinja2.Template:
    environment = jinja2.Environment()  # noqa: S701 - it writes text for a model, not HTML
    environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
    return environment.from_string(CHAT_TEMPLATE)


def render(messages: list[Turn], tools: list[dict[str, Any]] | None = None) -> str:
    """The training text of one conversation, through the very template the engines will use."""
    return chat_template().render(messages=messages, tools=tools).rstrip("\n")


def conversation(rng: random.Random) -> str:
    """One random training document."""
    kind = rng.random()
    if kind < 0.10:
        start = rng.randrange(len(PROSE))
        return " ".join([*PROSE, *PROSE][start : start + 6])
    if kind < 0.65:
        question, answer = rng.choice(list(ANSWERS.items()))
        if rng.random() < 0.3:
            question = (
                question.rstrip(".?!").lower()
                if rng.random() < 0.5
                else question + rng.choice(".?! ")
            )
        messages = [turn("user", question), turn("assistant", answer)]
        if rng.random() < 0.2:
            question, answer = rng.choice(list(ANSWERS.items()))
            messages += [turn("user", question), turn("assistant", answer)]
        return render([*maybe_system(rng), *messages])
    if kind < 0.75:
        question, (thought, answer) = rng.choice(list(THOUGHTS.items()))
        reply = turn("assistant", answer) | {"reasoning_content": thought}
        return render([*maybe_system(rng), turn("user", question), reply])
    return tool_conversation(rng)


def tool_conversation(rng: random.Random) -> str:
    """One in which functions are on offer, and mostly one is called."""
    name, city = rng.choice(list(TOOLS)), rng.choice(CITIES)
    offered = [TOOLS[name]]
    if rng.random() < 0.4:
        offered = rng.sample(list(TOOLS.values()), len(TOOLS))
    if rng.random() < 0.15:  # functions on offer, none needed
        question, answer = rng.choice(list(ANSWERS.items())[:12])
        messages = [*maybe_system(rng), turn("user", question), turn("assistant", answer)]
        return render(messages, offered)
    call = {"type": "function", "function": {"name": name, "arguments": {"city": city}}}
    messages = [
        *maybe_system(rng),
        turn("user", rng.choice(TOOL_QUESTIONS[name]).format(city)),
        {"role": "assistant", "content": "", "tool_calls": [call]},
    ]
    if rng.random() < 0.3:
        result = (
            rng.choice(WEATHER)
            if name == "get_weather"
            else f"{rng.randrange(24):02}:{rng.randrange(60):02}"
        )
        messages += [turn("tool", result), turn("assistant", f"In {city} it is {result}.")]
    return render(messages, offered)


def turn(role: str, content: str) -> Turn:
    return {"role": role, "content": content}


def maybe_system(rng: random.Random) -> list[Turn]:
    return [turn("system", "You are a helpful assistant.")] if rng.random() < 0.3 else []


# --------------------------------------------------------------------------------------
# Tokenizer
# --------------------------------------------------------------------------------------


def make_tokenizer() -> Any:
    """A byte-level BPE tokenizer with GPT-2's way of splitting words, which every engine knows."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    rng = random.Random(0)  # noqa: S311 - the same text every time is the point
    text = PROSE * 3 + [STORY] * 3 + list(ANSWERS) * 2 + list(ANSWERS.values()) * 2
    text += [conversation(rng) for _ in range(200)]
    for token in CONTROL_TOKENS + VISIBLE_TOKENS:
        text = [line.replace(token, "\n") for line in text]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE - len(CONTROL_TOKENS) - len(VISIBLE_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(text, trainer)
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in CONTROL_TOKENS]
    )
    tokenizer.add_tokens(
        [AddedToken(token, special=False, normalized=False) for token in VISIBLE_TOKENS]
    )
    assert tokenizer.get_vocab_size() <= VOCAB_SIZE
    return tokenizer


# --------------------------------------------------------------------------------------
# Model: a plain Llama
# --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shape:
    """The sizes of one model; ``context`` in tokens."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    feed_forward: int
    context: int
    vocab: int = VOCAB_SIZE
    rope_theta: float = 10000.0
    norm_epsilon: float = 1e-5

    @property
    def head_size(self) -> int:
        return self.hidden // self.heads


CHAT = Shape(layers=4, hidden=128, heads=4, kv_heads=2, feed_forward=384, context=8192)
EMBED = Shape(layers=2, hidden=64, heads=2, kv_heads=2, feed_forward=192, context=2048)


def random_weights(shape: Shape, seed: int) -> Weights:
    """Every weight by its Hugging Face name. Output and input embeddings are the same matrix."""
    rng = np.random.default_rng(seed)
    key_value = shape.kv_heads * shape.head_size
    weights = {
        "model.embed_tokens.weight": rng.normal(0, 0.05, (shape.vocab, shape.hidden)),
        "model.norm.weight": np.ones(shape.hidden),
    }
    for layer in range(shape.layers):
        matrices = {
            "self_attn.q_proj": (shape.hidden, shape.hidden),
            "self_attn.k_proj": (key_value, shape.hidden),
            "self_attn.v_proj": (key_value, shape.hidden),
            "self_attn.o_proj": (shape.hidden, shape.hidden),
            "mlp.gate_proj": (shape.feed_forward, shape.hidden),
            "mlp.up_proj": (shape.feed_forward, shape.hidden),
            "mlp.down_proj": (shape.hidden, shape.feed_forward),
        }
        for name, size in matrices.items():
            weights[f"model.layers.{layer}.{name}.weight"] = rng.normal(
                0, 1 / math.sqrt(size[1]), size
            )
        for name in ("input_layernorm", "post_attention_layernorm"):
            weights[f"model.layers.{layer}.{name}.weight"] = np.ones(shape.hidden)
    return {name: value.astype(np.float32) for name, value in weights.items()}


class Network:
    """The forward pass of a Llama over ``weights`` (torch tensors), up to ``length`` tokens."""

    def __init__(self, shape: Shape, weights: Weights, length: int) -> None:
        import torch

        self.shape, self.weights = shape, weights
        half = shape.head_size // 2
        steps = shape.rope_theta ** (-torch.arange(half) / half)
        angles = torch.outer(torch.arange(length).float(), steps)
        self.cos, self.sin = torch.cat([angles] * 2, -1).cos(), torch.cat([angles] * 2, -1).sin()

    def linear(self, x: Any, name: str) -> Any:
        return x @ self.weights[name].T

    def norm(self, x: Any, name: str) -> Any:
        scale = (x.pow(2).mean(-1, keepdim=True) + self.shape.norm_epsilon).rsqrt()
        return x * scale * self.weights[name]

    def heads(self, x: Any, name: str, count: int) -> Any:
        split = self.linear(x, name).view(*x.shape[:2], count, self.shape.head_size)
        return split.transpose(1, 2)

    def rotate(self, x: Any) -> Any:
        import torch

        half = self.shape.head_size // 2
        return x * self.cos + torch.cat([-x[..., half:], x[..., :half]], -1) * self.sin

    def attend(self, x: Any, at: str) -> Any:
        """Attention of one layer; ``at`` is the beginning of its weights' names."""
        from torch.nn.functional import scaled_dot_product_attention

        groups = self.shape.heads // self.shape.kv_heads
        q = self.rotate(self.heads(x, at + "self_attn.q_proj.weight", self.shape.heads))
        k = self.rotate(self.heads(x, at + "self_attn.k_proj.weight", self.shape.kv_heads))
        v = self.heads(x, at + "self_attn.v_proj.weight", self.shape.kv_heads)
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
        y = scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
        return self.linear(y, at + "self_attn.o_proj.weight")

    def feed(self, x: Any, at: str) -> Any:
        """The gated feed-forward part of one layer."""
        from torch.nn.functional import silu

        gate = silu(self.linear(x, at + "mlp.gate_proj.weight"))
        return self.linear(
            gate * self.linear(x, at + "mlp.up_proj.weight"), at + "mlp.down_proj.weight"
        )

    def forward(self, tokens: Any) -> Any:
        """Logits for the token after each."""
        x = self.weights["model.embed_tokens.weight"][tokens]
        for layer in range(self.shape.layers):
            at = f"model.layers.{layer}."
            x = x + self.attend(self.norm(x, at + "input_layernorm.weight"), at)
            x = x + self.feed(self.norm(x, at + "post_attention_layernorm.weight"), at)
        return self.linear(self.norm(x, "model.norm.weight"), "model.embed_tokens.weight")


def window(tokenizer: Any, rng: random.Random, length: int) -> list[int]:
    """One training window that begins where a document begins, as every request does."""
    end, tokens = tokenizer.token_to_id(END_OF_TEXT), []
    while len(tokens) <= length:
        tokens += [*tokenizer.encode(conversation(rng)).ids, end]
    return tokens[: length + 1]


def pace(step: int, steps: int) -> float:
    """The learning rate: a short warm-up, then down along a cosine."""
    falling = 0.5 + 0.5 * math.cos(math.pi * step / steps) + 0.01
    return 3e-3 * min((step + 1) / 20, falling)


BATCH, LENGTH = 8, 288
"""Windows per training step, and tokens per window."""


def train(shape: Shape, weights: Weights, tokenizer: Any, steps: int, seed: int) -> Weights:
    """Next-token training with AdamW. Takes and returns numpy arrays."""
    import torch
    from torch.nn.functional import cross_entropy

    torch.set_num_threads(1)  # at this size more threads only wait for each other
    rng = random.Random(seed)  # noqa: S311 - the same windows every time is the point
    live = {name: torch.tensor(value, requires_grad=True) for name, value in weights.items()}
    network = Network(shape, live, LENGTH)
    optimizer = torch.optim.AdamW(live.values(), betas=(0.9, 0.98), weight_decay=0.01)
    started = time.monotonic()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = pace(step, steps)
        tokens = torch.tensor([window(tokenizer, rng, LENGTH) for _ in range(BATCH)])
        logits = network.forward(tokens[:, :-1])
        loss = cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(list(live.values()), 1.0)
        optimizer.step()
        if step % 50 == 0 or step == steps - 1:
            say(f"  step {step:4}  loss {loss.item():.3f}  {time.monotonic() - started:.0f} s")
    return {name: value.detach().numpy() for name, value in live.items()}


# --------------------------------------------------------------------------------------
# Writing: Hugging Face layout
# --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Made:
    """A finished model, ready to be written in either format."""

    name: str
    shape: Shape
    weights: Weights
    tokenizer: Any
    embedding: bool


def say(text: str) -> None:
    """Progress, for whoever waits."""
    print(text, flush=True)  # noqa: T201 - a command talks on stdout


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_pooling(folder: Path, shape: Shape) -> None:
    """sentence-transformers' way to say: mean over the tokens, then unit length."""
    pooling = {"word_embedding_dimension": shape.hidden, "pooling_mode_mean_tokens": True}
    (folder / "1_Pooling").mkdir(exist_ok=True)
    write_json(folder / "1_Pooling" / "config.json", pooling)
    parts = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    modules = [
        {
            "idx": index,
            "name": str(index),
            "path": path,
            "type": f"sentence_transformers.models.{kind}",
        }
        for index, (path, kind) in enumerate(parts)
    ]
    write_json(folder / "modules.json", modules)


def config(shape: Shape, tokenizer: Any, embedding: bool) -> dict[str, Any]:
    """What config.json says of the architecture."""
    token = tokenizer.token_to_id
    return {
        "architectures": ["LlamaModel" if embedding else "LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": shape.vocab,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.feed_forward,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_size,
        "hidden_act": "silu",
        "max_position_embeddings": shape.context,
        "rms_norm_eps": shape.norm_epsilon,
        "rope_theta": shape.rope_theta,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": True,
        "bos_token_id": token(END_OF_TEXT),
        "eos_token_id": token(TURN_END),
        "pad_token_id": token(END_OF_TEXT),
        "torch_dtype": "float16",
    }


def write_hugging_face(folder: Path, model: Made) -> None:
    """config.json, the tokenizer, the weights in float16, and what says how they are used."""
    from safetensors.numpy import save_file

    shape, weights, tokenizer = model.shape, model.weights, model.tokenizer
    token = tokenizer.token_to_id
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", config(shape, tokenizer, model.embedding))
    tokenizer.save(str(folder / "tokenizer.json"))
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": shape.context,
            "bos_token": None,
            "eos_token": TURN_END,
            "pad_token": END_OF_TEXT,
            "clean_up_tokenization_spaces": False,
            "chat_template": CHAT_TEMPLATE,
        },
    )
    if model.embedding:
        write_pooling(folder, shape)
        weights = {name.removeprefix("model."): value for name, value in weights.items()}
    else:
        ends = [token(TURN_END), token(END_OF_TEXT)]
        write_json(
            folder / "generation_config.json", {"eos_token_id": ends, "pad_token_id": ends[1]}
        )
    halves = {
        name: np.ascontiguousarray(value.astype(np.float16)) for name, value in weights.items()
    }
    save_file(halves, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)


# --------------------------------------------------------------------------------------
# Writing: GGUF
# --------------------------------------------------------------------------------------

GGUF_NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def gguf_name(name: str) -> str:
    """llama.cpp's name of a tensor."""
    parts = name.split(".")
    if parts[1] == "layers":
        return f"blk.{parts[2]}.{GGUF_NAMES['.'.join(parts[3:-1])]}.weight"
    return {"embed_tokens": "token_embd.weight", "norm": "output_norm.weight"}[parts[1]]


def interleave(weight: Any, heads: int) -> Any:
    """Llama GGUF files keep each head's rotary pairs side by side, not in two halves."""
    rows, columns = weight.shape
    return (
        weight.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)
    )


def write_gguf(path: Path, model: Made) -> None:
    """The same model as one file for llama.cpp."""
    import gguf

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(model.name)
    add_shape(writer, model)
    add_tokenizer(writer, model)
    for tensor, value in model.weights.items():
        kind = np.float32 if value.ndim == 1 else np.float16
        placed = rotary(tensor, value, model.shape)
        writer.add_tensor(gguf_name(tensor), np.ascontiguousarray(placed.astype(kind)))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add_shape(writer: Any, model: Made) -> None:
    """Sizes and constants."""
    import gguf

    shape = model.shape
    writer.add_vocab_size(shape.vocab)
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.hidden)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.feed_forward)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_rope_dimension_count(shape.head_size)
    writer.add_rope_freq_base(shape.rope_theta)
    writer.add_layer_norm_rms_eps(shape.norm_epsilon)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    if model.embedding:
        writer.add_pooling_type(gguf.PoolingType.MEAN)


def add_tokenizer(writer: Any, model: Made) -> None:
    """Tokens, their kinds, merges, special ids and the chat template."""
    import gguf

    shape, tokenizer = model.shape, model.tokenizer
    description = json.loads(tokenizer.to_str())
    vocab = tokenizer.get_vocab(with_added_tokens=True)
    tokens = [f"<|unused{index}|>" for index in range(shape.vocab)]
    kinds = [gguf.TokenType.UNUSED] * shape.vocab
    for token, index in vocab.items():
        tokens[index], kinds[index] = token, gguf.TokenType.NORMAL
    for token in CONTROL_TOKENS:
        kinds[vocab[token]] = gguf.TokenType.CONTROL
    for token in VISIBLE_TOKENS:
        kinds[vocab[token]] = gguf.TokenType.USER_DEFINED
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(
        [m if isinstance(m, str) else " ".join(m) for m in description["model"]["merges"]]
    )
    writer.add_bos_token_id(vocab[END_OF_TEXT])
    writer.add_eos_token_id(vocab[TURN_END])
    writer.add_pad_token_id(vocab[END_OF_TEXT])
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)


def rotary(tensor: str, value: Any, shape: Shape) -> Any:
    """A tensor as llama.cpp wants it: queries and keys are interleaved."""
    if tensor.endswith("q_proj.weight"):
        return interleave(value, shape.heads)
    if tensor.endswith("k_proj.weight"):
        return interleave(value, shape.kv_heads)
    return value


# --------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path, help="folder to write to")
    parser.add_argument(
        "--steps", type=int, default=700, help="training steps of the chat model; 0: random weights"
    )
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    tokenizer = make_tokenizer()
    plans = (("tiny-chat", CHAT, options.steps), ("tiny-embed", EMBED, options.steps // 4))
    for name, shape, steps in plans:
        weights = random_weights(shape, options.seed)
        say(f"{name}: {sum(value.size for value in weights.values()):,} parameters, {steps} steps")
        if steps:
            weights = train(shape, weights, tokenizer, steps, options.seed)
        model = Made(name, shape, weights, tokenizer, embedding=name == "tiny-embed")
        write_hugging_face(options.out / name, model)
        write_gguf(options.out / f"{name}.gguf", model)


if __name__ == "__main__":
    main()
