"""The endings of image files that are looked for, in folders, tars and lists alike."""

# HEIC is not decoded; it is here so that a folder of phone photos is not passed over in silence:
# such files are named, with what to do.
IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm",
    ".jp2", ".avif", ".heic", ".heif",
)  # fmt: skip
