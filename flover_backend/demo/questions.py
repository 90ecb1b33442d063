"""What the demo asks: short questions of general knowledge whose answers differ in length."""

from __future__ import annotations

QUESTIONS = (
    "What is the capital of France?",
    "Why is the sky blue?",
    "What is gravity?",
    "What is the currency of the United Kingdom?",
    "What is photosynthesis?",
    "Name three primary colors.",
    "What is the chemical formula of water?",
    "How do birds fly?",
    "What is the capital of Japan?",
    "What is a democracy?",
    "Describe a cat in one sentence.",
    "What is DNA?",
    "What is the internet?",
    "What is the boiling point of water in Celsius?",
    "How do vaccines work?",
    "What is the largest ocean on Earth?",
    "Who painted the Starry Night?",
    "What is recycling?",
    "What is an atom?",
    "What is the chemical symbol for gold?",
    "What is bread made of?",
    "What is the water cycle?",
    "What is the capital of Egypt?",
    "Write one sentence about the sea.",
)
