"""Uses the programs in this folder: captions by greedy decoding, matches, answers.

python usage.py caption IMAGE ...
python usage.py match IMAGE --text TEXT ...     P(match) and cosine of each text
python usage.py answer IMAGE --text QUESTION

It needs NumPy, and JAX with flatbuffers (NAME.stablehlo) or ONNX Runtime (NAME.onnx). Images are
files that Pillow reads, or .npy, uint8 [image_size, image_size, 3].

B images or texts, T tokens, L layers, V vocabulary.
"""

import argparse
import functools
import json
import pathlib
import re
import unicodedata

import numpy as np

FOLDER = pathlib.Path(__file__).resolve().parent
MODEL = json.loads((FOLDER / "programs.json").read_text("utf-8"))
TOKENS = MODEL["tokens"]  # ids of [PAD], [CLS], [SEP], [DEC] and [ENC]
VOCABULARY = (FOLDER / "vocab.txt").read_text("utf-8").splitlines()
IDS = {word: number for number, word in enumerate(VOCABULARY)}
PUNCTUATION = re.compile(r'[.!"()*#:;~]')  # which training removed
LONGEST_WORD = 100  # characters, as in BERT's tokenizer
# Blocks of Unicode with CJK characters.
CJK = ((0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x2CEAF), (0x2F800, 0x2FA1F))
LOWER_CASE = json.loads((FOLDER / "tokenizer_config.json").read_text("utf-8"))["do_lower_case"]


@functools.cache
def params():
    """Returns the parameters that StableHLO programs share, on the device."""
    import jax

    return jax.device_put(dict(np.load(FOLDER / "params.npz")))


@functools.cache
def program(name):
    """Returns a program: a function of the arrays that programs.json lists to a list of arrays."""
    inputs = MODEL["programs"][name]["inputs"]
    if MODEL["format"] == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(FOLDER / f"{name}.onnx")
        return lambda *arrays: session.run(None, dict(zip(inputs, arrays)))
    import jax
    import jax.export

    exported = jax.export.deserialize(bytearray((FOLDER / f"{name}.stablehlo").read_bytes()))
    call = jax.jit(exported.call)  # compiles at the first call of each batch size
    return lambda *arrays: [np.asarray(x) for x in call(params(), *arrays)]


def read_images(paths):
    """Returns images as uint8 [B, S, S, 3]."""
    size = MODEL["image_size"]
    pictures = []
    for path in paths:
        if path.endswith(".npy"):
            pictures.append(np.load(path))
            continue
        from PIL import Image, ImageOps

        image = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
        pictures.append(np.asarray(image.resize((size, size), Image.Resampling.BICUBIC)))
    return np.stack(pictures)


def encode(texts):
    """Returns ids int32 [B, T] and mask bool [B, T]: WordPiece, the longest pieces first."""
    rows = []
    for text in texts:
        ids = [piece for word in split_words(text) for piece in word_pieces(word)]
        rows.append([TOKENS["cls"], *ids[: MODEL["max_length"] - 2], TOKENS["sep"]])
    length = max(map(len, rows))
    ids = np.array([row + [TOKENS["pad"]] * (length - len(row)) for row in rows], np.int32)
    return ids, np.arange(length) < np.array([[len(row)] for row in rows])


def split_words(text):
    """Returns the words of a text as BERT splits it: punctuation and CJK characters by themselves.

    In lower case letters lose their accents.
    """
    if LOWER_CASE:
        letters = unicodedata.normalize("NFD", text.lower())
        text = "".join(x for x in letters if unicodedata.category(x) != "Mn")
    spaced = (f" {x} " if is_separate(x) else x for x in text if x in "\t\n\r" or is_visible(x))
    return "".join(spaced).split()


def is_visible(character):
    """Returns whether a character is none of the controls and formats, which BERT drops."""
    return unicodedata.category(character)[0] != "C" and character != "\ufffd"


def is_separate(character):
    """Returns whether a character is a word by itself."""
    if character.isascii():
        return not character.isalnum() and not character.isspace()
    if unicodedata.category(character)[0] == "P":
        return True
    code = ord(character)
    return any(first <= code <= last for first, last in CJK)


def word_pieces(word):
    """Returns the ids of a word's pieces; a word that has none, or is too long, is [UNK]."""
    if len(word) > LONGEST_WORD:
        return [IDS["[UNK]"]]
    found, start = [], 0
    while start < len(word):
        prefix = "##" if start else ""
        ends = range(len(word), start, -1)
        end = next((end for end in ends if prefix + word[start:end] in IDS), None)
        if end is None:
            return [IDS["[UNK]"]]
        found.append(IDS[prefix + word[start:end]])
        start = end
    return found


def decode(tokens):
    """Returns the text of one row of generated tokens, up to [SEP]."""
    words = [VOCABULARY[i] for i in until_end(tokens) if i < len(VOCABULARY)]
    return " ".join(word for word in words if word[0] != "[" or word == "[UNK]").replace(" ##", "")


def until_end(tokens):
    """Returns the tokens before [SEP]."""
    tokens = list(tokens)
    return tokens[: tokens.index(TOKENS["sep"])] if TOKENS["sep"] in tokens else tokens


def generate(context, prompt, min_length, max_length, context_mask=()):
    """Returns the likeliest tokens, one after the other: int32 [B, max_length], padded.

    Args:
      context: keys and values of what texts read, from the program decoder_context.
      prompt: ids that each text begins with.
      min_length, max_length: tokens of a text, the prompt counted.
      context_mask: of VQA models, (bool [B, T],) of the question.
    """
    step = program("decoder_step")
    rows = context[0].shape[1]
    sizes = MODEL["programs"]["decoder_step"]["inputs"]["cache_key"]["shape"]
    named = {"batch": rows, "length": max_length}
    cache = [np.zeros([named.get(size, size) for size in sizes], np.float32)] * 2
    tokens = np.full((rows, max_length), TOKENS["pad"], np.int32)
    tokens[:, : len(prompt)] = prompt
    done = np.zeros(rows, bool)
    for index in range(max_length - 1):
        newest = tokens[:, index : index + 1]
        logits, *cache = step(newest, np.array(index, np.int32), *context, *cache, *context_mask)
        if index + 1 < len(prompt):
            continue
        logits = np.array(logits)  # a copy that can be written to
        if index + 1 < min_length:
            logits[:, TOKENS["sep"]] = -np.inf
        chosen = logits.argmax(axis=-1)
        tokens[:, index + 1] = np.where(done, TOKENS["pad"], chosen)
        done |= chosen == TOKENS["sep"]
        if done.all():
            break
    return tokens


def caption(images, min_length=5, max_length=20):
    """Returns captions of images uint8 [B, S, S, 3], without the model's prompt."""
    image_tokens = program("image_encoder")(images)[0]
    prompt = MODEL["prompt_tokens"]
    found = generate(program("decoder_context")(image_tokens), prompt, min_length, max_length)
    return [decode(row[len(prompt) :]) for row in found]


def answer(images, questions, max_length=10):
    """Returns the answer to a question about each image."""
    ids, mask = encode([PUNCTUATION.sub("", question) for question in questions])
    image_tokens = program("image_encoder")(images)[0]
    context = program("decoder_context")(image_tokens, ids, mask)
    takes_mask = "context_mask" in MODEL["programs"]["decoder_step"]["inputs"]
    found = generate(context, [TOKENS["dec"]], 1, max_length, (mask,) if takes_mask else ())
    return [decode(row[1:]) for row in found]


def match(images, texts):
    """Returns P(match) float [B], None where the model has no ITM, and cosine [B], of each pair."""
    ids, mask = encode([PUNCTUATION.sub(" ", text) for text in texts])
    image_tokens, *features = program("image_encoder")(images)
    cosine = (features[0] * program("text_encoder")(ids, mask)[0]).sum(-1)
    if "matcher" not in MODEL["programs"]:
        return None, cosine
    logits = program("matcher")(image_tokens, ids, mask)[0].astype(np.float64)
    return 1 / (1 + np.exp(logits[:, 0] - logits[:, 1])), cosine


def main():
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("use", choices=MODEL["uses"])
    parser.add_argument("images", nargs="+", metavar="IMAGE")
    parser.add_argument("--text", action="append", default=[], help="of match, answer; repeatable")
    args = parser.parse_args()
    if args.use != "caption" and not args.text:
        parser.error(f"{args.use} needs --text")
    for path in args.images:
        images = np.repeat(read_images([path]), max(len(args.text), 1), axis=0)
        if args.use == "match":
            probability, cosine = match(images, args.text)
            for row, text in enumerate(args.text):
                itm = "" if probability is None else f"P(match) {probability[row]:.6f}  "
                print(f"{path}: {itm}cosine {cosine[row]:.6f}  {text}")
            continue
        found = caption(images) if args.use == "caption" else answer(images, args.text)
        print(*(f"{path}: {text}" for text in found), sep="\n")


if __name__ == "__main__":
    main()
