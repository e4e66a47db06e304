"""Japanese texts of the Shapes dataset: statements about scenes as text, and back.

A text is one of

    PHRASES[がある]                       PHRASES (exist)
    BACKGROUND(に|の上に)PHRASES[がある]   on a BACKGROUND (exist) PHRASES
    PHRASESがあるBACKGROUND               a BACKGROUND where PHRASES exist
    PHRASES = PHRASE[とPHRASE]*           and
    PHRASE = [POSITIONの][SIZE]COLOUR[TEXTURE]SHAPE

There are no blanks and no articles; relations follow their nouns, the verb comes last, a clause
stands before the noun that it describes, and row and column are one word. Each adjective has its
ending before a noun: い, な or の. As in the English grammar each concept has several words, the
first the most frequent, and a text has at most one meaning.
"""

from __future__ import annotations

import re

import numpy as np

from blip_jax.data.synthetic.grammar import Phrase, Statement, draw_word

SHAPES = {
    "circle": ("丸", "円", "円形"),
    "square": ("四角", "正方形", "四角形"),
    "triangle": ("三角", "三角形"),
    "cross": ("十字", "十字形", "プラス"),
    "ring": ("輪", "リング", "ドーナツ"),
    "diamond": ("ひし形", "菱形", "ダイヤ"),
}
COLOURS = {
    "red": ("赤い", "真っ赤な", "紅色の"),
    "green": ("緑の", "緑色の", "エメラルド色の"),
    "blue": ("青い", "青色の", "紺色の"),
    "yellow": ("黄色い", "金色の", "レモン色の"),
    "purple": ("紫の", "紫色の", "すみれ色の"),
    "orange": ("オレンジの", "オレンジ色の", "橙色の"),
    "pink": ("ピンクの", "桃色の", "薔薇色の"),
    "cyan": ("水色の", "空色の", "シアンの"),
}
SIZES = {"small": ("小さい", "小さな", "小型の"), "large": ("大きい", "大きな", "巨大な")}
TEXTURES = {"plain": ("無地の", "単色の"), "striped": ("縞模様の", "しましまの")}
BACKGROUNDS = {
    "black": ("黒い", "暗い"),
    "gray": ("灰色の", "グレーの"),
    "brown": ("茶色の", "チョコレート色の"),
    "maroon": ("えんじ色の", "ワイン色の"),
}
POSITIONS = {
    ("top", "left"): ("左上", "左上隅"),
    ("top", "centre"): ("上中央", "中央上"),
    ("top", "right"): ("右上", "右上隅"),
    ("middle", "left"): ("左中央", "中央左"),
    ("middle", "centre"): ("真ん中", "中央"),
    ("middle", "right"): ("右中央", "中央右"),
    ("bottom", "left"): ("左下", "左下隅"),
    ("bottom", "centre"): ("下中央", "中央下"),
    ("bottom", "right"): ("右下", "右下隅"),
}
ATTRIBUTES = {"size": SIZES, "colour": COLOURS, "texture": TEXTURES, "shape": SHAPES}
BACKGROUND_NOUNS = ("背景", "バック")
PARTICLES = ("に", "の上に")  # after a background
AND, EXISTS, OF = "と", "がある", "の"  # no word holds the first
BOILERPLATE = (
    "ここをクリックして購入",
    "詳しくはこちら",
    "写真素材",
    "写真素材を無料ダウンロード",
    "送料無料",
    "最安値で送料無料",
    "画像はイメージです",
    "期間限定セール開催中",
    "商品一覧に戻る",
    "新着画像をもっと見る",
    "トップページ",
    "お気に入りに追加",
)

_CONCEPT = {
    name: {word: concept for concept, words in table.items() for word in words}
    for name, table in {**ATTRIBUTES, "position": POSITIONS, "background": BACKGROUNDS}.items()
}


def _one_of(words) -> str:
    return "(?:" + "|".join(map(re.escape, words)) + ")"


_PHRASE = re.compile(
    rf"(?:(?P<position>{_one_of(_CONCEPT['position'])}){OF})?"
    rf"(?P<size>{_one_of(_CONCEPT['size'])})?(?P<colour>{_one_of(_CONCEPT['colour'])})"
    rf"(?P<texture>{_one_of(_CONCEPT['texture'])})?(?P<shape>{_one_of(_CONCEPT['shape'])})"
)
_GROUND = rf"{_one_of(_CONCEPT['background'])})(?:{_one_of(BACKGROUND_NOUNS)})"
_FORMS = [
    re.compile(rf"(?:(?P<background>{_GROUND}{_one_of(PARTICLES)})?(?P<phrases>.+?)(?:{EXISTS})?"),
    re.compile(rf"(?P<phrases>.+){EXISTS}(?P<background>{_GROUND}"),
]


def _render_phrase(phrase: Phrase, rng: np.random.Generator) -> str:
    text = draw_word(POSITIONS[phrase.row, phrase.column], rng) + OF if phrase.row else ""
    for name, table in ATTRIBUTES.items():
        if concept := getattr(phrase, name):
            text += draw_word(table[concept], rng)
    return text


def render_text(statement: Statement, rng: np.random.Generator) -> str:
    """Returns the statement as one text, words drawn by `rng`; `parse_text` is the inverse.

    render_text(Statement((Phrase("ring", "red"),), "black"), rng) may be "黒い背景に赤い輪".
    """
    text = AND.join(_render_phrase(phrase, rng) for phrase in statement.phrases)
    exists = EXISTS if rng.random() < 0.5 else ""
    if not statement.background:
        return text + exists
    ground = draw_word(BACKGROUNDS[statement.background], rng) + draw_word(BACKGROUND_NOUNS, rng)
    if rng.random() < 0.3:
        return text + EXISTS + ground
    return ground + draw_word(PARTICLES, rng) + text + exists


def parse_text(text: str) -> Statement | None:
    """Returns what the text says; None if it is not a text of the grammar.

    Args:
      text: any string, for instance a model's output. Blanks around it do not matter, within it
        there are none.
    """
    for form in _FORMS:
        if found := form.fullmatch(text.strip()):
            phrases = [_parse_phrase(part) for part in found["phrases"].split(AND)]
            if None not in phrases:
                background = _CONCEPT["background"].get(found["background"], "")
                return Statement(tuple(phrases), background)
    return None


def _parse_phrase(text: str) -> Phrase | None:
    found = _PHRASE.fullmatch(text)
    if not found:
        return None
    said = {name: _CONCEPT[name].get(word, "") for name, word in found.groupdict().items()}
    row, column = said.pop("position") or ("", "")
    return Phrase(row=row, column=column, **said)
