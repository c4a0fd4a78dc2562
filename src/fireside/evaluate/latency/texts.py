"""What is said when nobody brings texts of their own: short and longer, English, Mandarin, and mixed."""

from __future__ import annotations

TEXTS = (
    "Good evening. The fire is lit, and there is tea.",
    "The kettle sings a little before it boils.",
    "Nobody had told her that the last train left at nine.",
    "今天天气很好，我们去公园走走吧。",
    "请把窗户关上，外面风很大。",
    "He counted the stairs twice and found one more each time.",
    "If it rains tomorrow, we will read by the window. If it does not, we will walk to the mill and back.",
    "这本书我已经看了三遍，每一遍都有新的发现。",
    "We can have a meeting tomorrow, 好不好？",
    "She wrote the letter slowly, and never sent it.",
)
