# SPDX-License-Identifier: Apache-2.0
"""Answers of a given form: JSON of a schema, a regular expression, a grammar.

The automaton is llguidance (extra `constrain`). Ours is what is around it: the model's own tokens, a mask for each
step, and an end in time when an answer may have only so many tokens.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from ._rkllm import GGUFFile, Multimodal
from .errors import InvalidArgumentError, RKLLMError, UnsupportedModelError
from .options import Form

if TYPE_CHECKING:
    from llguidance import LLMatcher

    from ._rkllm import Array, Handle

_KEPT = 32  # compiled grammars
# Texts whose tokens are looked at as one where a form allows all of them: masks cost less, and are the same.
_SLICES = ("[a-zA-Z ]{1,10}", "[a-zA-Z ]{1,20}")
_LONGEST_END = 256  # tokens that an answer is brought to its end with, at most
_RESERVE = 6  # with so many tokens left beside those that its end takes, an answer is brought to it
_NEAR = 48  # with so many more left, JSON opens nothing new
_CHARACTERS = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_-./+@#!$%&'()*,;<=>?[^`{|~\\ \n"


class TokenTable:
    """A model's tokens, as llguidance asks for them.

    Parameters
    ----------
    tokens : sequence of bytes
        What each id stands for; b"" where an id has no token.
    special : sequence of int
        Ids that no text stands for.
    ends : sequence of int
        Ids that end an answer.
    encode : callable
        UTF-8 text to ids, without special tokens.
    """

    def __init__(
        self,
        tokens: Sequence[bytes],
        special: Sequence[int],
        ends: Sequence[int],
        encode: Callable[[bytes], Iterable[int]],
    ) -> None:
        self.size = len(tokens)
        self.ends = [end for end in ends if 0 <= end < self.size]
        # llguidance needs an end token: where there is none, one that the model cannot choose.
        self.tokens = list(tokens) if self.ends else [*tokens, b"<end>"]
        self.special_token_ids = list(special) if self.ends else [*special, self.size]
        self.eos_token_id = self.ends[0] if self.ends else self.size
        self.bos_token_id = None
        self._encode = encode
        usable = set(range(self.size)) - set(special)
        self.of_byte = {tokens[i]: i for i in sorted(usable, reverse=True) if len(tokens[i]) == 1}
        self.opening = sum(1 << i for i in usable if any(byte in b"{[," for byte in tokens[i]))

    def __call__(self, text: str | bytes) -> list[int]:
        return [int(token) for token in self._encode(text.encode() if isinstance(text, str) else text)]


class Grammars:
    """The forms that a model's answers have been given, compiled."""

    def __init__(self, table: TokenTable) -> None:
        try:
            from llguidance import LLTokenizer, TokenizerWrapper
        except ImportError:
            raise UnsupportedModelError(
                "json_schema, regex and grammar need the package llguidance; pip install 'rkllm_ext[constrain]'"
            ) from None
        self._table = table
        tokenizer = LLTokenizer(TokenizerWrapper(table), eos_token=table.ends or [table.eos_token_id])
        self._tokenizer = tokenizer.with_slices([*LLTokenizer.general_slices(), *_SLICES])
        self._compiled: OrderedDict[Form, LLMatcher] = OrderedDict()

    def constraint(self, form: Form, budget: int | None) -> Constraint:
        """Return what constrains one answer of at most `budget` tokens.

        Raises
        ------
        InvalidArgumentError
            The schema, expression or grammar is wrong, or uses what is not supported; the sentence says what.
        """
        matcher = self._compiled.pop(form, None) or self._compile(*form)
        self._compiled[form] = matcher
        if len(self._compiled) > _KEPT:
            self._compiled.popitem(last=False)
        return Constraint(
            matcher.deep_copy(), self._table, self._tokenizer.tokenize_bytes, form[0] == "json_schema", budget
        )

    def _compile(self, kind: str, text: str) -> LLMatcher:
        from llguidance import LLMatcher

        if not text.strip():
            raise InvalidArgumentError(f"{kind} is empty")
        try:
            if kind == "json_schema":
                grammar = LLMatcher.grammar_from_json_schema(text)
            elif kind == "regex":
                grammar = LLMatcher.grammar_from_regex(text)
            else:
                grammar = LLMatcher.grammar_from_lark(text)
        except ValueError as error:
            raise InvalidArgumentError(f"{kind}: {error}") from None
        matcher = LLMatcher(self._tokenizer, grammar, log_level=0)
        if matcher.is_error():
            raise InvalidArgumentError(f"{kind}: {matcher.get_error()}")
        return matcher


def grammars_of(handle: Handle, path: str) -> Grammars:
    """Return what compiles forms for a loaded model, whose file is at `path`."""
    with GGUFFile(path) as file:
        eos = file.values.get("tokenizer.ggml.eos_token_id")
        ends = file.values.get("rkllm.end_tokens", [] if eos is None else [eos])
    tokens, special = handle.token_table()
    encode = partial(handle.tokenize, parse_special=False)
    return Grammars(TokenTable(tokens, special, [int(end) for end in ends], encode))


def positions_of(handle: Handle, x: str | Array | Multimodal) -> int:
    """Return the number of positions that an input takes at most."""
    if isinstance(x, Multimodal):
        return len(handle.tokenize(x.prompt)) + len(x) + 16 * (1 + x.prompt.count("<image>"))  # tags of each image
    if isinstance(x, str):
        return len(handle.tokenize(x, add_bos=True))
    try:
        return len(memoryview(cast(Any, x)))
    except TypeError:
        return 0  # no input at all, which the run will say


class Constraint:
    """The form of one answer: called before each of its tokens with those chosen since, it returns which may follow.

    An answer that may have `budget` tokens is brought to an end of the right form with the last of them. What a form
    needs at least must fit, and the end is looked for by simple rules: for a regular expression or a grammar it may not
    be found. JSON opens no object, list or element that it need not when it is near its end.

    Attributes
    ----------
    cut : bool
        The answer was brought to its end.
    """

    def __init__(
        self,
        matcher: LLMatcher,
        table: TokenTable,
        encode: Callable[[bytes], list[int]],
        is_json: bool,
        budget: int | None,
    ) -> None:
        self._matcher = matcher
        self._table = table
        self._encode = encode
        self._is_json = is_json
        self._left = budget
        self._look_at = 0 if budget is None else budget  # tokens left when the way to the end is looked for next
        self._near = False
        self._end: list[int] = []
        self.cut = False

    def __call__(self, tokens: Sequence[int]) -> bytes | None:
        """Return a bit for each token, 1 where it may come next; None when nothing may."""
        if tokens:
            self._matcher.consume_tokens(list(tokens))
            if self._left is not None:
                self._left -= len(tokens)
        if self._matcher.is_error():
            raise RKLLMError(f"the constraint of the answer failed: {self._matcher.get_error()}")
        if self._matcher.is_stopped():
            return None
        if self.cut:
            return self._next_of_the_end()
        self._look_ahead()
        if self.cut:
            return self._next_of_the_end()
        mask: bytes = self._matcher.compute_bitmask()
        allowed = int.from_bytes(mask, "little")
        if self._near and self._is_json and allowed & ~self._table.opening:
            allowed &= ~self._table.opening
            mask = allowed.to_bytes(len(mask), "little")
        if not self._table.ends and not allowed & ((1 << self._table.size) - 1):
            return None
        return mask

    def _look_ahead(self) -> None:
        # Find out whether the answer's end is near, or must begin now (cut), when it is time to look.
        if self._left is None or self._left > self._look_at:
            return
        end = self._way_to_the_end()
        if end is None or len(end) > self._left:
            self._look_at = self._left // 2  # there is none, or it is too late
            return
        spare = self._left - len(end) - _RESERVE
        if spare <= 0:
            self._end, self.cut = end, True
        # Until the next look each token may make the way longer: one that opens an object by many, others by few.
        self._near = spare <= _NEAR
        self._look_at = self._left - max(1, spare // 4 if self._near else spare // 8)

    def _next_of_the_end(self) -> bytes | None:
        if not self._end:
            return None
        token = self._end.pop(0)
        return (1 << token).to_bytes(4 * (len(self._table.tokens) // 32 + 1), "little")

    def _way_to_the_end(self) -> list[int] | None:
        # Tokens that complete the answer; None when none are found.
        probe = self._matcher.deep_copy()
        end: list[int] = []
        while not probe.is_accepting():
            forced = probe.compute_ff_bytes()
            step = self._encode(forced) if forced else [self._closing_token(probe)]
            if not probe.consume_tokens(step) or len(end) > _LONGEST_END:
                return None
            end += step
        # As the model would spell it: in fewer tokens than one for each character.
        spelled = self._encode(b"".join(self._table.tokens[token] for token in end)) if end else end
        probe = self._matcher.deep_copy()
        return spelled if probe.consume_tokens(spelled) and probe.is_accepting() else end

    def _closing_token(self, probe: LLMatcher) -> int:
        # A token that leads to an end soon. Asking for single ones costs much less than a mask.
        def first_of(characters: bytes) -> int | None:
            tokens = (self._table.of_byte.get(bytes([character])) for character in characters)
            return next((token for token in tokens if token is not None and probe.validate_tokens([token])), None)

        # Where any letter may stand, it is a text that is to be closed; else a list or object.
        in_text = all(first_of(bytes([letter])) is not None for letter in b"qzXJ")
        found = first_of((b'"' if in_text else b'}]":') + _CHARACTERS)
        if found is not None:
            return found
        allowed = int.from_bytes(probe.compute_bitmask(), "little")
        return (allowed & -allowed).bit_length() - 1
