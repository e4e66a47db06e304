"""Draws the shapes of the Shapes dataset. Coordinates are pixels of the mask."""

from __future__ import annotations

from PIL import Image, ImageDraw


def fill_shape(draw: ImageDraw.ImageDraw, shape: str, centre, radius: float) -> None:
    """Fills the shape with 255, inside the square of half-width `radius` around `centre`."""
    x, y, r = centre[0], centre[1], radius
    box = (x - r, y - r, x + r, y + r)
    if shape == "circle":
        draw.ellipse(box, fill=255)
    elif shape == "square":
        draw.rectangle((x - 0.9 * r, y - 0.9 * r, x + 0.9 * r, y + 0.9 * r), fill=255)
    elif shape == "triangle":
        draw.polygon([(x, y - r), (x + r, y + r), (x - r, y + r)], fill=255)
    elif shape == "cross":
        draw.rectangle((x - r / 3, y - r, x + r / 3, y + r), fill=255)
        draw.rectangle((x - r, y - r / 3, x + r, y + r / 3), fill=255)
    elif shape == "ring":
        draw.ellipse(box, fill=255)
        hole = 0.55 * r
        draw.ellipse((x - hole, y - hole, x + hole, y + hole), fill=0)
    else:  # diamond
        draw.polygon([(x, y - r), (x + 0.75 * r, y), (x, y + r), (x - 0.75 * r, y)], fill=255)


def stripe(mask: Image.Image, period: int) -> None:
    """Cuts horizontal bands out of the mask, so that the background shows through."""
    draw = ImageDraw.Draw(mask)
    for top in range(0, mask.height, 2 * period):
        draw.rectangle((0, top, mask.width, top + period - 1), fill=0)
