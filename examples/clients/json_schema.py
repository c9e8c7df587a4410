# SPDX-License-Identifier: Apache-2.0
"""Get an answer that is a JSON object of a given schema, as a Python object.

pip install openai
python json_schema.py "A red bicycle for 120 euros" [--url http://127.0.0.1:8080/v1]
"""

from __future__ import annotations

import argparse
import os
from typing import Literal

import openai
from pydantic import BaseModel, ConfigDict


class Offer(BaseModel):
    """What is to be found in a text."""

    model_config = ConfigDict(extra="forbid")
    thing: str
    colour: Literal["red", "green", "blue", "other"]
    price: int


def main() -> None:
    """Print what the model has found in a text."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("text")
    parser.add_argument("--url", default="http://127.0.0.1:8080/v1")
    options = parser.parse_args()
    client = openai.OpenAI(base_url=options.url, api_key=os.environ.get("RKLLM_EXT_API_KEY", "none"))
    answer = client.chat.completions.parse(
        model=client.models.list().data[0].id,
        messages=[{"role": "user", "content": f"Write this as JSON with thing, colour and price: {options.text}"}],
        response_format=Offer,
        temperature=0,
        max_completion_tokens=100,
    )
    print(answer.choices[0].message.parsed)


if __name__ == "__main__":
    main()
