# SPDX-License-Identifier: Apache-2.0
# Prompts with images.


cdef class Multimodal:
    """A prompt and the embeddings of its images, an input of `generate`, `stream` and `Session.prefill`.

    Parameters
    ----------
    prompt : str
        Text with one `<image>` for each image, where it belongs.
    image_embed : float32 [n, dim] or [images, n, dim], or a list of float32 [n, dim]
        What the vision encoder gave. One array of two dimensions is shared by the placeholders in equal parts; a list
        has an item for each image, which may differ in length, and is copied. A single array is used where it lies and
        must not change before the run has ended.

    Raises
    ------
    InvalidArgumentError
        The prompt is no text, or the embeddings are of other types or shapes. Whether they fit the placeholders and the
        model is found out by the run.

    Examples
    --------
    >>> question = Multimodal("What is in this picture? <image>", embeddings)
    >>> answer = llm.generate(question)
    """

    cdef readonly str prompt
    cdef readonly str image_tokens  # the option of this name: embeddings of each image, or "" for equal parts
    cdef Buffer buffer
    cdef size_t rows
    cdef size_t dim

    def __init__(self, prompt, image_embed):
        if not isinstance(prompt, str):
            raise InvalidArgumentError(f"the prompt is a {type(prompt).__name__}; a str is needed")
        self.prompt = prompt
        self.image_tokens = ""
        if isinstance(image_embed, (list, tuple)):
            self.join(image_embed)
            return
        self.buffer = hold(image_embed, "image_embed")
        cdef int ndim = self.buffer.view.ndim
        check_array(self.buffer, "image_embed", "float32", 3 if ndim == 3 else 2)
        self.dim = self.buffer.view.shape[ndim - 1]
        self.rows = self.buffer.view.len // (4 * self.dim)
        if ndim == 3:
            self.image_tokens = ",".join([str(self.buffer.view.shape[1])] * self.buffer.view.shape[0])

    cdef int join(self, object images) except -1:
        # One after another into memory of our own.
        cdef Buffer image
        cdef list held = [hold_array(one, f"image_embed[{number}]", "float32", 2) for number, one in enumerate(images)]
        if not held:
            raise InvalidArgumentError("image_embed is an empty list; at least one image is needed")
        joined = bytearray()
        counts = []
        self.dim = (<Buffer>held[0]).view.shape[1]
        for index, image in enumerate(held):
            if <size_t>image.view.shape[1] != self.dim:
                raise InvalidArgumentError(
                    f"image_embed[{index}] has rows of {image.view.shape[1]}; those of image_embed[0] are {self.dim}")
            joined += (<char*>image.view.buf)[:image.view.len]
            counts.append(image.view.shape[0])
        self.rows = sum(counts)
        self.buffer = hold(joined, "image_embed")
        self.image_tokens = ",".join(map(str, counts))
        return 0

    def __len__(self):
        """Return the number of embeddings of all images."""
        return self.rows

    def __repr__(self):
        return f"Multimodal({self.prompt!r}, {self.rows} embeddings of {self.dim})"
