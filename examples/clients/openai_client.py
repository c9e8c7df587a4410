# SPDX-License-Identifier: Apache-2.0
"""Stream an answer with the openai package.

pip install openai
python openai_client.py "Why is the sky blue?" [--url http://127.0.0.1:8080/v1]
"""

from __future__ import annotations

import argparse
import os

import openai


def main() -> None:
    """Print an answer as it comes, then how many tokens it took."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("question")
    parser.add_argument("--url", default="http://127.0.0.1:8080/v1")
    options = parser.parse_args()
    client = openai.OpenAI(base_url=options.url, api_key=os.environ.get("RKLLM_EXT_API_KEY", "none"))
    model = client.models.list().data[0].id
    stream = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": options.question}],
        max_tokens=200,
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"min_p": 0.05},  # an extension: fields that OpenAI does not have go here
    )
    for part in stream:
        if part.choices:
            print(part.choices[0].delta.content or "", end="", flush=True)
        if part.usage is not None:
            print(f"\n[{part.usage.prompt_tokens} tokens read, {part.usage.completion_tokens} written]")


if __name__ == "__main__":
    main()
