# SPDX-License-Identifier: Apache-2.0
"""Let the model call a Python function: its arguments always fit the schema, whatever the model.

pip install openai
python tools.py "What is 17 times 23?" [--url http://127.0.0.1:8080/v1]
"""

from __future__ import annotations

import argparse
import json
import os
from typing import Any

import openai

CALCULATE: Any = {
    "type": "function",
    "function": {
        "name": "calculate",
        "description": "Compute with two numbers",
        "parameters": {
            "type": "object",
            "properties": {
                "operation": {"enum": ["add", "subtract", "multiply"]},
                "a": {"type": "integer"},
                "b": {"type": "integer"},
            },
            "required": ["operation", "a", "b"],
            "additionalProperties": False,
        },
    },
}


def calculate(operation: str, a: int, b: int) -> int:
    """Compute what the model asked for."""
    return {"add": a + b, "subtract": a - b, "multiply": a * b}[operation]


def main() -> None:
    """Ask, call, and let the model answer with the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("question")
    parser.add_argument("--url", default="http://127.0.0.1:8080/v1")
    options = parser.parse_args()
    client = openai.OpenAI(base_url=options.url, api_key=os.environ.get("RKLLM_EXT_API_KEY", "none"))
    model = client.models.list().data[0].id
    messages: list[Any] = [{"role": "user", "content": options.question}]
    first = client.chat.completions.create(
        model=model,
        messages=messages,
        tools=[CALCULATE],
        tool_choice="required",
        parallel_tool_calls=False,
        max_tokens=100,
    )
    message = first.choices[0].message
    messages.append(message.model_dump(exclude_none=True))
    for call in message.tool_calls or []:
        arguments = json.loads(call.function.arguments)
        result = calculate(**arguments)
        print(f"calculate({arguments}) = {result}")
        messages.append({"role": "tool", "tool_call_id": call.id, "content": str(result)})
    second = client.chat.completions.create(model=model, messages=messages, max_tokens=100)
    print(second.choices[0].message.content)


if __name__ == "__main__":
    main()
