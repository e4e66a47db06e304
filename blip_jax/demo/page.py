"""The page: a tab for each thing that the models can do."""

import functools
import html
import json
import os
import pathlib
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr

from blip_jax.demo import views
from blip_jax.demo.uploads import picture_of, pictures_of
from blip_jax.demo.work import MAX_CAPTIONS, Demo, ScoredText
from blip_jax.runtime.errors import UserError

MAX_WAITING = 64  # visitors' requests; further ones are refused
KEEP_FILES = 3600  # seconds, of what visitors upload
METHODS = {"beam search": "beam", "nucleus sampling": "sample"}


def build(demo: Demo) -> gr.Blocks:
    """Returns the page of the models."""
    with gr.Blocks(title="blip_jax", delete_cache=(KEEP_FILES, KEEP_FILES)) as page:
        gr.Markdown("# blip_jax\n" + "  \n".join(demo.described()))
        can = demo.models
        if "caption" in can:
            with gr.Tab("Caption"):
                _caption(demo)
        if "match" in can:
            with gr.Tab("Match"):
                _match(demo)
        if "answer" in can:
            with gr.Tab("Answer"):
                _answer(demo)
        with gr.Tab("Attention"):
            _attention(demo)
        with gr.Tab("Batch"):
            _batch(demo)
        if "match" in can:
            with gr.Tab("CapFilt"):
                _capfilt(demo)
    return page.queue(max_size=MAX_WAITING, default_concurrency_limit=2)


def with_messages(function: Callable) -> Callable:
    """Returns `function` whose UserErrors the page shows, as their one line."""

    @functools.wraps(function)
    def call(*arguments: Any) -> Any:
        try:
            return function(*arguments)
        except UserError as error:
            raise gr.Error(html.escape(str(error)), print_exception=False) from None

    return call


def _image() -> gr.Image:
    """Returns an image of which handlers get the path of the file as it was sent.

    Gradio would read it first, and print a traceback of what is no image. That the file was
    uploaded it has checked before.
    """
    image = gr.Image(type="filepath", label="image", sources=["upload"], height=300)
    image.preprocess = lambda payload: payload.path if payload else None
    return image


def _picture(path: str | None) -> Any:
    return picture_of({"path": path} if path else None)


def _caption(demo: Demo) -> None:
    with gr.Row():
        with gr.Column():
            image = _image()
            method = gr.Radio(list(METHODS), value="beam search", label="method")
            count = gr.Slider(1, MAX_CAPTIONS, 3, step=1, label="captions")
            beams = gr.Slider(1, MAX_CAPTIONS, 3, step=1, label="beams, of beam search")
            top_p = gr.Slider(0.05, 1, 0.9, step=0.05, label="top-p, of nucleus sampling")
            prompt = gr.Textbox(label="prompt", placeholder="the model's own")
            seed = gr.Number(0, precision=0, label="seed, of nucleus sampling")
            button = gr.Button("Caption", variant="primary")
        out = gr.HTML(label="captions")

    @with_messages
    def run(path, method, count, beams, top_p, prompt, seed):
        found = demo.captions(
            _picture(path), METHODS[method], int(count), int(beams), top_p, prompt, int(seed or 0)
        )
        return views.caption_table(found)

    button.click(run, [image, method, count, beams, top_p, prompt, seed], out, api_name="caption")


def _match(demo: Demo) -> None:
    with gr.Row():
        with gr.Column():
            image = _image()
            texts = gr.Textbox(label="texts, one a line", lines=4)
            button = gr.Button("Match", variant="primary")
        out = gr.HTML(label="scores")

    @with_messages
    def run(path, texts):
        return views.match_table(demo.match(_picture(path), texts))

    button.click(run, [image, texts], out, api_name="match")


def _answer(demo: Demo) -> None:
    with gr.Row():
        with gr.Column():
            image = _image()
            question = gr.Textbox(label="question")
            candidates = gr.Textbox(label="answers to choose from, one a line", lines=3)
            button = gr.Button("Answer", variant="primary")
        out = gr.HTML(label="answer")

    @with_messages
    def run(path, question, candidates):
        return views.answer_text(*demo.answer(_picture(path), question, candidates))

    button.click(run, [image, question, candidates], out, api_name="answer")


def _attention(demo: Demo) -> None:
    kinds = list(demo.models)
    with gr.Row():
        with gr.Column():
            image = _image()
            of = gr.Radio(kinds, value=kinds[0], label="what is explained")
            text = gr.Textbox(label="text or question; blank: the model's own caption")
            button = gr.Button("Show", variant="primary")
        out = gr.HTML(label="where the model looks")

    @with_messages
    def run(path, of, text):
        return demo.attention(_picture(path), of, text)._repr_html_()

    button.click(run, [image, of, text], out, api_name="attention")


def _batch(demo: Demo) -> None:
    tasks = list(demo.models)
    with gr.Row():
        files = gr.File(
            file_count="multiple", type="filepath", label="images, or zip archives of them"
        )
        folder = gr.File(file_count="directory", type="filepath", label="a folder of images")
    task = gr.Radio(tasks, value=tasks[0], label="task")
    text = gr.Textbox(label="text to match, or question")
    button = gr.Button("Run", variant="primary")
    table = gr.Dataframe(label="results", interactive=False, wrap=True)
    lines = gr.File(label="results as JSONL", interactive=False)

    def run(paths, of_folder, task, text) -> Iterator[tuple[dict, str | None]]:
        try:
            rows: list[dict] = []
            uploads = [{"path": x} for x in [*(paths or []), *(of_folder or [])]]
            for some in demo.batch(pictures_of(uploads), task, text):
                rows += some
                yield _columns(rows), None
        except UserError as error:
            raise gr.Error(html.escape(str(error)), print_exception=False) from None
        # Where Gradio keeps files, which it copies and serves; see server.py.
        out = pathlib.Path(tempfile.mkdtemp(dir=os.environ.get("GRADIO_TEMP_DIR")), "results.jsonl")
        out.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
        yield _columns(rows), str(out)

    button.click(run, [files, folder, task, text], [table, lines], api_name="batch")


def _columns(rows: list[dict]) -> dict:
    """Returns rows as Gradio's tables take them; what a row has not is blank."""
    heads = list(dict.fromkeys(name for row in rows for name in row))
    return {"headers": heads, "data": [[row.get(name, "") for name in heads] for row in rows]}


def _capfilt(demo: Demo) -> None:
    captions = "caption" in demo.models
    with gr.Row():
        with gr.Column():
            image = _image()
            texts = gr.Textbox(label="texts of the web, one a line", lines=4)
            count = gr.Slider(
                0, MAX_CAPTIONS, 2 if captions else 0, step=1, label="synthetic captions",
                visible=captions,
            )  # fmt: skip
            button = gr.Button("Score", variant="primary")
        with gr.Column():
            threshold = gr.Slider(0, 1, 0.5, step=0.01, label="threshold of P(match)")
            out = gr.HTML(label="texts")
    scored = gr.State([])

    @with_messages
    def run(path, texts, count, threshold):
        rows = demo.capfilt(_picture(path), texts, int(count))
        return rows, views.selection_table(rows, threshold)

    def select(rows: list[ScoredText], threshold: float) -> str:
        return views.selection_table(rows, threshold) if rows else ""

    button.click(run, [image, texts, count, threshold], [scored, out], api_name="capfilt")
    threshold.change(select, [scored, threshold], out, api_visibility="private")
